/* SPDX-License-Identifier: MIT */
/*
 * Who waits for a pool, and why nobody is forgotten.
 *
 * All below happens under the lock; only the sleep itself does not. A *taker*
 * waits for something to take, the others for *room*: items or ring entries. All
 * sleep on the call fd of the port, which is one for all, and of several threads
 * each on an eventfd of his own besides.
 *
 * A sleeper went to sleep like this: he looked and found nothing; he armed, and the
 * ring had nothing new ([D]); he released the lock. So while somebody
 * sleeps and nobody touches the pool, either the ring is armed and what the device uses next
 * makes the call fd readable, or it is readable already.
 *
 * Awake, he has the lock, clears his own fd and the call fd, and *then* looks. A signal
 * that was there before the clearing stands for what he finds now; one that comes after it
 * leaves the fd readable. The other way round, what is used between the look and the
 * clearing would be slept through.
 *
 * Clearing the call fd takes the signal from the other sleepers too: some may have not run
 * yet. Therefore whoever cleared it either sleeps again, having found nothing to
 * take and armed, which is as good for all of them; or he goes and hands on
 * (hand_on()): he arms for the others, and if there is something still, in the
 * ring or among pool->used, he wakes one of the takers and all who want room. The same
 * goes for whoever is woken by name, and leaves without looking (cancelled, interrupted).
 *
 * What else a sleeper may wait for is brought by a thread, which signals him by name:
 *   items or ring entries become free  all who wait for room: how much each of them needs,
 *                                      he knows himself; who needs more sleeps on, and has
 *                                      taken nobody's signal, as each has his own
 *   pool->used gets something          one taker, who hands on what he leaves
 *   the ring broke, or was made anew   all
 *   the pool was closed                port_sleep() returns to all, and for ever
 *
 * The ring is armed only while somebody sleeps: the last one disarms it. Somebody outside who
 * called virtq_pool_arm() and sleeps on the call fd is not known to be there or gone. With one
 * thread he is gone when he takes. With several the ring stays armed, and he
 * is a sleeper whose own fd is the call fd. So nobody who waits for room may take away the
 * signal that says pool->used has something: he leaves it, and sleeps on his own fd alone
 * until somebody takes, who wakes him.
 */
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "transfer/pool.h"

static void signal_waiter(struct waiter *w)
{
	if (w->awake || w->fd < 0)
		return;
	w->awake = true;
	virtq_notify_send(w->fd);
}

void wait_wake_room(struct virtq_pool *pool)
{
	for (struct waiter *w = pool->waiters; w; w = w->next)
		if (w->for_room)
			signal_waiter(w);
}

/* May somebody outside be asleep, of whom nobody here knows? */
static bool has_outside(const struct virtq_pool *pool)
{
	return pool->armed && pool->threads;
}

static void signal_outside(struct virtq_pool *pool)
{
	if (has_outside(pool))
		virtq_notify_send(virtq_port_call_fd(pool->port));
}

void wait_wake_taker(struct virtq_pool *pool)
{
	struct waiter *w = pool->waiters;

	while (w && (w->for_room || w->awake))
		w = w->next;
	if (w)
		signal_waiter(w);
	signal_outside(pool);
}

void wait_wake_all(struct virtq_pool *pool)
{
	for (struct waiter *w = pool->waiters; w; w = w->next)
		signal_waiter(w);
	signal_outside(pool);
}

/* The signals that the caller took were for these too. */
static void hand_on(struct virtq_pool *pool)
{
	bool ready = virtq_driver_arm(pool->q);

	if (ready || pool->used_count)
		wait_wake_taker(pool);
	if (ready)
		wait_wake_room(pool);
}

int pool_leave_threads(struct virtq_pool *pool, int rc)
{
	if (UNLIKELY(rc == -EBADMSG && pool->waiters))
		wait_wake_all(pool);
	pthread_mutex_unlock(&pool->lock);
	return rc;
}

/* ---- A wait --------------------------------------------------------------- */

/* With one thread the list is locked for virtq_pool_close() only. */
static void list_lock(struct virtq_pool *pool)
{
	if (!pool->threads)
		pthread_mutex_lock(&pool->lock);
}

static void list_unlock(struct virtq_pool *pool)
{
	if (!pool->threads)
		pthread_mutex_unlock(&pool->lock);
}

int wait_begin(struct virtq_pool *pool, struct waiter *w, const struct virtq_wait *wait,
	       bool for_room)
{
	*w = (struct waiter){ .wait = wait, .deadline_ns = port_deadline(wait), .fd = -1,
			      .for_room = for_room, .awake = true };
	if (pool->threads) {
		w->fd = pool->fd_count ? pool->fds[--pool->fd_count] : virtq_notify_open();
		if (w->fd < 0)
			return w->fd;
	}
	list_lock(pool);
	w->next = pool->waiters;
	pool->waiters = w;
	pool->room_waiters += for_room;
	list_unlock(pool);
	return 0;
}

/* Has the time run out, for somebody who did not get to sleep? */
static bool is_over(const struct waiter *w)
{
	struct timespec now;

	if (w->deadline_ns < 0)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= w->deadline_ns;
}

int wait_sleep(struct virtq_pool *pool, struct waiter *w)
{
	bool on_call;
	int rc;

	pool_publish(pool);
	rc = port_kick_error(pool->port);
	if (rc)
		return rc;
	if (virtq_driver_arm(pool->q))
		return !is_over(w);
	/* Would the signal not be for somebody outside, who has not come for it yet? */
	on_call = !(w->for_room && pool->used_count && has_outside(pool));
	if (!on_call)
		signal_outside(pool);
	w->awake = false;
	if (pool->threads)
		pthread_mutex_unlock(&pool->lock);
	rc = on_call ? port_sleep(pool->port, w->wait, w->deadline_ns, w->fd) :
		       port_sleep_on(pool->port, w->wait, w->deadline_ns, w->fd);
	if (pool->threads)
		pthread_mutex_lock(&pool->lock);
	w->awake = true;
	if (w->fd >= 0)
		virtq_notify_clear(w->fd);
	if (on_call)
		virtq_notify_clear(virtq_port_call_fd(pool->port));
	return port_closed(pool->port) ? -ESHUTDOWN : rc;
}

void wait_end(struct virtq_pool *pool, struct waiter *w)
{
	struct waiter **link = &pool->waiters;

	if (w->fd >= 0) {
		if (pool->fd_count < POOL_FDS)
			pool->fds[pool->fd_count++] = w->fd;
		else
			close(w->fd);
	}
	list_lock(pool);
	while (*link != w)
		link = &(*link)->next;
	*link = w->next;
	pool->room_waiters -= w->for_room;
	if (pool->waiters || has_outside(pool)) {
		hand_on(pool);
	} else {
		pool->armed = false;
		virtq_driver_disarm(pool->q);
	}
	if (!pool->waiters)
		pthread_cond_broadcast(&pool->nobody);
	list_unlock(pool);
}

/* ---- Without sleeping ------------------------------------------------------ */

int virtq_pool_publish(struct virtq_pool *pool)
{
	int rc = pool_enter(pool);

	if (!rc) {
		pool_publish(pool);
		rc = port_kick_error(pool->port);
	}
	return pool_leave(pool, rc);
}

int virtq_pool_arm(struct virtq_pool *pool)
{
	int rc = pool_enter(pool);

	if (!rc) {
		pool->armed = true;
		/* Clears the call fd, and then looks. */
		rc = virtq_port_arm(pool->port);
		if (pool->used_count && (rc == 0 || rc == -EBADMSG))
			rc = 1;
		if (pool->waiters && rc)
			hand_on(pool);
	}
	return pool_leave(pool, rc);
}
