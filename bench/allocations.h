/* SPDX-License-Identifier: MIT */
/* How often this process, the library in it included, has asked for memory. */
#ifndef BENCH_ALLOCATIONS_H
#define BENCH_ALLOCATIONS_H

/* -1 where they cannot be counted: without glibc, and under sanitizers. */
long allocations(void);

#endif
