/* SPDX-License-Identifier: MIT */
/*
 * The one moment that matters in a wait: the device uses a buffer, and calls, just before
 * the signals of the call fd are taken away. The linker leads the clearing to here
 * (--wrap), so that it happens then, every time. So it does the question for the size of a
 * page, for what is laid out on a machine where that is another.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>

#include <virtq/notify.h>
#include <virtq/pool.h>

#include "../sanitizers.h"
#include "transfer_rig.h"

void __real_virtq_notify_clear(int fd);
void __wrap_virtq_notify_clear(int fd);

static struct rig rig;
static bool trap;
static long page_bytes;			/* 0: what it is */

long __real_sysconf(int name);
long __wrap_sysconf(int name);

/* clang's runtime asks, too, before it is ready for what it has instrumented. */
#if UNDER_TSAN && defined(__clang__)
__attribute__((disable_sanitizer_instrumentation))
#endif
long __wrap_sysconf(int name)
{
	return page_bytes && name == _SC_PAGESIZE ? page_bytes : __real_sysconf(name);
}

void __wrap_virtq_notify_clear(int fd)
{
	if (trap && fd == virtq_port_call_fd(rig.port)) {
		trap = false;
		rig_serve(&rig, 1, NULL, 1, 1);
	}
	__real_virtq_notify_clear(fd);
}

/* It is told at once, or the fd stays readable: looking first and clearing then does neither. */
static void test_arm_clears_before_it_looks(void **state)
{
	const struct setting *on = *state;
	const struct rig_shape shape = { 0 };
	struct pollfd p;
	int rc;

	rig_open(&rig, on, &shape);
	rig_send(&rig, rig_prepare(&rig, 0, NULL));
	trap = true;
	rc = virtq_port_arm(rig.port);
	assert_false(trap);
	p = (struct pollfd){ .fd = virtq_port_call_fd(rig.port), .events = POLLIN };
	assert_true(rc == 1 || poll(&p, 1, 0) == 1);
	rig_close(&rig);
}

static void test_wait_clears_before_it_looks(void **state)
{
	const struct setting *on = *state;
	const struct virtq_wait wait = { .timeout_ms = 10000 };
	const struct rig_shape shape = { 0 };

	rig_open(&rig, on, &shape);
	rig_send(&rig, rig_prepare(&rig, 0, NULL));
	trap = true;
	assert_int_equal(virtq_port_wait(rig.port, &wait), 1);
	assert_false(trap);
	rig_close(&rig);
}

/* Extra memory, reserved memory and items begin with pages of 64 KiB, where those are pages. */
static void test_pages_of_64_kib(void **state)
{
	struct virtq_features features = layout_features(((const struct setting *)*state)->layout);
	struct virtq_port_config port_config = { .features = features, .size = 8, .gpa = 0x30000,
						 .extra_bytes = 100 };
	struct virtq_pool_config pool_config = { .features = features, .size = 8, .gpa = 0x30000,
						 .item_bytes = 4096, .reserve_bytes = 100 };
	const struct virtq_region *region;
	struct virtq_port *port;
	struct virtq_pool *pool;
	unsigned int count;

	page_bytes = 65536;
	assert_int_equal(virtq_port_create(&port, &port_config, NULL), 0);
	region = virtq_port_regions(port, &count);
	assert_int_equal(((uint8_t *)virtq_port_extra(port) - (uint8_t *)region->host) % 65536, 0);
	virtq_port_destroy(port);
	port_config.gpa = 0x31000;
	assert_int_equal(virtq_port_create(&port, &port_config, NULL), -EINVAL);
	assert_int_equal(virtq_pool_create(&pool, &pool_config, NULL), 0);
	assert_int_equal(virtq_pool_items(pool).gpa % 65536, 0);
	virtq_pool_destroy(pool);
	pool_config.guard = true;
	assert_int_equal(virtq_pool_create(&pool, &pool_config, NULL), -EINVAL);
	page_bytes = 0;
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(test_arm_clears_before_it_looks), EACH(test_wait_clears_before_it_looks),
		EACH(test_pages_of_64_kib),
	};

	return rig_run("order in a wait", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
