/* SPDX-License-Identifier: MIT */
/* What the tests of faults.c and faults_memory.c share: a pool with a device, over each layout. */
#ifndef TESTS_TRANSFER_FAULTS_RIG_H
#define TESTS_TRANSFER_FAULTS_RIG_H

#include "far_end.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include <virtq/pool.h>
#include <virtq/transfer.h>

/* ---- A pool and its device ---------------------------------------------------- */

struct rig {
	struct layout layout;
	struct virtq_pool *pool;
	struct far_end far;
	int kick_fd, call_fd;
};

static inline struct virtq_pool_config usual(struct layout layout)
{
	return (struct virtq_pool_config){
		.features = layout_features(layout), .size = 8, .indirect_entries = 8,
		.item_bytes = 64, .items = 8, .reserve_bytes = 64,
	};
}

static inline void rig_open_as(struct rig *r, struct layout layout,
			const struct virtq_pool_config *config)
{
	struct virtq_error err;

	memset(r, 0, sizeof(*r));
	r->layout = layout;
	if (virtq_pool_create(&r->pool, config, &err))
		fail_msg("%s", err.text);
	far_open(&r->far, virtq_pool_port(r->pool), NULL, 0, true);
	r->kick_fd = virtq_port_kick_fd(r->far.port);
	r->call_fd = virtq_port_call_fd(r->far.port);
}

static inline void rig_open(struct rig *r, struct layout layout)
{
	struct virtq_pool_config config = usual(layout);

	rig_open_as(r, layout, &config);
}

static inline void rig_close(struct rig *r)
{
	far_close(&r->far);
	virtq_pool_destroy(r->pool);
}

/* Return up to @count with @bytes written each; how many. Calls only if it says so and is to. */
static inline unsigned int serve(struct rig *r, unsigned int count, uint32_t bytes, bool call)
{
	struct virtq_req *reqs[64];
	int rc = virtq_device_pop(r->far.device, reqs, count);

	assert_true(rc >= 0);
	for (int i = 0; i < rc; i++)
		virtq_req_wrote(reqs[i], bytes);
	virtq_device_push(r->far.device, reqs, (unsigned int)rc);
	if (virtq_device_publish(r->far.device) && call)
		virtq_notify_send(r->call_fd);
	return (unsigned int)rc;
}

static inline int offer_bytes(struct rig *r, const void *bytes, size_t len,
			      struct virtq_chain *chain,
		       const struct virtq_wait *wait)
{
	struct virtq_span part = { (void *)(uintptr_t)bytes, len };
	struct virtq_offer offer = { .parts = &part, .part_count = 1 };

	return virtq_pool_offer(r->pool, &offer, 1, chain, 0, wait);
}

static inline void all_free(struct rig *r)
{
	struct virtq_pool_room room = virtq_pool_room(r->pool);

	assert_int_equal(room.items, 8);
	assert_int_equal(room.entries, 8);
	assert_int_equal(room.held, 0);
	assert_int_equal(room.in_flight, 0);
}

static inline int64_t now_ms(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline unsigned int count_lines(const char *path)
{
	unsigned int lines = 0;
	FILE *f = fopen(path, "r");
	int c;

	assert_non_null(f);
	while ((c = getc(f)) != EOF)
		lines += c == '\n';
	fclose(f);
	return lines;
}

static inline unsigned int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(d);
	while (readdir(d))
		count++;
	closedir(d);
	return count;
}

static const struct virtq_wait ever __attribute__((unused)) = { -1, NULL };
static const struct virtq_wait second __attribute__((unused)) = { 10000, NULL };

#define EACH_LAYOUT(r) \
	for (unsigned int each_ = 0; each_ < LAYOUTS; each_++) \
		for (bool once_ = (rig_open(r, layout_at(each_)), true); once_; \
		     once_ = false, rig_close(r))

#endif
