/* SPDX-License-Identifier: MIT */
/* What the system allows this process. */
#include "nofile.h"

#include <errno.h>
#include <sys/resource.h>

#include "report.h"

int limits_want_descriptors(unsigned int needed, struct virtq_error *err)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return report_into_errno(err, -errno, "cannot find out the limit of open files");
	if (limit.rlim_cur >= needed)
		return 0;
	if (limit.rlim_max < needed)
		return report_into(err, -EMFILE,
				   "up to %u file descriptors are needed, and the hard limit (ulimit -Hn) is %llu",
				   needed, (unsigned long long)limit.rlim_max);
	limit.rlim_cur = needed;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return report_into_errno(err, -errno, "cannot raise the limit of open files to %u",
					 needed);
	return 0;
}
