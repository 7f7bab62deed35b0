/* SPDX-License-Identifier: MIT */
/* What sets of transfers have from the operating system: a heap, a port, pages to close. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "transfer/port.h"
#include "transfer/transfer.h"

#define LINE 64

static void wake(struct virtq_port *port)
{
	virtq_notify_send(virtq_port_call_fd(port));
}

static const struct transfers_host port_host = {
	.driver = virtq_port_driver,
	.regions = virtq_port_regions,
	.renew = virtq_port_renew,
	.kick = port_kick,
	.kick_error = port_kick_error,
	.arm = virtq_port_arm,
	.wake = wake,
	.is_over = port_is_over,
	.deadline = port_deadline,
	.sleep = port_sleep,
};

int virtq_transfers_create(struct virtq_transfers **out,
			   const struct virtq_transfers_config *config, struct virtq_error *err)
{
	int rc = transfers_check(config, err);
	void *memory;

	if (rc)
		return rc;
	memory = aligned_alloc(LINE, (size_t)align_up(transfers_bytes(config), LINE));
	if (!memory)
		return error_set(err, -ENOMEM, "no memory for %u transfers of %u pieces",
				 config->transfers_max, config->pieces_max);
	transfers_lay_out(memory, out, config, config->port ? &port_host : NULL);
	return 0;
}

void virtq_transfers_destroy(struct virtq_transfers *set)
{
	if (!set)
		return;
	virtq_transfers_fini(set);
	free(set);
}

/*
 * Of a range that begins and ends between pages, what is whole pages. A page
 * that cannot be closed is one that is not watched; one that was closed can be opened,
 * as the mapping was cut in pieces already.
 */
void virtq_transfers_guard(void *arg, void *page, size_t bytes, bool closed)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t skip = (size_t)(-(uintptr_t)page % page_bytes);

	(void)arg;
	if (bytes < skip + page_bytes)
		return;
	bytes -= skip;
	bytes -= bytes % page_bytes;
	(void)mprotect((uint8_t *)page + skip, bytes,
		       closed ? PROT_NONE : PROT_READ | PROT_WRITE);
}
