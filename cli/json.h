/* SPDX-License-Identifier: MIT */
/* JSON on standard output: objects and lists with their commas in the right places. */
#ifndef VIRTQ_CLI_JSON_H
#define VIRTQ_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>

#define JSON_DEPTH_MAX 8

struct json {
	unsigned int depth;
	bool begun[JSON_DEPTH_MAX];	/* something stands at this depth already */
};

/* @key is NULL inside lists and for the outermost object. */
void json_open(struct json *j, const char *key, char bracket);
void json_close(struct json *j, char bracket);

/* @text is any bytes; what is no ASCII becomes \u00XX of each byte. NULL becomes null. */
void json_text(struct json *j, const char *key, const char *text);
void json_number(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);

#endif
