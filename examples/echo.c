/* SPDX-License-Identifier: MIT */
#include "echo.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH 32
#define NUM_BUFFERS 10		/* where that field begins in struct virtio_net_hdr (5.1.6) */

/* One queue, seen by the device. */
struct end {
	struct virtq_device *q;
	int kick_fd, call_fd;		/* the port's */
};

struct echo {
	struct end receive, transmit;	/* as the driver calls them */
	struct virtq_req *buffer;	/* LOAN: of the receive queue, for the next packet */
	struct virtq_map *map;
	pthread_t thread;
	int stop_fd;
};

/* Carry one packet over. 1; 0 if there is no packet, or no buffer for it; or -EBADMSG. */
static int echo_packet(struct echo *echo)
{
	static const uint8_t one[2] = { 1, 0 };
	uint8_t packet[2048];
	struct virtq_req *sent;
	size_t len;
	int n = echo->buffer ? 1 : virtq_device_pop(echo->receive.q, &echo->buffer, 1);

	if (n == 1)
		n = virtq_device_pop(echo->transmit.q, &sent, 1);
	if (n != 1)
		return n;
	len = virtq_req_read(sent, packet, sizeof(packet));
	memcpy(packet + NUM_BUFFERS, one, sizeof(one));
	virtq_req_write(echo->buffer, packet, len);
	virtq_device_push(echo->transmit.q, &sent, 1);
	virtq_device_push(echo->receive.q, &echo->buffer, 1);
	echo->buffer = NULL;
	return 1;
}

static void publish(const struct end *end)
{
	if (virtq_device_publish(end->q))
		virtq_notify_send(end->call_fd);
}

static void *serve(void *arg)
{
	struct echo *echo = arg;
	int rc = 0;

	while (rc >= 0) {
		struct pollfd fds[2] = { { .events = POLLIN },
					 { .fd = echo->stop_fd, .events = POLLIN } };
		const struct end *missing;
		unsigned int n = 0;

		while (n < BATCH && (rc = echo_packet(echo)) == 1)
			n++;
		publish(&echo->transmit);
		publish(&echo->receive);
		if (n)
			continue;
		/* Clear, then arm, then sleep: a kick that comes after the look is not lost. */
		missing = echo->buffer ? &echo->transmit : &echo->receive;
		fds[0].fd = missing->kick_fd;
		virtq_notify_clear(missing->kick_fd);
		if (virtq_device_arm(missing->q))
			continue;
		poll(fds, 2, -1);
		if (fds[1].revents)
			break;
	}
	return NULL;
}

static int end_open(struct end *end, const struct virtq_port *port, struct virtq_map *map,
		    struct virtq_error *err)
{
	struct virtq_device_config config = {
		.ring = *virtq_driver_ring(virtq_port_driver(port)), .map = map,
	};

	end->kick_fd = virtq_port_kick_fd(port);
	end->call_fd = virtq_port_call_fd(port);
	return virtq_device_create(&end->q, &config, err);
}

int echo_start(struct echo **out, const struct virtq_port *receive,
	       const struct virtq_port *transmit, struct virtq_error *err)
{
	struct virtq_region regions[2];
	struct echo *echo = calloc(1, sizeof(*echo));
	unsigned int count;
	int rc;

	if (!echo)
		return -ENOMEM;
	regions[0] = *virtq_port_regions(receive, &count);
	regions[1] = *virtq_port_regions(transmit, &count);
	echo->stop_fd = virtq_notify_open();
	rc = echo->stop_fd < 0 ? echo->stop_fd : virtq_map_create(&echo->map, regions, 2, err);
	if (!rc)
		rc = end_open(&echo->receive, receive, echo->map, err);
	if (!rc)
		rc = end_open(&echo->transmit, transmit, echo->map, err);
	if (!rc)
		rc = -pthread_create(&echo->thread, NULL, serve, echo);
	if (!rc) {
		*out = echo;
		return 0;
	}
	virtq_device_destroy(echo->transmit.q);
	virtq_device_destroy(echo->receive.q);
	virtq_map_unref(echo->map);
	if (echo->stop_fd >= 0)
		close(echo->stop_fd);
	free(echo);
	return rc;
}

void echo_stop(struct echo *echo)
{
	if (!echo)
		return;
	virtq_notify_send(echo->stop_fd);
	pthread_join(echo->thread, NULL);
	virtq_device_destroy(echo->transmit.q);
	virtq_device_destroy(echo->receive.q);
	virtq_map_unref(echo->map);
	close(echo->stop_fd);
	free(echo);
}
