/* SPDX-License-Identifier: MIT */
/*
 * The model of a pool that model_pool.c compares one with: who has which chain, every byte
 * of it, and what is free. What it does not know exactly is between two bounds: whether
 * ring entries are kept for a chain that came back, and when the pool looks into the ring.
 */
#ifndef TESTS_TRANSFER_MODEL_POOL_H
#define TESTS_TRANSFER_MODEL_POOL_H

#include <virtq/pool.h>

#define MODEL "model_pool"
#include "model.h"

#define OLD 16u

/* ---- Configurations ----------------------------------------------------- */

struct config {
	char name[120];
	struct layout layout;
	uint32_t size, item_bytes, items, segs_max, indirect_entries;
	uint64_t gpa;
	bool threads, guard;
	const struct run *run;
};

/* ---- The model ---------------------------------------------------------- */

enum where {
	GONE,
	HELD,		/* the caller's */
	QUEUED,		/* offered; the device may or may not have been shown it */
	LOANED,		/* popped */
	PUSHED,		/* in order: pushed behind one that is not */
	RETURNED,	/* used, and not taken yet */
};

struct twin {
	struct virtq_chain chain;
	enum where where;
	bool forget;			/* it is freed when it is back */
	uint32_t items, readable_items;
	uint32_t readable, writable, written;
	uint32_t referenced;		/* bytes of a header by reference */
	const uint8_t *reference;
	uint32_t entries_min, entries_max;	/* of the ring, as it was offered last */
	uint32_t shape;				/* elements then; 0: never offered */
	uint8_t *bytes, *wrote;
	struct virtq_req *req;
};

struct model {
	const struct config *c;
	uint64_t seed, step;
	struct virtq_pool *pool, *other;
	struct virtq_chain foreign;
	struct far_end far;
	struct twin *twins;
	uint32_t twin_count, items;
	struct list held, queued, loans, returned;
	uint32_t shown, maybe;		/* of queued: shown for certain, and at most */
	struct virtq_chain old[OLD];	/* handles that are good for nothing any more */
	bool broken;			/* the device has lied */
	bool paused;			/* nothing is offered */
	bool kick_due, kick_off;	/* the device is armed; has asked not to be kicked */
	uint64_t offered, taken, recycled, resets, full, put_off, closes;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	return chance(&m->seed, below);
}

static void forget_old(struct model *m, struct virtq_chain chain)
{
	m->old[rnd(m, OLD)] = chain;
}

static uint32_t items_for(const struct model *m, uint32_t bytes)
{
	return bytes / m->c->item_bytes + (bytes % m->c->item_bytes != 0);
}

static uint32_t elements(const struct model *m, const struct twin *t)
{
	return (t->referenced != 0) + items_for(m, t->readable) + items_for(m, t->writable);
}

static uint32_t table_entries(const struct model *m)
{
	return m->c->layout.indirect ? m->c->indirect_entries : 0;
}

/* driver.h: chains of 2.. elements may go indirect, of 4.. always do. */
static bool goes_indirect(const struct model *m, uint32_t n)
{
	return n >= 2 && n <= table_entries(m);
}

static uint32_t entries_at_most(const struct model *m, uint32_t n)
{
	return goes_indirect(m, n) && n >= 4 ? 1 : n;
}

static bool never_fits(const struct model *m, const struct twin *t)
{
	uint32_t n = elements(m, t);

	return t->items > m->items || n > m->c->size || (m->c->segs_max && n > m->c->segs_max);
}

static bool keeps(const struct model *m)
{
	return virtq_driver_keeps(virtq_port_driver(virtq_pool_port(m->pool)));
}

struct room {
	uint32_t items_min, items_max, entries_min, entries_max, held, flight_min, flight_max;
};

/* What is free: at least, and when all that the device returned is counted. */
static struct room room_now(const struct model *m)
{
	struct room r = { m->items, m->items, m->c->size, m->c->size, 0, 0, 0 };
	int64_t entries_min = m->c->size, items_min = m->items;

	for (uint32_t i = 0; i < m->twin_count; i++) {
		const struct twin *t = &m->twins[i];

		if (t->where == GONE)
			continue;
		items_min -= t->items;
		entries_min -= t->where == HELD && !keeps(m) ? 0 : t->entries_max;
		if (t->where == HELD)
			r.held++;
		else
			r.flight_max++;
		if (t->where != HELD && t->where != RETURNED)
			r.entries_max -= t->entries_min;
		if (t->where != RETURNED || !t->forget) {
			r.items_max -= t->items;
			r.flight_min += t->where != HELD;
		}
	}
	/* Below 0: what came back must have been seen. */
	r.items_min = items_min < 0 ? 0 : (uint32_t)items_min;
	r.entries_min = entries_min < 0 ? 0 : (uint32_t)entries_min;
	return r;
}

/*
 * What can be had, at least: what chains keep that are back is let go if others
 * want it, and those back are seen, if it @looks.
 */
static uint32_t entries_to_have(const struct model *m, bool looks)
{
	int64_t free = m->c->size;

	for (uint32_t i = 0; i < m->twin_count; i++) {
		const struct twin *t = &m->twins[i];

		if (t->where != GONE && t->where != HELD && !(t->where == RETURNED && looks))
			free -= t->entries_max;
	}
	return free < 0 ? 0 : (uint32_t)free;
}

/* Items when the device has returned all: what is taken only by hand is still not free. */
static uint32_t items_after_all(const struct model *m)
{
	uint32_t items = m->items;

	for (uint32_t i = 0; i < m->twin_count; i++) {
		if (m->twins[i].where != GONE && !m->twins[i].forget)
			items -= m->twins[i].items;
	}
	return items;
}

static uint32_t with_device(const struct model *m)
{
	return m->queued.count + m->loans.count;
}

static struct twin *twin_new(struct model *m, uint32_t *number)
{
	for (uint32_t i = 0; i < m->twin_count; i++) {
		if (m->twins[i].where == GONE) {
			memset(&m->twins[i], 0, sizeof(m->twins[i]));
			*number = i;
			return &m->twins[i];
		}
	}
	WRONG(m, "more chains than there can be");
	return NULL;
}

static void twin_gone(struct model *m, struct twin *t)
{
	forget_old(m, t->chain);
	free(t->bytes);
	free(t->wrote);
	t->bytes = t->wrote = NULL;
	t->where = GONE;
}

static void fill(struct model *m, uint8_t *bytes, uint32_t count)
{
	uint32_t key = rnd(m, UINT32_MAX);

	for (uint32_t i = 0; i < count; i++)
		bytes[i] = (uint8_t)(key + i * 7 + (i >> 8));
}

/* Bytes of a part: mostly few, often some items, now and then more than there can be. */
static uint32_t length(struct model *m)
{
	uint32_t item = m->c->item_bytes;

	switch (rnd(m, 40)) {
	case 0:
		return m->items * item + 1 + rnd(m, item);
	case 1:
		return item * (1 + rnd(m, m->items));
	case 2: case 3: case 4:
		return 1 + rnd(m, item * (m->items > 4 ? 4 : m->items));
	case 5: case 6: case 7: case 8:
		return item + 1 - rnd(m, 3);
	default:
		return 1 + rnd(m, item < 300 ? item : 300);
	}
}

/* ---- What was published ------------------------------------------------- */

/* Something was shown to the device, for certain or perhaps. */
static void publish(struct model *m, bool certain)
{
	int fd = virtq_port_kick_fd(virtq_pool_port(m->pool));
	bool new = m->queued.count > m->shown;

	if (m->kick_off)
		SAME(m, fd_readable(fd), 0);
	if (new && certain && m->kick_due && m->maybe == m->shown) {
		uint64_t kicks = 0;

		SAME(m, read(fd, &kicks, sizeof(kicks)), sizeof(kicks));
		SAME(m, kicks, 1);
	}
	if (new)
		m->kick_due = false;
	m->maybe = m->queued.count;
	if (certain)
		m->shown = m->queued.count;
}

static void queue(struct model *m, uint32_t number)
{
	struct twin *t = &m->twins[number];
	uint32_t n = elements(m, t);

	if (!keeps(m) || t->shape != n) {
		t->entries_min = goes_indirect(m, n) ? 1 : n;
		t->entries_max = entries_at_most(m, n);
		t->shape = n;
	}
	t->where = QUEUED;
	append(&m->queued, number);
}

#endif
