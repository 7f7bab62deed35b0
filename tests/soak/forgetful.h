/* SPDX-License-Identifier: MIT */
/*
 * A store like a disk with a volatile cache, and without a battery: what is
 * written is in memory until something says that it must be stable. Kill the
 * process, and the rest is gone, as if the power had been cut.
 *
 * Requests end late, and not in the order in which they began.
 */
#ifndef SOAK_FORGETFUL_H
#define SOAK_FORGETFUL_H

#include <virtq/store.h>

/* What it does wrong, so that its test can be seen to fail. */
enum forgetful_lie {
	FORGETFUL_HONEST,
	FORGETFUL_NO_FLUSH,	/* FLUSH ends well, and nothing is stable */
	FORGETFUL_NO_STABLE,	/* VIRTQ_STORE_STABLE is not heeded */
	FORGETFUL_TORN,		/* sectors are made stable by halves */
};

/* Sectors lie in the file @path. 0 or -errno. */
int forgetful_open(struct virtq_store **out, const char *path, enum forgetful_lie lie);

#endif
