/* SPDX-License-Identifier: MIT */
/* The device end of a queue: pop, push, publish. */
#include "ring/device.h"

#include <string.h>

#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "ring/chain.h"

/* A region that holds nothing, for queues whose map is empty. */
static const struct virtq_region no_region;

/* ---- Set-up ------------------------------------------------------------- */

/* Where the parts of the queue's memory begin, in bytes. */
struct parts {
	uint32_t req_bytes, slot_bytes, max_segs, long_chains;
	size_t slots, slot_stack, order, head_busy, blocks, block_stack, total;
};

static struct parts parts_of(const struct virtq_device_config *config)
{
	enum ring_layout layout = ring_layout_of(config->ring.features);
	size_t size = config->ring.size;
	struct parts p = { 0 };
	size_t at;

	p.req_bytes = (uint32_t)align_up(config->req_bytes ? config->req_bytes :
							      sizeof(struct virtq_req), 16);
	p.slot_bytes = (uint32_t)align_up(p.req_bytes + VIRTQ_REQ_INLINE_SEGS *
					  sizeof(struct virtq_span), 64);
	p.max_segs = config->max_segs ? config->max_segs : size > 1024 ? (uint32_t)size : 1024;
	p.long_chains = config->long_chains ? config->long_chains : 64;
	if (p.max_segs <= VIRTQ_REQ_INLINE_SEGS)
		p.long_chains = 0;

	at = align_up(sizeof(struct virtq_device), 64);
	p.slots = at;
	at += size * p.slot_bytes;
	p.blocks = at;
	at += (size_t)p.long_chains * p.max_segs * sizeof(struct virtq_span);
	p.slot_stack = at;
	at += size * sizeof(uint16_t);
	p.block_stack = at;
	at += p.long_chains * sizeof(uint16_t);
	p.order = at;
	at += LAYOUT_IS_IN_ORDER(layout) ? size * sizeof(uint16_t) : 0;
	p.head_busy = at;
	at += LAYOUT_IS_PACKED(layout) ? 0 : size;
	p.total = at;
	return p;
}

size_t virtq_device_bytes(const struct virtq_device_config *config)
{
	return parts_of(config).total;
}

static struct virtq_req *slot_at(const struct virtq_device *q, uint32_t slot)
{
	return (struct virtq_req *)(void *)(q->slots + (size_t)slot * q->slot_bytes);
}

static const struct virtq_region *first_region(const struct virtq_map *map)
{
	unsigned int count;
	const struct virtq_region *regions = virtq_map_regions(map, &count);

	return count ? regions : &no_region;
}

static int check_config(const struct virtq_device_config *config, struct virtq_error *err)
{
	if (!config->map)
		return error_set(err, -EINVAL, "a device end needs a memory map");
	if (config->req_bytes && config->req_bytes < sizeof(struct virtq_req))
		return error_set(err, -EINVAL, "request structs of %u bytes are too small",
				 config->req_bytes);
	if (config->req_bytes > 65536 || config->long_chains >= NO_BLOCK ||
	    config->max_segs > 1u << 20)
		return error_set(err, -EINVAL,
				 "request structs over 64 KiB, 65535 long chains or chains over 2^20 elements are too many");
	return ring_check(&config->ring, err);
}

int virtq_device_init(void *memory, struct virtq_device **out,
		      const struct virtq_device_config *config, struct virtq_error *err)
{
	struct virtq_device *q = memory;
	bool event_idx = virtq_features_has(config->ring.features, VIRTIO_F_EVENT_IDX);
	bool platform = virtq_features_has(config->ring.features, VIRTIO_F_ORDER_PLATFORM);
	uint8_t *base = memory;
	uint32_t position = ring_position_start(config->ring.features);
	struct parts p;
	int rc = check_config(config, err);

	if (!rc && config->position) {
		position = *config->position;
		rc = ring_position_check(config->ring.features, config->ring.size, position, err);
	}
	if (rc)
		return rc;
	p = parts_of(config);
	memset(q, 0, sizeof(*q));
	q->layout = ring_layout_of(config->ring.features);
	q->indirect_on = virtq_features_has(config->ring.features, VIRTIO_F_INDIRECT_DESC);
	q->ring = config->ring;
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_ring_set(&q->packed.ring, &config->ring, event_idx, platform);
		packed_device_reset(&q->packed, packed_cursor_of((uint16_t)position),
				    packed_cursor_of((uint16_t)(position >> 16)));
	} else {
		split_ring_set(&q->split.ring, &config->ring, event_idx, platform);
		split_device_reset(&q->split, (uint16_t)position);
		q->head_busy = base + p.head_busy;
		memset(q->head_busy, 0, config->ring.size);
	}

	q->max_segs = p.max_segs;
	q->req_bytes = p.req_bytes;
	q->slot_bytes = p.slot_bytes;
	q->slots = base + p.slots;
	q->blocks = (struct virtq_span *)(void *)(base + p.blocks);
	q->slot_stack = (uint16_t *)(void *)(base + p.slot_stack);
	q->block_stack = (uint16_t *)(void *)(base + p.block_stack);
	q->order = (uint16_t *)(void *)(base + p.order);
	for (uint32_t i = 0; i < config->ring.size; i++) {
		struct virtq_req *req = slot_at(q, i);

		memset(req, 0, q->req_bytes);
		req->slot = (uint16_t)i;
		req->queue = q;
		q->slot_stack[config->ring.size - 1 - i] = (uint16_t)i;
	}
	for (uint32_t i = 0; i < p.long_chains; i++)
		q->block_stack[p.long_chains - 1 - i] = (uint16_t)i;
	q->free_slots = config->ring.size;
	q->free_blocks = p.long_chains;

	q->use = &q->uses[0];
	q->use->map = config->map;	/* released in virtq_device_fini() or set_map() */
	virtq_map_ref(config->map);
	q->region = first_region(config->map);
	*out = q;
	return 0;
}

void virtq_device_fini(struct virtq_device *q)
{
	for (uint32_t i = 0; i < MAP_USES; i++) {
		virtq_map_unref(q->uses[i].map);
		q->uses[i].map = NULL;
	}
}

int virtq_device_set_map(struct virtq_device *q, struct virtq_map *map,
			 const struct virtq_ring *ring)
{
	struct virtq_map_use *fresh = NULL;
	bool same = ring->size == q->ring.size &&
		    ring->features.word[0] == q->ring.features.word[0] &&
		    ring->features.word[1] == q->ring.features.word[1];

	if (!same || ring_check(ring, NULL))
		return -EINVAL;
	for (uint32_t i = 0; i < MAP_USES && !fresh; i++)
		if (!q->uses[i].map)
			fresh = &q->uses[i];
	if (!fresh)
		return -EBUSY;
	virtq_map_ref(map);
	fresh->map = map;
	fresh->loans = 0;
	if (!q->use->loans) {
		virtq_map_unref(q->use->map);
		q->use->map = NULL;
	}
	q->use = fresh;
	q->region = first_region(map);
	q->ring = *ring;
	if (LAYOUT_IS_PACKED(q->layout))
		packed_ring_set(&q->packed.ring, ring, q->packed.ring.event_idx,
				q->packed.ring.platform);
	else
		split_ring_set(&q->split.ring, ring, q->split.ring.event_idx,
			       q->split.ring.platform);
	return 0;
}

/* ---- Station 1 and 2: taking requests ----------------------------------- */

NEVER_INLINE int device_break(struct virtq_device *q, enum virtq_fault_code code,
			      uint32_t index, uint64_t value)
{
	q->fault = (struct virtq_fault){ .code = code, .index = index, .value = value };
	q->dead = -EBADMSG;
	return q->dead;
}

/*
 * Check the head that the driver offers next (split). UNTRUSTED. With every
 * slot on loan every head is, so this always finds fault then.
 */
ALWAYS_INLINE int check_head(struct virtq_device *q, uint16_t head)
{
	if (UNLIKELY(head >= q->ring.size))
		return device_break(q, VIRTQ_FAULT_HEAD_RANGE, q->split.avail_seen, head);
	if (UNLIKELY(q->head_busy[head]))
		return device_break(q, VIRTQ_FAULT_HEAD_BUSY, q->split.avail_seen, head);
	return 0;
}

/* The inline spans of a slot lie behind the caller's struct. */
ALWAYS_INLINE struct virtq_span *inline_spans(const struct virtq_device *q,
					      struct virtq_req *req)
{
	return (struct virtq_span *)(void *)((uint8_t *)req + q->req_bytes);
}

/* What both ways of popping know of a chain in the end. */
struct popped {
	uint16_t id;		/* to echo */
	uint16_t entries;	/* ring entries to step over */
	uint16_t block;
};

/* The chain is good: lend it out and step over it. */
ALWAYS_INLINE void begin_loan(struct virtq_device *q, struct virtq_req *req, struct popped p,
			      const enum ring_layout layout)
{
	q->free_slots--;
	req->written = 0;
	req->id = p.id;
	req->entries = p.entries;
	req->block = p.block;
	req->on_loan = true;
	req->sequence = ++q->sequence;
	/* LOAN: the map stays until virtq_device_push() or unpop() of this request. */
	req->map_use = q->use;
	q->use->loans++;
	if (LAYOUT_IS_IN_ORDER(layout)) {
		req->capacity = req->wr.bytes > UINT32_MAX ? UINT32_MAX :
							     (uint32_t)req->wr.bytes;
		q->order[q->order_next] = req->slot;
		q->order_next = q->order_next + 1 < q->ring.size ? q->order_next + 1 : 0;
	}
	if (LAYOUT_IS_PACKED(layout)) {
		packed_advance(&q->packed.avail, p.entries, q->ring.size);
	} else {
		q->split.avail_seen++;
		q->head_busy[p.id] = 1;
	}
}

/*
 * Walk all of a chain whose first descriptor, at @p->id (split), says @d or @pd,
 * and describe it in @req.
 */
ALWAYS_INLINE int pop_walk(struct virtq_device *q, struct virtq_req *req, struct popped *p,
			   struct split_desc d, struct packed_desc pd, bool packed)
{
	struct walk w = {
		.spans = inline_spans(q, req),
		.limit = q->max_segs < VIRTQ_REQ_INLINE_SEGS ? q->max_segs :
							       VIRTQ_REQ_INLINE_SEGS,
		.block = NO_BLOCK,
	};
	int rc;

	if (packed) {
		w.index = q->packed.avail.slot;
		rc = walk_packed(q, &w, pd, &p->id, &p->entries);
	} else {
		w.index = q->split.avail_seen;
		rc = walk_split(q, &w, p->id, d);
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
	p->block = w.block;
	return 0;
}

/* Out of line, and the descriptor in registers: the path of one element pays nothing for it. */
NEVER_INLINE static int pop_walk_split(struct virtq_device *q, struct virtq_req *req,
				       uint64_t addr, uint32_t len, uint32_t flags_next,
				       struct popped *p)
{
	struct split_desc d = { addr, len, (uint16_t)flags_next, (uint16_t)(flags_next >> 16) };
	struct packed_desc none = { 0 };

	return pop_walk(q, req, p, d, none, false);
}

NEVER_INLINE static int pop_walk_packed(struct virtq_device *q, struct virtq_req *req,
					uint64_t addr, uint32_t len, uint16_t flags,
					struct popped *p)
{
	struct packed_desc d = { addr, len, p->id, flags };
	struct split_desc none = { 0 };

	return pop_walk(q, req, p, none, d, true);
}

/* A chain of one element inside the region used last, which is what most are. */
ALWAYS_INLINE void pop_single(struct virtq_device *q, struct virtq_req *req, uint64_t addr,
			      uint32_t len, bool writable)
{
	struct virtq_span *span = inline_spans(q, req);

	span->base = (uint8_t *)q->region->host + (addr - q->region->gpa);
	span->len = len;
	req->rd.spans = req->wr.spans = span;
	req->rd.count = !writable;
	req->rd.bytes = writable ? 0 : len;
	req->wr.count = writable;
	req->wr.bytes = writable ? len : 0;
}

/* Make the next chain a request, or leave everything as it was. */
ALWAYS_INLINE int pop_one(struct virtq_device *q, struct virtq_req **out, uint16_t flags,
			  const enum ring_layout layout)
{
	struct virtq_req *req = slot_at(q, q->slot_stack[q->free_slots - 1]);
	struct popped p = { .entries = 1, .block = NO_BLOCK };
	uint16_t next = 0;
	unsigned int access;
	uint64_t addr;
	uint32_t len;

	*out = req;
	if (LAYOUT_IS_PACKED(layout)) {
		const struct pvirtq_desc *desc = &q->packed.ring.desc[q->packed.avail.slot];
		struct packed_desc d = packed_desc_load(desc, flags);

		p.id = d.id;
		addr = d.addr;
		len = d.len;
	} else {
		struct split_desc d;
		int rc;

		p.id = split_device_head(&q->split);
		rc = check_head(q, p.id);
		if (UNLIKELY(rc))
			return rc;
		d = split_desc_load(&q->split.ring.desc[p.id]);
		flags = d.flags;
		addr = d.addr;
		len = d.len;
		next = d.next;
	}
	access = flags & VIRTQ_DESC_F_WRITE ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
	if (UNLIKELY((flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT)) || !len ||
		     !region_covers(q->region, addr, len, access))) {
		struct popped walked = p;
		int rc = LAYOUT_IS_PACKED(layout) ?
			 pop_walk_packed(q, req, addr, len, flags, &walked) :
			 pop_walk_split(q, req, addr, len, flags | (uint32_t)next << 16, &walked);

		if (UNLIKELY(rc))
			return rc;
		p = walked;
	} else {
		pop_single(q, req, addr, len, flags & VIRTQ_DESC_F_WRITE);
	}
	begin_loan(q, req, p, layout);
	return 0;
}

ALWAYS_INLINE int pop_all(struct virtq_device *q, struct virtq_req **reqs, unsigned int max,
			  const enum ring_layout layout)
{
	unsigned int n = 0;
	int rc = 0;

	while (n < max) {
		uint16_t flags = 0;

		if (LAYOUT_IS_PACKED(layout)) {
			if (!packed_device_ready(&q->packed, &flags))
				break;
			/* Every slot is on loan, so none can be available (hostile). */
			if (UNLIKELY(!q->free_slots))
				rc = device_break(q, VIRTQ_FAULT_AVAIL_IDX, q->packed.avail.slot,
						  flags);
		} else {
			rc = split_device_ready(&q->split);
			if (!rc)
				break;
			if (UNLIKELY(rc < 0))
				device_break(q, VIRTQ_FAULT_AVAIL_IDX, q->split.avail_seen,
					     q->split.avail_known);
			else
				rc = LIKELY(q->free_slots) ? 0 :
				     check_head(q, split_device_head(&q->split));
		}
		if (LIKELY(!rc))
			rc = pop_one(q, &reqs[n], flags, layout);
		if (UNLIKELY(rc))
			return n ? (int)n : rc;
		n++;
	}
	return (int)n;
}

int virtq_device_pop(struct virtq_device *q, struct virtq_req **reqs, unsigned int max)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	FOR_LAYOUT(q->layout, pop_all, q, reqs, max);
}

/* Take the loan back: slot, block and map. */
ALWAYS_INLINE void end_loan(struct virtq_device *q, struct virtq_req *req)
{
	struct virtq_map_use *use = req->map_use;

	VIRTQ_ASSERT(req->queue == q);
	req->on_loan = false;
	if (UNLIKELY(req->block != NO_BLOCK))
		q->block_stack[q->free_blocks++] = req->block;
	q->slot_stack[q->free_slots++] = req->slot;
	if (UNLIKELY(--use->loans == 0 && use != q->use)) {
		virtq_map_unref(use->map);
		use->map = NULL;
	}
}

int virtq_device_unpop(struct virtq_device *q, struct virtq_req *req)
{
	if (!req->on_loan || req->sequence != q->sequence)
		return -EINVAL;
	q->sequence--;
	if (LAYOUT_IS_IN_ORDER(q->layout))
		q->order_next = (q->order_next ? q->order_next : q->ring.size) - 1;
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_retreat(&q->packed.avail, req->entries, q->ring.size);
	} else {
		q->split.avail_seen--;
		q->head_busy[req->id] = 0;
	}
	end_loan(q, req);
	return 0;
}

/* ---- Station 5: giving requests back ------------------------------------ */

/* Write one used element for @len bytes in @entries ring entries that end with @id. */
ALWAYS_INLINE void stage_used(struct virtq_device *q, uint16_t id, uint32_t len,
			      uint32_t entries, const enum ring_layout layout)
{
	if (LAYOUT_IS_PACKED(layout))
		packed_device_stage(&q->packed, id, len, entries);
	else
		split_device_stage(&q->split, id, len);
}

/* Write the element that stands for the batch: its last id, in the slot of its first. */
ALWAYS_INLINE void close_batch(struct virtq_device *q, const enum ring_layout layout)
{
	if (!q->batch.count)
		return;
	stage_used(q, q->batch.id, q->batch.len, q->batch.entries, layout);
	if (!LAYOUT_IS_PACKED(layout))
		split_device_skip(&q->split, q->batch.count - 1);
	q->batch.count = 0;
}

/*
 * Add the request whose turn it is to the batch (2.7.9, 2.8.8). A driver takes those
 * in front of the last for filled to the end, so one that is not begins anew
 * behind it.
 */
ALWAYS_INLINE void stage_in_order(struct virtq_device *q, struct virtq_req *req,
				  const enum ring_layout layout)
{
	if (!q->batch.whole)
		close_batch(q, layout);
	if (!q->batch.count)
		q->batch.entries = 0;
	q->batch.count++;
	q->batch.entries += req->entries;
	q->batch.id = req->id;
	q->batch.len = req->written;
	q->batch.whole = req->written == req->capacity;
}

/* Stage whatever can go out now that @req came back: nothing, if an older one is missing. */
ALWAYS_INLINE void push_in_order(struct virtq_device *q, struct virtq_req *req,
				 const enum ring_layout layout)
{
	req->on_loan = false;
	while (q->free_slots < q->ring.size) {
		struct virtq_req *first = slot_at(q, q->order[q->order_first]);

		if (first->on_loan)
			return;
		q->order_first = q->order_first + 1 < q->ring.size ? q->order_first + 1 : 0;
		if (!LAYOUT_IS_PACKED(layout))
			q->head_busy[first->id] = 0;
		stage_in_order(q, first, layout);
		end_loan(q, first);
	}
}

ALWAYS_INLINE int push_all(struct virtq_device *q, struct virtq_req *const *reqs,
			   unsigned int count, const enum ring_layout layout)
{
	for (unsigned int i = 0; i < count; i++) {
		struct virtq_req *req = reqs[i];

		VIRTQ_ASSERT(req->on_loan);
		if (LAYOUT_IS_IN_ORDER(layout)) {
			push_in_order(q, req, layout);
			continue;
		}
		stage_used(q, req->id, req->written, req->entries, layout);
		if (!LAYOUT_IS_PACKED(layout))
			q->head_busy[req->id] = 0;
		end_loan(q, req);
	}
	return 0;
}

static int push_by_layout(struct virtq_device *q, struct virtq_req *const *reqs,
			  unsigned int count)
{
	FOR_LAYOUT(q->layout, push_all, q, reqs, count);
}

void virtq_device_push(struct virtq_device *q, struct virtq_req *const *reqs,
		       unsigned int count)
{
	push_by_layout(q, reqs, count);
}

ALWAYS_INLINE int publish(struct virtq_device *q, const enum ring_layout layout)
{
	if (LAYOUT_IS_IN_ORDER(layout))
		close_batch(q, layout);
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

int virtq_device_publish(struct virtq_device *q)
{
	FOR_LAYOUT(q->layout, publish, q);
}

int virtq_device_arm(struct virtq_device *q)
{
	return LAYOUT_IS_PACKED(q->layout) ? packed_device_arm(&q->packed) :
					  split_device_arm(&q->split);
}

void virtq_device_disarm(struct virtq_device *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		packed_device_disarm(&q->packed);
	else
		split_device_disarm(&q->split);
}

const struct virtq_map *device_map(const struct virtq_device *q)
{
	return q->use->map;
}

/* ---- Questions ---------------------------------------------------------- */

const struct virtq_ring *virtq_device_ring(const struct virtq_device *q)
{
	return &q->ring;
}

uint32_t virtq_device_in_flight(const struct virtq_device *q)
{
	return q->ring.size - q->free_slots;
}

struct virtq_fault virtq_device_fault(const struct virtq_device *q)
{
	return q->fault;
}

uint32_t virtq_device_position(const struct virtq_device *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		return (uint32_t)packed_off_wrap(q->packed.used) << 16 |
		       packed_off_wrap(q->packed.avail);
	return q->split.avail_seen;
}
