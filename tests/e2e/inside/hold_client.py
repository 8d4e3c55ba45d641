"""Opens connections, proves each with an echo, and then says how the server ended them.

Arguments: the URL, how many connections. Prints {"open": N}, and at the end {"closes": [code, ...]}.
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cases import expect_equal, report


async def main(url, count):
    connections = [await connect(url, open_timeout=20, ping_interval=None) for _ in range(count)]
    for number, ws in enumerate(connections):
        await ws.send(f"hello {number}")
        expect_equal(await ws.recv(), f"hello {number}", "echo")
    report(open=count)

    async def ending(ws):
        try:
            while True:
                await ws.recv()
        except ConnectionClosed:
            return ws.protocol.close_rcvd.code if ws.protocol.close_rcvd else 1006

    report(closes=await asyncio.gather(*(ending(ws) for ws in connections)))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
