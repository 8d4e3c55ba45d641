"""Named cases, run one after the other, each reported as one line of JSON on stdout.

A program of cases runs inside the namespace that holds the kernel's end of the TAP device. Its first line is its
plan, so that the runner notices a case that was left out; then comes one line per case.
"""

import asyncio
import inspect
import json
import sys
import time


class Plan:
    """The cases of one program, in the order in which they were declared."""

    def __init__(self, case_seconds=60):
        self.case_seconds = case_seconds
        self.cases = []

    def add(self, name, run, *args):
        """Adds a case: `run(*args)` passes by returning, with an optional note, and fails by raising."""
        self.cases.append((name, run, args))

    def case(self, name):
        """Decorator form of `add`."""

        def register(run):
            self.add(name, run)
            return run

        return register

    def main(self):
        """Runs every case and reports it; one that fails does not keep the others from running."""
        report(plan=[name for name, _, _ in self.cases])
        for name, run, args in self.cases:
            started = time.monotonic()
            try:
                note = asyncio.run(self._run(run, args))
                report(case=name, ok=True, seconds=time.monotonic() - started, note=note or "")
            except Exception as error:  # a case may fail in any way, and each is a result
                text = f"{type(error).__name__}: {error}".removesuffix(": ")
                report(case=name, ok=False, seconds=time.monotonic() - started, note=text)

    async def _run(self, run, args):
        if inspect.iscoroutinefunction(run):
            return await asyncio.wait_for(run(*args), self.case_seconds)
        return run(*args)


def report(**fields):
    """Prints one line of the report."""
    json.dump(fields, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


def expect(condition, message):
    """Fails the case with `message` unless `condition` holds; unlike `assert` it cannot be switched off."""
    if not condition:
        raise AssertionError(message)


def expect_equal(got, wanted, what):
    """Fails the case unless `got == wanted`, and says both."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {shorten(wanted)}, got {shorten(got)}")


def shorten(value):
    """A value as it fits on a line of a report."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(value)} long)"
