/* SPDX-License-Identifier: MIT */
/* Queues that move from engine to engine, with what is in flight, and leave nothing behind. */
#include "endless.h"

#include <poll.h>
#include <unistd.h>

#include "base/shm.h"
#include "engine/engine.h"

static const struct setting *const kinds[] = { &uring_split_event, &sync_packed_event };

/* ---- What moves along ---------------------------------------------------- */

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
		ON_ALL(queues_move_under_load),
		ON(uring_spin, queues_move_under_load),
		ON_ENGINES(what_is_in_flight_moves_along),
		ON_ENGINES(clocks_go_on_while_moving),
		ON_ENGINES(held_requests_end_while_moving),
		ON_ENGINES(a_paused_queue_moves_and_stays_paused),
		ON_ENGINES(many_queues_change_places),
		ON_ENGINES(clocks_do_not_stay_behind),
		ON_ENGINES(calls_that_wait_do_not_stay_behind),
		ON_ENGINES(a_promised_room_is_kept),
	};

	return cmocka_run_group_tests_name("engine move", tests, NULL, NULL) ? 1 : 0;
}
