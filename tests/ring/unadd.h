/* SPDX-License-Identifier: MIT */
/* Chains that are added and, before they are shown, taken back. */
#ifndef TESTS_RING_UNADD_H
#define TESTS_RING_UNADD_H

#include "rig.h"

#define ELEMS_MAX 4u

/* A buffer of its own for each @token: its first element begins @token * 16 bytes into a region. */
struct chain {
	struct virtq_seg segs[ELEMS_MAX];
	struct virtq_buffer buf;
	uint32_t count;
};

static inline void make_chain(struct chain *c, uint32_t readable, uint32_t count,
			      uintptr_t token)
{
	for (uint32_t i = 0; i < count; i++) {
		c->segs[i].addr = (i < readable ? RIG_DATA_GPA : RIG_WRITABLE_GPA) +
				  token % 30000 * 16 + i;
		c->segs[i].len = 1 + (uint32_t)token % 9 + i;
	}
	c->count = count;
	c->buf = (struct virtq_buffer){ c->segs, (uint16_t)readable, (uint16_t)(count - readable),
					token_of(token) };
}

/* Take back just @count, youngest first, whose tokens go down from @token. */
static inline void unadd(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_completion back[64];

	assert_true(count <= 64);
	memset(back, 0xa5, sizeof(back));
	assert_int_equal(virtq_driver_unadd(r->driver, back, count), count);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(token_value(back[i].token), token - i);
		assert_int_equal(back[i].written, 0);
	}
}

/* Is the descriptor in packed @slot available to a device that stands at @at with @wrap? */
static inline bool available(struct rig *r, uint32_t slot, uint32_t at, bool wrap)
{
	uint16_t flags = get16(r->desc.device + 16 * (size_t)slot + 14);

	if (slot < at)
		wrap = !wrap;
	return (flags & (F_AVAIL | F_USED)) == (wrap ? F_AVAIL : F_USED);
}

#endif
