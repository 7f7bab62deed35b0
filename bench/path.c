/* SPDX-License-Identifier: MIT */
/* The ways that buffers are sent in bench/ring: setting them up. */
#include "path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/spec/virtio.h>

#include "path_inside.h"

#define MEMORY_GPA 0x100000u	/* where the device sees the memory; no pointer by chance */

static unsigned int round_up(unsigned int v)
{
	return (v + 63) & ~63u;
}

static unsigned int buffers(const struct path *p)
{
	return p->lap > p->depth ? p->lap : p->depth;
}

/* The buffers themselves, one beside the other, none sharing a cache line with the next. */
static int fill_buffers(struct path *p, const struct path_shape *shape, uint64_t gpa)
{
	unsigned int count = shape->readable + shape->writable;

	p->bufs = calloc(buffers(p), sizeof(*p->bufs));
	p->segs = calloc((size_t)buffers(p) * count, sizeof(*p->segs));
	if (!p->bufs || !p->segs)
		return -ENOMEM;
	for (unsigned int i = 0; i < buffers(p); i++) {
		struct virtq_seg *segs = &p->segs[(size_t)i * count];

		for (unsigned int k = 0; k < count; k++) {
			segs[k].addr = gpa;
			segs[k].len = shape->bytes[k];
			gpa += round_up(shape->bytes[k]);
		}
		p->bufs[i] = (struct virtq_buffer){ .segs = segs,
			.readable = (uint16_t)shape->readable,
			.writable = (uint16_t)shape->writable, .token = &p->bufs[i] };
	}
	for (unsigned int k = shape->readable; k < count; k++)
		p->writable_bytes += shape->bytes[k];
	return 0;
}

/* One buffer there and back: does it take as many ring entries as it should? */
static int try_one(struct path *p, struct virtq_error *err)
{
	uint32_t room = virtq_driver_room(p->driver);
	struct virtq_completion done;
	struct virtq_req *req;

	if (virtq_driver_add(p->driver, p->bufs, 1) == 1)
		room -= virtq_driver_room(p->driver);
	virtq_driver_publish(p->driver);
	if (room == p->entries && virtq_device_pop(p->device, &req, 1) == 1) {
		req->written = p->writable_bytes;
		virtq_device_push(p->device, &req, 1);
		virtq_device_publish(p->device);
		if (virtq_driver_get(p->driver, &done, 1) == 1)
			return 0;
	}
	err->code = -EPROTO;
	snprintf(err->text, sizeof(err->text), "The first buffer did not go through, or took %u "
		 "ring entries and not %u.", room, p->entries);
	return -EPROTO;
}

static int open_queue(struct path *p, const struct path_shape *shape, unsigned int size,
		      struct virtq_error *err)
{
	unsigned int count = shape->readable + shape->writable, chain_bytes = 0;
	struct virtq_features features = { { 0 } };
	struct virtq_driver_config driver = { 0 };
	struct virtq_device_config device = { 0 };
	struct virtq_ring_shape area;
	size_t tables, data, total;
	struct virtq_region region;
	uint8_t *host;
	int rc;

	for (unsigned int k = 0; k < count; k++)
		chain_bytes += round_up(shape->bytes[k]);
	features = virtq_features_with(features, VIRTIO_F_VERSION_1);
	features = virtq_features_with(features, VIRTIO_F_EVENT_IDX);
	if (shape->indirect)
		features = virtq_features_with(features, VIRTIO_F_INDIRECT_DESC);
	if (p->kind == PATH_PACKED || p->kind == PATH_PACKED_IN_ORDER)
		features = virtq_features_with(features, VIRTIO_F_RING_PACKED);
	if (p->kind == PATH_SPLIT_IN_ORDER || p->kind == PATH_PACKED_IN_ORDER)
		features = virtq_features_with(features, VIRTIO_F_IN_ORDER);
	rc = virtq_ring_shape(features, size, &area);
	if (rc)
		return rc;
	tables = (area.total_bytes + 4095) & ~(size_t)4095;
	data = tables + (((size_t)size * count * 16 + 4095) & ~(size_t)4095);
	total = data + (size_t)buffers(p) * chain_bytes;
	rc = virtq_mapping_create(&p->memory, total, err);
	if (rc)
		return rc;
	host = virtq_mapping_host(p->memory);
	region = (struct virtq_region){ .gpa = MEMORY_GPA,
		.size_bytes = virtq_mapping_bytes(p->memory), .host = host,
		.user = (uintptr_t)host, .fd = virtq_mapping_fd(p->memory),
		.access = VIRTQ_ACCESS_RW, .mapping = p->memory };
	rc = virtq_map_create(&p->map, &region, 1, err);
	if (rc)
		return rc;

	driver.ring = (struct virtq_ring){ .features = features, .size = size, .desc = host,
		.driver = host + area.driver_offset, .device = host + area.device_offset };
	if (shape->indirect) {
		driver.indirect = host + tables;
		driver.indirect_addr = MEMORY_GPA + tables;
		driver.indirect_entries = count;
		driver.indirect_from = 2;
	}
	rc = virtq_driver_create(&p->driver, &driver, err);
	if (rc)
		return rc;
	device.ring = driver.ring;
	device.map = p->map;
	rc = virtq_device_create(&p->device, &device, err);
	if (rc)
		return rc;
	/* Both ends poll. */
	virtq_driver_disarm(p->driver);
	virtq_device_disarm(p->device);
	rc = fill_buffers(p, shape, MEMORY_GPA + data);
	return rc ? rc : try_one(p, err);
}

static int open_floor(struct path *p, const struct path_shape *shape)
{
	p->there = aligned_alloc(64, sizeof(*p->there));
	p->back = aligned_alloc(64, sizeof(*p->back));
	if (!p->there || !p->back || p->depth > SPSC_ENTRIES)
		return -ENOMEM;
	memset(p->there, 0, sizeof(*p->there));
	memset(p->back, 0, sizeof(*p->back));
	return fill_buffers(p, shape, 0);
}

struct path *path_open(enum path_kind kind, const struct path_shape *shape, unsigned int size,
		       unsigned int depth, char why[PATH_TEXT_BYTES])
{
	struct path *p = aligned_alloc(64, sizeof(*p));
	struct virtq_error err = { 0 };
	int rc = -ENOMEM;

	if (p) {
		memset(p, 0, sizeof(*p));
		p->kind = kind;
		p->depth = depth;
		p->entries = shape->indirect ? 1 : shape->readable + shape->writable;
		p->lap = size / p->entries < SPSC_ENTRIES ? size / p->entries : SPSC_ENTRIES;
		rc = kind == PATH_FLOOR ? open_floor(p, shape) :
					  open_queue(p, shape, size, &err);
	}
	if (rc) {
		if (err.code)
			snprintf(why, PATH_TEXT_BYTES, "%.*s", PATH_TEXT_BYTES - 1, err.text);
		else
			snprintf(why, PATH_TEXT_BYTES, "a queue of %u entries: %s", size,
				 strerror(-rc));
		path_close(p);
		return NULL;
	}
	return p;
}

void path_close(struct path *p)
{
	if (!p)
		return;
	virtq_driver_destroy(p->driver);
	virtq_device_destroy(p->device);
	virtq_map_unref(p->map);
	virtq_mapping_unref(p->memory);
	free(p->there);
	free(p->back);
	free(p->bufs);
	free(p->segs);
	free(p);
}
