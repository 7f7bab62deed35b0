/* SPDX-License-Identifier: MIT */
/* Counters of disks that are served: kept, sent, received and said. */
#include "stats.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"

/* Most disks and queues that are believed to be in one process. */
#define STATS_DISKS_MAX 4096
#define STATS_QUEUES_MAX 65536

#define FIELD(name) { #name, offsetof(struct virtq_engine_stats, name) }

/* Every counter but the latencies; the names are also those of the protocol and of JSON. */
const struct stats_field stats_fields[] = {
	FIELD(requests), FIELD(malformed), FIELD(failed), FIELD(cancelled), FIELD(bytes_read),
	FIELD(bytes_written), FIELD(batches), FIELD(kicks), FIELD(calls), FIELD(suppressed),
	FIELD(coalesced), FIELD(sleeps), { NULL, 0 },
};

static uint64_t *stats_counter(struct virtq_engine_stats *stats, const struct stats_field *f)
{
	return (uint64_t *)(void *)((char *)stats + f->offset);
}

uint64_t stats_value(const struct virtq_engine_stats *stats, const struct stats_field *f)
{
	return *(const uint64_t *)(const void *)((const char *)stats + f->offset);
}

bool stats_disk_init(struct stats_disk *disk, const char *name, const char *image,
		     const char *serial, unsigned int queues)
{
	memset(disk, 0, sizeof(*disk));
	disk->name = strdup(name);
	disk->image = strdup(image);
	disk->serial = strdup(serial);
	disk->queue = calloc(queues ? queues : 1, sizeof(*disk->queue));
	disk->queues = disk->queue ? queues : 0;
	return disk->name && disk->image && disk->serial && disk->queue;
}

struct stats_disk *stats_append(struct stats *stats)
{
	struct stats_disk *disks = realloc(stats->disk, (stats->count + 1) * sizeof(*disks));

	if (!disks)
		return NULL;
	stats->disk = disks;
	memset(&disks[stats->count], 0, sizeof(*disks));
	return &disks[stats->count++];
}

void stats_free(struct stats *stats)
{
	while (stats->count) {
		struct stats_disk *disk = &stats->disk[--stats->count];

		free(disk->name);
		free(disk->image);
		free(disk->serial);
		free(disk->queue);
	}
	free(stats->disk);
	*stats = (struct stats){ 0 };
}

void stats_sum(struct virtq_engine_stats *sum, const struct virtq_engine_stats *more)
{
	const struct stats_field *f;
	unsigned int i;

	for (f = stats_fields; f->name; f++)
		*stats_counter(sum, f) += stats_value(more, f);
	for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		sum->latency[i] += more->latency[i];
}

/* ---- Between processes; the lines are documented in virtq-stats(1). ---- */

/* A line is a key and a text. */
static void stats_write_text(FILE *out, const char *key, const char *text)
{
	fprintf(out, "%s ", key);
	control_write_text(out, text);
	fputc('\n', out);
}

void stats_write(FILE *out, const struct stats *stats)
{
	const struct stats_field *f;
	unsigned int d, q, i;

	fprintf(out, "time_ns %" PRIu64 "\n", stats->time_ns);
	for (d = 0; d < stats->count; d++) {
		const struct stats_disk *disk = &stats->disk[d];

		stats_write_text(out, "disk", disk->name);
		stats_write_text(out, "image", disk->image);
		stats_write_text(out, "serial", disk->serial);
		fprintf(out, "bytes %" PRIu64 "\nclients %" PRIu64 "\n", disk->bytes, disk->clients);
		for (q = 0; q < disk->queues; q++) {
			fprintf(out, "queue %u\n", q);
			for (f = stats_fields; f->name; f++)
				fprintf(out, "%s %" PRIu64 "\n", f->name,
					stats_value(&disk->queue[q], f));
			fputs("latency", out);
			for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
				fprintf(out, " %" PRIu64, disk->queue[q].latency[i]);
			fputc('\n', out);
		}
	}
	fputs("end\n", out);
}

static bool stats_read_number(const char *text, uint64_t *value)
{
	char *end;

	*value = strtoull(text, &end, 10);
	return end != text && *end == '\0';
}

static bool stats_read_latency(const char *text, struct virtq_engine_stats *queue)
{
	unsigned int i;
	char *end;

	for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++, text = end) {
		queue->latency[i] = strtoull(text, &end, 10);
		if (end == text)
			return false;
	}
	return *text == '\0';
}

static bool stats_read_queue(struct stats_disk *disk)
{
	struct virtq_engine_stats *queues;

	if (disk->queues == STATS_QUEUES_MAX)
		return false;
	queues = realloc(disk->queue, (disk->queues + 1) * sizeof(*queues));
	if (!queues)
		return false;
	disk->queue = queues;
	memset(&queues[disk->queues++], 0, sizeof(*queues));
	return true;
}

static bool stats_replace(char **text, const char *by)
{
	free(*text);
	*text = strdup(by);
	return *text;
}

/* One line. A key that we do not know is from a newer program, and passed over. */
static bool stats_read_line(struct stats *stats, const char *key, const char *text)
{
	struct stats_disk *disk = stats->count ? &stats->disk[stats->count - 1] : NULL;
	struct virtq_engine_stats *queue = disk && disk->queues ?
					   &disk->queue[disk->queues - 1] : NULL;
	const struct stats_field *f;

	if (strcmp(key, "time_ns") == 0)
		return stats_read_number(text, &stats->time_ns);
	if (strcmp(key, "disk") == 0) {
		if (stats->count == STATS_DISKS_MAX)
			return false;
		disk = stats_append(stats);
		return disk && stats_disk_init(disk, text, "", "", 0);
	}
	if (!disk)
		return true;
	if (strcmp(key, "image") == 0)
		return stats_replace(&disk->image, text);
	if (strcmp(key, "serial") == 0)
		return stats_replace(&disk->serial, text);
	if (strcmp(key, "bytes") == 0)
		return stats_read_number(text, &disk->bytes);
	if (strcmp(key, "clients") == 0)
		return stats_read_number(text, &disk->clients);
	if (strcmp(key, "queue") == 0)
		return stats_read_queue(disk);
	if (!queue)
		return true;
	if (strcmp(key, "latency") == 0)
		return stats_read_latency(text, queue);
	for (f = stats_fields; f->name; f++)
		if (strcmp(key, f->name) == 0)
			return stats_read_number(text, stats_counter(queue, f));
	return true;
}

bool stats_read(struct stats *stats, const char *text)
{
	char *copy = strdup(text), *line, *next;
	bool good = copy, ended = false;

	*stats = (struct stats){ 0 };
	for (line = copy; good && line && !ended; line = next) {
		char *value;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		value = strchr(line, ' ');
		if (value)
			*value++ = '\0';
		ended = strcmp(line, "end") == 0;
		good = ended || stats_read_line(stats, line, value ? value : "");
	}
	free(copy);
	if (good && ended)
		return true;
	stats_free(stats);
	return false;
}

/* ---- For people. ---- */

uint64_t stats_percentile_us(const struct virtq_engine_stats *stats, unsigned int percent)
{
	uint64_t all = 0, under = 0;
	unsigned int i;

	for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		all += stats->latency[i];
	if (!all)
		return 0;
	for (i = 0; i < VIRTQ_LATENCY_BUCKETS - 1; i++) {
		under += stats->latency[i];
		/* Counts are far from where this would overflow. */
		if (under * 100 >= all * percent)
			return UINT64_C(1) << i;
	}
	return UINT64_MAX;
}

const char *stats_latency_text(char text[STATS_LATENCY_BYTES],
			       const struct virtq_engine_stats *stats)
{
	static const unsigned int percents[] = { 50, 99 };
	size_t used = 0;
	unsigned int i;

	text[0] = '\0';
	for (i = 0; i < 2; i++) {
		uint64_t us = stats_percentile_us(stats, percents[i]);
		bool beyond = us == UINT64_MAX;

		if (beyond)
			us = UINT64_C(1) << (VIRTQ_LATENCY_BUCKETS - 2);
		if (us)
			used += (size_t)snprintf(text + used, STATS_LATENCY_BYTES - used,
						 "%sp%u %c%" PRIu64 " us", i ? ", " : "",
						 percents[i], beyond ? '>' : '<', us);
	}
	return text;
}

static struct virtq_engine_stats stats_difference(const struct virtq_engine_stats *before,
						  const struct virtq_engine_stats *after)
{
	struct virtq_engine_stats d = *after;
	const struct stats_field *f;
	unsigned int i;

	for (f = stats_fields; f->name; f++)
		*stats_counter(&d, f) -= stats_value(before, f);
	for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		d.latency[i] -= before->latency[i];
	return d;
}

static void stats_say_queue(const char *name, unsigned int queue,
			    const struct virtq_engine_stats *d, double seconds,
			    void (*say)(const char *sentence))
{
	char sentence[512], latency[STATS_LATENCY_BYTES];
	double bytes = (double)(d->bytes_read + d->bytes_written);

	snprintf(sentence, sizeof(sentence),
		 "%s queue %u: %.0f requests/s, %.1f MiB/s, %" PRIu64 " batches, %" PRIu64
		 " kicks, %" PRIu64 " calls, %" PRIu64 " suppressed, %" PRIu64 " failed, %" PRIu64
		 " cancelled, %s",
		 name, queue, (double)d->requests / seconds, bytes / seconds / 1048576,
		 d->batches, d->kicks, d->calls, d->suppressed, d->failed, d->cancelled,
		 stats_latency_text(latency, d));
	say(sentence);
}

void stats_say_between(const struct stats *before, const struct stats *after,
		       void (*say)(const char *sentence))
{
	double seconds = (double)(after->time_ns - before->time_ns) / 1e9;
	unsigned int d, q;

	for (d = 0; d < after->count && d < before->count; d++) {
		const struct stats_disk *then = &before->disk[d], *now = &after->disk[d];
		bool idle = true;

		for (q = 0; q < now->queues && q < then->queues; q++) {
			struct virtq_engine_stats change = stats_difference(&then->queue[q],
									    &now->queue[q]);

			if (!change.requests || seconds <= 0)
				continue;
			idle = false;
			stats_say_queue(now->name, q, &change, seconds, say);
		}
		if (idle) {
			char sentence[512];

			snprintf(sentence, sizeof(sentence), "%s: no requests", now->name);
			say(sentence);
		}
	}
}
