/* SPDX-License-Identifier: MIT */
/* The tool's front door: finds the command and gives it its words. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <virtq/version.h>

#include "copy.h"
#include "probe.h"
#include "report.h"
#include "resize.h"
#include "serve.h"
#include "stats.h"

/*
 * Management programs start a vhost-user back end by path alone and give it
 * the conventional options at once. Under this name, which is installed as a
 * link, the tool is that program.
 */
#define MAIN_BLK_NAME "vhost-user-blk-virtq"

static const struct command {
	const char *name;
	const char *title;	/* in front of its messages */
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "serve", "virtq serve", serve_main, "serve disks as vhost-user devices" },
	{ "stats", "virtq stats", stats_main, "say what the disks of a running server have done" },
	{ "resize", "virtq resize", resize_main, "have a running server look at its images' sizes" },
	{ "probe", "virtq probe", probe_main, "say what stands at the other end of a socket" },
	{ "copy", "virtq copy", copy_main, "copy disks out of, into and between devices" },
	{ NULL, NULL, NULL, NULL },
};

static void main_help(FILE *out)
{
	const struct command *c;

	fputs("Usage: virtq COMMAND [OPTION]...\n"
	      "Work with virtqueues, from either end.\n\n", out);
	for (c = commands; c->name; c++)
		fprintf(out, "  %-8s%s\n", c->name, c->summary);
	fputs("\n"
	      "  virtq help COMMAND   what a command does and takes; also virtq COMMAND --help\n"
	      "  virtq --version      which version this is\n\n"
	      "Examples:\n"
	      "  virtq serve blk --socket-path /tmp/disk.sock --image disk.img\n"
	      "  virtq probe /tmp/disk.sock\n"
	      "  virtq copy vhost-user:/tmp/disk.sock copy.img\n\n"
	      "Exit status: 0 done, 1 failed, 2 the command line makes no sense.\n", out);
}

static const struct command *main_find(const char *name)
{
	const struct command *c;

	for (c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static int main_run(const struct command *c, int argc, char **argv)
{
	report_as(c->title);
	return c->run(argc, argv);
}

static int main_help_for(int argc, char **argv)
{
	char word[] = "help", option[] = "--help";
	char *help_argv[] = { word, option, NULL };
	const struct command *c;

	if (argc < 2) {
		main_help(stdout);
		return REPORT_OK;
	}
	if (argc > 2)
		return report_usage("'%s' is one word too many", argv[2]);
	c = main_find(argv[1]);
	if (!c)
		return report_usage("there is no command '%s'", argv[1]);
	return main_run(c, 2, help_argv);
}

static int main_dispatch(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2) {
		main_help(stderr);
		return REPORT_USAGE;
	}
	if (strcmp(argv[1], "help") == 0)
		return main_help_for(argc - 1, argv + 1);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		main_help(stdout);
		return REPORT_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("virtq %s\n", virtq_version());
		return REPORT_OK;
	}
	c = main_find(argv[1]);
	if (!c)
		return report_usage("there is no %s '%s'",
				    argv[1][0] == '-' ? "option" : "command", argv[1]);
	return main_run(c, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const char *base = slash ? slash + 1 : argc > 0 ? argv[0] : "virtq";

	/* Whole lines: other programs may write to the same place. */
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	/* A reader that has gone and a file over its limit are errors of that write, no more. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);

	if (strcmp(base, MAIN_BLK_NAME) == 0) {
		report_as(MAIN_BLK_NAME);
		return report_end(serve_blk_main(argc, argv));
	}
	return report_end(main_dispatch(argc, argv));
}
