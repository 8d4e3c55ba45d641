"""Many connections at once: all echo, none is lost, and what an idle one costs."""

import time

from harness import CLIENTS, Failure, Program, url

MANY = CLIENTS / "many"
SIZE = 64
QUIET_SECONDS_MAX = 30
# What may be left when all is idle: half a page of each connection, beside what any traffic touches once.
IDLE_BYTES_MAX = 2048
FIXED_BYTES_MAX = 2 << 20


def suite(report, server, namespace, family, count, rounds):
    """Opens `count` connections and echoes on all of them; every phase is a case."""
    name = f"connections/{family}"
    before = server.memory_bytes()
    with Program(namespace, [MANY, url(family), count, SIZE], name) as program:

        def phase(command, seconds):
            if command:
                program.tell(command)
            line = program.next(seconds)
            if line is None:
                program.ended()
                raise Failure("the client ended early")
            if line["errors"] or line["connections"] != count:
                raise Failure(f"{line['connections']} of {count} connections are well; errors: {line['errors']}")
            return line

        def each(what):
            return f"{(server.memory_bytes() - before) / count:,.0f} B per connection {what}"

        def opened():
            line = phase(None, 60 + count / 200)
            return f"{count / line['seconds']:,.0f} per second, {each('when open')}"

        def echoed():
            line = phase(f"echo {rounds}", 60 + count * rounds / 2000)
            return f"{count * rounds / line['seconds']:,.0f} messages per second, {each('when used')}"

        def quiet():
            """Waits for the idle sweep, which must give back the pages of the rings."""
            started = time.monotonic()
            while (left := server.memory_bytes() - before) > count * IDLE_BYTES_MAX + FIXED_BYTES_MAX:
                if time.monotonic() - started > QUIET_SECONDS_MAX:
                    raise Failure(f"after {QUIET_SECONDS_MAX} s without traffic {left / count:,.0f} B are left of each")
                time.sleep(0.25)
            time.sleep(1)
            return each("when idle")

        def closed():
            line = phase("close", 60 + count / 200)
            return f"{count / line['seconds']:,.0f} per second"

        report.run(name, f"open-{count}", opened)
        report.run(name, f"echo-{rounds}-rounds", echoed)
        report.run(name, "idle", quiet)
        report.run(name, "echo-after-idle", echoed)
        report.run(name, f"close-{count}", closed)
