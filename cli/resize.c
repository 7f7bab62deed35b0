/* SPDX-License-Identifier: MIT */
/* `virtq resize`: have a running server look at the size of its images again. */
#include "resize.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control.h"
#include "options.h"
#include "report.h"
#include "size.h"

struct resize_options {
	const char *disk;		/* NULL: the socket's, or all */
	bool help;
};

static const char resize_help[] =
	"Usage: virtq resize SOCKET-OR-PID [OPTION]...\n"
	"Have a running 'virtq serve' look again how large its images are, and tell the\n"
	"drivers. Change the image's size first, with truncate or lvextend, say.\n"
	"\n"
	"The server is named by its process id, for all of its disks, or by the socket of\n"
	"one. Only its own user and root may ask.\n"
	"\n"
	"  --disk NAME   only the disk with this serial or socket\n"
	"  -h, --help    print this and exit\n"
	"\n"
	"Examples:\n"
	"  truncate -s +1G disk.img && virtq resize /run/disk.sock\n"
	"  virtq resize 4711 --disk data0\n"
	"\n"
	"Exit status: 0 done, also where the size is the same, 1 failed, 2 the command\n"
	"line makes no sense.\n";

enum { OPT_DISK = OPTIONS_FIRST };

static const struct option resize_longs[] = {
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int resize_parse(struct resize_options *o, int argc, char **argv)
{
	int opt;

	*o = (struct resize_options){ 0 };
	while ((opt = options_next(argc, argv, resize_longs)) != OPTIONS_END) {
		switch (opt) {
		case OPT_DISK:
			o->disk = optarg;
			break;
		case 'h':
			o->help = true;
			return REPORT_OK;
		default:
			return REPORT_USAGE;
		}
	}
	if (!options_operands(argc, argv, 1, "SOCKET-OR-PID"))
		return REPORT_USAGE;
	if (o->disk && (!*o->disk || strchr(o->disk, '\n')))
		return report_usage("--disk is a serial or a socket, and not '%s'", o->disk);
	return REPORT_OK;
}

static const char *resize_size(char text[64], uint64_t bytes)
{
	char size[SIZE_TEXT_BYTES];

	snprintf(text, 64, "%" PRIu64 " bytes (%s)", bytes, size_text(size, (double)bytes));
	return text;
}

/* A number and a blank, which are passed over. */
static bool resize_number(const char **at, uint64_t *number)
{
	char *end;

	if (!isdigit((unsigned char)**at))
		return false;
	errno = 0;
	*number = strtoull(*at, &end, 10);
	if (errno || *end != ' ')
		return false;
	*at = end + 1;
	return true;
}

/* If @line begins with @word, which is passed over. */
static bool resize_word(const char **line, const char *word)
{
	size_t len = strlen(word);

	if (strncmp(*line, word, len) != 0)
		return false;
	*line += len;
	return true;
}

/* "changed OLD NEW NAME", "same SIZE NAME" or "failed SENTENCE"; false for anything else. */
static bool resize_print(const char *line, int *status)
{
	char old_text[64], new_text[64];
	uint64_t old, new;

	if (resize_word(&line, "changed ")) {
		if (!resize_number(&line, &old) || !resize_number(&line, &new) || !*line)
			return false;
		printf("%s: %s before, %s now\n", line, resize_size(old_text, old),
		       resize_size(new_text, new));
		return true;
	}
	if (resize_word(&line, "same ")) {
		if (!resize_number(&line, &old) || !*line)
			return false;
		printf("%s: still %s\n", line, resize_size(old_text, old));
		return true;
	}
	if (!resize_word(&line, "failed ") || !*line)
		return false;
	*status = report_failure("%s", line);
	return true;
}

/* At least one disk, and "end": without, the server has not looked at all of them. */
static int resize_print_all(char *answer, pid_t pid)
{
	int status = REPORT_OK;
	unsigned int disks = 0;
	char *line, *next;

	for (line = answer; (next = strchr(line, '\n')); line = next) {
		*next++ = '\0';
		if (disks && strcmp(line, "end") == 0)
			return status;
		if (!resize_print(line, &status))
			return report_failure("process %ld gave an answer that means nothing",
					      (long)pid);
		disks++;
	}
	return report_failure("process %ld has not answered to the end", (long)pid);
}

/* The server may have another working directory: what leads to a socket is sent whole. */
static int resize_request(char **request, const char *disk)
{
	struct stat st;
	char *whole = disk && stat(disk, &st) == 0 && S_ISSOCK(st.st_mode) ?
		      realpath(disk, NULL) : NULL;
	int n = asprintf(request, "resize%s%s", disk ? " " : "", whole ? whole : disk ? disk : "");

	free(whole);
	return n < 0 ? -ENOMEM : 0;
}

int resize_main(int argc, char **argv)
{
	struct resize_options options;
	struct virtq_error err = { 0 };
	char *request, *answer;
	int status = resize_parse(&options, argc, argv);
	const char *name;
	pid_t pid;

	if (status != REPORT_OK)
		return status;
	if (options.help) {
		fputs(resize_help, stdout);
		return REPORT_OK;
	}
	name = argv[optind];
	pid = control_find(name, &err);
	if (pid < 0)
		return report_failure("%s", err.text);
	/* A socket names its disk, a process all that it has. */
	if (!options.disk && name[strspn(name, "0123456789")])
		options.disk = name;
	if (resize_request(&request, options.disk) < 0)
		return report_failure("no memory for a request");
	if (control_ask(pid, request, &answer, &err) < 0) {
		status = report_failure("%s", err.text);
	} else {
		status = resize_print_all(answer, pid);
		free(answer);
	}
	free(request);
	return status;
}
