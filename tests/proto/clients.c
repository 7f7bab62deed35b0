/* SPDX-License-Identifier: MIT */
/* Clients come and go; the server stays as it was. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "transport/vu_waiting.h"

/* VU-BE-101: a thousand clients, with memory and a running queue, leave nothing behind. */
static void test_thousand_clients_leave_no_fd(void **state)
{
	struct rig *r = *state;
	unsigned int before = 0, ends = 0;

	for (unsigned int i = 0; i < 1000; i++) {
		struct queue q;
		int fd = queue_join(r, &q, i % TOY_QUEUES, layouts[i % 2] | BIT_30, 16);

		queue_run(&q);
		close(fd);
		queue_close(&q);
		rig_await(r, VIRTQ_VU_DISCONNECTED, ++ends, NULL);
		if (r->event_count > RIG_EVENTS_MAX / 2) {
			pthread_mutex_lock(&r->lock);
			r->event_count = 0;
			pthread_mutex_unlock(&r->lock);
			ends = 0;
		}
		if (i == 10) {
			client_alive(fd = client_connect(r));
			before = open_fds();
			close(fd);
			rig_await(r, VIRTQ_VU_DISCONNECTED, ++ends, NULL);
		}
	}
	client_alive(client_connect(r));
	assert_int_equal(open_fds(), before);
}

/* VU-BE-101: a client that goes with requests in flight does not take the device along. */
static void test_client_leaves_with_requests_in_flight(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd;

	skip_unless_requests_overlap(r);
	fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 16);
	queue_kick(&q);
	queue_enable(&q, 1);
	queue_request(&q, 's');
	queue_unanswered(&q, 50);
	close(fd);
	usleep(50000);
	assert_int_equal(rig_events(r, VIRTQ_VU_DISCONNECTED), 0);	/* it waits for the I/O */
	assert_int_equal(write(r->toy.slow_fd[1], "!", 1), 1);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 1, NULL);
	queue_close(&q);
	fd = client_connect(r);
	client_alive(fd);
	close(fd);
}

/* One client at a time; the next one waits and is served. */
static void test_second_client_waits(void **state)
{
	struct rig *r = *state;
	int first = client_connect(r), second;

	client_alive(first);
	second = client_connect(r);
	client_send(second, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	client_silent(second, 50);
	close(first);
	assert_int_equal(client_reply_u64(second, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	close(second);
}

/* What one client negotiated means nothing to the next. */
static void test_sessions_begin_anew(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), resets = 0;
	uint64_t features = layouts[0];

	client_negotiate(fd, ALL_PROTOCOL, layouts[0]);
	close(fd);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 1, NULL);
	resets = __atomic_load_n(&r->toy.resets, __ATOMIC_SEQ_CST);
	assert_int_equal(resets, 1);
	fd = client_connect(r);
	/* REPLY_ACK is not agreed on: need_reply brings nothing. */
	client_send_fds(fd, VHOST_USER_SET_FEATURES, VHOST_USER_VERSION |
			VHOST_USER_NEED_REPLY_MASK, &features, 8, NULL, 0);
	client_silent(fd, 30);
	client_alive(fd);
	close(fd);
}

/* stop() ends serve() under a client with a running queue; serve() may be called again. */
static void test_stop_and_serve_again(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 16);

	queue_run(&q);
	virtq_vhost_user_server_stop(r->server);
	client_closed(fd);
	pthread_join(r->thread, NULL);
	close(fd);
	queue_close(&q);
	/* A stop() before serve() counts, and only once. */
	virtq_vhost_user_server_stop(r->server);
	assert_int_equal(virtq_vhost_user_serve(r->server, NULL), 0);
	rig_serve(r);
	fd = client_connect(r);
	client_alive(fd);
	close(fd);
}

/* virtq_vhost_user_listen(): whose path it takes, and whose not. */
static void test_listen(void **state)
{
	char path[64], long_path[200];
	struct virtq_error err;
	struct stat st;
	int fd, file;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/virtq-listen-%d.sock", (int)getpid());
	unlink(path);
	fd = virtq_vhost_user_listen(path, &err);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(virtq_vhost_user_listen(path, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, path));
	close(fd);				/* the file stays, and nobody listens */
	assert_int_equal(stat(path, &st), 0);
	fd = virtq_vhost_user_listen(path, &err);
	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	file = open(path, O_CREAT | O_RDWR, 0600);
	assert_int_equal(virtq_vhost_user_listen(path, &err), -EEXIST);
	close(file);
	unlink(path);
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(virtq_vhost_user_listen(long_path, &err), -ENAMETOOLONG);
	assert_int_equal(virtq_vhost_user_listen("/nowhere/at/all.sock", &err), -ENOENT);
}

/* What a server cannot be made of. */
static void test_create_checks_its_arguments(void **state)
{
	struct rig *r = *state;
	struct virtq_vhost_user_server_config good = {
		.model = &r->toy.model, .engines = r->engines, .engine_count = 1,
		.listen_fd = r->listen_fd,
	}, bad;
	struct virtq_vhost_user_server *server;
	struct virtq_model many = r->toy.model;

	assert_int_equal(virtq_vhost_user_server_create(&server, &good, NULL), 0);
	virtq_vhost_user_server_destroy(server);
	bad = good;
	bad.model = NULL;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	bad = good;
	bad.engine_count = 0;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	bad = good;
	bad.coalesce_us = 1000001;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	bad = good;
	bad.listen_fd = -1;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	bad = good;
	bad.model = &many;
	many.queues = 257;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	many.queues = 0;
	assert_int_equal(virtq_vhost_user_server_create(&server, &bad, NULL), -EINVAL);
	virtq_vhost_user_server_destroy(NULL);
}

/* A call waits for others only where the server was told so, and no longer. */
static void test_calls_wait_as_configured(void **state)
{
	struct rig *r = *state;
	struct virtq_vhost_user_server_config config = {
		.model = &r->toy.model, .engines = r->engines, .engine_count = 2,
		.listen_fd = r->listen_fd, .features = virtq_ring_features_usual(),
	};

	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_req *held;
		struct queue q;
		int fd;

		virtq_vhost_user_server_stop(r->server);
		pthread_join(r->thread, NULL);
		virtq_vhost_user_server_destroy(r->server);
		config.coalesce_count = i ? 8 : 0;
		config.coalesce_us = i ? 300000 : 0;
		assert_int_equal(virtq_vhost_user_server_create(&r->server, &config, NULL), 0);
		rig_serve(r);

		fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 16);
		queue_kick(&q);
		queue_enable(&q, 1);
		held = queue_hold(r, &q);	/* in flight, so that there is something to wait for */
		virtq_notify_clear(q.call_fd);
		queue_request(&q, 'e');
		queue_answered(&q);
		assert_int_equal(virtq_notify_wait(q.call_fd, 100), i ? 0 : 1);
		if (i)
			assert_int_equal(virtq_notify_wait(q.call_fd, 2000), 1);
		virtq_engine_complete(held, 0);
		client_get_base(fd, 0);
		close(fd);
		queue_close(&q);
	}
}

/* Who connects, looks whose socket it is and goes, while others are served or not, is no client. */
static void test_who_says_nothing_is_no_client(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);

	client_alive(fd);
	for (unsigned int i = 0; i < 20; i++)
		close(client_connect(r));
	client_alive(fd);
	close(fd);
	for (unsigned int i = 0; i < 20; i++)
		close(client_connect(r));
	fd = client_connect(r);
	client_alive(fd);
	assert_int_equal(rig_events(r, VIRTQ_VU_CONNECTED), 2);
	assert_int_equal(rig_events(r, VIRTQ_VU_DISCONNECTED), 1);
	assert_int_equal(rig_events(r, VIRTQ_VU_REFUSED), 0);
	close(fd);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 2, NULL);
	/* Nor does one that is silent keep the server from stopping. */
	fd = client_connect(r);
	virtq_vhost_user_server_stop(r->server);
	pthread_join(r->thread, NULL);
	close(fd);
	rig_serve(r);
}

/*
 * More than the backlog holds may look and go while a client is served, and who comes
 * then finds room; neither a mute client nor one that waits loses its place to them.
 */
static void test_those_who_go_leave_room_in_the_backlog(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), mute = client_connect(r), second;
	unsigned int before;

	client_alive(fd);
	assert_int_equal(listen(r->listen_fd, 4), 0);
	second = client_connect(r);
	client_send(second, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	before = open_fds();
	for (unsigned int i = 0; i < 500; i++) {
		/* Blocks where the backlog is full: the test's time limit ends it then. */
		int looks = client_connect(r);

		close(looks);
	}
	client_alive(fd);
	/* But for those who still wait, which it may not have taken in before. */
	for (unsigned int i = 0; open_fds() > before + 2 && i < 1000; i++)
		usleep(1000);
	assert_in_range(open_fds(), 0, before + 2);
	close(fd);
	/* The mute one came earlier, and keeps nobody from being served. */
	assert_int_equal(client_reply_u64(second, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	close(second);
	client_alive(mute);
	close(mute);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 3, NULL);
	assert_int_equal(rig_events(r, VIRTQ_VU_CONNECTED), 3);
}

/* It is closed: within @ms, or at 0, already. */
static bool hung_up_on(int fd, unsigned int ms)
{
	char byte;
	ssize_t n;

	if (!readable(fd, (int)ms))
		return false;
	n = recv(fd, &byte, 1, MSG_DONTWAIT);
	/* The latter if something of ours was not read. */
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

/*
 * Clients that say nothing fill the room for those who wait. When others wait for room
 * the oldest of them go, but none before its time is over; who has spoken
 * stays, and so do those who are in nobody's way.
 */
static void test_mute_crowd_gives_way(void **state)
{
	enum { CROWD = VUSER_WAITING_MAX - 1, MORE = 3 };
	struct rig *r = *state;
	int served = client_connect(r), spoke, late, mute[CROWD], more[MORE];
	uint64_t begin;

	client_alive(served);
	spoke = client_connect(r);
	client_send(spoke, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	for (unsigned int i = 0; i < CROWD; i++)
		mute[i] = client_connect(r);
	/* One will never say anything, and holds on even so. */
	assert_int_equal(shutdown(mute[1], SHUT_WR), 0);
	client_alive(served);
	begin = now_ms();
	for (unsigned int i = 0; i < MORE; i++)
		more[i] = client_connect(r);
	late = client_connect(r);
	client_send(late, VHOST_USER_GET_QUEUE_NUM, NULL, 0);

	/* Each of those who wait outside takes one place. */
	for (unsigned int i = 0; i < MORE + 1; i++)
		assert_true(hung_up_on(mute[i], VUSER_MUTE_MS + 3000));
	assert_in_range(now_ms() - begin, VUSER_MUTE_MS - 500, VUSER_MUTE_MS + 3000);
	client_alive(served);
	client_silent(spoke, 0);
	close(served);
	assert_int_equal(client_reply_u64(spoke, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	close(spoke);
	assert_int_equal(client_reply_u64(late, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	close(late);
	/* There is room now. */
	for (unsigned int i = MORE + 1; i < CROWD; i++)
		assert_false(hung_up_on(mute[i], 0));
	for (unsigned int i = 0; i < MORE; i++)
		assert_false(hung_up_on(more[i], 0));
	client_alive(mute[CROWD - 1]);
	assert_int_equal(rig_events(r, VIRTQ_VU_CONNECTED), 4);
	assert_int_equal(rig_events(r, VIRTQ_VU_REFUSED), 0);
	for (unsigned int i = 0; i < CROWD; i++)
		close(mute[i]);
	for (unsigned int i = 0; i < MORE; i++)
		close(more[i]);
}

/* So it is while nobody is served: the first to speak is. */
static void test_mute_crowd_and_nobody_is_served(void **state)
{
	enum { CROWD = VUSER_WAITING_MAX + 2 };
	struct rig *r = *state;
	int mute[CROWD], fd;

	for (unsigned int i = 0; i < CROWD; i++)
		mute[i] = client_connect(r);
	fd = client_connect(r);
	client_send(fd, VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	client_silent(fd, 100);			/* there is no room yet */
	assert_true(hung_up_on(mute[0], VUSER_MUTE_MS + 3000));
	assert_int_equal(client_reply_u64(fd, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	for (unsigned int i = 3; i < CROWD; i++)
		assert_false(hung_up_on(mute[i], 0));
	client_alive(fd);
	close(fd);
	for (unsigned int i = 0; i < CROWD; i++)
		close(mute[i]);
}

/*
 * A byte out of band makes a socket ready without anything to be read: who sends
 * only that is hung up on, and keeps the server neither busy nor from serving others.
 */
static void test_byte_out_of_band_is_no_word(void **state)
{
	struct rig *r = *state;
	int odd = client_connect(r), fd;

	assert_int_equal(send(odd, "x", 1, MSG_OOB), 1);
	assert_true(hung_up_on(odd, 2000));
	close(odd);
	fd = client_connect(r);
	client_alive(fd);
	/* Nor do those who come meanwhile. */
	odd = client_connect(r);
	assert_int_equal(send(odd, "x", 1, MSG_OOB), 1);
	client_alive(fd);
	assert_false(hung_up_on(odd, 50));
	close(fd);
	assert_true(hung_up_on(odd, 2000));
	close(odd);
	fd = client_connect(r);
	client_alive(fd);
	close(fd);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 2, NULL);
	assert_int_equal(rig_events(r, VIRTQ_VU_CONNECTED), 2);
}

/* More clients than wait inside the server: all are served, one after another. */
static void test_many_clients_wait(void **state)
{
	struct rig *r = *state;
	int fd[40];

	for (unsigned int i = 0; i < 40; i++) {
		fd[i] = client_connect(r);
		client_send(fd[i], VHOST_USER_GET_QUEUE_NUM, NULL, 0);
	}
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(client_reply_u64(fd[i], VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
		if (i < 39)
			client_silent(fd[i + 1], 2);
		close(fd[i]);
	}
	rig_await(r, VIRTQ_VU_DISCONNECTED, 40, NULL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_thousand_clients_leave_no_fd),
		CASE(test_client_leaves_with_requests_in_flight),
		CASE(test_second_client_waits),
		CASE(test_who_says_nothing_is_no_client),
		CASE(test_those_who_go_leave_room_in_the_backlog),
		CASE(test_many_clients_wait),
		CASE(test_byte_out_of_band_is_no_word),
		CASE(test_mute_crowd_gives_way),
		CASE(test_mute_crowd_and_nobody_is_served),
		CASE(test_calls_wait_as_configured),
		CASE(test_sessions_begin_anew),
		CASE(test_stop_and_serve_again),
		CASE(test_create_checks_its_arguments),
		cmocka_unit_test(test_listen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
