/* SPDX-License-Identifier: MIT */
/*
 * After set-up nothing is allocated: 12500 rounds of each operation of pool and
 * transfers on each layout, 4 * 10^5 in all, with calls of the allocator and of mmap()
 * counted. And no system call is made but kicks and sleeps: with a device that polls and a
 * caller that does not wait, a filter of the kernel (seccomp) kills who makes any.
 */
#include "far_end.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <virtq/pool.h>
#include <virtq/transfer.h>

#define ROUNDS 12500u

/* ---- Counting: the linker sends every call of the library and of this file here ---- */

static unsigned long allocations;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *p);
void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t bytes);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __wrap_free(void *p);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
	allocations++;
	return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	allocations++;
	return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
	allocations++;
	return __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	allocations++;
	return __real_aligned_alloc(alignment, bytes);
}

void __wrap_free(void *p)
{
	allocations++;
	__real_free(p);
}

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	allocations++;
	return __real_mmap(at, bytes, prot, flags, fd, offset);
}

int __wrap_munmap(void *at, size_t bytes)
{
	allocations++;
	return __real_munmap(at, bytes);
}

/* ---- What is done --------------------------------------------------------------- */

static uint8_t header[12], payload[1500];

/* The device takes and returns everything, and polls: no kicks, no calls. */
static void serve(struct far_end *far)
{
	struct virtq_req *reqs[16];
	int rc = virtq_device_pop(far->device, reqs, 16);

	for (int i = 0; i < rc; i++)
		virtq_req_wrote(reqs[i], 100);
	if (rc > 0) {
		virtq_device_push(far->device, reqs, (unsigned int)rc);
		virtq_device_publish(far->device);
	}
}

static bool wrong;	/* assertions are made when the counting is over */
#define EXPECT(condition) (wrong |= !(condition))

/* Every call of a pool, in a life of some chains. */
static void pool_round(struct virtq_pool *pool, struct far_end *far)
{
	static const struct virtq_wait look = { 0, NULL };
	struct virtq_span part = { payload, sizeof(payload) }, spans[4];
	struct virtq_offer offers[] = {
		{ .header = header, .header_bytes = sizeof(header), .parts = &part,
		  .part_count = 1, .writable_bytes = 200 },
		{ .parts = &part, .part_count = 1, .flags = VIRTQ_OFFER_FORGET },
		{ .header = virtq_pool_reserved(pool), .header_bytes = 12,
		  .flags = VIRTQ_OFFER_REFERENCE, .parts = &part, .part_count = 1 },
	};
	struct virtq_chain chains[4], other;

	EXPECT(virtq_pool_offer(pool, offers, 3, chains, VIRTQ_POOL_MORE, NULL) == 3);
	EXPECT(virtq_pool_publish(pool) == 0);
	EXPECT(virtq_pool_alloc(pool, 64, 64, &other) == 0);
	EXPECT(virtq_pool_copy_in(pool, &other, 0, payload, 64) == 64);
	EXPECT(virtq_pool_resize(pool, &other, 32) == 0);
	serve(far);
	EXPECT(virtq_pool_take(pool, chains, 4, NULL) == 2);
	EXPECT(virtq_pool_spans(pool, &chains[0], VIRTQ_PART_WRITTEN, spans, 4) == 1);
	EXPECT(virtq_pool_copy_out(pool, &chains[0], VIRTQ_PART_READABLE, 0, payload, 99) == 99);
	EXPECT(virtq_pool_recycle(pool, chains, 2, 0) == 2);
	EXPECT(virtq_pool_abandon(pool, chains, 1) == 1);
	serve(far);
	EXPECT(virtq_pool_take(pool, chains, 4, &look) == 1);
	EXPECT(virtq_pool_take(pool, chains + 1, 3, NULL) == 0);
	EXPECT(virtq_pool_free(pool, chains, 1) == 1);
	EXPECT(virtq_pool_free(pool, chains, 1) == -ESTALE);
	EXPECT(virtq_pool_recycle(pool, &other, 1, 0) == 1);
	EXPECT(virtq_pool_offer_writable(pool, 2, 1000, chains, 0, NULL) == 2);
	serve(far);
	EXPECT(virtq_pool_take(pool, chains, 4, NULL) == 3);
	EXPECT(virtq_pool_abandon(pool, chains, 3) == 3);
	EXPECT(virtq_pool_room(pool).held == 0);
}

static void on_release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		       unsigned int writable, int status)
{
	(void)pieces;
	++*(unsigned long *)arg;
	EXPECT(readable == 1 && writable == 1 && status == 0);
}

static void transfers_round(struct virtq_transfers *set, struct far_end *far)
{
	static uint8_t answer[256];
	static unsigned long released;
	unsigned long before = released;
	struct virtq_transfer *t[4], *done[4];
	struct virtq_piece pieces[2];

	for (unsigned int i = 0; i < 4; i++) {
		pieces[0] = (struct virtq_piece){ payload, sizeof(payload), 0 };
		pieces[1] = (struct virtq_piece){ answer, sizeof(answer), 0 };
		EXPECT((i % 2 ? virtq_transfer_prepare : virtq_transfer_prepare_unchecked)
		       (set, &t[i], pieces, 1, 1, on_release, &released) == 0);
	}
	EXPECT(virtq_transfer_send(set, t, 4) == 4);
	EXPECT(virtq_transfer_check(t[0]) == 0);
	virtq_transfer_abandon(t[3]);
	serve(far);
	EXPECT(virtq_transfer_check(t[0]) == 1);
	EXPECT(virtq_transfer_pieces(t[0], NULL, NULL)[1].written == 100);
	EXPECT(virtq_transfers_poll(set, done, 4, NULL) == 3);
	EXPECT(virtq_transfer_send(set, t, 2) == 2);
	serve(far);
	EXPECT(virtq_transfers_poll(set, done, 4, NULL) == 2);
	EXPECT(virtq_transfer_finish(t[0], pieces, 2) == 2);
	EXPECT(virtq_transfer_finish(t[1], pieces, 2) == 2);
	virtq_transfer_abandon(t[2]);
	EXPECT(released == before + 2);
}

/* ---- Allocations -------------------------------------------------------------------- */

struct rig {
	struct virtq_pool *pool;
	struct virtq_port *port;
	struct virtq_transfers *set;
	struct virtq_map *map;
	struct far_end pool_far, far;
};

static void open_all(struct rig *r, struct layout layout, bool threads)
{
	struct virtq_pool_config pool = {
		.features = layout_features(layout), .size = 32, .indirect_entries = 4,
		.item_bytes = 2048, .items = 32, .reserve_bytes = 64, .threads = threads,
	};
	struct virtq_port_config port = {
		.features = layout_features(layout), .size = 16, .indirect_entries = 4,
		.keep = true,
	};
	/* All of this process, as a kernel's or a vhost device's view is. */
	struct virtq_region all = { .gpa = 4096, .host = NULL, .size_bytes = UINT64_C(1) << 46,
				    .fd = -1, .access = VIRTQ_ACCESS_RW };
	struct virtq_transfers_config set = { .transfers_max = 4, .pieces_max = 2 };

	memset(r, 0, sizeof(*r));
	assert_int_equal(virtq_pool_create(&r->pool, &pool, NULL), 0);
	far_open(&r->pool_far, virtq_pool_port(r->pool), NULL, 0, true);
	assert_int_equal(virtq_port_create(&r->port, &port, NULL), 0);
	far_open(&r->far, r->port, NULL, 0, false);
	/* payload and answer are static: the device sees them where they are. */
	virtq_device_destroy(r->far.device);
	r->far.device = NULL;
	virtq_map_unref(r->far.map);
	all.host = (void *)(uintptr_t)all.gpa;
	all.size_bytes = (UINT64_C(1) << 47) - 8192;
	assert_int_equal(virtq_map_create(&r->far.map, &all, 1, NULL), 0);
	far_start(&r->far);
	set.port = r->port;
	set.map = r->far.map;
	assert_int_equal(virtq_transfers_create(&r->set, &set, NULL), 0);
	virtq_device_disarm(r->pool_far.device);
	virtq_device_disarm(r->far.device);
}

static void close_all(struct rig *r)
{
	virtq_driver_stop(virtq_port_driver(r->port));
	virtq_transfers_destroy(r->set);
	far_close(&r->far);
	virtq_port_destroy(r->port);
	far_close(&r->pool_far);
	virtq_pool_destroy(r->pool);
}

static void test_nothing_is_allocated_after_set_up(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 2 * LAYOUTS; i++) {
		unsigned long before, after;
		struct rig r;

		open_all(&r, layout_at(i / 2), i % 2);
		before = allocations;
		for (unsigned int round = 0; round < ROUNDS && !wrong; round++) {
			pool_round(r.pool, &r.pool_far);
			transfers_round(r.set, &r.far);
		}
		after = allocations;
		assert_false(wrong);
		assert_int_equal(after - before, 0);
		close_all(&r);
		/* What counts does count. */
		assert_true(allocations > after);
	}
}

/* ---- System calls --------------------------------------------------------------------- */

/* Only the end of the process is left; any other call is the end of it too. */
static void refuse_system_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(77);
}

/*
 * How a child ends that does some rounds under the filter, and a kick first if it
 * is told. It sets up for itself: the memory is not for children.
 */
static int under_filter(struct layout layout, bool with_a_kick)
{
	pid_t child = fork();
	struct rig r;
	int status;

	assert_true(child >= 0);
	if (!child) {
		open_all(&r, layout, false);
		refuse_system_calls();
		if (with_a_kick)
			virtq_notify_send(virtq_port_kick_fd(r.port));
		for (unsigned int round = 0; round < 1000; round++) {
			pool_round(r.pool, &r.pool_far);
			transfers_round(r.set, &r.far);
		}
		_exit(wrong ? 1 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static void test_no_system_call_without_a_kick_or_a_wait(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		/* Of a split ring with EVENT_IDX no kick can be refused for good (2.7.10). */
		bool certain = layout_at(i).packed || !layout_at(i).event_idx;
		int status;

		if (!certain)
			continue;
		status = under_filter(layout_at(i), false);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
			print_message("the kernel has no seccomp filters\n");
			skip();
		}
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			fail_msg("%s: it ended with status 0x%x", layout_name(layout_at(i)),
				 (unsigned int)status);
		/* The filter does refuse. */
		status = under_filter(layout_at(i), true);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_allocated_after_set_up),
		cmocka_unit_test(test_no_system_call_without_a_kick_or_a_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
