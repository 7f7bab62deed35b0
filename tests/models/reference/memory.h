/* SPDX-License-Identifier: MIT */
/*
 * Guest memory for the reference model: byte arrays known by guest address,
 * read and written one byte at a time, numbers little-endian (VIRTIO 1.4, 1.4).
 */
#ifndef REFERENCE_MEMORY_H
#define REFERENCE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define REF_AREAS_MAX 12

struct ref_area {
	const char *name;
	uint64_t gpa;
	uint32_t bytes;
	uint8_t *host;
};

/* @fault: somebody followed an address that lies in no area. */
struct ref_memory {
	unsigned int count;
	struct ref_area area[REF_AREAS_MAX];
	bool fault;
	uint64_t fault_gpa;
};

uint8_t *ref_byte(struct ref_memory *m, uint64_t gpa);

uint8_t ref_get8(struct ref_memory *m, uint64_t gpa);
uint16_t ref_get16(struct ref_memory *m, uint64_t gpa);
uint32_t ref_get32(struct ref_memory *m, uint64_t gpa);
uint64_t ref_get64(struct ref_memory *m, uint64_t gpa);

void ref_put8(struct ref_memory *m, uint64_t gpa, uint8_t v);
void ref_put16(struct ref_memory *m, uint64_t gpa, uint16_t v);
void ref_put32(struct ref_memory *m, uint64_t gpa, uint32_t v);
void ref_put64(struct ref_memory *m, uint64_t gpa, uint64_t v);

#endif
