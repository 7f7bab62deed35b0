/* SPDX-License-Identifier: MIT */
/* The inside of a port, for the pool and the transfers that are built on one. */
#ifndef VIRTQ_TRANSFER_PORT_H
#define VIRTQ_TRANSFER_PORT_H

#include <stdbool.h>

#include <virtq/port.h>

/* @timeout_ms as a point in time of CLOCK_MONOTONIC, in nanoseconds; -1 for ever, 0 for past. */
int64_t port_deadline(const struct virtq_wait *wait);

/* Has such a time come? */
bool port_is_over(int64_t deadline_ns);

/*
 * Sleep until the call fd becomes readable, or the deadline. It is left as it is, and the
 * ring is not looked at: the caller has armed it. Any number of threads at a time.
 *
 * Return: 1 it is readable, 0 the time was over; -ECANCELED, -ESHUTDOWN, -EINTR or what
 *	poll says.
 */
int port_sleep(struct virtq_port *port, const struct virtq_wait *wait, int64_t deadline_ns);

/* The same, for @fd or @other_fd in the place of the call fd; -1 is none. */
int port_sleep_on(struct virtq_port *port, const struct virtq_wait *wait, int64_t deadline_ns,
		  int fd, int other_fd);

/* Has it been shut down? Thread: any. */
bool port_closed(const struct virtq_port *port);

/* Kick. An error is kept for port_kick_error(). */
void port_kick(struct virtq_port *port);

/* 0, or why the last kick could not be sent; told once. Thread: the owner. */
int port_kick_error(struct virtq_port *port);

#endif
