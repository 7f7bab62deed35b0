/* SPDX-License-Identifier: MIT */
/*
 * Feature bits, device status bits and device types that belong to no single
 * device (VIRTIO 1.4, 2.1, 5 and 6). Numbers, not masks. No code.
 *
 * Written as plain macros with the values spelled as the kernel's own headers
 * spell them, so that a program may include both.
 */
#ifndef VIRTQ_SPEC_VIRTIO_H
#define VIRTQ_SPEC_VIRTIO_H

#define VIRTIO_F_NOTIFY_ON_EMPTY	24
#define VIRTIO_F_ANY_LAYOUT		27
#define VIRTIO_F_INDIRECT_DESC		28
#define VIRTIO_F_EVENT_IDX		29
#define VIRTIO_F_VERSION_1		32
#define VIRTIO_F_ACCESS_PLATFORM	33
#define VIRTIO_F_RING_PACKED		34
#define VIRTIO_F_IN_ORDER		35
#define VIRTIO_F_ORDER_PLATFORM		36
#define VIRTIO_F_SR_IOV			37
#define VIRTIO_F_NOTIFICATION_DATA	38
#define VIRTIO_F_NOTIF_CONFIG_DATA	39
#define VIRTIO_F_RING_RESET		40
#define VIRTIO_F_ADMIN_VQ		41
#define VIRTIO_F_SUSPEND		43

#define VIRTIO_CONFIG_S_ACKNOWLEDGE	1
#define VIRTIO_CONFIG_S_DRIVER		2
#define VIRTIO_CONFIG_S_DRIVER_OK	4
#define VIRTIO_CONFIG_S_FEATURES_OK	8
#define VIRTIO_CONFIG_S_NEEDS_RESET	0x40
#define VIRTIO_CONFIG_S_FAILED		0x80

#define VIRTIO_ID_NET			1
#define VIRTIO_ID_BLOCK			2
#define VIRTIO_ID_CONSOLE		3
#define VIRTIO_ID_RNG			4
#define VIRTIO_ID_BALLOON		5
#define VIRTIO_ID_SCSI			8
#define VIRTIO_ID_9P			9
#define VIRTIO_ID_GPU			16
#define VIRTIO_ID_INPUT			18
#define VIRTIO_ID_VSOCK			19
#define VIRTIO_ID_CRYPTO		20
#define VIRTIO_ID_FS			26

#endif
