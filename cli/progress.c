/* SPDX-License-Identifier: MIT */
/* The progress bar. */
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "size.h"

#define PROGRESS_EVERY_NS 100000000u

static uint64_t progress_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void progress_start(struct progress *p, uint64_t total_bytes)
{
	p->terminal = isatty(STDERR_FILENO);
	p->total_bytes = total_bytes;
	p->start_ns = p->drawn_ns = progress_now_ns();
}

double progress_seconds(const struct progress *p)
{
	return (double)(progress_now_ns() - p->start_ns) / 1e9;
}

/* Asked anew for every picture: windows change their size. */
static int progress_columns(void)
{
	struct winsize window;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) < 0 || !window.ws_col)
		return 80;
	return window.ws_col < 512 ? window.ws_col : 512;
}

static void progress_draw(const struct progress *p, uint64_t done_bytes)
{
	double seconds = progress_seconds(p);
	double rate = seconds > 0 ? (double)done_bytes / seconds : 0;
	double part = p->total_bytes ? (double)done_bytes / (double)p->total_bytes : 1;
	char done[SIZE_TEXT_BYTES], total[SIZE_TEXT_BYTES], speed[SIZE_TEXT_BYTES];
	char facts[160], bar[512];
	int columns = progress_columns() - 1;	/* the last column would wrap */
	int width, full;

	snprintf(facts, sizeof(facts), "%3.0f%%  %s of %s  %s/s", part * 100,
		 size_text(done, (double)done_bytes), size_text(total, (double)p->total_bytes),
		 size_text(speed, rate));
	if (rate > 0) {
		double left = (double)(p->total_bytes - done_bytes) / rate;
		unsigned int eta = left < 360000 ? (unsigned int)(left + 0.5) : 360000;
		size_t used = strlen(facts);

		snprintf(facts + used, sizeof(facts) - used, "  ETA %u:%02u:%02u", eta / 3600,
			 eta / 60 % 60, eta % 60);
	}
	width = columns - (int)strlen(facts) - 3;	/* blank and brackets */
	if (width < 8) {
		fprintf(stderr, "\r%.*s\033[K", columns > 0 ? columns : 0, facts);
	} else {
		full = (int)(part * width);
		memset(bar, ' ', (size_t)width);
		memset(bar, '=', (size_t)full);
		if (full < width)
			bar[full] = '>';
		fprintf(stderr, "\r[%.*s] %s\033[K", width, bar, facts);
	}
	fflush(stderr);
}

void progress_update(struct progress *p, uint64_t done_bytes)
{
	uint64_t now_ns;

	if (!p->terminal)
		return;
	now_ns = progress_now_ns();
	if (now_ns - p->drawn_ns < PROGRESS_EVERY_NS)
		return;
	p->drawn_ns = now_ns;
	progress_draw(p, done_bytes);
}

void progress_end(struct progress *p)
{
	if (p->terminal)
		fputs("\r\033[K", stderr);
	p->terminal = false;
}
