/* SPDX-License-Identifier: MIT */
/*
 * Files and block devices as stores, on real file systems: the space they take and
 * give back, and what is said of large blocks, no space and lost data.
 */
#include "places.h"

#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../emulated.h"

#define BYTES (6 * MIB)

/* ---- Space ------------------------------------------------------------------------ */

static void space_run(const struct setting *s, char *path)
{
	struct work fill = { .kind = VIRTQ_STORE_WRITE, .bytes = 4 * MIB };
	struct work w = { .offset = 512, .bytes = 4 * MIB - 1024 };
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4 * MIB };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	struct depot dp;

	depot_open(&dp, s, store_make(path, NULL), 300);
	for (int way = 0; way < 3; way++) {
		memset(depot_data(&dp, 0), 0x61, 4 * MIB);
		assert_int_equal(depot_do(&dp, &fill), 0);
		/* Some file systems take space only when they write back. */
		assert_int_equal(depot_do(&dp, &flush), 0);
		assert_in_range(space_of(path), 4 * MIB, 5 * MIB);
		w.kind = way == 0 ? VIRTQ_STORE_DISCARD : VIRTQ_STORE_ZERO;
		w.flags = way == 2 ? 0 : VIRTQ_STORE_MAY_UNMAP;
		assert_int_equal(depot_do(&dp, &w), 0);
		assert_int_equal(depot_do(&dp, &flush), 0);
		if (way == 2)
			assert_in_range(space_of(path), 4 * MIB, 5 * MIB);
		else
			assert_in_range(space_of(path), 1024, 65536);
		assert_int_equal(depot_do(&dp, &read), 0);
		for (size_t i = 0; i < 4 * MIB; i++)
			if (*depot_data(&dp, i) != (i < 512 || i >= 4 * MIB - 512 ? 0x61 : 0))
				fail_msg("way %d: byte %zu", way, i);
	}
	depot_close(&dp);
	file_drop(path);
}

/* BLK-DEV-014, BLK-DEV-015: discarded space is given back, zeroed space only if it may be. */
static void space_is_given_back(void **state)
{
	space_run(*state, sparse_make(".", BYTES));
}

/* It makes holes, but does not zero otherwise. */
static void space_is_given_back_on_tmpfs(void **state)
{
	char *folder = place_mount("none", "tmpfs", "size=64M");

	space_run(*state, sparse_make(folder, BYTES));
	place_unmount(folder);
}

/* It does neither: nothing is changed, and whoever asked knows. */
static void a_file_system_without_holes_says_so(void **state)
{
	char *folder = place_mount("none", "ramfs", NULL), *path = sparse_make(folder, BYTES);
	struct work w = { .bytes = 8192 };
	struct depot dp;

	depot_open(&dp, *state, store_make(path, NULL), 300);
	for (int round = 0; round < 2; round++) {
		w.kind = VIRTQ_STORE_WRITE;
		memset(depot_data(&dp, 0), 0x61, 8192);
		assert_int_equal(depot_do(&dp, &w), 0);
		for (uint32_t flags = 0; flags <= VIRTQ_STORE_MAY_UNMAP; flags++) {
			w.flags = flags;
			w.kind = VIRTQ_STORE_DISCARD;
			assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
			w.kind = VIRTQ_STORE_ZERO;
			assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
		}
		w.kind = VIRTQ_STORE_READ;
		memset(depot_data(&dp, 0), 0, 8192);
		assert_int_equal(depot_do(&dp, &w), 0);
		assert_int_equal(*depot_data(&dp, 0), 0x61);
		assert_int_equal(*depot_data(&dp, 8191), 0x61);
	}
	depot_close(&dp);
	file_drop(path);
	place_unmount(folder);
}

static void no_space_fails_what_needs_it(void **state)
{
	char *folder = place_mount("none", "tmpfs", "size=2M"), *path = sparse_make(folder, BYTES);
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = MIB };
	unsigned int full = 0;
	struct depot dp;

	depot_open(&dp, *state, store_make(path, NULL), 300);
	for (w.offset = 0; w.offset < BYTES; w.offset += MIB) {
		int result = depot_do(&dp, &w);

		assert_true(result == 0 || result == -ENOSPC);
		full += result != 0;
	}
	assert_in_range(full, 4, 5);
	w = (struct work){ .kind = VIRTQ_STORE_READ, .bytes = MIB };
	assert_int_equal(depot_do(&dp, &w), 0);
	/* Some is given back, and writing goes on. */
	w.kind = VIRTQ_STORE_DISCARD;
	assert_int_equal(depot_do(&dp, &w), 0);
	w.kind = VIRTQ_STORE_WRITE;
	w.bytes /= 2;
	assert_int_equal(depot_do(&dp, &w), 0);
	depot_close(&dp);
	file_drop(path);
	place_unmount(folder);
}

/* ---- Block devices ------------------------------------------------------------------ */

static void a_block_device_is_a_store(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4 * MIB };
	struct virtq_store *store;
	struct depot dp;
	struct loop l;

	skip_unless_alignment_is_told();
	loop_open(&l, ".", BYTES, 512);
	depot_random(*state, store_make(l.device, NULL), BYTES, 40, true);
	loop_close(&l);
	loop_open(&l, ".", BYTES, 512);
	depot_random(*state, store_make(l.device, &direct), BYTES, 40, true);
	loop_close(&l);

	loop_open(&l, ".", BYTES, 512);
	store = store_make(l.device, NULL);
	assert_int_equal(store->info.bytes, BYTES);
	assert_int_equal(store->info.block, 512);
	/* One owner; what is refused says why. */
	assert_store_refused(l.device, NULL, -EBUSY, l.device);
	if (!store->info.discard_max)
		print_message("this loop device does not discard\n");
	depot_open(&dp, *state, store, 300);
	assert_int_equal(depot_do(&dp, &w), 0);
	/* BLK-DEV-018: nobody else takes it out of the cache of the device at this time. */
	assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_FLUSH }), 0);
	assert_true(space_of(l.path) >= 4 * MIB);
	if (store->info.discard_max) {
		w.kind = VIRTQ_STORE_DISCARD;
		assert_int_equal(depot_do(&dp, &w), 0);
		assert_true(space_of(l.path) < MIB);
	}

	/* It grows. */
	assert_int_equal(truncate(l.path, 2 * BYTES), 0);
	assert_int_equal(ioctl(l.fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(store->ops->refresh(store), 2 * BYTES);
	w.kind = VIRTQ_STORE_WRITE;
	w.offset = 2 * BYTES - 4 * MIB;
	assert_int_equal(depot_do(&dp, &w), 0);
	/* What is behind it fails: so does the request, and no other. */
	w.offset = 3 * BYTES;
	assert_true(depot_do(&dp, &w) < 0);
	w.offset = 0;
	assert_int_equal(depot_do(&dp, &w), 0);
	depot_close(&dp);
	loop_close(&l);
}

/* BLK-DEV-012: whoever is not told cannot know why each write fails. */
static void a_write_protected_device_is_a_store_to_read(void **state)
{
	for (unsigned int way = 0; way < 2; way++) {
		struct virtq_store *store, *second;
		struct depot dp;
		struct loop l;
		int on = 1;

		loop_open(&l, ".", BYTES, 512);
		assert_int_equal(ioctl(l.fd, BLKROSET, &on), 0);
		store = way ? store_make_direct(l.device) : store_make(l.device, NULL);
		assert_true(store->info.read_only);
		assert_int_equal(store->info.erase_max, 0);
		/* To be shared, as all that is only read. */
		second = store_make(l.device, NULL);
		virtq_store_close(second);
		depot_open(&dp, *state, store, 300);
		assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_READ,
							       .bytes = 4096 }), 0);
		assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_FLUSH }), 0);
		depot_close(&dp);

		on = 0;
		assert_int_equal(ioctl(l.fd, BLKROSET, &on), 0);
		store = store_make(l.device, NULL);
		assert_false(store->info.read_only);
		virtq_store_close(store);
		loop_close(&l);
	}
}

static void large_blocks_are_announced(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_ZERO, .offset = 512, .bytes = 8192 };
	struct virtq_store *store;
	struct depot dp;
	struct loop l;

	skip_unless_alignment_is_told();
	loop_open(&l, ".", BYTES, 4096);
	store = store_make(l.device, NULL);
	assert_int_equal(store->info.block, 512);	/* the page cache sees to it */
	assert_int_equal(store->info.physical, 4096);
	depot_open(&dp, *state, store, 300);
	/* Less than a block is the device's to do, or not to do. */
	assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
	memset(depot_data(&dp, 0), 0x61, 16384);
	assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_WRITE,
						       .bytes = 16384 }), 0);
	w.kind = VIRTQ_STORE_DISCARD;
	if (store->info.discard_max)
		assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_READ,
						       .bytes = 16384 }), 0);
	for (size_t i = 0; i < 16384; i++)
		assert_true(*depot_data(&dp, i) == 0x61 ||
			    (i >= 4096 && i < 8192 && store->info.discard_max));
	depot_close(&dp);

	store = store_make(l.device, &direct);
	assert_int_equal(store->info.block, 4096);
	virtq_store_close(store);
	loop_close(&l);
}

/* ---- A medium that loses what it was given -------------------------------------------- */

#define LOST_MIB 24u

/* A file system on a device whose file has no room. */
struct faulty {
	struct loop loop;
	char *below, *folder, *path;
};

static void faulty_open(struct faulty *y)
{
	char command[128];

	y->below = place_mount("none", "tmpfs", "size=12M");
	loop_open(&y->loop, y->below, 64 * MIB, 512);
	snprintf(command, sizeof(command),
		 "mkfs.ext4 -q -F -b 4096 -E nodiscard,lazy_itable_init=1 %s", y->loop.device);
	if (system(command)) {
		print_message("skipped: no mkfs.ext4\n");
		loop_close(&y->loop);
		place_unmount(y->below);
		skip();
	}
	y->folder = place_mount(y->loop.device, "ext4", NULL);
	y->path = sparse_make(y->folder, LOST_MIB * MIB);
}

static void faulty_close(struct faulty *y)
{
	file_drop(y->path);
	place_unmount(y->folder);
	loop_close(&y->loop);
	place_unmount(y->below);
}

/* BLK-DEV-018: the kernel tells the first sync of the file only. */
static void lost_data_fails_every_flush(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = MIB };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	struct depot dp[2];
	struct faulty y;

	faulty_open(&y);
	depot_open(&dp[0], *state, store_make(y.path, NULL), 300);
	depot_open_shared(&dp[1], *state, dp[0].store, 300);
	for (; w.offset < LOST_MIB * MIB; w.offset += MIB)
		assert_int_equal(depot_do(&dp[0], &w), 0);
	for (unsigned int i = 0; i < 6; i++) {
		unsigned int first = depot_send(&dp[0], &flush);

		assert_true(depot_do(&dp[1], &flush) < 0);
		assert_true(depot_wait(&dp[0], first) < 0);
	}
	depot_close(&dp[1]);
	depot_close(&dp[0]);
	faulty_close(&y);
}

/*
 * BLK-DEV-017: the kernel tells a sync that data was lost, and the engine fails before
 * anybody hears of it. The next one must be told, too.
 */
static void lost_data_is_told_again_if_the_result_was_lost(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = MIB };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	struct virtq_req req = { .queue = NULL };
	struct virtq_store_io io = { .req = &req, .kind = VIRTQ_STORE_FLUSH };
	struct virtq_op op;
	struct depot dp;
	struct faulty y;

	faulty_open(&y);
	depot_open(&dp, *state, store_make(y.path, NULL), 300);
	for (; w.offset < LOST_MIB * MIB; w.offset += MIB)
		assert_int_equal(depot_do(&dp, &w), 0);
	/* On no engine. */
	assert_int_equal(dp.store->ops->start(dp.store, &io, &op), VIRTQ_SUBMIT);
	assert_int_equal(fdatasync(op.fd), -1);
	assert_int_equal(dp.store->ops->finish(dp.store, &io, &op, -EOWNERDEAD),
			 VIRTQ_DONE);
	for (unsigned int i = 0; i < 3; i++)
		assert_true(depot_do(&dp, &flush) < 0);
	depot_close(&dp);
	faulty_close(&y);
}

/* BLK-DEV-017: of writes that shall be stable none is after one was not. */
static void lost_data_fails_every_stable_write(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .flags = VIRTQ_STORE_STABLE,
			  .bytes = MIB / 4 };
	unsigned int good = 0, bad = 0;
	struct depot dp[2];
	struct faulty y;

	faulty_open(&y);
	depot_open(&dp[0], *state, store_make(y.path, NULL), 300);
	depot_open_shared(&dp[1], *state, dp[0].store, 300);
	for (; w.offset < LOST_MIB * MIB; ) {
		unsigned int tags[8];

		for (unsigned int i = 0; i < 8; i++, w.offset += w.bytes)
			tags[i] = depot_send(&dp[i % 2], &w);
		for (unsigned int i = 0, before = bad; i < 8; i++) {
			bool failed = depot_wait(&dp[i % 2], tags[i]) < 0;

			bad += failed;
			good += !failed;
			assert_true(failed || !before);
		}
	}
	assert_true(good && bad);
	depot_close(&dp[1]);
	depot_close(&dp[0]);
	faulty_close(&y);
}

/* The driver has to know of large blocks, and there is no half of one. */
static void a_size_of_half_a_block_is_refused(void **state)
{
	char *folder, *path;
	struct virtq_store *store;
	struct loop l;
	char command[64];

	(void)state;
	skip_unless_alignment_is_told();
	loop_open(&l, ".", 64 * MIB, 4096);
	snprintf(command, sizeof(command), "mkfs.ext4 -q -F %s", l.device);
	if (system(command)) {
		print_message("skipped: no mkfs.ext4\n");
		loop_close(&l);
		skip();
	}
	folder = place_mount(l.device, "ext4", NULL);
	path = sparse_make(folder, MIB + 512);
	assert_store_refused(path, &direct, -EINVAL, "multiples of 4096");
	virtq_store_close(store_make(path, NULL));
	assert_int_equal(truncate(path, MIB), 0);
	store = store_make(path, &direct);
	assert_int_equal(store->info.block, 4096);
	/* Nor does it come to have one. */
	assert_int_equal(truncate(path, MIB + 512), 0);
	assert_int_equal(store->ops->refresh(store), -EINVAL);
	assert_int_equal(store->info.bytes, MIB);
	assert_int_equal(truncate(path, MIB + 8192), 0);
	assert_int_equal(store->ops->refresh(store), MIB + 8192);
	virtq_store_close(store);
	file_drop(path);
	place_unmount(folder);
	loop_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(no_space_fails_what_needs_it),
		ON_ENGINES(space_is_given_back),
		ON_ENGINES(space_is_given_back_on_tmpfs),
		ON_ENGINES(a_file_system_without_holes_says_so),
		ON_ENGINES(a_block_device_is_a_store),
		ON_ENGINES(a_write_protected_device_is_a_store_to_read),
		ON_ENGINES(large_blocks_are_announced),
		ON_ENGINES(lost_data_fails_every_flush),
		ON_ENGINES(lost_data_is_told_again_if_the_result_was_lost),
		ON_ENGINES(lost_data_fails_every_stable_write),
		cmocka_unit_test(a_size_of_half_a_block_is_refused),
	};

	return cmocka_run_group_tests_name("store file places", tests, NULL, NULL) ? 1 : 0;
}
