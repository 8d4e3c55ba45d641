"""What carries the frames between the server and the namespace whose kernel is its other end."""

import os
import subprocess

HOST_ADDRESSES = "10.73.0.1/24,fd73::1/64"


class Tap:
    """A TAP device of the server's own, whose kernel end it puts into the namespace itself."""

    name = "tap"

    def prepare(self, namespace, device, queues):
        """Makes what the server finds when it starts."""

    def options(self, namespace, device, queues):
        """The options of `unsocket serve` that name the device and its kernel end."""
        return ["--port", f"tap:{device}", "--host-ip", HOST_ADDRESSES, "--netns", namespace.name]

    def inside(self, namespace, command):
        """The command line that runs `command`, the server's, where its device is."""
        return command

    def connect(self, namespace, device):
        """Gives the kernel's end its addresses, once the server is ready."""


class Dpdk:
    """A DPDK device; memory is ordinary pages, or hugepages with `DPDK_MEMORY=huge`."""

    def prepare(self, namespace, device, queues):
        """Makes what the server finds when it starts."""

    def memory(self):
        """The options for DPDK's memory and for its workers' way of waiting."""
        kind = os.environ.get("DPDK_MEMORY", "ordinary")
        if kind not in ("ordinary", "huge"):
            raise ValueError(f"DPDK_MEMORY={kind}: it is `huge` or `ordinary`")
        return ["--no-huge"] if kind == "ordinary" else []

    def options(self, namespace, device, queues):
        """The options of `unsocket serve` that name the device."""
        # Workers that spin would take every core of a small machine from the clients.
        waiting = ["--poll", "adaptive"] if queues > 1 else []
        return ["--port", f"dpdk:{self.devargs(device, queues)}", *self.memory(), *waiting]

    def connect(self, namespace, device):
        """Gives the kernel's end its addresses, once the server is ready."""
        for address in HOST_ADDRESSES.split(","):
            run("ip", "-n", namespace.name, "addr", "replace", address, "dev", device)
        run("ip", "-n", namespace.name, "link", "set", device, "up")


class NetTap(Dpdk):
    """DPDK's net_tap: the server runs in the namespace and makes the device there."""

    name = "net_tap"

    def devargs(self, device, queues):
        return f"net_tap0,iface={device}"

    def inside(self, namespace, command):
        """The command line that runs `command`, the server's, where its device is."""
        return namespace.inside(*command)


class Veth(Dpdk):
    """One end of a veth pair is the server's, in a namespace beside; the other end is the kernel's."""

    def prepare(self, namespace, device, queues):
        """Makes the pair, unless an earlier server has left it, as it must."""
        if namespace.has_link(device):
            return
        beside = namespace.beside()
        rings = ["numrxqueues", str(queues), "numtxqueues", str(queues)]
        peer = ["peer", "name", device, *rings, "netns", beside.name]
        run("ip", "-n", namespace.name, "link", "add", device, *rings, "type", "veth", *peer)
        # The kernel leaves checksums and segmentation to a veth's other end, where it expects itself.
        run(*namespace.inside("ethtool", "-K", device, "tx", "off"))
        run(*beside.inside("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1"))
        run("ip", "-n", beside.name, "link", "set", device, "up")
        self.connect(namespace, device)

    def inside(self, namespace, command):
        """The command line that runs `command`, the server's, where its device is."""
        return namespace.beside().inside(*command)


class AfPacket(Veth):
    """DPDK's net_af_packet on one end of a veth pair."""

    name = "af_packet"

    def devargs(self, device, queues):
        return f"net_af_packet0,iface={device},qpairs={queues}"


class AfXdp(Veth):
    """DPDK's net_af_xdp on one end of a veth pair."""

    name = "af_xdp"

    def devargs(self, device, queues):
        return f"net_af_xdp0,iface={device},queue_count={queues}"


BACKENDS = {backend.name: backend for backend in (Tap(), AfPacket(), AfXdp(), NetTap())}


class Failure(Exception):
    """A case failed; the text says what was expected and what came."""


def run(*command):
    """Runs a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
