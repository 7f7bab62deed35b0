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
#include "blk_soak.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLAT_BYTES (1u << 20)

static const char *const claims[CLAIMS] = {
	"every read found what was written last",
	"every request came back exactly once, or was taken back after a reset",
	"errors came only where they were caused",
	"memory and descriptors stay flat",
};

static const struct { const char *name; enum claim noticed_by; } lies[] = {
	[LIE_NONE] = { "none", CLAIMS },
	[LIE_LOSE] = { "lose", CLAIM_DATA },
	[LIE_SWALLOW] = { "swallow", CLAIM_ONCE },
	[LIE_LEAK] = { "leak", CLAIM_FLAT },
};

struct soak soak;

void soak_complain(enum claim claim, const char *format, ...)
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

int soak_must(int rc, const char *what, const struct virtq_error *err)
{
	if (rc < 0)
		soak_complain(CLAIM_ERRORS, "%s: %d %s", what, rc, err ? err->text : "");
	return rc;
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
			soak_complain(CLAIM_DATA, "the image cannot be read");
		gen = sector_generation(block + sector % 256 * SECTOR, sector);
		if (gen != soak.shadow[sector])
			soak_complain(CLAIM_DATA, "sector %u of the image is of generation %lld, not %u",
				 sector, (long long)gen, soak.shadow[sector]);
	}
	close(fd);
}

static size_t resident_bytes(void)
{
	unsigned long all = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file || fscanf(file, "%lu %lu", &all, &resident) != 2)
		soak_complain(CLAIM_FLAT, "/proc/self/statm cannot be read");
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
		soak_complain(CLAIM_FLAT, "%u descriptors are open, and %u were", fds, soak.fds_first);
#ifndef SOAK_SANITIZED	/* what a sanitizer remembers grows */
	if (rss > soak.rss_first + FLAT_BYTES)
		soak_complain(CLAIM_FLAT, "%zu KiB are resident, and %zu were", rss >> 10,
			 soak.rss_first >> 10);
#endif
}

static void round_run(unsigned int number, uint64_t end_ns)
{
	soak_serve(number);
	soak_connect();
	while (now_ns() < end_ns) {
		soak_turn(true);
		if (soak.lie == LIE_NONE && !dice_below(&soak.dice, 150))
			soak_event();
	}
	soak_drain();
	soak_disconnect();
	soak_serve_no_more();
	check_image();
}

static void make_image(void)
{
	int fd;

	snprintf(soak.dir, sizeof(soak.dir), "/tmp/virtq-soak.XXXXXX");
	soak_must(mkdtemp(soak.dir) ? 0 : -errno, "directory", NULL);
	snprintf(soak.image, sizeof(soak.image), "%s/disk", soak.dir);
	snprintf(soak.socket, sizeof(soak.socket), "%s/socket", soak.dir);
	fd = open(soak.image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	soak_must(fd < 0 || ftruncate(fd, (off_t)SECTORS * SECTOR) ? -errno : 0, "image", NULL);
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
