/* SPDX-License-Identifier: MIT */
/* A front end's end of the connection: one request, one reply. */
#ifndef VIRTQ_TRANSPORT_VU_CALL_H
#define VIRTQ_TRANSPORT_VU_CALL_H

#include "transport/vu_channel.h"
#include "transport/vu_sock.h"

struct vuser_caller {
	int fd;				/* -1 once the connection is lost */
	unsigned int timeout_ms;	/* for any one answer */
	bool acks;			/* REPLY_ACK was agreed on */
	struct vuser_msg msg;		/* the request under way */
	struct vuser_receiver rx;	/* its reply */
	struct vuser_listener listener;	/* what the back end says unasked */
};

/*
 * Send @c->msg and take what comes back: its own reply, into @c->rx, or an
 * acknowledgement if those were agreed on (VU-FE-004, 027).
 *
 * Return: 0; -EIO if the back end refused, with the connection intact; any
 *	other error ended the connection.
 */
int vuser_call(struct vuser_caller *c, struct virtq_error *err);

/* Requests of the simple kinds. @value is only written if all went well. */
int vuser_call_empty(struct vuser_caller *c, uint32_t request, struct virtq_error *err);
int vuser_get_u64(struct vuser_caller *c, uint32_t request, uint64_t *value,
		  struct virtq_error *err);
int vuser_set_u64(struct vuser_caller *c, uint32_t request, uint64_t value,
		  struct virtq_error *err);
int vuser_set_state(struct vuser_caller *c, uint32_t request, uint32_t index, uint32_t num,
		    struct virtq_error *err);
/* @fd of queue @index, or -1 for none. */
int vuser_set_fd(struct vuser_caller *c, uint32_t request, uint32_t index, int fd,
		 struct virtq_error *err);

/* Lose the connection. Returns @rc. */
int vuser_hang_up(struct vuser_caller *c, int rc);

#endif
