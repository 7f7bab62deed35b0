/* SPDX-License-Identifier: MIT */
/* A network block device as a store, with nbdkit at the other end: what it can do, and does. */
#include "nbd_server.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mem/guard.h"

#include "../emulated.h"

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
	SERVE(&s, "--filter=blocksize-policy", "memory", "size=1049088",
	      "blocksize-minimum=4K", "blocksize-preferred=4K", "blocksize-maximum=1M");
	assert_store_refused(s.uri, NULL, -EINVAL, "multiple of 4096");
	server_kill(&s, SIGTERM);
	assert_store_refused(s.uri, NULL, -ENOENT, s.uri);
	assert_store_refused("nbd://127.0.0.1:1/", NULL, -ECONNREFUSED, "127.0.0.1");
	assert_store_refused("nbd:", NULL, -EINVAL, "nbd:");
}

/* Takes one connection, and ends it without a word. */
static void *hang_up(void *arg)
{
	int fd = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC);

	close(fd);
	return NULL;
}

/* Why there is no connection is for people: no function of any library is named. */
static void why_it_is_not_there_is_a_sentence(void **state)
{
	static const char *const uris[] = {
		"nbd:", "nbd+unix:///?socket=/there/is/none", "nbd://127.0.0.1:1/",
		"nbd+unix:///?socket=mute",
	};
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = "mute" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct virtq_store *store;
	pthread_t thread;

	(void)state;
	unlink("mute");
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, hang_up, &fd), 0);
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct virtq_error err = { 0 };
		char begin[128], *why;
		int n = snprintf(begin, sizeof(begin), "cannot connect to %s: ", uris[i]);

		assert_true(virtq_store_open(&store, uris[i], NULL, &err) < 0);
		assert_memory_equal(err.text, begin, n);
		why = err.text + n;
		why += strspn(why, "abcdefghijklmnopqrstuvwxyz_");
		if (!*why || *why == ':' || strstr(err.text, "nbd_"))
			fail_msg("\"%s\" is no sentence", err.text);
	}
	pthread_join(thread, NULL);
	unlink("mute");
	close(fd);
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

/* A queue with a thousand requests that wait for a command is one of two whose turn it is. */
static void queues_get_commands_in_turn(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 4096 };
	struct virtq_store *store;
	struct server s;

	SERVE(&s, "memory", "size=1M");
	store = store_make(s.uri, NULL);
	assert_in_range(depot_overtaken(*state, store, &w, 1000), 0, 250);
	virtq_store_close(store);
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

/* ---- Others ----------------------------------------------------------------------- */

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

/* Whole blocks were promised: an end in the middle of one is none. */
static void a_size_that_ends_within_a_block_is_refused(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096, .offset = MIB - 4096 };
	char *path = file_make(MIB), file[128];
	struct depot dp;
	struct server s;

	snprintf(file, sizeof(file), "file=%s", path);
	SERVE(&s, "--filter=blocksize-policy", "file", file, "blocksize-minimum=4K",
	      "blocksize-preferred=4K", "blocksize-maximum=1M", "blocksize-error-policy=error");
	depot_open(&dp, *state, store_make(s.uri, NULL), 300);
	assert_int_equal(truncate(path, MIB + 512), 0);
	assert_int_equal(dp.store->ops->refresh(dp.store), -EINVAL);
	assert_int_equal(dp.store->info.bytes, MIB);
	assert_int_equal(depot_do(&dp, &w), 0);
	assert_int_equal(truncate(path, MIB + 8192), 0);
	assert_int_equal(dp.store->ops->refresh(dp.store), MIB + 8192);
	w.offset = MIB + 4096;
	assert_int_equal(depot_do(&dp, &w), 0);
	depot_close(&dp);
	server_kill(&s, SIGTERM);
	file_drop(path);
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
		cmocka_unit_test(why_it_is_not_there_is_a_sentence),
		ON_ENGINES(data_is_kept),
		ON_ENGINES(engines_share_a_connection),
		ON_ENGINES(data_is_kept_by_poor_servers),
		ON_ENGINES(stable_writes_are_flushed),
		ON_ENGINES(a_slow_server_is_asked_many_things_at_once),
		ON_ENGINES(queues_get_commands_in_turn),
		ON_ENGINES(only_what_fails_fails),
		ON_ENGINES(another_size_is_found),
		ON(sync_packed_event, a_size_that_ends_within_a_block_is_refused),
		cmocka_unit_test(lost_memory_ends_nobody),
		cmocka_unit_test(an_idle_connection_costs_nothing),
	};

	return nbdkit_is_missing() ? 77 :
	       cmocka_run_group_tests_name("store nbd", tests, NULL, NULL) ? 1 : 0;
}
