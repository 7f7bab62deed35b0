/* SPDX-License-Identifier: MIT */
/*
 * The floor: a ring of pointers between one producer and one consumer, with
 * nothing checked and nothing translated. Two of them, there and back, do the
 * least that any queue between two parties can do.
 */
#ifndef BENCH_SPSC_H
#define BENCH_SPSC_H

#include <stdatomic.h>
#include <stdint.h>

#define SPSC_ENTRIES 1024u	/* a power of two, above any depth that is measured */

/* Each side's words on a cache line of their own; the other side's index is cached. */
struct spsc {
	_Alignas(64) _Atomic uint32_t head;	/* producer: filled up to here, free-running */
	uint32_t staged;
	uint32_t tail_seen;
	_Alignas(64) _Atomic uint32_t tail;	/* consumer: emptied up to here */
	uint32_t head_seen;
	_Alignas(64) void *entries[SPSC_ENTRIES];
};

/* Stages one pointer; 0 if the ring is full. */
static inline int spsc_stage(struct spsc *r, void *p)
{
	if (r->staged - r->tail_seen == SPSC_ENTRIES) {
		r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
		if (r->staged - r->tail_seen == SPSC_ENTRIES)
			return 0;
	}
	r->entries[r->staged++ % SPSC_ENTRIES] = p;
	return 1;
}

static inline void spsc_publish(struct spsc *r)
{
	atomic_store_explicit(&r->head, r->staged, memory_order_release);
}

/* Takes up to @max pointers, returns how many. */
static inline unsigned int spsc_take(struct spsc *r, void **out, unsigned int max)
{
	uint32_t at = atomic_load_explicit(&r->tail, memory_order_relaxed);
	uint32_t ready = r->head_seen - at;

	if (!ready) {
		r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
		ready = r->head_seen - at;
		if (!ready)
			return 0;
	}
	if (max > ready)
		max = ready;
	for (unsigned int i = 0; i < max; i++)
		out[i] = r->entries[(at + i) % SPSC_ENTRIES];
	atomic_store_explicit(&r->tail, at + max, memory_order_release);
	return max;
}

#endif
