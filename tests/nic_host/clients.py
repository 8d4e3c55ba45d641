"""Clients beside the machine with an emulated NIC, stage by stage: connections by the Python package `websockets` over IPv4 and
IPv6 in turn, of which every byte is compared; and what else is there to reach.

Arguments: folder of the ssh client and its key, connections, messages of each, stage.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time

from vlan import vlan
from websockets.asyncio.client import connect

SSH = sys.argv[1]
CONNECTIONS, MESSAGES = map(int, sys.argv[2:4])
STAGE = sys.argv[4]
FEW_CONNECTIONS, FEW_MESSAGES = 12, 5
if STAGE != "spread":
    CONNECTIONS, MESSAGES = FEW_CONNECTIONS, FEW_MESSAGES
HOSTS = (os.environ["GUEST_IP4"], f"[{os.environ['GUEST_IP6']}]")
# Small, one segment, many segments, more than a receive window.
SIZES = (1, 125, 1_000, 20_000, 100_000)
# An emulated machine on a busy host is slow, and some emulated links come up late. It is given up when nothing at all happens
# for so long.
QUIET_SECONDS = 90
PAUSE_SECONDS = 0.3
# The machine has the other ends.
VLAN = 7
VLAN_ADDRESSES = ("10.77.7.1/24", "fd77:7::1/64")
VLAN_HOSTS = ("10.77.7.2", "[fd77:7::2]")
last_progress = time.monotonic()


def progress():
    """Something has come."""
    global last_progress
    last_progress = time.monotonic()


async def give_up_when_quiet():
    """Ends the run when nothing has come for long."""
    while time.monotonic() < last_progress + QUIET_SECONDS:
        await asyncio.sleep(1)
    raise SystemExit(f"nothing came from the server for {QUIET_SECONDS} s")


async def wait_for_link(hosts):
    """The way to the server's addresses is not known yet."""
    for host in hosts:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with connect(f"ws://{host}/", open_timeout=5):
                    progress()
                    break
            await asyncio.sleep(0.2)


async def talk(number, host):
    """One connection's messages."""
    async with connect(f"ws://{host}/", ping_interval=None, max_size=None, open_timeout=None) as socket:
        for turn in range(MESSAGES):
            sent = os.urandom(SIZES[(number // 2 + turn) % len(SIZES)])
            await socket.send(sent)
            if await socket.recv() != sent:
                raise SystemExit(f"connection {number}: what came back of {len(sent)} bytes is not what was sent")
            progress()
            if STAGE == "asleep":
                await asyncio.sleep(PAUSE_SECONDS)


async def talk_to(hosts):
    """All connections."""
    progress()
    watch = asyncio.create_task(give_up_when_quiet())
    work = asyncio.gather(wait_for_link(hosts))
    await asyncio.wait((watch, work), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work = asyncio.gather(*(talk(number, hosts[number % 2]) for number in range(CONNECTIONS)))
        await asyncio.wait((watch, work), return_when=asyncio.FIRST_COMPLETED)
    (watch if watch.done() else work).result()
    watch.cancel()


def on_vlan():
    """On a VLAN, beside which the untagged network goes on."""
    untagged = subprocess.Popen(["ping", "-c", "3", "-W", "1", os.environ["GUEST_IP4"]], stdout=subprocess.DEVNULL)
    with vlan(os.environ["HOST_DEVICE"], VLAN, VLAN_ADDRESSES) as device:
        asyncio.run(talk_to(VLAN_HOSTS))
    if untagged.wait() == 0:
        raise SystemExit("a port of a VLAN answered an untagged ping")
    print(f"VLAN {VLAN}: {device.received} frames with this tag came, {device.sent} were sent")


async def beside_the_kernel():
    """Connections to the engine, and the kernel's ping and ssh, at the same addresses."""
    await talk_to(HOSTS)
    pings = [
        await asyncio.create_subprocess_exec("ping", "-q", "-c", "5", "-i", "0.2", "-W", "30", host)
        for host in (os.environ["GUEST_IP4"], os.environ["GUEST_IP6"])
    ]
    login = ["-y", "-y", "-T", "-i", f"{SSH}/key", f"root@{os.environ['GUEST_IP4']}", "cat /etc/machine; cat /proc/uptime"]
    ssh = await asyncio.create_subprocess_exec(
        f"{SSH}/dbclient",
        *login,
        env={**os.environ, "LD_LIBRARY_PATH": SSH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    await talk_to(HOSTS)
    said, _ = await asyncio.wait_for(ssh.communicate(), QUIET_SECONDS)
    if ssh.returncode != 0 or os.environ["NIC_MAC"].encode() not in said:
        raise SystemExit(f"ssh ended with {ssh.returncode} and said {said}")
    for ping in pings:
        if await asyncio.wait_for(ping.wait(), QUIET_SECONDS) != 0:
            raise SystemExit("the kernel does not answer a ping through the exception path")
    print("beside the connections: ping over IPv4 and IPv6, and a login by ssh")


match STAGE:
    case "vlan":
        on_vlan()
    case "exception":
        asyncio.run(beside_the_kernel())
    case _:
        asyncio.run(talk_to(HOSTS))
