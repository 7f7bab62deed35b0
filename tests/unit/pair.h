/* SPDX-License-Identifier: MIT */
/*
 * Both ends of one queue over memory of this process, and a file to put behind
 * a disk: what the tests of models and of the engine stand on.
 */
#ifndef TESTS_UNIT_PAIR_H
#define TESTS_UNIT_PAIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/blk.h>
#include <virtq/driver.h>
#include <virtq/notify.h>
#include <virtq/spec/virtio.h>

#define PAIR_DATA_GPA ((uint64_t)0x200000)
#define PAIR_SEGS_MAX 1200u

struct pair_shape {
	bool packed, event_idx;
	uint32_t size;
};

struct pair {
	struct virtq_ring ring;
	struct virtq_mapping *memory;
	struct virtq_map *map;
	struct virtq_driver *driver;
	struct virtq_device *device;	/* NULL while an engine has it */
	uint8_t *data;			/* for buffers, known to the device from PAIR_DATA_GPA on */
	size_t data_bytes;
};

/* @model says how large requests are and how long chains may be. */
void pair_open(struct pair *p, const struct pair_shape *shape,
	       const struct virtq_model *model, size_t data_bytes);
void pair_close(struct pair *p);
/* One more map of the same memory. */
struct virtq_map *pair_new_map(struct pair *p);

/* The driver's next buffer: elements at offsets into the data, readable ones first. */
struct chain {
	struct virtq_seg segs[PAIR_SEGS_MAX];
	uint16_t readable, writable;
};

void chain_readable(struct chain *c, size_t offset, size_t bytes);
void chain_writable(struct chain *c, size_t offset, size_t bytes);
/* Add it; it must fit. */
void chain_add(struct pair *p, const struct chain *c, void *token);

/* A new file of @bytes, filled with a pattern, in the current folder; returns its path. */
char *file_make(size_t bytes);
/* What file_make() put at @offset. */
uint8_t file_pattern(size_t offset);
void file_drop(char *path);
void file_read(const char *path, size_t offset, void *dst, size_t bytes);

/* A disk, or the test fails with the sentence of the refusal. */
struct virtq_model *disk_make(const struct virtq_blk_options *options);

#endif
