/* SPDX-License-Identifier: MIT */
/*
 * The fds that an io_uring engine shares with its peers: kicks that come, calls and
 * error signals that go. Whatever a peer does with its end, nothing here waits for it.
 *
 * Of each fd of a queue at most one submission is out, the one whose generation is in
 * virtq_engine_queue.aux; but for calls of which only failure is told.
 */
#include "engine/uring.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/shm.h"


static uint64_t aux_cookie(const struct virtq_engine_queue *q, enum engine_aux_kind kind)
{
	return uring_cookie(COOKIE_AUX, q->aux[kind].generation, q->index, kind);
}

/* ---- Signals that go: calls and errors ----------------------------------- */

/*
 * Stage a write that may wait for room in the kernel, where it holds up nobody.
 * Only one for each fd, so that a peer who leaves its fd full cannot pile them up.
 */
static void stage_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
			 enum virtq_engine_fd which, enum engine_aux_kind kind)
{
	struct io_uring_sqe *sqe = uring_sqe(e);

	io_uring_prep_write(sqe, q->fds[which], &e->uring->one, sizeof(e->uring->one), 0);
	q->aux[kind].generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, aux_cookie(q, kind));
}

void uring_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
		  enum virtq_engine_fd which)
{
	enum engine_aux_kind kind = which == VIRTQ_FD_CALL ? AUX_CALL : AUX_ERR;
	struct engine_aux *aux = &q->aux[kind];
	struct io_uring_sqe *sqe;

	aux->again = aux->generation != 0;
	if (aux->again)
		return;
	if (kind != AUX_CALL || !e->uring->skip_success || !q->uring || q->uring->heard) {
		stage_signal(e, q, which, kind);
		return;
	}
	/*
	 * The completion of a call that went out would only end the sleep that follows.
	 * NOWAIT: it is over when it is submitted, and is not left behind in the kernel.
	 */
	sqe = uring_sqe(e);
	io_uring_prep_write(sqe, q->fds[which], &e->uring->one, sizeof(e->uring->one), 0);
	sqe->rw_flags = RWF_NOWAIT;
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, uring_cookie(COOKIE_QUIET, 0, q->index, 0));
}

/*
 * A call of which nobody waited to hear did not go out. The fd may be full, and a
 * signal waits there; but an eventfd that blocks refuses with room as well, and so
 * do older kernels' pipes. So send it again as one that may wait.
 */
bool uring_call_failed(struct virtq_engine_queue *q)
{
	if (!q->uring || q->fds[VIRTQ_FD_CALL] < 0)
		return false;
	q->uring->heard = true;
	q->aux[AUX_CALL].again = true;
	return true;
}

/* ---- Kicks that come ------------------------------------------------------ */

static void poll_completed(struct uring *u, struct virtq_engine_queue *q, int res,
			   unsigned int flags)
{
	if (!(flags & IORING_CQE_F_MORE))
		q->aux[AUX_POLL].generation = 0;	/* uring_watch() begins anew */
	if (res == -EINVAL && q->aux[AUX_POLL].multishot) {
		/* Perhaps not the first that was refused: others were under way. */
		u->multishot = false;
		shm_word_write(&q->engine->uses, q->engine->uses & ~(uint64_t)VIRTQ_USE_MULTISHOT);
	} else if (res == -ECANCELED || res == -EINTR || res == -EAGAIN || res == -ENOMEM) {
		return;
	} else if (res < 0) {
		engine_kicked(q, false, true);
	} else {
		engine_kicked(q, res & POLLIN, res & (POLLHUP | POLLRDHUP | POLLNVAL) ||
					       (res & POLLERR && !(res & POLLIN)));
	}
}

static void drain_completed(struct virtq_engine_queue *q, int res)
{
	q->aux[AUX_DRAIN].generation = 0;
	if (res == -EOPNOTSUPP && !q->plain_drain) {
		q->plain_drain = true;
		q->kicked = true;
	} else if (res > 0 && q->plain_drain) {
		/* It may have waited, and have taken a kick that the poll then missed. */
		engine_kicked(q, true, false);
	}
}

void uring_watch(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct io_uring_sqe *sqe;

	if (UNLIKELY(q->aux[AUX_CALL].again && !q->aux[AUX_CALL].generation))
		uring_signal(e, q, VIRTQ_FD_CALL);
	if (UNLIKELY(q->aux[AUX_ERR].again && !q->aux[AUX_ERR].generation))
		uring_signal(e, q, VIRTQ_FD_ERR);
	if (LIKELY(q->aux[AUX_POLL].generation) || q->fds[VIRTQ_FD_KICK] < 0 || q->kick_dead)
		return;
	/* Perhaps a file that is readable for ever, of which each poll says so at once. */
	if (UNLIKELY(!e->uring->multishot) && queue_kicks_rest(q))
		return;
	sqe = uring_sqe(e);
	if (e->uring->multishot)
		io_uring_prep_poll_multishot(sqe, q->fds[VIRTQ_FD_KICK], POLLIN | POLLRDHUP);
	else
		io_uring_prep_poll_add(sqe, q->fds[VIRTQ_FD_KICK], POLLIN | POLLRDHUP);
	q->aux[AUX_POLL].generation = engine_generation(e);
	q->aux[AUX_POLL].multishot = e->uring->multishot;
	io_uring_sqe_set_data64(sqe, aux_cookie(q, AUX_POLL));
}

/*
 * NOWAIT and not a trust in O_NONBLOCK: the flag lies in the open file, which
 * is the peer's as well. The read happens while it is submitted, and that must
 * be before the ring is armed: drained later, it could swallow the kick for a
 * chain that came after the last look, and whether a poll still reports what
 * is no longer there is up to the kernel.
 */
void uring_drain(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct engine_aux *aux = &q->aux[AUX_DRAIN];
	struct io_uring_sqe *sqe;

	if (q->fds[VIRTQ_FD_KICK] < 0 || (q->plain_drain && aux->generation))
		return;
	if (e->uring->sqpoll && !q->plain_drain) {
		/* Submitted by another thread it could happen after arming. */
		struct iovec iov = { e->uring->sink, sizeof(e->uring->sink) };

		if (preadv2(q->fds[VIRTQ_FD_KICK], &iov, 1, -1, RWF_NOWAIT) < 0 &&
		    errno == EOPNOTSUPP)
			drain_completed(q, -EOPNOTSUPP);
		return;
	}
	sqe = uring_sqe(e);
	io_uring_prep_read(sqe, q->fds[VIRTQ_FD_KICK], e->uring->sink, sizeof(e->uring->sink),
			   (uint64_t)-1);
	if (!q->plain_drain) {
		sqe->rw_flags = RWF_NOWAIT;
		if (e->uring->skip_success)
			sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	}
	aux->generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, aux_cookie(q, AUX_DRAIN));
	e->turn_first = true;
}

/* ---- What has completed, and what ends ------------------------------------ */

bool uring_fd_completed(struct virtq_engine *e, struct virtq_engine_queue *q,
			enum engine_aux_kind kind, const struct io_uring_cqe *cqe)
{
	switch (kind) {
	case AUX_POLL:
		poll_completed(e->uring, q, cqe->res, cqe->flags);
		return true;
	case AUX_DRAIN:
		drain_completed(q, cqe->res);
		return true;
	default:
		/* A call or an error signal. A full fd has a signal waiting already. */
		q->aux[kind].generation = 0;
		return q->aux[kind].again;
	}
}

/* Cancel one thing and wait until the kernel has let go of it. */
static void end_aux(struct virtq_engine *e, struct virtq_engine_queue *q,
		    enum engine_aux_kind kind)
{
	struct engine_aux *aux = &q->aux[kind];

	aux->again = false;
	if (!aux->generation)
		return;
	uring_cancel_cookie(e, aux_cookie(q, kind));
	uring_flush(e);
	while (aux->generation && !e->failed)
		uring_wait(e);
	aux->generation = 0;		/* of an engine that has failed nothing is heard any more */
}

void uring_release(struct virtq_engine *e, struct virtq_engine_queue *q,
		   enum virtq_engine_fd which)
{
	enum engine_aux_kind kind = which == VIRTQ_FD_CALL ? AUX_CALL : AUX_ERR;
	bool unsent;

	/* What is staged names the fd by its number, which is another's after close(). */
	uring_flush(e);
	if (which == VIRTQ_FD_KICK) {
		if (!q->plain_drain)	/* done, or was refused, while it was submitted */
			q->aux[AUX_DRAIN].generation = 0;
		end_aux(e, q, AUX_POLL);
		end_aux(e, q, AUX_DRAIN);
		return;
	}
	if (!e->failed)
		uring_reap(e);	/* with SQPOLL a refusal may have come after the flush */
	unsent = q->aux[kind].generation || q->aux[kind].again;
	end_aux(e, q, kind);
	if (unsent) {
		/*
		 * The last signal must not be lost: there may be room by now. Made
		 * not to block, the fd takes it while it is submitted, or is full,
		 * with a signal waiting in it; then this one is given up as well.
		 */
		fd_make_nonblocking(q->fds[which]);
		stage_signal(e, q, which, kind);
		end_aux(e, q, kind);
	}
	if (kind == AUX_CALL && q->uring)
		q->uring->heard = false;
}
