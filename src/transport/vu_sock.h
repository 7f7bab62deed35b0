/* SPDX-License-Identifier: MIT */
/* vhost-user messages over a stream socket: whole ones out, pieces in. */
#ifndef VIRTQ_TRANSPORT_VU_SOCK_H
#define VIRTQ_TRANSPORT_VU_SOCK_H

#include <stddef.h>
#include <sys/un.h>

#include "transport/vu_msg.h"

/* A message on its way in. Zero it before first use. */
struct vuser_receiver {
	struct vuser_msg msg;
	bool channel;		/* requests are those that a back end sends, not a front end */
	size_t have_bytes;	/* of header and payload together */
};

/* The address of a socket at @path. 0, -EINVAL or -ENAMETOOLONG. */
int vuser_address(struct sockaddr_un *addr, const char *path, struct virtq_error *err);

/* The moment @timeout_ms from now, on the monotonic clock. */
uint64_t vuser_deadline_ns(unsigned int timeout_ms);
/* How long it is until then: 0 only if it is over. */
int vuser_ms_left(uint64_t deadline_ns);

/* Wait for poll events on @fd. 0, -ETIMEDOUT or -errno. */
int vuser_wait(int fd, short events, uint64_t deadline_ns);

/*
 * Wait for input on @fd, or on @other unless that is -1. 0, 1 if @other alone
 * has it, -ETIMEDOUT or -errno.
 */
int vuser_wait_either(int fd, int other, uint64_t deadline_ns);

/*
 * vuser_send - send a whole message
 *
 * Its descriptors ride on the first byte and stay the caller's. Waits while
 * the other side is slow, at most until @deadline_ns.
 *
 * Return: 0, -ETIMEDOUT, or what send says. After a failure the stream is of
 *	no more use: part of the message may be out.
 */
int vuser_send(int fd, const struct vuser_msg *msg, uint64_t deadline_ns,
	       struct virtq_error *err);

/*
 * vuser_receive - take what has arrived of one message; never blocks
 * @request: the message whose reply this must be; NULL if a request is awaited
 * @acked:   the reply is an acknowledgement that was asked for
 *
 * Return: 1 once rx->msg is whole and passed the checks of vu_msg.h; 0 if more
 *	has to arrive; -EPIPE if the other side closed between two messages;
 *	-EPROTO with a sentence; -EMFILE if this process has no room for the
 *	descriptors that came; or what recv says.
 */
int vuser_receive(struct vuser_receiver *rx, int fd, const struct vuser_msg *request,
		  bool acked, struct virtq_error *err);

/* Forget the message, whole or not, and close its descriptors. */
void vuser_receiver_reset(struct vuser_receiver *rx);

#endif
