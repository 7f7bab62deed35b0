/* SPDX-License-Identifier: MIT */
/* The store that forgets; see forgetful.h. */
#include "forgetful.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"

#define WAITING_MAX 256u
#define BURST 8u			/* sectors that the cache makes stable of its own accord */

/* A piece of work that the thread below has not begun. */
struct waiting {
	struct virtq_store_io *io;
	uint64_t ended_before;		/* of FLUSH: what had ended when it came */
	uint64_t due_ns;
};

struct forgetful {
	struct virtq_store store;
	enum forgetful_lie lie;
	int fd;
	uint8_t *cache;			/* all of the disk, as a driver sees it */
	uint64_t *dirty_since;		/* of each sector: the count of the write that made it dirty, or 0 */
	uint64_t sectors, ended;
	struct dice dice;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool closing;
	struct waiting waiting[WAITING_MAX];
	unsigned int count;
};

static struct forgetful *forgetful_of(struct virtq_store *store)
{
	return (struct forgetful *)store;
}

static void make_stable(struct forgetful *f, uint64_t sector)
{
	size_t bytes = f->lie == FORGETFUL_TORN && dice_below(&f->dice, 2) ? SECTOR / 2 : SECTOR;

	if (f->dirty_since[sector] &&
	    pwrite(f->fd, f->cache + sector * SECTOR, bytes, (off_t)(sector * SECTOR)) ==
	    (ssize_t)bytes)
		f->dirty_since[sector] = 0;
}

/* A cache may write back what it likes, whenever it likes. */
static void write_something_back(struct forgetful *f)
{
	uint64_t sector = dice_below(&f->dice, (uint32_t)f->sectors);

	for (unsigned int i = 0; i < BURST; i++)
		make_stable(f, (sector + i) % f->sectors);
}

/* No sooner than it must: what ends after the flush has begun may wait for the next. */
static void flush(struct forgetful *f, uint64_t ended_before)
{
	if (f->lie == FORGETFUL_NO_FLUSH)
		return;
	for (uint64_t sector = 0; sector < f->sectors; sector++)
		if (f->dirty_since[sector] <= ended_before)
			make_stable(f, sector);
}

static void change(struct forgetful *f, const struct virtq_store_io *io)
{
	uint64_t first = io->offset / SECTOR, end = first + io->bytes / SECTOR;

	if (io->kind == VIRTQ_STORE_WRITE)
		virtq_req_read(io->req, f->cache + io->offset, io->bytes);
	else
		memset(f->cache + io->offset, 0, io->bytes);
	f->ended++;
	for (uint64_t sector = first; sector < end; sector++) {
		if (!f->dirty_since[sector])
			f->dirty_since[sector] = f->ended;
		if ((io->flags & VIRTQ_STORE_STABLE) && f->lie != FORGETFUL_NO_STABLE)
			make_stable(f, sector);
	}
}

static void perform(struct forgetful *f, const struct waiting *w)
{
	struct virtq_store_io *io = w->io;

	switch (io->kind) {
	case VIRTQ_STORE_READ:
		virtq_req_write(io->req, f->cache + io->offset, io->bytes);
		break;
	case VIRTQ_STORE_FLUSH:
		flush(f, w->ended_before);
		break;
	default:
		change(f, io);
	}
}

/* One after the other, but in no order. */
static void *work(void *arg)
{
	struct forgetful *f = arg;

	pthread_mutex_lock(&f->lock);
	while (!f->closing || f->count) {
		struct waiting w;
		unsigned int i;

		if (!f->count) {
			pthread_cond_wait(&f->more, &f->lock);
			continue;
		}
		i = dice_below(&f->dice, f->count);
		if (now_ns() < f->waiting[i].due_ns && !f->closing) {
			write_something_back(f);
			pthread_mutex_unlock(&f->lock);
			usleep(20);
			pthread_mutex_lock(&f->lock);
			continue;
		}
		w = f->waiting[i];
		f->waiting[i] = f->waiting[--f->count];
		perform(f, &w);
		pthread_mutex_unlock(&f->lock);
		virtq_engine_complete(w.io->req, 0);
		pthread_mutex_lock(&f->lock);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static enum virtq_verdict forgetful_start(struct virtq_store *store, struct virtq_store_io *io,
					  struct virtq_op *op)
{
	struct forgetful *f = forgetful_of(store);

	(void)op;
	pthread_mutex_lock(&f->lock);
	if (f->count == WAITING_MAX) {
		pthread_mutex_unlock(&f->lock);
		io->result = -EBUSY;
		return VIRTQ_DONE;
	}
	f->waiting[f->count++] = (struct waiting){
		io, f->ended, now_ns() + dice_below(&f->dice, 200000),
	};
	pthread_cond_signal(&f->more);
	pthread_mutex_unlock(&f->lock);
	return VIRTQ_HOLD;
}

static enum virtq_verdict forgetful_finish(struct virtq_store *store, struct virtq_store_io *io,
					   struct virtq_op *op, int64_t result)
{
	(void)store;
	(void)op;
	io->result = (int)result;
	return VIRTQ_DONE;
}

static void forgetful_close(struct virtq_store *store)
{
	struct forgetful *f = forgetful_of(store);

	pthread_mutex_lock(&f->lock);
	f->closing = true;
	pthread_cond_signal(&f->more);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
	close(f->fd);
	free(f->cache);
	free(f->dirty_since);
	free(f);
}

static const struct virtq_store_ops forgetful_ops = {
	.name = "forgetful", .start = forgetful_start, .finish = forgetful_finish,
	.close = forgetful_close,
};

int forgetful_open(struct virtq_store **out, const char *path, enum forgetful_lie lie)
{
	struct forgetful *f = calloc(1, sizeof(*f));
	struct stat st;

	if (!f)
		return -ENOMEM;
	f->fd = open(path, O_RDWR | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st))
		return -errno;
	f->sectors = (uint64_t)st.st_size / SECTOR;
	f->cache = malloc((size_t)st.st_size);
	f->dirty_since = calloc(f->sectors, sizeof(*f->dirty_since));
	if (!f->cache || !f->dirty_since || pread(f->fd, f->cache, (size_t)st.st_size, 0) != st.st_size)
		return -EIO;
	f->lie = lie;
	f->dice.state = now_ns();
	f->store = (struct virtq_store){ &forgetful_ops, { .bytes = (uint64_t)st.st_size, .block = SECTOR,
				       .zero_max = 1u << 20, .discard_max = 1u << 20 } };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->more, NULL);
	if (pthread_create(&f->thread, NULL, work, f))
		return -EAGAIN;
	*out = &f->store;
	return 0;
}
