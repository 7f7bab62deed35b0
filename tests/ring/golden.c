/* SPDX-License-Identifier: MIT */
/* What lies in ring memory, byte for byte, after known steps of either end. */
#include "rig.h"

#include <stdio.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA

static void bytes_are(const uint8_t *at, const char *hex)
{
	unsigned int byte;
	int used;

	for (size_t i = 0; sscanf(hex, " %2x%n", &byte, &used) == 1; i++, hex += used)
		if (at[i] != byte)
			fail_msg("byte %zu is %02x, not %02x", i, at[i], byte);
}

static void packed_is(struct rig *r, uint32_t slot, uint64_t addr, uint32_t len, uint16_t flags)
{
	const uint8_t *d = r->desc.driver + 16 * (size_t)slot;

	assert_int_equal(get64(d), addr);
	assert_int_equal(get32(d + 8), len);
	assert_int_equal(get16(d + 14), flags);
}

static uint16_t packed_id(struct rig *r, uint32_t slot)
{
	return get16(r->desc.driver + 16 * (size_t)slot + 12);
}

/* Add one buffer of these elements and publish. */
static void send(struct rig *r, const struct virtq_seg *segs, uint16_t readable,
		 uint16_t writable)
{
	struct virtq_buffer buf = { segs, readable, writable, token_of(0) };

	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	virtq_driver_publish(r->driver);
}

/* Pop one, report @written bytes, publish. */
static void serve(struct rig *r, uint32_t written)
{
	struct virtq_req *req;

	assert_int_equal(virtq_device_pop(r->device, &req, 1), 1);
	virtq_req_wrote(req, written);
	virtq_device_push(r->device, &req, 1);
	virtq_device_publish(r->device);
}

/* ---- Split -------------------------------------------------------------- */

/* S-DRV-006, S-DRV-010, S-DRV-022, S-DRV-027, S-DEV-024, S-DEV-025, S-DEV-034. */
static void test_split_bytes(void **state)
{
	static const struct shape shape = { .size = 4 };
	static const struct virtq_seg three[] = { { A, 0x11 }, { A + 0x20, 0x12 }, { W, 0x103 } };
	static const struct virtq_seg one[] = { { W + 0x200, 0x40 } };
	struct virtq_req *reqs[2];
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	send(&r, three, 2, 1);
	send(&r, one, 0, 1);
	/* addr, len, flags, next; what next holds without NEXT is nobody's business. */
	bytes_are(split_desc(&r, 0), "00 00 10 00 00 00 00 00  11 00 00 00  01 00  01 00");
	bytes_are(split_desc(&r, 1), "20 00 10 00 00 00 00 00  12 00 00 00  01 00  02 00");
	bytes_are(split_desc(&r, 2), "00 00 30 00 00 00 00 00  03 01 00 00  02 00");
	bytes_are(split_desc(&r, 3), "00 02 30 00 00 00 00 00  40 00 00 00  02 00");
	bytes_are(r.driver_area.driver, "00 00  02 00  00 00 03 00 00 00 00 00  00 00");

	assert_int_equal(virtq_device_pop(r.device, reqs, 2), 2);
	virtq_req_wrote(reqs[0], 0x102);
	virtq_req_wrote(reqs[1], 0x40);
	virtq_device_push(r.device, &reqs[1], 1);
	virtq_device_push(r.device, &reqs[0], 1);
	bytes_are(r.device_area.driver, "00 00  00 00");
	virtq_device_publish(r.device);
	bytes_are(r.device_area.driver,
		  "00 00  02 00  03 00 00 00 40 00 00 00  00 00 00 00 02 01 00 00"
		  "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  00 00");
	rig_collect(&r, 2);
	rig_close(&r);
}

/* S-DRV-027, S-DEV-025, S-DEV-019, S-DRV-032: indices wrap from 65535 to 0, slots go on. */
static void test_split_index_wrap(void **state)
{
	static const struct shape shape = { .size = 8, .moved = true, .start = 65534 };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	put16(avail_ring(&r, 65534), 0xdead);
	rig_send(&r, 4);
	assert_int_equal(get16(avail_idx(&r)), 2);
	/* Slots 6, 7, 0, 1 in turn hold four different heads. */
	assert_int_equal(get16(avail_ring(&r, 6)), 0);
	assert_int_equal(get16(avail_ring(&r, 7)), 1);
	assert_int_equal(get16(avail_ring(&r, 0)), 2);
	assert_int_equal(get16(avail_ring(&r, 1)), 3);
	rig_serve(&r, 4);
	assert_int_equal(get16(used_idx(&r)), 2);
	assert_int_equal(get32(used_ring(&r, 6)), 0);
	assert_int_equal(get32(used_ring(&r, 7)), 1);
	assert_int_equal(get32(used_ring(&r, 0)), 2);
	assert_int_equal(get32(used_ring(&r, 1)), 3);
	rig_collect(&r, 4);
	assert_int_equal(virtq_driver_position(r.driver), 2);
	assert_int_equal(virtq_device_position(r.device), 2);
	rig_close(&r);
}

/* S-DEV-024: the id is 32 bits wide, its upper half 0. */
static void test_split_largest_head(void **state)
{
	static const struct shape shape = { .size = 32768 };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DEVICE);
	memset(r.device_area.device + 4, 0xff, 8 * 32768);
	put64(split_desc(&r, 32767), W);
	put32(split_desc(&r, 32767) + 8, 16);
	put16(split_desc(&r, 32767) + 12, F_WRITE);
	put16(avail_ring(&r, 0), 32767);
	put16(avail_idx(&r), 1);
	serve(&r, 5);
	bytes_are(used_ring(&r, 0), "ff 7f 00 00  05 00 00 00");
	rig_close(&r);
}

/* S-DRV-016, S-DRV-018, S-DRV-019: a table of three behind one descriptor. */
static void test_split_table_bytes(void **state)
{
	static const struct shape shape = { .size = 4, .indirect = true };
	static const struct virtq_seg segs[] = { { A, 1 }, { W, 2 }, { W + 2, 3 } };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	send(&r, segs, 1, 2);
	bytes_are(split_desc(&r, 0), "00 00 00 40 00 00 00 00  30 00 00 00  04 00");
	bytes_are(r.table.driver,
		  "00 00 10 00 00 00 00 00  01 00 00 00  01 00  01 00"
		  "00 00 30 00 00 00 00 00  02 00 00 00  03 00  02 00"
		  "02 00 30 00 00 00 00 00  03 00 00 00  02 00");
	/* S-DRV-017: INDIRECT stands alone; S-DRV-042: one entry. */
	assert_int_equal(virtq_driver_room(r.driver), 3);
	/* One element goes direct. */
	send(&r, segs, 1, 0);
	bytes_are(split_desc(&r, 1), "00 00 10 00 00 00 00 00  01 00 00 00  00 00");
	/* A second table lies elsewhere. */
	send(&r, segs, 1, 2);
	bytes_are(split_desc(&r, 2) + 8, "30 00 00 00  04 00");
	assert_true(get64(split_desc(&r, 2)) >= RIG_TABLE_GPA + 48);
	rig_close(&r);
}

/*
 * S-DRV-018: the descriptor's length is 16 times the entries for each count,
 * and each table begins where the descriptor says, with every count.
 */
static void test_table_lengths(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[RIG_TABLE_ENTRIES];
	uint32_t max = shape->size < RIG_TABLE_ENTRIES ? shape->size : RIG_TABLE_ENTRIES;
	struct rig r;

	for (uint32_t i = 0; i < RIG_TABLE_ENTRIES; i++)
		segs[i] = (struct virtq_seg){ A + 16 * i, 1 + i };
	for (uint32_t count = 2; count <= max; count++) {
		const uint8_t *desc, *entry;
		uint64_t at;

		rig_open(&r, shape, RIG_BOTH);
		desc = r.desc.driver + (shape->packed ? 16 * (size_t)shape->start : 0);
		send(&r, segs, (uint16_t)count, 0);
		at = get64(desc);
		assert_int_equal(get32(desc + 8), 16 * count);
		assert_true(at % 16 == 0 && at >= RIG_TABLE_GPA);
		entry = r.table.driver + (at - RIG_TABLE_GPA);
		for (uint32_t i = 0; i < count; i++, entry += 16) {
			assert_int_equal(get64(entry), segs[i].addr);
			assert_int_equal(get32(entry + 8), segs[i].len);
			if (shape->packed) {
				/* P-DRV-019: no flag but WRITE. */
				assert_int_equal(get16(entry + 14), 0);
				continue;
			}
			assert_int_equal(get16(entry + 12), i + 1 < count ? F_NEXT : 0);
			if (i + 1 < count)
				assert_int_equal(get16(entry + 14), i + 1);
		}
		rig_close(&r);
	}
}

/* ---- Packed ------------------------------------------------------------- */

/* P-DRV-004, P-DRV-005, P-DRV-006, P-DRV-009, P-DRV-010, P-DRV-012: N=3, chains of two. */
static void test_packed_three_laps(void **state)
{
	static const struct shape shape = { .packed = true, .size = 3 };
	static const struct virtq_seg segs[] = { { A, 7 }, { W, 9 } };
	/* The flags that each lap's wrap counter calls for. */
	static const uint16_t lap_flags[] = { F_AVAIL, F_USED };
	struct rig r;
	uint32_t at = 0;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (int i = 0; i < 9; i++) {
		uint32_t head = at % 3, tail = (at + 1) % 3;
		uint16_t head_lap = lap_flags[at / 3 % 2], tail_lap = lap_flags[(at + 1) / 3 % 2];
		uint16_t used = at / 3 % 2 ? 0 : F_AVAIL | F_USED;
		uint16_t id;

		send(&r, segs, 1, 1);
		packed_is(&r, head, A, 7, head_lap | F_NEXT);
		packed_is(&r, tail, W, 9, tail_lap | F_WRITE);
		id = packed_id(&r, tail);
		assert_true(id < 3);
		serve(&r, i % 2 ? 5 : 0);
		/* P-DEV-009..012, P-DEV-029: one used descriptor, in the head's slot. */
		assert_int_equal(packed_id(&r, head), id);
		if (i % 2) {
			assert_int_equal(get32(r.desc.driver + 16 * head + 8), 5);
			assert_int_equal(get16(r.desc.driver + 16 * head + 14), used | F_WRITE);
		} else {
			assert_int_equal(get16(r.desc.driver + 16 * head + 14), used);
		}
		/* The other slot stays as the driver left it. */
		packed_is(&r, tail, W, 9, tail_lap | F_WRITE);
		rig_collect(&r, 1);
		at += 2;
	}
	rig_close(&r);
}

/* S-DRV-006 for the packed ring: the bytes of the first list. */
static void test_packed_bytes(void **state)
{
	static const struct shape shape = { .packed = true, .size = 3 };
	static const struct virtq_seg segs[] = { { A + 0x1234, 0x11 }, { W, 0x102 } };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	send(&r, segs, 1, 1);
	bytes_are(r.desc.driver, "34 12 10 00 00 00 00 00  11 00 00 00");
	bytes_are(r.desc.driver + 14, "81 00");
	bytes_are(r.desc.driver + 16, "00 00 30 00 00 00 00 00  02 01 00 00  00 00  82 00");
	bytes_are(r.desc.driver + 32, "00 00 00 00 00 00 00 00  00 00 00 00  00 00  00 00");
	serve(&r, 0x101);
	bytes_are(r.desc.driver + 8, "01 01 00 00  00 00  82 80");
	bytes_are(r.driver_area.driver, "00 00 00 00");
	bytes_are(r.device_area.driver, "00 00 00 00");
	rig_close(&r);
}

/* P-DEV-009, P-DEV-010, P-DRV-024: N=5, lists of three: used in slots 0, 3 and, next lap, 1. */
static void test_packed_skips(void **state)
{
	static const struct shape shape = { .packed = true, .size = 5 };
	static const struct virtq_seg segs[] = { { W, 1 }, { W + 1, 1 }, { W + 2, 1 } };
	static const struct { uint32_t slot; uint16_t flags; } used[] = {
		{ 0, F_AVAIL | F_USED | F_WRITE }, { 3, F_AVAIL | F_USED | F_WRITE },
		{ 1, F_WRITE }, { 4, F_WRITE }, { 2, F_AVAIL | F_USED | F_WRITE },
	};
	/* Where both cursors stand afterwards: slot, and the wrap counter in bit 15. */
	static const uint16_t next[] = { 0x8003, 0x0001, 0x0004, 0x8002, 0x0000 };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (size_t i = 0; i < 5; i++) {
		send(&r, segs, 0, 3);
		serve(&r, 3);
		assert_int_equal(get16(r.desc.driver + 16 * used[i].slot + 14), used[i].flags);
		rig_collect(&r, 1);
		assert_int_equal(virtq_device_position(r.device),
				 (uint32_t)next[i] << 16 | next[i]);
		assert_int_equal(virtq_driver_position(r.driver),
				 (uint32_t)next[i] << 16 | next[i]);
	}
	rig_close(&r);
}

/* P-DEV-025, P-DEV-005: a batch returned out of order, an entry for each list. */
static void test_packed_batch_out_of_order(void **state)
{
	static const struct shape shape = { .packed = true, .size = 7 };
	static const struct virtq_seg segs[] = { { W, 1 }, { W + 1, 1 }, { W + 2, 1 } };
	struct virtq_completion done[3];
	struct virtq_req *reqs[3];
	uint16_t ids[3];
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	send(&r, segs, 0, 3);		/* slots 0-2 */
	send(&r, segs, 0, 1);		/* slot 3 */
	send(&r, segs, 0, 2);		/* slots 4-5 */
	ids[0] = packed_id(&r, 2);
	ids[1] = packed_id(&r, 3);
	ids[2] = packed_id(&r, 5);
	/* P-DRV-023: ids are unique among those in flight and below the size. */
	assert_true(ids[0] < 7 && ids[1] < 7 && ids[2] < 7);
	assert_true(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
	assert_int_equal(virtq_device_pop(r.device, reqs, 3), 3);
	virtq_device_push(r.device, &reqs[2], 1);	/* slot 0, skips 2 */
	virtq_device_push(r.device, &reqs[0], 1);	/* slot 2, skips 3 */
	virtq_device_push(r.device, &reqs[1], 1);	/* slot 5 */
	/* P-DEV-026, P-DRV-037: of a batch the first flips last: nothing shows before. */
	assert_int_equal(get16(r.desc.driver + 14), F_AVAIL | F_WRITE | F_NEXT);
	assert_int_equal(virtq_driver_get(r.driver, done, 3), 0);
	virtq_device_publish(r.device);
	assert_int_equal(packed_id(&r, 0), ids[2]);
	assert_int_equal(packed_id(&r, 2), ids[0]);
	assert_int_equal(packed_id(&r, 5), ids[1]);
	for (uint32_t slot = 0; slot <= 5; slot += slot ? 3 : 2)
		assert_int_equal(get16(r.desc.driver + 16 * slot + 14), F_AVAIL | F_USED);
	rig_collect(&r, 3);
	rig_close(&r);
}

/* P-DRV-019, P-DRV-021: table entries lie back to back and bear no flag but WRITE. */
static void test_packed_table_bytes(void **state)
{
	static const struct shape shape = { .packed = true, .size = 4, .indirect = true };
	static const struct virtq_seg segs[] = { { A, 1 }, { W, 2 }, { W + 2, 3 } };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	send(&r, segs, 1, 2);
	packed_is(&r, 0, RIG_TABLE_GPA, 48, F_AVAIL | F_INDIRECT);
	bytes_are(r.table.driver, "00 00 10 00 00 00 00 00  01 00 00 00");
	bytes_are(r.table.driver + 14, "00 00");
	bytes_are(r.table.driver + 16, "00 00 30 00 00 00 00 00  02 00 00 00");
	bytes_are(r.table.driver + 30, "02 00");
	bytes_are(r.table.driver + 32, "02 00 30 00 00 00 00 00  03 00 00 00");
	bytes_are(r.table.driver + 46, "02 00");
	assert_int_equal(virtq_driver_room(r.driver), 3);
	serve(&r, 5);
	/* P-DEV-029: INDIRECT is not echoed. */
	assert_int_equal(get16(r.desc.driver + 14), F_AVAIL | F_USED | F_WRITE);
	rig_collect(&r, 1);
	rig_close(&r);
}

/*
 * P-DRV-011: until publish the first head of a batch is not available, though all
 * that comes behind it is written; one store makes the difference.
 */
static void test_packed_head_last(void **state)
{
	static const struct shape shape = { .packed = true, .size = 7 };
	static const struct virtq_seg segs[] = { { A, 1 }, { W, 1 } };
	struct virtq_buffer buf = { segs, 1, 1, token_of(0) };
	uint8_t before[7 * 16];
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (int i = 0; i < 3; i++)
		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	assert_int_equal(get16(r.desc.driver + 14), 0);
	packed_is(&r, 1, W, 1, F_AVAIL | F_WRITE);
	packed_is(&r, 2, A, 1, F_AVAIL | F_NEXT);
	packed_is(&r, 5, W, 1, F_AVAIL | F_WRITE);
	memcpy(before, r.desc.driver, sizeof(before));
	virtq_driver_publish(r.driver);
	put16(before + 14, F_AVAIL | F_NEXT);
	assert_memory_equal(r.desc.driver, before, sizeof(before));
	rig_close(&r);
}

/* P-DEV-006: used descriptors that become visible in any order are taken in theirs. */
static void test_packed_gap_then_fill(void **state)
{
	static const struct shape shape = { .packed = true, .size = 4 };
	struct virtq_completion done[3];
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	rig_send(&r, 3);
	/* The id and length of each are the driver's own still; none was filled. */
	for (uint32_t slot = 3; slot-- > 0;) {
		assert_int_equal(virtq_driver_get(r.driver, done, 3), 0);
		put16(r.desc.device + 16 * slot + 14, F_AVAIL | F_USED);
	}
	assert_int_equal(virtq_driver_get(r.driver, done, 3), 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(token_value(done[i].token), i);
	rig_close(&r);
}

/* S-DEV-023: a device may write more than it reports; the driver believes the report. */
static void test_written_beyond_reported(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(rig_add(&r, W, 16, true, token_of(0)), 1);
	virtq_driver_publish(r.driver);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
	assert_int_equal(virtq_req_write(req, "0123456789abcdef", 16), 16);
	req->written = 4;
	virtq_device_push(r.device, &req, 1);
	virtq_device_publish(r.device);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(done.written, 4);
	rig_close(&r);
}

/* P-DRV-025, P-DEV-003: leftovers of the lap before are neither available nor used. */
static void test_packed_leftovers(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (int lap = 0; lap < 3; lap++) {
		for (uint32_t i = 0; i < shape->size; i++) {
			rig_send(&r, 1);
			rig_serve(&r, 1);
			assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
			rig_collect(&r, 1);
		}
	}
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add_one(&m, "S-DRV-006 split ring", test_split_bytes);
	matrix_add_one(&m, "S-DRV-027 S-DEV-025 split indices wrap", test_split_index_wrap);
	matrix_add_one(&m, "S-DEV-024 largest head", test_split_largest_head);
	matrix_add_one(&m, "S-DRV-019 split table", test_split_table_bytes);
	matrix_add(&m, "S-DRV-018 P-DRV-021 tables of every length", test_table_lengths,
		   ONLY_INDIRECT | AT_LEAST_2 | NOT_HUGE);
	matrix_add_one(&m, "packed ring", test_packed_bytes);
	matrix_add_one(&m, "P-DRV-005 P-DRV-006 packed wrap bits, N=3", test_packed_three_laps);
	matrix_add_one(&m, "P-DEV-010 packed skips, N=5", test_packed_skips);
	matrix_add_one(&m, "P-DEV-025 packed batch out of order", test_packed_batch_out_of_order);
	matrix_add_one(&m, "P-DRV-019 packed table", test_packed_table_bytes);
	matrix_add_one(&m, "P-DRV-011 packed head last", test_packed_head_last);
	matrix_add_one(&m, "P-DEV-006 packed gap, then filled", test_packed_gap_then_fill);
	matrix_add(&m, "S-DEV-023 written beyond what is reported", test_written_beyond_reported,
		   NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "P-DRV-025 P-DEV-003 leftovers of a lap", test_packed_leftovers,
		   ONLY_PACKED | NOT_HUGE);
	return matrix_run(&m, "golden bytes");
}
