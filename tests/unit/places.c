/* SPDX-License-Identifier: MIT */
/* Files, file systems and block devices for a test, see places.h. */
#include "places.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

const struct virtq_store_options direct = { .direct = true, .no_in_place = true };

char *sparse_make(const char *folder, uint64_t bytes)
{
	char *path;
	int fd;

	assert_true(asprintf(&path, "%s/disk-XXXXXX", folder) > 0);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
	return path;
}

uint64_t space_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

char *place_mount(const char *source, const char *type, const char *options)
{
	static bool unshared;
	char *folder = strdup("./mount-XXXXXX");

	assert_non_null(folder);
	assert_non_null(mkdtemp(folder));
	if ((!unshared && (unshare(CLONE_NEWNS) ||
			   mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))) ||
	    mount(source, folder, type, 0, options)) {
		print_message("skipped: cannot mount a %s: %s\n", type, strerror(errno));
		rmdir(folder);
		free(folder);
		skip();
	}
	unshared = true;
	return folder;
}

void place_unmount(char *folder)
{
	assert_int_equal(umount(folder), 0);
	assert_int_equal(rmdir(folder), 0);
	free(folder);
}

struct virtq_store *store_make_direct(const char *path)
{
	struct virtq_error err = { 0 };
	struct virtq_store *store;
	int rc = virtq_store_open(&store, path, &direct, &err);

	if (rc == -EINVAL && strstr(err.text, "O_DIRECT")) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (rc)
		fail_msg("store: %s", err.text);
	return store;
}

void loop_open(struct loop *l, const char *folder, uint64_t bytes, uint32_t block)
{
	/* Gone with this process at the latest. */
	struct loop_config config = { .block_size = block, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control, number, file, rc;

	l->path = sparse_make(folder, bytes);
	file = open(l->path, O_RDWR | O_CLOEXEC);
	assert_true(file >= 0);
	config.fd = (uint32_t)file;
	do {	/* somebody else may take the same one at the same time */
		control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
		number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
		close(control);
		snprintf(l->device, sizeof(l->device), "/dev/loop%d", number);
		l->fd = number < 0 ? -1 : open(l->device, O_RDWR | O_CLOEXEC);
		rc = l->fd < 0 ? -1 : ioctl(l->fd, LOOP_CONFIGURE, &config);
		if (rc && l->fd >= 0)
			close(l->fd);
	} while (rc && l->fd >= 0 && errno == EBUSY);
	close(file);
	if (rc) {
		print_message("skipped: no loop device: %s\n", strerror(errno));
		file_drop(l->path);
		skip();
	}
}

void loop_close(struct loop *l)
{
	ioctl(l->fd, LOOP_CLR_FD);
	close(l->fd);
	file_drop(l->path);
}
