/* SPDX-License-Identifier: MIT */
/* A disk behind an engine, and a driver with random requests. */
#include "lane.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* ---- A disk ---------------------------------------------------------------- */

void disk_open(struct disk *d, bool direct, unsigned int queues)
{
	d->path = file_make(DISK_BYTES);
	d->expect = malloc(DISK_BYTES);
	assert_non_null(d->expect);
	for (size_t i = 0; i < DISK_BYTES; i++)
		d->expect[i] = file_pattern(i);
	d->model = disk_make(&(struct virtq_blk_options){ .path = d->path, .direct = direct,
							  .queues = queues });
	assert_int_equal(d->model->ops->features_ok(d->model, d->model->features), 0);
}

void disk_close(struct disk *d)
{
	uint8_t *now = malloc(DISK_BYTES);

	assert_non_null(now);
	virtq_model_destroy(d->model);
	file_read(d->path, 0, now, DISK_BYTES);
	assert_memory_equal(now, d->expect, DISK_BYTES);
	free(now);
	free(d->expect);
	file_drop(d->path);
}

/* ---- A queue of it, and a driver ------------------------------------------- */

static uint64_t next_random(struct lane *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

int new_eventfd(void)
{
	int fd = virtq_notify_open();

	assert_true(fd >= 0);
	return fd;
}

int dup_of(int fd)
{
	int copy = fd < 0 ? -1 : dup(fd);

	/* Not F_DUPFD_CLOEXEC, of which qemu-user does not know that it is an eventfd again. */
	assert_true(fd < 0 || (copy >= 0 && fcntl(copy, F_SETFD, FD_CLOEXEC) == 0));
	return copy;
}

void lane_open(struct lane *l, struct virtq_engine *engine, struct disk *disk,
	       const struct pair_shape *shape, int kick_fd, int call_fd)
{
	memset(l, 0, sizeof(*l));
	l->zones = ZONES;
	l->expect = disk->expect;
	l->random = 0x9e3779b97f4a7c15u;
	l->kick_fd = kick_fd;
	l->call_fd = call_fd;
	pair_open(&l->pair, shape, disk->model, DATA_BYTES);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = disk->model, .ring = l->pair.device, .enabled = true,
				.kick_fd = dup_of(kick_fd), .call_fd = dup_of(call_fd),
				.err_fd = -1 }, &l->queue), 0);
	l->pair.device = NULL;
}

void lane_close(struct lane *l)
{
	if (l->queue) {
		l->pair.device = virtq_engine_remove(l->queue);
		assert_int_equal(virtq_device_in_flight(l->pair.device), 0);
	}
	if (l->kick_fd >= 0)
		close(l->kick_fd);
	if (l->call_fd >= 0)
		close(l->call_fd);
	pair_close(&l->pair);
}

void lane_begin(struct lane *l, struct virtq_engine *engine, struct disk *disk,
		const struct pair_shape *shape)
{
	disk_open(disk, false, 1);
	lane_open(l, engine, disk, shape, new_eventfd(), new_eventfd());
}

void lane_end(struct lane *l, struct virtq_engine *engine, struct disk *disk)
{
	lane_close(l);
	virtq_engine_destroy(engine);
	disk_close(disk);
}

/* Cut @bytes at @at into up to @pieces elements at random places. */
static void cut_data(struct lane *l, struct chain *c, bool writable, size_t at, size_t bytes)
{
	unsigned int pieces = 1 + (unsigned int)(next_random(l) % 6);

	while (bytes) {
		size_t len = pieces-- > 1 ? 1 + next_random(l) % bytes : bytes;

		if (writable)
			chain_writable(c, at, len);
		else
			chain_readable(c, at, len);
		at += len;
		bytes -= len;
	}
}

/* Start a random request in @zone. False if the ring has no room for it. */
static bool lane_send(struct lane *l, unsigned int zone)
{
	struct job *job = &l->jobs[zone];
	uint8_t *buffer = l->pair.data + BUFFER_AT(zone);
	unsigned int dice = (unsigned int)(next_random(l) % 100);
	uint32_t within = (uint32_t)(next_random(l) % ZONE_SECTORS);
	struct virtq_blk_req_hdr hdr;
	struct chain c = { .readable = 0 };
	size_t bytes;

	if (virtq_driver_room(l->pair.driver) < 10)
		return false;
	job->type = dice < 45 ? VIRTIO_BLK_T_IN : dice < 95 ? VIRTIO_BLK_T_OUT :
							      VIRTIO_BLK_T_FLUSH;
	job->sector = (l->first_zone + zone) * ZONE_SECTORS + within;
	job->sectors = 1 + (uint32_t)(next_random(l) % (ZONE_SECTORS - within));
	bytes = job->sectors * 512u;
	virtq_blk_header(&hdr, job->type, job->type == VIRTIO_BLK_T_FLUSH ? 0 : job->sector);
	memcpy(l->pair.data + HEADER_AT(zone), &hdr, sizeof(hdr));
	l->pair.data[STATUS_AT(zone)] = 0xff;

	chain_readable(&c, HEADER_AT(zone), sizeof(hdr));
	if (job->type == VIRTIO_BLK_T_OUT) {
		for (size_t i = 0; i < bytes; i += 8) {
			uint64_t word = next_random(l);

			memcpy(buffer + i, &word, 8);
		}
		cut_data(l, &c, false, BUFFER_AT(zone), bytes);
		memcpy(l->expect + job->sector * 512u, buffer, bytes);
		l->written_bytes += bytes;
	} else if (job->type == VIRTIO_BLK_T_IN) {
		memset(buffer, 0x55, bytes);
		cut_data(l, &c, true, BUFFER_AT(zone), bytes);
		l->read_bytes += bytes;
	}
	chain_writable(&c, STATUS_AT(zone), 1);
	chain_add(&l->pair, &c, job);
	job->busy = true;
	l->sent++;
	return true;
}

static void lane_check(struct lane *l, const struct virtq_completion *done)
{
	struct job *job = done->token;
	unsigned int zone = (unsigned int)(job - l->jobs);
	uint32_t bytes = job->sectors * 512u;

	assert_true(zone < l->zones && job->busy);
	job->busy = false;
	l->done++;
	assert_int_equal(l->pair.data[STATUS_AT(zone)], VIRTIO_BLK_S_OK);
	if (job->type == VIRTIO_BLK_T_IN) {
		assert_int_equal(done->written, bytes + 1);
		assert_memory_equal(l->pair.data + BUFFER_AT(zone),
				    l->expect + job->sector * 512u, bytes);
	} else {
		assert_int_equal(done->written, 1);
	}
}

/* Take everything that is back. Returns how many. */
unsigned int lane_reap(struct lane *l)
{
	struct virtq_completion done[16];
	unsigned int total = 0;
	int n;

	while ((n = virtq_driver_get(l->pair.driver, done, 16)) > 0) {
		for (int i = 0; i < n; i++)
			lane_check(l, &done[i]);
		total += (unsigned int)n;
	}
	assert_int_equal(n, 0);
	return total;
}

static void lane_publish(struct lane *l)
{
	if (virtq_driver_publish(l->pair.driver) && l->kick_fd >= 0)
		assert_int_equal(virtq_notify_send(l->kick_fd), 0);
}

/* Wait until at least one request is back, asleep if there is a call fd. */
void lane_wait(struct lane *l)
{
	while (!lane_reap(l)) {
		if (l->call_fd < 0)
			continue;
		if (virtq_driver_arm(l->pair.driver))
			continue;
		if (virtq_notify_wait(l->call_fd, WAIT_MS) != 1)
			fail_msg("no call in %d ms", WAIT_MS);
	}
}

/* Start requests in all free zones, up to @depth in flight, and @total in all. */
void lane_fill(struct lane *l, unsigned int depth, uint64_t total)
{
	for (unsigned int zone = 0; zone < l->zones; zone++)
		if (!l->jobs[zone].busy && l->sent - l->done < depth && l->sent < total &&
		    !lane_send(l, zone))
			break;
	lane_publish(l);
}

void lane_run(struct lane *l, unsigned int depth, uint64_t count)
{
	uint64_t total = l->sent + count;

	while (l->done < total) {
		lane_fill(l, depth, total);
		lane_wait(l);
	}
}

/* ---- Models ---------------------------------------------------------------- */

static enum virtq_verdict quick_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	(void)model;
	(void)op;
	virtq_req_write(req, "x", 1);
	return VIRTQ_DONE;
}

enum virtq_verdict done_finish(struct virtq_model *model, struct virtq_req *req,
			       struct virtq_op *op, int64_t result)
{
	(void)model;
	(void)req;
	(void)op;
	(void)result;
	return VIRTQ_DONE;
}

const struct virtq_model_ops quick_ops = {
	.name = "quick", .req_bytes = sizeof(struct virtq_req), .start = quick_start,
};

/* ---- Engines --------------------------------------------------------------- */

struct virtq_engine *engine_with(const struct virtq_engine_config *config)
{
	struct virtq_engine *engine = NULL;
	struct virtq_error err = { 0 };
	int rc = virtq_engine_create(&engine, config, &err);

	if (rc == -ENOSYS && config->kind == VIRTQ_ENGINE_URING) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (rc)
		fail_msg("engine: %s", err.text);
	assert_int_equal(virtq_engine_kind(engine), config->kind);
	return engine;
}

struct virtq_engine *engine_of(enum virtq_engine_kind kind, uint32_t entries, uint32_t spin_us)
{
	return engine_with(&(struct virtq_engine_config){
		.kind = kind, .entries = entries, .spin_us = spin_us,
		.spin = spin_us ? VIRTQ_SPIN_AUTO : VIRTQ_SPIN_OFF });
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void assert_idle(void)
{
	double before = cpu_seconds();

	usleep(500000);
	assert_true(cpu_seconds() - before < 0.05);
}

#define SPLIT { false, false, 256 }
#define SPLIT_EVENT { false, true, 256 }
#define PACKED { true, false, 256 }
#define PACKED_EVENT { true, true, 256 }
#define URING VIRTQ_ENGINE_URING
#define SYNC VIRTQ_ENGINE_SYNC

const struct setting uring_split = { URING, SPLIT, 0, 0, 16 };
const struct setting uring_split_event = { URING, SPLIT_EVENT, 0, 0, 16 };
const struct setting uring_packed = { URING, PACKED, 0, 0, 16 };
const struct setting uring_packed_event = { URING, PACKED_EVENT, 0, 0, 16 };
const struct setting sync_split = { SYNC, SPLIT, 0, 0, 16 };
const struct setting sync_split_event = { SYNC, SPLIT_EVENT, 0, 0, 16 };
const struct setting sync_packed = { SYNC, PACKED, 0, 0, 16 };
const struct setting sync_packed_event = { SYNC, PACKED_EVENT, 0, 0, 16 };
/* Fewer submission entries than requests; one at a time; with polling before sleep. */
const struct setting uring_tiny = { URING, SPLIT_EVENT, 2, 0, 60 };
const struct setting uring_single = { URING, PACKED_EVENT, 0, 0, 1 };
const struct setting uring_spin = { URING, SPLIT_EVENT, 0, 200, 4 };
const struct setting sync_single = { SYNC, SPLIT_EVENT, 0, 0, 1 };
const struct setting sync_spin = { SYNC, PACKED_EVENT, 0, 200, 4 };
