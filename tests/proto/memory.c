/* SPDX-License-Identifier: MIT */
/* Memory tables: their sizes, their descriptors, and the lies they can tell. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../emulated.h"
#include "../hangfs.h"

#define FILE_BYTES 0x10000u

static int memory_file(void)
{
	int fd = memfd_create("proto", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
	return fd;
}

static struct VhostUserMemoryRegion region(unsigned int i)
{
	return (struct VhostUserMemoryRegion){ (uint64_t)i * FILE_BYTES, FILE_BYTES,
					       0x7f0000000000 + (uint64_t)i * FILE_BYTES, 0 };
}

static uint64_t set_table(int fd, const struct VhostUserMemoryRegion *regions, unsigned int count,
			  int memory)
{
	struct VhostUserMemory table = { .nregions = count };
	int fds[8];

	for (unsigned int i = 0; i < count; i++) {
		table.regions[i] = regions[i];
		fds[i] = memory;
	}
	return client_ask_fds(fd, VHOST_USER_SET_MEM_TABLE, &table, 8 + 32 * (size_t)count, fds,
			      count);
}

static uint64_t change_slot(int fd, uint32_t request, struct VhostUserMemoryRegion r, int memory)
{
	struct VhostUserMemRegMsg msg = { .region = r };

	return client_ask_fds(fd, request, &msg, 40, &memory, memory >= 0 ? 1 : 0);
}

/* VU-BE-028, VU-BE-030: 0 to 8 regions in 8 + 32 n bytes, each table in place of the last. */
static void test_tables_of_every_size(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemoryRegion regions[8];
	int fd = client_connect(r), memory = memory_file();
	unsigned int before;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int i = 0; i < 8; i++)
		regions[i] = region(i);
	before = open_fds();
	for (unsigned int n = 0; n <= 8; n++) {
		assert_int_equal(set_table(fd, regions, n, memory), 0);
		assert_int_equal(open_fds(), before + n);
	}
	/* The same again: regions that stay keep their mapping, and the new fds are closed. */
	assert_int_equal(set_table(fd, regions, 8, memory), 0);
	assert_int_equal(open_fds(), before + 8);
	assert_int_equal(set_table(fd, regions, 0, memory), 0);
	assert_int_equal(open_fds(), before);
	close(memory);
	close(fd);
}

/* VU-BE-031, VU-BE-032: each of these is refused, and the old table stays. */
static void test_hostile_tables(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemoryRegion good[2] = { region(0), region(1) };
	struct VhostUserMemoryRegion cases[][2] = {
		/* guest address, size, user address, offset in the file */
		{ region(1), { 0, 0, 0x1000, 0 } },			/* empty */
		{ region(1), { 0, FILE_BYTES + 1, 0x1000, 0 } },	/* longer than its file */
		{ region(1), { 0, FILE_BYTES, 0x1000, 1 } },		/* shifted past its end */
		{ region(1), { 0, 0x1000, 0x1000, FILE_BYTES } },	/* wholly past its end */
		{ region(1), { 0, UINT64_MAX, 0x1000, 0 } },
		{ region(1), { 0, 0x1000, 0x1000, UINT64_MAX } },	/* offset + size wraps */
		{ region(1), { 0, 0x1000, 0x1000, UINT64_MAX - 0xfff } },
		{ region(1), { UINT64_MAX - 0xffe, 0x1000, 0x1000, 0 } },	/* wraps */
		{ region(1), { 0, 0x1000, UINT64_MAX - 0xffe, 0 } },		/* wraps */
		{ region(1), region(1) },
		{ region(1), { FILE_BYTES * 2 - 1, 1, 0x1000, 0 } },	/* last byte of the first */
		{ region(1), { 0x1000, FILE_BYTES, 0x1000, 0 } },	/* reaches into the first */
		{ region(1), { 0, 0x1000, 0x7f0000000000 + FILE_BYTES * 2 - 1, 0 } },
		{ region(1), { 0, FILE_BYTES, 0x7f0000000000 + 1, 0 } },
	};
	int fd = client_connect(r), memory = memory_file();
	unsigned int before;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(set_table(fd, good, 2, memory), 0);
	before = open_fds();
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct VhostUserMemoryRegion swapped[2] = { cases[i][1], cases[i][0] };

		if (set_table(fd, cases[i], 2, memory) != 1 ||
		    set_table(fd, swapped, 2, memory) != 1)
			fail_msg("case %u was taken", i);
		assert_int_equal(open_fds(), before);
	}
	/* The first is still there: to add it again is an overlap, to remove it is not. */
	assert_int_equal(change_slot(fd, VHOST_USER_ADD_MEM_REG, good[0], memory), 1);
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, good[0], -1), 0);
	close(memory);
	close(fd);
}

/* Descriptors behind which there is no memory that could be mapped. */
static void test_what_is_no_memory(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemoryRegion good = region(0);
	int pipes[2], fd = client_connect(r), read_only, sealed = memory_file();
	char path[64];

	assert_int_equal(pipe(pipes), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", sealed);
	read_only = open(path, O_RDONLY);
	client_negotiate(fd, ALL_PROTOCOL, 0);
	assert_int_equal(set_table(fd, &good, 1, pipes[0]), 1);
	assert_int_equal(set_table(fd, &good, 1, read_only), 1);
	assert_int_equal(set_table(fd, &good, 1, fd), 1);
	client_alive(fd);
	close(read_only);
	close(sealed);
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
}

/*
 * Pages that only a server can bring: whoever touched one would wait for it, and that
 * is the engine's thread. It is refused, and what was there before goes on.
 */
static void test_memory_that_nobody_serves(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemoryRegion all = region(1);
	struct hangfs fs;
	struct queue q;
	int fd, memory;

	hangfs_open(&fs, FILE_BYTES);
	memory = hangfs_file(&fs, O_RDWR);
	hangfs_hang(&fs, true);
	fd = queue_join(r, &q, 0, layouts[0] | BIT_30, 64);
	queue_run(&q);
	queue_echo(&q);
	assert_int_equal(set_table(fd, &all, 1, memory), 1);
	assert_int_equal(change_slot(fd, VHOST_USER_ADD_MEM_REG, all, memory), 1);
	queue_echo(&q);
	client_alive(fd);
	assert_int_equal(hangfs_hung(&fs), 0);
	queue_leave(r, &q);
	close(memory);
	hangfs_close(&fs);
}

/* What memory of guests is kept in: tmpfs, and the folder of the tests where it is on such a disk. */
static void test_memory_in_files(void **state)
{
	static const char *const folders[] = { "/dev/shm", "." };
	struct VhostUserMemoryRegion all = region(1);
	struct rig *r = *state;
	unsigned int taken = 0;
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int i = 0; i < 2; i++) {
		char path[64];
		struct statfs at;
		int memory;

		snprintf(path, sizeof(path), "%s/memory-XXXXXX", folders[i]);
		if (statfs(folders[i], &at) || (at.f_type != TMPFS_MAGIC &&
		    at.f_type != EXT4_SUPER_MAGIC && at.f_type != XFS_SUPER_MAGIC &&
		    at.f_type != BTRFS_SUPER_MAGIC))
			continue;
		memory = mkstemp(path);
		if (memory < 0)
			continue;
		unlink(path);
		assert_int_equal(ftruncate(memory, FILE_BYTES), 0);
		assert_int_equal(set_table(fd, &all, 1, memory), 0);
		assert_int_equal(set_table(fd, &all, 0, memory), 0);
		close(memory);
		taken++;
	}
	if (!taken) {
		print_message("skipped: neither /dev/shm nor this folder is on such a file system\n");
		skip();
	}
	close(fd);
}

/* VU-BE-029: region count, length and descriptors contradict each other. */
static void test_counts_that_disagree_close(void **state)
{
	struct rig *r = *state;
	static const struct { uint32_t nregions; size_t bytes; unsigned int fds; } cases[] = {
		{ 2, 8 + 32 * 2, 1 }, { 1, 8 + 32, 2 }, { 1, 8 + 32, 0 }, { 1, 8 + 64, 2 },
		{ 2, 8 + 32, 2 }, { 1, 8 + 63, 1 }, { 1, 8 + 32 * 9, 1 }, { 9, 8 + 32 * 8, 8 }, { 9, 8 + 32 * 9, 8 },
		{ UINT32_MAX, 8 + 32 * 8, 8 }, { 0x08000000, 8, 0 }, { 1, 8 + 31, 1 },
		{ 1, 4, 0 }, { 0, 0, 0 }, { 0, 8, 1 },
	};
	int memory = memory_file();
	unsigned int before = open_fds();

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t payload[8 + 32 * 9] = { 0 };
		int fds[8], fd = client_connect(r);

		memcpy(payload, &cases[i].nregions, 4);
		for (unsigned int k = 0; k < 8; k++) {
			struct VhostUserMemoryRegion one = region(k);

			fds[k] = memory;
			memcpy(payload + 8 + 32 * (size_t)k, &one, 32);
		}
		client_negotiate(fd, ALL_PROTOCOL, 0);
		client_send_fds(fd, VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, payload,
				cases[i].bytes, fds, cases[i].fds);
		client_closed(fd);
		rig_await(r, VIRTQ_VU_REFUSED, i + 1, NULL);
		close(fd);
	}
	while (open_fds() > before)
		usleep(1000);
	assert_int_equal(open_fds(), before);
	close(memory);
}

/* VU-BE-028: room behind the regions is none of them; Linux as a front end (UML) always sends two. */
static void test_room_behind_a_table(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), memory = memory_file();

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (uint32_t room = 1; room <= 8; room++) {
		struct VhostUserMemory table = { .nregions = 1, .regions = { region(0) } };

		/* Were it looked at it would be refused: it overlaps. */
		for (uint32_t i = 1; i < room; i++)
			table.regions[i] = region(0);
		assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_MEM_TABLE, &table,
						8 + 32 * (size_t)room, &memory, 1), 0);
	}
	client_alive(fd);
	close(memory);
	close(fd);
}

/* VU-BE-035, VU-BE-036, VU-BE-038: one by one, up to the number of slots. */
static void test_slots(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r), memory = memory_file(), stray;
	struct VhostUserMemoryRegion changed;
	unsigned int before, slots;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	slots = (unsigned int)client_get_u64(fd, VHOST_USER_GET_MAX_MEM_SLOTS);
	before = open_fds();
	for (unsigned int i = 0; i < slots; i++)
		assert_int_equal(change_slot(fd, VHOST_USER_ADD_MEM_REG, region(i), memory), 0);
	assert_int_equal(change_slot(fd, VHOST_USER_ADD_MEM_REG, region(slots), memory), 1);
	assert_int_equal(open_fds(), before + slots);

	/* Known by both addresses and the size; not by the offset (VU-BE-036). */
	changed = region(3);
	changed.guest_phys_addr++;
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, changed, -1), 1);
	changed = region(3);
	changed.userspace_addr++;
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, changed, -1), 1);
	changed = region(3);
	changed.memory_size--;
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, changed, -1), 1);
	changed = region(3);
	changed.mmap_offset = 12345;
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, changed, -1), 0);
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, region(3), -1), 1);
	assert_int_equal(open_fds(), before + slots - 1);
	/* A descriptor that should not be there is closed without complaint. */
	stray = memory_file();
	assert_int_equal(change_slot(fd, VHOST_USER_REM_MEM_REG, region(0), stray), 0);
	close(stray);
	assert_int_equal(open_fds(), before + slots - 2);
	assert_int_equal(change_slot(fd, VHOST_USER_ADD_MEM_REG, region(3), memory), 0);
	/* A table in one piece takes the place of all of them. */
	changed = region(0);
	assert_int_equal(set_table(fd, &changed, 1, memory), 0);
	assert_int_equal(open_fds(), before + 1);
	close(memory);
	close(fd);
}

/*
 * VU-BE-031: a file that is cut short after it was mapped spoils its owner's
 * ring, and neither the server nor the next client.
 */
static void test_file_that_is_cut_short_later(void **state)
{
	struct rig *r = *state;
	struct VhostUserMemoryRegion all = region(1);
	struct VhostUserVringAddr addr = {
		.descriptor = all.userspace_addr,
		.available = all.userspace_addr + 0x1000,
		.used = all.userspace_addr + 0x2000,
	};
	int fd, memory, kick;
	uint64_t index = 0;

	skip_unless_faults_tell_where();
	fd = client_connect(r);
	memory = memory_file();
	kick = virtq_notify_open();
	assert_int_equal(virtq_guard_install(NULL), 0);
	client_negotiate(fd, ALL_PROTOCOL, layouts[0] | BIT_30);
	assert_int_equal(set_table(fd, &all, 1, memory), 0);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(client_ask(fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_KICK, &index, 8, &kick, 1), 0);
	assert_int_equal(ftruncate(memory, 0), 0);
	virtq_notify_send(kick);
	/* The engine looks at the ring before it answers this. */
	client_get_base(fd, 0);
	client_alive(fd);
	/* And a table over what is left of the file is refused. */
	assert_int_equal(set_table(fd, &all, 1, memory), 0);	/* as mapped before */
	all.mmap_offset = 0x1000;
	assert_int_equal(set_table(fd, &all, 1, memory), 1);
	close(fd);
	fd = client_connect(r);
	client_alive(fd);
	close(fd);
	close(kick);
	close(memory);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_tables_of_every_size),
		CASE(test_hostile_tables),
		CASE(test_what_is_no_memory),
		CASE(test_memory_that_nobody_serves),
		CASE(test_memory_in_files),
		CASE(test_counts_that_disagree_close),
		CASE(test_room_behind_a_table),
		CASE(test_slots),
		CASE(test_file_that_is_cut_short_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
