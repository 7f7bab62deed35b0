/* SPDX-License-Identifier: MIT */
/* The reference model: the device end of the packed layout (VIRTIO 1.4, 2.8). */
#include "model.h"

#include <stddef.h>

void packed_device_start(struct ref_device *d, const uint32_t *position)
{
	/* 2.8.1: the wrap counters start at 1. */
	uint32_t at = position ? *position : 0x80008000u;

	d->avail = (struct ref_cursor){ at & 0x7fff, at >> 15 & 1 };
	d->used = (struct ref_cursor){ at >> 16 & 0x7fff, at >> 31 & 1 };
}

/* 2.8.2, 2.8.15: the device looks at one place only, at the descriptor after the last taken. */
static bool avail_waiting(struct ref_device *d)
{
	return packed_is_available(ref_get16(d->mem, packed_desc_at(d->q, d->avail.slot) + 14),
				   d->avail.wrap);
}

static void take_element(struct ref_device *d, uint64_t at, struct ref_buffer *b)
{
	struct ref_element *e = &b->element[b->count++];

	e->addr = ref_get64(d->mem, at);
	e->len = ref_get32(d->mem, at + 8);
	e->writable = (ref_get16(d->mem, at + 14) & REF_WRITE) != 0;
}

/* 2.8.7: the entries one after the other; 2.8.19: with no flag but WRITE. */
static int take_table(struct ref_device *d, uint64_t table, uint32_t bytes, struct ref_buffer *b)
{
	uint32_t i;

	if (!bytes || bytes % 16)
		return ref_device_complain(d, "2.8.7: a table's length is no number of entries");
	/* 2.8.17 */
	if (bytes / 16 > d->q->size)
		return ref_device_complain(d, "2.8.17: a table longer than the queue size");
	for (i = 0; i < bytes / 16; i++) {
		uint64_t at = table + 16 * (uint64_t)i;

		if (ref_get16(d->mem, at + 14) & ~REF_WRITE)
			return ref_device_complain(d, "2.8.19: a flag other than WRITE in a table");
		take_element(d, at, b);
	}
	return 0;
}

/* 2.8.7, 2.8.19: a descriptor that refers to a table stands for a whole buffer. */
static int take_indirect(struct ref_device *d, uint64_t at, uint16_t flags,
			 struct ref_request *req)
{
	if (!d->q->indirect)
		return ref_device_complain(d, "2.8.19: INDIRECT was not negotiated");
	if (req->main_count != 1 || flags & REF_NEXT)
		return ref_device_complain(d, "2.8.19: INDIRECT in a list linked by NEXT");
	return take_table(d, ref_get64(d->mem, at), ref_get32(d->mem, at + 8), &req->buffer);
}

/* 2.8.6, 2.8.18: the members of a list in ring order, up to one without NEXT. */
static int take_list(struct ref_device *d, struct ref_cursor *c, struct ref_request *req)
{
	req->buffer.count = 0;
	req->main_count = 0;
	for (;;) {
		uint64_t at = packed_desc_at(d->q, c->slot);
		uint16_t flags = ref_get16(d->mem, at + 14);

		/* 2.8.17: no longer than the queue size. */
		if (req->main_count == d->q->size)
			return ref_device_complain(d, "2.8.17: a list longer than the queue size");
		/* 2.8.6, note: every member's flags are right, not only the first's. */
		if (!packed_is_available(flags, c->wrap))
			return ref_device_complain(d, "2.8.6: a member that is not available");
		req->main_count++;
		/* 2.8.6: the id of the last member counts. */
		req->id = ref_get16(d->mem, at + 12);
		ref_cursor_advance(d->q, c, 1);
		if (flags & REF_INDIRECT)
			return take_indirect(d, at, flags, req);
		take_element(d, at, &req->buffer);
		if (!(flags & REF_NEXT))
			return 0;
	}
}

/* 2.8.12: started in the order in which they appear in the ring. */
int packed_device_pop(struct ref_device *d, struct ref_request *req)
{
	struct ref_cursor c = d->avail;

	if (!avail_waiting(d))
		return 0;
	if (take_list(d, &c, req) || ref_device_check_buffer(d, &req->buffer))
		return -1;
	d->avail = c;
	return 1;
}

/* 2.8.1: back over the list, and over the wrap if that lies inside it. */
void packed_device_unpop(struct ref_device *d, const struct ref_request *req)
{
	unsigned int i;

	for (i = 0; i < req->main_count; i++) {
		if (d->avail.slot == 0) {
			d->avail.slot = d->q->size;
			d->avail.wrap = !d->avail.wrap;
		}
		d->avail.slot--;
	}
}

/* 2.8.1: both bits as the device's wrap counter; 2.8.3: WRITE if anything was written. */
static uint16_t used_flags(const struct ref_device *d, const struct ref_done *done)
{
	uint16_t flags = d->used.wrap ? REF_AVAIL | REF_USED : 0;

	if (done->wrote)
		flags |= REF_WRITE;
	/* 2.8.6: NEXT is reserved here. */
	return flags;
}

/*
 * 2.8.4, 2.8.6: one used descriptor, id and length before flags. The address is
 * unused, the length reserved without WRITE: drivers must bear anything there.
 */
static int write_used(struct ref_device *d, const struct ref_done *done)
{
	uint64_t at = packed_desc_at(d->q, d->used.slot);

	ref_put64(d->mem, at, ~(uint64_t)0);
	ref_put32(d->mem, at + 8, done->wrote ? done->len : ~(uint32_t)0);
	ref_put16(d->mem, at + 12, done->id);
	ref_put16(d->mem, at + 14, used_flags(d, done));
	return d->used.slot;
}

/* 2.8.8: one used descriptor for a batch, with the id of the last; the others are skipped. */
static int use_batch(struct ref_device *d, unsigned int first, unsigned int size)
{
	unsigned int i;

	for (i = 0; i < size; i++)
		d->used_slot[first + i] = -1;
	/* 2.8.8: the driver takes those skipped for completely used. */
	for (i = 0; i + 1 < size; i++)
		if (!d->done[first + i].whole)
			return ref_device_complain(d, "2.8.8: skipped, but not wholly written");
	d->used_slot[first + size - 1] = write_used(d, &d->done[first + size - 1]);
	/* 2.8.6, 2.8.8: forward by the descriptors of all lists in it. */
	for (i = 0; i < size; i++)
		ref_cursor_advance(d->q, &d->used, d->done[first + i].main_count);
	return 0;
}

/*
 * 2.8.10: must the driver be notified of the slots from @from up to @used? The
 * text says "when this descriptor is used": slots that a list or a batch skips
 * are taken to be used with it.
 */
static bool must_call(struct ref_device *d, struct ref_cursor from)
{
	uint16_t desc = ref_get16(d->mem, d->q->driver);
	uint16_t flags = ref_get16(d->mem, d->q->driver + 2) & 3;
	unsigned int i, slots = 0;

	if (flags == REF_EVENT_DISABLE)
		return false;
	if (flags != REF_EVENT_DESC || !d->q->event_idx)
		return true;
	for (i = 0; i < d->done_count; i++)
		slots += d->done[i].main_count;
	for (i = 0; i < slots; i++) {
		if (from.slot == (desc & 0x7fff) && from.wrap == (desc >> 15 & 1))
			return true;
		ref_cursor_advance(d->q, &from, 1);
	}
	return false;
}

/* 2.8.12: written in the order in which they completed. */
bool packed_device_publish(struct ref_device *d, const unsigned int *batch)
{
	struct ref_cursor from = d->used;
	unsigned int at, size;

	for (at = 0; at < d->done_count; at += size) {
		size = batch ? *batch++ : 1;
		if (use_batch(d, at, size))
			return false;
	}
	return must_call(d, from);
}

/* 2.8.10, 2.8.14: the device event structure. */
bool packed_device_arm(struct ref_device *d, const struct ref_arm *arm)
{
	struct ref_cursor c = d->avail;

	if (arm->desc && d->q->event_idx) {
		ref_cursor_advance(d->q, &c, arm->ahead);
		ref_put16(d->mem, d->q->device, (uint16_t)(c.slot | (unsigned int)c.wrap << 15));
		ref_put16(d->mem, d->q->device + 2, REF_EVENT_DESC);
	} else {
		ref_put16(d->mem, d->q->device + 2, REF_EVENT_ENABLE);
	}
	return avail_waiting(d);
}

void packed_device_disarm(struct ref_device *d)
{
	ref_put16(d->mem, d->q->device + 2, REF_EVENT_DISABLE);
}
