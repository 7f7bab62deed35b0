/* SPDX-License-Identifier: MIT */
/*
 * What an engine does that has nothing to do: for how long it looks, that it then
 * sleeps, and that it is woken only when it sleeps but always then.
 */
#include "stand.h"

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"

#define US 1000ull		/* nanoseconds */
#define MS 1000000ull

/* ---- Learning, with a clock of the test's ------------------------------------- */

struct bench {
	struct virtq_engine engine;
	struct virtq_engine_queue queue;
};

static void bench_init(struct bench *b, enum virtq_spin spin, uint32_t spin_us)
{
	memset(b, 0, sizeof(*b));
	b->engine.config = (struct virtq_engine_config){ .spin = spin, .spin_us = spin_us };
	b->engine.queues = &b->queue;
	b->engine.now_ns = engine_now_ns();
	spin_init(&b->engine);
}

/* A gap of so long; returns for how long it would have spun. */
static uint64_t gap(struct bench *b, uint64_t ns)
{
	uint64_t for_ns;

	spin_goes_on(&b->engine);
	for_ns = b->engine.spin.for_ns;
	b->engine.now_ns = b->engine.spin.idle_since_ns + ns;
	spin_worked(&b->engine, false);
	return for_ns;
}

static void short_gaps_are_spun_over_and_no_longer(void **state)
{
	uint64_t for_ns = 0;
	struct bench b;

	(void)state;
	bench_init(&b, VIRTQ_SPIN_AUTO, 50);
	assert_int_equal(gap(&b, 40 * US), 50 * US);	/* nothing known: the bound */
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(gap(&b, 49 * US), 50 * US);
	/* A pause now and then leaves all as it is. */
	for (unsigned int i = 0; i < 100; i++)
		for_ns = gap(&b, i % 20 ? 2 * US : 10 * MS);
	assert_int_equal(for_ns, 50 * US);
	/* Bursts: it does not wait longer than usual for the next request of one. */
	for (unsigned int i = 0; i < 400; i++)
		for_ns = gap(&b, i % 4 ? 2 * US + i % 2 * US : 10 * MS);
	assert_in_range(for_ns, 3 * US, 12 * US);
}

static void long_gaps_end_spinning_but_for_a_trial(void **state)
{
	unsigned int spun = 0, trials = 0;
	struct bench b;

	(void)state;
	bench_init(&b, VIRTQ_SPIN_AUTO, 50);
	while (gap(&b, MS))
		assert_true(++spun < 10);
	for (unsigned int i = 0; i < 640; i++)
		trials += gap(&b, MS) != 0;
	assert_int_equal(trials, 10);
	/* What is found in a trial is believed at once. */
	for (bool trial = false; !trial;) {
		spin_goes_on(&b.engine);
		trial = b.engine.spin.trial;
		b.engine.now_ns = b.engine.spin.idle_since_ns + (trial ? 20 * US : MS);
		spin_worked(&b.engine, false);
	}
	assert_true(gap(&b, 20 * US) > 20 * US);
	assert_true(gap(&b, 20 * US) > 20 * US);
}

/* With requests in flight it is storage that is waited for. */
static void storage_and_driver_are_told_apart(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, VIRTQ_SPIN_AUTO, 50);
	for (unsigned int i = 0; i < 20; i++) {
		b.queue.in_flight = 1;
		gap(&b, MS);
		b.queue.in_flight = 0;
		gap(&b, 5 * US);
	}
	assert_true(gap(&b, 5 * US) >= 5 * US);
	b.queue.in_flight = 1;
	assert_int_equal(gap(&b, MS), 0);
}

/* A gap with a request in flight and so many looks. Returns whether it would have spun. */
static bool looked_over(struct bench *b, unsigned int looks, bool arrived)
{
	bool spun;

	b->queue.in_flight = 1;
	spin_goes_on(&b->engine);
	spun = b->engine.spin.for_ns != 0;
	for (unsigned int i = 0; spun && i < looks; i++)
		spin_goes_on(&b->engine);
	b->engine.now_ns = b->engine.spin.idle_since_ns + 5 * US;
	spin_worked(&b->engine, arrived);
	return spun;
}

/* A worker of the kernel that does its work whenever the engine gives its processor away. */
static void storage_gets_the_processor_if_it_needs_it(void **state)
{
	unsigned int spun = 0;
	struct bench b;

	(void)state;
	bench_init(&b, VIRTQ_SPIN_AUTO, 50);
	for (unsigned int i = 0; i < 100; i++)
		assert_true(looked_over(&b, 10, false));	/* on another one */
	for (unsigned int i = 0; i < 100; i++)
		assert_true(looked_over(&b, 0, false));		/* done as it was submitted */
	for (unsigned int i = 0; i < 100; i++)
		assert_true(looked_over(&b, 1, true));		/* drivers have more */
	while (looked_over(&b, 1, false))
		assert_true(++spun < 30);
	spun = 0;
	for (unsigned int i = 0; i < 640; i++)
		spun += looked_over(&b, 1, false);
	assert_int_equal(spun, 10);
	/* Between requests nobody does: there it spins. */
	b.queue.in_flight = 0;
	assert_true(gap(&b, 5 * US) >= 5 * US);
	/* Drivers that have more would kick. */
	for (spun = 0; !looked_over(&b, 1, true); spun++)
		assert_true(spun < 10);
	while (looked_over(&b, 1, false))
		;
	/* The worker moves to another processor: one trial finds out. */
	for (spun = 0; spun < 2; spun = looked_over(&b, 10, false) ? spun + 1 : 0)
		;
	for (unsigned int i = 0; i < 100; i++)
		assert_true(looked_over(&b, 10, false));
}

static void off_is_off(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, VIRTQ_SPIN_OFF, 50);
	assert_false(spin_goes_on(&b.engine));
	bench_init(&b, VIRTQ_SPIN_AUTO, 50);
	b.engine.queues = NULL;		/* nobody to look for */
	assert_false(spin_goes_on(&b.engine));
}

static void bounds_are_checked(void **state)
{
	struct virtq_engine *engine = NULL;
	struct virtq_error err = { 0 };

	(void)state;
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
						.spin_us = 1000001 }, &err), -EINVAL);
	assert_non_null(strstr(err.text, "1000001"));
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
				.spin = (enum virtq_spin)3 }, &err), -EINVAL);
	assert_null(engine);
}

/* ---- A queue that answers at once ---------------------------------------------- */

static uint64_t thread_cpu_ns(const struct virtq_engine *engine)
{
	struct timespec t;
	clockid_t clock;

	assert_int_equal(pthread_getcpuclockid(engine->thread, &clock), 0);
	assert_int_equal(clock_gettime(clock, &t), 0);
	return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

/* Look for one buffer, without being called. */
static void look_for_one(struct pair *p)
{
	struct virtq_completion done;
	uint64_t give_up = now_ms() + WAIT_MS;

	for (unsigned int spins = 1; virtq_driver_get(p->driver, &done, 1) != 1; spins++) {
		if (spins % 4096 == 0)
			usleep(20);
		if (spins % 65536 == 0 && now_ms() > give_up)
			fail_msg("the engine does not look");
	}
}

/* Send one after a pause of @us and wait for it. Returns whether a kick was wanted. */
static bool send_after(struct stand *st, unsigned int us)
{
	struct chain c = { .readable = 0 };
	bool wanted;

	usleep(us);
	chain_writable(&c, 0, 1);
	chain_add(&st->pair, &c, st);
	wanted = virtq_driver_publish(st->pair.driver);
	if (wanted)
		virtq_notify_send(st->kick);
	look_for_one(&st->pair);
	return wanted;
}

static void quick_open(struct stand *st, struct virtq_engine *engine, const struct setting *s,
		       struct virtq_model *quick)
{
	*quick = (struct virtq_model){ .ops = &quick_ops };
	stand_open_on(st, engine, s, quick);
	virtq_driver_disarm(st->pair.driver);
}

/* Gaps of 1 ms, and it would look for 500: whatever else this machine does. */
static void short_gaps_need_no_kicks(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 500000);
	unsigned int kicks = 0;
	struct virtq_model quick;
	struct stand st;

	quick_open(&st, engine, s, &quick);
	send_after(&st, 0);
	for (unsigned int i = 0; i < 300; i++)
		kicks += send_after(&st, 1000);
	assert_true(kicks <= 15);	/* 300 if it does not look */
	stand_close(&st);
	virtq_engine_destroy(engine);
}

static void long_gaps_are_slept_through(void **state)
{
	enum { ROUNDS = 60, BOUND_US = 2000 };
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, BOUND_US);
	struct virtq_model quick;
	uint64_t before, used;
	struct stand st;

	quick_open(&st, engine, s, &quick);
	before = thread_cpu_ns(engine);
	for (unsigned int i = 0; i < ROUNDS; i++)
		send_after(&st, 3 * BOUND_US);
	used = thread_cpu_ns(engine) - before;
	/* Looking each time would have cost all of the bound each time. */
	assert_true(used < ROUNDS * BOUND_US * US / 2);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

static void idle_engine_uses_no_cpu(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){ .kind = s->kind });
	struct virtq_model quick;
	struct stand st;
	uint64_t before;

	quick_open(&st, engine, s, &quick);
	for (unsigned int i = 0; i < 200; i++)
		send_after(&st, 0);
	usleep(20000);
	before = thread_cpu_ns(engine);
	usleep(400000);
	assert_true(thread_cpu_ns(engine) - before < MS);
	assert_true(send_after(&st, 0));	/* and it asks for a kick */
	stand_close(&st);
	virtq_engine_destroy(engine);
}

static void always_never_sleeps_while_there_is_a_queue(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .spin = VIRTQ_SPIN_ALWAYS });
	struct virtq_engine_stats stats;
	struct virtq_model quick;
	struct stand st;

	assert_idle();			/* no queue: nothing to look at */
	quick_open(&st, engine, s, &quick);
	send_after(&st, 0);
	for (unsigned int i = 0; i < 20; i++)
		assert_false(send_after(&st, 10000));
	virtq_engine_queue_stats(st.queue, &stats);
	assert_int_equal(stats.sleeps, 0);
	assert_true(stats.kicks <= 1);	/* the first, before it was told not to */
	/* Nor without one that takes requests. */
	virtq_engine_queue_enable(st.queue, false);
	assert_idle();
	virtq_engine_queue_enable(st.queue, true);
	assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 0);
	assert_idle();
	virtq_engine_resume(st.queue);
	assert_false(send_after(&st, 20000));
	stand_close(&st);
	virtq_engine_destroy(engine);
}

/* ---- News of other threads ------------------------------------------------------ */

/* Another thread completes each request a moment after it was held. */
struct relay {
	struct virtq_model model;
	struct virtq_req *held;		/* atomic */
	bool quit;			/* atomic */
};

static enum virtq_verdict relay_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	(void)op;
	__atomic_store_n(&((struct relay *)(void *)model)->held, req, __ATOMIC_RELEASE);
	return VIRTQ_HOLD;
}

static enum virtq_verdict relay_finish(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op, int64_t result)
{
	(void)model;
	(void)op;
	(void)result;
	virtq_req_write(req, "x", 1);
	return VIRTQ_DONE;
}

static const struct virtq_model_ops relay_ops = {
	.name = "relay", .req_bytes = sizeof(struct virtq_req),
	.start = relay_start, .finish = relay_finish,
};

static void *relay_thread(void *arg)
{
	unsigned int delay = 0;
	struct relay *r = arg;

	while (!__atomic_load_n(&r->quit, __ATOMIC_ACQUIRE)) {
		struct virtq_req *req = __atomic_exchange_n(&r->held, NULL, __ATOMIC_ACQ_REL);

		if (!req)
			continue;
		/* Now here, now there in the engine's way to bed, which takes about as long. */
		delay = (delay + 7) % 1000;
		for (unsigned int i = 0; i < delay; i++)
			__asm__ __volatile__("" ::: "memory");
		virtq_engine_complete(req, 0);
	}
	return NULL;
}

/* [E]: whoever completes as the engine goes to sleep is heard. */
static void no_news_is_lost(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	struct relay r = { .model = { .ops = &relay_ops } };
	struct stand st;
	pthread_t thread;

	stand_open_on(&st, engine, s, &r.model);
	virtq_driver_disarm(st.pair.driver);
	assert_int_equal(pthread_create(&thread, NULL, relay_thread, &r), 0);
	for (unsigned int i = 0; i < 30000; i++)
		send_after(&st, 0);
	__atomic_store_n(&r.quit, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

/* An engine that is awake is not written to. Sync: nothing else would read its fd. */
static void awake_engine_is_not_woken(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .spin = VIRTQ_SPIN_ALWAYS });
	struct relay r = { .model = { .ops = &relay_ops } };
	struct pollfd woken = { engine->wake_fd, POLLIN, 0 };
	struct stand st;
	pthread_t thread;

	stand_open_on(&st, engine, s, &r.model);
	virtq_driver_disarm(st.pair.driver);
	assert_int_equal(pthread_create(&thread, NULL, relay_thread, &r), 0);
	send_after(&st, 10000);
	virtq_notify_clear(engine->wake_fd);	/* it slept before it had a queue */
	for (unsigned int i = 0; i < 1000; i++)
		send_after(&st, 0);
	virtq_engine_queue_enable(st.queue, true);	/* a message, too */
	assert_int_equal(poll(&woken, 1, 0), 0);
	__atomic_store_n(&r.quit, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_gaps_are_spun_over_and_no_longer),
		cmocka_unit_test(long_gaps_end_spinning_but_for_a_trial),
		cmocka_unit_test(storage_and_driver_are_told_apart),
		cmocka_unit_test(storage_gets_the_processor_if_it_needs_it),
		cmocka_unit_test(off_is_off),
		cmocka_unit_test(bounds_are_checked),
		ON_ENGINES(short_gaps_need_no_kicks),
		ON_ENGINES(long_gaps_are_slept_through),
		ON_ENGINES(idle_engine_uses_no_cpu),
		ON_ENGINES(always_never_sleeps_while_there_is_a_queue),
		ON_ENGINES(no_news_is_lost),
		ON(sync_split, awake_engine_is_not_woken),
	};

	return cmocka_run_group_tests_name("engine spin", tests, NULL, NULL) ? 1 : 0;
}
