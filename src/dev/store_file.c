/* SPDX-License-Identifier: MIT */
/* A file or block device as a store: opened, locked, measured. */
#include "dev/store_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

/* Longest ranges at once: what takes long keeps the queue's other requests waiting. */
#define DISCARD_MAX ((uint64_t)1 << 30)
#define ZERO_MAX ((uint64_t)64 << 20)
#define ERASE_MAX ((uint64_t)1 << 30)

/* ---- Locks --------------------------------------------------------------- */

/*
 * Open file description locks, not flock(): they are what QEMU and its tools
 * use, so each notices the other, and they belong to the opened file, so a
 * second disk in this very process is refused as well.
 *
 * QEMU gives a meaning to single bytes. A read lock on byte 100 + p says "I use
 * permission p", one on byte 200 + p says "I do not share p with anybody".
 * Permission 0 is to read, 1 to write, 3 to resize.
 *
 * A writer takes all of the file for itself. A reader says what QEMU's readers
 * say, and looks whether anybody writes, or does not share.
 */
#define LOCK_USES(permission) (100 + (permission))
#define LOCK_KEEPS(permission) (200 + (permission))
enum { PERMIT_READ = 0, PERMIT_WRITE = 1, PERMIT_RESIZE = 3 };

static int lock_range(int fd, int command, short type, off_t start, off_t len)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len,
	};

	if (fcntl(fd, command, &lock))
		return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
	return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? -EBUSY : 0;
}

static int lock_for_reading(int fd)
{
	static const int taken[] = {
		LOCK_USES(PERMIT_READ), LOCK_KEEPS(PERMIT_WRITE), LOCK_KEEPS(PERMIT_RESIZE),
	};
	static const int free_of_others[] = {
		LOCK_KEEPS(PERMIT_READ), LOCK_USES(PERMIT_WRITE), LOCK_USES(PERMIT_RESIZE),
	};
	int rc = 0;

	/* First taken, then looked: of two that come at once at least one sees the other. */
	for (size_t i = 0; !rc && i < sizeof(taken) / sizeof(taken[0]); i++)
		rc = lock_range(fd, F_OFD_SETLK, F_RDLCK, taken[i], 1);
	for (size_t i = 0; !rc && i < sizeof(free_of_others) / sizeof(free_of_others[0]); i++)
		rc = lock_range(fd, F_OFD_GETLK, F_WRLCK, free_of_others[i], 1);
	return rc;
}

/* Does this file of ours, by the name of its number in @fds, hold a lock? */
static bool holds_lock(DIR *fds, const char *name)
{
	char text[512];
	int fd = openat(dirfd(fds), name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, "\nlock:");
}

/* Is it this program, with another disk, that holds the lock in our way? */
static bool is_locked_by_us(int fd)
{
	DIR *fds = opendir("/proc/self/fdinfo");
	const struct dirent *entry;
	struct stat st, other;
	bool ours = false;

	if (!fds)
		return false;	/* nobody who could tell */
	while (!ours && fstat(fd, &st) == 0 && (entry = readdir(fds))) {
		int number = atoi(entry->d_name);

		ours = entry->d_name[0] != '.' && number != fd && fstat(number, &other) == 0 &&
		       other.st_dev == st.st_dev && other.st_ino == st.st_ino &&
		       holds_lock(fds, entry->d_name);
	}
	closedir(fds);
	return ours;
}

static int lock_file(const struct file_store *f, const char *path, bool read_only,
		     struct virtq_error *err)
{
	int rc = read_only ? lock_for_reading(f->fd) :
			     lock_range(f->fd, F_OFD_SETLK, F_WRLCK, 0, 0);

	if (rc == -EBUSY && is_locked_by_us(f->fd))
		return error_set(err, rc,
				 "%s is in use by this program itself: only disks that write nothing can share it",
				 path);
	if (rc == -EBUSY)
		return error_set(err, rc, "%s is in use by somebody else, who %s", path,
				 read_only ? "writes to it" : "holds a lock on it");
	if (rc)
		return error_set_errno(err, rc, "cannot lock %s", path);
	return 0;
}

/* ---- Size and alignment -------------------------------------------------- */

/* What the kernel says of the queue of a block device; 0 if nothing. */
static uint32_t queue_limit(dev_t device, const char *name)
{
	/* A partition has no queue, but its disk, which is the folder above. */
	static const char *const forms[] = {
		"/sys/dev/block/%u:%u/queue/%s", "/sys/dev/block/%u:%u/../queue/%s",
	};
	unsigned long long value = 0;

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		char path[128], text[32] = "";
		int fd;

		snprintf(path, sizeof(path), forms[i], major(device), minor(device), name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, text, sizeof(text) - 1) > 0)
			value = strtoull(text, NULL, 10);
		close(fd);
		break;
	}
	return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int measure_device(struct file_store *f, dev_t device)
{
	struct virtq_store_info *info = &f->store.info;
	unsigned int physical = 0, min_io = 0, opt_io = 0;
	int logical = 0, alignment = 0;

	if (ioctl(f->fd, BLKGETSIZE64, &info->bytes) || ioctl(f->fd, BLKSSZGET, &logical))
		return -errno;
	if (ioctl(f->fd, BLKPBSZGET, &physical) == 0)
		info->physical = physical;
	if (ioctl(f->fd, BLKIOMIN, &min_io) == 0)
		info->min_io = min_io;
	if (ioctl(f->fd, BLKIOOPT, &opt_io) == 0)
		info->opt_io = opt_io;
	if (ioctl(f->fd, BLKALIGNOFF, &alignment) == 0 && alignment > 0)
		info->alignment = (uint32_t)alignment;
	f->is_device = true;
	f->hole_align = (uint32_t)logical;
	f->direct_offset_align = (uint32_t)logical;
	f->direct_mem_align = (uint32_t)logical;

	/*
	 * A hole in a block device is made by its command to write zeroes, which
	 * gives the space back where the device can; the kernel writes zeroes
	 * itself where there is no such command.
	 */
	f->no_punch = !queue_limit(device, "write_zeroes_max_bytes");
	if (!f->no_punch) {
		info->discard_max = DISCARD_MAX;
		info->discard_align = queue_limit(device, "discard_granularity");
	}
	info->zero_max = ZERO_MAX;
	info->zero_unmaps = !f->no_punch;
	if (!info->read_only && file_can_erase(f->fd)) {
		info->erase_max = ERASE_MAX;
		info->erase_align = queue_limit(device, "discard_granularity");
	}
	return 0;
}

static bool is_memory(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* It has no way not to wait (FUSE, NFS), and may for ever: that is no memory's. */
static bool always_waits(int fd)
{
	char byte;
	struct iovec iov = { &byte, 1 };

	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP && !is_memory(fd);
}

static void measure_regular(struct file_store *f, const struct stat *st)
{
	struct virtq_store_info *info = &f->store.info;

	info->bytes = (uint64_t)st->st_size;
	/* What the file system works in: writes of less make it read first. */
	if (st->st_blksize > 0 && st->st_blksize <= 65536) {
		info->physical = (uint32_t)st->st_blksize;
		info->min_io = info->physical;
		info->discard_align = info->physical;
	}
	f->hole_align = 1;
	f->direct_offset_align = 4096;
	f->direct_mem_align = 4096;
	/*
	 * Offered without being tried, as to try is to change the file. One that
	 * cannot make holes or zeroes says so when it is asked to.
	 */
	info->discard_max = DISCARD_MAX;
	info->zero_max = ZERO_MAX;
	info->zero_unmaps = true;
}

static int measure(struct file_store *f, const char *path, struct virtq_error *err)
{
	struct stat st;
	int rc = 0;

	if (fstat(f->fd, &st))
		return error_set_errno(err, -errno, "cannot examine %s", path);
	if (S_ISREG(st.st_mode))
		measure_regular(f, &st);
	else if (S_ISBLK(st.st_mode))
		rc = measure_device(f, st.st_rdev);
	else
		return error_set(err, -EINVAL,
				 "%s is neither a regular file nor a block device", path);
	if (rc)
		return error_set_errno(err, rc, "cannot measure the block device %s", path);
	if (!f->store.info.bytes || f->store.info.bytes % STORE_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "%s has %llu bytes: a disk needs a multiple of %u, and not 0",
				 path, (unsigned long long)f->store.info.bytes,
				 STORE_SECTOR_BYTES);
	return 0;
}

/* Tell only what a disk can compute with. */
static void settle(struct virtq_store_info *info)
{
	uint32_t block = info->block;

	if (!is_power_of_2(info->physical) || info->physical < block ||
	    info->alignment % block) {
		info->physical = 0;
		info->alignment = 0;
	}
	if (info->min_io % block)
		info->min_io = 0;
	if (info->opt_io % block)
		info->opt_io = 0;
	if (info->discard_align % STORE_SECTOR_BYTES)
		info->discard_align = 0;
	if (info->erase_align % STORE_SECTOR_BYTES)
		info->erase_align = 0;
}

/* ---- O_DIRECT ------------------------------------------------------------ */

static int direct_alignment(struct file_store *f, const char *path, struct virtq_error *err)
{
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(f->direct_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
	    sx.stx_mask & STATX_DIOALIGN) {
		f->direct_mem_align = sx.stx_dio_mem_align;
		f->direct_offset_align = sx.stx_dio_offset_align;
	}
#endif
	if (!is_power_of_2(f->direct_mem_align) || !is_power_of_2(f->direct_offset_align))
		return error_set(err, -EINVAL, "the file system of %s does not do O_DIRECT", path);
	return 0;
}

static bool is_same_file(int fd, int other)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstat(other, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int open_direct(struct file_store *f, const char *path, bool read_only,
		       struct virtq_error *err)
{
	uint8_t *bounce;
	int rc;

	f->direct_fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (f->direct_fd < 0 && errno == EINVAL)
		return error_set(err, -EINVAL, "the file system of %s does not do O_DIRECT", path);
	if (f->direct_fd < 0)
		return error_set_errno(err, -errno, "cannot open %s with O_DIRECT", path);
	if (!is_same_file(f->fd, f->direct_fd))
		return error_set(err, -EBUSY, "%s was replaced while it was being opened", path);
	rc = direct_alignment(f, path, err);
	if (rc)
		return rc;
	/*
	 * Larger blocks than 512 bytes: the driver must use them, or its smaller
	 * requests would go through the page cache; see range_goes_direct(). They are
	 * its sectors then, of which a disk has no half.
	 */
	if (f->direct_offset_align > STORE_SECTOR_BYTES)
		f->store.info.block = f->direct_offset_align;
	if (f->store.info.bytes % f->store.info.block)
		return error_set(err, -EINVAL,
				 "%s has %llu bytes: O_DIRECT takes only multiples of %u there",
				 path, (unsigned long long)f->store.info.bytes,
				 f->store.info.block);

	/*
	 * A file system zeroes less than a block of its own in the page cache, where
	 * it would be apart from what is written directly; see range_goes_direct().
	 */
	if (!f->is_device)
		f->hole_align = is_power_of_2(f->store.info.physical) &&
				f->store.info.physical > f->page_bytes ?
				f->store.info.physical : f->page_bytes;

	if (f->direct_mem_align > f->page_bytes || f->direct_offset_align > BOUNCE_BYTES)
		return error_set(err, -EINVAL,
				 "O_DIRECT of %s wants memory aligned to %u and ranges to %u bytes",
				 path, f->direct_mem_align, f->direct_offset_align);
	bounce = mmap(NULL, (size_t)BOUNCE_BYTES * BOUNCE_COUNT, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bounce == MAP_FAILED)
		return error_set(err, -ENOMEM, "no memory for the buffers of %s", path);
	f->bounce = bounce;
	return 0;
}

/* ---- Open and close ------------------------------------------------------ */

static int64_t file_refresh(struct virtq_store *store)
{
	struct file_store *f = container_of(store, struct file_store, store);
	uint64_t bytes = 0;
	struct stat st;

	if (f->is_device) {
		if (ioctl(f->fd, BLKGETSIZE64, &bytes))
			return -errno;
	} else {
		if (fstat(f->fd, &st))
			return -errno;
		bytes = (uint64_t)st.st_size;
	}
	/* What a disk could be, but not this one, which promised whole blocks to its driver. */
	if (bytes % STORE_SECTOR_BYTES == 0 && bytes % store->info.block)
		return -EINVAL;
	if (bytes && bytes % STORE_SECTOR_BYTES == 0)
		shm_word_write(&store->info.bytes, bytes);
	return (int64_t)bytes;
}

static void file_close(struct virtq_store *store)
{
	struct file_store *f = container_of(store, struct file_store, store);

	if (f->bounce)
		munmap(f->bounce, (size_t)BOUNCE_BYTES * BOUNCE_COUNT);
	if (f->direct_fd >= 0)
		close(f->direct_fd);
	if (f->spare_fd >= 0)
		close(f->spare_fd);
	if (f->fd >= 0)
		close(f->fd);
	pthread_mutex_destroy(&f->bounce_lock);
	sync_gate_close(&f->gate);
	eraser_close(&f->eraser);
	free(f);
}

static const struct virtq_store_ops file_ops = {
	.name = "file",
	.start = file_start,
	.finish = file_finish,
	.cancel = file_cancel,
	.refresh = file_refresh,
	.close = file_close,
};

/* To sync by when the result of a sync is lost: what has never been synced, if it can be had. */
static void open_spare(struct file_store *f, const char *path, bool read_only)
{
	if (f->direct_fd < 0) {
		f->spare_fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
		if (f->spare_fd >= 0 && !is_same_file(f->fd, f->spare_fd)) {
			close(f->spare_fd);
			f->spare_fd = -1;
		}
	}
	sync_gate_use(&f->gate, f->fd, f->direct_fd < 0 ? f->spare_fd : f->direct_fd);
}

/* Some can be opened for writing all the same; then each write fails. */
static bool is_write_protected(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), protected = 0;

	if (fd < 0)
		return false;
	if (ioctl(fd, BLKROGET, &protected))
		protected = 0;
	close(fd);
	return protected;
}

static int open_file(struct file_store *f, const char *path,
		     const struct virtq_store_options *options, struct virtq_error *err)
{
	bool read_only = options->read_only;
	int flags = O_CLOEXEC, rc;
	struct stat st;

	if (!read_only && stat(path, &st) == 0 && S_ISBLK(st.st_mode)) {
		read_only = is_write_protected(path);
		/* The kernel refuses one that is mounted. */
		if (!read_only)
			flags |= O_EXCL;
	}
	f->store.info.read_only = read_only;
	flags |= read_only ? O_RDONLY : O_RDWR;
	/* Not to wait for the other end if it is a pipe; measure() refuses it. */
	f->fd = open(path, flags | O_NONBLOCK);
	if (f->fd < 0)
		return error_set_errno(err, -errno, "cannot open %s", path);
	fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK);

	rc = measure(f, path, err);
	if (!rc)
		rc = lock_file(f, path, read_only, err);
	if (!rc && options->direct)
		rc = open_direct(f, path, read_only, err);
	f->op_flags = VIRTQ_OP_FILE_STAYS | (always_waits(f->fd) ? VIRTQ_OP_FILE_WAITS : 0);
	if (!rc)
		open_spare(f, path, read_only);
	f->in_place = !options->no_in_place && !f->is_device && is_memory(f->fd);
	return rc;
}

int store_file_open(struct virtq_store **out, const char *path,
		    const struct virtq_store_options *options, struct virtq_error *err)
{
	struct file_store *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return error_set(err, -ENOMEM, "no memory for a store");
	f->store.ops = &file_ops;
	f->store.info.block = STORE_SECTOR_BYTES;
	f->fd = f->direct_fd = f->spare_fd = -1;
	f->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	pthread_mutex_init(&f->bounce_lock, NULL);
	sync_gate_open(&f->gate);
	eraser_open(&f->eraser);
	rc = open_file(f, path, options, err);
	if (rc) {
		file_close(&f->store);
		return rc;
	}
	settle(&f->store.info);
	*out = &f->store;
	return 0;
}
