/* SPDX-License-Identifier: MIT */
/*
 * Files as stores: the data that is written and read, straight or past the page
 * cache, in any pieces.
 */
#include "places.h"

#include <stdlib.h>
#include <unistd.h>

#include "dev/store_file.h"

#define BYTES (6 * MIB)

static void data_is_kept(void **state)
{
	char *path = sparse_make(".", BYTES);

	depot_random(*state, store_make(path, NULL), BYTES, 60, true);
	file_drop(path);
}

static void data_is_kept_past_the_page_cache(void **state)
{
	char *path = sparse_make(".", BYTES);

	depot_random(*state, store_make_direct(path), BYTES, 60, false);
	file_drop(path);
	/* Memory that O_DIRECT does not take, ranges that it does not take. */
	path = sparse_make(".", BYTES);
	depot_random(*state, store_make_direct(path), BYTES, 100, true);
	file_drop(path);
}

static void engines_share_a_file(void **state)
{
	char *path = sparse_make(".", MIB);

	depot_crowd(*state, store_make(path, NULL));
	depot_crowd(*state, store_make_direct(path));
	file_drop(path);
}

/*
 * More requests than there are buffers, of memory that O_DIRECT does not take: the
 * rest wait for their turn, or are cancelled with their queue.
 */
static void requests_wait_for_buffers(void **state)
{
	char *path = sparse_make(".", 64 * 131072);
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 120 * 1024 };
	unsigned int tags[60];
	struct depot dp;

	depot_open(&dp, *state, store_make_direct(path), 0);
	for (unsigned int round = 0; round < 8; round++) {
		w.kind = round % 2 ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE;
		for (unsigned int i = 0; i < 60; i++) {
			w.at = i * 131072 + 1;
			w.offset = i * 131072;
			memset(depot_data(&dp, w.at), w.kind == VIRTQ_STORE_READ ? 0xff :
			       (int)(round + i), w.bytes);
			tags[i] = depot_send(&dp, &w);
		}
		for (unsigned int i = 0; i < 60; i++) {
			assert_int_equal(depot_wait(&dp, tags[i]), 0);
			assert_int_equal(*depot_data(&dp, i * 131072 + w.bytes), w.kind ==
					 VIRTQ_STORE_READ ? round - 1 + i : round + i);
		}
	}
	depot_close(&dp);

	/* Taken away at once. */
	for (unsigned int round = 0; round < 10; round++) {
		depot_open(&dp, *state, store_make_direct(path), 1);
		for (unsigned int i = 0; i < 60; i++) {
			w.at = i * 131072 + 1;
			w.offset = i * 131072;
			depot_send(&dp, &w);
		}
		depot_close(&dp);
		for (unsigned int i = 0; i < 60; i++)
			assert_true(dp.result[i] == 0 || dp.result[i] == -ECANCELED ||
				    dp.result[i] == DEPOT_NONE);
	}
	file_drop(path);
}

/* A read that belongs to no engine, and has one of the buffers. */
struct keeper {
	struct virtq_store_io io;
	struct virtq_req req;
	struct virtq_span span;
	struct virtq_op op;
	uint8_t data[8192 + 1];
};

static void keep_buffer(struct keeper *k, struct virtq_store *store)
{
	k->span = (struct virtq_span){ k->data + ((uintptr_t)k->data % 2 == 0), 8192 };
	k->req.wr = (struct virtq_cursor){ &k->span, 1, 8192 };
	k->io = (struct virtq_store_io){ .req = &k->req, .kind = VIRTQ_STORE_READ,
					 .bytes = 8192 };
	assert_int_equal(store->ops->start(store, &k->io, &k->op), VIRTQ_SUBMIT);
	assert_non_null(k->op.spans);
}

/* A queue with a thousand requests that wait for a buffer is one of two whose turn it is. */
static void queues_get_buffers_in_turn(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 8192, .at = 1 };
	char *path = sparse_make(".", MIB);
	struct virtq_store *store = store_make_direct(path);
	struct keeper *keepers = calloc(BOUNCE_COUNT - 1, sizeof(*keepers));

	assert_non_null(keepers);
	for (unsigned int i = 0; i < BOUNCE_COUNT - 1; i++)
		keep_buffer(&keepers[i], store);
	assert_in_range(depot_overtaken(*state, store, &w, 1000), 0, 100);
	for (unsigned int i = 0; i < BOUNCE_COUNT - 1; i++)
		store->ops->finish(store, &keepers[i].io, &keepers[i].op, -EIO);
	free(keepers);
	virtq_store_close(store);
	file_drop(path);
}

/* More elements than one call takes, and more bytes than a buffer has. */
static void long_chains_in_small_pieces(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 1100 * 512, .piece = 512 };

	for (int way = 0; way < 2; way++) {
		char *path = sparse_make(".", BYTES);
		struct depot dp;

		depot_open(&dp, *state, way ? store_make_direct(path) : store_make(path, NULL),
			   300);
		w.bytes = way ? 1096 * 512 : 1100 * 512;	/* whole pages */
		w.kind = VIRTQ_STORE_WRITE;
		w.at = 3;
		for (size_t i = 0; i < w.bytes; i++)
			*depot_data(&dp, w.at + i) = file_pattern(i);
		assert_int_equal(depot_do(&dp, &w), 0);
		memset(depot_data(&dp, 0), 0, MIB);
		w.kind = VIRTQ_STORE_READ;
		w.at = 1001;
		assert_int_equal(depot_do(&dp, &w), 0);
		assert_int_equal(dp.used[0], w.bytes);
		for (size_t i = 0; i < w.bytes; i++)
			if (*depot_data(&dp, w.at + i) != file_pattern(i))
				fail_msg("byte %zu", i);
		depot_close(&dp);
		file_drop(path);
	}
}

/* ---- Errors --------------------------------------------------------------------- */

/* BLK-DEV-033: a file that was cut gives what it has, and no more is claimed. */
static void a_cut_file_fails_where_it_ends(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 8192 };
	char *path = file_make(16384);
	struct depot dp;

	for (int way = 0; way < 3; way++) {
		depot_open(&dp, *state, way ? store_make_direct(path) : store_make(path, NULL),
			   300);
		assert_int_equal(truncate(path, 4096), 0);
		w.at = way == 2 ? 1 : 0;
		memset(depot_data(&dp, 0), 0x77, 16384);
		assert_int_equal(depot_do(&dp, &w), -EIO);
		assert_int_equal(dp.used[0], 4096);
		for (size_t i = 0; i < 4096; i++)
			assert_int_equal(*depot_data(&dp, w.at + i), file_pattern(i));
		/* Straight into the driver's memory the kernel may have put zeroes behind it. */
		for (size_t i = 4096; i < 8192 && way != 1; i++)
			assert_int_equal(*depot_data(&dp, w.at + i), 0x77);
		depot_close(&dp);
		assert_int_equal(truncate(path, 16384), 0);
	}
	file_drop(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(data_is_kept),
		ON_ENGINES(data_is_kept_past_the_page_cache),
		ON_ENGINES(engines_share_a_file),
		ON_ENGINES(requests_wait_for_buffers),
		ON_ENGINES(queues_get_buffers_in_turn),
		ON_ENGINES(long_chains_in_small_pieces),
		ON_ENGINES(a_cut_file_fails_where_it_ends),
	};

	return cmocka_run_group_tests_name("store file io", tests, NULL, NULL) ? 1 : 0;
}
