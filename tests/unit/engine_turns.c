/* SPDX-License-Identifier: MIT */
/*
 * Queues take turns: one with long requests, or such as make its device work for
 * long, leaves the others theirs. Counted in steps of an engine that the test turns.
 */
#include "stand.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (1u << 20)
#define FLOOD 12u		/* requests */
#define LONG (8u * MIB)		/* each, or each of its ranges */
#define RANGES 16u
#define TURN (2u * MIB)		/* and no more of it in a step, one with another */
#define SOON 16u		/* steps until others have their answer */

/* In each queue's memory: what the requests are, what they end with, and data. */
#define REQUEST_AT(type) ((type) * 64u)
#define RANGES_AT 4096u
#define ANSWER_AT(i) (8192u + (i))
#define DATA_AT MIB

struct turns {
	struct virtq_engine *engine;
	struct virtq_model *disk;
	struct {
		struct pair pair;
		struct virtq_engine_queue *queue;
		int kick;
		unsigned int sent, done;
	} many, one;
	size_t each;			/* bytes of a request of the flood */
	uint64_t steps;
};

static void side_open(struct turns *t, struct pair *p, const struct setting *s,
		      struct virtq_engine_queue **queue, int kick, uint64_t sector)
{
	pair_open(p, &(struct pair_shape){ .packed = s->shape.packed, .size = 1024 }, t->disk,
		  DATA_AT + LONG);
	for (uint32_t type = 0; type <= VIRTIO_BLK_T_WRITE_ZEROES; type++) {
		struct virtq_blk_req_hdr hdr;

		virtq_blk_header(&hdr, type, type > VIRTIO_BLK_T_OUT ? 0 : sector);
		memcpy(p->data + REQUEST_AT(type), &hdr, sizeof(hdr));
	}
	for (unsigned int i = 0; i < RANGES; i++) {
		struct virtq_blk_discard_write_zeroes range;

		virtq_blk_range(&range, 0, LONG / 512, 0);
		memcpy(p->data + RANGES_AT + i * sizeof(range), &range, sizeof(range));
	}
	assert_int_equal(virtq_engine_add(t->engine, &(struct virtq_engine_queue_config){
		.model = t->disk, .ring = p->device, .enabled = true,
		.kick_fd = dup_of(kick), .call_fd = -1, .err_fd = -1 }, queue), 0);
	p->device = NULL;
}

/* Requests of the flood are of @each bytes, and begin at @sector. */
static void turns_open(struct turns *t, const struct setting *s, const char *path, size_t each,
		       uint64_t sector)
{
	*t = (struct turns){ .many.kick = new_eventfd(), .one.kick = new_eventfd(), .each = each };
	t->engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .stepped = true, .drain_ms = 300, .spin = VIRTQ_SPIN_OFF });
	t->disk = disk_make(&(struct virtq_blk_options){ .path = path, .queues = 2 });
	assert_int_equal(t->disk->ops->features_ok(t->disk, t->disk->features), 0);
	side_open(t, &t->many.pair, s, &t->many.queue, t->many.kick, sector);
	side_open(t, &t->one.pair, s, &t->one.queue, t->one.kick, 0);
}

static void turns_close(struct turns *t)
{
	if (t->many.queue)
		t->many.pair.device = virtq_engine_remove(t->many.queue);
	t->one.pair.device = virtq_engine_remove(t->one.queue);
	pair_close(&t->many.pair);
	pair_close(&t->one.pair);
	virtq_engine_destroy(t->engine);
	virtq_model_destroy(t->disk);
	close(t->many.kick);
	close(t->one.kick);
}

/* A request of @bytes, or for ranges. Its status is 0xff until it has one. */
static void send_one(struct pair *p, unsigned int i, uint32_t type, size_t bytes)
{
	struct chain c = { .readable = 0 };

	chain_readable(&c, REQUEST_AT(type), sizeof(struct virtq_blk_req_hdr));
	if (type == VIRTIO_BLK_T_IN)
		chain_writable(&c, DATA_AT, bytes);
	else if (type == VIRTIO_BLK_T_OUT)
		chain_readable(&c, DATA_AT, bytes);
	else
		chain_readable(&c, RANGES_AT,
			       RANGES * sizeof(struct virtq_blk_discard_write_zeroes));
	p->data[ANSWER_AT(i)] = 0xff;
	chain_writable(&c, ANSWER_AT(i), 1);
	chain_add(p, &c, p->data + ANSWER_AT(i));
	virtq_driver_publish(p->driver);
}

/* Those that have come back, and have gone well. */
static unsigned int back(struct pair *p)
{
	struct virtq_completion done[32];
	int n = virtq_driver_get(p->driver, done, 32);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++)
		assert_int_equal(*(uint8_t *)done[i].token, VIRTIO_BLK_S_OK);
	return (unsigned int)n;
}

static void flood(struct turns *t, uint32_t type)
{
	for (unsigned int i = 0; i < FLOOD; i++)
		send_one(&t->many.pair, i, type, t->each);
	virtq_notify_send(t->many.kick);
}

/* All of the flood, beside a reader of single sectors. */
static void flood_beside_one(void **state, const char *path, uint32_t type, size_t each,
			     uint64_t sector)
{
	const struct setting *s = *state;
	uint64_t asked = 0, answered = 0;
	uint64_t bytes = type > VIRTIO_BLK_T_OUT ? RANGES * LONG : each;
	unsigned int done = 0;
	struct turns t;

	turns_open(&t, s, path, each, sector);
	while (virtq_engine_step(t.engine) == 0)
		;
	flood(&t, type);
	send_one(&t.one.pair, 0, VIRTIO_BLK_T_IN, 512);
	virtq_notify_send(t.one.kick);
	while (done < FLOOD) {
		int wait = virtq_engine_step(t.engine);
		struct pollfd p = { virtq_engine_fd(t.engine), POLLIN, 0 };

		/* Not a step that the engine would have slept through. */
		if (wait)
			assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		t.steps++;
		done += back(&t.many.pair);
		if (back(&t.one.pair)) {
			answered++;
			asked = t.steps;
			send_one(&t.one.pair, 0, VIRTIO_BLK_T_IN, 512);
			virtq_notify_send(t.one.kick);
		} else {
			assert_in_range(t.steps - asked, 0, SOON);
		}
	}
	if (t.steps < FLOOD * bytes / TURN)
		fail_msg("all of %llu bytes in %llu steps", (unsigned long long)(FLOOD * bytes),
			 (unsigned long long)t.steps);
	assert_true(answered >= t.steps / SOON);
	turns_close(&t);
}

static void long_reads_and_writes_leave_others_their_turn(void **state)
{
	char *path = file_make(LONG);

	flood_beside_one(state, path, VIRTIO_BLK_T_IN, LONG, 0);
	flood_beside_one(state, path, VIRTIO_BLK_T_OUT, LONG, 0);
	file_drop(path);
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_IN, LONG, 0);
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_OUT, LONG, 0);
}

/* What a model moves before its first operation counts as well. */
static void what_is_moved_at_once_counts(void **state)
{
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_IN, MIB, 1);
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_OUT, MIB, 1);
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_IN, MIB + 512, 0);
}

/* After single requests a burst is one batch all the same. */
static void a_burst_is_one_batch(void **state)
{
	struct virtq_engine_stats before, after;
	struct turns t;

	turns_open(&t, *state, "null:8M", LONG, 0);
	for (unsigned int round = 0; round < 8; round++) {
		unsigned int left = round < 7 ? 1 : 32;

		virtq_engine_queue_stats(t.one.queue, &before);
		for (unsigned int i = 0; i < left; i++)
			send_one(&t.one.pair, i, VIRTIO_BLK_T_IN, 512);
		virtq_notify_send(t.one.kick);
		while (left) {
			virtq_engine_step(t.engine);
			left -= back(&t.one.pair);
		}
		virtq_engine_queue_stats(t.one.queue, &after);
		assert_int_equal(after.batches - before.batches, 1);
	}
	turns_close(&t);
}

/* One that wants calls has some of its answers, and the call, before all is copied. */
static void a_sleeping_driver_is_called_early(void **state)
{
	struct turns t;

	turns_open(&t, *state, "ram:8M", LONG, 0);
	for (unsigned int round = 0; round < 3; round++) {
		unsigned int left = 32, first;

		for (unsigned int i = 0; i < left; i++)
			send_one(&t.one.pair, i, VIRTIO_BLK_T_IN, 4096);
		virtq_notify_send(t.one.kick);
		do {
			virtq_engine_step(t.engine);
			first = back(&t.one.pair);
		} while (!first);
		/* That it sleeps is known from the batch before. */
		assert_int_equal(first, round ? 8 : 32);
		for (left -= first; left; left -= back(&t.one.pair))
			virtq_engine_step(t.engine);
	}
	turns_close(&t);
}

/* What is short to ask for may be long to do. */
static void ranges_leave_others_their_turn(void **state)
{
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_WRITE_ZEROES, 0, 0);
	flood_beside_one(state, "ram:8M", VIRTIO_BLK_T_DISCARD, 0, 0);
}

/* ---- Those whose turn has not come ------------------------------------------------- */

static void begin_flood(struct turns *t, const struct setting *s, const char *path)
{
	turns_open(t, s, path, LONG, 0);
	while (virtq_engine_step(t->engine) == 0)
		;
	memset(t->many.pair.data + DATA_AT, 0xee, LONG);
	flood(t, VIRTIO_BLK_T_IN);
	for (unsigned int i = 0; i < 4; i++)
		virtq_engine_step(t->engine);
	t->many.done = back(&t->many.pair);
	assert_true(t->many.done < FLOOD);
}

static void they_end_when_the_queue_is_paused(void **state)
{
	char *path = file_make(LONG);
	const char *const paths[] = { path, "ram:8M" };

	for (size_t i = 0; i < 2; i++) {
		struct turns t;

		begin_flood(&t, *state, paths[i]);
		assert_int_equal(virtq_engine_pause(&t.many.queue, 1, NULL), 0);
		t.many.done += back(&t.many.pair);
		virtq_engine_resume(t.many.queue);
		while (t.many.done < FLOOD) {
			virtq_engine_step(t.engine);
			t.many.done += back(&t.many.pair);
		}
		turns_close(&t);
	}
	file_drop(path);
}

static void they_touch_nothing_after_a_reset(void **state)
{
	char *path = file_make(LONG);
	const char *const paths[] = { path, "ram:8M" };

	for (size_t i = 0; i < 2; i++) {
		struct turns t;

		begin_flood(&t, *state, paths[i]);
		t.many.pair.device = virtq_engine_reset(t.many.queue);
		t.many.queue = NULL;
		memset(t.many.pair.data, 0xee, DATA_AT + LONG);
		for (unsigned int step = 0; step < 100; step++)
			virtq_engine_step(t.engine);
		for (size_t at = 0; at < DATA_AT + LONG; at++)
			if (t.many.pair.data[at] != 0xee)
				fail_msg("byte %zu", at);
		turns_close(&t);
	}
	file_drop(path);
}

static void they_move_along(void **state)
{
	const struct setting *s = *state;
	char *path = file_make(LONG);
	const char *const paths[] = { path, "ram:8M" };

	for (size_t i = 0; i < 2; i++) {
		struct virtq_engine *other = engine_with(&(struct virtq_engine_config){
			.kind = s->kind });
		struct turns t;

		begin_flood(&t, s, paths[i]);
		for (unsigned int way = 0; way < 5; way++)
			assert_int_equal(virtq_engine_move(t.many.queue, way % 2 ? t.engine :
							   other), 0);
		for (uint64_t start = now_ms(); t.many.done < FLOOD; usleep(100)) {
			t.many.done += back(&t.many.pair);
			assert_true(now_ms() - start < WAIT_MS);
		}
		for (size_t at = 0; at < LONG; at++)
			if (t.many.pair.data[DATA_AT + at] != (i ? 0 : file_pattern(at)))
				fail_msg("byte %zu", at);
		turns_close(&t);
		virtq_engine_destroy(other);
	}
	file_drop(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(long_reads_and_writes_leave_others_their_turn),
		ON_ENGINES(what_is_moved_at_once_counts),
		ON_ENGINES(a_burst_is_one_batch),
		ON_ENGINES(a_sleeping_driver_is_called_early),
		ON_ENGINES(ranges_leave_others_their_turn),
		ON_ENGINES(they_end_when_the_queue_is_paused),
		ON_ENGINES(they_touch_nothing_after_a_reset),
		ON_ENGINES(they_move_along),
	};

	return cmocka_run_group_tests_name("engine turns", tests, NULL, NULL) ? 1 : 0;
}
