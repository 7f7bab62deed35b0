/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target over stored inputs, without libFuzzer: the files of a
 * folder, or single files. One case of TAP each; what goes wrong ends the
 * program, as it does under libFuzzer.
 */
#include <dirent.h>
#include <sys/stat.h>

#include "input.h"

static unsigned int cases;

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *bytes;
	struct stat st;

	if (!file || fstat(fileno(file), &st)) {
		fprintf(stderr, "cannot read %s\n", path);
		exit(2);
	}
	/* Of its exact size, so that a sanitizer sees reads behind it. */
	bytes = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (!bytes || fread(bytes, 1, (size_t)st.st_size, file) != (size_t)st.st_size) {
		fprintf(stderr, "cannot read %s\n", path);
		exit(2);
	}
	fclose(file);
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(bytes, (size_t)st.st_size);
	free(bytes);
	printf("ok %u - %s\n", ++cases, strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
}

static int no_dots(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void run_folder(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, no_dots, alphasort);

	for (int i = 0; i < count; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		run_file(name);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

int main(int argc, char **argv)
{
	static const uint8_t nothing[1];
	struct stat st;

	setvbuf(stdout, NULL, _IOLBF, 0);
	LLVMFuzzerTestOneInput(nothing, 0);
	printf("ok %u - nothing at all\n", ++cases);
	for (int i = 1; i < argc; i++) {
		if (!stat(argv[i], &st) && S_ISDIR(st.st_mode))
			run_folder(argv[i]);
		else
			run_file(argv[i]);
	}
	printf("1..%u\n", cases);
	if (cases < 2) {
		fprintf(stderr, "there was nothing to run\n");
		return 2;
	}
	return 0;
}
