"""Shows certificates, or none, to a server that asks. Arguments: the folder with them, `optional` or `required`."""

import pathlib
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cases import Plan, expect_equal

FOLDER = pathlib.Path(sys.argv[1])
REQUIRED = sys.argv[2] == "required"

plan = Plan()


async def echoes(context):
    # Not the client with threads: it reads the tickets in one and sends the request in another, and OpenSSL loses that.
    async with connect("wss://10.73.0.2/ws", ssl=context, open_timeout=10) as ws:
        await ws.send("hello")
        return await ws.recv() == "hello"


async def opens(certificate, version, good):
    context = ssl.create_default_context(cafile=FOLDER / "ca.pem")
    context.minimum_version = context.maximum_version = version
    if certificate:
        context.load_cert_chain(FOLDER / f"{certificate}.pem", FOLDER / f"{certificate}.key")
    try:
        outcome = await echoes(context)
    except (OSError, EOFError, InvalidHandshake, ConnectionClosed):  # in TLS 1.3 the server's refusal comes after the client is done
        outcome = False
    expect_equal(outcome, good, "whether it opened")


for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    plan.add(f"none-{version.name}", opens, None, version, not REQUIRED)
    plan.add(f"good-{version.name}", opens, "client", version, True)
    plan.add(f"of-others-{version.name}", opens, "stranger", version, False)

plan.main()
