/* SPDX-License-Identifier: MIT */
/*
 * Power cuts: the server is killed in the middle of writes, and then the image
 * is looked at. What was flushed before is there, or what was written over it;
 * every sector is of one generation, whole and in its place.
 *
 *   powercut [--cuts N] [--seed N] [--virtq PATH] [--nbdkit PATH]
 *
 * Killing a process leaves what the kernel has in its page cache. So behind
 * `virtq serve` every acknowledged write must be there; a real cut is made with a
 * store that forgets what was not made stable: one of ours (forgetful.c), and
 * nbdkit with a write-back cache behind `virtq serve`, killed as well. Stores that
 * lie about that must be noticed: the test is able to fail.
 *
 * BLK-DEV-017 where the promise comes with the write, BLK-DEV-018 where it comes with a flush.
 *
 * Prints TAP. Exit status: 0 all is well, 1 it is not.
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtq/spec/virtio.h>

#include "forgetful.h"

#define SECTORS 4096u
#define QUEUES 2u
#define FLUSHES 2u			/* in flight at a time */
#define LIES_TRIED 25u			/* cuts until a lie must have been noticed */
#define PATIENCE_NS UINT64_C(20000000000)
#define WRITEBACK_OFFSET 32u		/* in the configuration space (5.2.4) */

/* When an acknowledged write is promised to survive. */
enum promise {
	PROMISE_FLUSH,			/* once a later flush was acknowledged */
	PROMISE_ACK,			/* at once */
};

struct mode {
	const char *claim;
	bool tool;			/* virtq serve, else the store that forgets */
	bool nbd;			/* the tool with nbdkit behind it, which goes as well */
	const char *option;		/* for the tool */
	enum forgetful_lie lie;		/* must be noticed, unless honest */
	enum promise promise;
	bool writeback_off;		/* by the driver, through the configuration space */
	unsigned int without;		/* a feature that the driver does not accept */
	bool packed;
};

static const struct mode modes[] = {
	{ .claim = "killed: virtq serve, every acknowledged write is there", .tool = true,
	  .promise = PROMISE_ACK },
	{ .claim = "killed: virtq serve --direct, every acknowledged write is there", .tool = true,
	  .option = "--direct", .promise = PROMISE_ACK, .packed = true },
	{ .claim = "power cut, write back: everything that was flushed is there",
	  .promise = PROMISE_FLUSH },
	{ .claim = "power cut, write back, packed: everything that was flushed is there",
	  .promise = PROMISE_FLUSH, .packed = true },
	{ .claim = "power cut, cache switched to write through: every acknowledged write is there",
	  .promise = PROMISE_ACK, .writeback_off = true, .packed = true },
	{ .claim = "power cut, a driver without FLUSH: every acknowledged write is there",
	  .promise = PROMISE_ACK, .without = VIRTIO_BLK_F_FLUSH },
	{ .claim = "power cut of nbdkit, too, write back: everything that was flushed is there",
	  .tool = true, .nbd = true, .promise = PROMISE_FLUSH },
	{ .claim = "power cut of nbdkit, too, write through: every acknowledged write is there",
	  .tool = true, .nbd = true, .promise = PROMISE_ACK, .writeback_off = true },
	{ .claim = "noticed: a store for which FLUSH does nothing",
	  .promise = PROMISE_FLUSH, .lie = FORGETFUL_NO_FLUSH },
	{ .claim = "noticed: a store for which write through is write back",
	  .promise = PROMISE_ACK, .writeback_off = true, .lie = FORGETFUL_NO_STABLE },
	{ .claim = "noticed: a store that tears sectors",
	  .promise = PROMISE_FLUSH, .lie = FORGETFUL_TORN },
};

struct snapshot {
	bool used;
	uint32_t acked[SECTORS];
};

struct cut {
	const struct mode *mode;
	char dir[64], image[96], socket[96], nbd_socket[96], uri[128];
	const char *virtq, *nbdkit;
	struct dice dice;
	pid_t server, nbd_server;
	struct disk disk;
	uint32_t gen;
	bool busy[SECTORS];
	uint32_t promised[SECTORS];	/* generation that must be there, or a later one */
	uint32_t acked[SECTORS];	/* last that was acknowledged */
	uint32_t issued[SECTORS];	/* last that was sent */
	uint32_t zeroed[SECTORS];	/* last that were zeroes */
	struct snapshot flushes[FLUSHES];
	uint64_t writes, flushed, older;
	char complaint[256];
};

static struct cut cut;

__attribute__((format(printf, 1, 2)))
static bool complain(const char *format, ...)
{
	va_list args;

	if (cut.complaint[0])
		return false;
	va_start(args, format);
	vsnprintf(cut.complaint, sizeof(cut.complaint), format, args);
	va_end(args);
	return false;
}

/* ---- The server ---------------------------------------------------------------- */

static int serve_forgetful(void)
{
	struct virtq_blk_options options = { .queues = QUEUES };
	struct virtq_engine_config engine_config = { .kind = VIRTQ_ENGINE_AUTO };
	struct virtq_vhost_user_server_config config = {
		.engine_count = 1, .features = virtq_ring_features_usual(),
	};
	struct virtq_vhost_user_server *server;
	struct virtq_engine *engine;
	struct virtq_error err = { 0 };
	int rc = forgetful_open(&options.store, cut.image, cut.mode->lie);

	if (!rc)
		rc = virtq_blk_create(&config.model, &options, &err);
	if (!rc)
		rc = virtq_engine_create(&engine, &engine_config, &err);
	if (!rc)
		rc = config.listen_fd = virtq_vhost_user_listen(cut.socket, &err);
	if (rc >= 0) {
		config.engines = &engine;
		rc = virtq_vhost_user_server_create(&server, &config, &err);
	}
	if (rc >= 0)
		rc = virtq_vhost_user_serve(server, &err);
	fprintf(stderr, "# the server: %d %s\n", rc, err.text);
	return 1;
}

static void await_socket(const char *path)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	while (access(path, F_OK) && now_ns() < end)
		usleep(2000);
}

static void start_nbdkit(void)
{
	cut.nbd_server = fork();
	if (cut.nbd_server) {
		await_socket(cut.nbd_socket);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(cut.nbdkit, cut.nbdkit, "--foreground", "-U", cut.nbd_socket, "--filter=cache",
	      "file", cut.image, "cache=writeback", (char *)NULL);
	_exit(127);
}

static void start_server(void)
{
	if (cut.mode->nbd)
		start_nbdkit();
	cut.server = fork();
	if (cut.server)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!cut.mode->tool)
		_exit(serve_forgetful());
	execl(cut.virtq, cut.virtq, "serve", "blk", "--quiet", "--socket-path", cut.socket,
	      "--image", cut.mode->nbd ? cut.uri : cut.image, "--queues", "2", cut.mode->option, (char *)NULL);
	_exit(127);
}

/*
 * The kernel ends what io_uring had begun behind the back of the process, and
 * until then it holds the lock on the image and may write to it.
 */
static void await_unlocked(void)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	int fd = open(cut.image, O_RDWR | O_CLOEXEC);
	struct flock lock;

	do {
		lock = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
		if (fcntl(fd, F_OFD_GETLK, &lock) || lock.l_type == F_UNLCK)
			break;
		usleep(1000);
	} while (now_ns() < end);
	close(fd);
}

static void kill_server(void)
{
	kill(cut.server, SIGKILL);
	if (cut.mode->nbd) {
		kill(cut.nbd_server, SIGKILL);
		waitpid(cut.nbd_server, NULL, 0);
		unlink(cut.nbd_socket);
	}
	waitpid(cut.server, NULL, 0);
	await_unlocked();
	unlink(cut.socket);
}

static bool connect_disk(void)
{
	struct disk_way way = { cut.socket, QUEUES, cut.mode->packed, cut.mode->without,
				dice_roll(&cut.dice) };
	uint64_t end = now_ns() + PATIENCE_NS;
	uint8_t off = 0;
	int rc;

	while ((rc = disk_open(&cut.disk, &way)) && now_ns() < end &&
	       !waitpid(cut.server, NULL, WNOHANG))
		usleep(2000);
	if (rc)
		return complain("connect: %d %s", rc, cut.disk.err.text);
	if (!cut.mode->writeback_off)
		return true;
	rc = virtq_transport_config_write(cut.disk.transport, WRITEBACK_OFFSET, &off, 1,
					  &cut.disk.err);
	return !rc || complain("the cache cannot be switched: %d %s", rc, cut.disk.err.text);
}

/* The generation of a sector; of zeroes the last that it can be. -1: of none. */
static int64_t generation(const uint8_t *data, uint64_t sector)
{
	int64_t gen = sector_generation(data, sector);

	return gen ? gen : cut.zeroed[sector];
}

/* ---- The writer -------------------------------------------------------------------- */

static int back(void *arg, struct disk_op *op)
{
	(void)arg;
	if (op->status != VIRTIO_BLK_S_OK)
		complain("a request of type %u got status %u", op->type, op->status);
	if (op->type == VIRTIO_BLK_T_FLUSH) {
		struct snapshot *snapshot = &cut.flushes[op->stage];

		for (uint32_t i = 0; i < SECTORS; i++)
			if (snapshot->acked[i] > cut.promised[i])
				cut.promised[i] = snapshot->acked[i];
		snapshot->used = false;
		cut.flushed++;
	} else {
		for (uint64_t s = op->sector; s < op->sector + op->sectors; s++) {
			int64_t seen = op->type == VIRTIO_BLK_T_IN ?
				       generation(op->data + (s - op->sector) * SECTOR, s) : 0;

			if (op->type != VIRTIO_BLK_T_IN)
				cut.acked[s] = op->gen;
			else if (seen != cut.acked[s])
				complain("sector %llu reads as generation %lld before any cut, not %u",
					 (unsigned long long)s, (long long)seen, cut.acked[s]);
			if (cut.mode->promise == PROMISE_ACK)
				cut.promised[s] = cut.acked[s];
			cut.busy[s] = false;
		}
		cut.writes += op->type != VIRTIO_BLK_T_IN;
	}
	disk_put(op);
	return 0;
}

/* It promises what was acknowledged before it was sent, on whichever queue (5.2.6.2). */
static bool choose_flush(struct disk_op *op)
{
	op->type = VIRTIO_BLK_T_FLUSH;
	op->sectors = 0;
	for (op->stage = 0; op->stage < FLUSHES; op->stage++)
		if (!cut.flushes[op->stage].used) {
			cut.flushes[op->stage].used = true;
			memcpy(cut.flushes[op->stage].acked, cut.acked, sizeof(cut.acked));
			return true;
		}
	return false;
}

static bool choose(struct disk_op *op)
{
	if (!dice_below(&cut.dice, 40) && disk_has(&cut.disk, VIRTIO_BLK_F_FLUSH))
		return choose_flush(op);
	op->type = dice_below(&cut.dice, 10) ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	op->sectors = 1 + dice_below(&cut.dice, 16);
	op->sector = dice_below(&cut.dice, SECTORS - op->sectors + 1);
	if (memchr(cut.busy + op->sector, true, op->sectors))
		return false;
	memset(cut.busy + op->sector, true, op->sectors);
	if (op->type == VIRTIO_BLK_T_IN)
		return true;
	if (!dice_below(&cut.dice, 8) && disk_has(&cut.disk, VIRTIO_BLK_F_WRITE_ZEROES))
		op->type = VIRTIO_BLK_T_WRITE_ZEROES;
	op->gen = ++cut.gen;
	sectors_fill(op->data, op->sector, op->sectors, op->gen);
	for (uint32_t i = 0; i < op->sectors; i++) {
		cut.issued[op->sector + i] = op->gen;
		if (op->type == VIRTIO_BLK_T_WRITE_ZEROES)
			cut.zeroed[op->sector + i] = op->gen;
	}
	return true;
}

static bool turn(struct disk_queue *q)
{
	struct disk_op *op;

	while (q->in_flight < DISK_DEPTH && (op = disk_get(q))) {
		if (!choose(op)) {
			disk_put(op);
			break;
		}
		if (disk_send(&cut.disk, op))
			return complain("%s", cut.disk.err.text);
	}
	disk_publish(q);
	return disk_reap(&cut.disk, q, back, NULL) >= 0 || complain("%s", cut.disk.err.text);
}

/* Write until so many requests were answered; the rest is under way when the power goes. */
static bool write_until(uint64_t answers)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	while (cut.disk.answered < answers) {
		if (!turn(&cut.disk.queue[0]) || !turn(&cut.disk.queue[1]))
			return false;
		if (now_ns() > end || !virtq_transport_alive(cut.disk.transport))
			return complain("the server does not answer");
		disk_wait(&cut.disk, 100);
	}
	return !cut.complaint[0];
}

/* ---- Afterwards ------------------------------------------------------------------------ */

static bool check_image(void)
{
	static uint8_t all[SECTORS * SECTOR];
	int fd = open(cut.image, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, all, sizeof(all), 0);

	close(fd);
	if (n != (ssize_t)sizeof(all))
		return complain("the image cannot be read");
	for (uint32_t s = 0; s < SECTORS; s++) {
		int64_t gen = generation(all + s * SECTOR, s);

		if (gen < 0)
			return complain("sector %u is neither old nor new", s);
		if (gen < cut.promised[s] || gen > cut.issued[s])
			return complain("sector %u is of generation %lld; %u was promised, %u the last written",
					s, (long long)gen, cut.promised[s], cut.issued[s]);
		cut.older += gen < cut.acked[s];
		cut.promised[s] = cut.acked[s] = cut.issued[s] = (uint32_t)gen;
	}
	return true;
}

/* Start, write, cut, look. False with a complaint. */
static bool one_cut(void)
{
	bool fine;

	memset(cut.busy, false, sizeof(cut.busy));
	for (unsigned int i = 0; i < FLUSHES; i++)
		cut.flushes[i].used = false;
	start_server();
	if (!connect_disk()) {
		kill_server();
		return false;
	}
	fine = write_until(20 + dice_below(&cut.dice, 1200));
	kill_server();
	/* What it had published by then it has acknowledged. */
	for (unsigned int i = 0; i < QUEUES; i++)
		if (disk_reap(&cut.disk, &cut.disk.queue[i], back, NULL) < 0)
			fine = complain("%s", cut.disk.err.text);
	disk_close(&cut.disk);
	return fine && !cut.complaint[0] && check_image();
}

static bool make_image(void)
{
	int fd = open(cut.image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc = fd < 0 || ftruncate(fd, (off_t)SECTORS * SECTOR);

	close(fd);
	memset(cut.promised, 0, sizeof(cut.promised));
	memset(cut.acked, 0, sizeof(cut.acked));
	memset(cut.issued, 0, sizeof(cut.issued));
	memset(cut.zeroed, 0, sizeof(cut.zeroed));
	cut.gen = 0;
	cut.writes = cut.flushed = cut.older = 0;
	cut.complaint[0] = 0;
	return !rc || complain("the image cannot be made");
}

/* Whether the mode's claim holds. */
static bool run(const struct mode *mode, unsigned int cuts)
{
	unsigned int done = 0;
	bool fine;

	cut.mode = mode;
	if (mode->lie)
		cuts = LIES_TRIED;
	fine = make_image();
	while (fine && done < cuts) {
		fine = one_cut();
		done++;
	}
	printf("# %u cuts, %llu writes and %llu flushes acknowledged; sectors that lost a write which nobody had promised: %llu\n",
	       done, (unsigned long long)cut.writes, (unsigned long long)cut.flushed,
	       (unsigned long long)cut.older);
	if (cut.complaint[0])
		printf("# %s\n", cut.complaint);
	if (mode->lie)
		return !fine;
	/* A cut that loses nothing where it may would prove nothing. */
	if (fine && mode->promise == PROMISE_FLUSH && (!cut.older || !cut.flushed)) {
		printf("# nothing was lost, so nothing was tested\n");
		return false;
	}
	return fine;
}

int main(int argc, char **argv)
{
	unsigned int cuts = 5, failed = 0, count = sizeof(modes) / sizeof(modes[0]);

	cut.dice.state = (uint64_t)getpid() << 20 ^ now_ns();
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--cuts"))
			cuts = (unsigned int)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			cut.dice.state = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--virtq"))
			cut.virtq = argv[i + 1];
		else if (!strcmp(argv[i], "--nbdkit"))
			cut.nbdkit = argv[i + 1];
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("1..%u\n# seed 0x%llx\n", count, (unsigned long long)cut.dice.state);
	snprintf(cut.dir, sizeof(cut.dir), "/tmp/virtq-powercut.XXXXXX");
	if (!mkdtemp(cut.dir)) {
		printf("Bail out! no directory in /tmp\n");
		return 1;
	}
	snprintf(cut.image, sizeof(cut.image), "%s/disk", cut.dir);
	snprintf(cut.socket, sizeof(cut.socket), "%s/socket", cut.dir);
	snprintf(cut.nbd_socket, sizeof(cut.nbd_socket), "%s/nbd", cut.dir);
	snprintf(cut.uri, sizeof(cut.uri), "nbd+unix:///?socket=%s", cut.nbd_socket);
	for (unsigned int i = 0; i < count; i++) {
		bool fine;

		if ((modes[i].tool && !cut.virtq) || (modes[i].nbd && !cut.nbdkit)) {
			printf("# there is no %s\nok %u - %s # SKIP\n",
			       modes[i].nbd ? "nbdkit, or no libnbd" : "virtq", i + 1, modes[i].claim);
			continue;
		}
		fine = run(&modes[i], cuts);
		printf("%sok %u - %s\n", fine ? "" : "not ", i + 1, modes[i].claim);
		failed += !fine;
	}
	unlink(cut.image);
	unlink(cut.socket);
	rmdir(cut.dir);
	return failed ? 1 : 0;
}
