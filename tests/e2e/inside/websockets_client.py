"""Drives a WebSocket echo server with the Python package `websockets`. Arguments: the URL, and
`deflate` when every connection must negotiate compression."""

import asyncio
import os
import socket
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cases import Plan, expect, expect_equal

URL = sys.argv[1]
DEFLATE = sys.argv[2:] == ["deflate"]
SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20]
CLOSES = [(1000, "done"), (3000, "the library says so"), (4999, "the application says so, é漢😀")]

plan = Plan()


def open_connection(**options):
    """A connection without a limit of its own on what it receives and without pings of its own."""
    return connect(URL, max_size=None, ping_interval=None, open_timeout=20, **options)


def random_text(size):
    """`size` bytes of UTF-8 with characters of one to four bytes."""
    block = os.urandom(509).hex() + "é漢😀"  # 1,027 bytes: never aligned with a segment or a mask
    text = (block * (size // 1027 + 1)).encode()[:size].decode(errors="ignore")
    return text + " " * (size - len(text.encode()))  # the cut may have gone through a character


@plan.case("open")
async def opens():
    async with open_connection() as ws:
        expect_equal(ws.response.status_code, 101, "status")
        expect_equal([e.name for e in ws.protocol.extensions], ["permessage-deflate"] * DEFLATE, "extensions")


async def echo_text(size):
    async with open_connection() as ws:
        text = random_text(size)
        expect_equal(len(text.encode()), size, "bytes of the test text")
        await ws.send(text)
        expect_equal(await ws.recv(), text, "echo")


async def echo_binary(size):
    async with open_connection() as ws:
        data = os.urandom(size)
        await ws.send(data)
        expect_equal(await ws.recv(), data, "echo")


for size in SIZES:
    plan.add(f"echo-text-{size}", echo_text, size)
    plan.add(f"echo-binary-{size}", echo_binary, size)


@plan.case("fragments-text")
async def fragments_text():
    async with open_connection() as ws:
        parts = ["one ", "", "é漢", "😀", " five"]
        await ws.send(parts)
        expect_equal(await ws.recv(), "".join(parts), "echo")


@plan.case("fragments-binary")
async def fragments_binary():
    async with open_connection() as ws:
        parts = [os.urandom(size) for size in (1, 70_000, 125, 126, 3)]
        await ws.send(parts)
        expect_equal(await ws.recv(), b"".join(parts), "echo")


@plan.case("ping")
async def ping():
    async with open_connection() as ws:
        for payload in (b"", b"x", os.urandom(125)):
            pong = await ws.ping(payload)
            await asyncio.wait_for(pong, 10)


@plan.case("ping-between-fragments")
async def ping_between_fragments():
    async with open_connection() as ws:
        pongs = []

        async def parts():
            for part in (b"a" * 1000, b"b" * 1000, b"c" * 1000):
                yield part
                pong = await ws.ping()
                await asyncio.wait_for(pong, 10)
                pongs.append(part)

        await ws.send(parts())
        expect_equal(await ws.recv(), b"a" * 1000 + b"b" * 1000 + b"c" * 1000, "echo")
        expect_equal(len(pongs), 3, "pongs before the message ended")


async def closes(code, reason):
    async with open_connection() as ws:
        await ws.send("before")
        expect_equal(await ws.recv(), "before", "echo")
        await ws.close(code, reason)
        received = ws.protocol.close_rcvd
        expect(received is not None, "no close frame came back")
        expect_equal((received.code, received.reason), (code, reason), "close frame")


for code, reason in CLOSES:
    plan.add(f"close-{code}", closes, code, reason)


@plan.case("in-flight-1000")
async def in_flight():
    async with open_connection(max_queue=None) as ws:
        messages = [f"{number} ".ljust(100, "x") for number in range(1000)]
        for message in messages:
            await ws.send(message)
        for message in messages:
            expect_equal(await ws.recv(), message, "echo in order")


@plan.case("connections-200")
async def connections():
    async def one(number):
        async with open_connection() as ws:
            for round_ in range(10):
                message = f"connection {number} round {round_}"
                await ws.send(message)
                expect_equal(await ws.recv(), message, "echo")

    await asyncio.gather(*(one(number) for number in range(200)))


def tcp_socket(ws):
    return ws.transport.get_extra_info("socket")


async def still_serves():
    async with open_connection() as ws:
        await ws.send("still there?")
        expect_equal(await ws.recv(), "still there?", "echo on a new connection")


@plan.case("reset")
async def reset():
    for _ in range(20):
        ws = await open_connection()
        await ws.send(os.urandom(1000))
        tcp_socket(ws).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ws.transport.abort()
        try:
            await ws.recv()  # an echo may have come before the reset
            await ws.recv()
        except ConnectionClosed:
            pass
    await still_serves()


@plan.case("fin-without-close")
async def fin_without_close():
    ws = await open_connection()
    await ws.send("last words")
    expect_equal(await ws.recv(), "last words", "echo")
    tcp_socket(ws).shutdown(socket.SHUT_WR)  # over TLS, too: a FIN without a close_notify
    try:
        await asyncio.wait_for(ws.recv(), 15)
        raise AssertionError("a message came after our FIN")
    except ConnectionClosed:
        pass  # the server finished its side as well
    await still_serves()


plan.main()
