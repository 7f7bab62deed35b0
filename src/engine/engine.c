/* SPDX-License-Identifier: MIT */
/*
 * The engine: its thread, the loop in it, the box in which other threads leave
 * messages, and the public calls.
 */
#include "engine/engine.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "base/shm.h"
#include "mem/guard.h"

#define ENTRIES_DEFAULT 256u
#define ENTRIES_MAX 4096u
#define QUEUES_MAX 65536u		/* a cookie has 16 bits for the queue */

/* ---- Messages, seen from the engine's thread ----------------------------- */

static void answer(struct virtq_engine *e, struct engine_msg *msg, int result)
{
	pthread_mutex_lock(&e->lock);
	msg->result = result;
	msg->answered = true;
	/* The message is on the stack of a thread that may return from now on. */
	pthread_cond_broadcast(&e->answered);
	pthread_mutex_unlock(&e->lock);
}

static uint32_t size_of(const struct virtq_engine_queue *q)
{
	return virtq_device_ring(q->ring)->size;
}

static int add_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	uint32_t index = 0;

	while (index < e->table_size && e->table[index])
		index++;
	if (index == e->table_size) {
		uint32_t size = e->table_size ? 2 * e->table_size : 8;
		struct virtq_engine_queue **table;

		if (size > QUEUES_MAX)
			return -ENOMEM;
		table = realloc(e->table, size * sizeof(*table));
		if (!table)
			return -ENOMEM;
		memset(table + e->table_size, 0, (size - e->table_size) * sizeof(*table));
		e->table = table;
		e->table_size = size;
	}
	if (e->io->grow(e, e->table_size, e->slots + size_of(q)))
		return -ENOMEM;
	e->slots += size_of(q);
	q->index = index;
	e->table[index] = q;
	q->next = e->queues;
	e->queues = q;
	queues_share_credits(e);
	return 0;
}

/* The last request of a queue that shall go has been pushed and published. */
static void finish_removal(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct virtq_engine_queue **link = &e->queues;

	queue_close_fds(q);
	while (*link != q)
		link = &(*link)->next;
	*link = q->next;
	e->table[q->index] = NULL;
	e->slots -= size_of(q);
	if (q->removal->final)
		*q->removal->final = q->stats;
	answer(e, q->removal, 0);
}

static void set_map(struct virtq_engine *e, struct engine_msg *msg)
{
	int rc = virtq_device_set_map(msg->queue->ring, msg->map, msg->ring);

	if (rc == -EBUSY && msg->queue->in_flight) {
		/* Requests on loan hold the older maps: wait until some have ended. */
		msg->next = e->deferred;
		e->deferred = msg;
		return;
	}
	/* Arming wrote to the old ring. */
	msg->queue->armed = false;
	answer(e, msg, rc);
}

static void act(struct virtq_engine *e, struct engine_msg *msg)
{
	switch (msg->kind) {
	case MSG_ADD:
		answer(e, msg, add_queue(e, msg->queue));
		break;
	case MSG_REMOVE:
		msg->queue->removal = msg;	/* answered in finish_removal() */
		queues_share_credits(e);
		queue_cancel_held(msg->queue);
		break;
	case MSG_ENABLE:
		msg->queue->enabled = msg->enabled != 0;
		queues_share_credits(e);
		answer(e, msg, 0);
		break;
	case MSG_SET_FD:
		queue_set_fd(msg->queue, msg->which, msg->fd);
		answer(e, msg, 0);
		break;
	case MSG_SET_MAP:
		set_map(e, msg);
		break;
	case MSG_QUIT:
		e->quit = true;
		answer(e, msg, 0);
		break;
	}
}

static void read_box(struct virtq_engine *e)
{
	struct engine_msg *msg = e->deferred, *next;

	e->deferred = NULL;
	for (; msg; msg = next) {
		next = msg->next;
		set_map(e, msg);
	}
	if (LIKELY(!shm_flag_read(&e->mail)))
		return;
	pthread_mutex_lock(&e->lock);
	msg = e->box;
	e->box = NULL;
	e->box_end = &e->box;
	shm_flag_write(&e->mail, false);
	pthread_mutex_unlock(&e->lock);
	for (; msg; msg = next) {
		next = msg->next;
		act(e, msg);
	}
}

/* ---- The loop ------------------------------------------------------------ */

/*
 * Nothing to do, but no sleep either. The kernel may need this very core to
 * perform what it was given: a worker that waits for us to stop polling would
 * cost each such request the whole spin. Otherwise leave the core to its other
 * half for a moment.
 */
static void relax(const struct virtq_engine *e)
{
	if (e->performing) {
		sched_yield();
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
	return true;
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
	for (q = e->queues; q; q = next) {
		uint64_t before = q->stats.requests + q->in_flight;

		next = q->next;
		if (q->kicked) {
			q->kicked = false;
			e->io->drain(e, q);
		}
		*worked |= queue_finish_held(q);
		more |= queue_serve(q);
		*worked |= q->stats.requests + q->in_flight != before;
		queue_publish(q);
		if (q->removal && !q->in_flight) {
			finish_removal(e, q);	/* q may be gone */
			continue;
		}
		e->io->watch(e, q);
		if (q->stats_changed)
			queue_show_stats(q);
	}
	return more;
}

/* Is there a queue whose driver will not kick? Then this thread cannot sleep. */
static bool must_poll(const struct virtq_engine *e)
{
	for (const struct virtq_engine_queue *q = e->queues; q; q = q->next)
		if (q->fds[VIRTQ_FD_KICK] < 0 && q->enabled && !q->broken)
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
		if (q->armed || q->blocked || q->broken || !q->enabled || q->removal)
			continue;
		q->armed = true;
		if (virtq_device_arm(q->ring))
			quiet = false;
	}
	return quiet;
}

static void count_sleep(struct virtq_engine *e)
{
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		q->stats.sleeps++;
		queue_show_stats(q);
	}
}

static void loop(struct virtq_engine *e)
{
	uint64_t spin_ns = (uint64_t)e->config.spin_us * 1000, last_work_ns = 0;

	for (;;) {
		bool worked, more;

		read_box(e);
		if (e->quit)
			break;
		if (UNLIKELY(timers_any(e)))
			timers_run(e);
		worked = finish_completed(e);
		more = serve_queues(e, &worked);
		/* The sync engine has completions already; a new map may have waited for some. */
		more |= e->completed != NULL || (worked && e->deferred);

		if (worked && spin_ns)
			last_work_ns = engine_now_ns();
		if (more || e->turn_first) {
			e->turn_first = false;
			e->io->turn(e, false);
		} else if (must_poll(e) ||
			   (spin_ns && engine_now_ns() - last_work_ns < spin_ns)) {
			if (!worked)
				relax(e);
			e->io->turn(e, false);
		} else if (arm_queues(e)) {
			count_sleep(e);
			e->io->turn(e, true);
		}
	}
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
	loop(e);
	VIRTQ_ASSERT(!e->queues);
	e->io->close(e);
	return NULL;
}

static int start_thread(struct virtq_engine *e, struct virtq_error *err)
{
	sigset_t all, before;
	int rc;

	/*
	 * Signals are for the program's own threads; SIGPIPE of a call fd is
	 * for nobody. Faults stay: they come from this thread's own accesses,
	 * and virtq_guard_install() may know what to do about them.
	 */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&e->thread, NULL, engine_thread, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
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
	e = calloc(1, sizeof(*e));
	if (!e)
		return error_set(err, -ENOMEM, "no memory for an engine");
	e->config = *config;
	e->config.entries = entries;
	e->credits = 2 * entries;
	e->box_end = &e->box;
	e->completed_end = &e->completed;
	timers_init(&e->timers);
	e->wake_fd = virtq_notify_open();
	if (e->wake_fd < 0) {
		rc = e->wake_fd;
		free(e);
		return error_set_errno(err, rc, "cannot open an eventfd for the engine");
	}
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->answered, NULL);
	rc = start_thread(e, err);
	if (rc) {
		free_engine(e);
		return rc;
	}
	*out = e;
	return 0;
}

/* Leave a message and wait until the engine has acted on it. */
static int post(struct virtq_engine *e, struct engine_msg *msg)
{
	VIRTQ_ASSERT(!pthread_equal(pthread_self(), e->thread));
	msg->next = NULL;
	msg->answered = false;
	pthread_mutex_lock(&e->lock);
	*e->box_end = msg;
	e->box_end = &msg->next;
	shm_flag_write(&e->mail, true);
	pthread_mutex_unlock(&e->lock);
	virtq_notify_send(e->wake_fd);

	pthread_mutex_lock(&e->lock);
	while (!msg->answered)
		pthread_cond_wait(&e->answered, &e->lock);
	pthread_mutex_unlock(&e->lock);
	return msg->result;
}

void virtq_engine_destroy(struct virtq_engine *engine)
{
	struct engine_msg msg = { .kind = MSG_QUIT };

	if (!engine)
		return;
	post(engine, &msg);
	pthread_join(engine->thread, NULL);
	free_engine(engine);
}

enum virtq_engine_kind virtq_engine_kind(const struct virtq_engine *engine)
{
	return engine->io->kind;
}

/* Regular files are always readable: as a kick they would mean "for ever". */
static bool can_be_polled(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	int probe = epoll_create1(EPOLL_CLOEXEC);
	bool can;

	if (probe < 0)
		return true;	/* no fd left to find out with: the engine will see */
	can = epoll_ctl(probe, EPOLL_CTL_ADD, fd, &event) == 0;
	close(probe);
	return can;
}

int virtq_engine_add(struct virtq_engine *engine,
		     const struct virtq_engine_queue_config *config,
		     struct virtq_engine_queue **out)
{
	struct engine_msg msg = { .kind = MSG_ADD };
	int rc;

	if (!config->model || !config->ring ||
	    (config->kick_fd >= 0 && !can_be_polled(config->kick_fd)))
		return -EINVAL;
	rc = queue_create(engine, config, &msg.queue);
	if (rc)
		return rc;
	rc = post(engine, &msg);
	if (rc) {
		queue_free(msg.queue);
		return rc;
	}
	*out = msg.queue;
	return 0;
}

struct virtq_device *engine_remove_stats(struct virtq_engine_queue *queue,
					 struct virtq_engine_stats *final)
{
	struct engine_msg msg = { .kind = MSG_REMOVE, .queue = queue, .final = final };
	struct virtq_device *ring = queue->ring;

	post(queue->engine, &msg);
	queue_free(queue);
	return ring;
}

struct virtq_device *virtq_engine_remove(struct virtq_engine_queue *queue)
{
	return engine_remove_stats(queue, NULL);
}

void virtq_engine_queue_enable(struct virtq_engine_queue *queue, int enabled)
{
	struct engine_msg msg = { .kind = MSG_ENABLE, .queue = queue, .enabled = enabled };

	post(queue->engine, &msg);
}

int virtq_engine_queue_set_fd(struct virtq_engine_queue *queue, enum virtq_engine_fd which,
			      int fd)
{
	struct engine_msg msg = { .kind = MSG_SET_FD, .queue = queue, .which = which, .fd = fd };

	if ((unsigned int)which > VIRTQ_FD_ERR ||
	    (which == VIRTQ_FD_KICK && fd >= 0 && !can_be_polled(fd)))
		return -EINVAL;
	return post(queue->engine, &msg);
}

int virtq_engine_queue_set_map(struct virtq_engine_queue *queue, struct virtq_map *map,
			       const struct virtq_ring *ring)
{
	struct engine_msg msg = { .kind = MSG_SET_MAP, .queue = queue, .map = map, .ring = ring };

	return post(queue->engine, &msg);
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
		for (size_t i = 0; i < sizeof(*stats) / sizeof(*to); i++)
			to[i] = shm_word_read(&from[i]);
		shm_fence_acquire();
		after = shm_word_read(&queue->shown_sequence);
	} while (before != after || before & 1);
}
