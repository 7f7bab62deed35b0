/* SPDX-License-Identifier: MIT */
/*
 * The life of one queue at the ring: it is stopped before anything is taken
 * back, everything comes back once, and what is made anew starts at the start.
 */
#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

static void make_both_writable(struct rig *r)
{
	int both = PROT_READ | PROT_WRITE;

	piece_protect(&r->desc, both, both);
	piece_protect(&r->driver_area, both, both);
	piece_protect(&r->device_area, both, both);
}

/* L-028: what the device may hold is not given back before the queue was stopped. */
static void test_no_detach_while_live(void **state)
{
	const struct shape *shape = *state;
	struct snapshot s;
	struct rig r;
	void *token = &r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 2);
	for (int i = 0; i < 3; i++) {
		s = snapshot_take(&r);
		assert_int_equal(virtq_driver_detach(r.driver, &token), -EBUSY);
		assert_ptr_equal(token, &r);
		assert_int_equal(virtq_driver_in_flight(r.driver), 2);
		snapshot_same(&r, &s);
	}
	/* A refusal changes nothing: the queue works on. */
	rig_serve(&r, 2);
	rig_collect(&r, 2);
	/* Stopped, and then published again: live again. */
	virtq_driver_stop(r.driver);
	rig_send(&r, 1);
	assert_int_equal(virtq_driver_detach(r.driver, &token), -EBUSY);
	virtq_driver_stop(r.driver);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
	assert_ptr_equal(token, token_of(0));
	rig_close(&r);
}

/*
 * L-036: five in flight, of which the device had used two (in order: the first
 * two), popped one more, and one is only staged: each comes back exactly once.
 */
static void test_each_comes_back_once(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req *reqs[3];
	unsigned int back[5] = { 0 };
	struct rig r;
	void *token;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 4);
	assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, token_of(4)), 1);
	assert_int_equal(virtq_device_pop(r.device, reqs, 3), 3);
	virtq_device_push(r.device, reqs, 2);
	virtq_device_publish(r.device);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	back[token_value(done.token)]++;
	virtq_driver_stop(r.driver);
	/* What was used before the stop is still got as used. */
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	back[token_value(done.token)]++;
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
		assert_true(token_value(token) < 5);
		back[token_value(token)]++;
	}
	for (int i = 0; i < 5; i++)
		assert_int_equal(back[i], 1);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 0);
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	rig_close(&r);
}

/* The whole of an area is 0. */
static void assert_zero(const uint8_t *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(at[i], 0);
}

/*
 * L-030, L-037: reset in mid-lap, with both ends armed far from the start and
 * requests on loan: the new ends begin at index 0, wrap counters 1, with no
 * notification suppressed and no old event word in force, and run three laps.
 */
static void test_reset_starts_at_the_start(void **state)
{
	const struct shape *shape = *state;
	uint32_t laps = 3 * (shape->size > 256 ? 4 : shape->size);
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < shape->size / 2 + 1; i++) {
		virtq_driver_arm(r.driver);
		virtq_device_arm(r.device);
		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
	}
	virtq_driver_arm(r.driver);
	virtq_device_arm(r.device);
	if (shape->size > 1) {
		virtq_driver_disarm(r.driver);
		virtq_device_disarm(r.device);
	}
	rig_send(&r, 1);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);

	virtq_driver_destroy(r.driver);
	virtq_device_destroy(r.device);
	make_both_writable(&r);
	assert_int_equal(virtq_driver_create(&r.driver, &r.driver_config, NULL), 0);
	assert_zero(r.driver_area.driver, r.driver_area.bytes);
	assert_zero(r.device_area.driver, r.device_area.bytes);
	if (shape->packed)
		for (uint32_t i = 0; i < shape->size; i++)
			assert_int_equal(get16(r.desc.driver + 16 * (size_t)i + 14), 0);
	assert_int_equal(virtq_device_create(&r.device, &r.device_config, NULL), 0);
	assert_int_equal(virtq_driver_position(r.driver), shape->packed ? 0x80008000u : 0);
	assert_int_equal(virtq_device_position(r.device), shape->packed ? 0x80008000u : 0);
	assert_int_equal(virtq_device_in_flight(r.device), 0);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	for (uint32_t i = 0; i < laps; i++) {
		/* Nobody has armed or disarmed anything: the first is signalled. */
		assert_int_equal(rig_send(&r, 1), i == 0 || !shape->event_idx || shape->packed);
		assert_int_equal(rig_serve(&r, 1), i == 0 || !shape->event_idx || shape->packed);
		rig_collect(&r, 1);
	}
	/* Armed anew, at the place where the new ring is. */
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(virtq_driver_arm(r.driver), 0);
		assert_int_equal(virtq_device_arm(r.device), 0);
		assert_int_equal(rig_send(&r, 1), 1);
		assert_int_equal(rig_serve(&r, 1), 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/*
 * L-030, L-033: the ring memory is used again for a ring of another size and
 * with its areas elsewhere; nothing of the old one shows.
 */
static void test_another_size_in_the_same_memory(void **state)
{
	const struct shape *shape = *state;
	struct virtq_ring_shape small;
	struct virtq_driver_config drv;
	struct virtq_device_config dev;
	uint32_t size = shape->size / 4;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < shape->size + 3; i++) {
		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
	}
	rig_send(&r, 5);
	virtq_driver_destroy(r.driver);
	virtq_device_destroy(r.device);
	make_both_writable(&r);
	assert_int_equal(virtq_ring_shape(shape_features(shape), size, &small), 0);
	drv = r.driver_config;
	dev = r.device_config;
	/* All three areas in what was the descriptor area, the descriptors last. */
	drv.ring.size = dev.ring.size = size;
	drv.ring.driver = r.desc.driver;
	drv.ring.device = r.desc.driver + small.driver_offset;
	drv.ring.desc = r.desc.driver + r.desc.bytes - small.desc_bytes;
	dev.ring.driver = r.desc.device;
	dev.ring.device = r.desc.device + small.driver_offset;
	dev.ring.desc = r.desc.device + r.desc.bytes - small.desc_bytes;
	assert_int_equal(virtq_driver_create(&r.driver, &drv, NULL), 0);
	assert_int_equal(virtq_device_create(&r.device, &dev, NULL), 0);
	assert_int_equal(virtq_driver_room(r.driver), size);
	for (uint32_t i = 0; i < 3; i++) {
		rig_send(&r, size);
		assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, NULL), -ENOSPC);
		rig_serve(&r, size);
		rig_collect(&r, size);
	}
	rig_close(&r);
}

/*
 * L-029: requests that were on loan when the device end was made anew belong to
 * nothing any more: destroying the end with them on loan writes no byte.
 */
static void test_loans_die_with_the_queue(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[2];
	struct snapshot s;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 2);
	assert_int_equal(virtq_device_pop(r.device, reqs, 2), 2);
	virtq_device_push(r.device, reqs, 1);	/* staged, never published */
	s = snapshot_take(&r);
	virtq_device_destroy(r.device);
	r.device = NULL;
	/* In a packed ring what is staged may stand in memory; what shows it may not. */
	snapshot_same(&r, &s);
	assert_int_equal(virtq_driver_get(r.driver, &(struct virtq_completion){ 0 }, 1), 0);
	rig_close(&r);
}

/* L-050: queue numbers up to 65535 go through the ring's own interface. */
static void test_any_queue_number(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 1);
	for (uint32_t vq = 0; vq < 65536; vq++)
		assert_int_equal(virtq_driver_kick_data(r.driver, (uint16_t)vq) & 0xffff, vq);
	rig_close(&r);
}

int main(void)
{
	struct shape data[2] = {
		{ .size = 8, .notification_data = true, .name = "split" },
		{ .packed = true, .size = 8, .notification_data = true, .name = "packed" },
	};
	struct matrix m = { 0 };

	matrix_add(&m, "L-028 no detach while live", test_no_detach_while_live,
		   AT_LEAST_2 | ALSO_IN_ORDER);
	matrix_add(&m, "L-036 each comes back once", test_each_comes_back_once,
		   AT_LEAST_5 | ALSO_IN_ORDER);
	matrix_add(&m, "L-030 L-037 reset starts at the start", test_reset_starts_at_the_start,
		   ONLY_NEW | ALSO_IN_ORDER);
	matrix_add(&m, "L-030 L-033 another size in the same memory",
		   test_another_size_in_the_same_memory,
		   AT_LEAST_256 | NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "L-029 loans die with the queue", test_loans_die_with_the_queue,
		   AT_LEAST_2 | ALSO_IN_ORDER);
	matrix_add(&m, "L-050 any queue number", test_any_queue_number, ONLY_NEW | NOT_HUGE);
	matrix_add_shapes(&m, "L-050 any queue number", test_any_queue_number, data, 2);
	return matrix_run(&m, "rules of a queue's life");
}
