/* SPDX-License-Identifier: MIT */
/*
 * Clients of a vhost-user server that wait for their turn.
 *
 * Whoever connects is taken in at once, so that those who only looked and went do
 * not fill the socket's backlog. There is room for a few; the backlog has the rest.
 * A client that says nothing is passed over, and when the room is full for long
 * enough gives up its place: a crowd of mute ones keeps nobody from being served.
 *
 * Thread: the one in virtq_vhost_user_serve().
 */
#ifndef VIRTQ_TRANSPORT_VU_WAITING_H
#define VIRTQ_TRANSPORT_VU_WAITING_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define VUSER_WAITING_MAX 16u

/* How long a client keeps its place without a word. */
#define VUSER_MUTE_MS 5000u

struct vuser_waiting {
	unsigned int count;
	struct vuser_waiter {
		int fd;
		uint64_t mute_until_ns;
	} client[VUSER_WAITING_MAX];	/* the oldest first */
};

/* All are hung up on. */
void vuser_waiting_fini(struct vuser_waiting *w);

/*
 * In how many milliseconds one more can be taken in: 0: at once; -1: not before
 * one of those here was served, went, or was found out to be mute for too long.
 */
int vuser_waiting_room_ms(const struct vuser_waiting *w);

/* Is there room for one more? A mute one may have to go for it. */
bool vuser_waiting_make_room(struct vuser_waiting *w);

/* A client has come, and there is room for it. */
void vuser_waiting_add(struct vuser_waiting *w, int fd);

/* Fill in one of @polls for each. How many. */
unsigned int vuser_waiting_poll(const struct vuser_waiting *w, struct pollfd *polls,
				short events);

/* Let those go of whom @polls, without events to wait for, say that they hung up. */
void vuser_waiting_dismiss_gone(struct vuser_waiting *w, const struct pollfd *polls);

/*
 * Who has waited longest of those who said a first word, to be served; -1 for nobody.
 * Who hung up before that, as one who only wants to know whose socket this is does, is
 * no client. Nor is one with nothing but bytes out of band: that one is hung up on.
 */
int vuser_waiting_next(struct vuser_waiting *w);

#endif
