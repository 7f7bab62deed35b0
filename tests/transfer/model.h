/* SPDX-License-Identifier: MIT */
/*
 * What the models of pool and transfers share: how one says that something is not as it
 * should be, lists of what is where, and runs over configurations. MODEL is the name of
 * the program.
 */
#ifndef TESTS_TRANSFER_MODEL_H
#define TESTS_TRANSFER_MODEL_H

#include "far_end.h"

/* ---- What is wrong ------------------------------------------------------ */

/* With the command line that shows it again, and the step in which it comes. */

#define WRONG(m, ...) do { \
	print_error("%s --seed %llu --only '%s' --steps %llu: in step %llu:\n", MODEL, \
		    (unsigned long long)(m)->c->run->seed, (m)->c->name, \
		    (unsigned long long)(m)->c->run->steps, (unsigned long long)(m)->step); \
	fail_msg(__VA_ARGS__); \
} while (0)

#define SAME(m, got, want) do { \
	long long got_ = (long long)(got), want_ = (long long)(want); \
	if (got_ != want_) \
		WRONG(m, "%s:%d: %s is %lld, not %lld", __FILE__, __LINE__, #got, got_, want_); \
} while (0)

#define WITHIN(m, got, low, high) do { \
	long long got_ = (long long)(got), low_ = (long long)(low), high_ = (long long)(high); \
	if (got_ < low_ || got_ > high_) \
		WRONG(m, "%s:%d: %s is %lld, not in %lld..%lld", __FILE__, __LINE__, #got, got_, \
		      low_, high_); \
} while (0)

/* ---- What is where ------------------------------------------------------ */

#define LIST_MAX 256u

/* Numbers of twins. */
struct list {
	uint32_t of[LIST_MAX], count;
};

static inline void append(struct list *l, uint32_t number)
{
	assert_true(l->count < LIST_MAX);
	l->of[l->count++] = number;
}

static inline uint32_t pick(struct list *l, uint32_t i)
{
	uint32_t number = l->of[i];

	l->count--;
	memmove(l->of + i, l->of + i + 1, (l->count - i) * sizeof(l->of[0]));
	return number;
}

/* ---- Runs --------------------------------------------------------------- */

/* Ring and tables of a configuration, which asked for a ring of *@size, over the @i-th layout. */
static inline struct layout model_layout(unsigned int i, uint32_t *size, uint32_t *indirect_entries)
{
	struct layout layout = layout_at(i % LAYOUTS);

	/* Packed rings have any size. */
	if (layout.packed && *size > 2)
		--*size;
	*indirect_entries = *size < 8 ? *size : 8;
	return layout;
}

static inline uint64_t model_seed(const struct run *run, const char *name)
{
	uint64_t seed = run->seed * 1000003;

	while (*name)
		seed = seed * 31 + (uint8_t)*name++;
	return seed;
}

/* Add the test of a configuration to @count others, if it is wanted; returns how many there are. */
static inline size_t model_add(struct CMUnitTest *tests, size_t count, const struct run *run,
			       const char *name, CMUnitTestFunction fn, void *config)
{
	if (run->only && !strstr(name, run->only))
		return count;
	tests[count] = (struct CMUnitTest){ .name = name, .test_func = fn,
					    .initial_state = config };
	return count + 1;
}

/* Run them, and @last behind them; there is room for it. Returns what main() does. */
static inline int model_run(const char *group, struct run *run, struct CMUnitTest *tests,
			    size_t count, CMUnitTestFunction last)
{
	if (!count) {
		fprintf(stderr, "no configuration has '%s' in its name\n", run->only);
		return 2;
	}
	tests[count++] = (struct CMUnitTest){ .name = "it was a test", .test_func = last,
					      .initial_state = run };
	return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}

#endif
