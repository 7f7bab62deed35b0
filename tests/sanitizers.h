/* SPDX-License-Identifier: MIT */
/* Which sanitizer a test is built with: gcc and clang tell in different ways. */
#ifndef TESTS_SANITIZERS_H
#define TESTS_SANITIZERS_H

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif

#endif
