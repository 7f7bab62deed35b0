/* SPDX-License-Identifier: MIT */
/* The driver of the soak: random requests, and what each of them must have done. */
#include "blk_soak.h"

#include <string.h>

#define PATIENCE_NS UINT64_C(15000000000)	/* for any one request, on a busy machine */
#define LIE_PATIENCE_NS UINT64_C(4000000000)
#define HANGS_NS UINT64_C(1000000000)	/* in a rough round its queue is reset then */

/* What a request is good for. */
enum stage {
	STAGE_PLAIN,		/* its answer settles it */
	STAGE_SETTLE,		/* reads whether an earlier one changed its sectors or not */
	STAGE_WRONG,		/* the device must refuse it */
};

void soak_connect(void)
{
	struct disk_way way = { soak.socket, QUEUES, soak.packed, 0, dice_roll(&soak.dice) };

	soak_must(disk_open(&soak.disk, &way), "connect", &soak.disk.err);
	if (soak.disk.config.capacity_sectors != SECTORS)
		soak_complain(CLAIM_DATA, "the disk has %llu sectors, not %u",
			 (unsigned long long)soak.disk.config.capacity_sectors, SECTORS);
}

void soak_disconnect(void)
{
	soak.sent += soak.disk.sent;
	soak.answered += soak.disk.answered;
	soak.taken_back += soak.disk.taken_back;
	disk_close(&soak.disk);
}

static void occupy(const struct disk_op *op, bool busy)
{
	memset(soak.busy + op->sector, busy, op->sectors);
}

/* A range that no request in flight is about. */
static bool choose_range(struct disk_op *op)
{
	op->sectors = 1 + dice_below(&soak.dice, dice_below(&soak.dice, 4) ? 16 : DISK_SECTORS_MAX);
	op->sector = dice_below(&soak.dice, SECTORS - op->sectors + 1);
	return !memchr(soak.busy + op->sector, true, op->sectors);
}

static void choose_wrong(struct disk_op *op)
{
	op->stage = STAGE_WRONG;
	op->sectors = 8;
	if (dice_below(&soak.dice, 2)) {
		op->type = 99;			/* there is no such type */
		op->sector = 0;
	} else {
		op->type = dice_below(&soak.dice, 2) ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
		op->sector = SECTORS - dice_below(&soak.dice, 8);
	}
}

static bool choose(struct disk_op *op)
{
	uint32_t roll = dice_below(&soak.dice, 100);

	op->stage = STAGE_PLAIN;
	op->gen = 0;
	if (roll < 4) {
		op->type = roll < 2 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_GET_ID;
		op->sectors = 0;
		return true;
	}
	if (roll < 5) {
		choose_wrong(op);
		return true;
	}
	if (!choose_range(op))
		return false;
	op->type = roll < 50 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	if (roll < 9 && disk_has(&soak.disk, VIRTIO_BLK_F_WRITE_ZEROES))
		op->type = VIRTIO_BLK_T_WRITE_ZEROES;
	else if (roll < 13 && disk_has(&soak.disk, VIRTIO_BLK_F_DISCARD))
		op->type = VIRTIO_BLK_T_DISCARD;
	if (op->type == VIRTIO_BLK_T_OUT) {
		op->gen = ++soak.gen;
		sectors_fill(op->data, op->sector, op->sectors, op->gen);
	}
	occupy(op, true);
	return true;
}

static void settle_later(struct disk_op *op)
{
	unsigned int i = (unsigned int)(op->queue - soak.disk.queue);

	op->type = VIRTIO_BLK_T_IN;
	op->stage = STAGE_SETTLE;
	op->next = soak.unsettled[i];
	soak.unsettled[i] = op;
}

static void check_read(const struct disk_op *op)
{
	for (uint32_t i = 0; i < op->sectors; i++) {
		uint64_t sector = op->sector + i;
		int64_t gen = sector_generation(op->data + i * SECTOR, sector);

		if (gen == soak.shadow[sector])
			continue;
		if (op->stage != STAGE_SETTLE || gen != op->gen)
			soak_complain(CLAIM_DATA, "sector %llu reads as generation %lld, not %u%s",
				 (unsigned long long)sector, (long long)gen, soak.shadow[sector],
				 op->stage == STAGE_SETTLE ? ", nor what was written last" : "");
		soak.shadow[sector] = (uint32_t)gen;
	}
}

static bool writes(const struct disk_op *op)
{
	return op->type == VIRTIO_BLK_T_OUT || op->type == VIRTIO_BLK_T_WRITE_ZEROES ||
	       op->type == VIRTIO_BLK_T_DISCARD;
}

static void was_refused(const struct disk_op *op)
{
	uint8_t right = op->type == 99 ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;

	if (op->status != right && op->status != DISK_SILENT)
		soak_complain(CLAIM_ERRORS, "a request of type %u at sector %llu got status %u, not %u",
			 op->type, (unsigned long long)op->sector, op->status, right);
	soak.wrong++;
}

static int back(void *arg, struct disk_op *op)
{
	(void)arg;
	if (op->stage == STAGE_WRONG) {
		was_refused(op);
	} else if (op->status != VIRTIO_BLK_S_OK) {
		if (op->status != DISK_SILENT) {
			if (!soak.rough || op->status != VIRTIO_BLK_S_IOERR)
				soak_complain(CLAIM_ERRORS, "a request of type %u got status %u in a %s round",
					 op->type, op->status, soak.rough ? "rough" : "quiet");
			soak.failed++;
		}
		if (op->stage == STAGE_SETTLE || writes(op)) {
			settle_later(op);	/* its sectors stay busy until we know */
			return 0;
		}
	} else if (op->type == VIRTIO_BLK_T_IN) {
		check_read(op);
		soak.reads++;
		soak.settled += op->stage == STAGE_SETTLE;
	} else if (op->type == VIRTIO_BLK_T_DISCARD) {
		settle_later(op);	/* it may read as before, or as zeroes */
		return 0;
	} else if (writes(op)) {
		for (uint32_t i = 0; i < op->sectors; i++)
			soak.shadow[op->sector + i] = op->gen;
		soak.writes++;
	} else {
		if (op->type == VIRTIO_BLK_T_GET_ID && strncmp((char *)op->data, SERIAL, VIRTIO_BLK_ID_BYTES))
			soak_complain(CLAIM_DATA, "the disk says that its id is another");
		soak.others++;
	}
	if (op->stage != STAGE_WRONG && op->sectors)
		occupy(op, false);
	disk_put(op);
	return 0;
}

/* Send what settles, and as much else as the dice want. */
static void fill(unsigned int i, bool more)
{
	struct disk_queue *q = &soak.disk.queue[i];
	unsigned int depth = more ? dice_below(&soak.dice, DISK_DEPTH + 1) : 0;
	struct disk_op *op;

	while ((op = soak.unsettled[i])) {
		soak.unsettled[i] = op->next;
		soak_must(disk_send(&soak.disk, op), "send", &soak.disk.err);
	}
	while (q->in_flight < depth && (op = disk_get(q))) {
		if (choose(op))
			soak_must(disk_send(&soak.disk, op), "send", &soak.disk.err);
		else
			disk_put(op);
	}
	soak_must(disk_publish(q), "publish", NULL);
}

static bool anything_open(void)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		if (soak.disk.queue[i].in_flight || soak.unsettled[i])
			return true;
	return false;
}

static void take_back(unsigned int i)
{
	struct disk_queue *q = &soak.disk.queue[i];

	q->running = false;
	if (disk_take_back(&soak.disk, q, back, NULL) < 0)
		soak_complain(CLAIM_ONCE, "%s", soak.disk.err.text);
}

static void reset_queue(unsigned int i)
{
	soak_must(virtq_transport_queue_reset(soak.disk.transport, i, &soak.disk.err), "queue reset",
	     &soak.disk.err);
	take_back(i);
	soak_must(disk_start_queue(&soak.disk, i), "start", &soak.disk.err);
	soak.queue_resets++;
}

/* What was taken is finished first. */
static void stop_queue(unsigned int i)
{
	soak_must(virtq_transport_stop(soak.disk.transport, i, NULL, &soak.disk.err), "stop",
	     &soak.disk.err);
	take_back(i);
	soak_must(disk_start_queue(&soak.disk, i), "start", &soak.disk.err);
	soak.stops++;
}

static void reset_device(void)
{
	soak_must(disk_reset(&soak.disk), "reset", &soak.disk.err);
	for (unsigned int i = 0; i < QUEUES; i++)
		take_back(i);
	soak_must(disk_start(&soak.disk), "start", &soak.disk.err);
	soak.device_resets++;
}

/* A client that leaves, and another. */
static void reconnect(void)
{
	soak_drain();
	soak_disconnect();
	soak_connect();
	soak.reconnects++;
}

void soak_event(void)
{
	uint32_t roll = dice_below(&soak.dice, 100);

	if (roll < 50)
		reset_queue(dice_below(&soak.dice, QUEUES));
	else if (roll < 80)
		stop_queue(dice_below(&soak.dice, QUEUES));
	else if (roll < 95)
		reset_device();
	else
		reconnect();
}

static void look_for_lost(unsigned int i)
{
	uint64_t now = now_ns();

	for (unsigned int k = 0; k < DISK_DEPTH; k++) {
		const struct disk_op *op = &soak.disk.queue[i].ops[k];
		uint64_t age_ns = op->in_flight ? now - op->sent_ns : 0;

		if (soak.rough && age_ns > HANGS_NS) {
			reset_queue(i);
			return;
		}
		if (age_ns > (soak.lie == LIE_NONE ? PATIENCE_NS : LIE_PATIENCE_NS))
			soak_complain(CLAIM_ONCE, "a request of type %u on queue %u has not come back for %llu ms",
				 op->type, i, (unsigned long long)(age_ns / 1000000));
	}
}

void soak_turn(bool more)
{
	int came = 0;

	for (unsigned int i = 0; i < QUEUES; i++)
		fill(i, more);
	for (unsigned int i = 0; i < QUEUES; i++) {
		int n = disk_reap(&soak.disk, &soak.disk.queue[i], back, NULL);

		if (n < 0)
			soak_complain(CLAIM_ONCE, "%s", soak.disk.err.text);
		came += n;
	}
	if (!came && anything_open())
		disk_wait(&soak.disk, 1000);
	for (unsigned int i = 0; i < QUEUES; i++)
		look_for_lost(i);
}

void soak_drain(void)
{
	while (anything_open())
		soak_turn(false);
}
