/* SPDX-License-Identifier: MIT */
/*
 * The table of translations (ACCESS_PLATFORM), case by case: what it answers is what it
 * was told last, and nothing that was taken back.
 */
#include "iotlb_rig.h"

static void test_sizes(void **state)
{
	static const uint32_t wrong[] = { 0, VIRTQ_IOTLB_ENTRIES_MAX + 1, UINT32_MAX };
	struct virtq_error err = { 0 };
	struct virtq_iotlb *tlb = NULL;

	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(virtq_iotlb_bytes(wrong[i]), 0);
		assert_int_equal(virtq_iotlb_init(&err, &tlb, wrong[i]), -EINVAL);
		assert_int_equal(virtq_iotlb_create(&tlb, wrong[i], &err), -EINVAL);
		assert_int_equal(err.code, -EINVAL);
		assert_non_null(strstr(err.text, "IOTLB"));
		assert_null(tlb);
	}
	tlb = table(VIRTQ_IOTLB_ENTRIES_MAX);
	for (uint64_t i = 0; i < VIRTQ_IOTLB_ENTRIES_MAX; i++)
		tell(tlb, 2 * i, 1, host(i), RW);
	assert_int_equal(tlb->count, VIRTQ_IOTLB_ENTRIES_MAX);
	assert_at(tlb, 0, 1, RW, host(0));
	virtq_iotlb_destroy(tlb);
	virtq_iotlb_destroy(NULL);
	(void)state;
}

/* Full, evicting and splitting, it writes nothing behind what virtq_iotlb_bytes() said. */
static void test_callers_memory(void **state)
{
	for (uint32_t entries = 1; entries <= 4; entries++) {
		size_t bytes = virtq_iotlb_bytes(entries);
		uint8_t *memory = malloc(bytes + 256);
		struct virtq_iotlb *tlb;

		assert_non_null(memory);
		memset(memory, 0xa5, bytes + 256);
		assert_int_equal(virtq_iotlb_init(memory, &tlb, entries), 0);
		assert_ptr_equal(tlb, memory);
		for (uint64_t i = 0; i < 10; i++)
			tell(tlb, 2 * PAGE * i, PAGE, host(0), RW);
		tell(tlb, 0, 30 * PAGE, host(0), RW);
		for (uint64_t i = 0; i < 10; i++)
			virtq_iotlb_invalidate(tlb, 2 * PAGE * i + 7, 9);
		for (size_t i = 0; i < 256; i++)
			assert_int_equal(memory[bytes + i], 0xa5);
		free(memory);
	}
	(void)state;
}

static void test_empty(void **state)
{
	struct virtq_iotlb *tlb = table(4);

	assert_answer(tlb, 0, 1, R, -EAGAIN);
	assert_answer(tlb, LAST, 1, R, -EAGAIN);
	assert_answer(tlb, 5, 0, R, -EINVAL);
	assert_answer(tlb, 5, LAST, R, -EFAULT);
	assert_int_equal(virtq_iotlb_known(tlb, 0, 100), 0);
	virtq_iotlb_invalidate(tlb, 0, 0);
	virtq_iotlb_invalidate(tlb, 100, 100);
	assert_answer(tlb, 100, 1, R, -EAGAIN);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_refused(void **state)
{
	struct virtq_iotlb *tlb = table(4);
	uint64_t generation;

	tell(tlb, PAGE, PAGE, host(0), R);
	generation = iotlb_generation(tlb);
	assert_int_equal(virtq_iotlb_update(tlb, PAGE, 0, host(0), RW), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, PAGE, PAGE, NULL, RW), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, PAGE, PAGE, host(0), 0), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, PAGE, PAGE, host(0), RW + 1), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, LAST, 2, host(0), RW), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, 1, LAST, host(0), RW), -EINVAL);
	assert_int_equal(virtq_iotlb_update(tlb, 0, PAGE, (void *)(UINTPTR_MAX - PAGE + 2), RW),
			 -EINVAL);
	assert_int_equal(iotlb_generation(tlb), generation);
	assert_int_equal(tlb->count, 1);
	assert_at(tlb, PAGE, PAGE, R, host(0));
	assert_answer(tlb, PAGE, PAGE, W, -EACCES);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_borders_and_access(void **state)
{
	struct virtq_iotlb *tlb = table(4);

	tell(tlb, 0x5000, PAGE, host(0), R);
	tell(tlb, 0x8000, PAGE, host(PAGE), W);
	assert_at(tlb, 0x5000, PAGE, R, host(0));
	assert_at(tlb, 0x5fff, 1, R, host(0xfff));
	assert_answer(tlb, 0x4fff, 1, R, -EAGAIN);
	assert_answer(tlb, 0x4fff, 2, R, -EAGAIN);
	assert_answer(tlb, 0x6000, 1, R, -EAGAIN);
	assert_answer(tlb, 0x5000, PAGE + 1, R, -EAGAIN);
	assert_answer(tlb, 0x5000, 1, W, -EACCES);
	assert_answer(tlb, 0x5000, 1, RW, -EACCES);
	/* The first thing met counts: denied here, unknown only behind. */
	assert_answer(tlb, 0x5fff, 2, W, -EACCES);
	assert_at(tlb, 0x8010, 16, W, host(PAGE + 0x10));
	assert_answer(tlb, 0x8010, 16, R, -EACCES);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_pieces(void **state)
{
	struct virtq_iotlb *tlb = table(4);
	struct virtq_span piece = { NULL, 77 };
	struct mem_hit hit = { 0 };

	tell(tlb, 0x1000, PAGE, host(0), RW);
	tell(tlb, 0x2000, PAGE, host(0x7000), R);
	assert_int_equal(iotlb_piece(tlb, 0x1800, 0x1800, R, &piece, &hit), 0);
	assert_ptr_equal(piece.base, host(0x800));
	assert_int_equal(piece.len, 0x800);
	assert_int_equal(hit.addr, 0x1000);
	assert_int_equal(hit.size_bytes, PAGE);
	assert_ptr_equal(hit.host, host(0));
	assert_int_equal(hit.access, RW);
	assert_int_equal(iotlb_piece(tlb, 0x2000, LAST, R, &piece, &hit), 0);
	assert_ptr_equal(piece.base, host(0x7000));
	assert_int_equal(piece.len, PAGE);
	assert_int_equal(iotlb_piece(tlb, 0x2000, LAST, W, &piece, &hit), -EACCES);
	assert_int_equal(iotlb_piece(tlb, 0x3000, 1, R, &piece, &hit), -EAGAIN);
	assert_int_equal(hit.addr, 0x2000);

	assert_true(hit_covers(&hit, 0x2000, PAGE, R));
	assert_true(hit_covers(&hit, 0x2fff, 1, R));
	assert_false(hit_covers(&hit, 0x2fff, 2, R));
	assert_false(hit_covers(&hit, 0x3000, 1, R));
	assert_false(hit_covers(&hit, 0x1fff, 1, R));
	assert_false(hit_covers(&hit, 0x2001, LAST, R));
	assert_false(hit_covers(&hit, 0x2000, PAGE, RW));
	memset(&hit, 0, sizeof(hit));
	assert_false(hit_covers(&hit, 0, 0, 0));
	virtq_iotlb_destroy(tlb);
	(void)state;
}

/* Rings over several entries: in one piece here they have a pointer, in several not. */
static void test_ranges_over_entries(void **state)
{
	struct virtq_iotlb *tlb = table(8);

	tell(tlb, 0x1000, PAGE, host(0x1000), R);
	tell(tlb, 0x2000, PAGE, host(0x2000), RW);
	tell(tlb, 0x3000, PAGE, host(0x9000), RW);
	assert_int_equal(tlb->count, 3);
	assert_at(tlb, 0x1800, 0x1000, R, host(0x1800));
	assert_answer(tlb, 0x1800, 0x1000, RW, -EACCES);
	assert_answer(tlb, 0x2800, 0x1000, RW, -EFAULT);
	assert_answer(tlb, 0x3800, 0x1000, RW, -EAGAIN);
	assert_int_equal(virtq_iotlb_known(tlb, 0x1800, 0x1000), 0x1000);
	assert_int_equal(virtq_iotlb_known(tlb, 0x1800, 0x10000), 0x2800);
	assert_int_equal(virtq_iotlb_known(tlb, 0x4000, 1), 0);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

/* What is told last counts, wherever it overlaps. */
static void test_overlaps(void **state)
{
	static const struct { uint64_t first, len; uint32_t left; } cases[] = {
		{ 0x3000, 0x1000, 2 },	/* its front */
		{ 0x2800, 0x1000, 2 },	/* in front and its front */
		{ 0x5000, 0x1000, 2 },	/* its end */
		{ 0x5800, 0x1000, 2 },	/* its end and behind */
		{ 0x4000, 0x1000, 3 },	/* its middle */
		{ 0x3000, 0x3000, 1 },	/* just it */
		{ 0x2000, 0x9000, 1 },	/* all of it and more */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t first = cases[i].first, end = first + cases[i].len;

		for (unsigned int taken_back = 0; taken_back < 2; taken_back++) {
			struct virtq_iotlb *tlb = table(8);

			tell(tlb, 0x3000, 0x3000, host(0), RW);
			if (taken_back)
				virtq_iotlb_invalidate(tlb, first, cases[i].len);
			else
				tell(tlb, first, cases[i].len, host(0x100000), RW);
			assert_int_equal(tlb->count, cases[i].left - taken_back);
			for (uint64_t at = 0x1800; at < 0xc000; at += 0x7ff) {
				if (at >= first && at < end && taken_back)
					assert_answer(tlb, at, 1, R, -EAGAIN);
				else if (at >= first && at < end)
					assert_at(tlb, at, 1, RW, host(0x100000 + at - first));
				else if (at >= 0x3000 && at < 0x6000)
					assert_at(tlb, at, 1, RW, host(at - 0x3000));
				else
					assert_answer(tlb, at, 1, R, -EAGAIN);
			}
			virtq_iotlb_destroy(tlb);
		}
	}
	(void)state;
}

static void test_many_replaced(void **state)
{
	struct virtq_iotlb *tlb = table(8);

	for (uint64_t i = 0; i < 6; i++)
		tell(tlb, i * PAGE, PAGE, host(0x100000 - i * PAGE), RW);
	assert_int_equal(tlb->count, 6);
	tell(tlb, PAGE / 2, 5 * PAGE, host(0x800000), R);
	assert_int_equal(tlb->count, 3);
	assert_at(tlb, 0, PAGE / 2, RW, host(0x100000));
	assert_at(tlb, PAGE / 2, 5 * PAGE, R, host(0x800000));
	assert_at(tlb, 5 * PAGE + PAGE / 2, PAGE / 2, RW, host(0x100000 - 5 * PAGE + PAGE / 2));
	virtq_iotlb_destroy(tlb);
	(void)state;
}

/* A driver that maps page by page takes one entry where its pages lie in a row. */
static void test_merging(void **state)
{
	static const unsigned int order[] = { 3, 1, 2, 0, 4 };
	struct virtq_iotlb *tlb = table(3);

	for (size_t i = 0; i < 5; i++)
		tell(tlb, order[i] * PAGE, PAGE, host(order[i] * PAGE), RW);
	assert_int_equal(tlb->count, 1);
	assert_at(tlb, 0, 5 * PAGE, RW, host(0));
	/* Other access, other place here, a gap: these stay apart. */
	tell(tlb, 5 * PAGE, PAGE, host(5 * PAGE), R);
	assert_int_equal(tlb->count, 2);
	tell(tlb, 6 * PAGE, PAGE, host(16 * PAGE), R);
	assert_int_equal(tlb->count, 3);
	virtq_iotlb_invalidate(tlb, 0, 0);
	tell(tlb, PAGE, PAGE, host(PAGE), RW);
	tell(tlb, 3 * PAGE, PAGE, host(3 * PAGE), RW);
	assert_int_equal(tlb->count, 2);
	/* The first address does not go on where the last ends. */
	virtq_iotlb_invalidate(tlb, 0, 0);
	tell(tlb, LAST - PAGE + 1, PAGE, host(0), RW);
	tell(tlb, 0, PAGE, host(PAGE), RW);
	assert_int_equal(tlb->count, 2);
	assert_answer(tlb, LAST, 2, RW, -EFAULT);
	assert_int_equal(virtq_iotlb_known(tlb, LAST, 2), 1);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_last_address(void **state)
{
	struct virtq_iotlb *tlb = table(4);

	tell(tlb, LAST, 1, host(7), RW);
	assert_at(tlb, LAST, 1, RW, host(7));
	assert_answer(tlb, LAST - 1, 1, RW, -EAGAIN);
	virtq_iotlb_invalidate(tlb, LAST, 1);
	assert_answer(tlb, LAST, 1, RW, -EAGAIN);
	tell(tlb, LAST - PAGE + 1, PAGE, host(0), RW);
	assert_at(tlb, LAST - PAGE + 1, PAGE, RW, host(0));
	/* What reaches behind the last address ends there. */
	virtq_iotlb_invalidate(tlb, LAST - 15, 1000);
	assert_answer(tlb, LAST - 15, 1, RW, -EAGAIN);
	assert_answer(tlb, LAST, 1, RW, -EAGAIN);
	assert_at(tlb, LAST - PAGE + 1, PAGE - 16, RW, host(0));
	virtq_iotlb_invalidate(tlb, 1, LAST);
	assert_int_equal(tlb->count, 0);
#if UINTPTR_MAX > UINT32_MAX
	/* As large as can be: half of what there is, and all but what no pointer reaches. */
	tell(tlb, (uint64_t)1 << 63, (uint64_t)1 << 63, (void *)4096, RW);
	assert_at(tlb, LAST, 1, RW, (void *)(4096 + (UINTPTR_MAX >> 1)));
	tell(tlb, 0, LAST, (void *)1, RW);
	assert_int_equal(tlb->count, 2);
	assert_at(tlb, 0, LAST, RW, (void *)1);
	assert_at(tlb, LAST, 1, RW, (void *)(4096 + (UINTPTR_MAX >> 1)));
#endif
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_everything_taken_back(void **state)
{
	static const struct { uint64_t iova, size_bytes; } all[] = {
		{ 0, 0 }, { 0x5000, 0 }, { 0, UINT64_MAX },
	};

	for (size_t i = 0; i < 3; i++) {
		struct virtq_iotlb *tlb = table(4);

		tell(tlb, 0, PAGE, host(0), RW);
		tell(tlb, 0x5000, PAGE, host(0), RW);
		tell(tlb, LAST, 1, host(0), RW);
		virtq_iotlb_invalidate(tlb, all[i].iova, all[i].size_bytes);
		assert_answer(tlb, 0, 1, R, -EAGAIN);
		assert_answer(tlb, 0x5000, 1, R, -EAGAIN);
		assert_answer(tlb, LAST, 1, R, -EAGAIN);
		virtq_iotlb_destroy(tlb);
	}
	(void)state;
}

/* A full table forgets what was updated longest ago, and never what it is being told. */
static void test_eviction(void **state)
{
	struct virtq_iotlb *tlb = table(3);

	tell(tlb, 0x1000, PAGE, host(0), RW);
	tell(tlb, 0x5000, PAGE, host(0), RW);
	tell(tlb, 0x3000, PAGE, host(0), RW);
	/* Told again, even a part of it: not the oldest any more. */
	tell(tlb, 0x1800, 16, host(0x800), RW);
	tell(tlb, 0x9000, PAGE, host(0), RW);
	assert_answer(tlb, 0x5000, 1, RW, -EAGAIN);
	tell(tlb, 0xb000, PAGE, host(0), RW);
	assert_answer(tlb, 0x3000, 1, RW, -EAGAIN);
	assert_at(tlb, 0x1000, PAGE, RW, host(0));
	/* What continues an entry needs no room. */
	tell(tlb, 0xa000, PAGE, host(PAGE), RW);
	assert_int_equal(tlb->count, 3);
	assert_at(tlb, 0x1000, PAGE, RW, host(0));
	assert_at(tlb, 0x9000, 2 * PAGE, RW, host(0));
	assert_at(tlb, 0xb000, PAGE, RW, host(0));
	/* And makes it as young as if it were new. */
	tell(tlb, 0x20000, PAGE, host(0), RW);
	tell(tlb, 0x30000, PAGE, host(0), RW);
	assert_answer(tlb, 0x1000, 1, RW, -EAGAIN);
	assert_answer(tlb, 0xb000, 1, RW, -EAGAIN);
	assert_at(tlb, 0x9000, 2 * PAGE, RW, host(0));
	virtq_iotlb_destroy(tlb);

	tlb = table(1);
	for (uint64_t i = 0; i < 10; i++) {
		tell(tlb, (i * 7 % 10) * 2 * PAGE, PAGE, host(i), RW);
		assert_int_equal(tlb->count, 1);
		assert_at(tlb, (i * 7 % 10) * 2 * PAGE, PAGE, RW, host(i));
	}
	virtq_iotlb_destroy(tlb);
	(void)state;
}

/* Where there is no room for two parts the longer stays, and nothing of what was cut out. */
static void test_split_in_full_table(void **state)
{
	struct virtq_iotlb *tlb = table(1);

	tell(tlb, 0x1000, 0x9000, host(0), RW);
	virtq_iotlb_invalidate(tlb, 0x3000, PAGE);
	assert_answer(tlb, 0x2000, 1, RW, -EAGAIN);
	assert_answer(tlb, 0x3000, 1, RW, -EAGAIN);
	assert_at(tlb, 0x4000, 0x6000, RW, host(0x3000));
	virtq_iotlb_invalidate(tlb, 0x9000 - 1, 1);
	assert_answer(tlb, 0x9000, 1, RW, -EAGAIN);
	assert_at(tlb, 0x4000, 0x4fff, RW, host(0x3000));
	/* Told again in the middle of what it knows: nothing is lost. */
	tell(tlb, 0x5000, PAGE, host(0x4000), RW);
	assert_at(tlb, 0x4000, 0x4fff, RW, host(0x3000));
	/* The same place with other access, or elsewhere, is something else. */
	tell(tlb, 0x5000, PAGE, host(0x4000), R);
	assert_at(tlb, 0x5000, PAGE, R, host(0x4000));
	assert_answer(tlb, 0x5000, PAGE, W, -EACCES);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

static void test_generation(void **state)
{
	struct virtq_iotlb *tlb = table(4);
	uint64_t was = iotlb_generation(tlb);

	for (unsigned int i = 0; i < 6; i++) {
		if (i % 3 == 0)
			tell(tlb, 0x1000, PAGE, host(0), RW);
		else if (i % 3 == 1)	/* found, then not found any more */
			virtq_iotlb_invalidate(tlb, 0x1000, PAGE);
		else
			virtq_iotlb_invalidate(tlb, 0x1000, PAGE);
		assert_int_not_equal(iotlb_generation(tlb), was);
		was = iotlb_generation(tlb);
	}
	/* Looking changes nothing. */
	assert_answer(tlb, 0, 1, R, -EAGAIN);
	assert_int_equal(iotlb_generation(tlb), was);
	virtq_iotlb_destroy(tlb);
	(void)state;
}

int main(void)
{
	struct CMUnitTest tests[] = {
		{ "numbers of entries", test_sizes, NULL, NULL, NULL },
		{ "memory of the caller's is enough", test_callers_memory, NULL, NULL, NULL },
		{ "an empty table knows nothing", test_empty, NULL, NULL, NULL },
		{ "what is no translation is refused", test_refused, NULL, NULL, NULL },
		{ "borders and access", test_borders_and_access, NULL, NULL, NULL },
		{ "pieces and hits", test_pieces, NULL, NULL, NULL },
		{ "ranges over entries", test_ranges_over_entries, NULL, NULL, NULL },
		{ "overlaps", test_overlaps, NULL, NULL, NULL },
		{ "many entries replaced", test_many_replaced, NULL, NULL, NULL },
		{ "merging", test_merging, NULL, NULL, NULL },
		{ "the last address", test_last_address, NULL, NULL, NULL },
		{ "everything taken back", test_everything_taken_back, NULL, NULL, NULL },
		{ "a full table forgets the oldest", test_eviction, NULL, NULL, NULL },
		{ "a split in a full table", test_split_in_full_table, NULL, NULL, NULL },
		{ "each change makes a generation", test_generation, NULL, NULL, NULL },
	};

	return cmocka_run_group_tests_name("iotlb", tests, NULL, NULL) ? 1 : 0;
}
