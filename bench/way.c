/* SPDX-License-Identifier: MIT */
/* The ways to drive a queue that bench/driver compares: setting them up. */
#include "way.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/spec/virtio.h>

#include "way_inside.h"

static struct virtq_features features(enum way_layout layout, const struct way *w)
{
	struct virtq_features f = { { 0 } };

	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (w->items > 1)
		f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	if (layout == WAY_PACKED || layout == WAY_PACKED_IN_ORDER)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (layout == WAY_SPLIT_IN_ORDER || layout == WAY_PACKED_IN_ORDER)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	return f;
}

/* Without a map transfers reach the port's own memory, and nothing else. */
static bool in_the_port(const struct way *w)
{
	return w->kind == WAY_SEND_AGAIN || w->kind == WAY_SEND_NEW;
}

static int open_port(struct way *w, enum way_layout layout, struct virtq_error *err)
{
	struct virtq_port_config config = {
		.features = features(layout, w), .size = w->count,
		.indirect_entries = w->items > 1 ? w->items : 0,
		.keep = w->kind == WAY_BARE_KEPT || w->kind == WAY_SEND_AGAIN ||
			w->kind == WAY_SEND_AGAIN_MAP,
		.extra_bytes = in_the_port(w) ? (uint64_t)w->count * w->bytes : 0,
	};
	int rc = virtq_port_create(&w->port, &config, err);

	if (!rc)
		w->driver = virtq_port_driver(w->port);
	return rc;
}

/* The buffers' memory; its pages are there before the clock runs. */
static int open_memory(struct way *w, struct virtq_error *err)
{
	int rc = 0;

	if (!in_the_port(w))
		rc = virtq_mapping_create(&w->memory, (uint64_t)w->count * w->bytes, err);
	if (rc)
		return rc;
	w->bytes_at = in_the_port(w) ? virtq_port_extra(w->port) : virtq_mapping_host(w->memory);
	memset(w->bytes_at, 0xa5, (size_t)w->count * w->bytes);
	return 0;
}

/* The device end sees the queue's memory, and the buffers' if they are not in it. */
static int open_device(struct way *w, struct virtq_port *port, struct virtq_error *err)
{
	struct virtq_device_config config = { .ring = *virtq_driver_ring(w->driver) };
	struct virtq_region regions[2];
	unsigned int count;
	int rc;

	regions[0] = virtq_port_regions(port, &count)[0];
	if (w->memory && !w->pool)
		regions[count++] = (struct virtq_region){
			.gpa = (uintptr_t)w->bytes_at, .host = w->bytes_at,
			.user = (uintptr_t)w->bytes_at,
			.size_bytes = virtq_mapping_bytes(w->memory),
			.fd = virtq_mapping_fd(w->memory), .access = VIRTQ_ACCESS_RW,
			.mapping = w->memory };
	rc = virtq_map_create(&w->map, regions, count, err);
	if (rc)
		return rc;
	config.map = w->map;
	rc = virtq_device_create(&w->device, &config, err);
	if (rc)
		return rc;
	/* Both ends poll. */
	virtq_driver_disarm(w->driver);
	virtq_device_disarm(w->device);
	return 0;
}

/* Where element @k of buffer @i lies. */
static uint8_t *element(const struct way *w, unsigned int i, unsigned int k)
{
	return w->bytes_at + (size_t)i * w->bytes + (size_t)k * (w->bytes / w->items);
}

static int open_bare(struct way *w, enum way_layout layout, struct virtq_error *err)
{
	int rc = open_port(w, layout, err);

	if (!rc)
		rc = open_memory(w, err);
	if (!rc)
		rc = open_device(w, w->port, err);
	if (!rc && w->kind == WAY_BARE_KEPT && !virtq_driver_keeps(w->driver))
		rc = -ENOTSUP;
	if (rc)
		return rc;
	w->written = w->bytes;
	w->bufs = calloc(w->count, sizeof(*w->bufs));
	w->done = calloc(w->count, sizeof(*w->done));
	w->segs = calloc((size_t)w->count * w->items, sizeof(*w->segs));
	if (!w->bufs || !w->done || !w->segs)
		return -ENOMEM;
	for (unsigned int i = 0; i < w->count; i++) {
		struct virtq_seg *segs = &w->segs[(size_t)i * w->items];

		for (unsigned int k = 0; k < w->items; k++)
			segs[k] = (struct virtq_seg){ .addr = (uintptr_t)element(w, i, k),
						      .len = w->bytes / w->items };
		w->bufs[i] = (struct virtq_buffer){ .segs = segs, .writable = (uint16_t)w->items,
						    .token = &w->bufs[i] };
	}
	return 0;
}

/* A header and a payload for each packet, out of memory of the caller's. */
static int open_offers(struct way *w, struct virtq_error *err)
{
	int rc = open_memory(w, err);

	if (rc)
		return rc;
	w->offers = calloc(w->count, sizeof(*w->offers));
	w->payloads = calloc(w->count, sizeof(*w->payloads));
	if (!w->offers || !w->payloads)
		return -ENOMEM;
	for (unsigned int i = 0; i < w->count; i++) {
		w->payloads[i] = (struct virtq_span){ .base = element(w, i, 0),
						      .len = w->bytes - WAY_HEADER_BYTES };
		w->offers[i] = (struct virtq_offer){ .header = w->header,
			.header_bytes = WAY_HEADER_BYTES, .parts = &w->payloads[i],
			.part_count = 1 };
	}
	return 0;
}

static int open_pool(struct way *w, enum way_layout layout, struct virtq_error *err)
{
	bool read = w->kind == WAY_POOL_ALLOC || w->kind == WAY_POOL_RESIZE ||
		    w->kind == WAY_POOL_COPY;
	bool held = w->kind == WAY_POOL_RECYCLE || w->kind == WAY_POOL_RECYCLE_LOCKED ||
		    w->kind == WAY_POOL_RESIZE;
	struct virtq_pool_config config = {
		.features = features(layout, w), .size = w->count,
		.indirect_entries = w->items > 1 ? w->items : 0,
		.item_bytes = (w->bytes / w->items + 63) & ~63u, .items = w->count * w->items,
		.threads = w->kind == WAY_POOL_REBUILD_LOCKED ||
			   w->kind == WAY_POOL_RECYCLE_LOCKED,
	};
	int rc = virtq_pool_create(&w->pool, &config, err);

	if (rc)
		return rc;
	w->driver = virtq_port_driver(virtq_pool_port(w->pool));
	rc = open_device(w, virtq_pool_port(w->pool), err);
	if (!rc && w->kind == WAY_POOL_COPY)
		rc = open_offers(w, err);
	if (rc)
		return rc;
	w->written = read ? 0 : w->bytes;
	w->chains = calloc(w->count, sizeof(*w->chains));
	if (!w->chains)
		return -ENOMEM;
	for (unsigned int i = 0; held && i < w->count; i++) {
		rc = virtq_pool_alloc(w->pool, read ? w->bytes : 0, read ? 0 : w->bytes,
				      &w->chains[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static int open_transfers(struct way *w, enum way_layout layout, struct virtq_error *err)
{
	struct virtq_transfers_config config = { .transfers_max = w->count,
						 .pieces_max = w->items };
	int rc = open_port(w, layout, err);

	if (!rc)
		rc = open_memory(w, err);
	if (!rc)
		rc = open_device(w, w->port, err);
	if (rc)
		return rc;
	config.port = w->port;
	if (w->kind == WAY_SEND_AGAIN_MAP || w->kind == WAY_SEND_NEW_MAP)
		config.map = w->map;
	rc = virtq_transfers_create(&w->set, &config, err);
	if (rc)
		return rc;
	w->written = w->bytes;
	w->sent = calloc(w->count, sizeof(struct virtq_transfer *));
	w->pieces = calloc((size_t)w->count * w->items, sizeof(*w->pieces));
	if (!w->sent || !w->pieces)
		return -ENOMEM;
	for (unsigned int i = 0; i < w->count; i++) {
		struct virtq_piece *pieces = &w->pieces[(size_t)i * w->items];

		for (unsigned int k = 0; k < w->items; k++)
			pieces[k] = (struct virtq_piece){ .base = element(w, i, k),
							  .len = w->bytes / w->items };
		if (w->kind == WAY_SEND_NEW || w->kind == WAY_SEND_NEW_MAP)
			continue;
		rc = virtq_transfer_prepare(w->set, &w->sent[i], pieces, 0, w->items, NULL, NULL);
		if (rc)
			return rc;
	}
	return 0;
}

static int open_memcpy(struct way *w, struct virtq_error *err)
{
	int rc = open_offers(w, err);

	if (rc)
		return rc;
	w->copy = aligned_alloc(4096, ((size_t)w->count * w->bytes + 4095) & ~(size_t)4095);
	if (!w->copy)
		return -ENOMEM;
	memset(w->copy, 0x5a, (size_t)w->count * w->bytes);
	return 0;
}

static int open_kind(struct way *w, enum way_layout layout, struct virtq_error *err)
{
	switch (w->kind) {
	case WAY_BARE:
	case WAY_BARE_KEPT:
		return open_bare(w, layout, err);
	case WAY_MEMCPY:
		return open_memcpy(w, err);
	case WAY_SEND_AGAIN:
	case WAY_SEND_AGAIN_MAP:
	case WAY_SEND_NEW:
	case WAY_SEND_NEW_MAP:
		return open_transfers(w, layout, err);
	default:
		return open_pool(w, layout, err);
	}
}

struct way *way_open(enum way_kind kind, enum way_layout layout, const struct way_shape *shape,
		     unsigned int count, char why[WAY_TEXT_BYTES])
{
	struct way *w = calloc(1, sizeof(*w));
	struct virtq_error err = { 0 };
	int rc = -ENOMEM;

	if (w) {
		w->kind = kind;
		w->count = count;
		w->bytes = shape->bytes;
		w->items = shape->items;
		rc = open_kind(w, layout, &err);
	}
	if (!rc)
		return w;
	if (rc == -ENOTSUP)
		why[0] = '\0';
	else if (err.code)
		snprintf(why, WAY_TEXT_BYTES, "%.*s", WAY_TEXT_BYTES - 1, err.text);
	else
		snprintf(why, WAY_TEXT_BYTES, "cannot set it up: %s", strerror(-rc));
	way_close(w);
	return NULL;
}

void way_close(struct way *w)
{
	if (!w)
		return;
	virtq_transfers_destroy(w->set);
	virtq_pool_destroy(w->pool);
	virtq_device_destroy(w->device);
	virtq_port_destroy(w->port);
	virtq_map_unref(w->map);
	virtq_mapping_unref(w->memory);
	free(w->bufs);
	free(w->segs);
	free(w->done);
	free(w->chains);
	free(w->offers);
	free(w->payloads);
	free(w->copy);
	free(w->sent);
	free(w->pieces);
	free(w);
}
