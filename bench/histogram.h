/* SPDX-License-Identifier: MIT */
/*
 * Latencies in buckets that grow with the value: 64 to each power of two, so
 * that a percentile is off by 1.6 % at most, whatever its size.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 64u	/* a power of two */
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * 40u)

struct histogram {
	uint64_t total, max;
	uint64_t count[HISTOGRAM_BUCKETS];
};

static inline unsigned int histogram_bucket(uint64_t v)
{
	unsigned int shift, bucket;

	if (v < HISTOGRAM_STEPS)
		return (unsigned int)v;
	/* The leading bit says which power of two, the six after it which step. */
	shift = 63u - (unsigned int)__builtin_clzll(v) - 6u;
	bucket = (shift + 1) * HISTOGRAM_STEPS + (unsigned int)(v >> shift) - HISTOGRAM_STEPS;
	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The middle of what falls into @bucket. */
static inline double histogram_value(unsigned int bucket)
{
	unsigned int shift;

	if (bucket < HISTOGRAM_STEPS)
		return bucket;
	shift = bucket / HISTOGRAM_STEPS - 1;
	return ((double)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) + 0.5) *
	       (double)((uint64_t)1 << shift);
}

static inline void histogram_add(struct histogram *h, uint64_t v)
{
	h->count[histogram_bucket(v)]++;
	h->total++;
	if (v > h->max)
		h->max = v;
}

/* The value that @part of all values do not exceed, 0 < @part <= 1; 0 if there are none. */
static inline double histogram_percentile(const struct histogram *h, double part)
{
	uint64_t seen = 0;

	for (unsigned int i = 0; i < HISTOGRAM_BUCKETS && h->total; i++) {
		seen += h->count[i];
		if ((double)seen >= part * (double)h->total)
			return histogram_value(i) < (double)h->max ? histogram_value(i) :
								     (double)h->max;
	}
	return (double)h->max;
}

#endif
