/* SPDX-License-Identifier: MIT */
/*
 * The life of a transfer.
 *
 *	FREE --prepare--> READY --send--> FLYING --reap--> READY --finish--> FREE
 *
 * prepare() copies the caller's pieces into a free one and translates them, once,
 * into the elements that every sending shows to the ring; the ring's token is the
 * transfer itself. reap() takes what the device used and puts it on the list of
 * those back, which poll() tells from. A transfer ends by finish(), which gives the pieces
 * to the caller, or by its release function: when it is abandoned, or its set
 * ends. An abandoned one that flies keeps its memory until it is reaped, or the queue
 * is reset; then it is listed to be released. Where the ring keeps entries, a transfer
 * back has them still, and the next sending shows them again; they are let go when it ends,
 * or when others want the room. That costs who never sends again: so the ring keeps
 * entries only since one was sent again, until one ends with entries it kept in vain.
 * Nothing here allocates. How they are sent is in transfer_send.c, how they come back in
 * transfer_back.c.
 *
 * Release functions may prepare, send and end transfers. So they are called last in
 * every call, when no pointer or count of ours is used afterwards; the slot is
 * free before, the pieces are copied aside; and one does not run inside another,
 * unless it abandons a transfer that the device does not have.
 */
#include "transfer/transfer.h"

#include <string.h>

/* ---- Preparing ---------------------------------------------------------- */

/* A free transfer; for want of one, look whether abandoned ones are back. */
static struct virtq_transfer *free_one(struct virtq_transfers *set)
{
	if (UNLIKELY(!set->free_count) && set->abandoned) {
		transfers_reap_for_room(set);
		transfers_release(set);
	}
	return set->free_count ? set->free[set->free_count - 1] : NULL;
}

/* @t, the next of the free ones, becomes a transfer; elements and pieces are laid out in it. */
ALWAYS_INLINE void take_free(struct virtq_transfers *set, struct virtq_transfer *t,
			     struct transfer_shape shape, virtq_release_fn *release, void *arg)
{
	set->free_count--;
	t->id = 0;
	t->written = 0;
	t->state = TRANSFER_READY;
	t->kept = t->abandoned = false;
	t->lost = LOST_UNSENT;
	t->shape = shape;
	t->release = release;
	t->arg = arg;
}

/* Does the device see @piece as one element, near where it saw the last? Then that is @seg. */
ALWAYS_INLINE bool translate_near(const struct transfer_near *near,
				  const struct virtq_piece *piece, struct virtq_seg *seg)
{
	const uint64_t offset = (uintptr_t)piece->base - near->host, len = piece->len;

	/* An empty one, too, is too long for this. */
	if (UNLIKELY((len - 1) >> 31 || offset >= near->bytes ||
		     offset + len > near->bytes))
		return false;
	seg->addr = near->addr + offset;
	seg->len = (uint32_t)len;
	return true;
}

/*
 * One piece that is one element. Return: false if it is another case, or
 * something is wrong; then nothing has changed.
 */
ALWAYS_INLINE bool prepare_single(struct virtq_transfers *set, struct virtq_transfer **out,
				  struct virtq_piece *piece, unsigned int readable,
				  unsigned int writable, virtq_release_fn *release, void *arg)
{
	static const struct transfer_shape shapes[] = { { 0, 1, 0, 1 }, { 1, 0, 1, 0 } };
	struct virtq_piece given, *own;
	struct virtq_transfer *t;
	struct virtq_seg seg;

	if (UNLIKELY(readable + writable != 1 || !set->free_count))
		return false;
	given = *piece;
	if (UNLIKELY(!translate_near(&set->near[writable], &given, &seg)))
		return false;
	memset(piece, 0, sizeof(*piece));
	t = set->free[set->free_count - 1];
	t->segs[0] = seg;
	own = pieces_of(set, t);
	own->base = given.base;
	own->len = given.len;
	take_free(set, t, shapes[readable], release, arg);
	*out = t;
	return true;
}

/* Any case. */
ALWAYS_INLINE int prepare_any(struct virtq_transfers *set, struct virtq_transfer **out,
			      struct virtq_piece *pieces, unsigned int readable,
			      unsigned int writable, virtq_release_fn *release, void *arg,
			      bool unchecked)
{
	const uint32_t pieces_max = set->config.pieces_max;
	uint32_t segs = 0, segs_readable = 0;
	struct virtq_transfer *t;
	struct virtq_piece *own;
	unsigned int count;
	uint64_t bytes = 0;

	if (readable > pieces_max || writable > pieces_max - readable)
		return -EMSGSIZE;
	count = readable + writable;
	for (unsigned int i = 0; i < count; i++) {
		if (!pieces[i].len || pieces[i].len > MAX_CHAIN_BYTES - bytes)
			return -EINVAL;
		bytes += pieces[i].len;
	}
	if (!count)
		return -EINVAL;
	t = free_one(set);
	if (!t)
		return -ENOSPC;
	own = pieces_of(set, t);
	for (unsigned int i = 0; i < count; i++) {
		int n = 1;

		if (UNLIKELY(segs == set->segs_max ||
			     !translate_near(&set->near[i >= readable], &pieces[i],
					     &t->segs[segs])))
			n = transfer_translate(set, &pieces[i], i >= readable, t->segs + segs,
					       set->segs_max - segs, unchecked);
		if (UNLIKELY(n < 0))
			return n;
		segs += (uint32_t)n;
		if (i < readable)
			segs_readable = segs;
		own[i].base = pieces[i].base;
		own[i].len = pieces[i].len;
	}
	/* The translate function has prepared nothing. */
	VIRTQ_ASSERT(set->free[set->free_count - 1] == t);
	for (unsigned int i = 0; i < count; i++)
		pieces[i] = (struct virtq_piece){ NULL, 0, 0 };
	take_free(set, t, (struct transfer_shape){ (uint16_t)readable, (uint16_t)writable,
			  (uint16_t)segs_readable, (uint16_t)(segs - segs_readable) },
		  release, arg);
	*out = t;
	return 0;
}

NEVER_INLINE static int prepare_checked(struct virtq_transfers *set, struct virtq_transfer **out,
					struct virtq_piece *pieces, unsigned int readable,
					unsigned int writable, virtq_release_fn *release, void *arg)
{
	return prepare_any(set, out, pieces, readable, writable, release, arg, false);
}

int virtq_transfer_prepare(struct virtq_transfers *set, struct virtq_transfer **out,
			   struct virtq_piece *pieces, unsigned int readable,
			   unsigned int writable, virtq_release_fn *release, void *arg)
{
	if (LIKELY(prepare_single(set, out, pieces, readable, writable, release, arg)))
		return 0;
	return prepare_checked(set, out, pieces, readable, writable, release, arg);
}

int virtq_transfer_prepare_unchecked(struct virtq_transfers *set, struct virtq_transfer **out,
				     struct virtq_piece *pieces, unsigned int readable,
				     unsigned int writable, virtq_release_fn *release, void *arg)
{
	return prepare_any(set, out, pieces, readable, writable, release, arg, true);
}

/* ---- Guarding ----------------------------------------------------------- */

/*
 * Pages are never smaller than this. Where they are larger the guard function,
 * which knows, leaves out what is no whole page.
 */
#define GUARD_PAGE_BYTES ((uintptr_t)4096)

void transfer_guard(const struct virtq_transfer *t, bool closed)
{
	const struct virtq_transfers_config *config = &t->set->config;
	const struct virtq_piece *pieces = transfer_pieces(t);

	for (unsigned int i = 0; i < (unsigned int)t->shape.readable + t->shape.writable; i++) {
		uint8_t *base = pieces[i].base;
		size_t skip = (size_t)(-(uintptr_t)base % GUARD_PAGE_BYTES);
		size_t bytes = pieces[i].len < skip ? 0 : pieces[i].len - skip;

		bytes -= bytes % GUARD_PAGE_BYTES;
		if (bytes)
			config->guard(config->arg, base + skip, bytes, closed);
	}
}

/* ---- Looking ------------------------------------------------------------ */

unsigned int virtq_transfers_in_flight(const struct virtq_transfers *set)
{
	return virtq_driver_in_flight(set->q);
}

uint64_t virtq_transfer_id(const struct virtq_transfer *t)
{
	return t->id;
}

void *virtq_transfer_arg(const struct virtq_transfer *t)
{
	return t->arg;
}

int virtq_transfer_status(const struct virtq_transfer *t)
{
	static const int statuses[] = {
		[LOST_NOT] = 0, [LOST_CANCELLED] = -ECANCELED, [LOST_BROKEN] = -EBADMSG,
		[LOST_UNSENT] = -ENODATA,
	};

	return statuses[t->lost];
}

uint32_t virtq_transfer_written(const struct virtq_transfer *t)
{
	return t->written;
}

/*
 * What was written, piece by piece: it is a prefix of all writable ones (2.7.8.2).
 * Done for who asks.
 */
static struct virtq_piece *spread(const struct virtq_transfer *t)
{
	struct virtq_piece *pieces = transfer_pieces(t);
	const unsigned int readable = t->shape.readable;
	size_t left = t->written;

	for (unsigned int i = 0; i < readable; i++)
		pieces[i].written = 0;
	for (unsigned int i = readable; i < readable + t->shape.writable; i++) {
		pieces[i].written = left < pieces[i].len ? left : pieces[i].len;
		left -= pieces[i].written;
	}
	return pieces;
}

const struct virtq_piece *virtq_transfer_pieces_unsafe(const struct virtq_transfer *t,
						       unsigned int *readable,
						       unsigned int *writable)
{
	if (readable)
		*readable = t->shape.readable;
	if (writable)
		*writable = t->shape.writable;
	return spread(t);
}

const struct virtq_piece *virtq_transfer_pieces(const struct virtq_transfer *t,
						unsigned int *readable, unsigned int *writable)
{
	const struct virtq_piece *pieces = virtq_transfer_pieces_unsafe(t, readable, writable);

	return t->state == TRANSFER_READY ? pieces : NULL;
}

/* ---- Ending ------------------------------------------------------------- */

/* Its slot is free for the next, unless the set ends. */
ALWAYS_INLINE void set_free(struct virtq_transfer *t)
{
	struct virtq_transfers *set = t->set;

	t->state = TRANSFER_FREE;
	if (UNLIKELY(set->ending))
		return;
	set->free[set->free_count++] = t;
}

/* Off every list, with nothing kept. */
NEVER_INLINE static void let_go(struct virtq_transfer *t)
{
	transfer_unlist(t);
	transfer_unkeep(t);
}

NEVER_INLINE static int finish_any(struct virtq_transfer *t, struct virtq_piece *pieces,
				   unsigned int max)
{
	const unsigned int count = (unsigned int)t->shape.readable + t->shape.writable;

	if (t->state != TRANSFER_READY)
		return -EBUSY;
	if (count > max)
		return -ENOSPC;
	memcpy(pieces, spread(t), count * sizeof(*pieces));
	let_go(t);
	set_free(t);
	return (int)count;
}

int virtq_transfer_finish(struct virtq_transfer *t, struct virtq_piece *pieces, unsigned int max)
{
	const struct virtq_piece *own = transfer_pieces(t);

	VIRTQ_ASSERT(t->state != TRANSFER_FREE);
	if (UNLIKELY(t->state != TRANSFER_READY || t->shape.readable + t->shape.writable != 1 ||
		     !max || t->kept || t->link.next))
		return finish_any(t, pieces, max);
	/* One piece; nothing was written to a readable one. */
	*pieces = (struct virtq_piece){ own->base, own->len, t->written };
	set_free(t);
	return 1;
}

/*
 * The slot is free during the call, so that what it prepares finds one. Only
 * a release inside a release, whose pieces cannot be put aside, frees it afterwards.
 */
void transfer_release(struct virtq_transfer *t)
{
	struct virtq_transfers *set = t->set;
	virtq_release_fn *release = t->release;
	unsigned int readable = t->shape.readable, writable = t->shape.writable;
	struct virtq_piece *pieces;
	void *arg = t->arg;
	int status = virtq_transfer_status(t);

	let_go(t);
	if (t->abandoned) {
		t->abandoned = false;
		set->abandoned--;
	}
	if (!release) {
		set_free(t);
		return;
	}
	pieces = spread(t);
	if (set->in_release) {
		t->state = TRANSFER_FREE;
		release(arg, pieces, readable, writable, status);
		set_free(t);
		return;
	}
	memcpy(set->scratch, pieces, (readable + writable) * sizeof(*pieces));
	set_free(t);
	set->in_release = true;
	release(arg, set->scratch, readable, writable, status);
	set->in_release = false;
}

void transfers_release(struct virtq_transfers *set)
{
	if (set->in_release)
		return;
	/* Those of now: what comes back meanwhile is for the next call, or this would never end. */
	for (uint32_t n = set->to_release_count; n; n--) {
		struct virtq_transfer *t = transfer_first(&set->to_release);

		set->to_release_count--;
		transfer_release(t);
	}
}

void virtq_transfer_abandon(struct virtq_transfer *t)
{
	if (!t)
		return;
	VIRTQ_ASSERT(t->state != TRANSFER_FREE && !t->abandoned);
	if (t->state == TRANSFER_FLYING) {
		t->abandoned = true;
		t->set->abandoned++;
	} else if (t->state == TRANSFER_READY) {
		transfer_release(t);
	}
}
