/* SPDX-License-Identifier: MIT */
/*
 * The one moment that matters in a wait: the device uses a buffer, and calls, just before
 * the signals of the call fd are taken away. The linker leads the clearing to here
 * (--wrap), so that it happens then, every time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>

#include <virtq/notify.h>

#include "transfer_rig.h"

void __real_virtq_notify_clear(int fd);
void __wrap_virtq_notify_clear(int fd);

static struct rig rig;
static bool trap;

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

int main(void)
{
	static const struct named_test each[] = {
		EACH(test_arm_clears_before_it_looks), EACH(test_wait_clears_before_it_looks),
	};

	return rig_run("order in a wait", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
