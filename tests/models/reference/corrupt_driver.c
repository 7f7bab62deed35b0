/* SPDX-License-Identifier: MIT */
/* What is spoiled on the driver's side. */
#include "corrupt.h"

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



/* ---- What is spoiled. ---- */

static bool head_wrong(struct world *w, int *result, void *list)
{
	uint64_t at = split_avail_ring_at(&w->q, w->shadow_driver.avail_idx % w->q.size);

	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	spoil_bits(w, at, 1);
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
	spoil_bits(w, flags_of(w, desc), REF_WRITE);
	return true;
}

static bool second_member_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	spoil_bits(w, flags_of(w, following_desc(w, first_desc(w))), REF_AVAIL | REF_USED);
	return true;
}

static bool next_missing(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	spoil_bits(w, flags_of(w, first_desc(w)), REF_NEXT);
	return true;
}

static bool next_elsewhere(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, first_desc(w), REF_NEXT))
		return false;
	spoil_bits(w, first_desc(w) + 14, 1);
	return true;
}

static bool head_wrap_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	spoil_bits(w, flags_of(w, first_desc(w)), REF_AVAIL | REF_USED);
	return true;
}

static bool head_reserved_bit(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	spoil_bits(w, flags_of(w, first_desc(w)), 8);
	return true;
}

static bool id_wrong(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w))
		return false;
	spoil_bits(w, last_desc(w) + 12, 0x4000);
	return true;
}

/* One entry less, and not an empty one, which the ends would not miss. */
static bool table_length(struct world *w, int *result, void *list)
{
	uint64_t desc;

	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	if (!w->staged.at[0]->buffer.element[w->staged.at[0]->buffer.count - 1].len)
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
	spoil_bits(w, flags_of(w, ref_get64(&w->mem, last_desc(w))), REF_NEXT);
	return true;
}

static bool indirect_and_next(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!new_buffers(w) || !has_flags(w, last_desc(w), REF_INDIRECT))
		return false;
	spoil_bits(w, flags_of(w, last_desc(w)), REF_NEXT);
	return true;
}

static bool kick_missing(struct world *w, int *result, void *list)
{
	(void)list;
	if (!*result || w->driver_undecided ||
	    (w->setup.quiet && !(w->device_asleep && new_buffers(w))))
		return false;
	*result = 0;
	return true;
}

/* An end that was just started may be unsure, and speak once too often. */
static bool kick_too_many(struct world *w, int *result, void *list)
{
	(void)list;
	if (*result || w->driver_undecided)
		return false;
	*result = 1;
	return true;
}



static bool avail_flags_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, split_avail_flags_at(&w->q), 1);
	return true;
}

static bool used_event_off(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, split_used_event_at(&w->q), 1);
	return true;
}


static bool driver_event_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.driver, 0x8000, 0);
}

static bool driver_event_place(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.driver, 1, 0);
}

static bool driver_event_reserved(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.driver, 0, 4);
}

static bool driver_event_left_on(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.driver, 0, REF_EVENT_DISABLE);
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

static bool data_changed(struct world *w, int *result, void *list)
{
	uint64_t at = new_buffers(w) ? spoil_element_byte(w->staged.at[0], false) : 0;

	(void)result, (void)list;
	if (!at)
		return false;
	ref_put8(&w->mem, at, ref_get8(&w->mem, at) ^ 0x10);
	return true;
}

static bool device_area_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, w->q.device + w->mem.area[2].bytes - 2, 0x4000);
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

/* Of a new packed ring a descriptor, of a split one the used ring's flags. */
static bool not_cleared(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, w->q.packed ? w->q.desc : w->q.device, 1);
	return true;
}

const struct corruption driver_corruptions[] = {
	{ "memory not cleared", OP_START, ON_BOTH, ANY_WAY, ANY_WAY, false, not_cleared },
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
	{ "kick too many", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false, kick_too_many },
	{ "avail flags set", OP_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, false, avail_flags_set },
	{ "data changed at publish", OP_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, true, data_changed },
	{ "driver armed: said nothing there", OP_DRIVER_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  spoil_said_too_little },
	{ "driver armed: said something there", OP_DRIVER_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  spoil_said_too_much },
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
	  driver_event_left_on },
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
};

const unsigned int driver_corruption_count =
	sizeof(driver_corruptions) / sizeof(driver_corruptions[0]);
