/* SPDX-License-Identifier: MIT */
/*
 * Random requests of every type to disks on every kind of store, compared with a
 * plain array of what they should hold. Two queues, each on an engine of its own;
 * one request at a time in each zone of the disk, so that it is known what comes
 * first. The cache mode changes all the time, which nobody may notice.
 */
#include "shelf.h"

#include <stdio.h>
#include <unistd.h>

#include "lane.h"

#define QUEUES 2u
#define AREAS 32u			/* of the disk; even ones are the first queue's */
#define AREA_SECTORS 64u
#define AREA_BYTES (AREA_SECTORS * 512u)
#define SECTORS (AREAS * AREA_SECTORS)
#define RANGES_MAX 4u
#define REQUESTS 1500u
/* In the driver's memory, for each area. */
#define STRIDE (64u * 1024u)
#define RANGES_AT 64u
#define ANSWER_AT 2048u
#define DATA_AT 4096u

enum kind { KIND_RAM, KIND_FILE, KIND_DIRECT, KIND_SUBMIT, KIND_HOLD, KIND_NO_ZEROES };

struct model_case {
	enum kind kind;
	const struct setting *setting;
};

struct task {
	bool busy;
	uint32_t type;
	uint32_t sector, sectors;	/* of reads, within the disk */
	uint8_t *data;
};

struct queue {
	struct virtq_engine *engine;
	struct virtq_engine_queue *queue;
	struct pair pair;
	int kick, call;
	unsigned int busy;
};

struct world {
	struct virtq_model *model;
	struct shelf *shelf;		/* or NULL */
	pthread_t workers[2];
	char *path;			/* or NULL */
	struct queue queues[QUEUES];
	struct task tasks[AREAS];
	uint8_t expect[SECTORS * 512];
	bool known[SECTORS];		/* not after a discard */
	uint64_t random;
	unsigned int sent, sent_of[32];	/* by type */
};

static uint64_t draw(struct world *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % below;
}

/* ---- A world ------------------------------------------------------------------------- */

/* False where the file system does no O_DIRECT. */
static bool make_disk(struct world *w, enum kind kind)
{
	struct virtq_blk_options options = { .queues = QUEUES };
	struct virtq_error err = { 0 };

	if (kind == KIND_RAM) {
		options.path = "ram:1M";
	} else if (kind == KIND_FILE || kind == KIND_DIRECT) {
		w->path = file_make(sizeof(w->expect));
		options.path = w->path;
		options.direct = kind == KIND_DIRECT;
		for (size_t i = 0; i < sizeof(w->expect); i++)
			w->expect[i] = file_pattern(i);
	} else {
		w->shelf = shelf_new(sizeof(w->expect), kind == KIND_HOLD ? SHELF_HOLD :
									   SHELF_SUBMIT);
		if (kind == KIND_NO_ZEROES)
			w->shelf->store.info.zero_max = 0;
		options.store = &w->shelf->store;
	}
	if (virtq_blk_create(&w->model, &options, &err) == 0)
		return true;
	if (kind != KIND_DIRECT || !strstr(err.text, "O_DIRECT"))
		fail_msg("disk: %s", err.text);
	print_message("skipped: %s\n", err.text);
	file_drop(w->path);
	return false;
}

static void queue_open(struct world *w, struct queue *q, const struct setting *s)
{
	q->engine = engine_of(s->kind, 0, 0);
	q->kick = new_eventfd();
	q->call = new_eventfd();
	pair_open(&q->pair, &s->shape, w->model, AREAS * STRIDE);
	assert_int_equal(virtq_engine_add(q->engine, &(struct virtq_engine_queue_config){
				.model = w->model, .ring = q->pair.device, .enabled = true,
				.kick_fd = dup_of(q->kick), .call_fd = dup_of(q->call),
				.err_fd = -1 }, &q->queue), 0);
	q->pair.device = NULL;
}

static void queue_close(struct queue *q)
{
	q->pair.device = virtq_engine_remove(q->queue);
	virtq_engine_destroy(q->engine);
	close(q->kick);
	close(q->call);
	pair_close(&q->pair);
}

static bool world_open(struct world *w, const struct model_case *c)
{
	memset(w, 0, sizeof(*w));
	memset(w->known, 1, sizeof(w->known));
	w->random = 0x9e3779b97f4a7c15u + c->kind;
	if (!make_disk(w, c->kind))
		return false;
	assert_int_equal(w->model->ops->features_ok(w->model, w->model->features), 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		queue_open(w, &w->queues[i], c->setting);
	for (unsigned int i = 0; i < 2 && c->kind == KIND_HOLD; i++)
		assert_int_equal(pthread_create(&w->workers[i], NULL, shelf_worker, w->shelf), 0);
	return true;
}

static void world_close(struct world *w, const struct model_case *c)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		queue_close(&w->queues[i]);
	if (w->shelf) {
		shelf_quit(w->shelf);
		for (unsigned int i = 0; i < 2 && c->kind == KIND_HOLD; i++)
			pthread_join(w->workers[i], NULL);
		assert_int_equal(w->shelf->wrong, 0);
	}
	virtq_model_destroy(w->model);
	if (w->path)
		file_drop(w->path);
}

/* ---- A request -------------------------------------------------------------------------- */

/* Elements cut at random. */
static void cut(struct world *w, struct chain *c, bool writable, size_t at, size_t bytes)
{
	unsigned int pieces = 1 + (unsigned int)draw(w, 5);

	while (bytes) {
		size_t len = pieces-- > 1 ? 1 + draw(w, bytes) : bytes;

		if (writable)
			chain_writable(c, at, len);
		else
			chain_readable(c, at, len);
		at += len;
		bytes -= len;
	}
}

static uint32_t choose_type(struct world *w)
{
	unsigned int dice = (unsigned int)draw(w, 100);

	if (dice < 35)
		return VIRTIO_BLK_T_IN;
	if (dice < 65)
		return VIRTIO_BLK_T_OUT;
	if (dice < 70)
		return VIRTIO_BLK_T_FLUSH;
	if (dice < 80)
		return VIRTIO_BLK_T_DISCARD;
	if (dice < 85 && virtq_features_has(w->model->features, VIRTIO_BLK_F_SECURE_ERASE))
		return VIRTIO_BLK_T_SECURE_ERASE;
	return VIRTIO_BLK_T_WRITE_ZEROES;
}

static void add_data(struct world *w, struct queue *q, struct chain *c, struct task *t, size_t at)
{
	size_t bytes = t->sectors * 512u;

	at += DATA_AT + (draw(w, 2) ? 0 : draw(w, 512));
	t->data = q->pair.data + at;
	if (t->type == VIRTIO_BLK_T_IN) {
		memset(t->data, 0x55, bytes);
		cut(w, c, true, at, bytes);
		return;
	}
	for (size_t i = 0; i < bytes; i++)
		t->data[i] = (uint8_t)draw(w, 256);
	memcpy(w->expect + t->sector * 512u, t->data, bytes);
	memset(w->known + t->sector, 1, t->sectors);
	cut(w, c, false, at, bytes);
}

static void add_ranges(struct world *w, struct queue *q, struct chain *c, uint32_t type,
		       uint32_t area, size_t at)
{
	struct virtq_blk_discard_write_zeroes *range = (void *)(q->pair.data + at + RANGES_AT);
	uint32_t count = 1 + (uint32_t)draw(w, RANGES_MAX);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t within = (uint32_t)draw(w, AREA_SECTORS);
		uint32_t sectors = (uint32_t)draw(w, AREA_SECTORS - within + 1);
		uint32_t sector = area * AREA_SECTORS + within;

		virtq_blk_range(&range[i], sector, sectors,
				type == VIRTIO_BLK_T_WRITE_ZEROES && draw(w, 2));
		memset(w->expect + sector * 512u, 0, sectors * 512u);
		memset(w->known + sector, type != VIRTIO_BLK_T_DISCARD, sectors);
	}
	cut(w, c, false, at + RANGES_AT, count * sizeof(*range));
}

static void send_task(struct world *w, uint32_t area, uint32_t type, uint32_t within,
		      uint32_t sectors)
{
	struct queue *q = &w->queues[area % QUEUES];
	struct task *t = &w->tasks[area];
	struct chain c = { .readable = 0 };
	struct virtq_blk_req_hdr hdr;
	size_t at = area * STRIDE;

	*t = (struct task){ .busy = true, .type = type, .sectors = sectors,
			    .sector = area * AREA_SECTORS + within };
	virtq_blk_header(&hdr, type, type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_OUT ?
					     t->sector : 0);
	memcpy(q->pair.data + at, &hdr, sizeof(hdr));
	q->pair.data[at + ANSWER_AT] = 0xff;
	cut(w, &c, false, at, sizeof(hdr));
	if (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_OUT)
		add_data(w, q, &c, t, at);
	else if (type != VIRTIO_BLK_T_FLUSH)
		add_ranges(w, q, &c, type, area, at);
	chain_writable(&c, at + ANSWER_AT, 1);
	chain_add(&q->pair, &c, t);
	q->busy++;
	w->sent++;
	w->sent_of[type]++;
}

static void check_task(struct world *w, struct queue *q, const struct virtq_completion *done)
{
	struct task *t = done->token;
	size_t area = (size_t)(t - w->tasks);

	assert_true(area < AREAS && t->busy);
	t->busy = false;
	q->busy--;
	assert_int_equal(q->pair.data[area * STRIDE + ANSWER_AT], VIRTIO_BLK_S_OK);
	if (t->type != VIRTIO_BLK_T_IN) {
		assert_int_equal(done->written, 1);
		return;
	}
	assert_int_equal(done->written, t->sectors * 512 + 1);
	for (uint32_t i = 0; i < t->sectors; i++)
		if (w->known[t->sector + i])
			assert_memory_equal(t->data + i * 512u,
					    w->expect + (t->sector + i) * 512u, 512);
}

/* ---- Many ---------------------------------------------------------------------------------- */

/* At least one request of a queue that has any. */
static void reap(struct world *w, struct queue *q)
{
	struct virtq_completion done[8];
	unsigned int before = q->busy;
	int n;

	while (q->busy && q->busy == before) {
		while ((n = virtq_driver_get(q->pair.driver, done, 8)) > 0)
			for (int i = 0; i < n; i++)
				check_task(w, q, &done[i]);
		assert_int_equal(n, 0);
		if (q->busy == before && !virtq_driver_arm(q->pair.driver))
			assert_int_equal(virtq_notify_wait(q->call, WAIT_MS), 1);
	}
}

static void publish(struct world *w)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		if (virtq_driver_publish(w->queues[i].pair.driver))
			assert_int_equal(virtq_notify_send(w->queues[i].kick), 0);
}

static void drain(struct world *w)
{
	publish(w);
	for (unsigned int i = 0; i < QUEUES; i++)
		while (w->queues[i].busy)
			reap(w, &w->queues[i]);
}

/* BLK-DEV-014..015. */
static void disks_hold_what_was_written(void **state)
{
	static struct world w;
	const struct model_case *c = *state;
	struct virtq_error err = { 0 };

	if (!world_open(&w, c))
		skip();
	for (unsigned int round = 0; w.sent < REQUESTS; round++) {
		uint8_t writeback = round & 1;

		/* As a transport's thread would, while the engines are at work. */
		assert_int_equal(w.model->ops->config_write(w.model, 32, &writeback, 1), 0);
		assert_int_equal(virtq_blk_refresh(w.model, &err), 0);
		for (unsigned int i = 0; i < AREAS / 2; i++) {
			uint32_t area = (uint32_t)draw(&w, AREAS);
			uint32_t within = (uint32_t)draw(&w, AREA_SECTORS);

			if (!w.tasks[area].busy)
				send_task(&w, area, choose_type(&w), within,
					  1 + (uint32_t)draw(&w, AREA_SECTORS - within));
		}
		publish(&w);
		for (unsigned int i = 0; i < QUEUES; i++)
			reap(&w, &w.queues[i]);
	}
	drain(&w);
	for (uint32_t area = 0; area < AREAS; area++)
		send_task(&w, area, VIRTIO_BLK_T_IN, 0, AREA_SECTORS);
	drain(&w);
	assert_true(w.sent_of[VIRTIO_BLK_T_OUT] > 300 && w.sent_of[VIRTIO_BLK_T_FLUSH] > 30);
	assert_true(w.sent_of[VIRTIO_BLK_T_DISCARD] > 100);
	assert_true(w.sent_of[VIRTIO_BLK_T_WRITE_ZEROES] > 100);
	world_close(&w, c);
}

#define EACH(kind) \
	CASE(kind, uring_split), CASE(kind, uring_packed_event), CASE(kind, sync_split_event), \
	CASE(kind, sync_packed)
#define CASE(kind, setting) { kind, &setting }

static const struct model_case cases[] = {
	EACH(KIND_RAM), EACH(KIND_FILE), EACH(KIND_DIRECT), EACH(KIND_SUBMIT), EACH(KIND_HOLD),
	EACH(KIND_NO_ZEROES),
};

#define CASES (sizeof(cases) / sizeof(cases[0]))

int main(void)
{
	static const char *const kinds[] = {
		"ram", "file", "file, direct", "submits", "holds", "writes zeroes",
	};
	static const char *const settings[] = {
		"uring, split", "uring, packed", "sync, split", "sync, packed",
	};
	static char names[CASES][100];
	struct CMUnitTest tests[CASES];

	for (size_t i = 0; i < CASES; i++) {
		snprintf(names[i], sizeof(names[i]), "disks_hold_what_was_written [%s; %s]",
			 kinds[cases[i].kind], settings[i % 4]);
		tests[i] = (struct CMUnitTest){ names[i], disks_hold_what_was_written, NULL, NULL,
						(void *)(uintptr_t)&cases[i] };
	}
	return cmocka_run_group_tests_name("blk model", tests, NULL, NULL) ? 1 : 0;
}
