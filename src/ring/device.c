/* SPDX-License-Identifier: MIT */
/*
 * The device end of a queue: set-up, the memory map that loans hold, arming. What goes
 * through it is taken in device_pop.c and given back in device_push.c.
 */
#include <string.h>

#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "ring/device.h"

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

/* ---- The memory map ----------------------------------------------------- */

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

void device_end_long_loan(struct virtq_device *q, struct virtq_req *req)
{
	if (req->block != NO_BLOCK)
		q->block_stack[q->free_blocks++] = req->block;
	req->block = NO_BLOCK;
	if (req->sequence <= q->map_since)
		release_old_map(q, req->sequence);
	req->sequence = UINT64_MAX;
}

const struct virtq_map *device_map(const struct virtq_device *q)
{
	return q->map;
}

/* ---- Arming ------------------------------------------------------------- */

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

struct virtq_miss virtq_device_miss(const struct virtq_device *q)
{
	return q->miss;
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
