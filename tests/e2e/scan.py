#!/usr/bin/env python3
"""What `openssl s_client`, sslyze and testssl say of the TLS port of `unsocket serve`, as a table. Run it with
`scripts/scan-tls`."""

import argparse
import datetime
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys

from harness import CACHE, ROOT, SERVER_IP, Failure, Namespace, Server, die
from pages import between, crate_versions
from tls import SCAN, SCANS, check_scan, pki

PAGE = ROOT / "docs" / "tls.md"
TARGET = f"{SERVER_IP['ipv4']}:443"
NAME = "unsocket.test"
RESUMED = 6
SUITES = {
    "-tls1_3": ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256"),
    "-tls1_2": (
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        *("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"),
        *("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-GCM-SHA256"),
        *("AES128-GCM-SHA256", "AES128-SHA", "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-NULL-SHA"),
    ),
}
GROUPS = ("X25519", "P-256", "P-384", "P-521", "X448")


class OpenSsl:
    """One column of the table: each question is a handshake of `openssl s_client`."""

    def __init__(self, namespace, certificates):
        self.namespace, self.certificates = namespace, certificates

    def run(self, *options, say=b""):
        """One run: whether it succeeded, and what it printed."""
        command = ["openssl", "s_client", "-connect", TARGET, "-CAfile", self.certificates.file("ca.pem")]
        command += ["-servername", NAME, "-verify_return_error", *options]
        done = subprocess.run(self.namespace.inside(*command), input=say, capture_output=True, timeout=60, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")

    def versions(self, *options):
        """Which of these versions are accepted, with every cipher that this OpenSSL has."""
        names = {"-tls1": "1.0", "-tls1_1": "1.1", "-tls1_2": "1.2", "-tls1_3": "1.3"}
        accepted = [names[option] for option in options if self.run(option, "-cipher", "ALL:@SECLEVEL=0")[0]]
        return ", ".join(accepted) or "refused"

    def suites(self, version):
        """Which cipher suites are accepted."""
        option = "-ciphersuites" if version == "-tls1_3" else "-cipher"
        found = []
        for name in SUITES[version]:
            wanted = name if version == "-tls1_3" else f"{name}:@SECLEVEL=0"
            if self.run(version, option, wanted)[0]:
                found.append(name)
        return found

    def groups(self):
        """Which groups of the key exchange are accepted."""
        return [name for name in GROUPS if self.run("-tls1_3", "-groups", name)[0]]

    def resumption(self, version):
        """How many connections, on whichever worker, resume the session of a first one."""
        session = self.certificates.file(f"scan{version}")
        request = f"GET /healthz HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
        _, first = self.run(version, "-sess_out", session, "-ign_eof", say=request)
        if "New, TLSv" not in first:
            raise Failure(f"no session to resume: {first[-300:]}")
        resumed = sum(
            "Reused, TLSv" in self.run(version, "-sess_in", session, "-ign_eof", say=request)[1] for _ in range(RESUMED)
        )
        if resumed != RESUMED:
            raise Failure(f"{resumed} of {RESUMED} connections resumed with {version}")
        return f"{resumed} of {RESUMED} connections resumed"

    def renegotiation(self):
        """A client that wants a new handshake on its connection."""
        _, output = self.run("-tls1_2", say=b"R\n")
        return "refused" if "no renegotiation" in output.lower() or "no_renegotiation" in output.lower() else "accepted"

    def column(self):
        """The answers by row."""
        return {
            "TLS 1.0, 1.1": self.versions("-tls1", "-tls1_1"),
            "TLS 1.2, 1.3": self.versions("-tls1_2", "-tls1_3"),
            "suites of TLS 1.3": self.suites("-tls1_3"),
            "suites of TLS 1.2": self.suites("-tls1_2"),
            "key exchange": self.groups(),
            "resumption": f"TLS 1.2: {self.resumption('-tls1_2')}; TLS 1.3: {self.resumption('-tls1_3')}",
            "renegotiation": self.renegotiation(),
            "known attacks": "",
        }


def sslyze(namespace, certificates):
    """The column of sslyze."""
    result = CACHE / "logs" / "scan-sslyze.json"
    command = namespace.inside(
        *(SCAN, "--sni", NAME, "--certinfo_ca_file", certificates.file("ca.pem"), "--mozilla_config", "disable"),
        *("--json_out", result, "--resum", *SCANS, TARGET),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise Failure(f"sslyze ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    check_scan(result)
    found = json.loads(result.read_text())["server_scan_results"][0]["scan_result"]

    def suites(version):
        return [suite["cipher_suite"]["name"] for suite in found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]]

    old = [name for name in ("tls_1_0", "tls_1_1") if suites(name)]
    resumption = found["session_resumption"]["result"]
    tickets = (resumption or {}).get("tls_ticket_resumption_result", "no result")
    curves = found["elliptic_curves"]["result"]["supported_curves"]
    return {
        "TLS 1.0, 1.1": ", ".join(old) or "refused",
        "TLS 1.2, 1.3": ", ".join(version for name, version in (("tls_1_2", "1.2"), ("tls_1_3", "1.3")) if suites(name)),
        "suites of TLS 1.3": suites("tls_1_3"),
        "suites of TLS 1.2": suites("tls_1_2"),
        "key exchange": [curve["name"] for curve in curves],
        "resumption": f"tickets of TLS 1.2: {tickets.lower().replace('_', ' ')} (see below)",
        "renegotiation": "not vulnerable",
        "known attacks": "not vulnerable: Heartbleed, ROBOT, CCS injection, compression, 0-RTT replay",
    }


def testssl(namespace):
    """The column of testssl."""
    result = CACHE / "logs" / "scan-testssl.json"
    result.unlink(missing_ok=True)
    questions = ("--protocols", "--pfs", "--each-cipher", "--server-defaults", "--vulnerable")
    command = namespace.inside(
        *("testssl", "--warnings", "off", "--color", "0", "--nodns", "none", "--jsonfile", result, *questions),
        *("--ip", SERVER_IP["ipv4"], f"{NAME}:443"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, stdin=subprocess.DEVNULL)
    (CACHE / "logs" / "scan-testssl.txt").write_text(done.stdout + done.stderr)
    if not result.exists():
        raise Failure(f"testssl ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    found = {entry["id"]: entry for entry in json.loads(result.read_text())}

    def said(identity):
        return found.get(identity, {}).get("finding", "not asked")

    def suites(version):
        names = [entry["finding"].split()[-1] for key, entry in found.items() if key.startswith("cipher_") and version(entry["finding"])]
        return sorted(set(names))

    bad = [key for key, entry in found.items() if entry["severity"] in ("HIGH", "CRITICAL") and not key.startswith("cert_")]
    if bad:
        raise Failure(f"testssl complains of {bad}; see {result}")
    attacks = ("heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "BREACH",
               "POODLE_SSL", "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4")
    asked = [key for key in attacks if key in found]
    return {
        "TLS 1.0, 1.1": f"{said('TLS1')}, {said('TLS1_1')}",
        "TLS 1.2, 1.3": f"{said('TLS1_2')}, {said('TLS1_3')}",
        "suites of TLS 1.3": suites(lambda text: "TLS_AES" in text.split()[-1] or text.split()[-1].startswith("TLS_CHACHA20")),
        "suites of TLS 1.2": suites(lambda text: text.split()[-1].startswith(("TLS_ECDHE", "TLS_DHE", "TLS_RSA"))),
        "key exchange": said("PFS_ECDHE_curves").split(),
        "resumption": f"tickets: {said('TLS_session_ticket')}; resuming: {said('sessionresumption_ticket')} (see below)",
        "renegotiation": said("secure_client_renego"),
        "known attacks": f"nothing of severity HIGH or above among {len(asked)}: {', '.join(asked)}",
    }


def in_a_cell(value):
    """A list as its members."""
    return ", ".join(f"`{name}`" for name in value) if isinstance(value, list) else value or "not asked"


def version(*command):
    """What a program says of its version, its first number with a dot."""
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return re.search(r"\d+\.\d+[\w.]*", re.sub(r"\x1b\[[0-9;]*m", "", said.stdout + said.stderr))[0]


def testssl_version():
    """It says so in the midst of a banner."""
    said = subprocess.run(["testssl", "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return re.search(r"testssl(?:\.sh)?\s+(\d[\w.]*)", re.sub(r"\x1b\[[0-9;]*m", "", said))[1]


def main():
    """Asks all three, and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/scan-tls", description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    binary = ROOT / "target" / "release" / "unsocket"
    if not shutil.which("testssl") or not pathlib.Path(SCAN).exists():
        die("testssl or sslyze is missing: run it as scripts/scan-tls, which installs them")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pki() as certificates, Namespace() as namespace:
            with Server(binary, namespace, *certificates.options("server", "rsa"), "--workers", 2) as server:
                server.start()
                columns = {
                    f"`openssl s_client` {version('openssl', 'version')}": OpenSsl(namespace, certificates).column(),
                    f"sslyze {version(SCAN.parent / 'pip', 'show', 'sslyze')}": sslyze(namespace, certificates),
                    f"testssl {testssl_version()}": testssl(namespace),
                }
                server.stop()
    except Failure as error:
        die(str(error))
    rows = list(next(iter(columns.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {row} | " + " | ".join(in_a_cell(column[row]) for column in columns.values()) + " |" for row in rows]
    versions = crate_versions(ROOT / "Cargo.lock", "unsocket", "rustls", "aws-lc-rs")
    text = f"{datetime.date.today()}, `sudo scripts/scan-tls --write`, {versions}, two workers:\n\n" + "\n".join(lines) + "\n"
    print(text)
    if options.write:
        between(PAGE, "scripts/scan-tls writes this", lambda _: text)


if __name__ == "__main__":
    main()
