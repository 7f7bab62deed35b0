/* SPDX-License-Identifier: MIT */
/*
 * A peer that shares a file with us can make it shorter while we use it, and
 * the next access to a page that is gone raises SIGBUS. The handler here puts
 * a page of zeros in its place: the peer has spoiled its own rings and
 * buffers, and nobody else's.
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

#define WATCHED_MAX 8192

/* Written under the lock, read by the handler: end last when set, first when cleared. */
struct watched {
	uint64_t start, end;	/* end 0: free */
};

static struct watched watched[WATCHED_MAX];
static pthread_mutex_t watched_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static bool installed;

int guard_watch(void *pages, size_t bytes)
{
	int token = -1;

	pthread_mutex_lock(&watched_lock);
	for (int i = 0; i < WATCHED_MAX && token < 0; i++)
		if (!shm_word_read(&watched[i].end))
			token = i;
	if (token >= 0) {
		shm_word_write(&watched[token].start, (uintptr_t)pages);
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
	pthread_mutex_unlock(&watched_lock);
}

static bool is_watched(uintptr_t address)
{
	for (int i = 0; i < WATCHED_MAX; i++) {
		uint64_t end = shm_word_read(&watched[i].end);

		shm_fence_acquire();
		if (end && address < end && address >= shm_word_read(&watched[i].start))
			return true;
	}
	return false;
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t address = (uintptr_t)info->si_addr;

	if (info->si_code == BUS_ADRERR && is_watched(address) &&
	    mmap((void *)(address & ~(page - 1)), page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
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
