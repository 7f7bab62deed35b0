/* SPDX-License-Identifier: MIT */
/*
 * Memory that a fuzzed device end can reach: a ring and some regions, each of
 * them an allocation of its own and of its exact size, so that the sanitizer
 * sees whatever lies outside.
 */
#ifndef TESTS_FUZZ_MEMORY_H
#define TESTS_FUZZ_MEMORY_H

#include <virtq/device.h>

#include "input.h"

/* Which region is which; the gaps between addresses are holes. */
enum {
	AREA_FIRST,		/* RW, from address 0, and next to it for the device: */
	AREA_SECOND,		/* RW, and next to it: */
	AREA_READ_ONLY,
	AREA_WRITE_ONLY,	/* alone */
	AREA_TABLES,		/* read-only, alone: for indirect tables */
	AREA_TOP,		/* RW, ends where the address space does: nothing follows it */
	AREA_DATA,		/* how many those are; behind them, if the ring can be reached: */
	AREA_DESC = AREA_DATA,
	AREA_DRIVER,
	AREA_DEVICE,
	AREA_COUNT,
};

#define TABLE_BYTES 4096u

struct area {
	uint8_t *host;
	uint64_t gpa;
	uint32_t bytes;
	unsigned int access;
};

/* One table of regions and its memory. Lives while it is in use or loans hold it. */
struct memory {
	struct area areas[AREA_COUNT];
	unsigned int area_count;	/* AREA_DATA or AREA_COUNT */
	struct virtq_ring ring;
	struct virtq_ring_shape shape;
	struct virtq_map *map;		/* the queue has its own reference */
	uint32_t loans;
	bool current;
};

/*
 * Memory for a ring of @features and @size. @bytes is the size of each data
 * region; @reach_ring makes the ring's areas regions as well. With @old its
 * contents are copied, at the same addresses and in new places.
 */
struct memory *memory_new(struct virtq_features features, uint32_t size, uint32_t bytes,
			  bool reach_ring, const struct memory *old);
void memory_free(struct memory *m);
/* Free it if nobody uses it any more. */
void memory_settle(struct memory *m);

/* Does @len bytes at @p lie in a region that grants @access? */
bool memory_grants(const struct memory *m, const void *p, size_t len, unsigned int access);

/* Where the device would find address @gpa, or NULL, and how many bytes follow it there. */
uint8_t *memory_at(const struct memory *m, uint64_t gpa, unsigned int access, uint64_t *follow);

/* Write by address, across regions whatever they grant; what is in no region is dropped. */
void memory_poke(const struct memory *m, uint64_t gpa, const void *src, size_t len);

#endif
