"""How the server starts, refuses to start, stops, and comes back."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import tempfile
import time

from backends import NOT_APPLICABLE
from harness import SERVER_IP, TESTS, Failure, Namespace, Program, Server, run, url

AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def suite(report, binary):
    """Runs every case, each in a namespace of its own."""
    for case in (
        says_when_it_is_ready,
        notifies_the_service_manager,
        drains_on_sigterm,
        drains_on_sigint,
        drains_past_idle_clients,
        comes_back_after_kill,
        restarts_on_the_same_device_name,
        leaves_nothing_behind,
        refuses_a_device_that_is_busy,
        refuses_a_name_that_is_no_tap,
        refuses_without_privilege,
        refuses_a_namespace_without_privilege,
        refuses_a_missing_namespace,
        refuses_an_unknown_key,
        refuses_a_bad_address,
        refuses_ipv6_on_a_narrow_link,
        refuses_an_unknown_option,
    ):
        name = case.__name__.replace("_", "-")
        if reason := NOT_APPLICABLE.get((Server.backend.name, "lifecycle", name)):
            report.not_applicable("lifecycle", name, reason)
            continue
        with Namespace() as namespace:
            report.run("lifecycle", name, case, binary, namespace)


@contextlib.contextmanager
def held(namespace, count):
    """A client that holds `count` connections, each proven by an echo."""
    command = [sys.executable, TESTS / "inside" / "hold_client.py", url("ipv4"), count]
    with Program(namespace, command, "hold client") as program:
        opened = program.next(30)
        if opened is None:
            program.ended()
        if opened != {"open": count}:
            raise Failure(f"expected {count} open connections, the client says {opened}")
        yield program


def expect_serving(namespace):
    """A new client opens a connection and gets its echo."""
    with held(namespace, 1):
        pass


def expect_refusal(server, *words):
    """The server must not start, and what it says must hold every one of `words`."""
    code, output = server.refused()
    if code == 0:
        raise Failure(f"expected an error, but the exit status is 0; output: {output!r}")
    if code < 0 or "panicked" in output:
        raise Failure(f"expected an error message, but it crashed (status {code}): {output!r}")
    missing = [word for word in words if word not in output]
    if missing:
        raise Failure(f"the message does not say {', '.join(missing)}: {output.strip()!r}")
    return next((line for line in output.splitlines() if line.startswith("error:")), output.strip())


def says_when_it_is_ready(binary, namespace):
    with Server(binary, namespace) as server:
        server.start()
        line = next((line for line in server.log().splitlines() if line.startswith("ready:")), None)
        if line is None or "http://10.73.0.2/" not in line or "http://[fd73::2]/" not in line:
            raise Failure(f"no line `ready:` with both addresses; the log: {server.log()!r}")
        server.stop()
    return line


def notifies_the_service_manager(binary, namespace):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = os.path.join(folder, "notify")
        manager.bind(path)
        manager.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = path
        try:
            with Server(binary, namespace) as server:
                server.start()
                said = manager.recv(4096)
                if b"READY=1" not in said.split(b"\n"):
                    raise Failure(f"expected READY=1 on the notify socket, got {said!r}")
                server.stop()
        finally:
            del os.environ["NOTIFY_SOCKET"]


def drains_on(number, binary, namespace):
    with Server(binary, namespace) as server:
        server.start()
        with held(namespace, 20) as client:
            server.signal(number)
            closes = client.next(20)
            if closes != {"closes": [1001] * 20}:
                raise Failure(f"expected 20 closes with 1001 (going away), got {closes}")
            code = server.wait(20)
        if code != 0:
            raise Failure(f"exit status {code}; the log ends: {server.log_tail()}")


def drains_on_sigterm(binary, namespace):
    drains_on(signal.SIGTERM, binary, namespace)


def drains_on_sigint(binary, namespace):
    drains_on(signal.SIGINT, binary, namespace)


def drains_past_idle_clients(binary, namespace):
    """A kept-alive HTTP connection and one that never said a word get FIN at once, and hold nothing up."""
    with Server(binary, namespace) as server:
        server.start()
        with Program(namespace, [sys.executable, TESTS / "inside" / "idle_client.py", SERVER_IP["ipv4"]], "idle") as client:
            if (said := client.next(20)) != {"idle": 2}:
                raise Failure(f"expected two idle connections, the client says {said}")
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            if (said := client.next(20)) != {"finished": 2}:
                raise Failure(f"expected FIN on both connections, the client says {said}")
            code = server.wait(20)
        seconds = time.monotonic() - started
    if code != 0 or seconds > 3:
        raise Failure(f"exit status {code} after {seconds:.1f} s; the drain's deadline is 10 s")
    return f"after {seconds:.1f} s"


def comes_back_after_kill(binary, namespace):
    with Server(binary, namespace) as server:
        server.start()
        with held(namespace, 5):
            server.kill()
    with Server(binary, namespace, tap=server.tap) as again:
        again.start()
        expect_serving(namespace)
        again.stop()


def restarts_on_the_same_device_name(binary, namespace):
    for _ in range(3):
        with Server(binary, namespace, tap="ue-again") as server:
            server.start()
            expect_serving(namespace)
            server.stop()
    if remains := server.backend.remains(namespace, "ue-again"):
        raise Failure(f"{remains} is left over after a clean stop")


def leaves_nothing_behind(binary, namespace):
    """Killed in the middle of its work again and again, it starts again, and a clean stop tidies up for all of them."""
    before = traces()
    device = "ue-killed"
    for _ in range(3):
        with Server(binary, namespace, tap=device) as server:
            server.start()
            with held(namespace, 5):
                server.kill()
    with Server(binary, namespace, tap=device) as server:
        server.start()
        expect_serving(namespace)
        server.stop()
    if remains := server.backend.remains(namespace, device):
        raise Failure(f"{remains} is left over after a clean stop")
    if left := [trace for trace in traces() - before if any(word in trace for word in ("unsocket", device)) and not lives(trace)]:
        raise Failure(f"left over: {', '.join(sorted(left))}")


def lives(trace):
    """Whether the process that made a file, and put its id into the name, still runs: it is not ours then."""
    process = re.search(r"unsocket-(\d+)", trace)
    return process is not None and pathlib.Path("/proc", process.group(1)).exists()


def traces():
    """Files that a process could leave behind where such files go."""
    folders = ("/dev/hugepages", "/dev/shm", "/run/dpdk", "/run/xdp", "/sys/fs/bpf", tempfile.gettempdir())
    return {str(file) for folder in folders for file in pathlib.Path(folder).glob("*")}


def refuses_a_device_that_is_busy(binary, namespace):
    with Server(binary, namespace) as server:
        server.start()
        said = expect_refusal(Server(binary, namespace, tap=server.tap), server.tap, server.backend.busy)
        expect_serving(namespace)
        server.stop()
    return said


def refuses_a_name_that_is_no_tap(binary, namespace):
    run("ip", "-n", namespace.name, "link", "add", "ue-veth", "type", "veth", "peer", "name", "ue-peer")
    return expect_refusal(Server(binary, namespace, tap="ue-veth"), "ue-veth")


def refuses_without_privilege(binary, namespace):
    """Within the namespace, so that even a wrongly granted device would be nowhere else."""
    with readable_copy(binary) as copy:
        server = Server(copy, namespace)
        if "--netns" in server.command:
            at = server.command.index("--netns")
            del server.command[at : at + 2]
            server.command = namespace.inside(*AS_NOBODY, *server.command)
        else:
            server.command = [*AS_NOBODY, *server.command]
        return expect_refusal(server, server.backend.privilege)


def refuses_a_namespace_without_privilege(binary, namespace):
    with readable_copy(binary) as copy:
        server = Server(copy, namespace)
        server.command = [*AS_NOBODY, *server.command]
        return expect_refusal(server, "CAP_SYS_ADMIN", namespace.name)


@contextlib.contextmanager
def readable_copy(binary):
    """A copy of the binary that any user may run, wherever the build's folder lies."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(shutil.copy(binary, folder))


def refuses_a_missing_namespace(binary, namespace):
    server = Server(binary, namespace)
    server.command[server.command.index(namespace.name)] = "unsocket-e2e-none"
    return expect_refusal(server, "unsocket-e2e-none", "ip netns add")


def refuses_an_unknown_key(binary, namespace):
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write("[limits]\nconections_max = 5\n")
        config.flush()
        return expect_refusal(Server(binary, namespace, "--config", config.name), "limits.conections_max", "connections_max")


def refuses_a_bad_address(binary, namespace):
    server = Server(binary, namespace)
    at = server.command.index("--ip") + 1
    server.command[at] = "10.73.0.2/99"
    return expect_refusal(server, "10.73.0.2/99")


def refuses_ipv6_on_a_narrow_link(binary, namespace):
    return expect_refusal(Server(binary, namespace, "--mtu", "576"), "port.mtu", "1280", "RFC 8200", "fd73::2")


def refuses_an_unknown_option(binary, namespace):
    return expect_refusal(Server(binary, namespace, "--wokers", "2"), "--wokers", "--workers")
