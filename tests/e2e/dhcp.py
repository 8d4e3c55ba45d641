"""An address by DHCP, from BusyBox's server in the namespace: one lease for two workers, renewed, lost, and anew."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from harness import TESTS, Failure, Namespace, Program, Server, both_workers_serve

FIRST, SECOND = "10.73.0.50", "10.73.0.60"
LEASE_SECONDS = 8
SCRIPT = (
    "import socket, sys\n"
    "with socket.socket() as client:\n"
    "    client.settimeout(float(sys.argv[2]))\n"
    "    try: client.connect((sys.argv[1], 80))\n"
    "    except OSError: print('silent')\n"
    "    else: print('open')\n"
)


def suite(report, binary):
    """One server process through the life of two leases."""
    options = ("--workers", 2, "--dhcp")
    with (
        Namespace() as namespace,
        Server(binary, namespace, *options, addresses=None, host_addresses="10.73.0.1/24") as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        server.start()
        with contextlib.ExitStack() as first:
            daemon = first.enter_context(dhcp_server(namespace, server.tap, folder, FIRST))
            report.run("dhcp", "lease", comes_up, namespace, FIRST, 20)
            report.run("dhcp", "both-workers-serve", both_workers_serve, server, namespace, f"ws://{FIRST}/ws")
            with held(namespace, FIRST) as client:
                report.run("dhcp", "renewed-under-a-connection", is_renewed, namespace, daemon, client)
                daemon.stop()
                report.run("dhcp", "expires-when-the-server-is-gone", expires, namespace, server)
                with dhcp_server(namespace, server.tap, folder, SECOND):
                    report.run("dhcp", "another-address", comes_up, namespace, SECOND, 60)
                    report.run("dhcp", "both-workers-again", both_workers_serve, server, namespace, f"ws://{SECOND}/ws")
                    report.run("dhcp", "old-connection-is-gone", is_gone, namespace, client)
                    report.run("dhcp", "clean-stop", server.stop)
    report.run("dhcp", "refused-beside-an-ipv4-address", refused, binary)


class Daemon:
    """BusyBox's udhcpd in the foreground, with one address to give."""

    def __init__(self, namespace, interface, folder, address):
        folder = pathlib.Path(folder)
        self.log_path = folder / f"{address}.log"
        leases = folder / f"{address}.leases"
        leases.touch()
        config = folder / f"{address}.conf"
        config.write_text(
            f"start {address}\nend {address}\ninterface {interface}\nmax_leases 1\nmin_lease {LEASE_SECONDS}\n"
            f"lease_file {leases}\npidfile {folder / address}.pid\nauto_time 0\n"
            f"option subnet 255.255.255.0\noption router 10.73.0.1\noption lease {LEASE_SECONDS}\n"
        )
        with open(self.log_path, "wb") as log:
            command = namespace.inside("busybox", "udhcpd", "-f", config)
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def acknowledgements(self):
        """How often it has given or renewed the lease."""
        return self.log_path.read_text(errors="replace").lower().count("sending ack")

    def stop(self):
        """Ends it, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


@contextlib.contextmanager
def dhcp_server(namespace, interface, folder, address):
    """A DHCP server for as long as the block lasts."""
    daemon = Daemon(namespace, interface, folder, address)
    try:
        yield daemon
    finally:
        daemon.stop()


def answers(namespace, address, seconds=0.5):
    """Whether a TCP connection to the address opens."""
    return namespace.run(sys.executable, "-c", SCRIPT, address, seconds).strip() == "open"


def comes_up(namespace, address, seconds):
    """The server takes the address that it is given and serves there."""
    started = time.monotonic()
    while not answers(namespace, address):
        if time.monotonic() - started > seconds:
            raise Failure(f"nobody serves at {address} after {seconds} s")
        time.sleep(0.2)
    return f"after {time.monotonic() - started:.1f} s"


@contextlib.contextmanager
def held(namespace, address):
    """A client with four connections, spread over the workers as it may be, that echoes when told to."""
    command = [sys.executable, TESTS / "inside" / "echo_on_command.py", f"ws://{address}/ws", 4]
    with Program(namespace, command, f"dhcp client {address}") as program:
        if (opened := program.next(30)) != {"open": 4}:
            program.ended()
            raise Failure(f"expected 4 open connections, the client says {opened}")
        yield program


def echoes(client, seconds):
    """How many of the client's connections echo within `seconds`."""
    client.tell(f"echo {seconds}")
    return client.next(seconds + 20)["echoed"]


def is_renewed(namespace, daemon, client):
    """The lease is renewed at half its time, and connections do not notice."""
    given = daemon.acknowledgements()
    started = time.monotonic()
    while time.monotonic() - started < 2 * LEASE_SECONDS + 1:
        if (echoed := echoes(client, 5)) != 4:
            raise Failure(f"{echoed} of 4 connections echo {time.monotonic() - started:.1f} s later")
        time.sleep(0.5)
    renewals = daemon.acknowledgements() - given
    if renewals < 3:
        raise Failure(f"{renewals} renewals in {2 * LEASE_SECONDS + 1} s of a lease of {LEASE_SECONDS} s")
    return f"{renewals} renewals in {2 * LEASE_SECONDS + 1} s, no connection lost"


def expires(namespace, server):
    """Without a DHCP server the address is given up when the lease is over, and not long after."""
    started = time.monotonic()
    while answers(namespace, FIRST):
        if time.monotonic() - started > LEASE_SECONDS + 3:
            raise Failure(f"{FIRST} still serves {time.monotonic() - started:.1f} s after the last renewal")
        time.sleep(0.2)
    if "DHCP lease lost" not in server.log():
        raise Failure(f"the log does not say that the lease was lost: {server.log_tail()}")
    return f"after {time.monotonic() - started:.1f} s"


def is_gone(namespace, client):
    """The old address is nobody's, and the connections to it lead nowhere."""
    if answers(namespace, FIRST):
        raise Failure(f"{FIRST} serves beside {SECOND}")
    if echoed := echoes(client, 3):
        raise Failure(f"{echoed} connections to an address that was given up still echo")


def refused(binary):
    """An IPv4 address beside DHCP would be replaced in silence."""
    with Namespace() as namespace:
        code, output = Server(binary, namespace, "--dhcp", addresses="10.73.0.2/24").refused()
    if code <= 0 or "port.ip" not in output or "port.dhcp" not in output:
        raise Failure(f"expected an error about port.ip and port.dhcp, got status {code}: {output.strip()!r}")
    return output.strip()
