/* SPDX-License-Identifier: MIT */
/* Memory that a fuzzed device end can reach. */
#include "memory.h"

#include "../sanitizers.h"

/*
 * Other allocators than the address sanitizer's may put two areas side by side,
 * and an IOTLB takes what is side by side here and there for one piece.
 */
#if UNDER_ASAN
#define GAP_BYTES 0u
#else
#define GAP_BYTES 64u
#endif

static uint8_t *area_alloc(uint32_t bytes)
{
	/* Aligned to 16, as the ring's areas have to be. */
	uint8_t *host = malloc(bytes + GAP_BYTES);

	FUZZ_CHECK(host);
	return host;
}

static void set_area(struct memory *m, unsigned int i, uint64_t gpa, uint32_t bytes,
		     unsigned int access)
{
	m->areas[i] = (struct area){ area_alloc(bytes), gpa, bytes, access };
}

struct memory *memory_new(struct virtq_features features, uint32_t size, uint32_t bytes,
			  bool reach_ring, const struct memory *old)
{
	struct memory *m = calloc(1, sizeof(*m));
	struct virtq_region regions[AREA_COUNT] = { { 0 } };

	FUZZ_CHECK(m);
	FUZZ_CHECK(!virtq_ring_shape(features, size, &m->shape));
	set_area(m, AREA_FIRST, 0, bytes, VIRTQ_ACCESS_RW);
	set_area(m, AREA_SECOND, bytes, bytes, VIRTQ_ACCESS_RW);
	set_area(m, AREA_READ_ONLY, 2 * (uint64_t)bytes, bytes, VIRTQ_ACCESS_READ);
	set_area(m, AREA_WRITE_ONLY, 0x100000, bytes, VIRTQ_ACCESS_WRITE);
	set_area(m, AREA_TABLES, 0x200000, TABLE_BYTES, VIRTQ_ACCESS_READ);
	set_area(m, AREA_TOP, 0 - (uint64_t)bytes, bytes, VIRTQ_ACCESS_RW);
	set_area(m, AREA_DESC, 0x1000000, (uint32_t)m->shape.desc_bytes, VIRTQ_ACCESS_RW);
	set_area(m, AREA_DRIVER, 0x2000000, (uint32_t)m->shape.driver_bytes, VIRTQ_ACCESS_RW);
	set_area(m, AREA_DEVICE, 0x3000000, (uint32_t)m->shape.device_bytes, VIRTQ_ACCESS_RW);
	m->area_count = reach_ring ? AREA_COUNT : AREA_DATA;

	for (unsigned int i = 0; i < AREA_COUNT; i++) {
		struct area *a = &m->areas[i];

		if (old)
			memcpy(a->host, old->areas[i].host, a->bytes);
		else
			memset(a->host, 0, a->bytes);
		regions[i] = (struct virtq_region){
			.gpa = a->gpa, .size_bytes = a->bytes, .host = a->host, .fd = -1,
			.access = a->access,
		};
	}
	m->ring = (struct virtq_ring){
		.features = features, .size = size, .desc = m->areas[AREA_DESC].host,
		.driver = m->areas[AREA_DRIVER].host, .device = m->areas[AREA_DEVICE].host,
	};
	FUZZ_CHECK(!virtq_map_create(&m->map, regions, m->area_count, NULL));
	m->current = true;
	return m;
}

void memory_free(struct memory *m)
{
	virtq_map_unref(m->map);
	for (unsigned int i = 0; i < AREA_COUNT; i++)
		free(m->areas[i].host);
	free(m);
}

void memory_settle(struct memory *m)
{
	if (!m->current && !m->loans)
		memory_free(m);
}

bool memory_grants(const struct memory *m, const void *p, size_t len, unsigned int access)
{
	for (unsigned int i = 0; i < m->area_count; i++) {
		const struct area *a = &m->areas[i];
		uintptr_t off = (uintptr_t)p - (uintptr_t)a->host;

		if (off < a->bytes)
			return len <= a->bytes - off && (a->access & access) == access;
	}
	return false;
}

uint8_t *memory_at(const struct memory *m, uint64_t gpa, unsigned int access, uint64_t *follow)
{
	for (unsigned int i = 0; i < m->area_count; i++) {
		const struct area *a = &m->areas[i];

		if (gpa - a->gpa < a->bytes && (a->access & access) == access) {
			*follow = a->bytes - (gpa - a->gpa);
			return a->host + (gpa - a->gpa);
		}
	}
	return NULL;
}

void memory_poke(const struct memory *m, uint64_t gpa, const void *src, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t follow;
		uint8_t *p = memory_at(m, gpa + i, 0, &follow);

		if (p)
			*p = ((const uint8_t *)src)[i];
	}
}
