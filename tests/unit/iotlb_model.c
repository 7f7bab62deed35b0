/* SPDX-License-Identifier: MIT */
/*
 * The table of translations against an array with one cell for each address: at random,
 * with room for all and with too little of it.
 */
#include "iotlb_rig.h"

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
	static struct CMUnitTest tests[MODELS];
	static char names[MODELS][64];

	for (size_t i = 0; i < MODELS; i++) {
		snprintf(names[i], sizeof(names[i]), "as the model: %s", models[i].name);
		tests[i] = (struct CMUnitTest){ names[i], test_model, NULL, NULL, &models[i] };
	}
	return _cmocka_run_group_tests("iotlb model", tests, MODELS, NULL, NULL) ? 1 : 0;
}
