//! What a client's TLS is told on the command line.

use crate::tls::{ClientTls, FileError, Identity, Trust};
use clap::Args;
use std::path::PathBuf;

/// Whom to believe, and who we are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS (wss://)")]
pub(super) struct TlsArgs {
    /// PEM file with the only authorities to believe [default: none, those that this system trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe any certificate: whoever is in between can read and change everything. For tests alone
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// PEM file with the certificate to show to servers that ask for one [default: none]
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// PEM file with its private key [default: none]
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads all files; warns, loudly, where nothing is verified.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub(super) fn load(&self) -> Result<ClientTls, FileError> {
        if self.insecure {
            eprintln!(
                "warning: --insecure: the server's certificate is NOT verified, anybody may read along"
            );
        }
        let trust = match (&self.ca, self.insecure) {
            (Some(path), _) => Trust::File(path.clone()),
            (None, true) => Trust::Anybody,
            (None, false) => Trust::Platform,
        };
        let identity = self.client_cert.clone().zip(self.client_key.clone());
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        ClientTls::load(&trust, identity.as_ref())
    }

    /// The first option that was given, if any.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--ca", self.ca.is_some()),
            ("--insecure", self.insecure),
            ("--client-cert", self.client_cert.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }
}
