/* SPDX-License-Identifier: MIT */
/* Stores by their names. */
#include "dev/store.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

/* What follows @prefix in @image, or NULL if it does not begin with that. */
static const char *after(const char *image, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(image, prefix, len) == 0 ? image + len : NULL;
}

bool store_number(const char *text, uint64_t *value)
{
	static const char units[] = "KMGT";
	const char *unit, *at = text;

	for (*value = 0; *at >= '0' && *at <= '9'; at++)
		if (mul_overflows(*value, 10, value) ||
		    add_overflows(*value, (uint64_t)(*at - '0'), value))
			return false;
	if (!*at)
		return at > text;
	unit = strchr(units, *at);
	return unit && at > text && !at[1] &&
	       !mul_overflows(*value, (uint64_t)1024 << 10 * (unit - units), value);
}

static int check_size(const char *image, const char *text, uint64_t *bytes,
		      struct virtq_error *err)
{
	if (!store_number(text, bytes) || !*bytes || *bytes % STORE_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "\"%s\" names no size: that is a multiple of %u bytes, "
				 "as a number with nothing or K, M, G or T behind it",
				 image, STORE_SECTOR_BYTES);
	return 0;
}

static bool is_nbd(const char *image)
{
	static const char *const schemes[] = {
		"nbd:", "nbds:", "nbd+unix:", "nbds+unix:", "nbd+vsock:", "nbds+vsock:",
	};

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (after(image, schemes[i]))
			return true;
	return false;
}

int virtq_store_open(struct virtq_store **out, const char *image,
		     const struct virtq_store_options *options, struct virtq_error *err)
{
	static const struct virtq_store_options none;
	const char *size;
	uint64_t bytes;
	int rc;

	if (!options)
		options = &none;
	if (!image || !*image)
		return error_set(err, -EINVAL, "a disk needs the path of a file");
	size = after(image, "null:");
	if (size) {
		rc = check_size(image, size, &bytes, err);
		return rc ? rc : store_null_open(out, bytes, options, err);
	}
	size = after(image, "ram:");
	if (size) {
		rc = check_size(image, size, &bytes, err);
		return rc ? rc : store_ram_open(out, bytes, options, err);
	}
	if (is_nbd(image)) {
#ifdef VIRTQ_WITH_LIBNBD
		return store_nbd_open(out, image, options, err);
#else
		return error_set(err, -ENOTSUP,
				 "%s needs libnbd, which this library was built without", image);
#endif
	}
	return store_file_open(out, image, options, err);
}

void virtq_store_close(struct virtq_store *store)
{
	if (store)
		store->ops->close(store);
}
