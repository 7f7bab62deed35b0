/* SPDX-License-Identifier: MIT */
/* The server of hangfs.h: as much of FUSE's protocol as a file of zeroes needs. */
#include "hangfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define FILE_NODE 2u
#define WRITE_MAX 65536u
#define HUNG_MAX 4096u
#define KEEP_SECONDS 3600u
#define FUSE_FD 3

/* ---- The server ------------------------------------------------------------- */

struct server {
	uint64_t bytes;
	struct hangfs_word *word;
	struct {
		uint64_t unique;
		uint32_t bytes;
	} hung[HUNG_MAX];
	int count;
};

static void answer(uint64_t unique, int error, const void *data, size_t bytes)
{
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + bytes), .error = -error,
					.unique = unique };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)data, bytes } };

	/* Whoever asked may have gone. */
	if (writev(FUSE_FD, iov, bytes ? 2 : 1) < 0 && errno != ENOENT)
		_exit(1);
}

static void answer_zeroes(uint64_t unique, uint32_t bytes)
{
	static const uint8_t zeroes[1 << 20];

	answer(unique, 0, zeroes, bytes < sizeof(zeroes) ? bytes : sizeof(zeroes));
}

static struct fuse_attr attributes(const struct server *s, uint64_t node)
{
	struct fuse_attr a = { .ino = node, .nlink = 1, .blksize = 4096, .mode = S_IFDIR | 0755 };

	if (node == FILE_NODE) {
		a.mode = S_IFREG | 0600;
		a.size = s->bytes;
	}
	return a;
}

/* @bytes zeroes, now or later. */
static void asked(struct server *s, uint64_t unique, uint32_t bytes)
{
	if (!__atomic_load_n(&s->word->hangs, __ATOMIC_SEQ_CST) || s->count == HUNG_MAX) {
		answer_zeroes(unique, bytes);
		return;
	}
	s->hung[s->count].unique = unique;
	s->hung[s->count++].bytes = bytes;
	__atomic_store_n(&s->word->hung, s->count, __ATOMIC_SEQ_CST);
}

static void serve(struct server *s, const struct fuse_in_header *in, const void *body)
{
	union {
		struct fuse_init_out init;
		struct fuse_entry_out entry;
		struct fuse_attr_out attr;
		struct fuse_open_out open;
		struct fuse_write_out write;
		struct fuse_statfs_out statfs;
	} out;

	memset(&out, 0, sizeof(out));
	switch (in->opcode) {
	case FUSE_INIT:
		out.init.major = FUSE_KERNEL_VERSION;
		out.init.minor = 31;
		out.init.max_readahead = 4096;
		out.init.max_write = WRITE_MAX;
		answer(in->unique, 0, &out.init, sizeof(out.init));
		return;
	case FUSE_LOOKUP:
		out.entry.nodeid = FILE_NODE;
		out.entry.entry_valid = out.entry.attr_valid = KEEP_SECONDS;
		out.entry.attr = attributes(s, FILE_NODE);
		answer(in->unique, 0, &out.entry, sizeof(out.entry));
		return;
	case FUSE_GETATTR:
		out.attr.attr_valid = KEEP_SECONDS;
		out.attr.attr = attributes(s, in->nodeid);
		answer(in->unique, 0, &out.attr, sizeof(out.attr));
		return;
	case FUSE_OPEN:
		if (((const struct fuse_open_in *)body)->flags & O_DIRECT)
			out.open.open_flags = FOPEN_DIRECT_IO;
		answer(in->unique, 0, &out.open, sizeof(out.open));
		return;
	case FUSE_READ:
		asked(s, in->unique, ((const struct fuse_read_in *)body)->size);
		return;
	case FUSE_FSYNC:
		asked(s, in->unique, 0);
		return;
	case FUSE_WRITE:
		out.write.size = ((const struct fuse_write_in *)body)->size;
		answer(in->unique, 0, &out.write, sizeof(out.write));
		return;
	case FUSE_STATFS:
		answer(in->unique, 0, &out.statfs, sizeof(out.statfs));
		return;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		answer(in->unique, 0, NULL, 0);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;		/* nobody waits */
	default:
		answer(in->unique, ENOSYS, NULL, 0);
	}
}

static void server_run(struct server *s)
{
	static union {
		struct fuse_in_header head;
		uint8_t bytes[sizeof(struct fuse_in_header) + 4096 + WRITE_MAX];
	} in;
	struct pollfd p = { .fd = FUSE_FD, .events = POLLIN };

	for (;;) {
		if (poll(&p, 1, 5) == 1) {
			ssize_t n = read(FUSE_FD, &in, sizeof(in));

			if (n >= (ssize_t)sizeof(in.head))
				serve(s, &in.head, in.bytes + sizeof(in.head));
			else if (n < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT)
				_exit(0);	/* unmounted */
		}
		if (__atomic_load_n(&s->word->hangs, __ATOMIC_SEQ_CST))
			continue;
		while (s->count) {
			s->count--;
			answer_zeroes(s->hung[s->count].unique, s->hung[s->count].bytes);
		}
		__atomic_store_n(&s->word->hung, 0, __ATOMIC_SEQ_CST);
	}
}

/* ---- What tests call --------------------------------------------------------- */

static void skip_it(struct hangfs *fs, const char *what)
{
	print_message("skipped: %s: %s\n", what, strerror(errno));
	if (fs->folder[0])
		rmdir(fs->folder);
	skip();
}

void hangfs_open(struct hangfs *fs, uint64_t bytes)
{
	static bool unshared;
	static struct server server;
	char options[80];
	int fd;

	memset(fs, 0, sizeof(*fs));
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		skip_it(fs, "no FUSE");
	if (!unshared && (unshare(CLONE_NEWNS) ||
			  mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))) {
		close(fd);
		skip_it(fs, "no place of its own to mount a FUSE file system");
	}
	unshared = true;
	strcpy(fs->folder, "./hangfs-XXXXXX");
	assert_non_null(mkdtemp(fs->folder));
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fd,
		 (unsigned int)getuid(), (unsigned int)getgid());
	if (mount("hangfs", fs->folder, "fuse", MS_NOSUID | MS_NODEV, options)) {
		close(fd);
		skip_it(fs, "cannot mount a FUSE file system");
	}
	fs->word = mmap(NULL, sizeof(*fs->word), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(fs->word, MAP_FAILED);
	server = (struct server){ .bytes = bytes, .word = fs->word };
	fs->server = fork();
	assert_true(fs->server >= 0);
	if (!fs->server) {
		/* When the test ends, however it does, all that waits here is let go. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (dup2(fd, FUSE_FD) != FUSE_FD || close_range(FUSE_FD + 1, ~0u, 0))
			_exit(1);
		server_run(&server);
	}
	/* Nobody but the server: when it ends, the kernel fails what waits for it. */
	close(fd);
}

void hangfs_close(struct hangfs *fs)
{
	umount2(fs->folder, MNT_DETACH);
	kill(fs->server, SIGKILL);
	assert_int_equal(waitpid(fs->server, NULL, 0), fs->server);
	assert_int_equal(rmdir(fs->folder), 0);
	munmap(fs->word, sizeof(*fs->word));
}

int hangfs_file(const struct hangfs *fs, int flags)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "%s/file", fs->folder);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		fail_msg("cannot open the file: %s", strerror(errno));
	return fd;
}

void hangfs_hang(struct hangfs *fs, bool hangs)
{
	__atomic_store_n(&fs->word->hangs, hangs, __ATOMIC_SEQ_CST);
}

int hangfs_hung(const struct hangfs *fs)
{
	return __atomic_load_n(&fs->word->hung, __ATOMIC_SEQ_CST);
}
