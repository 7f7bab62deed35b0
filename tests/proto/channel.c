/* SPDX-License-Identifier: MIT */
/*
 * The channel over which a back end says that its configuration has changed: ours
 * against clients that mean harm, our front end against such back ends, and both
 * against each other.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHANGES_MANY 20000u

static void make_channel(int ends[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

/* A connected client with a channel: @ours is what it reads. */
static int client_with_channel(struct rig *r, int *ours)
{
	int fd = client_connect(r), ends[2];

	client_negotiate(fd, ALL_PROTOCOL, 0);
	make_channel(ends);
	/* VU-BE-054: acknowledged. */
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &ends[1], 1),
			 0);
	close(ends[1]);
	*ours = ends[0];
	return fd;
}

/* Exactly one message: the change, with no answer asked for. */
static void expect_change(int fd)
{
	uint32_t header[3];

	assert_true(readable(fd, 2000));
	assert_int_equal(recv(fd, header, sizeof(header), MSG_WAITALL), 12);
	assert_int_equal(header[0], 2);		/* VHOST_USER_BACKEND_CONFIG_CHANGE_MSG */
	assert_int_equal(header[1], VHOST_USER_VERSION);
	assert_int_equal(header[2], 0);
}

static void expect_end(int fd)
{
	char byte;

	assert_true(readable(fd, 2000));
	assert_true(recv(fd, &byte, 1, 0) <= 0);
}

/* ---- Our back end. ---- */

/* BLK-DEV-011: one notification for each. */
static void test_change_is_told(void **state)
{
	struct rig *r = *state;
	int ours, fd = client_with_channel(r, &ours);

	client_silent(ours, 20);
	for (unsigned int i = 0; i < 3; i++) {
		virtq_vhost_user_server_config_changed(r->server);
		expect_change(ours);
		client_silent(ours, 0);
	}
	client_alive(fd);
	close(fd);
	expect_end(ours);	/* the channel goes with the connection */
	close(ours);
	virtq_vhost_user_server_config_changed(r->server);
}

/* VU-BE-053: only with CONFIG, BACKEND_REQ and a channel. */
static void test_change_is_told_only_where_agreed(void **state)
{
	static const uint64_t lacking[] = { BIT(VHOST_USER_PROTOCOL_F_CONFIG),
					    BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) };
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		int fd = client_connect(r), ends[2];
		uint64_t refused = lacking[i] == BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ);

		make_channel(ends);
		client_negotiate(fd, ALL_PROTOCOL & ~lacking[i], 0);
		assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0,
						&ends[1], 1), refused);
		close(ends[1]);
		virtq_vhost_user_server_config_changed(r->server);
		if (refused)
			expect_end(ends[0]);
		else
			client_silent(ends[0], 50);
		client_alive(fd);
		close(fd);
		close(ends[0]);
	}
}

/* VU-BE-053: what changes before the channel is there is told when it is, once. */
static void test_change_before_the_channel(void **state)
{
	struct rig *r = *state;
	int fd, ends[2], ours;

	virtq_vhost_user_server_config_changed(r->server);	/* before the client came */
	fd = client_with_channel(r, &ours);
	client_silent(ours, 50);
	close(fd);
	close(ours);

	fd = client_connect(r);
	client_negotiate(fd, ALL_PROTOCOL, 0);
	virtq_vhost_user_server_config_changed(r->server);
	virtq_vhost_user_server_config_changed(r->server);
	make_channel(ends);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &ends[1], 1),
			 0);
	expect_change(ends[0]);
	client_silent(ends[0], 50);
	close(fd);
	close(ends[0]);
	close(ends[1]);
}

/* VU-BE-054: a second channel takes the place of the first, and nothing leaks. */
static void test_channel_is_replaced(void **state)
{
	struct rig *r = *state;
	int ours, fd = client_with_channel(r, &ours);
	unsigned int before = open_fds();

	for (unsigned int i = 0; i < 10; i++) {
		int ends[2];

		make_channel(ends);
		/* Not every front end asks for an acknowledgement. */
		client_send_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_VERSION |
				(i % 2 ? VHOST_USER_NEED_REPLY_MASK : 0), NULL, 0, &ends[1], 1);
		if (i % 2)
			assert_int_equal(client_reply_u64(fd, VHOST_USER_SET_BACKEND_REQ_FD), 0);
		client_alive(fd);
		expect_end(ours);
		close(ours);
		close(ends[1]);
		ours = ends[0];
		virtq_vhost_user_server_config_changed(r->server);
		expect_change(ours);
	}
	assert_int_equal(open_fds(), before);
	close(fd);
	close(ours);
}

/* What cannot be a channel is refused, closed, and the one there was stays. */
static void test_fds_that_are_no_channel(void **state)
{
	struct rig *r = *state;
	int ours, fd = client_with_channel(r, &ours);
	int fds[5], pipe_fds[2];
	unsigned int before;

	assert_int_equal(pipe(pipe_fds), 0);
	fds[0] = pipe_fds[1];
	fds[1] = eventfd(0, 0);
	fds[2] = memfd_create("no-channel", 0);
	fds[3] = socket(AF_UNIX, SOCK_DGRAM, 0);
	fds[4] = socket(AF_INET, SOCK_STREAM, 0);
	before = open_fds();
	for (unsigned int i = 0; i < 5; i++) {
		if (fds[i] < 0)
			continue;	/* no network here */
		assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0,
						&fds[i], 1), 1);
		assert_int_equal(open_fds(), before);
		virtq_vhost_user_server_config_changed(r->server);
		expect_change(ours);
	}
	/* Without an acknowledgement it would be taken for a channel: the connection ends. */
	client_send_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_VERSION, NULL, 0, &fds[1],
			1);
	client_closed(fd);
	close(fd);
	close(ours);
	close(pipe_fds[0]);
	for (unsigned int i = 0; i < 5; i++)
		close(fds[i]);
}

/* No fd or two are no message; sockets that lead nowhere are a channel nobody hears. */
static void test_odd_channels(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), lonely = socket(AF_UNIX, SOCK_STREAM, 0), two[2];

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0,
						i ? &lonely : &fd, 1), 0);
		/* The first is this very connection, where it would hear itself. */
		if (i)
			virtq_vhost_user_server_config_changed(r->server);
		client_alive(fd);
	}
	client_send(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0);
	client_closed(fd);
	close(fd);

	fd = client_connect(r);
	client_negotiate(fd, ALL_PROTOCOL, 0);
	make_channel(two);
	client_send_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_VERSION, NULL, 0, two, 2);
	client_closed(fd);
	close(fd);
	close(two[0]);
	close(two[1]);
	close(lonely);
}

/* It is never waited for: nobody but the client can have made its socket blocking. */
static void test_client_that_never_reads(void **state)
{
	struct rig *r = *state;
	int ours, fd = client_with_channel(r, &ours);
	uint64_t begun = now_ms();
	unsigned int heard = 0;

	for (unsigned int i = 0; i < CHANGES_MANY; i++)
		virtq_vhost_user_server_config_changed(r->server);
	assert_true(now_ms() - begun < 5000);
	client_alive(fd);
	/* Whole messages only, fewer than there were; and it hears of the next. */
	for (; readable(ours, 0); heard++)
		expect_change(ours);
	assert_in_range(heard, 1, CHANGES_MANY - 1);
	virtq_vhost_user_server_config_changed(r->server);
	expect_change(ours);
	close(fd);
	close(ours);
}

static void test_client_closes_the_channel(void **state)
{
	struct rig *r = *state;
	int ours, fd = client_with_channel(r, &ours);
	unsigned int before = open_fds();

	close(ours);
	virtq_vhost_user_server_config_changed(r->server);
	virtq_vhost_user_server_config_changed(r->server);
	client_alive(fd);
	assert_int_equal(open_fds(), before - 2);	/* both ends */
	close(fd);
}

static void *change_on(void *arg)
{
	struct rig *r = arg;

	for (unsigned int i = 0; i < 2000; i++)
		virtq_vhost_user_server_config_changed(r->server);
	return NULL;
}

static void test_changes_from_other_threads_while_clients_come_and_go(void **state)
{
	struct rig *r = *state;
	pthread_t threads[2];
	unsigned int before = open_fds();

	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, change_on, r), 0);
	for (unsigned int i = 0; i < 50; i++) {
		int ours, fd = client_with_channel(r, &ours);

		close(i % 2 ? fd : ours);
		close(i % 2 ? ours : fd);
	}
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	rig_await(r, VIRTQ_VU_DISCONNECTED, 50, NULL);
	for (int i = 0; open_fds() != before && i < 200; i++)
		sleep_ms(5);
	assert_int_equal(open_fds(), before);
}

/* ---- Both of ours. ---- */

static void test_front_end_hears_of_it(void **state)
{
	struct rig *r = *state;
	struct virtq_transport *t;
	uint8_t byte;

	assert_int_equal(virtq_vhost_user_connect(&t, r->path, 2000, NULL), 0);
	assert_int_equal(virtq_transport_config_generation(t), 0);
	assert_true(virtq_transport_config_fd(t) >= 0);
	assert_false(readable(virtq_transport_config_fd(t), 20));
	for (uint32_t i = 1; i < 4; i++) {
		r->toy.config[7] = (uint8_t)i;
		virtq_vhost_user_server_config_changed(r->server);
		assert_true(readable(virtq_transport_config_fd(t), 2000));
		assert_int_equal(virtq_transport_config_generation(t), i);
		assert_false(readable(virtq_transport_config_fd(t), 0));
		assert_int_equal(virtq_transport_config_read(t, 7, &byte, 1, NULL), 0);
		assert_int_equal(byte, i);
	}
	/* It makes no noise on the connection itself. */
	assert_false(readable(virtq_transport_fd(t), 0));
	assert_int_equal(virtq_transport_alive(t), 1);
	virtq_transport_close(t);
}

static void write_config(struct virtq_transport *t, int before_accept, int read_only)
{
	struct virtq_features features = { { BIT(VIRTIO_F_VERSION_1), 0 } };
	uint8_t byte = 0x3c, back = 0;

	assert_int_equal(virtq_transport_config_write(t, TOY_CONFIG_WRITABLE, &byte, 1, NULL),
			 before_accept);
	assert_int_equal(virtq_transport_accept(t, features, NULL), 0);
	assert_int_equal(virtq_transport_config_write(t, TOY_CONFIG_WRITABLE, &byte, 1, NULL), 0);
	assert_int_equal(virtq_transport_config_read(t, TOY_CONFIG_WRITABLE, &back, 1, NULL), 0);
	assert_int_equal(back, byte);
	assert_int_equal(virtq_transport_config_write(t, 0, &byte, 1, NULL), read_only);
	assert_int_equal(virtq_transport_config_read(t, 0, &back, 1, NULL), 0);
	assert_int_equal(back, 0xc0);
	assert_int_equal(virtq_transport_config_write(t, 256, &byte, 1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_config_write(t, 0, &byte, 0, NULL), 0);
	assert_int_equal(virtq_transport_alive(t), 1);
}

static void test_config_is_written_through_both_transports(void **state)
{
	struct rig *r = *state;
	struct virtq_transport *t;

	assert_int_equal(virtq_vhost_user_connect(&t, r->path, 2000, NULL), 0);
	write_config(t, -EINVAL, -EIO);
	virtq_transport_close(t);

	r->toy.config[TOY_CONFIG_WRITABLE] = 0;
	assert_int_equal(virtq_loopback_open(&t, &r->toy.model, r->engines, 2, NULL), 0);
	assert_int_equal(virtq_transport_config_generation(t), 0);
	assert_int_equal(virtq_transport_config_fd(t), -1);
	write_config(t, -EINVAL, -EIO);
	virtq_transport_close(t);
}

/* ---- Our front end, and a back end that speaks on the channel before it answers. ---- */

struct speaker {
	int fd, channel;		/* channel: -1 until it came */
	bool refuses;			/* the channel */
	/* Said when GET_CONFIG comes, before the answer; may wait for one itself. */
	void (*speak)(struct speaker *s);
	bool answered;			/* as it had to be */
	pthread_t thread;
};

static void say(int fd, uint32_t request, uint32_t flags, const void *payload, size_t bytes)
{
	client_send_fds(fd, request, flags, payload, bytes, NULL, 0);
}

static bool take_message(struct speaker *s, uint32_t header[3], uint8_t payload[4096])
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { header, 12 };
	struct msghdr in = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control) };
	struct cmsghdr *c;

	if (recvmsg(s->fd, &in, MSG_WAITALL | MSG_CMSG_CLOEXEC) != 12)
		return false;
	c = CMSG_FIRSTHDR(&in);
	if (c)
		memcpy(&s->channel, CMSG_DATA(c), sizeof(int));
	return !header[2] || recv(s->fd, payload, header[2], MSG_WAITALL) == (ssize_t)header[2];
}

static void *speaker_run(void *arg)
{
	struct speaker *s = arg;
	uint32_t header[3];
	uint8_t payload[4096];

	while (take_message(s, header, payload)) {
		uint64_t value = 0;

		if (header[0] == VHOST_USER_GET_FEATURES)
			value = BIT_30 | virtq_ring_features_usual().word[0];
		else if (header[0] == VHOST_USER_GET_PROTOCOL_FEATURES)
			value = ALL_PROTOCOL & ~BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
		else if (header[0] == VHOST_USER_GET_QUEUE_NUM)
			value = 1;
		else if (header[0] == VHOST_USER_SET_BACKEND_REQ_FD)
			value = s->refuses;
		else if (header[0] == VHOST_USER_GET_CONFIG)
			s->speak(s);
		else if (!(header[1] & VHOST_USER_NEED_REPLY_MASK))
			continue;
		if (header[0] == VHOST_USER_GET_CONFIG)
			say(s->fd, header[0], 5, payload, header[2]);
		else
			say(s->fd, header[0], 5, &value, 8);
	}
	return NULL;
}

static struct virtq_transport *speaker_open(struct speaker *s)
{
	struct virtq_transport *t;
	int ends[2];

	make_channel(ends);
	s->fd = ends[1];
	s->channel = -1;
	assert_int_equal(pthread_create(&s->thread, NULL, speaker_run, s), 0);
	assert_int_equal(virtq_vhost_user_attach(&t, ends[0], 1000, NULL), 0);
	return t;
}

static void speaker_close(struct speaker *s, struct virtq_transport *t)
{
	virtq_transport_close(t);
	pthread_join(s->thread, NULL);
	close(s->fd);
	if (s->channel >= 0)
		close(s->channel);
}

static bool answered(struct speaker *s, uint32_t request, bool good)
{
	uint32_t header[3];
	uint64_t value;

	return readable(s->channel, 800) &&
	       recv(s->channel, header, 12, MSG_WAITALL) == 12 && header[0] == request &&
	       header[1] == 5 && header[2] == 8 &&
	       recv(s->channel, &value, 8, MSG_WAITALL) == 8 && good == !value;
}

static void ask_and_wait(struct speaker *s)
{
	const uint8_t payload[100] = { 0 };
	int fds[2] = { s->fd, s->channel };

	say(s->channel, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 9, NULL, 0);
	s->answered = answered(s, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, true);
	/* What it does not know it refuses, and goes on. */
	say(s->channel, VHOST_USER_BACKEND_VRING_CALL, 9, payload, 8);
	s->answered &= answered(s, VHOST_USER_BACKEND_VRING_CALL, false);
	client_send_fds(s->channel, 999, 9, payload, 100, fds, 2);
	s->answered &= answered(s, 999, false);
	say(s->channel, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 1, NULL, 0);
}

static uint8_t read_byte(struct virtq_transport *t)
{
	uint8_t byte = 0xff;

	assert_int_equal(virtq_transport_config_read(t, 0, &byte, 1, NULL), 0);
	return byte;
}

/* VU-FE-029, VU-FE-030, VU-FE-031: heard and answered while it waits for an answer itself. */
static void test_front_end_answers_while_it_waits(void **state)
{
	struct speaker s = { .speak = ask_and_wait };
	struct virtq_transport *t = speaker_open(&s);
	unsigned int before = open_fds();

	(void)state;
	assert_int_equal(read_byte(t), 0);
	assert_true(s.answered);
	assert_int_equal(virtq_transport_config_generation(t), 2);
	assert_int_equal(open_fds(), before);
	assert_int_equal(read_byte(t), 0);
	assert_int_equal(virtq_transport_config_generation(t), 4);
	speaker_close(&s, t);
}

static void say_nothing(struct speaker *s)
{
	(void)s;
}

/* A back end that refuses the channel is driven without. */
static void test_back_end_that_takes_no_channel(void **state)
{
	struct speaker s = { .speak = say_nothing, .refuses = true };
	struct virtq_transport *t = speaker_open(&s);

	(void)state;
	assert_int_equal(virtq_transport_config_fd(t), -1);
	assert_int_equal(virtq_transport_config_generation(t), 0);
	assert_int_equal(read_byte(t), 0);
	speaker_close(&s, t);
}

static void speak_nonsense(struct speaker *s)
{
	static const uint32_t nonsense[][3] = {
		{ 2, 1, 4 },			/* a change with a payload */
		{ 2, 5, 0 },			/* an answer to nothing */
		{ 2, 2, 0 },			/* another version */
		{ 999, 1, UINT32_MAX },
	};
	static unsigned int turn;

	send(s->channel, nonsense[turn++ % 4], 12, MSG_NOSIGNAL);
}

/* What makes no sense ends the channel, not the connection. */
static void test_nonsense_on_the_channel(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct speaker s = { .speak = speak_nonsense };
		struct virtq_transport *t = speaker_open(&s);

		read_byte(t);
		assert_int_equal(virtq_transport_config_generation(t), 0);
		assert_int_equal(virtq_transport_config_fd(t), -1);
		assert_int_equal(virtq_transport_alive(t), 1);
		s.speak = say_nothing;
		assert_int_equal(read_byte(t), 0);
		speaker_close(&s, t);
	}
}

static void flood(struct speaker *s)
{
	const uint32_t change[3] = { 2, 9, 0 };

	while (send(s->channel, change, 12, MSG_DONTWAIT | MSG_NOSIGNAL) == 12)
		;
}

/* One that floods it, and does not read what it asked for, neither hangs nor starves us. */
static void test_flood_on_the_channel(void **state)
{
	struct speaker s = { .speak = flood };
	struct virtq_transport *t = speaker_open(&s);
	uint64_t begun = now_ms();

	(void)state;
	for (unsigned int i = 0; i < 50; i++) {
		read_byte(t);
		virtq_transport_config_generation(t);
	}
	assert_true(now_ms() - begun < 5000);
	assert_int_equal(virtq_transport_alive(t), 1);
	speaker_close(&s, t);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_change_is_told),
		CASE(test_change_is_told_only_where_agreed),
		CASE(test_change_before_the_channel),
		CASE(test_channel_is_replaced),
		CASE(test_fds_that_are_no_channel),
		CASE(test_odd_channels),
		CASE(test_client_that_never_reads),
		CASE(test_client_closes_the_channel),
		CASE(test_changes_from_other_threads_while_clients_come_and_go),
		CASE(test_front_end_hears_of_it),
		CASE(test_config_is_written_through_both_transports),
		cmocka_unit_test(test_front_end_answers_while_it_waits),
		cmocka_unit_test(test_back_end_that_takes_no_channel),
		cmocka_unit_test(test_nonsense_on_the_channel),
		cmocka_unit_test(test_flood_on_the_channel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
