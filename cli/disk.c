/* SPDX-License-Identifier: MIT */
/* A block device at the driver end: negotiation, memory, requests. */
#include "disk.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <virtq/virtq.h>

#include "report.h"

/* Addresses for the device: unlike any pointer, so that a mix-up fails at once. */
#define DISK_CONTROL_GPA 0x100000u
#define DISK_DATA_GPA 0x1000000000u

#define DISK_DATA_SEGS_MAX 64	/* per request, if the device wants small segments */
#define DISK_QUEUE_DEFAULT 128
#define DISK_QUEUE_DEFAULT_MAX 1024
#define DISK_BATCH 32
#define DISK_TIMEOUT_MS 10000
#define DISK_WAIT_MS 200
/* A flush is one request, and may have gigabytes to write. */
#define DISK_FLUSH_PATIENCE 10

/* The part of a request that the device sees beside the data, on its own cache line. */
struct disk_record {
	struct virtq_blk_req_hdr header;
	uint8_t status;
	uint8_t unused[64 - sizeof(struct virtq_blk_req_hdr) - 1];
};

/* The part that it does not see. */
struct disk_slot {
	uint32_t type;
	uint32_t len;
	uint64_t offset_bytes;
	uint64_t age;		/* in the order of preparation; 0 when idle */
	uint16_t readable, writable;
	struct virtq_seg *segs;
};

struct disk {
	const char *name;
	struct virtq_transport *transport;
	struct virtq_features features;		/* accepted */
	struct virtq_blk_config config;

	struct virtq_mapping *control;		/* ring, indirect tables, records */
	struct virtq_map *map;
	struct virtq_driver *queue;
	struct disk_record *records;
	uint64_t records_gpa;
	int kick_fd, call_fd;

	unsigned int slots;			/* the caller's, and one more for FLUSH */
	uint32_t slot_bytes;
	uint32_t seg_bytes_max;
	struct disk_slot *slot;
	struct virtq_seg *segs;
	unsigned int *waiting;			/* prepared, not yet in the ring: a circle */
	unsigned int waiting_first, waiting_count;
	unsigned int busy;
	uint64_t prepared;			/* ever, to tell the oldest request */
	uint64_t timeout_ns;			/* 0 to wait for ever */
	uint64_t waited_ns;			/* since something was completed */
	struct disk_stats stats;
};

/* ---- Opening. ---- */

static bool disk_has(const struct disk *d, unsigned int bit)
{
	return virtq_features_has(d->features, bit);
}

static int disk_negotiate(struct disk *d, enum disk_layout layout, struct virtq_error *err)
{
	static const unsigned int wanted[] = {
		VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC,
		VIRTIO_F_RING_PACKED, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX,
		VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_FLUSH,
	};
	struct virtq_features offered = virtq_transport_offered(d->transport);
	struct virtq_features ours = { { 0, 0 } };
	struct virtq_error why = { 0 };
	unsigned int i;
	int rc;

	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		ours = virtq_features_with(ours, wanted[i]);
	if (!virtq_features_has(offered, VIRTIO_F_VERSION_1))
		return report_into(err, -ENOTSUP, "%s offers no VERSION_1 and is too old for this tool",
				   d->name);
	if (layout == DISK_PACKED && !virtq_features_has(offered, VIRTIO_F_RING_PACKED))
		return report_into(err, -ENOTSUP, "%s offers no packed rings", d->name);
	if (layout == DISK_SPLIT)
		ours = virtq_features_without(ours, VIRTIO_F_RING_PACKED);
	d->features = virtq_features_and(ours, offered);
	rc = virtq_transport_accept(d->transport, d->features, &why);
	if (rc < 0)
		return report_into(err, rc, "%s does not agree on features: %s", d->name, why.text);
	return 0;
}

/* UNTRUSTED: numbers that a device could choose to make us compute nonsense. */
static int disk_check_config(const struct disk *d, struct virtq_error *err)
{
	const struct virtq_blk_config *c = &d->config;

	if (c->capacity_sectors > INT64_MAX / VIRTQ_BLK_SECTOR_BYTES)
		return report_into(err, -EPROTO, "%s claims an impossible capacity of %llu sectors",
				   d->name, (unsigned long long)c->capacity_sectors);
	if (disk_has(d, VIRTIO_BLK_F_BLK_SIZE) &&
	    (c->blk_size_bytes < VIRTQ_BLK_SECTOR_BYTES || c->blk_size_bytes > 1u << 24 ||
	     (c->blk_size_bytes & (c->blk_size_bytes - 1))))
		return report_into(err, -EPROTO, "%s claims an impossible block size of %u bytes",
				   d->name, c->blk_size_bytes);
	if (disk_request_bytes_max(d) < disk_block_bytes(d))
		return report_into(err, -EPROTO, "%s takes no request that holds a whole block",
				   d->name);
	return 0;
}

static int disk_configure(struct disk *d, struct virtq_error *err)
{
	/* Up to and including the last field that was accepted. */
	unsigned char raw[offsetof(struct virtq_blk_config_le, physical_block_exp)];
	struct virtq_error why = { 0 };
	int rc;

	rc = virtq_transport_config_read(d->transport, 0, raw, sizeof(raw), &why);
	if (rc < 0)
		return report_into(err, rc, "%s does not tell its capacity: %s", d->name, why.text);
	rc = virtq_blk_config_decode(&d->config, raw, sizeof(raw), d->features);
	if (rc < 0)
		return report_into(err, rc, "%s does not tell its capacity", d->name);
	return disk_check_config(d, err);
}

int disk_open(struct disk **out, const char *name, const char *socket, enum disk_layout layout,
	      struct virtq_error *err)
{
	struct virtq_error why = { 0 };
	struct disk *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return report_into(err, -ENOMEM, "no memory for %s", name);
	d->name = name;
	d->kick_fd = d->call_fd = -1;
	rc = virtq_vhost_user_connect(&d->transport, socket, DISK_TIMEOUT_MS, &why);
	if (rc < 0)
		report_into(err, rc, "%s%s%s", report_mentions(why.text, socket) ? "" : name,
			    report_mentions(why.text, socket) ? "" : ": ", why.text);
	else
		rc = disk_negotiate(d, layout, err);
	if (rc == 0)
		rc = disk_configure(d, err);
	if (rc < 0) {
		disk_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

/* ---- What it is. ---- */

uint64_t disk_bytes(const struct disk *d)
{
	return d->config.capacity_sectors * VIRTQ_BLK_SECTOR_BYTES;
}

uint32_t disk_block_bytes(const struct disk *d)
{
	return disk_has(d, VIRTIO_BLK_F_BLK_SIZE) ? d->config.blk_size_bytes :
						    VIRTQ_BLK_SECTOR_BYTES;
}

/*
 * The limits of BLK-DRV-020. Some back ends offer the feature bits and leave
 * the fields 0, which would forbid every request: qemu-storage-daemon does so
 * with size_max. No limit is named then.
 */
static uint32_t disk_seg_bytes_max(const struct disk *d)
{
	if (disk_has(d, VIRTIO_BLK_F_SIZE_MAX) && d->config.size_max_bytes)
		return d->config.size_max_bytes;
	return UINT32_MAX;
}

static uint32_t disk_data_segs_max(const struct disk *d)
{
	if (disk_has(d, VIRTIO_BLK_F_SEG_MAX) && d->config.seg_max &&
	    d->config.seg_max < DISK_DATA_SEGS_MAX)
		return d->config.seg_max;
	return DISK_DATA_SEGS_MAX;
}

uint32_t disk_request_bytes_max(const struct disk *d)
{
	uint64_t bytes = (uint64_t)disk_seg_bytes_max(d) * disk_data_segs_max(d);

	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

bool disk_read_only(const struct disk *d)
{
	return disk_has(d, VIRTIO_BLK_F_RO);
}

bool disk_can_flush(const struct disk *d)
{
	return disk_has(d, VIRTIO_BLK_F_FLUSH);
}

const char *disk_layout_name(const struct disk *d)
{
	return disk_has(d, VIRTIO_F_RING_PACKED) ? "packed" : "split";
}

struct disk_stats disk_stats(const struct disk *d)
{
	return d->stats;
}

/* ---- Starting. ---- */

static uint64_t disk_round_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) / alignment * alignment;
}

/* A size that holds every slot at once, but not more than devices commonly take. */
static uint32_t disk_choose_queue_size(const struct disk *d, uint32_t chain)
{
	uint64_t entries = d->slots;
	uint32_t size = DISK_QUEUE_DEFAULT;

	if (!disk_has(d, VIRTIO_F_INDIRECT_DESC))
		entries *= chain;
	while (size < DISK_QUEUE_DEFAULT_MAX && size < entries)
		size *= 2;
	return size;
}

/* The memory that both sides see, as the device and the transport shall know it. */
static int disk_map_memory(struct disk *d, struct virtq_mapping *data, struct virtq_error *err)
{
	struct virtq_mapping *const mappings[] = { d->control, data };
	static const uint64_t gpas[] = { DISK_CONTROL_GPA, DISK_DATA_GPA };
	struct virtq_region regions[2];
	unsigned int i;
	int rc;

	for (i = 0; i < 2; i++)
		regions[i] = (struct virtq_region){
			.gpa = gpas[i],
			.size_bytes = virtq_mapping_bytes(mappings[i]),
			.host = virtq_mapping_host(mappings[i]),
			.user = (uintptr_t)virtq_mapping_host(mappings[i]),
			.fd = virtq_mapping_fd(mappings[i]),
			.access = VIRTQ_ACCESS_RW,
			.mapping = mappings[i],
		};
	rc = virtq_map_create(&d->map, regions, 2, err);
	return rc < 0 ? rc : virtq_transport_share(d->transport, d->map, err);
}

static int disk_build(struct disk *d, struct virtq_mapping *data, uint32_t queue_size,
		      struct virtq_error *err)
{
	struct virtq_driver_config config = { .ring = { .features = d->features } };
	uint32_t data_segs = (d->slot_bytes - 1) / d->seg_bytes_max + 1;
	uint64_t indirect_at, records_at, bytes;
	struct virtq_ring_shape shape;
	unsigned char *host;
	unsigned int i;
	int rc;

	d->slot = calloc(d->slots, sizeof(*d->slot));
	d->waiting = calloc(d->slots, sizeof(*d->waiting));
	d->segs = calloc((size_t)d->slots * (data_segs + 2), sizeof(*d->segs));
	if (!d->slot || !d->waiting || !d->segs)
		return report_into(err, -ENOMEM, "no memory for %u requests", d->slots);
	for (i = 0; i < d->slots; i++)
		d->slot[i].segs = d->segs + (size_t)i * (data_segs + 2);

	config.ring.size = queue_size ? queue_size : disk_choose_queue_size(d, data_segs + 2);
	rc = virtq_ring_shape(d->features, config.ring.size, &shape);
	if (rc < 0)
		return report_into(err, rc, "a %s ring of %u entries cannot be", disk_layout_name(d),
				   config.ring.size);
	/* A chain may not be longer than the ring, indirect or not (S-DRV-014). */
	if (config.ring.size < data_segs + 2)
		return report_into(err, -EINVAL,
				   "a queue of %u entries is too small for requests of %u elements",
				   config.ring.size, data_segs + 2);
	config.indirect_entries = disk_has(d, VIRTIO_F_INDIRECT_DESC) ? data_segs + 2 : 0;

	indirect_at = disk_round_up(shape.total_bytes, 64);
	records_at = disk_round_up(indirect_at + (uint64_t)config.ring.size *
				   config.indirect_entries * 16, 64);
	bytes = records_at + d->slots * sizeof(struct disk_record);
	rc = virtq_mapping_create(&d->control, bytes, err);
	if (rc < 0)
		return rc;
	host = virtq_mapping_host(d->control);
	config.ring.desc = host;
	config.ring.driver = host + shape.driver_offset;
	config.ring.device = host + shape.device_offset;
	if (config.indirect_entries) {
		config.indirect = host + indirect_at;
		config.indirect_addr = DISK_CONTROL_GPA + indirect_at;
	}
	d->records = (struct disk_record *)(void *)(host + records_at);
	d->records_gpa = DISK_CONTROL_GPA + records_at;
	rc = disk_map_memory(d, data, err);
	return rc < 0 ? rc : virtq_driver_create(&d->queue, &config, err);
}

int disk_start(struct disk *d, struct virtq_mapping *data, unsigned int slots,
	       uint32_t slot_bytes, uint32_t queue_size, struct virtq_error *err)
{
	struct virtq_error why = { 0 };
	int rc;

	d->slots = slots + 1;
	d->slot_bytes = slot_bytes;
	d->seg_bytes_max = disk_seg_bytes_max(d);
	rc = disk_build(d, data, queue_size, &why);
	if (rc == 0)
		rc = d->kick_fd = virtq_notify_open();
	if (rc >= 0)
		rc = d->call_fd = virtq_notify_open();
	if (rc >= 0) {
		rc = virtq_transport_start(d->transport, 0, d->queue, d->kick_fd, d->call_fd, &why);
		/* The calls that come while we are busy anyway would be for nothing. */
		virtq_driver_disarm(d->queue);
	} else if (!why.code) {
		report_into_errno(&why, rc, "cannot make an eventfd");
	}
	if (rc < 0 && d->queue)
		return report_into(err, rc, "%s cannot be started with a queue of %u entries: %s",
				   d->name, virtq_driver_ring(d->queue)->size, why.text);
	return rc < 0 ? report_into(err, rc, "%s cannot be started: %s", d->name, why.text) : 0;
}

/* ---- Requests. ---- */

static void disk_seg(struct disk_slot *slot, unsigned int *count, uint64_t gpa, uint32_t len)
{
	slot->segs[(*count)++] = (struct virtq_seg){ .addr = gpa, .len = len };
}

static void disk_enqueue(struct disk *d, unsigned int index)
{
	d->waiting[(d->waiting_first + d->waiting_count++) % d->slots] = index;
	d->busy++;
}

void disk_prepare(struct disk *d, unsigned int slot, uint32_t type, uint64_t offset_bytes,
		  uint32_t len)
{
	uint64_t record_gpa = d->records_gpa + slot * sizeof(struct disk_record);
	uint64_t data_gpa = DISK_DATA_GPA + (uint64_t)slot * d->slot_bytes;
	struct disk_record *record = &d->records[slot];
	struct disk_slot *s = &d->slot[slot];
	unsigned int segs = 0;
	uint32_t done, part;

	s->type = type;
	s->len = len;
	s->offset_bytes = offset_bytes;
	s->age = ++d->prepared;
	virtq_blk_header(&record->header, type, offset_bytes / VIRTQ_BLK_SECTOR_BYTES);
	record->status = 0xff;		/* no status of the standard's: shows one never written */

	disk_seg(s, &segs, record_gpa, sizeof(record->header));
	for (done = 0; done < len; done += part) {
		part = len - done < d->seg_bytes_max ? len - done : d->seg_bytes_max;
		disk_seg(s, &segs, data_gpa + done, part);
	}
	disk_seg(s, &segs, record_gpa + offsetof(struct disk_record, status), 1);
	s->readable = (uint16_t)(type == VIRTIO_BLK_T_IN ? 1 : segs - 1);
	s->writable = (uint16_t)(segs - s->readable);
	disk_enqueue(d, slot);
}

static int disk_broken(const struct disk *d, struct virtq_error *err)
{
	return report_into(err, -EBADMSG, "%s broke the ring: %s", d->name,
			   virtq_fault_text(virtq_driver_fault(d->queue).code));
}

int disk_push(struct disk *d, struct virtq_error *err)
{
	struct virtq_buffer bufs[DISK_BATCH];
	bool staged = false, idle = d->busy == d->waiting_count;
	int rc = 0, i;

	while (d->waiting_count) {
		int n = d->waiting_count < DISK_BATCH ? (int)d->waiting_count : DISK_BATCH;

		for (i = 0; i < n; i++) {
			struct disk_slot *s =
				&d->slot[d->waiting[(d->waiting_first + (unsigned int)i) % d->slots]];

			bufs[i] = (struct virtq_buffer){
				.segs = s->segs, .readable = s->readable,
				.writable = s->writable, .token = s,
			};
		}
		rc = virtq_driver_add(d->queue, bufs, (unsigned int)n);
		if (rc < 0)
			break;
		staged = staged || rc > 0;
		d->waiting_first = (d->waiting_first + (unsigned int)rc) % d->slots;
		d->waiting_count -= (unsigned int)rc;
		d->stats.requests += (unsigned int)rc;
		if (rc < n)
			break;
	}
	if (idle && staged)
		d->waited_ns = 0;
	/* A full ring is no error: the rest goes when something has come back. */
	if (rc == -EBADMSG)
		return disk_broken(d, err);
	if (rc < 0 && rc != -ENOSPC)
		return report_into_errno(err, rc, "a request to %s does not fit its ring", d->name);
	if (staged && virtq_driver_publish(d->queue)) {
		d->stats.kicks++;
		rc = virtq_notify_send(d->kick_fd);
		if (rc < 0)
			return report_into_errno(err, rc, "cannot kick %s", d->name);
	}
	return 0;
}

static const char *disk_status_name(uint8_t status)
{
	switch (status) {
	case VIRTIO_BLK_S_IOERR:
		return "IOERR";
	case VIRTIO_BLK_S_UNSUPP:
		return "UNSUPP";
	case 0xff:
		return "no status";
	default:
		return "an unknown status";
	}
}

/* What became of the request in @slot (BLK-DRV-021)? */
static int disk_check(const struct disk *d, unsigned int slot, uint32_t written,
		      struct virtq_error *err)
{
	const struct disk_slot *s = &d->slot[slot];
	const char *verb = s->type == VIRTIO_BLK_T_IN ? "reading" : "writing";
	/* UNTRUSTED: one look, for the device can still change it. */
	uint8_t status = *(const volatile uint8_t *)&d->records[slot].status;

	if (status != VIRTIO_BLK_S_OK && s->type == VIRTIO_BLK_T_FLUSH)
		return report_into(err, -EIO, "%s failed to flush: %s (%u)", d->name,
				   disk_status_name(status), status);
	if (status != VIRTIO_BLK_S_OK)
		return report_into(err, -EIO, "%s failed %s %u bytes at sector %llu: %s (%u)",
				   d->name, verb, s->len,
				   (unsigned long long)(s->offset_bytes / VIRTQ_BLK_SECTOR_BYTES),
				   disk_status_name(status), status);
	if (s->type == VIRTIO_BLK_T_IN && written < s->len)
		return report_into(err, -EIO,
				   "%s returned %u of %u bytes at sector %llu and called it success",
				   d->name, written, s->len,
				   (unsigned long long)(s->offset_bytes / VIRTQ_BLK_SECTOR_BYTES));
	return 0;
}

int disk_reap(struct disk *d, unsigned int *slots, unsigned int max, struct virtq_error *err)
{
	struct virtq_completion done[DISK_BATCH];
	int n = virtq_driver_get(d->queue, done, max < DISK_BATCH ? max : DISK_BATCH);
	int i, rc;

	if (n < 0)
		return disk_broken(d, err);
	for (i = 0; i < n; i++) {
		struct disk_slot *s = done[i].token;

		slots[i] = (unsigned int)(s - d->slot);
		s->age = 0;
		d->busy--;
		d->waited_ns = 0;
		rc = disk_check(d, slots[i], done[i].written, err);
		if (rc < 0)
			return rc;
	}
	return n;
}

unsigned int disk_busy(const struct disk *d)
{
	return d->busy;
}

/* ---- Waiting. ---- */

void disk_set_timeout(struct disk *d, unsigned int seconds)
{
	d->timeout_ns = (uint64_t)seconds * 1000000000;
}

static uint64_t disk_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/*
 * @ns more have been waited. Only that counts: while this program did other
 * things, or was stopped, nobody looked for what the device might have done.
 */
static int disk_check_timeout(struct disk *d, uint64_t ns, struct virtq_error *err)
{
	const struct disk_slot *oldest = NULL;
	uint64_t limit_ns = d->timeout_ns;
	unsigned int i;

	d->waited_ns += ns;
	for (i = 0; i < d->slots; i++)
		if (d->slot[i].age && (!oldest || d->slot[i].age < oldest->age))
			oldest = &d->slot[i];
	if (oldest && oldest->type == VIRTIO_BLK_T_FLUSH)
		limit_ns *= DISK_FLUSH_PATIENCE;
	if (!oldest || !limit_ns || d->waited_ns < limit_ns || virtq_driver_arm(d->queue))
		return 0;
	if (oldest->type == VIRTIO_BLK_T_FLUSH)
		return report_into(err, -ETIMEDOUT, "%s has not flushed for %llu s", d->name,
				   (unsigned long long)(d->waited_ns / 1000000000));
	return report_into(err, -ETIMEDOUT,
			   "%s has completed nothing for %llu s; the oldest of %u requests in flight is at sector %llu",
			   d->name, (unsigned long long)(d->waited_ns / 1000000000), d->busy,
			   (unsigned long long)(oldest->offset_bytes / VIRTQ_BLK_SECTOR_BYTES));
}

static int disk_check_alive(struct disk *const *disks, unsigned int count,
			    struct virtq_error *err)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		struct disk *d = disks[i];

		/* It may have finished its work before it went. */
		if (d && d->busy && !virtq_transport_alive(d->transport) &&
		    !virtq_driver_arm(d->queue))
			return report_into(err, -ECONNRESET,
					   "%s has gone, with %u requests unanswered", d->name,
					   d->busy);
	}
	return 0;
}

int disk_wait(struct disk *const *disks, unsigned int count, struct virtq_error *err)
{
	struct pollfd polls[2];
	uint64_t begun_ns = 0, ns = 0;
	int ready = 0, rc = 0, late = 0;
	unsigned int i;

	for (i = 0; i < count && i < 2; i++) {
		struct disk *d = disks[i];

		polls[i] = (struct pollfd){ .fd = -1 };
		if (!d || !d->busy)
			continue;
		polls[i] = (struct pollfd){ .fd = d->call_fd, .events = POLLIN };
		ready |= virtq_driver_arm(d->queue);
	}
	if (!ready) {
		begun_ns = disk_now_ns();
		rc = poll(polls, i, DISK_WAIT_MS);
		if (rc < 0 && errno != EINTR)
			return report_into_errno(err, -errno, "cannot wait for a call");
		ns = disk_now_ns() - begun_ns;
		if (ns > 2 * DISK_WAIT_MS * 1000000ull)
			ns = 2 * DISK_WAIT_MS * 1000000ull;
	}
	for (i = 0; i < count && i < 2; i++) {
		if (polls[i].fd < 0)
			continue;
		if (rc > 0 && polls[i].revents) {
			virtq_notify_clear(polls[i].fd);
			disks[i]->stats.calls++;
		}
		if (ns && late == 0)
			late = disk_check_timeout(disks[i], ns, err);
		virtq_driver_disarm(disks[i]->queue);
	}
	if (late < 0)
		return late;
	return !ready && rc == 0 ? disk_check_alive(disks, count, err) : 0;
}

int disk_flush(struct disk *d, struct virtq_error *err)
{
	struct disk *const disks[] = { d };
	unsigned int slot;
	int rc;

	if (!disk_can_flush(d))
		return 0;
	disk_prepare(d, d->slots - 1, VIRTIO_BLK_T_FLUSH, 0, 0);	/* BLK-DRV-010 */
	rc = disk_push(d, err);
	while (rc == 0) {
		rc = disk_reap(d, &slot, 1, err);
		if (rc == 0)
			rc = disk_wait(disks, 1, err);
	}
	return rc < 0 ? rc : 0;
}

void disk_close(struct disk *d)
{
	if (!d)
		return;
	virtq_transport_close(d->transport);
	if (d->queue)
		virtq_driver_destroy(d->queue);
	virtq_map_unref(d->map);
	virtq_mapping_unref(d->control);
	if (d->kick_fd >= 0)
		close(d->kick_fd);
	if (d->call_fd >= 0)
		close(d->call_fd);
	free(d->slot);
	free(d->segs);
	free(d->waiting);
	free(d);
}
