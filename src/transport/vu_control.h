/* SPDX-License-Identifier: MIT */
/* What other threads do to the queues of a vhost-user server: pause, resume, move. */
#ifndef VIRTQ_TRANSPORT_VU_CONTROL_H
#define VIRTQ_TRANSPORT_VU_CONTROL_H

#include <pthread.h>
#include <stdbool.h>

#include <virtq/engine.h>

struct vuser_session;

/*
 * The serving thread holds @lock whenever it touches the rings of its client,
 * not while it waits for the client. The rest is only touched under it.
 */
struct vuser_control {
	pthread_mutex_t lock;
	bool paused;
	struct virtq_engine **home;	/* of each queue */
	struct vuser_session *session;	/* NULL while there is no client */
};

/* One home for each of @queues, of @engines in turn. 0 or -ENOMEM. */
int vuser_control_init(struct vuser_control *control, unsigned int queues,
		       struct virtq_engine *const *engines, unsigned int engine_count);
void vuser_control_fini(struct vuser_control *control);

#endif
