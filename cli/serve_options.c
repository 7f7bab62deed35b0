/* SPDX-License-Identifier: MIT */
/* The command line of `virtq serve blk`. */
#include "serve_options.h"

#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "report.h"

#define SERVE_STATS_S_MAX 86400

const char serve_options_help[] =
	"Usage: virtq serve blk --socket-path PATH|--fd FDNUM --image IMAGE [OPTION]...\n"
	"       virtq serve blk --disk KEY=VALUE,...|--config FILE [OPTION]...\n"
	"Serve disks as vhost-user block devices, in the foreground.\n"
	"\n"
	"One disk, or with --disk or --config what all of them have in common:\n"
	"  --socket-path PATH   make a listening socket here, and remove it at the end\n"
	"  --fd FDNUM           take this listening socket instead\n"
	"  --image IMAGE        a file or block device, null:SIZE, ram:SIZE, or\n"
	"                       nbd://HOST/EXPORT\n"
	"  --blk-file FILE      the same as --image\n"
	"  --read-only          refuse writes\n"
	"  --direct             bypass the page cache\n"
	"  --no-in-place        of a file on a tmpfs: let the kernel move what the thread\n"
	"                       of the queue would copy itself\n"
	"  --write-through      begin without a write cache\n"
	"  --queues N           request queues, 1 to 256 [1]\n"
	"  --queue-size N       most entries in a queue, 2 to 32768 [1024]\n"
	"  --serial TEXT        what a driver gets as the disk's id, up to 20 bytes\n"
	"  --layout WHICH       any, split (packed is not offered), or packed (a driver\n"
	"                       that does not accept it is refused) [any]\n"
	"  --coalesce COUNT,MICROSECONDS\n"
	"                       so many requests share a call, which waits so long\n"
	"  --size-max BYTES     longest piece of memory that a driver shall send\n"
	"  --reconnect MILLISECONDS\n"
	"                       how long requests wait for an NBD server that went\n"
	"                       away [5000]\n"
	"  --inject RULES       make requests fail on purpose; see virtq-serve(1)\n"
	"\n"
	"Several disks:\n"
	"  --disk KEY=VALUE,... a disk, and again for each: socket, image, ro, and any\n"
	"                       other of the above. Two commas stand for one in a value\n"
	"  --config FILE        disks from a file, and again for each: KEY=VALUE lines\n"
	"                       behind a [disk] each\n"
	"\n"
	"The process:\n"
	"  --engine WHICH       uring, sync, or auto: uring if the kernel has it [auto]\n"
	"  --threads N          threads that all queues are spread over, 1 to 64 [1];\n"
	"                       never more than there are queues\n"
	"  --spin HOW           what an idle thread does: off (sleep), always (look for\n"
	"                       requests), auto (look while that pays), or so many\n"
	"                       microseconds of auto at most [auto]\n"
	"  --use WHAT,...       of io_uring also: sqpoll, buffers\n"
	"  --forbid WHAT,...    of io_uring never: sqpoll, buffers, files, ring-fd,\n"
	"                       single-issuer, defer-taskrun, multishot\n"
	"  --stats SECONDS      say every so often what each queue has done\n"
	"  --print-capabilities print what this program can do, in JSON, and exit\n"
	"  --quiet              say nothing but errors\n"
	"  -h, --help           print this and exit\n"
	"\n"
	"Each disk serves its clients one after another. SIGINT, SIGTERM and SIGHUP end\n"
	"the server after the requests that it has begun. While it runs, 'virtq stats'\n"
	"and 'virtq resize' ask it.\n"
	"\n"
	"Examples:\n"
	"  virtq serve blk --socket-path /run/disk.sock --image disk.img --queues 2\n"
	"  virtq serve blk --socket-path /run/cd.sock --image cd.iso --read-only\n"
	"  virtq serve blk --threads 2 --disk socket=a.sock,image=a.img \\\n"
	"                  --disk socket=b.sock,image=b.img,ro\n"
	"\n"
	"Exit status: 0 stopped by signal, 1 failed, 2 the command line or a file of\n"
	"settings makes no sense.\n";

/* ---- Options. ---- */

enum {
	OPT_SETTING = OPTIONS_FIRST,	/* these are settings of a disk */
	OPT_SETTING_LAST = OPTIONS_FIRST + 31,
	OPT_DISK, OPT_CONFIG, OPT_ENGINE, OPT_THREADS, OPT_SPIN, OPT_USE, OPT_FORBID, OPT_STATS,
	OPT_CAPABILITIES, OPT_QUIET,
};

static const struct option serve_longs[] = {
	{ "socket-path", required_argument, NULL, OPT_SETTING },
	{ "fd", required_argument, NULL, OPT_SETTING + 1 },
	{ "image", required_argument, NULL, OPT_SETTING + 2 },
	{ "blk-file", required_argument, NULL, OPT_SETTING + 2 },
	{ "read-only", no_argument, NULL, OPT_SETTING + 3 },
	{ "queues", required_argument, NULL, OPT_SETTING + 4 },
	{ "queue-size", required_argument, NULL, OPT_SETTING + 5 },
	{ "serial", required_argument, NULL, OPT_SETTING + 6 },
	{ "direct", no_argument, NULL, OPT_SETTING + 7 },
	{ "layout", required_argument, NULL, OPT_SETTING + 8 },
	{ "write-through", no_argument, NULL, OPT_SETTING + 9 },
	{ "inject", required_argument, NULL, OPT_SETTING + 10 },
	{ "coalesce", required_argument, NULL, OPT_SETTING + 11 },
	{ "size-max", required_argument, NULL, OPT_SETTING + 12 },
	{ "reconnect", required_argument, NULL, OPT_SETTING + 13 },
	{ "no-in-place", no_argument, NULL, OPT_SETTING + 14 },
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "engine", required_argument, NULL, OPT_ENGINE },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "spin", required_argument, NULL, OPT_SPIN },
	{ "use", required_argument, NULL, OPT_USE },
	{ "forbid", required_argument, NULL, OPT_FORBID },
	{ "stats", required_argument, NULL, OPT_STATS },
	{ "print-capabilities", no_argument, NULL, OPT_CAPABILITIES },
	{ "quiet", no_argument, NULL, OPT_QUIET },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* The key and the label of each of the settings, by its number. */
static const struct {
	const char *key, *label;
} serve_setting[] = {
	{ "socket", "--socket-path" }, { "fd", "--fd" }, { "image", "--image" },
	{ "read-only", "--read-only" }, { "queues", "--queues" },
	{ "queue-size", "--queue-size" }, { "serial", "--serial" }, { "direct", "--direct" },
	{ "layout", "--layout" }, { "write-through", "--write-through" },
	{ "inject", "--inject" }, { "coalesce", "--coalesce" },
	{ "size-max", "--size-max" }, { "reconnect", "--reconnect" },
	{ "no-in-place", "--no-in-place" },
};

static bool serve_option_spin(struct virtq_engine_config *engine, const char *text)
{
	static const struct {
		const char *word;
		enum virtq_spin spin;
	} words[] = {
		{ "auto", VIRTQ_SPIN_AUTO }, { "off", VIRTQ_SPIN_OFF },
		{ "always", VIRTQ_SPIN_ALWAYS },
	};
	uint64_t us;
	unsigned int i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(text, words[i].word) == 0) {
			engine->spin = words[i].spin;
			engine->spin_us = 0;
			return true;
		}
	}
	if (text[0] < '0' || text[0] > '9') {
		report_usage("--spin is off, auto, always or a number of microseconds, and not '%s'",
			     text);
		return false;
	}
	if (!options_number("--spin", text, 0, 1000000, &us))
		return false;
	engine->spin = us ? VIRTQ_SPIN_AUTO : VIRTQ_SPIN_OFF;
	engine->spin_us = (uint32_t)us;
	return true;
}

/* Words with commas between them, as bits of enum virtq_engine_use. */
static bool serve_option_uses(const char *label, const char *text, uint32_t allowed,
			      uint32_t *uses)
{
	static const struct {
		const char *word;
		uint32_t use;
	} words[] = {
		{ "sqpoll", VIRTQ_USE_SQPOLL }, { "buffers", VIRTQ_USE_BUFFERS },
		{ "files", VIRTQ_USE_FILES }, { "ring-fd", VIRTQ_USE_RING_FD },
		{ "single-issuer", VIRTQ_USE_SINGLE_ISSUER },
		{ "defer-taskrun", VIRTQ_USE_DEFER_TASKRUN },
		{ "multishot", VIRTQ_USE_MULTISHOT },
	};
	const unsigned int count = sizeof(words) / sizeof(words[0]);
	unsigned int i;
	size_t len;

	for (;; text += len + 1) {
		len = strcspn(text, ",");
		for (i = 0; i < count; i++)
			if (words[i].use & allowed && strlen(words[i].word) == len &&
			    strncmp(text, words[i].word, len) == 0)
				break;
		if (i == count) {
			report_usage("%s knows no '%.*s'", label, (int)len, text);
			return false;
		}
		*uses |= words[i].use;
		if (!text[len])
			return true;
	}
}

static bool serve_option_text(struct serve_texts *texts, const char *text)
{
	const char **more = realloc(texts->text, (texts->count + 1) * sizeof(*more));

	if (!more) {
		report_failure("no memory for the settings of disks");
		return false;
	}
	texts->text = more;
	more[texts->count++] = text;
	return true;
}

/* Take one option's value; false if it was reported as bad. */
static bool serve_option(struct serve_options *o, int opt)
{
	static const char *const engines[] = { "auto", "uring", "sync", NULL };
	static const enum virtq_engine_kind kinds[] = {
		VIRTQ_ENGINE_AUTO, VIRTQ_ENGINE_URING, VIRTQ_ENGINE_SYNC,
	};
	uint64_t value = 0;
	int choice;
	bool good = true;

	if (opt >= OPT_SETTING && opt <= OPT_SETTING_LAST)
		return serve_settings_set(&o->base, serve_setting[opt - OPT_SETTING].label,
					  serve_setting[opt - OPT_SETTING].key, optarg);
	switch (opt) {
	case OPT_DISK:
		return serve_option_text(&o->words, optarg);
	case OPT_CONFIG:
		return serve_option_text(&o->configs, optarg);
	case OPT_ENGINE:
		choice = options_choice("--engine", optarg, engines);
		good = choice >= 0;
		o->engine.kind = kinds[good ? choice : 0];
		break;
	case OPT_THREADS:
		good = options_number("--threads", optarg, 1, SERVE_THREADS_MAX, &value);
		o->threads = (unsigned int)value;
		break;
	case OPT_SPIN:
		return serve_option_spin(&o->engine, optarg);
	case OPT_USE:
		return serve_option_uses("--use", optarg, VIRTQ_USE_SQPOLL | VIRTQ_USE_BUFFERS,
					 &o->engine.demand);
	case OPT_FORBID:
		return serve_option_uses("--forbid", optarg, UINT32_MAX, &o->engine.forbid);
	case OPT_STATS:
		good = options_number("--stats", optarg, 1, SERVE_STATS_S_MAX, &value);
		o->stats_s = (unsigned int)value;
		break;
	case OPT_QUIET:
		o->quiet = true;
		break;
	case 'h':
		o->help = true;
		break;
	}
	return good;
}

/* From what was given to the disks that there shall be. */
static int serve_list(struct serve_options *o)
{
	const char *own = serve_settings_own(&o->base);
	int status = REPORT_OK;
	unsigned int i;

	o->from_options = !o->configs.count && !o->words.count;
	if (o->from_options) {
		o->list.disks = malloc(sizeof(o->base));
		if (!o->list.disks)
			return report_failure("no memory for the settings of a disk");
		o->list.disks[0] = o->base;
		o->list.count = 1;
	} else if (own) {
		return report_usage("%s is for one disk, and belongs into its --disk or [disk]",
				    own);
	}
	for (i = 0; i < o->configs.count && status == REPORT_OK; i++)
		status = serve_list_load(&o->list, &o->base, o->configs.text[i]);
	for (i = 0; i < o->words.count && status == REPORT_OK; i++)
		if (!serve_list_add(&o->list, &o->base, o->words.text[i]))
			status = REPORT_USAGE;
	if (status == REPORT_OK && !serve_list_check(&o->list, o->from_options))
		status = REPORT_USAGE;
	return status;
}

int serve_options_parse(struct serve_options *o, int argc, char **argv)
{
	int opt;

	*o = (struct serve_options){ .threads = 1 };
	serve_settings_init(&o->base);
	while ((opt = options_next(argc, argv, serve_longs)) != OPTIONS_END) {
		if (opt == OPTIONS_BAD || !serve_option(o, opt))
			return REPORT_USAGE;
		if (o->help)
			return REPORT_OK;
	}
	if (!options_operands(argc, argv, 0, ""))
		return REPORT_USAGE;
	return serve_list(o);
}

void serve_options_free(struct serve_options *o)
{
	serve_list_free(&o->list);
	free(o->words.text);
	free(o->configs.text);
}
