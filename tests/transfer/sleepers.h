/* SPDX-License-Identifier: MIT */
/*
 * Threads that sleep in a pool, stopped where it matters by what the linker leads here
 * (--wrap): a sleeper has armed before he sleeps, and clears after it.
 */
#ifndef TESTS_TRANSFER_SLEEPERS_H
#define TESTS_TRANSFER_SLEEPERS_H

#include <pthread.h>

#include "pool_rig.h"

#define LOST_MS 10000

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define add(p, n) __atomic_fetch_add((p), (n), __ATOMIC_SEQ_CST)

extern unsigned int arms;		/* so often the ring was armed */
extern unsigned int always_ready;	/* that many times arming finds something */
extern struct rig *late_device;		/* just before that it uses a chain, and tells nobody */
extern unsigned int slow_clear;		/* whoever wakes up takes his time */
extern unsigned int cleared;
extern unsigned int slow_unlock;	/* a sleeper who lets go of a lock takes his time */
extern unsigned int bad_unlocks;	/* of what is no lock any more */

struct sleeper {
	struct rig *r;
	struct virtq_wait wait;
	bool takes;
	uint32_t bytes;			/* if he does not */
	unsigned int done;		/* atomic */
	int rc;
	pthread_t thread;
};

void pause_ms(unsigned int ms);
/* Fails the test if that takes too long. */
void await(unsigned int *what, unsigned int at_least);

/* A thread for it as it is filled in. These return when he is asleep. */
void sleeper_run(struct sleeper *s);
/* For a chain if he @takes, else for room. */
void sleeper_start(struct sleeper *s, struct rig *r, bool takes);
/* For room of so many bytes. */
void sleeper_start_for(struct sleeper *s, struct rig *r, uint32_t bytes);
/* He wakes up, with @rc. */
void sleeper_end(struct sleeper *s, int rc);

/* The device uses the next chain, and tells nobody. */
void serve_quietly(struct rig *r);

#endif
