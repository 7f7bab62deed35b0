/* SPDX-License-Identifier: MIT */
/* What is spoiled on the device's side. */
#include "corrupt.h"

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

static bool readable_written(struct world *w, int *result, void *list)
{
	uint64_t at = spoil_element_byte(list, false);

	(void)result;
	if (!at)
		return false;
	ref_put8(&w->mem, at, ref_get8(&w->mem, at) ^ 0x10);
	return true;
}

static bool written_wrong(struct world *w, int *result, void *list)
{
	const struct flight *f = list;
	uint64_t at = spoil_element_byte(f, true);

	(void)result;
	if (!at || !f->prefix)
		return false;
	ref_put8(&w->mem, at, ref_get8(&w->mem, at) ^ 0x10);
	return true;
}

static bool written_too_much(struct world *w, int *result, void *list)
{
	const struct flight *f = list;
	uint64_t at = spoil_element_byte(f, true);

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
	spoil_bits(w, used_id_at(w), 1);
	return true;
}

static bool used_id_wide(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	spoil_bits(w, used_id_at(w) + 2, 1);
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
	spoil_bits(w, used_id_at(w) + 2, REF_AVAIL | REF_USED);
	return true;
}

static bool used_write_missing(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count || !w->pushed.at[0]->len)
		return false;
	spoil_bits(w, used_id_at(w) + 2, REF_WRITE);
	return true;
}

static bool used_next_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->pushed.count)
		return false;
	spoil_bits(w, used_id_at(w) + 2, REF_NEXT);
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
	if (!*result || w->device_undecided ||
	    (w->setup.quiet && !(w->driver_asleep && w->pushed.count)))
		return false;
	*result = 0;
	return true;
}

static bool call_too_many(struct world *w, int *result, void *list)
{
	(void)list;
	if (*result || w->device_undecided)
		return false;
	*result = 1;
	return true;
}

static bool used_flags_set(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, split_used_flags_at(&w->q), 1);
	return true;
}

static bool avail_event_off(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, split_avail_event_at(&w->q), 1);
	return true;
}

static bool device_event_wrap(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.device, 0x8000, 0);
}

static bool device_event_place(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.device, 1, 0);
}

static bool device_event_reserved(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.device, 0, 4);
}

static bool device_event_left_on(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	return spoil_event(w, w->q.device, 0, REF_EVENT_DISABLE);
}

static bool descriptor_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	if (!w->published.count)
		return false;
	/* On a packed ring the device may write to what it took, but not to this. */
	spoil_bits(w, w->q.packed ? packed_desc_at(&w->q, w->published.at[0]->avail_slot) :
				split_desc_at(&w->q, 0), 0x4000);
	return true;
}

static bool driver_area_written(struct world *w, int *result, void *list)
{
	(void)result, (void)list;
	spoil_bits(w, w->q.driver + w->mem.area[1].bytes - 2, 0x4000);
	return true;
}

const struct corruption device_corruptions[] = {
	{ "requests exchanged", OP_POP, ON_BOTH, ANY_WAY, ANY_WAY, true, popped_exchanged },
	{ "device wrote a descriptor", OP_HANDLE, ON_BOTH, ANY_WAY, ANY_WAY, false,
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
	{ "call too many", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false, call_too_many },
	{ "used flags set", OP_DEVICE_PUBLISH, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  used_flags_set },
	{ "device wrote the driver area", OP_DEVICE_PUBLISH, ON_BOTH, ANY_WAY, ANY_WAY, false,
	  driver_area_written },
	{ "device armed: said nothing there", OP_DEVICE_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  spoil_said_too_little },
	{ "device armed: said something there", OP_DEVICE_ARM, ON_BOTH, ANY_WAY, ANY_WAY, true,
	  spoil_said_too_much },
	{ "avail_event one off", OP_DEVICE_ARM, ON_SPLIT, ONLY_WITH, ANY_WAY, false,
	  avail_event_off },
	{ "device event wrap wrong", OP_DEVICE_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  device_event_wrap },
	{ "device event place wrong", OP_DEVICE_ARM, ON_PACKED, ONLY_WITH, ANY_WAY, false,
	  device_event_place },
	{ "device event reserved bit", OP_DEVICE_ARM, ON_PACKED, ANY_WAY, ANY_WAY, false,
	  device_event_reserved },
	{ "device event left on", OP_DEVICE_DISARM, ON_PACKED, ANY_WAY, ANY_WAY, false,
	  device_event_left_on },
	{ "used flags wrong, disarmed", OP_DEVICE_DISARM, ON_SPLIT, ANY_WAY, ANY_WAY, false,
	  used_flags_set },
};

const unsigned int device_corruption_count =
	sizeof(device_corruptions) / sizeof(device_corruptions[0]);
