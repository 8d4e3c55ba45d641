"""One server on two devices whose networks have nothing in common: the first with one worker, the second with two."""

import re
import signal
import subprocess
import sys

from harness import TESTS, Failure, Namespace, Program, Server, url

FAMILIES = ("ipv4", "ipv6")
SECOND_ADDRESSES = ("10.74.0.2/24", "fd74::2/64")
SECOND_HOST_ADDRESSES = ("10.74.0.1/24", "fd74::1/64")
FIRST = {"ipv4": "10.73.0.2", "ipv6": "fd73::2"}
SECOND = {"ipv4": "10.74.0.2", "ipv6": "fd74::2"}
HOLD_CLIENT = [sys.executable, TESTS / "inside" / "hold_client.py"]
ROOMS_CLIENT = [sys.executable, TESTS / "inside" / "rooms_client.py"]


def suite(report, binary):
    """Every case, over both families of addresses."""
    with Namespace() as namespace:
        with TwoPorts(binary, namespace, "chat") as (server, second):
            for family in FAMILIES:
                report.run(f"ports/{family}", "first-answers", ping, namespace, FIRST[family])
                report.run(f"ports/{family}", "second-answers", ping, namespace, SECOND[family])
                wrong = ((server.tap, SECOND[family]), (second, FIRST[family]))
                for number, (device, address) in enumerate(wrong, 1):
                    case = f"device-{number}-has-no-address-of-the-other"
                    report.run(f"ports/{family}", case, no_answer, namespace, device, address)
                command = [*ROOMS_CLIENT, url(family), second_url(family)]
                report.run_program(f"ports/{family}", namespace, command, 60)
            report.run("ports", "clean-stop", server.stop)
        with TwoPorts(binary, namespace, "echo") as (server, _):
            report.run("ports", "one-drain-for-both", drains_both, server, namespace)


class TwoPorts:
    """The server with both devices, ready, and the name of the second one."""

    def __init__(self, binary, namespace, app):
        self.namespace = namespace
        self.server = Server(binary, namespace, app=app)
        self.second = f"{self.server.tap}b"
        settings = [
            *self.server.backend.second(self),
            "ip=[" + ",".join(f"'{address}'" for address in SECOND_ADDRESSES) + "]",
            "workers=2",
        ]
        # Workers that spin would take every core of a small machine from the clients.
        self.server.command += ["--poll", "adaptive", "--set", f"more_ports=[{{{','.join(settings)}}}]"]

    def __enter__(self):
        self.server.start()
        for address in SECOND_HOST_ADDRESSES:
            nodad = ["nodad"] if ":" in address else []
            self.namespace.ip("addr", "replace", address, "dev", self.second, *nodad)
        self.namespace.ip("link", "set", self.second, "up")
        # Each network can be looked for on the other's device, too, by who asks for that device.
        of_first, of_second = ("10.73.0.0/24", "fd73::/64"), ("10.74.0.0/24", "fd74::/64")
        others = [*((network, self.second) for network in of_first), *((network, self.server.tap) for network in of_second)]
        for network, device in others:
            self.namespace.ip("route", "add", network, "dev", device, "metric", 9999)
        return self.server, self.second

    def __exit__(self, *_):
        self.server.kill()


def second_url(family):
    """The server's URL on its second device."""
    address = SECOND[family]
    return f"ws://[{address}]/ws" if family == "ipv6" else f"ws://{address}/ws"


def ping(namespace, address):
    """It answers every ping."""
    namespace.run("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "2", address)


def no_answer(namespace, device, address):
    """Nobody at the other end of the device has the address."""
    command = namespace.inside("ping", "-n", "-q", "-c", "2", "-i", "0.2", "-w", "1", "-I", device, address)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode != 1 or not re.search(r"[1-9]\d* packets transmitted, 0 received", done.stdout):
        raise Failure(f"expected pings and no answer, ping says: {done.stdout} {done.stderr}")


def drains_both(server, namespace):
    """SIGTERM closes what is open on either device with 1001."""
    commands = [[*HOLD_CLIENT, target, 20] for target in (url("ipv4"), second_url("ipv4"))]
    with (
        Program(namespace, commands[0], "hold-first") as first,
        Program(namespace, commands[1], "hold-second") as second,
    ):
        for program in (first, second):
            if (opened := program.next(30)) != {"open": 20}:
                raise Failure(f"expected 20 open connections, the client says {opened}")
        server.signal(signal.SIGTERM)
        for program in (first, second):
            if (closes := program.next(30)) != {"closes": [1001] * 20}:
                raise Failure(f"expected 1001 for each connection, the client says {closes}")
    if (code := server.wait(30)) != 0:
        raise Failure(f"exit status {code} after SIGTERM; its log ends: {server.log_tail()}")
