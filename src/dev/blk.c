/* SPDX-License-Identifier: MIT */
/* The block device: what a request means (VIRTIO 1.4, 5.2.6). */
#include "dev/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

#define QUEUES_MAX 256u
#define QUEUE_SIZE_DEFAULT 1024u
#define QUEUE_SIZE_MAX 32768u

struct blk {
	struct virtq_model model;
	struct blk_file file;			/* constant */
	uint64_t capacity_sectors;		/* constant */
	bool read_only;				/* constant */
	bool write_through;	/* shm_flag_*(): features_ok() writes, engines read */
	uint8_t id[VIRTIO_BLK_ID_BYTES];	/* constant */
	struct virtq_blk_config_le config;	/* constant */
};

struct blk_req {
	struct virtq_req req;	/* first: the ring makes room for the rest */
	uint8_t *status;	/* LOAN: the chain's last writable byte */
	uint32_t type;
	bool syncing;		/* the data is written, and is being made stable */
	uint64_t expect_bytes;	/* of the operation */
};

static struct blk *blk_of(struct virtq_model *model)
{
	return container_of(model, struct blk, model);
}

static struct blk_req *blk_req_of(struct virtq_req *req)
{
	return container_of(req, struct blk_req, req);
}

static enum virtq_verdict answer(struct blk_req *br, uint8_t status)
{
	/* Keeps the used length to what was written without a gap (BLK-DEV-033). */
	virtq_req_set_tail(&br->req, br->status, status);
	return VIRTQ_DONE;
}

/* ---- Which file descriptor ----------------------------------------------- */

static bool spans_aligned(const struct virtq_cursor *c, uint32_t mem_align,
			  uint32_t len_align)
{
	uintptr_t bases = 0;
	size_t lens = 0;

	for (uint32_t i = 0; i < c->count; i++) {
		bases |= (uintptr_t)c->spans[i].base;
		lens |= c->spans[i].len;
	}
	return !(bases & (mem_align - 1)) && !(lens & (len_align - 1));
}

/*
 * Past the page cache if the file can take the request that way, through it
 * otherwise. The two see the same data: before a direct read the kernel writes
 * back the dirty pages of its range, and before and after a direct write it
 * throws the pages of its range away.
 *
 * That leaves a buffered and a direct write to different sectors of one page at
 * the same time: the page would be read before and written back after the
 * direct write, and undo it. So a write goes direct only in whole pages. Then
 * the two can meet only where the driver wrote the same sectors twice at once.
 */
static int pick_fd(const struct blk *blk, uint32_t type, const struct virtq_cursor *c,
		   uint64_t offset)
{
	const struct blk_file *f = &blk->file;
	uint32_t align = f->direct_offset_align;

	if (f->direct_fd < 0)
		return f->fd;
	if (type == VIRTIO_BLK_T_OUT && align < f->page_bytes)
		align = f->page_bytes;
	if ((offset | c->bytes) & (align - 1) ||
	    !spans_aligned(c, f->direct_mem_align, f->direct_offset_align))
		return f->fd;
	return f->direct_fd;
}

/* ---- Requests ------------------------------------------------------------ */

/* By subtraction: no sum of a driver's numbers can overflow (BLK-DEV-031). */
static bool range_ok(const struct blk *blk, uint64_t sector, uint64_t bytes)
{
	return bytes % VIRTQ_BLK_SECTOR_BYTES == 0 && sector <= blk->capacity_sectors &&
	       bytes / VIRTQ_BLK_SECTOR_BYTES <= blk->capacity_sectors - sector;
}

static enum virtq_verdict start_data(struct blk *blk, struct blk_req *br, uint64_t sector,
				     struct virtq_op *op)
{
	bool in = br->type == VIRTIO_BLK_T_IN;
	const struct virtq_cursor *c = in ? &br->req.wr : &br->req.rd;

	/* Whether or not the driver accepted RO (BLK-DEV-012). */
	if (!in && blk->read_only)
		return answer(br, VIRTIO_BLK_S_IOERR);
	if (!range_ok(blk, sector, c->bytes))
		return answer(br, VIRTIO_BLK_S_IOERR);
	if (!c->bytes)
		return answer(br, VIRTIO_BLK_S_OK);

	op->kind = in ? VIRTQ_OP_READ : VIRTQ_OP_WRITE;
	op->offset = sector * VIRTQ_BLK_SECTOR_BYTES;
	op->fd = pick_fd(blk, br->type, c, op->offset);
	br->expect_bytes = c->bytes;
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict start_sync(struct blk *blk, struct blk_req *br,
				     struct virtq_op *op)
{
	/* Of the file, so that direct writes are covered too. */
	*op = (struct virtq_op){ .kind = VIRTQ_OP_SYNC, .fd = blk->file.fd };
	br->expect_bytes = 0;
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict get_id(struct blk *blk, struct blk_req *br)
{
	/* Twenty bytes or nothing: an id cut short is somebody else's id (BLK-DEV-034). */
	if (br->req.wr.bytes < sizeof(blk->id))
		return answer(br, VIRTIO_BLK_S_IOERR);
	virtq_req_write(&br->req, blk->id, sizeof(blk->id));
	return answer(br, VIRTIO_BLK_S_OK);
}

/*
 * Station 3: a chain becomes a block request. The header is the first 16
 * readable bytes, the status the last writable one, however the driver cut them
 * into descriptors (BLK-DEV-030). Data of the direction that a request does not
 * use is left alone.
 */
static enum virtq_verdict blk_start(struct virtq_model *model, struct virtq_req *req,
				    struct virtq_op *op)
{
	struct blk *blk = blk_of(model);
	struct blk_req *br = blk_req_of(req);
	struct virtq_blk_req_hdr hdr;

	br->syncing = false;
	br->status = virtq_req_claim_tail(req);
	if (!br->status)
		return VIRTQ_MALFORMED;	/* there is no place for an answer (BLK-DEV-032) */
	/* UNTRUSTED: the driver may rewrite it meanwhile; this copy is what counts. */
	if (virtq_req_read(req, &hdr, sizeof(hdr)) != sizeof(hdr))
		return answer(br, VIRTIO_BLK_S_IOERR);

	br->type = le32_value(hdr.type);
	switch (br->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return start_data(blk, br, le64_value(hdr.sector), op);
	case VIRTIO_BLK_T_FLUSH:
		/* Covers what completed before it: those writes are in the file (BLK-DEV-018). */
		return start_sync(blk, br, op);
	case VIRTIO_BLK_T_GET_ID:
		return get_id(blk, br);
	default:
		return answer(br, VIRTIO_BLK_S_UNSUPP);	/* BLK-DEV-029 */
	}
}

/* Station 4: how it went. */
static enum virtq_verdict blk_finish(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op, int64_t result)
{
	struct blk *blk = blk_of(model);
	struct blk_req *br = blk_req_of(req);

	/* Short counts as failed: the file ends before the disk does, someone cut it. */
	if (result < 0 || (uint64_t)result != br->expect_bytes)
		return answer(br, VIRTIO_BLK_S_IOERR);
	if (br->type == VIRTIO_BLK_T_OUT && !br->syncing && shm_flag_read(&blk->write_through)) {
		/* The driver will not flush: stable first, completed then (BLK-DEV-017). */
		br->syncing = true;
		return start_sync(blk, br, op);
	}
	return answer(br, VIRTIO_BLK_S_OK);
}

/* ---- The rest of the model ----------------------------------------------- */

static void blk_config_read(struct virtq_model *model, uint32_t offset, void *dst,
			    uint32_t len)
{
	const struct blk *blk = blk_of(model);
	const uint8_t *raw = (const uint8_t *)&blk->config;

	memset(dst, 0, len);
	if (offset >= sizeof(blk->config))
		return;
	if (len > sizeof(blk->config) - offset)
		len = (uint32_t)sizeof(blk->config) - offset;
	memcpy(dst, raw + offset, len);
}

static int blk_features_ok(struct virtq_model *model, struct virtq_features features)
{
	struct blk *blk = blk_of(model);

	shm_flag_write(&blk->write_through, !virtq_features_has(features, VIRTIO_BLK_F_FLUSH));
	return 0;
}

static void blk_reset(struct virtq_model *model)
{
	/* Safe for a driver that has not said anything yet. */
	shm_flag_write(&blk_of(model)->write_through, true);
}

static void blk_destroy(struct virtq_model *model)
{
	struct blk *blk = blk_of(model);

	blk_file_close(&blk->file);
	free(blk);
}

static const struct virtq_model_ops blk_ops = {
	.name = "blk",
	.device_id = VIRTIO_ID_BLOCK,
	.req_bytes = sizeof(struct blk_req),
	.start = blk_start,
	.finish = blk_finish,
	.config_read = blk_config_read,
	.features_ok = blk_features_ok,
	.reset = blk_reset,
	.destroy = blk_destroy,
};

static struct virtq_features offered(const struct blk *blk)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_BLK_F_SEG_MAX);
	f = virtq_features_with(f, VIRTIO_BLK_F_BLK_SIZE);
	f = virtq_features_with(f, VIRTIO_BLK_F_FLUSH);	/* BLK-DEV-001 */
	if (blk->file.physical_bytes)
		f = virtq_features_with(f, VIRTIO_BLK_F_TOPOLOGY);
	if (blk->read_only)
		f = virtq_features_with(f, VIRTIO_BLK_F_RO);
	if (blk->model.queues > 1)
		f = virtq_features_with(f, VIRTIO_BLK_F_MQ);
	return f;
}

static int check_options(const struct virtq_blk_options *o, struct virtq_error *err)
{
	if (!o->path || !*o->path)
		return error_set(err, -EINVAL, "a disk needs the path of a file");
	if (o->queues > QUEUES_MAX)
		return error_set(err, -EINVAL, "%u queues are more than the %u that a disk may have",
				 o->queues, QUEUES_MAX);
	if (o->queue_size_max && (o->queue_size_max < 2 || o->queue_size_max > QUEUE_SIZE_MAX))
		return error_set(err, -EINVAL, "queues of %u entries are not within 2 and %u",
				 o->queue_size_max, QUEUE_SIZE_MAX);
	if (o->serial && strlen(o->serial) > VIRTIO_BLK_ID_BYTES)
		return error_set(err, -EINVAL, "the serial \"%s\" is longer than %u bytes",
				 o->serial, VIRTIO_BLK_ID_BYTES);
	return 0;
}

int virtq_blk_create(struct virtq_model **out, const struct virtq_blk_options *options,
		     struct virtq_error *err)
{
	int rc = check_options(options, err);
	struct blk *blk;

	if (rc)
		return rc;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return error_set(err, -ENOMEM, "no memory for a disk");
	rc = blk_file_open(&blk->file, options, err);
	if (rc) {
		free(blk);
		return rc;
	}
	blk->capacity_sectors = blk->file.size_bytes / VIRTQ_BLK_SECTOR_BYTES;
	blk->read_only = options->read_only;
	blk->write_through = true;
	if (options->serial)
		memcpy(blk->id, options->serial, strlen(options->serial));
	blk->model.ops = &blk_ops;
	blk->model.queues = options->queues ? options->queues : 1;
	blk->model.queue_size_max = options->queue_size_max ? options->queue_size_max :
							      QUEUE_SIZE_DEFAULT;
	blk->model.max_segs = BLK_SEGS_MAX;
	blk->model.config_bytes = sizeof(blk->config);
	blk->model.features = offered(blk);
	blk->config = blk_config_make(&blk->file, &blk->model);
	*out = &blk->model;
	return 0;
}
