/* SPDX-License-Identifier: MIT */
/* Medians, extremes and ratios of samples. */
#include "samples.h"

#include <stdlib.h>

void samples_add(struct samples *s, double value)
{
	if (s->count < SAMPLES_MAX)
		s->value[s->count++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct summary samples_summary(const struct samples *s)
{
	struct samples sorted = *s;
	unsigned int n = s->count;
	struct summary sum = { 0 };

	if (!n)
		return sum;
	qsort(sorted.value, n, sizeof(sorted.value[0]), compare);
	sum.median = (sorted.value[(n - 1) / 2] + sorted.value[n / 2]) / 2;
	sum.min = sorted.value[0];
	sum.max = sorted.value[n - 1];
	return sum;
}

double samples_ratio(const struct samples *s, const struct samples *base)
{
	struct samples quotients = { 0 };

	for (unsigned int i = 0; i < s->count && i < base->count; i++)
		if (base->value[i] > 0)
			samples_add(&quotients, s->value[i] / base->value[i]);
	return samples_summary(&quotients).median;
}

double samples_difference(const struct samples *s, const struct samples *base)
{
	struct samples differences = { 0 };

	for (unsigned int i = 0; i < s->count && i < base->count; i++)
		samples_add(&differences, s->value[i] - base->value[i]);
	return samples_summary(&differences).median;
}
