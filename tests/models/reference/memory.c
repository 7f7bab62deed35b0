/* SPDX-License-Identifier: MIT */
/* Guest memory, byte by byte. */
#include "memory.h"

#include <stddef.h>

/* The byte at a guest address, or NULL, which is remembered, if there is none. */
uint8_t *ref_byte(struct ref_memory *m, uint64_t gpa)
{
	unsigned int i;

	for (i = 0; i < m->count; i++) {
		struct ref_area *a = &m->area[i];

		if (gpa >= a->gpa && gpa - a->gpa < a->bytes)
			return a->host + (gpa - a->gpa);
	}
	m->fault = true;
	m->fault_gpa = gpa;
	return NULL;
}

uint8_t ref_get8(struct ref_memory *m, uint64_t gpa)
{
	const uint8_t *p = ref_byte(m, gpa);

	return p ? *p : 0xff;
}

void ref_put8(struct ref_memory *m, uint64_t gpa, uint8_t v)
{
	uint8_t *p = ref_byte(m, gpa);

	if (p)
		*p = v;
}

/* Numbers are little-endian: the lowest byte lies first. */
static uint64_t get(struct ref_memory *m, uint64_t gpa, unsigned int bytes)
{
	uint64_t v = 0;
	unsigned int i;

	for (i = 0; i < bytes; i++)
		v |= (uint64_t)ref_get8(m, gpa + i) << (8 * i);
	return v;
}

static void put(struct ref_memory *m, uint64_t gpa, unsigned int bytes, uint64_t v)
{
	unsigned int i;

	for (i = 0; i < bytes; i++)
		ref_put8(m, gpa + i, (uint8_t)(v >> (8 * i)));
}

uint16_t ref_get16(struct ref_memory *m, uint64_t gpa)
{
	return (uint16_t)get(m, gpa, 2);
}

uint32_t ref_get32(struct ref_memory *m, uint64_t gpa)
{
	return (uint32_t)get(m, gpa, 4);
}

uint64_t ref_get64(struct ref_memory *m, uint64_t gpa)
{
	return get(m, gpa, 8);
}

void ref_put16(struct ref_memory *m, uint64_t gpa, uint16_t v)
{
	put(m, gpa, 2, v);
}

void ref_put32(struct ref_memory *m, uint64_t gpa, uint32_t v)
{
	put(m, gpa, 4, v);
}

void ref_put64(struct ref_memory *m, uint64_t gpa, uint64_t v)
{
	put(m, gpa, 8, v);
}
