/* SPDX-License-Identifier: MIT */
/*
 * Random steps of a pool and its device against a plain model: who has which
 * chain, every byte of it, what is free, and what each call returns, the wrong
 * ones too. S-DRV, P-DRV: whatever goes through here was added, published and
 * taken back by the rules, or the device end would have refused it.
 *
 *	model_pool [--steps N] [--seed N] [--only CONFIGURATION]
 *
 * What the model does not know exactly is between two bounds: whether ring entries
 * are kept for a chain that came back, and when the pool looks into the ring.
 */
#include "far_end.h"

#include <virtq/pool.h>

#define STEPS 2500u
#define BATCH 4u
#define OLD 16u
#define RESERVED 1024u

/* ---- Configurations ------------------------------------------------------- */

struct config {
	char name[120];
	struct layout layout;
	uint32_t size, item_bytes, items, segs_max, indirect_entries;
	uint64_t gpa;
	bool threads, guard;
	const struct run *run;
};

static const struct config shapes[] = {
	{ .size = 1, .item_bytes = 64, .items = 3 },
	{ .size = 2, .item_bytes = 256, .gpa = 0x100000 },
	{ .size = 8, .item_bytes = 64, .items = 24, .threads = true },
	{ .size = 16, .item_bytes = 4096, .items = 12, .gpa = 0x7fff0000 },
	{ .size = 64, .item_bytes = 1536, .items = 40 },
	{ .size = 32, .item_bytes = 64, .items = 100, .segs_max = 5 },
	{ .size = 4, .item_bytes = 12288, .items = 7, .guard = true },
	{ .size = 8, .item_bytes = 8192, .items = 6, .guard = true, .threads = true },
};

/* ---- The model ------------------------------------------------------------- */

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

/* Numbers of twins. */
struct list {
	uint32_t *of, count;
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
	bool kick_due, kick_off;	/* the device is armed; has asked not to be kicked */
	uint64_t offered, taken, recycled, resets, full;
};

#define WRONG(m, ...) do { \
	print_error("%s: --seed %llu --only '%s' --steps %llu: in step %llu:\n", __FILE__, \
		    (unsigned long long)(m)->c->run->seed, (m)->c->name, \
		    (unsigned long long)(m)->c->run->steps, (unsigned long long)(m)->step); \
	fail_msg(__VA_ARGS__); \
} while (0)

#define SAME(m, got, want) do { \
	long long got_ = (long long)(got), want_ = (long long)(want); \
	if (got_ != want_) \
		WRONG(m, "%d: %s is %lld, not %lld", __LINE__, #got, got_, want_); \
} while (0)

#define WITHIN(m, got, low, high) do { \
	long long got_ = (long long)(got), low_ = (long long)(low), high_ = (long long)(high); \
	if (got_ < low_ || got_ > high_) \
		WRONG(m, "%d: %s is %lld, not in %lld..%lld", __LINE__, #got, got_, low_, high_); \
} while (0)

static uint32_t rnd(struct model *m, uint32_t below)
{
	return chance(&m->seed, below);
}

static void append(struct list *l, uint32_t number)
{
	l->of[l->count++] = number;
}

static uint32_t pick(struct list *l, uint32_t i)
{
	uint32_t number = l->of[i];

	l->count--;
	memmove(l->of + i, l->of + i + 1, (l->count - i) * sizeof(l->of[0]));
	return number;
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

/* ---- What was published ----------------------------------------------------- */

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

/* ---- Offers ----------------------------------------------------------------- */

struct draft {
	struct virtq_offer offer;
	struct virtq_span parts[3];
	uint8_t *bytes;		/* header and parts, one behind the other */
	uint32_t number;
};

/* @readable and @writable bytes, as some parts and a header of some kind. */
static void draft_make(struct model *m, struct draft *d, uint32_t readable, uint32_t writable,
		       bool forget)
{
	struct twin *t = twin_new(m, &d->number);
	uint32_t at = 0, header = 0;

	t->where = QUEUED;	/* so that the next is another one */
	d->bytes = malloc(readable + 1);
	assert_non_null(d->bytes);
	fill(m, d->bytes, readable);
	memset(&d->offer, 0, sizeof(d->offer));
	if (readable && rnd(m, 3) == 0)
		header = 1 + rnd(m, readable < 64 ? readable : 64);
	d->offer.header = d->bytes;
	d->offer.header_bytes = at = header;
	/* Instead of one that is copied; the whole of the readable part, sometimes. */
	if (!header && rnd(m, 4) == 0) {
		t->referenced = 1 + rnd(m, 64);
		t->reference = (uint8_t *)virtq_pool_reserved(m->pool) +
			       rnd(m, RESERVED - t->referenced);
		d->offer.header = t->reference;
		d->offer.header_bytes = t->referenced;
		d->offer.flags |= VIRTQ_OFFER_REFERENCE;
	} else if (!header) {
		d->offer.header = NULL;
	}
	for (uint32_t left = 1 + rnd(m, 3); left && at < readable; left--) {
		uint32_t bytes = left == 1 ? readable - at : rnd(m, readable - at + 1);

		d->parts[d->offer.part_count++] = (struct virtq_span){ d->bytes + at, bytes };
		at += bytes;
	}
	d->offer.parts = d->parts;
	d->offer.writable_bytes = writable;
	if (forget)
		d->offer.flags |= VIRTQ_OFFER_FORGET;
	t->forget = forget;
	t->readable = readable;
	t->writable = writable;
	t->readable_items = items_for(m, readable);
	t->items = t->readable_items + items_for(m, writable);
}

static void draft_drop(struct model *m, struct draft *d)
{
	free(d->bytes);
	m->twins[d->number].where = GONE;
}

static void draft_taken(struct model *m, struct draft *d, const struct virtq_chain *chain)
{
	struct twin *t = &m->twins[d->number];

	t->chain = *chain;
	t->bytes = d->bytes;
	t->wrote = malloc(t->writable + 1);
	assert_non_null(t->wrote);
	queue(m, d->number);
	m->offered++;
}

static void offer_some(struct model *m, unsigned int count, const struct virtq_wait *wait,
		       unsigned int flags, bool writable_only)
{
	static const struct virtq_wait ever = { -1, NULL };
	struct draft drafts[BATCH];
	struct virtq_offer offers[BATCH];
	struct virtq_chain chains[BATCH] = { { 0 } };
	uint32_t common = length(m), items, finally, certain_entries, possible_entries;
	unsigned int low = 0, high = 0, n;
	bool never[BATCH], stuck;
	struct room r;
	int rc;

	memset(drafts, 0, sizeof(drafts));
	r = room_now(m);
	items = r.items_max;
	finally = items_after_all(m);
	certain_entries = entries_to_have(m, true);
	possible_entries = r.entries_max;
	for (n = 0; n < count; n++) {
		uint32_t kind = rnd(m, 3);

		if (writable_only) {
			uint32_t number;
			struct twin *t = twin_new(m, &number);

			t->where = QUEUED;
			t->writable = common;
			t->items = items_for(m, common);
			drafts[n].number = number;
		} else {
			draft_make(m, &drafts[n], kind ? length(m) : 0, kind != 1 ? length(m) : 0,
				   rnd(m, 6) == 0);
		}
		offers[n] = drafts[n].offer;
		never[n] = never_fits(m, &m->twins[drafts[n].number]);
	}
	/* How many must be taken, and how many may be. */
	for (n = 0; n < count && !never[n]; n++) {
		const struct twin *t = &m->twins[drafts[n].number];
		uint32_t el = elements(m, t), least = goes_indirect(m, el) ? 1 : el;
		bool loose = !t->items;	/* header by reference only: handles may be out */

		if (t->items > items || least > possible_entries)
			break;
		if (low == n && !loose && least <= certain_entries) {
			low++;
			certain_entries -= entries_at_most(m, el) < certain_entries ?
					   entries_at_most(m, el) : certain_entries;
		}
		high++;
		items -= t->items;
		possible_entries -= least;
	}
	stuck = wait && !m->c->threads && !never[0] && m->twins[drafts[0].number].items > finally;
	/* Nobody could end it, so it must not begin. */
	if (stuck && count == 1 && !m->broken && !with_device(m))
		wait = &ever;
	if (writable_only)
		rc = virtq_pool_offer_writable(m->pool, count, common, chains, flags, wait);
	else
		rc = virtq_pool_offer(m->pool, offers, count, chains, flags, wait);
	if (m->broken && rc < 0) {
		if (rc != -EBADMSG && rc != -ENOSPC && !(never[0] && rc == -EMSGSIZE) &&
		    !(stuck && rc == -EDEADLK))
			WRONG(m, "%d on a broken ring", rc);
		low = high = 0;
	} else if (rc < 0) {
		SAME(m, low, 0);
		if (never[0])
			SAME(m, rc, -EMSGSIZE);
		else if (!stuck || rc != -EDEADLK || wait == &ever)
			SAME(m, rc, wait == &ever ? -EDEADLK : -ENOSPC);
		m->full += rc == -ENOSPC;
		rc = 0;
	} else {
		WITHIN(m, rc, m->broken ? 0 : low, high);
	}
	if (rc < 0)
		rc = 0;
	for (n = 0; n < (unsigned int)rc; n++) {
		if (writable_only) {
			struct twin *t = &m->twins[drafts[n].number];

			t->readable_items = 0;
			drafts[n].bytes = malloc(1);
		}
		draft_taken(m, &drafts[n], &chains[n]);
	}
	for (; n < count; n++)
		draft_drop(m, &drafts[n]);
	publish(m, rc && !(flags & VIRTQ_POOL_MORE));
	if (!rc && !wait && !m->broken && m->maybe > m->shown)
		m->maybe = m->queued.count;
}

static void op_offer(struct model *m)
{
	static const struct virtq_wait look = { 0, NULL }, soon = { 1, NULL };
	unsigned int count = 1 + rnd(m, BATCH), flags = rnd(m, 4) ? 0 : VIRTQ_POOL_MORE;
	uint32_t how = rnd(m, 200);
	const struct virtq_wait *wait = how == 0 ? &soon : how < 20 ? &look : NULL;

	if (wait && rnd(m, 2))
		count = 1;
	offer_some(m, count, wait, flags, false);
}

static void op_offer_writable(struct model *m)
{
	offer_some(m, 1 + rnd(m, BATCH), NULL, rnd(m, 4) ? 0 : VIRTQ_POOL_MORE, true);
}

static void op_publish(struct model *m)
{
	int rc = virtq_pool_publish(m->pool);

	if (!m->broken)
		SAME(m, rc, 0);
	publish(m, true);
}

/* ---- The caller's chains ------------------------------------------------------ */

/* Every byte of what the caller has, in place or copied, in pieces of any size. */
static void check_part(struct model *m, const struct twin *t, enum virtq_part part,
		       const uint8_t *want, uint32_t bytes)
{
	uint32_t max = items_for(m, bytes), at = 0;
	struct virtq_span *spans = calloc(max + 1, sizeof(*spans));
	uint8_t *copy = malloc(bytes + 1);
	uint32_t offset = rnd(m, bytes + 1), limit = rnd(m, bytes + 2);
	uint32_t expected = limit < bytes - offset ? limit : bytes - offset;

	assert_non_null(spans);
	assert_non_null(copy);
	if (max)
		SAME(m, virtq_pool_spans(m->pool, &t->chain, part, spans, max - 1), -ENOSPC);
	SAME(m, virtq_pool_spans(m->pool, &t->chain, part, spans, max), max);
	for (uint32_t i = 0; i < max; i++) {
		uint32_t len = bytes - at < m->c->item_bytes ? bytes - at : m->c->item_bytes;

		SAME(m, spans[i].len, len);
		SAME(m, (uintptr_t)spans[i].base % 64, 0);
		if (want && memcmp(spans[i].base, want + at, len))
			WRONG(m, "other bytes in place, in part %d", (int)part);
		/* The caller's: it may do with it what it likes. */
		if (!want)
			memset(spans[i].base, 0x5a, len);
		at += len;
	}
	if (want) {
		copy[expected] = 0x77;
		SAME(m, virtq_pool_copy_out(m->pool, &t->chain, part, offset, copy, limit),
		     expected);
		if (memcmp(copy, want + offset, expected))
			WRONG(m, "other bytes copied, of part %d", (int)part);
		SAME(m, copy[expected], 0x77);
		SAME(m, virtq_pool_copy_out(m->pool, &t->chain, part, bytes, copy, 1), 0);
	}
	free(copy);
	free(spans);
}

static void op_look(struct model *m)
{
	const struct twin *t;

	if (!m->held.count)
		return;
	t = &m->twins[m->held.of[rnd(m, m->held.count)]];
	check_part(m, t, VIRTQ_PART_READABLE, t->bytes, t->readable);
	check_part(m, t, VIRTQ_PART_WRITTEN, t->wrote, t->written);
	if (rnd(m, 2) && !t->written)
		check_part(m, t, VIRTQ_PART_WRITABLE, NULL, t->writable);
}

static void op_alloc(struct model *m)
{
	struct virtq_chain chain;
	struct room r = room_now(m);
	uint32_t number, kind = rnd(m, 3);
	struct twin *t = twin_new(m, &number);
	int rc;

	t->readable = kind ? length(m) : 0;
	t->writable = kind != 1 ? length(m) : 0;
	t->readable_items = items_for(m, t->readable);
	t->items = t->readable_items + items_for(m, t->writable);
	rc = virtq_pool_alloc(m->pool, t->readable, t->writable, &chain);
	if (never_fits(m, t)) {
		SAME(m, rc, -EMSGSIZE);
	} else if (t->items > r.items_max) {
		SAME(m, rc, -ENOSPC);
	} else {
		/* What it needs may not be counted free before the pool looks into the ring. */
		if (rc && (t->items <= r.items_min || rc != -ENOSPC))
			WRONG(m, "alloc: %d", rc);
		if (rc)
			return;
		t->chain = chain;
		t->where = HELD;
		t->bytes = malloc(t->readable + 1);
		t->wrote = malloc(t->writable + 1);
		assert_true(t->bytes && t->wrote);
		fill(m, t->bytes, t->readable);
		SAME(m, virtq_pool_copy_in(m->pool, &t->chain, 0, t->bytes, t->readable),
		     t->readable);
		append(&m->held, number);
	}
}

static void op_copy_in(struct model *m)
{
	struct twin *t;
	uint32_t offset, bytes, fit;
	uint8_t *src;

	if (!m->held.count)
		return;
	t = &m->twins[m->held.of[rnd(m, m->held.count)]];
	offset = rnd(m, t->readable + 1);
	bytes = rnd(m, t->readable - offset + 20);
	fit = bytes < t->readable - offset ? bytes : t->readable - offset;
	src = malloc(bytes + 1);
	assert_non_null(src);
	fill(m, src, bytes);
	SAME(m, virtq_pool_copy_in(m->pool, &t->chain, offset, src, bytes), fit);
	memcpy(t->bytes + offset, src, fit);
	free(src);
}

static void op_resize(struct model *m)
{
	struct twin *t;
	uint32_t capacity, bytes;
	uint8_t *grown;
	int rc;

	if (!m->held.count)
		return;
	t = &m->twins[m->held.of[rnd(m, m->held.count)]];
	capacity = t->readable_items * m->c->item_bytes;
	bytes = rnd(m, 10) ? rnd(m, capacity + 1) : capacity + rnd(m, 3);
	rc = virtq_pool_resize(m->pool, &t->chain, bytes);
	if (bytes > capacity) {
		SAME(m, rc, -EMSGSIZE);
		return;
	}
	if (!bytes && t->readable) {
		SAME(m, rc, -EINVAL);
		return;
	}
	SAME(m, rc, 0);
	grown = realloc(t->bytes, bytes + 1);
	assert_non_null(grown);
	t->bytes = grown;
	if (bytes > t->readable) {
		fill(m, t->bytes + t->readable, bytes - t->readable);
		SAME(m, virtq_pool_copy_in(m->pool, &t->chain, t->readable,
					   t->bytes + t->readable, bytes - t->readable),
		     bytes - t->readable);
	}
	t->readable = bytes;
}

static void op_free(struct model *m)
{
	struct virtq_chain chains[BATCH + 1];
	uint32_t count = 1 + rnd(m, BATCH);

	if (m->held.count < count)
		return;
	for (uint32_t i = 0; i < count; i++) {
		struct twin *t = &m->twins[pick(&m->held, rnd(m, m->held.count))];

		chains[i] = t->chain;
		twin_gone(m, t);
	}
	/* A double free in the same call, at the end. */
	chains[count] = chains[rnd(m, count)];
	SAME(m, virtq_pool_free(m->pool, chains, count + rnd(m, 2)), count);
	SAME(m, virtq_pool_free(m->pool, chains, 1), -ESTALE);
}

static void op_recycle(struct model *m)
{
	struct virtq_chain chains[BATCH + 1], before[BATCH];
	uint32_t count = 1 + rnd(m, BATCH), numbers[BATCH], certain, possible;
	unsigned int low = 0, high = 0, flags = rnd(m, 4) ? 0 : VIRTQ_POOL_MORE;
	int rc, repeat = (int)rnd(m, 2);

	if (m->held.count < count)
		return;
	certain = entries_to_have(m, false);
	possible = room_now(m).entries_max;
	for (uint32_t i = 0; i < count; i++) {
		numbers[i] = pick(&m->held, rnd(m, m->held.count));
		before[i] = chains[i] = m->twins[numbers[i]].chain;
	}
	chains[count] = chains[0];
	for (uint32_t i = 0; i < count; i++) {
		const struct twin *t = &m->twins[numbers[i]];
		uint32_t n = elements(m, t), least = goes_indirect(m, n) ? 1 : n;

		if (least > possible)
			break;
		if (low == i && least <= certain) {
			low++;
			certain -= entries_at_most(m, n) < certain ? entries_at_most(m, n) : certain;
		}
		high++;
		possible -= least;
	}
	rc = virtq_pool_recycle(m->pool, chains, count + (unsigned int)repeat, flags);
	if (m->broken) {
		if (rc < 0 && rc != -EBADMSG && rc != -ENOSPC)
			WRONG(m, "recycle on a broken ring: %d", rc);
		low = 0;
	} else if (rc < 0) {
		SAME(m, rc, -ENOSPC);
	}
	if (rc < 0)
		rc = 0;
	WITHIN(m, rc, low, high);
	for (uint32_t i = 0; i < count; i++) {
		struct twin *t = &m->twins[numbers[i]];

		if (i >= (unsigned int)rc) {
			append(&m->held, numbers[i]);
			SAME(m, chains[i].id, t->chain.id);
			continue;
		}
		if (chains[i].id == before[i].id)
			WRONG(m, "a recycled chain has its old id");
		forget_old(m, before[i]);
		t->chain = chains[i];
		t->written = 0;
		queue(m, numbers[i]);
	}
	m->recycled += (unsigned int)rc;
	publish(m, rc && !(flags & VIRTQ_POOL_MORE));
}

static void op_abandon(struct model *m)
{
	struct list *const lists[] = { &m->held, &m->queued, &m->loans, &m->returned };
	struct list *l = lists[rnd(m, 4)];
	uint32_t i, number;
	struct twin *t;

	if (!l->count)
		return;
	i = rnd(m, l->count);
	number = l->of[i];
	t = &m->twins[number];
	if (t->forget)
		return;
	SAME(m, virtq_pool_abandon(m->pool, &t->chain, 1), 1);
	SAME(m, virtq_pool_abandon(m->pool, &t->chain, 1), -ESTALE);
	SAME(m, virtq_pool_copy_out(m->pool, &t->chain, VIRTQ_PART_WRITTEN, 0, t->wrote, 0),
	     -ESTALE);
	if (l == &m->held) {
		pick(l, i);
		twin_gone(m, t);
	} else {
		t->forget = true;
		forget_old(m, t->chain);
	}
}

/* ---- Taking ------------------------------------------------------------------- */

/* Those that nobody waits for are freed as the pool finds them. */
static void drop_forgotten(struct model *m)
{
	for (uint32_t i = 0; i < m->returned.count;) {
		struct twin *t = &m->twins[m->returned.of[i]];

		if (!t->forget) {
			i++;
			continue;
		}
		pick(&m->returned, i);
		twin_gone(m, t);
	}
}

static uint32_t waiting(const struct model *m)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->returned.count; i++)
		count += !m->twins[m->returned.of[i]].forget;
	return count;
}

static void take_some(struct model *m, uint32_t max, const struct virtq_wait *wait)
{
	struct virtq_chain chains[8] = { { 0 } };
	uint32_t expected = waiting(m), at = 0;
	int rc;

	if (expected > max)
		expected = max;
	rc = virtq_pool_take(m->pool, chains, max, wait);
	if (m->broken && !expected)
		SAME(m, rc, -EBADMSG);
	else
		SAME(m, rc, expected);
	publish(m, false);
	for (uint32_t i = 0; i < expected; i++) {
		struct twin *t;

		while (m->twins[m->returned.of[at]].forget)
			at++;
		t = &m->twins[m->returned.of[at]];
		SAME(m, chains[i].id, t->chain.id);
		SAME(m, chains[i].written, t->written);
		t->chain = chains[i];
		t->where = HELD;
		append(&m->held, pick(&m->returned, at));
	}
	m->taken += expected;
	/* Fewer than there was room for: it has seen all. */
	if (expected < max)
		drop_forgotten(m);
}

static void op_take(struct model *m)
{
	static const struct virtq_wait look = { 0, NULL }, soon = { 1, NULL };
	uint32_t how = rnd(m, 300);

	take_some(m, 1 + rnd(m, 8), how == 0 ? &soon : how < 60 ? &look : NULL);
}

/* ---- The device ----------------------------------------------------------------- */

static void compare(struct model *m, const struct twin *t, struct virtq_req *req)
{
	uint32_t bytes = t->referenced + t->readable;
	uint8_t *got;

	SAME(m, req->rd.bytes, bytes);
	SAME(m, req->wr.bytes, t->writable);
	/* One element for each item, and for a header by reference; none of them empty. */
	SAME(m, req->rd.count, (t->referenced != 0) + items_for(m, t->readable));
	SAME(m, req->wr.count, items_for(m, t->writable));
	got = malloc(bytes + 1);
	assert_non_null(got);
	SAME(m, virtq_req_read(req, got, bytes), bytes);
	if (t->referenced && memcmp(got, t->reference, t->referenced))
		WRONG(m, "the device read another header");
	if (memcmp(got + t->referenced, t->bytes, t->readable))
		WRONG(m, "the device read other bytes");
	free(got);
}

static void op_pop(struct model *m)
{
	struct virtq_req *reqs[8];
	uint32_t max = 1 + rnd(m, 8), low, high;
	int rc;

	if (m->broken)
		return;
	low = m->shown < max ? m->shown : max;
	high = m->maybe < max ? m->maybe : max;
	rc = virtq_device_pop(m->far.device, reqs, max);
	WITHIN(m, rc, low, high);
	for (int i = 0; i < rc; i++) {
		uint32_t number = pick(&m->queued, 0);
		struct twin *t = &m->twins[number];

		compare(m, t, reqs[i]);
		t->req = reqs[i];
		t->where = LOANED;
		append(&m->loans, number);
	}
	m->maybe -= (uint32_t)rc;
	m->shown = (uint32_t)rc > m->shown ? 0 : m->shown - (uint32_t)rc;
	if ((uint32_t)rc < max)
		m->maybe = m->shown;
}

/* Write some of it, and give it back; 1 if the caller has to be told. */
static int push_some(struct model *m, uint32_t count)
{
	while (count-- && m->loans.count) {
		uint32_t i = rnd(m, m->loans.count), number = m->loans.of[i];
		struct twin *t = &m->twins[number];

		if (t->where == PUSHED)
			continue;
		t->written = rnd(m, 3) ? t->writable : rnd(m, t->writable + 1);
		fill(m, t->wrote, t->written);
		SAME(m, virtq_req_write(t->req, t->wrote, t->written), t->written);
		virtq_device_push(m->far.device, &t->req, 1);
		t->where = PUSHED;
		if (!m->c->layout.in_order) {
			t->where = RETURNED;
			append(&m->returned, pick(&m->loans, i));
		}
	}
	while (m->loans.count && m->twins[m->loans.of[0]].where == PUSHED) {
		m->twins[m->loans.of[0]].where = RETURNED;
		append(&m->returned, pick(&m->loans, 0));
	}
	return virtq_device_publish(m->far.device);
}

static void op_push(struct model *m)
{
	if (!m->broken && push_some(m, 1 + rnd(m, 6)))
		virtq_notify_send(virtq_port_call_fd(virtq_pool_port(m->pool)));
}

/* The device goes to sleep, or says that it polls. */
static void op_far_arm(struct model *m)
{
	int fd = virtq_port_kick_fd(virtq_pool_port(m->pool)), rc;

	if (m->broken)
		return;
	virtq_notify_clear(fd);
	m->kick_due = m->kick_off = false;
	if (rnd(m, 3) == 0) {
		virtq_device_disarm(m->far.device);
		m->kick_off = m->c->layout.packed || !m->c->layout.event_idx;
		return;
	}
	rc = virtq_device_arm(m->far.device);
	if (m->shown)
		SAME(m, rc, 1);
	if (!rc) {
		m->maybe = m->shown;
		m->kick_due = true;
	}
}

/* The caller is about to sleep: what is used after that brings a call. */
static void op_arm(struct model *m)
{
	uint32_t before = waiting(m), forgotten = m->returned.count - before;
	int rc = virtq_pool_arm(m->pool);

	if (m->broken) {
		if (before)
			SAME(m, rc, 1);
		else
			SAME(m, rc, -EBADMSG);
		return;
	}
	WITHIN(m, rc, before != 0, before != 0 || forgotten != 0);
	publish(m, rc == 0);
	if (rc)
		return;
	drop_forgotten(m);
	SAME(m, fd_readable(virtq_port_call_fd(virtq_pool_port(m->pool))), 0);
	if (rnd(m, 2) == 0) {
		uint32_t returned = m->returned.count;
		int call = push_some(m, 1 + rnd(m, 4));

		if (m->returned.count > returned)
			SAME(m, call, 1);
	}
}

/* ---- Resets --------------------------------------------------------------------- */

static void reset(struct model *m)
{
	uint32_t flight = with_device(m), queued = m->queued.count, waiting_before = waiting(m);

	/* Not while the device may be at it; unless it never was. */
	if (!m->broken && m->shown + m->loans.count)
		SAME(m, virtq_pool_reset(m->pool), -EBUSY);
	virtq_driver_stop(virtq_port_driver(virtq_pool_port(m->pool)));
	SAME(m, virtq_pool_reset(m->pool), flight);
	for (uint32_t i = 0; i < queued; i++)
		twin_gone(m, &m->twins[pick(&m->queued, 0)]);
	while (m->loans.count)
		twin_gone(m, &m->twins[pick(&m->loans, 0)]);
	m->shown = m->maybe = 0;
	for (uint32_t i = 0; i < m->twin_count; i++)
		m->twins[i].entries_min = m->twins[i].entries_max = m->twins[i].shape = 0;
	m->broken = m->kick_due = m->kick_off = false;
	drop_forgotten(m);
	SAME(m, waiting(m), waiting_before);
	virtq_notify_clear(virtq_port_kick_fd(virtq_pool_port(m->pool)));
	far_start(&m->far);
	m->resets++;
}

static void op_reset(struct model *m)
{
	if (rnd(m, 10) == 0)
		reset(m);
}

/* S-DRV: a device that names a buffer that it has not got is not believed. */
static void op_break(struct model *m)
{
	if (rnd(m, 10) || m->broken || !with_device(m) || !(m->shown + m->loans.count))
		return;
	far_break(&m->far);
	m->broken = true;
	/* What it used before can be taken first. */
	while (waiting(m))
		take_some(m, 1 + rnd(m, 8), NULL);
	take_some(m, 1, NULL);
	drop_forgotten(m);
	op_offer(m);
	op_recycle(m);
	op_look(m);
	op_arm(m);
	reset(m);
}

/* Let the device finish, take all, free all: then nothing may be missing. */
static void quiesce(struct model *m)
{
	struct virtq_pool_room room;

	if (m->broken)
		return;
	op_publish(m);
	while (with_device(m)) {
		op_pop(m);
		push_some(m, 8);
	}
	while (waiting(m))
		take_some(m, 8, NULL);
	take_some(m, 8, NULL);
	while (m->held.count) {
		struct twin *t = &m->twins[pick(&m->held, 0)];

		SAME(m, virtq_pool_free(m->pool, &t->chain, 1), 1);
		twin_gone(m, t);
	}
	room = virtq_pool_room(m->pool);
	SAME(m, room.items, m->items);
	SAME(m, room.entries, m->c->size);
	SAME(m, room.held, 0);
	SAME(m, room.in_flight, 0);
	SAME(m, virtq_driver_in_flight(virtq_port_driver(virtq_pool_port(m->pool))), 0);
}

static void op_quiesce(struct model *m)
{
	if (rnd(m, 10) == 0)
		quiesce(m);
}

/* ---- Wrong calls ------------------------------------------------------------------ */

/* Everything that a handle can be used for but abandon. */
static void refused(struct model *m, struct virtq_chain chain, int want)
{
	struct virtq_span span;
	uint8_t byte = 0;

	SAME(m, virtq_pool_spans(m->pool, &chain, VIRTQ_PART_READABLE, &span, 1), want);
	SAME(m, virtq_pool_copy_out(m->pool, &chain, VIRTQ_PART_WRITTEN, 0, &byte, 1), want);
	SAME(m, virtq_pool_copy_in(m->pool, &chain, 0, &byte, 1), want);
	SAME(m, virtq_pool_resize(m->pool, &chain, 1), want);
	SAME(m, virtq_pool_free(m->pool, &chain, 1), want);
	if (!m->broken)
		SAME(m, virtq_pool_recycle(m->pool, &chain, 1, 0), want);
}

static void op_refused(struct model *m)
{
	struct list *const lists[] = { &m->queued, &m->loans, &m->returned };
	struct list *l = lists[rnd(m, 3)];
	struct virtq_chain chain = m->old[rnd(m, OLD)];

	/* Freed, recycled or abandoned. */
	refused(m, chain, -ESTALE);
	SAME(m, virtq_pool_abandon(m->pool, &chain, 1), -ESTALE);
	/* Another pool's, made in the same way. */
	refused(m, m->foreign, -ESTALE);
	SAME(m, virtq_pool_abandon(m->pool, &m->foreign, 1), -ESTALE);
	/* Nobody's. */
	chain = (struct virtq_chain){ .id = m->foreign.id ^ (uint64_t)rnd(m, 64) << 40,
				      .slot = rnd(m, 2) ? UINT32_MAX : m->twin_count + rnd(m, 9) };
	refused(m, chain, -ESTALE);
	/* The right id in a wrong place, the right place with a wrong id. */
	if (m->held.count) {
		chain = m->twins[m->held.of[rnd(m, m->held.count)]].chain;
		chain.slot = rnd(m, 2) ? UINT32_MAX : chain.slot + 1;
		refused(m, chain, -ESTALE);
		chain = m->twins[m->held.of[rnd(m, m->held.count)]].chain;
		chain.id += (uint64_t)1 << 50;
		refused(m, chain, -ESTALE);
	}
	/* Use after offer. */
	if (l->count) {
		const struct twin *t = &m->twins[l->of[rnd(m, l->count)]];

		if (!t->forget)
			refused(m, t->chain, -EBUSY);
	}
}

static void op_wrong(struct model *m)
{
	uint8_t byte = 7, *reserved = virtq_pool_reserved(m->pool);
	struct virtq_span part = { &byte, 1 };
	const struct virtq_offer wrong[] = {
		{ .header = &byte },
		{ .part_count = 0, .flags = VIRTQ_OFFER_FORGET },
		{ .parts = &part, .part_count = 1, .flags = 4 },
		{ .parts = &part, .part_count = 1, .flags = 1u << 31 },
		{ .header = &byte, .header_bytes = 1, .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved + RESERVED - 1, .header_bytes = 2,
		  .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved - 1, .header_bytes = 1, .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved + 8, .header_bytes = UINT32_MAX,
		  .flags = VIRTQ_OFFER_REFERENCE },
	};
	uint32_t which = rnd(m, sizeof(wrong) / sizeof(wrong[0]));
	struct virtq_chain chain;
	struct room r = room_now(m);

	if (m->broken)
		return;
	SAME(m, virtq_pool_offer(m->pool, &wrong[which], 1, &chain, 0, NULL),
	     which < 4 ? -EINVAL : -EFAULT);
	SAME(m, virtq_pool_alloc(m->pool, 0, 0, &chain), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, 0, &chain, 0, NULL), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, 1, &chain, 6, NULL), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, UINT32_MAX, &chain, 0, NULL), -EMSGSIZE);
	/* It costs nothing. */
	WITHIN(m, virtq_pool_room(m->pool).items, r.items_min, r.items_max);
	publish(m, false);
}

/* ---- Runs --------------------------------------------------------------------------- */

static void check_room(struct model *m)
{
	struct virtq_pool_room got = virtq_pool_room(m->pool);
	struct room r = room_now(m);

	WITHIN(m, got.items, r.items_min, r.items_max);
	WITHIN(m, got.entries, r.entries_min, r.entries_max);
	SAME(m, got.held, r.held);
	WITHIN(m, got.in_flight, r.flight_min, r.flight_max);
}

static void list_open(struct model *m, struct list *l)
{
	l->of = calloc(m->twin_count, sizeof(*l->of));
	assert_non_null(l->of);
}

static void model_open(struct model *m, const struct config *c)
{
	struct virtq_pool_config config = {
		.features = layout_features(c->layout),
		.size = c->size,
		.indirect_entries = c->indirect_entries,
		.segs_max = c->segs_max,
		.gpa = c->gpa,
		.item_bytes = c->item_bytes,
		.items = c->items,
		.reserve_bytes = RESERVED,
		.threads = c->threads,
		.guard = c->guard,
	};
	struct virtq_error err;
	uint32_t reused;

	m->c = c;
	m->seed = c->run->seed * 1000003;
	for (const char *p = c->name; *p; p++)
		m->seed = m->seed * 31 + (uint8_t)*p;
	m->items = c->items ? c->items : c->size;
	m->twin_count = m->items + 2 * c->size + 8;
	m->twins = calloc(m->twin_count, sizeof(*m->twins));
	assert_non_null(m->twins);
	list_open(m, &m->held);
	list_open(m, &m->queued);
	list_open(m, &m->loans);
	list_open(m, &m->returned);
	if (virtq_pool_create(&m->pool, &config, &err) ||
	    virtq_pool_create(&m->other, &config, &err))
		fail_msg("%s", err.text);
	far_open(&m->far, virtq_pool_port(m->pool), NULL, 0, true);
	for (uint32_t i = 0; i < RESERVED; i++)
		((uint8_t *)virtq_pool_reserved(m->pool))[i] = (uint8_t)(i * 11);
	/* The first handle of each, so that they look alike while both are good. */
	assert_int_equal(virtq_pool_alloc(m->other, 1, 0, &m->foreign), 0);
	assert_int_equal(virtq_pool_alloc(m->pool, 1, 0, &m->old[0]), 0);
	refused(m, m->foreign, -ESTALE);
	assert_int_equal(virtq_pool_free(m->pool, &m->old[0], 1), 1);
	for (uint32_t i = 0; i < OLD; i++) {
		assert_int_equal(virtq_pool_alloc(m->pool, 1, 0, &m->old[i]), 0);
		assert_int_equal(virtq_pool_free(m->pool, &m->old[i], 1), 1);
		for (reused = 0; reused < i; reused++)
			assert_int_not_equal(m->old[i].id, m->old[reused].id);
	}
}

static void model_close(struct model *m)
{
	/* With whatever is in flight, held and waiting. */
	virtq_pool_destroy(m->pool);
	virtq_pool_destroy(m->other);
	far_close(&m->far);
	for (uint32_t i = 0; i < m->twin_count; i++) {
		free(m->twins[i].bytes);
		free(m->twins[i].wrote);
	}
	free(m->twins);
	free(m->held.of);
	free(m->queued.of);
	free(m->loans.of);
	free(m->returned.of);
}

static struct { uint64_t offered, taken, recycled, full, resets; } total;

static void test_random(void **state)
{
	static void (*const ops[])(struct model *m) = {
		op_offer, op_offer, op_offer, op_offer_writable, op_publish, op_look, op_look,
		op_alloc, op_copy_in, op_resize, op_free, op_recycle, op_recycle, op_recycle,
		op_abandon, op_take, op_take, op_take, op_pop, op_pop, op_pop, op_push, op_push,
		op_push, op_far_arm, op_arm, op_reset, op_break, op_quiesce, op_refused, op_wrong,
	};
	struct model *m = calloc(1, sizeof(*m));
	const struct config *c = *state;

	assert_non_null(m);
	model_open(m, c);
	for (m->step = 1; m->step <= c->run->steps; m->step++) {
		ops[rnd(m, sizeof(ops) / sizeof(ops[0]))](m);
		check_room(m);
	}
	total.offered += m->offered;
	total.taken += m->taken;
	total.recycled += m->recycled;
	total.full += m->full;
	total.resets += m->resets;
	quiesce(m);
	op_offer(m);
	model_close(m);
	free(m);
}

/* Over all configurations, some of which are too small for much to happen in a few steps. */
static void test_it_was_a_test(void **state)
{
	const struct run *run = *state;

	if (run->only || run->steps < STEPS)
		return;
	assert_true(total.offered > 1000 && total.taken > 1000 && total.recycled > 1000);
	assert_true(total.full > 100 && total.resets > 100);
}

int main(int argc, char **argv)
{
	enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
	static struct config configs[LAYOUTS * SHAPES];
	static struct CMUnitTest tests[LAYOUTS * SHAPES + 1];
	struct run run = run_parse(argc, argv, STEPS);
	size_t count = 0;

	for (unsigned int i = 0; i < LAYOUTS * SHAPES; i++) {
		struct config *c = &configs[i];

		*c = shapes[i / LAYOUTS];
		c->layout = layout_at(i % LAYOUTS);
		/* Packed rings have any size. */
		if (c->layout.packed && c->size > 2)
			c->size--;
		c->indirect_entries = c->size < 8 ? c->size : 8;
		c->run = &run;
		snprintf(c->name, sizeof(c->name), "%s %u, %u of %u bytes%s%s",
			 layout_name(c->layout), c->size, c->items, c->item_bytes,
			 c->threads ? " threads" : "", c->guard ? " guard" : "");
		if (run.only && !strstr(c->name, run.only))
			continue;
		tests[count++] = (struct CMUnitTest){ .name = c->name, .test_func = test_random,
						      .initial_state = c };
	}
	if (!count) {
		fprintf(stderr, "no configuration has '%s' in its name\n", run.only);
		return 2;
	}
	tests[count++] = (struct CMUnitTest){ .name = "it was a test",
					      .test_func = test_it_was_a_test,
					      .initial_state = &run };
	return _cmocka_run_group_tests("a pool against its model", tests, count, NULL, NULL);
}
