/* SPDX-License-Identifier: MIT */
/* The command line, on getopt_long(), with our own sentences. */
#include "options.h"

#include <stdio.h>
#include <string.h>

#include "report.h"
#include "size.h"

/* How many long options begin with the @len characters at @name? */
static unsigned int options_matching(const struct option *longs, const char *name, size_t len)
{
	unsigned int found = 0;

	for (; longs->name; longs++)
		found += strncmp(longs->name, name, len) == 0;
	return found;
}

static const char *options_long_name(const struct option *longs, int val)
{
	for (; longs->name; longs++)
		if (longs->val == val)
			return longs->name;
	return NULL;
}

int options_next(int argc, char **argv, const struct option *longs)
{
	const char *name;
	size_t len;
	int opt;

	opterr = 0;
	opt = getopt_long(argc, argv, ":h", longs, NULL);
	if (opt == -1)
		return OPTIONS_END;
	if (opt == ':') {
		report_usage("the option --%s needs a value", options_long_name(longs, optopt));
		return OPTIONS_BAD;
	}
	if (opt != '?')
		return opt;

	/* getopt says by optopt which of four things is wrong. */
	name = optopt ? options_long_name(longs, optopt) : NULL;
	if (name) {
		report_usage("the option --%s takes no value", name);
	} else if (optopt) {
		report_usage("there is no option -%c", optopt);
	} else {
		name = argv[optind - 1] + 2;
		len = strcspn(name, "=");
		if (options_matching(longs, name, len))
			report_usage("the option --%.*s could mean more than one", (int)len, name);
		else
			report_usage("there is no option --%.*s", (int)len, name);
	}
	return OPTIONS_BAD;
}

bool options_number(const char *name, const char *text, uint64_t min, uint64_t max,
		    uint64_t *value)
{
	if (!size_parse(text, value)) {
		report_usage("%s wants a whole number, perhaps with K, M or G, and not '%s'",
			     name, text);
		return false;
	}
	if (*value < min || *value > max) {
		report_usage("%s is %llu to %llu, and not %s", name, (unsigned long long)min,
			     (unsigned long long)max, text);
		return false;
	}
	return true;
}

int options_choice(const char *name, const char *text, const char *const *choices)
{
	char list[128] = "";
	size_t used = 0;
	int i;

	for (i = 0; choices[i]; i++) {
		const char *join = i == 0 ? "" : choices[i + 1] ? ", " : " or ";

		if (strcmp(choices[i], text) == 0)
			return i;
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", join,
						 choices[i]);
	}
	report_usage("%s is %s, and not '%s'", name, list, text);
	return -1;
}

bool options_operands(int argc, char **argv, int count, const char *names)
{
	int given = argc - optind, i;

	for (i = optind; i < argc; i++) {
		if (!argv[i][0]) {
			report_usage("an operand is empty, and names nothing");
			return false;
		}
	}
	if (given == count)
		return true;
	if (given > count)
		report_usage("'%s' is one word too many", argv[optind + count]);
	else
		report_usage("%s %s missing", names, count - given == 1 && count > 1 ?
			     "are needed and one is" : count > 1 ? "are" : "is");
	return false;
}
