/* SPDX-License-Identifier: MIT */
/*
 * A back end from a script: it notes what it is told, and answers as it should, but for
 * one message.
 */
#ifndef PROTO_SCRIPT_H
#define PROTO_SCRIPT_H

#include "rig.h"

enum misdeed {
	HONEST, CLOSE, SILENT, HALF_HEADER, HALF_PAYLOAD, WRONG_ID, NO_REPLY_BIT, VERSION_2,
	SHORT, LONG, HUGE_SIZE, NACK, EMPTY, WRONG_INDEX, WRONG_BASE, WITH_FDS, ZERO,
};

struct logged {
	uint32_t request, flags, size;
	uint8_t payload[300];
	unsigned int fds;
};

struct script {
	/* what it is */
	uint64_t features, protocol, queues, slots;
	/* what it does wrong, when asked what */
	uint32_t bad_request;
	enum misdeed misdeed;
	/* what it was told */
	struct logged log[64];
	unsigned int logged;

	int sockets[2];
	pthread_t thread;
};

/* A front end for it, that waits @ms for an answer. */
int script_attach(struct script *s, unsigned int ms, struct virtq_transport **t,
		  struct virtq_error *err);
void script_detach(struct script *s, struct virtq_transport *t);

#endif
