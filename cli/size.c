/* SPDX-License-Identifier: MIT */
/* Numbers of bytes, read and written. */
#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

bool size_parse(const char *text, uint64_t *value)
{
	unsigned int shift = 0;
	unsigned long long number;
	char *end;

	/* strtoull() takes signs and blanks, and makes -1 the largest number. */
	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	/* Octal would surprise: 010 is ten. */
	number = strtoull(text, &end, text[0] == '0' && (text[1] | 0x20) == 'x' ? 16 : 10);
	if (errno)
		return false;
	switch (*end) {
	case 'k': case 'K':
		shift = 10;
		break;
	case 'm': case 'M':
		shift = 20;
		break;
	case 'g': case 'G':
		shift = 30;
		break;
	case '\0':
		end--;		/* so that the last character is looked at below */
		break;
	default:
		return false;
	}
	if (end[1] != '\0' || number > UINT64_MAX >> shift)
		return false;
	*value = (uint64_t)number << shift;
	return true;
}

const char *size_text(char text[SIZE_TEXT_BYTES], double bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned int unit = 0;

	if (bytes < 1024) {
		snprintf(text, SIZE_TEXT_BYTES, "%.0f B", bytes);
		return text;
	}
	/* 1023.95 and more would be shown as 1024.0. */
	for (bytes /= 1024; bytes >= 1023.95 && unit < 5; unit++)
		bytes /= 1024;
	snprintf(text, SIZE_TEXT_BYTES, "%.1f %s", bytes, units[unit]);
	return text;
}
