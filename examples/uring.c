/* SPDX-License-Identifier: MIT */
/*
 * Transfers in an io_uring loop, beside a timer: four reads of a disk (local.c) are in
 * flight, and IORING_OP_POLL_ADD on the call fd says when to look. No call here waits.
 *
 *   uring [packed]
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>

#include "local.h"
#include "must.h"

#define SECTOR VIRTQ_BLK_SECTOR_BYTES

enum { READS = 1000, DEPTH = 4 };
enum { TIMER = 1, CALL };	/* user data of what the loop waits for */

/* In the queue's memory: what the device reads, then what it writes. */
struct request {
	struct virtq_blk_req_hdr header;
	char data[SECTOR], status;
};

static unsigned int sent, answered;

/* Send a transfer for the first time, or again: its pieces are still in place. */
static void send_next(struct virtq_transfers *set, struct virtq_transfer *t)
{
	const struct virtq_piece *p = virtq_transfer_pieces(t, NULL, NULL);

	virtq_blk_header(p[0].base, VIRTIO_BLK_T_IN, sent++ % LOCAL_DISK_SECTORS);
	must(virtq_transfer_send(set, &t, 1), "send");
}

/* Sector n is full of the byte n. */
static void check(const struct virtq_transfer *t)
{
	const struct virtq_piece *p = virtq_transfer_pieces(t, NULL, NULL);
	const struct request *req = virtq_transfer_arg(t);
	struct virtq_blk_req_hdr expected;

	virtq_blk_header(&expected, VIRTIO_BLK_T_IN, (unsigned char)req->data[0]);
	if (p[1].written != SECTOR || p[2].written != 1 || req->status != VIRTIO_BLK_S_OK ||
	    memcmp(&req->header, &expected, sizeof(expected)) ||
	    memcmp(req->data, req->data + 1, SECTOR - 1))
		must(-EBADMSG, "what was read");
	answered++;
}

/* Look at all that are back, and say that the next one shall call. Only then sleep. */
static void answers(struct virtq_transfers *set)
{
	struct virtq_transfer *done[DEPTH];
	int n;

	do {
		while ((n = must(virtq_transfers_poll(set, done, DEPTH, NULL), "poll")) > 0)
			for (int i = 0; i < n; i++) {
				check(done[i]);
				if (sent < READS)
					send_next(set, done[i]);
			}
	} while (must(virtq_transfers_arm(set), "arm"));	/* 1: one came in between */
}

int main(int argc, char **argv)
{
	struct virtq_port_config port = { .size = 16, .keep = true,	/* they are sent again */
					  .extra_bytes = DEPTH * sizeof(struct request) };
	struct virtq_transfers_config config = { .transfers_max = DEPTH, .pieces_max = 3 };
	struct __kernel_timespec patience = { .tv_sec = 10 };
	struct virtq_transfers *set;
	struct virtq_transfer *t;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	struct local disk;

	if (io_uring_queue_init(8, &ring, 0))
		return fprintf(stderr, "skipped: the kernel has no io_uring for us\n"), 77;
	must(local_open_disk(&disk, argc > 1 && !strcmp(argv[1], "packed"), &err), "disk");
	port.features = disk.features;
	must(virtq_port_create(&config.port, &port, &err), "queue");
	must(local_start(&disk, config.port, NULL, &err), "start");
	config.map = disk.map;
	must(virtq_transfers_create(&set, &config, &err), "transfers");

	for (struct request *req = virtq_port_extra(config.port); sent < DEPTH; req++) {
		struct virtq_piece pieces[] = {
			{ &req->header, sizeof(req->header) },
			{ req->data, SECTOR }, { &req->status, 1 },
		};
		must(virtq_transfer_prepare(set, &t, pieces, 1, 2, NULL, req), "prepare");
		send_next(set, t);
	}
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_timeout(sqe, &patience, 0, 0);
	io_uring_sqe_set_data64(sqe, TIMER);
	for (answers(set); answered < READS; answers(set)) {
		/* One shot. If the device has called since it was armed, it completes at once. */
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_poll_add(sqe, virtq_port_call_fd(config.port), POLLIN);
		io_uring_sqe_set_data64(sqe, CALL);
		must(io_uring_submit_and_wait(&ring, 1), "submit");
		must(io_uring_peek_cqe(&ring, &cqe), "completion");
		if (io_uring_cqe_get_data64(cqe) == TIMER)
			must(-ETIME, "no answer");
		io_uring_cqe_seen(&ring, cqe);
	}
	printf("%u sectors read\n", answered);
	local_close(&disk);
	virtq_transfers_destroy(set);
	virtq_port_destroy(config.port);
	io_uring_queue_exit(&ring);
	return EXIT_SUCCESS;
}
