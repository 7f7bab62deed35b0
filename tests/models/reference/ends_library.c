/* SPDX-License-Identifier: MIT */
/* The library's ends, through its public headers only. */
#include "world.h"

#include <virtq/spec/virtio.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Not more than this many buffers in one call. */
#define CALL_MAX 16u

static struct virtq_ring ring_of(struct world *w)
{
	struct virtq_ring ring = { .size = w->q.size };

	ring.features = virtq_features_with(ring.features, VIRTIO_F_VERSION_1);
	if (w->q.packed)
		ring.features = virtq_features_with(ring.features, VIRTIO_F_RING_PACKED);
	if (w->q.event_idx)
		ring.features = virtq_features_with(ring.features, VIRTIO_F_EVENT_IDX);
	if (w->q.indirect)
		ring.features = virtq_features_with(ring.features, VIRTIO_F_INDIRECT_DESC);
	if (w->q.in_order)
		ring.features = virtq_features_with(ring.features, VIRTIO_F_IN_ORDER);
	ring.desc = w->mem.area[0].host;
	ring.driver = w->mem.area[1].host;
	ring.device = w->mem.area[2].host;
	return ring;
}

static int library_driver_start(struct world *w, const uint32_t *position)
{
	struct virtq_driver_config config = { .ring = ring_of(w), .position = position };
	struct virtq_error err = { 0 };
	int rc;

	if (w->q.indirect) {
		config.indirect = ref_byte(&w->mem, w->table_gpa);
		config.indirect_addr = w->table_gpa;
		config.indirect_entries = w->indirect_entries;
		config.indirect_from = 2;
	}
	rc = virtq_driver_create(&w->lib_driver, &config, &err);
	if (rc)
		world_fail(w, "virtq_driver_create(): %s", err.text);
	return rc;
}

static void library_driver_stop(struct world *w)
{
	virtq_driver_destroy(w->lib_driver);
	w->lib_driver = NULL;
}

static int library_driver_add(struct world *w, struct flight **f, unsigned int count)
{
	static struct virtq_seg segs[CALL_MAX][REF_MAX + 2];
	struct virtq_buffer bufs[CALL_MAX];
	unsigned int i, k;

	for (i = 0; i < count; i++) {
		const struct ref_buffer *b = &f[i]->buffer;

		memset(&bufs[i], 0, sizeof(bufs[i]));
		bufs[i].segs = segs[i];
		bufs[i].token = f[i];
		for (k = 0; k < b->count; k++) {
			segs[i][k].addr = b->element[k].addr;
			segs[i][k].len = b->element[k].len;
			if (b->element[k].writable)
				bufs[i].writable++;
			else
				bufs[i].readable++;
		}
	}
	return virtq_driver_add(w->lib_driver, bufs, count);
}

static int library_driver_publish(struct world *w)
{
	return virtq_driver_publish(w->lib_driver);
}

static int library_driver_get(struct world *w, struct ref_used *used, unsigned int max)
{
	struct virtq_completion done[CALL_MAX];
	int i, n = virtq_driver_get(w->lib_driver, done, max);

	for (i = 0; i < n; i++) {
		const struct flight *f = done[i].token;

		if (f < w->flight || f >= w->flight + WORLD_FLIGHTS) {
			world_fail(w, "virtq_driver_get() gave a token that nobody handed in");
			return -EBADMSG;
		}
		used[i].cookie = f->index;
		used[i].written = done[i].written;
	}
	return n;
}

static int library_driver_arm(struct world *w, const struct ref_arm *arm)
{
	(void)arm;
	return virtq_driver_arm(w->lib_driver);
}

static void library_driver_disarm(struct world *w)
{
	virtq_driver_disarm(w->lib_driver);
}

static uint32_t library_driver_room(struct world *w)
{
	return virtq_driver_room(w->lib_driver);
}

static uint32_t library_driver_in_flight(struct world *w)
{
	return virtq_driver_in_flight(w->lib_driver);
}

static uint32_t library_driver_position(struct world *w)
{
	return virtq_driver_position(w->lib_driver);
}

const struct driver_end library_driver = {
	.name = "library", .library = true,
	.start = library_driver_start, .stop = library_driver_stop,
	.add = library_driver_add, .publish = library_driver_publish,
	.get = library_driver_get, .arm = library_driver_arm, .disarm = library_driver_disarm,
	.room = library_driver_room, .in_flight = library_driver_in_flight,
	.position = library_driver_position,
};

static int library_device_start(struct world *w, const uint32_t *position)
{
	struct virtq_device_config config = {
		.ring = ring_of(w), .position = position, .map = w->map,
		.long_chains = w->long_chains,
	};
	struct virtq_error err = { 0 };
	int rc = virtq_device_create(&w->lib_device, &config, &err);

	if (rc)
		world_fail(w, "virtq_device_create(): %s", err.text);
	return rc;
}

static void library_device_stop(struct world *w)
{
	virtq_device_destroy(w->lib_device);
	w->lib_device = NULL;
}

/* Does one direction of a request cover exactly these bytes, in this order? */
static bool cursor_matches(struct world *w, const struct virtq_cursor *c,
			   const struct ref_buffer *b, bool writable)
{
	uint32_t span = 0, i;
	size_t off = 0;
	unsigned int k;

	for (k = 0; k < b->count; k++) {
		const struct ref_element *e = &b->element[k];

		for (i = 0; e->writable == writable && i < e->len; i++, off++) {
			while (span < c->count && off == c->spans[span].len) {
				span++;
				off = 0;
			}
			if (span == c->count || (uint8_t *)c->spans[span].base + off !=
						ref_byte(&w->mem, e->addr + i))
				return false;
		}
	}
	while (span < c->count && off == c->spans[span].len) {
		span++;
		off = 0;
	}
	return span == c->count && c->bytes == ref_buffer_bytes(b, writable);
}

static void library_device_check(struct world *w, const struct flight *f)
{
	const struct virtq_req *req = f->handle;

	if (!cursor_matches(w, &req->rd, &f->buffer, false))
		world_fail(w, "buffer %u: the readable cursor is not what the driver offered "
			   "(2.7.5, 2.8.18)", f->serial);
	else if (!cursor_matches(w, &req->wr, &f->buffer, true))
		world_fail(w, "buffer %u: the writable cursor is not what the driver offered "
			   "(2.7.5, 2.8.18)", f->serial);
	else if (req->written)
		world_fail(w, "buffer %u: popped with written %u", f->serial, req->written);
}

static int library_device_pop(struct world *w, unsigned int max)
{
	struct virtq_req *reqs[CALL_MAX];
	int i, n = virtq_device_pop(w->lib_device, reqs, max);

	if (n > (int)w->published.count) {
		world_fail(w, "popped %d requests of %u available", n, w->published.count);
		return -EBADMSG;
	}
	for (i = 0; i < n; i++) {
		struct flight *f = w->published.at[i];

		f->handle = reqs[i];
		f->long_loan = reqs[i]->rd.count + reqs[i]->wr.count > VIRTQ_REQ_INLINE_SEGS;
	}
	return n;
}

static int library_device_unpop(struct world *w, struct flight *f)
{
	return virtq_device_unpop(w->lib_device, f->handle);
}

static void read_all(struct world *w, const struct flight *f, struct virtq_req *req)
{
	uint64_t at = 0, bytes = f->readable_bytes;
	uint8_t piece[700];

	while (!world_failed(w)) {
		size_t i, want = 1 + dice_roll(&w->dice, sizeof(piece));
		size_t got = virtq_req_read(req, piece, want);

		for (i = 0; i < got; i++)
			if (at + i >= bytes || piece[i] != flight_readable_byte(f, at + i)) {
				world_fail(w, "buffer %u: readable byte %llu was read wrong",
					   f->serial, (unsigned long long)(at + i));
				return;
			}
		at += got;
		if (got < want)
			break;
	}
	if (at != bytes)
		world_fail(w, "buffer %u: read %llu of %llu bytes", f->serial,
			   (unsigned long long)at, (unsigned long long)bytes);
}

/* Straight into the spans, as the kernel would. */
static void write_in_place(const struct flight *f, struct virtq_req *req, uint32_t at,
			   uint32_t len)
{
	uint32_t i, k, n = 0;

	for (i = 0; i < req->wr.count && n < len; i++)
		for (k = 0; k < req->wr.spans[i].len && n < len; k++, n++)
			((uint8_t *)req->wr.spans[i].base)[k] = flight_written_byte(f, at + n);
	virtq_req_wrote(req, len);
}

static void write_prefix(struct world *w, const struct flight *f, struct virtq_req *req)
{
	uint32_t i, at = 0;
	uint8_t piece[700];

	while (at < f->prefix) {
		uint32_t len = 1 + dice_roll(&w->dice, sizeof(piece));

		if (len > f->prefix - at)
			len = f->prefix - at;
		if (dice_one_in(&w->dice, 3)) {
			write_in_place(f, req, at, len);
		} else {
			for (i = 0; i < len; i++)
				piece[i] = flight_written_byte(f, at + i);
			if (virtq_req_write(req, piece, len) != len)
				world_fail(w, "buffer %u: no room for what was writable",
					   f->serial);
		}
		at += len;
	}
}

static void library_device_handle(struct world *w, struct flight *f)
{
	struct virtq_req *req = f->handle;
	uint64_t last = f->writable_bytes - 1;
	uint8_t *tail = NULL;

	read_all(w, f, req);
	if (world_failed(w))
		return;
	if (f->tail) {
		tail = virtq_req_claim_tail(req);
		if (!tail) {
			world_fail(w, "buffer %u: no tail to claim", f->serial);
			return;
		}
	}
	write_prefix(w, f, req);
	if (f->tail)
		virtq_req_set_tail(req, tail, flight_written_byte(f, last));
	if (req->written != f->len)
		world_fail(w, "buffer %u: written says %u, the prefix has %u bytes (2.7.8.2)",
			   f->serial, req->written, f->len);
}

static void library_device_push(struct world *w, struct flight **f, unsigned int count)
{
	struct virtq_req *reqs[CALL_MAX];
	unsigned int i;

	for (i = 0; i < count; i++)
		reqs[i] = f[i]->handle;
	virtq_device_push(w->lib_device, reqs, count);
}

static int library_device_publish(struct world *w)
{
	return virtq_device_publish(w->lib_device);
}

static int library_device_arm(struct world *w, const struct ref_arm *arm)
{
	(void)arm;
	return virtq_device_arm(w->lib_device);
}

static void library_device_disarm(struct world *w)
{
	virtq_device_disarm(w->lib_device);
}

static uint32_t library_device_in_flight(struct world *w)
{
	return virtq_device_in_flight(w->lib_device);
}

static uint32_t library_device_position(struct world *w)
{
	return virtq_device_position(w->lib_device);
}

const struct device_end library_device = {
	.name = "library", .library = true,
	.start = library_device_start, .stop = library_device_stop,
	.pop = library_device_pop, .check = library_device_check, .unpop = library_device_unpop,
	.handle = library_device_handle, .push = library_device_push,
	.publish = library_device_publish, .arm = library_device_arm,
	.disarm = library_device_disarm, .in_flight = library_device_in_flight,
	.position = library_device_position,
};
