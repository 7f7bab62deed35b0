/* SPDX-License-Identifier: MIT */
/* The device end of a queue: pop, push, publish. */
#include "ring/device.h"

#include <string.h>

#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "ring/chain.h"

/* ---- Set-up ------------------------------------------------------------- */

/* A slot: the spans of short chains, and behind them the caller's request struct. */
#define INLINE_BYTES (VIRTQ_REQ_INLINE_SEGS * sizeof(struct virtq_span))

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
	p.slot_bytes = (uint32_t)align_up(INLINE_BYTES + p.req_bytes, 64);
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
	at += size * sizeof(struct virtq_req *);
	p.order = at;
	at += LAYOUT_IS_IN_ORDER(layout) ? size * sizeof(struct virtq_req *) : 0;
	p.block_stack = at;
	at += p.long_chains * sizeof(uint16_t);
	p.head_busy = at;
	at += LAYOUT_IS_PACKED(layout) ? 0 : size;
	p.total = at;
	return p;
}

size_t virtq_device_bytes(const struct virtq_device_config *config)
{
	return parts_of(config).total;
}

/* The region most elements will be in, for want of something better. */
static struct mem_hit first_hit(const struct virtq_device *q)
{
	unsigned int count;
	const struct virtq_region *r = virtq_map_regions(q->map, &count);
	struct mem_hit none = { 0 };

	if (q->iotlb || !count)
		return none;
	return (struct mem_hit){ r->gpa, r->size_bytes, r->host, r->access };
}

/* Is it more than memory has addresses for? With 64 bits nothing is. */
static bool too_large(const struct virtq_device_config *config)
{
	uint64_t size = config->ring.size;
	uint64_t longest = config->max_segs ? config->max_segs : size > 1024 ? size : 1024;
	uint64_t chains = config->long_chains ? config->long_chains : 64;

	/* A slot and what goes with it; the rest is within a page. */
	return chains * (longest * sizeof(struct virtq_span) + 2) +
	       size * (INLINE_BYTES + config->req_bytes + 256) + 4096 > PTRDIFF_MAX;
}

int device_check(const struct virtq_device_config *config, struct virtq_error *err)
{
	if (!config->map)
		return error_set(err, -EINVAL, "a device end needs a memory map");
	if (config->req_bytes && config->req_bytes < sizeof(struct virtq_req))
		return error_set(err, -EINVAL, "request structs of %u bytes are too small",
				 config->req_bytes);
	if (config->req_bytes > 65536 || config->long_chains >= NO_BLOCK ||
	    config->max_segs > 1u << 20 || too_large(config))
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
	int rc = device_check(config, err);

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
	q->blocks = (struct virtq_span *)(void *)(base + p.blocks);
	q->slot_stack = (struct virtq_req **)(void *)(base + p.slot_stack);
	q->order = (struct virtq_req **)(void *)(base + p.order);
	q->block_stack = (uint16_t *)(void *)(base + p.block_stack);
	for (uint32_t i = 0; i < config->ring.size; i++) {
		struct virtq_req *req =
			(struct virtq_req *)(void *)(base + p.slots + INLINE_BYTES +
						     (size_t)i * p.slot_bytes);

		memset(req, 0, p.req_bytes);
		req->slot = (uint16_t)i;
		req->block = NO_BLOCK;
		req->queue = q;
		q->slot_stack[config->ring.size - 1 - i] = req;
	}
	for (uint32_t i = 0; i < p.long_chains; i++)
		q->block_stack[p.long_chains - 1 - i] = (uint16_t)i;
	q->free_slots = config->ring.size;
	q->free_blocks = p.long_chains;

	q->map = config->map;	/* released in virtq_device_fini() or set_map() */
	virtq_map_ref(config->map);
	q->iotlb = config->iotlb;
	q->hit = first_hit(q);
	*out = q;
	return 0;
}

void virtq_device_fini(struct virtq_device *q)
{
	virtq_map_unref(q->map);
	q->map = NULL;
	for (uint32_t i = 0; i < OLD_MAPS; i++) {
		virtq_map_unref(q->old_maps[i].map);
		q->old_maps[i].map = NULL;
	}
}

int virtq_device_set_map(struct virtq_device *q, struct virtq_map *map,
			 const struct virtq_ring *ring)
{
	uint32_t loans = q->on_loan;
	struct old_map *old = NULL;
	bool same = ring->size == q->ring.size &&
		    ring->features.word[0] == q->ring.features.word[0] &&
		    ring->features.word[1] == q->ring.features.word[1];

	if (!same || ring_check(ring, NULL))
		return -EINVAL;
	for (uint32_t i = 0; i < OLD_MAPS; i++) {
		if (q->old_maps[i].map)
			loans -= q->old_maps[i].loans;
		else
			old = &q->old_maps[i];
	}
	if (loans && !old)
		return -EBUSY;
	/* Before the old one goes: it may be the same. */
	virtq_map_ref(map);
	if (loans)
		*old = (struct old_map){ q->map, loans, q->sequence };
	else
		virtq_map_unref(q->map);
	q->map = map;
	q->map_since = q->sequence;
	q->hit = first_hit(q);
	q->ring = *ring;
	if (LAYOUT_IS_PACKED(q->layout))
		packed_ring_set(&q->packed.ring, ring, q->packed.ring.event_idx,
				q->packed.ring.platform);
	else
		split_ring_set(&q->split.ring, ring, q->split.ring.event_idx,
			       q->split.ring.platform);
	return 0;
}

/* A request that was popped under an older map came back: perhaps the last. */
NEVER_INLINE static void release_old_map(struct virtq_device *q, uint64_t sequence)
{
	struct old_map *its = NULL;

	for (uint32_t i = 0; i < OLD_MAPS; i++) {
		struct old_map *old = &q->old_maps[i];

		if (old->map && sequence <= old->until && (!its || old->until < its->until))
			its = old;
	}
	VIRTQ_ASSERT(its);
	if (--its->loans == 0) {
		virtq_map_unref(its->map);
		its->map = NULL;
	}
}

/* ---- Station 1 and 2: taking requests ----------------------------------- */

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
		q->hit = first_hit(q);
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

struct virtq_miss virtq_device_miss(const struct virtq_device *q)
{
	return q->miss;
}

/*
 * A request comes back whose spans were in a block, or whose map is no longer
 * current: give these up. Its sequence passes for a recent one then.
 */
NEVER_INLINE static void end_long_loan(struct virtq_device *q, struct virtq_req *req)
{
	if (req->block != NO_BLOCK)
		q->block_stack[q->free_blocks++] = req->block;
	req->block = NO_BLOCK;
	if (req->sequence <= q->map_since)
		release_old_map(q, req->sequence);
	req->sequence = UINT64_MAX;
}

ALWAYS_INLINE bool loan_is_plain(const struct virtq_req *req, uint64_t map_since)
{
	return LIKELY(req->block == NO_BLOCK && req->sequence > map_since);
}

int virtq_device_unpop(struct virtq_device *q, struct virtq_req *req)
{
	if (!req->sequence || req->sequence != q->sequence)
		return -EINVAL;
	if (!loan_is_plain(req, q->map_since))
		end_long_loan(q, req);
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

/* ---- Station 5: giving requests back ------------------------------------ */

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
			end_long_loan(q, reqs[i]);
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
		end_long_loan(q, reqs[n]);
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
	return q->map;
}

int virtq_device_kicked(const struct virtq_device *q, uint32_t data)
{
	uint16_t next = (uint16_t)(data >> 16);

	if (LAYOUT_IS_PACKED(q->layout))
		return next != packed_off_wrap(q->packed.avail);
	return next != q->split.avail_seen;
}

/* ---- Questions ---------------------------------------------------------- */

const struct virtq_ring *virtq_device_ring(const struct virtq_device *q)
{
	return &q->ring;
}

uint32_t virtq_device_in_flight(const struct virtq_device *q)
{
	return q->on_loan;
}

struct virtq_fault virtq_device_fault(const struct virtq_device *q)
{
	return q->fault;
}

uint32_t virtq_device_position(const struct virtq_device *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		return (uint32_t)packed_device_shown(&q->packed) << 16 |
		       packed_off_wrap(q->packed.avail);
	return q->split.avail_seen;
}
