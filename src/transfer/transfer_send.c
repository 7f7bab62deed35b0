/* SPDX-License-Identifier: MIT */
/*
 * Transfers go into the ring: those of one element by the fast way, those whose ring entries
 * are kept as they stand, all others described to the driver end. See transfer.c.
 */
#include "ring/driver_add.h"
#include "transfer/transfer.h"

#include <errno.h>

/* ---- Into the ring ------------------------------------------------------- */

/* The ring has @t, under a new @id. Return: its last one. */
ALWAYS_INLINE uint64_t fly(struct virtq_transfer *t, uint64_t id)
{
	const uint64_t before = t->id;

	transfer_unlist(t);
	t->id = id;
	t->written = 0;
	t->state = TRANSFER_FLYING;
	t->kept = t->abandoned = false;
	t->lost = LOST_NOT;
	return before;
}

/* The first @n of @which fly, some of them not for the first time if @again is not 0. */
ALWAYS_INLINE void flown(struct virtq_transfers *set, struct virtq_transfer *const *which,
			 unsigned int n, uint64_t again)
{
	set->last_id += n;
	if (again)
		set->q->keep = set->keeps;
	if (UNLIKELY(set->config.guard))
		for (unsigned int i = 0; i < n; i++)
			transfer_guard(which[i], true);
}

/*
 * The first @n of @which were marked as flying, and @added of them went into the
 * ring, or an error: the others are as before.
 */
ALWAYS_INLINE int settle(struct virtq_transfers *set, struct virtq_transfer *const *which,
			 unsigned int n, int added)
{
	const unsigned int flying = added < 0 ? 0 : (unsigned int)added;
	uint64_t again = 0;

	for (unsigned int i = 0; i < flying; i++)
		again |= fly(which[i], set->last_id + 1 + i);
	flown(set, which, flying, again);
	for (unsigned int i = flying; UNLIKELY(i < n); i++)
		which[i]->state = TRANSFER_READY;
	return added;
}

/* Transfers to be sent that are one element each. */
struct sending {
	struct virtq_transfer *const *next;
	struct virtq_transfers *set;
	uint64_t id, again;
	void *token;			/* of the last one */
};

/* What is in flight is not READY, so one that is named twice is found out. */
ALWAYS_INLINE bool next_sent(void *of, struct single *single)
{
	struct sending *s = of;
	struct virtq_transfer *t = *s->next;

	VIRTQ_ASSERT(t->set == s->set && t->state != TRANSFER_FREE);
	if (UNLIKELY(t->state != TRANSFER_READY || t->kept ||
		     t->shape.segs_readable + t->shape.segs_writable != 1))
		return false;
	single->addr = t->segs[0].addr;
	single->len = t->segs[0].len;
	single->writable = t->shape.segs_writable;
	single->token = &s->token;
	s->token = t;
	s->next++;
	s->again |= fly(t, ++s->id);
	return true;
}

/* The fast way. Stops before everything else. The queue is not dead. Return: how many. */
ALWAYS_INLINE int send_singles(struct virtq_transfers *set, struct virtq_transfer *const *which,
			       unsigned int count, const enum ring_layout layout)
{
	struct sending s = { .next = which, .set = set, .id = set->last_id };
	unsigned int n = driver_add_singles(set->q, next_sent, &s, count, layout);

	flown(set, which, n, s.again);
	return (int)n;
}

LAYOUT_EACH(send_singles,
	    (struct virtq_transfers *set, struct virtq_transfer *const *which, unsigned int count),
	    set, which, count)

static int send_singles_by_layout(struct virtq_transfers *set,
				  struct virtq_transfer *const *which, unsigned int count)
{
	LAYOUT_CALL(set->q->layout, send_singles, set, which, count);
}

/* Send some from the front of @which, none of whose entries is kept; how many or an error. */
static int send_fresh(struct virtq_transfers *set, struct virtq_transfer *const *which,
		      unsigned int count)
{
	struct virtq_buffer bufs[TRANSFER_BATCH];
	unsigned int n = 0;

	for (; n < TRANSFER_BATCH && n < count; n++) {
		struct virtq_transfer *t = which[n];

		VIRTQ_ASSERT(t->set == set && t->state != TRANSFER_FREE);
		/* Marked at once, so that one that is named twice is found out. */
		if (UNLIKELY(t->state != TRANSFER_READY || t->kept))
			break;
		bufs[n].segs = t->segs;
		bufs[n].readable = t->shape.segs_readable;
		bufs[n].writable = t->shape.segs_writable;
		bufs[n].token = t;
		t->state = TRANSFER_FLYING;
	}
	return n ? settle(set, which, n, virtq_driver_add(set->q, bufs, n)) : -EBUSY;
}

/* The same for those whose entries stand in the ring: their elements are not read. */
static int send_kept(struct virtq_transfers *set, struct virtq_transfer *const *which,
		     unsigned int count)
{
	struct virtq_completion kept[TRANSFER_BATCH];
	unsigned int n = 0;
	int rc;

	for (; n < TRANSFER_BATCH && n < count; n++) {
		struct virtq_transfer *t = which[n];

		VIRTQ_ASSERT(t->set == set && t->state != TRANSFER_FREE);
		if (UNLIKELY(t->state != TRANSFER_READY || !t->kept))
			break;
		t->state = TRANSFER_FLYING;
		kept[n].token = t;
		kept[n].id = t->kept_id;
	}
	if (UNLIKELY(!n))
		return -EBUSY;
	rc = settle(set, which, n, virtq_driver_again(set->q, kept, n));
	if (LIKELY(rc > 0))
		set->kept_idle -= (uint32_t)rc;
	return rc;
}

/* Some from the front of @which, which is not empty, by the way that goes for the first. */
ALWAYS_INLINE int send_some(struct virtq_transfers *set, struct virtq_transfer *const *which,
			    unsigned int count)
{
	int n;

	if (which[0]->kept)
		return send_kept(set, which, count);
	n = LIKELY(!set->q->dead) ? send_singles_by_layout(set, which, count) : 0;
	return LIKELY(n) ? n : send_fresh(set, which, count);
}

/*
 * The ring is full, or looks so: take what is used, then let go of entries kept
 * for transfers that nobody may want to send. Returns whether there is more room.
 */
NEVER_INLINE static bool make_room(struct virtq_transfers *set, const struct virtq_transfer *t)
{
	uint32_t before = virtq_driver_room(set->q);
	uint32_t wanted = (uint32_t)t->shape.segs_readable + t->shape.segs_writable;

	transfers_reap_for_room(set);
	for (uint32_t i = 0; set->kept_idle && i < set->config.transfers_max &&
			     virtq_driver_room(set->q) < wanted; i++)
		transfer_unkeep(transfer_at(set, i));
	return virtq_driver_room(set->q) > before;
}

/* ---- Showing them -------------------------------------------------------- */

void transfers_publish(struct virtq_transfers *set)
{
	if (!virtq_driver_publish(set->q))
		return;
	if (set->host)
		set->host->kick(set->port);
	else if (set->config.kick)
		set->config.kick(set->config.arg);
}

/* Add them to the ring: how many, or why not even the first was. */
ALWAYS_INLINE int stage(struct virtq_transfers *set, struct virtq_transfer *const *which,
			unsigned int count)
{
	unsigned int staged = 0;
	int rc = 0;

	if (UNLIKELY(set->closed))
		return -ESHUTDOWN;
	while (staged < count) {
		rc = send_some(set, which + staged, count - staged);
		if (LIKELY(rc > 0))
			staged += (unsigned int)rc;
		else if (rc != -ENOSPC || !make_room(set, which[staged]))
			break;
	}
	return staged ? (int)staged : rc;
}

int virtq_transfer_stage(struct virtq_transfers *set, struct virtq_transfer *const *which,
			 unsigned int count)
{
	int rc = stage(set, which, count);

	if (UNLIKELY(set->to_release_count))
		transfers_release(set);
	return rc;
}

int virtq_transfer_send(struct virtq_transfers *set, struct virtq_transfer *const *which,
			unsigned int count)
{
	int rc = stage(set, which, count);

	if (LIKELY(rc > 0))
		transfers_publish(set);
	if (UNLIKELY(set->to_release_count))
		transfers_release(set);
	return rc;
}

int virtq_transfers_publish(struct virtq_transfers *set)
{
	if (UNLIKELY(set->closed))
		return -ESHUTDOWN;
	transfers_publish(set);
	return virtq_transfers_kick_error(set);
}

int virtq_transfers_kick_error(struct virtq_transfers *set)
{
	return set->host ? set->host->kick_error(set->port) : 0;
}
