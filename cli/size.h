/* SPDX-License-Identifier: MIT */
/* Numbers of bytes as people write and read them. */
#ifndef VIRTQ_CLI_SIZE_H
#define VIRTQ_CLI_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * "4096", "0x1000", "256K", "2M", "1G": a whole number, perhaps with a suffix
 * that multiplies it by 1024 once, twice or three times. False if @text is
 * anything else, negative, or does not fit.
 */
bool size_parse(const char *text, uint64_t *value);

#define SIZE_TEXT_BYTES 32

/* "64.0 MiB", "512 B"; returns @text. */
const char *size_text(char text[SIZE_TEXT_BYTES], double bytes);

#endif
