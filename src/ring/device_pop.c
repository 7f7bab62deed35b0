/* SPDX-License-Identifier: MIT */
/*
 * Station 1 and 2 of the device end: taking requests. The fast way and the slow one, which
 * walks chains (chain.h), are told apart in docs/decisions/0002-fast-and-slow.md.
 */
#include "ring/chain.h"

NEVER_INLINE int device_break(struct virtq_device *q, enum virtq_fault_code code,
			      uint32_t index, uint64_t value)
{
	q->fault = (struct virtq_fault){ .code = code, .index = index, .value = value };
	q->dead = -EBADMSG;
	return q->dead;
}

/* The inline spans of a slot lie in front of the caller's struct. */
ALWAYS_INLINE struct virtq_span *inline_spans(struct virtq_req *req)
{
	return (struct virtq_span *)(void *)((uint8_t *)req - INLINE_BYTES);
}

/*
 * The fast way: chains of one element, inside the piece of memory used last,
 * which is what most are. It stops before everything else, be it none, long or
 * wrong, and leaves that to pop_chain(), which reads it again.
 *
 * No calls, and what the loop needs in locals: every store into a request may,
 * for all the compiler knows, change @q.
 */
ALWAYS_INLINE bool pop_single(struct virtq_req *req, struct virtq_cursor *is,
			      struct virtq_cursor *not, const struct mem_hit *hit,
			      uint64_t limit, uint64_t addr, uint32_t len)
{
	struct virtq_span *span = inline_spans(req);
	uint64_t off = addr - hit->addr;

	/* As hit_covers() with the access already looked at; a length of 0 fails, too. */
	if (UNLIKELY(off >= limit || (uint64_t)len - 1 >= limit - off))
		return false;
	span->base = hit->host + off;
	span->len = len;
	is->spans = span;
	is->count = 1;
	is->bytes = len;
	not->count = 0;
	not->bytes = 0;
	req->written = 0;
	return true;
}

/* What all loans have in common. */
ALWAYS_INLINE void begin_loan(struct virtq_req *req, uint16_t id, uint64_t sequence)
{
	req->id = id;
	/* LOAN: the map stays until virtq_device_push() or unpop() of this request. */
	req->sequence = sequence;
}

/* In order: note whose turn it will be. */
ALWAYS_INLINE uint32_t enqueue(struct virtq_req **order, uint32_t order_next, uint32_t size,
			       struct virtq_req *req)
{
	req->capacity = req->wr.bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)req->wr.bytes;
	order[order_next] = req;
	return order_next + 1 < size ? order_next + 1 : 0;
}

ALWAYS_INLINE unsigned int pop_singles_split(struct virtq_device *q, struct virtq_req **reqs,
					     unsigned int max, const enum ring_layout layout)
{
	const struct split_ring ring = q->split.ring;
	const struct mem_hit hit = q->hit;
	const uint64_t readable = hit.access & VIRTQ_ACCESS_READ ? hit.size_bytes : 0;
	const uint64_t writable = hit.access & VIRTQ_ACCESS_WRITE ? hit.size_bytes : 0;
	struct virtq_req **out = reqs, **end;
	struct virtq_req **free_slots = &q->slot_stack[q->free_slots];
	uint8_t *const busy = q->head_busy;
	uint32_t order_next = q->order_next;
	uint64_t sequence = q->sequence;
	/* The index of a chain, from the number of its request. */
	const uint32_t to_idx = q->split.avail_seen - (uint32_t)sequence;
	uint16_t claim;
	int ready = split_device_ready(&q->split, &claim);

	if (ready <= 0)
		return 0;
	end = out + (max < (unsigned int)ready ? max : (unsigned int)ready);
	for (; out != end; out++) {
		uint32_t head = split_device_head(&ring, (uint32_t)sequence + to_idx), flags, len;
		struct virtq_req *req;
		uint64_t addr;

		/* With every slot on loan every head is, so there is a slot behind this. */
		if (UNLIKELY(head > ring.mask || busy[head]))
			break;
		addr = shm_load64(&ring.desc[head].addr);
		len = shm_load32(&ring.desc[head].len);
		flags = shm_load16(&ring.desc[head].flags);
		if (UNLIKELY(flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT)))
			break;
		req = free_slots[-1];
		if (flags & VIRTQ_DESC_F_WRITE ?
		    !pop_single(req, &req->wr, &req->rd, &hit, writable, addr, len) :
		    !pop_single(req, &req->rd, &req->wr, &hit, readable, addr, len))
			break;
		begin_loan(req, (uint16_t)head, ++sequence);
		if (LAYOUT_IS_IN_ORDER(layout))
			order_next = enqueue(q->order, order_next, ring.mask + 1, req);
		busy[head] = 1;
		*out = req;
		free_slots--;
	}
	q->split.avail_seen = (uint16_t)((uint32_t)sequence + to_idx);
	if (LAYOUT_IS_IN_ORDER(layout))
		q->order_next = order_next;
	return (unsigned int)(out - reqs);
}

ALWAYS_INLINE unsigned int pop_singles_packed(struct virtq_device *q, struct virtq_req **reqs,
					      unsigned int max, const enum ring_layout layout)
{
	const struct packed_ring ring = q->packed.ring;
	const struct mem_hit hit = q->hit;
	const uint64_t readable = hit.access & VIRTQ_ACCESS_READ ? hit.size_bytes : 0;
	const uint64_t writable = hit.access & VIRTQ_ACCESS_WRITE ? hit.size_bytes : 0;
	const uint64_t sequence = q->sequence;
	struct virtq_req **free_slots = &q->slot_stack[q->free_slots];
	uint32_t slot = q->packed.avail.slot, order_next = q->order_next;
	uint32_t turn = packed_avail_flags(q->packed.avail.wrap);
	unsigned int n = 0;

	/* A barrier for each leaves nothing to be fast at. */
	if (UNLIKELY(ring.platform))
		return 0;
	if (max > q->free_slots)
		max = q->free_slots;
	for (; n < max; n++) {
		const struct pvirtq_desc *desc = &ring.desc[slot];
		uint32_t flags = packed_device_flags(&ring, slot, false), len;
		struct virtq_req *req;
		uint64_t addr;

		if ((flags & (PACKED_AVAIL | PACKED_USED | VIRTQ_DESC_F_NEXT |
			      VIRTQ_DESC_F_INDIRECT)) != turn)
			break;
		addr = shm_load64(&desc->addr);
		len = shm_load32(&desc->len);
		req = free_slots[-1];
		if (flags & VIRTQ_DESC_F_WRITE ?
		    !pop_single(req, &req->wr, &req->rd, &hit, writable, addr, len) :
		    !pop_single(req, &req->rd, &req->wr, &hit, readable, addr, len))
			break;
		begin_loan(req, shm_load16(&desc->id), sequence + n + 1);
		req->entries = 1;
		if (LAYOUT_IS_IN_ORDER(layout))
			order_next = enqueue(q->order, order_next, ring.size, req);
		if (UNLIKELY(++slot == ring.size)) {
			slot = 0;
			turn ^= PACKED_AVAIL | PACKED_USED;
		}
		reqs[n] = req;
		free_slots--;
	}
	q->packed.avail.slot = (uint16_t)slot;
	q->packed.avail.wrap = turn == packed_avail_flags(true);
	if (LAYOUT_IS_IN_ORDER(layout))
		q->order_next = order_next;
	return n;
}

ALWAYS_INLINE unsigned int pop_singles(struct virtq_device *q, struct virtq_req **reqs,
				       unsigned int max, const enum ring_layout layout)
{
	unsigned int n = LAYOUT_IS_PACKED(layout) ? pop_singles_packed(q, reqs, max, layout) :
						    pop_singles_split(q, reqs, max, layout);

	q->free_slots -= n;
	q->on_loan += n;
	q->sequence += n;
	return n;
}

/* The slow way finds the head of the next chain, or what is wrong with it. UNTRUSTED. */
ALWAYS_INLINE int next_split(struct virtq_device *q, uint16_t *head)
{
	struct split_device *dev = &q->split;
	uint16_t claim;
	int rc = split_device_ready(dev, &claim);

	if (!rc)
		return 0;
	if (rc < 0)
		return device_break(q, VIRTQ_FAULT_AVAIL_IDX, dev->avail_seen, claim);
	*head = split_device_head(&dev->ring, dev->avail_seen);
	if (*head >= q->ring.size)
		return device_break(q, VIRTQ_FAULT_HEAD_RANGE, dev->avail_seen, *head);
	if (q->head_busy[*head])
		return device_break(q, VIRTQ_FAULT_HEAD_BUSY, dev->avail_seen, *head);
	return 1;
}

ALWAYS_INLINE int next_packed(struct virtq_device *q, uint16_t *flags)
{
	*flags = packed_device_flags(&q->packed.ring, q->packed.avail.slot,
				     q->packed.ring.platform);
	if (!packed_is_avail(*flags, q->packed.avail.wrap))
		return 0;
	/* Every slot is on loan, so none can be available (hostile). */
	if (!q->free_slots)
		return device_break(q, VIRTQ_FAULT_AVAIL_IDX, q->packed.avail.slot, *flags);
	return 1;
}

/* Take the next chain, whatever it is like. Returns 1, 0 if there is none, or why not. */
ALWAYS_INLINE int pop_chain(struct virtq_device *q, struct virtq_req **out,
			    const enum ring_layout layout)
{
	struct virtq_req *req;
	struct walk w = {
		.limit = q->max_segs < VIRTQ_REQ_INLINE_SEGS ? q->max_segs :
							       VIRTQ_REQ_INLINE_SEGS,
		.block = NO_BLOCK,
	};
	uint16_t id = 0, flags = 0, entries = 1;
	int rc = LAYOUT_IS_PACKED(layout) ? next_packed(q, &flags) : next_split(q, &id);

	if (rc <= 0)
		return rc;
	req = q->slot_stack[q->free_slots - 1];
	w.spans = inline_spans(req);
	if (LAYOUT_IS_PACKED(layout)) {
		w.index = q->packed.avail.slot;
		rc = walk_packed(q, &w, packed_desc_load(&q->packed.ring.desc[w.index], flags),
				 &id, &entries);
	} else {
		w.index = q->split.avail_seen;
		rc = walk_split(q, &w, id, split_desc_load(&q->split.ring.desc[id]));
	}
	if (UNLIKELY(rc)) {
		if (w.block != NO_BLOCK)
			q->block_stack[q->free_blocks++] = w.block;
		return rc;
	}
	if (!w.writing) {
		w.readable = w.count;
		w.readable_bytes = w.bytes;
	}
	req->rd.spans = w.spans;
	req->rd.count = w.readable;
	req->rd.bytes = w.readable_bytes;
	req->wr.spans = w.spans + w.readable;
	req->wr.count = w.count - w.readable;
	req->wr.bytes = w.bytes - w.readable_bytes;
	req->written = 0;
	req->block = w.block;
	req->entries = entries;
	begin_loan(req, id, ++q->sequence);
	q->free_slots--;
	q->on_loan++;
	if (LAYOUT_IS_IN_ORDER(layout))
		q->order_next = enqueue(q->order, q->order_next, q->ring.size, req);
	if (LAYOUT_IS_PACKED(layout)) {
		packed_advance(&q->packed.avail, entries, q->ring.size);
	} else {
		q->split.avail_seen++;
		q->head_busy[id] = 1;
	}
	*out = req;
	return 1;
}

LAYOUT_EACH(pop_chain, (struct virtq_device *q, struct virtq_req **out), q, out)

static int pop_chain_by_layout(struct virtq_device *q, struct virtq_req **out)
{
	LAYOUT_CALL(q->layout, pop_chain, q, out);
}

ALWAYS_INLINE int pop_all(struct virtq_device *q, struct virtq_req **reqs, unsigned int max,
			  const enum ring_layout layout)
{
	unsigned int n = pop_singles(q, reqs, max, layout);

	while (n < max) {
		int rc = pop_chain_by_layout(q, &reqs[n]);

		if (rc <= 0)
			return n ? (int)n : rc;
		n++;
		/* One that was alone may have company; long ones come in herds. */
		if (n < max && reqs[n - 1]->rd.count + reqs[n - 1]->wr.count == 1)
			n += pop_singles(q, reqs + n, max - n, layout);
	}
	return (int)n;
}

LAYOUT_EACH(pop_all, (struct virtq_device *q, struct virtq_req **reqs, unsigned int max), q,
	    reqs, max)

/* What was found in the table last may have been taken back since. */
NEVER_INLINE static int pop_translated(struct virtq_device *q, struct virtq_req **reqs,
				       unsigned int max)
{
	if (q->iotlb_generation != iotlb_generation(q->iotlb)) {
		q->iotlb_generation = iotlb_generation(q->iotlb);
		q->hit = (struct mem_hit){ 0 };
	}
	LAYOUT_CALL(q->layout, pop_all, q, reqs, max);
}

int virtq_device_pop(struct virtq_device *q, struct virtq_req **reqs, unsigned int max)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	if (UNLIKELY(q->iotlb))
		return pop_translated(q, reqs, max);
	LAYOUT_CALL(q->layout, pop_all, q, reqs, max);
}

int virtq_device_unpop(struct virtq_device *q, struct virtq_req *req)
{
	if (!req->sequence || req->sequence != q->sequence)
		return -EINVAL;
	if (!loan_is_plain(req, q->map_since))
		device_end_long_loan(q, req);
	req->sequence = 0;
	q->sequence--;
	/* Its number will be given again: to a request under the map that is current then. */
	if (q->map_since > q->sequence)
		q->map_since = q->sequence;
	for (uint32_t i = 0; i < OLD_MAPS; i++)
		if (q->old_maps[i].until > q->sequence)
			q->old_maps[i].until = q->sequence;
	q->on_loan--;
	q->slot_stack[q->free_slots++] = req;
	if (LAYOUT_IS_IN_ORDER(q->layout))
		q->order_next = (q->order_next ? q->order_next : q->ring.size) - 1;
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_retreat(&q->packed.avail, req->entries, q->ring.size);
	} else {
		q->split.avail_seen--;
		q->head_busy[req->id] = 0;
	}
	return 0;
}
