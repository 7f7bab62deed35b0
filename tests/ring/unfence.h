/* SPDX-License-Identifier: MIT */
/*
 * Put in front of the ring's own sources by the build of test-ring-unfenced:
 * the full fences of [C] and [D] can be taken out one by one, each known by the
 * function it stands in. A fence that this cannot name stays, and the test
 * that expects its absence to be noticed fails.
 */
#ifndef TESTS_RING_UNFENCE_H
#define TESTS_RING_UNFENCE_H

#include "base/shm.h"

#define FENCE_C_DRIVER 1u	/* ..._driver_needs_kick() */
#define FENCE_C_DEVICE 2u	/* ..._device_arm() */
#define FENCE_D_DEVICE 4u	/* ..._device_needs_call() */
#define FENCE_D_DRIVER 8u	/* ..._driver_arm() */

/* Which fences are out; set between runs only. */
extern unsigned int fences_removed;

#define IN(name) (!__builtin_strcmp(__func__, "split_" name) || \
		  !__builtin_strcmp(__func__, "packed_" name))
#define FENCE_HERE (IN("driver_needs_kick") ? FENCE_C_DRIVER : \
		    IN("device_arm") ? FENCE_C_DEVICE : \
		    IN("device_needs_call") ? FENCE_D_DEVICE : \
		    IN("driver_arm") ? FENCE_D_DRIVER : 0u)

#define UNLESS_REMOVED(fence, platform) \
	do { \
		if (fences_removed & FENCE_HERE) \
			__asm__ __volatile__("" ::: "memory"); \
		else \
			(fence)(platform); \
	} while (0)
#define shm_fence_kick(platform) UNLESS_REMOVED(shm_fence_kick, platform)
#define shm_fence_call(platform) UNLESS_REMOVED(shm_fence_call, platform)

#endif
