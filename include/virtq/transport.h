/* SPDX-License-Identifier: MIT */
/*
 * The driver's way to a device, whatever lies between: negotiate, share
 * memory, start queues. Each transport's own header has the call that opens one.
 *
 * Order of use: negotiate(), or offered() and accept(); share(); start() for
 * each queue; stop() or queue_reset() in any order; close(). config_read() any
 * time. reset() leads back to before accept(), with the memory still shared.
 *
 * Besides what each call lists, any of them may return -EIO (the other side
 * refused), -EPROTO (it broke the protocol; the connection is over),
 * -ETIMEDOUT, or -ENOTCONN (the connection was over before).
 *
 * Thread: one at a time. Calls may wait for the other side, at most the
 * transport's timeout.
 */
#ifndef VIRTQ_TRANSPORT_H
#define VIRTQ_TRANSPORT_H

#include <virtq/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_transport;

/**
 * virtq_transport_offered - feature bits that the device offers a driver
 *
 * Without those that mean nothing here: reserved bits, bits of other transports
 * or device types, bits that lack their prerequisite, and the transport's own.
 */
VIRTQ_API struct virtq_features virtq_transport_offered(const struct virtq_transport *t);

/** virtq_transport_device_id - VIRTIO_ID_..., or 0 where the transport cannot tell. */
VIRTQ_API unsigned int virtq_transport_device_id(const struct virtq_transport *t);

/** virtq_transport_queues - how many queues the device has, 1 if it does not say. */
VIRTQ_API unsigned int virtq_transport_queues(const struct virtq_transport *t);

/**
 * virtq_transport_accept - settle the features
 * @features: what the driver wants, a subset of those offered
 * @err:      filled on failure; may be NULL
 *
 * Once accepted they stay as they are until virtq_transport_reset().
 *
 * Return: 0, -EINVAL (not a subset, no VERSION_1, a bit without its
 *	prerequisite, accepted before, or the device cannot work with that
 *	set), -EPROTO or another error of the connection.
 * Spec: VIRTIO 1.4, 2.2, 3.1.1, 6.1. Since: 0.1
 */
VIRTQ_API int virtq_transport_accept(struct virtq_transport *t,
				     struct virtq_features features,
				     struct virtq_error *err);

/**
 * virtq_transport_negotiate - choose from what is offered, and accept that
 * @device_id: what the driver takes the device for, 0 for whatever it is
 * @wanted:    what the driver would make use of; it falls back without
 * @required:  what it cannot work without
 * @accepted:  receives what was settled; may be NULL
 * @err:       filled on failure; may be NULL
 *
 * virtq_features_choose() and virtq_transport_accept() in one.
 *
 * Return: 0, -ENOTSUP (the device offers no VERSION_1, or not all of
 *	@required), -EINVAL (it is of another type, or as for accept), or an
 *	error of the connection.
 * Spec: VIRTIO 1.4, 2.2.1, 3.1.1, 6.1. Since: 0.1
 */
VIRTQ_API int virtq_transport_negotiate(struct virtq_transport *t, unsigned int device_id,
					struct virtq_features wanted,
					struct virtq_features required,
					struct virtq_features *accepted,
					struct virtq_error *err);

/**
 * virtq_transport_reset - stop all queues and begin anew with accept()
 *
 * When it returns the device has let go of every queue; driver ends are made
 * anew before they are started again.
 *
 * Return: 0 or an error of the connection.
 * Spec: VIRTIO 1.4, 2.4. Since: 0.1
 */
VIRTQ_API int virtq_transport_reset(struct virtq_transport *t, struct virtq_error *err);

/**
 * virtq_transport_config_read - read the device's configuration space
 * @offset: bytes, @offset + @len at most 256
 *
 * Return: 0, -EINVAL (range), -ENOTSUP (the device shows none), -EIO (it
 *	refused), or an error of the connection.
 */
VIRTQ_API int virtq_transport_config_read(struct virtq_transport *t, unsigned int offset,
					  void *dst, unsigned int len,
					  struct virtq_error *err);

/**
 * virtq_transport_config_write - change what the driver may change of the configuration space
 * @offset: bytes, @offset + @len at most 256
 *
 * Some devices cannot say that they refused; who needs to know reads it back.
 *
 * Return: 0, -EINVAL (range, or features were not accepted yet), -ENOTSUP (there
 *	is nothing to write), -EIO (the device refused), or an error of the connection.
 * Spec: VIRTIO 1.4, 2.5. Since: 0.1
 */
VIRTQ_API int virtq_transport_config_write(struct virtq_transport *t, unsigned int offset,
					   const void *src, unsigned int len,
					   struct virtq_error *err);

/**
 * virtq_transport_config_generation - has the device changed its configuration space?
 *
 * Takes what the device has said about it so far; a disk says so when its size
 * is another. Between two calls with the same result it said nothing.
 *
 * Return: how many times it said that it did, 0 at first, modulo 2^32. Does not block.
 * Spec: VIRTIO 1.4, 2.5, 5.2.5.2. Since: 0.1
 */
VIRTQ_API uint32_t virtq_transport_config_generation(struct virtq_transport *t);

/**
 * virtq_transport_config_fd - what becomes readable when the configuration space has changed
 *
 * To be polled, never read: virtq_transport_config_generation() makes it quiet
 * again. It is the transport's, and none once that channel has broken.
 *
 * Return: the fd, or -1 if the device has no way to say it. Since: 0.1
 */
VIRTQ_API int virtq_transport_config_fd(const struct virtq_transport *t);

/**
 * virtq_transport_share - let the device reach memory
 * @map: every region needs an fd; the transport takes a reference
 *
 * Replaces what was shared before.
 *
 * Return: 0, -EINVAL (no fd, or more regions than the device takes), or an
 *	error of the connection.
 */
VIRTQ_API int virtq_transport_share(struct virtq_transport *t, struct virtq_map *map,
				    struct virtq_error *err);

/**
 * virtq_transport_start - let the device turn a queue
 * @index:   which, from 0
 * @q:       the driver end, with nothing in flight; its ring lies in shared memory
 * @kick_fd: the device polls it; -1 if the device shall poll the ring
 * @call_fd: the device signals it; -1 if this end polls
 *
 * The fds stay the caller's and are duplicated where need be.
 *
 * Return: 0, -EINVAL (index, or ring outside shared memory), or an error of
 *	the connection.
 */
VIRTQ_API int virtq_transport_start(struct virtq_transport *t, unsigned int index,
				    struct virtq_driver *q, int kick_fd, int call_fd,
				    struct virtq_error *err);

/**
 * virtq_transport_stop - let the device finish what it took, and stop a queue
 * @position: receives where it would go on; may be NULL
 *
 * Buffers it used meanwhile are in the ring: virtq_driver_get() them, then
 * virtq_driver_detach() the rest.
 *
 * Return: 0 or an error of the connection; the queue counts as stopped then too.
 */
VIRTQ_API int virtq_transport_stop(struct virtq_transport *t, unsigned int index,
				   uint32_t *position, struct virtq_error *err);

/**
 * virtq_transport_queue_reset - reset one queue while the others go on
 * @index: a queue that runs
 * @err:   filled on failure; may be NULL
 *
 * When it returns 0 the device has confirmed: it has forgotten the queue and
 * does not touch its memory any more. Take back what it used with
 * virtq_driver_get(), the rest with virtq_driver_detach(); make a new driver
 * end, of any size and anywhere in shared memory, and start it.
 *
 * Return: 0; -ENOTSUP (RING_RESET was not accepted), -EINVAL (it does not run),
 *	or an error of the connection. On error the queue counts as running.
 * Spec: VIRTIO 1.4, 2.6.1. Since: 0.1
 */
VIRTQ_API int virtq_transport_queue_reset(struct virtq_transport *t, unsigned int index,
					  struct virtq_error *err);

/**
 * virtq_transport_alive - has the other side gone away?
 *
 * Return: 1 while it is there, 0 once it is not. Does not block.
 */
VIRTQ_API int virtq_transport_alive(struct virtq_transport *t);

/**
 * virtq_transport_fd - what becomes readable when the other side has gone
 *
 * To be polled, never read: as the cancel fd of a wait, or in one's own loop. It
 * may become readable for other reasons; virtq_transport_alive() knows. It is the
 * transport's, and another or none after an error of the connection.
 *
 * Return: the fd, or -1 if there is none (the other side cannot go, or has gone).
 */
VIRTQ_API int virtq_transport_fd(const struct virtq_transport *t);

/** virtq_transport_close - end the connection; queues are stopped. NULL is fine. */
VIRTQ_API void virtq_transport_close(struct virtq_transport *t);

#ifdef __cplusplus
}
#endif

#endif
