/* SPDX-License-Identifier: MIT */
#include "base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
	char *at, *end;
};

static void put_char(struct text *t, char c)
{
	if (t->at < t->end)
		*t->at++ = c;
}

static void put_string(struct text *t, const char *s)
{
	for (s = s ? s : "(none)"; *s; s++)
		put_char(t, *s);
}

static void put_number(struct text *t, uint64_t value, unsigned int base, bool minus)
{
	char digits[20];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	if (minus)
		put_char(t, '-');
	while (n)
		put_char(t, digits[--n]);
}

/* The few conversions that error messages need, so that the ring needs no libc. */
static void format(struct text *t, const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		int longs = 0;

		if (*fmt != '%') {
			put_char(t, *fmt);
			continue;
		}
		for (fmt++; *fmt == 'l' || *fmt == 'z'; fmt++)
			longs += *fmt == 'z' ? (sizeof(size_t) > sizeof(int)) : 1;
		switch (*fmt) {
		case 's':
			put_string(t, va_arg(args, const char *));
			break;
		case 'c':
			put_char(t, (char)va_arg(args, int));
			break;
		case 'd': {
			long long v = longs == 0 ? va_arg(args, int) :
				      longs == 1 ? va_arg(args, long) :
						   va_arg(args, long long);

			put_number(t, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10, v < 0);
			break;
		}
		case 'u':
		case 'x': {
			unsigned long long v = longs == 0 ? va_arg(args, unsigned int) :
					       longs == 1 ? va_arg(args, unsigned long) :
						    va_arg(args, unsigned long long);

			put_number(t, v, *fmt == 'x' ? 16 : 10, false);
			break;
		}
		case '%':
			put_char(t, '%');
			break;
		default:	/* a conversion that nobody taught it: show it */
			put_char(t, '%');
			put_char(t, *fmt);
			break;
		}
	}
}

int error_set(struct virtq_error *err, int code, const char *fmt, ...)
{
	if (err) {
		struct text t = { err->text, err->text + sizeof(err->text) - 1 };
		va_list args;

		va_start(args, fmt);
		format(&t, fmt, args);
		va_end(args);
		*t.at = '\0';
		err->code = code;
	}
	return code;
}
