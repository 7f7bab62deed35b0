/* SPDX-License-Identifier: MIT */
/* What bench/ring tells of the things it measured. */
#include "subject.h"

#include <stdio.h>
#include <string.h>

static const char *const part_names[PARTS] = { "all", "driver", "device", "add", "get" };

const char *mode_name(enum mode mode)
{
	static const char *const names[MODES] = { "one", "ends", "two" };

	return names[mode];
}

void tell_head(struct output *out)
{
	printf("%-5s %5s %-5s  %-15s %-6s %9s  %-16s %8s", "mode", "batch", "chain", "what", "part",
	       "median", "min..max", "x floor");
	for (unsigned int k = 0; k < out->peers; k++)
		printf(" %11s", k ? "x second" : "x reference");
	putchar('\n');
	if (out->tsv)
		fputs("mode\tbatch\tchain\twhat\tpart\tmedian_ns\tmin_ns\tmax_ns\tto_floor\t"
		      "to_reference\tto_reference2\tbuffers\tkicks_wanted\tcalls_wanted\n",
		      out->tsv);
}

/* Ratio to the same part of @base; 0 if there is none. A cache line's way is no buffer's. */
static double ratio(const struct subject *s, const struct subject *base, enum part part)
{
	return base && (s->path || s->program) ? samples_ratio(&s->ns[part], &base->ns[part]) : 0;
}

static void print_ratio(double r, int width)
{
	if (r > 0)
		printf(" %*.2f", width, r);
	else
		printf(" %*s", width, "");
}

static void tell_part(const struct group *g, const struct subject *s, enum part part,
		      struct output *out)
{
	struct summary sum = samples_summary(&s->ns[part]);
	double to_floor = ratio(s, g->floor, part), to_peer[PEERS_MAX];
	const char *mode = mode_name(g->mode);
	char range[64];

	for (unsigned int k = 0; k < PEERS_MAX; k++)
		to_peer[k] = ratio(s, g->peers[k], part);
	snprintf(range, sizeof(range), "%.1f..%.1f", sum.min, sum.max);
	printf("%-5s %5u %-5s  %-15s %-6s %9.2f  %-16s", mode, g->batch, g->chain, s->what,
	       part_names[part], sum.median, range);
	print_ratio(to_floor, 8);
	for (unsigned int k = 0; k < out->peers; k++)
		print_ratio(to_peer[k], 11);
	putchar('\n');
	if (out->tsv)
		fprintf(out->tsv, "%s\t%u\t%s\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.4f\t%.4f\t%.4f\t%llu\t"
			"%llu\t%llu\n", mode, g->batch, g->chain, s->what, part_names[part],
			sum.median, sum.min, sum.max, to_floor, to_peer[0], to_peer[1],
			(unsigned long long)s->buffers, (unsigned long long)s->counts.kicks,
			(unsigned long long)s->counts.calls);
	if (!out->json)
		return;
	fprintf(out->json, "%s\n  {\"mode\": \"%s\", \"batch\": %u, \"chain\": \"%s\", "
		"\"what\": \"%s\", \"part\": \"%s\", \"median_ns\": %.3f, \"min_ns\": %.3f, "
		"\"max_ns\": %.3f, \"to_floor\": %.4f, \"to_reference\": %.4f, "
		"\"to_reference2\": %.4f, \"buffers\": %llu, \"kicks_wanted\": %llu, "
		"\"calls_wanted\": %llu, \"samples_ns\": [", out->some ? "," : "", mode, g->batch,
		g->chain, s->what, part_names[part], sum.median, sum.min, sum.max, to_floor,
		to_peer[0], to_peer[1], (unsigned long long)s->buffers,
		(unsigned long long)s->counts.kicks, (unsigned long long)s->counts.calls);
	for (unsigned int i = 0; i < s->ns[part].count; i++)
		fprintf(out->json, "%s%.3f", i ? ", " : "", s->ns[part].value[i]);
	fputs("]}", out->json);
	out->some = true;
}

void tell_group(const struct group *g, struct output *out)
{
	for (unsigned int i = 0; i < g->count; i++) {
		out->disturbed += (unsigned int)g->subjects[i].counts.disturbed;
		for (unsigned int part = 0; part < PARTS; part++)
			if (g->subjects[i].ns[part].count)
				tell_part(g, &g->subjects[i], part, out);
	}
	fflush(stdout);
}
