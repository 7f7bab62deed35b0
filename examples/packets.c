/* SPDX-License-Identifier: MIT */
/*
 * The packet loop of a network driver: a receive queue that is kept full of
 * buffers, and a transmit queue whose packets get a virtio_net_hdr in front.
 * The device (echo.c) sends back what it gets, so each packet can be checked.
 *
 *   packets [packed]
 */
#include <errno.h>
#include <string.h>

#include "echo.h"
#include "must.h"

#define SIZE 64			/* entries of each queue */
#define BATCH 16u
#define PACKETS (1250 * BATCH)
#define HEADER_BYTES 12		/* struct virtio_net_hdr as of VERSION_1 */
#define PACKET_BYTES 1514

static const struct virtq_wait patience = { .timeout_ms = 10000 };
static unsigned int sent, received;

/* Packet number @n, of a length of its own. */
static uint32_t make_packet(char *packet, unsigned int n)
{
	uint32_t len = 60 + n % (PACKET_BYTES - 60);

	memset(packet, (int)(n % 251), len);
	memcpy(packet, &n, sizeof(n));
	return len;
}

/* Send a batch, or what there is room for. Nothing here waits. */
static void transmit(struct virtq_pool *pool)
{
	static const char header[HEADER_BYTES];		/* no offloads: all zero */
	static char packets[BATCH][PACKET_BYTES];
	struct virtq_span parts[BATCH];
	struct virtq_offer offers[BATCH];
	int n;

	for (unsigned int i = 0; i < BATCH; i++) {
		bool copy = (sent + i) % 2;

		parts[i].base = packets[i];
		parts[i].len = make_packet(packets[i], sent + i);
		/* A copy lies in the packet's item; by reference all share one header. */
		offers[i] = (struct virtq_offer){
			.header = copy ? header : virtq_pool_reserved(pool),
			.header_bytes = HEADER_BYTES,
			.flags = VIRTQ_OFFER_FORGET | (copy ? 0 : VIRTQ_OFFER_REFERENCE),
			.parts = &parts[i], .part_count = 1,
		};
	}
	n = virtq_pool_offer(pool, offers, BATCH, NULL, 0, NULL);
	if (n != -ENOSPC)	/* no room: the device has not caught up */
		sent += (unsigned int)must(n, "transmit");
}

/* Look at packets where they lie, then let the device have the buffers again. */
static void receive(struct virtq_pool *pool)
{
	struct virtq_chain chains[BATCH];
	char expected[PACKET_BYTES];
	int n = must(virtq_pool_take(pool, chains, BATCH, &patience), "receive");

	for (int i = 0; i < n; i++) {
		uint32_t len = make_packet(expected, received++);
		struct virtq_span span;

		must(virtq_pool_spans(pool, &chains[i], VIRTQ_PART_WRITTEN, &span, 1), "spans");
		if (chains[i].written != HEADER_BYTES + len ||
		    memcmp((char *)span.base + HEADER_BYTES, expected, len))
			must(-EBADMSG, "a packet that was not sent");
	}
	if (!n || virtq_pool_recycle(pool, chains, (unsigned int)n, 0) != n)
		must(-ETIME, "no more packets");
}

int main(int argc, char **argv)
{
	struct virtq_pool_config config = {
		.features = virtq_ring_features_usual(), .size = SIZE, .item_bytes = 2048,
		.reserve_bytes = HEADER_BYTES,		/* zeroed, as all of the memory */
	};
	struct virtq_pool *rx, *tx;
	struct echo *device;

	if (argc < 2 || strcmp(argv[1], "packed"))
		config.features = virtq_features_without(config.features, VIRTIO_F_RING_PACKED);
	must(virtq_pool_create(&rx, &config, &err), "receive queue");
	must(virtq_pool_create(&tx, &config, &err), "transmit queue");
	must(echo_start(&device, virtq_pool_port(rx), virtq_pool_port(tx), &err), "device");

	must(virtq_pool_offer_writable(rx, SIZE, HEADER_BYTES + PACKET_BYTES, NULL, 0, NULL),
	     "receive buffers");
	while (received < PACKETS) {
		transmit(tx);
		receive(rx);
	}
	printf("%u packets sent, %u are back\n", sent, received);

	echo_stop(device);
	virtq_pool_destroy(tx);
	virtq_pool_destroy(rx);
	return EXIT_SUCCESS;
}
