/* SPDX-License-Identifier: MIT */
/*
 * Soak: random requests from four driver queues against a shadow of the disk,
 * while queues and the device are reset, paused and moved between two engines,
 * clients go and come, and, every other round, the store fails and hangs.
 *
 *   blk_soak [--seconds N] [--seed N] [--lie lose|swallow|leak]
 *
 * A round has its own server, engines and client; the image and its shadow stay.
 * Layouts alternate. With --lie the store does something wrong, and the test is
 * that this is noticed.
 *
 * Prints TAP. Exit status: 0 all is well, 1 it is not.
 */
#include "disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <virtq/spec/virtio.h>

#define SECTORS 32768u			/* 16 MiB */
#define QUEUES 4u
#define ENGINES 2u
#define PATIENCE_NS UINT64_C(15000000000)	/* for any one request, on a busy machine */
#define LIE_PATIENCE_NS UINT64_C(4000000000)
#define HANGS_NS UINT64_C(1000000000)	/* in a rough round its queue is reset then */
#define DRAIN_MS 50			/* what hangs is cancelled so late after a pause */
#define FLAT_BYTES (1u << 20)
#define SERIAL "soak"

/* What goes wrong in rough rounds. Whole sectors: a torn one is no fault of the device's. */
#define RULES "op=read,error=EIO,every=211;op=write,error=ENOSPC,every=223;" \
	      "op=write,short=1024,every=307;op=read,short=512,every=311;" \
	      "op=flush,error=EIO,every=29;op=discard,error=EIO,every=31;op=zero,error=EIO,every=37;" \
	      "op=write,hang,every=1601;op=read,hang,every=1607;op=read,delay=3,every=101"

enum claim { CLAIM_DATA, CLAIM_ONCE, CLAIM_ERRORS, CLAIM_FLAT, CLAIMS };

static const char *const claims[CLAIMS] = {
	"every read found what was written last",
	"every request came back exactly once, or was taken back after a reset",
	"errors came only where they were caused",
	"memory and descriptors stay flat",
};

enum lie { LIE_NONE, LIE_LOSE, LIE_SWALLOW, LIE_LEAK };

static const struct { const char *name; enum claim noticed_by; } lies[] = {
	[LIE_NONE] = { "none", CLAIMS },
	[LIE_LOSE] = { "lose", CLAIM_DATA },
	[LIE_SWALLOW] = { "swallow", CLAIM_ONCE },
	[LIE_LEAK] = { "leak", CLAIM_FLAT },
};

/* What a request is good for. */
enum stage {
	STAGE_PLAIN,		/* its answer settles it */
	STAGE_SETTLE,		/* reads whether an earlier one changed its sectors or not */
	STAGE_WRONG,		/* the device must refuse it */
};

struct soak {
	unsigned int seconds;
	uint64_t seed;
	enum lie lie;
	char dir[64], image[96], socket[96];
	struct dice dice;

	uint32_t shadow[SECTORS];	/* generation of each sector */
	bool busy[SECTORS];		/* a request in flight is about it */
	uint32_t gen;

	/* of the round */
	bool packed, rough;
	char settings[256];		/* what the dice gave, for whoever looks for a fault */
	struct virtq_engine *engine[ENGINES];
	struct virtq_model *model;
	struct virtq_vhost_user_server *server;
	pthread_t serving, meddling;
	int listen_fd;
	bool over;			/* atomic: the meddler ends */
	struct disk disk;
	struct disk_op *unsettled[QUEUES];

	uint64_t reads, writes, others, failed, settled, wrong;
	uint64_t sent, answered, taken_back;
	uint64_t queue_resets, stops, device_resets, reconnects, pauses, moves;
	uint32_t uses;			/* VIRTQ_USE_... of any engine so far */
	size_t rss_first, rss_last, rss_most;
	unsigned int fds_first;
};

static struct soak soak;

__attribute__((format(printf, 2, 3), noreturn))
static void complain(enum claim claim, const char *format, ...)
{
	bool meant = soak.lie != LIE_NONE && lies[soak.lie].noticed_by == claim;
	va_list args;

	printf(meant ? "# noticed: " : "# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n# round: %s\n%s %d - %s%s\n", soak.settings, meant ? "ok" : "not ok", meant ? 1 : claim + 1,
	       meant ? "noticed: not " : "", claims[claim]);
	fflush(stdout);
	if (soak.image[0]) {
		unlink(soak.image);
		unlink(soak.socket);
		rmdir(soak.dir);
	}
	_exit(meant ? 0 : 1);		/* threads are at work: nothing can be taken down */
}

static int must(int rc, const char *what, const struct virtq_error *err)
{
	if (rc < 0)
		complain(CLAIM_ERRORS, "%s: %d %s", what, rc, err ? err->text : "");
	return rc;
}

/* ---- A store that does wrong --------------------------------------------------- */

struct liar {
	struct virtq_store store;
	struct virtq_store *inner;
	unsigned int count;
};

static enum virtq_verdict liar_start(struct virtq_store *store, struct virtq_store_io *io,
				     struct virtq_op *op)
{
	struct liar *liar = (struct liar *)store;
	bool now = __atomic_add_fetch(&liar->count, 1, __ATOMIC_RELAXED) % 1000 == 0;

	if (soak.lie == LIE_LEAK && io->kind == VIRTQ_STORE_WRITE) {
		volatile char *lost = malloc(1024);

		if (lost)
			lost[0] = 1;
	}
	if (soak.lie == LIE_SWALLOW && now)
		return VIRTQ_HOLD;
	if (soak.lie == LIE_LOSE && now && io->kind == VIRTQ_STORE_WRITE) {
		io->result = 0;
		return VIRTQ_DONE;
	}
	return liar->inner->ops->start(liar->inner, io, op);
}

static enum virtq_verdict liar_finish(struct virtq_store *store, struct virtq_store_io *io,
				      struct virtq_op *op, int64_t result)
{
	struct liar *liar = (struct liar *)store;

	return liar->inner->ops->finish(liar->inner, io, op, result);
}

static void liar_close(struct virtq_store *store)
{
	struct liar *liar = (struct liar *)store;

	liar->inner->ops->close(liar->inner);
	free(liar);
}

static const struct virtq_store_ops liar_ops = {
	.name = "liar", .start = liar_start, .finish = liar_finish, .close = liar_close,
};

static struct virtq_store *make_store(const struct virtq_store_options *options)
{
	struct virtq_store *store;
	struct virtq_error err;

	must(virtq_store_open(&store, soak.image, options, &err), "store", &err);
	if (soak.rough)
		must(virtq_store_inject(&store, store, RULES, &err), "inject", &err);
	if (soak.lie != LIE_NONE) {
		struct liar *liar = calloc(1, sizeof(*liar));

		must(liar && store->ops->finish ? 0 : -ENOMEM, "liar", NULL);
		*liar = (struct liar){ { &liar_ops, store->info }, store, 0 };
		store = &liar->store;
	}
	return store;
}

/* ---- The device --------------------------------------------------------------------- */

static void *serve(void *arg)
{
	struct virtq_error err;

	(void)arg;
	must(virtq_vhost_user_serve(soak.server, &err), "serve", &err);
	return NULL;
}

/* Pauses, resumes and moves, all the time. */
static void *meddle(void *arg)
{
	struct dice dice = { *(uint64_t *)arg };

	while (!__atomic_load_n(&soak.over, __ATOMIC_ACQUIRE)) {
		usleep(200 + dice_below(&dice, 20000));
		if (dice_below(&dice, 2)) {
			must(virtq_vhost_user_server_pause(soak.server), "pause", NULL);
			usleep(dice_below(&dice, 3000));
			virtq_vhost_user_server_resume(soak.server);
			soak.pauses++;
		} else {
			must(virtq_vhost_user_server_move(soak.server, dice_below(&dice, QUEUES),
							  soak.engine[dice_below(&dice, ENGINES)]),
			     "move", NULL);
			soak.moves++;
		}
	}
	return NULL;
}

static bool one_in(uint32_t n)
{
	return !dice_below(&soak.dice, n);
}

__attribute__((format(printf, 1, 2)))
static void note(const char *format, ...)
{
	size_t used = strlen(soak.settings);
	va_list args;

	va_start(args, format);
	vsnprintf(soak.settings + used, sizeof(soak.settings) - used, format, args);
	va_end(args);
}

/* Of any kind, so that queues also go from one kind to the other. */
static void make_engine(unsigned int i, bool sync)
{
	struct virtq_engine_config config = {
		.kind = sync ? VIRTQ_ENGINE_SYNC : VIRTQ_ENGINE_AUTO,
		.entries = 8u << dice_below(&soak.dice, 6),
		.spin = one_in(10) ? VIRTQ_SPIN_ALWAYS : one_in(2) ? VIRTQ_SPIN_OFF : VIRTQ_SPIN_AUTO,
		.drain_ms = soak.rough ? DRAIN_MS : 0,
		.demand = (one_in(3) ? VIRTQ_USE_SQPOLL : 0) | (one_in(3) ? VIRTQ_USE_BUFFERS : 0),
		.forbid = one_in(2) ? dice_below(&soak.dice, 256) : 0,
	};
	struct virtq_error err;

	must(virtq_engine_create(&soak.engine[i], &config, &err), "engine", &err);
	note("%s, %u entries, spin %d, uses 0x%x; ", sync ? "sync" : "uring", config.entries,
	     (int)config.spin, virtq_engine_uses(soak.engine[i]));
}

static void make_disk(void)
{
	struct virtq_blk_options options = {
		.queues = QUEUES, .serial = SERIAL, .write_through = one_in(4),
	};
	struct virtq_store_options store = { .direct = one_in(2) };
	struct virtq_error err;

	options.store = make_store(&store);
	must(virtq_blk_create(&soak.model, &options, &err), "disk", &err);
	note("%s%s", store.direct ? "direct, " : "", options.write_through ? "write through, " : "");
}

static void round_open(unsigned int number)
{
	static uint64_t seed;
	struct virtq_vhost_user_server_config config = {
		.engines = soak.engine, .engine_count = ENGINES,
		.features = virtq_ring_features_usual(),
		.coalesce_us = one_in(3) ? 200 : 0,
	};
	struct virtq_error err;

	soak.packed = number & 1;
	soak.rough = soak.lie == LIE_NONE && (number & 2);
	soak.settings[0] = 0;
	note("%s, %s, ", soak.packed ? "packed" : "split", soak.rough ? "rough" : "quiet");
	for (unsigned int i = 0; i < ENGINES; i++)
		make_engine(i, i && number % 3 == 2);
	make_disk();
	config.coalesce_count = config.coalesce_us ? 8 : 0;
	note("coalesced %u", config.coalesce_count);
	config.model = soak.model;
	config.listen_fd = soak.listen_fd = must(virtq_vhost_user_listen(soak.socket, &err),
						 "listen", &err);
	must(virtq_vhost_user_server_create(&soak.server, &config, &err), "server", &err);
	soak.over = false;
	seed = dice_roll(&soak.dice);
	must(-pthread_create(&soak.serving, NULL, serve, NULL), "thread", NULL);
	must(-pthread_create(&soak.meddling, NULL, meddle, &seed), "thread", NULL);
}

static void round_close(void)
{
	__atomic_store_n(&soak.over, true, __ATOMIC_RELEASE);
	pthread_join(soak.meddling, NULL);
	virtq_vhost_user_server_stop(soak.server);
	pthread_join(soak.serving, NULL);
	virtq_vhost_user_server_destroy(soak.server);
	virtq_model_destroy(soak.model);
	for (unsigned int i = 0; i < ENGINES; i++) {
		soak.uses |= virtq_engine_uses(soak.engine[i]);
		virtq_engine_destroy(soak.engine[i]);
	}
	close(soak.listen_fd);
	unlink(soak.socket);
}

/* ---- The driver ------------------------------------------------------------------------ */

static void connect_disk(void)
{
	struct disk_way way = { soak.socket, QUEUES, soak.packed, 0, dice_roll(&soak.dice) };

	must(disk_open(&soak.disk, &way), "connect", &soak.disk.err);
	if (soak.disk.config.capacity_sectors != SECTORS)
		complain(CLAIM_DATA, "the disk has %llu sectors, not %u",
			 (unsigned long long)soak.disk.config.capacity_sectors, SECTORS);
}

static void disconnect_disk(void)
{
	soak.sent += soak.disk.sent;
	soak.answered += soak.disk.answered;
	soak.taken_back += soak.disk.taken_back;
	disk_close(&soak.disk);
}

static void occupy(const struct disk_op *op, bool busy)
{
	memset(soak.busy + op->sector, busy, op->sectors);
}

/* A range that no request in flight is about. */
static bool choose_range(struct disk_op *op)
{
	op->sectors = 1 + dice_below(&soak.dice, dice_below(&soak.dice, 4) ? 16 : DISK_SECTORS_MAX);
	op->sector = dice_below(&soak.dice, SECTORS - op->sectors + 1);
	return !memchr(soak.busy + op->sector, true, op->sectors);
}

static void choose_wrong(struct disk_op *op)
{
	op->stage = STAGE_WRONG;
	op->sectors = 8;
	if (dice_below(&soak.dice, 2)) {
		op->type = 99;			/* there is no such type */
		op->sector = 0;
	} else {
		op->type = dice_below(&soak.dice, 2) ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
		op->sector = SECTORS - dice_below(&soak.dice, 8);
	}
}

static bool choose(struct disk_op *op)
{
	uint32_t roll = dice_below(&soak.dice, 100);

	op->stage = STAGE_PLAIN;
	op->gen = 0;
	if (roll < 4) {
		op->type = roll < 2 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_GET_ID;
		op->sectors = 0;
		return true;
	}
	if (roll < 5) {
		choose_wrong(op);
		return true;
	}
	if (!choose_range(op))
		return false;
	op->type = roll < 50 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	if (roll < 9 && disk_has(&soak.disk, VIRTIO_BLK_F_WRITE_ZEROES))
		op->type = VIRTIO_BLK_T_WRITE_ZEROES;
	else if (roll < 13 && disk_has(&soak.disk, VIRTIO_BLK_F_DISCARD))
		op->type = VIRTIO_BLK_T_DISCARD;
	if (op->type == VIRTIO_BLK_T_OUT) {
		op->gen = ++soak.gen;
		sectors_fill(op->data, op->sector, op->sectors, op->gen);
	}
	occupy(op, true);
	return true;
}

static void settle_later(struct disk_op *op)
{
	unsigned int i = (unsigned int)(op->queue - soak.disk.queue);

	op->type = VIRTIO_BLK_T_IN;
	op->stage = STAGE_SETTLE;
	op->next = soak.unsettled[i];
	soak.unsettled[i] = op;
}

static void check_read(const struct disk_op *op)
{
	for (uint32_t i = 0; i < op->sectors; i++) {
		uint64_t sector = op->sector + i;
		int64_t gen = sector_generation(op->data + i * SECTOR, sector);

		if (gen == soak.shadow[sector])
			continue;
		if (op->stage != STAGE_SETTLE || gen != op->gen)
			complain(CLAIM_DATA, "sector %llu reads as generation %lld, not %u%s",
				 (unsigned long long)sector, (long long)gen, soak.shadow[sector],
				 op->stage == STAGE_SETTLE ? ", nor what was written last" : "");
		soak.shadow[sector] = (uint32_t)gen;
	}
}

static bool writes(const struct disk_op *op)
{
	return op->type == VIRTIO_BLK_T_OUT || op->type == VIRTIO_BLK_T_WRITE_ZEROES ||
	       op->type == VIRTIO_BLK_T_DISCARD;
}

static void was_refused(const struct disk_op *op)
{
	uint8_t right = op->type == 99 ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;

	if (op->status != right && op->status != DISK_SILENT)
		complain(CLAIM_ERRORS, "a request of type %u at sector %llu got status %u, not %u",
			 op->type, (unsigned long long)op->sector, op->status, right);
	soak.wrong++;
}

static int back(void *arg, struct disk_op *op)
{
	(void)arg;
	if (op->stage == STAGE_WRONG) {
		was_refused(op);
	} else if (op->status != VIRTIO_BLK_S_OK) {
		if (op->status != DISK_SILENT) {
			if (!soak.rough || op->status != VIRTIO_BLK_S_IOERR)
				complain(CLAIM_ERRORS, "a request of type %u got status %u in a %s round",
					 op->type, op->status, soak.rough ? "rough" : "quiet");
			soak.failed++;
		}
		if (op->stage == STAGE_SETTLE || writes(op)) {
			settle_later(op);	/* its sectors stay busy until we know */
			return 0;
		}
	} else if (op->type == VIRTIO_BLK_T_IN) {
		check_read(op);
		soak.reads++;
		soak.settled += op->stage == STAGE_SETTLE;
	} else if (op->type == VIRTIO_BLK_T_DISCARD) {
		settle_later(op);	/* it may read as before, or as zeroes */
		return 0;
	} else if (writes(op)) {
		for (uint32_t i = 0; i < op->sectors; i++)
			soak.shadow[op->sector + i] = op->gen;
		soak.writes++;
	} else {
		if (op->type == VIRTIO_BLK_T_GET_ID && strncmp((char *)op->data, SERIAL, VIRTIO_BLK_ID_BYTES))
			complain(CLAIM_DATA, "the disk says that its id is another");
		soak.others++;
	}
	if (op->stage != STAGE_WRONG && op->sectors)
		occupy(op, false);
	disk_put(op);
	return 0;
}

/* Send what settles, and as much else as the dice want. */
static void fill(unsigned int i, bool more)
{
	struct disk_queue *q = &soak.disk.queue[i];
	unsigned int depth = more ? dice_below(&soak.dice, DISK_DEPTH + 1) : 0;
	struct disk_op *op;

	while ((op = soak.unsettled[i])) {
		soak.unsettled[i] = op->next;
		must(disk_send(&soak.disk, op), "send", &soak.disk.err);
	}
	while (q->in_flight < depth && (op = disk_get(q))) {
		if (choose(op))
			must(disk_send(&soak.disk, op), "send", &soak.disk.err);
		else
			disk_put(op);
	}
	must(disk_publish(q), "publish", NULL);
}

static bool anything_open(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		if (soak.disk.queue[i].in_flight || soak.unsettled[i])
			return true;
	return false;
}

static void take_back(unsigned int i)
{
	struct disk_queue *q = &soak.disk.queue[i];

	q->running = false;
	if (disk_take_back(&soak.disk, q, back, NULL) < 0)
		complain(CLAIM_ONCE, "%s", soak.disk.err.text);
}

static void reset_queue(unsigned int i)
{
	must(virtq_transport_queue_reset(soak.disk.transport, i, &soak.disk.err), "queue reset",
	     &soak.disk.err);
	take_back(i);
	must(disk_start_queue(&soak.disk, i), "start", &soak.disk.err);
	soak.queue_resets++;
}

/* What was taken is finished first. */
static void stop_queue(unsigned int i)
{
	must(virtq_transport_stop(soak.disk.transport, i, NULL, &soak.disk.err), "stop",
	     &soak.disk.err);
	take_back(i);
	must(disk_start_queue(&soak.disk, i), "start", &soak.disk.err);
	soak.stops++;
}

static void reset_device(void)
{
	must(disk_reset(&soak.disk), "reset", &soak.disk.err);
	for (unsigned int i = 0; i < QUEUES; i++)
		take_back(i);
	must(disk_start(&soak.disk), "start", &soak.disk.err);
	soak.device_resets++;
}

static bool drain(void);

/* A client that leaves, and another. */
static void reconnect(void)
{
	drain();
	disconnect_disk();
	connect_disk();
	soak.reconnects++;
}

static void event(void)
{
	uint32_t roll = dice_below(&soak.dice, 100);

	if (roll < 50)
		reset_queue(dice_below(&soak.dice, QUEUES));
	else if (roll < 80)
		stop_queue(dice_below(&soak.dice, QUEUES));
	else if (roll < 95)
		reset_device();
	else
		reconnect();
}

static void look_for_lost(unsigned int i)
{
	uint64_t now = now_ns();

	for (unsigned int k = 0; k < DISK_DEPTH; k++) {
		const struct disk_op *op = &soak.disk.queue[i].ops[k];
		uint64_t age_ns = op->in_flight ? now - op->sent_ns : 0;

		if (soak.rough && age_ns > HANGS_NS) {
			reset_queue(i);
			return;
		}
		if (age_ns > (soak.lie == LIE_NONE ? PATIENCE_NS : LIE_PATIENCE_NS))
			complain(CLAIM_ONCE, "a request of type %u on queue %u has not come back for %llu ms",
				 op->type, i, (unsigned long long)(age_ns / 1000000));
	}
}

static void turn(bool more)
{
	int came = 0;

	for (unsigned int i = 0; i < QUEUES; i++)
		fill(i, more);
	for (unsigned int i = 0; i < QUEUES; i++) {
		int n = disk_reap(&soak.disk, &soak.disk.queue[i], back, NULL);

		if (n < 0)
			complain(CLAIM_ONCE, "%s", soak.disk.err.text);
		came += n;
	}
	if (!came && anything_open())
		disk_wait(&soak.disk, 1000);
	for (unsigned int i = 0; i < QUEUES; i++)
		look_for_lost(i);
}

static bool drain(void)
{
	while (anything_open())
		turn(false);
	return true;
}

/* ---- The whole ------------------------------------------------------------------------------ */

static void check_image(void)
{
	uint8_t block[256 * SECTOR];
	int fd = open(soak.image, O_RDONLY | O_CLOEXEC);

	for (uint32_t sector = 0; sector < SECTORS; sector++) {
		int64_t gen;

		if (sector % 256 == 0 &&
		    pread(fd, block, sizeof(block), (off_t)sector * SECTOR) != sizeof(block))
			complain(CLAIM_DATA, "the image cannot be read");
		gen = sector_generation(block + sector % 256 * SECTOR, sector);
		if (gen != soak.shadow[sector])
			complain(CLAIM_DATA, "sector %u of the image is of generation %lld, not %u",
				 sector, (long long)gen, soak.shadow[sector]);
	}
	close(fd);
}

static size_t resident_bytes(void)
{
	unsigned long all = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file || fscanf(file, "%lu %lu", &all, &resident) != 2)
		complain(CLAIM_FLAT, "/proc/self/statm cannot be read");
	fclose(file);
	return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	while (dir && readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* What is free in the allocator's hands is no leak; threads of different rounds share one heap. */
static void calm_allocator(void)
{
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 1);
#endif
}

static void trim_allocator(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

static void check_flat(bool first)
{
	unsigned int fds = open_fds();
	size_t rss;

	trim_allocator();
	rss = resident_bytes();
	if (first) {
		soak.rss_first = rss;
		soak.fds_first = fds;
	}
	soak.rss_last = rss;
	if (rss > soak.rss_most)
		soak.rss_most = rss;
	if (fds != soak.fds_first)
		complain(CLAIM_FLAT, "%u descriptors are open, and %u were", fds, soak.fds_first);
#ifndef SOAK_SANITIZED	/* what a sanitizer remembers grows */
	if (rss > soak.rss_first + FLAT_BYTES)
		complain(CLAIM_FLAT, "%zu KiB are resident, and %zu were", rss >> 10,
			 soak.rss_first >> 10);
#endif
}

static void round_run(unsigned int number, uint64_t end_ns)
{
	round_open(number);
	connect_disk();
	while (now_ns() < end_ns) {
		turn(true);
		if (soak.lie == LIE_NONE && !dice_below(&soak.dice, 150))
			event();
	}
	drain();
	disconnect_disk();
	round_close();
	check_image();
}

static void make_image(void)
{
	int fd;

	snprintf(soak.dir, sizeof(soak.dir), "/tmp/virtq-soak.XXXXXX");
	must(mkdtemp(soak.dir) ? 0 : -errno, "directory", NULL);
	snprintf(soak.image, sizeof(soak.image), "%s/disk", soak.dir);
	snprintf(soak.socket, sizeof(soak.socket), "%s/socket", soak.dir);
	fd = open(soak.image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	must(fd < 0 || ftruncate(fd, (off_t)SECTORS * SECTOR) ? -errno : 0, "image", NULL);
	close(fd);
}

static void arguments(int argc, char **argv)
{
	soak.seconds = 10;
	soak.seed = (uint64_t)getpid() << 20 ^ now_ns();
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seconds"))
			soak.seconds = (unsigned int)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			soak.seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--lie"))
			for (unsigned int k = 0; k < sizeof(lies) / sizeof(lies[0]); k++)
				if (!strcmp(argv[i + 1], lies[k].name))
					soak.lie = (enum lie)k;
	}
}

int main(int argc, char **argv)
{
	uint64_t start = now_ns(), round_ns, all_ns;
	unsigned int rounds, settled_by;

	calm_allocator();
	arguments(argc, argv);
	soak.dice.state = soak.seed;
	printf("# seed 0x%llx, %u s\n", (unsigned long long)soak.seed, soak.seconds);
	make_image();
	/* Each kind of round at least once before what memory there is counts as flat. */
	all_ns = (uint64_t)soak.seconds * 1000000000u;
	rounds = soak.seconds < 60 ? 12 : soak.seconds / 5;
	settled_by = rounds / 10 < 4 ? 4 : rounds / 10;
	round_ns = all_ns / rounds;
	for (unsigned int i = 0; i < rounds; i++) {
		round_run(i, start + (i + 1) * round_ns);
		if (i + 1 >= settled_by)
			check_flat(i + 1 == settled_by);
	}
	unlink(soak.image);
	rmdir(soak.dir);
	if (soak.lie != LIE_NONE) {
		printf("not ok 1 - noticed: not %s\n1..1\n", claims[lies[soak.lie].noticed_by]);
		return 1;
	}
	printf("ok 1 - %s\n# %llu reads, %llu writes, %llu others; %llu times old or new was right\n",
	       claims[CLAIM_DATA], (unsigned long long)soak.reads, (unsigned long long)soak.writes,
	       (unsigned long long)soak.others, (unsigned long long)soak.settled);
	printf("ok 2 - %s\n# %llu sent = %llu answered + %llu taken back\n", claims[CLAIM_ONCE],
	       (unsigned long long)soak.sent, (unsigned long long)soak.answered,
	       (unsigned long long)soak.taken_back);
	printf("# %llu queue resets, %llu stops, %llu device resets, %llu reconnects, %llu pauses, %llu moves\n",
	       (unsigned long long)soak.queue_resets, (unsigned long long)soak.stops,
	       (unsigned long long)soak.device_resets, (unsigned long long)soak.reconnects,
	       (unsigned long long)soak.pauses, (unsigned long long)soak.moves);
	printf("ok 3 - %s\n# %llu failed, %llu refused; engines used 0x%x\n", claims[CLAIM_ERRORS],
	       (unsigned long long)soak.failed, (unsigned long long)soak.wrong, soak.uses);
	printf("ok 4 - %s\n# resident %zu KiB after %u of %u rounds, then %zu at the most, %zu at the end\n1..4\n",
	       claims[CLAIM_FLAT], soak.rss_first >> 10, settled_by, rounds, soak.rss_most >> 10,
	       soak.rss_last >> 10);
	return soak.sent == soak.answered + soak.taken_back ? 0 : 1;
}
