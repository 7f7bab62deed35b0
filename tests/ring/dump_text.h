/* SPDX-License-Identifier: MIT */
/* Dumps as text, and what every one of them has to be. */
#ifndef TESTS_RING_DUMP_TEXT_H
#define TESTS_RING_DUMP_TEXT_H

#include "rig.h"

#include <virtq/dump.h>

#define LINES_MAX 200u		/* "a few score" */

struct text {
	char all[LINES_MAX * (VIRTQ_DUMP_COLUMNS + 1) + 1];
	size_t len;
	unsigned int lines;
};

/* What every line of every dump has to be. */
static inline void take_line(void *arg, const char *line)
{
	struct text *t = arg;
	size_t len = strlen(line);

	/* One that takes all of it may have been cut off. */
	assert_in_range(len, 1, VIRTQ_DUMP_COLUMNS - 1);
	assert_null(strchr(line, '\n'));
	assert_in_range(++t->lines, 1, LINES_MAX);
	memcpy(t->all + t->len, line, len);
	t->all[t->len + len] = '\n';
	t->len += len + 1;
	t->all[t->len] = '\0';
}

static struct text text_now;

static inline const char *driver_text(struct rig *r)
{
	text_now.len = text_now.lines = 0;
	virtq_driver_dump(r->driver, take_line, &text_now);
	return text_now.all;
}

static inline const char *device_text(struct rig *r)
{
	text_now.len = text_now.lines = 0;
	virtq_device_dump(r->device, take_line, &text_now);
	return text_now.all;
}

/* One line of a dump. */
static inline void has_line(const char *text, const char *line)
{
	size_t len = strlen(line);
	const char *at = text;

	while ((at = strstr(at, line))) {
		if ((at == text || at[-1] == '\n') && at[len] == '\n')
			return;
		at += len;
	}
	fail_msg("no line \"%s\" in\n%s", line, text);
}

#endif
