/* SPDX-License-Identifier: MIT */
/*
 * The split ring (VIRTIO 1.4, 2.7), both ends: the only place that knows how
 * one lies in memory. Indices named _idx run freely over 16 bits; a slot is an
 * index modulo the size.
 *
 * The lettered orders are defined in docs/ordering.md.
 */
#ifndef VIRTQ_RING_SPLIT_H
#define VIRTQ_RING_SPLIT_H

#include <errno.h>

#include <virtq/ring.h>
#include <virtq/spec/ring.h>

#include "base/check.h"
#include "base/shm.h"
#include "ring/event.h"

/* ---- The areas ---------------------------------------------------------- */

struct split_ring {
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	virtq_le16 *heads;		/* available entries, behind *avail */
	struct virtq_used_elem *elems;	/* used elements, behind *used */
	uint32_t mask;		/* size - 1 */
	bool event_idx;
	bool platform;		/* ORDER_PLATFORM: stronger barriers, see base/shm.h */
};

static inline void split_ring_set(struct split_ring *ring, const struct virtq_ring *at,
				  bool event_idx, bool platform)
{
	ring->desc = at->desc;
	ring->avail = at->driver;
	ring->used = at->device;
	ring->heads = (virtq_le16 *)(void *)(ring->avail + 1);
	ring->elems = (struct virtq_used_elem *)(void *)(ring->used + 1);
	ring->mask = at->size - 1;
	ring->event_idx = event_idx;
	ring->platform = platform;
}

ALWAYS_INLINE virtq_le16 *split_avail_entry(const struct split_ring *ring, uint32_t idx)
{
	return ring->heads + (idx & ring->mask);
}

ALWAYS_INLINE struct virtq_used_elem *split_used_entry(const struct split_ring *ring,
						       uint32_t idx)
{
	return ring->elems + (idx & ring->mask);
}

/* The event words lie behind the last entry (2.7.6, 2.7.8); only with EVENT_IDX. */
ALWAYS_INLINE virtq_le16 *split_used_event(const struct split_ring *ring)
{
	return ring->heads + ring->mask + 1;
}

ALWAYS_INLINE virtq_le16 *split_avail_event(const struct split_ring *ring)
{
	return (virtq_le16 *)(void *)(ring->elems + ring->mask + 1);
}

/* ---- Driver end --------------------------------------------------------- */

struct split_driver {
	struct split_ring ring;
	bool in_order;
	/*
	 * Free descriptors, as many as the queue has room for; the last freed are
	 * taken first, being warm. In order none is needed: descriptors are taken
	 * and freed in a circle, from next_slot on (2.7.5).
	 */
	uint16_t *free;
	uint16_t *next;			/* private links of chains in flight */
	/*
	 * Publishing sets avail_published and avail_decided to avail_idx. They
	 * are kept apart: side by side, gcc sets them as one word that it loads
	 * from here, and that load waits for the 16-bit store still under way.
	 */
	uint16_t avail_idx;		/* next to fill; staged up to here */
	uint16_t next_slot;
	uint16_t avail_published;	/* the device has been shown up to here */
	uint16_t used_seen;		/* next used entry to take */
	uint16_t avail_decided;		/* avail_idx at the last decision on a kick */
	bool decided;			/* avail_decided means something */
	enum event_wish wish;		/* what we last told the peer */
};

/*
 * Nothing in flight, everything before @idx done. In a @fresh ring, cleared,
 * flags are 0; what an old one holds is unknown, so the first kick is sent and
 * the first arm writes them.
 */
static inline void split_driver_reset(struct split_driver *drv, uint16_t idx, bool fresh)
{
	drv->avail_idx = drv->avail_published = drv->avail_decided = drv->used_seen = idx;
	drv->decided = fresh;
	drv->wish = fresh ? WISH_ARMED : WISH_UNKNOWN;
	drv->next_slot = 0;
	for (uint32_t i = 0; i <= drv->ring.mask; i++)
		drv->free[i] = (uint16_t)(drv->ring.mask - i);
}

/* Two stores: a descriptor is not looked at before it is published. */
ALWAYS_INLINE void split_desc_store(struct virtq_desc *desc, uint64_t addr, uint32_t len,
				    uint32_t flags, uint32_t next)
{
	shm_store64(&desc->addr, addr);
	shm_store_words(&desc->len, len, flags, next);
}

/* Name the chain that begins with @head in the available entry at @avail_idx. */
ALWAYS_INLINE void split_driver_offer(const struct split_ring *ring, uint32_t avail_idx,
				      uint32_t head)
{
	shm_store16(split_avail_entry(ring, avail_idx), (uint16_t)head);
}

/* The descriptor to take with @room of them left, @ahead entries from now. */
ALWAYS_INLINE uint16_t split_driver_slot(const struct split_driver *drv, uint32_t room,
					 uint32_t ahead)
{
	return drv->in_order ? (uint16_t)((drv->next_slot + ahead) & drv->ring.mask) :
			       drv->free[room - 1 - ahead];
}

/*
 * Write one chain of @count elements, or of one INDIRECT element, into free
 * descriptors, of which there are @room, and its head into the next available
 * entry. The caller has made sure that there are enough. Returns the head.
 */
ALWAYS_INLINE uint16_t split_driver_stage(struct split_driver *drv, uint32_t room,
					  const struct virtq_seg *segs, uint32_t readable,
					  uint32_t count, uint32_t extra_flags)
{
	uint16_t head = split_driver_slot(drv, room, 0), at = head;

	for (uint32_t i = 0; i < count; i++) {
		bool more = i + 1 < count;
		uint32_t flags = extra_flags | (i >= readable ? VIRTQ_DESC_F_WRITE : 0u) |
				 (more ? VIRTQ_DESC_F_NEXT : 0u);
		uint16_t next = more ? split_driver_slot(drv, room, i + 1) : 0;

		split_desc_store(&drv->ring.desc[at], segs[i].addr, segs[i].len, flags, next);
		/* Our own links: the table the device sees is never read back. */
		drv->next[at] = next;
		at = next;
	}
	drv->next_slot = (uint16_t)((drv->next_slot + count) & drv->ring.mask);
	split_driver_offer(&drv->ring, drv->avail_idx++, head);
	return head;
}

/* Put the @entries descriptors that begin with @head back, to be taken first, in that order. */
ALWAYS_INLINE void split_driver_release(uint16_t *free, const uint16_t *next, uint32_t room,
					uint32_t head, uint32_t entries)
{
	free[room + entries - 1] = (uint16_t)head;
	while (UNLIKELY(--entries)) {
		head = next[head];
		free[room + entries - 1] = (uint16_t)head;
	}
}

/* Take back the chain staged last: nothing has shown it (2.7.13). */
ALWAYS_INLINE void split_driver_unstage(struct split_driver *drv, uint32_t room, uint16_t head,
					uint32_t entries)
{
	if (drv->in_order)
		drv->next_slot = head;
	else
		split_driver_release(drv->free, drv->next, room, head, entries);
	drv->avail_idx--;
}

/* Show the device every chain staged since the last call (2.7.13.3). */
ALWAYS_INLINE void split_driver_publish(struct split_driver *drv)
{
	/*
	 * [A] release: the descriptors and available entries must be visible
	 * before the index that covers them. Pairs with the [A] acquire in
	 * split_device_ready().
	 */
	shm_publish16(&drv->ring.avail->idx, drv->avail_idx, drv->ring.platform);
	drv->avail_published = drv->avail_idx;
}

/* Must the driver notify the device of what it has just published (2.7.13.4)? */
ALWAYS_INLINE bool split_driver_needs_kick(struct split_driver *drv)
{
	uint16_t now = drv->avail_idx, old = drv->avail_decided;
	bool decided = drv->decided;

	drv->avail_decided = now;
	drv->decided = true;
	/*
	 * [C] full: our index store before our load of the event word or
	 * flags. Pairs with [C] in split_device_arm(). Without both, each side
	 * can load before the other's store lands, and the chain waits for a
	 * kick that nobody sends.
	 */
	shm_fence_kick(drv->ring.platform);
	if (drv->ring.event_idx)
		return !decided ||
		       event_crossed(shm_load16(split_avail_event(&drv->ring)), now, old);
	return !(shm_load16(&drv->ring.used->flags) & VIRTQ_USED_F_NO_NOTIFY);
}

/* How many used entries wait. UNTRUSTED: the caller compares with what is in flight. */
ALWAYS_INLINE uint16_t split_driver_ready(const struct split_driver *drv)
{
	/* [B] acquire: pairs with the [B] release in split_device_publish(). */
	return (uint16_t)(shm_observe16(&drv->ring.used->idx, drv->ring.platform) - drv->used_seen);
}

/* The used entry at @used_seen: UNTRUSTED copies of its id and length, read once. */
ALWAYS_INLINE void split_driver_reap(const struct split_ring *ring, uint32_t used_seen,
				     uint32_t *id, uint32_t *len)
{
	struct virtq_used_elem *elem = split_used_entry(ring, used_seen);

	*id = shm_load32(&elem->id);
	*len = shm_load32(&elem->len);
}

/*
 * Ask for a call when @count more buffers are used (2.7.7.1); flags cannot say
 * how many, so without EVENT_IDX it is the next one. Returns true if one has
 * been used already.
 */
ALWAYS_INLINE bool split_driver_arm(struct split_driver *drv, uint32_t count)
{
	if (drv->ring.event_idx)
		shm_store16(split_used_event(&drv->ring),
			    (uint16_t)(drv->used_seen + count - 1));
	else if (drv->wish != WISH_ARMED)
		shm_store16(&drv->ring.avail->flags, 0);
	drv->wish = WISH_ARMED;
	/* [D] full: pairs with [D] in split_device_needs_call(). */
	shm_fence_call(drv->ring.platform);
	return shm_load16(&drv->ring.used->idx) != drv->used_seen;
}

/*
 * With EVENT_IDX the flags must stay 0 (2.7.7.1): the event word is parked at
 * an index that has just gone by, and comes round after 2^16 entries.
 */
ALWAYS_INLINE void split_driver_disarm(struct split_driver *drv)
{
	if (drv->wish == WISH_DISARMED)
		return;
	if (drv->ring.event_idx)
		shm_store16(split_used_event(&drv->ring), (uint16_t)(drv->used_seen - 1));
	else
		shm_store16(&drv->ring.avail->flags, VIRTQ_AVAIL_F_NO_INTERRUPT);
	drv->wish = WISH_DISARMED;
}

/* ---- Device end --------------------------------------------------------- */

struct split_device {
	struct split_ring ring;
	uint16_t avail_seen;		/* next available entry to take */
	/* Kept apart from used_decided, see struct split_driver. */
	uint16_t used_published;	/* the driver has been shown up to here */
	uint16_t avail_known;		/* the driver has published up to here */
	uint16_t used_idx;		/* next used entry to fill; staged up to here */
	bool decided;			/* used_decided means something */
	uint16_t used_decided;		/* used_idx at the last decision on a call */
	enum event_wish wish;		/* what we last told the peer */
};

static inline void split_device_reset(struct split_device *dev, uint16_t avail_idx)
{
	dev->avail_seen = dev->avail_known = avail_idx;
	dev->used_idx = shm_load16(&dev->ring.used->idx);
	dev->used_published = dev->used_decided = dev->used_idx;
	/* What the driver armed before we came is unknown: the first call is sent (N-DEV-012). */
	dev->decided = false;
	/* So is what an earlier device left in the flags: the first arm or disarm writes them. */
	dev->wish = WISH_UNKNOWN;
}

/*
 * Number of chains ready to take, 0 if none, or -EBADMSG if the driver claims,
 * by index *@claim, more chains than the ring holds. UNTRUSTED: all of it is
 * the driver's word.
 */
ALWAYS_INLINE int split_device_ready(struct split_device *dev, uint16_t *claim)
{
	uint16_t ready = (uint16_t)(dev->avail_known - dev->avail_seen);

	if (ready)
		return ready;
	/* [A] acquire: pairs with the [A] release in split_driver_publish(). */
	*claim = shm_observe16(&dev->ring.avail->idx, dev->ring.platform);
	ready = (uint16_t)(*claim - dev->avail_seen);
	if (UNLIKELY(ready > dev->ring.mask + 1))
		return -EBADMSG;
	dev->avail_known = *claim;
	return ready;
}

/* The head of the chain at @avail_seen. UNTRUSTED. */
ALWAYS_INLINE uint16_t split_device_head(const struct split_ring *ring, uint32_t avail_seen)
{
	return shm_load16(split_avail_entry(ring, avail_seen));
}

/* A private copy of one descriptor, each field read once. UNTRUSTED. */
struct split_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

ALWAYS_INLINE struct split_desc split_desc_load(const struct virtq_desc *desc)
{
	struct split_desc d = {
		.addr = shm_load64(&desc->addr),
		.len = shm_load32(&desc->len),
		.flags = shm_load16(&desc->flags),
		.next = shm_load16(&desc->next),
	};

	return d;
}

/* Write the used element at @used_idx; the driver sees it at the next publish (2.7.8). */
ALWAYS_INLINE void split_device_stage(const struct split_ring *ring, uint32_t used_idx,
				      uint32_t head, uint32_t len)
{
	struct virtq_used_elem *elem = split_used_entry(ring, used_idx);

	shm_store32(&elem->id, head);
	shm_store32(&elem->len, len);
}

ALWAYS_INLINE bool split_device_staged(const struct split_device *dev)
{
	return dev->used_idx != dev->used_published;
}

/* Show the driver every element staged since the last call (2.7.8.2). */
ALWAYS_INLINE void split_device_publish(struct split_device *dev)
{
	/*
	 * [B] release: data, ids and lengths must be visible before the index
	 * that covers them. Pairs with the [B] acquire in split_driver_ready().
	 */
	shm_publish16(&dev->ring.used->idx, dev->used_idx, dev->ring.platform);
	dev->used_published = dev->used_idx;
}

/* Must the device call the driver about what it has just published (2.7.7.2)? */
ALWAYS_INLINE bool split_device_needs_call(struct split_device *dev)
{
	uint16_t now = dev->used_idx, old = dev->used_decided;
	bool decided = dev->decided;

	dev->used_decided = now;
	dev->decided = true;
	/*
	 * [D] full: our index store before our load of the event word or
	 * flags. Pairs with [D] in split_driver_arm().
	 */
	shm_fence_call(dev->ring.platform);
	if (dev->ring.event_idx)
		return !decided ||
		       event_crossed(shm_load16(split_used_event(&dev->ring)), now, old);
	return !(shm_load16(&dev->ring.avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
}

/*
 * Ask for a kick when the next chain arrives (2.7.10). Returns true if one
 * slipped in meanwhile: the caller must look again before it sleeps.
 */
ALWAYS_INLINE bool split_device_arm(struct split_device *dev)
{
	if (dev->ring.event_idx)
		shm_store16(split_avail_event(&dev->ring), dev->avail_seen);
	else if (dev->wish != WISH_ARMED)
		shm_store16(&dev->ring.used->flags, 0);
	dev->wish = WISH_ARMED;
	/* [C] full: pairs with [C] in split_driver_needs_kick(). */
	shm_fence_kick(dev->ring.platform);
	return shm_load16(&dev->ring.avail->idx) != dev->avail_seen;
}

/* As split_driver_disarm() (2.7.10.2). */
ALWAYS_INLINE void split_device_disarm(struct split_device *dev)
{
	if (dev->wish == WISH_DISARMED)
		return;
	if (dev->ring.event_idx)
		shm_store16(split_avail_event(&dev->ring), (uint16_t)(dev->avail_seen - 1));
	else
		shm_store16(&dev->ring.used->flags, VIRTQ_USED_F_NO_NOTIFY);
	dev->wish = WISH_DISARMED;
}

#endif
