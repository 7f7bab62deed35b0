/* SPDX-License-Identifier: MIT */
/*
 * What the io_uring engine uses of the kernel, feature by feature: the data is
 * the same with each of them and without, and none of them holds on to what is gone.
 */
#include "stand.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALL_USES 127u

struct probe {
	struct setting setting;
	uint32_t demand, forbid;
	int stepped;
};

#define PROBE(name, ...) \
	static const struct probe name = { { VIRTQ_ENGINE_URING, { false, true, 256 }, 0, 0, 16 }, \
					   __VA_ARGS__ }
PROBE(habit, 0, 0, 0);
PROBE(nothing, 0, ALL_USES, 0);
PROBE(sqpoll, VIRTQ_USE_SQPOLL, 0, 0);
PROBE(sqpoll_shared, VIRTQ_USE_SQPOLL, VIRTQ_USE_SINGLE_ISSUER, 0);
PROBE(buffers, VIRTQ_USE_BUFFERS, 0, 0);
PROBE(everything, VIRTQ_USE_SQPOLL | VIRTQ_USE_BUFFERS, 0, 0);
PROBE(no_files, VIRTQ_USE_BUFFERS, VIRTQ_USE_FILES, 0);
PROBE(no_ring_fd, 0, VIRTQ_USE_RING_FD, 0);
PROBE(no_single_issuer, 0, VIRTQ_USE_SINGLE_ISSUER, 0);
PROBE(no_defer, 0, VIRTQ_USE_DEFER_TASKRUN, 0);
PROBE(no_multishot, 0, VIRTQ_USE_MULTISHOT, 0);

static struct virtq_engine *engine_of_probe(const struct probe *p)
{
	struct virtq_engine_config config = {
		.kind = VIRTQ_ENGINE_URING, .entries = p->setting.entries, .drain_ms = 300,
		.demand = p->demand, .forbid = p->forbid, .spin_us = p->setting.spin_us,
	};

	return engine_with(&config);
}

/* What this kernel has of what @p allows; what it never has cannot be tested. */
static void assert_uses(const struct virtq_engine *engine, uint32_t wanted, const struct probe *p)
{
	uint32_t uses = virtq_engine_uses(engine);

	assert_int_equal(uses & p->forbid, 0);
	assert_int_equal(uses & (VIRTQ_USE_SQPOLL | VIRTQ_USE_BUFFERS) & ~p->demand, 0);
	if ((uses & wanted) != (wanted & ~p->forbid)) {
		print_message("skipped: this kernel lets an engine use 0x%x, not 0x%x\n", uses,
			      wanted & ~p->forbid);
		skip();
	}
}

/* ---- Data ------------------------------------------------------------------ */

static void the_data_is_the_same(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &p->setting.shape);
	lane_run(&l, p->setting.depth, 3000);
	lane_run(&l, 1, 300);		/* and with a sleep between any two */
	usleep(50000);
	assert_idle();
	lane_run(&l, p->setting.depth, 300);
	assert_uses(engine, p->demand, p);
	lane_end(&l, engine, &disk);
}

static void what_is_used_is_told(void **state)
{
	struct virtq_engine *engine = engine_of_probe(&nothing);

	(void)state;
	assert_int_equal(virtq_engine_uses(engine), 0);
	virtq_engine_destroy(engine);
	engine = engine_of(VIRTQ_ENGINE_SYNC, 0, 0);
	assert_int_equal(virtq_engine_uses(engine), 0);
	virtq_engine_destroy(engine);
	engine = engine_of_probe(&habit);
	/* Multishot polls came with Linux 5.13; nothing was asked to be registered yet. */
	assert_int_equal(virtq_engine_uses(engine) &
			 ~(uint32_t)(VIRTQ_USE_RING_FD | VIRTQ_USE_SINGLE_ISSUER |
				     VIRTQ_USE_DEFER_TASKRUN), VIRTQ_USE_MULTISHOT);
	virtq_engine_destroy(engine);
}

/* ---- Files ----------------------------------------------------------------- */

/* A model that reads 64 bytes from the start of its file. */
static void read_through(struct virtq_engine *engine, const struct setting *s, int fd,
			 uint8_t *bytes)
{
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;

	model.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd,
					 .flags = VIRTQ_OP_FILE_STAYS };
	stand_open_on(&st, engine, s, &model.model);
	chain_writable(&c, 0, 64);
	assert_int_equal(stand_do(&st, &c), 64);
	assert_int_equal(stand_do(&st, &c), 64);
	memcpy(bytes, st.pair.data, 64);
	stand_close(&st);
}

/* The number comes back, the file is another: the kernel's table must not remember. */
static void a_closed_file_is_forgotten(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	uint8_t bytes[64];

	for (unsigned int i = 0; i < 300; i++) {	/* more than the table has entries */
		char content[64], *path = file_make(64);
		int fd = open(path, O_RDWR | O_CLOEXEC);

		memset(content, 'a' + (char)(i % 26), sizeof(content));
		assert_int_equal(pwrite(fd, content, sizeof(content), 0), sizeof(content));
		read_through(engine, &p->setting, fd, bytes);
		assert_memory_equal(bytes, content, sizeof(content));
		close(fd);
		file_drop(path);
	}
	assert_uses(engine, VIRTQ_USE_FILES, p);
	virtq_engine_destroy(engine);
}

/* Two queues with the same file, of which one goes; and one with more files than it may have. */
static void files_are_shared_and_may_be_many(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct scripted model = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	char *path = file_make(4096);
	struct stand st;
	uint8_t bytes[64];
	int fds[8];

	for (unsigned int i = 0; i < 8; i++)
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
	model.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fds[0],
					 .flags = VIRTQ_OP_FILE_STAYS };
	stand_open_on(&st, engine, &p->setting, &model.model);
	chain_writable(&c, 0, 16);
	assert_int_equal(stand_do(&st, &c), 16);
	for (unsigned int i = 0; i < 8; i++)
		read_through(engine, &p->setting, fds[0], bytes);
	for (unsigned int i = 0; i < 16; i++) {
		virtq_engine_queue_enable(st.queue, false);	/* start() is not running */
		model.first.fd = fds[i % 8];
		model.first.offset = i * 100;
		virtq_engine_queue_enable(st.queue, true);
		assert_int_equal(stand_do(&st, &c), 16);
		for (unsigned int k = 0; k < 16; k++)
			assert_int_equal(st.pair.data[k], file_pattern(i * 100 + k));
	}
	stand_close(&st);
	for (unsigned int i = 0; i < 8; i++)
		close(fds[i]);
	file_drop(path);
	virtq_engine_destroy(engine);
}

/* ---- Memory ---------------------------------------------------------------- */

/* The same memory, mapped once more: other pointers, so another entry of the table. */
static struct virtq_map *another_view(struct pair *p)
{
	uint64_t offset = (uint64_t)(p->data - (uint8_t *)virtq_mapping_host(p->memory));
	struct virtq_mapping *mapping;
	struct virtq_map *map;

	assert_int_equal(virtq_mapping_open(&mapping, dup_of(virtq_mapping_fd(p->memory)), offset,
					    p->data_bytes, VIRTQ_ACCESS_RW, NULL), 0);
	assert_int_equal(virtq_map_create(&map, &(struct virtq_region){
				.gpa = PAIR_DATA_GPA, .size_bytes = p->data_bytes,
				.host = virtq_mapping_host(mapping), .fd = -1,
				.access = VIRTQ_ACCESS_RW, .mapping = mapping }, 1, NULL), 0);
	virtq_mapping_unref(mapping);
	return map;
}

static void memory_is_replaced_under_load(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &p->setting.shape);
	for (unsigned int i = 0; i < 150; i++) {
		struct virtq_map *map = i % 3 ? another_view(&l.pair) : pair_new_map(&l.pair);

		lane_fill(&l, p->setting.depth, UINT64_MAX);
		assert_int_equal(virtq_engine_queue_set_map(l.queue, map, &l.pair.ring), 0);
		virtq_map_unref(map);	/* of what the engine had before nothing is mapped now */
		lane_run(&l, p->setting.depth, 10);
	}
	while (l.done < l.sent)
		lane_wait(&l);
	assert_uses(engine, p->demand, p);
	lane_end(&l, engine, &disk);
}

/*
 * Registered memory is pinned: what is read goes to the pages that were there,
 * though the file has others now. So it shows that it was used, and why it is not
 * used unless asked for.
 */
static void registered_memory_is_pinned(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	char *path = file_make(4096);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool pinned = p->demand & VIRTQ_USE_BUFFERS;
	struct stand st;
	off_t at;

	s.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd };
	stand_open_on(&st, engine, &p->setting, &s.model);
	assert_uses(engine, p->demand, p);
	chain_writable(&c, 0, 512);
	assert_int_equal(stand_do(&st, &c), 512);
	assert_int_equal(st.pair.data[7], file_pattern(7));

	/* As a balloon does: the page goes, and with the next access comes another. */
	at = st.pair.data - (uint8_t *)virtq_mapping_host(st.pair.memory);
	assert_int_equal(fallocate(virtq_mapping_fd(st.pair.memory),
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 4096), 0);
	assert_int_equal(st.pair.data[7], 0);
	assert_int_equal(stand_do(&st, &c), 512);
	assert_int_equal(st.pair.data[7], pinned ? 0 : file_pattern(7));
	stand_close(&st);
	close(fd);
	file_drop(path);
	virtq_engine_destroy(engine);
}

static void give_up_locking(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	/* Enough for the rings themselves, not for the guest's memory. */
	struct rlimit limit = { 1 << 20, 1 << 20 };

	assert_int_equal(syscall(SYS_capget, &head, data), 0);
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	assert_int_equal(syscall(SYS_capset, &head, data), 0);
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

/* In a process of its own, which gives up the right to lock memory. */
static void a_limit_on_locked_memory_is_no_error(void **state)
{
	const struct probe *p = *state;
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (!child) {
		struct virtq_engine *engine = NULL;
		struct disk disk;
		struct lane l;
		uint32_t uses;

		give_up_locking();
		/* Tables need no locked memory: refused it would be without a reason. */
		if (virtq_engine_create(&engine, &(struct virtq_engine_config){
					.kind = VIRTQ_ENGINE_URING, .demand = p->demand }, NULL))
			_exit(77);
		disk_open(&disk, false, 1);
		lane_open(&l, engine, &disk, &p->setting.shape, new_eventfd(), new_eventfd());
		lane_run(&l, 8, 300);
		uses = virtq_engine_uses(engine);
		lane_close(&l);
		virtq_engine_destroy(engine);
		disk_close(&disk);
		_exit(uses & VIRTQ_USE_BUFFERS ? 1 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("skipped: no io_uring without the right to lock memory\n");
		skip();
	}
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- One operation behind the other --------------------------------------- */

#define PIECE 512u

/* Write what the driver sent, make it stable, read it back into memory of the model's own. */
static void script_row(struct scripted *s, int fd, uint64_t offset)
{
	s->first = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .fd = fd, .offset = offset };
	s->then[0] = (struct virtq_op){ .kind = VIRTQ_OP_SYNC, .fd = fd };
	s->spans[0] = (struct virtq_span){ s->memory, PIECE / 2 };
	s->spans[1] = (struct virtq_span){ s->memory + PIECE / 2, PIECE / 2 };
	s->then[1] = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd, .offset = offset,
					.spans = s->spans, .span_count = 2 };
	s->then_count = 2;
}

static void a_row_ends_where_it_fails(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	char *path = file_make(8192);
	int fd = open(path, O_RDWR | O_CLOEXEC), none = 1 << 20;
	struct stand st;

	stand_open_on(&st, engine, &p->setting, &s.model);
	chain_readable(&c, 0, PIECE);
	for (unsigned int i = 0; i < 100; i++) {
		memset(st.pair.data, (int)i, PIECE);
		memset(s.memory, 0xee, PIECE);
		script_row(&s, fd, i % 8 * PIECE);
		stand_do(&st, &c);
		assert_int_equal(s.result, PIECE);
		assert_int_equal(s.last.kind, VIRTQ_OP_READ);
		assert_memory_equal(s.memory, st.pair.data, PIECE);
	}
	assert_int_equal(s.finished, 100);

	/* The second fails. */
	script_row(&s, fd, 0);
	s.then[0].fd = none;
	memset(s.memory, 0xee, PIECE);
	stand_do(&st, &c);
	assert_int_equal(s.result, -EBADF);
	assert_int_equal(s.last.kind, VIRTQ_OP_SYNC);
	assert_int_equal(s.memory[0], 0xee);

	/* The first fails. */
	script_row(&s, none, 0);
	s.then[0].fd = fd;
	s.then[1].fd = fd;
	stand_do(&st, &c);
	assert_int_equal(s.result, -EBADF);
	assert_int_equal(s.last.kind, VIRTQ_OP_WRITE);
	assert_int_equal(s.memory[0], 0xee);

	/* The third is short: what it has counts, once. */
	script_row(&s, fd, 0);
	s.then[1].offset = 8192 - PIECE / 4;
	stand_do(&st, &c);
	assert_int_equal(s.result, PIECE / 4);
	assert_int_equal(s.last.kind, VIRTQ_OP_READ);
	/* After all of this a plain one is plain. */
	s.then_count = 0;
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .fd = fd };
	stand_do(&st, &c);
	assert_int_equal(s.result, PIECE);
	stand_close(&st);
	close(fd);
	file_drop(path);
	virtq_engine_destroy(engine);
}

/* A row of which the last is refused: those before it are performed all the same. */
static void a_row_goes_as_far_as_it_can(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	char *path = file_make(8192), got[PIECE];
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stand st;

	stand_open_on(&st, engine, &p->setting, &s.model);
	chain_readable(&c, 0, PIECE);
	for (unsigned int last = 0; last < 2; last++) {
		memset(st.pair.data, (int)last + 1, PIECE);
		script_row(&s, fd, 0);
		/* The last of two, then of three: where no file has anything. */
		s.then[last] = s.then[1];
		s.then_count = last + 1;
		s.then[last].offset = (uint64_t)1 << 63;
		stand_do(&st, &c);
		assert_int_equal(s.result, -EINVAL);
		assert_int_equal(s.last.kind, VIRTQ_OP_READ);
		assert_int_equal(pread(fd, got, PIECE, 0), PIECE);
		assert_memory_equal(got, st.pair.data, PIECE);
	}
	assert_int_equal(s.finished, 2);
	stand_close(&st);
	close(fd);
	file_drop(path);
	virtq_engine_destroy(engine);
}

/* A write to a pipe comes back short when the reader is slow: the row goes on behind the rest. */
static void a_short_first_one_is_continued(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engine = engine_of_probe(p);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	char *path = file_make(4096);
	int fd = open(path, O_RDONLY | O_CLOEXEC), fds[2];
	struct chain c = { .readable = 0 };
	struct stand st;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	stand_open_on(&st, engine, &p->setting, &s.model);
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fds[0] };
	s.spans[0] = (struct virtq_span){ s.memory, 64 };
	s.then[0] = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd, .spans = s.spans,
				       .span_count = 1 };
	s.then_count = 1;
	chain_writable(&c, 0, 1000);
	assert_int_equal(write(fds[1], st.pair.data, 700), 700);
	stand_send(&st, &c);
	assert_int_equal(virtq_notify_wait(st.call, 50), 0);	/* it waits for the other 300 */
	assert_int_equal(write(fds[1], st.pair.data, 300), 300);
	assert_int_equal(stand_back(&st), 1000);
	assert_int_equal(s.result, 64);
	assert_int_equal(s.memory[9], file_pattern(9));
	assert_int_equal(s.finished, 1);

	/* Taken away while the first waits: all of the row goes, and nothing is written later. */
	memset(s.memory, 0xee, 64);
	s.spans[0] = (struct virtq_span){ s.memory, 64 };
	stand_send(&st, &c);
	usleep(20000);
	st.pair.device = virtq_engine_remove(st.queue);
	st.queue = NULL;
	assert_int_equal(s.result, -ECANCELED);
	assert_int_equal(s.finished, 2);
	assert_int_equal(s.memory[9], 0xee);
	stand_close(&st);
	close(fd);
	close(fds[0]);
	close(fds[1]);
	file_drop(path);
	virtq_engine_destroy(engine);
}

/* In the middle of rows: what the kernel has done already is not done again elsewhere. */
static void a_row_may_move(void **state)
{
	const struct probe *p = *state;
	struct virtq_engine *engines[2] = {
		engine_of_probe(p), engine_of(VIRTQ_ENGINE_SYNC, 0, 0),
	};
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	char *path = file_make(8192);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stand st;

	stand_open_on(&st, engines[0], &p->setting, &s.model);
	chain_readable(&c, 0, PIECE);
	for (unsigned int i = 0; i < 200; i++) {
		memset(st.pair.data, (int)i, PIECE);
		script_row(&s, fd, i % 8 * PIECE);
		stand_send(&st, &c);
		assert_int_equal(virtq_engine_move(st.queue, engines[(i + 1) % 2]), 0);
		stand_back(&st);
		assert_int_equal(s.result, PIECE);
		assert_memory_equal(s.memory, st.pair.data, PIECE);
	}
	assert_int_equal(s.finished, 200);
	stand_close(&st);
	close(fd);
	file_drop(path);
	virtq_engine_destroy(engines[0]);
	virtq_engine_destroy(engines[1]);
}

#define ON_USES(test) \
	ON(habit, test), ON(nothing, test), ON(sqpoll, test), ON(sqpoll_shared, test), \
	ON(buffers, test), ON(everything, test), ON(no_files, test), \
	ON(no_ring_fd, test), ON(no_single_issuer, test), ON(no_defer, test), \
	ON(no_multishot, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_used_is_told),
		ON_USES(the_data_is_the_same),
		ON(habit, a_closed_file_is_forgotten),
		ON(no_files, a_closed_file_is_forgotten),
		ON(habit, files_are_shared_and_may_be_many),
		ON(everything, files_are_shared_and_may_be_many),
		ON(habit, memory_is_replaced_under_load),
		ON(buffers, memory_is_replaced_under_load),
		ON(everything, memory_is_replaced_under_load),
		ON(habit, registered_memory_is_pinned),
		ON(buffers, registered_memory_is_pinned),
		ON(buffers, a_limit_on_locked_memory_is_no_error),
		ON_USES(a_row_ends_where_it_fails),
		ON(habit, a_row_goes_as_far_as_it_can),
		ON(sqpoll, a_row_goes_as_far_as_it_can),
		ON(nothing, a_row_goes_as_far_as_it_can),
		ON(habit, a_short_first_one_is_continued),
		ON(sqpoll, a_short_first_one_is_continued),
		ON(nothing, a_short_first_one_is_continued),
		ON(habit, a_row_may_move),
		ON(sqpoll, a_row_may_move),
		ON(nothing, a_row_may_move),
	};

	return cmocka_run_group_tests_name("engine probes", tests, NULL, NULL) ? 1 : 0;
}
