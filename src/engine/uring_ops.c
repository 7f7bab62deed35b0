/* SPDX-License-Identifier: MIT */
/*
 * Operations of models through io_uring: what each looks like to the kernel, and those
 * that go to it in a row.
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

/* Of the operation at @place of a row, or of one alone. */
static uint64_t op_cookie(const struct engine_slot *slot, uint32_t place)
{
	return uring_cookie((enum uring_cookie_kind)(COOKIE_IO + place), slot->generation,
			    slot->queue->index, slot->req->slot);
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

/* ---- A row of operations ------------------------------------------------ */

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
		struct io_uring_sqe *sqe = uring_sqe(e);

		prepare(e, sqe, slot, op);
		if (i + 1 < n)
			sqe->flags |= IOSQE_IO_LINK;
		io_uring_sqe_set_data64(sqe, op_cookie(slot, i));
	}
	shm_word_write(&e->uses, e->uses | VIRTQ_USE_LINKS);
}

/*
 * One of a row. The results go out one by one, each when request.c comes to that
 * operation; not those from where the kernel broke the row off, because one had
 * failed or was short: these are begun again, or not at all.
 */
bool uring_row_completed(struct virtq_engine *e, struct engine_slot *slot, uint32_t member,
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

/* ---- Begin and give up -------------------------------------------------- */

void uring_perform(struct virtq_engine *e, struct engine_slot *slot)
{
	struct io_uring_sqe *sqe;

	if (UNLIKELY(slot->op.next)) {
		uint32_t n = row(e, slot);

		if (n > 1) {
			perform_row(e, slot, n);
			return;
		}
	}
	sqe = uring_sqe(e);
	prepare(e, sqe, slot, &slot->op);
	slot->generation = engine_generation(e);
	io_uring_sqe_set_data64(sqe, op_cookie(slot, 0));
}

void uring_cancel(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++) {
		const struct engine_slot *slot = &q->slots[i];
		uint32_t n = slot->links.out ? slot->links.count : 1;

		/* The slot may complete meanwhile: then nothing is found. */
		for (uint32_t k = 0; slot->generation && k < n; k++)
			uring_cancel_cookie(e, op_cookie(slot, k));
	}
}
