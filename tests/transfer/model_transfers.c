/* SPDX-License-Identifier: MIT */
/*
 * Random steps of transfers and their device against a plain model: who has
 * which pieces, every byte of and around them, how the written length falls on
 * them, which identities they get, and that each is released once or given back, never both.
 *
 *	model_transfers [--steps N] [--seed N] [--only CONFIGURATION]
 *
 * The memory of the pieces is in regions that are neighbours for this process and
 * strangers for the device, so that a piece may be several elements of a chain.
 */
#include "far_end.h"

#include <sys/mman.h>

#include <virtq/transfer.h>

#define STEPS 2500u
#define BATCH 4u
#define TWINS 24u
#define CHUNK_BYTES 12288u		/* of the arena, for one twin */
#define ARENA_BYTES (TWINS * CHUNK_BYTES)
#define REGIONS 12u
#define REGION_BYTES (ARENA_BYTES / REGIONS + 1)	/* so that borders are odd */
#define PIECES_MAX 6u
#define POISON 0xa5

/* ---- Configurations -------------------------------------------------------- */

enum way { BY_MAP, BY_CALLBACK, BY_ADDRESS };

struct config {
	char name[120];
	struct layout layout;
	uint32_t size, transfers_max, pieces_max, segs_max, indirect_entries;
	enum way way;
	bool bare, guard, keep;
	const struct run *run;
};

static const struct config shapes[] = {
	{ .size = 1, .transfers_max = 2, .pieces_max = 1, .segs_max = 2, .way = BY_MAP },
	{ .size = 8, .transfers_max = 12, .pieces_max = 4, .way = BY_ADDRESS,
	  .keep = true },
	{ .size = 8, .transfers_max = 20, .pieces_max = 6, .segs_max = 9, .way = BY_MAP },
	{ .size = 32, .transfers_max = 9, .pieces_max = 5, .segs_max = 8, .way = BY_CALLBACK,
	  .bare = true, .keep = true },
	{ .size = 16, .transfers_max = 20, .pieces_max = 3, .way = BY_ADDRESS, .bare = true },
	{ .size = 64, .transfers_max = 20, .pieces_max = 6, .segs_max = 12, .way = BY_MAP,
	  .guard = true, .keep = true },
	{ .size = 4, .transfers_max = 6, .pieces_max = 3, .way = BY_CALLBACK },
};

/* ---- The model --------------------------------------------------------------- */

enum where {
	GONE,
	READY,		/* prepared, or back and known to be */
	QUEUED,
	LOANED,
	PUSHED,		/* in order: pushed behind one that is not */
	RETURNED,	/* used, and perhaps not known to the set */
};

struct twin {
	struct model *m;
	struct virtq_transfer *t;
	enum where where;
	bool abandoned, to_poll;
	struct virtq_piece pieces[PIECES_MAX];
	unsigned int readable, writable, elements, released;
	uint64_t id;
	uint32_t written, capacity;
	int status;
	uint8_t shadow[CHUNK_BYTES];	/* what is in its chunk */
	struct virtq_req *req;
};

struct list {
	uint32_t of[TWINS * 2], count;
};

struct model {
	const struct config *c;
	uint64_t seed, step;
	struct virtq_port *ports[2];	/* the second takes over in a reset, if there is no port */
	unsigned int port;
	struct virtq_transfers *set;
	struct far_end far;
	uint8_t *near, *distant;	/* the arena, as both sides see it */
	struct virtq_region regions[REGIONS];	/* of the near arena */
	struct virtq_map *map;
	struct twin twins[TWINS];
	struct list queued, loans, returned, polls;
	uint64_t last_id;
	unsigned int kicks;		/* calls of the kick function */
	bool broken, kick_due, inside, ending;
	bool send_there;		/* the next release function sends another */
	uint64_t sent, came_back, finished, releases, nested, resets, full;
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

static void discard(struct list *l, uint32_t number)
{
	for (uint32_t i = 0; i < l->count; i++) {
		if (l->of[i] == number) {
			pick(l, i);
			return;
		}
	}
}

static uint32_t number_of(const struct twin *t)
{
	return (uint32_t)(t - t->m->twins);
}

static struct virtq_driver *driver_of(const struct model *m)
{
	return virtq_port_driver(m->ports[m->port]);
}

static uint8_t *chunk(uint8_t *arena, const struct twin *t)
{
	return arena + (size_t)number_of(t) * CHUNK_BYTES;
}

static struct twin *twin_of(struct model *m, const struct virtq_transfer *t)
{
	for (uint32_t i = 0; i < TWINS; i++) {
		if (m->twins[i].where != GONE && m->twins[i].t == t)
			return &m->twins[i];
	}
	WRONG(m, "a transfer that there is none of");
	return NULL;
}

static uint32_t in_state(const struct model *m, enum where first, enum where last)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < TWINS; i++)
		count += m->twins[i].where >= first && m->twins[i].where <= last;
	return count;
}

/* ---- The ring ------------------------------------------------------------------ */

static bool goes_indirect(const struct model *m, uint32_t n)
{
	return m->c->layout.indirect && n >= 2 && n <= m->c->indirect_entries;
}

/* Fewest and most ring entries of a chain of @n elements. */
static uint32_t entries_min(const struct model *m, uint32_t n)
{
	return goes_indirect(m, n) ? 1 : n;
}

static uint32_t entries_max(const struct model *m, uint32_t n)
{
	return goes_indirect(m, n) && n >= 4 ? 1 : n;
}

/* How many since it was asked last. */
static uint64_t kicks_taken(struct model *m)
{
	uint64_t kicks = m->kicks;

	m->kicks = 0;
	if (!m->c->bare && read(virtq_port_kick_fd(m->ports[m->port]), &kicks, sizeof(kicks)) < 0)
		return 0;
	return kicks;
}

/* @new were published, in one go. */
static void published(struct model *m, uint32_t new)
{
	uint64_t kicks = kicks_taken(m);

	if (new && m->kick_due)
		SAME(m, kicks, 1);
	WITHIN(m, kicks, 0, new != 0);
	if (new)
		m->kick_due = false;
}

static void kick(void *arg)
{
	((struct model *)arg)->kicks++;
}

/* ---- Addresses ------------------------------------------------------------------- */

static int64_t translate(void *arg, const void *base, size_t len, uint64_t *addr)
{
	const struct model *m = arg;
	uintptr_t at = (uintptr_t)base - (uintptr_t)m->near;
	size_t left;

	if (at >= ARENA_BYTES)
		return -EPERM;
	*addr = m->regions[at / REGION_BYTES].gpa + at % REGION_BYTES;
	left = REGION_BYTES - at % REGION_BYTES;
	if (left > ARENA_BYTES - at)
		left = ARENA_BYTES - at;
	return (int64_t)(left < len ? left : len);
}

static unsigned int elements_of(const struct model *m, const struct virtq_piece *p)
{
	uintptr_t at = (uintptr_t)p->base - (uintptr_t)m->near;

	if (m->c->way == BY_ADDRESS)
		return 1;
	return (unsigned int)((at + p->len - 1) / REGION_BYTES - at / REGION_BYTES + 1);
}

/* ---- Memory --------------------------------------------------------------------- */

/* All of its chunk is as it should be. Through the device's eyes it always can be seen. */
static void check_memory(struct model *m, const struct twin *t, const uint8_t *arena_chunk)
{
	if (memcmp(arena_chunk, t->shadow, CHUNK_BYTES))
		WRONG(m, "memory of transfer %u is not as it should be", number_of(t));
}

static void write_bytes(struct model *m, struct twin *t, uint8_t *at, size_t bytes)
{
	uint32_t key = rnd(m, UINT32_MAX);
	size_t offset = (size_t)(at - chunk(m->near, t));

	for (size_t i = 0; i < bytes; i++)
		t->shadow[offset + i] = at[i] = (uint8_t)(key + i * 7 + (i >> 8));
}

/* ---- Preparing --------------------------------------------------------------------- */

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
	t->status = 0;
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

/* ---- Sending ------------------------------------------------------------------------ */

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

static void send_some(struct model *m, unsigned int max)
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
	rc = virtq_transfer_send(m->set, which, count + again);
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
	if (m->nested == nested)
		published(m, (uint32_t)rc);
	else
		kicks_taken(m);
}

static void op_send(struct model *m)
{
	m->send_there = rnd(m, 8) == 0;
	send_some(m, 1 + rnd(m, BATCH));
}

/* ---- Coming back ----------------------------------------------------------------------- */

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
	if (!m->send_there || m->inside || m->ending)
		return;
	m->send_there = false;
	another = twin_unused(m);	/* maybe the same */
	m->inside = true;
	if (another && prepare(m, another)) {
		if (virtq_transfer_send(m->set, &another->t, 1) == 1) {
			another->id = virtq_transfer_id(another->t);
			if (another->id <= m->last_id)
				WRONG(m, "an identity that was there before");
			m->last_id = another->id;
			sent(m, another);
			m->kick_due = false;
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

/* ---- The device --------------------------------------------------------------------------- */

static void compare(struct model *m, struct twin *t, struct virtq_req *req)
{
	size_t bytes = 0, at = 0;
	uint8_t *got;

	for (unsigned int i = 0; i < t->readable; i++)
		bytes += t->pieces[i].len;
	SAME(m, req->rd.bytes, bytes);
	SAME(m, req->wr.bytes, t->capacity);
	SAME(m, req->rd.count + req->wr.count, t->elements);
	got = malloc(bytes + 1);
	assert_non_null(got);
	SAME(m, virtq_req_read(req, got, bytes), bytes);
	for (unsigned int i = 0; i < t->readable; i++) {
		size_t offset = (size_t)((uint8_t *)t->pieces[i].base - chunk(m->near, t));

		if (memcmp(got + at, t->shadow + offset, t->pieces[i].len))
			WRONG(m, "the device read other bytes in piece %u", i);
		at += t->pieces[i].len;
	}
	free(got);
}

static void op_pop(struct model *m)
{
	struct virtq_req *reqs[8];
	uint32_t max = 1 + rnd(m, 8), expected = m->queued.count < max ? m->queued.count : max;

	if (m->broken)
		return;
	SAME(m, virtq_device_pop(m->far.device, reqs, max), expected);
	for (uint32_t i = 0; i < expected; i++) {
		uint32_t number = pick(&m->queued, 0);
		struct twin *t = &m->twins[number];

		compare(m, t, reqs[i]);
		t->req = reqs[i];
		t->where = LOANED;
		append(&m->loans, number);
	}
}

static void returned(struct model *m, struct twin *t)
{
	t->where = RETURNED;
	t->status = 0;
	append(&m->returned, number_of(t));
	if (!t->abandoned) {
		t->to_poll = true;
		append(&m->polls, number_of(t));
	}
}

static void push_some(struct model *m, uint32_t count)
{
	static uint8_t bytes[CHUNK_BYTES];

	while (count-- && m->loans.count) {
		uint32_t i = rnd(m, m->loans.count), at = 0;
		struct twin *t = &m->twins[m->loans.of[i]];

		if (t->where == PUSHED)
			continue;
		t->written = rnd(m, 3) ? t->capacity : rnd(m, t->capacity + 1);
		for (uint32_t k = 0, key = rnd(m, UINT32_MAX); k < t->written; k++)
			bytes[k] = (uint8_t)(key + k * 13 + (k >> 7));
		SAME(m, virtq_req_write(t->req, bytes, t->written), t->written);
		for (unsigned int p = t->readable; p < t->readable + t->writable; p++) {
			size_t offset = (size_t)((uint8_t *)t->pieces[p].base - chunk(m->near, t));
			size_t len = t->pieces[p].len;

			if (len > t->written - at)
				len = t->written - at;
			memcpy(t->shadow + offset, bytes + at, len);
			at += (uint32_t)len;
		}
		check_memory(m, t, chunk(m->distant, t));
		virtq_device_push(m->far.device, &t->req, 1);
		t->where = PUSHED;
		if (!m->c->layout.in_order) {
			pick(&m->loans, i);
			returned(m, t);
		}
	}
	while (m->loans.count && m->twins[m->loans.of[0]].where == PUSHED)
		returned(m, &m->twins[pick(&m->loans, 0)]);
	if (virtq_device_publish(m->far.device))
		virtq_notify_send(virtq_port_call_fd(m->ports[m->port]));
}

static void op_push(struct model *m)
{
	if (!m->broken)
		push_some(m, 1 + rnd(m, 6));
}

static void op_far_arm(struct model *m)
{
	if (m->broken)
		return;
	kicks_taken(m);
	SAME(m, virtq_device_arm(m->far.device), m->queued.count != 0);
	m->kick_due = !m->queued.count;
}

static void op_arm(struct model *m)
{
	uint32_t back = m->returned.count;
	bool wanted = m->polls.count != 0;
	int rc;

	if (m->c->bare)
		return;
	rc = virtq_transfers_arm(m->set);
	if (m->broken) {
		SAME(m, rc, wanted ? 1 : -EBADMSG);
		return;
	}
	/* 1 also for one that check() knows of, or that nobody waits for. */
	WITHIN(m, rc, wanted, wanted || back);
}

/* ---- Resets -------------------------------------------------------------------------------- */

static void far_switch(struct model *m)
{
	struct virtq_region regions[REGIONS];
	unsigned int count = m->c->way == BY_ADDRESS ? 1 : REGIONS;

	far_close(&m->far);
	memcpy(regions, m->regions, sizeof(regions));
	for (unsigned int i = 0; i < count; i++)
		regions[i].host = m->distant + ((uint8_t *)m->regions[i].host - m->near);
	far_open(&m->far, m->ports[m->port], regions, count, true);
}

/* Every one of @l is back as it was, or released. */
static void cancelled(struct model *m, struct list *l, int status)
{
	while (l->count) {
		struct twin *t = &m->twins[pick(l, 0)];

		if (t->abandoned)
			WRONG(m, "an abandoned transfer outlives a reset");
		t->where = READY;
		t->status = status;
		t->written = 0;
		SAME(m, virtq_transfer_check(t->t), 1);
		known(m, t);
		check_memory(m, t, chunk(m->near, t));
	}
}

static void reset(struct model *m)
{
	struct virtq_driver *another = NULL;
	uint32_t flight;

	if (m->c->bare) {
		/* The new end may lie where the old one did: what is back is taken before. */
		while (!m->broken && m->polls.count)
			poll_some(m, 8);
		if (!m->broken)
			poll_some(m, 8);
		SAME(m, virtq_transfers_reset(m->set, NULL), -EINVAL);
		SAME(m, virtq_port_renew(m->ports[!m->port]), 0);
		another = virtq_port_driver(m->ports[!m->port]);
	}
	m->send_there = false;
	flight = in_state(m, QUEUED, PUSHED);
	if (!m->broken && flight)
		SAME(m, virtq_transfers_reset(m->set, another), -EBUSY);
	virtq_driver_stop(driver_of(m));
	m->ending = true;	/* what is abandoned is released though the device had it */
	SAME(m, virtq_transfers_reset(m->set, another), flight);
	m->ending = false;
	if (m->c->bare)
		m->port = !m->port;
	cancelled(m, &m->queued, m->broken ? -EBADMSG : -ECANCELED);
	cancelled(m, &m->loans, m->broken ? -EBADMSG : -ECANCELED);
	m->broken = m->kick_due = false;
	virtq_notify_clear(virtq_port_kick_fd(m->ports[m->port]));
	far_switch(m);
	kicks_taken(m);
	m->resets++;
	/* Poll tells of them as well, in any order. */
	for (;;) {
		struct virtq_transfer *done[8];
		int rc = virtq_transfers_poll(m->set, done, 8, NULL);

		WITHIN(m, rc, 0, 8);
		for (int i = 0; i < rc; i++) {
			struct twin *t = twin_of(m, done[i]);

			discard(&m->polls, number_of(t));
			t->to_poll = false;
			known(m, t);
		}
		if (rc < 8)
			break;
	}
	SAME(m, m->polls.count, 0);
}

static void op_reset(struct model *m)
{
	if (rnd(m, 10) == 0)
		reset(m);
}

static void op_break(struct model *m)
{
	if (rnd(m, 10) || m->broken || !in_state(m, QUEUED, PUSHED))
		return;
	far_break(&m->far);
	m->broken = true;
	/* What came before is good. */
	while (m->polls.count)
		poll_some(m, 1 + rnd(m, 8));
	poll_some(m, 1);
	for (unsigned int i = 0; i < 8; i++)
		op_check(m);
	op_send(m);
	op_finish(m);
	op_arm(m);
	if (rnd(m, 2))
		op_abandon(m);
	reset(m);
}

/* The device finishes all; then the ring is empty. */
static void quiesce(struct model *m)
{
	while (in_state(m, QUEUED, RETURNED)) {
		op_pop(m);
		push_some(m, 8);
		poll_some(m, 8);
		/* Those that poll told of before, or check. */
		for (uint32_t i = 0; i < TWINS; i++) {
			struct twin *t = &m->twins[i];

			if (t->where == RETURNED && !t->abandoned) {
				SAME(m, virtq_transfer_check(t->t), 1);
				known(m, t);
			}
		}
	}
	/* What can be sent again may keep its entries. */
	if (!m->c->keep || !in_state(m, READY, READY))
		SAME(m, virtq_driver_room(driver_of(m)), m->c->size);
	SAME(m, virtq_driver_in_flight(driver_of(m)), 0);
}

static void op_quiesce(struct model *m)
{
	if (rnd(m, 10) == 0)
		quiesce(m);
}

/* ---- Runs ---------------------------------------------------------------------------------- */

/* Two views of one piece of memory, between pages that nobody may touch. */
static uint8_t *map_arena(int fd)
{
	uint8_t *base = mmap(NULL, ARENA_BYTES + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_ptr_equal(mmap(base + 4096, ARENA_BYTES, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, fd, 0), base + 4096);
	return base + 4096;
}

static void open_memory(struct model *m)
{
	int fd = memfd_create("pieces", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, ARENA_BYTES), 0);
	m->near = map_arena(fd);
	m->distant = map_arena(fd);
	close(fd);
	for (uint32_t i = 0; i < REGIONS; i++) {
		struct virtq_region *r = &m->regions[i];

		r->host = m->near + (size_t)i * REGION_BYTES;
		r->size_bytes = i + 1 < REGIONS ? REGION_BYTES :
						  ARENA_BYTES - (REGIONS - 1) * REGION_BYTES;
		/* In another order, and with holes. */
		r->gpa = 0x10000000 + (uint64_t)(i * 7 % REGIONS) * 0x100000 + i;
		r->fd = -1;
		r->access = VIRTQ_ACCESS_RW;
	}
	if (m->c->way == BY_ADDRESS) {
		m->regions[0].gpa = (uintptr_t)m->near;
		m->regions[0].size_bytes = ARENA_BYTES;
	}
	if (m->c->way == BY_MAP)
		assert_int_equal(virtq_map_create(&m->map, m->regions, REGIONS, NULL), 0);
}

static void open_set(struct model *m)
{
	struct virtq_transfers_config config = {
		.transfers_max = m->c->transfers_max,
		.pieces_max = m->c->pieces_max,
		.segs_max = m->c->segs_max,
		.map = m->map,
		.translate = m->c->way == BY_CALLBACK ? translate : NULL,
		.guard = m->c->guard ? virtq_transfers_guard : NULL,
		.arg = m,
	};
	struct virtq_error err;

	if (m->c->bare) {
		config.driver = driver_of(m);
		config.kick = kick;
	} else {
		config.port = m->ports[0];
	}
	if (virtq_transfers_create(&m->set, &config, &err))
		fail_msg("set: %s", err.text);
	virtq_map_unref(m->map);
}

static void model_open(struct model *m, const struct config *c)
{
	struct virtq_port_config port = {
		.features = layout_features(c->layout),
		.size = c->size,
		.indirect_entries = c->indirect_entries,
		.keep = c->keep,
	};
	struct virtq_error err;

	m->c = c;
	m->seed = c->run->seed * 1000003;
	for (const char *p = c->name; *p; p++)
		m->seed = m->seed * 31 + (uint8_t)*p;
	for (uint32_t i = 0; i < TWINS; i++)
		m->twins[i].m = m;
	open_memory(m);
	for (unsigned int i = 0; i <= c->bare; i++)
		if (virtq_port_create(&m->ports[i], &port, &err))
			fail_msg("port: %s", err.text);
	open_set(m);
	far_switch(m);
}

/* With transfers of every kind still there, each of which is released then. */
static void model_close(struct model *m)
{
	uint64_t releases = m->releases;
	uint32_t there = in_state(m, READY, RETURNED);

	virtq_driver_stop(driver_of(m));
	m->ending = true;
	virtq_transfers_destroy(m->set);
	SAME(m, m->releases, releases + there);
	SAME(m, in_state(m, READY, RETURNED), 0);
	far_close(&m->far);
	virtq_port_destroy(m->ports[0]);
	virtq_port_destroy(m->ports[1]);
	munmap(m->near - 4096, ARENA_BYTES + 8192);
	munmap(m->distant - 4096, ARENA_BYTES + 8192);
}

static struct { uint64_t sent, came_back, finished, releases, nested, resets; } total;

static void test_random(void **state)
{
	static void (*const ops[])(struct model *m) = {
		op_prepare, op_prepare, op_prepare, op_prepare, op_prepare_wrong, op_send,
		op_send, op_send, op_send, op_check, op_check, op_check, op_check, op_wait,
		op_poll, op_poll, op_finish, op_finish, op_abandon, op_pop, op_pop, op_pop,
		op_push, op_push, op_push, op_far_arm, op_arm, op_reset, op_break, op_quiesce,
	};
	struct model *m = calloc(1, sizeof(*m));
	const struct config *c = *state;

	assert_non_null(m);
	model_open(m, c);
	for (m->step = 1; m->step <= c->run->steps; m->step++) {
		uint32_t flight, back;

		ops[rnd(m, sizeof(ops) / sizeof(ops[0]))](m);
		m->send_there = false;
		flight = in_state(m, QUEUED, PUSHED);
		back = in_state(m, RETURNED, RETURNED);
		WITHIN(m, virtq_driver_in_flight(driver_of(m)), flight, flight + back);
	}
	m->send_there = false;
	total.sent += m->sent;
	total.came_back += m->came_back;
	total.finished += m->finished;
	total.releases += m->releases;
	total.nested += m->nested;
	total.resets += m->resets;
	quiesce(m);
	for (unsigned int i = 0; i < 20; i++) {
		m->send_there = false;
		op_prepare(m);
		op_send(m);
		op_pop(m);
		op_push(m);
		op_abandon(m);
	}
	model_close(m);
	free(m);
}

/* Over all configurations, some of which are too small for much to happen in a few steps. */
static void test_it_was_a_test(void **state)
{
	const struct run *run = *state;

	if (run->only || run->steps < STEPS)
		return;
	assert_true(total.sent > 1000 && total.came_back > 1000 && total.finished > 500);
	assert_true(total.releases > 500 && total.nested > 20 && total.resets > 100);
}

int main(int argc, char **argv)
{
	enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
	static struct config configs[LAYOUTS * SHAPES];
	static struct CMUnitTest tests[LAYOUTS * SHAPES + 1];
	static const char *const ways[] = { "by map", "by callback", "by address" };
	struct run run = run_parse(argc, argv, STEPS);
	size_t count = 0;

	for (unsigned int i = 0; i < LAYOUTS * SHAPES; i++) {
		struct config *c = &configs[i];

		*c = shapes[i / LAYOUTS];
		c->layout = layout_at(i % LAYOUTS);
		if (c->layout.packed && c->size > 2)
			c->size--;
		c->indirect_entries = c->size < 8 ? c->size : 8;
		c->run = &run;
		snprintf(c->name, sizeof(c->name), "%s %u, %u transfers %s%s%s%s",
			 layout_name(c->layout), c->size, c->transfers_max, ways[c->way],
			 c->bare ? " bare" : "", c->guard ? " guard" : "",
			 c->keep ? " keep" : "");
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
	return _cmocka_run_group_tests("transfers against their model", tests, count, NULL, NULL);
}
