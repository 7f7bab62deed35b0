/* SPDX-License-Identifier: MIT */
/*
 * The shadows: after every operation of an end, a model of that end does the
 * same on a copy of memory that was equal before, and answers alike. Afterwards
 * the two memories must be equal, as far as compare.c does not except them.
 *
 * Which descriptors and ids a driver takes is its own choice: the shadow reads
 * the choice from memory, refuses it if the standard does, and does likewise.
 */
#include "world.h"

#include <string.h>

/* The shadow cannot follow: one that is to be quiet retires. */
static void refuse(struct world *w, const char *what, const char *complaint)
{
	shadow_differs(w, "%s: %s", what, complaint ? complaint : "there is nothing");
	w->shadow_off = true;
}

static void compare_answer(struct world *w, const char *what, bool is, bool should)
{
	if (!shadow_silent(w) && is != should)
		shadow_differs(w, "%s: the answer was %d, the model's is %d", what, is, should);
}

/* ---- The driver's shadow. ---- */

void shadow_driver_start(struct world *w, const uint32_t *position)
{
	ref_driver_start(&w->shadow_driver, &w->q, &w->shadow_mem, position);
}

void shadow_device_start(struct world *w, const uint32_t *position)
{
	ref_device_start(&w->shadow_device, &w->q, &w->shadow_mem, position);
}

/* Read the choice of a table: its entries in the order in which they are linked. */
static void observe_table(struct world *w, struct ref_choice *c, uint64_t at)
{
	uint32_t bytes = ref_get32(&w->mem, at + 8);
	unsigned int n = 0;

	c->indirect = true;
	c->table = ref_get64(&w->mem, at);
	c->entry_count = 0;
	if (bytes / 16 > REF_MAX)
		return;
	if (w->q.packed) {
		while (c->entry_count < bytes / 16) {
			c->entry[c->entry_count] = (uint16_t)c->entry_count;
			c->entry_count++;
		}
		return;
	}
	while (c->entry_count < bytes / 16) {
		uint64_t entry = c->table + 16 * (uint64_t)n;

		c->entry[c->entry_count++] = (uint16_t)n;
		if (!(ref_get16(&w->mem, entry + 12) & REF_NEXT))
			break;
		n = ref_get16(&w->mem, entry + 14);
	}
}

static void observe_split(struct world *w, struct ref_choice *c, uint16_t head)
{
	uint16_t n = head, flags;

	do {
		uint64_t at = split_desc_at(&w->q, n);

		c->main[c->main_count++] = n;
		if (n >= w->q.size)
			return;
		flags = ref_get16(&w->mem, at + 12);
		if (flags & REF_INDIRECT) {
			observe_table(w, c, at);
			return;
		}
		n = ref_get16(&w->mem, at + 14);
	} while (flags & REF_NEXT && c->main_count < w->q.size);
}

static void observe_packed(struct world *w, struct ref_choice *c, struct ref_cursor at)
{
	uint16_t flags;

	do {
		uint64_t desc = packed_desc_at(&w->q, at.slot);

		c->main_count++;
		flags = ref_get16(&w->mem, desc + 14);
		c->id = ref_get16(&w->mem, desc + 12);
		ref_cursor_advance(&w->q, &at, 1);
		if (flags & REF_INDIRECT) {
			observe_table(w, c, desc);
			return;
		}
	} while (flags & REF_NEXT && c->main_count < w->q.size);
}

/* The next staged buffer's choice, from where the driver must have put it. */
static void observe(struct world *w, struct flight *f)
{
	const struct ref_driver *d = &w->shadow_driver;

	memset(&f->seen, 0, sizeof(f->seen));
	f->avail_slot = d->avail.slot;
	if (w->q.packed)
		observe_packed(w, &f->seen, d->avail);
	else
		observe_split(w, &f->seen, ref_get16(&w->mem, split_avail_ring_at(&w->q,
					(uint16_t)(d->avail_idx + d->staged) % w->q.size)));
}

/* What virtq/driver.h promises beyond the standard: which chains go into tables, and whole. */
static void check_promise(struct world *w, const struct flight *f)
{
	bool table = w->q.indirect && f->buffer.count >= 2 &&
		     f->buffer.count <= w->indirect_entries;

	if (table != f->seen.indirect || (table && f->seen.main_count != 1))
		shadow_differs(w, "a buffer of %u elements is %sin a table of up to %u",
			    f->buffer.count, f->seen.indirect ? "" : "not ",
			    w->indirect_entries);
	else if (w->q.packed && f->seen.id >= w->q.size)
		/* P-DRV-023: derived from the example in 2.8.22. */
		shadow_differs(w, "buffer id %u in a queue of %u", f->seen.id, w->q.size);
	else if (table && (f->seen.table < w->table_gpa ||
			   f->seen.table + 16 * (uint64_t)f->seen.entry_count >
			   w->table_gpa + w->table_bytes))
		shadow_differs(w, "a table outside the memory that was given for tables");
}

/* The model's driver knows what it chose. */
static void check_made(struct world *w, const struct flight *f)
{
	if (f->made.main_count != f->seen.main_count || f->made.indirect != f->seen.indirect ||
	    (f->seen.indirect && f->made.table != f->seen.table) ||
	    (w->q.packed && f->made.id != f->seen.id))
		shadow_differs(w, "not what the model's driver chose is in memory");
}

void shadow_driver_publish(struct world *w, bool kick)
{
	unsigned int i, count = w->staged.count;
	bool should;

	for (i = 0; i < count; i++) {
		struct flight *f = w->staged.at[i];

		if (shadow_silent(w))
			return;
		observe(w, f);
		if (ref_driver_add(&w->shadow_driver, f->index, &f->buffer, &f->seen)) {
			refuse(w, "the driver published what the model refuses",
			       w->shadow_driver.complaint);
			return;
		}
		if (w->setup.driver->library)
			check_promise(w, f);
		else
			check_made(w, f);
	}
	if (shadow_silent(w))
		return;
	should = ref_driver_publish(&w->shadow_driver);
	/*
	 * Up to where the last decision went nobody knows right after a restored
	 * start. To kick once too often is allowed then; 2.7.10.1 and 2.8.10 only
	 * advise against it, while to be silent would lose a kick.
	 */
	if (w->driver_undecided && count && kick)
		should = true;
	compare_answer(w, "must kick (2.7.10.1, 2.8.10)", kick, should);
}

void shadow_driver_get(struct world *w, const struct ref_used *used, unsigned int count)
{
	struct ref_used want;
	unsigned int i;

	for (i = 0; i < count && !shadow_silent(w); i++) {
		if (ref_driver_get(&w->shadow_driver, &want) != 1)
			refuse(w, "the driver got what the model does not",
			       w->shadow_driver.complaint);
		else if (want.cookie != used[i].cookie || want.written != used[i].written)
			shadow_differs(w, "got buffer %u, %u bytes, the model buffer %u, %u bytes",
				       w->flight[used[i].cookie].serial, used[i].written,
				       w->flight[want.cookie].serial, want.written);
	}
}

void shadow_driver_arm(struct world *w, const struct ref_arm *arm, bool there)
{
	bool should;

	if (shadow_silent(w))
		return;
	should = ref_driver_arm(&w->shadow_driver, arm);
	compare_answer(w, "something to get when armed (2.7.14, 2.8.22)", there, should);
}

void shadow_driver_disarm(struct world *w)
{
	if (shadow_silent(w))
		return;
	ref_driver_disarm(&w->shadow_driver);
}

/* ---- The device's shadow. ---- */

void shadow_device_pop(struct world *w, struct flight **f, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count && !shadow_silent(w); i++) {
		if (ref_device_pop(&w->shadow_device, &f[i]->shadow) != 1)
			refuse(w, "the device popped what the model does not",
			       w->shadow_device.complaint);
		else if (!same_elements(&f[i]->buffer, &f[i]->shadow.buffer))
			shadow_differs(w, "the model popped another buffer than %u", f[i]->serial);
	}
}

void shadow_device_unpop(struct world *w, struct flight *f)
{
	if (shadow_silent(w))
		return;
	ref_device_unpop(&w->shadow_device, &f->shadow);
}

void shadow_device_handle(struct world *w, struct flight *f)
{
	if (shadow_silent(w))
		return;
	flight_write_plainly(&w->shadow_mem, f, &f->shadow.buffer);
}

/*
 * With IN_ORDER the device chooses the batches (2.7.9, 2.8.8: MAY): the id in
 * the entry at the start of each says how far it reaches.
 */
static void observe_batches(struct world *w, unsigned int *batch)
{
	struct ref_device *d = &w->shadow_device;
	struct ref_cursor c = d->used;
	uint16_t idx = d->used_idx;
	unsigned int at = 0, size, i;

	while (at < d->done_count) {
		uint32_t id = w->q.packed ? ref_get16(&w->mem, packed_desc_at(&w->q, c.slot) + 12) :
			ref_get32(&w->mem, split_used_ring_at(&w->q, idx % w->q.size));

		for (size = 1; at + size < d->done_count; size++)
			if (d->done[at + size - 1].id == id)
				break;
		if (d->done[at + size - 1].id != id)
			size = 1;
		for (i = 0; i < size; i++)
			ref_cursor_advance(&w->q, &c, d->done[at + i].main_count);
		idx = (uint16_t)(idx + size);
		*batch++ = size;
		at += size;
	}
}

void shadow_device_publish(struct world *w, bool call)
{
	struct ref_device *d = &w->shadow_device;
	unsigned int i, batch[REF_MAX], count = w->pushed.count;
	bool should;

	if (shadow_silent(w))
		return;
	for (i = 0; i < count; i++) {
		const struct flight *f = w->pushed.at[i];

		ref_device_complete(d, &f->shadow, f->len, f->prefix || f->tail);
	}
	if (w->q.in_order)
		observe_batches(w, batch);
	should = ref_device_publish(d, w->q.in_order ? batch : NULL);
	if (d->complaint) {
		refuse(w, "the device published what the model refuses", d->complaint);
		return;
	}
	for (i = 0; i < count; i++)
		w->pushed.at[i]->used_slot = d->used_slot[i];
	/* As for the driver; N-DEV-012 wants it of a device even at a new ring's start. */
	if (w->device_undecided && count && call)
		should = true;
	compare_answer(w, "must call (2.7.7.2, 2.8.10)", call, should);
}

void shadow_device_arm(struct world *w, const struct ref_arm *arm, bool there)
{
	bool should;

	if (shadow_silent(w))
		return;
	should = ref_device_arm(&w->shadow_device, arm);
	compare_answer(w, "something to pop when armed (2.7.10, 2.8.15)", there, should);
}

void shadow_device_disarm(struct world *w)
{
	if (shadow_silent(w))
		return;
	ref_device_disarm(&w->shadow_device);
}
