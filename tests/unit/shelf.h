/* SPDX-License-Identifier: MIT */
/*
 * A store of the tests' own: memory that notes what is asked of it, fails on
 * request, and answers in each of the ways that a store has.
 */
#ifndef TESTS_UNIT_SHELF_H
#define TESTS_UNIT_SHELF_H

#include <pthread.h>

#include "pair.h"

enum shelf_way {
	SHELF_AT_ONCE,		/* VIRTQ_DONE */
	SHELF_SUBMIT,		/* an operation first, the work in finish() */
	SHELF_HOLD,		/* whoever calls shelf_work() does it; no finish() */
};

#define SHELF_SEEN_MAX 64u
#define SHELF_HELD_MAX 256u
#define SHELF_DISCARDED 0xdd	/* what discarded bytes read as */

struct shelf_io {
	enum virtq_store_kind kind;
	uint32_t flags;
	uint64_t offset, bytes;
};

struct shelf {
	struct virtq_store store;	/* info is the test's to change before a disk has it */
	struct virtq_store_ops ops;
	enum shelf_way way;
	uint8_t *memory;
	/* How it goes from now on. */
	int64_t fail_with;		/* -errno, or a count that is too small; 0: all is well */
	uint64_t fail_after;		/* bytes of READ and WRITE that are moved all the same */
	unsigned int fail_at;		/* only the piece of work of that number, from 1; 0: all */
	bool leave_hole;		/* READ: say that all is well without filling anything */
	int64_t refreshed;		/* what refresh() says; 0: the size as it is */
	/* By the lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int count;		/* pieces of work, of which the first ones are noted: */
	struct shelf_io seen[SHELF_SEEN_MAX];
	struct virtq_store_io *held[SHELF_HELD_MAX];
	unsigned int held_count, cancelled;
	unsigned int wrong;		/* what no device should ask for */
	bool quit;
};

/* Zeroes at first. The disk that gets it frees it. */
struct shelf *shelf_new(uint64_t bytes, enum shelf_way way);
/* How many have been freed. */
extern unsigned int shelves_closed;
/* Do what @io asks for. Returns the result for finish(). */
int64_t shelf_work(struct shelf *shelf, struct virtq_store_io *io);
/* Take what is held the longest; waits for it. NULL after shelf_quit(). */
struct virtq_store_io *shelf_take(struct shelf *shelf);
void shelf_quit(struct shelf *shelf);
/* A thread that works on what is held: @arg is the shelf. Ends with shelf_quit(). */
void *shelf_worker(void *arg);
/* The piece of work of that number, from 0. */
void shelf_assert(struct shelf *shelf, unsigned int number, enum virtq_store_kind kind,
		  uint32_t flags, uint64_t offset, uint64_t bytes);

#endif
