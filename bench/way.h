/* SPDX-License-Identifier: MIT */
/*
 * The ways to drive a queue that bench/driver compares: bare, through a pool,
 * through transfers. Each sends buffers of one shape round on one thread; the
 * device end is the same in all of them and touches no byte of the buffers.
 */
#ifndef BENCH_WAY_H
#define BENCH_WAY_H

#include <stdbool.h>
#include <stdint.h>

enum way_kind {
	WAY_BARE,		/* add, publish; get */
	WAY_BARE_KEPT,		/* again, publish; get: descriptors stay, if the layout allows it */
	WAY_POOL_REBUILD,	/* offer_writable; take; free */
	WAY_POOL_RECYCLE,	/* recycle; take */
	WAY_POOL_REBUILD_LOCKED,	/* the same two in a pool for several threads */
	WAY_POOL_RECYCLE_LOCKED,
	WAY_POOL_ALLOC,		/* alloc each, recycle; take; free: built in place, to be read */
	WAY_POOL_RESIZE,	/* resize each, recycle; take */
	WAY_POOL_COPY,		/* offer with a header and a payload copied; take; free */
	WAY_MEMCPY,		/* the copies of that alone, and no queue */
	WAY_SEND_AGAIN,		/* send; poll: prepared once */
	WAY_SEND_AGAIN_MAP,	/* the same with a map */
	WAY_SEND_NEW,		/* prepare each, send; poll; finish each */
	WAY_SEND_NEW_MAP,
	WAY_KINDS
};

enum way_layout { WAY_SPLIT, WAY_PACKED, WAY_SPLIT_IN_ORDER, WAY_PACKED_IN_ORDER, WAY_LAYOUTS };

/* @items elements of @bytes / @items; more than one go through an indirect table. */
struct way_shape {
	const char *name;
	uint32_t bytes;
	uint32_t items;
};

enum way_part {
	WAY_OUT,	/* up to the publication */
	WAY_DEVICE,
	WAY_BACK,	/* what tells the driver end what is used */
	WAY_AFTER,	/* what gives it up, if it has to be */
	WAY_PARTS
};

#define WAY_BATCH_MAX 64
#define WAY_HEADER_BYTES 12	/* of the copy, in front of the payload: a virtio_net_hdr */
#define WAY_TEXT_BYTES 256

struct way;

/*
 * @count: buffers in flight. NULL and a sentence in @why on failure; an empty one
 * if there is no such way in this layout.
 */
struct way *way_open(enum way_kind kind, enum way_layout layout, const struct way_shape *shape,
		     unsigned int count, char why[WAY_TEXT_BYTES]);
void way_close(struct way *way);

/*
 * @laps times: all buffers are sent, @batch at a time, then served by the device
 * end, then taken back, then given up, and the clock is read in between. @ns
 * receives the medians over the laps, nanoseconds a buffer, of each part, and
 * @allocated how often memory was allocated meanwhile.
 * Returns 0, or -1 and a sentence in @why if a buffer was lost or came back changed.
 */
int way_run(struct way *way, unsigned int batch, unsigned int laps, long *allocated,
	    double ns[WAY_PARTS], char why[WAY_TEXT_BYTES]);

/* Let a buffer go wrong in the next run, which must fail. */
void way_plant(struct way *way);

#endif
