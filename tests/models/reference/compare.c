/* SPDX-License-Identifier: MIT */
/*
 * Lockstep, the memory of it: what an end left behind against what the model
 * of it did to a copy. The two must be equal, but for bytes that the standard
 * leaves free; each class of those is named in why_free_...() with the reason.
 * Then the copy is made equal again, free bytes included.
 */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const operation_names[OP_COUNT] = {
	"the start", "add", "publish by the driver", "get", "arm by the driver",
	"disarm by the driver", "the start of the device", "pop", "unpop",
	"the handling of a request", "push", "publish by the device", "arm by the device",
	"disarm by the device",
};

/* Worth a word, unless the shadows are to be quiet. */
void shadow_differs(struct world *w, const char *fmt, ...)
{
	char text[256];
	va_list args;

	if (w->setup.quiet)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	world_fail(w, "%s", text);
}

bool shadow_silent(const struct world *w)
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

	/* 2.8.13: a new packed ring is zero; a split table may hold anything. */
	if (w->op == OP_START && w->q.packed)
		return NULL;
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

/* The buffer whose used entry is there, if idx covers it and the driver did not take it yet. */
static const struct flight *used_entry_in(const struct world *w, unsigned int slot)
{
	unsigned int i;

	for (i = 0; i < w->used.count; i++)
		if (w->used.at[i]->used_slot == (int)slot)
			return w->used.at[i];
	return NULL;
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

static const char *why_free_used_descriptor(struct world *w, uint64_t off, uint8_t differing)
{
	unsigned int slot = (unsigned int)(off / 16), byte = off % 16, slots;
	const struct flight *f = used_entry_in(w, slot);

	if (f) {
		/* 2.8.4: the address is unused in a used descriptor. */
		if (byte < 8)
			return "address of a used descriptor";
		/* 2.8.4: the length is reserved without WRITE, and ignored. */
		if (byte < 12 && !(ref_get16(&w->mem, packed_desc_at(&w->q, slot) + 14) &
				   REF_WRITE))
			return "length of a used descriptor without WRITE";
		/*
		 * 2.8.3 sets WRITE if any data was written into any part, 2.8.4 and
		 * P-DEV-011 tie it to a length: for a device that wrote, but not
		 * from the start on (length 0), either is taken. Drivers cannot
		 * tell the two apart: both say that no byte is theirs to read.
		 */
		if (byte == 14 && f->tail && !f->len && !(differing & ~REF_WRITE))
			return "WRITE with length 0";
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

static const char *why_free_of_device(struct world *w, uint64_t gpa, uint8_t differing)
{
	if (w->q.packed && in_area(w, 0, gpa))
		return why_free_used_descriptor(w, gpa - w->q.desc, differing);
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
					 why_free_of_device(w, a->gpa + i, differing);
		if (!why) {
			shadow_differs(w, "after %s, byte %u of the %s is %02x, the model's %02x",
				       operation_names[w->op], i, a->name, a->host[i],
				       s->host[i]);
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
		shadow_differs(w, "after %s, a list can be seen that was not published (2.8.6)",
			       operation_names[w->op]);
	if (w->device_started &&
	    packed_is_used(ref_get16(&w->mem, packed_desc_at(&w->q, dev->used.slot) + 14),
			   dev->used.wrap))
		shadow_differs(w, "after %s, a used entry can be seen that was not published",
			       operation_names[w->op]);
}

void shadow_compare(struct world *w)
{
	unsigned int i;

	if (shadow_silent(w))
		return;
	if (w->setup.quiet) {
		memcpy(w->shadow_block, w->block, w->block_bytes);
		return;
	}
	check_nothing_shown(w);
	w->coverage->bytes_compared += w->block_bytes;
	if (!memcmp(w->block, w->shadow_block, w->block_bytes))
		return;
	for (i = 0; i < w->mem.count && !shadow_silent(w); i++)
		compare_area(w, i);
	if (!shadow_silent(w) && memcmp(w->block, w->shadow_block, w->block_bytes))
		shadow_differs(w, "after %s, memory outside all areas changed",
			       operation_names[w->op]);
}
