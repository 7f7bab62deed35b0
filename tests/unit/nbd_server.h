/* SPDX-License-Identifier: MIT */
/* nbdkit, for the tests of network block devices. */
#ifndef TESTS_UNIT_NBD_SERVER_H
#define TESTS_UNIT_NBD_SERVER_H

#include <signal.h>
#include <sys/types.h>

#include "depot.h"

#define MIB ((uint64_t)1 << 20)

struct server {
	pid_t pid;
	char port[8];		/* "": a socket in the file system */
	char socket[64], uri[128];
};

/* nbdkit with @args, a list that ends with NULL, on a socket of its own; again on the old one. */
void server_start(struct server *s, const char *const *args);
/* The same on a port of 127.0.0.1. */
void server_start_tcp(struct server *s, const char *port, const char *const *args);
void server_run(struct server *s, const char *const *args);
void server_kill(struct server *s, int signal);
/* Says so: there is no libnbd, or no nbdkit. */
bool nbdkit_is_missing(void);

#define SERVE(s, ...) server_start(s, (const char *const[]){ __VA_ARGS__, NULL })

#endif
