/* SPDX-License-Identifier: MIT */
/*
 * When the two ends notify each other: every decision of the event index, the
 * words that each end writes, and the window between looking and sleeping.
 */
#include "rig.h"

#include <stdlib.h>

/* ---- The event index, split --------------------------------------------- */

/* The rule (2.7.10.1, 2.7.7.2) as it is worded: was the entry at @event among the new ones? */
static bool among(uint16_t old, uint32_t count, uint16_t event)
{
	for (uint32_t i = 0; i < count; i++)
		if ((uint16_t)(old + i) == event)
			return true;
	return false;
}

/* A driver end that has just decided at index @old, and publishes @count more. */
static int driver_decides(struct rig *r, uint16_t old, uint32_t count, uint16_t event)
{
	uint32_t position = (uint16_t)(old - 1);
	struct virtq_driver_config config = { .ring = r->driver_ring, .position = &position };
	struct virtq_seg seg = { RIG_DATA_GPA, 1 };
	struct virtq_buffer buf = { &seg, 1, 0, NULL };
	int kick;

	put16(avail_idx(r), (uint16_t)position);
	put16(used_idx(r), (uint16_t)position);
	assert_int_equal(virtq_driver_create(&r->driver, &config, NULL), 0);
	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	virtq_driver_publish(r->driver);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	put16(avail_event(r), event);
	kick = virtq_driver_publish(r->driver);
	virtq_driver_destroy(r->driver);
	r->driver = NULL;
	return kick;
}

/* The same from the device's side. */
static int device_decides(struct rig *r, uint16_t old, uint32_t count, uint16_t event)
{
	uint32_t position = (uint16_t)(old - 1);
	struct virtq_device_config config = {
		.ring = r->device_ring, .position = &position, .map = r->map, .max_segs = 4,
	};
	struct virtq_req *reqs[8];
	int call;

	put16(used_idx(r), (uint16_t)position);
	for (uint32_t i = 0; i <= count; i++)
		put16(avail_ring(r, (uint16_t)(position + i)), (uint16_t)i);
	put16(avail_idx(r), (uint16_t)(old + count));
	assert_int_equal(virtq_device_create(&r->device, &config, NULL), 0);
	assert_int_equal(virtq_device_pop(r->device, reqs, count + 1), count + 1);
	/* N-DEV-012: the first decision knows nothing of the past, so it signals. */
	put16(used_event(r), (uint16_t)(position - 5));
	virtq_device_push(r->device, reqs, 1);
	assert_int_equal(virtq_device_publish(r->device), 1);
	virtq_device_push(r->device, reqs + 1, count);
	put16(used_event(r), event);
	call = virtq_device_publish(r->device);
	virtq_device_destroy(r->device);
	r->device = NULL;
	return call;
}

/* N-DRV-010, N-DRV-011, N-DEV-010, N-DEV-011: around the wrap, every neighbour; and far ones. */
static void test_split_event_neighbours(void **state)
{
	static const struct shape shape = { .size = 8, .event_idx = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, 0);
	for (uint32_t slot = 0; slot < 8; slot++) {
		put64(split_desc(&r, slot), RIG_DATA_GPA);
		put32(split_desc(&r, slot) + 8, 1);
	}
	for (int at = -9; at <= 9; at++) {
		uint16_t old = (uint16_t)at;

		for (uint32_t count = 1; count <= 7; count++) {
			for (int near = -12; near <= 20; near++) {
				uint16_t event = (uint16_t)(old + near);

				assert_int_equal(driver_decides(&r, old, count, event),
						 among(old, count, event));
				assert_int_equal(device_decides(&r, old, count, event),
						 among(old, count, event));
			}
			for (uint32_t far = 0; far < 65536; far += 4099) {
				uint16_t event = (uint16_t)(old + far);

				assert_int_equal(driver_decides(&r, old, count, event),
						 among(old, count, event));
			}
		}
	}
	rig_close(&r);
}

/* N-DRV-010, N-DEV-010: the requirement's own examples, all 65536 events. */
static void test_split_event_sweep(void **state)
{
	static const struct shape shape = { .size = 16, .event_idx = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, 0);
	for (uint32_t slot = 0; slot < 16; slot++) {
		put64(split_desc(&r, slot), RIG_DATA_GPA);
		put32(split_desc(&r, slot) + 8, 1);
	}
	for (uint32_t event = 0; event < 65536; event++) {
		assert_int_equal(driver_decides(&r, 65534, 4, (uint16_t)event),
				 event >= 65534 || event <= 1);
		assert_int_equal(device_decides(&r, 65532, 7, (uint16_t)event),
				 event >= 65532 || event <= 2);
	}
	rig_close(&r);
}

/* N-DRV-014: an index that nobody moves comes round after 65536 entries, and costs one signal. */
static void test_parked_event_comes_round(void **state)
{
	static const struct shape shape = { .size = 4, .event_idx = true };
	struct rig r;
	uint32_t kicks = 0, calls = 0;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	assert_int_equal(virtq_device_arm(r.device), 0);
	assert_int_equal(virtq_driver_arm(r.driver), 0);
	virtq_device_disarm(r.device);
	virtq_driver_disarm(r.driver);
	for (uint32_t i = 0; i < 65537; i++) {
		int kick = rig_send(&r, 1), call = rig_serve(&r, 1);

		kicks += (uint32_t)kick;
		calls += (uint32_t)call;
		/* Parked at 65535, just behind. A device calls once at first (N-DEV-012). */
		assert_int_equal(kick, i == 65535);
		assert_int_equal(call, i == 0 || i == 65535);
		rig_collect(&r, 1);
	}
	assert_int_equal(kicks, 1);
	assert_int_equal(calls, 2);
	rig_close(&r);
}

/* ---- The event structure, packed ---------------------------------------- */

/* Positions of a ring of five, counted through two laps: slot and wrap bit. */
static uint16_t off_wrap_of(uint32_t at)
{
	return (uint16_t)(at % 5 | (at / 5 % 2 ? 0 : 0x8000u));
}

static bool in_range(uint32_t from, uint32_t count, uint16_t off_wrap)
{
	for (uint32_t i = 0; i < count; i++)
		if (off_wrap_of(from + i) == off_wrap)
			return true;
	return false;
}

/* Write a whole event structure of the peer. */
static void event_put(uint8_t *at, uint16_t off_wrap, uint16_t flags)
{
	put16(at, off_wrap);
	put16(at + 2, flags);
}

/* Add @count elements, as one list or one by one, and publish. */
static int send_elements(struct rig *r, uint32_t count, bool as_list)
{
	struct virtq_seg segs[5];
	struct virtq_buffer buf = { segs, 0, (uint16_t)count, NULL };

	if (!as_list)
		return rig_send(r, count);
	for (uint32_t i = 0; i < count; i++)
		segs[i] = (struct virtq_seg){ RIG_WRITABLE_GPA + i, 1 };
	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	return virtq_driver_publish(r->driver);
}

/*
 * N-DRV-018, N-DEV-016, N-DRV-011: N=5, from each of the ten positions, lists
 * and batches of 1..5 slots, armed at each of the ten (offset, wrap) pairs.
 */
static void test_packed_event_all_pairs(void **state)
{
	static const struct shape shape = { .packed = true, .size = 5, .event_idx = true };
	struct rig r;
	uint32_t at = 0;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	rig_send(&r, 1);
	rig_serve(&r, 1);	/* the first decision of each end is behind us */
	rig_collect(&r, 1);
	at++;
	for (uint32_t from = 0; from < 10; from++) {
		for (uint32_t shot = 0; shot < 2 * 5 * 10; shot++) {
			uint32_t count = 1 + shot / 2 % 5;
			bool as_list = shot & 1;
			uint16_t event = off_wrap_of(shot / 10);

			while (at % 10 != from) {
				rig_send(&r, 1);
				rig_serve(&r, 1);
				rig_collect(&r, 1);
				at++;
			}
			event_put(r.device_area.device, event, RING_EVENT_FLAGS_DESC);
			event_put(r.driver_area.driver, event, RING_EVENT_FLAGS_DESC);
			if (send_elements(&r, count, as_list) != in_range(at, count, event))
				fail_msg("kick: %u slots from %u, armed at %04x", count, from,
					 event);
			if (rig_serve(&r, as_list ? 1 : count) != in_range(at, count, event))
				fail_msg("call: %u slots from %u, armed at %04x", count, from,
					 event);
			rig_collect(&r, as_list ? 1 : count);
			at += count;
		}
	}
	rig_close(&r);
}

/* N-DRV-017: N=5, slot 4 in the first lap is 0x8004; and every other position. */
static void test_packed_arm_writes_position(void **state)
{
	static const struct shape shape = { .packed = true, .size = 5, .event_idx = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint32_t at = 0; at < 20; at++) {
		assert_int_equal(virtq_driver_arm(r.driver), 0);
		assert_int_equal(virtq_device_arm(r.device), 0);
		assert_int_equal(get16(r.driver_area.driver), off_wrap_of(at));
		assert_int_equal(get16(r.driver_area.driver + 2), RING_EVENT_FLAGS_DESC);
		assert_int_equal(get16(r.device_area.driver), off_wrap_of(at));
		assert_int_equal(get16(r.device_area.driver + 2), RING_EVENT_FLAGS_DESC);
		assert_int_equal(rig_send(&r, 1), 1);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/* ---- Flags -------------------------------------------------------------- */

/* The flag words in any layout; without EVENT_IDX they alone steer. */
static uint16_t driver_flags(struct rig *r)
{
	return get16(r->driver_area.driver + (r->shape.packed ? 2 : 0));
}

static uint16_t device_flags(struct rig *r)
{
	return get16(r->device_area.driver + (r->shape.packed ? 2 : 0));
}

/*
 * N-DRV-001, N-DRV-003, N-DEV-001, N-DEV-003, N-DRV-015, N-DEV-015: which values the words
 * take over a long random run of arming, disarming and traffic.
 */
static void test_words_stay_legal(void **state)
{
	const struct shape *shape = *state;
	uint32_t random = 12345;
	uint16_t max = !shape->packed ? !shape->event_idx : shape->event_idx ? 2 : 1;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (int i = 0; i < 3000; i++) {
		random = random * 1664525u + 1013904223u;
		switch (random >> 29) {
		case 0: virtq_driver_arm(r.driver); break;
		case 1: virtq_driver_disarm(r.driver); break;
		case 2: virtq_device_arm(r.device); break;
		case 3: virtq_device_disarm(r.device); break;
		default:
			rig_send(&r, 1);
			rig_serve(&r, 1);
			rig_collect(&r, 1);
		}
		assert_true(driver_flags(&r) <= max);
		assert_true(device_flags(&r) <= max);
		if (shape->packed && shape->event_idx) {
			/* N-DRV-017: the offset stays below the size. */
			assert_true((get16(r.driver_area.driver) & 0x7fff) < shape->size);
			assert_true((get16(r.device_area.driver) & 0x7fff) < shape->size);
		}
		if (!shape->event_idx && !shape->packed && !shape->moved) {
			/* S-DEV-038: without EVENT_IDX nobody touches the event words. */
			assert_int_equal(get16(used_event(&r)), 0);
			assert_int_equal(get16(avail_event(&r)), 0);
		}
	}
	rig_close(&r);
}

/*
 * S-DEV-038: without EVENT_IDX a device is content with areas that end where
 * the event words would begin.
 */
static void test_areas_without_event_words(void **state)
{
	static const struct shape shape = { .size = 2 };
	struct piece avail, used;
	struct virtq_req *req;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, 0);
	piece_map(&avail, 4 + 2 * 2, 2);
	piece_map(&used, 4 + 8 * 2, 4);
	assert_int_equal(avail.slack + used.slack, 0);
	memset(avail.driver, 0, avail.bytes);
	memset(used.driver, 0, used.bytes);
	put64(split_desc(&r, 0), RIG_WRITABLE_GPA);
	put32(split_desc(&r, 0) + 8, 4);
	put16(split_desc(&r, 0) + 12, F_WRITE);
	r.device_ring.driver = avail.device;
	r.device_ring.device = used.device;
	rig_make_device(&r);
	for (uint16_t i = 0; i < 5; i++) {
		assert_int_equal(virtq_device_arm(r.device), 0);
		put16(avail.driver + 2, (uint16_t)(i + 1));
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		virtq_device_disarm(r.device);
		virtq_device_push(r.device, &req, 1);
		/* N-DEV-007, N-DEV-008. */
		put16(avail.driver, i & 1);
		assert_int_equal(virtq_device_publish(r.device), !(i & 1));
	}
	virtq_device_destroy(r.device);
	r.device = NULL;
	piece_unmap(&avail);
	piece_unmap(&used);
	rig_close(&r);
}

/* N-DRV-006..008, N-DEV-006..008: the flag decides, whatever the event word says. */
static void test_flags_decide_without_event_idx(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 2000; i++) {
		uint16_t quiet = i / 3 & 1, garbage = (uint16_t)(i * 40503u);

		if (shape->packed) {
			event_put(r.driver_area.driver, garbage, quiet);
			event_put(r.device_area.device, garbage, quiet);
		} else {
			put16(r.driver_area.driver, quiet);
			put16(used_flags(&r), quiet);
			put16(used_event(&r), garbage);
			put16(avail_event(&r), garbage);
		}
		assert_int_equal(rig_send(&r, 1), !quiet);
		assert_int_equal(rig_serve(&r, 1), !quiet);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/* N-DRV-009, N-DEV-009: with EVENT_IDX the flag bit of the split ring means nothing. */
static void test_flag_ignored_with_event_idx(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 10; i++) {
		virtq_driver_arm(r.driver);
		virtq_device_arm(r.device);
		put16(r.driver_area.driver, 1);
		put16(used_flags(&r), 1);
		assert_int_equal(rig_send(&r, 1), 1);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/* N-DRV-002, N-DEV-002, N-DRV-019, N-DEV-017: a disarmed peer is left alone, an armed one not. */
static void test_disarm_and_arm(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	/* What was armed before is unknown to a new end: it signals once. */
	rig_send(&r, 1);
	rig_serve(&r, 1);
	rig_collect(&r, 1);
	for (int i = 0; i < 20; i++) {
		virtq_driver_disarm(r.driver);
		virtq_device_disarm(r.device);
		for (int k = 0; k < 3; k++) {
			/* S-DEV-041: entries are found without a kick. */
			assert_int_equal(rig_send(&r, 1), 0);
			assert_int_equal(rig_serve(&r, 1), 0);
			rig_collect(&r, 1);
		}
		assert_int_equal(virtq_driver_arm(r.driver), 0);
		assert_int_equal(virtq_device_arm(r.device), 0);
		assert_int_equal(rig_send(&r, 1), 1);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 1);
		/* One event is one signal; plain flags signal each time (N-DRV-007, N-DEV-007). */
		assert_int_equal(rig_send(&r, 1), !shape->event_idx);
		assert_int_equal(rig_serve(&r, 1), !shape->event_idx);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/* ---- The window between looking and sleeping ---------------------------- */

/* N-DRV-012, N-DRV-022, N-DEV-014, N-DEV-020. */
static void test_rearm_sees_what_slipped_in(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (int i = 0; i < 12; i++) {
		virtq_driver_disarm(r.driver);
		virtq_device_disarm(r.device);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
		rig_send(&r, 1);			/* here: after the look, before the arm */
		assert_int_equal(virtq_device_arm(r.device), 1);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		assert_int_equal(virtq_device_arm(r.device), 0);

		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		virtq_device_push(r.device, &req, 1);
		/* Staged is not there yet. */
		assert_int_equal(virtq_driver_arm(r.driver), 0);
		virtq_driver_disarm(r.driver);
		virtq_device_publish(r.device);
		assert_int_equal(virtq_driver_arm(r.driver), 1);
		rig_collect(&r, 1);
		assert_int_equal(virtq_driver_arm(r.driver), 0);
	}
	rig_close(&r);
}

/* Publishing nothing decides nothing; idle calls are harmless (N-DRV-005, N-DEV-005). */
static void test_idle(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	virtq_driver_arm(r.driver);
	virtq_device_arm(r.device);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(virtq_driver_publish(r.driver), 0);
		assert_int_equal(virtq_device_publish(r.device), 0);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	}
	assert_int_equal(rig_send(&r, 1), 1);
	assert_int_equal(rig_serve(&r, 1), 1);
	rig_close(&r);
}

/* ---- Notification data --------------------------------------------------- */

/* N-DRV-023: split: index bits 0-14, and bit 15 as the wrap bit. */
static void test_kick_data_split(void **state)
{
	static const struct shape shape = {
		.size = 8, .moved = true, .start = 0x7ffe, .notification_data = true,
	};
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	rig_send(&r, 1);
	assert_int_equal(virtq_driver_kick_data(r.driver, 7), 0x7fff0007);
	rig_send(&r, 2);
	assert_int_equal(virtq_driver_kick_data(r.driver, 0xabcd), 0x8001abcd);
	/* N-DRV-025: a kick repeated says the same; what is only staged is not said. */
	assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, token_of(9)), 1);
	assert_int_equal(virtq_driver_kick_data(r.driver, 0xabcd), 0x8001abcd);
	rig_close(&r);
}

/* N-DRV-024: packed: slot and wrap of the next descriptor not offered; N=3 full: 0, 0. */
static void test_kick_data_packed(void **state)
{
	static const struct shape shape = {
		.packed = true, .size = 3, .notification_data = true,
	};
	static const uint32_t next[] = { 0x8001, 0x8002, 0x0000, 0x0001, 0x0002, 0x8000 };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	assert_int_equal(virtq_driver_kick_data(r.driver, 5), 0x80000005);
	for (uint32_t i = 0; i < 6; i++) {
		rig_send(&r, 1);
		assert_int_equal(virtq_driver_kick_data(r.driver, 5), next[i] << 16 | 5);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
		assert_int_equal(virtq_driver_kick_data(r.driver, 5), next[i] << 16 | 5);
	}
	assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, token_of(0)), 1);
	assert_int_equal(virtq_driver_kick_data(r.driver, 5), 0x80000005);
	virtq_driver_publish(r.driver);
	rig_send(&r, 2);
	assert_int_equal(virtq_driver_kick_data(r.driver, 5), 0x00000005);
	rig_close(&r);
}

/* N-DRV-026: without the feature, the queue's number and nothing more. */
static void test_kick_data_without(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 1);
	assert_int_equal(virtq_driver_kick_data(r.driver, 0xbeef), 0xbeef);
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add_one(&m, "N-DRV-010 N-DEV-010 N-DEV-012 split event, neighbours at the wrap",
		       test_split_event_neighbours);
	matrix_add_one(&m, "N-DRV-010 N-DEV-010 split event, all 65536", test_split_event_sweep);
	matrix_add_one(&m, "N-DRV-014 a parked event comes round", test_parked_event_comes_round);
	matrix_add_one(&m, "N-DRV-018 N-DEV-016 packed event, all pairs, N=5",
		       test_packed_event_all_pairs);
	matrix_add_one(&m, "N-DRV-017 packed arm writes slot and wrap",
		       test_packed_arm_writes_position);
	matrix_add_one(&m, "S-DEV-038 areas without event words", test_areas_without_event_words);
	matrix_add(&m, "N-DRV-001 N-DEV-001 N-DRV-015 words stay legal", test_words_stay_legal,
		   ALSO_IN_ORDER);
	matrix_add(&m, "N-DRV-006 N-DEV-006 flags decide", test_flags_decide_without_event_idx,
		   ONLY_NO_EVENT);
	matrix_add(&m, "N-DRV-009 N-DEV-009 flag ignored", test_flag_ignored_with_event_idx,
		   ONLY_SPLIT | ONLY_EVENT);
	matrix_add(&m, "N-DRV-002 N-DEV-002 disarm and arm", test_disarm_and_arm, ALSO_IN_ORDER);
	matrix_add(&m, "N-DRV-012 N-DEV-014 what slips in is seen",
		   test_rearm_sees_what_slipped_in, ALSO_IN_ORDER);
	matrix_add(&m, "N-DRV-005 N-DEV-005 idle", test_idle, 0);
	matrix_add_one(&m, "N-DRV-023 N-DRV-025 kick data, split", test_kick_data_split);
	matrix_add_one(&m, "N-DRV-024 N-DRV-025 kick data, packed", test_kick_data_packed);
	matrix_add(&m, "N-DRV-026 kick data without the feature", test_kick_data_without,
		   NOT_HUGE);
	return matrix_run(&m, "notifications");
}
