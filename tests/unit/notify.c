/* SPDX-License-Identifier: MIT */
/* Kicks and calls as file descriptors: full ones, empty ones, ones with odd values in them. */
#include "lane.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FULL (UINT64_MAX - 1)		/* an eventfd counts no further */

static uint64_t value_of(int fd)
{
	uint64_t value = 0;

	if (read(fd, &value, sizeof(value)) < 0)
		assert_int_equal(errno, EAGAIN);
	return value;
}

static void set_value(int fd, uint64_t value)
{
	assert_int_equal(write(fd, &value, sizeof(value)), sizeof(value));
}

static bool readable(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

/* N-DRV-027: a counter that cannot go higher has a signal in it: that is delivered. */
static void full_eventfd_counts_as_delivered(void **state)
{
	int fd = virtq_notify_open();

	(void)state;
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	set_value(fd, FULL - 1);
	assert_int_equal(virtq_notify_send(fd), 0);	/* the last that fits */
	for (int i = 0; i < 100; i++)
		assert_int_equal(virtq_notify_send(fd), 0);
	assert_int_equal(virtq_notify_wait(fd, 0), 1);
	assert_int_equal(virtq_notify_wait(fd, 0), 0);
	assert_int_equal(virtq_notify_send(fd), 0);
	assert_int_equal(value_of(fd), 1);
	close(fd);
	/* What is no fullness is told. */
	assert_int_equal(virtq_notify_send(fd), -EBADF);
	assert_int_equal(virtq_notify_send(-1), -EBADF);
}

/* N-DRV-027: the same for what may stand in the place of an eventfd. */
static void full_pipe_counts_as_delivered(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
	for (int i = 0; i < 20000; i++)
		assert_int_equal(virtq_notify_send(fds[1]), 0);
	assert_int_equal(virtq_notify_wait(fds[0], 0), 1);
	assert_false(readable(fds[0]));
	assert_int_equal(virtq_notify_send(fds[1]), 0);
	assert_true(readable(fds[0]));
	close(fds[0]);
	close(fds[1]);
}

/* N-DEV-024: whatever number is in it, it is one signal, and gone afterwards. */
static void any_value_is_one_signal(void **state)
{
	static const uint64_t values[] = { 1, 7, 65536, (uint64_t)1 << 32, FULL };

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		int fd = virtq_notify_open();

		set_value(fd, values[i]);
		assert_int_equal(virtq_notify_wait(fd, 0), 1);
		assert_int_equal(virtq_notify_wait(fd, 0), 0);
		set_value(fd, values[i]);
		virtq_notify_clear(fd);
		assert_int_equal(value_of(fd), 0);
		close(fd);
	}
}

/*
 * N-DEV-024: nothing there to read, not even where reading would block, since
 * the peer cleared O_NONBLOCK: clearing comes back at once.
 */
static void nothing_to_read(void **state)
{
	int blocking = eventfd(0, EFD_CLOEXEC), none = virtq_notify_open(), fds[2];

	(void)state;
	alarm(20);		/* the test dies if something below blocks */
	virtq_notify_clear(none);
	virtq_notify_clear(blocking);
	set_value(blocking, 7);
	virtq_notify_clear(blocking);
	assert_false(readable(blocking));
	/* The other side is gone: end of file, a read of 0 bytes. */
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	virtq_notify_clear(fds[0]);
	close(fds[1]);
	virtq_notify_clear(fds[0]);
	close(fds[0]);
	/* A message of 0 bytes. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(send(fds[1], "", 0, 0), 0);
	virtq_notify_clear(fds[0]);
	assert_int_equal(recv(fds[0], &none, 1, MSG_DONTWAIT), -1);
	alarm(0);
	close(fds[0]);
	close(fds[1]);
	close(blocking);
	close(none);
}

/* N-DEV-024, N-DEV-005: an engine woken by any number, a thousand times for nothing, goes on. */
static void engine_takes_any_kick(void **state)
{
	static const uint64_t values[] = { 7, 1, FULL, 0 };
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		set_value(l.kick_fd, values[i]);
		lane_run(&l, s->depth, 50);
	}
	for (int i = 0; i < 1000; i++)
		virtq_notify_send(l.kick_fd);
	lane_run(&l, s->depth, 50);
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.requests, 250);
	assert_int_equal(stats.malformed, 0);
	assert_idle();
	lane_end(&l, engine, &disk);
}

/* N-DEV-024: kicks that are messages of 0 bytes, of 1, of 8. */
static void engine_takes_empty_kicks(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct disk disk;
	struct lane l;
	int fds[2];

	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, -1, new_eventfd());
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				    fds), 0);
	assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_KICK, fds[0]), 0);
	for (unsigned int i = 0; i < 30; i++) {
		lane_fill(&l, 1, l.sent + 1);
		assert_int_equal(send(fds[1], "01234567", i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 8, 0),
				 i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 8);
		while (l.done < l.sent)
			lane_wait(&l);
	}
	assert_idle();
	close(fds[1]);
	lane_end(&l, engine, &disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_eventfd_counts_as_delivered),
		cmocka_unit_test(full_pipe_counts_as_delivered),
		cmocka_unit_test(any_value_is_one_signal),
		cmocka_unit_test(nothing_to_read),
		ON_ALL(engine_takes_any_kick),
		ON_ENGINES(engine_takes_empty_kicks),
	};

	return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
