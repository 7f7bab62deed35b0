/* SPDX-License-Identifier: MIT */
/*
 * A driver end with all that a program needs around it: ring memory that a
 * peer can share, a kick fd and a call fd, and a way to sleep.
 *
 * virtq_pool and virtq_transfers are built on it; a program that only wants a
 * queue to call virtq_driver_*() on may have one by itself.
 */
#ifndef VIRTQ_PORT_H
#define VIRTQ_PORT_H

#include <virtq/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_port;

/**
 * struct virtq_port_config - a queue to be made
 * @features: as negotiated
 * @size:     entries of the ring
 * @indirect_entries: entries of each indirect table, at most @size; 0 for no
 *            tables. Only used if INDIRECT_DESC was negotiated
 * @indirect_from: as in struct virtq_driver_config; 0 for the usual
 * @segs_max: longest chain in elements; 0 for as many as fit
 * @gpa:      where the device sees the memory, a multiple of the page size; 0 for the
 *            address that it has in this process
 * @extra_bytes: more memory in the same mapping, for buffers
 * @keep:     as in struct virtq_driver_config
 *
 * Since: 0.1
 */
struct virtq_port_config {
	struct virtq_features features;
	uint32_t size;
	uint32_t indirect_entries;
	uint32_t indirect_from;
	uint32_t segs_max;
	uint64_t gpa;
	uint64_t extra_bytes;
	bool keep;
};

/**
 * struct virtq_wait - how long a call may sleep
 * @timeout_ms: milliseconds; 0 not at all, -1 for ever
 * @cancel_fd:  NULL, or a file descriptor that ends the wait when it becomes
 *              readable: an eventfd that another thread writes, a timerfd, a
 *              signalfd, a socket. It is polled and never read
 *
 * Where a call takes a pointer to one, NULL means not to wait.
 *
 * Since: 0.1
 */
struct virtq_wait {
	int timeout_ms;
	const int *cancel_fd;
};

/**
 * virtq_port_create - allocate a ring in shared memory, and its eventfds
 * @out:    receives the port
 * @config: read during the call only
 * @err:    filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL, -ENOMEM, -EMFILE, -ENFILE; then nothing is left behind.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_port_create(struct virtq_port **out, const struct virtq_port_config *config,
				struct virtq_error *err);

/**
 * virtq_port_destroy - free it. NULL is fine.
 *
 * Stop the device first. A map that was made of its region keeps the memory.
 */
VIRTQ_API void virtq_port_destroy(struct virtq_port *port);

/** virtq_port_driver - its driver end; another one after virtq_port_renew(). */
VIRTQ_API struct virtq_driver *virtq_port_driver(const struct virtq_port *port);

/**
 * virtq_port_regions - the memory to share with the device
 * @count: receives how many; 1 at present
 *
 * For virtq_map_create(), with the regions of other queues of the device, and
 * virtq_transport_share(). They stay as they are as long as the port is there.
 */
VIRTQ_API const struct virtq_region *virtq_port_regions(const struct virtq_port *port,
							unsigned int *count);

/** virtq_port_extra - the first of its config's @extra_bytes, aligned to a page. */
VIRTQ_API void *virtq_port_extra(const struct virtq_port *port);

/** virtq_port_kick_fd - what virtq_transport_start() wants; it stays the port's. */
VIRTQ_API int virtq_port_kick_fd(const struct virtq_port *port);

/**
 * virtq_port_call_fd - the other one; it stays the port's
 *
 * Readable when the device has called: for somebody else's poll, epoll or
 * io_uring loop. Before sleeping on it call the arm() of the object that is used
 * (virtq_port_arm(), virtq_pool_arm(), virtq_transfers_arm()) and do not sleep
 * if that returns 1. It need not be read: arming does that.
 */
VIRTQ_API int virtq_port_call_fd(const struct virtq_port *port);

/**
 * virtq_port_publish - publish what was added, and kick if the device wants it
 *
 * Return: 0; or -errno if the kick could not be sent: what was published stays
 *	so, and is with the device.
 * Thread: the owner. No system call unless the device asked for a kick. Since: 0.1
 */
VIRTQ_API int virtq_port_publish(struct virtq_port *port);

/** virtq_port_kicks - how many kicks were sent. Thread: the owner. */
VIRTQ_API uint64_t virtq_port_kicks(const struct virtq_port *port);

/**
 * virtq_port_arm - publish, and ask to be called for the next used buffer
 *
 * Takes away a waiting signal of the call fd. The device goes on calling until
 * virtq_driver_disarm(); virtq_port_wait() does that when it returns.
 *
 * Return: 1 if one is there already: do not sleep; 0 if it is safe to sleep on
 *	the call fd; or an error as of virtq_port_wait().
 * Thread: the owner. Order: [D]. Since: 0.1
 */
VIRTQ_API int virtq_port_arm(struct virtq_port *port);

/**
 * virtq_port_wait - publish, and sleep until something is used
 * @wait: how long; NULL or a timeout of 0 just looks
 *
 * Return: 1 if there is something to get, 0 if the time was over first,
 *	-ECANCELED (the cancel fd became readable), -ESHUTDOWN
 *	(virtq_port_shutdown() was called), -EINTR (a signal handler ran),
 *	-EBADMSG (the device broke the ring), or what poll or the kick says.
 * Thread: the owner. Does not spin. Since: 0.1
 */
VIRTQ_API int virtq_port_wait(struct virtq_port *port, const struct virtq_wait *wait);

/**
 * virtq_port_shutdown - end every wait, now and from now on, with -ESHUTDOWN
 *
 * May be called any number of times. Thread: any, also while the owner waits. Since: 0.1
 */
VIRTQ_API void virtq_port_shutdown(struct virtq_port *port);

/**
 * virtq_port_renew - make the driver end anew, in the same memory
 *
 * For a queue that has been stopped or reset. What was in flight must have been
 * detached, which virtq_driver_detach() refuses after any publication, be there a device or
 * not, until virtq_driver_stop() says that none has the ring. The port of a pool or of
 * transfers is renewed by their reset alone.
 *
 * Return: 0; -EBUSY if something is in flight; then nothing has changed.
 * Thread: the owner. Spec: VIRTIO 1.4, 2.6.1. Since: 0.1
 */
VIRTQ_API int virtq_port_renew(struct virtq_port *port);

#ifdef __cplusplus
}
#endif

#endif
