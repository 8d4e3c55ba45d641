//! What a client's TLS is configured with.

use super::error::TlsError;
use super::files::{FileError, Identity, platform_roots, roots};
use super::server::ALPN;
use super::stream::Stream;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Whom a client believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The root certificates of this system.
    #[default]
    Platform,
    /// Those in a PEM file, and no others.
    File(PathBuf),
    /// Everybody: whoever is in between can read and change everything. For tests alone.
    Anybody,
}

/// A client's TLS: made once, used for any number of connections; a clone is the same. Sessions of earlier connections are
/// resumed.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Reads all files. With an `identity`, servers that ask for a certificate are shown it.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(trust: &Trust, identity: Option<&Identity>) -> Result<Self, FileError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let setup = |error: rustls::Error| FileError::Setup(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let builder = match trust {
            Trust::Platform => builder.with_root_certificates(platform_roots()?),
            Trust::File(path) => builder.with_root_certificates(roots(path)?),
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnybody(provider.clone()))),
        };
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = identity.load(&provider)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
        };
        Ok(finish(config))
    }

    /// The same, but sessions are neither kept nor resumed: each handshake is a full one.
    pub fn without_sessions(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = Resumption::disabled();
        ClientTls(Arc::new(config))
    }

    /// A new connection's TLS, to the server of this name (or IP address): it is sent as SNI and must be in the server's
    /// certificate.
    ///
    /// # Errors
    /// When the name is none.
    pub fn connect(&self, server_name: &str) -> Result<Stream, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            TlsError::Handshake(format!("`{server_name}` is no name that a certificate can have"))
        })?;
        Stream::client(UnbufferedClientConnection::new(self.0.clone(), name)?)
    }
}

/// A client that believes these roots alone.
pub(super) fn with_roots(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
) -> Result<ClientTls, FileError> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FileError::Setup(error.to_string()))?;
    Ok(finish(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn finish(mut config: ClientConfig) -> ClientTls {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    ClientTls(Arc::new(config))
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

impl PartialEq for ClientTls {
    /// Whether both are the same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ClientTls {}

/// Believes every certificate; see [`Trust::Anybody`].
#[derive(Debug)]
struct AcceptAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
