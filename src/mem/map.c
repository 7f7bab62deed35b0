/* SPDX-License-Identifier: MIT */
/* Tables of regions, and look-ups in them. No heap and no system calls here. */
#include "mem/map.h"

#include <string.h>

#include "base/error.h"

size_t virtq_map_bytes(unsigned int count)
{
	return sizeof(struct virtq_map) + (size_t)count * sizeof(struct virtq_region);
}

static bool ranges_overlap(uint64_t a, uint64_t b, uint64_t a_len, uint64_t b_len)
{
	return a < b ? b - a < a_len : a - b < b_len;
}

static void sort_by_gpa(struct virtq_region *regions, uint32_t count)
{
	/* Tables come sorted or nearly so, and only set-up waits for this. */
	for (uint32_t i = 1; i < count; i++) {
		struct virtq_region moving = regions[i];
		uint32_t at = i;

		for (; at > 0 && regions[at - 1].gpa > moving.gpa; at--)
			regions[at] = regions[at - 1];
		regions[at] = moving;
	}
}

static int check_region(const struct virtq_region *r, struct virtq_error *err)
{
	uint64_t end;

	if (!r->size_bytes)
		return error_set(err, -EINVAL, "memory region at 0x%llx is empty",
				 (unsigned long long)r->gpa);
	if (add_overflows(r->gpa, r->size_bytes - 1, &end) ||
	    add_overflows(r->user, r->size_bytes - 1, &end) ||
	    add_overflows((uintptr_t)r->host, r->size_bytes - 1, &end) || end > UINTPTR_MAX)
		return error_set(err, -EINVAL,
				 "memory region at 0x%llx wraps around the address space",
				 (unsigned long long)r->gpa);
	if (!r->host || !(r->access & VIRTQ_ACCESS_RW) || (r->access & ~VIRTQ_ACCESS_RW))
		return error_set(err, -EINVAL,
				 "memory region at 0x%llx has no pointer or no valid access",
				 (unsigned long long)r->gpa);
	return 0;
}

int map_fill(struct virtq_map *map, const struct virtq_region *regions, unsigned int count,
	     struct virtq_error *err)
{
	if (count > VIRTQ_MAP_REGIONS_MAX)
		return error_set(err, -EINVAL, "%u memory regions are more than %u", count,
				 VIRTQ_MAP_REGIONS_MAX);
	for (unsigned int i = 0; i < count; i++) {
		int rc = check_region(&regions[i], err);

		if (rc)
			return rc;
		map->regions[i] = regions[i];
	}
	map->count = count;
	map->release = NULL;
	sort_by_gpa(map->regions, count);

	for (unsigned int i = 0; i < count; i++) {
		const struct virtq_region *r = &map->regions[i];

		if (i > 0 && r->gpa - r[-1].gpa < r[-1].size_bytes)
			return error_set(err, -EINVAL,
					 "memory regions at 0x%llx and 0x%llx overlap",
					 (unsigned long long)r[-1].gpa,
					 (unsigned long long)r->gpa);
		for (unsigned int k = 0; k < i && r->user; k++) {
			const struct virtq_region *other = &map->regions[k];

			if (other->user && ranges_overlap(r->user, other->user, r->size_bytes,
							  other->size_bytes))
				return error_set(err, -EINVAL,
						 "memory regions overlap at user address 0x%llx",
						 (unsigned long long)r->user);
		}
	}
	return 0;
}

int virtq_map_init(void *memory, struct virtq_map **out, const struct virtq_region *regions,
		   unsigned int count)
{
	struct virtq_map *map = memory;
	int rc;

	for (unsigned int i = 0; i < count; i++)
		if (regions[i].mapping)
			return -EINVAL;
	rc = map_fill(map, regions, count, NULL);
	if (!rc)
		*out = map;
	return rc;
}

void virtq_map_ref(struct virtq_map *map)
{
	if (map->release)
		shm_refs_get(&map->refs);
}

void virtq_map_unref(struct virtq_map *map)
{
	if (map && map->release && shm_refs_put(&map->refs))
		map->release(map);
}

const struct virtq_region *virtq_map_regions(const struct virtq_map *map, unsigned int *count)
{
	*count = map->count;
	return map->regions;
}

const struct virtq_region *map_find(const struct virtq_map *map, uint64_t gpa)
{
	uint32_t low = 0, high = map->count;

	/* Invariant: regions below low begin at or before gpa, those from high on after it. */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (map->regions[mid].gpa <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || gpa - map->regions[low - 1].gpa >= map->regions[low - 1].size_bytes)
		return NULL;
	return &map->regions[low - 1];
}

int map_piece(const struct virtq_map *map, uint64_t gpa, uint64_t len, unsigned int access,
	      struct virtq_span *piece, struct mem_hit *hit)
{
	const struct virtq_region *r = map_find(map, gpa);
	uint64_t off, left;

	if (!r || (r->access & access) != access)
		return -EFAULT;
	off = gpa - r->gpa;
	left = r->size_bytes - off;
	piece->base = (uint8_t *)r->host + off;
	piece->len = (size_t)(len < left ? len : left);
	*hit = (struct mem_hit){ r->gpa, r->size_bytes, r->host, r->access };
	return 0;
}

void *virtq_map_ptr(const struct virtq_map *map, uint64_t gpa, uint64_t len,
		    unsigned int access)
{
	struct virtq_span piece;
	struct mem_hit hit;

	if (!len || map_piece(map, gpa, len, access, &piece, &hit) || piece.len != len)
		return NULL;
	return piece.base;
}

void *virtq_map_user_ptr(const struct virtq_map *map, uint64_t user, uint64_t len,
			 unsigned int access)
{
	for (uint32_t i = 0; i < map->count; i++) {
		const struct virtq_region *r = &map->regions[i];
		uint64_t off = user - r->user;

		if (r->user && off < r->size_bytes)
			return len && len <= r->size_bytes - off &&
			       (r->access & access) == access ?
			       (uint8_t *)r->host + off : NULL;
	}
	return NULL;
}

static const struct virtq_region *find_host(const struct virtq_map *map, uintptr_t host)
{
	for (uint32_t i = 0; i < map->count; i++)
		if (host - (uintptr_t)map->regions[i].host < map->regions[i].size_bytes)
			return &map->regions[i];
	return NULL;
}

int virtq_map_seg(const struct virtq_map *map, const void *host, size_t len,
		  struct virtq_seg *segs, unsigned int max)
{
	uintptr_t at = (uintptr_t)host;
	unsigned int n = 0;

	while (len) {
		const struct virtq_region *r = find_host(map, at);
		uint64_t off, part;

		if (!r)
			return -EFAULT;
		if (n == max)
			return -ENOSPC;
		off = at - (uintptr_t)r->host;
		part = r->size_bytes - off;
		if (part > len)
			part = len;
		if (part > UINT32_MAX)
			part = UINT32_MAX & ~(uint64_t)4095;
		segs[n].addr = r->gpa + off;
		segs[n].len = (uint32_t)part;
		n++;
		at += (uintptr_t)part;
		len -= (size_t)part;
	}
	return (int)n;
}
