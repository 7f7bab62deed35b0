/* SPDX-License-Identifier: MIT */
/* The file behind a disk: opened, locked, measured. */
#include "dev/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"

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

static int lock_file(const struct blk_file *file, const struct virtq_blk_options *options,
		     struct virtq_error *err)
{
	int rc = options->read_only ? lock_for_reading(file->fd) :
				      lock_range(file->fd, F_OFD_SETLK, F_WRLCK, 0, 0);

	if (rc == -EBUSY)
		return error_set(err, rc, "%s is in use by somebody else, who %s", options->path,
				 options->read_only ? "writes to it" : "holds a lock on it");
	if (rc)
		return error_set_errno(err, rc, "cannot lock %s", options->path);
	return 0;
}

/* ---- Size and alignment -------------------------------------------------- */

static int measure_device(struct blk_file *file)
{
	unsigned int physical = 0, min_io = 0, opt_io = 0;
	int logical = 0, alignment = 0;

	if (ioctl(file->fd, BLKGETSIZE64, &file->size_bytes) ||
	    ioctl(file->fd, BLKSSZGET, &logical))
		return -errno;
	if (ioctl(file->fd, BLKPBSZGET, &physical) == 0)
		file->physical_bytes = physical;
	if (ioctl(file->fd, BLKIOMIN, &min_io) == 0)
		file->min_io_bytes = min_io;
	if (ioctl(file->fd, BLKIOOPT, &opt_io) == 0)
		file->opt_io_bytes = opt_io;
	if (ioctl(file->fd, BLKALIGNOFF, &alignment) == 0 && alignment > 0)
		file->alignment_bytes = (uint32_t)alignment;
	file->direct_offset_align = (uint32_t)logical;
	file->direct_mem_align = (uint32_t)logical;
	return 0;
}

static void measure_regular(struct blk_file *file, const struct stat *st)
{
	file->size_bytes = (uint64_t)st->st_size;
	/* What the file system works in: writes of less make it read first. */
	if (st->st_blksize > 0 && st->st_blksize <= 65536) {
		file->physical_bytes = (uint32_t)st->st_blksize;
		file->min_io_bytes = file->physical_bytes;
	}
	file->direct_offset_align = 4096;
	file->direct_mem_align = 4096;
}

static int measure(struct blk_file *file, const char *path, struct virtq_error *err)
{
	struct stat st;
	int rc = 0;

	if (fstat(file->fd, &st))
		return error_set_errno(err, -errno, "cannot examine %s", path);
	if (S_ISREG(st.st_mode))
		measure_regular(file, &st);
	else if (S_ISBLK(st.st_mode))
		rc = measure_device(file);
	else
		return error_set(err, -EINVAL,
				 "%s is neither a regular file nor a block device", path);
	if (rc)
		return error_set_errno(err, rc, "cannot measure the block device %s", path);
	if (!file->size_bytes || file->size_bytes % VIRTQ_BLK_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "%s has %llu bytes: a disk needs a multiple of %u, and not 0",
				 path, (unsigned long long)file->size_bytes,
				 VIRTQ_BLK_SECTOR_BYTES);
	return 0;
}

/* Announce only what the driver can compute with. */
static void settle_topology(struct blk_file *file)
{
	uint32_t block = file->block_bytes;

	if (!is_power_of_2(file->physical_bytes) || file->physical_bytes < block ||
	    file->alignment_bytes % block || file->alignment_bytes / block > UINT8_MAX) {
		file->physical_bytes = 0;
		return;
	}
	if (file->min_io_bytes % block || file->min_io_bytes / block > UINT16_MAX)
		file->min_io_bytes = 0;
	if (file->opt_io_bytes % block)
		file->opt_io_bytes = 0;
}

/* ---- O_DIRECT ------------------------------------------------------------ */

static int direct_alignment(struct blk_file *file, const char *path, struct virtq_error *err)
{
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(file->direct_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
	    sx.stx_mask & STATX_DIOALIGN) {
		file->direct_mem_align = sx.stx_dio_mem_align;
		file->direct_offset_align = sx.stx_dio_offset_align;
	}
#endif
	if (!is_power_of_2(file->direct_mem_align) || !is_power_of_2(file->direct_offset_align))
		return error_set(err, -EINVAL, "the file system of %s does not do O_DIRECT", path);
	return 0;
}

static int open_direct(struct blk_file *file, const struct virtq_blk_options *options,
		       struct virtq_error *err)
{
	struct stat buffered, direct;
	int rc;

	file->direct_fd = open(options->path, (options->read_only ? O_RDONLY : O_RDWR) |
					      O_DIRECT | O_CLOEXEC);
	if (file->direct_fd < 0 && errno == EINVAL)
		return error_set(err, -EINVAL, "the file system of %s does not do O_DIRECT",
				 options->path);
	if (file->direct_fd < 0)
		return error_set_errno(err, -errno, "cannot open %s with O_DIRECT",
				       options->path);
	if (fstat(file->fd, &buffered) || fstat(file->direct_fd, &direct) ||
	    buffered.st_dev != direct.st_dev || buffered.st_ino != direct.st_ino)
		return error_set(err, -EBUSY, "%s was replaced while it was being opened",
				 options->path);
	rc = direct_alignment(file, options->path, err);
	if (rc)
		return rc;
	/*
	 * Larger blocks than 512 bytes: let the driver use them, or each of its
	 * small requests would have to go through the page cache.
	 */
	if (file->direct_offset_align > VIRTQ_BLK_SECTOR_BYTES &&
	    file->size_bytes % file->direct_offset_align == 0)
		file->block_bytes = file->direct_offset_align;
	return 0;
}

/* ---- Open and close ------------------------------------------------------ */

int blk_file_open(struct blk_file *file, const struct virtq_blk_options *options,
		  struct virtq_error *err)
{
	int flags = (options->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	struct stat st;
	int rc;

	*file = (struct blk_file){
		.fd = -1, .direct_fd = -1, .block_bytes = VIRTQ_BLK_SECTOR_BYTES,
		.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
	};
	/* Exclusive on a block device: the kernel refuses one that is mounted. */
	if (stat(options->path, &st) == 0 && S_ISBLK(st.st_mode) && !options->read_only)
		flags |= O_EXCL;
	/* Not to wait for the other end if it is a pipe; measure() refuses it. */
	file->fd = open(options->path, flags | O_NONBLOCK);
	if (file->fd < 0)
		return error_set_errno(err, -errno, "cannot open %s", options->path);
	fcntl(file->fd, F_SETFL, fcntl(file->fd, F_GETFL) & ~O_NONBLOCK);

	rc = measure(file, options->path, err);
	if (!rc)
		rc = lock_file(file, options, err);
	if (!rc && options->direct)
		rc = open_direct(file, options, err);
	if (rc) {
		blk_file_close(file);
		return rc;
	}
	settle_topology(file);
	return 0;
}

void blk_file_close(struct blk_file *file)
{
	if (file->direct_fd >= 0)
		close(file->direct_fd);
	if (file->fd >= 0)
		close(file->fd);
}
