/* SPDX-License-Identifier: MIT */
/*
 * What every fuzz target has: the bytes that drive it, taken from the front,
 * little-endian access to memory, and a check that ends the program.
 *
 * An input that is used up gives zeros, and zero always means the ordinary
 * thing, so that a short input is a well-behaved run.
 */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer, or replay.c, calls it once for each input. Always 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever the peer does. */
#define FUZZ_CHECK(x) \
	do { \
		if (!(x)) { \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
			abort(); \
		} \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint64_t take_bytes(struct input *in, unsigned int bytes)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < bytes && in->left; i++) {
		v |= (uint64_t)*in->at++ << (8 * i);
		in->left--;
	}
	return v;
}

static inline uint8_t take8(struct input *in) { return (uint8_t)take_bytes(in, 1); }
static inline uint16_t take16(struct input *in) { return (uint16_t)take_bytes(in, 2); }
static inline uint32_t take32(struct input *in) { return (uint32_t)take_bytes(in, 4); }
static inline uint64_t take64(struct input *in) { return take_bytes(in, 8); }

/* 0..@limit - 1; one byte of the input if that is enough for it. */
static inline uint32_t take_below(struct input *in, uint32_t limit)
{
	if (limit < 2)
		return 0;
	return (limit <= 256 ? take8(in) : limit <= 65536 ? take16(in) : take32(in)) % limit;
}

/* True for one in 16: this time something is wrong. */
static inline bool take_odd(struct input *in)
{
	return take8(in) >= 0xf0;
}

/* A number near those that matter. */
static inline uint64_t take_number(struct input *in)
{
	static const uint64_t near[] = {
		0, 1, 2, 8, 15, 16, 17, 255, 4096, 0x7fff, 0x8000, 0xffff, 0x10000,
		INT32_MAX, UINT32_MAX, 0x100000000, INT64_MAX, UINT64_MAX, UINT64_MAX - 15,
	};
	uint8_t which = take8(in);

	if (which < sizeof(near) / sizeof(near[0]))
		return near[which];
	return which < 128 ? take8(in) : which < 192 ? take16(in) : which < 224 ? take32(in) :
	       take64(in);
}

/* ---- Little-endian memory. ---- */

static inline void put_le(void *p, uint64_t v, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		((uint8_t *)p)[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t get_le(const void *p, unsigned int bytes)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < bytes; i++)
		v |= (uint64_t)((const uint8_t *)p)[i] << (8 * i);
	return v;
}

#endif
