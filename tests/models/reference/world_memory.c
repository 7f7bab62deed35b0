/* SPDX-License-Identifier: MIT */
/*
 * The memory of a world: ring areas with the smallest alignment that the
 * standard allows, indirect tables, and data in regions that adjoin in guest
 * addresses but not in this process, so that elements cross their borders.
 */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define GAP_BYTES 48u	/* between areas; nobody may touch it */
#define TABLE_ENTRIES_MAX 32u
#define TABLE_STRIDE (16 * TABLE_ENTRIES_MAX + 16)

static const uint32_t data_region_bytes[] = { 4097, 513, 64, 8191, 3, 6131 };
#define DATA_REGIONS (sizeof(data_region_bytes) / sizeof(data_region_bytes[0]))

/* Put an area at the end of the block, at @off past a multiple of 64. */
static void area_add(struct world *w, const char *name, uint64_t gpa, uint32_t bytes,
		     uint32_t off)
{
	uint32_t at = ((w->block_bytes + GAP_BYTES + 63) & ~63u) + off;
	struct ref_area *a = &w->mem.area[w->mem.count++];

	a->name = name;
	a->gpa = gpa;
	a->bytes = bytes;
	/* An offset until the block is there. */
	a->host = (uint8_t *)(uintptr_t)at;
	w->block_bytes = at + bytes;
}

/* 2.7 and 2.8.10.1: alignments 16, 2, 4 and 16, 4, 4; sizes as in those tables. */
static void ring_areas_add(struct world *w)
{
	uint32_t n = w->q.size;

	w->q.desc = 0x10010;
	w->q.driver = w->q.packed ? 0x20004 : 0x20002;
	w->q.device = 0x30004;
	area_add(w, "descriptor area", w->q.desc, 16 * n, 16);
	area_add(w, "driver area", w->q.driver, w->q.packed ? 4 : 6 + 2 * n,
		 w->q.packed ? 4 : 2);
	area_add(w, "device area", w->q.device, w->q.packed ? 4 : 6 + 8 * n, 4);
}

/* For the library's driver one piece; for the model's two apart, cut inside an entry. */
static void table_areas_add(struct world *w)
{
	uint32_t cut;

	w->table_gpa = 0x40000;
	if (w->setup.driver->library) {
		w->table_bytes = 16 * w->q.size * w->indirect_entries;
		area_add(w, "indirect tables", w->table_gpa, w->table_bytes, 16);
		return;
	}
	w->table_bytes = TABLE_STRIDE * WORLD_TABLES;
	cut = w->table_bytes / 2 + 7;
	area_add(w, "indirect tables", w->table_gpa + cut, w->table_bytes - cut, 1);
	area_add(w, "indirect tables", w->table_gpa, cut, 0);
}

static void data_areas_add(struct world *w)
{
	unsigned int i;

	w->data_gpa = 0x100000123;
	for (i = 0; i < DATA_REGIONS; i++)
		w->data_bytes += data_region_bytes[i];
	/* Backwards, so that neighbours by address are not neighbours here. */
	for (i = DATA_REGIONS; i-- > 0;) {
		uint64_t gpa = w->data_gpa;
		unsigned int k;

		for (k = 0; k < i; k++)
			gpa += data_region_bytes[k];
		area_add(w, "data", gpa, data_region_bytes[i], i);
	}
}

static void map_create(struct world *w)
{
	struct virtq_region region[REF_AREAS_MAX] = { 0 };
	unsigned int i;

	for (i = 0; i < w->mem.count; i++) {
		region[i].gpa = w->mem.area[i].gpa;
		region[i].size_bytes = w->mem.area[i].bytes;
		region[i].host = w->mem.area[i].host;
		region[i].fd = -1;
		region[i].access = VIRTQ_ACCESS_RW;
	}
	if (virtq_map_create(&w->map, region, w->mem.count, NULL))
		world_fail(w, "virtq_map_create() refused the world's regions");
}

static uint8_t *block_create(struct world *w)
{
	void *p = NULL;

	if (posix_memalign(&p, 64, w->block_bytes + GAP_BYTES))
		abort();
	return p;
}

void world_memory_create(struct world *w)
{
	unsigned int i;

	w->mem.count = 0;
	w->block_bytes = 0;
	w->data_bytes = 0;
	ring_areas_add(w);
	table_areas_add(w);
	data_areas_add(w);
	w->block = block_create(w);
	w->shadow_block = block_create(w);
	w->block_bytes += GAP_BYTES;
	w->shadow_mem = w->mem;
	for (i = 0; i < w->mem.count; i++) {
		size_t at = (uintptr_t)w->mem.area[i].host;

		w->mem.area[i].host = w->block + at;
		w->shadow_mem.area[i].host = w->shadow_block + at;
	}
	world_memory_poison(w);
	map_create(w);
}

void world_memory_destroy(struct world *w)
{
	virtq_map_unref(w->map);
	w->map = NULL;
	free(w->block);
	free(w->shadow_block);
}

/* What a new ring's memory held before must not matter (2.7.10.1, 2.8.13). */
void world_memory_poison(struct world *w)
{
	memset(w->block, 0xa5, w->block_bytes);
	memset(w->shadow_block, 0xa5, w->block_bytes);
}

/*
 * A ring that went round before and is idle now, both ends at @position.
 * Split: both indices there. Packed: slots behind the position were used on
 * this lap, those from there on on the lap before (2.8.1).
 */
void world_memory_lapped(struct world *w, uint32_t position)
{
	struct ref_memory *m = &w->mem;
	unsigned int slot, i;

	for (i = 0; i < 3; i++)
		memset(m->area[i].host, 0, m->area[i].bytes);
	if (!w->q.packed) {
		ref_put16(m, split_avail_idx_at(&w->q), (uint16_t)position);
		ref_put16(m, split_used_idx_at(&w->q), (uint16_t)position);
	} else {
		bool wrap = position >> 15 & 1;

		for (slot = 0; slot < w->q.size; slot++)
			if (slot < (position & 0x7fff) ? wrap : !wrap)
				ref_put16(m, packed_desc_at(&w->q, slot) + 14,
					  REF_AVAIL | REF_USED);
	}
	memcpy(w->shadow_block, w->block, w->block_bytes);
}

static bool data_free(const struct world *w, uint32_t at, uint32_t len)
{
	uint32_t i;

	if (at + len > w->data_bytes)
		return false;
	for (i = 0; i < len; i++)
		if (w->data_taken[at + i])
			return false;
	return true;
}

/* Just before a border between regions, so that an element placed there crosses it. */
static uint32_t near_border(struct world *w, uint32_t len)
{
	uint32_t border = 0;
	unsigned int i, n = 1 + dice_roll(&w->dice, DATA_REGIONS - 1);

	for (i = 0; i < n; i++)
		border += data_region_bytes[i];
	return border - dice_roll(&w->dice, len < border ? len : border);
}

uint64_t world_data_take(struct world *w, uint32_t len)
{
	unsigned int attempt;

	for (attempt = 0; attempt < 6; attempt++) {
		uint32_t at = dice_one_in(&w->dice, 4) ? near_border(w, len) :
						      dice_roll(&w->dice, w->data_bytes);

		if (data_free(w, at, len)) {
			memset(w->data_taken + at, 1, len);
			return w->data_gpa + at;
		}
	}
	return 0;
}

void world_data_give(struct world *w, const struct ref_element *e)
{
	if (e->len)
		memset(w->data_taken + (e->addr - w->data_gpa), 0, e->len);
}
