/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user protocol on the wire: message ids, bits and payloads, named as
 * in the vhost-user document. Native byte order. No code.
 */
#ifndef VIRTQ_SPEC_VHOST_USER_H
#define VIRTQ_SPEC_VHOST_USER_H

#include <stdint.h>

/* Header flags. */
#define VHOST_USER_VERSION_MASK		0x3
#define VHOST_USER_VERSION		0x1
#define VHOST_USER_REPLY_MASK		0x4
#define VHOST_USER_NEED_REPLY_MASK	0x8

/* Feature bits that exist on the wire only, numbers: no driver may see them. */
#define VHOST_F_LOG_ALL			26
#define VHOST_USER_F_PROTOCOL_FEATURES	30

/* Protocol features, bit numbers. */
#define VHOST_USER_PROTOCOL_F_MQ			0
#define VHOST_USER_PROTOCOL_F_LOG_SHMFD			1
#define VHOST_USER_PROTOCOL_F_RARP			2
#define VHOST_USER_PROTOCOL_F_REPLY_ACK			3
#define VHOST_USER_PROTOCOL_F_MTU			4
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ		5
#define VHOST_USER_PROTOCOL_F_CROSS_ENDIAN		6
#define VHOST_USER_PROTOCOL_F_CRYPTO_SESSION		7
#define VHOST_USER_PROTOCOL_F_PAGEFAULT			8
#define VHOST_USER_PROTOCOL_F_CONFIG			9
#define VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD		10
#define VHOST_USER_PROTOCOL_F_HOST_NOTIFIER		11
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD		12
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE		13
#define VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS	14
#define VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS	15
#define VHOST_USER_PROTOCOL_F_STATUS			16
#define VHOST_USER_PROTOCOL_F_XEN_MMAP			17
#define VHOST_USER_PROTOCOL_F_SHARED_OBJECT		18
#define VHOST_USER_PROTOCOL_F_DEVICE_STATE		19
#define VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT	20
#define VHOST_USER_PROTOCOL_F_GPA_ADDRESSES		21
#define VHOST_USER_PROTOCOL_F_SHMEM			22
#define VHOST_USER_PROTOCOL_F_GET_VRING_BASE_SKIP_DRAIN	23

/* Front-end message types. */
#define VHOST_USER_GET_FEATURES			1
#define VHOST_USER_SET_FEATURES			2
#define VHOST_USER_SET_OWNER			3
#define VHOST_USER_RESET_OWNER			4
#define VHOST_USER_SET_MEM_TABLE		5
#define VHOST_USER_SET_LOG_BASE			6
#define VHOST_USER_SET_LOG_FD			7
#define VHOST_USER_SET_VRING_NUM		8
#define VHOST_USER_SET_VRING_ADDR		9
#define VHOST_USER_SET_VRING_BASE		10
#define VHOST_USER_GET_VRING_BASE		11
#define VHOST_USER_SET_VRING_KICK		12
#define VHOST_USER_SET_VRING_CALL		13
#define VHOST_USER_SET_VRING_ERR		14
#define VHOST_USER_GET_PROTOCOL_FEATURES	15
#define VHOST_USER_SET_PROTOCOL_FEATURES	16
#define VHOST_USER_GET_QUEUE_NUM		17
#define VHOST_USER_SET_VRING_ENABLE		18
#define VHOST_USER_SEND_RARP			19
#define VHOST_USER_NET_SET_MTU			20
#define VHOST_USER_SET_BACKEND_REQ_FD		21
#define VHOST_USER_IOTLB_MSG			22
#define VHOST_USER_SET_VRING_ENDIAN		23
#define VHOST_USER_GET_CONFIG			24
#define VHOST_USER_SET_CONFIG			25
#define VHOST_USER_CREATE_CRYPTO_SESSION	26
#define VHOST_USER_CLOSE_CRYPTO_SESSION		27
#define VHOST_USER_POSTCOPY_ADVISE		28
#define VHOST_USER_POSTCOPY_LISTEN		29
#define VHOST_USER_POSTCOPY_END			30
#define VHOST_USER_GET_INFLIGHT_FD		31
#define VHOST_USER_SET_INFLIGHT_FD		32
#define VHOST_USER_GPU_SET_SOCKET		33
#define VHOST_USER_RESET_DEVICE			34
#define VHOST_USER_VRING_KICK			35
#define VHOST_USER_GET_MAX_MEM_SLOTS		36
#define VHOST_USER_ADD_MEM_REG			37
#define VHOST_USER_REM_MEM_REG			38
#define VHOST_USER_SET_STATUS			39
#define VHOST_USER_GET_STATUS			40
#define VHOST_USER_GET_SHARED_OBJECT		41
#define VHOST_USER_SET_DEVICE_STATE_FD		42
#define VHOST_USER_CHECK_DEVICE_STATE		43
#define VHOST_USER_GET_SHMEM_CONFIG		44
#define VHOST_USER_GET_VRING_BASE_SKIP_DRAIN	45

/* Back-end message types: they go the other way, over the channel of SET_BACKEND_REQ_FD. */
#define VHOST_USER_BACKEND_IOTLB_MSG		1
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG	2
#define VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG 3
#define VHOST_USER_BACKEND_VRING_CALL		4
#define VHOST_USER_BACKEND_VRING_ERR		5
#define VHOST_USER_BACKEND_SHARED_OBJECT_ADD	6
#define VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE	7
#define VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP	8
#define VHOST_USER_BACKEND_SHMEM_MAP		9
#define VHOST_USER_BACKEND_SHMEM_UNMAP		10

/* u64 payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR. */
#define VHOST_USER_VRING_IDX_MASK	0xff
#define VHOST_USER_VRING_NOFD_MASK	0x100

/* flags of struct VhostUserVringAddr: bit number. */
#define VHOST_VRING_F_LOG		0

/* flags of struct VhostUserConfig. */
#define VHOST_USER_CONFIG_WRITABLE	0
#define VHOST_USER_CONFIG_MIGRATION	1

/* Most regions in one table, and most bytes of configuration space in one message. */
#define VHOST_MEMORY_BASELINE_NREGIONS	8
#define VHOST_USER_MAX_CONFIG_SIZE	256

struct VhostUserHeader {
	uint32_t request;
	uint32_t flags;
	uint32_t size;		/* of the payload, bytes */
};

struct VhostUserVringState {
	uint32_t index;
	uint32_t num;
};

struct VhostUserVringAddr {
	uint32_t index;
	uint32_t flags;
	uint64_t descriptor;	/* these three as the front end addresses them */
	uint64_t used;
	uint64_t available;
	uint64_t log;		/* guest address */
};

struct VhostUserMemoryRegion {
	uint64_t guest_phys_addr;
	uint64_t memory_size;
	uint64_t userspace_addr;
	uint64_t mmap_offset;
};

struct VhostUserMemory {
	uint32_t nregions;
	uint32_t padding;
	struct VhostUserMemoryRegion regions[VHOST_MEMORY_BASELINE_NREGIONS];
};

struct VhostUserMemRegMsg {
	uint64_t padding;
	struct VhostUserMemoryRegion region;
};

struct VhostUserConfig {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t region[VHOST_USER_MAX_CONFIG_SIZE];
};

#endif
