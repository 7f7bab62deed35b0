/* SPDX-License-Identifier: MIT */
/*
 * The counters of disks that are served: as text between two processes, as
 * sentences for people, and the command `virtq stats`.
 */
#ifndef VIRTQ_CLI_STATS_H
#define VIRTQ_CLI_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <virtq/engine.h>

struct stats_disk {
	char *name, *image, *serial;
	uint64_t bytes;
	uint64_t clients;
	unsigned int queues;
	struct virtq_engine_stats *queue;
};

/* All of one process, at one moment. */
struct stats {
	uint64_t time_ns;		/* of CLOCK_MONOTONIC */
	unsigned int count;
	struct stats_disk *disk;
};

/* Copies of the texts, zeroes for the rest. False without memory. */
bool stats_disk_init(struct stats_disk *disk, const char *name, const char *image,
		     const char *serial, unsigned int queues);

/* Room for one disk more at the end, zeroed; NULL without memory. */
struct stats_disk *stats_append(struct stats *stats);

void stats_free(struct stats *stats);

void stats_sum(struct virtq_engine_stats *sum, const struct virtq_engine_stats *more);

/* The counters of a queue by name, but for the latencies; the last name is NULL. */
struct stats_field {
	const char *name;
	size_t offset;
};

extern const struct stats_field stats_fields[];

uint64_t stats_value(const struct virtq_engine_stats *stats, const struct stats_field *field);

/*
 * Which time, microseconds, are @percent of the requests under, as far as the
 * buckets tell? 0 if there were none, or UINT64_MAX if it is longer than they go.
 */
uint64_t stats_percentile_us(const struct virtq_engine_stats *stats, unsigned int percent);

/* "p50 <64 us, p99 <512 us"; returns @text. */
#define STATS_LATENCY_BYTES 80
const char *stats_latency_text(char text[STATS_LATENCY_BYTES],
			       const struct virtq_engine_stats *stats);

/* As lines, and from them: false if @text is no such lines, or without memory. */
void stats_write(FILE *out, const struct stats *stats);
bool stats_read(struct stats *stats, const char *text);

/*
 * What happened between two moments, a sentence for each queue that did
 * something, through @say.
 */
void stats_say_between(const struct stats *before, const struct stats *after,
		       void (*say)(const char *sentence));

/* virtq stats ...; argv[0] is "stats" */
int stats_main(int argc, char **argv);

#endif
