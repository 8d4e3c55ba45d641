//! Certificates for tests: one authority, servers of two names, one client; made anew for each run.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use unsocket::tls::{ClientAuth, ClientTls, Identity, ServerOptions, ServerTls, Trust};

/// The folder with `ca.pem` and, for each of `one`, `two`, `client`, `other`, its `.pem` and `.key`; `other` is of another
/// authority (`other-ca.pem`), `expired` was.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("engine-wire-pki-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let authority = authority("test authority");
        std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        let others = self::authority("other authority");
        std::fs::write(folder.join("other-ca.pem"), others.pem()).unwrap();
        for (name, issuer) in
            [("one", &authority), ("two", &authority), ("client", &authority), ("other", &others)]
        {
            issue(&folder, name, params(name), issuer);
        }
        let mut expired = params("expired");
        expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2002, 2, 3);
        issue(&folder, "expired", expired, &authority);
        folder
    })
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Writes `name.pem` and `name.key`.
fn issue(folder: &Path, name: &str, params: CertificateParams, issuer: &CertifiedIssuer<'_, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// A certificate of `folder` and its key.
pub(crate) fn identity(name: &str) -> Identity {
    let file = |end| folder().join(format!("{name}.{end}"));
    Identity { certificate: file("pem"), key: file("key") }
}

/// A server's TLS with both names.
pub(crate) fn server(client_auth: ClientAuth) -> Arc<ServerTls> {
    let identities = vec![identity("one"), identity("two")];
    Arc::new(ServerTls::load(ServerOptions { identities, client_auth }).unwrap())
}

/// A client's TLS that believes the authority.
pub(crate) fn client(identity: Option<&Identity>) -> ClientTls {
    ClientTls::load(&Trust::File(folder().join("ca.pem")), identity).unwrap()
}
