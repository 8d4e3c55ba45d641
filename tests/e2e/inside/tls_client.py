"""Drives the TLS port with `openssl s_client`, `curl` and plain sockets.

Arguments: the base URL, e.g. https://10.73.0.2, and the folder with the certificates. The server gives up on a
handshake after 2 s.
"""

import pathlib
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse

from cases import Plan, expect, expect_equal

BASE = sys.argv[1]
FOLDER = pathlib.Path(sys.argv[2])
CA = FOLDER / "ca.pem"
NETLOC = urllib.parse.urlsplit(BASE).netloc
ADDRESS = urllib.parse.urlsplit(BASE).hostname
ALERT = 21

plan = Plan()


def s_client(*options, say=b""):
    """One run of `openssl s_client`: what it printed."""
    command = ["openssl", "s_client", "-connect", f"{NETLOC}:443", "-CAfile", CA, "-verify_return_error", *options]
    done = subprocess.run(command, input=say, capture_output=True, timeout=20)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def dial():
    return socket.create_connection((ADDRESS, 443), timeout=20)


def read_to_end(connection):
    received = b""
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def hello(name="unsocket.test"):
    """The first records of a client."""
    context = ssl.create_default_context(cafile=CA)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


@plan.case("curl-https")
def curl():
    command = ["curl", "--silent", "--show-error", "--globoff", "--cacert", CA, "--max-time", "20", "--include"]
    done = subprocess.run([*command, f"{BASE}/healthz"], capture_output=True, text=True, timeout=40)
    expect_equal((done.returncode, done.stderr), (0, ""), "curl")
    expect(done.stdout.startswith("HTTP/1.1 200"), done.stdout)


@plan.case("curl-http-on-the-same-server")
def curl_plain():
    done = subprocess.run(
        ["curl", "--silent", "--globoff", "--max-time", "20", f"http://{NETLOC}/healthz"],
        capture_output=True,
        timeout=40,
    )
    expect_equal(done.returncode, 0, "curl")


def version(option, wanted):
    code, output = s_client(option)
    if wanted is None:
        expect(code != 0 and "CONNECTED" in output, f"{option} was accepted: {output[-200:]}")
    else:
        expect(code == 0 and wanted in output and "Verify return code: 0 (ok)" in output, output[-400:])


for option, wanted in (("-tls1", None), ("-tls1_1", None), ("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
    plan.add(f"version{option}", version, option, wanted)


def cipher(option, name, versions):
    server_name = "rsa.test" if "RSA" in name and "ECDSA" not in name else "unsocket.test"
    code, output = s_client(versions, option, name, "-servername", server_name)
    expect(code == 0 and f"Cipher is {name}" in output, output[-400:])


for name in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
    plan.add(f"cipher-{name}", cipher, "-ciphersuites", name, "-tls1_3")
for name in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
    plan.add(f"cipher-ECDHE-ECDSA-{name}", cipher, "-cipher", f"ECDHE-ECDSA-{name}", "-tls1_2")


@plan.case("cipher-ECDHE-RSA")
def cipher_rsa():
    code, output = s_client("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256", "-servername", "rsa.test")
    expect(code == 0 and "Cipher is ECDHE-RSA-AES128-GCM-SHA256" in output, output[-400:])


@plan.case("weak-ciphers-are-refused")
def weak():
    for name in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "aNULL", "DHE-RSA-AES128-GCM-SHA256"):
        code, output = s_client("-tls1_2", "-cipher", f"{name}:@SECLEVEL=0")
        expect(code != 0, f"{name} was accepted: {output[-200:]}")


def resumes(option):
    """A session that one connection got is resumed by the next ones, whichever worker they come to."""
    session = FOLDER / f"session{option}-{ADDRESS.replace(':', '-')}"
    request = f"GET /healthz HTTP/1.1\r\nHost: {NETLOC}\r\nConnection: close\r\n\r\n".encode()
    code, output = s_client(option, "-sess_out", session, "-ign_eof", say=request)
    expect(code == 0 and "New, TLSv" in output, output[-400:])
    for _ in range(6):
        code, output = s_client(option, "-sess_in", session, "-ign_eof", say=request)
        expect(code == 0 and "Reused, TLSv" in output, output[-400:])


plan.add("resumption-tls1_2", resumes, "-tls1_2")
plan.add("resumption-tls1_3", resumes, "-tls1_3")


@plan.case("sni")
def sni():
    for name, subject in (("unsocket.test", "server"), ("other.test", "other"), ("rsa.test", "rsa"), ("no.test", "server")):
        code, output = s_client("-servername", name)
        expect(code == 0 and f"subject=CN = {subject}" in output, f"{name}: {output[-400:]}")
    code, output = s_client("-noservername")
    expect(code == 0 and "subject=CN = server" in output, output[-400:])


@plan.case("alpn")
def alpn():
    code, output = s_client("-alpn", "h2,http/1.1")
    expect(code == 0 and "ALPN protocol: http/1.1" in output, output[-400:])
    code, output = s_client("-alpn", "h2")
    expect(code != 0 and "no application protocol" in output, output[-400:])


@plan.case("close-notify")
def close_notify():
    """The server's FIN comes after its close_notify: OpenSSL sees an end, not a cut."""
    context = ssl.create_default_context(cafile=CA)
    with context.wrap_socket(dial(), server_hostname="unsocket.test", suppress_ragged_eofs=False) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
        expect(received.startswith(b"HTTP/1.1 200"), repr(received))


@plan.case("key-update")
def key_update():
    """`K` in s_client asks for new keys of both ends, `k` says that ours are new."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{NETLOC}:443", "-CAfile", CA, "-tls1_3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in (b"K\n", b"k\n", b"K\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
        time.sleep(0.3)
        process.stdin.write(line)
        process.stdin.flush()
    time.sleep(1)  # the end of its input would end it
    try:
        output, _ = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    text = output.decode(errors="replace")
    expect(text.count("KEYUPDATE") == 3 and "HTTP/1.1 200" in text, text[-400:])


@plan.case("renegotiation-is-refused")
def renegotiation():
    """`R` in s_client wants a new handshake on the connection, which TLS 1.2 has and we do not."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{NETLOC}:443", "-CAfile", CA, "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    time.sleep(0.3)
    process.stdin.write(b"R\n")
    process.stdin.flush()
    output, _ = process.communicate(timeout=20)
    text = output.decode(errors="replace")
    expect("RENEGOTIATING" in text and "no renegotiation" in text.lower(), text[-400:])


@plan.case("plain-http-on-the-tls-port")
def plain_http():
    with dial() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = read_to_end(connection)
        expect(received.startswith(b"HTTP/1.1 400 ") and b"TLS" in received, repr(received))


def refuses(first):
    with dial() as connection:
        connection.sendall(first)
        received = read_to_end(connection)
        expect(received[:1] in (b"", bytes([ALERT])), repr(received[:20]))


for name, first in (
    ("garbage", bytes(range(128, 255)) * 20),
    ("sslv2-hello", bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + b"\0" * 16),
    ("oversized-record", bytes([22, 3, 1, 0xFF, 0xFF]) + b"x" * 65_535),
    ("alert-first", bytes([21, 3, 1, 0, 2, 2, 40])),
    ("data-first", bytes([23, 3, 3, 0, 5]) + b"hello"),
    ("empty-records", bytes([22, 3, 1, 0, 0]) * 1000),
):
    plan.add(f"refuses-{name}", refuses, first)


@plan.case("hello-cut-at-every-byte")
def cut():
    """Connections that end anywhere within the ClientHello; the server goes on."""
    first = hello()
    for end in range(0, len(first), 7):
        with dial() as connection:
            connection.sendall(first[:end])
    expect_equal(s_client()[0], 0, "s_client afterwards")


@plan.case("hello-byte-by-byte")
def byte_by_byte():
    with dial() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello():
            connection.sendall(bytes([byte]))
        expect_equal(connection.recv(1), bytes([22]), "first byte of the ServerHello's record")


@plan.case("slow-handshake-is-ended")
def slow():
    first = hello()
    started = time.monotonic()
    with dial() as connection:
        connection.sendall(first[:-1])
        read_to_end(connection)
    took = time.monotonic() - started
    expect(1 < took < 8, f"it took {took:.1f} s")


@plan.case("many-half-handshakes")
def half():
    """500 of them at once; whoever is honest is served meanwhile, and all of them are ended."""
    first = hello()
    connections = [dial() for _ in range(500)]
    for at, connection in enumerate(connections):
        connection.sendall(first[: at % len(first)])
    started = time.monotonic()
    expect_equal(s_client()[0], 0, "s_client meanwhile")
    took = time.monotonic() - started
    for connection in connections:
        read_to_end(connection)
        connection.close()
    return f"an honest handshake took {took * 1000:.0f} ms"


@plan.case("early-data-is-not-offered")
def early_data():
    code, output = s_client("-tls1_3")
    expect(code == 0 and "Max Early Data: 0" in output or "Early data was not sent" in output, output[-300:])


plan.main()
