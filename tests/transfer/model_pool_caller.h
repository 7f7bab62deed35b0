/* SPDX-License-Identifier: MIT */
/* Steps of the caller of a pool, each with what the model says of it: included by model_pool.c. */
#ifndef TESTS_TRANSFER_MODEL_POOL_CALLER_H
#define TESTS_TRANSFER_MODEL_POOL_CALLER_H

#include "model_pool.h"

#define BATCH 4u
#define RESERVED 1024u

/* ---- Offers ------------------------------------------------------------- */

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
	int rc, put_off;

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
	if (m->paused)
		low = high = 0;
	stuck = wait && !m->c->threads && !never[0] && m->twins[drafts[0].number].items > finally;
	/* Nobody could end it, so it must not begin. */
	if (stuck && count == 1 && !m->broken && !with_device(m))
		wait = &ever;
	if (wait && (never[0] || (m->paused && !m->c->threads && !m->broken)))
		wait = &ever;
	put_off = !m->paused || never[0] ? 0 :
		  wait && wait->timeout_ms && !m->c->threads ? -EDEADLK : -EAGAIN;
	if (writable_only)
		rc = virtq_pool_offer_writable(m->pool, count, common, chains, flags, wait);
	else
		rc = virtq_pool_offer(m->pool, offers, count, chains, flags, wait);
	if (m->broken && rc < 0) {
		if (rc != -EBADMSG && rc != -ENOSPC && !(never[0] && rc == -EMSGSIZE) &&
		    !(stuck && rc == -EDEADLK) && !(put_off && rc == put_off))
			WRONG(m, "%d on a broken ring", rc);
		low = high = 0;
	} else if (put_off) {
		SAME(m, rc, put_off);
		m->put_off++;
		rc = 0;
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

/* Now and then; the device is shown what was offered before, and nothing more. */
static void op_pause(struct model *m)
{
	if (rnd(m, 4))
		return;
	SAME(m, virtq_pool_pause(m->pool), 0);
	publish(m, true);
	m->paused = true;
}

static void op_resume(struct model *m)
{
	SAME(m, virtq_pool_resume(m->pool), 0);
	m->paused = false;
}

static void op_publish(struct model *m)
{
	int rc = virtq_pool_publish(m->pool);

	if (!m->broken)
		SAME(m, rc, 0);
	publish(m, true);
}

/* ---- The caller's chains ------------------------------------------------ */

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
	uint32_t number = 0, kind = rnd(m, 3);
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
			certain -= entries_at_most(m, n) < certain ? entries_at_most(m,
										     n) : certain;
		}
		high++;
		possible -= least;
	}
	rc = virtq_pool_recycle(m->pool, chains, count + (unsigned int)repeat, flags);
	if (m->paused) {
		SAME(m, rc, -EAGAIN);
		m->put_off++;
		low = high = 0;
	} else if (m->broken) {
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
		/* The handle is otherwise as it was. */
		SAME(m, chains[i].slot, before[i].slot);
		SAME(m, chains[i].written, before[i].written);
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

/* ---- Taking ------------------------------------------------------------- */

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

#endif
