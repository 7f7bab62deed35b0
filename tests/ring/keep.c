/* SPDX-License-Identifier: MIT */
/*
 * Buffers that keep their ring entries: shown again as they were written, or
 * let go, and never both.
 */
#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

#define CHAIN_ELEMS 3u

static void open_keeping(struct rig *r, const struct shape *shape)
{
	struct shape keeping = *shape;

	keeping.keep = true;
	rig_open(r, &keeping, RIG_BOTH);
}

static bool keeps(const struct shape *shape)
{
	return !shape->packed && !shape->in_order;
}

/* Ring entries of a chain of @count elements. */
static uint32_t entries(const struct shape *shape, uint32_t count)
{
	return shape->indirect && count > 1 ? 1 : count;
}

/* One chain, the first element readable, the others writable. */
static void add_chain(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_seg segs[CHAIN_ELEMS];
	struct virtq_buffer buf = { segs, 1, (uint16_t)(count - 1), token_of(token) };
	uint8_t mark[4];

	for (uint32_t i = 0; i < count; i++)
		segs[i] = (struct virtq_seg){ (i ? RIG_WRITABLE_GPA : RIG_DATA_GPA) +
					      token * 64 + i * 8, 4 + i };
	put32(mark, (uint32_t)token);
	rig_poke(r, segs[0].addr, mark, sizeof(mark));
	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
}

/* The device finds the chain of add_chain() and uses it. */
static void use_chain(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_req *req;
	uint8_t mark[8];

	assert_int_equal(virtq_device_pop(r->device, &req, 1), 1);
	assert_int_equal(virtq_req_read(req, mark, sizeof(mark)), 4);
	assert_int_equal(get32(mark), token);
	if (count == CHAIN_ELEMS)
		assert_int_equal(virtq_req_write(req, "0123456789ab", 7), 7);
	virtq_device_push(r->device, &req, 1);
	virtq_device_publish(r->device);
}

/* Only split rings that are not in order keep; the others free as ever. */
static void test_which_layouts(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done = { .id = 0 };
	struct rig r;

	open_keeping(&r, shape);
	assert_int_equal(virtq_driver_keeps(r.driver), keeps(shape));
	rig_send(&r, 1);
	rig_serve(&r, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size - keeps(shape));
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	if (!keeps(shape)) {
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
		assert_int_equal(virtq_driver_free(r.driver, done.id), -EINVAL);
	}
	rig_close(&r);

	/* And nobody keeps who did not ask for it. */
	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_keeps(r.driver), 0);
	rig_send(&r, 1);
	rig_serve(&r, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
	assert_int_equal(virtq_driver_free(r.driver, done.id), -EINVAL);
	rig_close(&r);
}

/* The table is not written when a chain is shown again, and the device finds it whole. */
static void test_again(void **state)
{
	const struct shape *shape = *state;
	uint32_t rounds = shape->size == 1 ? 1 : 70000;	/* beyond what an index counts */
	struct virtq_completion done;
	uint32_t room;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, CHAIN_ELEMS, 7);
	room = shape->size - entries(shape, CHAIN_ELEMS);
	for (uint32_t i = 0; i < rounds; i++) {
		if (i == 1)	/* from here on a store to it is a fault */
			piece_protect(&r.desc, PROT_READ, PROT_READ);
		assert_int_equal(virtq_driver_in_flight(r.driver), 1);
		virtq_driver_publish(r.driver);
		use_chain(&r, CHAIN_ELEMS, 7);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(done.written, 7);
		assert_int_equal(virtq_driver_in_flight(r.driver), 0);
		assert_int_equal(virtq_driver_room(r.driver), room);
		done.token = token_of(i);
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), 1);
		assert_int_equal(virtq_driver_room(r.driver), room);
	}
	virtq_driver_publish(r.driver);
	use_chain(&r, CHAIN_ELEMS, 7);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(token_value(done.token), rounds - 1);
	rig_close(&r);
}

/* A batch is shown again in the order asked for, as far as the ids are good. */
static void test_batch(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[4], mixed[4];
	struct virtq_req *req;
	struct rig r;

	open_keeping(&r, shape);
	for (uintptr_t i = 0; i < 4; i++)
		add_chain(&r, 1, i);
	virtq_driver_publish(r.driver);
	for (uintptr_t i = 0; i < 4; i++)
		use_chain(&r, 1, i);
	assert_int_equal(virtq_driver_get(r.driver, done, 4), 4);
	assert_int_equal(virtq_driver_again(r.driver, done, 0), 0);
	mixed[0] = done[2];
	mixed[1] = done[0];
	mixed[2] = done[2];	/* twice */
	mixed[3] = done[1];
	assert_int_equal(virtq_driver_again(r.driver, mixed, 4), 2);
	assert_int_equal(virtq_driver_in_flight(r.driver), 2);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	virtq_driver_publish(r.driver);
	use_chain(&r, 1, 2);
	use_chain(&r, 1, 0);
	assert_int_equal(virtq_driver_get(r.driver, done, 4), 2);
	assert_int_equal(token_value(done[0].token), 2);
	assert_int_equal(token_value(done[1].token), 0);
	rig_close(&r);
}

static void test_wrong_ids(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion bad[] = { { .id = shape->size }, { .id = UINT32_MAX },
					  { .id = 0 } }, done;
	struct rig r;

	open_keeping(&r, shape);
	for (unsigned int i = 0; i < 3; i++) {	/* nothing is kept yet */
		assert_int_equal(virtq_driver_again(r.driver, &bad[i], 1), -EINVAL);
		assert_int_equal(virtq_driver_free(r.driver, bad[i].id), -EINVAL);
	}
	add_chain(&r, 1, 1);
	for (uint32_t id = 0; id < shape->size; id++)	/* nor while it is in flight */
		assert_int_equal(virtq_driver_free(r.driver, id), -EINVAL);
	virtq_driver_publish(r.driver);
	use_chain(&r, 1, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(virtq_driver_free(r.driver, done.id), 0);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	assert_int_equal(virtq_driver_free(r.driver, done.id), -EINVAL);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	rig_close(&r);
}

/* What is let go is free for others, all of it, and the ring fills up as ever. */
static void test_let_go(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size / entries(shape, CHAIN_ELEMS);
	struct virtq_completion *done = calloc(count, sizeof(*done));
	struct virtq_buffer one = { &(struct virtq_seg){ RIG_DATA_GPA, 1 }, 1, 0, NULL };
	struct rig r;

	assert_non_null(done);
	if (count > 1000)
		count = 1000;
	open_keeping(&r, shape);
	for (uint32_t turn = 0; turn < 3; turn++) {
		for (uint32_t i = 0; i < count; i++)
			add_chain(&r, CHAIN_ELEMS, i);
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < count; i++)
			use_chain(&r, CHAIN_ELEMS, i);
		assert_int_equal(virtq_driver_get(r.driver, done, count), count);
		for (uint32_t i = 0; i < count; i++)
			assert_int_equal(virtq_driver_free(r.driver, done[i * 7919 % count].id), 0);
		assert_int_equal(virtq_driver_room(r.driver), shape->size);
	}
	for (uint32_t i = 0; i < shape->size; i++)
		assert_int_equal(virtq_driver_add(r.driver, &one, 1), 1);
	assert_int_equal(virtq_driver_add(r.driver, &one, 1), -ENOSPC);
	free(done);
	rig_close(&r);
}

/* What is kept is not with the device, whatever that says. */
static void test_device_uses_what_is_kept(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, 1, 1);
	add_chain(&r, 1, 2);
	virtq_driver_publish(r.driver);
	use_chain(&r, 1, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	put32(r.device_area.device + 4 + 8 * (((shape->moved ? shape->start : 0) + 1) %
					      shape->size), done.id);
	put16(r.device_area.device + 2, (uint16_t)((shape->moved ? shape->start : 0) + 2));
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_fault(r.driver).code, VIRTQ_FAULT_USED_ID);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EBADMSG);
	rig_close(&r);
}

/* A buffer shown again and taken back unpublished keeps nothing; detach gives only what is in flight. */
static void test_unadd_and_detach(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[3], back[3];
	uint32_t each = entries(shape, CHAIN_ELEMS);
	void *token;
	struct rig r;

	open_keeping(&r, shape);
	for (uintptr_t i = 0; i < 3; i++)
		add_chain(&r, CHAIN_ELEMS, i);
	virtq_driver_publish(r.driver);
	for (uintptr_t i = 0; i < 3; i++)
		use_chain(&r, CHAIN_ELEMS, i);
	assert_int_equal(virtq_driver_get(r.driver, done, 3), 3);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 3), 0);
	assert_int_equal(virtq_driver_again(r.driver, done, 2), 2);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 1), 1);
	assert_int_equal(token_value(back[0].token), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size - 2 * each);
	assert_int_equal(virtq_driver_again(r.driver, &done[1], 1), -EINVAL);
	assert_int_equal(virtq_driver_free(r.driver, done[1].id), -EINVAL);
	/* The other one is shown, and never comes back; the third is kept. */
	virtq_driver_publish(r.driver);
	virtq_driver_stop(r.driver);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
	assert_int_equal(token_value(token), 0);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 0);
	assert_int_equal(virtq_driver_again(r.driver, &done[2], 1), -ESHUTDOWN);
	rig_close(&r);
}

/* Between chains that are kept others come and go, and the entries of no two overlap. */
static void test_among_others(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion kept, done;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, CHAIN_ELEMS, 1);
	virtq_driver_publish(r.driver);
	use_chain(&r, CHAIN_ELEMS, 1);
	assert_int_equal(virtq_driver_get(r.driver, &kept, 1), 1);
	for (uintptr_t i = 2; i < 200; i++) {
		add_chain(&r, i & 1 ? 1 : CHAIN_ELEMS - (shape->size < 2 * CHAIN_ELEMS &&
							 !shape->indirect ? 2 : 0), i);
		if (i % 3 == 0)
			assert_int_equal(virtq_driver_again(r.driver, &kept, 1), 1);
		virtq_driver_publish(r.driver);
		use_chain(&r, i & 1 || (shape->size < 2 * CHAIN_ELEMS && !shape->indirect) ? 1 :
			  CHAIN_ELEMS, i);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(token_value(done.token), i);
		assert_int_equal(virtq_driver_free(r.driver, done.id), 0);
		if (i % 3 == 0) {
			use_chain(&r, CHAIN_ELEMS, 1);
			assert_int_equal(virtq_driver_get(r.driver, &kept, 1), 1);
			assert_int_equal(token_value(kept.token), 1);
		}
	}
	rig_close(&r);
}

int main(void)
{
	const unsigned int split = ONLY_SPLIT;
	struct matrix m = { 0 };

	matrix_add(&m, "which layouts", test_which_layouts, ALSO_IN_ORDER);
	matrix_add(&m, "again", test_again, split | AT_LEAST_5 | NOT_HUGE);
	matrix_add(&m, "batch", test_batch, split | AT_LEAST_5);
	matrix_add(&m, "wrong ids", test_wrong_ids, split);
	matrix_add(&m, "free", test_let_go, split | AT_LEAST_256 | NOT_HUGE);
	matrix_add(&m, "device uses what is kept", test_device_uses_what_is_kept,
		   split | AT_LEAST_2);
	matrix_add(&m, "unadd and detach", test_unadd_and_detach, split | AT_LEAST_256);
	matrix_add(&m, "among others", test_among_others, split | AT_LEAST_5 | NOT_HUGE);
	return matrix_run(&m, "kept ring entries");
}
