/* SPDX-License-Identifier: MIT */
/* What kicks a ring, what it calls, and what says that it is broken: descriptors, or none. */
#include "rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* VU-BE-042: without a kick fd the ring is polled. VU-BE-043: without a call fd, no signals. */
static void test_polling_instead_of_kicks_and_calls(void **state)
{
	struct rig *r = *state;
	uint64_t no_fd = VHOST_USER_VRING_NOFD_MASK;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_CALL, &no_fd, 8), 0);
	queue_enable(&q, 1);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_KICK, &no_fd, 8), 0);
	for (unsigned int i = 0; i < 10; i++)
		queue_echo(&q);
	assert_int_equal(virtq_notify_wait(q.call_fd, 20), 0);
	queue_leave(r, &q);
}

/* VU-BE-044, VU-BE-018: fds are replaced while the ring runs, and no call is lost. */
static void test_call_and_kick_fds_are_replaced(void **state)
{
	struct rig *r = *state;
	uint64_t index = 0;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64), kick, call;

	queue_run(&q);
	assert_int_equal(virtq_notify_wait(q.call_fd, 1000), 1);
	call = virtq_notify_open();
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_CALL, &index, 8, &call, 1), 0);
	assert_int_equal(virtq_notify_wait(call, 1000), 1);	/* once, for what might be lost */
	kick = virtq_notify_open();
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_KICK, &index, 8, &kick, 1), 0);
	close(q.kick_fd);
	close(q.call_fd);
	q.kick_fd = kick;
	q.call_fd = call;
	for (unsigned int i = 0; i < 10; i++)
		queue_echo(&q);
	assert_int_equal(virtq_notify_wait(q.call_fd, 1000), 1);
	queue_leave(r, &q);
}

/* VU-FE-048: a pipe does as well as an eventfd. */
static void test_pipes_instead_of_eventfds(void **state)
{
	struct rig *r = *state;
	int fd, kick[2], call[2];
	uint64_t index = 0;
	struct queue q;

	assert_int_equal(pipe2(kick, O_NONBLOCK), 0);
	assert_int_equal(pipe2(call, O_NONBLOCK), 0);
	fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	queue_enable(&q, 1);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_CALL, &index, 8, &call[1], 1),
			 0);
	close(q.kick_fd);
	q.kick_fd = kick[1];
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_KICK, &index, 8, &kick[0], 1),
			 0);
	for (unsigned int i = 0; i < 10; i++)
		queue_echo(&q);
	assert_int_equal(virtq_notify_wait(call[0], 1000), 1);
	queue_leave(r, &q);
	close(kick[0]);
	close(call[0]);
	close(call[1]);
}

/* What cannot signal, or may take its time at its end, is refused, and costs nothing. */
static void test_files_are_no_notifiers(void **state)
{
	static const uint32_t messages[] = { VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_CALL,
					     VHOST_USER_SET_VRING_ERR };
	struct rig *r = *state;
	int wrong[4] = { memfd_create("file", 0), open("/tmp", O_RDONLY | O_DIRECTORY),
			 open("/dev/zero", O_RDWR), socket(AF_INET, SOCK_STREAM, 0) };
	uint64_t index = 0;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	for (unsigned int m = 0; m < 3; m++)
		for (unsigned int w = 0; w < 4; w++)
			assert_int_equal(client_ask_fds(fd, messages[m], &index, 8, &wrong[w], 1),
					 1);
	queue_run(&q);
	queue_leave(r, &q);
	for (unsigned int w = 0; w < 4; w++)
		close(wrong[w]);
}

/* VU-BE-045: a ring that the driver broke is reported, and only that one stops. */
static void test_broken_ring_signals_the_error_fd(void **state)
{
	struct rig *r = *state;
	struct queue q, other;
	char text[256];
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	queue_open(&other, fd, 1, layouts[0], 64);
	queues_share((const struct queue *[]){ &q, &other }, 2);
	queue_set_up(&other);
	queue_enable(&q, 1);
	queue_enable(&other, 1);
	queue_kick(&q);
	queue_kick(&other);
	queue_echo(&q);
	queue_echo(&other);
	assert_int_equal(virtq_notify_wait(q.err_fd, 0), 0);
	queue_break(&q);
	assert_int_equal(virtq_notify_wait(q.err_fd, 2000), 1);
	rig_await(r, VIRTQ_VU_QUEUE_BROKEN, 1, text);
	assert_non_null(strstr(text, "available index"));
	queue_echo(&other);
	assert_int_equal(virtq_notify_wait(other.err_fd, 0), 0);
	client_alive(fd);
	queue_close(&other);
	queue_leave(r, &q);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_polling_instead_of_kicks_and_calls),
		CASE(test_call_and_kick_fds_are_replaced),
		CASE(test_pipes_instead_of_eventfds),
		CASE(test_files_are_no_notifiers),
		CASE(test_broken_ring_signals_the_error_fd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
