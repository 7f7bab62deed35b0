/* SPDX-License-Identifier: MIT */
/*
 * Who waits for a pool, and why nobody is forgotten.
 *
 * All below happens under the lock; only the sleep itself does not. A *taker*
 * waits for something to take, the others for *room*: items or ring entries, or that the
 * pool is resumed. Of one owner there is nobody else, so he sleeps on the call fd of
 * the port. Several threads sleep on pool->calls_fd, which is one for all, and each on an
 * eventfd of his own besides. calls_fd is an epoll fd that watches the call fd for edges:
 * each call makes it readable, be the call fd readable already or not, and taking the
 * edge away leaves the call fd as it is. So whoever sleeps on that outside, after
 * virtq_pool_arm(), loses no signal to those inside, nor they to him.
 *
 * A sleeper went to sleep like this: he looked and found nothing; he armed, and the
 * ring had nothing new ([D]); he released the lock. So while somebody
 * sleeps and nobody touches the pool, either the ring is armed and what the device uses next
 * makes the common fd readable, or it is readable already.
 *
 * Awake, he has the lock, clears his own fd and the common fd, and *then* looks. A signal
 * that was there before the clearing stands for what he finds now; one that comes after it
 * leaves the fd readable. The other way round, what is used between the look and the
 * clearing would be slept through.
 *
 * Clearing the common fd takes the signal from the other sleepers too: some may have not run
 * yet. Therefore whoever cleared it either sleeps again, having found nothing to
 * take and armed, which is as good for all of them; or he goes and hands on
 * (hand_on()): he arms for the others, and if there is something still, in the
 * ring or among pool->used, he wakes one of the takers and all who want room. The same
 * goes for whoever is woken by name, and leaves without looking (cancelled, interrupted), and
 * for virtq_pool_arm(), which clears the call fd.
 *
 * What else a sleeper may wait for is brought by a thread, which signals him by name:
 *   items or ring entries become free  all who wait for room: how much each of them needs,
 *   or the pool is resumed             he knows himself; who needs more sleeps on, and has
 *                                      taken nobody's signal, as each has his own
 *   pool->used gets something          one taker, who hands on what he leaves
 *   the ring broke, or was made anew   all
 *   the pool was closed                port_sleep() returns to all, and for ever
 *
 * The ring is armed only while somebody sleeps: the last one disarms it. Somebody outside who
 * called virtq_pool_arm() and sleeps on the call fd is not known to be there or gone. Of one
 * owner it is known: he is gone when he takes, and when he waited for room he has
 * cleared the call fd himself, so he is signalled at the end of that if there is something. Of
 * several threads somebody may be there for ever, so the ring stays armed, and whatever is
 * signalled to a taker is signalled to him. Those inside wake up for that, find nothing and
 * sleep on: nobody sends a signal just to sleep again.
 */
#include <sys/epoll.h>
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

/* Somebody outside may be asleep, of whom nobody here knows. */
static void signal_outside(struct virtq_pool *pool)
{
	if (pool->armed)
		virtq_notify_send(virtq_port_call_fd(pool->port));
}

static bool is_broken(const struct virtq_pool *pool)
{
	return virtq_driver_fault(pool->q).code != VIRTQ_FAULT_NONE;
}

void wait_wake_taker(struct virtq_pool *pool)
{
	struct waiter *w = pool->waiters;

	while (w && (w->for_room || w->awake))
		w = w->next;
	if (w)
		signal_waiter(w);
	/* One owner has the signal of the device still, unless he waited: wait_leave(). */
	if (pool->threads)
		signal_outside(pool);
}

/* Of several threads all are told by pool_leave_threads(). */
void wait_tell_broken(struct virtq_pool *pool)
{
	if (!pool->threads)
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
	bool ready = virtq_driver_arm(pool->q) || is_broken(pool);

	if (ready || pool->used_count) {
		wait_wake_taker(pool);
		if (!pool->threads)
			signal_outside(pool);
	}
	if (ready)
		wait_wake_room(pool);
}

int pool_leave_threads(struct virtq_pool *pool, int rc)
{
	/* Not by @rc, which may tell what was done before that. */
	if (UNLIKELY((pool->waiters || pool->armed) && !pool->told && is_broken(pool))) {
		pool->told = true;
		wait_wake_all(pool);
	}
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

/* Clear calls_fd: what it says is told once, and the call fd keeps its signal. */
static void take_edge(struct virtq_pool *pool)
{
	struct epoll_event event;

	while (epoll_wait(pool->calls_fd, &event, 1, 0) < 0 && errno == EINTR)
		;
}

int wait_sleep(struct virtq_pool *pool, struct waiter *w)
{
	int rc;

	pool_publish(pool);
	rc = port_kick_error(pool->port);
	if (rc)
		return rc;
	if (virtq_driver_arm(pool->q) || is_broken(pool))
		return !port_is_over(w->deadline_ns);
	if (!pool->threads) {
		rc = port_sleep(pool->port, w->wait, w->deadline_ns);
		virtq_notify_clear(virtq_port_call_fd(pool->port));
	} else {
		w->awake = false;
		pthread_mutex_unlock(&pool->lock);
		rc = port_sleep_on(pool->port, w->wait, w->deadline_ns, pool->calls_fd, w->fd);
		pthread_mutex_lock(&pool->lock);
		w->awake = true;
		virtq_notify_clear(w->fd);
		take_edge(pool);
	}
	return port_closed(pool->port) ? -ESHUTDOWN : rc;
}

int wait_leave(struct virtq_pool *pool, struct waiter *w, int rc)
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
	if (pool->waiters || pool->armed)
		hand_on(pool);
	else
		virtq_driver_disarm(pool->q);
	if (!pool->waiters)
		pthread_cond_broadcast(&pool->nobody);
	/* The last touch of the pool is that the lock is let go. */
	if (pool->threads)
		return pool_leave_threads(pool, rc);
	pthread_mutex_unlock(&pool->lock);
	return rc;
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
		/* The signal was also for who waits inside, and elsewhere outside. */
		if (pool->threads && rc)
			hand_on(pool);
	}
	return pool_leave(pool, rc);
}
