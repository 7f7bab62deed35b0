/* SPDX-License-Identifier: MIT */
/*
 * The parts of a power cut below a file system, see uml-cut.sh.
 *
 * usage: powerline medium IMAGE SOCKET honest|lie
 *        powerline write SOCKET SEED FROM flush|pretend
 *        powerline check FILE SEED FLUSHED
 *
 * medium: a disk with a cache, which forgets what was not flushed when it is killed;
 * one that lies forgets what was flushed, too. write: batches of writes from number FROM
 * on, without end; each is flushed while the next is under way, and then said on
 * standard output: "FLUSHED n". Whoever pretends sends no flush. check: the file
 * holds what was written up to batch FLUSHED, or later.
 *
 * What a batch writes follows from the seed and its number alone, and its sectors
 * are of the generation that the number is.
 */
#include "../soak/disk.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../soak/forgetful.h"

#define SECTORS 16384u			/* 8 MiB */
#define WRITES_MAX (DISK_DEPTH - 2)	/* one is for the flush */
#define BEHIND_MAX 1000u		/* batches that may have been flushed and not said */

struct piece {
	uint64_t sector;
	uint32_t sectors;
};

struct batch {
	uint32_t number;
	unsigned int count;
	struct piece pieces[WRITES_MAX];
};

__attribute__((format(printf, 1, 2), noreturn))
static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("powerline: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static bool touches(const struct piece *a, const struct piece *b)
{
	return a->sector < b->sector + b->sectors && b->sector < a->sector + a->sectors;
}

/* No two of its pieces touch each other: they are written in any order. */
static void plan(struct batch *batch, uint64_t seed, uint32_t number)
{
	struct dice dice = { seed ^ (uint64_t)number << 20 };
	unsigned int wanted;

	for (unsigned int i = 0; i < 4; i++)
		dice_roll(&dice);
	wanted = 1 + dice_below(&dice, WRITES_MAX);
	batch->number = number;
	batch->count = 0;
	while (wanted--) {
		struct piece *piece = &batch->pieces[batch->count];
		bool good = true;

		piece->sectors = 1 + dice_below(&dice, dice_below(&dice, 4) ? 16 : DISK_SECTORS_MAX);
		piece->sector = dice_below(&dice, SECTORS - piece->sectors + 1);
		for (unsigned int i = 0; i < batch->count; i++)
			good = good && !touches(piece, &batch->pieces[i]);
		batch->count += good;
	}
}

/* ---- The medium ------------------------------------------------------------------ */

static int medium(const char *image, const char *socket, bool lies)
{
	struct virtq_blk_options options = { .queue_size_max = 256 };	/* as many as it takes */
	struct virtq_engine_config engine_config = { .kind = VIRTQ_ENGINE_AUTO };
	struct virtq_vhost_user_server_config config = {
		.engine_count = 1, .features = virtq_ring_features_usual(),
	};
	struct virtq_vhost_user_server *server;
	struct virtq_engine *engine;
	struct virtq_error err = { 0 };

	/* It starts packed virtqueues without their wrap counters. */
	config.features = virtq_features_without(config.features, VIRTIO_F_RING_PACKED);
	config.engines = &engine;
	if (forgetful_open(&options.store, image, lies ? FORGETFUL_NO_FLUSH : FORGETFUL_HONEST) ||
	    virtq_blk_create(&config.model, &options, &err) ||
	    virtq_engine_create(&engine, &engine_config, &err) ||
	    (config.listen_fd = virtq_vhost_user_listen(socket, &err)) < 0 ||
	    virtq_vhost_user_server_create(&server, &config, &err))
		die("the medium does not open: %s", err.text);
	return virtq_vhost_user_serve(server, &err) ? 1 : 0;
}

/* ---- The writer -------------------------------------------------------------------- */

static struct disk disk;
static unsigned int writes_left;
static bool flushing;

static int back(void *arg, struct disk_op *op)
{
	(void)arg;
	if (op->status != VIRTIO_BLK_S_OK)
		die("a request of type %u got status %u", op->type, op->status);
	if (op->type == VIRTIO_BLK_T_FLUSH)
		flushing = false;
	else
		writes_left--;
	disk_put(op);
	return 0;
}

static void begin(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t gen)
{
	struct disk_op *op = disk_get(&disk.queue[0]);

	op->type = type;
	op->sector = sector;
	op->sectors = sectors;
	if (type == VIRTIO_BLK_T_OUT)
		sectors_fill(op->data, sector, sectors, gen);
	if (disk_send(&disk, op))
		die("%s", disk.err.text);
}

static void wait_for_answers(void)
{
	while (writes_left || flushing) {
		if (disk_reap(&disk, &disk.queue[0], back, NULL) < 0)
			die("%s", disk.err.text);
		if ((writes_left || flushing) && !disk_wait(&disk, 20000))
			die("no answer for 20 s");
	}
}

static int write_on(const char *socket, uint64_t seed, uint32_t number, bool pretends)
{
	struct disk_way way = { .path = socket, .queues = 1, .packed = true, .seed = seed };
	struct batch batch;

	if (disk_open(&disk, &way))
		die("%s", disk.err.text);
	for (;; number++) {
		plan(&batch, seed, number);
		writes_left = batch.count;
		for (unsigned int i = 0; i < batch.count; i++)
			begin(VIRTIO_BLK_T_OUT, batch.pieces[i].sector, batch.pieces[i].sectors,
			      number);
		if (disk_publish(&disk.queue[0]) < 0)
			die("publish");
		wait_for_answers();
		/* The flush before was for the batch before: this one's writes were beside it. */
		if (number > 1)
			printf("FLUSHED %u\n", number - 1);
		fflush(stdout);
		flushing = !pretends;
		if (flushing)
			begin(VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	}
}

/* ---- Afterwards ---------------------------------------------------------------------- */

static bool may_be(uint64_t seed, uint32_t flushed, uint64_t sector, int64_t gen)
{
	struct piece one = { sector, 1 };
	struct batch batch;

	if (gen <= flushed || gen > (int64_t)flushed + BEHIND_MAX)
		return false;
	plan(&batch, seed, (uint32_t)gen);
	for (unsigned int i = 0; i < batch.count; i++)
		if (touches(&one, &batch.pieces[i]))
			return true;
	return false;
}

static int check(const char *path, uint64_t seed, uint32_t flushed)
{
	static uint32_t promised[SECTORS];
	static uint8_t all[SECTORS * SECTOR];
	unsigned int later = 0, written = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, all, sizeof(all)) != (ssize_t)sizeof(all))
		die("%s cannot be read", path);
	for (uint32_t number = 1; number <= flushed; number++) {
		struct batch batch;

		plan(&batch, seed, number);
		for (unsigned int i = 0; i < batch.count; i++)
			for (uint32_t k = 0; k < batch.pieces[i].sectors; k++)
				promised[batch.pieces[i].sector + k] = number;
	}
	for (uint64_t sector = 0; sector < SECTORS; sector++) {
		int64_t gen = sector_generation(all + sector * SECTOR, sector);

		written += gen > 0;
		if (gen == promised[sector])
			continue;
		later++;
		if (!may_be(seed, flushed, sector, gen))
			die("sector %llu is of generation %lld, and %u was flushed (up to batch %u)",
			    (unsigned long long)sector, (long long)gen, promised[sector], flushed);
	}
	printf("CHECKED %u batches: %u sectors, %u of them later\n", flushed, written, later);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "medium") && argc == 5)
		return medium(argv[2], argv[3], !strcmp(argv[4], "lie"));
	if (!strcmp(what, "write") && argc == 6)
		return write_on(argv[2], strtoull(argv[3], NULL, 10), (uint32_t)atoi(argv[4]),
				!strcmp(argv[5], "pretend"));
	if (!strcmp(what, "check") && argc == 5)
		return check(argv[2], strtoull(argv[3], NULL, 10), (uint32_t)atoi(argv[4]));
	die("usage: powerline medium|write|check ...");
}
