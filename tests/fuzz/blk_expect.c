/* SPDX-License-Identifier: MIT */
/* What must come of a chain for the block device: an own reading of 5.2.6. */
#include <errno.h>

#include "blk.h"

static bool exists(const struct run *r, uint64_t sector, uint64_t sectors)
{
	return sector <= r->sectors && r->sectors - sector >= sectors;
}

/* 5.2.6.2: writes are stable at once if the driver cannot know that they are not. */
static uint32_t stable_flag(const struct run *r)
{
	bool stable = true;

	if (r->negotiated && virtq_features_has(r->accepted, VIRTIO_BLK_F_CONFIG_WCE))
		stable = !r->writeback;
	else if (r->negotiated && virtq_features_has(r->accepted, VIRTIO_BLK_F_FLUSH))
		stable = r->options.write_through;
	return stable ? VIRTQ_STORE_STABLE : 0;
}

static void expect_answer(struct task *t, enum status status)
{
	t->count = t->next = 0;
	t->answered = true;
	t->status = status;
}

static void expect_work(struct task *t, enum virtq_store_kind kind, uint32_t flags,
			uint64_t offset, uint64_t bytes)
{
	t->plan[t->count++] = (struct work){ kind, flags, offset, bytes };
}

static void expect_data(const struct run *r, struct task *t, uint64_t sector)
{
	bool in = t->type == VIRTIO_BLK_T_IN;
	uint32_t bytes = in ? t->wr_bytes - 1 : t->rd_bytes - 16;

	if ((!in && r->read_only) || bytes % 512 || !exists(r, sector, bytes / 512))
		expect_answer(t, IOERR);
	else if (!bytes)
		expect_answer(t, OK);
	else
		expect_work(t, in ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE,
			    in ? 0 : stable_flag(r), sector * 512, bytes);
}

static void expect_ranges(const struct run *r, struct task *t)
{
	const struct virtq_store_info *info = &r->store.info;
	uint32_t bytes = t->rd_bytes - 16;
	const uint8_t *at = t->sent + 16;
	uint64_t max = sectors_max(info->discard_max, RANGE_SECTORS_MAX);
	enum virtq_store_kind kind = VIRTQ_STORE_DISCARD;

	if (t->type == VIRTIO_BLK_T_WRITE_ZEROES) {
		kind = VIRTQ_STORE_ZERO;
		max = info->zero_max ? sectors_max(info->zero_max, RANGE_SECTORS_MAX) :
				       WRITTEN_SECTORS_MAX;
	} else if (t->type == VIRTIO_BLK_T_SECURE_ERASE) {
		kind = VIRTQ_STORE_ERASE;
		max = sectors_max(info->erase_max, RANGE_SECTORS_MAX);
	}
	/* As Linux sends them. */
	if (kind == VIRTQ_STORE_ERASE && !bytes) {
		bytes = t->wr_bytes - 1;
		at = t->sent_writable;
	}
	if (r->read_only || !max || !bytes || bytes % 16 || bytes / 16 > RANGES_MAX) {
		expect_answer(t, !r->read_only && !max ? UNSUPP : IOERR);
		return;
	}
	t->ranges = true;
	for (uint32_t i = 0; i < bytes / 16; i++, at += 16) {
		uint64_t sector = get_le(at, 8);
		uint32_t sectors = (uint32_t)get_le(at + 8, 4);
		uint32_t flags = (uint32_t)get_le(at + 12, 4);

		if (flags > (kind == VIRTQ_STORE_ZERO)) {
			expect_answer(t, UNSUPP);
			return;
		}
		if (sectors > max || !exists(r, sector, sectors)) {
			expect_answer(t, IOERR);
			return;
		}
		if (sectors)
			expect_work(t, kind, kind != VIRTQ_STORE_ZERO ? 0 : stable_flag(r) |
				    (flags ? VIRTQ_STORE_MAY_UNMAP : 0), sector * 512,
				    (uint64_t)sectors * 512);
	}
	if (!t->count)
		expect_answer(t, OK);
}

void expect(const struct run *r, struct task *t)
{
	t->type = (uint32_t)get_le(t->sent, 4);
	if (t->rd_bytes < 16) {
		expect_answer(t, IOERR);
		return;
	}
	switch (t->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		expect_data(r, t, get_le(t->sent + 8, 8));
		break;
	case VIRTIO_BLK_T_FLUSH:
		expect_work(t, VIRTQ_STORE_FLUSH, 0, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		expect_answer(t, t->wr_bytes > VIRTIO_BLK_ID_BYTES ? OK : IOERR);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		expect_ranges(r, t);
		break;
	default:
		expect_answer(t, UNSUPP);
		break;
	}
}

/* The store has ended a piece with @result: what now? */
void expect_after(struct task *t, int result)
{
	enum virtq_store_kind kind = t->io->kind;

	t->at_work = false;
	if (t->ranges && t->cancelled) {
		expect_answer(t, IOERR);
	} else if (kind == VIRTQ_STORE_ZERO && result == -EOPNOTSUPP) {
		t->writing = true;
		t->from = t->io->offset;
		t->to = t->from + t->io->bytes;
	} else if (result == -EOPNOTSUPP &&
		   (kind == VIRTQ_STORE_DISCARD || kind == VIRTQ_STORE_ERASE)) {
		expect_answer(t, UNSUPP);
	} else if (result || (kind == VIRTQ_STORE_READ && t->filled != t->io->bytes)) {
		expect_answer(t, IOERR);
	} else if (!(t->writing && t->from < t->to) && t->next == t->count) {
		expect_answer(t, OK);
	}
}

/* The longest prefix of the writable part that was filled (2.7.8.2). */
uint32_t expected_length(const struct task *t)
{
	uint32_t data = 0;

	if (t->type == VIRTIO_BLK_T_GET_ID && t->rd_bytes >= 16 && t->status == OK)
		data = VIRTIO_BLK_ID_BYTES;
	else if (t->io && t->io->kind == VIRTQ_STORE_READ)
		data = t->filled;
	return data + (data == t->wr_bytes - 1);
}
