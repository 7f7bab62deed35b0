/* SPDX-License-Identifier: MIT */
/* No trace of what was taken back: two rings, of which one knows nothing of it. */
#include "unadd.h"

#define CHAINS 64u

static uint32_t rnd(uint64_t *seed, uint32_t below)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33) % below;
}

static void random_chain(struct chain *c, const struct shape *shape, uint64_t *seed,
			 uintptr_t token)
{
	uint32_t max = shape->size < ELEMS_MAX ? shape->size : ELEMS_MAX;
	uint32_t count = rnd(seed, 2) ? 1 : 1 + rnd(seed, max);

	make_chain(c, rnd(seed, count + 1), count, token);
}

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
	struct matrix m = { 0 };

	matrix_add(&m, "no trace", test_no_trace, ALSO_IN_ORDER);
	return matrix_run(&m, "taking back leaves no trace");
}
