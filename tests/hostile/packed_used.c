/* SPDX-License-Identifier: MIT */
/* Packed, driver end: a device that returns what it may not, in raw descriptors. */
#include "victim.h"

/* The victim's ids are 0, 1, 2 and, staged, 3. Ids and slots from there on are free. */
static const uint32_t slots_of[TOKENS] = { 1, 3, 1, 1 };

/* Mark @ahead of the next slot, with @flags beside the two bits of its lap. */
static void mark(struct victim *v, uint32_t ahead, uint16_t id, uint32_t len, uint16_t flags)
{
	uint32_t slot = (v->slot + ahead) % v->r.shape.size;
	bool wrap = v->wrap ^ (v->slot + ahead >= v->r.shape.size);
	uint8_t *desc = v->r.desc.device + 16 * (size_t)slot;

	put32(desc + 8, len);
	put16(desc + 12, id);
	put16(desc + 14, (uint16_t)(flags | (wrap ? F_AVAIL | F_USED : 0)));
}

static void step(struct victim *v, uint32_t slots)
{
	v->wrap ^= v->slot + slots >= v->r.shape.size;
	v->slot = (v->slot + slots) % v->r.shape.size;
}

static void nothing(struct victim *v)
{
	struct virtq_completion done;

	assert_int_equal(virtq_driver_get(v->r.driver, &done, 1), 0);
	assert_int_equal(virtq_driver_fault(v->r.driver).code, VIRTQ_FAULT_NONE);
}

/* The next slot, marked so, is a return of @id's buffer with @written bytes. */
static void honest(struct victim *v, uint16_t id, uint32_t len, uint16_t flags, uint32_t written)
{
	struct virtq_completion done;

	mark(v, 0, id, len, flags);
	assert_int_equal(virtq_driver_get(v->r.driver, &done, 1), 1);
	got(v, &done, id, written);
	step(v, slots_of[id]);
}

static void caught(struct victim *v, enum virtq_fault_code code, uint64_t value)
{
	victim_caught(v, code, v->slot, value);
}

/* ---- Ids and lengths ---------------------------------------------------- */

static const struct {
	const char *what;
	uint16_t id;
	uint32_t len;
	uint16_t flags;
	enum virtq_fault_code code;
} lies[] = {
	{ "P-DRV-027 all ones", 0xffff, 0, 0, VIRTQ_FAULT_USED_ID },
	{ "P-DRV-027 32768", 0x8000, 16, F_WRITE, VIRTQ_FAULT_USED_ID },
	{ "P-DRV-027 a free id", 4, 0, 0, VIRTQ_FAULT_USED_ID },
	{ "P-DRV-027 staged, never published", 3, 0, 0, VIRTQ_FAULT_USED_ID },
	{ "P-DRV-029 one byte too long", 0, 17, F_WRITE, VIRTQ_FAULT_USED_LENGTH },
	{ "P-DRV-029 all ones", 0, 0xffffffff, F_WRITE, VIRTQ_FAULT_USED_LENGTH },
	{ "P-DRV-029 readable bytes counted in", 1, 33, F_WRITE, VIRTQ_FAULT_USED_LENGTH },
	{ "P-DRV-029 nothing was writable", 2, 1, F_WRITE, VIRTQ_FAULT_USED_LENGTH },
};

static void test_ids_and_lengths(void **state)
{
	const struct shape *shape = *state;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		bool length = lies[i].code == VIRTQ_FAULT_USED_LENGTH;
		uint64_t value = length ? lies[i].len : lies[i].id;
		uint16_t other = lies[i].id == 1 ? 0 : 1;
		struct virtq_completion done[TOKENS];
		struct victim v;

		print_message("# %s\n", lies[i].what);
		victim_open(&v, shape);
		mark(&v, 0, lies[i].id, lies[i].len, lies[i].flags);
		caught(&v, lies[i].code, value);

		/* Behind an honest one in one get. */
		victim_open(&v, shape);
		mark(&v, slots_of[other], lies[i].id, lies[i].len, lies[i].flags);
		mark(&v, 0, other, 7, F_WRITE);
		assert_int_equal(virtq_driver_get(v.r.driver, done, TOKENS), 1);
		got(&v, &done[0], other, 7);
		step(&v, slots_of[other]);
		caught(&v, lies[i].code, value);
	}
}

/* P-DRV-027: the size is no id, nor what is beyond it. */
static void test_id_range(void **state)
{
	const struct shape *shape = *state;

	for (uint32_t over = 0; over < 2; over++) {
		struct victim v;

		victim_open(&v, shape);
		mark(&v, 0, (uint16_t)(shape->size + over), 0, 0);
		caught(&v, VIRTQ_FAULT_USED_ID, shape->size + over);
	}
}

/* P-DRV-027: the same id again, at once and later. */
static void test_repeated(void **state)
{
	struct victim v;

	victim_open(&v, *state);
	honest(&v, 1, 32, F_WRITE, 32);
	mark(&v, 0, 1, 32, F_WRITE);
	caught(&v, VIRTQ_FAULT_USED_ID, 1);

	victim_open(&v, *state);
	honest(&v, 2, 0, 0, 0);
	honest(&v, 0, 16, F_WRITE, 16);
	mark(&v, 0, 2, 0, 0);
	caught(&v, VIRTQ_FAULT_USED_ID, 2);
}

/* P-DRV-025: everything returned, and the next slots marked all the same. */
static void test_more_than_in_flight(void **state)
{
	struct victim v;

	victim_open(&v, *state);
	honest(&v, 2, 0, 0, 0);
	honest(&v, 0, 0, 0, 0);
	honest(&v, 1, 0, 0, 0);
	virtq_driver_publish(v.r.driver);
	honest(&v, 3, 1, F_WRITE, 1);
	nothing(&v);
	mark(&v, 0, 0, 0, 0);
	caught(&v, VIRTQ_FAULT_USED_ID, 0);
}

/* ---- What only looks wrong ---------------------------------------------- */

/* P-DRV-028, P-DRV-030, P-DRV-031: length without WRITE; NEXT, INDIRECT, address: ignored. */
static void test_ignored(void **state)
{
	static const uint16_t noise = F_NEXT | F_INDIRECT | 0x7f78;
	struct victim v;

	victim_open(&v, *state);
	memset(v.r.desc.device + 16 * (size_t)v.slot, 0xee, 8);
	honest(&v, 1, 0xffffffff, noise, 0);
	honest(&v, 2, 0, F_WRITE | noise, 0);
	memset(v.r.desc.device + 16 * (size_t)v.slot, 0, 8);
	honest(&v, 0, 16, F_WRITE | noise, 16);
	nothing(&v);
	virtq_driver_publish(v.r.driver);
	honest(&v, 3, 17, 0, 0);
	nothing(&v);
	assert_int_equal(virtq_driver_room(v.r.driver), v.r.shape.size);
	rig_close(&v.r);
}

/* P-DRV-025, P-DRV-032: one bit, the other lap's bits, and later slots are no returns. */
static void test_not_used(void **state)
{
	uint8_t *desc;
	struct victim v;

	victim_open(&v, *state);
	desc = v.r.desc.device + 16 * (size_t)v.slot;
	for (uint32_t bits = 0; bits < 3; bits++) {
		/* Of the four states of the two bits, those that are not this lap's "used". */
		uint16_t flags = bits == 0 ? F_AVAIL : bits == 1 ? F_USED :
				 v.wrap ? 0 : F_AVAIL | F_USED;

		put16(desc + 14, (uint16_t)(flags | F_WRITE));
		nothing(&v);
		put16(desc + 14, (uint16_t)(flags | 0x7f7f));
		nothing(&v);
		assert_int_equal(virtq_driver_arm(v.r.driver), 0);
	}
	for (uint32_t ahead = 1; ahead < v.r.shape.size; ahead++) {
		mark(&v, ahead, 0, 16, F_WRITE);
		nothing(&v);
	}
	/* Until the first is marked: then it and all of them. */
	honest(&v, 1, 32, F_WRITE, 32);
	honest(&v, 0, 16, F_WRITE, 16);
	mark(&v, 0, 0, 16, F_WRITE);
	caught(&v, VIRTQ_FAULT_USED_ID, 0);
}

/* ---- Scribbling --------------------------------------------------------- */

/* P-DRV-024: the whole ring is noise when a return comes, but for the return. */
static void test_scribble(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[3] = { { RIG_DATA_GPA, 4 }, { RIG_WRITABLE_GPA, 8 },
				     { RIG_WRITABLE_GPA, 8 } };
	uint32_t seed = 1, slot = shape->start;
	bool wrap = !shape->moved;
	struct rig r;

	rig_open(&r, shape, RIG_DRIVER);
	for (uint32_t round = 0; round < 1000; round++) {
		uint32_t count = 1 + round % 3;
		uint32_t taken = shape->indirect ? 1 : count;
		struct virtq_buffer buf = { segs, 1, (uint16_t)(count - 1), token_of(round) };
		struct virtq_completion done;
		uint8_t *desc = r.desc.device + 16 * (size_t)slot;
		uint32_t next = slot + taken;
		uint16_t id;

		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
		virtq_driver_publish(r.driver);
		id = get16(r.desc.device + 16 * (size_t)((slot + taken - 1) % shape->size) + 12);
		/* Noise, but the bits of slots that are not this one's say "not used". */
		for (size_t i = 0; i < r.desc.bytes; i++)
			r.desc.device[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 16);
		memset(r.table.driver, (int)round, r.table.bytes);
		for (uint32_t i = 0; i < shape->size; i++)
			put16(r.desc.device + 16 * (size_t)i + 14, F_AVAIL);
		put32(desc + 8, 8 * (count - 1));
		put16(desc + 12, id);
		put16(desc + 14, (uint16_t)(F_WRITE | (wrap ? F_AVAIL | F_USED : 0)));
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(token_value(done.token), round);
		assert_int_equal(done.written, 8 * (count - 1));
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		assert_int_equal(virtq_driver_room(r.driver), shape->size);
		wrap ^= next >= shape->size;
		slot = next % shape->size;
	}
	rig_close(&r);
}

int main(void)
{
	static struct shape shapes[] = {
		{ .packed = true, .size = 8, .name = "packed 8" },
		{ .packed = true, .size = 7, .event_idx = true, .moved = true, .start = 4,
		  .name = "packed 7 event from 4" },
		{ .packed = true, .size = 6, .moved = true, .start = 5, .name = "packed 6 from 5" },
	};
	static struct shape tables[] = {
		{ .packed = true, .size = 3, .indirect = true, .name = "packed 3 indirect" },
		{ .packed = true, .size = 5, .indirect = true, .moved = true, .start = 3,
		  .name = "packed 5 indirect from 3" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "P-DRV-027 P-DRV-029 ids and lengths", test_ids_and_lengths,
			  shapes, 3);
	matrix_add_shapes(&m, "P-DRV-027 ids from the size on", test_id_range, shapes, 3);
	matrix_add_shapes(&m, "P-DRV-027 repeated ids", test_repeated, shapes, 3);
	matrix_add_shapes(&m, "P-DRV-027 P-DRV-025 more returns than buffers",
			  test_more_than_in_flight, shapes, 3);
	matrix_add_shapes(&m, "P-DRV-028 P-DRV-030 P-DRV-031 fields without meaning",
			  test_ignored, shapes, 3);
	matrix_add_shapes(&m, "P-DRV-025 P-DRV-032 slots that are not used", test_not_used,
			  shapes, 3);
	matrix_add_shapes(&m, "P-DRV-024 device scribbles", test_scribble, shapes, 3);
	matrix_add_shapes(&m, "P-DRV-040 device scribbles over tables", test_scribble, tables, 2);
	return matrix_run(&m, "hostile packed used descriptors");
}
