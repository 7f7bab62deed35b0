/* SPDX-License-Identifier: MIT */
/* A store that fails on purpose: exactly as its rules say, and nothing else does. */
#include "depot.h"

#include <stdio.h>
#include <unistd.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

static struct virtq_store *failing_ram(const char *rules)
{
	return store_make_failing(store_make("ram:1M", NULL), rules);
}

/* ---- Rules -------------------------------------------------------------------- */

static void rules_that_mean_nothing(void **state)
{
	static const struct { const char *rules, *part; } bad[] = {
		{ "", "" }, { "op=read", "does nothing" }, { "error", "without a value" },
		{ "error=EWHAT", "EWHAT" }, { "error=0", "4095" }, { "error=4096", "4095" },
		{ "error=-5", "4095" }, { "op=trim,error=EIO", "trim" }, { "colour=3", "colour" },
		{ "colour=red", "colour" }, { "short=100", "512" }, { "short=x", "512" },
		{ "delay=x", "delay" }, { "delay=18446744073709551615", "too long" },
		{ "hang=1", "hang" }, { "error=EIO,every=0", "never applies" },
		{ "error=EIO,times=0", "never applies" },
		{ "error=EIO,from=5,to=5", "never applies" }, { "error=EIO;", "" },
		{ "error=EIO,,op=read", "" }, { "error=EIO;op=read", "does nothing" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct virtq_store *store = NULL;
		struct virtq_error err = { 0 };

		assert_int_equal(virtq_store_inject(&store, store_make("ram:1M", NULL),
						    bad[i].rules, &err), -EINVAL);
		if (err.code != -EINVAL || !strstr(err.text, bad[i].part))
			fail_msg("\"%s\": \"%s\"", bad[i].rules, err.text);
		assert_int_equal(virtq_store_inject(&store, store_make("ram:1M", NULL),
						    bad[i].rules, NULL), -EINVAL);
		assert_null(store);
	}
}

static void it_is_what_the_one_behind_it_is(void **state)
{
	char *path = file_make(8192);
	static const struct virtq_store_options ro = { .read_only = true };
	struct virtq_store *inner = store_make(path, &ro);
	struct virtq_store_info info = inner->info;
	struct virtq_store *store = store_make_failing(inner, "error=EIO");

	(void)state;
	assert_memory_equal(&store->info, &info, sizeof(info));
	assert_int_equal(truncate(path, 16384), 0);
	assert_int_equal(store->ops->refresh(store), 16384);
	assert_int_equal(store->info.bytes, 16384);
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(store->ops->refresh(store), 1000);
	assert_int_equal(store->info.bytes, 16384);
	virtq_store_close(store);
	file_drop(path);
	store = failing_ram("error=EIO");
	assert_int_equal(store->ops->refresh(store), MIB);
	virtq_store_close(store);
}

/* ---- Errors ------------------------------------------------------------------- */

static const struct { const char *name; int error; } errors[] = {
#define E(error) { #error, error }
	E(EPERM), E(ENOENT), E(ESRCH), E(EINTR), E(EIO), E(ENXIO), E(E2BIG), E(ENOEXEC), E(EBADF),
	E(ECHILD), E(EAGAIN), E(ENOMEM), E(EACCES), E(EFAULT), E(ENOTBLK), E(EBUSY), E(EEXIST),
	E(EXDEV), E(ENODEV), E(ENOTDIR), E(EISDIR), E(EINVAL), E(ENFILE), E(EMFILE), E(ENOTTY),
	E(ETXTBSY), E(EFBIG), E(ENOSPC), E(ESPIPE), E(EROFS), E(EMLINK), E(EPIPE), E(EDOM),
	E(ERANGE), E(ETIMEDOUT), E(EOPNOTSUPP), E(ENOTSUP), E(ESHUTDOWN), E(ENODATA), E(EREMOTEIO), E(EDQUOT),
	E(ENOMEDIUM), E(ECANCELED), { "4095", 4095 }, { "5", EIO },
#undef E
};

/* Each of them, for the one request that it is meant for. */
static void every_error_for_one_request(void **state)
{
	char rules[64];
	struct depot dp;

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 4 * KIB };

		snprintf(rules, sizeof(rules), "op=write,error=%s,from=8K,to=12K", errors[i].name);
		depot_open(&dp, *state, failing_ram(rules), 300);
		for (w.offset = 0; w.offset < 20 * KIB; w.offset += 4 * KIB) {
			memset(depot_data(&dp, 0), 0x40 + (int)(w.offset / KIB), 4 * KIB);
			assert_int_equal(depot_do(&dp, &w),
					 w.offset == 8 * KIB ? -errors[i].error : 0);
		}
		w.kind = VIRTQ_STORE_READ;
		for (w.offset = 0; w.offset < 20 * KIB; w.offset += 4 * KIB) {
			assert_int_equal(depot_do(&dp, &w), 0);
			assert_int_equal(*depot_data(&dp, 4095),	/* that one was not begun */
					 w.offset == 8 * KIB ? 0 : 0x40 + (int)(w.offset / KIB));
		}
		depot_close(&dp);
	}
}

static void each_kind_by_itself(void **state)
{
	static const char *const names[] = { "read", "write", "flush", "discard", "zero", "erase" };
	char rules[64];
	struct depot dp;

	for (int failing = VIRTQ_STORE_READ; failing <= VIRTQ_STORE_ERASE; failing++) {
		snprintf(rules, sizeof(rules), "op=%s,error=ENOSPC", names[failing]);
		depot_open(&dp, *state, failing_ram(rules), 300);
		for (int kind = VIRTQ_STORE_READ; kind <= VIRTQ_STORE_ERASE; kind++) {
			struct work w = { .kind = (enum virtq_store_kind)kind, .bytes = 4 * KIB };

			if (kind == VIRTQ_STORE_FLUSH)
				w.bytes = 0;
			assert_int_equal(depot_do(&dp, &w), kind == failing ? -ENOSPC : 0);
		}
		depot_close(&dp);
	}
}

/* "1" where it fails, "." where it does not. */
static void assert_fails(const struct setting *s, const char *rules, const struct work *w,
			 const char *expect)
{
	char seen[32] = "";
	struct depot dp;

	depot_open(&dp, s, failing_ram(rules), 300);
	for (size_t i = 0; expect[i]; i++) {
		int result = depot_do(&dp, w);

		seen[i] = result == 0 ? '.' : result == -EIO ? '1' : result == -ENOSPC ? '2' : '?';
	}
	depot_close(&dp);
	if (strcmp(seen, expect) != 0)
		fail_msg("%s: %s, not %s", rules, seen, expect);
}

static void rules_count(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .offset = 8 * KIB, .bytes = 4 * KIB };

	assert_fails(*state, "error=EIO", &w, "111111");
	assert_fails(*state, "error=EIO,every=3", &w, "..1..1..1");
	assert_fails(*state, "error=EIO,after=2", &w, "..1111");
	assert_fails(*state, "error=EIO,times=2", &w, "11....");
	assert_fails(*state, "error=EIO,every=2,after=3,times=2", &w, "....1.1....");
	/* The first that applies; each counts what came to it. */
	assert_fails(*state, "error=EIO,every=3;error=ENOSPC,every=2", &w, ".21.21.21");
	assert_fails(*state, "op=write,error=EIO;error=ENOSPC,after=1", &w, ".222");
	assert_fails(*state, "op=write,op=read,error=EIO", &w, "11");
	/* Touching is enough, lying next to it is not. */
	assert_fails(*state, "error=EIO,from=12K", &w, "...");
	assert_fails(*state, "error=EIO,to=8K", &w, "...");
	assert_fails(*state, "error=EIO,from=12287", &w, "111");
	assert_fails(*state, "error=EIO,to=8193", &w, "111");
	assert_fails(*state, "error=EIO,from=9K,to=10K", &w, "111");
	w = (struct work){ .kind = VIRTQ_STORE_FLUSH };
	assert_fails(*state, "error=EIO,to=8K", &w, "...");
	assert_fails(*state, "error=EIO", &w, "111");
}

/* ---- Short -------------------------------------------------------------------- */

/* What the inner store is, and how the data is cut, makes no difference. */
static void short_run(const struct setting *s, struct virtq_store *inner, size_t piece)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 8 * KIB, .piece = piece,
			  .at = 64 * KIB };
	struct depot dp;

	depot_open(&dp, s, store_make_failing(inner, "short=3K,error=ENOSPC,from=64K"), 300);
	/* Written outside the range, so that there is something to read. */
	memset(depot_data(&dp, w.at), 0x11, 8 * KIB);
	assert_int_equal(depot_do(&dp, &w), 0);

	w.offset = 64 * KIB;
	memset(depot_data(&dp, w.at), 0x22, 8 * KIB);
	assert_int_equal(depot_do(&dp, &w), -ENOSPC);
	w.kind = VIRTQ_STORE_READ;
	w.offset = 60 * KIB;	/* half of it lies in front of the range, which is touched */
	memset(depot_data(&dp, w.at), 0x77, 8 * KIB);
	assert_int_equal(depot_do(&dp, &w), -ENOSPC);
	assert_int_equal(dp.used[0], 3 * KIB);
	for (size_t i = 0; i < 8 * KIB; i++)
		assert_int_equal(*depot_data(&dp, w.at + i), i < 3 * KIB ? 0 : 0x77);
	w.offset = 64 * KIB;
	assert_int_equal(depot_do(&dp, &w), -ENOSPC);
	assert_int_equal(dp.used[0], 3 * KIB);
	for (size_t i = 0; i < 8 * KIB; i++)
		assert_int_equal(*depot_data(&dp, w.at + i), i < 3 * KIB ? 0x22 : 0x77);
	/* All of it was to be transferred: it fails for all that. */
	w.bytes = 2 * KIB;
	assert_int_equal(depot_do(&dp, &w), -ENOSPC);
	assert_int_equal(dp.used[0], 2 * KIB);
	w = (struct work){ .kind = VIRTQ_STORE_ZERO, .offset = 64 * KIB, .bytes = 8 * KIB };
	assert_int_equal(depot_do(&dp, &w), -ENOSPC);
	depot_close(&dp);
}

static void short_requests_fail_after_their_beginning(void **state)
{
	static const size_t pieces[] = { 0, 512, 1024, 1000, 4096, 7 };

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		char *path = file_make(128 * KIB);

		assert_int_equal(truncate(path, 0), 0);
		assert_int_equal(truncate(path, 128 * KIB), 0);
		short_run(*state, store_make("ram:1M", NULL), pieces[i]);
		short_run(*state, store_make(path, NULL), pieces[i]);
		short_run(*state, failing_ram("op=flush,error=EIO"), pieces[i]);
		file_drop(path);
	}
}

/* The beginning itself may fail, and is not there for what has none. */
static void short_requests_may_fail_in_their_beginning(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 8 * KIB, .piece = 1000 };
	struct depot dp;

	depot_open(&dp, *state, store_make_failing(failing_ram("error=ENODEV"), "short=4K"), 300);
	assert_int_equal(depot_do(&dp, &w), -ENODEV);
	assert_int_equal(dp.used[0], 0);
	depot_close(&dp);
	/* Two that shorten: the inner one sees less. */
	depot_open(&dp, *state, store_make_failing(failing_ram("short=2K,error=EPIPE"), "short=4K"),
		   300);
	assert_int_equal(depot_do(&dp, &w), -EPIPE);
	assert_int_equal(dp.used[0], 2 * KIB);
	depot_close(&dp);
	depot_open(&dp, *state, failing_ram("short=0"), 300);
	assert_int_equal(depot_do(&dp, &w), -EIO);
	assert_int_equal(dp.used[0], 0);
	assert_int_equal(depot_do(&dp, &(struct work){ .kind = VIRTQ_STORE_FLUSH }), -EIO);
	depot_close(&dp);
}

/* ---- Late, and never ------------------------------------------------------------ */

static void late_requests_let_others_pass(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 4 * KIB };
	struct work write = { .kind = VIRTQ_STORE_WRITE, .bytes = 4 * KIB, .at = 64 * KIB };
	unsigned int late[3], n = 0;
	struct depot dp;
	uint64_t start;

	depot_open(&dp, *state, failing_ram("op=read,delay=400,times=1;op=read,delay=400,error=EIO,"
					    "times=1;op=read,delay=400,short=512,times=1"), 2000);
	start = now_ms();
	for (n = 0; n < 3; n++) {
		w.at = n * 4 * KIB;
		late[n] = depot_send(&dp, &w);
	}
	/* Others pass, and what begins late reads what they have written. */
	memset(depot_data(&dp, write.at), 0x33, 4 * KIB);
	assert_int_equal(depot_do(&dp, &write), 0);
	assert_true(now_ms() - start < 300);
	assert_int_equal(depot_wait(&dp, late[0]), 0);
	assert_in_range(now_ms() - start, 400, 3000);
	assert_int_equal(*depot_data(&dp, 0), 0x33);
	assert_int_equal(depot_wait(&dp, late[1]), -EIO);
	assert_int_equal(dp.used[late[1]], 0);
	assert_int_equal(depot_wait(&dp, late[2]), -EIO);
	assert_int_equal(dp.used[late[2]], 512);
	depot_close(&dp);
}

/* Cancelled while they wait: late ones and those that hang, of two stores in a row. */
static void what_never_ends_is_cancelled(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 4 * KIB };
	unsigned int tag;
	struct depot dp;
	uint64_t start;

	depot_open(&dp, *state, store_make_failing(
			failing_ram("op=write,hang;op=zero,delay=60000"),
			"op=read,hang,every=2;op=discard,delay=60000"), 200);
	for (unsigned int i = 0; i < 40; i++) {
		static const enum virtq_store_kind kinds[] = {
			VIRTQ_STORE_READ, VIRTQ_STORE_WRITE, VIRTQ_STORE_ZERO, VIRTQ_STORE_DISCARD,
		};

		w.kind = kinds[i % 4];
		w.at = i * 4 * KIB;
		w.offset = i * 4 * KIB;
		tag = depot_send(&dp, &w);
		if (w.kind == VIRTQ_STORE_READ && i % 8 == 0)	/* each second one hangs */
			assert_int_equal(depot_wait(&dp, tag), 0);
	}
	assert_false(depot_reap(&dp, 100));
	assert_idle();
	start = now_ms();
	depot_close(&dp);
	assert_in_range(now_ms() - start, 150, 2000);
	for (unsigned int i = 0; i < DEPOT_TAGS; i++)
		if (dp.busy & (uint64_t)1 << i)
			assert_int_equal(dp.result[i], -ECANCELED);
	assert_int_equal(__builtin_popcountll(dp.busy), 35);
}

/* What the rules leave alone is as it is without them. */
static void the_rest_is_untouched(void **state)
{
	struct shadow shadow;
	struct depot dp;

	depot_open(&dp, *state, store_make_failing(store_make("ram:5M", NULL),
			"delay=3,every=7;error=EIO,from=6M"), 300);
	shadow_open(&shadow, 5 * MIB);
	shadow_run(&shadow, &dp, 60, true);
	shadow_close(&shadow);
	depot_close(&dp);
}

static void engines_share_rules(void **state)
{
	depot_crowd(*state, failing_ram("delay=1,every=5;op=flush,error=EIO"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_that_mean_nothing),
		cmocka_unit_test(it_is_what_the_one_behind_it_is),
		ON_ENGINES(every_error_for_one_request),
		ON_ENGINES(each_kind_by_itself),
		ON_ENGINES(rules_count),
		ON_ENGINES(short_requests_fail_after_their_beginning),
		ON_ENGINES(short_requests_may_fail_in_their_beginning),
		ON_ENGINES(late_requests_let_others_pass),
		ON_ENGINES(what_never_ends_is_cancelled),
		ON_ENGINES(the_rest_is_untouched),
		ON_ENGINES(engines_share_rules),
	};

	return cmocka_run_group_tests_name("store inject", tests, NULL, NULL) ? 1 : 0;
}
