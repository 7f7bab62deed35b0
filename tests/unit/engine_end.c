/* SPDX-License-Identifier: MIT */
/* Queues that pause, are reset or taken away, with requests in flight that do not end. */
#include "endless.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "engine/engine.h"

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

/* ---- What does not end by itself ----------------------------------------- */

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

/* ---- Kicks of queues at rest --------------------------------------------- */

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
		ON_ENGINES(a_queue_at_rest_leaves_kicks_alone),
		ON(sync_packed_event, a_kick_that_cannot_be_heard_breaks_the_queue),
	};

	return cmocka_run_group_tests_name("engine end", tests, NULL, NULL) ? 1 : 0;
}
