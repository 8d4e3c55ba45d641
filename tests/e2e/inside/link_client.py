"""Echoes over a link or a path and looks at the packets. Arguments: the URL, the path's MTU, the link's MTU.

The kernel is the client; what the server puts on the wire is read off the interface that leads there. Segments that
the server leaves to the kernel to cut count as long as they are once cut.
"""

import asyncio
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from cases import Plan, expect, expect_equal

URL, PATH_MTU, LINK_MTU = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ADDRESS = urlsplit(URL).hostname
IS_IPV6 = ":" in ADDRESS
SIZES = [1, 125, 1_000, 65_536, 1 << 20, 16 << 20]
HEADERS = 60 if IS_IPV6 else 40  # IP and TCP without options
ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR = 263, 15
VNET_HEADER = struct.Struct("=BBHHHH")  # flags, GSO type, bytes of headers, GSO size, checksum's start and offset
MSS_OPTION = 2

plan = Plan(case_seconds=120)


class Watch(threading.Thread):
    """Reads every packet that comes in from the server's port 80."""

    def __init__(self):
        super().__init__(daemon=True)
        route = subprocess.check_output(["ip", "route", "get", ADDRESS], text=True)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.bind((re.search(r"dev (\S+)", route).group(1), ETH_P_ALL))
        self.largest = 0
        self.cut = 0
        self.announced = None
        self.start()

    def run(self):
        wanted = socket.inet_pton(socket.AF_INET6 if IS_IPV6 else socket.AF_INET, ADDRESS)
        while True:
            received, (_, _, kind, _, _) = self.socket.recvfrom(1 << 17)
            cut_to = VNET_HEADER.unpack_from(received)[3]
            packet = received[VNET_HEADER.size + 14 :]
            source, start = (packet[8:24], 40) if IS_IPV6 else (packet[12:16], (packet[0] & 15) * 4 if packet else 0)
            if kind != socket.PACKET_OUTGOING and source == wanted:
                self.see(packet, packet[start:], cut_to)

    def see(self, packet, segment, cut_to):
        if len(segment) < 20 or segment[:2] != b"\0\x50":
            return
        length = 40 + struct.unpack_from("!H", packet, 4)[0] if IS_IPV6 else struct.unpack_from("!H", packet, 2)[0]
        header = (segment[12] >> 4) * 4
        if cut_to:
            self.cut += 1
            length = len(packet) - len(segment) + header + cut_to
        self.largest = max(self.largest, length)
        options = segment[20:header]
        while segment[13] & 2 and options and options[0]:
            if options[0] == MSS_OPTION:
                self.announced = struct.unpack_from("!H", options, 2)[0]
            options = options[1 if options[0] == 1 else options[1] :]


watch = Watch()


async def echo(size):
    async with connect(URL, max_size=None, ping_interval=None, open_timeout=30, compression=None) as ws:
        data = os.urandom(size)
        await ws.send(data)
        expect_equal(await ws.recv(), data, "echo")


for size in SIZES:
    plan.add(f"echo-{size}", echo, size)


@plan.case("segments-fit-and-fill-the-path")
async def segments_fit():
    """What was announced is the link's, what came is the path's: no larger, and not needlessly small."""
    await asyncio.sleep(0.2)
    expect_equal(watch.announced, LINK_MTU - HEADERS, "the MSS that the server announces")
    expect(watch.largest <= PATH_MTU, f"a packet of {watch.largest} bytes came over a path of {PATH_MTU}")
    expect(watch.largest > PATH_MTU - 100, f"the largest packet had {watch.largest} bytes, the path carries {PATH_MTU}")
    return f"largest packet {watch.largest} bytes"


@plan.case("the-kernel-cuts-large-segments-of-ipv4-alone")
async def offload():
    """The server hands over several segments in one frame where the kernel cuts them: over IPv4."""
    expect_equal(watch.cut > 0, not IS_IPV6, f"{watch.cut} frames with large segments came")
    return f"{watch.cut} large segments"


@plan.case("the-kernel-honours-it-too")
async def kernel_segments():
    """What `ss` says of a connection in use."""
    async with connect(URL, max_size=None, ping_interval=None, compression=None) as ws:
        for _ in range(3):
            await ws.send(os.urandom(200_000))
            await ws.recv()
        port = ws.transport.get_extra_info("sockname")[1]
        shown = subprocess.check_output(["ss", "-tinH", f"sport = :{port}"], text=True)
    found = {name: int(value) for name, value in re.findall(r"\b(mss|pmtu|rcvmss|advmss):(\d+)", shown)}
    # A timestamp option would take 12 bytes of each; the server offers none.
    expect_equal(found["mss"], PATH_MTU - HEADERS, f"the segment size that the kernel sends with ({shown.strip()})")
    if PATH_MTU == LINK_MTU:  # else the kernel announces what it has learnt of the path
        expect_equal(found["advmss"], LINK_MTU - HEADERS, "the segment size that the kernel announces")
    return str(found)


plan.main()
