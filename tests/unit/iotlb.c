/* SPDX-License-Identifier: MIT */
/*
 * The table of translations (ACCESS_PLATFORM): what it answers is what it was
 * told last, and nothing that was taken back. First by cases, then against an
 * array with one cell for each address.
 *
 * No pointer is followed here, so there need not be memory behind any.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/iotlb.h>

#include "mem/iotlb.h"

#define R VIRTQ_ACCESS_READ
#define W VIRTQ_ACCESS_WRITE
#define RW VIRTQ_ACCESS_RW
#define PAGE 0x1000u
#define LAST UINT64_MAX

static void *host(uint64_t at)
{
	return (void *)(uintptr_t)(0x10000000u + at);
}

static struct virtq_iotlb *table(uint32_t entries)
{
	struct virtq_iotlb *tlb;

	assert_int_equal(virtq_iotlb_create(&tlb, entries, NULL), 0);
	return tlb;
}

static void tell(struct virtq_iotlb *tlb, uint64_t iova, uint64_t size_bytes, void *at,
		 unsigned int access)
{
	assert_int_equal(virtq_iotlb_update(tlb, iova, size_bytes, at, access), 0);
}

/* What virtq_iotlb_ptr() says, and that it leaves *out alone unless that is 0. */
static int ask(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len, unsigned int access,
	       void *expected)
{
	void *untouched = &untouched, *out = untouched;
	int rc = virtq_iotlb_ptr(tlb, iova, len, access, &out);

	assert_ptr_equal(out, rc ? untouched : expected);
	return rc;
}

#define assert_at(tlb, iova, len, access, expected) \
	assert_int_equal(ask(tlb, iova, len, access, expected), 0)
#define assert_answer(tlb, iova, len, access, error) \
	assert_int_equal(ask(tlb, iova, len, access, NULL), error)

/* ---- Cases -------------------------------------------------------------- */

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

/* ---- Against a model ---------------------------------------------------- */

#define CELLS 256u
#define OPERATIONS 100000u

struct cell {
	bool known;
	uintptr_t host;
	unsigned int access;
};

struct model {
	const char *name;
	uint64_t base;			/* the address of the first cell */
	uint32_t capacity;
	struct cell cells[CELLS];
	bool exact;			/* it has had no reason to forget anything */
	uint64_t random;
	uint64_t known, forgotten, full;	/* answers and operations, to see that all occurred */
};

static uint32_t roll(struct model *m, uint32_t below)
{
	m->random = m->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(m->random >> 33) % below;
}

static bool cells_continue(const struct cell *a, const struct cell *b)
{
	return a->known && b->known && a->host + 1 == b->host && a->access == b->access;
}

/* Sorted, disjoint, merged, and within bounds. */
static void check_shape(const struct model *m, const struct virtq_iotlb *tlb)
{
	uint32_t pieces = 0;

	assert_in_range(tlb->count, 0, m->capacity);
	for (uint32_t i = 0; i + 1 < tlb->count; i++) {
		const struct mem_hit *a = &tlb->entries[i].at, *b = &tlb->entries[i + 1].at;

		assert_true(a->size_bytes && b->size_bytes);
		assert_true(b->addr - a->addr >= a->size_bytes && b->addr > a->addr);
		assert_false(b->addr - a->addr == a->size_bytes && a->access == b->access &&
			     a->host + a->size_bytes == b->host);
	}
	for (uint32_t i = 0; i < CELLS; i++)
		pieces += m->cells[i].known &&
			  (!i || !cells_continue(&m->cells[i - 1], &m->cells[i]));
	if (m->exact)
		assert_int_equal(tlb->count, pieces);
}

/* Every cell: what the table says of it is what it was told last, if it says anything. */
static void check_answers(struct model *m, const struct virtq_iotlb *tlb)
{
	static const unsigned int wishes[] = { 0, R, W, RW };
	unsigned int access = wishes[roll(m, 4)];

	for (uint32_t i = 0; i < CELLS;) {
		const struct cell *c = &m->cells[i];
		struct virtq_span piece = { NULL, 1 };
		struct mem_hit hit;
		int rc = iotlb_piece(tlb, m->base + i, CELLS - i, access, &piece, &hit);

		if (rc == -EAGAIN) {
			assert_false(m->exact && c->known);
			m->forgotten += c->known;
			i++;
			continue;
		}
		assert_true(c->known);
		assert_int_equal(rc, (c->access & access) == access ? 0 : -EACCES);
		if (rc) {
			i++;
			continue;
		}
		m->known++;
		assert_true(piece.len > 0 && piece.len <= CELLS - i);
		for (size_t k = 0; k < piece.len; k++) {
			assert_true(c[k].known);
			assert_int_equal(c[k].host, (uintptr_t)piece.base + k);
			assert_int_equal(c[k].access, hit.access);
			assert_true(hit_covers(&hit, m->base + i + k, 1, c[k].access));
		}
		/* The next cell, if it were in the entry too, would have been in the piece. */
		i += (uint32_t)piece.len;
	}
}

/* One range: virtq_iotlb_ptr() and _known() as the cells have it. */
static void check_range(struct model *m, const struct virtq_iotlb *tlb)
{
	uint32_t first = roll(m, CELLS), len = 1 + roll(m, CELLS - first), known = 0;
	unsigned int access = 1 + roll(m, 3);
	const struct cell *c = &m->cells[first];
	void *out = NULL;
	int expected = 0, rc = virtq_iotlb_ptr(tlb, m->base + first, len, access, &out);

	while (known < len && c[known].known)
		known++;
	for (uint32_t i = 0; i < len && !expected; i++) {
		if (!c[i].known)
			expected = -EAGAIN;
		else if ((c[i].access & access) != access)
			expected = -EACCES;
		else if (c[i].host != c[0].host + i)
			expected = -EFAULT;
	}
	if (m->exact) {
		assert_int_equal(rc, expected);
		assert_int_equal(virtq_iotlb_known(tlb, m->base + first, len), known);
	} else {
		assert_true(rc == expected || rc == -EAGAIN);
		assert_true(virtq_iotlb_known(tlb, m->base + first, len) <= known);
	}
	if (!rc)
		assert_int_equal((uintptr_t)out, c[0].host);
}

static void model_update(struct model *m, struct virtq_iotlb *tlb)
{
	uint32_t first = roll(m, CELLS), most = roll(m, 8) ? 16 : CELLS, len;
	unsigned int access = roll(m, 4) ? RW : 1 + roll(m, 3);
	uintptr_t at;

	len = 1 + roll(m, most < CELLS - first ? most : CELLS - first);
	/* Mostly in a row here as there, so that pieces meet and become one. */
	at = (uintptr_t)host(roll(m, 4) ? 0x10000 + first : 0x100000 + roll(m, 1000));
	tell(tlb, m->base + first, len, (void *)at, access);
	for (uint32_t i = 0; i < len; i++)
		m->cells[first + i] = (struct cell){ true, at + i, access };
	/* However full it was: what it is told it knows. */
	assert_at(tlb, m->base + first, len, access, (void *)at);
}

static void model_invalidate(struct model *m, struct virtq_iotlb *tlb)
{
	uint32_t first = roll(m, CELLS), most = roll(m, 8) ? 24 : CELLS;
	uint32_t len = 1 + roll(m, most < CELLS - first ? most : CELLS - first);

	if (!roll(m, 200)) {
		virtq_iotlb_invalidate(tlb, 0, roll(m, 2) ? 0 : UINT64_MAX);
		memset(m->cells, 0, sizeof(m->cells));
		m->exact = true;
		return;
	}
	virtq_iotlb_invalidate(tlb, m->base + first, len);
	for (uint32_t i = 0; i < len; i++)
		m->cells[first + i].known = false;
}

static void test_model(void **state)
{
	struct model *m = *state;
	struct virtq_iotlb *tlb = table(m->capacity);

	m->exact = true;
	m->random = m->capacity + m->base;
	for (uint32_t n = 0; n < OPERATIONS; n++) {
		/* What is told into the middle of an entry takes two more: it may have to forget. */
		if (tlb->count + 2 > m->capacity)
			m->exact = false;
		m->full += tlb->count == m->capacity;
		if (roll(m, 5) < 3)
			model_update(m, tlb);
		else
			model_invalidate(m, tlb);
		check_shape(m, tlb);
		check_answers(m, tlb);
		check_range(m, tlb);
	}
	/* Each kind of thing that this is about has happened. */
	assert_true(m->known > OPERATIONS / 2);
	if (m->capacity < CELLS)
		assert_true(m->full > OPERATIONS / 20 && m->forgotten > OPERATIONS / 20);
	else
		assert_true(!m->full && !m->forgotten);
	virtq_iotlb_destroy(tlb);
}

static struct model models[] = {
	{ "from 0, room for all", 0, CELLS },
	{ "up to the last address, room for all", LAST - CELLS + 1, CELLS },
	{ "from 0, 1 entry", 0, 1 },
	{ "from 2^32 - 100, 2 entries", ((uint64_t)1 << 32) - 100, 2 },
	{ "up to the last address, 3 entries", LAST - CELLS + 1, 3 },
	{ "from 0, 7 entries", 0, 7 },
	{ "from 2^63 - 1, 12 entries", ((uint64_t)1 << 63) - 1, 12 },
};
#define MODELS (sizeof(models) / sizeof(models[0]))

int main(void)
{
	struct CMUnitTest tests[32] = {
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
	static char names[MODELS][64];
	size_t count = 15;

	for (size_t i = 0; i < MODELS; i++) {
		snprintf(names[i], sizeof(names[i]), "as the model: %s", models[i].name);
		tests[count++] = (struct CMUnitTest){ names[i], test_model, NULL, NULL,
						      &models[i] };
	}
	return _cmocka_run_group_tests("iotlb", tests, count, NULL, NULL) ? 1 : 0;
}
