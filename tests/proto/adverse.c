/* SPDX-License-Identifier: MIT */
/* Clients that mean harm, requests that are refused half-way, and shortages. */
#include "rig.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* A connected client whose queue 0 runs. */
static int run_queue(struct rig *r, struct queue *q)
{
	int fd = queue_join(r, q, 0, layouts[0] | BIT_30, 64);

	queue_run(q);
	return fd;
}

/* Give the back end a write end that is full, and that blocks from then on. */
static void set_full_blocking_err_fd(int fd, bool is_pipe, int ends[2])
{
	static const char chunk[4096];
	const uint64_t full = UINT64_MAX - 1;
	uint64_t index = 0;

	if (is_pipe) {
		assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
		while (write(ends[1], chunk, sizeof(chunk)) > 0)
			;
	} else {
		ends[0] = ends[1] = virtq_notify_open();
		assert_int_equal(write(ends[1], &full, sizeof(full)), sizeof(full));
	}
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_ERR, &index, 8, &ends[1], 1), 0);
	assert_int_equal(fcntl(ends[1], F_SETFL, fcntl(ends[1], F_GETFL) & ~O_NONBLOCK), 0);
}

/* VU-BE-045: the error fd is the client's; that it takes nothing harms nobody. */
static void test_full_blocking_error_fd(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 4; i++) {
		bool is_pipe = i & 1, stop_at_once = i & 2;
		struct queue q;
		int ends[2], fd = run_queue(r, &q);

		set_full_blocking_err_fd(fd, is_pipe, ends);
		queue_break(&q);
		if (stop_at_once)
			client_get_base(fd, 0);
		else
			rig_await(r, VIRTQ_VU_QUEUE_BROKEN, i + 1, NULL);
		client_alive(fd);
		queue_leave(r, &q);
		if (is_pipe)
			close(ends[1]);
		close(ends[0]);
	}
	/* What is left of it does not hinder the next client. */
	assert_int_equal(rig_events(r, VIRTQ_VU_CONNECTED), 4);
	client_alive(client_connect(r));
}

/* VU-BE-045: nobody reads the error pipe any more. No signal ends this process. */
static void test_error_fd_without_a_reader(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int ends[2], fd = run_queue(r, &q);
	uint64_t index = 0;

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_ERR, &index, 8, &ends[1], 1), 0);
	close(ends[0]);
	queue_break(&q);
	rig_await(r, VIRTQ_VU_QUEUE_BROKEN, 1, NULL);
	client_alive(fd);
	close(ends[1]);
	queue_leave(r, &q);
}

/* VU-BE-045: a ring that breaks while the back end is about to stop it is reported, too. */
static void test_ring_breaks_while_the_device_is_reset(void **state)
{
	struct rig *r = *state;
	struct queue q, other;
	struct virtq_req *held;
	int fd = run_queue(r, &q);

	queue_open(&other, fd, 1, layouts[0], 64);
	queues_share((const struct queue *[]){ &q, &other }, 2);
	queue_set_up(&other);
	queue_run(&other);
	/* The reset waits for what the device keeps of queue 0; its next step is queue 1. */
	held = queue_hold(r, &q);
	client_send_fds(fd, VHOST_USER_RESET_DEVICE,
			VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, NULL, 0, NULL, 0);
	client_silent(fd, 30);
	queue_break(&other);
	queue_kick_taken(&other);
	client_silent(fd, 30);
	assert_int_equal(rig_events(r, VIRTQ_VU_QUEUE_BROKEN), 0);
	virtq_engine_complete(held, 0);
	assert_int_equal(client_reply_u64(fd, VHOST_USER_RESET_DEVICE), 0);
	assert_int_equal(rig_events(r, VIRTQ_VU_QUEUE_BROKEN), 1);
	assert_int_equal(virtq_notify_wait(other.err_fd, 1000), 1);
	assert_int_equal(virtq_notify_wait(q.err_fd, 0), 0);
	queue_close(&other);
	queue_leave(r, &q);
}

/* The reason of a refusal reaches whoever runs the back end, also if the client goes on. */
static void test_refusal_is_told_with_its_reason(void **state)
{
	struct rig *r = *state;
	char text[256];
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(rig_events(r, VIRTQ_VU_NACKED), 0);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, BIT(7)), 1);
	rig_await(r, VIRTQ_VU_NACKED, 1, text);
	assert_non_null(strstr(text, "0x80"));
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 1, 0), 1);
	rig_await(r, VIRTQ_VU_NACKED, 2, text);
	assert_non_null(strstr(text, "queue 1 cannot have 0 entries"));
	client_alive(fd);
	assert_int_equal(rig_events(r, VIRTQ_VU_NACKED), 2);
	close(fd);
}

/* SET_FEATURES with which one ring cannot start starts none, enables none, changes nothing. */
static void test_refused_features_change_nothing(void **state)
{
	struct rig *r = *state;
	struct VhostUserVringAddr addr;
	struct queue good, bad;
	char text[256];
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	queue_open(&good, fd, 0, layouts[0], 64);
	queue_open(&bad, fd, 1, layouts[0], 64);
	queues_share((const struct queue *[]){ &good, &bad }, 2);
	queue_set_up(&good);
	queue_set_up(&bad);
	addr = queue_addr(&bad);
	addr.descriptor++;
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	queue_kick(&good);
	queue_kick(&bad);

	/* Without bit 30, which would enable both. */
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[0]), 1);
	rig_await(r, VIRTQ_VU_NACKED, 1, text);
	assert_non_null(strstr(text, "misaligned"));
	/* Nor does the device think that anything was agreed on. */
	assert_int_equal(__atomic_load_n(&r->toy.accepted, __ATOMIC_SEQ_CST), 0);
	/* Not running: it can change, and does not answer. */
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	queue_request(&good, 'e');
	queue_unanswered(&good, 30);
	/* No features are known, so that this still is not looked at. */
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	addr = queue_addr(&bad);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[0] | BIT_30), 0);
	assert_int_equal(__atomic_load_n(&r->toy.accepted, __ATOMIC_SEQ_CST), layouts[0]);
	queue_unanswered(&good, 30);		/* disabled, as before */
	queue_enable(&good, 1);
	queue_enable(&bad, 1);
	queue_answered(&good);
	queue_echo(&bad);
	queue_close(&bad);
	queue_leave(r, &good);
}

/* Features are settled while a queue runs; the same ones again are no change. */
static void test_features_stay_while_queues_run(void **state)
{
	struct rig *r = *state;
	uint64_t same = layouts[0] | BIT_30, other = same | BIT(9);
	struct queue q;
	char text[256];
	int fd = run_queue(r, &q);

	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, other), 1);
	rig_await(r, VIRTQ_VU_NACKED, 1, text);
	assert_non_null(strstr(text, "while queues run"));
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, same), 0);
	queue_echo(&q);
	client_get_base(fd, 0);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, other), 0);
	queue_leave(r, &q);
}

/* VU-BE-030: the same addresses, another file: the ring goes on in the new file alone. */
static void test_another_file_at_the_same_addresses(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = run_queue(r, &q), file = memfd_create("another", MFD_CLOEXEC);
	struct VhostUserMemory table = { .nregions = 1, .regions = { queue_region(&q) } };
	const uint8_t *used = virtq_driver_ring(q.driver)->device;
	off_t used_idx_at = used - q.memory + 2;
	uint16_t before, after;

	assert_int_equal(write(file, q.memory, QUEUE_BYTES), QUEUE_BYTES);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_MEM_TABLE, &table, 8 + 32, &file, 1),
			 0);
	queue_request(&q, 'e');
	virtq_notify_send(q.kick_fd);
	queue_unanswered(&q, 50);		/* the old memory is nobody's business */
	assert_int_equal(pread(file, &before, 2, used_idx_at), 2);
	assert_int_equal(pwrite(file, q.memory, QUEUE_BYTES, 0), QUEUE_BYTES);
	virtq_notify_send(q.kick_fd);
	for (unsigned int tries = 0; tries < 2000; tries++) {
		assert_int_equal(pread(file, &after, 2, used_idx_at), 2);
		if (after != before)
			break;
		usleep(1000);
	}
	assert_int_equal(le16toh(after), (uint16_t)(le16toh(before) + 1));
	queue_unanswered(&q, 0);
	close(file);
	queue_leave(r, &q);
}

/* No room for descriptors that came: said as it is, not blamed on how many there were. */
static void test_shortage_of_descriptors(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), efd = virtq_notify_open(), free_fd;
	struct rlimit before, none;
	uint64_t index = 0;
	char text[256];

	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	free_fd = dup(efd);
	close(free_fd);
	none = before;
	none.rlim_cur = (rlim_t)free_fd;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	client_send_fds(fd, VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, &index, 8, &efd, 1);
	rig_await(r, VIRTQ_VU_REFUSED, 1, text);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_non_null(strstr(text, "only 0 of"));
	assert_non_null(strstr(text, "open here"));
	close(efd);
	close(fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_full_blocking_error_fd),
		CASE(test_error_fd_without_a_reader),
		CASE(test_ring_breaks_while_the_device_is_reset),
		CASE(test_refusal_is_told_with_its_reason),
		CASE(test_refused_features_change_nothing),
		CASE(test_features_stay_while_queues_run),
		CASE(test_another_file_at_the_same_addresses),
		CASE(test_shortage_of_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
