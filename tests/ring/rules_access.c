/* SPDX-License-Identifier: MIT */
/*
 * Which memory the driver end reads and writes, how often and in what order: every
 * access is logged (watch.h). What has been read is spoiled at once, so that
 * whoever reads it again, after checking it, is found out. The device end is in
 * rules_access_device.c.
 */
#include "rules_access.h"

#include <stdio.h>

/* The free-running index of the first of the buffers, after open_rig(). */
static uint16_t first_idx(const struct rig *r)
{
	return (uint16_t)(r->shape.start + 1);
}

static void look_from_device(const struct access *a, void *arg)
{
	struct turns_seen *s = arg;

	turns_look(s, s->r->desc.device, a);
}

/* No field of a descriptor or an entry is read by two instructions. */
static void read_once(enum area area, uint32_t off, uint32_t bytes)
{
	for (uint32_t at = off; at < off + bytes; at++)
		if (watch_number(area, at, 1, false) > 1)
			fail_msg("offset %u of area %d is read twice", at, (int)area);
}

/* ---- On the way out ------------------------------------------ */

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

/* ---- On the way back ----------------------------------------- */

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

int main(void)
{
	static struct shape events[] = {
		{ .packed = true, .size = 5, .event_idx = true, .name = "packed event" },
		{ .packed = true, .size = 5, .event_idx = true, .moved = true, .start = 3,
		  .name = "packed event from 3" },
	};
	struct matrix m = { 0 };

	if (!watch_possible()) {
		printf("skipped: no single step here, or ThreadSanitizer is in its way\n");
		return 77;
	}
	matrix_add_shapes(&m, "S-DRV-028 P-DRV-013 what the driver writes, in order",
			  test_driver_publishes, shapes, SHAPES);
	matrix_add_shapes(&m, "N-DRV-021 how the driver reads an event", test_driver_reads_event,
			  events, 2);
	matrix_add_shapes(&m, "N-DRV-016 how the driver writes an event", test_driver_arms,
			  events, 2);
	matrix_add_shapes(&m, "S-DRV-040 P-DRV-039 the driver reads returns once",
			  test_driver_gets, shapes, SHAPES);
	return matrix_run(&m, "accesses");
}
