"""A VLAN device in user space, as not every kernel has one: a TAP device whose frames go out of another device with their tag
(IEEE 802.1Q), and come back without it.
"""

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import subprocess
import threading

# linux/if_tun.h, linux/if_packet.h, linux/virtio_net.h
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_VALID = 1 << 3, 1 << 4
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
ETH_P_ALL, ETH_P_8021Q, ETH_P_IP = 0x0003, 0x8100, 0x0800
AUXDATA = struct.Struct("=IIIHHHH")
VNET_HEADER = struct.Struct("=BBHHHH")
ID_BITS = 0x0FFF
FRAME_BYTES_MAX = 65_600
ADDRESSES_BYTES = 12
ETHERNET_HEADER_BYTES = 14
TCP_CHECKSUM_OFFSET = 16


def vnet_header(frame, is_checksum_missing):
    """What the TAP device is told of a frame: a segment of which the checksum was left to the device has it filled in."""
    if not is_checksum_missing:
        return VNET_HEADER.pack(0, 0, 0, 0, 0, 0)
    is_ip4 = struct.unpack_from("!H", frame, ADDRESSES_BYTES)[0] == ETH_P_IP
    ip_header_bytes = 4 * (frame[ETHERNET_HEADER_BYTES] & 0x0F) if is_ip4 else 40
    start = ETHERNET_HEADER_BYTES + ip_header_bytes
    return VNET_HEADER.pack(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start, TCP_CHECKSUM_OFFSET)


class Vlan:
    """The VLAN `tag` of the device `below`; counts its frames."""

    def __init__(self, below, tag):
        self.name = f"{below}.{tag}"
        self.tag = tag
        self.received = self.sent = 0
        self.cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.cable.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.cable.bind((below, ETH_P_ALL))
        self.tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.tap, TUNSETIFF, struct.pack("16sH14x", self.name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))

    def from_cable(self):
        """One frame of the cable, if it is this VLAN's. The kernel takes tags out of what it hands to packet sockets."""
        frame, ancillary, _, (_, _, packet_type, *_) = self.cable.recvmsg(FRAME_BYTES_MAX, socket.CMSG_SPACE(AUXDATA.size))
        if packet_type == PACKET_OUTGOING or not ancillary:
            return
        status, _, _, _, _, tci, tpid = AUXDATA.unpack(ancillary[0][2][: AUXDATA.size])
        if status & TP_STATUS_VLAN_VALID and tpid == ETH_P_8021Q and tci & ID_BITS == self.tag:
            os.write(self.tap, vnet_header(frame, status & TP_STATUS_CSUMNOTREADY) + frame)
            self.received += 1

    def from_tap(self):
        """One frame of the kernel's, with its tag."""
        frame = os.read(self.tap, FRAME_BYTES_MAX)[VNET_HEADER.size :]
        tag = struct.pack("!HH", ETH_P_8021Q, self.tag)
        self.cable.send(frame[:ADDRESSES_BYTES] + tag + frame[ADDRESSES_BYTES:])
        self.sent += 1

    def run(self, stop):
        """Both ways, until `stop` is readable."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.cable, selectors.EVENT_READ, self.from_cable)
            selector.register(self.tap, selectors.EVENT_READ, self.from_tap)
            selector.register(stop, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is stop:
                        return
                    key.data()


@contextlib.contextmanager
def vlan(below, tag, addresses):
    """Such a device with these addresses, of which a thread sees to the frames."""
    device = Vlan(below, tag)
    for address in addresses:
        nodad = ["nodad"] if ":" in address else []
        subprocess.run(["ip", "address", "add", address, "dev", device.name, *nodad], check=True)
    subprocess.run(["ip", "link", "set", device.name, "up"], check=True)
    stop, stopping = socket.socketpair()
    thread = threading.Thread(target=device.run, args=(stop,))
    thread.start()
    try:
        yield device
    finally:
        stopping.close()
        thread.join()
        device.cable.close()
        os.close(device.tap)
