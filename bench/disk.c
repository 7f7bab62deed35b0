/* SPDX-License-Identifier: MIT */
/* The client of bench/blk: connect, one queue, slots of header, block and status. */
#include "disk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <virtq/blk.h>
#include <virtq/notify.h>
#include <virtq/spec/virtio.h>
#include <virtq/vhost_user.h>

#define MEMORY_GPA 0x100000u
#define PAGE 4096u
#define ELEMENTS 3u		/* header, block, status */
#define STATUS_UNSET 0xff
#define STALL_S 10
#define STALL_POLLS (1u << 22)

/* What lies before the blocks in shared memory, for each slot a line, as in a guest's driver. */
struct slot_shared {
	_Alignas(64) struct virtq_blk_req_hdr header;
	uint8_t status;
};

struct disk {
	struct disk_options options;
	uint64_t blocks;
	struct virtq_mapping *memory;
	struct virtq_map *map;
	struct virtq_transport *transport;
	struct virtq_driver *driver;
	int kick_fd, call_fd;
	struct disk_counts counts;
	struct slot_shared *shared;
	uint8_t *data;
	uint32_t expect;		/* length with which every transfer comes back */
	uint32_t block_sectors;
	struct virtq_seg segs[DISK_DEPTH_MAX][ELEMENTS];
	struct virtq_buffer bufs[DISK_DEPTH_MAX];	/* of the slots */
	struct virtq_buffer batch[DISK_DEPTH_MAX];
	struct virtq_completion done[DISK_DEPTH_MAX];
};

__attribute__((format(printf, 3, 4)))
static int fail(struct virtq_error *err, int code, const char *format, ...)
{
	va_list args;

	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

/* ---- Set-up ------------------------------------------------------------- */

static int negotiate(struct disk *disk, struct virtq_features *accepted, struct virtq_error *err)
{
	static const unsigned int wanted[] = { VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX };
	struct virtq_features offered = virtq_transport_offered(disk->transport);
	uint8_t raw[sizeof(struct virtq_blk_config_le)] = { 0 };
	struct virtq_features features = { { 0 } };
	struct virtq_blk_config config;
	int rc;

	for (unsigned int i = 0; i < 2; i++)
		if (virtq_features_has(offered, wanted[i]))
			features = virtq_features_with(features, wanted[i]);
	if (disk->options.packed)
		features = virtq_features_with(features, VIRTIO_F_RING_PACKED);
	if (disk->options.indirect)
		features = virtq_features_with(features, VIRTIO_F_INDIRECT_DESC);
	if (!virtq_features_subset(features, offered))
		return fail(err, -ENOTSUP, "the device does not offer %s",
			    virtq_features_has(offered, VIRTIO_F_RING_PACKED) ||
			    !disk->options.packed ? "indirect descriptors" : "the packed layout");
	rc = virtq_transport_accept(disk->transport, features, err);
	if (!rc)
		/* The capacity, and no more: what follows depends on the back end. */
		rc = virtq_transport_config_read(disk->transport, 0, raw, 8, err);
	if (rc)
		return rc;
	rc = virtq_blk_config_decode(&config, raw, 8, features);
	if (rc)
		return fail(err, rc, "the device shows no capacity");
	disk->blocks = config.capacity_sectors /
		       (disk->options.block_bytes / VIRTQ_BLK_SECTOR_BYTES);
	if (!disk->blocks)
		return fail(err, -EINVAL, "the disk is smaller than one block of %u bytes",
			    disk->options.block_bytes);
	*accepted = features;
	return 0;
}

static size_t pages(size_t bytes)
{
	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* One piece of shared memory: ring, indirect tables, headers and status bytes, blocks. */
static int lay_out(struct disk *disk, struct virtq_features features,
		   struct virtq_driver_config *config, struct virtq_error *err)
{
	const struct disk_options *o = &disk->options;
	struct virtq_region region;
	struct virtq_ring_shape shape;
	size_t tables, shared, data;
	uint8_t *host;
	int rc = virtq_ring_shape(features, o->queue_size, &shape);

	if (rc)
		return fail(err, rc, "no ring of that layout has %u entries", o->queue_size);
	tables = pages(shape.total_bytes);
	shared = tables + pages((size_t)o->queue_size * ELEMENTS * 16);
	data = shared + pages(o->depth * sizeof(struct slot_shared));
	rc = virtq_mapping_create(&disk->memory, data + (size_t)o->depth * o->block_bytes, err);
	if (rc)
		return rc;
	host = virtq_mapping_host(disk->memory);
	region = (struct virtq_region){ .gpa = MEMORY_GPA,
		.size_bytes = virtq_mapping_bytes(disk->memory), .host = host,
		.user = (uintptr_t)host, .fd = virtq_mapping_fd(disk->memory),
		.access = VIRTQ_ACCESS_RW, .mapping = disk->memory };
	rc = virtq_map_create(&disk->map, &region, 1, err);
	if (rc)
		return rc;
	disk->shared = (struct slot_shared *)(void *)(host + shared);
	disk->data = host + data;
	for (unsigned int i = 0; i < o->depth; i++) {
		uint64_t gpa = MEMORY_GPA + shared + i * sizeof(struct slot_shared);
		struct virtq_seg *segs = disk->segs[i];

		segs[0].addr = gpa + offsetof(struct slot_shared, header);
		segs[0].len = sizeof(struct virtq_blk_req_hdr);
		segs[1].addr = MEMORY_GPA + data + (uint64_t)i * o->block_bytes;
		segs[1].len = o->block_bytes;
		segs[2].addr = gpa + offsetof(struct slot_shared, status);
		segs[2].len = 1;
		disk->bufs[i] = (struct virtq_buffer){
			.segs = segs, .readable = o->write ? 2 : 1, .writable = o->write ? 1 : 2,
			.token = (void *)(uintptr_t)i,
		};
		virtq_blk_header(&disk->shared[i].header,
				 o->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0);
	}
	disk->expect = o->write ? 1 : o->block_bytes + 1;
	disk->block_sectors = o->block_bytes / VIRTQ_BLK_SECTOR_BYTES;
	config->ring = (struct virtq_ring){ .features = features, .size = o->queue_size,
		.desc = host, .driver = host + shape.driver_offset,
		.device = host + shape.device_offset };
	if (o->indirect) {
		config->indirect = host + tables;
		config->indirect_addr = MEMORY_GPA + tables;
		config->indirect_entries = ELEMENTS;
	}
	return 0;
}

int disk_open(struct disk **out, const struct disk_options *options, struct virtq_error *err)
{
	struct virtq_driver_config config = { 0 };
	struct virtq_features features = { { 0 } };
	struct disk *disk = calloc(1, sizeof(*disk));
	int rc;

	if (!disk)
		return fail(err, -ENOMEM, "no memory");
	disk->options = *options;
	disk->kick_fd = virtq_notify_open();
	disk->call_fd = virtq_notify_open();
	rc = virtq_vhost_user_connect(&disk->transport, options->socket_path, 0, err);
	if (!rc)
		rc = negotiate(disk, &features, err);
	if (!rc)
		rc = lay_out(disk, features, &config, err);
	if (!rc)
		rc = virtq_transport_share(disk->transport, disk->map, err);
	if (!rc)
		rc = virtq_driver_create(&disk->driver, &config, err);
	if (!rc && !options->notify)
		virtq_driver_disarm(disk->driver);
	/* Back ends that are never kicked do not look, so a kick fd there is in any case. */
	if (!rc)
		rc = virtq_transport_start(disk->transport, 0, disk->driver, disk->kick_fd,
					   disk->call_fd, err);
	if (rc) {
		disk_close(disk);
		return rc;
	}
	*out = disk;
	return 0;
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	virtq_transport_close(disk->transport);
	virtq_driver_destroy(disk->driver);
	virtq_map_unref(disk->map);
	virtq_mapping_unref(disk->memory);
	if (disk->kick_fd >= 0)
		close(disk->kick_fd);
	if (disk->call_fd >= 0)
		close(disk->call_fd);
	free(disk);
}

uint64_t disk_blocks(const struct disk *disk)
{
	return disk->blocks;
}

void *disk_data(const struct disk *disk, unsigned int slot)
{
	return disk->data + (size_t)slot * disk->options.block_bytes;
}

struct disk_counts disk_counts(const struct disk *disk)
{
	return disk->counts;
}

/* ---- Transfers ---------------------------------------------------------- */

int disk_send(struct disk *disk, const unsigned int *slots, const uint64_t *blocks,
	      unsigned int count)
{
	uint32_t type = disk->options.write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	int rc;

	for (unsigned int i = 0; i < count; i++) {
		struct slot_shared *shared = &disk->shared[slots[i]];

		virtq_blk_header(&shared->header, type, blocks[i] * disk->block_sectors);
		shared->status = STATUS_UNSET;
		disk->batch[i] = disk->bufs[slots[i]];
	}
	rc = virtq_driver_add(disk->driver, disk->batch, count);
	if (rc != (int)count)
		return rc < 0 ? rc : -ENOSPC;
	if (!virtq_driver_publish(disk->driver))
		return 0;
	disk->counts.kicks++;
	return virtq_notify_send(disk->kick_fd);
}

static int64_t now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static int lost(struct disk *disk, struct virtq_error *err)
{
	if (!virtq_transport_alive(disk->transport))
		return fail(err, -ECONNRESET, "the back end closed the connection");
	return fail(err, -ETIMEDOUT, "no request came back for %d s", STALL_S);
}

static int wait_polling(struct disk *disk, struct virtq_completion *done, unsigned int max,
			struct virtq_error *err)
{
	int64_t since = 0;
	unsigned int polls = 0;

	for (;;) {
		int n = virtq_driver_get(disk->driver, done, max);

		if (n)
			return n;
		if (++polls < STALL_POLLS)
			continue;
		polls = 0;
		if (!since)
			since = now_s();
		if (now_s() - since > STALL_S || !virtq_transport_alive(disk->transport))
			return lost(disk, err);
	}
}

static int wait_called(struct disk *disk, struct virtq_completion *done, unsigned int max,
		       struct virtq_error *err)
{
	for (;;) {
		int n = virtq_driver_get(disk->driver, done, max);

		if (n)
			return n;
		if (virtq_driver_arm(disk->driver))
			continue;
		n = virtq_notify_wait(disk->call_fd, STALL_S * 1000);
		if (n < 0 && n != -EINTR)
			return fail(err, n, "cannot wait for a call: %s", strerror(-n));
		if (!n)
			return lost(disk, err);
		disk->counts.calls += n > 0;
		virtq_driver_disarm(disk->driver);
	}
}

int disk_take(struct disk *disk, unsigned int *slots, unsigned int max, struct virtq_error *err)
{
	struct virtq_completion *done = disk->done;
	int n;

	if (max > DISK_DEPTH_MAX)
		max = DISK_DEPTH_MAX;
	n = disk->options.notify ? wait_called(disk, done, max, err) :
				   wait_polling(disk, done, max, err);
	if (n == -EBADMSG)
		return fail(err, n, "the device broke the ring: %s",
			    virtq_fault_text(virtq_driver_fault(disk->driver).code));
	for (int i = 0; i < n; i++) {
		unsigned int slot = (unsigned int)(uintptr_t)done[i].token;
		/* UNTRUSTED, but only ours to look at: what it says ends the run. */
		uint8_t status = *(volatile uint8_t *)&disk->shared[slot].status;

		if (status != VIRTIO_BLK_S_OK)
			return fail(err, -EIO, "a request came back with status %u", status);
		if (done[i].written != disk->expect)
			return fail(err, -EPROTO,
				    "a request of %u writable bytes came back with a length of %u",
				    disk->expect, done[i].written);
		slots[i] = slot;
	}
	return n;
}
