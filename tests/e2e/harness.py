"""What the end-to-end tests stand on: a namespace of their own, the server process, and programs of cases."""

import json
import os
import pathlib
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time

from backends import BACKENDS, HOST_ADDRESSES, Failure, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "e2e"
CACHE = ROOT / "target" / "e2e"
CLIENTS = ROOT / "target" / "clients" / "release"

SERVER_IP = {"ipv4": "10.73.0.2", "ipv6": "fd73::2"}
SERVER_ADDRESSES = "10.73.0.2/24,fd73::2/64"


def url(family, scheme="ws", path="/ws"):
    """The server's URL over `ipv4` or `ipv6`."""
    address = SERVER_IP[family]
    return f"{scheme}://[{address}]{path}" if family == "ipv6" else f"{scheme}://{address}{path}"


class Namespace:
    """A network namespace with nothing in it but its loopback, gone when the `with` block ends."""

    count = 0

    def __enter__(self):
        Namespace.count += 1
        self.name = f"unsocket-e2e-{os.getpid()}-{Namespace.count}"
        self.neighbour = None
        self.pair = None  # the veth pair whose other end is beside
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        if self.neighbour:
            self.neighbour.__exit__()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, timeout=20)

    def beside(self):
        """A second namespace, made when it is first asked for and gone with this one."""
        if not self.neighbour:
            self.neighbour = Namespace().__enter__()
        return self.neighbour

    def inside(self, *command):
        """The command line that runs `command` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def run(self, *command):
        """Runs a command inside that must succeed, and returns what it printed."""
        return run(*self.inside(*command))

    def ip(self, *arguments):
        """Runs `ip` on the namespace."""
        run("ip", "-n", self.name, *map(str, arguments))

    def join(self, other, names, addresses, mtu=1500):
        """A cable to another namespace: an interface of the first of `names` here and one of the second there, each
        with its list of `addresses`."""
        here, there = names
        self.ip("link", "add", here, "mtu", mtu, "type", "veth", "peer", "name", there, "mtu", mtu, "netns", other.name)
        for namespace, name, own in ((self, here, addresses[0]), (other, there, addresses[1])):
            for address in own:
                # Without duplicate detection the address can be used at once.
                namespace.ip("addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
            namespace.ip("link", "set", name, "up")

    def forward(self):
        """Makes a router of it."""
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.run("sh", "-c", f"echo 1 >/proc/sys/net/{switch}")

    def has_link(self, name):
        """Whether a device of that name exists inside."""
        found = subprocess.run(["ip", "-n", self.name, "link", "show", name], capture_output=True, timeout=20)
        return found.returncode == 0


class Server:
    """One `unsocket serve` process; it is killed when the `with` block ends, if it still runs then."""

    count = 0
    backend = BACKENDS["tap"]  # what carries the frames, for all servers of a run

    def __init__(
        self,
        binary,
        namespace,
        *options,
        app="echo",
        tap=None,
        addresses=SERVER_ADDRESSES,
        host_addresses=HOST_ADDRESSES,
    ):
        Server.count += 1
        self.tap = tap or f"ue{os.getpid() % 10_000_000}n{Server.count}"
        self.namespace = namespace
        self.log_path = CACHE / "logs" / f"serve-{Server.count}.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.host_addresses = host_addresses
        self.workers = self.option(options, "--workers", 1)
        self.backend.prepare(self)
        self.command = [
            str(binary),
            "serve",
            *self.backend.options(self),
            *(("--ip", addresses) if addresses else ()),
            *("--listen", "80"),
            *("--app", app),
            *map(str, options),
        ]
        self.process = None

    @staticmethod
    def option(options, name, default):
        """The number that follows an option, or `default`."""
        return int(options[options.index(name) + 1]) if name in options else default

    def start(self, ready_seconds=20):
        """Starts the process and returns when it has said on `--ready-fd` that it serves."""
        ready, ready_write = os.pipe()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.backend.inside(self, [*self.command, "--ready-fd", str(ready_write)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[ready_write],
            )
        os.close(ready_write)
        said = b""
        deadline = time.monotonic() + ready_seconds
        try:
            while not said.endswith(b"\n"):
                readable, _, _ = select.select([ready], [], [], max(deadline - time.monotonic(), 0))
                if not readable or not (chunk := os.read(ready, 4096)):
                    break
                said += chunk
        finally:
            os.close(ready)
        if not said.endswith(b"\n"):
            code = self.process.poll()
            state = f"exited with {code}" if code is not None else f"was not ready after {ready_seconds} s"
            self.kill()
            raise Failure(f"the server {state}; its log ends: {self.log_tail()}")
        self.backend.connect(self)
        self.wait_for_addresses()
        return self

    def wait_for_addresses(self, seconds=10):
        """Waits for the kernel to finish duplicate detection of the host's IPv6 address on a new device."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            shown = subprocess.run(
                ["ip", "-n", self.namespace.name, "-6", "addr", "show", "dev", self.tap, "tentative"],
                capture_output=True,
                text=True,
                timeout=20,
            )
            if not shown.stdout.strip():
                return
            time.sleep(0.05)
        raise Failure(f"the host's IPv6 address on {self.tap} stays tentative")

    def refused(self, seconds=20):
        """Starts a server that must refuse to start; returns its exit code and all it wrote."""
        try:
            command = self.backend.inside(self, self.command)
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"expected an error and an exit, but it ran on for {seconds} s: {error.stdout}") from None
        self.log_path.write_text(done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    def signal(self, number):
        """Sends a signal to the process."""
        self.process.send_signal(number)

    def wait(self, seconds):
        """Waits for the exit and returns the status, as the shell would see it."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server still runs after {seconds} s; its log ends: {self.log_tail()}") from None

    def kill(self):
        """Kills the process if it still runs."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def stop(self):
        """Stops the server the way an operator does, and insists on a clean exit."""
        self.signal(signal.SIGTERM)
        code = self.wait(30)
        if code != 0:
            raise Failure(f"exit status {code} after SIGTERM; its log ends: {self.log_tail()}")

    def log(self):
        """All that the server wrote."""
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines=12):
        """The last lines that the server wrote, on one line."""
        return " | ".join(re.sub(r"\x1b\[[0-9;]*m", "", self.log()).splitlines()[-lines:]) or "(empty)"

    def cores(self):
        """The cores that each of the process's threads may run on, as the kernel lists them, by the thread's name."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            status = (task / "status").read_text()
            found[(task / "comm").read_text().strip()] = re.search(r"^Cpus_allowed_list:\s+(\S+)", status, re.M).group(1)
        return found

    def threads(self):
        """The process's threads: name and CPU seconds used so far, by thread id."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            nanoseconds = int((task / "schedstat").read_text().split()[0])
            found[int(task.name)] = (name, nanoseconds / 1e9)
        return found

    def memory_bytes(self):
        """Anonymous memory of the process with its page tables: what its connections really cost."""
        rollup = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        anonymous = int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.M).group(1))
        tables = int(re.search(r"^VmPTE:\s+(\d+) kB", status, re.M).group(1))
        return (anonymous + tables) * 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Device:
    """A device of the run's backend, for a program of ours that is not `unsocket serve`."""

    count = 0
    workers = 1

    def __init__(self, namespace, addresses=SERVER_ADDRESSES, host_addresses=HOST_ADDRESSES):
        Device.count += 1
        self.tap = f"ud{os.getpid() % 10_000_000}n{Device.count}"
        self.namespace = namespace
        self.addresses = addresses
        self.host_addresses = host_addresses
        Server.backend.prepare(self)

    def command(self, program, *arguments):
        """The command line of `program`, which takes `KEY=VALUE` of the configuration before its other arguments."""
        own = ",".join(f'"{address}"' for address in self.addresses.split(","))
        settings = [*Server.backend.settings(self), f"port.ip=[{own}]"]
        return Server.backend.inside(self, [str(word) for word in (program, *settings, *arguments)])

    def wait(self, seconds=20):
        """Gives the kernel's end its addresses as soon as the program has made the device."""
        deadline = time.monotonic() + seconds
        while not self.namespace.has_link(self.tap):
            if time.monotonic() > deadline:
                raise Failure(f"the device {self.tap} is not there after {seconds} s")
            time.sleep(0.05)
        Server.backend.connect(self)


class Program:
    """A program inside the namespace that speaks lines of JSON on stdout and reads commands on stdin."""

    def __init__(self, namespace, command, name):
        self.name = name
        self.log_path = CACHE / "logs" / f"{re.sub('[^a-z0-9]+', '-', name)}.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ, NODE_PATH=str(CACHE / "node" / "node_modules"))
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                namespace.inside(*command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def next(self, seconds):
        """The next line's object, or `None` at the end of the output."""
        try:
            line = self.lines.get(timeout=max(seconds, 0))
        except queue.Empty:
            raise Failure(f"{self.name} said nothing for {seconds:.0f} s (log: {self.log_path})") from None
        try:
            return None if line is None else json.loads(line)
        except json.JSONDecodeError:
            raise Failure(f"{self.name} printed what is no JSON: {line!r}") from None

    def tell(self, command):
        """Sends a command line."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)

    def ended(self):
        """Waits for the exit; anything but success is a failure."""
        code = self.process.wait(20)
        if code != 0:
            last = self.log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise Failure(f"{self.name} exited with {code}: {''.join(last)} (log: {self.log_path})")


class Report:
    """Prints each case as it ends and remembers what failed."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.meaningless = 0
        self.started = time.monotonic()

    def result(self, suite, case, ok, seconds, note=""):
        """Records one case."""
        mark = "ok    " if ok else "FAILED"
        print(f"  {mark} {suite:<26} {case:<34} {seconds:7.2f} s  {note}".rstrip(), flush=True)
        if ok:
            self.passed += 1
        else:
            self.failed.append((suite, case, note))

    def not_applicable(self, suite, case, reason):
        """Names a case that means nothing on this run's backend."""
        print(f"  n/a    {suite:<26} {case:<34}            {reason}", flush=True)
        self.meaningless += 1

    def run(self, suite, case, function, *arguments):
        """Runs a case in this process: it passes by returning (a note, perhaps) and fails by raising."""
        started = time.monotonic()
        try:
            note = function(*arguments)
            self.result(suite, case, True, time.monotonic() - started, note or "")
        except Exception as error:  # each failure is a result, and the next case runs
            text = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            self.result(suite, case, False, time.monotonic() - started, text)

    def run_program(self, suite, namespace, command, seconds, plan=None):
        """Runs a program of cases: every case of its plan (which must be `plan`, when given) must be reported."""
        started = time.monotonic()
        outstanding = ["start"]
        try:
            with Program(namespace, command, suite) as program:
                first = program.next(seconds) or {}
                outstanding = list(first.get("plan", []))
                if not outstanding:
                    program.ended()
                    raise Failure("the program printed no plan")
                if plan is not None and sorted(outstanding) != sorted(plan):
                    odd = sorted(set(outstanding) ^ set(plan))
                    raise Failure(f"its cases are not those that every client must pass: {', '.join(odd)}")
                while outstanding:
                    line = program.next(seconds - (time.monotonic() - started))
                    if line is None:
                        program.ended()
                        raise Failure("the program ended without reporting the case")
                    outstanding.remove(line["case"])
                    self.result(suite, line["case"], line["ok"], line["seconds"], line.get("note", ""))
                program.ended()
        except Failure as error:
            for case in outstanding or ["end"]:
                self.result(suite, case, False, time.monotonic() - started, str(error))

    def summary(self):
        """Prints the verdict and returns the exit status."""
        seconds = time.monotonic() - self.started
        meaningless = f", {self.meaningless} not applicable" if self.meaningless else ""
        print(f"\n{self.passed} cases passed, {len(self.failed)} failed{meaningless}, in {seconds:.0f} s")
        for suite, case, note in self.failed:
            print(f"  FAILED {suite}: {case}: {note}")
        return 1 if self.failed or not self.passed else 0


def die(message):
    """Ends the run with an error that says how to mend it."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def both_workers_serve(server, namespace, target):
    """128 connections on ports of the kernel's choice echo; each worker's thread must have worked for them."""
    count, rounds = 128, 200
    with Program(namespace, [CLIENTS / "many", target, count, 64], f"workers {target}") as program:
        before = server.threads()
        for command in (None, f"echo {rounds}", "close"):
            if command:
                program.tell(command)
            line = program.next(60)
            if not line or line["errors"] or line["connections"] != count:
                raise Failure(f"expected {count} connections without an error, the client says {line}")
        after = server.threads()
    busy = {
        name: seconds - before[thread][1]
        for thread, (name, seconds) in after.items()
        if thread in before and re.fullmatch(r"unsocket-\d+", name)
    }
    if len(busy) != 2:
        raise Failure(f"expected two threads named unsocket-N, found {sorted(after.values())}")
    if min(busy.values()) < 0.1 * max(busy.values()):
        raise Failure(f"one worker did nearly all the work: {busy}")
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in sorted(busy.items()))
