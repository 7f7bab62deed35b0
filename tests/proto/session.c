/* SPDX-License-Identifier: MIT */
/* Negotiation, acknowledgements, configuration: what a client says before rings matter. */
#include "rig.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <virtq/spec/virtio.h>

static uint64_t ring_features(void)
{
	return virtq_ring_features_usual().word[0];
}

/* VU-BE-009, VU-BE-010: bit 30 is offered, and both messages work before SET_FEATURES. */
static void test_offers(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);

	assert_int_equal(client_get_u64(fd, VHOST_USER_GET_FEATURES),
			 TOY_FEATURES | ring_features() | BIT_30);
	assert_int_equal(client_get_u64(fd, VHOST_USER_GET_PROTOCOL_FEATURES), ALL_PROTOCOL);
	client_negotiate(fd, ALL_PROTOCOL, 0);
	/* VU-BE-047, VU-BE-038 */
	assert_int_equal(client_get_u64(fd, VHOST_USER_GET_QUEUE_NUM), TOY_QUEUES);
	assert_true(client_get_u64(fd, VHOST_USER_GET_MAX_MEM_SLOTS) >= 32);
	close(fd);
}

/* A subset of what was offered, with VERSION_1, that the device can work with. */
static void test_acknowledged_features_are_checked(void **state)
{
	struct rig *r = *state;
	const uint64_t v1 = BIT(VIRTIO_F_VERSION_1), packed = BIT(VIRTIO_F_RING_PACKED);
	static const struct { uint64_t features, ack; } cases[] = {
		{ BIT(VIRTIO_F_VERSION_1) | BIT_30, 0 },
		{ 0, 1 },					/* legacy */
		{ BIT(VIRTIO_F_INDIRECT_DESC), 1 },		/* legacy */
		{ BIT(VIRTIO_F_VERSION_1) | BIT(7), 1 },	/* not offered */
		{ BIT(VIRTIO_F_VERSION_1) | BIT(VHOST_F_LOG_ALL), 1 },
		{ BIT(VIRTIO_F_VERSION_1) | BIT(63), 1 },
		{ BIT(VIRTIO_F_VERSION_1) | BIT(5), 1 },	/* the device refuses 5 without 6 */
		{ BIT(VIRTIO_F_VERSION_1) | BIT(5) | BIT(6), 0 },
	};
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, cases[i].features),
				 cases[i].ack);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, packed), 1);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, packed | v1), 0);
	close(fd);
}

/* What is refused without an acknowledgement is not taken for done: the connection ends. */
static void test_unacknowledged_refusals_close(void **state)
{
	struct rig *r = *state;
	const uint64_t wrong = BIT(7);
	char text[256];
	int fd = client_connect(r);

	client_negotiate(fd, 0, 0);
	client_send(fd, VHOST_USER_SET_FEATURES, &wrong, sizeof(wrong));
	client_closed(fd);
	rig_await(r, VIRTQ_VU_REFUSED, 1, text);
	assert_non_null(strstr(text, "0x80"));
	close(fd);
}

/* VU-BE-084, VU-BE-106: protocol features that were not offered. */
static void test_protocol_features_not_offered(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);
	uint64_t in_band = BIT(VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_PROTOCOL_FEATURES,
					ALL_PROTOCOL | BIT(40)), 1);
	client_alive(fd);
	client_send(fd, VHOST_USER_SET_PROTOCOL_FEATURES, &in_band, sizeof(in_band));
	client_closed(fd);
	close(fd);
}

/* VU-BE-056, VU-BE-057: each message without a reply of its own is acknowledged, once. */
static void test_every_message_is_acknowledged_once(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemory empty_table = { .nregions = 0 };
	struct VhostUserConfig config = { .offset = TOY_CONFIG_WRITABLE, .size = 1 };
	struct VhostUserMemRegMsg reg;
	struct VhostUserVringAddr addr;
	struct VhostUserVringState vring = { 0, 1 };
	struct queue q;
	int fd = client_connect(r), memory;
	static const uint32_t with_fd[] = { VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_ERR,
					    VHOST_USER_SET_VRING_KICK };
	uint64_t index = 0;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	queue_open(&q, fd, 0, layouts[0], 1);
	memory = virtq_mapping_fd(q.mapping);
	addr = queue_addr(&q);
	memset(&reg, 0, sizeof(reg));
	reg.region = queue_region(&q);

	assert_int_equal(client_ask(fd, VHOST_USER_SET_OWNER, NULL, 0), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_RESET_OWNER, NULL, 0), 0);	/* VU-BE-049 */
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_PROTOCOL_FEATURES, ALL_PROTOCOL), 0);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[0] | BIT_30), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_MEM_TABLE, &empty_table, 8), 0);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_ADD_MEM_REG, &reg, sizeof(reg), &memory,
					1), 0);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 0, 1), 0);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(client_ask_fds(fd, with_fd[i], &index, 8, &q.call_fd, 1), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ENABLE, &vring, 8), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_CONFIG, &config, 12 + 1), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_REM_MEM_REG, &reg, sizeof(reg)), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	client_silent(fd, 20);

	/* These have their own reply, asked for or not (VU-BE-057). */
	assert_int_equal(client_ask(fd, VHOST_USER_GET_FEATURES, NULL, 0),
			 TOY_FEATURES | ring_features() | BIT_30);
	assert_int_equal(client_ask(fd, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0), ALL_PROTOCOL);
	assert_int_equal(client_ask(fd, VHOST_USER_GET_QUEUE_NUM, NULL, 0), TOY_QUEUES);
	assert_true(client_ask(fd, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0) > 8);
	client_send_fds(fd, VHOST_USER_GET_VRING_BASE,
			VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, &vring, 8, NULL, 0);
	client_reply(fd, VHOST_USER_GET_VRING_BASE, &vring, 8);
	client_send_fds(fd, VHOST_USER_GET_CONFIG,
			VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, &config, 12 + 1, NULL,
			0);
	client_reply(fd, VHOST_USER_GET_CONFIG, &config, 12 + 1);
	client_silent(fd, 20);
	queue_close(&q);
	close(fd);
}

/* VU-BE-058: need_reply means nothing before it was agreed on. */
static void test_need_reply_counts_only_if_agreed(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);
	uint64_t protocol = BIT(VHOST_USER_PROTOCOL_F_MQ);

	client_send_fds(fd, VHOST_USER_SET_OWNER, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK,
			NULL, 0, NULL, 0);
	client_silent(fd, 20);
	client_send_fds(fd, VHOST_USER_SET_PROTOCOL_FEATURES,
			VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK, &protocol, 8, NULL, 0);
	client_silent(fd, 20);
	client_alive(fd);
	/* The message that agrees may be the first that is acknowledged. */
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_PROTOCOL_FEATURES, ALL_PROTOCOL), 0);
	close(fd);
}

/* VU-BE-007: what is unknown or was not agreed on is refused if asked, else passed over. */
static void test_unknown_requests(void **state)
{
	static const uint32_t unknown[] = { 0, 6, 7, 19, 20, 22, 23, 26, 28, 31, 32, 33, 35,
					    39, 40, 41, 42, 43, 44, 45, 46, 1000, UINT32_MAX };
	static const uint32_t not_agreed[] = { VHOST_USER_SET_CONFIG, VHOST_USER_RESET_DEVICE };
	struct rig *r = *state;
	uint8_t payload[4096 + 1] = { 0 };
	int fd = client_connect(r), fds[2] = { fd, fd };

	client_negotiate(fd, BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK), 0);
	for (unsigned int i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		assert_int_equal(client_ask(fd, unknown[i], payload, i), 1);
		/* VU-BE-006: its descriptors are closed. */
		client_send_fds(fd, unknown[i], VHOST_USER_VERSION, payload, 4096, fds,
				2);
	}
	assert_int_equal(client_ask(fd, not_agreed[0], payload, 12), 1);
	assert_int_equal(client_ask(fd, not_agreed[1], payload, 0), 1);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, fds, 1), 1);
	client_send(fd, not_agreed[1], payload, 0);
	client_alive(fd);
	/* One byte more than anybody needs is no message any more. */
	client_send_fds(fd, 1000, VHOST_USER_VERSION, payload, 4096 + 1, NULL,
			0);
	client_closed(fd);
	close(fd);
}

/* A question that was not agreed on has no answer that says so. */
static void test_unagreed_question_closes(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);

	client_negotiate(fd, 0, 0);
	client_send(fd, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0);
	client_closed(fd);
	close(fd);
}

static void get_config(int fd, uint32_t offset, uint32_t size, size_t bytes)
{
	struct VhostUserConfig config = { .offset = offset, .size = size };

	client_send(fd, VHOST_USER_GET_CONFIG, &config, 12 + bytes);
}

/* VU-BE-051: as many bytes as asked for, or none at all. */
static void test_get_config(void **state)
{
	struct rig *r = *state;
	struct VhostUserConfig config;
	int fd = client_connect(r);

	/* Not agreed on yet: refused in its own way. */
	get_config(fd, 0, 4, 4);
	client_reply(fd, VHOST_USER_GET_CONFIG, NULL, 0);
	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (uint32_t offset = 0; offset < 5; offset += 2) {
		for (uint32_t size = 0; size <= 252; size += 63) {
			get_config(fd, offset, size, size);
			client_reply(fd, VHOST_USER_GET_CONFIG, &config, 12 + size);
			assert_int_equal(config.offset, offset);
			assert_int_equal(config.size, size);
			for (uint32_t i = 0; i < size; i++)
				assert_int_equal(config.region[i], offset + i < TOY_CONFIG_BYTES ?
						 0xc0 + offset + i : 0);
		}
	}
	get_config(fd, 0, 256, 256);
	client_reply(fd, VHOST_USER_GET_CONFIG, &config, 12 + 256);
	/* Sizes that contradict each other, and ranges past the end. */
	get_config(fd, 0, 4, 5);
	client_reply(fd, VHOST_USER_GET_CONFIG, NULL, 0);
	get_config(fd, 0, UINT32_MAX, 4);
	client_reply(fd, VHOST_USER_GET_CONFIG, NULL, 0);
	get_config(fd, 253, 4, 4);
	client_reply(fd, VHOST_USER_GET_CONFIG, NULL, 0);
	get_config(fd, UINT32_MAX, 4, 4);
	client_reply(fd, VHOST_USER_GET_CONFIG, NULL, 0);
	client_alive(fd);
	close(fd);
}

static uint64_t set_config(int fd, uint32_t offset, uint32_t size, uint32_t flags, size_t bytes)
{
	struct VhostUserConfig config = { .offset = offset, .size = size, .flags = flags };

	config.region[0] = 0x55;
	return client_ask(fd, VHOST_USER_SET_CONFIG, &config, 12 + bytes);
}

/* VU-BE-052: who comes from another host brings all of it, and finds what it knows. */
static void test_config_of_another_host(void **state)
{
	struct rig *r = *state;
	struct VhostUserConfig config = { .size = TOY_CONFIG_BYTES,
					  .flags = VHOST_USER_CONFIG_MIGRATION };
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	memcpy(config.region, r->toy.config, TOY_CONFIG_BYTES);
	config.region[TOY_CONFIG_WRITABLE] = 0x77;
	assert_int_equal(client_ask(fd, VHOST_USER_SET_CONFIG, &config, 12 + TOY_CONFIG_BYTES), 0);
	assert_int_equal(r->toy.config[TOY_CONFIG_WRITABLE], 0x77);
	/* A byte that cannot be had here: then none is taken. */
	config.region[TOY_CONFIG_WRITABLE] = 0x78;
	config.region[TOY_CONFIG_WRITABLE + 3]++;
	assert_int_equal(client_ask(fd, VHOST_USER_SET_CONFIG, &config, 12 + TOY_CONFIG_BYTES), 1);
	assert_int_equal(r->toy.config[TOY_CONFIG_WRITABLE], 0x77);
	assert_int_equal(r->toy.config[TOY_CONFIG_WRITABLE + 3], 0xc7);
	client_alive(fd);
	close(fd);
}

/* VU-BE-052: flags and range are checked, and what is read-only stays as it is. */
static void test_set_config(void **state)
{
	struct rig *r = *state;
	struct VhostUserConfig config = { .offset = 0, .size = 1 };
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(set_config(fd, TOY_CONFIG_WRITABLE, 1, 0, 1), 0);
	assert_int_equal(r->toy.config[TOY_CONFIG_WRITABLE], 0x55);
	assert_int_equal(set_config(fd, 0, 1, 0, 1), 1);
	assert_int_equal(set_config(fd, TOY_CONFIG_WRITABLE, 1, 2, 1), 1);
	assert_int_equal(set_config(fd, TOY_CONFIG_WRITABLE, 2, 0, 1), 1);
	assert_int_equal(set_config(fd, 256, 1, 0, 1), 1);
	assert_int_equal(r->toy.config[0], 0xc0);
	/* A guest that writes where it may not loses the write, and nothing else. */
	client_send(fd, VHOST_USER_SET_CONFIG, &config, 12 + 1);
	client_alive(fd);
	assert_int_equal(r->toy.config[0], 0xc0);
	close(fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_offers),
		CASE(test_acknowledged_features_are_checked),
		CASE(test_unacknowledged_refusals_close),
		CASE(test_protocol_features_not_offered),
		CASE(test_every_message_is_acknowledged_once),
		CASE(test_need_reply_counts_only_if_agreed),
		CASE(test_unknown_requests),
		CASE(test_unagreed_question_closes),
		CASE(test_get_config),
		CASE(test_set_config),
		CASE(test_config_of_another_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
