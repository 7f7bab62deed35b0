/* SPDX-License-Identifier: MIT */
/* Clients that wait for their turn, and those among them that say nothing. */
#include "transport/vu_waiting.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/vu_sock.h"

enum waiter_state { WAITER_MUTE, WAITER_SPOKE, WAITER_GONE };

/*
 * UNTRUSTED: a socket that is ready may have nothing to be read, for a byte out of band
 * makes it so. Nobody speaks vhost-user with these, and waiting for such a one would
 * wake us at once, again and again: it counts as gone.
 */
static enum waiter_state state_of(const struct vuser_waiter *waiter)
{
	struct pollfd ready = { waiter->fd, POLLIN, 0 };
	ssize_t n;
	char byte;

	if (poll(&ready, 1, 0) <= 0)
		return WAITER_MUTE;
	n = recv(waiter->fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
	if (n > 0)
		return WAITER_SPOKE;
	return n < 0 && errno == EINTR ? WAITER_MUTE : WAITER_GONE;
}

static int take(struct vuser_waiting *w, unsigned int i)
{
	int fd = w->client[i].fd;

	w->count--;
	memmove(&w->client[i], &w->client[i + 1], (w->count - i) * sizeof(w->client[0]));
	return fd;
}

void vuser_waiting_fini(struct vuser_waiting *w)
{
	while (w->count)
		close(take(w, w->count - 1));
}

/*
 * The first of those who say nothing, and so the oldest; or @w->count. Who has shut
 * down its end before the first word, but not hung up, will say nothing either.
 */
static unsigned int find_mute(const struct vuser_waiting *w)
{
	unsigned int i = 0;

	while (i < w->count && state_of(&w->client[i]) == WAITER_SPOKE)
		i++;
	return i;
}

int vuser_waiting_room_ms(const struct vuser_waiting *w)
{
	unsigned int mute;

	if (w->count < VUSER_WAITING_MAX)
		return 0;
	mute = find_mute(w);
	return mute < w->count ? vuser_ms_left(w->client[mute].mute_until_ns) : -1;
}

bool vuser_waiting_make_room(struct vuser_waiting *w)
{
	unsigned int mute;

	if (w->count < VUSER_WAITING_MAX)
		return true;
	mute = find_mute(w);
	if (mute == w->count || vuser_ms_left(w->client[mute].mute_until_ns))
		return false;
	close(take(w, mute));
	return true;
}

void vuser_waiting_add(struct vuser_waiting *w, int fd)
{
	w->client[w->count++] = (struct vuser_waiter){ fd, vuser_deadline_ns(VUSER_MUTE_MS) };
}

unsigned int vuser_waiting_poll(const struct vuser_waiting *w, struct pollfd *polls, short events)
{
	for (unsigned int i = 0; i < w->count; i++)
		polls[i] = (struct pollfd){ w->client[i].fd, events, 0 };
	return w->count;
}

void vuser_waiting_dismiss_gone(struct vuser_waiting *w, const struct pollfd *polls)
{
	for (unsigned int i = w->count; i--;)
		if (polls[i].revents)
			close(take(w, i));
}

int vuser_waiting_next(struct vuser_waiting *w)
{
	for (unsigned int i = 0; i < w->count;) {
		enum waiter_state state = state_of(&w->client[i]);

		if (state == WAITER_SPOKE)
			return take(w, i);
		if (state == WAITER_GONE)
			close(take(w, i));
		else
			i++;
	}
	return -1;
}
