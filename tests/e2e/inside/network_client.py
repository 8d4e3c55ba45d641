"""What the rest of the network sees of the server's stack. Arguments: the server's address, the host's address."""

import errno
import re
import socket
import subprocess
import sys
import time

from cases import Plan, expect, expect_equal

ADDRESS, HOST_ADDRESS = sys.argv[1:3]
FAMILY = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET

plan = Plan()


def ping(*options):
    """Runs ping and returns how many answers came, and the whole output."""
    command = ["ping", "-n", "-q", "-i", "0.05", "-W", "2", *options, ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    received = re.search(r"(\d+) received", done.stdout)
    return int(received.group(1)) if received else 0, done.stdout + done.stderr


@plan.case("ping")
def answers_ping():
    received, output = ping("-c", "20")
    expect_equal(received, 20, f"answers ({output.strip()})")


@plan.case("ping-1400-bytes")
def answers_large_ping():
    received, output = ping("-c", "5", "-s", "1400")
    expect_equal(received, 5, f"answers ({output.strip()})")


@plan.case("neighbour")
def is_a_neighbour():
    """Address resolution (ARP or NDP) worked: the kernel knows the server's link address."""
    ping("-c", "1")
    shown = subprocess.run(["ip", "neighbour", "show", ADDRESS], capture_output=True, text=True, timeout=20).stdout
    expect(re.search(r"lladdr ([0-9a-f]{2}:){5}[0-9a-f]{2}", shown), f"no link address in {shown!r}")


@plan.case("neighbour-again")
def is_a_neighbour_again():
    """After the kernel forgot it, the server answers the next probe, also while a connection is open."""
    with socket.create_connection((ADDRESS, 80), timeout=10) as connection:
        device = re.search(r"dev (\S+)", subprocess.check_output(["ip", "route", "get", ADDRESS], text=True)).group(1)
        subprocess.run(["ip", "neighbour", "flush", "dev", device], check=True, timeout=20)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        expect(connection.recv(100).startswith(b"HTTP/1.1 200"), "an answer after the neighbour was forgotten")


@plan.case("closed-port-is-refused")
def closed_port_is_refused():
    started = time.monotonic()
    try:
        socket.create_connection((ADDRESS, 81), timeout=5).close()
        raise AssertionError("port 81 accepted a connection")
    except ConnectionRefusedError:
        seconds = time.monotonic() - started
    expect(seconds < 0.5, f"refused only after {seconds:.2f} s: expected an RST at once")


@plan.case("udp-port-is-unreachable-or-silent")
def udp_is_not_answered():
    with socket.socket(FAMILY, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.5)
        udp.connect((ADDRESS, 9))
        udp.send(b"anyone?")
        try:
            raise AssertionError(f"somebody answered: {udp.recv(100)!r}")
        except OSError as error:
            expect(
                isinstance(error, TimeoutError) or error.errno == errno.ECONNREFUSED,
                f"expected silence or ICMP port unreachable, got {error}",
            )


@plan.case("source-ports-are-reusable")
def source_ports_are_reusable():
    """The same 4-tuple again and again: TIME-WAIT on the server's side must not swallow the new SYN."""
    for round_ in range(20):
        started = time.monotonic()
        with connect_from(40_000) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = b""
            while chunk := client.recv(4096):  # the server closes first, and so keeps TIME-WAIT
                received += chunk
        expect(received.startswith(b"HTTP/1.1 200"), f"round {round_}: {received[:60]!r}")
        expect(time.monotonic() - started < 0.9, f"round {round_}: took {time.monotonic() - started:.1f} s: a lost SYN")


def connect_from(port):
    """A connection from that port, which the kernel gives again once the server has acknowledged the last FIN."""
    deadline = time.monotonic() + 0.5
    while True:
        client = socket.socket(FAMILY, socket.SOCK_STREAM)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(5)
        client.bind((HOST_ADDRESS, port))
        try:
            client.connect((ADDRESS, 80))
            return client
        except OSError as error:
            client.close()
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


plan.main()
