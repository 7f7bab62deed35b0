/* SPDX-License-Identifier: MIT */
/*
 * The block device as a function of a chain: what comes back for which chain.
 * The test plays the engine, so it sees every operation and can make one fail.
 */
#include "pair.h"

#include <sys/uio.h>
#include <unistd.h>

#define DISK_BYTES 4096u
#define DISK_SECTORS (DISK_BYTES / 512)
#define HEADER_AT 0u			/* in the data memory, pieces 64 bytes apart */
#define WRITABLE_AT 65536u
#define PIECE_GAP 64u
#define UNTOUCHED 0xee

/* ---- A disk with a queue, and one request at a time ------------------------ */

struct bench {
	char *path;
	struct virtq_model *model;
	struct pair pair;
	/* How to perform: fail with this after so many bytes. */
	int fail_with;
	uint64_t fail_after;
	/* What was performed. */
	unsigned int ops;
	enum virtq_op_kind kinds[4];
	enum virtq_verdict verdict;
	uint32_t used_bytes;
};

/* Every case runs on both layouts, its state; a chain means the same on each. */
static const struct pair_shape on_split = { .size = 1024 };
static const struct pair_shape on_packed = { .packed = true, .size = 1024 };

static void bench_open_with(struct bench *b, const struct pair_shape *shape,
			    struct virtq_blk_options options)
{
	memset(b, 0, sizeof(*b));
	b->path = file_make(DISK_BYTES);
	options.path = b->path;
	b->model = disk_make(&options);
	pair_open(&b->pair, shape, b->model, 1 << 20);
	memset(b->pair.data, UNTOUCHED, b->pair.data_bytes);
}

static void bench_open(struct bench *b, void **state)
{
	bench_open_with(b, *state, (struct virtq_blk_options){ 0 });
}

static void bench_close(struct bench *b)
{
	pair_close(&b->pair);
	virtq_model_destroy(b->model);
	file_drop(b->path);
}

static int64_t perform(struct bench *b, struct virtq_req *req, const struct virtq_op *op)
{
	struct virtq_cursor *c = op->kind == VIRTQ_OP_READ ? &req->wr : &req->rd;
	uint64_t want = c->bytes, done = 0;

	assert_true(b->ops < 4);
	b->kinds[b->ops++] = op->kind;
	if (op->kind == VIRTQ_OP_SYNC)
		return b->fail_with ? b->fail_with : fdatasync(op->fd);
	if (b->fail_with)
		want = b->fail_after;
	while (done < want) {
		struct iovec iov = { c->spans->base, c->spans->len };
		ssize_t n;

		if (iov.iov_len > want - done)
			iov.iov_len = want - done;
		n = op->kind == VIRTQ_OP_READ ?
			preadv(op->fd, &iov, 1, (off_t)(op->offset + done)) :
			pwritev(op->fd, &iov, 1, (off_t)(op->offset + done));
		assert_true(n > 0);
		if (op->kind == VIRTQ_OP_READ)
			virtq_req_wrote(req, (uint64_t)n);
		else
			virtq_req_skip(req, (uint64_t)n);
		done += (uint64_t)n;
	}
	return b->fail_with ? b->fail_with : (int64_t)done;
}

/* Send @c through the device; what it reported is in @b. */
static void serve(struct bench *b, const struct chain *c)
{
	struct virtq_completion done;
	struct virtq_req *req;
	struct virtq_op op;

	b->ops = 0;
	chain_add(&b->pair, c, b);
	virtq_driver_publish(b->pair.driver);
	assert_int_equal(virtq_device_pop(b->pair.device, &req, 1), 1);
	b->verdict = b->model->ops->start(b->model, req, &op);
	while (b->verdict == VIRTQ_SUBMIT)
		b->verdict = b->model->ops->finish(b->model, req, &op, perform(b, req, &op));
	if (b->verdict == VIRTQ_MALFORMED)
		req->written = 0;
	virtq_device_push(b->pair.device, &req, 1);
	virtq_device_publish(b->pair.device);
	assert_int_equal(virtq_driver_get(b->pair.driver, &done, 1), 1);
	assert_ptr_equal(done.token, b);
	b->used_bytes = done.written;
}

/* ---- Chains cut at will ---------------------------------------------------- */

/* Lengths of pieces; 0 ends. A negative one stands for that many pieces of one byte. */
struct framing {
	const char *name;
	int readable[8], writable[8];
};

static size_t cut(struct chain *c, const int *lens, size_t at, bool writable)
{
	size_t total = 0;

	for (; *lens; lens++) {
		int times = *lens < 0 ? -*lens : 1;
		size_t len = *lens < 0 ? 1 : (size_t)*lens;

		while (times--) {
			if (writable)
				chain_writable(c, at, len);
			else
				chain_readable(c, at, len);
			at += len + PIECE_GAP;
			total += len;
		}
	}
	return total;
}

/* Where byte @n of one direction of the chain lies. */
static uint8_t *byte_at(struct bench *b, const struct chain *c, bool writable, size_t n)
{
	const struct virtq_seg *seg = c->segs + (writable ? c->readable : 0);

	while (n >= seg->len)
		n -= (seg++)->len;
	return b->pair.data + (seg->addr - PAIR_DATA_GPA) + n;
}

static void put(struct bench *b, const struct chain *c, size_t at, const void *src, size_t len)
{
	for (size_t i = 0; i < len; i++)
		*byte_at(b, c, false, at + i) = ((const uint8_t *)src)[i];
}

static void frame(struct bench *b, struct chain *c, const struct framing *f, uint32_t type,
		  uint64_t sector)
{
	struct virtq_blk_req_hdr hdr;

	memset(c, 0, sizeof(*c));
	memset(b->pair.data, UNTOUCHED, b->pair.data_bytes);
	virtq_blk_header(&hdr, type, sector);
	if (cut(c, f->readable, HEADER_AT, false) >= sizeof(hdr))
		put(b, c, 0, &hdr, sizeof(hdr));
	cut(c, f->writable, WRITABLE_AT, true);
}

/* Header and status in the usual way, @readable and @writable bytes of data between them. */
static uint8_t simple(struct bench *b, uint32_t type, uint64_t sector, int readable,
		      int writable)
{
	struct framing f = { "simple", { 16, readable }, { writable, 1 } };
	struct chain c;
	size_t status_at = (size_t)writable;

	if (!writable) {
		f.writable[0] = 1;
		f.writable[1] = 0;
	}
	frame(b, &c, &f, type, sector);
	for (int i = 0; i < readable; i++)
		*byte_at(b, &c, false, 16 + (size_t)i) = (uint8_t)(i * 3);
	serve(b, &c);
	assert_int_equal(b->verdict, VIRTQ_DONE);
	return *byte_at(b, &c, true, status_at);
}

static void assert_file_unchanged(struct bench *b)
{
	uint8_t now[DISK_BYTES];

	file_read(b->path, 0, now, sizeof(now));
	for (size_t i = 0; i < sizeof(now); i++)
		assert_int_equal(now[i], file_pattern(i));
}

/* ---- Framing --------------------------------------------------------------- */

static const struct framing read_framings[] = {
	{ "legacy", { 16 }, { 1024, 1 } },
	{ "status fused with data", { 16 }, { 1025 } },
	{ "header in bytes", { -16 }, { 1024, 1 } },
	{ "header 7 + 9", { 7, 9 }, { 3, 1000, 21, 1 } },
	{ "header 15 + 1", { 15, 1 }, { 512, 513 } },
	{ "data in bytes", { 16 }, { -512, 512, 1 } },
	{ "readable bytes behind the header", { 16, 100 }, { 1024, 1 } },
	{ "header with readable bytes in one", { 200 }, { 1025 } },
};

static void reads_in_any_framing(void **state)	/* BLK-DEV-030, BLK-DEV-033 */
{
	struct bench b;
	struct chain c;

	bench_open(&b, state);
	for (size_t i = 0; i < sizeof(read_framings) / sizeof(read_framings[0]); i++) {
		frame(&b, &c, &read_framings[i], VIRTIO_BLK_T_IN, 3);
		serve(&b, &c);
		assert_int_equal(b.verdict, VIRTQ_DONE);
		assert_int_equal(b.used_bytes, 1025);
		assert_int_equal(*byte_at(&b, &c, true, 1024), VIRTIO_BLK_S_OK);
		for (size_t n = 0; n < 1024; n++)
			assert_int_equal(*byte_at(&b, &c, true, n), file_pattern(3 * 512 + n));
	}
	assert_file_unchanged(&b);
	bench_close(&b);
}

static const struct framing write_framings[] = {
	{ "legacy", { 16, 1024 }, { 1 } },
	{ "header fused with data", { 1040 }, { 1 } },
	{ "header in bytes", { -16, 1024 }, { 1 } },
	{ "header cut, tail with data", { 7, 509, 524 }, { 1 } },
	{ "half a header, the rest fused", { 8, 1032 }, { 1 } },
	{ "writable bytes before the status", { 16, 1024 }, { 100, 1 } },
	{ "status at the end of more", { 16, 1024 }, { 101 } },
};

static void writes_in_any_framing(void **state)	/* BLK-DEV-030 */
{
	struct bench b;
	struct chain c;

	bench_open(&b, state);
	for (size_t i = 0; i < sizeof(write_framings) / sizeof(write_framings[0]); i++) {
		bool alone = write_framings[i].writable[0] == 1;
		uint8_t now[1024];

		frame(&b, &c, &write_framings[i], VIRTIO_BLK_T_OUT, 5);
		for (size_t n = 0; n < 1024; n++)
			*byte_at(&b, &c, false, 16 + n) = (uint8_t)(n * 5 + i);
		serve(&b, &c);
		assert_int_equal(b.verdict, VIRTQ_DONE);
		/* A status behind bytes that nobody wrote is not in the prefix: BLK-DEV-033. */
		assert_int_equal(b.used_bytes, alone ? 1 : 0);
		assert_int_equal(*byte_at(&b, &c, true, alone ? 0 : 100), VIRTIO_BLK_S_OK);
		if (!alone)
			assert_int_equal(*byte_at(&b, &c, true, 99), UNTOUCHED);
		file_read(b.path, 5 * 512, now, sizeof(now));
		for (size_t n = 0; n < 1024; n++)
			assert_int_equal(now[n], (uint8_t)(n * 5 + i));
	}
	bench_close(&b);
}

static void short_chains(void **state)	/* BLK-DEV-032 */
{
	static const struct framing short_header = { "15 bytes", { 15 }, { 512, 1 } };
	static const struct framing no_header = { "none", { 0 }, { 512, 1 } };
	static const struct framing no_status = { "no writable byte", { 16, 512 }, { 0 } };
	struct bench b;
	struct chain c;

	bench_open(&b, state);
	for (int i = 0; i < 2; i++) {
		frame(&b, &c, i ? &no_header : &short_header, VIRTIO_BLK_T_IN, 0);
		serve(&b, &c);
		assert_int_equal(b.verdict, VIRTQ_DONE);
		assert_int_equal(b.ops, 0);
		assert_int_equal(b.used_bytes, 0);
		assert_int_equal(*byte_at(&b, &c, true, 512), VIRTIO_BLK_S_IOERR);
		for (size_t n = 0; n < 512; n++)
			assert_int_equal(*byte_at(&b, &c, true, n), UNTOUCHED);
	}
	frame(&b, &c, &no_status, VIRTIO_BLK_T_OUT, 0);
	serve(&b, &c);
	assert_int_equal(b.verdict, VIRTQ_MALFORMED);
	assert_int_equal(b.ops, 0);
	assert_int_equal(b.used_bytes, 0);
	assert_file_unchanged(&b);
	bench_close(&b);
}

/* ---- Ranges ---------------------------------------------------------------- */

static const struct {
	uint64_t sector;
	int bytes;
	uint8_t status;
} ranges[] = {
	{ 0, 512, VIRTIO_BLK_S_OK },
	{ DISK_SECTORS - 1, 512, VIRTIO_BLK_S_OK },
	{ 0, DISK_BYTES, VIRTIO_BLK_S_OK },
	{ 0, DISK_BYTES + 512, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS, 512, VIRTIO_BLK_S_IOERR },
	{ DISK_SECTORS, 0, VIRTIO_BLK_S_OK },
	{ DISK_SECTORS + 1, 0, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX, 512, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX, 0, VIRTIO_BLK_S_IOERR },
	{ UINT64_MAX / 512 + 1, 512, VIRTIO_BLK_S_IOERR },	/* offset wraps to 0 */
	{ (uint64_t)1 << 55, 512, VIRTIO_BLK_S_IOERR },
	{ 0, 511, VIRTIO_BLK_S_IOERR },
	{ 0, 513, VIRTIO_BLK_S_IOERR },
	{ 0, 1, VIRTIO_BLK_S_IOERR },
};

static void ranges_and_odd_lengths(void **state)	/* BLK-DEV-031, BLK-DEV-033 */
{
	struct bench b;

	bench_open(&b, state);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		bool ok = ranges[i].status == VIRTIO_BLK_S_OK;
		uint32_t bytes = (uint32_t)ranges[i].bytes;

		assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, ranges[i].sector, 0,
					ranges[i].bytes), ranges[i].status);
		/* A status that nothing stands in front of is a prefix too. */
		assert_int_equal(b.used_bytes, ok || !bytes ? bytes + 1 : 0);
		assert_int_equal(b.ops, ok && bytes ? 1 : 0);
	}
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		if (ranges[i].status == VIRTIO_BLK_S_OK)
			continue;
		assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, ranges[i].sector, ranges[i].bytes,
					0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(b.used_bytes, 1);
		assert_int_equal(b.ops, 0);
	}
	assert_file_unchanged(&b);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, DISK_SECTORS - 1, 512, 0), VIRTIO_BLK_S_OK);
	bench_close(&b);
}

static void read_only_disk_refuses_writes(void **state)	/* BLK-DEV-012 */
{
	struct virtq_features declined;
	struct bench b;

	bench_open_with(&b, *state, (struct virtq_blk_options){ .read_only = true });
	assert_true(virtq_features_has(b.model->features, VIRTIO_BLK_F_RO));
	declined = virtq_features_without(b.model->features, VIRTIO_BLK_F_RO);
	assert_int_equal(b.model->ops->features_ok(b.model, declined), 0);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.ops, 0);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_file_unchanged(&b);
	bench_close(&b);
}

/* ---- Other types ----------------------------------------------------------- */

static void id_is_padded_to_twenty_bytes(void **state)	/* BLK-DEV-034 */
{
	static const char *const serials[] = { NULL, "", "nineteen characters", "exactly-twenty-chars" };

	for (size_t i = 0; i < 4; i++) {
		struct framing f = { "id", { 16 }, { 20, 1 } };
		uint8_t expect[20] = { 0 };
		struct bench b;
		struct chain c;

		if (serials[i])
			memcpy(expect, serials[i], strlen(serials[i]));
		bench_open_with(&b, *state,
				(struct virtq_blk_options){ .serial = serials[i] });
		frame(&b, &c, &f, VIRTIO_BLK_T_GET_ID, 0);
		serve(&b, &c);
		assert_int_equal(b.used_bytes, 21);
		assert_int_equal(*byte_at(&b, &c, true, 20), VIRTIO_BLK_S_OK);
		assert_memory_equal(byte_at(&b, &c, true, 0), expect, 20);

		/* Room for more: twenty bytes come, the rest is not claimed. */
		assert_int_equal(simple(&b, VIRTIO_BLK_T_GET_ID, 0, 0, 64), VIRTIO_BLK_S_OK);
		assert_int_equal(b.used_bytes, 20);
		/* Room for less: an id cut short would be another one. */
		assert_int_equal(simple(&b, VIRTIO_BLK_T_GET_ID, 0, 0, 19), VIRTIO_BLK_S_IOERR);
		assert_int_equal(b.used_bytes, 0);
		bench_close(&b);
	}
}

static void unknown_types_are_unsupported(void **state)	/* BLK-DEV-021, BLK-DEV-029 */
{
	static const uint32_t types[] = {
		2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20, 22, 24, 26, 99,
		0x80000000u, 0x80000001u, UINT32_MAX,
	};
	struct bench b;

	bench_open(&b, state);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_int_equal(simple(&b, types[i], 0, 512, 512), VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(b.ops, 0);
		assert_int_equal(b.used_bytes, 0);
	}
	assert_file_unchanged(&b);
	bench_close(&b);
}

/* ---- Stable storage -------------------------------------------------------- */

static void write_is_stable_if_flush_was_declined(void **state)	/* BLK-DEV-017 */
{
	struct virtq_features without;
	struct bench b;

	bench_open(&b, state);
	assert_true(virtq_features_has(b.model->features, VIRTIO_BLK_F_FLUSH));	/* BLK-DEV-001 */
	without = virtq_features_without(b.model->features, VIRTIO_BLK_F_FLUSH);

	/* Nothing negotiated yet counts as declined. */
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 2);

	assert_int_equal(b.model->ops->features_ok(b.model, b.model->features), 0);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 1);

	assert_int_equal(b.model->ops->features_ok(b.model, without), 0);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 2);
	assert_int_equal(b.kinds[0], VIRTQ_OP_WRITE);
	assert_int_equal(b.kinds[1], VIRTQ_OP_SYNC);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 1);

	assert_int_equal(b.model->ops->features_ok(b.model, b.model->features), 0);
	b.model->ops->reset(b.model);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 2);
	bench_close(&b);
}

static void flush_is_a_sync(void **state)	/* BLK-DEV-018 */
{
	struct bench b;

	bench_open(&b, state);
	assert_int_equal(simple(&b, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.ops, 1);
	assert_int_equal(b.kinds[0], VIRTQ_OP_SYNC);
	assert_int_equal(b.used_bytes, 1);
	/* A sector and data, which a driver should not send, do not matter. */
	assert_int_equal(simple(&b, VIRTIO_BLK_T_FLUSH, UINT64_MAX, 512, 0), VIRTIO_BLK_S_OK);

	b.fail_with = -EIO;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_file_unchanged(&b);
	bench_close(&b);
}

/* ---- Failing I/O ----------------------------------------------------------- */

static void failed_read_claims_only_what_was_read(void **state)	/* BLK-DEV-033 */
{
	struct bench b;

	bench_open(&b, state);
	b.fail_with = -EIO;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.used_bytes, 0);
	b.fail_after = 700;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.used_bytes, 700);
	b.fail_after = 2048;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.used_bytes, 2049);
	/* Short without an error: somebody cut the file. */
	b.fail_with = 700;
	b.fail_after = 700;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.used_bytes, 700);
	bench_close(&b);
}

static void failed_write_is_not_synced(void **state)
{
	struct bench b;

	bench_open(&b, state);
	b.fail_with = -ENOSPC;
	assert_int_equal(simple(&b, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.ops, 1);
	assert_int_equal(b.used_bytes, 1);
	bench_close(&b);
}

#define BOTH(test) \
	{ #test " [split]", test, NULL, NULL, (void *)(uintptr_t)&on_split }, \
	{ #test " [packed]", test, NULL, NULL, (void *)(uintptr_t)&on_packed }

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(reads_in_any_framing),
		BOTH(writes_in_any_framing),
		BOTH(short_chains),
		BOTH(ranges_and_odd_lengths),
		BOTH(read_only_disk_refuses_writes),
		BOTH(id_is_padded_to_twenty_bytes),
		BOTH(unknown_types_are_unsupported),
		BOTH(write_is_stable_if_flush_was_declined),
		BOTH(flush_is_a_sync),
		BOTH(failed_read_claims_only_what_was_read),
		BOTH(failed_write_is_not_synced),
	};

	return cmocka_run_group_tests_name("blk", tests, NULL, NULL) ? 1 : 0;
}
