/* SPDX-License-Identifier: MIT */
/* Sentences for people, each written in one piece. */
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *command_name = "virtq";

void report_as(const char *name)
{
	command_name = name;
}

const char *report_name(void)
{
	return command_name;
}

__attribute__((format(printf, 2, 0)))
static void say(const char *ending, const char *fmt, va_list args)
{
	flockfile(stderr);	/* several threads of a server speak */
	fprintf(stderr, "%s: ", command_name);
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "%s\n", ending);
	funlockfile(stderr);
}

int report_failure(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
	return REPORT_FAILURE;
}

int report_usage(const char *fmt, ...)
{
	char ending[128];
	va_list args;

	snprintf(ending, sizeof(ending), " (see '%s --help')", command_name);
	va_start(args, fmt);
	say(ending, fmt, args);
	va_end(args);
	return REPORT_USAGE;
}

void report_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
}

int report_into(struct virtq_error *err, int code, const char *fmt, ...)
{
	va_list args;

	err->code = code;
	va_start(args, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, args);
	va_end(args);
	return code;
}

int report_into_errno(struct virtq_error *err, int code, const char *fmt, ...)
{
	va_list args;
	size_t used;

	err->code = code;
	va_start(args, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, args);
	va_end(args);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(-code));
	return code;
}

bool report_mentions(const char *sentence, const char *name)
{
	const char *at = sentence;
	size_t len = strlen(name);

	for (; len && (at = strstr(at, name)); at++)
		if ((at == sentence || at[-1] == ' ') && (!at[len] || strchr(" :,", at[len])))
			return true;
	return false;
}

int report_end(int status)
{
	/* /dev/full and a closed pipe show only here: standard output is buffered. */
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	report_failure("cannot write to standard output: %s", strerror(errno));
	return status == REPORT_OK ? REPORT_FAILURE : status;
}
