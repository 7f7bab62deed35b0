/* SPDX-License-Identifier: MIT */
/* Split, driver end: a device that returns what it may not, in raw used elements. */
#include "victim.h"

/* ---- The liar ----------------------------------------------------------- */

#define N 8u

/* The victim's heads: 0; 1, with members 2 and 3; 4; staged 5. 6 and 7 are free. */

static void use(struct victim *v, uint32_t id, uint32_t len)
{
	uint8_t *elem = used_ring(&v->r, v->idx++);

	put32(elem, id);
	put32(elem + 4, len);
	put16(used_idx(&v->r), v->idx);
}

/* One honest return is taken. */
static void honest(struct victim *v, uint32_t id, uint32_t len, uintptr_t token)
{
	struct virtq_completion done;

	use(v, id, len);
	assert_int_equal(virtq_driver_get(v->r.driver, &done, 1), 1);
	got(v, &done, token, len);
}

/* ---- Ids and lengths ---------------------------------------------------- */

static const struct {
	const char *what;
	uint32_t id, len;
	enum virtq_fault_code code;
} lies[] = {
	{ "S-DRV-033 the size", N, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 all ones", 0xffffffff, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 good in its low half only", 0x10000, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 good in its low 31 bits only", 0x80000001, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 a free slot", 6, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 the last free slot", N - 1, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 middle of a chain", 2, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 end of a chain", 3, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-033 staged, never published", 5, 0, VIRTQ_FAULT_USED_ID },
	{ "S-DRV-037 one byte too long", 0, 17, VIRTQ_FAULT_USED_LENGTH },
	{ "S-DRV-037 all ones", 0, 0xffffffff, VIRTQ_FAULT_USED_LENGTH },
	{ "S-DRV-037 readable bytes counted in", 1, 33, VIRTQ_FAULT_USED_LENGTH },
	{ "S-DRV-037 nothing was writable", 4, 1, VIRTQ_FAULT_USED_LENGTH },
};

/* Each lie as the first return, and as the second, behind an honest one in one get. */
static void test_ids_and_lengths(void **state)
{
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		bool length = lies[i].code == VIRTQ_FAULT_USED_LENGTH;
		uint64_t value = length ? lies[i].len : lies[i].id;
		uint32_t other = lies[i].id == 1 ? 4 : 1;
		struct virtq_completion done[TOKENS];
		struct victim v;

		print_message("# %s\n", lies[i].what);
		victim_open(&v, *state);
		use(&v, lies[i].id, lies[i].len);
		victim_caught(&v, lies[i].code, (uint16_t)(v.idx - 1), value);

		victim_open(&v, *state);
		use(&v, other, 0);
		use(&v, lies[i].id, lies[i].len);
		assert_int_equal(virtq_driver_get(v.r.driver, done, TOKENS), 1);
		got(&v, &done[0], other == 1 ? 1 : 2, 0);
		victim_caught(&v, lies[i].code, (uint16_t)(v.idx - 1), value);
	}
}

/* S-DRV-034: the same head again: at once, later, and from before a lap. */
static void test_repeated(void **state)
{
	struct virtq_completion done[TOKENS];
	struct victim v;

	victim_open(&v, *state);
	use(&v, 1, 32);
	use(&v, 1, 32);
	assert_int_equal(virtq_driver_get(v.r.driver, done, TOKENS), 1);
	got(&v, &done[0], 1, 32);
	victim_caught(&v, VIRTQ_FAULT_USED_ID, (uint16_t)(v.idx - 1), 1);

	victim_open(&v, *state);
	honest(&v, 0, 16, 0);
	honest(&v, 4, 0, 2);
	use(&v, 0, 16);
	victim_caught(&v, VIRTQ_FAULT_USED_ID, (uint16_t)(v.idx - 1), 0);
}

/* S-DRV-041: honest ones, out of order, at the largest length. */
static void test_honest(void **state)
{
	struct virtq_completion done;
	struct victim v;

	victim_open(&v, *state);
	honest(&v, 4, 0, 2);
	honest(&v, 1, 32, 1);
	honest(&v, 0, 16, 0);
	assert_int_equal(virtq_driver_get(v.r.driver, &done, 1), 0);
	virtq_driver_publish(v.r.driver);
	honest(&v, 5, 16, 3);
	assert_int_equal(virtq_driver_fault(v.r.driver).code, VIRTQ_FAULT_NONE);
	assert_int_equal(virtq_driver_room(v.r.driver), N);
	rig_close(&v.r);
}

/* ---- The index ---------------------------------------------------------- */

/* S-DRV-035: past what is in flight, back by one, and as far as can be. */
static void test_index(void **state)
{
	static const uint16_t jumps[] = { TOKENS + 1, N, N + 1, 0x8000, 0xfffe, 0xffff };

	for (size_t i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
		struct victim v;
		uint16_t idx;

		victim_open(&v, *state);
		idx = (uint16_t)(v.idx + jumps[i]);
		put16(used_idx(&v.r), idx);
		victim_caught(&v, VIRTQ_FAULT_USED_IDX, v.idx, idx);
	}
}

/* S-DRV-035: the same after honest returns: in flight is what counts, not the size. */
static void test_index_later(void **state)
{
	static const uint16_t jumps[] = { 3, 0xffff };

	for (size_t i = 0; i < 2; i++) {
		struct victim v;
		uint16_t idx;

		victim_open(&v, *state);
		honest(&v, 1, 0, 1);
		honest(&v, 0, 0, 0);
		idx = (uint16_t)(v.idx + jumps[i]);
		put16(used_idx(&v.r), idx);
		victim_caught(&v, VIRTQ_FAULT_USED_IDX, v.idx, idx);
	}
}

/* S-DRV-035: an index that counts the staged buffer in gets no further than the published. */
static void test_index_counts_staged(void **state)
{
	struct victim v;

	victim_open(&v, *state);
	use(&v, 0, 0);
	use(&v, 1, 0);
	use(&v, 4, 0);
	use(&v, 5, 0);
	victim_caught(&v, VIRTQ_FAULT_USED_IDX, (uint16_t)(v.idx - 4), v.idx);
}

/* ---- Scribbling --------------------------------------------------------- */

/*
 * S-DRV-039: after it took buffers, the device fills descriptor
 * table, available entries and indirect tables with noise. The driver end keeps
 * its own books: a thousand rounds later every buffer is what it was.
 */
static void test_scribble(void **state)
{
	struct virtq_seg segs[3] = { { RIG_DATA_GPA, 4 }, { RIG_WRITABLE_GPA, 8 },
				     { RIG_WRITABLE_GPA, 8 } };
	const struct shape *shape = *state;
	uint32_t seed = 1;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < 1000; round++) {
		struct virtq_req *reqs[N];
		uintptr_t token = 3 * round;
		bool seen[3] = { false };
		uint32_t n = 0;

		for (uint16_t len = 1; len <= 3; len++) {
			struct virtq_buffer buf = { segs, 1, (uint16_t)(len - 1),
						    token_of(token + len - 1) };

			assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
		}
		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_device_pop(r.device, reqs, N), 3);
		for (size_t i = 0; i < r.desc.bytes; i++)
			r.desc.driver[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 16);
		for (size_t i = 4; i < 4 + 2 * (size_t)shape->size; i++)
			r.driver_area.driver[i] = (uint8_t)((seed = seed * 69069 + 1) >> 16);
		memset(r.table.driver, (int)round, r.table.bytes);
		for (uint32_t i = 3; i-- > 0;) {
			virtq_req_write(reqs[i], "12345678abcdefgh", reqs[i]->wr.bytes);
			virtq_device_push(r.device, &reqs[i], 1);
		}
		virtq_device_publish(r.device);
		for (; n < 3; n++) {
			struct virtq_completion done;
			uintptr_t which;

			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			which = token_value(done.token) - token;
			assert_true(which < 3 && !seen[which]);
			seen[which] = true;
			assert_int_equal(done.written, 8 * which);
		}
		assert_int_equal(virtq_driver_room(r.driver), shape->size);
	}
	rig_close(&r);
}

int main(void)
{
	static struct shape shapes[] = {
		{ .size = N, .name = "split 8" },
		{ .size = N, .event_idx = true, .moved = true, .start = 65535,
		  .name = "split 8 event from 65535" },
		{ .size = N, .event_idx = true, .moved = true, .start = 65533,
		  .name = "split 8 event from 65533" },
	};
	static struct shape tables[] = {
		{ .size = N, .indirect = true, .name = "split 8 indirect" },
		{ .size = N, .indirect = true, .moved = true, .start = 65000,
		  .name = "split 8 indirect from 65000" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "S-DRV-033 S-DRV-037 ids and lengths", test_ids_and_lengths,
			  shapes, 3);
	matrix_add_shapes(&m, "S-DRV-034 repeated heads", test_repeated, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-041 honest returns", test_honest, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-035 index out of bounds", test_index, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-035 index out of bounds later", test_index_later, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-035 S-DRV-033 index counts what is staged",
			  test_index_counts_staged, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-039 device scribbles", test_scribble, shapes, 3);
	matrix_add_shapes(&m, "S-DRV-039 device scribbles", test_scribble, tables, 2);
	return matrix_run(&m, "hostile used rings");
}
