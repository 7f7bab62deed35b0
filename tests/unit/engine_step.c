/* SPDX-License-Identifier: MIT */
/* An engine without a thread, turned by the test's own loop. */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static struct virtq_engine *engine_stepped(enum virtq_engine_kind kind, uint32_t spin_us)
{
	return engine_with(&(struct virtq_engine_config){
		.kind = kind, .stepped = true, .drain_ms = 300, .spin_us = spin_us,
		.spin = spin_us ? VIRTQ_SPIN_AUTO : VIRTQ_SPIN_OFF });
}

/* One round of a caller's loop. Returns false if nothing happened for @ms. */
static bool loop_once(struct virtq_engine *engine, int ms)
{
	int wait = virtq_engine_step(engine);
	struct pollfd p = { virtq_engine_fd(engine), POLLIN, 0 };

	assert_true(wait >= -1);
	if (wait < 0 || wait > ms)
		wait = ms;
	return poll(&p, 1, wait) > 0 || wait < ms;
}

static void step_until_back(struct virtq_engine *engine, struct lane *l, uint64_t total)
{
	for (;;) {
		struct pollfd p = { virtq_engine_fd(engine), POLLIN, 0 };
		int wait = virtq_engine_step(engine);

		lane_reap(l);
		if (l->done == total)
			return;
		if (wait)
			assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	}
}

static void only_stepped_engines_are_stepped(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);

	assert_int_equal(virtq_engine_step(engine), -EINVAL);
	assert_int_equal(virtq_engine_fd(engine), -EINVAL);
	virtq_engine_destroy(engine);
}

/* Driver and device in one thread, one loop. */
static void one_thread_does_both_ends(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, s->spin_us);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, new_eventfd(), -1);
	for (unsigned int round = 0; round < 200; round++) {
		lane_fill(&l, s->depth, l.sent + s->depth);
		step_until_back(engine, &l, l.sent);
	}
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.requests, l.done);
	assert_true(stats.kicks > 0 || s->spin_us);
	lane_end(&l, engine, &disk);
}

/* ---- Batches ------------------------------------------------------------------- */

#define BATCH 32u

/* Looks, before it answers a request, what the driver has of those before. */
struct onlooker {
	struct virtq_model model;
	struct pair *pair;
	unsigned int started, seen;
};

static enum virtq_verdict onlooker_start(struct virtq_model *model, struct virtq_req *req,
					 struct virtq_op *op)
{
	struct onlooker *o = (struct onlooker *)(void *)model;
	struct virtq_completion done[BATCH];
	int n = virtq_driver_get(o->pair->driver, done, BATCH);

	(void)op;
	assert_true(n >= 0);
	o->seen += (unsigned int)n;
	/* No more than eight are kept back, and none comes early. */
	assert_in_range(o->seen, o->started < 8 ? 0 : o->started - 8, o->started);
	o->started++;
	virtq_req_write(req, "x", 1);
	return VIRTQ_DONE;
}

static const struct virtq_model_ops onlooker_ops = {
	.name = "onlooker", .req_bytes = sizeof(struct virtq_req), .start = onlooker_start,
};

/* All of a batch is seen as it comes, and the driver is called for it once. */
static void a_batch_goes_out_in_parts_with_one_call(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0);
	struct pair_shape shape = { .packed = s->shape.packed, .event_idx = s->shape.event_idx,
				    .size = 64 };
	struct onlooker o = { .model = { .ops = &onlooker_ops, .queues = 1 } };
	struct virtq_completion done[BATCH];
	struct virtq_engine_queue *queue;
	struct virtq_engine_stats stats;
	int call = new_eventfd(), n;
	struct pair p;
	uint64_t signals = 0;

	pair_open(&p, &shape, &o.model, 4096);
	o.pair = &p;
	for (unsigned int i = 0; i < BATCH; i++) {
		struct chain c = { .readable = 0 };

		chain_writable(&c, i * 64, 1);
		chain_add(&p, &c, NULL);
	}
	virtq_driver_publish(p.driver);
	virtq_driver_arm(p.driver);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
		.model = &o.model, .ring = p.device, .kick_fd = new_eventfd(),
		.call_fd = dup_of(call), .err_fd = -1, .enabled = true }, &queue), 0);
	p.device = NULL;
	while (virtq_engine_step(engine) == 0)
		;
	assert_int_equal(o.started, BATCH);
	n = virtq_driver_get(p.driver, done, BATCH);
	assert_int_equal(o.seen + (unsigned int)n, BATCH);
	assert_int_equal(read(call, &signals, sizeof(signals)), sizeof(signals));
	assert_int_equal(signals, 1);
	virtq_engine_queue_stats(queue, &stats);
	assert_int_equal(stats.requests, BATCH);
	assert_int_equal(stats.batches, 1);
	assert_int_equal(stats.calls, 1);
	assert_int_equal(stats.suppressed, 0);
	p.device = virtq_engine_remove(queue);
	close(call);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

/* ---- Sleep and wake-up ----------------------------------------------------------- */

static void nothing_to_do_is_nothing_to_wake_for(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0);
	struct disk disk;
	struct lane l;
	unsigned int steps = 0;

	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, new_eventfd(), -1);
	lane_fill(&l, 4, 4);
	step_until_back(engine, &l, 4);
	while (loop_once(engine, 100))
		assert_true(++steps < 20);
	assert_int_equal(virtq_engine_step(engine), -1);
	/* A kick makes the fd readable, not earlier. */
	assert_int_equal(poll(&(struct pollfd){ virtq_engine_fd(engine), POLLIN, 0 }, 1, 20), 0);
	lane_fill(&l, 1, l.sent + 1);
	assert_int_equal(poll(&(struct pollfd){ virtq_engine_fd(engine), POLLIN, 0 }, 1, WAIT_MS),
			 1);
	step_until_back(engine, &l, l.sent);
	lane_end(&l, engine, &disk);
}

static void timers_are_in_the_answer(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	const uint64_t ns = 150000000, start = now_ms();
	struct virtq_completion done;
	struct chain c = { .readable = 0 };
	struct stand st;
	unsigned int steps = 0;

	model.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	stand_open_on(&st, engine, s, &model.model);
	memcpy(st.pair.data, &ns, sizeof(ns));
	chain_readable(&c, 0, sizeof(ns));
	stand_send(&st, &c);
	while (virtq_driver_get(st.pair.driver, &done, 1) != 1) {
		loop_once(engine, 1000);
		assert_true(++steps < 30);
	}
	assert_in_range(now_ms() - start, 150, 5000);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

struct asker {
	struct stand *st;
	bool over;
	int result;
};

static void *asker_thread(void *arg)
{
	struct asker *a = arg;

	a->result = virtq_engine_pause(&a->st->queue, 1, NULL);
	virtq_engine_resume(a->st->queue);
	__atomic_store_n(&a->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Calls of other threads, and completions of other threads, make the fd readable. */
static void other_threads_are_heard(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0);
	struct holder h;
	struct stand st;
	struct asker a = { &st, false, -1 };
	struct virtq_completion done;
	pthread_t thread;

	holder_init(&h);
	stand_open_on(&st, engine, s, &h.model);
	assert_int_equal(pthread_create(&thread, NULL, asker_thread, &a), 0);
	while (!__atomic_load_n(&a.over, __ATOMIC_SEQ_CST))
		loop_once(engine, 100);
	pthread_join(thread, NULL);
	assert_int_equal(a.result, 0);

	holder_start(&h);
	for (unsigned int round = 0; round < 100; round++) {
		stand_send_holds(&st, 8);
		for (unsigned int n = 0; n < 8;) {
			struct pollfd p = { virtq_engine_fd(engine), POLLIN, 0 };
			int wait = virtq_engine_step(engine);
			unsigned int before = n;

			while (virtq_driver_get(st.pair.driver, &done, 1) == 1) {
				assert_int_equal(done.written, 2);
				n++;
			}
			if (wait && n == before)
				assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		}
	}
	stand_close(&st);
	holder_stop(&h);
	virtq_engine_destroy(engine);
}

/* From the thread that steps, calls turn the engine until they are done. */
static void calls_from_the_same_thread_end(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0), *other = engine_of(s->kind, 0, 0);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	model.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = fds[0], .flags = POLLIN };
	stand_open_on(&st, engine, s, &model.model);
	chain_writable(&c, 0, 1);
	stand_send(&st, &c);
	while (virtq_engine_step(engine) == 0)
		;
	/* In flight, for ever: over there, and back again, and cancelled here. */
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	assert_int_equal(virtq_engine_move(st.queue, engine), 0);
	assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 1);
	assert_int_equal(stand_back(&st), 0);
	assert_int_equal(model.result, -ECANCELED);
	virtq_engine_resume(st.queue);
	stand_close(&st);
	virtq_engine_destroy(engine);
	virtq_engine_destroy(other);
	close(fds[0]);
	close(fds[1]);
}

static volatile sig_atomic_t sigpipes;

static void count_sigpipe(int number)
{
	(void)number;
	sigpipes++;
}

/* Ask for a call through @fd, the other end of which is closed. */
static void call_nobody(struct stand *st, struct virtq_engine *engine, int fd)
{
	struct virtq_completion done;
	struct chain c = { .readable = 0 };

	assert_int_equal(virtq_engine_queue_set_fd(st->queue, VIRTQ_FD_CALL, fd), 0);
	chain_writable(&c, 0, 1);
	for (unsigned int round = 0; round < 40; round++) {
		stand_send(st, &c);
		while (virtq_driver_get(st->pair.driver, &done, 1) != 1)
			virtq_engine_step(engine);
		while (virtq_engine_step(engine) == 0)
			;
	}
}

/* A peer that closes its end of a call fd does not end the program that steps. */
static void no_signal_of_a_peer_gets_through(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind, 0);
	struct sigaction action = { .sa_handler = count_sigpipe }, old;
	struct scripted model = { .model = { .ops = &scripted_ops } };
	sigset_t pipe, pending;
	struct stand st;
	int fds[2];

	model.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = open("/dev/null", O_RDONLY),
					 .flags = POLLIN };
	stand_open_on(&st, engine, s, &model.model);
	sigpipes = 0;
	assert_int_equal(sigaction(SIGPIPE, &action, &old), 0);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	close(fds[0]);
	call_nobody(&st, engine, fds[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	close(fds[0]);
	call_nobody(&st, engine, fds[1]);
	assert_int_equal(sigpipes, 0);

	/* Where the program has it blocked nothing is left behind, */
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	close(fds[0]);
	call_nobody(&st, engine, fds[1]);
	sigpending(&pending);
	assert_false(sigismember(&pending, SIGPIPE));
	/* nor is taken away what was there before. */
	raise(SIGPIPE);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	close(fds[0]);
	call_nobody(&st, engine, fds[1]);
	sigpending(&pending);
	assert_true(sigismember(&pending, SIGPIPE));
	pthread_sigmask(SIG_UNBLOCK, &pipe, NULL);
	assert_int_equal(sigpipes, 1);

	sigaction(SIGPIPE, &old, NULL);
	stand_close(&st);
	close(model.first.fd);
	virtq_engine_destroy(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(only_stepped_engines_are_stepped),
		ON_ALL(one_thread_does_both_ends),
		ON(uring_single, one_thread_does_both_ends),
		ON(uring_spin, one_thread_does_both_ends),
		ON(sync_spin, one_thread_does_both_ends),
		ON_ALL(a_batch_goes_out_in_parts_with_one_call),
		ON_ALL(nothing_to_do_is_nothing_to_wake_for),
		ON_ENGINES(timers_are_in_the_answer),
		ON_ENGINES(other_threads_are_heard),
		ON_ENGINES(calls_from_the_same_thread_end),
		ON_ENGINES(no_signal_of_a_peer_gets_through),
	};

	return cmocka_run_group_tests_name("engine step", tests, NULL, NULL) ? 1 : 0;
}
