/* SPDX-License-Identifier: MIT */
/*
 * The block device as a function of a chain: what comes back for which chain,
 * and which part of it gets to the store.
 */
#include "blk_rig.h"

/* ---- Framing --------------------------------------------------------------- */

static const struct framing read_framings[] = {
	{ "legacy", { 16 }, { 1024, 1 } },
	{ "status fused with data", { 16 }, { 1025 } },
	{ "header in bytes", { -16 }, { 1024, 1 } },
	{ "header 7 + 9", { 7, 9 }, { 3, 1000, 21, 1 } },
	{ "header 15 + 1", { 15, 1 }, { 512, 513 } },
	{ "data in bytes", { 16 }, { -512, 512, 1 } },
	{ "readable bytes behind the header", { 16, 100 }, { 1024, 1 } },
	{ "header with readable bytes in one", { 200 }, { 1025 } },
};

/* BLK-DEV-030, BLK-DEV-033. */
static void reads_in_any_framing(void **state)
{
	struct rig r;
	struct chain c;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	for (size_t i = 0; i < sizeof(read_framings) / sizeof(read_framings[0]); i++) {
		rig_frame(&r, &c, &read_framings[i], VIRTIO_BLK_T_IN, 3);
		rig_serve(&r, &c);
		assert_int_equal(r.verdict, VIRTQ_DONE);
		assert_int_equal(r.used_bytes, 1025);
		assert_int_equal(*rig_byte(&r, &c, true, 1024), VIRTIO_BLK_S_OK);
		for (size_t n = 0; n < 1024; n++)
			assert_int_equal(*rig_byte(&r, &c, true, n), file_pattern(3 * 512 + n));
	}
	rig_assert_unchanged(&r);
	rig_close(&r);
}

static const struct framing write_framings[] = {
	{ "legacy", { 16, 1024 }, { 1 } },
	{ "header fused with data", { 1040 }, { 1 } },
	{ "header in bytes", { -16, 1024 }, { 1 } },
	{ "header cut, tail with data", { 7, 509, 524 }, { 1 } },
	{ "half a header, the rest fused", { 8, 1032 }, { 1 } },
	{ "writable bytes before the status", { 16, 1024 }, { 100, 1 } },
	{ "status at the end of more", { 16, 1024 }, { 101 } },
};

/* BLK-DEV-030. */
static void writes_in_any_framing(void **state)
{
	struct rig r;
	struct chain c;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	for (size_t i = 0; i < sizeof(write_framings) / sizeof(write_framings[0]); i++) {
		bool alone = write_framings[i].writable[0] == 1;

		rig_frame(&r, &c, &write_framings[i], VIRTIO_BLK_T_OUT, 5);
		for (size_t n = 0; n < 1024; n++)
			*rig_byte(&r, &c, false, 16 + n) = (uint8_t)(n * 5 + i);
		rig_serve(&r, &c);
		assert_int_equal(r.verdict, VIRTQ_DONE);
		/* A status behind bytes that nobody wrote is not in the prefix: BLK-DEV-033. */
		assert_int_equal(r.used_bytes, alone ? 1 : 0);
		assert_int_equal(*rig_byte(&r, &c, true, alone ? 0 : 100), VIRTIO_BLK_S_OK);
		if (!alone)
			assert_int_equal(*rig_byte(&r, &c, true, 99), UNTOUCHED);
		for (size_t n = 0; n < 1024; n++)
			assert_int_equal(r.shelf->memory[5 * 512 + n], (uint8_t)(n * 5 + i));
	}
	rig_close(&r);
}

/* BLK-DEV-032. */
static void short_chains(void **state)
{
	static const struct framing short_header = { "15 bytes", { 15 }, { 512, 1 } };
	static const struct framing no_header = { "none", { 0 }, { 512, 1 } };
	static const struct framing status_alone = { "one byte", { 0 }, { 1 } };
	static const struct framing no_status = { "no writable byte", { 16, 512 }, { 0 } };
	struct rig r;
	struct chain c;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	for (int i = 0; i < 2; i++) {
		rig_frame(&r, &c, i ? &no_header : &short_header, VIRTIO_BLK_T_IN, 0);
		rig_serve(&r, &c);
		assert_int_equal(r.verdict, VIRTQ_DONE);
		assert_int_equal(r.shelf->count, 0);
		assert_int_equal(r.used_bytes, 0);
		assert_int_equal(*rig_byte(&r, &c, true, 512), VIRTIO_BLK_S_IOERR);
		for (size_t n = 0; n < 512; n++)
			assert_int_equal(*rig_byte(&r, &c, true, n), UNTOUCHED);
	}
	/* A status and nothing else: there is nobody to blame but a place to say so. */
	rig_frame(&r, &c, &status_alone, VIRTIO_BLK_T_IN, 0);
	rig_serve(&r, &c);
	assert_int_equal(r.verdict, VIRTQ_DONE);
	assert_int_equal(r.used_bytes, 1);
	assert_int_equal(*rig_byte(&r, &c, true, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(*(rig_byte(&r, &c, true, 0) + 1), UNTOUCHED);

	rig_frame(&r, &c, &no_status, VIRTIO_BLK_T_OUT, 0);
	rig_serve(&r, &c);
	assert_int_equal(r.verdict, VIRTQ_MALFORMED);
	assert_int_equal(r.shelf->count, 0);
	assert_int_equal(r.used_bytes, 0);
	rig_assert_unchanged(&r);
	rig_close(&r);
}

/* ---- Ranges ---------------------------------------------------------------- */

static const struct {
	uint64_t sector;
	int bytes;
	uint8_t status;
} ranges[] = {
	{ 0, 512, VIRTIO_BLK_S_OK },
	{ DISK_SECTORS - 1, 512, VIRTIO_BLK_S_OK },
	{ 0, DISK_BYTES, VIRTIO_BLK_S_OK },
	{ 0, DISK_BYTES + 512, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS, 512, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS, 0, VIRTIO_BLK_S_OK },
	{ DISK_SECTORS + 1, 0, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX, 512, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX, 0, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX / 512 + 1, 512, VIRTIO_BLK_S_IOERR },	/* offset wraps to 0 */
	{ (uint64_t)1 << 55, 512, VIRTIO_BLK_S_IOERR },
	{ 0, 511, VIRTIO_BLK_S_IOERR },
	{ 0, 513, VIRTIO_BLK_S_IOERR },
	{ 0, 1, VIRTIO_BLK_S_IOERR },
};

/* BLK-DEV-031, BLK-DEV-033. */
static void ranges_and_odd_lengths(void **state)
{
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		bool ok = ranges[i].status == VIRTIO_BLK_S_OK;
		uint32_t bytes = (uint32_t)ranges[i].bytes;

		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, ranges[i].sector, 0,
					ranges[i].bytes), ranges[i].status);
		/* A status that nothing stands in front of is a prefix too. */
		assert_int_equal(r.used_bytes, ok || !bytes ? bytes + 1 : 0);
		assert_int_equal(r.shelf->count, ok && bytes ? 1 : 0);
	}
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		if (ranges[i].status == VIRTIO_BLK_S_OK)
			continue;
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, ranges[i].sector, ranges[i].bytes,
					0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.used_bytes, 1);
		assert_int_equal(r.shelf->count, 0);
	}
	rig_assert_unchanged(&r);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, DISK_SECTORS - 1, 512, 0), VIRTIO_BLK_S_OK);
	rig_close(&r);
}

/* It may be the disk that does not want to be written, or the store that cannot. BLK-DEV-012. */
static void read_only_disk_refuses_writes(void **state)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_SECURE_ERASE,
	};
	struct virtq_blk_discard_write_zeroes range;

	virtq_blk_range(&range, 0, 1, false);
	for (int i = 0; i < 2; i++) {
		struct shelf *shelf = rig_shelf(state);
		struct rig r;

		shelf->store.info.read_only = i;
		rig_open(&r, state, (struct virtq_blk_options){ .store = &shelf->store,
								.read_only = !i });
		assert_true(virtq_features_has(r.model->features, VIRTIO_BLK_F_RO));
		rig_accept(&r, rig_features(&r, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_RO));
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.shelf->count, 0);
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 0, 0), VIRTIO_BLK_S_IOERR);
		for (size_t n = 0; n < 3; n++) {
			assert_int_equal(rig_send(&r, types[n], 0, &range, sizeof(range)),
					 VIRTIO_BLK_S_IOERR);
			assert_int_equal(r.shelf->count, 0);
		}
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
		rig_assert_unchanged(&r);
		rig_close(&r);
	}
}

/* ---- Other types ----------------------------------------------------------- */

/* BLK-DEV-034. */
static void id_is_padded_to_twenty_bytes(void **state)
{
	static const char *const serials[] = { NULL, "", "nineteen characters", "exactly-twenty-chars" };

	for (size_t i = 0; i < 4; i++) {
		struct framing f = { "id", { 16 }, { 20, 1 } };
		uint8_t expect[20] = { 0 };
		struct rig r;
		struct chain c;

		if (serials[i])
			memcpy(expect, serials[i], strlen(serials[i]));
		rig_open(&r, state, (struct virtq_blk_options){ .serial = serials[i] });
		rig_frame(&r, &c, &f, VIRTIO_BLK_T_GET_ID, 0);
		rig_serve(&r, &c);
		assert_int_equal(r.used_bytes, 21);
		assert_int_equal(*rig_byte(&r, &c, true, 20), VIRTIO_BLK_S_OK);
		assert_memory_equal(rig_byte(&r, &c, true, 0), expect, 20);

		/* Room for more: twenty bytes come, the rest is not claimed. */
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_GET_ID, 0, 0, 64), VIRTIO_BLK_S_OK);
		assert_int_equal(r.used_bytes, 20);
		/* Room for less: an id cut short would be another one. */
		assert_int_equal(rig_do(&r, VIRTIO_BLK_T_GET_ID, 0, 0, 19), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.used_bytes, 0);
		rig_close(&r);
	}
}

/* BLK-DEV-020..021, BLK-DEV-029. */
static void unknown_types_are_unsupported(void **state)
{
	static const uint32_t types[] = {
		2, 3, 5, 6, 7, 9, 12, VIRTIO_BLK_T_GET_LIFETIME, 99,
		15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,		/* zones */
		0x80000000u, 0x80000001u, UINT32_MAX,
	};
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_int_equal(rig_do(&r, types[i], 0, 512, 512), VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(r.shelf->count, 0);
		assert_int_equal(r.used_bytes, 0);
	}
	rig_assert_unchanged(&r);
	rig_close(&r);
}

/* ---- Failing I/O ----------------------------------------------------------- */

/* BLK-DEV-033. */
static void failed_read_claims_only_what_was_read(void **state)
{
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	r.shelf->fail_with = -EIO;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.used_bytes, 0);
	r.shelf->fail_after = 700;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.used_bytes, 700);
	r.shelf->fail_after = 2048;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.used_bytes, 2049);
	/* Short without an error: somebody cut the file. */
	r.shelf->fail_with = 700;
	r.shelf->fail_after = 700;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.used_bytes, 700);
	rig_close(&r);
}

/* A store that calls it a success has to have filled everything. BLK-DEV-033. */
static void read_with_a_hole_has_failed(void **state)
{
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	r.shelf->leave_hole = true;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.used_bytes, 0);
	rig_close(&r);
}

static void failed_write_costs_only_its_sender(void **state)
{
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	r.shelf->fail_with = -ENOSPC;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.shelf->count, 1);
	assert_int_equal(r.used_bytes, 1);
	rig_assert_unchanged(&r);
	r.shelf->fail_with = 0;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	rig_close(&r);
}


int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(reads_in_any_framing),
		ON_ALL(writes_in_any_framing),
		ON_ALL(short_chains),
		ON_ALL(ranges_and_odd_lengths),
		ON_ALL(read_only_disk_refuses_writes),
		ON_ALL(id_is_padded_to_twenty_bytes),
		ON_ALL(unknown_types_are_unsupported),
		ON_ALL(failed_read_claims_only_what_was_read),
		ON_ALL(read_with_a_hole_has_failed),
		ON_ALL(failed_write_costs_only_its_sender),
	};

	return cmocka_run_group_tests_name("blk", tests, NULL, NULL) ? 1 : 0;
}
