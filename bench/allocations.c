/* SPDX-License-Identifier: MIT */
/*
 * Counting allocations: the program's own malloc() and its relatives stand in front
 * of the C library's, for the library that is measured too.
 */
#include "allocations.h"

#include <errno.h>
#include <stdlib.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
	__has_feature(memory_sanitizer)
#define OTHERS_ALLOCATE
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define OTHERS_ALLOCATE
#endif

#ifdef OTHERS_ALLOCATE

long allocations(void)
{
	return -1;
}

#else

/* glibc exports them for those who replace the others. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static long count;

long allocations(void)
{
	return count;
}

void *malloc(size_t bytes)
{
	count++;
	return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
	count++;
	return __libc_calloc(n, bytes);
}

void *realloc(void *old, size_t bytes)
{
	count++;
	return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	count++;
	return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
	count++;
	*out = __libc_memalign(alignment, bytes);
	return *out ? 0 : ENOMEM;
}

#endif
