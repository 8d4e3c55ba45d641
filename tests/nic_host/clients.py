"""Many connections at a time to the server behind an emulated NIC, by the Python package `websockets`.

Arguments: connections, messages of each. They go over IPv4 and IPv6 in turn; every byte of every echo is compared.
"""

import asyncio
import os
import sys
import time

from websockets.asyncio.client import connect

CONNECTIONS, MESSAGES = map(int, sys.argv[1:])
HOSTS = (os.environ["GUEST_IP4"], f"[{os.environ['GUEST_IP6']}]")
# Small, one segment, many segments, more than a receive window.
SIZES = (1, 125, 1_000, 20_000, 100_000)
LINK_SECONDS = 20


async def wait_for_link():
    """Some emulated links come up late, and the way to the server's addresses is not known yet."""
    deadline = time.monotonic() + LINK_SECONDS
    for host in HOSTS:
        while True:
            try:
                async with connect(f"ws://{host}/", open_timeout=3):
                    break
            except (OSError, TimeoutError):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{host} takes no connection for {LINK_SECONDS} s") from None
                await asyncio.sleep(0.2)


async def talk(number):
    """One connection's messages."""
    async with connect(f"ws://{HOSTS[number % 2]}/", ping_interval=None, max_size=None, open_timeout=30) as socket:
        for turn in range(MESSAGES):
            sent = os.urandom(SIZES[(number // 2 + turn) % len(SIZES)])
            await socket.send(sent)
            if await asyncio.wait_for(socket.recv(), 60) != sent:
                raise SystemExit(f"connection {number}: what came back of {len(sent)} bytes is not what was sent")


async def main():
    await wait_for_link()
    await asyncio.gather(*(talk(number) for number in range(CONNECTIONS)))


asyncio.run(main())
