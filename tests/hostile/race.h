/* SPDX-License-Identifier: MIT */
/*
 * For the tests in which a second thread changes the ring while the library
 * works on it: its stores are relaxed atomics in the very view that the library
 * uses, so that a data race of the library's is one for TSan, too.
 */
#ifndef TESTS_HOSTILE_RACE_H
#define TESTS_HOSTILE_RACE_H

#include <endian.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "../sanitizers.h"
#include "rig.h"

#define RACE_MS 1500
/* On a machine with other things to do, until enough has happened. */
#define RACE_PATIENCE_MS 30000

static inline void race16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELAXED);
}

static inline void race32(uint8_t *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)(void *)p, htole32(v), __ATOMIC_RELAXED);
}

static inline void race64(uint8_t *p, uint64_t v)
{
	__atomic_store_n((uint64_t *)(void *)p, htole64(v), __ATOMIC_RELAXED);
}

static inline void race16_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

static inline uint16_t look16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1d;
}

/*
 * The other thread: @step over and over, some at a time while it holds the
 * lock. A step returns false if it had to wait for the library.
 */
struct race {
	struct rig r;
	uint64_t random;
	pthread_t thread;
	pthread_mutex_t lock;	/* held by whoever makes the ring anew */
	bool wanted, stop;	/* the lock; the end */
	bool (*step)(struct race *race);
	/* Where the other thread stands: split and packed. */
	uint16_t idx, seen, slot;
	bool wrap, in_order;
};

static inline void *race_thread(void *arg)
{
	struct race *race = arg;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		bool moved = false;

		if (__atomic_load_n(&race->wanted, __ATOMIC_RELAXED)) {
			sched_yield();
			continue;
		}
		pthread_mutex_lock(&race->lock);
		for (int i = 0; i < 32; i++)
			moved |= race->step(race);
		pthread_mutex_unlock(&race->lock);
		if (!moved)
			sched_yield();
	}
	return NULL;
}

/* The other thread stands still from here on, until race_go(). */
static inline void race_halt(struct race *race)
{
	__atomic_store_n(&race->wanted, true, __ATOMIC_RELAXED);
	pthread_mutex_lock(&race->lock);
}

static inline void race_go(struct race *race)
{
	__atomic_store_n(&race->wanted, false, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&race->lock);
}

static inline void race_begin(struct race *race, bool (*step)(struct race *race))
{
	race->step = step;
	race->random = 0x9e3779b97f4a7c15;
	pthread_mutex_init(&race->lock, NULL);
	assert_int_equal(pthread_create(&race->thread, NULL, race_thread, race), 0);
}

static inline void race_end(struct race *race)
{
	__atomic_store_n(&race->stop, true, __ATOMIC_RELAXED);
	pthread_join(race->thread, NULL);
	pthread_mutex_destroy(&race->lock);
}

static inline int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A shape, and IN_ORDER, which the rig does not know. */
struct run {
	struct shape shape;
	bool in_order;
};

static inline int race_run(const char *name, const char *what, void (*test)(void **state))
{
	static struct run runs[] = {
		{ { .size = 16, .event_idx = true, .name = "split event" }, false },
		{ { .size = 16, .indirect = true, .name = "split indirect" }, false },
		{ { .size = 16, .indirect = true, .name = "split indirect in order" }, true },
		{ { .packed = true, .size = 16, .event_idx = true, .name = "packed event" },
		  false },
		{ { .packed = true, .size = 11, .indirect = true, .name = "packed indirect" },
		  false },
		{ { .packed = true, .size = 11, .name = "packed in order" }, true },
	};
	struct matrix m = { 0 };

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		matrix_add_shapes(&m, what, test, &runs[i].shape, 1);
	return matrix_run(&m, name);
}

#endif
