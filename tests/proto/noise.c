/* SPDX-License-Identifier: MIT */
/*
 * Random messages: known ids, payloads of the right size with values that are
 * nearly right, descriptors of all kinds. Whatever they do, the next client is
 * served and nothing leaks. VU-BE-003, VU-BE-006, VU-BE-031, VU-BE-046.
 */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGES 60000u
#define FILE_BYTES 0x20000u
#define USER 0x7f0000000000u

static uint64_t seed;

static uint32_t below(uint32_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 20) % limit;
}

static uint64_t number(void)
{
	static const uint64_t near[] = {
		0, 0, 0, 1, 1, 2, 3, 16, 64, 100, 256, 257, 0xffff, 0x10000, 0x8000, 0x80008000,
		0x100, 0x101, 0x102, 0x1000, 0x2000, FILE_BYTES, USER, USER + 0x1000,
		USER + 0x2000, USER + FILE_BYTES, UINT32_MAX, UINT64_MAX, UINT64_MAX - 0xfff,
		0x500000000, 0x540000000, 0x100000000, 0x140000000, 0x8209,
	};

	return near[below(sizeof(near) / sizeof(near[0]))];
}

/* The payload size that each id has most often. */
static size_t usual_size(uint32_t request)
{
	switch (request) {
	case VHOST_USER_SET_MEM_TABLE:
		return 8 + 32 * below(4);
	case VHOST_USER_SET_VRING_ADDR: case VHOST_USER_ADD_MEM_REG: case VHOST_USER_REM_MEM_REG:
		return 40;
	case VHOST_USER_GET_CONFIG: case VHOST_USER_SET_CONFIG:
		return 12 + below(20);
	case VHOST_USER_GET_FEATURES: case VHOST_USER_SET_OWNER: case VHOST_USER_RESET_OWNER:
	case VHOST_USER_GET_PROTOCOL_FEATURES: case VHOST_USER_GET_QUEUE_NUM:
	case VHOST_USER_RESET_DEVICE: case VHOST_USER_GET_MAX_MEM_SLOTS:
		return 0;
	default:
		return 8;
	}
}

static void fill(uint32_t request, uint8_t *payload, size_t bytes)
{
	uint32_t count = (uint32_t)bytes / 32, index = below(4);
	uint64_t value;

	for (size_t i = 0; i + 8 <= bytes; i += 8) {
		value = number();
		memcpy(payload + i, &value, 8);
	}
	if (request == VHOST_USER_SET_MEM_TABLE || request == VHOST_USER_ADD_MEM_REG) {
		if (request == VHOST_USER_SET_MEM_TABLE)
			memcpy(payload, &count, 4);
		for (uint32_t i = 0; below(4) && i < count; i++) {
			struct VhostUserMemoryRegion r = { i * FILE_BYTES, FILE_BYTES,
							   USER + i * FILE_BYTES, 0 };

			memcpy(payload + 8 + 32 * i, &r, 32);
		}
	} else if (request == VHOST_USER_SET_VRING_ADDR && below(4)) {
		struct VhostUserVringAddr a = { index, 0, USER, USER + 0x4000, USER + 0x8000, 0 };

		memcpy(payload, &a, 40);
	} else if (bytes == 8 && request != VHOST_USER_SET_FEATURES &&
		   request != VHOST_USER_SET_PROTOCOL_FEATURES && below(4)) {
		uint32_t state[2] = { index, below(2) ? below(300) : below(2) };

		memcpy(payload, state, 8);
		if (request >= VHOST_USER_SET_VRING_KICK && request <= VHOST_USER_SET_VRING_ERR)
			memset(payload + 4, 0, 4);
	}
}

static unsigned int usual_fds(uint32_t request, const uint8_t *payload)
{
	switch (request) {
	case VHOST_USER_SET_MEM_TABLE:
		return payload[0];
	case VHOST_USER_ADD_MEM_REG:
		return 1;
	case VHOST_USER_SET_VRING_KICK: case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		return !(payload[1] & 1);
	default:
		return 0;
	}
}

/* Read what came; false if the connection is over. */
static bool drain(int fd)
{
	char sink[4096];
	ssize_t n;

	do
		n = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
	while (n > 0);
	return n < 0 && errno == EAGAIN;
}

static bool send_noise(int fd, uint32_t request, const uint8_t *payload, size_t bytes, int *fds,
		       unsigned int fd_count)
{
	uint32_t header[3] = { request, VHOST_USER_VERSION | (below(40) ? 8 : 0),
			       (uint32_t)bytes };
	char control[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	struct iovec iov[2] = { { header, sizeof(header) },
				{ (void *)(uintptr_t)payload, bytes } };
	struct msghdr out = { .msg_iov = iov, .msg_iovlen = 2 };

	attach_fds(&out, control, fds, fd_count);
	return sendmsg(fd, &out, MSG_NOSIGNAL) == (ssize_t)(sizeof(header) + bytes);
}

/* Up to a running queue, so that noise meets one. Replies are for drain(). */
static void begin_well(int fd, int memory, int efd)
{
	uint64_t protocol = ALL_PROTOCOL, index = below(TOY_QUEUES);
	uint64_t features = layouts[below(2)] | (below(4) ? BIT_30 : 0);
	struct VhostUserMemory table = { .nregions = 1,
					 .regions = { { 0, FILE_BYTES, USER, 0 } } };
	struct VhostUserVringState num = { (uint32_t)index, 64 }, enable = { (uint32_t)index, 1 };
	struct VhostUserVringAddr addr = { (uint32_t)index, 0, USER, USER + 0x4000, USER + 0x8000,
					   0 };

	client_send(fd, VHOST_USER_SET_PROTOCOL_FEATURES, &protocol, 8);
	client_send(fd, VHOST_USER_SET_FEATURES, &features, 8);
	client_send_fds(fd, VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, &table, 8 + 32, &memory,
			1);
	client_send(fd, VHOST_USER_SET_VRING_NUM, &num, 8);
	client_send(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr));
	client_send_fds(fd, VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, &index, 8, &efd, 1);
	client_send_fds(fd, VHOST_USER_SET_VRING_KICK, VHOST_USER_VERSION, &index, 8, &efd, 1);
	client_send(fd, VHOST_USER_SET_VRING_ENABLE, &enable, 8);
}

static void test_noise(void **state)
{
	struct rig *r = *state;
	const char *given = getenv("VIRTQ_SEED");
	int memory = memfd_create("noise", MFD_CLOEXEC), efd = virtq_notify_open(), fd;
	unsigned int before, clients = 1, ends;

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)getpid() * 0x9e3779b97f4a7c15;
	print_message("VIRTQ_SEED=0x%llx\n", (unsigned long long)seed);
	assert_int_equal(ftruncate(memory, FILE_BYTES), 0);
	before = open_fds();
	fd = client_connect(r);
	for (unsigned int i = 0; i < MESSAGES; i++) {
		uint32_t request = below(50) ? 1 + below(below(2) ? 18 : 38) : below(60);
		size_t bytes = below(400) ? usual_size(request) : below(64);
		uint8_t payload[512] = { 0 };
		unsigned int fd_count;
		int fds[8];

		fill(request, payload, bytes);
		fd_count = below(400) ? usual_fds(request, payload) : below(9);
		if (fd_count > 8)
			fd_count = 8;
		for (unsigned int k = 0; k < fd_count; k++) {
			bool wants_memory = request == VHOST_USER_SET_MEM_TABLE ||
					    request == VHOST_USER_ADD_MEM_REG;

			fds[k] = (below(30) != 0) == wants_memory ? memory : efd;
		}
		if (!drain(fd) || !send_noise(fd, request, payload, bytes, fds, fd_count)) {
			close(fd);
			fd = client_connect(r);
			clients++;
			if (below(4))
				begin_well(fd, memory, efd);
		}
	}
	close(fd);
	print_message("%u clients\n", clients);
	/* It went deep enough to prove something. The recorder keeps the first events only. */
	assert_true(clients > 10);
	assert_true(rig_events(r, VIRTQ_VU_QUEUE_STARTED) > 10);
	assert_true(rig_events(r, VIRTQ_VU_QUEUE_STOPPED) > 10);
	fd = client_connect(r);
	client_alive(fd);
	close(fd);
	for (ends = 0; open_fds() != before && ends < 2000; ends++)
		usleep(1000);
	assert_int_equal(open_fds(), before);
	close(memory);
	close(efd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_noise, rig_setup, rig_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
