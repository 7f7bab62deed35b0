/* SPDX-License-Identifier: MIT */
/* The rig: memory with guard pages in two views, both ends over it, raw accessors. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define POISON 0xa5

/* ---- Shapes ------------------------------------------------------------- */

struct virtq_features shape_features(const struct shape *shape)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	if (shape->packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (shape->event_idx)
		f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (shape->indirect)
		f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	if (shape->in_order)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	if (shape->platform)
		f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	if (shape->notification_data)
		f = virtq_features_with(f, VIRTIO_F_NOTIFICATION_DATA);
	return f;
}

uint32_t shape_position(const struct shape *shape)
{
	if (shape->moved)
		return shape->packed ? shape->start << 16 | shape->start : shape->start;
	return shape->packed ? 0x80008000u : 0;
}

/* ---- Memory ------------------------------------------------------------- */

static void *map_view(int fd, size_t page, size_t body)
{
	uint8_t *base = mmap(NULL, body + 2 * page, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_ptr_equal(mmap(base + page, body, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			      fd, 0), base + page);
	return base;
}

void piece_map(struct piece *p, size_t bytes, size_t align)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t body = (bytes + align - 1 + page - 1) / page * page;
	size_t start = (body - bytes) / align * align;
	int fd = memfd_create("rig", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)body), 0);
	p->bytes = bytes;
	p->slack = body - bytes - start;
	p->map_bytes = body + 2 * page;
	p->driver_map = map_view(fd, page, body);
	p->device_map = map_view(fd, page, body);
	p->driver = (uint8_t *)p->driver_map + page + start;
	p->device = (uint8_t *)p->device_map + page + start;
	close(fd);
	memset((uint8_t *)p->driver_map + page, POISON, start);
	memset(p->driver + bytes, POISON, p->slack);
}

void piece_protect(const struct piece *p, int driver, int device)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), body = p->map_bytes - 2 * page;

	assert_int_equal(mprotect((uint8_t *)p->driver_map + page, body, driver), 0);
	assert_int_equal(mprotect((uint8_t *)p->device_map + page, body, device), 0);
}

void piece_unmap(struct piece *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const uint8_t *at = p->driver_map;

	if (!at)
		return;
	for (at += page; at < p->driver; at++)
		assert_int_equal(*at, POISON);
	for (size_t i = 0; i < p->slack; i++)
		assert_int_equal(p->driver[p->bytes + i], POISON);
	munmap(p->driver_map, p->map_bytes);
	munmap(p->device_map, p->map_bytes);
	p->driver_map = NULL;
}

/* Ring memory as a ring that stands at @shape's position with nothing in flight holds it. */
static void fill_moved(struct rig *r)
{
	memset(r->desc.driver, 0, r->desc.bytes);
	memset(r->driver_area.driver, 0, r->driver_area.bytes);
	memset(r->device_area.driver, 0, r->device_area.bytes);
	if (!r->shape.packed) {
		put16(r->driver_area.driver + 2, (uint16_t)r->shape.start);
		put16(r->device_area.driver + 2, (uint16_t)r->shape.start);
		return;
	}
	/* Slots of this lap (wrap bit 0) are used with 0 in both bits, older ones with 1. */
	for (uint32_t i = r->shape.start; i < r->shape.size; i++)
		put16(r->desc.driver + 16 * (size_t)i + 14, F_AVAIL | F_USED);
}

void rig_memory(struct rig *r, const struct shape *shape)
{
	struct virtq_region regions[RIG_REGIONS + 1];
	size_t table_bytes = (size_t)shape->size * RIG_TABLE_ENTRIES * 16;

	memset(r, 0, sizeof(*r));
	r->shape = *shape;
	assert_int_equal(virtq_ring_shape(shape_features(shape), shape->size, &r->areas), 0);
	piece_map(&r->desc, r->areas.desc_bytes, r->areas.desc_align);
	piece_map(&r->driver_area, r->areas.driver_bytes, r->areas.driver_align);
	piece_map(&r->device_area, r->areas.device_bytes, r->areas.device_align);
	piece_map(&r->table, table_bytes, 16);
	memset(regions, 0, sizeof(regions));
	/* Mapped from the last to the first, so that neighbours by address are none in memory. */
	for (uint32_t i = RIG_REGIONS; i-- > 0;) {
		piece_map(&r->data[i], RIG_REGION_BYTES, 16);
		regions[i].gpa = RIG_DATA_GPA + i * RIG_REGION_BYTES;
		regions[i].size_bytes = RIG_REGION_BYTES;
		regions[i].host = r->data[i].device;
		regions[i].fd = -1;
		regions[i].access = i < RIG_REGIONS / 2 ? VIRTQ_ACCESS_READ : VIRTQ_ACCESS_RW;
		/* S-DEV-003, P-DEV-001: the device never stores into readable buffers. */
		if (i < RIG_REGIONS / 2)
			piece_protect(&r->data[i], PROT_READ | PROT_WRITE, PROT_READ);
	}
	regions[RIG_REGIONS].gpa = RIG_TABLE_GPA;
	regions[RIG_REGIONS].size_bytes = table_bytes;
	regions[RIG_REGIONS].host = r->table.device;
	regions[RIG_REGIONS].fd = -1;
	regions[RIG_REGIONS].access = VIRTQ_ACCESS_READ;
	assert_int_equal(virtq_map_create(&r->map, regions, RIG_REGIONS + 1, NULL), 0);

	if (shape->moved) {
		fill_moved(r);
	} else {
		memset(r->desc.driver, 0xff, r->desc.bytes);
		memset(r->driver_area.driver, 0xff, r->driver_area.bytes);
		memset(r->device_area.driver, 0xff, r->device_area.bytes);
	}
	r->driver_ring.features = r->device_ring.features = shape_features(shape);
	r->driver_ring.size = r->device_ring.size = shape->size;
	r->driver_ring.desc = r->desc.driver;
	r->driver_ring.driver = r->driver_area.driver;
	r->driver_ring.device = r->device_area.driver;
	r->device_ring.desc = r->desc.device;
	r->device_ring.driver = r->driver_area.device;
	r->device_ring.device = r->device_area.device;
}

void rig_make_driver(struct rig *r)
{
	uint32_t position = shape_position(&r->shape);
	struct virtq_error err = { 0 };

	r->driver_config.ring = r->driver_ring;
	r->driver_config.keep = r->shape.keep;
	r->driver_config.position = r->shape.moved ? &position : NULL;
	if (r->shape.indirect) {
		r->driver_config.indirect = r->table.driver;
		r->driver_config.indirect_addr = RIG_TABLE_GPA;
		r->driver_config.indirect_entries = RIG_TABLE_ENTRIES;
		r->driver_config.indirect_from = 2;
	}
	if (virtq_driver_create(&r->driver, &r->driver_config, &err))
		fail_msg("driver end: %s", err.text);
	r->driver_config.position = NULL;
}

void rig_make_device(struct rig *r)
{
	uint32_t position = shape_position(&r->shape);
	struct virtq_error err = { 0 };

	r->device_config.ring = r->device_ring;
	r->device_config.map = r->map;
	r->device_config.position = r->shape.moved ? &position : NULL;
	if (virtq_device_create(&r->device, &r->device_config, &err))
		fail_msg("device end: %s", err.text);
	r->device_config.position = NULL;
}

void rig_open(struct rig *r, const struct shape *shape, unsigned int ends)
{
	int both = PROT_READ | PROT_WRITE;

	rig_memory(r, shape);
	if (ends & RIG_DRIVER) {
		rig_make_driver(r);
	} else if (!shape->moved) {
		memset(r->desc.driver, 0, r->desc.bytes);
		memset(r->driver_area.driver, 0, r->driver_area.bytes);
		memset(r->device_area.driver, 0, r->device_area.bytes);
	}
	/*
	 * S-DEV-005, N-DEV-015: the device writes neither table nor Driver
	 * Area; N-DRV-015: nor the driver, once it is made, the Device Area.
	 */
	piece_protect(&r->desc, both, shape->packed ? both : PROT_READ);
	piece_protect(&r->driver_area, both, PROT_READ);
	piece_protect(&r->device_area, PROT_READ, both);
	piece_protect(&r->table, both, PROT_READ);
	if (ends & RIG_DEVICE)
		rig_make_device(r);
}

void rig_close(struct rig *r)
{
	virtq_driver_destroy(r->driver);
	virtq_device_destroy(r->device);
	virtq_map_unref(r->map);
	piece_unmap(&r->desc);
	piece_unmap(&r->driver_area);
	piece_unmap(&r->device_area);
	piece_unmap(&r->table);
	for (uint32_t i = 0; i < RIG_REGIONS; i++)
		piece_unmap(&r->data[i]);
}

uint8_t *rig_at(struct rig *r, uint64_t gpa)
{
	uint64_t off = gpa - RIG_DATA_GPA;

	assert_true(gpa >= RIG_DATA_GPA && gpa < RIG_END_GPA);
	return r->data[off / RIG_REGION_BYTES].driver + off % RIG_REGION_BYTES;
}

void rig_poke(struct rig *r, uint64_t gpa, const void *src, size_t len)
{
	const uint8_t *from = src;

	for (size_t i = 0; i < len; i++)
		*rig_at(r, gpa + i) = from[i];
}

void rig_peek(struct rig *r, uint64_t gpa, void *dst, size_t len)
{
	uint8_t *to = dst;

	for (size_t i = 0; i < len; i++)
		to[i] = *rig_at(r, gpa + i);
}

/* ---- Short ways --------------------------------------------------------- */

void *token_of(uintptr_t n)
{
	return (void *)(n + 1);
}

uintptr_t token_value(const void *token)
{
	return (uintptr_t)token - 1;
}

void rig_fault_is(struct virtq_fault f, enum virtq_fault_code code, uint32_t index, uint64_t value)
{
	if (f.code != code || f.index != index || f.value != value)
		fail_msg("fault \"%s\" at %u, value 0x%llx; not \"%s\" at %u, value 0x%llx",
			 virtq_fault_text(f.code), f.index, (unsigned long long)f.value,
			 virtq_fault_text(code), index, (unsigned long long)value);
}

int rig_add(struct rig *r, uint64_t addr, uint32_t len, bool writable, void *token)
{
	struct virtq_seg seg = { .addr = addr, .len = len };
	struct virtq_buffer buf = { &seg, !writable, writable, token };

	return virtq_driver_add(r->driver, &buf, 1);
}

int rig_send(struct rig *r, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(rig_add(r, RIG_WRITABLE_GPA + i, 1, true, token_of(i)), 1);
	return virtq_driver_publish(r->driver);
}

int rig_serve(struct rig *r, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		struct virtq_req *req;

		assert_int_equal(virtq_device_pop(r->device, &req, 1), 1);
		virtq_device_push(r->device, &req, 1);
	}
	return virtq_device_publish(r->device);
}

void rig_collect(struct rig *r, unsigned int count)
{
	struct virtq_completion done;

	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(virtq_driver_get(r->driver, &done, 1), 1);
	assert_int_equal(virtq_driver_get(r->driver, &done, 1), 0);
}

/* ---- Raw bytes ---------------------------------------------------------- */

void put16(void *p, uint16_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

void put32(void *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

void put64(void *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

uint16_t get16(const void *p)
{
	const uint8_t *b = p;

	return (uint16_t)(b[0] | b[1] << 8);
}

uint32_t get32(const void *p)
{
	return get16(p) | (uint32_t)get16((const uint8_t *)p + 2) << 16;
}

uint64_t get64(const void *p)
{
	return get32(p) | (uint64_t)get32((const uint8_t *)p + 4) << 32;
}

uint8_t *split_desc(struct rig *r, uint32_t slot)
{
	return r->desc.driver + 16 * (size_t)slot;
}

uint8_t *avail_idx(struct rig *r)
{
	return r->driver_area.driver + 2;
}

uint8_t *avail_ring(struct rig *r, uint16_t idx)
{
	return r->driver_area.driver + 4 + 2 * (size_t)(idx % r->shape.size);
}

uint8_t *used_event(struct rig *r)
{
	return r->driver_area.driver + 4 + 2 * (size_t)r->shape.size;
}

uint8_t *used_flags(struct rig *r)
{
	return r->device_area.device;
}

uint8_t *used_idx(struct rig *r)
{
	return r->device_area.device + 2;
}

uint8_t *used_ring(struct rig *r, uint16_t idx)
{
	return r->device_area.device + 4 + 8 * (size_t)(idx % r->shape.size);
}

uint8_t *avail_event(struct rig *r)
{
	return r->device_area.device + 4 + 8 * (size_t)r->shape.size;
}

/* ---- Snapshots ---------------------------------------------------------- */

static void copy_ring(struct rig *r, uint8_t *to)
{
	const struct piece *pieces[] = { &r->desc, &r->driver_area, &r->device_area, &r->table };

	for (size_t i = 0; i < 4; i++) {
		memcpy(to, pieces[i]->driver, pieces[i]->bytes);
		to += pieces[i]->bytes;
	}
}

struct snapshot snapshot_take(struct rig *r)
{
	struct snapshot s = {
		.len = r->desc.bytes + r->driver_area.bytes + r->device_area.bytes + r->table.bytes,
	};

	s.bytes = malloc(s.len);
	assert_non_null(s.bytes);
	copy_ring(r, s.bytes);
	return s;
}

void snapshot_same(struct rig *r, struct snapshot *s)
{
	uint8_t *now = malloc(s->len);

	assert_non_null(now);
	copy_ring(r, now);
	assert_int_equal(memcmp(now, s->bytes, s->len), 0);
	free(now);
	free(s->bytes);
}

/* ---- The table of shapes ------------------------------------------------ */

static const uint32_t split_sizes[] = { 1, 2, 256, 32768 };
static const uint32_t packed_sizes[] = { 1, 2, 3, 5, 256, 32768 };

static struct shape shapes[160];
static size_t shape_count;

static void shapes_fill(void)
{
	for (unsigned int bits = 0; bits < 32; bits++) {
		bool packed = bits & 1;
		size_t sizes = packed ? 6 : 4;

		for (size_t i = 0; i < sizes; i++) {
			struct shape *s = &shapes[shape_count++];

			s->packed = packed;
			s->event_idx = bits & 2;
			s->indirect = bits & 4;
			s->moved = bits & 8;
			s->in_order = bits & 16;
			s->size = packed ? packed_sizes[i] : split_sizes[i];
			s->start = !s->moved ? 0 : packed ? s->size / 2 : 65533;
			snprintf(s->name, sizeof(s->name), "%s %u%s%s%s%s",
				 packed ? "packed" : "split", s->size,
				 s->event_idx ? " event" : "", s->indirect ? " indirect" : "",
				 s->in_order ? " in order" : "",
				 !s->moved ? "" : packed ? " mid-lap" : " from 65533");
		}
	}
}

static bool allowed(const struct shape *s, unsigned int only)
{
	return !((only & ONLY_SPLIT && s->packed) || (only & ONLY_PACKED && !s->packed) ||
		 (only & ONLY_EVENT && !s->event_idx) || (only & ONLY_NO_EVENT && s->event_idx) ||
		 (only & ONLY_INDIRECT && !s->indirect) || (only & ONLY_DIRECT && s->indirect) ||
		 (only & ONLY_NEW && s->moved) || (only & NOT_HUGE && s->size > 256) ||
		 (only & AT_LEAST_2 && s->size < 2) || (only & AT_LEAST_5 && s->size < 5) ||
		 (only & AT_LEAST_256 && s->size < 256) ||
		 (!(only & ALSO_IN_ORDER) && s->in_order));
}

static void add_test(struct matrix *m, char *name, CMUnitTestFunction fn, struct shape *shape)
{
	if (m->count == m->room) {
		m->room = m->room ? 2 * m->room : 64;
		m->tests = realloc(m->tests, m->room * sizeof(*m->tests));
		if (!m->tests)
			abort();
	}
	m->tests[m->count++] = (struct CMUnitTest){ name, fn, NULL, NULL, shape };
}

void matrix_add_shapes(struct matrix *m, const char *name, CMUnitTestFunction fn,
		       struct shape *own, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(name) + sizeof(own[i].name) + 4;
		char *full = malloc(len);

		if (!full)
			abort();
		snprintf(full, len, "%s [%s]", name, own[i].name);
		add_test(m, full, fn, &own[i]);
	}
}

void matrix_add(struct matrix *m, const char *name, CMUnitTestFunction fn, unsigned int only)
{
	if (!shape_count)
		shapes_fill();
	for (size_t i = 0; i < shape_count; i++)
		if (allowed(&shapes[i], only))
			matrix_add_shapes(m, name, fn, &shapes[i], 1);
}

void matrix_add_one(struct matrix *m, const char *name, CMUnitTestFunction fn)
{
	char *copy = strdup(name);

	if (!copy)
		abort();
	add_test(m, copy, fn, NULL);
}

int matrix_run(struct matrix *m, const char *group)
{
	int failed = _cmocka_run_group_tests(group, m->tests, m->count, NULL, NULL);

	for (size_t i = 0; i < m->count; i++)
		free((void *)(uintptr_t)m->tests[i].name);
	free(m->tests);
	return failed ? 1 : 0;
}
