/* SPDX-License-Identifier: MIT */
/* A peer that takes away memory that it shared costs itself its queues, and nobody anything else. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include <virtq/mem.h>

#include "mem/guard.h"
#include "mem/map.h"

#include "../emulated.h"

#define PAGES 70000u
#define PAGE 4096u

static unsigned int mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned int lines = 0;
	int c;

	assert_non_null(maps);
	while ((c = fgetc(maps)) != EOF)
		lines += c == '\n';
	fclose(maps);
	return lines;
}

static struct virtq_mapping *open_file(uint64_t bytes, int *fd)
{
	struct virtq_mapping *m;

	*fd = memfd_create("peer", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)bytes), 0);
	assert_int_equal(virtq_mapping_open(&m, dup(*fd), 0, bytes, VIRTQ_ACCESS_RW, NULL), 0);
	return m;
}

/* Every second page touched, upwards and downwards: two pieces at most, not thousands. */
static void touch_all(int backwards)
{
	uint64_t epoch = guard_epoch();
	struct virtq_mapping *m;
	unsigned int before;
	volatile uint8_t *p;
	int fd;

	m = open_file((uint64_t)PAGES * PAGE, &fd);
	p = virtq_mapping_host(m);
	p[0] = 1;
	before = mappings();
	assert_int_equal(ftruncate(fd, PAGE), 0);
	for (uint32_t i = 2; i < PAGES; i += 2) {
		uint32_t page = backwards ? PAGES - i : i;

		assert_int_equal(p[(size_t)page * PAGE], 0);
		p[(size_t)page * PAGE + 1] = 7;
		assert_int_equal(p[(size_t)page * PAGE + 1], 7);
	}
	assert_in_range(mappings(), before, before + 2);
	assert_int_equal(p[0], 1);
	assert_true(guard_epoch() != epoch);
	virtq_mapping_unref(m);
	close(fd);
}

static void pieces_stay_few(void)
{
	touch_all(0);
	touch_all(1);
}

/* Who asks is told which map lost something, and which did not. */
static void the_right_map_is_lost(void)
{
	struct virtq_mapping *m[2];
	struct virtq_map *map[2];
	int fd[2];

	for (int i = 0; i < 2; i++) {
		struct virtq_region r = { .gpa = 0, .size_bytes = 4 * PAGE, .fd = -1,
					  .access = VIRTQ_ACCESS_RW };

		m[i] = open_file(4 * PAGE, &fd[i]);
		r.mapping = m[i];
		r.host = virtq_mapping_host(m[i]);
		assert_int_equal(virtq_map_create(&map[i], &r, 1, NULL), 0);
		assert_false(map_lost(map[i]));
	}
	assert_int_equal(ftruncate(fd[1], 0), 0);
	*(volatile uint8_t *)virtq_map_ptr(map[1], PAGE, 1, VIRTQ_ACCESS_WRITE) = 1;
	assert_false(map_lost(map[0]));
	assert_true(map_lost(map[1]));
	for (int i = 0; i < 2; i++) {
		virtq_map_unref(map[i]);
		virtq_mapping_unref(m[i]);
		close(fd[i]);
	}
}

/* In one test, since cmocka puts handlers of its own in place for each. */
static void test_lost_memory(void **state)
{
	(void)state;
	skip_unless_faults_tell_where();
	assert_int_equal(virtq_guard_install(NULL), 0);
	pieces_stay_few();
	the_right_map_is_lost();
}

/* Not every file descriptor is memory. */
static void test_odd_files_are_refused(void **state)
{
	static const char *const odd[] = { "/dev/zero", "/dev/null", "/tmp" };
	struct virtq_mapping *m;

	(void)state;
	for (unsigned int i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
		assert_true(virtq_mapping_open(&m, open(odd[i], O_RDONLY | O_CLOEXEC), 0, PAGE,
					       VIRTQ_ACCESS_READ, NULL) < 0);
}

/* What cannot be watched over is refused: its peer could end the process. */
static void test_no_memory_goes_unwatched(void **state)
{
	static int tokens[100000];
	struct virtq_error err = { 0 };
	struct virtq_mapping *m;
	int count = 0, fd;

	(void)state;
	fd = memfd_create("peer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	while (count < 100000 && (tokens[count] = guard_watch((void *)(uintptr_t)PAGE, PAGE,
							       PAGE)) >= 0)
		count++;
	/* Two pieces each have to fit into what the kernel grants. */
	assert_in_range(count, 20000, 65530 / 2);
	assert_int_equal(tokens[count], -ENOSPC);
	assert_int_equal(virtq_mapping_open(&m, dup(fd), 0, PAGE, VIRTQ_ACCESS_RW, &err),
			 -ENOSPC);
	assert_non_null(strstr(err.text, "watch over"));
	/* Sealed memory counts as well: it takes pieces, too. */
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(virtq_mapping_open(&m, dup(fd), 0, PAGE, VIRTQ_ACCESS_RW, NULL),
			 -ENOSPC);
	guard_forget(tokens[count / 2]);
	assert_int_equal(virtq_mapping_open(&m, dup(fd), 0, PAGE, VIRTQ_ACCESS_RW, NULL), 0);
	tokens[count / 2] = -1;
	virtq_mapping_unref(m);
	while (count)
		guard_forget(tokens[--count]);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_memory),
		cmocka_unit_test(test_odd_files_are_refused),
		cmocka_unit_test(test_no_memory_goes_unwatched),
	};

	return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
