/* SPDX-License-Identifier: MIT */
/* Station 5 of the device end: giving requests back, and showing the driver that they are. */
#include "ring/device.h"

/*
 * Requests given back in any order. Stops before one that needs more than its
 * slot freed; see pop_singles_split() for why so.
 */
ALWAYS_INLINE unsigned int push_plain_split(struct virtq_device *q, struct virtq_req *const *reqs,
					    unsigned int count)
{
	const struct split_ring ring = q->split.ring;
	const uint64_t map_since = q->map_since;
	const uint32_t used_idx = q->split.used_idx;
	struct virtq_req **free_slots = &q->slot_stack[q->free_slots];
	uint8_t *const busy = q->head_busy;
	unsigned int n = 0;

	for (; n < count; n++) {
		struct virtq_req *req = reqs[n];
		uint32_t id = req->id;

		if (!loan_is_plain(req, map_since))
			break;
		split_device_stage(&ring, used_idx + n, id, req->written);
		busy[id] = 0;
		req->sequence = 0;
		free_slots[n] = req;
	}
	q->split.used_idx = (uint16_t)(used_idx + n);
	return n;
}

ALWAYS_INLINE unsigned int push_plain_packed(struct virtq_device *q,
					     struct virtq_req *const *reqs, unsigned int count)
{
	const struct packed_ring ring = q->packed.ring;
	const uint64_t map_since = q->map_since;
	struct virtq_req **free_slots = &q->slot_stack[q->free_slots];
	uint32_t slot, flags, moved = 0;
	unsigned int n = 0;

	/* The first of a batch is held back. */
	if (count && !q->packed.give.staged && loan_is_plain(reqs[0], map_since)) {
		packed_device_stage(&q->packed, reqs[0]->id, reqs[0]->written, reqs[0]->entries);
		reqs[0]->sequence = 0;
		free_slots[n++] = reqs[0];
	}
	slot = q->packed.give.used.slot;
	flags = packed_used_flags(q->packed.give.used.wrap);
	for (; n < count; n++) {
		struct virtq_req *req = reqs[n];
		uint32_t entries = req->entries;

		if (!loan_is_plain(req, map_since))
			break;
		packed_device_mark(&ring, slot, flags, req->id, req->written);
		slot += entries;
		moved += entries;
		if (UNLIKELY(slot >= ring.size)) {
			slot -= ring.size;
			flags ^= PACKED_AVAIL | PACKED_USED;
		}
		req->sequence = 0;
		free_slots[n] = req;
	}
	q->packed.give.used.slot = (uint16_t)slot;
	q->packed.give.used.wrap = flags == packed_used_flags(true);
	q->packed.give.moved += moved;
	return n;
}

ALWAYS_INLINE unsigned int push_plain(struct virtq_device *q, struct virtq_req *const *reqs,
				      unsigned int count, const enum ring_layout layout)
{
	unsigned int n = LAYOUT_IS_PACKED(layout) ? push_plain_packed(q, reqs, count) :
						    push_plain_split(q, reqs, count);

	q->free_slots += n;
	return n;
}

/* In order: write the element that stands for the batch, its last id in the slot of its first. */
ALWAYS_INLINE void close_batch(struct virtq_device *q, const struct device_batch *batch,
			       const enum ring_layout layout)
{
	if (LAYOUT_IS_PACKED(layout)) {
		packed_device_stage(&q->packed, batch->id, batch->len, batch->entries);
	} else {
		/* The elements of the others are left as they are. */
		split_device_stage(&q->split.ring, q->split.used_idx, batch->id, batch->len);
		q->split.used_idx = (uint16_t)(q->split.used_idx + batch->count);
	}
}

/*
 * Stage whatever can go out now, which is nothing while the oldest is on loan
 * (2.7.9, 2.8.8). A driver takes those in front of the last of a batch for filled
 * to the end, so behind one that is not another batch begins.
 */
ALWAYS_INLINE void stage_in_order(struct virtq_device *q, const enum ring_layout layout)
{
	const uint32_t size = q->ring.size;
	struct virtq_req **const order = q->order;
	struct virtq_req **free_slots = &q->slot_stack[q->free_slots];
	struct virtq_req **const all_free = &q->slot_stack[size];
	uint32_t first = q->order_first;
	struct device_batch batch = q->batch;

	for (; free_slots < all_free; free_slots++) {
		struct virtq_req *req = order[first];
		uint32_t written = req->written;

		if (req->sequence)
			break;
		if (UNLIKELY(++first == size))
			first = 0;
		/* UNTRUSTED: a driver may offer slots again that it has not got back yet. */
		if (batch.count && UNLIKELY(!batch.whole || batch.entries + req->entries > size)) {
			close_batch(q, &batch, layout);
			batch.count = batch.entries = 0;
		}
		batch.count++;
		batch.entries += LAYOUT_IS_PACKED(layout) ? req->entries : 1u;
		batch.id = req->id;
		batch.len = written;
		batch.whole = written == req->capacity;
		if (!LAYOUT_IS_PACKED(layout))
			q->head_busy[req->id] = 0;
		*free_slots = req;
	}
	q->order_first = first;
	q->batch = batch;
	q->free_slots = (uint32_t)(free_slots - q->slot_stack);
}

ALWAYS_INLINE int push_in_order(struct virtq_device *q, struct virtq_req *const *reqs,
				unsigned int count, const enum ring_layout layout)
{
	for (unsigned int i = 0; i < count; i++) {
		if (!loan_is_plain(reqs[i], q->map_since))
			device_end_long_loan(q, reqs[i]);
		reqs[i]->sequence = 0;
	}
	stage_in_order(q, layout);
	return 0;
}

ALWAYS_INLINE int push_all(struct virtq_device *q, struct virtq_req *const *reqs,
			   unsigned int count, const enum ring_layout layout)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < count; i++)
		VIRTQ_ASSERT(reqs[i]->queue == q && reqs[i]->sequence);
	q->on_loan -= count;
	if (LAYOUT_IS_IN_ORDER(layout))
		return push_in_order(q, reqs, count, layout);
	while ((n += push_plain(q, reqs + n, count - n, layout)) < count)
		device_end_long_loan(q, reqs[n]);
	return 0;
}

LAYOUT_EACH(push_all, (struct virtq_device *q, struct virtq_req *const *reqs, unsigned int count),
	    q, reqs, count)

static int push_by_layout(struct virtq_device *q, struct virtq_req *const *reqs,
			  unsigned int count)
{
	LAYOUT_CALL(q->layout, push_all, q, reqs, count);
}

void virtq_device_push(struct virtq_device *q, struct virtq_req *const *reqs,
		       unsigned int count)
{
	push_by_layout(q, reqs, count);
}

ALWAYS_INLINE int publish(struct virtq_device *q, const enum ring_layout layout)
{
	if (LAYOUT_IS_IN_ORDER(layout) && q->batch.count) {
		close_batch(q, &q->batch, layout);
		q->batch.count = q->batch.entries = 0;
	}
	if (LAYOUT_IS_PACKED(layout)) {
		if (!packed_device_staged(&q->packed))
			return 0;
		packed_device_publish(&q->packed);
		return packed_device_needs_call(&q->packed);
	}
	if (!split_device_staged(&q->split))
		return 0;
	split_device_publish(&q->split);
	return split_device_needs_call(&q->split);
}

LAYOUT_EACH(publish, (struct virtq_device *q), q)

int virtq_device_publish(struct virtq_device *q)
{
	LAYOUT_CALL(q->layout, publish, q);
}
