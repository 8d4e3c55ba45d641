#!/usr/bin/env python3
"""End-to-end tests: other people's clients against `unsocket serve` over a TAP device.

The kernel's end of every device lives in a namespace that the tests make and delete; no traffic leaves it. Needs
root, and what `scripts/setup --for test` installs. Run it with `scripts/test --only e2e`.
"""

import argparse
import os
import pathlib
import re
import resource
import shutil
import signal
import sys
import tempfile

import connect
import connections
import dhcp
import guards
import lifecycle
import networks
import several_ports
import tls
from backends import BACKENDS, NOT_APPLICABLE
from harness import CACHE, CLIENTS, HOST_ADDRESSES, ROOT, SERVER_IP, TESTS
from harness import Failure, Namespace, Report, Server, both_workers_serve, die, url

INSIDE = TESTS / "inside"
FAMILIES = ["ipv4", "ipv6"]  # or the one that --family names
HOST_IP = dict(zip(FAMILIES, (address.split("/")[0] for address in HOST_ADDRESSES.split(","))))
SCREENSHOTS = CACHE / "screenshots"

SIZES = (0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20)
CLIENT_CASES = [
    "open",
    *(f"echo-{kind}-{size}" for size in SIZES for kind in ("text", "binary")),
    "fragments-text",
    "fragments-binary",
    "ping",
    "ping-between-fragments",
    *(f"close-{code}" for code in (1000, 3000, 4999)),
    "in-flight-1000",
    "connections-200",
    "reset",
    "fin-without-close",
]
DEADLINE_SECONDS_MAX = 6  # for the deadlines of 2 s that the HTTP suite configures


def client_commands():
    """The clients that have all of `CLIENT_CASES`, without the URL."""
    return (
        ("websockets", [sys.executable, INSIDE / "websockets_client.py"]),
        ("ws", ["node", INSIDE / "ws_client.cjs"]),
        ("tungstenite", [CLIENTS / "tungstenite_client"]),
    )


def clients(report, options):
    """The same cases by three clients that nobody here wrote, and by sockets that keep no rule."""
    # Pings come with every cut of a stream: what too many of them come to is shown by the suite `guards`.
    pings = ("--set", "websocket.control_frames_per_second_max=0")
    with Namespace() as namespace, Server(options.binary, namespace, *pings) as server:
        server.start()
        for family in FAMILIES:
            for name, command in client_commands():
                program = [*command, url(family)]
                report.run_program(f"{name}/{family}", namespace, program, 300, CLIENT_CASES)
            protocol = [sys.executable, INSIDE / "protocol_client.py", url(family)]
            report.run_program(f"protocol/{family}", namespace, protocol, 120)
        report.run("clients", "clean-stop", server.stop)


def compression(report, options):
    """The cases of `clients` once more with compression, with context takeover and without; with it in Chromium, too."""
    commands = (
        ("websockets", [sys.executable, INSIDE / "websockets_client.py"]),
        ("ws", ["node", INSIDE / "ws_client.cjs"]),
    )
    for takeover in ("false", "true"):
        settings = [f"{way}_takeover={takeover}" for way in ("send", "receive")]
        given = [word for key in ("threshold_bytes=1", *settings) for word in ("--set", f"compression.{key}")]
        with Namespace() as namespace, Server(options.binary, namespace, "--deflate", *given) as server:
            server.start()
            for name, command in commands:
                suite = f"{name}/takeover={takeover}"
                report.run_program(suite, namespace, [*command, url("ipv4"), "deflate"], 400, CLIENT_CASES)
            if takeover == "true":
                SCREENSHOTS.mkdir(parents=True, exist_ok=True)
                open_page(report, namespace, "browser.cjs", "chromium/compression", "ipv4", "deflate")
            report.run("compression", "clean-stop", server.stop)


def wss(report, options):
    """TLS: the same clients over wss://, openssl, curl, sslyze, Chromium, certificates exchanged and refused."""
    tls.protocol(report, options.binary, FAMILIES)
    tls.clients(report, options.binary, FAMILIES, client_commands(), CLIENT_CASES)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tls.browser(report, options.binary, FAMILIES, find_chromium(), SCREENSHOTS)
    tls.scan(report, options.binary)


def connecting(report, options):
    """`unsocket connect`, over TAP and over kernel sockets, against Python's `websockets` as a server."""
    connect.suite(report, options.binary)


def http(report, options):
    """The HTTP side."""
    deadlines = ["--set", "websocket.handshake_timeout_ms=2000", "--set", "websocket.http_idle_timeout_ms=2000"]
    with Namespace() as namespace, Server(options.binary, namespace, *deadlines) as server:
        server.start()
        for family in FAMILIES:
            command = [sys.executable, INSIDE / "http_client.py", url(family, "http", ""), DEADLINE_SECONDS_MAX]
            report.run_program(f"http/{family}", namespace, command, 180)
        report.run("http", "clean-stop", server.stop)


def network(report, options):
    """What the rest of the network sees of the stack."""
    with Namespace() as namespace, Server(options.binary, namespace) as server:
        server.start()
        for family in FAMILIES:
            command = [sys.executable, INSIDE / "network_client.py", SERVER_IP[family], HOST_IP[family]]
            report.run_program(f"network/{family}", namespace, command, 120)
        report.run("network", "clean-stop", server.stop)


def browser(report, options):
    """The page and the browser's own WebSocket, and two browsers in a chat room."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for app, script in (("echo", "browser.cjs"), ("chat", "chat_browser.cjs")):
        with Namespace() as namespace, Server(options.binary, namespace, app=app) as server:
            server.start()
            for family in FAMILIES:
                open_page(report, namespace, script, f"chromium-{app}/{family}", family)
            report.run(f"chromium-{app}", "clean-stop", server.stop)


def open_page(report, namespace, script, suite, family, *arguments):
    """Runs a script that drives Chromium on the server's page."""
    with tempfile.TemporaryDirectory() as profiles:
        name = "-".join([family, *arguments])
        command = ["node", INSIDE / script, url(family, "http", ""), find_chromium(), SCREENSHOTS, name, profiles]
        report.run_program(suite, namespace, [*command, *arguments], 240)


def find_chromium():
    """The path of a Chromium: $CHROMIUM, or the first of its usual names."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    for name in filter(None, names):
        if path := shutil.which(name):
            return path
    die("no Chromium found; run `scripts/setup --for test`, or set CHROMIUM to the path of one")


def chat(report, options):
    """The chat app."""
    with Namespace() as namespace, Server(options.binary, namespace, app="chat") as server:
        server.start()
        for family in FAMILIES:
            command = [sys.executable, INSIDE / "chat_client.py", url(family)]
            report.run_program(f"chat/{family}", namespace, command, 120)
        report.run("chat", "clean-stop", server.stop)


def workers(report, options):
    """Two workers on one multi-queue device: both must serve."""
    with Namespace() as namespace, Server(options.binary, namespace, "--workers", 2) as server:
        server.start()
        for family in FAMILIES:
            report.run(f"workers/{family}", "both-serve", both_workers_serve, server, namespace, url(family))
            command = [sys.executable, INSIDE / "network_client.py", SERVER_IP[family], HOST_IP[family]]
            report.run_program(f"workers/network/{family}", namespace, command, 120)
        report.run("workers", "clean-stop", server.stop)
    two = sorted(os.sched_getaffinity(0))[:2][::-1]
    with Namespace() as namespace, Server(options.binary, namespace, "--workers", 2, "--cores", f"{two[0]},{two[1]}") as server:
        server.start()
        report.run("workers", "pinned-to-their-cores", are_pinned, server, two)
        report.run("workers", "pinned-clean-stop", server.stop)


def are_pinned(server, cores):
    """Each worker's thread may run on its own core alone, in the order given; other threads anywhere."""
    found = {name: allowed for name, allowed in server.cores().items() if re.fullmatch(r"unsocket-\d+", name)}
    wanted = {f"unsocket-{worker}": str(core) for worker, core in enumerate(cores)}
    if found != wanted:
        raise Failure(f"expected the threads to be pinned as {wanted}, found {found}")
    return f"{found}"


def start_and_stop(report, options):
    """Start, refusal, drain, and return."""
    lifecycle.suite(report, options.binary)


def links(report, options):
    """MTUs from 576 to 9000, several addresses, static routes, and a path that narrows."""
    networks.suite(report, options.binary)


def ports(report, options):
    """One server on two devices with networks and workers of their own."""
    several_ports.suite(report, options.binary)


def leases(report, options):
    """An address by DHCP from a server of Debian's, shared by two workers: renewed, lost, and another one."""
    dhcp.suite(report, options.binary)


def guarded(report, options):
    """Origins, tokens, JWTs, connections of one peer, clients behind a proxy; rates and ages."""
    guards.suite(report, options.binary)


def many(report, options):
    """500 connections, or with --full 10,000."""
    count, rounds = (10_000, 20) if options.full else (500, 20)
    for family in FAMILIES:
        with Namespace() as namespace, Server(options.binary, namespace) as server:
            server.start()
            connections.suite(report, server, namespace, family, count, rounds)
            report.run(f"connections/{family}", "clean-stop", server.stop)


SUITES = {
    "network": network,
    "links": links,
    "ports": ports,
    "dhcp": leases,
    "guards": guarded,
    "http": http,
    "lifecycle": start_and_stop,
    "clients": clients,
    "compression": compression,
    "wss": wss,
    "connect": connecting,
    "chat": chat,
    "workers": workers,
    "browser": browser,
    "connections": many,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "unsocket")
    parser.add_argument("--backend", choices=BACKENDS, default="tap", help="what carries the frames [default: tap]")
    parser.add_argument("--full", action="store_true", help="full counts: 10,000 connections")
    parser.add_argument("--only", metavar="SUITE", action="append", choices=SUITES, help="only this suite; repeatable")
    parser.add_argument("--family", choices=FAMILIES, help="only this family of addresses [default: both]")
    parser.add_argument("--list", action="store_true", help="list the suites and end")
    options = parser.parse_args()
    if options.list:
        for name, suite in SUITES.items():
            print(f"{name:<12} {suite.__doc__}")
        return 0
    if os.geteuid() != 0:
        die("namespaces and TAP devices need root: run `sudo ./scripts/test --only e2e`")
    if not options.binary.exists():
        die(f"{options.binary} does not exist: build it with `cargo build --release`")
    options.binary = options.binary.resolve()
    Server.backend = BACKENDS[options.backend]
    if options.family:
        FAMILIES[:] = [options.family]
    raise_descriptor_limit(12_000 if options.full else 2_048)
    signal.signal(signal.SIGTERM, stop)
    report = Report()
    for name in options.only or SUITES:
        print(f"{name}: {SUITES[name].__doc__}", flush=True)
        if reason := NOT_APPLICABLE.get((options.backend, name, None)):
            report.not_applicable(name, "all cases", reason)
            continue
        try:
            SUITES[name](report, options)
        except Failure as error:
            report.result(name, "start", False, 0, str(error))
    return report.summary()


def stop(*_):
    """Ends the run such that every `with` still cleans up, undisturbed by a second signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("stopped by SIGTERM")


def raise_descriptor_limit(wanted):
    """Allows this process and its children `wanted` open files: one per connection of a client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except ValueError:
        die(f"the tests need {wanted} open files, and at most {hard} are allowed here: raise `ulimit -Hn`")


if __name__ == "__main__":
    sys.exit(main())
