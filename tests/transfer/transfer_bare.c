/* SPDX-License-Identifier: MIT */
/* Transfers without a port: a driver end and memory given, kicks by a function. */
#include "transfer_rig.h"

#include <virtq/ring.h>

#define ENTRIES 8u

struct bare {
	_Alignas(64) uint8_t ring[4096];
	_Alignas(64) uint8_t driver_memory[2][4096];
	_Alignas(64) uint8_t set_memory[8192];
	uint8_t data[256];
	struct virtq_driver_config config;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_map *map;
	struct virtq_transfers *set;
	unsigned int kicks;
};

static void count_kick(void *arg)
{
	struct bare *b = arg;

	b->kicks++;
}

static void bare_open(struct bare *b, const struct setting *on)
{
	struct virtq_region region = { .gpa = (uintptr_t)b, .size_bytes = sizeof(*b), .host = b,
				       .fd = -1, .access = VIRTQ_ACCESS_RW };
	struct virtq_device_config device = { .long_chains = 1 };
	struct virtq_transfers_config config = { .transfers_max = 6, .pieces_max = 2,
						 .kick = count_kick, .arg = b };
	struct virtq_ring_shape shape;

	memset(b, 0, sizeof(*b));
	assert_int_equal(virtq_ring_shape(layout_features(on->layout), ENTRIES, &shape), 0);
	b->config.ring = (struct virtq_ring){ layout_features(on->layout), ENTRIES, b->ring,
		b->ring + shape.driver_offset, b->ring + shape.device_offset };
	b->config.keep = on->keep;
	assert_true(virtq_driver_bytes(&b->config) <= sizeof(b->driver_memory[0]));
	assert_int_equal(virtq_driver_init(b->driver_memory[0], &b->driver, &b->config, NULL), 0);
	assert_int_equal(virtq_map_create(&b->map, &region, 1, NULL), 0);
	device.ring = b->config.ring;
	device.map = b->map;
	assert_int_equal(virtq_device_create(&b->device, &device, NULL), 0);
	config.driver = b->driver;
	assert_in_range(virtq_transfers_bytes(&config), 1, sizeof(b->set_memory));
	assert_int_equal(virtq_transfers_init(b->set_memory, &b->set, &config, NULL), 0);
}

static void bare_close(struct bare *b)
{
	virtq_transfers_fini(b->set);
	virtq_device_destroy(b->device);
	virtq_map_unref(b->map);
}

static void bare_serve(struct bare *b)
{
	struct virtq_req *req;

	while (virtq_device_pop(b->device, &req, 1) == 1) {
		virtq_req_write(req, "back", 4);
		virtq_device_push(b->device, &req, 1);
	}
	virtq_device_publish(b->device);
}

static struct virtq_transfer *bare_prepare(struct bare *b, struct told *told)
{
	struct virtq_piece pieces[2] = { { b->data, 16, 0 }, { b->data + 16, 16, 0 } };
	struct virtq_transfer *t;

	assert_int_equal(virtq_transfer_prepare(b->set, &t, pieces, 1, 1,
						told ? tell_release : NULL, told), 0);
	return t;
}

static void without_a_port(void **state)
{
	struct virtq_wait wait = { .timeout_ms = 10 };
	static struct bare b;
	struct virtq_transfer *t[2], *done[2];
	struct virtq_piece pieces[2];

	bare_open(&b, *state);
	t[0] = bare_prepare(&b, NULL);
	t[1] = bare_prepare(&b, NULL);
	for (unsigned int round = 0; round < 20; round++) {
		assert_int_equal(virtq_device_arm(b.device), 0);
		assert_int_equal(virtq_transfer_send(b.set, t, 2), 2);
		assert_int_equal(b.kicks, round + 1);
		assert_int_equal(virtq_transfers_kick_error(b.set), 0);
		assert_int_equal(virtq_transfer_wait(t[0], &wait), -ENOTSUP);
		assert_int_equal(virtq_transfers_poll(b.set, done, 2, &wait), -ENOTSUP);
		assert_int_equal(virtq_transfers_arm(b.set), 0);
		bare_serve(&b);
		assert_int_equal(virtq_transfers_arm(b.set), 1);
		assert_int_equal(virtq_transfers_poll(b.set, done, 2, NULL), 2);
		assert_int_equal(virtq_transfer_written(done[1]), 4);
		assert_memory_equal(b.data + 16, "back", 4);
	}
	assert_int_equal(virtq_transfer_finish(t[0], pieces, 2), 2);
	bare_close(&b);
	/* Nothing was in flight, so the driver end is as good as before, and empty. */
	assert_int_equal(virtq_driver_room(b.driver), ENTRIES);
}

struct pages {
	unsigned int closed, opened;
};

static void count_pages(void *arg, void *page, size_t bytes, bool closed)
{
	struct pages *pages = arg;

	assert_int_equal((uintptr_t)page % 4096, 0);
	assert_int_equal(bytes, 4096);
	pages->closed += closed;
	pages->opened += !closed;
}

/* Staged: no kick, no call of the device's; and the pages are closed. */
static void staged_without_a_port(void **state)
{
	/* A page, and the beginning of another. */
	_Alignas(4096) static uint8_t data[4096 + 100];
	struct virtq_transfers_config config = { .transfers_max = 2, .pieces_max = 1,
						 .guard = count_pages };
	struct virtq_piece piece = { data, sizeof(data), 0 };
	struct pages pages = { 0 };
	struct virtq_transfers *set;
	struct virtq_transfer *t;
	static struct bare b;

	bare_open(&b, *state);
	t = bare_prepare(&b, NULL);
	for (unsigned int round = 0; round < 6; round++) {
		assert_int_equal(virtq_device_arm(b.device), 0);
		assert_int_equal(virtq_transfer_stage(b.set, &t, 1), 1);
		assert_int_equal(b.kicks, round);
		bare_serve(&b);
		assert_int_equal(virtq_transfer_check(t), 0);
		/* Whoever arms is about to sleep: it shows what was staged. */
		if (round % 2)
			assert_int_equal(virtq_transfers_arm(b.set), 0);
		else
			assert_int_equal(virtq_transfers_publish(b.set), 0);
		assert_int_equal(b.kicks, round + 1);
		bare_serve(&b);
		assert_int_equal(virtq_transfer_check(t), 1);
	}
	bare_close(&b);

	bare_open(&b, *state);
	virtq_transfers_fini(b.set);
	config.driver = b.driver;
	config.arg = &pages;
	assert_in_range(virtq_transfers_bytes(&config), 1, sizeof(b.set_memory));
	assert_int_equal(virtq_transfers_init(b.set_memory, &b.set, &config, NULL), 0);
	set = b.set;
	assert_int_equal(virtq_transfer_prepare(set, &t, &piece, 1, 0, NULL, NULL), 0);
	assert_int_equal(virtq_transfer_stage(set, &t, 1), 1);
	assert_int_equal(pages.closed, 1);
	assert_int_equal(pages.opened, 0);
	bare_close(&b);
	assert_int_equal(pages.opened, 1);
}

/* The ring is not looked at in a reset: what was used and not polled is cancelled, too. */
static void reset_looks_at_no_ring(void **state)
{
	static struct bare b;
	struct virtq_transfer *t[2], *done[2];
	struct virtq_driver *next;

	bare_open(&b, *state);
	t[0] = bare_prepare(&b, NULL);
	t[1] = bare_prepare(&b, NULL);
	assert_int_equal(virtq_transfer_send(b.set, t, 2), 2);
	bare_serve(&b);
	virtq_driver_stop(b.driver);
	assert_int_equal(virtq_driver_init(b.driver_memory[1], &next, &b.config, NULL), 0);
	assert_int_equal(virtq_transfers_reset(b.set, next), 2);
	assert_int_equal(virtq_transfers_poll(b.set, done, 2, NULL), 2);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(virtq_transfer_status(t[i]), -ECANCELED);
		assert_int_equal(virtq_transfer_written(t[i]), 0);
	}
	bare_close(&b);
}

/* The new end in other memory, or in that of the old one; the ring is the same. */
static void reset_with_a_new_driver_end(void **state)
{
	for (unsigned int other = 0; other < 2; other++) {
		struct told told = { 0 };
		static struct bare b;
		struct virtq_device_config device = { .long_chains = 1 };
		struct virtq_transfer *t[3], *done[3];
		struct virtq_driver *next;

		bare_open(&b, *state);
		for (unsigned int i = 0; i < 3; i++)
			t[i] = bare_prepare(&b, &told);
		assert_int_equal(virtq_transfer_send(b.set, t, 1), 1);
		bare_serve(&b);
		assert_int_equal(virtq_transfers_poll(b.set, done, 3, NULL), 1);
		assert_int_equal(virtq_transfer_send(b.set, t + 1, 2), 2);
		virtq_transfer_abandon(t[2]);
		assert_int_equal(virtq_transfers_reset(b.set, NULL), -EINVAL);
		assert_int_equal(virtq_transfers_reset(b.set, b.driver), -EBUSY);
		virtq_driver_stop(b.driver);
		/* That is the old one still. */
		assert_int_equal(virtq_transfers_reset(b.set, b.driver), -EINVAL);
		assert_int_equal(told.calls, 0);
		assert_int_equal(virtq_driver_init(b.driver_memory[other], &next, &b.config, NULL),
				 0);
		assert_int_equal(virtq_transfers_reset(b.set, next), 2);
		assert_int_equal(told.calls, 1);
		assert_int_equal(told.status, -ECANCELED);
		assert_int_equal(virtq_transfer_status(t[1]), -ECANCELED);
		assert_int_equal(virtq_transfers_poll(b.set, done, 3, NULL), 1);
		assert_ptr_equal(done[0], t[1]);
		virtq_device_destroy(b.device);
		device.ring = b.config.ring;
		device.map = b.map;
		assert_int_equal(virtq_device_create(&b.device, &device, NULL), 0);
		assert_int_equal(virtq_transfer_send(b.set, t, 2), 2);
		bare_serve(&b);
		assert_int_equal(virtq_transfers_poll(b.set, done, 3, NULL), 2);
		assert_int_equal(virtq_transfer_status(t[1]), 0);
		bare_close(&b);
		assert_int_equal(told.calls, 3);
	}
}

/* The end that knew of it is gone, its memory the new one's: the set remembers. */
static void reset_after_a_broken_ring(void **state)
{
	static struct bare b;
	struct virtq_transfer *t, *done[1];
	struct far_end far = { 0 };

	bare_open(&b, *state);
	t = bare_prepare(&b, NULL);
	assert_int_equal(virtq_transfer_send(b.set, &t, 1), 1);
	far.ring = b.config.ring;
	far.device = b.device;
	far_break(&far);
	assert_int_equal(virtq_transfers_poll(b.set, done, 1, NULL), -EBADMSG);
	virtq_driver_stop(b.driver);
	assert_int_equal(virtq_driver_init(b.driver_memory[0], &b.driver, &b.config, NULL), 0);
	assert_int_equal(virtq_transfers_reset(b.set, b.driver), 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	assert_int_equal(virtq_transfer_status(t), -EBADMSG);
	/* The next time it is as with any other. */
	assert_int_equal(virtq_transfer_send(b.set, &t, 1), 1);
	virtq_driver_stop(b.driver);
	assert_int_equal(virtq_driver_init(b.driver_memory[0], &b.driver, &b.config, NULL), 0);
	assert_int_equal(virtq_transfers_reset(b.set, b.driver), 1);
	assert_int_equal(virtq_transfer_status(t), -ECANCELED);
	bare_close(&b);
}

/* Nobody else can wake the sleeper: what was armed stays so when a sending looks for room. */
static void sending_leaves_calls_on(void **state)
{
	const struct setting *on = *state;
	static struct bare b;
	struct virtq_transfer *t[6], *done[6];
	struct virtq_req *reqs[2];
	int n;

	bare_open(&b, on);
	for (unsigned int i = 0; i < 6; i++)
		t[i] = bare_prepare(&b, NULL);
	n = virtq_transfer_send(b.set, t, 6);
	assert_int_equal(n, ENTRIES / 2);
	assert_int_equal(virtq_transfers_arm(b.set), 0);
	assert_int_equal(virtq_device_pop(b.device, reqs, 2), 2);
	virtq_device_push(b.device, reqs, 1);
	assert_int_equal(virtq_device_publish(b.device), 1);
	assert_int_equal(virtq_transfer_send(b.set, t + n, 1), 1);
	virtq_device_push(b.device, reqs + 1, 1);
	/* With EVENT_IDX it was one call that was wanted. */
	assert_int_equal(virtq_device_publish(b.device), !on->layout.event_idx);
	assert_int_equal(virtq_transfers_poll(b.set, done, 6, NULL), 2);
	bare_close(&b);
}

static void memory_that_is_refused(void **state)
{
	struct virtq_transfers_config config = { .transfers_max = 1, .pieces_max = 1 };
	struct virtq_transfers *set = NULL;
	static struct bare b;
	struct virtq_error err;
	struct rig r;

	bare_open(&b, *state);
	config.driver = b.driver;
	assert_int_equal(virtq_transfers_init(b.ring + 8, &set, &config, &err), -EINVAL);
	bare_close(&b);
	/* With a port there is a heap. */
	rig_open(&r, *state, &(struct rig_shape){ 0 });
	config.driver = NULL;
	config.port = r.port;
	assert_int_equal(virtq_transfers_bytes(&config), 0);
	assert_int_equal(virtq_transfers_init(b.set_memory, &set, &config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "virtq_transfers_create"));
	assert_null(set);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(without_a_port), EACH(staged_without_a_port),
		EACH(reset_with_a_new_driver_end), EACH(reset_looks_at_no_ring),
		EACH(reset_after_a_broken_ring), EACH(sending_leaves_calls_on),
		EACH(memory_that_is_refused),
	};

	return rig_run("transfers without a port", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
