/* SPDX-License-Identifier: MIT */
/* Sentences for people, each written in one piece. */
#include "report.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* How long a failure waits for a reader of standard error. */
#define REPORT_WAIT_MS 2000

static const char *command_name = "virtq";

void report_as(const char *name)
{
	command_name = name;
}

const char *report_name(void)
{
	return command_name;
}

/*
 * Write a sentence if whoever reads standard error lets us within @wait_ms. Else it
 * is dropped: a reader that stands still must not stop those who speak. What a pipe
 * is ready for is PIPE_BUF bytes, which do not block.
 */
__attribute__((format(printf, 3, 0)))
static void say_within(int wait_ms, const char *ending, const char *fmt, va_list args)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct pollfd out = { STDERR_FILENO, POLLOUT, 0 };
	char text[PIPE_BUF];
	size_t room = sizeof(text) - strlen(ending) - 2, used;
	const char *at = text;
	ssize_t n = 1;

	snprintf(text, room, "%s: ", command_name);
	used = strlen(text);
	vsnprintf(text + used, room - used, fmt, args);
	used = strlen(text);
	used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n", ending);

	/* Not with the lock: others would wait as long, who must not wait. */
	if (wait_ms)
		poll(&out, 1, wait_ms);
	pthread_mutex_lock(&lock);	/* several threads of a server speak */
	while (used && n > 0 && poll(&out, 1, 0) == 1 && out.revents == POLLOUT) {
		n = write(STDERR_FILENO, at, used);
		at += n > 0 ? n : 0;
		used -= n > 0 ? (size_t)n : 0;
	}
	pthread_mutex_unlock(&lock);
}

int report_failure(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say_within(REPORT_WAIT_MS, "", fmt, args);
	va_end(args);
	return REPORT_FAILURE;
}

int report_usage(const char *fmt, ...)
{
	char ending[128];
	va_list args;

	snprintf(ending, sizeof(ending), " (see '%s --help')", command_name);
	va_start(args, fmt);
	say_within(REPORT_WAIT_MS, ending, fmt, args);
	va_end(args);
	return REPORT_USAGE;
}

void report_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say_within(0, "", fmt, args);
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
