/* SPDX-License-Identifier: MIT */
/*
 * One io_uring for operations, kicks and calls: a turn of the engine is one
 * system call that submits all of them and, if there is nothing to do, sleeps
 * until one completes. What they look like is in uring_ops.c and uring_fds.c.
 *
 * Every submission but a few that nobody waits for carries a cookie: what it
 * is, of which queue and slot, and a generation. A completion counts only if
 * the generation is the one that is out, so that a late one can never be taken
 * for another; all others are ignored.
 */
#include "engine/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"

#define COMPLETIONS_MIN 4096u
#define SQPOLL_IDLE_MS 10u		/* without work, until its thread sleeps */
#define REFUSED_MAX 1000u		/* in a row, with a pause between: a second */
#define REFUSED_PAUSE_NS 1000000u

/* ---- Completions -------------------------------------------------------- */

/* Returns true if there is something for the loop to look at. */
static bool handle(struct virtq_engine *e, const struct io_uring_cqe *cqe)
{
	uint64_t user = cqe->user_data;
	enum uring_cookie_kind kind = (enum uring_cookie_kind)(user >> 60);
	uint32_t generation = (uint32_t)(user >> 32) & 0xfffffff;
	uint32_t index = (uint32_t)(user >> 16) & 0xffff, at = (uint32_t)user & 0xffff;
	struct virtq_engine_queue *q;

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
		return uring_call_failed(q);
	if (LIKELY(kind == COOKIE_IO)) {
		struct engine_slot *slot = &q->slots[at];

		if (at >= virtq_device_ring(q->ring)->size || slot->generation != generation)
			return false;
		slot->generation = 0;
		engine_completed(e, slot, cqe->res);
		return true;
	}

	if (at >= AUX_COUNT || q->aux[at].generation != generation)
		return false;
	return uring_fd_completed(e, q, (enum engine_aux_kind)at, cqe);
}

bool uring_reap(struct virtq_engine *e)
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
	uring_reap(e);
	e->turn_first = true;
}

struct io_uring_sqe *uring_sqe(struct virtq_engine *e)
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

void uring_cancel_cookie(struct virtq_engine *e, uint64_t what)
{
	struct io_uring_sqe *sqe = uring_sqe(e);

	io_uring_prep_cancel64(sqe, what, 0);
	io_uring_sqe_set_data64(sqe, uring_cookie(COOKIE_IGNORED, 0, 0, 0));
}

void uring_wait(struct virtq_engine *e)
{
	check(e, io_uring_submit_and_wait(&e->uring->ring, 1));
	uring_reap(e);
}

/* ---- A turn ---------------------------------------------------------------- */

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
		struct io_uring_sqe *sqe = uring_sqe(e);

		io_uring_prep_read(sqe, e->wake_fd, &u->wake_word, sizeof(u->wake_word), 0);
		io_uring_sqe_set_data64(sqe, uring_cookie(COOKIE_WAKE, 0, 0, 0));
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
		return uring_reap(e);
	}
	/* A call that went out is no reason to wake up. */
	do {
		due = submit_and_wait(e);
		news = uring_reap(e);
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

	uring_reap(e);	/* what has completed has */
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

/*
 * What cannot be done at once (FLUSH, DISCARD, reads of files that know no way not to
 * wait) is done by worker threads of the kernel, and those of files and block devices are
 * few: four for each processor. Storage that hangs keeps as many as it is asked things.
 * So there may be one for each operation under way: as each queue has its reserve of
 * credits, each then finds a worker. They are started when all others are asleep, and go
 * after some seconds with nothing to do.
 *
 * Linux before 5.15 does not know it: there storage that hangs is to be on an engine of its own.
 */
static void allow_workers(struct virtq_engine *e, struct io_uring *ring)
{
	unsigned int most[2] = { e->credits, 0 };	/* bounded; all others stay as they are */

	io_uring_register_iowq_max_workers(ring, most);
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
	u->multishot = !(e->config.forbid & VIRTQ_USE_MULTISHOT);
	if (u->multishot)
		e->uses |= VIRTQ_USE_MULTISHOT;
	allow_workers(e, &u->ring);
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
