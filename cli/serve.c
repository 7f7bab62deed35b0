/* SPDX-License-Identifier: MIT */
/* `virtq serve blk`: files as vhost-user block devices, until told to stop. */
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <virtq/virtq.h>

#include "control.h"
#include "nofile.h"
#include "report.h"
#include "serve_disk.h"
#include "serve_options.h"

/* How long a resize waits for another. */
#define SERVE_RESIZE_WAIT_S 2

/* Descriptors beside those that a disk's client makes us hold. */
#define SERVE_OTHER_FDS 64

/* The running process; see serve_open() for the order in which it is made. */
struct serve {
	const struct serve_options *options;
	struct virtq_engine *engine[SERVE_THREADS_MAX];
	unsigned int engines;
	struct serve_disk *disk;
	unsigned int disks;		/* begun to be opened */
	struct control *control;
	pthread_mutex_t resizing;
	int ended_fd;			/* a disk has ended, or an engine failed */
	sigset_t signals;		/* that end it */
	int signal_fd;
};

/* ---- What others ask: on the control's threads, and for --stats on the main one. ---- */

static bool serve_stats(struct serve *s, struct stats *stats)
{
	struct timespec now;
	unsigned int i;

	*stats = (struct stats){ 0 };
	clock_gettime(CLOCK_MONOTONIC, &now);
	stats->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	for (i = 0; i < s->disks; i++) {
		struct stats_disk *disk = stats_append(stats);

		if (!disk || !serve_disk_stats(&s->disk[i], disk)) {
			stats_free(stats);
			return false;
		}
	}
	return true;
}

/* One disk that is asked how large it is: on a thread, for its server may be far away and mute. */
struct serve_ask {
	const struct serve *serve;
	struct serve_disk *disk;
	uint64_t before;
	int rc;
	struct virtq_error err;
	pthread_t thread;
	bool threaded;
};

static void *serve_resize_disk(void *arg)
{
	struct serve_ask *ask = arg;

	ask->before = serve_disk_bytes(ask->disk);
	ask->rc = serve_disk_resize(ask->disk, &ask->err);
	if (ask->rc > 0 && !ask->serve->options->quiet)
		report_note("%s has %llu bytes now, and %llu before", ask->disk->name,
			    (unsigned long long)serve_disk_bytes(ask->disk),
			    (unsigned long long)ask->before);
	return NULL;
}

static void serve_resize_say(struct serve_ask *ask, FILE *out)
{
	if (ask->threaded)
		pthread_join(ask->thread, NULL);
	else
		serve_resize_disk(ask);		/* more disks than there can be threads */
	if (ask->rc < 0)
		fputs("failed ", out);
	else if (ask->rc)
		fprintf(out, "changed %llu %llu ", (unsigned long long)ask->before,
			(unsigned long long)serve_disk_bytes(ask->disk));
	else
		fprintf(out, "same %llu ", (unsigned long long)ask->before);
	control_write_text(out, ask->disk->name);
	if (ask->rc < 0) {
		fputs(": ", out);
		control_write_text(out, ask->err.text);
	}
	fputc('\n', out);
	/* Each by itself: the next one may be long in coming. */
	fflush(out);
}

/* All at the same time, so that those who do not answer are waited for once. */
static void serve_resize_disks(struct serve *s, struct serve_ask *asks, const char *name,
			       FILE *out)
{
	unsigned int i, found = 0;

	for (i = 0; i < s->disks; i++) {
		struct serve_ask *ask = &asks[found];

		if (name && !serve_disk_is(&s->disk[i], name))
			continue;
		*ask = (struct serve_ask){ .serve = s, .disk = &s->disk[i] };
		ask->threaded = pthread_create(&ask->thread, NULL, serve_resize_disk, ask) == 0;
		found++;
	}
	if (!found) {
		fprintf(out, "error no disk here is called %s\n", name);
		return;
	}
	fputs("ok\n", out);
	for (i = 0; i < found; i++)
		serve_resize_say(&asks[i], out);
	fputs("end\n", out);
}

/* One request at a time, for a server far away may be long in saying how much it has. */
static void serve_resize(struct serve *s, const char *name, FILE *out)
{
	struct serve_ask *asks;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SERVE_RESIZE_WAIT_S;
	if (pthread_mutex_timedlock(&s->resizing, &until)) {
		fputs("error another resize is under way and takes its time\n", out);
		return;
	}
	asks = calloc(s->disks, sizeof(*asks));
	if (asks)
		serve_resize_disks(s, asks, name, out);
	else
		fputs("error the server has no memory for an answer\n", out);
	free(asks);
	pthread_mutex_unlock(&s->resizing);
}

static void serve_answer(void *arg, const char *request, FILE *out)
{
	struct serve *s = arg;
	struct stats stats;

	if (strcmp(request, "stats") == 0) {
		if (serve_stats(s, &stats)) {
			fputs("ok\n", out);
			stats_write(out, &stats);
			stats_free(&stats);
		} else {
			fputs("error the server has no memory for an answer\n", out);
		}
	} else if (strcmp(request, "resize") == 0) {
		serve_resize(s, NULL, out);
	} else if (strncmp(request, "resize ", 7) == 0) {
		serve_resize(s, request + 7, out);
	} else {
		fputs("error there is no such request\n", out);
	}
}

/* ---- The process's life. ---- */

/* There is nothing yet that would be left behind; see serve_open_disks(). */
static void serve_end_at_once(int number)
{
	(void)number;
	_exit(REPORT_OK);
}

/*
 * Signals wait from here on, in all threads, until serve_wait() reads them: so none
 * is lost before there is something to stop.
 */
static int serve_hold_signals(struct serve *s, struct virtq_error *err)
{
	static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction at_once = { .sa_handler = serve_end_at_once }, old;
	unsigned int i;

	sigemptyset(&s->signals);
	for (i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
		/* nohup ignores SIGHUP, and a script's background jobs SIGINT: so be it. */
		if (sigaction(stops[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN &&
		    stops[i] != SIGTERM)
			continue;
		sigaddset(&s->signals, stops[i]);
	}
	sigprocmask(SIG_BLOCK, &s->signals, NULL);
	for (i = 0; i < sizeof(stops) / sizeof(stops[0]); i++)
		if (sigismember(&s->signals, stops[i]))
			sigaction(stops[i], &at_once, NULL);
	s->signal_fd = signalfd(-1, &s->signals, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? report_into_errno(err, -errno, "cannot wait for signals") : 0;
}

/* On that engine's thread: it is looked at in serve_wait(). */
static void serve_on_engine_failed(void *arg, struct virtq_engine *engine, int error)
{
	struct serve *s = arg;

	(void)engine, (void)error;
	virtq_notify_send(s->ended_fd);
}

static int serve_open_engines(struct serve *s, unsigned int queues, struct virtq_error *err)
{
	const struct serve_options *o = s->options;
	struct virtq_engine_config config = o->engine;
	unsigned int threads = o->threads < queues ? o->threads : queues;

	config.failed = serve_on_engine_failed;
	config.failed_arg = s;
	for (; s->engines < threads; s->engines++) {
		int rc = virtq_engine_create(&s->engine[s->engines], &config, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/*
 * Each disk begins with another engine, so that small ones do not meet on the first.
 * All sockets come after all images.
 */
static int serve_open_disks(struct serve *s, struct virtq_error *err)
{
	const struct serve_list *list = &s->options->list;
	struct virtq_engine *turned[SERVE_THREADS_MAX];
	unsigned int first = 0, i;

	for (; s->disks < list->count; first += list->disks[s->disks - 1].queues) {
		int rc;

		for (i = 0; i < s->engines; i++)
			turned[i] = s->engine[(first + i) % s->engines];
		s->disks++;
		/* A server far away may be long in answering: until it does, a signal counts. */
		pthread_sigmask(SIG_UNBLOCK, &s->signals, NULL);
		rc = serve_disk_open(&s->disk[s->disks - 1], &list->disks[s->disks - 1], turned,
				     s->engines, list->count > 1, s->options->quiet, err);
		pthread_sigmask(SIG_BLOCK, &s->signals, NULL);
		if (rc < 0)
			return rc;
	}
	for (i = 0; i < s->disks; i++) {
		int rc = serve_disk_listen(&s->disk[i], err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The server goes on without one: it is not what it is for. */
static void serve_open_control(struct serve *s)
{
	struct virtq_error err = { 0 };

	if (control_open(&s->control, serve_answer, s, &err) < 0)
		report_note("'virtq stats' and 'virtq resize' cannot ask this server: %s",
			    err.text);
}

static int serve_open(struct serve *s, struct virtq_error *err)
{
	const struct serve_list *list = &s->options->list;
	unsigned int queues = 0, i;
	int rc;

	for (i = 0; i < list->count; i++)
		queues += list->disks[i].queues;
	/* Now, for a queue that fails to start later is one that a client sees dead. */
	rc = limits_want_descriptors(queues * SERVE_QUEUE_FDS +
				     list->count * SERVE_DISK_FDS + SERVE_OTHER_FDS, err);
	if (rc < 0)
		return rc;
	/* Clients share files with us that they can shorten at any time. */
	rc = virtq_guard_install(err);
	if (rc < 0)
		return rc;
	s->disk = calloc(list->count, sizeof(*s->disk));
	s->ended_fd = virtq_notify_open();
	if (!s->disk || s->ended_fd < 0)
		return report_into(err, -ENOMEM, "no memory or descriptors for %u disks",
				   list->count);
	rc = serve_open_engines(s, queues, err);
	if (rc < 0)
		return rc;
	serve_open_control(s);
	/* The sockets come last: who sees them finds everything behind them ready. */
	rc = serve_open_disks(s, err);
	for (i = 0; i < s->disks && rc == 0; i++)
		rc = serve_disk_start(&s->disk[i], s->ended_fd, err);
	return rc < 0 || !s->control ? rc : control_start(s->control, err);
}

/* True if nothing had failed. */
static bool serve_stop(struct serve *s)
{
	bool good = true;
	unsigned int i;

	control_stop(s->control);
	for (i = 0; i < s->disks; i++)
		if (s->disk[i].running)
			serve_disk_stop(&s->disk[i]);
	for (i = 0; i < s->disks; i++)
		good &= serve_disk_join(&s->disk[i]);
	return good;
}

/*
 * False if a disk's server far away is being asked for its size, and has not said it
 * yet: then all is left to the end of the process, but what would outlive it.
 */
static bool serve_close(struct serve *s)
{
	unsigned int i;

	serve_stop(s);
	if (!control_close(s->control)) {
		for (i = 0; i < s->disks; i++)
			serve_disk_unlink(&s->disk[i]);
		return false;
	}
	for (i = 0; i < s->disks; i++)
		serve_disk_close(&s->disk[i]);
	for (i = 0; i < s->engines; i++)
		virtq_engine_destroy(s->engine[i]);
	free(s->disk);
	if (s->ended_fd >= 0)
		close(s->ended_fd);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	return true;
}

static void serve_say(const char *sentence)
{
	report_note("%s", sentence);
}

static void serve_say_stats(struct serve *s, struct stats *before)
{
	struct stats after;

	if (!serve_stats(s, &after))
		return;
	stats_say_between(before, &after, serve_say);
	stats_free(before);
	*before = after;
}

static bool serve_all_ended(struct serve *s)
{
	unsigned int i;

	for (i = 0; i < s->disks; i++)
		if (!serve_disk_ended(&s->disk[i]))
			return false;
	return true;
}

/* What it served is lost to its drivers, and nobody else would notice. */
static bool serve_any_engine_failed(struct serve *s)
{
	unsigned int i;

	for (i = 0; i < s->engines; i++) {
		int rc = virtq_engine_error(s->engine[i]);

		if (!rc)
			continue;
		report_failure("thread %u of %u that serve queues cannot go on, so the server ends: %s",
			       i + 1, s->engines, strerror(-rc));
		return true;
	}
	return false;
}

static int64_t serve_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until a signal comes, no disk is left, or an engine fails: false. */
static bool serve_wait(struct serve *s)
{
	const int64_t period_ms = (int64_t)s->options->stats_s * 1000;
	int64_t due_ms = serve_now_ms() + period_ms;
	struct pollfd polls[2] = { { s->signal_fd, POLLIN, 0 }, { s->ended_fd, POLLIN, 0 } };
	struct stats before = { 0 };
	bool good = true;

	if (period_ms)
		serve_stats(s, &before);
	for (;;) {
		int64_t left_ms = due_ms - serve_now_ms();
		int n;

		if (period_ms && left_ms <= 0) {
			serve_say_stats(s, &before);
			due_ms += period_ms;
			continue;
		}
		n = poll(polls, 2, period_ms ? (int)left_ms : -1);
		if (n < 0 && errno != EINTR)
			break;
		if (n > 0 && polls[0].revents)
			break;
		if (n > 0 && polls[1].revents) {
			virtq_notify_clear(s->ended_fd);
			good = !serve_any_engine_failed(s);
			if (!good || serve_all_ended(s))
				break;
		}
	}
	stats_free(&before);
	return good;
}

/* The others of --use show only when there is memory to be registered. */
static void serve_note_uses(const struct serve *s)
{
	if (s->options->engine.demand & ~virtq_engine_uses(s->engine[0]) & VIRTQ_USE_SQPOLL)
		report_note("sqpoll is not to be had here, and is done without");
}

static int serve_run(const struct serve_options *o)
{
	struct serve s = {
		.options = o, .ended_fd = -1, .signal_fd = -1,
		.resizing = PTHREAD_MUTEX_INITIALIZER,
	};
	struct virtq_error err = { 0 };
	int status = REPORT_OK;
	unsigned int i;
	bool good;

	if (serve_hold_signals(&s, &err) < 0 || serve_open(&s, &err) < 0) {
		status = report_failure("%s", err.text);
	} else {
		for (i = 0; i < s.disks && !o->quiet; i++)
			serve_disk_announce(&s.disk[i], s.engines);
		serve_note_uses(&s);
		good = serve_wait(&s);
		if (!serve_stop(&s) || !good)
			status = REPORT_FAILURE;
		for (i = 0; i < s.disks && !o->quiet; i++)
			serve_disk_summarize(&s.disk[i]);
	}
	/* Not by way of main(): a thread still uses what is ours. */
	if (!serve_close(&s))
		_exit(status);
	return status;
}

/* The back-end conventions have it ignore everything else on the command line. */
static bool serve_wants_capabilities(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--print-capabilities") == 0)
			return true;
	return false;
}

int serve_blk_main(int argc, char **argv)
{
	struct serve_options options;
	int status;

	if (serve_wants_capabilities(argc, argv)) {
		puts("{\n"
		     "  \"type\": \"block\",\n"
		     "  \"features\": [\n"
		     "    \"read-only\",\n"
		     "    \"blk-file\"\n"
		     "  ]\n"
		     "}");
		return REPORT_OK;
	}
	status = serve_options_parse(&options, argc, argv);
	if (status == REPORT_OK && options.help)
		fputs(serve_options_help, stdout);
	else if (status == REPORT_OK)
		status = serve_run(&options);
	serve_options_free(&options);
	return status;
}

int serve_main(int argc, char **argv)
{
	if (argc < 2)
		return report_usage("the device to serve is missing: blk");
	if (strcmp(argv[1], "blk") == 0) {
		report_as("virtq serve blk");
		return serve_blk_main(argc - 1, argv + 1);
	}
	/* The device may be missing where help or capabilities are asked for. */
	if (argv[1][0] == '-') {
		if (serve_wants_capabilities(argc, argv) || strcmp(argv[1], "--help") == 0 ||
		    strcmp(argv[1], "-h") == 0)
			return serve_blk_main(argc, argv);
		return report_usage("the device to serve comes first: blk");
	}
	return report_usage("there is no device '%s' to serve; there is blk", argv[1]);
}
