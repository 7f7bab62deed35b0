/* SPDX-License-Identifier: MIT */
/*
 * Buffers go to the device and come back: with the right bytes, in any order,
 * in batches, through full rings and round the end of every counter.
 */
#include "rig.h"

#include <stdlib.h>

/* ---- Random traffic ----------------------------------------------------- */

#define CELL 60u		/* bytes of each direction that a token owns */
#define MAX_ELEMENTS 10u

struct parcel {
	uint32_t readable, writable;	/* bytes */
	uint32_t written;		/* what the device reported */
	uint8_t seed;
	bool out;
};

struct traffic {
	struct rig rig;
	struct parcel *parcels;		/* by token */
	uint32_t *queue;		/* tokens in the order in which they were published */
	uint32_t put, popped, staged, taken;
	struct virtq_req **held;
	uint32_t held_count;
	uint32_t free_count;
	uint32_t *free_tokens;
	uint64_t random;
};

static uint32_t roll(struct traffic *t, uint32_t below)
{
	t->random = t->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(t->random >> 33) % below;
}

/* The cells of all tokens lie around the border of two regions. */
static uint64_t cell(const struct traffic *t, uint32_t token, bool writable)
{
	return (writable ? RIG_WRITABLE_GPA : RIG_DATA_GPA) + RIG_REGION_BYTES -
	       (uint64_t)CELL * (t->rig.shape.size / 2) - CELL / 2 + (uint64_t)CELL * token;
}

static uint8_t pattern(uint8_t seed, uint32_t at, bool writable)
{
	return (uint8_t)(seed * 31u + at * 7u + (writable ? 101u : 3u));
}

/* Cut @bytes at @addr into @count random pieces, none empty. */
static void cut(struct traffic *t, struct virtq_seg *segs, uint32_t count, uint64_t addr,
		uint32_t bytes)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t rest = count - i - 1, len = bytes - rest;

		if (rest)
			len = 1 + roll(t, len);
		segs[i].addr = addr;
		segs[i].len = len;
		addr += len;
		bytes -= len;
	}
}

/* Add one random buffer; false if the ring is full. */
static bool add_parcel(struct traffic *t)
{
	struct rig *r = &t->rig;
	uint32_t max = r->shape.size < MAX_ELEMENTS ? r->shape.size : MAX_ELEMENTS;
	uint32_t count = 1 + roll(t, max), readable = roll(t, count + 1);
	struct virtq_seg segs[MAX_ELEMENTS];
	struct virtq_buffer buf = { .segs = segs };
	uint32_t token, room = virtq_driver_room(r->driver), need = count;
	struct parcel *p;
	int rc;

	if (!t->free_count)
		return false;
	token = t->free_tokens[t->free_count - 1];
	p = &t->parcels[token];
	p->seed = (uint8_t)roll(t, 256);
	p->readable = readable ? readable + roll(t, CELL - readable + 1) : 0;
	p->writable = count > readable ?
		      count - readable + roll(t, CELL - (count - readable) + 1) : 0;
	cut(t, segs, readable, cell(t, token, false), p->readable);
	cut(t, segs + readable, count - readable, cell(t, token, true), p->writable);
	for (uint32_t i = 0; i < p->readable; i++)
		*rig_at(r, cell(t, token, false) + i) = pattern(p->seed, i, false);
	for (uint32_t i = 0; i < p->writable; i++)
		*rig_at(r, cell(t, token, true) + i) = 0xee;

	if (r->shape.indirect && count > 1 && count <= RIG_TABLE_ENTRIES)
		need = 1;
	buf.readable = (uint16_t)readable;
	buf.writable = (uint16_t)(count - readable);
	buf.token = token_of(token);
	rc = virtq_driver_add(r->driver, &buf, 1);
	if (need > room) {
		assert_int_equal(rc, -ENOSPC);
		return false;
	}
	assert_int_equal(rc, 1);
	/* S-DRV-042, P-DRV-040: one entry an element, one for an indirect buffer. */
	assert_int_equal(virtq_driver_room(r->driver), room - need);
	t->free_count--;
	assert_false(p->out);
	p->out = true;
	t->queue[t->put++ % r->shape.size] = token;
	return true;
}

/* Which token a popped request belongs to, by where its memory is. */
static uint32_t parcel_of(struct traffic *t, const struct virtq_req *req)
{
	const struct virtq_span *first = req->rd.count ? req->rd.spans : req->wr.spans;
	const uint8_t *at = first->base;

	for (uint32_t i = 0; i < RIG_REGIONS; i++) {
		const struct piece *p = &t->rig.data[i];

		if (at >= p->device && at < p->device + p->bytes) {
			uint64_t gpa = RIG_DATA_GPA + i * RIG_REGION_BYTES +
				       (uint64_t)(at - p->device);

			return (uint32_t)((gpa - cell(t, 0, req->rd.count == 0)) / CELL);
		}
	}
	fail_msg("a span outside all regions");
	return 0;
}

static void pop_some(struct traffic *t)
{
	struct rig *r = &t->rig;
	uint32_t max = 1 + roll(t, 8), waiting = t->staged - t->popped;
	int n = virtq_device_pop(r->device, t->held + t->held_count, max);

	assert_int_equal(n, waiting < max ? waiting : max);
	for (int k = 0; k < n; k++) {
		struct virtq_req *req = t->held[t->held_count++];
		uint32_t token = parcel_of(t, req);
		struct parcel *p = &t->parcels[token];
		uint8_t got[CELL];

		/* P-DEV-005: taken in the order in which they were made available. */
		assert_int_equal(token, t->queue[t->popped++ % r->shape.size]);
		assert_int_equal(req->rd.bytes, p->readable);
		assert_int_equal(req->wr.bytes, p->writable);
		assert_int_equal(virtq_req_read(req, got, sizeof(got)), p->readable);
		/* P-DEV-007, S-DEV-028: element order, across region borders. */
		for (uint32_t i = 0; i < p->readable; i++)
			assert_int_equal(got[i], pattern(p->seed, i, false));
		p->written = roll(t, p->writable + 1);
		for (uint32_t i = 0; i < p->written; i++) {
			uint8_t byte = pattern(p->seed, i, true);

			assert_int_equal(virtq_req_write(req, &byte, 1), 1);
		}
		assert_int_equal(req->written, p->written);
	}
	/* In order, one that was pushed before an older one still counts. */
	assert_true(virtq_device_in_flight(r->device) >= t->held_count);
	if (!r->shape.in_order)
		assert_int_equal(virtq_device_in_flight(r->device), t->held_count);
}

static void push_some(struct traffic *t)
{
	uint32_t count = roll(t, t->held_count + 1);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = roll(t, t->held_count);

		virtq_device_push(t->rig.device, &t->held[at], 1);
		t->held[at] = t->held[--t->held_count];
	}
	virtq_device_publish(t->rig.device);
}

static uint32_t get_some(struct traffic *t)
{
	struct rig *r = &t->rig;
	struct virtq_completion done[16];
	int n = virtq_driver_get(r->driver, done, 1 + roll(t, 16));

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		uint32_t token = (uint32_t)token_value(done[i].token);
		struct parcel *p = &t->parcels[token];

		assert_true(token < r->shape.size && p->out);
		/* S-DEV-032, P-DEV-024: in order of offer, whatever order it was done in. */
		if (r->shape.in_order)
			assert_int_equal(token, t->queue[t->taken++ % r->shape.size]);
		/* S-DRV-036: what counts is what the device filled, and nothing more. */
		assert_int_equal(done[i].written, p->written);
		for (uint32_t k = 0; k < p->writable; k++)
			assert_int_equal(*rig_at(r, cell(t, token, true) + k),
					 k < p->written ? pattern(p->seed, k, true) : 0xee);
		p->out = false;
		t->free_tokens[t->free_count++] = token;
	}
	return (uint32_t)n;
}

/* S-DRV-041, S-DEV-036, P-DRV-036, P-DEV-022, P-DEV-030, S-DRV-027, S-DRV-032, S-DEV-025. */
static void test_random_traffic(void **state)
{
	const struct shape *shape = *state;
	struct traffic t = { .random = shape->size * 2654435761u + shape->event_idx };
	uint32_t size = shape->size, done = 0;
	uint32_t total = size > 256 ? 80000 : 6000;

	rig_open(&t.rig, shape, RIG_DRIVER);
	/* Any number of chains may be long. */
	t.rig.device_config.max_segs = 2 * MAX_ELEMENTS;
	t.rig.device_config.long_chains = size;
	rig_make_device(&t.rig);
	t.parcels = calloc(size, sizeof(*t.parcels));
	t.queue = calloc(size, sizeof(*t.queue));
	t.free_tokens = calloc(size, sizeof(*t.free_tokens));
	t.held = calloc(size + 8, sizeof(struct virtq_req *));
	assert_true(t.parcels && t.queue && t.free_tokens && t.held);
	for (uint32_t i = 0; i < size; i++)
		t.free_tokens[t.free_count++] = i;

	while (done < total) {
		uint32_t burst = 1 + roll(&t, size > 256 ? 4000 : 12);

		while (burst-- && add_parcel(&t))
			;
		virtq_driver_publish(t.rig.driver);
		t.staged = t.put;
		for (uint32_t i = roll(&t, 600); i > 0 && t.staged != t.popped; i--)
			pop_some(&t);
		push_some(&t);
		for (uint32_t i = roll(&t, 600); i > 0; i--) {
			uint32_t n = get_some(&t);

			done += n;
			if (!n)
				break;
		}
		assert_int_equal(virtq_driver_in_flight(t.rig.driver), size - t.free_count);
	}
	while (t.staged != t.popped)
		pop_some(&t);
	virtq_device_push(t.rig.device, t.held, t.held_count);
	virtq_device_publish(t.rig.device);
	while (get_some(&t))
		;
	/* S-DRV-042: every entry has come back. */
	assert_int_equal(t.free_count, size);
	assert_int_equal(virtq_driver_room(t.rig.driver), size);
	assert_int_equal(virtq_driver_in_flight(t.rig.driver), 0);
	assert_int_equal(virtq_driver_position(t.rig.driver) & 0xffff,
			 virtq_device_position(t.rig.device) & 0xffff);
	free(t.parcels);
	free(t.queue);
	free(t.free_tokens);
	free(t.held);
	rig_close(&t.rig);
}

/* ---- Full rings and batches --------------------------------------------- */

/*
 * S-DRV-030, P-DRV-007, P-DRV-017: fill the ring to the last entry unseen,
 * publish once, take and return all of it backwards, four times over.
 */
static void test_full_batch_reversed(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req **reqs = calloc(shape->size + 1, sizeof(struct virtq_req *));
	struct virtq_completion *done = calloc(shape->size + 1, sizeof(*done));
	struct rig r;

	assert_true(reqs && done);
	rig_open(&r, shape, RIG_BOTH);
	for (int lap = 0; lap < 4; lap++) {
		struct snapshot s;

		for (uint32_t i = 0; i < shape->size; i++)
			assert_int_equal(rig_add(&r, RIG_DATA_GPA + i, 1, false, token_of(i)), 1);
		assert_int_equal(virtq_driver_room(r.driver), 0);
		assert_int_equal(virtq_driver_in_flight(r.driver), shape->size);
		/* S-DRV-030: nothing is visible before publish. */
		assert_int_equal(virtq_device_pop(r.device, reqs, shape->size), 0);
		/* S-DRV-024: refused, and nothing has changed. */
		s = snapshot_take(&r);
		assert_int_equal(rig_add(&r, RIG_DATA_GPA, 1, false, token_of(0)), -ENOSPC);
		snapshot_same(&r, &s);

		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_device_pop(r.device, reqs, shape->size + 1), shape->size);
		for (uint32_t i = 0; i < shape->size / 2; i++) {
			struct virtq_req *other = reqs[shape->size - 1 - i];

			reqs[shape->size - 1 - i] = reqs[i];
			reqs[i] = other;
		}
		virtq_device_push(r.device, reqs, shape->size);
		/* Nothing before publish on the way back either. */
		assert_int_equal(virtq_driver_get(r.driver, done, 1), 0);
		virtq_device_publish(r.device);
		assert_int_equal(virtq_driver_get(r.driver, done, shape->size + 1), shape->size);
		for (uint32_t i = 0; i < shape->size; i++) {
			assert_int_equal(token_value(done[i].token),
					 shape->in_order ? i : shape->size - 1 - i);
			/* S-DEV-035: nothing writable, nothing written. */
			assert_int_equal(done[i].written, 0);
		}
	}
	rig_close(&r);
	free(done);
	free(reqs);
}

/* A batch that does not fit is taken as far as it fits. */
static void test_add_takes_the_front(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size + 2;
	struct virtq_seg seg = { RIG_WRITABLE_GPA, 8 };
	struct virtq_buffer *bufs = calloc(count, sizeof(*bufs));
	struct rig r;

	assert_non_null(bufs);
	for (uint32_t i = 0; i < count; i++)
		bufs[i] = (struct virtq_buffer){ &seg, 0, 1, token_of(i) };
	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_add(r.driver, bufs, count), shape->size);
	assert_int_equal(virtq_driver_add(r.driver, bufs, count), -ENOSPC);
	virtq_driver_publish(r.driver);
	rig_serve(&r, shape->size);
	rig_collect(&r, shape->size);
	rig_close(&r);
	free(bufs);
}

/* S-DRV-024, P-DRV-017: one entry free and two wanted: refused, memory as before. */
static void test_no_room_for_a_chain(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[2] = { { RIG_DATA_GPA, 4 }, { RIG_WRITABLE_GPA, 4 } };
	struct virtq_buffer chain = { segs, 1, 1, token_of(9) };
	struct snapshot s;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i + 1 < shape->size; i++)
		assert_int_equal(rig_add(&r, RIG_DATA_GPA + i, 1, false, token_of(i)), 1);
	s = snapshot_take(&r);
	assert_int_equal(virtq_driver_add(r.driver, &chain, 1), -ENOSPC);
	snapshot_same(&r, &s);
	assert_int_equal(virtq_driver_room(r.driver), 1);
	virtq_driver_publish(r.driver);
	rig_serve(&r, shape->size - 1);
	rig_collect(&r, shape->size - 1);
	assert_int_equal(virtq_driver_add(r.driver, &chain, 1), 1);
	rig_close(&r);
}

/*
 * P-DEV-009, P-DEV-010, P-DRV-024, P-DRV-006: chains of every length from 1 to
 * the ring's own, one at a time, so that each ends at each slot in the end.
 */
static void test_chain_of_every_length(void **state)
{
	const struct shape *shape = *state;
	uint32_t max = shape->size;
	struct virtq_seg *segs = calloc(max, sizeof(*segs));
	uint32_t step = max > 256 ? 4097 : 1;
	struct rig r;

	assert_non_null(segs);
	for (uint32_t i = 0; i < max; i++) {
		segs[i].addr = RIG_WRITABLE_GPA + i;
		segs[i].len = 1;
	}
	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t pass = 0; pass < 2; pass++) {
		for (uint32_t len = pass ? max : 1; len <= max; len += step) {
			struct virtq_buffer buf = { segs, 0, (uint16_t)len, token_of(len) };
			struct virtq_completion done;
			struct virtq_req *req;

			assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
			virtq_driver_publish(r.driver);
			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			assert_int_equal(req->wr.bytes, len);
			virtq_req_wrote(req, len);
			virtq_device_push(r.device, &req, 1);
			virtq_device_publish(r.device);
			assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
			assert_int_equal(token_value(done.token), len);
			assert_int_equal(done.written, len);
		}
	}
	assert_int_equal(virtq_driver_room(r.driver), max);
	rig_close(&r);
	free(segs);
}

/*
 * S-DRV-025: what is in flight is not touched while others come and
 * go: neither its descriptors nor its table.
 */
static void test_in_flight_untouched(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[2] = { { RIG_DATA_GPA, 4 }, { RIG_WRITABLE_GPA, 4 } };
	struct virtq_buffer chain = { segs, 1, 1, token_of(7) };
	struct virtq_req *first;
	uint8_t before[32], table[32];
	uint32_t slot = shape->packed ? shape->start % shape->size : 0;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_add(r.driver, &chain, 1), 1);
	virtq_driver_publish(r.driver);
	assert_int_equal(virtq_device_pop(r.device, &first, 1), 1);
	memcpy(before, r.desc.driver + 16 * (size_t)slot, sizeof(before));
	memcpy(table, r.table.driver, sizeof(table));
	/* Packed: the lap must not come round to where used descriptors are written. */
	for (uint32_t i = 0; i < (shape->packed ? 2 : 3 * shape->size); i++) {
		assert_int_equal(rig_add(&r, RIG_DATA_GPA, 1, false, token_of(1)), 1);
		virtq_driver_publish(r.driver);
		if (shape->packed) {
			struct virtq_req *other;

			assert_int_equal(virtq_device_pop(r.device, &other, 1), 1);
		} else {
			rig_serve(&r, 1);
			rig_collect(&r, 1);
		}
	}
	assert_memory_equal(r.desc.driver + 16 * (size_t)slot, before,
			    shape->indirect ? 16 : sizeof(before));
	assert_memory_equal(r.table.driver, table, sizeof(table));
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };
	static struct shape platform[] = {
		{ .platform = true, .size = 16, .name = "split platform" },
		{ .platform = true, .size = 5, .packed = true, .name = "packed platform" },
		{ .platform = true, .size = 16, .event_idx = true, .indirect = true,
		  .in_order = true, .name = "split platform, all features" },
		{ .platform = true, .size = 5, .event_idx = true, .indirect = true,
		  .in_order = true, .packed = true, .name = "packed platform, all features" },
	};

	matrix_add(&m, "random traffic comes back whole", test_random_traffic, ALSO_IN_ORDER);
	matrix_add_shapes(&m, "random traffic comes back whole", test_random_traffic, platform, 4);
	matrix_add(&m, "a full ring, returned backwards", test_full_batch_reversed,
		   ALSO_IN_ORDER);
	matrix_add(&m, "a batch is added from the front", test_add_takes_the_front,
		   ALSO_IN_ORDER);
	matrix_add(&m, "no room for a chain changes nothing", test_no_room_for_a_chain,
		   AT_LEAST_2 | ONLY_DIRECT | ALSO_IN_ORDER);
	matrix_add(&m, "chains of every length", test_chain_of_every_length, ALSO_IN_ORDER);
	matrix_add(&m, "buffers in flight stay as they are", test_in_flight_untouched, AT_LEAST_5);
	return matrix_run(&m, "round trips");
}
