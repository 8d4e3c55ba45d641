"""Meets one guard or limit of the server's. Arguments: which, the URL, the server's address, what the guard takes."""

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from cases import Plan, expect, expect_equal

WHICH, URL, ADDRESS, ARGUMENT = sys.argv[1:5]
FAMILY = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET
HOST = URL.split("/")[2]
OPTIONS = {"open_timeout": 20, "ping_interval": None, "compression": None, "max_size": None}

plan = Plan()


async def opening(target="", **options):
    """101 when a WebSocket opens and echoes, else the status of the refusal and its headers."""
    try:
        async with connect(URL + target, **OPTIONS, **options) as ws:
            await ws.send("hello")
            async with asyncio.timeout(10):
                while "hello" not in await ws.recv():  # the chat greets first, and names the speaker
                    pass
            return 101, {}
    except InvalidStatus as error:
        return error.response.status_code, error.response.headers


def refused(name, wanted, target="", **options):
    """A case: what opening comes to."""

    async def run():
        status, headers = await opening(target, **options)
        expect_equal(status, wanted, "status")
        if wanted == 401:
            expect(headers["WWW-Authenticate"].startswith("Bearer"), f"a challenge, not {headers}")

    plan.add(name, run)


def bearer(token):
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def raw(first, seconds=5):
    """What the server answers to these bytes on a connection of their own; `None` when it resets it."""
    with socket.socket(FAMILY) as client:
        client.settimeout(seconds)
        try:
            client.connect((ADDRESS, 80))
            client.sendall(first)
            return client.recv(4096)
        except ConnectionResetError:
            return None


UPGRADE = (
    f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def origin():
    refused("own-origin", 101, origin=f"http://{HOST}")
    refused("listed-origin", 101, origin="https://app.example")
    refused("no-origin", 101, origin=None)
    refused("other-origin", 403, origin="https://evil.example")


def tokens():
    refused("token-in-header", 101, **bearer(ARGUMENT))
    refused("token-in-query", 101, f"?access_token={quote(ARGUMENT, safe='')}")
    refused("no-token", 401)
    refused("wrong-token", 401, **bearer("0" + ARGUMENT[1:]))
    refused("wrong-token-in-query", 401, f"?access_token={ARGUMENT[:-1]}")


def jwt():
    for name, token in json.loads(ARGUMENT).items():
        refused(f"{name}-in-header", 101 if name == "good" else 401, **bearer(token))
        refused(f"{name}-in-query", 101 if name == "good" else 401, f"?access_token={token}")
    refused("no-token", 401)


def peers():
    @plan.case("a-fourth-connection-is-reset")
    async def fourth():
        for _ in range(2):  # and a place is free again once one has gone
            held = [await connect(URL, **OPTIONS) for _ in range(3)]
            expect_equal(raw(UPGRADE), None, "the fourth connection")
            for ws in held:
                await ws.send("still here")
                expect_equal(await ws.recv(), "still here", "echo")
                await ws.close()
            await asyncio.sleep(0.1)


def v2(client, extra=b""):
    """A binary PROXY header for a client of our family."""
    other, family = ("10.0.0.1", 0x11) if FAMILY == socket.AF_INET else ("fd00::1", 0x21)
    fields = b"".join(socket.inet_pton(FAMILY, address) for address in (client, other)) + struct.pack("!HH", 4000, 80)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(fields + extra)) + fields + extra


def v1(client):
    """A PROXY line for a client of our family."""
    name, other = ("TCP4", "10.0.0.1") if FAMILY == socket.AF_INET else ("TCP6", "fd00::1")
    return f"PROXY {name} {client} {other} 4000 80\r\n".encode()


def client_address(number):
    """A client's address; each is one peer."""
    return f"192.0.2.{number}" if FAMILY == socket.AF_INET else f"2001:db8:{number}::1"


def proxy():
    for name, header in (("line", v1), ("binary", v2), ("binary-with-fields", lambda client: v2(client, b"\xc0\0\3abc"))):
        plan.add(name, lambda header=header: expect_status(header(client_address(1)) + UPGRADE, b"101"))
    plan.add("health-check", lambda: expect_status(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" + UPGRADE, b"101"))
    plan.add("no-header-is-reset", lambda: expect_equal(raw(UPGRADE), None, "answer"))
    plan.add("bad-header-is-reset", lambda: expect_equal(raw(b"PROXY TCP4 x y 1 2\r\n" + UPGRADE), None, "answer"))

    @plan.case("byte-by-byte")
    def byte_by_byte():
        with socket.create_connection((ADDRESS, 80), 5) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in v2(client_address(2), b"\x04\0\2..") + UPGRADE:
                client.sendall(bytes([byte]))
            expect(client.recv(4096).startswith(b"HTTP/1.1 101 "), "an upgrade")

    @plan.case("clients-are-counted-each")
    def counted():
        held = []
        try:
            for number in (7, 7, 8):
                held.append(socket.create_connection((ADDRESS, 80), 5))
                held[-1].sendall(v1(client_address(number)) + UPGRADE)
                expect(held[-1].recv(4096).startswith(b"HTTP/1.1 101 "), f"an upgrade for client {number}")
            expect_equal(raw(v1(client_address(7)) + UPGRADE), None, "the third connection of one client")
        finally:
            for client in held:
                client.close()


def haproxy():
    context = ssl.create_default_context(cafile=ARGUMENT)

    def through(port, **options):
        """A WebSocket inside TLS, by haproxy's port; `ADDRESS` is haproxy's."""
        return connect(URL, host=ADDRESS, port=port, ssl=context, **OPTIONS, **options)

    async def until_it_listens(port):
        for _ in range(100):
            try:
                socket.create_connection((ADDRESS, port), 5).close()
                return
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)

    for port, version in ((8001, "line"), (8002, "binary")):

        async def echoes(port=port):
            await until_it_listens(port)
            async with through(port) as ws:
                for size in (1, 125, 70_000, 1 << 20):
                    await ws.send(bytes(size))
                    expect_equal(len(await asyncio.wait_for(ws.recv(), 20)), size, "bytes")

        plan.add(f"{version}-before-tls", echoes)

        async def counted(port=port):
            async with through(port), through(port):
                try:
                    async with through(port):
                        expect(False, "the third connection of one client is open")
                except OSError:
                    pass  # reset, which haproxy passes on
                except InvalidMessage:
                    pass
                if FAMILY == socket.AF_INET:
                    async with through(port, local_addr=("127.0.0.9", 0)) as ws:
                        await ws.send("another client")
                        expect_equal(await asyncio.wait_for(ws.recv(), 10), "another client", "echo")

        plan.add(f"{version}-clients-are-counted-each", counted)


def expect_status(request, status):
    answer = raw(request) or b"(reset)"
    expect_equal(answer.split(b" ")[1:2], [status], f"status of {answer[:60]!r}")


def no_proxy():
    plan.add("who-is-not-listed-names-nobody", lambda: expect_status(v1(client_address(1)) + UPGRADE, b"400"))
    refused("and-needs-no-header", 101)


def lifetime():
    @plan.case("closes-with-1001-though-busy")
    async def busy():
        started = time.monotonic()
        async with connect(URL, **OPTIONS) as ws:
            try:
                while time.monotonic() - started < 10:
                    await ws.send("busy")
                    await ws.recv()
                    await asyncio.sleep(0.02)
            except ConnectionClosed:
                pass
            expect_equal(ws.protocol.close_rcvd and ws.protocol.close_rcvd.code, 1001, "close code")
        seconds = time.monotonic() - started
        expect(1.9 < seconds < 3, f"closed after {seconds:.1f} s")


async def flood(ws, messages, size):
    """Sends as fast as it can, and returns how many echoes came within a time in which none was missing."""
    data = [struct.pack("!I", number) + bytes(size - 4) for number in range(messages)]

    async def send():
        for message in data:
            await ws.send(message)

    sending = asyncio.create_task(send())
    echoes = []
    try:
        while len(echoes) < messages:
            echoes.append(struct.unpack("!I", (await asyncio.wait_for(ws.recv(), 3))[:4])[0])
    except (TimeoutError, ConnectionClosed):
        pass
    await asyncio.gather(sending, return_exceptions=True)
    return echoes


def delay():
    @plan.case("messages-are-slowed-down-and-none-is-lost")
    async def messages():
        async with connect(URL, **OPTIONS) as ws:
            started = time.monotonic()
            expect_equal(await flood(ws, 150, 10), list(range(150)), "echoes")
            seconds = time.monotonic() - started
            expect(1.7 < seconds < 4, f"150 messages at 50 a second took {seconds:.1f} s")
            return f"{seconds:.1f} s"

    @plan.case("bytes-are-slowed-down-and-none-is-lost")
    async def size():
        async with connect(URL, **OPTIONS) as ws:
            started = time.monotonic()
            expect_equal(await flood(ws, 6, 100_000), list(range(6)), "echoes")
            seconds = time.monotonic() - started
            expect(1.5 < seconds < 5, f"600 kB at 200 kB a second took {seconds:.1f} s")
            return f"{seconds:.1f} s"

    ping_flood()


def drop():
    @plan.case("messages-over-the-rate-are-dropped")
    async def messages():
        async with connect(URL, **OPTIONS) as ws:
            echoes = await flood(ws, 300, 10)
            expect(50 <= len(echoes) < 200, f"{len(echoes)} of 300 echoes at 50 a second")
            expect_equal(echoes, sorted(set(echoes)), "echoes in order, each once")
            return f"{len(echoes)} of 300"

    ping_flood()


def close():
    @plan.case("messages-over-the-rate-close-with-1008")
    async def messages():
        async with connect(URL, **OPTIONS) as ws:
            await flood(ws, 300, 10)
            expect_equal(ws.protocol.close_rcvd and ws.protocol.close_rcvd.code, 1008, "close code")

    @plan.case("bytes-over-the-rate-close-with-1008")
    async def size():
        async with connect(URL, **OPTIONS) as ws:
            await flood(ws, 10, 100_000)
            expect_equal(ws.protocol.close_rcvd and ws.protocol.close_rcvd.code, 1008, "close code")

    ping_flood()


def ping_flood():
    @plan.case("a-ping-flood-closes-with-1008")
    async def pings():
        async with connect(URL, **OPTIONS) as ws:
            try:
                for _ in range(200):
                    await ws.ping()
                await asyncio.wait_for(ws.recv(), 5)
            except ConnectionClosed:
                pass
            expect_equal(ws.protocol.close_rcvd and ws.protocol.close_rcvd.code, 1008, "close code")


globals()[WHICH.replace("-", "_")]()
plan.main()
