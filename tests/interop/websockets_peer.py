"""The Python package `websockets` as a client of an echo server, or as the server.

Arguments: `client URL echo|told [deflate] [ca FILE] [most BYTES]`, or `server PORT [deflate] [files CERTIFICATE KEY]`;
examples/interop.rs says what a server does when it is told in a text.
"""

import asyncio
import os
import ssl
import sys

from messages import CLOSES, PARTS, PARTS_BINARY, PING, Options, text

from cases import Plan, expect_equal, report
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

OPTIONS = Options(sys.argv[1:])
COMPRESSION = "deflate" if OPTIONS.deflate else None
UNLIMITED = {"max_size": None, "ping_interval": None, "open_timeout": 20, "compression": COMPRESSION}

plan = Plan()


def dial():
    context = ssl.create_default_context(cafile=OPTIONS.ca) if OPTIONS.where.startswith("wss") else None
    return connect(OPTIONS.where, ssl=context, **UNLIMITED)


async def opens():
    async with dial() as ws:
        expect_equal([e.name for e in ws.protocol.extensions], ["permessage-deflate"] * OPTIONS.deflate, "extensions")


async def echo(message, wanted=None):
    async with dial() as ws:
        await ws.send(message)
        expect_equal(await ws.recv(), message if wanted is None else wanted, "echo")


async def fragments(parts):
    await echo(parts, type(parts[0])().join(parts))


async def ping():
    async with dial() as ws:
        await asyncio.wait_for(await ws.ping(PING), 20)


async def closes(code, reason):
    async with dial() as ws:
        await ws.close(code, reason)
        received = ws.protocol.close_rcvd
        expect_equal((received.code, received.reason), (code, reason), "close frame")


async def told_close():
    async with dial() as ws:
        await ws.send("close 4001 as told")
        try:
            await ws.recv()
        except ConnectionClosed as closed:
            expect_equal((closed.rcvd.code, closed.rcvd.reason), (4001, "as told"), "close frame")
            return
        raise AssertionError("a message came instead of the close frame")


def client():
    if OPTIONS.told:
        plan.add("told-fragments", echo, "fragments", "".join(PARTS))
        plan.add("told-ping", echo, "ping", "ponged")
        plan.add("told-close", told_close)
    else:
        plan.add("open", opens)
        for size in OPTIONS.sizes():
            plan.add(f"echo-text-{size}", echo, text(size))
            plan.add(f"echo-binary-{size}", echo, os.urandom(size))
        plan.add("fragments-text", fragments, list(PARTS))
        plan.add("fragments-binary", fragments, [os.urandom(size) for size in PARTS_BINARY])
        plan.add("ping", ping)
        for code, reason in CLOSES:
            plan.add(f"close-{code}", closes, code, reason)
    plan.main()


async def handle(ws):
    try:
        async for message in ws:
            match message.split(" ", 2) if isinstance(message, str) else message:
                case ["fragments"]:
                    await ws.send(list(PARTS))
                case ["ping"]:
                    asyncio.create_task(pinged(ws))
                case ["close", code, reason]:
                    await ws.close(int(code), reason)
                case _:
                    await ws.send(message)
    except ConnectionClosed:
        pass


async def pinged(ws):
    await (await ws.ping(PING))
    await ws.send("ponged")


async def server():
    context = None
    if OPTIONS.files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*OPTIONS.files)
    async with serve(handle, ["0.0.0.0", "::"], int(OPTIONS.where), ssl=context, **UNLIMITED):
        report(serves=True)
        await asyncio.Future()


if OPTIONS.role == "client":
    client()
else:
    asyncio.run(server())
