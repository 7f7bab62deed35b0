/* SPDX-License-Identifier: MIT */
/*
 * What the tool says to a person: one clear sentence each, on standard error. Where
 * nobody reads, and its pipe is full, sentences are dropped.
 */
#ifndef VIRTQ_CLI_REPORT_H
#define VIRTQ_CLI_REPORT_H

#include <stdbool.h>

#include <virtq/error.h>

/* Exit statuses, as documented in virtq(1). */
enum report_status {
	REPORT_OK = 0,
	REPORT_FAILURE = 1,	/* the command was understood and did not succeed */
	REPORT_USAGE = 2,	/* the command line makes no sense */
};

/* The name that begins every sentence; kept, not copied. */
void report_as(const char *name);
const char *report_name(void);

/* "NAME: sentence"; returns REPORT_FAILURE. Waits two seconds at most for a reader. */
__attribute__((format(printf, 1, 2)))
int report_failure(const char *fmt, ...);

/* "NAME: sentence (see NAME --help)"; returns REPORT_USAGE. */
__attribute__((format(printf, 1, 2)))
int report_usage(const char *fmt, ...);

/* "NAME: sentence", for what is worth knowing and no failure. Never blocks. */
__attribute__((format(printf, 1, 2)))
void report_note(const char *fmt, ...);

/* Put a sentence into @err, for a caller further up to report; returns @code. */
__attribute__((format(printf, 3, 4)))
int report_into(struct virtq_error *err, int code, const char *fmt, ...);

/* As report_into(), with ": " and the system's words for @code at the end. */
__attribute__((format(printf, 3, 4)))
int report_into_errno(struct virtq_error *err, int code, const char *fmt, ...);

/* Does @sentence say @name, as a word? If not, it needs to be put in front. */
bool report_mentions(const char *sentence, const char *name);

/* Flush standard output; returns @status, or REPORT_FAILURE if that could not be written. */
int report_end(int status);

#endif
