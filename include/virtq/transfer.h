/* SPDX-License-Identifier: MIT */
/*
 * Transfers: memory of the caller's that goes to the device and back, without a copy.
 *
 * A transfer owns its pieces from prepare() on. It is sent, and comes back when
 * the device is done with it; it can be sent again as it is. finish() gives the pieces
 * back. While it is in flight nobody gets at them through it, other than by a call that says
 * "unsafe". It may be abandoned at any time: its memory is kept until the device
 * is done with it, then the release function runs, once, whatever happened.
 *
 * A *set* holds the transfers of one queue; all are allocated with it. It works with a
 * port (<virtq/port.h>), or in programs without a C library with a bare driver end.
 *
 * Thread: a set, with its transfers, has one owner at a time.
 */
#ifndef VIRTQ_TRANSFER_H
#define VIRTQ_TRANSFER_H

#include <virtq/port.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_transfers;
struct virtq_transfer;

/**
 * struct virtq_piece - one piece of a transfer
 * @base:    its memory
 * @len:     bytes, not 0
 * @written: bytes from its start that the device wrote; 0 for readable ones.
 *           Set on the way back, not looked at on the way in
 *
 * Since: 0.1
 */
struct virtq_piece {
	void *base;
	size_t len;
	size_t written;
};

/**
 * struct virtq_transfers_config - a set to be made
 * @port:   the queue, borrowed until destroy; or NULL, and
 * @driver: a bare driver end, borrowed likewise; or NULL
 * @transfers_max: how many transfers can be prepared at a time, 1..65536
 * @pieces_max:    pieces of a transfer, 1..32768
 * @segs_max:      elements of a transfer, at least @pieces_max, or 0 for
 *                 @pieces_max: more where pieces are not contiguous for the device
 * @map:    where the device sees the caller's memory, a reference is taken; or NULL, and
 *            (one of the two)
 * @translate: says the same: the address of @base in *@addr; returns how many bytes
 *             from there on, at most @len, are contiguous for the device, or
 *             -errno. NULL without a map: with a port its own memory
 *             (virtq_port_regions()) and nothing else; with a bare driver end
 *             addresses of this process
 * @kick:   without a port: called after a publication that wants a kick; may be NULL
 * @guard:  called to make whole pages inaccessible (@closed) when a transfer is sent, and
 *          accessible again when it is back. NULL for none. With a port
 *          virtq_transfers_guard() does it by mprotect, and opens pages for reading
 *          and writing. Two transfers in flight must not share a page then, and
 *          the device must not use this very mapping (as vhost-kernel does)
 * @arg:    first argument of these functions
 *
 * Since: 0.1
 */
struct virtq_transfers_config {
	struct virtq_port *port;
	struct virtq_driver *driver;
	uint32_t transfers_max;
	uint32_t pieces_max;
	uint32_t segs_max;
	struct virtq_map *map;
	int64_t (*translate)(void *arg, const void *base, size_t len, uint64_t *addr);
	void (*kick)(void *arg);
	void (*guard)(void *arg, void *page, size_t bytes, bool closed);
	void *arg;
};

/** virtq_transfers_guard - a @guard for debugging: PROT_NONE while the device has the page. */
VIRTQ_API void virtq_transfers_guard(void *arg, void *page, size_t bytes, bool closed);

/**
 * virtq_transfers_create - make a set on the heap
 * virtq_transfers_bytes - memory that virtq_transfers_init() needs; 0 if @config cannot be
 * virtq_transfers_init - make one in the caller's memory, aligned to 64; without a port
 * @out:    receives the set
 * @config: copied
 * @err:    filled on failure; may be NULL
 *
 * Everything that the set will ever need is allocated here.
 *
 * Return: 0, -EINVAL, -ENOMEM. Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_transfers_create(struct virtq_transfers **out,
				     const struct virtq_transfers_config *config,
				     struct virtq_error *err);
VIRTQ_API size_t virtq_transfers_bytes(const struct virtq_transfers_config *config);
VIRTQ_API int virtq_transfers_init(void *memory, struct virtq_transfers **out,
				   const struct virtq_transfers_config *config,
				   struct virtq_error *err);

/**
 * virtq_transfers_fini - end every transfer, and let go of the map
 * virtq_transfers_destroy - the same, and free the set. NULL is fine.
 *
 * Stop the device first: every transfer that still is, in flight or not, is released,
 * and every struct virtq_transfer of the set is gone. What the device had used
 * is looked up before; a release function is told -ECANCELED of the rest. The port, or
 * driver end, is as it was made: another set may have it, if nothing was in flight.
 */
VIRTQ_API void virtq_transfers_fini(struct virtq_transfers *set);
VIRTQ_API void virtq_transfers_destroy(struct virtq_transfers *set);

/**
 * typedef virtq_release_fn - the pieces of a transfer are nobody's any more
 * @arg:      as given with it
 * @pieces:   all of them, readable ones first, with what was written;
 *            valid during the call
 * @readable, @writable: how many
 * @status:   0 the device used it; -ENODATA it was never sent, or no sending of it
 *            went well; -ECANCELED the queue was reset or the set destroyed while it
 *            was in flight; -EBADMSG the same after the device had broken the ring
 *
 * Called on the owner's thread from whatever call finds out. It may prepare and send
 * transfers of the set, but not destroy or reset it; what runs in
 * virtq_transfers_reset() or _destroy() can send nothing (-ESHUTDOWN).
 */
typedef void virtq_release_fn(void *arg, const struct virtq_piece *pieces, unsigned int readable,
			      unsigned int writable, int status);

/**
 * virtq_transfer_prepare - make a transfer of pieces of memory
 * @set:      the set
 * @out:      receives the transfer
 * @pieces:   the device-readable ones first; taken: on success they are all set
 *            to NULL and 0 in the caller's array, on failure they are untouched
 * @readable: how many of them the device may read
 * @writable: how many of them, after those, it may write
 * @release:  called once when the transfer is given up by other means than
 *            virtq_transfer_finish(); may be NULL
 * @arg:      its first argument
 *
 * A piece that is not contiguous for the device becomes several elements.
 *
 * Return: 0, or
 *	-ENOSPC   all transfers of the set are in use
 *	-EMSGSIZE more pieces or elements than it was made for, or than the ring takes
 *	-EINVAL   no piece, or an empty one, or more than 2^32 bytes
 *	-EFAULT, or what translate returned: the device cannot reach a piece, or not
 *	          in this way: it lies in a region that is only for reading, or only for writing
 * Thread: the owner. No allocation. Spec: VIRTIO 1.4, 2.7.4, 2.7.13.1. Since: 0.1
 */
VIRTQ_API int virtq_transfer_prepare(struct virtq_transfers *set, struct virtq_transfer **out,
				     struct virtq_piece *pieces, unsigned int readable,
				     unsigned int writable, virtq_release_fn *release, void *arg);

/**
 * virtq_transfer_prepare_unchecked - as prepare, each piece is taken to be contiguous
 *
 * Only the first byte of each piece is translated and looked at. The caller answers for the rest.
 */
VIRTQ_API int virtq_transfer_prepare_unchecked(struct virtq_transfers *set,
					       struct virtq_transfer **out,
					       struct virtq_piece *pieces, unsigned int readable,
					       unsigned int writable,
					       virtq_release_fn *release, void *arg);

/**
 * virtq_transfer_send - hand transfers to the device: prepared ones, or such as are back
 * @set:   the set
 * @which: in order
 * @count: how many
 *
 * One publication, and at most one kick, for all, and for what was staged before.
 * Each gets a new id. If it looks full the ring is looked into before -ENOSPC.
 * Those that were sent before are not built in the ring again, if the config of the port (or
 * driver end) has @keep and virtq_driver_keeps() says 1.
 *
 * Return: how many were sent, from the front; or, if not even the first was, -ENOSPC
 *	(no room in the ring now), -EBUSY (it is in flight), -EBADMSG,
 *	-ESHUTDOWN. What was not sent is as before, and still owns its pieces.
 * Thread: the owner. No allocation. Spec: VIRTIO 1.4, 2.7.13, 2.8.21. Since: 0.1
 */
VIRTQ_API int virtq_transfer_send(struct virtq_transfers *set,
				  struct virtq_transfer *const *which, unsigned int count);

/**
 * virtq_transfer_stage - as virtq_transfer_send(), without showing it to the device yet
 *
 * So that the work of several calls goes with one publication: what is staged is
 * published by virtq_transfers_publish(), by the next sending, by
 * virtq_transfers_arm() when it returns 0, or before something sleeps. For all
 * other calls it is in flight, though the device knows nothing of it.
 *
 * Return: as virtq_transfer_send(). Thread: the owner. No allocation, and no
 *	system call but those of a @guard, and the signal for a sleeper that
 *	virtq_transfers_arm() speaks of. Since: 0.1
 */
VIRTQ_API int virtq_transfer_stage(struct virtq_transfers *set,
				   struct virtq_transfer *const *which, unsigned int count);

/**
 * virtq_transfers_publish - show the device what was staged, and kick if it wants that
 *
 * Return: 0, also if there was nothing; -ESHUTDOWN in a release function that
 *	runs in reset or destroy; or -errno if a kick could not be sent:
 *	the transfers are with the device all the same.
 * Thread: the owner. No system call unless a kick is due. Order: [A] then [C]. Since: 0.1
 */
VIRTQ_API int virtq_transfers_publish(struct virtq_transfers *set);

/**
 * virtq_transfers_kick_error - why the last kick could not be sent, 0 if it could
 *
 * Transfers that were sent are with the device whatever became of the kick. Told
 * once, here, by virtq_transfers_publish() or by a wait.
 */
VIRTQ_API int virtq_transfers_kick_error(struct virtq_transfers *set);

/** virtq_transfer_id - of its last sending: 1, 2, ... in the set, never the same again; or 0. */
VIRTQ_API uint64_t virtq_transfer_id(const struct virtq_transfer *t);

/**
 * virtq_transfer_check - is it back?
 *
 * Return: 1 if it is with the caller, with virtq_transfer_status() telling how it
 *	ended, or that it was never sent; 0 if the device has it; -EBADMSG (it has, and broke the ring),
 *	-ESHUTDOWN.
 * Thread: the owner. Does not block. Order: [B]. Since: 0.1
 */
VIRTQ_API int virtq_transfer_check(struct virtq_transfer *t);

/**
 * virtq_transfer_wait - sleep until it is back
 *
 * Return: as virtq_transfer_check(), 0 when the time was over; and -ECANCELED,
 *	-EINTR and others as virtq_port_wait(); -ENOTSUP without a port.
 */
VIRTQ_API int virtq_transfer_wait(struct virtq_transfer *t, const struct virtq_wait *wait);

/**
 * virtq_transfers_in_flight - how many the device has, abandoned and staged ones too
 *
 * As of the last look at the ring: virtq_transfers_poll() with @max 0 looks, and
 * leaves what is back for the next one.
 */
VIRTQ_API unsigned int virtq_transfers_in_flight(const struct virtq_transfers *set);

/**
 * virtq_transfers_poll - which ones are back?
 * @set:  the set
 * @done: receives up to @max transfers that came back, each once for each
 *        sending, in the order in which the device returned them
 * @max:  capacity of @done; what is left stays for the next call. 0 is
 *        fine, with a @done of NULL: it looks, and does not wait
 * @wait: how long to wait for the first; NULL not to
 *
 * Those that were finished, sent again or abandoned meanwhile are left out.
 *
 * Return: how many, or an error as of virtq_transfer_wait().
 */
VIRTQ_API int virtq_transfers_poll(struct virtq_transfers *set, struct virtq_transfer **done,
				   unsigned int max, const struct virtq_wait *wait);

/**
 * virtq_transfers_arm - as virtq_pool_arm(), for the call fd of the port
 *
 * After it returned 0 the call fd becomes readable once virtq_transfers_poll() has
 * something to tell, or to release; also if a call that prepares, sends or stages finds it.
 * Every virtq_transfers_poll(), virtq_transfer_check(), virtq_transfer_wait() and
 * virtq_transfers_reset() takes the wish back, whatever it finds: arm again before
 * the next sleep.
 */
VIRTQ_API int virtq_transfers_arm(struct virtq_transfers *set);

/** virtq_transfer_arg - what was given with it to prepare. */
VIRTQ_API void *virtq_transfer_arg(const struct virtq_transfer *t);

/**
 * virtq_transfer_status - how its last sending ended
 *
 * A sending that failed is none: look at what virtq_transfer_send() returns.
 *
 * Return: 0 the device used it, or has it; -ENODATA it was not sent since it was
 *	prepared; -ECANCELED, -EBADMSG it came back unused, as a release function is told.
 */
VIRTQ_API int virtq_transfer_status(const struct virtq_transfer *t);

/** virtq_transfer_written - bytes that the device wrote, over all writable pieces. */
VIRTQ_API uint32_t virtq_transfer_written(const struct virtq_transfer *t);

/**
 * virtq_transfer_pieces - look at the pieces
 * @readable, @writable: receive how many; may be NULL
 *
 * Return: the pieces, readable ones first, with what was written; valid until
 *	it is sent, finished or abandoned. NULL while it is in flight.
 */
VIRTQ_API const struct virtq_piece *virtq_transfer_pieces(const struct virtq_transfer *t,
							  unsigned int *readable,
							  unsigned int *writable);

/**
 * virtq_transfer_pieces_unsafe - the same, also while the device has them
 *
 * The caller knows what it does: what the device may write can change at any
 * time, and what it may read must not. In guard mode the pages stay closed.
 */
VIRTQ_API const struct virtq_piece *virtq_transfer_pieces_unsafe(const struct virtq_transfer *t,
								 unsigned int *readable,
								 unsigned int *writable);

/**
 * virtq_transfer_finish - take the pieces back, and end the transfer
 * @t:      it; gone on success
 * @pieces: receives them, readable ones first, with what was written
 * @max:    capacity of @pieces
 *
 * The release function is not called: the caller has the pieces.
 *
 * Return: how many; -EBUSY (in flight), -ENOSPC (more than @max); then nothing
 *	has changed. Since: 0.1
 */
VIRTQ_API int virtq_transfer_finish(struct virtq_transfer *t, struct virtq_piece *pieces,
				    unsigned int max);

/**
 * virtq_transfer_abandon - lose interest in it, also while it is in flight
 * @t: gone for the caller. NULL is fine
 *
 * Its release function is called now, or when the device is done with it. To
 * fire and forget, send it and then abandon it.
 */
VIRTQ_API void virtq_transfer_abandon(struct virtq_transfer *t);

/**
 * virtq_transfers_reset - begin again after the queue was stopped or reset
 * @set:    the set
 * @driver: without a port: the new driver end
 *
 * Every transfer in flight is back now, with status -ECANCELED (or -EBADMSG), and
 * may be sent again; abandoned ones are released. With a port, what the device
 * had used before is back as ever, and the driver end is made anew: start it.
 * Without a port the ring is not looked at: poll until there is no more before, or
 * what was used and not polled is cancelled, too.
 * Release functions that send or stage meanwhile get -ESHUTDOWN: nobody serves the queue.
 *
 * Return: how many were in flight, abandoned and staged ones too; -EBUSY if the
 *	device has not been stopped (virtq_transport_stop(), _queue_reset()), or
 *	something was published since, as waits and virtq_transfers_arm() do with what is
 *	staged, or before it was ever started; -EINVAL (no driver end, or one in which
 *	something is in flight). If you know that no device has the ring,
 *	virtq_driver_stop() of virtq_port_driver() says so; then reset. Since: 0.1
 */
VIRTQ_API int virtq_transfers_reset(struct virtq_transfers *set, struct virtq_driver *driver);

#ifdef __cplusplus
}
#endif

#endif
