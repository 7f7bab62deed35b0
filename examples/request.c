/* SPDX-License-Identifier: MIT */
/*
 * Requests and answers in the manner of virtio-fs: two pieces for the device
 * to read (header and name), two for it to write (header and contents), in
 * memory of the program's own that nobody copies. Prepared once, sent often.
 * The device, a model in this file, runs in the same process (local.c).
 *
 *   request [packed]
 */
#include <errno.h>
#include <string.h>

#include "local.h"
#include "must.h"

#define HEADER_BYTES 16		/* of either: what comes before name and contents */
struct request { uint32_t len, opcode; uint64_t unique; char name[16]; };
struct answer { uint32_t len; int32_t error; uint64_t unique; char contents[64]; };

static const char *const files[][2] = { { "motd", "welcome" }, { "hostname", "example" } };
static const struct virtq_wait patience = { .timeout_ms = 10000 };

/* The device: it sees bytes to read and bytes to write, however they were cut into pieces. */
static enum virtq_verdict serve(struct virtq_model *model, struct virtq_req *req,
				struct virtq_op *op)
{
	struct answer out = { .len = HEADER_BYTES, .error = -ENOENT };
	struct request in;

	(void)model;
	(void)op;
	if (virtq_req_read(req, &in, sizeof(in)) != sizeof(in))
		return VIRTQ_MALFORMED;
	out.unique = in.unique;
	for (size_t i = 0; i < 2; i++)
		if (!strncmp(in.name, files[i][0], sizeof(in.name))) {
			out.error = 0;
			out.len += (uint32_t)strlen(strcpy(out.contents, files[i][1]));
		}
	virtq_req_write(req, &out, out.len);
	return VIRTQ_DONE;
}

/* Write the request, send it, sleep until it is back, check the answer. NULL: no such file. */
static void ask(struct virtq_transfers *set, struct virtq_transfer *t, const char *name,
		const char *contents)
{
	const struct virtq_piece *p = virtq_transfer_pieces(t, NULL, NULL);
	struct request *req = p[0].base;
	struct answer *ans = p[2].base;
	size_t len = contents ? strlen(contents) : 0;
	static uint64_t asked;

	*req = (struct request){ .len = sizeof(*req), .unique = ++asked };
	strncpy(p[1].base, name, p[1].len);
	must(virtq_transfer_send(set, &t, 1), "send");
	if (must(virtq_transfer_wait(t, &patience), "wait") != 1 || virtq_transfer_status(t))
		must(-ETIME, name);

	p = virtq_transfer_pieces(t, NULL, NULL);	/* NULL while the device has them */
	if (p[2].written != HEADER_BYTES || ans->unique != asked ||
	    ans->error != (contents ? 0 : -ENOENT) || p[3].written != len ||
	    (contents && memcmp(p[3].base, contents, len)))
		must(-EBADMSG, name);
	printf("%s: %.*s\n", name, (int)len, ans->contents);
}

int main(int argc, char **argv)
{
	static const struct virtq_model_ops ops = {
		.name = "files", .device_id = VIRTIO_ID_FS, .start = serve,
	};
	struct virtq_model device = { .ops = &ops, .queues = 1, .queue_size_max = 64 };
	struct virtq_transfers_config config = { .transfers_max = 8, .pieces_max = 4 };
	struct virtq_port_config port = { .size = 16 };
	struct virtq_mapping *memory;
	struct virtq_transfers *set;
	struct virtq_transfer *t;
	struct local local;

	must(local_open(&local, &device, argc > 1 && !strcmp(argv[1], "packed"), &err), "device");
	port.features = local.features;
	must(virtq_port_create(&config.port, &port, &err), "queue");
	must(virtq_mapping_create(&memory, 4096, &err), "memory");
	struct request *req = virtq_mapping_host(memory);
	struct answer *ans = (struct answer *)(void *)(req + 1);
	struct virtq_region region = {
		.gpa = (uintptr_t)req, .user = (uintptr_t)req, .host = req, .size_bytes = 4096,
		.fd = virtq_mapping_fd(memory), .access = VIRTQ_ACCESS_RW, .mapping = memory,
	};
	must(local_start(&local, config.port, &region, &err), "start");
	config.map = local.map;
	must(virtq_transfers_create(&set, &config, &err), "transfers");

	struct virtq_piece pieces[] = {
		{ req, HEADER_BYTES }, { req->name, sizeof(req->name) },
		{ ans, HEADER_BYTES }, { ans->contents, sizeof(ans->contents) },
	};
	must(virtq_transfer_prepare(set, &t, pieces, 2, 2, NULL, NULL), "prepare");
	ask(set, t, "motd", "welcome");
	ask(set, t, "hostname", "example");
	ask(set, t, "nothing", NULL);
	must(virtq_transfer_finish(t, pieces, 4), "finish");	/* the pieces are ours again */

	local_close(&local);
	virtq_transfers_destroy(set);
	virtq_port_destroy(config.port);
	virtq_mapping_unref(memory);
	return pieces[0].base == req && !pieces[3].written ? EXIT_SUCCESS : EXIT_FAILURE;
}
