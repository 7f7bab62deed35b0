/* SPDX-License-Identifier: MIT */
/*
 * A queue that owns its buffers: all of them allocated at set-up, in one piece
 * of memory that the device shares, cut into items of one size.
 *
 * A *chain* is a buffer of the ring made of items: its readable part first, then
 * its writable part. It goes round: the program offers it, the device uses it, the
 * program takes it, looks at it in place or copies out of it, and recycles it, which
 * offers it again as it is, or frees it. For packets, requests and whatever
 * else is copied in and out, or built where it lies. To hand memory of one's own to the
 * device without a copy see <virtq/transfer.h>.
 *
 * A chain belongs to the caller (allocated or taken) or to the device (offered). Every
 * call checks that, and that the handle is not an old one. Chains of the caller's take
 * items, but never room in the ring from others: entries that are kept for one are let
 * go when they are wanted.
 *
 * Thread: one owner at a time; with @threads in the config any number of
 * threads, in all calls but virtq_pool_destroy().
 */
#ifndef VIRTQ_POOL_H
#define VIRTQ_POOL_H

#include <virtq/port.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_pool;

/**
 * struct virtq_pool_config - a pool to be made
 * @features, @size, @indirect_entries, @segs_max, @gpa: as in struct
 *              virtq_port_config
 * @item_bytes: size of an item: 64..2^30, a multiple of 64 (a page multiple in
 *              guard mode). Items lie one behind the other from a page on
 * @items:      how many; 0 for @size
 * @reserve_bytes: memory beside the items that the device can reach too, for
 *              headers by reference and the like; see virtq_pool_reserved()
 * @threads:    calls come from several threads
 * @guard:      debugging: the pages of a chain that the device has are
 *              inaccessible to this process, so that a stray access faults at
 *              once. A system call for each item offered and taken
 *
 * Since: 0.1
 */
struct virtq_pool_config {
	struct virtq_features features;
	uint32_t size;
	uint32_t indirect_entries;
	uint32_t segs_max;
	uint64_t gpa;
	uint32_t item_bytes;
	uint32_t items;
	uint64_t reserve_bytes;
	bool threads;
	bool guard;
};

/**
 * virtq_pool_create - allocate a queue with its buffers
 * @out:    receives the pool
 * @config: read during the call only
 * @err:    filled on failure; may be NULL
 *
 * Everything that the pool will ever need is allocated here, but for waits of more than
 * eight threads at a time, each of which opens an eventfd.
 *
 * Return: 0, or -EINVAL, -ENOMEM, -EMFILE, -ENFILE, or what epoll_ctl() says; then nothing
 *	is left behind.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_pool_create(struct virtq_pool **out, const struct virtq_pool_config *config,
				struct virtq_error *err);

/**
 * virtq_pool_close - no more: wake who waits, and refuse from now on
 *
 * Waits end with -ESHUTDOWN, as does every other call from then on; chains in
 * flight are left to the device. Returns when no other thread sleeps in the
 * pool any more. May be called any number of times.
 *
 * Thread: any, whatever the config says. Since: 0.1
 */
VIRTQ_API void virtq_pool_close(struct virtq_pool *pool);

/**
 * virtq_pool_destroy - close it and free it. NULL is fine.
 *
 * Stop the device first. The memory stays as long as a map holds it.
 */
VIRTQ_API void virtq_pool_destroy(struct virtq_pool *pool);

/**
 * virtq_pool_port - its queue
 *
 * For virtq_port_regions(), _driver(), _kick_fd() and _call_fd(), which the
 * transport wants. Add to, get from, arm and renew it only through the pool, with which
 * it goes, too: never destroy it.
 */
VIRTQ_API struct virtq_port *virtq_pool_port(const struct virtq_pool *pool);

/** virtq_pool_reserved - the first of the config's @reserve_bytes, aligned to 64; never guarded. */
VIRTQ_API void *virtq_pool_reserved(const struct virtq_pool *pool);

/**
 * struct virtq_pool_items - where the items are, one behind the other
 * @base:       the first one, as this process sees it; in guard mode that may be closed
 * @gpa:        the same, as the device sees it
 * @item_bytes: size of each
 * @count:      how many
 *
 * Since: 0.1
 */
struct virtq_pool_items {
	void *base;
	uint64_t gpa;
	uint32_t item_bytes;
	uint32_t count;
};

/** virtq_pool_items - the same all its life. A chain of one item is item number @slot. */
VIRTQ_API struct virtq_pool_items virtq_pool_items(const struct virtq_pool *pool);

/**
 * struct virtq_chain - a chain's handle
 * @id:      never the same again in this pool: an old handle is known as such. Nor is it
 *           one of another pool of the process: each has 2^38 of its own as long as no more
 *           than 2^24 were made; after that this is overwhelmingly likely only. The one that
 *           offering or recycling gives is the one that virtq_pool_take() returns
 * @slot:    where the pool keeps it: less than the number of items, no other chain's as long
 *           as this one is there, and the same however often it goes round. So an array of
 *           that many elements holds what the caller knows of each chain
 * @written: bytes from the start of the writable part that the device filled, as
 *           virtq_pool_take() found it; 0 in a chain that was just offered or
 *           allocated. Recycling leaves it as it was
 *
 * Since: 0.1
 */
struct virtq_chain {
	uint64_t id;
	uint32_t slot;
	uint32_t written;
};

/* Flags of one offer. */
/*
 * Free it as it comes back; it is not taken. Its handle serves to tell it from others: while
 * the device has it, all that can be done with it is virtq_pool_abandon(), which makes the
 * handle an old one. The other calls refuse it with -EBUSY, and once it is freed with -ESTALE.
 */
#define VIRTQ_OFFER_FORGET	1u
#define VIRTQ_OFFER_REFERENCE	2u	/* do not copy the header: it lies in reserved memory */

/**
 * struct virtq_offer - one chain to be made and offered
 * @header: put in front of the readable part; copied, or with
 *          VIRTQ_OFFER_REFERENCE an element of its own, which the caller does
 *          not change before the chain comes back
 * @header_bytes: its length; 0 for none, and only then may @header be NULL
 * @flags:  VIRTQ_OFFER_...
 * @parts:  the rest of the readable part, copied one behind the other; read only
 * @part_count: how many
 * @writable_bytes: length of the writable part, which begins in an item of its own
 *
 * The header (if copied) and the parts fill items one after the other; each
 * item used is one element of the chain. A chain for each packet is an
 * offer for each; one chain for all is one offer with all as its parts.
 *
 * Since: 0.1
 */
struct virtq_offer {
	const void *header;
	uint32_t header_bytes;
	uint32_t flags;
	const struct virtq_span *parts;
	uint32_t part_count;
	uint32_t writable_bytes;
};

/* Flag of a call: more follows, so do not publish yet. See virtq_pool_publish(). */
#define VIRTQ_POOL_MORE	1u

/**
 * virtq_pool_offer - fill chains and make them available to the device
 * @pool:   the pool
 * @offers: what, in order
 * @count:  how many
 * @chains: receives their handles; NULL if they are not wanted
 * @flags:  VIRTQ_POOL_MORE or 0
 * @wait:   how long to wait for room; NULL not to
 *
 * All is published together, with at most one kick. When there is no room the pool
 * looks into the ring, with or without @wait: it takes what is used and keeps it for
 * virtq_pool_take(), and frees what is forgotten. When room has to be waited for, what
 * was offered so far is published first.
 *
 * Return: how many were offered, from the front (fewer than @count if there
 *	was no more room in time); or, if not even the first was,
 *	-ENOSPC    no room for it now (or not in time); nothing has changed
 *	-EMSGSIZE  it can never fit in this pool
 *	-EAGAIN    the pool is paused (and was not resumed in time)
 *	-EDEADLK   it would have to wait for the caller itself: without @threads,
 *	           there are too few items, and no chain in flight is forgotten
 *	           or abandoned, so that nothing that comes back brings one; or it is
 *	           paused. Only with a @wait that is not 0; the ring has been looked into
 *	-EINVAL    an empty chain, a NULL header with a length, or flags unknown
 *	-EFAULT    a header by reference outside reserved memory
 *	-EMFILE, -ENFILE  no eventfd to wait on: eight threads wait already
 *	-EBADMSG, -ESHUTDOWN, -ECANCELED, -EINTR as virtq_port_wait()
 * Thread: see above. No allocation; no system call unless a kick is due or it has to wait.
 * Spec: VIRTIO 1.4, 2.7.13, 2.8.21. Since: 0.1
 */
VIRTQ_API int virtq_pool_offer(struct virtq_pool *pool, const struct virtq_offer *offers,
			       unsigned int count, struct virtq_chain *chains,
			       unsigned int flags, const struct virtq_wait *wait);

/**
 * virtq_pool_offer_writable - offer @count chains of @bytes writable bytes each
 *
 * What fills a receive queue. Otherwise as virtq_pool_offer(), whose return
 * values it has.
 */
VIRTQ_API int virtq_pool_offer_writable(struct virtq_pool *pool, unsigned int count,
					uint32_t bytes, struct virtq_chain *chains,
					unsigned int flags, const struct virtq_wait *wait);

/**
 * virtq_pool_alloc - a chain to build in place
 * @readable_bytes, @writable_bytes: length of its parts; not both 0
 * @chain: receives its handle; it is the caller's, as if taken
 *
 * Write to it through virtq_pool_spans(), then virtq_pool_recycle() it.
 *
 * Return: 0, -ENOSPC (no items now), -EMSGSIZE (never), -EINVAL, -ESHUTDOWN, or
 *	-EBADMSG (none, and the ring is broken in which some may be). Since: 0.1
 */
VIRTQ_API int virtq_pool_alloc(struct virtq_pool *pool, uint32_t readable_bytes,
			       uint32_t writable_bytes, struct virtq_chain *chain);

/**
 * virtq_pool_publish - show the device what was offered with VIRTQ_POOL_MORE
 *
 * Whatever waits publishes too.
 *
 * Return: 0, -ESHUTDOWN, or -errno if the kick could not be sent: the chains are
 *	with the device all the same. Offering and recycling never report that;
 *	it is kept and told by the next publish or wait.
 */
VIRTQ_API int virtq_pool_publish(struct virtq_pool *pool);

/**
 * virtq_pool_take - take chains the device has used
 * @pool:   the pool
 * @chains: receives up to @max of them, in the order in which the device
 *          returned them; they are the caller's now
 * @max:    capacity of @chains; what is left stays to be taken
 * @wait:   how long to wait for the first; NULL not to
 *
 * Return: how many; 0 if there was none in time; -EBADMSG (the device broke
 *	the ring; what was used before can still be taken first), -ESHUTDOWN,
 *	-ECANCELED, -EINTR as virtq_port_wait(); -EMFILE, -ENFILE (no eventfd to
 *	wait on: eight threads wait already).
 * Thread: see above. No allocation, and no system call unless it has to wait.
 * Order: [B]. Spec: VIRTIO 1.4, 2.7.14, 2.8.22. Since: 0.1
 */
VIRTQ_API int virtq_pool_take(struct virtq_pool *pool, struct virtq_chain *chains,
			      unsigned int max, const struct virtq_wait *wait);

/**
 * virtq_pool_arm - about to sleep on virtq_port_call_fd(): ask to be called
 *
 * Taking chains takes the wish back: arm again before the next sleep. An offer that has to
 * wait clears the fd, and signals it again if there is something to take when it
 * returns. In a pool for several @threads taking leaves the ring armed, as somebody else may
 * sleep still: calls may come that nobody needs. Who waits inside the pool takes no
 * signal from who sleeps on the fd.
 *
 * Return: 1 if there is something to take: do not sleep; 0 if it is safe to; or an
 *	error as of virtq_pool_take(). Since: 0.1
 */
VIRTQ_API int virtq_pool_arm(struct virtq_pool *pool);

/* Which part of a chain. */
enum virtq_part {
	VIRTQ_PART_READABLE,	/* what the device reads; not a header by reference */
	VIRTQ_PART_WRITABLE,	/* all that it may write */
	VIRTQ_PART_WRITTEN,	/* the prefix of that which it did write */
};

/**
 * virtq_pool_spans - borrow a part of a chain in place
 * @pool:  the pool
 * @chain: one of the caller's
 * @part:  which
 * @spans: receives up to @max pieces, in order; valid until the chain is
 *         recycled or freed
 * @max:   capacity of @spans
 *
 * Return: how many; -ENOSPC (more than @max), -ESTALE (no such chain, or not
 *	any more), -EBUSY (the device has it), -ESHUTDOWN, -EINVAL. Since: 0.1
 */
VIRTQ_API int virtq_pool_spans(struct virtq_pool *pool, const struct virtq_chain *chain,
			       enum virtq_part part, struct virtq_span *spans, unsigned int max);

/**
 * virtq_pool_copy_out - copy from a part of a chain
 * @offset: bytes to skip of it
 * @dst:    receives what follows
 * @max:    no more than this many bytes
 *
 * Return: how many bytes, 0 at the end; -ESTALE, -EBUSY, -ESHUTDOWN, -EINVAL. Since: 0.1
 */
VIRTQ_API int64_t virtq_pool_copy_out(struct virtq_pool *pool, const struct virtq_chain *chain,
				      enum virtq_part part, uint32_t offset, void *dst,
				      uint32_t max);

/**
 * virtq_pool_copy_in - copy into the readable part of a chain
 * @offset: bytes to skip of it
 *
 * Return: how many bytes, fewer than @bytes where the part ends; -ESTALE,
 *	-EBUSY, -ESHUTDOWN. Since: 0.1
 */
VIRTQ_API int64_t virtq_pool_copy_in(struct virtq_pool *pool, const struct virtq_chain *chain,
				     uint32_t offset, const void *src, uint32_t bytes);

/**
 * virtq_pool_resize - make the readable part of a chain shorter, or longer again
 * @readable_bytes: its new length; its items stay, so no more than they hold,
 *                  and 1 or more if it was. In a chain without readable items
 *                  only 0 fits
 *
 * For a transmit queue that recycles: the next packet has another length. A header by
 * reference is no part of it.
 *
 * Return: 0, -EMSGSIZE, -EINVAL (0 where it was not), -ESTALE, -EBUSY, -ESHUTDOWN. Since: 0.1
 */
VIRTQ_API int virtq_pool_resize(struct virtq_pool *pool, const struct virtq_chain *chain,
				uint32_t readable_bytes);

/**
 * virtq_pool_recycle - offer chains again as they are
 * @pool:   the pool
 * @chains: chains of the caller's; receives their new ids, and nothing else
 * @count:  how many
 * @flags:  VIRTQ_POOL_MORE or 0
 *
 * The fast path of receive and transmit queues: items stay where they are, and
 * so do the descriptors if the ring's layout allows it. All is published together. The
 * ring is not looked into: take before, if it is full.
 *
 * Return: how many, from the front; or, if not even the first was, -ESTALE,
 *	-EBUSY, -ENOSPC (the ring is full), -EAGAIN (the pool is paused), -EBADMSG,
 *	-ESHUTDOWN.
 * Thread: see above. No allocation. Since: 0.1
 */
VIRTQ_API int virtq_pool_recycle(struct virtq_pool *pool, struct virtq_chain *chains,
				 unsigned int count, unsigned int flags);

/**
 * virtq_pool_free - give chains of the caller's back to the pool
 *
 * Wakes who waits for room.
 *
 * Return: how many, from the front; or, if not even the first was, -ESTALE
 *	(freed before, or none of this pool's), -EBUSY (the device has it),
 *	-ESHUTDOWN. Since: 0.1
 */
VIRTQ_API int virtq_pool_free(struct virtq_pool *pool, const struct virtq_chain *chains,
			      unsigned int count);

/**
 * virtq_pool_abandon - lose interest in chains, also while the device has them
 *
 * They are freed at once, or as they come back; they are not taken any more.
 *
 * Return: how many, from the front; or, if not even the first was, -ESTALE,
 *	-ESHUTDOWN. Since: 0.1
 */
VIRTQ_API int virtq_pool_abandon(struct virtq_pool *pool, const struct virtq_chain *chains,
				 unsigned int count);

/**
 * virtq_pool_pause - give the device nothing more, until virtq_pool_resume()
 *
 * What was offered with VIRTQ_POOL_MORE is published first. From then on offers wait, if they
 * may, or say -EAGAIN, which is what recycling says; all else goes on. In a pool
 * for several threads this must come *before* virtq_transport_stop() or
 * virtq_transport_queue_reset(): a publication meanwhile would race with the stop, which
 * notes in the driver end that it is over, and make the ring one in use again. Resume after
 * virtq_transport_start(), which wants a ring to which nothing was added. It is no
 * matter how often it was paused.
 *
 * Return: 0 or -ESHUTDOWN. A kick that could not be sent is told as by offering. Since: 0.1
 */
VIRTQ_API int virtq_pool_pause(struct virtq_pool *pool);

/** virtq_pool_resume - go on, and wake who waits for that. Return: 0 or -ESHUTDOWN. Since: 0.1 */
VIRTQ_API int virtq_pool_resume(struct virtq_pool *pool);

/**
 * virtq_pool_reset - begin again after the queue was stopped or reset
 *
 * With several threads: virtq_pool_pause() it before the stop, and resume it after the start.
 * Chains that the device still had are freed; those of the caller's, and those that
 * it used before, stay. The driver end is made anew: start it.
 *
 * Return: how many chains were freed that the device had not used, or never saw:
 *	forgotten, abandoned and unpublished ones count; -EBUSY if the device has not been
 *	stopped (virtq_transport_stop(), _queue_reset()), or something was published since, or
 *	before it was ever started; -ESHUTDOWN. If you know that no device has the ring,
 *	virtq_driver_stop() of virtq_port_driver() says so; then reset.
 * Spec: VIRTIO 1.4, 2.6.1. Since: 0.1
 */
VIRTQ_API int virtq_pool_reset(struct virtq_pool *pool);

/**
 * struct virtq_pool_room - what is where; counts
 * @items, @entries: free now: items of the pool, entries of the ring
 * @held:      chains of the caller's
 * @in_flight: chains that the device has, or that wait to be taken
 *
 * Since: 0.1
 */
struct virtq_pool_room {
	uint32_t items, entries;
	uint32_t held, in_flight;
};

/** virtq_pool_room - a snapshot. */
VIRTQ_API struct virtq_pool_room virtq_pool_room(struct virtq_pool *pool);

#ifdef __cplusplus
}
#endif

#endif
