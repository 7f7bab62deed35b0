/* SPDX-License-Identifier: MIT */
/*
 * One client of the vhost-user back end: what it negotiated, its memory, and
 * the states of its rings.
 *
 * Thread: all of it belongs to the thread in virtq_vhost_user_serve(). Only the
 * counters and the channel are others' business, too, under their locks, and the
 * queues under that of the control.
 */
#ifndef VIRTQ_TRANSPORT_VU_SESSION_H
#define VIRTQ_TRANSPORT_VU_SESSION_H

#include <pthread.h>

#include <virtq/vhost_user.h>

#include "transport/vu_channel.h"
#include "transport/vu_control.h"
#include "transport/vu_memory.h"
#include "transport/vu_sock.h"

/* A ring's index is 8 bits wide in the messages that bring descriptors. */
#define VUSER_QUEUES_MAX (VHOST_USER_VRING_IDX_MASK + 1u)

/*
 * One ring.
 *
 * Started means @kicked: SET_VRING_KICK came and GET_VRING_BASE did not. A
 * started ring is turned (@queue) as soon as size, addresses, features and
 * memory are there, and for as long as its memory is. The engine has
 * duplicates of the descriptors.
 */
struct vuser_vring {
	uint32_t size;			/* 0 until SET_VRING_NUM */
	uint32_t base;
	bool base_known;
	bool addr_known;
	bool enabled;
	bool kicked;
	uint64_t desc_user, driver_user, device_user;
	int kick_fd, call_fd, err_fd;	/* the client's, or -1 */
	int broken_fd;			/* ours: the engine says that the ring broke; -1 once told */
	struct virtq_engine_queue *queue;	/* NULL while not turned */
	struct virtq_device *device;
};

/* What a request that concerns all rings can have changed of one. */
struct vuser_vring_before {
	bool ran;
	bool enabled;
	bool base_known;
	uint32_t base;
};

/* What queues did, over all clients. Survives sessions. */
struct vuser_counters {
	pthread_mutex_t lock;
	struct vuser_counter {
		struct virtq_engine_stats past;
		struct virtq_engine_queue *live;	/* same as the ring's @queue */
	} *queue;
};

struct vuser_session {
	const struct virtq_vhost_user_server_config *config;
	struct vuser_counters *counters;
	struct vuser_channel *channel;	/* the server's */
	struct vuser_control *control;	/* the server's; NULL if there is nobody to pause or move */
	uint64_t offered;		/* what GET_FEATURES answers */
	int fd;
	bool features_known;		/* SET_FEATURES came */
	uint64_t features;		/* acknowledged, transport bits included */
	uint64_t protocol_features;	/* acknowledged */
	struct vuser_receiver rx;
	struct vuser_msg reply;
	struct vuser_memory memory;
	unsigned int vring_count;
	struct vuser_vring *vrings;
};

/* ---- vu_backend.c ---- */

struct vuser_control *vuser_server_control(struct virtq_vhost_user_server *server);
unsigned int vuser_server_queues(const struct virtq_vhost_user_server *server);

/* ---- vu_session.c ---- */

/* Begin with a connected socket, which is taken. 0 or -ENOMEM (nothing taken then). */
int vuser_session_open(struct vuser_session **out, int fd,
		       const struct virtq_vhost_user_server_config *config,
		       struct vuser_counters *counters, struct vuser_channel *channel,
		       uint64_t offered);

/*
 * Take what has arrived, at most one message, and answer it.
 *
 * Return: 0; -EPIPE when the client closed the connection; any other negative
 *	value when the client has to be cut off, with the reason.
 */
int vuser_session_serve(struct vuser_session *s, struct virtq_error *err);

/* Stop the rings and reset the device. Comes before close. */
void vuser_session_halt(struct vuser_session *s);

/* Let go of the memory and of the descriptors, close the socket, free it. */
void vuser_session_close(struct vuser_session *s);

/* Tell the program what happened. */
void vuser_session_event(const struct vuser_session *s, enum virtq_vhost_user_event event,
			 int queue, const char *text);

/* ---- vu_vring.c ---- */

void vuser_stats_add(struct virtq_engine_stats *sum, const struct virtq_engine_stats *more);

void vuser_vring_init(struct vuser_vring *v);

/* The acknowledged features that drivers know of, too. */
struct virtq_features vuser_session_features(const struct vuser_session *s);

/*
 * Begin to turn a ring that is started and complete; nothing to do otherwise.
 *
 * Return: 0, -EINVAL or -EFAULT (addresses, size or position that cannot be),
 *	-ENOMEM, -EMFILE.
 */
int vuser_vring_settle(struct vuser_session *s, unsigned int i, struct virtq_error *err);

/* Finish what is in flight and turn the ring no more; its base says where to go on. */
void vuser_vring_halt(struct vuser_session *s, unsigned int i, const char *why);

/* Note how a ring is, and bring it back there: while the features are still the new ones. */
void vuser_vring_save(const struct vuser_vring *v, struct vuser_vring_before *before);
void vuser_vring_undo(struct vuser_session *s, unsigned int i,
		      const struct vuser_vring_before *before);

/* After a change of memory or addresses: go on under the new ones, or halt. */
void vuser_vring_remap(struct vuser_session *s, unsigned int i);

/* The requests that concern one ring. 0 or -errno with the reason. */
int vuser_vring_set_num(struct vuser_session *s, unsigned int i, uint32_t size,
			struct virtq_error *err);
int vuser_vring_set_base(struct vuser_session *s, unsigned int i, uint32_t base,
			 struct virtq_error *err);
int vuser_vring_set_addr(struct vuser_session *s, unsigned int i,
			 const struct VhostUserVringAddr *addr, struct virtq_error *err);
int vuser_vring_set_enable(struct vuser_session *s, unsigned int i, uint32_t enable,
			   struct virtq_error *err);
/* @fd is taken; -1 for none. */
int vuser_vring_set_fd(struct vuser_session *s, unsigned int i, enum virtq_engine_fd which,
		       int fd, struct virtq_error *err);
/* GET_VRING_BASE: stop, and the answer. */
uint32_t vuser_vring_stop(struct vuser_session *s, unsigned int i);

/* Back to how a ring is at the start of a session; the call and error fds stay. */
void vuser_vring_reset(struct vuser_session *s, unsigned int i);

/* The engine signalled @broken_fd: tell the program and the client. */
void vuser_vring_broke(struct vuser_session *s, unsigned int i);

#endif
