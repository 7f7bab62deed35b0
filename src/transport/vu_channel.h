/* SPDX-License-Identifier: MIT */
/*
 * The channel of SET_BACKEND_REQ_FD, over which the back end sends requests of
 * its own: here, that the configuration space has changed. Both ends of it.
 */
#ifndef VIRTQ_TRANSPORT_VU_CHANNEL_H
#define VIRTQ_TRANSPORT_VU_CHANNEL_H

#include <pthread.h>

#include "transport/vu_sock.h"

/* ---- The back end speaks. One for a server; its clients have it in turn. ---- */

struct vuser_channel {
	pthread_mutex_t lock;	/* of all of it: those who tell are on any thread */
	int fd;			/* the client's, or -1 */
	bool agreed;		/* it took BACKEND_REQ and CONFIG */
	bool due;		/* a change that it could not be told of yet */
};

void vuser_channel_init(struct vuser_channel *c);
void vuser_channel_fini(struct vuser_channel *c);

/* A client comes, and goes. */
void vuser_channel_begin(struct vuser_channel *c);
void vuser_channel_end(struct vuser_channel *c);

/* What the client agreed on. */
void vuser_channel_agree(struct vuser_channel *c, bool agreed);

/* The client's socket, taken; in place of one that it sent before. 0 or -EINVAL. */
int vuser_channel_set(struct vuser_channel *c, int fd, struct virtq_error *err);

/* Say that the configuration space has changed. Any thread; never waits. */
void vuser_channel_tell(struct vuser_channel *c);

/* ---- The front end listens. ---- */

struct vuser_listener {
	int fd;				/* -1: there is no channel, or no more */
	bool acks;			/* REPLY_ACK was agreed on */
	uint32_t config_changes;	/* how many it has heard of */
	struct vuser_receiver rx;
};

/* Make both ends; @theirs, for the back end, is the caller's. 0 or -errno. */
int vuser_listener_open(struct vuser_listener *l, bool acks, int *theirs);

/* Take and answer what has arrived; never waits. */
void vuser_listener_serve(struct vuser_listener *l);

void vuser_listener_close(struct vuser_listener *l);

#endif
