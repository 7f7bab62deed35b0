/* SPDX-License-Identifier: MIT */
/*
 * The layouts a ring can have. The exported functions in driver.c and device.c
 * switch on it once per call; everything below takes it as a constant.
 */
#ifndef VIRTQ_RING_LAYOUT_H
#define VIRTQ_RING_LAYOUT_H

#include <virtq/ring.h>

enum ring_layout {
	RING_SPLIT,
	RING_PACKED,
};

/* Which layout the negotiated features ask for (F-021). */
enum ring_layout ring_layout_of(struct virtq_features features);

/* Size, alignment and features of @ring, or -EINVAL and why. */
int ring_check(const struct virtq_ring *ring, struct virtq_error *err);

/*
 * Positions as transports encode them: see virtq_driver_position(). Where a
 * ring that nobody has used begins, and whether a ring can stand at @position.
 */
uint32_t ring_position_start(struct virtq_features features);
int ring_position_check(struct virtq_features features, uint32_t size, uint32_t position,
			struct virtq_error *err);

#endif
