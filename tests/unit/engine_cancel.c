/* SPDX-License-Identifier: MIT */
/* A model takes an operation back: of every kind, from any thread, wherever its queue is. */
#include "stand.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/uring.h"

#define REQS 48u
#define GOES_ON 77			/* no result of what these tests let end */
#define HOUR_NS (3600 * (uint64_t)1000000000)

/* ---- A model that takes back what it began ---------------------------------- */

/* What the driver asks for, with the number of the request that is meant. */
enum command { OPERATE, HOLD, CANCEL, OPERATE_AND_CANCEL, OPERATE_WHILE_OTHER_CANCELS };

struct taker {
	struct virtq_model model;
	struct virtq_op first;		/* constant while there are requests, as the next two */
	bool linked;			/* a signal to @told follows, and then an hour */
	int told;
	struct virtq_op (*make)(struct taker *t, unsigned int number);	/* in place of @first */
	pthread_mutex_t lock;		/* finish() needs it to forget a request */
	pthread_cond_t changed;
	struct virtq_req *reqs[REQS];	/* in flight: may be cancelled by who has the lock */
	unsigned int began, finished[REQS], all_finished;
	int64_t results[REQS];
	enum virtq_op_kind last;
	uint64_t wr_left;
	unsigned int again;		/* finish() begins @first so many times more */
	unsigned int more_cancels;	/* CANCEL says it so many times more */
	bool cancels_itself;		/* within finish() that begins it */
	bool asks_other, other_was_there;
};

struct taken {
	struct virtq_req req;
	unsigned int number;
	struct virtq_op signal, hour;
	struct virtq_span span;
};

static struct virtq_op taker_op(struct taker *t, struct taken *r)
{
	static const uint64_t one = 1;
	struct virtq_op op = t->make ? t->make(t, r->number) : t->first;

	if (!t->linked)
		return op;
	r->hour = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = HOUR_NS };
	r->span = (struct virtq_span){ (void *)(uintptr_t)&one, sizeof(one) };
	r->signal = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .fd = t->told, .next = &r->hour,
				       .spans = &r->span, .span_count = 1 };
	op.next = &r->signal;
	return op;
}

static enum virtq_verdict taker_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	struct taker *t = (struct taker *)(void *)model;
	struct taken *r = (struct taken *)(void *)req;
	uint8_t said[2] = { 0, 0 };

	assert_int_equal(virtq_req_read(req, said, 2), 2);
	r->number = said[1];
	pthread_mutex_lock(&t->lock);
	if (said[0] == CANCEL) {
		assert_non_null(t->reqs[r->number]);
		for (unsigned int i = 0; i <= t->more_cancels; i++)
			virtq_engine_cancel(t->reqs[r->number]);
		pthread_mutex_unlock(&t->lock);
		return VIRTQ_DONE;
	}
	t->reqs[r->number] = req;
	t->began++;
	*op = taker_op(t, r);
	if (said[0] == OPERATE_AND_CANCEL)
		virtq_engine_cancel(req);
	t->asks_other = said[0] == OPERATE_WHILE_OTHER_CANCELS;
	pthread_cond_broadcast(&t->changed);
	while (t->asks_other && !t->other_was_there)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
	return said[0] == HOLD ? VIRTQ_HOLD : VIRTQ_SUBMIT;
}

static enum virtq_verdict taker_finish(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op, int64_t result)
{
	struct taker *t = (struct taker *)(void *)model;
	struct taken *r = (struct taken *)(void *)req;
	enum virtq_verdict verdict = VIRTQ_SUBMIT;

	pthread_mutex_lock(&t->lock);
	if (result == GOES_ON) {
		*op = taker_op(t, r);
	} else {
		t->results[r->number] = result;
		t->finished[r->number]++;
		t->all_finished++;
		t->last = op->kind;
		t->wr_left = req->wr.bytes;
		if (t->again) {
			t->again--;
			*op = taker_op(t, r);
			if (t->cancels_itself)
				virtq_engine_cancel(req);
		} else {
			t->reqs[r->number] = NULL;
			verdict = VIRTQ_DONE;
		}
	}
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return verdict;
}

static const struct virtq_model_ops taker_ops = {
	.name = "taker", .req_bytes = sizeof(struct taken),
	.start = taker_start, .finish = taker_finish,
};

static void taker_init(struct taker *t)
{
	memset(t, 0, sizeof(*t));
	t->model.ops = &taker_ops;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
}

static void taker_send(struct stand *st, enum command command, unsigned int number)
{
	size_t at = 16 * (command == CANCEL ? number + REQS : number);
	struct chain c = { .readable = 0 };

	st->pair.data[at] = (uint8_t)command;
	st->pair.data[at + 1] = (uint8_t)number;
	chain_readable(&c, at, 2);
	chain_writable(&c, at + 2, 10);
	stand_send(st, &c);
}

/* Until a whole round has passed: messages are answered before queues are looked at. */
static void next_round(struct stand *st)
{
	virtq_engine_queue_enable(st->queue, true);
	virtq_engine_queue_enable(st->queue, true);
}

/* Until so many have been started, and what they began is under way. */
static void taker_wait_begun(struct taker *t, struct stand *st, unsigned int n)
{
	pthread_mutex_lock(&t->lock);
	while (t->began < n)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
	next_round(st);
}

static void taker_wait_finished(struct taker *t, unsigned int number, unsigned int times)
{
	pthread_mutex_lock(&t->lock);
	while (t->finished[number] < times)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static unsigned int taker_finished(struct taker *t, unsigned int number)
{
	unsigned int n;

	pthread_mutex_lock(&t->lock);
	n = t->finished[number];
	pthread_mutex_unlock(&t->lock);
	return n;
}

static void cancel_from_here(struct taker *t, unsigned int number)
{
	pthread_mutex_lock(&t->lock);
	assert_non_null(t->reqs[number]);
	virtq_engine_cancel(t->reqs[number]);
	pthread_mutex_unlock(&t->lock);
}

/* ---- Every kind, from everywhere -------------------------------------------- */

struct ends {
	int empty[2], part[2], full[2], never[2], file;
	char *path;
};

static void ends_open(struct ends *e)
{
	static const char zeroes[4096];

	assert_int_equal(pipe2(e->empty, O_CLOEXEC), 0);
	assert_int_equal(pipe2(e->never, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(pipe2(e->part, O_CLOEXEC), 0);
	assert_int_equal(pipe2(e->full, O_CLOEXEC | O_NONBLOCK), 0);
	while (write(e->full[1], zeroes, sizeof(zeroes)) > 0)
		;
	assert_int_equal(fcntl(e->full[1], F_SETFL, 0), 0);
	e->path = file_make(8192);
	e->file = open(e->path, O_RDWR | O_CLOEXEC);
}

static void ends_close(struct ends *e)
{
	for (unsigned int i = 0; i < 2; i++) {
		close(e->empty[i]);
		close(e->part[i]);
		close(e->full[i]);
		close(e->never[i]);
	}
	close(e->file);
	file_drop(e->path);
}

struct kind {
	const char *name;
	struct virtq_op op;
	bool linked;
	bool blocks;			/* the thread of an engine without io_uring */
	bool ends;			/* by itself, at once; what follows waits */
};

/* Until what comes before the hour is over, and that has begun. */
static void wait_for_the_hour(struct taker *t, struct stand *st)
{
	struct pollfd told = { t->told, POLLIN, 0 };

	assert_int_equal(poll(&told, 1, WAIT_MS), 1);
	next_round(st);
	assert_int_equal(taker_finished(t, 0), 0);
}

static void assert_taken_back(const struct setting *s, const struct kind *k,
			      enum command command, bool from_engine)
{
	struct taker t;
	struct stand st;
	uint64_t start;

	taker_init(&t);
	t.first = k->op;
	t.linked = k->linked;
	t.told = new_eventfd();
	stand_open(&st, s, &t.model);
	start = now_ms();
	taker_send(&st, command, 0);
	if (command == OPERATE) {
		taker_wait_begun(&t, &st, 1);
		if (k->ends)
			wait_for_the_hour(&t, &st);
		if (from_engine)
			taker_send(&st, CANCEL, 0);
		else
			cancel_from_here(&t, 0);
	} else if (command == OPERATE_WHILE_OTHER_CANCELS) {
		pthread_mutex_lock(&t.lock);
		while (!t.asks_other)
			pthread_cond_wait(&t.changed, &t.lock);
		virtq_engine_cancel(t.reqs[0]);
		t.other_was_there = true;
		pthread_cond_broadcast(&t.changed);
		pthread_mutex_unlock(&t.lock);
	}
	stand_back(&st);
	if (from_engine)
		stand_back(&st);
	stand_close(&st);
	close(t.told);
	if (t.results[0] != -ECANCELED)
		fail_msg("%s: result %lld", k->name, (long long)t.results[0]);
	if (!k->ends) {
		assert_int_equal(t.last, k->op.kind);
		assert_int_equal(t.wr_left, 10);
	} else if (command == OPERATE) {	/* else nobody knows how far it came */
		assert_int_equal(t.last, VIRTQ_OP_TIMEOUT);
	}
	assert_int_equal(t.finished[0], 1);
	assert_in_range(now_ms() - start, 0, 10000);
}

static void every_kind_is_taken_back_from_everywhere(void **state)
{
	const struct setting *s = *state;
	struct ends e;

	ends_open(&e);
	const struct kind kinds[] = {
		{ "poll", { .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN } },
		{ "timeout", { .kind = VIRTQ_OP_TIMEOUT, .bytes = HOUR_NS } },
		{ "read", { .kind = VIRTQ_OP_READ, .fd = e.empty[0] }, .blocks = true },
		{ "write", { .kind = VIRTQ_OP_WRITE, .fd = e.full[1],
			     .spans = &(struct virtq_span){ e.path, 3 }, .span_count = 1 },
		  .blocks = true },
		{ "read that is tried again", { .kind = VIRTQ_OP_READ, .fd = e.never[0] } },
		{ "poll, then", { .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN },
		  .linked = true },
		{ "sync, then", { .kind = VIRTQ_OP_SYNC, .fd = e.file },
		  .linked = true, .ends = true },
		{ "allocate, then", { .kind = VIRTQ_OP_ALLOCATE, .fd = e.file, .bytes = 8192 },
		  .linked = true, .ends = true },
		{ "read, then", { .kind = VIRTQ_OP_READ, .fd = e.file },
		  .linked = true, .ends = true },
	};

	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (s->kind == VIRTQ_ENGINE_SYNC && kinds[i].blocks)
			continue;	/* documented: these end by themselves there */
		assert_taken_back(s, &kinds[i], OPERATE, true);
		assert_taken_back(s, &kinds[i], OPERATE, false);
		assert_taken_back(s, &kinds[i], OPERATE_AND_CANCEL, false);
		assert_taken_back(s, &kinds[i], OPERATE_WHILE_OTHER_CANCELS, false);
	}
	ends_close(&e);
}

/* What came of a transfer stays; its rest is not waited for. */
static void half_a_read_ends_where_it_came_to(void **state)
{
	struct taker t;
	struct stand st;
	struct ends e;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = e.part[0] };
	stand_open(&st, *state, &t.model);
	assert_int_equal(write(e.part[1], "abcd", 4), 4);
	taker_send(&st, OPERATE, 0);
	taker_wait_begun(&t, &st, 1);
	usleep(50000);
	cancel_from_here(&t, 0);
	assert_int_equal(stand_back(&st), 4);
	stand_close(&st);
	assert_int_equal(t.results[0], -ECANCELED);
	assert_int_equal(t.wr_left, 6);
	ends_close(&e);
}

/* It has its result, or was taken back before it began: in any case it ends, once. */
static void what_ends_by_itself_is_told_as_it_went(void **state)
{
	struct ends e;

	ends_open(&e);
	const struct virtq_op kinds[] = {
		{ .kind = VIRTQ_OP_SYNC, .fd = e.file }, { .kind = VIRTQ_OP_TIMEOUT },
		{ .kind = VIRTQ_OP_ALLOCATE, .fd = e.file, .bytes = 8192 },
		{ .kind = VIRTQ_OP_READ, .fd = e.file },
	};
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct taker t;
		struct stand st;

		taker_init(&t);
		t.first = kinds[i];
		stand_open(&st, *state, &t.model);
		taker_send(&st, OPERATE_AND_CANCEL, 0);
		stand_back(&st);
		stand_close(&st);
		assert_int_equal(t.finished[0], 1);
		if (t.results[0] != -ECANCELED)
			assert_int_equal(t.results[0], kinds[i].kind == VIRTQ_OP_READ ? 10 : 0);
	}
	ends_close(&e);
}

/* ---- What is meant, and what is not ------------------------------------------ */

static void twice_is_once_and_the_next_one_stays(void **state)
{
	struct taker t;
	struct stand st;
	struct ends e;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN };
	t.again = 2;
	stand_open(&st, *state, &t.model);
	taker_send(&st, OPERATE, 0);
	taker_wait_begun(&t, &st, 1);
	/* From a start(), beside which no finish() runs: what that begins would be meant as well. */
	t.more_cancels = 2;
	taker_send(&st, CANCEL, 0);
	stand_back(&st);
	taker_wait_finished(&t, 0, 1);
	usleep(50000);
	assert_int_equal(taker_finished(&t, 0), 1);
	assert_int_equal(t.results[0], -ECANCELED);
	/* What finish() begins is meant by a call from there. */
	pthread_mutex_lock(&t.lock);
	t.cancels_itself = true;
	virtq_engine_cancel(t.reqs[0]);
	pthread_mutex_unlock(&t.lock);
	stand_back(&st);
	assert_int_equal(t.finished[0], 3);
	assert_int_equal(t.results[0], -ECANCELED);
	/* Nothing of it is left to the next request. */
	taker_send(&st, OPERATE, 0);
	taker_wait_begun(&t, &st, 2);
	usleep(20000);
	assert_int_equal(taker_finished(&t, 0), 3);
	assert_int_equal(write(e.empty[1], "x", 1), 1);
	stand_back(&st);
	assert_int_equal(t.results[0], POLLIN);
	stand_close(&st);
	ends_close(&e);
}

/* The operation has ended, finish() was not told yet, and begins another one. */
static void who_comes_too_late_does_not_hit_the_next_operation(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .stepped = true, .drain_ms = 300, .spin = VIRTQ_SPIN_OFF });
	struct virtq_completion done;
	struct taker t;
	struct stand st;

	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 1000000 };
	t.again = 1;
	stand_open_on(&st, engine, s, &t.model);
	taker_send(&st, OPERATE, 0);
	while (virtq_engine_step(engine) == 0)
		;
	assert_int_equal(t.began, 1);
	usleep(5000);			/* it is due */
	t.first.bytes = HOUR_NS;
	virtq_engine_cancel(t.reqs[0]);
	while (virtq_engine_step(engine) == 0)
		;
	assert_int_equal(t.finished[0], 1);
	assert_int_equal(t.results[0], 0);
	assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 0);
	virtq_engine_cancel(t.reqs[0]);
	/* Who sleeps in poll() wakes up. */
	assert_int_equal(poll(&(struct pollfd){ virtq_engine_fd(engine), POLLIN, 0 }, 1, WAIT_MS),
			 1);
	while (virtq_engine_step(engine) == 0)
		;
	assert_int_equal(t.finished[0], 2);
	assert_int_equal(t.results[0], -ECANCELED);
	stand_close(&st);
	virtq_engine_destroy(engine);
}

/* One was taken back; what follows the next one is performed. */
static void what_begins_afterwards_goes_on_to_its_end(void **state)
{
	struct taker t;
	struct stand st;

	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = HOUR_NS };
	t.told = new_eventfd();
	t.again = 1;
	stand_open(&st, *state, &t.model);
	taker_send(&st, OPERATE, 0);
	taker_wait_begun(&t, &st, 1);
	pthread_mutex_lock(&t.lock);
	t.first.bytes = 1000000;
	t.linked = true;
	virtq_engine_cancel(t.reqs[0]);
	pthread_mutex_unlock(&t.lock);
	assert_int_equal(poll(&(struct pollfd){ t.told, POLLIN, 0 }, 1, WAIT_MS), 1);
	next_round(&st);
	assert_int_equal(taker_finished(&t, 0), 1);
	cancel_from_here(&t, 0);
	stand_back(&st);
	assert_int_equal(t.finished[0], 2);
	assert_int_equal(t.last, VIRTQ_OP_TIMEOUT);
	stand_close(&st);
	close(t.told);
}

static void what_is_held_is_the_models_affair(void **state)
{
	struct taker t;
	struct stand st;

	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 50000000 };
	stand_open(&st, *state, &t.model);
	taker_send(&st, HOLD, 0);
	taker_wait_begun(&t, &st, 1);
	cancel_from_here(&t, 0);
	usleep(50000);
	assert_int_equal(taker_finished(&t, 0), 0);
	/* What it goes on with is not meant either. */
	virtq_engine_complete(t.reqs[0], GOES_ON);
	stand_back(&st);
	assert_int_equal(t.results[0], 0);
	stand_close(&st);
}

/* Operations that wait for a credit leave the line, in front, in the middle and at the end. */
static void who_waits_for_a_credit_waits_no_longer(void **state)
{
	static const unsigned int taken[] = { 40, 32, 36, 39 };
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .entries = 16, .drain_ms = 300 });	/* 32 credits */
	struct taker t;
	struct stand st;
	struct ends e;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN };
	stand_open_on(&st, engine, s, &t.model);
	for (unsigned int i = 0; i < 42; i++)
		taker_send(&st, HOLD, i);
	taker_wait_begun(&t, &st, 42);
	for (unsigned int i = 0; i < 41; i++) {
		virtq_engine_complete(t.reqs[i], GOES_ON);
		next_round(&st);	/* one after the other */
	}
	assert_int_equal(st.queue->performing, 32);
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int next;

		/* It waits again, at the end, should the model want that. */
		pthread_mutex_lock(&t.lock);
		t.again = i == 1;
		pthread_mutex_unlock(&t.lock);
		cancel_from_here(&t, taken[i]);
		taker_wait_finished(&t, taken[i], 1);
		assert_int_equal(t.results[taken[i]], -ECANCELED);
		next_round(&st);
		assert_int_equal(st.queue->performing, 32);
		next = 0;
		for (const struct engine_slot *slot = st.queue->waits.first; slot; slot = slot->next)
			next++;
		assert_int_equal(next, 41 - 32 - (i + 1) + (i > 0));
		assert_ptr_equal(*st.queue->waits.end, NULL);
	}
	/* One more gets in line, and all of them come to their turn. */
	virtq_engine_complete(t.reqs[41], GOES_ON);
	next_round(&st);
	assert_int_equal(write(e.empty[1], "x", 1), 1);
	for (unsigned int i = 0; i < 42; i++)
		stand_back(&st);
	for (unsigned int i = 0; i < 42; i++)
		assert_int_equal(t.results[i], i == 40 || i == 36 || i == 39 ? -ECANCELED : POLLIN);
	assert_int_equal(t.finished[32], 2);
	assert_int_equal(st.queue->performing, 0);
	stand_close(&st);
	virtq_engine_destroy(engine);
	ends_close(&e);
}

/* First what takes all of the queue's turn, so that the next one has to wait for another. */
static struct virtq_op turn_op(struct taker *t, unsigned int number)
{
	if (t->finished[number])
		return t->first;
	return (struct virtq_op){ .kind = VIRTQ_OP_TURN, .bytes = ENGINE_TURN_BYTES };
}

static void who_waits_for_a_turn_waits_no_longer(void **state)
{
	struct taker t;
	struct stand st;
	struct ends e;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN };
	t.make = turn_op;
	t.again = 1;
	t.cancels_itself = true;
	stand_open(&st, *state, &t.model);
	taker_send(&st, OPERATE, 0);
	stand_back(&st);
	assert_int_equal(t.finished[0], 2);
	assert_int_equal(t.results[0], -ECANCELED);
	assert_int_equal(t.last, VIRTQ_OP_POLL);
	stand_close(&st);
	ends_close(&e);
}

/* ---- Wherever its queue is ---------------------------------------------------- */

static void *pause_thread(void *arg)
{
	struct stand *st = arg;

	return (void *)(intptr_t)virtq_engine_pause(&st->queue, 1, NULL);
}

static void a_queue_that_drains_has_less_to_wait_for(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .drain_ms = 60000 });
	struct virtq_engine_stats stats;
	struct taker t;
	struct stand st;
	struct ends e;
	pthread_t thread;
	void *rc;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN };
	stand_open_on(&st, engine, s, &t.model);
	for (unsigned int i = 0; i < 8; i++)
		taker_send(&st, OPERATE, i);
	taker_wait_begun(&t, &st, 8);
	assert_int_equal(pthread_create(&thread, NULL, pause_thread, &st), 0);
	usleep(20000);
	for (unsigned int i = 0; i < 8; i++)
		cancel_from_here(&t, i);
	assert_int_equal(pthread_join(thread, &rc), 0);
	assert_null(rc);		/* none of them was cancelled by the pause */
	for (unsigned int i = 0; i < 8; i++)
		stand_back(&st);
	virtq_engine_queue_stats(st.queue, &stats);
	assert_int_equal(stats.cancelled, 0);
	assert_int_equal(stats.failed, 8);
	virtq_engine_resume(st.queue);
	stand_close(&st);
	virtq_engine_destroy(engine);
	ends_close(&e);
}

/* It was on its way to another engine when the call was seen: it does not begin there. */
static void what_leaves_is_taken_back_as_well(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *from = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .stepped = true, .drain_ms = 300, .spin = VIRTQ_SPIN_OFF });
	struct virtq_engine *to = engine_of(s->kind, 0, 0);
	struct taker t;
	struct stand st;
	struct ends e;

	ends_open(&e);
	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e.empty[0], .flags = POLLIN };
	stand_open_on(&st, from, s, &t.model);
	taker_send(&st, OPERATE, 0);
	while (virtq_engine_step(from) == 0)
		;
	assert_int_equal(t.began, 1);
	virtq_engine_cancel(t.reqs[0]);
	assert_int_equal(virtq_engine_move(st.queue, to), 0);
	stand_back(&st);
	assert_int_equal(t.results[0], -ECANCELED);
	assert_int_equal(t.finished[0], 1);
	stand_close(&st);
	virtq_engine_destroy(from);
	virtq_engine_destroy(to);
	ends_close(&e);
}

/* The kernel refuses everything: what waits for a clock can be taken back, the rest has failed. */
static void an_engine_that_failed_takes_back_what_it_has(void **state)
{
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = VIRTQ_ENGINE_URING, .drain_ms = 300, .forbid = VIRTQ_USE_RING_FD });
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct taker t;
	struct stand st;

	taker_init(&t);
	t.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = HOUR_NS };
	stand_open_on(&st, engine, *state, &t.model);
	taker_send(&st, OPERATE, 0);
	taker_wait_begun(&t, &st, 1);
	assert_true(dup3(null, engine->uring->ring.ring_fd, O_CLOEXEC) >= 0);
	for (unsigned int ms = 0; !virtq_engine_error(engine); ms++) {
		assert_true(ms < WAIT_MS);
		next_round(&st);
		usleep(1000);
	}
	assert_int_equal(taker_finished(&t, 0), 0);
	cancel_from_here(&t, 0);
	stand_back(&st);
	assert_int_equal(t.results[0], -ECANCELED);
	stand_close(&st);
	virtq_engine_destroy(engine);
	close(null);
}

/* ---- Who is first? -------------------------------------------------------------- */

struct race {
	struct taker t;
	struct stand st;
	struct virtq_engine *engines[2];
	bool pauses, moves, reads, stop;
	int event, pipe[2];
	unsigned int cancels;
};

/* Operations of different kinds that end after very little time, or not by themselves. */
static struct virtq_op race_op(struct taker *t, unsigned int number)
{
	const struct race *r = (const struct race *)(const void *)t;

	if (r->reads && number % 4 == 3)
		return (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = r->pipe[0] };
	if (number % 3 == 0)
		return (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = r->event, .flags = POLLIN };
	return (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT,
				  .bytes = number % 3 == 1 ? HOUR_NS : number * 2000 };
}

static void *cancel_thread(void *arg)
{
	struct race *r = arg;
	unsigned int random = 1;

	while (!__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST)) {
		random = random * 1103515245 + 12345;
		pthread_mutex_lock(&r->t.lock);
		if (r->t.reqs[(random >> 16) % REQS]) {
			virtq_engine_cancel(r->t.reqs[(random >> 16) % REQS]);
			r->cancels++;
		}
		pthread_mutex_unlock(&r->t.lock);
		if (!(random >> 16 & 15))
			sched_yield();
	}
	return NULL;
}

static void *move_thread(void *arg)
{
	struct race *r = arg;

	for (unsigned int i = 1; !__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST); i++) {
		if (r->moves)
			assert_int_equal(virtq_engine_move(r->st.queue, r->engines[i % 2]), 0);
		if (r->pauses) {
			virtq_engine_pause(&r->st.queue, 1, NULL);
			virtq_engine_resume(r->st.queue);
		}
		usleep(300);
	}
	return NULL;
}

/* Each request ends, exactly once, and with a result that can be. */
static void race(const struct setting *s, unsigned int requests, bool moves, bool pauses)
{
	static struct race r;
	pthread_t canceller, mover;
	struct virtq_completion done;
	unsigned int sent = 0, back = 0, came_first = 0, number;
	uint64_t one = 1;

	memset(&r, 0, sizeof(r));
	taker_init(&r.t);
	r.t.make = race_op;
	r.moves = moves;
	r.pauses = pauses;
	r.reads = s->kind == VIRTQ_ENGINE_URING && !moves;
	assert_int_equal(pipe2(r.pipe, O_CLOEXEC), 0);
	r.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned int i = 0; i < 2; i++)	/* the other kind on the other one */
		r.engines[i] = engine_with(&(struct virtq_engine_config){
			.kind = i && moves ? VIRTQ_ENGINE_SYNC : s->kind, .entries = 16,
			.drain_ms = 20 });
	stand_open_on(&r.st, r.engines[0], s, &r.t.model);
	assert_int_equal(pthread_create(&canceller, NULL, cancel_thread, &r), 0);
	if (moves || pauses)
		assert_int_equal(pthread_create(&mover, NULL, move_thread, &r), 0);
	for (; sent < REQS; sent++)
		taker_send(&r.st, OPERATE, sent);
	while (back < requests) {
		/* Sometimes what is polled for comes, and goes again. */
		if (back % 7 == 0)
			assert_int_equal(write(r.event, &one, sizeof(one)), sizeof(one));
		while (virtq_driver_get(r.st.pair.driver, &done, 1) != 1)
			assert_int_equal(virtq_notify_wait(r.st.call, WAIT_MS), 1);
		if (back % 7 == 3)
			assert_int_equal(read(r.event, &one, sizeof(one)), sizeof(one));
		if (r.reads && back % 7 == 5)
			assert_int_equal(write(r.pipe[1], "0123456789", 10), 10);
		back++;
		pthread_mutex_lock(&r.t.lock);
		for (number = 0; number < REQS && r.t.finished[number] == 0; number++)
			;
		assert_int_not_equal(number, REQS);
		assert_int_equal(r.t.finished[number], 1);
		if (r.t.results[number] != -ECANCELED) {
			bool reads = r.reads && number % 4 == 3;

			assert_int_equal(r.t.results[number],
					 reads ? 10 : number % 3 ? 0 : POLLIN);
			assert_true(reads || number % 3 != 1);
			came_first++;
		}
		r.t.finished[number] = 0;
		pthread_mutex_unlock(&r.t.lock);
		if (sent < requests) {
			taker_send(&r.st, OPERATE, number);
			sent++;
		}
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(canceller, NULL);
	if (moves || pauses)
		pthread_join(mover, NULL);
	assert_int_equal(r.t.all_finished, requests);
	assert_int_not_equal(r.cancels, 0);
	print_message("%u ended by themselves, %u were taken back by %u calls\n", came_first,
		      requests - came_first, r.cancels);
	stand_close(&r.st);
	for (unsigned int i = 0; i < 2; i++)
		virtq_engine_destroy(r.engines[i]);
	close(r.event);
	close(r.pipe[0]);
	close(r.pipe[1]);
}

static void each_ends_once_whoever_is_first(void **state)
{
	race(*state, 50000, false, false);
}

static void each_ends_once_while_its_queue_moves(void **state)
{
	race(*state, 10000, true, false);
}

static void each_ends_once_while_its_queue_pauses(void **state)
{
	race(*state, 4000, false, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(every_kind_is_taken_back_from_everywhere),
		ON(uring_split, half_a_read_ends_where_it_came_to),
		ON(uring_packed, half_a_read_ends_where_it_came_to),
		ON_ENGINES(what_ends_by_itself_is_told_as_it_went),
		ON_ENGINES(twice_is_once_and_the_next_one_stays),
		ON_ENGINES(who_comes_too_late_does_not_hit_the_next_operation),
		ON_ENGINES(what_begins_afterwards_goes_on_to_its_end),
		ON_ENGINES(what_is_held_is_the_models_affair),
		ON_ENGINES(who_waits_for_a_credit_waits_no_longer),
		ON_ENGINES(who_waits_for_a_turn_waits_no_longer),
		ON_ENGINES(a_queue_that_drains_has_less_to_wait_for),
		ON_ENGINES(what_leaves_is_taken_back_as_well),
		ON(uring_split_event, an_engine_that_failed_takes_back_what_it_has),
		ON_ENGINES(each_ends_once_whoever_is_first),
		ON_ENGINES(each_ends_once_while_its_queue_moves),
		ON_ENGINES(each_ends_once_while_its_queue_pauses),
	};

	return cmocka_run_group_tests_name("engine cancel", tests, NULL, NULL) ? 1 : 0;
}
