/* SPDX-License-Identifier: MIT */
/* A network block device whose server goes, comes back, is slow, or says nothing. */
#include "nbd_server.h"

#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* One that takes less at once, or only more, is not the one that was there. */
static void a_server_comes_back_with_the_same_limits(void **state)
{
	static const char *const limits[][3] = {
		{ "blocksize-minimum=4K", "blocksize-preferred=4K", "blocksize-maximum=64K" },
		{ "blocksize-minimum=512", "blocksize-preferred=4K", "blocksize-maximum=32K" },
		{ "blocksize-minimum=8K", "blocksize-preferred=8K", "blocksize-maximum=64K" },
		{ "blocksize-minimum=512", "blocksize-preferred=8K", "blocksize-maximum=1M" },
	};
	struct work write = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	struct depot dp;
	struct server s;

	for (unsigned int i = 0; i < 4; i++) {
		const char *const args[] = { "--filter=blocksize-policy", "memory", "size=1M",
					     limits[i][0], limits[i][1], limits[i][2], NULL };

		if (i) {
			server_kill(&s, SIGKILL);
			server_run(&s, args);
			usleep(1200000);	/* longer than it is left alone after a failure */
		} else {
			server_start(&s, args);
			depot_open(&dp, *state, store_make(s.uri, &(struct virtq_store_options){
					.reconnect_ms = 500 }), 300);
		}
		assert_int_equal(depot_do(&dp, &write) == 0, i % 3 == 0);
		assert_int_equal(depot_do(&dp, &flush) == 0, i % 3 == 0);
	}
	depot_close(&dp);
	server_kill(&s, SIGKILL);
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

/* What is taken away from one queue costs the other nothing, not even the connection. */
static void cancelled_requests_leave_others_alone(void **state)
{
	for (unsigned int whole = 0; whole < 2; whole++) {
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
		w.kind = VIRTQ_STORE_READ;
		tags[1] = depot_send(&dp[1], &w);
		w.piece = whole ? 0 : 512;
		tags[0] = depot_send(&dp[0], &w);
		assert_false(depot_reap(&dp[0], 100));
		start = now_ms();
		depot_close(&dp[0]);
		assert_in_range(now_ms() - start, 1000, 2300);
		assert_int_equal(dp[0].result[tags[0]], -ECANCELED);
		assert_int_equal(depot_wait(&dp[1], tags[1]), 0);
		/* The connection is the same, or what was written would be lost. */
		assert_int_equal(depot_do(&dp[1], &flush), 0);
		depot_close(&dp[1]);
		server_kill(&s, SIGKILL);
	}
}

/*
 * A write that was given up and is made late does not come after one that was sent
 * later, from whatever memory it came; and it costs no one the stability of his data.
 */
static void what_was_given_up_does_not_come_later(void **state)
{
	for (size_t piece = 0; piece <= 512; piece += 512) {
		struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096, .piece = piece };
		struct work flush = { .kind = VIRTQ_STORE_FLUSH };
		struct work other = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096, .offset = 65536 };
		struct depot dp[2];
		struct server s;
		uint64_t start;

		SERVE(&s, "--filter=delay", "memory", "size=1M", "wdelay=2");
		depot_open(&dp[1], *state, store_make(s.uri, NULL), 300);
		depot_open_shared(&dp[0], *state, dp[1].store, 100);
		memset(depot_data(&dp[0], 0), 1, 4096);
		memset(depot_data(&dp[1], 0), 2, 4096);
		assert_int_equal(depot_do(&dp[1], &other), 0);
		start = now_ms();
		depot_send(&dp[0], &w);
		assert_false(depot_reap(&dp[0], 100));
		depot_close(&dp[0]);
		assert_in_range(now_ms() - start, 1000, 1900);
		assert_int_equal(depot_do(&dp[1], &w), 0);
		assert_in_range(now_ms() - start, 3900, 9000);
		assert_int_equal(depot_do(&dp[1], &flush), 0);
		w.kind = VIRTQ_STORE_READ;
		assert_int_equal(depot_do(&dp[1], &w), 0);
		assert_int_equal(*depot_data(&dp[1], 4095), 2);
		depot_close(&dp[1]);
		server_kill(&s, SIGKILL);
	}
}

/*
 * Nor does it if the connection is replaced meanwhile, for another size: that waits,
 * and with it only what the old one cannot do.
 */
static void a_new_size_waits_for_what_was_given_up(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4096, .offset = 65536 };
	char *path = file_make(MIB), file[128];
	unsigned int tag, beyond;
	struct depot dp[2];
	struct server s;
	uint64_t start;

	snprintf(file, sizeof(file), "file=%s", path);
	SERVE(&s, "--filter=delay", "file", file, "wdelay=3");
	depot_open(&dp[1], *state, store_make(s.uri, NULL), 300);
	depot_open_shared(&dp[0], *state, dp[1].store, 100);
	memset(depot_data(&dp[0], 0), 1, 4096);
	memset(depot_data(&dp[1], 0), 2, 4096);
	start = now_ms();
	depot_send(&dp[0], &w);
	assert_false(depot_reap(&dp[0], 100));
	depot_close(&dp[0]);
	assert_int_equal(truncate(path, 2 * MIB), 0);
	assert_int_equal(dp[1].store->ops->refresh(dp[1].store), 2 * MIB);
	tag = depot_send(&dp[1], &w);
	w.kind = read.kind;
	w.offset = 2 * MIB - 4096;
	w.at = 8192;
	beyond = depot_send(&dp[1], &w);
	read.at = 16384;
	assert_int_equal(depot_do(&dp[1], &read), 0);
	assert_in_range(now_ms() - start, 1000, 2900);
	assert_int_equal(depot_wait(&dp[1], beyond), 0);
	assert_in_range(now_ms() - start, 2900, 9000);
	assert_int_equal(depot_wait(&dp[1], tag), 0);
	assert_in_range(now_ms() - start, 5900, 12000);
	w.offset = 0;
	assert_int_equal(depot_do(&dp[1], &w), 0);
	assert_int_equal(*depot_data(&dp[1], 8192 + 4095), 2);
	depot_close(&dp[1]);
	server_kill(&s, SIGKILL);
	file_drop(path);
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

/* ---- A network of one's own ------------------------------------------------------- */

/* Take its only link up or down. */
static void link_set(bool up)
{
	struct ifreq lo = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	lo.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &lo), 0);
	close(fd);
}

/* Does the kernel still try to send what a closed connection has left? */
static bool sends_what_is_left(void)
{
	FILE *f = fopen("/proc/thread-self/net/tcp", "r");
	unsigned int state, port;
	bool found = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*x:%*x %*x:%x %x", &port, &state) == 2)
			found |= port == 10809 && state == TCP_FIN_WAIT1;
	fclose(f);
	return found;
}

/*
 * A server that is cut off without a word is given up: whether it has acknowledged
 * what it has to do, or what is sent does not reach it. One that is there, and has no
 * room for what it is sent, is waited for.
 */
static void a_server_that_is_cut_off_is_noticed(void **state)
{
	static const char *const slow[] = {
		"--filter=delay", "memory", "size=32M", "rdelay=30", NULL,
	};
	struct work read = { .kind = VIRTQ_STORE_READ, .bytes = 4096 };
	struct work write = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
	unsigned int tags[40];
	struct depot dp;
	struct server s;
	uint64_t start;

	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
		print_message("skipped: no network of its own can be had\n");
		skip();
	}
	link_set(true);
	server_start_tcp(&s, "10809", slow);
	depot_open(&dp, *state,
		   store_make(s.uri, &(struct virtq_store_options){ .reconnect_ms = 500 }), 300);
	for (unsigned int i = 0; i < 2; i++) {
		if (!i)
			tags[0] = depot_send(&dp, &read);
		assert_false(depot_reap(&dp, 300));
		link_set(false);
		if (i)
			tags[0] = depot_send(&dp, &write);
		start = now_ms();
		assert_int_equal(depot_wait(&dp, tags[0]), -EIO);
		assert_in_range(now_ms() - start, 2000, 9000);
		assert_false(sends_what_is_left());
		link_set(true);
		usleep(1200000);
		write.flags = VIRTQ_STORE_STABLE;
		assert_int_equal(depot_do(&dp, &write), 0);
	}

	assert_int_equal(kill(s.pid, SIGSTOP), 0);
	assert_int_equal(waitpid(s.pid, NULL, WUNTRACED), s.pid);
	write.bytes = 512 * 1024;
	for (unsigned int i = 0; i < 40; i++) {
		write.offset = i * write.bytes;
		tags[i] = depot_send(&dp, &write);
	}
	assert_false(depot_reap(&dp, 8000));
	assert_int_equal(kill(s.pid, SIGCONT), 0);
	for (unsigned int i = 0; i < 40; i++)
		assert_int_equal(depot_wait(&dp, tags[i]), 0);
	depot_close(&dp);
	server_kill(&s, SIGKILL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(a_server_may_die_and_come_back),
		ON(sync_packed_event, a_server_comes_back_with_the_same_limits),
		ON_ENGINES(a_short_outage_fails_nobody),
		ON_ENGINES(what_was_lost_is_never_called_stable),
		ON_ENGINES(cancelled_requests_leave_others_alone),
		ON(sync_packed_event, what_was_given_up_does_not_come_later),
		ON(sync_packed_event, a_new_size_waits_for_what_was_given_up),
		cmocka_unit_test(a_mute_server_is_given_up),
		ON_ENGINES(a_server_may_hang),
		/* The last: it leaves the network. */
		ON(sync_packed_event, a_server_that_is_cut_off_is_noticed),
	};

	return nbdkit_is_missing() ? 77 :
	       cmocka_run_group_tests_name("store nbd link", tests, NULL, NULL) ? 1 : 0;
}
