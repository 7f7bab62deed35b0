/* SPDX-License-Identifier: MIT */
/* What the measuring programs take from their command lines, and how they give up. */
#include "args.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void die(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(status);
}

uint64_t args_number(const char *option, const char *text, uint64_t min, uint64_t max)
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

unsigned int args_numbers(const char *option, char *text, unsigned int *list, unsigned int max,
			  unsigned int largest)
{
	unsigned int count = 0;

	for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
		if (count == max)
			die(2, "--%s takes at most %u numbers", option, max);
		list[count++] = (unsigned int)args_number(option, item, 1, largest);
	}
	if (!count)
		die(2, "--%s takes at least one number", option);
	return count;
}

void args_divide(unsigned int whole, const char *what, const unsigned int *list,
		 unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		if (whole % list[i])
			die(2, "%u %s are no multiple of the batch %u", whole, what, list[i]);
}

void args_word(const char *option, const char *text, const char *const *words)
{
	for (unsigned int i = 0; words[i]; i++)
		if (!strcmp(text, words[i]))
			return;
	die(2, "--%s does not know '%s'", option, text);
}

void args_end(int argc, char **argv)
{
	if (optind < argc)
		die(2, "'%s' is not an option", argv[optind]);
}

FILE *args_create(const char *path)
{
	FILE *file = path ? fopen(path, "w") : NULL;

	if (path && !file)
		die(1, "cannot write %s: %s", path, strerror(errno));
	return file;
}

void args_finish(FILE *file, const char *path)
{
	if (file && (ferror(file) | fclose(file)))
		die(1, "cannot write %s", path);
}
