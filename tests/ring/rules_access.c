/* SPDX-License-Identifier: MIT */
/*
 * Which memory each end reads and writes, how often and in what order: every
 * access is logged (watch.h). What has been read is spoiled at once, so that
 * whoever reads it again, after checking it, is found out.
 */
#include "watch.h"

#include <stdio.h>
#include <stdlib.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define BUFFERS 3u

/* One readable; two; and three with a part to write. In tables where agreed. */
static const struct virtq_seg segs[] = { { A, 4 }, { W, 8 }, { W + 64, 16 } };
static const struct virtq_buffer buffers[BUFFERS] = {
	{ segs, 1, 0, (void *)1 }, { segs, 1, 1, (void *)2 }, { segs, 1, 2, (void *)3 },
};
static const uint32_t writable_bytes[BUFFERS] = { 0, 8, 24 };

static void open_rig(struct rig *r, const struct shape *shape)
{
	rig_open(r, shape, RIG_BOTH);
	/* The first decisions are made without a look at the peer's words. */
	rig_send(r, 1);
	rig_serve(r, 1);
	rig_collect(r, 1);
}

static void send_all(struct rig *r)
{
	assert_int_equal(virtq_driver_add(r->driver, buffers, BUFFERS), BUFFERS);
	virtq_driver_publish(r->driver);
}

static uint32_t entries(const struct rig *r, uint32_t buffer)
{
	return r->shape.indirect ? 1 : buffer + 1;
}

/* Packed: the slot of the first descriptor of a buffer, after open_rig(). */
static uint32_t slot_of(const struct rig *r, uint32_t buffer)
{
	uint32_t slot = r->shape.start + 1;

	for (uint32_t i = 0; i < buffer; i++)
		slot += entries(r, i);
	return slot % r->shape.size;
}

/* The free-running index of the first of the buffers, after open_rig(). */
static uint16_t first_idx(const struct rig *r)
{
	return (uint16_t)(r->shape.start + 1);
}

/*
 * No field of a ring has less than 16 bits, and all are aligned: an access that
 * begins at an odd address is part of one that was taken to pieces.
 */
static void no_pieces(void)
{
	for (size_t i = 0; i < watch_count; i++)
		if (watch_log[i].area != AREA_DATA && watch_log[i].off % 2)
			fail_msg("access %zu begins at an odd offset, %u", i, watch_log[i].off);
}

/*
 * Whose turn each slot of a packed ring is, by its AVAIL and USED bits, looked at after
 * every access of the end under watch: it changes once, from what it was to what it shall
 * be. Flags that are written in pieces show one bit without the other.
 */
#define TURN (F_AVAIL | F_USED)

struct turns_seen {
	struct rig *r;
	uint16_t turn[16];
	unsigned int changes[16];
	int when[16];		/* the access that changed it last */
};

static struct turns_seen turns_first(struct rig *r)
{
	struct turns_seen s = { .r = r };

	assert_true(r->shape.size <= 16);
	for (uint32_t slot = 0; slot < r->shape.size; slot++)
		s.turn[slot] = get16(r->desc.driver + 16 * (size_t)slot + 14) & TURN;
	return s;
}

/* In the handler of the single step: only the view that is not under watch may be read. */
static void turns_look(struct turns_seen *s, const uint8_t *desc, const struct access *a)
{
	for (uint32_t slot = 0; slot < s->r->shape.size; slot++) {
		uint16_t now = get16(desc + 16 * (size_t)slot + 14) & TURN;

		if (now == s->turn[slot])
			continue;
		s->changes[slot]++;
		s->turn[slot] = now;
		s->when[slot] = (int)(a - watch_log);
	}
}

static void look_from_device(const struct access *a, void *arg)
{
	struct turns_seen *s = arg;

	turns_look(s, s->r->desc.device, a);
}

static void look_from_driver(const struct access *a, void *arg)
{
	struct turns_seen *s = arg;

	turns_look(s, s->r->desc.driver, a);
}

static void never(enum area area, bool write, const char *what)
{
	int at = watch_find(0, area, 0, WHOLE_AREA, write);

	if (at >= 0)
		fail_msg("%s: access %d, offset %u", what, at, watch_log[at].off);
}

/* No field of a descriptor or an entry is read by two instructions. */
static void read_once(enum area area, uint32_t off, uint32_t bytes)
{
	for (uint32_t at = off; at < off + bytes; at++)
		if (watch_number(area, at, 1, false) > 1)
			fail_msg("offset %u of area %d is read twice", at, (int)area);
}

/* ---- Driver end, on the way out ------------------------------------------ */

/*
 * S-DRV-028, P-DRV-013: all that belongs to a buffer is written before the index,
 * or the flags of the first head, that shows it; that is written once, and last.
 * Only then is the device's word read. P-DRV-008: and nothing is written after that.
 * P-DRV-011: nor are the head made available before. P-DRV-038: flags are written
 * whole. S-DRV-039: what the driver end wrote it does not read back.
 */
static void test_driver_publishes(void **state)
{
	const struct shape *shape = *state;
	struct turns_seen turns;
	size_t staged;
	struct rig r;
	int shown, word;
	int rc;

	open_rig(&r, shape);
	turns = turns_first(&r);
	watch_begin(&r, true, look_from_device, &turns);
	rc = virtq_driver_add(r.driver, buffers, BUFFERS);
	staged = watch_count;
	virtq_driver_publish(r.driver);
	watch_end();
	assert_int_equal(rc, BUFFERS);
	no_pieces();
	never(AREA_DESC, false, "descriptors read back");
	never(AREA_DRIVER, false, "the driver area read back");
	never(AREA_TABLE, false, "tables read back");
	never(AREA_DEVICE, true, "the device area written");
	never(AREA_DATA, false, "data read");
	never(AREA_DATA, true, "data written");
	if (shape->packed) {
		uint32_t head = 16 * slot_of(&r, 0) + 14;

		shown = watch_find(0, AREA_DESC, head, 2, true);
		assert_int_equal(watch_number(AREA_DESC, head, 2, true), 1);
		for (uint32_t slot = 0; slot < shape->size; slot++)
			assert_true(turns.changes[slot] <= 1);
		for (uint32_t i = 0; i < BUFFERS; i++)
			assert_int_equal(turns.changes[slot_of(&r, i)], 1);
		assert_int_equal(turns.when[slot_of(&r, 0)], shown);
	} else {
		shown = watch_find(0, AREA_DRIVER, 2, 2, true);
		assert_int_equal(watch_number(AREA_DRIVER, 2, 2, true), 1);
		/* The heads, each once. */
		for (uint16_t i = 0; i < BUFFERS; i++)
			assert_int_equal(watch_number(AREA_DRIVER, 4 + 2 * (uint32_t)
				((first_idx(&r) + i) % shape->size), 2, true), 1);
	}
	assert_true(shown >= (int)staged);
	assert_int_equal(watch_find((size_t)shown + 1, AREA_DESC, 0, WHOLE_AREA, true), -1);
	assert_int_equal(watch_find((size_t)shown + 1, AREA_TABLE, 0, WHOLE_AREA, true), -1);
	assert_int_equal(watch_find((size_t)shown + 1, AREA_DRIVER, 0, WHOLE_AREA, true), -1);
	assert_int_equal(watch_find(0, AREA_TABLE, 0, WHOLE_AREA, true) >= 0, shape->indirect);
	word = watch_find(0, AREA_DEVICE, 0, WHOLE_AREA, false);
	if (word < shown)
		fail_msg("the device's word is read at %d, before %d", word, shown);
	rig_close(&r);
}

/*
 * N-DRV-021: what a packed device asks for is read by one load of all of it, or
 * flags first, then the offset: an offset read before its flags may be an old one.
 */
static void test_driver_reads_event(void **state)
{
	const struct shape *shape = *state;
	struct rig r;
	int flags, offset;

	open_rig(&r, shape);
	assert_int_equal(virtq_device_arm(r.device), 0);
	assert_int_equal(virtq_driver_add(r.driver, buffers, 1), 1);
	watch_begin(&r, true, NULL, NULL);
	virtq_driver_publish(r.driver);
	watch_end();
	flags = watch_find(0, AREA_DEVICE, 2, 2, false);
	offset = watch_find(0, AREA_DEVICE, 0, 2, false);
	assert_true(offset >= 0);
	if (flags >= 0 && offset < flags)
		fail_msg("offset read at %d, flags at %d", offset, flags);
	assert_true(watch_number(AREA_DEVICE, 0, 4, false) <= 2);
	rig_close(&r);
}

/*
 * N-DRV-016: offset and wrap are written before the flags that make them mean
 * something, and the next slot is looked at only after both (N-DRV-022).
 */
static void test_driver_arms(void **state)
{
	const struct shape *shape = *state;
	struct rig r;
	int flags, offset, look;

	open_rig(&r, shape);
	virtq_driver_disarm(r.driver);
	watch_begin(&r, true, NULL, NULL);
	virtq_driver_arm(r.driver);
	watch_end();
	offset = watch_find(0, AREA_DRIVER, 0, 2, true);
	flags = watch_find(0, AREA_DRIVER, 2, 2, true);
	look = watch_find(0, AREA_DESC, 0, WHOLE_AREA, false);
	assert_true(offset >= 0);
	/* Or both by one store. */
	if (flags >= 0 && flags < offset)
		fail_msg("flags written at %d, offset at %d", flags, offset);
	assert_true(look > offset && look > flags);
	assert_int_equal(watch_find((size_t)look, AREA_DRIVER, 0, WHOLE_AREA, true), -1);
	rig_close(&r);
}

/* ---- Driver end, on the way back ----------------------------------------- */

/* The buffers come back last first, or in order, with all that was writable written. */
static void serve_all(struct rig *r)
{
	struct virtq_req *reqs[BUFFERS];

	assert_int_equal(virtq_device_pop(r->device, reqs, BUFFERS), BUFFERS);
	for (uint32_t i = BUFFERS; i-- > 0;) {
		virtq_req_wrote(reqs[i], reqs[i]->wr.bytes);
		virtq_device_push(r->device, &reqs[i], 1);
	}
	virtq_device_publish(r->device);
}

/* Spoil what the driver end has just read of a used element or descriptor. */
static void spoil_used(const struct access *a, void *arg)
{
	struct rig *r = arg;
	uint8_t *at;

	if (a->write)
		return;
	if (r->shape.packed && a->area == AREA_DESC) {
		at = r->desc.device + a->off;
		if (a->off % 16 == 8)
			put32(at, 0xffffffff);
		else if (a->off % 16 == 12)
			put16(at, 0xffff);
		else if (a->off % 16 == 14)
			/* Still used, but with nothing written, and noise. */
			put16(at, (uint16_t)((get16(at) ^ F_WRITE) | F_NEXT | F_INDIRECT));
	}
	if (!r->shape.packed && a->area == AREA_DEVICE && a->off >= 4 &&
	    a->off < 4 + 8 * r->shape.size)
		put32(r->device_area.device + a->off, 0xffffffff);
}

/*
 * S-DRV-040, P-DRV-039: id, length and flags are read once: spoiled behind the
 * driver end's back they make no difference. S-DRV-031, P-DRV-026: nothing of a
 * return is read before the index, or the flags, that show it. P-DRV-038: flags are
 * read whole. S-DRV-039: nor is anything read that the driver end wrote itself.
 */
static void test_driver_gets(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[BUFFERS + 1];
	bool seen[BUFFERS] = { false };
	struct rig r;
	int rc;

	open_rig(&r, shape);
	send_all(&r);
	serve_all(&r);
	watch_begin(&r, true, spoil_used, &r);
	rc = virtq_driver_get(r.driver, done, BUFFERS);
	watch_end();
	assert_int_equal(rc, BUFFERS);
	for (uint32_t i = 0; i < BUFFERS; i++) {
		uintptr_t which = token_value(done[i].token);

		assert_true(which < BUFFERS && !seen[which]);
		seen[which] = true;
		assert_int_equal(done[i].written, writable_bytes[which]);
	}
	no_pieces();
	for (enum area area = 0; area < AREAS; area++)
		never(area, true, "something written");
	never(AREA_DRIVER, false, "the driver area read back");
	never(AREA_TABLE, false, "tables read back");
	never(AREA_DATA, false, "data read");
	if (shape->packed) {
		never(AREA_DEVICE, false, "the device area read");
		for (uint32_t slot = 0; slot < shape->size; slot++) {
			int flags = watch_find(0, AREA_DESC, 16 * slot + 14, 2, false);
			int first = watch_find(0, AREA_DESC, 16 * slot, 14, false);

			read_once(AREA_DESC, 16 * slot, 16);
			if (first >= 0 && (flags < 0 || first < flags))
				fail_msg("slot %u: read at %d, its flags at %d", slot, first,
					 flags);
		}
	} else {
		int idx = watch_find(0, AREA_DEVICE, 2, 2, false);
		int elem = watch_find(0, AREA_DEVICE, 4, 8 * shape->size, false);

		never(AREA_DESC, false, "descriptors read back");
		read_once(AREA_DEVICE, 4, 8 * shape->size);
		if (idx < 0 || elem < idx)
			fail_msg("an element is read at %d, the index at %d", elem, idx);
	}
	rig_close(&r);
}

/* ---- Device end, on the way in ------------------------------------------- */

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

/* ---- Device end, on the way back ----------------------------------------- */

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
	static struct shape shapes[] = {
		{ .size = 16, .name = "split" },
		{ .size = 8, .event_idx = true, .indirect = true, .moved = true, .start = 65533,
		  .name = "split event indirect from 65533" },
		{ .size = 16, .in_order = true, .name = "split in order" },
		{ .packed = true, .size = 11, .name = "packed" },
		{ .packed = true, .size = 7, .event_idx = true, .moved = true, .start = 4,
		  .name = "packed event, lap ends" },
		{ .packed = true, .size = 5, .event_idx = true, .indirect = true, .moved = true,
		  .start = 2, .name = "packed event indirect, lap ends" },
		{ .packed = true, .size = 11, .in_order = true, .moved = true, .start = 5,
		  .name = "packed in order" },
	};
	static struct shape events[] = {
		{ .packed = true, .size = 5, .event_idx = true, .name = "packed event" },
		{ .packed = true, .size = 5, .event_idx = true, .moved = true, .start = 3,
		  .name = "packed event from 3" },
	};
	size_t all = sizeof(shapes) / sizeof(shapes[0]);
	struct matrix m = { 0 };

	if (!watch_possible()) {
		printf("skipped: no single step here, or ThreadSanitizer is in its way\n");
		return 77;
	}
	matrix_add_shapes(&m, "S-DRV-028 P-DRV-013 what the driver writes, in order",
			  test_driver_publishes, shapes, all);
	matrix_add_shapes(&m, "N-DRV-021 how the driver reads an event", test_driver_reads_event,
			  events, 2);
	matrix_add_shapes(&m, "N-DRV-016 how the driver writes an event", test_driver_arms,
			  events, 2);
	matrix_add_shapes(&m, "S-DRV-040 P-DRV-039 the driver reads returns once",
			  test_driver_gets, shapes, all);
	matrix_add_shapes(&m, "S-DEV-020 P-DEV-018 what the device reads, in order",
			  test_device_pops, shapes, all);
	matrix_add_shapes(&m, "S-DEV-026 P-DEV-021 the device believes its first reading",
			  test_device_pops_spoiled, shapes, all);
	matrix_add_shapes(&m, "S-DEV-026 P-DEV-021 nor does it read singles again",
			  test_device_pops_singles_spoiled, shapes, all);
	matrix_add_shapes(&m, "S-DEV-021 P-DEV-019 what the device writes, in order",
			  test_device_publishes, shapes, all);
	return matrix_run(&m, "accesses");
}
