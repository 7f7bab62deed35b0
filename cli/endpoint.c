/* SPDX-License-Identifier: MIT */
/* Files, block devices and vhost-user disks as the two ends of a copy. */
#include "endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "report.h"

#define ENDPOINT_PREFIX "vhost-user:"
#define ENDPOINT_HOLE_BYTES 4096u	/* shorter runs of zeros are no holes worth having */

/* The socket's path in "vhost-user:PATH", or NULL for a file. */
static const char *endpoint_socket(const char *name)
{
	size_t len = strlen(ENDPOINT_PREFIX);

	return strncmp(name, ENDPOINT_PREFIX, len) == 0 ? name + len : NULL;
}

/* Who is behind it, to tell the source from the target. */
static void endpoint_identify(struct endpoint *e, const struct stat *st)
{
	e->dev = S_ISBLK(st->st_mode) ? 0 : st->st_dev;
	e->ino = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_ino;
}

static bool endpoint_same(const struct endpoint *a, const struct endpoint *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

static int endpoint_open_disk(struct endpoint *e, const char *socket, enum disk_layout layout,
			      struct virtq_error *err)
{
	int rc = disk_open(&e->disk, e->name, socket, layout, err);

	if (rc < 0)
		return rc;
	e->bytes = disk_bytes(e->disk);
	return 0;
}

/* Pipes, terminals and directories have no size and no offsets. */
static int endpoint_check_kind(struct endpoint *e, const struct stat *st, struct virtq_error *err)
{
	if (S_ISDIR(st->st_mode))
		return report_into(err, -EISDIR, "%s is a directory", e->name);
	if (S_ISSOCK(st->st_mode))
		return report_into(err, -EINVAL, "%s is a socket; say %s%s", e->name,
				   ENDPOINT_PREFIX, e->name);
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return report_into(err, -EINVAL, "%s is neither a file nor a block device",
				   e->name);
	e->regular = S_ISREG(st->st_mode);
	endpoint_identify(e, st);
	return 0;
}

/* Regular files have their size in @st, block devices do not. */
static int endpoint_find_size(struct endpoint *e, struct virtq_error *err)
{
	off_t end = lseek(e->fd, 0, SEEK_END);

	if (end < 0)
		return report_into_errno(err, -errno, "cannot find out the size of %s", e->name);
	e->bytes = (uint64_t)end;
	return 0;
}

/*
 * Keep off files that somebody else writes, or, to write them ourselves, uses:
 * `virtq serve` and QEMU hold locks of this kind. File systems that know no
 * locks are no hindrance.
 */
static int endpoint_lock(const struct endpoint *e, short type, struct virtq_error *err)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(e->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
		return report_into(err, -EBUSY, "%s is in use: somebody %s", e->name,
				   type == F_RDLCK ? "writes to it" : "holds a lock on it");
	return 0;
}

int endpoint_open_source(struct endpoint *e, const char *name, enum disk_layout layout,
			 struct virtq_error *err)
{
	const char *socket = endpoint_socket(name);
	struct stat st;
	int rc;

	*e = ENDPOINT_NONE;
	e->name = name;
	/* By name first: opening a pipe could wait for ever. */
	if (stat(socket ? socket : name, &st) < 0)
		return report_into_errno(err, -errno, "cannot open %s", name);
	if (socket) {
		endpoint_identify(e, &st);
		return endpoint_open_disk(e, socket, layout, err);
	}
	rc = endpoint_check_kind(e, &st, err);
	if (rc < 0)
		return rc;
	e->fd = open(name, O_RDONLY | O_CLOEXEC);
	if (e->fd < 0)
		return report_into_errno(err, -errno, "cannot open %s", name);
	posix_fadvise(e->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	rc = endpoint_lock(e, F_RDLCK, err);
	if (rc == 0)
		rc = endpoint_find_size(e, err);
	if (rc < 0)
		endpoint_close(e);
	return rc;
}

static int endpoint_check_room(const struct endpoint *e, const struct endpoint *source,
			       struct virtq_error *err)
{
	if (e->bytes < source->bytes)
		return report_into(err, -ENOSPC, "%s holds %llu bytes, fewer than the %llu of %s",
				   e->name, (unsigned long long)e->bytes,
				   (unsigned long long)source->bytes, source->name);
	return 0;
}

static int endpoint_open_target_disk(struct endpoint *e, const char *socket,
				     enum disk_layout layout, const struct endpoint *source,
				     struct virtq_error *err)
{
	struct stat st;
	int rc;

	if (stat(socket, &st) < 0)
		return report_into_errno(err, -errno, "cannot open %s", e->name);
	endpoint_identify(e, &st);
	if (endpoint_same(e, source))
		return report_into(err, -EINVAL, "%s and %s are the same", source->name, e->name);
	rc = endpoint_open_disk(e, socket, layout, err);
	if (rc < 0)
		return rc;
	if (disk_read_only(e->disk))
		return report_into(err, -EROFS, "%s is read-only", e->name);
	if (source->bytes % VIRTQ_BLK_SECTOR_BYTES)
		return report_into(err, -EINVAL, "%s has %llu bytes, which are no whole sectors for %s",
				   source->name, (unsigned long long)source->bytes, e->name);
	return endpoint_check_room(e, source, err);
}

static int endpoint_open_target_file(struct endpoint *e, const struct endpoint *source,
				     struct virtq_error *err)
{
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC;
	struct stat st;
	int rc;

	e->made = stat(e->name, &st) < 0;
	if (!e->made) {
		rc = endpoint_check_kind(e, &st, err);
		if (rc < 0)
			return rc;
		if (endpoint_same(e, source))
			return report_into(err, -EINVAL, "%s and %s are the same", source->name,
					   e->name);
		/* Of a block device it means that nobody has mounted it, or lives on it else. */
		if (!e->regular)
			flags = O_WRONLY | O_EXCL | O_CLOEXEC;
	}
	e->fd = open(e->name, flags, 0666);
	if (e->fd < 0 && errno == EBUSY)
		return report_into(err, -EBUSY, "%s is in use: it is mounted, or part of another device",
				   e->name);
	if (e->fd < 0 || fstat(e->fd, &st) < 0)
		return report_into_errno(err, -errno, "cannot open %s for writing", e->name);
	rc = endpoint_check_kind(e, &st, err);
	if (rc == 0)
		rc = endpoint_lock(e, F_WRLCK, err);
	if (rc < 0 || e->regular)
		return rc;
	rc = endpoint_find_size(e, err);
	return rc < 0 ? rc : endpoint_check_room(e, source, err);
}

int endpoint_open_target(struct endpoint *e, const char *name, enum disk_layout layout,
			 const struct endpoint *source, struct virtq_error *err)
{
	const char *socket = endpoint_socket(name);
	int rc;

	*e = ENDPOINT_NONE;
	e->name = name;
	if (socket)
		rc = endpoint_open_target_disk(e, socket, layout, source, err);
	else
		rc = endpoint_open_target_file(e, source, err);
	if (rc < 0)
		endpoint_close(e);
	return rc;
}

int endpoint_clear(struct endpoint *e, struct virtq_error *err)
{
	if (e->regular && ftruncate(e->fd, 0) < 0)
		return report_into_errno(err, -errno, "cannot truncate %s", e->name);
	return 0;
}

uint64_t endpoint_next_data(struct endpoint *e, uint64_t offset)
{
	off_t at;

	if (offset < e->run_begin || offset >= e->run_end) {
		at = lseek(e->fd, (off_t)offset, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			at = (off_t)e->bytes;		/* a hole up to the end */
		else if (at < 0)
			at = (off_t)offset;		/* no holes here: all is data */
		e->run_begin = offset;
		e->run_hole = (uint64_t)at > offset;
		if (e->run_hole) {
			e->run_end = (uint64_t)at;
		} else {
			at = lseek(e->fd, (off_t)offset, SEEK_HOLE);
			e->run_end = at < 0 ? e->bytes : (uint64_t)at;
		}
	}
	return e->run_hole ? e->run_end : offset;
}

int endpoint_read(struct endpoint *e, void *data, uint64_t offset, uint32_t len,
		  struct virtq_error *err)
{
	unsigned char *to = data;
	ssize_t n;

	while (len) {
		n = pread(e->fd, to, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return report_into_errno(err, -errno, "cannot read %s at sector %llu",
						 e->name, (unsigned long long)
						 (offset / VIRTQ_BLK_SECTOR_BYTES));
		if (n == 0)
			return report_into(err, -EIO, "%s has become shorter and ends at byte %llu",
					   e->name, (unsigned long long)offset);
		to += n;
		offset += (uint64_t)n;
		len -= (uint32_t)n;
	}
	return 0;
}

int endpoint_check_size(const struct endpoint *e, struct virtq_error *err)
{
	off_t end = e->fd < 0 ? (off_t)e->bytes : lseek(e->fd, 0, SEEK_END);

	if (end < 0 || (uint64_t)end != e->bytes)
		return report_into(err, -EIO, "%s has changed its size meanwhile", e->name);
	return 0;
}

static int endpoint_write_all(struct endpoint *e, const unsigned char *from, uint64_t offset,
			      uint32_t len, struct virtq_error *err)
{
	ssize_t n;

	while (len) {
		n = pwrite(e->fd, from, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return report_into_errno(err, n < 0 ? -errno : -ENOSPC,
						 "cannot write %s at sector %llu", e->name,
						 (unsigned long long)
						 (offset / VIRTQ_BLK_SECTOR_BYTES));
		from += n;
		offset += (uint64_t)n;
		len -= (uint32_t)n;
	}
	return 0;
}

static bool endpoint_all_zero(const unsigned char *data, size_t len)
{
	/* Each byte is compared with the one in front of it. */
	return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

/* Bytes from @offset to the next border of a unit that may become a hole. */
static uint32_t endpoint_unit(uint64_t offset, uint32_t len)
{
	uint32_t unit = ENDPOINT_HOLE_BYTES - (uint32_t)(offset % ENDPOINT_HOLE_BYTES);

	return unit < len ? unit : len;
}

int endpoint_write(struct endpoint *e, const void *data, uint64_t offset, uint32_t len,
		   struct virtq_error *err)
{
	const unsigned char *from = data;
	uint32_t run, unit;
	int rc;

	if (!e->regular)
		return endpoint_write_all(e, from, offset, len, err);
	while (len) {
		for (run = 0; run < len; run += unit) {
			unit = endpoint_unit(offset + run, len - run);
			if (endpoint_all_zero(from + run, unit))
				break;
		}
		rc = endpoint_write_all(e, from, offset, run, err);
		if (rc < 0)
			return rc;
		/* And over the zeros that ended the run, if any did. */
		if (run < len)
			run += endpoint_unit(offset + run, len - run);
		from += run;
		offset += run;
		len -= run;
	}
	return 0;
}

int endpoint_finish(struct endpoint *e, uint64_t bytes, struct virtq_error *err)
{
	if (e->disk)
		return disk_flush(e->disk, err);
	if (e->regular && ftruncate(e->fd, (off_t)bytes) < 0)
		return report_into_errno(err, -errno, "cannot give %s its size", e->name);
	if (fsync(e->fd) < 0)
		return report_into_errno(err, -errno, "cannot make %s stable", e->name);
	return 0;
}

void endpoint_close(struct endpoint *e)
{
	disk_close(e->disk);
	if (e->fd >= 0)
		close(e->fd);
	e->disk = NULL;
	e->fd = -1;
}
