/* SPDX-License-Identifier: MIT */
/*
 * Operations of models through io_uring: what each looks like to the kernel.
 */
#include "engine/uring.h"

#include "base/shm.h"

static uint64_t op_cookie(const struct engine_slot *slot)
{
	return uring_cookie(COOKIE_IO, slot->generation, slot->queue->index, slot->req->slot);
}

/* ---- One operation ------------------------------------------------------ */

/* READ or WRITE of one span, or the beginning of it. */
static void prepare_single(struct io_uring_sqe *sqe, const struct virtq_op *op, void *base,
			   unsigned int len, int buffer)
{
	if (op->kind == VIRTQ_OP_READ) {
		if (buffer >= 0)
			io_uring_prep_read_fixed(sqe, op->fd, base, len, op->offset, buffer);
		else
			io_uring_prep_read(sqe, op->fd, base, len, op->offset);
	} else if (buffer >= 0) {
		io_uring_prep_write_fixed(sqe, op->fd, base, len, op->offset, buffer);
	} else {
		io_uring_prep_write(sqe, op->fd, base, len, op->offset);
	}
}

static void prepare_transfer(struct virtq_engine *e, struct io_uring_sqe *sqe,
			     const struct engine_slot *slot)
{
	const struct virtq_op *op = &slot->op;
	struct engine_piece p = engine_piece(slot);

	if (p.count == 1) {
		prepare_single(sqe, op, p.iov->iov_base, (unsigned int)p.bytes,
			       uring_buffer(e, slot->queue, p.iov->iov_base, p.bytes));
	} else if (op->kind == VIRTQ_OP_READ) {
		io_uring_prep_readv(sqe, op->fd, p.iov, p.count, op->offset);
	} else {
		io_uring_prep_writev(sqe, op->fd, p.iov, p.count, op->offset);
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
	case VIRTQ_OP_TURN:
		io_uring_prep_nop(sqe);
		break;
	}
	if (op->kind <= VIRTQ_OP_WRITE && op->flags & VIRTQ_OP_FILE_WAITS)
		sqe->flags |= IOSQE_ASYNC;
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

void uring_cancel(struct virtq_engine *e, struct engine_slot *slot)
{
	/* It may complete meanwhile: then nothing is found. */
	uring_cancel_cookie(e, op_cookie(slot));
}
