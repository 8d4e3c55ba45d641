"""Holds many connections between a server and a client on the engine, and says what they cost. Called by scripts/million."""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNSOCKET = ROOT / "target/release/unsocket"
# One address has 32,768 ports towards each port of the server.
CLIENT_ADDRESSES = ",".join(f"10.73.9.{host}/24" for host in range(2, 9))
FIRST_PORT, PORTS = 9401, 8
# What a connection that is used holds at both ends together: two pages of rings and its state.
USED_BYTES = 20_000
# Megabytes of DPDK's memory for each of the two processes.
DPDK_MEGABYTES = 200


@contextlib.contextmanager
def server(app, options, folder):
    """`unsocket serve` with room for all connections; ended with SIGTERM."""
    ports = ",".join(str(FIRST_PORT + index) for index in range(PORTS))
    command = [UNSOCKET, "serve", *device("server", folder), "--ip", "10.73.9.1/24", "--listen", ports, "--app", app]
    command += ["--cores", options.server_core, "--set", f"limits.connections_max={options.connections + 1000}"]
    command += ["--", "-m", DPDK_MEGABYTES]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    try:
        if not process.stdout.readline().startswith("ready"):
            raise SystemExit("error: the server did not start; it says why above")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def device(role, folder):
    memif = f"dpdk:net_memif0,role={role},id=0,socket={folder}/memif,socket-abstract=no"
    return ["--port", memif, "--checksum", "trust"]


def bench(*words):
    """One run of the generator; its progress is shown."""
    with tempfile.NamedTemporaryFile() as result:
        command = [str(word) for word in [UNSOCKET, "bench", "--json", result.name, *words]]
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        text = pathlib.Path(result.name).read_text()
    if not text:
        raise SystemExit(f"error: {' '.join(command)} ended with {status}")
    report = json.loads(text)
    if report["errors"]:
        causes = "; ".join(f"{cause['count']} x {name}: {cause['first']}" for name, cause in report["errors_by_cause"].items())
        raise SystemExit(f"error: {report['errors']} errors ({causes}); no figure is that of a run with errors")
    return report


def over_memif(app, options, words):
    with tempfile.TemporaryDirectory() as folder, server(app, options, folder) as pid:
        words = [f"ws://10.73.9.1:{FIRST_PORT}/", *device("client", folder), "--ip", CLIENT_ADDRESSES, *words]
        words += ["--connections", options.connections, "--ports", PORTS, "--timeout", "60"]
        words += ["--cores", options.client_core]
        if app == "echo":
            words += ["--server-pid", pid]
        return bench(*words, "--", "-m", DPDK_MEGABYTES)


def held(options):
    """All are opened and held, 1 % echo meanwhile, each echoes once at the end, and all are closed."""
    words = ["--scenario", "idle", "--active", "1", "--rate", options.rate, "--warmup", "10", "--duration", options.hold]
    report = over_memif("echo", options, words)
    memory, rtt = report["memory"], report["rtt_us"]
    yield "connections held", f"{memory['connections']:,}"
    yield "opened a second", f"{report['connections'] / report['opening_seconds']:,.0f}"
    yield "memory of each, server's process with its page tables", f"{memory['server_per_connection']:,.0f} B"
    yield "the same in all", f"{memory['server'] / 2**30:.2f} GiB"
    yield "memory of each, whole machine: both ends and the kernel", f"{memory['machine_per_connection']:,.0f} B"
    yield "echo on 1 % of them, messages/s (asked for)", f"{report['messages_per_second']:,.0f} ({options.rate:,})"
    yield "their round trip, p50, p99, greatest", f"{rtt['p50']:,.1f}, {rtt['p99']:,.1f}, {rtt['max']:,.1f} us"


def published(options):
    """Five messages to all of them, one after the other."""
    report = over_memif("pubsub", options, ["--scenario", "broadcast", "--size", "64", "--messages", "5"])
    rtt = report["rtt_us"]
    yield "one message of 64 B to all: first, median, last delivery", " / ".join(
        f"{rtt[key] / 1000:,.1f} ms" for key in ("min", "p50", "max")
    )
    yield "deliveries a second", f"{report['messages_per_second']:,.0f}"


def costs(options):
    """What a message costs the server with so many connections that all echo, in one process."""
    connections = 1
    while connections <= options.connections:
        if connections * USED_BYTES > available():
            yield f"{connections:,}", "-", "-", f"needs {connections * USED_BYTES / 2**30:.0f} GiB of free memory"
        else:
            cores = ["--cores", options.client_core, "--server-core", options.server_core]
            # Until each has echoed once: what is counted is not to be the first page of each ring.
            warmup = max(1, connections // 20_000)
            report = bench("--connections", connections, "--timeout", "60", "--warmup", warmup, "--duration", "3", *cores)
            busy = f"{report['server_busy_ns_per_message']:,.0f}" if report["messages"] else "-"
            yield f"{connections:,}", busy, f"{report['messages_per_second']:,.0f}", ""
        connections *= 10


def available():
    return 1024 * int(re.search(r"MemAvailable:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])


def table(options):
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = [
        f"Taken {datetime.date.today()} with `sudo scripts/million --connections {options.connections}` on {model}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}. Server and client each on one core, one process each, "
        "joined by net_memif; every payload verified, no error.",
        "",
        "| | |",
        "|---|---|",
    ]
    for part in (held, published):
        text += [f"| {what} | {value} |" for what, value in part(options)]
    text += [
        "",
        "The cost of a 20-byte message as connections grow, all of them echoing, one message in flight each, in one process:",
        "",
        "| connections | ns of the server a message | messages/s | |",
        "|---|---|---|---|",
    ]
    text += [f"| {' | '.join(row)} |" for row in costs(options)]
    return "\n".join(text) + "\n"


def write(text):
    """Replaces what stands between the markers of docs/performance.md."""
    page = ROOT / "docs/performance.md"
    begin, end = "<!-- scripts/million writes this -->\n", "<!-- to here: million -->"
    head, _, rest = page.read_text().partition(begin)
    _, marker, tail = rest.partition(end)
    if not marker:
        raise SystemExit(f"error: {page} lacks the lines {begin.strip()!r} and {end!r} between which the table goes")
    page.write_text(head + begin + text + end + tail)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/million", add_help=False)
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--hold", type=float, default=20)
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--client-core", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if options.server_core == options.client_core or not {options.server_core, options.client_core} <= cores:
        parser.error(f"--server-core and --client-core must be two of this machine's cores {sorted(cores)}")
    if not 100 <= options.connections <= 1_500_000:
        parser.error("--connections: 100 to 1500000 are possible with 7 addresses and 8 ports")
    return options


def main():
    options = arguments()
    text = table(options)
    print(text)
    if options.write:
        write(text)


main()
