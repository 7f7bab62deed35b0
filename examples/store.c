/* SPDX-License-Identifier: MIT */
/*
 * A disk whose sectors are nowhere: each is computed when it is read. That is a
 * store of the program's own; the library's block device does all the rest. Any
 * driver may use it, a guest over vhost-user, or as here one in this process.
 *
 *   store [packed]
 */
#include <errno.h>
#include <string.h>

#include "local.h"
#include "must.h"

#define SECTOR VIRTQ_BLK_SECTOR_BYTES
#define DISK_BYTES ((uint64_t)1 << 40)

/* ---- The store. ---- */

struct numbers {
	struct virtq_store store;	/* first: the library knows this part */
	unsigned int computed;		/* one queue, so one thread at a time counts */
};

static const char *sector_of(uint64_t n, char *text)
{
	memset(text, '.', SECTOR);
	text[snprintf(text, SECTOR, "sector %llu", (unsigned long long)n)] = '\n';
	return text;
}

/* It is done when this returns. Something slow would keep @io, and say VIRTQ_HOLD. */
static enum virtq_verdict start(struct virtq_store *store, struct virtq_store_io *io,
				struct virtq_op *op)
{
	struct numbers *numbers = (struct numbers *)(void *)store;
	char text[SECTOR];

	(void)op;
	io->result = 0;
	if (io->kind == VIRTQ_STORE_READ) {	/* and FLUSH; the others do not come */
		for (uint64_t at = 0; at < io->bytes; at += SECTOR)
			virtq_req_write(io->req, sector_of((io->offset + at) / SECTOR, text),
					SECTOR);
		numbers->computed += (unsigned int)(io->bytes / SECTOR);
	}
	return VIRTQ_DONE;
}

static void nothing_to_free(struct virtq_store *store)
{
	(void)store;
}

static const struct virtq_store_ops ops = {
	.name = "numbers", .start = start, .close = nothing_to_free,
};

static struct numbers numbers = {
	.store = { .ops = &ops, .info = { .bytes = DISK_BYTES, .block = SECTOR,
					  .read_only = true } },
};

/* ---- A driver that reads some of it. ---- */

static void read_sector(struct virtq_pool *pool, uint64_t n)
{
	const struct virtq_wait patience = { .timeout_ms = 10000 };
	char data[SECTOR + 1], expected[SECTOR];
	struct virtq_blk_req_hdr header;
	struct virtq_offer offer = {
		.header = &header, .header_bytes = sizeof(header), .writable_bytes = SECTOR + 1,
	};
	struct virtq_chain chain;

	virtq_blk_header(&header, VIRTIO_BLK_T_IN, n);
	must(virtq_pool_offer(pool, &offer, 1, NULL, 0, NULL), "offer");
	if (must(virtq_pool_take(pool, &chain, 1, &patience), "take") != 1)
		must(-ETIME, "take");
	virtq_pool_copy_out(pool, &chain, VIRTQ_PART_WRITTEN, 0, data, sizeof(data));
	if (chain.written != sizeof(data) || data[SECTOR] != VIRTIO_BLK_S_OK ||
	    memcmp(data, sector_of(n, expected), SECTOR))
		must(-EBADMSG, "what was read");
	must(virtq_pool_free(pool, &chain, 1), "free");
	printf("%.*s\n", (int)strcspn(data, "\n"), data);
}

int main(int argc, char **argv)
{
	static const uint64_t wanted[] = { 0, 7, 1000000, DISK_BYTES / SECTOR - 1 };
	const struct virtq_blk_options options = { .store = &numbers.store };
	struct virtq_pool_config config = { .size = 16, .item_bytes = 1024 };
	struct virtq_model *disk;
	struct virtq_pool *pool;
	struct local local;

	must(virtq_blk_create(&disk, &options, &err), "disk");
	must(local_open(&local, disk, argc > 1 && !strcmp(argv[1], "packed"), &err), "device");
	local.disk = disk;
	config.features = local.features;
	must(virtq_pool_create(&pool, &config, &err), "queue");
	must(local_start(&local, virtq_pool_port(pool), NULL, &err), "start");
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		read_sector(pool, wanted[i]);
	local_close(&local);
	virtq_pool_destroy(pool);
	return numbers.computed == 4 ? EXIT_SUCCESS : EXIT_FAILURE;
}
