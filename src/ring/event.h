/* SPDX-License-Identifier: MIT */
/* When to notify: the arithmetic that both ends and both layouts share. */
#ifndef VIRTQ_RING_EVENT_H
#define VIRTQ_RING_EVENT_H

#include <stdbool.h>

#include <virtq/spec/ring.h>

#include "base/check.h"
#include "base/shm.h"

/* What one end has last told the other about notifications. */
enum event_wish {
	WISH_UNKNOWN,	/* nothing: whatever stands in the ring is somebody else's */
	WISH_ARMED,
	WISH_DISARMED,
};

/*
 * Did the index, moving from @old to @now, pass @event (2.7.7.2, 2.7.10.1)?
 * All modulo 2^16.
 */
ALWAYS_INLINE bool event_crossed(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/*
 * Packed (2.8.10): does the peer, whose event structure is @peer, want to hear
 * of the @moved slots that end before slot @now, whose lap has wrap bit @wrap?
 * More than @size says that nobody counted. UNTRUSTED: what cannot be is taken
 * for "yes", which costs a signal and never stalls.
 */
ALWAYS_INLINE bool packed_event_wanted(const struct pvirtq_event_suppress *peer,
				       bool event_idx, uint16_t now, bool wrap,
				       uint32_t moved, uint32_t size)
{
	/* One load of both halves: the flags and the offset they belong to. */
	const virtq_le32 *both = (const virtq_le32 *)(const void *)peer;
	uint32_t word = shm_load32(both);
	uint16_t off_wrap = (uint16_t)word, flags = (uint16_t)(word >> 16);
	uint16_t event = off_wrap & 0x7fff;

	if (flags == RING_EVENT_FLAGS_DISABLE)
		return false;
	if (flags != RING_EVENT_FLAGS_DESC || !event_idx || event >= size || moved > size)
		return true;
	/* A slot of the lap before: count it from where this lap begins. */
	if ((off_wrap >> 15) != wrap)
		event = (uint16_t)(event - size);
	return event_crossed(event, now, (uint16_t)(now - moved));
}

#endif
