/* SPDX-License-Identifier: MIT */
/* Messages as bytes: pieces, pairs, descriptors in wrong places, and headers that lie. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../emulated.h"

static void send_bytes(int fd, const void *bytes, size_t count)
{
	assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), count);
}

static void send_with_fds(int fd, const void *bytes, size_t count, const int *fds,
			  unsigned int fd_count)
{
	char control[CMSG_SPACE(16 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)(uintptr_t)bytes, count };
	struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };

	attach_fds(&out, control, fds, fd_count);
	assert_int_equal(sendmsg(fd, &out, MSG_NOSIGNAL), count);
}

/* Open descriptors that an exec would not close. */
static unsigned int inheritable_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++) {
		int flags = fcntl(fd, F_GETFD);

		n += flags >= 0 && !(flags & FD_CLOEXEC);
	}
	return n;
}

/* VU-BE-004, VU-BE-005: byte by byte, with pauses, and with a descriptor on the first. */
static void test_byte_by_byte(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), call = virtq_notify_open();
	struct {
		uint32_t header[3];
		uint32_t payload[2];
	} set_call = { { VHOST_USER_SET_VRING_CALL,
			 VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, 8 }, { 0, 0 } };
	const uint8_t *bytes = (const uint8_t *)&set_call;
	unsigned int before, inheritable;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	before = open_fds();
	inheritable = inheritable_fds();
	send_with_fds(fd, bytes, 1, &call, 1);
	for (unsigned int i = 1; i < sizeof(set_call); i++) {
		client_silent(fd, 1);
		send_bytes(fd, bytes + i, 1);
	}
	assert_int_equal(client_reply_u64(fd, VHOST_USER_SET_VRING_CALL), 0);
	assert_int_equal(open_fds(), before + 1);
	assert_int_equal(inheritable_fds(), inheritable);
	close(call);
	close(fd);
}

/* Every place at which a message can be cut in two. */
static void test_cut_anywhere(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);
	uint32_t num[5] = { VHOST_USER_SET_VRING_NUM,
			    VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, 8, 0, 64 };
	const uint8_t *bytes = (const uint8_t *)num;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int cut = 1; cut < sizeof(num); cut++) {
		send_bytes(fd, bytes, cut);
		client_silent(fd, 2);
		send_bytes(fd, bytes + cut, sizeof(num) - cut);
		assert_int_equal(client_reply_u64(fd, VHOST_USER_SET_VRING_NUM), 0);
	}
	close(fd);
}

/* Many messages in one send are as many messages. */
static void test_several_in_one_send(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);
	uint32_t many[100][3];

	for (unsigned int i = 0; i < 100; i++) {
		many[i][0] = i % 2 ? VHOST_USER_GET_FEATURES : VHOST_USER_GET_QUEUE_NUM;
		many[i][1] = VHOST_USER_VERSION;
		many[i][2] = 0;
	}
	send_bytes(fd, many, sizeof(many));
	for (unsigned int i = 0; i < 100; i++)
		client_reply_u64(fd, many[i][0]);
	client_alive(fd);
	close(fd);
}

/* VU-BE-001, VU-BE-003: headers that no request has. */
static void test_malformed_headers_close(void **state)
{
	static const uint32_t cases[][3] = {
		{ VHOST_USER_GET_FEATURES, 0, 0 },			/* version 0 */
		{ VHOST_USER_GET_FEATURES, 2, 0 },
		{ VHOST_USER_GET_FEATURES, 3, 0 },
		{ VHOST_USER_GET_FEATURES, 5, 0 },			/* a reply */
		{ 1000, 0, 0 },
		{ VHOST_USER_GET_FEATURES, 1, 8 },			/* payload sizes */
		{ VHOST_USER_SET_FEATURES, 1, 0 },
		{ VHOST_USER_SET_FEATURES, 1, 4 },
		{ VHOST_USER_SET_FEATURES, 1, 9 },
		{ VHOST_USER_SET_FEATURES, 1, UINT32_MAX },
		{ VHOST_USER_SET_OWNER, 1, 8 },
		{ VHOST_USER_SET_VRING_NUM, 1, 4 },
		{ VHOST_USER_SET_VRING_ADDR, 1, 32 },
		{ VHOST_USER_SET_VRING_ADDR, 1, 44 },
		{ VHOST_USER_SET_VRING_KICK, 1, 4 },
		{ VHOST_USER_SET_MEM_TABLE, 1, 4096 },
		{ VHOST_USER_ADD_MEM_REG, 1, 32 },
		{ VHOST_USER_GET_CONFIG, 1, 11 },
		{ VHOST_USER_SET_CONFIG, 1, 12 + 257 },
		{ 1000, 1, 4097 },					/* unknown, and long */
		{ 1000, 1, UINT32_MAX },
	};
	struct rig *r = *state;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = client_connect(r);
		char text[256];

		client_negotiate(fd, ALL_PROTOCOL, 0);
		send_bytes(fd, cases[i], sizeof(cases[i]));
		client_closed(fd);
		rig_await(r, VIRTQ_VU_REFUSED, i + 1, text);
		assert_non_null(strstr(text, "message"));
		close(fd);
	}
}

/* VU-BE-004: the end in the middle of a message is no orderly end. */
static void test_truncated_messages(void **state)
{
	struct rig *r = *state;
	uint32_t num[5] = { VHOST_USER_SET_VRING_NUM, VHOST_USER_VERSION, 8, 0, 64 };

	for (unsigned int i = 0; i < sizeof(num) - 1; i++) {
		int fd = client_connect(r);

		send_bytes(fd, num, i + 1);
		close(fd);
		rig_await(r, VIRTQ_VU_REFUSED, i + 1, NULL);
	}
	assert_int_equal(rig_events(r, VIRTQ_VU_DISCONNECTED), 0);
}

static const uint32_t no_fd_messages[] = {
	VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES, VHOST_USER_SET_OWNER,
	VHOST_USER_RESET_OWNER, VHOST_USER_GET_QUEUE_NUM, VHOST_USER_RESET_DEVICE,
	VHOST_USER_GET_MAX_MEM_SLOTS,
};

/* VU-BE-006, VU-BE-041: too many descriptors, too few, too late; none of them stays open. */
static void test_descriptors_in_wrong_places(void **state)
{
	struct rig *r = *state;
	uint32_t call[5] = { VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, 8, 0, 0 };
	uint32_t call_no_fd[5] = { VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, 8 };
	uint32_t table[5] = { VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, 8, 0, 0 };
	const uint8_t *bytes = (const uint8_t *)call;
	unsigned int before = open_fds() + 1, refused = 0;
	uint64_t no_fd = 0x100;
	unsigned int kept = 0;
	int fds[16], efd = virtq_notify_open();

	memcpy(call_no_fd + 3, &no_fd, sizeof(no_fd));
	/* qemu-user 7.2 does not close what it cuts off: 8 of 16, 1 of 9, 8 of 16 in what follows. */
	if (emulated())
		kept = 17;
	for (unsigned int i = 0; i < 16; i++)
		fds[i] = efd;
	for (unsigned int i = 0; i < 8 + sizeof(no_fd_messages) / 4; i++) {
		int fd = client_connect(r);

		client_negotiate(fd, ALL_PROTOCOL, 0);
		switch (i) {
		case 0:		/* bit 8 is clear, and none comes */
			send_bytes(fd, call, sizeof(call));
			break;
		case 1:		/* bit 8 is set, and one comes */
			send_with_fds(fd, call_no_fd, sizeof(call_no_fd), fds, 1);
			break;
		case 2:
			send_with_fds(fd, call, sizeof(call), fds, 2);
			break;
		case 3:		/* more than any message has: truncated ancillary data */
			send_with_fds(fd, call, sizeof(call), fds, 16);
			break;
		case 4:
			send_with_fds(fd, table, sizeof(table), fds, 9);
			break;
		case 5:		/* with the payload */
			send_bytes(fd, call, 12);
			client_silent(fd, 10);
			send_with_fds(fd, bytes + 12, 8, fds, 1);
			break;
		case 6:		/* with the second half of the header */
			send_bytes(fd, call, 6);
			client_silent(fd, 10);
			send_with_fds(fd, bytes + 6, sizeof(call) - 6, fds, 1);
			break;
		case 7:		/* some now, some later */
			send_with_fds(fd, call, 12, fds, 1);
			send_with_fds(fd, bytes + 12, 8, fds, 16);
			break;
		default:
			client_send_fds(fd, no_fd_messages[i - 8], VHOST_USER_VERSION, NULL, 0, fds,
					1);
			break;
		}
		client_closed(fd);
		rig_await(r, VIRTQ_VU_REFUSED, ++refused, NULL);
		close(fd);
	}
	for (unsigned int tries = 0; open_fds() > before + kept && tries < 1000; tries++)
		usleep(1000);
	assert_in_range(open_fds(), before, before + kept);
	close(efd);
}

/* A client that never reads its answers is cut off; the server does not stand still for it. */
static void test_client_that_does_not_read(void **state)
{
	struct rig *r = *state;
	uint32_t get[3] = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 };
	int fd = client_connect(r), other;

	/* Blocks while the server waits for us, and fails once it no longer does. */
	while (send(fd, get, sizeof(get), MSG_NOSIGNAL) == sizeof(get))
		;
	rig_await(r, VIRTQ_VU_REFUSED, 1, NULL);
	other = client_connect(r);
	client_alive(other);
	close(other);
	close(fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_byte_by_byte),
		CASE(test_cut_anywhere),
		CASE(test_several_in_one_send),
		CASE(test_malformed_headers_close),
		CASE(test_truncated_messages),
		CASE(test_descriptors_in_wrong_places),
		CASE(test_client_that_does_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
