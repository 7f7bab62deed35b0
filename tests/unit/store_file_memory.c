/* SPDX-License-Identifier: MIT */
/*
 * Files that are memory: what is short is moved in place, by the engine's thread;
 * all else, and what goes wrong, takes the way of any other file.
 */
#include "places.h"

#include <unistd.h>

#define BYTES (6 * MIB)
#define LONGEST 65536u		/* that is moved in place */

static const struct virtq_store_options in_place, never = { .no_in_place = true };
static const struct virtq_store_options in_place_direct = { .direct = true };

static void data_is_kept(void **state)
{
	char *folder = place_mount("none", "tmpfs", NULL), *path = sparse_make(folder, BYTES);

	depot_random(*state, store_make(path, &in_place), BYTES, 60, true);
	depot_crowd(*state, store_make(path, &in_place));
	file_drop(path);
	path = sparse_make(folder, MIB);
	depot_random(*state, store_make(path, &never), MIB, 20, true);
	file_drop(path);
	place_unmount(folder);
}

/* Where a kernel has O_DIRECT for a tmpfs. */
static void data_is_kept_with_o_direct(void **state)
{
	char *folder = place_mount("none", "tmpfs", NULL), *path = sparse_make(folder, BYTES);
	struct virtq_store *store;
	struct virtq_error err;

	if (virtq_store_open(&store, path, &in_place_direct, &err)) {
		print_message("skipped: %s\n", err.text);
		file_drop(path);
		place_unmount(folder);
		skip();
	}
	depot_random(*state, store, BYTES, 60, true);
	file_drop(path);
	place_unmount(folder);
}

/* So many of two requests, of @bytes in elements of @piece, ended as they began. */
static uint32_t ended_at_once(const struct setting *s, const char *path,
			      const struct virtq_store_options *options, uint64_t bytes,
			      size_t piece)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = bytes, .piece = piece };
	struct depot dp;

	depot_open(&dp, s, store_make(path, options), 300);
	for (uint64_t i = 0; i < bytes; i++)
		*depot_data(&dp, w.at + i) = file_pattern(i);
	assert_int_equal(depot_do(&dp, &w), 0);
	w.kind = VIRTQ_STORE_READ;
	w.at = 4 * MIB + 1;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(dp.used[0], bytes);
	for (uint64_t i = 0; i < bytes; i++)
		if (*depot_data(&dp, w.at + i) != file_pattern(i))
			fail_msg("byte %llu of %llu", (unsigned long long)i,
				 (unsigned long long)bytes);
	depot_close(&dp);
	return dp.at_once;
}

static void what_is_short_ends_as_it_begins(void **state)
{
	static const char *const kinds[] = { "tmpfs", "ramfs" };

	for (size_t i = 0; i < 2; i++) {
		char *folder = place_mount("none", kinds[i], NULL);
		char *path = sparse_make(folder, BYTES);

		assert_int_equal(ended_at_once(*state, path, &in_place, 512, 0), 2);
		assert_int_equal(ended_at_once(*state, path, &in_place, LONGEST, 0), 2);
		assert_int_equal(ended_at_once(*state, path, &in_place, LONGEST, 512), 2);
		/* What is longer would keep others waiting. */
		assert_int_equal(ended_at_once(*state, path, &in_place, LONGEST + 512, 0), 0);
		assert_int_equal(ended_at_once(*state, path, &in_place, MIB, 0), 0);
		/* More elements than one call takes. */
		assert_int_equal(ended_at_once(*state, path, &in_place, LONGEST, 60), 0);
		assert_int_equal(ended_at_once(*state, path, &never, 512, 0), 0);
		file_drop(path);
		place_unmount(folder);
	}
}

/* Any other file may have to wait for a disk. */
static void other_files_are_left_to_the_engine(void **state)
{
	struct setting s = *(const struct setting *)*state;
	struct loop l;

	loop_open(&l, ".", BYTES, 512);
	assert_int_equal(ended_at_once(&s, l.device, &in_place, 4096, 0), 0);
	loop_close(&l);
}

/* BLK-DEV-017: stable is what has been synced, in memory too. */
static void stable_writes_are_synced(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .flags = VIRTQ_STORE_STABLE, .bytes = 4096 };
	char *folder = place_mount("none", "tmpfs", NULL), *path = sparse_make(folder, BYTES);
	struct depot dp;

	depot_open(&dp, *state, store_make(path, &in_place), 300);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(dp.at_once, 0);
	w.flags = 0;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(dp.at_once, 1);
	depot_close(&dp);
	file_drop(path);
	place_unmount(folder);
}

/* ---- Errors --------------------------------------------------------------------- */

/* BLK-DEV-033: a file that was cut gives what it has, and no more is claimed. */
static void a_cut_file_fails_where_it_ends(void **state)
{
	char *folder = place_mount("none", "tmpfs", NULL), *path = sparse_make(folder, 16384);
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 8192 };
	struct depot dp;

	depot_open(&dp, *state, store_make(path, &in_place), 300);
	assert_int_equal(truncate(path, 4096), 0);
	memset(depot_data(&dp, 0), 0x77, 16384);
	assert_int_equal(depot_do(&dp, &w), -EIO);
	assert_int_equal(dp.used[0], 4096);
	for (size_t i = 0; i < 4096; i++)
		assert_int_equal(*depot_data(&dp, i), 0);
	for (size_t i = 4096; i < 8192; i++)
		assert_int_equal(*depot_data(&dp, i), 0x77);
	depot_close(&dp);
	file_drop(path);
	place_unmount(folder);
}

/* Where it ends in the middle of a request, too: some of it is there. */
static void no_space_fails_what_needs_it(void **state)
{
	char *folder = place_mount("none", "tmpfs", "size=1M"), *path = sparse_make(folder, BYTES);
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 49152 };
	unsigned int full = 0;
	struct depot dp;

	depot_open(&dp, *state, store_make(path, &in_place), 300);
	memset(depot_data(&dp, 0), 0x61, 49152);
	for (w.offset = 0; w.offset < 2 * MIB; w.offset += w.bytes) {
		int result = depot_do(&dp, &w);

		assert_true(result == 0 || result == -ENOSPC);
		full += result != 0;
	}
	assert_in_range(full, 20, 24);
	assert_in_range(dp.at_once, 18, 22);
	/* What it has can be read, and written again. */
	w.offset = 0;
	w.kind = VIRTQ_STORE_READ;
	memset(depot_data(&dp, 0), 0, 49152);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(*depot_data(&dp, 49151), 0x61);
	w.kind = VIRTQ_STORE_WRITE;
	assert_int_equal(depot_do(&dp, &w), 0);
	depot_close(&dp);
	file_drop(path);
	place_unmount(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(data_is_kept),
		ON_ENGINES(data_is_kept_with_o_direct),
		ON_ENGINES(what_is_short_ends_as_it_begins),
		ON_ENGINES(other_files_are_left_to_the_engine),
		ON_ENGINES(stable_writes_are_synced),
		ON_ENGINES(a_cut_file_fails_where_it_ends),
		ON_ENGINES(no_space_fails_what_needs_it),
	};

	return cmocka_run_group_tests_name("store file memory", tests, NULL, NULL) ? 1 : 0;
}
