/* SPDX-License-Identifier: MIT */
/*
 * Taking back what was added and not shown: no trace of it is left, neither for
 * the device nor in what the driver does next (unadd_twins.c: not a byte of it).
 */
#include "unadd.h"

#include <stdio.h>
#include <stdlib.h>

static int add(struct rig *r, uint32_t count, uintptr_t token)
{
	struct chain c;

	make_chain(&c, count / 2, count, token);
	return virtq_driver_add(r->driver, &c.buf, 1);
}

static void expect_nothing_to_unadd(struct rig *r)
{
	struct virtq_completion back[2], same[2];

	memset(back, 0xa5, sizeof(back));
	memset(same, 0xa5, sizeof(same));
	assert_int_equal(virtq_driver_unadd(r->driver, back, 2), 0);
	assert_int_equal(virtq_driver_unadd(r->driver, back, 0), 0);
	assert_memory_equal(back, same, sizeof(back));
}

/* ---- What comes back ------------------------------------------------------ */

/*
 * Youngest first, as many as are asked for or there are, with nothing written;
 * room and number in flight follow. What was published is not touched.
 */
static void test_youngest_first(void **state)
{
	const struct shape *shape = *state;
	uint32_t size = shape->size, each = shape->indirect || size < 2 ? 1 : 2;
	uint32_t count = size / each < 40 ? size / each : 40, shown;
	struct virtq_completion back[64];
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < 6; round++) {
		expect_nothing_to_unadd(&r);
		shown = round % count;
		for (uint32_t i = 0; i < count; i++) {
			if (i == shown)
				virtq_driver_publish(r.driver);
			assert_int_equal(add(&r, size < 2 ? 1 : 2, i), 1);
		}
		assert_int_equal(virtq_driver_in_flight(r.driver), count);
		if (count - shown > 3) {
			unadd(&r, 1, count - 1);
			assert_int_equal(virtq_driver_in_flight(r.driver), count - 1);
			unadd(&r, 2, count - 2);
			assert_int_equal(virtq_driver_room(r.driver), size - (count - 3) * each);
			unadd(&r, count - shown - 3, count - 4);
		} else {
			/* More than there are. */
			assert_int_equal(virtq_driver_unadd(r.driver, back, 64), count - shown);
			assert_int_equal(token_value(back[0].token), count - 1);
			assert_int_equal(token_value(back[count - shown - 1].token), shown);
		}
		expect_nothing_to_unadd(&r);
		assert_int_equal(virtq_driver_in_flight(r.driver), shown);
		assert_int_equal(virtq_driver_room(r.driver), size - shown * each);
		assert_int_equal(virtq_driver_publish(r.driver), 0);
		for (uint32_t i = 0; i < shown; i++) {
			struct virtq_completion done;

			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			virtq_device_push(r.device, &req, 1);
			virtq_device_publish(r.device);
			expect_nothing_to_unadd(&r);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	}
	rig_close(&r);
}

/* What it is for: of work in five buffers only some fit, and all go back; it fits later. */
static void test_work_that_does_not_fit(void **state)
{
	const struct shape *shape = *state;
	uint32_t busy = shape->size - 3;
	struct virtq_buffer work[5];
	struct chain c[5];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 5; i++) {
		make_chain(&c[i], i % 2, 1, 1000 + i);
		work[i] = c[i].buf;
	}
	for (uint32_t round = 0; round < 4; round++) {
		rig_send(&r, busy);
		assert_int_equal(virtq_driver_add(r.driver, work, 5), 3);
		unadd(&r, 3, 1002);
		assert_int_equal(virtq_driver_room(r.driver), 3);
		assert_int_equal(virtq_driver_publish(r.driver), 0);
		rig_serve(&r, busy);
		rig_collect(&r, busy);
		assert_int_equal(virtq_driver_add(r.driver, work, 5), 5);
		virtq_driver_publish(r.driver);
		rig_serve(&r, 5);
		rig_collect(&r, 5);
	}
	rig_close(&r);
}

/*
 * A broken queue and a detached one say so. L-036: of what was added, shown or
 * not, each buffer comes back once, by unadd or by detach.
 */
static void test_broken_and_detached(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion back[4], done;
	uint32_t seen = 0;
	void *token;
	struct rig r;

	/* The device returns an id there is not. */
	rig_open(&r, shape, RIG_DRIVER);
	assert_int_equal(add(&r, 1, 0), 1);
	virtq_driver_publish(r.driver);
	assert_int_equal(add(&r, 1, 1), 1);
	if (shape->packed) {
		uint32_t at = shape->moved ? shape->start : 0;

		put16(r.desc.device + 16 * (size_t)at + 12, 0xffff);
		put16(r.desc.device + 16 * (size_t)at + 14, shape->moved ? 0 : F_AVAIL | F_USED);
	} else {
		uint16_t at = get16(used_idx(&r));

		put32(used_ring(&r, at), 0x7fffffff);
		put16(used_idx(&r), (uint16_t)(at + 1));
	}
	memset(back, 0xa5, sizeof(back));
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -EBADMSG);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 0), -EBADMSG);
	assert_int_equal(virtq_driver_in_flight(r.driver), 2);
	rig_close(&r);

	rig_open(&r, shape, RIG_DRIVER);
	for (uintptr_t i = 0; i < 2; i++)
		assert_int_equal(add(&r, 1, i), 1);
	virtq_driver_publish(r.driver);
	for (uintptr_t i = 2; i < 5; i++)
		assert_int_equal(add(&r, 1, i), 1);
	virtq_driver_stop(r.driver);
	unadd(&r, 2, 4);
	while (virtq_driver_detach(r.driver, &token) == 1) {
		assert_true(token_value(token) < 3);
		assert_false(seen & 1u << token_value(token));
		seen |= 1u << token_value(token);
		assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -ESHUTDOWN);
	}
	assert_int_equal(seen, 7);
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -ESHUTDOWN);
	assert_int_equal(((uint8_t *)back)[sizeof(back) - 1], 0xa5);
	rig_close(&r);
}

/* ---- What the device sees --------------------------------------------------- */

/*
 * Packed: nothing of the @from th slot after the device's and those behind it is
 * available; and those that had been staged, before the @to th, look used (2.8.1).
 * The first was never marked.
 */
static void expect_unavailable(struct rig *r, uint32_t from, uint32_t to)
{
	uint32_t position = virtq_device_position(r->device), at = position & 0x7fff;

	for (uint32_t i = from; i < r->shape.size && r->shape.packed; i++) {
		uint32_t slot = (at + i) % r->shape.size;
		uint16_t flags = get16(r->desc.device + 16 * (size_t)slot + 14);

		assert_false(available(r, slot, at, position >> 15 & 1));
		if (i && i < to)
			assert_int_equal(!!(flags & F_AVAIL), !!(flags & F_USED));
	}
}

/*
 * From every slot of two laps, some lists staged and the youngest taken
 * back: their slots are not the device's, neither now nor when the others are
 * published; and those come whole.
 */
static void test_device_sees_the_rest(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[16];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t turn = 0; turn < 2 * shape->size + 1; turn++)
		for (uint32_t elems = 1; elems <= 3; elems++)
			for (uint32_t count = 1; count * elems <= shape->size; count++) {
				uint32_t back = (turn + elems + count) % (count + 1);
				uint32_t rest = count - back;
				uint32_t each = elems > 1 && shape->indirect ? 1 : elems;

				for (uint32_t i = 0; i < count; i++)
					assert_int_equal(add(&r, elems, i), 1);
				unadd(&r, back, count - 1);
				expect_unavailable(&r, rest * each, count * each);
				/* What is staged is not behind the device. */
				assert_int_equal(virtq_driver_position(r.driver) & 0xffff,
						 virtq_device_position(r.device) & 0xffff);
				assert_int_equal(virtq_device_pop(r.device, reqs, 16), 0);
				assert_int_equal(virtq_device_arm(r.device), 0);
				virtq_driver_publish(r.driver);
				expect_unavailable(&r, rest * each, count * each);
				assert_int_equal(virtq_device_pop(r.device, reqs, 16), rest);
				for (uint32_t i = 0; i < rest; i++) {
					assert_int_equal(reqs[i]->rd.count, elems / 2);
					assert_int_equal(reqs[i]->wr.count, elems - elems / 2);
				}
				assert_int_equal(virtq_device_arm(r.device), 0);
				virtq_device_push(r.device, reqs, rest);
				virtq_device_publish(r.device);
				rig_collect(&r, rest);
				/* So that all slots get their turn. */
				rig_send(&r, 1);
				rig_serve(&r, 1);
				rig_collect(&r, 1);
			}
	rig_close(&r);
}

/*
 * With completions taken between add and unadd: nothing gets lost or doubled, by
 * the whole ring being given out afterwards, each entry once.
 */
static void test_completions_between(void **state)
{
	const struct shape *shape = *state;
	uint32_t size = shape->size, half = size / 2;
	uint8_t *seen = calloc(size, 1);
	struct virtq_completion done;
	struct rig r;

	assert_non_null(seen);
	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < (size > 256 ? 2 : 12); round++) {
		uint32_t extra = (size - half) / 2 < 40 ? (size - half) / 2 : 40;

		for (uint32_t i = 0; i < half; i++)
			assert_int_equal(add(&r, 1, i), 1);
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < extra; i++)
			assert_int_equal(add(&r, 2, 100000 + i), 1);
		rig_serve(&r, half);
		for (uint32_t i = 0; i < half; i++) {
			if (i == half / 2)
				unadd(&r, extra / 2, 100000 + extra - 1);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
		unadd(&r, extra - extra / 2, 100000 + extra - extra / 2 - 1);
		assert_int_equal(virtq_driver_room(r.driver), size);

		memset(seen, 0, size);
		for (uint32_t i = 0; i < size; i++)
			assert_int_equal(add(&r, 1, i), 1);
		assert_int_equal(add(&r, 1, size), -ENOSPC);
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < size; i++) {
			struct virtq_req *req;

			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			assert_true(req->id < size);
			assert_false(seen[req->id]);
			seen[req->id] = 1;
			virtq_device_push(r.device, &req, 1);
			virtq_device_publish(r.device);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
	}
	rig_close(&r);
	free(seen);
}

int main(void)
{
	const unsigned int all = ALSO_IN_ORDER;
	struct shape small[64];
	size_t count = 0;
	struct matrix m = { 0 };

	for (uint32_t bits = 0; bits < 8; bits++)
		for (uint32_t size = 1; size <= 8; size++) {
			struct shape s = { .packed = bits & 1, .in_order = bits & 2,
					   .indirect = bits & 4, .event_idx = size & 1,
					   .size = size };

			if (!s.packed && (size & (size - 1)))
				continue;
			snprintf(s.name, sizeof(s.name), "%s %u%s%s",
				 s.packed ? "packed" : "split", size,
				 s.in_order ? " in order" : "", s.indirect ? " indirect" : "");
			small[count++] = s;
		}
	matrix_add(&m, "youngest first", test_youngest_first, all);
	matrix_add(&m, "work that does not fit", test_work_that_does_not_fit,
		   all | AT_LEAST_5 | NOT_HUGE);
	matrix_add(&m, "L-036 broken and detached", test_broken_and_detached, all | AT_LEAST_5);
	matrix_add_shapes(&m, "the device sees the rest", test_device_sees_the_rest,
			  small, count);
	matrix_add(&m, "completions between", test_completions_between, all | AT_LEAST_2);
	return matrix_run(&m, "taking back what was added");
}
