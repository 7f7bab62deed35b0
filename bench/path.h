/* SPDX-License-Identifier: MIT */
/*
 * A way for buffers from one end to the other and back: a virtqueue of either
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

/* Notifications that either end was asked for; none is sent. */
struct path_counts {
	uint64_t kicks, calls;
};

/*
 * @size: entries of the ring; @depth: most buffers in flight. Returns NULL and
 * a sentence in @why.
 */
struct path *path_open(enum path_kind kind, const struct path_shape *shape, unsigned int size,
		       unsigned int depth, char why[PATH_TEXT_BYTES]);
void path_close(struct path *p);

/*
 * Send @buffers, rounded up to whole batches, and take them back. One thread
 * does both ends in turn, or two threads on the processors @cpus, which poll.
 * Returns nanoseconds per buffer, or -1 and a sentence in @why if a buffer was
 * lost, came twice, or came back changed.
 */
double path_run_one(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		    struct path_counts *counts, char why[PATH_TEXT_BYTES]);
double path_run_two(struct path *p, unsigned int batch, uint64_t buffers, const int cpus[2],
		    struct path_counts *counts, char why[PATH_TEXT_BYTES]);

#endif
