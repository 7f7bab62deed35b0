/* SPDX-License-Identifier: MIT */
/* Something measured by bench/ring, and how it is told: to people, as TSV, as JSON. */
#ifndef BENCH_SUBJECT_H
#define BENCH_SUBJECT_H

#include <stdbool.h>
#include <stdio.h>

#include "path.h"
#include "peer.h"
#include "samples.h"

enum mode {
	MODE_ONE,	/* one thread, both ends in turn */
	MODE_ENDS,	/* one thread, each end timed alone */
	MODE_TWO,	/* an end on each of two processors */
	MODES
};

/* Parts of the way; in modes one and two only PART_ALL is measured. */
enum part {
	PART_ALL,
	PART_DRIVER,	/* add, publish, get */
	PART_DEVICE,	/* pop, push, publish */
	PART_ADD,	/* add, publish */
	PART_GET,
	PARTS
};

#define PEERS_MAX 2	/* of a kind */

struct subject {
	const char *what;		/* "floor", "reference", "split", ... */
	struct path *path;		/* NULL: a program, or the line */
	const char *program;		/* a peer */
	struct path_counts counts;	/* over all rounds */
	uint64_t buffers;
	struct samples ns[PARTS];	/* no sample: this part is not measured */
};

/* What a group of subjects has in common: they are measured in the same rounds. */
struct group {
	enum mode mode;
	unsigned int batch;
	const char *chain;
	struct subject *subjects;
	unsigned int count;
	const struct subject *floor;		/* NULL: none */
	const struct subject *peers[PEERS_MAX];	/* NULL: none */
};

struct output {
	FILE *tsv, *json;
	unsigned int peers;	/* most of a kind */
	unsigned int disturbed;	/* samples, of all */
	bool some;		/* JSON rows written */
};

const char *mode_name(enum mode mode);
void tell_head(struct output *out);
void tell_group(const struct group *group, struct output *out);

#endif
