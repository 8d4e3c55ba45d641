"""What no well-behaved client sends: frames that break RFC 6455, written to a plain socket. Argument: the URL."""

import os
import socket
import struct
import sys
import urllib.parse

from cases import Plan, expect, expect_equal

URL = urllib.parse.urlsplit(sys.argv[1])
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

plan = Plan()


def frame(opcode, payload=b"", fin=True, reserved=0, masked=True, length=None):
    """One frame of a client; `length` overrides the length that the header declares (as 64 bits)."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if length is not None:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    elif len(payload) < 126:
        head = struct.pack("!BB", first, mask_bit | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, mask_bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class Raw:
    """A connection after its upgrade, read frame by frame."""

    def __enter__(self):
        self.socket = socket.create_connection((URL.hostname, URL.port or 80), timeout=20)
        self.received = b""
        self.socket.sendall(
            f"GET {URL.path} HTTP/1.1\r\nHost: {URL.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.received:
            expect(self._more(), "the server closed during the handshake")
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        expect(b" 101 " in head.split(b"\r\n")[0], f"handshake: {head[:80]!r}")
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _more(self):
        try:
            chunk = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self.received += chunk
        return bool(chunk)

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def _take(self, count):
        while len(self.received) < count:
            if not self._more():
                return None
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def next(self):
        """The next frame as (opcode, payload), or `None` at the end."""
        head = self._take(2)
        if head is None:
            return None
        expect(head[1] & 0x80 == 0, "a server must not mask (RFC 6455 section 5.1)")
        length = head[1] & 0x7F
        if length == 126:
            length = struct.unpack("!H", self._take(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", self._take(8))[0]
        return head[0] & 0x0F, self._take(length)

    def expect_close(self, code):
        """The next frame is a close with `code`, and then the connection ends."""
        got = self.next()
        expect(got is not None and got[0] == CLOSE, f"expected close {code}, got {got!r}")
        expect_equal(int.from_bytes(got[1][:2], "big"), code, "close code")
        if code != 1000:
            expect(self.next() is None, "nothing may follow a close frame")


def breaks(code, *frames):
    """The server answers `frames` with a close frame of `code` and ends the connection."""
    with Raw() as raw:
        raw.send(*frames)
        raw.expect_close(code)


plan.add("unmasked-frame", breaks, 1002, frame(TEXT, b"bare", masked=False))
plan.add("reserved-bit", breaks, 1002, frame(TEXT, b"x", reserved=2))
plan.add("reserved-opcode", breaks, 1002, frame(3, b"x"))
plan.add("reserved-control-opcode", breaks, 1002, frame(11, b"x"))
plan.add("continuation-of-nothing", breaks, 1002, frame(0, b"x"))
plan.add("message-within-a-message", breaks, 1002, frame(TEXT, b"x", fin=False), frame(TEXT, b"y"))
plan.add("fragmented-ping", breaks, 1002, frame(PING, b"x", fin=False))
plan.add("ping-of-126-bytes", breaks, 1002, frame(PING, b"x" * 126))
plan.add("length-not-minimal", breaks, 1002, frame(BINARY, b"x" * 5, length=5))
plan.add("length-with-top-bit", breaks, 1002, frame(BINARY, length=1 << 63))
plan.add("message-too-big", breaks, 1009, frame(BINARY, length=1 << 40))
plan.add("text-not-utf8", breaks, 1007, frame(TEXT, b"\xce\xba\xed\xa0\x80"))
plan.add("text-not-utf8-in-a-first-fragment", breaks, 1007, frame(TEXT, b"ok \xff", fin=False))
plan.add("close-of-1-byte", breaks, 1002, frame(CLOSE, b"\x03"))
plan.add("close-code-1005", breaks, 1002, frame(CLOSE, struct.pack("!H", 1005)))
plan.add("close-code-999", breaks, 1002, frame(CLOSE, struct.pack("!H", 999)))
plan.add("close-reason-not-utf8", breaks, 1007, frame(CLOSE, struct.pack("!H", 1000) + b"\xff"))


@plan.case("close-without-code")
def close_without_code():
    with Raw() as raw:
        raw.send(frame(CLOSE))
        opcode, payload = raw.next()
        expect_equal(opcode, CLOSE, "opcode")
        expect(payload in (b"", struct.pack("!H", 1000)), f"close payload: {payload!r}")
        expect(raw.next() is None, "the server ends the connection first (RFC 6455 section 7.1.1)")


@plan.case("every-cut")
def every_cut():
    """The same frames, cut at every byte into two segments, give the same echoes."""
    messages = [(TEXT, "é漢😀".encode()), (BINARY, b"x" * 130)]
    frames = frame(*messages[0]) + frame(PING, b"p") + frame(*messages[1])
    with Raw() as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(frames)):
            raw.send(frames[:cut])
            raw.send(frames[cut:])
            answers = [raw.next() for _ in range(3)]  # a pong may overtake an echo
            expect((PONG, b"p") in answers, f"cut at {cut}: no pong among {answers!r}")
            answers.remove((PONG, b"p"))
            expect_equal(answers, messages, f"cut at {cut}")


@plan.case("frame-rides-with-the-handshake")
def frame_rides_with_the_handshake():
    with socket.create_connection((URL.hostname, URL.port or 80), timeout=20) as connection:
        connection.sendall(
            f"GET {URL.path} HTTP/1.1\r\nHost: {URL.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            + frame(TEXT, b"early")
        )
        received = b""
        while not received.endswith(b"\x81\x05early"):
            chunk = connection.recv(4096)
            expect(chunk, f"the server closed after {received!r}")
            received += chunk


@plan.case("unread-flood")
def unread_flood():
    """A peer that sends and never reads is held back or dropped; the server serves the others on."""
    with Raw() as raw:
        raw.socket.settimeout(1)
        payload = frame(BINARY, b"x" * 60_000)
        sent = 0
        try:
            while sent < 256 << 20:
                raw.socket.sendall(payload)
                sent += len(payload)
            raise AssertionError("256 MB went in and nothing was read: the queue has no bound")
        except (TimeoutError, ConnectionError) as error:
            ending = type(error).__name__
        with Raw() as other:
            other.send(frame(TEXT, b"and I?"))
            expect_equal(other.next(), (TEXT, b"and I?"), "echo on another connection")
    return f"{ending} after {sent >> 20} MiB"


plan.main()
