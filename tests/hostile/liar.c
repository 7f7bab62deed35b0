/* SPDX-License-Identifier: MIT */
/* See liar.h. */
#include "liar.h"

#include <stdlib.h>
#include <sys/mman.h>

/* With position: the loan takes the last index of a lap, the lie the first of the next. */
struct shape split_shapes[2] = {
	{ .size = LIAR_SIZE, .indirect = true, .name = "split" },
	{ .size = LIAR_SIZE, .indirect = true, .event_idx = true, .moved = true, .start = 65535,
	  .name = "split, index wraps" },
};
struct shape packed_shapes[2] = {
	{ .packed = true, .size = LIAR_SIZE, .indirect = true, .name = "packed" },
	{ .packed = true, .size = LIAR_SIZE, .indirect = true, .event_idx = true, .moved = true,
	  .start = 6, .name = "packed, lap ends" },
};

/* ---- Memory ------------------------------------------------------------- */

static const struct { uint64_t gpa; unsigned int access; } places[LIAR_PIECES] = {
	{ LIAR_LOW_GPA, VIRTQ_ACCESS_RW }, { LIAR_MORE_GPA, VIRTQ_ACCESS_READ },
	{ LIAR_WRITE_ONLY_GPA, VIRTQ_ACCESS_WRITE }, { LIAR_TOP_GPA, VIRTQ_ACCESS_RW },
};

static void map_more(struct liar *l)
{
	struct virtq_region regions[RIG_REGIONS + 2 + LIAR_PIECES];
	unsigned int n;
	const struct virtq_region *old = virtq_map_regions(l->r.map, &n);
	struct virtq_map *map;

	memcpy(regions, old, n * sizeof(*old));
	for (uint32_t i = 0; i < LIAR_PIECES; i++) {
		/* The tables of larger rings reach over it. */
		if (places[i].gpa == LIAR_MORE_GPA && l->r.shape.size > LIAR_SIZE)
			continue;
		piece_map(&l->pieces[i], LIAR_PAGE, 16);
		if (places[i].access == VIRTQ_ACCESS_READ)
			piece_protect(&l->pieces[i], PROT_READ | PROT_WRITE, PROT_READ);
		regions[n++] = (struct virtq_region){
			.gpa = places[i].gpa, .size_bytes = LIAR_PAGE, .fd = -1,
			.host = l->pieces[i].device, .access = places[i].access,
		};
	}
	l->huge = mmap(NULL, LIAR_HUGE_BYTES, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(l->huge, MAP_FAILED);
	regions[n++] = (struct virtq_region){
		.gpa = LIAR_HUGE_GPA, .size_bytes = LIAR_HUGE_BYTES, .fd = -1,
		.host = l->huge, .access = VIRTQ_ACCESS_RW,
	};
	assert_int_equal(virtq_map_create(&map, regions, n, NULL), 0);
	virtq_map_unref(l->r.map);
	l->r.map = map;
}

uint8_t *liar_at(struct liar *l, uint64_t gpa, bool device)
{
	struct piece *p = NULL;
	uint64_t off = 0;

	if (gpa >= RIG_DATA_GPA && gpa < RIG_END_GPA) {
		off = (gpa - RIG_DATA_GPA) % RIG_REGION_BYTES;
		p = &l->r.data[(gpa - RIG_DATA_GPA) / RIG_REGION_BYTES];
	} else if (gpa - RIG_TABLE_GPA < l->r.table.bytes) {
		off = gpa - RIG_TABLE_GPA;
		p = &l->r.table;
	}
	for (uint32_t i = 0; i < LIAR_PIECES && !p; i++) {
		off = gpa - places[i].gpa;
		if (off < LIAR_PAGE)
			p = &l->pieces[i];
	}
	if (!p)
		fail_msg("no memory at 0x%llx", (unsigned long long)gpa);
	return (device ? p->device : p->driver) + off;
}

/* ---- Raw chains --------------------------------------------------------- */

static void put_elem(uint8_t *to, struct elem e, bool packed)
{
	put64(to, e.addr);
	put32(to + 8, e.len);
	put16(to + 12, packed ? e.next : e.flags);
	put16(to + 14, packed ? e.flags : e.next);
}

void liar_desc(struct liar *l, uint32_t slot, struct elem e)
{
	put_elem(l->r.desc.driver + 16 * (size_t)slot, e, l->r.shape.packed);
}

void liar_table(struct liar *l, uint64_t gpa, uint32_t at, struct elem e)
{
	uint8_t raw[16];

	put_elem(raw, e, l->r.shape.packed);
	/* Byte by byte: an entry may lie across two regions. */
	for (uint32_t i = 0; i < 16; i++)
		*liar_at(l, gpa + 16 * (uint64_t)at + i, false) = raw[i];
}

void liar_offer(struct liar *l, uint16_t head)
{
	put16(avail_ring(&l->r, l->idx), head);
	put16(avail_idx(&l->r), ++l->idx);
}

uint16_t liar_packed_flags(const struct liar *l, uint32_t ahead, uint16_t flags)
{
	bool wrap = l->wrap ^ (l->slot + ahead >= l->r.shape.size);

	return (uint16_t)(flags | (wrap ? F_AVAIL : F_USED));
}

uint8_t *liar_packed_flags_at(struct liar *l, uint32_t ahead)
{
	return l->r.desc.driver + 16 * (size_t)((l->slot + ahead) % l->r.shape.size) + 14;
}

void liar_packed_fill(struct liar *l, uint32_t ahead, struct elem e, uint16_t id)
{
	e.next = id;
	e.flags = get16(liar_packed_flags_at(l, ahead));
	liar_desc(l, (l->slot + ahead) % l->r.shape.size, e);
}

void liar_chain(struct liar *l, const struct elem *elems, uint32_t count, uint16_t id)
{
	if (!l->r.shape.packed) {
		for (uint32_t i = 0; i < count; i++)
			liar_desc(l, i, elems[i]);
		liar_offer(l, 0);
		return;
	}
	for (uint32_t i = count; i-- > 0;) {
		liar_packed_fill(l, i, elems[i], id);
		put16(liar_packed_flags_at(l, i), liar_packed_flags(l, i, elems[i].flags));
	}
	l->wrap ^= l->slot + count >= l->r.shape.size;
	l->slot = (uint16_t)((l->slot + count) % l->r.shape.size);
}

uint32_t liar_place(const struct liar *l)
{
	return l->r.shape.packed ? l->slot : l->idx;
}

/* ---- Life --------------------------------------------------------------- */

static void open_other(struct liar *l)
{
	struct virtq_driver_config drv = { .ring = { .features = l->r.driver_ring.features,
						     .size = 4 } };
	struct virtq_device_config dev = { .map = l->r.map };
	struct virtq_ring_shape s;
	uint8_t *at;

	assert_int_equal(virtq_ring_shape(drv.ring.features, 4, &s), 0);
	l->other_memory = at = aligned_alloc(4096, 4096);
	assert_non_null(at);
	drv.ring.desc = at;
	drv.ring.driver = at + s.driver_offset;
	drv.ring.device = at + s.device_offset;
	dev.ring = drv.ring;
	assert_int_equal(virtq_driver_create(&l->other_driver, &drv, NULL), 0);
	assert_int_equal(virtq_device_create(&l->other_device, &dev, NULL), 0);
}

void liar_open(struct liar *l, const struct shape *shape, uint32_t max_segs)
{
	static const struct elem honest = { RIG_WRITABLE_GPA, 4, F_WRITE, 0 };
	uint16_t last = (uint16_t)(shape->size - 1);

	memset(l, 0, sizeof(*l));
	rig_open(&l->r, shape, 0);
	map_more(l);
	l->r.device_config.max_segs = max_segs;
	rig_make_device(&l->r);
	open_other(l);
	l->idx = (uint16_t)shape->start;
	l->slot = (uint16_t)shape->start;
	l->wrap = !shape->moved;
	if (shape->size < 2)
		return;
	if (shape->packed) {
		liar_chain(l, &honest, 1, last);
	} else {
		liar_desc(l, last, honest);
		liar_offer(l, last);
	}
	assert_int_equal(virtq_device_pop(l->r.device, &l->lent, 1), 1);
}

void liar_close(struct liar *l)
{
	virtq_driver_destroy(l->other_driver);
	virtq_device_destroy(l->other_device);
	rig_close(&l->r);
	for (uint32_t i = 0; i < LIAR_PIECES; i++)
		piece_unmap(&l->pieces[i]);
	munmap(l->huge, LIAR_HUGE_BYTES);
	free(l->other_memory);
}

/* ---- What comes of it --------------------------------------------------- */

void liar_other_works(struct liar *l)
{
	struct virtq_seg segs[2] = { { RIG_DATA_GPA + 64, 4 }, { RIG_WRITABLE_GPA + 64, 4 } };
	struct virtq_buffer buf = { segs, 1, 1, l };
	struct virtq_completion done;
	struct virtq_req *req;
	uint8_t copy[4];

	memcpy(liar_at(l, RIG_DATA_GPA + 64, false), "ping", 4);
	assert_int_equal(virtq_driver_add(l->other_driver, &buf, 1), 1);
	virtq_driver_publish(l->other_driver);
	assert_int_equal(virtq_device_pop(l->other_device, &req, 1), 1);
	assert_int_equal(virtq_req_read(req, copy, 4), 4);
	assert_memory_equal(copy, "ping", 4);
	assert_int_equal(virtq_req_write(req, "pong", 4), 4);
	virtq_device_push(l->other_device, &req, 1);
	virtq_device_publish(l->other_device);
	assert_int_equal(virtq_driver_get(l->other_driver, &done, 1), 1);
	assert_ptr_equal(done.token, l);
	assert_int_equal(done.written, 4);
	assert_memory_equal(liar_at(l, RIG_WRITABLE_GPA + 64, false), "pong", 4);
}

/* S-DEV-043: what was lent before the lie is given back, and seen, after it. */
static void give_back(struct liar *l)
{
	uint16_t start = (uint16_t)l->r.shape.start;
	const uint8_t *used;

	if (!l->lent)
		return;
	assert_int_equal(virtq_req_write(l->lent, "data", 4), 4);
	virtq_device_push(l->r.device, &l->lent, 1);
	/* The first decision: when unsure, call (N-DEV-012); and nobody asked for silence. */
	assert_int_equal(virtq_device_publish(l->r.device), 1);
	l->lent = NULL;
	assert_memory_equal(liar_at(l, RIG_WRITABLE_GPA, false), "data", 4);
	if (l->r.shape.packed) {
		used = l->r.desc.driver + 16 * (size_t)start;
		assert_int_equal(get32(used + 8), 4);
		assert_int_equal(get16(used + 12), l->r.shape.size - 1);
		/* P-DEV-029 too: neither NEXT nor INDIRECT. */
		assert_int_equal(get16(used + 14),
				 F_WRITE | (l->r.shape.moved ? 0 : F_AVAIL | F_USED));
	} else {
		used = used_ring(&l->r, start);
		assert_int_equal(get32(used), l->r.shape.size - 1);
		assert_int_equal(get32(used + 4), 4);
		assert_int_equal(get16(used_idx(&l->r)), (uint16_t)(start + 1));
	}
}

void liar_caught(struct liar *l, enum virtq_fault_code code, uint32_t index, uint64_t value)
{
	uint32_t lent = l->lent ? 1 : 0;
	struct virtq_req *req;

	/* S-DEV-039: the queue stops, says why, and stays stopped. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(virtq_device_pop(l->r.device, &req, 1), -EBADMSG);
		rig_fault_is(virtq_device_fault(l->r.device), code, index, value);
	}
	assert_int_equal(virtq_device_in_flight(l->r.device), lent);
	virtq_device_arm(l->r.device);
	liar_other_works(l);
	give_back(l);
	assert_int_equal(virtq_device_in_flight(l->r.device), 0);
	assert_int_equal(virtq_device_pop(l->r.device, &req, 1), -EBADMSG);
	rig_fault_is(virtq_device_fault(l->r.device), code, index, value);
	virtq_device_disarm(l->r.device);
	assert_int_equal(virtq_device_publish(l->r.device), 0);
}

void liar_unharmed(struct liar *l)
{
	static const struct elem honest = { RIG_DATA_GPA, 4, 0, 0 };
	struct virtq_req *req;

	give_back(l);
	liar_chain(l, &honest, 1, 3);
	assert_int_equal(virtq_device_pop(l->r.device, &req, 1), 1);
	assert_int_equal(req->rd.bytes, 4);
	virtq_device_push(l->r.device, &req, 1);
	virtq_device_publish(l->r.device);
	assert_int_equal(virtq_device_pop(l->r.device, &req, 1), 0);
	rig_fault_is(virtq_device_fault(l->r.device), VIRTQ_FAULT_NONE, 0, 0);
	liar_other_works(l);
}

/* ---- Lies in a table ---------------------------------------------------- */

#define SCENES_MAX 400u

struct scene {
	struct shape shape;
	const struct lie *lie;
};

static uint32_t count_elems(const struct lie *lie, bool packed)
{
	uint32_t n = 1;

	if (!packed)
		return LIAR_SIZE - 1;	/* the last one is on loan */
	while (n < LIAR_SIZE && lie->chain[n - 1].flags & F_NEXT)
		n++;
	return n;
}

static void taken(struct liar *l, const struct lie *lie)
{
	uint64_t rd = 0, wr = 0;
	struct virtq_req *req;
	uint32_t count = 0;

	if (virtq_device_pop(l->r.device, &req, 1) != 1)
		fail_msg("refused: %s", virtq_fault_text(virtq_device_fault(l->r.device).code));
	for (; count < 5 && lie->spans[count].len; count++) {
		const struct virtq_seg *seg = &lie->spans[count];
		const struct virtq_span *span = &req->rd.spans[count];

		if (count >= lie->readable)
			span = &req->wr.spans[count - lie->readable];
		if (seg->addr >= LIAR_HUGE_GPA && seg->addr - LIAR_HUGE_GPA < LIAR_HUGE_BYTES)
			assert_ptr_equal(span->base, (uint8_t *)l->huge +
					 (seg->addr - LIAR_HUGE_GPA));
		else
			assert_ptr_equal(span->base, liar_at(l, seg->addr, true));
		assert_int_equal(span->len, seg->len);
		*(count < lie->readable ? &rd : &wr) += seg->len;
	}
	assert_int_equal(req->rd.count, lie->readable);
	assert_int_equal(req->wr.count, count - lie->readable);
	assert_int_equal(req->rd.bytes, rd);
	assert_int_equal(req->wr.bytes, wr);
	virtq_device_push(l->r.device, &req, 1);
}

static void play(void **state)
{
	const struct scene *scene = *state;
	const struct lie *lie = scene->lie;
	bool packed = scene->shape.packed;
	uint64_t table = lie->table_gpa ? lie->table_gpa : RIG_TABLE_GPA;
	uint64_t value = lie->value;
	uint32_t place, first;
	struct liar l;

	liar_open(&l, &scene->shape, lie->max_segs);
	for (uint32_t i = 0; i < 5; i++)
		if (lie->table[i].addr || lie->table[i].len || lie->table[i].flags)
			liar_table(&l, table, i, lie->table[i]);
	place = liar_place(&l);
	first = l.slot;
	liar_chain(&l, lie->chain, count_elems(lie, packed), 0);
	if (lie->how & VALUE_FLAGS)
		value = get16(l.r.desc.driver + (packed ? 14 + 16 * ((first + value) % LIAR_SIZE) :
							  12 + 16 * value));
	else if (lie->how & VALUE_SLOT && packed)
		value = (first + value) % LIAR_SIZE;
	if (lie->code) {
		liar_caught(&l, lie->code, place, value);
	} else {
		give_back(&l);
		taken(&l, lie);
		virtq_device_publish(l.r.device);
		liar_unharmed(&l);
	}
	liar_close(&l);
}

void lies_add(struct matrix *m, const struct lie *lies, size_t count)
{
	static struct scene scenes[SCENES_MAX];
	static size_t used;

	for (size_t i = 0; i < 4 * count; i++) {
		const struct lie *lie = &lies[i / 4];
		struct shape *shape = i % 4 < 2 ? &split_shapes[i % 2] : &packed_shapes[i % 2];
		struct scene *scene;

		if (!(lie->how & (shape->packed ? PACKED : SPLIT)))
			continue;
		if (used == SCENES_MAX)
			abort();
		scene = &scenes[used++];
		scene->shape = *shape;
		scene->shape.indirect = !(lie->how & DIRECT);
		scene->lie = lie;
		matrix_add_shapes(m, lie->name, play, &scene->shape, 1);
	}
}
