/* SPDX-License-Identifier: MIT */
/*
 * Proof that the test can fail: a shim between an operation and all who look at
 * what it did. It spoils one thing, once, and the test must notice in the same
 * operation. If only the ends speak, it spoils whenever it can, as not every
 * occasion has consequences, and the test must notice by the end.
 */
#include "world.h"

#include <stddef.h>

/* ---- Where things are, just after the real end did its part. ---- */

static bool new_buffers(const struct world *w)
{
	return w->staged.count != 0;
}

/* The first descriptor of what was just published. */
static uint64_t first_desc(struct world *w)
{
	const struct ref_driver *d = &w->shadow_driver;

	if (w->q.packed)
		return packed_desc_at(&w->q, d->avail.slot);
	return split_desc_at(&w->q, ref_get16(&w->mem,
			     split_avail_ring_at(&w->q, d->avail_idx % w->q.size)));
}

static uint64_t flags_of(const struct world *w, uint64_t desc)
{
	return desc + (w->q.packed ? 14 : 12);
}

static bool has_flags(struct world *w, uint64_t desc, uint16_t flags)
{
	return (ref_get16(&w->mem, flags_of(w, desc)) & flags) == flags;
}

static uint64_t following_desc(struct world *w, uint64_t desc)
{
	if (w->q.packed)
		return packed_desc_at(&w->q, ((desc - w->q.desc) / 16 + 1) % w->q.size);
	return split_desc_at(&w->q, ref_get16(&w->mem, desc + 14));
}

static uint64_t last_desc(struct world *w)
{
	uint64_t desc = first_desc(w);

	while (has_flags(w, desc, REF_NEXT))
		desc = following_desc(w, desc);
	return desc;
}

static void flip16(struct world *w, uint64_t at, uint16_t bits)
{
	ref_put16(&w->mem, at, ref_get16(&w->mem, at) ^ bits);
}

/* The used entry that was just published first: of its id and of its length. */
static uint64_t used_id_at(const struct world *w)
{
	const struct ref_device *d = &w->shadow_device;

	return w->q.packed ? packed_desc_at(&w->q, d->used.slot) + 12 :
			     split_used_ring_at(&w->q, d->used_idx % w->q.size);
}

static uint64_t used_len_at(const struct world *w)
{
	return w->q.packed ? used_id_at(w) - 4 : used_id_at(w) + 4;
}

/* ---- The driver's side. ---- */

static bool head_wrong(struct world *w, int *result, void *list)
{
	uint64_t at = split_avail_ring_at(&w->q, w->shadow_driver.avail_idx % w->q.size);

	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	flip16(w, at, 1);
	return true;
}

static bool avail_idx_too_far(struct world *w, int *result, void *list)
{
	uint64_t at = split_avail_idx_at(&w->q);

	(void)result, (void)list;
	ref_put16(&w->mem, at, (uint16_t)(ref_get16(&w->mem, at) + 1));
	return true;
}

static bool address_one_off(struct world *w, int *result, void *list)
{
	uint64_t desc;

	(void)result, (void)list;
	if (!new_buffers(w) || has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	desc = last_desc(w);
	/* An empty element's address means nothing to the ends. */
	if (!ref_get32(&w->mem, desc + 8))
		return false;
	ref_put64(&w->mem, desc, ref_get64(&w->mem, desc) + 1);
	return true;
}

static bool length_one_off(struct world *w, int *result, void *list)
{
	uint64_t desc;

	(void)result, (void)list;
	if (!new_buffers(w) || has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	desc = last_desc(w);
	ref_put32(&w->mem, desc + 8, ref_get32(&w->mem, desc + 8) + 1);
	return true;
}

/* Of a member that is not empty, so that it matters to the ends too. */
static bool second_member_write(struct world *w, int *result, void *list)
{
	uint64_t desc;

	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	desc = following_desc(w, first_desc(w));
	if (!ref_get32(&w->mem, desc + 8) || has_flags(w, desc, REF_INDIRECT))
		return false;
	flip16(w, flags_of(w, desc), REF_WRITE);
	return true;
}

static bool second_member_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	flip16(w, flags_of(w, following_desc(w, first_desc(w))), REF_AVAIL | REF_USED);
	return true;
}

static bool next_missing(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	flip16(w, flags_of(w, first_desc(w)), REF_NEXT);
	return true;
}

static bool next_elsewhere(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	flip16(w, first_desc(w) + 14, 1);
	return true;
}

static bool head_wrap_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	flip16(w, flags_of(w, first_desc(w)), REF_AVAIL | REF_USED);
	return true;
}

static bool head_reserved_bit(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	flip16(w, flags_of(w, first_desc(w)), 8);
	return true;
}

static bool id_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	flip16(w, last_desc(w) + 12, 0x4000);
	return true;
}

static bool table_length(struct world *w, int *result, void *list)
{
	uint64_t desc;

	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	desc = last_desc(w);
	ref_put32(&w->mem, desc + 8, ref_get32(&w->mem, desc + 8) - 16);
	return true;
}

static bool table_entry_length(struct world *w, int *result, void *list)
{
	uint64_t entry;

	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	entry = ref_get64(&w->mem, last_desc(w));
	ref_put32(&w->mem, entry + 8, ref_get32(&w->mem, entry + 8) + 1);
	return true;
}

static bool table_entry_next(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	flip16(w, flags_of(w, ref_get64(&w->mem, last_desc(w))), REF_NEXT);
	return true;
}

static bool indirect_and_next(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	flip16(w, flags_of(w, last_desc(w)), REF_NEXT);
	return true;
}

static bool kick_missing(struct world *w, int *result, void *list)
{
	(void)list;
	if (!*result || (w->setup.quiet && !(w->device_asleep && new_buffers(w))))
		return false;
	*result = 0;
	return true;
}

static bool said_too_much(struct world *w, int *result, void *list)
{
	(void)w, (void)list;
	if (*result)
		return false;
	*result = 1;
	return true;
}

/* arm, of either end: nothing there, go to sleep. */
static bool said_too_little(struct world *w, int *result, void *list)
{
	(void)w, (void)list;
	if (!*result)
		return false;
	*result = 0;
	return true;
}

static bool avail_flags_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, split_avail_flags_at(&w->q), 1);
	return true;
}

static bool used_event_off(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, split_used_event_at(&w->q), 1);
	return true;
}

static bool event_bits(struct world *w, uint64_t at, uint16_t place, uint16_t flags)
{
	if (place && (ref_get16(&w->mem, at + 2) & 3) != REF_EVENT_DESC)
		return false;
	flip16(w, at, place);
	flip16(w, at + 2, flags);
	return true;
}

static bool driver_event_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return event_bits(w, w->q.driver, 0x8000, 0);
}

static bool driver_event_place(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return event_bits(w, w->q.driver, 1, 0);
}

static bool driver_event_reserved(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return event_bits(w, w->q.driver, 0, 4);
}

static bool shown_early(struct world *w, int *result, void *list)
{
	uint64_t at;

	(void)list;
	if (*result <= 0 || !new_buffers(w))
		return false;
	if (!w->q.packed)
		return avail_idx_too_far(w, result, NULL);
	at = packed_desc_at(&w->q, w->shadow_driver.shown.slot) + 14;
	if (packed_is_available(ref_get16(&w->mem, at), w->shadow_driver.shown.wrap))
		return false;
	ref_put16(&w->mem, at, w->shadow_driver.shown.wrap ? REF_AVAIL : REF_USED);
	return true;
}

/* Published, and not taken yet: for the length, so that it matters. */
static bool exposed_changed(struct world *w, int *result, void *list)
{
	const struct flight *f = w->published.count ? w->published.at[0] : NULL;
	uint64_t desc;

	(void)result, (void)list;
	if (!f || f->seen.indirect)
		return false;
	desc = w->q.packed ? packed_desc_at(&w->q, f->avail_slot) :
			     split_desc_at(&w->q, f->seen.main[0]);
	ref_put32(&w->mem, desc + 8, ref_get32(&w->mem, desc + 8) + 1);
	return true;
}

static bool device_area_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, w->q.device + w->mem.area[2].bytes - 2, 0x4000);
	return true;
}

static bool gap_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	w->mem.area[0].host[-1] ^= 1;
	return true;
}

static bool got_exchanged(struct world *w, int *result, void *list)
{
	struct ref_used *used = list, first = used[0];

	(void)w;
	if (*result < 2)
		return false;
	used[0] = used[1];
	used[1] = first;
	return true;
}

static bool got_length(struct world *w, int *result, void *list)
{
	struct ref_used *used = list;

	(void)w;
	if (*result < 1)
		return false;
	used[0].written++;
	return true;
}

/* ---- The device's side. ---- */

static bool popped_exchanged(struct world *w, int *result, void *list)
{
	void *first;

	(void)list;
	if (*result < 2)
		return false;
	/* Two that look alike may be exchanged with impunity. */
	if (w->published.at[0]->readable_bytes == w->published.at[1]->readable_bytes)
		return false;
	first = w->published.at[0]->handle;
	w->published.at[0]->handle = w->published.at[1]->handle;
	w->published.at[1]->handle = first;
	return true;
}

static uint64_t element_byte(const struct flight *f, bool writable)
{
	unsigned int i;

	for (i = 0; i < f->buffer.count; i++)
		if (f->buffer.element[i].writable == writable && f->buffer.element[i].len)
			return f->buffer.element[i].addr;
	return 0;
}

static bool readable_written(struct world *w, int *result, void *list)
{
	uint64_t at = element_byte(list, false);

	(void)result;
	if (!at)
		return false;
	ref_put8(&w->mem, at, ref_get8(&w->mem, at) ^ 0x10);
	return true;
}

static bool written_wrong(struct world *w, int *result, void *list)
{
	const struct flight *f = list;
	uint64_t at = element_byte(f, true);

	(void)result;
	if (!at || !f->prefix)
		return false;
	ref_put8(&w->mem, at, ref_get8(&w->mem, at) ^ 0x10);
	return true;
}

static bool written_too_much(struct world *w, int *result, void *list)
{
	const struct flight *f = list;
	uint64_t at = element_byte(f, true);

	(void)result;
	if (!at || f->prefix || f->tail)
		return false;
	ref_put8(&w->mem, at, flight_written_byte(f, 0));
	return true;
}

static bool used_id_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	flip16(w, used_id_at(w), 1);
	return true;
}

static bool used_id_wide(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	flip16(w, used_id_at(w) + 2, 1);
	return true;
}

static bool used_len_one_off(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count || !w->pushed.at[0]->len)
		return false;
	ref_put32(&w->mem, used_len_at(w), ref_get32(&w->mem, used_len_at(w)) + 1);
	return true;
}

static bool used_idx_too_far(struct world *w, int *result, void *list)
{
	uint64_t at = split_used_idx_at(&w->q);

	(void)result, (void)list;
	ref_put16(&w->mem, at, (uint16_t)(ref_get16(&w->mem, at) + 1));
	return true;
}

static bool used_slot_wrong(struct world *w, int *result, void *list)
{
	uint64_t next = split_used_ring_at(&w->q, (w->shadow_device.used_idx + 1u) % w->q.size);

	(void)result, (void)list;
	if (w->pushed.count != 1)
		return false;
	ref_put64(&w->mem, next, ref_get64(&w->mem, used_id_at(w)));
	ref_put32(&w->mem, used_id_at(w), w->q.size);
	return true;
}

static bool used_wrap_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	flip16(w, used_id_at(w) + 2, REF_AVAIL | REF_USED);
	return true;
}

static bool used_write_missing(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count || !w->pushed.at[0]->len)
		return false;
	flip16(w, used_id_at(w) + 2, REF_WRITE);
	return true;
}

static bool used_next_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	flip16(w, used_id_at(w) + 2, REF_NEXT);
	return true;
}

static bool used_shown_early(struct world *w, int *result, void *list)
{
	(void)list;
	if (!w->pushed.count)
		return false;
	if (!w->q.packed)
		return used_idx_too_far(w, result, NULL);
	ref_put16(&w->mem, used_id_at(w) + 2,
		  w->shadow_device.used.wrap ? REF_AVAIL | REF_USED : 0);
	return true;
}

static bool call_missing(struct world *w, int *result, void *list)
{
	(void)list;
	if (!*result || (w->setup.quiet && !(w->driver_asleep && w->pushed.count)))
		return false;
	*result = 0;
	return true;
}

static bool used_flags_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, split_used_flags_at(&w->q), 1);
	return true;
}

static bool avail_event_off(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, split_avail_event_at(&w->q), 1);
	return true;
}

static bool device_event_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return event_bits(w, w->q.device, 0x8000, 0);
}

static bool device_event_place(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return event_bits(w, w->q.device, 1, 0);
}

static bool descriptor_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->published.count)
		return false;
	/* On a packed ring the device may write to what it took, but not to this. */
	flip16(w, w->q.packed ? packed_desc_at(&w->q, w->published.at[0]->avail_slot) :
				split_desc_at(&w->q, 0), 0x4000);
	return true;
}

static bool driver_area_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	flip16(w, w->q.driver + w->mem.area[1].bytes - 2, 0x4000);
	return true;
}

const struct corruption corruptions[] = {
	{ "avail head wrong", OP_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, true, head_wrong },
	{ "avail idx too far", OP_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, true, avail_idx_too_far },
	{ "address one off", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, address_one_off },
	{ "length one off", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, length_one_off },
	{ "WRITE wrong on second member", OP_PUBLISH, ON_BOTH, ANY_WAY, ONLY_WITHOUT, true,
	  second_member_write },
	{ "wrap bits wrong on second member", OP_PUBLISH, ON_PACKED, ANY_WAY, ONLY_WITHOUT, true,
	  second_member_wrap },
	{ "NEXT missing", OP_PUBLISH, ON_BOTH, ANY_WAY, ONLY_WITHOUT, true, next_missing },
	{ "next elsewhere", OP_PUBLISH, ON_SPLIT, ANY_WAY, ONLY_WITHOUT, true, next_elsewhere },
	{ "wrap bits wrong on head", OP_PUBLISH, ON_PACKED, ANY_WAY, ANY_WAY, true,
	  head_wrap_wrong },
	{ "reserved bit in flags", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  head_reserved_bit },
	{ "id wrong", OP_PUBLISH, ON_PACKED, ANY_WAY, ANY_WAY, true, id_wrong },
	{ "table length", OP_PUBLISH, ON_BOTH, ANY_WAY, ONLY_WITH, true, table_length },
	{ "length in table", OP_PUBLISH, ON_BOTH, ANY_WAY, ONLY_WITH, true, table_entry_length },
	{ "NEXT in table", OP_PUBLISH, ON_PACKED, ANY_WAY, ONLY_WITH, false, table_entry_next },
	{ "NEXT wrong in table", OP_PUBLISH, ON_SPLIT, ANY_WAY, ONLY_WITH, true,
	  table_entry_next },
	{ "INDIRECT with NEXT", OP_PUBLISH, ON_BOTH, ANY_WAY, ONLY_WITH, true,
	  indirect_and_next },
	{ "kick missing", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, kick_missing },
	{ "kick too many", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false, said_too_much },
	{ "avail flags set", OP_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, false, avail_flags_set },
	{ "data changed at publish", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false, gap_written },
	{ "driver armed: said nothing there", OP_DRIVER_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  said_too_little },
	{ "driver armed: said something there", OP_DRIVER_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  said_too_much },
	{ "used_event one off", OP_DRIVER_ARM, ON_SPLIT, ONLY_WITH, ANY_WAY, false,
	  used_event_off },
	{ "avail flags left set", OP_DRIVER_ARM, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  avail_flags_set },
	{ "avail flags wrong, disarmed", OP_DRIVER_DISARM, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  avail_flags_set },
	{ "driver event wrap wrong", OP_DRIVER_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  driver_event_wrap },
	{ "driver event place wrong", OP_DRIVER_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  driver_event_place },
	{ "driver event reserved bit", OP_DRIVER_ARM, ON_PACKED, ANY_WAY, ANY_WAY, false,
	  driver_event_reserved },
	{ "driver event left on", OP_DRIVER_DISARM, ON_PACKED, ANY_WAY, ANY_WAY, false,
	  driver_event_reserved },
	{ "staged shown early", OP_ADD, ON_BOTH, ANY_WAY, ANY_WAY, true, shown_early },
	{ "exposed descriptor changed", OP_ADD, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  exposed_changed },
	{ "driver wrote the device area", OP_ADD, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  device_area_written },
	{ "write outside all areas", OP_ADD, ON_BOTH, ANY_WAY, ANY_WAY, false, gap_written },
	{ "tokens exchanged", OP_GET, ON_BOTH, ANY_WAY, ANY_WAY, true, got_exchanged },
	{ "got one byte too many", OP_GET, ON_BOTH, ANY_WAY, ANY_WAY, true, got_length },
	{ "driver wrote the device area in get", OP_GET, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  device_area_written },

	{ "requests exchanged", OP_POP, ON_BOTH, ANY_WAY, ANY_WAY, true, popped_exchanged },
	{ "device wrote a descriptor", OP_POP, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  descriptor_written },
	{ "readable byte written", OP_HANDLE, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  readable_written },
	{ "byte written wrong", OP_HANDLE, ON_BOTH, ANY_WAY, ANY_WAY, true, written_wrong },
	{ "byte written too many", OP_HANDLE, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  written_too_much },
	{ "used shown early", OP_PUSH, ON_BOTH, ANY_WAY, ANY_WAY, true, used_shown_early },
	{ "used id wrong", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, used_id_wrong },
	{ "used id too wide", OP_DEVICE_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, true, used_id_wide },
	{ "used len one off", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  used_len_one_off },
	{ "used idx too far", OP_DEVICE_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, true,
	  used_idx_too_far },
	{ "used entry in another slot", OP_DEVICE_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, true,
	  used_slot_wrong },
	{ "used wrap bits wrong", OP_DEVICE_PUBLISH, ON_PACKED, ANY_WAY, ANY_WAY, true,
	  used_wrap_wrong },
	{ "used WRITE missing", OP_DEVICE_PUBLISH, ON_PACKED, ANY_WAY, ANY_WAY, true,
	  used_write_missing },
	{ "used NEXT set", OP_DEVICE_PUBLISH, ON_PACKED, ANY_WAY, ANY_WAY, false,
	  used_next_set },
	{ "call missing", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, call_missing },
	{ "call too many", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false, said_too_much },
	{ "used flags set", OP_DEVICE_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  used_flags_set },
	{ "device wrote the driver area", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  driver_area_written },
	{ "device armed: said nothing there", OP_DEVICE_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  said_too_little },
	{ "device armed: said something there", OP_DEVICE_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  said_too_much },
	{ "avail_event one off", OP_DEVICE_ARM, ON_SPLIT, ONLY_WITH, ANY_WAY, false,
	  avail_event_off },
	{ "device event wrap wrong", OP_DEVICE_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  device_event_wrap },
	{ "device event place wrong", OP_DEVICE_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  device_event_place },
	{ "used flags wrong, disarmed", OP_DEVICE_DISARM, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  used_flags_set },
};

const unsigned int corruption_count = sizeof(corruptions) / sizeof(corruptions[0]);

/* Let the rings go round a few times first. */
#define WARM_UP 400u

void world_shim(struct world *w, enum operation op, int *result, void *list)
{
	const struct corruption *c = w->setup.corruption;

	if (!c || (w->corrupted && !w->setup.quiet) || c->op != op || w->now < WARM_UP)
		return;
	/* Without the shadows' cursors nobody knows where to spoil. */
	if (w->shadow_off || world_failed(w) || !c->spoil(w, result, list))
		return;
	w->corrupted = true;
	w->corrupted_at = w->now;
}
