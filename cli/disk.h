/* SPDX-License-Identifier: MIT */
/*
 * A block device behind a vhost-user socket, seen from the driver end: many
 * requests in flight over one queue.
 *
 * Requests are made in *slots*. Slot n owns the n-th buffer of a data mapping
 * that the caller provides, so that two disks may work on the same buffers:
 * what one has read the other writes, without a copy in between.
 *
 * Functions that can fail return -errno and fill @err with a sentence that
 * names the disk; after that the disk can only be closed.
 *
 * Thread: one.
 */
#ifndef VIRTQ_CLI_DISK_H
#define VIRTQ_CLI_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include <virtq/blk.h>
#include <virtq/mem.h>
#include <virtq/transport.h>

struct disk;

enum disk_layout { DISK_AUTO, DISK_SPLIT, DISK_PACKED };

/* What a disk has done; counts. */
struct disk_stats {
	uint64_t requests;
	uint64_t kicks;	/* sent */
	uint64_t calls;	/* seen */
};

/*
 * Connect to the back end at @socket and negotiate. @name is for sentences;
 * both are kept, not copied. DISK_AUTO takes packed rings if they are offered.
 */
int disk_open(struct disk **out, const char *name, const char *socket, enum disk_layout layout,
	      struct virtq_error *err);

uint64_t disk_bytes(const struct disk *d);
/* Requests begin and end at multiples of this, as far as the disk's end allows. */
uint32_t disk_block_bytes(const struct disk *d);
/* Longest request that the disk takes; UINT32_MAX if it names no limit. */
uint32_t disk_request_bytes_max(const struct disk *d);
bool disk_read_only(const struct disk *d);
bool disk_can_flush(const struct disk *d);
/* "split" or "packed" */
const char *disk_layout_name(const struct disk *d);
struct disk_stats disk_stats(const struct disk *d);

/*
 * Build the queue and let the device turn it.
 * @data:       @slots buffers of @slot_bytes each; the disk takes a reference
 * @queue_size: entries, 0 to choose
 */
int disk_start(struct disk *d, struct virtq_mapping *data, unsigned int slots,
	       uint32_t slot_bytes, uint32_t queue_size, struct virtq_error *err);

/*
 * Prepare a request in @slot, which must be idle: VIRTIO_BLK_T_IN or _OUT of
 * @len bytes at @offset_bytes of the disk. The device sees it after disk_push().
 */
int disk_prepare(struct disk *d, unsigned int slot, uint32_t type, uint64_t offset_bytes,
		 uint32_t len, struct virtq_error *err);

/* Give the device what was prepared, as far as the ring has room; the rest waits. */
int disk_push(struct disk *d, struct virtq_error *err);

/* Take up to @max finished requests; their slots are idle again. How many, or -errno. */
int disk_reap(struct disk *d, unsigned int *slots, unsigned int max, struct virtq_error *err);

/* Requests prepared and not reaped. */
unsigned int disk_busy(const struct disk *d);

/* How long a device may complete nothing of what it was given; 0, as at first, for ever. */
void disk_set_timeout(struct disk *d, unsigned int seconds);

/*
 * Wait until one of the @count disks, of which NULLs are none, has something to
 * reap; but at most 200 ms. Tells by an error if a device with requests in
 * flight has gone, or has completed nothing for too long.
 */
int disk_wait(struct disk *const *disks, unsigned int count, struct virtq_error *err);

/* Make what was written stable, if the disk can; nothing else may be in flight. */
int disk_flush(struct disk *d, struct virtq_error *err);

/* NULL is fine. */
void disk_close(struct disk *d);

#endif
