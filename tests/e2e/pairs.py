#!/usr/bin/env python3
"""`unsocket serve` and `unsocket bench` as two processes that share memory and no kernel: every byte of every echo
compared, connections that come and go without leaving anything, and what it all costs beside testpmd.

Needs a build with the feature `dpdk`, and no privilege. Memory is ordinary pages, or hugepages with DPDK_MEMORY=huge.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from backends import Dpdk, Failure

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = "10.73.0.2"
KINDS = ("memif", "vhost")
TIME_WAIT_MAX = 65_536  # the default of tcp.time_wait_max

# Payload bytes, connections, messages: each connection sends one at least.
SMALL = [(1, 1, 100), (125, 100, 400), (65_536, 1_000, 1_000), (1 << 20, 10, 20), (16 << 20, 1, 2)]
FULL = [
    (1, 1, 10_000),
    (1, 1_000, 100_000),
    (1, 10_000, 200_000),
    (125, 10_000, 200_000),
    (65_536, 1, 1_000),
    (65_536, 1_000, 20_000),
    (65_536, 10_000, 20_000),
    (1 << 20, 1, 200),
    (1 << 20, 1_000, 1_000),
    (16 << 20, 1, 20),
    (16 << 20, 60, 60),
]
# What the server may hold of unfinished messages: the largest of those, of all connections at once.
MEMORY_BYTES_MAX = 4 << 30
# Connections, messages on their way each, payload bytes.
WORKERS_TABLE = [(1_000, 1), (100, 16)]  # connections a worker, messages on their way each
TABLE = [(1, 1, 20), (100, 16, 20), (1_000, 1, 20), (16, 16, 1_024), (16, 16, 16_384)]


class Pair:
    """A server and the clients that meet it, on a socket that is gone when the `with` block ends."""

    def __init__(self, binary, kind, *options, cores=None, queues=1):
        self.binary, self.kind, self.options, self.cores = str(binary), kind, [*options], cores
        self.queues = queues
        self.options += ["--queues", str(queues)] if queues > 1 else []
        self.folder = tempfile.TemporaryDirectory(prefix="unsocket-pair-")
        self.socket = f"{self.folder.name}/pair.sock"
        self.clients = 0
        self.process = None
        self.stderr = open(f"{self.folder.name}/serve.log", "wb+")

    def port(self, end):
        """The devargs of the end that listens or of the one that comes."""
        if self.kind == "memif":
            role = "server" if end == "server" else "client"
            return f"dpdk:net_memif0,role={role},id=0,socket={self.socket},socket-abstract=no"
        devices = {"server": f"net_vhost0,iface={self.socket}", "client": f"net_virtio_user0,path={self.socket}"}
        return f"dpdk:{devices[end]},queues={self.queues}"

    def serve(self, *options):
        """Starts the server and returns when it serves. What it says about memory comes over EAL's telemetry socket."""
        command = [self.binary, "serve", "--port", self.port("server"), "--ip", f"{SERVER}/16", *self.options, *options]
        # Without a core of its own a worker that spins would keep the client's threads waiting.
        pinned = ["--cores", str(self.cores[0])] if self.cores else ["--poll", "adaptive"]
        self.process = subprocess.Popen(
            [*command, *Dpdk().memory(), *pinned, "--", "--telemetry"],
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready:"):
            raise Failure(f"the server did not start: {self.log()}")
        return self

    def bench(self, *options, seconds=600):
        """One run of the load generator, from an address of its own; its result."""
        self.clients += 1
        # 251 hosts of one network after the other.
        host = f"10.73.{1 + self.clients // 250}.{1 + self.clients % 250}/16"
        command = [self.binary, "bench", f"ws://{SERVER}/", "--port", self.port("client"), "--ip", host, "--json", "-"]
        pinned = ["--cores", str(self.cores[1])] if self.cores else []
        done = subprocess.run(
            [*command, *Dpdk().memory(), *self.options, *pinned, *map(str, options)],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode != 0:
            alive = "runs" if self.process.poll() is None else f"ended with {self.process.returncode}"
            raise Failure(
                f"bench {' '.join(map(str, options))}: {done.stdout} {done.stderr[-600:]}\nthe server {alive}: {self.log()}"
            )
        return json.loads(done.stdout)

    def memory(self):
        """What the server holds: mbufs, bytes and pieces of DPDK's heap, anonymous memory of the process."""
        runtime = f"/run/user/{os.getuid()}" if os.getuid() else "/run"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
            telemetry.connect(f"{runtime}/dpdk/unsocket-{self.process.pid}/dpdk_telemetry.v2")
            telemetry.recv(16_384)

            def ask(command):
                telemetry.send(command.encode())
                return next(iter(json.loads(telemetry.recv(16_384)).values()))

            heap = ask("/eal/heap_info,0")
            rollup = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
            return {
                "mbufs": sum(ask("/unsocket/mbufs_in_use").values()),
                "dpdk_heap_bytes": heap["Alloc_size"],
                "dpdk_heap_pieces": heap["Alloc_count"],
                "anonymous_bytes": int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.M).group(1)) * 1024,
            }

    def stop(self, number=signal.SIGTERM):
        """Ends the server; with SIGTERM it must end well."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        if code != (0 if number == signal.SIGTERM else -number):
            raise Failure(f"the server ended with {code}: {self.log()}")

    def log(self):
        """The end of what the server wrote."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")[-2000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        self.stderr.close()
        self.folder.cleanup()


def echo(options):
    """Every byte of every echo, from 1 B to 16 MiB and from 1 to 10,000 connections."""
    loads = FULL if options.full else SMALL
    for kind in KINDS:
        with Pair(options.binary, kind) as pair:
            pair.serve("--set", f"limits.memory_bytes_max={MEMORY_BYTES_MAX}")
            for size, connections, messages in loads:
                started = time.monotonic()
                load = ["--size", size, "--connections", connections, "--messages", messages, "--timeout", 300]
                result = pair.bench(*load)
                counts = [result[name] for name in ("messages", "errors", "lost", "connections")]
                if counts != [messages, 0, 0, connections]:
                    raise Failure(f"{kind}, {load}: {result}")
                took = time.monotonic() - started
                print(f"  ok     {kind:<6} {size:>10,} B x {connections:>6,} connections, {messages:>8,} messages {took:7.1f} s", flush=True)
            pair.stop()


def churn(options):
    """Connections opened and closed: the server's mbufs and heap are back where they were."""
    count = options.connections or (1_000_000 if options.full else 20_000)
    with Pair(options.binary, "memif", "--checksum", "trust") as pair:
        pair.serve("--set", f"tcp.time_wait_max={min(count // 2, TIME_WAIT_MAX)}")
        load = ["--scenario", "connect", "--connections", 200, "--timeout", 60]
        # Tables take pages as they are first filled, and keep them. The largest is that of TIME-WAIT, and the ports of one
        # client's address do not fill it: each run has another.
        for _ in range(4):
            pair.bench(*load, "--messages", min(count, 2 * TIME_WAIT_MAX))
        before = settled(pair)
        started = time.monotonic()
        result = pair.bench(*load, "--messages", count)
        took = time.monotonic() - started
        if (result["messages"], result["errors"], result["lost"]) != (count, 0, 0):
            raise Failure(f"{count:,} connections were to be opened and closed: {result}")
        after = settled(pair)
        pair.stop()
    print(f"  {count:,} connections opened and closed in {took:.1f} s, {result['messages_per_second']:,.0f} a second")
    for name, value in before.items():
        print(f"  {name:<18} {value:>12,} before {after[name]:>12,} after")
    # A worker keeps up to 256 mbufs ready to be filled, as many that wait to be sent, and a few bursts. A page here and
    # there is touched for the first time.
    allowed = {"mbufs": 640, "dpdk_heap_bytes": 0, "dpdk_heap_pieces": 0, "anonymous_bytes": 256 << 10}
    grown = [name for name in before if after[name] - before[name] > allowed[name]]
    if grown:
        raise Failure(f"left over after {count:,} connections: {', '.join(grown)}")


def settled(pair):
    """The server's memory once all is quiet. Frames to a client that has gone wait for the next one, which takes them."""
    pair.bench("--connections", 1, "--messages", 1)
    previous = None
    for _ in range(60):
        time.sleep(1)
        now = pair.memory()
        if now == previous:
            break
        previous = now
    return now


def measure(options):
    """Throughput and round trips over shared memory, and testpmd forwarding on the same device as the floor."""
    runs = {}
    for round_ in range(options.rounds):
        for kind in KINDS:
            for connections, in_flight, size in TABLE:
                # One connection is one thread's. A thread has a queue of its own; one worker serves them all.
                client = options.cores[1:2] if connections == 1 else options.cores[1:]
                cores = (options.cores[0], ",".join(map(str, client)))
                with Pair(options.binary, kind, "--checksum", "trust", cores=cores, queues=len(client)) as pair:
                    pair.serve()
                    load = ["--connections", connections, "--in-flight", in_flight, "--size", size]
                    result = pair.bench(*load, "--workers", len(client), "--duration", options.seconds)
                    if not result["messages"]:
                        raise Failure(f"{kind}, {load}: no echo in {options.seconds} s: idle cores are needed")
                    runs.setdefault((kind, connections, in_flight, size), []).append(result)
                    pair.stop()
            runs.setdefault((kind, "testpmd"), []).append(testpmd(kind, options))
            print(f"  round {round_ + 1} of {options.rounds}: {kind}", file=sys.stderr, flush=True)
    report = {"machine": result["machine"], "cores": options.cores, "rounds": options.rounds, "rows": []}
    for kind in KINDS:
        floor = statistics.median(runs[kind, "testpmd"])
        report["rows"].append({"device": kind, "what": "testpmd io, 64 B frames, there and back", "per_second": floor})
        for connections, in_flight, size in TABLE:
            results = runs[kind, connections, in_flight, size]
            rates = [run["messages_per_second"] for run in results]
            report["rows"].append(
                {
                    "device": kind,
                    "what": f"{connections:,} x {in_flight} x {size:,} B",
                    "per_second": statistics.median(rates),
                    "spread": [min(rates), max(rates)],
                    "payload_gbit_per_second": statistics.median(rates) * size * 8 / 1e9,
                    "rtt_p50_us": statistics.median(run["rtt_us"]["p50"] for run in results),
                    "rtt_p99_us": statistics.median(run["rtt_us"]["p99"] for run in results),
                    "run_delay_percent": max(
                        generator["run_delay_percent"] for run in results for generator in run["generators"]
                    ),
                }
            )
    table = markdown(report, options)
    print(json.dumps(report, indent=1) if options.json else table)
    if options.write:
        write(table, "dpdk.md", "scripts/measure-dpdk")


def workers(options):
    """What a second worker brings: twice the connections over two queues, between two generator threads and two workers."""
    server, client = options.cores[:2], options.cores[2:]
    runs = {}
    for round_ in range(options.rounds):
        for count in (1, 2):
            cores = [",".join(map(str, cores[:count])) for cores in (server, client)]
            shared = ["--checksum", "trust", "--workers", str(count)]
            with Pair(options.binary, "memif", *shared, cores=cores, queues=count) as pair:
                pair.serve()
                for connections, in_flight in WORKERS_TABLE:
                    load = ["--connections", count * connections, "--in-flight", in_flight, "--size", 20]
                    result = pair.bench(*load, "--duration", options.seconds)
                    if result["errors"]:
                        raise Failure(f"{count} workers, {load}: {result}")
                    runs.setdefault((connections, in_flight, count), []).append(result["messages_per_second"])
                pair.stop()
            print(f"  round {round_ + 1} of {options.rounds}: {count} workers", file=sys.stderr, flush=True)
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}; medians of {options.rounds} interleaved runs of "
        f"{options.seconds} s; least and greatest in brackets",
        "",
        "| connections a worker x in flight x payload | one worker, messages/s | two workers | ratio, by round |",
        "|---|---|---|---|",
    ]
    for connections, in_flight in WORKERS_TABLE:
        one, two = (runs[connections, in_flight, count] for count in (1, 2))
        ratios = [both / alone for alone, both in zip(one, two)]
        cells = [f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})" for rates in (one, two)]
        cells.append(f"{statistics.median(two) / statistics.median(one):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {connections:,} x {in_flight} x 20 B | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    if options.write:
        write(table, "performance.md", "scripts/compare-workers")


def markdown(report, options):
    """The table for people."""
    machine = report["machine"]
    threads = len(options.cores) - 1
    client = f", the generator on {threads} where there are connections for all" if threads > 1 else ""
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}; the server on one core{client}; medians of "
        f"{report['rounds']} interleaved runs of {options.seconds} s; least and greatest in brackets",
        "",
        "| device | connections x in flight x payload | a second | Gbit/s each way | RTT p50 us | RTT p99 us | waited for a core |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if "spread" not in row:
            lines.append(f"| {row['device']} | {row['what']} | {row['per_second']:,.0f} | | | | |")
            continue
        low, high = row["spread"]
        lines.append(
            f"| {row['device']} | {row['what']} | {row['per_second']:,.0f} ({low:,.0f} to {high:,.0f}) "
            f"| {row['payload_gbit_per_second']:.2f} | {row['rtt_p50_us']:.2f} | {row['rtt_p99_us']:.2f} "
            f"| {row['run_delay_percent']:.1f} % |"
        )
    return "\n".join(lines)


class Testpmd:
    """A dpdk-testpmd that forwards what it receives on one device back over it."""

    def __init__(self, end, device, core, folder):
        self.output = pathlib.Path(folder) / f"testpmd-{end}.log"
        main = 3 if core != 3 else 0
        command = [
            *("stdbuf", "-oL", "dpdk-testpmd", f"--lcores=0@{main},1@{core}", "--no-telemetry", "--no-pci"),
            *("--single-file-segments", f"--file-prefix=unsocket-floor-{os.getpid()}-{end}", f"--vdev={device}"),
            *(["--no-shconf", "--no-huge", "-m", "256"] if Dpdk().memory() else ["--in-memory"]),
            *("--", "-i", "--forward-mode=io", "--total-num-mbufs=8192", "--no-lsc-interrupt"),
        ]
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True)

    def said(self):
        return self.output.read_text(errors="replace")

    def tell(self, command, answer, seconds=20):
        """Types a command and waits for what it prints: a pattern of one group, or of none. The time is that of the answer."""
        before = len(self.said())
        if command:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(answer, self.said()[before if command else 0 :])
            if found:
                return found, time.monotonic()
            time.sleep(0.01)
        raise Failure(f"testpmd did not answer `{command}`: {self.said()[-1500:]}")

    def received(self):
        """Frames received so far, and when."""
        found, at = self.tell("show port stats all", r"RX-packets: (\d+)")
        return int(found.group(1)), at

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self.process.stdin.close()


def testpmd(kind, options):
    """Frames a second that go there and back between two testpmd processes, one of which sends the first burst."""
    with tempfile.TemporaryDirectory(prefix="unsocket-pair-") as folder:
        path = f"{folder}/pair.sock"
        devices = {
            "memif": [f"net_memif0,role={role},id=0,socket={path},socket-abstract=no" for role in ("server", "client")],
            "vhost": [f"net_vhost0,iface={path}", f"net_virtio_user0,path={path}"],
        }[kind]
        ends = []
        try:
            for end, device in enumerate(devices):
                ends.append(Testpmd(end, device, options.cores[end], folder))
                ends[end].tell("", "testpmd> ")
            ends[0].tell("start", "testpmd> ")
            ends[1].tell("start tx_first 2", "testpmd> ")
            # Not before frames come back for the second time: the first burst is 64.
            until = time.monotonic() + 20
            while ends[0].received()[0] <= 64 and time.monotonic() < until:
                time.sleep(0.1)
            first, began = ends[0].received()
            time.sleep(options.seconds)
            last, ended = ends[0].received()
            if last <= first:
                raise Failure(f"testpmd over {kind} forwarded nothing: {ends[0].said()[-1500:]}")
            return (last - first) / (ended - began)
        finally:
            for end in ends:
                end.end()


def write(table, page, script):
    """Replaces what stands between the script's markers in a page of docs/."""
    page = ROOT / "docs" / page
    begin, end = f"<!-- {script} writes this -->\n", "<!-- to here"
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise Failure(f"{page.relative_to(ROOT)} lacks the markers between which the table goes: {begin.strip()} {end}")
    page.write_text(f"{head}{begin}{table}\n\n{end}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "unsocket")
    parser.add_argument("--full", action="store_true", help="10,000 connections, 16 MiB, a million connections opened")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("echo", help=echo.__doc__)
    commands.add_parser("churn", help=churn.__doc__).add_argument("--connections", type=int, help="how many are opened")
    table = commands.add_parser("measure", help=measure.__doc__)
    table.add_argument("--rounds", type=int, default=5, help="runs of each, in turn [default: 5]")
    table.add_argument("--seconds", type=float, default=2, help="of each run [default: 2]")
    table.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], default=[1, 2],
                       metavar="SERVER,CLIENT[,CLIENT]", help="cores of the two processes [default: 1,2]")
    table.add_argument("--json", action="store_true", help="JSON instead of a table")
    table.add_argument("--write", action="store_true", help="put the table into docs/dpdk.md as well")
    scaling = commands.add_parser("workers", help=workers.__doc__)
    scaling.add_argument("--rounds", type=int, default=7, help="runs of each, in turn [default: 7]")
    scaling.add_argument("--seconds", type=float, default=1.5, help="of each run [default: 1.5]")
    scaling.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], default=[0, 1, 2, 3],
                         metavar="S1,S2,C1,C2", help="of the two workers and the two generators [default: 0,1,2,3]")
    scaling.add_argument("--write", action="store_true", help="put the table into docs/performance.md as well")
    options = parser.parse_args()
    try:
        {"echo": echo, "churn": churn, "measure": measure, "workers": workers}[options.command](options)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
