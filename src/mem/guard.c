/* SPDX-License-Identifier: MIT */
/*
 * A peer that shares a file with us can make it shorter while we use it, and
 * the next access to a page that is gone raises SIGBUS. The handler here puts
 * zeros in place of all that is behind it: the peer has spoiled its own rings
 * and buffers, and nobody else's. One replacement reaches to the end of the
 * mapping, so that a mapping never falls into more than two pieces, however
 * many pages are touched; and whoever turns the peer's queues is told
 * (guard_epoch()), so that they are not turned on at the cost of our memory.
 */
#include "mem/guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <virtq/mem.h>

#include "base/error.h"
#include "base/shm.h"

/*
 * Each may fall into two pieces, and the kernel lets a process have 65530
 * (vm.max_map_count): were there none left the replacement would fail.
 */
#define WATCHED_MAX 24576

/* Written under the lock, read by the handler: end last when set, first when cleared. */
struct watched {
	uint64_t start, end;	/* end 0: free */
	uint64_t unit;
	bool lost;
};

static struct watched watched[WATCHED_MAX];
static uint64_t watched_end;	/* none has ever been used from here on */
static int first_free;		/* none is free below; under the lock */
static pthread_mutex_t watched_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static bool installed;
static uint64_t epoch;

int guard_watch(void *pages, size_t bytes, size_t unit)
{
	int token;

	pthread_mutex_lock(&watched_lock);
	for (token = first_free; token < WATCHED_MAX; token++)
		if (!shm_word_read(&watched[token].end))
			break;
	first_free = token;
	if (token == WATCHED_MAX) {
		token = -ENOSPC;
	} else {
		if (shm_word_read(&watched_end) <= (uint64_t)token)
			shm_word_write(&watched_end, (uint64_t)token + 1);
		shm_word_write(&watched[token].start, (uintptr_t)pages);
		shm_word_write(&watched[token].unit, unit);
		shm_flag_write(&watched[token].lost, false);
		shm_fence_release();
		shm_word_write(&watched[token].end, (uintptr_t)pages + bytes);
	}
	pthread_mutex_unlock(&watched_lock);
	return token;
}

void guard_forget(int token)
{
	if (token < 0)
		return;
	pthread_mutex_lock(&watched_lock);
	shm_word_write(&watched[token].end, 0);
	if (token < first_free)
		first_free = token;
	pthread_mutex_unlock(&watched_lock);
}

bool guard_lost(int token)
{
	return token >= 0 && shm_flag_read(&watched[token].lost);
}

uint64_t guard_epoch(void)
{
	return shm_word_read(&epoch);
}

static struct watched *find(uintptr_t address)
{
	uint64_t count = shm_word_read(&watched_end);

	for (uint64_t i = 0; i < count; i++) {
		uint64_t end = shm_word_read(&watched[i].end);

		shm_fence_acquire();
		if (end && address < end && address >= shm_word_read(&watched[i].start))
			return &watched[i];
	}
	return NULL;
}

/* Zeros from the unit that holds @address to the end of what is watched. */
static bool replace(struct watched *w, uintptr_t address)
{
	uint64_t start = shm_word_read(&w->start), unit = shm_word_read(&w->unit);
	uint64_t from = start + (address - start) / unit * unit;

	if (mmap((void *)(uintptr_t)from, (size_t)(shm_word_read(&w->end) - from),
		 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		return false;
	shm_flag_write(&w->lost, true);
	shm_word_write(&epoch, shm_word_read(&epoch) + 1);
	return true;
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	struct watched *w = info->si_code == BUS_ADRERR ? find(address) : NULL;

	if (w && replace(w, address))
		return;

	/* Not ours: whoever was there before decides, or the process ends as it would have. */
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(signal_number, info, context);
	else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
		previous.sa_handler(signal_number);
	else
		sigaction(SIGBUS, &previous, NULL);
}

int virtq_guard_install(struct virtq_error *err)
{
	struct sigaction action = { .sa_sigaction = on_bus_error,
				    .sa_flags = SA_SIGINFO | SA_NODEFER };
	int rc = 0;

	pthread_mutex_lock(&watched_lock);
	if (!installed) {
		sigemptyset(&action.sa_mask);
		if (sigaction(SIGBUS, &action, &previous) < 0)
			rc = error_set_errno(err, -errno, "cannot handle SIGBUS");
		else
			installed = true;
	}
	pthread_mutex_unlock(&watched_lock);
	return rc;
}
