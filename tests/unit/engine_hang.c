/* SPDX-License-Identifier: MIT */
/* One disk's storage hangs: the others of the engine go on, and come to a standstill when told. */
#include "stand.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <virtq/model.h>

#include "engine/engine.h"

#include "../hangfs.h"

#define REQUESTS 500u
#define READ_BYTES 4096u
#define HUNG_HEADER(i) ((size_t)(i) * 16)	/* in the data memory; all read into one place */
#define HUNG_DATA_AT ((size_t)16384)
#define HUNG_STATUS_AT (HUNG_DATA_AT + READ_BYTES)

/* A file that does not answer, and more requests for it than their queue has credits for. */
struct hung {
	struct hangfs fs;
	struct virtq_model *model;
	struct virtq_model *disk;	/* whose requests read it; or NULL */
	struct scripted syncs;		/* whose requests do that */
	struct pair pair;
	struct virtq_engine_queue *queue;
};

/* What a hung file is asked. */
enum asks { READS, DIRECT_READS, SYNCS };

static void hung_make_model(struct hung *h, enum asks what)
{
	char path[48];

	if (what == SYNCS) {
		h->model = &h->syncs.model;
		*h->model = (struct virtq_model){ .ops = &scripted_ops, .queues = 1,
						  .max_segs = 4 };
		h->syncs.first = (struct virtq_op){ .kind = VIRTQ_OP_SYNC,
						    .fd = hangfs_file(&h->fs, O_RDWR) };
		return;
	}
	snprintf(path, sizeof(path), "%s/file", h->fs.folder);
	h->model = h->disk = disk_make(&(struct virtq_blk_options){
		.path = path, .direct = what == DIRECT_READS });
	assert_int_equal(h->disk->ops->features_ok(h->disk, h->disk->features), 0);
}

static void hung_open(struct hung *h, struct virtq_engine *engine, const struct pair_shape *shape,
		      enum asks what)
{
	uint32_t performing;

	hung_make_model(h, what);
	hangfs_hang(&h->fs, true);
	pair_open(&h->pair, &(struct pair_shape){ .packed = shape->packed, .size = 2048 },
		  h->model, HUNG_STATUS_AT + 1);
	for (unsigned int i = 0; i < REQUESTS; i++) {
		struct virtq_blk_req_hdr hdr;
		struct chain c = { .readable = 0 };

		virtq_blk_header(&hdr, VIRTIO_BLK_T_IN, i * (READ_BYTES / 512));
		memcpy(h->pair.data + HUNG_HEADER(i), &hdr, sizeof(hdr));
		chain_readable(&c, HUNG_HEADER(i), sizeof(hdr));
		chain_writable(&c, HUNG_DATA_AT, READ_BYTES);
		chain_writable(&c, HUNG_STATUS_AT, 1);
		chain_add(&h->pair, &c, h);
	}
	virtq_driver_publish(h->pair.driver);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = h->model, .ring = h->pair.device, .enabled = true,
				.kick_fd = -1, .call_fd = -1, .err_fd = -1 }, &h->queue), 0);
	h->pair.device = NULL;

	/* Until all that may wait for the file does. */
	for (int before = -1, ms = 0; before != hangfs_hung(&h->fs) || !before; ms += 200) {
		assert_true(ms < WAIT_MS);
		before = hangfs_hung(&h->fs);
		usleep(200000);
	}
	virtq_engine_queue_enable(h->queue, true);	/* a message: what follows is read after it */
	performing = h->queue->performing;
	print_message("%u requests under way, %d of them with the server of the file\n", performing,
		      hangfs_hung(&h->fs));
	/* What it must leave it has left: its credits, and so the workers that others find. */
	assert_in_range(performing, engine->credits / 4, engine->credits / 5 * 4 + 1);
}

static void hung_close(struct hung *h)
{
	struct virtq_completion done[16];
	unsigned int back = 0;
	int n;

	hangfs_hang(&h->fs, false);
	for (unsigned int ms = 0; back < REQUESTS; ms++) {
		assert_true(ms < WAIT_MS);
		n = virtq_driver_get(h->pair.driver, done, 16);
		assert_true(n >= 0);
		for (int i = 0; i < n; i++)
			assert_int_equal(done[i].written, h->disk ? READ_BYTES + 1 : 0);
		back += (unsigned int)n;
		if (!n)
			usleep(1000);
	}
	h->pair.device = virtq_engine_remove(h->queue);
	pair_close(&h->pair);
	if (h->disk)
		virtq_model_destroy(h->disk);
	else
		close(h->syncs.first.fd);
	hangfs_close(&h->fs);
}

static void others_go_on(const struct setting *s, enum asks what)
{
	struct scripted allocate = { .model.ops = &scripted_ops };
	struct virtq_engine *engine;
	struct chain c = { .readable = 0 };
	struct hung *h = calloc(1, sizeof(*h));
	struct stand allocates;
	struct disk disk;
	struct lane l;
	uint64_t began;

	assert_non_null(h);
	hangfs_open(&h->fs, REQUESTS * READ_BYTES);
	engine = engine_with(&(struct virtq_engine_config){ .kind = s->kind, .drain_ms = 3000 });
	lane_begin(&l, engine, &disk, &s->shape);
	allocate.first = (struct virtq_op){ .kind = VIRTQ_OP_ALLOCATE, .bytes = 4096,
					    .fd = open(disk.path, O_RDWR | O_CLOEXEC),
					    .flags = FALLOC_FL_KEEP_SIZE };
	stand_open_on(&allocates, engine, s, &allocate.model);
	hung_open(h, engine, &s->shape, what);

	/* Reads, writes and FLUSHes: these need workers whatever the file is on. */
	lane_run(&l, 32, 500);
	chain_writable(&c, 0, 1);
	stand_do(&allocates, &c);
	assert_int_equal(allocate.finished, 1);

	/* And what is under way ends by itself when it shall. */
	lane_fill(&l, 32, l.sent + 32);
	began = now_ms();
	assert_int_equal(virtq_engine_pause(&l.queue, 1, NULL), 0);
	assert_true(now_ms() - began < 3000);
	lane_reap(&l);
	virtq_engine_resume(l.queue);
	while (l.done < l.sent)
		lane_wait(&l);
	assert_true(hangfs_hung(&h->fs) > 0);

	hung_close(h);
	stand_close(&allocates);
	close(allocate.first.fd);
	lane_end(&l, engine, &disk);
	free(h);
}

static void beside_a_hung_file_others_go_on(void **state)
{
	others_go_on(*state, READS);
}

/* Nothing of it waits on the engine's own thread, although the kernel would have it so. */
static void beside_a_hung_direct_file_others_go_on(void **state)
{
	others_go_on(*state, DIRECT_READS);
}

/* It keeps as many of the kernel's workers as it is asked things, and others find one even so. */
static void beside_a_hung_sync_others_go_on(void **state)
{
	others_go_on(*state, SYNCS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON(uring_split_event, beside_a_hung_file_others_go_on),
		ON(uring_packed_event, beside_a_hung_direct_file_others_go_on),
		ON(uring_split_event, beside_a_hung_sync_others_go_on),
		ON(uring_packed_event, beside_a_hung_sync_others_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
