/* SPDX-License-Identifier: MIT */
/*
 * The lettered orders of docs/ordering.md as the models use them, each with the
 * switch that takes it out. A model with nothing cut must verify; a model with
 * a cut must find what the letter promises not to happen.
 */

/* [A] and [B]: release at the end that publishes, acquire at the end that looks. */
#ifdef CUT_A_RELEASE
#define CUT
#define shm_publish_A(who, at, what) shm_store(who, at, what)
#else
#define shm_publish_A(who, at, what) shm_store_release(who, at, what)
#endif

#ifdef CUT_A_ACQUIRE
#define CUT
#define shm_observe_A(who, at, into) shm_load(who, at, into)
#else
#define shm_observe_A(who, at, into) shm_load_acquire(who, at, into)
#endif

#ifdef CUT_B_RELEASE
#define CUT
#define shm_publish_B(who, at, what) shm_store(who, at, what)
#else
#define shm_publish_B(who, at, what) shm_store_release(who, at, what)
#endif

#ifdef CUT_B_ACQUIRE
#define CUT
#define shm_observe_B(who, at, into) shm_load(who, at, into)
#else
#define shm_observe_B(who, at, into) shm_load_acquire(who, at, into)
#endif

/* [C], shm_fence_kick(): in ..._driver_needs_kick() and ..._device_arm(). */
#ifdef CUT_C_DRIVER
#define CUT
#define fence_C_driver() skip
#else
#define fence_C_driver() shm_fence_full(DRIVER)
#endif

#ifdef CUT_C_DEVICE
#define CUT
#define fence_C_device() skip
#else
#define fence_C_device() shm_fence_full(DEVICE)
#endif

/* [D], shm_fence_call(): in ..._device_needs_call() and ..._driver_arm(). */
#ifdef CUT_D_DRIVER
#define CUT
#define fence_D_driver() skip
#else
#define fence_D_driver() shm_fence_full(DRIVER)
#endif

#ifdef CUT_D_DEVICE
#define CUT
#define fence_D_device() skip
#else
#define fence_D_device() shm_fence_full(DEVICE)
#endif

/* The look at the ring after arming: what it found, or with the cut that it found nothing. */
#ifdef CUT_C_RECHECK
#define CUT
#define recheck_C(found) false
#else
#define recheck_C(found) (found)
#endif

#ifdef CUT_D_RECHECK
#define CUT
#define recheck_D(found) false
#else
#define recheck_D(found) (found)
#endif
