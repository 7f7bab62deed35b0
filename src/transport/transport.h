/* SPDX-License-Identifier: MIT */
/* What every transport of the driver's end has, and what each does its own way. */
#ifndef VIRTQ_TRANSPORT_TRANSPORT_H
#define VIRTQ_TRANSPORT_TRANSPORT_H

#include <stdbool.h>

#include <virtq/transport.h>

/* Most queues that any transport is asked for. */
#define TRANSPORT_QUEUES_MAX 256u

/* Most bytes of configuration space that can be read. */
#define TRANSPORT_CONFIG_BYTES 256u

/*
 * What transport.c has checked before it calls one of these:
 * @accept:      a subset of what is offered; no queue runs
 * @config_read: the range; accept() succeeded
 * @config_write: as config_read
 * @config_generation: may be NULL: then it never changes by itself
 * @config_fd:   may be NULL: then there is none
 * @share:       every region has an fd, and the rings of running queues are in
 *               it. The old map stays referenced, as t->map, until this succeeded
 * @start:       index; features accepted, memory shared, and the ring in it
 *               and of the accepted shape; nothing in flight; not running
 * @stop:        the queue runs, t->running[index]; counts as stopped whatever comes of it
 * @queue_reset: as stop, but where it would go on is forgotten, and it counts
 *               as stopped only if that succeeds
 * @reset:       no queue runs; back to before accept(). Errors end the connection
 * @alive:       may be NULL: then it always is
 * @fd:          may be NULL: then there is none
 * @close:       all queues are stopped. Frees the transport
 */
struct transport_ops {
	int (*accept)(struct virtq_transport *t, struct virtq_features features,
		      struct virtq_error *err);
	int (*config_read)(struct virtq_transport *t, unsigned int offset, void *dst,
			   unsigned int len, struct virtq_error *err);
	int (*config_write)(struct virtq_transport *t, unsigned int offset, const void *src,
			    unsigned int len, struct virtq_error *err);
	uint32_t (*config_generation)(struct virtq_transport *t);
	int (*config_fd)(const struct virtq_transport *t);
	int (*share)(struct virtq_transport *t, struct virtq_map *map, struct virtq_error *err);
	int (*start)(struct virtq_transport *t, unsigned int index, struct virtq_driver *q,
		     int kick_fd, int call_fd, struct virtq_error *err);
	int (*stop)(struct virtq_transport *t, unsigned int index, uint32_t *position,
		    struct virtq_error *err);
	int (*queue_reset)(struct virtq_transport *t, unsigned int index, struct virtq_error *err);
	int (*reset)(struct virtq_transport *t, struct virtq_error *err);
	int (*alive)(struct virtq_transport *t);
	int (*fd)(const struct virtq_transport *t);
	void (*close)(struct virtq_transport *t);
};

/* The first member of each transport's own struct. The first four are set when it opens. */
struct virtq_transport {
	const struct transport_ops *ops;
	struct virtq_features offered;
	unsigned int device_id;
	unsigned int queues;		/* 1..TRANSPORT_QUEUES_MAX */

	bool accepted;
	struct virtq_features features;
	struct virtq_map *map;		/* NULL until shared */
	/* The driver ends of the queues that run, NULL for the others. */
	struct virtq_driver *running[TRANSPORT_QUEUES_MAX];
	bool was_reset[TRANSPORT_QUEUES_MAX];	/* and not started since */
};

/*
 * Set what the driver is shown of @raw, what the device says that it offers;
 * @carried: the device-independent bits of this transport.
 */
void transport_set_offered(struct virtq_transport *t, struct virtq_features raw,
			   struct virtq_features carried);

/*
 * The user address of @bytes at @host, or -EINVAL if they are not all in one
 * region of @map.
 */
int transport_user_address(const struct virtq_map *map, const void *host, size_t bytes,
			   uint64_t *user);

#endif
