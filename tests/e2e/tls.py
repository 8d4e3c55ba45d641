"""`wss://` and `https://`: other people's TLS against the server, over TAP."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from harness import CACHE, TESTS, Failure, Namespace, Program, Server, run, url
from lifecycle import expect_refusal
from pki import Pki

INSIDE = TESTS / "inside"
SCAN = CACHE / "scan" / "bin" / "sslyze"
# Everything that the scanner has, but what it would ask over HTTP.
SCANS = (
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--certinfo", "--elliptic_curves", "--ems"),
    *("--resum", "--reneg", "--early_data", "--compression", "--fallback", "--heartbleed", "--openssl_ccs", "--robot"),
)


@contextlib.contextmanager
def pki():
    """Certificates in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Pki(folder)


def clients(report, binary, families, commands, plan):
    """The programs of `commands` (name and command line without the URL) over `wss://`, with the same cases as without."""
    with pki() as certificates, Namespace() as namespace:
        with Server(binary, namespace, *certificates.options("server")) as server:
            server.start()
            for family in families:
                for name, command in commands:
                    program = [*certificates.environment(), *command, url(family, "wss")]
                    report.run_program(f"{name}-wss/{family}", namespace, program, 300, plan)
            report.run("wss", "clean-stop", server.stop)


def protocol(report, binary, families):
    """`openssl s_client`, `curl` and plain sockets: versions, names, tickets, client certificates, what is no TLS."""
    with pki() as certificates, Namespace() as namespace:
        deadline = ["--set", "websocket.handshake_timeout_ms=2000"]
        options = [*certificates.options("server", "other", "rsa"), *deadline]
        with Server(binary, namespace, *options, "--workers", 2) as server:
            server.start()
            for family in families:
                program = [sys.executable, INSIDE / "tls_client.py", url(family, "https", ""), certificates.folder]
                report.run_program(f"tls/{family}", namespace, program, 240)
            report.run("tls", "clean-stop", server.stop)
        for demand in ("optional", "required"):
            options = [
                *certificates.options("server"),
                *("--client-auth", demand, "--client-ca", certificates.file("ca.pem")),
            ]
            with Server(binary, namespace, *options) as server:
                server.start()
                program = [sys.executable, INSIDE / "tls_client_certificates.py", certificates.folder, demand]
                report.run_program(f"tls/client-certificates-{demand}", namespace, program, 60)
                report.run("tls", f"clean-stop-{demand}", server.stop)
    for case in (
        reloads_on_sighup,
        reloads_when_a_file_changes,
        refuses_a_key_of_another_certificate,
        refuses_an_expired_certificate,
        refuses_a_missing_file,
        refuses_what_is_no_certificate,
        refuses_tls_without_a_certificate,
    ):
        with pki() as certificates, Namespace() as namespace:
            report.run("tls", case.__name__.replace("_", "-"), case, binary, namespace, certificates)


def scan(report, binary):
    """The scanner `sslyze`: versions, ciphers and tickets as documented, and none of the attacks that it knows."""
    # It also asks as a client that knows RSA alone.
    with pki() as certificates, Namespace() as namespace:
        with Server(binary, namespace, *certificates.options("server", "rsa")) as server:
            server.start()
            report.run("scan", "sslyze", sslyze, namespace, certificates)
            report.run("scan", "clean-stop", server.stop)


def sslyze(namespace, certificates):
    result = CACHE / "logs" / "sslyze.json"
    command = namespace.inside(
        *(SCAN, "--sni", "unsocket.test", "--certinfo_ca_file", certificates.file("ca.pem")),
        *("--mozilla_config", "disable", "--json_out", result, *SCANS, "10.73.0.2:443"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    (CACHE / "logs" / "sslyze.txt").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise Failure(f"sslyze ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    return check_scan(result)


def check_scan(path):
    """What the scanner found, against what the documentation promises."""
    found = json.loads(path.read_text())["server_scan_results"][0]["scan_result"]
    accepted = {}
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"):
        suites = found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
        accepted[version] = sorted(suite["cipher_suite"]["name"] for suite in suites)
    old = {version: accepted[version] for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")}
    if any(old.values()):
        raise Failure(f"versions before TLS 1.2 are accepted: {old}")
    weak = [name for name in accepted["tls_1_2"] if "ECDHE" not in name or not ("GCM" in name or "POLY1305" in name)]
    if weak or len(accepted["tls_1_2"]) < 3 or len(accepted["tls_1_3"]) != 3:
        raise Failure(f"not what is documented: {accepted}")
    facts = {
        "heartbleed": found["heartbleed"]["result"]["is_vulnerable_to_heartbleed"],
        "robot": found["robot"]["result"]["robot_result"] != "NOT_VULNERABLE_RSA_NOT_SUPPORTED",
        "ccs injection": found["openssl_ccs_injection"]["result"]["is_vulnerable_to_ccs_injection"],
        "compression": found["tls_compression"]["result"]["supports_compression"],
        "client renegotiation": found["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"],
        "0-RTT": found["tls_1_3_early_data"]["result"]["supports_early_data"],
    }
    if any(facts.values()):
        raise Failure(f"vulnerable: {[name for name, vulnerable in facts.items() if vulnerable]}")
    resumed = found["session_resumption"]["result"]["tls_ticket_resumption_result"]
    if resumed != "FULLY_SUPPORTED":
        raise Failure(f"resumption with tickets: {resumed}")
    return f"{len(accepted['tls_1_2'])} suites of TLS 1.2, {len(accepted['tls_1_3'])} of TLS 1.3, tickets resume"


def browser(report, binary, families, chromium, screenshots):
    """The page over `https://`, and what it opens over `wss://`, with the authority in the browser's own store."""
    with pki() as certificates, Namespace() as namespace:
        with Server(binary, namespace, *certificates.options("server")) as server:
            server.start()
            for family in families:
                with tempfile.TemporaryDirectory() as home:
                    trust(home, certificates.file("ca.pem"))
                    script = ["node", INSIDE / "browser.cjs", url(family, "https", ""), chromium, screenshots]
                    program = ["env", f"HOME={home}", *script, f"{family}-tls", f"{home}/profile"]
                    report.run_program(f"chromium-wss/{family}", namespace, program, 240)
            report.run("chromium-wss", "clean-stop", server.stop)


def trust(home, authority):
    """Puts an authority into the certificate store that Chromium looks at in this home."""
    store = f"{home}/.pki/nssdb"
    run("mkdir", "-p", store)
    run("certutil", "-d", f"sql:{store}", "-N", "--empty-password")
    run("certutil", "-d", f"sql:{store}", "-A", "-t", "C,,", "-n", "unsocket test", "-i", str(authority))


def shown_certificate(namespace):
    """The subject of the certificate that a new connection is shown."""
    command = namespace.inside("openssl", "s_client", "-connect", "10.73.0.2:443", "-servername", "any.test")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    subject = [line for line in done.stdout.splitlines() if line.startswith("subject=")]
    if not subject:
        raise Failure(f"no certificate was shown: {done.stdout[-200:]} {done.stderr[-200:]}")
    return subject[0].replace(" ", "")


def reloads(binary, namespace, certificates, told):
    """Exchanges the certificate under a connection that goes on, then puts a bad one there."""
    live = {end: certificates.file(f"live.{end}") for end in ("pem", "key")}

    def put(name):
        for end, path in live.items():
            shutil.copy(certificates.file(f"{name}.{end}"), path)

    put("server")
    watch = 0 if told else 100
    options = [*certificates.options("live"), "--set", f"tls.watch_ms={watch}"]
    with Server(binary, namespace, *options) as server:
        server.start()
        hold = [*certificates.environment(), sys.executable, INSIDE / "hold_client.py", url("ipv4", "wss"), 5]
        with Program(namespace, hold, "hold client over TLS") as client:
            if client.next(30) != {"open": 5}:
                raise Failure("five connections did not open")

            def becomes(expected, said):
                deadline = time.monotonic() + 10
                if told:
                    server.signal(signal.SIGHUP)
                while time.monotonic() < deadline:
                    if said in server.log() and shown_certificate(namespace) == f"subject=CN={expected}":
                        return
                    time.sleep(0.1)
                raise Failure(f"expected CN={expected} and {said!r}, got {shown_certificate(namespace)}; {server.log_tail()}")

            becomes("server", "")
            put("other")
            becomes("other", "certificates that were read again")
            live["pem"].write_text("this is no certificate")
            becomes("other", "contains no certificate")
            server.signal(signal.SIGTERM)
            closes = client.next(20)
            if closes != {"closes": [1001] * 5}:
                raise Failure(f"the connections did not outlive the exchange: {closes}")
            if server.wait(20) != 0:
                raise Failure(server.log_tail())


def reloads_on_sighup(binary, namespace, certificates):
    reloads(binary, namespace, certificates, told=True)


def reloads_when_a_file_changes(binary, namespace, certificates):
    reloads(binary, namespace, certificates, told=False)


def refuses_a_key_of_another_certificate(binary, namespace, certificates):
    shutil.copy(certificates.file("other.key"), certificates.file("mixed.key"))
    shutil.copy(certificates.file("server.pem"), certificates.file("mixed.pem"))
    server = Server(binary, namespace, *certificates.options("mixed"))
    return expect_refusal(server, "mixed.key", "does not belong to the first certificate in", "mixed.pem")


def refuses_an_expired_certificate(binary, namespace, certificates):
    certificates.expire("server")
    shutil.copy(certificates.file("server.key"), certificates.file("expired.key"))
    return expect_refusal(Server(binary, namespace, *certificates.options("expired")), "expired.pem", "expired on 2021-02-03")


def refuses_a_missing_file(binary, namespace, certificates):
    return expect_refusal(Server(binary, namespace, *certificates.options("nowhere")), "nowhere.pem", "No such file")


def refuses_what_is_no_certificate(binary, namespace, certificates):
    certificates.file("text.pem").write_text("Dear server,\n")
    shutil.copy(certificates.file("server.key"), certificates.file("text.key"))
    return expect_refusal(Server(binary, namespace, *certificates.options("text")), "text.pem", "BEGIN CERTIFICATE")


def refuses_tls_without_a_certificate(binary, namespace, certificates):
    return expect_refusal(Server(binary, namespace, "--listen-tls", "443"), "tls.certs", "--cert")
