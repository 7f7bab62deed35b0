/* SPDX-License-Identifier: MIT */
/* Which memory the device end reads and writes, as rules_access.c has it of the driver end. */
#include "rules_access.h"

#include <stdio.h>

static void look_from_driver(const struct access *a, void *arg)
{
	struct turns_seen *s = arg;

	turns_look(s, s->r->desc.driver, a);
}

/* ---- On the way in ------------------------------------------- */

/* Spoil a field of a descriptor: whatever it says now would be refused. */
static void spoil_field(uint8_t *field, uint32_t off)
{
	switch (off % 16) {
	case 0:
		put64(field, 0xdeadbeefdead0000);
		break;
	case 8:
		put32(field, 0xfffffff0);
		break;
	case 12:
	case 14:
		put16(field, 0xffff);
		break;
	}
}

static void spoil_chain(const struct access *a, void *arg)
{
	struct rig *r = arg;

	if (a->write)
		return;
	if (a->area == AREA_DESC)
		spoil_field(r->desc.driver + a->off, a->off);
	if (a->area == AREA_TABLE)
		spoil_field(r->table.driver + a->off, a->off);
	if (a->area == AREA_DRIVER && !r->shape.packed && a->off >= 4 &&
	    a->off < 4 + 2 * r->shape.size)
		put16(r->driver_area.driver + a->off, 0xffff);
}

static void span_is(const struct rig *r, const struct virtq_span *span, const struct virtq_seg *seg)
{
	uint64_t off = seg->addr - A;

	assert_ptr_equal(span->base,
			 r->data[off / RIG_REGION_BYTES].device + off % RIG_REGION_BYTES);
	assert_int_equal(span->len, seg->len);
}

/* Is it buffer @i, as it was added? */
static void request_is(const struct rig *r, const struct virtq_req *req, uint32_t i)
{
	assert_int_equal(req->rd.count, 1);
	span_is(r, &req->rd.spans[0], &segs[0]);
	assert_int_equal(req->wr.count, i);
	assert_int_equal(req->wr.bytes, writable_bytes[i]);
	for (uint32_t k = 0; k < i; k++)
		span_is(r, &req->wr.spans[k], &segs[1 + k]);
}

/*
 * S-DEV-026, P-DEV-021: what has been read of available entries, descriptors and table
 * entries is spoiled at once. A chain is taken as it was at the first reading, or else all
 * of it is refused: nothing that was read later gets past the checks of what was read before.
 */
static void test_device_pops_spoiled(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[BUFFERS];
	struct rig r;
	int rc;

	open_rig(&r, shape);
	send_all(&r);
	watch_begin(&r, false, spoil_chain, &r);
	rc = virtq_device_pop(r.device, reqs, BUFFERS);
	watch_end();
	assert_true(rc >= 0 || rc == -EBADMSG);
	for (int i = 0; i < rc; i++)
		request_is(&r, reqs[i], (uint32_t)i);
	for (enum area area = 0; area < AREAS; area++)
		never(area, true, "something written");
	never(AREA_DATA, false, "buffers read");
	rig_close(&r);
}

/*
 * The same (S-DEV-026, P-DEV-021) where a device end may take the shortest way: single
 * elements in memory that it has just used. There is nothing here to be read again.
 */
static void test_device_pops_singles_spoiled(void **state)
{
	static const struct virtq_buffer two[] = {
		{ segs, 1, 0, (void *)1 }, { segs, 1, 0, (void *)2 },
	};
	const struct shape *shape = *state;
	struct virtq_req *reqs[2];
	struct rig r;
	int rc;

	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(rig_add(&r, A, 1, false, token_of(0)), 1);
	virtq_driver_publish(r.driver);
	rig_serve(&r, 1);
	rig_collect(&r, 1);
	assert_int_equal(virtq_driver_add(r.driver, two, 2), 2);
	virtq_driver_publish(r.driver);
	watch_begin(&r, false, spoil_chain, &r);
	rc = virtq_device_pop(r.device, reqs, 2);
	watch_end();
	assert_int_equal(rc, 2);
	request_is(&r, reqs[0], 0);
	request_is(&r, reqs[1], 0);
	rig_close(&r);
}

/*
 * S-DEV-020, P-DEV-018: nothing is read before the index, or the head's flags, that show
 * it. S-DEV-004, P-DEV-002: no buffer is touched, and nothing is written at all
 * (S-DEV-005). P-DRV-038: flags are read whole.
 */
static void test_device_pops(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[BUFFERS];
	struct rig r;
	int rc;

	open_rig(&r, shape);
	send_all(&r);
	watch_begin(&r, false, NULL, NULL);
	rc = virtq_device_pop(r.device, reqs, BUFFERS);
	watch_end();
	assert_int_equal(rc, BUFFERS);
	for (uint32_t i = 0; i < BUFFERS; i++)
		request_is(&r, reqs[i], i);
	no_pieces();
	for (enum area area = 0; area < AREAS; area++)
		never(area, true, "something written");
	never(AREA_DATA, false, "buffers read");
	if (shape->packed) {
		for (uint32_t i = 0; i < BUFFERS; i++) {
			uint32_t at = 16 * slot_of(&r, i);
			int flags = watch_find(0, AREA_DESC, at + 14, 2, false);

			assert_true(flags >= 0);
			if (watch_find(0, AREA_DESC, at, 14, false) < flags)
				fail_msg("buffer %u is read before its flags, at %d", i, flags);
		}
	} else {
		int idx = watch_find(0, AREA_DRIVER, 2, 2, false);

		assert_true(idx >= 0);
		assert_int_equal(watch_find(0, AREA_DRIVER, 0, WHOLE_AREA, false), idx);
		assert_true(watch_find(0, AREA_DESC, 0, WHOLE_AREA, false) > idx);
	}
	rig_close(&r);
}

/* ---- On the way back ----------------------------------------- */

/*
 * S-DEV-021, P-DEV-019: data, ids and lengths are written before the index, or the flags,
 * that show them. P-DEV-026: of several, the flags of the first are written last. Only then
 * is the driver's word read. P-DRV-038: flags are written whole.
 * S-DEV-004, P-DEV-002: buffers that are written are not read: not by filling them, not by
 * claiming and setting a status byte, not by pushing.
 */
static void test_device_publishes(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[BUFFERS];
	struct turns_seen turns;
	int shown, word, last_data;
	size_t staged;
	uint8_t *tail;
	struct rig r;

	open_rig(&r, shape);
	send_all(&r);
	assert_int_equal(virtq_device_pop(r.device, reqs, BUFFERS), BUFFERS);
	turns = turns_first(&r);
	watch_begin(&r, false, look_from_driver, &turns);
	tail = virtq_req_claim_tail(reqs[2]);
	virtq_req_write(reqs[2], "0123456789abcdef0123456", 23);
	virtq_req_set_tail(reqs[2], tail, 1);
	virtq_req_write(reqs[1], "01234567", 8);
	for (uint32_t i = 0; i < BUFFERS; i++)
		virtq_device_push(r.device, &reqs[i], 1);
	staged = watch_count;
	virtq_device_publish(r.device);
	watch_end();
	never(AREA_DATA, false, "buffers read");
	never(AREA_DRIVER, true, "the driver area written");
	never(AREA_TABLE, true, "a table written");
	no_pieces();
	last_data = -1;
	for (size_t i = 0; i < watch_count; i++)
		if (watch_log[i].area == AREA_DATA)
			last_data = (int)i;
	assert_true(last_data >= 0);
	if (shape->packed) {
		uint32_t head = 16 * slot_of(&r, 0);

		shown = watch_find(0, AREA_DESC, head + 14, 2, true);
		assert_int_equal(turns.when[slot_of(&r, 0)], shown);
		for (uint32_t i = 0; i < BUFFERS; i++) {
			uint32_t slot = slot_of(&r, i);

			/* In order, one descriptor may stand for more than one. */
			if (i && shape->in_order && !turns.changes[slot])
				continue;
			assert_int_equal(turns.changes[slot], 1);
			assert_true(turns.when[slot] > last_data);
			assert_int_equal(watch_find((size_t)turns.when[slot] + 1, AREA_DESC,
						    16 * slot, 16, true), -1);
		}
	} else {
		shown = watch_find(0, AREA_DEVICE, 2, 2, true);
		assert_int_equal(watch_number(AREA_DEVICE, 2, 2, true), 1);
		assert_int_equal(watch_find((size_t)shown + 1, AREA_DEVICE, 0, WHOLE_AREA, true),
				 -1);
		never(AREA_DESC, true, "a descriptor written");
	}
	assert_true(shown >= (int)staged && shown > last_data);
	assert_int_equal(watch_find((size_t)shown + 1, AREA_DESC, 0, WHOLE_AREA, true), -1);
	word = watch_find(0, AREA_DRIVER, 0, WHOLE_AREA, false);
	if (word < shown)
		fail_msg("the driver's word is read at %d, before %d", word, shown);
	rig_collect(&r, BUFFERS);
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	if (!watch_possible()) {
		printf("skipped: no single step here, or ThreadSanitizer is in its way\n");
		return 77;
	}
	matrix_add_shapes(&m, "S-DEV-020 P-DEV-018 what the device reads, in order",
			  test_device_pops, shapes, SHAPES);
	matrix_add_shapes(&m, "S-DEV-026 P-DEV-021 the device believes its first reading",
			  test_device_pops_spoiled, shapes, SHAPES);
	matrix_add_shapes(&m, "S-DEV-026 P-DEV-021 nor does it read singles again",
			  test_device_pops_singles_spoiled, shapes, SHAPES);
	matrix_add_shapes(&m, "S-DEV-021 P-DEV-019 what the device writes, in order",
			  test_device_publishes, shapes, SHAPES);
	return matrix_run(&m, "accesses of the device end");
}
