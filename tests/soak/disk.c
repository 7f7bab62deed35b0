/* SPDX-License-Identifier: MIT */
/* The driver of the long tests; see disk.h. */
#include "disk.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <virtq/spec/virtio.h>

/* Room of a request: header and what shifts the data before it, status behind it. */
#define OP_BYTES (DISK_SECTORS_MAX * SECTOR + 1024u)
#define HEADER_BYTES ((uint32_t)sizeof(struct virtq_blk_req_hdr))
#define RANGE_BYTES 16u			/* of DISCARD and its like (5.2.6) */
#define CUTS_MAX 4u
#define RING_SIZE 64u
#define MAGIC UINT64_C(0x5ec7045ec7045ec7)

uint64_t dice_roll(struct dice *dice)
{
	uint64_t z = dice->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Sectors ----------------------------------------------------------------- */

/*
 * Number, generation, and numbers that only these two give: each word is a check
 * of the whole.
 */
static void sector_fill(uint64_t words[SECTOR / 8], uint64_t sector, uint32_t gen)
{
	struct dice dice = { sector * MAGIC + gen };

	words[0] = sector ^ MAGIC;
	words[1] = gen;
	for (unsigned int i = 2; i < SECTOR / 8; i++)
		words[i] = dice_roll(&dice);
}

void sectors_fill(void *data, uint64_t first, uint32_t sectors, uint32_t gen)
{
	uint64_t words[SECTOR / 8];

	for (uint32_t i = 0; i < sectors; i++) {
		if (gen)
			sector_fill(words, first + i, gen);
		else
			memset(words, 0, sizeof(words));
		memcpy((uint8_t *)data + i * SECTOR, words, SECTOR);
	}
}

int64_t sector_generation(const void *data, uint64_t sector)
{
	uint64_t seen[SECTOR / 8], right[SECTOR / 8];

	memcpy(seen, data, SECTOR);
	if (!seen[0] && !seen[1]) {
		memset(right, 0, SECTOR);
	} else {
		if (seen[0] != (sector ^ MAGIC) || !seen[1] || seen[1] > UINT32_MAX)
			return -1;
		sector_fill(right, sector, (uint32_t)seen[1]);
	}
	return memcmp(seen, right, SECTOR) ? -1 : (int64_t)seen[1];
}

/* ---- Open and close -------------------------------------------------------------- */

__attribute__((format(printf, 3, 4)))
static int fail(struct disk *disk, int rc, const char *format, ...)
{
	va_list args;

	disk->err.code = rc;
	va_start(args, format);
	vsnprintf(disk->err.text, sizeof(disk->err.text), format, args);
	va_end(args);
	return rc;
}

bool disk_has(const struct disk *disk, unsigned int bit)
{
	return virtq_features_has(disk->features, bit);
}

static int settle(struct disk *disk)
{
	int rc = virtq_transport_accept(disk->transport, disk->features, &disk->err);

	return rc ? rc : virtq_transport_share(disk->transport, disk->map, &disk->err);
}

static void choose(struct disk *disk, const struct disk_way *way)
{
	static const unsigned int ours[] = {
		VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC,
		VIRTIO_F_RING_RESET, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
		VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE,
		VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES,
		VIRTIO_BLK_F_SECURE_ERASE,
	};
	struct virtq_features offered = virtq_transport_offered(disk->transport);

	for (unsigned int i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (virtq_features_has(offered, ours[i]) && ours[i] != way->without)
			disk->features = virtq_features_with(disk->features, ours[i]);
	if (way->without == VIRTIO_BLK_F_FLUSH)		/* it depends on that (5.2.3) */
		disk->features = virtq_features_without(disk->features, VIRTIO_BLK_F_CONFIG_WCE);
	if (way->packed)
		disk->features = virtq_features_with(disk->features, VIRTIO_F_RING_PACKED);
}

static int make_queue(struct disk *disk, struct disk_queue *q)
{
	struct virtq_port_config config = {
		.features = disk->features, .size = RING_SIZE, .indirect_entries = 16,
		.extra_bytes = DISK_DEPTH * OP_BYTES,
	};
	int rc = virtq_port_create(&q->port, &config, &disk->err);

	if (rc)
		return rc;
	for (unsigned int i = 0; i < DISK_DEPTH; i++) {
		q->ops[i].queue = q;
		q->ops[i].room = (uint8_t *)virtq_port_extra(q->port) + (size_t)i * OP_BYTES;
		q->ops[i].next = q->idle;
		q->idle = &q->ops[i];
	}
	return 0;
}

static int make_map(struct disk *disk)
{
	struct virtq_region regions[DISK_QUEUES_MAX];
	unsigned int count;

	for (unsigned int i = 0; i < disk->queues; i++)
		regions[i] = *virtq_port_regions(disk->queue[i].port, &count);
	return virtq_map_create(&disk->map, regions, disk->queues, &disk->err);
}

int disk_open(struct disk *disk, const struct disk_way *way)
{
	uint8_t raw[sizeof(struct virtq_blk_config_le)] = { 0 };
	int rc;

	*disk = (struct disk){ .queues = way->queues, .dice = { way->seed } };
	rc = virtq_vhost_user_connect(&disk->transport, way->path, 0, &disk->err);
	if (rc)
		return rc;
	choose(disk, way);
	if (virtq_transport_queues(disk->transport) < way->queues)
		rc = fail(disk, -EINVAL, "the device has %u queues, not %u",
			  virtq_transport_queues(disk->transport), way->queues);
	for (unsigned int i = 0; !rc && i < way->queues; i++)
		rc = make_queue(disk, &disk->queue[i]);
	if (!rc)
		rc = make_map(disk);
	if (!rc)
		rc = virtq_transport_config_read(disk->transport, 0, raw, sizeof(raw), &disk->err);
	if (!rc)
		rc = virtq_blk_config_decode(&disk->config, raw, sizeof(raw), disk->features);
	if (!rc)
		rc = settle(disk);
	for (unsigned int i = 0; !rc && i < way->queues; i++)
		rc = disk_start_queue(disk, i);
	if (rc)
		disk_close(disk);
	return rc;
}

void disk_close(struct disk *disk)
{
	virtq_transport_close(disk->transport);
	disk->transport = NULL;
	for (unsigned int i = 0; i < disk->queues; i++)
		virtq_port_destroy(disk->queue[i].port);
	virtq_map_unref(disk->map);
	disk->map = NULL;
	disk->queues = 0;
}

int disk_start_queue(struct disk *disk, unsigned int index)
{
	struct disk_queue *q = &disk->queue[index];
	int rc = virtq_transport_start(disk->transport, index, virtq_port_driver(q->port),
				       virtq_port_kick_fd(q->port), virtq_port_call_fd(q->port),
				       &disk->err);

	q->running = !rc;
	return rc;
}

int disk_reset(struct disk *disk)
{
	for (unsigned int i = 0; i < disk->queues; i++)
		disk->queue[i].running = false;
	return virtq_transport_reset(disk->transport, &disk->err);
}

int disk_start(struct disk *disk)
{
	int rc = virtq_transport_accept(disk->transport, disk->features, &disk->err);

	for (unsigned int i = 0; !rc && i < disk->queues; i++)
		rc = disk_start_queue(disk, i);
	return rc;
}

/* ---- There ------------------------------------------------------------------------ */

struct disk_op *disk_get(struct disk_queue *q)
{
	struct disk_op *op = q->idle;

	if (!op)
		return NULL;
	q->idle = op->next;
	/* Aligned as page cache and direct I/O like it, and as they do not. */
	op->data = op->room + SECTOR;
	return op;
}

void disk_put(struct disk_op *op)
{
	op->next = op->queue->idle;
	op->queue->idle = op;
}

static uint32_t data_bytes(const struct disk_op *op)
{
	switch (op->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return op->sectors * SECTOR;
	case VIRTIO_BLK_T_GET_ID:
		return VIRTIO_BLK_ID_BYTES;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		return RANGE_BYTES;
	default:
		return 0;
	}
}

static bool device_writes(const struct disk_op *op)
{
	return op->type == VIRTIO_BLK_T_IN || op->type == VIRTIO_BLK_T_GET_ID;
}

/* Elements of @len bytes at @base, cut anywhere: no framing is to be assumed (2.7.4.1). */
static unsigned int cut(struct disk *disk, uint8_t *base, uint32_t len, struct virtq_seg *segs)
{
	unsigned int count = 0, cuts = dice_below(&disk->dice, CUTS_MAX);

	while (len) {
		uint32_t piece = count < cuts && len > 1 ?
				 1 + dice_below(&disk->dice, len - 1) : len;

		segs[count++] = (struct virtq_seg){ (uintptr_t)base, piece };
		base += piece;
		len -= piece;
	}
	return count;
}

static void put_le(uint8_t *to, uint64_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		to[i] = (uint8_t)(value >> 8 * i);
}

int disk_send(struct disk *disk, struct disk_op *op)
{
	struct virtq_seg segs[2 * CUTS_MAX];
	struct virtq_buffer buffer = { .segs = segs, .token = op };
	struct virtq_blk_req_hdr header;
	uint32_t readable = HEADER_BYTES, writable = 1;
	uint8_t *head;
	int rc;

	op->bytes = data_bytes(op);
	if (op->bytes == RANGE_BYTES) {
		put_le(op->data, op->sector, 8);
		put_le(op->data + 8, op->sectors, 8);	/* and no flags behind it */
	}
	virtq_blk_header(&header, op->type,
			 op->type == VIRTIO_BLK_T_IN || op->type == VIRTIO_BLK_T_OUT ? op->sector : 0);
	head = op->data - HEADER_BYTES;
	memcpy(head, &header, HEADER_BYTES);
	op->tail = op->data + op->bytes;
	*op->tail = DISK_SILENT;
	if (device_writes(op))
		writable += op->bytes;
	else
		readable += op->bytes;
	buffer.readable = (uint16_t)cut(disk, head, readable, segs);
	buffer.writable = (uint16_t)cut(disk, device_writes(op) ? op->data : op->tail, writable,
					segs + buffer.readable);
	rc = virtq_driver_add(virtq_port_driver(op->queue->port), &buffer, 1);
	if (rc != 1)
		return fail(disk, rc, "a request does not go into the ring: %d", rc);
	op->status = DISK_SILENT;
	op->written = 0;
	op->in_flight = true;
	op->sent_ns = now_ns();
	op->queue->in_flight++;
	disk->sent++;
	return 0;
}

int disk_publish(struct disk_queue *q)
{
	return virtq_port_publish(q->port);
}

/* ---- And back ------------------------------------------------------------------------ */

static int came_back(struct disk *disk, struct disk_queue *q, struct disk_op *op,
		     bool answered, uint32_t written)
{
	if (op->queue != q || !op->in_flight)
		return fail(disk, -EPROTO, "a request came back that was not in flight");
	op->in_flight = false;
	op->written = written;
	op->status = answered ? *op->tail : DISK_SILENT;
	q->in_flight--;
	if (answered)
		disk->answered++;
	else
		disk->taken_back++;
	/* The status is the last byte: it was counted only if all before it was written. */
	if (answered && op->status == DISK_SILENT)
		return fail(disk, -EPROTO, "a request came back without a status");
	if (op->status == VIRTIO_BLK_S_OK && written != (device_writes(op) ? op->bytes : 0) + 1)
		return fail(disk, -EPROTO, "a request of type %u with %u bytes ended well with %u written",
			    op->type, op->bytes, written);
	return 0;
}

int disk_reap(struct disk *disk, struct disk_queue *q, disk_back_fn *back, void *arg)
{
	struct virtq_driver *driver = virtq_port_driver(q->port);
	struct virtq_completion done[DISK_DEPTH];
	int count = 0, n;

	while ((n = virtq_driver_get(driver, done, DISK_DEPTH)) > 0)
		for (int i = 0; i < n; i++) {
			int rc = came_back(disk, q, done[i].token, true, done[i].written);

			if (!rc)
				rc = back(arg, done[i].token);
			if (rc < 0)
				return rc;
			count++;
		}
	if (n < 0)
		return fail(disk, n, "the device broke the ring: %s",
			    virtq_fault_text(virtq_driver_fault(driver).code));
	return count;
}

int disk_take_back(struct disk *disk, struct disk_queue *q, disk_back_fn *back, void *arg)
{
	struct virtq_driver *driver = virtq_port_driver(q->port);
	void *token;
	int rc, n = disk_reap(disk, q, back, arg);

	if (n < 0)
		return n;
	while ((rc = virtq_driver_detach(driver, &token)) == 1) {
		rc = came_back(disk, q, token, false, 0);
		if (!rc)
			rc = back(arg, token);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return fail(disk, rc, "requests cannot be taken back: %d", rc);
	if (q->in_flight)
		return fail(disk, -EPROTO, "%u requests are lost: neither answered nor taken back",
			    q->in_flight);
	return virtq_port_renew(q->port);
}

int disk_wait(struct disk *disk, int timeout_ms)
{
	struct pollfd fds[DISK_QUEUES_MAX + 1];
	unsigned int count = 0;
	int rc;

	for (unsigned int i = 0; i < disk->queues; i++) {
		if (!disk->queue[i].running)
			continue;
		if (virtq_port_arm(disk->queue[i].port))
			return 1;
		fds[count++] = (struct pollfd){ virtq_port_call_fd(disk->queue[i].port), POLLIN, 0 };
	}
	fds[count++] = (struct pollfd){ virtq_transport_fd(disk->transport), POLLIN, 0 };
	rc = poll(fds, count, timeout_ms) != 0;
	for (unsigned int i = 0; i < disk->queues; i++)
		virtq_driver_disarm(virtq_port_driver(disk->queue[i].port));
	return rc;
}
