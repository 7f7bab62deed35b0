/* SPDX-License-Identifier: MIT */
/* For the targets of both ends: a ring that the input chooses, and the text that a dump is. */
#include "ring.h"

#include <virtq/dump.h>

struct virtq_features take_features(uint8_t how)
{
	static const unsigned int bits[] = { VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER,
					     VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC };
	struct virtq_features f = virtq_features_with((struct virtq_features){ { 0, 0 } },
						      VIRTIO_F_VERSION_1);

	for (unsigned int i = 0; i < 4; i++)
		if (how & 1u << i)
			f = virtq_features_with(f, bits[i]);
	return f;
}

uint32_t take_size(struct input *in, bool packed, uint8_t code)
{
	if (packed)
		return code < 0xf0 ? 1 + code % 24 : 1 + take16(in) % 400;
	return 1u << (code < 0xf0 ? code % 6 : code % 10);
}

uint32_t take_position(struct input *in, bool packed, uint32_t size)
{
	uint16_t at = (uint16_t)take_number(in);

	if (!packed)
		return at;
	at = (uint16_t)((at & 0x7fff) % size | (at & 0x8000));
	return (uint32_t)at << 16 | at;
}

void stand_at(const struct virtq_ring *ring, uint32_t position)
{
	uint16_t at = (uint16_t)position;

	if (!virtq_features_has(ring->features, VIRTIO_F_RING_PACKED)) {
		put_le((uint8_t *)ring->driver + 2, at, 2);
		put_le((uint8_t *)ring->device + 2, at, 2);
		return;
	}
	/* Every slot is used: those from there on in the lap before. */
	for (uint32_t slot = 0; slot < ring->size; slot++) {
		bool wrap = (at >> 15) ^ (slot >= (at & 0x7fffu));

		put_le((uint8_t *)ring->desc + slot * 16 + 14, wrap ? SLOT_BITS : 0, 2);
	}
}

void count_line(void *arg, const char *text)
{
	++*(unsigned int *)arg;
	FUZZ_CHECK(strlen(text) <= VIRTQ_DUMP_COLUMNS && !strchr(text, '\n'));
}
