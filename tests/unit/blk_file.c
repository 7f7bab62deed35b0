/* SPDX-License-Identifier: MIT */
/* A disk's file and configuration: what is refused, locked, measured and announced. */
#include "pair.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Refusals -------------------------------------------------------------- */

static void assert_refused(const struct virtq_blk_options *options, int code, const char *part)
{
	struct virtq_model *model = NULL;
	struct virtq_error err = { 0 };

	assert_int_equal(virtq_blk_create(&model, options, &err), code);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
	/* Without anybody to tell: the same. */
	assert_int_equal(virtq_blk_create(&model, options, NULL), code);
	assert_null(model);
}

static void sizes_that_are_no_disk(void **state)
{
	char *empty = file_make(0), *odd = file_make(513), *half = file_make(256);

	(void)state;
	assert_refused(&(struct virtq_blk_options){ .path = empty }, -EINVAL, " 0 bytes");
	assert_refused(&(struct virtq_blk_options){ .path = odd }, -EINVAL, "513 bytes");
	assert_refused(&(struct virtq_blk_options){ .path = half }, -EINVAL, "256 bytes");
	file_drop(empty);
	file_drop(odd);
	file_drop(half);
}

static void options_out_of_range(void **state)
{
	char *path = file_make(512);

	(void)state;
	assert_refused(&(struct virtq_blk_options){ .path = NULL }, -EINVAL, "path");
	assert_refused(&(struct virtq_blk_options){ .path = path, .queues = 257 }, -EINVAL, "257");
	assert_refused(&(struct virtq_blk_options){ .path = path, .queue_size_max = 1 },
		       -EINVAL, "1 entries");
	assert_refused(&(struct virtq_blk_options){ .path = path, .queue_size_max = 32769 },
		       -EINVAL, "32769");
	/* BLK-DEV-034: an id of 25 characters is refused, not cut. */
	assert_refused(&(struct virtq_blk_options){ .path = path,
						    .serial = "twenty-five characters ok" },
		       -EINVAL, "twenty-five characters ok");
	file_drop(path);
}

static void files_that_are_no_disk(void **state)
{
	(void)state;
	assert_refused(&(struct virtq_blk_options){ .path = "./no-such-file" }, -ENOENT,
		       "./no-such-file");
	assert_refused(&(struct virtq_blk_options){ .path = ".", .read_only = true }, -EINVAL,
		       "neither");
	assert_refused(&(struct virtq_blk_options){ .path = "/dev/null" }, -EINVAL, "neither");
	/* Nobody at its other end: opening it must not wait. */
	assert_int_equal(mkfifo("./disk-fifo", 0600), 0);
	assert_refused(&(struct virtq_blk_options){ .path = "./disk-fifo", .read_only = true },
		       -EINVAL, "neither");
	unlink("./disk-fifo");
}

/* ---- Locks ----------------------------------------------------------------- */

static void one_writer_or_many_readers(void **state)
{
	char *path = file_make(512);
	struct virtq_blk_options rw = { .path = path };
	struct virtq_blk_options ro = { .path = path, .read_only = true };
	struct virtq_model *first, *second;

	(void)state;
	first = disk_make(&rw);
	assert_refused(&rw, -EBUSY, path);
	assert_refused(&ro, -EBUSY, path);
	virtq_model_destroy(first);

	first = disk_make(&ro);
	second = disk_make(&ro);
	assert_refused(&rw, -EBUSY, path);
	virtq_model_destroy(first);
	assert_refused(&rw, -EBUSY, path);
	virtq_model_destroy(second);

	first = disk_make(&rw);
	virtq_model_destroy(first);
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
	struct virtq_blk_options rw = { .path = path };
	struct virtq_blk_options ro = { .path = path, .read_only = true };
	struct flock probe = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	struct virtq_model *model;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	lock_bytes(fd, qemu_reads);
	assert_refused(&rw, -EBUSY, path);
	model = disk_make(&ro);		/* two readers get along */

	/* What a QEMU that wants to write would find: somebody keeps writing to himself. */
	probe.l_start = 201;
	close(fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_GETLK, &probe), 0);
	assert_int_equal(probe.l_type, F_RDLCK);
	virtq_model_destroy(model);

	lock_bytes(fd, qemu_writes);
	assert_refused(&rw, -EBUSY, path);
	assert_refused(&ro, -EBUSY, path);
	close(fd);

	/* And a QEMU that comes second to a writer cannot take a single byte. */
	model = disk_make(&rw);
	fd = open(path, O_RDWR | O_CLOEXEC);
	probe = (struct flock){ .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100,
				.l_len = 1 };
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &probe), -1);
	close(fd);
	virtq_model_destroy(model);
	file_drop(path);
}

/* ---- Configuration space --------------------------------------------------- */

static void config_says_what_is_offered(void **state)	/* BLK-DEV-001, -004, -008, -009 */
{
	char *path = file_make(8192 * 512);
	struct virtq_blk_config config;
	struct virtq_model *model;
	uint8_t raw[256];

	(void)state;
	model = disk_make(&(struct virtq_blk_options){ .path = path, .queues = 4 });
	assert_int_equal(model->ops->device_id, VIRTIO_ID_BLOCK);
	assert_int_equal(model->queues, 4);
	assert_int_equal(model->queue_size_max, 1024);
	memset(raw, 0xff, sizeof(raw));
	model->ops->config_read(model, 0, raw, sizeof(raw));
	assert_int_equal(virtq_blk_config_decode(&config, raw, model->config_bytes,
						 model->features), 0);
	assert_int_equal(config.capacity_sectors, 8192);
	assert_int_equal(config.seg_max, 126);
	assert_true(config.seg_max + 2 <= model->max_segs);
	assert_int_equal(config.blk_size_bytes, 512);
	assert_int_equal(config.num_queues, 4);
	assert_int_equal(config.size_max_bytes, 0);
	assert_int_equal(config.max_discard_sectors, 0);
	if (virtq_features_has(model->features, VIRTIO_BLK_F_TOPOLOGY)) {
		struct stat st;

		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(512 << config.physical_block_exp, st.st_blksize);
		assert_int_equal(config.min_io_size_blocks * 512, st.st_blksize);
	}
	assert_int_equal(raw[33], 0);
	for (size_t i = 36; i < sizeof(raw); i++)	/* nothing offered, then past the end */
		assert_int_equal(raw[i], 0);

	/* In pieces it is the same. */
	for (uint32_t i = 0; i < sizeof(raw); i++) {
		uint8_t byte = 0xff;

		model->ops->config_read(model, i, &byte, 1);
		assert_int_equal(byte, raw[i]);
	}
	model->ops->config_read(model, UINT32_MAX, raw, 4);
	assert_int_equal(raw[0], 0);
	virtq_model_destroy(model);

	model = disk_make(&(struct virtq_blk_options){ .path = path });
	assert_false(virtq_features_has(model->features, VIRTIO_BLK_F_MQ));
	assert_false(virtq_features_has(model->features, VIRTIO_BLK_F_RO));
	assert_true(virtq_features_has(model->features, VIRTIO_BLK_F_FLUSH));
	assert_false(virtq_features_has(model->features, VIRTIO_BLK_F_ZONED));	/* BLK-DEV-005 */
	assert_int_equal(model->queues, 1);
	virtq_model_destroy(model);

	/* The longest request, header and status included, fits a queue (BLK-DRV-020). */
	for (unsigned int size = 2; size <= 256; size *= 2) {
		model = disk_make(&(struct virtq_blk_options){ .path = path,
							       .queue_size_max = size });
		model->ops->config_read(model, 0, raw, sizeof(raw));
		assert_int_equal(virtq_blk_config_decode(&config, raw, sizeof(raw),
							 model->features), 0);
		assert_int_equal(config.seg_max, size == 2 ? 1 : size < 128 ? size - 2 : 126);
		virtq_model_destroy(model);
	}
	virtq_model_destroy(NULL);
	file_drop(path);
}

static void config_decodes_only_offered_fields(void **state)
{
	struct virtq_features all = { { ~(uint64_t)0, 0 } }, none = { { 0, 0 } };
	struct virtq_blk_config c;
	uint8_t raw[72];

	(void)state;
	for (size_t i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)(i + 1);
	assert_int_equal(virtq_blk_config_decode(&c, raw, 7, all), -EINVAL);

	assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), all), 0);
	assert_true(c.capacity_sectors == 0x0807060504030201);
	assert_int_equal(c.size_max_bytes, 0x0c0b0a09);
	assert_int_equal(c.seg_max, 0x100f0e0d);
	assert_int_equal(c.blk_size_bytes, 0x18171615);
	assert_int_equal(c.physical_block_exp, 0x19);
	assert_int_equal(c.alignment_offset_blocks, 0x1a);
	assert_int_equal(c.min_io_size_blocks, 0x1c1b);
	assert_int_equal(c.opt_io_size_blocks, 0x201f1e1d);
	assert_int_equal(c.writeback, 0x21);
	assert_int_equal(c.num_queues, 0x2423);
	assert_int_equal(c.max_discard_sectors, 0x28272625);
	assert_int_equal(c.max_discard_seg, 0x2c2b2a29);
	assert_int_equal(c.max_write_zeroes_sectors, 0x34333231);
	assert_int_equal(c.max_write_zeroes_seg, 0x38373635);

	assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), none), 0);
	assert_true(c.capacity_sectors == 0x0807060504030201);
	assert_int_equal(c.seg_max, 0);
	assert_int_equal(c.blk_size_bytes, 0);
	assert_int_equal(c.writeback, 0);
	assert_int_equal(c.num_queues, 1);

	/* A device whose space ends early. */
	assert_int_equal(virtq_blk_config_decode(&c, raw, 16, all), 0);
	assert_int_equal(c.seg_max, 0x100f0e0d);
	assert_int_equal(c.blk_size_bytes, 0);
}

static void header_is_little_endian(void **state)
{
	static const uint8_t expect[16] = { 8, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1 };
	struct virtq_blk_req_hdr hdr;

	(void)state;
	memset(&hdr, 0xff, sizeof(hdr));
	virtq_blk_header(&hdr, VIRTIO_BLK_T_GET_ID, 0x0102030405060708);
	assert_memory_equal(&hdr, expect, sizeof(expect));
}

/* ---- O_DIRECT -------------------------------------------------------------- */

/* Which way a request of that shape goes: true for past the page cache. */
static bool goes_direct(struct pair *p, struct virtq_model *model, uint32_t type,
			uint64_t sector, size_t memory_at, size_t bytes)
{
	struct virtq_blk_req_hdr hdr;
	struct chain c = { .readable = 0 };
	struct virtq_completion done;
	struct virtq_req *req;
	struct virtq_op op;
	int flags;

	virtq_blk_header(&hdr, type, sector);
	memcpy(p->data, &hdr, sizeof(hdr));
	chain_readable(&c, 0, sizeof(hdr));
	if (type == VIRTIO_BLK_T_OUT)
		chain_readable(&c, memory_at, bytes);
	else
		chain_writable(&c, memory_at, bytes);
	chain_writable(&c, 2048, 1);
	chain_add(p, &c, p);
	virtq_driver_publish(p->driver);
	assert_int_equal(virtq_device_pop(p->device, &req, 1), 1);
	assert_int_equal(model->ops->start(model, req, &op), VIRTQ_SUBMIT);
	flags = fcntl(op.fd, F_GETFL);
	assert_true(flags >= 0);
	assert_int_equal(flags & O_NONBLOCK, 0);
	virtq_device_push(p->device, &req, 1);
	virtq_device_publish(p->device);
	assert_int_equal(virtq_driver_get(p->driver, &done, 1), 1);
	return flags & O_DIRECT;
}

static void direct_only_what_the_file_can_take(void **state)
{
	char *path = file_make(1 << 20);
	struct virtq_error err = { 0 };
	struct virtq_model *model;
	struct pair p;
	int rc;

	(void)state;
	rc = virtq_blk_create(&model, &(struct virtq_blk_options){ .path = path, .direct = true },
			      &err);
	if (rc == -EINVAL) {
		print_message("skipped: %s\n", err.text);
		assert_non_null(strstr(err.text, "O_DIRECT"));
		file_drop(path);
		skip();
	}
	assert_int_equal(rc, 0);
	pair_open(&p, &(struct pair_shape){ .size = 16 }, model, 1 << 20);
	assert_true(goes_direct(&p, model, VIRTIO_BLK_T_IN, 8, 4096, 8192));
	assert_true(goes_direct(&p, model, VIRTIO_BLK_T_OUT, 8, 4096, 8192));
	/* Memory at an odd address; half a page to be written. */
	assert_false(goes_direct(&p, model, VIRTIO_BLK_T_IN, 8, 4097, 8192));
	assert_false(goes_direct(&p, model, VIRTIO_BLK_T_OUT, 8, 4097, 8192));
	assert_false(goes_direct(&p, model, VIRTIO_BLK_T_OUT, 8, 4096, 512));
	assert_false(goes_direct(&p, model, VIRTIO_BLK_T_OUT, 9, 4096, 4096));
	pair_close(&p);
	virtq_model_destroy(model);

	/* Without it nothing does. */
	model = disk_make(&(struct virtq_blk_options){ .path = path });
	pair_open(&p, &(struct pair_shape){ .size = 16 }, model, 1 << 20);
	assert_false(goes_direct(&p, model, VIRTIO_BLK_T_IN, 8, 4096, 8192));
	pair_close(&p);
	virtq_model_destroy(model);
	file_drop(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_that_are_no_disk),
		cmocka_unit_test(options_out_of_range),
		cmocka_unit_test(files_that_are_no_disk),
		cmocka_unit_test(one_writer_or_many_readers),
		cmocka_unit_test(locks_are_those_of_qemu),
		cmocka_unit_test(config_says_what_is_offered),
		cmocka_unit_test(config_decodes_only_offered_fields),
		cmocka_unit_test(header_is_little_endian),
		cmocka_unit_test(direct_only_what_the_file_can_take),
	};

	return cmocka_run_group_tests_name("blk file", tests, NULL, NULL) ? 1 : 0;
}
