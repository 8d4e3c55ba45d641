"""Who may open a WebSocket and how fast they may send, with other people's clients; a proxy protocol by hand and haproxy's."""

import base64
import contextlib
import hashlib
import hmac
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from harness import CACHE, SERVER_IP, TESTS, Namespace, Server, url
from pki import Pki

CLIENT = [sys.executable, TESTS / "inside" / "guards_client.py"]
TOKEN = "+123456789abcdef/123456789abcd=="  # base64 has what a query has to encode
SECRET = b"a secret of thirty-two bytes ..."
RATES = ("messages_per_second_max=50", "bytes_per_second_max=200000", "control_frames_per_second_max=20")


def suite(report, binary):
    """One server for each set of settings."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokens").write_text(f"# the tests'\n{TOKEN}\n")
        (folder / "secret").write_bytes(SECRET)
        of_tokens = (f"guards.tokens_file='{folder / 'tokens'}'", "guards.token_query='access_token'")
        of_jwt = (
            "guards.jwt_algorithm='HS256'",
            f"guards.jwt_key_file='{folder / 'secret'}'",
            "guards.jwt_audience=['feed']",
            "guards.token_query='access_token'",
        )
        jwts = {"good": jwt(), "expired": jwt(exp=-3600), "other-audience": jwt(aud="chat"), "forged": jwt(key=b"x" * 32)}
        for name, app, settings, argument in (
            ("origin", "chat", ("server.allowed_origins=['https://app.example']",), ""),
            ("tokens", "echo", of_tokens, TOKEN),
            ("jwt", "echo", of_jwt, json.dumps(jwts)),
            ("peers", "echo", ("limits.connections_per_peer_max=3",), ""),
            ("proxy", "echo", ("server.proxies=['10.73.0.0/24','fd73::/64']", "limits.connections_per_peer_max=2"), ""),
            ("no-proxy", "echo", ("server.proxies=['10.99.0.0/24']",), ""),
            ("lifetime", "echo", ("websocket.lifetime_max_ms=2000",), ""),
            ("delay", "echo", [f"websocket.{rate}" for rate in RATES], ""),
            ("drop", "echo", [f"websocket.{rate}" for rate in (*RATES, "rate_policy='drop'")], ""),
            ("close", "echo", [f"websocket.{rate}" for rate in (*RATES, "rate_policy='close'")], ""),
        ):
            options = [part for setting in settings for part in ("--set", setting)]
            with Namespace() as namespace, Server(binary, namespace, *options, app=app) as server:
                server.start()
                for family in ("ipv4", "ipv6"):
                    command = [*CLIENT, name, url(family), SERVER_IP[family], argument]
                    report.run_program(f"guards/{name}/{family}", namespace, command, 120)
                report.run(f"guards/{name}", "clean-stop", server.stop)
        behind_haproxy(report, binary, folder)


def behind_haproxy(report, binary, folder):
    """haproxy in front of `wss://`, as it comes: it passes TLS on and says in front of it whose it is."""
    certificates = Pki(folder)
    options = [*certificates.options("server"), "--set", "server.proxies=['10.73.0.0/24','fd73::/64']"]
    options += ["--set", "limits.connections_per_peer_max=2"]
    with Namespace() as namespace, Server(binary, namespace, *options) as server:
        server.start()
        for family in ("ipv4", "ipv6"):
            with haproxy(namespace, folder, family):
                address = {"ipv4": "127.0.0.1", "ipv6": "::1"}[family]
                command = [*CLIENT, "haproxy", "wss://unsocket.test/ws", address, certificates.file("ca.pem")]
                report.run_program(f"guards/haproxy/{family}", namespace, command, 120)
        report.run("guards/haproxy", "clean-stop", server.stop)


@contextlib.contextmanager
def haproxy(namespace, folder, family):
    """haproxy inside the namespace: port 8001 goes on with a PROXY line, 8002 with a binary header."""
    config, log = folder / f"haproxy-{family}.cfg", CACHE / "logs" / f"haproxy-{family}.log"
    ours = {"ipv4": "127.0.0.1", "ipv6": "[::1]"}[family]
    text = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
    for port, send in ((8001, "send-proxy"), (8002, "send-proxy-v2")):
        to = f"{SERVER_IP['ipv4']}:443" if family == "ipv4" else f"[{SERVER_IP['ipv6']}]:443"
        text += f"listen wss{port}\n  bind {ours}:{port}\n  server one {to} {send}\n"
    config.write_text(text)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen(namespace.inside("haproxy", "-db", "-f", config), stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def jwt(key=SECRET, aud="feed", exp=3600):
    """A token, signed with HS256."""

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "alice", "aud": aud, "exp": int(time.time()) + exp}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    text = b".".join(encoded(json.dumps(part).encode()) for part in parts)
    return (text + b"." + encoded(hmac.new(key, text, hashlib.sha256).digest())).decode()
