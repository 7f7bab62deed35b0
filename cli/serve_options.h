/* SPDX-License-Identifier: MIT */
/* The command line of `virtq serve blk`. */
#ifndef VIRTQ_CLI_SERVE_OPTIONS_H
#define VIRTQ_CLI_SERVE_OPTIONS_H

#include <virtq/engine.h>

#include "serve_settings.h"

#define SERVE_THREADS_MAX 64

struct serve_options {
	struct serve_settings base;	/* the only disk, or what all have in common */
	struct serve_list list;
	bool from_options;		/* the list is that only disk */
	struct serve_texts {
		const char **text;
		unsigned int count;
	} words, configs;		/* of each --disk; each --config's file */
	struct virtq_engine_config engine;
	unsigned int threads;
	unsigned int stats_s;		/* 0: never */
	bool quiet;
	bool help;
};

extern const char serve_options_help[];

/* The exit status; with o->help nothing else was looked at. Free it whatever comes of it. */
int serve_options_parse(struct serve_options *o, int argc, char **argv);

void serve_options_free(struct serve_options *o);

#endif
