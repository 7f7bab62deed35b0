/* SPDX-License-Identifier: MIT */
/*
 * The engine that turns device queues: pop, start, perform, finish, push,
 * publish, call.
 *
 * An engine is one thread that serves any number of queues of any number of
 * devices. Other threads speak to it by message only; every call below that
 * takes a queue posts one and waits until the engine has acted on it.
 *
 * The thread is the engine's own, or the caller's: a program with an event loop
 * waits there for virtq_engine_fd() and calls virtq_engine_step().
 */
#ifndef VIRTQ_ENGINE_H
#define VIRTQ_ENGINE_H

#include <virtq/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_engine;
struct virtq_engine_queue;

enum virtq_engine_kind {
	VIRTQ_ENGINE_AUTO,	/* uring where the kernel has it, else sync */
	VIRTQ_ENGINE_URING,	/* io_uring: I/O of all queues in flight at once */
	VIRTQ_ENGINE_SYNC,	/* preadv and pwritev, one request at a time */
};

/*
 * What an engine of kind VIRTQ_ENGINE_URING may use where the kernel has it; see
 * docs/engine.md. All but the first two are used unless forbidden.
 */
enum virtq_engine_use {
	VIRTQ_USE_SQPOLL	= 1,	/* a thread of the kernel takes what is submitted */
	VIRTQ_USE_BUFFERS	= 2,	/* guest memory is registered: pinned, all of it */
	VIRTQ_USE_FILES		= 4,	/* files that stay open are registered */
	VIRTQ_USE_RING_FD	= 8,	/* the io_uring's own fd is registered */
	VIRTQ_USE_SINGLE_ISSUER	= 16,	/* the kernel knows that one thread submits */
	VIRTQ_USE_DEFER_TASKRUN	= 32,	/* completions wait until that thread asks for them */
	VIRTQ_USE_MULTISHOT	= 64,	/* one poll for all kicks of a queue */
};

/* What an engine does that has nothing to do. */
enum virtq_spin {
	VIRTQ_SPIN_AUTO,	/* looks at its rings for a while, if that has paid before */
	VIRTQ_SPIN_OFF,		/* asks for kicks and sleeps at once */
	VIRTQ_SPIN_ALWAYS,	/* never sleeps while there is a queue that takes requests */
};

/**
 * struct virtq_engine_config - an engine to be made
 * @kind:    how it performs operations
 * @entries: io_uring submission entries, a power of two; 0 for 256
 * @spin:    what it does while there is nothing to do
 * @spin_us: for AUTO: how long it looks at most before it sleeps, microseconds, up
 *           to a million; 0 for 50
 * @drain_ms: how long requests in flight may take to end by themselves when their
 *           queue is paused or removed, milliseconds; then they are cancelled.
 *           0 for 5000
 * @failed:  called once if the engine cannot go on, see virtq_engine_error(); may be
 *           NULL. On the engine's thread: it may not wait for the engine
 * @failed_arg: handed to it
 * @stepped: not 0: no thread is started, the caller turns it; see
 *           virtq_engine_step()
 * @demand:  what it shall use beyond its habit: VIRTQ_USE_SQPOLL, which takes a
 *           second thread's time; VIRTQ_USE_BUFFERS, which allocates and locks all
 *           memory that a guest shares (RLIMIT_MEMLOCK). A guest that gives pages back
 *           (balloon, free page reporting) would lose data with the latter
 * @forbid:  VIRTQ_USE_... that it shall not use even so
 *
 * Since: 0.1
 */
struct virtq_engine_config {
	enum virtq_engine_kind kind;
	uint32_t entries;
	enum virtq_spin spin;
	uint32_t spin_us;
	uint32_t drain_ms;
	void (*failed)(void *arg, struct virtq_engine *engine, int error);
	void *failed_arg;
	int stepped;
	uint32_t demand;
	uint32_t forbid;
};

/**
 * virtq_engine_create - make an engine and start its thread
 * @out:    receives the engine
 * @config: copied
 * @err:    filled on failure; may be NULL
 *
 * Return: 0, or -ENOSYS (VIRTQ_ENGINE_URING and the kernel refuses io_uring),
 *	-EINVAL, -ENOMEM, -EMFILE, -EAGAIN.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_engine_create(struct virtq_engine **out,
				  const struct virtq_engine_config *config,
				  struct virtq_error *err);

/** virtq_engine_destroy - stop the thread and free it; its queues must be removed. NULL is fine. */
VIRTQ_API void virtq_engine_destroy(struct virtq_engine *engine);

/**
 * virtq_engine_step - turn a stepped engine: do what can be done without sleeping
 * @engine: made with stepped set
 *
 * What is to be done next, as a timeout for poll() or epoll_wait() on
 * virtq_engine_fd(): call it before the first wait and after each. It stays 0 while
 * the engine spins: always, with VIRTQ_SPIN_ALWAYS or a queue without a kick fd.
 *
 * The engine is the thread's that made it: only that one may step or destroy it.
 * The calls about queues may come from there, between steps, and turn the engine
 * while they wait; or from others, which wait until it is stepped. Two threads that
 * move queues to each other's stepped engines at the same time wait for each
 * other, for ever: neither steps its own meanwhile.
 *
 * A peer that closes its end of a pipe or socket raises no SIGPIPE in a step. Should
 * operations of models write to such files, ignore the signal even so: a write that
 * had to wait may go on after the step.
 *
 * Return: 0: call it again at once; -1: when the fd is readable; more than 0: or
 *	after so many milliseconds; or -EINVAL for an engine with a thread of its
 *	own. Does not block. Since: 0.1
 */
VIRTQ_API int virtq_engine_step(struct virtq_engine *engine);

/**
 * virtq_engine_fd - what to wait for, POLLIN, between steps
 *
 * Another one after the engine has failed; until it is asked for, steps come often enough.
 *
 * Return: the fd, which stays the engine's; -EINVAL if it is not stepped.
 */
VIRTQ_API int virtq_engine_fd(const struct virtq_engine *engine);

/**
 * virtq_engine_error - why the engine cannot go on
 * @engine: the engine
 *
 * The kernel refuses what an engine cannot do without: a filter on system calls
 * has come up, or somebody has closed its fd. Then its queues break with
 * VIRTQ_FAULT_ENGINE, their err fds are signalled, and requests in flight fail
 * once the kernel has let go of their memory. It takes no queues any more, but pause,
 * remove and move work as ever; start the queues anew on another engine.
 *
 * Return: 0, or -errno of what failed. Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_engine_error(const struct virtq_engine *engine);

/** virtq_engine_kind - what AUTO became. */
VIRTQ_API enum virtq_engine_kind virtq_engine_kind(const struct virtq_engine *engine);

/**
 * virtq_engine_uses - what it uses of enum virtq_engine_use
 *
 * Files and buffers count from the first that the kernel took on.
 *
 * Return: VIRTQ_USE_...; 0 for VIRTQ_ENGINE_SYNC. Thread: any. Since: 0.1
 */
VIRTQ_API uint32_t virtq_engine_uses(const struct virtq_engine *engine);

/**
 * struct virtq_engine_queue_config - a queue to be turned
 * @model:   what its requests mean; must outlive the queue
 * @ring:    the device end; taken: belongs to the engine until removed
 * @enabled: false to leave the driver's buffers alone until
 *           virtq_engine_queue_enable()
 * @kick_fd: readable when the driver has published, or -1 to poll the ring; this queue's
 *           alone, since what one queue takes out another does not see
 * @call_fd: gets 8 bytes written when the driver asked to be called, or -1
 * @err_fd:  gets 8 bytes written when the queue breaks, or -1
 *
 * The fds are eventfds, pipes or sockets; taken: closed when replaced or when
 * the queue is removed.
 *
 * Since: 0.1
 */
struct virtq_engine_queue_config {
	struct virtq_model *model;
	struct virtq_device *ring;
	int enabled;
	int kick_fd;
	int call_fd;
	int err_fd;
};

/**
 * virtq_engine_add - let the engine turn a queue
 * @engine: the engine
 * @config: the queue
 * @out:    receives a handle for the calls below
 *
 * The engine looks at the ring at once, whether or not a kick comes.
 *
 * Return: 0, or -ENOMEM, -EINVAL (a kick_fd that cannot be polled), -EIO (the
 *	engine has failed); nothing was taken then.
 * Thread: any but the engine's own. Since: 0.1
 */
VIRTQ_API int virtq_engine_add(struct virtq_engine *engine,
			       const struct virtq_engine_queue_config *config,
			       struct virtq_engine_queue **out);

/**
 * virtq_engine_remove - stop turning a queue
 * @queue: the handle; invalid afterwards
 *
 * Takes no new request and gives those in flight until the engine's drain_ms to
 * end. Then it has the kernel give up what it can, and asks the model to end
 * what it holds; the driver sees these requests as failed. All are published,
 * and the fds closed. After it returns nothing of the engine, the kernel or the
 * model touches the ring or the memory.
 *
 * An operation that the kernel cannot give up (it has begun on a file whose
 * storage does not answer) is waited for, and one of VIRTQ_ENGINE_SYNC always.
 *
 * Return: the device end, to ask for its position and destroy.
 * Thread: any but the engine's own; the calls about one queue come one after
 *	the other, as for all of those below. Since: 0.1
 */
VIRTQ_API struct virtq_device *virtq_engine_remove(struct virtq_engine_queue *queue);

/**
 * virtq_engine_reset - stop turning a queue whose driver is not interested any more
 * @queue: the handle; invalid afterwards
 *
 * As virtq_engine_remove(), but what is in flight is cancelled at once, and
 * nothing is given back or signalled: for a driver that resets the queue or
 * device (VIRTIO 1.4, 2.6.1 and 2.4).
 *
 * Return: the device end, to be destroyed: requests are on loan from it. Since: 0.1
 */
VIRTQ_API struct virtq_device *virtq_engine_reset(struct virtq_engine_queue *queue);

/**
 * virtq_engine_pause - bring queues to a standstill
 * @queues: of any engines
 * @count:  how many
 * @positions: receives where each will go on, see virtq_driver_position(); may
 *          be NULL
 *
 * Takes no new requests and waits for those in flight, of all queues at the same
 * time, as virtq_engine_remove() does. Then all are published, and neither
 * rings nor memory are touched until the queues are resumed. Kicks that come from the
 * call on stay in the kick fd, for somebody else or for later; earlier ones may have been
 * taken out, so who goes on looks at the ring first.
 *
 * Return: 0; 1 if requests were cancelled because they took too long; -ENOMEM
 *	(nothing was done).
 * Since: 0.1
 */
VIRTQ_API int virtq_engine_pause(struct virtq_engine_queue *const *queues, unsigned int count,
				 uint32_t *positions);

/** virtq_engine_resume - let a paused queue go on; the ring is looked at at once. */
VIRTQ_API void virtq_engine_resume(struct virtq_engine_queue *queue);

/**
 * virtq_engine_move - let another engine turn a queue
 * @queue: running or paused; the handle stays
 * @to:    the other engine
 *
 * Operations in flight end on the old engine, or are taken back by the kernel
 * and performed by the new one; held requests stay held. The driver notices
 * nothing but a pause.
 *
 * Return: 0, or -ENOMEM or -EIO (@to has failed): it stayed where it is. Since: 0.1
 */
VIRTQ_API int virtq_engine_move(struct virtq_engine_queue *queue, struct virtq_engine *to);

/**
 * virtq_engine_queue_enable - begin or cease to take requests; those in flight go on
 *
 * Kicks are left in the kick fd of a queue that is not enabled, and its ring is looked at
 * at once when it is.
 */
VIRTQ_API void virtq_engine_queue_enable(struct virtq_engine_queue *queue, int enabled);

/* Which of a queue's fds virtq_engine_queue_set_fd() replaces. */
enum virtq_engine_fd { VIRTQ_FD_KICK, VIRTQ_FD_CALL, VIRTQ_FD_ERR };

/**
 * virtq_engine_queue_set_fd - replace one fd of a running queue
 * @fd: taken; -1 for none. A new call fd is signalled once, so that no call is lost
 *
 * Return: 0, or -EINVAL (a kick fd that cannot be polled); nothing was taken then.
 */
VIRTQ_API int virtq_engine_queue_set_fd(struct virtq_engine_queue *queue,
					enum virtq_engine_fd which, int fd);

/**
 * virtq_engine_queue_coalesce - let calls wait for each other
 * @queue: the queue
 * @count: so many requests share a call; 0 or 1: none waits
 * @us:    but none waits longer, microseconds, up to a million; 0: none waits.
 *         VIRTQ_ENGINE_SYNC rounds up to milliseconds
 *
 * A call waits only as long as other requests of the queue are in flight: a driver
 * with one request at a time is called at once. Held requests count, too, and may
 * be long in coming. Stays as it is when the queue pauses or moves; what is owed is sent
 * first.
 *
 * Return: 0, or -EINVAL (@us too large). Thread: any, and at any time. Since: 0.1
 */
VIRTQ_API int virtq_engine_queue_coalesce(struct virtq_engine_queue *queue, uint32_t count,
					  uint32_t us);

/**
 * virtq_engine_queue_set_map - virtq_device_set_map() on the engine's thread
 *
 * Where requests in flight hold as many older maps as there can be, waits until
 * some have ended; -EBUSY if they have not within the engine's drain_ms.
 */
VIRTQ_API int virtq_engine_queue_set_map(struct virtq_engine_queue *queue,
					 struct virtq_map *map,
					 const struct virtq_ring *ring);

#define VIRTQ_LATENCY_BUCKETS 24u

/**
 * struct virtq_engine_stats - what a queue has done since it was added
 * @requests:  given back to the driver, however they went
 * @malformed: that meant nothing
 * @failed:    answered as failed, or whose last word was an operation or a hold
 *             that ended with an error; see struct virtq_model_ops
 * @cancelled: of the failed: by pause, remove or reset
 * @bytes_read: given to drivers, of what the device holds; and @bytes_written taken
 *             from them. Counted when the request ends
 * @batches:   groups of requests given back, of as many as a round had
 * @kicks:     times that the kick fd was seen readable
 * @calls:     times that the call fd was signalled because of a batch
 * @suppressed: batches that the driver did not want to be called for
 * @coalesced: batches that shared the call of an earlier one
 * @sleeps:    times that the engine slept
 * @latency:   requests by the time from pop to publication: [0] less than 1
 *             microsecond, [n] 2^(n-1) to 2^n microseconds, the last also longer
 *
 * Counts; bytes in bytes. Consistent with each other as of one moment, but for
 * @latency, which may be a few requests ahead.
 */
struct virtq_engine_stats {
	uint64_t requests, malformed, failed;
	uint64_t cancelled;
	uint64_t bytes_read, bytes_written;
	uint64_t batches;
	uint64_t kicks, calls, suppressed, coalesced;
	uint64_t sleeps;
	uint64_t latency[VIRTQ_LATENCY_BUCKETS];
};

/** virtq_engine_queue_stats - read the counters. Thread: any, while the queue is there. */
VIRTQ_API void virtq_engine_queue_stats(struct virtq_engine_queue *queue,
					struct virtq_engine_stats *stats);

#ifdef __cplusplus
}
#endif

#endif
