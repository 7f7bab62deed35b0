/* SPDX-License-Identifier: MIT */
/* What the classes of things to be spoiled, on either side, have in common. */
#ifndef REFERENCE_CORRUPT_H
#define REFERENCE_CORRUPT_H

#include "world.h"

void spoil_bits(struct world *w, uint64_t at, uint16_t bits);
/* The first byte of one part of a buffer; 0 if that is empty. */
uint64_t spoil_element_byte(const struct flight *f, bool writable);
/* A packed ring's event structure: bits of its place, which must count, and of its flags. */
bool spoil_event(struct world *w, uint64_t at, uint16_t place, uint16_t flags);
bool spoil_said_too_much(struct world *w, int *result, void *list);
bool spoil_said_too_little(struct world *w, int *result, void *list);

#endif
