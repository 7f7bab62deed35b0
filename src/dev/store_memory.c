/* SPDX-License-Identifier: MIT */
/*
 * Two stores that need nobody: one that is nothing, to measure what is around it,
 * and one that is memory.
 */
#include "dev/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"

static enum virtq_verdict ended(struct virtq_store_io *io, int result)
{
	io->result = result;
	return VIRTQ_DONE;
}

/* ---- Nothing ------------------------------------------------------------- */

#define NULL_RANGE_MAX ((uint64_t)1 << 30)

/*
 * What is read is whatever lies in the driver's memory already, which is thus what
 * the disk holds: to fill it would cost a fifth of the time that is measured here.
 */
static enum virtq_verdict null_start(struct virtq_store *store, struct virtq_store_io *io,
				     struct virtq_op *op)
{
	(void)store;
	(void)op;
	if (io->kind == VIRTQ_STORE_READ)
		virtq_req_wrote(io->req, io->bytes);
	return ended(io, io->kind == VIRTQ_STORE_ERASE ? -EOPNOTSUPP : 0);
}

static void null_close(struct virtq_store *store)
{
	free(store);
}

static const struct virtq_store_ops null_ops = {
	.name = "null", .start = null_start, .close = null_close,
};

int store_null_open(struct virtq_store **out, uint64_t bytes,
		    const struct virtq_store_options *options, struct virtq_error *err)
{
	struct virtq_store *store = calloc(1, sizeof(*store));

	if (!store)
		return error_set(err, -ENOMEM, "no memory for a store");
	store->ops = &null_ops;
	store->info = (struct virtq_store_info){
		.bytes = bytes, .read_only = options->read_only, .block = STORE_SECTOR_BYTES,
		.discard_max = NULL_RANGE_MAX, .zero_max = NULL_RANGE_MAX, .zero_unmaps = true,
	};
	*out = store;
	return 0;
}

/* ---- Memory -------------------------------------------------------------- */

#define RAM_WRITE_MAX ((uint64_t)8 << 20)
#define RAM_DISCARD_MAX ((uint64_t)1 << 30)

/* All is done by the engine's thread, so much at once: then other queues have their turn. */
#define RAM_PIECE_BYTES ((uint64_t)1 << 20)

struct ram_store {
	struct virtq_store store;
	uint8_t *memory;	/* zeroes where nothing was written, which takes no space */
	uint64_t page_bytes;
};

/* Give whole pages back. What is left of the range, in front and behind, is not touched. */
static void ram_discard(const struct ram_store *ram, uint64_t offset, uint64_t bytes)
{
	uint64_t from = align_up(offset, ram->page_bytes);
	uint64_t to = offset + bytes - (offset + bytes) % ram->page_bytes;

	if (from < to)
		madvise(ram->memory + from, (size_t)(to - from), MADV_DONTNEED);
}

static void ram_zero(const struct ram_store *ram, uint64_t offset, uint64_t bytes, bool unmap)
{
	uint64_t end = offset + bytes;
	uint64_t from = align_up(offset, ram->page_bytes), to = end - end % ram->page_bytes;

	if (!unmap || from >= to ||
	    madvise(ram->memory + from, (size_t)(to - from), MADV_DONTNEED)) {
		memset(ram->memory + offset, 0, (size_t)bytes);
		return;
	}
	memset(ram->memory + offset, 0, (size_t)(from - offset));
	memset(ram->memory + to, 0, (size_t)(end - to));
}

/*
 * Overwritten first: pages that are only given back keep what they hold until
 * somebody else gets them, and what was swapped out of them stays where it is.
 */
static void ram_erase(const struct ram_store *ram, uint64_t offset, uint64_t bytes)
{
	explicit_bzero(ram->memory + offset, (size_t)bytes);
	ram_discard(ram, offset, bytes);
}

/* Of what it keeps in io->room it needs only this. */
static uint64_t *ram_done(struct virtq_store_io *io)
{
	return io->room;
}

/* So much is to be done next. All pieces but the first begin where pages do. */
static uint64_t ram_piece(struct virtq_store_io *io)
{
	uint64_t left = io->bytes - *ram_done(io);
	uint64_t piece = RAM_PIECE_BYTES - (io->offset + *ram_done(io)) % RAM_PIECE_BYTES;

	return piece < left ? piece : left;
}

static enum virtq_verdict ram_await_turn(struct virtq_store_io *io, struct virtq_op *op)
{
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TURN, .bytes = ram_piece(io) };
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict ram_go_on(struct ram_store *ram, struct virtq_store_io *io,
				    struct virtq_op *op)
{
	uint64_t at = io->offset + *ram_done(io), piece = ram_piece(io);

	switch (io->kind) {
	case VIRTQ_STORE_READ:
		virtq_req_write(io->req, ram->memory + at, (size_t)piece);
		break;
	case VIRTQ_STORE_WRITE:
		virtq_req_read(io->req, ram->memory + at, (size_t)piece);
		break;
	case VIRTQ_STORE_FLUSH:		/* as stable as it will ever be */
		break;
	case VIRTQ_STORE_DISCARD:
		ram_discard(ram, at, piece);
		break;
	case VIRTQ_STORE_ZERO:
		ram_zero(ram, at, piece, io->flags & VIRTQ_STORE_MAY_UNMAP);
		break;
	case VIRTQ_STORE_ERASE:
		ram_erase(ram, at, piece);
		break;
	}
	*ram_done(io) += piece;
	return *ram_done(io) == io->bytes ? ended(io, 0) : ram_await_turn(io, op);
}

static enum virtq_verdict ram_start(struct virtq_store *store, struct virtq_store_io *io,
				    struct virtq_op *op)
{
	struct ram_store *ram = container_of(store, struct ram_store, store);

	*ram_done(io) = 0;
	/* What a request is worth shows in its length, but not where it is for ranges. */
	if (io->kind > VIRTQ_STORE_FLUSH)
		return ram_await_turn(io, op);
	return ram_go_on(ram, io, op);
}

static enum virtq_verdict ram_finish(struct virtq_store *store, struct virtq_store_io *io,
				     struct virtq_op *op, int64_t result)
{
	struct ram_store *ram = container_of(store, struct ram_store, store);

	return result < 0 ? ended(io, (int)result) : ram_go_on(ram, io, op);
}

static void ram_close(struct virtq_store *store)
{
	struct ram_store *ram = container_of(store, struct ram_store, store);

	munmap(ram->memory, (size_t)store->info.bytes);
	free(ram);
}

static const struct virtq_store_ops ram_ops = {
	.name = "ram", .start = ram_start, .finish = ram_finish, .close = ram_close,
};

int store_ram_open(struct virtq_store **out, uint64_t bytes,
		   const struct virtq_store_options *options, struct virtq_error *err)
{
	struct ram_store *ram;
	void *memory = MAP_FAILED;

	if (bytes <= SIZE_MAX)
		memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return error_set(err, -ENOMEM, "no memory for a disk of %llu bytes",
				 (unsigned long long)bytes);
	ram = calloc(1, sizeof(*ram));
	if (!ram) {
		munmap(memory, (size_t)bytes);
		return error_set(err, -ENOMEM, "no memory for a store");
	}
	ram->memory = memory;
	ram->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	ram->store.ops = &ram_ops;
	ram->store.info = (struct virtq_store_info){
		.bytes = bytes, .read_only = options->read_only, .block = STORE_SECTOR_BYTES,
		.physical = (uint32_t)ram->page_bytes, .min_io = (uint32_t)ram->page_bytes,
		.discard_max = RAM_DISCARD_MAX, .discard_align = (uint32_t)ram->page_bytes,
		.zero_max = RAM_WRITE_MAX, .zero_unmaps = true,
		.erase_max = RAM_WRITE_MAX,
	};
	*out = &ram->store;
	return 0;
}
