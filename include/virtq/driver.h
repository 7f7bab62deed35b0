/* SPDX-License-Identifier: MIT */
/*
 * The driver end of one queue: add, publish, kick, get.
 *
 * Elements of buffers are named by the addresses that the device will use; who
 * has pointers translates them with virtq_map_seg(). The driver end trusts
 * nothing that the device could have written: ids, lengths and indices are
 * checked against private copies, and its own descriptors are never read back.
 *
 * Thread: a queue has one owner at a time; no call locks or blocks.
 */
#ifndef VIRTQ_DRIVER_H
#define VIRTQ_DRIVER_H

#include <virtq/mem.h>
#include <virtq/ring.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_driver;

/**
 * struct virtq_driver_config - a driver end to be made
 * @ring:     where the ring lies; its memory is overwritten with its start state
 * @position: NULL for a new ring, or what virtq_driver_position() or the transport
 *            said; then the ring memory is kept as it is and nothing may be in flight
 * @indirect: memory for indirect tables, @ring.size * @indirect_entries * 16
 *            bytes, aligned to 16; NULL for none
 * @indirect_addr: where the device sees that memory
 * @indirect_entries: entries per table. If INDIRECT_DESC was negotiated, chains
 *            of 2..this many elements may go indirect and take one ring entry;
 *            no more than @ring.size (2.7.5.3.1)
 * @indirect_from: chains of this many elements and more always do; shorter ones
 *            only while less than half of the ring is free. 0: 4
 * @segs_max: longest chain that virtq_driver_add() takes, in elements, such as
 *            the device's seg_max and what goes round it; 0 for as many as fit
 * @keep:     where virtq_driver_keeps() says that the layout allows it, a buffer
 *            keeps its ring entries when virtq_driver_get() returns it, until
 *            virtq_driver_again() or virtq_driver_free()
 *
 * Since: 0.1
 */
struct virtq_driver_config {
	struct virtq_ring ring;
	const uint32_t *position;
	void *indirect;
	uint64_t indirect_addr;
	uint32_t indirect_entries;
	uint32_t indirect_from;
	uint32_t segs_max;
	bool keep;
};

/**
 * virtq_driver_create - make a driver end on the heap
 * virtq_driver_init - make one in the caller's memory
 * @out:    receives the driver end
 * @memory: virtq_driver_bytes() bytes, aligned to 64
 * @config: copied; the memory it points to is kept until destroy or fini
 * @err:    filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL (size or alignment wrong, features that the rings do
 *	not serve, a position that cannot be), -ENOMEM.
 * Thread: any. Spec: VIRTIO 1.4, 2.7.1, 2.7.10.1, 2.8.11, 2.8.13. Since: 0.1
 */
VIRTQ_API int virtq_driver_create(struct virtq_driver **out,
				  const struct virtq_driver_config *config,
				  struct virtq_error *err);
VIRTQ_API size_t virtq_driver_bytes(const struct virtq_driver_config *config);
VIRTQ_API int virtq_driver_init(void *memory, struct virtq_driver **out,
				const struct virtq_driver_config *config,
				struct virtq_error *err);
/** virtq_driver_destroy - free it. What is in flight is forgotten: stop the device first. */
VIRTQ_API void virtq_driver_destroy(struct virtq_driver *q);

/** virtq_driver_ring - what it was made with. */
VIRTQ_API const struct virtq_ring *virtq_driver_ring(const struct virtq_driver *q);

/**
 * struct virtq_buffer - one buffer to make available
 * @segs:     its elements, device-readable ones first
 * @readable: how many of them the device may read
 * @writable: how many of them, after those, the device may write
 * @token:    comes back with the buffer, untouched
 *
 * Since: 0.1
 */
struct virtq_buffer {
	const struct virtq_seg *segs;
	uint16_t readable;
	uint16_t writable;
	void *token;
};

/**
 * struct virtq_completion - one buffer that the device gave back
 * @token:   of the buffer
 * @written: bytes from the start of its writable part that the device filled.
 *           Bytes behind that are undefined (2.7.8.3)
 * @id:      what names the ring entries that it keeps; where virtq_driver_keeps()
 *           says 1, VIRTQ_NOT_KEPT if it keeps none
 *
 * Since: 0.1
 */
struct virtq_completion {
	void *token;
	uint32_t written;
	uint32_t id;
};
#define VIRTQ_NOT_KEPT UINT32_MAX

/**
 * virtq_driver_add - put buffers into the ring
 * @q:     the queue
 * @bufs:  buffers, taken in order; only read during the call
 * @count: how many
 *
 * Stages only: the device sees nothing before virtq_driver_publish().
 *
 * Return: how many were added, from the front; or, if not even the first was,
 *	-ENOSPC   the ring has no room for it now; nothing has changed
 *	-EMSGSIZE it can never fit: more elements than @segs_max, or than both the
 *	          ring and an indirect table hold
 *	-EINVAL   no element, an empty element, or more than 2^32 bytes
 *	-EBADMSG  the queue is broken
 *	-ESHUTDOWN virtq_driver_detach() was called
 * Thread: the owner. No allocation, lock or system call.
 * Spec: VIRTIO 1.4, 2.7.13.1, 2.7.13.2, 2.8.21.1. Since: 0.1
 */
VIRTQ_API int virtq_driver_add(struct virtq_driver *q, const struct virtq_buffer *bufs,
			       unsigned int count);

/**
 * virtq_driver_keeps - do buffers keep their ring entries?
 *
 * Return: 1 if the config asked for it and the layout allows it: not in order,
 *	where entries go in a circle. In a split ring every buffer does; in a
 *	packed one those that take one entry, by one element or by a table.
 *	Never changes.
 */
VIRTQ_API int virtq_driver_keeps(const struct virtq_driver *q);

/**
 * virtq_driver_again - put buffers into the ring whose entries were kept
 * @q:     the queue
 * @kept:  as virtq_driver_get() returned them: @id and @token count
 * @count: how many
 *
 * As virtq_driver_add() with the same elements, without writing them. Stages only.
 *
 * Return: how many, from the front; or, if not even the first was, -EINVAL
 *	(nothing is kept under that id), -EBADMSG, -ESHUTDOWN.
 * Thread: the owner. No allocation, lock or system call.
 * Spec: VIRTIO 1.4, 2.7.13.2. Since: 0.1
 */
VIRTQ_API int virtq_driver_again(struct virtq_driver *q, const struct virtq_completion *kept,
				 unsigned int count);

/**
 * virtq_driver_free - let kept ring entries go
 * @q:     the queue
 * @ids:   of completions
 * @count: how many
 *
 * Return: how many, from the front; or -EINVAL if nothing is kept under the first.
 * Thread: the owner. No allocation, lock or system call. Since: 0.1
 */
VIRTQ_API int virtq_driver_free(struct virtq_driver *q, const uint32_t *ids,
				unsigned int count);

/**
 * virtq_driver_unadd - take back buffers that the device has not been shown
 * @q:    the queue
 * @back: receives up to @max of them, youngest first, with nothing written
 * @max:  capacity of @back
 *
 * Undoes virtq_driver_add(): the ring is as if they had never been added. For
 * work of several buffers that turns out not to fit as a whole. Those that
 * virtq_driver_again() added keep nothing any more.
 *
 * Return: how many; 0 if all is published; -EBADMSG, -ESHUTDOWN as
 *	virtq_driver_add().
 * Thread: the owner. Takes time in proportion to the size of the ring. Since: 0.1
 */
VIRTQ_API int virtq_driver_unadd(struct virtq_driver *q, struct virtq_completion *back,
				 unsigned int max);

/**
 * virtq_driver_publish - show the device everything added so far
 * @q: the queue
 *
 * Publish once per batch.
 *
 * Return: 1 if the device asked to be kicked, 0 if not. Cannot fail.
 * Thread: the owner. Order: [A] then [C].
 * Spec: VIRTIO 1.4, 2.7.13.3, 2.7.13.4, 2.8.21.2, 2.8.21.3. Since: 0.1
 */
VIRTQ_API int virtq_driver_publish(struct virtq_driver *q);

/**
 * virtq_driver_kick_data - the value to write to a notification register
 * @q:     the queue
 * @vq_id: its index, or with NOTIF_CONFIG_DATA what the device's configuration
 *         says to write in its place
 *
 * For transports whose kicks carry data (PCI, MMIO). With NOTIFICATION_DATA
 * bits 0-15 are @vq_id, 16-30 where the next buffer will be offered, and 31 the
 * wrap counter (packed) or bit 15 of the index (split); without it just @vq_id.
 * The same until more is published.
 *
 * Thread: the owner. Spec: VIRTIO 1.4, 2.9, 4.1.5.2. Since: 0.1
 */
VIRTQ_API uint32_t virtq_driver_kick_data(const struct virtq_driver *q, uint16_t vq_id);

/**
 * virtq_driver_get - take buffers the device has used
 * @q:    the queue
 * @done: receives up to @max buffers, in the order in which the device returned them
 * @max:  capacity of @done
 *
 * Return: how many; 0 if there are none; -EBADMSG if the device broke the ring
 *	(virtq_driver_fault() says how; buffers taken earlier stay valid);
 *	-ESHUTDOWN once virtq_driver_detach() was called.
 * Thread: the owner. Order: [B].
 * Spec: VIRTIO 1.4, 2.7.14, 2.8.22. Since: 0.1
 */
VIRTQ_API int virtq_driver_get(struct virtq_driver *q, struct virtq_completion *done,
			       unsigned int max);

/**
 * virtq_driver_arm - ask to be called when the next buffer is used
 * @q: the queue
 *
 * Return: 1 if one is there already: get it, the call may not come; 0 if it is
 *	safe to sleep.
 * Thread: the owner. Order: [D]. Spec: VIRTIO 1.4, 2.7.7.1, 2.8.14. Since: 0.1
 */
VIRTQ_API int virtq_driver_arm(struct virtq_driver *q);

/**
 * virtq_driver_arm_after - ask to be called when several more buffers are used
 * @q:     the queue
 * @count: how many; more than are in flight means all of these
 *
 * The call comes when @count more are used, or earlier: without EVENT_IDX at the
 * next one, in packed rings when @count more descriptors are. For a driver that
 * need not hurry; get what is there before.
 *
 * Return: as virtq_driver_arm(), whatever @count is: 1 if even one is there.
 * Thread: the owner. Order: [D]. Spec: VIRTIO 1.4, 2.7.7.1, 2.8.14. Since: 0.1
 */
VIRTQ_API int virtq_driver_arm_after(struct virtq_driver *q, uint32_t count);

/**
 * virtq_driver_disarm - ask not to be called: this end will poll
 * @q: the queue
 *
 * A hint. Calls may still come and must be tolerated.
 */
VIRTQ_API void virtq_driver_disarm(struct virtq_driver *q);

/**
 * virtq_driver_room - free ring entries
 *
 * A direct chain takes one per element, an indirect one takes one. What is kept
 * is not free.
 */
VIRTQ_API uint32_t virtq_driver_room(const struct virtq_driver *q);

/** virtq_driver_in_flight - buffers added and not yet taken back; kept ones are not. */
VIRTQ_API uint32_t virtq_driver_in_flight(const struct virtq_driver *q);

/**
 * virtq_driver_stop - the device has stopped using the queue
 * @q: the queue
 *
 * The caller's word for it, after the transport confirmed it: until something is
 * published again, what is in flight may be detached. virtq_transport_stop()
 * and _close() call it.
 *
 * Thread: the owner. Spec: VIRTIO 1.4, 2.6.1, 3.3.1. Since: 0.1
 */
VIRTQ_API void virtq_driver_stop(struct virtq_driver *q);

/**
 * virtq_driver_detach - take back, one by one, what the device never returned
 * @q:     the queue. It can only be destroyed or made anew afterwards
 * @token: receives the token of one buffer
 *
 * Return: 1 and a token; 0 when nothing is left; -EBUSY if something was
 *	published and virtq_driver_stop() not called since. Each buffer comes
 *	back exactly once, here or from virtq_driver_get().
 * Thread: the owner. Spec: VIRTIO 1.4, 3.3.1. Since: 0.1
 */
VIRTQ_API int virtq_driver_detach(struct virtq_driver *q, void **token);

/**
 * virtq_driver_position - where the device goes on, as transports encode it
 *
 * Split: bits 0-15 next available index. Packed: bits 0-14 next available
 * slot, 15 its wrap counter, 16-30 next used slot, 31 its wrap counter. What was
 * added and not published does not count. It is a place to start from only if nothing is in
 * flight; otherwise it is the place behind what was published.
 */
VIRTQ_API uint32_t virtq_driver_position(const struct virtq_driver *q);

/** virtq_driver_fault - why the queue is broken; code VIRTQ_FAULT_NONE if it is not. */
VIRTQ_API struct virtq_fault virtq_driver_fault(const struct virtq_driver *q);

#ifdef __cplusplus
}
#endif

#endif
