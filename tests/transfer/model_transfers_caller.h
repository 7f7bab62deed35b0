/* SPDX-License-Identifier: MIT */
/* Steps of who owns a set of transfers, each with what the model says: for model_transfers.c. */
#ifndef TESTS_TRANSFER_MODEL_TRANSFERS_CALLER_H
#define TESTS_TRANSFER_MODEL_TRANSFERS_CALLER_H

#include "model_transfers.h"

#define BATCH 4u

/* ---- Preparing ---------------------------------------------------------- */

static void on_release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		       unsigned int writable, int status);

/* Pieces of a twin's chunk in order, with gaps between them; some touch. */
static void carve(struct model *m, struct twin *t, unsigned int count)
{
	uint8_t *at = chunk(m->near, t);
	size_t share = CHUNK_BYTES / count, gap;

	t->readable = rnd(m, count + 1);
	t->writable = count - t->readable;
	t->elements = 0;
	t->capacity = 0;
	for (unsigned int i = 0; i < count; i++) {
		struct virtq_piece *p = &t->pieces[i];

		gap = rnd(m, 2) ? 0 : rnd(m, 40);
		p->base = at + gap;
		switch (rnd(m, 4)) {
		case 0:
			p->len = share - gap;
			break;
		case 1:
			p->len = 1 + rnd(m, (uint32_t)(share - gap));
			break;
		default:
			p->len = 1 + rnd(m, 100);
		}
		p->written = rnd(m, 9);		/* not looked at */
		at = (uint8_t *)p->base + p->len;
		t->elements += elements_of(m, p);
		if (i < t->readable)
			write_bytes(m, t, p->base, p->len);
		else
			t->capacity += (uint32_t)p->len;
	}
}

static struct twin *twin_unused(struct model *m)
{
	for (uint32_t i = 0; i < TWINS; i++) {
		if (m->twins[i].where == GONE)
			return &m->twins[i];
	}
	return NULL;
}

/* Of those that nobody has any more some may be free already. */
static void transfers_free(const struct model *m, uint32_t *low, uint32_t *high)
{
	*low = *high = m->c->transfers_max;
	for (uint32_t i = 0; i < TWINS; i++) {
		const struct twin *t = &m->twins[i];

		*low -= t->where != GONE;
		*high -= t->where != GONE && !(t->where == RETURNED && t->abandoned);
	}
}

static bool prepare(struct model *m, struct twin *t)
{
	uint32_t segs_max = m->c->segs_max ? m->c->segs_max : m->c->pieces_max, low, high;
	unsigned int count = 1 + rnd(m, m->c->pieces_max), inside = 1;
	struct virtq_piece given[PIECES_MAX];
	uint8_t *mine = chunk(m->near, t);
	int rc, expected = 0;

	memset(mine, POISON, CHUNK_BYTES);
	memset(t->shadow, POISON, CHUNK_BYTES);
	carve(m, t, count);
	memcpy(given, t->pieces, sizeof(given));
	for (unsigned int i = 0; i < count; i++)
		inside &= elements_of(m, &given[i]) == 1;
	transfers_free(m, &low, &high);
	if (t->elements > segs_max || t->elements > m->c->size)
		expected = -EMSGSIZE;
	if (inside && rnd(m, 3) == 0)
		rc = virtq_transfer_prepare_unchecked(m->set, &t->t, given, t->readable,
						      t->writable, on_release, t);
	else
		rc = virtq_transfer_prepare(m->set, &t->t, given, t->readable, t->writable,
					    on_release, t);
	if (rc == -ENOSPC && !m->inside && low)
		WRONG(m, "no transfer is left of %u", low);
	if (!rc && !high)
		WRONG(m, "a transfer more than there can be");
	if (rc != -ENOSPC || high)
		if (rc != -ENOSPC)
			SAME(m, rc, expected);
	for (unsigned int i = 0; i < count; i++) {
		SAME(m, given[i].base != NULL, rc != 0);
		SAME(m, given[i].len, rc ? t->pieces[i].len : 0);
	}
	if (rc)
		return false;
	t->where = READY;
	t->abandoned = t->to_poll = false;
	t->id = t->released = 0;
	t->written = 0;
	t->status = -ENODATA;
	SAME(m, virtq_transfer_id(t->t), 0);
	SAME(m, virtq_transfer_check(t->t), 1);
	return true;
}

static void op_prepare(struct model *m)
{
	struct twin *t = twin_unused(m);

	if (t)
		prepare(m, t);
}

/* What cannot be, and takes nothing. */
static void op_prepare_wrong(struct model *m)
{
	struct twin *t = twin_unused(m);
	struct virtq_piece given[PIECES_MAX + 2], before[PIECES_MAX + 2];
	struct virtq_transfer *out = NULL;
	unsigned int count = 1 + rnd(m, m->c->pieces_max), which, readable;
	uint32_t low, high;
	int rc, want;

	transfers_free(m, &low, &high);
	if (!t || !low)
		return;
	for (unsigned int i = 0; i < PIECES_MAX + 2; i++)
		given[i] = (struct virtq_piece){ chunk(m->near, t) + i * 8, 8, 3 };
	which = rnd(m, count);
	switch (rnd(m, 5)) {
	case 0:
		count = 0;
		want = -EINVAL;
		break;
	case 1:
		given[which].len = 0;
		want = -EINVAL;
		break;
	case 2:
		count = m->c->pieces_max + 1;
		want = -EMSGSIZE;
		break;
	case 3:
		if (m->c->way == BY_ADDRESS)
			return;
		given[which].base = m->near + ARENA_BYTES + REGION_BYTES;
		want = m->c->way == BY_MAP ? -EFAULT : -EPERM;
		break;
	default:
		/* The last byte of it is out of reach, or too far away. */
		if (m->c->way == BY_ADDRESS)
			return;
		given[which].base = m->near + ARENA_BYTES - 4;
		if (m->c->segs_max && m->c->segs_max < count + 1)
			return;
		want = m->c->way == BY_MAP ? -EFAULT : -EPERM;
		if (count + 1 > (m->c->segs_max ? m->c->segs_max : m->c->pieces_max) ||
		    count + 1 > m->c->size)
			return;
		break;
	}
	readable = rnd(m, count + 1);
	memcpy(before, given, sizeof(given));
	if (count > m->c->size && want != -EINVAL)
		return;
	rc = virtq_transfer_prepare(m->set, &out, given, readable, count - readable, on_release,
				    NULL);
	SAME(m, rc, want);
	SAME(m, memcmp(before, given, sizeof(given)), 0);
}

/* ---- Sending ------------------------------------------------------------ */

/* In the order of their identities: a release function may have sent others in between. */
static void sent(struct model *m, struct twin *t)
{
	struct list *l = &m->queued;
	uint32_t i;

	t->where = QUEUED;
	t->to_poll = false;
	discard(&m->polls, number_of(t));
	for (i = l->count++; i && m->twins[l->of[i - 1]].id > t->id; i--)
		l->of[i] = l->of[i - 1];
	l->of[i] = number_of(t);
	m->sent++;
}

static void send_some(struct model *m, unsigned int max, bool stage)
{
	struct virtq_transfer *which[BATCH + 1];
	struct twin *twins[BATCH];	/* READY, and nobody else's business */
	unsigned int count = 0, low = 0, high = 0, again;
	int64_t certain = m->c->size, possible = m->c->size;
	uint64_t nested = m->nested, ids = m->last_id;
	uint32_t first = rnd(m, TWINS);
	int rc;

	for (uint32_t i = 0; i < TWINS && count < max; i++) {
		struct twin *t = &m->twins[(first + i) % TWINS];

		if (t->where == READY)
			twins[count++] = t;
	}
	if (!count)
		return;
	for (uint32_t i = 0; i < TWINS; i++) {
		const struct twin *t = &m->twins[i];

		if (t->where == GONE || t->where == READY)
			continue;
		if (t->where != RETURNED)
			possible -= entries_min(m, t->elements);
		certain -= entries_max(m, t->elements);
	}
	for (unsigned int i = 0; i < count; i++) {
		uint32_t least = entries_min(m, twins[i]->elements);

		which[i] = twins[i]->t;
		/* What is its own to read may be another thing now. */
		if (rnd(m, 2) && twins[i]->readable)
			write_bytes(m, twins[i], twins[i]->pieces[0].base,
				    twins[i]->pieces[0].len);
		if (least > possible)
			break;
		if (low == i && least <= certain) {
			low++;
			certain -= entries_max(m, twins[i]->elements);
		}
		high++;
		possible -= least;
	}
	/* What is in flight by now cannot be sent once more. */
	again = count > 1 || (low == 1 && high == 1) ? rnd(m, 2) : 0;
	for (unsigned int i = high; i < count; i++)
		which[i] = twins[i]->t;
	which[count] = which[0];
	rc = (stage ? virtq_transfer_stage : virtq_transfer_send)(m->set, which, count + again);
	if (m->broken) {
		if (rc < 0 && rc != -EBADMSG && rc != -ENOSPC)
			WRONG(m, "send on a broken ring: %d", rc);
		low = 0;
	} else if (rc < 0) {
		SAME(m, rc, -ENOSPC);
		m->full++;
	}
	if (rc < 0)
		rc = 0;
	if (m->nested == nested)
		WITHIN(m, rc, low, high);
	for (int i = 0; i < rc; i++) {
		uint64_t id = virtq_transfer_id(twins[i]->t);

		if (m->nested == nested)
			SAME(m, id, ids + 1);
		else if (id <= ids)
			WRONG(m, "an identity that was there before");
		ids = id;
		twins[i]->id = id;
		sent(m, twins[i]);
		if (id > m->last_id)
			m->last_id = id;
		SAME(m, virtq_transfer_pieces(twins[i]->t, NULL, NULL) == NULL, 1);
	}
	if (m->nested != nested) {
		published_all(m);
		return;
	}
	m->staged += (uint32_t)rc;
	if (stage || !rc)
		SAME(m, kicks_taken(m), 0);
	else
		published(m);
	if (stage)
		m->staged_ever += (uint32_t)rc;
}

static void op_send(struct model *m)
{
	m->send_there = rnd(m, 8) == 0;
	send_some(m, 1 + rnd(m, BATCH), rnd(m, 3) == 0);
}

static void op_publish(struct model *m)
{
	SAME(m, virtq_transfers_publish(m->set), 0);
	if (m->broken)
		published_all(m);
	else
		published(m);
}

/* ---- Coming back -------------------------------------------------------- */

static void check_pieces(struct model *m, const struct twin *t, const struct virtq_piece *pieces)
{
	size_t left = t->written;

	for (unsigned int i = 0; i < t->readable + t->writable; i++) {
		size_t written = i < t->readable ? 0 :
				 left < t->pieces[i].len ? left : t->pieces[i].len;

		SAME(m, (uintptr_t)pieces[i].base, (uintptr_t)t->pieces[i].base);
		SAME(m, pieces[i].len, t->pieces[i].len);
		SAME(m, pieces[i].written, written);
		left -= written;
	}
}

static void twin_gone(struct model *m, struct twin *t)
{
	t->where = GONE;
	t->to_poll = false;
	discard(&m->polls, number_of(t));
}

static void on_release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		       unsigned int writable, int status)
{
	struct twin *t = arg, *another;
	struct model *m = t->m;
	bool device_has_it = t->where == QUEUED || t->where == LOANED || t->where == PUSHED;

	SAME(m, t->released++, 0);
	m->releases++;
	if (t->where == GONE || (!t->abandoned && !m->ending))
		WRONG(m, "transfer %u is released and should not be", number_of(t));
	if (device_has_it && !m->ending)
		WRONG(m, "transfer %u is released and the device has it", number_of(t));
	SAME(m, readable, t->readable);
	SAME(m, writable, t->writable);
	if (device_has_it) {
		t->written = 0;
		SAME(m, status, m->broken ? -EBADMSG : -ECANCELED);
	} else {
		SAME(m, status, t->status);
	}
	check_pieces(m, t, pieces);
	/* Open again, if it was closed. */
	check_memory(m, t, chunk(m->near, t));
	discard(&m->queued, number_of(t));
	discard(&m->loans, number_of(t));
	discard(&m->returned, number_of(t));
	twin_gone(m, t);
	if (!m->send_there || m->inside || (m->ending && !m->resetting))
		return;
	m->send_there = false;
	another = twin_unused(m);	/* maybe the same */
	m->inside = true;
	if (another && prepare(m, another)) {
		if (m->resetting) {
			/* Nothing may fly when the queue is started again: it waits for that. */
			SAME(m, virtq_transfer_send(m->set, &another->t, 1), -ESHUTDOWN);
			SAME(m, virtq_transfer_stage(m->set, &another->t, 1), -ESHUTDOWN);
			SAME(m, virtq_transfers_publish(m->set), -ESHUTDOWN);
			SAME(m, virtq_transfer_id(another->t), 0);
			m->refused++;
		} else if (virtq_transfer_send(m->set, &another->t, 1) == 1) {
			another->id = virtq_transfer_id(another->t);
			if (another->id <= m->last_id)
				WRONG(m, "an identity that was there before");
			m->last_id = another->id;
			sent(m, another);
			m->kick_due = false;
			m->staged = 0;
			m->nested++;
		}
	}
	m->inside = false;
}

/* The caller knows that it is back. */
static void known(struct model *m, struct twin *t)
{
	if (t->where == RETURNED) {
		discard(&m->returned, number_of(t));
		t->where = READY;
		m->came_back++;
	}
	SAME(m, virtq_transfer_status(t->t), t->status);
	SAME(m, virtq_transfer_written(t->t), t->written);
	SAME(m, virtq_transfer_id(t->t), t->id);
}

static void op_check(struct model *m)
{
	struct twin *t = &m->twins[rnd(m, TWINS)];
	unsigned int readable, writable;
	const struct virtq_piece *pieces;
	int rc;

	if (t->where == GONE || t->abandoned)
		return;
	m->send_there = rnd(m, 4) == 0;
	if (!m->c->bare && rnd(m, 4) == 0) {
		static const struct virtq_wait look = { 0, NULL };

		rc = virtq_transfer_wait(t->t, &look);
		if (!rc)
			published_all(m);
	} else {
		rc = virtq_transfer_check(t->t);
	}
	kicks_taken(m);
	if (t->where != READY && t->where != RETURNED) {
		SAME(m, rc, m->broken ? -EBADMSG : 0);
		SAME(m, virtq_transfer_pieces(t->t, NULL, NULL) == NULL, 1);
		pieces = virtq_transfer_pieces_unsafe(t->t, &readable, &writable);
		SAME(m, readable, t->readable);
		SAME(m, writable, t->writable);
		for (unsigned int i = 0; i < readable + writable; i++)
			SAME(m, (uintptr_t)pieces[i].base, (uintptr_t)t->pieces[i].base);
		return;
	}
	SAME(m, rc, 1);
	known(m, t);
	pieces = virtq_transfer_pieces(t->t, &readable, &writable);
	SAME(m, pieces != NULL, 1);
	SAME(m, readable, t->readable);
	SAME(m, writable, t->writable);
	if (t->id)
		check_pieces(m, t, pieces);
	check_memory(m, t, chunk(m->near, t));
}

static void op_wait(struct model *m)
{
	static const struct virtq_wait soon = { 1, NULL };
	struct twin *t = &m->twins[rnd(m, TWINS)];
	int rc;

	if (t->where == GONE || t->abandoned || (!m->c->bare && rnd(m, 8)))
		return;
	rc = virtq_transfer_wait(t->t, &soon);
	if (!rc)
		published_all(m);
	if (m->c->bare) {
		SAME(m, rc, t->where == READY || t->where == RETURNED ? 1 :
			    m->broken ? -EBADMSG : -ENOTSUP);
		if (rc == 1)
			known(m, t);
	} else if (t->where == READY || t->where == RETURNED) {
		SAME(m, rc, 1);
		known(m, t);
	} else {
		SAME(m, rc, m->broken ? -EBADMSG : 0);
	}
}

static void poll_some(struct model *m, unsigned int max)
{
	struct virtq_transfer *done[8] = { NULL };
	unsigned int expected = m->polls.count < max ? m->polls.count : max;
	int rc;

	m->send_there = rnd(m, 4) == 0;
	rc = virtq_transfers_poll(m->set, done, max, NULL);
	kicks_taken(m);
	if (m->broken && !expected) {
		SAME(m, rc, -EBADMSG);
		return;
	}
	SAME(m, rc, expected);
	for (unsigned int i = 0; i < expected; i++) {
		struct twin *t = &m->twins[pick(&m->polls, 0)];

		SAME(m, twin_of(m, done[i]) == t, 1);
		t->to_poll = false;
		known(m, t);
		check_memory(m, t, chunk(m->near, t));
	}
	/* Fewer than there was room for: it has seen all, and released what nobody wants. */
	if (expected < max && !m->broken) {
		for (uint32_t i = 0; i < m->returned.count; i++)
			if (m->twins[m->returned.of[i]].abandoned)
				WRONG(m, "an abandoned transfer is back and not released");
	}
}

/* Poll for none: nothing is told, and all that is used is found. */
static void op_look(struct model *m)
{
	int rc;

	m->send_there = rnd(m, 4) == 0;
	rc = virtq_transfers_poll(m->set, NULL, 0, NULL);
	kicks_taken(m);
	SAME(m, rc, m->broken && !m->polls.count ? -EBADMSG : 0);
	SAME(m, virtq_transfers_in_flight(m->set), in_state(m, QUEUED, PUSHED));
}

static void op_poll(struct model *m)
{
	poll_some(m, 1 + rnd(m, 8));
}

static void op_finish(struct model *m)
{
	struct twin *t = &m->twins[rnd(m, TWINS)];
	struct virtq_piece pieces[PIECES_MAX];
	unsigned int count = t->readable + t->writable;

	if (t->where == GONE || t->abandoned || t->where == RETURNED)
		return;
	if (t->where != READY) {
		SAME(m, virtq_transfer_finish(t->t, pieces, PIECES_MAX), -EBUSY);
		return;
	}
	SAME(m, virtq_transfer_finish(t->t, pieces, count - 1), -ENOSPC);
	SAME(m, virtq_transfer_finish(t->t, pieces, count), count);
	SAME(m, t->released, 0);
	if (t->id)
		check_pieces(m, t, pieces);
	check_memory(m, t, chunk(m->near, t));
	twin_gone(m, t);
	m->finished++;
}

static void op_abandon(struct model *m)
{
	struct twin *t = &m->twins[rnd(m, TWINS)];
	uint64_t releases = m->releases;
	enum where where = t->where;

	virtq_transfer_abandon(NULL);
	if (t->where == GONE || t->abandoned)
		return;
	t->abandoned = true;
	t->to_poll = false;
	discard(&m->polls, number_of(t));
	m->send_there = rnd(m, 4) == 0;
	if (where == READY) {
		virtq_transfer_abandon(t->t);
		SAME(m, m->releases, releases + 1);
		kicks_taken(m);
		return;
	}
	virtq_transfer_abandon(t->t);
	kicks_taken(m);
	/* Its memory is kept as long as the device has it. */
	if (where != RETURNED)
		SAME(m, m->releases, releases);
}

#endif
