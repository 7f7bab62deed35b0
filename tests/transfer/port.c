/* SPDX-License-Identifier: MIT */
/* The port by itself: its memory, its fds, and sleeping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <virtq/device.h>
#include <virtq/notify.h>
#include <virtq/port.h>
#include <virtq/spec/virtio.h>

/* Both ends of one queue: the port, and a device over its region. */
struct pair {
	struct virtq_port *port;
	struct virtq_map *map;
	struct virtq_device *device;
	bool packed;
};

static struct virtq_features features(bool packed)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	return packed ? virtq_features_with(f, VIRTIO_F_RING_PACKED) : f;
}

static void attach(struct pair *p)
{
	struct virtq_device_config config = {
		.ring = *virtq_driver_ring(virtq_port_driver(p->port)), .map = p->map,
	};

	assert_int_equal(virtq_device_create(&p->device, &config, NULL), 0);
}

static void pair_open(struct pair *p, bool packed)
{
	struct virtq_port_config config = {
		.features = features(packed), .size = 8, .indirect_entries = 4,
		.extra_bytes = 4096,
	};
	unsigned int count;
	struct virtq_error err;
	const struct virtq_region *regions;

	p->packed = packed;
	if (virtq_port_create(&p->port, &config, &err))
		fail_msg("%s", err.text);
	regions = virtq_port_regions(p->port, &count);
	assert_int_equal(virtq_map_create(&p->map, regions, count, NULL), 0);
	attach(p);
}

static void pair_close(struct pair *p)
{
	virtq_device_destroy(p->device);
	virtq_port_destroy(p->port);
	virtq_map_unref(p->map);
}

static void add(struct pair *p, unsigned int count)
{
	struct virtq_seg seg = { (uintptr_t)virtq_port_extra(p->port), 64 };
	struct virtq_buffer buf = { &seg, 0, 1, NULL };

	while (count--)
		assert_int_equal(virtq_driver_add(virtq_port_driver(p->port), &buf, 1), 1);
}

/* The device uses what there is; returns whether it has to call. */
static int use(struct pair *p)
{
	struct virtq_req *req;

	while (virtq_device_pop(p->device, &req, 1) == 1) {
		assert_int_equal(virtq_req_write(req, "x", 1), 1);
		virtq_device_push(p->device, &req, 1);
	}
	return virtq_device_publish(p->device);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* What the device needs of it: in one file that cannot shrink, with extra memory on a page. */
static void test_memory(void **state)
{
	struct virtq_port_config config = {
		.features = features(false), .size = 256, .gpa = 0x7000000, .extra_bytes = 5000,
	};
	const struct virtq_region *r;
	struct virtq_port *port;
	unsigned int count = 0;

	(void)state;
	assert_int_equal(virtq_port_create(&port, &config, NULL), 0);
	r = virtq_port_regions(port, &count);
	assert_int_equal(count, 1);
	assert_int_equal(r->gpa, 0x7000000);
	assert_int_equal(r->user, (uintptr_t)r->host);
	assert_int_equal(r->access, VIRTQ_ACCESS_RW);
	assert_true(r->fd >= 0);
	assert_int_equal(ftruncate(r->fd, 0), -1);
	assert_int_equal((uintptr_t)virtq_port_extra(port) % 4096, 0);
	assert_true((uint8_t *)virtq_port_extra(port) + 5000 <= (uint8_t *)r->host + r->size_bytes);
	assert_true((uint8_t *)virtq_port_extra(port) >= (uint8_t *)r->host + 256 * 16);
	memset(virtq_port_extra(port), 1, 5000);
	virtq_port_destroy(port);
	virtq_port_destroy(NULL);
}

static void refuse(const struct virtq_port_config *config)
{
	struct virtq_port *port = NULL;
	struct virtq_error err = { 0 };

	assert_int_equal(virtq_port_create(&port, config, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_true(strlen(err.text) > 0);
	assert_null(port);
	assert_int_equal(virtq_port_create(&port, config, NULL), -EINVAL);
}

static void test_refusals(void **state)
{
	struct virtq_port_config good = { .features = features(false), .size = 8 }, c;

	(void)state;
	c = good, c.size = 7, refuse(&c);
	c = good, c.size = 0, refuse(&c);
	c = good, c.size = 65536, refuse(&c);
	c = good, c.gpa = 4095, refuse(&c);
	c = good, c.indirect_entries = 9, refuse(&c);
	c = good, c.extra_bytes = UINT64_MAX, refuse(&c);
	c = good, c.extra_bytes = UINT64_MAX - 8192, refuse(&c);
	c = good, c.gpa = UINT64_MAX - 4095, refuse(&c);
	c = good, c.features = (struct virtq_features){ { 0, 0 } }, refuse(&c);
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Whatever is missing, nothing is left behind. */
static void test_no_fds_left(void **state)
{
	struct virtq_port_config config = { .features = features(true), .size = 8 };
	unsigned int before = open_fds(), spare;
	struct rlimit limit, tight;
	struct virtq_port *port;
	struct virtq_error err;
	int rc;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (spare = 0; spare < 8; spare++) {
		/* As if the numbers below were taken: the first free ones, from the top. */
		int first = 0;

		while (fcntl(first, F_GETFD) >= 0)
			first++;
		tight = (struct rlimit){ (rlim_t)first + spare, limit.rlim_max };
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
		rc = virtq_port_create(&port, &config, &err);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		if (rc == 0) {
			virtq_port_destroy(port);
			break;
		}
		assert_int_equal(rc, -EMFILE);
		assert_true(strlen(err.text) > 0);
		assert_int_equal(open_fds(), before);
	}
	assert_true(spare > 0 && spare < 8);
	assert_int_equal(open_fds(), before);
}

/* It begins without asking for calls, asks before it sleeps, and not afterwards. */
static void test_calls_only_when_asleep(void **state)
{
	struct virtq_wait wait = { .timeout_ms = 1 };
	struct virtq_completion done;
	struct pair p;

	pair_open(&p, *(bool *)*state);
	/* Of its first call a device cannot know that it is not wanted. */
	for (unsigned int i = 0; i < 3; i++) {
		add(&p, 1);
		virtq_port_publish(p.port);
		assert_true(use(&p) == 0 || i == 0);
		assert_int_equal(virtq_driver_get(virtq_port_driver(p.port), &done, 1), 1);
	}

	add(&p, 1);
	assert_int_equal(virtq_port_arm(p.port), 0);
	assert_int_equal(use(&p), 1);
	assert_int_equal(virtq_driver_get(virtq_port_driver(p.port), &done, 1), 1);

	assert_int_equal(virtq_port_wait(p.port, &wait), 0);
	add(&p, 1);
	virtq_port_publish(p.port);
	assert_int_equal(use(&p), 0);
	assert_int_equal(virtq_port_wait(p.port, NULL), 1);
	pair_close(&p);
}

/* What is there is found without a call, however long ago it came. */
static void test_looks_before_it_sleeps(void **state)
{
	struct virtq_wait wait = { .timeout_ms = -1 };
	struct pair p;

	pair_open(&p, *(bool *)*state);
	add(&p, 1);
	assert_int_equal(virtq_port_publish(p.port), 0);
	use(&p);
	assert_int_equal(virtq_port_wait(p.port, &wait), 1);
	pair_close(&p);
}

/* Waiting publishes: what was added cannot be forgotten in a sleep. */
static void test_wait_publishes_and_kicks(void **state)
{
	struct pair p;

	pair_open(&p, *(bool *)*state);
	virtq_device_arm(p.device);
	add(&p, 2);
	assert_int_equal(virtq_port_wait(p.port, NULL), 0);
	assert_int_equal(virtq_notify_wait(virtq_port_kick_fd(p.port), 0), 1);
	assert_int_equal(virtq_port_kicks(p.port), 1);
	use(&p);
	assert_int_equal(virtq_port_wait(p.port, NULL), 1);
	/* A device that did not ask is not kicked. */
	virtq_device_disarm(p.device);
	add(&p, 1);
	assert_int_equal(virtq_port_publish(p.port), 0);
	assert_int_equal(virtq_port_kicks(p.port), 1);
	pair_close(&p);
}

/* Signals that mean nothing do not end a wait, nor do they make it longer. */
static void test_timeout(void **state)
{
	struct virtq_wait wait = { .timeout_ms = 60 };
	struct pair p;
	int64_t before;

	pair_open(&p, *(bool *)*state);
	virtq_notify_send(virtq_port_call_fd(p.port));
	before = now_ms();
	assert_int_equal(virtq_port_wait(p.port, &wait), 0);
	assert_true(now_ms() - before >= 59);
	pair_close(&p);
}

struct helper {
	struct pair *pair;
	int fd;
	bool shutdown;
};

static void *wake_later(void *arg)
{
	struct helper *h = arg;

	usleep(30000);
	if (h->shutdown) {
		virtq_port_shutdown(h->pair->port);
	} else if (h->fd >= 0) {
		virtq_notify_send(h->fd);
	} else {
		use(h->pair);
		virtq_notify_send(virtq_port_call_fd(h->pair->port));
	}
	return NULL;
}

static int wait_while(struct pair *p, struct helper *h, const int *cancel_fd)
{
	struct virtq_wait wait = { .timeout_ms = 20000, .cancel_fd = cancel_fd };
	pthread_t thread;
	int rc;

	assert_int_equal(pthread_create(&thread, NULL, wake_later, h), 0);
	rc = virtq_port_wait(p->port, &wait);
	pthread_join(thread, NULL);
	return rc;
}

static void test_woken_by_the_device(void **state)
{
	struct pair p;
	struct helper h = { &p, -1, false };

	pair_open(&p, *(bool *)*state);
	add(&p, 1);
	virtq_port_publish(p.port);
	assert_int_equal(wait_while(&p, &h, NULL), 1);
	pair_close(&p);
}

/* The fd stays readable: who cancels cancels all that wait on it, and it is never read. */
static void test_cancel(void **state)
{
	int fd = virtq_notify_open(), bad = 900;
	struct virtq_wait wait = { .timeout_ms = -1, .cancel_fd = &fd };
	struct helper h = { NULL, fd, false };
	struct pair p;

	pair_open(&p, *(bool *)*state);
	h.pair = &p;
	assert_int_equal(wait_while(&p, &h, &fd), -ECANCELED);
	assert_int_equal(virtq_port_wait(p.port, &wait), -ECANCELED);
	assert_int_equal(virtq_notify_wait(fd, 0), 1);
	/* What there is to get is told first. */
	virtq_notify_send(fd);
	add(&p, 1);
	virtq_port_publish(p.port);
	use(&p);
	assert_int_equal(virtq_port_wait(p.port, &wait), 1);
	/* Any fd that can be polled, 0 included, and none that is no fd. */
	wait.cancel_fd = &bad;
	virtq_driver_get(virtq_port_driver(p.port), &(struct virtq_completion){ 0 }, 1);
	assert_int_equal(virtq_port_wait(p.port, &wait), -EBADF);
	pair_close(&p);
	close(fd);
}

static void test_shutdown(void **state)
{
	struct virtq_wait wait = { .timeout_ms = -1 };
	struct pair p;
	struct helper h = { &p, -1, true };

	pair_open(&p, *(bool *)*state);
	assert_int_equal(wait_while(&p, &h, NULL), -ESHUTDOWN);
	virtq_port_shutdown(p.port);
	assert_int_equal(virtq_port_wait(p.port, &wait), -ESHUTDOWN);
	assert_int_equal(virtq_port_arm(p.port), -ESHUTDOWN);
	pair_close(&p);
}

static void on_signal(int number)
{
	(void)number;
}

static void *signal_later(void *arg)
{
	usleep(30000);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void test_interrupted(void **state)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct virtq_wait wait = { .timeout_ms = 20000 };
	pthread_t self = pthread_self(), thread;
	struct pair p;

	sigaction(SIGUSR1, &action, NULL);
	pair_open(&p, *(bool *)*state);
	assert_int_equal(pthread_create(&thread, NULL, signal_later, &self), 0);
	assert_int_equal(virtq_port_wait(p.port, &wait), -EINTR);
	pthread_join(thread, NULL);
	pair_close(&p);
}

/* The kick's failure is told once, by itself; what was published is with the device. */
static void test_kick_failure(void **state)
{
	struct pair p;
	int fd;

	pair_open(&p, *(bool *)*state);
	virtq_device_arm(p.device);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(dup2(fd, virtq_port_kick_fd(p.port)) >= 0);
	close(fd);
	add(&p, 1);
	assert_int_equal(virtq_port_publish(p.port), -EBADF);
	assert_int_equal(virtq_port_publish(p.port), 0);
	use(&p);
	assert_int_equal(virtq_port_wait(p.port, NULL), 1);
	pair_close(&p);
}

static void test_broken(void **state)
{
	struct virtq_wait wait = { .timeout_ms = -1 };
	struct virtq_completion done;
	struct pair p;
	uint8_t *used;

	pair_open(&p, *(bool *)*state);
	if (p.packed) {
		/* Marks a descriptor used that was never offered, with an id of nothing. */
		uint8_t *desc = virtq_driver_ring(virtq_port_driver(p.port))->desc;

		memset(desc, 0xff, 16);
	} else {
		used = virtq_driver_ring(virtq_port_driver(p.port))->device;
		used[2] = 5;
	}
	assert_int_equal(virtq_port_wait(p.port, &wait), 1);
	assert_int_equal(virtq_driver_get(virtq_port_driver(p.port), &done, 1), -EBADMSG);
	assert_int_equal(virtq_port_wait(p.port, &wait), -EBADMSG);
	/* A broken queue can be made anew. */
	assert_int_equal(virtq_port_renew(p.port), 0);
	virtq_device_destroy(p.device);
	attach(&p);
	add(&p, 1);
	virtq_port_publish(p.port);
	use(&p);
	assert_int_equal(virtq_port_wait(p.port, &wait), 1);
	pair_close(&p);
}

static void test_renew(void **state)
{
	struct pollfd call = { .events = POLLIN };
	struct pair p;
	void *token;

	pair_open(&p, *(bool *)*state);
	add(&p, 3);
	virtq_port_publish(p.port);
	virtq_notify_send(virtq_port_call_fd(p.port));
	assert_int_equal(virtq_port_renew(p.port), -EBUSY);
	assert_int_equal(virtq_driver_in_flight(virtq_port_driver(p.port)), 3);
	virtq_driver_stop(virtq_port_driver(p.port));
	while (virtq_driver_detach(virtq_port_driver(p.port), &token) == 1)
		;
	assert_int_equal(virtq_port_renew(p.port), 0);
	assert_int_equal(virtq_driver_room(virtq_port_driver(p.port)), 8);
	/* What the old ring's device had signalled is no news of this one. */
	call.fd = virtq_port_call_fd(p.port);
	assert_int_equal(poll(&call, 1, 0), 0);
	pair_close(&p);
}

int main(void)
{
	static bool split = false, packed = true;
#define BOTH(test) \
	{ #test " split", test, NULL, NULL, &split }, \
	{ #test " packed", test, NULL, NULL, &packed }
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_no_fds_left),
		BOTH(test_calls_only_when_asleep),
		BOTH(test_looks_before_it_sleeps),
		BOTH(test_wait_publishes_and_kicks),
		BOTH(test_timeout),
		BOTH(test_woken_by_the_device),
		BOTH(test_cancel),
		BOTH(test_shutdown),
		BOTH(test_interrupted),
		BOTH(test_kick_failure),
		BOTH(test_broken),
		BOTH(test_renew),
	};

	return cmocka_run_group_tests_name("the port", tests, NULL, NULL);
}
