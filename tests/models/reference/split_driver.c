/* SPDX-License-Identifier: MIT */
/* The reference model: the driver end of the split layout (VIRTIO 1.4, 2.7). */
#include "model.h"

#include <stddef.h>

/* 2.7.5: sixteen bytes a descriptor: addr, len, flags, next. */
uint64_t split_desc_at(const struct ref_queue *q, unsigned int n)
{
	return q->desc + 16 * (uint64_t)n;
}

/* 2.7.6: the available ring: flags, idx, ring[], used_event. */
uint64_t split_avail_flags_at(const struct ref_queue *q)
{
	return q->driver;
}

uint64_t split_avail_idx_at(const struct ref_queue *q)
{
	return q->driver + 2;
}

uint64_t split_avail_ring_at(const struct ref_queue *q, unsigned int slot)
{
	return q->driver + 4 + 2 * (uint64_t)slot;
}

uint64_t split_used_event_at(const struct ref_queue *q)
{
	return q->driver + 4 + 2 * (uint64_t)q->size;
}

/* 2.7.8: the used ring: flags, idx, ring[] of id and len, avail_event. */
uint64_t split_used_flags_at(const struct ref_queue *q)
{
	return q->device;
}

uint64_t split_used_idx_at(const struct ref_queue *q)
{
	return q->device + 2;
}

uint64_t split_used_ring_at(const struct ref_queue *q, unsigned int slot)
{
	return q->device + 4 + 8 * (uint64_t)slot;
}

uint64_t split_avail_event_at(const struct ref_queue *q)
{
	return q->device + 4 + 8 * (uint64_t)q->size;
}

/*
 * 4.1.5.1.3, 4.2.3.2: what the driver hands over is zero, so both indices start
 * at 0; 2.7.10.1: so are the flags of the used ring. Sizes: the table in 2.7.
 */
static void clear_rings(struct ref_driver *d)
{
	unsigned int i;

	for (i = 0; i < 6 + 2u * d->q->size; i++)
		ref_put8(d->mem, d->q->driver + i, 0);
	for (i = 0; i < 6 + 8u * d->q->size; i++)
		ref_put8(d->mem, d->q->device + i, 0);
}

void split_driver_start(struct ref_driver *d, const uint32_t *position)
{
	if (!position)
		clear_rings(d);
	/* With a position nothing is in flight, so both indices are where it says. */
	d->avail_idx = d->last_used = position ? (uint16_t)*position : 0;
	/* 2.7.5: from offset 0 on; after a restart the text does not say from where. */
	d->next_desc = position ? -1 : 0;
}

/* 2.7.13.1, step 1: only free descriptors, and each of them once. */
static const char *descriptors_free(const struct ref_driver *d, const struct ref_choice *c)
{
	unsigned int i, k;

	for (i = 0; i < c->main_count; i++) {
		if (c->main[i] >= d->q->size)
			return "2.7.5: a descriptor outside the table";
		if (d->desc_busy[c->main[i]])
			return "2.7.13.1: a descriptor that is not free";
		for (k = 0; k < i; k++)
			if (c->main[k] == c->main[i])
				return "2.7.5.2: a chain with a loop";
	}
	return NULL;
}

/* 2.7.5, 2.7.5.2: in order, descriptors are used in table order, and round again. */
static const char *descriptors_in_order(const struct ref_driver *d, const struct ref_choice *c)
{
	unsigned int i, first = d->next_desc < 0 ? c->main[0] : (unsigned int)d->next_desc;

	if (!d->q->in_order)
		return NULL;
	for (i = 0; i < c->main_count; i++)
		if (c->main[i] != (first + i) % d->q->size)
			return "2.7.5.2: in order, a descriptor out of table order";
	return NULL;
}

/* 2.7.5.3: a table's first entry is number 0, the others lie inside it, each once. */
static const char *entries_legal(const struct ref_choice *c)
{
	unsigned int i, k;

	if (!c->indirect)
		return NULL;
	if (c->entry[0] != 0)
		return "2.7.5.3: a table that does not begin with entry 0";
	for (i = 0; i < c->entry_count; i++) {
		if (c->entry[i] >= c->entry_count)
			return "2.7.5.3: next outside the table";
		for (k = 0; k < i; k++)
			if (c->entry[k] == c->entry[i])
				return "2.7.5.2: a loop inside a table";
	}
	return NULL;
}

/* 2.7.5.3.1: in order, a table's entries are linked 1, 2, 3... */
static const char *entries_in_order(const struct ref_driver *d, const struct ref_choice *c)
{
	unsigned int i;

	if (!d->q->in_order || !c->indirect)
		return NULL;
	for (i = 0; i < c->entry_count; i++)
		if (c->entry[i] != i)
			return "2.7.5.3.1: in order, a table's entry out of order";
	return NULL;
}

static void write_desc(struct ref_memory *m, uint64_t at, uint64_t addr, uint32_t len,
		       uint16_t flags, uint16_t next)
{
	ref_put64(m, at, addr);
	ref_put32(m, at + 8, len);
	ref_put16(m, at + 12, flags);
	ref_put16(m, at + 14, next);
}

/* 2.7.13.1, steps 2 to 5, for one element. @next: -1 if none comes after this. */
static void describe(struct ref_driver *d, uint64_t at, const struct ref_element *e, int next,
		     uint16_t noise)
{
	uint16_t flags = e->writable ? REF_WRITE : 0;

	if (next >= 0)
		flags |= REF_NEXT;
	/* 2.7.5: next means something only if flags & NEXT. */
	write_desc(d->mem, at, e->addr, e->len, flags, next >= 0 ? (uint16_t)next : noise);
}

/* 2.7.5.3: a descriptor that refers to a table: its address, its bytes; never with NEXT. */
static void refer(struct ref_driver *d, uint64_t at, const struct ref_choice *c)
{
	uint16_t flags = REF_INDIRECT;

	/* 2.7.5.3.2: the device ignores WRITE here. */
	if (c->noise & 1)
		flags |= REF_WRITE;
	write_desc(d->mem, at, c->table, 16 * c->entry_count, flags, c->noise);
}

static void write_table(struct ref_driver *d, const struct ref_element *e,
			const struct ref_choice *c)
{
	unsigned int i;

	for (i = 0; i < c->entry_count; i++)
		describe(d, c->table + 16 * (uint64_t)c->entry[i], &e[i],
			 i + 1 < c->entry_count ? c->entry[i + 1] : -1, c->noise);
}

/* 2.7.13.1: the chain; 2.7.5.3.2: descriptors may come before the one that refers to a table. */
static void write_chain(struct ref_driver *d, const struct ref_buffer *b,
			const struct ref_choice *c)
{
	unsigned int i;

	for (i = 0; i < c->main_count; i++) {
		uint64_t at = split_desc_at(d->q, c->main[i]);
		bool last = i + 1 == c->main_count;

		if (last && c->indirect)
			refer(d, at, c);
		else
			describe(d, at, &b->element[i], last ? -1 : c->main[i + 1], c->noise);
	}
	if (c->indirect)
		write_table(d, &b->element[c->main_count - 1], c);
}

/* 2.7.13.2: the head goes behind those added since idx was last written. */
static void place_head(struct ref_driver *d, uint16_t head)
{
	uint16_t at = (uint16_t)(d->avail_idx + d->staged);

	ref_put16(d->mem, split_avail_ring_at(d->q, at % d->q->size), head);
}

int split_driver_add(struct ref_driver *d, const struct ref_buffer *b, const struct ref_choice *c)
{
	const char *what = descriptors_free(d, c);
	unsigned int i;

	if (!what)
		what = descriptors_in_order(d, c);
	if (!what)
		what = entries_legal(c);
	if (!what)
		what = entries_in_order(d, c);
	if (what)
		return ref_driver_complain(d, what);
	write_chain(d, b, c);
	place_head(d, c->main[0]);
	for (i = 0; i < c->main_count; i++)
		d->desc_busy[c->main[i]] = true;
	d->next_desc = (c->main[c->main_count - 1] + 1) % d->q->size;
	return 0;
}

/* 2.7.10.1: must the device be notified of the entries with these indices? */
static bool must_kick(struct ref_driver *d, uint16_t from, uint16_t to)
{
	uint16_t i;

	/* Without EVENT_IDX: if flags is 0; avail_event is ignored. */
	if (!d->q->event_idx)
		return ref_get16(d->mem, split_used_flags_at(d->q)) == 0;
	/* With it: if one of them was placed by an idx equal to avail_event; flags is ignored. */
	for (i = from; i != to; i++)
		if (i == ref_get16(d->mem, split_avail_event_at(d->q)))
			return true;
	return false;
}

/* 2.7.13.3 and 2.7.13.4. */
bool split_driver_publish(struct ref_driver *d)
{
	uint16_t from = d->avail_idx;

	d->avail_idx = (uint16_t)(d->avail_idx + d->staged);
	ref_put16(d->mem, split_avail_idx_at(d->q), d->avail_idx);
	return must_kick(d, from, d->avail_idx);
}

/* 2.7.8: used idx says where the device puts the next entry; those before are there. */
static uint16_t used_waiting(struct ref_driver *d)
{
	return (uint16_t)(ref_get16(d->mem, split_used_idx_at(d->q)) - d->last_used);
}

/* 2.7.13.1: the descriptors of the chain are free again. */
static void release(struct ref_driver *d, struct ref_outstanding *o)
{
	unsigned int i;

	for (i = 0; i < o->main_count; i++)
		d->desc_busy[o->main[i]] = false;
	ref_driver_forget(d, o);
}

/* 2.7.8.2: the device wrote at least len bytes, so there was room for as many. */
static int give_out(struct ref_driver *d, struct ref_outstanding *o, uint64_t len,
		    struct ref_used *used)
{
	if (len > o->writable_bytes)
		return ref_driver_complain(d, "2.7.8.2: len is more than was writable");
	used->cookie = o->cookie;
	used->written = len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
	release(d, o);
	d->last_used++;
	return 1;
}

/* 2.7.9: the used id tells how long the batch is; idx moved on by as many. */
static int read_batch(struct ref_driver *d)
{
	uint64_t elem = split_used_ring_at(d->q, d->last_used % d->q->size);
	uint32_t id = ref_get32(d->mem, elem);
	struct ref_outstanding *o = id < d->q->size ? ref_driver_find(d, (uint16_t)id) : NULL;

	if (!o)
		return ref_driver_complain(d, "2.7.9: a used id that is not outstanding");
	if (o - d->outstanding + 1 > used_waiting(d))
		return ref_driver_complain(d, "2.7.9: idx moved by less than the batch");
	d->batch = true;
	d->batch_id = (uint16_t)id;
	d->batch_len = ref_get32(d->mem, elem + 4);
	return 0;
}

/* 2.7.9: buffers come back in order; those skipped count as completely used. */
static int get_in_order(struct ref_driver *d, struct ref_used *used)
{
	struct ref_outstanding *oldest = &d->outstanding[0];
	bool skipped;

	if (!d->batch && read_batch(d))
		return -1;
	skipped = oldest->id != d->batch_id;
	if (!skipped)
		d->batch = false;
	return give_out(d, oldest, skipped ? oldest->writable_bytes : d->batch_len, used);
}

/* 2.7.14 and 2.7.8: id is a head that was made available, len what was written. */
int split_driver_get(struct ref_driver *d, struct ref_used *used)
{
	uint64_t elem = split_used_ring_at(d->q, d->last_used % d->q->size);
	struct ref_outstanding *o;
	uint32_t id;

	if (!used_waiting(d))
		return 0;
	if (used_waiting(d) > d->count - d->staged)
		return ref_driver_complain(d, "2.7.8: more used than were available");
	if (d->q->in_order)
		return get_in_order(d, used);
	id = ref_get32(d->mem, elem);
	o = id < d->q->size ? ref_driver_find(d, (uint16_t)id) : NULL;
	if (!o)
		return ref_driver_complain(d, "2.7.8: a used id that is not outstanding");
	return give_out(d, o, ref_get32(d->mem, elem + 4), used);
}

/* 2.7.7.1: with EVENT_IDX by used_event, flags being 0; else by flags. */
bool split_driver_arm(struct ref_driver *d, const struct ref_arm *arm)
{
	ref_put16(d->mem, split_avail_flags_at(d->q), 0);
	if (d->q->event_idx)
		ref_put16(d->mem, split_used_event_at(d->q),
			  (uint16_t)(d->last_used + arm->ahead));
	/* 2.7.14, note: look again after enabling. */
	return used_waiting(d) != 0;
}

/* 2.7.7.1: flags may be 1 only without EVENT_IDX; with it, there is no way to say never. */
void split_driver_disarm(struct ref_driver *d)
{
	if (!d->q->event_idx)
		ref_put16(d->mem, split_avail_flags_at(d->q), 1);
}
