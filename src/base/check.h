/* SPDX-License-Identifier: MIT */
/* Arithmetic that says when it overflows, and asserts against our own bugs. */
#ifndef VIRTQ_BASE_CHECK_H
#define VIRTQ_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/shm.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#define container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/*
 * For what only a bug of ours or of the caller can break, never for anything
 * a peer can cause. Off in release builds.
 */
#ifdef VIRTQ_DEBUG
#define VIRTQ_ASSERT(x) do { if (UNLIKELY(!(x))) __builtin_trap(); } while (0)
#else
#define VIRTQ_ASSERT(x) do { if (0) (void)(x); } while (0)
#endif

/*
 * @sum + @value, where @value is @guess nearly always: by a branch, so that
 * what needs the sum does not wait for the value. The compiler must not see
 * that both ways come to the same.
 */
ALWAYS_INLINE uint32_t add_guessed(uint32_t sum, uint32_t value, uint32_t guess)
{
	uint32_t guessed = sum + guess;

	if (LIKELY(value == guess))
		return guessed;
	return sum + shm_opaque32(value);
}

static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

static inline bool mul_overflows(uint64_t a, uint64_t b, uint64_t *product)
{
	return __builtin_mul_overflow(a, b, product);
}

static inline bool is_power_of_2(uint64_t v)
{
	return v && !(v & (v - 1));
}

static inline uint64_t align_up(uint64_t v, uint64_t alignment)
{
	return (v + alignment - 1) & ~(alignment - 1);
}

#endif
