/* SPDX-License-Identifier: MIT */
/* Queues that pause, move, are reset or taken away, with requests in flight that do not end. */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/shm.h"
#include "engine/engine.h"

#define DRAIN_MS 300u

static const struct setting *const kinds[] = { &uring_split_event, &sync_packed_event };

static struct virtq_engine *engine_draining(enum virtq_engine_kind kind, uint32_t drain_ms)
{
	return engine_with(&(struct virtq_engine_config){ .kind = kind, .drain_ms = drain_ms });
}

/* ---- Pause and resume -------------------------------------------------------- */

static void pause_takes_nothing_and_says_where(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	for (unsigned int round = 0; round < 50; round++) {
		uint32_t position;
		uint64_t before;

		lane_run(&l, 16, 20);
		lane_fill(&l, 40, l.sent + 40);
		assert_int_equal(virtq_engine_pause(&l.queue, 1, &position), 0);
		/* What it took came back; what it did not take stays untaken. */
		lane_reap(&l);
		virtq_engine_queue_stats(l.queue, &stats);
		assert_int_equal(stats.requests, l.done);
		if (!s->shape.packed)	/* split: the free-running index is the count */
			assert_int_equal(position, (uint16_t)l.done);
		before = l.done;
		lane_fill(&l, 60, l.sent + 10);
		if (round == 0) {
			usleep(20000);
			assert_idle();
		}
		assert_int_equal(lane_reap(&l), 0);
		/* Looked at at once, whether or not a kick comes. */
		virtq_notify_clear(l.kick_fd);
		virtq_engine_resume(l.queue);
		while (l.done < l.sent)
			lane_wait(&l);
		assert_true(l.done > before);
	}
	/* A paused queue can be removed, and one that is not paused resumed. */
	virtq_engine_resume(l.queue);
	lane_run(&l, 4, 20);
	assert_int_equal(virtq_engine_pause(&l.queue, 1, NULL), 0);
	lane_end(&l, engine, &disk);
}

/* Disks in the middle of writing, with requests that never end: one deadline for all of them. */
static void many_pause_at_the_same_time(void **state)
{
	enum { QUEUES = 10 };
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_draining(s->kind, DRAIN_MS);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct virtq_engine_queue *queues[QUEUES];
	struct stand st[QUEUES];
	struct chain c = { .readable = 0 };
	uint64_t start;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	model.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = fds[0], .flags = POLLIN };
	chain_writable(&c, 0, 1);
	for (unsigned int i = 0; i < QUEUES; i++) {
		stand_open_on(&st[i], engine, s, &model.model);
		queues[i] = st[i].queue;
		stand_send(&st[i], &c);
	}
	usleep(20000);
	start = now_ms();
	assert_int_equal(virtq_engine_pause(queues, QUEUES, NULL), 1);
	assert_in_range(now_ms() - start, DRAIN_MS, 5 * DRAIN_MS);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(stand_back(&st[i]), 0);
	/* They go on as if nothing had happened. */
	assert_int_equal(write(fds[1], "x", 1), 1);
	for (unsigned int i = 0; i < QUEUES; i++) {
		virtq_engine_resume(queues[i]);
		stand_do(&st[i], &c);
		stand_close(&st[i]);
	}
	assert_int_equal(model.result, POLLIN);
	virtq_engine_destroy(engine);
	close(fds[0]);
	close(fds[1]);
}

/* ---- What does not end by itself --------------------------------------------- */

/* Requests of every kind that can wait for ever; each queue is of one kind. */
struct endless {
	struct scripted read, poll, timeout;
	struct holder hold;
	struct stand st[4];
	unsigned int count;
	int fds[2];
};

#define EACH 3u		/* requests of each kind */

static void endless_send(struct stand *st)
{
	for (unsigned int i = 0; i < EACH; i++) {
		struct chain c = { .readable = 0 };
		uint64_t ns = 3600 * (uint64_t)1000000000;

		memcpy(st->pair.data + 64 * i, &ns, sizeof(ns));
		chain_readable(&c, 64 * i, sizeof(ns));
		chain_writable(&c, 64 * i + 16, 4);
		stand_send(st, &c);
	}
}

static void endless_open(struct endless *e, struct virtq_engine *engine, const struct setting *s)
{
	memset(e, 0, sizeof(*e));
	assert_int_equal(pipe2(e->fds, O_CLOEXEC), 0);
	e->read.model.ops = e->poll.model.ops = e->timeout.model.ops = &scripted_ops;
	e->read.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = e->fds[0] };
	e->poll.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e->fds[0],
					   .flags = POLLIN };
	e->timeout.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	holder_init(&e->hold);
	stand_open_on(&e->st[e->count++], engine, s, &e->poll.model);
	stand_open_on(&e->st[e->count++], engine, s, &e->timeout.model);
	stand_open_on(&e->st[e->count++], engine, s, &e->hold.model);
	/* The other engine would wait in read(2) for ever, as it says. */
	if (s->kind == VIRTQ_ENGINE_URING)
		stand_open_on(&e->st[e->count++], engine, s, &e->read.model);
	for (unsigned int i = 0; i < e->count; i++)
		endless_send(&e->st[i]);
	holder_wait(&e->hold, EACH);
	usleep(50000);
}

static void endless_close(struct endless *e)
{
	for (unsigned int i = 0; i < e->count; i++)
		stand_close(&e->st[i]);
	close(e->fds[0]);
	close(e->fds[1]);
}

static void remove_does_not_wait_for_ever(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_draining(s->kind, DRAIN_MS);
	struct endless e;

	endless_open(&e, engine, s);
	for (unsigned int i = 0; i < e.count; i++) {
		struct virtq_engine_stats final;
		struct stand *st = &e.st[i];
		uint64_t start = now_ms();

		st->pair.device = engine_remove_stats(st->queue, false, &final);
		st->queue = NULL;
		assert_in_range(now_ms() - start, DRAIN_MS, 10 * DRAIN_MS);
		assert_int_equal(final.requests, EACH);
		assert_int_equal(final.cancelled, EACH);
		assert_int_equal(virtq_device_in_flight(st->pair.device), 0);
		for (unsigned int n = 0; n < EACH; n++)
			assert_int_equal(stand_back(st), 0);
	}
	assert_int_equal(e.poll.result, -ECANCELED);
	assert_int_equal(e.timeout.result, -ECANCELED);
	assert_int_equal(e.hold.result, -ECANCELED);
	assert_int_equal(e.hold.cancelled, EACH);
	endless_close(&e);
	virtq_engine_destroy(engine);
}

/* ---- Models that do not want to end -------------------------------------------- */

struct stubborn {
	struct virtq_model model;
	bool holds;
	int finished;		/* atomic */
};

static enum virtq_verdict stubborn_again(struct stubborn *s, struct virtq_op *op)
{
	/* An hour, and then another one. */
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 3600000000000u };
	return s->holds ? VIRTQ_HOLD : VIRTQ_SUBMIT;
}

static enum virtq_verdict stubborn_start(struct virtq_model *model, struct virtq_req *req,
					 struct virtq_op *op)
{
	virtq_req_write(req, "x", 1);
	return stubborn_again((struct stubborn *)(void *)model, op);
}

static enum virtq_verdict stubborn_finish(struct virtq_model *model, struct virtq_req *req,
					  struct virtq_op *op, int64_t result)
{
	struct stubborn *s = (struct stubborn *)(void *)model;

	(void)req;
	(void)result;
	__atomic_fetch_add(&s->finished, 1, __ATOMIC_SEQ_CST);
	return stubborn_again(s, op);
}

static void stubborn_cancel(struct virtq_model *model, struct virtq_req *req)
{
	(void)model;
	virtq_engine_complete(req, -ECANCELED);
}

static const struct virtq_model_ops stubborn_ops = {
	.name = "stubborn", .req_bytes = sizeof(struct virtq_req), .start = stubborn_start,
	.finish = stubborn_finish, .cancel = stubborn_cancel,
};

/* It has its chances; then it is not asked any more, and what it still holds is over as it ends. */
static void a_model_cannot_keep_a_queue(void **state)
{
	const struct setting *s = *state;

	for (unsigned int round = 0; round < 4; round++) {
		struct stubborn model = { .model = { .ops = &stubborn_ops },
					  .holds = round & 1 };
		struct stand st;

		stand_open(&st, s, &model.model);
		stand_send_holds(&st, 1);
		usleep(20000);
		if (round & 2) {
			st.pair.device = virtq_engine_reset(st.queue);
			st.queue = NULL;
		} else {
			assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 1);
			assert_int_equal(stand_back(&st), 0);
		}
		assert_in_range(model.finished, 2, 100);
		stand_close(&st);
	}
}

/* A reset waits for nothing, gives nothing back, and leaves nothing behind. */
static void reset_forgets_what_is_in_flight(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_draining(s->kind, 60000);
	struct virtq_completion done;
	struct endless e;

	endless_open(&e, engine, s);
	for (unsigned int i = 0; i < e.count; i++) {
		struct stand *st = &e.st[i];
		uint64_t start = now_ms();

		st->pair.device = virtq_engine_reset(st->queue);
		st->queue = NULL;
		assert_true(now_ms() - start < 5000);
		assert_int_equal(virtq_device_in_flight(st->pair.device), EACH);
		assert_int_equal(virtq_driver_get(st->pair.driver, &done, 1), 0);
		assert_int_equal(virtq_notify_wait(st->call, 0), 0);
	}
	assert_int_equal(e.poll.finished, EACH);	/* the model knows that they are over */
	assert_int_equal(e.timeout.finished, EACH);
	assert_int_equal(e.hold.finished, EACH);
	/* What comes now is read by nobody: the kernel has let go of the memory. */
	assert_int_equal(write(e.fds[1], "0123456789abcdef", 16), 16);
	usleep(20000);
	for (unsigned int i = 0; i < e.count; i++)
		assert_int_equal(e.st[i].pair.data[16], 0);
	endless_close(&e);
	virtq_engine_destroy(engine);
}

/* A request whose operation was cut short is not continued, and its next one not begun. */
static void cancelled_operations_are_not_continued(void **state)
{
	struct virtq_engine *engine = engine_draining(VIRTQ_ENGINE_URING, DRAIN_MS);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	model.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fds[0] };
	model.then[0] = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .fd = fds[1] };
	model.then_count = 1;
	stand_open_on(&st, engine, *state, &model.model);
	memcpy(st.pair.data, "xyz", 3);
	chain_readable(&c, 0, 3);
	chain_writable(&c, 16, 4);
	stand_send(&st, &c);
	assert_int_equal(write(fds[1], "ab", 2), 2);
	usleep(20000);
	st.pair.device = virtq_engine_remove(st.queue);
	st.queue = NULL;
	assert_int_equal(stand_back(&st), 2);	/* what did come is reported */
	assert_int_equal(model.result, -ECANCELED);
	assert_int_equal(model.last.kind, VIRTQ_OP_READ);
	assert_int_equal(poll(&(struct pollfd){ fds[0], POLLIN, 0 }, 1, 0), 0);
	stand_close(&st);
	virtq_engine_destroy(engine);
	close(fds[0]);
	close(fds[1]);
}

/* ---- Moving ------------------------------------------------------------------ */

struct mover {
	struct lane *lane;
	bool over;
};

static void *mover_lane(void *arg)
{
	struct mover *m = arg;

	lane_run(m->lane, 24, 6000);
	__atomic_store_n(&m->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* From engine to engine, of both kinds, while requests run and are checked. */
static void queues_move_under_load(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engines[3];
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;
	struct mover m = { &l, false };
	unsigned int moves = 0;
	pthread_t thread;

	for (unsigned int i = 0; i < 3; i++)
		engines[i] = engine_of(kinds[i % 2]->kind, i == 2 ? 2 : 0, s->spin_us);
	disk_open(&disk, false, 1);
	lane_open(&l, engines[0], &disk, &s->shape, new_eventfd(), new_eventfd());
	assert_int_equal(pthread_create(&thread, NULL, mover_lane, &m), 0);
	while (!__atomic_load_n(&m.over, __ATOMIC_SEQ_CST)) {
		assert_int_equal(virtq_engine_move(l.queue, engines[++moves % 3]), 0);
		usleep(200 * (moves % 5));
	}
	pthread_join(thread, NULL);
	assert_true(moves > 3);
	assert_int_equal(virtq_engine_move(l.queue, engines[moves % 3]), 0);	/* where it is */
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.requests, 6000);
	assert_int_equal(stats.failed, 0);
	/* Nothing of it stays behind. */
	for (unsigned int i = 0; i < 3; i++)
		if (i != moves % 3)
			virtq_engine_destroy(engines[i]);
	lane_run(&l, 8, 100);
	lane_close(&l);
	virtq_engine_destroy(engines[moves % 3]);
	disk_close(&disk);
}

/* Requests in flight go on elsewhere: polls, timeouts, reads, and what the model holds. */
static void what_is_in_flight_moves_along(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *from = engine_draining(s->kind, DRAIN_MS);
	/* Reads of a pipe must not come to the engine that would wait for them. */
	struct virtq_engine *to = engine_draining(s->kind, DRAIN_MS);
	struct endless e;

	endless_open(&e, from, s);
	for (unsigned int i = 0; i < e.count; i++) {
		assert_int_equal(virtq_engine_move(e.st[i].queue, to), 0);
		assert_int_equal(virtq_notify_wait(e.st[i].call, WAIT_MS), 1);	/* in case */
		assert_int_equal(virtq_driver_in_flight(e.st[i].pair.driver), EACH);
	}
	virtq_engine_destroy(from);
	usleep(20000);
	assert_idle();
	/* Held: completed at the new engine. */
	for (unsigned int i = 0; i < EACH; i++)
		virtq_engine_complete(holder_take(&e.hold), 77);
	for (unsigned int i = 0; i < EACH; i++)
		assert_int_equal(stand_back(&e.st[2]), 2);
	/* Polled. */
	assert_int_equal(write(e.fds[1], "0123456789ab", 4 * EACH), 4 * EACH);
	for (unsigned int i = 0; i < EACH; i++)
		assert_int_equal(stand_back(&e.st[0]), 0);
	assert_int_equal(e.poll.result, POLLIN);
	/* Read. */
	for (unsigned int i = 0; e.count > 3 && i < EACH; i++)
		assert_int_equal(stand_back(&e.st[3]), 4);
	/* The timeouts are an hour; they end with their queue. */
	endless_close(&e);
	assert_int_equal(e.timeout.result, -ECANCELED);
	virtq_engine_destroy(to);
}

/* A timeout is due when it was due. */
static void clocks_go_on_while_moving(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engines[2];
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	const uint64_t ns = 400000000;
	struct stand st;
	uint64_t start;

	for (unsigned int i = 0; i < 2; i++)
		engines[i] = engine_draining(kinds[i]->kind, DRAIN_MS);
	model.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	stand_open_on(&st, engines[0], s, &model.model);
	memcpy(st.pair.data, &ns, sizeof(ns));
	chain_readable(&c, 0, sizeof(ns));
	start = now_ms();
	stand_send(&st, &c);
	for (unsigned int i = 0; i < 10; i++) {
		usleep(20000);
		assert_int_equal(virtq_engine_move(st.queue, engines[(i + 1) % 2]), 0);
	}
	stand_back(&st);
	assert_in_range(now_ms() - start, 400, 1500);
	assert_int_equal(model.result, 0);
	stand_close(&st);
	virtq_engine_destroy(engines[0]);
	virtq_engine_destroy(engines[1]);
}

/* The model's threads end requests while nobody, or somebody else, has the queue. */
static void held_requests_end_while_moving(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engines[2];
	struct holder h;
	struct stand st;

	for (unsigned int i = 0; i < 2; i++)
		engines[i] = engine_draining(kinds[i]->kind, DRAIN_MS);
	holder_init(&h);
	holder_start(&h);
	stand_open_on(&st, engines[0], s, &h.model);
	for (unsigned int i = 0; i < 300; i++) {
		stand_send_holds(&st, 16);
		assert_int_equal(virtq_engine_move(st.queue, engines[(i + 1) % 2]), 0);
		for (unsigned int n = 0; n < 16; n++)
			assert_int_equal(stand_back(&st), 2);
	}
	stand_close(&st);
	holder_stop(&h);
	assert_int_equal(h.wrong, 0);
	assert_int_equal(h.finished, 300 * 16);
	virtq_engine_destroy(engines[0]);
	virtq_engine_destroy(engines[1]);
}

static void a_paused_queue_moves_and_stays_paused(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *one = engine_of(s->kind, 0, 0), *other = engine_of(s->kind, 0, 0);
	struct disk disk;
	struct lane l;

	disk_open(&disk, false, 1);
	lane_open(&l, one, &disk, &s->shape, new_eventfd(), new_eventfd());
	lane_run(&l, 4, 50);
	assert_int_equal(virtq_engine_pause(&l.queue, 1, NULL), 0);
	assert_int_equal(virtq_engine_move(l.queue, other), 0);
	lane_fill(&l, 4, l.sent + 4);
	usleep(50000);
	assert_int_equal(lane_reap(&l), 0);
	virtq_engine_resume(l.queue);
	while (l.done < l.sent)
		lane_wait(&l);
	lane_close(&l);
	virtq_engine_destroy(one);
	virtq_engine_destroy(other);
	disk_close(&disk);
}

static bool is_readable(int fd)
{
	return poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 0) == 1;
}

/* @fd stays readable for as long as the queue is at rest, and is heard after that. */
static void leave_kick(struct virtq_engine *engine, const struct setting *s, int from, int fd,
		       bool pause)
{
	struct virtq_engine *other = engine_of(s->kind, 0, 0);
	struct virtq_engine_stats before, after;
	struct holder h;
	struct stand st;

	holder_init(&h);
	h.at_once = true;
	stand_open_on(&st, engine, s, &h.model);
	close(st.kick);
	st.kick = fd;
	assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_KICK, dup_of(from)), 0);
	stand_send_holds(&st, 1);
	assert_int_equal(stand_back(&st), 2);
	usleep(20000);
	assert_false(is_readable(from));
	for (unsigned int round = 0; round < 4; round++) {
		if (pause)
			assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 0);
		else
			virtq_engine_queue_enable(st.queue, false);
		if (round == 1)	/* a new one is left alone as well, and so it is elsewhere */
			assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_KICK,
								   dup_of(from)), 0);
		if (round >= 2)
			assert_int_equal(virtq_engine_move(st.queue, round == 2 ? other : engine), 0);
		virtq_engine_queue_stats(st.queue, &before);
		stand_send_holds(&st, 1);
		usleep(20000);
		assert_true(is_readable(from));
		virtq_engine_queue_stats(st.queue, &after);
		assert_int_equal(after.kicks, before.kicks);
		assert_int_equal(after.requests, before.requests);
		if (pause)
			virtq_engine_resume(st.queue);
		else
			virtq_engine_queue_enable(st.queue, true);
		assert_int_equal(stand_back(&st), 2);
		for (unsigned int ms = 0; is_readable(from); ms++) {
			assert_true(ms < WAIT_MS);
			usleep(1000);
		}
		virtq_notify_clear(st.call);
		for (unsigned int i = 0; i < 5; i++) {
			usleep(2000);
			stand_send_holds(&st, 1);
			assert_int_equal(stand_back(&st), 2);
		}
	}
	stand_close(&st);
	virtq_engine_destroy(other);
}

/* Somebody else may serve the driver meanwhile, and wait for the same kicks. */
static void a_queue_at_rest_leaves_kicks_alone(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);

	for (unsigned int way = 0; way < 4; way++) {
		int fds[2] = { new_eventfd(), -1 };

		if (way & 1) {
			close(fds[0]);
			assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		}
		leave_kick(engine, s, fds[0], dup_of(fds[way & 1]), way & 2);
		close(fds[0]);
		if (fds[1] >= 0)
			close(fds[1]);
	}
	virtq_engine_destroy(engine);
}

/* A kick fd that cannot be waited for: the driver would never be heard again. */
static void a_kick_that_cannot_be_heard_breaks_the_queue(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .stepped = true, .spin = VIRTQ_SPIN_OFF });
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), err = new_eventfd();
	struct holder h;
	struct stand st;

	holder_init(&h);
	stand_open_on(&st, engine, s, &h.model);
	assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_ERR, dup_of(err)), 0);
	virtq_engine_queue_enable(st.queue, false);
	assert_int_equal(dup2(file, st.queue->fds[VIRTQ_FD_KICK]), st.queue->fds[VIRTQ_FD_KICK]);
	assert_int_equal(virtq_notify_wait(err, 0), 0);
	virtq_engine_queue_enable(st.queue, true);
	for (unsigned int i = 0; i < 20; i++)
		virtq_engine_step(engine);
	assert_int_equal(virtq_notify_wait(err, 0), 1);
	assert_int_equal(virtq_device_fault(st.queue->ring).code, VIRTQ_FAULT_ENGINE);
	stand_close(&st);
	virtq_engine_destroy(engine);
	close(file);
	close(err);
}

/* Which of several queues go does not matter to those that stay: rooms are kept and reused. */
static void many_queues_change_places(void **state)
{
	enum { QUEUES = 20 };
	const struct setting *s = *state;
	struct virtq_engine *engines[2] = { engine_of(s->kind, 0, 0), engine_of(s->kind, 0, 0) };
	static struct holder h[QUEUES];
	struct stand st[QUEUES];
	unsigned int at[QUEUES] = { 0 };

	for (unsigned int i = 0; i < QUEUES; i++) {
		holder_init(&h[i]);
		h[i].at_once = true;
		stand_open_on(&st[i], engines[0], s, &h[i].model);
	}
	for (unsigned int round = 0; round < 200; round++) {
		unsigned int i = round * 7 % QUEUES;

		at[i] = !at[i];
		assert_int_equal(virtq_engine_move(st[i].queue, engines[at[i]]), 0);
		stand_send_holds(&st[i], 1);
		stand_send_holds(&st[(i + 1) % QUEUES], 1);
		assert_int_equal(stand_back(&st[i]), 2);
		assert_int_equal(stand_back(&st[(i + 1) % QUEUES]), 2);
	}
	for (unsigned int i = 0; i < QUEUES; i++)
		stand_close(&st[i]);
	virtq_engine_destroy(engines[0]);
	virtq_engine_destroy(engines[1]);
}

/* ---- The engine that a queue has left --------------------------------------- */

/* Nothing of it is waited for any more, by nobody: it may be gone. */
static void clocks_do_not_stay_behind(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *one = engine_of(s->kind, 0, 0), *other = engine_of(s->kind, 0, 0);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	const uint64_t ns = 200000000;
	struct chain c = { .readable = 0 };
	struct virtq_completion done;
	struct stand st;
	uint64_t start;

	model.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	stand_open_on(&st, one, s, &model.model);
	memcpy(st.pair.data, &ns, sizeof(ns));
	chain_readable(&c, 0, sizeof(ns));
	start = now_ms();
	stand_send(&st, &c);
	usleep(50000);
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	virtq_engine_destroy(one);
	while (virtq_driver_get(st.pair.driver, &done, 1) != 1) {
		assert_true(now_ms() - start < 5000);
		usleep(1000);
	}
	assert_in_range(now_ms() - start, 200, 5000);
	assert_int_equal(model.result, 0);
	assert_int_equal(model.finished, 1);
	stand_close(&st);
	virtq_engine_destroy(other);
}

static void end_one(struct holder *h, struct stand *st)
{
	struct virtq_completion done;

	virtq_engine_complete(holder_take(h), 77);
	for (unsigned int ms = 0; virtq_driver_get(st->pair.driver, &done, 1) != 1; ms++) {
		assert_true(ms < WAIT_MS);
		usleep(1000);
	}
}

/* A call that waits for others goes out when its queue moves, and later ones wait anew. */
static void calls_that_wait_do_not_stay_behind(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *one = engine_of(s->kind, 0, 0), *other = engine_of(s->kind, 0, 0);
	struct virtq_engine_stats stats;
	struct holder h;
	struct stand st;

	holder_init(&h);
	stand_open_on(&st, one, s, &h.model);
	assert_int_equal(virtq_engine_queue_coalesce(st.queue, 100, 300000), 0);
	stand_send_holds(&st, 3);
	holder_wait(&h, 3);
	end_one(&h, &st);
	assert_int_equal(virtq_notify_wait(st.call, 50), 0);
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	assert_int_equal(virtq_notify_wait(st.call, 5000), 1);
	virtq_notify_clear(st.call);
	virtq_engine_destroy(one);

	end_one(&h, &st);	/* another is in flight: it waits, but not for ever */
	assert_int_equal(virtq_notify_wait(st.call, 50), 0);
	assert_int_equal(virtq_notify_wait(st.call, 5000), 1);
	virtq_notify_clear(st.call);
	end_one(&h, &st);
	assert_int_equal(virtq_notify_wait(st.call, 5000), 1);
	assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 0);
	virtq_engine_queue_stats(st.queue, &stats);
	assert_int_equal(stats.batches, 3);
	assert_int_equal(stats.calls + stats.suppressed + stats.coalesced, stats.batches);
	stand_close(&st);
	virtq_engine_destroy(other);
}

struct one_move {
	struct virtq_engine_queue *queue;
	struct virtq_engine *to;
	int rc;
	bool over;
};

static void *one_move_thread(void *arg)
{
	struct one_move *m = arg;

	m->rc = virtq_engine_move(m->queue, m->to);
	__atomic_store_n(&m->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* What was promised to a queue under way is not given to one that comes meanwhile. */
static void a_promised_room_is_kept(void **state)
{
	enum { ROOMS = 8 };	/* of an engine at first */
	const struct setting *s = *state;
	struct virtq_engine *to = engine_of(s->kind, 0, 0);
	struct virtq_engine *from = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .stepped = true, .spin = VIRTQ_SPIN_OFF });
	static struct holder h[ROOMS + 1];
	struct stand st[ROOMS + 1];
	struct one_move m = { .to = to };
	pthread_t thread;

	for (unsigned int i = 0; i <= ROOMS; i++) {
		holder_init(&h[i]);
		h[i].at_once = true;
	}
	stand_open_on(&st[0], from, s, &h[0].model);
	for (unsigned int i = 1; i < ROOMS; i++)
		stand_open_on(&st[i], to, s, &h[i].model);
	m.queue = st[0].queue;
	assert_int_equal(pthread_create(&thread, NULL, one_move_thread, &m), 0);
	while (!shm_flag_read(&from->mail))	/* promised: it is asked to let go */
		usleep(1000);
	stand_open_on(&st[ROOMS], to, s, &h[ROOMS].model);
	while (!__atomic_load_n(&m.over, __ATOMIC_SEQ_CST))
		virtq_engine_step(from);
	pthread_join(thread, NULL);
	assert_int_equal(m.rc, 0);
	assert_in_range(to->table_size, ROOMS + 1, 4 * ROOMS);
	assert_int_equal(to->promised, 0);
	for (unsigned int i = 0; i <= ROOMS; i++) {
		stand_send_holds(&st[i], 1);
		assert_int_equal(stand_back(&st[i]), 2);
		stand_close(&st[i]);
	}
	virtq_engine_destroy(from);
	virtq_engine_destroy(to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(pause_takes_nothing_and_says_where),
		ON(uring_tiny, pause_takes_nothing_and_says_where),
		ON_ENGINES(many_pause_at_the_same_time),
		ON_ENGINES(remove_does_not_wait_for_ever),
		ON_ENGINES(a_model_cannot_keep_a_queue),
		ON_ENGINES(reset_forgets_what_is_in_flight),
		ON(uring_split_event, cancelled_operations_are_not_continued),
		ON(uring_packed, cancelled_operations_are_not_continued),
		ON_ALL(queues_move_under_load),
		ON(uring_spin, queues_move_under_load),
		ON_ENGINES(what_is_in_flight_moves_along),
		ON_ENGINES(clocks_go_on_while_moving),
		ON_ENGINES(held_requests_end_while_moving),
		ON_ENGINES(a_paused_queue_moves_and_stays_paused),
		ON_ENGINES(a_queue_at_rest_leaves_kicks_alone),
		ON(sync_packed_event, a_kick_that_cannot_be_heard_breaks_the_queue),
		ON_ENGINES(many_queues_change_places),
		ON_ENGINES(clocks_do_not_stay_behind),
		ON_ENGINES(calls_that_wait_do_not_stay_behind),
		ON_ENGINES(a_promised_room_is_kept),
	};

	return cmocka_run_group_tests_name("engine end", tests, NULL, NULL) ? 1 : 0;
}
