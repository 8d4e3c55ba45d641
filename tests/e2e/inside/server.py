"""A WebSocket server by the Python package `websockets`, for clients to be tested against.

Arguments: the address, the TCP port, and for TLS the certificate and its key. Echoes messages; some it obeys:
`close CODE REASON`, `drop` (ends without a close frame), `send N` (N messages), `headers` (those of the request),
`protocol`. Prints a line of JSON when it serves, and one for each connection that ended.
"""

import asyncio
import json
import ssl
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

ADDRESS, PORT, *FILES = sys.argv[1:]


def say(**fields):
    print(json.dumps(fields), flush=True)


def choose(_, offered):
    return next((name for name in ("second", "first") if name in offered), None)


async def handle(ws):
    try:
        async for message in ws:
            words = message.split(" ", 2) if isinstance(message, str) else [""]
            match words[0]:
                case "close":
                    await ws.close(int(words[1]), words[2])
                case "drop":
                    ws.transport.abort()
                case "send":
                    for number in range(int(words[1])):
                        await ws.send(f"message {number}")
                case "headers":
                    await ws.send(json.dumps(dict(ws.request.headers.raw_items())))
                case "protocol":
                    await ws.send(str(ws.subprotocol))
                case _:
                    await ws.send(message)
    except ConnectionClosed:
        pass
    finally:
        closed = ws.protocol.close_rcvd
        say(code=closed.code if closed else None, reason=closed.reason if closed else None)


async def main():
    context = None
    if FILES:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*FILES)
    options = {"subprotocols": ["second", "first"], "select_subprotocol": choose, "max_size": None}
    async with serve(handle, ADDRESS, int(PORT), ssl=context, **options):
        say(serves=True)
        await asyncio.Future()


asyncio.run(main())
