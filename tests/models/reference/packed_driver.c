/* SPDX-License-Identifier: MIT */
/* The reference model: the driver end of the packed layout (VIRTIO 1.4, 2.8). */
#include "model.h"

#include <stddef.h>

/* 2.8.13: sixteen bytes a descriptor: addr, len, id, flags. */
uint64_t packed_desc_at(const struct ref_queue *q, unsigned int slot)
{
	return q->desc + 16 * (uint64_t)slot;
}

/* 2.8.1: available: AVAIL matches the wrap counter, USED does not. */
bool packed_is_available(uint16_t flags, bool wrap)
{
	bool avail = (flags & REF_AVAIL) != 0, used = (flags & REF_USED) != 0;

	return avail == wrap && used != wrap;
}

/* 2.8.1: used: both match. */
bool packed_is_used(uint16_t flags, bool wrap)
{
	bool avail = (flags & REF_AVAIL) != 0, used = (flags & REF_USED) != 0;

	return avail == wrap && used == wrap;
}

/* 2.8.13: the descriptor ring is zero at first; 4.1.5.1.3: so is the rest. */
static void clear_rings(struct ref_driver *d)
{
	unsigned int i;

	for (i = 0; i < 16u * d->q->size; i++)
		ref_put8(d->mem, d->q->desc + i, 0);
	for (i = 0; i < 4; i++) {
		ref_put8(d->mem, d->q->driver + i, 0);
		ref_put8(d->mem, d->q->device + i, 0);
	}
}

void packed_driver_start(struct ref_driver *d, const uint32_t *position)
{
	/* 2.8.1: the wrap counters start at 1. */
	uint32_t at = position ? *position : 0x80008000u;

	if (!position)
		clear_rings(d);
	d->avail = (struct ref_cursor){ at & 0x7fff, at >> 15 & 1 };
	d->used = (struct ref_cursor){ at >> 16 & 0x7fff, at >> 31 & 1 };
	d->shown = d->avail;
	d->slots_free = d->q->size;
}

/* 2.8.16, 2.8.17: room for the whole list, in slots that came back. */
static const char *enough_slots(const struct ref_driver *d, const struct ref_choice *c)
{
	return c->main_count <= d->slots_free ? NULL : "2.8.17: no room for the whole list";
}

/* 2.8.21.1, step 2: a free buffer id, which no outstanding buffer has. */
static const char *id_free(const struct ref_driver *d, const struct ref_choice *c)
{
	unsigned int i;

	for (i = 0; i < d->count; i++)
		if (d->outstanding[i].id == c->id)
			return "2.8.21.1: a buffer id that is not free";
	return NULL;
}

/* 2.8.19: a descriptor that refers to a table is no member of a list. */
static const char *table_alone(const struct ref_choice *c)
{
	return !c->indirect || c->main_count == 1 ? NULL :
		"2.8.19: INDIRECT in a list linked by NEXT";
}

/* 2.8.1: AVAIL as the driver's wrap counter, USED the inverse. */
static uint16_t available_bits(bool wrap)
{
	return wrap ? REF_AVAIL : REF_USED;
}

static void write_fields(struct ref_memory *m, uint64_t at, uint64_t addr, uint32_t len,
			 uint16_t id)
{
	ref_put64(m, at, addr);
	ref_put32(m, at + 8, len);
	ref_put16(m, at + 12, id);
}

/* 2.8.7 and 2.8.19: entries back to back, no flag but WRITE; their id is ignored. */
static void write_table(struct ref_driver *d, const struct ref_buffer *b,
			const struct ref_choice *c)
{
	unsigned int i;

	for (i = 0; i < c->entry_count; i++) {
		const struct ref_element *e = &b->element[i];
		uint64_t at = c->table + 16 * (uint64_t)i;

		write_fields(d->mem, at, e->addr, e->len, c->noise);
		ref_put16(d->mem, at + 14, e->writable ? REF_WRITE : 0);
	}
}

/*
 * 2.8.6, 2.8.17, 2.8.21.1: the flags of a list's first descriptor are stored
 * last. Those of the first list of a batch wait for publish: a device polls
 * that place (2.8.2) and looks at nothing behind it before.
 */
static void write_head_flags(struct ref_driver *d, uint16_t slot, uint16_t flags)
{
	if (!d->staged)
		d->shown_flags = flags;
	else
		ref_put16(d->mem, packed_desc_at(d->q, slot) + 14, flags);
}

/* 2.8.7: one descriptor that refers to a table. */
static void write_indirect(struct ref_driver *d, const struct ref_buffer *b,
			   const struct ref_choice *c)
{
	uint16_t flags = REF_INDIRECT | available_bits(d->avail.wrap);

	/* 2.8.7: WRITE is reserved here, and ignored by the device. */
	if (c->noise & 1)
		flags |= REF_WRITE;
	write_table(d, b, c);
	write_fields(d->mem, packed_desc_at(d->q, d->avail.slot), c->table, 16 * c->entry_count,
		     c->id);
	write_head_flags(d, d->avail.slot, flags);
	ref_cursor_advance(d->q, &d->avail, 1);
}

/* 2.8.6: a list, NEXT in all but the last; the id in the last; right flags in every one. */
static void write_list(struct ref_driver *d, const struct ref_buffer *b,
		       const struct ref_choice *c)
{
	uint16_t first = d->avail.slot, first_flags = 0;
	unsigned int i;

	for (i = 0; i < b->count; i++) {
		const struct ref_element *e = &b->element[i];
		bool last = i + 1 == b->count;
		uint16_t flags = available_bits(d->avail.wrap);

		if (e->writable)
			flags |= REF_WRITE;
		if (!last)
			flags |= REF_NEXT;
		write_fields(d->mem, packed_desc_at(d->q, d->avail.slot), e->addr, e->len,
			     last ? c->id : c->noise);
		if (i == 0)
			first_flags = flags;
		else
			ref_put16(d->mem, packed_desc_at(d->q, d->avail.slot) + 14, flags);
		ref_cursor_advance(d->q, &d->avail, 1);
	}
	write_head_flags(d, first, first_flags);
}

int packed_driver_add(struct ref_driver *d, const struct ref_buffer *b,
		      const struct ref_choice *c)
{
	const char *what = enough_slots(d, c);

	if (!what)
		what = id_free(d, c);
	if (!what)
		what = table_alone(c);
	if (what)
		return ref_driver_complain(d, what);
	if (c->indirect)
		write_indirect(d, b, c);
	else
		write_list(d, b, c);
	d->slots_free -= c->main_count;
	return 0;
}

/*
 * 2.8.10, 2.8.21.2: must the device be notified of the slots from @shown up to
 * @avail? By what its event structure says (2.8.14: desc first, then flags).
 */
static bool must_kick(struct ref_driver *d)
{
	uint16_t desc = ref_get16(d->mem, d->q->device);
	uint16_t flags = ref_get16(d->mem, d->q->device + 2) & 3;
	unsigned int i, slots = 0;
	struct ref_cursor c = d->shown;

	if (flags == REF_EVENT_DISABLE)
		return false;
	/* 2.8.10: DESC is valid only with EVENT_IDX. */
	if (flags != REF_EVENT_DESC || !d->q->event_idx)
		return true;
	for (i = 0; i < d->staged; i++)
		slots += d->outstanding[d->count - d->staged + i].main_count;
	/* 2.8.10: when this descriptor, with this wrap counter, was made available. */
	for (i = 0; i < slots; i++) {
		if (c.slot == (desc & 0x7fff) && c.wrap == (desc >> 15 & 1))
			return true;
		ref_cursor_advance(d->q, &c, 1);
	}
	return false;
}

bool packed_driver_publish(struct ref_driver *d)
{
	bool kick;

	ref_put16(d->mem, packed_desc_at(d->q, d->shown.slot) + 14, d->shown_flags);
	kick = must_kick(d);
	d->shown = d->avail;
	return kick;
}

/* 2.8.2: the driver looks at one place only, where the next used descriptor will be. */
static bool used_waiting(struct ref_driver *d)
{
	return packed_is_used(ref_get16(d->mem, packed_desc_at(d->q, d->used.slot) + 14),
			      d->used.wrap);
}

/* 2.8.6, 2.8.22: skip as many slots as the list took; 2.8.4: no more bytes than it had. */
static int give_out(struct ref_driver *d, struct ref_outstanding *o, uint64_t len,
		    struct ref_used *used)
{
	if (len > o->writable_bytes)
		return ref_driver_complain(d, "2.8.4: length is more than was writable");
	used->cookie = o->cookie;
	used->written = len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
	d->slots_free += o->main_count;
	ref_cursor_advance(d->q, &d->used, o->main_count);
	ref_driver_forget(d, o);
	return 1;
}

/* 2.8.3, 2.8.4: the length counts only in a descriptor with WRITE. */
static uint32_t used_len(struct ref_driver *d)
{
	uint64_t at = packed_desc_at(d->q, d->used.slot);

	return ref_get16(d->mem, at + 14) & REF_WRITE ? ref_get32(d->mem, at + 8) : 0;
}

/* 2.8.8: up to the id in the used descriptor all are back; those skipped completely used. */
static int get_in_order(struct ref_driver *d, struct ref_used *used)
{
	struct ref_outstanding *oldest = &d->outstanding[0];
	bool skipped;

	if (!d->batch) {
		d->batch_id = ref_get16(d->mem, packed_desc_at(d->q, d->used.slot) + 12);
		d->batch_len = used_len(d);
		if (!ref_driver_find(d, d->batch_id))
			return ref_driver_complain(d, "2.8.8: a used id that is not outstanding");
		d->batch = true;
	}
	skipped = oldest->id != d->batch_id;
	if (!skipped)
		d->batch = false;
	return give_out(d, oldest, skipped ? oldest->writable_bytes : d->batch_len, used);
}

int packed_driver_get(struct ref_driver *d, struct ref_used *used)
{
	struct ref_outstanding *o;

	if (!d->batch && !used_waiting(d))
		return 0;
	if (d->q->in_order)
		return get_in_order(d, used);
	o = ref_driver_find(d, ref_get16(d->mem, packed_desc_at(d->q, d->used.slot) + 12));
	if (!o)
		return ref_driver_complain(d, "2.8.6: a used id that is not outstanding");
	return give_out(d, o, used_len(d), used);
}

/* 2.8.10, 2.8.14: the driver event structure; other bits of flags are 0. */
bool packed_driver_arm(struct ref_driver *d, const struct ref_arm *arm)
{
	struct ref_cursor c = d->used;

	if (arm->desc && d->q->event_idx) {
		ref_cursor_advance(d->q, &c, arm->ahead);
		ref_put16(d->mem, d->q->driver, (uint16_t)(c.slot | (unsigned int)c.wrap << 15));
		ref_put16(d->mem, d->q->driver + 2, REF_EVENT_DESC);
	} else {
		ref_put16(d->mem, d->q->driver + 2, REF_EVENT_ENABLE);
	}
	/* 2.8.22, example: look again after enabling. */
	return d->batch || used_waiting(d);
}

void packed_driver_disarm(struct ref_driver *d)
{
	ref_put16(d->mem, d->q->driver + 2, REF_EVENT_DISABLE);
}
