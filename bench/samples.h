/* SPDX-License-Identifier: MIT */
/* Samples of one measured thing, one a round, and what is said about them. */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#define SAMPLES_MAX 1000

struct samples {
	unsigned int count;
	double value[SAMPLES_MAX];	/* by round */
};

struct summary {
	double median, min, max;
};

void samples_add(struct samples *s, double value);

/* All three are 0 if there is no sample. */
struct summary samples_summary(const struct samples *s);

/*
 * Median of the quotients round by round: what drifts between rounds, such as
 * the clock, falls out. 0 if there is nothing to divide.
 */
double samples_ratio(const struct samples *s, const struct samples *base);

/* Median of the differences round by round. 0 if there is nothing to subtract. */
double samples_difference(const struct samples *s, const struct samples *base);

#endif
