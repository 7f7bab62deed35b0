/* SPDX-License-Identifier: MIT */
/* The device that a fuzzed driver end has for a peer. */
#include "driver.h"

void follow(struct run *r, struct buffer *b)
{
	uint32_t size = r->config.ring.size;

	if (!r->packed) {
		b->id = (uint16_t)get_le(r->driver_area + 4 + 2 * (r->avail_idx++ % size), 2);
		if (r->followed)
			FUZZ_CHECK(b->id < size);
		return;
	}
	for (b->slots = 0; b->slots < size;) {
		const uint8_t *d = r->desc + 16 * r->avail_slot;
		uint16_t flags = (uint16_t)get_le(d + 14, 2);

		if (r->followed)
			FUZZ_CHECK((flags & SLOT_BITS) == (1u << (r->avail_wrap ? VIRTQ_DESC_F_AVAIL :
							      VIRTQ_DESC_F_USED)));
		b->id = (uint16_t)get_le(d + 12, 2);
		b->slots++;
		if (++r->avail_slot == size) {
			r->avail_slot = 0;
			r->avail_wrap = !r->avail_wrap;
		}
		if (!(flags & VIRTQ_DESC_F_NEXT))
			break;
	}
}

/* Mark @slots used with one element; wrong in one field if the input wants it. */
static void write_used(struct run *r, uint32_t id, uint32_t len, uint32_t count, uint32_t slots)
{
	uint32_t size = r->config.ring.size;
	uint16_t step = (uint16_t)count;
	uint16_t flags = (uint16_t)((r->used_wrap ? SLOT_BITS : 0) | (len ? VIRTQ_DESC_F_WRITE : 0));

	if (take_odd(&r->in)) {
		r->clean = false;
		/* The two may stand at different slots from now on. */
		r->followed &= !r->packed;
		switch (take_below(&r->in, 5)) {
		case 0: id = (uint32_t)take_number(&r->in); break;
		case 1: id += (uint32_t)(int32_t)(int8_t)take8(&r->in); break;
		case 2: len = (uint32_t)take_number(&r->in); break;
		case 3: step = (uint16_t)take_number(&r->in); break;
		default: flags ^= take16(&r->in); break;
		}
	}
	if (r->packed) {
		uint8_t *d = r->desc + 16 * r->used_slot;

		put_le(d + 8, len, 4);
		put_le(d + 12, id, 2);
		put_le(d + 14, flags, 2);
		r->used_slot += slots;
		if (r->used_slot >= size) {
			r->used_slot -= size;
			r->used_wrap = !r->used_wrap;
		}
		r->used_slot %= size;
		return;
	}
	put_le(r->device_area + 4 + 8 * (r->used_idx % size), id, 4);
	put_le(r->device_area + 4 + 8 * (r->used_idx % size) + 4, len, 4);
	r->used_idx = (uint16_t)(r->used_idx + step);
	put_le(r->device_area + 2, r->used_idx, 2);
}

void do_use(struct run *r)
{
	uint32_t count = 1, which = 0, slots = 0, len = 0;
	struct buffer *b = NULL;

	if (!r->offered.count)
		return;
	if (r->in_order)
		count += take_below(&r->in, r->offered.count);
	else
		which = take_below(&r->in, r->offered.count);
	for (uint32_t i = 0; i < count; i++) {
		b = list_take(&r->offered, which);
		slots += b->slots;
		b->written = b->writable_bytes > UINT32_MAX ? UINT32_MAX :
							      (uint32_t)b->writable_bytes;
		if (i + 1 == count)
			b->written = len = b->written && take8(&r->in) & 1 ?
					   take_below(&r->in, b->written) : b->written;
		list_put(r, &r->used, b);
	}
	write_used(r, b->id, len, count, slots);
}

void do_scribble(struct run *r)
{
	uint8_t which = take8(&r->in);
	uint8_t *area = which % 3 == 0 ? r->device_area : which % 3 == 1 ? r->desc :
			r->driver_area;
	size_t size = which % 3 == 0 ? r->shape.device_bytes : which % 3 == 1 ?
		      r->shape.desc_bytes : r->shape.driver_bytes;
	size_t at = take_below(&r->in, (uint32_t)size), bytes = 1 + take_below(&r->in, 16);

	/*
	 * A split ring's driver reads back nothing of what it wrote: it goes on
	 * as if nothing had happened, and only the device may go astray.
	 */
	if (r->packed || area == r->device_area)
		r->clean = false;
	if (r->added.count || r->packed)
		r->followed = r->clean = false;
	while (bytes-- && at < size)
		area[at++] = take8(&r->in);
}

void do_event(struct run *r)
{
	if (r->packed) {
		uint32_t slot = take_below(&r->in, r->config.ring.size + 1);

		put_le(r->device_area, slot | (take8(&r->in) & 1u) << 15, 2);
		put_le(r->device_area + 2, take_below(&r->in, 4), 2);
	} else if (r->event_idx) {
		put_le(r->device_area + 4 + 8 * (size_t)r->config.ring.size, take16(&r->in), 2);
	} else {
		put_le(r->device_area, take8(&r->in) & VIRTQ_USED_F_NO_NOTIFY, 2);
	}
}
