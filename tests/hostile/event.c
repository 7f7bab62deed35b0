/* SPDX-License-Identifier: MIT */
/* Event words that cannot be: nobody may stall, and nobody does. Both directions. */
#include "rig.h"

#define ROUNDS(r) (5 * (r)->shape.size + 3)

/* One buffer round; the kick and the call that the two ends decided on. */
static void round_trip(struct rig *r, int *kick, int *call)
{
	*kick = rig_send(r, 1);
	*call = rig_serve(r, 1);
	rig_collect(r, 1);
}

static const struct {
	const char *what;
	uint16_t off_wrap, flags;
	bool only_without_event;
} packed_words[] = {
	{ "reserved", 0, 3, false },
	{ "reserved with an offset", 0xffff, 3, false },
	{ "reserved bits beside ENABLE", 0, 0xfffc, false },
	{ "reserved bits beside DISABLE", 0, 0x8001, false },
	{ "reserved bits beside DESC", 0, 0x0102, false },
	{ "offset is 32767", 0x7fff, 2, false },
	{ "offset is 32767, wrap", 0xffff, 2, false },
	{ "DESC without EVENT_IDX", 0, 2, true },
	{ "DESC without EVENT_IDX, wrap", 0x8001, 2, true },
};

/*
 * N-DRV-020, N-DEV-019. The words are written anew before each round, since
 * the end whose word it is also writes it.
 */
static void packed_lie(const struct shape *shape, uint16_t off_wrap, uint16_t flags)
{
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < ROUNDS(&r); i++) {
		int kick, call;

		put16(r.driver_area.driver, off_wrap);
		put16(r.driver_area.driver + 2, flags);
		put16(r.device_area.device, off_wrap);
		put16(r.device_area.device + 2, flags);
		round_trip(&r, &kick, &call);
		assert_int_equal(kick, 1);
		assert_int_equal(call, 1);
	}
	rig_close(&r);
}

static void test_packed_words(void **state)
{
	const struct shape *shape = *state;

	for (size_t i = 0; i < sizeof(packed_words) / sizeof(packed_words[0]); i++)
		if (!packed_words[i].only_without_event || !shape->event_idx)
			packed_lie(shape, packed_words[i].off_wrap, packed_words[i].flags);
}

/* N-DRV-020, N-DEV-019: an offset from the size on. */
static void test_packed_offset(void **state)
{
	const struct shape *shape = *state;

	for (uint32_t wrap = 0; wrap <= 0x8000; wrap += 0x8000) {
		packed_lie(shape, (uint16_t)(wrap | shape->size), 2);
		packed_lie(shape, (uint16_t)(wrap | (shape->size + 1)), 2);
	}
}

/* N-DEV-009, N-DRV-009: with EVENT_IDX the flags do not silence anybody. */
static void test_split_flags_with_event(void **state)
{
	const struct shape *shape = *state;
	uint16_t idx = (uint16_t)shape->start;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < ROUNDS(&r); i++, idx++) {
		int kick, call;

		put16(r.driver_area.driver, 0xffff);
		put16(used_flags(&r), 0xffff);
		put16(used_event(&r), idx);
		put16(avail_event(&r), idx);
		round_trip(&r, &kick, &call);
		assert_int_equal(kick, 1);
		assert_int_equal(call, 1);
	}
	rig_close(&r);
}

/* N-DRV-007, N-DEV-007: bits beside bit 0 mean nothing; nor, unagreed, do event words. */
static void test_split_flags(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < ROUNDS(&r); i++) {
		int kick, call;

		put16(r.driver_area.driver, 0xfffe);
		put16(used_flags(&r), 0xfffe);
		put16(used_event(&r), (uint16_t)(i * 40503));
		put16(avail_event(&r), (uint16_t)(i * 40503));
		round_trip(&r, &kick, &call);
		assert_int_equal(kick, 1);
		assert_int_equal(call, 1);
	}
	/* S-DEV-038: and they stay as they are. */
	assert_int_equal(get16(used_event(&r)), (uint16_t)((ROUNDS(&r) - 1) * 40503));
	assert_int_equal(get16(avail_event(&r)), (uint16_t)((ROUNDS(&r) - 1) * 40503));
	rig_close(&r);
}

/*
 * N-DEV-010, N-DRV-010, S-DEV-037: an event word that says any number at all.
 * What it asks for is counted by hand; buffers flow whatever it says.
 */
static void test_any_event(void **state)
{
	const struct shape *shape = *state;
	uint32_t seed = 12345;
	uint16_t idx = (uint16_t)shape->start;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 2000; i++) {
		int kick, call;
		uint16_t event;

		seed = seed * 1664525 + 1013904223;
		event = (uint16_t)(seed >> 16);
		/* Near to where the ring stands, half of the time. */
		if (i & 1)
			event = (uint16_t)(idx + event % 5 - 2);
		if (shape->packed) {
			put16(r.driver_area.driver, event);
			put16(r.driver_area.driver + 2, (uint16_t)seed & 3);
			put16(r.device_area.device, event);
			put16(r.device_area.device + 2, (uint16_t)seed & 3);
		} else {
			put16(used_event(&r), event);
			put16(avail_event(&r), event);
		}
		round_trip(&r, &kick, &call);
		if (!shape->packed && i) {
			assert_int_equal(kick, event == idx);
			assert_int_equal(call, event == idx);
		}
		idx++;
	}
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add(&m, "N-DRV-020 N-DEV-019 impossible event words", test_packed_words,
		   ONLY_PACKED | NOT_HUGE);
	matrix_add(&m, "N-DRV-020 N-DEV-019 offset from the size on", test_packed_offset,
		   ONLY_PACKED | NOT_HUGE);
	matrix_add(&m, "N-DRV-009 N-DEV-009 flags beside EVENT_IDX", test_split_flags_with_event,
		   ONLY_SPLIT | ONLY_EVENT | NOT_HUGE);
	matrix_add(&m, "N-DRV-006 N-DRV-007 N-DEV-006 N-DEV-007 undefined flags",
		   test_split_flags, ONLY_SPLIT | ONLY_NO_EVENT | NOT_HUGE);
	matrix_add(&m, "N-DRV-010 N-DEV-010 any event word", test_any_event, ONLY_EVENT);
	return matrix_run(&m, "hostile event words");
}
