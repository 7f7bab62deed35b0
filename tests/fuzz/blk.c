/* SPDX-License-Identifier: MIT */
/*
 * The block device, with a driver that asks for anything and a store that
 * answers anything.
 *
 * The input chooses the disk, and then plays the driver (chains of any bytes,
 * cut anywhere; configuration space), the store (at once, by operations, later;
 * well or not), and the one that cancels and asks for the size again. What must
 * come of a chain is worked out from its bytes alone (blk.h). The driver writes
 * over header and ranges as soon as the device has them. BLK-DEV.
 */
#include <errno.h>

#include <virtq/spec/virtio.h>

#include "blk.h"

/* ---- What the driver finds ------------------------------------------------------ */

static void check_bytes(const struct run *r, const struct task *t, uint32_t length)
{
	uint32_t data = length < t->wr_bytes ? length : t->wr_bytes - 1;

	for (uint32_t i = 0; i < data; i++)
		FUZZ_CHECK(t->wr[i] == (t->type == VIRTIO_BLK_T_IN ?
						pattern(t->plan[0].offset + i) :
						(uint8_t)r->serial[i]));
	for (uint32_t i = data; i + 1 < t->wr_bytes; i++)
		FUZZ_CHECK(t->wr[i] == UNTOUCHED);
	FUZZ_CHECK(t->wr[t->wr_bytes - 1] == t->status);
}

/* For the statistics: whole requests, and those of the driver's bytes only. */
static void check_counts(const struct task *t)
{
	bool ok = t->status == OK;

	FUZZ_CHECK(t->req->failed == !ok);
	FUZZ_CHECK(t->req->bytes_read == (ok && t->type == VIRTIO_BLK_T_IN ? t->wr_bytes - 1 : 0));
	FUZZ_CHECK(t->req->bytes_written ==
		   (ok && t->type == VIRTIO_BLK_T_OUT ? t->rd_bytes - 16 : 0));
}

static void end_task(struct run *r, struct task *t, enum virtq_verdict verdict)
{
	struct virtq_completion done;
	uint32_t length = 0;

	if (verdict == VIRTQ_MALFORMED) {
		FUZZ_CHECK(!t->wr_bytes);
		t->req->written = 0;
	} else {
		FUZZ_CHECK(t->wr_bytes && t->answered && !t->at_work);
		length = expected_length(t);
		check_counts(t);
		check_bytes(r, t, length);
	}
	FUZZ_CHECK(t->req->written == length);
	virtq_device_push(r->device, &t->req, 1);
	virtq_device_publish(r->device);
	FUZZ_CHECK(virtq_driver_get(r->driver, &done, 1) == 1);
	FUZZ_CHECK(done.token == t && done.written == length);
	t->busy = false;
}

/* The model has decided; an engine would do as it says. */
static void follow(struct run *r, struct task *t, enum virtq_verdict verdict)
{
	/* The turn that it waits for comes at once. */
	while (verdict == VIRTQ_SUBMIT && t->op.kind == VIRTQ_OP_TURN) {
		FUZZ_CHECK(!t->submitted && !t->held && t->op.bytes == t->io->bytes);
		r->starting = t;
		verdict = r->model->ops->finish(r->model, t->req, &t->op, 0);
	}
	r->starting = NULL;
	FUZZ_CHECK((verdict == VIRTQ_SUBMIT) == t->submitted);
	FUZZ_CHECK((verdict == VIRTQ_HOLD) == t->held);
	if (verdict == VIRTQ_DONE || verdict == VIRTQ_MALFORMED)
		end_task(r, t, verdict);
}

/* An operation, or what was held, ends. */
static void go_on(struct run *r, struct task *t)
{
	struct virtq_store_io *io = t->io;
	bool given_up = t->held && t->cancelled && take8(&r->in) < 0x80;
	int64_t result = 0;

	r->starting = t;
	t->held = t->submitted = false;
	if (given_up)
		result = -ECANCELED;
	else if (!r->ops.finish)
		result = perform(r, t, io);
	else if (take_odd(&r->in))
		result = -EIO;
	if (!r->ops.finish)
		expect_after(t, result < 0 ? (int)result :
			     (io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE) &&
			     (uint64_t)result != io->bytes ? -EIO : 0);
	follow(r, t, r->model->ops->finish(r->model, t->req, &t->op, result));
}

/* ---- The driver --------------------------------------------------------------- */

/* Numbers of sectors, most of them within the disk or close to its end. */
static uint64_t take_sector(struct run *r)
{
	uint8_t how = take8(&r->in);

	if (how < 0x60)
		return how;
	if (how < 0xd0)
		return r->sectors - (how & 15) + 3;
	return how < 0xe0 ? UINT64_MAX / 512 + (how & 3) : take_number(&r->in);
}

static uint32_t take_sectors(struct run *r)
{
	uint8_t how = take8(&r->in);

	if (how < 0x80)
		return how & 7;
	return how < 0xc0 ? take_below(&r->in, 3u << 13) : (uint32_t)take_number(&r->in);
}

static uint32_t fill_ranges(struct run *r, struct task *t)
{
	uint8_t how = take8(&r->in);
	uint32_t count = how < 0xf8 ? 1 + how % 4 : how - 0xe8, at = 16;

	count = how == 0xf8 ? 0 : count < RANGES_MAX + 2 ? count : RANGES_MAX;
	for (uint32_t i = 0; i < count; i++, at += 16) {
		uint8_t flags = take8(&r->in);

		put_le(t->sent + at, take_sector(r), 8);
		put_le(t->sent + at + 8, take_sectors(r), 4);
		put_le(t->sent + at + 12, flags < 0xf0 ? flags & 1 && t->type ==
			VIRTIO_BLK_T_WRITE_ZEROES : take32(&r->in), 4);
	}
	return at;
}

/* The bytes of a request; how many of either direction. */
static void fill(struct run *r, struct task *t)
{
	static const uint8_t types[] = { 0, 1, 4, 8, 10, 11, 13, 14, 0, 1, 11, 13, 13, 14 };
	uint8_t which = take8(&r->in);
	uint32_t data = take_below(&r->in, 4) * 512;

	t->type = which < 0xf8 ? types[which % sizeof(types)] : (uint32_t)take_number(&r->in);
	for (uint32_t i = 0; i < READABLE_BYTES; i++)
		t->sent[i] = (uint8_t)(i * 7 + which);
	put_le(t->sent, t->type, 4);
	put_le(t->sent + 8, take_sector(r), 8);
	memset(t->sent_writable, UNTOUCHED, sizeof(t->sent_writable));
	t->rd_bytes = 16;
	t->wr_bytes = 1;
	if (t->type == VIRTIO_BLK_T_IN)
		t->wr_bytes += data;
	else if (t->type == VIRTIO_BLK_T_OUT)
		t->rd_bytes += data;
	else if (t->type == VIRTIO_BLK_T_GET_ID)
		t->wr_bytes += data / 512 * VIRTIO_BLK_ID_BYTES / 2;	/* also half of one */
	else if (t->type != VIRTIO_BLK_T_FLUSH)
		t->rd_bytes = fill_ranges(r, t);
	if (t->type == VIRTIO_BLK_T_SECURE_ERASE && take8(&r->in) & 1) {
		t->wr_bytes += t->rd_bytes - 16;
		memcpy(t->sent_writable, t->sent + 16, t->rd_bytes - 16);
		t->rd_bytes = 16;
	}
	if (take_odd(&r->in))
		t->rd_bytes = take_below(&r->in, READABLE_BYTES + 1);
	if (take_odd(&r->in))
		t->wr_bytes = take_below(&r->in, WRITABLE_BYTES + 1);
	if (!t->rd_bytes && !t->wr_bytes)
		t->rd_bytes = 1;
}

/* Elements for @bytes of one direction; they follow each other. */
static uint32_t cut(struct run *r, struct virtq_seg *segs, uint64_t addr, uint32_t bytes)
{
	uint32_t count = 0;

	while (bytes) {
		uint32_t len = count + 1 < ELEMENTS_MAX ? take_number(&r->in) & 0xffff : 0;

		len = len && len < bytes ? len : bytes;
		segs[count++] = (struct virtq_seg){ addr, len };
		addr += len;
		bytes -= len;
	}
	return count;
}

static void send_task(struct run *r)
{
	struct virtq_seg segs[2 * ELEMENTS_MAX];
	struct virtq_buffer buf = { .segs = segs };
	struct task *t = r->tasks;
	uint32_t number;

	while (t < r->tasks + TASKS && t->busy)
		t++;
	if (t == r->tasks + TASKS)
		return;
	number = (uint32_t)(t - r->tasks);
	*t = (struct task){ .busy = true, .rd_memory = t->rd_memory, .wr_memory = t->wr_memory };
	fill(r, t);
	t->rd = t->rd_memory + READABLE_BYTES - t->rd_bytes;
	t->wr = t->wr_memory + WRITABLE_BYTES - t->wr_bytes;
	memcpy(t->rd, t->sent, t->rd_bytes);
	memcpy(t->wr, t->sent_writable, t->wr_bytes);
	buf.readable = (uint16_t)cut(r, segs, GPA(number, false) + READABLE_BYTES - t->rd_bytes,
				     t->rd_bytes);
	buf.writable = (uint16_t)cut(r, segs + buf.readable,
				     GPA(number, true) + WRITABLE_BYTES - t->wr_bytes, t->wr_bytes);
	buf.token = t;
	FUZZ_CHECK(virtq_driver_add(r->driver, &buf, 1) == 1);
	virtq_driver_publish(r->driver);
	FUZZ_CHECK(virtq_device_pop(r->device, &t->req, 1) == 1);
	t->req->bytes_read = t->req->bytes_written = 0;
	t->req->failed = 0;
	if (t->wr_bytes)
		expect(r, t);
	r->starting = t;
	{
		enum virtq_verdict verdict = r->model->ops->start(r->model, t->req, &t->op);

		/* What was checked must not be read again. */
		memset(t->rd, 0xee, t->type == VIRTIO_BLK_T_OUT && t->rd_bytes > 16 ? 16 :
						t->rd_bytes);
		if (t->type == VIRTIO_BLK_T_SECURE_ERASE && t->wr_bytes)
			memset(t->wr, UNTOUCHED, t->wr_bytes - 1);
		follow(r, t, verdict);
	}
}

static struct task *take_task(struct run *r)
{
	uint32_t from = take_below(&r->in, TASKS);

	for (uint32_t i = 0; i < TASKS; i++)
		if (r->tasks[(from + i) % TASKS].busy)
			return &r->tasks[(from + i) % TASKS];
	return NULL;
}

static void do_cancel(struct run *r)
{
	struct task *t = take_task(r);

	if (!t || !t->held || t->cancelled)
		return;
	t->cancelled = true;
	r->starting = t;
	r->model->ops->cancel(r->model, t->req);
	r->starting = NULL;
}

/* ---- Configuration space ---------------------------------------------------------- */

static void check_config(struct run *r)
{
	uint8_t whole[sizeof(struct virtq_blk_config_le)], part[100];
	uint32_t offset = take8(&r->in) % 80, len = take_below(&r->in, sizeof(part) + 1);
	const struct virtq_store_info *info = &r->store.info;
	struct virtq_blk_config c;

	r->model->ops->config_read(r->model, 0, whole, sizeof(whole));
	FUZZ_CHECK(!virtq_blk_config_decode(&c, whole, sizeof(whole), r->model->features));
	FUZZ_CHECK(c.capacity_sectors == r->sectors && c.writeback == r->writeback);
	FUZZ_CHECK(c.blk_size_bytes == info->block);
	FUZZ_CHECK(c.size_max_bytes == r->options.size_max_bytes);
	FUZZ_CHECK(c.num_queues == (r->options.queues ? r->options.queues : 1));
	if (!r->read_only) {
		FUZZ_CHECK(c.max_discard_sectors == sectors_max(info->discard_max,
								RANGE_SECTORS_MAX));
		FUZZ_CHECK(c.max_secure_erase_sectors == sectors_max(info->erase_max,
								     RANGE_SECTORS_MAX));
	}
	memset(part, 0xaa, sizeof(part));
	r->model->ops->config_read(r->model, take8(&r->in) < 0xf0 ? offset : UINT32_MAX - offset,
				   part, 0);
	FUZZ_CHECK(part[0] == 0xaa);
	r->model->ops->config_read(r->model, offset, part, len);
	for (uint32_t i = 0; i < len; i++)
		FUZZ_CHECK(part[i] == (offset + i < sizeof(whole) ? whole[offset + i] : 0));
	FUZZ_CHECK(len == sizeof(part) || part[len] == 0xaa);
	if (take_odd(&r->in)) {
		offset = (uint32_t)take_number(&r->in);
		len = take_below(&r->in, sizeof(whole) + 1);
		(void)virtq_blk_config_decode(&c, r->in.at, len < r->in.left ? len :
					      (unsigned int)r->in.left, r->accepted);
		if (offset >= sizeof(whole)) {
			r->model->ops->config_read(r->model, offset, part, sizeof(part));
			for (uint32_t i = 0; i < sizeof(part); i++)
				FUZZ_CHECK(!part[i]);
		}
	}
}

static void do_config_write(struct run *r)
{
	uint32_t offset = take_odd(&r->in) ? (uint32_t)take_number(&r->in) : 32;
	uint8_t value[8] = { take8(&r->in) };
	uint32_t len = take_odd(&r->in) ? take_below(&r->in, sizeof(value) + 1) : 1;
	bool may = !r->negotiated || virtq_features_has(r->accepted, VIRTIO_BLK_F_CONFIG_WCE);
	int rc;

	value[0] = value[0] < 0xf0 ? value[0] & 1 : value[0];
	rc = r->model->ops->config_write(r->model, offset, value, len);
	if (!may || offset != 32 || len != 1 || value[0] > 1) {
		FUZZ_CHECK(rc == -EINVAL);
		return;
	}
	FUZZ_CHECK(!rc);
	r->writeback = value[0];
}

static void do_features(struct run *r)
{
	struct virtq_features f = r->model->features;
	uint32_t keep = take32(&r->in);

	for (unsigned int bit = 0; bit < 32; bit++)
		if (keep & 1u << bit)
			f = virtq_features_without(f, bit);
	FUZZ_CHECK(!r->model->ops->features_ok(r->model, f));
	r->negotiated = true;
	r->accepted = f;
	/* It could not flush. */
	if (virtq_features_has(f, VIRTIO_BLK_F_CONFIG_WCE) &&
	    !virtq_features_has(f, VIRTIO_BLK_F_FLUSH))
		r->writeback = false;
}

static void do_reset(struct run *r)
{
	for (unsigned int i = 0; i < TASKS; i++)
		if (r->tasks[i].busy)
			return;
	r->model->ops->reset(r->model);
	r->negotiated = false;
	r->writeback = !r->options.write_through;
}

static void do_refresh(struct run *r)
{
	struct virtq_error err = { 0 };
	uint64_t old = r->sectors;
	int rc;

	r->refreshed = (int64_t)(take_odd(&r->in) ? take_number(&r->in) :
						    (1 + (uint64_t)take8(&r->in)) * 512);
	/* Of errors, those that a store may say. */
	if (r->refreshed < 0)
		r->refreshed = r->refreshed & 1 ? -EIO : -ENOTSUP;
	rc = virtq_blk_refresh(r->model, &err);
	if (r->refreshed <= 0 || r->refreshed % 512) {
		FUZZ_CHECK(rc == (r->refreshed < 0 ? r->refreshed : -EINVAL) && err.text[0]);
		return;
	}
	r->sectors = (uint64_t)r->refreshed / 512;
	FUZZ_CHECK(rc == (r->sectors != old));
}

/* ---- Set-up ------------------------------------------------------------------------ */

static void make_disk(struct run *r)
{
	uint8_t how = take8(&r->in);
	struct virtq_error err;

	make_store(r);
	for (unsigned int i = 0; i < (how & 31) && i < VIRTIO_BLK_ID_BYTES; i++)
		r->serial[i] = (char)('a' + i);
	r->options.store = &r->store;
	r->options.serial = r->serial;
	r->options.write_through = how & 32;
	r->options.read_only = take_odd(&r->in);
	if (how & 64)
		r->options.queues = 1 + take8(&r->in);
	if (how & 128)
		r->options.size_max_bytes = 512u * take8(&r->in);
	r->read_only = r->options.read_only || r->store.info.read_only;
	r->sectors = r->store.info.bytes / 512;
	r->writeback = !r->options.write_through;
	FUZZ_CHECK(!virtq_blk_create(&r->model, &r->options, &err));
}

static void make_queue(struct run *r)
{
	struct virtq_region regions[2 * TASKS];
	struct virtq_ring_shape shape;
	struct virtq_ring ring = { .size = RING_SIZE };

	ring.features = virtq_features_with(ring.features, VIRTIO_F_VERSION_1);
	if (take8(&r->in) & 1)
		ring.features = virtq_features_with(ring.features, VIRTIO_F_RING_PACKED);
	FUZZ_CHECK(!virtq_ring_shape(ring.features, ring.size, &shape));
	FUZZ_CHECK(!posix_memalign(&r->memory, 4096, shape.total_bytes));
	memset(r->memory, 0, shape.total_bytes);
	ring.desc = r->memory;
	ring.driver = (uint8_t *)r->memory + shape.driver_offset;
	ring.device = (uint8_t *)r->memory + shape.device_offset;
	for (uint32_t i = 0; i < TASKS; i++) {
		struct task *t = &r->tasks[i];

		/* Of the exact size, so that the sanitizer sees what lies outside. */
		t->rd_memory = malloc(READABLE_BYTES);
		t->wr_memory = malloc(WRITABLE_BYTES);
		FUZZ_CHECK(t->rd_memory && t->wr_memory);
		regions[2 * i] = (struct virtq_region){
			.gpa = GPA(i, false), .size_bytes = READABLE_BYTES, .host = t->rd_memory,
			.fd = -1, .access = VIRTQ_ACCESS_READ };
		regions[2 * i + 1] = (struct virtq_region){
			.gpa = GPA(i, true), .size_bytes = WRITABLE_BYTES, .host = t->wr_memory,
			.fd = -1, .access = VIRTQ_ACCESS_WRITE };
	}
	FUZZ_CHECK(!virtq_map_create(&r->map, regions, 2 * TASKS, NULL));
	FUZZ_CHECK(!virtq_driver_create(&r->driver, &(struct virtq_driver_config){ .ring = ring },
					NULL));
	FUZZ_CHECK(!virtq_device_create(&r->device, &(struct virtq_device_config){
						.ring = ring, .map = r->map,
						.max_segs = r->model->max_segs,
						.long_chains = TASKS,
						.req_bytes = r->model->ops->req_bytes }, NULL));
}

static void turn(struct run *r)
{
	struct task *t;

	switch (take_below(&r->in, 16)) {
	case 9:
	case 10:
	case 11:
		t = take_task(r);
		if (t)
			go_on(r, t);
		break;
	case 12:
		do_cancel(r);
		break;
	case 13:
		check_config(r);
		break;
	case 14:
		do_config_write(r);
		break;
	case 15:
		switch (take_below(&r->in, 3)) {
		case 0: do_features(r); break;
		case 1: do_refresh(r); break;
		default: do_reset(r); break;
		}
		break;
	default:
		send_task(r);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run *r = calloc(1, sizeof(*r));
	struct task *t;

	FUZZ_CHECK(r);
	r->in = (struct input){ data, size };
	make_disk(r);
	make_queue(r);
	while (r->in.left)
		turn(r);
	while ((t = take_task(r)))
		go_on(r, t);
	virtq_driver_destroy(r->driver);
	virtq_device_destroy(r->device);
	virtq_map_unref(r->map);
	virtq_model_destroy(r->model);
	FUZZ_CHECK(r->closed == 1);
	for (uint32_t i = 0; i < TASKS; i++) {
		free(r->tasks[i].rd_memory);
		free(r->tasks[i].wr_memory);
	}
	free(r->memory);
	free(r);
	return 0;
}
