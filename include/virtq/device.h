/* SPDX-License-Identifier: MIT */
/*
 * The device end of one queue: pop, push, publish, call.
 *
 * Popped requests are loans: byte cursors over memory that was translated and
 * checked, held against unmapping until the request is pushed. The bytes still
 * belong to a driver that may change them at any time: copy, check, then use.
 *
 * Thread: a queue has one owner at a time; no call locks or blocks.
 */
#ifndef VIRTQ_DEVICE_H
#define VIRTQ_DEVICE_H

#include <virtq/iotlb.h>
#include <virtq/mem.h>
#include <virtq/ring.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_device;

/**
 * struct virtq_device_config - a device end to be made
 * @ring:      where the ring lies, in this process
 * @position:  NULL for a new ring, or where to go on; see virtq_driver_position()
 * @map:       what descriptors may name; the queue takes a reference
 * @iotlb:     if ACCESS_PLATFORM was negotiated and addresses are translated:
 *             where they are found instead. @map is then what the translations
 *             lead into. Kept until destroy or fini, of the queue's thread; NULL
 *             for none
 * @max_segs:  longest chain taken, in elements after splitting at region
 *             borders; 0 for the larger of @ring.size and 1024
 * @long_chains: how many chains of more than VIRTQ_REQ_INLINE_SEGS elements may
 *             be in flight at once; 0 for 64. Further ones wait in the ring
 * @req_bytes: size of the caller's request struct, which begins with struct
 *             virtq_req; 0 for sizeof(struct virtq_req)
 *
 * Since: 0.1
 */
struct virtq_device_config {
	struct virtq_ring ring;
	const uint32_t *position;
	struct virtq_map *map;
	struct virtq_iotlb *iotlb;
	uint32_t max_segs;
	uint32_t long_chains;
	uint32_t req_bytes;
};

#define VIRTQ_REQ_INLINE_SEGS 8u

/** One direction of a request: the bytes not consumed yet. */
struct virtq_cursor {
	struct virtq_span *spans;
	uint32_t count;		/* spans left */
	uint64_t bytes;		/* bytes left in them */
};

/**
 * struct virtq_req - a chain on loan from the driver
 * @rd:      device-readable bytes not consumed yet
 * @wr:      device-writable bytes not filled yet
 * @written: length to report when pushed: the prefix of the writable part that
 *           was filled without a gap (2.7.8.2); kept by virtq_req_write() and
 *           virtq_req_wrote(), 0 at first. A device may lower it, not raise it
 * @queue:   where it came from
 * @slot:    its number, below the queue size, free for the next pop after push
 * @id:      the head (split) or buffer id (packed) that will be echoed
 * @bytes_read, @bytes_written, @failed: for the statistics of an engine, see
 *           struct virtq_model_ops. Nobody else uses them
 *
 * A device reads the cursors and calls the functions below; @queue, @slot and
 * @id are for the ring and the engine. The spans are the request's own: a
 * device may shorten or advance them, and hand them to readv() or writev().
 *
 * Since: 0.1
 */
struct virtq_req {
	struct virtq_cursor rd;
	struct virtq_cursor wr;
	uint32_t written;
	uint16_t slot;
	uint16_t id;
	struct virtq_device *queue;
	uint64_t bytes_read;
	uint64_t bytes_written;
	int failed;
	/* private to src/ring */
	uint64_t sequence;
	uint16_t entries;
	uint16_t block;
	uint32_t capacity;
};

/**
 * virtq_device_create - make a device end on the heap
 * virtq_device_init - make one in the caller's memory
 * @out:    receives the device end
 * @memory: virtq_device_bytes() bytes, aligned to 64
 * @config: copied; ring and map are kept until destroy or fini
 * @err:    filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL (size, alignment, position or features), -ENOMEM.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_device_create(struct virtq_device **out,
				  const struct virtq_device_config *config,
				  struct virtq_error *err);
VIRTQ_API size_t virtq_device_bytes(const struct virtq_device_config *config);
VIRTQ_API int virtq_device_init(void *memory, struct virtq_device **out,
				const struct virtq_device_config *config,
				struct virtq_error *err);
/**
 * virtq_device_destroy - drop the map and free the queue
 * virtq_device_fini - drop the map
 *
 * Requests still on loan become invalid; push or forget them first.
 */
VIRTQ_API void virtq_device_destroy(struct virtq_device *q);
VIRTQ_API void virtq_device_fini(struct virtq_device *q);

/** virtq_device_ring - what it was made with. */
VIRTQ_API const struct virtq_ring *virtq_device_ring(const struct virtq_device *q);

/**
 * virtq_device_pop - take requests the driver has made available
 * @q:    the queue
 * @reqs: receives up to @max requests, oldest first
 * @max:  capacity of @reqs, in requests, not 0
 *
 * Push every popped request exactly once, in any order.
 *
 * Return: the number of requests taken; 0 if none is available; or
 *	-ENOSPC    the next chain is long and all blocks for long chains are on
 *	           loan; push one, then try again
 *	-EAGAIN    the next chain names an address that the IOTLB does not know
 *	           yet, see virtq_device_miss(). The chain waits in the ring, and
 *	           what is behind it too: pop again after the update
 *	-EBADMSG   the driver broke the ring. The queue stays broken until it is
 *	           made anew; virtq_device_fault() says what was wrong and where.
 * Thread: the owner. Does not block, allocate, or make system calls.
 * Order: [A]. Spec: VIRTIO 1.4, 2.7.13, 2.8.21. Since: 0.1
 */
VIRTQ_API int virtq_device_pop(struct virtq_device *q, struct virtq_req **reqs,
			       unsigned int max);

/**
 * struct virtq_miss - an address that somebody must translate
 * @addr:   I/O virtual address of the first byte that is missing
 * @access: what the device wants to do there, VIRTQ_ACCESS_READ or _WRITE
 *
 * Since: 0.1
 */
struct virtq_miss {
	uint64_t addr;
	unsigned int access;
};

/**
 * virtq_device_miss - what virtq_device_pop() said -EAGAIN for
 * @q: the queue
 *
 * Also of a pop that took some requests and stopped at a chain with a miss.
 * Good until the next pop. The same may be missed again, after an update that
 * was taken back meanwhile, or was forgotten.
 *
 * Thread: the owner. Spec: VIRTIO 1.4, 6 (ACCESS_PLATFORM). Since: 0.1
 */
VIRTQ_API struct virtq_miss virtq_device_miss(const struct virtq_device *q);

/**
 * virtq_device_kicked - is there something behind a kick that carried data?
 * @q:    the queue
 * @data: what the driver wrote, see virtq_driver_kick_data()
 *
 * With NOTIFICATION_DATA. A hint, and the driver's word: nothing is taken on
 * the strength of it.
 *
 * Return: 0 if the device has popped all that the driver speaks of; 1 if there
 *	may be more, or @data makes no sense: pop.
 * Thread: the owner. Spec: VIRTIO 1.4, 2.9. Since: 0.1
 */
VIRTQ_API int virtq_device_kicked(const struct virtq_device *q, uint32_t data);

/**
 * virtq_device_unpop - hand a request back untouched
 * @q:   the queue
 * @req: the request popped last, apart from those unpopped since
 *
 * Return: 0, or -EINVAL if another was popped after it, even if that has been
 *	pushed already.
 * Thread: the owner. Since: 0.1
 */
VIRTQ_API int virtq_device_unpop(struct virtq_device *q, struct virtq_req *req);

/**
 * virtq_device_push - give requests back to the driver
 * @q:     the queue
 * @reqs:  popped requests; invalid afterwards
 * @count: how many
 *
 * Stages only: the driver sees nothing before virtq_device_publish(), and then
 * sees all of them at once. Each is reported with its @written.
 *
 * Thread: the owner. Spec: VIRTIO 1.4, 2.7.8, 2.8.6. Since: 0.1
 */
VIRTQ_API void virtq_device_push(struct virtq_device *q, struct virtq_req *const *reqs,
				 unsigned int count);

/**
 * virtq_device_publish - show the driver everything pushed so far
 * @q: the queue
 *
 * Return: 1 if the driver asked to be called, 0 if not. Cannot fail.
 * Thread: the owner. Order: [B] then [D].
 * Spec: VIRTIO 1.4, 2.7.8.2, 2.7.7.2, 2.8.22. Since: 0.1
 */
VIRTQ_API int virtq_device_publish(struct virtq_device *q);

/**
 * virtq_device_arm - ask for a kick when the next chain arrives
 * @q: the queue
 *
 * Return: 1 if one is there already: pop it, the kick may not come; 0 if it is
 *	safe to sleep. A chain that -EAGAIN, -ENOSPC or virtq_device_unpop() left
 *	in the ring is there, too: what it waits for will not kick.
 * Thread: the owner. Order: [C]. Spec: VIRTIO 1.4, 2.7.10, 2.8.15. Since: 0.1
 */
VIRTQ_API int virtq_device_arm(struct virtq_device *q);

/** virtq_device_disarm - ask not to be kicked: this end will poll. A hint. */
VIRTQ_API void virtq_device_disarm(struct virtq_device *q);

/** virtq_device_in_flight - requests popped, and neither pushed nor unpopped. */
VIRTQ_API uint32_t virtq_device_in_flight(const struct virtq_device *q);

/**
 * virtq_device_set_map - change the memory that the queue can reach
 * @q:   the queue
 * @map: the new table; the queue takes a reference
 * @ring: the ring's areas as they lie under the new table; size and features
 *       must be those of the old ones
 *
 * Requests on loan keep the old table until they are pushed. What an IOTLB says
 * about the old memory has to be invalidated by the caller, before.
 *
 * Return: 0, or -EBUSY if three older tables are still held by requests on
 *	loan, -EINVAL for a ring of other shape; nothing has changed then.
 * Thread: the owner. Since: 0.1
 */
VIRTQ_API int virtq_device_set_map(struct virtq_device *q, struct virtq_map *map,
				   const struct virtq_ring *ring);

/**
 * virtq_device_position - where to go on; see virtq_driver_position()
 *
 * What is on loan counts as taken, what was pushed and not published as not
 * used: at a quiet point there is neither.
 */
VIRTQ_API uint32_t virtq_device_position(const struct virtq_device *q);

/** virtq_device_fault - why the queue is broken; code VIRTQ_FAULT_NONE if it is not. */
VIRTQ_API struct virtq_fault virtq_device_fault(const struct virtq_device *q);

/**
 * virtq_req_read - copy readable bytes out and move past them
 * Return: bytes copied: @len, or fewer if the chain has no more.
 */
VIRTQ_API size_t virtq_req_read(struct virtq_req *req, void *dst, size_t len);

/**
 * virtq_req_write - fill writable bytes, move past them, and count them as written
 * Return: bytes copied: @len, or fewer if the chain has no more room.
 */
VIRTQ_API size_t virtq_req_write(struct virtq_req *req, const void *src, size_t len);

/**
 * virtq_req_wrote - @len bytes at the cursor were filled by someone else
 *
 * Moves past them and counts them as written. For data that the kernel put
 * straight into the spans.
 */
VIRTQ_API void virtq_req_wrote(struct virtq_req *req, uint64_t len);

/** virtq_req_skip - move past @len readable bytes. */
VIRTQ_API void virtq_req_skip(struct virtq_req *req, uint64_t len);

/**
 * virtq_req_claim_tail - take the last writable byte out of the cursor
 *
 * For devices whose status byte ends the chain. The byte is not counted as
 * written; see virtq_req_set_tail().
 *
 * Return: where it is, or NULL if the chain has no writable byte left.
 */
VIRTQ_API uint8_t *virtq_req_claim_tail(struct virtq_req *req);

/**
 * virtq_req_set_tail - store the claimed byte
 *
 * Counts it as written only if everything in front of it was: a device may
 * report only a prefix (2.7.8.2). Call it last.
 */
VIRTQ_API void virtq_req_set_tail(struct virtq_req *req, uint8_t *tail, uint8_t value);

#ifdef __cplusplus
}
#endif

#endif
