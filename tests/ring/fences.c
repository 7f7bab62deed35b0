/* SPDX-License-Identifier: MIT */
/*
 * Two threads, one at each end, that really sleep when arm() says they may and
 * wake only when the other end's publish() says so: no kick [C] and no call [D]
 * is ever lost. S-DRV-029, N-DEV-013, N-DEV-014, P-DRV-014, N-DEV-018, N-DEV-020,
 * N-DRV-012, N-DRV-022. The bytes that travel show [A] and [B] under TSan only; see
 * rules_order.c for those.
 *
 * How they sleep, and how a lost signal is found, is in bed.h.
 *
 * The same source, built as test-ring-unfenced with the ring's own sources and
 * unfence.h in front of them, takes the fences out, and fails unless that is
 * noticed.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "../sanitizers.h"
#include "bed.h"

#ifdef UNFENCED
#include "unfence.h"
unsigned int fences_removed;
#endif

#define SIZE 4u
#define DATA_GPA ((uint64_t)0x10000)

struct duel {
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct beds beds;
	uint64_t rounds;
	time_t until;				/* or until then */
	_Alignas(64) uint64_t driver_round, device_naps_total, wrong;
	uint64_t *cell;				/* the bytes that travel */
	unsigned int go;
};

static void *device_thread(void *arg)
{
	struct duel *d = arg;

	stay_on(1);
	start_together(&d->go);
	while (!load(&d->beds.stop)) {
		struct virtq_req *req;
		uint64_t value;

		if (virtq_device_pop(d->device, &req, 1) == 1) {
			/* [A]: the round's number was written before the buffer was shown. */
			if (virtq_req_read(req, &value, sizeof(value)) != sizeof(value))
				d->wrong++;
			value = ~value;
			virtq_req_write(req, &value, sizeof(value));
			virtq_device_push(d->device, &req, 1);
			if (virtq_device_publish(d->device))
				bed_wake(&d->beds, &d->beds.driver);
			continue;
		}
		if (virtq_device_arm(d->device))
			continue;
		bed_sleep(&d->beds, &d->beds.device);
		d->device_naps_total++;
		virtq_device_disarm(d->device);
	}
	return NULL;
}

static void drive(struct duel *d)
{
	struct virtq_seg segs[2] = { { DATA_GPA, 8 }, { DATA_GPA + 8, 8 } };
	struct virtq_buffer buf = { segs, 1, 1, d };

	for (d->driver_round = 0; d->driver_round < d->rounds; d->driver_round++) {
		struct virtq_completion done;

		if (d->driver_round % 256 == 0 && time(NULL) > d->until)
			break;

		d->cell[0] = d->driver_round;
		if (virtq_driver_add(d->driver, &buf, 1) != 1)
			d->wrong++;
		if (virtq_driver_publish(d->driver))
			bed_wake(&d->beds, &d->beds.device);
		while (virtq_driver_get(d->driver, &done, 1) != 1) {
			if (virtq_driver_arm(d->driver))
				continue;
			bed_sleep(&d->beds, &d->beds.driver);
			virtq_driver_disarm(d->driver);
			if (load(&d->beds.stop))
				return;
		}
		/* [B]: the answer was there before the buffer came back. */
		if (d->cell[1] != ~d->driver_round || done.written != 8)
			d->wrong++;
	}
}

struct mode {
	const char *name;
	bool packed, event_idx, platform;
};

static struct mode modes[] = {
	{ "split flags", false, false },
	{ "split event index", false, true },
	{ "packed flags", true, false },
	{ "packed event index", true, true },
	/* As for hardware: other barriers under the same letters. */
	{ "split, platform", false, true, true },
	{ "packed, platform", true, true, true },
};

struct result {
	bool lost_kick, lost_call;
	uint64_t rounds, naps;
};

static void *zeroed(size_t bytes)
{
	size_t whole = (bytes + 63) / 64 * 64;
	void *p = aligned_alloc(64, whole);

	assert_non_null(p);
	memset(p, 0, whole);
	return p;
}

/* Run until @rounds are done, a signal is lost, or @seconds are over. */
static struct result duel(const struct mode *mode, uint64_t rounds, time_t seconds)
{
	struct virtq_features f = { { (uint64_t)1 << VIRTIO_F_VERSION_1, 0 } };
	struct virtq_region region = {
		.gpa = DATA_GPA, .size_bytes = 64, .fd = -1, .access = VIRTQ_ACCESS_RW,
	};
	struct virtq_driver_config drv = { 0 };
	struct virtq_device_config dev = { 0 };
	struct virtq_ring_shape shape;
	struct virtq_completion done;
	struct duel *d = zeroed(sizeof(*d));
	struct result result = { 0 };
	struct virtq_map *map;
	struct virtq_req *req;
	pthread_t thread;

	if (mode->packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (mode->event_idx)
		f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (mode->platform)
		f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	assert_int_equal(virtq_ring_shape(f, SIZE, &shape), 0);
	region.host = zeroed(64);
	d->cell = region.host;
	assert_int_equal(virtq_map_create(&map, &region, 1, NULL), 0);
	drv.ring.features = f;
	drv.ring.size = SIZE;
	drv.ring.desc = zeroed(shape.desc_bytes);
	drv.ring.driver = zeroed(shape.driver_bytes);
	drv.ring.device = zeroed(shape.device_bytes);
	dev.ring = drv.ring;
	dev.map = map;
	assert_int_equal(virtq_driver_create(&d->driver, &drv, NULL), 0);
	assert_int_equal(virtq_device_create(&d->device, &dev, NULL), 0);
	d->rounds = rounds;
	d->until = time(NULL) + seconds;

	assert_int_equal(pthread_create(&thread, NULL, device_thread, d), 0);
	stay_on(0);
	start_together(&d->go);
	drive(d);
	bed_stop(&d->beds);
	pthread_join(thread, NULL);
	assert_int_equal(d->wrong, 0);
	result.rounds = d->driver_round;
	result.naps = d->device_naps_total;
	if (d->beds.lost) {
		/* What waits in the ring says which signal it was. */
		result.lost_kick = virtq_device_pop(d->device, &req, 1) == 1;
		result.lost_call = virtq_driver_get(d->driver, &done, 1) == 1;
		/* Exactly one: a detector that cries without work in the ring is wrong itself. */
		assert_true(result.lost_kick != result.lost_call);
	}
	virtq_driver_destroy(d->driver);
	virtq_device_destroy(d->device);
	virtq_map_unref(map);
	free(drv.ring.desc);
	free(drv.ring.driver);
	free(drv.ring.device);
	free(region.host);
	free(d);
	return result;
}

#define SANITIZED (UNDER_ASAN || UNDER_TSAN)

#define SECONDS 8

#ifndef UNFENCED

#define ROUNDS_MIN 1000

#if SANITIZED
#define ROUNDS 30000
#else
#define ROUNDS 3000000
#endif

static void test_nothing_is_lost(void **state)
{
	const struct mode *mode = *state;
	struct result r = duel(mode, ROUNDS, SECONDS);

	if (r.lost_kick || r.lost_call)
		fail_msg("%s: a %s was lost in round %llu", mode->name,
			 r.lost_kick ? "kick" : "call", (unsigned long long)r.rounds);
	/* On a busy machine the time is over first; a hang would show as no rounds. */
	assert_true(r.rounds > ROUNDS_MIN);
	/* If nobody ever slept the test proves nothing. */
	assert_true(r.naps > 0);
}

int main(void)
{
	struct CMUnitTest tests[] = {
		{ "no kick and no call is lost, split flags", test_nothing_is_lost, NULL, NULL,
		  &modes[0] },
		{ "no kick and no call is lost, split event index", test_nothing_is_lost, NULL,
		  NULL, &modes[1] },
		{ "no kick and no call is lost, packed flags", test_nothing_is_lost, NULL, NULL,
		  &modes[2] },
		{ "no kick and no call is lost, packed event index", test_nothing_is_lost, NULL,
		  NULL, &modes[3] },
		{ "no kick and no call is lost, split, platform", test_nothing_is_lost, NULL, NULL,
		  &modes[4] },
		{ "no kick and no call is lost, packed, platform", test_nothing_is_lost, NULL,
		  NULL, &modes[5] },
	};

	sched_getaffinity(0, sizeof(processors), &processors);
	return cmocka_run_group_tests_name("fences", tests, NULL, NULL);
}

#else

/* How long to look for a loss before it counts as not noticed. */
#define LIMIT_ROUNDS 20000000u
#define LIMIT_SECONDS 60

static const struct {
	const char *name;
	unsigned int removed;
	bool kick;
} cuts[] = {
	{ "[C] at both ends", FENCE_C_DRIVER | FENCE_C_DEVICE, true },
	{ "[C] at the driver end", FENCE_C_DRIVER, true },
	{ "[C] at the device end", FENCE_C_DEVICE, true },
	{ "[D] at both ends", FENCE_D_DEVICE | FENCE_D_DRIVER, false },
	{ "[D] at the device end", FENCE_D_DEVICE, false },
	{ "[D] at the driver end", FENCE_D_DRIVER, false },
};

/* Without the fence a signal is lost, and it is the kind that the fence protects. */
static void test_removal_is_noticed(void **state)
{
	const struct mode *mode = *state;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		time_t start = time(NULL);
		struct result r = { 0 };
		uint64_t rounds = 0;

		fences_removed = cuts[i].removed;
		while (!r.lost_kick && !r.lost_call && rounds < LIMIT_ROUNDS &&
		       time(NULL) - start < LIMIT_SECONDS) {
			r = duel(mode, 100000, LIMIT_SECONDS);
			rounds += r.rounds;
		}
		fences_removed = 0;
		if (!r.lost_kick && !r.lost_call)
			fail_msg("%s, without %s: nothing lost in %llu rounds", mode->name,
				 cuts[i].name, (unsigned long long)rounds);
		assert_int_equal(r.lost_kick, cuts[i].kick);
		print_message("# %s, without %s: a %s was lost in round %llu\n", mode->name,
			      cuts[i].name, r.lost_kick ? "kick" : "call",
			      (unsigned long long)rounds);
	}
}

/* The same build with all fences in place loses nothing. */
static void test_all_in_place(void **state)
{
	for (size_t i = 0; i < 4; i++) {
		struct result r = duel(&modes[i], 100000, SECONDS);

		assert_false(r.lost_kick || r.lost_call);
	}
	(void)state;
}

int main(void)
{
	struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_in_place),
		{ "each removed fence is noticed, split flags", test_removal_is_noticed, NULL,
		  NULL, &modes[0] },
		{ "each removed fence is noticed, split event index", test_removal_is_noticed,
		  NULL, NULL, &modes[1] },
		{ "each removed fence is noticed, packed flags", test_removal_is_noticed, NULL,
		  NULL, &modes[2] },
		{ "each removed fence is noticed, packed event index", test_removal_is_noticed,
		  NULL, NULL, &modes[3] },
	};

#if SANITIZED
	printf("skipped: a sanitizer's own code between store and load closes the window\n");
	return 77;
#endif
	if (getenv("VIRTQ_TEST_EMULATED")) {
		printf("skipped: an emulated processor need not reorder what a fence forbids\n");
		return 77;
	}
	if (sched_getaffinity(0, sizeof(processors), &processors) || CPU_COUNT(&processors) < 2) {
		printf("skipped: two processors are needed to lose a signal\n");
		return 77;
	}
	return cmocka_run_group_tests_name("fences removed", tests, NULL, NULL);
}

#endif
