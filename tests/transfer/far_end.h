/* SPDX-License-Identifier: MIT */
/*
 * A device for the tests of pool and transfers: the device end over the memory
 * of a port, seen through a mapping of its own, as a device in another process
 * would see it. What the port's side makes inaccessible stays open here.
 */
#ifndef TESTS_TRANSFER_FAR_END_H
#define TESTS_TRANSFER_FAR_END_H

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

#include <virtq/device.h>
#include <virtq/notify.h>
#include <virtq/port.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

/* ---- Layouts ------------------------------------------------------------ */

struct layout {
	bool packed, in_order, event_idx, indirect;
};

static inline struct virtq_features layout_features(struct layout l)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	if (l.packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (l.in_order)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	if (l.event_idx)
		f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (l.indirect)
		f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	return f;
}

/* The @i-th of LAYOUTS. */
#define LAYOUTS 16u
static inline struct layout layout_at(unsigned int i)
{
	return (struct layout){ .packed = i & 1, .in_order = i & 2, .event_idx = i & 4,
				.indirect = i & 8 };
}

static inline const char *layout_name(struct layout l)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s%s%s%s", l.packed ? "packed" : "split",
		 l.in_order ? " in order" : "", l.event_idx ? " event" : "",
		 l.indirect ? " indirect" : "");
	return name;
}

/* ---- The device ---------------------------------------------------------- */

#define FAR_REGIONS 17u

struct far_end {
	struct virtq_port *port;
	struct virtq_mapping *view;	/* NULL: it sees the memory where the port does */
	struct virtq_region regions[FAR_REGIONS];
	unsigned int region_count;
	struct virtq_map *map;
	struct virtq_ring ring;
	struct virtq_device *device;
};

static inline void *far_ptr(const struct far_end *far, const void *near)
{
	const struct virtq_region *at;
	unsigned int count;

	at = virtq_port_regions(far->port, &count);
	return (uint8_t *)far->regions[0].host + ((const uint8_t *)near - (uint8_t *)at->host);
}

/* The device end, for a new ring: at the beginning, and after a reset. */
static inline void far_start(struct far_end *far)
{
	const struct virtq_ring *near = virtq_driver_ring(virtq_port_driver(far->port));
	struct virtq_device_config config = { 0 };
	struct virtq_error err;

	virtq_device_destroy(far->device);
	far->ring = *near;
	far->ring.desc = far_ptr(far, near->desc);
	far->ring.driver = far_ptr(far, near->driver);
	far->ring.device = far_ptr(far, near->device);
	config.ring = far->ring;
	config.map = far->map;
	config.long_chains = near->size;
	if (virtq_device_create(&far->device, &config, &err))
		fail_msg("device end: %s", err.text);
}

/*
 * @more: memory beside the port's that the device shall reach, @more_count
 * regions of it. With @own_view the port's is mapped a second time, from the fd it says.
 */
static inline void far_open(struct far_end *far, struct virtq_port *port,
			    const struct virtq_region *more, unsigned int more_count,
			    bool own_view)
{
	struct virtq_error err;
	unsigned int count;

	memset(far, 0, sizeof(*far));
	far->port = port;
	far->regions[0] = virtq_port_regions(port, &count)[0];
	assert_int_equal(count, 1);
	if (own_view) {
		int fd = fcntl(far->regions[0].fd, F_DUPFD_CLOEXEC, 0);

		assert_true(fd >= 0);
		if (virtq_mapping_open(&far->view, fd, far->regions[0].fd_offset_bytes,
				       far->regions[0].size_bytes, VIRTQ_ACCESS_RW, &err))
			fail_msg("a second view: %s", err.text);
		far->regions[0].host = virtq_mapping_host(far->view);
		far->regions[0].mapping = far->view;
	}
	far->region_count = 1;
	while (more_count--)
		far->regions[far->region_count++] = *more++;
	if (virtq_map_create(&far->map, far->regions, far->region_count, &err))
		fail_msg("map: %s", err.text);
	far_start(far);
}

static inline void far_close(struct far_end *far)
{
	virtq_device_destroy(far->device);
	virtq_map_unref(far->map);
	virtq_mapping_unref(far->view);
	memset(far, 0, sizeof(*far));
}

static inline void far_put16(void *at, uint16_t v)
{
	uint8_t *p = at;

	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void far_put32(void *at, uint32_t v)
{
	far_put16(at, (uint16_t)v);
	far_put16((uint8_t *)at + 2, (uint16_t)(v >> 16));
}

static inline uint16_t far_get16(const void *at)
{
	const uint8_t *p = at;

	return (uint16_t)(p[0] | p[1] << 8);
}

/* Show a used element for @id with @len bytes written, whatever the device end thinks. */
static inline void far_lie(struct far_end *far, uint32_t id, uint32_t len)
{
	if (virtq_features_has(far->ring.features, VIRTIO_F_RING_PACKED)) {
		uint32_t at = virtq_device_position(far->device) >> 16;
		uint8_t *desc = (uint8_t *)far->ring.desc + 16 * (size_t)(at & 0x7fff);

		far_put32(desc + 8, len);
		far_put16(desc + 12, (uint16_t)id);
		/* Without WRITE the length would mean nothing (2.8.4). */
		far_put16(desc + 14, (at & 0x8000 ? 1u << VIRTQ_DESC_F_AVAIL |
						    1u << VIRTQ_DESC_F_USED : 0) |
				     (len ? VIRTQ_DESC_F_WRITE : 0));
	} else {
		uint8_t *used = far->ring.device;
		uint16_t idx = far_get16(used + 2);
		uint8_t *elem = used + 4 + 8 * (size_t)(idx & (far->ring.size - 1));

		far_put32(elem, id);
		far_put32(elem + 4, len);
		far_put16(used + 2, (uint16_t)(idx + 1));
	}
}

/* Name a buffer that there is none of. */
static inline void far_break(struct far_end *far)
{
	far_lie(far, far->ring.size + 7, 0);
}

static inline bool fd_readable(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

/* ---- Chance --------------------------------------------------------------- */

static inline uint32_t chance(uint64_t *seed, uint32_t below)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((*seed >> 33) % below);
}

/* What the tests of random steps take from their command line. */
struct run {
	uint64_t steps, seed;
	const char *only;	/* configurations whose name has this in it; NULL for all */
};

static inline struct run run_parse(int argc, char **argv, uint64_t steps)
{
	struct run run = { .steps = steps, .seed = 1 };

	for (int i = 1; i < argc; i += 2) {
		if (i + 1 < argc && !strcmp(argv[i], "--steps")) {
			run.steps = strtoull(argv[i + 1], NULL, 0);
		} else if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
			run.seed = strtoull(argv[i + 1], NULL, 0);
		} else if (i + 1 < argc && !strcmp(argv[i], "--only")) {
			run.only = argv[i + 1];
		} else {
			fprintf(stderr, "usage: %s [--steps N] [--seed N] [--only CONFIGURATION]\n",
				argv[0]);
			exit(2);
		}
	}
	return run;
}

#endif
