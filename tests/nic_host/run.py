#!/usr/bin/env python3
"""The server on emulated PCI NICs, in a machine of their own: `doctor`, `scripts/nic`, `serve` by an ordinary user, clients
on the host, and the kernel's driver put back. See scripts/nic-host. Run it with `scripts/test --nic-host`.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "nic_host"
LOGS = ROOT / "target" / "e2e" / "logs"
NIC_HOST = ROOT / "scripts" / "nic-host"
MODELS = ("virtio", "e1000e", "vmxnet3", "igb")
# NICs that spread flows over their queues themselves.
STEERING = ("virtio", "igb")
WORKERS = 2
UNAVAILABLE = 69


class Failure(Exception):
    """What was expected and what came."""


def expect(condition, text):
    """A condition that must hold."""
    if not condition:
        raise Failure(text)


def run_machine(model, options):
    """Boots one model and returns all that the machine printed; `None` when this QEMU does not have the model."""
    log = LOGS / f"nic-host-{model}.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    clients = f"{sys.executable} {HERE / 'clients.py'} {options.connections} {options.messages}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(options.binary, f"{folder}/unsocket")
        for file in (ROOT / "scripts" / "nic", ROOT / "scripts" / "hugepages", HERE / "machine"):
            shutil.copy(file, folder)
        if options.strip:
            subprocess.run(["strip", "--strip-debug", f"{folder}/unsocket"], check=True)
        os.chmod(folder, 0o755)
        command = [NIC_HOST, "--nic", model, "--queues", str(WORKERS), "--copy", folder, "--on-host", clients]
        command += ["--timeout", str(options.timeout), "./machine", f"--workers {WORKERS}"]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode(errors="replace").replace("\r", "")
    log.write_text(text)
    if done.returncode == UNAVAILABLE:
        return None, text.strip().splitlines()[-1]
    tail = " | ".join(text.strip().splitlines()[-6:])
    expect(done.returncode == 0, f"exit status {done.returncode}; {log.relative_to(ROOT)} ends: {tail}")
    return text, ""


def worker_reports(text):
    """What each worker said at its end."""
    events = [json.loads(line) for line in text.splitlines() if line.startswith('{"timestamp"')]
    return [event for event in events if event.get("message") == "worker ended"]


def check_counters(model, reports, options):
    """Each worker has its share of the connections, each connection stayed where it was, and no message is missing."""
    expect(len(reports) == WORKERS, f"{len(reports)} workers reported, not {WORKERS}")
    opened = [report["opened"] for report in reports]
    # Those that waited for the server come on top.
    expect(sum(opened) >= options.connections, f"connections by worker: {opened}, expected {options.connections}")
    expect(min(opened) > 0, f"connections by worker: {opened}: one has none")
    messages = sum(report["messages_in"] for report in reports)
    expected = options.connections * options.messages
    expect(messages == expected, f"{messages} messages came in, {expected} were sent")
    for report in reports:
        name = f"worker {report['worker']}"
        expect(report["messages_in"] == report["messages_out"], f"{name} echoed not all: {report}")
        expect(report["no_flow"] == 0, f"{name} got {report['no_flow']} segments of connections that it does not have")
        expect(report["bad_checksum"] == 0, f"{name} dropped {report['bad_checksum']} frames for their checksum")
        if model in STEERING:
            expect(report["rx_frames"] > 0, f"{name}: nothing came on its queue")
            misplaced = report["misplaced"]
            expect(misplaced == 0, f"{name} got {misplaced} segments of connections that are another worker's")
    return f"connections by worker {opened}, {messages} messages, every byte right"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nic", action="append", choices=MODELS, help="only this model; repeatable")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "unsocket")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--messages", type=int, default=10, help="of each connection")
    parser.add_argument("--timeout", type=int, default=240, help="seconds, of each machine")
    parser.add_argument("--strip", action="store_true", help="leave the binary's debug information at home")
    options = parser.parse_args()
    failed = tested = 0
    for model in options.nic or MODELS:
        started = time.monotonic()
        try:
            text, lacking = run_machine(model, options)
            if text is None:
                print(f"  absent {model:<10} {lacking.removeprefix('error: ')}")
                expect(options.nic is None, f"{model} was asked for")
                continue
            note = check_counters(model, worker_reports(text), options)
            tested += 1
            print(f"  ok     {model:<10} {time.monotonic() - started:6.1f} s  {note}", flush=True)
        except Failure as error:
            failed += 1
            print(f"  FAILED {model:<10} {time.monotonic() - started:6.1f} s  {error}", flush=True)
    return 1 if failed or not tested else 0


if __name__ == "__main__":
    sys.exit(main())
