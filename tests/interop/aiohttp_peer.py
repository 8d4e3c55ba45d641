"""The Python package `aiohttp` as a client of an echo server, or as the server. Arguments as of websockets_peer.py.

It has no call that sends a message in fragments.
"""

import asyncio
import contextlib
import os
import ssl
import sys

from aiohttp import ClientSession, ClientTimeout, TCPConnector, WSMsgType, web
from messages import CLOSES, PARTS, PING, Options, text

from cases import Plan, expect_equal, report

OPTIONS = Options(sys.argv[1:])
BITS = 15 if OPTIONS.deflate else 0

plan = Plan()


@contextlib.asynccontextmanager
async def dial(autoping=True):
    context = ssl.create_default_context(cafile=OPTIONS.ca) if OPTIONS.ca else True
    connector = TCPConnector(ssl=context)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=60)) as session:
        async with session.ws_connect(OPTIONS.where, max_msg_size=0, compress=BITS, autoping=autoping) as ws:
            yield ws


async def opens():
    async with dial() as ws:
        expect_equal(bool(ws.compress), OPTIONS.deflate, "compression")


async def echo(message, wanted=None):
    async with dial() as ws:
        await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
        received = await ws.receive(timeout=60)
        expect_equal(received.data, message if wanted is None else wanted, "echo")
        await ws.close()
        expect_equal(ws.close_code, 1000, "close code")


async def ping():
    async with dial(autoping=False) as ws:
        await ws.ping(PING)
        received = await ws.receive(timeout=20)
        expect_equal((received.type, bytes(received.data)), (WSMsgType.PONG, PING), "pong")


async def closes(code, reason):
    async with dial() as ws:
        await ws.close(code=code, message=reason.encode())
        expect_equal(ws.close_code, code, "close code")


async def told_close():
    async with dial() as ws:
        await ws.send_str("close 4001 as told")
        received = await ws.receive(timeout=20)
        expect_equal((received.type, received.data, received.extra), (WSMsgType.CLOSE, 4001, "as told"), "close frame")


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
        plan.add("ping", ping)
        for code, reason in CLOSES:
            plan.add(f"close-{code}", closes, code, reason)
    plan.main()


async def handle(request):
    ws = web.WebSocketResponse(max_msg_size=0, compress=OPTIONS.deflate, autoping=False)
    await ws.prepare(request)
    async for message in ws:
        match message.type:
            case WSMsgType.PING:
                await ws.pong(message.data)
            case WSMsgType.PONG:
                await ws.send_str("ponged" if bytes(message.data) == PING else "another pong")
            case WSMsgType.BINARY:
                await ws.send_bytes(message.data)
            case WSMsgType.TEXT:
                match message.data.split(" ", 2):
                    case ["ping"]:
                        await ws.ping(PING)
                    case ["close", code, reason]:
                        await ws.close(code=int(code), message=reason.encode())
                    case _:
                        await ws.send_str(message.data)
    return ws


async def server():
    context = None
    if OPTIONS.files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*OPTIONS.files)
    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    for host in ("0.0.0.0", "::"):
        await web.TCPSite(runner, host, int(OPTIONS.where), ssl_context=context).start()
    report(serves=True)
    await asyncio.Future()


if OPTIONS.role == "client":
    client()
else:
    asyncio.run(server())
