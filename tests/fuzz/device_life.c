/* SPDX-License-Identifier: MIT */
/* A fuzzed device end's beginning and end: made, refused, moved, and made anew. */
#include <errno.h>

#include "device.h"
#include "ring.h"

uint32_t effective_max_segs(const struct virtq_device_config *c)
{
	return c->max_segs ? c->max_segs : c->ring.size > 1024 ? c->ring.size : 1024;
}

/* Make the queue; false if its configuration was refused, with nothing made. */
static bool open_queue(struct run *r, bool on_heap)
{
	struct virtq_error err;
	int rc;

	r->state = NULL;
	if (on_heap) {
		rc = virtq_device_create(&r->q, &r->config, &err);
	} else {
		FUZZ_CHECK(!posix_memalign(&r->state, 64, virtq_device_bytes(&r->config)));
		rc = virtq_device_init(r->state, &r->q, &r->config, &err);
	}
	if (rc) {
		FUZZ_CHECK(rc == -EINVAL && err.text[0]);
		free(r->state);
		return false;
	}
	r->fault = virtq_device_fault(r->q);
	FUZZ_CHECK(r->fault.code == VIRTQ_FAULT_NONE);
	FUZZ_CHECK(virtq_device_ring(r->q)->desc == r->config.ring.desc);
	return true;
}

void close_queue(struct run *r)
{
	if (r->state) {
		virtq_device_fini(r->q);
		free(r->state);
	} else {
		virtq_device_destroy(r->q);
	}
	for (uint32_t i = 0; i < r->loan_count; i++) {
		struct memory *m = r->loans[i].m;

		if (m) {
			m->loans--;
			memory_settle(m);
		}
	}
	r->loan_count = r->back_count = 0;
	memset(r->lent, 0, r->config.ring.size * sizeof(*r->lent));
}

/* The same memory in new places. */
static struct memory *memory_elsewhere(const struct run *r)
{
	return memory_new(r->config.ring.features, r->config.ring.size, r->bytes, r->reach_ring,
			  r->m);
}

void do_set_map(struct run *r)
{
	struct memory *m = memory_elsewhere(r);
	struct virtq_ring ring = m->ring;
	bool wrong = take_odd(&r->in);
	int rc;

	if (r->tlb)
		virtq_iotlb_invalidate(r->tlb, 0, 0);
	if (wrong)
		ring.size = (uint32_t)take_number(&r->in);
	rc = virtq_device_set_map(r->q, m->map, &ring);
	if (rc) {
		FUZZ_CHECK(rc == -EINVAL ? wrong : rc == -EBUSY && r->loan_count);
		memory_free(m);
		return;
	}
	FUZZ_CHECK(ring.size == m->ring.size);
	r->m->current = false;
	memory_settle(r->m);
	r->m = r->peer.m = m;
	r->config.ring = m->ring;
}

bool do_anew(struct run *r)
{
	static uint32_t position;	/* config points to it */
	bool on_heap = take8(&r->in) & 1, odd = take_odd(&r->in), opened;
	struct memory *m;

	position = odd ? take32(&r->in) : virtq_device_position(r->q);
	if (odd || r->loan_count || r->back_count || r->fault.code != VIRTQ_FAULT_NONE)
		r->peer.clean = false;
	close_queue(r);
	if (r->tlb)
		virtq_iotlb_invalidate(r->tlb, 0, 0);
	r->m->current = false;	/* its map went with the queue */
	r->config.position = &position;
	m = memory_elsewhere(r);
	memory_settle(r->m);
	r->m = r->peer.m = m;
	r->config.ring = r->m->ring;
	r->config.map = r->m->map;
	opened = open_queue(r, on_heap);
	FUZZ_CHECK(opened || odd);
	r->sequence = 0;
	return opened;
}

void do_refuse(struct run *r)
{
	struct virtq_device_config c = r->config;
	uint64_t number = take_number(&r->in);
	uint32_t position = (uint32_t)number;
	struct virtq_ring_shape shape;
	struct virtq_error err;
	struct virtq_device *q;
	size_t bytes = 64;
	void *state = NULL;
	bool on_heap = take8(&r->in) & 1;
	int rc;

	c.map = r->m->map;
	switch (take_below(&r->in, 9)) {
	case 0: c.ring.size = (uint32_t)number; break;
	case 1: c.ring.features = virtq_features_without(c.ring.features, take8(&r->in)); break;
	case 2: c.ring.desc = number ? (uint8_t *)c.ring.desc + number % 16 : NULL; break;
	case 3: c.ring.driver = number ? (uint8_t *)c.ring.driver + number % 16 : NULL; break;
	case 4: c.max_segs = (uint32_t)number; break;
	case 5: c.long_chains = (uint32_t)number; break;
	case 6: c.req_bytes = (uint32_t)number; break;
	case 7: c.map = NULL; break;
	default: c.position = &position; break;
	}
	if (!virtq_ring_shape(c.ring.features, c.ring.size, &shape))
		bytes = virtq_device_bytes(&c);
	if (bytes > 1u << 24)
		return;		/* a limit of this machine, not of the library */
	if (on_heap) {
		rc = virtq_device_create(&q, &c, &err);
	} else {
		FUZZ_CHECK(!posix_memalign(&state, 64, bytes));
		rc = virtq_device_init(state, &q, &c, &err);
	}
	if (!rc) {
		FUZZ_CHECK(c.map && !virtq_ring_shape(c.ring.features, c.ring.size, &shape));
		if (on_heap)
			virtq_device_destroy(q);
		else
			virtq_device_fini(q);
	} else {
		FUZZ_CHECK(rc == -EINVAL && err.code == rc && err.text[0]);
	}
	free(state);
}

void run_begin(struct run *r)
{
	static const uint8_t limits[] = { 0, 0, 64, 24, 9, 8, 3, 1 };
	static uint32_t position;
	uint8_t how = take8(&r->in), more = take8(&r->in);
	struct virtq_features f = take_features(how);
	bool packed = how & 1;
	uint32_t size = take_size(&r->in, packed, take8(&r->in));

	r->in_order = how & 2;
	r->reach_ring = more & 1;
	r->bytes = 16u << (more >> 1 & 7);
	if (how & 16)
		f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	r->m = memory_new(f, size, r->bytes, r->reach_ring, NULL);
	r->config = (struct virtq_device_config){
		.ring = r->m->ring, .map = r->m->map,
		.max_segs = limits[more >> 4 & 7],
		.long_chains = take_odd(&r->in) ? 0 : 1 + (more & 3),
		.req_bytes = how & 64 ? sizeof(struct virtq_req) + 8 * (more >> 5) : 0,
	};
	if (take_odd(&r->in) || take_odd(&r->in)) {
		FUZZ_CHECK(!virtq_iotlb_create(&r->tlb, 1 + take_below(&r->in, 64), NULL));
		r->config.iotlb = r->tlb;
		r->config.ring.features = virtq_features_with(f, VIRTIO_F_ACCESS_PLATFORM);
		r->m->ring.features = r->config.ring.features;
	}
	position = packed ? 0x80008000 : 0;
	if (how & 128) {
		position = take_position(&r->in, packed, size);
		r->config.position = &position;
	}
	stand_at(&r->m->ring, position);
	peer_init(&r->peer, r->m, how & 8, effective_max_segs(&r->config), position);
	r->peer.clean = !r->reach_ring;
	r->used_idx = (uint16_t)position;
	r->used_slot = packed ? position & 0x7fff : 0;
	r->used_wrap = position >> 15 & 1;
	r->loans = calloc(size, sizeof(*r->loans));
	r->lent = calloc(size, sizeof(*r->lent));
	r->backs = calloc(size, sizeof(*r->backs));
	FUZZ_CHECK(r->loans && r->lent && r->backs);
	FUZZ_CHECK(open_queue(r, how & 32));
}

void run_end(struct run *r)
{
	virtq_iotlb_destroy(r->tlb);
	memory_free(r->m);
	peer_fini(&r->peer);
	free(r->loans);
	free(r->lent);
	free(r->backs);
}
