/* SPDX-License-Identifier: MIT */
/* The inside of an IOTLB: how an I/O virtual address becomes a pointer. */
#ifndef VIRTQ_MEM_IOTLB_H
#define VIRTQ_MEM_IOTLB_H

#include <errno.h>
#include <stdbool.h>

#include <virtq/iotlb.h>

#include "base/check.h"
#include "mem/map.h"

struct iotlb_entry {
	struct mem_hit at;
	uint64_t updated;	/* the generation that brought it */
};

struct virtq_iotlb {
	uint64_t generation;
	uint32_t count, capacity;
	struct iotlb_entry entries[];	/* sorted by iova, disjoint */
};

/*
 * Changes with every update and every invalidation, also with one that found
 * nothing: what it takes back may have been forgotten here and still be in use
 * as a hit or a pointer elsewhere.
 */
ALWAYS_INLINE uint64_t iotlb_generation(const struct virtq_iotlb *tlb)
{
	return tlb->generation;
}

/*
 * The pointer for the first part of @len bytes at @iova, and how long that part
 * is: up to the end of the entry. 0; or, with nothing written, -EAGAIN if no
 * entry holds @iova, or -EACCES if the one that does denies @access.
 */
int iotlb_piece(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len, unsigned int access,
		struct virtq_span *piece, struct mem_hit *hit);

#endif
