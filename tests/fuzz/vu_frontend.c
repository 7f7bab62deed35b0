/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user front end with a back end that answers anything.
 *
 * One half of the input is a program that opens, shares, starts and stops; the
 * other half makes a thread answer: rightly, or wrong in a field, in the length,
 * with descriptors, or by hanging up. It never just falls silent, so nothing
 * waits for a timeout. What the front end sends has to pass the back end's own
 * checks; what it reports must be an error it may report, and no descriptor may
 * be left over. VU-FE-002, VU-FE-003, VU-FE-031, VU-FE-041.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <virtq/notify.h>
#include <virtq/spec/virtio.h>
#include <virtq/vhost_user.h>

#include "transport/vu_msg.h"

#include "input.h"

#define BIT(n) ((uint64_t)1 << (n))
#define QUEUES 3u
#define RING_SIZE 8u
#define MEMORY_BYTES 65536u
#define REGIONS_MAX 12u
#define TIMEOUT_MS 20000u

/* Once for all inputs. */
static struct virtq_mapping *mapping;
static int notify_fd;

/* ---- The back end ------------------------------------------------------- */

struct backend {
	struct input in;
	int fd;
	bool closing;		/* nothing more is sent */
};

/* Exactly @bytes; false at the end of the stream. Descriptors are counted and closed. */
static bool receive(int fd, void *dst, size_t bytes, unsigned int *fds)
{
	size_t have = 0;

	while (have < bytes) {
		union { char bytes[CMSG_SPACE(16 * sizeof(int))]; struct cmsghdr align; } control;
		struct iovec iov = { (uint8_t *)dst + have, bytes - have };
		struct msghdr in = { .msg_iov = &iov, .msg_iovlen = 1,
				     .msg_control = control.bytes,
				     .msg_controllen = sizeof(control.bytes) };
		ssize_t n = recvmsg(fd, &in, MSG_CMSG_CLOEXEC);

		if (n <= 0)
			return false;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&in); c; c = CMSG_NXTHDR(&in, c)) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; i < count; i++) {
				int came;

				memcpy(&came, CMSG_DATA(c) + i * sizeof(int), sizeof(came));
				close(came);
				++*fds;
			}
		}
		have += (size_t)n;
	}
	return true;
}

static void transmit(int fd, const void *src, size_t bytes, unsigned int fds)
{
	union { char bytes[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr align; } control;
	struct iovec iov = { (void *)(uintptr_t)src, bytes };
	struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fds) {
		struct cmsghdr *c = (struct cmsghdr *)(void *)control.bytes;

		memset(&control, 0, sizeof(control));
		out.msg_control = control.bytes;
		out.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds * sizeof(int));
		for (unsigned int i = 0; i < fds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &notify_fd, sizeof(int));
	}
	(void)sendmsg(fd, &out, MSG_NOSIGNAL);
}

/* The right answer, if there is one, in @reply. */
static bool answer(struct backend *b, const struct vuser_msg *msg, struct vuser_msg *reply)
{
	const struct vuser_rule *rule = vuser_rule(msg->header.request);

	if (rule->reply != VUSER_OWN && !(msg->header.flags & VHOST_USER_NEED_REPLY_MASK))
		return false;
	vuser_reply_init(reply, msg);
	switch (msg->header.request) {
	case VHOST_USER_GET_FEATURES:
		reply->payload.u64 = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) |
				     BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_RESET) |
				     BIT(VHOST_USER_F_PROTOCOL_FEATURES);
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		reply->payload.u64 = BIT(VHOST_USER_PROTOCOL_F_MQ) |
				     BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
				     BIT(VHOST_USER_PROTOCOL_F_CONFIG) |
				     BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
				     BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
		reply->payload.u64 ^= (uint64_t)take8(&b->in) << 8 | (take8(&b->in) & 9);
		break;
	case VHOST_USER_GET_QUEUE_NUM: reply->payload.u64 = QUEUES; break;
	case VHOST_USER_GET_MAX_MEM_SLOTS: reply->payload.u64 = 32; break;
	case VHOST_USER_GET_VRING_BASE:
		reply->payload.state.index = msg->payload.state.index;
		reply->payload.state.num = take_below(&b->in, 2) ? 0x80008000 : 0;
		break;
	case VHOST_USER_GET_CONFIG:
		vuser_msg_set_config(reply, msg->payload.config.offset, msg->payload.config.size);
		break;
	default:	/* an acknowledgement */
		reply->payload.u64 = take_odd(&b->in);
		break;
	}
	return true;
}

/* Send it as it is, or with something wrong. */
static void misanswer(struct backend *b, struct vuser_msg *reply)
{
	uint8_t wire[sizeof(struct VhostUserHeader) + 600] = { 0 };
	unsigned int fds = 0, extra = 0;
	size_t bytes, cut;

	if (take_odd(&b->in)) {
		switch (take_below(&b->in, 8)) {
		case 0: reply->header.request = (uint32_t)take_number(&b->in); break;
		case 1: reply->header.flags = take8(&b->in); break;
		case 2: reply->header.size = (uint32_t)take_number(&b->in); break;
		case 3: reply->payload.u64 = take_number(&b->in); break;
		case 4: reply->payload.u64 ^= take64(&b->in); break;
		case 5: fds = 1 + take_below(&b->in, 4); break;
		case 6: extra = 1 + take8(&b->in); break;
		default: b->closing = true; break;
		}
	}
	bytes = sizeof(reply->header);
	memcpy(wire, &reply->header, bytes);
	memcpy(wire + bytes, &reply->payload, 300);
	bytes += reply->header.size < 300 ? reply->header.size : 300;
	/* More is announced than comes: what the front end waits for is an end. */
	b->closing |= reply->header.size > 300;
	if (b->closing)
		bytes = take_below(&b->in, (uint32_t)bytes);
	bytes += extra;
	cut = take_odd(&b->in) && bytes ? take_below(&b->in, (uint32_t)bytes) : 0;
	if (cut)
		transmit(b->fd, wire, cut, fds);
	if (bytes > cut)
		transmit(b->fd, wire + cut, bytes - cut, cut && fds < 2 ? 0 : fds);
	if (b->closing)
		shutdown(b->fd, SHUT_WR);
}

static void *run_backend(void *arg)
{
	struct backend *b = arg;
	static struct vuser_msg msg, reply;

	for (;;) {
		struct virtq_error err;

		msg.fd_count = 0;
		if (!receive(b->fd, &msg.header, sizeof(msg.header), &msg.fd_count))
			break;
		/* What the front end says is for a back end to understand. */
		FUZZ_CHECK(!vuser_check_request(&msg.header, &err));
		if (!receive(b->fd, &msg.payload, msg.header.size, &msg.fd_count))
			break;
		FUZZ_CHECK(vuser_rule(msg.header.request));
		FUZZ_CHECK(!vuser_check_complete(&msg, &err));
		if (!b->closing && answer(b, &msg, &reply))
			misanswer(b, &reply);
	}
	return NULL;
}

/* ---- The program -------------------------------------------------------- */

struct run {
	struct input in;
	struct virtq_transport *t;
	struct virtq_features accepted;
	struct virtq_driver *queues[QUEUES];
};

/* An error that any call may report, or one of @also. */
static void check_result(int rc, const struct virtq_error *err, int also)
{
	FUZZ_CHECK(rc <= 0);
	if (!rc)
		return;
	FUZZ_CHECK(err->code < 0 && err->text[0]);
	FUZZ_CHECK(rc == -EIO || rc == -EPROTO || rc == -ENOTCONN || rc == -EPIPE ||
		   rc == -ECONNRESET || rc == also);
}

static void do_accept(struct run *r)
{
	struct virtq_features wanted = virtq_transport_offered(r->t);
	struct virtq_error err;
	uint8_t how = take8(&r->in);
	int rc;

	if (how & 1)
		wanted = virtq_features_without(wanted, VIRTIO_F_RING_PACKED);
	if (how >= 0xf0)
		wanted.word[0] ^= take64(&r->in);
	rc = virtq_transport_accept(r->t, wanted, &err);
	check_result(rc, &err, -EINVAL);
	if (!rc)
		r->accepted = wanted;
}

static void do_share(struct run *r)
{
	struct virtq_region regions[REGIONS_MAX] = { { 0 } };
	uint8_t *host = virtq_mapping_host(mapping);
	unsigned int count = 1 + take_below(&r->in, take8(&r->in) < 0xc0 ? 2 : REGIONS_MAX);
	uint64_t bytes = MEMORY_BYTES / 16, from = take8(&r->in) & 3;
	struct virtq_error err;
	struct virtq_map *map;
	int rc;

	for (unsigned int i = 0; i < count; i++) {
		uint64_t off = i * bytes;

		regions[i] = (struct virtq_region){
			.gpa = (from << 32) + off, .size_bytes = bytes, .host = host + off,
			.user = (uintptr_t)host + off, .fd = virtq_mapping_fd(mapping),
			.fd_offset_bytes = off, .access = VIRTQ_ACCESS_RW, .mapping = mapping,
		};
	}
	if (take_odd(&r->in))
		regions[count - 1].fd = -1;
	if (take_odd(&r->in))
		regions[count - 1].user = 0;
	FUZZ_CHECK(!virtq_map_create(&map, regions, count, NULL));
	rc = virtq_transport_share(r->t, map, &err);
	check_result(rc, &err, -EINVAL);
	virtq_map_unref(map);
}

static void do_start(struct run *r)
{
	uint32_t i = take_below(&r->in, QUEUES + 1);
	uint8_t *host = (uint8_t *)virtq_mapping_host(mapping) + i * 1024;
	struct virtq_driver_config config = { .ring = { .features = r->accepted,
							.size = RING_SIZE } };
	struct virtq_ring_shape shape;
	struct virtq_driver *q;
	struct virtq_error err;
	int rc;

	if (i < QUEUES && r->queues[i])
		return;
	if (take_odd(&r->in))
		host += MEMORY_BYTES / 2;
	FUZZ_CHECK(!virtq_ring_shape(r->accepted, RING_SIZE, &shape));
	FUZZ_CHECK(shape.total_bytes <= 1024);
	config.ring.desc = host;
	config.ring.driver = host + shape.driver_offset;
	config.ring.device = host + shape.device_offset;
	if (virtq_driver_create(&q, &config, &err))
		return;		/* nothing was accepted yet */
	rc = virtq_transport_start(r->t, i, q, take8(&r->in) & 1 ? -1 : notify_fd,
				   take8(&r->in) & 1 ? -1 : notify_fd, &err);
	check_result(rc, &err, -EINVAL);
	if (!rc)
		FUZZ_CHECK(i < virtq_transport_queues(r->t));
	/* The memory is there for three; a fourth may be started and is let run. */
	if (!rc && i < QUEUES)
		r->queues[i] = q;
	else if (!rc)
		virtq_transport_stop(r->t, i, NULL, NULL);
	if (rc || i >= QUEUES)
		virtq_driver_destroy(q);
}

static void do_stop(struct run *r, bool by_reset)
{
	uint32_t i = take_below(&r->in, QUEUES), position = 0;
	bool packed = virtq_features_has(r->accepted, VIRTIO_F_RING_PACKED);
	struct virtq_error err;
	int rc;

	if (by_reset)
		rc = virtq_transport_queue_reset(r->t, i, &err);
	else
		rc = virtq_transport_stop(r->t, i, &position, &err);
	check_result(rc, &err, r->queues[i] && !by_reset ? 0 : rc == -ENOTSUP ? rc : -EINVAL);
	/* UNTRUSTED: somebody will start a ring there (VU-FE-041). */
	if (!rc && packed)
		FUZZ_CHECK((position & 0x7fff) < RING_SIZE && (position >> 16 & 0x7fff) < RING_SIZE);
	else if (!rc)
		FUZZ_CHECK(position <= UINT16_MAX);
	if (r->queues[i] && (!rc || !by_reset)) {
		virtq_driver_destroy(r->queues[i]);
		r->queues[i] = NULL;
	}
}

static void do_config(struct run *r)
{
	uint8_t bytes[256];
	uint32_t offset = take8(&r->in), len = take_below(&r->in, sizeof(bytes) + 1);
	uint8_t *exact = malloc(len ? len : 1);
	struct virtq_error err;
	int rc;

	FUZZ_CHECK(exact);
	rc = virtq_transport_config_read(r->t, offset, exact, len, &err);
	check_result(rc, &err, offset + len > 256 ? -EINVAL : -ENOTSUP);
	if (!rc)
		memcpy(bytes, exact, len);	/* all of them have been written */
	free(exact);
}

/* All queues are forgotten: stopped, and to be made anew. */
static void drop_queues(struct run *r)
{
	for (uint32_t i = 0; i < QUEUES; i++) {
		if (!r->queues[i])
			continue;
		virtq_driver_destroy(r->queues[i]);
		r->queues[i] = NULL;
	}
}

static void do_reset(struct run *r)
{
	struct virtq_error err;
	int rc = virtq_transport_reset(r->t, &err);

	check_result(rc, &err, -ENOTSUP);
	if (!rc) {
		drop_queues(r);
		r->accepted = (struct virtq_features){ { 0, 0 } };
		return;
	}
	/* Some of them may run still, and some not: stop them all. */
	for (uint32_t i = 0; i < QUEUES; i++)
		if (r->queues[i])
			virtq_transport_stop(r->t, i, NULL, NULL);
	drop_queues(r);
}

static void turn(struct run *r)
{
	int alive;

	switch (take_below(&r->in, 12)) {
	case 0: case 1: do_accept(r); break;
	case 2: case 3: do_share(r); break;
	case 4: case 5: case 6: do_start(r); break;
	case 7: do_stop(r, false); break;
	case 8: do_stop(r, true); break;
	case 9: do_config(r); break;
	case 10: do_reset(r); break;
	default:
		alive = virtq_transport_alive(r->t);
		FUZZ_CHECK(alive == 0 || alive == 1);
		break;
	}
}

/* The lowest free descriptor: grows when one is left over. */
static int lowest_fd(void)
{
	int fd = fcntl(notify_fd, F_DUPFD_CLOEXEC, 3);

	FUZZ_CHECK(fd >= 0);
	close(fd);
	return fd;
}

static void set_up_once(void)
{
	if (mapping)
		return;
	FUZZ_CHECK(!virtq_mapping_create(&mapping, MEMORY_BYTES, NULL));
	notify_fd = virtq_notify_open();
	FUZZ_CHECK(notify_fd >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t half = size / 2;
	struct backend b = { .in = { data, half } };
	struct run r = { .in = { data + half, size - half } };
	struct virtq_error err;
	pthread_t thread;
	int sockets[2], rc, before;

	set_up_once();
	before = lowest_fd();	/* libFuzzer opens some, too, between inputs */
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	b.fd = sockets[1];
	FUZZ_CHECK(!pthread_create(&thread, NULL, run_backend, &b));
	rc = virtq_vhost_user_attach(&r.t, sockets[0], TIMEOUT_MS, &err);
	check_result(rc, &err, 0);
	if (!rc) {
		(void)virtq_vhost_user_mem_slots(r.t);
		while (r.in.left)
			turn(&r);
		virtq_transport_close(r.t);
		drop_queues(&r);
	}
	pthread_join(thread, NULL);
	close(sockets[1]);
	FUZZ_CHECK(lowest_fd() == before);
	virtq_notify_clear(notify_fd);
	return 0;
}
