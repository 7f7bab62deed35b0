/* SPDX-License-Identifier: MIT */
/* See rig.h. */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- The device. ---- */

static struct toy *toy_of(struct virtq_model *model)
{
	return (struct toy *)(void *)model;
}

static enum virtq_verdict toy_start(struct virtq_model *model, struct virtq_req *req,
				    struct virtq_op *op)
{
	uint8_t byte;

	if (virtq_req_read(req, &byte, 1) != 1)
		return VIRTQ_MALFORMED;
	if (byte == 's') {
		op->kind = VIRTQ_OP_READ;
		op->fd = toy_of(model)->slow_fd[0];
		op->offset = 0;
		return VIRTQ_SUBMIT;
	}
	if (byte == 'h') {
		__atomic_store_n(&toy_of(model)->held, req, __ATOMIC_SEQ_CST);
		return VIRTQ_HOLD;
	}
	do
		virtq_req_write(req, &byte, 1);
	while (virtq_req_read(req, &byte, 1) == 1);
	return VIRTQ_DONE;
}

static enum virtq_verdict toy_finish(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op, int64_t result)
{
	(void)model, (void)req, (void)op, (void)result;
	return VIRTQ_DONE;
}

static void toy_config_read(struct virtq_model *model, uint32_t offset, void *dst, uint32_t len)
{
	uint8_t *at = dst;

	for (uint32_t i = 0; i < len; i++)
		at[i] = offset + i < TOY_CONFIG_BYTES ? toy_of(model)->config[offset + i] : 0;
}

static int toy_config_write(struct virtq_model *model, uint32_t offset, const void *src,
			    uint32_t len)
{
	if (offset != TOY_CONFIG_WRITABLE || len != 1)
		return -EINVAL;
	memcpy(&toy_of(model)->config[offset], src, len);
	return 0;
}

static int toy_features_ok(struct virtq_model *model, struct virtq_features features)
{
	/* What belongs to the wire may not come this far. */
	if (virtq_features_has(features, VHOST_USER_F_PROTOCOL_FEATURES) ||
	    virtq_features_has(features, VHOST_F_LOG_ALL))
		abort();
	if (virtq_features_has(features, 5) && !virtq_features_has(features, 6))
		return -EINVAL;
	__atomic_store_n(&toy_of(model)->accepted, features.word[0], __ATOMIC_SEQ_CST);
	return 0;
}

static void toy_reset(struct virtq_model *model)
{
	__atomic_store_n(&toy_of(model)->accepted, 0, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&toy_of(model)->resets, 1, __ATOMIC_SEQ_CST);
}

static const struct virtq_model_ops toy_ops = {
	.name = "toy",
	.device_id = 42,
	.req_bytes = sizeof(struct virtq_req),
	.start = toy_start,
	.finish = toy_finish,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.features_ok = toy_features_ok,
	.reset = toy_reset,
};

/* ---- The back end. ---- */

static void on_event(void *arg, enum virtq_vhost_user_event event, int queue, const char *text)
{
	struct rig *r = arg;

	pthread_mutex_lock(&r->lock);
	if (r->event_count < RIG_EVENTS_MAX) {
		struct rig_event *e = &r->events[r->event_count++];

		e->kind = event;
		e->queue = queue;
		snprintf(e->text, sizeof(e->text), "%s", text);
	}
	pthread_mutex_unlock(&r->lock);
}

static void *serve(void *arg)
{
	struct rig *r = arg;

	r->serve_result = virtq_vhost_user_serve(r->server, NULL);
	return NULL;
}

void rig_serve(struct rig *r)
{
	assert_int_equal(pthread_create(&r->thread, NULL, serve, r), 0);
}

int rig_setup(void **state)
{
	const char *kind = getenv("VIRTQ_TEST_ENGINE");
	struct virtq_engine_config engine = {
		.kind = kind && !strcmp(kind, "sync") ? VIRTQ_ENGINE_SYNC : VIRTQ_ENGINE_AUTO,
		.drain_ms = RIG_DRAIN_MS,
	};
	struct virtq_vhost_user_server_config config = { 0 };
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	pthread_mutex_init(&r->lock, NULL);
	r->toy.model.ops = &toy_ops;
	r->toy.model.features.word[0] = TOY_FEATURES;
	r->toy.model.queues = TOY_QUEUES;
	r->toy.model.queue_size_max = TOY_QUEUE_SIZE_MAX;
	r->toy.model.config_bytes = TOY_CONFIG_BYTES;
	for (unsigned int i = 0; i < TOY_CONFIG_BYTES; i++)
		r->toy.config[i] = (uint8_t)(0xc0 + i);
	assert_int_equal(pipe(r->toy.slow_fd), 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(virtq_engine_create(&r->engines[i], &engine, NULL), 0);
	snprintf(r->path, sizeof(r->path), "/tmp/virtq-proto-%d.sock", (int)getpid());
	r->listen_fd = virtq_vhost_user_listen(r->path, NULL);
	assert_true(r->listen_fd >= 0);

	config.model = &r->toy.model;
	config.engines = r->engines;
	config.engine_count = 2;
	config.listen_fd = r->listen_fd;
	config.features = virtq_ring_features_usual();
	config.event = on_event;
	config.event_arg = r;
	assert_int_equal(virtq_vhost_user_server_create(&r->server, &config, NULL), 0);
	rig_serve(r);
	*state = r;
	return 0;
}

int rig_teardown(void **state)
{
	struct rig *r = *state;

	virtq_vhost_user_server_stop(r->server);
	pthread_join(r->thread, NULL);
	assert_int_equal(r->serve_result, 0);
	virtq_vhost_user_server_destroy(r->server);
	for (unsigned int i = 0; i < 2; i++)
		virtq_engine_destroy(r->engines[i]);
	close(r->listen_fd);
	close(r->toy.slow_fd[0]);
	close(r->toy.slow_fd[1]);
	unlink(r->path);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return 0;
}

void sleep_ms(unsigned int ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

bool readable(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, ms) == 1;
}

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

unsigned int rig_events(struct rig *r, enum virtq_vhost_user_event kind)
{
	unsigned int n = 0;

	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->event_count; i++)
		n += r->events[i].kind == kind;
	pthread_mutex_unlock(&r->lock);
	return n;
}

void rig_await(struct rig *r, enum virtq_vhost_user_event kind, unsigned int count, char *text)
{
	for (unsigned int tries = 0; rig_events(r, kind) < count; tries++) {
		if (tries == 3000)
			fail_msg("event %d came %u times, not %u", (int)kind,
				 rig_events(r, kind), count);
		sleep_ms(1);
	}
	if (!text)
		return;
	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->event_count; i++)
		if (r->events[i].kind == kind)
			strcpy(text, r->events[i].text);
	pthread_mutex_unlock(&r->lock);
}

void skip_unless_requests_overlap(const struct rig *r)
{
	if (virtq_engine_kind(r->engines[0]) != VIRTQ_ENGINE_URING) {
		print_message("no io_uring here: nothing can be in flight\n");
		skip();
	}
}

unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- The client. ---- */

int client_connect(struct rig *r)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(addr.sun_path, r->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

void attach_fds(struct msghdr *msg, void *control, const int *fds, unsigned int fd_count)
{
	struct cmsghdr *c = control;

	if (!fd_count)
		return;
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
}

void client_send_fds(int fd, uint32_t request, uint32_t flags, const void *payload,
		     size_t bytes, const int *fds, unsigned int fd_count)
{
	uint32_t header[3] = { request, flags, (uint32_t)bytes };
	char control[CMSG_SPACE(32 * sizeof(int))] = { 0 };
	uint8_t wire[8192];
	struct iovec iov = { wire, sizeof(header) + bytes };
	struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };

	memcpy(wire, header, sizeof(header));
	if (bytes)
		memcpy(wire + sizeof(header), payload, bytes);
	attach_fds(&out, control, fds, fd_count);
	assert_int_equal(sendmsg(fd, &out, MSG_NOSIGNAL), sizeof(header) + bytes);
}

void client_send(int fd, uint32_t request, const void *payload, size_t bytes)
{
	client_send_fds(fd, request, VHOST_USER_VERSION, payload, bytes, NULL, 0);
}

static void read_all(int fd, void *dst, size_t bytes)
{
	size_t have = 0;

	while (have < bytes) {
		ssize_t n;

		if (!readable(fd, 5000))
			fail_msg("no answer");
		n = recv(fd, (uint8_t *)dst + have, bytes - have, 0);
		if (n <= 0)
			fail_msg("the back end closed the connection");
		have += (size_t)n;
	}
}

/* VU-BE-002: the reply bit is set, and the id is that of the request. */
void client_reply(int fd, uint32_t request, void *payload, size_t bytes)
{
	uint32_t header[3];

	read_all(fd, header, sizeof(header));
	assert_int_equal(header[0], request);
	assert_int_equal(header[1], VHOST_USER_VERSION | VHOST_USER_REPLY_MASK);
	assert_int_equal(header[2], bytes);
	if (bytes)
		read_all(fd, payload, bytes);
}

uint64_t client_reply_u64(int fd, uint32_t request)
{
	uint64_t value;

	client_reply(fd, request, &value, sizeof(value));
	return value;
}

uint64_t client_ask_fds(int fd, uint32_t request, const void *payload, size_t bytes,
			const int *fds, unsigned int fd_count)
{
	client_send_fds(fd, request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, payload,
			bytes, fds, fd_count);
	return client_reply_u64(fd, request);
}

uint64_t client_ask(int fd, uint32_t request, const void *payload, size_t bytes)
{
	return client_ask_fds(fd, request, payload, bytes, NULL, 0);
}

uint64_t client_ask_state(int fd, uint32_t request, uint32_t index, uint32_t num)
{
	struct VhostUserVringState state = { index, num };

	return client_ask(fd, request, &state, sizeof(state));
}

uint64_t client_ask_u64(int fd, uint32_t request, uint64_t value)
{
	return client_ask(fd, request, &value, sizeof(value));
}

uint64_t client_get_u64(int fd, uint32_t request)
{
	client_send(fd, request, NULL, 0);
	return client_reply_u64(fd, request);
}

uint32_t client_get_base(int fd, uint32_t index)
{
	struct VhostUserVringState state = { index, 0 };

	client_send(fd, VHOST_USER_GET_VRING_BASE, &state, sizeof(state));
	client_reply(fd, VHOST_USER_GET_VRING_BASE, &state, sizeof(state));
	assert_int_equal(state.index, index);
	return state.num;
}

void client_closed(int fd)
{
	char byte;

	if (!readable(fd, 3000))
		fail_msg("the back end did not close the connection");
	/* ECONNRESET: closed with bytes of ours unread. */
	assert_true(recv(fd, &byte, 1, 0) <= 0);
}

void client_silent(int fd, int ms)
{
	assert_false(readable(fd, ms));
}

void client_alive(int fd)
{
	client_get_u64(fd, VHOST_USER_GET_FEATURES);
	client_silent(fd, 0);
}

void client_negotiate(int fd, uint64_t protocol, uint64_t features)
{
	client_send(fd, VHOST_USER_SET_OWNER, NULL, 0);
	client_send(fd, VHOST_USER_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
	if (features)
		client_send(fd, VHOST_USER_SET_FEATURES, &features, sizeof(features));
	client_alive(fd);
}
