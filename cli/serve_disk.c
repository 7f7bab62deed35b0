/* SPDX-License-Identifier: MIT */
/* The life of one disk that is served, and what is said about it. */
#include "serve_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "report.h"
#include "size.h"

/* ---- --layout packed: a driver that declines packed rings is refused. ---- */

/* The model's operations are the disk's own copy: that is how the disk is found. */
static int disk_packed_features_ok(struct virtq_model *model, struct virtq_features features)
{
	const struct serve_disk *disk = (const struct serve_disk *)(const void *)
		((const char *)model->ops - offsetof(struct serve_disk, packed_ops));

	if (!virtq_features_has(features, VIRTIO_F_RING_PACKED))
		return -EINVAL;
	return disk->features_ok ? disk->features_ok(model, features) : 0;
}

static void disk_insist_on_packed(struct serve_disk *disk)
{
	disk->features_ok = disk->model->ops->features_ok;
	disk->packed_ops = *disk->model->ops;
	disk->packed_ops.features_ok = disk_packed_features_ok;
	disk->model->ops = &disk->packed_ops;
}

/* ---- What clients do. ---- */

static void disk_on_event(void *arg, enum virtq_vhost_user_event event, int queue,
			  const char *text)
{
	struct serve_disk *disk = arg;
	const char *colon = text[0] ? ": " : "";
	const char *name = disk->one_of_many ? disk->name : "";
	const char *of = disk->one_of_many ? ": " : "";
	unsigned int client;

	pthread_mutex_lock(&disk->lock);
	disk->clients += event == VIRTQ_VU_CONNECTED;
	client = disk->clients;
	pthread_mutex_unlock(&disk->lock);
	/* What a client broke is an error, and told even by --quiet. */
	if (event == VIRTQ_VU_REFUSED)
		report_note("%s%sclient %u was cut off%s%s", name, of, client, colon, text);
	else if (event == VIRTQ_VU_QUEUE_BROKEN)
		report_note("%s%sclient %u broke queue %d%s%s", name, of, client, queue, colon,
			    text);
	else if (disk->quiet)
		return;
	else if (event == VIRTQ_VU_CONNECTED)
		report_note("%s%sclient %u came", name, of, client);
	else if (event == VIRTQ_VU_DISCONNECTED)
		report_note("%s%sclient %u went", name, of, client);
	else if (event == VIRTQ_VU_NACKED)
		report_note("%s%sclient %u was refused a request%s%s", name, of, client, colon,
			    text);
}

/* ---- Opening. ---- */

/* The listening socket: our own at a path, or one that was handed over. */
static int disk_listen(struct serve_disk *disk, struct virtq_error *err)
{
	const struct serve_settings *s = disk->settings;
	int domain = 0, listening = 0;
	socklen_t len = sizeof(int);
	struct stat st;
	int fd;

	if (s->socket_path) {
		fd = virtq_vhost_user_listen(s->socket_path, err);
		if (fd < 0)
			return fd;
		disk->listen_fd = fd;
		if (lstat(s->socket_path, &st) == 0) {
			disk->socket_made = true;
			disk->socket_dev = st.st_dev;
			disk->socket_ino = st.st_ino;
		}
		return 0;
	}
	if (getsockopt(s->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return report_into_errno(err, -errno, "file descriptor %d is no socket", s->fd);
	len = sizeof(int);
	if (domain != AF_UNIX ||
	    getsockopt(s->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return report_into(err, -EINVAL,
				   "file descriptor %d is no listening Unix socket", s->fd);
	disk->listen_fd = s->fd;
	return 0;
}

static int disk_make_model(struct serve_disk *disk, struct virtq_error *err)
{
	const struct serve_settings *s = disk->settings;
	const struct virtq_store_options store = {
		.read_only = s->read_only,
		.direct = s->direct,
		.no_in_place = s->no_in_place,
		.reconnect_ms = s->reconnect_ms,
	};
	struct virtq_blk_options blk = {
		.read_only = s->read_only,
		.write_through = s->write_through,
		.queues = s->queues,
		.queue_size_max = s->queue_size,
		.serial = s->serial,
		.size_max_bytes = s->size_max,
	};
	int rc = virtq_store_open(&blk.store, s->image, &store, err);

	if (rc == 0 && s->direct && !disk->quiet && strcmp(blk.store->ops->name, "file") != 0)
		report_note("%s is no file, and has no page cache for --direct to bypass",
			    s->image);
	if (rc == 0 && s->reconnect_ms && !disk->quiet &&
	    strcmp(blk.store->ops->name, "nbd") != 0)
		report_note("%s is nothing that --reconnect could connect to", s->image);
	if (rc == 0 && s->inject)
		rc = virtq_store_inject(&blk.store, blk.store, s->inject, err);
	if (rc < 0)
		return rc;
	disk->store = blk.store;
	disk->bytes = blk.store->info.bytes;
	return virtq_blk_create(&disk->model, &blk, err);
}

static int disk_make_server(struct serve_disk *disk, struct virtq_error *err)
{
	struct virtq_vhost_user_server_config config = {
		.engines = disk->engines,
		.engine_count = disk->engine_count,
		.features = virtq_ring_features_usual(),
		.event = disk_on_event,
		.event_arg = disk,
		.coalesce_count = disk->settings->coalesce_count,
		.coalesce_us = disk->settings->coalesce_us,
	};
	int rc;

	if (disk->settings->layout == SERVE_SPLIT)
		config.features = virtq_features_without(config.features, VIRTIO_F_RING_PACKED);
	if (disk->settings->layout == SERVE_PACKED)
		disk_insist_on_packed(disk);
	rc = disk_listen(disk, err);
	if (rc < 0)
		return rc;
	config.model = disk->model;
	config.listen_fd = disk->listen_fd;
	return virtq_vhost_user_server_create(&disk->server, &config, err);
}

/* Put in front of what went wrong whose it is, unless it says so. */
static int disk_blame(const struct serve_disk *disk, int rc, const struct virtq_error *why,
		      struct virtq_error *err)
{
	if (rc < 0 && disk->one_of_many && !report_mentions(why->text, disk->name))
		return report_into(err, rc, "the disk on %s: %s", disk->name, why->text);
	if (rc < 0)
		*err = *why;
	return rc;
}

int serve_disk_open(struct serve_disk *disk, const struct serve_settings *settings,
		    struct virtq_engine *const *engines, unsigned int engine_count,
		    bool one_of_many, bool quiet, struct virtq_error *err)
{
	struct virtq_error why = { 0 };

	disk->settings = settings;
	disk->one_of_many = one_of_many;
	disk->quiet = quiet;
	disk->listen_fd = -1;
	pthread_mutex_init(&disk->lock, NULL);
	memcpy(disk->engines, engines, engine_count * sizeof(*engines));
	disk->engine_count = engine_count;
	if (settings->socket_path)
		snprintf(disk->name, sizeof(disk->name), "%s", settings->socket_path);
	else
		snprintf(disk->name, sizeof(disk->name), "file descriptor %d", settings->fd);
	return disk_blame(disk, disk_make_model(disk, &why), &why, err);
}

int serve_disk_listen(struct serve_disk *disk, struct virtq_error *err)
{
	struct virtq_error why = { 0 };

	return disk_blame(disk, disk_make_server(disk, &why), &why, err);
}

void serve_disk_unlink(const struct serve_disk *disk)
{
	const char *path = disk->settings->socket_path;
	struct stat st;

	if (disk->socket_made && lstat(path, &st) == 0 && st.st_dev == disk->socket_dev &&
	    st.st_ino == disk->socket_ino)
		unlink(path);
}

void serve_disk_close(struct serve_disk *disk)
{
	serve_disk_unlink(disk);
	virtq_vhost_user_server_destroy(disk->server);
	if (disk->settings->socket_path && disk->listen_fd >= 0)
		close(disk->listen_fd);
	virtq_model_destroy(disk->model);
	pthread_mutex_destroy(&disk->lock);
}

/* ---- Running. ---- */

static void *disk_run(void *arg)
{
	struct serve_disk *disk = arg;
	struct virtq_error err = { 0 };
	int rc = virtq_vhost_user_serve(disk->server, &err);

	if (rc < 0)
		report_note("%s%s%s", disk->one_of_many ? disk->name : "",
			    disk->one_of_many ? " is served no more: " : "", err.text);
	pthread_mutex_lock(&disk->lock);
	disk->ended = true;
	disk->failed = rc < 0;
	pthread_mutex_unlock(&disk->lock);
	virtq_notify_send(disk->ended_fd);
	return NULL;
}

int serve_disk_start(struct serve_disk *disk, int ended_fd, struct virtq_error *err)
{
	int rc;

	disk->ended_fd = ended_fd;
	rc = pthread_create(&disk->thread, NULL, disk_run, disk);
	if (rc)
		return report_into_errno(err, -rc, "cannot start a thread for %s", disk->name);
	disk->running = true;
	return 0;
}

bool serve_disk_ended(struct serve_disk *disk)
{
	bool ended;

	pthread_mutex_lock(&disk->lock);
	ended = disk->ended;
	pthread_mutex_unlock(&disk->lock);
	return ended;
}

void serve_disk_stop(struct serve_disk *disk)
{
	virtq_vhost_user_server_stop(disk->server);
}

bool serve_disk_join(struct serve_disk *disk)
{
	if (disk->running)
		pthread_join(disk->thread, NULL);
	disk->running = false;
	return !disk->failed;
}

/* ---- What is said about it. ---- */

/* Not from the configuration space: that one is the business of the disk's thread. */
uint64_t serve_disk_bytes(struct serve_disk *disk)
{
	uint64_t bytes;

	pthread_mutex_lock(&disk->lock);
	bytes = disk->bytes;
	pthread_mutex_unlock(&disk->lock);
	return bytes;
}

void serve_disk_announce(struct serve_disk *disk, unsigned int threads)
{
	static const char *const layouts[] = { "split and packed", "split", "packed" };
	const struct serve_settings *s = disk->settings;
	char size[SIZE_TEXT_BYTES];
	const char *engine = virtq_engine_kind(disk->engines[0]) == VIRTQ_ENGINE_URING ?
			     "uring" : "sync";

	report_note("serving %s (%s%s) on %s: %u queue%s of up to %u entries, %s, engine %s, "
		    "%u thread%s%s%s",
		    s->image, size_text(size, (double)serve_disk_bytes(disk)),
		    s->read_only || disk->store->info.read_only ? ", read-only" : "", disk->name,
		    disk->model->queues, disk->model->queues == 1 ? "" : "s",
		    disk->model->queue_size_max, layouts[s->layout], engine,
		    threads, threads == 1 ? "" : "s",
		    s->inject ? "; faults are injected: " : "", s->inject ? s->inject : "");
}

void serve_disk_summarize(struct serve_disk *disk)
{
	struct virtq_engine_stats sum = { 0 }, one;
	char rd[SIZE_TEXT_BYTES], wr[SIZE_TEXT_BYTES];
	unsigned int i;

	for (i = 0; i < disk->model->queues; i++)
		if (virtq_vhost_user_server_stats(disk->server, i, &one) == 0)
			stats_sum(&sum, &one);
	report_note("%s%sserved %u client%s: %llu requests (%llu malformed, %llu failed), %s read, "
		    "%s written, %llu kicks, %llu calls",
		    disk->one_of_many ? disk->name : "", disk->one_of_many ? ": " : "",
		    disk->clients, disk->clients == 1 ? "" : "s",
		    (unsigned long long)sum.requests,
		    (unsigned long long)sum.malformed, (unsigned long long)sum.failed,
		    size_text(rd, (double)sum.bytes_read),
		    size_text(wr, (double)sum.bytes_written),
		    (unsigned long long)sum.kicks, (unsigned long long)sum.calls);
}

/* ---- What others ask. ---- */

bool serve_disk_is(const struct serve_disk *disk, const char *name)
{
	const struct serve_settings *s = disk->settings;
	struct stat st;

	if ((s->serial && strcmp(s->serial, name) == 0) || strcmp(disk->name, name) == 0)
		return true;
	return disk->socket_made && stat(name, &st) == 0 && st.st_dev == disk->socket_dev &&
	       st.st_ino == disk->socket_ino;
}

bool serve_disk_stats(struct serve_disk *disk, struct stats_disk *stats)
{
	const struct serve_settings *s = disk->settings;
	unsigned int i;

	if (!stats_disk_init(stats, disk->name, s->image, s->serial ? s->serial : "",
			     disk->model->queues))
		return false;
	stats->bytes = serve_disk_bytes(disk);
	pthread_mutex_lock(&disk->lock);
	stats->clients = disk->clients;
	pthread_mutex_unlock(&disk->lock);
	for (i = 0; i < stats->queues; i++)
		virtq_vhost_user_server_stats(disk->server, i, &stats->queue[i]);
	return true;
}

int serve_disk_resize(struct serve_disk *disk, struct virtq_error *err)
{
	int rc = virtq_blk_refresh(disk->model, err);

	if (rc <= 0)
		return rc;
	/* Only the refresh changes it, and there is one at a time. */
	pthread_mutex_lock(&disk->lock);
	disk->bytes = disk->store->info.bytes;
	pthread_mutex_unlock(&disk->lock);
	virtq_vhost_user_server_config_changed(disk->server);
	return rc;
}
