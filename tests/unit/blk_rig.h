/* SPDX-License-Identifier: MIT */
/*
 * A disk over a shelf, one request at a time, and chains cut at will. The test
 * plays the engine: what comes back for which chain, and what the store was
 * asked for.
 */
#ifndef TESTS_UNIT_BLK_RIG_H
#define TESTS_UNIT_BLK_RIG_H

#include "shelf.h"

#define DISK_BYTES 4096u
#define DISK_SECTORS (DISK_BYTES / 512)
#define UNTOUCHED 0xee			/* what the driver's memory is full of */

/* Every case runs on both layouts and with each way of a store to answer. */
struct rig_shape {
	bool packed;
	enum shelf_way way;
};

struct rig {
	struct shelf *shelf;		/* freed with the model */
	struct virtq_model *model;
	struct pair pair;
	/* Of the last request. */
	enum virtq_verdict verdict;
	uint32_t used_bytes;
	unsigned int turns;		/* that it waited for */
	/* Called before each piece of work that a SHELF_HOLD shelf holds is done. */
	void (*meanwhile)(struct rig *r, const struct chain *c);
};

/* A shelf of DISK_BYTES with file_pattern() in it. */
struct shelf *rig_shelf(void **state);
/* A disk on @options->store, or on rig_shelf() where there is none. */
void rig_open(struct rig *r, void **state, struct virtq_blk_options options);
void rig_close(struct rig *r);

/* Lengths of pieces; 0 ends. A negative one stands for that many pieces of one byte. */
struct framing {
	const char *name;
	int readable[8], writable[8];
};

/* Make a chain with a header of @type and @sector, if it is long enough for one. */
void rig_frame(struct rig *r, struct chain *c, const struct framing *f, uint32_t type,
	       uint64_t sector);
/* Where byte @n of one direction of the chain lies. */
uint8_t *rig_byte(struct rig *r, const struct chain *c, bool writable, size_t n);
/* Copy to the chain's readable bytes from @at on. */
void rig_put(struct rig *r, const struct chain *c, size_t at, const void *src, size_t len);
/* Send @c through the device. */
void rig_serve(struct rig *r, const struct chain *c);
/* Header, @readable bytes of data, @writable ones, and a status, whose value it returns. */
uint8_t rig_do(struct rig *r, uint32_t type, uint64_t sector, int readable, int writable);
/* The same with @len readable bytes from @data. */
uint8_t rig_send(struct rig *r, uint32_t type, uint64_t sector, const void *data, size_t len);

struct virtq_features rig_features(struct rig *r, unsigned int without, unsigned int and_without);
/* The driver accepts @features. */
void rig_accept(struct rig *r, struct virtq_features features);
struct virtq_blk_config rig_config(struct rig *r);
/* The shelf holds what rig_shelf() put there. */
void rig_assert_unchanged(struct rig *r);

extern const struct rig_shape rig_shapes[6];

#define ON_ONE(test, name, n) \
	{ #test " [" name "]", test, NULL, NULL, (void *)(uintptr_t)&rig_shapes[n] }
#define ON_ALL(test) \
	ON_ONE(test, "split, at once", 0), ON_ONE(test, "split, submit", 1), \
	ON_ONE(test, "split, hold", 2), ON_ONE(test, "packed, at once", 3), \
	ON_ONE(test, "packed, submit", 4), ON_ONE(test, "packed, hold", 5)
/* For what waits, or looks at, what a shelf holds. */
#define ON_HOLD(test) ON_ONE(test, "split, hold", 2), ON_ONE(test, "packed, hold", 5)

#endif
