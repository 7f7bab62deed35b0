/* SPDX-License-Identifier: MIT */
/*
 * bench/blk: requests a second and their latency through any vhost-user-blk
 * back end, with our driver end as the client, at a fixed number of requests in
 * flight.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "disk.h"
#include "histogram.h"

static const char help[] =
"usage: blk [options] SOCKET\n"
"       blk --make-image FILE --mib N\n"
"\n"
"Keeps a number of requests in flight on a vhost-user-blk back end and says how\n"
"many it answered a second and how long each took.\n"
"\n"
"  --depth N           requests in flight (1), at most 1024\n"
"  --rw KIND           randread (default), randwrite, read, write\n"
"  --bs BYTES          bytes a request, a multiple of 512 (4096)\n"
"  --seconds S         how long to measure, after a tenth of that to warm up (2)\n"
"  --layout KIND       split (default) or packed\n"
"  --indirect          one indirect table a request\n"
"  --queue-size N      ring entries (256)\n"
"  --notify            sleep until called, instead of polling\n"
"  --server-pid PID    tell how much processor time that process took\n"
"  --idle S            with it: also during S seconds in which nothing is asked of\n"
"                      it, although we are connected\n"
"  --check             the disk is one of --make-image: compare what is read, and\n"
"                      write what belongs there\n"
"  --seed N            of the random block numbers (1)\n"
"  --json FILE         write the results there; - is the standard output, and then\n"
"                      nothing else goes there\n"
"  --make-image FILE   write a file whose every sector is full of its own number\n"
"  --mib N             its size, MiB (256)\n"
"  --help\n"
"\n"
"Exits with 1 if a request failed, was lost, or brought wrong data, with 2 if the\n"
"command line is wrong.\n"
"\n"
"examples:\n"
"  blk --depth 32 /run/disk.sock\n"
"  blk --notify --rw randwrite --server-pid 4711 --seconds 5 /run/disk.sock\n";

#define SECTOR 512u

struct options {
	struct disk_options disk;
	const char *rw, *json, *image;
	bool random, check;
	double seconds, idle;
	long server_pid;
	uint64_t seed, mib;
};

struct results {
	uint64_t requests, checked, ns;
	double server_s;	/* -1: not asked for */
	double idle_s;		/* of the server, while nothing was asked of it; -1: not asked for */
	struct disk_counts counts;
	struct histogram latency_ns;
};

__attribute__((noreturn, format(printf, 2, 3)))
static void die(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("blk: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(status);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- The disk's contents ------------------------------------------------ */

/* What every 8 bytes of a sector hold: its number, mixed so that no byte is often 0. */
static uint64_t sector_word(uint64_t sector)
{
	return (sector + 1) * 0x9e3779b97f4a7c15u;
}

static void fill(void *data, uint64_t sector, unsigned int bytes)
{
	uint64_t *words = data;

	for (unsigned int i = 0; i < bytes / 8; i++)
		words[i] = sector_word(sector + i / (SECTOR / 8));
}

static bool matches(const void *data, uint64_t sector, unsigned int bytes)
{
	const uint64_t *words = data;

	for (unsigned int i = 0; i < bytes / 8; i++)
		if (words[i] != sector_word(sector + i / (SECTOR / 8)))
			return false;
	return true;
}

static void make_image(const char *path, uint64_t mib)
{
	static uint64_t chunk[(1 << 20) / 8];
	FILE *file = fopen(path, "w");

	if (!file)
		die(1, "cannot write %s: %s", path, strerror(errno));
	for (uint64_t i = 0; i < mib; i++) {
		fill(chunk, i * (sizeof(chunk) / SECTOR), sizeof(chunk));
		if (fwrite(chunk, sizeof(chunk), 1, file) != 1)
			die(1, "cannot write %s: %s", path, strerror(errno));
	}
	if (fclose(file))
		die(1, "cannot write %s: %s", path, strerror(errno));
}

/* ---- Measuring ---------------------------------------------------------- */

/* The processor time of a process so far, all its threads, seconds. */
static double process_seconds(long pid)
{
	struct timespec t;
	clockid_t clock;

	if (clock_getcpuclockid((pid_t)pid, &clock) || clock_gettime(clock, &t))
		die(1, "there is no process %ld", pid);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t next_block(const struct options *o, uint64_t *state, uint64_t blocks)
{
	uint64_t x;

	if (!o->random) {
		x = *state;
		*state = x + 1 < blocks ? x + 1 : 0;
		return x;
	}
	/* splitmix64: good enough to miss what a server might read ahead. */
	x = *state += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	x ^= x >> 31;
	/* A division would take longer than the rest. */
	return blocks <= UINT32_MAX ? (x >> 32) * blocks >> 32 : x % blocks;
}

struct run {
	const struct options *options;
	struct disk *disk;
	uint64_t state;				/* of the block numbers */
	uint64_t blocks;			/* of the disk */
	uint64_t block[DISK_DEPTH_MAX];		/* in flight, by slot */
	uint64_t started_ns[DISK_DEPTH_MAX];
	uint64_t staged[DISK_DEPTH_MAX];
	uint64_t taken;
};

static void start(struct run *run, const unsigned int *slots, unsigned int count, uint64_t now)
{
	const struct options *o = run->options;
	unsigned int bytes = o->disk.block_bytes;
	int rc;

	for (unsigned int i = 0; i < count; i++) {
		uint64_t block = next_block(o, &run->state, run->blocks);

		if (o->disk.write && o->check)
			fill(disk_data(run->disk, slots[i]), block * (bytes / SECTOR), bytes);
		run->block[slots[i]] = block;
		run->started_ns[slots[i]] = now;
		run->staged[i] = block;
	}
	rc = disk_send(run->disk, slots, run->staged, count);
	if (rc)
		die(1, "cannot send requests: %s", strerror(-rc));
}

static void compare(struct run *run, const unsigned int *slots, unsigned int count,
		    struct results *r)
{
	unsigned int bytes = run->options->disk.block_bytes;

	for (unsigned int i = 0; i < count; i++) {
		/* Every sixteenth: looking at all would be most of what is measured. */
		if (run->taken++ % 16)
			continue;
		if (!matches(disk_data(run->disk, slots[i]),
			     run->block[slots[i]] * (bytes / SECTOR), bytes))
			die(1, "block %llu came back with wrong data",
			    (unsigned long long)run->block[slots[i]]);
		r->checked++;
	}
}

/* Take what has come back and look at it. Returns how many slots. */
static unsigned int take(struct run *run, unsigned int *slots, struct results *r, uint64_t *now)
{
	const struct options *o = run->options;
	struct virtq_error err = { 0 };
	int n = disk_take(run->disk, slots, o->disk.depth, &err);

	if (n < 0)
		die(1, "%s", err.text);
	*now = now_ns();
	for (int i = 0; i < n; i++)
		histogram_add(&r->latency_ns, *now - run->started_ns[slots[i]]);
	if (o->check && !o->disk.write)
		compare(run, slots, (unsigned int)n, r);
	r->requests += (unsigned int)n;
	return (unsigned int)n;
}

static void stay_idle(const struct options *o, struct results *r)
{
	struct timespec time = {
		(time_t)o->idle, (long)((o->idle - (double)(time_t)o->idle) * 1e9),
	};
	double before;

	/* Not what it does after its last request: it may well look for more. */
	nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
	before = process_seconds(o->server_pid);
	nanosleep(&time, NULL);
	r->idle_s = process_seconds(o->server_pid) - before;
}

static void measure(const struct options *o, struct results *r)
{
	static struct run run;
	static struct results ignored;
	struct virtq_error err = { 0 };
	struct disk_counts before, after;
	unsigned int slots[DISK_DEPTH_MAX], in_flight = o->disk.depth;
	uint64_t now, begin, end;
	double server_before;

	run.options = o;
	run.state = o->random ? o->seed : 0;
	if (disk_open(&run.disk, &o->disk, &err))
		die(1, "%s", err.text);
	run.blocks = disk_blocks(run.disk);
	now = now_ns();
	begin = now + (uint64_t)(o->seconds * 1e8);
	for (unsigned int i = 0; i < o->disk.depth; i++)
		slots[i] = i;
	start(&run, slots, o->disk.depth, now);

	for (int warm = 1; warm >= 0; warm--) {
		memset(r, 0, sizeof(*r));
		before = disk_counts(run.disk);
		server_before = o->server_pid ? process_seconds(o->server_pid) : 0;
		if (!warm)
			begin = now_ns();
		end = warm ? begin : begin + (uint64_t)(o->seconds * 1e9);
		do {
			unsigned int n = take(&run, slots, r, &now);

			start(&run, slots, n, now);
		} while (now < end);
	}
	r->ns = now - begin;
	after = disk_counts(run.disk);
	r->counts.kicks = after.kicks - before.kicks;
	r->counts.calls = after.calls - before.calls;
	r->server_s = o->server_pid ? process_seconds(o->server_pid) - server_before : -1;
	r->idle_s = -1;

	/* The rest has to come back too, but does not count. */
	while (in_flight)
		in_flight -= take(&run, slots, &ignored, &now);
	if (o->idle > 0)
		stay_idle(o, r);
	disk_close(run.disk);
}

/* ---- Telling ------------------------------------------------------------ */

static void tell(const struct options *o, const struct results *r)
{
	double requests = (double)r->requests, iops = requests * 1e9 / (double)r->ns;
	double p50 = histogram_percentile(&r->latency_ns, 0.5) / 1000;
	double p99 = histogram_percentile(&r->latency_ns, 0.99) / 1000;
	double p999 = histogram_percentile(&r->latency_ns, 0.999) / 1000;
	double max = (double)r->latency_ns.max / 1000;
	double kicks = (double)r->counts.kicks / requests;
	double calls = (double)r->counts.calls / requests;
	double cpu = r->server_s < 0 ? -1 : r->server_s * 1e6 / requests;
	const char *layout = o->disk.packed ? "packed" : "split";
	const char *wait = o->disk.notify ? "notified" : "polled";
	bool to_stdout = o->json && !strcmp(o->json, "-");
	FILE *json = to_stdout ? stdout : o->json ? fopen(o->json, "w") : NULL;

	if (o->json && !json)
		die(1, "cannot write %s: %s", o->json, strerror(errno));
	if (!to_stdout) {
		printf("%s of %u bytes, depth %u, %s, %s: %.0f a second, %.1f MiB/s\n", o->rw,
		       o->disk.block_bytes, o->disk.depth, layout, wait, iops,
		       iops * o->disk.block_bytes / 1048576);
		printf("  latency us: p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", p50, p99, p999,
		       max);
		printf("  a request: %.3f kicks, %.3f calls", kicks, calls);
		if (cpu >= 0)
			printf(", %.2f us of the server's processor time", cpu);
		printf("\n");
		if (r->idle_s >= 0)
			printf("  idle: %.1f us of the server's processor time a second\n",
			       r->idle_s * 1e6 / o->idle);
		if (o->check && !o->disk.write)
			printf("  %llu requests, %llu of them compared byte by byte\n",
			       (unsigned long long)r->requests, (unsigned long long)r->checked);
	}
	if (!json)
		return;
	fprintf(json, "{\"rw\": \"%s\", \"block_bytes\": %u, \"depth\": %u, \"layout\": \"%s\", "
		"\"indirect\": %s, \"wait\": \"%s\", \"requests\": %llu, \"checked\": %llu, "
		"\"seconds\": %.6f, \"iops\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
		"\"p999_us\": %.3f, \"max_us\": %.3f, \"kicks_per_request\": %.5f, "
		"\"calls_per_request\": %.5f, \"server_cpu_us\": ", o->rw, o->disk.block_bytes,
		o->disk.depth, layout, o->disk.indirect ? "true" : "false", wait,
		(unsigned long long)r->requests, (unsigned long long)r->checked,
		(double)r->ns / 1e9, iops, p50, p99, p999, max, kicks, calls);
	if (cpu >= 0)
		fprintf(json, "%.4f", cpu);
	else
		fputs("null", json);
	if (r->idle_s >= 0)
		fprintf(json, ", \"idle_us_per_s\": %.2f", r->idle_s * 1e6 / o->idle);
	fputs("}\n", json);
	if (ferror(json) || (to_stdout ? fflush(json) : fclose(json)))
		die(1, "cannot write %s", o->json);
}

/* ---- Options ------------------------------------------------------------ */

static uint64_t number(const char *option, const char *text, uint64_t min, uint64_t max)
{
	char *rest;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &rest, 10);
	if (errno || rest == text || *rest || *text == '-' || v < min || v > max)
		die(2, "--%s takes a number from %llu to %llu, not '%s'", option,
		    (unsigned long long)min, (unsigned long long)max, text);
	return v;
}

static double seconds(const char *option, const char *text)
{
	char *rest;
	double v = strtod(text, &rest);

	if (rest == text || *rest || !(v > 0 && v < 1e6))
		die(2, "--%s takes a time above 0, not '%s'", option, text);
	return v;
}

static void parse_rw(struct options *o, const char *text)
{
	o->rw = text;
	o->random = !strncmp(text, "rand", 4);
	text += o->random ? 4 : 0;
	o->disk.write = !strcmp(text, "write");
	if (!o->disk.write && strcmp(text, "read"))
		die(2, "--rw takes randread, randwrite, read or write, not '%s'", o->rw);
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option known[] = {
		{ "depth", 1, NULL, 'd' }, { "rw", 1, NULL, 'r' }, { "bs", 1, NULL, 'b' },
		{ "seconds", 1, NULL, 's' }, { "layout", 1, NULL, 'l' },
		{ "indirect", 0, NULL, 'i' }, { "queue-size", 1, NULL, 'q' },
		{ "notify", 0, NULL, 'n' }, { "server-pid", 1, NULL, 'p' },
		{ "idle", 1, NULL, 'I' },
		{ "check", 0, NULL, 'c' }, { "seed", 1, NULL, 'S' }, { "json", 1, NULL, 'j' },
		{ "make-image", 1, NULL, 'm' }, { "mib", 1, NULL, 'M' },
		{ "help", 0, NULL, 'h' }, { 0 },
	};
	struct disk_options *d = &o->disk;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 'd': d->depth = (unsigned int)number("depth", optarg, 1, DISK_DEPTH_MAX); break;
		case 'r': parse_rw(o, optarg); break;
		case 'b': d->block_bytes = (unsigned int)number("bs", optarg, SECTOR, 1 << 24); break;
		case 's': o->seconds = seconds("seconds", optarg); break;
		case 'I': o->idle = seconds("idle", optarg); break;
		case 'l':
			d->packed = !strcmp(optarg, "packed");
			if (!d->packed && strcmp(optarg, "split"))
				die(2, "--layout takes split or packed, not '%s'", optarg);
			break;
		case 'i': d->indirect = true; break;
		case 'q': d->queue_size = (unsigned int)number("queue-size", optarg, 1, 32768); break;
		case 'n': d->notify = true; break;
		case 'p': o->server_pid = (long)number("server-pid", optarg, 1, INT32_MAX); break;
		case 'c': o->check = true; break;
		case 'S': o->seed = number("seed", optarg, 0, UINT64_MAX); break;
		case 'j': o->json = optarg; break;
		case 'm': o->image = optarg; break;
		case 'M': o->mib = number("mib", optarg, 1, 1 << 20); break;
		case 'h': fputs(help, stdout); exit(0);
		default: fputs("Try 'blk --help'.\n", stderr); exit(2);
		}
	}
	if (o->image) {
		if (optind < argc)
			die(2, "--make-image takes no socket");
		return;
	}
	if (optind + 1 != argc)
		die(2, "the path of one back end's socket is needed");
	d->socket_path = argv[optind];
	if (o->idle > 0 && !o->server_pid)
		die(2, "--idle needs --server-pid");
	if (d->block_bytes % SECTOR)
		die(2, "--bs %u is no multiple of %u", d->block_bytes, SECTOR);
	if (d->depth * (d->indirect ? 1 : 3) > d->queue_size)
		die(2, "%u requests in flight do not fit in %u ring entries", d->depth,
		    d->queue_size);
}

int main(int argc, char **argv)
{
	static struct results results;
	struct options o = {
		.disk = { .depth = 1, .block_bytes = 4096, .queue_size = 256 },
		.seconds = 2, .seed = 1, .mib = 256,
	};

	parse_rw(&o, "randread");
	parse(&o, argc, argv);
	if (o.image) {
		make_image(o.image, o.mib);
		return 0;
	}
	measure(&o, &results);
	tell(&o, &results);
	return 0;
}
