/* SPDX-License-Identifier: MIT */
/*
 * A disk on an engine whose store keeps what it gets: other threads end it, the
 * queue goes away meanwhile, or both.
 */
#include "shelf.h"

#include <unistd.h>

#include "stand.h"

#define KEPT_BYTES 4096u
#define KEPT_SECTORS (KEPT_BYTES / 512)
#define UNTOUCHED 0xee
#define WORKERS 3u
#define HEADER 0u			/* in the driver's memory; one request is 256 bytes */
#define RANGES 32u
#define STATUS 128u
#define DATA 4096u

struct kept {
	struct shelf *shelf;
	struct virtq_model *model;
	struct stand stand;
	pthread_t workers[WORKERS];
	unsigned int worker_count;
};

static void kept_open(struct kept *k, void **state, unsigned int workers)
{
	struct virtq_blk_options options = { .queue_size_max = 256 };

	memset(k, 0, sizeof(*k));
	k->shelf = shelf_new(KEPT_BYTES, SHELF_HOLD);
	for (size_t i = 0; i < KEPT_BYTES; i++)
		k->shelf->memory[i] = file_pattern(i);
	options.store = &k->shelf->store;
	k->model = disk_make(&options);
	assert_int_equal(k->model->ops->features_ok(k->model, k->model->features), 0);
	stand_open(&k->stand, *state, k->model);
	memset(k->stand.pair.data, UNTOUCHED, k->stand.pair.data_bytes);
	for (; k->worker_count < workers; k->worker_count++)
		assert_int_equal(pthread_create(&k->workers[k->worker_count], NULL, shelf_worker,
						k->shelf), 0);
}

static void kept_close(struct kept *k)
{
	stand_close(&k->stand);
	shelf_quit(k->shelf);
	for (unsigned int i = 0; i < k->worker_count; i++)
		pthread_join(k->workers[i], NULL);
	assert_int_equal(k->shelf->wrong, 0);
	virtq_model_destroy(k->model);
}

/* Request number @n: with data to be read, or with ranges. */
static void submit(struct kept *k, unsigned int n, uint32_t type, uint64_t sector,
		 const struct virtq_blk_discard_write_zeroes *ranges, size_t count)
{
	uint8_t *at = k->stand.pair.data + n * 256;
	struct virtq_blk_req_hdr hdr;
	struct chain c = { .readable = 0 };

	virtq_blk_header(&hdr, type, sector);
	memcpy(at + HEADER, &hdr, sizeof(hdr));
	chain_readable(&c, n * 256 + HEADER, sizeof(hdr));
	if (count) {
		memcpy(at + RANGES, ranges, count * sizeof(*ranges));
		chain_readable(&c, n * 256 + RANGES, count * sizeof(*ranges));
	} else {
		chain_writable(&c, DATA + n * 512, 512);
	}
	chain_writable(&c, n * 256 + STATUS, 1);
	stand_send(&k->stand, &c);
}

static uint8_t status(struct kept *k, unsigned int n)
{
	return k->stand.pair.data[n * 256 + STATUS];
}

static void hold_count(struct kept *k, unsigned int n)
{
	pthread_mutex_lock(&k->shelf->lock);
	while (k->shelf->held_count < n)
		pthread_cond_wait(&k->shelf->changed, &k->shelf->lock);
	pthread_mutex_unlock(&k->shelf->lock);
}

/* ---- Ended by others --------------------------------------------------------------- */

static void other_threads_end_requests(void **state)
{
	struct virtq_blk_discard_write_zeroes ranges[4];
	struct kept k;

	kept_open(&k, state, WORKERS);
	for (uint32_t round = 0; round < 200; round++) {
		for (unsigned int n = 0; n < 4; n++) {
			k.stand.pair.data[n * 256 + STATUS] = UNTOUCHED;
			submit(&k, n, VIRTIO_BLK_T_IN, (round + n) % KEPT_SECTORS, NULL, 0);
		}
		for (unsigned int n = 0; n < 4; n++)
			assert_int_equal(stand_back(&k.stand), 513);
		for (unsigned int n = 0; n < 4; n++) {
			size_t at = (round + n) % KEPT_SECTORS * 512;

			assert_int_equal(status(&k, n), VIRTIO_BLK_S_OK);
			for (size_t i = 0; i < 512; i++)
				assert_int_equal(k.stand.pair.data[DATA + n * 512 + i],
						 file_pattern(at + i));
		}
	}
	/* Several pieces of work, each on whichever thread is free. */
	for (unsigned int i = 0; i < 4; i++)
		virtq_blk_range(&ranges[i], i * 2, 1, false);
	for (unsigned int round = 0; round < 200; round++) {
		submit(&k, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges, 4);
		assert_int_equal(stand_back(&k.stand), 1);
		assert_int_equal(status(&k, 0), VIRTIO_BLK_S_OK);
	}
	assert_int_equal(k.shelf->count, 200 * 4 + 200 * 4);
	for (size_t i = 0; i < KEPT_BYTES; i++)
		assert_int_equal(k.shelf->memory[i], i / 512 % 2 ? file_pattern(i) : 0);
	kept_close(&k);
}

static void one_that_takes_long_stops_nobody(void **state)
{
	struct virtq_store_io *io;
	struct kept k;

	kept_open(&k, state, 0);
	submit(&k, 0, VIRTIO_BLK_T_IN, 0, NULL, 0);
	hold_count(&k, 1);
	io = shelf_take(k.shelf);
	for (unsigned int i = 0; i < 10; i++) {
		submit(&k, 1, VIRTIO_BLK_T_GET_ID, 0, NULL, 0);
		assert_int_equal(stand_back(&k.stand), 20);
	}
	virtq_engine_complete(io->req, shelf_work(k.shelf, io));
	assert_int_equal(stand_back(&k.stand), 513);
	assert_int_equal(status(&k, 0), VIRTIO_BLK_S_OK);
	kept_close(&k);
}

/* ---- The queue goes away ------------------------------------------------------------- */

/* Nothing begins any more that a request would have gone on with. */
static void what_is_kept_is_cancelled(void **state)
{
	struct virtq_blk_discard_write_zeroes ranges[3];
	struct kept k;

	for (unsigned int i = 0; i < 3; i++)
		virtq_blk_range(&ranges[i], i, 1, false);
	kept_open(&k, state, 0);
	submit(&k, 0, VIRTIO_BLK_T_DISCARD, 0, ranges, 3);
	submit(&k, 1, VIRTIO_BLK_T_IN, 0, NULL, 0);
	hold_count(&k, 2);
	k.stand.pair.device = virtq_engine_remove(k.stand.queue);
	k.stand.queue = NULL;
	stand_back(&k.stand);
	stand_back(&k.stand);
	assert_int_equal(status(&k, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(status(&k, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(k.shelf->cancelled, 2);
	assert_int_equal(k.shelf->count, 2);
	for (size_t i = 0; i < KEPT_BYTES; i++)
		assert_int_equal(k.shelf->memory[i], file_pattern(i));
	kept_close(&k);
}

struct late {
	struct shelf *shelf;
	struct virtq_store_io *io;
};

static void *end_late(void *arg)
{
	struct late *late = arg;

	usleep(600000);		/* the engine gives up waiting after 300 ms */
	virtq_engine_complete(late->io->req, shelf_work(late->shelf, late->io));
	return NULL;
}

/* A store that can cancel nothing has all the time it needs; but nothing more begins. */
static void what_cannot_be_cancelled_is_waited_for(void **state)
{
	struct virtq_blk_discard_write_zeroes ranges[3];
	struct late late[2];
	pthread_t threads[2];
	struct kept k;

	for (unsigned int i = 0; i < 3; i++)
		virtq_blk_range(&ranges[i], i, 1, false);
	kept_open(&k, state, 0);
	k.shelf->ops.cancel = NULL;
	submit(&k, 0, VIRTIO_BLK_T_IN, 3, NULL, 0);
	submit(&k, 1, VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges, 3);
	hold_count(&k, 2);
	for (unsigned int i = 0; i < 2; i++) {
		late[i] = (struct late){ k.shelf, shelf_take(k.shelf) };
		assert_int_equal(pthread_create(&threads[i], NULL, end_late, &late[i]), 0);
	}
	k.stand.pair.device = virtq_engine_remove(k.stand.queue);
	k.stand.queue = NULL;
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(stand_back(&k.stand) + stand_back(&k.stand), 513 + 1);
	assert_int_equal(status(&k, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(k.stand.pair.data[DATA], file_pattern(3 * 512));
	assert_int_equal(status(&k, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(k.shelf->count, 2);
	assert_int_equal(k.shelf->memory[0], 0);
	assert_int_equal(k.shelf->memory[512], file_pattern(512));
	kept_close(&k);
}

/* After a reset the driver hears of nothing that was under way. */
static void a_reset_forgets_what_is_kept(void **state)
{
	struct virtq_completion done;
	struct kept k;

	kept_open(&k, state, 0);
	submit(&k, 0, VIRTIO_BLK_T_IN, 0, NULL, 0);
	submit(&k, 1, VIRTIO_BLK_T_IN, 1, NULL, 0);
	hold_count(&k, 2);
	k.stand.pair.device = virtq_engine_reset(k.stand.queue);
	k.stand.queue = NULL;
	assert_int_equal(k.shelf->cancelled, 2);
	assert_int_equal(virtq_driver_get(k.stand.pair.driver, &done, 1), 0);
	assert_int_equal(k.stand.pair.data[DATA], UNTOUCHED);
	kept_close(&k);
}

#define EACH(test) \
	ON(uring_split, test), ON(uring_packed_event, test), ON(sync_split_event, test), \
	ON(sync_packed, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		EACH(other_threads_end_requests),
		EACH(one_that_takes_long_stops_nobody),
		EACH(what_is_kept_is_cancelled),
		EACH(what_cannot_be_cancelled_is_waited_for),
		EACH(a_reset_forgets_what_is_kept),
	};

	return cmocka_run_group_tests_name("blk hold", tests, NULL, NULL) ? 1 : 0;
}
