"""`unsocket connect` against a server that nobody here wrote, over a TAP device and over kernel sockets."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from harness import CACHE, HOST_ADDRESSES, SERVER_ADDRESSES, TESTS, Failure, Namespace, Program, run
from pki import Pki

INSIDE = TESTS / "inside"
# The kernel's end of the TAP device has the server's certificate's address here: it is the kernel that serves.
SERVER = "10.73.0.2"
PORT = 18_000


class Bench:
    """A namespace with the servers in it, and the tool in one of its forms."""

    def __init__(self, binary, namespace, form, certificates):
        self.binary, self.namespace, self.form, self.certificates = binary, namespace, form, certificates
        self.count = 0

    def command(self, *arguments):
        if self.form == "kernel":
            return self.namespace.inside(self.binary, "connect", *arguments)
        self.count += 1
        # Each run has a device of its own, and the kernel's end the servers' addresses.
        device = [
            *("--port", f"tap:uc{os.getpid() % 1_000_000}n{self.count}", "--netns", self.namespace.name),
            *("--host-ip", SERVER_ADDRESSES),
            *(() if "--dhcp" in arguments else ("--ip", HOST_ADDRESSES)),
        ]
        return [str(argument) for argument in (self.binary, "connect", *device, *arguments)]

    def url(self, scheme="ws", path="/"):
        return f"{scheme}://{SERVER}:{PORT + (scheme == 'wss')}{path}"

    def run(self, *arguments, say="", status=0, seconds=30, binary=False):
        """One run of the tool: its output and what it complained of."""
        given = say if binary else say.encode()
        done = subprocess.run(self.command(*arguments), input=given, capture_output=True, timeout=seconds)
        errors = done.stderr.decode(errors="replace")
        if done.returncode != status:
            raise Failure(f"exit status {done.returncode}, expected {status}: {errors[-300:]}")
        return (done.stdout if binary else done.stdout.decode()), errors

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def serve(self, *files, port=PORT):
        command = [sys.executable, INSIDE / "server.py", "0.0.0.0", port, *files]
        return Program(self.namespace, command, f"connect server {port}")


def suite(report, binary):
    """Every case over both forms."""
    cases = (
        lines_become_messages,
        a_message_without_newline_at_the_end,
        binary_blocks_come_back,
        a_megabyte_in_lines,
        compression,
        messages_are_counted,
        subprotocol_and_headers,
        ping_and_close_by_command,
        close_codes_of_the_tool,
        close_codes_of_the_server,
        a_connection_that_breaks,
        nobody_listens,
        no_websocket_there,
        reconnects,
        gives_up_reconnecting,
        ends_in_order_on_sigint,
        tls,
        tls_client_certificate_and_insecure,
        tls_that_is_not_believed,
        wrong_arguments,
    )
    with tempfile.TemporaryDirectory() as folder:
        certificates = Pki(folder)
        for form in ("kernel", "tap"):
            with Namespace() as namespace, contextlib.ExitStack() as stack:
                if form == "kernel":
                    run("ip", "-n", namespace.name, "addr", "add", f"{SERVER}/32", "dev", "lo")
                bench = Bench(binary, namespace, form, certificates)
                files = [certificates.file("server.pem"), certificates.file("server.key")]
                for server in (bench.serve(), bench.serve(*files, port=PORT + 1)):
                    stack.enter_context(server)
                    if server.next(20) != {"serves": True}:
                        raise Failure("the Python server does not start")
                bench.server = server
                for case in cases:
                    report.run(f"connect/{form}", case.__name__.replace("_", "-"), case, bench)
                if form == "tap":
                    with dns_server(namespace):
                        for case in (
                            a_name_is_looked_up,
                            names_without_an_address,
                            a_name_over_tls,
                            a_silent_dns_server,
                            a_lease_names_the_dns_server,
                        ):
                            report.run("connect/dns", case.__name__.replace("_", "-"), case, bench)


@contextlib.contextmanager
def dns_server(namespace):
    """dnsmasq, which knows the server by names of its own, one with a second address where nobody serves, and leases addresses."""
    names = (f"/feed.test/{SERVER}", f"/both.test/{SERVER}", "/both.test/fd73::2", f"/unsocket.test/{SERVER}")
    command = [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *("--log-queries", "--log-facility=-", "--pid-file", "--cname=www.feed.test,host.feed.test"),
        *(f"--address={name}" for name in names),
        *("--address=/test/", f"--host-record=host.feed.test,{SERVER}"),
        *("--dhcp-range=10.73.0.50,10.73.0.60,1h", "--dhcp-authoritative", "--no-ping", "--leasefile-ro"),
    ]
    with open(CACHE / "logs" / "dnsmasq.log", "wb") as log:
        process = subprocess.Popen(namespace.inside(*command), stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def a_name_is_looked_up(bench):
    for name in ("feed.test", "FEED.test.", "www.feed.test", "both.test"):
        out, _ = bench.run("--dns", SERVER, f"ws://{name}:{PORT}/", say="by name")
        expect(out == "by name\n", f"{name}: {out!r}")


def names_without_an_address(bench):
    for name, words in (("nobody.test", "know no address"), ("no_such..name", "no name")):
        _, errors = bench.run("--dns", SERVER, f"ws://{name}:{PORT}/", status=3)
        expect(words in errors and "cannot resolve" in errors, errors)


def a_name_over_tls(bench):
    ca = bench.certificates.file("ca.pem")
    out, _ = bench.run("--dns", SERVER, "--ca", ca, f"wss://unsocket.test:{PORT + 1}/", say="secret")
    expect(out == "secret\n", repr(out))


def a_silent_dns_server(bench):
    # Nobody has the first address; the second one answers.
    out, _ = bench.run("--dns", f"10.73.0.99,{SERVER}", f"ws://feed.test:{PORT}/", say="late")
    expect(out == "late\n", repr(out))
    _, errors = bench.run("--dns", "10.73.0.99", f"ws://feed.test:{PORT}/", status=3)
    expect("no DNS server answered" in errors, errors)


def a_lease_names_the_dns_server(bench):
    out, _ = bench.run("--dhcp", f"ws://feed.test:{PORT}/", say="leased")
    expect(out == "leased\n", repr(out))


def expect(condition, what):
    if not condition:
        raise Failure(what)


def lines_become_messages(bench):
    out, _ = bench.run(bench.url(), say="hello\nworld, é漢😀\n\n")
    expect(out == "hello\nworld, é漢😀\n\n", repr(out))


def a_message_without_newline_at_the_end(bench):
    out, _ = bench.run(bench.url(), say="last")
    expect(out == "last\n", repr(out))


def binary_blocks_come_back(bench):
    data = random.Random(1).randbytes(3_000_000)
    out, _ = bench.run("--binary", bench.url(), say=data, binary=True)
    expect(out == data, f"{len(out)} bytes of {len(data)}")


def a_megabyte_in_lines(bench):
    text = "".join(f"{number} {'x' * (number % 500)}\n" for number in range(4_000))
    out, _ = bench.run(bench.url(), say=text)
    expect(out == text, f"{len(out)} bytes of {len(text)}")


def compression(bench):
    text = "".join(f"{number} {'of the same' * 100}\n" for number in range(50))
    for options, agreed in (((), True), (("--no-compression",), False)):
        out, errors = bench.run("-v", *options, bench.url(), say=text)
        expect(out == text, f"{len(out)} bytes of {len(text)}")
        expect((", compressed" in errors) == agreed, errors)


def messages_are_counted(bench):
    out, _ = bench.run("--count", 3, bench.url(), say="send 100\n")
    expect(out == "message 0\nmessage 1\nmessage 2\n", repr(out))


def subprotocol_and_headers(bench):
    out, errors = bench.run(
        *("-v", "--protocol", "first", "--protocol", "second", "-H", "X-Own: 1 2", "-H", "Origin: https://a"),
        bench.url(path="/some/path?q=1"),
        say="protocol\nheaders\n",
    )
    protocol, headers = out.splitlines()
    headers = json.loads(headers)
    expect(protocol == "second" and "subprotocol second" in errors, out + errors)
    expect((headers["X-Own"], headers["Origin"]) == ("1 2", "https://a"), out)
    expect(headers["Host"] == f"{SERVER}:{PORT}", out)


def ping_and_close_by_command(bench):
    out, errors = bench.run(
        "--commands", "-v", bench.url(), say="/ping abc\n//slash\n/nonsense\n"
    )
    expect('pong "abc"' in errors and "/nonsense: commands are" in errors and "closed: 1000" in errors, errors)
    expect(out == "/slash\n", repr(out))
    _, errors = bench.run("--commands", "-v", bench.url(), say="/close 3001 enough of it\n")
    expect('closed: 3001 "enough of it"' in errors, errors)


def close_codes_of_the_tool(bench):
    with bench.serve(port=PORT + 2) as server:
        server.next(20)
        bench.run("--close-code", 4000, "--close-reason", "why not", f"ws://{SERVER}:{PORT + 2}/", say="x\n")
        seen = server.next(20)
        expect(seen == {"code": 4000, "reason": "why not"}, str(seen))


def close_codes_of_the_server(bench):
    for code, status in ((1000, 0), (1001, 0), (3000, 0), (1008, 6), (1011, 6)):
        _, errors = bench.run(bench.url(), say=f"close {code} because of it\n", status=status)
        expect((f"closed with {code}" in errors and "because of it" in errors) == (status != 0), errors)


def a_connection_that_breaks(bench):
    _, errors = bench.run(bench.url(), say="drop\n", status=7)
    expect("the connection broke" in errors, errors)


def nobody_listens(bench):
    _, errors = bench.run("--timeout", 3, f"ws://{SERVER}:{PORT + 99}/", status=3)
    expect("no connection" in errors, errors)


def no_websocket_there(bench):
    """A server that speaks HTTP, and no WebSocket."""
    command = [sys.executable, "-m", "http.server", "--protocol", "HTTP/1.1", "--bind", "0.0.0.0", str(PORT + 3)]
    http = subprocess.Popen(bench.namespace.inside(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.5)
        _, errors = bench.run(f"ws://{SERVER}:{PORT + 3}/nowhere", status=5)
        expect("404" in errors, errors)
    finally:
        http.kill()
        http.wait(20)


def reconnects(bench):
    """The server drops the connection: what was typed later goes over the next one."""
    process = bench.start("--reconnect", "--reconnect-first", "0.2", "--keep-open", "-v", bench.url())
    try:
        for line in ("one", "drop", "two"):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait(20)
    expect(out == "one\ntwo\n" and errors.count("connected to") == 2, f"{out!r} {errors}")
    expect(process.returncode == 0, str(process.returncode))


def gives_up_reconnecting(bench):
    started = time.monotonic()
    options = ("--reconnect", "--reconnect-max", 3, "--reconnect-first", "0.2", "--timeout", 2, "-v")
    _, errors = bench.run(*options, f"ws://{SERVER}:{PORT + 99}/", status=3)
    expect(errors.count("trying again in") == 3, errors)
    expect(time.monotonic() - started > 0.6, "it did not wait")


def ends_in_order_on_sigint(bench):
    with bench.serve(port=PORT + 4) as server:
        server.next(20)
        process = bench.start("--keep-open", "-v", f"ws://{SERVER}:{PORT + 4}/")
        try:
            process.stdin.write("hello\n")
            process.stdin.flush()
            expect(process.stdout.readline() == "hello\n", "no echo")
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()
            process.communicate(timeout=20)
        seen = server.next(20)
        expect(process.returncode == 0 and seen == {"code": 1001, "reason": ""}, f"{process.returncode} {seen}")


def tls(bench):
    ca = bench.certificates.file("ca.pem")
    out, errors = bench.run("--ca", ca, "-v", bench.url("wss"), say="secret\nsend 3\n")
    expect(out == "secret\nmessage 0\nmessage 1\nmessage 2\n", repr(out))
    expect("TLS 1.3" in errors, errors)
    data = random.Random(2).randbytes(1_000_000)
    echoed, _ = bench.run("--ca", ca, "--binary", bench.url("wss"), say=data, binary=True)
    expect(echoed == data, f"{len(echoed)} bytes of {len(data)}")


def tls_client_certificate_and_insecure(bench):
    certificates = bench.certificates
    mine = ("--client-cert", certificates.file("client.pem"), "--client-key", certificates.file("client.key"))
    out, errors = bench.run("--insecure", *mine, bench.url("wss"), say="x\n")
    expect(out == "x\n" and "NOT verified" in errors, out + errors)


def tls_that_is_not_believed(bench):
    _, errors = bench.run("--ca", bench.certificates.file("stranger-ca.pem"), bench.url("wss"), status=4)
    expect("UnknownIssuer" in errors, errors)
    _, errors = bench.run(bench.url("wss"), "--ca", bench.certificates.file("ca.key"), status=2)
    expect("contains no certificate" in errors, errors)


def wrong_arguments(bench):
    for arguments, words in (
        (["http://a/"], "must begin with ws:// or wss://"),
        ([bench.url(), "--insecure"], "--insecure is about TLS"),
        ([bench.url(), "--close-code", "1005"], "wanted 1000..=1014"),
        ([bench.url(), "-H", "nothing"], "wanted `Name: value`"),
    ):
        _, errors = bench.run(*arguments, status=2)
        expect(words in errors, errors)
    if bench.form == "kernel":
        _, errors = bench.run(bench.url(), "--mtu", 1400, status=2)
        expect("--mtu is about a device" in errors, errors)
