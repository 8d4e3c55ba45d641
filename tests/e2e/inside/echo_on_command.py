"""Holds connections and echoes on them when told. Arguments: the URL, how many connections.

Prints {"open": N}; for each line `echo SECONDS` on stdin a message goes out on every connection, and how many came
back in that time is printed as {"echoed": N}. Ends at the end of its input.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect

from cases import report


async def echoes(ws, seconds):
    message = os.urandom(64)
    try:
        async with asyncio.timeout(seconds):
            await ws.send(message)
            while await ws.recv() != message:  # an echo that came too late for an earlier round
                pass
    except Exception:  # whatever went wrong, there was no echo
        return False
    return True


async def main(url, count):
    options = {"open_timeout": 20, "ping_interval": None, "compression": None}
    connections = [await connect(url, **options) for _ in range(count)]
    report(open=count)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        seconds = float(line.split()[1])
        report(echoed=sum(await asyncio.gather(*(echoes(ws, seconds) for ws in connections))))
    # Connections to nowhere would each wait for their closing handshake.
    os._exit(0)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
