/* SPDX-License-Identifier: MIT */
/* What is in a world's buffers: every byte can be told from its neighbours, buffers and laps. */
#include "world.h"

uint64_t dice_next(struct dice *d)
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint32_t dice_roll(struct dice *d, uint32_t below)
{
	return (uint32_t)((dice_next(d) >> 32) * below >> 32);
}

bool dice_one_in(struct dice *d, uint32_t n)
{
	return dice_roll(d, n) == 0;
}

static uint8_t mix(uint32_t serial, uint64_t i, uint32_t kind)
{
	uint32_t z = (serial * 3 + kind) * 0x9e3779b1u + (uint32_t)i * 0x85ebca6bu;

	z ^= z >> 15;
	z *= 0xc2b2ae35u;
	return (uint8_t)(z >> 24);
}

uint8_t flight_readable_byte(const struct flight *f, uint64_t i)
{
	return mix(f->serial, i, 0);
}

uint8_t flight_written_byte(const struct flight *f, uint64_t i)
{
	return mix(f->serial, i, 1);
}

uint8_t flight_blank_byte(const struct flight *f, uint64_t i)
{
	return (uint8_t)~flight_written_byte(f, i);
}

uint8_t flight_expected_byte(const struct flight *f, uint64_t i)
{
	bool last = i + 1 == f->writable_bytes;

	if (i < f->prefix || (f->tail && last))
		return flight_written_byte(f, i);
	return flight_blank_byte(f, i);
}

bool same_elements(const struct ref_buffer *a, const struct ref_buffer *b)
{
	unsigned int i;

	for (i = 0; i < a->count && a->count == b->count; i++)
		if (a->element[i].addr != b->element[i].addr ||
		    a->element[i].len != b->element[i].len ||
		    a->element[i].writable != b->element[i].writable)
			return false;
	return a->count == b->count;
}

/* The driver's program fills a buffer before it hands it in; both memories alike. */
void flight_fill(struct world *w, struct flight *f)
{
	uint64_t at[2] = { 0, 0 };
	unsigned int k, i;

	for (k = 0; k < f->buffer.count; k++) {
		const struct ref_element *e = &f->buffer.element[k];

		for (i = 0; i < e->len; i++) {
			uint64_t n = at[e->writable]++;
			uint8_t v = e->writable ? flight_blank_byte(f, n) :
						  flight_readable_byte(f, n);

			ref_put8(&w->mem, e->addr + i, v);
			ref_put8(&w->shadow_mem, e->addr + i, v);
		}
	}
}

/*
 * The buffer as the driver's program has it back: what the device wrote is
 * there (2.7.8.2), nothing else in it changed. That the device left the rest
 * alone is no rule of the standard (it may write more than it reports), but
 * this one was told not to.
 */
void flight_check_back(struct world *w, const struct flight *f)
{
	uint64_t at[2] = { 0, 0 };
	unsigned int k, i;

	for (k = 0; k < f->buffer.count; k++) {
		const struct ref_element *e = &f->buffer.element[k];

		for (i = 0; i < e->len; i++) {
			uint64_t n = at[e->writable]++;
			uint8_t want = e->writable ? flight_expected_byte(f, n) :
						     flight_readable_byte(f, n);
			uint8_t is = ref_get8(&w->mem, e->addr + i);

			if (is != want) {
				world_fail(w, "buffer %u came back with byte %llu of its %s part "
					   "%02x instead of %02x (2.7.8.2, 2.7.5.1)",
					   f->serial, (unsigned long long)n,
					   e->writable ? "writable" : "readable", is, want);
				return;
			}
		}
	}
}

void flight_write_plainly(struct ref_memory *m, const struct flight *f,
			  const struct ref_buffer *as_taken)
{
	uint64_t bytes = ref_buffer_bytes(as_taken, true), n = 0;
	unsigned int k, i;

	for (k = 0; k < as_taken->count; k++) {
		const struct ref_element *e = &as_taken->element[k];

		for (i = 0; e->writable && i < e->len; i++, n++)
			if (n < f->prefix || (f->tail && n + 1 == bytes))
				ref_put8(m, e->addr + i, flight_written_byte(f, n));
	}
}

void flights_append(struct flights *list, struct flight *f)
{
	list->at[list->count++] = f;
}

struct flight *flights_take(struct flights *list, unsigned int i)
{
	struct flight *f = list->at[i];

	for (list->count--; i < list->count; i++)
		list->at[i] = list->at[i + 1];
	return f;
}
