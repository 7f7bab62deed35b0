/* SPDX-License-Identifier: MIT */
/*
 * How a file becomes stable: by one sync at a time, for all queues together.
 *
 * The kernel tells an opened file once that data could not be written back: one
 * sync fails, and those beside and behind it succeed, although what they stand for
 * is lost. So whoever comes while a sync is under way waits, and the next one, led by
 * the first that waits, is for all that wait when it begins: their writes had
 * ended by then. All of them are told how it went.
 *
 * Once one has failed nobody can find out any more what the medium holds: pages
 * that could not be written back count as clean. So every later one fails, until
 * the file is opened anew.
 *
 * The engine of one that leads can fail, and its result get lost. It may have been an
 * error, which the kernel does not tell a second time; but it tells each opened
 * file. So the file is opened twice, before anything is written, and the next sync
 * goes through the other one, for those too that waited for the lost one. That must not
 * be lost as well. But once one of the other is known to have succeeded, there was no
 * error until then, and the first is as good as new: what it was told and nobody heard
 * came before, and was none. To open the file anew would not help: who opens it after an
 * error was told to somebody is told nothing. (That the medium failed to empty its own
 * cache the kernel tells the one sync only, and has it tried again by the next.)
 *
 * Who leads runs on its own engine, and may be cancelled like any other request.
 * Then the sync was not performed, and the next one leads. For each lead that is
 * taken there is an end, file_synced(): the engine gives a request that it cancels
 * enough chances to begin this last operation.
 */
#include "dev/store_file.h"

#include <errno.h>

#include "base/check.h"
#include "base/shm.h"

void sync_gate_open(struct sync_gate *gate)
{
	pthread_mutex_init(&gate->lock, NULL);
	gate->end = gate->covered_end = &gate->waiting;
	gate->fds[0] = gate->fds[1] = -1;
}

void sync_gate_use(struct sync_gate *gate, int fd, int other)
{
	gate->fds[0] = fd;
	gate->fds[1] = other;
	gate->other_is_good = other >= 0;
}

void sync_gate_close(struct sync_gate *gate)
{
	pthread_mutex_destroy(&gate->lock);
}

static enum virtq_verdict begin(struct file_store *f, struct virtq_store_io *io,
				struct virtq_op *op)
{
	file_io_of(io)->stage = FILE_SYNCS;
	/* Of the file, so that direct writes are covered too. */
	*op = (struct virtq_op){
		.kind = VIRTQ_OP_SYNC, .fd = f->gate.fds[f->gate.at],
		.flags = VIRTQ_OP_FILE_STAYS,
	};
	return VIRTQ_SUBMIT;
}

enum virtq_verdict file_sync(struct file_store *f, struct virtq_store_io *io,
			     struct virtq_op *op)
{
	struct sync_gate *gate = &f->gate;
	struct file_io *fio = file_io_of(io);
	bool failed, leads;

	pthread_mutex_lock(&gate->lock);
	failed = gate->failed;
	leads = !gate->busy;
	if (!failed && leads) {
		gate->busy = true;
	} else if (!failed) {
		fio->stage = FILE_WAITS_FOR_SYNC;
		fio->next = NULL;
		*gate->end = io;
		gate->end = &fio->next;
	}
	pthread_mutex_unlock(&gate->lock);
	if (failed) {
		io->result = -EIO;
		return VIRTQ_DONE;
	}
	/* LOAN: who waits is not to be touched any more. */
	return leads ? begin(f, io, op) : VIRTQ_HOLD;
}

enum virtq_verdict file_sync_lead(struct file_store *f, struct virtq_store_io *io,
				  struct virtq_op *op)
{
	struct sync_gate *gate = &f->gate;

	/* It begins after this: it is for all that wait now, and for nobody who comes later. */
	pthread_mutex_lock(&gate->lock);
	gate->covered_end = gate->end;
	pthread_mutex_unlock(&gate->lock);
	return begin(f, io, op);
}

/* Take out all up to @end. By the lock. */
static struct virtq_store_io *take_until(struct sync_gate *gate, struct virtq_store_io **end)
{
	struct virtq_store_io *first = gate->waiting;

	if (end == &gate->waiting)
		return NULL;
	gate->waiting = *end;
	*end = NULL;
	if (gate->end == end)
		gate->end = &gate->waiting;
	if (gate->covered_end == end)
		gate->covered_end = &gate->waiting;
	return first;
}

static void tell(struct virtq_store_io *io, int64_t result)
{
	struct virtq_store_io *next;

	for (; io; io = next) {
		next = file_io_of(io)->next;
		virtq_engine_complete(io->req, result);
	}
}

/* Does the next one make up for it? */
static bool counts_not(struct sync_gate *gate, int64_t result)
{
	if (result == -ECANCELED)
		return true;	/* it was not performed */
	if (result != -EOWNERDEAD || !gate->other_is_good)
		return false;
	gate->at ^= 1;
	gate->other_is_good = false;
	return true;
}

void file_synced(struct file_store *f, int64_t result)
{
	struct virtq_store_io *covered, *late = NULL, *leader;
	struct sync_gate *gate = &f->gate;
	bool again;

	pthread_mutex_lock(&gate->lock);
	again = counts_not(gate, result);
	if (again)
		gate->covered_end = &gate->waiting;
	covered = take_until(gate, gate->covered_end);
	if (result >= 0) {
		gate->other_is_good = gate->fds[1] >= 0;
	} else if (!again) {
		shm_flag_write(&gate->failed, true);
		late = take_until(gate, gate->end);
	}
	leader = gate->waiting;
	if (leader) {
		take_until(gate, &file_io_of(leader)->next);
		file_io_of(leader)->stage = FILE_LEADS;
	}
	gate->busy = leader != NULL;
	pthread_mutex_unlock(&gate->lock);
	tell(covered, result);
	tell(late, -EIO);
	tell(leader, 0);
}

bool file_sync_cancel(struct file_store *f, struct virtq_store_io *io)
{
	struct virtq_store_io **at, **next = &file_io_of(io)->next;
	struct sync_gate *gate = &f->gate;
	bool waits;

	pthread_mutex_lock(&gate->lock);
	for (at = &gate->waiting; *at && *at != io; at = &file_io_of(*at)->next)
		;
	waits = *at;
	if (waits) {
		if (gate->end == next)
			gate->end = at;
		if (gate->covered_end == next)
			gate->covered_end = at;
		*at = *next;
	}
	pthread_mutex_unlock(&gate->lock);
	return waits;
}
