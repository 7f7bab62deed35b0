/* SPDX-License-Identifier: MIT */
/*
 * Release and acquire, [A] and [B]: two threads, one at each end, exchange plain
 * memory through the ring, all of it built with ThreadSanitizer whatever the rest
 * of the build is. Where an order lacks, those accesses race, and that is seen on
 * any processor, if it would reorder them or not: S-DRV-028, S-DRV-031, S-DEV-020,
 * S-DEV-021, P-DRV-013, P-DRV-026, P-DEV-018, P-DEV-019.
 *
 * unorder.h takes each of the four out in turn, and the race has to be noticed.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "unorder.h"

#define SIZE 4u
#define DATA_GPA ((uint64_t)0x10000)
#define ROUNDS 20000u

unsigned int orders_removed;

/* ---- What ThreadSanitizer says -------------------------------------------- */

static unsigned int races;

VIRTQ_API const char *__tsan_default_options(void);
VIRTQ_API void __tsan_on_report(void *report);

/* Its words are not wanted, since races are expected here, but each is counted. */
const char *__tsan_default_options(void)
{
	return "log_path=/dev/null exitcode=0 suppress_equal_stacks=0 suppress_equal_addresses=0";
}

void __tsan_on_report(void *report)
{
	(void)report;
	__atomic_add_fetch(&races, 1, __ATOMIC_RELAXED);
}

/* ---- Two threads ----------------------------------------------------------- */

struct duel {
	struct virtq_driver *driver;
	struct virtq_device *device;
	uint64_t *cell;		/* plain memory: one word each way */
	unsigned int done;
};

static void *device_thread(void *arg)
{
	struct duel *d = arg;

	while (!__atomic_load_n(&d->done, __ATOMIC_RELAXED)) {
		struct virtq_req *req;

		if (virtq_device_pop(d->device, &req, 1) != 1) {
			sched_yield();
			continue;
		}
		((uint64_t *)req->wr.spans[0].base)[0] = ~((uint64_t *)req->rd.spans[0].base)[0];
		virtq_req_wrote(req, 8);
		virtq_device_push(d->device, &req, 1);
		virtq_device_publish(d->device);
	}
	return NULL;
}

/* Returns how many answers were wrong. */
static unsigned int drive(struct duel *d)
{
	struct virtq_seg segs[2] = { { DATA_GPA, 8 }, { DATA_GPA + 8, 8 } };
	struct virtq_buffer buf = { segs, 1, 1, d };
	unsigned int wrong = 0;

	for (uint64_t round = 0; round < ROUNDS; round++) {
		struct virtq_completion done;

		d->cell[0] = round;
		wrong += virtq_driver_add(d->driver, &buf, 1) != 1;
		virtq_driver_publish(d->driver);
		while (virtq_driver_get(d->driver, &done, 1) != 1)
			sched_yield();
		wrong += d->cell[1] != ~round || done.written != 8;
		if (__atomic_load_n(&races, __ATOMIC_RELAXED))
			break;
	}
	return wrong;
}

static void *zeroed(size_t bytes)
{
	size_t whole = (bytes + 63) / 64 * 64;
	void *p = aligned_alloc(64, whole);

	assert_non_null(p);
	memset(p, 0, whole);
	return p;
}

struct mode {
	bool packed, in_order;
};

/* The races seen in a run with these orders taken out. */
static unsigned int races_without(const struct mode *mode, unsigned int removed)
{
	struct virtq_features f = { { (uint64_t)1 << VIRTIO_F_VERSION_1, 0 } };
	struct virtq_region region = {
		.gpa = DATA_GPA, .size_bytes = 64, .fd = -1, .access = VIRTQ_ACCESS_RW,
	};
	struct virtq_driver_config drv = { 0 };
	struct virtq_device_config dev = { 0 };
	struct duel d = { 0 };
	struct virtq_ring_shape shape;
	struct virtq_map *map;
	unsigned int wrong;
	pthread_t thread;

	if (mode->packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (mode->in_order)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	assert_int_equal(virtq_ring_shape(f, SIZE, &shape), 0);
	d.cell = region.host = zeroed(64);
	assert_int_equal(virtq_map_create(&map, &region, 1, NULL), 0);
	drv.ring.features = f;
	drv.ring.size = SIZE;
	drv.ring.desc = zeroed(shape.desc_bytes);
	drv.ring.driver = zeroed(shape.driver_bytes);
	drv.ring.device = zeroed(shape.device_bytes);
	dev.ring = drv.ring;
	dev.map = map;
	assert_int_equal(virtq_driver_create(&d.driver, &drv, NULL), 0);
	assert_int_equal(virtq_device_create(&d.device, &dev, NULL), 0);
	orders_removed = removed;
	races = 0;
	assert_int_equal(pthread_create(&thread, NULL, device_thread, &d), 0);
	wrong = drive(&d);
	__atomic_store_n(&d.done, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	orders_removed = 0;
	/* x86 keeps these orders by itself: the answers are right all the same. */
	if (!removed)
		assert_int_equal(wrong, 0);
	virtq_driver_destroy(d.driver);
	virtq_device_destroy(d.device);
	virtq_map_unref(map);
	free(drv.ring.desc);
	free(drv.ring.driver);
	free(drv.ring.device);
	free(region.host);
	return races;
}

static void test_ordered(void **state)
{
	assert_int_equal(races_without(*state, 0), 0);
}

/* Each of the four, and the run after it is clean again. */
static void test_removal_is_noticed(void **state)
{
	static const struct { unsigned int order; const char *name; } cuts[] = {
		{ ORDER_A_RELEASE, "[A] release, driver end" },
		{ ORDER_A_ACQUIRE, "[A] acquire, device end" },
		{ ORDER_B_RELEASE, "[B] release, device end" },
		{ ORDER_B_ACQUIRE, "[B] acquire, driver end" },
	};

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		if (!races_without(*state, cuts[i].order))
			fail_msg("without %s: no race in %u rounds", cuts[i].name, ROUNDS);
		assert_int_equal(races_without(*state, 0), 0);
	}
}

int main(void)
{
	static struct mode modes[] = {
		{ false, false }, { true, false }, { false, true }, { true, true },
	};
	struct CMUnitTest tests[] = {
		{ "no race, split", test_ordered, NULL, NULL, &modes[0] },
		{ "no race, packed", test_ordered, NULL, NULL, &modes[1] },
		{ "no race, split in order", test_ordered, NULL, NULL, &modes[2] },
		{ "no race, packed in order", test_ordered, NULL, NULL, &modes[3] },
		{ "each order taken out is noticed, split", test_removal_is_noticed, NULL, NULL,
		  &modes[0] },
		{ "each order taken out is noticed, packed", test_removal_is_noticed, NULL, NULL,
		  &modes[1] },
		{ "each order taken out is noticed, split in order", test_removal_is_noticed, NULL,
		  NULL, &modes[2] },
		{ "each order taken out is noticed, packed in order", test_removal_is_noticed,
		  NULL, NULL, &modes[3] },
	};

	return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
