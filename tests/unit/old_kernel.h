/* SPDX-License-Identifier: MIT */
/*
 * An io_uring as Linux 5.12 had it, on a later kernel: programs with old_kernel.c in them
 * are linked so that what the engine asks liburing for goes through there.
 */
#ifndef TESTS_UNIT_OLD_KERNEL_H
#define TESTS_UNIT_OLD_KERNEL_H

#include <stdbool.h>

/* From now on; what is set up already stays as it is. */
void old_kernel_set(bool old);
/* How many polls have been refused since then. */
unsigned int old_kernel_refused(void);

#endif
