/* SPDX-License-Identifier: MIT */
/* The command line: options, their values, and what is wrong with them. */
#ifndef VIRTQ_CLI_OPTIONS_H
#define VIRTQ_CLI_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

/* Values of options that have no letter begin here. */
#define OPTIONS_FIRST 256

#define OPTIONS_END (-1)	/* no option is left; optind is the first operand */
#define OPTIONS_BAD (-2)	/* a bad one was reported */

/*
 * The next option: the @val of its entry in @longs, OPTIONS_END or OPTIONS_BAD.
 * As getopt_long() otherwise: the value is in optarg. Every command has --help
 * with the letter h as its only short option.
 */
int options_next(int argc, char **argv, const struct option *longs);

/* The value of @name, "--queues" in its sentence, as a number in @min..@max. False if reported as bad. */
bool options_number(const char *name, const char *text, uint64_t min, uint64_t max,
		    uint64_t *value);

/*
 * The value of @name as one of the words in @choices, NULL at the end.
 * The index, or -1 if reported as bad.
 */
int options_choice(const char *name, const char *text, const char *const *choices);

/* True if exactly @count operands follow; otherwise reported, with @names in the sentence. */
bool options_operands(int argc, char **argv, int count, const char *names);

#endif
