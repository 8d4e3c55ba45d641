#!/usr/bin/env python3
"""Autobahn|Testsuite against both roles of unsocket, over a device; the exit status is the verdict.

The kernel's end of every device lives in a namespace that is made here and deleted; no traffic leaves it. Run it with
`scripts/conformance`, which installs the suite first.
"""

import argparse
import collections
import datetime
import fnmatch
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from backends import BACKENDS  # noqa: E402
from harness import HOST_ADDRESSES, ROOT, SERVER_IP, Device, Failure, Namespace, Server, die  # noqa: E402
from pages import between, crate_versions  # noqa: E402

FOLDER = ROOT / "target" / "conformance"
REPORTS = FOLDER / "reports"
SUITE = FOLDER / "wstest" / "bin"
DOCUMENT = ROOT / "docs" / "conformance.md"
RELEASE = ROOT / "target" / "release"
AGENT = "unsocket"
HOST_IP = HOST_ADDRESSES.split("/", maxsplit=1)[0]
FIRST_PORT = 9001

CASES = 517
# Groups 12 and 13 need compression.
CASES_PLAIN = 301
SECONDS_MAX = 3_000

GROUPS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits and performance",
    "10": "automatic fragmentation",
    "12": "compression, different payloads",
    "13": "compression, different parameters",
}
# Verdicts that pass; those that pass if the document names them; and all others, known or not, fail.
PASSED = {"OK"}
EXPLAINED = {"NON-STRICT", "INFORMATIONAL"}


def suite_cases():
    """All cases of the suite, in its order."""
    program = "from autobahntestsuite.case import Cases\nfor case in Cases: print case.__name__[4:].replace('_', '.')"
    listed = subprocess.run([SUITE / "python", "-c", program], capture_output=True, text=True, timeout=60)
    if listed.returncode != 0:
        die(f"the suite does not start: {listed.stderr.strip()} (install it with scripts/conformance)")
    cases = listed.stdout.split()
    if len(cases) != CASES or not all(case.split(".")[0] in GROUPS for case in cases):
        die(f"the suite has {len(cases)} cases where {CASES} in groups {', '.join(GROUPS)} were expected")
    return cases


def chosen_cases(options):
    """The cases to run."""
    cases = suite_cases()
    if options.plain:
        cases = [case for case in cases if case.split(".")[0] not in ("12", "13")]
        if len(cases) != CASES_PLAIN:
            die(f"the suite has {len(cases)} cases without compression where {CASES_PLAIN} were expected")
    if options.cases:
        patterns = options.cases.split(",")
        cases = [case for case in cases if any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)]
        if not cases:
            die(f"no case matches {options.cases}")
    return cases


def explained():
    """The cases that docs/conformance.md names with a verdict: a set of (role, case, verdict)."""
    rows = re.findall(r"^\| `([\d.]+)` \| (server|client) \| ([A-Z-]+) \| \S.*\|$", DOCUMENT.read_text(), re.M)
    return {(role, case, verdict) for case, role, verdict in rows}


def settings(options):
    """What both roles are configured with."""
    if options.plain:
        return []
    takeover = "true" if options.takeover == "yes" else "false"
    return [
        "compression.enabled=true",
        "compression.threshold_bytes=1",
        f"compression.send_takeover={takeover}",
        f"compression.receive_takeover={takeover}",
    ]


def start(command, log):
    """Starts a program whose output goes to the file `log`."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def wait_all(processes, what):
    """Waits for all of them to end by themselves, and kills what is left after `SECONDS_MAX` or at an error."""
    deadline = time.monotonic() + SECONDS_MAX
    try:
        for process in processes:
            if process.wait(max(deadline - time.monotonic(), 0)) != 0:
                raise Failure(f"{what} exited with {process.returncode}; its log is in {REPORTS}")
    except subprocess.TimeoutExpired:
        raise Failure(f"{what} was still running after {SECONDS_MAX} s; its log is in {REPORTS}") from None
    finally:
        kill(processes)


def kill(processes):
    """Ends what still runs."""
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def shards(cases, jobs):
    """The cases dealt out to `jobs` hands: neighbours take equally long."""
    return [hand for hand in (cases[first::jobs] for first in range(jobs)) if hand]


def write_spec(folder, **spec):
    """The suite's own configuration file."""
    folder.mkdir(parents=True)
    path = folder / "spec.json"
    path.write_text(json.dumps(dict(spec, outdir=str(folder), **{"exclude-cases": [], "exclude-agent-cases": {}})))
    return path


def test_server(options, cases, folder):
    """The suite's client against `unsocket serve`."""
    set_options = [word for setting in settings(options) for word in ("--set", setting)]
    with Namespace() as namespace, Server(RELEASE / "unsocket", namespace, *set_options) as server:
        server.start()
        clients = []
        for index, hand in enumerate(shards(cases, options.jobs)):
            url = f"ws://{SERVER_IP['ipv4']}/"
            spec = write_spec(folder / str(index), servers=[{"agent": AGENT, "url": url}], cases=hand)
            command = namespace.inside(SUITE / "wstest", "-m", "fuzzingclient", "-s", spec)
            clients.append(start(command, folder / f"wstest-{index}.log"))
        wait_all(clients, "the fuzzing client")
        server.stop()


def test_client(options, cases, folder):
    """The suite's server against the library's client."""
    with Namespace() as namespace:
        device = Device(namespace)
        # The servers bind before the client makes the device: to any address, in a namespace without others.
        servers, addresses = [], []
        try:
            for index, hand in enumerate(shards(cases, options.jobs)):
                port = FIRST_PORT + index
                spec = write_spec(folder / str(index), url=f"ws://{HOST_IP}:{port}", cases=hand)
                command = namespace.inside(SUITE / "wstest", "-m", "fuzzingserver", "--webport", "0", "-s", spec)
                servers.append(start(command, folder / f"wstest-{index}.log"))
                addresses.append(f"{HOST_IP}:{port}")
            wait_until_listening(namespace, len(servers))
            program = RELEASE / "examples" / "autobahn_client"
            client = start(device.command(program, *settings(options), *addresses), folder / "client.log")
            try:
                device.wait()
            except Failure:
                kill([client])
                raise
            wait_all([client], "the client")
        finally:
            kill(servers)


def wait_until_listening(namespace, count, seconds=60):
    """Waits for as many listeners inside the namespace."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        table = subprocess.run(namespace.inside("cat", "/proc/net/tcp"), capture_output=True, text=True, timeout=20)
        ports = {int(port, 16) for port in re.findall(r": [0-9A-F]+:([0-9A-F]{4}) \S+ 0A ", table.stdout)}
        if len(ports & set(range(FIRST_PORT, FIRST_PORT + count))) == count:
            return
        time.sleep(0.1)
    raise Failure(f"the fuzzing server does not listen after {seconds} s; its log is in {REPORTS}")


def collect(folder):
    """The verdicts of all shards, by case."""
    found = {}
    for index in sorted(folder.glob("*/index.json")):
        for agent, cases in json.loads(index.read_text()).items():
            if agent != AGENT:
                raise Failure(f"{index} is about {agent}, not {AGENT}")
            if twice := found.keys() & cases.keys():
                raise Failure(f"{', '.join(sorted(twice))} ran twice")
            found.update(cases)
    return found


def judge(role, expected, found):
    """Prints the table of one role; returns what is wrong with it, and the verdicts counted by group."""
    named = explained()
    missing = [case for case in expected if case not in found]
    wrong = [f"{len(missing)} cases did not run: {' '.join(missing)}"] if missing else []
    table = collections.defaultdict(collections.Counter)
    for case in expected:
        result = found.get(case, {})
        verdicts = [result.get("behavior", "did not run"), result.get("behaviorClose", "did not run")]
        table[case.split(".")[0]][verdicts[0]] += 1
        for what, verdict in zip(("", " at the close"), verdicts):
            if verdict in PASSED or case not in found:
                continue
            if (role, case, verdict) in named:
                continue
            hint = "; docs/conformance.md does not name it" if verdict in EXPLAINED else ""
            wrong.append(f"{case} is {verdict}{what} (code {result.get('remoteCloseCode')}){hint}")
        # Only what may pass can be explained.
        for verdict in set(verdicts) - PASSED - EXPLAINED:
            if (role, case, verdict) in named:
                wrong.append(f"{case} is {verdict}, which docs/conformance.md cannot excuse")
    print(f"\n{role}: {len(found)} of {len(expected)} cases ran\n")
    print("| group | cases | OK | NON-STRICT | INFORMATIONAL | others |\n|---|---|---|---|---|---|")
    rows = [(f"{group} {GROUPS[group]}", table[group]) for group in GROUPS if group in table]
    for name, counts in [*rows, ("all", sum(table.values(), collections.Counter()))]:
        ok, lax, told = (counts[verdict] for verdict in ("OK", "NON-STRICT", "INFORMATIONAL"))
        print(f"| {name} | {counts.total()} | {ok} | {lax} | {told} | {counts.total() - ok - lax - told} |")
    return [f"{role}: {text}" for text in wrong], table


def command_line(options):
    """The command that runs the same again."""
    words = ["sudo", "./scripts/conformance"]
    words += ["--takeover", "no"] if options.takeover == "no" else []
    words += ["--backend", options.backend] if options.backend != "tap" else []
    return " ".join(words)


def record(options, tables):
    """Puts the result of a whole run into the document: its line, and that of the run with the defaults by group."""
    sums = {role: sum(table.values(), collections.Counter()) for role, table in tables.items()}
    told = "; ".join(
        f"{role}: {counts.total()} cases, " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("OK", "INFORMATIONAL"))
        for role, counts in sums.items()
    )
    command = command_line(options)
    line = f"| `{command}` | {datetime.date.today()} | {told} |"

    def lines(text):
        rest = [row for row in text.splitlines() if row.startswith("| `") and not row.startswith(f"| `{command}` |")]
        rows = sorted([*rest, line], key=lambda row: len(row.split("`")[1]))
        return "\n".join(["| run | date | result |", "|---|---|---|", *rows]) + "\n"

    between(DOCUMENT, "scripts/conformance writes the runs", lines)
    if command != "sudo ./scripts/conformance":
        return
    versions = crate_versions(ROOT / "Cargo.lock", "unsocket", "zlib-rs")
    text = [
        f"{datetime.date.today()}, `{command} --write`: Autobahn|Testsuite 25.10.1 (Autobahn 0.10.9, CPython 2.7.18), "
        f"{versions}, on Linux with {options.jobs} shards; compression from one byte on, with context takeover in both "
        "directions and windows of 12 bits. Both roles, every case:",
        "",
        "| group | cases | server OK | server INFORMATIONAL | client OK | client INFORMATIONAL | others |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {f"{group} {name}": {role: tables[role][group] for role in tables} for group, name in GROUPS.items()}
    for name, by_role in [*groups.items(), ("all", sums)]:
        counts = [by_role[role][verdict] for role in ("server", "client") for verdict in ("OK", "INFORMATIONAL")]
        cases = by_role["server"].total()
        others = sum(by_role[role].total() for role in by_role) - sum(counts)
        text.append(f"| {name} | {cases} | " + " | ".join(map(str, [*counts, others])) + " |")
    between(DOCUMENT, "scripts/conformance writes the table", lambda _: "\n".join(text) + "\n")


def main():
    """Parses the options, runs both roles, and says what is wrong."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--role", choices=("server", "client"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--cases")
    parser.add_argument("--takeover", choices=("yes", "no"), default="yes")
    parser.add_argument("--backend", choices=BACKENDS, default="tap")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.jobs < 1:
        die("--jobs must be 1 or more")
    if options.write and (options.plain or options.role or options.cases):
        die("--write is for all cases in both roles: leave out --plain, --role and --cases")
    Server.backend = BACKENDS[options.backend]
    # A signal to stop ends the processes and the namespace, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = chosen_cases(options)
    # The suite exits with 0 whatever happened: a report of an earlier run must not be mistaken for this one's.
    shutil.rmtree(REPORTS, ignore_errors=True)
    wrong, tables = [], {}
    for role, test in (("server", test_server), ("client", test_client)):
        if options.role not in (None, role):
            continue
        started = time.monotonic()
        folder = REPORTS / role
        folder.mkdir(parents=True)
        try:
            test(options, cases, folder)
        except Failure as error:
            wrong.append(f"{role}: {error}")
        try:
            found, tables[role] = judge(role, cases, collect(folder))
            wrong += found
        except Failure as error:
            wrong.append(f"{role}: {error}")
        print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    for text in wrong:
        print(f"FAILED {text}")
    if options.write and not wrong:
        record(options, tables)
    print(f"\nreports: {REPORTS}/ROLE/SHARD/index.html" if wrong else "\nevery case passed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
