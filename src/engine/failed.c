/* SPDX-License-Identifier: MIT */
/*
 * An engine that cannot perform operations any more, because the kernel refuses
 * io_uring_enter() or epoll_wait() for good: a filter on system calls, a file descriptor
 * that somebody else has closed. It must neither hang nor spin nor keep silent.
 *
 * Its queues break, with VIRTQ_FAULT_ENGINE; what is in flight fails as soon as the
 * kernel has let go of it; and the loop goes on with what is in this file in place
 * of the lost engine_io: messages are answered, so that queues can be paused,
 * moved and removed, held requests end, calls go out.
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/shm.h"
#include "ring/device.h"

#define LOOK_MS 20		/* while there may be a read that takes our wake-ups */
#define CLOSE_MS 5000
#define RELEASE_MS 1000

/* The kernel has let go of everything: nothing is used any more, and who knows what it has done. */
static void let_go(struct virtq_engine *e)
{
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		uint32_t size = virtq_device_ring(q->ring)->size;

		for (uint32_t i = 0; i < size; i++) {
			struct engine_slot *slot = &q->slots[i];

			if (!slot->generation)
				continue;
			slot->generation = 0;
			engine_completed(e, slot, -EOWNERDEAD);
		}
	}
	if (e->abandoned_fd >= 0)
		close(e->abandoned_fd);
	e->abandoned_fd = -1;
}

void engine_give_up(struct virtq_engine *e)
{
	const struct engine_io *was = e->io;
	int flags = fcntl(e->wake_fd, F_GETFL);

	e->abandoned_fd = was->abandon(e, &e->abandoned);
	/* Afterwards: how a queue hears of kicks says what its last completions mean. */
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next)
		if (was->leave)
			was->leave(e, q);
	e->io = &failed_io;
	/* From here on it is read by this thread, which must not wait in read(). */
	fcntl(e->wake_fd, F_SETFL, flags | O_NONBLOCK);
	if (e->abandoned_fd < 0)
		let_go(e);
	shm_word_write(&e->error, (uint64_t)-e->failed);
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		/* What it was told before may not have got out. */
		if (q->broken && q->fds[VIRTQ_FD_ERR] >= 0)
			failed_io.signal(e, q, VIRTQ_FD_ERR);
		queue_mark_broken(q, VIRTQ_FAULT_ENGINE, (uint64_t)-e->failed);
		queue_give_chances(q);
		if (q->fds[VIRTQ_FD_CALL] < 0 || q->forget)
			continue;
		/* The last calls may not have got out; a call that was owed is what this one is. */
		queue_forget_call(q, true);
		failed_io.signal(e, q, VIRTQ_FD_CALL);
	}
	if (e->config.failed)
		e->config.failed(e->config.failed_arg, e, e->failed);
}

int virtq_engine_error(const struct virtq_engine *engine)
{
	return -(int)shm_word_read(&engine->error);
}

/* ---- In place of what has failed ------------------------------------------ */

static void failed_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	/* The kernel never hears of it. */
	engine_completed(e, slot, -ECANCELED);
}

/* What the kernel still has it gives up by itself. */
static void failed_cancel(struct virtq_engine *e, struct engine_slot *slot)
{
	(void)e;
	(void)slot;
}

static void failed_nothing(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	(void)e;
	(void)q;
}

static void failed_release(struct virtq_engine *e, struct virtq_engine_queue *q,
			   enum virtq_engine_fd which)
{
	const struct engine_aux none = { .generation = 0 };
	struct pollfd gone = { e->abandoned_fd, POLLIN, 0 };

	/*
	 * A read that has not ended yet could take a kick that is for the next queue on
	 * the same fd. It ends within milliseconds, unless something else that the
	 * kernel has for this engine does not: then no longer than a moment.
	 */
	if (which == VIRTQ_FD_KICK && gone.fd >= 0 && poll(&gone, 1, RELEASE_MS) == 1)
		let_go(e);
	/* Whoever has the queue next would wait for them. */
	if (which == VIRTQ_FD_KICK)
		q->aux[AUX_POLL] = q->aux[AUX_DRAIN] = none;
	else
		q->aux[which == VIRTQ_FD_CALL ? AUX_CALL : AUX_ERR] = none;
}

static void failed_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
			  enum virtq_engine_fd which)
{
	(void)e;
	fd_signal(q->fds[which]);
}

static int timeout_ms(const struct virtq_engine *e)
{
	uint64_t left_ns, max_ms = e->abandoned_fd >= 0 ? LOOK_MS : 1000;

	if (!timers_left_ns(e, &left_ns) || left_ns > max_ms * 1000000)
		return (int)max_ms;
	return (int)((left_ns + 999999) / 1000000);
}

static bool failed_turn(struct virtq_engine *e, enum engine_turn how)
{
	struct pollfd fds[] = { { e->wake_fd, POLLIN, 0 }, { e->abandoned_fd, POLLIN, 0 } };
	int n = poll(fds, 2, how == TURN_SLEEP ? timeout_ms(e) : 0);

	/* This, too, or the wake-up fd itself? Then at least slowly. */
	if ((n < 0 && errno != EINTR) || (n > 0 && fds[0].revents & POLLNVAL)) {
		nanosleep(&(struct timespec){ 0, LOOK_MS * 1000000 }, NULL);
		n -= n > 0;
	}
	if (n <= 0)
		return false;
	if (fds[0].revents & POLLIN)
		virtq_notify_clear(e->wake_fd);
	if (fds[1].revents)
		let_go(e);
	return n > 0;
}

static void failed_close(struct virtq_engine *e)
{
	struct pollfd gone = { e->abandoned_fd, POLLIN, 0 };

	/* There are no queues any more; what the kernel had for them may still name this memory. */
	if (gone.fd >= 0 && poll(&gone, 1, CLOSE_MS) == 1)
		let_go(e);
	if (e->abandoned_fd < 0)
		free(e->abandoned);
	else
		close(gone.fd);		/* better lost than written to when it is somebody else's */
}

static int failed_fd(const struct virtq_engine *e)
{
	return e->wake_fd;
}

const struct engine_io failed_io = {
	.close = failed_close,
	.fd = failed_fd,
	.perform = failed_perform,
	.cancel = failed_cancel,
	.signal = failed_signal,
	.watch = failed_nothing,
	.drain = failed_nothing,
	.release = failed_release,
	.turn = failed_turn,
};
