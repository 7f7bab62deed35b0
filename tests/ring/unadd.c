/* SPDX-License-Identifier: MIT */
/*
 * Taking back what was added and not shown: no trace of it is left, neither for
 * the device nor in what the driver does next.
 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>

#define ELEMS_MAX 4u

static uint32_t rnd(uint64_t *seed, uint32_t below)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33) % below;
}

/* A buffer of its own for each @token: its first element begins @token * 16 bytes into a region. */
struct chain {
	struct virtq_seg segs[ELEMS_MAX];
	struct virtq_buffer buf;
	uint32_t count;
};

static void make_chain(struct chain *c, uint32_t readable, uint32_t count, uintptr_t token)
{
	for (uint32_t i = 0; i < count; i++) {
		c->segs[i].addr = (i < readable ? RIG_DATA_GPA : RIG_WRITABLE_GPA) +
				  token % 30000 * 16 + i;
		c->segs[i].len = 1 + (uint32_t)token % 9 + i;
	}
	c->count = count;
	c->buf = (struct virtq_buffer){ c->segs, (uint16_t)readable, (uint16_t)(count - readable),
					token_of(token) };
}

static void random_chain(struct chain *c, const struct shape *shape, uint64_t *seed,
			 uintptr_t token)
{
	uint32_t max = shape->size < ELEMS_MAX ? shape->size : ELEMS_MAX;
	uint32_t count = rnd(seed, 2) ? 1 : 1 + rnd(seed, max);

	make_chain(c, rnd(seed, count + 1), count, token);
}

static int add(struct rig *r, uint32_t count, uintptr_t token)
{
	struct chain c;

	make_chain(&c, count / 2, count, token);
	return virtq_driver_add(r->driver, &c.buf, 1);
}

/* Take back just @count, youngest first, whose tokens go down from @token. */
static void unadd(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_completion back[64];

	assert_true(count <= 64);
	memset(back, 0xa5, sizeof(back));
	assert_int_equal(virtq_driver_unadd(r->driver, back, count), count);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(token_value(back[i].token), token - i);
		assert_int_equal(back[i].written, 0);
	}
}

static void expect_nothing_to_unadd(struct rig *r)
{
	struct virtq_completion back[2], same[2];

	memset(back, 0xa5, sizeof(back));
	memset(same, 0xa5, sizeof(same));
	assert_int_equal(virtq_driver_unadd(r->driver, back, 2), 0);
	assert_int_equal(virtq_driver_unadd(r->driver, back, 0), 0);
	assert_memory_equal(back, same, sizeof(back));
}

/* ---- What comes back ------------------------------------------------------ */

/*
 * Youngest first, as many as are asked for or there are, with nothing written;
 * room and number in flight follow. What was published is not touched.
 */
static void test_youngest_first(void **state)
{
	const struct shape *shape = *state;
	uint32_t size = shape->size, each = shape->indirect || size < 2 ? 1 : 2;
	uint32_t count = size / each < 40 ? size / each : 40, shown;
	struct virtq_completion back[64];
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < 6; round++) {
		expect_nothing_to_unadd(&r);
		shown = round % count;
		for (uint32_t i = 0; i < count; i++) {
			if (i == shown)
				virtq_driver_publish(r.driver);
			assert_int_equal(add(&r, size < 2 ? 1 : 2, i), 1);
		}
		assert_int_equal(virtq_driver_in_flight(r.driver), count);
		if (count - shown > 3) {
			unadd(&r, 1, count - 1);
			assert_int_equal(virtq_driver_in_flight(r.driver), count - 1);
			unadd(&r, 2, count - 2);
			assert_int_equal(virtq_driver_room(r.driver), size - (count - 3) * each);
			unadd(&r, count - shown - 3, count - 4);
		} else {
			/* More than there are. */
			assert_int_equal(virtq_driver_unadd(r.driver, back, 64), count - shown);
			assert_int_equal(token_value(back[0].token), count - 1);
			assert_int_equal(token_value(back[count - shown - 1].token), shown);
		}
		expect_nothing_to_unadd(&r);
		assert_int_equal(virtq_driver_in_flight(r.driver), shown);
		assert_int_equal(virtq_driver_room(r.driver), size - shown * each);
		assert_int_equal(virtq_driver_publish(r.driver), 0);
		for (uint32_t i = 0; i < shown; i++) {
			struct virtq_completion done;

			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			virtq_device_push(r.device, &req, 1);
			virtq_device_publish(r.device);
			expect_nothing_to_unadd(&r);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	}
	rig_close(&r);
}

/* What it is for: of work in five buffers only some fit, and all go back; it fits later. */
static void test_work_that_does_not_fit(void **state)
{
	const struct shape *shape = *state;
	uint32_t busy = shape->size - 3;
	struct virtq_buffer work[5];
	struct chain c[5];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 5; i++) {
		make_chain(&c[i], i % 2, 1, 1000 + i);
		work[i] = c[i].buf;
	}
	for (uint32_t round = 0; round < 4; round++) {
		rig_send(&r, busy);
		assert_int_equal(virtq_driver_add(r.driver, work, 5), 3);
		unadd(&r, 3, 1002);
		assert_int_equal(virtq_driver_room(r.driver), 3);
		assert_int_equal(virtq_driver_publish(r.driver), 0);
		rig_serve(&r, busy);
		rig_collect(&r, busy);
		assert_int_equal(virtq_driver_add(r.driver, work, 5), 5);
		virtq_driver_publish(r.driver);
		rig_serve(&r, 5);
		rig_collect(&r, 5);
	}
	rig_close(&r);
}

/*
 * A broken queue and a detached one say so. L-036: of what was added, shown or
 * not, each buffer comes back once, by unadd or by detach.
 */
static void test_broken_and_detached(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion back[4], done;
	uint32_t seen = 0;
	void *token;
	struct rig r;

	/* The device returns an id there is not. */
	rig_open(&r, shape, RIG_DRIVER);
	assert_int_equal(add(&r, 1, 0), 1);
	virtq_driver_publish(r.driver);
	assert_int_equal(add(&r, 1, 1), 1);
	if (shape->packed) {
		uint32_t at = shape->moved ? shape->start : 0;

		put16(r.desc.device + 16 * (size_t)at + 12, 0xffff);
		put16(r.desc.device + 16 * (size_t)at + 14, shape->moved ? 0 : F_AVAIL | F_USED);
	} else {
		uint16_t at = get16(used_idx(&r));

		put32(used_ring(&r, at), 0x7fffffff);
		put16(used_idx(&r), (uint16_t)(at + 1));
	}
	memset(back, 0xa5, sizeof(back));
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -EBADMSG);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 0), -EBADMSG);
	assert_int_equal(virtq_driver_in_flight(r.driver), 2);
	rig_close(&r);

	rig_open(&r, shape, RIG_DRIVER);
	for (uintptr_t i = 0; i < 2; i++)
		assert_int_equal(add(&r, 1, i), 1);
	virtq_driver_publish(r.driver);
	for (uintptr_t i = 2; i < 5; i++)
		assert_int_equal(add(&r, 1, i), 1);
	virtq_driver_stop(r.driver);
	unadd(&r, 2, 4);
	while (virtq_driver_detach(r.driver, &token) == 1) {
		assert_true(token_value(token) < 3);
		assert_false(seen & 1u << token_value(token));
		seen |= 1u << token_value(token);
		assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -ESHUTDOWN);
	}
	assert_int_equal(seen, 7);
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 4), -ESHUTDOWN);
	assert_int_equal(((uint8_t *)back)[sizeof(back) - 1], 0xa5);
	rig_close(&r);
}

/* ---- What the device sees --------------------------------------------------- */

/* Is the descriptor in packed @slot available to a device that stands at @at with @wrap? */
static bool available(struct rig *r, uint32_t slot, uint32_t at, bool wrap)
{
	uint16_t flags = get16(r->desc.device + 16 * (size_t)slot + 14);

	if (slot < at)
		wrap = !wrap;
	return (flags & (F_AVAIL | F_USED)) == (wrap ? F_AVAIL : F_USED);
}

/*
 * Packed: nothing of the @from th slot after the device's and those behind it is
 * available; and those that had been staged, before the @to th, look used (2.8.1).
 * The first was never marked.
 */
static void expect_unavailable(struct rig *r, uint32_t from, uint32_t to)
{
	uint32_t position = virtq_device_position(r->device), at = position & 0x7fff;

	for (uint32_t i = from; i < r->shape.size && r->shape.packed; i++) {
		uint32_t slot = (at + i) % r->shape.size;
		uint16_t flags = get16(r->desc.device + 16 * (size_t)slot + 14);

		assert_false(available(r, slot, at, position >> 15 & 1));
		if (i && i < to)
			assert_int_equal(!!(flags & F_AVAIL), !!(flags & F_USED));
	}
}

/*
 * From every slot of two laps, some lists staged and the youngest taken
 * back: their slots are not the device's, neither now nor when the others are
 * published; and those come whole.
 */
static void test_device_sees_the_rest(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[16];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t turn = 0; turn < 2 * shape->size + 1; turn++)
		for (uint32_t elems = 1; elems <= 3; elems++)
			for (uint32_t count = 1; count * elems <= shape->size; count++) {
				uint32_t back = (turn + elems + count) % (count + 1);
				uint32_t rest = count - back;
				uint32_t each = elems > 1 && shape->indirect ? 1 : elems;

				for (uint32_t i = 0; i < count; i++)
					assert_int_equal(add(&r, elems, i), 1);
				unadd(&r, back, count - 1);
				expect_unavailable(&r, rest * each, count * each);
				/* What is staged is not behind the device. */
				assert_int_equal(virtq_driver_position(r.driver) & 0xffff,
						 virtq_device_position(r.device) & 0xffff);
				assert_int_equal(virtq_device_pop(r.device, reqs, 16), 0);
				assert_int_equal(virtq_device_arm(r.device), 0);
				virtq_driver_publish(r.driver);
				expect_unavailable(&r, rest * each, count * each);
				assert_int_equal(virtq_device_pop(r.device, reqs, 16), rest);
				for (uint32_t i = 0; i < rest; i++) {
					assert_int_equal(reqs[i]->rd.count, elems / 2);
					assert_int_equal(reqs[i]->wr.count, elems - elems / 2);
				}
				assert_int_equal(virtq_device_arm(r.device), 0);
				virtq_device_push(r.device, reqs, rest);
				virtq_device_publish(r.device);
				rig_collect(&r, rest);
				/* So that all slots get their turn. */
				rig_send(&r, 1);
				rig_serve(&r, 1);
				rig_collect(&r, 1);
			}
	rig_close(&r);
}

/*
 * With completions taken between add and unadd: nothing gets lost or doubled, by
 * the whole ring being given out afterwards, each entry once.
 */
static void test_completions_between(void **state)
{
	const struct shape *shape = *state;
	uint32_t size = shape->size, half = size / 2;
	uint8_t *seen = calloc(size, 1);
	struct virtq_completion done;
	struct rig r;

	assert_non_null(seen);
	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < (size > 256 ? 2 : 12); round++) {
		uint32_t extra = (size - half) / 2 < 40 ? (size - half) / 2 : 40;

		for (uint32_t i = 0; i < half; i++)
			assert_int_equal(add(&r, 1, i), 1);
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < extra; i++)
			assert_int_equal(add(&r, 2, 100000 + i), 1);
		rig_serve(&r, half);
		for (uint32_t i = 0; i < half; i++) {
			if (i == half / 2)
				unadd(&r, extra / 2, 100000 + extra - 1);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
		unadd(&r, extra - extra / 2, 100000 + extra - extra / 2 - 1);
		assert_int_equal(virtq_driver_room(r.driver), size);

		memset(seen, 0, size);
		for (uint32_t i = 0; i < size; i++)
			assert_int_equal(add(&r, 1, i), 1);
		assert_int_equal(add(&r, 1, size), -ENOSPC);
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < size; i++) {
			struct virtq_req *req;

			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			assert_true(req->id < size);
			assert_false(seen[req->id]);
			seen[req->id] = 1;
			virtq_device_push(r.device, &req, 1);
			virtq_device_publish(r.device);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), i);
		}
	}
	rig_close(&r);
	free(seen);
}

/* ---- No trace: two rings, of which one knows nothing of it --------------------- */

#define CHAINS 64u

struct flight {
	bool live;
	uint32_t at, entries;		/* head (split) or slot */
};

struct twins {
	struct rig with, without;
	struct flight flights[CHAINS];	/* by token */
	/* Tokens: free ones, staged ones, and published ones that the device has not popped. */
	uint32_t spare[CHAINS], staged[CHAINS], waiting[CHAINS];
	uint32_t spare_count, staged_count, waiting_count;
	struct virtq_req *loans[2][CHAINS];
	uint32_t loan_count;
	uint32_t next;			/* index or slot of the next chain to be published */
	uint32_t chains, in_vain;
	uint64_t seed;
};

static void compare_table(struct twins *t, const uint8_t *desc)
{
	size_t off = (size_t)(get64(desc) - RIG_TABLE_GPA);

	assert_memory_equal(t->with.table.driver + off, t->without.table.driver + off,
			    get32(desc + 8));
}

/* The descriptors of one chain, all of them, and its table. */
static void compare_chain(struct twins *t, const struct flight *f)
{
	bool packed = t->with.shape.packed;
	uint32_t slot = f->at;

	for (uint32_t i = 0; i < f->entries; i++) {
		const uint8_t *desc = t->without.desc.driver + 16 * (size_t)slot;
		uint16_t flags = get16(desc + (packed ? 14 : 12));

		assert_memory_equal(t->with.desc.driver + 16 * (size_t)slot, desc, 16);
		if (flags & F_INDIRECT)
			compare_table(t, desc);
		slot = packed ? (slot + 1) % t->with.shape.size : get16(desc + 14);
		assert_int_equal(!!(flags & F_NEXT), i + 1 < f->entries);
	}
}

/*
 * All that the standard fixes: the index and flags, the available entries that
 * the device has still to read, event words, the Device Area, and the chains that
 * are in flight. Not fixed, and not compared, are descriptors and tables that are
 * nobody's, available entries that wait to be filled, and in packed rings
 * everything in a free slot but that it is not available.
 */
static void compare_twins(struct twins *t)
{
	struct rig *a = &t->with, *b = &t->without;
	const struct shape *shape = &a->shape;
	uint32_t position = virtq_device_position(a->device);

	assert_int_equal(virtq_driver_room(a->driver), virtq_driver_room(b->driver));
	assert_int_equal(virtq_driver_in_flight(a->driver), virtq_driver_in_flight(b->driver));
	assert_int_equal(virtq_driver_position(a->driver), virtq_driver_position(b->driver));
	assert_int_equal(virtq_driver_kick_data(a->driver, 5),
			 virtq_driver_kick_data(b->driver, 5));
	assert_memory_equal(a->device_area.driver, b->device_area.driver, a->device_area.bytes);
	if (shape->packed) {
		assert_memory_equal(a->driver_area.driver, b->driver_area.driver,
				    a->driver_area.bytes);
		for (uint32_t i = 0; i < shape->size; i++)
			assert_int_equal(available(a, i, position & 0x7fff, position >> 15 & 1),
					 available(b, i, position & 0x7fff, position >> 15 & 1));
	} else {
		uint16_t idx = get16(avail_idx(b));

		assert_memory_equal(a->driver_area.driver, b->driver_area.driver, 4);
		if (shape->event_idx)
			assert_memory_equal(used_event(a), used_event(b), 2);
		for (uint16_t i = (uint16_t)position; i != idx; i++)
			assert_int_equal(get16(avail_ring(a, i)), get16(avail_ring(b, i)));
	}
}

/* Add to one ring what nobody will see, and take it back in one go or in several. */
static void add_in_vain(struct twins *t)
{
	struct rig *r = &t->with;
	uint32_t n = 0, want = rnd(&t->seed, 6);
	struct chain c;

	while (n < want) {
		random_chain(&c, &r->shape, &t->seed, 20000 + n);
		if (virtq_driver_add(r->driver, &c.buf, 1) != 1)
			break;
		n++;
	}
	t->in_vain += n;
	while (n) {
		uint32_t part = 1 + rnd(&t->seed, n);

		unadd(r, part, 20000 + n - 1);
		n -= part;
	}
}

/* ---- What both do ---------------------------------------------------------------- */

#define EACH_TWIN(t, r) \
	for (struct rig *r = &(t)->with; r; r = r == &(t)->with ? &(t)->without : NULL)

/* One chain more, or no room, in both. */
static void add_to_both(struct twins *t)
{
	uint32_t room = virtq_driver_room(t->without.driver), token;
	struct chain c;
	int rc;

	if (!t->spare_count)
		return;
	token = t->spare[t->spare_count - 1];
	random_chain(&c, &t->with.shape, &t->seed, token);
	rc = virtq_driver_add(t->with.driver, &c.buf, 1);
	assert_int_equal(virtq_driver_add(t->without.driver, &c.buf, 1), rc);
	if (rc != 1)
		return;
	t->flights[token].entries = room - virtq_driver_room(t->without.driver);
	t->staged[t->staged_count++] = token;
	t->spare_count--;
	t->chains++;
}

/* Show what is staged, and note where it stands, by the ring that knows nothing. */
static void publish_both(struct twins *t)
{
	struct rig *b = &t->without;
	int kick;

	for (uint32_t i = 0; i < t->staged_count; i++) {
		struct flight *f = &t->flights[t->staged[i]];

		t->waiting[t->waiting_count++] = t->staged[i];
		f->live = true;
		f->at = b->shape.packed ? t->next : get16(avail_ring(b, (uint16_t)t->next));
		t->next = b->shape.packed ? (t->next + f->entries) % b->shape.size :
					    (t->next + 1) & 0xffff;
	}
	t->staged_count = 0;
	kick = virtq_driver_publish(t->with.driver);
	assert_int_equal(virtq_driver_publish(b->driver), kick);
	if (rnd(&t->seed, 3) == 0)
		EACH_TWIN(t, r)
			virtq_device_arm(r->device);
}

static void pop_both(struct twins *t)
{
	uint32_t at = t->loan_count;
	int count = virtq_device_pop(t->with.device, t->loans[0] + at, 4);

	assert_int_equal(virtq_device_pop(t->without.device, t->loans[1] + at, 4), count);
	assert_in_range(count, 0, 4);
	for (uint32_t i = 0; i < (uint32_t)count; i++) {
		assert_int_equal(t->loans[0][at + i]->id, t->loans[1][at + i]->id);
		/* The device may mark others used in its slots from now on. */
		if (t->with.shape.packed)
			t->flights[t->waiting[i]].live = false;
	}
	t->loan_count += (uint32_t)count;
	t->waiting_count -= (uint32_t)count;
	memmove(t->waiting, t->waiting + count, t->waiting_count * sizeof(t->waiting[0]));
}

static void push_both(struct twins *t)
{
	uint32_t n, i = 0;
	int call = 0;

	if (!t->loan_count)
		return;
	n = rnd(&t->seed, t->loan_count--);
	EACH_TWIN(t, r) {
		virtq_device_push(r->device, &t->loans[i][n], 1);
		t->loans[i][n] = t->loans[i][t->loan_count];
		if (i++ == 0)
			call = virtq_device_publish(r->device);
		else
			assert_int_equal(virtq_device_publish(r->device), call);
	}
}

static void get_both(struct twins *t)
{
	struct virtq_completion done[2][8];
	int count = virtq_driver_get(t->with.driver, done[0], 8);

	assert_int_equal(virtq_driver_get(t->without.driver, done[1], 8), count);
	for (int i = 0; i < count; i++) {
		uint32_t token = (uint32_t)token_value(done[0][i].token);

		assert_ptr_equal(done[0][i].token, done[1][i].token);
		t->flights[token].live = false;
		t->spare[t->spare_count++] = token;
	}
	if (rnd(&t->seed, 2))
		EACH_TWIN(t, r)
			virtq_driver_arm(r->driver);
}

/*
 * Two rings under the same traffic, one of which also adds and takes back between
 * any two calls: the same bytes for the device, the same kicks, the same heads and
 * ids, the same completions.
 */
static void test_no_trace(void **state)
{
	static void (*const ops[])(struct twins *t) = {
		add_to_both, add_to_both, add_to_both, publish_both, publish_both, pop_both,
		push_both, get_both,
	};
	const struct shape *matrix_shape = *state;
	struct shape shape = *matrix_shape;
	uint32_t steps = shape.size > 256 ? 60 : 1500;
	struct twins t;

	shape.notification_data = true;
	memset(&t, 0, sizeof(t));
	t.seed = shape.size * 77 + shape.packed;
	t.next = shape.moved ? shape.start : 0;
	rig_open(&t.with, &shape, RIG_BOTH);
	rig_open(&t.without, &shape, RIG_BOTH);
	for (uint32_t i = 0; i < CHAINS; i++)
		t.spare[t.spare_count++] = i;
	for (uint32_t step = 0; step < steps; step++) {
		add_in_vain(&t);
		ops[rnd(&t.seed, sizeof(ops) / sizeof(ops[0]))](&t);
		compare_twins(&t);
		for (uint32_t i = 0; i < CHAINS; i++)
			if (t.flights[i].live)
				compare_chain(&t, &t.flights[i]);
	}
	/* It was a test. */
	assert_true(t.chains >= steps / 60 && t.in_vain >= steps / 60);
	rig_close(&t.with);
	rig_close(&t.without);
}

int main(void)
{
	const unsigned int all = ALSO_IN_ORDER;
	struct shape small[64];
	size_t count = 0;
	struct matrix m = { 0 };

	for (uint32_t bits = 0; bits < 8; bits++)
		for (uint32_t size = 1; size <= 8; size++) {
			struct shape s = { .packed = bits & 1, .in_order = bits & 2,
					   .indirect = bits & 4, .event_idx = size & 1,
					   .size = size };

			if (!s.packed && (size & (size - 1)))
				continue;
			snprintf(s.name, sizeof(s.name), "%s %u%s%s",
				 s.packed ? "packed" : "split", size,
				 s.in_order ? " in order" : "", s.indirect ? " indirect" : "");
			small[count++] = s;
		}
	matrix_add(&m, "youngest first", test_youngest_first, all);
	matrix_add(&m, "work that does not fit", test_work_that_does_not_fit,
		   all | AT_LEAST_5 | NOT_HUGE);
	matrix_add(&m, "L-036 broken and detached", test_broken_and_detached, all | AT_LEAST_5);
	matrix_add_shapes(&m, "the device sees the rest", test_device_sees_the_rest,
			  small, count);
	matrix_add(&m, "completions between", test_completions_between, all | AT_LEAST_2);
	matrix_add(&m, "no trace", test_no_trace, all);
	return matrix_run(&m, "taking back what was added");
}
