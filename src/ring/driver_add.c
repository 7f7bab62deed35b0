/* SPDX-License-Identifier: MIT */
/*
 * The driver end of a queue: making buffers available. The fast way, which is in
 * driver_add.h, and the slow one are told apart in docs/decisions/0002-fast-and-slow.md.
 */
#include <virtq/spec/virtio.h>

#include "ring/driver_add.h"

/* ---- Elements, tables, entries ------------------------------------------ */

/* Bytes of @count elements, 0 if one is empty (S-DRV-046). */
ALWAYS_INLINE uint64_t total_bytes(const struct virtq_seg *segs, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (UNLIKELY(!segs[i].len))
			return 0;
		sum += segs[i].len;
	}
	return sum;
}

/*
 * Fill the indirect table that belongs to @table and describe it as one
 * element. Split links the entries by next, packed takes them as they lie and
 * allows no flag but WRITE (2.8.19).
 */
ALWAYS_INLINE struct virtq_seg fill_indirect(struct virtq_driver *q, uint32_t table,
					     const struct virtq_buffer *buf, uint32_t count,
					     const enum ring_layout layout)
{
	size_t first = (size_t)table * q->indirect_entries;
	struct virtq_desc *entries = q->indirect + first;
	struct virtq_seg whole = {
		.addr = q->indirect_addr + first * sizeof(*entries),
		.len = count * (uint32_t)sizeof(*entries),
	};

	for (uint32_t i = 0; i < count; i++) {
		bool more = !LAYOUT_IS_PACKED(layout) && i + 1 < count;
		uint16_t flags = (uint16_t)((i >= buf->readable ? VIRTQ_DESC_F_WRITE : 0) |
					    (more ? VIRTQ_DESC_F_NEXT : 0));

		if (LAYOUT_IS_PACKED(layout)) {
			struct pvirtq_desc *desc = (struct pvirtq_desc *)(void *)&entries[i];

			shm_store64(&desc->addr, buf->segs[i].addr);
			shm_store32(&desc->len, buf->segs[i].len);
			shm_store16(&desc->id, 0);
			shm_store16(&desc->flags, flags);
		} else {
			split_desc_store(&entries[i], buf->segs[i].addr, buf->segs[i].len, flags,
					 more ? (uint16_t)(i + 1) : 0);
		}
	}
	return whole;
}

/* Stage @count elements, for which there is room, and remember the buffer. */
ALWAYS_INLINE void stage(struct virtq_driver *q, const struct virtq_seg *segs,
			 uint32_t readable, uint32_t count, uint16_t flags,
			 uint32_t writable_bytes, void *token, const enum ring_layout layout)
{
	uint16_t head = LAYOUT_IS_PACKED(layout) ?
			packed_driver_stage(&q->packed, segs, readable, count, flags) :
			split_driver_stage(&q->split, q->room, segs, readable, count, flags);

	remember(&q->chains[head], token, q->added++, writable_bytes, count);
	if (LAYOUT_IS_PACKED(layout) && q->kept && count == 1)
		q->kept[head] = (struct entry){ segs->addr,
			packed_desc_rest(segs->len, head,
					 flags | (readable ? 0u : VIRTQ_DESC_F_WRITE)) };
	q->room -= count;
}

/*
 * Whether a chain of @count elements, more than one, goes into a table: long
 * ones do, and all do when ring entries are getting scarce.
 */
ALWAYS_INLINE bool wants_table(const struct virtq_driver *q, uint32_t count)
{
	return q->indirect_on && count > 1 && count <= q->indirect_entries &&
	       (count >= q->indirect_from || 2 * q->room < q->ring.size || count > q->room);
}

/* A buffer of any kind: as a chain, or as one entry that names a table. */
ALWAYS_INLINE int add_one(struct virtq_driver *q, const struct virtq_buffer *buf,
			  const enum ring_layout layout)
{
	uint32_t count = (uint32_t)buf->readable + buf->writable;
	const struct virtq_seg *segs = buf->segs;
	uint64_t readable_bytes = total_bytes(segs, buf->readable);
	uint64_t writable_bytes = total_bytes(segs + buf->readable, buf->writable);
	uint32_t writable;

	if (UNLIKELY(!count || (buf->readable && !readable_bytes) ||
		     (buf->writable && !writable_bytes) ||
		     readable_bytes + writable_bytes > MAX_CHAIN_BYTES))
		return -EINVAL;
	if (UNLIKELY(count > q->segs_max))
		return -EMSGSIZE;
	/* A chain may hold 2^32 bytes, the used length can say one fewer. */
	writable = writable_bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)writable_bytes;

	if (wants_table(q, count)) {
		struct virtq_seg table;

		if (UNLIKELY(!q->room))
			return -ENOSPC;
		/* The table that goes with the head or id that will be taken next. */
		table = fill_indirect(q, LAYOUT_IS_PACKED(layout) ? packed_driver_id(&q->packed) :
					      split_driver_slot(&q->split, q->room, 0),
				      buf, count, layout);
		stage(q, &table, 1, 1, VIRTQ_DESC_F_INDIRECT, writable, buf->token, layout);
	} else if (UNLIKELY(count > q->room)) {
		return count > q->ring.size ? -EMSGSIZE : -ENOSPC;
	} else {
		stage(q, segs, buf->readable, count, 0, writable, buf->token, layout);
	}
	return 0;
}

LAYOUT_EACH(add_one, (struct virtq_driver *q, const struct virtq_buffer *buf), q, buf)

static int add_one_by_layout(struct virtq_driver *q, const struct virtq_buffer *buf)
{
	LAYOUT_CALL(q->layout, add_one, q, buf);
}

/* The elements of a buffer as one word, readable ones below, writable ones above. */
#define ONE_READABLE 1u
#define ONE_WRITABLE (1u << 16)

ALWAYS_INLINE uint32_t elements_of(const struct virtq_buffer *buf)
{
	return buf->readable | (uint32_t)buf->writable << 16;
}

ALWAYS_INLINE bool is_single(const struct virtq_buffer *buf)
{
	uint32_t elements = elements_of(buf);

	return elements == ONE_WRITABLE || elements == ONE_READABLE;
}

/* Buffers that the caller has described, one by one. */
struct described {
	const struct virtq_buffer *next;
};

/* What is not one element, or an empty one, is left to add_one(). */
ALWAYS_INLINE bool next_described(void *of, struct single *single)
{
	struct described *bufs = of;
	const struct virtq_buffer *buf = bufs->next;

	if (UNLIKELY(!is_single(buf)))
		return false;
	single->len = buf->segs->len;
	if (UNLIKELY(!single->len))
		return false;
	single->addr = buf->segs->addr;
	single->writable = buf->writable;
	single->token = &buf->token;
	bufs->next = buf + 1;
	return true;
}

ALWAYS_INLINE int add_all(struct virtq_driver *q, const struct virtq_buffer *bufs,
			  unsigned int count, const enum ring_layout layout)
{
	unsigned int n = 0;

	while (n < count) {
		int rc;

		if (is_single(&bufs[n])) {
			struct described singles = { bufs + n };

			n += driver_add_singles(q, next_described, &singles, count - n, layout);
			if (n == count)
				break;
		}
		rc = add_one_by_layout(q, &bufs[n]);
		if (UNLIKELY(rc))
			return n ? (int)n : rc;
		n++;
	}
	return (int)n;
}

LAYOUT_EACH(add_all, (struct virtq_driver *q, const struct virtq_buffer *bufs, unsigned int count),
	    q, bufs, count)

int virtq_driver_add(struct virtq_driver *q, const struct virtq_buffer *bufs,
		     unsigned int count)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	LAYOUT_CALL(q->layout, add_all, q, bufs, count);
}

/* ---- Entries that were kept --------------------------------------------- */

/*
 * In a split ring the descriptors, and the table, of a kept buffer stand where
 * they stood, and nothing but its head is shown again.
 */
static unsigned int again_split(struct virtq_driver *q, const struct virtq_completion *kept,
				unsigned int count)
{
	struct chain *const chains = q->chains;
	const struct split_ring ring = q->split.ring;
	const uint32_t size = q->ring.size, idx = q->split.avail_idx;
	const uint64_t serial = q->added;
	unsigned int n = 0;

	for (; n < count; n++) {
		uint32_t id = kept[n].id;

		if (UNLIKELY(id >= size || chains[id].serial != KEPT))
			break;
		split_driver_offer(&ring, idx + n, id);
		chains[id].token = kept[n].token;
		chains[id].serial = serial + n;
	}
	q->split.avail_idx = (uint16_t)(idx + n);
	return n;
}

/* In a packed one its descriptor, one, is written once more in its turn; a table stands. */
static unsigned int again_packed(struct virtq_driver *q, const struct virtq_completion *kept,
				 unsigned int count)
{
	const struct packed_ring ring = q->packed.ring;
	struct packed_fill *const fill = &q->packed.fill;
	struct chain *const chains = q->chains;
	const struct entry *const entries = q->kept;
	const uint64_t lap_bits = (uint64_t)(PACKED_AVAIL | PACKED_USED) << 48;
	uint64_t lap = (uint64_t)packed_avail_flags(fill->avail.wrap) << 48, serial = q->added;
	uint32_t slot = fill->avail.slot;
	unsigned int n = 0;

	for (; n < count; n++) {
		uint32_t id = kept[n].id;
		uint64_t rest;

		if (UNLIKELY(id >= ring.size || chains[id].serial != KEPT))
			break;
		rest = (entries[id].rest & ~lap_bits) | lap;
		if (LIKELY(n || fill->staged))
			packed_desc_store(&ring.desc[slot], entries[id].addr, rest);
		else	/* the first head of a batch is held back */
			packed_driver_hold(&ring, fill, slot, entries[id].addr, rest);
		chains[id].token = kept[n].token;
		chains[id].serial = serial++;
		if (UNLIKELY(++slot == ring.size)) {
			slot = 0;
			lap ^= lap_bits;
		}
	}
	fill->moved += n;
	fill->avail.slot = (uint16_t)slot;
	fill->avail.wrap = lap == (uint64_t)packed_avail_flags(true) << 48;
	return n;
}

int virtq_driver_again(struct virtq_driver *q, const struct virtq_completion *kept,
		       unsigned int count)
{
	unsigned int n;

	if (UNLIKELY(q->dead))
		return q->dead;
	n = LAYOUT_IS_PACKED(q->layout) ? again_packed(q, kept, count) :
					  again_split(q, kept, count);
	q->added += n;
	return n || !count ? (int)n : -EINVAL;
}

int virtq_driver_free(struct virtq_driver *q, const uint32_t *ids, unsigned int count)
{
	struct chain *const chains = q->chains;
	const bool packed = LAYOUT_IS_PACKED(q->layout);
	uint16_t *const free = packed ? q->packed.free + q->packed.free_count : q->split.free;
	const uint16_t *const next = q->split.next;
	const uint32_t size = q->ring.size;
	uint32_t room = q->room;
	unsigned int n = 0;

	for (; n < count; n++) {
		uint32_t id = ids[n], entries;

		if (UNLIKELY(id >= size || chains[id].serial != KEPT))
			break;
		entries = chains[id].entries;
		chains[id].serial = NOT_IN_FLIGHT;
		if (packed)
			free[n] = (uint16_t)id;
		else
			split_driver_release(free, next, room, id, entries);
		room += entries;
	}
	q->room = room;
	if (packed)
		q->packed.free_count += n;
	return n || !count ? (int)n : -EINVAL;
}

/* ---- Taken back before the device saw it --------------------------------- */

/*
 * Two passes: which buffers, youngest first, with the head or id of each where
 * the length will stand; then back with them, in that order, so that the free
 * list becomes what it was.
 */
int virtq_driver_unadd(struct virtq_driver *q, struct virtq_completion *back, unsigned int max)
{
	uint64_t count = q->added - q->published;

	if (UNLIKELY(q->dead))
		return q->dead;
	if (count > max)
		count = max;
	for (uint32_t id = 0; count && id < q->ring.size; id++) {
		const struct chain *chain = &q->chains[id];
		uint64_t age = q->added - 1 - chain->serial;

		if (chain->serial < KEPT && age < count) {
			back[age].token = chain->token;
			back[age].written = id;
		}
	}
	for (uint64_t i = 0; i < count; i++) {
		uint16_t id = (uint16_t)back[i].written;
		struct chain *chain = &q->chains[id];

		back[i].written = 0;
		if (LAYOUT_IS_PACKED(q->layout))
			packed_driver_unstage(&q->packed, id, chain->entries);
		else
			split_driver_unstage(&q->split, q->room, id, chain->entries);
		q->room += chain->entries;
		chain->serial = NOT_IN_FLIGHT;
	}
	q->added -= count;
	return (int)count;
}
