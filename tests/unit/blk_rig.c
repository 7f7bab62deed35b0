/* SPDX-License-Identifier: MIT */
/* A disk over a shelf, one request at a time. */
#include "blk_rig.h"

#include <stdlib.h>

#define HEADER_AT 0u			/* in the data memory, pieces 64 bytes apart */
#define WRITABLE_AT 65536u
#define PIECE_GAP 64u

const struct rig_shape rig_shapes[6] = {
	{ false, SHELF_AT_ONCE }, { false, SHELF_SUBMIT }, { false, SHELF_HOLD },
	{ true, SHELF_AT_ONCE }, { true, SHELF_SUBMIT }, { true, SHELF_HOLD },
};

struct shelf *rig_shelf(void **state)
{
	const struct rig_shape *shape = *state;
	struct shelf *shelf = shelf_new(DISK_BYTES, shape->way);

	for (size_t i = 0; i < DISK_BYTES; i++)
		shelf->memory[i] = file_pattern(i);
	return shelf;
}

void rig_open(struct rig *r, void **state, struct virtq_blk_options options)
{
	const struct rig_shape *shape = *state;

	memset(r, 0, sizeof(*r));
	if (!options.store)
		options.store = &rig_shelf(state)->store;
	r->shelf = (struct shelf *)(void *)options.store;
	r->model = disk_make(&options);
	pair_open(&r->pair, &(struct pair_shape){ .packed = shape->packed, .size = 1024 },
		  r->model, 2 * WRITABLE_AT);
}

void rig_close(struct rig *r)
{
	unsigned int closed = shelves_closed;

	pair_close(&r->pair);
	assert_int_equal(r->shelf->wrong, 0);
	virtq_model_destroy(r->model);
	assert_int_equal(shelves_closed, closed + 1);
}

/* ---- Requests ---------------------------------------------------------------- */

static int64_t end_held(struct rig *r, const struct chain *c)
{
	struct virtq_store_io *io = shelf_take(r->shelf);

	if (r->meanwhile)
		r->meanwhile(r, c);
	return shelf_work(r->shelf, io);
}

void rig_serve(struct rig *r, const struct chain *c)
{
	struct virtq_op op = { 0 };
	struct virtq_completion done;
	struct virtq_req *req;

	r->shelf->count = 0;
	r->turns = 0;
	chain_add(&r->pair, c, r);
	virtq_driver_publish(r->pair.driver);
	assert_int_equal(virtq_device_pop(r->pair.device, &req, 1), 1);
	r->verdict = r->model->ops->start(r->model, req, &op);
	while (r->verdict == VIRTQ_SUBMIT || r->verdict == VIRTQ_HOLD) {
		int64_t result = r->verdict == VIRTQ_HOLD ? end_held(r, c) : 0;

		if (r->verdict == VIRTQ_SUBMIT && op.kind == VIRTQ_OP_TURN)
			r->turns++;
		if (r->verdict == VIRTQ_SUBMIT)
			assert_true(op.kind == VIRTQ_OP_TIMEOUT || op.kind == VIRTQ_OP_TURN);
		r->verdict = r->model->ops->finish(r->model, req, &op, result);
	}
	if (r->verdict == VIRTQ_MALFORMED)
		req->written = 0;
	virtq_device_push(r->pair.device, &req, 1);
	virtq_device_publish(r->pair.device);
	assert_int_equal(virtq_driver_get(r->pair.driver, &done, 1), 1);
	assert_ptr_equal(done.token, r);
	r->used_bytes = done.written;
}

static size_t cut(struct chain *c, const int *lens, size_t at, bool writable)
{
	size_t total = 0;

	for (; *lens; lens++) {
		int times = *lens < 0 ? -*lens : 1;
		size_t len = *lens < 0 ? 1 : (size_t)*lens;

		while (times--) {
			if (writable)
				chain_writable(c, at, len);
			else
				chain_readable(c, at, len);
			at += len + PIECE_GAP;
			total += len;
		}
	}
	return total;
}

uint8_t *rig_byte(struct rig *r, const struct chain *c, bool writable, size_t n)
{
	const struct virtq_seg *seg = c->segs + (writable ? c->readable : 0);

	while (n >= seg->len)
		n -= (seg++)->len;
	return r->pair.data + (seg->addr - PAIR_DATA_GPA) + n;
}

void rig_put(struct rig *r, const struct chain *c, size_t at, const void *src, size_t len)
{
	for (size_t i = 0; i < len; i++)
		*rig_byte(r, c, false, at + i) = ((const uint8_t *)src)[i];
}

void rig_frame(struct rig *r, struct chain *c, const struct framing *f, uint32_t type,
	       uint64_t sector)
{
	struct virtq_blk_req_hdr hdr;

	c->readable = c->writable = 0;
	memset(r->pair.data, UNTOUCHED, r->pair.data_bytes);
	virtq_blk_header(&hdr, type, sector);
	if (cut(c, f->readable, HEADER_AT, false) >= sizeof(hdr))
		rig_put(r, c, 0, &hdr, sizeof(hdr));
	cut(c, f->writable, WRITABLE_AT, true);
}

static uint8_t send_simple(struct rig *r, struct chain *c, int writable)
{
	rig_serve(r, c);
	assert_int_equal(r->verdict, VIRTQ_DONE);
	return *rig_byte(r, c, true, (size_t)writable);
}

static void frame_simple(struct rig *r, struct chain *c, uint32_t type, uint64_t sector,
			 int readable, int writable)
{
	struct framing f = { "simple", { 16, readable }, { writable, 1 } };

	if (!writable) {
		f.writable[0] = 1;
		f.writable[1] = 0;
	}
	rig_frame(r, c, &f, type, sector);
}

uint8_t rig_do(struct rig *r, uint32_t type, uint64_t sector, int readable, int writable)
{
	struct chain c;

	frame_simple(r, &c, type, sector, readable, writable);
	for (int i = 0; i < readable; i++)
		*rig_byte(r, &c, false, 16 + (size_t)i) = (uint8_t)(i * 3);
	return send_simple(r, &c, writable);
}

uint8_t rig_send(struct rig *r, uint32_t type, uint64_t sector, const void *data, size_t len)
{
	struct chain c;

	frame_simple(r, &c, type, sector, (int)len, 0);
	rig_put(r, &c, 16, data, len);
	return send_simple(r, &c, 0);
}

/* ---- The disk ------------------------------------------------------------------ */

struct virtq_features rig_features(struct rig *r, unsigned int without, unsigned int and_without)
{
	return virtq_features_without(virtq_features_without(r->model->features, without),
				      and_without);
}

void rig_accept(struct rig *r, struct virtq_features features)
{
	assert_int_equal(r->model->ops->features_ok(r->model, features), 0);
}

struct virtq_blk_config rig_config(struct rig *r)
{
	struct virtq_blk_config config;
	uint8_t raw[sizeof(struct virtq_blk_config_le)];

	r->model->ops->config_read(r->model, 0, raw, sizeof(raw));
	assert_int_equal(virtq_blk_config_decode(&config, raw, sizeof(raw), r->model->features), 0);
	return config;
}

void rig_assert_unchanged(struct rig *r)
{
	for (size_t i = 0; i < DISK_BYTES; i++)
		assert_int_equal(r->shelf->memory[i], file_pattern(i));
}
