/* SPDX-License-Identifier: MIT */
/*
 * Calls that wait for each other: never when nothing else would come, and none is lost;
 * and fds that do not take them.
 */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "engine/engine.h"

#define SECOND_US 1000000u

/* Held requests, which the test ends one by one. */
struct bay {
	struct virtq_engine *engine;
	struct holder h;
	struct stand st;
};

static void bay_open(struct bay *b, const struct setting *s, unsigned int requests,
		     uint32_t count, uint32_t us)
{
	b->engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .spin = VIRTQ_SPIN_OFF, .drain_ms = 300 });
	holder_init(&b->h);
	stand_open_on(&b->st, b->engine, s, &b->h.model);
	assert_int_equal(virtq_engine_queue_coalesce(b->st.queue, count, us), 0);
	stand_send_holds(&b->st, requests);
	holder_wait(&b->h, requests);
}

static void bay_close(struct bay *b)
{
	stand_close(&b->st);
	virtq_engine_destroy(b->engine);
}

/* End @n of them, one publication each. */
static void end_some(struct bay *b, unsigned int n)
{
	struct virtq_completion done;

	while (n--) {
		virtq_engine_complete(holder_take(&b->h), 77);
		while (virtq_driver_get(b->st.pair.driver, &done, 1) != 1)
			usleep(50);
	}
}

static bool called(struct bay *b, int ms)
{
	bool was = poll(&(struct pollfd){ b->st.call, POLLIN, 0 }, 1, ms) == 1;

	virtq_notify_clear(b->st.call);
	return was;
}

static void so_many_share_a_call(void **state)
{
	struct virtq_engine_stats stats;
	struct bay b;

	bay_open(&b, *state, 33, 8, SECOND_US);
	for (unsigned int round = 1; round <= 4; round++) {
		uint64_t start = now_ms();

		end_some(&b, 7);
		if (now_ms() - start < 900)	/* else it is the time that was up */
			assert_false(called(&b, 20));
		end_some(&b, 1);
		assert_true(called(&b, WAIT_MS));
	}
	/* The last one, which nothing comes after. */
	end_some(&b, 1);
	assert_true(called(&b, 500));
	usleep(20000);
	virtq_engine_queue_stats(b.st.queue, &stats);
	assert_int_equal(stats.batches, 33);
	assert_int_equal(stats.calls + stats.coalesced, 33);
	assert_true(stats.calls <= 9);	/* five, but for a machine that stood still */
	bay_close(&b);
}

static void one_at_a_time_does_not_wait(void **state)
{
	uint64_t start;
	struct bay b;

	bay_open(&b, *state, 0, 8, SECOND_US);
	start = now_ms();
	for (unsigned int i = 0; i < 20; i++) {
		stand_send_holds(&b.st, 1);
		end_some(&b, 1);
		assert_true(called(&b, WAIT_MS));
	}
	assert_true(now_ms() - start < 10000);	/* 20 s with waiting */
	bay_close(&b);
}

static void none_waits_longer_than_it_may(void **state)
{
	uint64_t start;
	struct bay b;

	bay_open(&b, *state, 4, 8, 200000);
	start = now_ms();
	end_some(&b, 1);
	assert_true(called(&b, WAIT_MS));
	assert_in_range(now_ms() - start, 199, 5000);
	/* Once: nothing is owed any more. */
	assert_false(called(&b, 400));
	/* Switched off, none waits. */
	assert_int_equal(virtq_engine_queue_coalesce(b.st.queue, 0, 0), 0);
	end_some(&b, 1);
	assert_true(called(&b, WAIT_MS));
	assert_int_equal(virtq_engine_queue_coalesce(b.st.queue, 8, SECOND_US + 1), -EINVAL);
	bay_close(&b);
}

/* The driver asks once, and does not ask again for what comes before it is called. */
static void what_is_owed_is_owed(void **state)
{
	struct bay b;

	bay_open(&b, *state, 3, 8, SECOND_US);
	end_some(&b, 1);
	virtq_driver_disarm(b.st.pair.driver);
	end_some(&b, 2);
	assert_true(called(&b, 500));
	bay_close(&b);
}

/* As of now: a message is answered after what came before it was counted. */
static struct virtq_engine_stats stats_now(struct bay *b)
{
	struct virtq_engine_stats stats;

	virtq_engine_queue_enable(b->st.queue, true);
	virtq_engine_queue_stats(b->st.queue, &stats);
	return stats;
}

static void assert_stats(const struct virtq_engine_stats *stats, uint64_t batches, uint64_t calls)
{
	assert_int_equal(stats->batches, batches);
	assert_int_equal(stats->calls, calls);
	assert_int_equal(stats->calls + stats->suppressed + stats->coalesced, batches);
}

static void pause_move_and_remove_send_what_is_owed(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *other = engine_of(s->kind, 0, 0);
	struct virtq_engine_stats stats;
	struct bay b;

	bay_open(&b, s, 4, 8, SECOND_US);
	end_some(&b, 1);
	assert_int_equal(virtq_engine_move(b.st.queue, other), 0);
	assert_true(called(&b, 500));
	stats = stats_now(&b);
	assert_stats(&stats, 1, 1);
	end_some(&b, 1);
	assert_false(called(&b, 50));	/* still so at the other engine */
	assert_int_equal(virtq_engine_move(b.st.queue, b.engine), 0);
	assert_true(called(&b, 500));
	end_some(&b, 1);
	assert_int_equal(virtq_engine_pause(&b.st.queue, 1, NULL), 1);
	assert_true(called(&b, 400));
	virtq_engine_resume(b.st.queue);

	stand_send_holds(&b.st, 2);
	holder_wait(&b.h, 2);
	stand_back(&b.st);		/* the one that pause cancelled */
	end_some(&b, 1);
	virtq_notify_clear(b.st.call);
	b.st.pair.device = virtq_engine_remove(b.st.queue);
	b.st.queue = NULL;
	assert_true(called(&b, 100));
	bay_close(&b);
	virtq_engine_destroy(other);
}

/* What is owed to a driver that resets its queue is not sent, now or later, nor counted as sent. */
static void reset_owes_nothing(void **state)
{
	struct virtq_engine_stats stats;
	struct bay b;

	bay_open(&b, *state, 2, 8, SECOND_US / 2);
	end_some(&b, 1);
	virtq_notify_clear(b.st.call);
	b.st.pair.device = engine_remove_stats(b.st.queue, true, &stats);
	b.st.queue = NULL;
	assert_false(called(&b, 700));
	assert_stats(&stats, 1, 0);
	bay_close(&b);
}

/* Nor is what is owed when the call fd is taken away; to a new one it is. */
static void another_call_fd_is_owed_the_call(void **state)
{
	struct virtq_engine_stats stats;
	struct bay b;

	for (unsigned int another = 0; another < 2; another++) {
		bay_open(&b, *state, 3, 8, SECOND_US);
		end_some(&b, 1);
		virtq_notify_clear(b.st.call);
		assert_int_equal(virtq_engine_queue_set_fd(b.st.queue, VIRTQ_FD_CALL,
							   another ? dup_of(b.st.call) : -1), 0);
		assert_int_equal(called(&b, 50), another);
		stats = stats_now(&b);
		assert_stats(&stats, 1, another);
		/* With nothing owed it is signalled all the same, and that is no call. */
		assert_int_equal(virtq_engine_queue_set_fd(b.st.queue, VIRTQ_FD_CALL,
							   dup_of(b.st.call)), 0);
		assert_true(called(&b, WAIT_MS));
		stats = stats_now(&b);
		assert_stats(&stats, 1, another);
		bay_close(&b);
	}
}

/* ---- Fds that do not take calls -------------------------------------------- */

/* One driver has its queue added and removed; the pipe that it is called through stays full. */
static void calls_that_cannot_go_out_do_not_pile_up(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	struct virtq_completion done;
	char words[8192];
	struct holder h;
	struct stand st;
	int fds[2], late = 0;
	ssize_t n;

	holder_init(&h);
	h.at_once = true;
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 4096), 4096);
	while (write(fds[1], words, 8) == 8)
		;
	for (unsigned int i = 0; i < 20; i++) {
		stand_open_on(&st, engine, s, &h.model);
		assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_CALL,
							   dup_of(fds[1])), 0);
		/* The flag is the peer's as well, every other time. */
		assert_int_equal(fcntl(fds[1], F_SETFL, i % 2 ? 0 : O_NONBLOCK), 0);
		for (unsigned int k = 0; k < 20; k++) {
			stand_send_holds(&st, 1);
			for (unsigned int ms = 0;
			     virtq_driver_get(st.pair.driver, &done, 1) != 1; ms++) {
				assert_true(ms < WAIT_MS);
				usleep(1000);
			}
		}
		stand_close(&st);
	}
	close(fds[1]);
	/* Nobody holds the writing end any more. */
	assert_true(poll(&(struct pollfd){ fds[0], 0, 0 }, 1, 1000) == 1);
	while ((n = read(fds[0], words, sizeof(words))) > 0)
		late += (int)n;
	assert_int_equal(n, 0);
	assert_int_equal(late, 4096);
	virtq_engine_destroy(engine);
	close(fds[0]);
}

/* What was refused while the pipe was full goes out as soon as there is room. */
static void a_full_fd_is_called_when_there_is_room(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	struct virtq_completion done;
	struct holder h;
	struct stand st;
	char words[8192];
	int fds[2];

	holder_init(&h);
	h.at_once = true;
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 4096), 4096);
	stand_open_on(&st, engine, s, &h.model);
	assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_CALL, dup_of(fds[1])), 0);
	for (unsigned int round = 0; round < 20; round++) {
		usleep(2000);
		while (write(fds[1], words, 8) == 8)
			;
		stand_send_holds(&st, 1);
		while (virtq_driver_get(st.pair.driver, &done, 1) != 1)
			usleep(100);
		usleep(2000);
		assert_int_equal(read(fds[0], words, 4096), 4096);
		/* The call that waited, and calls for what comes now. */
		assert_int_equal(poll(&(struct pollfd){ fds[0], POLLIN, 0 }, 1, WAIT_MS), 1);
		assert_true(read(fds[0], words, 4096) > 0);
		stand_send_holds(&st, 1);
		assert_int_equal(poll(&(struct pollfd){ fds[0], POLLIN, 0 }, 1, WAIT_MS), 1);
		assert_true(read(fds[0], words, 4096) > 0);
		while (virtq_driver_get(st.pair.driver, &done, 1) != 1)
			usleep(100);
	}
	stand_close(&st);
	virtq_engine_destroy(engine);
	close(fds[0]);
	close(fds[1]);
}

/* A peer that clears O_NONBLOCK behind our back is called each time, and once more at the end. */
static void a_blocking_fd_is_called(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	struct virtq_completion done;
	struct holder h;
	struct stand st;

	holder_init(&h);
	h.at_once = true;
	for (unsigned int round = 0; round < 10; round++) {
		stand_open_on(&st, engine, s, &h.model);
		assert_int_equal(fcntl(st.call, F_SETFL, 0), 0);
		for (unsigned int i = 0; i < 20; i++) {
			stand_send_holds(&st, 1);
			assert_int_equal(poll(&(struct pollfd){ st.call, POLLIN, 0 }, 1,
					      WAIT_MS), 1);
			virtq_notify_clear(st.call);
			while (virtq_driver_get(st.pair.driver, &done, 1) != 1)
				usleep(100);
		}
		/* Taken away while the call is under way. */
		stand_send_holds(&st, 1);
		while (virtq_driver_get(st.pair.driver, &done, 1) != 1)
			;
		st.pair.device = virtq_engine_remove(st.queue);
		st.queue = NULL;
		assert_int_equal(poll(&(struct pollfd){ st.call, POLLIN, 0 }, 1, 0), 1);
		stand_close(&st);
	}
	virtq_engine_destroy(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(so_many_share_a_call),
		ON_ENGINES(one_at_a_time_does_not_wait),
		ON_ENGINES(none_waits_longer_than_it_may),
		ON_ENGINES(what_is_owed_is_owed),
		ON_ENGINES(pause_move_and_remove_send_what_is_owed),
		ON_ENGINES(reset_owes_nothing),
		ON_ENGINES(another_call_fd_is_owed_the_call),
		ON_ENGINES(calls_that_cannot_go_out_do_not_pile_up),
		ON(uring_split, a_full_fd_is_called_when_there_is_room),
		ON_ENGINES(a_blocking_fd_is_called),
	};

	return cmocka_run_group_tests_name("engine calls", tests, NULL, NULL) ? 1 : 0;
}
