/* SPDX-License-Identifier: MIT */
/*
 * Chains of a pool: made of items, given to the ring, looked at in place,
 * taken apart.
 *
 * How long a chain is and of what it is made stands in private records. UNTRUSTED
 * is only what lies in the items themselves: a device that does not
 * keep to the rules may change that also after it gave the chain back.
 */
#include <string.h>
#include <sys/mman.h>

#include "transfer/pool.h"

#define CHAIN_BYTES_MAX ((uint64_t)1 << 32)	/* VIRTIO 1.4, 2.7.5 */

/* ---- Making and taking apart -------------------------------------------- */

static uint64_t items_for(const struct virtq_pool *pool, uint64_t bytes)
{
	return (bytes + pool->item_bytes - 1) / pool->item_bytes;
}

int pool_plan(const struct virtq_pool *pool, struct plan *plan, uint64_t header_bytes,
	      uint64_t readable_bytes, uint64_t writable_bytes)
{
	uint64_t readable, writable, items, elements;

	if (!header_bytes && !readable_bytes && !writable_bytes)
		return -EINVAL;
	if (readable_bytes > UINT32_MAX || writable_bytes > UINT32_MAX ||
	    header_bytes + readable_bytes + writable_bytes > CHAIN_BYTES_MAX)
		return -EMSGSIZE;
	readable = items_for(pool, readable_bytes);
	writable = items_for(pool, writable_bytes);
	elements = readable + writable + (header_bytes != 0);
	items = readable + writable ? readable + writable : 1;
	if (items > pool->item_count || elements > pool->elements_max)
		return -EMSGSIZE;
	*plan = (struct plan){
		.readable_bytes = (uint32_t)readable_bytes,
		.writable_bytes = (uint32_t)writable_bytes,
		.header_bytes = (uint32_t)header_bytes,
		.readable_items = (uint32_t)readable, .items = (uint32_t)items,
		.elements = (uint32_t)elements,
	};
	return 0;
}

struct item *pool_build(struct virtq_pool *pool, const struct plan *plan)
{
	const uint32_t *free = pool->free + pool->free_count;
	struct item *first = &pool->items[free[-1]], *last = first;

	for (uint32_t i = 1; i < plan->items; i++) {
		last->next = free[-1 - (int64_t)i];
		last = &pool->items[last->next];
		last->state = ITEM_MEMBER;
	}
	pool->free_count -= plan->items;
	first->readable_bytes = plan->readable_bytes;
	first->writable_bytes = plan->writable_bytes;
	first->readable_items = plan->readable_items;
	first->header_bytes = plan->header_bytes;
	first->written = 0;
	first->state = ITEM_HELD;
	if (plan->elements > 1 || plan->header_bytes)
		first->state |= ITEM_MANY;
	else
		first->seg.len = plan->readable_bytes | plan->writable_bytes;
	return first;
}

void pool_dismantle(struct virtq_pool *pool, struct item *item)
{
	uint32_t slot = pool_slot(pool, item), count = 1, *free;

	for (uint32_t at = item->next; at != NO_ITEM; at = pool->items[at].next)
		count++;
	/* Back to front, so that the same would be made of them again. */
	free = pool->free + pool->free_count + count;
	pool->free_count += count;
	item->header_bytes = 0;
	while (slot != NO_ITEM) {
		item = &pool->items[slot];
		*--free = slot;
		slot = item->next;
		item->next = NO_ITEM;
		item->state = ITEM_FREE;
	}
}

void pool_unkeep(struct virtq_pool *pool, struct item *item)
{
	if (!(item->state & ITEM_KEPT))
		return;
	virtq_driver_free(pool->q, &item->kept, 1);
	item->state &= ~(ITEM_KEPT | ITEM_RESIZED);
	pool->held_kept--;
}

bool pool_unkeep_held(struct virtq_pool *pool)
{
	bool any = pool->held_kept != 0;

	for (uint32_t i = 0; i < pool->item_count && pool->held_kept; i++)
		pool_unkeep(pool, &pool->items[i]);
	return any;
}

void pool_guard(struct virtq_pool *pool, const struct item *item, bool closed)
{
	uint32_t slot = pool_slot(pool, item);

	/* If the kernel has no more room for ranges, a stray access goes unnoticed. */
	for (; slot != NO_ITEM; slot = pool->items[slot].next)
		mprotect(pool->host + (uint64_t)slot * pool->item_bytes, pool->item_bytes,
			 closed ? PROT_NONE : PROT_READ | PROT_WRITE);
}

/* ---- Its parts ---------------------------------------------------------- */

/* Items set aside for the readable part; at least as many as it needs. */
static uint32_t readable_items(const struct item *item)
{
	return item->state & ITEM_MANY ? item->readable_items : item->readable_bytes != 0;
}

/* Where a part is: from item @first of the chain on, so many bytes. */
struct part {
	uint32_t first, bytes;
};

static int find_part(const struct item *item, enum virtq_part which, struct part *part)
{
	switch (which) {
	case VIRTQ_PART_READABLE:
		*part = (struct part){ 0, item->readable_bytes };
		return 0;
	case VIRTQ_PART_WRITABLE:
		*part = (struct part){ readable_items(item), item->writable_bytes };
		return 0;
	case VIRTQ_PART_WRITTEN:
		*part = (struct part){ readable_items(item), item->written };
		return 0;
	}
	return -EINVAL;
}

/* Goes through the pieces of a part, an item each. */
struct walk {
	const struct virtq_pool *pool;
	uint32_t slot, offset, left;
};

static struct walk walk_part(const struct virtq_pool *pool, const struct item *item,
			     struct part part, uint32_t offset)
{
	struct walk walk = { pool, pool_slot(pool, item), 0, 0 };
	uint32_t skip = part.first;

	if (offset >= part.bytes)
		return walk;
	walk.left = part.bytes - offset;
	skip += offset / pool->item_bytes;
	walk.offset = offset % pool->item_bytes;
	while (skip--)
		walk.slot = pool->items[walk.slot].next;
	return walk;
}

/* The next piece, at most @max bytes of it; its length is 0 at the end. */
static struct virtq_span walk_next(struct walk *walk, uint64_t max)
{
	const struct virtq_pool *pool = walk->pool;
	uint32_t len = pool->item_bytes - walk->offset;
	struct virtq_span span = { NULL, 0 };

	if (len > walk->left)
		len = walk->left;
	if (len > max)
		len = (uint32_t)max;
	if (!len)
		return span;
	span.base = pool->host + (uint64_t)walk->slot * pool->item_bytes + walk->offset;
	span.len = len;
	walk->left -= len;
	walk->offset += len;
	if (walk->offset == pool->item_bytes && walk->left) {
		walk->slot = pool->items[walk->slot].next;
		walk->offset = 0;
	}
	return span;
}

uint32_t pool_fill(struct virtq_pool *pool, const struct item *item, uint32_t offset,
		   const void *src, size_t bytes)
{
	struct part part = { 0, item->readable_bytes };
	struct walk walk = walk_part(pool, item, part, offset);
	uint32_t done = 0;

	for (;;) {
		struct virtq_span span = walk_next(&walk, bytes - done);

		if (!span.len)
			return done;
		memcpy(span.base, (const uint8_t *)src + done, span.len);
		done += (uint32_t)span.len;
	}
}

/* ---- Into the ring ------------------------------------------------------ */

/* Elements for @bytes in the items from *@slot on. */
static uint32_t elements_of(const struct virtq_pool *pool, uint32_t *slot, uint32_t bytes,
			    struct virtq_seg *segs)
{
	uint32_t count = 0;

	while (bytes) {
		const struct item *item = &pool->items[*slot];

		segs[count].addr = item->seg.addr;
		segs[count].len = bytes < pool->item_bytes ? bytes : pool->item_bytes;
		bytes -= segs[count++].len;
		*slot = item->next;
	}
	return count;
}

int pool_add(struct virtq_pool *pool, struct item *item)
{
	struct virtq_buffer buf = { .token = (void *)(uintptr_t)pool_slot(pool, item) };
	uint32_t slot = pool_slot(pool, item), n = 0, spare;
	struct virtq_seg *segs = pool->segs;
	int rc;

	buf.segs = segs;
	if (item->header_bytes)
		segs[n++] = (struct virtq_seg){ item->header_addr, item->header_bytes };
	n += elements_of(pool, &slot, item->readable_bytes, segs + n);
	buf.readable = (uint16_t)n;
	/* A readable part that was made shorter leaves items behind it unused. */
	spare = readable_items(item) - (n - (item->header_bytes != 0));
	while (spare--)
		slot = pool->items[slot].next;
	buf.writable = (uint16_t)elements_of(pool, &slot, item->writable_bytes, segs + n);
	rc = virtq_driver_add(pool->q, &buf, 1);
	return rc < 0 ? rc : 0;
}

/* ---- The caller's ------------------------------------------------------- */

int virtq_pool_alloc(struct virtq_pool *pool, uint32_t readable_bytes, uint32_t writable_bytes,
		     struct virtq_chain *chain)
{
	struct plan plan;
	struct item *item;
	int rc = pool_enter(pool);

	if (!rc)
		rc = pool_plan(pool, &plan, 0, readable_bytes, writable_bytes);
	if (!rc && plan.items > pool->free_count && pool->forgotten) {
		rc = pool_reap(pool);
		rc = rc < 0 ? rc : 0;
	}
	if (!rc && plan.items > pool->free_count)
		rc = -ENOSPC;
	if (rc)
		return pool_leave(pool, rc);
	item = pool_build(pool, &plan);
	item->id = ++pool->last_id;
	pool->held++;
	*chain = (struct virtq_chain){ .id = item->id, .slot = pool_slot(pool, item) };
	return pool_leave(pool, 0);
}

/* A chain of the caller's in *@item, or why it is none. */
static int find_held(const struct virtq_pool *pool, const struct virtq_chain *chain,
		     struct item **item)
{
	*item = pool_find(pool, chain);
	if (!*item)
		return -ESTALE;
	return ((*item)->state & ITEM_STATE) == ITEM_HELD ? 0 : -EBUSY;
}

/* The same, and which part of it. */
static int find_held_part(const struct virtq_pool *pool, const struct virtq_chain *chain,
			  enum virtq_part which, struct item **item, struct part *part)
{
	int rc = find_held(pool, chain, item);

	return rc ? rc : find_part(*item, which, part);
}

int virtq_pool_spans(struct virtq_pool *pool, const struct virtq_chain *chain,
		     enum virtq_part which, struct virtq_span *spans, unsigned int max)
{
	struct item *item;
	struct part part;
	struct walk walk;
	unsigned int n = 0;
	int rc = pool_enter(pool);

	if (!rc)
		rc = find_held_part(pool, chain, which, &item, &part);
	if (rc)
		return pool_leave(pool, rc);
	walk = walk_part(pool, item, part, 0);
	for (;;) {
		struct virtq_span span = walk_next(&walk, UINT32_MAX);

		if (!span.len)
			return pool_leave(pool, (int)n);
		if (n == max)
			return pool_leave(pool, -ENOSPC);
		spans[n++] = span;
	}
}

int64_t virtq_pool_copy_out(struct virtq_pool *pool, const struct virtq_chain *chain,
			    enum virtq_part which, uint32_t offset, void *dst, uint32_t max)
{
	struct item *item;
	struct part part;
	struct walk walk;
	uint32_t done = 0;
	int rc = pool_enter(pool);

	if (!rc)
		rc = find_held_part(pool, chain, which, &item, &part);
	if (rc)
		return pool_leave(pool, rc);
	walk = walk_part(pool, item, part, offset);
	for (;;) {
		struct virtq_span span = walk_next(&walk, max - done);

		if (!span.len)
			break;
		memcpy((uint8_t *)dst + done, span.base, span.len);
		done += (uint32_t)span.len;
	}
	pool_leave(pool, 0);
	return done;
}

int64_t virtq_pool_copy_in(struct virtq_pool *pool, const struct virtq_chain *chain,
			   uint32_t offset, const void *src, uint32_t bytes)
{
	struct item *item;
	uint32_t done;
	int rc = pool_enter(pool);

	if (!rc)
		rc = find_held(pool, chain, &item);
	if (rc)
		return pool_leave(pool, rc);
	done = pool_fill(pool, item, offset, src, bytes);
	pool_leave(pool, 0);
	return done;
}

int virtq_pool_resize(struct virtq_pool *pool, const struct virtq_chain *chain,
		      uint32_t readable_bytes)
{
	struct item *item;
	int rc = pool_enter(pool);

	if (!rc)
		rc = find_held(pool, chain, &item);
	if (rc)
		return pool_leave(pool, rc);
	if (!readable_bytes != !item->readable_bytes)
		return pool_leave(pool, readable_bytes ? -EMSGSIZE : -EINVAL);
	if (items_for(pool, readable_bytes) > readable_items(item) ||
	    (uint64_t)item->header_bytes + readable_bytes + item->writable_bytes >
	    CHAIN_BYTES_MAX)
		return pool_leave(pool, -EMSGSIZE);
	if (readable_bytes != item->readable_bytes) {
		item->readable_bytes = readable_bytes;
		if (!(item->state & ITEM_MANY))
			item->seg.len = readable_bytes;
		if (item->state & ITEM_KEPT)
			item->state |= ITEM_RESIZED;
	}
	return pool_leave(pool, 0);
}
