/* SPDX-License-Identifier: MIT */
/*
 * bench/ring: nanoseconds that a buffer takes from the driver end to the device
 * end and back, beside the floor (bare rings of pointers) and, if there is one
 * at hand, a reference program.
 *
 * Everything is measured in rounds, one sample of each thing a round, so that
 * what drifts on the machine hits all of them alike.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"
#include "samples.h"

static const char help[] =
"usage: ring [options]\n"
"\n"
"Measures nanoseconds per buffer: the driver end adds and publishes, the device\n"
"end pops, pushes and publishes, the driver end gets. Beside it, in the same\n"
"rounds, the same with two bare rings of pointers (the floor).\n"
"\n"
"  --rounds N, --pairs N  samples of each thing, interleaved (11)\n"
"  --buffers N            buffers per sample (2,000,000 on one thread, 400,000 on two)\n"
"  --quick                a run of a few seconds: 5 rounds of fewer buffers\n"
"  --size N               ring entries (256)\n"
"  --depth N              most buffers in flight with two threads (64)\n"
"  --cpus A,B             processors: driver end, device end (0,1)\n"
"  --mode one|two         only one thread, or only two\n"
"  --batch N[,N...]       batches (1,8,32); each must divide the depth\n"
"  --layout split|packed  only this layout\n"
"  --chain 1|3|3i         only this chain: one element of 64 writable bytes, three\n"
"                         as a disk read has them, or three in an indirect table\n"
"  --once                 one run of what is selected, no floor; for profilers\n"
"  --reference PROGRAM    also run PROGRAM --batch B --buffers N --cpu C, which\n"
"                         prints 'ns_per_buffer X', beside the runs on one thread\n"
"  --tsv FILE             one line per thing measured\n"
"  --json FILE            the same with every sample\n"
"  --help\n"
"\n"
"Ratios are medians of the ratios within a round. Exits with 1 if a buffer was\n"
"lost, came twice or came back changed, with 2 if the command line is wrong.\n"
"\n"
"examples:\n"
"  ring --quick\n"
"  ring --mode one --batch 32 --chain 1\n"
"  valgrind --tool=callgrind ring --once --mode one --batch 32 --chain 1 \\\n"
"           --layout split --buffers 100000\n";

static const struct path_shape shapes[] = {
	{ "1", 0, 1, { 64 }, 0 },
	{ "3", 1, 2, { 16, 4096, 1 }, 0 },
	{ "3i", 1, 2, { 16, 4096, 1 }, 1 },
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))
#define BATCHES_MAX 8
#define SUBJECTS_MAX (2 + 2 * SHAPES)

struct options {
	unsigned int rounds, size, depth, batches;
	unsigned int batch[BATCHES_MAX];
	uint64_t buffers;
	bool quick, once;
	int cpus[2];
	const char *mode, *layout, *chain, *reference, *tsv, *json;
};

/* One thing measured in one mode with one batch: a row of the table. */
struct subject {
	const char *what;		/* "floor", "reference", "split", "packed" */
	const char *chain;		/* "" where that means nothing */
	struct path *path;		/* NULL: the reference program */
	struct path_counts counts;	/* over all rounds */
	uint64_t buffers;
	struct samples ns;
};

struct output {
	FILE *tsv, *json;
	bool some;
};

/* ---- Options ------------------------------------------------------------ */

__attribute__((noreturn, format(printf, 2, 3)))
static void die(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("ring: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(status);
}

static uint64_t number(const char *option, const char *text, uint64_t min, uint64_t max)
{
	char *rest;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &rest, 10);
	if (errno || rest == text || *rest || *text == '-' || v < min || v > max)
		die(2, "--%s takes a number from %llu to %llu, not '%s'", option,
		    (unsigned long long)min, (unsigned long long)max, text);
	return v;
}

static void parse_batches(struct options *o, char *list)
{
	o->batches = 0;
	for (char *item = strtok(list, ","); item; item = strtok(NULL, ",")) {
		if (o->batches == BATCHES_MAX)
			die(2, "--batch takes at most %d batches", BATCHES_MAX);
		o->batch[o->batches++] = (unsigned int)number("batch", item, 1, PATH_BATCH_MAX);
	}
	if (!o->batches)
		die(2, "--batch takes at least one batch");
}

static void parse_cpus(struct options *o, const char *text)
{
	char rest;

	if (sscanf(text, "%d,%d%c", &o->cpus[0], &o->cpus[1], &rest) != 2 || o->cpus[0] < 0 ||
	    o->cpus[1] < 0 || o->cpus[0] >= CPU_SETSIZE || o->cpus[1] >= CPU_SETSIZE)
		die(2, "--cpus takes two processor numbers, such as 0,1, not '%s'", text);
}

static void check_word(const char *option, const char *text, const char *const *words)
{
	for (unsigned int i = 0; words[i]; i++)
		if (!strcmp(text, words[i]))
			return;
	die(2, "--%s does not know '%s'", option, text);
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option known[] = {
		{ "rounds", 1, NULL, 'r' }, { "pairs", 1, NULL, 'r' },
		{ "buffers", 1, NULL, 'n' }, { "quick", 0, NULL, 'q' },
		{ "size", 1, NULL, 's' }, { "depth", 1, NULL, 'd' },
		{ "cpus", 1, NULL, 'c' }, { "mode", 1, NULL, 'm' },
		{ "batch", 1, NULL, 'b' }, { "layout", 1, NULL, 'l' },
		{ "chain", 1, NULL, 'C' }, { "once", 0, NULL, 'o' },
		{ "reference", 1, NULL, 'R' }, { "tsv", 1, NULL, 't' },
		{ "json", 1, NULL, 'j' }, { "help", 0, NULL, 'h' }, { 0 },
	};
	static const char *const modes[] = { "one", "two", NULL };
	static const char *const layouts[] = { "split", "packed", NULL };
	static const char *const chains[] = { "1", "3", "3i", NULL };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 'r': o->rounds = (unsigned int)number("rounds", optarg, 1, SAMPLES_MAX); break;
		case 'n': o->buffers = number("buffers", optarg, 1, UINT64_MAX / 1024); break;
		case 'q': o->quick = true; break;
		case 's': o->size = (unsigned int)number("size", optarg, 4, 32768); break;
		case 'd': o->depth = (unsigned int)number("depth", optarg, 1, 1024); break;
		case 'c': parse_cpus(o, optarg); break;
		case 'm': o->mode = optarg; check_word("mode", optarg, modes); break;
		case 'b': parse_batches(o, optarg); break;
		case 'l': o->layout = optarg; check_word("layout", optarg, layouts); break;
		case 'C': o->chain = optarg; check_word("chain", optarg, chains); break;
		case 'o': o->once = true; break;
		case 'R': o->reference = optarg; break;
		case 't': o->tsv = optarg; break;
		case 'j': o->json = optarg; break;
		case 'h': fputs(help, stdout); exit(0);
		default: fputs("Try 'ring --help'.\n", stderr); exit(2);
		}
	}
	if (optind < argc)
		die(2, "'%s' is not an option", argv[optind]);
	for (unsigned int i = 0; i < o->batches; i++)
		if (o->depth % o->batch[i])
			die(2, "a depth of %u is no multiple of the batch %u", o->depth,
			    o->batch[i]);
	if (!o->rounds)
		o->rounds = o->once ? 1 : o->quick ? 5 : 11;
}

/* ---- Measuring ---------------------------------------------------------- */

/* Run the reference program once. */
static double run_reference(const struct options *o, unsigned int batch, uint64_t buffers)
{
	char command[4096];
	double ns = -1;
	FILE *pipe;

	if (strchr(o->reference, '\''))
		die(2, "the reference program's path has a quote in it");
	snprintf(command, sizeof(command), "'%s' --batch %u --buffers %llu --cpu %d", o->reference,
		 batch, (unsigned long long)buffers, o->cpus[0]);
	fflush(NULL);
	pipe = popen(command, "r");
	if (!pipe)
		die(1, "cannot start %s: %s", o->reference, strerror(errno));
	if (fscanf(pipe, " ns_per_buffer %lf", &ns) != 1)
		ns = -1;
	if (pclose(pipe) || ns <= 0)
		die(1, "%s: did not succeed and print 'ns_per_buffer X'", command);
	return ns;
}

static void measure(struct subject *s, const struct options *o, bool two, unsigned int batch,
		    uint64_t buffers, bool keep)
{
	struct path_counts counts = { 0 };
	char why[PATH_TEXT_BYTES];
	double ns;

	if (!s->path)
		ns = run_reference(o, batch, buffers);
	else if (two)
		ns = path_run_two(s->path, batch, buffers, o->cpus, &counts, why);
	else
		ns = path_run_one(s->path, batch, buffers, o->cpus[0], &counts, why);
	if (ns < 0)
		die(1, "%s, chains of %s, %s, batch %u: %s", s->what, *s->chain ? s->chain : "1",
		    two ? "two threads" : "one thread", batch, why);
	if (!keep)
		return;
	samples_add(&s->ns, ns);
	s->counts.kicks += counts.kicks;
	s->counts.calls += counts.calls;
	s->buffers += buffers;
}

static struct subject *open_subject(struct subject *s, const struct options *o,
				    enum path_kind kind, const struct path_shape *shape)
{
	static const char *const names[] = { "floor", "split", "packed" };
	char why[PATH_TEXT_BYTES];

	memset(s, 0, sizeof(*s));
	s->what = names[kind];
	s->chain = kind == PATH_FLOOR ? "" : shape->name;
	s->path = path_open(kind, shape, o->size, o->depth, why);
	if (!s->path)
		die(1, "%s", why);
	return s;
}

/* The things to measure in one mode; the floor is the first, the reference the second. */
static unsigned int open_subjects(struct subject *s, const struct options *o, bool two)
{
	unsigned int n = 0;

	if (!o->once)
		open_subject(&s[n++], o, PATH_FLOOR, &shapes[0]);
	if (!o->once && o->reference && !two) {
		memset(&s[n], 0, sizeof(s[n]));
		s[n].chain = "";
		s[n++].what = "reference";
	}
	for (unsigned int i = 0; i < SHAPES; i++) {
		unsigned int elements = shapes[i].readable + shapes[i].writable;

		if (o->chain && strcmp(o->chain, shapes[i].name))
			continue;
		if (!shapes[i].indirect && o->depth * elements > o->size)
			die(2, "%u chains of %u elements do not fit in %u entries; lower --depth",
			    o->depth, elements, o->size);
		if (!o->layout || !strcmp(o->layout, "split"))
			open_subject(&s[n++], o, PATH_SPLIT, &shapes[i]);
		if (!o->layout || !strcmp(o->layout, "packed"))
			open_subject(&s[n++], o, PATH_PACKED, &shapes[i]);
	}
	return n;
}

/* ---- Telling ------------------------------------------------------------ */

static void tell(const struct subject *s, const struct subject *floor,
		 const struct subject *reference, const char *mode, unsigned int batch,
		 struct output *out)
{
	struct summary sum = samples_summary(&s->ns);
	double to_floor = floor ? samples_ratio(&s->ns, &floor->ns) : 0;
	double to_reference = reference ? samples_ratio(&s->ns, &reference->ns) : 0;
	char range[64], ratio[2][16] = { "", "" };

	snprintf(range, sizeof(range), "%.1f..%.1f", sum.min, sum.max);
	if (to_floor > 0)
		snprintf(ratio[0], sizeof(ratio[0]), "%.2f", to_floor);
	if (to_reference > 0)
		snprintf(ratio[1], sizeof(ratio[1]), "%.2f", to_reference);
	printf("%-5s %5u  %-10s %-5s %9.2f  %-16s %8s %11s\n", mode, batch, s->what, s->chain,
	       sum.median, range, ratio[0], ratio[1]);
	if (out->tsv)
		fprintf(out->tsv, "%s\t%u\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%llu\t%llu\t%llu\n",
			mode, batch, s->what, *s->chain ? s->chain : "-", sum.median, sum.min,
			sum.max, to_floor, to_reference, (unsigned long long)s->buffers,
			(unsigned long long)s->counts.kicks, (unsigned long long)s->counts.calls);
	if (!out->json)
		return;
	fprintf(out->json, "%s\n  {\"mode\": \"%s\", \"batch\": %u, \"what\": \"%s\", \"chain\": \"%s\", "
		"\"median_ns\": %.3f, \"min_ns\": %.3f, \"max_ns\": %.3f, \"to_floor\": %.3f, "
		"\"to_reference\": %.3f, \"buffers\": %llu, \"kicks_wanted\": %llu, "
		"\"calls_wanted\": %llu, \"samples_ns\": [", out->some ? "," : "", mode, batch,
		s->what, s->chain, sum.median, sum.min, sum.max, to_floor, to_reference,
		(unsigned long long)s->buffers, (unsigned long long)s->counts.kicks,
		(unsigned long long)s->counts.calls);
	for (unsigned int i = 0; i < s->ns.count; i++)
		fprintf(out->json, "%s%.3f", i ? ", " : "", s->ns.value[i]);
	fputs("]}", out->json);
	out->some = true;
}

static void run_mode(const struct options *o, bool two, struct output *out)
{
	static struct subject subjects[SUBJECTS_MAX];
	const char *mode = two ? "two" : "one";
	uint64_t buffers = o->buffers ? o->buffers : two ? 400000 : 2000000;
	unsigned int n = open_subjects(subjects, o, two);
	const struct subject *floor = NULL, *reference = NULL;

	if (o->quick && !o->buffers)
		buffers /= 8;
	for (unsigned int i = 0; i < n; i++) {
		if (!strcmp(subjects[i].what, "floor"))
			floor = &subjects[i];
		if (!subjects[i].path)
			reference = &subjects[i];
	}
	for (unsigned int b = 0; b < o->batches; b++) {
		for (unsigned int i = 0; i < n; i++) {
			subjects[i].ns.count = 0;
			subjects[i].buffers = 0;
			subjects[i].counts = (struct path_counts){ 0 };
			/* Warm caches and predictors; what is profiled goes without. */
			if (!o->once && subjects[i].path)
				measure(&subjects[i], o, two, o->batch[b], buffers / 10 + 1, false);
		}
		/* There and back again: A B C, C B A, so that none is always after the same. */
		for (unsigned int r = 0; r < o->rounds; r++)
			for (unsigned int i = 0; i < n; i++)
				measure(&subjects[r % 2 ? n - 1 - i : i], o, two, o->batch[b],
					buffers, true);
		for (unsigned int i = 0; i < n; i++)
			tell(&subjects[i], floor, reference, mode, o->batch[b], out);
		fflush(stdout);
	}
	for (unsigned int i = 0; i < n; i++)
		path_close(subjects[i].path);
}

static FILE *create(const char *path)
{
	FILE *file = path ? fopen(path, "w") : NULL;

	if (path && !file)
		die(1, "cannot write %s: %s", path, strerror(errno));
	return file;
}

static void finish(FILE *file, const char *path)
{
	if (file && (ferror(file) | fclose(file)))
		die(1, "cannot write %s", path);
}

int main(int argc, char **argv)
{
	struct options o = { .size = 256, .depth = 64, .batches = 3, .batch = { 1, 8, 32 },
			     .cpus = { 0, 1 } };
	struct output out = { 0 };
	bool one, two;
	cpu_set_t set;

	parse(&o, argc, argv);
	one = !o.mode || !strcmp(o.mode, "one");
	two = !o.mode || !strcmp(o.mode, "two");
	out.tsv = create(o.tsv);
	out.json = create(o.json);
	CPU_ZERO(&set);
	if (two && (sched_getaffinity(0, sizeof(set), &set) ||
		    !CPU_ISSET((size_t)o.cpus[0], &set) || !CPU_ISSET((size_t)o.cpus[1], &set) ||
		    o.cpus[0] == o.cpus[1])) {
		if (!one)
			die(1, "two threads need two processors, %d and %d are not both here",
			    o.cpus[0], o.cpus[1]);
		printf("# no runs with two threads: processors %d and %d are not both here\n",
		       o.cpus[0], o.cpus[1]);
		two = false;
	}

	printf("# ring of %u entries, EVENT_IDX, depth %u, processors %d and %d, %u rounds; "
	       "ns per buffer\n", o.size, o.depth, o.cpus[0], o.cpus[1], o.rounds);
	printf("%-5s %5s  %-10s %-5s %9s  %-16s %8s %11s\n", "mode", "batch", "what", "chain",
	       "median", "min..max", "x floor", "x reference");
	if (out.tsv)
		fputs("mode\tbatch\twhat\tchain\tmedian_ns\tmin_ns\tmax_ns\tto_floor\t"
		      "to_reference\tbuffers\tkicks_wanted\tcalls_wanted\n", out.tsv);
	if (out.json)
		fprintf(out.json, "{\"size\": %u, \"depth\": %u, \"rounds\": %u, \"rows\": [", o.size,
			o.depth, o.rounds);
	if (one)
		run_mode(&o, false, &out);
	if (two)
		run_mode(&o, true, &out);
	if (out.json)
		fputs("\n]}\n", out.json);
	finish(out.tsv, o.tsv);
	finish(out.json, o.json);
	return 0;
}
