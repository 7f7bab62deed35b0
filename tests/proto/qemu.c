/* SPDX-License-Identifier: MIT */
/*
 * The front end against QEMU's storage daemon: somebody else's reading of the
 * same document. Skipped where the daemon is not installed.
 */
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../emulated.h"

#define DISK_BYTES (8u << 20)
#define DAEMON "qemu-storage-daemon"

static char directory[] = "/tmp/virtq-qsd-XXXXXX";
static pid_t daemon_pid;

static int daemon_start(void **state)
{
	char blockdev[128], export[192], path[64];
	FILE *disk;

	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/disk", directory);
	disk = fopen(path, "w");
	assert_non_null(disk);
	assert_int_equal(ftruncate(fileno(disk), DISK_BYTES), 0);
	fclose(disk);
	snprintf(blockdev, sizeof(blockdev), "driver=file,node-name=f,filename=%s", path);
	snprintf(export, sizeof(export), "vhost-user-blk,id=e,node-name=f,addr.type=unix,"
		 "addr.path=%s/sock,writable=on,num-queues=2", directory);
	daemon_pid = fork();
	if (!daemon_pid) {
		execlp(DAEMON, DAEMON, "--blockdev", blockdev, "--export", export, (char *)NULL);
		_exit(127);
	}
	snprintf(path, sizeof(path), "%s/sock", directory);
	for (unsigned int i = 0; access(path, F_OK) && i < 1000; i++)
		usleep(10000);
	*state = strdup(path);
	return access(path, F_OK);
}

static int daemon_stop(void **state)
{
	char path[64];

	kill(daemon_pid, SIGTERM);
	waitpid(daemon_pid, NULL, 0);
	unlink(*state);
	free(*state);
	snprintf(path, sizeof(path), "%s/disk", directory);
	unlink(path);
	return rmdir(directory);
}

static void check(int rc, const struct virtq_error *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

/* One request of 4096 bytes of data, and its status. */
static uint8_t request(struct queue *q, uint32_t type, uint64_t sector, uint8_t *data)
{
	struct virtq_blk_req_hdr *header = (void *)(q->memory + 0x80000);
	uint8_t *status = q->memory + 0x80020;
	uint64_t gpa = q->gpa + 0x80000;
	struct virtq_seg segs[3] = { { gpa, 16 }, { gpa + 0x1000, 4096 }, { gpa + 0x20, 1 } };
	bool out = type == VIRTIO_BLK_T_OUT;
	struct virtq_buffer buffer = { segs, out ? 2 : 1, out ? 1 : 2, NULL };
	struct virtq_completion done;

	virtq_blk_header(header, type, sector);
	if (out)
		memcpy(q->memory + 0x81000, data, 4096);
	*status = 0xff;
	assert_int_equal(virtq_driver_add(q->driver, &buffer, 1), 1);
	if (virtq_driver_publish(q->driver))
		virtq_notify_send(q->kick_fd);
	while (!virtq_driver_get(q->driver, &done, 1))
		if (virtq_driver_arm(q->driver) == 0 &&
		    virtq_notify_wait(q->call_fd, 5000) != 1)
			fail_msg("no answer");
	if (!out)
		memcpy(data, q->memory + 0x81000, 4096);
	return *status;
}

/* Two clients in turn; two queues each; stopped in the middle, and what was written is there. */
static void test_disk(void **state)
{
	for (unsigned int client = 0; client < 2; client++) {
		struct virtq_error err = { 0, "" };
		struct virtq_transport *t;
		struct virtq_features features = { { layouts[0], 0 } };
		struct virtq_blk_config config;
		uint8_t raw[60], data[4096], expected[4096];
		struct queue queues[2];
		struct virtq_region both[2];
		struct virtq_map *map;
		uint32_t position;
		unsigned int n;

		check(virtq_vhost_user_connect(&t, *state, 5000, &err), &err);
		assert_int_equal(virtq_transport_queues(t), 2);
		assert_true(virtq_features_has(virtq_transport_offered(t), VIRTIO_BLK_F_MQ));
		assert_false(virtq_features_has(virtq_transport_offered(t), 30));
		features = virtq_features_with(features, VIRTIO_BLK_F_MQ);
		features = virtq_features_with(features, VIRTIO_F_EVENT_IDX);
		features = virtq_features_and(features, virtq_transport_offered(t));
		check(virtq_transport_accept(t, features, &err), &err);
		check(virtq_transport_config_read(t, 0, raw, sizeof(raw), &err), &err);
		check(virtq_blk_config_decode(&config, raw, sizeof(raw),
					      virtq_transport_offered(t)), &err);
		assert_int_equal(config.capacity_sectors, DISK_BYTES / 512);
		assert_int_equal(config.num_queues, 2);
		/* Not from the start: the same bytes (some back ends ignore the offset). */
		check(virtq_transport_config_read(t, 4, data, 8, &err), &err);
		assert_memory_equal(data, raw + 4, 8);
		for (unsigned int i = 0; i < 2; i++) {
			queue_open(&queues[i], -1, i, features.word[0], 128);
			both[i] = *virtq_map_regions(queues[i].map, &n);
		}
		check(virtq_map_create(&map, both, 2, &err), &err);
		check(virtq_transport_share(t, map, &err), &err);
		for (unsigned int i = 0; i < 2; i++)
			check(virtq_transport_start(t, i, queues[i].driver, queues[i].kick_fd,
						    queues[i].call_fd, &err), &err);
		for (unsigned int k = 0; k < 300; k++) {
			struct queue *q = &queues[k % 2];

			memset(expected, (int)(k + client + 1), sizeof(expected));
			assert_int_equal(request(q, VIRTIO_BLK_T_OUT, k * 8, expected), 0);
			assert_int_equal(request(q, VIRTIO_BLK_T_IN, k * 8, data), 0);
			assert_memory_equal(data, expected, sizeof(data));
			if (k % 50 == 0) {
				check(virtq_transport_stop(t, k % 2, &position, &err), &err);
				assert_int_equal(position, virtq_driver_position(q->driver));
				check(virtq_transport_start(t, k % 2, q->driver, q->kick_fd,
							    q->call_fd, &err), &err);
			}
		}
		assert_int_equal(request(&queues[0], VIRTIO_BLK_T_IN, 1u << 30, data),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(virtq_transport_alive(t), 1);
		virtq_transport_close(t);
		virtq_map_unref(map);
		queue_close(&queues[0]);
		queue_close(&queues[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_disk, daemon_start, daemon_stop),
	};

	if (system("command -v " DAEMON " >/dev/null")) {
		printf("skipped: %s is not installed\n", DAEMON);
		return 77;
	}
	/* vhost-user speaks the machine's own byte order. */
	if (emulated() && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) {
		printf("skipped: the daemon runs on this machine, whose byte order is another\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
