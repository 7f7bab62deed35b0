/* SPDX-License-Identifier: MIT */
/*
 * `virtq copy`: files and disks to files and disks, with many requests in
 * flight and each byte in one buffer only.
 *
 * A slot is a buffer on its way: filled from the source, then emptied into the
 * target. Files do that at once, disks when they answer.
 */
#include "copy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/mem.h>

#include "endpoint.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "size.h"

#define COPY_DEPTH_MAX 1024
#define COPY_BLOCK_BYTES_MAX (64u << 20)
#define COPY_MEMORY_BYTES_MAX ((uint64_t)4 << 30)
#define COPY_PAGE_BYTES 4096u
#define COPY_BATCH 32
#define COPY_TIMEOUT_S 30
#define COPY_TIMEOUT_S_MAX 1000000

struct copy_options {
	enum disk_layout layout;
	unsigned int depth;
	uint32_t block_bytes;		/* 0 if none was given */
	uint32_t queue_size;		/* 0 to choose */
	unsigned int timeout_s;		/* 0 to wait for ever */
	bool json;
	bool help;
};

struct copy_slot {
	uint64_t offset;
	uint32_t len;
};

struct copy {
	const struct copy_options *options;
	struct endpoint source, target;
	struct virtq_mapping *data;
	uint32_t block_bytes;		/* of data in a slot */
	uint32_t slot_bytes;		/* from one slot to the next */
	struct copy_slot *slot;
	unsigned int *idle;		/* slots that are on no way: a stack */
	unsigned int idle_count;
	uint64_t next_offset;		/* up to here all is in slots or done */
	uint64_t done_bytes;
	struct progress progress;
	bool begun;			/* the target has been changed */
};

static const char copy_help[] =
	"Usage: virtq copy [OPTION]... SOURCE TARGET\n"
	"Copy a whole disk. SOURCE and TARGET are each a file, a block device, or\n"
	"vhost-user:SOCKET for the disk that a vhost-user-blk back end serves there.\n"
	"\n"
	"  --layout WHICH      rings: split, packed, or auto: packed if offered [auto]\n"
	"  --depth N           requests in flight, 1 to 1024 [32]\n"
	"  --block-size BYTES  bytes in a request, 512 to 64M, a multiple of 512 [256K]\n"
	"  --queue-size N      entries in a queue, 4 to 32768 [chosen by the depth]\n"
	"  --timeout SECONDS   fail if a device is stuck for so long; 0: never [30]\n"
	"  --json              print the figures as one JSON object\n"
	"  -h, --help          print this and exit\n"
	"\n"
	"A file that is TARGET is made if need be and gets the size of SOURCE; blocks of\n"
	"zeros become holes. Devices are written in place and keep what lies behind.\n"
	"\n"
	"Examples:\n"
	"  virtq copy vhost-user:/run/disk.sock backup.img\n"
	"  virtq copy --layout packed --depth 64 disk.img vhost-user:/run/disk.sock\n"
	"  virtq copy --json vhost-user:/run/a.sock vhost-user:/run/b.sock\n"
	"\n"
	"Exit status: 0 copied and stable, 1 failed, 2 the command line makes no sense.\n";

/* ---- Options. ---- */

enum {
	OPT_LAYOUT = OPTIONS_FIRST, OPT_DEPTH, OPT_BLOCK_SIZE, OPT_QUEUE_SIZE, OPT_TIMEOUT,
	OPT_JSON,
};

static const struct option copy_longs[] = {
	{ "layout", required_argument, NULL, OPT_LAYOUT },
	{ "depth", required_argument, NULL, OPT_DEPTH },
	{ "block-size", required_argument, NULL, OPT_BLOCK_SIZE },
	{ "queue-size", required_argument, NULL, OPT_QUEUE_SIZE },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool copy_option(struct copy_options *o, int opt)
{
	static const char *const layouts[] = { "auto", "split", "packed", NULL };
	uint64_t value = 0;
	bool good = true;
	int choice;

	switch (opt) {
	case OPT_LAYOUT:
		choice = options_choice("--layout", optarg, layouts);
		good = choice >= 0;
		o->layout = good ? (enum disk_layout)choice : DISK_AUTO;
		break;
	case OPT_DEPTH:
		good = options_number("--depth", optarg, 1, COPY_DEPTH_MAX, &value);
		o->depth = (unsigned int)value;
		break;
	case OPT_BLOCK_SIZE:
		good = options_number("--block-size", optarg, VIRTQ_BLK_SECTOR_BYTES,
				      COPY_BLOCK_BYTES_MAX, &value);
		o->block_bytes = (uint32_t)value;
		if (good && value % VIRTQ_BLK_SECTOR_BYTES) {
			report_usage("--block-size is a multiple of 512, and not %s", optarg);
			good = false;
		}
		break;
	case OPT_QUEUE_SIZE:
		good = options_number("--queue-size", optarg, 4, 32768, &value);
		o->queue_size = (uint32_t)value;
		break;
	case OPT_TIMEOUT:
		good = options_number("--timeout", optarg, 0, COPY_TIMEOUT_S_MAX, &value);
		o->timeout_s = (unsigned int)value;
		break;
	case OPT_JSON:
		o->json = true;
		break;
	case 'h':
		o->help = true;
		break;
	}
	return good;
}

static int copy_parse(struct copy_options *o, int argc, char **argv)
{
	int opt;

	*o = (struct copy_options){ .depth = 32, .timeout_s = COPY_TIMEOUT_S };
	while ((opt = options_next(argc, argv, copy_longs)) != OPTIONS_END) {
		if (opt == OPTIONS_BAD || !copy_option(o, opt))
			return REPORT_USAGE;
		if (o->help)
			return REPORT_OK;
	}
	if (!options_operands(argc, argv, 2, "SOURCE and TARGET"))
		return REPORT_USAGE;
	if (o->layout == DISK_SPLIT && o->queue_size & (o->queue_size - 1))
		return report_usage("--queue-size of a split ring is a power of two, and not %u",
				    o->queue_size);
	return REPORT_OK;
}

/* ---- Setting up. ---- */

/* The block size that was asked for, or the nearest to 256 KiB that both ends take. */
static int copy_choose_block(struct copy *c, struct virtq_error *err)
{
	const struct endpoint *const ends[] = { &c->source, &c->target };
	uint32_t block = c->options->block_bytes ? c->options->block_bytes : 256u << 10;
	uint32_t unit = VIRTQ_BLK_SECTOR_BYTES, most = COPY_BLOCK_BYTES_MAX;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		const struct disk *d = ends[i]->disk;

		if (!d)
			continue;
		if (c->options->block_bytes && block % disk_block_bytes(d))
			return report_into(err, -EINVAL,
					   "--block-size %u is no multiple of the %u bytes of a block of %s",
					   block, disk_block_bytes(d), ends[i]->name);
		/* Both are powers of two, so the larger is a multiple of the other. */
		if (disk_block_bytes(d) > unit)
			unit = disk_block_bytes(d);
		if (disk_request_bytes_max(d) < most)
			most = disk_request_bytes_max(d);
	}
	if (block < unit)
		block = unit;
	if (block > most)
		block = most;
	block -= block % unit;
	if (!block)
		return report_into(err, -EINVAL,
				   "no block size suits both: %s and %s differ too much",
				   c->source.name, c->target.name);
	c->block_bytes = block;
	c->slot_bytes = (block + COPY_PAGE_BYTES - 1) / COPY_PAGE_BYTES * COPY_PAGE_BYTES;
	return 0;
}

static int copy_setup(struct copy *c, struct virtq_error *err)
{
	struct disk *const disks[] = { c->source.disk, c->target.disk };
	unsigned int slots = c->options->depth, i;
	int rc = copy_choose_block(c, err);

	if (rc < 0)
		return rc;
	if ((uint64_t)slots * c->slot_bytes > COPY_MEMORY_BYTES_MAX)
		return report_into(err, -EINVAL,
				   "%u requests of %u bytes would take more than 4 GiB of memory",
				   slots, c->block_bytes);
	c->slot = calloc(slots, sizeof(*c->slot));
	c->idle = calloc(slots, sizeof(*c->idle));
	if (!c->slot || !c->idle)
		return report_into(err, -ENOMEM, "no memory for %u requests", slots);
	for (i = 0; i < slots; i++)
		c->idle[c->idle_count++] = slots - 1 - i;
	rc = virtq_mapping_create(&c->data, (uint64_t)slots * c->slot_bytes, err);
	for (i = 0; i < 2; i++)
		if (disks[i])
			disk_set_timeout(disks[i], c->options->timeout_s);
	if (rc == 0 && c->source.disk)
		rc = disk_start(c->source.disk, c->data, slots, c->slot_bytes,
				c->options->queue_size, err);
	if (rc == 0 && c->target.disk)
		rc = disk_start(c->target.disk, c->data, slots, c->slot_bytes,
				c->options->queue_size, err);
	return rc;
}

/* ---- The way of a slot. ---- */

static void *copy_slot_data(const struct copy *c, unsigned int index)
{
	return (unsigned char *)virtq_mapping_host(c->data) + (size_t)index * c->slot_bytes;
}

/* The last station: its bytes have reached the target. */
static void copy_slot_done(struct copy *c, unsigned int index)
{
	c->done_bytes += c->slot[index].len;
	c->idle[c->idle_count++] = index;
}

/* Before the first change to the target: until then a source that fails has cost nothing. */
static int copy_change_target(struct copy *c, struct virtq_error *err)
{
	if (c->begun)
		return 0;
	c->begun = true;
	return endpoint_clear(&c->target, err);
}

/* Its bytes have come from the source. */
static int copy_slot_filled(struct copy *c, unsigned int index, struct virtq_error *err)
{
	const struct copy_slot *s = &c->slot[index];
	int rc = copy_change_target(c, err);

	if (rc < 0)
		return rc;
	if (c->target.disk)
		return disk_prepare(c->target.disk, index, VIRTIO_BLK_T_OUT, s->offset, s->len, err);
	rc = endpoint_write(&c->target, copy_slot_data(c, index), s->offset, s->len, err);
	if (rc == 0)
		copy_slot_done(c, index);
	return rc;
}

/* The first station: fetch the next piece of the source, of which some is left. */
static int copy_slot_begin(struct copy *c, struct virtq_error *err)
{
	uint64_t left = c->source.bytes - c->next_offset;
	unsigned int index = c->idle[--c->idle_count];
	struct copy_slot *s = &c->slot[index];
	int rc = 0;

	s->offset = c->next_offset;
	s->len = left < c->block_bytes ? (uint32_t)left : c->block_bytes;
	c->next_offset += s->len;
	if (c->source.disk)
		return disk_prepare(c->source.disk, index, VIRTIO_BLK_T_IN, s->offset, s->len, err);
	/* A device does not know of holes in our file: it gets zeros, unread. */
	if (endpoint_next_data(&c->source, s->offset) >= s->offset + s->len)
		memset(copy_slot_data(c, index), 0, s->len);
	else
		rc = endpoint_read(&c->source, copy_slot_data(c, index), s->offset, s->len, err);
	return rc < 0 ? rc : copy_slot_filled(c, index, err);
}

/* From file to file a hole stays one, and costs nothing. */
static void copy_skip_hole(struct copy *c)
{
	uint64_t data;

	if (c->source.disk || !c->target.regular)
		return;
	data = endpoint_next_data(&c->source, c->next_offset);
	c->done_bytes += data - c->next_offset;
	c->next_offset = data;
}

/*
 * Begin as many pieces as there are idle slots; but from a file only a part of
 * them at once, so that the target has work while the next are read.
 */
static int copy_fill(struct copy *c, struct virtq_error *err)
{
	unsigned int most = c->source.disk ? c->options->depth : (c->options->depth + 3) / 4;
	unsigned int begun = 0;
	int rc;

	while (begun < most && c->idle_count) {
		copy_skip_hole(c);
		if (c->next_offset >= c->source.bytes)
			break;
		rc = copy_slot_begin(c, err);
		if (rc < 0)
			return rc;
		begun++;
	}
	return (int)begun;
}

/* Take what one disk has finished to its next station; how many. */
static int copy_reap(struct copy *c, struct endpoint *e, struct virtq_error *err)
{
	unsigned int slots[COPY_BATCH];
	int n, i, rc;

	if (!e->disk || !disk_busy(e->disk))
		return 0;
	rc = disk_push(e->disk, err);
	if (rc < 0)
		return rc;
	n = disk_reap(e->disk, slots, COPY_BATCH, err);
	for (i = 0; i < n; i++) {
		if (e == &c->source) {
			rc = copy_slot_filled(c, slots[i], err);
			if (rc < 0)
				return rc;
		} else {
			copy_slot_done(c, slots[i]);
		}
	}
	return n;
}

static int copy_all(struct copy *c, struct virtq_error *err)
{
	struct disk *const disks[] = { c->source.disk, c->target.disk };
	int begun, filled, emptied, rc;

	while (c->done_bytes < c->source.bytes) {
		begun = copy_fill(c, err);
		if (begun < 0)
			return begun;
		filled = copy_reap(c, &c->source, err);
		if (filled < 0)
			return filled;
		emptied = copy_reap(c, &c->target, err);
		if (emptied < 0)
			return emptied;
		if (!begun && !filled && !emptied && c->done_bytes < c->source.bytes) {
			rc = disk_wait(disks, 2, err);
			if (rc < 0)
				return rc;
		}
		progress_update(&c->progress, c->done_bytes);
	}
	return 0;
}

/* ---- Figures. ---- */

/* The layouts used, or NULL between files. */
static const char *copy_layout(const struct copy *c)
{
	const char *from = c->source.disk ? disk_layout_name(c->source.disk) : NULL;
	const char *to = c->target.disk ? disk_layout_name(c->target.disk) : NULL;

	if (!from || !to)
		return from ? from : to;
	if (strcmp(from, to) == 0)
		return from;
	return strcmp(from, "split") == 0 ? "split to packed" : "packed to split";
}

static void copy_print(const struct copy *c, double seconds)
{
	const struct disk *const disks[] = { c->source.disk, c->target.disk };
	double rate = seconds > 0 ? (double)c->done_bytes / seconds / 1048576 : 0;
	struct disk_stats sum = { 0, 0, 0 }, one;
	const char *layout = copy_layout(c);
	unsigned int i;

	for (i = 0; i < 2; i++) {
		if (!disks[i])
			continue;
		one = disk_stats(disks[i]);
		sum.requests += one.requests;
		sum.kicks += one.kicks;
		sum.calls += one.calls;
	}
	if (c->options->json)
		printf("{\"layout\": %s%s%s, \"bytes\": %llu, \"seconds\": %.6f, "
		       "\"mib_per_s\": %.2f, \"requests\": %llu, \"kicks\": %llu, "
		       "\"calls\": %llu}\n",
		       layout ? "\"" : "", layout ? layout : "null", layout ? "\"" : "",
		       (unsigned long long)c->done_bytes, seconds, rate,
		       (unsigned long long)sum.requests, (unsigned long long)sum.kicks,
		       (unsigned long long)sum.calls);
	else
		printf("%llu bytes in %.3f s, %.1f MiB/s; %s%s%llu requests, %llu kicks, "
		       "%llu calls\n",
		       (unsigned long long)c->done_bytes, seconds, rate, layout ? layout : "",
		       layout ? ", " : "", (unsigned long long)sum.requests,
		       (unsigned long long)sum.kicks, (unsigned long long)sum.calls);
}

/* ---- The command. ---- */

static int copy_run(struct copy *c, struct virtq_error *err)
{
	int rc = copy_setup(c, err);

	if (rc < 0)
		return rc;
	progress_start(&c->progress, c->source.bytes);
	rc = copy_all(c, err);
	if (rc == 0)
		rc = endpoint_check_size(&c->source, err);
	/* All of it may have been holes. */
	if (rc == 0)
		rc = copy_change_target(c, err);
	if (rc == 0)
		rc = endpoint_finish(&c->target, c->source.bytes, err);
	progress_end(&c->progress);
	return rc;
}

static int copy_open(struct copy *c, char *const names[2], struct virtq_error *err)
{
	int rc = endpoint_open_source(&c->source, names[0], c->options->layout, err);

	return rc < 0 ? rc : endpoint_open_target(&c->target, names[1], c->options->layout,
						  &c->source, err);
}

static void copy_close(struct copy *c)
{
	endpoint_close(&c->source);
	endpoint_close(&c->target);
	virtq_mapping_unref(c->data);
	free(c->slot);
	free(c->idle);
}

int copy_main(int argc, char **argv)
{
	struct copy_options options;
	struct virtq_error err = { 0 };
	struct copy c = { .options = &options, .source = ENDPOINT_NONE, .target = ENDPOINT_NONE };
	int status = copy_parse(&options, argc, argv);
	int rc;

	if (status != REPORT_OK)
		return status;
	if (options.help) {
		fputs(copy_help, stdout);
		return REPORT_OK;
	}
	rc = copy_open(&c, argv + optind, &err);
	if (rc == 0)
		rc = copy_run(&c, &err);
	if (rc < 0) {
		bool incomplete = c.begun || (c.target.made && c.target.fd >= 0);

		status = report_failure("%s%s%s", err.text, incomplete ? "; incomplete now: " : "",
					incomplete ? c.target.name : "");
	} else {
		copy_print(&c, progress_seconds(&c.progress));
		if (c.target.disk && !disk_can_flush(c.target.disk))
			report_note("%s offers no FLUSH, so when the data is stable is its own affair",
				    c.target.name);
	}
	copy_close(&c);
	return status;
}
