/* SPDX-License-Identifier: MIT */
/*
 * The front end against a back end from a script: what it sends, byte by byte,
 * and what it makes of answers that no back end should give.
 */
#include "script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct script modern(void)
{
	return (struct script){
		.features = BIT_30 | BIT(VIRTIO_F_VERSION_1) | BIT(VHOST_F_LOG_ALL) |
			    virtq_ring_features_usual().word[0],
		/* Without a channel; for that see channel.c. */
		.protocol = (ALL_PROTOCOL & ~BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ)) |
			    BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD),
		.queues = 4,
		.slots = 32,
	};
}

static int attach(struct script *s, struct virtq_transport **t, struct virtq_error *err)
{
	return script_attach(s, 200, t, err);
}

static void expect(const struct script *s, unsigned int i, uint32_t request, const void *payload,
		   uint32_t size, unsigned int fds, bool acked)
{
	const struct logged *msg = &s->log[i];

	if (i >= s->logged || msg->request != request || msg->size != size || msg->fds != fds)
		fail_msg("message %u is %u of %u bytes with %u fds, not %u of %u with %u", i,
			 msg->request, msg->size, msg->fds, request, size, fds);
	assert_int_equal(msg->flags, VHOST_USER_VERSION |
			 (acked ? VHOST_USER_NEED_REPLY_MASK : 0));
	if (size)
		assert_memory_equal(msg->payload, payload, size);
}

/* Trap 25: how long the payloads are. Numbers, not what our own headers make of them. */
static void test_payload_sizes(void **state)
{
	(void)state;
	assert_int_equal(sizeof(struct VhostUserHeader), 12);
	assert_int_equal(sizeof(struct VhostUserVringState), 8);
	assert_int_equal(sizeof(struct VhostUserVringAddr), 40);
	assert_int_equal(offsetof(struct VhostUserVringAddr, used), 16);
	assert_int_equal(offsetof(struct VhostUserVringAddr, available), 24);
	assert_int_equal(sizeof(struct VhostUserMemoryRegion), 32);
	assert_int_equal(offsetof(struct VhostUserMemoryRegion, mmap_offset), 24);
	assert_int_equal(sizeof(struct VhostUserMemory), 8 + 8 * 32);
	assert_int_equal(sizeof(struct VhostUserMemRegMsg), 40);
	assert_int_equal(sizeof(struct VhostUserConfig), 12 + 256);
}

/*
 * VU-FE-004, VU-FE-005, VU-FE-006, VU-FE-007, VU-FE-008, VU-FE-009, VU-FE-027: the
 * handshake, with and without protocol features.
 */
static void test_handshake(void **state)
{
	struct script s = modern(), old = modern();
	struct virtq_transport *t;
	uint64_t word;
	uint64_t agreed = BIT(0) | BIT(3) | BIT(9) | BIT(13) | BIT(15), features = layouts[0];

	(void)state;
	assert_int_equal(attach(&s, &t, NULL), 0);
	assert_int_equal(s.logged, 6);
	expect(&s, 0, VHOST_USER_SET_OWNER, NULL, 0, 0, false);
	expect(&s, 1, VHOST_USER_GET_FEATURES, NULL, 0, 0, false);
	expect(&s, 2, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0, 0, false);
	expect(&s, 3, VHOST_USER_SET_PROTOCOL_FEATURES, &agreed, 8, 0, false);
	expect(&s, 4, VHOST_USER_GET_QUEUE_NUM, NULL, 0, 0, false);
	expect(&s, 5, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0, 0, false);
	/* Bits 26 and 30 are not for drivers (trap 24). */
	assert_int_equal(virtq_transport_offered(t).word[0], virtq_ring_features_usual().word[0]);
	assert_int_equal(virtq_vhost_user_raw_features(t), s.features);
	assert_int_equal(virtq_vhost_user_protocol_features(t), s.protocol);
	assert_int_equal(virtq_vhost_user_mem_slots(t), 32);
	assert_int_equal(virtq_transport_queues(t), 4);
	assert_int_equal(virtq_transport_device_id(t), 0);
	assert_int_equal(virtq_transport_alive(t), 1);
	script_detach(&s, t);

	old.features &= ~BIT_30;
	assert_int_equal(attach(&old, &t, NULL), 0);
	assert_int_equal(old.logged, 2);		/* VU-FE-005 */
	assert_int_equal(virtq_transport_queues(t), 1);
	assert_int_equal(virtq_vhost_user_mem_slots(t), 8);
	assert_int_equal(virtq_transport_accept(t, (struct virtq_features){ { features, 0 } },
						NULL), 0);
	assert_int_equal(virtq_transport_config_read(t, 0, &word, 8, NULL), -ENOTSUP);
	script_detach(&old, t);
	expect(&old, 2, VHOST_USER_SET_FEATURES, &features, 8, 0, false);
	assert_string_equal(virtq_vhost_user_protocol_name(15), "CONFIGURE_MEM_SLOTS");
	assert_null(virtq_vhost_user_protocol_name(24));
	assert_null(virtq_vhost_user_protocol_name(UINT32_MAX));
}

/* VU-FE-014, VU-FE-017, VU-FE-018, VU-FE-019, VU-FE-020: sharing, starting, stopping on the wire. */
static void test_queue_on_the_wire(void **state)
{
	struct script s = modern();
	struct virtq_transport *t;
	struct queue q;
	struct VhostUserMemoryRegion region;
	struct VhostUserVringAddr addr;
	uint64_t features = layouts[1], wire = layouts[1] | BIT_30, index = 2, no_fd = 2 | 0x100;
	uint32_t table[10] = { 1, 0 }, num[2] = { 2, 64 }, base[2] = { 2, 0x80008000 };
	uint32_t enable[2] = { 2, 1 }, get_base[2] = { 2, 0 }, position = 1;
	uint8_t config[20];
	uint32_t config_header[3] = { 0, 20, 0 };
	uint8_t config_wire[12 + 20] = { 0 };

	(void)state;
	assert_int_equal(attach(&s, &t, NULL), 0);
	queue_open(&q, -1, 0, layouts[1], 64);
	assert_int_equal(virtq_transport_accept(t, (struct virtq_features){ { features, 0 } },
						NULL), 0);
	assert_int_equal(virtq_transport_config_read(t, 8, config, 12, NULL), 0);
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	assert_int_equal(virtq_transport_start(t, 2, q.driver, q.kick_fd, q.call_fd, NULL), 0);
	assert_int_equal(virtq_notify_wait(q.kick_fd, 0), 1);		/* VU-FE-017 */
	assert_int_equal(virtq_transport_stop(t, 2, &position, NULL), 0);
	assert_int_equal(position, 0);
	assert_int_equal(virtq_transport_start(t, 2, q.driver, -1, -1, NULL), 0);
	script_detach(&s, t);				/* closing stops what runs */

	region = queue_region(&q);
	memcpy(&table[2], &region, sizeof(region));
	addr = queue_addr(&q);
	addr.index = 2;
	assert_int_equal(sizeof(addr), 40);
	memcpy(config_wire, config_header, sizeof(config_header));
	expect(&s, 6, VHOST_USER_SET_FEATURES, &wire, 8, 0, true);
	/* From offset 0: some back ends ignore it. */
	expect(&s, 7, VHOST_USER_GET_CONFIG, config_wire, 12 + 20, 0, false);
	expect(&s, 8, VHOST_USER_SET_MEM_TABLE, table, 8 + 32, 1, true);
	expect(&s, 9, VHOST_USER_SET_VRING_NUM, num, 8, 0, true);
	expect(&s, 10, VHOST_USER_SET_VRING_BASE, base, 8, 0, true);
	expect(&s, 11, VHOST_USER_SET_VRING_ADDR, &addr, 40, 0, true);
	expect(&s, 12, VHOST_USER_SET_VRING_CALL, &index, 8, 1, true);
	expect(&s, 13, VHOST_USER_SET_VRING_KICK, &index, 8, 1, true);
	expect(&s, 14, VHOST_USER_SET_VRING_ENABLE, enable, 8, 0, true);
	expect(&s, 15, VHOST_USER_GET_VRING_BASE, get_base, 8, 0, false);
	expect(&s, 19, VHOST_USER_SET_VRING_CALL, &no_fd, 8, 0, true);
	expect(&s, 20, VHOST_USER_SET_VRING_KICK, &no_fd, 8, 0, true);
	expect(&s, 22, VHOST_USER_GET_VRING_BASE, get_base, 8, 0, false);
	assert_int_equal(s.logged, 23);
	queue_close(&q);
}

/* Regions of one page each; the first is the queue's. */
static struct virtq_map *many_regions(const struct queue *q, unsigned int first,
				      unsigned int count)
{
	struct virtq_region regions[40];
	struct virtq_map *map;
	unsigned int n;

	regions[0] = *virtq_map_regions(q->map, &n);
	for (unsigned int i = 1; i < count; i++) {
		regions[i] = regions[0];
		regions[i].gpa = 0x10000000 + (uint64_t)(first + i) * 0x1000;
		regions[i].user = 0x10000000 + (uint64_t)(first + i) * 0x1000;
		regions[i].size_bytes = 0x1000;
	}
	assert_int_equal(virtq_map_create(&map, regions, count, NULL), 0);
	return map;
}

/* VU-FE-012, VU-FE-013, VU-FE-015, VU-FE-016: 8 in a table, more one by one. */
static void test_many_regions(void **state)
{
	struct script s = modern();
	struct virtq_transport *t;
	struct virtq_map *maps[4];
	struct virtq_error err;
	struct queue q;

	(void)state;
	assert_int_equal(attach(&s, &t, NULL), 0);
	queue_open(&q, -1, 0, layouts[0], 64);
	maps[0] = many_regions(&q, 0, 8);
	maps[1] = many_regions(&q, 0, 10);
	maps[2] = many_regions(&q, 1, 10);
	maps[3] = many_regions(&q, 0, 33);
	assert_int_equal(virtq_transport_share(t, maps[0], NULL), 0);
	assert_int_equal(virtq_transport_share(t, maps[1], NULL), 0);
	assert_int_equal(virtq_transport_share(t, maps[2], NULL), 0);
	assert_int_equal(virtq_transport_share(t, maps[3], &err), -EINVAL);
	assert_non_null(strstr(err.text, "32"));
	script_detach(&s, t);
	assert_int_equal(s.log[6].request, VHOST_USER_SET_MEM_TABLE);
	assert_int_equal(s.log[6].size, 8 + 8 * 32);
	assert_int_equal(s.log[6].fds, 8);
	for (unsigned int i = 7; i < 9; i++) {
		assert_int_equal(s.log[i].request, VHOST_USER_ADD_MEM_REG);
		assert_int_equal(s.log[i].size, 40);
		assert_int_equal(s.log[i].fds, 1);
	}
	assert_int_equal(s.log[9].request, VHOST_USER_REM_MEM_REG);
	assert_int_equal(s.log[9].fds, 0);
	assert_int_equal(s.log[10].request, VHOST_USER_ADD_MEM_REG);
	assert_int_equal(s.logged, 11);
	for (unsigned int i = 0; i < 4; i++)
		virtq_map_unref(maps[i]);
	queue_close(&q);
}

/* Go all the way, and say how far it went well. */
static int whole_life(struct script *s, struct virtq_error *err, int *alive)
{
	struct virtq_transport *t;
	struct virtq_map *ten;
	struct queue q;
	uint8_t config[8];
	int rc = attach(s, &t, err);

	*alive = 0;
	if (rc) {
		pthread_join(s->thread, NULL);
		close(s->sockets[1]);
		return rc;
	}
	queue_open(&q, -1, 0, layouts[0], 64);
	ten = many_regions(&q, 0, 10);
	rc = virtq_transport_accept(t, (struct virtq_features){ { layouts[0], 0 } }, err);
	if (!rc)
		rc = virtq_transport_config_read(t, 0, config, sizeof(config), err);
	if (!rc)
		rc = virtq_transport_share(t, ten, err);
	if (!rc)
		rc = virtq_transport_share(t, q.map, err);
	if (!rc)
		rc = virtq_transport_start(t, 1, q.driver, q.kick_fd, q.call_fd, err);
	if (!rc)
		rc = virtq_transport_stop(t, 1, NULL, err);
	*alive = virtq_transport_alive(t);
	script_detach(s, t);
	virtq_map_unref(ten);
	queue_close(&q);
	return rc;
}

/* VU-FE-002, VU-FE-003: whatever comes back wrong ends the connection, with a sentence. */
static void test_wrong_answers(void **state)
{
	static const uint32_t answered[] = {
		VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES,
		VHOST_USER_GET_QUEUE_NUM, VHOST_USER_GET_MAX_MEM_SLOTS, VHOST_USER_SET_FEATURES,
		VHOST_USER_GET_CONFIG, VHOST_USER_ADD_MEM_REG, VHOST_USER_SET_MEM_TABLE,
		VHOST_USER_SET_VRING_NUM, VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_ADDR,
		VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_ENABLE,
		VHOST_USER_GET_VRING_BASE,
	};
	static const enum misdeed misdeeds[] = {
		CLOSE, HALF_HEADER, HALF_PAYLOAD, WRONG_ID, NO_REPLY_BIT, VERSION_2, SHORT, LONG,
		HUGE_SIZE,
	};
	unsigned int before = open_fds();

	(void)state;
	for (unsigned int a = 0; a < sizeof(answered) / sizeof(answered[0]); a++) {
		for (unsigned int m = 0; m < sizeof(misdeeds) / sizeof(misdeeds[0]); m++) {
			struct script s = modern();
			struct virtq_error err = { 0, "" };
			int rc, alive;

			s.bad_request = answered[a];
			s.misdeed = misdeeds[m];
			rc = whole_life(&s, &err, &alive);
			if (rc != -EPROTO || alive || err.code != rc || !err.text[0])
				fail_msg("message %u, misdeed %u: %d, '%s'", answered[a],
					 misdeeds[m], rc, err.text);
		}
	}
	assert_int_equal(open_fds(), before);
}

/* No answer at all: the timeout, and no longer. */
static void test_silence(void **state)
{
	static const uint32_t silent[] = { VHOST_USER_GET_FEATURES, VHOST_USER_SET_FEATURES,
					   VHOST_USER_GET_CONFIG, VHOST_USER_GET_VRING_BASE };

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct script s = modern();
		struct virtq_error err;
		int alive;

		s.bad_request = silent[i];
		s.misdeed = SILENT;
		assert_int_equal(whole_life(&s, &err, &alive), -ETIMEDOUT);
		assert_int_equal(alive, 0);
		assert_non_null(strstr(err.text, "no answer"));
	}
}

/* VU-FE-027, VU-FE-032: a refusal is an error with a sentence, and the connection stays. */
static void test_refusals(void **state)
{
	static const struct { uint32_t request; enum misdeed how; int alive; } cases[] = {
		{ VHOST_USER_SET_FEATURES, NACK, 1 }, { VHOST_USER_GET_CONFIG, EMPTY, 1 },
		{ VHOST_USER_SET_MEM_TABLE, NACK, 1 }, { VHOST_USER_SET_VRING_KICK, NACK, 1 },
		{ VHOST_USER_SET_VRING_ENABLE, NACK, 1 },
		{ VHOST_USER_ADD_MEM_REG, NACK, 0 },	/* half a table: no way back */
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct script s = modern();
		struct virtq_error err;
		int alive;

		s.bad_request = cases[i].request;
		s.misdeed = cases[i].how;
		assert_int_equal(whole_life(&s, &err, &alive), -EIO);
		assert_int_equal(alive, cases[i].alive);
		assert_non_null(strstr(err.text, "refused"));
	}
}

/* VU-FE-041, VU-FE-031, VU-FE-010: answers whose form is right and whose content is not. */
static void test_impossible_answers(void **state)
{
	static const struct { uint32_t request; enum misdeed how; int rc; } cases[] = {
		{ VHOST_USER_GET_VRING_BASE, WRONG_INDEX, -EPROTO },
		{ VHOST_USER_GET_VRING_BASE, WRONG_BASE, -EPROTO },	/* split: 0x10000 */
		{ VHOST_USER_GET_QUEUE_NUM, ZERO, -EPROTO },
		{ VHOST_USER_GET_FEATURES, WITH_FDS, 0 },		/* closed, that is all */
		{ VHOST_USER_SET_FEATURES, WITH_FDS, 0 },
		{ VHOST_USER_GET_FEATURES, ZERO, -EINVAL },		/* nothing is offered */
	};
	unsigned int before = open_fds();

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct script s = modern();
		struct virtq_error err = { 0, "" };
		int alive;

		s.bad_request = cases[i].request;
		s.misdeed = cases[i].how;
		assert_int_equal(whole_life(&s, &err, &alive), cases[i].rc);
		assert_int_equal(open_fds(), before);
	}
}

/* Nobody there; a path that cannot be; and somebody who hangs up. */
static void test_connect(void **state)
{
	struct virtq_transport *t;
	struct virtq_error err;
	char path[200];

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(virtq_vhost_user_connect(&t, path, 0, &err), -ENAMETOOLONG);
	assert_int_equal(virtq_vhost_user_connect(&t, "", 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "1 to 107 bytes"));
	assert_int_equal(virtq_vhost_user_connect(&t, "/nowhere/at/all", 0, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

/* A backlog that is full and stays so: the wait ends. */
static void test_connect_times_out(void **state)
{
	struct virtq_transport *t;
	struct virtq_error err;
	char path[64];
	int fd, fds[4096 / 64];
	unsigned int n = 0;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/virtq-backlog-%d.sock", (int)getpid());
	fd = virtq_vhost_user_listen(path, NULL);
	assert_true(fd >= 0);
	assert_int_equal(listen(fd, 1), 0);
	/* Attach gives up on each of them, and leaves it in the backlog. */
	while (n < sizeof(fds) / sizeof(fds[0])) {
		int rc = virtq_vhost_user_connect(&t, path, 50, &err);

		assert_int_equal(rc, -ETIMEDOUT);
		if (strstr(err.text, "connect"))
			break;
		n++;
	}
	assert_true(n < sizeof(fds) / sizeof(fds[0]));
	close(fd);
	unlink(path);
}

/* What the transport refuses before anything is sent. */
static void test_arguments(void **state)
{
	struct script s = modern();
	struct virtq_transport *t;
	struct virtq_features some = { { layouts[0], 0 } };
	struct virtq_region no_fd;
	struct virtq_map *map;
	struct queue q, foreign, packed;
	uint8_t byte;
	unsigned int n, logged;

	(void)state;
	assert_int_equal(attach(&s, &t, NULL), 0);
	queue_open(&q, -1, 0, layouts[0], 64);
	queue_open(&foreign, -1, 1, layouts[0], 64);
	queue_open(&packed, -1, 0, layouts[1], 64);
	logged = s.logged;
	assert_int_equal(virtq_transport_accept(t, virtq_features_with(some, 3), NULL), -EINVAL);
	assert_int_equal(virtq_transport_accept(t, virtq_features_with(some, 100), NULL),
			 -EINVAL);
	assert_int_equal(virtq_transport_accept(t, virtq_features_with(some, 30), NULL), -EINVAL);
	assert_int_equal(virtq_transport_config_read(t, 256, &byte, 1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_config_read(t, 1, &byte, UINT32_MAX, NULL), -EINVAL);
	no_fd = *virtq_map_regions(q.map, &n);
	no_fd.fd = -1;
	assert_int_equal(virtq_map_create(&map, &no_fd, 1, NULL), 0);
	assert_int_equal(virtq_transport_share(t, map, NULL), -EINVAL);
	virtq_map_unref(map);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, -1, -1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_stop(t, 0, NULL, NULL), -EINVAL);
	assert_int_equal(s.logged, logged);

	assert_int_equal(virtq_transport_accept(t, some, NULL), 0);
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	logged = s.logged;
	assert_int_equal(virtq_transport_start(t, 4, q.driver, -1, -1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_start(t, 0, foreign.driver, -1, -1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_start(t, 0, packed.driver, -1, -1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_stop(t, 4, NULL, NULL), -EINVAL);
	assert_int_equal(s.logged, logged);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, -1, -1, NULL), 0);
	logged = s.logged;
	assert_int_equal(virtq_transport_start(t, 0, q.driver, -1, -1, NULL), -EINVAL);
	assert_int_equal(virtq_transport_accept(t, some, NULL), -EINVAL);
	/* The ring of a running queue stays in memory that the device can reach. */
	assert_int_equal(virtq_transport_share(t, foreign.map, NULL), -EINVAL);
	assert_int_equal(s.logged, logged);
	assert_int_equal(virtq_transport_stop(t, 0, NULL, NULL), 0);
	/* Buffers that the device would never see. */
	queue_request(&q, 'e');
	assert_int_equal(virtq_transport_start(t, 0, q.driver, -1, -1, NULL), -EINVAL);
	script_detach(&s, t);
	virtq_transport_close(NULL);
	queue_close(&q);
	queue_close(&foreign);
	queue_close(&packed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_payload_sizes),
		cmocka_unit_test(test_handshake),
		cmocka_unit_test(test_queue_on_the_wire),
		cmocka_unit_test(test_many_regions),
		cmocka_unit_test(test_wrong_answers),
		cmocka_unit_test(test_silence),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_impossible_answers),
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_connect_times_out),
		cmocka_unit_test(test_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
