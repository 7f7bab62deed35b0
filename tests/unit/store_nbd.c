/* SPDX-License-Identifier: MIT */
/* A network block device as a store, with nbdkit at the other end. */
#include "depot.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/guard.h"

#include "../emulated.h"

#define MIB ((uint64_t)1 << 20)

/* ---- A server ----------------------------------------------------------------- */

struct server {
	pid_t pid;
	char socket[64], uri[128];
};

static unsigned int servers;

/* The socket is there before it can be connected to. */
static bool answers(const struct server *s)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes;

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", s->socket);
	yes = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
	close(fd);
	return yes;
}

/* nbdkit with @args, a list that ends with NULL, on a socket of its own; again on the old one. */
static void server_run(struct server *s, const char *const *args)
{
	const char *argv[24] = { "nbdkit", "--foreground", "--exit-with-parent", "-U", s->socket };
	unsigned int n = 5;

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

static void server_start(struct server *s, const char *const *args)
{
	snprintf(s->socket, sizeof(s->socket), "./nbd-%d-%u", (int)getpid(), servers++);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	server_run(s, args);
}

static void server_kill(struct server *s, int signal)
{
	assert_int_equal(kill(s->pid, signal), 0);
	assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
	unlink(s->socket);
}

#define SERVE(s, ...) server_start(s, (const char *const[]){ __VA_ARGS__, NULL })

static const struct virtq_store_options read_only = { .read_only = true };

/* ---- What it can do ------------------------------------------------------------ */

static void the_server_says_what_it_is(void **state)
{
	struct virtq_store *store;
	struct server s;

	(void)state;
	SERVE(&s, "memory", "size=8M");
	store = store_make(s.uri, NULL);
	assert_string_equal(store->ops->name, "nbd");
	assert_int_equal(store->info.bytes, 8 * MIB);
	assert_int_equal(store->info.block, 512);
	assert_true(store->info.discard_max && store->info.zero_max && store->info.zero_unmaps);
	assert_int_equal(store->info.erase_max, 0);
	virtq_store_close(store);
	server_kill(&s, SIGTERM);

	/* Fewer abilities. */
	SERVE(&s, "--filter=nozero", "--filter=blocksize-policy", "pattern", "size=8M",
	      "blocksize-minimum=4K", "blocksize-preferred=64K", "blocksize-maximum=1M");
	assert_store_refused(s.uri, NULL, -EROFS, s.uri);
	store = store_make(s.uri, &read_only);
	assert_int_equal(store->info.block, 4096);
	assert_int_equal(store->info.physical, 65536);
	assert_int_equal(store->info.discard_max, 0);
	assert_int_equal(store->info.zero_max, 0);
	virtq_store_close(store);
	server_kill(&s, SIGTERM);

	SERVE(&s, "memory", "size=1000");
	assert_store_refused(s.uri, NULL, -EINVAL, "1000 bytes");
	server_kill(&s, SIGTERM);
	assert_store_refused(s.uri, NULL, -ENOENT, s.uri);
	assert_store_refused("nbd://127.0.0.1:1/", NULL, -ECONNREFUSED, "127.0.0.1");
	assert_store_refused("nbd:", NULL, -EINVAL, "nbd:");
}

/* ---- Data ---------------------------------------------------------------------- */

static void data_run(const struct setting *setting, struct server *s, uint64_t bytes,
		     unsigned int rounds, bool rough)
{
	struct depot dp;
	struct shadow sd;

	depot_open(&dp, setting, store_make(s->uri, NULL), 300);
	shadow_open(&sd, bytes);
	shadow_run(&sd, &dp, rounds, rough);
	shadow_close(&sd);
	depot_close(&dp);
	server_kill(s, SIGTERM);
}

static void data_is_kept(void **state)
{
	struct server s;

	SERVE(&s, "memory", "size=6M");
	data_run(*state, &s, 6 * MIB, 60, false);
	SERVE(&s, "memory", "size=6M");
	data_run(*state, &s, 6 * MIB, 60, true);
}

static void engines_share_a_connection(void **state)
{
	struct server s;

	SERVE(&s, "memory", "size=1M");
	depot_crowd(*state, store_make(s.uri, NULL));
	server_kill(&s, SIGTERM);
}

/* Requests of several commands, to a server that does not zero. */
static void data_is_kept_by_poor_servers(void **state)
{
	struct server s;

	SERVE(&s, "--filter=blocksize-policy", "--filter=nozero", "memory", "size=6M",
	      "blocksize-minimum=512", "blocksize-preferred=4K", "blocksize-maximum=16K",
	      "blocksize-error-policy=error");
	data_run(*state, &s, 6 * MIB, 30, true);
}

/* BLK-DEV-017: where a write cannot be stable by itself a flush follows, before it has ended. */
static void stable_writes_are_flushed(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096, .piece = 512 };
	char log[64], pwrite[128], flush[128], seen[16] = "";
	struct depot dp;
	struct server s;
	FILE *f;

	snprintf(log, sizeof(log), "./nbd-log-%d", (int)getpid());
	f = fopen(log, "w");
	assert_non_null(f);
	snprintf(pwrite, sizeof(pwrite), "pwrite=cat >/dev/null; printf w >>%s", log);
	snprintf(flush, sizeof(flush), "flush=sleep 0.1; printf f >>%s", log);
	SERVE(&s, "eval", "get_size=echo 1M", "can_write=exit 0", "can_flush=exit 0",
	      "can_fua=echo none", "pread=exit 1", pwrite, flush);
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	assert_int_equal(depot_do(&dp, &w), 0);
	w.flags = VIRTQ_STORE_STABLE;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_non_null(freopen(log, "r", f));
	assert_non_null(fgets(seen, sizeof(seen), f));
	assert_string_equal(seen, "wwf");
	fclose(f);
	depot_close(&dp);
	server_kill(&s, SIGKILL);
	unlink(log);
}

static void a_slow_server_is_asked_many_things_at_once(void **state)
{
	unsigned int tags[60];
	struct depot dp;
	struct server s;
	uint64_t start;

	SERVE(&s, "--filter=delay", "memory", "size=1M", "rdelay=300ms", "wdelay=300ms");
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	start = now_ms();
	for (unsigned int i = 0; i < 60; i++)
		tags[i] = depot_send(&dp, &(struct work){
				.kind = i % 2 ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE,
				.offset = i * 4096, .bytes = 4096, .at = i * 4096,
				.piece = i % 3 ? 512 : 0 });
	for (unsigned int i = 0; i < 60; i++)
		assert_int_equal(depot_wait(&dp, tags[i]), 0);
	/* nbdkit has 16 threads for a connection: four rounds. */
	assert_in_range(now_ms() - start, 1000, 6000);
	depot_close(&dp);
	server_kill(&s, SIGTERM);
}

/* ---- Errors --------------------------------------------------------------------- */

static void only_what_fails_fails(void **state)
{
	struct work w = { .bytes = 4096, .offset = 8192 };
	struct depot dp;
	struct server s;

	SERVE(&s, "--filter=error", "memory", "size=1M", "error=ENOSPC", "error-pwrite-rate=100%",
	      "error-zero-rate=100%", "error-trim-rate=0", "error-pread-rate=0");
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	for (int i = 0; i < 3; i++) {
		w.kind = VIRTQ_STORE_WRITE;
		assert_int_equal(depot_do(&dp, &w), -ENOSPC);
		w.kind = VIRTQ_STORE_ZERO;
		assert_int_equal(depot_do(&dp, &w), -ENOSPC);
		w.kind = VIRTQ_STORE_DISCARD;
		assert_int_equal(depot_do(&dp, &w), 0);
		w.kind = VIRTQ_STORE_READ;
		assert_int_equal(depot_do(&dp, &w), 0);
		w.kind = VIRTQ_STORE_ERASE;
		assert_int_equal(depot_do(&dp, &w), -EOPNOTSUPP);
	}
	depot_close(&dp);
	server_kill(&s, SIGTERM);

	/* Of what failed nothing counts as read. */
	SERVE(&s, "--filter=error", "memory", "size=1M", "error=EIO", "error-pread-rate=100%");
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	w.kind = VIRTQ_STORE_READ;
	assert_int_equal(depot_do(&dp, &w), -EIO);
	assert_int_equal(dp.used[0], 0);
	w.piece = 512;
	assert_int_equal(depot_do(&dp, &w), -EIO);
	assert_int_equal(dp.used[0], 0);
	depot_close(&dp);
	server_kill(&s, SIGTERM);
}

/* ---- Outages --------------------------------------------------------------------- */

static const struct virtq_store_options impatient = { .reconnect_ms = 1 };

/* Killed with requests in flight, and nobody comes for longer than they wait: they fail. */
static void a_server_may_die_and_come_back(void **state)
{
	static const char *const slow[] = {
		"--filter=delay", "memory", "size=1M", "rdelay=5", NULL,
	};
	static const char *const quick[] = { "memory", "size=1M", NULL };
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4096 };
	unsigned int tags[20];
	struct depot dp;
	struct server s;
	uint64_t start;
	int result;

	server_start(&s, slow);
	depot_open(&dp, *state,
		   store_make(s.uri, &(struct virtq_store_options){ .reconnect_ms = 600 }), 300);
	for (unsigned int i = 0; i < 20; i++) {
		read.at = i * 8192;
		read.piece = i % 2 ? 1024 : 0;
		tags[i] = depot_send(&dp, &read);
	}
	assert_false(depot_reap(&dp, 100));
	start = now_ms();
	server_kill(&s, SIGKILL);
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(depot_wait(&dp, tags[i]), -EIO);
	assert_in_range(now_ms() - start, 500, 3000);
	/* Nobody there: at once, every time. */
	start = now_ms();
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(depot_do(&dp, &read), -ESHUTDOWN);
	assert_in_range(now_ms() - start, 0, 400);

	server_run(&s, quick);
	do {
		usleep(20000);
		result = depot_do(&dp, &read);
	} while (result == -ESHUTDOWN);
	assert_int_equal(result, 0);

	/* One that is smaller is not the one that was there. */
	server_kill(&s, SIGKILL);
	server_run(&s, (const char *const[]){ "memory", "size=512K", NULL });
	assert_int_not_equal(depot_do(&dp, &read), 0);
	usleep(1200000);
	assert_int_equal(depot_do(&dp, &read), -ESHUTDOWN);
	server_kill(&s, SIGKILL);
	depot_close(&dp);
}

/* A server that is started again in time: nobody hears of it, and all is where it belongs. */
static void a_short_outage_fails_nobody(void **state)
{
	char *path = file_make(2 * MIB), file[128];
	const char *const slow[] = { "--filter=delay", "file", file, "rdelay=2", "wdelay=2", NULL };
	const char *const quick[] = { "file", file, NULL };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH }, w;
	unsigned int tags[24];
	struct depot dp;
	struct server s;

	snprintf(file, sizeof(file), "file=%s", path);
	server_start(&s, quick);
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	/* Lost while nothing is under way, and found by the next. */
	w = (struct work){ .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(depot_do(&dp, &flush), 0);
	server_kill(&s, SIGKILL);
	server_run(&s, slow);
	for (unsigned int i = 0; i < 24; i++) {
		w = (struct work){
			.kind = i % 2 ? VIRTQ_STORE_READ : VIRTQ_STORE_WRITE,
			.flags = i % 4 ? 0 : VIRTQ_STORE_STABLE, .offset = i * 65536,
			.bytes = 65536, .at = i * 65536, .piece = i % 3 ? 0 : 3000 };
		if (i % 12 == 4)
			w.kind = VIRTQ_STORE_ZERO;
		memset(depot_data(&dp, w.at), (int)i, 65536);
		tags[i] = depot_send(&dp, i == 23 ? &flush : &w);
	}
	assert_false(depot_reap(&dp, 300));
	server_kill(&s, SIGKILL);
	w = (struct work){ .kind = VIRTQ_STORE_READ, .bytes = 512, .offset = MIB, .at = 4 * MIB };
	depot_send(&dp, &w);	/* comes in the middle of it */
	usleep(400000);
	server_run(&s, quick);
	for (unsigned int i = 0; i < 24; i++) {
		assert_int_equal(depot_wait(&dp, tags[i]), 0);
		if (i % 2 && i < 23) {
			assert_int_equal(dp.used[tags[i]], 65536);
			assert_int_equal(*depot_data(&dp, i * 65536 + 4097),
					 file_pattern(i * 65536 + 4097));
		}
	}
	while (dp.busy)
		assert_true(depot_reap(&dp, 5000));
	for (unsigned int i = 0; i < 24; i += 2) {
		w = (struct work){ .kind = VIRTQ_STORE_READ, .offset = i * 65536, .bytes = 65536 };
		assert_int_equal(depot_do(&dp, &w), 0);
		assert_int_equal(*depot_data(&dp, 0), i % 12 == 4 ? 0 : i);
		assert_int_equal(*depot_data(&dp, 65535), i % 12 == 4 ? 0 : i);
	}
	depot_close(&dp);
	server_kill(&s, SIGKILL);
	file_drop(path);
}

/*
 * BLK-DEV-018: what was written through one queue and is gone with the server
 * must not be called stable through another, nor later.
 */
static void what_was_lost_is_never_called_stable(void **state)
{
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4096 };
	struct work write = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	static const char *const memory[] = { "memory", "size=1M", NULL };
	struct depot dp[2];
	struct server s;

	server_start(&s, memory);
	depot_open(&dp[0], *state, store_make(s.uri, NULL), 300);
	depot_open_shared(&dp[1], *state, dp[0].store, 300);

	/* All that there was is stable: nothing is lost with the server. */
	write.flags = VIRTQ_STORE_STABLE;
	assert_int_equal(depot_do(&dp[0], &write), 0);
	write.flags = 0;
	assert_int_equal(depot_do(&dp[0], &write), 0);
	assert_int_equal(depot_do(&dp[0], &flush), 0);
	server_kill(&s, SIGKILL);
	server_run(&s, memory);
	assert_int_equal(depot_do(&dp[0], &flush), 0);
	assert_int_equal(depot_do(&dp[1], &flush), 0);

	assert_int_equal(depot_do(&dp[0], &write), 0);
	server_kill(&s, SIGKILL);
	server_run(&s, memory);
	for (unsigned int i = 0; i < 6; i++) {
		struct depot *d = &dp[i % 2];

		assert_int_equal(depot_do(d, &read), 0);
		assert_int_equal(depot_do(d, &flush), -EIO);
		write.flags = VIRTQ_STORE_STABLE;
		assert_int_equal(depot_do(d, &write), -EIO);
		write.flags = 0;
		assert_int_equal(depot_do(d, &write), 0);
	}
	depot_close(&dp[1]);
	depot_close(&dp[0]);
	server_kill(&s, SIGTERM);

	/* A server that has no cache to flush loses nothing. */
	SERVE(&s, "--filter=delay", "eval", "get_size=echo 1M", "can_write=exit 0",
	      "can_flush=exit 3", "can_fua=echo none", "pread=exit 1", "pwrite=cat >/dev/null");
	depot_open(&dp[0], *state, store_make(s.uri, &impatient), 300);
	assert_int_equal(depot_do(&dp[0], &write), 0);
	server_kill(&s, SIGKILL);
	assert_int_equal(depot_do(&dp[0], &flush), 0);
	depot_close(&dp[0]);
}

/* What is taken away from one queue costs the other nothing, even where it costs the connection. */
static void cancelled_requests_leave_others_alone(void **state)
{
	for (unsigned int direct = 0; direct < 2; direct++) {
		struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
		struct work flush = { .kind = VIRTQ_STORE_FLUSH };
		unsigned int tags[2];
		struct depot dp[2];
		struct server s;
		uint64_t start;

		SERVE(&s, "--filter=delay", "memory", "size=1M", "rdelay=2500ms");
		depot_open(&dp[1], *state, store_make(s.uri, NULL), 300);
		depot_open_shared(&dp[0], *state, dp[1].store, 100);
		assert_int_equal(depot_do(&dp[1], &w), 0);
		if (direct)
			assert_int_equal(depot_do(&dp[1], &flush), 0);
		w.kind = VIRTQ_STORE_READ;
		tags[1] = depot_send(&dp[1], &w);
		w.piece = direct ? 0 : 512;
		tags[0] = depot_send(&dp[0], &w);
		assert_false(depot_reap(&dp[0], 100));
		start = now_ms();
		depot_close(&dp[0]);
		assert_in_range(now_ms() - start, 1000, 2300);
		assert_int_equal(dp[0].result[tags[0]], -ECANCELED);
		assert_int_equal(depot_wait(&dp[1], tags[1]), 0);
		/* Not direct: the connection is the same, or what was written would be lost. */
		assert_int_equal(depot_do(&dp[1], &flush), 0);
		depot_close(&dp[1]);
		server_kill(&s, SIGKILL);
	}
}

/* A write that was given up and is made late does not come after one that was sent later. */
static void what_was_given_up_does_not_come_later(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096, .piece = 512 };
	struct depot dp[2];
	struct server s;
	uint64_t start;

	SERVE(&s, "--filter=delay", "memory", "size=1M", "wdelay=2");
	depot_open(&dp[1], *state, store_make(s.uri, NULL), 300);
	depot_open_shared(&dp[0], *state, dp[1].store, 100);
	memset(depot_data(&dp[0], 0), 1, 4096);
	memset(depot_data(&dp[1], 0), 2, 4096);
	start = now_ms();
	depot_send(&dp[0], &w);
	assert_false(depot_reap(&dp[0], 100));
	depot_close(&dp[0]);
	assert_in_range(now_ms() - start, 1000, 1900);
	assert_int_equal(depot_do(&dp[1], &w), 0);
	assert_in_range(now_ms() - start, 3900, 9000);
	w.kind = VIRTQ_STORE_READ;
	assert_int_equal(depot_do(&dp[1], &w), 0);
	assert_int_equal(*depot_data(&dp[1], 4095), 2);
	depot_close(&dp[1]);
	server_kill(&s, SIGKILL);
}

/* Who takes connections and says nothing is not waited for without end. */
static void a_mute_server_is_given_up(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct virtq_error err = { 0 };
	struct virtq_store *store;
	char uri[160];
	uint64_t start = now_ms();

	(void)state;
	snprintf(at.sun_path, sizeof(at.sun_path), "./nbd-mute-%d", (int)getpid());
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", at.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 5), 0);
	assert_int_equal(virtq_store_open(&store, uri, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "said nothing"));
	assert_in_range(now_ms() - start, 9000, 15000);
	close(fd);
	unlink(at.sun_path);
}

/* What was written before is not lost by asking, and the new part can be used. */
static void another_size_is_found(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	char *path = file_make(MIB), file[128];
	struct depot dp;
	struct server s;

	snprintf(file, sizeof(file), "file=%s", path);
	SERVE(&s, "file", file);
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	assert_int_equal(dp.store->ops->refresh(dp.store), MIB);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(truncate(path, 2 * MIB), 0);
	assert_int_equal(dp.store->ops->refresh(dp.store), 2 * MIB);
	assert_int_equal(dp.store->info.bytes, 2 * MIB);
	w.offset = 2 * MIB - 4096;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(depot_do(&dp, &flush), 0);
	assert_int_equal(truncate(path, MIB), 0);
	assert_int_equal(dp.store->ops->refresh(dp.store), MIB);
	w.offset = 0;
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(depot_do(&dp, &flush), 0);
	server_kill(&s, SIGKILL);
	assert_true(dp.store->ops->refresh(dp.store) < 0);
	depot_close(&dp);
	file_drop(path);
}

/* What a server never answers ends when its queue is taken away, and soon. */
static void a_server_may_hang(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	uint64_t start;
	struct depot dp;
	struct server s;

	SERVE(&s, "memory", "size=1M");
	depot_open(&dp, *state, store_make(s.uri, NULL), 200);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(kill(s.pid, SIGSTOP), 0);
	assert_int_equal(waitpid(s.pid, NULL, WUNTRACED), s.pid);
	for (unsigned int i = 0; i < 30; i++) {
		w.piece = i % 2 ? 100 : 0;
		depot_send(&dp, &w);
	}
	assert_false(depot_reap(&dp, 100));
	start = now_ms();
	depot_close(&dp);
	assert_in_range(now_ms() - start, 1000, 4000);	/* 200 ms by itself, a second more */
	for (unsigned int i = 0; i < 30; i++)
		assert_int_equal(dp.result[i], -ECANCELED);
	assert_int_equal(kill(s.pid, SIGCONT), 0);
	server_kill(&s, SIGKILL);
}

/* The data at @at has no pages any more, as that of a peer that shortened its file. */
static int lose_memory(struct depot *dp, size_t at, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = ((uintptr_t)depot_data(dp, at) + page - 1) / page * page;
	int fd = memfd_create("lost", MFD_CLOEXEC), token;

	assert_true(fd >= 0);
	assert_true(mmap((void *)from, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 0) != MAP_FAILED);
	token = guard_watch((void *)from, bytes, page);
	assert_true(token >= 0);
	close(fd);
	return token;
}

/* In one test, since cmocka puts handlers of its own in place for each. */
static void lost_memory_ends_nobody(void **state)
{
	struct work write = { .kind = VIRTQ_STORE_WRITE, .bytes = 65536, .at = MIB };
	struct depot dp[2];
	struct server s;

	(void)state;
	skip_unless_faults_tell_where();
	assert_int_equal(virtq_guard_install(NULL), 0);
	SERVE(&s, "memory", "size=1M");
	depot_open(&dp[0], &sync_packed_event, store_make(s.uri, NULL), 300);
	depot_open_shared(&dp[1], &sync_packed_event, dp[0].store, 300);
	for (unsigned int i = 0; i < 4; i++) {
		struct work w = { .kind = i % 2 ? VIRTQ_STORE_WRITE : VIRTQ_STORE_READ,
				  .bytes = 65536, .at = i / 2 * MIB, .piece = i < 2 ? 1000 : 0 };
		int token = lose_memory(&dp[0], w.at, 131072);

		depot_do(&dp[0], &w);	/* zeroes, or an error: both are the driver's own fault */
		assert_int_equal(depot_do(&dp[1], &write), 0);
		guard_forget(token);
	}
	depot_close(&dp[1]);
	depot_close(&dp[0]);
	server_kill(&s, SIGTERM);
}

static void an_idle_connection_costs_nothing(void **state)
{
	struct virtq_store *store;
	struct server s;

	(void)state;
	SERVE(&s, "memory", "size=1M");
	store = store_make(s.uri, NULL);
	assert_idle();
	server_kill(&s, SIGKILL);
	usleep(100000);
	assert_idle();		/* nor one that is gone */
	virtq_store_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_server_says_what_it_is),
		ON_ENGINES(data_is_kept),
		ON_ENGINES(engines_share_a_connection),
		ON_ENGINES(data_is_kept_by_poor_servers),
		ON_ENGINES(stable_writes_are_flushed),
		ON_ENGINES(a_slow_server_is_asked_many_things_at_once),
		ON_ENGINES(only_what_fails_fails),
		ON_ENGINES(a_server_may_die_and_come_back),
		ON_ENGINES(a_short_outage_fails_nobody),
		ON_ENGINES(what_was_lost_is_never_called_stable),
		ON_ENGINES(cancelled_requests_leave_others_alone),
		ON(sync_packed_event, what_was_given_up_does_not_come_later),
		ON_ENGINES(another_size_is_found),
		cmocka_unit_test(a_mute_server_is_given_up),
		ON_ENGINES(a_server_may_hang),
		cmocka_unit_test(lost_memory_ends_nobody),
		cmocka_unit_test(an_idle_connection_costs_nothing),
	};

#ifndef VIRTQ_WITH_LIBNBD
	printf("skipped: built without libnbd\n");
	return 77;
#endif
	if (system("nbdkit --version >/dev/null 2>&1")) {
		printf("skipped: there is no nbdkit\n");
		return 77;
	}
	return cmocka_run_group_tests_name("store nbd", tests, NULL, NULL) ? 1 : 0;
}
