/* SPDX-License-Identifier: MIT */
/*
 * A client that stays: prints the capacity of the disk behind a socket, bytes, and
 * again each time that the disk says that it is another, until the server goes.
 */
#include <poll.h>
#include <stdio.h>

#include <virtq/virtq.h>

static int print_capacity(struct virtq_transport *t, struct virtq_error *err)
{
	struct virtq_blk_config config;
	uint64_t raw;
	int rc = virtq_transport_config_read(t, 0, &raw, sizeof(raw), err);

	if (rc == 0)
		rc = virtq_blk_config_decode(&config, &raw, sizeof(raw),
					     (struct virtq_features){ { 0, 0 } });
	if (rc == 0)
		printf("%llu\n", (unsigned long long)config.capacity_sectors * 512);
	fflush(stdout);
	return rc;
}

/* Return when there is something new, or the server has gone. */
static uint32_t next_generation(struct virtq_transport *t, uint32_t seen)
{
	uint32_t now = seen;

	while (now == seen && virtq_transport_alive(t)) {
		struct pollfd polls[2] = {
			{ virtq_transport_fd(t), POLLIN, 0 },
			{ virtq_transport_config_fd(t), POLLIN, 0 },
		};

		poll(polls, 2, -1);
		now = virtq_transport_config_generation(t);
	}
	return now;
}

int main(int argc, char **argv)
{
	struct virtq_transport *t;
	struct virtq_error err = { 0 };
	uint32_t seen;
	int rc;

	if (argc != 2 || virtq_vhost_user_connect(&t, argv[1], 0, &err) < 0) {
		fprintf(stderr, "watch-disk: %s\n", argc == 2 ? err.text : "one SOCKET is needed");
		return 1;
	}
	do {
		seen = virtq_transport_config_generation(t);
		rc = print_capacity(t, &err);
		if (rc == 0)
			next_generation(t, seen);
	} while (rc == 0 && virtq_transport_alive(t));
	if (rc < 0)
		fprintf(stderr, "watch-disk: %s\n", err.text);
	virtq_transport_close(t);
	return rc < 0;
}
