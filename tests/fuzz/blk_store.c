/* SPDX-License-Identifier: MIT */
/* The store of a fuzzed disk: it holds each piece of work against the plan, and answers anything. */
#include <errno.h>

#include "blk.h"

static struct run *run_of(struct virtq_store *store)
{
	return (struct run *)((uint8_t *)store - offsetof(struct run, store));
}

/* Zeroes to be written come in pieces of any size, without a gap. */
static void check_zeroes(struct task *t, const struct virtq_store_io *io, uint32_t flags)
{
	FUZZ_CHECK(io->kind == VIRTQ_STORE_WRITE && io->flags == (flags & VIRTQ_STORE_STABLE));
	FUZZ_CHECK(io->offset == t->from && io->bytes && io->bytes <= t->to - t->from);
	FUZZ_CHECK(io->bytes % 512 == 0);
	t->from += io->bytes;
}

/* The next piece of the plan, and nothing else. */
static void check_work(const struct run *r, struct task *t, const struct virtq_store_io *io)
{
	const struct work *w;

	FUZZ_CHECK(!t->answered && !t->at_work);
	t->at_work = true;
	if (t->writing && t->from < t->to) {
		check_zeroes(t, io, t->plan[t->next - 1].flags);
		return;
	}
	FUZZ_CHECK(t->next < t->count);
	w = &t->plan[t->next++];
	t->writing = w->kind == VIRTQ_STORE_ZERO && !r->store.info.zero_max;
	if (t->writing) {
		t->from = w->offset;
		t->to = w->offset + w->bytes;
		check_zeroes(t, io, w->flags);
		return;
	}
	FUZZ_CHECK(io->kind == w->kind && io->flags == w->flags);
	FUZZ_CHECK(io->offset == w->offset && io->bytes == w->bytes);
}

/* Do @bytes of a piece. */
static void move_data(struct task *t, struct virtq_store_io *io, uint64_t bytes)
{
	static uint8_t buffer[READABLE_BYTES + WRITABLE_BYTES];
	const struct virtq_span *span = io->req->rd.spans;

	if (io->kind == VIRTQ_STORE_READ) {
		FUZZ_CHECK(io->req->wr.bytes == io->bytes);
		for (uint64_t i = 0; i < bytes; i++)
			buffer[i] = pattern(io->offset + i);
		FUZZ_CHECK(virtq_req_write(io->req, buffer, (size_t)bytes) == bytes);
		t->filled = (uint32_t)bytes;
	} else if (io->kind == VIRTQ_STORE_WRITE) {
		FUZZ_CHECK(io->req->rd.bytes == io->bytes);
		if (t->ranges) {
			/* Zeroes may be many: a look at both ends of them. */
			FUZZ_CHECK(io->req->rd.count == 1 && span->len == io->bytes);
			for (size_t i = 0; i < 512; i++)
				FUZZ_CHECK(!((uint8_t *)span->base)[i] &&
					   !((uint8_t *)span->base)[span->len - 1 - i]);
			virtq_req_skip(io->req, bytes);
			return;
		}
		FUZZ_CHECK(virtq_req_read(io->req, buffer, (size_t)bytes) == bytes);
		FUZZ_CHECK(!memcmp(buffer, t->sent + 16, (size_t)bytes));
	}
}

int64_t perform(struct run *r, struct task *t, struct virtq_store_io *io)
{
	static const int errors[] = { -EIO, -EOPNOTSUPP, -ENOSPC, -ECANCELED, -EINTR };
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;
	int64_t result = data ? (int64_t)io->bytes : 0;

	if (take_odd(&r->in)) {
		uint64_t most = io->bytes < 4096 ? io->bytes : 4096;
		uint8_t how = take8(&r->in);

		move_data(t, io, data ? take_below(&r->in, (uint32_t)most + 1) : 0);
		if (data && how & 1)
			return t->filled;
		/* It does not know better, and says that it has done all. */
		if (data && how & 2)
			return result;
		return errors[take_below(&r->in, 5)];
	}
	move_data(t, io, data ? io->bytes : 0);
	return result;
}

/* What a store says that has done its work at last. */
static enum virtq_verdict store_done(struct task *t, struct virtq_store_io *io, int64_t result)
{
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;

	io->result = result < 0 ? (int)result : data && (uint64_t)result != io->bytes ? -EIO : 0;
	expect_after(t, io->result);
	return VIRTQ_DONE;
}

static enum virtq_verdict store_decide(struct run *r, struct task *t, struct virtq_store_io *io,
				       struct virtq_op *op)
{
	switch (take_below(&r->in, 8)) {
	case 4:
	case 5:
		*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 1 };
		t->submitted = true;
		return VIRTQ_SUBMIT;
	case 6:
	case 7:
		t->held = true;
		return VIRTQ_HOLD;
	default:
		return store_done(t, io, perform(r, t, io));
	}
}

static enum virtq_verdict store_start(struct virtq_store *store, struct virtq_store_io *io,
				      struct virtq_op *op)
{
	static const struct virtq_op zero;
	struct run *r = run_of(store);
	struct task *t = r->starting;

	FUZZ_CHECK(t && io->req == t->req && !io->result);
	FUZZ_CHECK(!memcmp(op, &zero, sizeof(zero)));
	check_work(r, t, io);
	t->io = io;
	t->filled = 0;
	return store_decide(r, t, io, op);
}

static enum virtq_verdict store_finish(struct virtq_store *store, struct virtq_store_io *io,
				       struct virtq_op *op, int64_t result)
{
	struct run *r = run_of(store);
	struct task *t = r->starting;

	FUZZ_CHECK(t && io == t->io && t->at_work);
	if (result < 0)
		return store_done(t, io, result);
	return store_decide(r, t, io, op);
}

static void store_cancel(struct virtq_store *store, struct virtq_store_io *io)
{
	struct run *r = run_of(store);
	struct task *t = r->starting;

	FUZZ_CHECK(t && io == t->io && t->cancelled);
}

static int64_t store_refresh(struct virtq_store *store)
{
	return run_of(store)->refreshed;
}

static void store_close(struct virtq_store *store)
{
	run_of(store)->closed++;
}

static uint64_t take_max(struct run *r)
{
	uint8_t how = take8(&r->in);

	return how < 0x40 ? 1 << 20 : how < 0x80 ? 0 : how < 0xc0 ? 512u * (how & 31) :
	       take_number(&r->in) / 512 * 512;
}

void make_store(struct run *r)
{
	struct virtq_store_info *info = &r->store.info;
	uint8_t how = take8(&r->in);

	r->ops = (struct virtq_store_ops){
		.name = "fuzzed", .start = store_start, .refresh = store_refresh,
		.finish = how & 1 ? store_finish : NULL,
		.cancel = how & 2 ? store_cancel : NULL, .close = store_close,
	};
	r->store.ops = &r->ops;
	/* One after the other: a compiler may evaluate a list in any order. */
	info->bytes = how & 4 ? (take_number(&r->in) >> 11) * 512 + 512 : 64 * 512;
	info->read_only = take_odd(&r->in);
	info->zero_unmaps = how & 8;
	info->block = 512u << (how >> 4 & 3);
	info->discard_max = take_max(r);
	info->zero_max = take_max(r);
	info->erase_max = take_max(r);
	if (how & 64) {
		info->physical = (uint32_t)take_number(&r->in);
		info->alignment = (uint32_t)take_number(&r->in);
		info->min_io = (uint32_t)take_number(&r->in);
		info->opt_io = (uint32_t)take_number(&r->in);
		info->discard_align = (uint32_t)take_number(&r->in);
		info->erase_align = (uint32_t)take_number(&r->in);
	}
}
