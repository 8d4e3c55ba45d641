"""Certificates for the tests of TLS, made anew by `openssl`: an authority, servers, a client."""

import pathlib

from harness import SERVER_IP, run

# What the authority signs: name, subject alternative names, days from now that it is valid (negative: it expired).
CERTIFICATES = (
    ("server", f"DNS:unsocket.test,IP:{SERVER_IP['ipv4']},IP:{SERVER_IP['ipv6']}", 30, "ec"),
    ("other", "DNS:other.test", 30, "ec"),
    ("rsa", f"DNS:rsa.test,IP:{SERVER_IP['ipv4']},IP:{SERVER_IP['ipv6']}", 30, "rsa"),
    ("client", "DNS:client.test", 30, "ec"),
)


class Pki:
    """A folder with `ca.pem`, `stranger-ca.pem`, and a `.pem` and a `.key` of each name."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        for authority in ("ca", "stranger-ca"):
            self._authority(authority)
        for name, names, days, kind in CERTIFICATES:
            self._issue("ca", name, names, days, kind)
        self._issue("stranger-ca", "stranger", "DNS:client.test", 30, "ec")

    def file(self, name):
        """The path of a file."""
        return self.folder / name

    def options(self, *names):
        """The server's options for these certificates."""
        given = ["--listen-tls", "443"]
        for name in names:
            given += ["--cert", self.file(f"{name}.pem"), "--key", self.file(f"{name}.key")]
        return given

    def environment(self):
        """What makes the usual clients trust the authority: OpenSSL's, rustls' and Node.js' variables."""
        ca = self.file("ca.pem")
        return ["env", f"SSL_CERT_FILE={ca}", f"NODE_EXTRA_CA_CERTS={ca}"]

    def _key(self, name, kind):
        form = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        if kind == "rsa":
            form = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
        run("openssl", "genpkey", *form, "-out", str(self.file(f"{name}.key")))

    def _authority(self, name):
        self._key(name, "ec")
        run(
            *("openssl", "req", "-x509", "-new", "-subj", f"/CN=unsocket test {name}", "-days", "30"),
            *("-key", str(self.file(f"{name}.key")), "-out", str(self.file(f"{name}.pem"))),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def _issue(self, authority, name, names, days, kind):
        self._key(name, kind)
        request, extensions = self.file(f"{name}.csr"), self.file(f"{name}.ext")
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run(
            *("openssl", "req", "-new", "-subj", f"/CN={name}", "-key", str(self.file(f"{name}.key"))),
            *("-out", str(request)),
        )
        run(
            *("openssl", "x509", "-req", "-in", str(request), "-days", str(days), "-extfile", str(extensions)),
            *("-CA", str(self.file(f"{authority}.pem")), "-CAkey", str(self.file(f"{authority}.key"))),
            *("-CAcreateserial", "-out", str(self.file(f"{name}.pem"))),
        )

    def expire(self, name):
        """Writes `expired.pem`, the certificate of `name` over again, but of a time that has gone by."""
        config = self.file("expired.cnf")
        config.write_text(
            "[ca]\ndefault_ca = authority\n"
            f"[authority]\ndatabase = {self.folder}/index\nnew_certs_dir = {self.folder}\nrand_serial = yes\n"
            "default_md = sha256\npolicy = policy\n[policy]\ncommonName = supplied\n"
        )
        self.file("index").touch()
        run(
            *("openssl", "ca", "-batch", "-notext", "-config", str(config), "-in", str(self.file(f"{name}.csr"))),
            *("-cert", str(self.file("ca.pem")), "-keyfile", str(self.file("ca.key"))),
            *("-extfile", str(self.file(f"{name}.ext"))),
            *("-startdate", "20200101000000Z", "-enddate", "20210203000000Z", "-out", str(self.file("expired.pem"))),
        )
