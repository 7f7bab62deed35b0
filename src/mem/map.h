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
 * Does @region hold all of @len bytes at @gpa and grant @access? UNTRUSTED:
 * @gpa and @len are the peer's. Written so that no sum can overflow.
 */
ALWAYS_INLINE bool region_covers(const struct virtq_region *region, uint64_t gpa,
				 uint64_t len, unsigned int access)
{
	uint64_t off = gpa - region->gpa;

	return off < region->size_bytes && len <= region->size_bytes - off &&
	       (region->access & access) == access;
}

/*
 * The pointer for the first part of @len bytes at @gpa, and how long that part
 * is: up to the end of the region. 0, or -EFAULT if @gpa lies in no region or
 * the region denies @access.
 */
int map_piece(const struct virtq_map *map, uint64_t gpa, uint64_t len, unsigned int access,
	      struct virtq_span *piece, const struct virtq_region **region);

#endif
