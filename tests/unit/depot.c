/* SPDX-License-Identifier: MIT */
/* A store on an engine, and random work for it. */
#include "depot.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <virtq/spec/types.h>

/* ---- The model --------------------------------------------------------------- */

struct order {
	uint32_t kind, flags, tag, reserved;
	uint64_t offset, bytes;
};

struct depot_req {
	struct virtq_req req;
	struct virtq_store_io io;
	uint32_t tag;
};

static uint32_t ended(const struct depot *dp)
{
	return __atomic_load_n(&dp->ended, __ATOMIC_SEQ_CST);
}

static enum virtq_verdict note(struct depot *dp, struct depot_req *sr, enum virtq_verdict verdict)
{
	if (verdict != VIRTQ_DONE)
		return verdict;
	dp->result[sr->tag] = sr->io.result;
	__atomic_add_fetch(&dp->ended, 1, __ATOMIC_SEQ_CST);
	if (dp->rival)
		dp->overtaken += ended(dp->rival) - dp->rival_ended;
	return verdict;
}

static enum virtq_verdict depot_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	struct depot *dp = (struct depot *)(void *)model;
	struct depot_req *sr = (struct depot_req *)(void *)req;
	enum virtq_verdict verdict;
	struct order order;

	virtq_req_read(req, &order, sizeof(order));
	memset(&sr->io, 0xee, sizeof(sr->io));	/* the room is not zeroed */
	sr->tag = order.tag;
	sr->io.req = req;
	sr->io.kind = (enum virtq_store_kind)order.kind;
	sr->io.flags = order.flags;
	sr->io.offset = order.offset;
	sr->io.bytes = order.bytes;
	if (dp->rival)
		dp->rival_ended = ended(dp->rival);
	verdict = dp->store->ops->start(dp->store, &sr->io, op);
	dp->at_once += verdict == VIRTQ_DONE;
	return note(dp, sr, verdict);
}

static enum virtq_verdict depot_finish(struct virtq_model *model, struct virtq_req *req,
				       struct virtq_op *op, int64_t result)
{
	struct depot *dp = (struct depot *)(void *)model;
	struct depot_req *sr = (struct depot_req *)(void *)req;

	if (dp->store->ops->finish)
		return note(dp, sr, dp->store->ops->finish(dp->store, &sr->io, op, result));
	if (result >= 0 && sr->io.kind <= VIRTQ_STORE_WRITE && (uint64_t)result != sr->io.bytes)
		result = -EIO;
	sr->io.result = result < 0 ? (int)result : 0;
	return note(dp, sr, VIRTQ_DONE);
}

static void depot_cancel(struct virtq_model *model, struct virtq_req *req)
{
	struct depot *dp = (struct depot *)(void *)model;
	struct depot_req *sr = (struct depot_req *)(void *)req;

	if (dp->store->ops->cancel)
		dp->store->ops->cancel(dp->store, &sr->io);
}

static const struct virtq_model_ops depot_ops = {
	.name = "depot", .req_bytes = sizeof(struct depot_req),
	.start = depot_start, .finish = depot_finish, .cancel = depot_cancel,
};

/* ---- Stores ------------------------------------------------------------------ */

struct virtq_store *store_make(const char *image, const struct virtq_store_options *options)
{
	/* What the tests say of operations holds wherever their folder is. */
	static const struct virtq_store_options usual = { .no_in_place = true };
	struct virtq_store *store = NULL;
	struct virtq_error err = { 0 };

	if (virtq_store_open(&store, image, options ? options : &usual, &err))
		fail_msg("store: %s", err.text);
	return store;
}

struct virtq_store *store_make_failing(struct virtq_store *inner, const char *rules)
{
	struct virtq_store *store = NULL;
	struct virtq_error err = { 0 };

	if (virtq_store_inject(&store, inner, rules, &err))
		fail_msg("store: %s", err.text);
	return store;
}

void assert_store_refused(const char *image, const struct virtq_store_options *options,
			  int code, const char *part)
{
	struct virtq_store *store = NULL;
	struct virtq_error err = { 0 };

	assert_int_equal(virtq_store_open(&store, image, options, &err), code);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
	/* Without anybody to tell: the same. */
	assert_int_equal(virtq_store_open(&store, image, options, NULL), code);
	assert_null(store);
}

/* ---- A queue ----------------------------------------------------------------- */

void depot_open(struct depot *dp, const struct setting *s, struct virtq_store *store,
		uint32_t drain_ms)
{
	memset(dp, 0, sizeof(*dp));
	dp->store = store;
	dp->model.ops = &depot_ops;
	dp->model.queues = 1;
	dp->model.max_segs = PAIR_SEGS_MAX;
	dp->engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .entries = s->entries, .drain_ms = drain_ms });
	dp->kick = new_eventfd();
	dp->call = new_eventfd();
	pair_open(&dp->pair, &(struct pair_shape){ .packed = s->shape.packed, .size = 2048 },
		  &dp->model, DEPOT_DATA_AT + DEPOT_DATA_BYTES);
	assert_int_equal(virtq_engine_add(dp->engine, &(struct virtq_engine_queue_config){
				.model = &dp->model, .ring = dp->pair.device, .enabled = true,
				.kick_fd = dup_of(dp->kick), .call_fd = dup_of(dp->call),
				.err_fd = -1 }, &dp->queue), 0);
	dp->pair.device = NULL;
}

void depot_open_shared(struct depot *dp, const struct setting *s, struct virtq_store *store,
		       uint32_t drain_ms)
{
	depot_open(dp, s, store, drain_ms);
	dp->shares = true;
}

void depot_close(struct depot *dp)
{
	dp->pair.device = virtq_engine_remove(dp->queue);
	virtq_engine_destroy(dp->engine);
	if (!dp->shares)
		virtq_store_close(dp->store);
	close(dp->kick);
	close(dp->call);
	pair_close(&dp->pair);
}

uint8_t *depot_data(struct depot *dp, size_t at)
{
	return dp->pair.data + DEPOT_DATA_AT + at;
}

static void add_data(struct chain *c, const struct work *w)
{
	size_t piece = w->piece ? w->piece : w->bytes, at = DEPOT_DATA_AT + w->at;

	for (size_t left = w->bytes; left; ) {
		size_t len = piece < left ? piece : left;

		if (w->kind == VIRTQ_STORE_READ)
			chain_writable(c, at, len);
		else
			chain_readable(c, at, len);
		at += len;
		left -= len;
	}
}

static void write_order(struct depot *dp, const struct work *w, unsigned int tag)
{
	struct order order = { w->kind, w->flags, tag, 0, w->offset, w->bytes };

	memcpy(dp->pair.data + tag * 64u, &order, sizeof(order));
}

static void add_work(struct depot *dp, const struct work *w, unsigned int tag)
{
	struct chain c = { .readable = 0 };

	chain_readable(&c, tag * 64u, sizeof(struct order));
	if (w->kind == VIRTQ_STORE_READ || w->kind == VIRTQ_STORE_WRITE)
		add_data(&c, w);
	chain_add(&dp->pair, &c, &dp->used[tag]);
}

unsigned int depot_send(struct depot *dp, const struct work *w)
{
	unsigned int tag = (unsigned int)__builtin_ctzll(~dp->busy);

	assert_in_range(tag, 0, DEPOT_TAGS - 1);
	dp->result[tag] = DEPOT_NONE;
	dp->busy |= (uint64_t)1 << tag;
	write_order(dp, w, tag);
	add_work(dp, w, tag);
	virtq_driver_publish(dp->pair.driver);
	virtq_notify_send(dp->kick);
	return tag;
}

static bool take_back(struct depot *dp)
{
	struct virtq_completion done[16];
	int n = virtq_driver_get(dp->pair.driver, done, 16);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		uint32_t *used = done[i].token;

		*used = done[i].written;
		dp->busy &= ~((uint64_t)1 << (used - dp->used));
		assert_int_not_equal(dp->result[used - dp->used], DEPOT_NONE);
	}
	return n > 0;
}

bool depot_reap(struct depot *dp, int ms)
{
	uint64_t end = now_ms() + (uint64_t)ms;

	while (!take_back(dp)) {
		uint64_t now = now_ms();

		if (now >= end)
			return false;
		virtq_notify_wait(dp->call, (int)(end - now));
	}
	return true;
}

int depot_wait(struct depot *dp, unsigned int tag)
{
	while (dp->busy & (uint64_t)1 << tag)
		if (!depot_reap(dp, WAIT_MS))
			fail_msg("nothing came back in %d ms", WAIT_MS);
	return dp->result[tag];
}

int depot_do(struct depot *dp, const struct work *w)
{
	return depot_wait(dp, depot_send(dp, w));
}

/* ---- Random work -------------------------------------------------------------- */

#define LANES 16u	/* parts of the store and of the memory, one for each piece of work */

void shadow_open(struct shadow *s, uint64_t bytes)
{
	s->bytes = bytes;
	s->random = 0x2545f4914f6cdd1du;
	s->expect = calloc(1, bytes);
	assert_non_null(s->expect);
}

void shadow_close(struct shadow *s)
{
	free(s->expect);
}

uint64_t shadow_random(struct shadow *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return s->random;
}

static void pick_work(struct shadow *s, const struct depot *dp, unsigned int lane, bool rough,
		      struct work *w)
{
	const struct virtq_store_info *info = &dp->store->info;
	uint64_t sectors = s->bytes / LANES / 512, from, count;
	unsigned int dice = (unsigned int)(shadow_random(s) % 100);
	uint64_t grain = shadow_random(s) % 2 ? 1 : 8;	/* sectors; pages as well */

	from = shadow_random(s) % sectors / grain * grain;
	count = 1 + shadow_random(s) % (sectors - from);
	if (count > grain)
		count -= count % grain;
	*w = (struct work){
		.kind = dice < 40 ? VIRTQ_STORE_READ : dice < 80 ? VIRTQ_STORE_WRITE :
			dice < 88 && info->zero_max ? VIRTQ_STORE_ZERO :
			dice < 94 && info->discard_max ? VIRTQ_STORE_DISCARD : VIRTQ_STORE_FLUSH,
		.flags = (uint32_t)(shadow_random(s) & shadow_random(s)) &
			 (VIRTQ_STORE_MAY_UNMAP | VIRTQ_STORE_STABLE),
		.offset = lane * (s->bytes / LANES) + from * 512, .bytes = count * 512,
		.at = lane * (DEPOT_DATA_BYTES / LANES),
	};
	if (w->kind == VIRTQ_STORE_FLUSH)
		w->offset = w->bytes = 0;
	if (rough)
		w->at += shadow_random(s) % 3 * (shadow_random(s) % 513);
	if (rough && shadow_random(s) % 2)
		w->piece = w->bytes / (1 + shadow_random(s) % 8) + 1;
}

/* What was written is what is expected; a discarded range may read as anything, so it is asked. */
static void settle_work(struct shadow *s, struct depot *dp, const struct work *w,
			unsigned int tag)
{
	/* Whoever cannot zero a part of a page leaves that to the device. */
	if (w->kind == VIRTQ_STORE_ZERO && (w->offset | w->bytes) % 4096 &&
	    dp->result[tag] == -EOPNOTSUPP)
		return;
	assert_int_equal(dp->result[tag], 0);
	assert_int_equal(dp->used[tag], w->kind == VIRTQ_STORE_READ ? w->bytes : 0);
	switch (w->kind) {
	case VIRTQ_STORE_READ:
		assert_memory_equal(depot_data(dp, w->at), s->expect + w->offset, w->bytes);
		break;
	case VIRTQ_STORE_WRITE:
		memcpy(s->expect + w->offset, depot_data(dp, w->at), w->bytes);
		break;
	case VIRTQ_STORE_ZERO:
		memset(s->expect + w->offset, 0, w->bytes);
		break;
	case VIRTQ_STORE_DISCARD:
		assert_int_equal(depot_do(dp, &(struct work){ .kind = VIRTQ_STORE_READ, .at = w->at,
				.offset = w->offset, .bytes = w->bytes }), 0);
		memcpy(s->expect + w->offset, depot_data(dp, w->at), w->bytes);
		break;
	default:
		break;
	}
}

void shadow_run(struct shadow *s, struct depot *dp, unsigned int rounds, bool rough)
{
	assert_in_range(s->bytes / LANES, 512, DEPOT_DATA_BYTES / LANES - 4096);
	while (rounds--) {
		unsigned int n = 1 + (unsigned int)(shadow_random(s) % LANES), tags[LANES];
		struct work works[LANES];

		for (unsigned int i = 0; i < n; i++) {
			struct work *w = &works[i];

			pick_work(s, dp, i, rough, w);
			for (size_t at = 0; at < w->bytes; at += 8) {
				uint64_t word = shadow_random(s);

				memcpy(depot_data(dp, w->at + at), &word, 8);
			}
			tags[i] = depot_send(dp, w);
		}
		for (unsigned int i = 0; i < n; i++)
			depot_wait(dp, tags[i]);
		for (unsigned int i = 0; i < n; i++)
			settle_work(s, dp, &works[i], tags[i]);
	}
	shadow_check(s, dp);
}

void shadow_check(struct shadow *s, struct depot *dp)
{
	uint64_t step = 1 << 20;

	for (uint64_t at = 0; at < s->bytes; at += step) {
		if (step > s->bytes - at)
			step = s->bytes - at;
		assert_int_equal(depot_do(dp, &(struct work){ .kind = VIRTQ_STORE_READ,
				.offset = at, .bytes = step }), 0);
		assert_memory_equal(depot_data(dp, 0), s->expect + at, step);
	}
}

void depot_random(const struct setting *s, struct virtq_store *store, uint64_t bytes,
		  unsigned int rounds, bool rough)
{
	struct shadow shadow;
	struct depot dp;

	depot_open(&dp, s, store, 300);
	shadow_open(&shadow, bytes);
	shadow_run(&shadow, &dp, rounds, rough);
	shadow_close(&shadow);
	depot_close(&dp);
}

/* ---- Two engines --------------------------------------------------------------- */

void depot_crowd(const struct setting *s, struct virtq_store *store)
{
	bool forgets = strcmp(store->ops->name, "null") == 0;
	unsigned int tags[2][24];
	struct depot dp[2];

	depot_open(&dp[0], s, store, 300);
	depot_open_shared(&dp[1], s, store, 300);
	for (unsigned int round = 0; round < 60; round++) {
		struct work w = { .kind = round % 2 ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE,
				  .bytes = 8192, .piece = round % 4 < 2 ? 3000 : 0 };

		for (unsigned int i = 0; i < 48; i++) {
			w.offset = i * 16384;
			w.at = i * 16384 + 1;
			if (w.kind == VIRTQ_STORE_WRITE)
				memset(depot_data(&dp[i % 2], w.at), (int)(round + i), 8192);
			tags[i % 2][i / 2] = depot_send(&dp[i % 2], &w);
		}
		for (unsigned int i = 0; i < 48; i++) {
			assert_int_equal(depot_wait(&dp[i % 2], tags[i % 2][i / 2]), 0);
			if (w.kind == VIRTQ_STORE_READ && !forgets)
				assert_int_equal(*depot_data(&dp[i % 2], i * 16384 + 8192),
						 (uint8_t)(round - 1 + i));
		}
	}
	depot_close(&dp[1]);
	depot_close(&dp[0]);
}

#define RIVAL_TURNS 40u

/* Fill up to @flood that are in flight, all with the same memory and tag. Returns the new number. */
static unsigned int fill_up(struct depot *dp, const struct work *w, unsigned int in_flight,
			    unsigned int flood)
{
	struct virtq_completion done[64];
	int n;

	while ((n = virtq_driver_get(dp->pair.driver, done, 64)) > 0)
		in_flight -= (unsigned int)n;
	assert_int_equal(n, 0);
	if (in_flight == flood)
		return flood;
	for (; in_flight < flood; in_flight++)
		add_work(dp, w, 0);
	virtq_driver_publish(dp->pair.driver);
	virtq_notify_send(dp->kick);
	return flood;
}

unsigned int depot_overtaken(const struct setting *s, struct virtq_store *store,
			     const struct work *w, unsigned int flood)
{
	unsigned int in_flight = 0, turns, tag;
	struct depot crowd, one;

	depot_open_shared(&crowd, s, store, 5000);
	depot_open_shared(&one, s, store, 5000);
	one.rival = &crowd;
	write_order(&crowd, w, 0);
	for (turns = 0; turns < RIVAL_TURNS || ended(&crowd) < 3 * flood; turns++) {
		in_flight = fill_up(&crowd, w, in_flight, flood);
		tag = depot_send(&one, w);
		while (one.busy) {
			in_flight = fill_up(&crowd, w, in_flight, flood);
			depot_reap(&one, 1);
		}
		assert_int_equal(one.result[tag], 0);
	}
	depot_close(&one);
	depot_close(&crowd);
	return one.overtaken / turns;
}
