/* SPDX-License-Identifier: MIT */
/*
 * How ranges of a block device are erased for good: by an ioctl(), which blocks
 * until the device has done it. io_uring has nothing for that, so a thread of the
 * store's own calls it; it is started when there is something to erase.
 *
 * Who waits is held. What the thread is at cannot be taken back, nor be answered
 * before it has ended: the device would go on, and erase what the driver writes
 * next. So the thread erases a piece at a time, and looks in between.
 */
#include "dev/store_file.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include "base/thread.h"

/* After so much who was cancelled is let go. A multiple of what any device erases at once. */
#define PIECE_BYTES ((uint64_t)64 << 20)

/*
 * A range that begins and ends within a sector cannot be erased, and nothing is:
 * a device that could says EINVAL, one that cannot EOPNOTSUPP, which the kernel
 * looks at first. Before 5.19 it looked first whether the device discards, so
 * that its EINVAL told nothing.
 */
bool file_can_erase(int fd)
{
	uint64_t range[2] = { 1, 1 };
	unsigned int major, minor;
	struct utsname kernel;

	if (uname(&kernel) || sscanf(kernel.release, "%u.%u", &major, &minor) != 2 ||
	    major < 5 || (major == 5 && minor < 19))
		return false;
	return ioctl(fd, BLKSECDISCARD, range) && errno == EINVAL;
}

void eraser_open(struct eraser *eraser)
{
	pthread_mutex_init(&eraser->lock, NULL);
	pthread_cond_init(&eraser->changed, NULL);
	eraser->end = &eraser->waiting;
}

void eraser_close(struct eraser *eraser)
{
	bool started;

	pthread_mutex_lock(&eraser->lock);
	eraser->quit = true;
	started = eraser->started;
	pthread_cond_signal(&eraser->changed);
	pthread_mutex_unlock(&eraser->lock);
	if (started)
		pthread_join(eraser->thread, NULL);
	pthread_cond_destroy(&eraser->changed);
	pthread_mutex_destroy(&eraser->lock);
}

/* ---- The thread ---------------------------------------------------------------- */

static bool is_dropped(struct eraser *eraser)
{
	bool dropped;

	pthread_mutex_lock(&eraser->lock);
	dropped = eraser->dropped;
	pthread_mutex_unlock(&eraser->lock);
	return dropped;
}

static int erase(struct file_store *f, const struct virtq_store_io *io)
{
	uint64_t range[2] = { io->offset, 0 }, left = io->bytes;

	while (left) {
		range[1] = left < PIECE_BYTES ? left : PIECE_BYTES;
		if (ioctl(f->fd, BLKSECDISCARD, range))
			return -errno;
		range[0] += range[1];
		left -= range[1];
		if (left && is_dropped(&f->eraser))
			return -ECANCELED;
	}
	return 0;
}

/* Returns NULL if the store is to be closed. */
static struct virtq_store_io *take(struct eraser *eraser)
{
	struct virtq_store_io *io;

	pthread_mutex_lock(&eraser->lock);
	while (!eraser->waiting && !eraser->quit)
		pthread_cond_wait(&eraser->changed, &eraser->lock);
	io = eraser->waiting;
	if (io) {
		eraser->waiting = file_io_of(io)->next;
		if (!eraser->waiting)
			eraser->end = &eraser->waiting;
	}
	eraser->at_work = io;
	eraser->dropped = false;
	pthread_mutex_unlock(&eraser->lock);
	return io;
}

static void *run(void *arg)
{
	struct file_store *f = arg;
	struct virtq_store_io *io;

	while ((io = take(&f->eraser))) {
		int rc = erase(f, io);

		/* From here on nobody finds it: its request may be gone, and another in its place. */
		pthread_mutex_lock(&f->eraser.lock);
		f->eraser.at_work = NULL;
		pthread_mutex_unlock(&f->eraser.lock);
		virtq_engine_complete(io->req, rc);
	}
	return NULL;
}

/* ---- On the engines' threads ----------------------------------------------------- */

enum virtq_verdict file_erase(struct file_store *f, struct virtq_store_io *io)
{
	struct eraser *eraser = &f->eraser;
	struct file_io *fio = file_io_of(io);
	int rc = 0;

	pthread_mutex_lock(&eraser->lock);
	if (!eraser->started)
		rc = thread_start(&eraser->thread, run, f);
	if (!rc) {
		eraser->started = true;
		fio->stage = FILE_ERASES;
		fio->next = NULL;
		*eraser->end = io;
		eraser->end = &fio->next;
		pthread_cond_signal(&eraser->changed);
	}
	pthread_mutex_unlock(&eraser->lock);
	if (rc) {
		io->result = rc;
		return VIRTQ_DONE;
	}
	return VIRTQ_HOLD;
}

bool file_erase_cancel(struct file_store *f, struct virtq_store_io *io)
{
	struct virtq_store_io **at, **next = &file_io_of(io)->next;
	struct eraser *eraser = &f->eraser;
	bool waits;

	pthread_mutex_lock(&eraser->lock);
	for (at = &eraser->waiting; *at && *at != io; at = &file_io_of(*at)->next)
		;
	waits = *at;
	if (waits) {
		if (eraser->end == next)
			eraser->end = at;
		*at = *next;
	} else if (eraser->at_work == io) {
		eraser->dropped = true;
	}
	pthread_mutex_unlock(&eraser->lock);
	return waits;
}
