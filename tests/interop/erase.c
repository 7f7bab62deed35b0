/* SPDX-License-Identifier: MIT */
/*
 * A driver that has parts of a disk erased and looks at what is left.
 *
 * usage: erase SOCKET erased|failed|absent
 *
 * erased: those parts read as zeroes and all else as it was. failed: each erase fails,
 * after which its part may hold anything, and all else is as it was. absent: the disk
 * does not offer it, refuses it, and changes nothing.
 *
 * Exit status: 0 it is as told; 1 it is not, with a line on standard error.
 */
#include "../soak/disk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTORS 4096u
#define BEFORE 1u		/* the generation of all that is written */

static const struct { uint64_t sector; uint32_t sectors; } parts[] = {
	{ 0, 1 }, { 7, 9 }, { 100, 64 }, { 512, 1024 }, { SECTORS - 1, 1 },
};
#define PARTS (sizeof(parts) / sizeof(parts[0]))

static struct disk disk;
static const char *how;			/* erased, failed, absent */
static uint64_t zeroes;			/* sectors that have been read and were */

__attribute__((format(printf, 1, 2), noreturn))
static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("erase: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static bool in_a_part(uint64_t sector)
{
	for (size_t i = 0; i < PARTS; i++)
		if (sector >= parts[i].sector && sector - parts[i].sector < parts[i].sectors)
			return true;
	return false;
}

static int back(void *arg, struct disk_op *op)
{
	*(uint8_t *)arg = op->status;
	return 0;
}

/* The request has been answered, and must be put back. */
static struct disk_op *perform(uint32_t type, uint64_t sector, uint32_t sectors, uint8_t *status)
{
	struct disk_queue *q = &disk.queue[0];
	struct disk_op *op = disk_get(q);

	op->type = type;
	op->sector = sector;
	op->sectors = sectors;
	if (type == VIRTIO_BLK_T_OUT)
		sectors_fill(op->data, sector, sectors, BEFORE);
	if (disk_send(&disk, op) || disk_publish(q) < 0)
		die("%s", disk.err.text);
	while (q->in_flight) {
		if (disk_reap(&disk, q, back, status) < 0)
			die("%s", disk.err.text);
		if (q->in_flight && !disk_wait(&disk, 10000))
			die("no answer for 10 s");
	}
	return op;
}

static bool is_right(uint64_t sector, int64_t gen)
{
	if (!in_a_part(sector) || !strcmp(how, "absent"))
		return gen == BEFORE;
	return !strcmp(how, "failed") || !gen;
}

/* Write all, or read all and compare. */
static void all(uint32_t type)
{
	for (uint64_t at = 0; at < SECTORS; at += DISK_SECTORS_MAX) {
		uint8_t status;
		struct disk_op *op = perform(type, at, DISK_SECTORS_MAX, &status);

		if (status != VIRTIO_BLK_S_OK)
			die("sectors %llu and on: status %u", (unsigned long long)at, status);
		for (uint32_t i = 0; type == VIRTIO_BLK_T_IN && i < op->sectors; i++) {
			int64_t gen = sector_generation(op->data + i * SECTOR, at + i);

			if (!is_right(at + i, gen))
				die("sector %llu is of generation %lld",
				    (unsigned long long)at + i, (long long)gen);
			zeroes += !gen;
		}
		disk_put(op);
	}
}

static void erase_parts(uint8_t want)
{
	for (size_t i = 0; i < PARTS; i++) {
		uint8_t status;

		disk_put(perform(VIRTIO_BLK_T_SECURE_ERASE, parts[i].sector, parts[i].sectors,
				 &status));
		if (status != want)
			die("erasing sectors %llu and on: status %u, not %u",
			    (unsigned long long)parts[i].sector, status, want);
	}
}

int main(int argc, char **argv)
{
	bool erased = argc == 3 && !strcmp(argv[2], "erased");
	bool failed = argc == 3 && !strcmp(argv[2], "failed");
	struct disk_way way = { .queues = 1, .packed = true, .seed = 1 };

	if (argc != 3 || (!erased && !failed && strcmp(argv[2], "absent")))
		die("usage: erase SOCKET erased|failed|absent");
	way.path = argv[1];
	how = argv[2];
	if (disk_open(&disk, &way))
		die("%s", disk.err.text);
	if (disk_has(&disk, VIRTIO_BLK_F_SECURE_ERASE) != (erased || failed))
		die("the disk %s to erase", erased || failed ? "does not offer" : "offers");
	all(VIRTIO_BLK_T_OUT);
	erase_parts(erased ? VIRTIO_BLK_S_OK : failed ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_UNSUPP);
	all(VIRTIO_BLK_T_IN);
	printf("%zu parts: %s; %llu of %u sectors read as zeroes\n", PARTS, how,
	       (unsigned long long)zeroes, SECTORS);
	disk_close(&disk);
	return 0;
}
