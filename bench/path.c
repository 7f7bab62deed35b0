/* SPDX-License-Identifier: MIT */
/*
 * The ways that buffers are sent in bench/ring: the loops that are timed, and
 * what they need set up.
 */
#include "path.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "spsc.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define MEMORY_GPA 0x100000u	/* where the device sees the memory; no pointer by chance */
#define STALL_NS 10000000000u	/* nothing moves for this long: buffers were lost */
#define STALL_POLLS (1u << 20)	/* empty polls between two looks at the clock */

struct path {
	enum path_kind kind;
	unsigned int depth;
	unsigned int writable_bytes;
	struct virtq_mapping *memory;
	struct virtq_map *map;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_buffer *bufs;	/* @depth of them; each is its own token */
	struct virtq_seg *segs;
	struct spsc *there, *back;

	/* Of the thread at the driver end. */
	_Alignas(64) unsigned int send_at;
	unsigned int take_at;
	uint64_t kicks;
	const char *driver_failure;

	/* Of the thread at the device end. */
	_Alignas(64) uint64_t calls;
	const char *device_failure;

	_Alignas(64) atomic_int stop;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- The loops ---------------------------------------------------------- */

/* Send the next @n buffers. Slices never wrap: the depth is a multiple of the batch. */
ALWAYS_INLINE int send_batch(struct path *p, unsigned int n, const int floor_path)
{
	struct virtq_buffer *bufs = &p->bufs[p->send_at];

	if (floor_path) {
		for (unsigned int i = 0; i < n; i++)
			if (!spsc_stage(p->there, &bufs[i])) {
				p->driver_failure = "the pointer ring is full with room left";
				return -1;
			}
		spsc_publish(p->there);
	} else {
		if (virtq_driver_add(p->driver, bufs, n) != (int)n) {
			p->driver_failure = "the ring is full with room left";
			return -1;
		}
		p->kicks += (unsigned int)virtq_driver_publish(p->driver);
	}
	p->send_at += n;
	if (p->send_at == p->depth)
		p->send_at = 0;
	return 0;
}

/* The device end: take up to @max buffers and give them back full. */
ALWAYS_INLINE int serve_batch(struct path *p, unsigned int max, const int floor_path)
{
	struct virtq_req *reqs[PATH_BATCH_MAX];
	int n;

	if (floor_path) {
		void *taken[PATH_BATCH_MAX];

		n = (int)spsc_take(p->there, taken, max);
		for (int i = 0; i < n; i++)
			if (!spsc_stage(p->back, taken[i])) {
				p->device_failure = "the pointer ring back is full";
				return -1;
			}
		if (n)
			spsc_publish(p->back);
		return n;
	}
	n = virtq_device_pop(p->device, reqs, max);
	if (n < 0) {
		p->device_failure = virtq_fault_text(virtq_device_fault(p->device).code);
		return -1;
	}
	if (!n)
		return 0;
	for (int i = 0; i < n; i++) {
		if (reqs[i]->wr.bytes != p->writable_bytes) {
			p->device_failure = "a chain arrived at the device with another length";
			return -1;
		}
		reqs[i]->written = p->writable_bytes;
	}
	virtq_device_push(p->device, reqs, (unsigned int)n);
	p->calls += (unsigned int)virtq_device_publish(p->device);
	return n;
}

/* The driver end: take back up to @max buffers, each the one that is due. */
ALWAYS_INLINE int take_batch(struct path *p, unsigned int max, const int floor_path)
{
	struct virtq_completion done[PATH_BATCH_MAX];
	void *taken[PATH_BATCH_MAX];
	int n;

	if (floor_path) {
		n = (int)spsc_take(p->back, taken, max);
	} else {
		n = virtq_driver_get(p->driver, done, max);
		if (n < 0) {
			p->driver_failure = virtq_fault_text(virtq_driver_fault(p->driver).code);
			return -1;
		}
	}
	for (int i = 0; i < n; i++) {
		void *token = floor_path ? taken[i] : done[i].token;

		if (token != &p->bufs[p->take_at]) {
			p->driver_failure = "a buffer came back that was not due";
			return -1;
		}
		if (!floor_path && done[i].written != p->writable_bytes) {
			p->driver_failure = "a buffer came back with another length";
			return -1;
		}
		if (++p->take_at == p->depth)
			p->take_at = 0;
	}
	return n;
}

ALWAYS_INLINE int turn_one(struct path *p, unsigned int batch, uint64_t rounds,
			   const int floor_path)
{
	while (rounds--) {
		if (send_batch(p, batch, floor_path))
			return -1;
		if (serve_batch(p, batch, floor_path) != (int)batch) {
			if (!p->device_failure)
				p->device_failure = "the device end did not see every buffer";
			return -1;
		}
		if (take_batch(p, batch, floor_path) != (int)batch) {
			if (!p->driver_failure)
				p->driver_failure = "not every buffer came back";
			return -1;
		}
	}
	return 0;
}

/* Keep the ring as full as the depth allows until @total buffers are back. */
ALWAYS_INLINE int turn_driver(struct path *p, unsigned int batch, uint64_t total,
			      const int floor_path)
{
	uint64_t sent = 0, taken = 0, stalled_since = 0;
	unsigned int empty = 0;

	while (taken < total) {
		int n;

		if (sent < total && sent - taken + batch <= p->depth) {
			if (send_batch(p, batch, floor_path))
				return -1;
			sent += batch;
		}
		n = take_batch(p, batch, floor_path);
		if (n < 0)
			return -1;
		taken += (unsigned int)n;
		if (n) {
			empty = 0;
			stalled_since = 0;
		} else if (++empty == STALL_POLLS) {
			uint64_t now = now_ns();

			empty = 0;
			if (!stalled_since)
				stalled_since = now;
			if (now - stalled_since > STALL_NS) {
				p->driver_failure = "buffers were lost: none came back for 10 s";
				return -1;
			}
		}
		if (!n && atomic_load_explicit(&p->stop, memory_order_relaxed))
			return -1;
	}
	/* Each came back once; one more would be a buffer that nobody sent. */
	if (take_batch(p, 1, floor_path) != 0) {
		p->driver_failure = "a buffer came back twice";
		return -1;
	}
	return 0;
}

ALWAYS_INLINE void turn_device(struct path *p, unsigned int batch, const int floor_path)
{
	while (!atomic_load_explicit(&p->stop, memory_order_relaxed))
		if (serve_batch(p, batch, floor_path) < 0)
			atomic_store(&p->stop, 1);
}

/* ---- Running them ------------------------------------------------------- */

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	return pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* Zero the counters, check the batch; returns how many whole batches make @buffers. */
static uint64_t begin(struct path *p, unsigned int batch, uint64_t buffers)
{
	p->kicks = p->calls = 0;
	p->driver_failure = p->device_failure = NULL;
	p->send_at = p->take_at = 0;
	atomic_store(&p->stop, 0);
	if (!batch || batch > PATH_BATCH_MAX || p->depth % batch)
		return 0;
	return (buffers + batch - 1) / batch;
}

static double end(struct path *p, uint64_t ns, uint64_t buffers, struct path_counts *counts,
		  char why[PATH_TEXT_BYTES])
{
	counts->kicks = p->kicks;
	counts->calls = p->calls;
	if (p->driver && !p->driver_failure &&
	    (virtq_driver_in_flight(p->driver) || virtq_device_in_flight(p->device)))
		p->driver_failure = "a buffer is still in flight after the last came back";
	if (p->driver_failure || p->device_failure) {
		snprintf(why, PATH_TEXT_BYTES, "%s",
			 p->device_failure ? p->device_failure : p->driver_failure);
		return -1;
	}
	return (double)ns / (double)buffers;
}

double path_run_one(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		    struct path_counts *counts, char why[PATH_TEXT_BYTES])
{
	uint64_t rounds = begin(p, batch, buffers), start;

	if (!rounds || pin(cpu)) {
		snprintf(why, PATH_TEXT_BYTES,
			 "a depth of %u is no multiple of the batch, or processor %d cannot be used",
			 p->depth, cpu);
		return -1;
	}
	start = now_ns();
	if (p->kind == PATH_FLOOR)
		turn_one(p, batch, rounds, 1);
	else
		turn_one(p, batch, rounds, 0);
	return end(p, now_ns() - start, rounds * batch, counts, why);
}

struct device_thread {
	struct path *path;
	unsigned int batch;
	int cpu;
	atomic_int ready;	/* 1, or -1 if it cannot run */
};

static void *device_main(void *arg)
{
	struct device_thread *t = arg;

	if (pin(t->cpu)) {
		atomic_store(&t->ready, -1);
		return NULL;
	}
	atomic_store(&t->ready, 1);
	if (t->path->kind == PATH_FLOOR)
		turn_device(t->path, t->batch, 1);
	else
		turn_device(t->path, t->batch, 0);
	return NULL;
}

double path_run_two(struct path *p, unsigned int batch, uint64_t buffers, const int cpus[2],
		    struct path_counts *counts, char why[PATH_TEXT_BYTES])
{
	struct device_thread t = { .path = p, .batch = batch, .cpu = cpus[1] };
	uint64_t rounds = begin(p, batch, buffers), start, ns = 0;
	pthread_t thread;
	int rc = rounds && !pin(cpus[0]) ? 0 : EINVAL;

	if (!rc)
		rc = pthread_create(&thread, NULL, device_main, &t);
	if (rc) {
		snprintf(why, PATH_TEXT_BYTES, "cannot run two threads on processors %d and %d: %s",
			 cpus[0], cpus[1], strerror(rc));
		return -1;
	}
	while (!atomic_load(&t.ready))
		sched_yield();
	if (atomic_load(&t.ready) < 0) {
		p->device_failure = "the second thread cannot run on its processor";
	} else {
		start = now_ns();
		if (p->kind == PATH_FLOOR)
			turn_driver(p, batch, rounds * batch, 1);
		else
			turn_driver(p, batch, rounds * batch, 0);
		ns = now_ns() - start;
	}
	atomic_store(&p->stop, 1);
	pthread_join(thread, NULL);
	return end(p, ns, rounds * batch, counts, why);
}

/* ---- Set-up ------------------------------------------------------------- */

static unsigned int round_up(unsigned int v)
{
	return (v + 63) & ~63u;
}

/* The buffers themselves, one beside the other, none sharing a cache line with the next. */
static int fill_buffers(struct path *p, const struct path_shape *shape, uint64_t gpa)
{
	unsigned int count = shape->readable + shape->writable;

	p->bufs = calloc(p->depth, sizeof(*p->bufs));
	p->segs = calloc((size_t)p->depth * count, sizeof(*p->segs));
	if (!p->bufs || !p->segs)
		return -ENOMEM;
	for (unsigned int i = 0; i < p->depth; i++) {
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
	if (p->kind == PATH_PACKED)
		features = virtq_features_with(features, VIRTIO_F_RING_PACKED);
	rc = virtq_ring_shape(features, size, &area);
	if (rc)
		return rc;
	tables = (area.total_bytes + 4095) & ~(size_t)4095;
	data = tables + (((size_t)size * count * 16 + 4095) & ~(size_t)4095);
	total = data + (size_t)p->depth * chain_bytes;
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
	return fill_buffers(p, shape, MEMORY_GPA + data);
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
