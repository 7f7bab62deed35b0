/* SPDX-License-Identifier: MIT */
/*
 * vhost-user messages: which there are, how long they may be, which file
 * descriptors ride on them, and what comes back. Used by both ends.
 */
#ifndef VIRTQ_TRANSPORT_VU_MSG_H
#define VIRTQ_TRANSPORT_VU_MSG_H

#include <stdbool.h>
#include <stdint.h>

#include <virtq/error.h>
#include <virtq/spec/vhost_user.h>

/* Longest payload taken of a message that we do not know, to pass over it. */
#define VUSER_PAYLOAD_MAX 4096u

/* Most file descriptors on one message. */
#define VUSER_FDS_MAX VHOST_MEMORY_BASELINE_NREGIONS

/* How large a payload is. */
enum vuser_payload {
	VUSER_EMPTY,
	VUSER_U64,
	VUSER_STATE,
	VUSER_ADDR,
	VUSER_MEMORY,		/* 8 + 32 n */
	VUSER_MEM_REG,
	VUSER_CONFIG,		/* 12 + n */
};

/* How many file descriptors come along. */
enum vuser_fds {
	VUSER_NO_FD,
	VUSER_FD_PER_REGION,
	VUSER_ONE_FD,
	VUSER_FD_UNLESS_BIT_8,
	VUSER_STRAY_FD,		/* none, but one is closed without complaint (VU-BE-036) */
};

/* What the back end answers. */
enum vuser_reply {
	VUSER_ACK,		/* nothing, or a u64 if it was asked for and agreed on */
	VUSER_OWN,		/* always: a payload of the kind that @answer says */
};

struct vuser_rule {
	const char *name;	/* without VHOST_USER_ */
	uint8_t payload;	/* enum vuser_payload */
	uint8_t fds;		/* enum vuser_fds */
	uint8_t reply;		/* enum vuser_reply */
	uint8_t answer;		/* enum vuser_payload of an own reply */
	int8_t needs;		/* protocol feature without which it is unknown, or -1 */
};

/*
 * One message. The payload is private memory: it was copied off the socket
 * before anything in it is looked at.
 */
struct vuser_msg {
	struct VhostUserHeader header;
	union {
		uint64_t u64;
		struct VhostUserVringState state;
		struct VhostUserVringAddr addr;
		struct VhostUserMemory memory;
		struct VhostUserMemRegMsg mem_reg;
		struct VhostUserConfig config;
		uint8_t bytes[VUSER_PAYLOAD_MAX];
	} payload;
	unsigned int fd_count;
	int fds[VUSER_FDS_MAX];	/* owned; -1 once somebody took one */
};

/* The rule for a message type, or NULL for one that we do not know. */
const struct vuser_rule *vuser_rule(uint32_t request);

/* A name for people: "SET_VRING_NUM", or "unknown message". */
const char *vuser_name(uint32_t request);

/* The document's name of a protocol feature, or NULL. */
const char *vuser_protocol_name(unsigned int bit);

/*
 * vuser_check_request - may this header of a request be followed by its payload?
 *
 * Return: 0 or -EPROTO (version, reply bit, or a size that its type cannot have).
 */
int vuser_check_request(const struct VhostUserHeader *header, struct virtq_error *err);

/*
 * vuser_check_channel_request - as vuser_check_request(), of what a back end sends on its channel
 *
 * Return: 0 or -EPROTO. Afterwards the message may be answered by its id; one
 *	that is not known has a payload of no meaning.
 */
int vuser_check_channel_request(const struct VhostUserHeader *header, struct virtq_error *err);

/*
 * vuser_check_complete - do the payload and the descriptors of a whole request agree?
 *
 * Looks at what depends on the payload: table length, bit 8. After it the
 * fields that the rule names may be used.
 *
 * Return: 0 or -EPROTO.
 */
int vuser_check_complete(const struct vuser_msg *msg, struct virtq_error *err);

/*
 * vuser_check_reply - is this header a reply to that request?
 * @acked: an acknowledgement was asked for
 *
 * Return: 0 or -EPROTO (VU-FE-003).
 */
int vuser_check_reply(const struct VhostUserHeader *header, const struct vuser_msg *request,
		      bool acked, struct virtq_error *err);

/* Begin a message of a known type; the payload is zeroed and of its smallest size. */
void vuser_msg_init(struct vuser_msg *msg, uint32_t request);

/* Room for @count regions or @bytes of configuration space in a message begun so. */
void vuser_msg_set_regions(struct vuser_msg *msg, uint32_t count);
void vuser_msg_set_config(struct vuser_msg *msg, uint32_t offset, uint32_t bytes);

/* Begin the answer to a message of the channel. */
void vuser_channel_reply_init(struct vuser_msg *reply, uint32_t request, uint64_t value);

/* Begin the answer to @request: its own reply's payload, or a u64. */
void vuser_reply_init(struct vuser_msg *reply, const struct vuser_msg *request);

/* The empty answer that says that GET_CONFIG failed. */
void vuser_reply_no_config(struct vuser_msg *reply);

/* Is @len the length of a configuration message with as many bytes as it announces? */
bool vuser_config_fits(const struct vuser_msg *msg);

/* Take descriptor @i out of a message: the caller owns it. -1 if there is none. */
int vuser_take_fd(struct vuser_msg *msg, unsigned int i);

/* Close the descriptors that nobody took. */
void vuser_close_fds(struct vuser_msg *msg);

#endif
