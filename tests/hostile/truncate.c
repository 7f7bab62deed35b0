/* SPDX-License-Identifier: MIT */
/*
 * A driver that shortens the file in which its ring and buffers are, while the
 * device end works in it: the device's process lives, and its neighbours notice
 * nothing (virtq_guard_install()).
 */
#include "rig.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../emulated.h"

#define PAGE ((uint64_t)4096)
#define FILE_BYTES (16 * PAGE)
#define READABLE (2 * PAGE)	/* of each buffer: where they are in the file */
#define WRITABLE (8 * PAGE)
#define BUFFER_BYTES (2 * PAGE)
#define SIZE 8u

struct client {
	int fd;
	uint8_t *own;		/* the driver's view */
	struct virtq_mapping *mapping;
	struct virtq_map *map;
	struct virtq_driver *driver;
	struct virtq_device *device;
};

static void client_open(struct client *c, const struct shape *shape)
{
	struct virtq_driver_config drv = { .ring = { .features = shape_features(shape),
						     .size = SIZE } };
	struct virtq_device_config dev = { 0 };
	struct virtq_region region = { .size_bytes = FILE_BYTES, .fd = -1,
				       .access = VIRTQ_ACCESS_RW };
	struct virtq_ring_shape s;
	uint8_t *host;

	memset(c, 0, sizeof(*c));
	c->fd = memfd_create("client", MFD_CLOEXEC);
	assert_true(c->fd >= 0);
	assert_int_equal(ftruncate(c->fd, FILE_BYTES), 0);
	c->own = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	assert_ptr_not_equal(c->own, MAP_FAILED);
	assert_int_equal(virtq_mapping_open(&c->mapping, dup(c->fd), 0, FILE_BYTES,
					    VIRTQ_ACCESS_RW, NULL), 0);
	host = virtq_mapping_host(c->mapping);
	region.host = host;
	region.mapping = c->mapping;
	assert_int_equal(virtq_map_create(&c->map, &region, 1, NULL), 0);
	assert_int_equal(virtq_ring_shape(drv.ring.features, SIZE, &s), 0);
	dev.ring = drv.ring;
	dev.map = c->map;
	drv.ring.desc = c->own;
	drv.ring.driver = c->own + s.driver_offset;
	drv.ring.device = c->own + s.device_offset;
	dev.ring.desc = host;
	dev.ring.driver = host + s.driver_offset;
	dev.ring.device = host + s.device_offset;
	assert_int_equal(virtq_driver_create(&c->driver, &drv, NULL), 0);
	assert_int_equal(virtq_device_create(&c->device, &dev, NULL), 0);
	memset(c->own + READABLE, 'r', BUFFER_BYTES);
}

static void client_close(struct client *c)
{
	virtq_driver_destroy(c->driver);
	virtq_device_destroy(c->device);
	virtq_map_unref(c->map);
	virtq_mapping_unref(c->mapping);
	munmap(c->own, FILE_BYTES);
	close(c->fd);
}

static void send(struct client *c)
{
	struct virtq_seg segs[2] = { { READABLE, BUFFER_BYTES }, { WRITABLE, BUFFER_BYTES } };
	struct virtq_buffer buf = { segs, 1, 1, c };

	assert_int_equal(virtq_driver_add(c->driver, &buf, 1), 1);
	virtq_driver_publish(c->driver);
}

/* Read and write all of it. Returns how many of the readable bytes were what was put there. */
static size_t serve(struct virtq_req *req)
{
	static uint8_t bytes[BUFFER_BYTES];
	size_t same = 0;

	assert_int_equal(virtq_req_read(req, bytes, sizeof(bytes)), sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i++)
		same += bytes[i] == 'r';
	memset(bytes, 'w', sizeof(bytes));
	assert_int_equal(virtq_req_write(req, bytes, sizeof(bytes)), sizeof(bytes));
	return same;
}

static void round_trip(struct client *c)
{
	struct virtq_completion done;
	struct virtq_req *req;

	send(c);
	assert_int_equal(virtq_device_pop(c->device, &req, 1), 1);
	assert_int_equal(serve(req), BUFFER_BYTES);
	virtq_device_push(c->device, &req, 1);
	virtq_device_publish(c->device);
	assert_int_equal(virtq_driver_get(c->driver, &done, 1), 1);
	assert_int_equal(done.written, BUFFER_BYTES);
	assert_int_equal(c->own[WRITABLE + BUFFER_BYTES - 1], 'w');
}

/* ---- What the guard is not for; before it is installed here ------------- */

static volatile sig_atomic_t foreign;

static void on_bus(int number)
{
	(void)number;
	foreign = 1;
	_exit(foreign ? 42 : 0);
}

/* A fault in memory that is none of ours: to the handler before us, or the end. */
static void test_foreign_fault(void **state)
{
	(void)state;
	for (int own_handler = 0; own_handler < 2; own_handler++) {
		pid_t child = fork();
		int status;

		assert_true(child >= 0);
		if (!child) {
			int fd = memfd_create("foreign", MFD_CLOEXEC);
			volatile uint8_t *at;

			signal(SIGBUS, own_handler ? on_bus : SIG_DFL);
			if (virtq_guard_install(NULL) || ftruncate(fd, PAGE) < 0)
				_exit(0);
			at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (ftruncate(fd, 0) < 0)
				_exit(0);
			*at = 1;
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		if (own_handler)
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
		else
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	}
}

/* ---- The file gets shorter ---------------------------------------------- */

/* cmocka puts handlers of its own around each test, and the guard is installed once. */
static void guard(void)
{
	static struct sigaction ours;
	static bool installed;

	assert_int_equal(virtq_guard_install(NULL), 0);
	assert_int_equal(sigaction(SIGBUS, installed ? &ours : NULL, installed ? NULL : &ours), 0);
	installed = true;
}

/* With a request on loan, one more in the ring, and used ones to be published. */
static void cut_down(const struct shape *shape, uint64_t bytes)
{
	struct client liar, other;
	struct virtq_req *reqs[2], *late;
	size_t same;
	int rc;

	guard();
	client_open(&liar, shape);
	client_open(&other, shape);
	round_trip(&liar);
	send(&liar);
	send(&liar);
	assert_int_equal(virtq_device_pop(liar.device, reqs, 2), 2);
	assert_int_equal(serve(reqs[0]), BUFFER_BYTES);
	virtq_device_push(liar.device, &reqs[0], 1);
	assert_int_equal(ftruncate(liar.fd, (off_t)bytes), 0);

	same = serve(reqs[1]);
	assert_int_equal(same, bytes <= READABLE ? 0 : bytes >= READABLE + BUFFER_BYTES ?
			 BUFFER_BYTES : bytes - READABLE);
	virtq_device_push(liar.device, &reqs[1], 1);
	virtq_device_publish(liar.device);
	/* Whatever zeros in the ring's place mean: nothing, or that the queue is broken. */
	for (int i = 0; i < 3; i++) {
		rc = virtq_device_pop(liar.device, &late, 1);
		assert_true(rc == 0 || rc == -EBADMSG);
		virtq_device_arm(liar.device);
		virtq_device_disarm(liar.device);
	}
	if (bytes >= READABLE) {
		/* The ring is still there: both came back. */
		struct virtq_completion done[3];

		assert_int_equal(virtq_driver_get(liar.driver, done, 3), 2);
	}
	round_trip(&other);
	client_close(&liar);
	round_trip(&other);
	client_close(&other);
}

static void test_cut(void **state)
{
	static const uint64_t lengths[] = {
		0, PAGE, READABLE, READABLE + PAGE, WRITABLE, WRITABLE + PAGE, FILE_BYTES - PAGE,
	};

	skip_unless_faults_tell_where();
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		cut_down(*state, lengths[i]);
}

/* Again and again, with new clients: nothing of the guard's is used up. */
static void test_many_clients(void **state)
{
	skip_unless_faults_tell_where();
	for (uint32_t i = 0; i < 200; i++)
		cut_down(*state, i % 2 * WRITABLE);
}

int main(void)
{
	static struct shape shapes[] = {
		{ .name = "split" },
		{ .packed = true, .event_idx = true, .name = "packed" },
	};
	struct matrix m = { 0 };

	matrix_add_one(&m, "foreign faults stay foreign", test_foreign_fault);
	matrix_add_shapes(&m, "the shared file is cut", test_cut, shapes, 2);
	matrix_add_shapes(&m, "many clients cut their files", test_many_clients,
			  shapes, 2);
	return matrix_run(&m, "files cut down");
}
