/* SPDX-License-Identifier: MIT */
/*
 * The inside of an engine: what its loop, its queues and its two ways to
 * perform operations know of each other.
 *
 *   engine.c  the thread, its loop, the message box
 *   life.c    how queues come, pause, move and go
 *   queue.c   stations 1, 2 and 5 of a queue
 *   request.c stations 3 and 4: what becomes of a request in between
 *   cancel.c  operations that shall end before their time
 *   timer.c   what is due at a time
 *   spin.c    whether to look for a while before sleeping
 *   failed.c  the end of an engine that cannot go on
 *   uring.h   operations, kicks and calls through io_uring, in uring*.c
 *   sync.c    the same through preadv, pwritev and poll
 *
 * Owner: the engine's thread owns every field below that does not say otherwise.
 */
#ifndef VIRTQ_ENGINE_ENGINE_H
#define VIRTQ_ENGINE_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include <virtq/engine.h>

#include "base/check.h"

#define ENGINE_BATCH 32u		/* requests popped per queue and round */
#define ENGINE_PART 8u		/* of these, published together if answered at once */
/*
 * A queue's turn: so many bytes may be moved for it in a round, here or by the kernel
 * on its behalf, or one piece; the other queues wait for them. A piece is no longer.
 */
#define ENGINE_TURN_BYTES ((uint64_t)1 << 20)
#define ENGINE_SPANS_MAX 1024u		/* in a piece: the kernel's UIO_MAXIOV */
#define FRUITLESS_MAX 32u		/* kicks in a row with nothing in the ring */
#define SLOT_LINE 64u			/* bytes of cache that come together, nearly everywhere */
#define ENGINE_RETRIES_MAX 100u		/* of one operation, without progress */

struct engine_msg;

/* Something that is due at a time; all zero while it is not set. */
struct engine_timer {
	struct engine_timer *next, *prev;	/* in virtq_engine.timers */
	uint64_t due_ns;
	void (*expired)(struct virtq_engine *e, struct engine_timer *timer);
};

/*
 * A request on loan. One for each request slot of a queue.
 *
 * While it is held it belongs to nobody: virtq_engine_complete() files it under
 * virtq_engine_queue.ended, by that queue's lock, and the engine's thread takes
 * it from there.
 */
struct engine_slot {
	/* What every request needs, in one line of cache. */
	struct engine_slot *next;	/* in completed, ended, waits, or with the sync engine */
	struct virtq_engine_queue *queue;
	struct virtq_req *req;		/* LOAN: until finish() said DONE and it was pushed */
	uint64_t popped_ns;
	int64_t result;			/* of the last piece, or of a held request */
	/* Calls of start() and finish() for requests here; others read it, shm_word_*(). */
	uint64_t asked;
	uint32_t generation;		/* of the cookie that is out; 0 for none */
	uint32_t retries;
	bool performing;		/* has an operation, in the kernel or about to be */
	bool held;
	bool ended;			/* completed while held; by the queue's lock */
	uint8_t chances;		/* see out_of_chances() */
	bool doomed;			/* over when the model completes it */
	bool cancelled;			/* something of it was */
	bool unwanted;			/* the operation: it does not go on, nor is it tried again */
	/* What every operation needs, in the next. */
	struct virtq_op op __attribute__((aligned(SLOT_LINE)));	/* offset and spans move on */
	uint64_t done_bytes;
	/* What few need. */
	/* A TIMEOUT, or a pause before trying again. @due_ns stays when it moves. */
	struct engine_timer timer;
	/* For virtq_engine_cancel(). Owner: whoever has the queue's lock. */
	struct engine_slot *next_filed;	/* in virtq_engine_queue.filed */
	uint64_t unwanted_asked;	/* what @asked was: the operation that is meant */
	bool filed;
};

/* What a queue may have in the kernel besides its requests. */
enum engine_aux_kind { AUX_POLL, AUX_DRAIN, AUX_CALL, AUX_ERR, AUX_COUNT };

struct engine_aux {
	uint32_t generation;		/* of the cookie that is out; 0 for none */
	bool again;			/* signal once more when this one has ended */
	bool multishot;			/* a poll of which each kick completes another time */
};

/* Where a queue is in its life; see life.c. */
enum queue_phase {
	QUEUE_TURNS,
	QUEUE_DRAINS,	/* takes no more; what is in flight has until the deadline to end */
	QUEUE_CANCELS,	/* takes no more; what is in flight ends now */
	QUEUE_LEAVES,	/* for another engine, which goes on with what is in flight */
	QUEUE_PAUSED,	/* nothing in flight */
};

struct slot_list {
	struct engine_slot *first, **end;
};

struct virtq_engine_queue {
	struct virtq_engine_queue *next;
	/*
	 * Changed by virtq_engine_move() with the lock held, while no engine has
	 * the queue; so engines need no lock to read it, others do.
	 */
	struct virtq_engine *engine;
	struct virtq_model *model;
	struct virtq_device *ring;
	struct engine_slot *slots;	/* ring size of them */
	uint32_t index;			/* in virtq_engine.table */
	int fds[3];			/* by enum virtq_engine_fd; owned, -1 for none */

	enum queue_phase phase;
	enum queue_phase phase_before;	/* QUEUE_LEAVES: to go back to */
	bool enabled;
	bool broken;
	bool forget;			/* a reset: nothing more goes to the driver */
	bool armed;			/* the driver was told to kick, and was not told to stop */
	bool disarmed;			/* it was told to stop; of a new ring neither is known */
	bool blocked;			/* ring left alone until an operation completes */
	bool hungry;			/* there may be more in the ring than it had credits for */
	bool kicked;			/* kick fd seen readable, not drained yet */
	/*
	 * Kick fd hung up or failed: nothing comes from it any more. Or the queue takes no
	 * requests: what comes is for whoever serves the driver meanwhile.
	 */
	bool kick_dead;
	bool plain_drain;		/* the kick fd does not know RWF_NOWAIT */
	uint32_t in_flight;		/* requests on loan */
	uint32_t performing;		/* those with an operation, completed or not */
	uint32_t out;			/* those whose operation is with the kernel, or completed */
	uint32_t held;			/* those that the model keeps */
	struct slot_list waits;		/* were held, and need a credit to go on */
	struct slot_list rests;		/* go on when the queue has its next turn */
	uint64_t turn_bytes;		/* that this turn has moved */
	uint32_t fits;			/* so many requests are tried in a turn */
	uint32_t cancelled;		/* ended before their time since @ending came */
	struct engine_aux aux[AUX_COUNT];

	struct virtq_req *done[ENGINE_BATCH];	/* finished, to be pushed */
	uint32_t done_count;
	uint32_t part;			/* so many are published together */
	bool publishes;			/* a batch has begun to go out */
	bool wants_call;		/* for what went out of it so far */
	bool owes_call;			/* asked for by the driver, put off */
	uint64_t published;		/* of stats.requests, with the last publication */
	uint64_t owed_from;		/* and before the one that the call is owed for */
	uint32_t fruitless;		/* kicks since the ring had something */
	uint64_t coalesce;		/* count << 32 | us; any thread writes it, shm_word_*() */
	struct engine_timer call_timer;
	struct engine_timer kick_timer;	/* until it is watched again, after many fruitless ones */

	struct engine_msg *ending;	/* the message that waits for nothing to be in flight */
	struct engine_timer deadline;	/* of QUEUE_DRAINS, or of a new map in QUEUE_TURNS */
	bool map_late;			/* it has passed */
	struct engine_slot *later;	/* of QUEUE_LEAVES: to be gone on with at the other engine */

	/*
	 * Held requests that have ended, and those whose operation shall. Owner: whoever has
	 * the lock; @news through shm_flag_*().
	 */
	pthread_mutex_t lock;
	struct engine_slot *ended, **ended_end;
	struct engine_slot *filed;
	bool news;

	struct uring_queue *uring;	/* what is registered for it; may be NULL */

	struct virtq_engine_stats stats;	/* the thread's own, but for latency */
	bool stats_changed;
	/*
	 * Copy for other threads: odd while it is written; latency is counted
	 * here right away. Through shm_word_*().
	 */
	uint64_t shown_sequence;
	struct virtq_engine_stats shown;
};

/* A wish of another thread, on that thread's stack until @answered. */
struct engine_msg {
	struct engine_msg *next;
	enum {
		MSG_ADD, MSG_PAUSE, MSG_RESUME, MSG_REMOVE, MSG_RESET,
		MSG_PROMISE, MSG_LEAVE, MSG_ARRIVE,	/* a move, in this order */
		MSG_ENABLE, MSG_SET_FD, MSG_SET_MAP, MSG_QUIT,
	} kind;
	struct virtq_engine_queue *queue;
	int enabled;
	enum virtq_engine_fd which;
	int fd;
	struct virtq_map *map;
	const struct virtq_ring *ring;
	struct virtq_engine_stats *final;
	uint32_t position;		/* answer of MSG_PAUSE */
	int result;
	bool answered;			/* under virtq_engine.lock */
};

enum engine_turn {
	TURN_ON,	/* do not look where nothing is expected */
	TURN_LOOK,	/* look everywhere, but do not sleep */
	TURN_SLEEP,	/* until something has happened or a timer is due */
};

/* How operations are performed, kicks awaited and calls signalled. */
struct engine_io {
	enum virtq_engine_kind kind;
	int (*open)(struct virtq_engine *e, struct virtq_error *err);
	void (*close)(struct virtq_engine *e);
	/* The queue comes, goes with nothing in flight, has a new map; each may be NULL. */
	void (*enter)(struct virtq_engine *e, struct virtq_engine_queue *q);
	void (*leave)(struct virtq_engine *e, struct virtq_engine_queue *q);
	void (*remap)(struct virtq_engine *e, struct virtq_engine_queue *q);
	/*
	 * After virtq_engine.failed was set: let go of everything, without hope that
	 * the kernel helps. What it still had keeps its generation. Returns an fd
	 * that is readable once it has nothing any more, or -1 if it has nothing
	 * already; @memory is not to be freed before.
	 */
	int (*abandon)(struct virtq_engine *e, void **memory);
	/* Readable when there is something for turn(). */
	int (*fd)(const struct virtq_engine *e);
	/* Perform the rest of slot->op, no TIMEOUT; engine_completed() tells how one piece went. */
	void (*perform)(struct virtq_engine *e, struct engine_slot *slot);
	/*
	 * Have the kernel give up an operation that it has (a generation says so), if it
	 * still can. engine_completed() tells how it went, before or after this returns.
	 */
	void (*cancel)(struct virtq_engine *e, struct engine_slot *slot);
	/* Write 8 bytes to the fd, without ever blocking. */
	void (*signal)(struct virtq_engine *e, struct virtq_engine_queue *q,
		       enum virtq_engine_fd which);
	/* See to it that the kick fd is watched; called every round. */
	void (*watch)(struct virtq_engine *e, struct virtq_engine_queue *q);
	/*
	 * Take the signals out of a kick fd. Where that is only staged it sets
	 * turn_first: a kick that is drained after arming would be lost.
	 */
	void (*drain)(struct virtq_engine *e, struct virtq_engine_queue *q);
	/* End everything that involves one fd of the queue; it is closed next. */
	void (*release)(struct virtq_engine *e, struct virtq_engine_queue *q,
			enum virtq_engine_fd which);
	/* Hand over what is staged and see what has happened. Returns true if anything has. */
	bool (*turn)(struct virtq_engine *e, enum engine_turn how);
};

/* What is known about the gaps in which there is nothing to do; see spin.c. */
struct engine_gaps {
	uint64_t mean_ns, deviation_ns;	/* of those shorter than the bound */
	uint32_t long_share;		/* of the others among all, in 256th */
	uint32_t sleeps;		/* that were not even preceded by spinning */
	uint32_t yield_share;		/* that ended with the first time the processor was given away */
};

struct engine_spin {
	struct engine_gaps gaps[2];	/* by whether requests are in flight */
	struct engine_gaps *of;		/* these, in the present gap */
	uint64_t idle_since_ns;		/* 0: not idle */
	uint64_t for_ns;		/* after it began */
	uint32_t looks;			/* since it began */
	bool trial;
	bool makes_way;			/* sleeps at once, for who ends it needs this processor */
};

struct uring;
struct sync_io;

struct virtq_engine {
	const struct engine_io *io;	/* constant once open() succeeded, until it fails */
	enum virtq_engine_kind kind;	/* constant */
	union {
		struct uring *uring;
		struct sync_io *sync;
	};
	struct virtq_engine_config config;	/* constant */
	pthread_t thread;		/* the engine's: of its own, or the caller's; constant */
	int wake_fd;			/* constant; written by others */

	struct virtq_engine_queue *queues;
	struct virtq_engine_queue **table;	/* by index; NULL where free */
	uint32_t table_size;
	uint32_t promised;		/* entries kept free for queues that will arrive */
	uint32_t credits;		/* operations that may be performed at once */
	uint32_t reserve;		/* of these each queue has for itself, */
	uint32_t shared;		/* and this is for whoever has more to do: */
	uint32_t shared_used;		/* queues' operations above their reserves */
	uint32_t hungry;		/* queues that take requests and are */
	uint32_t performing;		/* operations of all queues */
	uint32_t generation;		/* of the last cookie */
	uint64_t uses;			/* VIRTQ_USE_...; others read it, shm_word_*() */
	struct engine_slot *completed, **completed_end;
	struct engine_timer timers;	/* head of a circle; soonest first */
	struct engine_msg *deferred;	/* set_map messages that wait for requests to end */
	uint64_t guard_epoch;		/* when queue_check_memory() was last called */
	bool turn_first;		/* something is under way or was seen: turn before arming */
	bool quit;
	int failed;			/* -errno for which nothing can be done: give up */
	int abandoned_fd;		/* see engine_io.abandon(); -1 for none */
	void *abandoned;
	uint64_t error;			/* errno, for others to read, shm_word_*(); 0: none */
	bool turning;			/* within a round: models must not call the engine */
	struct engine_spin spin;
	/*
	 * What the clock said last, or 0 where time may have gone by since: after a
	 * system call or what a model did. So a busy engine looks once for each batch.
	 */
	uint64_t now_ns;

	/*
	 * [E] No lost news. The engine stores @sleeping, then looks at @mail and at
	 * the queues' news before it sleeps; others store those, then look at
	 * @sleeping to see whether they must write to wake_fd. Full fences between,
	 * in may_sleep() and engine_wake(). Through shm_flag_*().
	 */
	bool sleeping;

	/* The box. Owner: whoever holds the lock; @mail through shm_flag_*(). */
	pthread_mutex_t lock;
	pthread_cond_t answered;
	struct engine_msg *box, **box_end;
	bool mail;
	bool started;
	int start_result;
	struct virtq_error start_error;
};

extern const struct engine_io uring_io, sync_io, failed_io;

/* A number for the next cookie: never 0, and 2^28 operations until one returns. */
static inline uint32_t engine_generation(struct virtq_engine *e)
{
	e->generation = (e->generation + 1) & 0xfffffff;
	if (!e->generation)
		e->generation = 1;
	return e->generation;
}

/* A piece of an operation has ended: @result bytes or -errno. Nothing is staged here. */
void engine_completed(struct virtq_engine *e, struct engine_slot *slot, int64_t result);

_Static_assert(sizeof(struct virtq_span) == sizeof(struct iovec) &&
	       offsetof(struct virtq_span, base) == offsetof(struct iovec, iov_base) &&
	       offsetof(struct virtq_span, len) == offsetof(struct iovec, iov_len),
	       "spans are handed to the kernel as they are");

/* What a READ or WRITE goes on with: some whole spans, or the beginning of one. */
struct engine_piece {
	const struct iovec *iov;
	uint32_t count;
	uint64_t bytes;
};

static inline struct engine_piece engine_piece(const struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	const struct virtq_cursor *c = op->kind == VIRTQ_OP_READ ? &slot->req->wr :
								   &slot->req->rd;
	const struct virtq_span *spans = op->spans ? op->spans : c->spans;
	uint32_t left = op->spans ? op->span_count : c->count;
	struct engine_piece p = { (const struct iovec *)(const void *)spans, 0, 0 };

	while (p.count < left && p.count < ENGINE_SPANS_MAX &&
	       p.bytes + spans[p.count].len <= ENGINE_TURN_BYTES)
		p.bytes += spans[p.count++].len;
	if (!p.bytes && p.count < left) {
		p.iov += p.count;
		p.count = 1;
		p.bytes = p.iov->iov_len < ENGINE_TURN_BYTES ? p.iov->iov_len : ENGINE_TURN_BYTES;
	}
	return p;
}

/* The kick fd is readable, or with @hung_up will never be again. */
void engine_kicked(struct virtq_engine_queue *q, bool readable, bool hung_up);

/* ---- queue.c ---- */

int queue_create(struct virtq_engine *e, const struct virtq_engine_queue_config *config,
		 struct virtq_engine_queue **out);
void queue_free(struct virtq_engine_queue *q);

/* It is enabled, whole, and nobody wants it to end. */
bool queue_takes_requests(const struct virtq_engine_queue *q);
/* How many operations such a queue may add. */
uint32_t queue_credits(const struct virtq_engine_queue *q);
/* Station 1 to 3. Returns true if the ring may hold more that can be taken now. */
bool queue_serve(struct virtq_engine_queue *q);
/* The loan of @req ends here; the driver sees it at the next publication. */
void queue_give_back(struct virtq_engine_queue *q, struct virtq_req *req);
/* Signal the driver; or owe it nothing any more, for somebody else has @signalled, or nobody will. */
void queue_call(struct virtq_engine_queue *q);
void queue_forget_call(struct virtq_engine_queue *q, bool signalled);
/* Station 5: push, publish, call. */
void queue_publish(struct virtq_engine_queue *q);
/* The queues have changed, or which of them take requests: divide the credits anew. */
void queues_share_credits(struct virtq_engine *e);
/* What is in flight goes on; nothing new is taken. For queues that are not broken already. */
void queue_mark_broken(struct virtq_engine_queue *q, enum virtq_fault_code code, uint64_t value);
/* A peer has taken away memory: break the queue if it was its own. */
void queue_check_memory(struct virtq_engine_queue *q);
/* Let other threads see the counters. */
void queue_show_stats(struct virtq_engine_queue *q);
/* The words of the counters that are shown together, which are all but latency. */
#define STATS_WORDS (offsetof(struct virtq_engine_stats, latency) / sizeof(uint64_t))
/* Replace an fd; the old one is closed once nothing uses it. */
void queue_set_fd(struct virtq_engine_queue *q, enum virtq_engine_fd which, int fd);
/* Write 8 bytes unless that would have to wait. */
void fd_signal(int fd);
/* Set O_NONBLOCK. Returns false if it was not set before. */
bool fd_make_nonblocking(int fd);
/* Nothing in flight and everything published: undo what queue_create() took but the ring. */
void queue_close_fds(struct virtq_engine_queue *q);
/* It has begun or ceased to take requests: the kick fd is listened to, or left alone. */
void queue_listen(struct virtq_engine_queue *q);
/* So many were for nothing that they are left alone for a moment: some fds always have one. */
bool queue_kicks_rest(struct virtq_engine_queue *q);

/* ---- request.c ---- */

/* Station 3. */
void request_start(struct virtq_engine_queue *q, struct virtq_req *req, uint64_t now_ns);
/* Station 4 for one piece of an operation. */
void queue_finish(struct engine_slot *slot);
/* The same where nothing is left to do: slot->result is how it went. */
void request_finish(struct virtq_engine_queue *q, struct engine_slot *slot);
/*
 * Station 4 for held requests that have ended, and operations that shall, see cancel.c.
 * Returns true if there were any.
 */
bool queue_finish_held(struct virtq_engine_queue *q);
/*
 * Go on with what waits for the queue's turn, and for credits. Returns true if some
 * of it has only to wait for the next turn.
 */
bool queue_begin_waiting(struct virtq_engine_queue *q);
/* What models begin from now on does not lead to an end: not for ever, then. */
void queue_give_chances(struct virtq_engine_queue *q);
/* End everything that is in flight, as soon as it can be. */
void queue_cancel(struct virtq_engine_queue *q);
/* Stop the clocks of what waits for them, and go on with all that at another engine. */
void queue_take_timers(struct virtq_engine_queue *q);
void queue_go_on(struct virtq_engine_queue *q);

/* ---- cancel.c ---- */

/* What models do not want any more, as taken out of virtq_engine_queue.filed. */
void queue_take_back_filed(struct virtq_engine_queue *q, struct engine_slot *slot);
/* Have the kernel give up all operations of the queue that it still can. */
void queue_take_back_all(struct virtq_engine_queue *q);

/* ---- life.c ---- */

void life_act(struct virtq_engine *e, struct engine_msg *msg);
/* Messages that had to wait for requests to end. */
void life_try_deferred(struct virtq_engine *e);
/* If nothing is in flight any more do what q->ending asks. Returns true if the queue is gone. */
bool life_end(struct virtq_engine *e, struct virtq_engine_queue *q);

/*
 * virtq_engine_remove(), or with @forget virtq_engine_reset(), that also fills
 * @final, unless NULL, with the counters as they stood after the last request.
 */
struct virtq_device *engine_remove_stats(struct virtq_engine_queue *queue, bool forget,
					 struct virtq_engine_stats *final);

/* ---- engine.c ---- */

/* Leave a message, wait until the engine has acted on it, or both. */
void engine_send(struct virtq_engine *e, struct engine_msg *msg);
int engine_await(struct virtq_engine *e, struct engine_msg *msg);
int engine_post(struct virtq_engine *e, struct engine_msg *msg);
/* On the engine's thread: the message is gone when this returns. */
void engine_answer(struct virtq_engine *e, struct engine_msg *msg, int result);

/* Something was filed for the engine: see that it looks. From any thread. */
void engine_wake(struct virtq_engine *e);

/* ---- failed.c ---- */

/* virtq_engine.failed was set: go on without performing anything. */
void engine_give_up(struct virtq_engine *e);

/* ---- spin.c ---- */

void spin_init(struct virtq_engine *e);
/* There was something to do, @arrived: also from a driver. */
void spin_worked(struct virtq_engine *e, bool arrived);
/* There is nothing to do. Look again, or sleep? */
bool spin_goes_on(struct virtq_engine *e);

/* ---- timer.c ---- */

uint64_t engine_now_ns(void);

/* As of this round: good enough for what is measured in microseconds. */
static inline uint64_t engine_now(struct virtq_engine *e)
{
	if (!e->now_ns)
		e->now_ns = engine_now_ns();
	return e->now_ns;
}

void timers_init(struct engine_timer *head);
/* Have @expired called once, on the engine's thread. Not while the timer is set. */
void timer_set(struct virtq_engine *e, struct engine_timer *timer, uint64_t after_ns,
	       void (*expired)(struct virtq_engine *e, struct engine_timer *timer));
/* Set one again that was cleared, for when it was due. */
void timer_set_again(struct virtq_engine *e, struct engine_timer *timer);
/* Returns false if it was not set. */
bool timer_clear(struct engine_timer *timer);
/* Call what is due. */
void timers_run(struct virtq_engine *e);
/* How long until the next is due. Returns false if there is none. */
bool timers_left_ns(const struct virtq_engine *e, uint64_t *left_ns);

static inline bool timers_any(const struct virtq_engine *e)
{
	return e->timers.next != &e->timers;
}

#endif
