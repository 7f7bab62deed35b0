/* SPDX-License-Identifier: MIT */
/* The inside of a map: how an address from a descriptor becomes a pointer. */
#ifndef VIRTQ_MEM_MAP_H
#define VIRTQ_MEM_MAP_H

#include <errno.h>
#include <stdbool.h>

#include <virtq/mem.h>

#include "base/check.h"
#include "base/shm.h"

struct virtq_map {
	struct shm_refs refs;
	uint32_t count;
	/* Frees the map and what it holds; NULL for maps in the caller's memory. */
	void (*release)(struct virtq_map *map);
	struct virtq_region regions[];	/* sorted by gpa, disjoint */
};

/* Check @regions and lay them out in @map, which has room for them. */
int map_fill(struct virtq_map *map, const struct virtq_region *regions, unsigned int count,
	     struct virtq_error *err);

/* Has a peer taken away memory that the map reaches (guard.h)? */
bool map_lost(const struct virtq_map *map);

/* The region that holds address @gpa, or NULL. */
const struct virtq_region *map_find(const struct virtq_map *map, uint64_t gpa);

/*
 * One piece of memory, by value: what a look-up found, to be tried again for
 * the next address. All zeros cover nothing.
 */
struct mem_hit {
	uint64_t addr;
	/* Never 2^64: as much memory, from a pointer that is not NULL, there cannot be. */
	uint64_t size_bytes;
	uint8_t *host;
	unsigned int access;
};

/*
 * Does @hit hold all of @len bytes at @addr and grant @access? UNTRUSTED:
 * @addr and @len are the peer's. Written so that no sum can overflow.
 */
ALWAYS_INLINE bool hit_covers(const struct mem_hit *hit, uint64_t addr, uint64_t len,
			      unsigned int access)
{
	uint64_t off = addr - hit->addr;

	return off < hit->size_bytes && len <= hit->size_bytes - off &&
	       (hit->access & access) == access;
}

/*
 * The pointer for the first part of @len bytes at @gpa, and how long that part
 * is: up to the end of the region. 0, or -EFAULT if @gpa lies in no region or
 * the region denies @access; nothing is written then.
 */
int map_piece(const struct virtq_map *map, uint64_t gpa, uint64_t len, unsigned int access,
	      struct virtq_span *piece, struct mem_hit *hit);

#endif
