/* SPDX-License-Identifier: MIT */
/*
 * What an emulator of user programs (qemu-user, tools/check-cross.sh) does not
 * do as a kernel would, for tests that depend on it. Include it after <cmocka.h>.
 */
#ifndef TESTS_EMULATED_H
#define TESTS_EMULATED_H

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static inline bool emulated(void)
{
	return getenv("VIRTQ_TEST_EMULATED");
}

static sigjmp_buf emulated_fault;
static uintptr_t emulated_fault_at;

static inline void emulated_on_fault(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	emulated_fault_at = (uintptr_t)info->si_addr;
	siglongjmp(emulated_fault, 1);
}

/*
 * qemu-user 7.2 hands a SIGBUS on as if a program had sent it: on big-endian
 * machines the halves of si_addr come swapped, and where it moves the guest's
 * addresses, si_addr is the host's. Nothing can tell then what memory was lost.
 * Machines that are none of an emulator's have to do it right.
 */
static inline void skip_unless_faults_tell_where(void)
{
	struct sigaction ours = { .sa_sigaction = emulated_on_fault, .sa_flags = SA_SIGINFO };
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct sigaction before;
	uint8_t *at;
	int fd;

	if (!emulated())
		return;
	fd = memfd_create("lost", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)page), 0);
	at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_int_equal(ftruncate(fd, 0), 0);
	sigaction(SIGBUS, &ours, &before);
	if (!sigsetjmp(emulated_fault, 1))
		*(volatile uint8_t *)at = 1;
	sigaction(SIGBUS, &before, NULL);
	munmap(at, page);
	close(fd);
	/* Some machines tell the page only. */
	if (emulated_fault_at / page != (uintptr_t)at / page) {
		print_message("skipped: the emulator's SIGBUS does not tell where it happened\n");
		skip();
	}
}

/*
 * qemu-user 7.2 hands on that the kernel told the alignment O_DIRECT needs, and
 * not what it told: 0, which means that there is no O_DIRECT.
 */
static inline void skip_unless_alignment_is_told(void)
{
#ifdef STATX_DIOALIGN
	struct statx sx = { .stx_mask = 0 };

	if (!emulated() || statx(AT_FDCWD, "/proc/self/exe", 0, STATX_DIOALIGN, &sx))
		return;
	if (sx.stx_mask & STATX_DIOALIGN && !sx.stx_dio_mem_align) {
		print_message("skipped: the emulator's statx() does not tell alignments\n");
		skip();
	}
#endif
}

#endif
