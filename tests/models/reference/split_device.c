/* SPDX-License-Identifier: MIT */
/* The reference model: the device end of the split layout (VIRTIO 1.4, 2.7). */
#include "model.h"

#include <stddef.h>

void split_device_start(struct ref_device *d, const uint32_t *position)
{
	d->last_avail = position ? (uint16_t)*position : 0;
	/* 2.7.8: idx says where the next entry goes; the ring itself keeps it. */
	d->used_idx = ref_get16(d->mem, split_used_idx_at(d->q));
}

/* 2.7.6: avail idx says where the driver puts the next entry; those before are there. */
static uint16_t avail_waiting(struct ref_device *d)
{
	return (uint16_t)(ref_get16(d->mem, split_avail_idx_at(d->q)) - d->last_avail);
}

/* 2.7.5: one descriptor becomes one element. */
static int take_element(struct ref_device *d, uint64_t at, struct ref_buffer *b)
{
	struct ref_element *e = &b->element[b->count];

	/* 2.7.5.2 and 2.7.5.3.1: a chain is no longer than the queue, so it cannot loop. */
	if (b->count == d->q->size)
		return ref_device_complain(d, "2.7.5.2: a chain longer than the queue size");
	e->addr = ref_get64(d->mem, at);
	e->len = ref_get32(d->mem, at + 8);
	e->writable = (ref_get16(d->mem, at + 12) & REF_WRITE) != 0;
	b->count++;
	return 0;
}

/* 2.7.5.3: the entries of a table, linked by next from entry 0 on. */
static int take_table(struct ref_device *d, uint64_t table, uint32_t bytes, struct ref_buffer *b)
{
	uint32_t entries = bytes / 16;
	uint32_t n = 0;

	if (!entries || bytes % 16)
		return ref_device_complain(d, "2.7.5.3: a table's length is no number of entries");
	for (;;) {
		uint64_t at = table + 16 * (uint64_t)n;
		uint16_t flags = ref_get16(d->mem, at + 12);

		if (flags & REF_INDIRECT)
			return ref_device_complain(d, "2.7.5.3.1: a table inside a table");
		if (take_element(d, at, b))
			return -1;
		if (!(flags & REF_NEXT))
			return 0;
		n = ref_get16(d->mem, at + 14);
		if (n >= entries)
			return ref_device_complain(d, "2.7.5.3: next outside the table");
		/* 2.7.5.3.1 */
		if (d->q->in_order && at + 16 != table + 16 * (uint64_t)n)
			return ref_device_complain(d, "2.7.5.3.1: a table out of order");
	}
}

/* 2.7.5.3.1: who may set INDIRECT, and not beside NEXT; WRITE is ignored there (2.7.5.3.2). */
static int take_indirect(struct ref_device *d, uint64_t at, uint16_t flags, struct ref_buffer *b)
{
	if (!d->q->indirect)
		return ref_device_complain(d, "2.7.5.3.1: INDIRECT was not negotiated");
	if (flags & REF_NEXT)
		return ref_device_complain(d, "2.7.5.3.1: INDIRECT together with NEXT");
	return take_table(d, ref_get64(d->mem, at), ref_get32(d->mem, at + 8), b);
}

/* 2.7.5: the chain from its head; 2.7.5.3.2: the last may refer to a table. */
static int take_chain(struct ref_device *d, uint16_t head, struct ref_request *req)
{
	struct ref_buffer *b = &req->buffer;
	uint16_t n = head;

	b->count = 0;
	req->main_count = 0;
	for (;;) {
		uint64_t at = split_desc_at(d->q, n);
		uint16_t flags = ref_get16(d->mem, at + 12);

		req->main_count++;
		if (flags & REF_INDIRECT)
			return take_indirect(d, at, flags, b);
		if (take_element(d, at, b))
			return -1;
		if (!(flags & REF_NEXT))
			return 0;
		if (d->q->in_order && ref_get16(d->mem, at + 14) != (n + 1) % d->q->size)
			return ref_device_complain(d, "2.7.5.2: in order, next is not x + 1");
		n = ref_get16(d->mem, at + 14);
		if (n >= d->q->size)
			return ref_device_complain(d, "2.7.5: next outside the table");
	}
}

/* 2.7.13: the next head, and what is behind it. */
int split_device_pop(struct ref_device *d, struct ref_request *req)
{
	uint64_t entry = split_avail_ring_at(d->q, d->last_avail % d->q->size);

	if (!avail_waiting(d))
		return 0;
	if (avail_waiting(d) > d->q->size)
		return ref_device_complain(d, "2.7.6: idx claims more than the queue holds");
	req->id = ref_get16(d->mem, entry);
	if (req->id >= d->q->size)
		return ref_device_complain(d, "2.7.6: a head outside the table");
	if (take_chain(d, req->id, req) || ref_device_check_buffer(d, &req->buffer))
		return -1;
	d->last_avail++;
	return 1;
}

void split_device_unpop(struct ref_device *d, const struct ref_request *req)
{
	(void)req;
	d->last_avail--;
}

/* 2.7.8: id as a 32-bit number, and the bytes written, in the slot that idx names. */
static int write_used(struct ref_device *d, const struct ref_done *done)
{
	int slot = d->used_idx % d->q->size;

	ref_put32(d->mem, split_used_ring_at(d->q, (unsigned int)slot), done->id);
	ref_put32(d->mem, split_used_ring_at(d->q, (unsigned int)slot) + 4, done->len);
	return slot;
}

/*
 * 2.7.9: one entry for a batch, with the head of its last buffer, where the
 * entry of its first would be; idx moves on by the size of the batch.
 */
static int use_batch(struct ref_device *d, unsigned int first, unsigned int size)
{
	unsigned int i;

	for (i = 0; i < size; i++)
		d->used_slot[first + i] = -1;
	/* 2.7.9: the driver takes those skipped for completely used. */
	for (i = 0; i + 1 < size; i++)
		if (!d->done[first + i].whole)
			return ref_device_complain(d, "2.7.9: skipped, but not wholly written");
	d->used_slot[first + size - 1] = write_used(d, &d->done[first + size - 1]);
	d->used_idx = (uint16_t)(d->used_idx + size);
	return 0;
}

/* 2.7.7.2: must the driver be notified of the entries with these indices? */
static bool must_call(struct ref_device *d, uint16_t from, uint16_t to)
{
	uint16_t i;

	/* Without EVENT_IDX: if flags is 0; used_event is ignored. */
	if (!d->q->event_idx)
		return ref_get16(d->mem, split_avail_flags_at(d->q)) == 0;
	/* With it: if one of them was placed by an idx equal to used_event; flags is ignored. */
	for (i = from; i != to; i++)
		if (i == ref_get16(d->mem, split_used_event_at(d->q)))
			return true;
	return false;
}

/* 2.7.8.2: entries first, then idx; then 2.7.7.2. */
bool split_device_publish(struct ref_device *d, const unsigned int *batch)
{
	uint16_t from = d->used_idx;
	unsigned int at, size;

	for (at = 0; at < d->done_count; at += size) {
		size = batch ? *batch++ : 1;
		if (use_batch(d, at, size))
			return false;
	}
	ref_put16(d->mem, split_used_idx_at(d->q), d->used_idx);
	return must_call(d, from, d->used_idx);
}

/* 2.7.10.2: with EVENT_IDX by avail_event, flags being 0; else by flags. */
bool split_device_arm(struct ref_device *d, const struct ref_arm *arm)
{
	ref_put16(d->mem, split_used_flags_at(d->q), 0);
	if (d->q->event_idx)
		ref_put16(d->mem, split_avail_event_at(d->q),
			  (uint16_t)(d->last_avail + arm->ahead));
	/* 2.7.10 with 2.7.14, note: look again after enabling. */
	return avail_waiting(d) != 0;
}

/* 2.7.10.2: flags may be 1 only without EVENT_IDX. */
void split_device_disarm(struct ref_device *d)
{
	if (!d->q->event_idx)
		ref_put16(d->mem, split_used_flags_at(d->q), 1);
}
