/* SPDX-License-Identifier: MIT */
/* nbdkit on a socket, see nbd_server.h. */
#include "nbd_server.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned int servers;

/* The socket is there before it can be connected to. */
static bool answers(const struct server *s)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct sockaddr_in port = { .sin_family = AF_INET };
	int fd = socket(*s->port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes;

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", s->socket);
	port.sin_port = htons((uint16_t)atoi(s->port));
	port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	yes = (*s->port ? connect(fd, (struct sockaddr *)&port, sizeof(port)) :
			  connect(fd, (struct sockaddr *)&at, sizeof(at))) == 0;
	close(fd);
	return yes;
}

void server_run(struct server *s, const char *const *args)
{
	const char *argv[24] = { "nbdkit", "--foreground", "--exit-with-parent" };
	unsigned int n = 3;

	if (*s->port)
		argv[n++] = "--ipaddr=127.0.0.1";
	argv[n++] = *s->port ? "--port" : "--unix";
	argv[n++] = *s->port ? s->port : s->socket;
	while (*args)
		argv[n++] = *args++;
	unlink(s->socket);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (!s->pid) {
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	for (int i = 0; i < 500 && !answers(s); i++)
		usleep(10000);
	assert_true(answers(s));
}

void server_start_tcp(struct server *s, const char *port, const char *const *args)
{
	*s = (struct server){ .pid = 0 };
	snprintf(s->port, sizeof(s->port), "%s", port);
	snprintf(s->uri, sizeof(s->uri), "nbd://127.0.0.1:%s/", port);
	server_run(s, args);
}

void server_start(struct server *s, const char *const *args)
{
	*s->port = 0;
	snprintf(s->socket, sizeof(s->socket), "./nbd-%d-%u", (int)getpid(), servers++);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	server_run(s, args);
}

void server_kill(struct server *s, int signal)
{
	assert_int_equal(kill(s->pid, signal), 0);
	assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
	unlink(s->socket);
}

bool nbdkit_is_missing(void)
{
#ifndef VIRTQ_WITH_LIBNBD
	printf("skipped: built without libnbd\n");
	return true;
#endif
	if (!system("nbdkit --version >/dev/null 2>&1"))
		return false;
	printf("skipped: there is no nbdkit\n");
	return true;
}
