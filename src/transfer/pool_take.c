/* SPDX-License-Identifier: MIT */
/*
 * Taking back what the device has used, and giving up what was taken.
 *
 * UNTRUSTED: which chains came back, and how much of each was written, has been
 * checked by the driver end: a token is one of a chain in flight, a length not more
 * than was writable.
 */
#include "transfer/pool.h"

/* A chain in flight is back, and nobody wants it. The ring holds nothing of it. */
static void drop(struct virtq_pool *pool, struct item *item)
{
	pool->forgotten--;
	if (pool->guard)
		pool_guard(pool, item, false);
	pool_dismantle(pool, item);
}

static struct item *item_of(const struct virtq_pool *pool, const struct virtq_completion *done)
{
	return &pool->items[(uintptr_t)done->token];
}

/*
 * The ring entries go, also where they could have been kept: somebody may be
 * short of them, and whoever takes the chain can have others.
 */
int pool_reap(struct virtq_pool *pool)
{
	const bool keeps = pool->held_state & ITEM_KEPT;
	struct virtq_completion done[POOL_CHUNK];
	const uint32_t before = pool->used_count;
	int total = 0, got;

	do {
		got = virtq_driver_get(pool->q, done, POOL_CHUNK);
		for (int i = 0; i < got; i++) {
			struct item *item = item_of(pool, &done[i]);

			if (keeps)
				virtq_driver_free(pool->q, &done[i].id, 1);
			if (item->state & ITEM_FORGET) {
				drop(pool, item);
				continue;
			}
			item->state = (item->state & ITEM_MANY) | ITEM_USED;
			item->written = done[i].written;
			pool->used[(pool->used_first + pool->used_count++) & pool->used_mask] =
				pool_slot(pool, item);
		}
		total += got > 0 ? got : 0;
	} while (got == (int)POOL_CHUNK);
	if (UNLIKELY(got < 0))
		wait_tell_broken(pool);
	if (total && pool->room_waiters)
		wait_wake_room(pool);
	if (pool->used_count > before)
		wait_wake_taker(pool);
	return total ? total : got;
}

/* ---- Taking -------------------------------------------------------------- */

/* From those that somebody else found. */
NEVER_INLINE static unsigned int take_found(struct virtq_pool *pool, struct virtq_chain *chains,
					    unsigned int max)
{
	unsigned int n = 0;

	for (; n < max && pool->used_count; n++) {
		uint32_t slot = pool->used[pool->used_first++ & pool->used_mask];
		struct item *item = &pool->items[slot];

		pool->used_count--;
		item->state = (item->state & ITEM_MANY) | ITEM_HELD;
		if (pool->guard)
			pool_guard(pool, item, false);
		chains[n] = (struct virtq_chain){ item->id, slot, item->written };
	}
	pool->held += n;
	return n;
}

NEVER_INLINE static void drop_taken(struct virtq_pool *pool, struct item *item, uint32_t id)
{
	if (pool->held_state & ITEM_KEPT)
		virtq_driver_free(pool->q, &id, 1);
	drop(pool, item);
}

NEVER_INLINE static void open_taken(struct virtq_pool *pool, const struct virtq_chain *chains,
				    unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		pool_guard(pool, &pool->items[chains[i].slot], false);
}

/* Return: how many; 0 if there are none, or what virtq_driver_get() says. */
static int take_now(struct virtq_pool *pool, struct virtq_chain *chains, unsigned int max)
{
	struct virtq_completion done[POOL_CHUNK];
	struct item *const items = pool->items;
	const uint32_t held = pool->held_state;
	unsigned int n = 0, asked, first, kept = 0;
	int got = 0;

	if (UNLIKELY(pool->used_count))
		n = take_found(pool, chains, max);
	first = n;
	do {
		asked = max - n < POOL_CHUNK ? max - n : POOL_CHUNK;
		if (!asked)
			break;
		got = virtq_driver_get(pool->q, done, asked);
		for (int i = 0; i < got; i++) {
			uint32_t slot = (uint32_t)(uintptr_t)done[i].token;
			struct item *item = &items[slot];
			uint32_t state = item->state;

			if (UNLIKELY(state & ITEM_FORGET)) {
				drop_taken(pool, item, done[i].id);
				continue;
			}
			if (LIKELY(done[i].id != VIRTQ_NOT_KEPT)) {
				item->state = (state & ITEM_MANY) | held;
				item->kept = done[i].id;
				kept++;
			} else {
				item->state = (state & ITEM_MANY) | ITEM_HELD;
			}
			item->written = done[i].written;
			chains[n].id = item->id;
			chains[n].slot = slot;
			chains[n++].written = done[i].written;
		}
	} while (got == (int)asked);
	pool->held += n - first;
	if (held & ITEM_KEPT)
		pool->held_kept += kept;
	if (UNLIKELY(pool->guard))
		open_taken(pool, chains + first, n - first);
	/* Items are free now, or ring entries, or somebody is to look after the call fd again. */
	if (UNLIKELY(pool->room_waiters))
		wait_wake_room(pool);
	return n || got >= 0 ? (int)n : got;
}

/* There is nothing to take. Wait for it, and leave the pool. */
NEVER_INLINE static int take_waiting(struct virtq_pool *pool, struct virtq_chain *chains,
				     unsigned int max, const struct virtq_wait *wait)
{
	struct waiter w;
	int rc = wait_begin(pool, &w, wait, false), slept;

	if (rc)
		return pool_leave(pool, rc);
	do {
		slept = wait_sleep(pool, &w);
		rc = slept < 0 ? slept : take_now(pool, chains, max);
	} while (!rc && slept);
	return wait_leave(pool, &w, rc);
}

int virtq_pool_take(struct virtq_pool *pool, struct virtq_chain *chains, unsigned int max,
		    const struct virtq_wait *wait)
{
	int rc = pool_enter(pool);

	if (UNLIKELY(rc))
		return pool_leave(pool, rc);
	/* Whoever armed it to sleep elsewhere is awake. Of several threads nobody knows that. */
	if (UNLIKELY(pool->armed) && !pool->threads) {
		pool->armed = false;
		virtq_driver_disarm(pool->q);
	}
	rc = take_now(pool, chains, max);
	if (!rc && max && wait && wait->timeout_ms)
		return take_waiting(pool, chains, max, wait);
	return pool_leave(pool, rc);
}

/* ---- Giving up ----------------------------------------------------------- */

void pool_release(struct virtq_pool *pool, struct item *item)
{
	pool_unkeep(pool, item);
	pool_dismantle(pool, item);
	pool->held--;
}

/* The fast way: chains of one element. Stops before everything else. */
static unsigned int free_singles(struct virtq_pool *pool, const struct virtq_chain *chains,
				 unsigned int count)
{
	const uint32_t item_count = pool->item_count, held = pool->held_state;
	struct item *const items = pool->items;
	uint32_t *const free = pool->free + pool->free_count;
	uint32_t kept[POOL_CHUNK];
	unsigned int n = 0;

	if (count > POOL_CHUNK)
		count = POOL_CHUNK;
	for (; n < count; n++) {
		struct item *item = pool_find_in(items, item_count, &chains[n]);

		if (UNLIKELY(!item || item->state != held))
			break;
		kept[n] = item->kept;
		item->state = ITEM_FREE;
		free[n] = chains[n].slot;
	}
	if (held & ITEM_KEPT) {
		virtq_driver_free(pool->q, kept, n);
		pool->held_kept -= n;
	}
	pool->free_count += n;
	pool->held -= n;
	return n;
}

static int free_one(struct virtq_pool *pool, const struct virtq_chain *chain)
{
	struct item *item = pool_find(pool, chain);

	if (!item)
		return -ESTALE;
	if ((item->state & ITEM_STATE) != ITEM_HELD)
		return -EBUSY;
	pool_release(pool, item);
	return 0;
}

int virtq_pool_free(struct virtq_pool *pool, const struct virtq_chain *chains,
		    unsigned int count)
{
	unsigned int n = 0;
	int rc = pool_enter(pool);

	while (n < count && LIKELY(!rc)) {
		unsigned int done = free_singles(pool, chains + n, count - n);

		if (UNLIKELY(!done)) {
			rc = free_one(pool, chains + n);
			done = !rc;
		}
		n += done;
	}
	if (UNLIKELY(n && pool->room_waiters))
		wait_wake_room(pool);
	return pool_leave(pool, n ? (int)n : rc);
}

/* Take @slot out of those that wait to be taken. Seldom: they are moved up one by one. */
static void forget_used(struct virtq_pool *pool, uint32_t slot)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < pool->used_count; i++) {
		uint32_t one = pool->used[(pool->used_first + i) & pool->used_mask];

		if (one != slot)
			pool->used[(pool->used_first + kept++) & pool->used_mask] = one;
	}
	pool->used_count = kept;
}

int virtq_pool_abandon(struct virtq_pool *pool, const struct virtq_chain *chains,
		       unsigned int count)
{
	unsigned int n = 0;
	int rc = pool_enter(pool);

	for (; n < count && !rc; n++) {
		struct item *item = pool_find(pool, &chains[n]);

		if (!item) {
			rc = -ESTALE;
			break;
		}
		switch (item->state & ITEM_STATE) {
		case ITEM_HELD:
			pool_release(pool, item);
			break;
		case ITEM_USED:
			forget_used(pool, chains[n].slot);
			if (pool->guard)
				pool_guard(pool, item, false);
			pool_dismantle(pool, item);
			break;
		default:
			/* Under an id that nobody has: the handle is stale from now on. */
			pool->forgotten += !(item->state & ITEM_FORGET);
			item->state |= ITEM_FORGET;
			item->id = ++pool->last_id;
		}
	}
	if (n && pool->room_waiters)
		wait_wake_room(pool);
	return pool_leave(pool, n ? (int)n : rc);
}
