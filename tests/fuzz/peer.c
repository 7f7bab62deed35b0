/* SPDX-License-Identifier: MIT */
/* The driver that a fuzzed device end has for a peer. */
#include "peer.h"

#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#define AVAIL (1u << VIRTQ_DESC_F_AVAIL)
#define USED (1u << VIRTQ_DESC_F_USED)

/* A descriptor of either layout, in the host's order. */
struct raw {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;	/* split: next; packed: id */
};

void peer_init(struct peer *p, struct memory *m, bool indirect, uint32_t max_segs,
	       uint32_t position)
{
	uint32_t size = m->ring.size;

	memset(p, 0, sizeof(*p));
	p->m = m;
	p->packed = virtq_features_has(m->ring.features, VIRTIO_F_RING_PACKED);
	p->indirect = indirect;
	p->clean = true;
	p->size = p->room = size;
	p->max_segs = max_segs;
	p->idx = (uint16_t)position;
	p->wrap = true;
	if (p->packed) {
		p->cursor = position & 0x7fff;
		p->wrap = position >> 15 & 1;
	}
	p->offers = calloc(size, sizeof(*p->offers));
	p->taken = calloc(size, sizeof(*p->taken));
	p->next = calloc(size, sizeof(*p->next));
	p->queue = calloc(size, sizeof(*p->queue));
	FUZZ_CHECK(p->offers && p->taken && p->next && p->queue);
}

void peer_fini(struct peer *p)
{
	free(p->offers);
	free(p->taken);
	free(p->next);
	free(p->queue);
}

/* ---- One chain ---------------------------------------------------------- */

/* An element that the device may reach; *@pieces counts it. */
static struct raw take_element(struct peer *p, struct input *in, bool write, uint32_t *pieces)
{
	static const uint8_t readable[] = { AREA_FIRST, AREA_SECOND, AREA_READ_ONLY, AREA_TOP };
	static const uint8_t writable[] = { AREA_FIRST, AREA_SECOND, AREA_WRITE_ONLY, AREA_TOP };
	uint8_t which = take8(in);
	unsigned int i = write ? writable[which & 3] : readable[which & 3];
	const struct area *a;
	uint32_t off, most;
	struct raw d = { .flags = write ? VIRTQ_DESC_F_WRITE : 0 };

	if (p->m->area_count > AREA_DATA && which >= 0xe0)
		i = AREA_DESC + which % 3;
	a = &p->m->areas[i];
	off = take_below(in, a->bytes);
	most = a->bytes - off + (i == AREA_FIRST ? a->bytes : 0);
	d.addr = a->gpa + off;
	/* An element of no bytes is odd, and need not lie anywhere. */
	d.len = which == 0x80 ? 0 : 1 + take_below(in, most);
	*pieces += d.len > a->bytes - off ? 2 : d.len > 0;
	return d;
}

/* Spoil one field of one descriptor. */
static void mangle(struct peer *p, struct input *in, struct raw *d, uint32_t count)
{
	d += take_below(in, count);
	p->clean = false;
	switch (take_below(in, 6)) {
	case 0: d->addr = take_number(in); break;
	case 1: d->addr += (uint64_t)(int64_t)(int8_t)take8(in); break;
	case 2: d->len = (uint32_t)take_number(in); break;
	case 3: d->flags ^= (uint16_t)(1u << take_below(in, 16)); break;
	case 4: d->flags = take16(in); break;
	default: d->next = (uint16_t)take_number(in); break;
	}
}

static void store_raw(const struct peer *p, uint8_t *at, const struct raw *d)
{
	put_le(at, d->addr, 8);
	put_le(at + 8, d->len, 4);
	put_le(at + 12, p->packed ? d->next : d->flags, 2);
	put_le(at + 14, p->packed ? d->flags : d->next, 2);
}

/*
 * Put @count elements into a table, forwards or (split) with the later ones
 * backwards, and return the descriptor that refers to it.
 */
static struct raw make_table(struct peer *p, struct input *in, struct raw *d, uint32_t count)
{
	const struct area *area = &p->m->areas[AREA_TABLES];
	uint8_t bytes[PEER_ELEMENTS * 16], how = take8(in);
	bool back = how & 1 && !p->packed;
	struct raw table = { .len = count * 16, .flags = VIRTQ_DESC_F_INDIRECT };
	struct raw placed[PEER_ELEMENTS];

	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = back && i ? count - i : i;

		placed[slot] = d[i];
		if (!p->packed && i + 1 < count) {
			placed[slot].flags |= VIRTQ_DESC_F_NEXT;
			placed[slot].next = (uint16_t)(back ? count - i - 1 : i + 1);
		}
	}
	if (take_odd(in))
		mangle(p, in, placed, count);
	for (uint32_t i = 0; i < count; i++)
		store_raw(p, bytes + i * 16, &placed[i]);
	p->table_at += how >> 4;	/* any alignment will do */
	if (p->table_at + table.len > area->bytes) {
		p->table_at = 0;
		/* It may lie on one that the device has not read yet. */
		p->clean &= !p->queued;
	}
	table.addr = area->gpa + p->table_at;
	memory_poke(p->m, table.addr, bytes, table.len);
	p->table_at += table.len;
	return table;
}

/* ---- The ring ----------------------------------------------------------- */

/* The next free descriptor (split) or id (packed), in a circle. */
static uint16_t take_free(struct peer *p, uint32_t *from)
{
	while (p->taken[*from])
		*from = (*from + 1) % p->size;
	p->taken[*from] = true;
	return (uint16_t)*from;
}

static uint16_t offer_split(struct peer *p, struct input *in, struct raw *d, uint32_t count)
{
	uint8_t *desc = p->m->areas[AREA_DESC].host, *avail = p->m->areas[AREA_DRIVER].host;
	uint16_t slots[PEER_ELEMENTS], head;

	for (uint32_t i = 0; i < count; i++)
		slots[i] = take_free(p, &p->cursor);
	for (uint32_t i = 0; i + 1 < count; i++) {
		d[i].flags |= VIRTQ_DESC_F_NEXT;
		d[i].next = p->next[slots[i]] = slots[i + 1];
	}
	if (take_odd(in))
		mangle(p, in, d, count);
	for (uint32_t i = 0; i < count; i++)
		store_raw(p, desc + slots[i] * 16u, &d[i]);
	head = slots[0];
	if (take_odd(in)) {
		head = (uint16_t)take_number(in);
		p->clean = false;
	}
	put_le(avail + 4 + 2 * (p->idx % p->size), head, 2);
	p->idx++;
	if (take_odd(in)) {
		put_le(avail + 2, p->idx + take_number(in), 2);
		p->clean = false;
	} else {
		put_le(avail + 2, p->idx, 2);
	}
	return slots[0];
}

static uint16_t offer_packed(struct peer *p, struct input *in, struct raw *d, uint32_t count)
{
	uint8_t *ring = p->m->areas[AREA_DESC].host;
	uint32_t from = p->cursor;
	uint16_t id = take_free(p, &from);

	for (uint32_t i = 0; i < count; i++) {
		bool wrap = p->wrap ^ (p->cursor + i >= p->size);

		d[i].flags |= (uint16_t)((i + 1 < count ? VIRTQ_DESC_F_NEXT : 0) |
					 (wrap ? AVAIL : USED));
		d[i].next = id;
	}
	if (take_odd(in))
		mangle(p, in, d, count);
	for (uint32_t i = 0; i < count; i++)
		store_raw(p, ring + (p->cursor + i) % p->size * 16u, &d[i]);
	p->cursor += count;
	if (p->cursor >= p->size) {
		p->cursor -= p->size;
		p->wrap = !p->wrap;
	}
	return id;
}

bool peer_offer(struct peer *p, struct input *in)
{
	uint32_t count = 1 + take_below(in, take8(in) < 0xc0 ? 4 : PEER_ELEMENTS), pieces = 0;
	uint32_t readable = take_below(in, count + 1), entries, direct;
	uint8_t how = p->indirect ? take8(in) : 0;
	struct raw d[PEER_ELEMENTS];
	struct offer o = { .live = true };
	uint16_t id;

	/* Bit 0: a table. Split allows elements in front of it. */
	direct = how & 1 ? (p->packed ? 0 : (how >> 1) % count) : count;
	entries = direct + (how & 1);
	if (entries > p->room || p->queued == p->size)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		d[i] = take_element(p, in, i >= readable, &pieces);
		*(i < readable ? &o.readable_bytes : &o.writable_bytes) += d[i].len;
	}
	if (how & 1)
		d[direct] = make_table(p, in, d + direct, count - direct);
	/* A chain longer than the device takes, or a table, is the driver's fault. */
	if (pieces > p->max_segs || ((how & 1) && count - direct > p->max_segs))
		p->clean = false;
	o.entries = (uint16_t)entries;
	o.pieces = (uint16_t)pieces;
	id = p->packed ? offer_packed(p, in, d, entries) : offer_split(p, in, d, entries);
	p->room -= entries;
	p->offers[id] = o;
	p->queue[(p->queue_first + p->queued++) % p->size] = id;
	return true;
}

const struct offer *peer_popped(struct peer *p, uint16_t id)
{
	if (p->clean) {
		FUZZ_CHECK(p->queued);
		FUZZ_CHECK(p->queue[p->queue_first] == id);
	}
	if (p->queued) {
		p->queued--;
		p->queue_first = (p->queue_first + 1) % p->size;
	}
	return id < p->size ? &p->offers[id] : NULL;
}

void peer_unpopped(struct peer *p, uint16_t id)
{
	if (p->queued == p->size)
		return;
	p->queue_first = (p->queue_first + p->size - 1) % p->size;
	p->queue[p->queue_first] = id;
	p->queued++;
}

void peer_release(struct peer *p, uint16_t id)
{
	struct offer *o;

	if (id >= p->size || !p->offers[id].live)
		return;
	o = &p->offers[id];
	o->live = false;
	p->room += o->entries;
	p->taken[id] = false;
	for (uint16_t i = 1; i < o->entries && !p->packed; i++) {
		id = p->next[id];
		p->taken[id] = false;
	}
}

uint16_t peer_next(const struct peer *p)
{
	return p->packed ? (uint16_t)(p->cursor | (p->wrap ? 0x8000u : 0)) : p->idx;
}

void peer_set_event(struct peer *p, struct input *in)
{
	uint8_t *driver = p->m->areas[AREA_DRIVER].host;

	if (p->packed) {
		put_le(driver, take_below(in, p->size + 1) | (take8(in) & 1u) << 15, 2);
		put_le(driver + 2, take_below(in, 4), 2);
	} else if (take8(in) & 1) {
		put_le(driver, take8(in) & VIRTQ_AVAIL_F_NO_INTERRUPT, 2);
	} else {
		put_le(driver + 4 + 2 * (size_t)p->size, take16(in), 2);
	}
}

void peer_cheat(struct peer *p, struct input *in)
{
	uint8_t *desc = p->m->areas[AREA_DESC].host, *avail = p->m->areas[AREA_DRIVER].host;

	p->clean = false;
	if (!p->packed) {
		put_le(avail + 4 + 2 * (p->idx % p->size), take_below(in, p->size), 2);
		put_le(avail + 2, ++p->idx, 2);
		return;
	}
	put_le(desc + p->cursor * 16 + 14, p->wrap ? AVAIL : USED, 2);
	if (++p->cursor == p->size) {
		p->cursor = 0;
		p->wrap = !p->wrap;
	}
}

void peer_scribble(struct peer *p, struct input *in)
{
	const struct area *a = &p->m->areas[AREA_DESC + take_below(in, 3)];
	uint32_t bytes = 1 + take_below(in, 16), at = take_below(in, a->bytes);

	p->clean = false;
	while (bytes-- && at < a->bytes)
		a->host[at++] = take8(in);
}
