/* SPDX-License-Identifier: MIT */
/* The inside of an IOTLB: how an I/O virtual address becomes a pointer. */
#ifndef VIRTQ_MEM_IOTLB_H
#define VIRTQ_MEM_IOTLB_H

#include <errno.h>
#include <stdbool.h>

#include <virtq/iotlb.h>

#include "base/check.h"

/*
 * One piece of memory, by value: what a look-up found, to be tried again for
 * the next address while iotlb_generation() is the same. All zeros covers nothing.
 */
struct iotlb_hit {
	uint64_t iova;
	/* Never 2^64: as much memory, from a pointer that is not NULL, there cannot be. */
	uint64_t size_bytes;
	uint8_t *host;
	unsigned int access;
};

struct iotlb_entry {
	struct iotlb_hit at;
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
 * Does @hit hold all of @len bytes at @iova and grant @access? UNTRUSTED:
 * @iova and @len are the peer's. Written so that no sum can overflow.
 */
ALWAYS_INLINE bool iotlb_hit_covers(const struct iotlb_hit *hit, uint64_t iova, uint64_t len,
				    unsigned int access)
{
	uint64_t off = iova - hit->iova;

	return off < hit->size_bytes && len <= hit->size_bytes - off &&
	       (hit->access & access) == access;
}

/*
 * The pointer for the first part of @len bytes at @iova, and how long that part
 * is: up to the end of the entry. 0; or, with nothing written, -EAGAIN if no
 * entry holds @iova, or -EACCES if the one that does denies @access.
 */
int iotlb_piece(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len, unsigned int access,
		struct virtq_span *piece, struct iotlb_hit *hit);

#endif
