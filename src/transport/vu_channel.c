/* SPDX-License-Identifier: MIT */
/* The channel of SET_BACKEND_REQ_FD: the back end's end, and the front end's. */
#include "transport/vu_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

/* Requests taken in one go: a back end that never ceases must not hold us. */
#define LISTENER_BATCH 64u

/* ---- The back end. ---- */

void vuser_channel_init(struct vuser_channel *c)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	c->fd = -1;
}

void vuser_channel_fini(struct vuser_channel *c)
{
	pthread_mutex_destroy(&c->lock);
}

static void drop(struct vuser_channel *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/*
 * VU-BE-053: only with CONFIG, BACKEND_REQ and a channel; until then it is due.
 *
 * No answer is asked for, so there is none to wait for. A client that does not
 * read has a full socket of the same message before it: one more tells nothing.
 */
static void send_if_due(struct vuser_channel *c)
{
	struct VhostUserHeader message = {
		VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, VHOST_USER_VERSION, 0,
	};
	ssize_t n;

	if (!c->due || c->fd < 0 || !c->agreed)
		return;
	c->due = false;
	do
		n = send(c->fd, &message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n == sizeof(message) || (n < 0 && errno == EAGAIN))
		return;
	/* Closed, or out of step: nothing that follows would be understood. */
	drop(c);
}

void vuser_channel_begin(struct vuser_channel *c)
{
	pthread_mutex_lock(&c->lock);
	c->due = false;		/* it reads the configuration as it is now */
	pthread_mutex_unlock(&c->lock);
}

void vuser_channel_end(struct vuser_channel *c)
{
	pthread_mutex_lock(&c->lock);
	drop(c);
	c->agreed = false;
	pthread_mutex_unlock(&c->lock);
}

void vuser_channel_agree(struct vuser_channel *c, bool agreed)
{
	pthread_mutex_lock(&c->lock);
	c->agreed = agreed;
	send_if_due(c);
	pthread_mutex_unlock(&c->lock);
}

/* UNTRUSTED: it may be anything; what cannot be sent on without waiting is no channel. */
static bool is_unix_stream(int fd)
{
	int domain = 0, type = 0;
	socklen_t domain_bytes = sizeof(domain), type_bytes = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) == 0 &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_bytes) == 0 &&
	       domain == AF_UNIX && type == SOCK_STREAM;
}

int vuser_channel_set(struct vuser_channel *c, int fd, struct virtq_error *err)
{
	if (!is_unix_stream(fd)) {
		close(fd);
		return error_set(err, -EINVAL,
				 "SET_BACKEND_REQ_FD brought no Unix stream socket");
	}
	pthread_mutex_lock(&c->lock);
	drop(c);
	c->fd = fd;
	send_if_due(c);
	pthread_mutex_unlock(&c->lock);
	return 0;
}

void vuser_channel_tell(struct vuser_channel *c)
{
	pthread_mutex_lock(&c->lock);
	c->due = true;
	send_if_due(c);
	pthread_mutex_unlock(&c->lock);
}

/* ---- The front end. ---- */

int vuser_listener_open(struct vuser_listener *l, bool acks, int *theirs)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	l->fd = pair[0];
	l->acks = acks;
	l->rx.channel = true;
	*theirs = pair[1];
	return 0;
}

void vuser_listener_close(struct vuser_listener *l)
{
	vuser_receiver_reset(&l->rx);
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

/* One request; false when there is none, or when the channel has come to its end. */
static bool serve_one(struct vuser_listener *l)
{
	struct vuser_msg reply;
	uint32_t request;
	bool known, wanted;
	int rc = vuser_receive(&l->rx, l->fd, NULL, false, NULL);

	if (!rc)
		return false;
	if (rc < 0) {
		vuser_listener_close(l);
		return false;
	}
	request = l->rx.msg.header.request;
	wanted = l->acks && l->rx.msg.header.flags & VHOST_USER_NEED_REPLY_MASK;
	known = request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
	vuser_receiver_reset(&l->rx);	/* closes what came along unasked (VU-FE-031) */
	l->config_changes += known;
	if (!wanted)
		return true;
	/* VU-FE-030. To a back end that asks and does not read nothing is owed. */
	vuser_channel_reply_init(&reply, request, known ? 0 : 1);
	if (vuser_send(l->fd, &reply, 0, NULL)) {
		vuser_listener_close(l);
		return false;
	}
	return true;
}

void vuser_listener_serve(struct vuser_listener *l)
{
	for (unsigned int i = 0; i < LISTENER_BATCH && l->fd >= 0 && serve_one(l); i++)
		;
}
