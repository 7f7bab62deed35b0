/* SPDX-License-Identifier: MIT */
/* IN_ORDER, driver end: batches that name, count or measure what they may not. */
#include "rig.h"

#define N 8u
#define TOKENS 4u

/*
 * As in used.c: a writable of 16 bytes (1 entry), a chain that ends with 32
 * writable bytes (3), a readable (1); and, only staged, a writable (1).
 */
struct victim {
	struct rig r;
	uint32_t taken;		/* buffers, in order */
	uint16_t idx, first_slot, entries;
};

static const uint16_t entries_of[TOKENS] = { 1, 3, 1, 1 };
static const uint32_t writable_of[TOKENS] = { 16, 32, 0, 16 };

/* What the device calls them: heads are slots, ids are counted. */
static uint16_t name_of(const struct victim *v, uint32_t token)
{
	static const uint16_t heads[TOKENS] = { 0, 1, 4, 5 };

	return v->r.shape.packed ? (uint16_t)token : heads[token];
}

static void victim_open(struct victim *v, const struct shape *shape)
{
	struct virtq_seg segs[3] = { { RIG_DATA_GPA, 4 }, { RIG_DATA_GPA, 4 },
				     { RIG_WRITABLE_GPA, 32 } };
	struct virtq_buffer chain = { segs, 2, 1, token_of(1) };

	memset(v, 0, sizeof(*v));
	rig_memory(&v->r, shape);
	v->r.driver_ring.features = virtq_features_with(v->r.driver_ring.features,
							VIRTIO_F_IN_ORDER);
	rig_make_driver(&v->r);
	v->idx = v->first_slot = (uint16_t)shape->start;
	assert_int_equal(rig_add(&v->r, RIG_WRITABLE_GPA, 16, true, token_of(0)), 1);
	assert_int_equal(virtq_driver_add(v->r.driver, &chain, 1), 1);
	assert_int_equal(rig_add(&v->r, RIG_DATA_GPA, 16, false, token_of(2)), 1);
	virtq_driver_publish(v->r.driver);
	assert_int_equal(rig_add(&v->r, RIG_WRITABLE_GPA, 16, true, token_of(3)), 1);
}

/*
 * One element that names @id as the last of a batch, where the batch after
 * @after buffers begins; split: the index then covers @covered more than that.
 */
static void batch(struct victim *v, uint32_t after, uint32_t id, uint32_t len, uint16_t covered)
{
	uint32_t slot = v->first_slot;
	uint16_t idx = (uint16_t)(v->idx + after);
	uint8_t *desc;
	bool wrap;

	if (!v->r.shape.packed) {
		put32(used_ring(&v->r, idx), id);
		put32(used_ring(&v->r, idx) + 4, len);
		put16(used_idx(&v->r), (uint16_t)(idx + covered));
		return;
	}
	for (uint32_t i = 0; i < after; i++)
		slot += entries_of[i];
	desc = v->r.desc.device + 16 * (size_t)(slot % v->r.shape.size);
	put32(desc + 8, len);
	put16(desc + 12, (uint16_t)id);
	wrap = v->r.shape.moved == (slot >= v->r.shape.size);
	put16(desc + 14, (uint16_t)(F_WRITE | (wrap ? F_AVAIL | F_USED : 0)));
}

/* The next buffer comes, with that length. */
static void comes(struct victim *v, uint32_t written)
{
	struct virtq_completion done;

	assert_int_equal(virtq_driver_get(v->r.driver, &done, 1), 1);
	assert_int_equal(token_value(done.token), v->taken);
	assert_int_equal(done.written, written);
	v->entries = (uint16_t)(v->entries + entries_of[v->taken++]);
}

static void caught(struct victim *v, enum virtq_fault_code code, uint64_t value)
{
	struct virtq_completion done[TOKENS];
	uint32_t left[TOKENS] = { 0 };
	uint32_t index = v->r.shape.packed ? (v->first_slot + v->entries) % v->r.shape.size :
					     (uint16_t)(v->idx + v->taken);
	void *token;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(virtq_driver_get(v->r.driver, done, TOKENS), -EBADMSG);
		rig_fault_is(virtq_driver_fault(v->r.driver), code, index, value);
	}
	virtq_driver_stop(v->r.driver);
	while (virtq_driver_detach(v->r.driver, &token) == 1)
		left[token_value(token)]++;
	for (uint32_t i = 0; i < TOKENS; i++)
		assert_int_equal(left[i], i >= v->taken);
	rig_close(&v->r);
}

/* S-DRV-043, S-DRV-044, P-DRV-033, P-DRV-034: honest: one element for all three. */
static void test_honest(void **state)
{
	struct virtq_completion done;
	struct victim v;

	victim_open(&v, *state);
	batch(&v, 0, name_of(&v, 2), 0, 3);
	comes(&v, 16);
	comes(&v, 32);
	comes(&v, 0);
	assert_int_equal(virtq_driver_get(v.r.driver, &done, 1), 0);
	assert_int_equal(virtq_driver_arm(v.r.driver), 0);
	virtq_driver_publish(v.r.driver);
	batch(&v, 3, name_of(&v, 3), 5, 1);
	comes(&v, 5);
	assert_int_equal(virtq_driver_fault(v.r.driver).code, VIRTQ_FAULT_NONE);
	rig_close(&v.r);
}

/* S-DRV-045, P-DRV-035: ids beyond, free, mid-chain and unpublished end no batch. */
static void test_ids(void **state)
{
	static const struct { uint32_t id; bool packed, split; } ids[] = {
		{ N, true, true }, { 0xffff, true, true }, { 0xffffffff, false, true },
		{ 0x10000, false, true }, { 7, true, true }, { 2, false, true },
		{ 5, true, true },
	};
	const struct shape *shape = *state;

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		struct victim v;

		if (!(shape->packed ? ids[i].packed : ids[i].split))
			continue;
		victim_open(&v, shape);
		batch(&v, 0, ids[i].id, 0, 3);
		caught(&v, VIRTQ_FAULT_USED_ID, ids[i].id);
		/* Behind an honest one. */
		victim_open(&v, shape);
		batch(&v, 1, ids[i].id, 0, 2);
		batch(&v, 0, name_of(&v, 0), 1, 3);
		comes(&v, 1);
		caught(&v, VIRTQ_FAULT_USED_ID, ids[i].id);
	}
	for (uint32_t again = 0; again < 2; again++) {
		struct victim v;

		/* The one that is only staged; one that was returned before. */
		victim_open(&v, shape);
		if (again) {
			batch(&v, 0, name_of(&v, 1), 0, 2);
			comes(&v, 16);
			comes(&v, 0);
			batch(&v, 2, name_of(&v, 0), 0, 1);
			caught(&v, VIRTQ_FAULT_USED_ID, name_of(&v, 0));
		} else {
			batch(&v, 0, name_of(&v, 3), 0, shape->packed ? 4 : 3);
			caught(&v, VIRTQ_FAULT_USED_ID, name_of(&v, 3));
		}
	}
}

/* S-DRV-037, P-DRV-029: the length belongs to the last of the batch, not to the largest. */
static void test_lengths(void **state)
{
	for (uint32_t last = 0; last < 3; last++) {
		struct victim v;

		victim_open(&v, *state);
		batch(&v, 0, name_of(&v, last), writable_of[last] + 1, (uint16_t)(last + 1));
		caught(&v, VIRTQ_FAULT_USED_LENGTH, writable_of[last] + 1);
	}
}

/* S-DRV-045: the index has moved by fewer, or by more, than the batch has. */
static void test_steps(void **state)
{
	struct victim v;

	victim_open(&v, *state);
	batch(&v, 0, 4, 0, 2);
	caught(&v, VIRTQ_FAULT_USED_ID, 4);
	/* One more: what stands there is read, and is 0, which has been returned. */
	victim_open(&v, *state);
	batch(&v, 0, 1, 32, 3);
	comes(&v, 16);
	comes(&v, 32);
	caught(&v, VIRTQ_FAULT_USED_ID, 0);
	victim_open(&v, *state);
	batch(&v, 0, 4, 0, TOKENS + 1);
	caught(&v, VIRTQ_FAULT_USED_IDX, (uint16_t)(v.idx + TOKENS + 1));
}

/*
 * S-DRV-035: the index steps back while a batch is taken piece by piece. Never
 * may arm() say that something is there while get() finds nothing, for ever.
 */
static void test_back_within_a_batch(void **state)
{
	/* After one of three was taken, the index says that so many were used in all. */
	for (uint16_t used = 0; used < 3; used++) {
		struct virtq_completion done;
		struct victim v;
		int rc;

		victim_open(&v, *state);
		batch(&v, 0, 4, 0, 3);
		comes(&v, 16);
		put16(used_idx(&v.r), (uint16_t)(v.idx + used));
		/* The second may come, being within what the index says; the third is not. */
		rc = virtq_driver_get(v.r.driver, &done, 1);
		if (used == 2 && rc == 1) {
			v.taken++;
			rc = virtq_driver_get(v.r.driver, &done, 1);
		}
		if (!rc && virtq_driver_arm(v.r.driver))
			fail_msg("index at %u: get finds nothing, arm says something is there",
				 used);
		caught(&v, VIRTQ_FAULT_USED_IDX, (uint16_t)(v.idx + used));
	}
}

int main(void)
{
	static struct shape split[] = {
		{ .size = N, .name = "split" },
		{ .size = N, .event_idx = true, .moved = true, .start = 65534,
		  .name = "split, event, index wraps" },
	};
	static struct shape packed[] = {
		{ .packed = true, .size = N, .name = "packed" },
		{ .packed = true, .size = 6, .event_idx = true, .moved = true, .start = 5,
		  .name = "packed 6, event, lap ends" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "S-DRV-043 S-DRV-044 honest batches", test_honest, split, 2);
	matrix_add_shapes(&m, "P-DRV-033 P-DRV-034 honest batches", test_honest, packed, 2);
	matrix_add_shapes(&m, "S-DRV-045 ids of no buffer", test_ids, split, 2);
	matrix_add_shapes(&m, "P-DRV-035 ids of no buffer", test_ids, packed, 2);
	matrix_add_shapes(&m, "S-DRV-037 lengths of batches", test_lengths, split, 2);
	matrix_add_shapes(&m, "P-DRV-029 lengths of batches", test_lengths, packed, 2);
	matrix_add_shapes(&m, "S-DRV-045 index step is not the batch", test_steps, split, 2);
	matrix_add_shapes(&m, "S-DRV-035 index steps back within a batch",
			  test_back_within_a_batch, split, 2);
	return matrix_run(&m, "hostile batches");
}
