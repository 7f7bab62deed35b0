/* SPDX-License-Identifier: MIT */
/*
 * The faults of interfaces like pool and transfers elsewhere, as read in their
 * code, and the test that each of them would fail here, in this file, in
 * faults_memory.c or in faults_transfers.c. Each runs over all layouts.
 *
 * Of a split queue that owns its buffers:
 *   the ring is taken, then the eventfd is cleared
 *						signal_between_clear_and_take_is_not_swallowed
 *   waits before it looks				elements_already_there_need_no_call
 *   a cancelled context does not wake			cancel_wakes_a_waiter
 *   close does not wait for the waiter			close_wakes_and_awaits_the_waiter
 *   spins for room					waiting_for_room_does_not_spin
 *   waits with what it built unpublished		waiting_for_room_publishes_what_was_offered
 *   waits for what cannot be, for ever			never_fits_says_so_at_once,
 *							full_queue_with_one_thread_says_deadlk
 *   an error part-way loses the chains before it	error_partway_leaks_nothing
 *   an oversize packet is several, each with a header	oversize_packet_is_one_chain_with_one_header
 *   an empty header is an empty descriptor		empty_header_is_no_element
 *   always kicks, no event index			kicks_only_when_wanted
 *   a kick that fails looks like an offer that failed	kick_failure_is_not_send_failure
 *   recycles what the device names; cuts ids to 16 bits	stale_and_foreign_handles_refused
 *   recycles without a lock				threads.c
 *   free before anything is set up			no handle then: stale_and_foreign_...
 *   a second close closes others' fds			close_twice_closes_nothing_twice
 *   the epoll fd is never closed			everything_is_given_back
 *   fd 0 means none					fd_0_is_an_fd
 *   close after a construction that failed		failed_set_up_leaves_nothing
 *   checks of the used ring that check nothing, panics	device_lies_break_only_the_queue
 *   no barriers on ring indices			tests/ring/rules_order.c, fences.c
 *   allocates for each call				allocations.c
 *   memory that cannot be shared			memory_shareable
 *   documents calls that are not there			tools/check-names.py
 *
 * Of a descriptor table:
 *   head == length is let through			stale_and_foreign_handles_refused
 *   unmaps address 0 in place of the buffers		everything_is_given_back
 *   copies only the tail of a chain			whole_chain_copied_not_only_its_tail
 *   contents without regard to the used length		used_length_limits_contents
 *   panics where the destination is short		short_destination_is_no_error
 *   counts in 16 bits					length_beyond_65535_not_truncated
 *   a negative count					cannot be: counts are unsigned
 *   "not enough" for what never fits			never_fits_says_so_at_once
 *   free list and walks in the device's memory, loops	scribbled_descriptors_change_nothing
 *   free accepts the middle of a chain, and clears	handles name chains, not descriptors:
 *     before it has checked				stale_and_foreign_handles_refused
 *   copies only					transfers_are_not_copied
 *   addresses are the process's			addresses_are_the_devices
 *   a map from pointer to size				cannot be: spans have both
 *
 * Of a queue with tokens:
 *   no batches in split, tokens lost in packed		batch_of_transfers_all_come_back
 *   a full ring loses the token			full_ring_leaves_transfers_with_the_caller
 *   an error drops the buffers				failed_prepare_leaves_the_pieces
 *   a dropped token frees what the device writes to
 *						abandoned_memory_is_kept_until_the_device_is_done
 *   a forgotten token					forgotten_transfers_end_with_the_set
 *   a bad id panics, chains freed by walking		device_lies_..., scribbled_descriptors_...
 *   event index never set				kicks_only_when_wanted, calls_when_wanted
 *   IN_ORDER refused					all of these run with it
 *   barriers for platform devices inverted		tests/ring/rules_features_barriers.c
 *
 * Limits of another such interface:
 *   split only, no event index				all of these run over all layouts
 *   a page for each descriptor				an_item_need_not_be_a_page
 *   no indirect descriptors				a_table_takes_one_entry
 *   copying						whole_chain_copied_..., also in place
 *   free unblocks waiters, close closes the channel	threads.c
 */
#include "faults_rig.h"

/* ---- Waiting --------------------------------------------------------------------- */

struct echo {
	struct rig *rig;
	unsigned int rounds;
	bool stop;
};

/* Returns each chain as it comes, at once. */
static void *echo_main(void *arg)
{
	struct echo *e = arg;

	while (!__atomic_load_n(&e->stop, __ATOMIC_ACQUIRE)) {
		unsigned int served = serve(e->rig, 1, 4, true);

		e->rounds += served;
		if (!served)
			sched_yield();
	}
	return NULL;
}

static void test_signal_between_clear_and_take_is_not_swallowed(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		struct echo echo = { .rig = &r };
		struct virtq_chain chain;
		pthread_t thread;

		/* A signal that was given before the ring was looked at, and is old news. */
		assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 4, NULL, 0, NULL), 2);
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		serve(&r, 1, 4, true);
		assert_true(fd_readable(r.call_fd));
		assert_int_equal(virtq_pool_arm(r.pool), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &ever), 1);
		serve(&r, 1, 4, true);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &second), 1);
		/* And at any moment. */
		assert_int_equal(pthread_create(&thread, NULL, echo_main, &echo), 0);
		for (unsigned int i = 0; i < 500; i++) {
			assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, 0), 1);
			assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &second), 1);
		}
		__atomic_store_n(&echo.stop, true, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
		assert_int_equal(echo.rounds, 500);
	}
}

static void test_elements_already_there_need_no_call(void **state)
{
	struct virtq_chain chain;
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 4, NULL, 0, NULL), 1);
		serve(&r, 1, 4, false);
		assert_false(fd_readable(r.call_fd));
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &second), 1);
	}
}

struct waiter {
	struct rig *rig;
	struct virtq_wait wait;
	int rc;
	bool left;
};

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;
	struct virtq_chain chain;

	w->rc = virtq_pool_take(w->rig->pool, &chain, 1, &w->wait);
	__atomic_store_n(&w->left, true, __ATOMIC_RELEASE);
	return NULL;
}

static void test_cancel_wakes_a_waiter(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		int fd = virtq_notify_open();
		struct waiter w = { .rig = &r, .wait = { -1, &fd } };
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, waiter_main, &w), 0);
		usleep(2000);
		assert_false(__atomic_load_n(&w.left, __ATOMIC_ACQUIRE));
		virtq_notify_send(fd);
		pthread_join(thread, NULL);
		assert_int_equal(w.rc, -ECANCELED);
		close(fd);
	}
}

static void test_close_wakes_and_awaits_the_waiter(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		struct waiter w = { .rig = &r, .wait = ever };
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, waiter_main, &w), 0);
		usleep(2000);
		virtq_pool_close(r.pool);
		pthread_join(thread, NULL);
		assert_int_equal(w.rc, -ESHUTDOWN);
	}
}

static void test_waiting_for_room_does_not_spin(void **state)
{
	static const struct virtq_wait some_time = { 120, NULL };
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		struct virtq_offer offer = { .writable_bytes = 4, .flags = VIRTQ_OFFER_FORGET };
		int64_t cpu, start;

		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
		start = now_ms(CLOCK_MONOTONIC);
		cpu = now_ms(CLOCK_THREAD_CPUTIME_ID);
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, &some_time), -ENOSPC);
		assert_true(now_ms(CLOCK_MONOTONIC) - start >= 119);
		assert_true(now_ms(CLOCK_THREAD_CPUTIME_ID) - cpu < 60);
	}
}

static void test_waiting_for_room_publishes_what_was_offered(void **state)
{
	static const struct virtq_wait moment = { 1, NULL };
	struct virtq_offer offers[16];
	struct rig r;

	(void)state;
	for (unsigned int i = 0; i < 16; i++)
		offers[i] = (struct virtq_offer){ .writable_bytes = 4,
						  .flags = VIRTQ_OFFER_FORGET };
	EACH_LAYOUT(&r) {
		struct echo echo = { .rig = &r };
		pthread_t thread;

		/* Not even MORE holds back what has to be used to make room. */
		assert_int_equal(virtq_pool_offer(r.pool, offers, 16, NULL, VIRTQ_POOL_MORE,
						  &moment), 8);
		assert_int_equal(serve(&r, 8, 4, true), 8);
		/* Twice as many as there is room for, while the device works. */
		assert_int_equal(pthread_create(&thread, NULL, echo_main, &echo), 0);
		assert_int_equal(virtq_pool_offer(r.pool, offers, 16, NULL, 0, &second), 16);
		__atomic_store_n(&echo.stop, true, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
	}
}

static void test_never_fits_says_so_at_once(void **state)
{
	static uint8_t bytes[1024];

	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct virtq_pool_config config = usual(layout_at(i));
		struct virtq_chain chain;
		struct rig r;
		struct virtq_span part = { bytes, 64 };
		struct virtq_offer offer = { .parts = &part, .part_count = 1,
					     .flags = VIRTQ_OFFER_REFERENCE,
					     .header_bytes = 12 };

		/* A header and a buffer in a queue of one entry. */
		config.size = config.indirect_entries = 1;
		rig_open_as(&r, layout_at(i), &config);
		offer.header = virtq_pool_reserved(r.pool);
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, &ever), -EMSGSIZE);
		assert_int_equal(virtq_pool_alloc(r.pool, 64, 64, &chain), -EMSGSIZE);
		rig_close(&r);
		/* More than all items, or than the device takes. */
		config = usual(layout_at(i));
		config.segs_max = 4;
		rig_open_as(&r, layout_at(i), &config);
		assert_int_equal(offer_bytes(&r, bytes, 9 * 64, NULL, &ever), -EMSGSIZE);
		assert_int_equal(offer_bytes(&r, bytes, 5 * 64, NULL, &ever), -EMSGSIZE);
		assert_int_equal(offer_bytes(&r, bytes, 4 * 64, NULL, &ever), 1);
		rig_close(&r);
	}
}

static void test_full_queue_with_one_thread_says_deadlk(void **state)
{
	struct virtq_chain chains[8];
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		/* All the caller's own. */
		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(virtq_pool_alloc(r.pool, 1, 0, &chains[i]), 0);
		assert_int_equal(offer_bytes(&r, "x", 1, NULL, &ever), -EDEADLK);
		/* All waiting to be taken. */
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 8, 0), 8);
		assert_int_equal(serve(&r, 8, 0, false), 8);
		assert_int_equal(offer_bytes(&r, "x", 1, NULL, &ever), -EDEADLK);
		assert_int_equal(virtq_pool_take(r.pool, chains, 8, NULL), 8);
	}
}

/* ---- Offering --------------------------------------------------------------------- */

static void test_error_partway_leaks_nothing(void **state)
{
	static uint8_t bytes[1024];
	struct virtq_span small = { bytes, 10 }, large = { bytes, 600 };
	struct virtq_offer offers[] = {
		{ .parts = &small, .part_count = 1 }, { .writable_bytes = 70 },
		{ .flags = 0 }, { .writable_bytes = 1 },
	};
	const struct virtq_offer wrong[] = {
		{ .parts = &large, .part_count = 1 }, { .flags = 0 },
		{ .header = bytes, .header_bytes = 1, .flags = VIRTQ_OFFER_REFERENCE },
	};
	struct virtq_chain chains[4];
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		for (unsigned int bad = 0; bad < 3; bad++) {
			offers[2] = wrong[bad];
			assert_int_equal(virtq_pool_offer(r.pool, offers, 4, chains, 0, &ever), 2);
			assert_int_equal(virtq_pool_offer(r.pool, offers + 2, 2, chains + 2, 0,
							  &ever),
					 bad == 0 ? -EMSGSIZE : bad == 1 ? -EINVAL : -EFAULT);
			assert_int_equal(serve(&r, 8, 70, false), 2);
			assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 2);
			assert_int_equal(virtq_pool_free(r.pool, chains, 2), 2);
			all_free(&r);
		}
	}
}

static void test_oversize_packet_is_one_chain_with_one_header(void **state)
{
	static uint8_t bytes[300], got[400];
	static const char header[12] = "a header ...";
	struct virtq_span parts[] = { { bytes, 130 }, { bytes + 130, 170 } };
	struct rig r;

	(void)state;
	for (unsigned int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + 1);
	EACH_LAYOUT(&r) {
		for (unsigned int by_reference = 0; by_reference < 2; by_reference++) {
			struct virtq_offer offer = { .header = header, .header_bytes = 12,
						     .parts = parts, .part_count = 2,
						     .flags = VIRTQ_OFFER_FORGET };
			struct virtq_req *reqs[2];

			if (by_reference) {
				memcpy(virtq_pool_reserved(r.pool), header, 12);
				offer.header = virtq_pool_reserved(r.pool);
				offer.flags |= VIRTQ_OFFER_REFERENCE;
			}
			assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
			assert_int_equal(virtq_device_pop(r.far.device, reqs, 2), 1);
			assert_int_equal(reqs[0]->rd.bytes, 312);
			assert_int_equal(reqs[0]->rd.count, by_reference ? 6 : 5);
			assert_int_equal(virtq_req_read(reqs[0], got, 400), 312);
			assert_memory_equal(got, header, 12);
			assert_memory_equal(got + 12, bytes, 300);
			virtq_device_push(r.far.device, reqs, 1);
			virtq_device_publish(r.far.device);
		}
	}
}

static void test_empty_header_is_no_element(void **state)
{
	struct virtq_span part = { (void *)(uintptr_t)"xyz", 3 };
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		for (unsigned int by_reference = 0; by_reference < 2; by_reference++) {
			uint32_t flags = by_reference ? VIRTQ_OFFER_REFERENCE : 0;
			struct virtq_offer offer = { .header = virtq_pool_reserved(r.pool),
						     .flags = flags | VIRTQ_OFFER_FORGET,
						     .parts = &part, .part_count = 1 };
			struct virtq_req *req;

			assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
			assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
			assert_int_equal(req->rd.count, 1);
			assert_int_equal(req->rd.bytes, 3);
			virtq_device_push(r.far.device, &req, 1);
			virtq_device_publish(r.far.device);
		}
	}
}

/* S-DRV, P-DRV: notifications are asked for by flags or by an event index. */
static void test_kicks_only_when_wanted(void **state)
{
	struct virtq_chain chain;
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		uint64_t kicks = 0;

		virtq_notify_clear(r.kick_fd);
		virtq_device_disarm(r.far.device);
		if (r.layout.packed || !r.layout.event_idx) {
			assert_int_equal(offer_bytes(&r, "x", 1, NULL, NULL), 1);
			assert_false(fd_readable(r.kick_fd));
			serve(&r, 1, 0, false);
		}
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 4, NULL, 0, NULL), 3);
		assert_int_equal(read(r.kick_fd, &kicks, 8), 8);
		assert_int_equal(kicks, 1);
		/* Without an event index the wish stands; with one it is met. */
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 4, NULL, 0, NULL), 1);
		assert_int_equal(fd_readable(r.kick_fd), !r.layout.event_idx);
		virtq_notify_clear(r.kick_fd);
		/* Recycling kicks as offering does. */
		serve(&r, 8, 4, false);
		while (virtq_pool_take(r.pool, &chain, 1, NULL) == 1)
			;
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, VIRTQ_POOL_MORE), 1);
		assert_false(fd_readable(r.kick_fd));
		assert_int_equal(virtq_pool_publish(r.pool), 0);
		assert_true(fd_readable(r.kick_fd));
	}
}

/* S-DRV, P-DRV: who does not sleep is not called; who is about to, is. */
static void test_calls_when_wanted(void **state)
{
	struct virtq_req *req;
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 4, NULL, 0, NULL), 4);
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		virtq_device_push(r.far.device, &req, 1);
		if (r.layout.packed || !r.layout.event_idx)
			assert_int_equal(virtq_device_publish(r.far.device), 0);
		else
			virtq_device_publish(r.far.device);
		assert_int_equal(virtq_pool_take(r.pool, &(struct virtq_chain){ 0 }, 1, NULL), 1);
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		virtq_device_push(r.far.device, &req, 1);
		assert_int_equal(virtq_device_publish(r.far.device), 1);
	}
}

static void test_kick_failure_is_not_send_failure(void **state)
{
	struct virtq_chain chain;
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		int kept = dup(r.kick_fd), deaf = open("/dev/null", O_RDONLY | O_CLOEXEC);

		assert_true(kept >= 0 && deaf >= 0);
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(dup2(deaf, r.kick_fd), r.kick_fd);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 4, &chain, 0, NULL), 1);
		/* It is with the device, and the error is told to who asks. */
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 0, &kept,
						     0),
				 -EBUSY);
		assert_int_equal(virtq_pool_publish(r.pool), -EBADF);
		assert_int_equal(virtq_pool_publish(r.pool), 0);
		assert_int_equal(serve(&r, 1, 4, false), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(dup2(kept, r.kick_fd), r.kick_fd);
		close(kept);
		close(deaf);
	}
}

/* ---- Handles ---------------------------------------------------------------------- */

static void refused_by(struct virtq_pool *pool, struct virtq_chain chain, int want)
{
	struct virtq_pool_room before = virtq_pool_room(pool), after;
	struct virtq_span span;
	char byte = 0;

	assert_int_equal(virtq_pool_free(pool, &chain, 1), want);
	assert_int_equal(virtq_pool_recycle(pool, &chain, 1, 0), want);
	assert_int_equal(virtq_pool_resize(pool, &chain, 1), want);
	assert_int_equal(virtq_pool_spans(pool, &chain, VIRTQ_PART_READABLE, &span, 1), want);
	assert_int_equal(virtq_pool_copy_in(pool, &chain, 0, &byte, 1), want);
	assert_int_equal(virtq_pool_copy_out(pool, &chain, VIRTQ_PART_READABLE, 0, &byte, 1), want);
	if (want == -ESTALE)
		assert_int_equal(virtq_pool_abandon(pool, &chain, 1), want);
	after = virtq_pool_room(pool);
	assert_memory_equal(&before, &after, sizeof(before));
}

static void test_stale_and_foreign_handles_refused(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		struct virtq_pool_config config = usual(r.layout);
		struct virtq_chain mine, others, wrong;
		struct virtq_pool *other;

		assert_int_equal(virtq_pool_create(&other, &config, NULL), 0);
		assert_int_equal(virtq_pool_alloc(r.pool, 200, 0, &mine), 0);
		assert_int_equal(virtq_pool_alloc(other, 200, 0, &others), 0);
		refused_by(r.pool, others, -ESTALE);
		refused_by(other, mine, -ESTALE);
		/* The middle of the chain, just behind the last slot, 2^16 and more further on. */
		for (uint64_t off = 1; off < UINT32_MAX; off = off < 64 ? off + 1 : off * 2) {
			wrong = mine;
			wrong.slot += (uint32_t)off;
			refused_by(r.pool, wrong, -ESTALE);
		}
		for (uint64_t bit = 1; bit; bit <<= 1) {
			wrong = mine;
			wrong.id ^= bit;
			refused_by(r.pool, wrong, -ESTALE);
		}
		wrong = mine;
		assert_int_equal(virtq_pool_recycle(r.pool, &mine, 1, 0), 1);
		refused_by(r.pool, wrong, -ESTALE);
		refused_by(r.pool, mine, -EBUSY);	/* use after offer */
		serve(&r, 1, 0, false);
		assert_int_equal(virtq_pool_take(r.pool, &mine, 1, NULL), 1);
		assert_int_equal(virtq_pool_free(r.pool, &mine, 1), 1);
		refused_by(r.pool, mine, -ESTALE);	/* double free */
		assert_int_equal(virtq_pool_alloc(r.pool, 200, 0, &wrong), 0);
		refused_by(r.pool, mine, -ESTALE);	/* and when its place is another's */
		virtq_pool_destroy(other);
		virtq_pool_close(r.pool);
		assert_int_equal(virtq_pool_free(r.pool, &wrong, 1), -ESHUTDOWN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signal_between_clear_and_take_is_not_swallowed),
		cmocka_unit_test(test_elements_already_there_need_no_call),
		cmocka_unit_test(test_cancel_wakes_a_waiter),
		cmocka_unit_test(test_close_wakes_and_awaits_the_waiter),
		cmocka_unit_test(test_waiting_for_room_does_not_spin),
		cmocka_unit_test(test_waiting_for_room_publishes_what_was_offered),
		cmocka_unit_test(test_never_fits_says_so_at_once),
		cmocka_unit_test(test_full_queue_with_one_thread_says_deadlk),
		cmocka_unit_test(test_error_partway_leaks_nothing),
		cmocka_unit_test(test_oversize_packet_is_one_chain_with_one_header),
		cmocka_unit_test(test_empty_header_is_no_element),
		cmocka_unit_test(test_kicks_only_when_wanted),
		cmocka_unit_test(test_calls_when_wanted),
		cmocka_unit_test(test_kick_failure_is_not_send_failure),
		cmocka_unit_test(test_stale_and_foreign_handles_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
