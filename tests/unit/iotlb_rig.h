/* SPDX-License-Identifier: MIT */
/*
 * A table of translations (ACCESS_PLATFORM), told and asked. No pointer is followed, so
 * there need not be memory behind any.
 */
#ifndef TESTS_UNIT_IOTLB_RIG_H
#define TESTS_UNIT_IOTLB_RIG_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/iotlb.h>

#include "mem/iotlb.h"

#define R VIRTQ_ACCESS_READ
#define W VIRTQ_ACCESS_WRITE
#define RW VIRTQ_ACCESS_RW
#define PAGE 0x1000u
#define LAST UINT64_MAX

static inline void *host(uint64_t at)
{
	return (void *)(uintptr_t)(0x10000000u + at);
}

static inline struct virtq_iotlb *table(uint32_t entries)
{
	struct virtq_iotlb *tlb;

	assert_int_equal(virtq_iotlb_create(&tlb, entries, NULL), 0);
	return tlb;
}

static inline void tell(struct virtq_iotlb *tlb, uint64_t iova, uint64_t size_bytes, void *at,
			unsigned int access)
{
	assert_int_equal(virtq_iotlb_update(tlb, iova, size_bytes, at, access), 0);
}

/* What virtq_iotlb_ptr() says, and that it leaves *out alone unless that is 0. */
static inline int ask(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len,
		      unsigned int access, void *expected)
{
	void *untouched = &untouched, *out = untouched;
	int rc = virtq_iotlb_ptr(tlb, iova, len, access, &out);

	assert_ptr_equal(out, rc ? untouched : expected);
	return rc;
}

#define assert_at(tlb, iova, len, access, expected) \
	assert_int_equal(ask(tlb, iova, len, access, expected), 0)
#define assert_answer(tlb, iova, len, access, error) \
	assert_int_equal(ask(tlb, iova, len, access, NULL), error)

#endif
