/* SPDX-License-Identifier: MIT */
/* A queue under stress: what traffic there is to be, and what each of the two ends knows. */
#ifndef TESTS_RING_STRESS_H
#define TESTS_RING_STRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <virtq/device.h>
#include <virtq/driver.h>

#include "bed.h"

#define CELL 48u			/* bytes of each direction that a token owns */
#define HELD_MAX 32u
#define READABLE_ADDR ((uint64_t)0x100000)
#define WRITABLE_ADDR ((uint64_t)0x800000)

#define BUFFERS_MIN 500u		/* however busy the machine is, in a test */

/* ---- What is to be done ---------------------------------------------------- */

struct mode {
	char name[80];
	bool packed, in_order, event_idx, indirect, by_fd;
	uint32_t size;
	uint32_t window;	/* buffers in flight at most */
	bool plain;		/* chains of one element with 8 bytes, returned at once */
	double seconds;		/* end then, */
	uint64_t wakes;		/* or if not 0, after so many */
};

/* ---- The two ends ----------------------------------------------------------- */

/* What only one thread touches until both have ended. */
struct end {
	_Alignas(64) uint64_t random;
	uint64_t next;		/* number of the next buffer that is added, or popped */
	uint64_t asked;		/* publishes that asked for a signal */
	const char *complaint;	/* the first thing that was wrong */
	uint64_t complaint_at;	/* with which buffer */
};

struct parcel {
	uint64_t number;
	bool out;
};

struct held {
	struct virtq_req *req;
	uint64_t number;
};

struct stress {
	const struct mode *mode;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct beds beds;
	struct end at_driver, at_device;
	unsigned int ready;
	/* The driver's: */
	struct parcel *parcels;	/* by token */
	uint32_t *free_tokens, free_count;
	uint64_t oldest;	/* in order: the next to come back */
	uint8_t *readable, *writable;
	/* The device's: */
	struct held held[HELD_MAX];
	uint32_t held_count;
};

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline uint64_t wakes(struct stress *s)
{
	return (uint64_t)load(&s->beds.driver.naps) + load(&s->beds.device.naps);
}

/* Their loops, for a thread each: until it is stopped, and until all is done. */
void serve(struct stress *s);
void drive(struct stress *s);

#endif
