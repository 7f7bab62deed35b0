/* SPDX-License-Identifier: MIT */
/* A block device at the driver end: negotiation, memory, its queue. */
#include "disk_state.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/virtq.h>

#include "report.h"

/* Addresses for the device: unlike any pointer, so that a mix-up fails at once. */
#define DISK_PORT_GPA 0x100000u
#define DISK_DATA_GPA 0x1000000000u

#define DISK_QUEUE_DEFAULT 128
#define DISK_QUEUE_DEFAULT_MAX 1024
#define DISK_TIMEOUT_MS 10000

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
uint32_t disk_seg_bytes_max(const struct disk *d)
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
	return (struct disk_stats){
		.requests = d->requests, .kicks = virtq_port_kicks(d->port), .calls = d->calls,
	};
}

/* ---- Starting. ---- */

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

/* The memory that both sides see. */
static int disk_map_memory(struct disk *d, struct virtq_mapping *data, struct virtq_error *err)
{
	struct virtq_region regions[2];
	unsigned int count;
	int rc;

	regions[0] = *virtq_port_regions(d->port, &count);
	regions[count++] = (struct virtq_region){
		.gpa = DISK_DATA_GPA,
		.size_bytes = virtq_mapping_bytes(data),
		.host = d->data,
		.user = (uintptr_t)d->data,
		.fd = virtq_mapping_fd(data),
		.access = VIRTQ_ACCESS_RW,
		.mapping = data,
	};
	rc = virtq_map_create(&d->map, regions, count, err);
	return rc < 0 ? rc : virtq_transport_share(d->transport, d->map, err);
}

static int disk_build(struct disk *d, struct virtq_mapping *data, uint32_t queue_size,
		      struct virtq_error *err)
{
	uint32_t data_segs = (d->slot_bytes - 1) / disk_seg_bytes_max(d) + 1;
	uint32_t chain = 2 + (data_segs < disk_data_segs_max(d) ? data_segs : disk_data_segs_max(d));
	struct virtq_port_config port = {
		.features = d->features,
		.size = queue_size ? queue_size : disk_choose_queue_size(d, chain),
		.indirect_entries = chain,
		.gpa = DISK_PORT_GPA,
		.extra_bytes = d->slots * sizeof(struct disk_record),
		.keep = true,
	};
	struct virtq_transfers_config transfers = {
		.transfers_max = d->slots, .pieces_max = chain,
	};
	struct virtq_ring_shape shape;
	int rc;

	d->slot = calloc(d->slots, sizeof(*d->slot));
	d->waiting = calloc(d->slots, sizeof(*d->waiting));
	if (!d->slot || !d->waiting)
		return report_into(err, -ENOMEM, "no memory for %u requests", d->slots);
	rc = virtq_ring_shape(d->features, port.size, &shape);
	if (rc < 0)
		return report_into(err, rc, "a %s ring of %u entries cannot be", disk_layout_name(d),
				   port.size);
	/* A chain may not be longer than the ring, indirect or not (S-DRV-014). */
	if (port.size < chain)
		return report_into(err, -EINVAL,
				   "a queue of %u entries is too small for requests of %u elements",
				   port.size, chain);
	rc = virtq_port_create(&d->port, &port, err);
	if (rc < 0)
		return rc;
	d->records = virtq_port_extra(d->port);
	d->data = virtq_mapping_host(data);
	rc = disk_map_memory(d, data, err);
	if (rc < 0)
		return rc;
	transfers.port = d->port;
	transfers.map = d->map;
	return virtq_transfers_create(&d->transfers, &transfers, err);
}

int disk_start(struct disk *d, struct virtq_mapping *data, unsigned int slots,
	       uint32_t slot_bytes, uint32_t queue_size, struct virtq_error *err)
{
	struct virtq_error why = { 0 };
	struct virtq_driver *queue;
	int rc;

	d->slots = slots + 1;
	d->slot_bytes = slot_bytes;
	rc = disk_build(d, data, queue_size, &why);
	if (rc < 0)
		return report_into(err, rc, "%s cannot be started: %s", d->name, why.text);
	queue = virtq_port_driver(d->port);
	rc = virtq_transport_start(d->transport, 0, queue, virtq_port_kick_fd(d->port),
				   virtq_port_call_fd(d->port), &why);
	if (rc < 0)
		return report_into(err, rc, "%s cannot be started with a queue of %u entries: %s",
				   d->name, virtq_driver_ring(queue)->size, why.text);
	return 0;
}

void disk_close(struct disk *d)
{
	if (!d)
		return;
	virtq_transport_close(d->transport);
	virtq_transfers_destroy(d->transfers);
	virtq_map_unref(d->map);
	virtq_port_destroy(d->port);
	free(d->slot);
	free(d->waiting);
	free(d);
}
