/* SPDX-License-Identifier: MIT */
/*
 * Ranges of a block device that are erased for good. No device that can is at
 * hand here (tests/interop/erase.sh has one), so the C library's ioctl() is one of
 * this program's own: it says what a device says, waits until it is told to end,
 * and zeroes what it is to erase. uname() says how old the kernel is.
 */
#include "places.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/check.h"
#include "dev/store_file.h"
#include "../emulated.h"

#define PIECE (64 * MIB)	/* what is erased at once */
#define BYTES (4 * PIECE)

/* ---- The kernel ------------------------------------------------------------------ */

/* By the lock. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	const char *release;		/* of the kernel; NULL: its own */
	bool can;
	int fails;			/* with this error; 0: it does not */
	unsigned int asked;		/* whether it can */
	unsigned int begun, may_end;	/* counts of erased pieces */
	unsigned int running, most;
	uint64_t offset[8], bytes[8];	/* of the first */
	unsigned int synced_then;	/* count of syncs when the last piece ended */
	unsigned int syncs;
	bool sync_fails;
} kernel = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* By the lock: what a device does. */
static int erase_piece(int fd, const uint64_t *range)
{
	unsigned int number = kernel.begun++;
	int rc = 0;

	if (number < 8) {
		kernel.offset[number] = range[0];
		kernel.bytes[number] = range[1];
	}
	if (++kernel.running > kernel.most)
		kernel.most = kernel.running;
	pthread_cond_broadcast(&kernel.changed);
	while (number >= kernel.may_end)
		pthread_cond_wait(&kernel.changed, &kernel.lock);
	kernel.running--;
	if (kernel.fails)
		rc = -kernel.fails;
	else if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range[0],
			   (off_t)range[1]))
		rc = -errno;
	kernel.synced_then = kernel.syncs;
	return rc;
}

int ioctl(int fd, unsigned long request, ...)
{
	const uint64_t *range;
	va_list args;
	void *arg;
	int rc;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (request != BLKSECDISCARD)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	range = arg;
	pthread_mutex_lock(&kernel.lock);
	if ((range[0] | range[1]) & 511) {
		kernel.asked++;
		rc = kernel.can ? -EINVAL : -EOPNOTSUPP;
	} else {
		rc = erase_piece(fd, range);
	}
	pthread_mutex_unlock(&kernel.lock);
	if (rc)
		errno = -rc;
	return rc ? -1 : 0;
}

int uname(struct utsname *name)
{
	int rc = (int)syscall(SYS_uname, name);

	if (!rc && kernel.release)
		snprintf(name->release, sizeof(name->release), "%s", kernel.release);
	return rc;
}

/* How the engine without io_uring syncs. */
int fdatasync(int fd)
{
	bool fails;

	pthread_mutex_lock(&kernel.lock);
	kernel.syncs++;
	fails = kernel.sync_fails;
	pthread_mutex_unlock(&kernel.lock);
	if (fails) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

/* Begins anew: a device that can, and so many pieces that may end. */
static void kernel_open(unsigned int may_end)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.release = NULL;
	kernel.can = true;
	kernel.fails = 0;
	kernel.sync_fails = false;
	kernel.asked = kernel.begun = kernel.most = kernel.syncs = kernel.synced_then = 0;
	kernel.may_end = may_end;
	pthread_mutex_unlock(&kernel.lock);
}

static void kernel_lets_end(unsigned int may_end)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.may_end = may_end;
	pthread_cond_broadcast(&kernel.changed);
	pthread_mutex_unlock(&kernel.lock);
}

static void kernel_wait_begun(unsigned int number)
{
	pthread_mutex_lock(&kernel.lock);
	while (kernel.begun < number)
		pthread_cond_wait(&kernel.changed, &kernel.lock);
	pthread_mutex_unlock(&kernel.lock);
}

/* ---- Asked whether it can ---------------------------------------------------------- */

static void assert_offered(const char *device, const struct virtq_store_options *options,
			   bool offered)
{
	struct virtq_store *store = store_make(device, options);

	if ((store->info.erase_max != 0) != offered)
		fail_msg("on %s erase_max is %llu", kernel.release ? kernel.release : "this kernel",
			 (unsigned long long)store->info.erase_max);
	virtq_store_close(store);
}

/* By a range that cannot be erased, so that nothing is. */
static void devices_are_asked_and_not_touched(void **state)
{
	static const struct virtq_store_options read_only = { .read_only = true };
	struct loop l;

	(void)state;
	skip_unless_alignment_is_told();
	loop_open(&l, ".", 2 * MIB, 512);
	kernel_open(0);
	assert_offered(l.device, NULL, true);
	assert_offered(l.device, &direct, true);
	assert_int_equal(kernel.asked, 2);
	assert_offered(l.device, &read_only, false);
	assert_int_equal(kernel.asked, 2);
	kernel.can = false;
	assert_offered(l.device, NULL, false);
	assert_int_equal(kernel.asked, 3);
	assert_int_equal(kernel.begun, 0);
	loop_close(&l);
}

/* An old kernel says the same for another reason: it is not even asked. */
static void old_kernels_are_not_believed(void **state)
{
	static const char *const old[] = { "5.18.19", "5.9.0-5-amd64", "4.19.0", "5", "next" };
	static const char *const new[] = { "5.19.0", "5.20-rc1", "6.0.0", "6.1.0-28-cloud-amd64",
					   "10.2.1" };
	struct loop l;

	(void)state;
	loop_open(&l, ".", 2 * MIB, 512);
	kernel_open(0);
	for (size_t i = 0; i < sizeof(old) / sizeof(old[0]); i++) {
		kernel.release = old[i];
		assert_offered(l.device, NULL, false);
	}
	assert_int_equal(kernel.asked, 0);
	for (size_t i = 0; i < sizeof(new) / sizeof(new[0]); i++) {
		kernel.release = new[i];
		assert_offered(l.device, NULL, true);
	}
	loop_close(&l);
}

/* A file system may keep copies: of files it is not even asked. */
static void files_are_not_erased(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_ERASE, .bytes = 4096 };
	char *path = sparse_make(".", MIB);
	struct depot dp;

	kernel_open(0);
	assert_offered(path, NULL, false);
	assert_int_equal(kernel.asked, 0);
	depot_open(&dp, *state, store_make(path, NULL), 300);
	assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
	depot_close(&dp);
	assert_int_equal(kernel.begun, 0);
	file_drop(path);
}

/* ---- Erased ---------------------------------------------------------------------------- */

static const struct work erase = { .kind = VIRTQ_STORE_ERASE, .bytes = 8192 };

/* A file that passes for a device that can. */
static struct virtq_store *erasable(const char *path)
{
	struct virtq_store *store = store_make(path, NULL);

	store->info.erase_max = BYTES;
	return store;
}

static struct eraser *eraser_of(struct virtq_store *store)
{
	return &container_of(store, struct file_store, store)->eraser;
}

static void fill(struct depot *dp, uint64_t offset, uint64_t bytes)
{
	memset(depot_data(dp, 0), 0x61, bytes);
	assert_int_equal(depot_do(dp, &(struct work){ .kind = VIRTQ_STORE_WRITE, .offset = offset,
						      .bytes = bytes }), 0);
}

static void assert_bytes(struct depot *dp, uint64_t offset, uint64_t bytes, uint8_t value)
{
	assert_int_equal(depot_do(dp, &(struct work){ .kind = VIRTQ_STORE_READ, .offset = offset,
						      .bytes = bytes }), 0);
	for (size_t i = 0; i < bytes; i++)
		if (*depot_data(dp, i) != value)
			fail_msg("byte %llu is %#x", (unsigned long long)(offset + i),
				 *depot_data(dp, i));
}

/* To the byte, in pieces, and stable before it ends: the sync comes after the last of them. */
static void ranges_are_erased_and_stable(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_ERASE, .offset = 4096,
			  .bytes = 2 * PIECE + MIB - 4096 };
	const struct setting *s = *state;
	char *path = sparse_make(".", BYTES);
	struct depot dp;

	kernel_open(UINT32_MAX);
	depot_open(&dp, s, erasable(path), 300);
	assert_false(eraser_of(dp.store)->started);	/* no thread for who erases nothing */
	fill(&dp, 0, MIB);
	fill(&dp, PIECE, MIB);
	fill(&dp, 2 * PIECE, 2 * MIB);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_true(eraser_of(dp.store)->started);
	if (s->kind == VIRTQ_ENGINE_SYNC)
		assert_int_equal(kernel.syncs, kernel.synced_then + 1);
	assert_bytes(&dp, 0, 4096, 0x61);
	assert_bytes(&dp, 4096, MIB, 0);
	assert_bytes(&dp, PIECE, MIB, 0);
	assert_bytes(&dp, 2 * PIECE, MIB, 0);
	assert_bytes(&dp, 2 * PIECE + MIB, MIB, 0x61);
	assert_int_equal(kernel.begun, 3);
	assert_int_equal(kernel.offset[0], 4096);
	assert_int_equal(kernel.bytes[0], PIECE);
	assert_int_equal(kernel.offset[1], PIECE + 4096);
	assert_int_equal(kernel.bytes[1], PIECE);
	assert_int_equal(kernel.offset[2], 2 * PIECE + 4096);
	assert_int_equal(kernel.bytes[2], MIB - 4096);
	depot_close(&dp);
	file_drop(path);
}

static void errors_are_those_of_one_request(void **state)
{
	static const int errors[] = { EIO, EINVAL, EOPNOTSUPP, EBUSY, EREMOTEIO };
	char *path = sparse_make(".", MIB);
	struct depot dp;

	kernel_open(UINT32_MAX);
	depot_open(&dp, *state, erasable(path), 300);
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		kernel.fails = errors[i];
		assert_int_equal(depot_do(&dp, &erase), -errors[i]);
		kernel.fails = 0;
		assert_int_equal(depot_do(&dp, &erase), 0);
	}
	depot_close(&dp);
	file_drop(path);
}

/* What is erased and not stable is not called erased, nor is anything after it. */
static void a_failed_sync_fails_it(void **state)
{
	char *path = sparse_make(".", MIB);
	struct depot dp;

	kernel_open(UINT32_MAX);
	depot_open(&dp, *state, erasable(path), 300);
	kernel.sync_fails = true;
	assert_int_equal(depot_do(&dp, &erase), -EIO);
	kernel.sync_fails = false;
	assert_int_equal(depot_do(&dp, &erase), -EIO);
	depot_close(&dp);
	file_drop(path);
}

/* One after the other, and meanwhile the engine does other things. */
static void the_engine_does_not_wait(void **state)
{
	char *path = sparse_make(".", MIB);
	unsigned int tags[20];
	struct depot dp;

	kernel_open(0);
	depot_open(&dp, *state, erasable(path), 300);
	for (unsigned int i = 0; i < 20; i++)
		tags[i] = depot_send(&dp, &(struct work){ .kind = VIRTQ_STORE_ERASE,
							  .offset = i * 4096, .bytes = 4096 });
	kernel_wait_begun(1);
	fill(&dp, MIB / 2, MIB / 2);
	assert_bytes(&dp, MIB / 2, MIB / 2, 0x61);
	assert_int_equal(dp.result[tags[0]], DEPOT_NONE);
	kernel_lets_end(UINT32_MAX);
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(depot_wait(&dp, tags[i]), 0);
	assert_int_equal(kernel.begun, 20);
	assert_int_equal(kernel.most, 1);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(kernel.offset[i], i * 4096);
	depot_close(&dp);
	file_drop(path);
}

/* ---- Cancelled --------------------------------------------------------------------------- */

static unsigned int count_waiting(struct virtq_store *store)
{
	struct eraser *eraser = eraser_of(store);
	unsigned int count = 0;

	pthread_mutex_lock(&eraser->lock);
	for (struct virtq_store_io *io = eraser->waiting; io; io = file_io_of(io)->next)
		count++;
	pthread_mutex_unlock(&eraser->lock);
	return count;
}

static void wait_waiting(struct virtq_store *store, unsigned int count)
{
	uint64_t end = now_ms() + WAIT_MS;

	while (count_waiting(store) != count) {
		assert_true(now_ms() < end);
		usleep(200);
	}
}

/* In the middle of those that wait, and at the end: nothing of theirs is erased. */
static void who_waits_can_be_cancelled(void **state)
{
	struct virtq_store *store;
	struct depot dp[3];
	unsigned int mine[3];
	char *path = sparse_make(".", BYTES);

	for (unsigned int gone = 1; gone < 3; gone++) {
		kernel_open(0);
		store = erasable(path);
		for (unsigned int i = 0; i < 3; i++)
			depot_open_shared(&dp[i], *state, store, 1);
		fill(&dp[0], 0, MIB);
		mine[0] = depot_send(&dp[0], &erase);
		kernel_wait_begun(1);
		for (unsigned int i = 1; i < 3; i++) {
			mine[i] = depot_send(&dp[i], &(struct work){
				.kind = VIRTQ_STORE_ERASE, .offset = i * 65536, .bytes = 4096 });
			wait_waiting(store, i);
		}
		depot_close(&dp[gone]);
		assert_int_equal(dp[gone].result[mine[gone]], -ECANCELED);
		assert_int_equal(count_waiting(store), 1);
		/* The list is whole: it takes another. */
		mine[gone] = depot_send(&dp[0], &(struct work){ .kind = VIRTQ_STORE_ERASE,
							.offset = 3 * 65536, .bytes = 4096 });
		kernel_lets_end(UINT32_MAX);
		assert_int_equal(depot_wait(&dp[0], mine[0]), 0);
		assert_int_equal(depot_wait(&dp[3 - gone], mine[3 - gone]), 0);
		assert_int_equal(depot_wait(&dp[0], mine[gone]), 0);
		assert_int_equal(kernel.begun, 3);
		assert_bytes(&dp[0], gone * 65536, 4096, 0x61);
		assert_bytes(&dp[0], (3 - gone) * 65536, 4096, 0);
		assert_bytes(&dp[0], 3 * 65536, 4096, 0);
		depot_close(&dp[3 - gone]);
		depot_close(&dp[0]);
		virtq_store_close(store);
	}
	file_drop(path);
}

static void *reset_queue(void *arg)
{
	struct depot *dp = arg;

	dp->pair.device = virtq_engine_reset(dp->queue);
	return NULL;
}

/*
 * What the device is at can erase what the driver writes next: whoever takes the
 * queue away waits for it, but for no more than that piece.
 */
static void what_is_under_way_is_waited_for(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_ERASE, .bytes = 3 * PIECE };
	char *path = sparse_make(".", BYTES);
	struct virtq_store *store;
	struct depot dp[2];
	pthread_t thread;
	unsigned int tag;

	kernel_open(0);
	store = erasable(path);
	depot_open_shared(&dp[0], *state, store, 1);
	depot_open_shared(&dp[1], *state, store, 1);
	fill(&dp[1], 0, MIB);
	fill(&dp[1], PIECE, MIB);
	tag = depot_send(&dp[0], &w);
	kernel_wait_begun(1);
	assert_int_equal(pthread_create(&thread, NULL, reset_queue, &dp[0]), 0);
	/* Long after it was cancelled. */
	for (bool dropped = false; !dropped; usleep(200)) {
		pthread_mutex_lock(&eraser_of(store)->lock);
		dropped = eraser_of(store)->dropped;
		pthread_mutex_unlock(&eraser_of(store)->lock);
	}
	usleep(50000);
	assert_int_equal(dp[0].result[tag], DEPOT_NONE);
	/* Who comes now waits behind it, and is not dropped with it. */
	w.offset = 8192;
	w.bytes = 8192;
	kernel_lets_end(1);
	pthread_join(thread, NULL);
	assert_int_equal(dp[0].result[tag], -ECANCELED);
	assert_int_equal(kernel.begun, 1);
	assert_bytes(&dp[1], 0, MIB, 0);
	assert_bytes(&dp[1], PIECE, MIB, 0x61);
	kernel_lets_end(UINT32_MAX);
	assert_int_equal(depot_do(&dp[1], &w), 0);
	depot_close(&dp[1]);
	virtq_engine_destroy(dp[0].engine);
	close(dp[0].kick);
	close(dp[0].call);
	pair_close(&dp[0].pair);
	virtq_store_close(store);
	file_drop(path);
}

static void queues_come_and_go(void **state)
{
	char *path = sparse_make(".", MIB);
	struct virtq_store *store;
	struct depot dp[3];

	kernel_open(UINT32_MAX);
	store = erasable(path);
	for (unsigned int i = 0; i < 3; i++)
		depot_open_shared(&dp[i], *state, store, 1);
	for (unsigned int round = 0; round < 60; round++) {
		unsigned int gone = round % 3, last = 0;

		for (unsigned int i = 0; i < 3; i++)
			for (unsigned int n = 0; n < 6; n++)
				last = depot_send(&dp[i], &erase);
		if (round % 2)
			depot_wait(&dp[2], last);
		depot_close(&dp[gone]);
		depot_open_shared(&dp[gone], *state, store, 1);
		for (unsigned int i = 0; i < 3; i++)
			while (dp[i].busy)
				assert_true(depot_reap(&dp[i], WAIT_MS));
	}
	for (unsigned int i = 0; i < 3; i++)
		depot_close(&dp[i]);
	assert_int_equal(count_waiting(store), 0);
	assert_null(eraser_of(store)->at_work);
	virtq_store_close(store);
	file_drop(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(devices_are_asked_and_not_touched),
		cmocka_unit_test(old_kernels_are_not_believed),
		ON_ENGINES(files_are_not_erased),
		ON_ENGINES(ranges_are_erased_and_stable),
		ON_ENGINES(errors_are_those_of_one_request),
		/* io_uring has its own sync, which cannot be made to fail. */
		ON(sync_packed_event, a_failed_sync_fails_it),
		ON_ENGINES(the_engine_does_not_wait),
		ON_ENGINES(who_waits_can_be_cancelled),
		ON_ENGINES(what_is_under_way_is_waited_for),
		ON_ENGINES(queues_come_and_go),
	};

	return cmocka_run_group_tests_name("store file erase", tests, NULL, NULL) ? 1 : 0;
}
