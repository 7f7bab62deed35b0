/* SPDX-License-Identifier: MIT */
/* The states of rings: stopped or started, disabled or enabled, and what changes them. */
#include "rig.h"

#include <string.h>
#include <unistd.h>

/*
 * VU-BE-011, VU-BE-013, VU-BE-014, VU-BE-015, VU-BE-017: a ring is stopped and
 * disabled at first; SET_VRING_KICK starts it, without a kick; enable lets it work.
 */
static void test_starts_at_set_vring_kick(void **state)
{
	for (unsigned int l = 0; l < 2; l++) {
		struct rig *r = *state;
		struct queue q;

		queue_join(r, &q, 0, layouts[l] | BIT_30, 64);
		queue_request(&q, 'e');
		queue_unanswered(&q, 30);		/* stopped, disabled */
		virtq_notify_clear(q.kick_fd);		/* nothing kicks from here on */
		queue_kick(&q);
		queue_unanswered(&q, 30);		/* started, disabled */
		queue_enable(&q, 1);
		queue_answered(&q);
		queue_enable(&q, 0);
		queue_request(&q, 'e');
		queue_unanswered(&q, 30);
		queue_enable(&q, 1);
		queue_answered(&q);
		queue_leave(r, &q);
	}
}

/* VU-BE-015: enabled while stopped is remembered. */
static void test_enable_is_remembered_while_stopped(void **state)
{
	struct rig *r = *state;
	struct queue q;

	queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	queue_enable(&q, 1);
	queue_request(&q, 'e');
	queue_unanswered(&q, 30);
	queue_kick(&q);
	queue_answered(&q);
	queue_leave(r, &q);
}

/* VU-BE-012, trap 24: not acknowledging bit 30 enables all rings. */
static void test_without_bit_30_rings_are_enabled(void **state)
{
	struct rig *r = *state;
	struct queue q;

	queue_join(r, &q, 0, layouts[0], 64);
	queue_kick(&q);
	queue_echo(&q);
	queue_leave(r, &q);
}

/* Trap 24: acknowledging bit 30 later disables nothing. */
static void test_acknowledging_bit_30_again_disables_nothing(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	queue_enable(&q, 1);
	queue_kick(&q);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[0] | BIT_30), 0);
	queue_echo(&q);
	queue_leave(r, &q);
}

/*
 * VU-BE-020, VU-BE-021: GET_VRING_BASE waits for what is in flight, and says
 * where to go on. VU-BE-019: stopped, the ring is left alone.
 */
static void test_get_vring_base_drains(void **state)
{
	struct rig *r = *state;
	struct VhostUserVringState state0 = { 0, 0 };
	struct queue q;
	int fd;

	skip_unless_requests_overlap(r);
	fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	queue_run(&q);
	queue_request(&q, 's');
	queue_unanswered(&q, 50);
	client_send(fd, VHOST_USER_GET_VRING_BASE, &state0, sizeof(state0));
	client_silent(fd, 100);
	assert_int_equal(write(r->toy.slow_fd[1], "!", 1), 1);
	client_reply(fd, VHOST_USER_GET_VRING_BASE, &state0, sizeof(state0));
	assert_int_equal(state0.num, 2);
	queue_answered(&q);		/* it was given back before the answer */
	queue_request(&q, 'e');
	queue_unanswered(&q, 50);
	queue_leave(r, &q);
}

/* A ring on an engine of io_uring, and a request in flight that nothing ends. */
static int open_stuck(struct rig *r, struct queue *q)
{
	int fd;

	skip_unless_requests_overlap(r);
	fd = queue_join(r, q, 0, layouts[1] | BIT_30, 64);
	queue_run(q);
	queue_request(q, 's');
	queue_unanswered(q, 50);
	return fd;
}

/* The request comes back, with nothing in it. */
static void failed_back(struct queue *q)
{
	struct virtq_completion done;
	int n;

	for (int ms = 0; !(n = virtq_driver_get(q->driver, &done, 1)) && ms < 2000; ms++)
		usleep(1000);
	assert_int_equal(n, 1);
	assert_int_equal(done.written, 0);
}

/* VU-BE-020: what never ends is ended, so that the front end gets its answer. */
static void test_get_vring_base_does_not_wait_for_ever(void **state)
{
	struct rig *r = *state;
	char text[256];
	struct queue q;
	int fd = open_stuck(r, &q);

	assert_int_equal(client_get_base(fd, 0), 0x80048004);
	failed_back(&q);
	rig_await(r, VIRTQ_VU_QUEUE_STOPPED, 1, text);
	assert_non_null(strstr(text, "1 requests did not end in time"));
	/* And the ring can go on from there. */
	queue_set_up(&q);
	queue_kick(&q);
	queue_echo(&q);
	queue_leave(r, &q);
}

/* A reset waits for nothing that is in flight, and gives nothing back. */
static void test_reset_device_forgets_what_is_in_flight(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = open_stuck(r, &q);
	uint64_t before = now_ms();

	assert_int_equal(client_ask(fd, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_true(now_ms() - before < RIG_DRAIN_MS * 3 / 4);
	queue_unanswered(&q, 100);
	queue_leave(r, &q);
}

/* A client that dies leaves nothing in the next one's way. */
static void test_client_dies_with_io_in_flight(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = open_stuck(r, &q);

	close(fd);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 1, NULL);
	failed_back(&q);	/* its guest may still be there */
	queue_close(&q);
	queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	queue_run(&q);
	queue_leave(r, &q);
}

/* VU-BE-021, VU-BE-022, VU-BE-023, VU-FE-019: positions, as numbers, of both layouts. */
static void test_positions(void **state)
{
	static const uint32_t after_three[2] = { 3, 0x80068006 };
	static const uint32_t start[2] = { 0, 0x80008000 };

	for (unsigned int l = 0; l < 2; l++) {
		struct rig *r = *state;
		struct queue q;
		int fd = queue_join(r, &q, 0, layouts[l] | BIT_30, 64);

		queue_enable(&q, 1);
		assert_int_equal(client_get_base(fd, 1), start[l]);	/* never touched */
		queue_kick(&q);
		for (unsigned int i = 0; i < 3; i++)
			queue_echo(&q);
		assert_int_equal(client_get_base(fd, 0), after_three[l]);
		/* Asked again, a stopped ring says the same. */
		assert_int_equal(client_get_base(fd, 0), after_three[l]);
		/* And goes on from there, many times around the ring. */
		for (unsigned int i = 0; i < 50; i++) {
			uint32_t base;

			queue_kick(&q);
			for (unsigned int k = 0; k < 7; k++)
				queue_echo(&q);
			base = client_get_base(fd, 0);
			assert_int_equal(base, virtq_driver_position(q.driver));
			assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, base),
					 0);
		}
		queue_leave(r, &q);
	}
}

/* VU-BE-023: the lower half alone, as some front ends send a packed ring's first position. */
static void test_half_a_packed_start_position(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[1] | BIT_30, 64);

	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0x8000), 0);
	queue_run(&q);
	queue_leave(r, &q);
}

/* VU-BE-024 */
static void test_impossible_positions_are_refused(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0x10000), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0xffff), 0);
	queue_leave(r, &q);
	fd = queue_join(r, &q, 0, layouts[1] | BIT_30, 64);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0x80008040), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0x80408000), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0x803f803f), 0);
	queue_leave(r, &q);
}

/* VU-BE-039: sizes by layout, by device, and not while the ring runs. */
static void test_ring_sizes(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	static const struct { uint32_t size; uint64_t split, packed; } cases[] = {
		{ 0, 1, 1 }, { 1, 0, 0 }, { 100, 1, 0 }, { 256, 0, 0 }, { 257, 1, 1 },
		{ 512, 1, 1 }, { 65536, 1, 1 }, { UINT32_MAX, 1, 1 },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 1,
						  cases[i].size), cases[i].split);
	queue_kick(&q);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 0, 64), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0), 1);
	queue_leave(r, &q);
	fd = queue_join(r, &q, 0, layouts[1] | BIT_30, 64);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 1,
						  cases[i].size), cases[i].packed);
	queue_leave(r, &q);
}

/* VU-BE-040: alignment, range and flags of ring addresses. VU-BE-033: user addresses. */
static void test_ring_addresses(void **state)
{
	struct rig *r = *state;
	struct VhostUserVringAddr good, bad;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	uint64_t *fields[3] = { &bad.descriptor, &bad.used, &bad.available };

	good = queue_addr(&q);
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t end_of_memory = (uintptr_t)q.memory + QUEUE_BYTES;
		uint64_t wrong[] = { 0, 0, UINT64_MAX - 15, end_of_memory, end_of_memory - 16,
				     q.gpa };

		bad = good;
		wrong[1] = *fields[i] + 1;
		for (unsigned int k = 0; k < 6; k++) {
			bad = good;
			*fields[i] = wrong[k];
			assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &bad,
						    sizeof(bad)), 1);
		}
	}
	for (unsigned int bit = 0; bit < 32; bit += 31) {
		bad = good;
		bad.flags = 1u << bit;
		assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &bad, sizeof(bad)),
				 1);
	}
	/* What was refused has changed nothing. */
	queue_run(&q);
	/* The same addresses again, while it runs, are fine (VU-BE-018). */
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &good, sizeof(good)), 0);
	queue_echo(&q);
	queue_leave(r, &q);
}

/* VU-BE-048 */
static void test_enable_is_0_or_1(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_ENABLE, 0, 2), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_ENABLE, 0, UINT32_MAX), 1);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	queue_leave(r, &q);
}

/* VU-BE-046: an index is below the number of queues, in each message. */
static void test_queue_index_out_of_range(void **state)
{
	static const uint32_t by_state[] = { VHOST_USER_SET_VRING_NUM, VHOST_USER_SET_VRING_BASE,
					     VHOST_USER_SET_VRING_ENABLE };
	static const uint32_t by_u64[] = { VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_CALL,
					   VHOST_USER_SET_VRING_ERR };
	static const uint32_t wrong[] = { TOY_QUEUES, 255, 256, 0x80000000, UINT32_MAX };
	struct rig *r = *state;
	struct VhostUserVringAddr addr;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);

	for (unsigned int w = 0; w < 5; w++) {
		for (unsigned int i = 0; i < 3; i++)
			assert_int_equal(client_ask_state(fd, by_state[i], wrong[w], 1), 1);
		addr = queue_addr(&q);
		addr.index = wrong[w];
		assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)),
				 1);
	}
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t index = TOY_QUEUES, high = BIT(32);

		assert_int_equal(client_ask_fds(fd, by_u64[i], &index, 8, &q.call_fd, 1), 1);
		assert_int_equal(client_ask_fds(fd, by_u64[i], &high, 8, &q.call_fd, 1), 1);
	}
	client_alive(fd);
	/* GET_VRING_BASE has an answer of its own, and none that says no. */
	client_send(fd, VHOST_USER_GET_VRING_BASE, &wrong, 8);
	client_closed(fd);
	rig_await(r, VIRTQ_VU_REFUSED, 1, NULL);
	close(fd);
	queue_close(&q);
}

/* VU-BE-050: RESET_DEVICE begins the device anew and keeps the session. */
static void test_reset_device(void **state)
{
	struct rig *r = *state;
	struct queue q, again;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	int resets;

	queue_run(&q);
	resets = __atomic_load_n(&r->toy.resets, __ATOMIC_SEQ_CST);
	assert_int_equal(client_ask(fd, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(__atomic_load_n(&r->toy.resets, __ATOMIC_SEQ_CST), resets + 1);
	queue_request(&q, 'e');
	queue_unanswered(&q, 50);
	/* Another layout, in the same session: protocol features and memory are as they were. */
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[1] | BIT_30), 0);
	queue_open(&again, fd, 0, layouts[1], 100);
	queue_share(&again);
	queue_set_up(&again);
	queue_kick(&again);
	queue_request(&again, 'e');
	queue_unanswered(&again, 50);		/* disabled, as at the start */
	queue_enable(&again, 1);
	queue_answered(&again);
	queue_close(&again);
	queue_leave(r, &q);
}

/* A kick fd that comes before the rest: the ring starts when it is complete. */
static void test_start_waits_for_what_is_missing(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, layouts[0] | BIT_30);
	queue_open(&q, fd, 0, layouts[0], 64);
	queue_kick(&q);
	queue_enable(&q, 1);
	queue_set_up(&q);
	queue_request(&q, 'e');
	queue_unanswered(&q, 30);
	queue_share(&q);
	queue_answered(&q);
	queue_leave(r, &q);
}

/* VU-BE-034, VU-BE-018: a new table under a running ring, and VU-BE-037: one without it. */
static void test_memory_changes_while_rings_run(void **state)
{
	struct rig *r = *state;
	struct queue q, other;
	struct VhostUserMemory none = { .nregions = 0 };
	int fd = queue_join(r, &q, 0, layouts[1] | BIT_30, 64);
	char text[256];

	queue_run(&q);
	queue_open(&other, fd, 1, layouts[1], 64);
	for (unsigned int i = 0; i < 20; i++) {
		queues_share((const struct queue *[]){ &other, &q }, 2);
		queue_echo(&q);
		queue_share(&q);
		queue_echo(&q);
	}
	assert_int_equal(rig_events(r, VIRTQ_VU_QUEUE_STOPPED), 0);
	/* The memory goes: the ring halts, wherever it was. */
	assert_int_equal(client_ask(fd, VHOST_USER_SET_MEM_TABLE, &none, 8), 0);
	rig_await(r, VIRTQ_VU_QUEUE_STOPPED, 1, text);
	assert_non_null(strstr(text, "not in shared memory"));
	queue_request(&q, 'e');
	queue_unanswered(&q, 50);
	/* It comes back: the ring goes on, having lost nothing. */
	queue_share(&q);
	queue_answered(&q);
	assert_int_equal(client_get_base(fd, 0), virtq_driver_position(q.driver));
	queue_close(&other);
	queue_leave(r, &q);
}

/* VU-BE-037, VU-BE-036: the same by REM_MEM_REG and ADD_MEM_REG. */
static void test_region_of_a_running_ring_is_removed(void **state)
{
	struct rig *r = *state;
	struct queue q;
	int fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64), memory;
	struct VhostUserMemRegMsg msg = { .region = queue_region(&q) };

	memory = virtq_mapping_fd(q.mapping);
	queue_run(&q);
	assert_int_equal(client_ask(fd, VHOST_USER_REM_MEM_REG, &msg, sizeof(msg)), 0);
	queue_request(&q, 'e');
	queue_unanswered(&q, 50);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_ADD_MEM_REG, &msg, sizeof(msg), &memory,
					1), 0);
	queue_answered(&q);
	queue_leave(r, &q);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_starts_at_set_vring_kick),
		CASE(test_enable_is_remembered_while_stopped),
		CASE(test_without_bit_30_rings_are_enabled),
		CASE(test_acknowledging_bit_30_again_disables_nothing),
		CASE(test_get_vring_base_drains),
		CASE(test_get_vring_base_does_not_wait_for_ever),
		CASE(test_reset_device_forgets_what_is_in_flight),
		CASE(test_client_dies_with_io_in_flight),
		CASE(test_positions),
		CASE(test_half_a_packed_start_position),
		CASE(test_impossible_positions_are_refused),
		CASE(test_ring_sizes),
		CASE(test_ring_addresses),
		CASE(test_enable_is_0_or_1),
		CASE(test_queue_index_out_of_range),
		CASE(test_reset_device),
		CASE(test_start_waits_for_what_is_missing),
		CASE(test_memory_changes_while_rings_run),
		CASE(test_region_of_a_running_ring_is_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
