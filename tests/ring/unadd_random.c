/* SPDX-License-Identifier: MIT */
/*
 * 10^5 random steps of a driver that also takes back what it has not shown,
 * against a plain model of lists: what every call returns, which buffers the
 * device gets and in which order, what room is left, and where the ring stands.
 */
#include "rig.h"

#include <stdlib.h>

#define STEPS 100000u
#define BUFFERS 300u
#define ELEMS_MAX 4u

struct sent {
	struct virtq_seg segs[ELEMS_MAX];
	uint16_t readable, writable;
	uint32_t entries;
	struct virtq_req *req;
	bool used;
};

/* Numbers of buffers, first in first out or last in first out as it is used. */
struct list {
	uint32_t of[BUFFERS], count;
};

struct model {
	struct rig r;
	struct sent sent[BUFFERS];
	struct list spare, staged, shown, loans, used;
	uint32_t room, at;
	bool wrap;
	uint64_t seed, taken_back, served;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(m->seed >> 33) % below;
}

static void append(struct list *l, uint32_t number)
{
	l->of[l->count++] = number;
}

static uint32_t take(struct list *l, uint32_t i)
{
	uint32_t number = l->of[i];

	l->count--;
	memmove(l->of + i, l->of + i + 1, (l->count - i) * sizeof(l->of[0]));
	return number;
}

/* ---- The driver ---------------------------------------------------------------- */

static void add(struct model *m)
{
	uint32_t size = m->r.shape.size, count = 1 + rnd(m, 4), fit = 0, left = m->room;
	struct virtq_buffer bufs[4];
	int rc;

	if (count > m->spare.count)
		return;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = m->spare.of[i];
		struct sent *s = &m->sent[number];
		uint32_t elems = rnd(m, 2) ? 1 : 1 + rnd(m, size < ELEMS_MAX ? size : ELEMS_MAX);

		s->readable = (uint16_t)rnd(m, elems + 1);
		s->writable = (uint16_t)(elems - s->readable);
		/* rig.h: from two elements on a chain has a table. */
		s->entries = m->r.shape.indirect ? 1 : elems;
		s->used = false;
		for (uint32_t k = 0; k < elems; k++) {
			s->segs[k].addr = (k < s->readable ? RIG_DATA_GPA : RIG_WRITABLE_GPA) +
					  number * 1000 + rnd(m, 900);
			s->segs[k].len = 1 + rnd(m, 90);
		}
		bufs[i] = (struct virtq_buffer){ s->segs, s->readable, s->writable,
						 token_of(number) };
		if (fit == i && s->entries <= left) {
			left -= s->entries;
			fit++;
		}
	}
	rc = virtq_driver_add(m->r.driver, bufs, count);
	assert_int_equal(rc, fit ? (int)fit : -ENOSPC);
	for (uint32_t i = 0; i < fit; i++)
		append(&m->staged, take(&m->spare, 0));
	m->room = left;
}

static void unadd(struct model *m)
{
	uint32_t max = rnd(m, 7), count = max < m->staged.count ? max : m->staged.count;
	struct virtq_completion back[7];

	assert_int_equal(virtq_driver_unadd(m->r.driver, back, max), count);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = take(&m->staged, m->staged.count - 1);

		assert_int_equal(token_value(back[i].token), number);
		assert_int_equal(back[i].written, 0);
		m->room += m->sent[number].entries;
		append(&m->spare, number);
	}
	m->taken_back += count;
}

static void publish(struct model *m)
{
	int kick = virtq_driver_publish(m->r.driver);

	assert_in_range(kick, 0, m->staged.count ? 1 : 0);
	while (m->staged.count) {
		uint32_t number = take(&m->staged, 0);

		m->at += m->r.shape.packed ? m->sent[number].entries : 1;
		if (m->r.shape.packed && m->at >= m->r.shape.size) {
			m->at -= m->r.shape.size;
			m->wrap = !m->wrap;
		}
		append(&m->shown, number);
	}
}

static void get(struct model *m)
{
	uint32_t max = 1 + rnd(m, 6), count = m->used.count < max ? m->used.count : max;
	struct virtq_completion done[6];

	/* In order, what was used waits for what came before. */
	if (m->r.shape.in_order) {
		count = 0;
		while (count < max && count < m->loans.count && m->sent[m->loans.of[count]].used)
			count++;
	}
	assert_int_equal(virtq_driver_get(m->r.driver, done, max), count);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = (uint32_t)token_value(done[i].token);

		assert_int_equal(number, take(m->r.shape.in_order ? &m->loans : &m->used, 0));
		m->room += m->sent[number].entries;
		append(&m->spare, number);
	}
}

/* ---- The device ------------------------------------------------------------------ */

/* Just the elements of @s, where they are. */
static void compare(struct model *m, const struct sent *s, const struct virtq_req *req)
{
	assert_int_equal(req->rd.count, s->readable);
	assert_int_equal(req->wr.count, s->writable);
	for (uint32_t i = 0; i < (uint32_t)s->readable + s->writable; i++) {
		bool readable = i < s->readable;
		const struct virtq_span *span = readable ? &req->rd.spans[i] :
						&req->wr.spans[i - s->readable];
		uint64_t off = s->segs[i].addr - (readable ? RIG_DATA_GPA : RIG_WRITABLE_GPA);

		assert_ptr_equal(span->base, m->r.data[readable ? 0 : 2].device + off);
		assert_int_equal(span->len, s->segs[i].len);
	}
}

static void pop(struct model *m)
{
	uint32_t max = 1 + rnd(m, 6), count = m->shown.count < max ? m->shown.count : max;
	struct virtq_req *reqs[6];

	assert_int_equal(virtq_device_pop(m->r.device, reqs, max), count);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = take(&m->shown, 0);

		compare(m, &m->sent[number], reqs[i]);
		m->sent[number].req = reqs[i];
		append(&m->loans, number);
		m->served++;
	}
}

static void push(struct model *m)
{
	uint32_t i, number;

	if (!m->loans.count)
		return;
	i = rnd(m, m->loans.count);
	number = m->loans.of[i];
	if (m->sent[number].used)
		return;
	/* All of it, as in a batch of which one element is written. */
	virtq_req_wrote(m->sent[number].req, UINT32_MAX);
	virtq_device_push(m->r.device, &m->sent[number].req, 1);
	virtq_device_publish(m->r.device);
	m->sent[number].used = true;
	if (!m->r.shape.in_order)
		append(&m->used, take(&m->loans, i));
}

/* ---- Runs ---------------------------------------------------------------------------- */

static void test_random(void **state)
{
	const struct shape *matrix_shape = *state;
	struct shape shape = *matrix_shape;
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	shape.notification_data = true;
	rig_open(&m->r, &shape, RIG_BOTH);
	m->seed = 3 * shape.size + 1;
	m->room = shape.size;
	m->at = shape.moved ? shape.start : 0;
	m->wrap = !shape.moved;
	for (uint32_t i = 0; i < BUFFERS; i++)
		append(&m->spare, i);
	for (uint32_t step = 0; step < STEPS; step++) {
		static void (*const ops[])(struct model *m) = {
			add, add, add, unadd, unadd, publish, pop, push, push, push, get,
		};
		uint32_t next;

		ops[rnd(m, sizeof(ops) / sizeof(ops[0]))](m);
		assert_int_equal(virtq_driver_room(m->r.driver), m->room);
		assert_int_equal(virtq_driver_in_flight(m->r.driver), BUFFERS - m->spare.count);
		next = virtq_driver_kick_data(m->r.driver, 0) >> 16;
		assert_int_equal(next, shape.packed ? m->at | (m->wrap ? 1u << 15 : 0) :
						      m->at & 0xffff);
	}
	/* It was a test. */
	assert_true(m->taken_back > 3000);
	assert_true(m->served > 1000);
	rig_close(&m->r);
	free(m);
}

int main(void)
{
	struct shape shapes[] = {
		{ .size = 1, .name = "split 1" },
		{ .size = 8, .event_idx = true, .name = "split 8 event" },
		{ .size = 16, .indirect = true, .moved = true, .start = 65533,
		  .name = "split 16 indirect from 65533" },
		{ .size = 128, .name = "split 128" },
		{ .size = 16, .in_order = true, .name = "split 16 in order" },
		{ .size = 8, .in_order = true, .indirect = true, .moved = true, .start = 65533,
		  .name = "split 8 in order indirect from 65533" },
		{ .packed = true, .size = 1, .name = "packed 1" },
		{ .packed = true, .size = 3, .event_idx = true, .name = "packed 3 event" },
		{ .packed = true, .size = 13, .moved = true, .start = 11,
		  .name = "packed 13 mid-lap" },
		{ .packed = true, .size = 100, .indirect = true, .name = "packed 100 indirect" },
		{ .packed = true, .size = 13, .in_order = true, .name = "packed 13 in order" },
		{ .packed = true, .size = 8, .in_order = true, .indirect = true, .moved = true,
		  .start = 7, .name = "packed 8 in order indirect mid-lap" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "taking back at random", test_random, shapes,
			  sizeof(shapes) / sizeof(shapes[0]));
	return matrix_run(&m, "taking back what was added, at random");
}
