/* SPDX-License-Identifier: MIT */
/*
 * The layouts a ring can have. The exported functions of both ends switch on
 * it once per call; everything below takes it as a constant.
 */
#ifndef VIRTQ_RING_LAYOUT_H
#define VIRTQ_RING_LAYOUT_H

#include <virtq/ring.h>

#include "base/check.h"

enum ring_layout {
	RING_SPLIT,
	RING_PACKED,
	RING_SPLIT_IN_ORDER,
	RING_PACKED_IN_ORDER,
};

#define LAYOUT_IS_PACKED(layout) \
	((layout) == RING_PACKED || (layout) == RING_PACKED_IN_ORDER)
#define LAYOUT_IS_IN_ORDER(layout) \
	((layout) == RING_SPLIT_IN_ORDER || (layout) == RING_PACKED_IN_ORDER)

/*
 * An operation on rings: @body, an always-inlined function that takes the
 * layout as its last argument, becomes one function for each layout, in which
 * that is a constant. LAYOUT_CALL picks the one for a queue.
 */
#define LAYOUT_EACH(body, parameters, ...) \
	NEVER_INLINE static int body##_split parameters \
	{ return body(__VA_ARGS__, RING_SPLIT); } \
	NEVER_INLINE static int body##_packed parameters \
	{ return body(__VA_ARGS__, RING_PACKED); } \
	NEVER_INLINE static int body##_split_in_order parameters \
	{ return body(__VA_ARGS__, RING_SPLIT_IN_ORDER); } \
	NEVER_INLINE static int body##_packed_in_order parameters \
	{ return body(__VA_ARGS__, RING_PACKED_IN_ORDER); }

#define LAYOUT_CALL(layout, body, ...) \
	switch (layout) { \
	case RING_SPLIT: return body##_split(__VA_ARGS__); \
	case RING_PACKED: return body##_packed(__VA_ARGS__); \
	case RING_SPLIT_IN_ORDER: return body##_split_in_order(__VA_ARGS__); \
	case RING_PACKED_IN_ORDER: return body##_packed_in_order(__VA_ARGS__); \
	} \
	__builtin_unreachable()

/* No chain may hold more bytes (2.7.5.2). */
#define MAX_CHAIN_BYTES ((uint64_t)1 << 32)

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
