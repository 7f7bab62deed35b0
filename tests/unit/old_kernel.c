/* SPDX-License-Identifier: MIT */
/* An older io_uring, see old_kernel.h. The linker's --wrap gives these functions their names. */
#include "old_kernel.h"

#include <errno.h>
#include <liburing.h>

static bool is_old;		/* atomic, as the next */
static unsigned int refused;

void old_kernel_set(bool old)
{
	__atomic_store_n(&refused, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&is_old, old, __ATOMIC_SEQ_CST);
}

unsigned int old_kernel_refused(void)
{
	return __atomic_load_n(&refused, __ATOMIC_SEQ_CST);
}

#define WRAPPED(type, name, ...) \
	type __real_ ## name(__VA_ARGS__); \
	type __wrap_ ## name(__VA_ARGS__); \
	type __wrap_ ## name(__VA_ARGS__)

WRAPPED(int, io_uring_queue_init_params, unsigned int entries, struct io_uring *ring,
	struct io_uring_params *params)
{
	bool old = __atomic_load_n(&is_old, __ATOMIC_SEQ_CST);
	int rc;

	if (old && params->flags & ~(unsigned int)(IORING_SETUP_CQSIZE | IORING_SETUP_SQPOLL))
		return -EINVAL;
	rc = __real_io_uring_queue_init_params(entries, ring, params);
	if (old)
		params->features &= ~(unsigned int)IORING_FEAT_CQE_SKIP;
	return rc;
}

/*
 * A poll had no length; that this one shall go on says a bit of it. The kernel of today
 * refuses it as that of then did, with an error that it takes for one: a poll in a buffer.
 */
static void grow_old(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;

	if (!__atomic_load_n(&is_old, __ATOMIC_SEQ_CST))
		return;
	for (unsigned int at = sq->sqe_head; at != sq->sqe_tail; at++) {
		struct io_uring_sqe *sqe = &sq->sqes[at & *sq->kring_mask];

		if (sqe->opcode != IORING_OP_POLL_ADD || !sqe->len || sqe->buf_index)
			continue;
		sqe->buf_index = 1;
		__atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST);
	}
}

WRAPPED(int, io_uring_submit, struct io_uring *ring)
{
	grow_old(ring);
	return __real_io_uring_submit(ring);
}

WRAPPED(int, io_uring_submit_and_get_events, struct io_uring *ring)
{
	grow_old(ring);
	return __real_io_uring_submit_and_get_events(ring);
}

WRAPPED(int, io_uring_submit_and_wait, struct io_uring *ring, unsigned int count)
{
	grow_old(ring);
	return __real_io_uring_submit_and_wait(ring, count);
}

WRAPPED(int, io_uring_submit_and_wait_timeout, struct io_uring *ring, struct io_uring_cqe **cqe,
	unsigned int count, struct __kernel_timespec *time, sigset_t *mask)
{
	grow_old(ring);
	return __real_io_uring_submit_and_wait_timeout(ring, cqe, count, time, mask);
}
