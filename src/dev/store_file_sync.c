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
		.kind = VIRTQ_OP_SYNC, .fd = f->fd, .flags = VIRTQ_OP_FILE_STAYS,
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

void file_synced(struct file_store *f, int64_t result)
{
	struct virtq_store_io *covered, *late = NULL, *leader;
	struct sync_gate *gate = &f->gate;

	pthread_mutex_lock(&gate->lock);
	if (result == -ECANCELED)
		gate->covered_end = &gate->waiting;	/* it was not performed */
	covered = take_until(gate, gate->covered_end);
	if (result < 0 && result != -ECANCELED) {
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
