/* SPDX-License-Identifier: MIT */
/*
 * The table of vhost-user messages, on headers and payloads of all kinds: what
 * passes the checks is within bounds, and what this library builds passes them.
 * VU-BE-003, VU-BE-006, VU-FE-003.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

#include "transport/vu_msg.h"

#include "input.h"

/* A known type, mostly. */
static uint32_t take_request(struct input *in)
{
	uint8_t which = take8(in);

	return which < 0xf0 ? which % 48 : (uint32_t)take_number(in);
}

/* The size that the type has for @pieces regions or bytes, mostly. */
static uint32_t take_size(struct input *in, uint32_t request, uint32_t pieces)
{
	const struct vuser_rule *rule = vuser_rule(request);

	if (!rule || take_odd(in))
		return (uint32_t)take_number(in);
	switch ((enum vuser_payload)rule->payload) {
	case VUSER_EMPTY: return 0;
	case VUSER_U64: return sizeof(uint64_t);
	case VUSER_STATE: return sizeof(struct VhostUserVringState);
	case VUSER_ADDR: return sizeof(struct VhostUserVringAddr);
	case VUSER_MEMORY:
		return offsetof(struct VhostUserMemory, regions) +
		       pieces * (uint32_t)sizeof(struct VhostUserMemoryRegion);
	case VUSER_MEM_REG: return sizeof(struct VhostUserMemRegMsg);
	case VUSER_CONFIG: return offsetof(struct VhostUserConfig, region) + pieces;
	}
	return 0;
}

/* What the checks let through must fit, and what they refuse must come with a sentence. */
static void check_bounds(const struct vuser_msg *msg, uint32_t size)
{
	const struct vuser_rule *rule = vuser_rule(msg->header.request);

	FUZZ_CHECK(size <= sizeof(msg->payload));
	if (!rule)
		return;
	FUZZ_CHECK(rule->payload != VUSER_U64 || size == sizeof(uint64_t));
	if (rule->payload == VUSER_MEMORY)
		FUZZ_CHECK(size <= sizeof(struct VhostUserMemory));
	if (rule->payload == VUSER_CONFIG)
		FUZZ_CHECK(size <= sizeof(struct VhostUserConfig));
}

static void receive_request(struct input *in)
{
	static struct vuser_msg msg;
	struct virtq_error err = { 0, "" };
	uint32_t pieces = take_below(in, 10);
	const struct vuser_rule *rule;
	int rc;

	memset(&msg, 0, sizeof(msg));
	msg.header.request = take_request(in);
	msg.header.flags = take_odd(in) ? take32(in) : VHOST_USER_VERSION;
	msg.header.size = take_size(in, msg.header.request, pieces);
	rule = vuser_rule(msg.header.request);
	FUZZ_CHECK(vuser_name(msg.header.request)[0]);
	rc = vuser_check_request(&msg.header, &err);
	FUZZ_CHECK(rc == 0 || (rc == -EPROTO && err.code == -EPROTO && err.text[0]));
	FUZZ_CHECK(vuser_check_request(&msg.header, NULL) == rc);
	if (rc)
		return;
	check_bounds(&msg, msg.header.size);

	for (uint32_t i = 0; i < msg.header.size && i < 64; i++)
		msg.payload.bytes[i] = take8(in);
	if (rule && rule->payload == VUSER_MEMORY && !take_odd(in))
		msg.payload.memory.nregions = pieces;
	msg.fd_count = take_below(in, VUSER_FDS_MAX + 1);
	for (unsigned int i = 0; i < msg.fd_count; i++)
		msg.fds[i] = -1;
	rc = vuser_check_complete(&msg, &err);
	FUZZ_CHECK(rc == 0 || (rc == -EPROTO && err.text[0]));
	if (rc || !rule)
		return;
	if (rule->payload == VUSER_MEMORY) {
		FUZZ_CHECK(msg.payload.memory.nregions <= VHOST_MEMORY_BASELINE_NREGIONS);
		FUZZ_CHECK(msg.fd_count == msg.payload.memory.nregions);
	}
	if (rule->fds == VUSER_NO_FD)
		FUZZ_CHECK(!msg.fd_count);
	if (rule->fds == VUSER_ONE_FD)
		FUZZ_CHECK(msg.fd_count == 1);
	if (rule->payload == VUSER_CONFIG && vuser_config_fits(&msg)) {
		FUZZ_CHECK(msg.payload.config.size <= VHOST_USER_MAX_CONFIG_SIZE);
		FUZZ_CHECK(msg.payload.config.offset + msg.payload.config.size <=
			   VHOST_USER_MAX_CONFIG_SIZE);
	}
}

/* Any header as the answer to a request of ours. */
static void receive_reply(struct input *in)
{
	static struct vuser_msg request, reply;
	struct virtq_error err = { 0, "" };
	uint32_t id = take_request(in), bytes = take_below(in, VHOST_USER_MAX_CONFIG_SIZE + 1);
	struct VhostUserHeader header;
	const struct vuser_rule *rule = vuser_rule(id);
	bool acked;
	int rc;

	if (!rule)
		return;
	acked = rule->reply == VUSER_ACK;
	vuser_msg_init(&request, id);
	if (rule->payload == VUSER_CONFIG)
		vuser_msg_set_config(&request, take_below(in, 4), bytes);
	/* What we build is right. */
	FUZZ_CHECK(!vuser_check_request(&request.header, &err));
	vuser_reply_init(&reply, &request);
	if (rule->reply == VUSER_OWN && rule->answer == VUSER_CONFIG)
		vuser_msg_set_config(&reply, 0, bytes);
	FUZZ_CHECK(!vuser_check_reply(&reply.header, &request, acked, &err));
	if (rule->answer == VUSER_CONFIG && rule->reply == VUSER_OWN) {
		vuser_reply_no_config(&reply);
		FUZZ_CHECK(!vuser_check_reply(&reply.header, &request, acked, &err));
	}

	header.request = take_odd(in) ? take_request(in) : id;
	header.flags = take_odd(in) ? take32(in) : VHOST_USER_VERSION | VHOST_USER_REPLY_MASK;
	header.size = take_odd(in) ? (uint32_t)take_number(in) : reply.header.size;
	rc = vuser_check_reply(&header, &request, acked, &err);
	FUZZ_CHECK(rc == 0 || (rc == -EPROTO && err.text[0]));
	if (!rc) {
		FUZZ_CHECK(header.request == id && header.size <= sizeof(reply.payload));
		FUZZ_CHECK(header.flags & VHOST_USER_REPLY_MASK);
	}
}

/* Descriptors of a message are closed once, whoever took which. */
static void take_fds(struct input *in)
{
	struct vuser_msg msg = { .fd_count = take_below(in, VUSER_FDS_MAX + 1) };
	int fds[VUSER_FDS_MAX], taken[VUSER_FDS_MAX] = { 0 };
	unsigned int count = msg.fd_count;

	for (unsigned int i = 0; i < count; i++) {
		msg.fds[i] = fds[i] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
		FUZZ_CHECK(fds[i] >= 0);
	}
	for (uint32_t n = take_below(in, 4); n; n--) {
		unsigned int i = take_below(in, VUSER_FDS_MAX + 1);
		int fd = vuser_take_fd(&msg, i);

		FUZZ_CHECK(fd == (i < count && !taken[i] ? fds[i] : -1));
		if (fd >= 0)
			taken[i] = 1;
	}
	vuser_close_fds(&msg);
	FUZZ_CHECK(!msg.fd_count);
	for (unsigned int i = 0; i < count; i++) {
		FUZZ_CHECK((fcntl(fds[i], F_GETFD) >= 0) == (taken[i] != 0));
		if (taken[i])
			close(fds[i]);
	}
}

/* A table of regions that we build, as any receiver would see it. */
static void build_table(struct input *in)
{
	static struct vuser_msg msg;
	uint32_t count = take_below(in, VHOST_MEMORY_BASELINE_NREGIONS + 1);

	vuser_msg_init(&msg, VHOST_USER_SET_MEM_TABLE);
	vuser_msg_set_regions(&msg, count);
	msg.fd_count = count;
	FUZZ_CHECK(!vuser_check_request(&msg.header, NULL));
	FUZZ_CHECK(!vuser_check_complete(&msg, NULL));
	msg.fd_count = take_below(in, VUSER_FDS_MAX + 1);
	FUZZ_CHECK(!vuser_check_complete(&msg, NULL) == (msg.fd_count == count));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	while (in.left) {
		switch (take_below(&in, 8)) {
		case 0: case 1: case 2: case 3: receive_request(&in); break;
		case 4: case 5: receive_reply(&in); break;
		case 6: build_table(&in); break;
		default: take_fds(&in); break;
		}
		(void)vuser_protocol_name(take8(&in));
	}
	return 0;
}
