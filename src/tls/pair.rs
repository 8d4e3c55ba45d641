//! Both ends of TLS within one process, with a certificate of the moment: for load generators and tests.

use super::client::{self, ClientTls};
use super::files::FileError;
use super::server::ServerTls;
use rcgen::generate_simple_self_signed;
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// A server with a new certificate for `name`, and a client that believes it alone.
///
/// # Errors
/// When `name` is none that a certificate can have.
pub fn pair(name: &str) -> Result<(ServerTls, ClientTls), FileError> {
    let setup = |error: String| FileError::Setup(error);
    let made = generate_simple_self_signed([name.to_owned()]).map_err(|error| setup(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider)
        .map_err(|error| setup(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).map_err(|error| setup(error.to_string()))?;
    let server = ServerTls::with_key(provider.clone(), certified)?;
    Ok((server, client::with_roots(provider, roots)?))
}
