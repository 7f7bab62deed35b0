/* SPDX-License-Identifier: MIT */
/* A driver end with four buffers in flight, for devices that return what they may not. */
#ifndef TESTS_HOSTILE_VICTIM_H
#define TESTS_HOSTILE_VICTIM_H

#include "rig.h"

#define TOKENS 4u

/*
 * Buffers in flight, in this order: one writable of 16 bytes; a chain of two
 * readable and one writable of 32 bytes; one readable; and, only staged, one
 * writable. The ring's other entries are free.
 */
struct victim {
	struct rig r;
	/* Where the next return goes: split; packed. */
	uint16_t idx;
	uint32_t slot;
	bool wrap;
	bool done[TOKENS];
};

static inline void victim_open(struct victim *v, const struct shape *shape)
{
	struct virtq_seg segs[3] = { { RIG_DATA_GPA, 4 }, { RIG_DATA_GPA, 4 },
				     { RIG_WRITABLE_GPA, 32 } };
	struct virtq_buffer chain = { segs, 2, 1, token_of(1) };

	memset(v, 0, sizeof(*v));
	rig_open(&v->r, shape, RIG_DRIVER);
	v->idx = (uint16_t)shape->start;
	v->slot = shape->start;
	v->wrap = !shape->moved;
	assert_int_equal(rig_add(&v->r, RIG_WRITABLE_GPA, 16, true, token_of(0)), 1);
	assert_int_equal(virtq_driver_add(v->r.driver, &chain, 1), 1);
	assert_int_equal(rig_add(&v->r, RIG_DATA_GPA, 16, false, token_of(2)), 1);
	virtq_driver_publish(v->r.driver);
	assert_int_equal(rig_add(&v->r, RIG_WRITABLE_GPA, 16, true, token_of(3)), 1);
	assert_int_equal(virtq_driver_in_flight(v->r.driver), TOKENS);
}

static inline void got(struct victim *v, const struct virtq_completion *done, uintptr_t token,
		       uint32_t written)
{
	assert_int_equal(token_value(done->token), token);
	assert_int_equal(done->written, written);
	assert_false(v->done[token]);
	v->done[token] = true;
}

/* The queue breaks, stays so, and every buffer comes back exactly once. */
static inline void victim_caught(struct victim *v, enum virtq_fault_code code, uint32_t index,
				 uint64_t value)
{
	struct virtq_completion done[TOKENS];
	uint32_t room = virtq_driver_room(v->r.driver);
	void *token;

	for (int i = 0; i < 3; i++) {
		assert_int_equal(virtq_driver_get(v->r.driver, done, TOKENS), -EBADMSG);
		rig_fault_is(virtq_driver_fault(v->r.driver), code, index, value);
	}
	assert_int_equal(virtq_driver_room(v->r.driver), room);
	assert_int_equal(rig_add(&v->r, RIG_DATA_GPA, 4, false, NULL), -EBADMSG);
	assert_int_equal(virtq_driver_publish(v->r.driver), 0);
	virtq_driver_arm(v->r.driver);
	virtq_driver_disarm(v->r.driver);
	/* Nothing is taken back from a device that may still write to it. */
	assert_int_equal(virtq_driver_detach(v->r.driver, &token), -EBUSY);
	virtq_driver_stop(v->r.driver);
	while (virtq_driver_detach(v->r.driver, &token) == 1)
		got(v, &(struct virtq_completion){ token, 0 }, token_value(token), 0);
	for (uint32_t i = 0; i < TOKENS; i++)
		assert_true(v->done[i]);
	assert_int_equal(virtq_driver_in_flight(v->r.driver), 0);
	rig_close(&v->r);
}

#endif
