/* SPDX-License-Identifier: MIT */
/* The inside of a path, for path.c, which sets it up, and turns.c, which runs it. */
#ifndef BENCH_PATH_INSIDE_H
#define BENCH_PATH_INSIDE_H

#include <stdatomic.h>

#include <virtq/device.h>
#include <virtq/driver.h>

#include "path.h"
#include "spsc.h"

struct path {
	enum path_kind kind;
	unsigned int depth;
	unsigned int lap;		/* buffers that fill the ring */
	unsigned int entries;		/* of the ring, that a buffer takes */
	unsigned int writable_bytes;
	enum path_plant plant;
	struct virtq_mapping *memory;
	struct virtq_map *map;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_buffer *bufs;	/* the larger of @depth and @lap; each is its own token */
	struct virtq_seg *segs;
	struct spsc *there, *back;

	/* Of the thread at the driver end, written when it is done. */
	_Alignas(64) uint64_t kicks;
	const char *driver_failure;

	/* Of the thread at the device end, likewise. */
	_Alignas(64) uint64_t calls;
	const char *device_failure;

	_Alignas(64) atomic_int stop;
};

#endif
