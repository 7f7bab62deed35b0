/* SPDX-License-Identifier: MIT */
/*
 * The inside of a pool: what its files know of each other.
 *
 *   pool.c        set-up, end, and beginning again
 *   pool_chain.c  chains: made of items, looked at, taken apart
 *   pool_offer.c  offering and recycling
 *   pool_take.c   taking, freeing, abandoning
 *   pool_wait.c   who sleeps, and who is woken
 */
#ifndef VIRTQ_TRANSFER_POOL_H
#define VIRTQ_TRANSFER_POOL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include <virtq/pool.h>

#include "base/check.h"
#include "ring/driver.h"
#include "transfer/port.h"

#define POOL_CHUNK 32u			/* chains for which one call of the driver end is made */
#define NO_ITEM UINT32_MAX

/* What an item is; more bits are set beside HELD, OFFERED and USED only. */
#define ITEM_FREE	0u
#define ITEM_MEMBER	1u		/* of a chain whose first it is not */
#define ITEM_HELD	2u		/* first of a chain of the caller's */
#define ITEM_OFFERED	3u		/* of one that the device has */
#define ITEM_USED	4u		/* of one that waits in pool->used */
#define ITEM_STATE	7u
#define ITEM_MANY	8u		/* not one item that is one element */
#define ITEM_FORGET	16u		/* freed as it comes back */
#define ITEM_KEPT	32u		/* has ring entries under @kept */
#define ITEM_RESIZED	64u		/* ... in which the length is another */

/*
 * An item, and the chain whose first it is: what the pool wrote, which is never
 * read back from memory that the device sees. One cache line.
 */
struct item {
	struct virtq_seg seg;		/* the item, with the length of a chain of one element */
	uint64_t id;			/* of the chain; an old one in free items */
	uint64_t header_addr;		/* by reference; an element of its own in front */
	uint32_t state;
	uint32_t kept;			/* id of its ring entries */
	uint32_t written;
	uint32_t next;			/* item of the chain; NO_ITEM at its end, and if free */
	uint32_t readable_bytes;	/* in items, so without the header */
	uint32_t writable_bytes;	/* in the items after those */
	uint32_t readable_items;	/* MANY: how many are set aside for the readable part */
	uint32_t header_bytes;		/* of a header by reference; 0 for none, and if free */
};
_Static_assert(sizeof(struct item) == 64, "an item's record is a cache line");

/* Somebody who waits, on his own stack. */
struct waiter {
	struct waiter *next;
	const struct virtq_wait *wait;
	int64_t deadline_ns;
	int fd;				/* his own, for several threads; else -1 */
	bool for_room;			/* or for something to take */
	bool awake;			/* or about to be: need not be signalled */
};

#define POOL_FDS 8u			/* more waiters than that open one each */

struct virtq_pool {
	struct virtq_driver *q;
	struct item *items;
	uint32_t *free;			/* slots of free items, the next one last */
	uint32_t free_count;
	uint32_t item_bytes;
	uint32_t item_count;
	uint32_t held_state;		/* of a chain taken: HELD, with KEPT if the ring keeps */
	uint64_t last_id;
	uint32_t held;			/* chains of the caller's */
	uint32_t held_kept;		/* of those, how many have ring entries */
	uint32_t forgotten;		/* chains in flight that are freed as they come back */
	bool threads, guard;
	bool armed;			/* virtq_pool_arm() was called; see pool_wait.c */
	bool paused;			/* nothing is given to the ring, so nothing published */
	bool told;			/* to all who sleep: the ring is broken */
	uint8_t *host;			/* the items as the caller sees them */
	struct virtq_port *port;
	/* Used chains that somebody found who waited for room, oldest first: a circle. */
	uint32_t *used;
	uint32_t used_mask, used_count, used_first;
	/* Set once. */
	uint32_t elements_max;		/* of a chain */
	uint64_t extra_gpa;
	uint8_t *reserved;
	uint64_t reserve_bytes;
	struct virtq_seg *segs;		/* @elements_max, for pool_add() */
	void *guard_pages;		/* guard mode: @host, to be unmapped; else NULL */
	uint64_t guard_bytes;
	/* Who waits. */
	pthread_mutex_t lock;
	pthread_cond_t nobody;		/* waits any more */
	struct waiter *waiters;
	uint32_t room_waiters;
	int calls_fd;			/* threads: the call fd by edges, see pool_wait.c */
	int fds[POOL_FDS];		/* of which @fd_count are nobody's now */
	uint32_t fd_count;
};

/*
 * Every call is between these. The lock is for several threads only, and never
 * held while asleep. pool_enter() returns 0 or -ESHUTDOWN, pool_leave() its @rc.
 */
static inline int pool_enter(struct virtq_pool *pool)
{
	if (UNLIKELY(pool->threads))
		pthread_mutex_lock(&pool->lock);
	return UNLIKELY(port_closed(pool->port)) ? -ESHUTDOWN : 0;
}

int pool_leave_threads(struct virtq_pool *pool, int rc);

static inline int pool_leave(struct virtq_pool *pool, int rc)
{
	return UNLIKELY(pool->threads) ? pool_leave_threads(pool, rc) : rc;
}

/* The chain that a handle names, or NULL. Handles are anything. */
ALWAYS_INLINE struct item *pool_find_in(struct item *items, uint32_t count,
					const struct virtq_chain *chain)
{
	struct item *item;

	if (UNLIKELY(chain->slot >= count))
		return NULL;
	item = &items[chain->slot];
	return LIKELY(item->id == chain->id) ? item : NULL;
}

static inline struct item *pool_find(const struct virtq_pool *pool,
				     const struct virtq_chain *chain)
{
	struct item *item = pool_find_in(pool->items, pool->item_count, chain);

	/* Free items have the ids of old chains. */
	return item && (item->state & ITEM_STATE) >= ITEM_HELD ? item : NULL;
}

static inline uint32_t pool_slot(const struct virtq_pool *pool, const struct item *item)
{
	return (uint32_t)(item - pool->items);
}

static inline void pool_publish(struct virtq_pool *pool)
{
	if (virtq_driver_publish(pool->q))
		port_kick(pool->port);
}

/* ---- pool_chain.c ------------------------------------------------------- */

/* What a chain will need. */
struct plan {
	uint32_t readable_bytes, writable_bytes, header_bytes;
	uint32_t readable_items, items;
	uint32_t elements;
};

/* Return: 0, -EINVAL (empty), -EMSGSIZE (never). */
int pool_plan(const struct virtq_pool *pool, struct plan *plan, uint64_t header_bytes,
	      uint64_t readable_bytes, uint64_t writable_bytes);
/* Make it of free items, which there must be; its state is HELD. It has no id yet. */
struct item *pool_build(struct virtq_pool *pool, const struct plan *plan);
/* Undo that: its items are free again, in the same order. */
void pool_dismantle(struct virtq_pool *pool, struct item *item);
/* Give a chain to the driver end, as virtq_driver_add(). Return: 0 or what that says. */
int pool_add(struct virtq_pool *pool, struct item *item);
/* Let its ring entries go if it has any. */
void pool_unkeep(struct virtq_pool *pool, struct item *item);
/* Let those of all chains of the caller's go: others want them. Were there any? */
bool pool_unkeep_held(struct virtq_pool *pool);
/* Copy to the readable part; what lies behind its end is not copied. Return: bytes. */
uint32_t pool_fill(struct virtq_pool *pool, const struct item *item, uint32_t offset,
		   const void *src, size_t bytes);
/* Guard mode: close the pages of a chain to this process, or open them. */
void pool_guard(struct virtq_pool *pool, const struct item *item, bool closed);

/* ---- pool_take.c -------------------------------------------------------- */

/* Move all that is used from the ring to pool->used. Return: how many chains, or an error. */
int pool_reap(struct virtq_pool *pool);
/* A chain of the caller's is nobody's any more. */
void pool_release(struct virtq_pool *pool, struct item *item);

/* ---- pool_wait.c -------------------------------------------------------- */

/* Begin to wait. Return: 0 or -errno; then nothing has begun. */
int wait_begin(struct virtq_pool *pool, struct waiter *w, const struct virtq_wait *wait,
	       bool for_room);
/*
 * Ask to be called, and sleep. After it look, whatever it says.
 *
 * Return: 1 something may have changed; 0 the time was over; an error ends the wait.
 */
int wait_sleep(struct virtq_pool *pool, struct waiter *w);
/*
 * End the wait, and leave the pool: returns @rc. Of one owner the pool may be gone then: whoever
 * destroys it has waited for nothing else.
 */
int wait_leave(struct virtq_pool *pool, struct waiter *w, int rc);
/* Room was made: wake who waits for some. */
void wait_wake_room(struct virtq_pool *pool);
/* Something was put into pool->used: wake somebody who waits for that. */
void wait_wake_taker(struct virtq_pool *pool);
/* One owner, awake in here, found the ring broken: so has he who sleeps on the call fd. */
void wait_tell_broken(struct virtq_pool *pool);
/* Everybody look again. */
void wait_wake_all(struct virtq_pool *pool);

#endif
