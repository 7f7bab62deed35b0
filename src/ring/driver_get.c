/* SPDX-License-Identifier: MIT */
/*
 * The driver end of a queue: taking buffers back. UNTRUSTED: ids, lengths and
 * indices are the device's word, and are held against what was published.
 */
#include "ring/driver.h"

NEVER_INLINE static int break_queue(struct virtq_driver *q, enum virtq_fault_code code,
				    uint32_t index, uint64_t value)
{
	q->fault = (struct virtq_fault){ .code = code, .index = index, .value = value };
	q->dead = -EBADMSG;
	return q->dead;
}

/*
 * Does a used id and length name a buffer in flight and fit it? UNTRUSTED: a
 * buffer that the device has not been shown yet cannot be used either.
 */
ALWAYS_INLINE enum virtq_fault_code check_used(const struct chain *chains, uint32_t size,
					       uint64_t published, uint32_t id, uint32_t len)
{
	/* What is not in flight has a serial that is never reached. */
	if (UNLIKELY(id >= size || chains[id].serial >= published))
		return VIRTQ_FAULT_USED_ID;
	if (UNLIKELY(len > chains[id].writable_bytes))
		return VIRTQ_FAULT_USED_LENGTH;
	return VIRTQ_FAULT_NONE;
}

/* Tell the caller of a used buffer; returns how many ring entries it had taken. */
ALWAYS_INLINE uint32_t complete(struct chain *chain, struct virtq_completion *done, uint32_t id,
				uint32_t len, uint64_t serial)
{
	done->token = chain->token;
	done->written = len;
	done->id = id;
	chain->serial = serial;
	return chain->entries;
}

ALWAYS_INLINE int get_split(struct virtq_driver *q, struct virtq_completion *done,
			    unsigned int max, const bool keep)
{
	const struct split_ring ring = q->split.ring;
	uint16_t *const free = q->split.free;
	const uint16_t *const next = q->split.next;
	struct chain *const chains = q->chains;
	const uint32_t size = q->ring.size, seen = q->split.used_seen;
	const uint64_t published = q->published;
	uint32_t room = q->room;
	uint32_t ready = split_driver_ready(&q->split), id = 0, len = 0;
	enum virtq_fault_code fault = VIRTQ_FAULT_NONE;
	unsigned int n = 0;

	if (UNLIKELY(ready > published - q->taken))
		return break_queue(q, VIRTQ_FAULT_USED_IDX, seen, (uint16_t)(seen + ready));
	if (max > ready)
		max = ready;
	for (; n < max; n++) {
		uint32_t entries;

		split_driver_reap(&ring, seen + n, &id, &len);
		fault = check_used(chains, size, published, id, len);
		if (UNLIKELY(fault))
			break;
		entries = complete(&chains[id], &done[n], id, len, keep ? KEPT : NOT_IN_FLIGHT);
		if (keep)
			continue;
		split_driver_release(free, next, room, id, entries);
		room += entries;
	}
	/* Nothing there, nothing written: another thread may be asking for the position. */
	if (!n)
		return !fault ? 0 : break_queue(q, fault, seen,
						fault == VIRTQ_FAULT_USED_ID ? id : len);
	q->room = room;
	q->taken += n;
	q->split.used_seen = (uint16_t)(seen + n);
	return (int)n;
}

ALWAYS_INLINE int get_packed(struct virtq_driver *q, struct virtq_completion *done,
			     unsigned int max, const bool platform, const bool keep)
{
	const struct packed_ring ring = q->packed.ring;
	uint16_t *free = &q->packed.free[q->packed.free_count];
	struct chain *const chains = q->chains;
	const uint64_t published = q->published;
	uint32_t room = q->room, id = 0, len = 0;
	uint32_t slot = q->packed.used.slot, turn = packed_used_flags(q->packed.used.wrap);
	enum virtq_fault_code fault = VIRTQ_FAULT_NONE;
	unsigned int n = 0;

	for (; n < max; n++) {
		uint32_t entries;

		if (!packed_driver_reap(&ring, slot, turn, platform, &id, &len))
			break;
		fault = check_used(chains, ring.size, published, id, len);
		if (UNLIKELY(fault))
			break;
		if (keep && LIKELY(chains[id].entries == 1)) {
			entries = complete(&chains[id], &done[n], id, len, KEPT);
		} else {
			entries = complete(&chains[id], &done[n], keep ? VIRTQ_NOT_KEPT : id, len,
					   NOT_IN_FLIGHT);
			room += entries;
			*free++ = (uint16_t)id;
		}
		/* Guessed, not computed: the next look need not wait for what this one finds. */
		slot = add_guessed(slot, entries, 1);
		if (UNLIKELY(slot >= ring.size)) {
			slot -= ring.size;
			turn ^= PACKED_AVAIL | PACKED_USED;
		}
	}
	if (!n)
		return !fault ? 0 : break_queue(q, fault, slot,
						fault == VIRTQ_FAULT_USED_ID ? id : len);
	q->room = room;
	q->taken += n;
	q->packed.used.slot = (uint16_t)slot;
	q->packed.used.wrap = turn == packed_used_flags(true);
	q->packed.free_count = (uint32_t)(free - q->packed.free);
	return (int)n;
}

/* ---- In order: one used element may stand for many buffers (2.7.9, 2.8.8) -- */

/* Buffers of the open batch that are not taken yet. */
ALWAYS_INLINE uint64_t batch_left(const struct virtq_driver *q)
{
	return !q->batch.open ? 0 : q->chains[q->batch.last].serial -
				    q->chains[q->batch.oldest].serial + 1;
}

/*
 * An element stands for every buffer from the oldest up to the one it names.
 * UNTRUSTED: no more of them than the used index has moved on, which in the
 * packed ring nothing says.
 */
ALWAYS_INLINE int open_batch(struct virtq_driver *q, uint32_t ready,
			     const enum ring_layout layout)
{
	uint32_t id, len, index;
	enum virtq_fault_code fault;

	if (LAYOUT_IS_PACKED(layout)) {
		index = q->packed.used.slot;
		if (!packed_driver_reap(&q->packed.ring, index,
					packed_used_flags(q->packed.used.wrap),
					q->packed.ring.platform, &id, &len))
			return 0;
	} else {
		index = q->split.used_seen;
		split_driver_reap(&q->split.ring, index, &id, &len);
	}
	fault = check_used(q->chains, q->ring.size, q->published, id, len);
	if (!fault && !LAYOUT_IS_PACKED(layout) &&
	    q->chains[id].serial - q->chains[q->batch.oldest].serial >= ready)
		fault = VIRTQ_FAULT_USED_ID;
	if (UNLIKELY(fault))
		return break_queue(q, fault, index, fault == VIRTQ_FAULT_USED_ID ? id : len);
	q->batch.open = true;
	q->batch.last = (uint16_t)id;
	q->batch.length = len;
	return 1;
}

/*
 * Take up to @max buffers of the open batch, oldest first; those before its
 * last are wholly used. Descriptors and ids go in a circle and need no list of
 * free ones. Returns how many.
 */
ALWAYS_INLINE unsigned int take_batch(struct virtq_driver *q, struct virtq_completion *done,
				      unsigned int max, const enum ring_layout layout)
{
	struct chain *const chains = q->chains;
	const uint32_t size = q->ring.size, last = q->batch.last, length = q->batch.length;
	uint32_t oldest = q->batch.oldest, taken = 0;
	bool open = true;
	unsigned int n = 0;

	while (n < max && open) {
		struct chain *chain = &chains[oldest];
		uint32_t entries;

		open = oldest != last;
		entries = complete(chain, &done[n++], oldest,
				   open ? chain->writable_bytes : length, NOT_IN_FLIGHT);
		taken += entries;
		/* Guessed: the next need not wait for this one. */
		oldest = LAYOUT_IS_PACKED(layout) ? oldest + 1 : add_guessed(oldest, entries, 1);
		if (UNLIKELY(oldest >= size))
			oldest -= size;
	}
	q->batch.oldest = (uint16_t)oldest;
	q->batch.open = open;
	q->room += taken;
	q->taken += n;
	if (LAYOUT_IS_PACKED(layout))
		packed_advance(&q->packed.used, taken, size);
	else
		q->split.used_seen = (uint16_t)(q->split.used_seen + n);
	return n;
}

ALWAYS_INLINE int get_in_order(struct virtq_driver *q, struct virtq_completion *done,
			       unsigned int max, const enum ring_layout layout)
{
	uint32_t ready = 0;
	unsigned int n = 0;

	if (!LAYOUT_IS_PACKED(layout)) {
		ready = split_driver_ready(&q->split);
		if (UNLIKELY(ready > q->published - q->taken || ready < batch_left(q)))
			return break_queue(q, VIRTQ_FAULT_USED_IDX, q->split.used_seen,
					   (uint16_t)(q->split.used_seen + ready));
		if (max > ready)
			max = ready;
	}
	while (n < max) {
		int rc = q->batch.open ? 1 : open_batch(q, ready - n, layout);

		if (rc <= 0)
			return n ? (int)n : rc;
		n += take_batch(q, done + n, max - n, layout);
	}
	return (int)n;
}

ALWAYS_INLINE int get_all(struct virtq_driver *q, struct virtq_completion *done,
			  unsigned int max, const enum ring_layout layout)
{
	if (LAYOUT_IS_IN_ORDER(layout))
		return get_in_order(q, done, max, layout);
	if (!LAYOUT_IS_PACKED(layout))
		return LIKELY(!q->keep) ? get_split(q, done, max, false) :
					  get_split(q, done, max, true);
	if (LIKELY(!q->packed.ring.platform))
		return LIKELY(!q->keep) ? get_packed(q, done, max, false, false) :
					  get_packed(q, done, max, false, true);
	return get_packed(q, done, max, true, q->keep);
}

LAYOUT_EACH(get_all, (struct virtq_driver *q, struct virtq_completion *done, unsigned int max), q,
	    done, max)

int virtq_driver_get(struct virtq_driver *q, struct virtq_completion *done, unsigned int max)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	LAYOUT_CALL(q->layout, get_all, q, done, max);
}
