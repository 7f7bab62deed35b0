/* SPDX-License-Identifier: MIT */
/* A block device at the driver end: negotiation, memory, requests. */
#include "disk.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <virtq/virtq.h>

#include "report.h"

/* Addresses for the device: unlike any pointer, so that a mix-up fails at once. */
#define DISK_PORT_GPA 0x100000u
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
	struct virtq_transfer *transfer;	/* for @type and @len; NULL before the first */
	uint32_t type;
	uint32_t len;
	uint64_t offset_bytes;
};

struct disk {
	const char *name;
	struct virtq_transport *transport;
	struct virtq_features features;		/* accepted */
	struct virtq_blk_config config;

	struct virtq_port *port;		/* with the records */
	struct virtq_map *map;
	struct virtq_transfers *transfers;
	struct disk_record *records;
	unsigned char *data;

	unsigned int slots;			/* the caller's, and one more for FLUSH */
	uint32_t slot_bytes;
	struct disk_slot *slot;
	struct virtq_transfer **waiting;	/* prepared and not sent, oldest first */
	unsigned int waiting_count;
	unsigned int busy;
	uint64_t timeout_ns;			/* 0 to wait for ever */
	uint64_t waited_ns;			/* since something was completed */
	uint64_t requests, calls;
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

/* ---- Requests. ---- */

/*
 * The memory of a slot's requests of one type and length: header, data, status.
 * The length is at most disk_request_bytes_max(), or there would be more pieces.
 */
static int disk_make_transfer(struct disk *d, unsigned int slot, struct virtq_error *err)
{
	struct virtq_piece pieces[DISK_DATA_SEGS_MAX + 2];
	struct disk_record *record = &d->records[slot];
	struct disk_slot *s = &d->slot[slot];
	uint32_t part = disk_seg_bytes_max(d), done;
	unsigned int count = 0, readable;
	int rc;

	pieces[count++] = (struct virtq_piece){ &record->header, sizeof(record->header) };
	for (done = 0; done < s->len; done += part) {
		if (part > s->len - done)
			part = s->len - done;
		pieces[count++] = (struct virtq_piece){
			d->data + (size_t)slot * d->slot_bytes + done, part,
		};
	}
	pieces[count++] = (struct virtq_piece){ &record->status, 1 };
	readable = s->type == VIRTIO_BLK_T_IN ? 1 : count - 1;
	rc = virtq_transfer_prepare(d->transfers, &s->transfer, pieces, readable,
				    count - readable, NULL, s);
	if (rc < 0)
		return report_into_errno(err, rc, "a request to %s does not fit its ring", d->name);
	return 0;
}

int disk_prepare(struct disk *d, unsigned int slot, uint32_t type, uint64_t offset_bytes,
		 uint32_t len, struct virtq_error *err)
{
	struct disk_record *record = &d->records[slot];
	struct disk_slot *s = &d->slot[slot];
	int rc;

	/* All requests of a slot are alike, but for the last block of a disk: sent as they are. */
	if (!s->transfer || s->type != type || s->len != len) {
		virtq_transfer_abandon(s->transfer);
		*s = (struct disk_slot){ .type = type, .len = len };
		rc = disk_make_transfer(d, slot, err);
		if (rc < 0)
			return rc;
	}
	s->offset_bytes = offset_bytes;
	virtq_blk_header(&record->header, type, offset_bytes / VIRTQ_BLK_SECTOR_BYTES);
	record->status = 0xff;		/* no status of the standard's: shows one never written */
	d->waiting[d->waiting_count++] = s->transfer;
	d->busy++;
	return 0;
}

static int disk_broken(const struct disk *d, struct virtq_error *err)
{
	return report_into(err, -EBADMSG, "%s broke the ring: %s", d->name,
			   virtq_fault_text(virtq_driver_fault(virtq_port_driver(d->port)).code));
}

int disk_push(struct disk *d, struct virtq_error *err)
{
	bool idle = d->busy == d->waiting_count;
	int rc;

	if (!d->waiting_count)
		return 0;
	rc = virtq_transfer_send(d->transfers, d->waiting, d->waiting_count);
	/* A full ring is no error: the rest goes when something has come back. */
	if (rc == -ENOSPC)
		return 0;
	if (rc == -EBADMSG)
		return disk_broken(d, err);
	if (rc < 0)
		return report_into_errno(err, rc, "cannot send a request to %s", d->name);
	d->requests += (unsigned int)rc;
	d->waiting_count -= (unsigned int)rc;
	memmove(d->waiting, d->waiting + rc, d->waiting_count * sizeof(*d->waiting));
	if (idle)
		d->waited_ns = 0;
	rc = virtq_transfers_kick_error(d->transfers);
	return rc < 0 ? report_into_errno(err, rc, "cannot kick %s", d->name) : 0;
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
static int disk_check(const struct disk *d, unsigned int slot, struct virtq_error *err)
{
	const struct disk_slot *s = &d->slot[slot];
	uint32_t written = virtq_transfer_written(s->transfer);
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
	struct virtq_transfer *back[DISK_BATCH];
	int n = virtq_transfers_poll(d->transfers, back, max < DISK_BATCH ? max : DISK_BATCH, NULL);
	int i, rc;

	if (n < 0)
		return disk_broken(d, err);
	if (n)
		d->waited_ns = 0;
	d->busy -= (unsigned int)n;
	for (i = 0; i < n; i++) {
		const struct disk_slot *s = virtq_transfer_arg(back[i]);

		slots[i] = (unsigned int)(s - d->slot);
		rc = disk_check(d, slots[i], err);
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

/* The request that the device has had for the longest time, or NULL. */
static const struct disk_slot *disk_oldest(const struct disk *d)
{
	const struct disk_slot *oldest = NULL, *s;

	for (s = d->slot; s < d->slot + d->slots; s++)
		if (s->transfer && virtq_transfer_check(s->transfer) == 0 &&
		    (!oldest || virtq_transfer_id(s->transfer) < virtq_transfer_id(oldest->transfer)))
			oldest = s;
	return oldest;
}

/*
 * @ns more have been waited. Only that counts: while this program did other
 * things, or was stopped, nobody looked for what the device might have done.
 */
static int disk_check_timeout(struct disk *d, uint64_t ns, struct virtq_error *err)
{
	const struct disk_slot *oldest;

	d->waited_ns += ns;
	if (!d->timeout_ns || d->waited_ns < d->timeout_ns)
		return 0;
	oldest = disk_oldest(d);
	if (!oldest || virtq_transfers_arm(d->transfers))
		return 0;
	if (oldest->type != VIRTIO_BLK_T_FLUSH)
		return report_into(err, -ETIMEDOUT,
				   "%s has completed nothing for %llu s; the oldest of %u requests in flight is at sector %llu",
				   d->name, (unsigned long long)(d->waited_ns / 1000000000), d->busy,
				   (unsigned long long)(oldest->offset_bytes / VIRTQ_BLK_SECTOR_BYTES));
	if (d->waited_ns < DISK_FLUSH_PATIENCE * d->timeout_ns)
		return 0;
	return report_into(err, -ETIMEDOUT, "%s has not flushed for %llu s", d->name,
			   (unsigned long long)(d->waited_ns / 1000000000));
}

static int disk_check_alive(struct disk *const *disks, unsigned int count,
			    struct virtq_error *err)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		struct disk *d = disks[i];

		/* It may have finished its work before it went. */
		if (d && d->busy && !virtq_transport_alive(d->transport) &&
		    !virtq_transfers_arm(d->transfers))
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
	int rc = 0, late = 0;
	bool ready = false;
	unsigned int i;

	for (i = 0; i < count && i < 2; i++) {
		struct disk *d = disks[i];

		polls[i] = (struct pollfd){ .fd = -1 };
		if (!d || !d->busy)
			continue;
		polls[i] = (struct pollfd){ .fd = virtq_port_call_fd(d->port), .events = POLLIN };
		/* An error too: the next look at the ring will tell. */
		if (virtq_transfers_arm(d->transfers))
			ready = true;
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
		if (rc > 0 && polls[i].revents)
			disks[i]->calls++;
		if (ns && late == 0)
			late = disk_check_timeout(disks[i], ns, err);
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
	rc = disk_prepare(d, d->slots - 1, VIRTIO_BLK_T_FLUSH, 0, 0, err);	/* BLK-DRV-010 */
	if (rc == 0)
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
	virtq_transfers_destroy(d->transfers);
	virtq_map_unref(d->map);
	virtq_port_destroy(d->port);
	free(d->slot);
	free(d->waiting);
	free(d);
}
