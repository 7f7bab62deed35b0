/* SPDX-License-Identifier: MIT */
/* The table of vhost-user messages, and what follows from it. */
#include "transport/vu_msg.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

#define RULE(id, ...) [VHOST_USER_##id] = { #id, __VA_ARGS__ }
#define ANY (-1)

/*
 * GET_QUEUE_NUM needs only that MQ was offered, and a GET_CONFIG that may not be
 * sent has an error of its own to answer with: neither is unknown, ever.
 */
static const struct vuser_rule rules[] = {
	RULE(GET_FEATURES, VUSER_EMPTY, VUSER_NO_FD, VUSER_OWN, VUSER_U64, ANY),
	RULE(SET_FEATURES, VUSER_U64, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_OWNER, VUSER_EMPTY, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(RESET_OWNER, VUSER_EMPTY, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_MEM_TABLE, VUSER_MEMORY, VUSER_FD_PER_REGION, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_VRING_NUM, VUSER_STATE, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_VRING_ADDR, VUSER_ADDR, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_VRING_BASE, VUSER_STATE, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(GET_VRING_BASE, VUSER_STATE, VUSER_NO_FD, VUSER_OWN, VUSER_STATE, ANY),
	RULE(SET_VRING_KICK, VUSER_U64, VUSER_FD_UNLESS_BIT_8, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_VRING_CALL, VUSER_U64, VUSER_FD_UNLESS_BIT_8, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_VRING_ERR, VUSER_U64, VUSER_FD_UNLESS_BIT_8, VUSER_ACK, VUSER_U64, ANY),
	RULE(GET_PROTOCOL_FEATURES, VUSER_EMPTY, VUSER_NO_FD, VUSER_OWN, VUSER_U64, ANY),
	RULE(SET_PROTOCOL_FEATURES, VUSER_U64, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(GET_QUEUE_NUM, VUSER_EMPTY, VUSER_NO_FD, VUSER_OWN, VUSER_U64, ANY),
	RULE(SET_VRING_ENABLE, VUSER_STATE, VUSER_NO_FD, VUSER_ACK, VUSER_U64, ANY),
	RULE(SET_BACKEND_REQ_FD, VUSER_EMPTY, VUSER_ONE_FD, VUSER_ACK, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_BACKEND_REQ),
	RULE(GET_CONFIG, VUSER_CONFIG, VUSER_NO_FD, VUSER_OWN, VUSER_CONFIG, ANY),
	RULE(SET_CONFIG, VUSER_CONFIG, VUSER_NO_FD, VUSER_ACK, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_CONFIG),
	RULE(RESET_DEVICE, VUSER_EMPTY, VUSER_NO_FD, VUSER_ACK, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_RESET_DEVICE),
	RULE(GET_MAX_MEM_SLOTS, VUSER_EMPTY, VUSER_NO_FD, VUSER_OWN, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
	RULE(ADD_MEM_REG, VUSER_MEM_REG, VUSER_ONE_FD, VUSER_ACK, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
	RULE(REM_MEM_REG, VUSER_MEM_REG, VUSER_STRAY_FD, VUSER_ACK, VUSER_U64,
	     VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
};

#define FEATURE(id) [VHOST_USER_PROTOCOL_F_##id] = #id

static const char *const protocol_names[] = {
	FEATURE(MQ), FEATURE(LOG_SHMFD), FEATURE(RARP), FEATURE(REPLY_ACK), FEATURE(MTU),
	FEATURE(BACKEND_REQ), FEATURE(CROSS_ENDIAN), FEATURE(CRYPTO_SESSION),
	FEATURE(PAGEFAULT), FEATURE(CONFIG), FEATURE(BACKEND_SEND_FD), FEATURE(HOST_NOTIFIER),
	FEATURE(INFLIGHT_SHMFD), FEATURE(RESET_DEVICE), FEATURE(INBAND_NOTIFICATIONS),
	FEATURE(CONFIGURE_MEM_SLOTS), FEATURE(STATUS), FEATURE(XEN_MMAP),
	FEATURE(SHARED_OBJECT), FEATURE(DEVICE_STATE), FEATURE(GET_VRING_BASE_INFLIGHT),
	FEATURE(GPA_ADDRESSES), FEATURE(SHMEM), FEATURE(GET_VRING_BASE_SKIP_DRAIN),
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A payload is @fixed bytes and up to @most pieces of @step. */
static const struct {
	uint16_t fixed, step, most;
} sizes[] = {
	[VUSER_EMPTY] = { 0, 0, 0 },
	[VUSER_U64] = { sizeof(uint64_t), 0, 0 },
	[VUSER_STATE] = { sizeof(struct VhostUserVringState), 0, 0 },
	[VUSER_ADDR] = { sizeof(struct VhostUserVringAddr), 0, 0 },
	[VUSER_MEMORY] = { offsetof(struct VhostUserMemory, regions),
			   sizeof(struct VhostUserMemoryRegion),
			   VHOST_MEMORY_BASELINE_NREGIONS },
	[VUSER_MEM_REG] = { sizeof(struct VhostUserMemRegMsg), 0, 0 },
	[VUSER_CONFIG] = { offsetof(struct VhostUserConfig, region), 1,
			   VHOST_USER_MAX_CONFIG_SIZE },
};

const struct vuser_rule *vuser_rule(uint32_t request)
{
	return request < COUNT(rules) && rules[request].name ? &rules[request] : NULL;
}

const char *vuser_name(uint32_t request)
{
	const struct vuser_rule *rule = vuser_rule(request);

	return rule ? rule->name : "unknown message";
}

const char *vuser_protocol_name(unsigned int bit)
{
	return bit < COUNT(protocol_names) ? protocol_names[bit] : NULL;
}

static bool size_fits(enum vuser_payload payload, uint32_t size)
{
	uint32_t fixed = sizes[payload].fixed, step = sizes[payload].step, rest;

	if (size < fixed)
		return false;
	rest = size - fixed;
	return step ? rest % step == 0 && rest / step <= sizes[payload].most : !rest;
}

int vuser_check_request(const struct VhostUserHeader *header, struct virtq_error *err)
{
	const struct vuser_rule *rule = vuser_rule(header->request);

	if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return error_set(err, -EPROTO, "message %u (%s) is of version %u, not 1",
				 header->request, vuser_name(header->request),
				 header->flags & VHOST_USER_VERSION_MASK);
	if (header->flags & VHOST_USER_REPLY_MASK)
		return error_set(err, -EPROTO, "message %u (%s) is a reply to nothing",
				 header->request, vuser_name(header->request));
	if (rule ? !size_fits(rule->payload, header->size) : header->size > VUSER_PAYLOAD_MAX)
		return error_set(err, -EPROTO, "message %u (%s) cannot have %u bytes of payload",
				 header->request, vuser_name(header->request), header->size);
	return 0;
}

int vuser_check_channel_request(const struct VhostUserHeader *header, struct virtq_error *err)
{
	bool config = header->request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;

	if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
	    header->flags & VHOST_USER_REPLY_MASK)
		return error_set(err, -EPROTO, "back-end message %u has flags 0x%x",
				 header->request, header->flags);
	if (header->size > (config ? 0 : VUSER_PAYLOAD_MAX))
		return error_set(err, -EPROTO, "back-end message %u cannot have %u bytes of payload",
				 header->request, header->size);
	return 0;
}

int vuser_check_complete(const struct vuser_msg *msg, struct virtq_error *err)
{
	const struct vuser_rule *rule = vuser_rule(msg->header.request);
	unsigned int expected = 0;

	if (!rule)
		return 0;
	if (rule->payload == VUSER_MEMORY) {
		uint32_t n = msg->payload.memory.nregions;

		/* Linux as a front end (UML) sends room for two whatever it has: what is behind means nothing. */
		if (n > VHOST_MEMORY_BASELINE_NREGIONS ||
		    msg->header.size < sizes[VUSER_MEMORY].fixed + n * sizes[VUSER_MEMORY].step)
			return error_set(err, -EPROTO,
					 "%s: a table of %u regions does not take %u bytes",
					 rule->name, n, msg->header.size);
		expected = n;
	}
	if (rule->fds == VUSER_ONE_FD ||
	    (rule->fds == VUSER_FD_UNLESS_BIT_8 &&
	     !(msg->payload.u64 & VHOST_USER_VRING_NOFD_MASK)))
		expected = 1;
	if (rule->fds == VUSER_STRAY_FD && msg->fd_count == 1)
		expected = 1;
	if (msg->fd_count != expected)
		return error_set(err, -EPROTO, "%s came with %u file descriptors instead of %u",
				 rule->name, msg->fd_count, expected);
	return 0;
}

int vuser_check_reply(const struct VhostUserHeader *header, const struct vuser_msg *request,
		      bool acked, struct virtq_error *err)
{
	const struct vuser_rule *rule = vuser_rule(request->header.request);
	enum vuser_payload answer = acked ? VUSER_U64 : (enum vuser_payload)rule->answer;

	if (header->request != request->header.request)
		return error_set(err, -EPROTO, "the answer to %s is one to message %u (%s)",
				 rule->name, header->request, vuser_name(header->request));
	if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
	    !(header->flags & VHOST_USER_REPLY_MASK))
		return error_set(err, -EPROTO, "the answer to %s has flags 0x%x", rule->name,
				 header->flags);
	/* A configuration comes as long as asked for, or not at all. */
	if (answer == VUSER_CONFIG ?
	    header->size && header->size != request->header.size :
	    !size_fits(answer, header->size))
		return error_set(err, -EPROTO, "the answer to %s has %u bytes of payload",
				 rule->name, header->size);
	return 0;
}

static void begin(struct vuser_msg *msg, uint32_t request, uint32_t flags,
		  enum vuser_payload payload)
{
	msg->header.request = request;
	msg->header.flags = VHOST_USER_VERSION | flags;
	msg->header.size = sizes[payload].fixed;
	memset(&msg->payload, 0, sizes[payload].fixed + sizes[payload].step * sizes[payload].most);
	msg->fd_count = 0;
}

void vuser_msg_init(struct vuser_msg *msg, uint32_t request)
{
	begin(msg, request, 0, (enum vuser_payload)vuser_rule(request)->payload);
}

void vuser_msg_set_regions(struct vuser_msg *msg, uint32_t count)
{
	msg->payload.memory.nregions = count;
	msg->header.size = sizes[VUSER_MEMORY].fixed + count * sizes[VUSER_MEMORY].step;
}

void vuser_msg_set_config(struct vuser_msg *msg, uint32_t offset, uint32_t bytes)
{
	msg->payload.config.offset = offset;
	msg->payload.config.size = bytes;
	msg->header.size = sizes[VUSER_CONFIG].fixed + bytes;
}

void vuser_channel_reply_init(struct vuser_msg *reply, uint32_t request, uint64_t value)
{
	begin(reply, request, VHOST_USER_REPLY_MASK, VUSER_U64);
	reply->payload.u64 = value;
}

void vuser_reply_init(struct vuser_msg *reply, const struct vuser_msg *request)
{
	const struct vuser_rule *rule = vuser_rule(request->header.request);
	enum vuser_payload payload = rule && rule->reply == VUSER_OWN ?
				     (enum vuser_payload)rule->answer : VUSER_U64;

	begin(reply, request->header.request, VHOST_USER_REPLY_MASK, payload);
}

void vuser_reply_no_config(struct vuser_msg *reply)
{
	reply->header.size = 0;
}

bool vuser_config_fits(const struct vuser_msg *msg)
{
	const struct VhostUserConfig *config = &msg->payload.config;

	return config->size == msg->header.size - sizes[VUSER_CONFIG].fixed &&
	       config->offset <= VHOST_USER_MAX_CONFIG_SIZE &&
	       config->size <= VHOST_USER_MAX_CONFIG_SIZE - config->offset;
}

int vuser_take_fd(struct vuser_msg *msg, unsigned int i)
{
	int fd = -1;

	if (i < msg->fd_count) {
		fd = msg->fds[i];
		msg->fds[i] = -1;
	}
	return fd;
}

void vuser_close_fds(struct vuser_msg *msg)
{
	for (unsigned int i = 0; i < msg->fd_count; i++)
		if (msg->fds[i] >= 0)
			close(msg->fds[i]);
	msg->fd_count = 0;
}
