/* SPDX-License-Identifier: MIT */
/*
 * Two threads that sleep when arm() says they may and wake only when the other
 * end's publish() says so, and what finds a lost signal.
 *
 * Sleep is a spin on a flag, so that both threads stay on their processors and
 * the windows, which are a few nanoseconds wide, get hit; or it is a real one, in
 * the kernel, on an eventfd. A signal is lost when both sleep, none is under
 * way, and there is work in the ring; nobody can change that state any more, so
 * it needs no timeout to be told from slowness.
 */
#ifndef TESTS_RING_BED_H
#define TESTS_RING_BED_H

#include <poll.h>
#include <sched.h>
#include <stdbool.h>

#include <virtq/notify.h>

#define BED_LOOK_MS 200		/* asleep on an eventfd: how often to look for a loss */

/* One end's bed. Only its owner writes asleep and naps; the other end sets signal. */
struct bed {
	_Alignas(64) unsigned int signal;
	_Alignas(64) unsigned int asleep;
	unsigned int naps;
	int fd;				/* an eventfd in place of the signal, if beds say so */
};

struct beds {
	struct bed driver, device;
	bool by_fd;
	_Alignas(64) unsigned int stop;		/* a signal was lost, or all is done */
	unsigned int lost;
};

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Is there a signal, or will there be one within @timeout_ms? Does not take it away. */
static inline bool bed_signalled(const struct beds *b, const struct bed *bed, int timeout_ms)
{
	struct pollfd p = { bed->fd, POLLIN, 0 };

	return b->by_fd ? poll(&p, 1, timeout_ms) != 0 : load(&bed->signal) != 0;
}

/*
 * Both asleep and no signal under way? A sleeper wakes only by its signal, which
 * only the other, awake, gives; so if each slept without interruption while the
 * signals were read, that was so at one moment and is so for ever.
 */
static inline bool nobody_will_wake(struct beds *b)
{
	unsigned int driver_naps = load(&b->driver.naps);
	unsigned int device_naps = load(&b->device.naps);

	if (!load(&b->driver.asleep) || !load(&b->device.asleep) ||
	    bed_signalled(b, &b->driver, 0) || bed_signalled(b, &b->device, 0))
		return false;
	return load(&b->driver.asleep) && load(&b->device.asleep) &&
	       load(&b->driver.naps) == driver_naps && load(&b->device.naps) == device_naps;
}

static inline void bed_stop(struct beds *b)
{
	store(&b->stop, 1);
	if (b->by_fd) {
		virtq_notify_send(b->driver.fd);
		virtq_notify_send(b->device.fd);
	}
}

/* Has something been lost? Then nobody sleeps any longer. */
static inline bool bed_look(struct beds *b)
{
	if (!nobody_will_wake(b))
		return false;
	store(&b->lost, 1);
	bed_stop(b);
	return true;
}

/* Signal the end that sleeps in @bed, or is about to. */
static inline void bed_wake(struct beds *b, struct bed *bed)
{
	if (b->by_fd)
		virtq_notify_send(bed->fd);
	else
		store(&bed->signal, 1);
}

static inline void bed_sleep(struct beds *b, struct bed *bed)
{
	store(&bed->naps, bed->naps + 1);
	store(&bed->asleep, 1);
	for (unsigned int spins = 1; !bed_signalled(b, bed, BED_LOOK_MS); spins++) {
		if (load(&b->stop))
			break;
		pause_briefly();
		if ((b->by_fd || spins % 256 == 0) && bed_look(b))
			break;
		if (spins % 4096 == 0)
			sched_yield();
	}
	/* The signal goes last: who finds both asleep must find it. The ring is looked at next. */
	store(&bed->asleep, 0);
	store(&bed->signal, 0);
	if (b->by_fd)
		virtq_notify_clear(bed->fd);
}

/* ---- Threads on processors of their own ---------------------------------- */

/* The processors at hand, asked for before a thread binds itself to one. */
static cpu_set_t processors;

static inline void stay_on(unsigned int cpu_number)
{
	unsigned int seen = 0;
	cpu_set_t one;

	if (CPU_COUNT(&processors) < 2)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &processors) || seen++ != cpu_number)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

/* Called by both threads, with a counter that was 0. */
static inline void start_together(unsigned int *ready)
{
	__atomic_add_fetch(ready, 1, __ATOMIC_SEQ_CST);
	while (load(ready) < 2)
		sched_yield();
}

#endif
