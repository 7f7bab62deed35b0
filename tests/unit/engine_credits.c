/* SPDX-License-Identifier: MIT */
/* Who may do how much at once on one engine: reserves, shares, turns. */
#include "lane.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/uring.h"

/* ---- Queues whose operations wait until the test lets them end --------------- */

#define GOES_ON 77		/* no result of a read of one byte */

/* Every request reads one byte from a pipe, perhaps after it was held. */
struct waiter {
	struct virtq_model model;
	int fds[2];
	bool holds;
	struct virtq_req *held[200];	/* the engine's thread writes */
	int holding;			/* atomic: how many */
	int started, finished;		/* atomic: the engine's thread writes */
	struct pair pair;
	struct virtq_engine_queue *queue;
};

static enum virtq_verdict waiter_start(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op)
{
	struct waiter *w = (struct waiter *)(void *)model;

	if (w->holds) {
		w->held[w->holding] = req;
		__atomic_fetch_add(&w->holding, 1, __ATOMIC_SEQ_CST);
		return VIRTQ_HOLD;
	}
	__atomic_fetch_add(&w->started, 1, __ATOMIC_SEQ_CST);
	*op = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = w->fds[0] };
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict waiter_finish(struct virtq_model *model, struct virtq_req *req,
					struct virtq_op *op, int64_t result)
{
	struct waiter *w = (struct waiter *)(void *)model;

	(void)req;
	if (result == GOES_ON) {
		*op = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = w->fds[0] };
		return VIRTQ_SUBMIT;
	}
	__atomic_fetch_add(&w->finished, 1, __ATOMIC_SEQ_CST);
	return VIRTQ_DONE;
}

static const struct virtq_model_ops waiter_ops = {
	.name = "waiter", .req_bytes = sizeof(struct virtq_req),
	.start = waiter_start, .finish = waiter_finish,
};

static void waiter_add(struct waiter *w, struct virtq_engine *engine,
		       const struct pair_shape *shape, unsigned int requests)
{
	w->model = (struct virtq_model){ .ops = &waiter_ops, .queues = 1 };
	assert_int_equal(pipe2(w->fds, O_CLOEXEC), 0);
	pair_open(&w->pair, shape, &w->model, 4096);
	for (unsigned int i = 0; i < requests; i++) {
		struct chain c = { .readable = 0 };

		chain_writable(&c, i, 1);
		chain_add(&w->pair, &c, w);
	}
	virtq_driver_publish(w->pair.driver);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &w->model, .ring = w->pair.device, .enabled = true,
				.kick_fd = new_eventfd(), .call_fd = -1, .err_fd = -1 },
				&w->queue), 0);
	w->pair.device = NULL;
}

static void waiter_open(struct waiter *w, struct virtq_engine *engine,
			const struct pair_shape *shape, unsigned int requests)
{
	memset(w, 0, sizeof(*w));
	waiter_add(w, engine, shape, requests);
}

/* All of them are held first, and then shall go on at the same time. */
static void waiter_open_held(struct waiter *w, struct virtq_engine *engine,
			     const struct pair_shape *shape, int requests)
{
	memset(w, 0, sizeof(*w));
	w->holds = true;
	waiter_add(w, engine, shape, (unsigned int)requests);
	for (unsigned int ms = 0; __atomic_load_n(&w->holding, __ATOMIC_SEQ_CST) < requests; ms++) {
		assert_true(ms < WAIT_MS);
		usleep(1000);
	}
	for (int i = 0; i < requests; i++)
		virtq_engine_complete(w->held[i], GOES_ON);
}

/* As the engine counts them, of a queue that is on. */
static int waiter_performing(const struct waiter *w)
{
	int performing;

	/* Messages: what is read comes between them. */
	virtq_engine_queue_enable(w->queue, true);
	performing = (int)w->queue->performing;
	virtq_engine_queue_enable(w->queue, true);
	return performing;
}

static int waiter_busy(const struct waiter *w)
{
	int finished = __atomic_load_n(&w->finished, __ATOMIC_SEQ_CST);

	return __atomic_load_n(&w->started, __ATOMIC_SEQ_CST) - finished;
}

/* Until so many operations have ended since the beginning. */
static void waiter_wait(const struct waiter *w, int finished)
{
	for (unsigned int ms = 0; __atomic_load_n(&w->finished, __ATOMIC_SEQ_CST) < finished;
	     ms++) {
		assert_true(ms < WAIT_MS);
		usleep(1000);
	}
}

/* Let @n operations end, and wait until they have. */
static void waiter_feed(struct waiter *w, int n)
{
	int until = __atomic_load_n(&w->finished, __ATOMIC_SEQ_CST) + n;

	for (int i = 0; i < n; i++)
		assert_int_equal(write(w->fds[1], "x", 1), 1);
	waiter_wait(w, until);
}

static void waiter_close(struct waiter *w)
{
	/* The writing end first: what waits to read comes to the end of the file. */
	close(w->fds[1]);
	if (w->queue)
		w->pair.device = virtq_engine_remove(w->queue);
	close(w->fds[0]);
	pair_close(&w->pair);
}

/* As many operations as there are credits, never more; each queue a fair part. */
static void busy_queues_get_equal_parts(void **state)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 16, 0);	/* 32 credits */
	struct waiter first, second, third;
	int all;

	waiter_open(&first, engine, *state, 200);
	usleep(50000);
	assert_int_equal(waiter_busy(&first), 32);	/* alone: all of them */
	waiter_open(&second, engine, *state, 200);
	usleep(50000);
	/* Late, and everything is taken: it still has its reserve, a quarter. */
	assert_int_equal(waiter_busy(&second), 8);

	/* As the first one's end, the second gets its part. */
	for (int i = 0; i < 40; i++) {
		waiter_feed(&first, 1);
		usleep(2000);
	}
	usleep(20000);
	all = waiter_busy(&first) + waiter_busy(&second);
	assert_in_range(all, 24, 32);
	assert_in_range(waiter_busy(&first), all / 2 - 2, all / 2 + 2);

	/* A third finds what it is due without waiting for anybody. */
	waiter_open(&third, engine, *state, 200);
	usleep(50000);
	assert_true(waiter_busy(&third) >= 5);

	/* A queue that takes no requests keeps no share from the others. */
	virtq_engine_queue_enable(second.queue, false);
	virtq_engine_queue_enable(third.queue, false);
	waiter_feed(&second, waiter_busy(&second));
	waiter_feed(&third, waiter_busy(&third));
	usleep(50000);
	assert_int_equal(waiter_busy(&first), 32);
	waiter_close(&third);
	waiter_close(&second);
	waiter_close(&first);
	virtq_engine_destroy(engine);
}

/* What goes on after it was held needs a credit like any other, and is before what is new. */
static void who_was_held_gets_no_more_than_others(void **state)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 16, 0);	/* 32 credits */
	struct waiter first, second;
	int all;

	waiter_open_held(&first, engine, *state, 150);
	usleep(50000);
	assert_int_equal(waiter_performing(&first), 32);
	waiter_open(&second, engine, *state, 200);
	usleep(50000);
	assert_int_equal(waiter_busy(&second), 8);
	for (int i = 0; i < 40; i++) {
		waiter_feed(&first, 1);
		usleep(2000);
	}
	usleep(20000);
	all = waiter_performing(&first) + waiter_busy(&second);
	assert_in_range(all, 24, 32);
	assert_in_range(waiter_performing(&first), all / 2 - 2, all / 2 + 2);
	/* New ones come when none of those waits any more. */
	first.holds = false;
	for (unsigned int i = 0; i < 10; i++) {
		struct chain c = { .readable = 0 };

		chain_writable(&c, i, 1);
		chain_add(&first.pair, &c, &first);
	}
	virtq_driver_publish(first.pair.driver);
	waiter_feed(&first, 20);
	usleep(20000);
	assert_int_equal(__atomic_load_n(&first.started, __ATOMIC_SEQ_CST), 0);
	waiter_feed(&first, 100);
	assert_int_equal(first.finished, 160);
	assert_int_equal(waiter_performing(&first), 0);
	waiter_close(&second);
	waiter_close(&first);
	virtq_engine_destroy(engine);
}

/* Nothing in flight is left behind, whatever becomes of the queue. */
static void who_waits_for_a_credit_ends_with_its_queue(void **state)
{
	enum { BY_PAUSE, BY_DISABLE, BY_MOVE, BY_FAILURE, BY_RESET, BY_REMOVE, ENDS };
	const struct virtq_engine_config config = {	/* by its fd, which is taken away */
		.kind = VIRTQ_ENGINE_URING, .entries = 16, .drain_ms = 300,
		.forbid = VIRTQ_USE_RING_FD };
	struct virtq_engine *other = engine_with(&config);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (unsigned int how = 0; how < ENDS; how++) {
		struct virtq_engine *engine = engine_with(&config);
		struct virtq_engine_stats stats;
		struct waiter w;

		waiter_open_held(&w, engine, *state, 200);
		usleep(20000);
		assert_int_equal(waiter_performing(&w), 32);
		switch (how) {
		case BY_PAUSE:
			assert_int_equal(virtq_engine_pause(&w.queue, 1, NULL), 1);
			assert_int_equal(w.finished, 200);
			break;
		case BY_DISABLE:
			virtq_engine_queue_enable(w.queue, false);
			waiter_feed(&w, 200);
			break;
		case BY_MOVE:
			assert_int_equal(virtq_engine_move(w.queue, other), 0);
			usleep(20000);
			assert_int_equal(waiter_performing(&w), 32);
			waiter_feed(&w, 200);
			break;
		case BY_FAILURE:
			assert_true(dup3(null, engine->uring->ring.ring_fd, O_CLOEXEC) >= 0);
			virtq_engine_queue_enable(w.queue, true);
			waiter_wait(&w, 200);
			assert_int_equal(virtq_engine_error(engine), -EOPNOTSUPP);
			break;
		default:
			w.pair.device = engine_remove_stats(w.queue, how == BY_RESET, &stats);
			w.queue = NULL;
			assert_int_equal(w.finished, 200);
			assert_int_equal(stats.cancelled, 200);
			break;
		}
		waiter_close(&w);
		virtq_engine_destroy(engine);
	}
	virtq_engine_destroy(other);
	close(null);
}

/* Far more queues than credits, submission entries, or what fits a byte: all of them go on. */
static void more_queues_than_credits(void **state)
{
	enum { QUEUES = 300 };
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 4, 0);
	struct waiter *w = calloc(QUEUES, sizeof(*w));

	assert_non_null(w);
	for (unsigned int i = 0; i < QUEUES; i++)
		waiter_open(&w[i], engine, *state, 3);
	usleep(100000);
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < QUEUES; i++)
			assert_true(waiter_busy(&w[i]) >= 1 || round);
		for (unsigned int i = 0; i < QUEUES; i++)
			waiter_feed(&w[i], 1);
	}
	for (unsigned int i = 0; i < QUEUES; i++)
		waiter_close(&w[i]);
	virtq_engine_destroy(engine);
	free(w);
}

/* ---- Turns ------------------------------------------------------------------ */

/* Answers at once, and notes how many requests of all queues came before. */
struct counter {
	struct virtq_model model;
	uint64_t *before;		/* shared: requests of all queues, atomic */
	uint64_t *seen;			/* what it was at the last request here, atomic */
};

static enum virtq_verdict counter_start(struct virtq_model *model, struct virtq_req *req,
					struct virtq_op *op)
{
	struct counter *c = (struct counter *)(void *)model;

	(void)req;
	(void)op;
	__atomic_store_n(c->seen, __atomic_fetch_add(c->before, 1, __ATOMIC_SEQ_CST),
			 __ATOMIC_SEQ_CST);
	return VIRTQ_DONE;
}

static const struct virtq_model_ops counter_ops = {
	.name = "counter", .req_bytes = sizeof(struct virtq_req), .start = counter_start,
};

struct flood {
	struct pair pair;
	bool stop;
};

/* Keeps its ring full, always. */
static void *flood_thread(void *arg)
{
	struct flood *f = arg;
	struct virtq_completion done[64];
	struct chain c = { .readable = 0 };

	chain_writable(&c, 0, 1);
	while (!__atomic_load_n(&f->stop, __ATOMIC_SEQ_CST)) {
		while (virtq_driver_room(f->pair.driver))
			chain_add(&f->pair, &c, f);
		virtq_driver_publish(f->pair.driver);
		while (virtq_driver_get(f->pair.driver, done, 64) > 0)
			;
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/*
 * One queue with 1024 requests in flight, always, and one with a single one: it
 * waits for a batch or two of the other's, not for all of them. The median,
 * since the driver may be interrupted between the count and the publication.
 */
static void a_flood_leaves_others_their_turn(void **state)
{
	enum { ROUNDS = 501 };
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	static uint64_t between[ROUNDS];
	uint64_t before = 0, seen[2] = { 0, 0 };
	struct counter model[2] = {
		{ { .ops = &counter_ops, .queues = 1 }, &before, &seen[0] },
		{ { .ops = &counter_ops, .queues = 1 }, &before, &seen[1] },
	};
	struct virtq_engine_queue *queue[2];
	struct flood f = { .stop = false };
	struct pair p;
	struct chain c = { .readable = 0 };
	pthread_t thread;

	pair_open(&f.pair, &(struct pair_shape){ s->shape.packed, s->shape.event_idx, 1024 },
		  &model[0].model, 4096);
	pair_open(&p, &s->shape, &model[1].model, 4096);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &model[i].model, .ring = i ? p.device : f.pair.device,
				.enabled = true, .kick_fd = -1, .call_fd = -1, .err_fd = -1 },
				&queue[i]), 0);
	assert_int_equal(pthread_create(&thread, NULL, flood_thread, &f), 0);
	chain_writable(&c, 0, 1);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct virtq_completion done;
		uint64_t from;

		chain_add(&p, &c, &p);
		from = __atomic_load_n(&before, __ATOMIC_SEQ_CST);
		virtq_driver_publish(p.driver);
		while (virtq_driver_get(p.driver, &done, 1) != 1)
			;
		between[i] = __atomic_load_n(&seen[1], __ATOMIC_SEQ_CST) - from;
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	qsort(between, ROUNDS, sizeof(between[0]), compare);
	assert_true(between[ROUNDS / 2] <= 4 * ENGINE_BATCH);
	f.pair.device = virtq_engine_remove(queue[0]);
	p.device = virtq_engine_remove(queue[1]);
	pair_close(&f.pair);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

/* ---- Parts ------------------------------------------------------------------- */

/* Operations that end when the test takes them back, all of them in the same round. */
struct parted {
	struct virtq_model model;
	struct virtq_req *reqs[64];
	unsigned int count;
	struct pair pair;
	struct virtq_engine_queue *queue;
};

static enum virtq_verdict parted_start(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op)
{
	struct parted *p = (struct parted *)(void *)model;

	p->reqs[p->count++] = req;
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = UINT64_MAX };
	return VIRTQ_SUBMIT;
}

static const struct virtq_model_ops parted_ops = {
	.name = "parted", .req_bytes = sizeof(struct virtq_req),
	.start = parted_start, .finish = done_finish,
};

static void parted_end_all(struct parted *p)
{
	while (p->count)
		virtq_engine_cancel(p->reqs[--p->count]);
}

static void keep_full(struct pair *p)
{
	struct virtq_completion done[64];
	struct chain c = { .readable = 0 };

	chain_writable(&c, 0, 1);
	while (virtq_driver_get(p->driver, done, 64) > 0)
		;
	while (virtq_driver_room(p->driver))
		chain_add(p, &c, p);
	virtq_driver_publish(p->driver);
}

static void step_often(struct virtq_engine *engine)
{
	for (unsigned int i = 0; i < 20; i++)
		virtq_engine_step(engine);
}

/*
 * Of 32 credits each of three queues has 5, and 17 are shared. Of these one that is alone
 * takes four times what it leaves: 14 and 3; and while two want more neither gets more than
 * half, 9, even if all come back in one round and it is asked first.
 */
static void none_takes_all_that_is_shared(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .entries = 16, .stepped = true, .drain_ms = 10 });
	struct parted p[3];

	memset(p, 0, sizeof(p));
	for (unsigned int i = 0; i < 3; i++) {
		p[i].model = (struct virtq_model){ .ops = &parted_ops, .queues = 1 };
		pair_open(&p[i].pair, &s->shape, &p[i].model, 4096);
		assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &p[i].model, .ring = p[i].pair.device, .enabled = true,
				.kick_fd = -1, .call_fd = -1, .err_fd = -1 }, &p[i].queue), 0);
	}
	keep_full(&p[0].pair);
	step_often(engine);
	assert_int_equal(p[0].queue->performing, 5 + 14);
	/* Who comes late finds something beyond its own. */
	keep_full(&p[1].pair);
	step_often(engine);
	assert_int_equal(p[0].queue->performing, 5 + 14);
	assert_int_equal(p[1].queue->performing, 5 + 3);
	for (unsigned int round = 0; round < 20; round++) {
		uint32_t first, second;

		parted_end_all(&p[0]);
		parted_end_all(&p[1]);
		keep_full(&p[0].pair);
		keep_full(&p[1].pair);
		step_often(engine);
		first = p[0].queue->performing;
		second = p[1].queue->performing;
		assert_int_equal(first > second ? first : second, 5 + 9);
		assert_int_equal(first > second ? second : first, 5 + 7);
	}
	/* The third has lost nothing by that. */
	keep_full(&p[2].pair);
	step_often(engine);
	assert_in_range(p[2].queue->performing, 5, 5 + 1);
	for (unsigned int i = 0; i < 3; i++) {
		p[i].pair.device = virtq_engine_reset(p[i].queue);
		pair_close(&p[i].pair);
	}
	virtq_engine_destroy(engine);
}

/* ---- Operations that end together -------------------------------------------- */

static enum virtq_verdict pause_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	(void)model;
	(void)req;
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 2000000 };
	return VIRTQ_SUBMIT;
}

static const struct virtq_model_ops pause_ops = {
	.name = "pause", .req_bytes = sizeof(struct virtq_req),
	.start = pause_start, .finish = done_finish,
};

static uint64_t requests_of(struct virtq_engine_queue *queue)
{
	struct virtq_engine_stats stats;

	virtq_engine_queue_stats(queue, &stats);
	return stats.requests;
}

/*
 * All queues are full all the time, and their operations take equally long: what
 * all of them wait for comes back at the same time, and is not the first one's.
 */
static void equal_parts(const struct pair_shape *shape, unsigned int queues, uint32_t entries)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, entries, 0);
	struct virtq_model model = { .ops = &pause_ops, .queues = queues };
	struct virtq_engine_queue **queue = calloc(queues, sizeof(*queue));
	struct pair *p = calloc(queues, sizeof(*p));
	uint64_t *before = calloc(queues, sizeof(*before));
	uint64_t least = UINT64_MAX, most = 0, begin;

	assert_non_null(queue);
	assert_non_null(p);
	assert_non_null(before);
	for (unsigned int i = 0; i < queues; i++) {
		pair_open(&p[i], shape, &model, 4096);
		keep_full(&p[i]);
	}
	for (unsigned int i = 0; i < queues; i++)
		assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &model, .ring = p[i].device, .enabled = true,
				.kick_fd = -1, .call_fd = -1, .err_fd = -1 }, &queue[i]), 0);
	/* From when all are there: the first ones have had a start. */
	for (unsigned int i = 0; i < queues; i++)
		before[i] = requests_of(queue[i]);
	begin = engine_now_ns();
	while (requests_of(queue[0]) - before[0] < 1000) {
		assert_true(engine_now_ns() - begin < WAIT_MS * 1000000ull);
		for (unsigned int i = 0; i < queues; i++)
			keep_full(&p[i]);
	}
	for (unsigned int i = 0; i < queues; i++) {
		uint64_t requests = requests_of(queue[i]) - before[i];

		if (requests < least)
			least = requests;
		if (requests > most)
			most = requests;
	}
	for (unsigned int i = 0; i < queues; i++) {
		p[i].device = virtq_engine_reset(queue[i]);
		pair_close(&p[i]);
	}
	virtq_engine_destroy(engine);
	free(before);
	free(p);
	free(queue);
	if (least < most / 2)
		fail_msg("%u queues, %u entries: least %llu, most %llu", queues, entries,
			 (unsigned long long)least, (unsigned long long)most);
}

static void what_ends_together_is_shared_equally(void **state)
{
	equal_parts(*state, 4, 16);
	equal_parts(*state, 16, 256);
	equal_parts(*state, 64, 256);
	equal_parts(*state, 20, 16);	/* more than half as many as credits */
}

static const struct pair_shape split_shape = { false, true, 256 };
static const struct pair_shape packed_shape = { true, true, 256 };

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON(split_shape, busy_queues_get_equal_parts),
		ON(packed_shape, busy_queues_get_equal_parts),
		ON(split_shape, who_was_held_gets_no_more_than_others),
		ON(packed_shape, who_was_held_gets_no_more_than_others),
		ON(split_shape, who_waits_for_a_credit_ends_with_its_queue),
		ON(packed_shape, who_waits_for_a_credit_ends_with_its_queue),
		ON(split_shape, more_queues_than_credits),
		ON(packed_shape, more_queues_than_credits),
		ON(split_shape, what_ends_together_is_shared_equally),
		ON(packed_shape, what_ends_together_is_shared_equally),
		ON_ENGINES(none_takes_all_that_is_shared),
		ON_ENGINES(a_flood_leaves_others_their_turn),
	};

	return cmocka_run_group_tests_name("engine credits", tests, NULL, NULL) ? 1 : 0;
}
