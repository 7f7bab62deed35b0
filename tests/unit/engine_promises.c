/* SPDX-License-Identifier: MIT */
/*
 * What the engine promises where queues end, break or fall quiet: to the model that keeps a
 * request, to the driver that kicks or waits for a call, to who reads the counters.
 */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "engine/engine.h"

#define DRAIN_MS 50u

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static struct virtq_engine *engine_stepped(enum virtq_engine_kind kind)
{
	/* Without a registered fd, which would stay when another file takes its number. */
	return engine_with(&(struct virtq_engine_config){
		.kind = kind, .stepped = true, .spin = VIRTQ_SPIN_OFF, .drain_ms = 60000,
		.forbid = VIRTQ_USE_RING_FD });
}

static void step_for(struct virtq_engine *engine, uint64_t ms)
{
	for (uint64_t start = now_ms(); now_ms() - start < ms; usleep(1000))
		virtq_engine_step(engine);
}

/* ---- Queues that end ------------------------------------------------------------ */

/* A call that lasts, on a thread of its own. */
struct ender {
	struct stand *st;
	enum { BY_PAUSE, BY_REMOVE, BY_RESET, ENDS } how;
	int paused;			/* what pause() said */
	bool over;			/* atomic */
	pthread_t thread;
};

static void *ender_thread(void *arg)
{
	struct ender *e = arg;
	struct stand *st = e->st;

	switch (e->how) {
	case BY_PAUSE:
		e->paused = virtq_engine_pause(&st->queue, 1, NULL);
		break;
	case BY_REMOVE:
		st->pair.device = virtq_engine_remove(st->queue);
		break;
	default:
		st->pair.device = virtq_engine_reset(st->queue);
		break;
	}
	__atomic_store_n(&e->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static void ender_start(struct ender *e)
{
	e->over = false;
	assert_int_equal(pthread_create(&e->thread, NULL, ender_thread, e), 0);
}

static void ender_join(struct ender *e)
{
	pthread_join(e->thread, NULL);
	if (e->how != BY_PAUSE)
		e->st->queue = NULL;
}

/* Turn a stepped engine until it knows of the call. */
static void step_into(struct virtq_engine *engine, struct ender *e, enum queue_phase phase)
{
	uint64_t start = now_ms();

	ender_start(e);
	while (e->st->queue->phase != phase) {
		assert_true(now_ms() - start < WAIT_MS);
		virtq_engine_step(engine);
		usleep(1000);
	}
}

static void step_out(struct virtq_engine *engine, struct ender *e)
{
	for (uint64_t start = now_ms(); !is_set(&e->over); usleep(1000)) {
		assert_true(now_ms() - start < WAIT_MS);
		virtq_engine_step(engine);
	}
	ender_join(e);
}

/* ---- A model that says HOLD, whatever it is told -------------------------------- */

struct keeper {
	struct virtq_model model;
	pthread_mutex_t lock;
	struct virtq_req *req;		/* what it has, by the lock as all of these */
	unsigned int holds, finished;
	unsigned int cancelled;		/* the hold for which cancel() came last */
	bool lets_go;
	bool own_error;			/* it completes what is cancelled as what has failed */
};

static enum virtq_verdict keeper_keep(struct keeper *k, struct virtq_req *req, bool finished)
{
	enum virtq_verdict verdict = VIRTQ_DONE;

	pthread_mutex_lock(&k->lock);
	k->finished += finished;
	if (!finished || !k->lets_go) {
		k->req = req;
		k->holds++;
		verdict = VIRTQ_HOLD;
	}
	pthread_mutex_unlock(&k->lock);
	return verdict;
}

static enum virtq_verdict keeper_start(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op)
{
	(void)op;
	virtq_req_write(req, "x", 1);
	return keeper_keep((struct keeper *)(void *)model, req, false);
}

static enum virtq_verdict keeper_finish(struct virtq_model *model, struct virtq_req *req,
					struct virtq_op *op, int64_t result)
{
	(void)op;
	(void)result;
	return keeper_keep((struct keeper *)(void *)model, req, true);
}

static void keeper_cancel(struct virtq_model *model, struct virtq_req *req)
{
	struct keeper *k = (struct keeper *)(void *)model;

	(void)req;
	pthread_mutex_lock(&k->lock);
	k->cancelled = k->holds;
	pthread_mutex_unlock(&k->lock);
}

static const struct virtq_model_ops keeper_ops = {
	.name = "keeper", .req_bytes = sizeof(struct virtq_req), .start = keeper_start,
	.finish = keeper_finish, .cancel = keeper_cancel,
};

static struct virtq_req *keeper_has(struct keeper *k)
{
	struct virtq_req *req;

	pthread_mutex_lock(&k->lock);
	req = k->req;
	pthread_mutex_unlock(&k->lock);
	return req;
}

/* Complete what it has, once. */
static void keeper_complete(struct keeper *k)
{
	struct virtq_req *req;
	int64_t result;

	pthread_mutex_lock(&k->lock);
	req = k->req;
	k->req = NULL;
	result = k->cancelled == k->holds && !k->own_error ? -ECANCELED : -EAGAIN;
	pthread_mutex_unlock(&k->lock);
	virtq_engine_complete(req, result);
}

/* Until the queue has ended, which is not while the model has the request. */
static unsigned int keeper_complete_all(struct keeper *k, struct ender *e)
{
	uint64_t start = now_ms();
	unsigned int n = 0;

	while (!is_set(&e->over)) {
		assert_true(now_ms() - start < WAIT_MS);
		usleep(1000);
		if (!keeper_has(k))
			continue;
		usleep(20000);
		if (is_set(&e->over))
			break;
		keeper_complete(k);
		n++;
	}
	assert_null(keeper_has(k));
	return n;
}

/*
 * Each hold is the model's until it completes it, also the last one, after which it is not
 * asked any more. The request is cancelled then, whatever error the model knows better.
 */
static void no_hold_is_dropped(void **state)
{
	const struct setting *s = *state;

	for (unsigned int round = 0; round < 2 * ENDS; round++) {
		unsigned int how = round % ENDS;
		struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
			.kind = s->kind, .drain_ms = DRAIN_MS });
		struct keeper k = { .model = { .ops = &keeper_ops },
				    .lock = PTHREAD_MUTEX_INITIALIZER,
				    .own_error = round >= ENDS };
		struct virtq_engine_stats stats;
		struct virtq_completion done;
		struct stand st;
		struct ender e = { .st = &st, .how = how };
		unsigned int completed;

		stand_open_on(&st, engine, s, &k.model);
		stand_send_holds(&st, 1);
		while (!keeper_has(&k))
			usleep(1000);
		ender_start(&e);
		completed = keeper_complete_all(&k, &e);
		ender_join(&e);
		assert_in_range(k.finished, 2, 5000);
		assert_int_equal(k.holds, k.finished + 1);
		assert_int_equal(completed, k.holds);
		assert_int_equal(k.cancelled, k.holds);
		if (how == BY_RESET)
			assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 0);
		else
			assert_int_equal(stand_back(&st), 0);
		if (how == BY_PAUSE) {
			assert_int_equal(e.paused, 1);
			/* The next request, in the same slot, knows nothing of it. */
			k.lets_go = true;
			k.finished = 0;
			virtq_engine_resume(st.queue);
			stand_send_holds(&st, 1);
			while (!keeper_has(&k))
				usleep(1000);
			usleep(20000);
			assert_int_equal(k.finished, 0);
			assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 0);
			keeper_complete(&k);
			assert_int_equal(stand_back(&st), 1);
			assert_int_equal(k.finished, 1);
			virtq_engine_queue_stats(st.queue, &stats);
			assert_int_equal(stats.requests, 2);
			assert_int_equal(stats.failed, 2);
			assert_int_equal(stats.cancelled, 1);
		}
		stand_close(&st);
		virtq_engine_destroy(engine);
	}
}

/* ---- What is counted of requests that are cancelled ------------------------------ */

struct persistent {
	struct virtq_model model;
	unsigned int more;		/* operations, after the first */
	bool forgives;			/* and says that nothing has failed */
	bool started;			/* atomic */
};

static enum virtq_verdict persistent_start(struct virtq_model *model, struct virtq_req *req,
					   struct virtq_op *op)
{
	(void)req;
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 3600000000000u };
	__atomic_store_n(&((struct persistent *)(void *)model)->started, true, __ATOMIC_SEQ_CST);
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict persistent_finish(struct virtq_model *model, struct virtq_req *req,
					    struct virtq_op *op, int64_t result)
{
	struct persistent *p = (struct persistent *)(void *)model;

	(void)result;
	if (p->more && p->more--)
		return persistent_start(model, req, op);
	if (p->forgives)
		req->failed = 0;
	return VIRTQ_DONE;
}

static const struct virtq_model_ops persistent_ops = {
	.name = "persistent", .req_bytes = sizeof(struct virtq_req),
	.start = persistent_start, .finish = persistent_finish,
};

/* Requests are, not their operations; and of those that failed. */
static void what_is_cancelled_is_counted_once(void **state)
{
	const struct setting *s = *state;

	for (unsigned int round = 0; round < 4; round++) {
		struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
			.kind = s->kind, .drain_ms = DRAIN_MS });
		struct persistent p = { .model = { .ops = &persistent_ops },
					.more = round & 1 ? 3 : 0, .forgives = round & 2 };
		struct virtq_engine_stats stats;
		struct stand st;

		stand_open_on(&st, engine, s, &p.model);
		stand_send_holds(&st, 1);
		while (!is_set(&p.started))
			usleep(1000);
		assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 1);
		assert_int_equal(stand_back(&st), 0);
		virtq_engine_queue_stats(st.queue, &stats);
		assert_int_equal(stats.requests, 1);
		assert_int_equal(stats.failed, p.forgives ? 0 : 1);
		assert_int_equal(stats.cancelled, stats.failed);
		stand_close(&st);
		virtq_engine_destroy(engine);
	}
}

/* ---- Kicks and calls of queues that end ------------------------------------------ */

/* Kicks that come while requests in flight end are found by whoever serves the driver next. */
static void kicks_of_a_queue_that_drains_stay(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind);
	struct holder h;
	struct stand st;
	struct ender e = { .st = &st, .how = BY_PAUSE };
	struct pollfd kick;

	holder_init(&h);
	stand_open_on(&st, engine, s, &h.model);
	kick = (struct pollfd){ st.kick, POLLIN, 0 };
	stand_send_holds(&st, 1);
	for (uint64_t start = now_ms(); !h.count; usleep(1000)) {
		assert_true(now_ms() - start < WAIT_MS);
		virtq_engine_step(engine);
	}
	step_for(engine, 20);
	assert_int_equal(poll(&kick, 1, 0), 0);
	step_into(engine, &e, QUEUE_DRAINS);
	step_for(engine, 20);
	stand_send_holds(&st, 1);
	step_for(engine, 50);
	assert_int_equal(h.count, 1);
	assert_false(is_set(&e.over));
	virtq_engine_complete(holder_take(&h), 77);
	step_out(engine, &e);
	assert_int_equal(poll(&kick, 1, 0), 1);
	assert_true(kick.revents & POLLIN);
	step_for(engine, 20);
	assert_int_equal(poll(&kick, 1, 0), 1);

	virtq_engine_resume(st.queue);
	for (uint64_t start = now_ms(); !h.count; usleep(1000)) {
		assert_true(now_ms() - start < WAIT_MS);
		virtq_engine_step(engine);
	}
	virtq_engine_complete(holder_take(&h), 77);
	stand_close(&st);
	assert_int_equal(h.finished, 2);
	virtq_engine_destroy(engine);
}

/* Answers the first request and keeps the others. */
struct slow {
	struct virtq_model model;
	struct virtq_req *held;
	unsigned int started;
};

static enum virtq_verdict slow_start(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op)
{
	struct slow *s = (struct slow *)(void *)model;

	(void)op;
	if (!s->started++)
		return VIRTQ_DONE;
	s->held = req;
	return VIRTQ_HOLD;
}

static const struct virtq_model_ops slow_ops = {
	.name = "slow", .req_bytes = sizeof(struct virtq_req), .start = slow_start,
	.finish = done_finish,
};

/* A call that was put off does not come to a driver that has reset the queue meanwhile. */
static void no_call_comes_during_a_reset(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind);
	struct slow slow = { .model = { .ops = &slow_ops } };
	struct stand st;
	struct ender e = { .st = &st, .how = BY_RESET };

	stand_open_on(&st, engine, s, &slow.model);
	assert_int_equal(virtq_engine_queue_coalesce(st.queue, 64, 1000000), 0);
	virtq_notify_clear(st.call);
	stand_send_holds(&st, 2);
	for (uint64_t start = now_ms(); !slow.held || !st.queue->owes_call;) {
		assert_true(now_ms() - start < WAIT_MS);
		virtq_engine_step(engine);
	}
	step_into(engine, &e, QUEUE_CANCELS);
	assert_int_equal(virtq_notify_wait(st.call, 0), 0);
	step_for(engine, 1300);
	assert_false(is_set(&e.over));
	assert_int_equal(virtq_notify_wait(st.call, 0), 0);
	virtq_engine_complete(slow.held, 0);
	step_out(engine, &e);
	assert_int_equal(virtq_notify_wait(st.call, 20), 0);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

/* ---- Queues that break ------------------------------------------------------------ */

/* A queue that breaks in the very round in which the engine does says so all the same. */
static void a_broken_queue_of_a_failed_engine_says_so(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_stepped(s->kind);
	struct virtq_model model = { .ops = &quick_ops };
	int err[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	bool said[2] = { false, false };
	struct stand st[2];

	assert_true(null >= 0);
	for (unsigned int i = 0; i < 2; i++) {
		stand_open_on(&st[i], engine, s, &model);
		err[i] = new_eventfd();
		assert_int_equal(virtq_engine_queue_set_fd(st[i].queue, VIRTQ_FD_ERR,
							   dup_of(err[i])), 0);
	}
	step_for(engine, 20);
	assert_int_equal(dup3(null, virtq_engine_fd(engine), O_CLOEXEC),
			 virtq_engine_fd(engine));
	/* The driver of the first claims to have published more than the ring holds. */
	((uint16_t *)st[0].pair.ring.driver)[1] += 5000;
	for (uint64_t start = now_ms(); now_ms() - start < 3000 && !(said[0] && said[1]);) {
		virtq_engine_step(engine);
		for (unsigned int i = 0; i < 2; i++)
			said[i] |= virtq_notify_wait(err[i], 1) == 1;
	}
	assert_true(virtq_engine_error(engine) < 0);
	assert_int_not_equal(virtq_device_fault(st[0].queue->ring).code, VIRTQ_FAULT_ENGINE);
	assert_int_equal(virtq_device_fault(st[1].queue->ring).code, VIRTQ_FAULT_ENGINE);
	assert_true(said[1]);
	assert_true(said[0]);
	for (unsigned int i = 0; i < 2; i++) {
		stand_close(&st[i]);
		close(err[i]);
	}
	virtq_engine_destroy(engine);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(no_hold_is_dropped),
		ON_ENGINES(what_is_cancelled_is_counted_once),
		ON_ENGINES(kicks_of_a_queue_that_drains_stay),
		ON_ENGINES(no_call_comes_during_a_reset),
		ON(uring_split, a_broken_queue_of_a_failed_engine_says_so),
		ON(sync_split, a_broken_queue_of_a_failed_engine_says_so),
	};

	return cmocka_run_group_tests_name("engine promises", tests, NULL, NULL) ? 1 : 0;
}
