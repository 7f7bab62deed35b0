/* SPDX-License-Identifier: MIT */
/* What the measuring programs take from their command lines, and how they give up. */
#ifndef BENCH_ARGS_H
#define BENCH_ARGS_H

#include <stdint.h>
#include <stdio.h>

/* "PROGRAM: sentence" on stderr, and exit: 1 a run failed, 2 the command line is wrong. */
__attribute__((noreturn, format(printf, 2, 3)))
void die(int status, const char *format, ...);

/* The value of an option; each dies with 2 if it cannot be. */
uint64_t args_number(const char *option, const char *text, uint64_t min, uint64_t max);
/* "1,8,32" into @list of @max; returns how many. @text is cut up. */
unsigned int args_numbers(const char *option, char *text, unsigned int *list, unsigned int max,
			  unsigned int largest);
/* Each of @list divides @whole, a number of what @what says. */
void args_divide(unsigned int whole, const char *what, const unsigned int *list,
		 unsigned int count);
/* @words ends with NULL. */
void args_word(const char *option, const char *text, const char *const *words);

/* Nothing is left behind the options. */
void args_end(int argc, char **argv);

/* The file to write, NULL for no path; and close it, dying with 1 if that failed. */
FILE *args_create(const char *path);
void args_finish(FILE *file, const char *path);

#endif
