/* SPDX-License-Identifier: MIT */
/*
 * A guarded pool: whichever way a chain goes to the device its pages are closed to this
 * process, and whichever way it comes back they are open again.
 */
#include <signal.h>
#include <sys/wait.h>

#include "pool_rig.h"

#define PAGE 4096u

/* The signal by which a child dies that touches @at, or 0. */
static int dies_of(volatile uint8_t *at, bool write)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		if (write)
			*at = 1;
		else
			(void)*at;
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_guard(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[4];
	struct virtq_span spans[4];
	uint8_t data[9000], *page;
	struct rig r;

	config.item_bytes = 4096;
	config.guard = true;
	rig_open(&r, *layout, &config);
	fill(data, 2, sizeof(data));
	assert_int_equal(offer_one(&r, data, 9000, 100, &chains[0]), 1);
	assert_int_equal(rig_serve(&r, 1, 100, 6), 1);
	assert_int_equal(r.seen_bytes, 9000);
	assert_filled(r.seen, 2, 9000);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, NULL), 1);
	assert_int_equal(virtq_pool_spans(r.pool, chains, VIRTQ_PART_WRITTEN, spans, 4), 1);
	assert_filled(spans[0].base, 6, 100);
	page = spans[0].base;
	assert_int_equal(dies_of(page, true), 0);
	assert_int_equal(virtq_pool_spans(r.pool, chains, VIRTQ_PART_READABLE, spans, 4), 3);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 0), 1);
	assert_int_equal(dies_of(page, false), SIGSEGV);
	assert_int_equal(dies_of(page, true), SIGSEGV);
	assert_int_equal(dies_of((uint8_t *)spans[2].base, false), SIGSEGV);
	/* The device gets at them all the same. */
	assert_int_equal(rig_serve(&r, 1, 50, 9), 1);
	assert_filled(r.seen, 2, 9000);
	assert_int_equal(dies_of(page, false), SIGSEGV);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, NULL), 1);
	assert_filled(page, 9, 50);
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), 1);

	/* The fast way; what comes back unasked for; and what never does. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 4096, chains, 0, NULL), 3);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[0], 1), 1);
	assert_int_equal(rig_serve(&r, 2, 4096, 1), 2);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, NULL), 1);
	assert_int_equal(virtq_pool_spans(r.pool, chains, VIRTQ_PART_WRITTEN, spans, 4), 1);
	assert_filled(spans[0].base, 2, 4096);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 0), 1);
	assert_int_equal(dies_of((uint8_t *)spans[0].base, true), SIGSEGV);
	virtq_driver_stop(r.q);
	assert_int_equal(virtq_pool_reset(r.pool), 2);
	rig_again(&r);
	assert_int_equal(virtq_pool_alloc(r.pool, 16 * 4096, 0, chains), 0);
	assert_int_equal(virtq_pool_copy_in(r.pool, chains, 0, data, 9000), 9000);
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), 1);
	assert_room(&r, 24, 0, 0);
	rig_close(&r);
}

/* ---- Every way there and back ----------------------------------------------- */

/* Can the kernel read the byte for us? It says no where an access would fault. */
static bool is_open(const void *at)
{
	int fds[2];
	bool open;

	assert_int_equal(pipe(fds), 0);
	open = write(fds[1], at, 1) == 1;
	close(fds[0]);
	close(fds[1]);
	return open;
}

static void assert_open(const struct virtq_span *spans, unsigned int count, bool open)
{
	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(is_open(spans[i].base), open);
		assert_int_equal(is_open((uint8_t *)spans[i].base + PAGE - 1), open);
	}
}

enum there { WRITABLE, SINGLE, MANY, RECYCLED, RECYCLED_MANY, WAYS_THERE };
enum back { TAKEN, FOUND, FORGOTTEN, FOUND_ABANDONED, LOST, WAYS_BACK };

/* A chain is with the device; *@spans are its pages, @count of them. */
static void go_there(struct rig *r, enum there way, struct virtq_chain *chain,
		     struct virtq_span *spans, unsigned int *count)
{
	static const uint8_t data[3 * PAGE];
	uint32_t bytes = way == MANY || way == RECYCLED_MANY ? 3 * PAGE : PAGE;
	bool writable = way == WRITABLE;

	assert_int_equal(virtq_pool_alloc(r->pool, writable ? 0 : bytes, writable ? bytes : 0,
					  chain), 0);
	*count = bytes / PAGE;
	assert_int_equal(virtq_pool_spans(r->pool, chain, writable ? VIRTQ_PART_WRITABLE :
					  VIRTQ_PART_READABLE, spans, *count), *count);
	assert_open(spans, *count, true);
	if (way == RECYCLED || way == RECYCLED_MANY) {
		assert_int_equal(virtq_pool_recycle(r->pool, chain, 1, 0), 1);
		return;
	}
	/* The same items are next to be used. */
	assert_int_equal(virtq_pool_free(r->pool, chain, 1), 1);
	if (writable)
		assert_int_equal(virtq_pool_offer_writable(r->pool, 1, bytes, chain, 0, NULL), 1);
	else
		assert_int_equal(offer_one(r, data, bytes, 0, chain), 1);
}

/* It is found by who looks for room, and laid by. */
static void find(struct rig *r)
{
	assert_int_equal(virtq_pool_offer_writable(r->pool, 1, 12 * PAGE, NULL, 0, NULL), -ENOSPC);
}

static void test_every_way(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);

	config.item_bytes = PAGE;
	config.items = 12;
	config.guard = true;
	for (unsigned int i = 0; i < WAYS_THERE * WAYS_BACK; i++) {
		enum back back = (enum back)(i % WAYS_BACK);
		struct virtq_span spans[3];
		struct virtq_chain chain;
		unsigned int count;
		struct rig r;

		rig_open(&r, *layout, &config);
		go_there(&r, (enum there)(i / WAYS_BACK), &chain, spans, &count);
		assert_open(spans, count, false);
		if (back == FORGOTTEN)
			assert_int_equal(virtq_pool_abandon(r.pool, &chain, 1), 1);
		if (back == LOST) {
			virtq_driver_stop(r.q);
			assert_int_equal(virtq_pool_reset(r.pool), 1);
			rig_again(&r);
		} else {
			assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
			assert_open(spans, count, false);
		}
		if (back == FOUND || back == FOUND_ABANDONED) {
			find(&r);
			assert_open(spans, count, false);
		}
		if (back == FOUND_ABANDONED)
			assert_int_equal(virtq_pool_abandon(r.pool, &chain, 1), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL),
				 back == TAKEN || back == FOUND);
		assert_open(spans, count, true);
		rig_close(&r);
	}
}

int main(void)
{
	static const struct in_all tests[] = {
		IN_ALL(test_guard), IN_ALL(test_every_way),
	};

	return run_in_all("guarded pool", tests, sizeof(tests) / sizeof(tests[0]));
}
