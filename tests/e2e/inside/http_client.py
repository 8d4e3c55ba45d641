"""Drives the HTTP side of the server with curl, and with a plain socket where curl is too polite.

Arguments: the base URL, e.g. http://10.73.0.2, and the most seconds that a deadline may take.
"""

import socket
import subprocess
import sys
import time
import urllib.parse

from cases import Plan, expect, expect_equal

BASE = sys.argv[1]
DEADLINE_SECONDS_MAX = float(sys.argv[2])
ADDRESS = urllib.parse.urlsplit(BASE).hostname
HOST = urllib.parse.urlsplit(BASE).netloc

plan = Plan()


def curl(path, *options):
    """One curl run: the response's head and body, and what `--write-out` said."""
    command = ["curl", "--silent", "--show-error", "--globoff", "--max-time", "20", "--include", *options, BASE + path]
    done = subprocess.run(command, capture_output=True, timeout=40)
    expect_equal((done.returncode, done.stderr), (0, b""), "curl")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(lines[0].split()[1]), headers, body


def dial():
    """A TCP connection to the server."""
    return socket.create_connection((ADDRESS, 80), timeout=20)


def read_to_end(connection):
    """All that comes until the server closes; a reset counts as the end, too."""
    received = b""
    while True:
        try:
            chunk = connection.recv(65_536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def read_answer(connection, rest=b""):
    """One response with a Content-Length: status, head, body, and what came after it."""
    while b"\r\n\r\n" not in rest:
        chunk = connection.recv(65_536)
        expect(chunk, f"the server closed within a response head: {rest!r}")
        rest += chunk
    head, _, rest = rest.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(rest) < length:
        chunk = connection.recv(65_536)
        expect(chunk, "the server closed within a response body")
        rest += chunk
    return int(head.split()[1]), head, rest[:length], rest[length:]


def exchange(request):
    """Sends raw bytes and returns the status of the answer."""
    with dial() as connection:
        connection.sendall(request)
        return read_answer(connection)[0]


@plan.case("page")
def page():
    status, headers, body = curl("/")
    expect_equal(status, 200, "status")
    expect(headers.get("content-type", "").startswith("text/html"), f"content type: {headers}")
    expect(b'id="connect"' in body or b"id=connect" in body, "the page has no #connect")
    expect_equal(int(headers["content-length"]), len(body), "content length")


@plan.case("page-needs-no-other-host")
def page_is_self_contained():
    _, _, body = curl("/")
    for foreign in (b"http://", b"https://", b"//cdn"):
        expect(foreign not in body, f"the page names {foreign!r}: it must not need another host")


@plan.case("head")
def head():
    with dial() as connection:
        connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = read_to_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    expect_equal(int(head.split()[1]), 200, "status")
    expect_equal(body, b"", "body of the answer to HEAD")
    length = curl("/")[1]["content-length"]
    expect(f"content-length: {length}".encode() in head.lower(), "HEAD must give the length that GET gives")


@plan.case("healthz")
def healthz():
    status, _, _ = curl("/healthz")
    expect_equal(status, 200, "status")


@plan.case("not-found")
def not_found():
    status, _, body = curl("/no/such/page")
    expect_equal(status, 404, "status")
    expect(body, "a plain body says what is wrong")


@plan.case("method-not-allowed")
def method_not_allowed():
    status, headers, _ = curl("/", "--request", "POST", "--data", "x=1")
    expect_equal(status, 405, "status")
    expect("GET" in headers.get("allow", ""), f"RFC 9110 section 15.5.6 wants Allow: {headers}")


def upgrade(*changes, version="13", key="dGhlIHNhbXBsZSBub25jZQ=="):
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: {HOST}",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        *changes,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@plan.case("upgrade")
def upgrades():
    with dial() as connection:
        connection.sendall(upgrade())
        head = connection.recv(4096)
    expect(head.startswith(b"HTTP/1.1 101 "), f"answer: {head[:100]!r}")
    expect(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, "the accept key of RFC 6455 section 1.3")


@plan.case("upgrade-wrong-version")
def upgrade_wrong_version():
    with dial() as connection:
        connection.sendall(upgrade(version="8"))
        status, head, _, _ = read_answer(connection)
    expect_equal(status, 426, "status")
    expect(b"sec-websocket-version: 13" in head.lower(), "RFC 6455 section 4.4 wants the version that is spoken")


@plan.case("upgrade-wrong-key")
def upgrade_wrong_key():
    expect_equal(exchange(upgrade(key="c2hvcnQ=")), 400, "status")


@plan.case("bad-request")
def bad_request():
    expect_equal(exchange(b"NOT A REQUEST\r\n\r\n"), 400, "status")


@plan.case("missing-host")
def missing_host():
    expect_equal(exchange(b"GET / HTTP/1.1\r\n\r\n"), 400, "status (RFC 9112 section 3.2)")


@plan.case("body-too-large")
def body_too_large():
    request = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999999999\r\n\r\n".encode()
    expect(exchange(request) in (405, 413), "a body of 100 GB must be refused before it is read")


@plan.case("conflicting-content-lengths")
def conflicting_content_lengths():
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc".encode()
    expect_equal(exchange(request), 400, "status (request smuggling, RFC 9112 section 6.3)")


@plan.case("huge-headers")
def huge_headers():
    status, _, _ = curl("/", "--header", "X-Big: " + "x" * 100_000)
    expect_equal(status, 431, "status")


@plan.case("many-headers")
def many_headers():
    fields = "".join(f"X-{number}: x\r\n" for number in range(1000))
    expect_equal(exchange(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n".encode()), 431, "status")


@plan.case("keep-alive")
def keep_alive():
    command = ["curl", "--silent", "--globoff", "--max-time", "20", "--write-out", "%{http_code} %{num_connects}\n"]
    for path in ("/healthz", "/", "/healthz"):
        command += ["--output", "/dev/null", BASE + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    expect_equal(done.stdout.split("\n"), ["200 1", "200 0", "200 0", ""], "status and new connections")


@plan.case("connection-close")
def connection_close():
    with dial() as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        expect(read_to_end(connection).startswith(b"HTTP/1.1 200 "), "the answer and then the end")


@plan.case("http-1.0")
def http_1_0():
    with dial() as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = read_to_end(connection)
    expect(answer.startswith(b"HTTP/1.") and b" 200 " in answer, f"the answer and then the end: {answer[:80]!r}")


@plan.case("pipelined")
def pipelined():
    one = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    other = f"GET /no HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with dial() as connection:
        connection.sendall(one + other + one)
        rest, statuses = b"", []
        for _ in range(3):
            status, _, _, rest = read_answer(connection, rest)
            statuses.append(status)
    expect_equal(statuses, [200, 404, 200], "statuses in order")


@plan.case("byte-by-byte")
def byte_by_byte():
    with dial() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        expect_equal(read_answer(connection)[0], 200, "status")


@plan.case("slow-head")
def slow_head():
    started = time.monotonic()
    with dial() as connection:
        connection.settimeout(DEADLINE_SECONDS_MAX)
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n".encode())
        try:
            answer = read_to_end(connection)
        except TimeoutError:
            raise AssertionError(f"after {DEADLINE_SECONDS_MAX:.0f} s the server still waits for the rest") from None
    expect(answer == b"" or b" 408 " in answer.split(b"\r\n")[0], f"the end, or 408: {answer[:80]!r}")
    return f"given up after {time.monotonic() - started:.1f} s"


@plan.case("drip-fed-head")
def drip_fed_head():
    """A byte now and then must not win time: the deadline is for the whole head."""
    started = time.monotonic()
    with dial() as connection:
        connection.settimeout(0.5)
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ".encode())
        while time.monotonic() - started < DEADLINE_SECONDS_MAX:
            try:
                connection.sendall(b"x")
                connection.recv(4096)  # 408 or the end
                return f"given up after {time.monotonic() - started:.1f} s"
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return f"given up after {time.monotonic() - started:.1f} s"
    raise AssertionError(f"after {DEADLINE_SECONDS_MAX:.0f} s the server still takes one byte at a time")


@plan.case("idle-keep-alive")
def idle_keep_alive():
    """Between two requests a connection may not wait forever, either."""
    with dial() as connection:
        connection.settimeout(DEADLINE_SECONDS_MAX)
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        expect_equal(read_answer(connection)[0], 200, "status")
        started = time.monotonic()
        try:
            expect_equal(read_to_end(connection), b"", "what comes without a request")
        except TimeoutError:
            raise AssertionError(f"still open after {DEADLINE_SECONDS_MAX:.0f} s without a request") from None
    return f"closed after {time.monotonic() - started:.1f} s"


plan.main()
