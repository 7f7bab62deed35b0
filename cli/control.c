/* SPDX-License-Identifier: MIT */
/* The control socket: how a running server is asked. */
#include "control.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "report.h"

#define CONTROL_REQUEST_BYTES 1024
/* Longest answer that is believed: a thousand queues are a quarter of it. */
#define CONTROL_ANSWER_BYTES (4u << 20)
/* How long the server waits for one who asks, to ask and again to take the answer. */
#define CONTROL_SERVER_MS 2000
/*
 * How long one who asks waits for the next piece of an answer: more than the ten
 * seconds that a disk's server far away has for telling its size.
 */
#define CONTROL_CLIENT_MS 15000
/* How long the end of a server waits for answers that take their time. */
#define CONTROL_CLOSE_MS 1000
/* So that who asks for something else does not wait for one answer that takes its time. */
#define CONTROL_THREADS 2

struct control {
	int fd, stop_fd;
	control_answer *answer;
	void *arg;
	unsigned int running;		/* of: */
	pthread_t thread[CONTROL_THREADS];
};

/* ---- Both ends. ---- */

/* Abstract: no file is left behind, and none has to be found. */
static socklen_t control_address(struct sockaddr_un *addr, pid_t pid)
{
	int len;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	len = snprintf(addr->sun_path + 1, sizeof(addr->sun_path) - 1, "virtq/%ld", (long)pid);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

static bool control_peer(int fd, struct ucred *peer)
{
	socklen_t len = sizeof(*peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &len) == 0;
}

static int64_t control_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait for @events on @fd; @stop_fd, unless -1, ends it. 0 or -errno. */
static int control_wait(int fd, short events, int stop_fd, int64_t deadline_ms)
{
	struct pollfd polls[2] = { { fd, events, 0 }, { stop_fd, POLLIN, 0 } };
	int64_t left_ms;
	int n;

	do {
		left_ms = deadline_ms - control_now_ms();
		n = left_ms > 0 ? poll(polls, 2, (int)left_ms) : 0;
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ETIMEDOUT;
	return polls[1].revents ? -ECANCELED : 0;
}

static int control_send(int fd, const char *text, size_t bytes, int stop_fd, int64_t deadline_ms)
{
	while (bytes) {
		ssize_t n = send(fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		int rc = 0;

		if (n >= 0) {
			text += n;
			bytes -= (size_t)n;
		} else if (errno == EAGAIN) {
			rc = control_wait(fd, POLLOUT, stop_fd, deadline_ms);
		} else if (errno != EINTR) {
			rc = -errno;
		}
		if (rc)
			return rc;
	}
	return 0;
}

/*
 * Take what comes, with a zero byte behind it, until the end of the line, or with
 * @whole of the connection. @wait_ms is for the line, or for each piece of the whole.
 * How many bytes, or -errno, with what came before.
 */
static ssize_t control_receive(int fd, char *text, size_t room, bool whole, int stop_fd,
			       int64_t wait_ms)
{
	int64_t deadline_ms = control_now_ms() + wait_ms;
	size_t have = 0;

	text[0] = '\0';
	while (have < room - 1) {
		ssize_t n = recv(fd, text + have, room - 1 - have, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			int rc = control_wait(fd, POLLIN, stop_fd, deadline_ms);

			if (rc)
				return rc;
			continue;
		}
		/* Closed with something of ours unread: what it said first counts. */
		if (n == 0 || (n < 0 && errno == ECONNRESET && have))
			break;
		if (n < 0)
			return -errno;
		have += (size_t)n;
		text[have] = '\0';
		if (whole)
			deadline_ms = control_now_ms() + wait_ms;
		if (!whole && memchr(text + have - n, '\n', (size_t)n))
			break;
	}
	text[have] = '\0';
	return have < room - 1 ? (ssize_t)have : -EMSGSIZE;
}

void control_write_text(FILE *out, const char *text)
{
	for (; *text; text++)
		fputc((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text, out);
}

/* ---- The server's end. ---- */

/* An answer under way. */
struct control_reply {
	int fd, stop_fd;
	int64_t left_ms;	/* to be waited for who asked, and not for what we do */
	bool lost;		/* nobody takes it any more */
};

static ssize_t control_reply_write(void *cookie, const char *text, size_t bytes)
{
	struct control_reply *reply = cookie;
	int64_t began_ms = control_now_ms();

	if (!reply->lost)
		reply->lost = control_send(reply->fd, text, bytes, reply->stop_fd,
					   began_ms + reply->left_ms) < 0;
	reply->left_ms -= control_now_ms() - began_ms;
	return reply->lost ? 0 : (ssize_t)bytes;	/* what a stream takes for an error */
}

static void control_reply(struct control *c, int fd, const char *request)
{
	static const cookie_io_functions_t functions = { .write = control_reply_write };
	struct control_reply reply = { fd, c->stop_fd, CONTROL_SERVER_MS, false };
	FILE *out = fopencookie(&reply, "w", functions);

	if (!out)
		return;
	c->answer(c->arg, request, out);
	fclose(out);
}

/* UNTRUSTED until its user is known: in the abstract name space everybody may connect. */
static void control_serve(struct control *c, int fd)
{
	static const char no[] = "error this server belongs to another user\n";
	char request[CONTROL_REQUEST_BYTES], *end;
	struct ucred peer;

	if (!control_peer(fd, &peer))
		return;
	if (peer.uid != geteuid() && peer.uid != 0) {
		send(fd, no, sizeof(no) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	}
	if (control_receive(fd, request, sizeof(request), false, c->stop_fd,
			    CONTROL_SERVER_MS) < 0)
		return;
	end = strchr(request, '\n');
	if (!end)	/* it hung up in the middle of a line, or without one */
		return;
	*end = '\0';
	control_reply(c, fd, request);
}

static void *control_run(void *arg)
{
	struct control *c = arg;

	for (;;) {
		struct pollfd polls[2] = { { c->stop_fd, POLLIN, 0 }, { c->fd, POLLIN, 0 } };
		int fd;

		if (poll(polls, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (polls[0].revents)
			return NULL;
		fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			control_serve(c, fd);
			close(fd);
		} else if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED) {
			poll(polls, 1, 100);	/* a shortage, and it would wake us at once */
		}
	}
}

int control_open(struct control **out, control_answer *answer, void *arg,
		 struct virtq_error *err)
{
	struct control *c = calloc(1, sizeof(*c));
	struct sockaddr_un addr;
	socklen_t len = control_address(&addr, getpid());
	int rc = 0;

	if (!c)
		return report_into(err, -ENOMEM, "no memory for a control socket");
	c->answer = answer;
	c->arg = arg;
	c->stop_fd = virtq_notify_open();
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->stop_fd < 0)
		rc = c->stop_fd;
	else if (c->fd < 0 || bind(c->fd, (const struct sockaddr *)&addr, len) < 0 ||
		 listen(c->fd, 16) < 0)
		rc = -errno;
	if (!rc) {
		*out = c;
		return 0;
	}
	if (c->fd >= 0)
		close(c->fd);
	if (c->stop_fd >= 0)
		close(c->stop_fd);
	free(c);
	return report_into_errno(err, rc, "cannot make a control socket");
}

int control_start(struct control *c, struct virtq_error *err)
{
	for (; c->running < CONTROL_THREADS; c->running++) {
		int rc = pthread_create(&c->thread[c->running], NULL, control_run, c);

		if (rc)
			return report_into_errno(err, -rc,
						 "cannot start a thread for a control socket");
	}
	return 0;
}

void control_stop(struct control *c)
{
	if (c)
		virtq_notify_send(c->stop_fd);
}

bool control_close(struct control *c)
{
	struct timespec until;
	bool ended = true;

	if (!c)
		return true;
	control_stop(c);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += CONTROL_CLOSE_MS / 1000;
	/* Each: of one that still answers the other knows nothing. */
	for (; c->running; c->running--)
		ended &= pthread_timedjoin_np(c->thread[c->running - 1], NULL, &until) == 0;
	if (!ended)
		return false;
	close(c->fd);
	close(c->stop_fd);
	free(c);
	return true;
}

/* ---- The other end. ---- */

/* Who listens there: that is enough, and nothing is said to them. */
static pid_t control_find_listener(const char *path, struct virtq_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct ucred peer = { 0 };
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return report_into(err, -ENAMETOOLONG, "a socket path has at most %zu bytes",
				   sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return report_into_errno(err, -errno, "cannot make a socket");
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		rc = report_into_errno(err, -errno, "cannot connect to %s", path);
	else if (!control_peer(fd, &peer) || peer.pid <= 0)
		rc = report_into(err, -ESRCH, "who listens on %s cannot be found out", path);
	else
		rc = peer.pid;
	close(fd);
	return rc;
}

pid_t control_find(const char *name, struct virtq_error *err)
{
	unsigned long number;
	char *end;

	if (!isdigit((unsigned char)name[0]) || name[strspn(name, "0123456789")])
		return control_find_listener(name, err);
	errno = 0;
	number = strtoul(name, &end, 10);
	if (errno || number == 0 || number > INT32_MAX)
		return report_into(err, -ESRCH, "there is no process %s", name);
	return (pid_t)number;
}

static int control_connect(pid_t pid, struct virtq_error *err)
{
	struct sockaddr_un addr;
	socklen_t len = control_address(&addr, pid);
	struct ucred peer;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return report_into_errno(err, -errno, "cannot make a socket");
	if (connect(fd, (const struct sockaddr *)&addr, len) < 0) {
		bool dead = kill(pid, 0) < 0 && errno == ESRCH;

		close(fd);
		return dead ? report_into(err, -ESRCH, "there is no process %ld", (long)pid) :
			      report_into(err, -ECONNREFUSED,
					  "process %ld is no virtq server that could be asked",
					  (long)pid);
	}
	/* Anybody could have taken the name. */
	if (!control_peer(fd, &peer) || peer.pid != pid)
		report_into(err, -EPERM, "somebody else answers in the name of process %ld",
			    (long)pid);
	else if (peer.uid != geteuid() && geteuid() != 0)
		report_into(err, -EPERM, "process %ld belongs to another user (%ld)", (long)pid,
			    (long)peer.uid);
	else
		return fd;
	close(fd);
	return err->code;
}

/*
 * Divide what came into its first line and the rest, which stays in @text. UNTRUSTED: it
 * is said on a terminal, which obeys more than letters.
 */
static int control_judge(char *text, pid_t pid, struct virtq_error *err)
{
	char *end = strchr(text, '\n'), *at;

	for (at = text; *at; at++)
		if (((unsigned char)*at < ' ' && *at != '\n') || *at == 0x7f)
			*at = '?';
	if (!end)
		return report_into(err, -EPROTO, "process %ld gave no answer", (long)pid);
	*end = '\0';
	if (strcmp(text, "ok") == 0) {
		memmove(text, end + 1, strlen(end + 1) + 1);
		return 0;
	}
	if (strncmp(text, "error ", 6) == 0)
		return report_into(err, -EIO, "%s", text + 6);
	return report_into(err, -EPROTO, "process %ld gave an answer that means nothing",
			   (long)pid);
}

int control_ask(pid_t pid, const char *request, char **answer, struct virtq_error *err)
{
	int64_t deadline_ms = control_now_ms() + CONTROL_CLIENT_MS;
	char *text = malloc(CONTROL_ANSWER_BYTES);
	int fd, rc;

	if (!text)
		return report_into(err, -ENOMEM, "no memory for an answer");
	fd = control_connect(pid, err);
	if (fd < 0) {
		free(text);
		return fd;
	}
	/* The buffer of the answer serves for the request, too. */
	snprintf(text, CONTROL_ANSWER_BYTES, "%s\n", request);
	rc = control_send(fd, text, strlen(text), -1, deadline_ms);
	/* Who was refused at once may be told so before it could ask. */
	if (!rc || rc == -EPIPE || rc == -ECONNRESET) {
		ssize_t n = control_receive(fd, text, CONTROL_ANSWER_BYTES, true, -1,
					    CONTROL_CLIENT_MS);

		/* What came in time counts, and lacks its end. */
		rc = n < 0 && !(n == -ETIMEDOUT && strchr(text, '\n')) ? (int)n : 0;
	}
	close(fd);
	rc = rc ? report_into_errno(err, rc, "process %ld does not answer", (long)pid) :
		  control_judge(text, pid, err);
	if (rc) {
		free(text);
		return rc;
	}
	*answer = text;
	return 0;
}
