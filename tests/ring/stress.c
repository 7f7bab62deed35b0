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
 *
 * What is in a buffer follows from its number, which both ends count for
 * themselves: nothing but the ring tells one what the other does.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "bed.h"

#define CELL 48u			/* bytes of each direction that a token owns */
#define SEGS_MAX 10u
#define TABLE_SEGS 8u
#define HELD_MAX 32u
#define READABLE_ADDR ((uint64_t)0x100000)
#define WRITABLE_ADDR ((uint64_t)0x800000)
#define TABLE_ADDR ((uint64_t)0xf00000)

#define BUFFERS_MIN 500u		/* however busy the machine is, in a test */
#define PATIENCE_SECONDS 60

/* ---- What is to be done ---------------------------------------------------- */

struct mode {
	char name[80];
	bool packed, in_order, event_idx, indirect, by_fd;
	uint32_t size;
	uint32_t window;	/* buffers in flight at most */
	bool plain;		/* chains of one element with 8 bytes, returned at once */
	double seconds;		/* end then, */
	uint64_t wakes;		/* or if not 0, after so many */
};

/* ---- The two ends ----------------------------------------------------------- */

/* What only one thread touches until both have ended. */
struct end {
	_Alignas(64) uint64_t random;
	uint64_t next;		/* number of the next buffer that is added, or popped */
	uint64_t asked;		/* publishes that asked for a signal */
	const char *complaint;	/* the first thing that was wrong */
	uint64_t complaint_at;	/* with which buffer */
};

struct parcel {
	uint64_t number;
	bool out;
};

struct held {
	struct virtq_req *req;
	uint64_t number;
};

struct stress {
	const struct mode *mode;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct beds beds;
	struct end at_driver, at_device;
	unsigned int ready;
	/* The driver's: */
	struct parcel *parcels;	/* by token */
	uint32_t *free_tokens, free_count;
	uint64_t oldest;	/* in order: the next to come back */
	uint8_t *readable, *writable;
	/* The device's: */
	struct held held[HELD_MAX];
	uint32_t held_count;
};

static uint32_t roll(struct end *end, uint32_t below)
{
	end->random = end->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(end->random >> 33) % below;
}

/* Note the first thing that is wrong, and end both. */
static bool check(struct stress *s, struct end *end, bool good, const char *what, uint64_t number)
{
	if (!good && !end->complaint) {
		end->complaint = what;
		end->complaint_at = number;
		bed_stop(&s->beds);
	}
	return good;
}

/* Everything about buffer @number that both ends know of it. */
struct plan {
	uint32_t segs, readable_segs;
	uint32_t readable, writable;	/* bytes */
	uint32_t written;		/* of those, by the device */
	uint8_t seed;
};

static struct plan plan_of(const struct mode *mode, uint64_t number)
{
	uint32_t most = mode->size < SEGS_MAX ? mode->size : SEGS_MAX;
	uint64_t r = (number + 1) * 0x9e3779b97f4a7c15u;
	struct plan p = { .seed = (uint8_t)(r >> 7) };

	r = (r ^ (r >> 29)) * 0xbf58476d1ce4e5b9u;
	if (mode->plain) {
		p.segs = 1;
		p.readable_segs = number & 1;
		p.readable = 8 * p.readable_segs;
		p.writable = p.written = 8 - p.readable;
		return p;
	}
	p.segs = 1 + (uint32_t)(r >> 60) % most;
	p.readable_segs = (uint32_t)(r >> 50 & 0x3ff) % (p.segs + 1);
	p.readable = p.readable_segs;
	p.writable = p.segs - p.readable_segs;
	if (p.readable)
		p.readable += (uint32_t)(r >> 40 & 0x3ff) % (CELL - p.readable + 1);
	if (p.writable)
		p.writable += (uint32_t)(r >> 30 & 0x3ff) % (CELL - p.writable + 1);
	/* Half of them are filled to the end, which in order makes batches. */
	p.written = r >> 20 & 1 ? p.writable : (uint32_t)(r >> 10 & 0x3ff) % (p.writable + 1);
	return p;
}

static uint8_t pattern(uint8_t seed, uint32_t at)
{
	return (uint8_t)(seed + at * 7u);
}

/* ---- The device ------------------------------------------------------------- */

static void take_in(struct stress *s, struct virtq_req *req)
{
	struct end *end = &s->at_device;
	struct plan p = plan_of(s->mode, end->next);
	uint8_t got[CELL];
	bool good = true;

	/* In the order in which they were made available. */
	check(s, end, req->rd.bytes == p.readable && req->wr.bytes == p.writable,
	      "is not the buffer whose turn it is", end->next);
	/* [A]: its bytes were written before it was shown. */
	virtq_req_read(req, got, sizeof(got));
	for (uint32_t i = 0; i < p.readable && i < CELL; i++)
		good &= got[i] == pattern(p.seed, i);
	check(s, end, good, "reached the device with other bytes", end->next);
	s->held[s->held_count++] = (struct held){ req, end->next++ };
}

static void pop_some(struct stress *s, uint32_t room)
{
	struct virtq_req *reqs[HELD_MAX];
	struct end *end = &s->at_device;
	int n = virtq_device_pop(s->device, reqs, 1 + roll(end, room));

	check(s, end, n >= 0 || n == -ENOSPC, "broke the queue for the device", end->next);
	/* What is handed back, last first, comes again in its turn. */
	for (; n > 0 && !s->mode->plain && !roll(end, 4); n--)
		check(s, end, virtq_device_unpop(s->device, reqs[n - 1]) == 0,
		      "could not be handed back", end->next + (uint32_t)n - 1);
	for (int i = 0; i < n; i++)
		take_in(s, reqs[i]);
}

static void return_one(struct stress *s, uint32_t which)
{
	struct held h = s->held[which];
	struct plan p = plan_of(s->mode, h.number);
	uint8_t answer[CELL];

	for (uint32_t i = 0; i < p.written; i++)
		answer[i] = pattern((uint8_t)~p.seed, i);
	check(s, &s->at_device, virtq_req_write(h.req, answer, p.written) == p.written,
	      "has less room than it should", h.number);
	virtq_device_push(s->device, &h.req, 1);
	s->held[which] = s->held[--s->held_count];
}

static void *device_thread(void *arg)
{
	struct stress *s = arg;
	struct end *end = &s->at_device;
	uint32_t most = s->mode->plain ? 4 : HELD_MAX;

	stay_on(1);
	start_together(&s->ready);
	while (!load(&s->beds.stop)) {
		uint32_t back;

		if (s->held_count < most)
			pop_some(s, most - s->held_count);
		if (s->held_count) {
			/* Any of them, in any order; now and then all. */
			back = s->mode->plain || !roll(end, 4) ? s->held_count :
							       roll(end, s->held_count + 1);
			while (back--)
				return_one(s, roll(end, s->held_count));
			if (virtq_device_publish(s->device)) {
				end->asked++;
				bed_wake(&s->beds, &s->beds.driver);
			}
			continue;
		}
		if (!s->mode->plain && roll(end, 4))
			continue;	/* poll a little longer */
		if (virtq_device_arm(s->device))
			continue;
		bed_sleep(&s->beds, &s->beds.device);
		if (roll(end, 2))
			virtq_device_disarm(s->device);
	}
	return NULL;
}

/* ---- The driver ------------------------------------------------------------- */

/* Cut @bytes at @addr into @count random pieces, none empty. */
static void cut(struct end *end, struct virtq_seg *segs, uint32_t count, uint64_t addr,
		uint32_t bytes)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t rest = count - i - 1, len = bytes - rest;

		if (rest)
			len = 1 + roll(end, len);
		segs[i].addr = addr;
		segs[i].len = len;
		addr += len;
		bytes -= len;
	}
}

/* Add the next buffer; false if there is no room for it now. */
static bool add_next(struct stress *s)
{
	struct end *end = &s->at_driver;
	struct plan p = plan_of(s->mode, end->next);
	struct virtq_seg segs[SEGS_MAX];
	struct virtq_buffer buf = {
		segs, (uint16_t)p.readable_segs, (uint16_t)(p.segs - p.readable_segs), NULL,
	};
	uint32_t token;
	uint8_t *bytes;
	int rc;

	if (!s->free_count)
		return false;
	token = s->free_tokens[s->free_count - 1];
	buf.token = &s->parcels[token];
	bytes = s->readable + (size_t)token * CELL;
	for (uint32_t i = 0; i < p.readable; i++)
		bytes[i] = pattern(p.seed, i);
	memset(s->writable + (size_t)token * CELL, 0xee, p.writable);
	cut(end, segs, p.readable_segs, READABLE_ADDR + (uint64_t)token * CELL, p.readable);
	cut(end, segs + p.readable_segs, p.segs - p.readable_segs,
	    WRITABLE_ADDR + (uint64_t)token * CELL, p.writable);
	rc = virtq_driver_add(s->driver, &buf, 1);
	if (rc == -ENOSPC)
		return false;
	check(s, end, rc == 1, "could not be added", end->next);
	s->free_count--;
	s->parcels[token] = (struct parcel){ end->next++, true };
	return true;
}

static void take_back(struct stress *s, const struct virtq_completion *done)
{
	struct end *end = &s->at_driver;
	struct parcel *parcel = done->token;
	uint32_t token = (uint32_t)(parcel - s->parcels);
	const uint8_t *bytes = s->writable + (size_t)token * CELL;
	struct plan p = plan_of(s->mode, parcel->number);
	bool good = true;

	if (!check(s, end, parcel->out, "came back twice", parcel->number))
		return;
	if (s->mode->in_order)
		check(s, end, parcel->number == s->oldest++, "is not the oldest",
		      parcel->number);
	check(s, end, done->written == p.written, "came back with another length",
	      parcel->number);
	/* [B]: the answer was there before the buffer came back. */
	for (uint32_t i = 0; i < p.writable; i++)
		good &= bytes[i] == (i < p.written ? pattern((uint8_t)~p.seed, i) : 0xee);
	check(s, end, good, "came back with other bytes", parcel->number);
	parcel->out = false;
	s->free_tokens[s->free_count++] = token;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t wakes(struct stress *s)
{
	return (uint64_t)load(&s->beds.driver.naps) + load(&s->beds.device.naps);
}

static bool over(struct stress *s, double start)
{
	double passed = now() - start;

	if (s->mode->wakes)
		return wakes(s) >= s->mode->wakes;
	return (passed > s->mode->seconds && s->at_driver.next >= BUFFERS_MIN) ||
	       passed > PATIENCE_SECONDS;
}

static void drive(struct stress *s)
{
	struct end *end = &s->at_driver;
	uint32_t refill_at = s->mode->window - 1;
	double start = now();
	bool last = false;

	for (uint64_t turn = 0; !load(&s->beds.stop); turn++) {
		uint32_t in_flight = virtq_driver_in_flight(s->driver);
		struct virtq_completion done[16];
		int n;

		if (turn % 64 == 0)
			last = last || over(s, start);
		if (last && !in_flight)
			break;
		if (!last && in_flight <= refill_at) {
			uint32_t count = 1 + roll(end, s->mode->window - in_flight);
			bool full = false;

			while (count-- && !full)
				full = !add_next(s);
			if (virtq_driver_publish(s->driver)) {
				end->asked++;
				bed_wake(&s->beds, &s->beds.device);
			}
			in_flight = virtq_driver_in_flight(s->driver);
			if (!check(s, end, in_flight > 0, "found no room in an empty ring",
				   end->next))
				break;
			refill_at = full ? in_flight - 1 : roll(end, s->mode->window);
		}
		n = virtq_driver_get(s->driver, done, 1 + roll(end, 16));
		check(s, end, n >= 0, "broke the queue for the driver", end->next);
		for (int i = 0; i < n; i++)
			take_back(s, &done[i]);
		in_flight = virtq_driver_in_flight(s->driver);
		if (!in_flight || (!last && in_flight <= refill_at))
			continue;
		/* Poll on; or arm, now and then without having taken all there is. */
		if ((n && roll(end, 4)) || (!s->mode->plain && roll(end, 4)))
			continue;
		if (virtq_driver_arm(s->driver))
			continue;
		bed_sleep(&s->beds, &s->beds.driver);
		if (roll(end, 2))
			virtq_driver_disarm(s->driver);
	}
}

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
