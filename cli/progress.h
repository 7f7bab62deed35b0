/* SPDX-License-Identifier: MIT */
/* How far a copy has come: a bar for terminals, and nothing for anything else. */
#ifndef VIRTQ_CLI_PROGRESS_H
#define VIRTQ_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool terminal;
	uint64_t total_bytes;
	uint64_t start_ns, drawn_ns;
};

void progress_start(struct progress *p, uint64_t total_bytes);

/* Draws at most ten times a second. */
void progress_update(struct progress *p, uint64_t done_bytes);

/* Take the bar away, so that a sentence can stand in its place. */
void progress_end(struct progress *p);

/* Since progress_start(). */
double progress_seconds(const struct progress *p);

#endif
