/* SPDX-License-Identifier: MIT */
/*
 * For the tests of a queue's life over transports: the four worlds, requests
 * that may be slow, and a back end that notes what it is told.
 */
#ifndef PROTO_NEGOTIATE_H
#define PROTO_NEGOTIATE_H

#include "rig.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFERS 0x80000u

/* The four worlds: over a socket and in one process, split and packed. */
static inline struct virtq_transport *open_world(struct rig *r, unsigned int world,
						 uint64_t more, uint64_t *features)
{
	struct virtq_error err = { 0, "" };
	struct virtq_transport *t;
	int rc = world / 2 ? virtq_loopback_open(&t, &r->toy.model, r->engines, 2, &err) :
			     virtq_vhost_user_connect(&t, r->path, 2000, &err);

	if (rc)
		fail_msg("%s", err.text);
	*features = layouts[world % 2] | more;
	if (virtq_transport_accept(t, (struct virtq_features){ { *features, 0 } }, &err))
		fail_msg("%s", err.text);
	return t;
}

/* Share the memory of @count queues. */
static inline void share(struct virtq_transport *t, const struct queue *const *queues,
			 unsigned int count)
{
	struct virtq_region regions[4];
	struct virtq_error err = { 0, "" };
	struct virtq_map *map;
	unsigned int one;

	for (unsigned int i = 0; i < count; i++)
		regions[i] = *virtq_map_regions(queues[i]->map, &one);
	assert_int_equal(virtq_map_create(&map, regions, count, NULL), 0);
	if (virtq_transport_share(t, map, &err))
		fail_msg("%s", err.text);
	virtq_map_unref(map);
}

static inline void start(struct virtq_transport *t, unsigned int index, struct queue *q)
{
	struct virtq_error err = { 0, "" };

	if (virtq_transport_start(t, index, q->driver, q->kick_fd, q->call_fd, &err))
		fail_msg("%s", err.text);
}

/* One buffer of @kind at place @n, with token n + 1. Published; kicked if wanted and @kick. */
static inline void request(struct queue *q, char kind, uintptr_t n, bool kick)
{
	uint64_t gpa = q->gpa + BUFFERS + 128 * n;
	struct virtq_seg segs[2] = { { gpa, 1 }, { gpa + 64, 1 } };
	struct virtq_buffer buffer = { segs, 1, 1, (void *)(n + 1) };

	q->memory[BUFFERS + 128 * n] = (uint8_t)kind;
	q->memory[BUFFERS + 128 * n + 64] = 0;
	assert_int_equal(virtq_driver_add(q->driver, &buffer, 1), 1);
	if (virtq_driver_publish(q->driver) && kick)
		virtq_notify_send(q->kick_fd);
}

/* The token's number of the next buffer that is back within @ms, or -1. */
static inline int back_within(struct queue *q, unsigned int ms)
{
	struct virtq_completion done;

	for (unsigned int i = 0; i <= ms; i++) {
		int n = virtq_driver_get(q->driver, &done, 1);

		assert_true(n >= 0);
		if (n)
			return (int)((uintptr_t)done.token - 1);
		sleep_ms(1);
	}
	return -1;
}

static inline bool signalled(int fd)
{
	return readable(fd, 0);
}

/* Ends the request that the device holds, after a while, on a thread of its own. */
struct helper {
	struct rig *r;
	unsigned int after_ms;
	int done;			/* __atomic */
	pthread_t thread;
};

static inline void *help(void *arg)
{
	struct helper *h = arg;

	sleep_ms(h->after_ms);
	__atomic_store_n(&h->done, 1, __ATOMIC_SEQ_CST);
	virtq_engine_complete(__atomic_load_n(&h->r->toy.held, __ATOMIC_SEQ_CST), 0);
	return NULL;
}

static inline void helper_start(struct helper *h, struct rig *r, unsigned int after_ms)
{
	*h = (struct helper){ .r = r, .after_ms = after_ms };
	assert_int_equal(pthread_create(&h->thread, NULL, help, h), 0);
}

static inline bool helper_done(struct helper *h)
{
	return __atomic_load_n(&h->done, __ATOMIC_SEQ_CST);
}

/* ---- What the front end says. ---- */

/*
 * A back end that looks at the kick fd whenever it is told something, before it
 * acknowledges that: what the front end does after it comes later for sure.
 */
struct looker {
	int sockets[2];
	int kick_fd;
	unsigned int enables, kicked_before;
	uint32_t sizes[8], bases[8];
	uint64_t addresses[8];
	unsigned int size_count, base_count, address_count, call_count, kick_count;
	unsigned int disables, get_bases;
	pthread_t thread;
};

static inline void *look(void *arg)
{
	struct looker *l = arg;

	for (;;) {
		char control[CMSG_SPACE(8 * sizeof(int))];
		uint32_t header[3], words[160] = { 0 };
		struct iovec iov = { header, sizeof(header) };
		struct msghdr in = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				     .msg_controllen = sizeof(control) };
		struct { uint32_t header[3]; uint32_t value[2]; } reply = {
			{ 0, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK, 8 }, { 0, 0 }
		};
		struct cmsghdr *c;
		uint64_t features = BIT_30 | layouts[1] | BIT(VIRTIO_F_RING_RESET);
		uint64_t protocol = BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
		int fds[8], got = 0;

		if (recvmsg(l->sockets[1], &in, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(header) ||
		    (header[2] && recv(l->sockets[1], words, header[2], MSG_WAITALL) < 0))
			return NULL;
		for (c = CMSG_FIRSTHDR(&in); c; c = CMSG_NXTHDR(&in, c)) {
			got = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), (size_t)got * sizeof(int));
		}
		/* Whatever comes before the first ENABLE, and the ENABLE itself. */
		if (l->kick_fd >= 0 && !l->enables && signalled(l->kick_fd))
			l->kicked_before++;
		reply.header[0] = header[0];
		switch (header[0]) {
		case VHOST_USER_SET_VRING_KICK:
			if (l->kick_fd >= 0)
				close(l->kick_fd);
			l->kick_fd = got ? fds[0] : -1;
			got = 0;
			l->kick_count++;
			break;
		case VHOST_USER_SET_VRING_CALL:
			l->call_count++;
			break;
		case VHOST_USER_SET_VRING_ENABLE:
			if (words[1])
				l->enables++;
			else
				l->disables++;
			break;
		case VHOST_USER_SET_VRING_NUM:
			l->sizes[l->size_count++ % 8] = words[1];
			break;
		case VHOST_USER_SET_VRING_BASE:
			l->bases[l->base_count++ % 8] = words[1];
			break;
		case VHOST_USER_SET_VRING_ADDR:
			memcpy(&l->addresses[l->address_count++ % 8], &words[2], 8);
			break;
		}
		while (got > 0)
			close(fds[--got]);
		if (header[0] == VHOST_USER_GET_FEATURES) {
			memcpy(reply.value, &features, 8);
		} else if (header[0] == VHOST_USER_GET_VRING_BASE) {
			l->get_bases++;
			reply.value[0] = words[0];
			reply.value[1] = 0x00010001;	/* in mid-lap: not where it began */
		} else if (header[0] == VHOST_USER_GET_PROTOCOL_FEATURES) {
			memcpy(reply.value, &protocol, 8);
		} else if (!(header[1] & VHOST_USER_NEED_REPLY_MASK)) {
			continue;
		}
		send(l->sockets[1], &reply, sizeof(reply), MSG_NOSIGNAL);
	}
}

static inline struct virtq_transport *looker_open(struct looker *l)
{
	struct virtq_transport *t;

	memset(l, 0, sizeof(*l));
	l->kick_fd = -1;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, l->sockets), 0);
	assert_int_equal(pthread_create(&l->thread, NULL, look, l), 0);
	assert_int_equal(virtq_vhost_user_attach(&t, l->sockets[0], 2000, NULL), 0);
	return t;
}

static inline void looker_close(struct looker *l, struct virtq_transport *t)
{
	virtq_transport_close(t);
	pthread_join(l->thread, NULL);
	close(l->sockets[1]);
	if (l->kick_fd >= 0)
		close(l->kick_fd);
}

#endif
