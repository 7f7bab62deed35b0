/* SPDX-License-Identifier: MIT */
/*
 * A whole device, seen from the engine: what its requests mean.
 *
 * A model describes I/O, an engine performs it. start() parses one request and
 * either answers it or describes an operation; the engine performs that and
 * hands the result to finish(). A model never sees descriptors, files an
 * operation under no data structure of its own, and starts nothing itself.
 *
 * Thread: start() and finish() run on the thread of the engine that turns the
 * request's queue. Different queues may be on different engines, so a model
 * keeps per-request state in its request struct and shares only what it does
 * not change, or changes atomically. The others run on the transport's thread.
 */
#ifndef VIRTQ_MODEL_H
#define VIRTQ_MODEL_H

#include <virtq/device.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_model;

/* What start() or finish() decided about a request. */
enum virtq_verdict {
	VIRTQ_DONE,		/* answered: push it with its written length */
	VIRTQ_SUBMIT,		/* perform the operation, then call finish() */
	VIRTQ_MALFORMED,	/* it means nothing: push it with length 0, count it */
	VIRTQ_HOLD,		/* the model keeps it until virtq_engine_complete() */
};

/* Operations that an engine can perform. */
enum virtq_op_kind {
	VIRTQ_OP_READ,		/* fill all of req->wr, or @spans, from fd at offset */
	VIRTQ_OP_WRITE,		/* store all of req->rd, or @spans, to fd at offset */
	VIRTQ_OP_SYNC,		/* make completed writes to fd stable (fdatasync) */
	VIRTQ_OP_ALLOCATE,	/* fallocate(fd, flags, offset, bytes) */
	VIRTQ_OP_POLL,		/* wait until fd has one of the poll events in flags */
	VIRTQ_OP_TIMEOUT,	/* wait for bytes nanoseconds */
	VIRTQ_OP_TURN,		/* wait for the queue's turn to copy bytes in finish() */
};

/* READ, WRITE, SYNC: fd stays open, and the same file, as long as the model has queues. */
#define VIRTQ_OP_FILE_STAYS	1u
/* READ, WRITE: fd may keep whoever reads or writes waiting although asked not to. */
#define VIRTQ_OP_FILE_WAITS	2u

/**
 * struct virtq_op - one operation, described by a model for an engine
 * @kind:   what to do
 * @fd:     on which file; none for TIMEOUT and TURN
 * @offset: where in it, bytes; READ, WRITE, ALLOCATE
 * @spans:  READ and WRITE: memory of the model's own instead of the request's,
 *          or NULL. It stays until finish(); the engine shortens the spans as the
 *          transfer goes on, as it does with a cursor's
 * @span_count: how many
 * @flags:  ALLOCATE: fallocate()'s mode; POLL: events; the others: 0, or
 *          VIRTQ_OP_FILE_STAYS, with which the engine may have the kernel keep the file,
 *          and VIRTQ_OP_FILE_WAITS, with which its thread goes nowhere near it: for files
 *          that refuse preadv2() with RWF_NOWAIT, as FUSE's and NFS's do
 * @bytes:  ALLOCATE: how many bytes; TIMEOUT: nanoseconds; TURN: how many bytes the
 *          model will copy next. What takes the engine's thread long (1 MiB is long)
 *          is done in pieces with a TURN between them, so that other queues have theirs
 * @next:   performed when this one has succeeded as a whole, or NULL. Lies in
 *          the model's request struct and stays until finish()
 *
 * Without @spans, READ and WRITE move the request's cursor past what was
 * transferred, and READ counts it as written, whether or not the operation
 * succeeds as a whole: finish() finds there how far it came. With @spans the
 * request is left alone. Short transfers are continued, and what is longer than
 * 1 MiB, or than the kernel takes, goes in pieces. -EINTR and -EAGAIN are tried again, the latter
 * after a pause, for a second or two; everything else is finish()'s business.
 *
 * An operation has succeeded as a whole when it did not fail and, for READ and
 * WRITE, nothing is left to transfer.
 *
 * start() finds all of it zero. finish() finds the operation that was performed
 * last, @offset and @spans where it ended; assign all of it for VIRTQ_SUBMIT.
 *
 * Since: 0.1
 */
struct virtq_op {
	enum virtq_op_kind kind;
	int fd;
	uint64_t offset;
	struct virtq_span *spans;
	uint32_t span_count;
	uint32_t flags;
	uint64_t bytes;
	struct virtq_op *next;
};

/**
 * struct virtq_model_ops - what a kind of device does
 * @name:        short, for logs and statistics: "blk"
 * @device_id:   VIRTIO_ID_...
 * @req_bytes:   size of its request struct, which begins with struct virtq_req
 * @start:       parse @req; fill @op for VIRTQ_SUBMIT
 * @finish:      @result is of the operation performed last: bytes transferred
 *               (READ, WRITE), events (POLL), 0 (the others) or -errno; or what
 *               virtq_engine_complete() said. -ECANCELED: it, or what was left of
 *               it, was not performed; -EOWNERDEAD: the engine has failed, and what
 *               became of it is not known. May fill @op again for VIRTQ_SUBMIT
 * @cancel:      a held request shall end soon, because its queue is taken away:
 *               complete it, with -ECANCELED if nothing better is known. The
 *               request may have been completed by another thread already, and
 *               finish() not been called yet: then there is nothing to do. May
 *               complete before it returns. NULL: held requests end by themselves
 * @config_read: copy @len bytes of configuration space from @offset; bytes past
 *               its end read as 0
 * @config_write: change @len bytes at @offset. 0, or -EINVAL (not writable)
 * @features_ok: the driver accepted @features, a subset of what was offered.
 *               0, or -EINVAL if the device cannot work with that set
 * @reset:       back to the state before negotiation; no request is in flight
 * @destroy:     free the model
 *
 * cancel, config_write, features_ok and reset may be NULL.
 *
 * What a request counts as in struct virtq_engine_stats stands in the request: when
 * start() is called @bytes_read, @bytes_written and @failed of struct virtq_req are
 * 0; the engine adds what READ and WRITE operations transfer, and sets @failed when
 * an operation or a hold ends with an error. The model has the last word: before
 * VIRTQ_DONE it assigns what it knows better, such as data that moved without
 * operations, or that the driver is told of a failure, or of none.
 */
struct virtq_model_ops {
	const char *name;
	uint32_t device_id;
	uint32_t req_bytes;
	enum virtq_verdict (*start)(struct virtq_model *model, struct virtq_req *req,
				    struct virtq_op *op);
	enum virtq_verdict (*finish)(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op, int64_t result);
	void (*cancel)(struct virtq_model *model, struct virtq_req *req);
	void (*config_read)(struct virtq_model *model, uint32_t offset, void *dst,
			    uint32_t len);
	int (*config_write)(struct virtq_model *model, uint32_t offset, const void *src,
			    uint32_t len);
	int (*features_ok)(struct virtq_model *model, struct virtq_features features);
	void (*reset)(struct virtq_model *model);
	void (*destroy)(struct virtq_model *model);
};

/**
 * struct virtq_model - a device; the first member of a kind's own struct
 * @ops:      of its kind
 * @features: offered device-type features (the ring's are added by the transport)
 * @queues:   how many it has
 * @queue_size_max: entries that a queue may have
 * @max_segs: longest chain it takes, see struct virtq_device_config; 0 for any
 * @config_bytes: size of its configuration space
 *
 * Constant once the model is in use.
 */
struct virtq_model {
	const struct virtq_model_ops *ops;
	struct virtq_features features;
	uint32_t queues;
	uint32_t queue_size_max;
	uint32_t max_segs;
	uint32_t config_bytes;
};

/**
 * virtq_engine_complete - a held request has ended
 * @req:    a request for which start() or finish() said VIRTQ_HOLD, or is about to
 * @result: what finish() will be told
 *
 * Exactly once for each hold. The engine calls finish() soon, on its own thread,
 * never from within this call; no more for a request that was held again and again
 * while its queue was cancelled. Leave @req alone from here on: it may be gone
 * when this returns.
 *
 * Thread: any, also from within start(), finish() and cancel(). Takes a lock for
 * a moment and may make a system call; never waits for the engine. Since: 0.1
 */
VIRTQ_API void virtq_engine_complete(struct virtq_req *req, int64_t result);

/**
 * virtq_engine_cancel - an operation is not wanted any more
 * @req: a request for which start() or finish() said VIRTQ_SUBMIT, or is about to
 *
 * What of it is under way, or waits to begin, ends soon, and an operation's @next is not
 * performed. The engine then calls finish(), on its own thread, never from within this
 * call: with -ECANCELED, the request's cursor or @spans where a transfer had come to, or
 * with the result if that came first. The model says what is next, as ever.
 *
 * Each time that start() or finish() says VIRTQ_SUBMIT stands for itself: what is begun
 * later is not meant; what the call of one of them begins that runs at this moment is. Calls
 * beyond the first do nothing, nor does one for a request that is held: the model
 * completes that itself. No error is known: if nothing can be taken back finish() tells.
 * An operation that has begun on a regular file or a disk ends by itself, and so does
 * every one of VIRTQ_ENGINE_SYNC but POLL and TIMEOUT.
 *
 * The request must be there until this returns: within start(), finish() and cancel() of
 * requests on the same engine that is one that is not done. Elsewhere the model sees to it,
 * as with a lock that its finish() takes to forget a request before it says VIRTQ_DONE.
 *
 * Thread: any. Takes a lock for a moment and may make a system call; never waits for
 *	the engine. Also while the queue is paused, moved or removed. Since: 0.1
 */
VIRTQ_API void virtq_engine_cancel(struct virtq_req *req);

/** virtq_model_destroy - free a model that no queue uses any more. NULL is fine. */
VIRTQ_API void virtq_model_destroy(struct virtq_model *model);

#ifdef __cplusplus
}
#endif

#endif
