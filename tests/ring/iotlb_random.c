/* SPDX-License-Identifier: MIT */
/*
 * Traffic at random while translations come, go, move and are denied, against a
 * plain model: one cell for each page, and for each piece of the tables. What pop
 * returns, what it asks for, every pointer, every byte and every fault has to be
 * what the model says.
 */
#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <virtq/iotlb.h>

#define PAGE 4096u
#define PAGES 24u		/* of I/O addresses, for each direction */
#define HOST_PAGES 256u		/* that they may lie in */
#define READ_IOVA 0xfffffffffff00000u
#define WRITE_IOVA 0x7000u
/* Tables are told in pieces that end inside entries; neighbours differ in access. */
#define GRAIN 40u
#define GRAINS_MAX 1024u
#define CHAINS_MAX 256u
#define ELEMS_MAX 5u
#define PIECES_MAX (ELEMS_MAX * 4)

struct cell {
	bool known;
	unsigned int access;
	uint8_t *host;		/* where it begins, as the device sees it */
};

struct piece_at {
	uint8_t *host;
	uint32_t len;
};

struct sent {
	struct virtq_seg segs[ELEMS_MAX];
	uint16_t readable, writable;
	bool indirect;
	uint64_t table;
	uint32_t written;
	/* As the model translated it when it was popped. */
	struct piece_at pieces[PIECES_MAX];
	uint32_t piece_count, read_pieces;
	struct virtq_req *req;
};

struct world {
	struct rig r;
	struct virtq_iotlb *tlb;
	struct cell pages[2][PAGES], grains[GRAINS_MAX];
	uint32_t grain_count, at;
	struct sent sent[CHAINS_MAX];
	/* Numbers of chains: free ones, published ones in order, ones on loan, in order too. */
	uint32_t spare[CHAINS_MAX], waiting[CHAINS_MAX], loans[CHAINS_MAX];
	uint32_t spare_count, waiting_count, loan_count;
	uint64_t misses, pops, denied;
	uint64_t seed;
};

static uint32_t rnd(struct world *w, uint32_t below)
{
	w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(w->seed >> 33) % below;
}

/* What stands at an offset into the readable memory, for good. */
static uint8_t stands_at(size_t off)
{
	return (uint8_t)(off * 31 + off / PAGE);
}

/* ---- The model -------------------------------------------------------------- */

/* The cell for @iova, and how many bytes of it are left there. */
static struct cell *cell_at(struct world *w, uint64_t iova, uint64_t *left, uint8_t **host)
{
	uint64_t off, unit = PAGE;
	struct cell *cells;

	if (iova >= READ_IOVA) {
		cells = w->pages[0];
		off = iova - READ_IOVA;
	} else if (iova >= RIG_TABLE_GPA) {
		cells = w->grains;
		off = iova - RIG_TABLE_GPA;
		unit = GRAIN;
	} else {
		cells = w->pages[1];
		off = iova - WRITE_IOVA;
	}
	*left = unit - off % unit;
	*host = cells[off / unit].host + off % unit;
	return &cells[off / unit];
}

/* 0, or what is wrong with @len bytes at @iova: -EAGAIN or -EBADMSG, at *@byte. */
static int look(struct world *w, uint64_t iova, uint64_t len, unsigned int access, uint64_t *byte,
		struct sent *into)
{
	while (len) {
		uint64_t left;
		uint8_t *host;
		struct cell *cell = cell_at(w, iova, &left, &host);

		*byte = iova;
		if (!cell->known)
			return -EAGAIN;
		if ((cell->access & access) != access)
			return -EBADMSG;
		if (left > len)
			left = len;
		if (into)
			into->pieces[into->piece_count++] =
				(struct piece_at){ host, (uint32_t)left };
		iova += left;
		len -= left;
	}
	return 0;
}

/* What a pop of @s has to say. */
static int translate(struct world *w, struct sent *s, struct virtq_miss *miss)
{
	uint32_t count = (uint32_t)s->readable + s->writable;
	int rc = 0;

	s->piece_count = s->read_pieces = 0;
	miss->access = VIRTQ_ACCESS_READ;
	if (s->indirect)
		rc = look(w, s->table, 1, VIRTQ_ACCESS_READ, &miss->addr, NULL);
	for (uint32_t i = 0; i < count && !rc; i++) {
		miss->access = VIRTQ_ACCESS_READ;
		if (s->indirect)
			rc = look(w, s->table + 16 * i, 16, VIRTQ_ACCESS_READ, &miss->addr, NULL);
		if (rc)
			break;
		miss->access = i < s->readable ? VIRTQ_ACCESS_READ : VIRTQ_ACCESS_WRITE;
		rc = look(w, s->segs[i].addr, s->segs[i].len, miss->access, &miss->addr, s);
		if (i < s->readable)
			s->read_pieces = s->piece_count;
	}
	return rc;
}

/* The spans of @c are the @count pieces; pieces that lie in a row may have become one. */
static void compare_spans(const struct virtq_cursor *c, const struct piece_at *pieces,
			  uint32_t count)
{
	uint32_t span = 0;
	uint64_t used = 0, bytes = 0;

	for (uint32_t i = 0; i < count; i++) {
		assert_true(span < c->count);
		assert_ptr_equal((uint8_t *)c->spans[span].base + used, pieces[i].host);
		assert_true(c->spans[span].len - used >= pieces[i].len);
		used += pieces[i].len;
		bytes += pieces[i].len;
		if (used == c->spans[span].len) {
			span++;
			used = 0;
		}
	}
	assert_int_equal(span, c->count);
	assert_int_equal(bytes, c->bytes);
}

/* ---- What is told ------------------------------------------------------------- */

static void tell_page(struct world *w, uint32_t writable, uint32_t page)
{
	struct cell *cell = &w->pages[writable][page];

	cell->known = true;
	cell->host = w->r.data[2 * writable].device + (size_t)rnd(w, HOST_PAGES) * PAGE;
	cell->access = rnd(w, 4) ? VIRTQ_ACCESS_RW :
		       writable ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
	if (!rnd(w, 250))
		cell->access = writable ? VIRTQ_ACCESS_READ : VIRTQ_ACCESS_WRITE;
	assert_int_equal(virtq_iotlb_update(w->tlb, (writable ? WRITE_IOVA : READ_IOVA) +
					    (uint64_t)page * PAGE, PAGE, cell->host,
					    cell->access), 0);
}

static void tell_grain(struct world *w, uint32_t i)
{
	struct cell *cell = &w->grains[i];
	uint64_t len = w->r.table.bytes - (size_t)i * GRAIN;

	cell->known = true;
	cell->access = i % 2 ? VIRTQ_ACCESS_RW : VIRTQ_ACCESS_READ;
	if (!rnd(w, 250))
		cell->access = VIRTQ_ACCESS_WRITE;
	assert_int_equal(virtq_iotlb_update(w->tlb, RIG_TABLE_GPA + (uint64_t)i * GRAIN,
					    len < GRAIN ? len : GRAIN, cell->host, cell->access),
			 0);
}

static void tell_byte(struct world *w, uint64_t iova)
{
	if (iova >= READ_IOVA)
		tell_page(w, 0, (uint32_t)((iova - READ_IOVA) / PAGE));
	else if (iova >= RIG_TABLE_GPA)
		tell_grain(w, (uint32_t)((iova - RIG_TABLE_GPA) / GRAIN));
	else
		tell_page(w, 1, (uint32_t)((iova - WRITE_IOVA) / PAGE));
}

/* Take back a run of cells: of pages, or of the tables. */
static void take_back(struct world *w)
{
	uint32_t what = rnd(w, 3), cells = what < 2 ? PAGES : w->grain_count;
	uint32_t first = rnd(w, cells), count = 1 + rnd(w, 4);
	struct cell *cell = what < 2 ? w->pages[what] : w->grains;
	uint64_t base = what == 2 ? RIG_TABLE_GPA : what ? WRITE_IOVA : READ_IOVA;
	uint64_t unit = what == 2 ? GRAIN : PAGE;

	if (!rnd(w, 60)) {
		memset(w->pages, 0, sizeof(w->pages));
		for (uint32_t i = 0; i < w->grain_count; i++)
			w->grains[i].known = false;
		virtq_iotlb_invalidate(w->tlb, rnd(w, 1000), 0);
		return;
	}
	if (count > cells - first)
		count = cells - first;
	for (uint32_t i = first; i < first + count; i++)
		cell[i].known = false;
	virtq_iotlb_invalidate(w->tlb, base + first * unit, count * unit);
}

/* ---- Traffic ------------------------------------------------------------------ */

static void send(struct world *w)
{
	uint32_t max = w->r.shape.size < ELEMS_MAX ? w->r.shape.size : ELEMS_MAX;
	uint32_t count = rnd(w, 2) ? 1 : 1 + rnd(w, max), number, room, entries;
	struct virtq_buffer buf;
	struct sent *s;
	int rc;

	if (!w->spare_count)
		return;
	number = w->spare[w->spare_count - 1];
	s = &w->sent[number];
	s->readable = (uint16_t)rnd(w, count + 1);
	s->writable = (uint16_t)(count - s->readable);
	s->written = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t page = rnd(w, PAGES - 3), off = rnd(w, PAGE);
		uint32_t len = rnd(w, 3) ? 1 + rnd(w, 300) : 1 + rnd(w, 3 * PAGE);

		/* Many at one place, so that the hint is worth something. */
		if (rnd(w, 2))
			page = 0;
		s->segs[i].addr = (i < s->readable ? READ_IOVA : WRITE_IOVA) + page * PAGE + off;
		s->segs[i].len = len;
		s->written += i < s->readable ? 0 : len;
	}
	buf = (struct virtq_buffer){ s->segs, s->readable, s->writable, token_of(number) };
	room = virtq_driver_room(w->r.driver);
	rc = virtq_driver_add(w->r.driver, &buf, 1);
	if (rc == -ENOSPC)
		return;
	assert_int_equal(rc, 1);
	entries = room - virtq_driver_room(w->r.driver);
	s->indirect = entries < count;
	s->table = get64(w->r.desc.driver + 16 * (size_t)(w->r.shape.packed ? w->at :
			 get16(avail_ring(&w->r, (uint16_t)w->at))));
	w->at = w->r.shape.packed ? (w->at + entries) % w->r.shape.size : (w->at + 1) & 0xffff;
	w->spare_count--;
	w->waiting[w->waiting_count++] = number;
	virtq_driver_publish(w->r.driver);
}

/* Returns false if the queue is broken now, as it had to be. */
static bool pop(struct world *w)
{
	uint32_t max = 1 + rnd(w, 6), n = 0;
	struct virtq_req *reqs[6];
	struct virtq_miss miss = { 0 };
	int expected = 0, rc;

	while (n < max && n < w->waiting_count && !expected) {
		expected = translate(w, &w->sent[w->waiting[n]], &miss);
		if (!expected)
			n++;
	}
	rc = virtq_device_pop(w->r.device, reqs, max);
	assert_int_equal(rc, n ? (int)n : expected);
	for (uint32_t i = 0; i < n; i++) {
		struct sent *s = &w->sent[w->waiting[i]];

		compare_spans(&reqs[i]->rd, s->pieces, s->read_pieces);
		compare_spans(&reqs[i]->wr, s->pieces + s->read_pieces,
			      s->piece_count - s->read_pieces);
		s->req = reqs[i];
		w->loans[w->loan_count++] = w->waiting[i];
		w->pops++;
	}
	w->waiting_count -= n;
	memmove(w->waiting, w->waiting + n, w->waiting_count * sizeof(w->waiting[0]));
	assert_int_equal(virtq_device_in_flight(w->r.device), w->loan_count);
	if (expected == -EBADMSG) {
		struct virtq_fault fault = virtq_device_fault(w->r.device);

		assert_int_equal(fault.code, VIRTQ_FAULT_ADDRESS);
		assert_int_equal(fault.value, miss.addr);
		assert_int_equal(virtq_device_pop(w->r.device, reqs, max), -EBADMSG);
		w->denied++;
		return false;
	}
	assert_int_equal(virtq_device_fault(w->r.device).code, VIRTQ_FAULT_NONE);
	if (rc == -EAGAIN) {
		assert_int_equal(virtq_device_miss(w->r.device).addr, miss.addr);
		assert_int_equal(virtq_device_miss(w->r.device).access, miss.access);
		w->misses++;
		if (rnd(w, 4))
			tell_byte(w, miss.addr);
	}
	return true;
}

/* Use a loan, which may be older than much that was taken back since, and return it. */
static void push(struct world *w)
{
	uint32_t i, number;
	struct sent *s;
	uint8_t *copy;

	if (!w->loan_count) {
		virtq_device_publish(w->r.device);
		return;
	}
	i = rnd(w, w->loan_count);
	number = w->loans[i];
	s = &w->sent[number];
	w->loans[i] = w->loans[--w->loan_count];
	copy = malloc(ELEMS_MAX * 4 * PAGE);
	assert_non_null(copy);
	for (uint32_t k = 0; k < s->read_pieces; k++) {
		uint32_t len = s->pieces[k].len;
		size_t off = (size_t)(s->pieces[k].host - w->r.data[0].device);

		assert_int_equal(virtq_req_read(s->req, copy, len), len);
		assert_int_equal(copy[0], stands_at(off));
		assert_int_equal(copy[len - 1], stands_at(off + len - 1));
		assert_memory_equal(copy, w->r.data[0].driver + off, len);
	}
	assert_int_equal(virtq_req_read(s->req, copy, 1), 0);
	for (uint32_t k = s->read_pieces; k < s->piece_count; k++) {
		uint32_t len = s->pieces[k].len;
		size_t off = (size_t)(s->pieces[k].host - w->r.data[2].device);

		memset(copy, (int)(1 + rnd(w, 255)), len);
		assert_int_equal(virtq_req_write(s->req, copy, len), len);
		assert_memory_equal(w->r.data[2].driver + off, copy, len);
	}
	assert_int_equal(virtq_req_write(s->req, copy, 1), 0);
	free(copy);
	virtq_device_push(w->r.device, &s->req, 1);
	if (rnd(w, 2))
		virtq_device_publish(w->r.device);
}

static void get(struct world *w)
{
	struct virtq_completion done[8];
	int n = virtq_driver_get(w->r.driver, done, 1 + rnd(w, 8));

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		uint32_t number = (uint32_t)token_value(done[i].token);

		assert_int_equal(done[i].written, w->sent[number].written);
		w->spare[w->spare_count++] = number;
	}
}

/* ---- Runs ----------------------------------------------------------------------- */

static void world_open(struct world *w, const struct shape *shape)
{
	struct rig *r = &w->r;
	int both = PROT_READ | PROT_WRITE;

	rig_memory(r, shape);
	r->driver_ring.features = virtq_features_with(r->driver_ring.features,
						      VIRTIO_F_ACCESS_PLATFORM);
	r->device_ring.features = r->driver_ring.features;
	rig_make_driver(r);
	piece_protect(&r->desc, both, shape->packed ? both : PROT_READ);
	piece_protect(&r->driver_area, both, PROT_READ);
	piece_protect(&r->device_area, PROT_READ, both);
	piece_protect(&r->table, both, PROT_READ);
	for (size_t i = 0; i < r->data[0].bytes; i++)
		r->data[0].driver[i] = stands_at(i);
	assert_int_equal(virtq_iotlb_create(&w->tlb, 2 * GRAINS_MAX, NULL), 0);
	r->device_config.iotlb = w->tlb;
	r->device_config.long_chains = CHAINS_MAX;
	rig_make_device(r);
	w->at = shape->moved ? shape->start : 0;
	w->grain_count = (uint32_t)((r->table.bytes + GRAIN - 1) / GRAIN);
	assert_true(w->grain_count <= GRAINS_MAX);
	for (uint32_t i = 0; i < w->grain_count; i++)
		w->grains[i].host = r->table.device + (size_t)i * GRAIN;
	for (uint32_t i = 0; i < CHAINS_MAX && i < shape->size; i++)
		w->spare[w->spare_count++] = i;
}

/* One step; false if the queue is broken now. */
static bool step(struct world *w)
{
	switch (rnd(w, 16)) {
	case 0: case 1: case 2: case 3: case 4:
		send(w);
		return true;
	case 5: case 6: case 7: case 8: case 9:
		return pop(w);
	case 10: case 11:
		push(w);
		return true;
	case 12: case 13:
		get(w);
		return true;
	case 14:
		if (!rnd(w, 3))
			take_back(w);
		return true;
	default:
		if (rnd(w, 2))
			tell_grain(w, rnd(w, w->grain_count));
		else
			tell_page(w, rnd(w, 2), rnd(w, PAGES));
		return true;
	}
}

/* VU-BE-090: what comes is what is known at that moment, by the model. */
static void test_random(void **state)
{
	uint64_t misses = 0, pops = 0, denied = 0;
	uint32_t steps = 0;

	for (uint64_t seed = 1; steps < 120000; seed++) {
		struct world *w = calloc(1, sizeof(*w));

		assert_non_null(w);
		w->seed = seed * 1000003;
		world_open(w, *state);
		for (uint32_t i = 0; i < 8000 && steps++ < 120000 && step(w); i++)
			;
		misses += w->misses;
		pops += w->pops;
		denied += w->denied;
		rig_close(&w->r);
		virtq_iotlb_destroy(w->tlb);
		free(w);
	}
	/* It was a test. */
	assert_true(pops > 3000);
	assert_true(misses > 1000);
	assert_true(denied > 5);
}

int main(void)
{
	struct shape shapes[] = {
		{ .size = 1, .name = "split 1" },
		{ .size = 8, .event_idx = true, .name = "split 8 event" },
		{ .size = 16, .indirect = true, .moved = true, .start = 65533,
		  .name = "split 16 indirect from 65533" },
		{ .size = 256, .indirect = true, .event_idx = true, .name = "split 256 indirect" },
		{ .size = 16, .in_order = true, .indirect = true, .name = "split 16 in order" },
		{ .size = 8, .in_order = true, .moved = true, .start = 65533, .platform = true,
		  .name = "split 8 in order platform" },
		{ .packed = true, .size = 1, .name = "packed 1" },
		{ .packed = true, .size = 3, .indirect = true, .name = "packed 3 indirect" },
		{ .packed = true, .size = 9, .event_idx = true, .name = "packed 9 event" },
		{ .packed = true, .size = 13, .indirect = true, .moved = true, .start = 11,
		  .name = "packed 13 indirect mid-lap" },
		{ .packed = true, .size = 200, .indirect = true, .name = "packed 200 indirect" },
		{ .packed = true, .size = 13, .in_order = true, .indirect = true,
		  .name = "packed 13 in order" },
		{ .packed = true, .size = 8, .in_order = true, .moved = true, .start = 7,
		  .platform = true, .name = "packed 8 in order platform" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "translations at random", test_random, shapes,
			  sizeof(shapes) / sizeof(shapes[0]));
	return matrix_run(&m, "IOTLB at random");
}
