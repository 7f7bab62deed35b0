/* SPDX-License-Identifier: MIT */
/*
 * Operations of models through io_uring: what each looks like to the kernel.
 */
#include "engine/uring.h"

#include <sys/uio.h>

#include "base/shm.h"

#define SPANS_MAX 1024u			/* the kernel's UIO_MAXIOV */
#define PIECE_MAX 0x7ffff000u		/* the kernel's MAX_RW_COUNT */

_Static_assert(sizeof(struct virtq_span) == sizeof(struct iovec) &&
	       offsetof(struct virtq_span, base) == offsetof(struct iovec, iov_base) &&
	       offsetof(struct virtq_span, len) == offsetof(struct iovec, iov_len),
	       "spans are handed to the kernel as they are");

static uint64_t op_cookie(const struct engine_slot *slot)
{
	return uring_cookie(COOKIE_IO, slot->generation, slot->queue->index, slot->req->slot);
}

/* ---- One operation ------------------------------------------------------ */

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
			     const struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	struct virtq_span *spans;
	uint32_t count = engine_spans(slot, &spans);
	const struct iovec *iov = (const struct iovec *)(const void *)spans;

	if (count > SPANS_MAX)
		count = SPANS_MAX;
	if (count == 1) {
		prepare_single(sqe, op, iov,
			       uring_buffer(e, slot->queue, iov->iov_base, iov->iov_len));
	} else if (op->kind == VIRTQ_OP_READ) {
		io_uring_prep_readv(sqe, op->fd, iov, count, op->offset);
	} else {
		io_uring_prep_writev(sqe, op->fd, iov, count, op->offset);
	}
}

static void prepare(struct virtq_engine *e, struct io_uring_sqe *sqe,
		    const struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	int file;

	switch (op->kind) {
	case VIRTQ_OP_READ:
	case VIRTQ_OP_WRITE:
		prepare_transfer(e, sqe, slot);
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
	if (file >= 0) {
		sqe->fd = file;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
}

/* ---- Begin and give up -------------------------------------------------- */

void uring_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	struct io_uring_sqe *sqe = uring_sqe(e);

	prepare(e, sqe, slot);
	slot->generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, op_cookie(slot));
}

void uring_cancel(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++) {
		const struct engine_slot *slot = &q->slots[i];

		/* The slot may complete meanwhile: then nothing is found. */
		if (slot->generation)
			uring_cancel_cookie(e, op_cookie(slot));
	}
}
