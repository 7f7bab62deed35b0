/* SPDX-License-Identifier: MIT */
/*
 * Access to memory that another party reads or writes at the same time: the
 * only atomics, fences and byte-order conversions in the library.
 *
 * Every access is one load or store of the width named; the compiler may not
 * repeat, split or invent one. Which order each needs is argued where it is
 * used, under one of four letters (docs/ordering.md):
 *   [A] publish available, [B] publish used: release with acquire
 *   [C] no lost kick, [D] no lost call: full fences on both sides
 */
#ifndef VIRTQ_BASE_SHM_H
#define VIRTQ_BASE_SHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <virtq/spec/types.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define SHM_SWAP16(x) __builtin_bswap16(x)
#define SHM_SWAP32(x) __builtin_bswap32(x)
#define SHM_SWAP64(x) __builtin_bswap64(x)
#define SHM_HOST_LITTLE_ENDIAN false
#else
#define SHM_SWAP16(x) (x)
#define SHM_SWAP32(x) (x)
#define SHM_SWAP64(x) (x)
#define SHM_HOST_LITTLE_ENDIAN true
#endif

/* TSan understands the compiler's fences and no others. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHM_UNDER_TSAN
#endif
#endif

/* @v, of which the compiler knows nothing any more. */
static inline uint32_t shm_opaque32(uint32_t v)
{
	__asm__ __volatile__("" : "+r"(v));
	return v;
}

/* ---- Values that are private already: conversion only. ---- */

static inline uint16_t le16_value(virtq_le16 v) { return SHM_SWAP16(v.raw); }
static inline uint32_t le32_value(virtq_le32 v) { return SHM_SWAP32(v.raw); }
static inline uint64_t le64_value(virtq_le64 v) { return SHM_SWAP64(v.raw); }

static inline virtq_le16 le16_make(uint16_t v)
{
	return (virtq_le16){ SHM_SWAP16(v) };
}

static inline virtq_le32 le32_make(uint32_t v)
{
	return (virtq_le32){ SHM_SWAP32(v) };
}

static inline virtq_le64 le64_make(uint64_t v)
{
	return (virtq_le64){ SHM_SWAP64(v) };
}

/* ---- Shared memory, no order. ---- */

static inline uint16_t shm_load16(const virtq_le16 *p)
{
	return SHM_SWAP16(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

static inline uint32_t shm_load32(const virtq_le32 *p)
{
	return SHM_SWAP32(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

/*
 * A 64-bit field is read once but, on machines of 32 bits, in two halves: the
 * peer may change it between them, which gives an address that is as false as
 * any other it could have written, and is checked like any other.
 */
static inline uint64_t shm_load64(const virtq_le64 *p)
{
#if __SIZEOF_POINTER__ >= 8
	return SHM_SWAP64(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
#else
	union { uint64_t whole; uint32_t half[2]; } u;
	const uint32_t *half = (const uint32_t *)(const void *)p;

	u.half[0] = __atomic_load_n(&half[0], __ATOMIC_RELAXED);
	u.half[1] = __atomic_load_n(&half[1], __ATOMIC_RELAXED);
	return SHM_SWAP64(u.whole);
#endif
}

static inline void shm_store16(virtq_le16 *p, uint16_t v)
{
	__atomic_store_n(&p->raw, SHM_SWAP16(v), __ATOMIC_RELAXED);
}

static inline void shm_store32(virtq_le32 *p, uint32_t v)
{
	__atomic_store_n(&p->raw, SHM_SWAP32(v), __ATOMIC_RELAXED);
}

static inline void shm_store64(virtq_le64 *p, uint64_t v)
{
#if __SIZEOF_POINTER__ >= 8
	__atomic_store_n(&p->raw, SHM_SWAP64(v), __ATOMIC_RELAXED);
#else
	union { uint64_t whole; uint32_t half[2]; } u = { SHM_SWAP64(v) };
	uint32_t *half = (uint32_t *)(void *)p;

	__atomic_store_n(&half[0], u.half[0], __ATOMIC_RELAXED);
	__atomic_store_n(&half[1], u.half[1], __ATOMIC_RELAXED);
#endif
}

/*
 * Neighbouring fields of 32, 16 and 16 bits in one store, where a machine has
 * one of 64 bits; @p is the first of them and aligned to 8. In which order the halves of it become
 * visible means nothing: whoever looks at them has been let in by a later store.
 */
static inline void shm_store_words(virtq_le32 *p, uint32_t first, uint32_t second,
				   uint32_t third)
{
	shm_store64((virtq_le64 *)(void *)p,
		    first | (uint64_t)second << 32 | (uint64_t)third << 48);
}

/*
 * Copy @bytes out of shared memory once. The barrier keeps the compiler from
 * reading the source again where it finds the copy being used.
 */
static inline void shm_copy_in(void *dst, const void *src, size_t bytes)
{
	__builtin_memcpy(dst, src, bytes);
	__asm__ __volatile__("" ::: "memory");
}

/* ---- Shared memory, ordered. ---- */

static inline uint16_t shm_load_acquire16(const virtq_le16 *p)
{
	return SHM_SWAP16(__atomic_load_n(&p->raw, __ATOMIC_ACQUIRE));
}

static inline void shm_store_release16(virtq_le16 *p, uint16_t v)
{
	__atomic_store_n(&p->raw, SHM_SWAP16(v), __ATOMIC_RELEASE);
}

/* Loads before it are done before accesses after it. */
static inline void shm_fence_acquire(void)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
}

/* Accesses before it are done before stores after it. */
static inline void shm_fence_release(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

/*
 * Stores before it are visible before loads after it are done: the one kind of
 * fence that x86 needs too. A locked instruction does it there at a third of the cost
 * of mfence, which clang takes for the standard fence (gcc does not).
 */
static inline void shm_fence_full(void)
{
#if defined(__x86_64__) && defined(__clang__) && !defined(SHM_UNDER_TSAN)
	__asm__ __volatile__("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/*
 * Barriers strong enough for a device that is no other thread but hardware on
 * a bus (ORDER_PLATFORM, VIRTIO 1.4, 6): they order accesses to memory of any
 * kind, as seen from outside the processors. The compiler's own fences need not.
 */
static inline void shm_platform_barrier(void)
{
#if defined(__x86_64__)
	__asm__ __volatile__("mfence" ::: "memory");
#elif defined(__aarch64__)
	__asm__ __volatile__("dsb sy" ::: "memory");
#elif defined(__arm__) && __ARM_ARCH >= 7
	__asm__ __volatile__("dsb sy" ::: "memory");
#elif defined(__riscv)
	__asm__ __volatile__("fence iorw, iorw" ::: "memory");
#else
	__sync_synchronize();
#endif
}

/* ---- The four lettered orders; @platform: of such a device. ---- */

/* [A], [B]: everything written before is visible to whoever sees @v. */
static inline void shm_publish16(virtq_le16 *p, uint16_t v, bool platform)
{
	if (platform)
		shm_platform_barrier();
	shm_store_release16(p, v);
}

/* [A], [B]: what is read after it is not older than the value it returns. */
static inline uint16_t shm_observe16(const virtq_le16 *p, bool platform)
{
	uint16_t v = shm_load_acquire16(p);

	if (platform)
		shm_platform_barrier();
	return v;
}

/*
 * [C] and [D]: stores before it are visible before loads after it are done.
 * Two names for one fence, so that a reader, a script and a test that takes
 * one out (tests/ring/unfence.h) can tell which is meant.
 */
static inline void shm_fence_kick(bool platform)
{
	if (platform)
		shm_platform_barrier();
	else
		shm_fence_full();
}

static inline void shm_fence_call(bool platform)
{
	if (platform)
		shm_platform_barrier();
	else
		shm_fence_full();
}

/* ---- Reference counts of objects that several threads of ours hold. ---- */

struct shm_refs { uint32_t count; };

static inline void shm_refs_get(struct shm_refs *refs)
{
	__atomic_fetch_add(&refs->count, 1, __ATOMIC_RELAXED);
}

/* Returns true if that was the last one: the object may be released. */
static inline bool shm_refs_put(struct shm_refs *refs)
{
	return __atomic_fetch_sub(&refs->count, 1, __ATOMIC_ACQ_REL) == 1;
}

/* A number that no other thread of ours gets from @next, until all 2^32 were had. */
static inline uint32_t shm_serial(uint32_t *next)
{
	return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
}

/* ---- How many of something there are, for threads of ours that decide nothing grave by it. ---- */

static inline void shm_count_add(uint32_t *count, uint32_t n)
{
	__atomic_fetch_add(count, n, __ATOMIC_RELAXED);
}

static inline uint32_t shm_count_read(const uint32_t *count)
{
	return __atomic_load_n(count, __ATOMIC_RELAXED);
}

/* ---- Plain words that one thread of ours writes and others read. ---- */

static inline uint64_t shm_word_read(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void shm_word_write(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline bool shm_flag_read(const bool *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void shm_flag_write(bool *p, bool v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

#endif
