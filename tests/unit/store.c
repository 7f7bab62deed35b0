/* SPDX-License-Identifier: MIT */
/* Stores by name; the one that is nothing, and the one that is memory. */
#include "depot.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

/* ---- Names -------------------------------------------------------------------- */

static void names_that_mean_nothing(void **state)
{
	static const char *const bad[] = {
		"null:", "ram:", "ram:0", "null:511", "ram:513", "ram:1k", "ram:1KB", "ram:K",
		"ram: 1M", "ram:-1M", "ram:+1M", "ram:1.5M", "null:0x1000", "null:1P",
		"null:18446744073709551616", "null:16777216T", "ram:512,", "null:1M:1M",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_store_refused(bad[i], NULL, -EINVAL, bad[i]);
	assert_store_refused("", NULL, -EINVAL, "path");
	assert_store_refused(NULL, NULL, -EINVAL, "path");
	/* More than there are addresses. */
	assert_store_refused("ram:8388608T", NULL, -ENOMEM, "9223372036854775808");
#ifndef VIRTQ_WITH_LIBNBD
	assert_store_refused("nbd://localhost/", NULL, -ENOTSUP, "libnbd");
#endif
	virtq_store_close(NULL);
}

static void sizes_are_in_powers_of_1024(void **state)
{
	static const struct { const char *name; uint64_t bytes; } sizes[] = {
		{ "null:512", 512 }, { "null:1K", 1024 }, { "null:3M", 3 * MIB },
		{ "null:0512", 512 }, { "null:2G", 2048 * MIB }, { "null:5T", 5 * MIB * MIB },
		{ "ram:1536", 1536 }, { "ram:64K", 65536 }, { "ram:1T", MIB * MIB },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct virtq_store *store = store_make(sizes[i].name, NULL);

		assert_int_equal(store->info.bytes, sizes[i].bytes);
		assert_int_equal(store->info.block, 512);
		assert_false(store->info.read_only);
		/* What is nothing has nothing to erase. */
		assert_int_equal(store->info.erase_max, *sizes[i].name == 'r' ? 8 * MIB : 0);
		virtq_store_close(store);
	}
}

static void a_path_may_look_like_a_name(void **state)
{
	static const struct virtq_store_options ro = { .read_only = true };
	struct virtq_store *store;
	FILE *f = fopen("./ram:1M", "w");

	(void)state;
	assert_non_null(f);
	assert_int_equal(fwrite("x", 1, 1, f), 1);
	fclose(f);
	assert_int_equal(truncate("./ram:1M", 1024), 0);
	store = store_make("./ram:1M", &ro);
	assert_string_equal(store->ops->name, "file");
	assert_int_equal(store->info.bytes, 1024);
	assert_true(store->info.read_only);
	virtq_store_close(store);
	store = store_make("ram:1M", &ro);
	assert_string_equal(store->ops->name, "ram");
	assert_true(store->info.read_only);
	virtq_store_close(store);
	unlink("./ram:1M");
}

/* ---- Nothing ------------------------------------------------------------------ */

static void null_touches_nothing(void **state)
{
	struct depot dp;
	struct work w = { .kind = VIRTQ_STORE_WRITE, .offset = 1024 * MIB - 8192, .bytes = 8192 };

	depot_open(&dp, *state, store_make("null:1G", NULL), 300);
	memset(depot_data(&dp, 0), 0xab, 16384);
	assert_int_equal(depot_do(&dp, &w), 0);
	w.kind = VIRTQ_STORE_READ;
	w.piece = 100;
	w.at = 5;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(dp.used[0], 8192);
	for (size_t i = 0; i < 16384; i++)
		assert_int_equal(*depot_data(&dp, i), 0xab);
	for (int kind = VIRTQ_STORE_FLUSH; kind <= VIRTQ_STORE_ZERO; kind++) {
		w.kind = (enum virtq_store_kind)kind;
		assert_int_equal(depot_do(&dp, &w), 0);
	}
	w.kind = VIRTQ_STORE_ERASE;
	assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
	depot_close(&dp);
}

/* ---- Memory ------------------------------------------------------------------- */

static void ram_keeps_what_is_written(void **state)
{
	struct depot dp;
	struct shadow s;

	depot_open(&dp, *state, store_make("ram:5M", NULL), 300);
	shadow_open(&s, 5 * MIB);
	shadow_check(&s, &dp);		/* zeroes at first */
	shadow_run(&s, &dp, 150, true);
	shadow_close(&s);
	depot_close(&dp);
}

static uint64_t resident_bytes(void)
{
	unsigned long long total, resident;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%llu %llu", &total, &resident), 2);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void write_far(struct depot *dp, uint64_t offset, uint64_t bytes)
{
	memset(depot_data(dp, 0), 0x5c, MIB);
	for (uint64_t at = 0; at < bytes; at += MIB)
		assert_int_equal(depot_do(dp, &(struct work){ .kind = VIRTQ_STORE_WRITE,
				.offset = offset + at, .bytes = MIB }), 0);
}

/* BLK-DEV-014: no more space than what is written takes, and less after it is discarded. */
static void ram_gives_space_back(void **state)
{
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 512 };
	uint64_t far = MIB * MIB / 2 - MIB, before;
	struct depot dp;

	depot_open(&dp, *state, store_make("ram:1T", NULL), 300);
	for (int unmap = 0; unmap < 2; unmap++) {
		write_far(&dp, far, 64 * MIB);
		before = resident_bytes();
		/* Not whole pages at either end: what is outside stays. */
		assert_int_equal(depot_do(&dp, &(struct work){
				.kind = unmap ? VIRTQ_STORE_ZERO : VIRTQ_STORE_DISCARD,
				.flags = unmap ? VIRTQ_STORE_MAY_UNMAP : 0,
				.offset = far + 512, .bytes = 64 * MIB - 1024 }), 0);
		assert_in_range(before - resident_bytes(), 60 * MIB, 64 * MIB);
		read.offset = far;
		assert_int_equal(depot_do(&dp, &read), 0);
		assert_int_equal(*depot_data(&dp, 511), 0x5c);
		read.offset = far + 64 * MIB - 512;
		assert_int_equal(depot_do(&dp, &read), 0);
		assert_int_equal(*depot_data(&dp, 0), 0x5c);
		read.offset = far + 32 * MIB;
		assert_int_equal(depot_do(&dp, &read), 0);
		assert_int_equal(*depot_data(&dp, 0), 0);
	}
	/* Asked not to, it keeps it. */
	write_far(&dp, far, 8 * MIB);
	before = resident_bytes();
	assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_ZERO, .offset = far,
						       .bytes = 8 * MIB }), 0);
	assert_true(resident_bytes() + MIB > before);
	read.offset = far;
	assert_int_equal(depot_do(&dp, &read), 0);
	assert_int_equal(*depot_data(&dp, 511), 0);
	depot_close(&dp);
}

/* The C library's, which sees what is in the pages that are given back. */
static struct {
	uint64_t calls, dirty_bytes;	/* the engine's thread writes, and rests when the test reads */
} given_back;

int madvise(void *memory, size_t bytes, int advice)
{
	const uint8_t *at = memory;

	if (advice == MADV_DONTNEED && bytes >= MIB) {
		given_back.calls++;
		for (size_t i = 0; i < bytes; i++)
			given_back.dirty_bytes += at[i] == 0x5c;
	}
	return (int)syscall(SYS_madvise, memory, bytes, advice);
}

/* Erased is what was asked for, to the byte, by overwriting; and its space is given back. */
static void ram_erases(void **state)
{
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4 * MIB };
	struct work w = { .kind = VIRTQ_STORE_ERASE, .offset = 512, .bytes = 4 * MIB - 1024 };
	struct virtq_store *store = store_make("ram:16M", NULL);
	uint64_t before;
	struct depot dp;

	assert_int_equal(store->info.erase_max, 8 * MIB);
	depot_open(&dp, *state, store, 300);
	write_far(&dp, 0, 4 * MIB);
	before = resident_bytes();
	given_back.calls = given_back.dirty_bytes = 0;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_in_range(before - resident_bytes(), 3 * MIB, 4 * MIB);
	/* In pieces, of which two are of this length. */
	assert_int_equal(given_back.calls, 2);
	assert_int_equal(given_back.dirty_bytes, 0);
	assert_int_equal(depot_do(&dp, &read), 0);
	for (size_t i = 0; i < 4 * MIB; i++)
		if (*depot_data(&dp, i) != (i < 512 || i >= 4 * MIB - 512 ? 0x5c : 0))
			fail_msg("byte %zu is %#x", i, *depot_data(&dp, i));
	depot_close(&dp);
}

static void engines_share_memory(void **state)
{
	depot_crowd(*state, store_make("ram:1M", NULL));
	depot_crowd(*state, store_make("null:1M", NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_that_mean_nothing),
		cmocka_unit_test(sizes_are_in_powers_of_1024),
		cmocka_unit_test(a_path_may_look_like_a_name),
		ON_ENGINES(null_touches_nothing),
		ON_ENGINES(ram_keeps_what_is_written),
		ON_ENGINES(ram_gives_space_back),
		ON_ENGINES(ram_erases),
		ON_ENGINES(engines_share_memory),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL) ? 1 : 0;
}
