#!/usr/bin/env python3
"""The server on emulated PCI NICs, in a machine of their own: `doctor`, `scripts/nic`, `serve` by an ordinary user, clients
on the host, and the kernel's driver put back. See scripts/nic-host. Run it with `scripts/test --nic-host`.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "nic_host"
LOGS = ROOT / "target" / "e2e" / "logs"
NIC_HOST = ROOT / "scripts" / "nic-host"
SSH = ROOT / "target" / "nic-host" / "dropbear" / "usr"
MODELS = ("virtio", "e1000e", "vmxnet3", "igb")
# NICs that spread flows over their queues themselves, and so have more queues than workers.
STEERING = ("virtio", "igb")
# NICs whose RX interrupts come; see docs/dpdk.md.
INTERRUPTING = ("virtio", "vmxnet3", "igb")
STAGES = ("spread", "asleep", "vlan", "exception")
WORKERS = 2
# Of the stages after the first.
FEW_CONNECTIONS, FEW_MESSAGES = 12, 5
UNAVAILABLE = 69


class Failure(Exception):
    """What was expected and what came."""


def expect(condition, text):
    """A condition that must hold."""
    if not condition:
        raise Failure(text)


def prepare(folder, options):
    """What the machine finds in its folder: the server, the scripts, and an ssh server with keys."""
    shutil.copy(options.binary, f"{folder}/unsocket")
    for file in (ROOT / "scripts" / "nic", ROOT / "scripts" / "hugepages", HERE / "machine"):
        shutil.copy(file, folder)
    if options.strip:
        subprocess.run(["strip", "--strip-debug", f"{folder}/unsocket"], check=True)
    ssh = pathlib.Path(folder, "ssh")
    ssh.mkdir()
    for file in (SSH / "sbin" / "dropbear", SSH / "bin" / "dbclient", *SSH.glob("lib/*/*.so.?")):
        copy = pathlib.Path(shutil.copy(file, ssh))
        copy.chmod(0o755)
    for name in ("key", "host_key"):
        make = [SSH / "bin" / "dropbearkey", "-t", "ed25519", "-f", ssh / name]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(ssh)}
        said = subprocess.run(make, env=environment, check=True, capture_output=True, text=True).stdout
        public = [line for line in said.splitlines() if line.startswith("ssh-ed25519 ")]
        (ssh / f"{name}.pub").write_text("\n".join(public) + "\n")
    os.chmod(folder, 0o755)
    return ssh


def counts(stage, options):
    """Connections of a stage, and messages of each."""
    if stage == "spread":
        return options.connections, options.messages
    return FEW_CONNECTIONS, FEW_MESSAGES


def run_machine(model, options):
    """Boots one model and returns all that the machine printed; `None` when this QEMU does not have the model."""
    log = LOGS / f"nic-host-{model}.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    queues = options.queues if model in STEERING else WORKERS
    with tempfile.TemporaryDirectory() as folder:
        ssh = prepare(folder, options)
        clients = f"{sys.executable} {HERE / 'clients.py'} {ssh} {options.connections} {options.messages}"
        command = [NIC_HOST, "--nic", model, "--queues", queues, "--copy", folder, "--on-host", clients]
        command += ["--timeout", options.timeout, "./machine", f"--workers {WORKERS} --queues {queues}"]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(ssh)}
        done = subprocess.run(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    log.write_text(text)
    if done.returncode == UNAVAILABLE:
        return None, text.strip().splitlines()[-1]
    tail = " | ".join(text.strip().splitlines()[-6:])
    expect(done.returncode == 0, f"exit status {done.returncode}; {log.relative_to(ROOT)} ends: {tail}")
    return text, ""


def stages(text):
    """What the machine printed in each stage."""
    parts = re.split(r"^stage (\w+)$", text, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    expect(tuple(found) == STAGES, f"the stages were {tuple(found)}, not {STAGES}")
    return found


def events(text, message):
    """What the server has said that begins with these words."""
    lines = (json.loads(line) for line in text.splitlines() if line.startswith('{"timestamp"'))
    return [event for event in lines if event.get("message", "").startswith(message)]


def check_workers(model, stage, text, options):
    """Each worker has its share of the connections, each connection stayed where it was, and no message is missing."""
    connections, messages = counts(stage, options)
    workers = options.queues if stage == "asleep" and model in STEERING else WORKERS
    reports = events(text, "worker ended")
    expect(len(reports) == workers, f"{stage}: {len(reports)} workers reported, not {workers}")
    opened = [report["opened"] for report in reports]
    expect(sum(opened) >= connections, f"{stage}: connections by worker: {opened}, expected {connections}")
    # Few connections may all be one worker's.
    expect(stage != "spread" or min(opened) > 0, f"{stage}: connections by worker: {opened}: one has none")
    got = sum(report["messages_in"] for report in reports)
    rounds = 2 if stage == "exception" else 1
    expect(got == rounds * connections * messages, f"{stage}: {got} messages came in, not {rounds * connections * messages}")
    for report in reports:
        name = f"{stage}: worker {report['worker']}"
        expect(report["messages_in"] == report["messages_out"], f"{name} echoed not all: {report}")
        expect(report["no_flow"] == 0, f"{name} got {report['no_flow']} segments of connections that it does not have")
        expect(report["bad_checksum"] == 0, f"{name} dropped {report['bad_checksum']} frames for their checksum")
        if model in STEERING and stage == "spread":
            expect(report["rx_frames"] > 0, f"{name}: nothing came on its queues")
        if model in STEERING:
            misplaced = report["misplaced"]
            expect(misplaced == 0, f"{name} got {misplaced} segments of connections that are another worker's")
    return reports, opened


def check(model, text, options):
    """All that the stages must show."""
    found = stages(text)
    reports, opened = {}, {}
    for stage, part in found.items():
        reports[stage], opened[stage] = check_workers(model, stage, part, options)
    summaries = {stage: events(part, "0000:")[0]["message"] for stage, part in found.items()}
    has_interrupts = "RX interrupts" in summaries["asleep"]
    expect(has_interrupts == (model in INTERRUPTING), f"asleep: {summaries['asleep']}")
    interrupts, idle = map(int, re.search(r"^asleep: (\d+) interrupts, (\d+) %", found["asleep"], re.MULTILINE).groups())
    expect((interrupts > 0) == has_interrupts, f"asleep: {interrupts} interrupts came")
    # Two that spin use 200; looking every 50 us costs an emulated CPU much.
    idle_max = 50 if has_interrupts else 150
    expect(idle < idle_max, f"asleep: idle workers used {idle} % of a CPU")
    for offload in ("rx-vlan-strip", "tx-vlan-insert"):
        expect(offload in summaries["vlan"], f"vlan: no {offload}: {summaries['vlan']}")
    others = sum(report["rx_other_vlan"] for report in reports["vlan"])
    expect(others > 0, "vlan: no untagged frame was dropped")
    to_kernel, from_kernel = (sum(r[way] for r in reports["exception"]) for way in ("to_kernel", "from_kernel"))
    expect(to_kernel > 0 and from_kernel > 0, f"exception: {to_kernel} frames to the kernel, {from_kernel} from it")
    return (
        f"connections by worker {opened['spread']}; asleep {opened['asleep']}, {interrupts} interrupts, "
        f"{idle} % CPU when idle; VLAN: {others} others' frames dropped; {to_kernel} frames to the kernel, "
        f"{from_kernel} from it; every byte right"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nic", action="append", choices=MODELS, help="only this model; repeatable")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "unsocket")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--messages", type=int, default=10, help="of each connection")
    parser.add_argument("--queues", type=int, default=4, help="of a NIC that spreads flows over them, a multiple of 2")
    parser.add_argument("--timeout", type=int, default=600, help="seconds, of each machine")
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
            note = check(model, text, options)
            tested += 1
            print(f"  ok     {model:<10} {time.monotonic() - started:6.1f} s  {note}", flush=True)
        except Failure as error:
            failed += 1
            print(f"  FAILED {model:<10} {time.monotonic() - started:6.1f} s  {error}", flush=True)
    return 1 if failed or not tested else 0


if __name__ == "__main__":
    sys.exit(main())
