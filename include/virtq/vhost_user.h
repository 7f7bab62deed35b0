/* SPDX-License-Identifier: MIT */
/*
 * vhost-user: a device in another process, over a Unix socket.
 *
 * The *front end* owns the memory and drives; the *back end* is the device.
 */
#ifndef VIRTQ_VHOST_USER_H
#define VIRTQ_VHOST_USER_H

#include <virtq/engine.h>
#include <virtq/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Front end -------------------------------------------------------- */

/**
 * virtq_vhost_user_connect - reach a back end
 * @out:        receives the transport
 * @path:       of the back end's listening socket
 * @timeout_ms: longest wait for any one answer; 0 for 10,000
 * @err:        filled on failure; may be NULL
 *
 * Return: 0, -EINVAL or -ENAMETOOLONG (@path), -ETIMEDOUT, -EPROTO (what answers is no
 *	vhost-user back end, or breaks the protocol), or what connect says.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_vhost_user_connect(struct virtq_transport **out, const char *path,
				       unsigned int timeout_ms, struct virtq_error *err);

/** virtq_vhost_user_attach - as connect, over a connected socket @fd, which is taken. */
VIRTQ_API int virtq_vhost_user_attach(struct virtq_transport **out, int fd,
				      unsigned int timeout_ms, struct virtq_error *err);

/** virtq_vhost_user_raw_features - GET_FEATURES as it came, transport bits included. */
VIRTQ_API uint64_t virtq_vhost_user_raw_features(const struct virtq_transport *t);
/** virtq_vhost_user_protocol_features - what the back end offers, by bit number. */
VIRTQ_API uint64_t virtq_vhost_user_protocol_features(const struct virtq_transport *t);
/** virtq_vhost_user_protocol_name - the document's name of a protocol bit, or NULL. */
VIRTQ_API const char *virtq_vhost_user_protocol_name(unsigned int bit);
/** virtq_vhost_user_mem_slots - memory regions that the back end takes. */
VIRTQ_API uint64_t virtq_vhost_user_mem_slots(const struct virtq_transport *t);

/* ---- Back end --------------------------------------------------------- */

struct virtq_vhost_user_server;

/* What happened to a client, for whoever wants to tell a person. */
enum virtq_vhost_user_event {
	VIRTQ_VU_CONNECTED,	/* and said something; who hangs up without a word is not told of */
	VIRTQ_VU_QUEUE_STARTED,
	VIRTQ_VU_QUEUE_STOPPED,
	VIRTQ_VU_DISCONNECTED,	/* it closed the connection */
	VIRTQ_VU_REFUSED,	/* it broke the protocol and was cut off */
	VIRTQ_VU_QUEUE_BROKEN,	/* it broke a ring */
	VIRTQ_VU_NACKED,	/* it was refused one request and told so */
};

/**
 * struct virtq_vhost_user_server_config - a device to be served
 * @model:     the device; borrowed
 * @engines:   queues are spread over these in turn; borrowed
 * @engine_count: at least 1
 * @listen_fd: a listening Unix socket; borrowed
 * @features:  ring and transport feature bits to offer beside the model's;
 *             normally virtq_ring_features_usual()
 * @event:     called on the thread in virtq_vhost_user_serve(); may be NULL.
 *             @queue is -1 where none is meant, @text says more, never NULL
 * @event_arg: its first argument
 * @coalesce_count, @coalesce_us: virtq_engine_queue_coalesce() for each queue; 0: no call waits
 *
 * Since: 0.1
 */
struct virtq_vhost_user_server_config {
	struct virtq_model *model;
	struct virtq_engine *const *engines;
	unsigned int engine_count;
	int listen_fd;
	struct virtq_features features;
	void (*event)(void *arg, enum virtq_vhost_user_event event, int queue,
		      const char *text);
	void *event_arg;
	uint32_t coalesce_count, coalesce_us;
};

/** virtq_vhost_user_server_create - prepare to serve. 0, -EINVAL, -ENOMEM, -EMFILE. */
VIRTQ_API int virtq_vhost_user_server_create(struct virtq_vhost_user_server **out,
					     const struct virtq_vhost_user_server_config *config,
					     struct virtq_error *err);

/**
 * virtq_vhost_user_serve - serve one client after another until told to stop
 *
 * A client that misbehaves loses its connection and nothing else. While one is
 * served, further ones wait: sixteen of them here, the rest in the socket's backlog.
 * One that says nothing is passed over, and when others wait for its place hung up on
 * after five seconds, the oldest first.
 *
 * May be called again afterwards. A stop that comes before it ends it at once.
 *
 * Return: 0 after virtq_vhost_user_server_stop(), with every request in flight
 *	finished; or -errno if the listening socket failed.
 * Thread: one; the engines do the work.
 */
VIRTQ_API int virtq_vhost_user_serve(struct virtq_vhost_user_server *server,
				     struct virtq_error *err);

/** virtq_vhost_user_server_stop - end serve(). Thread: any; safe in a signal handler. */
VIRTQ_API void virtq_vhost_user_server_stop(struct virtq_vhost_user_server *server);

/**
 * virtq_vhost_user_server_stats - counters of one queue, over all clients so far
 * Return: 0, or -EINVAL for a queue that the device does not have. Thread: any. Does
 *	not wait, not even for a queue that is at its end.
 */
VIRTQ_API int virtq_vhost_user_server_stats(struct virtq_vhost_user_server *server,
					    unsigned int queue,
					    struct virtq_engine_stats *stats);

/**
 * virtq_vhost_user_server_config_changed - the model's configuration space is another now
 *
 * The client that is connected, and took the feature for it, is told
 * (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG); one that comes later finds it changed.
 *
 * Thread: any. Does not wait for the client.
 */
VIRTQ_API void virtq_vhost_user_server_config_changed(struct virtq_vhost_user_server *server);

/**
 * virtq_vhost_user_server_pause - bring the client's queues to a standstill
 * virtq_vhost_user_server_resume - let them go on
 *
 * As virtq_engine_pause() and virtq_engine_resume() of all queues at once. Queues
 * that start meanwhile, of this client or the next, stand still as well. The
 * client is served otherwise, and can stop them.
 *
 * Return: 0; 1 if requests were cancelled because they took too long; -EALREADY,
 *	-ENOMEM (nothing was done).
 * Thread: any but the engines', and not from within event(). Waits for what the
 *	serving thread does for the client at the moment. Since: 0.1
 */
VIRTQ_API int virtq_vhost_user_server_pause(struct virtq_vhost_user_server *server);
VIRTQ_API void virtq_vhost_user_server_resume(struct virtq_vhost_user_server *server);

/**
 * virtq_vhost_user_server_move - let another engine turn a queue, now and for later clients
 * @to: any engine; borrowed as those of the config are
 *
 * Return: 0, -EINVAL (the device has no such queue), -ENOMEM: it stayed where it is.
 * Thread: as virtq_vhost_user_server_pause(). Since: 0.1
 */
VIRTQ_API int virtq_vhost_user_server_move(struct virtq_vhost_user_server *server,
					   unsigned int queue, struct virtq_engine *to);

/** virtq_vhost_user_server_destroy - free it, after serve() returned. NULL is fine. */
VIRTQ_API void virtq_vhost_user_server_destroy(struct virtq_vhost_user_server *server);

/**
 * virtq_vhost_user_listen - a listening socket at @path
 *
 * Takes the place of a socket file that nobody listens on any more; refuses
 * with -EADDRINUSE if somebody does, and with -EEXIST if @path is no socket.
 *
 * Return: the fd, or -errno.
 */
VIRTQ_API int virtq_vhost_user_listen(const char *path, struct virtq_error *err);

#ifdef __cplusplus
}
#endif

#endif
