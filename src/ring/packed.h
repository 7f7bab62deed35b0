/* SPDX-License-Identifier: MIT */
/*
 * The packed ring (VIRTIO 1.4, 2.8), both ends: the only place that knows how
 * one lies in memory. Positions are slots below the size, each with the wrap
 * counter of its lap; sizes need not be powers of two, so nothing is masked.
 *
 * The lettered orders are defined in docs/ordering.md. The flags of a
 * descriptor are its lock: whoever reads them with acquire and finds the
 * descriptor his may read the rest.
 */
#ifndef VIRTQ_RING_PACKED_H
#define VIRTQ_RING_PACKED_H

#include <errno.h>

#include <virtq/ring.h>
#include <virtq/spec/ring.h>

#include "base/check.h"
#include "base/shm.h"
#include "ring/event.h"

#define PACKED_AVAIL ((uint16_t)(1u << VIRTQ_DESC_F_AVAIL))
#define PACKED_USED ((uint16_t)(1u << VIRTQ_DESC_F_USED))

/* ---- The areas ---------------------------------------------------------- */

struct packed_ring {
	struct pvirtq_desc *desc;
	struct pvirtq_event_suppress *driver_event;
	struct pvirtq_event_suppress *device_event;
	uint32_t size;
	bool event_idx;
	bool platform;		/* ORDER_PLATFORM: stronger barriers, see base/shm.h */
};

static inline void packed_ring_set(struct packed_ring *ring, const struct virtq_ring *at,
				   bool event_idx, bool platform)
{
	ring->desc = at->desc;
	ring->driver_event = at->driver;
	ring->device_event = at->device;
	ring->size = at->size;
	ring->event_idx = event_idx;
	ring->platform = platform;
}

/* A place in the ring: one side's cursor. */
struct packed_cursor {
	uint16_t slot;
	bool wrap;
};

/* Move by @count slots, at most once round: the wrap counter flips at the end (2.8.1). */
ALWAYS_INLINE void packed_advance(struct packed_cursor *at, uint32_t count, uint32_t size)
{
	uint32_t slot = at->slot + count;

	if (slot >= size) {
		slot -= size;
		at->wrap = !at->wrap;
	}
	at->slot = (uint16_t)slot;
}

/* The way back, for a list that is handed back untouched. */
ALWAYS_INLINE void packed_retreat(struct packed_cursor *at, uint32_t count, uint32_t size)
{
	uint32_t slot = at->slot;

	if (slot < count) {
		slot += size;
		at->wrap = !at->wrap;
	}
	at->slot = (uint16_t)(slot - count);
}

/* Bits 0-14 and 15 of an off_wrap field, and of a position. */
ALWAYS_INLINE uint16_t packed_off_wrap(struct packed_cursor at)
{
	return (uint16_t)(at.slot | (at.wrap ? 1u << 15 : 0));
}

/*
 * Where the other side stands when this one has staged up to @at, from
 * @first_slot on if it has @staged anything; as off_wrap.
 */
ALWAYS_INLINE uint16_t packed_first_staged(struct packed_cursor at, bool staged,
					   uint16_t first_slot)
{
	if (staged) {
		/* The lap before this one, if what is staged goes round the end. */
		at.wrap = at.wrap == (at.slot > first_slot);
		at.slot = first_slot;
	}
	return packed_off_wrap(at);
}

static inline struct packed_cursor packed_cursor_of(uint16_t off_wrap)
{
	struct packed_cursor at = { off_wrap & 0x7fff, off_wrap >> 15 };

	return at;
}

/* AVAIL equal to the wrap counter, USED its inverse: the device's turn. */
ALWAYS_INLINE uint16_t packed_avail_flags(bool wrap)
{
	return wrap ? PACKED_AVAIL : PACKED_USED;
}

ALWAYS_INLINE bool packed_is_avail(uint16_t flags, bool wrap)
{
	return (flags & (PACKED_AVAIL | PACKED_USED)) == packed_avail_flags(wrap);
}

/* Both bits equal to the wrap counter: the driver's turn. */
ALWAYS_INLINE uint16_t packed_used_flags(bool wrap)
{
	return wrap ? PACKED_AVAIL | PACKED_USED : 0;
}

ALWAYS_INLINE bool packed_is_used(uint16_t flags, bool wrap)
{
	return (flags & (PACKED_AVAIL | PACKED_USED)) == packed_used_flags(wrap);
}

/*
 * Store our own event structure. The offset goes first: a peer that sees the
 * flags also sees what they speak of (2.8.10).
 */
ALWAYS_INLINE void packed_event_store(struct pvirtq_event_suppress *own, uint16_t flags,
				      uint16_t off_wrap)
{
	if (flags == RING_EVENT_FLAGS_DESC) {
		shm_store16(&own->off_wrap, off_wrap);
		shm_fence_release();
	}
	shm_store16(&own->flags, flags);
}

/* ---- Driver end --------------------------------------------------------- */

/* What adding buffers moves on. */
struct packed_fill {
	struct packed_cursor avail;	/* next slot to fill; staged up to here */
	/* The head staged first since the last publish: its flags are held back. */
	bool staged;
	uint16_t staged_slot;
	uint16_t staged_flags;
	uint16_t next_id;		/* in order: ids go in a circle */
	uint32_t moved;			/* slots filled since the last decision on a kick */
};

struct packed_driver {
	struct packed_ring ring;
	bool in_order;
	uint16_t *free;			/* free ids; the last freed are taken first, being warm */
	uint32_t free_count;
	struct packed_fill fill;
	struct packed_cursor used;	/* next slot the device will mark used */
	bool decided;			/* fill.moved means something */
	enum event_wish wish;		/* what we last told the peer */
};

static inline void packed_driver_reset(struct packed_driver *drv, struct packed_cursor at,
				       bool fresh)
{
	drv->fill = (struct packed_fill){ .avail = at };
	drv->used = at;
	drv->decided = fresh;
	drv->wish = fresh ? WISH_ARMED : WISH_UNKNOWN;
	drv->free_count = drv->ring.size;
	for (uint32_t i = 0; i < drv->ring.size; i++)
		drv->free[i] = (uint16_t)(drv->ring.size - 1 - i);
}

/* The id to take next. */
ALWAYS_INLINE uint16_t packed_driver_id(const struct packed_driver *drv)
{
	return drv->in_order ? drv->fill.next_id : drv->free[drv->free_count - 1];
}

/* What of a descriptor lies behind its address, as one word. */
ALWAYS_INLINE uint64_t packed_desc_rest(uint32_t len, uint32_t id, uint32_t flags)
{
	return len | (uint64_t)id << 32 | (uint64_t)flags << 48;
}

/* Two stores: see packed_driver_stage() for why they need no order. */
ALWAYS_INLINE void packed_desc_store(struct pvirtq_desc *desc, uint64_t addr, uint64_t rest)
{
	shm_store64(&desc->addr, addr);
	shm_store64((virtq_le64 *)(void *)&desc->len, rest);
}

/*
 * Write the descriptor that is first of a batch, all but its flags: those stay of the
 * lap before, so that the device keeps out, until they are published.
 */
ALWAYS_INLINE void packed_driver_hold(const struct packed_ring *ring, struct packed_fill *fill,
				      uint16_t slot, uint64_t addr, uint64_t rest)
{
	struct pvirtq_desc *desc = &ring->desc[slot];

	fill->staged = true;
	fill->staged_slot = slot;
	fill->staged_flags = (uint16_t)(rest >> 48);
	shm_store64(&desc->addr, addr);
	shm_store32(&desc->len, (uint32_t)rest);
	shm_store16(&desc->id, (uint16_t)(rest >> 32));
}

/*
 * Write a list of @count elements, or one INDIRECT element, into the next
 * slots. The caller has made sure that there is room. Returns its id.
 *
 * The first head of a batch keeps the flags of the lap before, so that the device
 * stays out. The others need no order: it takes lists in turn and cannot come to
 * them before the head that is held back (2.8.2).
 */
ALWAYS_INLINE uint16_t packed_driver_stage(struct packed_driver *drv,
					   const struct virtq_seg *segs, uint32_t readable,
					   uint32_t count, uint16_t extra_flags)
{
	struct packed_fill *fill = &drv->fill;
	uint16_t id = packed_driver_id(drv);

	if (drv->in_order)
		fill->next_id = id + 1u < drv->ring.size ? (uint16_t)(id + 1) : 0;
	else
		drv->free_count--;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t flags = extra_flags | packed_avail_flags(fill->avail.wrap) |
				 (i >= readable ? VIRTQ_DESC_F_WRITE : 0u) |
				 (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0u);
		/* Only the last member's id counts (2.8.6); the others carry it too. */
		uint64_t rest = packed_desc_rest(segs[i].len, id, flags);
		uint16_t slot = fill->avail.slot;

		if (fill->staged)
			packed_desc_store(&drv->ring.desc[slot], segs[i].addr, rest);
		else
			packed_driver_hold(&drv->ring, fill, slot, segs[i].addr, rest);
		packed_advance(&fill->avail, 1, drv->ring.size);
	}
	fill->moved += count;
	return id;
}

/* Take back the list of @count elements staged last, with @id: no flag of it may stay (2.8.1). */
ALWAYS_INLINE void packed_driver_unstage(struct packed_driver *drv, uint16_t id, uint32_t count)
{
	struct packed_fill *fill = &drv->fill;

	for (uint32_t i = 0; i < count; i++) {
		packed_retreat(&fill->avail, 1, drv->ring.size);
		if (fill->avail.slot == fill->staged_slot)
			fill->staged = false;
		else
			shm_store16(&drv->ring.desc[fill->avail.slot].flags,
				    packed_used_flags(!fill->avail.wrap));
	}
	fill->moved -= count;
	if (drv->in_order)
		fill->next_id = id;
	else
		drv->free[drv->free_count++] = id;
}

/* Show the device every list staged since the last call (2.8.21.2). */
ALWAYS_INLINE void packed_driver_publish(struct packed_driver *drv)
{
	/*
	 * [A] release: all descriptors of the batch before the flags of its
	 * first head, which alone keep the device out. Pairs with the [A]
	 * acquire in packed_device_flags().
	 */
	shm_publish16(&drv->ring.desc[drv->fill.staged_slot].flags, drv->fill.staged_flags,
		      drv->ring.platform);
	drv->fill.staged = false;
}

/* Where the next list not yet offered will begin, as off_wrap (2.9). */
ALWAYS_INLINE uint16_t packed_driver_next(const struct packed_driver *drv)
{
	return packed_first_staged(drv->fill.avail, drv->fill.staged, drv->fill.staged_slot);
}

/* Must the driver notify the device of what it has just published (2.8.21.3)? */
ALWAYS_INLINE bool packed_driver_needs_kick(struct packed_driver *drv)
{
	uint32_t moved = drv->decided ? drv->fill.moved : drv->ring.size + 1;

	drv->fill.moved = 0;
	drv->decided = true;
	/*
	 * [C] full: our flags store before our load of the device's event
	 * structure. Pairs with [C] in packed_device_arm().
	 */
	shm_fence_kick(drv->ring.platform);
	return packed_event_wanted(drv->ring.device_event, drv->ring.event_idx,
				   drv->fill.avail.slot, drv->fill.avail.wrap, moved,
				   drv->ring.size);
}

/*
 * Is the descriptor at @slot used, its flags being @turn? If so, UNTRUSTED copies of its id and
 * length, read once. Only the next expected slot is looked at (2.8.2).
 */
ALWAYS_INLINE bool packed_driver_reap(const struct packed_ring *ring, uint32_t slot, uint32_t turn,
				      bool platform, uint32_t *id, uint32_t *len)
{
	struct pvirtq_desc *desc = &ring->desc[slot];
	/* [B] acquire: pairs with the [B] release in packed_device_publish(). */
	uint32_t flags = shm_observe16(&desc->flags, platform);

	if ((flags & (PACKED_AVAIL | PACKED_USED)) != turn)
		return false;
	*id = shm_load16(&desc->id);
	*len = shm_load32(&desc->len);
	/* Without WRITE the length means nothing (2.8.4). */
	if (UNLIKELY(!(flags & VIRTQ_DESC_F_WRITE)))
		*len = 0;
	return true;
}

/*
 * Ask for a call when @count more slots are used (2.8.14), no more than there
 * are; without EVENT_IDX it is the next one. True if one has been already.
 */
ALWAYS_INLINE bool packed_driver_arm(struct packed_driver *drv, uint32_t count)
{
	struct packed_cursor at = drv->used;
	uint16_t flags;

	packed_advance(&at, count - 1, drv->ring.size);
	if (drv->ring.event_idx)
		packed_event_store(drv->ring.driver_event, RING_EVENT_FLAGS_DESC,
				   packed_off_wrap(at));
	else if (drv->wish != WISH_ARMED)
		packed_event_store(drv->ring.driver_event, RING_EVENT_FLAGS_ENABLE, 0);
	drv->wish = WISH_ARMED;
	/* [D] full: pairs with [D] in packed_device_needs_call(). */
	shm_fence_call(drv->ring.platform);
	flags = shm_load16(&drv->ring.desc[drv->used.slot].flags);
	return packed_is_used(flags, drv->used.wrap);
}

ALWAYS_INLINE void packed_driver_disarm(struct packed_driver *drv)
{
	if (drv->wish != WISH_DISARMED)
		packed_event_store(drv->ring.driver_event, RING_EVENT_FLAGS_DISABLE, 0);
	drv->wish = WISH_DISARMED;
}

/* ---- Device end --------------------------------------------------------- */

/* What pushing moves on. */
struct packed_give {
	struct packed_cursor used;	/* next slot to mark; staged up to here */
	/* The used descriptor staged first since the last publish: flags held back. */
	bool staged;
	uint16_t staged_slot;
	uint16_t staged_flags;
	uint32_t moved;			/* slots marked since the last decision on a call */
};

struct packed_device {
	struct packed_ring ring;
	struct packed_cursor avail;	/* next slot to take */
	bool decided;			/* give.moved means something */
	enum event_wish wish;		/* what we last told the peer */
	struct packed_give give;
};

static inline void packed_device_reset(struct packed_device *dev, struct packed_cursor avail,
				       struct packed_cursor used)
{
	dev->avail = avail;
	dev->give = (struct packed_give){ .used = used };
	/* What the driver armed before we came is unknown: the first call is sent (N-DEV-012). */
	dev->decided = false;
	dev->wish = WISH_UNKNOWN;
}

/* The flags at @slot, which say whose turn it is; read once. UNTRUSTED. */
ALWAYS_INLINE uint16_t packed_device_flags(const struct packed_ring *ring, uint32_t slot,
					   bool platform)
{
	/* [A] acquire: pairs with the [A] release in packed_driver_publish(). */
	return shm_observe16(&ring->desc[slot].flags, platform);
}

/* A private copy of one descriptor but its flags, each field read once. UNTRUSTED. */
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id;
	uint16_t flags;
};

ALWAYS_INLINE struct packed_desc packed_desc_load(const struct pvirtq_desc *desc,
						  uint16_t flags)
{
	struct packed_desc d = {
		.addr = shm_load64(&desc->addr),
		.len = shm_load32(&desc->len),
		.id = shm_load16(&desc->id),
		.flags = flags,
	};

	return d;
}

/* Mark the list that begins at @slot used: one descriptor stands for it (2.8.6). */
ALWAYS_INLINE void packed_device_mark(const struct packed_ring *ring, uint32_t slot, uint32_t flags,
				      uint32_t id, uint32_t len)
{
	/* WRITE says that the length means something (2.8.4). */
	shm_store_words(&ring->desc[slot].len, len, id, flags | (len ? VIRTQ_DESC_F_WRITE : 0u));
}

/*
 * Mark the list of @count slots with buffer id @id used; the driver sees it at
 * the next publish. The flags of the first of a batch are left as they are; the
 * driver looks at them before the others (2.8.2), which therefore need no order.
 */
ALWAYS_INLINE void packed_device_stage(struct packed_device *dev, uint32_t id, uint32_t len,
				       uint32_t count)
{
	struct packed_give *give = &dev->give;
	uint16_t flags = packed_used_flags(give->used.wrap);

	if (!give->staged) {
		struct pvirtq_desc *desc = &dev->ring.desc[give->used.slot];

		give->staged = true;
		give->staged_slot = give->used.slot;
		give->staged_flags = (uint16_t)(flags | (len ? VIRTQ_DESC_F_WRITE : 0));
		shm_store32(&desc->len, len);
		shm_store16(&desc->id, (uint16_t)id);
	} else {
		packed_device_mark(&dev->ring, give->used.slot, flags, id, len);
	}
	packed_advance(&give->used, count, dev->ring.size);
	give->moved += count;
}

/* Up to where the driver has been shown what is used, as off_wrap. */
ALWAYS_INLINE uint16_t packed_device_shown(const struct packed_device *dev)
{
	return packed_first_staged(dev->give.used, dev->give.staged, dev->give.staged_slot);
}

ALWAYS_INLINE bool packed_device_staged(const struct packed_device *dev)
{
	return dev->give.staged;
}

/* Show the driver everything staged since the last call, all at once (2.8.9). */
ALWAYS_INLINE void packed_device_publish(struct packed_device *dev)
{
	/*
	 * [B] release: data, ids, lengths and the flags of later slots before
	 * the flags of the first. Pairs with the [B] acquire in
	 * packed_driver_reap().
	 */
	shm_publish16(&dev->ring.desc[dev->give.staged_slot].flags, dev->give.staged_flags,
		      dev->ring.platform);
	dev->give.staged = false;
}

/* Must the device call the driver about what it has just published (2.8.10)? */
ALWAYS_INLINE bool packed_device_needs_call(struct packed_device *dev)
{
	uint32_t moved = dev->decided ? dev->give.moved : dev->ring.size + 1;

	dev->give.moved = 0;
	dev->decided = true;
	/*
	 * [D] full: our flags store before our load of the driver's event
	 * structure. Pairs with [D] in packed_driver_arm().
	 */
	shm_fence_call(dev->ring.platform);
	return packed_event_wanted(dev->ring.driver_event, dev->ring.event_idx,
				   dev->give.used.slot, dev->give.used.wrap, moved,
				   dev->ring.size);
}

/* Ask for a kick when the next list arrives (2.8.10). True if one slipped in meanwhile. */
ALWAYS_INLINE bool packed_device_arm(struct packed_device *dev)
{
	if (dev->ring.event_idx)
		packed_event_store(dev->ring.device_event, RING_EVENT_FLAGS_DESC,
				   packed_off_wrap(dev->avail));
	else if (dev->wish != WISH_ARMED)
		packed_event_store(dev->ring.device_event, RING_EVENT_FLAGS_ENABLE, 0);
	dev->wish = WISH_ARMED;
	/* [C] full: pairs with [C] in packed_driver_needs_kick(). */
	shm_fence_kick(dev->ring.platform);
	return packed_is_avail(packed_device_flags(&dev->ring, dev->avail.slot,
						   dev->ring.platform), dev->avail.wrap);
}

ALWAYS_INLINE void packed_device_disarm(struct packed_device *dev)
{
	if (dev->wish != WISH_DISARMED)
		packed_event_store(dev->ring.device_event, RING_EVENT_FLAGS_DISABLE, 0);
	dev->wish = WISH_DISARMED;
}

#endif
