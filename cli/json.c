/* SPDX-License-Identifier: MIT */
/* JSON on standard output. */
#include "json.h"

#include <stdio.h>

static void json_quote(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

/* What stands in front of every value. */
static void json_lead(struct json *j, const char *key)
{
	if (j->depth) {
		if (j->begun[j->depth])
			putchar(',');
		printf("\n%*s", (int)j->depth * 2, "");
		j->begun[j->depth] = true;
	}
	if (key) {
		json_quote(key);
		fputs(": ", stdout);
	}
}

void json_open(struct json *j, const char *key, char bracket)
{
	json_lead(j, key);
	putchar(bracket);
	j->begun[++j->depth] = false;
}

void json_close(struct json *j, char bracket)
{
	bool filled = j->begun[j->depth--];

	if (filled)
		printf("\n%*s", (int)j->depth * 2, "");
	putchar(bracket);
	if (!j->depth)
		putchar('\n');
}

void json_text(struct json *j, const char *key, const char *text)
{
	json_lead(j, key);
	if (text)
		json_quote(text);
	else
		fputs("null", stdout);
}

void json_number(struct json *j, const char *key, uint64_t value)
{
	json_lead(j, key);
	printf("%llu", (unsigned long long)value);
}

void json_bool(struct json *j, const char *key, bool value)
{
	json_lead(j, key);
	fputs(value ? "true" : "false", stdout);
}
