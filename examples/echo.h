/* SPDX-License-Identifier: MIT */
/*
 * The other side of a packet loop: a network device on a thread of its own that
 * sends every packet back.
 */
#ifndef ECHO_H
#define ECHO_H

#include <virtq/virtq.h>

struct echo;

/* Serve a receive and a transmit queue. 0 or -errno; the ports stay the caller's. */
int echo_start(struct echo **out, const struct virtq_port *receive,
	       const struct virtq_port *transmit, struct virtq_error *err);

/* Returns when the device touches the queues no more. NULL is fine. */
void echo_stop(struct echo *echo);

#endif
