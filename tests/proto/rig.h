/* SPDX-License-Identifier: MIT */
/*
 * For the tests of vhost-user: a back end that serves a small device, a client
 * that speaks raw bytes, and a queue in shared memory.
 */
#ifndef PROTO_RIG_H
#define PROTO_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/socket.h>

#include <pthread.h>
#include <virtq/virtq.h>
#include <virtq/spec/vhost_user.h>

#define BIT(n) ((uint64_t)1 << (n))
#define BIT_30 BIT(VHOST_USER_F_PROTOCOL_FEATURES)

/* ---- The device: answers bytes with the same bytes. ---- */

#define TOY_QUEUES 3u
#define TOY_QUEUE_SIZE_MAX 256u
#define TOY_CONFIG_BYTES 16u
#define TOY_CONFIG_WRITABLE 4u		/* the one byte that is */
/* Its features: 6 is offered, but the device cannot work with 5 unless 6 comes, too. */
#define TOY_FEATURES (BIT(5) | BIT(6) | BIT(9))

struct toy {
	struct virtq_model model;
	uint8_t config[TOY_CONFIG_BYTES];
	int resets;			/* __atomic */
	uint64_t accepted;		/* __atomic: features, 0 before they are negotiated */
	int slow_fd[2];			/* pipe: requests that begin with 's' read from it */
	struct virtq_req *held;		/* __atomic: the last that began with 'h'; never cancelled */
};

/* ---- The back end, in a thread. ---- */

#define RIG_DRAIN_MS 1000u		/* what its engines give requests to end */

struct rig_event {
	enum virtq_vhost_user_event kind;
	int queue;
	char text[256];
};

#define RIG_EVENTS_MAX 512

struct rig {
	struct toy toy;
	struct virtq_engine *engines[2];
	struct virtq_vhost_user_server *server;
	char path[64];
	int listen_fd;
	pthread_t thread;
	int serve_result;
	pthread_mutex_t lock;
	unsigned int event_count;
	struct rig_event events[RIG_EVENTS_MAX];
};

/* For cmocka: *state is a struct rig. */
int rig_setup(void **state);
int rig_teardown(void **state);

/* Start the thread again, after it was stopped and joined. */
void rig_serve(struct rig *r);
unsigned int rig_events(struct rig *r, enum virtq_vhost_user_event kind);
/* Wait until an event came @count times, and copy out its last text. */
void rig_await(struct rig *r, enum virtq_vhost_user_event kind, unsigned int count, char *text);
/* A slow request stays in the device while others come and go; not without io_uring. */
void skip_unless_requests_overlap(const struct rig *r);
/* Open descriptors of this process. */
unsigned int open_fds(void);
/* Is there something to read, or an end, within @ms? */
bool readable(int fd, int ms);
void sleep_ms(unsigned int ms);
uint64_t now_ms(void);

/* ---- The client. ---- */

int client_connect(struct rig *r);
/* Let @msg bring descriptors, in the zeroed @control with room for them. */
void attach_fds(struct msghdr *msg, void *control, const int *fds, unsigned int fd_count);
void client_send_fds(int fd, uint32_t request, uint32_t flags, const void *payload,
		     size_t bytes, const int *fds, unsigned int fd_count);
void client_send(int fd, uint32_t request, const void *payload, size_t bytes);
/* One whole message; the test fails unless it is a reply to @request of @bytes. */
void client_reply(int fd, uint32_t request, void *payload, size_t bytes);
uint64_t client_reply_u64(int fd, uint32_t request);
/* Send with need_reply, and return the acknowledgement. */
uint64_t client_ask_fds(int fd, uint32_t request, const void *payload, size_t bytes,
			const int *fds, unsigned int fd_count);
uint64_t client_ask(int fd, uint32_t request, const void *payload, size_t bytes);
uint64_t client_ask_state(int fd, uint32_t request, uint32_t index, uint32_t num);
uint64_t client_ask_u64(int fd, uint32_t request, uint64_t value);
uint64_t client_get_u64(int fd, uint32_t request);
uint32_t client_get_base(int fd, uint32_t index);
/* The back end must close within a second. */
void client_closed(int fd);
/* Nothing may arrive for @ms. */
void client_silent(int fd, int ms);
/* It still answers, and has nothing else to say. */
void client_alive(int fd);

#define ALL_PROTOCOL (BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
		      BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | \
		      BIT(VHOST_USER_PROTOCOL_F_CONFIG) | \
		      BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) | \
		      BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))

/* Agree on @protocol, then acknowledge @features unless 0. */
void client_negotiate(int fd, uint64_t protocol, uint64_t features);

/* ---- A queue of the client's. ---- */

#define QUEUE_GPA 0x100000u
#define QUEUE_BYTES 0x100000u

struct queue {
	int fd;				/* the connection */
	uint32_t index;
	struct virtq_mapping *mapping;
	struct virtq_map *map;
	struct virtq_driver *driver;
	uint8_t *memory;
	uint64_t gpa;
	int kick_fd, call_fd, err_fd;
};

extern const uint64_t layouts[2];	/* feature words of a split and of a packed ring */

/* Ring memory and driver end; nothing is sent. Each index has its own place in memory. */
void queue_open(struct queue *q, int fd, uint32_t index, uint64_t features, uint32_t size);
void queue_close(struct queue *q);
struct VhostUserMemoryRegion queue_region(const struct queue *q);
struct VhostUserVringAddr queue_addr(const struct queue *q);
/* SET_MEM_TABLE with the memory of these, in this order; or of one alone. */
void queues_share(const struct queue *const *q, unsigned int count);
void queue_share(const struct queue *q);
void queue_set_up(struct queue *q);		/* NUM, BASE, ADDR, CALL, ERR */
void queue_kick(struct queue *q);		/* SET_VRING_KICK */
void queue_enable(struct queue *q, uint32_t enable);
/*
 * A client of its own: connect, acknowledge @features and all of the protocol, share
 * and describe the queue, which is stopped and disabled then. The connection.
 */
int queue_join(struct rig *r, struct queue *q, uint32_t index, uint64_t features, uint32_t size);
void queue_run(struct queue *q);		/* start and enable it: it answers */
/* The client hangs up, and the back end has noticed. */
void queue_leave(struct rig *r, struct queue *q);
/* Make a request of @kind available, and kick the device if it wants that. */
void queue_request(struct queue *q, char kind);
/* Its answer comes within two seconds. */
void queue_answered(struct queue *q);
/* No answer for @ms. */
void queue_unanswered(struct queue *q, int ms);
void queue_echo(struct queue *q);		/* both */
/* A request that the device keeps until it is completed here. */
struct virtq_req *queue_hold(struct rig *r, struct queue *q);
/* Claim far more requests than a split ring holds. */
void queue_break(struct queue *q);
/* Wait until the device has heard the last kick. */
void queue_kick_taken(struct queue *q);

#endif
