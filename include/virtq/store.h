/* SPDX-License-Identifier: MIT */
/*
 * What holds the sectors behind a block device: a file, memory, a network block
 * device, or something of the caller's own.
 *
 * The device knows the protocol: it has checked a request against the disk's
 * limits, and answers the driver. A store knows where the bytes are. It does
 * with a piece of work what a model does with a request: it has done it, it
 * describes an operation for the engine, or it keeps it and says later how it
 * went. So one that speaks to something slow in its own way needs a few lines.
 *
 * Thread: start() and finish() run on the threads of the engines that turn the
 * disk's queues, several at a time where there are several engines; cancel() on
 * these too. A thread of the store's own may touch a driver's memory, which the
 * driver can take away: it leaves SIGBUS, SIGSEGV, SIGILL and SIGFPE unmasked, or
 * virtq_guard_install()'s handler is not asked. The others run on the thread that
 * created the disk, or asks for its size again.
 */
#ifndef VIRTQ_STORE_H
#define VIRTQ_STORE_H

#include <stdbool.h>

#include <virtq/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_store;

/* What is to be done. */
enum virtq_store_kind {
	VIRTQ_STORE_READ,	/* fill all of io->req->wr from @offset */
	VIRTQ_STORE_WRITE,	/* store all of io->req->rd at @offset */
	VIRTQ_STORE_FLUSH,	/* make stable all that has ended before */
	VIRTQ_STORE_DISCARD,	/* the range is of no interest any more; it may read as anything */
	VIRTQ_STORE_ZERO,	/* the range reads as zeroes afterwards */
	VIRTQ_STORE_ERASE,	/* the range cannot be read back by any means, ever; stable too */
};

#define VIRTQ_STORE_MAY_UNMAP	1u	/* ZERO: the range need not keep its place on the medium */
#define VIRTQ_STORE_STABLE	2u	/* WRITE, ZERO: it has not ended before it is stable */

/**
 * struct virtq_store_io - one piece of work
 * @req:    the request that it belongs to: its cursors are the data of READ and
 *          WRITE, exactly @bytes of them, and virtq_engine_complete() takes it
 * @kind:   what to do
 * @flags:  VIRTQ_STORE_...
 * @offset: where, bytes; a multiple of 512
 * @bytes:  how much; a multiple of 512; 0 for FLUSH. @offset + @bytes is within
 *          the size that the store has told
 * @result: for the store to set when it says VIRTQ_DONE: 0, or -errno
 * @room:   the store's own, from start() to the end; not zeroed
 *
 * For READ the store moves req->wr on by what it has filled (virtq_req_write(),
 * virtq_req_wrote(); an operation without spans does it by itself); if something
 * of it is left the driver hears of an error. What a WRITE stores may be memory of
 * the device's own, for zeroes. -EOPNOTSUPP as the result of ZERO has the device
 * write zeroes, and of DISCARD or ERASE tells the driver that there is no such thing.
 *
 * A driver's request for several ranges comes as one piece of work after the
 * other, until one fails.
 */
struct virtq_store_io {
	struct virtq_req *req;
	enum virtq_store_kind kind;
	uint32_t flags;
	uint64_t offset;
	uint64_t bytes;
	int result;
	uint64_t room[12];
};

/**
 * struct virtq_store_info - what a store is like; all in bytes
 * @bytes:      its size, a multiple of 512, not 0; virtq_store_ops.refresh() may
 *              change it, nothing else of the below changes
 * @read_only:  WRITE, DISCARD, ZERO and ERASE never come
 * @block:      the logical block: what it likes requests to be multiples of; a
 *              power of two, at least 512
 * @physical:   its physical block, a power of two and at least @block; 0: unknown
 * @alignment:  offset of the first physical block
 * @min_io:     smallest size that costs no more than a larger one; 0: unknown
 * @opt_io:     best size; 0: unknown
 * @discard_max, @zero_max, @erase_max: longest range at once; 0: it cannot do this.
 *              Zeroes are written by the device then, with WRITE
 * @discard_align, @erase_align: what a range should begin at a multiple of; 0: 512
 * @zero_unmaps: ZERO with VIRTQ_STORE_MAY_UNMAP may give space back
 */
struct virtq_store_info {
	uint64_t bytes;
	bool read_only;
	bool zero_unmaps;
	uint32_t block;
	uint32_t physical;
	uint32_t alignment;
	uint32_t min_io, opt_io;
	uint64_t discard_max, zero_max, erase_max;
	uint32_t discard_align, erase_align;
};

/**
 * struct virtq_store_ops - how a kind of store works
 * @name:    short, for people: "file"
 * @start:   begin @io. VIRTQ_DONE: it is done, see io->result; VIRTQ_SUBMIT: @op
 *           is filled, as by a model's start(); VIRTQ_HOLD: virtq_engine_complete()
 *           on io->req will say how it went. Not VIRTQ_MALFORMED
 * @finish:  the operation, or what was held, has ended with @result. Verdicts as
 *           of @start. NULL: VIRTQ_DONE, with an error if @result is negative or,
 *           for READ and WRITE, not io->bytes
 * @cancel:  what is held shall end soon; see virtq_model_ops.cancel. May be NULL
 * @refresh: look at the size again. Return: the new size, bytes, or -errno;
 *           -ENOTSUP: it may have changed and cannot be found out. NULL: it never changes
 * @close:   free the store; nothing of it is under way
 */
struct virtq_store_ops {
	const char *name;
	enum virtq_verdict (*start)(struct virtq_store *store, struct virtq_store_io *io,
				    struct virtq_op *op);
	enum virtq_verdict (*finish)(struct virtq_store *store, struct virtq_store_io *io,
				     struct virtq_op *op, int64_t result);
	void (*cancel)(struct virtq_store *store, struct virtq_store_io *io);
	int64_t (*refresh)(struct virtq_store *store);
	void (*close)(struct virtq_store *store);
};

/** struct virtq_store - the first member of a kind's own struct; constant but for what @ops change. */
struct virtq_store {
	const struct virtq_store_ops *ops;
	struct virtq_store_info info;
};

/**
 * struct virtq_store_options - for virtq_store_open()
 * @read_only: nothing will be written
 * @direct:    files: bypass the page cache (O_DIRECT) wherever a request allows it
 * @reconnect_ms: NBD: how long requests wait for a server that went away to come
 *             back, before they fail; 0: 5000
 * @no_in_place: files on a tmpfs: hand all requests to the kernel. Otherwise the
 *             engine's thread copies the shorter ones, of up to 64 KiB, itself,
 *             and waits where the kernel has swapped such memory out
 */
struct virtq_store_options {
	bool read_only;
	bool direct;
	bool no_in_place;
	uint32_t reconnect_ms;
};

/**
 * virtq_store_open - a store by its name
 * @out:   receives the store
 * @image: a path: a regular file or block device, locked as long as it is open,
 *           shared if read-only, as a write-protected device always is, else exclusive;
 *         "null:SIZE": for measuring only. Forgets what is written, and to read
 *           leaves the driver's memory as it is, with whatever lies there;
 *         "ram:SIZE": memory, zeroes at first, gone at the end;
 *         "nbd://HOST[:PORT]/EXPORT", "nbds://", "nbd+unix:///EXPORT?socket=PATH":
 *           whatever an NBD server has, where the library was built with libnbd.
 *         SIZE is a number of bytes, or one with K, M, G or T behind it (powers of
 *         1024). A path that looks like one of these is written with "./" before it
 * @options: NULL for none
 * @err:   filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL (the name, or a size that is no multiple of 512 bytes),
 *	-EBUSY (somebody else has the file), -ENOTSUP (no libnbd), -ETIMEDOUT (an
 *	NBD server has said nothing for 10 seconds), or what open or the server says.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_store_open(struct virtq_store **out, const char *image,
			       const struct virtq_store_options *options,
			       struct virtq_error *err);

/**
 * virtq_store_inject - make a store fail on purpose, to see what its drivers do
 * @out:   receives the store that fails
 * @inner: the one behind it; taken, also on failure
 * @rules: "KEY=VALUE,...", several with ';' between. Keys: "op" (read, write,
 *         flush, discard, zero, erase; all of them if not given), "error" (a name,
 *         EIO, or a number), "short" (so many bytes are transferred, then it
 *         fails), "delay" (milliseconds before it begins), "hang" (it never ends,
 *         unless cancelled), "from" and "to" (bytes: only what touches that
 *         range), "every" (only each Nth that fits), "after" (not the first N that
 *         fit), "times" (only so many). The first rule that fits counts
 * @err:   filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL (rules), -ENOMEM. Since: 0.1
 */
VIRTQ_API int virtq_store_inject(struct virtq_store **out, struct virtq_store *inner,
				 const char *rules, struct virtq_error *err);

/** virtq_store_close - free a store that no disk has. NULL is fine. */
VIRTQ_API void virtq_store_close(struct virtq_store *store);

#ifdef __cplusplus
}
#endif

#endif
