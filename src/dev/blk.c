/* SPDX-License-Identifier: MIT */
/* The block device: what a request means (VIRTIO 1.4, 5.2.6). */
#include "dev/blk.h"

#include <errno.h>

#include "base/check.h"
#include "base/shm.h"

/*
 * What is written where a store knows no zeroes of its own. Nobody writes here,
 * so all of it is one page of the kernel's. A multiple of every block size.
 */
#define ZEROES_BYTES ((uint64_t)1 << 20)
static _Alignas(4096) uint8_t zeroes[ZEROES_BYTES];

static struct blk_req *blk_req_of(struct virtq_req *req)
{
	return container_of(req, struct blk_req, req);
}

static enum virtq_verdict answer(struct blk_req *br, uint8_t status)
{
	/* Keeps the used length to what was written without a gap (BLK-DEV-033). */
	virtq_req_set_tail(&br->req, br->status, status);
	br->req.failed = status != VIRTIO_BLK_S_OK;
	return VIRTQ_DONE;
}

/* By subtraction: no sum of a driver's numbers can overflow (BLK-DEV-031). */
static bool sectors_exist(struct blk *blk, uint64_t sector, uint64_t sectors)
{
	uint64_t capacity = shm_word_read(&blk->capacity_sectors);

	return sector <= capacity && sectors <= capacity - sector;
}

/* ---- Ranges: one piece of work after the other ---------------------------- */

/* A piece of what is left of them. Ends where the next is well aligned. */
static void write_zeroes(struct blk_req *br)
{
	uint64_t bytes = ZEROES_BYTES - br->zeroes_from % ZEROES_BYTES;

	if (bytes > br->zeroes_to - br->zeroes_from)
		bytes = br->zeroes_to - br->zeroes_from;
	br->io.kind = VIRTQ_STORE_WRITE;
	br->io.flags = br->stable ? VIRTQ_STORE_STABLE : 0;
	br->io.offset = br->zeroes_from;
	br->io.bytes = bytes;
	br->zeroes_from += bytes;
	br->zeroes = (struct virtq_span){ zeroes, (size_t)bytes };
	/* What the driver has sent was copied out: the cursor is free. */
	br->req.rd = (struct virtq_cursor){ &br->zeroes, 1, bytes };
}

static void begin_range(struct blk *blk, struct blk_req *br,
			const struct virtq_blk_discard_write_zeroes *range)
{
	struct virtq_store_io *io = &br->io;
	bool unmap = le32_value(range->flags) & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	io->offset = le64_value(range->sector) * VIRTQ_BLK_SECTOR_BYTES;
	io->bytes = (uint64_t)le32_value(range->num_sectors) * VIRTQ_BLK_SECTOR_BYTES;
	if (br->type == VIRTIO_BLK_T_DISCARD) {
		io->kind = VIRTQ_STORE_DISCARD;
		io->flags = 0;
	} else if (br->type == VIRTIO_BLK_T_SECURE_ERASE) {
		io->kind = VIRTQ_STORE_ERASE;
		io->flags = 0;
	} else {
		io->kind = VIRTQ_STORE_ZERO;
		io->flags = (unmap ? VIRTQ_STORE_MAY_UNMAP : 0) |
			    (br->stable ? VIRTQ_STORE_STABLE : 0);
		br->zeroes_from = io->offset;
		br->zeroes_to = io->offset + io->bytes;
		if (!blk->store->info.zero_max)
			write_zeroes(br);
	}
}

/* What comes after the piece that has ended. False: nothing. */
static bool next_piece(struct blk *blk, struct blk_req *br)
{
	if (br->io.kind == VIRTQ_STORE_WRITE && br->zeroes_from < br->zeroes_to) {
		write_zeroes(br);
		return true;
	}
	while (br->ranges_begun < br->range_count) {
		const struct virtq_blk_discard_write_zeroes *range =
			&br->ranges[br->ranges_begun++];

		if (le32_value(range->num_sectors)) {
			begin_range(blk, br, range);
			return true;
		}
	}
	return false;
}

/* ---- What a store has said ------------------------------------------------ */

static uint8_t status_of(const struct blk_req *br)
{
	if (br->io.result == -EOPNOTSUPP &&
	    (br->io.kind == VIRTQ_STORE_DISCARD || br->io.kind == VIRTQ_STORE_ERASE))
		return VIRTIO_BLK_S_UNSUPP;
	/* A read that left a hole has not read, whatever the store calls it. */
	if (br->io.result || (br->io.kind == VIRTQ_STORE_READ && br->req.wr.bytes))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/* Zeroes that were written are no bytes of the driver's. */
static enum virtq_verdict answer_ranges(struct blk_req *br, uint8_t status)
{
	br->req.bytes_written = 0;
	return answer(br, status);
}

/* A request with ranges: @verdict is on one piece of it. */
static enum virtq_verdict go_on(struct blk *blk, struct blk_req *br, struct virtq_op *op,
				enum virtq_verdict verdict)
{
	while (verdict == VIRTQ_DONE) {
		if (br->cancelled)
			return answer_ranges(br, VIRTIO_BLK_S_IOERR);
		if (br->io.kind == VIRTQ_STORE_ZERO && br->io.result == -EOPNOTSUPP)
			write_zeroes(br);
		else if (br->io.result || !next_piece(blk, br))
			return answer_ranges(br, status_of(br));
		*op = (struct virtq_op){ 0 };
		br->io.result = 0;
		verdict = blk->store->ops->start(blk->store, &br->io, op);
		/* Zeroes that are written at once: others have their turn in between. */
		if (verdict == VIRTQ_DONE && br->io.kind == VIRTQ_STORE_WRITE) {
			*op = (struct virtq_op){ .kind = VIRTQ_OP_TURN, .bytes = br->io.bytes };
			br->rests = true;
			return VIRTQ_SUBMIT;
		}
	}
	return verdict;
}

/* How the data moved is the store's business; that it did is counted here. */
static enum virtq_verdict answer_data(struct blk_req *br, uint8_t status)
{
	if (LIKELY(status == VIRTIO_BLK_S_OK)) {
		if (br->io.kind == VIRTQ_STORE_READ)
			br->req.bytes_read = br->io.bytes;
		else if (br->io.kind == VIRTQ_STORE_WRITE)
			br->req.bytes_written = br->io.bytes;
	}
	return answer(br, status);
}

/* Act on what the store decided about br->io. */
static enum virtq_verdict follow(struct blk *blk, struct blk_req *br, struct virtq_op *op,
				 enum virtq_verdict verdict)
{
	VIRTQ_ASSERT(verdict != VIRTQ_MALFORMED);
	if (UNLIKELY(br->range_count))
		return go_on(blk, br, op, verdict);
	return verdict == VIRTQ_DONE ? answer_data(br, status_of(br)) : verdict;
}

/* ---- Station 3: requests -------------------------------------------------- */

static enum virtq_verdict begin(struct blk *blk, struct blk_req *br, struct virtq_op *op)
{
	br->io.result = 0;
	return follow(blk, br, op, blk->store->ops->start(blk->store, &br->io, op));
}

static enum virtq_verdict start_data(struct blk *blk, struct blk_req *br, uint64_t sector,
				     struct virtq_op *op)
{
	bool in = br->type == VIRTIO_BLK_T_IN;
	uint64_t bytes = in ? br->req.wr.bytes : br->req.rd.bytes;

	/* Whether or not the driver accepted RO (BLK-DEV-012). */
	if (!in && blk->read_only)
		return answer(br, VIRTIO_BLK_S_IOERR);
	if (bytes % VIRTQ_BLK_SECTOR_BYTES ||
	    !sectors_exist(blk, sector, bytes / VIRTQ_BLK_SECTOR_BYTES))
		return answer(br, VIRTIO_BLK_S_IOERR);
	if (!bytes)
		return answer(br, VIRTIO_BLK_S_OK);

	br->io.kind = in ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE;
	br->io.flags = !in && br->stable ? VIRTQ_STORE_STABLE : 0;
	br->io.offset = sector * VIRTQ_BLK_SECTOR_BYTES;
	br->io.bytes = bytes;
	return begin(blk, br, op);
}

static enum virtq_verdict start_flush(struct blk *blk, struct blk_req *br, struct virtq_op *op)
{
	/* Covers what completed before it: the store has ended those writes (BLK-DEV-018). */
	br->io.kind = VIRTQ_STORE_FLUSH;
	br->io.flags = 0;
	br->io.offset = 0;
	br->io.bytes = 0;
	return begin(blk, br, op);
}

/* Is the driver's range one that the disk takes? @max: sectors. */
static uint8_t check_range(struct blk *blk, const struct blk_req *br,
			   const struct virtq_blk_discard_write_zeroes *range, uint32_t max)
{
	uint32_t known = br->type == VIRTIO_BLK_T_WRITE_ZEROES ?
				 VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	uint32_t sectors = le32_value(range->num_sectors);

	/* Of a discard "unmap" is what it means, but not to be said (BLK-DEV-013). */
	if (le32_value(range->flags) & ~known)
		return VIRTIO_BLK_S_UNSUPP;
	if (sectors > max || !sectors_exist(blk, le64_value(range->sector), sectors))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/* @max_sectors, @max_ranges: as the driver was told; 0 if it was not offered. */
static enum virtq_verdict start_ranges(struct blk *blk, struct blk_req *br,
				       virtq_le32 max_sectors, virtq_le32 max_ranges,
				       struct virtq_op *op)
{
	uint64_t count;

	if (blk->read_only)
		return answer(br, VIRTIO_BLK_S_IOERR);	/* BLK-DEV-012 */
	if (!le32_value(max_sectors))
		return answer(br, VIRTIO_BLK_S_UNSUPP);	/* BLK-DEV-029 */
	/*
	 * Linux takes a type's lowest bit for the direction, as READ and WRITE have it.
	 * Erase has it not: the ranges are in what the device may write, and nowhere else.
	 */
	if (br->type == VIRTIO_BLK_T_SECURE_ERASE && !br->req.rd.bytes)
		br->req.rd = br->req.wr;
	count = br->req.rd.bytes / sizeof(br->ranges[0]);
	/* At least one: who is told that all went well believes that something was done. */
	if (!count || br->req.rd.bytes % sizeof(br->ranges[0]) || count > le32_value(max_ranges))
		return answer(br, VIRTIO_BLK_S_IOERR);
	/* UNTRUSTED: copied, then all of them checked, before the first is acted upon. */
	virtq_req_read(&br->req, br->ranges, (size_t)count * sizeof(br->ranges[0]));
	for (uint64_t i = 0; i < count; i++) {
		uint8_t status = check_range(blk, br, &br->ranges[i], le32_value(max_sectors));

		if (status != VIRTIO_BLK_S_OK)
			return answer(br, status);
	}
	br->range_count = (uint32_t)count;
	br->ranges_begun = 0;
	br->io.kind = VIRTQ_STORE_FLUSH;	/* no piece has ended */
	br->io.result = 0;
	return go_on(blk, br, op, VIRTQ_DONE);
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
 * A chain becomes a block request. The header is the first 16 readable bytes,
 * the status the last writable one, however the driver cut them into
 * descriptors (BLK-DEV-030). Data of the direction that a request does not use
 * is left alone.
 */
enum virtq_verdict blk_start(struct virtq_model *model, struct virtq_req *req,
			     struct virtq_op *op)
{
	struct blk *blk = blk_of(model);
	struct blk_req *br = blk_req_of(req);
	const struct virtq_blk_config_le *c = &blk->config;
	struct virtq_blk_req_hdr hdr;

	br->status = virtq_req_claim_tail(req);
	if (!br->status)
		return VIRTQ_MALFORMED;	/* there is no place for an answer (BLK-DEV-032) */
	/* UNTRUSTED: the driver may rewrite it meanwhile; this copy is what counts. */
	if (virtq_req_read(req, &hdr, sizeof(hdr)) != sizeof(hdr))
		return answer(br, VIRTIO_BLK_S_IOERR);

	br->type = le32_value(hdr.type);
	br->range_count = 0;
	br->cancelled = false;
	br->rests = false;
	/* One look: the mode may change while the request is under way (BLK-DEV-017). */
	br->stable = shm_flag_read(&blk->stable);
	br->io.req = req;
	switch (br->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return start_data(blk, br, le64_value(hdr.sector), op);
	case VIRTIO_BLK_T_FLUSH:
		return start_flush(blk, br, op);
	case VIRTIO_BLK_T_GET_ID:
		return get_id(blk, br);
	case VIRTIO_BLK_T_DISCARD:
		return start_ranges(blk, br, c->max_discard_sectors, c->max_discard_seg, op);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return start_ranges(blk, br, c->max_write_zeroes_sectors,
				    c->max_write_zeroes_seg, op);
	case VIRTIO_BLK_T_SECURE_ERASE:
		return start_ranges(blk, br, c->max_secure_erase_sectors,
				    c->max_secure_erase_seg, op);
	default:
		/* GET_LIFETIME and zones too (BLK-DEV-020, BLK-DEV-021, BLK-DEV-029). */
		return answer(br, VIRTIO_BLK_S_UNSUPP);
	}
}

/* ---- Station 4: how it went ----------------------------------------------- */

enum virtq_verdict blk_finish(struct virtq_model *model, struct virtq_req *req,
			      struct virtq_op *op, int64_t result)
{
	struct blk *blk = blk_of(model);
	struct blk_req *br = blk_req_of(req);
	struct virtq_store_io *io = &br->io;
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;

	if (br->rests) {
		br->rests = false;
		if (result < 0)
			io->result = (int)result;
		return follow(blk, br, op, VIRTQ_DONE);
	}
	if (blk->store->ops->finish)
		return follow(blk, br, op, blk->store->ops->finish(blk->store, io, op, result));
	if (result < 0)
		io->result = (int)result;
	else
		io->result = data && (uint64_t)result != io->bytes ? -EIO : 0;
	return follow(blk, br, op, VIRTQ_DONE);
}

void blk_cancel(struct virtq_model *model, struct virtq_req *req)
{
	struct blk *blk = blk_of(model);
	struct blk_req *br = blk_req_of(req);

	br->cancelled = true;
	if (blk->store->ops->cancel)
		blk->store->ops->cancel(blk->store, &br->io);
}
