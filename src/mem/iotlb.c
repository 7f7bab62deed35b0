/* SPDX-License-Identifier: MIT */
/*
 * A table of translations that come and go: a sorted array of disjoint pieces.
 * No heap and no system calls here.
 *
 * Ranges inside are closed, [first, last], so that the last address there is
 * can be in one.
 */
#include "mem/iotlb.h"

#include <string.h>

/* ---- Set-up ------------------------------------------------------------- */

size_t virtq_iotlb_bytes(uint32_t entries)
{
	if (!entries || entries > VIRTQ_IOTLB_ENTRIES_MAX)
		return 0;
	return sizeof(struct virtq_iotlb) + entries * sizeof(struct iotlb_entry);
}

int virtq_iotlb_init(void *memory, struct virtq_iotlb **out, uint32_t entries)
{
	struct virtq_iotlb *tlb = memory;

	if (!virtq_iotlb_bytes(entries))
		return -EINVAL;
	tlb->generation = 0;
	tlb->count = 0;
	tlb->capacity = entries;
	*out = tlb;
	return 0;
}

/* ---- Looking up --------------------------------------------------------- */

static uint64_t last_of(const struct mem_hit *at)
{
	return at->addr + (at->size_bytes - 1);
}

/* The slot of the first entry that ends at or behind @iova; the count if none does. */
static uint32_t find(const struct virtq_iotlb *tlb, uint64_t iova)
{
	uint32_t low = 0, high = tlb->count;

	/* Invariant: entries below low end before iova, those from high on do not. */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (last_of(&tlb->entries[mid].at) < iova)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int iotlb_piece(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len, unsigned int access,
		struct virtq_span *piece, struct mem_hit *hit)
{
	uint32_t slot = find(tlb, iova);
	const struct mem_hit *at = &tlb->entries[slot].at;
	uint64_t off, left;

	if (slot == tlb->count || at->addr > iova)
		return -EAGAIN;
	if ((at->access & access) != access)
		return -EACCES;
	off = iova - at->addr;
	left = at->size_bytes - off;
	piece->base = at->host + off;
	piece->len = (size_t)(len < left ? len : left);
	*hit = *at;
	return 0;
}

int virtq_iotlb_ptr(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len,
		    unsigned int access, void **out)
{
	uint8_t *first = NULL;
	uint64_t done = 0, last;

	if (!len)
		return -EINVAL;
	if (add_overflows(iova, len - 1, &last))
		return -EFAULT;
	while (done < len) {
		struct virtq_span piece;
		struct mem_hit hit;
		int rc = iotlb_piece(tlb, iova + done, len - done, access, &piece, &hit);

		if (rc)
			return rc;
		if (!done)
			first = piece.base;
		else if (piece.base != first + done)
			return -EFAULT;
		done += piece.len;
	}
	*out = first;
	return 0;
}

uint64_t virtq_iotlb_known(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		struct virtq_span piece;
		struct mem_hit hit;

		/* Nothing is known behind the last address: a range does not wrap. */
		if ((done && !(iova + done)) ||
		    iotlb_piece(tlb, iova + done, len - done, 0, &piece, &hit))
			break;
		done += piece.len;
	}
	return done;
}

/* ---- Changing ----------------------------------------------------------- */

static void remove_entries(struct virtq_iotlb *tlb, uint32_t slot, uint32_t count)
{
	memmove(&tlb->entries[slot], &tlb->entries[slot + count],
		(tlb->count - slot - count) * sizeof(tlb->entries[0]));
	tlb->count -= count;
}

/* Make @slot free; there is room. */
static void open_slot(struct virtq_iotlb *tlb, uint32_t slot)
{
	memmove(&tlb->entries[slot + 1], &tlb->entries[slot],
		(tlb->count - slot) * sizeof(tlb->entries[0]));
	tlb->count++;
}

/* Take addresses away from @at: all in front of @first, or all behind @last. */
static void keep_from(struct mem_hit *at, uint64_t first)
{
	uint64_t gone = first - at->addr;

	at->addr = first;
	at->host += gone;
	at->size_bytes -= gone;
}

static void keep_to(struct mem_hit *at, uint64_t last)
{
	at->size_bytes = last - at->addr + 1;
}

/* The entry at @slot reaches out of the range at both ends: two remain of it, or the longer. */
static void cut_middle(struct virtq_iotlb *tlb, uint32_t slot, uint64_t first, uint64_t last)
{
	struct mem_hit *at = &tlb->entries[slot].at;

	if (tlb->count < tlb->capacity) {
		open_slot(tlb, slot);
		keep_to(&at[0], first - 1);
		keep_from(&tlb->entries[slot + 1].at, last + 1);
	} else if (first - at->addr >= last_of(at) - last) {
		keep_to(at, first - 1);
	} else {
		keep_from(at, last + 1);
	}
}

/* Forget every address in [first, last]. */
static void cut(struct virtq_iotlb *tlb, uint64_t first, uint64_t last)
{
	uint32_t slot = find(tlb, first), end;

	if (slot == tlb->count)
		return;
	if (tlb->entries[slot].at.addr < first) {
		if (last_of(&tlb->entries[slot].at) > last) {
			cut_middle(tlb, slot, first, last);
			return;
		}
		keep_to(&tlb->entries[slot].at, first - 1);
		slot++;
	}
	for (end = slot; end < tlb->count && last_of(&tlb->entries[end].at) <= last; end++)
		;
	remove_entries(tlb, slot, end - slot);
	if (slot < tlb->count && tlb->entries[slot].at.addr <= last)
		keep_from(&tlb->entries[slot].at, last + 1);
}

/* Forget the entry updated longest ago. */
static void evict(struct virtq_iotlb *tlb)
{
	uint32_t oldest = 0;

	for (uint32_t i = 1; i < tlb->count; i++)
		if (tlb->entries[i].updated < tlb->entries[oldest].updated)
			oldest = i;
	remove_entries(tlb, oldest, 1);
}

/* Does @b, the later one, go on where @a ends, as the device sees it and in this process? */
static bool continues(const struct mem_hit *a, const struct mem_hit *b)
{
	return last_of(a) + 1 == b->addr &&
	       (uintptr_t)a->host + a->size_bytes == (uintptr_t)b->host && a->access == b->access;
}

/* Put @fresh, about whose addresses nothing is known, into the table. */
static void insert(struct virtq_iotlb *tlb, struct mem_hit fresh)
{
	uint32_t slot = find(tlb, fresh.addr);
	struct iotlb_entry *entry;

	if (slot < tlb->count && continues(&fresh, &tlb->entries[slot].at)) {
		fresh.size_bytes += tlb->entries[slot].at.size_bytes;
		remove_entries(tlb, slot, 1);
	}
	if (slot > 0 && continues(&tlb->entries[slot - 1].at, &fresh)) {
		entry = &tlb->entries[slot - 1];
		entry->at.size_bytes += fresh.size_bytes;
		entry->updated = tlb->generation;
		return;
	}
	if (tlb->count == tlb->capacity) {
		evict(tlb);
		slot = find(tlb, fresh.addr);
	}
	open_slot(tlb, slot);
	entry = &tlb->entries[slot];
	entry->at = fresh;
	entry->updated = tlb->generation;
}

int virtq_iotlb_update(struct virtq_iotlb *tlb, uint64_t iova, uint64_t size_bytes, void *host,
		       unsigned int access)
{
	struct mem_hit fresh = { iova, size_bytes, host, access };
	uint64_t last, host_last;
	uint32_t slot;

	if (!size_bytes || !host || !access || (access & ~VIRTQ_ACCESS_RW) ||
	    add_overflows(iova, size_bytes - 1, &last) ||
	    add_overflows((uintptr_t)host, size_bytes - 1, &host_last) || host_last > UINTPTR_MAX)
		return -EINVAL;
	tlb->generation++;
	slot = find(tlb, iova);
	if (slot < tlb->count) {
		struct iotlb_entry *entry = &tlb->entries[slot];

		/* Told again: cutting a full table's entry in two would forget a part. */
		if (hit_covers(&entry->at, iova, size_bytes, access) &&
		    entry->at.access == access && entry->at.host + (iova - entry->at.addr) == host) {
			entry->updated = tlb->generation;
			return 0;
		}
	}
	cut(tlb, iova, last);
	insert(tlb, fresh);
	return 0;
}

void virtq_iotlb_invalidate(struct virtq_iotlb *tlb, uint64_t iova, uint64_t size_bytes)
{
	uint64_t last;

	tlb->generation++;
	if (!size_bytes || (!iova && size_bytes == UINT64_MAX)) {
		tlb->count = 0;
		return;
	}
	if (add_overflows(iova, size_bytes - 1, &last))
		last = UINT64_MAX;
	cut(tlb, iova, last);
}
