/* SPDX-License-Identifier: MIT */
/*
 * The shadows: after every operation of an end, a model of that end does the
 * same on a copy of memory that was equal before. Afterwards the two memories
 * must be equal, but for bytes that the standard leaves free; each class of
 * those is named in why_free_...() with the reason. Then the copy is made equal
 * again, free bytes included.
 *
 * Which descriptors and ids a driver takes is its own choice: the shadow reads
 * the choice from memory, refuses it if the standard does, and does likewise.
 */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const operation_names[OP_COUNT] = {
	"the start", "add", "publish by the driver", "get", "arm by the driver",
	"disarm by the driver", "the start of the device", "pop", "unpop", "the handling of a request", "push",
	"publish by the device", "arm by the device", "disarm by the device",
};

/* As world_fail(), but a shadow that must be quiet, and is at a loss, retires instead. */
__attribute__((format(printf, 2, 3)))
static void shadow_fail(struct world *w, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (w->setup.quiet)
		w->shadow_off = true;
	else
		world_fail(w, "%s", text);
}

static bool silent(const struct world *w)
{
	return w->shadow_off || world_failed(w);
}

/* ---- What the standard leaves free. ---- */

static bool in_area(const struct world *w, unsigned int area, uint64_t gpa)
{
	const struct ref_area *a = &w->mem.area[area];

	return gpa >= a->gpa && gpa - a->gpa < a->bytes;
}

/* Flights that are exposed: visible to the device, and not yet used by it (3.3.1). */
static const struct flights *exposed(const struct world *w, unsigned int i)
{
	const struct flights *const lists[] = {
		&w->published, &w->popped, &w->handled, &w->pushed,
	};

	return i < 4 ? lists[i] : NULL;
}

static unsigned int slots_in(const struct flights *list)
{
	unsigned int i, slots = 0;

	for (i = 0; i < list->count; i++)
		slots += list->at[i]->seen.main_count;
	return slots;
}

/* Is @slot one of the @count slots from @first on? */
static bool slot_within(const struct world *w, unsigned int slot, unsigned int first,
			unsigned int count)
{
	return (slot + w->q.size - first) % w->q.size < count;
}

/* Was this one exposed by the very operation that is being judged? */
static bool fresh(const struct world *w, const struct flight *f)
{
	return w->op == OP_PUBLISH && f->exposed_at == w->now;
}

/* Which of a flight's descriptors is number @n? -1: none. */
static int member_of(const struct world *w, const struct flight *f, unsigned int n)
{
	unsigned int k;

	if (w->q.packed)
		return slot_within(w, n, f->avail_slot, f->seen.main_count) ?
			(int)((n + w->q.size - f->avail_slot) % w->q.size) : -1;
	for (k = 0; k < f->seen.main_count; k++)
		if (f->seen.main[k] == n)
			return (int)k;
	return -1;
}

/* The exposed flight that has descriptor @n, or, on a packed ring, newly put it there. */
static const struct flight *descriptor_owner(const struct world *w, unsigned int n, int *member)
{
	const struct flights *list;
	unsigned int l, i;

	for (l = 0; (list = exposed(w, l)); l++) {
		for (i = 0; i < list->count; i++) {
			if (w->q.packed && !fresh(w, list->at[i]))
				continue;
			*member = member_of(w, list->at[i], n);
			if (*member >= 0)
				return list->at[i];
		}
	}
	return NULL;
}

/*
 * Packed: slots from where the device will put its next used entry up to what
 * is available belong to the device, whatever stands in them (2.8.16).
 */
static bool slot_exposed(const struct world *w, unsigned int slot)
{
	unsigned int l, slots = 0;

	for (l = 0; exposed(w, l); l++)
		slots += slots_in(exposed(w, l));
	return slot_within(w, slot, w->shadow_device.used.slot, slots);
}

/* Is this byte of a descriptor or table entry free although the whole is not? */
static const char *free_in_split_descriptor(bool linked, bool refers, unsigned int byte,
					    uint8_t differing)
{
	/* 2.7.5: next is a field only if flags & NEXT. */
	if (byte >= 14 && !linked)
		return "next without NEXT";
	/* 2.7.5.3.2: the device ignores WRITE in a descriptor that refers to a table. */
	if (byte == 12 && refers && !(differing & ~REF_WRITE))
		return "WRITE beside INDIRECT";
	return NULL;
}

static const char *free_in_packed_descriptor(bool last, bool refers, unsigned int byte,
					     uint8_t differing)
{
	/*
	 * 2.8.6 puts the id into the last descriptor of a list, 2.8.21.1 into
	 * each: what stands in the others cannot matter to a device.
	 */
	if ((byte == 12 || byte == 13) && !last)
		return "id before the end of a list";
	/* 2.8.7: WRITE is reserved in a descriptor that refers to a table, and ignored. */
	if (byte == 14 && refers && !(differing & ~REF_WRITE))
		return "WRITE beside INDIRECT";
	return NULL;
}

static const char *why_free_descriptor(const struct world *w, uint64_t off, uint8_t differing)
{
	unsigned int n = (unsigned int)(off / 16);
	int member = -1;
	const struct flight *f = descriptor_owner(w, n, &member);
	bool last, refers;

	/*
	 * Nothing that the device may look at refers to it: never used, staged
	 * only (2.7.13.3, 2.8.21.1: exposed by idx or by the head's flags), or
	 * given back by the device already.
	 */
	if (!f)
		return w->q.packed && slot_exposed(w, n) ? NULL : "descriptor of no exposed buffer";
	/* 3.3.1, 2.8.16: what was exposed before must not change at all. */
	if (!fresh(w, f))
		return NULL;
	last = member + 1 == (int)f->seen.main_count;
	refers = last && f->seen.indirect;
	return w->q.packed ? free_in_packed_descriptor(last, refers, off % 16, differing) :
			     free_in_split_descriptor(!last, refers, off % 16, differing);
}

static const char *why_free_table(const struct world *w, uint64_t gpa)
{
	const struct flights *list;
	unsigned int l, i;

	for (l = 0; (list = exposed(w, l)); l++) {
		for (i = 0; i < list->count; i++) {
			const struct ref_choice *c = &list->at[i]->seen;
			uint64_t off = gpa - c->table;

			if (!c->indirect || gpa < c->table || off >= 16 * (uint64_t)c->entry_count)
				continue;
			if (!fresh(w, list->at[i]))
				return NULL;
			/* 2.8.7: the id is reserved in a table, and ignored. */
			if (w->q.packed)
				return off % 16 == 12 || off % 16 == 13 ? "id in a table" : NULL;
			return free_in_split_descriptor(
				off / 16 != c->entry[c->entry_count - 1], false, off % 16, 0);
		}
	}
	return "table of no exposed buffer";
}

static const char *why_free_avail_ring(const struct world *w, uint64_t off)
{
	uint16_t i, slot = (uint16_t)((off - 4) / 2);

	if (off == 4 + 2 * (uint64_t)w->q.size || off == 5 + 2 * (uint64_t)w->q.size)
		/* 2.7.7.1: any used_event is as good where the driver wants no call. */
		return w->q.event_idx && w->driver_parked ? "used_event, disarmed" : NULL;
	if (off < 4)
		return NULL;
	for (i = 0; i < w->published.count; i++)
		if ((uint16_t)(w->shadow_device.last_avail + i) % w->q.size == slot)
			return NULL;
	/* 2.7.13.3: staged, but idx does not cover it yet; or the device took it already. */
	return "avail ring slot that idx does not cover";
}

/* 2.8.14: the place counts only if flags say DESC. */
static const char *why_free_packed_event(struct world *w, uint64_t at, uint64_t off)
{
	return off < 2 && (ref_get16(&w->mem, at + 2) & 3) != REF_EVENT_DESC ?
		"event place without DESC" : NULL;
}

static const char *why_free_of_driver(struct world *w, uint64_t gpa, uint8_t differing)
{
	if (in_area(w, 0, gpa))
		return why_free_descriptor(w, gpa - w->q.desc, differing);
	if (in_area(w, 1, gpa))
		return w->q.packed ? why_free_packed_event(w, w->q.driver, gpa - w->q.driver) :
				     why_free_avail_ring(w, gpa - w->q.driver);
	if (gpa >= w->table_gpa && gpa - w->table_gpa < w->table_bytes)
		return why_free_table(w, gpa);
	/* The device area is not the driver's, data belongs to whoever added the buffer. */
	return NULL;
}

static bool used_entry_in(const struct world *w, unsigned int slot)
{
	unsigned int i;

	for (i = 0; i < w->used.count; i++)
		if (w->used.at[i]->used_slot == (int)slot)
			return true;
	return false;
}

static const char *why_free_used_ring(const struct world *w, uint64_t off)
{
	unsigned int slot = (unsigned int)((off - 4) / 8);

	if (off == 4 + 8 * (uint64_t)w->q.size || off == 5 + 8 * (uint64_t)w->q.size)
		/* 2.7.10.2: any avail_event is as good where the device wants no kick. */
		return w->q.event_idx && w->device_parked ? "avail_event, disarmed" : NULL;
	if (off < 4)
		return NULL;
	/* 2.7.8.2: staged, but idx does not cover it yet; 2.7.9: skipped; or the driver took it. */
	return used_entry_in(w, slot) ? NULL : "used ring slot that idx does not cover";
}

static const char *why_free_used_descriptor(struct world *w, uint64_t off)
{
	unsigned int slot = (unsigned int)(off / 16), byte = off % 16, slots;

	if (used_entry_in(w, slot)) {
		/* 2.8.4: the address is unused in a used descriptor. */
		if (byte < 8)
			return "address of a used descriptor";
		/* 2.8.4: the length is reserved without WRITE, and ignored. */
		if (byte < 12 && !(ref_get16(&w->mem, packed_desc_at(&w->q, slot) + 14) &
				   REF_WRITE))
			return "length of a used descriptor without WRITE";
		return NULL;
	}
	/*
	 * Taken, and not visibly used: the device's own, to prepare used entries
	 * in (2.8.12), though where the driver polls none may show; that is
	 * checked apart. What is offered and not taken, or used, is not (2.8.15).
	 */
	slots = slots_in(&w->popped) + slots_in(&w->handled) + slots_in(&w->pushed);
	if (slot_within(w, slot, w->shadow_device.used.slot, slots))
		return "descriptor in the device's hands";
	return NULL;
}

static const char *why_free_of_device(struct world *w, uint64_t gpa)
{
	if (w->q.packed && in_area(w, 0, gpa))
		return why_free_used_descriptor(w, gpa - w->q.desc);
	if (in_area(w, 2, gpa))
		return w->q.packed ? why_free_packed_event(w, w->q.device, gpa - w->q.device) :
				     why_free_used_ring(w, gpa - w->q.device);
	/*
	 * The split descriptor table and tables in memory are not the device's
	 * (2.7.5, S-DEV-005), nor is the driver area; data was written as told.
	 */
	return NULL;
}

static bool by_driver(enum operation op)
{
	return op <= OP_DRIVER_DISARM;
}

static void compare_area(struct world *w, unsigned int area)
{
	const struct ref_area *a = &w->mem.area[area], *s = &w->shadow_mem.area[area];
	uint32_t i;

	if (!memcmp(a->host, s->host, a->bytes))
		return;
	for (i = 0; i < a->bytes; i++) {
		uint8_t differing = a->host[i] ^ s->host[i];
		const char *why;

		if (!differing)
			continue;
		why = by_driver(w->op) ? why_free_of_driver(w, a->gpa + i, differing) :
					 why_free_of_device(w, a->gpa + i);
		if (!why) {
			shadow_fail(w, "after %s, byte %u of the %s is %02x, the model's is %02x",
				    operation_names[w->op], i, a->name, a->host[i], s->host[i]);
			return;
		}
		s->host[i] = a->host[i];
	}
}

/* Where the other end polls, nothing may show that was not published (2.8.2, 2.8.6). */
static void check_nothing_shown(struct world *w)
{
	const struct ref_driver *drv = &w->shadow_driver;
	const struct ref_device *dev = &w->shadow_device;

	if (!w->q.packed)
		return;
	if (drv->slots_free &&
	    packed_is_available(ref_get16(&w->mem, packed_desc_at(&w->q, drv->shown.slot) + 14),
				drv->shown.wrap))
		shadow_fail(w, "after %s, a list can be seen that was not published (2.8.6)",
			    operation_names[w->op]);
	if (w->device_started &&
	    packed_is_used(ref_get16(&w->mem, packed_desc_at(&w->q, dev->used.slot) + 14),
			   dev->used.wrap))
		shadow_fail(w, "after %s, a used entry can be seen that was not published",
			    operation_names[w->op]);
}

void shadow_compare(struct world *w)
{
	unsigned int i;

	if (silent(w))
		return;
	if (w->setup.quiet) {
		memcpy(w->shadow_block, w->block, w->block_bytes);
		return;
	}
	check_nothing_shown(w);
	w->coverage->bytes_compared += w->block_bytes;
	if (!memcmp(w->block, w->shadow_block, w->block_bytes))
		return;
	for (i = 0; i < w->mem.count && !silent(w); i++)
		compare_area(w, i);
	if (!silent(w) && memcmp(w->block, w->shadow_block, w->block_bytes))
		shadow_fail(w, "after %s, memory outside all areas changed",
			    operation_names[w->op]);
}

static void compare_answer(struct world *w, const char *what, bool is, bool should)
{
	if (!silent(w) && !w->setup.quiet && is != should)
		shadow_fail(w, "%s: the answer was %d, the model's is %d", what, is, should);
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
		shadow_fail(w, "a buffer of %u elements is %sin a table of up to %u",
			    f->buffer.count, f->seen.indirect ? "" : "not ",
			    w->indirect_entries);
	else if (w->q.packed && f->seen.id >= w->q.size)
		/* P-DRV-023: derived from the example in 2.8.22. */
		shadow_fail(w, "buffer id %u in a queue of %u", f->seen.id, w->q.size);
	else if (table && (f->seen.table < w->table_gpa ||
			   f->seen.table + 16 * (uint64_t)f->seen.entry_count >
			   w->table_gpa + w->table_bytes))
		shadow_fail(w, "a table outside the memory that was given for tables");
}

void shadow_driver_publish(struct world *w, bool kick)
{
	unsigned int i, count = w->staged.count;
	bool should;

	for (i = 0; i < count; i++) {
		struct flight *f = w->staged.at[i];

		if (silent(w))
			return;
		observe(w, f);
		if (ref_driver_add(&w->shadow_driver, f->index, &f->buffer, &f->seen)) {
			shadow_fail(w, "the driver published what the model refuses: %s",
				    w->shadow_driver.complaint);
			return;
		}
		if (w->setup.driver->library)
			check_promise(w, f);
	}
	if (silent(w))
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

	for (i = 0; i < count && !silent(w); i++) {
		if (ref_driver_get(&w->shadow_driver, &want) != 1)
			shadow_fail(w, "the driver got what the model does not: %s",
				    w->shadow_driver.complaint ? w->shadow_driver.complaint :
				    "nothing was used");
		else if (want.cookie != used[i].cookie || want.written != used[i].written)
			shadow_fail(w, "got buffer %u with %u bytes, the model buffer %u with %u",
				    w->flight[used[i].cookie].serial, used[i].written,
				    w->flight[want.cookie].serial, want.written);
	}
}

void shadow_driver_arm(struct world *w, const struct ref_arm *arm, bool there)
{
	bool should;

	if (silent(w))
		return;
	should = ref_driver_arm(&w->shadow_driver, arm);
	compare_answer(w, "something to get when armed (2.7.14, 2.8.22)", there, should);
}

void shadow_driver_disarm(struct world *w)
{
	if (silent(w))
		return;
	ref_driver_disarm(&w->shadow_driver);
}

/* ---- The device's shadow. ---- */

static bool same_elements(const struct ref_buffer *a, const struct ref_buffer *b)
{
	unsigned int i;

	for (i = 0; i < a->count && a->count == b->count; i++)
		if (a->element[i].addr != b->element[i].addr ||
		    a->element[i].len != b->element[i].len ||
		    a->element[i].writable != b->element[i].writable)
			return false;
	return a->count == b->count;
}

void shadow_device_pop(struct world *w, struct flight **f, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count && !silent(w); i++) {
		if (ref_device_pop(&w->shadow_device, &f[i]->shadow) != 1)
			shadow_fail(w, "the device popped what the model does not: %s",
				    w->shadow_device.complaint ? w->shadow_device.complaint :
				    "nothing was available");
		else if (!same_elements(&f[i]->buffer, &f[i]->shadow.buffer))
			shadow_fail(w, "the model popped another buffer than %u", f[i]->serial);
	}
}

void shadow_device_unpop(struct world *w, struct flight *f)
{
	if (silent(w))
		return;
	ref_device_unpop(&w->shadow_device, &f->shadow);
}

void shadow_device_handle(struct world *w, struct flight *f)
{
	if (silent(w))
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

	if (silent(w))
		return;
	for (i = 0; i < count; i++) {
		const struct flight *f = w->pushed.at[i];

		ref_device_complete(d, &f->shadow, f->len, f->prefix || f->tail);
	}
	if (w->q.in_order)
		observe_batches(w, batch);
	should = ref_device_publish(d, w->q.in_order ? batch : NULL);
	if (d->complaint) {
		shadow_fail(w, "the device published what the model refuses: %s", d->complaint);
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

	if (silent(w))
		return;
	should = ref_device_arm(&w->shadow_device, arm);
	compare_answer(w, "something to pop when armed (2.7.10, 2.8.15)", there, should);
}

void shadow_device_disarm(struct world *w)
{
	if (silent(w))
		return;
	ref_device_disarm(&w->shadow_device);
}
