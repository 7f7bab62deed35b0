/* SPDX-License-Identifier: MIT */
/* `virtq serve blk`: a file as a vhost-user block device, until told to stop. */
#include "serve.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtq/virtq.h>

#include "nofile.h"
#include "options.h"
#include "report.h"
#include "size.h"

#define SERVE_QUEUES_MAX 256
#define SERVE_THREADS_MAX 64
/* Covers the time between a client's requests at depth 1; a sleep costs more than that. */
#define SERVE_SPIN_US 32

/*
 * Descriptors that one client can make us hold: for each queue, for each memory
 * region (GET_MAX_MEM_SLOTS of them) its file, and all else.
 */
#define SERVE_QUEUE_FDS 7
#define SERVE_MEMORY_FDS 256
#define SERVE_OTHER_FDS 64

enum serve_layout { SERVE_ANY, SERVE_SPLIT, SERVE_PACKED };

struct serve_options {
	const char *socket_path;
	int fd;			/* -1 if none was given */
	struct virtq_blk_options blk;
	enum virtq_engine_kind engine;
	unsigned int threads;
	unsigned int spin_us;
	enum serve_layout layout;
	bool quiet;
	bool help;
};

/* One running server; see serve_open() for the order in which it is made. */
struct serve {
	const struct serve_options *options;
	struct virtq_model *model;
	struct virtq_engine *engine[SERVE_THREADS_MAX];
	unsigned int engines;
	struct virtq_vhost_user_server *server;
	int listen_fd;
	bool socket_made;	/* and so to be removed; it is the file known as: */
	dev_t socket_dev;
	ino_t socket_ino;
	unsigned int clients;
};

static const char serve_help[] =
	"Usage: virtq serve blk --socket-path PATH|--fd FDNUM --image FILE [OPTION]...\n"
	"Serve a file or block device as a vhost-user block device, in the foreground.\n"
	"\n"
	"  --socket-path PATH   make a listening socket here, and remove it at the end\n"
	"  --fd FDNUM           take this listening socket instead\n"
	"  --image FILE         what to serve; its size is a multiple of 512 bytes\n"
	"  --blk-file FILE      the same as --image\n"
	"  --read-only          refuse writes\n"
	"  --queues N           request queues, 1 to 256 [1]\n"
	"  --queue-size N       most entries in a queue, 2 to 32768 [1024]\n"
	"  --serial TEXT        what a driver gets as the disk's id, up to 20 bytes\n"
	"  --engine WHICH       uring, sync, or auto: uring if the kernel has it [auto]\n"
	"  --threads N          threads that the queues are spread over, 1 to 64 [1];\n"
	"                       never more than there are queues\n"
	"  --spin MICROSECONDS  keep looking for requests so long before sleeping [32]\n"
	"  --direct             bypass the page cache\n"
	"  --layout WHICH       any, split (packed is not offered), or packed (a driver\n"
	"                       that does not accept it is refused) [any]\n"
	"  --print-capabilities print what this program can do, in JSON, and exit\n"
	"  --quiet              say nothing but errors\n"
	"  -h, --help           print this and exit\n"
	"\n"
	"Clients are served one after another. SIGINT, SIGTERM and SIGHUP end the server\n"
	"after the requests that it has begun.\n"
	"\n"
	"Examples:\n"
	"  virtq serve blk --socket-path /run/disk.sock --image disk.img --queues 2\n"
	"  virtq serve blk --socket-path /run/cd.sock --image cd.iso --read-only\n"
	"\n"
	"Exit status: 0 stopped by signal, 1 failed, 2 the command line makes no sense.\n";

/* ---- Options. ---- */

enum {
	OPT_SOCKET_PATH = OPTIONS_FIRST, OPT_FD, OPT_IMAGE, OPT_READ_ONLY, OPT_QUEUES,
	OPT_QUEUE_SIZE, OPT_SERIAL, OPT_ENGINE, OPT_THREADS, OPT_SPIN, OPT_DIRECT, OPT_LAYOUT,
	OPT_CAPABILITIES, OPT_QUIET,
};

static const struct option serve_longs[] = {
	{ "socket-path", required_argument, NULL, OPT_SOCKET_PATH },
	{ "fd", required_argument, NULL, OPT_FD },
	{ "image", required_argument, NULL, OPT_IMAGE },
	{ "blk-file", required_argument, NULL, OPT_IMAGE },
	{ "read-only", no_argument, NULL, OPT_READ_ONLY },
	{ "queues", required_argument, NULL, OPT_QUEUES },
	{ "queue-size", required_argument, NULL, OPT_QUEUE_SIZE },
	{ "serial", required_argument, NULL, OPT_SERIAL },
	{ "engine", required_argument, NULL, OPT_ENGINE },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "spin", required_argument, NULL, OPT_SPIN },
	{ "direct", no_argument, NULL, OPT_DIRECT },
	{ "layout", required_argument, NULL, OPT_LAYOUT },
	{ "print-capabilities", no_argument, NULL, OPT_CAPABILITIES },
	{ "quiet", no_argument, NULL, OPT_QUIET },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* Take one option's value; false if it was reported as bad. */
static bool serve_option(struct serve_options *o, int opt)
{
	static const char *const engines[] = { "auto", "uring", "sync", NULL };
	static const enum virtq_engine_kind kinds[] = {
		VIRTQ_ENGINE_AUTO, VIRTQ_ENGINE_URING, VIRTQ_ENGINE_SYNC,
	};
	static const char *const layouts[] = { "any", "split", "packed", NULL };
	uint64_t value = 0;
	int choice;
	bool good = true;

	switch (opt) {
	case OPT_SOCKET_PATH:
		o->socket_path = optarg;
		break;
	case OPT_FD:
		good = options_number("fd", optarg, 0, INT_MAX, &value);
		o->fd = (int)value;
		break;
	case OPT_IMAGE:
		o->blk.path = optarg;
		break;
	case OPT_READ_ONLY:
		o->blk.read_only = true;
		break;
	case OPT_QUEUES:
		good = options_number("queues", optarg, 1, SERVE_QUEUES_MAX, &value);
		o->blk.queues = (unsigned int)value;
		break;
	case OPT_QUEUE_SIZE:
		good = options_number("queue-size", optarg, 2, 32768, &value);
		o->blk.queue_size_max = (unsigned int)value;
		break;
	case OPT_SERIAL:
		o->blk.serial = optarg;
		if (strlen(optarg) > VIRTIO_BLK_ID_BYTES) {
			report_usage("--serial is at most %d bytes long, and not %zu",
				     VIRTIO_BLK_ID_BYTES, strlen(optarg));
			return false;
		}
		break;
	case OPT_ENGINE:
		choice = options_choice("engine", optarg, engines);
		good = choice >= 0;
		o->engine = kinds[good ? choice : 0];
		break;
	case OPT_THREADS:
		good = options_number("threads", optarg, 1, SERVE_THREADS_MAX, &value);
		o->threads = (unsigned int)value;
		break;
	case OPT_SPIN:
		good = options_number("spin", optarg, 0, 1000000, &value);
		o->spin_us = (unsigned int)value;
		break;
	case OPT_DIRECT:
		o->blk.direct = true;
		break;
	case OPT_LAYOUT:
		choice = options_choice("layout", optarg, layouts);
		good = choice >= 0;
		o->layout = good ? (enum serve_layout)choice : SERVE_ANY;
		break;
	case OPT_QUIET:
		o->quiet = true;
		break;
	case 'h':
		o->help = true;
		break;
	}
	return good;
}

static int serve_parse(struct serve_options *o, int argc, char **argv)
{
	int opt;

	*o = (struct serve_options){
		.fd = -1,
		.blk = { .queues = 1, .queue_size_max = 1024 },
		.threads = 1,
		.spin_us = SERVE_SPIN_US,
	};
	while ((opt = options_next(argc, argv, serve_longs)) != OPTIONS_END) {
		if (opt == OPTIONS_BAD || !serve_option(o, opt))
			return REPORT_USAGE;
		if (o->help)
			return REPORT_OK;
	}
	if (!options_operands(argc, argv, 0, ""))
		return REPORT_USAGE;
	if (o->socket_path && o->fd >= 0)
		return report_usage("--socket-path and --fd exclude each other");
	if (!o->socket_path && o->fd < 0)
		return report_usage("either --socket-path or --fd is needed");
	if (!o->blk.path)
		return report_usage("--image is needed");
	return REPORT_OK;
}

/* ---- --layout packed: a driver that declines packed rings is refused. ---- */

static const struct virtq_model_ops *serve_blk_ops;
static struct virtq_model_ops serve_packed_ops;

static int serve_packed_features_ok(struct virtq_model *model, struct virtq_features features)
{
	if (!virtq_features_has(features, VIRTIO_F_RING_PACKED))
		return -EINVAL;
	return serve_blk_ops->features_ok ? serve_blk_ops->features_ok(model, features) : 0;
}

static void serve_insist_on_packed(struct virtq_model *model)
{
	serve_blk_ops = model->ops;
	serve_packed_ops = *model->ops;
	serve_packed_ops.features_ok = serve_packed_features_ok;
	model->ops = &serve_packed_ops;
}

/* ---- The server's life. ---- */

/* For the signal handler, which has no argument. Set before signals are let in. */
static struct virtq_vhost_user_server *serve_stoppable;

static void serve_on_signal(int number)
{
	(void)number;
	virtq_vhost_user_server_stop(serve_stoppable);
}

/*
 * Signals wait from here until serve_let_signals_in(). The engines' threads
 * start in between and keep them blocked, so that only this thread is
 * interrupted; and none is lost before there is a server to stop.
 */
static void serve_hold_signals(sigset_t *ours)
{
	static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction old, stop = { .sa_handler = serve_on_signal, .sa_flags = SA_RESTART };
	unsigned int i;

	sigemptyset(ours);
	for (i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
		/* nohup ignores SIGHUP, and a script's background jobs SIGINT: so be it. */
		if (sigaction(stops[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN &&
		    stops[i] != SIGTERM)
			continue;
		sigaddset(ours, stops[i]);
	}
	sigprocmask(SIG_BLOCK, ours, NULL);
	for (i = 0; i < sizeof(stops) / sizeof(stops[0]); i++)
		if (sigismember(ours, stops[i]))
			sigaction(stops[i], &stop, NULL);
}

static void serve_let_signals_in(struct serve *s, const sigset_t *ours)
{
	serve_stoppable = s->server;
	sigprocmask(SIG_UNBLOCK, ours, NULL);
}

static void serve_on_event(void *arg, enum virtq_vhost_user_event event, int queue,
			   const char *text)
{
	struct serve *s = arg;
	const char *colon = text[0] ? ": " : "";

	if (event == VIRTQ_VU_CONNECTED)
		s->clients++;
	/* What a client broke is an error, and told even by --quiet. */
	if (event == VIRTQ_VU_REFUSED)
		report_note("client %u was cut off%s%s", s->clients, colon, text);
	else if (event == VIRTQ_VU_QUEUE_BROKEN)
		report_note("client %u broke queue %d%s%s", s->clients, queue, colon, text);
	else if (s->options->quiet)
		return;
	else if (event == VIRTQ_VU_CONNECTED)
		report_note("client %u came", s->clients);
	else if (event == VIRTQ_VU_DISCONNECTED)
		report_note("client %u went", s->clients);
	else if (event == VIRTQ_VU_NACKED)
		report_note("client %u was refused a request%s%s", s->clients, colon, text);
}

/* The listening socket: our own at a path, or one that was handed over. */
static int serve_listen(struct serve *s, struct virtq_error *err)
{
	const struct serve_options *o = s->options;
	int domain = 0, listening = 0;
	socklen_t len = sizeof(int);
	struct stat st;
	int fd;

	if (o->socket_path) {
		fd = virtq_vhost_user_listen(o->socket_path, err);
		if (fd < 0)
			return fd;
		s->listen_fd = fd;
		if (lstat(o->socket_path, &st) == 0) {
			s->socket_made = true;
			s->socket_dev = st.st_dev;
			s->socket_ino = st.st_ino;
		}
		return 0;
	}
	if (getsockopt(o->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return report_into_errno(err, -errno, "file descriptor %d is no socket", o->fd);
	len = sizeof(int);
	if (domain != AF_UNIX ||
	    getsockopt(o->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return report_into(err, -EINVAL,
				   "file descriptor %d is no listening Unix socket", o->fd);
	s->listen_fd = o->fd;
	return 0;
}

/* Remove the socket unless somebody has put another in its place meanwhile. */
static void serve_unlink(struct serve *s)
{
	const char *path = s->options->socket_path;
	struct stat st;

	if (s->socket_made && lstat(path, &st) == 0 && st.st_dev == s->socket_dev &&
	    st.st_ino == s->socket_ino)
		unlink(path);
}

static void serve_close(struct serve *s)
{
	unsigned int i;

	serve_unlink(s);
	virtq_vhost_user_server_destroy(s->server);
	if (s->options->socket_path && s->listen_fd >= 0)
		close(s->listen_fd);
	for (i = 0; i < s->engines; i++)
		virtq_engine_destroy(s->engine[i]);
	virtq_model_destroy(s->model);
}

/* The socket comes last: who sees it finds everything behind it ready. */
static int serve_open(struct serve *s, struct virtq_error *err)
{
	const struct serve_options *o = s->options;
	const struct virtq_engine_config engine = { .kind = o->engine, .spin_us = o->spin_us };
	struct virtq_vhost_user_server_config config = {
		.features = virtq_ring_features_usual(),
		.event = serve_on_event,
		.event_arg = s,
	};
	unsigned int threads = o->threads < o->blk.queues ? o->threads : o->blk.queues;
	int rc;

	/* Now, for a queue that fails to start later is one that a client sees dead. */
	rc = limits_want_descriptors(o->blk.queues * SERVE_QUEUE_FDS + SERVE_MEMORY_FDS +
				     SERVE_OTHER_FDS, err);
	if (rc < 0)
		return rc;
	/* Clients share files with us that they can shorten at any time. */
	rc = virtq_guard_install(err);
	if (rc < 0)
		return rc;
	rc = virtq_blk_create(&s->model, &o->blk, err);
	if (rc < 0)
		return rc;
	for (; s->engines < threads; s->engines++) {
		rc = virtq_engine_create(&s->engine[s->engines], &engine, err);
		if (rc < 0)
			return rc;
	}
	if (o->layout == SERVE_SPLIT)
		config.features = virtq_features_without(config.features, VIRTIO_F_RING_PACKED);
	if (o->layout == SERVE_PACKED)
		serve_insist_on_packed(s->model);
	rc = serve_listen(s, err);
	if (rc < 0)
		return rc;
	config.model = s->model;
	config.engines = s->engine;
	config.engine_count = s->engines;
	config.listen_fd = s->listen_fd;
	return virtq_vhost_user_server_create(&s->server, &config, err);
}

static void serve_announce(const struct serve *s)
{
	static const char *const layouts[] = { "split and packed", "split", "packed" };
	const struct serve_options *o = s->options;
	unsigned char raw[sizeof(struct virtq_blk_config_le)] = { 0 };
	struct virtq_blk_config config = { 0 };
	char size[SIZE_TEXT_BYTES], where[32];
	const char *engine = virtq_engine_kind(s->engine[0]) == VIRTQ_ENGINE_URING ?
			     "uring" : "sync";

	s->model->ops->config_read(s->model, 0, raw, sizeof(raw));
	virtq_blk_config_decode(&config, raw, sizeof(raw), s->model->features);
	snprintf(where, sizeof(where), "file descriptor %d", o->fd);
	report_note("serving %s (%s%s) on %s: %u queue%s of up to %u entries, %s, engine %s, "
		    "%u thread%s",
		    o->blk.path,
		    size_text(size, (double)config.capacity_sectors * VIRTQ_BLK_SECTOR_BYTES),
		    o->blk.read_only ? ", read-only" : "",
		    o->socket_path ? o->socket_path : where,
		    s->model->queues, s->model->queues == 1 ? "" : "s",
		    s->model->queue_size_max, layouts[o->layout], engine,
		    s->engines, s->engines == 1 ? "" : "s");
}

static void serve_summarize(const struct serve *s)
{
	struct virtq_engine_stats sum = { 0 }, one;
	char rd[SIZE_TEXT_BYTES], wr[SIZE_TEXT_BYTES];
	unsigned int i;

	for (i = 0; i < s->model->queues; i++) {
		if (virtq_vhost_user_server_stats(s->server, i, &one) < 0)
			continue;
		sum.requests += one.requests;
		sum.malformed += one.malformed;
		sum.failed += one.failed;
		sum.bytes_read += one.bytes_read;
		sum.bytes_written += one.bytes_written;
		sum.kicks += one.kicks;
		sum.calls += one.calls;
	}
	report_note("served %u client%s: %llu requests (%llu malformed, %llu failed), %s read, "
		    "%s written, %llu kicks, %llu calls",
		    s->clients, s->clients == 1 ? "" : "s", (unsigned long long)sum.requests,
		    (unsigned long long)sum.malformed, (unsigned long long)sum.failed,
		    size_text(rd, (double)sum.bytes_read),
		    size_text(wr, (double)sum.bytes_written),
		    (unsigned long long)sum.kicks, (unsigned long long)sum.calls);
}

static int serve_run(const struct serve_options *o)
{
	struct serve s = { .options = o, .listen_fd = -1 };
	struct virtq_error err = { 0 };
	sigset_t ours;
	int status = REPORT_OK;

	serve_hold_signals(&ours);
	if (serve_open(&s, &err) < 0) {
		status = report_failure("%s", err.text);
	} else {
		if (!o->quiet)
			serve_announce(&s);
		serve_let_signals_in(&s, &ours);
		if (virtq_vhost_user_serve(s.server, &err) < 0)
			status = report_failure("%s", err.text);
		sigprocmask(SIG_BLOCK, &ours, NULL);	/* the server goes now */
		if (!o->quiet)
			serve_summarize(&s);
	}
	serve_close(&s);
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
	status = serve_parse(&options, argc, argv);
	if (status != REPORT_OK)
		return status;
	if (options.help) {
		fputs(serve_help, stdout);
		return REPORT_OK;
	}
	return serve_run(&options);
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
