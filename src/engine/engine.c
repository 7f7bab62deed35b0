/* SPDX-License-Identifier: MIT */
/*
 * The engine: its thread, the loop in it, the box in which other threads leave
 * messages, and how it comes and goes.
 */
#include "engine/engine.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "base/shm.h"
#include "base/thread.h"
#include "mem/guard.h"

#define ENTRIES_DEFAULT 256u
#define ENTRIES_MAX 4096u
#define DRAIN_MS_DEFAULT 5000u
#define FAILED_STEP_MS 20
#define SPIN_US_DEFAULT 50u
#define SPIN_US_MAX 1000000u

static bool turn_once(struct virtq_engine *e, bool sleep);

/* ---- The box ------------------------------------------------------------- */

void engine_answer(struct virtq_engine *e, struct engine_msg *msg, int result)
{
	pthread_mutex_lock(&e->lock);
	msg->result = result;
	msg->answered = true;
	/* The message is on the stack of a thread that may return from now on. */
	pthread_cond_broadcast(&e->answered);
	pthread_mutex_unlock(&e->lock);
	/* Who turns the engine while waiting for this must not sleep any more. */
	e->turn_first |= e->config.stepped != 0;
}

static bool on_own_thread(const struct virtq_engine *e)
{
	return pthread_equal(pthread_self(), e->thread);
}

void engine_wake(struct virtq_engine *e)
{
	/* [E] full: after the store of what is new; pairs with [E] in may_sleep(). */
	shm_fence_full();
	if (shm_flag_read(&e->sleeping))
		virtq_notify_send(e->wake_fd);
}

void engine_send(struct virtq_engine *e, struct engine_msg *msg)
{
	VIRTQ_ASSERT(!on_own_thread(e) || (e->config.stepped && !e->turning));
	msg->next = NULL;
	msg->answered = false;
	pthread_mutex_lock(&e->lock);
	*e->box_end = msg;
	e->box_end = &msg->next;
	shm_flag_write(&e->mail, true);
	pthread_mutex_unlock(&e->lock);
	engine_wake(e);
}

int engine_await(struct virtq_engine *e, struct engine_msg *msg)
{
	/* Nobody else would act on it. */
	while (e->config.stepped && on_own_thread(e) && !msg->answered)
		turn_once(e, true);
	pthread_mutex_lock(&e->lock);
	while (!msg->answered)
		pthread_cond_wait(&e->answered, &e->lock);
	pthread_mutex_unlock(&e->lock);
	return msg->result;
}

int engine_post(struct virtq_engine *e, struct engine_msg *msg)
{
	engine_send(e, msg);
	return engine_await(e, msg);
}

static void read_box(struct virtq_engine *e)
{
	struct engine_msg *msg, *next;

	if (UNLIKELY(e->deferred))
		life_try_deferred(e);
	if (LIKELY(!shm_flag_read(&e->mail)))
		return;
	pthread_mutex_lock(&e->lock);
	msg = e->box;
	e->box = NULL;
	e->box_end = &e->box;
	shm_flag_write(&e->mail, false);
	pthread_mutex_unlock(&e->lock);
	e->now_ns = 0;
	for (; msg; msg = next) {
		next = msg->next;
		life_act(e, msg);
	}
}

/* ---- The loop ------------------------------------------------------------ */

/*
 * Nothing to do, but no sleep either. The kernel may need this very core to
 * perform what it was given: a worker that waits for us to stop polling would
 * cost each such request the whole spin. Otherwise leave the core to its other
 * half for a moment.
 */
static void relax(struct virtq_engine *e)
{
	if (e->performing) {
		sched_yield();
		e->now_ns = 0;
		return;
	}
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* Finish what has completed so far; what is staged meanwhile completes later. */
static bool finish_completed(struct virtq_engine *e)
{
	struct engine_slot *slot = e->completed, *next;

	if (!slot)
		return false;
	e->completed = NULL;
	e->completed_end = &e->completed;
	for (; slot; slot = next) {
		next = slot->next;
		queue_finish(slot);
	}
	e->now_ns = 0;
	return true;
}

/* The first queue is the last of the next round: what all of them want is not always its. */
static void rotate_queues(struct virtq_engine *e)
{
	struct virtq_engine_queue *first = e->queues, **end = &e->queues;

	while (*end)
		end = &(*end)->next;
	*end = first;
	e->queues = first->next;
	first->next = NULL;
}

/* One look at every queue. Returns true if there is more to do at once. */
static bool serve_queues(struct virtq_engine *e, bool *worked)
{
	struct virtq_engine_queue *q, *next;
	bool more = false;

	if (UNLIKELY(guard_epoch() != e->guard_epoch)) {
		e->guard_epoch = guard_epoch();
		for (q = e->queues; q; q = q->next)
			queue_check_memory(q);
	}
	if (UNLIKELY(e->hungry > 1))
		rotate_queues(e);
	for (q = e->queues; q; q = next) {
		uint64_t before = q->stats.requests + q->in_flight;

		next = q->next;
		if (q->kicked && !queue_kicks_rest(q)) {
			q->kicked = false;
			e->io->drain(e, q);
		}
		*worked |= queue_finish_held(q);
		more |= queue_serve(q);
		*worked |= q->stats.requests + q->in_flight != before;
		queue_publish(q);
		if (UNLIKELY(q->ending) && life_end(e, q))
			continue;	/* q may be gone */
		e->io->watch(e, q);
		if (q->stats_changed)
			queue_show_stats(q);
	}
	return more;
}

/* Is there a queue to be looked at all the time? Then this thread cannot sleep. */
static bool must_poll(const struct virtq_engine *e)
{
	for (const struct virtq_engine_queue *q = e->queues; q; q = q->next)
		if ((q->fds[VIRTQ_FD_KICK] < 0 || e->config.spin == VIRTQ_SPIN_ALWAYS) &&
		    q->enabled && !q->broken && q->phase == QUEUE_TURNS)
			return true;
	return false;
}

/*
 * Ask every driver for a kick. Returns false if one has published meanwhile:
 * then sleeping would be wrong ([C], in virtq_device_arm()).
 */
static bool arm_queues(struct virtq_engine *e)
{
	bool quiet = true;

	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		if (q->armed || q->blocked || q->broken || !q->enabled || q->phase != QUEUE_TURNS)
			continue;
		q->armed = true;
		q->disarmed = false;
		if (virtq_device_arm(q->ring))
			quiet = false;
	}
	return quiet;
}

/* It slept for its operations: who looks at the rings from here on needs no kicks. */
static void disarm_queues(struct virtq_engine *e)
{
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		if (!q->armed || q->broken || !q->enabled || q->phase != QUEUE_TURNS)
			continue;
		virtq_device_disarm(q->ring);
		q->armed = false;
		q->disarmed = true;
	}
}

static void count_sleep(struct virtq_engine *e)
{
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		q->stats.sleeps++;
		queue_show_stats(q);
	}
}

/* Say that this thread is going to sleep. Returns false if it must not, for there is news. */
static bool may_sleep(struct virtq_engine *e)
{
	shm_flag_write(&e->sleeping, true);
	/* [E] full: before the loads of what is new; pairs with [E] in engine_wake(). */
	shm_fence_full();
	if (shm_flag_read(&e->mail))
		return false;
	for (const struct virtq_engine_queue *q = e->queues; q; q = q->next)
		if (shm_flag_read(&q->news))
			return false;
	return true;
}

static bool gives_up(const struct virtq_engine *e)
{
	return UNLIKELY(e->failed) && e->io != &failed_io;
}

/*
 * Do what there is to do, then sleep if that is allowed. Returns true if it slept,
 * or could have; false if there may be more to do at once.
 */
static bool turn_round(struct virtq_engine *e, bool sleep)
{
	bool worked, arrived, more, polls, quiet;

	shm_flag_write(&e->sleeping, false);
	if (UNLIKELY(gives_up(e)))
		engine_give_up(e);
	if (UNLIKELY(timers_any(e)))
		timers_run(e);		/* may be what a deferred message waits for */
	read_box(e);
	if (e->quit)
		return true;
	worked = finish_completed(e);
	if (UNLIKELY(e->spin.makes_way) && worked)
		disarm_queues(e);
	arrived = false;
	more = serve_queues(e, &arrived);
	worked |= arrived;
	/* The sync engine has completions already; a new map may have waited for some. */
	more |= e->completed != NULL || (worked && e->deferred);

	if (worked)
		spin_worked(e, arrived);
	if (more || e->turn_first) {
		e->turn_first = false;
		e->io->turn(e, TURN_ON);
		return false;
	}
	polls = must_poll(e);
	if (polls)
		e->now_ns = 0;	/* nobody looks at the clock meanwhile */
	if (polls || spin_goes_on(e)) {
		if (!worked && sleep)
			relax(e);
		e->io->turn(e, TURN_ON);
		return false;
	}
	if (!arm_queues(e) || !may_sleep(e))
		return false;
	count_sleep(e);
	quiet = !e->io->turn(e, sleep ? TURN_SLEEP : TURN_LOOK) && !e->turn_first;
	e->now_ns = 0;
	return quiet && !gives_up(e);
}

/*
 * A write to a pipe or socket whose reader has gone raises SIGPIPE, also through
 * io_uring: a peer could end the program whose thread this is. A round that was the first to
 * raise one takes it out again. Threads of the engine's own have it masked.
 */
static bool turn_without_sigpipe(struct virtq_engine *e, bool sleep)
{
	const struct timespec at_once = { 0, 0 };
	sigset_t pipe, before, pending;
	bool quiet;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigemptyset(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe, &before);
	/* Where it was not blocked there is none that waits. */
	if (UNLIKELY(sigismember(&before, SIGPIPE)))
		sigpending(&pending);
	quiet = turn_round(e, sleep);
	if (!sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe, NULL, &at_once);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return quiet;
}

static bool turn_once(struct virtq_engine *e, bool sleep)
{
	bool quiet;

	VIRTQ_ASSERT(!e->turning);
	e->turning = true;
	quiet = e->config.stepped ? turn_without_sigpipe(e, sleep) : turn_round(e, sleep);
	e->turning = false;
	return quiet;
}

/* ---- The thread ---------------------------------------------------------- */

static int open_io(struct virtq_engine *e)
{
	int rc = -ENOSYS;

	/* Here, not in the creator: a ring belongs to the thread that makes it. */
	if (e->config.kind != VIRTQ_ENGINE_SYNC) {
		e->io = &uring_io;
		rc = e->io->open(e, &e->start_error);
	}
	if (e->config.kind == VIRTQ_ENGINE_SYNC ||
	    (rc && e->config.kind == VIRTQ_ENGINE_AUTO)) {
		e->io = &sync_io;
		rc = e->io->open(e, &e->start_error);
	}
	e->kind = e->io->kind;
	return rc;
}

static void *engine_thread(void *arg)
{
	struct virtq_engine *e = arg;
	int rc = open_io(e);

	pthread_mutex_lock(&e->lock);
	e->start_result = rc;
	e->started = true;
	pthread_cond_broadcast(&e->answered);
	pthread_mutex_unlock(&e->lock);
	if (rc)
		return NULL;
	while (!e->quit)
		turn_once(e, true);
	VIRTQ_ASSERT(!e->queues);
	e->io->close(e);
	return NULL;
}

static int start_thread(struct virtq_engine *e, struct virtq_error *err)
{
	int rc = thread_start(&e->thread, engine_thread, e);

	if (rc)
		return error_set_errno(err, rc, "cannot start the engine's thread");
	pthread_setname_np(e->thread, "virtq-engine");

	pthread_mutex_lock(&e->lock);
	while (!e->started)
		pthread_cond_wait(&e->answered, &e->lock);
	rc = e->start_result;
	pthread_mutex_unlock(&e->lock);
	if (rc) {
		pthread_join(e->thread, NULL);
		if (err)
			*err = e->start_error;
	}
	return rc;
}

static void free_engine(struct virtq_engine *e)
{
	close(e->wake_fd);
	pthread_cond_destroy(&e->answered);
	pthread_mutex_destroy(&e->lock);
	free(e->table);
	free(e);
}

/* ---- Public calls -------------------------------------------------------- */

int virtq_engine_create(struct virtq_engine **out, const struct virtq_engine_config *config,
			struct virtq_error *err)
{
	uint32_t entries = config->entries ? config->entries : ENTRIES_DEFAULT;
	struct virtq_engine *e;
	int rc;

	if ((unsigned int)config->kind > VIRTQ_ENGINE_SYNC)
		return error_set(err, -EINVAL, "there is no engine of kind %u",
				 (unsigned int)config->kind);
	if (!is_power_of_2(entries) || entries > ENTRIES_MAX)
		return error_set(err, -EINVAL,
				 "%u is no number of submission entries: a power of two up to %u is",
				 entries, ENTRIES_MAX);
	if ((unsigned int)config->spin > VIRTQ_SPIN_ALWAYS || config->spin_us > SPIN_US_MAX)
		return error_set(err, -EINVAL, "an engine spins for up to %u microseconds, not %u",
				 SPIN_US_MAX, config->spin_us);
	e = calloc(1, sizeof(*e));
	if (!e)
		return error_set(err, -ENOMEM, "no memory for an engine");
	e->config = *config;
	e->config.entries = entries;
	if (!e->config.drain_ms)
		e->config.drain_ms = DRAIN_MS_DEFAULT;
	if (!e->config.spin_us)
		e->config.spin_us = SPIN_US_DEFAULT;
	spin_init(e);
	e->credits = 2 * entries;
	e->box_end = &e->box;
	e->completed_end = &e->completed;
	e->abandoned_fd = -1;
	timers_init(&e->timers);
	e->wake_fd = virtq_notify_open();
	if (e->wake_fd < 0) {
		rc = e->wake_fd;
		free(e);
		return error_set_errno(err, rc, "cannot open an eventfd for the engine");
	}
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->answered, NULL);
	if (config->stepped) {
		e->thread = pthread_self();
		rc = open_io(e);
		if (rc && err)
			*err = e->start_error;
	} else {
		rc = start_thread(e, err);
	}
	if (rc) {
		free_engine(e);
		return rc;
	}
	*out = e;
	return 0;
}

void virtq_engine_destroy(struct virtq_engine *engine)
{
	struct engine_msg msg = { .kind = MSG_QUIT };

	if (!engine)
		return;
	if (engine->config.stepped) {
		VIRTQ_ASSERT(on_own_thread(engine) && !engine->queues);
		engine->io->close(engine);
	} else {
		engine_post(engine, &msg);
		pthread_join(engine->thread, NULL);
	}
	free_engine(engine);
}

int virtq_engine_fd(const struct virtq_engine *engine)
{
	return engine->config.stepped ? engine->io->fd(engine) : -EINVAL;
}

int virtq_engine_step(struct virtq_engine *engine)
{
	uint64_t left_ns;

	if (!engine->config.stepped)
		return -EINVAL;
	engine->now_ns = 0;
	if (!turn_once(engine, false))
		return 0;
	if (UNLIKELY(engine->failed))
		return FAILED_STEP_MS;
	if (!timers_left_ns(engine, &left_ns))
		return -1;
	left_ns = (left_ns + 999999) / 1000000;
	return left_ns < INT_MAX ? (int)left_ns : INT_MAX;
}

enum virtq_engine_kind virtq_engine_kind(const struct virtq_engine *engine)
{
	return engine->kind;
}

uint32_t virtq_engine_uses(const struct virtq_engine *engine)
{
	return (uint32_t)shm_word_read(&engine->uses);
}

void virtq_engine_queue_stats(struct virtq_engine_queue *queue,
			      struct virtq_engine_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&queue->shown;
	uint64_t *to = (uint64_t *)stats;
	uint64_t before, after;

	do {
		before = shm_word_read(&queue->shown_sequence);
		shm_fence_acquire();
		for (size_t i = 0; i < STATS_WORDS; i++)
			to[i] = shm_word_read(&from[i]);
		shm_fence_acquire();
		after = shm_word_read(&queue->shown_sequence);
	} while (before != after || before & 1);
	for (size_t i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		stats->latency[i] = shm_word_read(&queue->shown.latency[i]);
}
