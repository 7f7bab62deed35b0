/* SPDX-License-Identifier: MIT */
/* Where in memory things come to lie, in rings of odd and of extreme sizes. */
#include "rig.h"

#include <stdlib.h>

#define W RIG_WRITABLE_GPA

/* ---- Sizes that are no power of two --------------------------------------- */

/*
 * P-DRV-002, P-DEV-030, P-DRV-006, P-DRV-024, P-DEV-010: 10^5 lists of one to
 * three descriptors: where both ends stand is counted by hand.
 */
static void test_laps(void **state)
{
	const struct shape *shape = *state;
	static const struct virtq_seg segs[] = { { W, 1 }, { W + 1, 1 }, { W + 2, 1 } };
	uint32_t at = 0;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 100000; i++) {
		uint32_t count = shape->size < 3 ? 1 : 1 + i % 3;
		struct virtq_buffer buf = { segs, 0, (uint16_t)count, token_of(i) };
		struct virtq_completion done;
		uint32_t slot, expect;
		bool wrap;

		slot = at % shape->size;
		wrap = at / shape->size % 2 == 0;
		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
		virtq_driver_publish(r.driver);
		assert_int_equal(get16(r.desc.driver + 16 * (size_t)slot + 14) & (F_AVAIL | F_USED),
				 wrap ? F_AVAIL : F_USED);
		rig_serve(&r, 1);
		assert_int_equal(get16(r.desc.driver + 16 * (size_t)slot + 14) & (F_AVAIL | F_USED),
				 wrap ? F_AVAIL | F_USED : 0);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(token_value(done.token), i);
		at += count;
		expect = at % shape->size | (at / shape->size % 2 ? 0 : 0x8000u);
		assert_int_equal(virtq_driver_position(r.driver), expect << 16 | expect);
		assert_int_equal(virtq_device_position(r.device), expect << 16 | expect);
	}
	rig_close(&r);
}

/* ---- Where the event words are -------------------------------------------- */

/* The device area is as it was but for the two bytes at @off. */
static void only_word_changed(struct rig *r, const uint8_t *before, size_t off)
{
	for (size_t i = 0; i < r->device_area.bytes; i++)
		if (i != off && i != off + 1)
			assert_int_equal(r->device_area.driver[i], before[i]);
}

/*
 * S-DEV-037, N-DEV-004: avail_event is the word behind the last used element, used_event that
 * behind the last available entry; the device writes the one and goes by the other.
 */
static void test_event_words(void **state)
{
	const struct shape *shape = *state;
	size_t word = 4 + 8 * (size_t)shape->size;
	uint8_t *before;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 1);
	rig_serve(&r, 1);
	rig_collect(&r, 1);
	memset(r.device_area.device + 4, 0xa7, r.device_area.bytes - 4);
	before = malloc(r.device_area.bytes);
	assert_non_null(before);
	memcpy(before, r.device_area.driver, r.device_area.bytes);
	assert_int_equal(virtq_device_arm(r.device), 0);
	assert_int_equal(get16(r.device_area.driver + word), shape->start + 1);
	only_word_changed(&r, before, word);
	free(before);
	for (uint16_t i = 1; i < 6; i++) {
		uint16_t idx = (uint16_t)(shape->start + i);

		put16(r.driver_area.driver + 4 + 2 * (size_t)shape->size,
		      (uint16_t)(i & 1 ? idx : idx + 9));
		rig_send(&r, 1);
		assert_int_equal(rig_serve(&r, 1), i & 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

int main(void)
{
	static struct shape odd[] = {
		{ .packed = true, .size = 1, .name = "packed 1" },
		{ .packed = true, .size = 3, .name = "packed 3" },
		{ .packed = true, .size = 7, .event_idx = true, .name = "packed 7 event" },
		{ .packed = true, .size = 1000, .name = "packed 1000" },
		{ .packed = true, .size = 32767, .name = "packed 32767" },
		{ .packed = true, .size = 32768, .name = "packed 32768" },
	};
	static struct shape words[] = {
		{ .size = 1, .event_idx = true, .name = "1" },
		{ .size = 2, .event_idx = true, .name = "2" },
		{ .size = 256, .event_idx = true, .in_order = true, .name = "256 in order" },
		{ .size = 32768, .event_idx = true, .name = "32768" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "P-DRV-002 P-DEV-030 laps", test_laps, odd, 6);
	matrix_add_shapes(&m, "S-DEV-037 event words", test_event_words, words, 4);
	return matrix_run(&m, "places");
}
