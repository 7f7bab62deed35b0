/* SPDX-License-Identifier: MIT */
/*
 * Operations, kicks and calls through one io_uring: a turn of the engine is
 * one system call that submits all of them and, if there is nothing to do,
 * sleeps until one completes.
 *
 * Every submission but a few that nobody waits for carries a cookie: what it
 * is, of which queue and slot, and a generation. A completion counts only if
 * the generation is the one that is out, so that a late one can never be taken
 * for another; all others are ignored.
 */
#include "engine/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/shm.h"

#define SPANS_MAX 1024u			/* the kernel's UIO_MAXIOV */
#define PIECE_MAX 0x7ffff000u		/* the kernel's MAX_RW_COUNT */
#define COMPLETIONS_MIN 4096u
#define FRUITLESS_MAX 32u		/* kicks in a row with nothing in the ring */
#define FRUITLESS_PAUSE_NS 1000000u
#define SQPOLL_IDLE_MS 10u		/* without work, until its thread sleeps */
#define REFUSED_MAX 1000u		/* in a row, with a pause between: a second */
#define REFUSED_PAUSE_NS 1000000u

_Static_assert(sizeof(struct virtq_span) == sizeof(struct iovec) &&
	       offsetof(struct virtq_span, base) == offsetof(struct iovec, iov_base) &&
	       offsetof(struct virtq_span, len) == offsetof(struct iovec, iov_len),
	       "spans are handed to the kernel as they are");

/* COOKIE_IO + n is the operation n places behind the slot's own in a row of linked ones. */
enum cookie_kind { COOKIE_IGNORED, COOKIE_WAKE, COOKIE_QUIET, COOKIE_AUX, COOKIE_IO };

/* ---- Cookies ------------------------------------------------------------ */

/* bits 60-63 kind, 32-59 generation, 16-31 queue, 0-15 slot or enum engine_aux_kind */
static uint64_t cookie(enum cookie_kind kind, uint32_t generation, uint32_t queue,
		       uint32_t slot)
{
	return (uint64_t)kind << 60 | (uint64_t)generation << 32 | queue << 16 | slot;
}

static uint64_t aux_cookie(const struct virtq_engine_queue *q, enum engine_aux_kind kind)
{
	return cookie(COOKIE_AUX, q->aux[kind].generation, q->index, kind);
}

/* ---- Completions -------------------------------------------------------- */

static bool kick_is_read(const struct virtq_engine_queue *q)
{
	return q->uring && q->uring->kick == KICK_READ;
}

static void read_completed(struct virtq_engine_queue *q, int res)
{
	q->aux[AUX_POLL].generation = 0;	/* uring_watch() begins anew */
	if (res > 0)
		engine_kicked(q, true, false);
	else if (res != -ECANCELED && res != -EINTR)
		q->uring->kick = KICK_POLL;	/* the kernel does not wait for this one */
}

static void poll_completed(struct uring *u, struct virtq_engine_queue *q, int res,
			   unsigned int flags)
{
	if (kick_is_read(q)) {
		read_completed(q, res);
		return;
	}
	if (!(flags & IORING_CQE_F_MORE))
		q->aux[AUX_POLL].generation = 0;	/* uring_watch() begins anew */
	if (res == -EINVAL && u->multishot) {
		u->multishot = false;
		shm_word_write(&q->engine->uses, q->engine->uses & ~(uint64_t)VIRTQ_USE_MULTISHOT);
	}
	else if (res == -ECANCELED || res == -EINTR || res == -EAGAIN || res == -ENOMEM)
		return;
	else if (res < 0)
		engine_kicked(q, false, true);
	else
		engine_kicked(q, res & POLLIN, res & (POLLHUP | POLLRDHUP | POLLNVAL) ||
					       (res & POLLERR && !(res & POLLIN)));
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

/*
 * One of a row. The results go out one by one, each when request.c comes to that
 * operation; not those from where the kernel broke the row off, because one had
 * failed or was short: these are begun again, or not at all.
 */
static bool linked_completed(struct virtq_engine *e, struct engine_slot *slot, uint32_t member,
			     int32_t result)
{
	struct engine_links *links = &slot->links;

	if (member >= links->count)
		return false;
	links->results[member] = result;
	if (--links->out)
		return false;
	slot->generation = 0;
	/* The first was not even begun, but for another that the kernel refused. */
	for (uint8_t i = 1; i < links->count; i++)
		if (links->results[0] == -ECANCELED && links->results[i] != -ECANCELED)
			links->apart = true;
	for (uint8_t i = 1; i < links->count; i++)
		if (links->results[i] == -ECANCELED)
			links->count = i;
	if (links->apart) {
		links->count = 1;
		links->results[0] = -EINTR;
	}
	links->at = 1;
	engine_completed(e, slot, links->results[0]);
	return true;
}

/*
 * A call of which nobody waited to hear did not go out. The fd may be full, and a
 * signal waits there; but an eventfd that blocks refuses with room as well, and so
 * do older kernels' pipes. So send it again as one that may wait.
 */
static bool quiet_failed(struct virtq_engine_queue *q)
{
	if (!q->uring || q->fds[VIRTQ_FD_CALL] < 0)
		return false;
	q->uring->heard = true;
	q->aux[AUX_CALL].again = true;
	return true;
}

/* Returns true if there is something for the loop to look at. */
static bool handle(struct virtq_engine *e, const struct io_uring_cqe *cqe)
{
	uint64_t user = cqe->user_data;
	enum cookie_kind kind = (enum cookie_kind)(user >> 60);
	uint32_t generation = (uint32_t)(user >> 32) & 0xfffffff;
	uint32_t index = (uint32_t)(user >> 16) & 0xffff, at = (uint32_t)user & 0xffff;
	struct virtq_engine_queue *q;
	struct engine_aux *aux;

	if (kind == COOKIE_WAKE) {
		e->uring->waking = false;
		/* Deaf it could only be asked in vain. Not -EBADF: see uring_abandon(). */
		if (UNLIKELY(cqe->res < 0) && cqe->res != -ECANCELED && cqe->res != -EINTR &&
		    cqe->res != -EAGAIN && !e->failed)
			e->failed = -EIO;
	}
	if (kind == COOKIE_WAKE || kind == COOKIE_IGNORED)
		return kind == COOKIE_WAKE;

	q = index < e->table_size ? e->table[index] : NULL;
	if (!q)
		return false;
	if (UNLIKELY(kind == COOKIE_QUIET))
		return quiet_failed(q);
	if (kind >= COOKIE_IO) {
		struct engine_slot *slot = &q->slots[at];

		if (at >= virtq_device_ring(q->ring)->size || slot->generation != generation)
			return false;
		if (UNLIKELY(slot->links.out))
			return linked_completed(e, slot, kind - COOKIE_IO, cqe->res);
		slot->generation = 0;
		engine_completed(e, slot, cqe->res);
		return true;
	}

	aux = &q->aux[at];
	if (at >= AUX_COUNT || aux->generation != generation)
		return false;
	switch ((enum engine_aux_kind)at) {
	case AUX_POLL:
		poll_completed(e->uring, q, cqe->res, cqe->flags);
		return true;
	case AUX_DRAIN:
		drain_completed(q, cqe->res);
		return true;
	default:
		/* A call or an error signal. A full fd has a signal waiting already. */
		aux->generation = 0;
		return aux->again;
	}
}

/* Take what has completed out of the ring. Stages nothing. */
static bool reap(struct virtq_engine *e)
{
	struct io_uring_cqe *cqes[64];
	bool news = false;
	unsigned int n;

	/*
	 * Finding none, this asks the kernel for completions that had no room
	 * or are not posted yet. So do not look again only to find none: that
	 * is a system call for each request.
	 */
	do {
		n = io_uring_peek_batch_cqe(&e->uring->ring, cqes, 64);
		if (n)
			e->uring->refused = 0;
		for (unsigned int i = 0; i < n; i++)
			news |= handle(e, cqes[i]);
		io_uring_cq_advance(&e->uring->ring, n);
	} while (n == 64);
	return news;
}

/* ---- Submissions -------------------------------------------------------- */

/*
 * It wants completions to be taken first, or lacks memory. That passes; should it not,
 * as with a filter that answers so whatever is asked, then waiting for it is a hang.
 */
static void refused(struct virtq_engine *e, int rc)
{
	if (++e->uring->refused > REFUSED_MAX)
		e->failed = rc;
	else if (e->uring->refused > 1)
		nanosleep(&(struct timespec){ 0, REFUSED_PAUSE_NS }, NULL);
}

/* What the kernel answered: is it the last we hear of it? */
static void check(struct virtq_engine *e, int rc)
{
	e->now_ns = 0;
	if (LIKELY(rc >= 0) || rc == -ETIME)
		e->uring->refused = 0;
	else if (rc == -EAGAIN || rc == -EBUSY)
		refused(e, rc);
	else if (rc != -EINTR)
		e->failed = rc;
}

static void hand_over(struct virtq_engine *e)
{
	check(e, io_uring_submit_and_get_events(&e->uring->ring));
	reap(e);
	e->turn_first = true;
}

static struct io_uring_sqe *get_sqe(struct virtq_engine *e)
{
	struct io_uring_sqe *sqe;

	while (UNLIKELY(!(sqe = io_uring_get_sqe(&e->uring->ring)))) {
		/* Full: hand it over and go on. A refusal means that completions must go first. */
		hand_over(e);
		if (e->failed)
			return &e->uring->nowhere;
	}
	return sqe;
}

void uring_flush(struct virtq_engine *e)
{
	while (!e->failed && io_uring_sq_ready(&e->uring->ring))
		hand_over(e);
	e->turn_first = true;
}

/* READ or WRITE of one piece. */
static void prepare_single(struct io_uring_sqe *sqe, const struct virtq_op *op,
			   const struct iovec *iov, int buffer)
{
	unsigned int len = iov->iov_len < PIECE_MAX ? (unsigned int)iov->iov_len : PIECE_MAX;

	if (op->kind == VIRTQ_OP_READ) {
		if (buffer >= 0)
			io_uring_prep_read_fixed(sqe, op->fd, iov->iov_base, len, op->offset,
						 buffer);
		else
			io_uring_prep_read(sqe, op->fd, iov->iov_base, len, op->offset);
	} else if (buffer >= 0) {
		io_uring_prep_write_fixed(sqe, op->fd, iov->iov_base, len, op->offset, buffer);
	} else {
		io_uring_prep_write(sqe, op->fd, iov->iov_base, len, op->offset);
	}
}

/* READ or WRITE. The kernel cuts a vector at PIECE_MAX bytes by itself. */
static void prepare_transfer(struct virtq_engine *e, struct io_uring_sqe *sqe,
			     const struct engine_slot *slot, const struct virtq_op *op)
{
	struct virtq_span *spans;
	uint32_t count = op_spans(slot, op, &spans);
	const struct iovec *iov = (const struct iovec *)(const void *)spans;

	if (count > SPANS_MAX)
		count = SPANS_MAX;
	if (count == 1) {
		/*
		 * Not for a later one of a row: the kernel looks for its buffer when
		 * its turn comes, and the entry may be another's by then.
		 */
		int buffer = op != &slot->op ? -1 :
			     uring_buffer(e, slot->queue, iov->iov_base, iov->iov_len);

		prepare_single(sqe, op, iov, buffer);
	} else if (op->kind == VIRTQ_OP_READ) {
		io_uring_prep_readv(sqe, op->fd, iov, count, op->offset);
	} else {
		io_uring_prep_writev(sqe, op->fd, iov, count, op->offset);
	}
}

static void prepare(struct virtq_engine *e, struct io_uring_sqe *sqe,
		    const struct engine_slot *slot, const struct virtq_op *op)
{
	const struct uring_use *file;

	switch (op->kind) {
	case VIRTQ_OP_READ:
	case VIRTQ_OP_WRITE:
		prepare_transfer(e, sqe, slot, op);
		break;
	case VIRTQ_OP_SYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case VIRTQ_OP_ALLOCATE:
		io_uring_prep_fallocate(sqe, op->fd, (int)op->flags, (off_t)op->offset,
					(off_t)op->bytes);
		break;
	case VIRTQ_OP_POLL:
		io_uring_prep_poll_add(sqe, op->fd, op->flags);
		break;
	case VIRTQ_OP_TIMEOUT:	/* the engine's own */
		io_uring_prep_nop(sqe);
		break;
	}
	if (op->kind > VIRTQ_OP_SYNC || !(op->flags & VIRTQ_OP_FILE_STAYS))
		return;
	file = uring_file(e, slot->queue, op->fd);
	if (!file)
		return;
	if (file->at >= 0) {
		sqe->fd = file->at;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	/* It would try without waiting, in vain, and hand it to a worker then. */
	if (file->waits)
		sqe->flags |= IOSQE_ASYNC;
}

/*
 * How many operations can go to the kernel in a row, of which it begins each when
 * the one before has succeeded as a whole.
 */
static uint32_t row(const struct virtq_engine *e, const struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	uint32_t n = 1;

	if (!e->uring->links || slot->links.apart || slot->queue->phase != QUEUE_TURNS ||
	    e->config.entries < ENGINE_LINKS_MAX)
		return 1;
	for (; op->next && n < ENGINE_LINKS_MAX; n++, op = op->next) {
		/* The request's own cursors are for one operation at a time. */
		bool next_alone = op->next->kind == VIRTQ_OP_POLL ||
				  op->next->kind == VIRTQ_OP_TIMEOUT ||
				  (op->next->kind <= VIRTQ_OP_WRITE && !op->next->spans);
		struct virtq_span *spans;
		uint64_t bytes = 0;
		uint32_t count;

		if (next_alone || op->kind == VIRTQ_OP_POLL)
			break;
		if (op->kind > VIRTQ_OP_WRITE)
			continue;
		/* Cut by the kernel it would count as short. */
		count = op_spans(slot, op, &spans);
		for (uint32_t i = 0; i < count && count <= SPANS_MAX; i++)
			bytes += spans[i].len;
		if (!bytes || bytes > PIECE_MAX)
			break;
	}
	return n;
}

static void perform_row(struct virtq_engine *e, struct engine_slot *slot, uint32_t n)
{
	const struct virtq_op *op = &slot->op;

	/* One submission for all: it ends a row. */
	if (io_uring_sq_space_left(&e->uring->ring) < n)
		uring_flush(e);
	slot->links = (struct engine_links){ .count = (uint8_t)n, .at = (uint8_t)n,
					     .out = (uint8_t)n };
	slot->generation = engine_generation(e);
	for (uint32_t i = 0; i < n; i++, op = op->next) {
		struct io_uring_sqe *sqe = get_sqe(e);

		prepare(e, sqe, slot, op);
		if (i + 1 < n)
			sqe->flags |= IOSQE_IO_LINK;
		io_uring_sqe_set_data64(sqe, cookie((enum cookie_kind)(COOKIE_IO + i),
						    slot->generation, slot->queue->index,
						    slot->req->slot));
	}
	shm_word_write(&e->uses, e->uses | VIRTQ_USE_LINKS);
}

static void uring_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	struct io_uring_sqe *sqe;

	if (UNLIKELY(slot->op.next)) {
		uint32_t n = row(e, slot);

		if (n > 1) {
			perform_row(e, slot, n);
			return;
		}
	}
	sqe = get_sqe(e);
	prepare(e, sqe, slot, &slot->op);
	slot->generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, cookie(COOKIE_IO, slot->generation, slot->queue->index,
					    slot->req->slot));
}

static void cancel_one(struct virtq_engine *e, uint64_t what)
{
	struct io_uring_sqe *sqe = get_sqe(e);

	io_uring_prep_cancel64(sqe, what, 0);
	io_uring_sqe_set_data64(sqe, cookie(COOKIE_IGNORED, 0, 0, 0));
}

static void uring_cancel(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++) {
		uint32_t generation = q->slots[i].generation;
		uint32_t n = q->slots[i].links.out ? q->slots[i].links.count : 1;

		/* The slot may complete meanwhile: then nothing is found. */
		for (uint32_t k = 0; generation && k < n; k++)
			cancel_one(e, cookie((enum cookie_kind)(COOKIE_IO + k), generation,
					     q->index, i));
	}
}

/*
 * Stage a write that may wait for room in the kernel, where it holds up nobody.
 * Only one for each fd, so that a peer who leaves its fd full cannot pile them up.
 */
static void stage_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
			 enum virtq_engine_fd which, enum engine_aux_kind kind)
{
	struct io_uring_sqe *sqe = get_sqe(e);

	io_uring_prep_write(sqe, q->fds[which], &e->uring->one, sizeof(e->uring->one), 0);
	q->aux[kind].generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, aux_cookie(q, kind));
}

static void uring_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
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
	sqe = get_sqe(e);
	io_uring_prep_write(sqe, q->fds[which], &e->uring->one, sizeof(e->uring->one), 0);
	sqe->rw_flags = RWF_NOWAIT;
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, cookie(COOKIE_QUIET, 0, q->index, 0));
}

static void watch_again(struct virtq_engine *e, struct engine_timer *timer)
{
	(void)e;
	container_of(timer, struct virtq_engine_queue, kick_timer)->fruitless = FRUITLESS_MAX;
}

static bool is_eventfd(int fd)
{
	char path[32], target[32];
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	len = readlink(path, target, sizeof(target));
	return len == 20 && !memcmp(target, "anon_inode:[eventfd]", 20);
}

/*
 * A read that waits tells of a kick and takes it out at the same time, where a
 * poll needs a read and a turn of its own afterwards. Only of eventfds: io_uring
 * waits for them even with O_NONBLOCK, and they never hang up.
 */
static bool reads_kick(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct uring_queue *uq = q->uring;

	if (!uq)
		return false;
	if (UNLIKELY(uq->kick == KICK_UNKNOWN)) {
		uq->kick = KICK_POLL;
		if (!(e->config.forbid & VIRTQ_USE_KICK_READS) &&
		    is_eventfd(q->fds[VIRTQ_FD_KICK])) {
			uq->kick = KICK_READ;
			shm_word_write(&e->uses, e->uses | VIRTQ_USE_KICK_READS);
		}
	}
	/* A semaphore can be read for ever: a poll tells only of what is new. */
	if (UNLIKELY(q->fruitless > FRUITLESS_MAX))
		uq->kick = KICK_POLL;
	return uq->kick == KICK_READ;
}

static void uring_watch(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct io_uring_sqe *sqe;

	if (UNLIKELY(q->aux[AUX_CALL].again && !q->aux[AUX_CALL].generation))
		uring_signal(e, q, VIRTQ_FD_CALL);
	if (UNLIKELY(q->aux[AUX_ERR].again && !q->aux[AUX_ERR].generation))
		uring_signal(e, q, VIRTQ_FD_ERR);
	if (LIKELY(q->aux[AUX_POLL].generation) || q->fds[VIRTQ_FD_KICK] < 0 || q->kick_dead)
		return;
	if (UNLIKELY(!e->uring->multishot && q->fruitless > FRUITLESS_MAX)) {
		/* Perhaps a file that is readable for ever, of which each poll says so at once. */
		if (!q->kick_timer.next)
			timer_set(e, &q->kick_timer, FRUITLESS_PAUSE_NS, watch_again);
		return;
	}
	sqe = get_sqe(e);
	if (reads_kick(e, q))
		io_uring_prep_read(sqe, q->fds[VIRTQ_FD_KICK], e->uring->sink, sizeof(uint64_t),
				   (uint64_t)-1);
	else if (e->uring->multishot)
		io_uring_prep_poll_multishot(sqe, q->fds[VIRTQ_FD_KICK], POLLIN | POLLRDHUP);
	else
		io_uring_prep_poll_add(sqe, q->fds[VIRTQ_FD_KICK], POLLIN | POLLRDHUP);
	q->aux[AUX_POLL].generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, aux_cookie(q, AUX_POLL));
}

/*
 * NOWAIT and not a trust in O_NONBLOCK: the flag lies in the open file, which
 * is the peer's as well. The read happens while it is submitted, and that must
 * be before the ring is armed: drained later, it could swallow the kick for a
 * chain that came after the last look, and whether a poll still reports what
 * is no longer there is up to the kernel.
 */
static void uring_drain(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct engine_aux *aux = &q->aux[AUX_DRAIN];
	struct io_uring_sqe *sqe;

	if (q->fds[VIRTQ_FD_KICK] < 0 || (q->plain_drain && aux->generation) || kick_is_read(q))
		return;
	if (e->uring->sqpoll && !q->plain_drain) {
		/* Submitted by another thread it could happen after arming. */
		struct iovec iov = { e->uring->sink, sizeof(e->uring->sink) };

		if (preadv2(q->fds[VIRTQ_FD_KICK], &iov, 1, -1, RWF_NOWAIT) < 0 &&
		    errno == EOPNOTSUPP)
			drain_completed(q, -EOPNOTSUPP);
		return;
	}
	sqe = get_sqe(e);
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

/* Cancel one thing and wait until the kernel has let go of it. */
static void end_aux(struct virtq_engine *e, struct virtq_engine_queue *q,
		    enum engine_aux_kind kind)
{
	struct engine_aux *aux = &q->aux[kind];

	aux->again = false;
	if (!aux->generation)
		return;
	cancel_one(e, aux_cookie(q, kind));
	uring_flush(e);
	while (aux->generation && !e->failed) {
		check(e, io_uring_submit_and_wait(&e->uring->ring, 1));
		reap(e);
	}
	aux->generation = 0;		/* of an engine that has failed nothing is heard any more */
}

static void uring_release(struct virtq_engine *e, struct virtq_engine_queue *q,
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
		if (q->uring)
			q->uring->kick = KICK_UNKNOWN;
		return;
	}
	if (!e->failed)
		reap(e);	/* with SQPOLL a refusal may have come after the flush */
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

/* Until something completes or a timer is due. Returns true if one is. */
static bool submit_and_wait(struct virtq_engine *e)
{
	struct __kernel_timespec time;
	struct io_uring_cqe *cqe;
	uint64_t left_ns;

	if (LIKELY(!timers_left_ns(e, &left_ns))) {
		check(e, io_uring_submit_and_wait(&e->uring->ring, 1));
		return false;
	}
	time.tv_sec = (long long)(left_ns / 1000000000u);
	time.tv_nsec = (long long)(left_ns % 1000000000u);
	check(e, io_uring_submit_and_wait_timeout(&e->uring->ring, &cqe, 1, &time, NULL));
	return timers_left_ns(e, &left_ns) && !left_ns;
}

static bool uring_turn(struct virtq_engine *e, enum engine_turn how)
{
	struct uring *u = e->uring;
	bool due, news;

	if (UNLIKELY(!u->waking)) {
		struct io_uring_sqe *sqe = get_sqe(e);

		io_uring_prep_read(sqe, e->wake_fd, &u->wake_word, sizeof(u->wake_word), 0);
		io_uring_sqe_set_data64(sqe, cookie(COOKIE_WAKE, 0, 0, 0));
		u->waking = true;
	}
	if (how != TURN_SLEEP || e->turn_first) {
		if (io_uring_sq_ready(&u->ring)) {
			if (u->sqpoll)
				check(e, io_uring_submit(&u->ring));	/* no call while its thread is awake */
			else
				check(e, io_uring_submit_and_get_events(&u->ring));
			/* It may have taken a part. What is left, a drain perhaps, goes before arming. */
			if (io_uring_sq_ready(&u->ring) && !u->sqpoll)
				e->turn_first = true;
		}
		return reap(e);
	}
	/* A call that went out is no reason to wake up. */
	do {
		due = submit_and_wait(e);
		news = reap(e);
	} while (!news && !due && !e->failed && !u->refused);
	/* While the kernel refuses there are still messages to answer, and it is asked again. */
	return news || u->refused;
}

/* ---- Life --------------------------------------------------------------- */

/* How to say what the kernel may rely on, as far as it understands; the best first. */
static const struct {
	unsigned int flags;
	uint32_t uses;
} setups[] = {
	{ IORING_SETUP_SQPOLL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL,
	  VIRTQ_USE_SQPOLL | VIRTQ_USE_SINGLE_ISSUER },
	{ IORING_SETUP_SQPOLL, VIRTQ_USE_SQPOLL },
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
	  IORING_SETUP_SUBMIT_ALL, VIRTQ_USE_SINGLE_ISSUER | VIRTQ_USE_DEFER_TASKRUN },
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
	  IORING_SETUP_SUBMIT_ALL, VIRTQ_USE_SINGLE_ISSUER },
	{ IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL, 0 },
	{ 0, 0 },
};

static bool has_operations(struct io_uring *ring)
{
	static const int needed[] = {
		IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
		IORING_OP_FSYNC, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
		IORING_OP_FALLOCATE,
	};
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool all = probe != NULL;

	for (size_t i = 0; all && i < sizeof(needed) / sizeof(needed[0]); i++)
		all = io_uring_opcode_supported(probe, needed[i]);
	io_uring_free_probe(probe);
	return all;
}

static void uring_close(struct virtq_engine *e)
{
	io_uring_queue_exit(&e->uring->ring);
	close(e->uring->gone_fd);
	free(e->uring);
}

static int uring_abandon(struct virtq_engine *e, void **memory)
{
	struct uring *u = e->uring;

	reap(e);	/* what has completed has */
	/* If its fd is no io_uring any more it is somebody else's: not ours to close. */
	if (e->failed == -EBADF || e->failed == -EOPNOTSUPP)
		u->ring.ring_fd = u->ring.enter_ring_fd = -1;
	io_uring_queue_exit(&u->ring);
	u->ring.ring_fd = u->ring.enter_ring_fd = -1;	/* leave() has nothing to tell it */
	*memory = u;
	return u->gone_fd;
}

/* The first way to set it up that is allowed and that the kernel understands. */
static int set_up(struct virtq_engine *e, struct uring *u, struct io_uring_params *params)
{
	const struct virtq_engine_config *config = &e->config;
	uint32_t unwanted = config->forbid | (VIRTQ_USE_SQPOLL & ~config->demand);
	int rc = -EINVAL;

	/*
	 * Not DEFER_TASKRUN for a thread that sleeps in its own poll(): what waits
	 * for it to come and fetch it does not always wake it there.
	 */
	if (config->stepped)
		unwanted |= VIRTQ_USE_DEFER_TASKRUN;
	for (size_t i = 0; rc && i < sizeof(setups) / sizeof(setups[0]); i++) {
		if (setups[i].uses & unwanted)
			continue;
		/*
		 * One completion for every operation, and a handful for every
		 * queue. Should there be thousands of queues the kernel keeps
		 * what does not fit (NODROP), and reap() fetches it.
		 */
		*params = (struct io_uring_params){
			.flags = setups[i].flags | IORING_SETUP_CQSIZE,
			.cq_entries = 8 * config->entries, .sq_thread_idle = SQPOLL_IDLE_MS,
		};
		if (params->cq_entries < COMPLETIONS_MIN)
			params->cq_entries = COMPLETIONS_MIN;
		rc = io_uring_queue_init_params(config->entries, &u->ring, params);
		e->uses = setups[i].uses;
		if (rc && rc != -EINVAL && !(setups[i].uses & VIRTQ_USE_SQPOLL))
			break;
	}
	return rc;
}

static int uring_open(struct virtq_engine *e, struct virtq_error *err)
{
	const unsigned int features = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
				      IORING_FEAT_EXT_ARG;
	struct uring *u = calloc(1, sizeof(*u));
	struct io_uring_params params;
	int rc, flags;

	if (!u)
		return error_set(err, -ENOMEM, "no memory for an io_uring");
	rc = set_up(e, u, &params);
	if (rc == 0 && ((params.features & features) != features || !has_operations(&u->ring))) {
		io_uring_queue_exit(&u->ring);
		rc = -ENOSYS;
	}
	if (rc) {
		free(u);
		e->uses = 0;
		if (rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE)
			return error_set_errno(err, rc, "cannot set up an io_uring");
		return error_set_errno(err, -ENOSYS, "the kernel refuses an io_uring (error %d)",
				       -rc);
	}
	e->uring = u;
	u->sqpoll = e->uses & VIRTQ_USE_SQPOLL;
	u->links = !(e->config.forbid & VIRTQ_USE_LINKS);
	u->multishot = !(e->config.forbid & VIRTQ_USE_MULTISHOT);
	if (u->multishot)
		e->uses |= VIRTQ_USE_MULTISHOT;
	/* Cheaper entry where the kernel has it. */
	if (!(e->config.forbid & VIRTQ_USE_RING_FD) && io_uring_register_ring_fd(&u->ring) == 1)
		e->uses |= VIRTQ_USE_RING_FD;
	rc = uring_register_tables(e);
	if (rc) {
		io_uring_queue_exit(&u->ring);
		free(u);
		return error_set_errno(err, rc, "cannot register files with an io_uring");
	}
	u->skip_success = params.features & IORING_FEAT_CQE_SKIP;
	u->one = 1;
	/* A read of it shall wait in the kernel, not come back at once. */
	flags = fcntl(e->wake_fd, F_GETFL);
	fcntl(e->wake_fd, F_SETFL, flags & ~O_NONBLOCK);
	return 0;
}

static int uring_fd(const struct virtq_engine *e)
{
	return e->uring->ring.ring_fd;
}

const struct engine_io uring_io = {
	.kind = VIRTQ_ENGINE_URING,
	.open = uring_open,
	.close = uring_close,
	.abandon = uring_abandon,
	.enter = uring_enter_queue,
	.leave = uring_leave_queue,
	.remap = uring_remap_queue,
	.fd = uring_fd,
	.perform = uring_perform,
	.cancel = uring_cancel,
	.signal = uring_signal,
	.watch = uring_watch,
	.drain = uring_drain,
	.release = uring_release,
	.turn = uring_turn,
};
