/* SPDX-License-Identifier: MIT */
/* Both ends of a queue over one memory; files for disks. */
#include "pair.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct virtq_region *region_of(struct pair *p, struct virtq_region *region)
{
	*region = (struct virtq_region){
		.gpa = PAIR_DATA_GPA, .size_bytes = p->data_bytes, .host = p->data, .fd = -1,
		.access = VIRTQ_ACCESS_RW, .mapping = p->memory,
	};
	return region;
}

struct virtq_map *pair_new_map(struct pair *p)
{
	struct virtq_region region;
	struct virtq_map *map;

	assert_int_equal(virtq_map_create(&map, region_of(p, &region), 1, NULL), 0);
	return map;
}

void pair_open(struct pair *p, const struct pair_shape *shape,
	       const struct virtq_model *model, size_t data_bytes)
{
	struct virtq_ring_shape areas;
	struct virtq_error err = { 0 };
	size_t ring_bytes;
	uint8_t *at;

	memset(p, 0, sizeof(*p));
	p->ring.size = shape->size;
	p->ring.features = virtq_features_with(p->ring.features, VIRTIO_F_VERSION_1);
	if (shape->packed)
		p->ring.features = virtq_features_with(p->ring.features, VIRTIO_F_RING_PACKED);
	if (shape->event_idx)
		p->ring.features = virtq_features_with(p->ring.features, VIRTIO_F_EVENT_IDX);
	assert_int_equal(virtq_ring_shape(p->ring.features, shape->size, &areas), 0);
	ring_bytes = (areas.total_bytes + 4095) / 4096 * 4096;
	assert_int_equal(virtq_mapping_create(&p->memory, ring_bytes + data_bytes, NULL), 0);
	at = virtq_mapping_host(p->memory);
	p->ring.desc = at;
	p->ring.driver = at + areas.driver_offset;
	p->ring.device = at + areas.device_offset;
	p->data = at + ring_bytes;
	p->data_bytes = data_bytes;
	p->map = pair_new_map(p);

	if (virtq_driver_create(&p->driver, &(struct virtq_driver_config){ .ring = p->ring }, &err))
		fail_msg("driver end: %s", err.text);
	if (virtq_device_create(&p->device, &(struct virtq_device_config){
					.ring = p->ring, .map = p->map,
					.max_segs = model->max_segs,
					.req_bytes = model->ops->req_bytes }, &err))
		fail_msg("device end: %s", err.text);
}

void pair_close(struct pair *p)
{
	virtq_driver_destroy(p->driver);
	virtq_device_destroy(p->device);
	virtq_map_unref(p->map);
	virtq_mapping_unref(p->memory);
}

void chain_readable(struct chain *c, size_t offset, size_t bytes)
{
	assert_int_equal(c->writable, 0);
	assert_in_range(c->readable, 0, PAIR_SEGS_MAX - 1);
	c->segs[c->readable++] = (struct virtq_seg){ PAIR_DATA_GPA + offset, (uint32_t)bytes };
}

void chain_writable(struct chain *c, size_t offset, size_t bytes)
{
	assert_in_range(c->readable + c->writable, 0, PAIR_SEGS_MAX - 1);
	c->segs[c->readable + c->writable++] =
		(struct virtq_seg){ PAIR_DATA_GPA + offset, (uint32_t)bytes };
}

void chain_add(struct pair *p, const struct chain *c, void *token)
{
	struct virtq_buffer buf = { c->segs, c->readable, c->writable, token };

	assert_int_equal(virtq_driver_add(p->driver, &buf, 1), 1);
}

uint8_t file_pattern(size_t offset)
{
	return (uint8_t)(offset * 31 + (offset >> 9) * 7 + 1);
}

char *file_make(size_t bytes)
{
	char *path = strdup("./disk-XXXXXX");
	uint8_t *content = malloc(bytes + 1);
	int fd;

	assert_non_null(path);
	assert_non_null(content);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (size_t i = 0; i < bytes; i++)
		content[i] = file_pattern(i);
	assert_int_equal(write(fd, content, bytes), (ssize_t)bytes);
	close(fd);
	free(content);
	return path;
}

void file_drop(char *path)
{
	unlink(path);
	free(path);
}

void file_read(const char *path, size_t offset, void *dst, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, dst, bytes, (off_t)offset), (ssize_t)bytes);
	close(fd);
}

struct virtq_model *disk_make(const struct virtq_blk_options *options)
{
	struct virtq_model *model = NULL;
	struct virtq_error err = { 0 };

	if (virtq_blk_create(&model, options, &err))
		fail_msg("disk: %s", err.text);
	return model;
}
