"""Who may open a WebSocket and how fast they may send, with other people's clients and a proxy protocol by hand."""

import base64
import hashlib
import hmac
import json
import pathlib
import sys
import tempfile
import time

from harness import SERVER_IP, TESTS, Namespace, Server, url

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


def jwt(key=SECRET, aud="feed", exp=3600):
    """A token, signed with HS256."""

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "alice", "aud": aud, "exp": int(time.time()) + exp}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    text = b".".join(encoded(json.dumps(part).encode()) for part in parts)
    return (text + b"." + encoded(hmac.new(key, text, hashlib.sha256).digest())).decode()
