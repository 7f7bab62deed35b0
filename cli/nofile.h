/* SPDX-License-Identifier: MIT */
/* What the system allows this process. */
#ifndef VIRTQ_CLI_LIMITS_H
#define VIRTQ_CLI_LIMITS_H

#include <virtq/error.h>

/*
 * See to it that descriptors up to @needed can be open at once. -errno and a
 * sentence if the hard limit forbids it.
 */
int limits_want_descriptors(unsigned int needed, struct virtq_error *err);

#endif
