/* SPDX-License-Identifier: MIT */
/* Requests of every kind that can wait for ever, and engines that do not wait so long. */
#ifndef TESTS_UNIT_ENDLESS_H
#define TESTS_UNIT_ENDLESS_H

#include "stand.h"

#define DRAIN_MS 300u
#define EACH 3u		/* requests of each kind */

struct virtq_engine *engine_draining(enum virtq_engine_kind kind, uint32_t drain_ms);

/* Each queue has requests of one kind. */
struct endless {
	struct scripted read, poll, timeout;
	struct holder hold;
	struct stand st[4];
	unsigned int count;
	int fds[2];
};

/* All of them on @engine, in flight. */
void endless_open(struct endless *e, struct virtq_engine *engine, const struct setting *s);
void endless_close(struct endless *e);

#endif
