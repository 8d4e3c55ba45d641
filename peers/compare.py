"""Runs each server with each work in turn, and writes the table and the picture. Called by scripts/compare."""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import resource
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

TRUSTED, VERIFIED = "unsocket, memif, trusted", "unsocket, memif, verified"
TAP, AF_XDP = "unsocket, TAP", "unsocket, AF_XDP"
# The same with interrupt moderation: at most one burst in so many microseconds.
COALESCE_US = 500
TAP_RESTING, AF_XDP_RESTING = (f"{name}, coalesce {COALESCE_US} us" for name in (TAP, AF_XDP))
# Over memory shared by two processes, checksums left out as loopback leaves its own out, and verified; over devices that
# kernel sockets reach, checksums verified.
ENGINES = {TRUSTED: "trust", **dict.fromkeys((VERIFIED, TAP, AF_XDP, TAP_RESTING, AF_XDP_RESTING), "verify")}
PEERS = {
    "uWebSockets": [str(PLACE / "uwebsockets"), str(PORT)],
    **{
        name: [str(PLACE / "peers/release/unsocket-peers"), name, f"0.0.0.0:{PORT}"]
        for name in ("fastwebsockets", "sockudo-ws", "tokio-tungstenite", "tokio-websockets")
    },
    "ws (Node.js)": ["node", str(ROOT / "peers/node/echo.cjs"), str(PORT)],
}


@dataclasses.dataclass
class Work:
    """What is done with each server, and what of it is compared."""

    title: str
    load: str
    figure: str = "messages/s"
    network: str = "loopback"  # of the peers
    mtu: int = 1500  # of the engine, on both sides
    engines: tuple = (TRUSTED, VERIFIED)
    peers: tuple = tuple(PEERS)
    peers_path: str = "/"
    app: str = "echo"
    # Of kernel sockets, and of the engine's own client: what they need beside the load.
    kernel_load: str = ""
    engine_load: str = ""
    # Threads of the generator, a core each, as far as there are cores: as many as keep the engine's server busy, as what is
    # verified costs more than what is served. The peers get as many.
    generators: int = 2

    @property
    def less_is_better(self):
        return self.figure in (CPU, MEMORY)


CPU, MEMORY = "ns of server CPU a message", "bytes a connection"
# Connections need addresses: one has some ten thousand ports towards a server.
SOURCES = "--source 127.0.1.0/26"
WORKS = {
    "round-trip": Work("20 B, 1 connection x 1 in flight", "--connections 1", generators=1),
    "crowd": Work("20 B, 1,000 connections x 1 in flight", "--connections 1000"),
    "pipelined": Work("20 B, 100 connections x 16 in flight", "--connections 100 --in-flight 16", generators=3),
    "large-segments": Work(
        "16 KiB, 16 x 16, segments of 1,500 B on both sides",
        "--connections 16 --in-flight 16 --size 16KiB",
        network="veth",
    ),
    "large-best": Work(
        "16 KiB, 16 x 16, each at its best: MTU 9,000, loopback's 64 KiB",
        "--connections 16 --in-flight 16 --size 16KiB",
        mtu=9000,
    ),
    "cpu": Work(
        "20 B, 1,000 connections, 30,000 messages/s from kernel sockets: CPU time of the server's process, which sleeps when "
        "it has nothing to do",
        "--connections 1000 --rate 30000",
        figure=CPU,
        network="veth",
        engines=(TAP, AF_XDP, TAP_RESTING, AF_XDP_RESTING),
        generators=1,
    ),
    "broadcast": Work(
        "publish 64 B to 1,000 subscribers, one message at a time",
        "--scenario broadcast --connections 1000 --size 64",
        figure="deliveries/s",
        peers=("uWebSockets",),
        peers_path="/broadcast",
        app="pubsub",
    ),
    "broadcast-pipelined": Work(
        "publish 64 B to 1,000 subscribers, 16 messages in flight",
        "--scenario broadcast --connections 1000 --size 64 --in-flight 16",
        generators=3,
        figure="deliveries/s",
        peers=("uWebSockets",),
        peers_path="/broadcast",
        app="pubsub",
    ),
    "connect": Work(
        "new connections: TCP, upgrade, close by the server, 200 at a time",
        "--scenario connect --connections 200 --echoes 0",
        figure="connections/s",
        kernel_load=SOURCES,
        generators=3,
    ),
    "idle": Work(
        "18,000 idle connections: the server's process, and half of what the kernel has for both ends",
        "--scenario idle --connections 18000 --warmup 0",
        figure=MEMORY,
        engines=(TRUSTED,),
        kernel_load=f"{SOURCES} --duration 1",
        # The engine gives the pages of quiet connections back after some seconds.
        engine_load="--duration 9",
        generators=1,
    ),
}
# Addresses of the engine's client, which connections leave from in turn.
CLIENT_ADDRESSES = ",".join(f"10.73.9.{host}/24" for host in range(2, 9))


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, **options)


class Namespaces:
    """A server's and a client's namespace with a veth between, segmentation offloads off at both ends. With `cores` the
    server's and the client's core receive for their ends, as with two machines and a cable."""

    def __init__(self, cores=None):
        self.server, self.client = (f"uns-cmp-{end}-{os.getpid()}" for end in ("s", "c"))
        self.cores = cores

    def __enter__(self):
        run("ip", "netns", "add", self.server)
        run("ip", "netns", "add", self.client)
        run("ip", "-n", self.server, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", self.client)
        for namespace, address in ((self.server, "10.73.9.1/24"), (self.client, "10.73.9.2/24")):
            run("ip", "-n", namespace, "address", "add", address, "dev", "veth0")
            run("ip", "-n", namespace, "link", "set", "veth0", "up")
            run("ip", "netns", "exec", namespace, "ethtool", "-K", "veth0", "tso", "off", "gso", "off", "gro", "off")
        for namespace, core in zip((self.server, self.client), self.cores or ()):
            steer(namespace, "veth0", core)
        return self

    def __exit__(self, *_):
        for namespace in (self.server, self.client):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


def steer(namespace, device, core):
    """Has a core receive for one end of a pair: without it, a frame goes through the receiver's TCP in the sender's time."""
    mask = f"{1 << core:x}"
    script = f"for queue in /sys/class/net/{device}/queues/rx-*; do echo {mask} > $queue/rps_cpus; done"
    run("ip", "netns", "exec", namespace, "sh", "-c", script)


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
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith(ready):
            process.kill()
            raise SystemExit(f"error: {' '.join(command)} did not start: {line}{process.stderr.read()}")
        yield process.pid
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


def client_cores(work, options):
    """The cores of the generator's threads for a work."""
    return options.client_cores[: work.generators]


def load(work, options, extra):
    """The generator's words for a work."""
    words = f"{work.load} {extra}".split()
    if "--duration" not in words:
        words += ["--duration", str(options.duration)]
    cores = client_cores(work, options)
    return [*words, "--workers", str(len(cores)), "--cores", ",".join(map(str, cores))]


def cpu_seconds(pid):
    """The CPU time of all threads of a process so far."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def loaded(pid, work, options, url, prefix=()):
    """A run of the generator over kernel sockets against the process `pid`."""
    words = load(work, options, work.kernel_load)
    if work.figure == MEMORY:
        words += ["--server-pid", str(pid)]
    elif work.figure == CPU:
        # From before the first connection: 1,000 of them are nothing beside the messages.
        words += ["--warmup", "0"]
    before = cpu_seconds(pid)
    result = bench([url, *([] if work.figure == CPU else ["--spin"]), *words], prefix)
    result["server_cpu_seconds"] = cpu_seconds(pid) - before
    return result


def bench_peer(name, work, options):
    """A peer on its core, the generator over kernel sockets on another."""
    command = ["taskset", "-c", str(options.server_core), *PEERS[name]]
    if work.network == "loopback":
        with server(command, "ready") as pid:
            return loaded(pid, work, options, f"ws://127.0.0.1:{PORT}{work.peers_path}")
    # What a server's CPU is charged with must be its own; where rates are compared the peers are better off without.
    cores = (options.server_core, options.client_cores[0]) if work.figure == CPU else None
    with Namespaces(cores) as namespaces:
        with server(["ip", "netns", "exec", namespaces.server, *command], "ready") as pid:
            prefix = ["ip", "netns", "exec", namespaces.client]
            return loaded(pid, work, options, f"ws://10.73.9.1:{PORT}{work.peers_path}", prefix)


def serve(name, work, options, port):
    """The command line of the engine's server on a device."""
    command = [str(UNSOCKET), "serve", "--port", port, "--checksum", ENGINES[name], "--mtu", str(work.mtu)]
    command += ["--ip", "10.73.9.1/24", "--listen", str(PORT), "--app", work.app]
    return [*command, "--cores", str(options.server_core)]


def bench_engine(name, work, options):
    """The engine's server, loaded by the engine's client over net_memif, or over a device by kernel sockets."""
    if work.figure == CPU:
        return bench_device(name, work, options)
    with tempfile.TemporaryDirectory() as folder:

        def port(role):
            return f"dpdk:net_memif0,role={role},id=0,socket={folder}/memif,socket-abstract=no"

        queues = ["--queues", str(len(client_cores(work, options)))]
        with server([*serve(name, work, options, port("server")), *queues], "ready") as pid:
            words = [*load(work, options, work.engine_load), *queues]
            if work.figure == MEMORY:
                words += ["--server-pid", str(pid)]
            device = ["--port", port("client"), "--checksum", ENGINES[name], "--mtu", str(work.mtu)]
            return bench([f"ws://10.73.9.1:{PORT}/", *device, "--ip", CLIENT_ADDRESSES, *words])


def bench_device(name, work, options):
    """The engine's server, asleep whenever it has nothing to do, loaded by kernel sockets."""
    rest_us = COALESCE_US if name in (TAP_RESTING, AF_XDP_RESTING) else 0
    asleep = ["--poll", "adaptive", "--set", "workers.spin_us=0", "--set", f"workers.coalesce_us={rest_us}"]
    url = f"ws://10.73.9.1:{PORT}/"
    with Namespaces((options.server_core, options.client_cores[0])) as namespaces:
        prefix = ["ip", "netns", "exec", namespaces.client]
        if name in (TAP, TAP_RESTING):
            # The pair is not needed, its addresses are in the way.
            run("ip", "-n", namespaces.client, "link", "delete", "veth0")
            device = f"uns-cmp{os.getpid() % 100_000}"
            command = serve(name, work, options, f"tap:{device}")
            command += ["--netns", namespaces.client, "--host-ip", "10.73.9.2/24"]
        else:
            device = "veth0"
            run("ip", "-n", namespaces.server, "address", "flush", "dev", "veth0")
            run("ip", "netns", "exec", namespaces.client, "ethtool", "-K", "veth0", "tx", "off")
            command = serve(name, work, options, "dpdk:net_af_xdp0,iface=veth0")
            command = ["ip", "netns", "exec", namespaces.server, *command]
        with server([*command, *asleep], "ready") as pid:
            steer(namespaces.client, device, options.client_cores[0])
            return loaded(pid, work, options, url, prefix)


def figure(work, result):
    """The number that is compared."""
    if work.figure == CPU:
        return 1e9 * result["server_cpu_seconds"] / result["messages"]
    if work.figure == MEMORY:
        memory = result["memory"]
        return memory["server_per_connection"] + max(memory["kernel_per_connection"], 0) / 2
    return result["messages_per_second"]


def measure(name, work, options):
    """One run, repeated when a thread was kept from its core."""
    for _ in range(ATTEMPTS):
        result = (bench_peer if name in PEERS else bench_engine)(name, work, options)
        delay = max(thread["run_delay_percent"] for thread in result["generators"])
        if delay <= RUN_DELAY_MAX_PERCENT:
            break
    return {
        "figure": figure(work, result),
        "p50": result["rtt_us"]["p50"],
        "p99": result["rtt_us"]["p99"],
        "run_delay_percent": delay,
        "generator_cpu_percent": max(thread["cpu_percent"] for thread in result["generators"]),
    }


def cache_line(options):
    """The round trip of a cache line between the two cores, in nanoseconds."""
    cores = ["--cores", str(options.client_cores[0]), "--server-core", str(options.server_core)]
    return bench(["--connections", "1", "--duration", "0.3", *cores]).get("core_to_core_ns")


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))} .. {form(max(values))})"


def rate_form(rate):
    if rate < 1e4:
        return f"{rate:,.0f}"
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
        f"Taken {datetime.date.today()} with `sudo scripts/compare --rounds {options.rounds} --duration {options.duration:g} "
        f"--server-core {options.server_core} --client-cores {','.join(map(str, options.client_cores))}`.",
        f"Machine: {machine()}. Versions: {versions()}.",
        f"Server on core {options.server_core}, the generator's first thread on core {options.client_cores[0]}; a cache line between them and back took "
        f"{spread(lines, lambda ns: f'{ns:.0f}')} ns. Median (least .. most) of {options.rounds} runs in turn.",
    ]
    for name, by_name in results.items():
        work = WORKS[name]
        threads = len(client_cores(work, options))
        text += ["", f"**{work.title}**" + (f", {threads} generator threads" if threads > 1 else ""), ""]
        text += [f"| server | {work.figure} | against the best peer | p50, us | p99, us |", "|---|---|---|---|---|"]
        best = best_of([server for server in by_name if server in PEERS], work, by_name)
        for server in ranked(by_name, work):
            runs = by_name[server]
            ratio = f"{median(runs) / median(by_name[best]):.2f}" if best else "-"
            columns = [spread([one["figure"] for one in runs], rate_form), ratio]
            columns += [spread([one[key] for one in runs], time_form) for key in ("p50", "p99")]
            text.append(f"| {server} | " + " | ".join(columns) + " |")
        text += [f"| {server} | no result: {why} | | | |" for (server, of), why in failed.items() if of == name]
    return "\n".join(text) + "\n"


def median(runs):
    return statistics.median(one["figure"] for one in runs)


def ranked(by_name, work):
    """The servers, the best one first."""
    return sorted(by_name, key=lambda server: median(by_name[server]), reverse=not work.less_is_better)


def best_of(servers, work, by_name):
    return next((server for server in ranked(by_name, work) if server in servers), None)


def picture(results, path):
    """The figure of each server, a panel for each work, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "unsocket", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(results), 1, figsize=(9, 2.4 * len(results)), squeeze=False)
    for panel, (name, by_name) in zip(panels[:, 0], results.items()):
        work = WORKS[name]
        servers = ranked(by_name, work)[::-1]
        values = [[max(one["figure"], 1) for one in by_name[server]] for server in servers]
        medians = [statistics.median(value) for value in values]
        errors = [[m - min(v) for m, v in zip(medians, values)], [max(v) - m for m, v in zip(medians, values)]]
        colours = ["#8fa3b0" if server in PEERS else "#1b7f5c" for server in servers]
        bars = panel.barh(servers, medians, xerr=errors, color=colours, capsize=2)
        panel.bar_label(bars, [" " + rate_form(value) for value in medians], fontsize=8)
        panel.set_xscale("log")
        better = ", less is better" if work.less_is_better else ""
        panel.set_title(f"{work.title}\n{work.figure}{better}", fontsize=9, loc="left")
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
    image = "![The figures by server](performance-compare.svg)\n\n"
    page.write_text(head + begin + image + text + end + tail)
    picture(results, ROOT / "docs/performance-compare.svg")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare", add_help=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=1.5)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--client-cores", type=lambda text: [int(core) for core in text.split(",")], default=[2, 3, 0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    wanted = [options.server_core, *options.client_cores]
    if len(set(wanted)) < len(wanted) or not set(wanted) <= cores:
        parser.error(f"--server-core and --client-cores must be different ones of this machine's cores {sorted(cores)}")
    if unknown := [work for work in options.only if work not in WORKS]:
        works = "\n".join(f"  {name:20} {work.title}" for name, work in WORKS.items())
        parser.error(f"there is no work {unknown[0]}; the works are:\n{works}")
    return options


def main():
    options = arguments()
    works = options.only or list(WORKS)
    results = {work: {name: [] for name in [*WORKS[work].engines, *WORKS[work].peers]} for work in works}
    lines, failed = [], {}
    with hugepages():
        for turn in range(options.rounds):
            lines.append(cache_line(options))
            for work in works:
                for name, runs in results[work].items():
                    if (name, work) in failed:
                        continue
                    try:
                        runs.append(measure(name, WORKS[work], options))
                        outcome = f"{rate_form(runs[-1]['figure'])} {WORKS[work].figure}"
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
