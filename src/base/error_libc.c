/* SPDX-License-Identifier: MIT */
/* The part of error.h that needs a C library. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set_errno(struct virtq_error *err, int code, const char *fmt, ...)
{
	if (err) {
		char reason[96];
		size_t at;
		va_list args;
		int n;

		va_start(args, fmt);
		n = vsnprintf(err->text, sizeof(err->text), fmt, args);
		va_end(args);
		at = n < 0 ? 0 : (size_t)n;
		if (at < sizeof(err->text))
			snprintf(err->text + at, sizeof(err->text) - at, ": %s",
				 strerror_r(-code, reason, sizeof(reason)));
		err->code = code;
	}
	return code;
}
