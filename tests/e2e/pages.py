"""Pages of docs/ whose tables the scripts write."""

import re

from backends import Failure


def between(page, marker, change):
    """Replaces what stands between `<!-- MARKER -->` and `<!-- to here -->`: `change` makes the new text of the old."""
    begin, end = f"<!-- {marker} -->\n", "<!-- to here -->"
    head, found, rest = page.read_text().partition(begin)
    old, closed, tail = rest.partition(end)
    if not (found and closed):
        raise Failure(f"{page} lacks the lines {begin.strip()!r} and {end!r} between which the table goes")
    page.write_text(head + begin + change(old) + end + tail)


def crate_versions(lock, *names):
    """Those crates with the versions of a lock file, in words."""
    found = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"', lock.read_text(), re.M))
    return ", ".join(f"{name} {found[name]}" for name in names)
