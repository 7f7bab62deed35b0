/* SPDX-License-Identifier: MIT */
/*
 * The driver end of a queue. What it hands to the device it remembers here, in
 * private memory, and never reads back from the ring.
 */
#include <string.h>

#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "ring/driver.h"

/*
 * A table costs the device another cache miss: shorter chains have one only
 * where entries are scarce. Of three elements, direct takes 0.7 of the time.
 */
#define INDIRECT_FROM 4u

/* ---- Set-up ------------------------------------------------------------- */

static size_t chains_offset(void)
{
	return align_up(sizeof(struct virtq_driver), 64);
}

static size_t links_offset(uint32_t size)
{
	return chains_offset() + sizeof(struct chain) * (size_t)size;
}

size_t virtq_driver_bytes(const struct virtq_driver_config *config)
{
	return links_offset(config->ring.size) + 2 * sizeof(uint16_t) * (size_t)config->ring.size;
}

static int check_indirect(const struct virtq_driver_config *config, struct virtq_error *err)
{
	if (!config->indirect)
		return 0;
	if (!config->indirect_entries || config->indirect_entries > VIRTQ_QUEUE_SIZE_MAX)
		return error_set(err, -EINVAL, "an indirect table of %u entries cannot be",
				 config->indirect_entries);
	if ((uintptr_t)config->indirect % sizeof(struct virtq_desc))
		return error_set(err, -EINVAL, "indirect tables are not aligned to 16 bytes");
	return 0;
}

/* Clear the ring as the standard wants it before the device sees it (2.7.10.1, 2.8.13). */
static void clear_ring(const struct virtq_ring *ring)
{
	struct virtq_ring_shape shape;

	if (virtq_ring_shape(ring->features, ring->size, &shape))
		return;
	memset(ring->desc, 0, shape.desc_bytes);
	memset(ring->driver, 0, shape.driver_bytes);
	memset(ring->device, 0, shape.device_bytes);
}

/* Nothing may be in flight at a position to go on from: both sides stand at one place. */
static int check_position(const struct virtq_driver_config *config, struct virtq_error *err)
{
	uint32_t position;
	int rc;

	if (!config->position)
		return 0;
	position = *config->position;
	rc = ring_position_check(config->ring.features, config->ring.size, position, err);
	if (!rc && LAYOUT_IS_PACKED(ring_layout_of(config->ring.features)) &&
	    position >> 16 != (position & 0xffff))
		rc = error_set(err, -EINVAL, "0x%x is a position with buffers in flight",
			       position);
	return rc;
}

int virtq_driver_init(void *memory, struct virtq_driver **out,
		      const struct virtq_driver_config *config, struct virtq_error *err)
{
	struct virtq_driver *q = memory;
	bool event_idx = virtq_features_has(config->ring.features, VIRTIO_F_EVENT_IDX);
	bool platform = virtq_features_has(config->ring.features, VIRTIO_F_ORDER_PLATFORM);
	uint32_t position = config->position ? *config->position :
					       ring_position_start(config->ring.features);
	bool fresh = !config->position;
	uint16_t *links;
	int rc;

	rc = ring_check(&config->ring, err);
	if (!rc)
		rc = check_indirect(config, err);
	if (!rc)
		rc = check_position(config, err);
	if (rc)
		return rc;

	memset(memory, 0, virtq_driver_bytes(config));
	q->layout = ring_layout_of(config->ring.features);
	q->keep = config->keep && q->layout == RING_SPLIT;
	q->ring = config->ring;
	q->room = config->ring.size;
	q->notification_data = virtq_features_has(config->ring.features,
						  VIRTIO_F_NOTIFICATION_DATA);
	q->chains = (struct chain *)(void *)((uint8_t *)memory + chains_offset());
	for (uint32_t i = 0; i < config->ring.size; i++)
		q->chains[i].serial = NOT_IN_FLIGHT;
	links = (uint16_t *)(void *)((uint8_t *)memory + links_offset(config->ring.size));
	q->segs_max = config->segs_max ? config->segs_max : UINT32_MAX;
	if (config->indirect &&
	    virtq_features_has(config->ring.features, VIRTIO_F_INDIRECT_DESC)) {
		q->indirect_on = true;
		q->indirect = config->indirect;
		q->indirect_addr = config->indirect_addr;
		/* No chain may be longer than the queue, tables counted (2.7.5.3.1, 2.8.19). */
		q->indirect_entries = config->indirect_entries < config->ring.size ?
				      config->indirect_entries : config->ring.size;
		q->indirect_from = config->indirect_from ? config->indirect_from : INDIRECT_FROM;
	}
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_ring_set(&q->packed.ring, &config->ring, event_idx, platform);
		q->packed.in_order = LAYOUT_IS_IN_ORDER(q->layout);
		q->packed.free = links;
		packed_driver_reset(&q->packed, packed_cursor_of((uint16_t)position), fresh);
	} else {
		split_ring_set(&q->split.ring, &config->ring, event_idx, platform);
		q->split.in_order = LAYOUT_IS_IN_ORDER(q->layout);
		q->split.free = links;
		q->split.next = links + config->ring.size;
		split_driver_reset(&q->split, (uint16_t)position, fresh);
	}
	if (fresh)
		clear_ring(&config->ring);
	*out = q;
	return 0;
}

/* ---- Making buffers available ------------------------------------------- */

/* Bytes of @count elements, 0 if one is empty (S-DRV-046). */
ALWAYS_INLINE uint64_t total_bytes(const struct virtq_seg *segs, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (UNLIKELY(!segs[i].len))
			return 0;
		sum += segs[i].len;
	}
	return sum;
}

/*
 * Fill the indirect table that belongs to @table and describe it as one
 * element. Split links the entries by next, packed takes them as they lie and
 * allows no flag but WRITE (2.8.19).
 */
ALWAYS_INLINE struct virtq_seg fill_indirect(struct virtq_driver *q, uint32_t table,
					     const struct virtq_buffer *buf, uint32_t count,
					     const enum ring_layout layout)
{
	size_t first = (size_t)table * q->indirect_entries;
	struct virtq_desc *entries = q->indirect + first;
	struct virtq_seg whole = {
		.addr = q->indirect_addr + first * sizeof(*entries),
		.len = count * (uint32_t)sizeof(*entries),
	};

	for (uint32_t i = 0; i < count; i++) {
		bool more = !LAYOUT_IS_PACKED(layout) && i + 1 < count;
		uint16_t flags = (uint16_t)((i >= buf->readable ? VIRTQ_DESC_F_WRITE : 0) |
					    (more ? VIRTQ_DESC_F_NEXT : 0));

		if (LAYOUT_IS_PACKED(layout)) {
			struct pvirtq_desc *desc = (struct pvirtq_desc *)(void *)&entries[i];

			shm_store64(&desc->addr, buf->segs[i].addr);
			shm_store32(&desc->len, buf->segs[i].len);
			shm_store16(&desc->id, 0);
			shm_store16(&desc->flags, flags);
		} else {
			split_desc_store(&entries[i], buf->segs[i].addr, buf->segs[i].len, flags,
					 more ? (uint16_t)(i + 1) : 0);
		}
	}
	return whole;
}

/* Remember what was staged under @chain. */
ALWAYS_INLINE void remember(struct chain *chain, void *token, uint64_t serial,
			    uint32_t writable_bytes, uint32_t entries)
{
	chain->token = token;
	chain->serial = serial;
	chain->writable_bytes = writable_bytes;
	chain->entries = entries;
}

/* Stage @count elements, for which there is room, and remember the buffer. */
ALWAYS_INLINE void stage(struct virtq_driver *q, const struct virtq_seg *segs,
			 uint32_t readable, uint32_t count, uint16_t flags,
			 uint32_t writable_bytes, void *token, const enum ring_layout layout)
{
	uint16_t head = LAYOUT_IS_PACKED(layout) ?
			packed_driver_stage(&q->packed, segs, readable, count, flags) :
			split_driver_stage(&q->split, q->room, segs, readable, count, flags);

	remember(&q->chains[head], token, q->added++, writable_bytes, count);
	q->room -= count;
}

/*
 * Whether a chain of @count elements, more than one, goes into a table: long
 * ones do, and all do when ring entries are getting scarce.
 */
ALWAYS_INLINE bool wants_table(const struct virtq_driver *q, uint32_t count)
{
	return q->indirect_on && count > 1 && count <= q->indirect_entries &&
	       (count >= q->indirect_from || 2 * q->room < q->ring.size || count > q->room);
}

/* A buffer of any kind: as a chain, or as one entry that names a table. */
ALWAYS_INLINE int add_one(struct virtq_driver *q, const struct virtq_buffer *buf,
			  const enum ring_layout layout)
{
	uint32_t count = (uint32_t)buf->readable + buf->writable;
	const struct virtq_seg *segs = buf->segs;
	uint64_t readable_bytes = total_bytes(segs, buf->readable);
	uint64_t writable_bytes = total_bytes(segs + buf->readable, buf->writable);
	uint32_t writable;

	if (UNLIKELY(!count || (buf->readable && !readable_bytes) ||
		     (buf->writable && !writable_bytes) ||
		     readable_bytes + writable_bytes > MAX_CHAIN_BYTES))
		return -EINVAL;
	if (UNLIKELY(count > q->segs_max))
		return -EMSGSIZE;
	/* A chain may hold 2^32 bytes, the used length can say one fewer. */
	writable = writable_bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)writable_bytes;

	if (wants_table(q, count)) {
		struct virtq_seg table;

		if (UNLIKELY(!q->room))
			return -ENOSPC;
		/* The table that goes with the head or id that will be taken next. */
		table = fill_indirect(q, LAYOUT_IS_PACKED(layout) ? packed_driver_id(&q->packed) :
					      split_driver_slot(&q->split, q->room, 0),
				      buf, count, layout);
		stage(q, &table, 1, 1, VIRTQ_DESC_F_INDIRECT, writable, buf->token, layout);
	} else if (UNLIKELY(count > q->room)) {
		return count > q->ring.size ? -EMSGSIZE : -ENOSPC;
	} else {
		stage(q, segs, buf->readable, count, 0, writable, buf->token, layout);
	}
	return 0;
}

LAYOUT_EACH(add_one, (struct virtq_driver *q, const struct virtq_buffer *buf), q, buf)

static int add_one_by_layout(struct virtq_driver *q, const struct virtq_buffer *buf)
{
	LAYOUT_CALL(q->layout, add_one, q, buf);
}

/* The elements of a buffer as one word, readable ones below, writable ones above. */
#define ONE_READABLE 1u
#define ONE_WRITABLE (1u << 16)

ALWAYS_INLINE uint32_t elements_of(const struct virtq_buffer *buf)
{
	return buf->readable | (uint32_t)buf->writable << 16;
}

ALWAYS_INLINE bool is_single(const struct virtq_buffer *buf)
{
	uint32_t elements = elements_of(buf);

	return elements == ONE_WRITABLE || elements == ONE_READABLE;
}

/*
 * The fast way: buffers of one element, which is what most are, as long as
 * there is room. It stops before everything else, be it long or wrong, and
 * leaves that to add_one().
 *
 * No calls, and what the loop needs in locals: every store into the ring may,
 * for all the compiler knows, change @q.
 */
ALWAYS_INLINE unsigned int add_singles_split(struct virtq_driver *q,
					     const struct virtq_buffer *bufs, unsigned int max,
					     const enum ring_layout layout)
{
	const struct split_ring ring = q->split.ring;
	const uint16_t *free = q->split.free + q->room;
	struct chain *const chains = q->chains;
	const uint64_t added = q->added, end = added + max;
	/* The index and, in order, the slot of a chain, from its serial. */
	const uint32_t to_idx = q->split.avail_idx - (uint32_t)added;
	const uint32_t to_slot = q->split.next_slot - (uint32_t)added;
	uint64_t serial = added;

	for (; serial != end; serial++, bufs++) {
		uint32_t writable = bufs->writable, head, len;

		if (UNLIKELY(!is_single(bufs)))
			break;
		len = bufs->segs->len;
		if (UNLIKELY(!len))
			break;
		head = LAYOUT_IS_IN_ORDER(layout) ? ((uint32_t)serial + to_slot) & ring.mask :
						    *--free;
		split_desc_store(&ring.desc[head], bufs->segs->addr, len,
				 writable * VIRTQ_DESC_F_WRITE, 0);
		split_driver_offer(&ring, (uint32_t)serial + to_idx, head);
		remember(&chains[head], bufs->token, serial, writable ? len : 0, 1);
	}
	q->split.next_slot = (uint16_t)(((uint32_t)serial + to_slot) & ring.mask);
	q->split.avail_idx = (uint16_t)((uint32_t)serial + to_idx);
	return (unsigned int)(serial - added);
}

ALWAYS_INLINE unsigned int add_singles_packed(struct virtq_driver *q,
					      const struct virtq_buffer *bufs, unsigned int max,
					      const enum ring_layout layout)
{
	const struct packed_ring ring = q->packed.ring;
	struct chain *const chains = q->chains;
	const uint64_t added = q->added, end = added + max;
	uint64_t serial = added;
	uint32_t id, slot, flags;
	const uint16_t *free;

	/* The first head of a batch is held back. */
	if (max && !q->packed.fill.staged && is_single(bufs) && bufs->segs->len) {
		id = packed_driver_stage(&q->packed, bufs->segs, bufs->readable, 1, 0);
		remember(&chains[id], bufs->token, serial++,
			 bufs->writable ? bufs->segs->len : 0, 1);
		q->packed.fill.moved--;		/* counted below, with the others */
		bufs++;
	}
	id = q->packed.fill.next_id;
	free = &q->packed.free[q->packed.free_count];
	slot = q->packed.fill.avail.slot;
	flags = packed_avail_flags(q->packed.fill.avail.wrap);
	for (; serial != end; serial++, bufs++) {
		uint32_t writable = bufs->writable, len;

		if (UNLIKELY(!is_single(bufs)))
			break;
		len = bufs->segs->len;
		if (UNLIKELY(!len))
			break;
		if (!LAYOUT_IS_IN_ORDER(layout))
			id = *--free;
		packed_desc_store(&ring.desc[slot], bufs->segs->addr, len, id,
				  flags | writable * VIRTQ_DESC_F_WRITE);
		remember(&chains[id], bufs->token, serial, writable ? len : 0, 1);
		if (LAYOUT_IS_IN_ORDER(layout) && UNLIKELY(++id == ring.size))
			id = 0;
		if (UNLIKELY(++slot == ring.size)) {
			slot = 0;
			flags ^= PACKED_AVAIL | PACKED_USED;
		}
	}
	if (LAYOUT_IS_IN_ORDER(layout))
		q->packed.fill.next_id = (uint16_t)id;
	else
		q->packed.free_count = (uint32_t)(free - q->packed.free);
	q->packed.fill.avail.slot = (uint16_t)slot;
	q->packed.fill.avail.wrap = flags == packed_avail_flags(true);
	q->packed.fill.moved += (uint32_t)(serial - added);
	return (unsigned int)(serial - added);
}

ALWAYS_INLINE unsigned int add_singles(struct virtq_driver *q, const struct virtq_buffer *bufs,
				       unsigned int count, const enum ring_layout layout)
{
	unsigned int max = count < q->room ? count : q->room;
	unsigned int n = LAYOUT_IS_PACKED(layout) ? add_singles_packed(q, bufs, max, layout) :
						    add_singles_split(q, bufs, max, layout);

	q->added += n;
	q->room -= n;
	return n;
}

ALWAYS_INLINE int add_all(struct virtq_driver *q, const struct virtq_buffer *bufs,
			  unsigned int count, const enum ring_layout layout)
{
	unsigned int n = 0;

	while (n < count) {
		int rc;

		if (is_single(&bufs[n])) {
			n += add_singles(q, bufs + n, count - n, layout);
			if (n == count)
				break;
		}
		rc = add_one_by_layout(q, &bufs[n]);
		if (UNLIKELY(rc))
			return n ? (int)n : rc;
		n++;
	}
	return (int)n;
}

LAYOUT_EACH(add_all, (struct virtq_driver *q, const struct virtq_buffer *bufs, unsigned int count),
	    q, bufs, count)

int virtq_driver_add(struct virtq_driver *q, const struct virtq_buffer *bufs,
		     unsigned int count)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	LAYOUT_CALL(q->layout, add_all, q, bufs, count);
}

/*
 * Only in a split ring: the descriptors, and the table, of a kept buffer stand
 * where they stood, and nothing but its head is shown again.
 */
int virtq_driver_again(struct virtq_driver *q, const struct virtq_completion *kept,
		       unsigned int count)
{
	struct chain *const chains = q->chains;
	const struct split_ring ring = q->split.ring;
	const uint32_t size = q->ring.size, idx = q->split.avail_idx;
	uint64_t serial = q->added;
	unsigned int n = 0;

	if (UNLIKELY(q->dead))
		return q->dead;
	for (; n < count; n++) {
		uint32_t id = kept[n].id;

		if (UNLIKELY(id >= size || chains[id].serial != KEPT))
			break;
		split_driver_offer(&ring, idx + n, id);
		chains[id].token = kept[n].token;
		chains[id].serial = serial++;
	}
	q->added = serial;
	q->split.avail_idx = (uint16_t)(idx + n);
	return n || !count ? (int)n : -EINVAL;
}

int virtq_driver_free(struct virtq_driver *q, uint32_t id)
{
	struct chain *chain;

	if (UNLIKELY(id >= q->ring.size || q->chains[id].serial != KEPT))
		return -EINVAL;
	chain = &q->chains[id];
	split_driver_release(q->split.free, q->split.next, q->room, id, chain->entries);
	q->room += chain->entries;
	chain->serial = NOT_IN_FLIGHT;
	return 0;
}

/*
 * Two passes: which buffers, youngest first, with the head or id of each where
 * the length will stand; then back with them, in that order, so that the free
 * list becomes what it was.
 */
int virtq_driver_unadd(struct virtq_driver *q, struct virtq_completion *back, unsigned int max)
{
	uint64_t count = q->added - q->published;

	if (UNLIKELY(q->dead))
		return q->dead;
	if (count > max)
		count = max;
	for (uint32_t id = 0; count && id < q->ring.size; id++) {
		const struct chain *chain = &q->chains[id];
		uint64_t age = q->added - 1 - chain->serial;

		if (chain->serial < KEPT && age < count) {
			back[age].token = chain->token;
			back[age].written = id;
		}
	}
	for (uint64_t i = 0; i < count; i++) {
		uint16_t id = (uint16_t)back[i].written;
		struct chain *chain = &q->chains[id];

		back[i].written = 0;
		if (LAYOUT_IS_PACKED(q->layout))
			packed_driver_unstage(&q->packed, id, chain->entries);
		else
			split_driver_unstage(&q->split, q->room, id, chain->entries);
		q->room += chain->entries;
		chain->serial = NOT_IN_FLIGHT;
	}
	q->added -= count;
	return (int)count;
}

int virtq_driver_publish(struct virtq_driver *q)
{
	if (q->published == q->added || UNLIKELY(q->dead))
		return 0;
	q->published = q->added;
	q->live = true;
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_driver_publish(&q->packed);
		return packed_driver_needs_kick(&q->packed);
	}
	split_driver_publish(&q->split);
	return split_driver_needs_kick(&q->split);
}

/* ---- Taking buffers back ------------------------------------------------ */

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
	q->room = room;
	q->taken += n;
	q->split.used_seen = (uint16_t)(seen + n);
	if (n || !fault)
		return (int)n;
	return break_queue(q, fault, seen, fault == VIRTQ_FAULT_USED_ID ? id : len);
}

ALWAYS_INLINE int get_packed(struct virtq_driver *q, struct virtq_completion *done,
			     unsigned int max, const bool platform)
{
	const struct packed_ring ring = q->packed.ring;
	uint16_t *const free = &q->packed.free[q->packed.free_count];
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
		entries = complete(&chains[id], &done[n], id, len, NOT_IN_FLIGHT);
		room += entries;
		free[n] = (uint16_t)id;
		/* Guessed, not computed: the next look need not wait for what this one finds. */
		slot = add_guessed(slot, entries, 1);
		if (UNLIKELY(slot >= ring.size)) {
			slot -= ring.size;
			turn ^= PACKED_AVAIL | PACKED_USED;
		}
	}
	q->room = room;
	q->taken += n;
	q->packed.used.slot = (uint16_t)slot;
	q->packed.used.wrap = turn == packed_used_flags(true);
	q->packed.free_count += n;
	if (n || !fault)
		return (int)n;
	return break_queue(q, fault, slot, fault == VIRTQ_FAULT_USED_ID ? id : len);
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
	return LIKELY(!q->packed.ring.platform) ? get_packed(q, done, max, false) :
						  get_packed(q, done, max, true);
}

LAYOUT_EACH(get_all, (struct virtq_driver *q, struct virtq_completion *done, unsigned int max), q,
	    done, max)

int virtq_driver_get(struct virtq_driver *q, struct virtq_completion *done, unsigned int max)
{
	if (UNLIKELY(q->dead))
		return q->dead;
	LAYOUT_CALL(q->layout, get_all, q, done, max);
}

int virtq_driver_arm_after(struct virtq_driver *q, uint32_t count)
{
	uint64_t in_flight = q->published - q->taken;
	bool ready;

	/* Of what will never be used nobody is told. */
	if (count > in_flight)
		count = (uint32_t)in_flight;
	if (!count)
		count = 1;
	ready = LAYOUT_IS_PACKED(q->layout) ? packed_driver_arm(&q->packed, count) :
					      split_driver_arm(&q->split, count);
	/* What is left of a batch has no mark of its own in the ring. */
	return ready || q->batch.open;
}

int virtq_driver_arm(struct virtq_driver *q)
{
	return virtq_driver_arm_after(q, 1);
}

void virtq_driver_disarm(struct virtq_driver *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		packed_driver_disarm(&q->packed);
	else
		split_driver_disarm(&q->split);
}

void virtq_driver_stop(struct virtq_driver *q)
{
	q->live = false;
}

int virtq_driver_detach(struct virtq_driver *q, void **token)
{
	if (q->live)
		return -EBUSY;
	/* The ring no longer says what is free: it has to be made anew. */
	if (!q->dead)
		q->dead = -ESHUTDOWN;
	for (; q->detach_at < q->ring.size; q->detach_at++) {
		struct chain *chain = &q->chains[q->detach_at];

		if (chain->serial >= KEPT)
			continue;
		*token = chain->token;
		chain->serial = NOT_IN_FLIGHT;
		q->taken++;
		return 1;
	}
	return 0;
}

uint32_t virtq_driver_kick_data(const struct virtq_driver *q, uint16_t vq_id)
{
	uint16_t next = LAYOUT_IS_PACKED(q->layout) ? packed_driver_next(&q->packed) :
						      q->split.avail_published;

	return q->notification_data ? (uint32_t)next << 16 | vq_id : vq_id;
}

/* ---- Questions ---------------------------------------------------------- */

const struct virtq_ring *virtq_driver_ring(const struct virtq_driver *q)
{
	return &q->ring;
}

uint32_t virtq_driver_room(const struct virtq_driver *q)
{
	return q->room;
}

int virtq_driver_keeps(const struct virtq_driver *q)
{
	return q->keep;
}

uint32_t virtq_driver_in_flight(const struct virtq_driver *q)
{
	return (uint32_t)(q->added - q->taken);
}

struct virtq_fault virtq_driver_fault(const struct virtq_driver *q)
{
	return q->fault;
}

uint32_t virtq_driver_position(const struct virtq_driver *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		return (uint32_t)packed_off_wrap(q->packed.used) << 16 |
		       packed_driver_next(&q->packed);
	return q->split.avail_published;
}
