"""One chat room entered by two URLs of the same server. Arguments: both URLs."""

import asyncio
import contextlib
import sys

from websockets.asyncio.client import connect

from cases import Plan

URLS = sys.argv[1:3]

plan = Plan()


@plan.case("everybody-hears-everybody-across")
async def across():
    async with contextlib.AsyncExitStack() as stack:
        entered = [connect(url, open_timeout=20, max_queue=None) for url in URLS * 4]
        room = [await stack.enter_async_context(entering) for entering in entered]
        for number, speaker in enumerate(room):
            text = f"speaker {number};"
            await speaker.send(text)
            await asyncio.gather(*(hears(ws, text) for ws in room if ws is not speaker))


async def hears(ws, text):
    """Reads until a message holds `text`."""
    while text not in await asyncio.wait_for(ws.recv(), 15):
        pass


plan.main()
