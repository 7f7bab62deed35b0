/* SPDX-License-Identifier: MIT */
/* The counters of a server's queues: over sessions, and for those who read them meanwhile. */
#include "rig.h"

#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

/* Counters add up over clients. */
static void test_stats_add_up_over_sessions(void **state)
{
	struct rig *r = *state;
	struct virtq_engine_stats stats;
	struct queue q;

	for (unsigned int i = 1; i <= 3; i++) {
		queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
		queue_run(&q);
		for (unsigned int k = 1; k < 10; k++)
			queue_echo(&q);
		if (i % 2)
			client_get_base(q.fd, 0);
		queue_leave(r, &q);
		assert_int_equal(virtq_vhost_user_server_stats(r->server, 0, &stats), 0);
		assert_int_equal(stats.requests, 10 * i);
	}
	assert_int_equal(virtq_vhost_user_server_stats(r->server, 1, &stats), 0);
	assert_int_equal(stats.requests, 0);
	assert_int_equal(virtq_vhost_user_server_stats(r->server, TOY_QUEUES, &stats), -EINVAL);
}

/* ---- Somebody reads them all the time. ---- */

struct reader {
	struct rig *rig;
	pthread_t thread;
	bool stop;			/* __atomic, and so are: */
	unsigned int times;
	unsigned int went_back;
};

static uint64_t timed(const struct virtq_engine_stats *stats)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		sum += stats->latency[i];
	return sum;
}

static void *read_on(void *arg)
{
	struct reader *reader = arg;
	struct virtq_engine_stats last = { 0 }, now;

	while (!__atomic_load_n(&reader->stop, __ATOMIC_SEQ_CST)) {
		virtq_vhost_user_server_stats(reader->rig->server, 0, &now);
		if (now.requests < last.requests || now.batches < last.batches ||
		    now.failed < last.failed || now.cancelled < last.cancelled ||
		    now.sleeps < last.sleeps || timed(&now) < timed(&last))
			__atomic_fetch_add(&reader->went_back, 1, __ATOMIC_SEQ_CST);
		last = now;
		__atomic_fetch_add(&reader->times, 1, __ATOMIC_SEQ_CST);
		sched_yield();
	}
	return NULL;
}

static void reader_start(struct reader *reader, struct rig *r)
{
	*reader = (struct reader){ .rig = r };
	assert_int_equal(pthread_create(&reader->thread, NULL, read_on, reader), 0);
}

/* Does it go on reading? */
static bool reader_reads(struct reader *reader)
{
	unsigned int times = __atomic_load_n(&reader->times, __ATOMIC_SEQ_CST);

	for (unsigned int ms = 0; ms < 2000; ms++) {
		if (__atomic_load_n(&reader->times, __ATOMIC_SEQ_CST) > times + 2)
			return true;
		usleep(1000);
	}
	return false;
}

static void reader_stop(struct reader *reader)
{
	__atomic_store_n(&reader->stop, true, __ATOMIC_SEQ_CST);
	pthread_join(reader->thread, NULL);
	assert_true(reader->times > 0);
	assert_int_equal(reader->went_back, 0);
}

/* A queue may be long in coming to its end: who reads the counters does not wait for it. */
static void test_stats_do_not_wait_for_a_queue_that_ends(void **state)
{
	static const uint32_t ends[] = { VHOST_USER_RESET_DEVICE, VHOST_USER_GET_VRING_BASE };
	struct VhostUserVringState vring = { 0, 0 };
	struct rig *r = *state;
	struct virtq_engine_stats stats;
	struct reader reader;

	reader_start(&reader, r);
	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_req *held;
		struct queue q;
		bool reads;
		int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

		queue_run(&q);
		held = queue_hold(r, &q);
		client_send(fd, ends[i], &vring, i ? sizeof(vring) : 0);
		/* Longer than the engine waits by itself: the device has yet to let go of it. */
		client_silent(fd, RIG_DRAIN_MS + 200);
		reads = reader_reads(&reader);
		virtq_engine_complete(held, 0);
		assert_true(reads);
		if (i)
			client_reply(fd, ends[i], &vring, sizeof(vring));
		client_alive(fd);
		queue_leave(r, &q);
		assert_int_equal(virtq_vhost_user_server_stats(r->server, 0, &stats), 0);
		/* What was reset was not given back. */
		assert_int_equal(stats.requests, i ? 3 : 1);
	}
	reader_stop(&reader);
}

/* However queues end, nobody sees a counter go back; and in the end each request counts once. */
static void test_stats_never_go_back(void **state)
{
	struct rig *r = *state;
	struct virtq_engine_stats stats;
	struct reader reader;

	reader_start(&reader, r);
	for (unsigned int i = 0; i < 60; i++) {
		struct queue q;
		int fd = queue_join(r, &q, 0, layouts[i % 2] | BIT_30, 64);

		queue_run(&q);
		for (unsigned int k = 0; k < 4; k++)
			queue_echo(&q);
		if (i % 3 == 1)
			client_get_base(fd, 0);
		if (i % 3 == 2)
			assert_int_equal(client_ask(fd, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
		queue_leave(r, &q);
	}
	assert_true(reader_reads(&reader));
	reader_stop(&reader);
	assert_int_equal(virtq_vhost_user_server_stats(r->server, 0, &stats), 0);
	assert_int_equal(stats.requests, 60 * 5);
	assert_int_equal(timed(&stats), stats.requests);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_stats_add_up_over_sessions),
		CASE(test_stats_do_not_wait_for_a_queue_that_ends),
		CASE(test_stats_never_go_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
