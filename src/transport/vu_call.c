/* SPDX-License-Identifier: MIT */
/* Requests of a vhost-user front end, and what comes back. */
#include "transport/vu_call.h"

#include <unistd.h>

#include "base/error.h"

/* VU-FE-002: after a message that went wrong the stream means nothing any more. */
int vuser_hang_up(struct vuser_caller *c, int rc)
{
	vuser_receiver_reset(&c->rx);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	vuser_listener_close(&c->listener);
	return rc;
}

static int await_reply(struct vuser_caller *c, bool acked, uint64_t deadline_ns,
		       struct virtq_error *err)
{
	const char *name = vuser_name(c->msg.header.request);

	for (;;) {
		int rc = vuser_receive(&c->rx, c->fd, &c->msg, acked, err);

		if (rc == -EPIPE)
			return error_set(err, -EPROTO,
					 "the back end closed the connection instead of answering %s",
					 name);
		if (rc)
			return rc < 0 ? rc : 0;
		rc = vuser_wait_either(c->fd, c->listener.fd, deadline_ns);
		/* It may wait for an answer itself before it gives one (VU-FE-029). */
		if (rc == 1)
			vuser_listener_serve(&c->listener);
		else if (rc)
			return error_set_errno(err, rc, "no answer to %s", name);
	}
}

int vuser_call(struct vuser_caller *c, struct virtq_error *err)
{
	const char *name = vuser_name(c->msg.header.request);
	bool own = vuser_rule(c->msg.header.request)->reply == VUSER_OWN;
	bool acked = !own && c->acks;
	uint64_t deadline_ns = vuser_deadline_ns(c->timeout_ms);
	int rc;

	if (c->fd < 0)
		return error_set(err, -ENOTCONN, "cannot send %s: the connection is lost", name);
	if (acked)
		c->msg.header.flags |= VHOST_USER_NEED_REPLY_MASK;
	vuser_receiver_reset(&c->rx);
	rc = vuser_send(c->fd, &c->msg, deadline_ns, err);
	if (rc)
		return vuser_hang_up(c, rc);
	if (!own && !acked)
		return 0;
	rc = await_reply(c, acked, deadline_ns, err);
	if (rc)
		return vuser_hang_up(c, rc);
	vuser_close_fds(&c->rx.msg);	/* no reply that we ask for brings any (VU-FE-031) */
	if (acked && c->rx.msg.payload.u64)
		return error_set(err, -EIO, "the back end refused %s", name);
	return 0;
}

int vuser_call_empty(struct vuser_caller *c, uint32_t request, struct virtq_error *err)
{
	vuser_msg_init(&c->msg, request);
	return vuser_call(c, err);
}

int vuser_get_u64(struct vuser_caller *c, uint32_t request, uint64_t *value,
		  struct virtq_error *err)
{
	int rc = vuser_call_empty(c, request, err);

	if (!rc)
		*value = c->rx.msg.payload.u64;
	return rc;
}

int vuser_set_u64(struct vuser_caller *c, uint32_t request, uint64_t value,
		  struct virtq_error *err)
{
	vuser_msg_init(&c->msg, request);
	c->msg.payload.u64 = value;
	return vuser_call(c, err);
}

int vuser_set_state(struct vuser_caller *c, uint32_t request, uint32_t index, uint32_t num,
		    struct virtq_error *err)
{
	vuser_msg_init(&c->msg, request);
	c->msg.payload.state.index = index;
	c->msg.payload.state.num = num;
	return vuser_call(c, err);
}

/* VU-FE-020: bit 8 exactly when no descriptor goes along. */
int vuser_set_fd(struct vuser_caller *c, uint32_t request, uint32_t index, int fd,
		 struct virtq_error *err)
{
	vuser_msg_init(&c->msg, request);
	c->msg.payload.u64 = index;
	if (fd < 0) {
		c->msg.payload.u64 |= VHOST_USER_VRING_NOFD_MASK;
	} else {
		c->msg.fds[0] = fd;
		c->msg.fd_count = 1;
	}
	return vuser_call(c, err);
}
