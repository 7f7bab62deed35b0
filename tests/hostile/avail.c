/* SPDX-License-Identifier: MIT */
/* Split: available indices and heads that cannot be. */
#include "liar.h"

static const struct elem one = { RIG_DATA_GPA, 4, 0, 0 };

/* S-DEV-018, S-DEV-039: the index claims @jump more chains than were offered. */
static void claim(const struct shape *shape, uint16_t jump)
{
	struct liar l;
	uint16_t idx;

	liar_open(&l, shape, 0);
	idx = (uint16_t)(l.idx + jump);
	put16(avail_idx(&l.r), idx);
	liar_caught(&l, VIRTQ_FAULT_AVAIL_IDX, l.idx, idx);
	liar_close(&l);
}

static void test_jump(void **state)
{
	const struct shape *shape = *state;

	claim(shape, (uint16_t)(shape->size + 1));
	claim(shape, 40000);
	claim(shape, 65534);
}

static void test_step_back(void **state)
{
	claim(*state, 65535);
}

/* The index goes back after it was right: what has been seen of it before does not matter. */
static void test_step_back_later(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *req;
	struct virtq_fault f;
	struct liar l;

	liar_open(&l, shape, 0);
	for (uint32_t i = 0; i < 3 * shape->size; i++) {
		liar_chain(&l, &one, 1, 0);
		assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 1);
		virtq_device_push(l.r.device, &req, 1);
		if (i % 7 == 3)
			assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 0);
	}
	l.idx--;
	put16(avail_idx(&l.r), l.idx);
	assert_int_equal(virtq_device_pop(l.r.device, &req, 1), -EBADMSG);
	f = virtq_device_fault(l.r.device);
	assert_int_equal(f.code, VIRTQ_FAULT_AVAIL_IDX);
	assert_int_equal(f.index, (uint16_t)(l.idx + 1));
	assert_int_equal(f.value, l.idx);
	liar_close(&l);
}

/* S-DEV-017, S-DEV-039: the queue stops, says why, and its neighbour does not notice. */
static void test_head_range(void **state)
{
	const struct shape *shape = *state;
	const uint16_t heads[] = { (uint16_t)shape->size, (uint16_t)(shape->size + 1), 0x8000,
				   0xfffe, 0xffff };

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		struct liar l;

		if (heads[i] < shape->size)
			continue;
		liar_open(&l, shape, 0);
		liar_offer(&l, heads[i]);
		liar_caught(&l, VIRTQ_FAULT_HEAD_RANGE, (uint16_t)(l.idx - 1), heads[i]);
		liar_close(&l);
	}
}

/* S-DEV-031: the head that is on loan. */
static void test_head_busy(void **state)
{
	const struct shape *shape = *state;
	struct liar l;

	liar_open(&l, shape, 0);
	liar_offer(&l, (uint16_t)(shape->size - 1));
	liar_caught(&l, VIRTQ_FAULT_HEAD_BUSY, (uint16_t)(l.idx - 1), shape->size - 1);
	liar_close(&l);
}

/* S-DEV-031: twice in one batch; the first of them is good, and is returned once. */
static void test_head_twice_in_a_batch(void **state)
{
	struct virtq_req *reqs[4];
	struct virtq_fault f;
	struct liar l;

	liar_open(&l, *state, 0);
	liar_desc(&l, 0, one);
	liar_offer(&l, 0);
	liar_offer(&l, 0);
	assert_int_equal(virtq_device_pop(l.r.device, reqs, 4), 1);
	assert_int_equal(reqs[0]->id, 0);
	f = virtq_device_fault(l.r.device);
	assert_int_equal(f.code, VIRTQ_FAULT_HEAD_BUSY);
	assert_int_equal(f.index, (uint16_t)(l.idx - 1));
	assert_int_equal(f.value, 0);
	assert_int_equal(virtq_device_pop(l.r.device, &reqs[1], 3), -EBADMSG);
	/* S-DEV-043: both good ones, once each, in the order of the pushes. */
	virtq_device_push(l.r.device, reqs, 1);
	virtq_device_push(l.r.device, &l.lent, 1);
	assert_int_equal(virtq_device_publish(l.r.device), 1);
	assert_int_equal(virtq_device_in_flight(l.r.device), 0);
	assert_int_equal(get16(used_idx(&l.r)), (uint16_t)(l.r.shape.start + 2));
	assert_int_equal(get32(used_ring(&l.r, (uint16_t)l.r.shape.start)), 0);
	assert_int_equal(get32(used_ring(&l.r, (uint16_t)(l.r.shape.start + 1))),
			 l.r.shape.size - 1);
	liar_other_works(&l);
	liar_close(&l);
}

/* Every head on loan, and one more offered: busy if it is one, out of range if not. */
static void test_all_on_loan(void **state)
{
	const struct shape *shape = *state;

	for (uint16_t range = 0; range < 2; range++) {
		uint16_t head = range ? 0xffff : 0;
		struct virtq_req *req;
		struct virtq_fault f;
		struct liar l;

		liar_open(&l, shape, 0);
		for (uint16_t i = 0; i < shape->size - (l.lent ? 1 : 0); i++) {
			liar_desc(&l, i, one);
			liar_offer(&l, i);
			assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 1);
		}
		assert_int_equal(virtq_device_in_flight(l.r.device), shape->size);
		assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 0);
		liar_offer(&l, head);
		assert_int_equal(virtq_device_pop(l.r.device, &req, 1), -EBADMSG);
		f = virtq_device_fault(l.r.device);
		assert_int_equal(f.code, range ? VIRTQ_FAULT_HEAD_RANGE : VIRTQ_FAULT_HEAD_BUSY);
		assert_int_equal(f.index, (uint16_t)(l.idx - 1));
		assert_int_equal(f.value, head);
		liar_other_works(&l);
		liar_close(&l);
	}
}

/* S-DEV-031: a member of a chain on loan offered as a head: odd, and harmless. */
static void test_members_shared(void **state)
{
	static const struct elem chain[2] = { { RIG_DATA_GPA, 4, F_NEXT, 1 },
					      { RIG_WRITABLE_GPA + 8, 4, F_WRITE, 0 } };
	struct virtq_req *reqs[2];
	struct liar l;

	liar_open(&l, *state, 0);
	liar_chain(&l, chain, 2, 0);
	liar_offer(&l, 1);
	assert_int_equal(virtq_device_pop(l.r.device, reqs, 2), 2);
	assert_int_equal(reqs[0]->wr.bytes, 4);
	assert_int_equal(reqs[1]->wr.bytes, 4);
	assert_int_equal(virtq_device_in_flight(l.r.device), 3);
	virtq_device_push(l.r.device, &l.lent, 1);
	l.lent = NULL;
	virtq_device_push(l.r.device, reqs, 2);
	virtq_device_publish(l.r.device);
	liar_unharmed(&l);
	liar_close(&l);
}

int main(void)
{
	static struct shape shapes[] = {
		{ .size = 1, .name = "1" },
		{ .size = 1, .moved = true, .start = 65535, .name = "1 from 65535" },
		{ .size = 8, .name = "8" },
		{ .size = 8, .event_idx = true, .moved = true, .start = 65535,
		  .name = "8 event from 65535" },
		{ .size = 256, .indirect = true, .moved = true, .start = 65280,
		  .name = "256 indirect from 65280" },
		{ .size = 32768, .name = "32768" },
		{ .size = 32768, .moved = true, .start = 40000, .name = "32768 from 40000" },
	};
	size_t all = sizeof(shapes) / sizeof(shapes[0]);
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "S-DEV-018 index claims more than the ring holds", test_jump,
			  shapes, all);
	matrix_add_shapes(&m, "S-DEV-018 index steps back", test_step_back, shapes, all);
	matrix_add_shapes(&m, "S-DEV-018 S-DEV-019 index steps back after traffic",
			  test_step_back_later, shapes, all);
	matrix_add_shapes(&m, "S-DEV-017 head out of range", test_head_range, shapes, all);
	matrix_add_shapes(&m, "S-DEV-031 head is on loan", test_head_busy, shapes + 2, all - 2);
	matrix_add_shapes(&m, "S-DEV-031 head twice in a batch", test_head_twice_in_a_batch,
			  shapes + 2, all - 2);
	matrix_add_shapes(&m, "S-DEV-017 S-DEV-031 more offered than there are heads",
			  test_all_on_loan, shapes, all);
	matrix_add_shapes(&m, "S-DEV-031 chains that share a member", test_members_shared,
			  shapes + 2, all - 2);
	return matrix_run(&m, "hostile available rings");
}
