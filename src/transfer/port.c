/* SPDX-License-Identifier: MIT */
/*
 * A queue of a hosted program: ring and tables in one shared mapping, two
 * eventfds, and sleeping.
 *
 * A wait is: look; arm, which takes away waiting signals and then asks for the
 * next ([D]); look again; sleep. Whatever the device signals after the signals
 * were taken away leaves the call fd readable, so it is never slept through;
 * and what it used before is found by the look that follows.
 */
#include "transfer/port.h"

#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

struct virtq_port {
	struct virtq_driver *driver;		/* in driver_memory */
	struct virtq_driver_config config;
	void *driver_memory;
	struct virtq_mapping *mapping;
	struct virtq_region region;
	uint64_t extra_offset;
	int kick_fd, call_fd;
	int stop_fd;				/* readable for ever once shut down */
	int kick_error;
	uint64_t kicks;
	bool closed;				/* shm_flag_*() */
};

/* ---- Set-up ------------------------------------------------------------- */

/* Where the parts of the mapping begin: ring, tables, extra. */
struct plan {
	struct virtq_ring_shape ring;
	uint64_t tables, extra, total;
};

static int plan_memory(struct plan *plan, const struct virtq_port_config *config,
		       struct virtq_error *err)
{
	const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t tables_bytes = 0;

	if (virtq_ring_shape(config->features, config->size, &plan->ring))
		return error_set(err, -EINVAL, "no ring of that layout has %u entries",
				 config->size);
	if (config->gpa % page_bytes)
		return error_set(err, -EINVAL, "the address 0x%llx is not that of a page",
				 (unsigned long long)config->gpa);
	if (config->indirect_entries > config->size)
		return error_set(err, -EINVAL,
				 "indirect tables of %u entries are larger than a ring of %u",
				 config->indirect_entries, config->size);
	if (virtq_features_has(config->features, VIRTIO_F_INDIRECT_DESC))
		tables_bytes = (uint64_t)config->size * config->indirect_entries *
			       sizeof(struct virtq_desc);
	plan->tables = align_up(plan->ring.total_bytes, 64);
	plan->extra = align_up(plan->tables + tables_bytes, page_bytes);
	if (add_overflows(plan->extra, config->extra_bytes, &plan->total) ||
	    add_overflows(plan->total, config->gpa, &(uint64_t){ 0 }))
		return error_set(err, -EINVAL, "%llu bytes beside the ring are too many",
				 (unsigned long long)config->extra_bytes);
	return 0;
}

static int port_map(struct virtq_port *port, const struct virtq_port_config *config,
		    const struct plan *plan, struct virtq_error *err)
{
	uint8_t *memory;
	int rc = virtq_mapping_create(&port->mapping, plan->total, err);

	if (rc)
		return rc;
	memory = virtq_mapping_host(port->mapping);
	port->extra_offset = plan->extra;
	port->region = (struct virtq_region){
		.gpa = config->gpa ? config->gpa : (uintptr_t)memory,
		.size_bytes = virtq_mapping_bytes(port->mapping),
		.host = memory, .user = (uintptr_t)memory,
		.fd = virtq_mapping_fd(port->mapping), .access = VIRTQ_ACCESS_RW,
		.mapping = port->mapping,
	};
	port->config = (struct virtq_driver_config){
		.ring = { .features = config->features, .size = config->size, .desc = memory,
			  .driver = memory + plan->ring.driver_offset,
			  .device = memory + plan->ring.device_offset },
		.indirect_from = config->indirect_from,
		.segs_max = config->segs_max,
		.keep = config->keep,
	};
	if (config->indirect_entries) {
		port->config.indirect = memory + plan->tables;
		port->config.indirect_addr = port->region.gpa + plan->tables;
		port->config.indirect_entries = config->indirect_entries;
	}
	return 0;
}

/* The driver end begins disarmed: a queue asks to be called when somebody is about to sleep. */
static int port_start_driver(struct virtq_port *port, struct virtq_error *err)
{
	int rc = virtq_driver_init(port->driver_memory, &port->driver, &port->config, err);

	if (!rc)
		virtq_driver_disarm(port->driver);
	return rc;
}

static int port_open_fds(struct virtq_port *port, struct virtq_error *err)
{
	int *const fds[] = { &port->kick_fd, &port->call_fd, &port->stop_fd };

	for (unsigned int i = 0; i < 3; i++) {
		*fds[i] = virtq_notify_open();
		if (*fds[i] < 0)
			return error_set_errno(err, *fds[i], "cannot open an eventfd");
	}
	return 0;
}

int virtq_port_create(struct virtq_port **out, const struct virtq_port_config *config,
		      struct virtq_error *err)
{
	struct virtq_port *port;
	struct plan plan;
	int rc = plan_memory(&plan, config, err);

	if (rc)
		return rc;
	port = calloc(1, sizeof(*port));
	if (!port)
		return error_set(err, -ENOMEM, "no memory for a queue");
	port->kick_fd = port->call_fd = port->stop_fd = -1;
	rc = port_map(port, config, &plan, err);
	if (!rc) {
		size_t bytes = (size_t)align_up(virtq_driver_bytes(&port->config), 64);

		port->driver_memory = aligned_alloc(64, bytes);
		rc = port->driver_memory ? port_start_driver(port, err) :
					   error_set(err, -ENOMEM, "no memory for a queue");
	}
	if (!rc)
		rc = port_open_fds(port, err);
	if (rc) {
		virtq_port_destroy(port);
		return rc;
	}
	*out = port;
	return 0;
}

void virtq_port_destroy(struct virtq_port *port)
{
	if (!port)
		return;
	if (port->kick_fd >= 0)
		close(port->kick_fd);
	if (port->call_fd >= 0)
		close(port->call_fd);
	if (port->stop_fd >= 0)
		close(port->stop_fd);
	free(port->driver_memory);
	virtq_mapping_unref(port->mapping);
	free(port);
}

int virtq_port_renew(struct virtq_port *port)
{
	if (virtq_driver_in_flight(port->driver))
		return -EBUSY;
	virtq_notify_clear(port->call_fd);
	return port_start_driver(port, NULL);
}

/* ---- Questions ---------------------------------------------------------- */

struct virtq_driver *virtq_port_driver(const struct virtq_port *port)
{
	return port->driver;
}

const struct virtq_region *virtq_port_regions(const struct virtq_port *port, unsigned int *count)
{
	*count = 1;
	return &port->region;
}

void *virtq_port_extra(const struct virtq_port *port)
{
	return (uint8_t *)port->region.host + port->extra_offset;
}

int virtq_port_kick_fd(const struct virtq_port *port)
{
	return port->kick_fd;
}

int virtq_port_call_fd(const struct virtq_port *port)
{
	return port->call_fd;
}

uint64_t virtq_port_kicks(const struct virtq_port *port)
{
	return port->kicks;
}

bool port_closed(const struct virtq_port *port)
{
	return shm_flag_read(&port->closed);
}

/* ---- Kicks -------------------------------------------------------------- */

void port_kick(struct virtq_port *port)
{
	int rc = virtq_notify_send(port->kick_fd);

	port->kicks++;
	if (UNLIKELY(rc))
		port->kick_error = rc;
}

int port_kick_error(struct virtq_port *port)
{
	int rc = port->kick_error;

	port->kick_error = 0;
	return rc;
}

int virtq_port_publish(struct virtq_port *port)
{
	if (virtq_driver_publish(port->driver))
		port_kick(port);
	return UNLIKELY(port->kick_error) ? port_kick_error(port) : 0;
}

/* ---- Sleeping ----------------------------------------------------------- */

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t port_deadline(const struct virtq_wait *wait)
{
	if (!wait || !wait->timeout_ms)
		return 0;
	return wait->timeout_ms < 0 ? -1 : now_ns() + (int64_t)wait->timeout_ms * 1000000;
}

bool port_is_over(int64_t deadline_ns)
{
	return !deadline_ns || (deadline_ns > 0 && now_ns() >= deadline_ns);
}

/* The rest of the time as ppoll() wants it; NULL for ever. */
static const struct timespec *time_left(int64_t deadline_ns, struct timespec *left)
{
	int64_t ns;

	if (deadline_ns < 0)
		return NULL;
	ns = deadline_ns ? deadline_ns - now_ns() : 0;
	if (ns < 0)
		ns = 0;
	*left = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000),
				   .tv_nsec = (long)(ns % 1000000000) };
	return left;
}

int port_sleep_on(struct virtq_port *port, const struct virtq_wait *wait, int64_t deadline_ns,
		  int fd, int other_fd)
{
	struct pollfd fds[] = {
		{ .fd = port->stop_fd, .events = POLLIN },
		{ .fd = wait && wait->cancel_fd ? *wait->cancel_fd : -1, .events = POLLIN },
		{ .fd = fd, .events = POLLIN },
		{ .fd = other_fd, .events = POLLIN },
	};
	struct timespec left;
	int rc;

	rc = ppoll(fds, 4, time_left(deadline_ns, &left), NULL);
	if (rc <= 0)
		return rc < 0 ? -errno : 0;
	if (fds[0].revents)
		return -ESHUTDOWN;
	/* Readable, or an fd that is none: both end the wait, neither would go away. */
	if (fds[1].revents)
		return fds[1].revents & POLLNVAL ? -EBADF : -ECANCELED;
	return 1;
}

int port_sleep(struct virtq_port *port, const struct virtq_wait *wait, int64_t deadline_ns)
{
	return port_sleep_on(port, wait, deadline_ns, port->call_fd, -1);
}

void virtq_port_shutdown(struct virtq_port *port)
{
	shm_flag_write(&port->closed, true);
	virtq_notify_send(port->stop_fd);
}

int virtq_port_arm(struct virtq_port *port)
{
	int rc = virtq_port_publish(port);

	if (UNLIKELY(rc))
		return rc;
	if (UNLIKELY(port_closed(port)))
		return -ESHUTDOWN;
	if (UNLIKELY(virtq_driver_fault(port->driver).code != VIRTQ_FAULT_NONE))
		return -EBADMSG;
	/* In this order: a signal that comes after the look leaves the fd readable. */
	virtq_notify_clear(port->call_fd);
	return virtq_driver_arm(port->driver);
}

int virtq_port_wait(struct virtq_port *port, const struct virtq_wait *wait)
{
	int64_t deadline_ns = port_deadline(wait);
	int rc;

	for (;;) {
		rc = virtq_port_arm(port);
		if (rc || !deadline_ns)
			break;
		rc = port_sleep(port, wait, deadline_ns);
		if (rc <= 0)
			break;
	}
	if (rc != -ESHUTDOWN)
		virtq_driver_disarm(port->driver);
	return rc;
}
