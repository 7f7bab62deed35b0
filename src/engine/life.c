/* SPDX-License-Identifier: MIT */
/*
 * The life of a queue on an engine: added, paused, resumed, moved, reset and
 * removed. Half of each runs on the caller's thread and leaves a message; the
 * other half is what the engine's thread does about it.
 *
 *	            add()                  pause(), remove()
 *	(nowhere) ---------> QUEUE_TURNS ---------------------> QUEUE_DRAINS
 *	    ^                 ^   |   |                           |     |
 *	    |          resume()   |   | reset()     nothing left  |     | drain_ms
 *	    |                 |   |   v                           v     v
 *	    |    QUEUE_PAUSED ----|--> QUEUE_CANCELS <---------------- (too late)
 *	    |                     | move()      nothing left: paused or gone
 *	    |                     v
 *	    +-------------- QUEUE_LEAVES   and from there to QUEUE_TURNS elsewhere
 */
#include "engine/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/shm.h"

#define QUEUES_MAX 65536u		/* a cookie has 16 bits for the queue */

/* ---- On the engine's thread: coming -------------------------------------- */

static uint32_t free_entries(const struct virtq_engine *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->table_size; i++)
		n += !e->table[i];
	return n;
}

/* See to it that enter() cannot fail once more than was promised already. */
static int make_room(struct virtq_engine *e)
{
	if (free_entries(e) <= e->promised) {
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
	return 0;
}

static void enter(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	uint32_t index = 0;

	while (e->table[index])
		index++;
	q->index = index;
	e->table[index] = q;
	q->next = e->queues;
	e->queues = q;
	if (e->io->enter)
		e->io->enter(e, q);
	queues_share_credits(e);
}

static int add_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	int rc = e->failed ? -EIO : make_room(e);

	if (!rc)
		enter(e, q);
	return rc;
}

static int promise_room(struct virtq_engine *e)
{
	int rc = e->failed ? -EIO : make_room(e);

	if (!rc)
		e->promised++;
	return rc;
}

static void arrive(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	e->promised--;
	e->performing += q->performing;
	q->phase = q->phase_before;
	enter(e, q);	/* counts what it uses of the shared credits */
	if (UNLIKELY(e->failed))	/* since it promised */
		queue_mark_broken(q, VIRTQ_FAULT_ENGINE, (uint64_t)-e->failed);
	/* A signal may have been on its way when the other engine let go of the fd. */
	for (int which = VIRTQ_FD_CALL; which <= VIRTQ_FD_ERR; which++)
		if (q->fds[which] >= 0 && (which == VIRTQ_FD_CALL || q->broken))
			e->io->signal(e, q, (enum virtq_engine_fd)which);
	queue_go_on(q);
}

/* ---- On the engine's thread: going --------------------------------------- */

static void unlink_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct virtq_engine_queue **link = &e->queues;

	if (e->io->leave)
		e->io->leave(e, q);
	while (*link != q)
		link = &(*link)->next;
	*link = q->next;
	e->table[q->index] = NULL;
	queues_share_credits(e);
}

static uint64_t drain_ns(const struct virtq_engine *e)
{
	return (uint64_t)e->config.drain_ms * 1000000;
}

static void drained_for_long(struct virtq_engine *e, struct engine_timer *timer)
{
	(void)e;
	queue_cancel(container_of(timer, struct virtq_engine_queue, deadline));
}

/* Answered in life_end(), once there is nothing in flight any more. */
static void begin_to_end(struct virtq_engine *e, struct engine_msg *msg)
{
	struct virtq_engine_queue *q = msg->queue;

	q->ending = msg;
	q->forget = msg->kind == MSG_RESET;
	q->cancelled = 0;
	switch (msg->kind) {
	case MSG_LEAVE:
		q->phase_before = q->phase;
		q->phase = QUEUE_LEAVES;
		/* What waits for something that may never come shall wait elsewhere. */
		queue_take_back_all(q);
		break;
	case MSG_RESET:
		queue_cancel(q);
		/* Nobody waits for it. */
		queue_forget_call(q, false);
		q->aux[AUX_CALL].again = false;
		break;
	default:
		q->phase = QUEUE_DRAINS;
		timer_set(e, &q->deadline, drain_ns(e), drained_for_long);
		break;
	}
	/* What comes from now on is for whoever serves the driver afterwards. */
	if (msg->kind != MSG_LEAVE)
		queue_listen(q);
	queues_share_credits(e);
}

static void leave(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	for (int which = VIRTQ_FD_KICK; which <= VIRTQ_FD_ERR; which++)
		if (q->fds[which] >= 0)
			e->io->release(e, q, (enum virtq_engine_fd)which);
	queue_take_timers(q);
	queue_forget_call(q, true);	/* by the other engine, once */
	timer_clear(&q->kick_timer);
	/* The other engine looks at the ring at once, and at the kick fd anew. */
	q->armed = q->disarmed = false;
	q->kicked = false;
	e->performing -= q->performing;
	unlink_queue(e, q);
}

bool life_end(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct engine_msg *msg = q->ending;
	bool gone = msg->kind != MSG_PAUSE;

	if (msg->kind == MSG_LEAVE ? q->out : q->in_flight)
		return false;
	q->ending = NULL;
	timer_clear(&q->deadline);
	if (q->owes_call && !q->forget && msg->kind != MSG_LEAVE)
		queue_call(q);
	switch (msg->kind) {
	case MSG_PAUSE:
		q->phase = QUEUE_PAUSED;
		msg->position = virtq_device_position(q->ring);
		break;
	case MSG_LEAVE:
		leave(e, q);
		break;
	default:
		queue_close_fds(q);
		unlink_queue(e, q);
		break;
	}
	if (msg->final) {
		*msg->final = q->stats;
		memcpy(msg->final->latency, q->shown.latency, sizeof(q->shown.latency));
	}
	engine_answer(e, msg, q->cancelled ? 1 : 0);
	return gone;
}

/* ---- On the engine's thread: staying ------------------------------------- */

static void map_is_late(struct virtq_engine *e, struct engine_timer *timer)
{
	(void)e;
	container_of(timer, struct virtq_engine_queue, deadline)->map_late = true;
}

static void set_map(struct virtq_engine *e, struct engine_msg *msg)
{
	struct virtq_engine_queue *q = msg->queue;
	int rc = virtq_device_set_map(q->ring, msg->map, msg->ring);

	if (rc == -EBUSY && q->in_flight && !q->map_late) {
		/* Requests on loan hold the older maps: wait until some have ended. */
		if (!q->deadline.next)
			timer_set(e, &q->deadline, drain_ns(e), map_is_late);
		msg->next = e->deferred;
		e->deferred = msg;
		return;
	}
	timer_clear(&q->deadline);
	q->map_late = false;
	if (!rc && e->io->remap)
		e->io->remap(e, q);
	/* Arming wrote to the old ring. */
	q->armed = q->disarmed = false;
	engine_answer(e, msg, rc);
}

void life_try_deferred(struct virtq_engine *e)
{
	struct engine_msg *msg = e->deferred, *next;

	e->deferred = NULL;
	for (; msg; msg = next) {
		next = msg->next;
		set_map(e, msg);
	}
}

void life_act(struct virtq_engine *e, struct engine_msg *msg)
{
	struct virtq_engine_queue *q = msg->queue;
	int rc = 0;

	switch (msg->kind) {
	case MSG_ADD:
		rc = add_queue(e, q);
		break;
	case MSG_PROMISE:
		rc = promise_room(e);
		break;
	case MSG_ARRIVE:
		arrive(e, q);
		break;
	case MSG_PAUSE:
	case MSG_REMOVE:
	case MSG_RESET:
	case MSG_LEAVE:
		begin_to_end(e, msg);
		return;
	case MSG_RESUME:
		if (q->phase == QUEUE_PAUSED)
			q->phase = QUEUE_TURNS;
		queue_listen(q);
		queues_share_credits(e);
		break;
	case MSG_ENABLE:
		q->enabled = msg->enabled != 0;
		queue_listen(q);
		queues_share_credits(e);
		break;
	case MSG_SET_FD:
		queue_set_fd(q, msg->which, msg->fd);
		break;
	case MSG_SET_MAP:
		set_map(e, msg);
		return;
	case MSG_QUIT:
		e->quit = true;
		break;
	}
	engine_answer(e, msg, rc);
}

/* ---- Public calls -------------------------------------------------------- */

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
	rc = engine_post(engine, &msg);
	if (rc) {
		queue_free(msg.queue);
		return rc;
	}
	*out = msg.queue;
	return 0;
}

struct virtq_device *engine_remove_stats(struct virtq_engine_queue *queue, bool forget,
					 struct virtq_engine_stats *final)
{
	struct engine_msg msg = {
		.kind = forget ? MSG_RESET : MSG_REMOVE, .queue = queue, .final = final,
	};
	struct virtq_device *ring = queue->ring;

	engine_post(queue->engine, &msg);
	queue_free(queue);
	return ring;
}

struct virtq_device *virtq_engine_remove(struct virtq_engine_queue *queue)
{
	return engine_remove_stats(queue, false, NULL);
}

struct virtq_device *virtq_engine_reset(struct virtq_engine_queue *queue)
{
	return engine_remove_stats(queue, true, NULL);
}

int virtq_engine_pause(struct virtq_engine_queue *const *queues, unsigned int count,
		       uint32_t *positions)
{
	struct engine_msg *msgs = calloc(count ? count : 1, sizeof(*msgs));
	int cancelled = 0;

	if (!msgs)
		return -ENOMEM;
	/* All of them first: they drain at the same time. */
	for (unsigned int i = 0; i < count; i++) {
		msgs[i].kind = MSG_PAUSE;
		msgs[i].queue = queues[i];
		engine_send(queues[i]->engine, &msgs[i]);
	}
	for (unsigned int i = 0; i < count; i++) {
		cancelled |= engine_await(queues[i]->engine, &msgs[i]);
		if (positions)
			positions[i] = msgs[i].position;
	}
	free(msgs);
	return cancelled;
}

void virtq_engine_resume(struct virtq_engine_queue *queue)
{
	struct engine_msg msg = { .kind = MSG_RESUME, .queue = queue };

	engine_post(queue->engine, &msg);
}

int virtq_engine_move(struct virtq_engine_queue *queue, struct virtq_engine *to)
{
	struct virtq_engine *from = queue->engine;
	struct engine_msg promise = { .kind = MSG_PROMISE, .queue = queue };
	struct engine_msg leaves = { .kind = MSG_LEAVE, .queue = queue };
	struct engine_msg arrives = { .kind = MSG_ARRIVE, .queue = queue };
	int rc;

	if (to == from)
		return 0;
	rc = engine_post(to, &promise);
	if (rc)
		return rc;
	engine_post(from, &leaves);
	/* Neither has it now. Held requests may end meanwhile; the news is seen on arrival. */
	pthread_mutex_lock(&queue->lock);
	queue->engine = to;
	pthread_mutex_unlock(&queue->lock);
	engine_post(to, &arrives);
	return 0;
}

void virtq_engine_queue_enable(struct virtq_engine_queue *queue, int enabled)
{
	struct engine_msg msg = { .kind = MSG_ENABLE, .queue = queue, .enabled = enabled };

	engine_post(queue->engine, &msg);
}

int virtq_engine_queue_set_fd(struct virtq_engine_queue *queue, enum virtq_engine_fd which,
			      int fd)
{
	struct engine_msg msg = { .kind = MSG_SET_FD, .queue = queue, .which = which, .fd = fd };

	if ((unsigned int)which > VIRTQ_FD_ERR ||
	    (which == VIRTQ_FD_KICK && fd >= 0 && !can_be_polled(fd)))
		return -EINVAL;
	return engine_post(queue->engine, &msg);
}

int virtq_engine_queue_set_map(struct virtq_engine_queue *queue, struct virtq_map *map,
			       const struct virtq_ring *ring)
{
	struct engine_msg msg = { .kind = MSG_SET_MAP, .queue = queue, .map = map, .ring = ring };

	return engine_post(queue->engine, &msg);
}
