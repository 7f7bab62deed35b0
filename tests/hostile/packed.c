/* SPDX-License-Identifier: MIT */
/* Packed: lists whose flags or ids cannot be, and some that only look so. */
#include "liar.h"

static const struct elem rd = { RIG_DATA_GPA, 4, 0, 0 };
static const struct elem wr = { RIG_WRITABLE_GPA + 8, 4, F_WRITE, 0 };

/* The flags of the slot @ahead, straight. */
static void flags(struct liar *l, uint32_t ahead, uint16_t value)
{
	put16(liar_packed_flags_at(l, ahead), value);
}

/* P-DEV-034: a later member that is not available, in all the ways that it can be not. */
static void test_stale_member(void **state)
{
	const struct shape *shape = *state;

	for (uint32_t way = 0; way < 3; way++) {
		for (uint32_t member = 1; member < 3; member++) {
			uint16_t stale;
			struct liar l;

			liar_open(&l, shape, 0);
			stale = (uint16_t)(liar_packed_flags(&l, member, F_WRITE | F_NEXT) ^
					   (F_AVAIL | F_USED));	/* of another lap */
			if (way < 2)
				stale = (uint16_t)(F_WRITE | (way ? F_AVAIL | F_USED : 0));
			for (uint32_t i = 0; i < 4; i++) {
				liar_packed_fill(&l, i, i ? wr : rd, 0);
				flags(&l, i, liar_packed_flags(&l, i, i == 3 ? F_WRITE :
					i ? F_WRITE | F_NEXT : F_NEXT));
			}
			flags(&l, member, stale);
			liar_caught(&l, VIRTQ_FAULT_CHAIN_BROKEN, l.slot, stale);
			liar_close(&l);
		}
	}
}

/* P-DEV-017: NEXT everywhere. */
static void test_endless(void **state)
{
	const struct shape *shape = *state;

	for (uint16_t write = 0; write <= F_WRITE; write += F_WRITE) {
		struct liar l;

		liar_open(&l, shape, 0);
		for (uint32_t i = 0; i < shape->size; i++) {
			/* The slot of the request on loan too: its id must not change. */
			liar_packed_fill(&l, i, write ? wr : rd, (uint16_t)(shape->size - 1));
			flags(&l, i, liar_packed_flags(&l, i, write | F_NEXT));
		}
		liar_caught(&l, VIRTQ_FAULT_CHAIN_LOOP, l.slot, shape->size + 1);
		liar_close(&l);
	}
}

/* P-DEV-003: both bits equal, or of another lap, is not available, and is no fault. */
static void test_not_available(void **state)
{
	struct virtq_req *req;
	struct liar l;

	liar_open(&l, *state, 0);
	liar_packed_fill(&l, 0, rd, 0);
	for (uint32_t way = 0; way < 3; way++) {
		uint16_t other = (uint16_t)(liar_packed_flags(&l, 0, 0) ^ (F_AVAIL | F_USED));

		flags(&l, 0, way == 2 ? other : way ? F_AVAIL | F_USED : 0);
		assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 0);
		assert_int_equal(virtq_device_arm(l.r.device), 0);
		flags(&l, 0, (uint16_t)(0x7f7f | get16(liar_packed_flags_at(&l, 0))));
		assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 0);
	}
	/* Slots behind it are not looked at. */
	liar_packed_fill(&l, 1, rd, 0);
	flags(&l, 1, liar_packed_flags(&l, 1, 0));
	assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 0);
	flags(&l, 1, 0);
	liar_unharmed(&l);
	liar_close(&l);
}

/* P-DEV-031, P-DEV-012: ids beyond the size, and one id twice, are echoed as they came. */
static void test_ids(void **state)
{
	static const uint16_t ids[] = { 0xffff, 0x8000, 5, 5 };
	struct virtq_req *reqs[4];
	struct rig r;

	rig_open(&r, *state, RIG_DEVICE);
	for (uint32_t i = 0; i < 4; i++) {
		uint8_t *at = r.desc.driver + 16 * i;

		put64(at, RIG_WRITABLE_GPA);
		put32(at + 8, 4);
		put16(at + 12, ids[i]);
		put16(at + 14, F_AVAIL | F_WRITE);
	}
	assert_int_equal(virtq_device_pop(r.device, reqs, 4), 4);
	for (uint32_t i = 4; i-- > 0;)
		virtq_device_push(r.device, &reqs[i], 1);
	virtq_device_publish(r.device);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(get16(r.desc.driver + 16 * i + 12), ids[3 - i]);
		assert_int_equal(get16(r.desc.driver + 16 * i + 14), F_AVAIL | F_USED);
	}
	rig_close(&r);
}

/* P-DEV-012: ids of the members before the last do not count. */
static void test_id_of_the_last(void **state)
{
	static const struct elem list[2] = { { RIG_DATA_GPA, 4, F_NEXT, 0 },
					     { RIG_WRITABLE_GPA, 4, F_WRITE, 0 } };
	struct virtq_req *req;
	uint32_t first;
	struct liar l;

	liar_open(&l, *state, 0);
	first = l.slot;
	liar_chain(&l, list, 2, 0x1234);
	put16(l.r.desc.driver + 16 * first + 12, 0xffff);
	assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 1);
	assert_int_equal(req->id, 0x1234);
	assert_int_equal(virtq_device_unpop(l.r.device, req), 0);
	assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 1);
	assert_int_equal(req->entries, 2);
	virtq_device_push(l.r.device, &l.lent, 1);
	l.lent = NULL;
	virtq_device_push(l.r.device, &req, 1);
	virtq_device_publish(l.r.device);
	liar_unharmed(&l);
	liar_close(&l);
}

/* More lists than slots: the driver overwrites what is on loan. */
static void test_all_on_loan(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[LIAR_SIZE + 1];
	struct virtq_fault f;
	uint16_t place;
	struct liar l;

	liar_open(&l, shape, 0);
	reqs[0] = l.lent;
	for (uint32_t i = 1; i < shape->size; i++) {
		liar_chain(&l, &rd, 1, (uint16_t)i);
		assert_int_equal(virtq_device_pop(l.r.device, &reqs[i], 1), 1);
	}
	assert_int_equal(virtq_device_pop(l.r.device, &reqs[shape->size], 1), 0);
	place = l.slot;
	liar_chain(&l, &rd, 1, 99);
	assert_int_equal(virtq_device_pop(l.r.device, &reqs[shape->size], 1), -EBADMSG);
	f = virtq_device_fault(l.r.device);
	assert_int_equal(f.code, VIRTQ_FAULT_AVAIL_IDX);
	assert_int_equal(f.index, place);
	assert_int_equal(f.value, get16(l.r.desc.driver + 16 * (size_t)place + 14));
	virtq_device_push(l.r.device, reqs, shape->size);
	virtq_device_publish(l.r.device);
	assert_int_equal(virtq_device_in_flight(l.r.device), 0);
	liar_other_works(&l);
	liar_close(&l);
}

/* Long lists over slots on loan, until every request is: more entries than the ring has. */
static void test_lists_over_lists(void **state)
{
	static const struct elem list[3] = { { RIG_DATA_GPA, 4, F_NEXT, 0 },
					     { RIG_DATA_GPA, 4, F_NEXT, 0 },
					     { RIG_WRITABLE_GPA, 4, F_WRITE, 0 } };
	const struct shape *shape = *state;
	struct virtq_req *reqs[LIAR_SIZE];
	struct liar l;
	uint32_t n;
	int rc = 1;

	liar_open(&l, shape, 0);
	reqs[0] = l.lent;
	for (n = 1; n < shape->size; n++) {
		liar_chain(&l, list, 3, (uint16_t)n);
		rc = virtq_device_pop(l.r.device, &reqs[n], 1);
		if (rc < 0)
			break;
		assert_int_equal(rc, 1);
		assert_int_equal(reqs[n]->rd.bytes + reqs[n]->wr.bytes, 12);
	}
	if (rc < 0)
		assert_int_not_equal(virtq_device_fault(l.r.device).code, VIRTQ_FAULT_NONE);
	virtq_device_push(l.r.device, reqs, n);
	virtq_device_publish(l.r.device);
	assert_int_equal(virtq_device_in_flight(l.r.device), 0);
	liar_other_works(&l);
	liar_close(&l);
}

int main(void)
{
	static struct shape small[] = {
		{ .packed = true, .size = 4, .name = "packed 4" },
		{ .packed = true, .size = 5, .event_idx = true, .name = "packed 5 event" },
		{ .packed = true, .size = 5, .indirect = true, .moved = true, .start = 4,
		  .name = "packed 5 indirect from 4" },
		{ .packed = true, .size = 7, .moved = true, .start = 5, .name = "packed 7 from 5" },
	};
	size_t all = sizeof(small) / sizeof(small[0]);
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "P-DEV-034 a member is not available", test_stale_member,
			  small + 1, all - 1);
	matrix_add_shapes(&m, "P-DEV-017 NEXT never clears", test_endless, small, all);
	matrix_add_shapes(&m, "P-DEV-003 not available", test_not_available, small, all);
	matrix_add_shapes(&m, "P-DEV-031 P-DEV-012 any id is echoed", test_ids, small, 2);
	matrix_add_shapes(&m, "P-DEV-012 the last member's id", test_id_of_the_last, small, all);
	matrix_add_shapes(&m, "more lists than slots", test_all_on_loan, small, all);
	matrix_add_shapes(&m, "P-DEV-030 lists over slots on loan", test_lists_over_lists,
			  small, all);
	return matrix_run(&m, "hostile packed rings");
}
