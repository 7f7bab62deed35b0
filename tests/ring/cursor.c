/* SPDX-License-Identifier: MIT */
/*
 * Byte cursors: any framing reads and fills alike (S-DEV-001), and the written
 * length is the prefix that was filled without a gap (S-DEV-022).
 */
#include "rig.h"

#include <stdlib.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA

static const struct shape plain = { .size = 64 };

/* Send @segs through the ring and pop them. */
static struct virtq_req *send(struct rig *r, const struct virtq_seg *segs, uint16_t readable,
			      uint16_t writable)
{
	struct virtq_buffer buf = { segs, readable, writable, token_of(1) };
	struct virtq_req *req;

	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	virtq_driver_publish(r->driver);
	assert_int_equal(virtq_device_pop(r->device, &req, 1), 1);
	return req;
}

static uint32_t give_back(struct rig *r, struct virtq_req *req)
{
	struct virtq_completion done;

	virtq_device_push(r->device, &req, 1);
	virtq_device_publish(r->device);
	assert_int_equal(virtq_driver_get(r->driver, &done, 1), 1);
	return done.written;
}

/* Every way to cut 6 readable and 6 writable bytes into elements: 32 x 32. */
static void test_any_framing(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_poke(&r, A, "abcdef", 6);
	for (unsigned int cuts = 0; cuts < 1024; cuts++) {
		struct virtq_seg segs[12];
		uint16_t n[2] = { 0, 0 };
		struct virtq_req *req;
		char got[8] = "";

		for (unsigned int half = 0; half < 2; half++) {
			uint64_t base = half ? W : A;
			unsigned int from = 0;

			for (unsigned int i = 1; i <= 6; i++) {
				if (i < 6 && !(cuts >> (5 * half + i - 1) & 1))
					continue;
				segs[n[0] + n[1]].addr = base + from;
				segs[n[0] + n[1]].len = i - from;
				n[half]++;
				from = i;
			}
		}
		rig_poke(&r, W, "......", 6);
		req = send(&r, segs, n[0], n[1]);
		assert_int_equal(req->rd.bytes, 6);
		assert_int_equal(req->rd.count, n[0]);
		assert_int_equal(req->wr.bytes, 6);
		assert_int_equal(req->wr.count, n[1]);
		assert_int_equal(virtq_req_read(req, got, 2), 2);
		virtq_req_skip(req, 1);
		assert_int_equal(virtq_req_read(req, got + 2, 6), 3);
		assert_string_equal(got, "abdef");
		assert_int_equal(req->rd.bytes, 0);
		assert_int_equal(virtq_req_read(req, got, 1), 0);
		assert_int_equal(virtq_req_write(req, "12", 2), 2);
		assert_int_equal(virtq_req_write(req, "345678", 6), 4);
		assert_int_equal(virtq_req_write(req, "9", 1), 0);
		assert_int_equal(give_back(&r, req), 6);
		rig_peek(&r, W, got, 6);
		assert_memory_equal(got, "123456", 6);
	}
	rig_close(&r);
}

/* An element over the border of two regions that are not neighbours in memory (S-DEV-028). */
static void test_over_a_border(void **state)
{
	const struct shape *shape = *state;
	uint64_t a = A + RIG_REGION_BYTES - 3, w = W + RIG_REGION_BYTES - 2;
	const struct virtq_seg segs[] = { { a, 8 }, { w, 5 } };
	struct virtq_req *req;
	char got[9] = "";
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_poke(&r, a, "12345678", 8);
	req = send(&r, segs, 1, 1);
	assert_int_equal(req->rd.count, 2);
	assert_int_equal(req->rd.spans[0].len, 3);
	assert_ptr_equal(req->rd.spans[0].base, r.data[0].device + RIG_REGION_BYTES - 3);
	assert_ptr_equal(req->rd.spans[1].base, r.data[1].device);
	assert_int_equal(req->wr.count, 2);
	assert_int_equal(req->wr.spans[0].len, 2);
	assert_int_equal(virtq_req_read(req, got, 9), 8);
	assert_string_equal(got, "12345678");
	assert_int_equal(virtq_req_write(req, "abcde", 5), 5);
	assert_int_equal(give_back(&r, req), 5);
	rig_peek(&r, w, got, 5);
	assert_memory_equal(got, "abcde", 5);
	rig_close(&r);
}

/* More than there is asked for: cursors stop at the end of the chain. */
static void test_skip_and_wrote_stop_at_the_end(void **state)
{
	static const struct virtq_seg segs[] = {
		{ A, 10 }, { A + 16, 10 }, { W, 10 }, { W + 32, 5 },
	};
	struct virtq_req *req;
	struct rig r;

	(void)state;
	rig_open(&r, &plain, RIG_BOTH);
	req = send(&r, segs, 2, 2);
	virtq_req_skip(req, 15);
	assert_int_equal(req->rd.bytes, 5);
	assert_int_equal(req->rd.count, 1);
	for (uint32_t beyond = 1; beyond < 4; beyond++) {
		struct virtq_req copy = *req;
		struct virtq_span last = req->rd.spans[0];

		/* On a copy, and the span put back: each time from the same place. */
		virtq_req_skip(&copy, 5 + beyond);
		assert_int_equal(copy.rd.bytes, 0);
		assert_int_equal(copy.rd.count, 0);
		req->rd.spans[0] = last;
	}
	virtq_req_skip(req, ~(uint64_t)0);
	assert_int_equal(req->rd.bytes, 0);
	assert_int_equal(req->rd.count, 0);
	virtq_req_wrote(req, 12);
	assert_int_equal(req->written, 12);
	assert_int_equal(req->wr.bytes, 3);
	assert_int_equal(req->wr.spans->len, 3);
	virtq_req_wrote(req, ~(uint64_t)0);
	assert_int_equal(req->wr.bytes, 0);
	assert_int_equal(req->written, 15);
	assert_int_equal(give_back(&r, req), 15);
	rig_close(&r);
}

/*
 * S-DEV-022: a status byte behind data counts only when the data is all there.
 * Framings: the byte alone, at the end of the data, across a border.
 */
static void test_tail(void **state)
{
	static const struct { struct virtq_seg segs[2]; uint16_t count; } framings[] = {
		{ { { W, 8 }, { W + 64, 1 } }, 2 },
		{ { { W, 9 } }, 1 },
		{ { { W, 1 }, { W + 64, 8 } }, 2 },
		{ { { W + RIG_REGION_BYTES - 8, 9 } }, 1 },
	};
	struct rig r;

	(void)state;
	rig_open(&r, &plain, RIG_BOTH);
	for (size_t i = 0; i < 4; i++) {
		const struct virtq_seg *last = &framings[i].segs[framings[i].count - 1];
		uint64_t tail_gpa = last->addr + last->len - 1;

		for (uint32_t filled = 0; filled <= 8; filled++) {
			struct virtq_req *req = send(&r, framings[i].segs, 0, framings[i].count);
			uint8_t *tail = virtq_req_claim_tail(req);
			uint8_t status = 0;

			assert_non_null(tail);
			assert_int_equal(req->wr.bytes, 8);
			assert_int_equal(virtq_req_write(req, "01234567", filled), filled);
			virtq_req_set_tail(req, tail, (uint8_t)(0x50 + filled));
			/* 8 and the status: 9; fewer: that prefix, the status not counted. */
			assert_int_equal(give_back(&r, req), filled == 8 ? 9 : filled);
			rig_peek(&r, tail_gpa, &status, 1);
			assert_int_equal(status, 0x50 + filled);
		}
	}
	rig_close(&r);
}

/* A chain of a single writable byte, and one of none. */
static void test_tail_of_little(void **state)
{
	static const struct virtq_seg segs[] = { { A, 4 }, { W, 1 } };
	struct virtq_req *req;
	uint8_t *tail;
	struct rig r;

	(void)state;
	rig_open(&r, &plain, RIG_BOTH);
	req = send(&r, segs, 1, 1);
	tail = virtq_req_claim_tail(req);
	assert_non_null(tail);
	assert_int_equal(req->wr.bytes, 0);
	assert_null(virtq_req_claim_tail(req));
	assert_int_equal(virtq_req_write(req, "x", 1), 0);
	virtq_req_set_tail(req, tail, 0);
	assert_int_equal(give_back(&r, req), 1);

	req = send(&r, segs, 1, 0);
	assert_null(virtq_req_claim_tail(req));
	assert_int_equal(give_back(&r, req), 0);
	rig_close(&r);
}

/* 2^32 bytes in 4096 elements over the same megabyte: the length must not wrap to 0. */
static void test_four_gigabytes(void **state)
{
	static const struct shape big = { .size = 4096 };
	struct virtq_seg *segs = calloc(4096, sizeof(*segs));
	struct virtq_req *req;
	struct rig r;

	(void)state;
	assert_non_null(segs);
	for (uint32_t i = 0; i < 4096; i++)
		segs[i] = (struct virtq_seg){ W, 1u << 20 };
	rig_open(&r, &big, RIG_BOTH);
	req = send(&r, segs, 0, 4096);
	assert_int_equal(req->wr.bytes, (uint64_t)1 << 32);
	virtq_req_wrote(req, (uint64_t)1 << 32);
	assert_int_equal(req->wr.bytes, 0);
	/* Not all of it fits the field; less may be reported, but nothing is no answer. */
	assert_int_equal(give_back(&r, req), UINT32_MAX);
	rig_close(&r);
	free(segs);
}

int main(void)
{
	struct matrix m = { 0 };
	static struct shape cut_shapes[] = {
		{ .size = 64, .name = "split" },
		{ .size = 13, .packed = true, .name = "packed" },
		{ .size = 64, .indirect = true, .name = "split tables" },
		{ .size = 13, .packed = true, .indirect = true, .name = "packed tables" },
	};

	matrix_add_shapes(&m, "S-DEV-001 any framing", test_any_framing, cut_shapes, 4);
	matrix_add_shapes(&m, "S-DEV-028 over a border", test_over_a_border, cut_shapes, 4);
	matrix_add_one(&m, "skip and wrote stop at the end", test_skip_and_wrote_stop_at_the_end);
	matrix_add_one(&m, "S-DEV-022 a tail counts if all before it does", test_tail);
	matrix_add_one(&m, "a tail of little or nothing", test_tail_of_little);
	matrix_add_one(&m, "2^32 bytes", test_four_gigabytes);
	return matrix_run(&m, "cursors");
}
