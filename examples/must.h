/* SPDX-License-Identifier: MIT */
/* For the examples: a call that fails ends the program, with a sentence. */
#ifndef MUST_H
#define MUST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/error.h>

static struct virtq_error err;		/* for the calls that fill one */

static inline int must(int rc, const char *what)
{
	if (rc >= 0)
		return rc;
	fprintf(stderr, "%s: %s\n", what, err.code == rc ? err.text : strerror(-rc));
	exit(EXIT_FAILURE);
}

#endif
