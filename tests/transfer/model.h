/* SPDX-License-Identifier: MIT */
/*
 * How a model says that something is not as it should be: with the command line that
 * shows it again, and the step in which it comes. MODEL is the name of the program.
 */
#ifndef TESTS_TRANSFER_MODEL_H
#define TESTS_TRANSFER_MODEL_H

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

#endif
