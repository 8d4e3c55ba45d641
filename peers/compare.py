"""Runs each server with each work in turn, and writes the table and the picture. Called by scripts/compare."""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE = ROOT / "target/compare"
UNSOCKET = ROOT / "target/release/unsocket"
PORT = 9301
HUGEPAGES = 512
# A run during which a thread was kept from its core for longer says more of the machine than of the server.
RUN_DELAY_MAX_PERCENT = 3.0
ATTEMPTS = 3

# name: what stands in the table, connections, in flight, payload bytes, and the network of each side.
WORKS = {
    "round-trip": ("20 B, 1 connection x 1 in flight", 1, 1, 20, "loopback", 1500),
    "crowd": ("20 B, 1,000 connections x 1 in flight", 1000, 1, 20, "loopback", 1500),
    "pipelined": ("20 B, 100 connections x 16 in flight", 100, 16, 20, "loopback", 1500),
    "large-segments": ("16 KiB, 16 x 16, segments of 1,500 B on both sides", 16, 16, 16384, "veth", 1500),
    "large-best": ("16 KiB, 16 x 16, each at its best: MTU 9,000, loopback's 64 KiB", 16, 16, 16384, "loopback", 9000),
}
PEERS = {
    "uWebSockets": [str(PLACE / "uwebsockets"), str(PORT)],
    **{
        name: [str(PLACE / "peers/release/unsocket-peers"), name, f"0.0.0.0:{PORT}"]
        for name in ("fastwebsockets", "sockudo-ws", "tokio-tungstenite", "tokio-websockets")
    },
    "ws (Node.js)": ["node", str(ROOT / "peers/node/echo.cjs"), str(PORT)],
}
# Over memory shared by two processes, checksums left out as loopback leaves its own out, and verified.
ENGINES = {"unsocket, memif, trusted": "trust", "unsocket, memif, verified": "verify"}


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, **options)


class Namespaces:
    """A server's and a client's namespace with a veth between, segmentation offloads off at both ends."""

    def __init__(self):
        self.server, self.client = (f"uns-cmp-{end}-{os.getpid()}" for end in ("s", "c"))

    def __enter__(self):
        run("ip", "netns", "add", self.server)
        run("ip", "netns", "add", self.client)
        run("ip", "-n", self.server, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", self.client)
        for namespace, address in ((self.server, "10.73.9.1/24"), (self.client, "10.73.9.2/24")):
            run("ip", "-n", namespace, "address", "add", address, "dev", "veth0")
            run("ip", "-n", namespace, "link", "set", "veth0", "up")
            run("ip", "netns", "exec", namespace, "ethtool", "-K", "veth0", "tso", "off", "gso", "off", "gro", "off")
        return self

    def __exit__(self, *_):
        for namespace in (self.server, self.client):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


@contextlib.contextmanager
def hugepages():
    """Enough free hugepages for two processes; the machine gets back what it had."""
    count = pathlib.Path("/proc/sys/vm/nr_hugepages")
    before = int(count.read_text())
    count.write_text(str(before + HUGEPAGES))
    try:
        yield
    finally:
        count.write_text(str(before))


@contextlib.contextmanager
def server(command, ready):
    """A running server, once it has printed a line that begins with `ready`; ended with SIGTERM."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith(ready):
            process.kill()
            raise SystemExit(f"error: {' '.join(command)} did not start: {line}{process.stderr.read()}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Failed(Exception):
    """The generator counted errors: a rate of wrong replies is no result."""


def bench(arguments, prefix=()):
    """One run of the generator."""
    command = [*prefix, str(UNSOCKET), "bench", "--json", "-", *arguments]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode == 1 and done.stdout.startswith("{"):
        causes = json.loads(done.stdout)["errors_by_cause"]
        raise Failed("; ".join(f"{name}, first: {cause['first']}" for name, cause in sorted(causes.items())))
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def load(work, options):
    _, connections, in_flight, size, _, _ = WORKS[work]
    counts = ["--connections", connections, "--in-flight", in_flight, "--size", size]
    return [str(word) for word in [*counts, "--duration", options.duration, "--cores", options.client_core]]


def bench_peer(name, work, options):
    """A peer on its core, the generator over kernel sockets, spinning, on another."""
    pinned = ["taskset", "-c", str(options.server_core)]
    if WORKS[work][4] == "loopback":
        with server([*pinned, *PEERS[name]], "ready"):
            return bench([f"ws://127.0.0.1:{PORT}/", "--spin", *load(work, options)])
    with Namespaces() as namespaces:
        inside = ["ip", "netns", "exec", namespaces.server, *pinned]
        with server([*inside, *PEERS[name]], "ready"):
            prefix = ["ip", "netns", "exec", namespaces.client]
            return bench([f"ws://10.73.9.1:{PORT}/", "--spin", *load(work, options)], prefix)


def bench_engine(name, work, options):
    """The engine's server and the engine's client in two processes, joined by net_memif."""
    checksum, mtu = ENGINES[name], str(WORKS[work][5])
    with tempfile.TemporaryDirectory() as folder:

        def port(role):
            device = f"dpdk:net_memif0,role={role},id=0,socket={folder}/memif,socket-abstract=no"
            return ["--port", device, "--checksum", checksum, "--mtu", mtu]

        serve = [str(UNSOCKET), "serve", *port("server"), "--ip", "10.73.9.1/24", "--listen", str(PORT)]
        with server([*serve, "--app", "echo", "--cores", str(options.server_core)], "ready"):
            return bench([f"ws://10.73.9.1:{PORT}/", *port("client"), "--ip", "10.73.9.2/24", *load(work, options)])


def measure(name, work, options):
    """One run, repeated when a thread was kept from its core."""
    for _ in range(ATTEMPTS):
        result = (bench_peer if name in PEERS else bench_engine)(name, work, options)
        delay = max(thread["run_delay_percent"] for thread in result["generators"])
        if delay <= RUN_DELAY_MAX_PERCENT:
            break
    return {
        "rate": result["messages_per_second"],
        "p50": result["rtt_us"]["p50"],
        "p99": result["rtt_us"]["p99"],
        "run_delay_percent": delay,
    }


def cache_line(options):
    """The round trip of a cache line between the two cores, in nanoseconds."""
    cores = ["--cores", str(options.client_core), "--server-core", str(options.server_core)]
    return bench(["--connections", "1", "--duration", "0.3", *cores]).get("core_to_core_ns")


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))} .. {form(max(values))})"


def rate_form(rate):
    return f"{rate / 1e6:.2f} M" if rate >= 1e6 else f"{rate / 1e3:.3g} k"


def time_form(microseconds):
    return f"{microseconds:.3g}"


def versions():
    """What was compared: crates from the lock file, the rest from its packages."""
    lock = (ROOT / "peers/Cargo.lock").read_text()
    found = {name: f"{name} {version}" for name, version in re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock)}
    crates = [found[name] for name in PEERS if name in found]
    socketify = re.search(r"socketify==(\S+)", (ROOT / "peers/requirements.txt").read_text())[1]
    npm = json.loads((ROOT / "peers/node/package.json").read_text())["dependencies"]["ws"]
    node = run("node", "--version").stdout.strip()
    dpdk = run("pkg-config", "--modversion", "libdpdk").stdout.strip()
    return ", ".join([f"uWebSockets as in socketify {socketify}", *crates, f"ws {npm} on Node.js {node}", f"DPDK {dpdk}"])


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1].strip()
    control = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, the kernel's congestion control {control}"


def table(results, failed, lines, options):
    """The Markdown that goes into docs/performance.md."""
    text = [
        f"Taken {datetime.date.today()} with `sudo scripts/compare --rounds {options.rounds} --duration {options.duration:g}`.",
        f"Machine: {machine()}. Versions: {versions()}.",
        f"Server on core {options.server_core}, generator on core {options.client_core}; a cache line between them and back took "
        f"{spread(lines, lambda ns: f'{ns:.0f}')} ns. Median (least .. most) of {options.rounds} runs in turn.",
    ]
    for work, by_name in results.items():
        best = max((name for name in by_name if name in PEERS), key=lambda name: median_rate(by_name[name]), default=None)
        text += ["", f"**{WORKS[work][0]}**", "", "| server | messages/s | against the best peer | RTT p50, us | RTT p99, us |"]
        text += ["|---|---|---|---|---|"]
        for name, runs in sorted(by_name.items(), key=lambda item: -median_rate(item[1])):
            ratio = f"{median_rate(runs) / median_rate(by_name[best]):.2f}" if best else "-"
            columns = [spread([one["rate"] for one in runs], rate_form), ratio]
            columns += [spread([one[key] for one in runs], time_form) for key in ("p50", "p99")]
            text.append(f"| {name} | " + " | ".join(columns) + " |")
        text += [f"| {name} | no result: {why} | | | |" for (name, of), why in failed.items() if of == work]
    return "\n".join(text) + "\n"


def median_rate(runs):
    return statistics.median(one["rate"] for one in runs)


def picture(results, path):
    """Messages a second by server, a panel for each work, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "unsocket"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(results), 1, figsize=(9, 2.4 * len(results)), squeeze=False)
    for panel, (work, by_name) in zip(panels[:, 0], results.items()):
        names = sorted(by_name, key=lambda name: median_rate(by_name[name]))
        rates = [[one["rate"] for one in by_name[name]] for name in names]
        medians = [statistics.median(rate) for rate in rates]
        errors = [[m - min(r) for m, r in zip(medians, rates)], [max(r) - m for m, r in zip(medians, rates)]]
        colours = ["#8fa3b0" if name in PEERS else "#1b7f5c" for name in names]
        bars = panel.barh(names, medians, xerr=errors, color=colours, capsize=2)
        panel.bar_label(bars, [" " + rate_form(median) for median in medians], fontsize=8)
        panel.set_xscale("log")
        panel.set_title(f"{WORKS[work][0]}: messages/s", fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(right=max(medians) * 4)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write(text, results):
    """Replaces what stands between the markers of docs/performance.md."""
    page = ROOT / "docs/performance.md"
    begin, end = "<!-- scripts/compare writes this -->\n", "<!-- to here -->"
    head, _, rest = page.read_text().partition(begin)
    _, marker, tail = rest.partition(end)
    if not marker:
        raise SystemExit(f"error: {page} lacks the lines {begin.strip()!r} and {end!r} between which the table goes")
    image = "![Messages a second by server](performance-compare.svg)\n\n"
    page.write_text(head + begin + image + text + end + tail)
    picture(results, ROOT / "docs/performance-compare.svg")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare", add_help=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=2.0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--client-core", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if options.server_core == options.client_core or not {options.server_core, options.client_core} <= cores:
        parser.error(f"--server-core and --client-core must be two of this machine's cores {sorted(cores)}")
    if unknown := [work for work in options.only if work not in WORKS]:
        works = "\n".join(f"  {name:15} {work[0]}" for name, work in WORKS.items())
        parser.error(f"there is no work {unknown[0]}; the works are:\n{works}")
    return options


def main():
    options = arguments()
    works = options.only or list(WORKS)
    results = {work: {name: [] for name in [*ENGINES, *PEERS]} for work in works}
    lines, failed = [], {}
    with hugepages():
        for turn in range(options.rounds):
            lines.append(cache_line(options))
            for work in works:
                for name, runs in results[work].items():
                    if (name, work) in failed:
                        continue
                    try:
                        runs.append(measure(name, work, options))
                        outcome = f"{rate_form(runs[-1]['rate'])}/s"
                    except Failed as failure:
                        failed[name, work] = outcome = str(failure)
                    print(f"{turn + 1}/{options.rounds} {work}: {name}: {outcome}", file=sys.stderr)
    for name, work in failed:
        del results[work][name]
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE / "results.json").write_text(json.dumps({"core_to_core_ns": lines, "works": results}, indent=1))
    text = table(results, failed, lines, options)
    print(text)
    picture(results, PLACE / "results.svg")
    if options.write:
        write(text, results)


main()
