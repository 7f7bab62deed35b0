/* SPDX-License-Identifier: MIT */
/* A pool in every layout, and a device behind it that does as it is told. */
#ifndef TESTS_TRANSFER_POOL_RIG_H
#define TESTS_TRANSFER_POOL_RIG_H

#include "far_end.h"

#include <virtq/pool.h>

#define ITEM 1024u		/* bytes; not in guard mode */
#define BYTES_MAX 65536u

static const struct virtq_wait forever = { .timeout_ms = -1 };

struct rig {
	struct layout layout;
	struct virtq_pool *pool;
	struct virtq_port *port;
	struct virtq_driver *q;
	struct far_end far;
	/* What the device read last. */
	uint8_t seen[BYTES_MAX];
	size_t seen_bytes;
	unsigned int seen_spans;
};

/* Byte @at of something that is told from others by @seed. */
static inline uint8_t pattern(unsigned int seed, size_t at)
{
	return (uint8_t)(seed * 37 + at * 11 + at / 256 + 1);
}

static inline void fill(void *to, unsigned int seed, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)to)[i] = pattern(seed, i);
}

static inline void assert_filled(const void *what, unsigned int seed, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (((const uint8_t *)what)[i] != pattern(seed, i))
			fail_msg("byte %zu of %zu is another", i, bytes);
}

static inline struct virtq_pool_config rig_config(struct layout layout)
{
	struct virtq_pool_config config = {
		.features = layout_features(layout), .size = 16, .item_bytes = ITEM,
		.items = 24, .reserve_bytes = 200,
		.indirect_entries = layout.indirect ? 8 : 0,
	};

	return config;
}

static inline void rig_open(struct rig *r, struct layout layout,
			    const struct virtq_pool_config *config)
{
	struct virtq_error err;

	memset(r, 0, sizeof(*r));
	r->layout = layout;
	if (virtq_pool_create(&r->pool, config, &err))
		fail_msg("pool: %s", err.text);
	r->port = virtq_pool_port(r->pool);
	r->q = virtq_port_driver(r->port);
	far_open(&r->far, r->port, NULL, 0, config->guard);
}

static inline void rig_close(struct rig *r)
{
	far_close(&r->far);
	virtq_pool_destroy(r->pool);
}

/* After virtq_pool_reset(). */
static inline void rig_again(struct rig *r)
{
	r->q = virtq_port_driver(r->port);
	far_start(&r->far);
}

/* Use up to @max chains: read all of each, write @bytes of pattern @seed, @seed + 1, ... */
static inline unsigned int rig_serve(struct rig *r, unsigned int max, size_t bytes,
				     unsigned int seed)
{
	static __thread uint8_t from[BYTES_MAX];
	unsigned int n = 0;

	while (n < max) {
		struct virtq_req *req;
		int rc = virtq_device_pop(r->far.device, &req, 1);

		assert_true(rc >= 0);
		if (!rc)
			break;
		r->seen_spans = req->rd.count;
		r->seen_bytes = virtq_req_read(req, r->seen, sizeof(r->seen));
		fill(from, seed + n, bytes);
		virtq_req_write(req, from, bytes);
		virtq_device_push(r->far.device, &req, 1);
		n++;
	}
	if (n && virtq_device_publish(r->far.device))
		virtq_notify_send(virtq_port_call_fd(r->port));
	return n;
}

static inline int offer_one(struct rig *r, const void *base, size_t bytes, uint32_t writable,
			    struct virtq_chain *chain)
{
	union { const void *from; void *to; } u = { base };
	struct virtq_span part = { u.to, bytes };
	struct virtq_offer offer = { .parts = &part, .part_count = bytes != 0,
				     .writable_bytes = writable };

	return virtq_pool_offer(r->pool, &offer, 1, chain, 0, NULL);
}

static inline void assert_room(struct rig *r, uint32_t items, uint32_t held, uint32_t in_flight)
{
	struct virtq_pool_room room = virtq_pool_room(r->pool);

	assert_int_equal(room.items, items);
	assert_int_equal(room.held, held);
	assert_int_equal(room.in_flight, in_flight);
}

/* Each test in each layout, as a table for cmocka. */
struct in_all {
	const char *name;
	CMUnitTestFunction test;
};
#define IN_ALL(test) { #test, test }

static inline int run_in_all(const char *group, const struct in_all *tests, size_t count)
{
	static struct layout layouts[LAYOUTS];
	struct CMUnitTest *table = calloc(count * LAYOUTS, sizeof(*table));
	size_t n = 0;
	int rc;

	for (size_t t = 0; t < count; t++) {
		for (unsigned int l = 0; l < LAYOUTS; l++) {
			char name[128];

			layouts[l] = layout_at(l);
			snprintf(name, sizeof(name), "%s [%s]", tests[t].name,
				 layout_name(layouts[l]));
			table[n++] = (struct CMUnitTest){ strdup(name), tests[t].test, NULL, NULL,
							  &layouts[l] };
		}
	}
	rc = _cmocka_run_group_tests(group, table, n, NULL, NULL);
	while (n--) {
		union { const char *from; char *to; } u = { table[n].name };

		free(u.to);
	}
	free(table);
	return rc;
}

#endif
