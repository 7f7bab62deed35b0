/* SPDX-License-Identifier: MIT */
/*
 * A fuzzed driver end: its queue, the buffers of the program on top, and where the
 * device stands that it has for a peer.
 */
#ifndef TESTS_FUZZ_DRIVER_H
#define TESTS_FUZZ_DRIVER_H

#include <virtq/driver.h>

#include "ring.h"

#define SEGS_MAX 12u

enum state { FREE, ADDED, PUBLISHED, KEPT };

/* A buffer; its address is its token. */
struct buffer {
	enum state state;
	uint64_t writable_bytes;
	uint32_t elements;
	uint32_t entries;	/* ring entries it took, 0 if that is not known */
	uint32_t written;	/* what the device said, once it is used */
	uint32_t kept_id;	/* what get() called the entries that it keeps */
	/* as the device found it */
	uint16_t id;
	uint16_t slots;
};

/* Buffers in some order. */
struct list {
	struct buffer **at;
	uint32_t count;
};

struct run {
	struct input in;
	struct virtq_driver_config config;
	struct virtq_ring_shape shape;
	uint8_t *desc, *driver_area, *device_area, *tables;
	struct virtq_driver *q;
	void *state;		/* what it lies in, unless it is on the heap */
	bool on_heap;
	struct buffer *buffers;
	uint32_t buffer_count;
	struct list added;	/* not published */
	struct list offered;	/* published, and not used by the device */
	struct list used;	/* used, and not taken back */
	struct list kept;	/* taken back, with their ring entries */
	uint32_t in_flight;
	bool packed, in_order, indirect, event_idx, keeps;
	/* The device has done nothing yet that a device may not do. */
	bool clean;
	/* The device has seen what was published: its copies of ids are right. */
	bool followed;
	bool detached, live;
	int dead;
	struct virtq_fault fault;
	/* Where the device stands. */
	uint16_t avail_idx, used_idx;
	uint32_t avail_slot, used_slot;
	bool avail_wrap, used_wrap;
};

static inline void list_put(struct run *r, struct list *l, struct buffer *b)
{
	FUZZ_CHECK(l->count < r->buffer_count);
	l->at[l->count++] = b;
}

static inline struct buffer *list_take(struct list *l, uint32_t i)
{
	struct buffer *b = l->at[i];

	l->count--;
	memmove(l->at + i, l->at + i + 1, (l->count - i) * sizeof(struct buffer *));
	return b;
}

/* ---- driver.c ---- */

/* Take back what is away. It may not be asked for while the device may have it. */
void do_detach(struct run *r);

/* ---- driver_life.c ---- */

/* A queue that the input chooses, and all that belongs to it. */
void run_begin(struct run *r);
void run_end(struct run *r);
/* Make the queue anew: where it stands if it is quiet, or from the beginning. */
void do_anew(struct run *r);
/*
 * A second queue over the same ring, with one thing wrong in its configuration,
 * or nearly. It goes on at a position, so that it leaves the ring as it is.
 */
void do_refuse(struct run *r);

/* ---- driver_peer.c ---- */

/* Note the id of the list that was published next, which a spoilt ring may say wrongly. */
void follow(struct run *r, struct buffer *b);
/* Use one buffer, any of them; or, in order, the oldest ones at once. */
void do_use(struct run *r);
/* The device may write all of shared memory, and so it does. */
void do_scribble(struct run *r);
/* What tells the driver when to kick; any value is legal. */
void do_event(struct run *r);

#endif
