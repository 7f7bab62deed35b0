/* SPDX-License-Identifier: MIT */
/*
 * Transfers that are abandoned while the device has them. Their memory may not
 * be used again before the device is done with it: the release function says
 * when, once. Here both ends are in one thread, so that each step can be seen.
 *
 *   abandon [packed]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/virtq.h>

/* Memory of the program's: whether it is free, and how often it was released. */
struct block {
	char bytes[64];
	int released, status;
	size_t written;
};

static struct virtq_error err;

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s %s\n", what, err.text);
	exit(EXIT_FAILURE);
}

static void release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		    unsigned int writable, int status)
{
	struct block *block = arg;

	(void)readable;
	(void)writable;
	block->released++;
	block->status = status;
	block->written = pieces[0].written;
}

/* Send a block for the device to fill; the device takes it from the ring. */
static struct virtq_transfer *send_block(struct virtq_transfers *set, struct block *block,
					 struct virtq_device *device, struct virtq_req **req)
{
	struct virtq_piece piece = { block->bytes, sizeof(block->bytes) };
	struct virtq_transfer *t;

	must(!virtq_transfer_prepare(set, &t, &piece, 0, 1, release, block), "prepare");
	must(!piece.base, "the transfer owns the piece");
	must(virtq_transfer_send(set, &t, 1) == 1, "send");
	must(virtq_device_pop(device, req, 1) == 1, "the device takes it");
	return t;
}

int main(int argc, char **argv)
{
	struct virtq_port_config port = { .size = 8, .extra_bytes = 2 * sizeof(struct block) };
	struct virtq_transfers_config config = { .transfers_max = 4, .pieces_max = 1 };
	struct virtq_device_config device_config = { 0 };
	struct virtq_transfers *set;
	struct virtq_transfer *t;
	struct virtq_device *device;
	struct virtq_req *req;
	struct block *blocks;
	unsigned int count;

	port.features = virtq_ring_features_usual();
	if (argc < 2 || strcmp(argv[1], "packed"))
		port.features = virtq_features_without(port.features, VIRTIO_F_RING_PACKED);
	must(!virtq_port_create(&config.port, &port, &err), "queue");
	must(!virtq_map_create(&config.map, virtq_port_regions(config.port, &count), 1, &err),
	     "map");
	must(!virtq_transfers_create(&set, &config, &err), "transfers");
	device_config.ring = *virtq_driver_ring(virtq_port_driver(config.port));
	device_config.map = config.map;
	must(!virtq_device_create(&device, &device_config, &err), "device");
	blocks = virtq_port_extra(config.port);		/* two of them, zeroed */

	/* Abandoned in flight. The device writes to it later, and that is fine. */
	t = send_block(set, &blocks[0], device, &req);
	virtq_transfer_abandon(t);
	must(virtq_transfers_poll(set, &t, 1, NULL) == 0, "abandoned: not returned");
	must(!blocks[0].released, "the device still has it: not released");
	must(virtq_req_write(req, "late", 4) == 4, "the device writes");
	virtq_device_push(device, &req, 1);
	virtq_device_publish(device);
	must(!blocks[0].released, "nobody has looked at the ring yet");
	must(virtq_transfers_poll(set, &t, 1, NULL) == 0, "still not returned");
	must(blocks[0].released == 1 && !blocks[0].status && blocks[0].written == 4, "released");

	/* Another one, which the device never gives back: the queue is reset instead. */
	t = send_block(set, &blocks[1], device, &req);
	virtq_transfer_abandon(t);
	must(virtq_transfers_reset(set, NULL) == -EBUSY, "refused while the device may write");
	virtq_device_destroy(device);
	virtq_driver_stop(virtq_port_driver(config.port));	/* a transport says that for you */
	must(!blocks[1].released, "stopped, not reset yet");
	must(virtq_transfers_reset(set, NULL) == 1, "reset");
	must(blocks[1].released == 1 && blocks[1].status == -ECANCELED, "released by the reset");

	virtq_transfers_destroy(set);
	must(blocks[0].released == 1 && blocks[1].released == 1, "each of them once");
	printf("two abandoned transfers, each released once\n");
	virtq_map_unref(config.map);
	virtq_port_destroy(config.port);
	return EXIT_SUCCESS;
}
