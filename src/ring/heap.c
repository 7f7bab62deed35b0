/* SPDX-License-Identifier: MIT */
/* Queue ends on the heap, for programs that have one. */
#include <stdlib.h>

#include <virtq/device.h>
#include <virtq/driver.h>

#include "base/check.h"
#include "base/error.h"
#include "ring/device.h"

#define CACHE_LINE 64

/* Whole cache lines; init clears what has to be clear and leaves the rest untouched. */
static void *lines(size_t bytes)
{
	return aligned_alloc(CACHE_LINE, (size_t)align_up(bytes, CACHE_LINE));
}

int virtq_driver_create(struct virtq_driver **out, const struct virtq_driver_config *config,
			struct virtq_error *err)
{
	int rc = ring_check(&config->ring, err);
	void *memory;

	if (rc)
		return rc;
	memory = lines(virtq_driver_bytes(config));
	if (!memory)
		return error_set(err, -ENOMEM, "no memory for a queue of %u entries",
				 config->ring.size);
	rc = virtq_driver_init(memory, out, config, err);
	if (rc)
		free(memory);
	return rc;
}

void virtq_driver_destroy(struct virtq_driver *q)
{
	free(q);
}

int virtq_device_create(struct virtq_device **out, const struct virtq_device_config *config,
			struct virtq_error *err)
{
	int rc = device_check(config, err);
	void *memory;

	if (rc)
		return rc;
	memory = lines(virtq_device_bytes(config));
	if (!memory)
		return error_set(err, -ENOMEM, "no memory for a queue of %u entries",
				 config->ring.size);
	rc = virtq_device_init(memory, out, config, err);
	if (rc)
		free(memory);
	return rc;
}

void virtq_device_destroy(struct virtq_device *q)
{
	if (q)
		virtq_device_fini(q);
	free(q);
}
