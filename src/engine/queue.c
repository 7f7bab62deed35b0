/* SPDX-License-Identifier: MIT */
/*
 * The two ends of the five stations: what a queue takes from its ring and what
 * it gives back; its fds and counters. What lies between is in request.c.
 * Everything here runs on the engine's thread, except queue_create() and
 * queue_free().
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/probe.h"
#include "base/shm.h"
#include "mem/map.h"
#include "ring/device.h"

#define SHARE 4u	/* see queue_credits() */
#define COALESCE_US_MAX 1000000u
#define EARLY_CALL_BYTES 32768u	/* of a batch: copying takes about as long as a wake-up */
#define FRUITLESS_PAUSE_NS 1000000u

/* ---- Life --------------------------------------------------------------- */

/*
 * A call must not block this thread. io_uring never does, but serves an fd
 * without O_NONBLOCK on a slow path. The peer shares the flag and may clear it
 * again: that costs it speed, nothing else.
 */
bool fd_make_nonblocking(int fd)
{
	int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	if (flags < 0 || flags & O_NONBLOCK)
		return true;
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	return false;
}

/*
 * The peer shares O_NONBLOCK with us and may have cleared it. Without room a
 * signal is waiting already, and write() might block. What is left is a peer
 * that fills its fd between these two calls; who has such peers has io_uring.
 */
void fd_signal(int fd)
{
	struct pollfd room = { fd, POLLOUT, 0 };

	if (poll(&room, 1, 0) == 1 && room.revents & POLLOUT)
		virtq_notify_send(fd);
}

int queue_create(struct virtq_engine *e, const struct virtq_engine_queue_config *config,
		 struct virtq_engine_queue **out)
{
	struct virtq_engine_queue *q = calloc(1, sizeof(*q));
	uint32_t size = virtq_device_ring(config->ring)->size;

	if (!q)
		return -ENOMEM;
	q->slots = aligned_alloc(SLOT_LINE, size * sizeof(*q->slots));
	if (!q->slots) {
		free(q);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < size; i++)
		q->slots[i] = (struct engine_slot){ .queue = q };
	pthread_mutex_init(&q->lock, NULL);
	q->ended_end = &q->ended;
	q->waits.end = &q->waits.first;
	q->rests.end = &q->rests.first;
	q->fits = ENGINE_BATCH;
	q->engine = e;
	q->model = config->model;
	q->ring = config->ring;
	q->ring->turned_by = q;
	q->part = ENGINE_BATCH;
	q->enabled = config->enabled != 0;
	q->kick_dead = !q->enabled;
	q->fds[VIRTQ_FD_KICK] = config->kick_fd;
	q->fds[VIRTQ_FD_CALL] = config->call_fd;
	q->fds[VIRTQ_FD_ERR] = config->err_fd;
	fd_make_nonblocking(config->call_fd);
	fd_make_nonblocking(config->err_fd);
	*out = q;
	return 0;
}

void queue_free(struct virtq_engine_queue *q)
{
	q->ring->turned_by = NULL;
	pthread_mutex_destroy(&q->lock);
	free(q->slots);
	free(q);
}

/* ---- Station 5 ---------------------------------------------------------- */

static unsigned int latency_bucket(uint64_t ns)
{
	unsigned int bucket = 64 - (unsigned int)__builtin_clzll(ns / 1000 * 2 + 1) - 1;

	return bucket < VIRTQ_LATENCY_BUCKETS ? bucket : VIRTQ_LATENCY_BUCKETS - 1;
}

static void add_latency(struct virtq_engine_queue *q, uint64_t ns, uint64_t requests)
{
	uint64_t *count = &q->shown.latency[latency_bucket(ns)];

	shm_word_write(count, *count + requests);
}

/* One look at the clock for the batch, and one count for those that were popped together. */
static void count_latency(struct virtq_engine_queue *q)
{
	uint64_t now = q->engine->now_ns = engine_now_ns();
	uint64_t popped = q->slots[q->done[0]->slot].popped_ns, requests = 0;

	for (uint32_t i = 0; i < q->done_count; i++, requests++) {
		const struct engine_slot *slot = &q->slots[q->done[i]->slot];

		if (slot->popped_ns == popped)
			continue;
		add_latency(q, now - popped, requests);
		popped = slot->popped_ns;
		requests = 0;
	}
	add_latency(q, now - popped, requests);
}

/*
 * Show the driver what is done so far. If it wants to be called, that is for
 * queue_publish() to do: one call for a batch, whatever it was published in.
 */
static void publish_done(struct virtq_engine_queue *q)
{
	if (!q->done_count)
		return;
	count_latency(q);
	virtq_device_push(q->ring, q->done, q->done_count);
	q->done_count = 0;
	q->publishes = true;
	/* Before the driver can see the requests: who waits for one, then counts, counts it. */
	queue_show_stats(q);
	q->wants_call |= virtq_device_publish(q->ring) != 0;
}

/* The loan of @req ends here; the driver sees it at the next publication. */
void queue_give_back(struct virtq_engine_queue *q, struct virtq_req *req)
{
	PROBE_PUSH(req);
	if (UNLIKELY(q->forget))
		return;
	q->stats.requests++;
	q->stats_changed = true;
	q->done[q->done_count++] = req;
	if (q->done_count == q->part)
		publish_done(q);
}

void queue_call(struct virtq_engine_queue *q)
{
	timer_clear(&q->call_timer);
	q->owes_call = false;
	q->engine->io->signal(q->engine, q, VIRTQ_FD_CALL);
	q->stats.calls++;
	q->stats_changed = true;
}

void queue_forget_call(struct virtq_engine_queue *q, bool signalled)
{
	timer_clear(&q->call_timer);
	/* Every batch is counted once, as called, coalesced or suppressed. */
	if (q->owes_call && signalled)
		q->stats.calls++;
	else if (q->owes_call)
		q->stats.suppressed++;
	q->stats_changed = true;
	q->owes_call = false;
}

static void call_is_late(struct virtq_engine *e, struct engine_timer *timer)
{
	(void)e;
	queue_call(container_of(timer, struct virtq_engine_queue, call_timer));
}

/* May the driver wait for its call, as there is more to come? */
static bool call_can_wait(struct virtq_engine_queue *q)
{
	uint64_t coalesce = shm_word_read(&q->coalesce), us = coalesce & UINT32_MAX;

	if (LIKELY(!coalesce))
		return false;
	if (!q->in_flight || q->stats.requests - q->owed_from >= coalesce >> 32)
		return false;
	if (!q->call_timer.next)
		timer_set(q->engine, &q->call_timer, us * 1000, call_is_late);
	return true;
}

int virtq_engine_queue_coalesce(struct virtq_engine_queue *queue, uint32_t count, uint32_t us)
{
	if (us > COALESCE_US_MAX)
		return -EINVAL;
	shm_word_write(&queue->coalesce, count > 1 && us ? (uint64_t)count << 32 | us : 0);
	return 0;
}

void queue_publish(struct virtq_engine_queue *q)
{
	uint64_t before = q->published;

	publish_done(q);
	if (!q->publishes)
		return;
	q->publishes = false;
	q->published = q->stats.requests;
	q->stats.batches++;
	q->stats_changed = true;
	if (!q->wants_call) {
		q->stats.suppressed++;
	} else if (q->owes_call) {
		q->stats.coalesced++;
	} else {
		q->owes_call = q->fds[VIRTQ_FD_CALL] >= 0;
		q->owed_from = before;
	}
	q->wants_call = false;
	/* Also where this one alone was not asked for: the driver asks once. */
	if (q->owes_call && !call_can_wait(q))
		queue_call(q);
}

/* ---- Credits ------------------------------------------------------------ */

bool queue_takes_requests(const struct virtq_engine_queue *q)
{
	return q->enabled && !q->broken && q->phase == QUEUE_TURNS;
}

/*
 * Half of the credits is divided among the queues that take requests, so that
 * each always has something to go on with, at least one; what the others do not
 * need, and the other half, is shared. A queue alone has all.
 */
void queues_share_credits(struct virtq_engine *e)
{
	uint32_t queues = 0;

	for (const struct virtq_engine_queue *q = e->queues; q; q = q->next)
		queues += queue_takes_requests(q);
	e->reserve = queues > 1 ? e->credits / (2 * queues) : e->credits;
	if (!e->reserve)
		e->reserve = 1;
	e->shared = 0;
	if (queues < e->credits / e->reserve)
		e->shared = e->credits - queues * e->reserve;
	e->shared_used = 0;
	e->hungry = 0;
	for (const struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		if (q->performing > e->reserve)
			e->shared_used += q->performing - e->reserve;
		e->hungry += q->hungry && queue_takes_requests(q);
	}
}

/*
 * A queue is hungry that wanted more than it got. While there are others it has its part
 * of what is shared and no more, even if all comes back at the same time.
 */
static void set_hungry(struct virtq_engine_queue *q, bool hungry)
{
	struct virtq_engine *e = q->engine;

	if (LIKELY(q->hungry == hungry))
		return;
	q->hungry = hungry;
	if (hungry) {
		e->hungry++;
	} else if (--e->hungry) {
		e->turn_first = true;	/* the others may have more now */
	}
}

/*
 * Of what is shared none takes more than SHARE times what it leaves, so that who comes late finds
 * something, nor more than an equal part if others are hungry.
 */
uint32_t queue_credits(const struct virtq_engine_queue *q)
{
	const struct virtq_engine *e = q->engine;
	uint32_t unused = e->shared > e->shared_used ? e->shared - e->shared_used : 0;
	uint32_t others = e->hungry - q->hungry, own = 0, mine = 0, more, part;

	if (q->performing < e->reserve)
		own = e->reserve - q->performing;
	else
		mine = q->performing - e->reserve;
	/* mine + more <= SHARE * (unused - more), rounded up */
	if (SHARE * unused <= mine)
		return own;
	more = (SHARE * unused - mine + SHARE) / (SHARE + 1);
	if (others) {
		part = (e->shared + others) / (others + 1);
		if (part < mine + more)
			more = part > mine ? part - mine : 0;
	}
	return own + more;
}

/* ---- Stations 1 and 2 --------------------------------------------------- */

static void break_queue(struct virtq_engine_queue *q)
{
	q->broken = true;
	queues_share_credits(q->engine);
	if (q->fds[VIRTQ_FD_ERR] >= 0)
		q->engine->io->signal(q->engine, q, VIRTQ_FD_ERR);
}

void queue_mark_broken(struct virtq_engine_queue *q, enum virtq_fault_code code, uint64_t value)
{
	if (q->broken)
		return;
	device_break(q->ring, code, 0, value);
	break_queue(q);
}

void queue_check_memory(struct virtq_engine_queue *q)
{
	if (map_lost(device_map(q->ring)))
		queue_mark_broken(q, VIRTQ_FAULT_RING_MEMORY, 0);
}

/* Begin with them until the turn is over. Returns true if the rest went back to the ring. */
static bool start_batch(struct virtq_engine_queue *q, struct virtq_req **reqs, uint32_t count)
{
	uint64_t now = engine_now(q->engine), copied = 0;
	uint32_t i;

	/*
	 * What is answered at once is published before all is: a driver that looks at its
	 * ring goes on with the first ones while the device sees to the others, on another
	 * processor. Where storage is waited for that would only make batches smaller.
	 */
	q->part = ENGINE_PART;
	for (i = 0; i < count && q->turn_bytes < ENGINE_TURN_BYTES; i++) {
		uint64_t bytes = reqs[i]->rd.bytes + reqs[i]->wr.bytes;
		uint32_t in_flight = q->in_flight;
		uint64_t left = 0;

		request_start(q, reqs[i], now);
		/*
		 * What the model has moved itself: all of it if it has ended, else what is not
		 * left. In what is held others may be moving the cursors.
		 */
		if (q->in_flight != in_flight)
			left = q->slots[reqs[i]->slot].performing ?
			       reqs[i]->rd.bytes + reqs[i]->wr.bytes : bytes;
		if (left < bytes) {
			copied += bytes - left;
			q->turn_bytes += bytes - left;
		}
	}
	q->part = ENGINE_BATCH;
	/* Where the turn was over not many more are taken the next time than were of use. */
	if (i < count || 2 * i > q->fits)
		q->fits = 2 * i < ENGINE_BATCH ? 2 * i : ENGINE_BATCH;
	/*
	 * A driver that sleeps is called before all are: it wakes up and has more to do
	 * while the device is still at the rest, and need not kick.
	 */
	if (copied >= EARLY_CALL_BYTES && q->wants_call)
		q->fits = ENGINE_PART;
	if (LIKELY(i == count))
		return false;
	/* The last one first: that is how it goes. */
	while (count-- > i)
		virtq_device_unpop(q->ring, reqs[count]);
	return true;
}

bool queue_serve(struct virtq_engine_queue *q)
{
	struct virtq_req *reqs[ENGINE_BATCH];
	uint32_t credits, max;
	int n;

	q->blocked = false;
	q->turn_bytes = 0;
	if (UNLIKELY(q->waits.first || q->rests.first) && queue_begin_waiting(q))
		return true;
	if (!queue_takes_requests(q))
		return false;
	if (UNLIKELY(q->turn_bytes >= ENGINE_TURN_BYTES))
		return true;
	max = credits = queue_credits(q);
	if (!max) {
		/* The chains wait in the ring; a completion brings us back. */
		q->blocked = true;
		set_hungry(q, true);
		return false;
	}
	if (max > q->fits)
		max = q->fits;

	n = virtq_device_pop(q->ring, reqs, max);
	if (n < (int)max)
		set_hungry(q, false);
	else if (max == credits)
		set_hungry(q, true);
	if (n == 0)
		return false;
	if (n == -ENOSPC) {
		/* Blocks for long chains come back with our own requests. */
		q->blocked = q->in_flight > 0;
		return !q->blocked;
	}
	if (n == -EAGAIN) {
		/*
		 * An address that the IOTLB does not know yet. Whoever translates
		 * pauses the queue for the update, for the table is the engine's.
		 */
		q->blocked = true;
		return false;
	}
	if (n < 0) {
		break_queue(q);
		return false;
	}
	if (!q->disarmed) {
		virtq_device_disarm(q->ring);
		q->armed = false;
		q->disarmed = true;
	}
	q->fruitless = 0;
	/* Fewer than asked for: empty, broken or out of blocks. Arming will tell. */
	return start_batch(q, reqs, (uint32_t)n) || (uint32_t)n == max;
}

/* ---- Completions, kicks and fds ----------------------------------------- */

void engine_completed(struct virtq_engine *e, struct engine_slot *slot, int64_t result)
{
	slot->result = result;
	slot->next = NULL;
	*e->completed_end = slot;
	e->completed_end = &slot->next;
}

void engine_kicked(struct virtq_engine_queue *q, bool readable, bool hung_up)
{
	if (readable) {
		q->kicked = true;
		q->fruitless++;
		q->stats.kicks++;
		q->stats_changed = true;
	}
	if (hung_up)
		q->kick_dead = true;
}

static void kicks_count_again(struct virtq_engine *e, struct engine_timer *timer)
{
	(void)e;
	container_of(timer, struct virtq_engine_queue, kick_timer)->fruitless = FRUITLESS_MAX;
}

bool queue_kicks_rest(struct virtq_engine_queue *q)
{
	if (LIKELY(q->fruitless <= FRUITLESS_MAX))
		return false;
	if (!q->kick_timer.next)
		timer_set(q->engine, &q->kick_timer, FRUITLESS_PAUSE_NS, kicks_count_again);
	return true;
}

static bool listens(const struct virtq_engine_queue *q)
{
	return q->enabled && q->phase == QUEUE_TURNS;
}

void queue_listen(struct virtq_engine_queue *q)
{
	struct virtq_engine *e = q->engine;

	q->kick_dead = !listens(q);
	if (!q->kick_dead)
		return;		/* the ring is looked at in any case: no kick is lost */
	if (q->fds[VIRTQ_FD_KICK] >= 0)
		e->io->release(e, q, VIRTQ_FD_KICK);
	timer_clear(&q->kick_timer);
	q->kicked = false;
	/* Whoever serves the driver meanwhile asks for kicks, or not, in the same ring. */
	q->armed = q->disarmed = false;
}

/*
 * A socket may be set to wait at its end for what its peer has not taken. Nobody shall
 * make this thread wait.
 */
static void close_at_once(int fd)
{
	const struct linger none = { 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	close(fd);
}

void queue_set_fd(struct virtq_engine_queue *q, enum virtq_engine_fd which, int fd)
{
	struct virtq_engine *e = q->engine;
	int old = q->fds[which];

	if (old >= 0) {
		e->io->release(e, q, which);
		close_at_once(old);
	}
	q->fds[which] = fd;
	if (which == VIRTQ_FD_KICK) {
		timer_clear(&q->kick_timer);
		q->fruitless = 0;
	}
	if (which == VIRTQ_FD_CALL)
		queue_forget_call(q, fd >= 0);	/* see below */
	if (which == VIRTQ_FD_KICK) {
		q->kicked = false;
		q->kick_dead = !listens(q);
		q->plain_drain = false;
		return;
	}
	fd_make_nonblocking(fd);
	if (fd < 0)
		return;
	/* A signal may have gone to the old fd after its reader had left. */
	if (which == VIRTQ_FD_CALL || q->broken)
		e->io->signal(e, q, which);
}

void queue_close_fds(struct virtq_engine_queue *q)
{
	for (int which = VIRTQ_FD_KICK; which <= VIRTQ_FD_ERR; which++)
		queue_set_fd(q, (enum virtq_engine_fd)which, -1);
}

/* ---- Counters for other threads ----------------------------------------- */

/*
 * A sequence lock: readers who see an odd number, or another one afterwards,
 * read again. The pair is in virtq_engine_queue_stats().
 */
void queue_show_stats(struct virtq_engine_queue *q)
{
	const uint64_t *from = (const uint64_t *)&q->stats;
	uint64_t *to = (uint64_t *)&q->shown;
	uint64_t sequence = q->shown_sequence;

	shm_word_write(&q->shown_sequence, sequence + 1);
	shm_fence_release();
	for (size_t i = 0; i < STATS_WORDS; i++)
		shm_word_write(&to[i], from[i]);
	shm_fence_release();
	shm_word_write(&q->shown_sequence, sequence + 2);
	q->stats_changed = false;
}
