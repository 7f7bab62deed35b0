/* SPDX-License-Identifier: MIT */
/*
 * A rig whose device end finds addresses in an IOTLB, and the list of what there
 * is to be known, by which a test can tell what is asked for next and where each
 * byte of a chain lies.
 */
#ifndef TESTS_RING_IOTLB_RIG_H
#define TESTS_RING_IOTLB_RIG_H

#include "rig.h"

#include <sys/mman.h>

#include <virtq/iotlb.h>

#define PAGE 4096u
/* Where pages for readable and for writable elements are, as descriptors name them. */
#define READ_IOVA 0xffffa00000000000u
#define WRITE_IOVA 0x80000000u

/* One translation, told or not. */
struct trans {
	uint64_t iova, len;
	uint8_t *device, *driver;	/* the two views of what is there */
	unsigned int access;
	bool known;
};

struct elem {
	uint64_t iova;
	uint32_t len;
	bool writable;
};

struct world {
	struct rig r;
	struct virtq_iotlb *tlb;
	bool tlb_is_ours;
	struct trans trans[96];
	uint32_t count;
	struct trans *table;		/* the first: all tables in one piece */
	uint32_t at;			/* where the next chain will stand: index or slot */
	bool went_indirect;		/* the chain added last */
	uint64_t table_iova;
	uint32_t table_len;
};

static inline unsigned int access_of(bool writable)
{
	return writable ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
}

static inline uint64_t page_iova(bool writable, uint32_t page)
{
	return (writable ? WRITE_IOVA : READ_IOVA) + (uint64_t)page * PAGE;
}

/* Neighbours by I/O address are none in memory. */
static inline uint64_t page_gpa(bool writable, uint32_t page)
{
	return (writable ? RIG_WRITABLE_GPA : RIG_DATA_GPA) + (uint64_t)(page * 7 + 3) % 256 * PAGE;
}

/* What stands at an I/O address, before and, if the device writes, after. */
static inline uint8_t content(uint64_t iova, bool written)
{
	return (uint8_t)(iova ^ iova >> 8 ^ iova >> 16 ^ (written ? 0x80 : 0));
}

/* ---- What there is to be known --------------------------------------------- */

/* One more translation, to memory that the map calls @gpa; not told yet. */
static inline struct trans *lay(struct world *w, uint64_t iova, uint64_t len, uint64_t gpa,
				unsigned int access)
{
	struct trans *t = &w->trans[w->count++];
	bool in_table = gpa >= RIG_TABLE_GPA;
	const struct piece *p = in_table ? &w->r.table :
				&w->r.data[(gpa - RIG_DATA_GPA) / RIG_REGION_BYTES];
	uint64_t off = in_table ? gpa - RIG_TABLE_GPA : (gpa - RIG_DATA_GPA) % RIG_REGION_BYTES;

	assert_true(w->count <= sizeof(w->trans) / sizeof(w->trans[0]));
	*t = (struct trans){ iova, len, p->device + off, p->driver + off, access, false };
	for (uint64_t i = 0; i < len && !in_table; i++)
		t->driver[i] = content(iova + i, false);
	return t;
}

static inline struct trans *lay_page(struct world *w, bool writable, uint32_t page)
{
	return lay(w, page_iova(writable, page), PAGE, page_gpa(writable, page),
		   access_of(writable));
}

/*
 * @len bytes of the table of the chain added last, from @off on, lie elsewhere:
 * @where bytes into a region. They are copied there; what stood before is junk.
 */
static inline struct trans *lay_table(struct world *w, uint32_t off, uint32_t len, uint32_t where)
{
	uint8_t *from = w->r.table.driver + (w->table_iova - RIG_TABLE_GPA) + off;
	struct trans *t;

	if (!len)
		return NULL;
	t = lay(w, w->table_iova + off, len, RIG_DATA_GPA + RIG_REGION_BYTES + where,
		VIRTQ_ACCESS_READ);
	memcpy(t->driver, from, len);
	memset(from, 0xee, len);
	return t;
}

static inline void tell(struct world *w, struct trans *t)
{
	assert_int_equal(virtq_iotlb_update(w->tlb, t->iova, t->len, t->device, t->access), 0);
	t->known = true;
}

static inline void forget(struct world *w, struct trans *t)
{
	virtq_iotlb_invalidate(w->tlb, t->iova, t->len);
	t->known = false;
}

/* The translation for @iova, laid last if there are several. */
static inline struct trans *trans_at(struct world *w, uint64_t iova)
{
	for (uint32_t i = w->count; i-- > 0;)
		if (iova - w->trans[i].iova < w->trans[i].len)
			return &w->trans[i];
	fail_msg("nothing is laid at 0x%llx", (unsigned long long)iova);
	return NULL;
}

/* ---- The rig ------------------------------------------------------------------ */

/* With @entries in a table of our own, or, if that is 0, on @tlb; 0 @long_chains: as usual. */
static inline void world_open_with(struct world *w, const struct shape *shape, uint32_t entries,
				   struct virtq_iotlb *tlb, uint32_t long_chains)
{
	struct rig *r = &w->r;
	int both = PROT_READ | PROT_WRITE;

	memset(w, 0, sizeof(*w));
	rig_memory(r, shape);
	r->driver_ring.features = virtq_features_with(r->driver_ring.features,
						      VIRTIO_F_ACCESS_PLATFORM);
	r->device_ring.features = r->driver_ring.features;
	rig_make_driver(r);
	/* As rig_open() does it. */
	piece_protect(&r->desc, both, shape->packed ? both : PROT_READ);
	piece_protect(&r->driver_area, both, PROT_READ);
	piece_protect(&r->device_area, PROT_READ, both);
	piece_protect(&r->table, both, PROT_READ);
	w->tlb = tlb;
	w->tlb_is_ours = entries;
	if (entries)
		assert_int_equal(virtq_iotlb_create(&w->tlb, entries, NULL), 0);
	r->device_config.iotlb = w->tlb;
	r->device_config.long_chains = long_chains;
	rig_make_device(r);
	w->at = shape->moved ? shape->start : 0;
	w->table = lay(w, RIG_TABLE_GPA, r->table.bytes, RIG_TABLE_GPA, VIRTQ_ACCESS_READ);
}

static inline void world_open(struct world *w, const struct shape *shape, uint32_t entries)
{
	world_open_with(w, shape, entries, NULL, 0);
}

static inline void world_close(struct world *w)
{
	rig_close(&w->r);
	if (w->tlb_is_ours)
		virtq_iotlb_destroy(w->tlb);
}

/* Add a chain and look, in the ring, whether it has a table and where. */
static inline void add_chain(struct world *w, const struct elem *e, uint32_t count,
			     uintptr_t token)
{
	uint32_t room = virtq_driver_room(w->r.driver), size = w->r.shape.size, entries;
	struct virtq_buffer buf = { .token = token_of(token) };
	const uint8_t *desc;
	struct virtq_seg segs[8];

	assert_true(count <= 8);
	for (uint32_t i = 0; i < count; i++) {
		segs[i] = (struct virtq_seg){ e[i].iova, e[i].len };
		if (e[i].writable)
			buf.writable++;
		else
			buf.readable++;
	}
	buf.segs = segs;
	assert_int_equal(virtq_driver_add(w->r.driver, &buf, 1), 1);
	entries = room - virtq_driver_room(w->r.driver);
	w->went_indirect = entries < count;
	desc = w->r.desc.driver + 16 * (size_t)(w->r.shape.packed ? w->at :
				  get16(avail_ring(&w->r, (uint16_t)w->at)));
	if (w->went_indirect) {
		w->table_iova = get64(desc);
		w->table_len = get32(desc + 8);
	}
	w->at = w->r.shape.packed ? (w->at + entries) % size : (w->at + 1) & 0xffff;
}

/* ---- What should come ---------------------------------------------------------- */

/* The first unknown byte of @len at @iova; false if all is known. */
static inline bool first_unknown(struct world *w, uint64_t iova, uint64_t len, uint64_t *byte)
{
	while (len) {
		struct trans *t = trans_at(w, iova);
		uint64_t left = t->len - (iova - t->iova);

		*byte = iova;
		if (!t->known)
			return true;
		if (left > len)
			left = len;
		iova += left;
		len -= left;
	}
	return false;
}

/* What a walk of the chain added last meets first that is not known. */
static inline bool expected_miss(struct world *w, const struct elem *e, uint32_t count,
				 struct virtq_miss *miss)
{
	miss->access = VIRTQ_ACCESS_READ;
	if (w->went_indirect && first_unknown(w, w->table_iova, 1, &miss->addr))
		return true;
	for (uint32_t i = 0; i < count; i++) {
		miss->access = VIRTQ_ACCESS_READ;
		if (w->went_indirect &&
		    first_unknown(w, w->table_iova + 16 * i, 16, &miss->addr))
			return true;
		miss->access = access_of(e[i].writable);
		if (first_unknown(w, e[i].iova, e[i].len, &miss->addr))
			return true;
	}
	return false;
}

/*
 * Pop the chain added last, the only one in the ring, telling what is asked for
 * until it comes. Each time nothing but that must have happened. Returns how often.
 */
static inline int pop_by_misses(struct world *w, const struct elem *e, uint32_t count,
				struct virtq_req **req)
{
	struct virtq_device *dev = w->r.device;
	uint32_t position = virtq_device_position(dev);
	struct virtq_miss expected;
	int misses = 0;

	while (expected_miss(w, e, count, &expected)) {
		struct snapshot s = snapshot_take(&w->r);

		for (int i = 0; i < 2; i++) {
			struct virtq_miss miss;

			assert_int_equal(virtq_device_pop(dev, req, 1), -EAGAIN);
			miss = virtq_device_miss(dev);
			assert_int_equal(miss.addr, expected.addr);
			assert_int_equal(miss.access, expected.access);
			assert_int_equal(virtq_device_in_flight(dev), 0);
			assert_int_equal(virtq_device_position(dev), position);
			assert_int_equal(virtq_device_fault(dev).code, VIRTQ_FAULT_NONE);
			assert_int_equal(virtq_device_publish(dev), 0);
		}
		snapshot_same(&w->r, &s);
		tell(w, trans_at(w, expected.addr));
		misses++;
	}
	assert_int_equal(virtq_device_pop(dev, req, 1), 1);
	return misses;
}

/* The same by what the device asks for, for tables that forget. */
static inline int pop_by_told_misses(struct world *w, struct virtq_req **req)
{
	int misses = 0, rc;

	while ((rc = virtq_device_pop(w->r.device, req, 1)) == -EAGAIN && misses < 1000) {
		tell(w, trans_at(w, virtq_device_miss(w->r.device).addr));
		misses++;
	}
	assert_int_equal(rc, 1);
	return misses;
}

/* Each piece of each element is a span, at its place; and there are no others. */
static inline void expect_spans(struct world *w, const struct elem *e, uint32_t count,
				const struct virtq_req *req)
{
	uint64_t bytes[2] = { 0, 0 };
	uint32_t at[2] = { 0, 0 };

	for (uint32_t i = 0; i < count; i++) {
		const struct virtq_cursor *c = e[i].writable ? &req->wr : &req->rd;
		uint64_t iova = e[i].iova, left = e[i].len;

		bytes[e[i].writable] += left;
		while (left) {
			const struct trans *t = trans_at(w, iova);
			uint64_t off = iova - t->iova, len = t->len - off;

			if (len > left)
				len = left;
			assert_true(at[e[i].writable] < c->count);
			assert_ptr_equal(c->spans[at[e[i].writable]].base, t->device + off);
			assert_int_equal(c->spans[at[e[i].writable]].len, len);
			at[e[i].writable]++;
			iova += len;
			left -= len;
		}
	}
	assert_int_equal(req->rd.count, at[0]);
	assert_int_equal(req->wr.count, at[1]);
	assert_int_equal(req->rd.bytes, bytes[0]);
	assert_int_equal(req->wr.bytes, bytes[1]);
}

/* Read and write all of a chain through its request, give it back, and see it come. */
static inline void finish(struct world *w, const struct elem *e, uint32_t count,
			  struct virtq_req *req, uintptr_t token)
{
	struct virtq_completion done;
	uint64_t written = 0;

	expect_spans(w, e, count, req);
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t k = 0; k < e[i].len; k++) {
			uint64_t iova = e[i].iova + k;
			uint8_t byte = content(iova, true);

			if (e[i].writable) {
				assert_int_equal(virtq_req_write(req, &byte, 1), 1);
				continue;
			}
			assert_int_equal(virtq_req_read(req, &byte, 1), 1);
			assert_int_equal(byte, content(iova, false));
		}
		written += e[i].writable ? e[i].len : 0;
	}
	virtq_device_push(w->r.device, &req, 1);
	virtq_device_publish(w->r.device);
	assert_int_equal(virtq_driver_get(w->r.driver, &done, 1), 1);
	assert_int_equal(token_value(done.token), token);
	assert_int_equal(done.written, written);
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t k = 0; k < e[i].len && e[i].writable; k++) {
			const struct trans *t = trans_at(w, e[i].iova + k);

			assert_int_equal(t->driver[e[i].iova + k - t->iova],
					 content(e[i].iova + k, true));
		}
}

/* ---- Shapes beside those of the table --------------------------------------------- */

#define PLATFORM_SHAPES 6u

/* ORDER_PLATFORM. */
static inline void platform_shapes(struct shape *shapes)
{
	static const struct shape all[PLATFORM_SHAPES] = {
		{ .size = 8, .event_idx = true, .name = "split platform" },
		{ .size = 8, .indirect = true, .moved = true, .start = 65533,
		  .name = "split platform indirect from 65533" },
		{ .packed = true, .size = 7, .event_idx = true, .name = "packed platform" },
		{ .packed = true, .size = 7, .indirect = true, .moved = true, .start = 6,
		  .name = "packed platform indirect mid-lap" },
		{ .size = 8, .in_order = true, .indirect = true,
		  .name = "split platform in order" },
		{ .packed = true, .size = 7, .in_order = true, .indirect = true,
		  .name = "packed platform in order" },
	};

	memcpy(shapes, all, sizeof(all));
	for (uint32_t i = 0; i < PLATFORM_SHAPES; i++)
		shapes[i].platform = true;
}

#endif
