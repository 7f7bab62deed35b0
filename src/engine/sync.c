/* SPDX-License-Identifier: MIT */
/*
 * Operations one at a time through preadv, pwritev and fdatasync, kicks through
 * poll: for kernels that refuse io_uring, and as the simple case to compare
 * the other with.
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"

#define SPANS_MAX 1024u		/* the kernel's UIO_MAXIOV */

struct sync_io {
	struct pollfd *fds;	/* the wake-up fd, then one per queue, then those of POLL */
	struct virtq_engine_queue **queues;	/* whose they are */
	struct engine_slot *waiting;		/* POLL operations, in the order of their fds */
	uint32_t room;
};

static int sync_grow(struct virtq_engine *e, uint32_t queues, uint32_t slots)
{
	struct sync_io *s = e->sync;
	uint32_t room = 1 + queues + slots;
	struct pollfd *fds;
	struct virtq_engine_queue **owners;

	if (room <= s->room)
		return 0;
	fds = realloc(s->fds, room * sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	s->fds = fds;
	owners = realloc(s->queues, room * sizeof(*owners));
	if (!owners)
		return -ENOMEM;
	s->queues = owners;
	s->room = room;
	return 0;
}

static void sync_close(struct virtq_engine *e)
{
	free(e->sync->fds);
	free(e->sync->queues);
	free(e->sync);
}

static int sync_open(struct virtq_engine *e, struct virtq_error *err)
{
	e->sync = calloc(1, sizeof(*e->sync));
	if (!e->sync)
		return error_set(err, -ENOMEM, "no memory for an engine");
	if (sync_grow(e, 0, 0)) {
		sync_close(e);
		return error_set(err, -ENOMEM, "no memory for an engine");
	}
	return 0;
}

static void sync_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	struct virtq_span *spans;
	uint32_t left = engine_spans(slot, &spans);
	/* Same layout, asserted in uring.c. The kernel cuts at 0x7ffff000 bytes by itself. */
	const struct iovec *iov = (const struct iovec *)(const void *)spans;
	int count = (int)(left < SPANS_MAX ? left : SPANS_MAX);
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
		slot->next = e->sync->waiting;
		e->sync->waiting = slot;
		return;
	case VIRTQ_OP_TIMEOUT:	/* the engine's own */
		break;
	}
	engine_completed(e, slot, result < 0 ? -errno : result);
}

static void sync_cancel(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct engine_slot **link = &e->sync->waiting, *slot;

	while ((slot = *link)) {
		if (slot->queue != q) {
			link = &slot->next;
			continue;
		}
		*link = slot->next;
		engine_completed(e, slot, -ECANCELED);
	}
}

static void sync_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
			enum virtq_engine_fd which)
{
	struct pollfd room = { q->fds[which], POLLOUT, 0 };

	(void)e;
	/*
	 * The peer shares O_NONBLOCK with us and may have cleared it. Without
	 * room a signal is waiting already, and write() might block. What is
	 * left is a peer that fills its fd between these two calls; who has
	 * such peers has io_uring.
	 */
	if (poll(&room, 1, 0) == 1 && room.revents & POLLOUT)
		virtq_notify_send(q->fds[which]);
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

static void sync_watch(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	(void)e;
	(void)q;
}

static void sync_release(struct virtq_engine *e, struct virtq_engine_queue *q,
			 enum virtq_engine_fd which)
{
	(void)e;
	(void)q;
	(void)which;
}

/* Sleep until something happens or a timer is due; without @wait only look. */
static bool poll_all(struct virtq_engine *e, nfds_t n, bool wait)
{
	struct timespec time = { 0, 0 };
	bool limited = !wait;
	uint64_t left_ns;

	if (wait && timers_left_ns(e, &left_ns)) {
		time.tv_sec = (time_t)(left_ns / 1000000000u);
		time.tv_nsec = (long)(left_ns % 1000000000u);
		limited = true;
	}
	return ppoll(e->sync->fds, n, limited ? &time : NULL, NULL) > 0;
}

/* Complete the POLL operations whose fds, from @fd on, have something to say. */
static void end_waiting(struct virtq_engine *e, const struct pollfd *fd)
{
	struct engine_slot **link = &e->sync->waiting, *slot;

	for (; (slot = *link); fd++) {
		if (!fd->revents) {
			link = &slot->next;
			continue;
		}
		*link = slot->next;
		engine_completed(e, slot, fd->revents & POLLNVAL ? -EBADF : fd->revents);
	}
}

static void sync_turn(struct virtq_engine *e, bool wait)
{
	struct sync_io *s = e->sync;
	nfds_t n = 1, kicks;

	/* Messages are seen by their flag, chains in their rings; POLL is seen here. */
	if (!wait && !s->waiting)
		return;
	s->fds[0] = (struct pollfd){ e->wake_fd, POLLIN, 0 };
	for (struct virtq_engine_queue *q = e->queues; q; q = q->next) {
		if (q->fds[VIRTQ_FD_KICK] < 0 || q->kick_dead)
			continue;
		s->queues[n] = q;
		s->fds[n++] = (struct pollfd){ q->fds[VIRTQ_FD_KICK], POLLIN | POLLRDHUP, 0 };
	}
	kicks = n;
	for (struct engine_slot *slot = s->waiting; slot; slot = slot->next)
		s->fds[n++] = (struct pollfd){ slot->op.fd, (short)slot->op.flags, 0 };
	if (!poll_all(e, n, wait))
		return;
	if (s->fds[0].revents)
		virtq_notify_clear(e->wake_fd);
	for (nfds_t i = 1; i < kicks; i++) {
		short got = s->fds[i].revents;

		if (got)
			engine_kicked(s->queues[i], got & POLLIN,
				      got & (POLLHUP | POLLRDHUP | POLLNVAL) ||
				      (got & POLLERR && !(got & POLLIN)));
	}
	end_waiting(e, &s->fds[kicks]);
}

const struct engine_io sync_io = {
	.kind = VIRTQ_ENGINE_SYNC,
	.open = sync_open,
	.close = sync_close,
	.grow = sync_grow,
	.perform = sync_perform,
	.cancel = sync_cancel,
	.signal = sync_signal,
	.watch = sync_watch,
	.drain = sync_drain,
	.release = sync_release,
	.turn = sync_turn,
};
