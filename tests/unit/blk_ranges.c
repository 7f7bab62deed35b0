/* SPDX-License-Identifier: MIT */
/* DISCARD, WRITE_ZEROES and SECURE_ERASE: ranges become pieces of work, or nothing happens. */
#include "blk_rig.h"

#include "base/shm.h"

#define DISCARD VIRTIO_BLK_T_DISCARD
#define ZEROES VIRTIO_BLK_T_WRITE_ZEROES
#define ERASE VIRTIO_BLK_T_SECURE_ERASE
#define UNMAP VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
#define RANGES_MAX 16u			/* as the configuration space says */

static const uint32_t types[] = { DISCARD, ZEROES, ERASE };
static const enum virtq_store_kind kinds[] = {
	VIRTQ_STORE_DISCARD, VIRTQ_STORE_ZERO, VIRTQ_STORE_ERASE,
};

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

static uint8_t send_ranges(struct rig *r, uint32_t type, const struct range *ranges, size_t count)
{
	struct virtq_blk_discard_write_zeroes raw[RANGES_MAX + 1];

	assert_true(count <= RANGES_MAX + 1);
	for (size_t i = 0; i < count; i++) {
		virtq_blk_range(&raw[i], ranges[i].sector, ranges[i].sectors, false);
		raw[i].flags = le32_make(ranges[i].flags);
	}
	return rig_send(r, type, 0, raw, count * sizeof(raw[0]));
}

static uint8_t send_range(struct rig *r, uint32_t type, uint64_t sector, uint32_t sectors,
			  uint32_t flags)
{
	return send_ranges(r, type, &(struct range){ sector, sectors, flags }, 1);
}

static void open_write_back(struct rig *r, void **state, struct shelf *shelf)
{
	rig_open(r, state, (struct virtq_blk_options){ .store = shelf ? &shelf->store : NULL });
	rig_accept(r, r->model->features);
}

/* ---- What happens ------------------------------------------------------------ */

/* BLK-DEV-014..015. */
static void ranges_become_work_one_after_the_other(void **state)
{
	static const struct range ranges[] = { { 6, 2, 0 }, { 0, 1, 0 }, { 3, 1, 0 } };
	struct rig r;

	for (size_t t = 0; t < 3; t++) {
		uint8_t expect = types[t] == DISCARD ? SHELF_DISCARDED : 0;

		open_write_back(&r, state, NULL);
		assert_int_equal(send_ranges(&r, types[t], ranges, 3), VIRTIO_BLK_S_OK);
		assert_int_equal(r.used_bytes, 1);
		assert_int_equal(r.shelf->count, 3);
		for (unsigned int i = 0; i < 3; i++)
			shelf_assert(r.shelf, i, kinds[t], 0, ranges[i].sector * 512,
				     ranges[i].sectors * 512);
		for (size_t i = 0; i < DISK_BYTES; i++) {
			size_t sector = i / 512;
			bool in = sector >= 6 || sector == 0 || sector == 3;

			assert_int_equal(r.shelf->memory[i], in ? expect : file_pattern(i));
		}
		rig_close(&r);
	}
}

/* BLK-DEV-014..015. */
static void zeroes_may_unmap_if_the_driver_says_so(void **state)
{
	static const struct range ranges[] = { { 0, 1, UNMAP }, { 1, 1, 0 }, { 2, 1, UNMAP } };
	struct rig r;

	open_write_back(&r, state, NULL);
	assert_int_equal(send_ranges(&r, ZEROES, ranges, 3), VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 3; i++)
		shelf_assert(r.shelf, i, VIRTQ_STORE_ZERO,
			     ranges[i].flags ? VIRTQ_STORE_MAY_UNMAP : 0, i * 512, 512);
	for (size_t i = 0; i < 3 * 512; i++)
		assert_int_equal(r.shelf->memory[i], 0);
	rig_close(&r);
}

static void nothing_to_do_is_done(void **state)
{
	static const struct range empty[] = {
		{ 0, 0, 0 }, { DISK_SECTORS, 0, 0 }, { 7, 1, 0 }, { 1, 0, 0 },
	};
	struct rig r;

	for (size_t t = 0; t < 3; t++) {
		open_write_back(&r, state, NULL);
		/* But not for who names no range at all: nothing can have been meant by that. */
		assert_int_equal(send_ranges(&r, types[t], empty, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.shelf->count, 0);
		assert_int_equal(send_ranges(&r, types[t], empty, 2), VIRTIO_BLK_S_OK);
		assert_int_equal(r.shelf->count, 0);
		rig_assert_unchanged(&r);
		assert_int_equal(send_ranges(&r, types[t], empty, 4), VIRTIO_BLK_S_OK);
		assert_int_equal(r.shelf->count, 1);
		shelf_assert(r.shelf, 0, kinds[t], 0, 7 * 512, 512);
		rig_close(&r);
	}
}

static const struct framing framings[] = {
	{ "usual", { 16, 32 }, { 1 } },
	{ "one piece", { 48 }, { 1 } },
	{ "in bytes", { -48 }, { 1 } },
	{ "cut across fields", { 3, 18, 9, 18 }, { 1 } },
	{ "writable bytes before the status", { 16, 32 }, { 100, 1 } },
};

/* BLK-DEV-030, BLK-DEV-033. */
static void ranges_in_any_framing(void **state)
{
	struct virtq_blk_discard_write_zeroes ranges[2];
	struct chain c;
	struct rig r;

	virtq_blk_range(&ranges[0], 1, 2, true);
	virtq_blk_range(&ranges[1], 5, 1, false);
	open_write_back(&r, state, NULL);
	for (size_t i = 0; i < sizeof(framings) / sizeof(framings[0]); i++) {
		bool alone = framings[i].writable[0] == 1;

		rig_frame(&r, &c, &framings[i], ZEROES, 0);
		rig_put(&r, &c, 16, ranges, sizeof(ranges));
		rig_serve(&r, &c);
		assert_int_equal(r.verdict, VIRTQ_DONE);
		assert_int_equal(r.used_bytes, alone ? 1 : 0);
		assert_int_equal(*rig_byte(&r, &c, true, alone ? 0 : 100), VIRTIO_BLK_S_OK);
		assert_int_equal(r.shelf->count, 2);
		shelf_assert(r.shelf, 0, VIRTQ_STORE_ZERO, VIRTQ_STORE_MAY_UNMAP, 512, 1024);
		shelf_assert(r.shelf, 1, VIRTQ_STORE_ZERO, 0, 5 * 512, 512);
	}
	rig_close(&r);
}

/* ---- What is refused, before anything has happened ----------------------------- */

/* BLK-DEV-013, BLK-DEV-035. */
static void flags_that_mean_nothing(void **state)
{
	static const struct { uint32_t type, flags; } refused[] = {
		{ DISCARD, UNMAP }, { DISCARD, 2 }, { DISCARD, 1u << 31 }, { ZEROES, 2 },
		{ ZEROES, UNMAP | 2 }, { ZEROES, 1u << 31 }, { ERASE, UNMAP }, { ERASE, 2 },
	};
	struct rig r;

	open_write_back(&r, state, NULL);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		const struct range ranges[] = { { 0, 1, 0 }, { 1, 1, refused[i].flags } };

		assert_int_equal(send_ranges(&r, refused[i].type, ranges + 1, 1),
				 VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(r.used_bytes, 1);
		assert_int_equal(r.shelf->count, 0);
		/* The good one in front of it has not been acted upon either. */
		assert_int_equal(send_ranges(&r, refused[i].type, ranges, 2),
				 VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(r.shelf->count, 0);
	}
	rig_assert_unchanged(&r);
	rig_close(&r);
}

/* BLK-DEV-031, BLK-DEV-035. */
static void ranges_that_are_not_on_the_disk(void **state)
{
	static const struct range refused[] = {
		{ DISK_SECTORS, 1, 0 }, { DISK_SECTORS - 1, 2, 0 }, { 0, DISK_SECTORS + 1, 0 },
		{ DISK_SECTORS + 1, 0, 0 }, { UINT64_MAX, 0, 0 }, { UINT64_MAX, 1, 0 },
		{ UINT64_MAX, UINT32_MAX, 0 }, { UINT64_MAX - UINT32_MAX + 1, UINT32_MAX, 0 },
		{ (uint64_t)1 << 55, 1, 0 }, { 0, UINT32_MAX, 0 }, { 1, UINT32_MAX, 0 },
	};
	struct rig r;

	open_write_back(&r, state, NULL);
	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
			const struct range ranges[] = { { 0, 1, 0 }, refused[i] };

			assert_int_equal(send_ranges(&r, types[t], ranges, 2), VIRTIO_BLK_S_IOERR);
			assert_int_equal(r.used_bytes, 1);
			assert_int_equal(r.shelf->count, 0);
		}
	rig_assert_unchanged(&r);
	rig_close(&r);
}

/* BLK-DEV-035. */
static void longer_than_the_store_can(void **state)
{
	struct rig r;

	for (size_t t = 0; t < 3; t++) {
		struct shelf *shelf = rig_shelf(state);

		shelf->store.info.discard_max = 4 * 512;
		shelf->store.info.zero_max = 5 * 512 + 511;
		shelf->store.info.erase_max = 6 * 512;
		open_write_back(&r, state, shelf);
		for (uint32_t n = 1; n <= DISK_SECTORS; n++) {
			bool fits = n <= 4 + t;

			assert_int_equal(send_range(&r, types[t], 0, n, 0),
					 fits ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
			assert_int_equal(r.shelf->count, fits);
		}
		rig_close(&r);
	}
}

/* BLK-DEV-035. */
static void lengths_and_counts(void **state)
{
	static const size_t lengths[] = { 1, 8, 15, 17, 24, 31, 33, 255, 257 };
	struct virtq_blk_discard_write_zeroes raw[RANGES_MAX + 1];
	struct rig r;

	for (size_t i = 0; i <= RANGES_MAX; i++)
		virtq_blk_range(&raw[i], i % DISK_SECTORS, 1, false);
	for (size_t t = 0; t < 3; t++) {
		open_write_back(&r, state, NULL);
		assert_int_equal(rig_config(&r).max_write_zeroes_seg, RANGES_MAX);
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			assert_int_equal(rig_send(&r, types[t], 0, raw, lengths[i]),
					 VIRTIO_BLK_S_IOERR);
			assert_int_equal(r.shelf->count, 0);
		}
		assert_int_equal(rig_send(&r, types[t], 0, raw, sizeof(raw)), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.shelf->count, 0);
		rig_assert_unchanged(&r);
		assert_int_equal(rig_send(&r, types[t], 0, raw, RANGES_MAX * sizeof(raw[0])),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(r.shelf->count, RANGES_MAX);
		rig_close(&r);
	}
}

/* Header, @readable and @writable bytes, the former first, of @ranges; the status, which it returns. */
static uint8_t send_both(struct rig *r, uint32_t type, int readable, int writable,
			 const void *ranges)
{
	struct framing f = { "both", { 16, readable }, { writable, 1 } };
	const uint8_t *from = ranges;
	struct chain c;

	if (!writable)
		f = (struct framing){ "none", { 16, readable }, { 1 } };
	rig_frame(r, &c, &f, type, 0);
	for (int i = 0; i < readable; i++)
		*rig_byte(r, &c, false, 16 + (size_t)i) = *from++;
	for (int i = 0; i < writable; i++)
		*rig_byte(r, &c, true, (size_t)i) = *from++;
	rig_serve(r, &c);
	assert_int_equal(r->verdict, VIRTQ_DONE);
	/* What was not written is not touched. */
	for (int i = 0; i < writable; i++)
		assert_int_equal(*rig_byte(r, &c, true, (size_t)i),
				 ((const uint8_t *)ranges)[readable + i]);
	return *rig_byte(r, &c, true, (size_t)writable);
}

/*
 * Linux has the ranges of an erase in writable memory. So there they are looked for,
 * of this type, and if there are none where they belong. The rules (2.7.5.1, 2.8.15) say
 * "should"; the other choice is to tell the driver that data is gone which is not.
 */
static void ranges_of_an_erase_may_be_writable(void **state)
{
	struct virtq_blk_discard_write_zeroes raw[RANGES_MAX + 1];
	struct rig r;

	for (size_t i = 0; i <= RANGES_MAX; i++)
		virtq_blk_range(&raw[i], i % DISK_SECTORS, 1, false);
	open_write_back(&r, state, NULL);
	for (size_t t = 0; t < 2; t++) {
		assert_int_equal(send_both(&r, types[t], 0, 16, raw), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.shelf->count, 0);
	}
	assert_int_equal(send_both(&r, ERASE, 0, 15, raw), VIRTIO_BLK_S_IOERR);
	assert_int_equal(send_both(&r, ERASE, 0, sizeof(raw), raw), VIRTIO_BLK_S_IOERR);
	assert_int_equal(send_both(&r, ERASE, 0, 0, raw), VIRTIO_BLK_S_IOERR);
	raw[1].flags = le32_make(1);
	assert_int_equal(send_both(&r, ERASE, 0, 32, raw), VIRTIO_BLK_S_UNSUPP);
	raw[1].flags = le32_make(0);
	raw[1].sector = le64_make(DISK_SECTORS);
	assert_int_equal(send_both(&r, ERASE, 0, 32, raw), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.shelf->count, 0);
	rig_assert_unchanged(&r);

	virtq_blk_range(&raw[1], 5, 2, false);
	assert_int_equal(send_both(&r, ERASE, 0, 32, raw), VIRTIO_BLK_S_OK);
	assert_int_equal(r.used_bytes, 0);	/* the status lies behind what nobody wrote */
	assert_int_equal(r.shelf->count, 2);
	shelf_assert(r.shelf, 0, VIRTQ_STORE_ERASE, 0, 0, 512);
	shelf_assert(r.shelf, 1, VIRTQ_STORE_ERASE, 0, 5 * 512, 2 * 512);

	/* Where they belong is enough. */
	virtq_blk_range(&raw[0], 3, 1, false);
	assert_int_equal(send_both(&r, ERASE, 16, 16, raw), VIRTIO_BLK_S_OK);
	assert_int_equal(r.shelf->count, 1);
	shelf_assert(r.shelf, 0, VIRTQ_STORE_ERASE, 0, 3 * 512, 512);
	rig_close(&r);
}

/* BLK-DEV-029. */
static void what_is_not_offered_is_unsupported(void **state)
{
	struct shelf *shelf = rig_shelf(state);
	struct rig r;

	shelf->store.info.discard_max = 511;
	shelf->store.info.erase_max = 0;
	open_write_back(&r, state, shelf);
	assert_false(virtq_features_has(r.model->features, VIRTIO_BLK_F_DISCARD));
	assert_false(virtq_features_has(r.model->features, VIRTIO_BLK_F_SECURE_ERASE));
	assert_int_equal(send_range(&r, DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(send_range(&r, ERASE, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(r.shelf->count, 0);
	assert_int_equal(send_range(&r, ZEROES, 0, 1, 0), VIRTIO_BLK_S_OK);
	rig_close(&r);
}

/* ---- While it is under way ------------------------------------------------------ */

static void scribble(struct rig *r, const struct chain *c)
{
	for (size_t i = 0; i < 16 + 2 * 16; i++)
		*rig_byte(r, c, false, i) = 0xff;
}

/* The driver changes what has been checked already: the copies count. BLK-DEV-035. */
static void ranges_are_read_once(void **state)
{
	static const struct range ranges[] = { { 2, 1, 0 }, { 4, 2, 0 } };
	struct rig r;

	for (size_t t = 0; t < 3; t++) {
		open_write_back(&r, state, NULL);
		r.meanwhile = scribble;
		assert_int_equal(send_ranges(&r, types[t], ranges, 2), VIRTIO_BLK_S_OK);
		shelf_assert(r.shelf, 0, kinds[t], 0, 2 * 512, 512);
		shelf_assert(r.shelf, 1, kinds[t], 0, 4 * 512, 2 * 512);
		assert_int_equal(r.shelf->count, 2);
		rig_close(&r);
	}
}

static void a_failed_range_ends_the_request(void **state)
{
	static const struct range ranges[] = { { 0, 1, 0 }, { 2, 1, 0 }, { 4, 1, 0 } };
	struct rig r;

	for (size_t t = 0; t < 3; t++) {
		open_write_back(&r, state, NULL);
		r.shelf->fail_with = -EIO;
		r.shelf->fail_at = 2;
		assert_int_equal(send_ranges(&r, types[t], ranges, 3), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.used_bytes, 1);
		assert_int_equal(r.shelf->count, 2);
		assert_int_equal(r.shelf->memory[4 * 512], file_pattern(4 * 512));
		/* The next one knows nothing of that. */
		r.shelf->fail_with = 0;
		assert_int_equal(send_ranges(&r, types[t], ranges, 3), VIRTIO_BLK_S_OK);
		assert_int_equal(r.shelf->count, 3);
		rig_close(&r);
	}
}

static void what_the_store_finds_it_cannot_do(void **state)
{
	static const struct range ranges[] = { { 0, 3, UNMAP }, { 5, 1, UNMAP } };
	struct rig r;

	open_write_back(&r, state, NULL);
	r.shelf->fail_with = -EOPNOTSUPP;
	assert_int_equal(send_range(&r, DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(send_range(&r, ERASE, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	rig_assert_unchanged(&r);

	/* Zeroes are written then: of the range that it could not do, and of no other. */
	r.shelf->fail_at = 1;
	assert_int_equal(send_ranges(&r, ZEROES, ranges, 2), VIRTIO_BLK_S_OK);
	shelf_assert(r.shelf, 0, VIRTQ_STORE_ZERO, VIRTQ_STORE_MAY_UNMAP, 0, 3 * 512);
	shelf_assert(r.shelf, 1, VIRTQ_STORE_WRITE, 0, 0, 3 * 512);
	shelf_assert(r.shelf, 2, VIRTQ_STORE_ZERO, VIRTQ_STORE_MAY_UNMAP, 5 * 512, 512);
	assert_int_equal(r.shelf->count, 3);
	for (size_t i = 0; i < DISK_BYTES; i++)
		assert_int_equal(r.shelf->memory[i],
				 i < 3 * 512 || i / 512 == 5 ? 0 : file_pattern(i));
	/* If that fails, too, so has the request. */
	r.shelf->fail_at = 0;
	assert_int_equal(send_range(&r, ZEROES, 0, 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.shelf->count, 2);
	rig_close(&r);
}

/* ---- A store that has no zeroes of its own --------------------------------------- */

#define BIG_BYTES ((uint64_t)5 << 20)
#define PIECE_BYTES ((uint64_t)1 << 20)

/* BLK-DEV-015. */
static void zeroes_are_written(void **state)
{
	const struct rig_shape *shape = *state;
	struct shelf *shelf = shelf_new(BIG_BYTES, shape->way);
	uint64_t from = 3 * 512, bytes = (uint64_t)3 << 20;
	struct rig r;

	shelf->store.info.zero_max = 0;
	memset(shelf->memory, 0x77, BIG_BYTES);
	rig_open(&r, state, (struct virtq_blk_options){ .store = &shelf->store,
							.write_through = true });
	rig_accept(&r, r.model->features);
	assert_true(virtq_features_has(r.model->features, VIRTIO_BLK_F_WRITE_ZEROES));
	assert_int_equal(rig_config(&r).write_zeroes_may_unmap, 0);	/* BLK-DEV-016 */
	assert_true(rig_config(&r).max_write_zeroes_sectors >= bytes / 512);

	/* In pieces that end where the next is aligned; stable, each of them. */
	assert_int_equal(send_range(&r, ZEROES, 3, (uint32_t)(bytes / 512), UNMAP),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(r.used_bytes, 1);
	assert_int_equal(r.shelf->count, 4);
	/* Others have their turn between pieces that the store writes at once. */
	assert_int_equal(r.turns, shape->way == SHELF_AT_ONCE ? 4 : 0);
	shelf_assert(shelf, 0, VIRTQ_STORE_WRITE, VIRTQ_STORE_STABLE, from, PIECE_BYTES - from);
	shelf_assert(shelf, 1, VIRTQ_STORE_WRITE, VIRTQ_STORE_STABLE, PIECE_BYTES, PIECE_BYTES);
	shelf_assert(shelf, 2, VIRTQ_STORE_WRITE, VIRTQ_STORE_STABLE, 2 * PIECE_BYTES,
		     PIECE_BYTES);
	shelf_assert(shelf, 3, VIRTQ_STORE_WRITE, VIRTQ_STORE_STABLE, 3 * PIECE_BYTES, from);
	for (uint64_t i = 0; i < BIG_BYTES; i++)
		assert_int_equal(shelf->memory[i], i >= from && i < from + bytes ? 0 : 0x77);

	/* Short is failed here too, and ends it. */
	shelf->fail_with = 512;
	shelf->fail_at = 2;
	assert_int_equal(send_range(&r, ZEROES, 3, (uint32_t)(bytes / 512), 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.shelf->count, 2);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(ranges_become_work_one_after_the_other),
		ON_ALL(zeroes_may_unmap_if_the_driver_says_so),
		ON_ALL(nothing_to_do_is_done),
		ON_ALL(ranges_in_any_framing),
		ON_ALL(flags_that_mean_nothing),
		ON_ALL(ranges_that_are_not_on_the_disk),
		ON_ALL(longer_than_the_store_can),
		ON_ALL(lengths_and_counts),
		ON_ALL(ranges_of_an_erase_may_be_writable),
		ON_ALL(what_is_not_offered_is_unsupported),
		ON_HOLD(ranges_are_read_once),
		ON_ALL(a_failed_range_ends_the_request),
		ON_ALL(what_the_store_finds_it_cannot_do),
		ON_ALL(zeroes_are_written),
	};

	return cmocka_run_group_tests_name("blk ranges", tests, NULL, NULL) ? 1 : 0;
}
