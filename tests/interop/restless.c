/* SPDX-License-Identifier: MIT */
/*
 * A disk that does not come to rest: a vhost-user server with two engines, whose
 * queues are paused, resumed and moved from one to the other at random all the
 * time, and whose image grows to twice its size, step by step. For a guest that
 * must not notice, but for the size.
 *
 *   restless SOCKET IMAGE QUEUES SERIAL [--direct]
 *
 * Its image begins to grow when a driver has written to it. Ends with SIGTERM; then it
 * says on stdout how often it did what.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtq/virtq.h>

#define ENGINES 2u
#define GROW_BYTES (1u << 20)
#define GROW_EVERY 10u			/* rounds of meddling */
#define GROW_AFTER_BYTES (4u << 20)	/* written: no firmware does that, and fio soon */

struct restless {
	const char *socket, *image;
	unsigned int queues;
	bool over;			/* atomic */
	struct virtq_engine *engine[ENGINES];
	struct virtq_model *model;
	struct virtq_vhost_user_server *server;
	off_t size, last_size;
	unsigned long pauses, moves, steps;
	struct virtq_error err;
};

static struct restless restless;

static int must(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "restless: %s: %s\n", what,
			restless.err.text[0] ? restless.err.text : strerror(-rc));
		exit(EXIT_FAILURE);
	}
	return rc;
}

/* ---- What disturbs it ---------------------------------------------------------- */

static void pause_all(void)
{
	must(virtq_vhost_user_server_pause(restless.server), "pause");
	usleep((useconds_t)rand() % 5000);
	virtq_vhost_user_server_resume(restless.server);
	restless.pauses++;
}

static void move_one(void)
{
	unsigned int queue = (unsigned int)rand() % restless.queues;

	must(virtq_vhost_user_server_move(restless.server, queue,
					  restless.engine[(unsigned int)rand() % ENGINES]), "move");
	restless.moves++;
}

static void grow(void)
{
	restless.size += GROW_BYTES;
	must(truncate(restless.image, restless.size) ? -errno : 0, "truncate");
	if (must(virtq_blk_refresh(restless.model, &restless.err), "refresh") == 1)
		virtq_vhost_user_server_config_changed(restless.server);
	restless.steps++;
}

static bool is_used(void)
{
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < restless.queues; i++) {
		struct virtq_engine_stats stats;

		must(virtq_vhost_user_server_stats(restless.server, i, &stats), "statistics");
		bytes += stats.bytes_written;
	}
	return bytes >= GROW_AFTER_BYTES;
}

static void *disturb(void *arg)
{
	(void)arg;
	for (unsigned int round = 1; !__atomic_load_n(&restless.over, __ATOMIC_ACQUIRE); round++) {
		usleep((useconds_t)rand() % 10000);
		if (rand() % 2)
			pause_all();
		else
			move_one();
		if (round % GROW_EVERY == 0 && restless.size < restless.last_size &&
		    is_used())
			grow();
	}
	return NULL;
}

/* ---- The server ------------------------------------------------------------------- */

static void stop(int signo)
{
	(void)signo;
	virtq_vhost_user_server_stop(restless.server);
}

static void open_image(bool direct, const char *serial)
{
	struct virtq_blk_options options = {
		.path = restless.image, .direct = direct, .queues = restless.queues,
		.serial = serial,
	};
	struct stat st;

	must(stat(restless.image, &st) ? -errno : 0, "the image");
	restless.size = st.st_size;
	restless.last_size = 2 * st.st_size;
	must(virtq_blk_create(&restless.model, &options, &restless.err), "disk");
}

int main(int argc, char **argv)
{
	struct virtq_engine_config engine = { .kind = VIRTQ_ENGINE_AUTO };
	struct virtq_vhost_user_server_config config = {
		.engines = restless.engine, .engine_count = ENGINES,
		.features = virtq_ring_features_usual(),
	};
	pthread_t thread;

	if (argc < 5)
		return fprintf(stderr, "usage: restless SOCKET IMAGE QUEUES SERIAL [--direct]\n"), 2;
	restless.socket = argv[1];
	restless.image = argv[2];
	restless.queues = (unsigned int)atoi(argv[3]);
	srand((unsigned int)getpid());
	open_image(argc > 5 && !strcmp(argv[5], "--direct"), argv[4]);
	for (unsigned int i = 0; i < ENGINES; i++)
		must(virtq_engine_create(&restless.engine[i], &engine, &restless.err), "engine");
	config.model = restless.model;
	config.listen_fd = must(virtq_vhost_user_listen(restless.socket, &restless.err), "socket");
	must(virtq_vhost_user_server_create(&restless.server, &config, &restless.err), "server");
	signal(SIGTERM, stop);
	must(-pthread_create(&thread, NULL, disturb, NULL), "thread");

	must(virtq_vhost_user_serve(restless.server, &restless.err), "serve");

	__atomic_store_n(&restless.over, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	virtq_vhost_user_server_destroy(restless.server);
	for (unsigned int i = 0; i < ENGINES; i++)
		virtq_engine_destroy(restless.engine[i]);
	virtq_model_destroy(restless.model);
	close(config.listen_fd);
	unlink(restless.socket);
	printf("restless: %lu pauses, %lu moves, grown in %lu steps to %lld MiB\n", restless.pauses,
	       restless.moves, restless.steps, (long long)restless.size >> 20);
	return EXIT_SUCCESS;
}
