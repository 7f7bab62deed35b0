/* SPDX-License-Identifier: MIT */
/*
 * bench/wake: how long it takes to wake another process and be woken by it, with
 * nothing but two eventfds and epoll: the least that a kick and a call can cost.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

static const char help[] =
"usage: wake [--cpus A,B] [--seconds S]\n"
"\n"
"One process on processor A (1) writes to an eventfd and sleeps in epoll_wait()\n"
"until another, on processor B (0), has been woken by that and answered. Prints\n"
"round trips a second and their latency as JSON.\n";

static void die(const char *what)
{
	fprintf(stderr, "wake: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("cannot stay on one processor");
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		die("eventfd");
	return fd;
}

static int watch(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll");
	return epoll;
}

static void sleep_until(int epoll, int fd)
{
	struct epoll_event event;
	uint64_t count;

	while (epoll_wait(epoll, &event, 1, -1) != 1)
		if (errno != EINTR)
			die("epoll_wait");
	if (read(fd, &count, sizeof(count)) != sizeof(count))
		die("read");
}

static void wake(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		die("write");
}

static void answer(int cpu, int asked, int answered)
{
	int epoll = watch(asked);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	stay_on(cpu);
	for (;;) {
		sleep_until(epoll, asked);
		wake(answered);
	}
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "cpus", 1, NULL, 'c' }, { "seconds", 1, NULL, 's' }, { "help", 0, NULL, 'h' },
		{ 0 },
	};
	static struct histogram ns;
	int cpus[2] = { 1, 0 }, asked = new_eventfd(), answered = new_eventfd(), epoll, c;
	double seconds = 1;
	uint64_t begin, end, before, now;
	pid_t child;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		bool good = c == 'c' ? sscanf(optarg, "%d,%d", &cpus[0], &cpus[1]) == 2 :
			    c == 's' ? sscanf(optarg, "%lf", &seconds) == 1 && seconds > 0 : c == 'h';

		if (c == 'h' || !good) {
			fputs(help, c == 'h' ? stdout : stderr);
			return c == 'h' ? 0 : 2;
		}
	}
	child = fork();
	if (child < 0)
		die("fork");
	if (!child)
		answer(cpus[1], asked, answered);
	epoll = watch(answered);
	stay_on(cpus[0]);
	/* A tenth to warm up. */
	now = now_ns();
	begin = now + (uint64_t)(seconds * 1e8);
	end = begin + (uint64_t)(seconds * 1e9);
	while (now < end) {
		before = now;
		wake(asked);
		sleep_until(epoll, answered);
		now = now_ns();
		if (before >= begin)
			histogram_add(&ns, now - before);
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	printf("{\"requests\": %llu, \"iops\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"p999_us\": %.3f, \"max_us\": %.3f}\n", (unsigned long long)ns.total,
	       (double)ns.total * 1e9 / (double)(now - begin),
	       histogram_percentile(&ns, 0.5) / 1000, histogram_percentile(&ns, 0.99) / 1000,
	       histogram_percentile(&ns, 0.999) / 1000, (double)ns.max / 1000);
	return 0;
}
