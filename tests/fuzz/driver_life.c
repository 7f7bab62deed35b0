/* SPDX-License-Identifier: MIT */
/* A fuzzed driver end's beginning and end: made, refused, and made anew over the same ring. */
#include <errno.h>

#include "driver.h"

static void open_queue(struct run *r, const uint32_t *position)
{
	uint32_t at = position ? *position : r->packed ? 0x80008000 : 0;

	r->config.position = position;
	if (r->on_heap) {
		FUZZ_CHECK(!virtq_driver_create(&r->q, &r->config, NULL));
	} else {
		FUZZ_CHECK(!posix_memalign(&r->state, 64, virtq_driver_bytes(&r->config)));
		FUZZ_CHECK(!virtq_driver_init(r->state, &r->q, &r->config, NULL));
	}
	FUZZ_CHECK(virtq_driver_ring(r->q)->desc == r->desc);
	FUZZ_CHECK(virtq_driver_room(r->q) == r->config.ring.size);
	r->keeps = virtq_driver_keeps(r->q);
	FUZZ_CHECK(r->keeps == (r->config.keep && !r->in_order));
	while (r->kept.count)
		list_take(&r->kept, 0)->state = FREE;
	FUZZ_CHECK(virtq_driver_position(r->q) == at);
	r->clean = r->followed = true;
	r->detached = r->live = false;
	r->dead = 0;
	r->fault = virtq_driver_fault(r->q);
	r->avail_idx = r->used_idx = (uint16_t)at;
	r->avail_slot = r->used_slot = at & 0x7fff;
	r->avail_wrap = r->used_wrap = at >> 15 & 1;
}

static void close_queue(struct run *r)
{
	if (r->on_heap)
		virtq_driver_destroy(r->q);
	else
		free(r->state);
}

void do_anew(struct run *r)
{
	uint32_t position;
	bool quiet = !r->in_flight && !r->dead && r->clean;

	if (r->in_flight)
		do_detach(r);
	if (r->in_flight)
		return;
	position = virtq_driver_position(r->q);
	close_queue(r);
	r->on_heap = take8(&r->in) & 1;
	open_queue(r, quiet ? &position : NULL);
}

void do_refuse(struct run *r)
{
	struct virtq_driver_config c = r->config;
	uint64_t number = take_number(&r->in);
	uint32_t position = r->packed ? 0x80008000 : 0;
	struct virtq_ring_shape shape;
	struct virtq_error err;
	struct virtq_driver *q;
	size_t bytes = 64;
	void *state;
	int rc;

	c.position = &position;
	switch (take_below(&r->in, 7)) {
	case 0: c.ring.size = (uint32_t)number; break;
	case 1: c.ring.features = virtq_features_without(c.ring.features, take8(&r->in)); break;
	case 2: c.ring.desc = number ? (uint8_t *)c.ring.desc + number % 16 : NULL; break;
	case 3: c.ring.device = number ? (uint8_t *)c.ring.device + number % 16 : NULL; break;
	case 4: c.indirect_entries = (uint32_t)number; break;
	case 5: c.indirect = (uint8_t *)c.ring.desc + number % 32; break;
	default: position = take32(&r->in); break;
	}
	if (!virtq_ring_shape(c.ring.features, c.ring.size, &shape))
		bytes = virtq_driver_bytes(&c);
	FUZZ_CHECK(!posix_memalign(&state, 64, bytes));
	rc = virtq_driver_init(state, &q, &c, &err);
	if (!rc)
		FUZZ_CHECK(!virtq_ring_shape(c.ring.features, c.ring.size, &shape) &&
			   virtq_driver_room(q) == c.ring.size);
	else
		FUZZ_CHECK(rc == -EINVAL && err.code == rc && err.text[0]);
	free(state);
}

static uint8_t *area(size_t bytes)
{
	uint8_t *p = malloc(bytes);

	FUZZ_CHECK(p);
	memset(p, 0, bytes);
	return p;
}

static void list_make(struct run *r, struct list *l)
{
	l->at = malloc(r->buffer_count * sizeof(struct buffer *));
	FUZZ_CHECK(l->at);
}

void run_begin(struct run *r)
{
	uint8_t how = take8(&r->in);
	uint8_t code = take8(&r->in);
	struct virtq_features f = take_features(how);
	uint32_t size, position;

	r->packed = how & 1;
	r->in_order = how & 2;
	r->event_idx = how & 4;
	size = take_size(&r->in, r->packed, code);
	if (how & 64)
		f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	if (how & 32)
		f = virtq_features_with(f, VIRTIO_F_NOTIFICATION_DATA);
	FUZZ_CHECK(!virtq_ring_shape(f, size, &r->shape));
	r->desc = area(r->shape.desc_bytes);
	r->driver_area = area(r->shape.driver_bytes);
	r->device_area = area(r->shape.device_bytes);
	r->config = (struct virtq_driver_config){
		.ring = { f, size, r->desc, r->driver_area, r->device_area },
	};
	if (how & 16) {
		static const uint8_t entries[] = { 4, 1, 2, 12 };

		r->config.indirect_entries = entries[code >> 6];
		r->tables = area((size_t)size * r->config.indirect_entries * 16);
		r->config.indirect = r->tables;
		r->config.indirect_addr = 0x123450000;
		r->config.indirect_from = take8(&r->in) & 3;
	}
	r->config.keep = how & 32;
	r->config.segs_max = take_odd(&r->in) ? 1 + take_below(&r->in, 8) : 0;
	r->indirect = (how & 24) == 24;
	r->buffer_count = size + 3;
	r->buffers = calloc(r->buffer_count, sizeof(*r->buffers));
	FUZZ_CHECK(r->buffers);
	list_make(r, &r->added);
	list_make(r, &r->offered);
	list_make(r, &r->used);
	list_make(r, &r->kept);
	position = how & 128 ? take_position(&r->in, r->packed, size) : 0;
	if (how & 128)
		stand_at(&r->config.ring, position);
	open_queue(r, how & 128 ? &position : NULL);
}

void run_end(struct run *r)
{
	close_queue(r);
	free(r->desc);
	free(r->driver_area);
	free(r->device_area);
	free(r->tables);
	free(r->buffers);
	free(r->added.at);
	free(r->offered.at);
	free(r->used.at);
	free(r->kept.at);
}
