"""What the peers in Python send: the same messages as the other peers'."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e" / "inside"))

SIZES = (1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20)
PARTS = ("one ", "", "é漢", "😀", " five")
PARTS_BINARY = (1, 70_000, 125, 126, 3)
CLOSES = ((1000, "done"), (3000, "the library says so"), (4999, "so, é漢😀"))
PING = b"p" * 125


def text(size):
    """`size` bytes of UTF-8 with characters of one to four bytes."""
    block = bytes(range(256)).hex()[:509] * 2 + "é漢😀"  # 1,027 bytes: never aligned with a segment or a mask
    whole = size // 1027
    return block * whole + "x" * (size - whole * 1027)


class Options:
    """What follows the role on the command line of a peer."""

    def __init__(self, words):
        self.role, self.where, *rest = words
        self.deflate = "deflate" in rest
        self.told = "told" in rest
        self.ca = self._after(rest, "ca")
        self.most = int(self._after(rest, "most") or 1 << 30)
        self.files = rest[rest.index("files") + 1 :] if "files" in rest else []

    @staticmethod
    def _after(words, name):
        return words[words.index(name) + 1] if name in words else None

    def sizes(self):
        return [size for size in SIZES if size <= self.most]
