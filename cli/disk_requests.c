/* SPDX-License-Identifier: MIT */
/* The requests of a block device at the driver end: made, sent, checked, waited for. */
#include "disk_state.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "report.h"

#define DISK_BATCH 32
#define DISK_WAIT_MS 200
/* A flush is one request, and may have gigabytes to write. */
#define DISK_FLUSH_PATIENCE 10

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
