/* SPDX-License-Identifier: MIT */
/*
 * Two threads, one at each end of a queue, and random traffic between them: in
 * batches, of any length, in tables and not, returned in any order, over all
 * layouts. Each buffer comes once to the device, in turn and with its bytes, and
 * once back, with the bytes and the length that were written; and whoever sleeps
 * is woken (bed.h). Under TSan also: no byte of a buffer is touched by both sides
 * at once. Which order each rule wants is for fences.c and others to prove, one
 * by one; this is everything at the same time.
 *
 *	stress [--seconds S]		as a test, for about S seconds in all (5)
 *	stress --notifications N	until N sleepers were woken by their signal
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <virtq/spec/virtio.h>

#include "stress.h"

#define TABLE_SEGS 8u
#define TABLE_ADDR ((uint64_t)0xf00000)

/* ---- One run ------------------------------------------------------------------ */

struct result {
	char complaint[160];	/* empty: nothing was wrong */
	uint64_t buffers, kicks, calls, wakes;
	double seconds;
};

static void must(bool good, const char *what)
{
	if (!good) {
		fprintf(stderr, "stress: cannot set up: %s\n", what);
		exit(1);
	}
}

static void *zeroed(size_t bytes)
{
	size_t whole = (bytes + 63) / 64 * 64;
	void *p = aligned_alloc(64, whole);

	must(p != NULL, "no memory");
	memset(p, 0, whole);
	return p;
}

/* What is behind both ends: rings, tables and cells. */
struct ground {
	void *desc, *driver_area, *device_area, *tables;
	struct virtq_map *map;
};

static struct virtq_features features_of(const struct mode *mode)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	if (mode->packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (mode->in_order)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	if (mode->event_idx)
		f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (mode->indirect)
		f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	return f;
}

/* The cells as two regions that meet in the middle of one, so that elements are cut there. */
static void two_regions(struct virtq_region *regions, uint64_t addr, uint8_t *host,
			uint64_t bytes, unsigned int access)
{
	uint64_t border = bytes / 2 + CELL / 3;

	for (unsigned int i = 0; i < 2; i++)
		regions[i] = (struct virtq_region){
			.gpa = addr + (i ? border : 0), .host = host + (i ? border : 0),
			.size_bytes = i ? bytes - border : border, .fd = -1, .access = access,
		};
}

static void set_up(struct stress *s, struct ground *g)
{
	const struct mode *mode = s->mode;
	uint64_t cells = (uint64_t)mode->size * CELL;
	size_t table_bytes = (size_t)mode->size * TABLE_SEGS * 16;
	struct virtq_driver_config drv = { 0 };
	struct virtq_device_config dev = { 0 };
	struct virtq_ring_shape shape;
	struct virtq_region regions[5];
	struct virtq_error err = { 0 };

	drv.ring.features = features_of(mode);
	drv.ring.size = mode->size;
	must(virtq_ring_shape(drv.ring.features, mode->size, &shape) == 0, "size");
	drv.ring.desc = g->desc = zeroed(shape.desc_bytes);
	drv.ring.driver = g->driver_area = zeroed(shape.driver_bytes);
	drv.ring.device = g->device_area = zeroed(shape.device_bytes);
	g->tables = zeroed(table_bytes);
	if (mode->indirect) {
		drv.indirect = g->tables;
		drv.indirect_addr = TABLE_ADDR;
		drv.indirect_entries = TABLE_SEGS;
	}
	s->readable = zeroed(cells);
	s->writable = zeroed(cells);
	two_regions(regions, READABLE_ADDR, s->readable, cells, VIRTQ_ACCESS_READ);
	two_regions(regions + 2, WRITABLE_ADDR, s->writable, cells, VIRTQ_ACCESS_RW);
	regions[4] = (struct virtq_region){
		.gpa = TABLE_ADDR, .size_bytes = table_bytes, .host = g->tables, .fd = -1,
		.access = VIRTQ_ACCESS_READ,
	};
	must(virtq_map_create(&g->map, regions, 5, &err) == 0, err.text);
	dev.ring = drv.ring;
	dev.map = g->map;
	must(virtq_driver_create(&s->driver, &drv, &err) == 0, err.text);
	must(virtq_device_create(&s->device, &dev, &err) == 0, err.text);
	s->parcels = zeroed(mode->size * sizeof(*s->parcels));
	s->free_tokens = zeroed(mode->size * sizeof(*s->free_tokens));
	for (uint32_t i = 0; i < mode->size; i++)
		s->free_tokens[s->free_count++] = i;
	s->beds.by_fd = mode->by_fd;
	if (mode->by_fd) {
		s->beds.driver.fd = virtq_notify_open();
		s->beds.device.fd = virtq_notify_open();
		must(s->beds.driver.fd >= 0 && s->beds.device.fd >= 0, "eventfds");
	}
}

static void tear_down(struct stress *s, struct ground *g)
{
	virtq_driver_destroy(s->driver);
	virtq_device_destroy(s->device);
	virtq_map_unref(g->map);
	if (s->beds.by_fd) {
		close(s->beds.driver.fd);
		close(s->beds.device.fd);
	}
	free(g->desc);
	free(g->driver_area);
	free(g->device_area);
	free(g->tables);
	free(s->readable);
	free(s->writable);
	free(s->parcels);
	free(s->free_tokens);
	free(s);
}

/* What went wrong, if something did; both threads have ended. */
static void judge(struct stress *s, struct result *r)
{
	const struct end *end = s->at_device.complaint ? &s->at_device : &s->at_driver;
	struct virtq_completion done;
	struct virtq_req *req;
	const char *what = NULL;

	if (end->complaint) {
		snprintf(r->complaint, sizeof(r->complaint), "buffer %llu %s",
			 (unsigned long long)end->complaint_at, end->complaint);
		return;
	}
	if (s->beds.lost)
		/* What waits in the ring says which signal it was. */
		what = virtq_device_pop(s->device, &req, 1) == 1 ? "a kick was lost" :
		       virtq_driver_get(s->driver, &done, 1) == 1 ? "a call was lost" :
		       "both slept, and nothing was to be done";
	else if (virtq_driver_in_flight(s->driver) || s->free_count != s->mode->size ||
		 virtq_driver_room(s->driver) != s->mode->size ||
		 s->at_device.next != s->at_driver.next)
		what = "not all came back";
	if (what)
		snprintf(r->complaint, sizeof(r->complaint), "%s near buffer %llu", what,
			 (unsigned long long)s->at_driver.next);
}

static void *device_thread(void *arg)
{
	struct stress *s = arg;

	stay_on(1);
	start_together(&s->ready);
	serve(s);
	return NULL;
}

static struct result run(const struct mode *mode)
{
	struct stress *s = zeroed(sizeof(*s));
	struct ground g = { 0 };
	struct result r = { 0 };
	double start = now();
	pthread_t thread;

	s->mode = mode;
	s->at_driver.random = mode->size;
	s->at_device.random = mode->window + 77;
	set_up(s, &g);
	must(pthread_create(&thread, NULL, device_thread, s) == 0, "a thread");
	stay_on(0);
	start_together(&s->ready);
	drive(s);
	bed_stop(&s->beds);
	pthread_join(thread, NULL);
	r.seconds = now() - start;
	r.buffers = s->at_driver.next;
	r.kicks = s->at_driver.asked;
	r.calls = s->at_device.asked;
	/* The device's last sleep was ended by the end of it all, not by a signal. */
	r.wakes = wakes(s) ? wakes(s) - 1 : 0;
	judge(s, &r);
	tear_down(s, &g);
	return r;
}

/* ---- As a test ------------------------------------------------------------------ */

#define LAYOUTS 4u

static void name_it(struct mode *m)
{
	snprintf(m->name, sizeof(m->name), "%s %u%s%s%s%s", m->packed ? "packed" : "split",
		 m->size, m->in_order ? ", in order" : "", m->event_idx ? ", event index" : "",
		 m->indirect ? ", indirect" : "", m->by_fd ? ", eventfds" : "");
}

static void test_traffic(void **state)
{
	const struct mode *mode = *state;
	struct result r = run(mode);

	if (r.complaint[0])
		fail_msg("%s: %s", mode->name, r.complaint);
	assert_true(r.buffers >= BUFFERS_MIN);
	/* If nobody ever slept, nobody had to be woken. */
	assert_true(r.wakes > 0);
}

static int as_tests(double seconds)
{
	static struct mode modes[LAYOUTS * 8];
	static struct CMUnitTest tests[LAYOUTS * 8];

	for (unsigned int i = 0; i < LAYOUTS * 8; i++) {
		struct mode *m = &modes[i];

		m->packed = i & 1;
		m->in_order = i & 2;
		m->event_idx = i & 4;
		m->indirect = i & 8;
		m->size = i & 16 ? 64 : m->packed ? 3 : 4;
		m->window = m->size;
		/* A real sleep for two of each layout. */
		m->by_fd = (i & 16) && m->event_idx == m->indirect;
		m->seconds = seconds / (LAYOUTS * 8);
		name_it(m);
		tests[i] = (struct CMUnitTest){ m->name, test_traffic, NULL, NULL, m };
	}
	return _cmocka_run_group_tests("stress", tests, LAYOUTS * 8, NULL, NULL) ? 1 : 0;
}

/* ---- By number of notifications --------------------------------------------------- */

#define SOAK_SPINS (LAYOUTS * 4)
#define SOAK_FDS (LAYOUTS * 2)

/*
 * One buffer at a time, where each is a kick and a call, and bursts, where the
 * events fall anywhere; a hundredth of all through eventfds.
 */
static void soak_mode(struct mode *m, unsigned int i, uint64_t wanted)
{
	memset(m, 0, sizeof(*m));
	m->packed = i & 1;
	m->in_order = i & 2;
	m->event_idx = i & 4;
	m->by_fd = i >= SOAK_SPINS;
	m->plain = true;
	m->size = m->packed ? 5 : 4;
	m->window = (i & 8) || m->by_fd ? m->size : 1;
	m->wakes = m->by_fd ? wanted / 100 / SOAK_FDS : (wanted - wanted / 100) / SOAK_SPINS;
	m->wakes += 2;		/* one that does not count, and what division drops */
	name_it(m);
}

static int soak(uint64_t wanted)
{
	uint64_t kicks = 0, calls = 0, done = 0, buffers = 0;
	double start = now();
	struct mode mode;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned int i = 0; i < SOAK_SPINS + SOAK_FDS; i++) {
		struct result r;

		soak_mode(&mode, i, wanted);
		r = run(&mode);
		kicks += r.kicks;
		calls += r.calls;
		done += r.wakes;
		buffers += r.buffers;
		printf("%-34s window %u: %9llu woken, %9llu kicks and %9llu calls asked for, %9llu buffers, %5.1f s; %llu of %llu\n",
		       mode.name, mode.window, (unsigned long long)r.wakes,
		       (unsigned long long)r.kicks, (unsigned long long)r.calls,
		       (unsigned long long)r.buffers, r.seconds, (unsigned long long)done,
		       (unsigned long long)wanted);
		if (r.complaint[0]) {
			printf("FAILED: %s\n", r.complaint);
			return 1;
		}
	}
	printf("%llu notifications woke a sleeper (%llu kicks and %llu calls asked for, %llu buffers) in %.0f s; none was lost\n",
	       (unsigned long long)done, (unsigned long long)kicks, (unsigned long long)calls,
	       (unsigned long long)buffers, now() - start);
	return done >= wanted ? 0 : 1;
}

int main(int argc, char **argv)
{
	double seconds = 5;
	char *end = NULL;

	sched_getaffinity(0, sizeof(processors), &processors);
	if (argc == 3 && !strcmp(argv[1], "--notifications")) {
		unsigned long long wanted = strtoull(argv[2], &end, 10);

		if (!*end && wanted)
			return soak(wanted);
	} else if (argc == 3 && !strcmp(argv[1], "--seconds")) {
		seconds = strtod(argv[2], &end);
	}
	if (argc == 1 || (end && !*end && seconds > 0))
		return as_tests(seconds);
	fprintf(stderr, "usage: %s [--seconds S | --notifications N]\n", argv[0]);
	return 2;
}
