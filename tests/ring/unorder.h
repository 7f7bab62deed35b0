/* SPDX-License-Identifier: MIT */
/*
 * Put in front of the ring's own sources by the build of test-ring-rules-order:
 * the release and the acquire of [A] and [B] can be taken out one by one, each
 * known by the end whose function it stands in. An order that this cannot name
 * stays, and the test that expects its absence to be noticed fails.
 */
#ifndef TESTS_RING_UNORDER_H
#define TESTS_RING_UNORDER_H

#include "base/shm.h"

#define ORDER_A_RELEASE 1u	/* the driver publishes */
#define ORDER_A_ACQUIRE 2u	/* the device observes */
#define ORDER_B_RELEASE 4u	/* the device publishes */
#define ORDER_B_ACQUIRE 8u	/* the driver observes */

/* Which orders are out; set between runs only. */
extern unsigned int orders_removed;

#define AT_DRIVER (__builtin_strstr(__func__, "driver") != NULL)

static inline void unordered_publish(virtq_le16 *p, uint16_t v, bool platform, unsigned int order)
{
	if (orders_removed & order)
		shm_store16(p, v);
	else
		shm_publish16(p, v, platform);
}

static inline uint16_t unordered_observe(const virtq_le16 *p, bool platform, unsigned int order)
{
	return orders_removed & order ? shm_load16(p) : shm_observe16(p, platform);
}

#define shm_publish16(p, v, platform) \
	unordered_publish(p, v, platform, AT_DRIVER ? ORDER_A_RELEASE : ORDER_B_RELEASE)
#define shm_observe16(p, platform) \
	unordered_observe(p, platform, AT_DRIVER ? ORDER_B_ACQUIRE : ORDER_A_ACQUIRE)

#endif
