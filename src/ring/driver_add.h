/* SPDX-License-Identifier: MIT */
/*
 * The fast way to make buffers available: those of one element, which is what most are.
 *
 * The loops are for whoever has such buffers, in whatever form: @next is expanded in
 * them, so that what it knows of a buffer need not be written down to be read again. Use
 * LAYOUT_EACH and LAYOUT_CALL.
 */
#ifndef VIRTQ_RING_DRIVER_ADD_H
#define VIRTQ_RING_DRIVER_ADD_H

#include "ring/driver.h"

/* A buffer of one element, not empty. */
struct single {
	uint64_t addr;
	uint32_t len;
	uint32_t writable;		/* 0 or 1 */
	void *const *token;		/* read when it is wanted: registers are few */
};

/*
 * Tell the next of the buffers of @of. False ends the loop, and may be asked once more;
 * what was told is in the ring.
 */
typedef bool next_single_fn(void *of, struct single *single);

/* Remember what was staged under @chain. */
ALWAYS_INLINE void remember(struct chain *chain, void *token, uint64_t serial,
			    uint32_t writable_bytes, uint32_t entries)
{
	chain->token = token;
	chain->serial = serial;
	chain->writable_bytes = writable_bytes;
	chain->entries = entries;
}

/*
 * No calls, and what the loop needs in locals: every store into the ring may,
 * for all the compiler knows, change @q.
 */
ALWAYS_INLINE unsigned int add_singles_split(struct virtq_driver *q, next_single_fn *next,
					     void *of, unsigned int max,
					     const enum ring_layout layout)
{
	const struct split_ring ring = q->split.ring;
	const uint16_t *free = q->split.free + q->room;
	struct chain *const chains = q->chains;
	const uint64_t added = q->added, end = added + max;
	/* The index and, in order, the slot of a chain, from its serial. */
	const uint32_t to_idx = q->split.avail_idx - (uint32_t)added;
	const uint32_t to_slot = q->split.next_slot - (uint32_t)added;
	uint64_t serial = added;

	for (; serial != end; serial++) {
		struct single one;
		uint32_t head;

		if (UNLIKELY(!next(of, &one)))
			break;
		head = LAYOUT_IS_IN_ORDER(layout) ? ((uint32_t)serial + to_slot) & ring.mask :
						    *--free;
		split_desc_store(&ring.desc[head], one.addr, one.len,
				 one.writable * VIRTQ_DESC_F_WRITE, 0);
		split_driver_offer(&ring, (uint32_t)serial + to_idx, head);
		remember(&chains[head], *one.token, serial, one.writable ? one.len : 0, 1);
	}
	q->split.next_slot = (uint16_t)(((uint32_t)serial + to_slot) & ring.mask);
	q->split.avail_idx = (uint16_t)((uint32_t)serial + to_idx);
	return (unsigned int)(serial - added);
}

ALWAYS_INLINE unsigned int add_singles_packed(struct virtq_driver *q, next_single_fn *next,
					      void *of, unsigned int max,
					      const enum ring_layout layout, const bool keep)
{
	const struct packed_ring ring = q->packed.ring;
	struct chain *const chains = q->chains;
	struct entry *const kept = q->kept;
	const uint64_t added = q->added, end = added + max;
	uint64_t serial = added;
	uint32_t id, slot, flags;
	const uint16_t *free;
	struct single one;

	/* The first head of a batch is held back. */
	if (max && !q->packed.fill.staged && next(of, &one)) {
		struct virtq_seg seg = { .addr = one.addr, .len = one.len };

		id = packed_driver_stage(&q->packed, &seg, !one.writable, 1, 0);
		remember(&chains[id], *one.token, serial++, one.writable ? one.len : 0, 1);
		if (keep)
			kept[id] = (struct entry){ one.addr,
				packed_desc_rest(one.len, id, one.writable * VIRTQ_DESC_F_WRITE) };
		q->packed.fill.moved--;		/* counted below, with the others */
	}
	id = q->packed.fill.next_id;
	free = &q->packed.free[q->packed.free_count];
	slot = q->packed.fill.avail.slot;
	flags = packed_avail_flags(q->packed.fill.avail.wrap);
	for (; serial != end; serial++) {
		uint64_t rest;

		if (UNLIKELY(!next(of, &one)))
			break;
		if (!LAYOUT_IS_IN_ORDER(layout))
			id = *--free;
		rest = packed_desc_rest(one.len, id, flags | one.writable * VIRTQ_DESC_F_WRITE);
		packed_desc_store(&ring.desc[slot], one.addr, rest);
		if (keep)
			kept[id] = (struct entry){ one.addr, rest };
		remember(&chains[id], *one.token, serial, one.writable ? one.len : 0, 1);
		if (LAYOUT_IS_IN_ORDER(layout) && UNLIKELY(++id == ring.size))
			id = 0;
		if (UNLIKELY(++slot == ring.size)) {
			slot = 0;
			flags ^= PACKED_AVAIL | PACKED_USED;
		}
	}
	if (LAYOUT_IS_IN_ORDER(layout))
		q->packed.fill.next_id = (uint16_t)id;
	else
		q->packed.free_count = (uint32_t)(free - q->packed.free);
	q->packed.fill.avail.slot = (uint16_t)slot;
	q->packed.fill.avail.wrap = flags == packed_avail_flags(true);
	q->packed.fill.moved += (uint32_t)(serial - added);
	return (unsigned int)(serial - added);
}

/* Add up to @max of them, as far as there is room; the queue is not dead. Returns how many. */
ALWAYS_INLINE unsigned int driver_add_singles(struct virtq_driver *q, next_single_fn *next,
					      void *of, unsigned int max,
					      const enum ring_layout layout)
{
	unsigned int n;

	if (max > q->room)
		max = q->room;
	if (!LAYOUT_IS_PACKED(layout))
		n = add_singles_split(q, next, of, max, layout);
	else if (layout == RING_PACKED && UNLIKELY(q->kept != NULL))
		n = add_singles_packed(q, next, of, max, layout, true);
	else
		n = add_singles_packed(q, next, of, max, layout, false);

	q->added += n;
	q->room -= n;
	return n;
}

#endif
