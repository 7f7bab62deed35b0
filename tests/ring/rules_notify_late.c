/* SPDX-License-Identifier: MIT */
/* Notifications that come late on purpose, and those that carry data. */
#include "rig.h"

/* The first exchange of two new ends, after which both have decided once. */
static void warm_up(struct rig *r)
{
	rig_send(r, 1);
	rig_serve(r, 1);
	rig_collect(r, 1);
}

/*
 * N-DRV-013: asked to be called after six of eight, the driver is called then and
 * not before; without EVENT_IDX, where there is no index, at the first.
 */
static void test_call_after_some(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	warm_up(&r);
	for (uint32_t round = 0; round < 3 * shape->size / 8 + 2; round++) {
		uint32_t count = 1 + round % 8;

		rig_send(&r, 8);
		virtq_driver_disarm(r.driver);
		assert_int_equal(virtq_driver_arm_after(r.driver, count), 0);
		for (uint32_t i = 1; i <= 8; i++) {
			int call = rig_serve(&r, 1);

			assert_int_equal(call, shape->event_idx ? i == count : 1);
		}
		rig_collect(&r, 8);
		if (shape->size > 256 && round == 20)
			break;
	}
	rig_close(&r);
}

/* N-DRV-013: the rest in one publication: it passes the place, and calls once. */
static void test_call_after_some_in_one_go(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	warm_up(&r);
	for (int round = 0; round < 20; round++) {
		rig_send(&r, 8);
		assert_int_equal(virtq_driver_arm_after(r.driver, 6), 0);
		assert_int_equal(rig_serve(&r, 5), !shape->event_idx);
		assert_int_equal(rig_serve(&r, 3), 1);
		rig_collect(&r, 8);
	}
	rig_close(&r);
}

/* N-DRV-013: more than are in flight means the last of them; no call is waited for in vain. */
static void test_call_after_more_than_all(void **state)
{
	static const uint32_t counts[] = { 4, 5, 100, 32768, 65535, 65536, UINT32_MAX };
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	warm_up(&r);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		rig_send(&r, 4);
		assert_int_equal(virtq_driver_arm_after(r.driver, counts[i]), 0);
		assert_int_equal(rig_serve(&r, 3), !shape->event_idx);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 4);
	}
	rig_close(&r);
}

/*
 * N-DRV-013: the device came past the place, or only up to it, before it was
 * written: the driver is told that there is work, since the call may not come.
 */
static void test_overrun_is_seen(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	warm_up(&r);
	for (uint32_t used = 1; used <= 8; used++) {
		rig_send(&r, 8);
		virtq_driver_disarm(r.driver);
		rig_serve(&r, used);
		assert_int_equal(virtq_driver_arm_after(r.driver, 6), 1);
		rig_serve(&r, 8 - used);
		rig_collect(&r, 8);
	}
	rig_close(&r);
}

/* The value, by whatever end, as this ring's kicks carry it. */
static uint32_t kick_data(struct rig *r)
{
	return virtq_driver_kick_data(r->driver, 3);
}

/*
 * N-DEV-022: what the driver writes is a hint: any of 65536 places, most of them
 * not in the ring, changes nothing; what is not just where the device stands is
 * a reason to look, and looking takes what is there, not what was said.
 */
static void test_data_is_a_hint(void **state)
{
	const struct shape *shape = *state;
	struct snapshot s;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	warm_up(&r);
	for (uint32_t waiting = 0; waiting < 3; waiting++) {
		struct virtq_req *reqs[8];
		uint32_t at = virtq_device_position(r.device);
		uint32_t quiet = 0;

		for (uint32_t i = 0; i < waiting; i++)
			rig_send(&r, 1);
		s = snapshot_take(&r);
		for (uint32_t next = 0; next < 65536; next++) {
			int more = virtq_device_kicked(r.device, next << 16 | 3);

			assert_true(more == 0 || more == 1);
			if (!more) {
				quiet++;
				assert_int_equal(next, at & 0xffff);
			}
		}
		/* One place alone means "nothing behind you", and that is where it stands. */
		assert_int_equal(quiet, 1);
		snapshot_same(&r, &s);
		assert_int_equal(virtq_device_position(r.device), at);
		assert_int_equal(virtq_device_in_flight(r.device), 0);
		assert_int_equal(virtq_device_fault(r.device).code, VIRTQ_FAULT_NONE);
		assert_int_equal(virtq_device_pop(r.device, reqs, 8), waiting);
		virtq_device_push(r.device, reqs, waiting);
		virtq_device_publish(r.device);
		rig_collect(&r, waiting);
	}
	rig_close(&r);
}

/* N-DEV-022: honest data is worth having: it says whether there is something, at every place. */
static void test_honest_data(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < 2 * shape->size + 1; i++) {
		assert_int_equal(virtq_device_kicked(r.device, kick_data(&r)), 0);
		rig_send(&r, 1);
		assert_int_equal(virtq_device_kicked(r.device, kick_data(&r)), 1);
		assert_int_equal(virtq_device_kicked(r.device, kick_data(&r) ^ 0xffff), 1);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		assert_int_equal(virtq_device_kicked(r.device, kick_data(&r)), 0);
		virtq_device_push(r.device, &req, 1);
		virtq_device_publish(r.device);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

int main(void)
{
	struct shape eight[] = {
		{ .size = 8, .event_idx = true, .name = "split 8 event" },
		{ .size = 8, .name = "split 8" },
		{ .size = 16, .event_idx = true, .moved = true, .start = 65533,
		  .name = "split 16 event from 65533" },
		{ .packed = true, .size = 9, .event_idx = true, .name = "packed 9 event" },
		{ .packed = true, .size = 11, .name = "packed 11" },
		{ .packed = true, .size = 8, .event_idx = true, .moved = true, .start = 5,
		  .name = "packed 8 event mid-lap" },
		{ .size = 8, .event_idx = true, .in_order = true, .name = "split in order" },
		{ .packed = true, .size = 9, .event_idx = true, .in_order = true,
		  .name = "packed in order" },
	};
	struct shape data[] = {
		{ .size = 8, .name = "split" },
		{ .size = 8, .moved = true, .start = 65533, .name = "split from 65533" },
		{ .packed = true, .size = 8, .name = "packed 8" },
		{ .packed = true, .size = 11, .moved = true, .start = 7, .name = "packed mid-lap" },
	};
	struct matrix m = { 0 };

	for (size_t i = 0; i < sizeof(data) / sizeof(data[0]); i++)
		data[i].notification_data = true;
	matrix_add_shapes(&m, "N-DRV-013 a call after some", test_call_after_some, eight, 8);
	matrix_add_shapes(&m, "N-DRV-013 a call after some, in one go",
			  test_call_after_some_in_one_go, eight, 8);
	matrix_add_shapes(&m, "N-DRV-013 a call after more than all",
			  test_call_after_more_than_all, eight, 8);
	matrix_add_shapes(&m, "N-DRV-013 the overrun is seen", test_overrun_is_seen, eight, 8);
	matrix_add_shapes(&m, "N-DEV-022 data is a hint", test_data_is_a_hint, data, 4);
	matrix_add_shapes(&m, "N-DEV-022 honest data", test_honest_data, data, 4);
	return matrix_run(&m, "late notifications, and data in them");
}
