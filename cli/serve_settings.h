/* SPDX-License-Identifier: MIT */
/*
 * What the disks of `virtq serve blk` shall be: from options, from --disk, or from
 * a file. Everything that makes no sense is reported here as bad usage.
 */
#ifndef VIRTQ_CLI_SERVE_SETTINGS_H
#define VIRTQ_CLI_SERVE_SETTINGS_H

#include <stdbool.h>

#define SERVE_QUEUES_MAX 256
#define SERVE_DISKS_MAX 256

enum serve_layout { SERVE_ANY, SERVE_SPLIT, SERVE_PACKED };

/* One disk. Its texts are the command line's, or the list's. */
struct serve_settings {
	unsigned int given;		/* which keys were: bit numbers are the parser's */
	const char *socket_path;	/* NULL with: */
	int fd;				/* -1 if none was given */
	const char *image;
	const char *inject;		/* or NULL */
	const char *serial;		/* or NULL */
	bool read_only;
	bool direct;
	bool no_in_place;
	bool write_through;
	unsigned int queues;
	unsigned int queue_size;
	enum serve_layout layout;
	unsigned int coalesce_count, coalesce_us;	/* 0: calls do not wait */
	unsigned int size_max;		/* bytes; 0: not said */
	unsigned int reconnect_ms;	/* 0: as the store likes */
};

struct serve_list {
	struct serve_settings *disks;
	unsigned int count;
	char **texts;			/* that the disks' texts lie in */
	unsigned int text_count;
};

void serve_settings_init(struct serve_settings *s);

/*
 * Set @key to @value, NULL if none was given; @label names the key in a sentence.
 * False if reported as bad.
 */
bool serve_settings_set(struct serve_settings *s, const char *label, const char *key,
			const char *value);

/* Was anything given that only one disk can have? Its key, or NULL. */
const char *serve_settings_own(const struct serve_settings *s);

/* Add the disk of one "KEY=VALUE,...", @base where that is silent. False if reported as bad. */
bool serve_list_add(struct serve_list *list, const struct serve_settings *base,
		    const char *words);

/* Add the disks of a file. The exit status: one that cannot be read is a failure. */
int serve_list_load(struct serve_list *list, const struct serve_settings *base,
		    const char *path);

/*
 * Has each disk all that it needs, and nothing that another has? @from_options:
 * the only one was given by options. False if reported as bad.
 */
bool serve_list_check(const struct serve_list *list, bool from_options);

void serve_list_free(struct serve_list *list);

#endif
