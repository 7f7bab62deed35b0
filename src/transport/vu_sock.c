/* SPDX-License-Identifier: MIT */
/* Sending and receiving vhost-user messages. */
#include "transport/vu_sock.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"

#define NS_PER_MS 1000000u
#define NS_PER_S 1000000000u

int vuser_address(struct sockaddr_un *addr, const char *path, struct virtq_error *err)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!*path || strlen(path) >= sizeof(addr->sun_path))
		return error_set(err, *path ? -ENAMETOOLONG : -EINVAL,
				 "a socket path has 1 to %u bytes",
				 (unsigned int)sizeof(addr->sun_path) - 1);
	memcpy(addr->sun_path, path, strlen(path));
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t vuser_deadline_ns(unsigned int timeout_ms)
{
	return now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
}

int vuser_ms_left(uint64_t deadline_ns)
{
	uint64_t now = now_ns();

	return deadline_ns > now ? (int)((deadline_ns - now - 1) / NS_PER_MS + 1) : 0;
}

static int wait_for(struct pollfd *polls, nfds_t count, uint64_t deadline_ns)
{
	for (;;) {
		uint64_t now = now_ns();
		uint64_t left_ns = deadline_ns > now ? deadline_ns - now : 0;
		struct timespec left = { (time_t)(left_ns / NS_PER_S), (long)(left_ns % NS_PER_S) };
		int n = ppoll(polls, count, &left, NULL);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

int vuser_wait(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd p = { fd, events, 0 };

	return wait_for(&p, 1, deadline_ns);
}

int vuser_wait_either(int fd, int other, uint64_t deadline_ns)
{
	struct pollfd p[2] = { { fd, POLLIN, 0 }, { other, POLLIN, 0 } };
	int rc = wait_for(p, 2, deadline_ns);

	return rc ? rc : !p[0].revents;
}

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(VUSER_FDS_MAX * sizeof(int))];
};

static void attach_fds(struct msghdr *out, union control *control, const struct vuser_msg *msg)
{
	size_t bytes = msg->fd_count * sizeof(int);
	struct cmsghdr *c;

	memset(control, 0, sizeof(*control));
	out->msg_control = control->bytes;
	out->msg_controllen = CMSG_SPACE(bytes);
	c = CMSG_FIRSTHDR(out);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(c), msg->fds, bytes);
}

int vuser_send(int fd, const struct vuser_msg *msg, uint64_t deadline_ns,
	       struct virtq_error *err)
{
	uint8_t wire[sizeof(msg->header) + sizeof(msg->payload)];
	size_t total = sizeof(msg->header) + msg->header.size, sent = 0;
	union control control;

	memcpy(wire, &msg->header, sizeof(msg->header));
	memcpy(wire + sizeof(msg->header), &msg->payload, msg->header.size);
	while (sent < total) {
		struct iovec iov = { wire + sent, total - sent };
		struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (!sent && msg->fd_count)
			attach_fds(&out, &control, msg);
		n = sendmsg(fd, &out, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			sent += (size_t)n;
		} else if (errno == EAGAIN) {
			int rc = vuser_wait(fd, POLLOUT, deadline_ns);

			if (rc)
				return error_set_errno(err, rc, "cannot send %s",
						       vuser_name(msg->header.request));
		} else if (errno != EINTR) {
			return error_set_errno(err, -errno, "cannot send %s",
					       vuser_name(msg->header.request));
		}
	}
	return 0;
}

/*
 * Take over the descriptors that came with one read. All of them are in the
 * message afterwards, so that they are closed whatever comes of it. UNTRUSTED:
 * the peer chooses how many come and with which bytes.
 */
static int collect_fds(struct vuser_receiver *rx, struct msghdr *in, struct virtq_error *err)
{
	bool late = false;
	size_t came = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(in); c; c = CMSG_NXTHDR(in, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		came += count;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (rx->have_bytes || rx->msg.fd_count == VUSER_FDS_MAX) {
				close(fd);
				late = true;
			} else {
				rx->msg.fds[rx->msg.fd_count++] = fd;
			}
		}
	}
	/* There was room for more than came: it is this process that could not take them. */
	if (in->msg_flags & MSG_CTRUNC && came < VUSER_FDS_MAX)
		return error_set(err, -EMFILE,
				 "only %u of a message's descriptors could be taken; too many may be open here",
				 (unsigned int)came);
	if (in->msg_flags & MSG_CTRUNC)
		return error_set(err, -EPROTO,
				 "more file descriptors came with a message than can be taken");
	if (late)
		return error_set(err, -EPROTO,
				 "file descriptors came later than with the first byte of a message");
	return 0;
}

int vuser_receive(struct vuser_receiver *rx, int fd, const struct vuser_msg *request,
		  bool acked, struct virtq_error *err)
{
	const size_t header_bytes = sizeof(rx->msg.header);

	for (;;) {
		bool in_header = rx->have_bytes < header_bytes;
		size_t want = in_header ? header_bytes : header_bytes + rx->msg.header.size;
		struct iovec iov;
		union control control;
		struct msghdr in = { .msg_iov = &iov, .msg_iovlen = 1,
				     .msg_control = control.bytes,
				     .msg_controllen = sizeof(control.bytes) };
		ssize_t n;
		int rc;

		/* Never read past this message: descriptors belong to the read they come with. */
		if (in_header) {
			iov.iov_base = (uint8_t *)&rx->msg.header + rx->have_bytes;
		} else if (rx->have_bytes < want) {
			iov.iov_base = rx->msg.payload.bytes + (rx->have_bytes - header_bytes);
		} else {
			rc = request || rx->channel ? 0 : vuser_check_complete(&rx->msg, err);
			return rc ? rc : 1;
		}
		iov.iov_len = want - rx->have_bytes;

		n = recvmsg(fd, &in, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != ECONNRESET)
			return error_set_errno(err, -errno, "cannot receive");
		if (n <= 0 && rx->have_bytes)
			return error_set(err, -EPROTO,
					 "the connection ended after %lu bytes of a message",
					 (unsigned long)rx->have_bytes);
		if (n <= 0)
			return error_set(err, -EPIPE, "the other side closed the connection");

		rc = collect_fds(rx, &in, err);
		if (rc)
			return rc;
		rx->have_bytes += (size_t)n;
		if (in_header && rx->have_bytes == header_bytes) {
			rc = request ? vuser_check_reply(&rx->msg.header, request, acked, err) :
			     rx->channel ? vuser_check_channel_request(&rx->msg.header, err) :
					   vuser_check_request(&rx->msg.header, err);
			if (rc)
				return rc;
		}
	}
}

void vuser_receiver_reset(struct vuser_receiver *rx)
{
	vuser_close_fds(&rx->msg);
	rx->have_bytes = 0;
}
