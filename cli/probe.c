/* SPDX-License-Identifier: MIT */
/* `virtq probe`: what stands at the other end of a vhost-user socket. */
#include "probe.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <virtq/virtq.h>

#include "json.h"
#include "options.h"
#include "report.h"
#include "size.h"

#define PROBE_TIMEOUT_MS 10000

static const char probe_help[] =
	"Usage: virtq probe [OPTION] SOCKET\n"
	"Say what stands at the other end of a vhost-user socket: the type of device,\n"
	"its features, its queues, and the configuration space of a disk.\n"
	"\n"
	"  --json       print one JSON object\n"
	"  -h, --help   print this and exit\n"
	"\n"
	"A vhost-user back end does not say what type of device it is. The type is\n"
	"inferred from what it offers, and is only probable.\n"
	"\n"
	"Examples:\n"
	"  virtq probe /run/disk.sock\n"
	"  virtq probe --json /run/disk.sock\n"
	"\n"
	"Exit status: 0 it answered, 1 failed, 2 the command line makes no sense.\n";

/* All that was found out. */
struct probe {
	const char *socket;
	unsigned int device_id;		/* 0 if it cannot be told */
	bool certain;			/* the transport itself said so */
	unsigned int queues;
	uint64_t mem_slots;
	uint64_t raw_features;		/* as on the wire */
	uint64_t transport_features;	/* those of them that belong to vhost-user */
	uint64_t protocol_features;
	bool has_config;		/* the disk's, if it is one */
	struct virtq_blk_config config;
};

/* ---- Finding out. ---- */

/*
 * Read as much of the configuration space as there is. Back ends answer
 * requests up to the size of what they know, and refuse larger ones.
 */
static unsigned int probe_read_config(struct virtq_transport *t, unsigned char *raw)
{
	static const unsigned int sizes[] = {
		sizeof(struct virtq_blk_config_le),
		offsetof(struct virtq_blk_config_le, max_secure_erase_sectors),
		offsetof(struct virtq_blk_config_le, max_discard_sectors),
		offsetof(struct virtq_blk_config_le, physical_block_exp),
		offsetof(struct virtq_blk_config_le, size_max),
	};
	unsigned int i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (virtq_transport_config_read(t, 0, raw, sizes[i], NULL) == 0)
			return sizes[i];
	return 0;
}

/* Is every device feature one that disks have, and does the configuration make sense? */
static bool probe_like_block(const struct virtq_blk_config *c, struct virtq_features offered)
{
	bool any = false;
	unsigned int bit;

	for (bit = 0; bit < 24; bit++) {
		if (!virtq_features_has(offered, bit))
			continue;
		if (!virtq_feature_name(VIRTIO_ID_BLOCK, bit))
			return false;
		any = true;
	}
	if (!any || c->capacity_sectors > INT64_MAX / VIRTQ_BLK_SECTOR_BYTES)
		return false;
	if (virtq_features_has(offered, VIRTIO_BLK_F_BLK_SIZE) &&
	    (c->blk_size_bytes < VIRTQ_BLK_SECTOR_BYTES || c->blk_size_bytes > 1u << 24 ||
	     (c->blk_size_bytes & (c->blk_size_bytes - 1))))
		return false;
	return !virtq_features_has(offered, VIRTIO_BLK_F_MQ) || c->num_queues;
}

/*
 * A network device: merged receive buffers, or a control queue, or checksums
 * (VIRTIO 1.4, 5.1.3: bits 15, 17, and 0 with 1). Disks share these numbers,
 * and have been recognized before.
 */
static bool probe_like_network(struct virtq_features offered)
{
	return virtq_features_has(offered, 15) || virtq_features_has(offered, 17) ||
	       (virtq_features_has(offered, 0) && virtq_features_has(offered, 1));
}

static int probe_look(struct probe *p, struct virtq_transport *t, struct virtq_error *err)
{
	struct virtq_features offered = virtq_transport_offered(t);
	unsigned char raw[sizeof(struct virtq_blk_config_le)];
	unsigned int len;
	int rc;

	p->queues = virtq_transport_queues(t);
	p->mem_slots = virtq_vhost_user_mem_slots(t);
	p->raw_features = virtq_vhost_user_raw_features(t);
	p->transport_features = p->raw_features & ((uint64_t)1 << 26 | (uint64_t)1 << 30);
	p->protocol_features = virtq_vhost_user_protocol_features(t);
	p->device_id = virtq_transport_device_id(t);
	p->certain = p->device_id != 0;

	/* Some back ends show their configuration space only then; legacy ones cannot be driven. */
	rc = virtq_features_has(offered, VIRTIO_F_VERSION_1) ?
	     virtq_transport_accept(t, virtq_features_and(offered, virtq_ring_features()), err) : 0;
	if (rc < 0)
		return rc;
	len = probe_read_config(t, raw);
	if (len)
		p->has_config = virtq_blk_config_decode(&p->config, raw, len, offered) == 0;
	if (!p->certain && p->has_config && probe_like_block(&p->config, offered))
		p->device_id = VIRTIO_ID_BLOCK;
	else if (!p->certain && probe_like_network(offered))
		p->device_id = VIRTIO_ID_NET;
	p->has_config = p->has_config && p->device_id == VIRTIO_ID_BLOCK;
	return 0;
}

/* ---- Names. ---- */

/* A set of bits on the wire, and what its members are called. */
struct probe_set {
	const char *title, *key;
	uint64_t bits;
	const char *(*name)(const struct probe *p, unsigned int bit);
};

static const char *probe_feature_name(const struct probe *p, unsigned int bit)
{
	return virtq_feature_name(p->device_id, bit);
}

static const char *probe_transport_name(const struct probe *p, unsigned int bit)
{
	(void)p;
	return bit == 26 ? "LOG_ALL" : bit == 30 ? "PROTOCOL_FEATURES" : NULL;
}

static const char *probe_protocol_name(const struct probe *p, unsigned int bit)
{
	(void)p;
	return virtq_vhost_user_protocol_name(bit);
}

#define PROBE_SETS 3

static void probe_sets(const struct probe *p, struct probe_set sets[PROBE_SETS])
{
	sets[0] = (struct probe_set){ "features", "features",
				      p->raw_features & ~p->transport_features,
				      probe_feature_name };
	sets[1] = (struct probe_set){ "transport", "transport_features", p->transport_features,
				      probe_transport_name };
	sets[2] = (struct probe_set){ "protocol", "protocol_features", p->protocol_features,
				      probe_protocol_name };
}

static const char *probe_device_name(const struct probe *p)
{
	switch (p->device_id) {
	case VIRTIO_ID_BLOCK:
		return "block";
	case VIRTIO_ID_NET:
		return "network";
	default:
		return NULL;
	}
}

/* ---- The configuration of a disk, as rows. ---- */

struct probe_row {
	const char *key;	/* in JSON; for people, blanks stand for the underlines */
	unsigned int feature;	/* that it needs, or PROBE_ALWAYS */
	uint64_t value;
};

#define PROBE_ALWAYS 128
#define PROBE_ROWS 13

static void probe_rows(const struct virtq_blk_config *c, struct probe_row rows[PROBE_ROWS])
{
	const struct probe_row all[PROBE_ROWS] = {
		{ "size_max_bytes", VIRTIO_BLK_F_SIZE_MAX, c->size_max_bytes },
		{ "seg_max", VIRTIO_BLK_F_SEG_MAX, c->seg_max },
		{ "block_size_bytes", VIRTIO_BLK_F_BLK_SIZE, c->blk_size_bytes },
		{ "physical_block_exp", VIRTIO_BLK_F_TOPOLOGY, c->physical_block_exp },
		{ "alignment_offset_blocks", VIRTIO_BLK_F_TOPOLOGY, c->alignment_offset_blocks },
		{ "min_io_size_blocks", VIRTIO_BLK_F_TOPOLOGY, c->min_io_size_blocks },
		{ "opt_io_size_blocks", VIRTIO_BLK_F_TOPOLOGY, c->opt_io_size_blocks },
		{ "writeback", VIRTIO_BLK_F_CONFIG_WCE, c->writeback },
		{ "num_queues", PROBE_ALWAYS, c->num_queues },
		{ "max_discard_sectors", VIRTIO_BLK_F_DISCARD, c->max_discard_sectors },
		{ "max_discard_seg", VIRTIO_BLK_F_DISCARD, c->max_discard_seg },
		{ "max_write_zeroes_sectors", VIRTIO_BLK_F_WRITE_ZEROES,
		  c->max_write_zeroes_sectors },
		{ "max_write_zeroes_seg", VIRTIO_BLK_F_WRITE_ZEROES, c->max_write_zeroes_seg },
	};

	memcpy(rows, all, sizeof(all));
}

static bool probe_has(const struct probe *p, unsigned int feature)
{
	return feature == PROBE_ALWAYS ||
	       ((p->raw_features & ~p->transport_features) >> feature & 1) != 0;
}

/* ---- Printing. ---- */

static void probe_print_set(const struct probe *p, const struct probe_set *set)
{
	unsigned int bit, column = 0;

	printf("%-12s", set->title);
	for (bit = 0; bit < 64; bit++) {
		const char *name = set->name(p, bit);
		char number[16];

		if (!(set->bits >> bit & 1))
			continue;
		if (!name) {
			snprintf(number, sizeof(number), "bit %u", bit);
			name = number;
		}
		if (column && column + strlen(name) > 64) {
			printf("\n%-12s", "");
			column = 0;
		}
		column += (unsigned int)printf(" %s", name);
	}
	puts(column ? "" : " none");
}

static void probe_print(const struct probe *p)
{
	const char *device = probe_device_name(p);
	struct probe_set sets[PROBE_SETS];
	struct probe_row rows[PROBE_ROWS];
	char size[SIZE_TEXT_BYTES];
	unsigned int i;

	printf("%-12s %s%s\n", "device", p->certain || !device ? "" : "probably ",
	       device ? device : p->certain ? "of another type" : "not to be told from what it offers");
	printf("%-12s %u\n", "queues", p->queues);
	printf("%-12s %llu\n", "memory slots", (unsigned long long)p->mem_slots);
	probe_sets(p, sets);
	for (i = 0; i < PROBE_SETS; i++)
		probe_print_set(p, &sets[i]);
	if (!p->has_config)
		return;

	puts("\ndisk");
	printf("  %-26s %llu sectors, %llu bytes (%s)\n", "capacity",
	       (unsigned long long)p->config.capacity_sectors,
	       (unsigned long long)p->config.capacity_sectors * VIRTQ_BLK_SECTOR_BYTES,
	       size_text(size, (double)p->config.capacity_sectors * VIRTQ_BLK_SECTOR_BYTES));
	printf("  %-26s %s\n", "read only", probe_has(p, VIRTIO_BLK_F_RO) ? "yes" : "no");
	printf("  %-26s %s\n", "flush", probe_has(p, VIRTIO_BLK_F_FLUSH) ? "yes" : "no");
	probe_rows(&p->config, rows);
	for (i = 0; i < PROBE_ROWS; i++) {
		char title[32], *c;

		if (!probe_has(p, rows[i].feature))
			continue;
		snprintf(title, sizeof(title), "%s", rows[i].key);
		for (c = title; *c; c++)
			if (*c == '_')
				*c = ' ';
		printf("  %-26s %llu\n", title, (unsigned long long)rows[i].value);
	}
}

static void probe_json_set(struct json *j, const struct probe *p, const struct probe_set *set)
{
	char raw[24];
	unsigned int bit;

	json_open(j, set->key, '{');
	snprintf(raw, sizeof(raw), "0x%llx", (unsigned long long)set->bits);
	json_text(j, "bits", raw);
	json_open(j, "names", '[');
	for (bit = 0; bit < 64; bit++)
		if ((set->bits >> bit & 1) && set->name(p, bit))
			json_text(j, NULL, set->name(p, bit));
	json_close(j, ']');
	json_open(j, "unnamed", '[');
	for (bit = 0; bit < 64; bit++)
		if ((set->bits >> bit & 1) && !set->name(p, bit))
			json_number(j, NULL, bit);
	json_close(j, ']');
	json_close(j, '}');
}

static void probe_json(const struct probe *p)
{
	struct json j = { 0 };
	struct probe_set sets[PROBE_SETS];
	struct probe_row rows[PROBE_ROWS];
	unsigned int i;

	json_open(&j, NULL, '{');
	json_text(&j, "socket", p->socket);
	json_open(&j, "device", '{');
	json_text(&j, "type", probe_device_name(p));
	json_number(&j, "id", p->device_id);
	json_bool(&j, "certain", p->certain);
	json_close(&j, '}');
	json_number(&j, "queues", p->queues);
	json_number(&j, "memory_slots", p->mem_slots);
	probe_sets(p, sets);
	for (i = 0; i < PROBE_SETS; i++)
		probe_json_set(&j, p, &sets[i]);
	if (p->has_config) {
		json_open(&j, "block", '{');
		json_number(&j, "capacity_sectors", p->config.capacity_sectors);
		json_number(&j, "capacity_bytes",
			    p->config.capacity_sectors * VIRTQ_BLK_SECTOR_BYTES);
		json_bool(&j, "read_only", probe_has(p, VIRTIO_BLK_F_RO));
		json_bool(&j, "flush", probe_has(p, VIRTIO_BLK_F_FLUSH));
		probe_rows(&p->config, rows);
		for (i = 0; i < PROBE_ROWS; i++) {
			/* Keys are always the same; what is not offered has no value. */
			if (probe_has(p, rows[i].feature))
				json_number(&j, rows[i].key, rows[i].value);
			else
				json_text(&j, rows[i].key, NULL);
		}
		json_close(&j, '}');
	} else {
		json_text(&j, "block", NULL);
	}
	json_close(&j, '}');
}

/* ---- The command. ---- */

enum { OPT_JSON = OPTIONS_FIRST };

static const struct option probe_longs[] = {
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

int probe_main(int argc, char **argv)
{
	struct virtq_transport *transport = NULL;
	struct virtq_error err = { 0 };
	struct probe p = { 0 };
	bool json = false;
	int opt, rc;

	while ((opt = options_next(argc, argv, probe_longs)) != OPTIONS_END) {
		if (opt == OPTIONS_BAD)
			return REPORT_USAGE;
		if (opt == 'h') {
			fputs(probe_help, stdout);
			return REPORT_OK;
		}
		json = true;
	}
	if (!options_operands(argc, argv, 1, "SOCKET"))
		return REPORT_USAGE;
	p.socket = argv[optind];
	/* As `virtq copy` writes it. */
	if (strncmp(p.socket, "vhost-user:", 11) == 0)
		p.socket += 11;
	rc = virtq_vhost_user_connect(&transport, p.socket, PROBE_TIMEOUT_MS, &err);
	if (rc == 0)
		rc = probe_look(&p, transport, &err);
	virtq_transport_close(transport);
	if (rc < 0 && !report_mentions(err.text, p.socket))
		return report_failure("%s: %s", p.socket, err.text);
	if (rc < 0)
		return report_failure("%s", err.text);
	if (json)
		probe_json(&p);
	else
		probe_print(&p);
	return REPORT_OK;
}
