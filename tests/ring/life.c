/* SPDX-License-Identifier: MIT */
/*
 * What happens to a queue besides traffic: requests handed back untouched, maps
 * exchanged under requests, ends taken down and put up again elsewhere.
 */
#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

#define W RIG_WRITABLE_GPA

/* ---- Unpop -------------------------------------------------------------- */

/* S-DEV-040: pop, unpop, pop gives the same request, and the ring has not changed. */
static void test_unpop(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size < 4 ? shape->size : 4;
	struct virtq_req *reqs[4], *again;
	struct snapshot s;
	uint32_t position;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, count);
	position = virtq_device_position(r.device);
	s = snapshot_take(&r);
	for (int round = 0; round < 3; round++) {
		uint8_t byte;

		assert_int_equal(virtq_device_pop(r.device, reqs, count), count);
		/* Not the last one: refused. */
		if (count > 1)
			assert_int_equal(virtq_device_unpop(r.device, reqs[0]), -EINVAL);
		/* What was consumed meanwhile is whole again at the next pop. */
		assert_int_equal(virtq_req_read(reqs[count - 1], &byte, 1), 0);
		virtq_req_wrote(reqs[count - 1], 1);
		for (uint32_t i = count; i-- > 0;) {
			assert_int_equal(virtq_device_in_flight(r.device), i + 1);
			assert_int_equal(virtq_device_unpop(r.device, reqs[i]), 0);
			/* Twice: refused. */
			assert_int_equal(virtq_device_unpop(r.device, reqs[i]), -EINVAL);
		}
		assert_int_equal(virtq_device_in_flight(r.device), 0);
		assert_int_equal(virtq_device_position(r.device), position);
	}
	snapshot_same(&r, &s);
	assert_int_equal(virtq_device_publish(r.device), 0);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(virtq_device_pop(r.device, &again, 1), 1);
		assert_int_equal(again->wr.bytes, 1);
		assert_int_equal(again->written, 0);
		virtq_device_push(r.device, &again, 1);
	}
	virtq_device_publish(r.device);
	rig_collect(&r, count);
	rig_close(&r);
}

/* The last one popped can go back while older ones are pushed or stay. */
static void test_unpop_among_others(void **state)
{
	const struct shape *shape = *state;
	struct virtq_req *reqs[3], *again;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 3);
	assert_int_equal(virtq_device_pop(r.device, reqs, 3), 3);
	virtq_device_push(r.device, &reqs[0], 1);
	assert_int_equal(virtq_device_unpop(r.device, reqs[2]), 0);
	virtq_device_publish(r.device);
	rig_collect(&r, 1);
	assert_int_equal(virtq_device_pop(r.device, &again, 1), 1);
	virtq_device_push(r.device, &again, 1);
	virtq_device_push(r.device, &reqs[1], 1);
	/* Pushed last: there is nothing in front of the cursor to hand back. */
	virtq_device_publish(r.device);
	rig_collect(&r, 2);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	rig_close(&r);
}

/* ---- Changing the map --------------------------------------------------- */

/* Memory that is gone once its last holder lets go. */
static struct virtq_map *mapped(struct virtq_mapping **mapping)
{
	struct virtq_region region = { .gpa = W, .size_bytes = 4096, .access = VIRTQ_ACCESS_RW };
	struct virtq_map *map;

	assert_int_equal(virtq_mapping_create(mapping, 4096, NULL), 0);
	region.host = virtq_mapping_host(*mapping);
	region.fd = virtq_mapping_fd(*mapping);
	region.mapping = *mapping;
	assert_int_equal(virtq_map_create(&map, &region, 1, NULL), 0);
	virtq_mapping_unref(*mapping);	/* the map alone holds it now */
	return map;
}

/* Is there memory at @at? */
static bool present(void *at)
{
	unsigned char in;

	return mincore(at, 4096, &in) == 0;
}

/*
 * Requests on loan keep the memory they came from; new ones come from the new
 * map; three older maps may be held, a fourth is refused.
 */
static void test_set_map_in_flight(void **state)
{
	const struct shape *shape = *state;
	struct virtq_mapping *mapping;
	struct virtq_req *reqs[5];
	struct virtq_map *maps[6];
	void *host[6];
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 5);
	for (int i = 0; i < 4; i++) {
		maps[i] = mapped(&mapping);
		host[i] = virtq_mapping_host(mapping);
		assert_int_equal(virtq_device_set_map(r.device, maps[i], &r.device_ring), 0);
		virtq_map_unref(maps[i]);	/* the queue has its own reference */
		assert_int_equal(virtq_device_pop(r.device, &reqs[i], 1), 1);
		assert_ptr_equal(reqs[i]->wr.spans[0].base, (uint8_t *)host[i] + i);
	}
	maps[4] = mapped(&mapping);
	host[4] = virtq_mapping_host(mapping);
	assert_int_equal(virtq_device_set_map(r.device, maps[4], &r.device_ring), -EBUSY);
	/* Nothing has changed: all four are still there and in use. */
	for (int i = 0; i < 4; i++) {
		assert_true(present(host[i]));
		assert_int_equal(virtq_req_write(reqs[i], "x", 1), 1);
		assert_int_equal(((char *)host[i])[i], 'x');
	}
	/* The second is given back: its memory goes, the others' stays. */
	virtq_device_push(r.device, &reqs[1], 1);
	assert_false(present(host[1]));
	assert_true(present(host[0]) && present(host[2]) && present(host[3]));
	assert_int_equal(virtq_device_set_map(r.device, maps[4], &r.device_ring), 0);
	virtq_map_unref(maps[4]);
	assert_int_equal(virtq_device_pop(r.device, &reqs[4], 1), 1);
	assert_ptr_equal(reqs[4]->wr.spans[0].base, (uint8_t *)host[4] + 4);
	/* Handing a request back is letting go as well. */
	virtq_device_push(r.device, &reqs[0], 1);
	virtq_device_push(r.device, &reqs[2], 1);
	virtq_device_push(r.device, &reqs[3], 1);
	assert_false(present(host[0]) || present(host[2]) || present(host[3]));
	assert_true(present(host[4]));
	assert_int_equal(virtq_device_unpop(r.device, reqs[4]), 0);
	assert_true(present(host[4]));
	virtq_device_publish(r.device);
	rig_collect(&r, 4);
	virtq_device_destroy(r.device);
	r.device = NULL;
	assert_false(present(host[4]));
	rig_close(&r);
}

/* The ring's own areas may move with the map; another shape is refused. */
static void test_set_map_moves_the_ring(void **state)
{
	const struct shape *shape = *state;
	struct virtq_ring moved, other;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 1);
	moved = r.driver_ring;		/* the driver's view of the same memory */
	piece_protect(&r.device_area, PROT_READ | PROT_WRITE, PROT_NONE);
	piece_protect(&r.desc, PROT_READ | PROT_WRITE, PROT_NONE);
	other = moved;
	other.size = shape->size == 1 ? 2 : 1;
	assert_int_equal(virtq_device_set_map(r.device, r.map, &other), -EINVAL);
	other = moved;
	other.features = virtq_features_with(other.features, VIRTIO_F_IN_ORDER);
	assert_int_equal(virtq_device_set_map(r.device, r.map, &other), -EINVAL);
	other = moved;
	other.desc = (uint8_t *)other.desc + 8;
	assert_int_equal(virtq_device_set_map(r.device, r.map, &other), -EINVAL);
	assert_int_equal(virtq_device_set_map(r.device, r.map, &moved), 0);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
	virtq_device_push(r.device, &req, 1);
	virtq_device_publish(r.device);
	rig_collect(&r, 1);
	rig_close(&r);
}

/* The queue may be the last that holds its map, and be given that map again. */
static void test_set_map_to_the_same(void **state)
{
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, *state, RIG_BOTH);
	virtq_map_unref(r.map);
	assert_int_equal(virtq_device_set_map(r.device, r.map, &r.device_ring), 0);
	rig_send(&r, 1);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
	assert_int_equal(virtq_device_set_map(r.device, r.map, &r.device_ring), 0);
	virtq_device_push(r.device, &req, 1);
	virtq_device_publish(r.device);
	rig_collect(&r, 1);
	virtq_map_ref(r.map);		/* for the rig */
	rig_close(&r);
}

/* A position is where the other side stands: what it was not shown does not count. */
static void test_position_of_the_published(void **state)
{
	uint32_t driver_at, device_at;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, *state, RIG_BOTH);
	driver_at = virtq_driver_position(r.driver);
	assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, NULL), 1);
	assert_int_equal(virtq_driver_position(r.driver), driver_at);
	virtq_driver_publish(r.driver);
	assert_int_not_equal(virtq_driver_position(r.driver), driver_at);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
	device_at = virtq_device_position(r.device);
	virtq_device_push(r.device, &req, 1);
	assert_int_equal(virtq_device_position(r.device), device_at);
	virtq_device_publish(r.device);
	if (r.shape.packed)
		assert_int_not_equal(virtq_device_position(r.device), device_at);
	rig_collect(&r, 1);
	rig_close(&r);
}

/* ---- Detach ------------------------------------------------------------- */

/* Each token comes back exactly once: from get, or from detach. */
static void test_detach(void **state)
{
	const struct shape *shape = *state;
	uint8_t *seen = calloc(shape->size, 1);
	struct virtq_completion done;
	uint32_t used = shape->size / 3;
	void *token;
	struct rig r;

	assert_non_null(seen);
	rig_open(&r, shape, RIG_BOTH);
	/* Some published and used, some published, the last only staged. */
	rig_send(&r, shape->size - 1);
	rig_serve(&r, used);
	assert_int_equal(rig_add(&r, W, 1, true, token_of(shape->size - 1)), 1);
	for (uint32_t i = 0; i < used; i++) {
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(seen[token_value(done.token)]++, 0);
	}
	/* L-028: not while the device may use it. */
	assert_int_equal(virtq_driver_detach(r.driver, &token), -EBUSY);
	virtq_driver_stop(r.driver);
	for (uint32_t i = used; i < shape->size; i++) {
		assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
		assert_true(token_value(token) < shape->size);
		assert_int_equal(seen[token_value(token)]++, 0);
	}
	assert_int_equal(virtq_driver_detach(r.driver, &token), 0);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 0);
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	for (uint32_t i = 0; i < shape->size; i++)
		assert_int_equal(seen[i], 1);
	/* Buffers were taken from under the ring: it takes no more. */
	assert_true(rig_add(&r, W, 1, true, NULL) < 0);
	assert_true(virtq_driver_get(r.driver, &done, 1) <= 0);
	assert_int_equal(virtq_driver_publish(r.driver), 0);
	rig_close(&r);
	free(seen);
}

/* ---- Position ----------------------------------------------------------- */

/*
 * Both ends are destroyed and made again from the position, at every place of
 * two laps or 20 of them; the ring memory stays as it is.
 */
static void test_go_on_from_position(void **state)
{
	const struct shape *shape = *state;
	uint32_t laps = shape->size > 8 ? 20 : 2 * shape->size + 1;
	struct virtq_driver_config drv;
	struct virtq_device_config dev;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	piece_protect(&r.device_area, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	for (uint32_t i = 0; i < laps; i++) {
		uint32_t driver_at, device_at;
		struct snapshot s;

		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
		driver_at = virtq_driver_position(r.driver);
		device_at = virtq_device_position(r.device);
		assert_int_equal(driver_at, device_at);
		s = snapshot_take(&r);
		virtq_driver_destroy(r.driver);
		virtq_device_destroy(r.device);
		drv = r.driver_config;
		drv.position = &driver_at;
		dev = r.device_config;
		dev.position = &device_at;
		assert_int_equal(virtq_driver_create(&r.driver, &drv, NULL), 0);
		assert_int_equal(virtq_device_create(&r.device, &dev, NULL), 0);
		snapshot_same(&r, &s);
		assert_int_equal(virtq_driver_position(r.driver), driver_at);
		assert_int_equal(virtq_device_position(r.device), device_at);
		/* N-DEV-012: what the other armed before is unknown, so the first one signals. */
		if (shape->event_idx) {
			assert_int_equal(rig_send(&r, 1), 1);
			assert_int_equal(rig_serve(&r, 1), 1);
			rig_collect(&r, 1);
		}
	}
	rig_close(&r);
}

/* A device that stops with requests published but not popped, and one pushed. */
static void test_device_goes_on_behind_the_driver(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[5];
	uint32_t at;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	rig_send(&r, 5);
	rig_serve(&r, 2);
	at = virtq_device_position(r.device);
	virtq_device_destroy(r.device);
	r.device_config.position = &at;
	assert_int_equal(virtq_device_create(&r.device, &r.device_config, NULL), 0);
	rig_serve(&r, 3);
	assert_int_equal(virtq_driver_get(r.driver, done, 5), 5);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(token_value(done[i].token), i);
	rig_close(&r);
}

/* P-DEV-033: after a reset in mid-lap, a new ring starts at slot 0 of lap 1. */
static void test_reset(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t i = 0; i < shape->size / 2 + 1; i++) {
		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
	}
	virtq_driver_destroy(r.driver);
	virtq_device_destroy(r.device);
	piece_protect(&r.device_area, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	assert_int_equal(virtq_driver_create(&r.driver, &r.driver_config, NULL), 0);
	assert_int_equal(virtq_device_create(&r.device, &r.device_config, NULL), 0);
	assert_int_equal(virtq_driver_position(r.driver), shape->packed ? 0x80008000u : 0);
	assert_int_equal(virtq_device_position(r.device), shape->packed ? 0x80008000u : 0);
	for (uint32_t i = 0; i < 2 * (shape->size > 256 ? 4 : shape->size); i++) {
		rig_send(&r, 1);
		rig_serve(&r, 1);
		rig_collect(&r, 1);
	}
	rig_close(&r);
}

/* ---- In the caller's memory --------------------------------------------- */

/* Both ends need no more memory than they say, and no heap. */
static void test_in_own_memory(void **state)
{
	const struct shape *shape = *state;
	struct piece drv, dev;
	struct rig r;

	rig_open(&r, shape, 0);
	piece_protect(&r.device_area, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	r.driver_config.ring = r.driver_ring;
	r.device_config.ring = r.device_ring;
	r.device_config.map = r.map;
	r.device_config.max_segs = 16;
	r.device_config.long_chains = 3;
	r.device_config.req_bytes = sizeof(struct virtq_req) + 100;
	piece_map(&drv, virtq_driver_bytes(&r.driver_config), 64);
	piece_map(&dev, virtq_device_bytes(&r.device_config), 64);
	memset(drv.driver, 0xff, drv.bytes);
	memset(dev.driver, 0xff, dev.bytes);
	assert_int_equal(virtq_driver_init(drv.driver, &r.driver, &r.driver_config, NULL), 0);
	assert_int_equal(virtq_device_init(dev.driver, &r.device, &r.device_config, NULL), 0);
	for (uint32_t i = 0; i < 3 * (shape->size > 256 ? 4 : shape->size); i++) {
		struct virtq_req *req;

		rig_send(&r, 1);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		assert_true(req->slot < shape->size);
		assert_ptr_equal(req->queue, r.device);
		/* The caller's part of the struct is the caller's. */
		memset(req + 1, 0xff, 100);
		assert_int_equal(virtq_req_write(req, "y", 1), 1);
		virtq_device_push(r.device, &req, 1);
		virtq_device_publish(r.device);
		rig_collect(&r, 1);
	}
	virtq_device_fini(r.device);
	r.device = NULL;
	r.driver = NULL;
	piece_unmap(&drv);
	piece_unmap(&dev);
	rig_close(&r);
}

/* Long chains beyond the agreed number wait in the ring; short ones behind them wait too. */
static void test_long_chains_wait(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[9];
	struct virtq_buffer buf = { segs, 0, 9, NULL };
	struct virtq_req *reqs[4];
	struct rig r;

	for (uint32_t i = 0; i < 9; i++)
		segs[i] = (struct virtq_seg){ W + i, 1 };
	rig_open(&r, shape, RIG_DRIVER);
	r.device_config.long_chains = 2;
	rig_make_device(&r);
	for (int i = 0; i < 3; i++)
		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	rig_send(&r, 1);
	assert_int_equal(virtq_device_pop(r.device, reqs, 4), 2);
	assert_int_equal(virtq_device_pop(r.device, reqs + 2, 2), -ENOSPC);
	assert_int_equal(virtq_device_pop(r.device, reqs + 2, 2), -ENOSPC);
	assert_int_equal(virtq_device_in_flight(r.device), 2);
	assert_int_equal(virtq_device_fault(r.device).code, VIRTQ_FAULT_NONE);
	virtq_device_push(r.device, reqs, 1);
	assert_int_equal(virtq_device_pop(r.device, reqs + 2, 2), 2);
	assert_int_equal(reqs[2]->wr.bytes, 9);
	assert_int_equal(reqs[3]->wr.bytes, 1);
	virtq_device_push(r.device, reqs + 1, 3);
	virtq_device_publish(r.device);
	rig_collect(&r, 4);
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add(&m, "S-DEV-040 unpop", test_unpop, ALSO_IN_ORDER);
	matrix_add(&m, "S-DEV-040 unpop among others", test_unpop_among_others, AT_LEAST_5);
	matrix_add(&m, "a map in use stays", test_set_map_in_flight,
		   AT_LEAST_5 | ONLY_DIRECT | NOT_HUGE);
	matrix_add(&m, "the same map again", test_set_map_to_the_same, NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "positions of what was published", test_position_of_the_published,
		   ALSO_IN_ORDER);
	matrix_add(&m, "the ring moves with the map", test_set_map_moves_the_ring, NOT_HUGE);
	matrix_add(&m, "detach gives each token once", test_detach, AT_LEAST_2 | ALSO_IN_ORDER);
	matrix_add(&m, "N-DEV-012 go on from a position", test_go_on_from_position,
		   NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "a device goes on behind the driver",
		   test_device_goes_on_behind_the_driver, AT_LEAST_5);
	matrix_add(&m, "P-DEV-033 reset in mid-lap", test_reset, ONLY_NEW | ALSO_IN_ORDER);
	matrix_add(&m, "in the caller's memory", test_in_own_memory, ONLY_NEW | ALSO_IN_ORDER);
	matrix_add(&m, "long chains wait", test_long_chains_wait, AT_LEAST_256);
	return matrix_run(&m, "a queue's life");
}
