/* SPDX-License-Identifier: MIT */
/* The vhost-user back end: a listening socket, and one client after another. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <virtq/notify.h>
#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "transport/features.h"
#include "transport/vu_session.h"
#include "transport/vu_waiting.h"

/* Longest that an engine lets a call wait. */
#define COALESCE_US_MAX 1000000u

/* How long to wait for descriptors or memory to be free again before the next accept. */
#define ACCEPT_RETRY_MS 100

struct virtq_vhost_user_server {
	struct virtq_vhost_user_server_config config;	/* constant */
	uint64_t offered;				/* constant */
	int stop_fd;					/* constant; written by others */
	struct vuser_counters counters;
	struct vuser_channel channel;
	struct vuser_control control;
	struct vuser_waiting waiting;
	bool shortage;			/* accepting is of no use at the moment */
	struct pollfd *polls;		/* see below, one per ring, one for each who waits */
	unsigned int waiting_polls;	/* where the latter begin */
};

enum { POLL_STOP, POLL_LISTEN, POLL_CLIENT, POLL_RINGS };

int virtq_vhost_user_server_create(struct virtq_vhost_user_server **out,
				   const struct virtq_vhost_user_server_config *config,
				   struct virtq_error *err)
{
	struct virtq_vhost_user_server *server;
	struct virtq_features offered;
	unsigned int device_id;
	int rc;

	if (!config->model || !config->engines || !config->engine_count || config->listen_fd < 0)
		return error_set(err, -EINVAL,
				 "a server needs a model, an engine and a listening socket");
	if (!config->model->queues || config->model->queues > VUSER_QUEUES_MAX)
		return error_set(err, -EINVAL, "a vhost-user device has 1 to %u queues, not %u",
				 VUSER_QUEUES_MAX, config->model->queues);
	if (config->coalesce_us > COALESCE_US_MAX)
		return error_set(err, -EINVAL, "calls wait at most %u microseconds, not %u",
				 COALESCE_US_MAX, config->coalesce_us);
	device_id = config->model->ops->device_id;
	offered = virtq_features_or(config->model->features, config->features);
	offered = virtq_features_with(offered, VIRTIO_F_VERSION_1);
	rc = features_check(device_id, offered, FEATURES_OFFERED, err);
	if (rc)
		return rc;
	server = calloc(1, sizeof(*server));
	if (!server)
		return error_set(err, -ENOMEM, "no memory for a server");
	server->config = *config;
	server->counters.queue = calloc(config->model->queues, sizeof(*server->counters.queue));
	server->polls = calloc(POLL_RINGS + config->model->queues + VUSER_WAITING_MAX,
			       sizeof(*server->polls));
	server->stop_fd = virtq_notify_open();
	rc = server->stop_fd < 0 ? server->stop_fd : 0;
	if (!rc && (!server->counters.queue || !server->polls))
		rc = -ENOMEM;
	if (!rc)
		rc = vuser_control_init(&server->control, config->model->queues, config->engines,
					config->engine_count);
	if (rc) {
		if (server->stop_fd >= 0)
			close(server->stop_fd);
		free(server->counters.queue);
		free(server->polls);
		free(server);
		return error_set_errno(err, rc, "cannot make a server");
	}
	pthread_mutex_init(&server->counters.lock, NULL);
	vuser_channel_init(&server->channel);
	/* What a driver could accept, we must be able to serve (2.2.2). */
	offered = features_defined(device_id, offered, features_of_fd_transports());
	offered = virtq_features_with(offered, VHOST_USER_F_PROTOCOL_FEATURES);
	server->offered = offered.word[0];
	*out = server;
	return 0;
}

void virtq_vhost_user_server_destroy(struct virtq_vhost_user_server *server)
{
	if (!server)
		return;
	vuser_waiting_fini(&server->waiting);
	vuser_channel_fini(&server->channel);
	vuser_control_fini(&server->control);
	pthread_mutex_destroy(&server->counters.lock);
	close(server->stop_fd);
	free(server->counters.queue);
	free(server->polls);
	free(server);
}

void virtq_vhost_user_server_stop(struct virtq_vhost_user_server *server)
{
	int saved = errno;	/* may interrupt anything, as a signal handler */

	virtq_notify_send(server->stop_fd);
	errno = saved;
}

int virtq_vhost_user_server_stats(struct virtq_vhost_user_server *server, unsigned int queue,
				  struct virtq_engine_stats *stats)
{
	struct vuser_counter *counter;

	if (queue >= server->config.model->queues)
		return -EINVAL;
	counter = &server->counters.queue[queue];
	pthread_mutex_lock(&server->counters.lock);
	memset(stats, 0, sizeof(*stats));
	if (counter->live)
		virtq_engine_queue_stats(counter->live, stats);
	vuser_stats_add(stats, &counter->past);
	pthread_mutex_unlock(&server->counters.lock);
	return 0;
}

void virtq_vhost_user_server_config_changed(struct virtq_vhost_user_server *server)
{
	vuser_channel_tell(&server->channel);
}

struct vuser_control *vuser_server_control(struct virtq_vhost_user_server *server)
{
	return &server->control;
}

unsigned int vuser_server_queues(const struct virtq_vhost_user_server *server)
{
	return server->config.model->queues;
}

/*
 * Wait for something to happen to @s, or with NULL to anybody who waits; those who
 * come or go always count. 0 or -errno.
 */
static int wait_for_something(struct virtq_vhost_user_server *server,
			      const struct vuser_session *s)
{
	struct pollfd *polls = server->polls;
	int room_ms = vuser_waiting_room_ms(&server->waiting);
	int timeout_ms = room_ms ? room_ms : -1;
	bool deaf = server->shortage || room_ms;
	nfds_t count = POLL_RINGS;
	int n;

	if (server->shortage && (timeout_ms < 0 || timeout_ms > ACCEPT_RETRY_MS))
		timeout_ms = ACCEPT_RETRY_MS;
	/* Who cannot be taken in would wake us at once, again and again. */
	polls[POLL_STOP] = (struct pollfd){ server->stop_fd, POLLIN, 0 };
	polls[POLL_LISTEN] = (struct pollfd){ deaf ? -1 : server->config.listen_fd, POLLIN, 0 };
	polls[POLL_CLIENT] = (struct pollfd){ s ? s->fd : -1, POLLIN, 0 };
	for (unsigned int i = 0; s && i < s->vring_count; i++)
		polls[count++] = (struct pollfd){ s->vrings[i].broken_fd, POLLIN, 0 };
	server->waiting_polls = (unsigned int)count;
	count += vuser_waiting_poll(&server->waiting, &polls[count], s ? 0 : POLLIN);
	do
		n = poll(polls, count, timeout_ms);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static bool stop_asked(const struct virtq_vhost_user_server *server)
{
	return server->polls[POLL_STOP].revents != 0;
}

/* What accept() reports about one client, or about a shortage, not about the socket. */
static bool accept_may_succeed_later(int code)
{
	switch (code) {
	case EINTR: case EAGAIN: case ECONNABORTED: case EPROTO: case EPERM:
	case EMFILE: case ENFILE: case ENOMEM: case ENOBUFS:
		return true;
	default:
		return false;
	}
}

/* Take in one who has come. 0, or -errno if nobody ever will again. */
static int admit(struct virtq_vhost_user_server *server)
{
	bool had_shortage = server->shortage;
	int fd;

	server->shortage = false;
	if (!had_shortage && !server->polls[POLL_LISTEN].revents)
		return 0;
	if (!vuser_waiting_make_room(&server->waiting))
		return 0;
	fd = accept4(server->config.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		vuser_waiting_add(&server->waiting, fd);
		return 0;
	}
	server->shortage = errno != EAGAIN && errno != EINTR;
	return accept_may_succeed_later(errno) ? 0 : -errno;
}

/* From here on other threads find its queues. */
static void show_session(struct virtq_vhost_user_server *server, struct vuser_session *s)
{
	pthread_mutex_lock(&server->control.lock);
	s->control = &server->control;
	server->control.session = s;
	pthread_mutex_unlock(&server->control.lock);
}

static void halt_session(struct virtq_vhost_user_server *server, struct vuser_session *s)
{
	pthread_mutex_lock(&server->control.lock);
	vuser_session_halt(s);
	server->control.session = NULL;
	pthread_mutex_unlock(&server->control.lock);
}

/* What was waited for has happened to @s. */
static int serve_session(struct virtq_vhost_user_server *server, struct vuser_session *s,
			 struct virtq_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&server->control.lock);
	for (unsigned int i = 0; i < s->vring_count; i++)
		if (server->polls[POLL_RINGS + i].revents)
			vuser_vring_broke(s, i);
	if (server->polls[POLL_CLIENT].revents)
		rc = vuser_session_serve(s, err);
	pthread_mutex_unlock(&server->control.lock);
	return rc;
}

/* Serve one client, whose socket is taken, until it goes, is sent away, or we stop. */
static void serve_client(struct virtq_vhost_user_server *server, int fd)
{
	struct virtq_error err = { 0, "" };
	struct vuser_session *s;
	int rc;

	if (vuser_session_open(&s, fd, &server->config, &server->counters, &server->channel,
			       server->offered)) {
		close(fd);
		return;
	}
	show_session(server, s);
	vuser_session_event(s, VIRTQ_VU_CONNECTED, -1, "a client connected");
	do {
		rc = wait_for_something(server, s);
		if (rc) {
			error_set_errno(&err, rc, "cannot wait for the client");
			break;
		}
		if (stop_asked(server))
			break;
		vuser_waiting_dismiss_gone(&server->waiting,
					   &server->polls[server->waiting_polls]);
		/* A socket that is broken is found to be so when this one has gone, too. */
		if (admit(server))
			server->shortage = true;
		rc = serve_session(server, s, &err);
	} while (!rc);

	/* Stop the rings first: what is told now is over. */
	halt_session(server, s);
	if (rc == -EPIPE || rc == -ECONNRESET)
		vuser_session_event(s, VIRTQ_VU_DISCONNECTED, -1, "the client disconnected");
	else if (rc)
		vuser_session_event(s, VIRTQ_VU_REFUSED, -1, err.text);
	else
		vuser_session_event(s, VIRTQ_VU_DISCONNECTED, -1, "the server was stopped");
	vuser_session_close(s);
}

int virtq_vhost_user_serve(struct virtq_vhost_user_server *server, struct virtq_error *err)
{
	int rc;

	for (;;) {
		int fd;

		rc = wait_for_something(server, NULL);
		if (rc || stop_asked(server))
			break;
		rc = admit(server);
		if (rc) {
			error_set_errno(err, rc, "cannot accept clients");
			break;
		}
		fd = vuser_waiting_next(&server->waiting);
		if (fd < 0)
			continue;
		serve_client(server, fd);
		if (stop_asked(server))
			break;
	}
	/* One stop() ends one serve(). */
	if (!rc)
		virtq_notify_clear(server->stop_fd);
	return rc;
}

/* 0 if nobody listens on the socket file any more, else -EADDRINUSE or -errno. */
static int check_abandoned(const struct sockaddr_un *addr, struct virtq_error *err)
{
	struct stat st;
	int fd, rc;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 :
		       error_set_errno(err, -errno, "cannot look at %s", addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST, "%s exists and is no socket", addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make a socket");
	rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	close(fd);
	if (rc == ENOENT)
		return 0;
	if (rc != ECONNREFUSED)	/* also a backlog that is full: somebody is there */
		return error_set(err, -EADDRINUSE, "somebody listens on %s already",
				 addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return error_set_errno(err, -errno, "cannot remove the old socket %s",
				       addr->sun_path);
	return 0;
}

int virtq_vhost_user_listen(const char *path, struct virtq_error *err)
{
	struct sockaddr_un addr;
	int fd, rc = vuser_address(&addr, path, err);

	if (!rc)
		rc = check_abandoned(&addr, err);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make a socket");
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, SOMAXCONN)) {
		rc = error_set_errno(err, -errno, "cannot listen on %s", path);
		close(fd);
		return rc;
	}
	return fd;
}
