/* SPDX-License-Identifier: MIT */
/* The settings of disks to be served, and the three places that they come from. */
#include "serve_settings.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/blk.h>
#include <virtq/store.h>

#include "options.h"
#include "report.h"

/* Longest file of settings: some thousand bytes for each disk that there can be. */
#define SERVE_FILE_BYTES_MAX (1u << 20)

#define SERVE_COALESCE_US_MAX 1000000
#define SERVE_RECONNECT_MS_MAX 86400000

enum settings_key {
	KEY_SOCKET, KEY_FD, KEY_IMAGE, KEY_INJECT, KEY_SERIAL, KEY_READ_ONLY, KEY_DIRECT,
	KEY_NO_IN_PLACE, KEY_WRITE_THROUGH, KEY_QUEUES, KEY_QUEUE_SIZE, KEY_LAYOUT,
	KEY_COALESCE, KEY_SIZE_MAX, KEY_RECONNECT,
};

/* Two names may be one key. */
static const struct settings_name {
	const char *name;
	enum settings_key key;
	bool is_switch;		/* may stand alone, for "on" */
	bool own;		/* no two disks can share it */
	bool is_path;		/* or like one: never empty */
} settings_names[] = {
	{ "socket", KEY_SOCKET, false, true, true },
	{ "fd", KEY_FD, false, true, false },
	{ "image", KEY_IMAGE, false, true, true },
	{ "serial", KEY_SERIAL, false, true, false },
	{ "inject", KEY_INJECT, false, false, false },
	{ "read-only", KEY_READ_ONLY, true, false, false },
	{ "ro", KEY_READ_ONLY, true, false, false },
	{ "direct", KEY_DIRECT, true, false, false },
	{ "no-in-place", KEY_NO_IN_PLACE, true, false, false },
	{ "write-through", KEY_WRITE_THROUGH, true, false, false },
	{ "queues", KEY_QUEUES, false, false, false },
	{ "queue-size", KEY_QUEUE_SIZE, false, false, false },
	{ "layout", KEY_LAYOUT, false, false, false },
	{ "coalesce", KEY_COALESCE, false, false, false },
	{ "size-max", KEY_SIZE_MAX, false, false, false },
	{ "reconnect", KEY_RECONNECT, false, false, false },
	{ NULL, KEY_SOCKET, false, false, false },
};

static bool settings_has(const struct serve_settings *s, enum settings_key key)
{
	return s->given & 1u << key;
}

void serve_settings_init(struct serve_settings *s)
{
	*s = (struct serve_settings){ .fd = -1, .queues = 1, .queue_size = 1024 };
}

const char *serve_settings_own(const struct serve_settings *s)
{
	const struct settings_name *n;

	for (n = settings_names; n->name; n++)
		if (n->own && settings_has(s, n->key))
			return n->name;
	return NULL;
}

/* ---- One setting. ---- */

static bool settings_switch(const char *label, const char *value, bool *on)
{
	static const char *const words[] = { "on", "off", NULL };
	int choice = value ? options_choice(label, value, words) : 0;

	*on = choice == 0;
	return choice >= 0;
}

static bool settings_count(const char *label, const char *value, unsigned int min,
			   unsigned int max, unsigned int *count)
{
	uint64_t number = 0;
	bool good = options_number(label, value, min, max, &number);

	*count = (unsigned int)number;
	return good;
}

static bool settings_layout(const char *label, const char *value, enum serve_layout *layout)
{
	static const char *const layouts[] = { "any", "split", "packed", NULL };
	int choice = options_choice(label, value, layouts);

	*layout = choice < 0 ? SERVE_ANY : (enum serve_layout)choice;
	return choice >= 0;
}

static bool settings_serial(const char *label, const char *value, const char **serial)
{
	*serial = value;
	if (strlen(value) <= VIRTIO_BLK_ID_BYTES)
		return true;
	report_usage("%s is at most %d bytes long, and not %zu", label, VIRTIO_BLK_ID_BYTES,
		     strlen(value));
	return false;
}

static bool settings_size_max(const char *label, const char *value, unsigned int *bytes)
{
	if (!settings_count(label, value, VIRTQ_BLK_SECTOR_BYTES, 1u << 31, bytes))
		return false;
	if (*bytes % VIRTQ_BLK_SECTOR_BYTES == 0)
		return true;
	report_usage("%s is a multiple of %u bytes, and not %u", label, VIRTQ_BLK_SECTOR_BYTES,
		     *bytes);
	return false;
}

static bool settings_coalesce(const char *label, const char *value, unsigned int *count,
			      unsigned int *us)
{
	const char *comma = strchr(value, ',');
	char first[32];

	if (!comma || (size_t)(comma - value) >= sizeof(first)) {
		report_usage("%s is COUNT,MICROSECONDS, and not '%s'", label, value);
		return false;
	}
	memcpy(first, value, (size_t)(comma - value));
	first[comma - value] = '\0';
	return settings_count(label, first, 1, 32768, count) &&
	       settings_count(label, comma + 1, 1, SERVE_COALESCE_US_MAX, us);
}

static bool settings_apply(struct serve_settings *s, const char *label, enum settings_key key,
			   const char *value)
{
	unsigned int number = 0;
	bool good;

	switch (key) {
	case KEY_SOCKET:
		s->socket_path = value;
		return true;
	case KEY_FD:
		good = settings_count(label, value, 0, INT_MAX, &number);
		s->fd = (int)number;
		return good;
	case KEY_IMAGE:
		s->image = value;
		return true;
	case KEY_INJECT:
		s->inject = value;
		return true;
	case KEY_SERIAL:
		return settings_serial(label, value, &s->serial);
	case KEY_READ_ONLY:
		return settings_switch(label, value, &s->read_only);
	case KEY_DIRECT:
		return settings_switch(label, value, &s->direct);
	case KEY_NO_IN_PLACE:
		return settings_switch(label, value, &s->no_in_place);
	case KEY_WRITE_THROUGH:
		return settings_switch(label, value, &s->write_through);
	case KEY_QUEUES:
		return settings_count(label, value, 1, SERVE_QUEUES_MAX, &s->queues);
	case KEY_QUEUE_SIZE:
		return settings_count(label, value, 2, 32768, &s->queue_size);
	case KEY_LAYOUT:
		return settings_layout(label, value, &s->layout);
	case KEY_COALESCE:
		return settings_coalesce(label, value, &s->coalesce_count, &s->coalesce_us);
	case KEY_SIZE_MAX:
		return settings_size_max(label, value, &s->size_max);
	case KEY_RECONNECT:
		return settings_count(label, value, 1, SERVE_RECONNECT_MS_MAX, &s->reconnect_ms);
	}
	return false;
}

static const struct settings_name *settings_find(const char *name)
{
	const struct settings_name *n;

	for (n = settings_names; n->name; n++)
		if (strcmp(n->name, name) == 0)
			return n;
	return NULL;
}

bool serve_settings_set(struct serve_settings *s, const char *label, const char *key,
			const char *value)
{
	const struct settings_name *n = settings_find(key);

	if (!n) {
		report_usage("%s: there is no such key", label);
		return false;
	}
	if (value ? !*value && n->is_path : !n->is_switch) {
		report_usage("%s needs a value", label);
		return false;
	}
	s->given |= 1u << n->key;
	return settings_apply(s, label, n->key, value);
}

/* ---- Lists of them. ---- */

/* A copy that lives as long as the list. */
static char *list_keep(struct serve_list *list, char *text)
{
	char **texts = realloc(list->texts, (list->text_count + 1) * sizeof(*texts));

	if (!text || !texts) {
		free(text);
		report_failure("no memory for the settings of disks");
		if (texts)
			list->texts = texts;
		return NULL;
	}
	list->texts = texts;
	list->texts[list->text_count++] = text;
	return text;
}

static struct serve_settings *list_append(struct serve_list *list,
					  const struct serve_settings *base)
{
	struct serve_settings *disks;

	if (list->count == SERVE_DISKS_MAX) {
		report_usage("one process serves at most %d disks", SERVE_DISKS_MAX);
		return NULL;
	}
	disks = realloc(list->disks, (list->count + 1) * sizeof(*disks));
	if (!disks) {
		report_failure("no memory for the settings of disks");
		return NULL;
	}
	list->disks = disks;
	disks[list->count] = *base;
	disks[list->count].given = 0;	/* from here on: what this one was given itself */
	return &disks[list->count++];
}

void serve_list_free(struct serve_list *list)
{
	while (list->text_count)
		free(list->texts[--list->text_count]);
	free(list->texts);
	free(list->disks);
	*list = (struct serve_list){ 0 };
}

/* Set "KEY=VALUE", or a switch alone, which a disk may have once. */
static bool list_set(struct serve_settings *s, const char *where, char *word)
{
	char *value = strchr(word, '=');
	const struct settings_name *n;
	char label[256];

	if (value)
		*value++ = '\0';
	snprintf(label, sizeof(label), "%s: %s", where, *word ? word : "''");
	n = settings_find(word);
	if (n && settings_has(s, n->key)) {
		report_usage("%s is there twice", label);
		return false;
	}
	return serve_settings_set(s, label, word, value);
}

/*
 * Cut the word off that begins at @at, and return where the next begins, NULL if
 * none does. A comma ends it; two stand for one that does not.
 */
static char *list_cut(char *at)
{
	char *to = at;

	for (; *at; at++) {
		if (*at == ',' && at[1] != ',') {
			*to = '\0';
			return at + 1;
		}
		at += *at == ',';
		*to++ = *at;
	}
	*to = '\0';
	return NULL;
}

bool serve_list_add(struct serve_list *list, const struct serve_settings *base,
		    const char *words)
{
	char *at = list_keep(list, strdup(words)), *next;
	struct serve_settings *s = at ? list_append(list, base) : NULL;

	if (!s)
		return false;
	for (; at; at = next) {
		next = list_cut(at);
		if (!list_set(s, "--disk", at))
			return false;
	}
	return true;
}

/* ---- A file: one KEY=VALUE a line, "[disk]" before those of each disk. ---- */

static char *file_trim(char *text)
{
	char *end;

	text += strspn(text, " \t\r");
	end = text + strlen(text);
	while (end > text && strchr(" \t\r", end[-1]))
		end--;
	*end = '\0';
	return text;
}

/* Take the blanks around the first '=' out: what stands left and right of it. */
static char *file_pair(char *line)
{
	char *equals = strchr(line, '='), *key, *value;

	if (!equals)
		return line;
	*equals = '\0';
	key = file_trim(line);
	value = file_trim(equals + 1);
	memmove(line, key, strlen(key) + 1);
	key = line + strlen(line);
	*key++ = '=';
	memmove(key, value, strlen(value) + 1);
	return line;
}

/* All of @path, and a zero byte; NULL if reported. */
static char *file_read(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = file ? malloc(SERVE_FILE_BYTES_MAX + 1) : NULL;
	bool good = false;
	size_t bytes;

	if (!text) {
		report_failure("cannot open %s: %s", path, strerror(errno));
		if (file)
			fclose(file);
		return NULL;
	}
	bytes = fread(text, 1, SERVE_FILE_BYTES_MAX + 1, file);
	text[bytes < SERVE_FILE_BYTES_MAX ? bytes : SERVE_FILE_BYTES_MAX] = '\0';
	if (ferror(file))
		report_failure("cannot read %s: %s", path, strerror(errno));
	else if (bytes > SERVE_FILE_BYTES_MAX || strlen(text) != bytes)
		report_failure("%s is no file of settings", path);
	else
		good = true;
	fclose(file);
	if (good)
		return text;
	free(text);
	return NULL;
}

int serve_list_load(struct serve_list *list, const struct serve_settings *base,
		    const char *path)
{
	struct serve_settings common = *base, *s = &common;
	char *text = file_read(path), *next, *at;
	unsigned int line = 0, before = list->count;
	char where[160];

	if (!text || !list_keep(list, text))
		return REPORT_FAILURE;
	common.given = 0;
	for (at = text; at; at = next) {
		next = strchr(at, '\n');
		if (next)
			*next++ = '\0';
		line++;
		at = file_trim(at);
		if (!*at || *at == '#' || *at == ';')
			continue;
		snprintf(where, sizeof(where), "%s:%u", path, line);
		if (strcmp(at, "[disk]") == 0) {
			s = list_append(list, &common);
			if (!s)
				return REPORT_USAGE;
		} else if (*at == '[') {
			return report_usage("%s: a disk begins with [disk], and not with %s",
					    where, at);
		} else if (!list_set(s, where, file_pair(at))) {
			return REPORT_USAGE;
		} else if (s == &common && serve_settings_own(s)) {
			return report_usage("%s: %s is for one disk, and belongs behind a [disk]",
					    where, serve_settings_own(s));
		}
	}
	if (list->count == before)
		return report_usage("%s has no [disk]", path);
	return REPORT_OK;
}

/* ---- All of them together. ---- */

/* Do its rules and its kind of image make sense? All else shows when it is opened. */
static bool list_check_words(const struct serve_settings *s, const char *place)
{
	bool named = strncmp(s->image, "null:", 5) == 0 || strncmp(s->image, "ram:", 4) == 0;
	struct virtq_error err = { 0 };
	struct virtq_store *store;
	int rc = 0;

	if (named)
		rc = virtq_store_open(&store, s->image, NULL, &err);
	if (!rc && named)
		virtq_store_close(store);
	if (rc != -EINVAL && s->inject) {
		rc = virtq_store_open(&store, "null:512", NULL, &err);
		if (!rc)
			rc = virtq_store_inject(&store, store, s->inject, &err);
		if (!rc)
			virtq_store_close(store);
	}
	if (rc == -EINVAL)
		report_usage("%s%s", place, err.text);
	return rc != -EINVAL;
}

static bool list_check_one(const struct serve_settings *s, const char *place, const char *dashes,
			   const char *socket)
{
	if (s->socket_path && s->fd >= 0)
		report_usage("%s%s%s and %sfd exclude each other", place, dashes, socket, dashes);
	else if (!s->socket_path && s->fd < 0)
		report_usage("%seither %s%s or %sfd is needed", place, dashes, socket, dashes);
	else if (!s->image)
		report_usage("%s%simage is needed", place, dashes);
	else
		return list_check_words(s, place);
	return false;
}

bool serve_list_check(const struct serve_list *list, bool from_options)
{
	char place[32];
	unsigned int i, j;

	if (from_options)
		return list_check_one(&list->disks[0], "", "--", "socket-path");
	for (i = 0; i < list->count; i++) {
		const struct serve_settings *s = &list->disks[i];

		snprintf(place, sizeof(place), "disk %u: ", i + 1);
		if (!list_check_one(s, place, "", "socket"))
			return false;
		for (j = 0; j < i; j++) {
			const struct serve_settings *o = &list->disks[j];

			if (s->socket_path && o->socket_path &&
			    strcmp(s->socket_path, o->socket_path) == 0)
				report_usage("disks %u and %u have the same socket %s", j + 1,
					     i + 1, s->socket_path);
			else if (s->fd >= 0 && s->fd == o->fd)
				report_usage("disks %u and %u have the same fd %d", j + 1, i + 1,
					     s->fd);
			else if (s->serial && o->serial && *s->serial &&
				 strcmp(s->serial, o->serial) == 0)
				report_usage("disks %u and %u have the same serial %s", j + 1,
					     i + 1, s->serial);
			else
				continue;
			return false;
		}
	}
	return true;
}
