/* SPDX-License-Identifier: MIT */
/* For the targets of both ends: a ring that the input chooses, and the text that a dump is. */
#ifndef TESTS_FUZZ_RING_H
#define TESTS_FUZZ_RING_H

#include <virtq/ring.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#include "input.h"

/* Of a packed ring's slot. */
#define SLOT_BITS (1u << VIRTQ_DESC_F_AVAIL | 1u << VIRTQ_DESC_F_USED)

/* By the bits of @how: 1 packed, 2 in order, 4 event index, 8 indirect tables. */
struct virtq_features take_features(uint8_t how);
/* Large rings cost time and bring nothing: 32768 entries are in tests/ring. */
uint32_t take_size(struct input *in, bool packed, uint8_t code);
/* Where a ring that nobody uses might stand: at the same place for both sides. */
uint32_t take_position(struct input *in, bool packed, uint32_t size);
/* Make the ring as a quiet one that stands there holds it. */
void stand_at(const struct virtq_ring *ring, uint32_t position);

/* A virtq_dump_fn; @arg counts the lines, an unsigned int. */
void count_line(void *arg, const char *text);

#endif
