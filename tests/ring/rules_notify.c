/* SPDX-License-Identifier: MIT */
/* Notifications: rules that notify.c, fences.c and rules_access.c leave. */
#include "rig.h"

/*
 * N-DRV-004, N-DEV-004: arming writes the place where this end is into its
 * event word, at every index of a run over the wrap of 65536.
 */
static void test_arm_writes_where_it_is(void **state)
{
	static const struct shape shape = {
		.size = 4, .event_idx = true, .moved = true, .start = 65500,
	};
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	for (uint32_t i = 0; i < 100; i++) {
		uint16_t at = (uint16_t)(65500 + i);

		virtq_driver_disarm(r.driver);
		virtq_device_disarm(r.device);
		assert_int_not_equal(get16(used_event(&r)), at);
		assert_int_not_equal(get16(avail_event(&r)), at);
		assert_int_equal(virtq_driver_arm(r.driver), 0);
		assert_int_equal(virtq_device_arm(r.device), 0);
		assert_int_equal(get16(used_event(&r)), at);
		assert_int_equal(get16(avail_event(&r)), at);
		assert_int_equal(rig_send(&r, 1), 1);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/*
 * N-DRV-005, N-DEV-005: looked at a thousand times with nothing there, as after
 * notifications that mean nothing, either end writes nothing and goes on.
 */
static void test_signals_for_nothing(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *req;
	struct snapshot s;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 1);
	rig_serve(&r, 1);
	rig_collect(&r, 1);
	s = snapshot_take(&r);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
		assert_int_equal(virtq_device_publish(r.device), 0);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
		assert_int_equal(virtq_driver_publish(r.driver), 0);
	}
	snapshot_same(&r, &s);
	assert_int_equal(virtq_device_fault(r.device).code, VIRTQ_FAULT_NONE);
	assert_int_equal(virtq_driver_fault(r.driver).code, VIRTQ_FAULT_NONE);
	rig_send(&r, 1);
	rig_serve(&r, 1);
	rig_collect(&r, 1);
	rig_close(&r);
}

/*
 * N-DEV-012: a device that goes on at base 500 with an event word from long ago,
 * at every distance, calls at its first publication, and decides from then on.
 */
static void test_first_call_after_restart(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	for (uint32_t event = 0; event < 65536; event += 257) {
		uint16_t stale = shape->packed ? (uint16_t)(event % shape->size | (event & 0x8000)) :
						 (uint16_t)event;
		uint32_t at;

		rig_open(&r, shape, RIG_BOTH);
		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
		at = virtq_device_position(r.device);
		virtq_device_destroy(r.device);
		r.device_config.position = &at;
		assert_int_equal(virtq_device_create(&r.device, &r.device_config, NULL), 0);
		rig_send(&r, 2);
		put16(shape->packed ? r.driver_area.driver : used_event(&r), stale);
		if (shape->packed)
			put16(r.driver_area.driver + 2, RING_EVENT_FLAGS_DESC);
		assert_int_equal(rig_serve(&r, 1), 1);
		/* Just behind: nothing more until it comes round. */
		put16(shape->packed ? r.driver_area.driver : used_event(&r),
		      (uint16_t)shape->start);
		assert_int_equal(rig_serve(&r, 1), 0);
		rig_close(&r);
	}
}

int main(void)
{
	struct shape at_500[2] = {
		{ .size = 8, .event_idx = true, .moved = true, .start = 500, .name = "split, 500" },
		{ .packed = true, .size = 1000, .event_idx = true, .moved = true, .start = 500,
		  .name = "packed, 500" },
	};
	struct matrix m = { 0 };

	matrix_add_one(&m, "N-DRV-004 N-DEV-004 arm writes where it is",
		       test_arm_writes_where_it_is);
	matrix_add(&m, "N-DRV-005 N-DEV-005 signals for nothing", test_signals_for_nothing,
		   ALSO_IN_ORDER);
	matrix_add_shapes(&m, "N-DEV-012 first call after a restart",
			  test_first_call_after_restart, at_500, 2);
	return matrix_run(&m, "rules of notifications");
}
