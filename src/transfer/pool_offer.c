/* SPDX-License-Identifier: MIT */
/*
 * Offering chains and offering them again.
 *
 * The fast way is for chains of one item that is one element, a chunk of them
 * with one call of the driver end: loops without calls, the counters in locals. It
 * stops before everything else. The slow way, offer_one() and
 * recycle_one(), takes any chain, and each refusal is written there.
 *
 * Both give the elements to the ring before the items are filled: nothing
 * is seen before the publication, and what does not fit is not copied in vain.
 */
#include <string.h>

#include "ring/driver_add.h"
#include "transfer/pool.h"

/* What a call is to offer: @offers, or as often the same. */
struct demand {
	const struct virtq_offer *offers;	/* NULL: each of them is @each */
	struct virtq_offer each;
	unsigned int count, done;
	struct virtq_chain *chains;
	bool lacks_items;		/* after -ENOSPC: those, or else ring entries */
};

/* ---- The fast way -------------------------------------------------------- */

/*
 * Chains of one element that have been prepared: @bufs of them, under the ids
 * after pool->last_id, of the items that are next on the stack. Return: how many
 * the ring took; the others are free again, in the same order.
 */
ALWAYS_INLINE unsigned int add_fresh(struct virtq_pool *pool, const struct virtq_buffer *bufs,
				     unsigned int count, struct virtq_chain *chains)
{
	const uint32_t *free = pool->free + pool->free_count - 1;
	const uint64_t id = pool->last_id + 1;
	int rc = virtq_driver_add(pool->q, bufs, count);
	unsigned int added = rc > 0 ? (unsigned int)rc : 0;

	for (unsigned int i = added; UNLIKELY(i < count); i++)
		pool->items[free[-(int)i]].state = ITEM_FREE;
	if (chains)
		for (unsigned int i = 0; i < added; i++)
			chains[i] = (struct virtq_chain){ .id = id + i, .slot = free[-(int)i] };
	pool->free_count -= added;
	pool->last_id += added;
	return added;
}

/* What a chain of one element is, as struct virtq_buffer has it: both counts are one store. */
struct kind {
	uint16_t readable, writable;
};

ALWAYS_INLINE void set_single(struct virtq_buffer *buf, const struct item *item, uint32_t slot,
			      bool readable)
{
	static const struct kind one_readable = { 1, 0 }, one_writable = { 0, 1 };
	uint32_t both;

	_Static_assert(offsetof(struct virtq_buffer, writable) ==
		       offsetof(struct virtq_buffer, readable) + sizeof(uint16_t), "side by side");
	memcpy(&both, readable ? &one_readable : &one_writable, sizeof(both));
	memcpy(&buf->readable, &both, sizeof(both));
	buf->segs = &item->seg;
	buf->token = (void *)(uintptr_t)slot;
}

static unsigned int chunk_of(const struct virtq_pool *pool, unsigned int count)
{
	if (count > POOL_CHUNK)
		count = POOL_CHUNK;
	return count < pool->free_count ? count : pool->free_count;
}

NEVER_INLINE static void close_fresh(struct virtq_pool *pool, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		pool_guard(pool, &pool->items[pool->free[pool->free_count + i]], true);
}

static unsigned int offer_writables(struct virtq_pool *pool, unsigned int count, uint32_t bytes,
				    struct virtq_chain *chains)
{
	struct virtq_buffer bufs[POOL_CHUNK];
	struct item *const items = pool->items;
	const uint32_t *free = pool->free + pool->free_count;
	uint64_t id = pool->last_id;

	count = chunk_of(pool, count);
	if (UNLIKELY(!bytes || bytes > pool->item_bytes || !count))
		return 0;
	for (unsigned int i = 0; i < count; i++) {
		uint32_t slot = *--free;
		struct item *item = &items[slot];

		item->seg.len = bytes;
		item->readable_bytes = 0;
		item->writable_bytes = bytes;
		item->state = ITEM_OFFERED;
		item->id = ++id;
		set_single(&bufs[i], item, slot, false);
	}
	count = add_fresh(pool, bufs, count, chains);
	if (UNLIKELY(pool->guard))
		close_fresh(pool, count);
	return count;
}

/* The length of a chain of one item that is one element; 0 if it is something else. */
ALWAYS_INLINE uint32_t single_bytes(const struct virtq_offer *offer, uint32_t item_bytes)
{
	uint64_t bytes = offer->header_bytes;

	if (UNLIKELY(offer->flags & ~VIRTQ_OFFER_FORGET || (bytes && !offer->header)))
		return 0;
	for (uint32_t p = 0; p < offer->part_count; p++) {
		if (UNLIKELY(offer->parts[p].len > item_bytes))
			return 0;
		bytes += offer->parts[p].len;
	}
	if (offer->writable_bytes) {
		if (UNLIKELY(bytes))
			return 0;
		bytes = offer->writable_bytes;
	}
	return bytes <= item_bytes ? (uint32_t)bytes : 0;
}

static unsigned int offer_singles(struct virtq_pool *pool, const struct virtq_offer *offers,
				  unsigned int count, struct virtq_chain *chains)
{
	struct virtq_buffer bufs[POOL_CHUNK];
	struct item *const items = pool->items;
	const uint32_t item_bytes = pool->item_bytes;
	const uint32_t *free = pool->free + pool->free_count;
	uint64_t id = pool->last_id;
	unsigned int n = 0;

	count = chunk_of(pool, count);
	for (; n < count; n++) {
		uint32_t slot = free[-1], bytes = single_bytes(&offers[n], item_bytes);
		uint32_t writable = offers[n].writable_bytes;
		struct item *item = &items[slot];

		if (UNLIKELY(!bytes))
			break;
		free--;
		item->seg.len = bytes;
		item->readable_bytes = bytes - writable;
		item->writable_bytes = writable;
		item->state = ITEM_OFFERED |
			      (offers[n].flags & VIRTQ_OFFER_FORGET ? ITEM_FORGET : 0);
		item->id = ++id;
		set_single(&bufs[n], item, slot, !writable);
	}
	if (UNLIKELY(!n))
		return 0;
	n = add_fresh(pool, bufs, n, chains);
	for (unsigned int i = 0; i < n; i++) {
		const struct virtq_offer *offer = &offers[i];
		uint32_t slot = (uint32_t)(uintptr_t)bufs[i].token;
		uint8_t *to = pool->host + (uint64_t)slot * item_bytes;

		pool->forgotten += offer->flags & VIRTQ_OFFER_FORGET;
		if (offer->header_bytes) {
			memcpy(to, offer->header, offer->header_bytes);
			to += offer->header_bytes;
		}
		for (uint32_t p = 0; p < offer->part_count; p++) {
			if (!offer->parts[p].len)
				continue;
			memcpy(to, offer->parts[p].base, offer->parts[p].len);
			to += offer->parts[p].len;
		}
	}
	if (UNLIKELY(pool->guard))
		close_fresh(pool, n);
	return n;
}

/* ---- The slow way -------------------------------------------------------- */

/* Where the device sees a header by reference; 0 if it does not. */
static uint64_t header_addr(const struct virtq_pool *pool, const struct virtq_offer *offer)
{
	uintptr_t offset = (uintptr_t)offer->header - (uintptr_t)pool->reserved;

	if (offset >= pool->reserve_bytes || offer->header_bytes > pool->reserve_bytes - offset)
		return 0;
	return pool->extra_gpa + offset;
}

/*
 * What the chain of @offer will need, and in *@addr where the device sees a header by
 * reference. Return: 0, or why there will never be one.
 */
static int plan_offer(const struct virtq_pool *pool, const struct virtq_offer *offer,
		      struct plan *plan, uint64_t *addr)
{
	bool reference = offer->header_bytes && offer->flags & VIRTQ_OFFER_REFERENCE;
	uint64_t readable = reference ? 0 : offer->header_bytes;

	*addr = 0;
	if (offer->flags & ~(VIRTQ_OFFER_FORGET | VIRTQ_OFFER_REFERENCE) ||
	    (!reference && offer->header_bytes && !offer->header))
		return -EINVAL;
	if (reference) {
		*addr = header_addr(pool, offer);
		if (!*addr)
			return -EFAULT;
	}
	for (uint32_t p = 0; p < offer->part_count; p++) {
		if (offer->parts[p].len > UINT32_MAX)
			return -EMSGSIZE;
		readable += offer->parts[p].len;
	}
	return pool_plan(pool, plan, reference ? offer->header_bytes : 0, readable,
			 offer->writable_bytes);
}

static int offer_one(struct virtq_pool *pool, const struct virtq_offer *offer,
		     struct virtq_chain *chain, bool *lacks_items)
{
	struct item *item;
	struct plan plan;
	uint64_t addr;
	uint32_t at = 0;
	int rc = plan_offer(pool, offer, &plan, &addr);

	if (rc)
		return rc;
	*lacks_items = plan.items > pool->free_count;
	if (*lacks_items)
		return -ENOSPC;

	item = pool_build(pool, &plan);
	item->header_addr = addr;
	rc = pool_add(pool, item);
	if (rc) {
		pool_dismantle(pool, item);
		return rc;
	}
	if (!addr && offer->header_bytes)
		at = pool_fill(pool, item, 0, offer->header, offer->header_bytes);
	for (uint32_t p = 0; p < offer->part_count; p++)
		at += pool_fill(pool, item, at, offer->parts[p].base, offer->parts[p].len);
	item->id = ++pool->last_id;
	item->state = (item->state & ITEM_MANY) | ITEM_OFFERED;
	if (offer->flags & VIRTQ_OFFER_FORGET) {
		item->state |= ITEM_FORGET;
		pool->forgotten++;
	}
	if (pool->guard)
		pool_guard(pool, item, true);
	if (chain)
		*chain = (struct virtq_chain){ .id = item->id, .slot = pool_slot(pool, item) };
	return 0;
}

/* Nothing is offered, but what can never be is not waited for either. */
NEVER_INLINE static int offer_paused(const struct virtq_pool *pool, const struct demand *d)
{
	const struct virtq_offer *next = d->offers ? d->offers + d->done : &d->each;
	struct plan plan;
	uint64_t addr;
	int rc = d->done < d->count ? plan_offer(pool, next, &plan, &addr) : 0;

	return rc ? rc : -EAGAIN;
}

/* Offer what is left of @d. Return: 0 if that was all, or why the next one was refused. */
static int offer_now(struct virtq_pool *pool, struct demand *d)
{
	if (UNLIKELY(pool->paused))
		return offer_paused(pool, d);
	while (d->done < d->count) {
		const struct virtq_offer *offers = d->offers ? d->offers + d->done : &d->each;
		struct virtq_chain *chains = d->chains ? d->chains + d->done : NULL;
		unsigned int left = d->count - d->done, n;

		n = d->offers ? offer_singles(pool, offers, left, chains) :
				offer_writables(pool, left, d->each.writable_bytes, chains);
		if (UNLIKELY(!n)) {
			int rc = offer_one(pool, offers, chains, &d->lacks_items);

			if (rc == -ENOSPC && !d->lacks_items && pool_unkeep_held(pool))
				continue;
			if (rc)
				return rc;
			n = 1;
		}
		d->done += n;
	}
	return 0;
}

/*
 * With one thread: can waiting help at all? Items come from what is freed as
 * it comes back, ring entries from all that does: pool_reap() keeps none.
 */
static bool is_hopeless(const struct virtq_pool *pool, const struct demand *d)
{
	if (pool->threads)
		return false;
	if (pool->paused)
		return true;
	return d->lacks_items ? !pool->forgotten : !virtq_driver_in_flight(pool->q);
}

static bool may_wait(int rc)
{
	return rc == -ENOSPC || rc == -EAGAIN;
}

/* There was no room for all of @d. Look whether some was made. */
NEVER_INLINE static int offer_looking(struct virtq_pool *pool, struct demand *d)
{
	int rc = pool_reap(pool);

	if (rc >= 0)
		rc = rc || pool->paused ? offer_now(pool, d) : -ENOSPC;
	return rc;
}

/* What was offered is shown. Return: how many those are, or @rc. */
static int offered(struct virtq_pool *pool, const struct demand *d, unsigned int flags, int rc)
{
	if (d->done && !(flags & VIRTQ_POOL_MORE))
		pool_publish(pool);
	return d->done ? (int)d->done : rc;
}

/* Wait for room for what is left of @d, and leave the pool. */
NEVER_INLINE static int offer_waiting(struct virtq_pool *pool, struct demand *d,
				      unsigned int flags, const struct virtq_wait *wait)
{
	struct waiter w;
	int rc = wait_begin(pool, &w, wait, true);

	if (rc)
		return pool_leave(pool, offered(pool, d, flags, rc));
	for (;;) {
		int slept = is_hopeless(pool, d) ? -EDEADLK : wait_sleep(pool, &w);

		rc = slept;
		if (slept >= 0)
			rc = pool_reap(pool);
		if (rc >= 0)
			rc = offer_now(pool, d);
		if (!may_wait(rc) || slept <= 0)
			break;
	}
	return wait_leave(pool, &w, offered(pool, d, flags, rc));
}

static int offer_all(struct virtq_pool *pool, struct demand *d, unsigned int flags,
		     const struct virtq_wait *wait)
{
	int rc = pool_enter(pool);

	if (UNLIKELY(!rc && flags & ~VIRTQ_POOL_MORE))
		rc = -EINVAL;
	if (UNLIKELY(rc))
		return pool_leave(pool, rc);
	rc = offer_now(pool, d);
	if (UNLIKELY(may_wait(rc)))
		rc = offer_looking(pool, d);
	if (UNLIKELY(may_wait(rc) && wait && wait->timeout_ms))
		return offer_waiting(pool, d, flags, wait);
	return pool_leave(pool, offered(pool, d, flags, rc));
}

int virtq_pool_offer(struct virtq_pool *pool, const struct virtq_offer *offers,
		     unsigned int count, struct virtq_chain *chains, unsigned int flags,
		     const struct virtq_wait *wait)
{
	struct demand d = { .offers = offers, .count = count, .chains = chains };

	return offer_all(pool, &d, flags, wait);
}

int virtq_pool_offer_writable(struct virtq_pool *pool, unsigned int count, uint32_t bytes,
			      struct virtq_chain *chains, unsigned int flags,
			      const struct virtq_wait *wait)
{
	struct demand d = { .each.writable_bytes = bytes, .count = count, .chains = chains };

	return offer_all(pool, &d, flags, wait);
}

/* ---- Again --------------------------------------------------------------- */

#define STATE_KEPT (ITEM_HELD | ITEM_KEPT)

/* Chains to be recycled, by one of the two fast ways; @items and @id are as in the pool. */
struct recycling {
	struct virtq_chain *next;
	struct item *items;
	uint32_t item_count;
	uint64_t id;
	void *token;			/* of the last one */
};

/*
 * The next chain, if it is one of the caller's in @state but for bits of @mask; else NULL.
 * The handle gets the new id too, so that one given twice is stale the second time.
 */
ALWAYS_INLINE struct item *recycle_next(struct recycling *r, uint32_t mask, uint32_t state)
{
	struct virtq_chain *chain = r->next;
	uint32_t slot = chain->slot;
	struct item *item = &r->items[slot];

	if (UNLIKELY(slot >= r->item_count || (item->state & ~mask) != state ||
		     item->id != chain->id))
		return NULL;
	item->state ^= state ^ ITEM_OFFERED;
	item->id = chain->id = ++r->id;
	r->token = (void *)(uintptr_t)slot;
	r->next = chain + 1;
	return item;
}

/* Take over that @n from @chains on are with the ring. */
ALWAYS_INLINE unsigned int recycled(struct virtq_pool *pool, const struct virtq_chain *chains,
				    unsigned int n)
{
	pool->last_id += n;
	pool->held -= n;
	if (UNLIKELY(pool->guard))
		for (unsigned int i = 0; i < n; i++)
			pool_guard(pool, &pool->items[chains[i].slot], true);
	return n;
}

/* Chains that have their ring entries still, however many those are. The queue is not dead. */
static unsigned int recycle_kept(struct virtq_pool *pool, struct virtq_chain *chains,
				 unsigned int count)
{
	struct recycling r = { chains, pool->items, pool->item_count, pool->last_id, NULL };
	struct virtq_completion kept[POOL_CHUNK];
	unsigned int n = 0;
	int done;

	if (count > POOL_CHUNK)
		count = POOL_CHUNK;
	for (; n < count; n++) {
		struct item *item = recycle_next(&r, ITEM_MANY, STATE_KEPT);

		if (UNLIKELY(!item))
			break;
		kept[n].token = r.token;
		kept[n].id = item->kept;
	}
	if (UNLIKELY(!n))
		return 0;
	done = virtq_driver_again(pool->q, kept, n);
	/* Nobody else has let go of them. */
	VIRTQ_ASSERT(done == (int)n);
	(void)done;
	pool->held_kept -= n;
	return recycled(pool, chains, n);
}

/* Chains of one element. */
ALWAYS_INLINE bool next_recycled(void *of, struct single *single)
{
	struct recycling *r = of;
	struct item *item = recycle_next(r, 0, ITEM_HELD);

	if (UNLIKELY(!item))
		return false;
	single->addr = item->seg.addr;
	single->len = item->seg.len;
	single->writable = !item->readable_bytes;
	single->token = &r->token;
	return true;
}

ALWAYS_INLINE int recycle_singles(struct virtq_pool *pool, struct virtq_chain *chains,
				  unsigned int count, const enum ring_layout layout)
{
	struct recycling r = { chains, pool->items, pool->item_count, pool->last_id, NULL };

	return (int)recycled(pool, chains, driver_add_singles(pool->q, next_recycled, &r, count,
							      layout));
}

LAYOUT_EACH(recycle_singles,
	    (struct virtq_pool *pool, struct virtq_chain *chains, unsigned int count), pool, chains,
	    count)

/* As many from the front of @chains as go one of the fast ways. */
static unsigned int recycle_some(struct virtq_pool *pool, struct virtq_chain *chains,
				 unsigned int count)
{
	if (UNLIKELY(pool->q->dead))
		return 0;
	if (pool->held_state & ITEM_KEPT) {
		unsigned int n = recycle_kept(pool, chains, count);

		if (n)
			return n;
	}
	LAYOUT_CALL(pool->q->layout, recycle_singles, pool, chains, count);
}

static int recycle_one(struct virtq_pool *pool, struct virtq_chain *chain)
{
	struct item *item = pool_find(pool, chain);
	int rc;

	if (!item)
		return -ESTALE;
	if ((item->state & ITEM_STATE) != ITEM_HELD)
		return -EBUSY;
	if ((item->state & ~ITEM_MANY) == STATE_KEPT) {
		struct virtq_completion kept = { .token = (void *)(uintptr_t)chain->slot,
						 .id = item->kept };

		rc = virtq_driver_again(pool->q, &kept, 1);
		pool->held_kept -= rc == 1;
	} else {
		pool_unkeep(pool, item);
		rc = pool_add(pool, item);
		if (rc == -ENOSPC && pool_unkeep_held(pool))
			rc = pool_add(pool, item);
	}
	if (rc < 0)
		return rc;
	item->state = (item->state & ITEM_MANY) | ITEM_OFFERED;
	item->id = ++pool->last_id;
	chain->id = item->id;
	pool->held--;
	if (pool->guard)
		pool_guard(pool, item, true);
	return 0;
}

int virtq_pool_recycle(struct virtq_pool *pool, struct virtq_chain *chains, unsigned int count,
		       unsigned int flags)
{
	unsigned int n = 0;
	int rc = pool_enter(pool);

	if (UNLIKELY(!rc && flags & ~VIRTQ_POOL_MORE))
		rc = -EINVAL;
	if (UNLIKELY(!rc && pool->paused))
		rc = -EAGAIN;
	while (n < count && LIKELY(!rc)) {
		unsigned int done = recycle_some(pool, chains + n, count - n);

		if (UNLIKELY(!done)) {
			rc = recycle_one(pool, chains + n);
			done = !rc;
		}
		n += done;
	}
	if (n && !(flags & VIRTQ_POOL_MORE))
		pool_publish(pool);
	return pool_leave(pool, n ? (int)n : rc);
}
