/* SPDX-License-Identifier: MIT */
/* A back end from a script. */
#include "script.h"

#include <string.h>
#include <unistd.h>

static bool take(int fd, void *dst, size_t bytes, unsigned int *fds)
{
	size_t have = 0;

	while (have < bytes) {
		char control[CMSG_SPACE(16 * sizeof(int))];
		struct iovec iov = { (uint8_t *)dst + have, bytes - have };
		struct msghdr in = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				     .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(fd, &in, MSG_CMSG_CLOEXEC);

		if (n <= 0)
			return false;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&in); c; c = CMSG_NXTHDR(&in, c)) {
			for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
				int got;

				memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
				close(got);
				++*fds;
			}
		}
		have += (size_t)n;
	}
	return true;
}

/* The honest answer to a message, into @answer. -1 for none. */
static int honest(struct script *s, const struct logged *msg, uint8_t *answer)
{
	uint64_t value = 0;

	switch (msg->request) {
	case VHOST_USER_GET_FEATURES:
		value = s->features;
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		value = s->protocol;
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		value = s->queues;
		break;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		value = s->slots;
		break;
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_GET_CONFIG:
		memcpy(answer, msg->payload, msg->size);
		return (int)msg->size;
	default:
		if (!(msg->flags & VHOST_USER_NEED_REPLY_MASK))
			return -1;
	}
	memcpy(answer, &value, sizeof(value));
	return sizeof(value);
}

static void *run_script(void *arg)
{
	struct script *s = arg;
	int fd = s->sockets[1];

	for (;;) {
		struct logged *msg = &s->log[s->logged % 64];
		uint8_t wire[12 + 600] = { 0 };
		uint32_t header[3];
		int bytes;

		memset(msg, 0, sizeof(*msg));
		if (!take(fd, header, sizeof(header), &msg->fds))
			break;
		msg->request = header[0];
		msg->flags = header[1];
		msg->size = header[2];
		if (!take(fd, msg->payload, msg->size, &msg->fds))
			break;
		s->logged++;
		bytes = honest(s, msg, wire + 12);
		header[1] = VHOST_USER_VERSION | VHOST_USER_REPLY_MASK;
		header[2] = (uint32_t)bytes;
		if (msg->request == s->bad_request) {
			switch (s->misdeed) {
			case HONEST: case WITH_FDS:
				break;
			case CLOSE:
				shutdown(fd, SHUT_RDWR);
				return NULL;
			case SILENT:
				continue;
			case HALF_HEADER:
				send(fd, header, 6, MSG_NOSIGNAL);
				shutdown(fd, SHUT_RDWR);
				return NULL;
			case HALF_PAYLOAD:
				send(fd, header, 12, MSG_NOSIGNAL);
				send(fd, wire + 12, 3, MSG_NOSIGNAL);
				shutdown(fd, SHUT_RDWR);
				return NULL;
			case WRONG_ID:
				header[0]++;
				break;
			case NO_REPLY_BIT:
				header[1] = VHOST_USER_VERSION;
				break;
			case VERSION_2:
				header[1] ^= 3;
				break;
			case SHORT:
				header[2] = (uint32_t)--bytes;
				break;
			case LONG:
				header[2] = (uint32_t)++bytes;
				break;
			case HUGE_SIZE:
				header[2] = UINT32_MAX;
				break;
			case NACK:
				wire[12] = 1;
				break;
			case EMPTY:
				header[2] = 0;
				bytes = 0;
				break;
			case WRONG_INDEX:
				wire[12]++;
				break;
			case WRONG_BASE:
				memcpy(wire + 16, &(uint32_t){ 0x10000 }, 4);
				break;
			case ZERO:
				memset(wire + 12, 0, 8);
				break;
			}
		}
		if (bytes < 0)
			continue;
		memcpy(wire, header, sizeof(header));
		if (msg->request == s->bad_request && s->misdeed == WITH_FDS) {
			int fds[2] = { fd, fd };
			char control[CMSG_SPACE(sizeof(fds))] = { 0 };
			struct iovec iov = { wire, 12 + (size_t)bytes };
			struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };

			attach_fds(&out, control, fds, sizeof(fds) / sizeof(fds[0]));
			sendmsg(fd, &out, MSG_NOSIGNAL);
		} else {
			send(fd, wire, 12 + (size_t)bytes, MSG_NOSIGNAL);
		}
	}
	return NULL;
}

int script_attach(struct script *s, unsigned int ms, struct virtq_transport **t,
		  struct virtq_error *err)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->sockets), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, run_script, s), 0);
	return virtq_vhost_user_attach(t, s->sockets[0], ms, err);
}

void script_detach(struct script *s, struct virtq_transport *t)
{
	virtq_transport_close(t);
	pthread_join(s->thread, NULL);
	close(s->sockets[1]);
}
