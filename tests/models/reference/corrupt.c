/* SPDX-License-Identifier: MIT */
/*
 * Proof that the test can fail: a shim between an operation and all who look at
 * what it did. It spoils one thing, once, and the test must notice in the same
 * operation. If only the ends speak, it spoils whenever it can, as not every
 * occasion has consequences, and the test must notice by the end.
 */
#include "corrupt.h"

void spoil_bits(struct world *w, uint64_t at, uint16_t bits)
{
	ref_put16(&w->mem, at, ref_get16(&w->mem, at) ^ bits);
}

uint64_t spoil_element_byte(const struct flight *f, bool writable)
{
	unsigned int i;

	for (i = 0; i < f->buffer.count; i++)
		if (f->buffer.element[i].writable == writable && f->buffer.element[i].len)
			return f->buffer.element[i].addr;
	return 0;
}

bool spoil_event(struct world *w, uint64_t at, uint16_t place, uint16_t flags)
{
	if (place && (ref_get16(&w->mem, at + 2) & 3) != REF_EVENT_DESC)
		return false;
	spoil_bits(w, at, place);
	spoil_bits(w, at + 2, flags);
	return true;
}

/* arm, of either end: stay awake, for nothing. */
bool spoil_said_too_much(struct world *w, int *result, void *list)
{
	(void)w, (void)list;
	if (*result)
		return false;
	*result = 1;
	return true;
}

/* arm, of either end: nothing there, go to sleep. */
bool spoil_said_too_little(struct world *w, int *result, void *list)
{
	(void)w, (void)list;
	if (!*result)
		return false;
	*result = 0;
	return true;
}

/* Let the rings go round a few times first. */
#define WARM_UP 400u

void world_shim(struct world *w, enum operation op, int *result, void *list)
{
	const struct corruption *c = w->setup.corruption;

	if (!c || (w->corrupted && !w->setup.quiet) || c->op != op)
		return;
	if (op != OP_START && w->now < WARM_UP)
		return;
	/* Without the shadows' cursors nobody knows where to spoil. */
	if (w->shadow_off || world_failed(w) || !c->spoil(w, result, list))
		return;
	w->corrupted = true;
	w->corrupted_at = w->now;
}
