/* SPDX-License-Identifier: MIT */
/*
 * bench/driver: nanoseconds that a buffer costs at the driver end, through a pool
 * and through transfers, beside the bare ring.
 *
 * Ways that are compared run in rounds, one sample of each a round, so that what
 * drifts on the machine hits all of them alike.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocations.h"
#include "args.h"
#include "samples.h"
#include "way.h"

static const char help[] =
"usage: driver [options]\n"
"\n"
"Measures nanoseconds per buffer at the driver end, on one thread, in laps: it sends\n"
"all buffers of the ring, a batch at a time; a device end, the same in every way, takes\n"
"and returns them; the driver end takes them back, and gives them up. The ways:\n"
"\n"
"  bare           virtq_driver_add, publish; get\n"
"  bare-kept      again, publish; get: descriptors stay where they are (split only)\n"
"  pool-rebuild   offer_writable; take; free         (-locked: for several threads)\n"
"  pool-recycle   recycle; take                      (-locked: for several threads)\n"
"  pool-alloc     alloc each, recycle; take; free    for the device to read\n"
"  pool-resize    resize each, recycle; take         for the device to read\n"
"  pool-copy      offer, a header of 12 bytes and the payload copied; take; free\n"
"  memcpy         these copies alone\n"
"  send-again     send; poll: prepared once          (-map: through a map)\n"
"  send-new       prepare each, send; poll; finish   (-map: through a map)\n"
"\n"
"  --rounds N       samples of each way, interleaved (11)\n"
"  --laps N         laps per sample (400; fewer where much is copied)\n"
"  --quick          a run of a few seconds: 5 rounds of 50 laps\n"
"  --count N        ring entries, and buffers in flight (256)\n"
"  --batch N[,N...] batches (1,8,32); each must divide the count\n"
"  --layout NAME    only this: split, packed, split-in-order, packed-in-order\n"
"  --shape NAME     only this: 64, 1500, 64k (one element each), 16x4k (16 elements\n"
"                   of 4 KiB in an indirect table)\n"
"  --way NAME       only this, and what it is compared with\n"
"  --once           one run of what is selected and nothing else; for profilers\n"
"  --cpu N          processor (0)\n"
"  --plant          lose one buffer: the run must fail\n"
"  --tsv FILE       one line per thing measured\n"
"  --help\n"
"\n"
"Times are medians over the laps and then over the rounds. 'over bare' is the median\n"
"of the differences within a round, all without the device end's time.\n"
"\n"
"Exits with 1 if a buffer was lost or came back changed, or if memory was allocated\n"
"while it went round; with 2 if the command line is wrong. A target that is missed is\n"
"told and no failure.\n"
"\n"
"examples:\n"
"  driver --quick\n"
"  driver --layout split --shape 64 --batch 32\n"
"  valgrind --tool=callgrind driver --once --layout split --shape 64 --batch 32 \\\n"
"           --way pool-recycle\n";

static const struct way_shape shapes[] = {
	{ "64", 64, 1 }, { "1500", 1500, 1 }, { "64k", 65536, 1 }, { "16x4k", 65536, 16 },
};

static const char *const shape_names[] = { "64", "1500", "64k", "16x4k", NULL };

static const char *const layout_names[] = {
	"split", "packed", "split-in-order", "packed-in-order", NULL,
};

static const char *const way_names[] = {
	"bare", "bare-kept", "pool-rebuild", "pool-recycle", "pool-rebuild-locked",
	"pool-recycle-locked", "pool-alloc", "pool-resize", "pool-copy", "memcpy", "send-again",
	"send-again-map", "send-new", "send-new-map", NULL,
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))
#define BATCHES_MAX 8
#define COPIED_MAX (256u << 20)	/* bytes a sample, where bytes are copied */

/* The targets, at TARGET_BATCH and beyond. */
#define TARGET_BATCH	32
#define TARGET_RECYCLE	1.5	/* times as fast as free and rebuild */
#define TARGET_POOL	5.0	/* ns a buffer over the bare ring */
#define TARGET_TRANSFER	15.0

struct options {
	unsigned int rounds, laps, count, batches;
	unsigned int batch[BATCHES_MAX];
	bool quick, once, plant;
	int cpu;
	const char *layout, *shape, *way, *tsv;
};

/* What is told of a way. */
enum figure {
	FIGURE_OUT, FIGURE_BACK, FIGURE_AFTER,
	FIGURE_DRIVER,	/* the three together */
	FIGURE_RENEW,	/* what differs between recycling and rebuilding: out and after */
	FIGURE_ALL,	/* with the device end */
	FIGURES
};

static const char *const figure_names[FIGURES] = {
	"out", "back", "after", "driver", "renew", "all",
};

struct subject {
	struct way *way;		/* NULL: not measured */
	long allocations;
	struct samples ns[FIGURES];
};

/* What is measured in the same rounds. */
struct group {
	const struct way_shape *shape;
	enum way_layout layout;
	unsigned int batch;
	struct subject subjects[WAY_KINDS];
};

/* ---- Options ------------------------------------------------------------ */

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option known[] = {
		{ "rounds", 1, NULL, 'r' }, { "laps", 1, NULL, 'l' }, { "quick", 0, NULL, 'q' },
		{ "count", 1, NULL, 'n' }, { "batch", 1, NULL, 'b' }, { "layout", 1, NULL, 'L' },
		{ "shape", 1, NULL, 's' }, { "way", 1, NULL, 'w' }, { "once", 0, NULL, 'o' },
		{ "cpu", 1, NULL, 'c' }, { "plant", 0, NULL, 'p' }, { "tsv", 1, NULL, 't' },
		{ "help", 0, NULL, 'h' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 'r':
			o->rounds = (unsigned int)args_number("rounds", optarg, 1, SAMPLES_MAX);
			break;
		case 'l': o->laps = (unsigned int)args_number("laps", optarg, 1, 1000000); break;
		case 'q': o->quick = true; break;
		case 'n': o->count = (unsigned int)args_number("count", optarg, 1, 4096); break;
		case 'b':
			o->batches = args_numbers("batch", optarg, o->batch, BATCHES_MAX,
						  WAY_BATCH_MAX);
			break;
		case 'L': o->layout = optarg; args_word("layout", optarg, layout_names); break;
		case 's': o->shape = optarg; args_word("shape", optarg, shape_names); break;
		case 'w': o->way = optarg; args_word("way", optarg, way_names); break;
		case 'o': o->once = true; break;
		case 'c': o->cpu = (int)args_number("cpu", optarg, 0, CPU_SETSIZE - 1); break;
		case 'p': o->plant = true; break;
		case 't': o->tsv = optarg; break;
		case 'h': fputs(help, stdout); exit(0);
		default: fputs("Try 'driver --help'.\n", stderr); exit(2);
		}
	}
	args_end(argc, argv);
	args_divide(o->count, "buffers", o->batch, o->batches);
	if (!o->rounds)
		o->rounds = o->once ? 1 : o->quick ? 5 : 11;
	if (!o->laps)
		o->laps = o->quick ? 50 : 400;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die(1, "processor %d cannot be used: %s", cpu, strerror(errno));
}

/* ---- Measuring ---------------------------------------------------------- */

static bool wanted(const struct options *o, unsigned int kind)
{
	if (!o->way || !strcmp(o->way, way_names[kind]))
		return true;
	if (o->once)
		return false;
	/* What it is compared with. */
	return kind == WAY_BARE || (kind == WAY_MEMCPY && !strcmp(o->way, "pool-copy")) ||
	       (kind == WAY_POOL_REBUILD && !strcmp(o->way, "pool-recycle"));
}

static void open_ways(struct group *g, const struct options *o)
{
	char why[WAY_TEXT_BYTES];

	for (unsigned int kind = 0; kind < WAY_KINDS; kind++) {
		if (!wanted(o, kind))
			continue;
		g->subjects[kind].way = way_open((enum way_kind)kind, g->layout, g->shape,
						 o->count, why);
		if (!g->subjects[kind].way && why[0])
			die(1, "%s, %s, %s: %s", way_names[kind], layout_names[g->layout],
			    g->shape->name, why);
	}
}

static void measure(struct group *g, const struct options *o, unsigned int kind,
		    unsigned int laps, bool keep)
{
	struct subject *s = &g->subjects[kind];
	double ns[WAY_PARTS], driver;
	char why[WAY_TEXT_BYTES];

	if (!s->way)
		return;
	if (kind == WAY_POOL_COPY || kind == WAY_MEMCPY) {
		unsigned int most = COPIED_MAX / g->shape->bytes / o->count;

		laps = laps < most ? laps : most ? most : 1;
	}
	if (way_run(s->way, g->batch, laps, &s->allocations, ns, why))
		die(1, "%s, %s, %s, batch %u: %s", way_names[kind], layout_names[g->layout],
		    g->shape->name, g->batch, why);
	if (s->allocations)
		die(1, "%s, %s, %s, batch %u: memory was allocated %ld times", way_names[kind],
		    layout_names[g->layout], g->shape->name, g->batch, s->allocations);
	if (!keep)
		return;
	driver = ns[WAY_OUT] + ns[WAY_BACK] + ns[WAY_AFTER];
	samples_add(&s->ns[FIGURE_OUT], ns[WAY_OUT]);
	samples_add(&s->ns[FIGURE_BACK], ns[WAY_BACK]);
	samples_add(&s->ns[FIGURE_AFTER], ns[WAY_AFTER]);
	samples_add(&s->ns[FIGURE_DRIVER], driver);
	samples_add(&s->ns[FIGURE_RENEW], ns[WAY_OUT] + ns[WAY_AFTER]);
	samples_add(&s->ns[FIGURE_ALL], driver + ns[WAY_DEVICE]);
}

/* ---- Telling ------------------------------------------------------------ */

/* NULL if one of them was not measured. */
static const struct samples *of(const struct group *g, enum way_kind kind, enum figure figure)
{
	const struct samples *s = &g->subjects[kind].ns[figure];

	return s->count ? s : NULL;
}

static void tell_head(FILE *tsv)
{
	printf("%-15s %-6s %5s  %-20s %7s %7s %7s %8s  %-14s %9s\n", "layout", "shape", "batch",
	       "way", "out", "back", "after", "driver", "min..max", "over bare");
	if (tsv)
		fputs("layout\tshape\tbatch\tway\tfigure\tmedian_ns\tmin_ns\tmax_ns\t"
		      "over_bare_ns\n", tsv);
}

static void tell_way(const struct group *g, enum way_kind kind, FILE *tsv)
{
	const struct samples *base = of(g, WAY_BARE, FIGURE_DRIVER);
	const struct samples *ns = g->subjects[kind].ns;
	struct summary driver = samples_summary(&ns[FIGURE_DRIVER]);
	char range[64];

	if (!ns[FIGURE_DRIVER].count)
		return;
	snprintf(range, sizeof(range), "%.1f..%.1f", driver.min, driver.max);
	printf("%-15s %-6s %5u  %-20s %7.1f %7.1f %7.1f %8.1f  %-14s", layout_names[g->layout],
	       g->shape->name, g->batch, way_names[kind],
	       samples_summary(&ns[FIGURE_OUT]).median, samples_summary(&ns[FIGURE_BACK]).median,
	       samples_summary(&ns[FIGURE_AFTER]).median, driver.median, range);
	if (base && kind != WAY_BARE && kind != WAY_MEMCPY)
		printf(" %+9.1f", samples_difference(&ns[FIGURE_DRIVER], base));
	putchar('\n');
	for (unsigned int f = 0; tsv && f < FIGURES; f++) {
		struct summary sum = samples_summary(&ns[f]);
		const struct samples *bare = of(g, WAY_BARE, (enum figure)f);

		fprintf(tsv, "%s\t%s\t%u\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.3f\n",
			layout_names[g->layout], g->shape->name, g->batch, way_names[kind],
			figure_names[f], sum.median, sum.min, sum.max,
			bare ? samples_difference(&ns[f], bare) : 0);
	}
}

static const char *verdict(bool met)
{
	return met ? "met" : "MISSED";
}

static void judge_recycle(const struct group *g, const char *name, enum way_kind recycle,
			  enum way_kind rebuild)
{
	static const enum figure figures[] = { FIGURE_RENEW, FIGURE_DRIVER, FIGURE_ALL };
	double ratio[3];

	for (unsigned int i = 0; i < 3; i++) {
		if (!of(g, recycle, figures[i]) || !of(g, rebuild, figures[i]))
			return;
		ratio[i] = samples_ratio(of(g, rebuild, figures[i]), of(g, recycle, figures[i]));
	}
	printf("# %-16s %.2f times as fast as free and rebuild, of at least %.1f: %s "
	       "(driver end's whole loop %.2f, both ends' %.2f)\n", name, ratio[0],
	       TARGET_RECYCLE, verdict(ratio[0] >= TARGET_RECYCLE), ratio[1], ratio[2]);
}

static void judge_over_bare(const struct group *g, enum way_kind kind, double target)
{
	const struct samples *base = of(g, WAY_BARE, FIGURE_DRIVER);
	const struct samples *s = of(g, kind, FIGURE_DRIVER);
	double over;

	if (!s || !base)
		return;
	over = samples_difference(s, base);
	printf("# %-16s %+.1f ns over the bare ring, of at most %.0f: %s\n", way_names[kind], over,
	       target, verdict(over <= target));
}

static void tell_group(const struct group *g, FILE *tsv)
{
	const struct samples *copy = of(g, WAY_POOL_COPY, FIGURE_OUT);
	const struct samples *alone = of(g, WAY_MEMCPY, FIGURE_OUT);

	for (unsigned int kind = 0; kind < WAY_KINDS; kind++)
		tell_way(g, (enum way_kind)kind, tsv);
	if (g->batch >= TARGET_BATCH) {
		judge_recycle(g, "pool-recycle", WAY_POOL_RECYCLE, WAY_POOL_REBUILD);
		judge_recycle(g, "pool-resize", WAY_POOL_RESIZE, WAY_POOL_ALLOC);
		judge_over_bare(g, WAY_POOL_RECYCLE, TARGET_POOL);
		judge_over_bare(g, WAY_POOL_REBUILD, TARGET_POOL);
		judge_over_bare(g, WAY_SEND_AGAIN, TARGET_TRANSFER);
		judge_over_bare(g, WAY_SEND_AGAIN_MAP, TARGET_TRANSFER);
		judge_over_bare(g, WAY_SEND_NEW, TARGET_TRANSFER);
		judge_over_bare(g, WAY_SEND_NEW_MAP, TARGET_TRANSFER);
	}
	if (copy && alone)
		printf("# %-16s %+.1f ns over the memcpy in it\n", way_names[WAY_POOL_COPY],
		       samples_difference(copy, alone));
	fflush(stdout);
}

/* ---- The run ------------------------------------------------------------ */

static void run_batch(struct group *g, const struct options *o, FILE *tsv)
{
	for (unsigned int kind = 0; kind < WAY_KINDS; kind++) {
		memset(g->subjects[kind].ns, 0, sizeof(g->subjects[kind].ns));
		if (o->plant && g->subjects[kind].way)
			way_plant(g->subjects[kind].way);
		/* Warm caches and predictors; what is profiled goes without. */
		if (!o->once)
			measure(g, o, kind, o->laps / 10 + 1, false);
	}
	/* There and back again: A B C, C B A, so that none is always after the same. */
	for (unsigned int r = 0; r < o->rounds; r++)
		for (unsigned int i = 0; i < WAY_KINDS; i++)
			measure(g, o, r % 2 ? WAY_KINDS - 1 - i : i, o->laps, true);
	tell_group(g, tsv);
}

static void run_layout(const struct way_shape *shape, enum way_layout layout,
		       const struct options *o, FILE *tsv)
{
	static struct group g;

	memset(&g, 0, sizeof(g));
	g.shape = shape;
	g.layout = layout;
	open_ways(&g, o);
	for (unsigned int b = 0; b < o->batches; b++) {
		g.batch = o->batch[b];
		run_batch(&g, o, tsv);
	}
	for (unsigned int kind = 0; kind < WAY_KINDS; kind++)
		way_close(g.subjects[kind].way);
}

int main(int argc, char **argv)
{
	struct options o = { .count = 256, .batches = 3, .batch = { 1, 8, 32 } };
	FILE *tsv;

	parse(&o, argc, argv);
	pin(o.cpu);
	tsv = args_create(o.tsv);
	printf("# ring of %u entries, EVENT_IDX, all in flight, processor %d, %u rounds of %u laps;"
	       " ns per buffer\n", o.count, o.cpu, o.rounds, o.laps);
	tell_head(tsv);
	for (unsigned int s = 0; s < SHAPES; s++)
		for (unsigned int layout = 0; layout < WAY_LAYOUTS; layout++)
			if ((!o.shape || !strcmp(o.shape, shapes[s].name)) &&
			    (!o.layout || !strcmp(o.layout, layout_names[layout])))
				run_layout(&shapes[s], (enum way_layout)layout, &o, tsv);
	printf("# allocations while buffers went round: %s\n",
	       allocations() < 0 ? "not counted" : "0");
	args_finish(tsv, o.tsv);
	return 0;
}
