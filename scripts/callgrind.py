"""Runs the cases of benches/instructions.rs under callgrind, and reads the profiles that it writes."""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The C library's copying and comparing: their cost belongs to whoever called them.
COPIES = re.compile(r"mem(cpy|move|set|cmp)|bcmp")


def build():
    """The benchmark, in release; where it is."""
    command = ["cargo", "build", "--release", "--locked", "--bench", "instructions", "--message-format", "json"]
    # With the same features as scripts/test has built, where it calls.
    if features := os.environ.get("features"):
        command += ["--features", features]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for message in map(json.loads, lines):
        if message.get("target", {}).get("name") == "instructions" and message.get("executable"):
            return message["executable"]
    sys.exit("error: cargo built no benchmark `instructions`")


def run(program, case):
    """One case: the instructions that were counted, the messages, and the file with the profile."""
    folder = ROOT / "target/instructions"
    folder.mkdir(parents=True, exist_ok=True)
    profile = folder / f"{case.replace('/', '-')}.callgrind"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}",
               "--toggle-collect=*instructions::counted*", program, case]
    # The C library chooses its copying loops by the processor: always the same ones, whatever the machine has.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not collected:
        sys.exit(f"error: {case} failed under valgrind:\n{done.stdout}{done.stderr}")
    return int(collected[1]), int(done.stdout.split()[1]), profile


def costs(profile):
    """The instructions of a profile, by (source file, function, whether they copy or compare memory). The file is the one
    that the code was written in, the function the one that it was inlined into."""
    names = {"file": {}, "function": {}}

    def name(kind, text):
        number, _, written = text.partition(" ")
        if written:
            names[kind][number] = written
        return names[kind][number]

    found = collections.Counter()
    file = function = callee = ""
    is_call = False
    for line in profile.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and key in ("fl", "fi", "fe"):
            file = name("file", value)
        elif equals and key == "fn":
            function = name("function", value)
        elif equals and key in ("cfl", "cfi"):
            name("file", value)
        elif equals and key == "cfn":
            callee = name("function", value)
        elif equals and key == "calls":
            is_call = True
        elif line[:1] in "+-*0123456789" and line:
            instructions = int((line.split() + ["0"])[1])
            # The line after `calls=` is what the called function came to: counted there, but for copies.
            if not is_call and not COPIES.search(function):
                found[file, function, False] += instructions
            elif is_call and COPIES.search(callee) and not COPIES.search(function):
                found[file, function, True] += instructions
            is_call = False
    return found
