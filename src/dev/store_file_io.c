/* SPDX-License-Identifier: MIT */
/*
 * A file or block device as a store: which operations a piece of work becomes.
 * It goes through some of the stages below, one operation at a time.
 */
#include "dev/store_file.h"

#include <errno.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include "base/check.h"
#include "base/shm.h"

static enum virtq_verdict ended(struct virtq_store_io *io, int64_t result)
{
	io->result = (int)result;
	return VIRTQ_DONE;
}

/* The work is done, but perhaps not stable. */
static enum virtq_verdict performed(struct file_store *f, struct virtq_store_io *io,
				    struct virtq_op *op)
{
	if (io->kind != VIRTQ_STORE_READ && io->flags & VIRTQ_STORE_STABLE)
		return file_sync(f, io, op);
	return ended(io, 0);
}

/* ---- Buffers ------------------------------------------------------------- */

/* Returns false if all are taken: then @io waits, and is not to be touched any more. */
static bool bounce_get(struct file_store *f, struct virtq_store_io *io)
{
	struct file_io *fio = file_io_of(io);
	int free_bit;

	pthread_mutex_lock(&f->bounce_lock);
	free_bit = __builtin_ffs((int)~f->bounce_taken);
	if (free_bit) {
		f->bounce_taken |= 1u << (free_bit - 1);
		fio->bounce = f->bounce + (size_t)BOUNCE_BYTES * (unsigned int)(free_bit - 1);
	} else {
		fio->stage = FILE_WAITS;
		store_turns_add(&f->waiting, io);
	}
	pthread_mutex_unlock(&f->bounce_lock);
	return free_bit;
}

/* To the first of the queue whose turn it is, or back. */
static void bounce_put(struct file_store *f, uint8_t *buffer)
{
	size_t number = (size_t)(buffer - f->bounce) / BOUNCE_BYTES;
	struct virtq_store_io *io;

	pthread_mutex_lock(&f->bounce_lock);
	io = f->waiting.first;
	if (io) {
		store_turns_take(&f->waiting, io);
		file_io_of(io)->bounce = buffer;
	} else {
		f->bounce_taken &= ~(1u << number);
	}
	pthread_mutex_unlock(&f->bounce_lock);
	if (io)
		virtq_engine_complete(io->req, 0);
}

void file_cancel(struct virtq_store *store, struct virtq_store_io *io)
{
	struct file_store *f = container_of(store, struct file_store, store);
	bool waits;

	pthread_mutex_lock(&f->bounce_lock);
	waits = store_turns_has(&f->waiting, io);
	if (waits)
		store_turns_remove(&f->waiting, io);
	pthread_mutex_unlock(&f->bounce_lock);
	if (waits || file_sync_cancel(f, io) || file_erase_cancel(f, io))
		virtq_engine_complete(io->req, -ECANCELED);
}

/* ---- Reading and writing ------------------------------------------------- */

static bool spans_aligned(const struct virtq_cursor *c, uint32_t mem_align,
			  uint32_t len_align)
{
	uintptr_t bases = 0;
	size_t lens = 0;

	for (uint32_t i = 0; i < c->count; i++) {
		bases |= (uintptr_t)c->spans[i].base;
		lens |= c->spans[i].len;
	}
	return !(bases & (mem_align - 1)) && !(lens & (len_align - 1));
}

/*
 * Past the page cache if the file can take the range that way, through it
 * otherwise. The two see the same data: before a direct read the kernel writes
 * back the dirty pages of its range, and before and after a direct write it
 * throws the pages of its range away.
 *
 * But a buffered and a direct write to different sectors of one page, or of one
 * of the large folios that the cache may keep, are a danger at the same time:
 * the page is read before and written back after the direct write, and undoes
 * it; or it cannot be thrown away, and is read later, stale. So with O_DIRECT
 * nothing goes through the cache but ranges that the file cannot take, of which
 * there are none where it takes sectors. Memory that does not fit goes through a
 * buffer, even if it has to wait for one; holes and zeroes begin and end where
 * the file system need not zero a part of a page. Where a file takes no less
 * than a block, a driver has been told (info.block): one that writes less all
 * the same has its other writes go direct only in whole pages.
 */
static bool range_goes_direct(const struct file_store *f, const struct virtq_store_io *io)
{
	uint32_t align = f->direct_offset_align;

	if (f->direct_fd < 0)
		return false;
	if (io->kind == VIRTQ_STORE_WRITE && align > STORE_SECTOR_BYTES && align < f->page_bytes)
		align = f->page_bytes;
	return !((io->offset | io->bytes) & (align - 1));
}

static enum virtq_verdict bounce(struct file_store *f, struct virtq_store_io *io,
				 struct virtq_op *op)
{
	struct file_io *fio = file_io_of(io);
	bool reads = io->kind == VIRTQ_STORE_READ;
	uint64_t left = io->bytes - fio->done;

	fio->stage = FILE_BOUNCES;
	fio->piece = left < BOUNCE_BYTES ? left : BOUNCE_BYTES;
	fio->span = (struct virtq_span){ fio->bounce, (size_t)fio->piece };
	if (!reads)
		virtq_req_read(io->req, fio->bounce, (size_t)fio->piece);
	*op = (struct virtq_op){
		.kind = reads ? VIRTQ_OP_READ : VIRTQ_OP_WRITE, .fd = f->direct_fd,
		.offset = io->offset + fio->done, .spans = &fio->span, .span_count = 1,
		.flags = f->op_flags,
	};
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict bounced(struct file_store *f, struct virtq_store_io *io,
				  struct virtq_op *op, int64_t result)
{
	struct file_io *fio = file_io_of(io);
	uint64_t moved = result < 0 ? 0 : (uint64_t)result;

	if (io->kind == VIRTQ_STORE_READ)
		virtq_req_write(io->req, fio->bounce, (size_t)moved);
	fio->done += moved;
	if (moved == fio->piece && fio->done < io->bytes)
		return bounce(f, io, op);
	bounce_put(f, fio->bounce);
	if (moved != fio->piece)
		return ended(io, result < 0 ? result : -EIO);
	return performed(f, io, op);
}

/*
 * The kernel is given something for a file in memory that changes it, and holds its
 * lock for that long; or it has ended.
 */
static void changes(struct file_store *f, const struct virtq_store_io *io, bool begins)
{
	if (f->in_place && io->kind != VIRTQ_STORE_READ)
		shm_count_add(&f->changing, begins ? 1 : UINT32_MAX);
}

/*
 * A file on a tmpfs is memory: to copy is all there is to do, and nothing is waited
 * for but a page that was swapped out, as anywhere in memory; or, by a write, what the
 * kernel changes in the file meanwhile, so there are none then. The kernel does what
 * io_uring asks of other files at once where it can, but not of this one: it hands
 * each request to a worker thread, and the way there and back takes four times as
 * long as the copy. Long ones go there all the same, not to keep others waiting.
 * So does whatever fails or is short here: the engine continues it, or says why.
 */
static bool moved_in_place(const struct file_store *f, struct virtq_store_io *io)
{
	bool reads = io->kind == VIRTQ_STORE_READ;
	const struct virtq_cursor *data = reads ? &io->req->wr : &io->req->rd;
	/* Same layout, asserted in uring_ops.c. */
	const struct iovec *iov = (const struct iovec *)(const void *)data->spans;
	int count = (int)data->count;
	ssize_t moved;

	if (LIKELY(!f->in_place) || io->bytes > IN_PLACE_MAX ||
	    (!reads && shm_count_read(&f->changing)))
		return false;
	moved = reads ? preadv(f->fd, iov, count, (off_t)io->offset) :
			pwritev(f->fd, iov, count, (off_t)io->offset);
	if (UNLIKELY(moved < 0 || (uint64_t)moved != io->bytes))
		return false;
	if (reads)
		virtq_req_wrote(io->req, io->bytes);
	else
		virtq_req_skip(io->req, io->bytes);
	return true;
}

static enum virtq_verdict start_data(struct file_store *f, struct virtq_store_io *io,
				     struct virtq_op *op)
{
	struct file_io *fio = file_io_of(io);
	bool reads = io->kind == VIRTQ_STORE_READ;
	int fd = f->fd;

	/* Would fail after it: what is there is not to be made worse. */
	if (UNLIKELY(io->flags & VIRTQ_STORE_STABLE) && !reads && shm_flag_read(&f->gate.failed))
		return ended(io, -EIO);
	if (moved_in_place(f, io))
		return performed(f, io, op);
	if (range_goes_direct(f, io)) {
		if (LIKELY(spans_aligned(reads ? &io->req->wr : &io->req->rd,
					 f->direct_mem_align, f->direct_offset_align))) {
			fd = f->direct_fd;
		} else {
			return bounce_get(f, io) ? bounce(f, io, op) : VIRTQ_HOLD;
		}
	}
	fio->stage = FILE_MOVES;
	changes(f, io, true);
	*op = (struct virtq_op){
		.kind = reads ? VIRTQ_OP_READ : VIRTQ_OP_WRITE, .fd = fd, .offset = io->offset,
		.flags = f->op_flags,
	};
	return VIRTQ_SUBMIT;
}

/* ---- Discarding and zeroing ---------------------------------------------- */

/* These ranges are good: so it is the file system, or the device, that does not do such things. */
static bool cannot(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL ||
	       result == -ENODEV;
}

static enum virtq_verdict allocate(struct file_store *f, struct virtq_store_io *io,
				   enum file_stage stage, struct virtq_op *op)
{
	uint32_t mode = stage == FILE_PUNCHES ? FALLOC_FL_PUNCH_HOLE :
			stage == FILE_ZEROES ? FALLOC_FL_ZERO_RANGE : 0;

	file_io_of(io)->stage = stage;
	changes(f, io, true);
	*op = (struct virtq_op){
		.kind = VIRTQ_OP_ALLOCATE, .fd = f->fd, .flags = mode | FALLOC_FL_KEEP_SIZE,
		.offset = io->offset, .bytes = io->bytes,
	};
	return VIRTQ_SUBMIT;
}

/* By the best way that is not known to be closed; if none is left the device writes zeroes. */
static enum virtq_verdict make_zeroes(struct file_store *f, struct virtq_store_io *io,
				      struct virtq_op *op)
{
	bool zero_range = !shm_flag_read(&f->no_zero_range);
	bool punch = !shm_flag_read(&f->no_punch);

	if ((io->offset | io->bytes) & (f->hole_align - 1))
		return ended(io, -EOPNOTSUPP);
	/* A hole whose space is taken again is as good; but not so in a device. */
	if (punch && (io->flags & VIRTQ_STORE_MAY_UNMAP || (!zero_range && !f->is_device)))
		return allocate(f, io, FILE_PUNCHES, op);
	if (zero_range)
		return allocate(f, io, FILE_ZEROES, op);
	return ended(io, -EOPNOTSUPP);
}

static enum virtq_verdict punched(struct file_store *f, struct virtq_store_io *io,
				  struct virtq_op *op, int64_t result)
{
	if (cannot(result)) {
		shm_flag_write(&f->no_punch, true);
		return io->kind == VIRTQ_STORE_DISCARD ? ended(io, -EOPNOTSUPP) :
							 make_zeroes(f, io, op);
	}
	if (result < 0)
		return ended(io, result);
	if (io->kind == VIRTQ_STORE_ZERO && !(io->flags & VIRTQ_STORE_MAY_UNMAP))
		return allocate(f, io, FILE_KEEPS, op);
	return performed(f, io, op);
}

static enum virtq_verdict start_discard(struct file_store *f, struct virtq_store_io *io,
					struct virtq_op *op)
{
	/* What is no whole block stays. */
	uint64_t from = align_up(io->offset, f->hole_align), end = io->offset + io->bytes;

	end -= end % f->hole_align;
	if (shm_flag_read(&f->no_punch))
		return ended(io, -EOPNOTSUPP);
	if (from >= end)
		return ended(io, 0);
	allocate(f, io, FILE_PUNCHES, op);
	op->offset = from;
	op->bytes = end - from;
	return VIRTQ_SUBMIT;
}

/* ---- The store's two calls ----------------------------------------------- */

enum virtq_verdict file_start(struct virtq_store *store, struct virtq_store_io *io,
			      struct virtq_op *op)
{
	struct file_store *f = container_of(store, struct file_store, store);

	file_io_of(io)->done = 0;
	switch (io->kind) {
	case VIRTQ_STORE_READ:
	case VIRTQ_STORE_WRITE:
		return start_data(f, io, op);
	case VIRTQ_STORE_FLUSH:
		return file_sync(f, io, op);
	case VIRTQ_STORE_DISCARD:
		return start_discard(f, io, op);
	case VIRTQ_STORE_ZERO:
		return make_zeroes(f, io, op);
	case VIRTQ_STORE_ERASE:
		if (f->store.info.erase_max)
			return file_erase(f, io);
		break;
	}
	return ended(io, -EOPNOTSUPP);
}

enum virtq_verdict file_finish(struct virtq_store *store, struct virtq_store_io *io,
			       struct virtq_op *op, int64_t result)
{
	struct file_store *f = container_of(store, struct file_store, store);
	struct file_io *fio = file_io_of(io);

	if (fio->stage >= FILE_MOVES && fio->stage <= FILE_ZEROES && fio->stage != FILE_BOUNCES)
		changes(f, io, false);
	switch (fio->stage) {
	case FILE_WAITS:
		return result < 0 ? ended(io, result) : bounce(f, io, op);
	case FILE_MOVES:
		if (LIKELY(result >= 0 && (uint64_t)result == io->bytes))
			return performed(f, io, op);
		/* Short: the file ends before the disk does, someone cut it. */
		return ended(io, result < 0 ? result : -EIO);
	case FILE_BOUNCES:
		return bounced(f, io, op, result);
	case FILE_PUNCHES:
		return punched(f, io, op, result);
	case FILE_KEEPS:
		/* It reads as zeroes, which is what counts. */
		if (result < 0 && !cannot(result))
			return ended(io, result);
		return performed(f, io, op);
	case FILE_ZEROES:
		if (cannot(result)) {
			shm_flag_write(&f->no_zero_range, true);
			return make_zeroes(f, io, op);
		}
		return result < 0 ? ended(io, result) : performed(f, io, op);
	case FILE_ERASES:
		/* What is gone for good does not come back with the power. */
		return result < 0 ? ended(io, result) : file_sync(f, io, op);
	case FILE_WAITS_FOR_SYNC:
		break;
	case FILE_LEADS:
		return file_sync_lead(f, io, op);
	case FILE_SYNCS:
		file_synced(f, result);
		break;
	}
	return ended(io, result);
}
