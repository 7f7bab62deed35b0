/* SPDX-License-Identifier: MIT */
/*
 * A small virtio-fs client (VIRTIO 1.4, 5.11), on public headers only: copies files out of
 * a directory that a vhost-user device shares. FUSE requests are transfers.
 *
 *   virtiofs [-ar] SOCKET DIRECTORY NAME...
 *
 * Each NAME becomes DIRECTORY/NAME, or else costs a sentence on stderr and exit status 1.
 *
 *   -a  send one read more for each file, and abandon it
 *   -r  stop the request queue while reads are in flight, and start it anew, again and again
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtq/virtq.h>

#define READ_BYTES (128u << 10)
#define READS 32u			/* in flight at a time */
#define MESSAGES (READS + 8)		/* and some for everything else */
#define PIECES 4u			/* of a request, at most */
#define QUEUE_ENTRIES 256u		/* room for all of them, indirect or not */

enum { HIPRIO, REQUESTS, QUEUES };	/* the device's queues, by index (5.11.2) */

/* A request and its reply, in memory that the device reaches; FUSE is in native byte order */
struct message {
	struct fuse_in_header in;
	unsigned char body[NAME_MAX + 1];
	struct fuse_out_header out;
	unsigned char reply[READ_BYTES];
};

struct note {				/* of a message, where the device cannot change it */
	bool taken;
	uint64_t unique, offset;	/* offset: of a read */
};

static struct fs {
	struct virtq_transport *transport;
	int gone;			/* readable once the device is not there any more */
	struct virtq_features features;
	struct virtq_map *map;
	struct virtq_port *ports[QUEUES];
	struct virtq_transfers *sets[QUEUES];
	struct message *messages;	/* MESSAGES of them */
	struct note notes[MESSAGES];
	uint64_t unique;		/* the last one given */
	bool restart, abandon;		/* as asked for */
	unsigned int reads, restarts, cancelled, abandoned, released;
} fs;

static const struct virtq_wait patience = { .timeout_ms = 10000, .cancel_fd = &fs.gone };
static struct virtq_error err;

/* For steps on which the rest depends; many leave a sentence in err. */
static void must(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "virtiofs: %s: %s\n", what, err.code == rc ? err.text : strerror(-rc));
	exit(EXIT_FAILURE);
}

/* As must(), for waits, which are to bring something. */
static unsigned int heard(int rc)
{
	if (rc == -ECANCELED && !virtq_transport_alive(fs.transport))
		rc = -ECONNRESET;
	must(rc ? rc : -ETIMEDOUT, "cannot wait for the device");
	return (unsigned int)rc;
}

/* ---- The device, its queues, and memory that it shares. ---- */

static void start_queue(unsigned int index)
{
	struct virtq_port *p = fs.ports[index];

	must(virtq_transport_start(fs.transport, index, virtq_port_driver(p), virtq_port_kick_fd(p),
				   virtq_port_call_fd(p), &err), "cannot start a queue");
}

static void open_device(const char *socket)
{
	const struct virtq_features required = { { 1ull << VIRTIO_F_VERSION_1, 0 } };
	const struct virtq_features wanted = { { 1ull << VIRTIO_F_EVENT_IDX |
		1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_RING_PACKED, 0 } };
	struct virtq_region regions[QUEUES];
	unsigned int i, count;

	must(virtq_vhost_user_connect(&fs.transport, socket, 0, &err), "no device");
	fs.gone = virtq_transport_fd(fs.transport);
	must(virtq_transport_negotiate(fs.transport, VIRTIO_ID_FS, wanted, required,
				       &fs.features, &err), socket);
	for (i = 0; i < QUEUES; i++) {
		const struct virtq_port_config config = {
			.features = fs.features, .size = QUEUE_ENTRIES, .indirect_entries = PIECES,
			.gpa = (i + 1ull) << 36,	/* no pointer: a mix-up fails at once */
			.extra_bytes = i == HIPRIO ? 0 : MESSAGES * sizeof(struct message),
		};

		must(virtq_port_create(&fs.ports[i], &config, &err), "cannot make a queue");
		regions[i] = *virtq_port_regions(fs.ports[i], &count);
	}
	fs.messages = virtq_port_extra(fs.ports[REQUESTS]);
	must(virtq_map_create(&fs.map, regions, QUEUES, &err), "cannot map memory");
	must(virtq_transport_share(fs.transport, fs.map, &err), "cannot share memory");
	for (i = 0; i < QUEUES; i++) {
		const struct virtq_transfers_config config = {
			.port = fs.ports[i], .map = fs.map, .transfers_max = MESSAGES,
			.pieces_max = PIECES,
		};

		must(virtq_transfers_create(&fs.sets[i], &config, &err), "cannot make transfers");
		start_queue(i);
	}
}

/* ---- Requests. ---- */

static struct note *note_of(const struct message *m)
{
	return &fs.notes[m - fs.messages];
}

static struct message *message_of(const struct virtq_transfer *t)
{
	return virtq_transfer_pieces(t, NULL, NULL)[0].base;
}

/* What nobody waits for has ended: now, and no sooner, its memory may be used anew. */
static void release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		    unsigned int writable, int status)
{
	(void)arg, (void)readable, (void)writable, (void)status;
	must(note_of(pieces[0].base)->taken ? 0 : -EPROTO, "released twice");
	note_of(pieces[0].base)->taken = false;
	fs.released++;
}

/*
 * A transfer of two readable pieces, the header and @body, and two writable ones, for the
 * answer's header and reply; one if the reply is empty, none with @reply_bytes < 0.
 */
static struct virtq_transfer *prepare(unsigned int queue, uint32_t opcode, uint64_t node,
				      const void *body, size_t body_bytes, long reply_bytes)
{
	unsigned int i, writable = reply_bytes < 0 ? 0 : reply_bytes == 0 ? 1 : 2;
	struct virtq_transfer *t;
	struct message *m;

	for (i = 0; i < MESSAGES && fs.notes[i].taken; i++)
		;
	must(i < MESSAGES ? 0 : -ENOSPC, "no message is free");
	fs.notes[i] = (struct note){ .taken = true, .unique = ++fs.unique };
	m = &fs.messages[i];
	m->in = (struct fuse_in_header){
		.len = (uint32_t)(sizeof(m->in) + body_bytes), .opcode = opcode,
		.unique = fs.unique, .nodeid = node, .uid = getuid(), .gid = getgid(),
	};
	memcpy(m->body, body, body_bytes);
	struct virtq_piece pieces[PIECES] = {
		{ .base = &m->in, .len = sizeof(m->in) },
		{ .base = m->body, .len = body_bytes },
		{ .base = &m->out, .len = sizeof(m->out) },
		{ .base = m->reply, .len = (size_t)reply_bytes },
	};
	must(virtq_transfer_prepare(fs.sets[queue], &t, pieces, 2, writable, release, NULL),
	     "cannot prepare a transfer");
	return t;
}

/* Into the ring with all of them; nobody sees that yet. */
static void stage(unsigned int queue, struct virtq_transfer **which, unsigned int count)
{
	int staged = virtq_transfer_stage(fs.sets[queue], which, count);

	must(staged < 0 || staged == (int)count ? staged : -ENOSPC, "cannot send");
}

static void send(unsigned int queue, struct virtq_transfer **which, unsigned int count)
{
	stage(queue, which, count);
	must(virtq_transfers_publish(fs.sets[queue]), "cannot kick");
}

/*
 * What was answered: 0 and the length of the reply, or a negative error number.
 * UNTRUSTED: the header is copied, then checked, and the copy used.
 */
static int answer(const struct virtq_transfer *t, size_t *bytes)
{
	unsigned int readable, writable;
	const struct virtq_piece *pieces = virtq_transfer_pieces(t, &readable, &writable);
	struct fuse_out_header out;

	memcpy(&out, pieces[readable].base, sizeof(out));
	*bytes = writable > 1 ? pieces[readable + 1].written : 0;
	if (pieces[readable].written != sizeof(out) || out.len != sizeof(out) + *bytes ||
	    out.unique != note_of(message_of(t))->unique ||
	    out.error > 0 || out.error <= -512 || (out.error && *bytes))
		must(-EPROTO, "the device sent an answer that is none");
	return out.error;
}

/* The end of a transfer that was waited for: its pieces are ours again. */
static void finish(struct virtq_transfer *t)
{
	struct virtq_piece pieces[PIECES];

	must(virtq_transfer_finish(t, pieces, PIECES), "cannot take the pieces back");
	note_of(pieces[0].base)->taken = false;
}

/* One request and its answer: 0 with @reply filled, or the error that the device named. */
static int call(uint32_t opcode, uint64_t node, const void *body, size_t body_bytes,
		void *reply, size_t reply_bytes)
{
	struct virtq_transfer *t;
	size_t bytes;
	int rc;

	t = prepare(REQUESTS, opcode, node, body, body_bytes, (long)reply_bytes);
	send(REQUESTS, &t, 1);
	heard(virtq_transfer_wait(t, &patience));
	rc = answer(t, &bytes);
	must(rc || bytes == reply_bytes ? 0 : -EPROTO, "an answer of the wrong length");
	if (bytes)
		memcpy(reply, message_of(t)->reply, bytes);
	finish(t);
	return rc;
}

/* ---- Reading a file. ---- */

struct file {
	uint64_t node, handle, size, next;	/* next: where the next read begins */
	int fd;					/* where the data goes */
};

static struct virtq_transfer *prepare_read(struct file *f)
{
	struct fuse_read_in body = { .fh = f->handle, .offset = f->next, .size = READ_BYTES };
	struct virtq_transfer *t = prepare(REQUESTS, FUSE_READ, f->node, &body, sizeof(body),
					   READ_BYTES);

	note_of(message_of(t))->offset = f->next;
	f->next += READ_BYTES;
	return t;
}

/* What a read brought goes to its place, in whatever order the reads are answered. */
static int take_data(const struct file *f, const struct virtq_transfer *t)
{
	uint64_t offset = note_of(message_of(t))->offset, left = f->size - offset;
	size_t bytes;
	int rc = answer(t, &bytes);

	if (rc || bytes != (left < READ_BYTES ? left : READ_BYTES))
		return rc ? rc : -ESTALE;	/* the file was changed meanwhile */
	if (pwrite(f->fd, message_of(t)->reply, bytes, (off_t)offset) != (ssize_t)bytes)
		return -EIO;
	fs.reads++;
	return 0;
}

/*
 * Stop the request queue. What the device took it answers. So that there is something that
 * it did not take, the last ones are only staged: they come back cancelled.
 */
static void stage_and_restart(struct virtq_transfer **which, unsigned int count)
{
	stage(REQUESTS, which, count);
	must(virtq_transport_stop(fs.transport, REQUESTS, NULL, &err), "cannot stop a queue");
	must(virtq_transfers_reset(fs.sets[REQUESTS], NULL), "cannot begin again");
	start_queue(REQUESTS);
	fs.restarts++;
}

/* Up to READS reads are in flight. The last is short, perhaps empty: the file ends there. */
static int read_file(struct file *f)
{
	struct virtq_transfer *ready[READS];
	unsigned int busy = 0, count = 0, n, i;	/* busy: in flight; count: ready */
	int rc = 0;

	while (count < READS && f->next <= f->size)
		ready[count++] = prepare_read(f);
	for (bool stop = false; busy + count; stop = fs.restart && !stop) {
		if (stop)
			stage_and_restart(ready, count);
		else
			send(REQUESTS, ready, count);
		busy += count;
		n = heard(virtq_transfers_poll(fs.sets[REQUESTS], ready, READS, &patience));
		busy -= n;
		for (i = 0, count = 0; i < n; i++) {
			if (virtq_transfer_status(ready[i]) == -ECANCELED) {
				fs.cancelled++;		/* send it again, as it is */
				ready[count++] = ready[i];
				continue;
			}
			rc = rc ? rc : take_data(f, ready[i]);
			finish(ready[i]);
			if (!rc && f->next <= f->size)
				ready[count++] = prepare_read(f);
		}
	}
	return rc;
}

/* Nobody waits for it, or it has no answer: its memory comes back through release(). */
static void send_and_abandon(unsigned int queue, struct virtq_transfer *t)
{
	send(queue, &t, 1);
	virtq_transfer_abandon(t);
	fs.abandoned++;
}

static int copy_file(const char *directory, const char *name)
{
	const struct fuse_open_in how = { .flags = O_RDONLY };
	const struct fuse_forget_in once = { .nlookup = 1 };
	struct fuse_release_in done = { 0 };
	struct fuse_entry_out entry;
	struct fuse_open_out opened;
	struct file f, unwanted;
	char to[PATH_MAX];
	int rc;

	if (strchr(name, '/') || strlen(name) > NAME_MAX ||
	    snprintf(to, sizeof(to), "%s/%s", directory, name) >= (int)sizeof(to))
		return -EINVAL;
	rc = call(FUSE_LOOKUP, FUSE_ROOT_ID, name, strlen(name) + 1, &entry, sizeof(entry));
	if (rc || !entry.nodeid)	/* 0: there is no such name, to be remembered */
		return rc ? rc : -ENOENT;
	f = (struct file){ .node = entry.nodeid, .size = entry.attr.size };
	rc = !S_ISREG(entry.attr.mode) || f.size > INT64_MAX ? -ENOTSUP :
	     call(FUSE_OPEN, f.node, &how, sizeof(how), &opened, sizeof(opened));
	if (!rc) {
		f.handle = done.fh = opened.fh;
		f.fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		must(f.fd < 0 ? -errno : 0, to);
		unwanted = f;
		if (fs.abandon)
			send_and_abandon(REQUESTS, prepare_read(&unwanted));
		rc = read_file(&f);
		must(close(f.fd) < 0 ? -errno : 0, to);
		must(call(FUSE_RELEASE, f.node, &done, sizeof(done), NULL, 0), "cannot release");
	}
	send_and_abandon(HIPRIO, prepare(HIPRIO, FUSE_FORGET, f.node, &once, sizeof(once), -1));
	return rc;
}

int main(int argc, char **argv)
{
	const struct fuse_init_in init = { .major = FUSE_KERNEL_VERSION,
					   .minor = FUSE_KERNEL_MINOR_VERSION };
	struct fuse_init_out session;
	struct virtq_transfer *none;
	int first = 1, i, rc, status = EXIT_SUCCESS;
	const char *options = argc > 1 && argv[1][0] == '-' ? argv[first++] : "";

	fs.restart = strchr(options, 'r');
	fs.abandon = strchr(options, 'a');
	if (argc - first < 3 || options[strspn(options, "-ar")]) {
		fputs("usage: virtiofs [-ar] SOCKET DIRECTORY NAME...\n", stderr);
		return 2;
	}
	open_device(argv[first]);
	must(call(FUSE_INIT, 0, &init, sizeof(init), &session, sizeof(session)), "cannot begin");
	must(session.major == FUSE_KERNEL_VERSION ? 0 : -EPROTO, "another version of FUSE");
	for (i = first + 2; i < argc; i++) {
		rc = copy_file(argv[first + 1], argv[i]);
		status = rc ? EXIT_FAILURE : status;
		if (rc)
			fprintf(stderr, "virtiofs: %s: %s\n", argv[i], strerror(-rc));
	}
	/* Let the device get to what nobody waits for. */
	for (i = 0; i < QUEUES; i++)
		while (virtq_driver_in_flight(virtq_port_driver(fs.ports[i]))) {
			heard(virtq_port_wait(fs.ports[i], &patience));
			must(virtq_transfers_poll(fs.sets[i], &none, 1, NULL), "cannot look");
		}
	virtq_transport_close(fs.transport);
	for (i = 0; i < QUEUES; i++) {
		virtq_transfers_destroy(fs.sets[i]);
		virtq_port_destroy(fs.ports[i]);
	}
	virtq_map_unref(fs.map);
	printf("%s: %u reads, %u restarts, %u cancelled, %u abandoned, %u released\n",
	       virtq_features_has(fs.features, VIRTIO_F_RING_PACKED) ? "packed" : "split",
	       fs.reads, fs.restarts, fs.cancelled, fs.abandoned, fs.released);
	return status;
}
