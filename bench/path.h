/* SPDX-License-Identifier: MIT */
/*
 * A way for buffers from one end to the other and back: a virtqueue of any
 * layout, or the bare rings of pointers that are the floor. Every buffer that
 * comes back is compared with the one that went out at that place.
 */
#ifndef BENCH_PATH_H
#define BENCH_PATH_H

#include <stdint.h>

enum path_kind {
	PATH_FLOOR,
	PATH_SPLIT,
	PATH_PACKED,
	PATH_SPLIT_IN_ORDER,
	PATH_PACKED_IN_ORDER,
	PATH_KINDS
};

/* What one buffer is made of. */
struct path_shape {
	const char *name;
	unsigned int readable, writable;	/* elements, at most 3 together */
	unsigned int bytes[3];
	int indirect;
};

#define PATH_TEXT_BYTES 160
#define PATH_BATCH_MAX 256u

struct path;

struct path_counts {
	uint64_t kicks, calls;	/* notifications that either end was asked for; none is sent */
	int disturbed;		/* two threads: something else ran on one of the processors */
};

/* Parts of a buffer's way that are timed alone. */
struct path_parts {
	double add_ns;		/* driver end: add, publish */
	double device_ns;	/* device end: pop, push, publish */
	double get_ns;		/* driver end: get */
};

/* What goes wrong on purpose, to show that it is found. */
enum path_plant {
	PATH_PLANT_NONE,
	PATH_PLANT_LOST,	/* a buffer is never given back */
	PATH_PLANT_TWICE,	/* a buffer comes back twice */
	PATH_PLANT_CHANGED,	/* a buffer comes back with another length */
};

/*
 * @size: entries of the ring; @depth: most buffers in flight, but for
 * path_run_ends(), which fills the ring. Returns NULL and a sentence in @why.
 */
struct path *path_open(enum path_kind kind, const struct path_shape *shape, unsigned int size,
		       unsigned int depth, char why[PATH_TEXT_BYTES]);
void path_close(struct path *p);

/* Let the next run fail, which it must. Not for the floor. */
int path_plant(struct path *p, enum path_plant plant);

/*
 * Send @buffers, rounded up to whole batches, and take them back. One thread
 * does both ends in turn, timed by its processor time; or two threads on the
 * processors @cpus, which poll. Returns nanoseconds per buffer, or -1 and a
 * sentence in @why if a buffer was lost, came twice, or came back changed.
 */
double path_run_one(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		    struct path_counts *counts, char why[PATH_TEXT_BYTES]);
double path_run_two(struct path *p, unsigned int batch, uint64_t buffers, const int cpus[2],
		    struct path_counts *counts, char why[PATH_TEXT_BYTES]);

/*
 * The same on one thread in laps: the driver end fills the ring, the device end
 * serves all of it, the driver end empties it, each in batches, and the clock is
 * read four times a lap. @parts receives medians over the laps.
 * Returns 0, or -1 and a sentence in @why.
 */
int path_run_ends(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		  struct path_parts *parts, struct path_counts *counts,
		  char why[PATH_TEXT_BYTES]);

/*
 * Nanoseconds that a cache line takes from one processor to the other and back:
 * how far apart they are just now. -1 and a sentence in @why if they cannot be used.
 */
double path_line_ns(const int cpus[2], unsigned int trips, char why[PATH_TEXT_BYTES]);

#endif
