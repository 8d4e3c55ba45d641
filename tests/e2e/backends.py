"""What carries the frames between the server and the namespace whose kernel is its other end."""

import os
import subprocess

HOST_ADDRESSES = "10.73.0.1/24,fd73::1/64"


class Backend:
    """What one backend needs beside the server."""

    name = ""
    # What the server says when it is started without privilege, and on a device that another one has.
    privilege = ""
    busy = "in use"

    def prepare(self, server):
        """Makes what the server finds when it starts."""

    def inside(self, server, command):
        """The command line that runs `command`, the server's, where its device is."""
        return server.namespace.inside(*command)

    def connect(self, server):
        """Gives the kernel's end its addresses, once the server is ready."""

    def remains(self, namespace, device):
        """What a server that has ended left behind on its device, in words; empty when all is as before."""
        return f"the device {device}" if namespace.has_link(device) else ""


class Tap(Backend):
    """A TAP device of the server's own, whose kernel end it puts into the namespace itself."""

    name = "tap"
    privilege = "CAP_NET_ADMIN"

    def options(self, server):
        """The options of `unsocket serve` that name the device and its kernel end."""
        return ["--port", f"tap:{server.tap}", "--host-ip", server.host_addresses, "--netns", server.namespace.name]

    def settings(self, device):
        """The same as keys of the configuration, for a program that takes those."""
        addresses = ",".join(f'"{address}"' for address in device.host_addresses.split(","))
        return [f'port.spec="tap:{device.tap}"', f"port.host_ip=[{addresses}]", f'port.netns="{device.namespace.name}"']

    def second(self, ports):
        """The keys of `[[more_ports]]` that name the second device of a server."""
        return [f"spec='tap:{ports.second}'", f"netns='{ports.namespace.name}'"]

    def inside(self, server, command):
        """The command line that runs `command`, the server's, where its device is."""
        return command


class Dpdk(Backend):
    """A DPDK device; memory is ordinary pages, or hugepages with `DPDK_MEMORY=huge`."""

    privilege = "CAP_NET_RAW"

    def memory(self):
        """The options for DPDK's memory and for its workers' way of waiting."""
        kind = os.environ.get("DPDK_MEMORY", "ordinary")
        if kind not in ("ordinary", "huge"):
            raise ValueError(f"DPDK_MEMORY={kind}: it is `huge` or `ordinary`")
        return ["--no-huge"] if kind == "ordinary" else []

    def options(self, server):
        """The options of `unsocket serve` that name the device."""
        # Workers that spin would take every core of a small machine from the clients.
        waiting = ["--poll", "adaptive"] if server.workers > 1 else []
        return ["--port", f"dpdk:{self.devargs(server)}", *self.memory(), *waiting]

    def settings(self, device):
        """The same as keys of the configuration, for a program that takes those."""
        hugepages = "false" if self.memory() else "true"
        return [f'port.spec="dpdk:{self.devargs(device)}"', f"port.hugepages={hugepages}"]

    def connect(self, server):
        """Gives the kernel's end its addresses, once the server is ready."""
        for address in server.host_addresses.split(","):
            server.namespace.ip("addr", "replace", address, "dev", server.tap)
        server.namespace.ip("link", "set", server.tap, "up")


class NetTap(Dpdk):
    """DPDK's net_tap: the server runs in the namespace and makes the device there."""

    name = "net_tap"

    def devargs(self, server):
        return f"net_tap0,iface={server.tap}"

    def second(self, ports):
        """The keys of `[[more_ports]]` that name the second device of a server."""
        hugepages = "false" if self.memory() else "true"
        return [f"spec='dpdk:net_tap1,iface={ports.second}'", f"hugepages={hugepages}"]


class Veth(Dpdk):
    """One end of a veth pair is the server's, in a namespace beside; the other end is the kernel's."""

    def prepare(self, server):
        """Makes the pair, unless an earlier server has left it, as it must."""
        namespace, device = server.namespace, server.tap
        if namespace.has_link(device):
            return
        # Of an earlier server that has ended: a TAP device would be gone, and this one has the same addresses.
        if namespace.pair:
            namespace.ip("link", "delete", namespace.pair)
        namespace.pair = device
        beside = namespace.beside()
        namespace.ip("link", "add", device, "type", "veth", "peer", "name", device, "netns", beside.name)
        # The kernel leaves checksums and segmentation to a veth's other end, where it expects itself.
        namespace.run("ethtool", "-K", device, "tx", "off")
        beside.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
        beside.ip("link", "set", device, "up")
        self.connect(server)

    def inside(self, server, command):
        """The command line that runs `command`, the server's, where its device is."""
        return server.namespace.beside().inside(*command)

    def remains(self, namespace, device):
        """What a server that has ended left behind on its device, in words; empty when all is as before."""
        shown = subprocess.run(
            ["ip", "-n", namespace.beside().name, "-details", "link", "show", device],
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
        marks = [mark for mark in ("xdp", "PROMISC", "ALLMULTI") if mark in shown]
        return f"{', '.join(marks)} of the interface {device}" if marks or not shown else ""


class AfPacket(Veth):
    """DPDK's net_af_packet on one end of a veth pair."""

    name = "af_packet"

    def devargs(self, server):
        return f"net_af_packet0,iface={server.tap},qpairs={server.workers}"


class AfXdp(Veth):
    """DPDK's net_af_xdp on one end of a veth pair."""

    name = "af_xdp"

    def devargs(self, server):
        return f"net_af_xdp0,iface={server.tap}"


OPTION_OF_TAP = "--netns is an option of TAP devices: this server is started inside a namespace"
# Cases that mean nothing on a backend, and why; None stands for all cases of a suite.
NOT_APPLICABLE = {
    ("af_packet", "lifecycle", "refuses-a-device-that-is-busy"): "the kernel lets packet sockets share an interface",
    ("net_tap", "lifecycle", "refuses-a-device-that-is-busy"): "the kernel gives a second process queues of the same device",
    **{
        (backend, "links", None): "its driver's buffers end at 2 or 4 KiB: links of every MTU are laid with TAP devices"
        for backend in ("af_packet", "af_xdp", "net_tap")
    },
    **{
        (backend, "ports", None): "two devices of DPDK's are opened as net_tap, which needs no pair of interfaces each"
        for backend in ("af_packet", "af_xdp")
    },
    **{
        (backend, "lifecycle", case): OPTION_OF_TAP
        for backend in ("af_packet", "af_xdp", "net_tap")
        for case in ("refuses-a-missing-namespace", "refuses-a-namespace-without-privilege")
    },
}

BACKENDS = {backend.name: backend for backend in (Tap(), AfPacket(), AfXdp(), NetTap())}


class Failure(Exception):
    """A case failed; the text says what was expected and what came."""


def run(*command):
    """Runs a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
