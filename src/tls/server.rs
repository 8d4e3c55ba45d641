//! What a server's TLS is configured with, and its exchange while connections go on.

use super::error::TlsError;
use super::files::{FileError, Identity, Stamp, roots, stamp};
use super::stream::Stream;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// The protocol that is spoken inside, RFC 7301: a WebSocket begins as HTTP/1.1 (RFC 6455 section 4.1).
pub(super) const ALPN: &[u8] = b"http/1.1";

/// Whether clients have to show a certificate, and whose is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// Who has one may show it; one that does not verify ends the handshake.
    Optional {
        /// PEM file of the authorities that issue them.
        authorities: PathBuf,
    },
    /// No connection without.
    Required {
        /// PEM file of the authorities that issue them.
        authorities: PathBuf,
    },
}

impl ClientAuth {
    fn authorities(&self) -> Option<&Path> {
        match self {
            ClientAuth::None => None,
            ClientAuth::Optional { authorities } | ClientAuth::Required { authorities } => Some(authorities),
        }
    }
}

/// What a server's TLS is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerOptions {
    /// Certificates; the client's SNI chooses among them, and the first is for those that name none of theirs.
    pub identities: Vec<Identity>,
    /// Certificates of clients.
    pub client_auth: ClientAuth,
}

/// A server's TLS: shared by all workers, exchangeable while they run.
pub struct ServerTls {
    options: ServerOptions,
    provider: Arc<CryptoProvider>,
    current: RwLock<Current>,
}

/// What new handshakes use.
struct Current {
    config: Arc<ServerConfig>,
    /// What the authorities' file contained: tickets are good for those who were verified against it.
    authorities: Vec<u8>,
    stamp: Stamp,
}

impl ServerTls {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(options: ServerOptions) -> Result<Self, FileError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ticketer = new_ticketer()?;
        let current = Current::load(&options, &provider, ticketer)?;
        Ok(ServerTls { options, provider, current: RwLock::new(current) })
    }

    /// A new connection's TLS. What is shared between workers is read here, once for each connection.
    ///
    /// # Errors
    /// When the configuration cannot make one.
    pub fn accept(&self) -> Result<Stream, TlsError> {
        let config = self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone();
        Ok(Stream::server(UnbufferedServerConnection::new(config)?))
    }

    /// Whether a file is another one than what was last read.
    pub fn has_changed(&self) -> bool {
        let now = stamp(self.options.paths());
        self.current.read().unwrap_or_else(PoisonError::into_inner).stamp != now
    }

    /// Reads all files again. New handshakes use what is in them, connections that are open go on. Tickets stay good
    /// unless the authorities for client certificates changed.
    ///
    /// # Errors
    /// The first file that cannot be used: then everything stays as it was, until a file changes again.
    pub fn reload(&self) -> Result<(), FileError> {
        let (ticketer, authorities) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.config.ticketer.clone(), current.authorities.clone())
        };
        let stamp_before = stamp(self.options.paths());
        let loaded = Current::load(&self.options, &self.provider, ticketer).and_then(|loaded| {
            if loaded.authorities == authorities {
                return Ok(loaded);
            }
            // A session of somebody whom the new authorities do not know must not be resumed.
            Current::load(&self.options, &self.provider, new_ticketer()?)
        });
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(loaded) => {
                *current = loaded;
                Ok(())
            }
            Err(error) => {
                // The same bad file is complained of once.
                current.stamp = stamp_before;
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ServerOptions {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.identities.iter().flat_map(Identity::paths).chain(self.client_auth.authorities())
    }
}

impl Current {
    fn load(
        options: &ServerOptions,
        provider: &Arc<CryptoProvider>,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> Result<Self, FileError> {
        // Before the files are read: one that changes meanwhile is read again.
        let stamp = stamp(options.paths());
        let mut keys = Vec::with_capacity(options.identities.len());
        for identity in &options.identities {
            keys.push(Arc::new(identity.load(provider)?));
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| FileError::Setup(error.to_string()))?;
        let mut authorities = Vec::new();
        let builder = match options.client_auth.authorities() {
            None => builder.with_no_client_auth(),
            Some(path) => {
                authorities =
                    std::fs::read(path).map_err(|cause| FileError::Read { path: path.to_owned(), cause })?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider.clone());
                let verifier = match options.client_auth {
                    ClientAuth::Optional { .. } => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| FileError::Setup(error.to_string()))?,
                )
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName(keys)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets hold what a session needs: nothing is stored here, and every worker can resume what another began.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer;
        config.send_tls13_tickets = 1;
        // The record layer is ours (see the module).
        config.enable_secret_extraction = true;
        Ok(Current { config: Arc::new(config), authorities, stamp })
    }
}

fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, FileError> {
    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| FileError::Setup(error.to_string()))
}

/// Chooses a certificate by the name that the client asks for (RFC 6066 section 3).
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    /// The first certificate that is valid for the name and whose key can sign as the client wants; without a name, or
    /// when none is valid for it, the first whose key can.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let usable = || self.0.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| usable().find(|key| is_valid_for(key, &name)));
        named.or_else(|| usable().next()).cloned()
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().ok().and_then(|der| ParsedCertificate::try_from(der).ok());
    parsed.is_some_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
