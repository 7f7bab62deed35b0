/* SPDX-License-Identifier: MIT */
/*
 * A set of transfers over a port, with a device at the far end, and tables of
 * tests that run over every layout.
 */
#ifndef TESTS_TRANSFER_TRANSFER_RIG_H
#define TESTS_TRANSFER_TRANSFER_RIG_H

#include "far_end.h"

#include <virtq/transfer.h>

#define RIG_GPA ((uint64_t)0x40000000)	/* where the device sees the port's memory */
#define RIG_DATA_BYTES (64u * 1024u)

/* What a test runs on; the first part of its state. */
struct setting {
	struct layout layout;
	bool keep;
	char name[192];
};

struct rig {
	struct virtq_port *port;
	struct virtq_transfers *set;
	struct virtq_map *map;		/* of the driver's side */
	struct far_end far;
	uint8_t *data;
};

/* How the rig differs from the usual; zeros for none of it. */
struct rig_shape {
	uint32_t size, transfers_max, pieces_max, segs_max;
	uint32_t ring_segs_max;
	bool guard;
};

static inline void rig_open(struct rig *r, const struct setting *on, const struct rig_shape *shape)
{
	struct virtq_port_config port = {
		.features = layout_features(on->layout), .size = shape->size ? shape->size : 16,
		.indirect_entries = shape->size && shape->size < 8 ? shape->size : 8,
		.segs_max = shape->ring_segs_max, .gpa = RIG_GPA,
		.extra_bytes = RIG_DATA_BYTES, .keep = on->keep,
	};
	struct virtq_transfers_config config = {
		.transfers_max = shape->transfers_max ? shape->transfers_max : 16,
		.pieces_max = shape->pieces_max ? shape->pieces_max : 4,
		.segs_max = shape->segs_max,
		.guard = shape->guard ? virtq_transfers_guard : NULL,
	};
	struct virtq_error err;
	unsigned int count;

	memset(r, 0, sizeof(*r));
	if (virtq_port_create(&r->port, &port, &err))
		fail_msg("port: %s", err.text);
	assert_int_equal(virtq_map_create(&r->map, virtq_port_regions(r->port, &count), 1, NULL),
			 0);
	config.port = r->port;
	config.map = r->map;
	if (virtq_transfers_create(&r->set, &config, &err))
		fail_msg("set: %s", err.text);
	r->data = virtq_port_extra(r->port);
	memset(r->data, 0xee, RIG_DATA_BYTES);
	far_open(&r->far, r->port, NULL, 0, true);
}

static inline void rig_close(struct rig *r)
{
	virtq_transfers_destroy(r->set);
	far_close(&r->far);
	virtq_map_unref(r->map);
	virtq_port_destroy(r->port);
}

/*
 * The device uses up to @max buffers: what is readable goes to @got, if that is
 * not NULL, one behind the other, and @write bytes of @fill are written into each.
 * Returns how many.
 */
static inline unsigned int rig_serve(struct rig *r, unsigned int max, uint8_t *got, size_t write,
				     uint8_t fill)
{
	unsigned int n = 0;

	for (; n < max; n++) {
		struct virtq_req *req;
		uint8_t byte;

		if (virtq_device_pop(r->far.device, &req, 1) != 1)
			break;
		while (got && virtq_req_read(req, &byte, 1))
			*got++ = byte;
		for (size_t i = 0; i < write && virtq_req_write(req, &fill, 1); i++)
			;
		virtq_device_push(r->far.device, &req, 1);
	}
	if (virtq_device_publish(r->far.device))
		virtq_notify_send(virtq_port_call_fd(r->port));
	return n;
}

/* A piece at @offset of the rig's memory. */
static inline struct virtq_piece rig_piece(const struct rig *r, size_t offset, size_t len)
{
	return (struct virtq_piece){ r->data + offset, len, 77 };
}

/* What a release function was told. */
struct told {
	unsigned int calls;
	unsigned int readable, writable;
	struct virtq_piece pieces[8];
	int status;
};

static inline void tell_release(void *arg, const struct virtq_piece *pieces,
				unsigned int readable, unsigned int writable, int status)
{
	struct told *told = arg;

	told->calls++;
	told->readable = readable;
	told->writable = writable;
	assert_true(readable + writable <= 8);
	memcpy(told->pieces, pieces, (readable + writable) * sizeof(*pieces));
	told->status = status;
}

/* One readable and one writable piece, in the memory of number @i: 64 bytes each. */
static inline struct virtq_transfer *rig_prepare_with(struct rig *r, unsigned int i,
						      virtq_release_fn *release, void *arg)
{
	struct virtq_piece pieces[2] = {
		rig_piece(r, 128 * i, 64), rig_piece(r, 128 * i + 64, 64),
	};
	struct virtq_transfer *t = NULL;

	assert_int_equal(virtq_transfer_prepare(r->set, &t, pieces, 1, 1, release, arg), 0);
	assert_non_null(t);
	return t;
}

static inline struct virtq_transfer *rig_prepare(struct rig *r, unsigned int i, struct told *told)
{
	return rig_prepare_with(r, i, told ? tell_release : NULL, told);
}

/* What rig_prepare() with @i made was released, once, with @written bytes. */
static inline void assert_told(const struct told *told, const struct rig *r, unsigned int i,
			       int status, size_t written)
{
	assert_int_equal(told->calls, 1);
	assert_int_equal(told->readable, 1);
	assert_int_equal(told->writable, 1);
	assert_int_equal(told->status, status);
	assert_ptr_equal(told->pieces[0].base, r->data + 128 * i);
	assert_ptr_equal(told->pieces[1].base, r->data + 128 * i + 64);
	assert_int_equal(told->pieces[0].len, 64);
	assert_int_equal(told->pieces[0].written, 0);
	assert_int_equal(told->pieces[1].written, written);
}

static inline void rig_send(struct rig *r, struct virtq_transfer *t)
{
	assert_int_equal(virtq_transfer_send(r->set, &t, 1), 1);
}

/* The device is stopped, the queue reset, and started anew. */
static inline int rig_reset(struct rig *r)
{
	int rc;

	virtq_driver_stop(virtq_port_driver(r->port));
	rc = virtq_transfers_reset(r->set, NULL);
	far_start(&r->far);
	return rc;
}

/* ---- Tables of tests ------------------------------------------------------- */

#define SETTINGS (2 * LAYOUTS)
#define RIG_TESTS_MAX 64u

struct named_test {
	const char *name;
	CMUnitTestFunction fn;
};

#define EACH(fn) { #fn, fn }

/* Run each of @each over every layout, with and without kept entries, then @single alone. */
static inline int rig_run(const char *group, const struct named_test *each, unsigned int count,
			  const struct CMUnitTest *single, unsigned int single_count)
{
	static struct setting settings[RIG_TESTS_MAX][SETTINGS];
	static struct CMUnitTest tests[RIG_TESTS_MAX * SETTINGS + RIG_TESTS_MAX];
	size_t n = 0;

	for (unsigned int i = 0; i < count; i++) {
		for (unsigned int k = 0; k < SETTINGS; k++) {
			struct setting *on = &settings[i][k];

			on->layout = layout_at(k / 2);
			on->keep = k & 1;
			snprintf(on->name, sizeof(on->name), "%s [%s%s]", each[i].name,
				 layout_name(on->layout), on->keep ? " keep" : "");
			tests[n++] = (struct CMUnitTest){ .name = on->name,
				.test_func = each[i].fn, .initial_state = on };
		}
	}
	for (unsigned int i = 0; i < single_count; i++)
		tests[n++] = single[i];
	return _cmocka_run_group_tests(group, tests, n, NULL, NULL);
}

#endif
