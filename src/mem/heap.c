/* SPDX-License-Identifier: MIT */
/* Tables of translations on the heap, for programs that have one. */
#include <stdlib.h>

#include "base/error.h"
#include "mem/iotlb.h"

int virtq_iotlb_create(struct virtq_iotlb **out, uint32_t entries, struct virtq_error *err)
{
	size_t bytes = virtq_iotlb_bytes(entries);
	void *memory;

	if (!bytes)
		return error_set(err, -EINVAL, "an IOTLB of %u entries cannot be, only of 1 to %u",
				 entries, VIRTQ_IOTLB_ENTRIES_MAX);
	memory = malloc(bytes);
	if (!memory)
		return error_set(err, -ENOMEM, "no memory for an IOTLB of %u entries", entries);
	return virtq_iotlb_init(memory, out, entries);
}

void virtq_iotlb_destroy(struct virtq_iotlb *tlb)
{
	free(tlb);
}
