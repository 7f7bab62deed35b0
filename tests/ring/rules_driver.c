/* SPDX-License-Identifier: MIT */
/*
 * Whatever the driver end puts into the ring, over long random runs: each chain
 * is walked in raw bytes, and each byte of the ring is accounted for after each
 * call of either end.
 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define SEGS_MAX 12u
#define STEPS 4000u

/* A buffer from add to get. */
struct flight {
	struct virtq_seg segs[SEGS_MAX];
	uint16_t readable, count;	/* elements */
	uint32_t entries;		/* of the ring */
	uint32_t slot;			/* packed: where its list begins */
	uint16_t id;			/* packed */
	uint32_t used_slot;		/* packed: where it was marked used */
	uint64_t table;			/* where its table is, 0 if it has none */
	uint32_t table_bytes;
	uint8_t table_copy[16 * SEGS_MAX];
	bool live, popped;
};

struct run {
	struct rig r;
	uint32_t size;
	uint64_t random;
	struct flight *flights;		/* by token */
	uint32_t *staged, staged_count;	/* tokens added and not published, in order */
	uint32_t *shown, shown_at, shown_count;	/* tokens published, in order; next to be popped */
	int *owner;			/* by descriptor: the token whose it is, or -1 */
	bool *id_used;
	uint8_t *before;		/* the ring in front of a call */
	uint32_t slot;			/* packed: next to fill, and its wrap */
	bool wrap;
	uint32_t used_slot;		/* packed: next to be marked used */
	bool *settled;			/* by slot: marked used, and not taken back */
	uint8_t *settled_copy;
	uint16_t idx;			/* split: as published */
	uint32_t in_flight, room;
};

static uint32_t roll(struct run *t, uint32_t below)
{
	t->random = t->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(t->random >> 33) % below;
}

static uint8_t *desc_at(struct run *t, uint32_t slot)
{
	return t->r.desc.driver + 16 * (size_t)slot;
}

/* ---- The ring in front of a call and after it ---------------------------- */

static void remember(struct run *t)
{
	memcpy(t->before, t->r.desc.driver, t->r.desc.bytes);
	memcpy(t->before + t->r.desc.bytes, t->r.driver_area.driver, t->r.driver_area.bytes);
}

static bool desc_changed(struct run *t, uint32_t slot)
{
	return memcmp(t->before + 16 * (size_t)slot, desc_at(t, slot), 16) != 0;
}

/* S-DRV-025, P-DRV-040: tables of buffers in flight stay as they are. */
static void tables_unchanged(struct run *t)
{
	for (uint32_t i = 0; i < t->size; i++) {
		const struct flight *f = &t->flights[i];

		if (f->live && f->table)
			assert_memory_equal(t->r.table.driver + (f->table - RIG_TABLE_GPA),
					    f->table_copy, f->table_bytes);
	}
}

/* P-DEV-004: what is marked used stays as it is until the driver end has it back. */
static void used_unchanged(struct run *t)
{
	for (uint32_t slot = 0; slot < t->size; slot++)
		if (t->settled[slot])
			assert_memory_equal(desc_at(t, slot), t->settled_copy + 16 * (size_t)slot,
					    16);
}

/* ---- One chain in raw bytes ---------------------------------------------- */

/* One element, as it stands in a descriptor or in an entry of a table. */
static void element_is(const struct flight *f, uint32_t at, const uint8_t *raw, uint16_t flags)
{
	/* S-DRV-014, P-DRV-015: no more than were given, and those fit the queue. */
	assert_true(at < f->count);
	assert_int_equal(get64(raw), f->segs[at].addr);
	assert_int_equal(get32(raw + 8), f->segs[at].len);
	/* S-DRV-010, P-DRV-016, S-DRV-022: WRITE on all from the first writable one on. */
	assert_int_equal(flags & F_WRITE, at >= f->readable ? F_WRITE : 0);
}

/* The table behind a descriptor; returns how many elements it holds. */
static uint32_t walk_table(struct run *t, struct flight *f, const uint8_t *refers)
{
	bool packed = t->r.shape.packed;
	uint32_t bytes = get32(refers + 8), count = bytes / 16, at = 0;
	uint64_t addr = get64(refers);
	const uint8_t *table;

	/* S-DRV-018, P-DRV-021: it lies where the descriptor says, in full. */
	assert_true(bytes && bytes % 16 == 0 && count <= t->size);
	assert_true(addr >= RIG_TABLE_GPA && addr % 16 == 0 &&
		    addr - RIG_TABLE_GPA + bytes <= t->r.table.bytes);
	for (uint32_t i = 0; i < t->size; i++) {
		const struct flight *other = &t->flights[i];

		if (other != f && other->live && other->table)
			assert_true(addr + bytes <= other->table ||
				    other->table + other->table_bytes <= addr);
	}
	table = t->r.table.driver + (addr - RIG_TABLE_GPA);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *raw = table + 16 * (size_t)at;
		uint16_t flags = get16(raw + (packed ? 14 : 12));

		element_is(f, i, raw, flags);
		if (packed) {
			/* P-DRV-019: no flag but WRITE. */
			assert_int_equal(flags & ~F_WRITE, 0);
			at++;
			continue;
		}
		/* S-DRV-016: no table in a table; S-DRV-019: links to the last, inside it. */
		assert_int_equal(flags & ~(F_WRITE | F_NEXT), 0);
		assert_int_equal(flags & F_NEXT, i + 1 < count ? F_NEXT : 0);
		at = get16(raw + 14);
		if (i + 1 < count) {
			assert_true(at < count);
			/* S-DRV-020. */
			if (t->r.shape.in_order)
				assert_int_equal(at, i + 1);
		}
	}
	f->table = addr;
	f->table_bytes = bytes;
	memcpy(f->table_copy, table, bytes);
	return count;
}

/* S-DRV-013: a walk over links ends, and meets no descriptor that is somebody's already. */
static void walk_split(struct run *t, uint32_t token, uint16_t head)
{
	struct flight *f = &t->flights[token];
	uint32_t at = head, n = 0, hops = 0;

	for (;;) {
		const uint8_t *raw = desc_at(t, at);
		uint16_t flags;

		assert_true(at < t->size);
		assert_true(hops++ < t->size);
		assert_int_equal(t->owner[at], -1);
		t->owner[at] = (int)token;
		flags = get16(raw + 12);
		assert_int_equal(flags & ~(F_NEXT | F_WRITE | F_INDIRECT), 0);
		if (flags & F_INDIRECT) {
			/* S-DRV-015, S-DRV-017: agreed, and the end of the chain. */
			assert_true(t->r.shape.indirect);
			assert_int_equal(flags & F_NEXT, 0);
			n += walk_table(t, f, raw);
			break;
		}
		element_is(f, n++, raw, flags);
		if (!(flags & F_NEXT))
			break;
		/* S-DRV-021: in order, the next is the neighbour. */
		if (t->r.shape.in_order)
			assert_int_equal(get16(raw + 14), (at + 1) % t->size);
		at = get16(raw + 14);
	}
	assert_int_equal(n, f->count);
	assert_int_equal(hops, f->entries);
}

static void walk_packed(struct run *t, uint32_t token)
{
	struct flight *f = &t->flights[token];
	uint32_t n = 0, slot = f->slot;
	bool wrap = t->wrap;

	for (uint32_t i = 0; i < f->entries; i++) {
		const uint8_t *raw = desc_at(t, slot);
		uint16_t flags = get16(raw + 14);

		/* P-DRV-005, P-DRV-012: each member bears the marks of its lap. */
		assert_int_equal(flags & (F_AVAIL | F_USED), wrap ? F_AVAIL : F_USED);
		assert_int_equal(flags & ~(F_AVAIL | F_USED | F_NEXT | F_WRITE | F_INDIRECT), 0);
		/* P-DRV-010; and by that P-DRV-020: no table in a list of more than one. */
		assert_int_equal(flags & F_NEXT, i + 1 < f->entries ? F_NEXT : 0);
		if (flags & F_INDIRECT) {
			assert_true(t->r.shape.indirect);	/* P-DRV-018 */
			assert_int_equal(f->entries, 1);
			n += walk_table(t, f, raw);
		} else {
			element_is(f, n++, raw, flags);
		}
		if (i + 1 == f->entries) {
			/* P-DRV-009, P-DRV-023: an id below the size that nobody else bears. */
			f->id = get16(raw + 12);
			assert_true(f->id < t->size);
			assert_false(t->id_used[f->id]);
			t->id_used[f->id] = true;
		}
		slot++;
		if (slot == t->size) {
			slot = 0;
			wrap = !wrap;
		}
	}
	assert_int_equal(n, f->count);
	t->slot = slot;
	t->wrap = wrap;
}

/* ---- The driver's calls --------------------------------------------------- */

/* Buffers that mean nothing are refused, and the ring does not change by them. */
static void add_bad(struct run *t)
{
	static struct virtq_seg too_many[34];
	struct virtq_buffer buf = { too_many, 1, 0, token_of(0) };
	int rc = -EINVAL;

	for (uint32_t i = 0; i < 34; i++)
		too_many[i] = (struct virtq_seg){ A, 4 };
	switch (roll(t, 4)) {
	case 0:
		buf.readable = 0;
		break;
	case 1:
		too_many[0].len = 0;
		break;
	case 2:
		buf.readable = 2;
		buf.writable = 1;
		too_many[0].len = too_many[1].len = 0x80000000u;
		break;
	case 3:
		buf.readable = (uint16_t)(t->size + 1);
		rc = -EMSGSIZE;
		break;
	}
	if (buf.readable + buf.writable > t->size)
		rc = 0;		/* either is right */
	remember(t);
	if (rc)
		assert_int_equal(virtq_driver_add(t->r.driver, &buf, 1), rc);
	else
		assert_true(virtq_driver_add(t->r.driver, &buf, 1) < 0);
	assert_memory_equal(t->before, t->r.desc.driver, t->r.desc.bytes);
	assert_memory_equal(t->before + t->r.desc.bytes, t->r.driver_area.driver,
			    t->r.driver_area.bytes);
}

static void add_good(struct run *t)
{
	uint32_t max = t->size < SEGS_MAX ? t->size : SEGS_MAX, token = 0, taken;
	struct virtq_buffer buf;
	struct flight *f;
	int rc;

	while (token < t->size && t->flights[token].live)
		token++;
	if (token == t->size)
		return;
	f = &t->flights[token];
	memset(f, 0, sizeof(*f));
	f->count = (uint16_t)(1 + roll(t, max));
	f->readable = (uint16_t)roll(t, f->count + 1u);
	for (uint32_t i = 0; i < f->count; i++)
		f->segs[i] = (struct virtq_seg){ (i < f->readable ? A : W) + roll(t, 4096),
						 1 + roll(t, 64) };
	buf = (struct virtq_buffer){ f->segs, f->readable, (uint16_t)(f->count - f->readable),
				     token_of(token) };
	remember(t);
	rc = virtq_driver_add(t->r.driver, &buf, 1);
	taken = t->room - virtq_driver_room(t->r.driver);
	if (rc != 1) {
		assert_int_equal(rc, -ENOSPC);
		/* S-DRV-024, P-DRV-017. */
		assert_int_equal(taken, 0);
		assert_memory_equal(t->before, t->r.desc.driver, t->r.desc.bytes);
		return;
	}
	f->live = true;
	f->entries = taken;
	/* S-DRV-042, P-DRV-040: one entry an element, or one for a table. */
	assert_true(taken == f->count || (taken == 1 && t->r.shape.indirect));
	t->room -= taken;
	t->in_flight++;
	t->staged[t->staged_count++] = token;
	if (t->r.shape.packed) {
		uint32_t next = t->slot;

		for (uint32_t i = 0; i + 1 < t->staged_count; i++)
			next += t->flights[t->staged[i]].entries;
		f->slot = next % t->size;
		/* P-DRV-007: only slots that are its own, none of them in flight. */
		for (uint32_t slot = 0; slot < t->size; slot++)
			if ((slot + t->size - f->slot) % t->size >= taken)
				assert_false(desc_changed(t, slot));
		return;
	}
	/* S-DRV-025: nobody's descriptor changes; S-DRV-026: nor does the index. */
	for (uint32_t slot = 0; slot < t->size; slot++)
		if (t->owner[slot] >= 0)
			assert_false(desc_changed(t, slot));
	assert_int_equal(get16(avail_idx(&t->r)), t->idx);
}

static void publish(struct run *t)
{
	uint32_t changed = 0;

	remember(t);
	virtq_driver_publish(t->r.driver);
	for (uint32_t slot = 0; slot < t->size; slot++)
		changed += desc_changed(t, slot);
	/* P-DRV-011: one head makes all of them available; split descriptors never change. */
	assert_int_equal(changed, t->r.shape.packed && t->staged_count ? 1 : 0);
	if (!t->r.shape.packed)
		/* S-DRV-026: forward, by as many as there are. */
		assert_int_equal(get16(avail_idx(&t->r)), (uint16_t)(t->idx + t->staged_count));
	for (uint32_t i = 0; i < t->staged_count; i++) {
		uint32_t token = t->staged[i];

		if (t->r.shape.packed)
			walk_packed(t, token);
		else
			walk_split(t, token, get16(avail_ring(&t->r, t->idx++)));
		t->shown[(t->shown_at + t->shown_count++) % t->size] = token;
	}
	t->staged_count = 0;
}

static void get_some(struct run *t)
{
	struct virtq_completion done[4];
	int n;

	remember(t);
	n = virtq_driver_get(t->r.driver, done, 1 + roll(t, 4));
	assert_true(n >= 0);
	assert_memory_equal(t->before, t->r.desc.driver, t->r.desc.bytes);
	for (int i = 0; i < n; i++) {
		uint32_t token = (uint32_t)token_value(done[i].token);
		struct flight *f = &t->flights[token];

		assert_true(token < t->size && f->live && f->popped);
		f->live = false;
		t->settled[f->used_slot] = false;
		t->in_flight--;
		t->room += f->entries;
		if (t->r.shape.packed)
			t->id_used[f->id] = false;
		for (uint32_t slot = 0; slot < t->size && !t->r.shape.packed; slot++)
			if (t->owner[slot] == (int)token)
				t->owner[slot] = -1;
	}
	assert_int_equal(virtq_driver_room(t->r.driver), t->room);
	assert_int_equal(virtq_driver_in_flight(t->r.driver), t->in_flight);
}

/* ---- The device's calls --------------------------------------------------- */

struct held {
	struct virtq_req **reqs;
	uint32_t *tokens;
	uint32_t count;
};

/* Packed, not in order: each list that was returned has its used descriptor. */
static void settle(struct run *t, uint32_t token)
{
	struct flight *f = &t->flights[token];

	f->used_slot = t->used_slot;
	t->settled[f->used_slot] = true;
	memcpy(t->settled_copy + 16 * (size_t)f->used_slot, desc_at(t, f->used_slot), 16);
	t->used_slot = (t->used_slot + f->entries) % t->size;
}

static void pop_some(struct run *t, struct held *h)
{
	int n = virtq_device_pop(t->r.device, h->reqs + h->count, 1 + roll(t, 4));

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		h->tokens[h->count] = t->shown[t->shown_at];
		t->flights[t->shown[t->shown_at]].popped = true;
		t->shown_at = (t->shown_at + 1) % t->size;
		t->shown_count--;
		h->count++;
	}
}

/*
 * P-DEV-027: of what is published but not taken nothing is overwritten, however
 * many of those in front of it come back, in whatever order.
 */
static void push_some(struct run *t, struct held *h)
{
	bool settles = t->r.shape.packed && !t->r.shape.in_order;
	uint32_t count = roll(t, h->count + 1), pushed[4];

	if (count > 4)
		count = 4;
	remember(t);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = roll(t, h->count);

		virtq_device_push(t->r.device, &h->reqs[at], 1);
		pushed[i] = h->tokens[at];
		h->reqs[at] = h->reqs[--h->count];
		h->tokens[at] = h->tokens[h->count];
	}
	virtq_device_publish(t->r.device);
	for (uint32_t i = 0; i < count && settles; i++)
		settle(t, pushed[i]);
	for (uint32_t i = 0; i < t->shown_count && t->r.shape.packed; i++) {
		const struct flight *f = &t->flights[t->shown[(t->shown_at + i) % t->size]];

		for (uint32_t k = 0; k < f->entries; k++)
			assert_false(desc_changed(t, (f->slot + k) % t->size));
	}
}

static void test_every_byte(void **state)
{
	const struct shape *shape = *state;
	struct run t = { .size = shape->size, .random = shape->size * 77 + shape->indirect };
	struct held h = { 0 };

	rig_open(&t.r, shape, RIG_DRIVER);
	t.r.device_config.long_chains = t.size;
	rig_make_device(&t.r);
	t.flights = calloc(t.size, sizeof(*t.flights));
	t.staged = calloc(t.size, sizeof(*t.staged));
	t.shown = calloc(t.size, sizeof(*t.shown));
	t.owner = calloc(t.size, sizeof(*t.owner));
	t.id_used = calloc(t.size, sizeof(*t.id_used));
	t.before = calloc(1, t.r.desc.bytes + t.r.driver_area.bytes);
	t.settled = calloc(t.size, sizeof(*t.settled));
	t.settled_copy = calloc(t.size, 16);
	h.reqs = calloc(t.size + 4, sizeof(*h.reqs));
	h.tokens = calloc(t.size + 4, sizeof(*h.tokens));
	assert_true(t.flights && t.staged && t.shown && t.owner && t.id_used && t.before &&
		    t.settled && t.settled_copy && h.reqs && h.tokens);
	memset(t.owner, -1, t.size * sizeof(*t.owner));
	t.room = t.size;
	t.slot = t.used_slot = shape->packed ? shape->start : 0;
	t.wrap = !shape->moved;
	t.idx = (uint16_t)shape->start;
	for (uint32_t step = 0; step < STEPS; step++) {
		switch (roll(&t, 8)) {
		case 0:
			add_bad(&t);
			break;
		case 1:
		case 2:
		case 3:
			add_good(&t);
			break;
		case 4:
			publish(&t);
			break;
		case 5:
			pop_some(&t, &h);
			break;
		case 6:
			push_some(&t, &h);
			break;
		case 7:
			get_some(&t);
			break;
		}
		tables_unchanged(&t);
		used_unchanged(&t);
	}
	free(t.flights);
	free(t.staged);
	free(t.shown);
	free(t.owner);
	free(t.id_used);
	free(t.before);
	free(t.settled);
	free(t.settled_copy);
	free(h.reqs);
	free(h.tokens);
	rig_close(&t.r);
}

int main(void)
{
	static struct shape runs[32];
	static const uint32_t sizes[2][4] = { { 1, 2, 8, 32 }, { 1, 3, 7, 33 } };
	struct matrix m = { 0 };

	for (uint32_t i = 0; i < 32; i++) {
		struct shape *s = &runs[i];

		s->packed = i & 1;
		s->indirect = i & 2;
		s->in_order = i & 4;
		s->size = sizes[s->packed][i / 8];
		s->moved = s->size > 2;
		s->start = !s->moved ? 0 : s->packed ? s->size - 2 : 65530;
		snprintf(s->name, sizeof(s->name), "%s %u%s%s", s->packed ? "packed" : "split",
			 s->size, s->indirect ? " indirect" : "", s->in_order ? " in order" : "");
	}
	matrix_add_shapes(&m, "S-DRV-013 P-DRV-020 every byte", test_every_byte, runs, 32);
	return matrix_run(&m, "the driver's rules");
}
