/* SPDX-License-Identifier: MIT */
/*
 * bench/ring: nanoseconds that a buffer takes from the driver end to the device
 * end and back, and at each end alone, beside the floor (bare rings of pointers)
 * and, where they are at hand, other people's rings.
 *
 * Everything is measured in rounds, one sample of each thing a round, so that
 * what drifts on the machine hits all of them alike.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "path.h"
#include "peer.h"
#include "samples.h"
#include "subject.h"

static const char help[] =
"usage: ring [options]\n"
"\n"
"Measures nanoseconds per buffer: the driver end adds and publishes, the device\n"
"end pops, pushes and publishes, the driver end gets. Beside it, in the same\n"
"rounds, the same with two bare rings of pointers (the floor).\n"
"\n"
"  --rounds N, --pairs N  samples of each thing, interleaved (11)\n"
"  --buffers N            buffers per sample (600,000 on one thread, 100,000 on two)\n"
"  --quick                a run of a few seconds: 5 rounds of fewer buffers\n"
"  --size N               ring entries (256)\n"
"  --depth N              most buffers in flight (64); 'ends' fills the ring\n"
"  --cpus A,B             processors: driver end, device end (0,1)\n"
"  --mode one|ends|two    only this: both ends on one thread in turn; each end timed\n"
"                         alone on one thread; an end on each of two processors\n"
"  --batch N[,N...]       batches (1,8,32); each must divide the depth\n"
"  --layout NAME          only this: split, packed, split-in-order, packed-in-order\n"
"  --chain 1|3|3i         only this chain: one element of 64 writable bytes, three\n"
"                         as a disk read has them, or three in an indirect table\n"
"  --once                 one run of what is selected, no floor; for profilers\n"
"  --reference PROGRAM    in mode one, also run PROGRAM --batch B --buffers N --cpu C,\n"
"                         which prints 'ns_per_buffer X'\n"
"  --reference-two PROGRAM     in mode two: PROGRAM --batch B --buffers N --cpus A,B\n"
"  --reference-device PROGRAM  in mode ends, beside the device end alone:\n"
"                         PROGRAM --batch B --buffers N --cpu C --chain 1|3|3i\n"
"                         Each may be given twice, for a second reference\n"
"  --plant lost|twice|changed  let one buffer go wrong: the run must fail\n"
"  --tsv FILE             one line per thing measured\n"
"  --json FILE            the same with every sample\n"
"  --help\n"
"\n"
"Ratios are medians of the ratios within a round. 'line' is the time a cache line\n"
"takes from one processor to the other and back. One thread is timed by its\n"
"processor time, each end alone by medians; with two threads, a sample during\n"
"which something else ran is taken again, at most ten times.\n"
"\n"
"Exits with 1 if a buffer was lost, came twice or came back changed, with 2 if\n"
"the command line is wrong.\n"
"\n"
"examples:\n"
"  ring --quick\n"
"  ring --mode ends --batch 32 --chain 1\n"
"  valgrind --tool=callgrind ring --once --mode one --batch 32 --chain 1 \\\n"
"           --layout split --buffers 100000\n";

static const struct path_shape shapes[] = {
	{ "1", 0, 1, { 64 }, 0 },
	{ "3", 1, 2, { 16, 4096, 1 }, 0 },
	{ "3i", 1, 2, { 16, 4096, 1 }, 1 },
};

static const char *const kind_names[PATH_KINDS] = {
	"floor", "split", "packed", "split-in-order", "packed-in-order",
};

/* The references that stand beside ours in each mode. */
static const enum peer_kind peer_kinds[MODES] = { PEER_ONE, PEER_DEVICE, PEER_TWO };

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))
#define BATCHES_MAX 8
#define SUBJECTS_MAX (PATH_KINDS + PEERS_MAX + 1)
#define LINE_TRIPS 20000u
#define TRIES 10		/* at a sample, while something else runs on a processor */

struct options {
	unsigned int rounds, size, depth, batches;
	unsigned int batch[BATCHES_MAX];
	uint64_t buffers;
	bool quick, once;
	enum path_plant plant;
	int cpus[2];
	cpu_set_t everywhere;	/* where this program may run */
	const char *mode, *layout, *chain, *tsv, *json;
	const char *peers[PEER_KINDS][PEERS_MAX];
	unsigned int peer_count[PEER_KINDS];
};

/* ---- Options ------------------------------------------------------------ */

static void parse_cpus(struct options *o, const char *text)
{
	char rest;

	if (sscanf(text, "%d,%d%c", &o->cpus[0], &o->cpus[1], &rest) != 2 || o->cpus[0] < 0 ||
	    o->cpus[1] < 0 || o->cpus[0] >= CPU_SETSIZE || o->cpus[1] >= CPU_SETSIZE)
		die(2, "--cpus takes two processor numbers, such as 0,1, not '%s'", text);
}

static void add_peer(struct options *o, enum peer_kind kind, const char *program)
{
	if (o->peer_count[kind] == PEERS_MAX)
		die(2, "at most %d references of a kind", PEERS_MAX);
	o->peers[kind][o->peer_count[kind]++] = program;
}

static enum path_plant parse_plant(const char *text)
{
	static const char *const words[] = { "lost", "twice", "changed", NULL };

	args_word("plant", text, words);
	return *text == 'l' ? PATH_PLANT_LOST :
	       *text == 't' ? PATH_PLANT_TWICE : PATH_PLANT_CHANGED;
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
		{ "reference", 1, NULL, 'R' }, { "reference-two", 1, NULL, 'T' },
		{ "reference-device", 1, NULL, 'D' }, { "plant", 1, NULL, 'p' },
		{ "tsv", 1, NULL, 't' },
		{ "json", 1, NULL, 'j' }, { "help", 0, NULL, 'h' }, { 0 },
	};
	static const char *const modes[] = { "one", "ends", "two", NULL };
	static const char *const layouts[] = { "split", "packed", "split-in-order",
					       "packed-in-order", NULL };
	static const char *const chains[] = { "1", "3", "3i", NULL };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 'r':
			o->rounds = (unsigned int)args_number("rounds", optarg, 1, SAMPLES_MAX);
			break;
		case 'n': o->buffers = args_number("buffers", optarg, 1, UINT64_MAX / 1024); break;
		case 'q': o->quick = true; break;
		case 's': o->size = (unsigned int)args_number("size", optarg, 4, 32768); break;
		case 'd': o->depth = (unsigned int)args_number("depth", optarg, 1, 1024); break;
		case 'c': parse_cpus(o, optarg); break;
		case 'm': o->mode = optarg; args_word("mode", optarg, modes); break;
		case 'b':
			o->batches = args_numbers("batch", optarg, o->batch, BATCHES_MAX,
						  PATH_BATCH_MAX);
			break;
		case 'l': o->layout = optarg; args_word("layout", optarg, layouts); break;
		case 'C': o->chain = optarg; args_word("chain", optarg, chains); break;
		case 'o': o->once = true; break;
		case 'R': add_peer(o, PEER_ONE, optarg); break;
		case 'T': add_peer(o, PEER_TWO, optarg); break;
		case 'D': add_peer(o, PEER_DEVICE, optarg); break;
		case 'p': o->plant = parse_plant(optarg); break;
		case 't': o->tsv = optarg; break;
		case 'j': o->json = optarg; break;
		case 'h': fputs(help, stdout); exit(0);
		default: fputs("Try 'ring --help'.\n", stderr); exit(2);
		}
	}
	args_end(argc, argv);
	args_divide(o->depth, "buffers in flight", o->batch, o->batches);
	if (!o->rounds)
		o->rounds = o->once ? 1 : o->quick ? 5 : 11;
}

/* ---- Measuring ---------------------------------------------------------- */

/* One sample; nanoseconds, or -1 and a sentence in @why. */
static double run_once(const struct subject *s, const struct group *g, const struct options *o,
		       uint64_t buffers, struct path_parts *parts, struct path_counts *counts,
		       char why[PEER_TEXT_BYTES])
{
	if (s->program) {
		/* It would inherit the processor that the last run was bound to. */
		sched_setaffinity(0, sizeof(o->everywhere), &o->everywhere);
		return peer_run(s->program, peer_kinds[g->mode], g->batch, buffers, o->cpus,
				g->chain, why);
	}
	if (!s->path)
		return path_line_ns(o->cpus, LINE_TRIPS, why);
	if (g->mode == MODE_TWO)
		return path_run_two(s->path, g->batch, buffers, o->cpus, counts, why);
	if (g->mode == MODE_ENDS)
		return path_run_ends(s->path, g->batch, buffers, o->cpus[0], parts, counts, why);
	return path_run_one(s->path, g->batch, buffers, o->cpus[0], counts, why);
}

static void measure(struct subject *s, const struct group *g, const struct options *o,
		    uint64_t buffers, bool keep)
{
	struct path_counts counts = { 0 };
	struct path_parts parts = { 0 };
	char why[PEER_TEXT_BYTES];
	double ns;

	for (unsigned int i = 0; i < TRIES; i++) {
		counts.disturbed = 0;
		ns = run_once(s, g, o, buffers, &parts, &counts, why);
		if (ns < 0 || !counts.disturbed)
			break;
	}
	if (ns < 0)
		die(1, "%s, chains of %s, mode %s, batch %u: %s", s->what, g->chain,
		    mode_name(g->mode), g->batch, why);
	if (!keep)
		return;
	if (g->mode == MODE_ENDS && s->path) {
		samples_add(&s->ns[PART_DRIVER], parts.add_ns + parts.get_ns);
		samples_add(&s->ns[PART_DEVICE], parts.device_ns);
		samples_add(&s->ns[PART_ADD], parts.add_ns);
		samples_add(&s->ns[PART_GET], parts.get_ns);
	} else {
		samples_add(&s->ns[g->mode == MODE_ENDS ? PART_DEVICE : PART_ALL], ns);
	}
	s->counts.kicks += counts.kicks;
	s->counts.calls += counts.calls;
	s->counts.disturbed += counts.disturbed;
	s->buffers += buffers;
}

static struct subject *add_subject(struct group *g, const char *what)
{
	struct subject *s = &g->subjects[g->count++];

	memset(s, 0, sizeof(*s));
	s->what = what;
	return s;
}

static struct subject *add_path(struct group *g, const struct options *o, enum path_kind kind,
				const struct path_shape *shape)
{
	struct subject *s = add_subject(g, kind_names[kind]);
	char why[PATH_TEXT_BYTES];

	s->path = path_open(kind, shape, o->size, o->depth, why);
	if (!s->path)
		die(1, "%s", why);
	return s;
}

/* What is measured in the same rounds: the floor, the references, each layout. */
static void open_group(struct group *g, const struct options *o, const struct path_shape *shape)
{
	static const char *const peer_names[PEERS_MAX] = { "reference", "reference2" };
	enum peer_kind peers = peer_kinds[g->mode];

	if (!o->once && g->mode == MODE_TWO)
		add_subject(g, "line");
	if (!o->once)
		g->floor = add_path(g, o, PATH_FLOOR, shape);
	for (unsigned int k = 0; !o->once && k < o->peer_count[peers]; k++) {
		struct subject *s = add_subject(g, peer_names[k]);

		s->program = o->peers[peers][k];
		g->peers[k] = s;
	}
	for (unsigned int kind = PATH_SPLIT; kind < PATH_KINDS; kind++)
		if (!o->layout || !strcmp(o->layout, kind_names[kind]))
			path_plant(add_path(g, o, kind, shape)->path, o->plant);
}

static void run_group(enum mode mode, unsigned int batch, const struct path_shape *shape,
		      const struct options *o, struct output *out)
{
	static struct subject subjects[SUBJECTS_MAX];
	struct group g = { .mode = mode, .batch = batch, .chain = shape->name,
			   .subjects = subjects };
	uint64_t buffers = o->buffers ? o->buffers : mode == MODE_TWO ? 100000 : 600000;

	if (o->quick && !o->buffers)
		buffers /= 8;
	open_group(&g, o, shape);
	/* Warm caches and predictors; what is profiled goes without. */
	for (unsigned int i = 0; i < g.count && !o->once; i++)
		measure(&subjects[i], &g, o, buffers / 10 + 1, false);
	/* There and back again: A B C, C B A, so that none is always after the same. */
	for (unsigned int r = 0; r < o->rounds; r++)
		for (unsigned int i = 0; i < g.count; i++)
			measure(&subjects[r % 2 ? g.count - 1 - i : i], &g, o, buffers, true);
	tell_group(&g, out);
	for (unsigned int i = 0; i < g.count; i++)
		path_close(subjects[i].path);
}

static void run_mode(enum mode mode, const struct options *o, struct output *out)
{
	for (unsigned int i = 0; i < SHAPES; i++) {
		unsigned int elements = shapes[i].readable + shapes[i].writable;

		if (o->chain && strcmp(o->chain, shapes[i].name))
			continue;
		if (!shapes[i].indirect && o->depth * elements > o->size)
			die(2, "%u chains of %u elements do not fit in %u entries; lower --depth",
			    o->depth, elements, o->size);
		for (unsigned int b = 0; b < o->batches; b++)
			run_group(mode, o->batch[b], &shapes[i], o, out);
	}
}

static bool have_two_cpus(const struct options *o)
{
	return o->cpus[0] != o->cpus[1] && CPU_ISSET((size_t)o->cpus[0], &o->everywhere) &&
	       CPU_ISSET((size_t)o->cpus[1], &o->everywhere);
}

int main(int argc, char **argv)
{
	struct options o = { .size = 256, .depth = 64, .batches = 3, .batch = { 1, 8, 32 },
			     .cpus = { 0, 1 } };
	struct output out = { 0 };
	bool wanted[MODES];

	parse(&o, argc, argv);
	CPU_ZERO(&o.everywhere);
	if (sched_getaffinity(0, sizeof(o.everywhere), &o.everywhere))
		die(1, "cannot tell the processors: %s", strerror(errno));
	for (unsigned int mode = 0; mode < MODES; mode++)
		wanted[mode] = !o.mode || !strcmp(o.mode, mode_name(mode));
	for (unsigned int kind = 0; kind < PEER_KINDS; kind++)
		if (o.peer_count[kind] > out.peers)
			out.peers = o.peer_count[kind];
	if (wanted[MODE_TWO] && !have_two_cpus(&o)) {
		if (o.mode)
			die(1, "two threads need two processors, %d and %d are not both here",
			    o.cpus[0], o.cpus[1]);
		printf("# no runs with two threads: processors %d and %d are not both here\n",
		       o.cpus[0], o.cpus[1]);
		wanted[MODE_TWO] = false;
	}
	out.tsv = args_create(o.tsv);
	out.json = args_create(o.json);

	printf("# ring of %u entries, EVENT_IDX, depth %u, processors %d and %d, %u rounds; "
	       "ns per buffer\n", o.size, o.depth, o.cpus[0], o.cpus[1], o.rounds);
	tell_head(&out);
	if (out.json)
		fprintf(out.json, "{\"size\": %u, \"depth\": %u, \"rounds\": %u, \"rows\": [", o.size,
			o.depth, o.rounds);
	for (unsigned int mode = 0; mode < MODES; mode++)
		if (wanted[mode])
			run_mode(mode, &o, &out);
	if (out.disturbed)
		printf("# something else ran on a processor during %u samples with two threads\n",
		       out.disturbed);
	if (out.json)
		fputs("\n]}\n", out.json);
	args_finish(out.tsv, o.tsv);
	args_finish(out.json, o.json);
	return 0;
}
