/* SPDX-License-Identifier: MIT */
/* Errors: the errno numbers we return, and sentences for people. */
#ifndef VIRTQ_BASE_ERROR_H
#define VIRTQ_BASE_ERROR_H

#include <errno.h>

#include <virtq/error.h>

/*
 * error_set - note a refusal and return its code
 * @err:  may be NULL
 * @code: negative errno
 * @fmt:  a sentence without newline. %s, %d, %u, %x, %c, %% with l and ll are understood
 *
 * Usable without a C library: it does its own formatting.
 */
__attribute__((format(printf, 3, 4)))
int error_set(struct virtq_error *err, int code, const char *fmt, ...);

/* As error_set(), with ": " and what strerror() says of @code at the end. Needs libc. */
__attribute__((format(printf, 3, 4)))
int error_set_errno(struct virtq_error *err, int code, const char *fmt, ...);

#endif
