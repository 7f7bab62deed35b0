/* SPDX-License-Identifier: MIT */
/* A file as a store: what is refused, locked and measured, and which operations it asks for. */
#include "depot.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "dev/store_file.h"

/* ---- Refusals -------------------------------------------------------------- */

static void sizes_that_are_no_disk(void **state)
{
	char *empty = file_make(0), *odd = file_make(513), *half = file_make(256);

	(void)state;
	assert_store_refused(empty, NULL, -EINVAL, " 0 bytes");
	assert_store_refused(odd, NULL, -EINVAL, "513 bytes");
	assert_store_refused(half, NULL, -EINVAL, "256 bytes");
	file_drop(empty);
	file_drop(odd);
	file_drop(half);
}

static const struct virtq_store_options ro = { .read_only = true };

static void files_that_are_no_disk(void **state)
{
	(void)state;
	assert_store_refused("./no-such-file", NULL, -ENOENT, "./no-such-file");
	assert_store_refused(".", &ro, -EINVAL, "neither");
	assert_store_refused("/dev/null", NULL, -EINVAL, "neither");
	/* Nobody at its other end: opening it must not wait. */
	assert_int_equal(mkfifo("./disk-fifo", 0600), 0);
	assert_store_refused("./disk-fifo", &ro, -EINVAL, "neither");
	unlink("./disk-fifo");
}

/* ---- Locks ----------------------------------------------------------------- */

static void one_writer_or_many_readers(void **state)
{
	char *path = file_make(512);
	struct virtq_store *first, *second;

	(void)state;
	first = store_make(path, NULL);
	assert_store_refused(path, NULL, -EBUSY, path);
	assert_store_refused(path, NULL, -EBUSY, "in use by this program itself");
	assert_store_refused(path, &ro, -EBUSY, "in use by this program itself");
	virtq_store_close(first);

	first = store_make(path, &ro);
	second = store_make(path, &ro);
	assert_store_refused(path, NULL, -EBUSY, path);
	virtq_store_close(first);
	assert_store_refused(path, NULL, -EBUSY, path);
	virtq_store_close(second);

	first = store_make(path, NULL);
	virtq_store_close(first);
	file_drop(path);
}

/* Also if this program has the file open, without a lock. */
static void somebody_else_is_called_so(void **state)
{
	char *path = file_make(512), byte;
	int fds[2], fd;
	pid_t child;

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fcntl(fd, F_OFD_SETLK, &all) || write(fds[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_store_refused(path, NULL, -EBUSY, "somebody else, who holds a lock");
	assert_store_refused(path, &ro, -EBUSY, "somebody else, who writes");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(fd);
	close(fds[0]);
	file_drop(path);
}

static void lock_bytes(int fd, const int *bytes)
{
	for (; *bytes; bytes++) {
		struct flock lock = {
			.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = *bytes, .l_len = 1,
		};

		assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	}
}

/* The bytes that QEMU locks for an image it reads, and for one it writes. */
static const int qemu_reads[] = { 100, 201, 203, 0 };
static const int qemu_writes[] = { 100, 101, 103, 201, 203, 0 };

static void locks_are_those_of_qemu(void **state)
{
	char *path = file_make(512);
	struct flock probe = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	struct virtq_store *store;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	lock_bytes(fd, qemu_reads);
	assert_store_refused(path, NULL, -EBUSY, path);
	store = store_make(path, &ro);		/* two readers get along */

	/* What a QEMU that wants to write would find: somebody keeps writing to himself. */
	probe.l_start = 201;
	close(fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_GETLK, &probe), 0);
	assert_int_equal(probe.l_type, F_RDLCK);
	virtq_store_close(store);

	lock_bytes(fd, qemu_writes);
	assert_store_refused(path, NULL, -EBUSY, path);
	assert_store_refused(path, &ro, -EBUSY, path);
	close(fd);

	/* And a QEMU that comes second to a writer cannot take a single byte. */
	store = store_make(path, NULL);
	fd = open(path, O_RDWR | O_CLOEXEC);
	probe = (struct flock){ .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100,
				.l_len = 1 };
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &probe), -1);
	close(fd);
	virtq_store_close(store);
	file_drop(path);
}

/* ---- What it is like --------------------------------------------------------- */

static void a_file_is_measured(void **state)
{
	char *path = file_make(8192 * 512);
	struct virtq_store *store = store_make(path, NULL);
	const struct virtq_store_info *info = &store->info;
	struct stat st, after;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_string_equal(store->ops->name, "file");
	assert_int_equal(info->bytes, 8192 * 512);
	assert_int_equal(info->block, 512);
	assert_int_equal(info->physical, st.st_blksize);
	assert_int_equal(info->min_io, st.st_blksize);
	assert_int_equal(info->discard_align, st.st_blksize);
	assert_int_equal(info->alignment, 0);
	assert_true(info->discard_max && info->zero_max && info->zero_unmaps);
	assert_int_equal(info->erase_max, 0);	/* nothing in a file system can promise that */
	virtq_store_close(store);
	/* To look changes nothing. */
	assert_int_equal(stat(path, &after), 0);
	assert_memory_equal(&st.st_mtim, &after.st_mtim, sizeof(st.st_mtim));
	assert_memory_equal(&st.st_ctim, &after.st_ctim, sizeof(st.st_ctim));
	assert_int_equal(st.st_blocks, after.st_blocks);
	file_drop(path);
}

/* BLK-DEV-010. */
static void another_size_is_seen(void **state)
{
	char *path = file_make(4096);
	struct virtq_store *store = store_make(path, NULL);

	(void)state;
	assert_int_equal(store->ops->refresh(store), 4096);
	assert_int_equal(truncate(path, 1 << 20), 0);
	assert_int_equal(store->info.bytes, 4096);
	assert_int_equal(store->ops->refresh(store), 1 << 20);
	assert_int_equal(store->info.bytes, 1 << 20);
	/* What is no size of a disk is said, and not believed. */
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(store->ops->refresh(store), 1000);
	assert_int_equal(store->info.bytes, 1 << 20);
	virtq_store_close(store);
	file_drop(path);
}

/* ---- Which operations ---------------------------------------------------------- */

/* A piece of work without an engine. */
struct piece {
	struct virtq_req req;
	struct virtq_span spans[2];
	struct virtq_store_io io;
	struct virtq_op op;
};

static enum virtq_verdict piece_start(struct virtq_store *store, struct piece *p,
				      const struct work *w, uint8_t *memory)
{
	struct virtq_cursor c = { p->spans, 2, w->bytes };

	memset(p, 0, sizeof(*p));
	p->spans[0] = (struct virtq_span){ memory, w->piece ? w->piece : w->bytes / 2 };
	p->spans[1] = (struct virtq_span){ memory + p->spans[0].len, w->bytes - p->spans[0].len };
	if (w->kind == VIRTQ_STORE_READ)
		p->req.wr = c;
	else
		p->req.rd = c;
	p->io = (struct virtq_store_io){ .req = &p->req, .kind = w->kind, .flags = w->flags,
					 .offset = w->offset, .bytes = w->bytes };
	return store->ops->start(store, &p->io, &p->op);
}

enum way { CACHED, DIRECT, BOUNCED };

static enum way way_of(const struct virtq_op *op)
{
	int flags = fcntl(op->fd, F_GETFL);

	assert_true(flags >= 0);
	assert_int_equal(flags & O_NONBLOCK, 0);
	assert_int_equal(op->flags, VIRTQ_OP_FILE_STAYS);
	if (!(flags & O_DIRECT)) {
		assert_null(op->spans);
		return CACHED;
	}
	return op->spans ? BOUNCED : DIRECT;
}

static enum way goes(struct virtq_store *store, enum virtq_store_kind kind, uint64_t offset,
		     uint8_t *memory, size_t bytes, size_t first)
{
	struct work w = { .kind = kind, .offset = offset, .bytes = bytes, .piece = first };
	struct piece p;
	enum way way;

	assert_int_equal(piece_start(store, &p, &w, memory), VIRTQ_SUBMIT);
	assert_int_equal(p.op.kind, kind == VIRTQ_STORE_READ ? VIRTQ_OP_READ : VIRTQ_OP_WRITE);
	assert_int_equal(p.op.offset, offset);
	way = way_of(&p.op);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, -ECANCELED), VIRTQ_DONE);
	assert_int_equal(p.io.result, -ECANCELED);
	return way;
}

/* A store that bypasses the page cache, or the test is skipped. */
static struct virtq_store *store_make_direct(const char *path)
{
	static const struct virtq_store_options options = { .direct = true, .no_in_place = true };
	struct virtq_error err = { 0 };
	struct virtq_store *store;
	int rc = virtq_store_open(&store, path, &options, &err);

	if (rc == -EINVAL) {
		print_message("skipped: %s\n", err.text);
		assert_non_null(strstr(err.text, "O_DIRECT"));
		skip();
	}
	assert_int_equal(rc, 0);
	return store;
}

static void direct_where_the_file_can_take_it(void **state)
{
	char *path = file_make(1 << 20);
	struct virtq_store *store = store_make_direct(path);
	uint8_t *m = aligned_alloc(4096, 1 << 20);

	(void)state;
	assert_int_equal(goes(store, VIRTQ_STORE_READ, 4096, m, 8192, 4096), DIRECT);
	assert_int_equal(goes(store, VIRTQ_STORE_WRITE, 4096, m, 8192, 4096), DIRECT);
	/* Memory at an odd address, or cut at one. */
	assert_int_equal(goes(store, VIRTQ_STORE_READ, 4096, m + 1, 8192, 4096), BOUNCED);
	assert_int_equal(goes(store, VIRTQ_STORE_WRITE, 4096, m + 1, 8192, 4096), BOUNCED);
	assert_int_equal(goes(store, VIRTQ_STORE_WRITE, 4096, m, 8192, 100), BOUNCED);
	/* Single sectors too, where the file takes them: else it has said so. */
	assert_int_equal(goes(store, VIRTQ_STORE_WRITE, 4096, m, 512, 512),
			 store->info.block == 512 ? DIRECT : CACHED);
	assert_int_equal(goes(store, VIRTQ_STORE_WRITE, 4608, m, 4096, 512),
			 store->info.block == 512 ? DIRECT : CACHED);
	virtq_store_close(store);

	/* Without it nothing does. */
	store = store_make(path, NULL);
	assert_int_equal(goes(store, VIRTQ_STORE_READ, 4096, m, 8192, 0), CACHED);
	assert_int_equal(goes(store, VIRTQ_STORE_READ, 4096, m + 1, 8192, 0), CACHED);
	virtq_store_close(store);
	free(m);
	file_drop(path);
}

#define BUFFERS 32u

static void buffers_are_so_many_and_no_more(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_READ, .bytes = 4096 };
	char *path = file_make(1 << 20);
	struct virtq_store *store = store_make_direct(path);
	uint8_t *m = aligned_alloc(4096, 1 << 20);
	struct piece p[BUFFERS];

	(void)state;
	for (unsigned int i = 0; i < BUFFERS; i++) {
		assert_int_equal(piece_start(store, &p[i], &w, m + 1), VIRTQ_SUBMIT);
		assert_int_equal(way_of(&p[i].op), BOUNCED);
		for (unsigned int j = 0; j < i; j++)	/* each its own */
			assert_ptr_not_equal(p[i].op.spans->base, p[j].op.spans->base);
	}
	/* One that is free again is taken again. */
	assert_int_equal(store->ops->finish(store, &p[7].io, &p[7].op, 4096), VIRTQ_DONE);
	assert_int_equal(p[7].io.result, 0);
	assert_int_equal(p[7].req.written, 4096);
	assert_int_equal(piece_start(store, &p[7], &w, m + 1), VIRTQ_SUBMIT);
	assert_int_equal(way_of(&p[7].op), BOUNCED);
	for (unsigned int i = 0; i < BUFFERS; i++) {
		/* Short: what came counts, and it has failed. */
		assert_int_equal(store->ops->finish(store, &p[i].io, &p[i].op, 512), VIRTQ_DONE);
		assert_int_equal(p[i].io.result, -EIO);
		assert_int_equal(p[i].req.written, 512);
	}
	assert_int_equal(goes(store, VIRTQ_STORE_READ, 0, m + 1, 4096, 0), BOUNCED);
	virtq_store_close(store);
	free(m);
	file_drop(path);
}

/* @op syncs the file itself, whatever has written to it. */
static void assert_sync(struct virtq_store *store, const struct virtq_op *op)
{
	assert_int_equal(op->kind, VIRTQ_OP_SYNC);
	assert_int_equal(op->fd, container_of(store, struct file_store, store)->fd);
	assert_int_equal(way_of(op), CACHED);
	assert_null(op->next);
}

static void finish_sync(struct virtq_store *store, struct piece *p, int64_t result)
{
	assert_sync(store, &p->op);
	assert_int_equal(store->ops->finish(store, &p->io, &p->op, result), VIRTQ_DONE);
	assert_int_equal(p->io.result, result);
}

/* BLK-DEV-018. */
static void a_flush_is_one_sync(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_FLUSH };
	char *path = file_make(1 << 20);
	uint8_t nothing;
	struct piece p;

	(void)state;
	for (int way = 0; way < 2; way++) {
		struct virtq_store *store = way ? store_make_direct(path) : store_make(path, NULL);

		for (int again = 0; again < 2; again++) {
			assert_int_equal(piece_start(store, &p, &w, &nothing), VIRTQ_SUBMIT);
			finish_sync(store, &p, 0);
		}
		virtq_store_close(store);
	}
	file_drop(path);
}

/* BLK-DEV-017: a write that shall be stable has a sync behind it, whichever way it goes. */
static void stable_writes_are_synced(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_WRITE, .flags = VIRTQ_STORE_STABLE, .bytes = 8192 };
	char *path = file_make(1 << 20);
	struct virtq_store *store = store_make(path, NULL);
	uint8_t *m = aligned_alloc(4096, 1 << 20);
	struct piece p;

	(void)state;
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(p.op.kind, VIRTQ_OP_WRITE);
	/* One that has failed has nothing to be made stable. */
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, 512), VIRTQ_DONE);
	assert_int_equal(p.io.result, -EIO);
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, 8192), VIRTQ_SUBMIT);
	finish_sync(store, &p, 0);

	w.kind = VIRTQ_STORE_READ;	/* means nothing there */
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, 8192), VIRTQ_DONE);
	w.kind = VIRTQ_STORE_ZERO;
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(p.op.kind, VIRTQ_OP_ALLOCATE);
	assert_int_equal(p.op.flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, 0), VIRTQ_SUBMIT);
	finish_sync(store, &p, 0);
	virtq_store_close(store);

	w.kind = VIRTQ_STORE_WRITE;
	store = store_make_direct(path);
	for (int odd = 0; odd < 2; odd++) {
		assert_int_equal(piece_start(store, &p, &w, m + odd), VIRTQ_SUBMIT);
		assert_int_equal(way_of(&p.op), odd ? BOUNCED : DIRECT);
		assert_int_equal(store->ops->finish(store, &p.io, &p.op, 8192), VIRTQ_SUBMIT);
		finish_sync(store, &p, odd ? -ENOSPC : 0);
	}
	virtq_store_close(store);
	free(m);
	file_drop(path);
}

/* BLK-DEV-017, BLK-DEV-018: the kernel tells an error once. Nothing is called stable after it. */
static void after_a_failed_sync_nothing_is_stable(void **state)
{
	struct work flush = { .kind = VIRTQ_STORE_FLUSH };
	struct work w = { .kind = VIRTQ_STORE_WRITE, .bytes = 8192 };
	char *path = file_make(1 << 20);
	struct virtq_store *store = store_make(path, NULL);
	uint8_t m[8192] = { 0 };
	struct piece p, late;

	(void)state;
	w.flags = VIRTQ_STORE_STABLE;
	assert_int_equal(piece_start(store, &late, &w, m), VIRTQ_SUBMIT);
	/* One that was not performed says nothing. */
	assert_int_equal(piece_start(store, &p, &flush, m), VIRTQ_SUBMIT);
	finish_sync(store, &p, -ECANCELED);
	assert_int_equal(piece_start(store, &p, &flush, m), VIRTQ_SUBMIT);
	finish_sync(store, &p, -ENOSPC);
	for (int again = 0; again < 3; again++) {
		assert_int_equal(piece_start(store, &p, &flush, m), VIRTQ_DONE);
		assert_int_equal(p.io.result, -EIO);
		/* Not even written; but one that was on its way fails as well. */
		w.flags = VIRTQ_STORE_STABLE;
		assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_DONE);
		assert_int_equal(p.io.result, -EIO);
		assert_int_equal(store->ops->finish(store, &late.io, &late.op, 8192), VIRTQ_DONE);
		assert_int_equal(late.io.result, -EIO);
		/* Who has not asked for that is served on. */
		w.flags = 0;
		assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
		assert_int_equal(store->ops->finish(store, &p.io, &p.op, 8192), VIRTQ_DONE);
		assert_int_equal(p.io.result, 0);
	}
	virtq_store_close(store);
	/* Whoever opens it anew begins anew. */
	store = store_make(path, NULL);
	assert_int_equal(piece_start(store, &p, &flush, m), VIRTQ_SUBMIT);
	finish_sync(store, &p, 0);
	virtq_store_close(store);
	file_drop(path);
}

/* What a file system cannot do is found out once. */
static void ways_to_zero_are_tried_in_turn(void **state)
{
	struct work w = { .kind = VIRTQ_STORE_ZERO, .bytes = 8192 };
	uint8_t m[8192];	/* of no interest */
	char *path = file_make(1 << 20);
	struct virtq_store *store = store_make(path, NULL);
	struct piece p;

	(void)state;
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(p.op.flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, -EOPNOTSUPP), VIRTQ_SUBMIT);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(p.op.flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
		assert_int_equal(store->ops->finish(store, &p.io, &p.op, 0), VIRTQ_SUBMIT);
		assert_int_equal(p.op.flags, FALLOC_FL_KEEP_SIZE);
		assert_int_equal(store->ops->finish(store, &p.io, &p.op, -EOPNOTSUPP), VIRTQ_DONE);
		assert_int_equal(p.io.result, 0);
		assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	}
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, -EIO), VIRTQ_DONE);
	assert_int_equal(p.io.result, -EIO);

	w.flags = VIRTQ_STORE_MAY_UNMAP;
	assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_SUBMIT);
	assert_int_equal(p.op.flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	assert_int_equal(store->ops->finish(store, &p.io, &p.op, -EOPNOTSUPP), VIRTQ_DONE);
	assert_int_equal(p.io.result, -EOPNOTSUPP);
	for (int kind = VIRTQ_STORE_DISCARD; kind <= VIRTQ_STORE_ERASE; kind++) {
		w.kind = (enum virtq_store_kind)kind;
		assert_int_equal(piece_start(store, &p, &w, m), VIRTQ_DONE);
		assert_int_equal(p.io.result, -EOPNOTSUPP);
	}
	virtq_store_close(store);
	file_drop(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_that_are_no_disk),
		cmocka_unit_test(files_that_are_no_disk),
		cmocka_unit_test(one_writer_or_many_readers),
		cmocka_unit_test(somebody_else_is_called_so),
		cmocka_unit_test(locks_are_those_of_qemu),
		cmocka_unit_test(a_file_is_measured),
		cmocka_unit_test(another_size_is_seen),
		cmocka_unit_test(direct_where_the_file_can_take_it),
		cmocka_unit_test(buffers_are_so_many_and_no_more),
		cmocka_unit_test(a_flush_is_one_sync),
		cmocka_unit_test(stable_writes_are_synced),
		cmocka_unit_test(after_a_failed_sync_nothing_is_stable),
		cmocka_unit_test(ways_to_zero_are_tried_in_turn),
	};

	return cmocka_run_group_tests_name("store file", tests, NULL, NULL) ? 1 : 0;
}
