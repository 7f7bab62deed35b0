/* SPDX-License-Identifier: MIT */
/* Where the device sees the caller's memory: a piece becomes elements. */
#include "transfer/transfer.h"

#include <errno.h>

/* The longest element: their lengths are of 32 bits; whole pages, for what follows. */
#define SEG_BYTES_MAX ((size_t)0xfffff000)

/* Elements of at most SEG_BYTES_MAX for @len bytes that lie one behind the other. */
static int cut(uint64_t addr, size_t len, struct virtq_seg *segs, unsigned int max)
{
	unsigned int n = 0;

	while (len) {
		size_t part = LIKELY(len <= UINT32_MAX) ? len : SEG_BYTES_MAX;

		if (UNLIKELY(n == max))
			return -EMSGSIZE;
		segs[n].addr = addr;
		segs[n].len = (uint32_t)part;
		n++;
		addr += part;
		len -= part;
	}
	return (int)n;
}

/*
 * Ask for the address of @base, and how many bytes from there on are in one
 * piece. UNTRUSTED is not the word, but a callback that says more than it was
 * asked for is not taken at it.
 */
static int64_t ask(const struct virtq_transfers *set, const void *base, size_t len, uint64_t *addr)
{
	int64_t got = set->config.translate(set->config.arg, base, len, addr);

	if (got < INT32_MIN || !got)
		return -EFAULT;
	return got > 0 && (uint64_t)got > len ? (int64_t)len : got;
}

/* A callback that goes by pages may find neighbours: they are one element. */
static int cut_by_callback(const struct virtq_transfers *set, const struct virtq_piece *piece,
			   struct virtq_seg *segs, unsigned int max)
{
	const uint8_t *base = piece->base;
	size_t len = piece->len;
	uint64_t start = 0, bytes = 0;	/* of neighbours that were not cut yet */
	unsigned int n = 0;
	int rc;

	while (len) {
		uint64_t addr;
		int64_t part = ask(set, base, len, &addr);

		if (part < 0)
			return (int)part;
		if (!bytes || addr != start + bytes) {
			rc = cut(start, (size_t)bytes, segs + n, max - n);
			if (rc < 0)
				return rc;
			n += (unsigned int)rc;
			start = addr;
			bytes = 0;
		}
		bytes += (uint64_t)part;
		base += part;
		len -= (size_t)part;
	}
	rc = cut(start, (size_t)bytes, segs + n, max - n);
	return rc < 0 ? rc : (int)n + rc;
}

/* The region in which @at lies, and in which the device may do that; or NULL. */
static const struct virtq_region *region_at(const struct virtq_map *map, uintptr_t at,
					    bool writable)
{
	const uint32_t access = writable ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
	unsigned int count;
	const struct virtq_region *r = virtq_map_regions(map, &count);

	for (; count--; r++)
		if (at - (uintptr_t)r->host < r->size_bytes && r->access & access)
			return r;
	return NULL;
}

/* The next piece is likely to lie in the region in which this one begins; maps do not change. */
static int cut_by_map(struct virtq_transfers *set, const struct virtq_piece *piece, bool writable,
		      struct virtq_seg *segs, unsigned int max, bool unchecked)
{
	uintptr_t at = (uintptr_t)piece->base;
	size_t len = piece->len;
	unsigned int n = 0;

	while (len) {
		const struct virtq_region *r = region_at(set->config.map, at, writable);
		uint64_t offset, part = len;
		int rc;

		if (!r)
			return -EFAULT;
		offset = at - (uintptr_t)r->host;
		if (!n)
			set->near[writable] = (struct transfer_near){ (uintptr_t)r->host, r->gpa,
								      r->size_bytes };
		if (!unchecked && part > r->size_bytes - offset)
			part = r->size_bytes - offset;
		rc = cut(r->gpa + offset, (size_t)part, segs + n, max - n);
		if (rc < 0)
			return rc;
		n += (unsigned int)rc;
		at += (uintptr_t)part;
		len -= (size_t)part;
	}
	return (int)n;
}

int transfer_translate(struct virtq_transfers *set, const struct virtq_piece *piece, bool writable,
		       struct virtq_seg *segs, unsigned int max, bool unchecked)
{
	const struct transfer_near *all = &set->near[writable];
	uint64_t addr, offset;

	if (set->config.map)
		return cut_by_map(set, piece, writable, segs, max, unchecked);
	if (set->config.translate) {
		int64_t got;

		if (!unchecked)
			return cut_by_callback(set, piece, segs, max);
		got = ask(set, piece->base, 1, &addr);
		if (got < 0)
			return (int)got;
		return cut(addr, piece->len, segs, max);
	}
	offset = (uintptr_t)piece->base - all->host;
	if (offset >= all->bytes || (!unchecked && piece->len > all->bytes - offset))
		return -EFAULT;
	return cut(all->addr + offset, piece->len, segs, max);
}
