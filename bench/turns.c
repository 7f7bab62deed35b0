/* SPDX-License-Identifier: MIT */
/*
 * The loops that bench/ring times. What they compare of each buffer is gathered
 * without a branch and looked at once a batch: the reference programs compare
 * as much, and what the loop itself costs is told by bench/instructions.py.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "path_inside.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#define STALL_NS 10000000000u	/* nothing moves for this long: buffers were lost */
#define STALL_POLLS (1u << 20)	/* empty polls between two looks at the clock */
#define LAPS_MAX 16384u

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* ---- The two ends ------------------------------------------------------- */

/*
 * Each end keeps its state in a local of the loop, so that it lives in
 * registers over the calls into the library.
 */
struct driver_end {
	struct virtq_driver *queue;
	struct spsc *there, *back;
	struct virtq_buffer *bufs;
	unsigned int count;		/* of @bufs that go round; a multiple of the batch */
	unsigned int send_at, take_at;
	unsigned int bytes;
	uintptr_t wrong;		/* not 0: something came back that was not due */
	uint64_t kicks;
};

struct device_end {
	struct virtq_device *queue;
	struct spsc *there, *back;
	uint64_t bytes;
	uint64_t wrong;
	uint64_t calls;
};

static struct driver_end driver_end(const struct path *p, unsigned int count)
{
	return (struct driver_end){ .queue = p->driver, .there = p->there, .back = p->back,
				    .bufs = p->bufs, .count = count, .bytes = p->writable_bytes };
}

static struct device_end device_end(const struct path *p)
{
	return (struct device_end){ .queue = p->device, .there = p->there, .back = p->back,
				    .bytes = p->writable_bytes };
}

/* Send the next @n buffers. Slices never wrap: their number is a multiple of the batch. */
ALWAYS_INLINE bool send_batch(struct driver_end *d, unsigned int n, const bool bare)
{
	struct virtq_buffer *bufs = d->bufs + d->send_at;

	if (bare) {
		for (unsigned int i = 0; i < n; i++)
			if (UNLIKELY(!spsc_stage(d->there, &bufs[i])))
				return false;
		spsc_publish(d->there);
	} else {
		if (UNLIKELY(virtq_driver_add(d->queue, bufs, n) != (int)n))
			return false;
		d->kicks += (unsigned int)virtq_driver_publish(d->queue);
	}
	d->send_at += n;
	if (d->send_at == d->count)
		d->send_at = 0;
	return true;
}

/* Take up to @max buffers and give them back full; returns how many. */
ALWAYS_INLINE int serve_batch(struct device_end *d, unsigned int max, const bool bare)
{
	struct virtq_req *reqs[PATH_BATCH_MAX];
	void *taken[PATH_BATCH_MAX];
	int n;

	if (bare) {
		n = (int)spsc_take(d->there, taken, max);
		for (int i = 0; i < n; i++)
			d->wrong |= !spsc_stage(d->back, taken[i]);
		if (n)
			spsc_publish(d->back);
		return n;
	}
	n = virtq_device_pop(d->queue, reqs, max);
	if (n <= 0)
		return n;
	for (int i = 0; i < n; i++) {
		d->wrong |= reqs[i]->wr.bytes ^ d->bytes;
		reqs[i]->written = (uint32_t)d->bytes;
	}
	virtq_device_push(d->queue, reqs, (unsigned int)n);
	d->calls += (unsigned int)virtq_device_publish(d->queue);
	return n;
}

/* Compare @n buffers that came back with the ones that are due, which do not wrap. */
ALWAYS_INLINE void compare(struct driver_end *d, const struct virtq_completion *done, void **taken,
			   unsigned int n, const bool bare)
{
	const struct virtq_buffer *due = d->bufs + d->take_at;

	for (unsigned int i = 0; i < n; i++) {
		if (bare) {
			d->wrong |= (uintptr_t)taken[i] ^ (uintptr_t)&due[i];
			continue;
		}
		d->wrong |= (uintptr_t)done[i].token ^ (uintptr_t)&due[i];
		d->wrong |= done[i].written ^ d->bytes;
	}
	d->take_at += n;
	if (d->take_at == d->count)
		d->take_at = 0;
}

/* Take back up to @max buffers, each the one that is due; returns how many. */
ALWAYS_INLINE int take_batch(struct driver_end *d, unsigned int max, const bool bare)
{
	struct virtq_completion done[PATH_BATCH_MAX];
	void *taken[PATH_BATCH_MAX];
	unsigned int first = 0;
	int n = bare ? (int)spsc_take(d->back, taken, max) :
		       virtq_driver_get(d->queue, done, max);

	if (n <= 0)
		return n;
	if (UNLIKELY((unsigned int)n > d->count - d->take_at)) {
		first = d->count - d->take_at;
		compare(d, done, taken, first, bare);
	}
	compare(d, done + first, taken + first, (unsigned int)n - first, bare);
	return n;
}

/* ---- What went wrong ---------------------------------------------------- */

static void driver_failed(struct path *p, const struct driver_end *d, const char *otherwise)
{
	enum virtq_fault_code code = d->queue ? virtq_driver_fault(d->queue).code :
						VIRTQ_FAULT_NONE;

	p->driver_failure = code != VIRTQ_FAULT_NONE ? virtq_fault_text(code) :
			    d->wrong ? "a buffer came back that was not due, or changed" :
			    otherwise;
}

static void device_failed(struct path *p, const struct device_end *d, const char *otherwise)
{
	enum virtq_fault_code code = d->queue ? virtq_device_fault(d->queue).code :
						VIRTQ_FAULT_NONE;

	p->device_failure = code != VIRTQ_FAULT_NONE ? virtq_fault_text(code) :
			    d->wrong ? "a chain arrived at the device with another length" :
			    otherwise;
}

/* ---- Turns -------------------------------------------------------------- */

ALWAYS_INLINE void turn_one(struct path *p, unsigned int batch, uint64_t rounds, const bool bare)
{
	struct driver_end driver = driver_end(p, p->depth);
	struct device_end device = device_end(p);

	while (rounds--) {
		if (UNLIKELY(!send_batch(&driver, batch, bare))) {
			driver_failed(p, &driver, "the ring is full with room left");
			break;
		}
		if (UNLIKELY(serve_batch(&device, batch, bare) != (int)batch || device.wrong)) {
			device_failed(p, &device, "the device end did not see every buffer");
			break;
		}
		if (UNLIKELY(take_batch(&driver, batch, bare) != (int)batch || driver.wrong)) {
			driver_failed(p, &driver, "buffers were lost: not every one came back");
			break;
		}
	}
	p->kicks = driver.kicks;
	p->calls = device.calls;
}

/* One lap: fill the ring, serve all of it, empty it; @at receives the four times. */
ALWAYS_INLINE bool lap(struct path *p, struct driver_end *driver, struct device_end *device,
		       unsigned int batch, unsigned int count, uint64_t at[4], const bool bare)
{
	unsigned int k;

	at[0] = now_ns();
	for (k = 0; k < count; k += batch)
		if (UNLIKELY(!send_batch(driver, batch, bare))) {
			driver_failed(p, driver, "the ring is full with room left");
			return false;
		}
	at[1] = now_ns();
	for (k = 0; k < count; k += batch)
		if (UNLIKELY(serve_batch(device, batch, bare) != (int)batch || device->wrong)) {
			device_failed(p, device, "the device end did not see every buffer");
			return false;
		}
	at[2] = now_ns();
	for (k = 0; k < count; k += batch)
		if (UNLIKELY(take_batch(driver, batch, bare) != (int)batch || driver->wrong)) {
			driver_failed(p, driver, "buffers were lost: not every one came back");
			return false;
		}
	at[3] = now_ns();
	return true;
}

ALWAYS_INLINE void turn_ends(struct path *p, unsigned int batch, unsigned int count,
			     unsigned int laps, uint32_t *ns[3], const bool bare)
{
	struct driver_end driver = driver_end(p, count);
	struct device_end device = device_end(p);

	for (unsigned int i = 0; i < laps; i++) {
		uint64_t at[4];

		if (!lap(p, &driver, &device, batch, count, at, bare))
			break;
		for (unsigned int k = 0; k < 3; k++)
			ns[k][i] = (uint32_t)(at[k + 1] - at[k]);
	}
	p->kicks = driver.kicks;
	p->calls = device.calls;
}

/* Nothing came back: has that been so for long? */
static bool stalled(unsigned int *empty, uint64_t *since)
{
	uint64_t now;

	if (++*empty < STALL_POLLS)
		return false;
	*empty = 0;
	now = now_ns();
	if (!*since)
		*since = now;
	return now - *since > STALL_NS;
}

/* Keep the ring as full as the depth allows until @total buffers are back. */
ALWAYS_INLINE void turn_driver(struct path *p, unsigned int batch, uint64_t total, const bool bare)
{
	struct driver_end driver = driver_end(p, p->depth);
	uint64_t sent = 0, taken = 0, since = 0;
	unsigned int empty = 0;

	while (taken < total) {
		int n;

		if (sent < total && sent - taken + batch <= driver.count) {
			if (UNLIKELY(!send_batch(&driver, batch, bare))) {
				driver_failed(p, &driver, "the ring is full with room left");
				break;
			}
			sent += batch;
		}
		n = take_batch(&driver, batch, bare);
		if (UNLIKELY(n < 0 || driver.wrong)) {
			driver_failed(p, &driver, "");
			break;
		}
		if (n) {
			taken += (unsigned int)n;
			empty = 0;
			since = 0;
			continue;
		}
		if (atomic_load_explicit(&p->stop, memory_order_relaxed))
			break;
		if (stalled(&empty, &since)) {
			p->driver_failure = "buffers were lost: none came back for 10 s";
			break;
		}
	}
	/* Each came back once; one more would be a buffer that nobody sent. */
	if (!p->driver_failure && taken == total && take_batch(&driver, 1, bare) != 0)
		p->driver_failure = "a buffer came back twice";
	p->kicks = driver.kicks;
}

ALWAYS_INLINE void turn_device(struct path *p, unsigned int batch, const bool bare)
{
	struct device_end device = device_end(p);

	while (!atomic_load_explicit(&p->stop, memory_order_relaxed))
		if (UNLIKELY(serve_batch(&device, batch, bare) < 0 || device.wrong)) {
			device_failed(p, &device, bare ? "the pointer ring back is full" : "");
			atomic_store(&p->stop, 1);
		}
	p->calls = device.calls;
}

/* ---- Mischief ----------------------------------------------------------- */

int path_plant(struct path *p, enum path_plant plant)
{
	if (p->kind == PATH_FLOOR)
		return -EINVAL;
	p->plant = plant;
	return 0;
}

/* Before the clock starts, one buffer takes a way that no buffer may take. */
static void do_mischief(struct path *p)
{
	struct driver_end driver = driver_end(p, p->depth);
	struct device_end device = device_end(p);
	struct virtq_req *kept;
	int n = 1;

	if (p->plant == PATH_PLANT_NONE)
		return;
	if (!send_batch(&driver, 1, false))
		n = 0;
	else if (p->plant == PATH_PLANT_LOST)
		n = virtq_device_pop(p->device, &kept, 1);
	else if (p->plant == PATH_PLANT_TWICE)
		n = serve_batch(&device, 1, false);	/* and the same again in the first batch */
	if (n == 1 && p->plant == PATH_PLANT_CHANGED) {
		device.bytes--;
		n = serve_batch(&device, 1, false);
		if (n == 1)
			n = take_batch(&driver, 1, false);
		if (driver.wrong)
			driver_failed(p, &driver, "");
	}
	if (n != 1)
		p->device_failure = "the mischief itself did not work";
}

/* ---- Running them ------------------------------------------------------- */

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	return pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* Zero the counters; is the batch one that divides @count? */
static bool begin(struct path *p, unsigned int batch, unsigned int count, int cpu,
		  char why[PATH_TEXT_BYTES])
{
	p->kicks = p->calls = 0;
	p->driver_failure = p->device_failure = NULL;
	atomic_store(&p->stop, 0);
	if (!batch || batch > PATH_BATCH_MAX || !count || count % batch) {
		snprintf(why, PATH_TEXT_BYTES, "%u buffers in flight are no multiple of a batch of %u",
			 count, batch);
		return false;
	}
	if (pin(cpu)) {
		snprintf(why, PATH_TEXT_BYTES, "processor %d cannot be used", cpu);
		return false;
	}
	do_mischief(p);
	return true;
}

static bool ended_well(struct path *p, struct path_counts *counts, char why[PATH_TEXT_BYTES])
{
	counts->kicks = p->kicks;
	counts->calls = p->calls;
	if (p->driver && !p->driver_failure &&
	    (virtq_driver_in_flight(p->driver) || virtq_device_in_flight(p->device)))
		p->driver_failure = "a buffer is still in flight after the last came back";
	if (!p->driver_failure && !p->device_failure)
		return true;
	snprintf(why, PATH_TEXT_BYTES, "%s",
		 p->device_failure ? p->device_failure : p->driver_failure);
	return false;
}

double path_run_one(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		    struct path_counts *counts, char why[PATH_TEXT_BYTES])
{
	uint64_t rounds, start, ns;

	if (!begin(p, batch, p->depth, cpu, why))
		return -1;
	rounds = (buffers + batch - 1) / batch;
	start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	if (p->kind == PATH_FLOOR)
		turn_one(p, batch, rounds, true);
	else
		turn_one(p, batch, rounds, false);
	ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - start;
	return ended_well(p, counts, why) ? (double)ns / (double)(rounds * batch) : -1;
}

static int compare_ns(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double median_ns(uint32_t *ns, unsigned int count)
{
	qsort(ns, count, sizeof(*ns), compare_ns);
	return ((double)ns[(count - 1) / 2] + ns[count / 2]) / 2;
}

int path_run_ends(struct path *p, unsigned int batch, uint64_t buffers, int cpu,
		  struct path_parts *parts, struct path_counts *counts,
		  char why[PATH_TEXT_BYTES])
{
	unsigned int count = p->lap / (batch ? batch : 1) * batch, laps;
	uint32_t *all, *ns[3];

	if (p->plant != PATH_PLANT_NONE && count > batch)
		count -= batch;		/* room for the one too many */
	if (!begin(p, batch, count, cpu, why))
		return -1;
	buffers = (buffers + count - 1) / count;
	laps = buffers < LAPS_MAX ? (unsigned int)buffers : LAPS_MAX;
	all = calloc(3 * (size_t)laps, sizeof(*all));
	if (!all) {
		snprintf(why, PATH_TEXT_BYTES, "no memory for %u laps", laps);
		return -1;
	}
	for (unsigned int k = 0; k < 3; k++)
		ns[k] = all + (size_t)k * laps;
	if (p->kind == PATH_FLOOR)
		turn_ends(p, batch, count, laps, ns, true);
	else
		turn_ends(p, batch, count, laps, ns, false);
	parts->add_ns = median_ns(ns[0], laps) / count;
	parts->device_ns = median_ns(ns[1], laps) / count;
	parts->get_ns = median_ns(ns[2], laps) / count;
	free(all);
	return ended_well(p, counts, why) ? 0 : -1;
}

/* ---- Two threads -------------------------------------------------------- */

/* The thread on the other processor; it says when it is there. */
struct other {
	void (*work)(struct other *other);
	struct path *path;
	unsigned int batch;
	int cpu;
	pthread_t thread;
	atomic_int ready;		/* 1, or -1 if it cannot run there */
	_Alignas(64) atomic_uint line;	/* for path_line_ns() */
	_Alignas(64) unsigned int trips;
};

static void *other_main(void *arg)
{
	struct other *other = arg;

	if (pin(other->cpu)) {
		atomic_store(&other->ready, -1);
		return NULL;
	}
	atomic_store(&other->ready, 1);
	other->work(other);
	return NULL;
}

/* 0 once it runs on its processor and this thread on @cpu. */
static int start_other(struct other *other, int cpu, char why[PATH_TEXT_BYTES])
{
	int rc = pin(cpu);

	if (!rc)
		rc = pthread_create(&other->thread, NULL, other_main, other);
	if (!rc) {
		while (!atomic_load(&other->ready))
			sched_yield();
		if (atomic_load(&other->ready) > 0)
			return 0;
		pthread_join(other->thread, NULL);
		rc = EINVAL;
	}
	snprintf(why, PATH_TEXT_BYTES, "cannot run two threads on processors %d and %d: %s", cpu,
		 other->cpu, strerror(rc));
	return -1;
}

static void work_device(struct other *other)
{
	if (other->path->kind == PATH_FLOOR)
		turn_device(other->path, other->batch, true);
	else
		turn_device(other->path, other->batch, false);
}

double path_run_two(struct path *p, unsigned int batch, uint64_t buffers, const int cpus[2],
		    struct path_counts *counts, char why[PATH_TEXT_BYTES])
{
	struct other other = { .work = work_device, .path = p, .batch = batch, .cpu = cpus[1] };
	struct rusage before, after;
	uint64_t total, start, ns;

	if (!begin(p, batch, p->depth, cpus[0], why) || start_other(&other, cpus[0], why))
		return -1;
	total = (buffers + batch - 1) / batch * batch;
	getrusage(RUSAGE_SELF, &before);
	start = now_ns();
	if (p->kind == PATH_FLOOR)
		turn_driver(p, batch, total, true);
	else
		turn_driver(p, batch, total, false);
	ns = now_ns() - start;
	getrusage(RUSAGE_SELF, &after);
	counts->disturbed = after.ru_nivcsw != before.ru_nivcsw;
	atomic_store(&p->stop, 1);
	pthread_join(other.thread, NULL);
	return ended_well(p, counts, why) ? (double)ns / (double)total : -1;
}

/* Answer every odd number with the next even one. */
static void work_line(struct other *other)
{
	for (unsigned int i = 0; i < other->trips; i++) {
		while (atomic_load_explicit(&other->line, memory_order_acquire) != 2 * i + 1)
			;
		atomic_store_explicit(&other->line, 2 * i + 2, memory_order_release);
	}
}

double path_line_ns(const int cpus[2], unsigned int trips, char why[PATH_TEXT_BYTES])
{
	struct other other = { .work = work_line, .cpu = cpus[1], .trips = trips };
	uint64_t start, ns;

	if (start_other(&other, cpus[0], why))
		return -1;
	start = now_ns();
	for (unsigned int i = 0; i < trips; i++) {
		atomic_store_explicit(&other.line, 2 * i + 1, memory_order_release);
		while (atomic_load_explicit(&other.line, memory_order_acquire) != 2 * i + 2)
			;
	}
	ns = now_ns() - start;
	pthread_join(other.thread, NULL);
	return (double)ns / trips;
}
