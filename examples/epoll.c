/* SPDX-License-Identifier: MIT */
/*
 * A pool in an epoll loop, beside a timerfd. Each tick asks a disk (local.c)
 * for a sector; answers come when they come. No call to the library waits here.
 *
 *   epoll [packed]
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "local.h"
#include "must.h"

#define READS 100u
#define BATCH 8
#define SECTOR VIRTQ_BLK_SECTOR_BYTES

static unsigned int asked, answered;

/* A tick: a header for the device to read, and room for a sector and a status byte. */
static void ask(struct virtq_pool *pool)
{
	struct virtq_blk_req_hdr header;
	struct virtq_offer offer = {
		.header = &header, .header_bytes = sizeof(header), .writable_bytes = SECTOR + 1,
	};
	int n;

	virtq_blk_header(&header, VIRTIO_BLK_T_IN, asked % LOCAL_DISK_SECTORS);
	n = virtq_pool_offer(pool, &offer, 1, NULL, 0, NULL);
	if (n != -ENOSPC)	/* a slow disk: ask again at the next tick */
		asked += (unsigned int)must(n, "offer");
}

/* Sector n is full of the byte n, and what was asked for stands in the readable part. */
static void check(struct virtq_pool *pool, const struct virtq_chain *chain)
{
	struct virtq_blk_req_hdr header, expected;
	char data[SECTOR + 1] = "";

	virtq_pool_copy_out(pool, chain, VIRTQ_PART_READABLE, 0, &header, sizeof(header));
	virtq_pool_copy_out(pool, chain, VIRTQ_PART_WRITTEN, 0, data, sizeof(data));
	virtq_blk_header(&expected, VIRTIO_BLK_T_IN, (unsigned char)data[0]);
	if (chain->written != sizeof(data) || data[SECTOR] != VIRTIO_BLK_S_OK ||
	    memcmp(&header, &expected, sizeof(header)) || memcmp(data, data + 1, SECTOR - 1))
		must(-EBADMSG, "what was read");
	answered++;
}

/* Take all that is there, and say that the next one shall call. Only then sleep. */
static void answers(struct virtq_pool *pool)
{
	struct virtq_chain chains[BATCH];
	int n;

	do {
		while ((n = must(virtq_pool_take(pool, chains, BATCH, NULL), "take")) > 0) {
			for (int i = 0; i < n; i++)
				check(pool, &chains[i]);
			must(virtq_pool_free(pool, chains, (unsigned int)n), "free");
		}
	} while (must(virtq_pool_arm(pool), "arm"));	/* 1: one came in between, no call for it */
}

int main(int argc, char **argv)
{
	const struct itimerspec each_ms = { { 0, 1000000 }, { 0, 1000000 } };
	struct virtq_pool_config config = { .size = 16, .item_bytes = 1024 };
	struct epoll_event tick = { .events = EPOLLIN, .data.u32 = 0 };
	struct epoll_event call = { .events = EPOLLIN, .data.u32 = 1 };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct virtq_pool *pool;
	struct local disk;
	uint64_t ticks, patience_ms = 10000;

	must(local_open_disk(&disk, argc > 1 && !strcmp(argv[1], "packed"), &err), "disk");
	config.features = disk.features;
	must(virtq_pool_create(&pool, &config, &err), "queue");
	must(local_start(&disk, virtq_pool_port(pool), NULL, &err), "start");

	epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &tick);
	epoll_ctl(epoll, EPOLL_CTL_ADD, virtq_port_call_fd(virtq_pool_port(pool)), &call);
	timerfd_settime(timer, 0, &each_ms, NULL);
	answers(pool);		/* nothing yet, but now it is armed */
	while (answered < READS) {
		struct epoll_event event;

		must(epoll_wait(epoll, &event, 1, -1), "epoll_wait");
		if (event.data.u32 == call.data.u32) {
			answers(pool);	/* its fd is not read: arming takes the signal away */
			continue;
		}
		must((int)read(timer, &ticks, sizeof(ticks)), "timer");
		if (asked < READS)
			ask(pool);
		if (ticks > patience_ms)
			must(-ETIME, "answers");
		patience_ms -= ticks;
	}
	printf("%u sectors asked for, %u read\n", asked, answered);

	local_close(&disk);
	virtq_pool_destroy(pool);
	close(epoll);
	close(timer);
	return EXIT_SUCCESS;
}
