/* SPDX-License-Identifier: MIT */
/* `virtq stats`: what the disks of a running server have done. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "control.h"
#include "json.h"
#include "options.h"
#include "report.h"
#include "size.h"
#include "stats.h"

#define STATS_SECONDS_MAX 86400

struct stats_options {
	unsigned int watch_s;		/* 0: once */
	bool json;
	bool help;
};

static const char stats_help[] =
	"Usage: virtq stats SOCKET-OR-PID [OPTION]...\n"
	"Say what the disks of a running 'virtq serve' have done so far.\n"
	"\n"
	"The server is named by its process id, or by a socket that it listens on. Only\n"
	"its own user and root may ask.\n"
	"\n"
	"  --json            print one JSON object, with the whole latency histogram\n"
	"  --watch SECONDS   ask again every so often, and say what happened in between,\n"
	"                    until the server ends; with --json, all counts each time\n"
	"  -h, --help        print this and exit\n"
	"\n"
	"Examples:\n"
	"  virtq stats /run/disk.sock\n"
	"  virtq stats --watch 1 $(pgrep -x virtq)\n"
	"  virtq stats --json /run/disk.sock | jq .disks[0].queues[0].latency\n"
	"\n"
	"Exit status: 0 done, 1 failed, 2 the command line makes no sense.\n";

enum { OPT_JSON = OPTIONS_FIRST, OPT_WATCH };

static const struct option stats_longs[] = {
	{ "json", no_argument, NULL, OPT_JSON },
	{ "watch", required_argument, NULL, OPT_WATCH },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int stats_parse(struct stats_options *o, int argc, char **argv)
{
	uint64_t seconds;
	int opt;

	*o = (struct stats_options){ 0 };
	while ((opt = options_next(argc, argv, stats_longs)) != OPTIONS_END) {
		switch (opt) {
		case OPT_JSON:
			o->json = true;
			break;
		case OPT_WATCH:
			if (!options_number("--watch", optarg, 1, STATS_SECONDS_MAX, &seconds))
				return REPORT_USAGE;
			o->watch_s = (unsigned int)seconds;
			break;
		case 'h':
			o->help = true;
			return REPORT_OK;
		default:
			return REPORT_USAGE;
		}
	}
	return options_operands(argc, argv, 1, "SOCKET-OR-PID") ? REPORT_OK : REPORT_USAGE;
}

/* ---- One answer. ---- */

static int stats_ask(struct stats *stats, pid_t pid, struct virtq_error *err)
{
	char *answer;
	int rc = control_ask(pid, "stats", &answer, err);

	if (rc < 0)
		return rc;
	if (!stats_read(stats, answer))
		rc = report_into(err, -EPROTO, "process %ld gave an answer that means nothing",
				 (long)pid);
	free(answer);
	return rc;
}

static void stats_print_json(const struct stats *stats)
{
	struct json j = { 0 };
	const struct stats_field *f;
	unsigned int d, q, i;

	json_open(&j, NULL, '{');
	json_number(&j, "time_ns", stats->time_ns);
	json_open(&j, "disks", '[');
	for (d = 0; d < stats->count; d++) {
		const struct stats_disk *disk = &stats->disk[d];

		json_open(&j, NULL, '{');
		json_text(&j, "socket", disk->name);
		json_text(&j, "image", disk->image);
		json_text(&j, "serial", disk->serial);
		json_number(&j, "capacity_bytes", disk->bytes);
		json_number(&j, "clients", disk->clients);
		json_open(&j, "queues", '[');
		for (q = 0; q < disk->queues; q++) {
			json_open(&j, NULL, '{');
			for (f = stats_fields; f->name; f++)
				json_number(&j, f->name, stats_value(&disk->queue[q], f));
			json_open(&j, "latency", '[');
			for (i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
				json_number(&j, NULL, disk->queue[q].latency[i]);
			json_close(&j, ']');
			json_close(&j, '}');
		}
		json_close(&j, ']');
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_close(&j, '}');
}

static void stats_print_queue(unsigned int number, const struct virtq_engine_stats *q)
{
	char rd[SIZE_TEXT_BYTES], wr[SIZE_TEXT_BYTES], latency[STATS_LATENCY_BYTES];

	printf("  queue %u: %llu requests (%llu malformed, %llu failed, %llu cancelled), "
	       "%s read, %s written, %llu batches, %llu kicks, %llu calls, %llu suppressed, %s\n",
	       number, (unsigned long long)q->requests, (unsigned long long)q->malformed,
	       (unsigned long long)q->failed, (unsigned long long)q->cancelled,
	       size_text(rd, (double)q->bytes_read), size_text(wr, (double)q->bytes_written),
	       (unsigned long long)q->batches, (unsigned long long)q->kicks,
	       (unsigned long long)q->calls, (unsigned long long)q->suppressed,
	       stats_latency_text(latency, q));
}

static void stats_print(const struct stats *stats)
{
	char size[SIZE_TEXT_BYTES];
	unsigned int d, q;

	for (d = 0; d < stats->count; d++) {
		const struct stats_disk *disk = &stats->disk[d];
		bool idle = true;

		printf("%s: %s (%s), %u queue%s, %llu client%s so far\n", disk->name, disk->image,
		       size_text(size, (double)disk->bytes), disk->queues,
		       disk->queues == 1 ? "" : "s", (unsigned long long)disk->clients,
		       disk->clients == 1 ? "" : "s");
		for (q = 0; q < disk->queues; q++) {
			if (!disk->queue[q].requests)
				continue;
			stats_print_queue(q, &disk->queue[q]);
			idle = false;
		}
		if (idle)
			puts("  no requests");
	}
}

/* ---- The command. ---- */

static void stats_say(const char *sentence)
{
	puts(sentence);
}

static void stats_sleep(unsigned int seconds)
{
	struct timespec left = { (time_t)seconds, 0 };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

/* Until asking fails, as it does when the server has ended. */
static int stats_watch(const struct stats_options *o, pid_t pid, struct virtq_error *err)
{
	struct stats before = { 0 }, after = { 0 };
	int rc = stats_ask(&before, pid, err);

	while (rc == 0) {
		if (o->json)
			stats_print_json(&before);
		/* Who reads may have gone. */
		if (fflush(stdout) < 0)
			break;
		stats_sleep(o->watch_s);
		rc = stats_ask(&after, pid, err);
		if (rc < 0)
			break;
		if (!o->json)
			stats_say_between(&before, &after, stats_say);
		stats_free(&before);
		before = after;
		after = (struct stats){ 0 };
	}
	stats_free(&before);
	return rc;
}

int stats_main(int argc, char **argv)
{
	struct stats_options options;
	struct virtq_error err = { 0 };
	struct stats stats = { 0 };
	int status = stats_parse(&options, argc, argv);
	pid_t pid;
	int rc;

	if (status != REPORT_OK)
		return status;
	if (options.help) {
		fputs(stats_help, stdout);
		return REPORT_OK;
	}
	pid = control_find(argv[optind], &err);
	if (pid < 0)
		return report_failure("%s", err.text);
	if (options.watch_s) {
		rc = stats_watch(&options, pid, &err);
	} else {
		rc = stats_ask(&stats, pid, &err);
		if (rc == 0 && options.json)
			stats_print_json(&stats);
		else if (rc == 0)
			stats_print(&stats);
		stats_free(&stats);
	}
	return rc < 0 ? report_failure("%s", err.text) : REPORT_OK;
}
