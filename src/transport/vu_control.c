/* SPDX-License-Identifier: MIT */
/* Pausing, resuming and moving the queues of a vhost-user server while it serves. */
#include "transport/vu_control.h"

#include <errno.h>
#include <stdlib.h>

#include "transport/vu_session.h"

int vuser_control_init(struct vuser_control *control, unsigned int queues,
		       struct virtq_engine *const *engines, unsigned int engine_count)
{
	*control = (struct vuser_control){ .home = calloc(queues, sizeof(*control->home)) };
	if (!control->home)
		return -ENOMEM;
	for (unsigned int i = 0; i < queues; i++)
		control->home[i] = engines[i % engine_count];
	pthread_mutex_init(&control->lock, NULL);
	return 0;
}

void vuser_control_fini(struct vuser_control *control)
{
	pthread_mutex_destroy(&control->lock);
	free(control->home);
}

/* The queues that are turned, into @queues. */
static unsigned int running(const struct vuser_control *control,
			    struct virtq_engine_queue *queues[VUSER_QUEUES_MAX])
{
	const struct vuser_session *s = control->session;
	unsigned int count = 0;

	for (unsigned int i = 0; s && i < s->vring_count; i++)
		if (s->vrings[i].queue)
			queues[count++] = s->vrings[i].queue;
	return count;
}

int virtq_vhost_user_server_pause(struct virtq_vhost_user_server *server)
{
	struct vuser_control *control = vuser_server_control(server);
	struct virtq_engine_queue *queues[VUSER_QUEUES_MAX];
	int rc = -EALREADY;

	pthread_mutex_lock(&control->lock);
	if (!control->paused) {
		rc = virtq_engine_pause(queues, running(control, queues), NULL);
		control->paused = rc >= 0;
	}
	pthread_mutex_unlock(&control->lock);
	return rc;
}

void virtq_vhost_user_server_resume(struct virtq_vhost_user_server *server)
{
	struct vuser_control *control = vuser_server_control(server);
	struct virtq_engine_queue *queues[VUSER_QUEUES_MAX];

	pthread_mutex_lock(&control->lock);
	if (control->paused)
		for (unsigned int n = running(control, queues); n--; )
			virtq_engine_resume(queues[n]);
	control->paused = false;
	pthread_mutex_unlock(&control->lock);
}

int virtq_vhost_user_server_move(struct virtq_vhost_user_server *server, unsigned int queue,
				 struct virtq_engine *to)
{
	struct vuser_control *control = vuser_server_control(server);
	int rc = 0;

	if (!to || queue >= vuser_server_queues(server))
		return -EINVAL;
	pthread_mutex_lock(&control->lock);
	if (control->session && control->session->vrings[queue].queue)
		rc = virtq_engine_move(control->session->vrings[queue].queue, to);
	if (!rc)
		control->home[queue] = to;
	pthread_mutex_unlock(&control->lock);
	return rc;
}
