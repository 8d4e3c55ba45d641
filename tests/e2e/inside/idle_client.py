"""Two connections with nothing to say: one was answered and kept alive, one never sent a byte. Argument: the address.

Prints {"idle": 2}, then {"finished": N} for those that the server has finished, and keeps both open from its own side.
"""

import socket
import sys

from cases import expect, report

with socket.create_connection((sys.argv[1], 80), 20) as answered, socket.create_connection((sys.argv[1], 80), 20) as silent:
    answered.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    expect(answered.recv(4096).startswith(b"HTTP/1.1 200"), "an answer")
    report(idle=2)
    report(finished=sum(connection.recv(4096) == b"" for connection in (answered, silent)))
    sys.stdin.readline()
