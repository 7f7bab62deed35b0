/* SPDX-License-Identifier: MIT */
/*
 * Operations one at a time through preadv, pwritev, fdatasync and fallocate;
 * kicks, and what is waited for, through epoll: for kernels that refuse io_uring,
 * and as the simple case to compare the other with.
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "ring/device.h"

#define EVENTS_MAX 64

struct sync_io {
	int epoll;
	uint32_t polls;		/* POLL operations under way */
};

/* What an event is about: the low bit says a slot, otherwise a queue; 0 is the wake-up fd. */
static int watch_fd(struct virtq_engine *e, int fd, uint32_t events, uintptr_t what)
{
	struct epoll_event event = { .events = events, .data.u64 = what };

	return epoll_ctl(e->sync->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void sync_close(struct virtq_engine *e)
{
	if (e->sync->epoll >= 0)
		close(e->sync->epoll);
	free(e->sync);
}

static int sync_open(struct virtq_engine *e, struct virtq_error *err)
{
	int rc;

	e->sync = calloc(1, sizeof(*e->sync));
	if (!e->sync)
		return error_set(err, -ENOMEM, "no memory for an engine");
	e->sync->epoll = epoll_create1(EPOLL_CLOEXEC);
	rc = e->sync->epoll < 0 ? -errno : watch_fd(e, e->wake_fd, EPOLLIN, 0);
	if (rc) {
		sync_close(e);
		return error_set_errno(err, rc, "cannot wait for events");
	}
	return 0;
}

static int sync_abandon(struct virtq_engine *e, void **memory)
{
	/* What is left are copies of fds of POLL operations, which are not with the kernel. */
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		uint32_t size = virtq_device_ring(q->ring)->size;

		for (uint32_t i = 0; i < size; i++)
			if (q->slots[i].generation)
				close((int)q->slots[i].generation - 1);
	}
	close(e->sync->epoll);
	*memory = e->sync;
	return -1;
}

static int sync_fd(const struct virtq_engine *e)
{
	return e->sync->epoll;
}

/* ---- POLL --------------------------------------------------------------- */

/* slot->generation is the fd it waits on, plus one. */
static void end_poll(struct virtq_engine *e, struct engine_slot *slot, int64_t result)
{
	int fd = (int)slot->generation - 1;

	/* Closing it is not enough: the file it is a copy of stays open. */
	epoll_ctl(e->sync->epoll, EPOLL_CTL_DEL, fd, NULL);
	close(fd);
	slot->generation = 0;
	e->sync->polls--;
	engine_completed(e, slot, result);
}

static void begin_poll(struct virtq_engine *e, struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	/* A copy: the same file may be waited for by several, or be somebody's kick. */
	int fd = fcntl(op->fd, F_DUPFD_CLOEXEC, 0);
	int rc;

	if (fd < 0) {
		engine_completed(e, slot, -errno);
		return;
	}
	slot->generation = (uint32_t)fd + 1;
	e->sync->polls++;
	rc = watch_fd(e, fd, op->flags, (uintptr_t)slot | 1);
	if (rc == -EPERM)	/* a regular file: always ready */
		rc = (int)(op->flags & (POLLIN | POLLOUT));
	if (rc)
		end_poll(e, slot, rc);
}

static void sync_cancel(struct virtq_engine *e, struct engine_slot *slot)
{
	end_poll(e, slot, -ECANCELED);
}

/* ---- Operations --------------------------------------------------------- */

static void sync_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	struct engine_piece p = engine_piece(slot);
	const struct iovec one = { p.count == 1 ? p.iov->iov_base : NULL, p.bytes };
	const struct iovec *iov = p.count == 1 ? &one : p.iov;
	int count = (int)p.count;
	int64_t result = -EINVAL;

	switch (op->kind) {
	case VIRTQ_OP_READ:
		result = preadv(op->fd, iov, count, (off_t)op->offset);
		if (result < 0 && errno == ESPIPE)	/* what has no offsets: as io_uring does */
			result = readv(op->fd, iov, count);
		break;
	case VIRTQ_OP_WRITE:
		result = pwritev(op->fd, iov, count, (off_t)op->offset);
		if (result < 0 && errno == ESPIPE)
			result = writev(op->fd, iov, count);
		break;
	case VIRTQ_OP_SYNC:
		result = fdatasync(op->fd);
		break;
	case VIRTQ_OP_ALLOCATE:
		result = fallocate(op->fd, (int)op->flags, (off_t)op->offset, (off_t)op->bytes);
		break;
	case VIRTQ_OP_POLL:
		begin_poll(e, slot);
		return;
	case VIRTQ_OP_TIMEOUT:	/* the engine's own */
	case VIRTQ_OP_TURN:
		break;
	}
	engine_completed(e, slot, result < 0 ? -errno : result);
	e->now_ns = 0;
}

/* ---- Kicks and calls ---------------------------------------------------- */

static void sync_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
			enum virtq_engine_fd which)
{
	(void)e;
	fd_signal(q->fds[which]);
}

static void sync_drain(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	int fd = q->fds[VIRTQ_FD_KICK];
	char sink[512];
	struct iovec iov = { sink, sizeof(sink) };

	(void)e;
	/* Once, not until it is empty: it may be a file that never is. */
	if (fd < 0 || preadv2(fd, &iov, 1, -1, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP)
		return;
	/* A pipe on an older kernel. poll() said that there is something. */
	fd_make_nonblocking(fd);
	if (read(fd, sink, sizeof(sink)) < 0)
		return;
}

/* aux[AUX_POLL].generation says that the kick fd is in the epoll. */
static void unwatch(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	if (!q->aux[AUX_POLL].generation)
		return;
	epoll_ctl(e->sync->epoll, EPOLL_CTL_DEL, q->fds[VIRTQ_FD_KICK], NULL);
	q->aux[AUX_POLL].generation = 0;
}

static void sync_watch(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	int rc;

	if (UNLIKELY(q->kick_dead)) {
		unwatch(e, q);
		return;
	}
	if (LIKELY(q->aux[AUX_POLL].generation) || q->fds[VIRTQ_FD_KICK] < 0)
		return;
	/* On each signal, not as long as there is one: it may be a file that is never empty. */
	rc = watch_fd(e, q->fds[VIRTQ_FD_KICK], EPOLLIN | EPOLLRDHUP | EPOLLET, (uintptr_t)q);
	if (LIKELY(!rc)) {
		q->aux[AUX_POLL].generation = 1;
	} else {
		/* Nobody would hear the driver. */
		q->kick_dead = true;
		queue_mark_broken(q, VIRTQ_FAULT_ENGINE, (uint64_t)-rc);
	}
}

static void sync_release(struct virtq_engine *e, struct virtq_engine_queue *q,
			 enum virtq_engine_fd which)
{
	if (which == VIRTQ_FD_KICK)
		unwatch(e, q);
}

/* ---- A turn ------------------------------------------------------------- */

static int timeout_ms(const struct virtq_engine *e, enum engine_turn how)
{
	uint64_t left_ns;

	if (how != TURN_SLEEP)
		return 0;
	if (!timers_left_ns(e, &left_ns))
		return -1;
	left_ns = (left_ns + 999999) / 1000000;	/* not before it is due */
	return left_ns < INT_MAX ? (int)left_ns : INT_MAX;
}

static void happened(struct virtq_engine *e, const struct epoll_event *event)
{
	uintptr_t what = (uintptr_t)event->data.u64;
	uint32_t got = event->events;

	if (!what) {
		virtq_notify_clear(e->wake_fd);
		return;
	}
	if (what & 1) {
		end_poll(e, (struct engine_slot *)(what - 1), got);
		return;
	}
	engine_kicked((struct virtq_engine_queue *)what, got & EPOLLIN,
		      got & (EPOLLHUP | EPOLLRDHUP) || (got & EPOLLERR && !(got & EPOLLIN)));
}

static bool sync_turn(struct virtq_engine *e, enum engine_turn how)
{
	struct epoll_event events[EVENTS_MAX];
	int n;

	/* Messages are seen by their flag, chains in their rings; POLL is seen here. */
	if (how == TURN_ON && !e->sync->polls)
		return false;
	n = epoll_wait(e->sync->epoll, events, EVENTS_MAX, timeout_ms(e, how));
	if (UNLIKELY(n < 0) && errno != EINTR)
		e->failed = -errno;
	for (int i = 0; i < n; i++)
		happened(e, &events[i]);
	return n > 0;
}

const struct engine_io sync_io = {
	.kind = VIRTQ_ENGINE_SYNC,
	.open = sync_open,
	.close = sync_close,
	.abandon = sync_abandon,
	.fd = sync_fd,
	.perform = sync_perform,
	.cancel = sync_cancel,
	.signal = sync_signal,
	.watch = sync_watch,
	.drain = sync_drain,
	.release = sync_release,
	.turn = sync_turn,
};
