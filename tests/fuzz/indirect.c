/* SPDX-License-Identifier: MIT */
/*
 * Indirect tables at any address and of any contents, in a ring that is
 * otherwise right. What the device end makes of each is compared, element by
 * element, with a walk that reads byte by byte and knows no shortcuts: it must
 * lend exactly those spans, or refuse exactly then. S-DEV, P-DEV: 2.7.5.3, 2.8.7.
 */
#include <errno.h>

#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#include "memory.h"

#define RING_SIZE 4u
#define TABLE_MAX 40u			/* entries that are written */
#define PIECES_MAX 1200u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

/* What the standard says must come of a chain. */
struct expected {
	bool refused;
	bool writing;
	uint64_t bytes;
	uint32_t count, readable;
	struct virtq_span pieces[PIECES_MAX];
};

struct run {
	struct input in;
	struct memory *m;
	struct virtq_device *q;
	struct virtq_device_config config;
	bool packed;
	uint32_t max_segs;
	uint16_t idx;		/* split: next available index */
	uint32_t slot;		/* packed */
	bool wrap;
};

/* ---- The slow walk ------------------------------------------------------ */

static bool refuse(struct expected *e)
{
	e->refused = true;
	return false;
}

static bool expect_element(const struct run *r, struct expected *e, const struct desc *d)
{
	bool write = d->flags & VIRTQ_DESC_F_WRITE;
	uint64_t addr = d->addr, len = d->len;

	if (e->writing && !write)
		return refuse(e);
	if (write && !e->writing)
		e->readable = e->count;
	e->writing = write;
	e->bytes += len;
	if (e->bytes > (uint64_t)1 << 32)
		return refuse(e);
	while (len) {
		uint64_t follow;
		uint8_t *p = memory_at(r->m, addr, write ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ,
				       &follow);

		if (!p || e->count == r->max_segs)
			return refuse(e);
		if (follow > len)
			follow = len;
		e->pieces[e->count++] = (struct virtq_span){ p, (size_t)follow };
		len -= follow;
		addr += follow;
		if (len && !addr)
			return refuse(e);
	}
	return true;
}

static bool read_entry(const struct run *r, uint64_t addr, struct desc *d)
{
	uint8_t bytes[16];

	for (unsigned int i = 0; i < sizeof(bytes); i++) {
		uint64_t follow;
		const uint8_t *p = memory_at(r->m, addr + i, VIRTQ_ACCESS_READ, &follow);

		if (!p)
			return false;
		bytes[i] = *p;
	}
	d->addr = get_le(bytes, 8);
	d->len = (uint32_t)get_le(bytes + 8, 4);
	d->flags = (uint16_t)get_le(bytes + (r->packed ? 14 : 12), 2);
	d->next = (uint16_t)get_le(bytes + (r->packed ? 12 : 14), 2);
	return true;
}

static void expect_table(const struct run *r, struct expected *e, uint64_t addr, uint32_t len)
{
	uint32_t count = len / 16, slot = 0;

	if (!len || len % 16 || count > r->max_segs || addr > UINT64_MAX - (len - 1)) {
		refuse(e);
		return;
	}
	for (uint32_t seen = 0; seen < count; seen++) {
		struct desc d;

		if (!read_entry(r, addr + (uint64_t)slot * 16, &d) ||
		    (!r->packed && d.flags & VIRTQ_DESC_F_INDIRECT)) {
			refuse(e);
			return;
		}
		if (!expect_element(r, e, &d))
			return;
		if (r->packed) {
			slot++;
			continue;
		}
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return;
		if (d.next >= count) {
			refuse(e);
			return;
		}
		slot = d.next;
	}
	if (!r->packed)
		refuse(e);	/* it goes on after as many entries as there are: a loop */
}

/* ---- Making one chain --------------------------------------------------- */

/* An address in a region, or just outside one; regions that follow each other come often. */
static uint64_t take_address(struct run *r)
{
	uint8_t which = take8(&r->in);
	const struct area *a = &r->m->areas[which % AREA_DATA];

	if (which >= 0xf8)
		return take_number(&r->in);
	return a->gpa + take_below(&r->in, a->bytes) - (which >= 0xe0 ? 8 : 0);
}

static struct desc take_element(struct run *r, bool write)
{
	static const uint8_t readable[] = { AREA_FIRST, AREA_SECOND, AREA_READ_ONLY, AREA_TOP };
	static const uint8_t writable[] = { AREA_FIRST, AREA_SECOND, AREA_WRITE_ONLY, AREA_TOP };
	uint8_t how = take8(&r->in);
	const struct area *a = &r->m->areas[write ? writable[how & 3] : readable[how & 3]];
	struct desc d = { .addr = a->gpa, .len = 1 + (how >> 2 & 15),
			  .flags = write ? VIRTQ_DESC_F_WRITE : 0 };

	if (how & 0x40)		/* over a border, perhaps */
		d.addr += a->bytes - d.len + take_below(&r->in, 4);
	if (how == 0xbf)
		d.len = 0;
	return d;
}

static void mangle(struct run *r, struct desc *d)
{
	switch (take_below(&r->in, 5)) {
	case 0: d->addr = take_address(r); break;
	case 1: d->len = (uint32_t)take_number(&r->in); break;
	case 2: d->flags ^= (uint16_t)(1u << take_below(&r->in, 3)); break;
	case 3: d->flags = take16(&r->in); break;
	default: d->next = take8(&r->in); break;
	}
}

static void store_desc(const struct run *r, uint8_t *at, const struct desc *d)
{
	put_le(at, d->addr, 8);
	put_le(at + 8, d->len, 4);
	put_le(at + (r->packed ? 14 : 12), d->flags, 2);
	put_le(at + (r->packed ? 12 : 14), d->next, 2);
}

/* Write a table somewhere; @writing says whether writable elements came before it. */
static struct desc make_table(struct run *r, bool writing)
{
	uint8_t how = take8(&r->in);
	uint32_t count = 1 + (how < 0xc0 ? how % 8 : how % TABLE_MAX);
	uint32_t readable = writing ? 0 : take_below(&r->in, count + 1);
	struct desc table = { .addr = take_address(r), .len = count * 16,
			      .flags = VIRTQ_DESC_F_INDIRECT };

	for (uint32_t i = 0; i < count; i++) {
		struct desc d = take_element(r, i >= readable);
		uint8_t bytes[16];

		if (!r->packed && i + 1 < count) {
			d.flags |= VIRTQ_DESC_F_NEXT;
			d.next = (uint16_t)(i + 1);
		}
		if (take_odd(&r->in))
			mangle(r, &d);
		store_desc(r, bytes, &d);
		memory_poke(r->m, table.addr + (uint64_t)i * 16, bytes, sizeof(bytes));
	}
	if (take_odd(&r->in))
		table.len = (uint32_t)take_number(&r->in);
	/* WRITE means nothing there (2.7.5.3.2); NEXT must not be. */
	if (take_odd(&r->in))
		table.flags |= VIRTQ_DESC_F_WRITE;
	if (take_odd(&r->in))
		table.flags |= VIRTQ_DESC_F_NEXT;
	return table;
}

/* Make a chain available, and say what must come of it. */
static void make_chain(struct run *r, struct expected *e)
{
	uint32_t direct = take_below(&r->in, 8), count;
	struct desc chain[RING_SIZE];

	direct = direct < RING_SIZE ? direct : 0;
	count = direct + 1;
	for (uint32_t i = 0; i < direct; i++)
		chain[i] = take_element(r, i > take_below(&r->in, RING_SIZE));
	chain[direct] = make_table(r, direct && chain[direct - 1].flags & VIRTQ_DESC_F_WRITE);

	/* What the chain says, before the ring's own flags are added. */
	for (uint32_t i = 0; i < direct && !e->refused; i++)
		expect_element(r, e, &chain[i]);
	if (chain[direct].flags & VIRTQ_DESC_F_NEXT || (r->packed && direct))
		refuse(e);
	if (!e->refused)
		expect_table(r, e, chain[direct].addr, chain[direct].len);
	if (!e->writing)
		e->readable = e->count;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = r->packed ? (r->slot + i) % RING_SIZE : i;
		bool wrap = r->wrap ^ (r->slot + i >= RING_SIZE);

		if (i < direct)
			chain[i].flags |= VIRTQ_DESC_F_NEXT;
		chain[i].next = (uint16_t)(r->packed ? 1 : i + 1);
		if (r->packed)
			chain[i].flags |= (uint16_t)(1u << (wrap ? VIRTQ_DESC_F_AVAIL :
								   VIRTQ_DESC_F_USED));
		store_desc(r, r->m->areas[AREA_DESC].host + slot * 16, &chain[i]);
	}
	if (!r->packed) {
		uint8_t *avail = r->m->areas[AREA_DRIVER].host;

		put_le(avail + 4 + 2 * (r->idx % RING_SIZE), 0, 2);
		put_le(avail + 2, ++r->idx, 2);
	}
}

/* ---- The device --------------------------------------------------------- */

static void open_queue(struct run *r)
{
	for (unsigned int i = AREA_DESC; i <= AREA_DEVICE; i++)
		memset(r->m->areas[i].host, 0, r->m->areas[i].bytes);
	r->idx = 0;
	r->slot = 0;
	r->wrap = true;
	FUZZ_CHECK(!virtq_device_create(&r->q, &r->config, NULL));
}

static void compare(const struct virtq_cursor *c, const struct virtq_span *pieces,
		    uint32_t count, bool write)
{
	uint64_t bytes = 0;

	FUZZ_CHECK(c->count == count);
	for (uint32_t i = 0; i < count; i++) {
		FUZZ_CHECK(c->spans[i].base == pieces[i].base && c->spans[i].len == pieces[i].len);
		bytes += pieces[i].len;
		if (write)
			memset(c->spans[i].base, 0, c->spans[i].len);
	}
	FUZZ_CHECK(c->bytes == bytes);
}

static void one_chain(struct run *r, struct expected *e)
{
	struct virtq_req *req;
	int rc;

	e->refused = e->writing = false;
	e->count = e->readable = 0;
	e->bytes = 0;
	make_chain(r, e);
	rc = virtq_device_pop(r->q, &req, 1);
	FUZZ_CHECK(rc == (e->refused ? -EBADMSG : 1));
	if (rc < 0) {
		FUZZ_CHECK(virtq_device_fault(r->q).code != VIRTQ_FAULT_NONE);
		FUZZ_CHECK(!virtq_device_in_flight(r->q));
		virtq_device_destroy(r->q);
		open_queue(r);
		return;
	}
	compare(&req->rd, e->pieces, e->readable, false);
	compare(&req->wr, e->pieces + e->readable, e->count - e->readable, true);
	virtq_device_push(r->q, &req, 1);
	virtq_device_publish(r->q);
	FUZZ_CHECK(!virtq_device_in_flight(r->q));
	if (r->packed && ++r->slot == RING_SIZE) {
		r->slot = 0;
		r->wrap = !r->wrap;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t limits[] = { 0, 64, 9, 4 };
	static struct expected expected;
	struct run r = { .in = { data, size } };
	uint8_t how = take8(&r.in);
	struct virtq_features f = virtq_features_with((struct virtq_features){ { 0, 0 } },
						      VIRTIO_F_VERSION_1);

	r.packed = how & 1;
	f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	if (r.packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (how & 2)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	r.m = memory_new(f, RING_SIZE, 16u << (how >> 2 & 3), false, NULL);
	r.config = (struct virtq_device_config){
		.ring = r.m->ring, .map = r.m->map, .max_segs = limits[how >> 4 & 3],
		.long_chains = 1,
	};
	r.max_segs = r.config.max_segs ? r.config.max_segs : 1024;
	open_queue(&r);
	while (r.in.left)
		one_chain(&r, &expected);
	virtq_device_destroy(r.q);
	memory_free(r.m);
	return 0;
}
