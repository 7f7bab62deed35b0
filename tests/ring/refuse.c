/* SPDX-License-Identifier: MIT */
/* What set-up and add refuse, and that a refusal changes nothing. */
#include "rig.h"

#include <stdlib.h>

/* ---- Set-up ------------------------------------------------------------- */

static struct virtq_features layout(bool packed)
{
	struct shape s = { .packed = packed };

	return shape_features(&s);
}

/* S-DRV-002, P-DRV-002. */
static void test_sizes(void **state)
{
	static const struct { uint32_t size; bool split, packed; } cases[] = {
		{ 0, false, false }, { 1, true, true }, { 2, true, true }, { 3, false, true },
		{ 5, false, true }, { 24, false, true }, { 1000, false, true },
		{ 32767, false, true }, { 32768, true, true }, { 32769, false, false },
		{ 65536, false, false }, { 0x80000000u, false, false },
		{ 0xffffffffu, false, false },
	};
	struct virtq_ring_shape shape;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(virtq_ring_shape(layout(false), cases[i].size, &shape),
				 cases[i].split ? 0 : -EINVAL);
		assert_int_equal(virtq_ring_shape(layout(true), cases[i].size, &shape),
				 cases[i].packed ? 0 : -EINVAL);
	}
}

/* S-DRV-003, S-DRV-001, P-DRV-001: bytes and alignment of the areas. */
static void test_areas(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 256, 32768 };
	struct virtq_ring_shape s;

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		size_t n = sizes[i];

		assert_int_equal(virtq_ring_shape(layout(false), sizes[i], &s), 0);
		assert_int_equal(s.desc_bytes, 16 * n);
		assert_int_equal(s.driver_bytes, 6 + 2 * n);
		assert_int_equal(s.device_bytes, 6 + 8 * n);
		assert_int_equal(s.desc_align, 16);
		assert_int_equal(s.driver_align, 2);
		assert_int_equal(s.device_align, 4);
		assert_true(s.driver_offset >= s.desc_bytes && s.driver_offset % 2 == 0);
		assert_true(s.device_offset >= s.driver_offset + s.driver_bytes);
		assert_true(s.device_offset % 4 == 0);
		assert_true(s.total_bytes >= s.device_offset + s.device_bytes);

		assert_int_equal(virtq_ring_shape(layout(true), sizes[i], &s), 0);
		assert_int_equal(s.desc_bytes, 16 * n);
		assert_int_equal(s.driver_bytes, 4);
		assert_int_equal(s.device_bytes, 4);
		assert_int_equal(s.desc_align, 16);
		assert_int_equal(s.driver_align, 4);
		assert_int_equal(s.device_align, 4);
		assert_true(s.driver_offset >= s.desc_bytes && s.driver_offset % 4 == 0);
		assert_true(s.device_offset >= s.driver_offset + 4 && s.device_offset % 4 == 0);
	}
}

/* Both ends refuse @ring; the sentence is there. */
static void refused(struct rig *r, const struct virtq_ring *ring)
{
	struct virtq_driver_config drv = { .ring = *ring };
	struct virtq_device_config dev = { .ring = *ring, .map = r->map };
	struct virtq_error err = { 0 };
	struct virtq_driver *driver;
	struct virtq_device *device;

	assert_int_equal(virtq_driver_create(&driver, &drv, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_true(err.text[0] != '\0');
	memset(&err, 0, sizeof(err));
	assert_int_equal(virtq_device_create(&device, &dev, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_true(err.text[0] != '\0');
	assert_int_equal(virtq_driver_create(&driver, &drv, NULL), -EINVAL);
	assert_int_equal(virtq_device_create(&device, &dev, NULL), -EINVAL);
}

static void *moved_by(void *p, size_t bytes)
{
	return (uint8_t *)p + bytes;
}

/* S-DRV-001, P-DRV-001. */
static void test_alignment(void **state)
{
	const struct shape *shape = *state;
	size_t driver_step = shape->packed ? 2 : 1, device_step = 2;
	struct virtq_ring ring;
	struct rig r;

	rig_memory(&r, shape);
	for (size_t off = 1; off < 16; off++) {
		ring = r.driver_ring;
		ring.desc = moved_by(ring.desc, off);
		ring.size = 1;
		refused(&r, &ring);
	}
	ring = r.driver_ring;
	ring.driver = moved_by(ring.driver, driver_step);
	refused(&r, &ring);
	ring = r.driver_ring;
	ring.device = moved_by(ring.device, device_step);
	refused(&r, &ring);
	ring = r.driver_ring;
	ring.desc = NULL;
	refused(&r, &ring);
	ring = r.driver_ring;
	ring.size = shape->packed ? 32769 : 3;
	refused(&r, &ring);
	ring.size = 0;
	refused(&r, &ring);
	rig_close(&r);
}

/* Positions that cannot be. */
static void test_positions(void **state)
{
	const struct shape *shape = *state;
	uint32_t bad = shape->packed ? 0x80008000u + shape->size : 0x10000u;
	uint32_t bad_used = 0x80008000u + (shape->size << 16);
	struct virtq_device *device;
	struct virtq_driver *driver;
	struct rig r;

	rig_memory(&r, shape);
	r.driver_config.ring = r.driver_ring;
	r.driver_config.position = &bad;
	r.device_config.ring = r.device_ring;
	r.device_config.map = r.map;
	r.device_config.position = &bad;
	if (shape->size <= 0x7fff || !shape->packed) {
		assert_int_equal(virtq_driver_create(&driver, &r.driver_config, NULL), -EINVAL);
		assert_int_equal(virtq_device_create(&device, &r.device_config, NULL), -EINVAL);
	}
	if (shape->packed && shape->size <= 0x7fff) {
		r.driver_config.position = &bad_used;
		r.device_config.position = &bad_used;
		assert_int_equal(virtq_driver_create(&driver, &r.driver_config, NULL), -EINVAL);
		assert_int_equal(virtq_device_create(&device, &r.device_config, NULL), -EINVAL);
	}
	if (shape->packed && shape->size > 1) {
		/* Slot 1 to fill, slot 0 to be used: something is in flight. */
		uint32_t in_flight = 0x80008001u;

		r.driver_config.position = &in_flight;
		assert_int_equal(virtq_driver_create(&driver, &r.driver_config, NULL), -EINVAL);
	}
	rig_close(&r);
}

/* S-DRV-004, S-DRV-005, P-DRV-003: a new ring is cleared, whatever was there. */
static void test_new_ring_is_clear(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (size_t i = 0; i < r.desc.bytes; i++)
		assert_int_equal(r.desc.driver[i], 0);
	for (size_t i = 0; i < r.driver_area.bytes; i++)
		assert_int_equal(r.driver_area.driver[i], 0);
	for (size_t i = 0; i < r.device_area.bytes; i++)
		assert_int_equal(r.device_area.driver[i], 0);
	/* P-DEV-003, P-DRV-025: in zeros nothing is available and nothing used. */
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	rig_collect(&r, 0);
	assert_int_equal(virtq_driver_arm(r.driver), 0);
	assert_int_equal(virtq_device_arm(r.device), 0);
	rig_close(&r);
}

/* ---- Add ---------------------------------------------------------------- */

static void refuses(struct rig *r, const struct virtq_buffer *buf, int code)
{
	struct snapshot s = snapshot_take(r);
	uint32_t room = virtq_driver_room(r->driver);

	assert_int_equal(virtq_driver_add(r->driver, buf, 1), code);
	snapshot_same(r, &s);
	assert_int_equal(virtq_driver_room(r->driver), room);
	assert_int_equal(virtq_driver_in_flight(r->driver), 0);
	assert_int_equal(virtq_driver_publish(r->driver), 0);
}

/* S-DRV-023, S-DRV-046, S-DRV-012. */
static void test_meaningless_buffers(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[4] = {
		{ RIG_DATA_GPA, 4 }, { RIG_DATA_GPA, 0 }, { RIG_WRITABLE_GPA, 4 },
	};
	struct virtq_buffer buf = { segs, 0, 0, NULL };
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	refuses(&r, &buf, -EINVAL);
	buf.segs = segs + 1;
	buf.readable = 1;
	refuses(&r, &buf, -EINVAL);
	buf.readable = 0;
	buf.writable = 1;
	refuses(&r, &buf, -EINVAL);
	if (shape->size >= 3) {
		buf.segs = segs;
		buf.readable = 2;
		buf.writable = 1;
		refuses(&r, &buf, -EINVAL);
		/* 2^31 + 2^31 + 1 bytes; the sum is 1 in 32 bits. */
		segs[0].len = segs[1].len = 0x80000000u;
		segs[2].len = 1;
		for (uint16_t readable = 0; readable <= 3; readable++) {
			buf.readable = readable;
			buf.writable = (uint16_t)(3 - readable);
			refuses(&r, &buf, -EINVAL);
		}
		/* 2^32 exactly is allowed. */
		buf.readable = 2;
		buf.writable = 0;
		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	}
	rig_close(&r);
}

/* S-DRV-014, P-DRV-015, P-DRV-022: longer than the ring, with or without tables. */
static void test_too_long(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size + 1;
	struct virtq_seg *segs = calloc(count, sizeof(*segs));
	struct virtq_buffer buf = { segs, 0, (uint16_t)count, NULL };
	struct rig r;

	assert_non_null(segs);
	for (uint32_t i = 0; i < count; i++) {
		segs[i].addr = RIG_WRITABLE_GPA;
		segs[i].len = 1;
	}
	rig_open(&r, shape, RIG_BOTH);
	refuses(&r, &buf, -EMSGSIZE);
	buf.writable = (uint16_t)shape->size;
	assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	rig_close(&r);
	free(segs);
}

/* P-DRV-022, S-DRV-015, P-DRV-018: tables are used as far as they go, and only if agreed. */
static void test_which_go_indirect(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[RIG_TABLE_ENTRIES + 1];
	struct rig r;

	for (uint32_t i = 0; i <= RIG_TABLE_ENTRIES; i++)
		segs[i] = (struct virtq_seg){ RIG_WRITABLE_GPA + i, 1 };
	for (uint32_t count = 1; count <= RIG_TABLE_ENTRIES + 1; count++) {
		struct virtq_buffer buf = { segs, 0, (uint16_t)count, NULL };
		bool table = shape->indirect && count > 1 && count <= RIG_TABLE_ENTRIES;
		uint32_t slot, n;
		bool flagged = false;

		if (count > shape->size)
			break;
		rig_open(&r, shape, RIG_BOTH);
		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
		virtq_driver_publish(r.driver);
		assert_int_equal(virtq_driver_room(r.driver), shape->size - (table ? 1 : count));
		n = table ? 1 : count;
		slot = shape->packed ? shape->start % shape->size : 0;
		for (uint32_t i = 0; i < n; i++, slot = (slot + 1) % shape->size) {
			uint16_t flags = get16(r.desc.driver + 16 * (size_t)slot +
					       (shape->packed ? 14 : 12));

			flagged |= (flags & F_INDIRECT) != 0;
		}
		assert_int_equal(flagged, table);
		rig_close(&r);
	}
}

/* The same with INDIRECT_DESC off but memory for tables given: direct (S-DRV-015, P-DRV-018). */
static void test_tables_without_the_feature(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[2] = { { RIG_DATA_GPA, 1 }, { RIG_WRITABLE_GPA, 1 } };
	struct virtq_buffer buf = { segs, 1, 1, NULL };
	struct rig r;

	rig_memory(&r, shape);
	r.driver_config.indirect = r.table.driver;
	r.driver_config.indirect_addr = RIG_TABLE_GPA;
	r.driver_config.indirect_entries = RIG_TABLE_ENTRIES;
	r.driver_config.indirect_from = 2;
	rig_make_driver(&r);
	assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size - 2);
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add_one(&m, "S-DRV-002 P-DRV-002 sizes of rings", test_sizes);
	matrix_add_one(&m, "S-DRV-003 sizes of areas", test_areas);
	matrix_add(&m, "S-DRV-001 P-DRV-001 misaligned areas", test_alignment,
		   ONLY_NEW | AT_LEAST_2);
	matrix_add(&m, "impossible positions", test_positions, 0);
	matrix_add(&m, "S-DRV-004 S-DRV-005 P-DRV-003 a new ring is clear",
		   test_new_ring_is_clear, ONLY_NEW);
	matrix_add(&m, "S-DRV-023 S-DRV-012 meaningless buffers", test_meaningless_buffers, 0);
	matrix_add(&m, "S-DRV-014 P-DRV-015 buffers too long", test_too_long, 0);
	matrix_add(&m, "P-DRV-022 which buffers go indirect", test_which_go_indirect, 0);
	matrix_add(&m, "S-DRV-015 P-DRV-018 no table unless agreed",
		   test_tables_without_the_feature, ONLY_DIRECT | AT_LEAST_2);
	return matrix_run(&m, "refusals");
}
