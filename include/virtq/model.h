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
};

/* Operations that an engine can perform. */
enum virtq_op_kind {
	VIRTQ_OP_READ,	/* fill all of req->wr from fd at offset */
	VIRTQ_OP_WRITE,	/* store all of req->rd to fd at offset */
	VIRTQ_OP_SYNC,	/* make completed writes to fd stable (fdatasync) */
};

/**
 * struct virtq_op - one operation, described by a model for an engine
 * @kind:   what to do
 * @fd:     on which file
 * @offset: where in it, bytes
 *
 * READ and WRITE move the request's cursor past what was transferred, and READ
 * counts it as written, whether or not the operation succeeds as a whole:
 * finish() finds there how far it came. Short transfers are continued.
 */
struct virtq_op {
	enum virtq_op_kind kind;
	int fd;
	uint64_t offset;
};

/**
 * struct virtq_model_ops - what a kind of device does
 * @name:        short, for logs and statistics: "blk"
 * @device_id:   VIRTIO_ID_...
 * @req_bytes:   size of its request struct, which begins with struct virtq_req
 * @start:       parse @req; fill @op for VIRTQ_SUBMIT
 * @finish:      @result is the bytes transferred (0 for SYNC) or -errno; may
 *               fill @op again for VIRTQ_SUBMIT
 * @config_read: copy @len bytes of configuration space from @offset; bytes past
 *               its end read as 0
 * @config_write: change @len bytes at @offset. 0, or -EINVAL (not writable)
 * @features_ok: the driver accepted @features, a subset of what was offered.
 *               0, or -EINVAL if the device cannot work with that set
 * @reset:       back to the state before negotiation; no request is in flight
 * @destroy:     free the model
 *
 * config_write, features_ok and reset may be NULL.
 */
struct virtq_model_ops {
	const char *name;
	uint32_t device_id;
	uint32_t req_bytes;
	enum virtq_verdict (*start)(struct virtq_model *model, struct virtq_req *req,
				    struct virtq_op *op);
	enum virtq_verdict (*finish)(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op, int64_t result);
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

/** virtq_model_destroy - free a model that no queue uses any more. NULL is fine. */
VIRTQ_API void virtq_model_destroy(struct virtq_model *model);

#ifdef __cplusplus
}
#endif

#endif
