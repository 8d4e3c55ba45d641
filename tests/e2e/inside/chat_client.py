"""A chat room seen by clients of the Python package `websockets`. Argument: the URL."""

import asyncio
import contextlib
import sys

from websockets.asyncio.client import connect

from cases import Plan, expect

URL = sys.argv[1]

plan = Plan()


def enter():
    """A place in the room, with room for all that is said while one does not listen."""
    return connect(URL, open_timeout=20, max_queue=None)


async def receive_until(ws, text):
    """Reads until a message holds `text` (the room may add who wrote it, or say who came)."""
    while True:
        message = await asyncio.wait_for(ws.recv(), 15)
        if text in message:
            return message


@plan.case("everybody-hears-everybody")
async def everybody_hears_everybody():
    async with contextlib.AsyncExitStack() as stack:
        room = [await stack.enter_async_context(enter()) for _ in range(10)]
        for number, speaker in enumerate(room):
            text = f"speaker {number} says é漢😀"
            await speaker.send(text)
            await asyncio.gather(*(receive_until(ws, text) for ws in room if ws is not speaker))


@plan.case("a-burst-reaches-all-in-order")
async def burst():
    async with enter() as speaker, enter() as listener:
        for number in range(200):
            await speaker.send(f"line {number};")
        for number in range(200):
            await receive_until(listener, f"line {number};")


@plan.case("those-who-left-are-not-missed")
async def those_who_left():
    async with enter() as stays, enter() as speaks:
        for _ in range(20):
            async with enter():
                pass
        await speaks.send("anyone left?")
        expect(await receive_until(stays, "anyone left?"), "the one who stayed hears it")


plan.main()
