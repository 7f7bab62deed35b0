/* SPDX-License-Identifier: MIT */
/*
 * IN_ORDER: one used element stands for a batch, slots are taken in turn, and
 * neither end believes more of it than can be.
 */
#include "rig.h"

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA

static const struct virtq_seg segs[] = {
	{ W, 0x10 }, { W + 0x100, 0x20 }, { W + 0x200, 0x30 }, { W + 0x300, 0x40 },
};

/* Add a buffer of @count writable elements. */
static void add(struct rig *r, uint16_t count, uintptr_t token)
{
	struct virtq_buffer buf = { segs, 0, count, token_of(token) };

	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
}

/* The id that the list ending at @slot bears. */
static uint16_t packed_id(struct rig *r, uint32_t slot)
{
	return get16(r->desc.driver + 16 * (size_t)slot + 12);
}

static void expect(struct rig *r, uintptr_t token, uint32_t written)
{
	struct virtq_completion done;

	assert_int_equal(virtq_driver_get(r->driver, &done, 1), 1);
	assert_int_equal(token_value(done.token), token);
	assert_int_equal(done.written, written);
}

static void expect_fault(struct rig *r, enum virtq_fault_code code, uint64_t value)
{
	struct virtq_completion done;

	assert_int_equal(virtq_driver_get(r->driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_get(r->driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_fault(r->driver).code, code);
	assert_int_equal(virtq_driver_fault(r->driver).value, value);
}

/* ---- Driver end, split --------------------------------------------------- */

/* S-DRV-021: N=4, chains of three: the second is 3, 0, 1, and next is x+1 or 0. */
static void test_slots_in_turn(void **state)
{
	static const struct shape shape = { .size = 4, .in_order = true };
	static const uint16_t heads[] = { 0, 3, 2, 1, 0 };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint16_t i = 0; i < 5; i++) {
		uint16_t slot = heads[i];

		add(&r, 3, i);
		virtq_driver_publish(r.driver);
		assert_int_equal(get16(avail_ring(&r, i)), slot);
		for (uint32_t k = 0; k < 3; k++) {
			const uint8_t *desc = split_desc(&r, slot);

			assert_int_equal(get64(desc), segs[k].addr);
			assert_int_equal(get16(desc + 12), F_WRITE | (k < 2 ? F_NEXT : 0));
			slot = (uint16_t)((slot + 1) % 4);
			if (k < 2)
				assert_int_equal(get16(desc + 14), slot);
		}
		rig_serve(&r, 1);
		expect(&r, i, 0);
	}
	rig_close(&r);
}

/* S-DRV-020: links inside a table count 1, 2, 3. */
static void test_table_in_turn(void **state)
{
	static const struct shape shape = { .size = 4, .in_order = true, .indirect = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint32_t i = 0; i < 6; i++) {
		const uint8_t *entry;

		add(&r, 4, i);
		virtq_driver_publish(r.driver);
		entry = r.table.driver + (get64(split_desc(&r, i % 4)) - RIG_TABLE_GPA);
		for (uint32_t k = 0; k < 3; k++)
			assert_int_equal(get16(entry + 16 * k + 14), k + 1);
		rig_serve(&r, 1);
		expect(&r, i, 0);
	}
	rig_close(&r);
}

/*
 * S-DRV-043, S-DRV-044: three buffers, one element in the slot of the first, the
 * index three ahead: three completions, the first two wholly used; then the
 * element in slot 3 counts.
 */
static void test_split_one_element_for_three(void **state)
{
	static const struct shape shape = {
		.size = 8, .in_order = true, .moved = true, .start = 65533,
	};
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	add(&r, 1, 0);
	add(&r, 2, 1);
	add(&r, 1, 2);
	add(&r, 1, 3);
	virtq_driver_publish(r.driver);
	put32(used_ring(&r, 65533), get16(avail_ring(&r, 65535)));
	put32(used_ring(&r, 65533) + 4, 7);
	/* The slots that are stepped over hold nothing (2.7.9). */
	memset(used_ring(&r, 65534), 0xff, 16);
	put16(used_idx(&r), 0);
	expect(&r, 0, 0x10);
	/* Two of the batch are left though nothing in the ring says so. */
	assert_int_equal(virtq_driver_arm(r.driver), 1);
	expect(&r, 1, 0x30);
	expect(&r, 2, 7);
	assert_int_equal(virtq_driver_arm(r.driver), 0);
	put32(used_ring(&r, 0), get16(avail_ring(&r, 0)));
	put32(used_ring(&r, 0) + 4, 0);
	put16(used_idx(&r), 1);
	expect(&r, 3, 0);
	assert_int_equal(virtq_driver_room(r.driver), 8);
	rig_close(&r);
}

/* S-DRV-045: an id that is free, a step smaller than the batch, one larger than is in flight. */
static void test_split_impossible_batches(void **state)
{
	static const struct shape shape = { .size = 8, .in_order = true };
	static const struct { uint32_t id; uint16_t idx; enum virtq_fault_code code; } lies[] = {
		{ 5, 3, VIRTQ_FAULT_USED_ID },		/* never offered */
		{ 8, 3, VIRTQ_FAULT_USED_ID },		/* no slot */
		{ 0xffffffff, 3, VIRTQ_FAULT_USED_ID },
		{ 2, 2, VIRTQ_FAULT_USED_ID },		/* the third, but two steps */
		{ 1, 1, VIRTQ_FAULT_USED_ID },
		{ 2, 4, VIRTQ_FAULT_USED_IDX },		/* four of three */
		{ 2, 65535, VIRTQ_FAULT_USED_IDX },	/* backwards */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct rig r;

		rig_open(&r, &shape, RIG_DRIVER);
		for (uintptr_t k = 0; k < 3; k++)
			add(&r, 1, k);
		virtq_driver_publish(r.driver);
		put32(used_ring(&r, 0), lies[i].id);
		put32(used_ring(&r, 0) + 4, 0);
		put16(used_idx(&r), lies[i].idx);
		expect_fault(&r, lies[i].code, lies[i].code == VIRTQ_FAULT_USED_IDX ?
					       lies[i].idx : lies[i].id);
		rig_close(&r);
	}
}

/* S-DRV-045: one that was completed as part of a batch cannot come back. */
static void test_split_skipped_one_again(void **state)
{
	static const struct shape shape = { .size = 8, .in_order = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	for (uintptr_t k = 0; k < 3; k++)
		add(&r, 1, k);
	virtq_driver_publish(r.driver);
	put32(used_ring(&r, 0), 1);
	put32(used_ring(&r, 0) + 4, 0x10);
	put32(used_ring(&r, 2), 0);
	put32(used_ring(&r, 2) + 4, 0x10);
	put16(used_idx(&r), 3);
	expect(&r, 0, 0x10);
	expect(&r, 1, 0x10);
	expect_fault(&r, VIRTQ_FAULT_USED_ID, 0);
	rig_close(&r);
}

/* ---- Driver end, packed -------------------------------------------------- */

static void packed_used(struct rig *r, uint32_t slot, uint16_t id, uint32_t len, bool wrap)
{
	uint8_t *desc = r->desc.device + 16 * (size_t)slot;

	put32(desc + 8, len);
	put16(desc + 12, id);
	put16(desc + 14, (uint16_t)((wrap ? F_AVAIL | F_USED : 0) | F_WRITE));
}

/* P-DRV-033, P-DRV-034: lists of 2, 1 and 3, one used descriptor: six slots, over the end. */
static void test_packed_one_for_three(void **state)
{
	static const struct shape shape = {
		.packed = true, .size = 7, .in_order = true, .moved = true, .start = 4,
	};
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	add(&r, 2, 0);		/* slots 4, 5 */
	add(&r, 1, 1);		/* slot 6 */
	add(&r, 3, 2);		/* slots 0-2 of the next lap */
	add(&r, 1, 3);		/* slot 3 */
	virtq_driver_publish(r.driver);
	packed_used(&r, 4, packed_id(&r, 2), 9, false);
	expect(&r, 0, 0x30);
	assert_int_equal(virtq_driver_arm(r.driver), 1);
	expect(&r, 1, 0x10);
	expect(&r, 2, 9);
	assert_int_equal(virtq_driver_arm(r.driver), 0);
	/* Slot 3, of the lap with wrap bit 1. */
	packed_used(&r, 3, packed_id(&r, 3), 0x10, true);
	expect(&r, 3, 0x10);
	assert_int_equal(virtq_driver_room(r.driver), 7);
	rig_close(&r);
}

/* P-DRV-035: ids that are not outstanding end the queue, not the driver. */
static void test_packed_unknown_id(void **state)
{
	static const struct shape shape = { .packed = true, .size = 5, .in_order = true };
	static const uint16_t ids[] = { 5, 0x7fff, 0xffff };

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		struct rig r;
		uint16_t id;

		rig_open(&r, &shape, RIG_DRIVER);
		for (uintptr_t k = 0; k < 3; k++)
			add(&r, 1, k);
		virtq_driver_publish(r.driver);
		if (i < 3) {
			id = ids[i];
		} else {
			/* One of the ids below the size that no list bears. */
			for (id = 0; id == packed_id(&r, 0) || id == packed_id(&r, 1) ||
				     id == packed_id(&r, 2); id++)
				;
			if (i == 4) {
				/* Or one that has come back. */
				id = packed_id(&r, 0);
				packed_used(&r, 0, id, 0, true);
				expect(&r, 0, 0);
			}
		}
		packed_used(&r, i == 4 ? 1 : 0, id, 0, true);
		expect_fault(&r, VIRTQ_FAULT_USED_ID, id);
		rig_close(&r);
	}
}

/* ---- Device end ----------------------------------------------------------- */

/* S-DEV-032, P-DEV-024: done as 1, 2, 0: nothing shows before 0 is there, then all. */
static void test_device_resequences(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *reqs[4];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (int lap = 0; lap < 6; lap++) {
		for (uintptr_t i = 0; i < 4; i++)
			add(&r, 1, i);
		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_device_pop(r.device, reqs, 4), 4);
		for (uint32_t i = 0; i < 4; i++)
			virtq_req_wrote(reqs[i], i == 2 ? 3 : 0x10);
		virtq_device_push(r.device, &reqs[1], 2);
		assert_int_equal(virtq_device_publish(r.device), 0);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		virtq_device_push(r.device, &reqs[0], 1);
		virtq_device_publish(r.device);
		expect(&r, 0, 0x10);
		expect(&r, 1, 0x10);
		expect(&r, 2, 3);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		virtq_device_push(r.device, &reqs[3], 1);
		virtq_device_publish(r.device);
		expect(&r, 3, 0x10);
	}
	rig_close(&r);
}

/*
 * The lengths come back as they were, whatever the batches: a buffer that was
 * not filled to the end is not skipped over (S-DRV-044, P-DRV-034).
 */
static void test_lengths_survive_batches(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t filled = 0; filled < 16; filled++) {
		struct virtq_req *reqs[4];

		for (uintptr_t i = 0; i < 4; i++)
			add(&r, 1, i);
		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_device_pop(r.device, reqs, 4), 4);
		for (uint32_t i = 0; i < 4; i++)
			virtq_req_wrote(reqs[i], filled >> i & 1 ? 0x10 : i);
		virtq_device_push(r.device, reqs, 4);
		virtq_device_publish(r.device);
		for (uint32_t i = 0; i < 4; i++)
			expect(&r, i, filled >> i & 1 ? 0x10 : i);
	}
	rig_close(&r);
}

/*
 * S-DEV-033: whole batches of 1..8 from each slot: the element in the slot of
 * the first with the head of the last, the index a batch further, the rest of
 * the used ring as it was.
 */
static void test_split_batches(void **state)
{
	static const struct shape shape = {
		.size = 8, .in_order = true, .moved = true, .start = 65530,
	};
	uint16_t at = 65530;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint32_t count = 1; count <= 8; count++) {
		for (uint32_t from = 0; from < 8; from++) {
			struct virtq_req *reqs[8];

			while (at % 8 != from) {
				rig_send(&r, 1);
				rig_serve(&r, 1);
				rig_collect(&r, 1);
				at++;
			}
			for (uint32_t i = 0; i < count; i++)
				add(&r, 1, i);
			virtq_driver_publish(r.driver);
			assert_int_equal(virtq_device_pop(r.device, reqs, 8), count);
			for (uint32_t i = 0; i < count; i++)
				virtq_req_wrote(reqs[i], i + 1 < count ? 0x10 : 5);
			memset(used_ring(&r, 0), 0xee, 64);
			virtq_device_push(r.device, reqs, count);
			virtq_device_publish(r.device);
			assert_int_equal(get16(used_idx(&r)), (uint16_t)(at + count));
			assert_int_equal(get32(used_ring(&r, at)),
					 get16(avail_ring(&r, (uint16_t)(at + count - 1))));
			assert_int_equal(get32(used_ring(&r, at) + 4), 5);
			for (uint16_t i = 1; i < 8; i++)
				assert_int_equal(get32(used_ring(&r, (uint16_t)(at + i))),
						 0xeeeeeeee);
			for (uint32_t i = 0; i < count; i++)
				expect(&r, i, i + 1 < count ? 0x10 : 5);
			at = (uint16_t)(at + count);
		}
	}
	rig_close(&r);
}

/* P-DEV-023: the same with lists of two slots in a ring of nine. */
static void test_packed_batches(void **state)
{
	static const struct shape shape = { .packed = true, .size = 9, .in_order = true };
	uint32_t at = 0;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint32_t shot = 0; shot < 4 * 18; shot++) {
		uint32_t count = 1 + shot % 4, slot = at % 9;
		bool wrap = at / 9 % 2 == 0;
		struct virtq_req *reqs[4];
		uint8_t before[9 * 16];
		uint16_t last;

		for (uint32_t i = 0; i < count; i++)
			add(&r, 2, i);
		virtq_driver_publish(r.driver);
		last = packed_id(&r, (at + 2 * count - 1) % 9);
		assert_int_equal(virtq_device_pop(r.device, reqs, 4), count);
		for (uint32_t i = 0; i < count; i++)
			virtq_req_wrote(reqs[i], i + 1 < count ? 0x30 : 6);
		memcpy(before, r.desc.driver, sizeof(before));
		virtq_device_push(r.device, reqs, count);
		virtq_device_publish(r.device);
		assert_int_equal(packed_id(&r, slot), last);
		assert_int_equal(get32(r.desc.driver + 16 * slot + 8), 6);
		assert_int_equal(get16(r.desc.driver + 16 * slot + 14),
				 (wrap ? F_AVAIL | F_USED : 0) | F_WRITE);
		/* No other slot was written. */
		for (uint32_t i = 0; i < 9; i++)
			if (i != slot)
				assert_memory_equal(before + 16 * i, r.desc.driver + 16 * i, 16);
		for (uint32_t i = 0; i < count; i++)
			expect(&r, i, i + 1 < count ? 0x30 : 6);
		at += 2 * count;
		/* Odd steps now and then, so that lists begin at each slot. */
		if (shot % 5 == 4) {
			rig_send(&r, 1);
			rig_serve(&r, 1);
			rig_collect(&r, 1);
			at++;
		}
	}
	rig_close(&r);
}

/* N-DEV-023: armed for a buffer in the middle of what a batch steps over: there is a call. */
static void test_event_in_the_middle(void **state)
{
	const struct shape *shape = *state;

	for (uint32_t armed = 0; armed < 5; armed++) {
		struct virtq_req *reqs[4];
		struct rig r;

		rig_open(&r, shape, RIG_BOTH);
		rig_send(&r, 1);
		rig_serve(&r, 1);	/* the first decision is behind us */
		rig_collect(&r, 1);
		for (uintptr_t i = 0; i < 4; i++)
			add(&r, 1, i);
		virtq_driver_publish(r.driver);
		if (shape->packed) {
			put16(r.driver_area.driver, (uint16_t)(0x8000 | (1 + armed)));
			put16(r.driver_area.driver + 2, RING_EVENT_FLAGS_DESC);
		} else {
			put16(used_event(&r), (uint16_t)(1 + armed));
		}
		assert_int_equal(virtq_device_pop(r.device, reqs, 4), 4);
		for (uint32_t i = 0; i < 4; i++)
			virtq_req_wrote(reqs[i], 0x10);
		virtq_device_push(r.device, reqs, 4);
		assert_int_equal(virtq_device_publish(r.device), armed < 4);
		rig_close(&r);
	}
}

/* Handing the last request back and pushing around it leave the order intact. */
static void test_unpop_in_order(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[4];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (int lap = 0; lap < 9; lap++) {
		for (uintptr_t i = 0; i < 4; i++)
			add(&r, 1, i);
		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_device_pop(r.device, reqs, 4), 4);
		assert_int_equal(virtq_device_unpop(r.device, reqs[3]), 0);
		virtq_device_push(r.device, &reqs[1], 1);
		assert_int_equal(virtq_device_unpop(r.device, reqs[2]), 0);
		/* It was pushed, though it waits: it cannot be handed back any more. */
		assert_int_equal(virtq_device_unpop(r.device, reqs[1]), -EINVAL);
		assert_int_equal(virtq_device_pop(r.device, reqs + 2, 2), 2);
		virtq_device_push(r.device, &reqs[3], 1);
		virtq_device_push(r.device, &reqs[0], 1);
		virtq_device_publish(r.device);
		expect(&r, 0, 0);
		expect(&r, 1, 0);
		rig_collect(&r, 0);
		virtq_device_push(r.device, &reqs[2], 1);
		virtq_device_publish(r.device);
		expect(&r, 2, 0);
		expect(&r, 3, 0);
	}
	rig_close(&r);
}

int main(void)
{
	static struct shape both[] = {
		{ .size = 8, .in_order = true, .event_idx = true, .name = "split" },
		{ .size = 7, .in_order = true, .event_idx = true, .packed = true,
		  .name = "packed" },
	};
	struct matrix m = { 0 };

	matrix_add_one(&m, "S-DRV-021 slots in turn", test_slots_in_turn);
	matrix_add_one(&m, "S-DRV-020 table links in turn", test_table_in_turn);
	matrix_add_one(&m, "S-DRV-043 S-DRV-044 one element for three",
		       test_split_one_element_for_three);
	matrix_add_one(&m, "S-DRV-045 impossible batches, split", test_split_impossible_batches);
	matrix_add_one(&m, "S-DRV-045 one of a batch again", test_split_skipped_one_again);
	matrix_add_one(&m, "P-DRV-033 P-DRV-034 one descriptor for three",
		       test_packed_one_for_three);
	matrix_add_one(&m, "P-DRV-035 unknown ids, packed", test_packed_unknown_id);
	matrix_add_shapes(&m, "S-DEV-032 P-DEV-024 order of offer", test_device_resequences,
			  both, 2);
	matrix_add_shapes(&m, "lengths survive batches", test_lengths_survive_batches, both, 2);
	matrix_add_one(&m, "S-DEV-033 batches, split", test_split_batches);
	matrix_add_one(&m, "P-DEV-023 batches, packed", test_packed_batches);
	matrix_add_shapes(&m, "N-DEV-023 event in the middle", test_event_in_the_middle, both, 2);
	matrix_add_shapes(&m, "unpop", test_unpop_in_order, both, 2);
	return matrix_run(&m, "in order");
}
