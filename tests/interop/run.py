#!/usr/bin/env python3
"""Other people's WebSocket programs as clients of `unsocket serve`, and as servers of the library's client and of
`unsocket connect`, over a TAP device whose kernel end is in a namespace made here. Run it with `scripts/interop`."""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import CACHE, HOST_ADDRESSES, ROOT, SERVER_ADDRESSES, SERVER_IP  # noqa: E402
from harness import Device, Failure, Namespace, Program, Report, Server, die  # noqa: E402
from pages import between, crate_versions  # noqa: E402
from pki import Pki  # noqa: E402
from tls import trust  # noqa: E402

HERE = ROOT / "tests" / "interop"
BUILT = ROOT / "target" / "interop"
PAGE = ROOT / "docs" / "conformance.md"
PORT = 18_100
FRAGMENTS = ("fragments-text", "fragments-binary")
QUICK_BYTES = 65_536


@dataclasses.dataclass(frozen=True)
class Peer:
    """One library or program, and what its interface lacks."""

    name: str
    command: tuple
    server: bool = True
    deflate: bool = True
    # Cases that mean nothing with it, by its role.
    client_without: tuple = ()
    server_without: tuple = ()
    quick: bool = False


def rust(name):
    """A crate: none of the three has permessage-deflate."""
    return Peer(name, (str(BUILT / "rust" / "release" / "unsocket-interop"), name), deflate=False)


PYTHON = sys.executable
PEERS = (
    Peer("websockets", (PYTHON, str(HERE / "websockets_peer.py")), quick=True),
    Peer(
        "aiohttp",
        (PYTHON, str(HERE / "aiohttp_peer.py")),
        client_without=FRAGMENTS,
        server_without=("told-fragments",),
        quick=True,
    ),
    Peer("ws", ("node", str(HERE / "ws_peer.cjs")), quick=True),
    Peer("Chromium", ("node", str(HERE / "chromium_peer.cjs")), server=False, client_without=(*FRAGMENTS, "ping")),
    rust("tokio-tungstenite"),
    rust("fastwebsockets"),
    rust("tokio-websockets"),
    Peer("java.net.http", ("java", "-cp", str(BUILT / "java"), "JavaPeer"), server=False, deflate=False),
)


@dataclasses.dataclass(frozen=True)
class Way:
    """How the two talk."""

    tls: bool
    deflate: bool
    family: str

    @property
    def name(self):
        """As the table's head says it."""
        family = {"ipv4": "IPv4", "ipv6": "IPv6"}[self.family]
        return f"`{'wss' if self.tls else 'ws'}`{', deflate' if self.deflate else ''}, {family}"

    def url(self, port=None):
        """The server's URL."""
        address = SERVER_IP[self.family]
        host = f"[{address}]" if ":" in address else address
        return f"{'wss' if self.tls else 'ws'}://{host}{f':{port}' if port else ''}/ws"


WAYS = (
    Way(tls=False, deflate=False, family="ipv4"),
    Way(tls=False, deflate=False, family="ipv6"),
    Way(tls=False, deflate=True, family="ipv4"),
    Way(tls=True, deflate=False, family="ipv4"),
    Way(tls=True, deflate=True, family="ipv6"),
)
QUICK_WAYS = (WAYS[0], WAYS[-1])
# From one byte on, and with contexts: what is harder.
COMPRESSION = ("threshold_bytes=1", "send_takeover=true", "receive_takeover=true")

# A case whose answer does not come ends.
DEADLINES = ("websocket.ping_interval_ms=0", "websocket.idle_timeout_ms=30000")


class Matrix(Report):
    """A report that also counts by peer, role and way."""

    def __init__(self):
        super().__init__()
        self.cells = collections.defaultdict(collections.Counter)

    def result(self, suite, case, ok, seconds, note=""):
        super().result(suite, case, ok, seconds, note)
        peer, role, way = suite.split("/")
        self.cells[peer, role, way][ok] += 1

    def cell(self, peer, role, way):
        """What the table says."""
        if way.deflate and not peer.deflate:
            return "not offered by the peer"
        counts = self.cells[peer.name, role, way.name]
        return f"{counts[True]} of {counts.total()}"


class Run:
    """What all parts of a run share."""

    def __init__(self, options, report, certificates, home):
        self.options, self.report, self.certificates, self.home = options, report, certificates, home
        self.ca = certificates.file("ca.pem")
        self.files = [certificates.file("server.pem"), certificates.file("server.key")]

    def peers(self, way):
        """Those that can talk this way."""
        return [peer for peer in self.options.peers if peer.deflate or not way.deflate]

    def environment(self):
        """For Chromium: its binary, and a home whose store trusts the authority."""
        return ["env", f"HOME={self.home}", f"CHROMIUM={self.options.chromium}"]

    def clients(self, namespace, way, which):
        """Every peer as a client, on the cases of the echo or on those in which the server is told what to do."""
        for peer in self.peers(way):
            extra = ["deflate"] if way.deflate else []
            extra += ["ca", self.ca] if way.tls else []
            command = [*peer.command, "client", way.url(), which, *extra, "most", self.options.most]
            suite = f"{peer.name}/client/{way.name}"
            plan = [case for case in self.plan(which) if case not in peer.client_without]
            self.report.run_program(suite, namespace, [*self.environment(), *command], 600, plan)

    def plan(self, which):
        """The cases that every client must have, but for what its interface lacks."""
        told = ["told-fragments", "told-ping", "told-close"]
        sizes = [size for size in (1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20) if size <= self.options.most]
        echoes = [f"echo-{kind}-{size}" for size in sizes for kind in ("text", "binary")]
        closes = [f"close-{code}" for code in (1000, 3000, 4999)]
        return {"told": told, "echo": ["open", *echoes, *FRAGMENTS, "ping", *closes]}[which]

    def against_serve(self, way):
        """`unsocket serve --app echo`."""
        options = [word for key in COMPRESSION for word in ("--set", f"compression.{key}")]
        options = ["--deflate", *options] if way.deflate else []
        options += self.certificates.options("server") if way.tls else []
        with Namespace() as namespace, Server(self.options.binary, namespace, *options) as server:
            server.start()
            self.clients(namespace, way, "echo")
            server.stop()

    def settings(self, way):
        """The same as keys of the configuration."""
        keys = ["compression.enabled=true", *(f"compression.{key}" for key in COMPRESSION)] if way.deflate else []
        if way.tls:
            certificate, key = self.files
            keys += ["tls.listen=[443]", f'tls.certs=["{certificate}"]', f'tls.keys=["{key}"]']
        return [*keys, *DEADLINES]

    def against_library(self, way):
        """The library's server, which sends fragments, pings and closes first."""
        with Namespace() as namespace:
            device = Device(namespace)
            command = device.command(self.options.driver, "server.listen=[80]", *self.settings(way), "serve")
            with outside(command, "interop server") as server:
                if server.next(30) != {"serves": True}:
                    raise Failure(f"the library's server does not start (log: {server.log_path})")
                device.wait()
                self.clients(namespace, way, "told")

    def as_server(self, way, peer):
        """One peer as the server: of the library's client, and of `unsocket connect`."""
        extra = ["deflate"] if way.deflate else []
        extra += ["files", *self.files] if way.tls else []
        with Namespace() as namespace:
            with Program(namespace, [*peer.command, "server", PORT, *extra], f"{peer.name} server") as server:
                if server.next(30) != {"serves": True}:
                    raise Failure(f"{peer.name} does not start (log: {server.log_path})")
                self.library(namespace, way, peer)
                for case in (lines, blocks, ping_and_close, closed_by_the_server):
                    suite = f"{peer.name}/server of `unsocket connect`/{way.name}"
                    for form in ("device", "kernel"):
                        run = Connect(self, namespace, way, form)
                        self.report.run(suite, f"{case.__name__.replace('_', '-')}-{form}", case, run)

    def library(self, namespace, way, peer):
        """The library's client, over a device of its own."""
        device = Device(namespace, HOST_ADDRESSES, SERVER_ADDRESSES)
        extra = ["compressed"] if way.deflate else []
        extra += ["ca", self.ca] if way.tls else []
        extra += [word for case in peer.server_without for word in ("without", case)]
        # The keys of a server's certificates are none of a client's.
        settings = [key for key in self.settings(way) if not key.startswith("tls.")]
        connect = ["connect", way.url(PORT), *extra, "most", self.options.most]
        command = device.command(self.options.driver, *settings, *connect)
        plan = [case for which in ("echo", "told") for case in self.plan(which) if case not in peer.server_without]
        self.report.run_program(f"{peer.name}/server/{way.name}", Outside(), command, 600, plan)


class Outside:
    """In the place of a namespace, for a program that finds its own way into one."""

    @staticmethod
    def inside(*command):
        """The command line as it is."""
        return [str(word) for word in command]


def outside(command, name):
    """A program that runs where we are."""
    return Program(Outside(), command, name)


class Connect:
    """`unsocket connect` over a device or over kernel sockets."""

    count = 0

    def __init__(self, run, namespace, way, form):
        self.run_, self.namespace, self.way, self.form = run, namespace, way, form

    def command(self, *arguments):
        """The command line."""
        way, binary = self.way, self.run_.options.binary
        options = [*(["--ca", self.run_.ca] if way.tls else []), *([] if way.deflate else ["--no-compression"])]
        if self.form == "kernel":
            # The servers listen on every address: a name that their certificate has, at the loopback.
            loopback = {"ipv4": "127.0.0.1", "ipv6": "::1"}[way.family]
            url = f"{'wss' if way.tls else 'ws'}://unsocket.test:{PORT}/ws"
            return self.namespace.inside(binary, "connect", "--address", loopback, "-v", *options, *arguments, url)
        Connect.count += 1
        device = ["--port", f"tap:ui{os.getpid() % 1_000_000}n{Connect.count}", "--netns", self.namespace.name]
        device += ["--ip", HOST_ADDRESSES, "--host-ip", SERVER_ADDRESSES]
        return Outside.inside(binary, "connect", *device, "-v", *options, *arguments, way.url(PORT))

    def __call__(self, *arguments, say=b"", status=0):
        way = self.way
        done = subprocess.run(self.command(*arguments), input=say, capture_output=True, timeout=60, check=False)
        errors = done.stderr.decode(errors="replace")
        if done.returncode != status:
            raise Failure(f"exit status {done.returncode}, expected {status}: {errors[-300:]}")
        if (", compressed" in errors) != way.deflate or ("TLS 1." in errors) != way.tls:
            raise Failure(f"not as agreed: {errors[:200]}")
        return done.stdout, errors


def lines(connect):
    """Lines of text there and back."""
    text = "".join(f"{number} é漢😀 {'x' * (number % 400)}\n" for number in range(500)).encode()
    # Not the silence ends it, which a busy machine can be the cause of.
    out, _ = connect("--count", "500", "--wait", "30", say=text)
    if out != text:
        raise Failure(f"{len(out)} bytes of {len(text)} came back, or others")


def blocks(connect):
    """A megabyte in binary messages; standard input ends when all of it is back."""
    data = random.Random(3).randbytes(1 << 20)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(connect.command("--binary"), **pipes) as process:
        late = threading.Timer(60, process.kill)
        late.start()
        threading.Thread(target=lambda: (process.stdin.write(data), process.stdin.flush())).start()
        out = process.stdout.read(len(data))
        rest, errors = process.communicate()
        late.cancel()
    if out + rest != data or process.returncode != 0:
        raise Failure(f"{len(out + rest)} bytes of {len(data)}, exit status {process.returncode}: {errors[-200:]}")


def ping_and_close(connect):
    """Both by command."""
    _, errors = connect("--commands", say=b"/ping abc\n")
    if 'pong "abc"' not in errors or "closed: 1000" not in errors:
        raise Failure(errors)
    _, errors = connect("--commands", say=b"/close 3001 enough of it\n")
    if 'closed: 3001 "enough of it"' not in errors:
        raise Failure(errors)


def closed_by_the_server(connect):
    """With a code of its choice, after a ping of its own."""
    out, errors = connect("--count", "1", say=b"ping\n")
    if out != b"ponged\n":
        raise Failure(f"{out} {errors}")
    _, errors = connect("--keep-open", say=b"close 4001 as told\n")
    if 'closed: 4001 "as told"' not in errors:
        raise Failure(errors)


def versions():
    """What was run, in words."""
    ws = json.loads((CACHE / "node" / "node_modules" / "ws" / "package.json").read_text())["version"]
    said = {}
    for name, command in (("node", ["node", "--version"]), ("chromium", [find_chromium(), "--version"])):
        said[name] = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    parts = [
        crate_versions(ROOT / "Cargo.lock", "unsocket", "rustls", "zlib-rs"),
        *(f"`{name}` {importlib.metadata.version(name)}" for name in ("websockets", "aiohttp")),
        f"`ws` {ws} on Node.js {said['node'].lstrip('v')}",
        " ".join(said["chromium"].split()[:2]),
        crate_versions(HERE / "rust" / "Cargo.lock", "tokio-tungstenite", "fastwebsockets", "tokio-websockets"),
        java.splitlines()[0].replace('"', ""),
    ]
    return ", ".join(parts)


def table(report, peers, ways):
    """Every peer in every role, every way."""
    yield "| peer | as | " + " | ".join(way.name for way in ways) + " |"
    yield "|---|---|" + "---|" * len(ways)
    for peer in peers:
        roles = ("client", "server", "server of `unsocket connect`") if peer.server else ("client",)
        for role in roles:
            yield f"| {peer.name} | {role} | " + " | ".join(report.cell(peer, role, way) for way in ways) + " |"


def find_chromium():
    """The path of a Chromium: $CHROMIUM, or the first of its usual names."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((path for name in filter(None, names) if (path := shutil.which(name))), None)


def parse():
    """The options, looked through."""
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="scripts/interop", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", action="append", choices=names)
    parser.add_argument("--most", type=int)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write and (options.quick or options.peer or options.most):
        die("--write is for the whole matrix: leave out --quick, --peer and --most")
    chosen = options.peer or [peer.name for peer in PEERS if peer.quick or not options.quick]
    options.peers = [peer for peer in PEERS if peer.name in chosen]
    options.ways = QUICK_WAYS if options.quick else WAYS
    options.most = options.most or (QUICK_BYTES if options.quick else 16 << 20)
    options.binary = ROOT / "target" / "release" / "unsocket"
    options.driver = ROOT / "target" / "release" / "examples" / "interop"
    options.chromium = find_chromium()
    if options.chromium is None and "Chromium" in chosen:
        die("no Chromium found; run `scripts/setup --for test`, or set CHROMIUM to the path of one")
    return options


def main():
    """Runs every peer in every role and way, and prints the table."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Matrix()
    with contextlib.ExitStack() as stack:
        folder, home = (stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2))
        run = Run(options, report, Pki(folder), home)
        if any(peer.name == "Chromium" for peer in options.peers):
            trust(home, run.ca)
        for way in options.ways:
            parts = [(run.against_serve, way), (run.against_library, way)]
            parts += [(run.as_server, way, peer) for peer in run.peers(way) if peer.server]
            for part, *arguments in parts:
                try:
                    part(*arguments)
                except Failure as error:
                    name = arguments[1].name if len(arguments) > 1 else "all"
                    report.result(f"{name}/{part.__name__}/{way.name}", "start", False, 0, str(error))
    text = "\n".join(table(report, options.peers, options.ways)) + "\n"
    print(f"\n{text}")
    status = report.summary()
    if options.write and status == 0:
        command = "sudo ./scripts/interop --write"
        head = f"{datetime.date.today()}, `{command}`: {versions()}. {report.passed} cases, 0 mismatches.\n\n"
        between(PAGE, "scripts/interop writes this", lambda _: head + text)
    return status


if __name__ == "__main__":
    sys.exit(main())
