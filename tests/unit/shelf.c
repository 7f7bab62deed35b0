/* SPDX-License-Identifier: MIT */
/* A store in memory that notes what is asked of it. */
#include "shelf.h"

#include <stdlib.h>

#include <virtq/engine.h>

unsigned int shelves_closed;

static struct shelf *shelf_of(struct virtq_store *store)
{
	return (struct shelf *)(void *)store;
}

/* ---- The work ---------------------------------------------------------------- */

/* Is it something that the contract lets a device ask for? */
static bool allowed(const struct shelf *shelf, const struct virtq_store_io *io)
{
	const struct virtq_store_info *info = &shelf->store.info;
	const struct virtq_cursor *c = io->kind == VIRTQ_STORE_READ ? &io->req->wr : &io->req->rd;
	const uint64_t max[] = {
		[VIRTQ_STORE_DISCARD] = info->discard_max, [VIRTQ_STORE_ZERO] = info->zero_max,
		[VIRTQ_STORE_ERASE] = info->erase_max,
	};

	if (io->kind == VIRTQ_STORE_FLUSH)
		return !io->bytes && !io->flags;
	if (io->kind != VIRTQ_STORE_READ && info->read_only)
		return false;
	if (!io->bytes || io->bytes % 512 || io->offset % 512 || io->offset > info->bytes ||
	    io->bytes > info->bytes - io->offset)
		return false;
	if (io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE)
		return c->bytes == io->bytes;
	return io->bytes <= max[io->kind];
}

static void note(struct shelf *shelf, const struct virtq_store_io *io, const struct virtq_op *op)
{
	static const struct virtq_op zero;

	pthread_mutex_lock(&shelf->lock);
	if (!allowed(shelf, io) || memcmp(op, &zero, sizeof(zero)) != 0)
		shelf->wrong++;
	if (shelf->count < SHELF_SEEN_MAX)
		shelf->seen[shelf->count] =
			(struct shelf_io){ io->kind, io->flags, io->offset, io->bytes };
	shelf->count++;
	pthread_mutex_unlock(&shelf->lock);
}

static void move_data(struct shelf *shelf, struct virtq_store_io *io, uint64_t bytes)
{
	uint8_t *at = shelf->memory + io->offset;

	if (io->kind == VIRTQ_STORE_READ && !shelf->leave_hole)
		virtq_req_write(io->req, at, (size_t)bytes);
	else if (io->kind == VIRTQ_STORE_WRITE)
		virtq_req_read(io->req, at, (size_t)bytes);
}

int64_t shelf_work(struct shelf *shelf, struct virtq_store_io *io)
{
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;
	int64_t result = data ? (int64_t)io->bytes : 0;

	pthread_mutex_lock(&shelf->lock);
	if (shelf->fail_with && (!shelf->fail_at || shelf->fail_at == shelf->count)) {
		move_data(shelf, io, shelf->fail_after);
		result = shelf->fail_with;
	} else if (data) {
		move_data(shelf, io, io->bytes);
	} else if (io->kind != VIRTQ_STORE_FLUSH) {
		memset(shelf->memory + io->offset,
		       io->kind == VIRTQ_STORE_DISCARD ? SHELF_DISCARDED : 0, (size_t)io->bytes);
	}
	pthread_mutex_unlock(&shelf->lock);
	return result;
}

static enum virtq_verdict work_now(struct shelf *shelf, struct virtq_store_io *io)
{
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;
	int64_t result = shelf_work(shelf, io);

	io->result = result < 0 ? (int)result :
		     data && (uint64_t)result != io->bytes ? -EIO : 0;
	return VIRTQ_DONE;
}

/* ---- The store ----------------------------------------------------------------- */

static enum virtq_verdict shelf_start(struct virtq_store *store, struct virtq_store_io *io,
				      struct virtq_op *op)
{
	struct shelf *shelf = shelf_of(store);

	note(shelf, io, op);
	if (shelf->way == SHELF_AT_ONCE)
		return work_now(shelf, io);
	if (shelf->way == SHELF_SUBMIT) {
		*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 1 };
		return VIRTQ_SUBMIT;
	}
	pthread_mutex_lock(&shelf->lock);
	shelf->held[shelf->held_count++] = io;
	pthread_cond_broadcast(&shelf->changed);
	pthread_mutex_unlock(&shelf->lock);
	return VIRTQ_HOLD;
}

static enum virtq_verdict shelf_finish(struct virtq_store *store, struct virtq_store_io *io,
				       struct virtq_op *op, int64_t result)
{
	(void)op;
	if (!result)
		return work_now(shelf_of(store), io);
	io->result = (int)result;
	return VIRTQ_DONE;
}

/* Only what nobody has taken yet can be given up. */
static void shelf_cancel(struct virtq_store *store, struct virtq_store_io *io)
{
	struct shelf *shelf = shelf_of(store);
	bool mine = false;

	pthread_mutex_lock(&shelf->lock);
	for (unsigned int i = 0; i < shelf->held_count && !mine; i++) {
		mine = shelf->held[i] == io;
		if (mine)
			shelf->held[i] = shelf->held[--shelf->held_count];
	}
	shelf->cancelled += mine;
	pthread_mutex_unlock(&shelf->lock);
	if (mine)
		virtq_engine_complete(io->req, -ECANCELED);
}

static int64_t shelf_refresh(struct virtq_store *store)
{
	struct shelf *shelf = shelf_of(store);

	return shelf->refreshed ? shelf->refreshed : (int64_t)store->info.bytes;
}

static void shelf_close(struct virtq_store *store)
{
	struct shelf *shelf = shelf_of(store);

	shelves_closed++;
	pthread_mutex_destroy(&shelf->lock);
	pthread_cond_destroy(&shelf->changed);
	free(shelf->memory);
	free(shelf);
}

struct shelf *shelf_new(uint64_t bytes, enum shelf_way way)
{
	struct shelf *shelf = calloc(1, sizeof(*shelf));

	assert_non_null(shelf);
	shelf->memory = calloc(1, (size_t)bytes + 1);
	assert_non_null(shelf->memory);
	shelf->way = way;
	shelf->ops = (struct virtq_store_ops){
		.name = "shelf", .start = shelf_start, .cancel = shelf_cancel,
		.finish = way == SHELF_HOLD ? NULL : shelf_finish,
		.refresh = shelf_refresh, .close = shelf_close,
	};
	shelf->store.ops = &shelf->ops;
	shelf->store.info = (struct virtq_store_info){
		.bytes = bytes, .block = 512, .discard_max = 1 << 20, .zero_max = 1 << 20,
		.erase_max = 1 << 20, .zero_unmaps = true,
	};
	pthread_mutex_init(&shelf->lock, NULL);
	pthread_cond_init(&shelf->changed, NULL);
	return shelf;
}

/* ---- What is held ---------------------------------------------------------------- */

struct virtq_store_io *shelf_take(struct shelf *shelf)
{
	struct virtq_store_io *io = NULL;

	pthread_mutex_lock(&shelf->lock);
	while (!shelf->held_count && !shelf->quit)
		pthread_cond_wait(&shelf->changed, &shelf->lock);
	if (shelf->held_count) {
		io = shelf->held[0];
		shelf->held_count--;
		memmove(shelf->held, shelf->held + 1, shelf->held_count * sizeof(shelf->held[0]));
	}
	pthread_mutex_unlock(&shelf->lock);
	return io;
}

void shelf_quit(struct shelf *shelf)
{
	pthread_mutex_lock(&shelf->lock);
	shelf->quit = true;
	pthread_cond_broadcast(&shelf->changed);
	pthread_mutex_unlock(&shelf->lock);
}

void *shelf_worker(void *arg)
{
	struct shelf *shelf = arg;
	struct virtq_store_io *io;

	while ((io = shelf_take(shelf))) {
		/* The request may be gone when it has been completed. */
		int64_t result = shelf_work(shelf, io);

		virtq_engine_complete(io->req, result);
	}
	return NULL;
}

void shelf_assert(struct shelf *shelf, unsigned int number, enum virtq_store_kind kind,
		  uint32_t flags, uint64_t offset, uint64_t bytes)
{
	const struct shelf_io *io = &shelf->seen[number];

	assert_true(number < shelf->count && number < SHELF_SEEN_MAX);
	assert_int_equal(io->kind, kind);
	assert_int_equal(io->flags, flags);
	assert_int_equal(io->offset, offset);
	assert_int_equal(io->bytes, bytes);
}
