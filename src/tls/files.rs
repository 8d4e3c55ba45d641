//! Certificates and keys from PEM files, checked when they are read rather than when the first peer comes.

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A certificate with its chain, and its private key: two PEM files (or twice the same one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate of the server or client itself, then those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no PEM, or a damaged one.
    #[error("{} is not a PEM file that can be read: {cause}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// What is looked for is not in it.
    #[error("{} contains no {what}; a PEM file with `-----BEGIN {label}-----` is expected", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// How that begins.
        label: &'static str,
    },
    /// The certificate cannot be understood.
    #[error("{}: the {ordinal} certificate cannot be used: {cause}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which of those in the file.
        ordinal: Ordinal,
        /// What is wrong.
        cause: String,
    },
    /// The certificate is not valid now.
    #[error(
        "{}: the certificate {verb} {} (now: {}); get a new one, or mend the clock",
        .path.display(), date(*.bound_unix_seconds), date(*.now_unix_seconds),
        verb = if bound_unix_seconds > now_unix_seconds { "is not valid before" } else { "expired on" }
    )]
    Validity {
        /// The file.
        path: PathBuf,
        /// When it becomes or became so.
        bound_unix_seconds: u64,
        /// The system's clock.
        now_unix_seconds: u64,
    },
    /// The key is of a kind that cannot be used.
    #[error("{}: the private key cannot be used: {cause}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} does not belong to the first certificate in {}: the server's own certificate must come first, \
         and the two files must be of the same pair",
        .key.display(), .certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The platform has no roots.
    #[error(
        "this system has no root certificates ({cause}); install `ca-certificates`, or name a file of root certificates"
    )]
    NoRoots {
        /// What was found instead.
        cause: String,
    },
    /// What the files contain does not make a configuration.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordinal(pub usize);

impl std::fmt::Display for Ordinal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = match (self.0 % 10, self.0 % 100) {
            (1, rest) if rest != 11 => "st",
            (2, rest) if rest != 12 => "nd",
            (3, rest) if rest != 13 => "rd",
            _ => "th",
        };
        write!(f, "{}{suffix}", self.0)
    }
}

/// What shows whether a file has changed: its time and length, those of what a symbolic link points to.
pub(super) type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The stamps of files; `None` for one that is not there.
pub(super) fn stamp<'a>(paths: impl Iterator<Item = &'a Path>) -> Stamp {
    paths
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}

impl Identity {
    /// Reads and checks both files.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, FileError> {
        let path = &self.certificate;
        let chain = certificates(path)?;
        for (index, certificate) in chain.iter().enumerate() {
            let ordinal = Ordinal(index + 1);
            check(certificate, path, ordinal, index == 0)?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| match error {
            PemError::NoItemsFound => {
                FileError::Empty { path: self.key.clone(), what: "private key", label: "PRIVATE KEY" }
            }
            error => pem_error(&self.key, error),
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| FileError::Key { path: self.key.clone(), cause: error.to_string() })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A kind of key that cannot tell is believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
            Err(_) => Err(FileError::Mismatch { certificate: path.clone(), key: self.key.clone() }),
        }
    }

    /// Both files.
    pub(super) fn paths(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }
}

/// The certificates of authorities, from a PEM file.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        store.add(certificate).map_err(|error| FileError::Certificate {
            path: path.to_owned(),
            ordinal: Ordinal(index + 1),
            cause: error.to_string(),
        })?;
    }
    Ok(store)
}

/// The roots that this system trusts.
pub(super) fn platform_roots() -> Result<RootCertStore, FileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Systems carry a few that are too odd to be read; the others are as good as before.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let cause = found.errors.first().map_or_else(|| "none was found".into(), ToString::to_string);
        return Err(FileError::NoRoots { cause });
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| pem_error(path, error))?;
    let chain = read.collect::<Result<Vec<_>, _>>().map_err(|error| pem_error(path, error))?;
    if chain.is_empty() {
        return Err(FileError::Empty { path: path.to_owned(), what: "certificate", label: "CERTIFICATE" });
    }
    Ok(chain)
}

fn pem_error(path: &Path, error: PemError) -> FileError {
    let path = path.to_owned();
    match error {
        PemError::Io(cause) => FileError::Read { path, cause },
        error => FileError::Pem { path, cause: error.to_string() },
    }
}

/// Whether a certificate can be read, and the end entity's is valid now.
fn check(
    certificate: &CertificateDer<'_>,
    path: &Path,
    ordinal: Ordinal,
    end_entity: bool,
) -> Result<(), FileError> {
    let unusable = |cause: webpki::Error| {
        let path = path.to_owned();
        match cause {
            webpki::Error::CertExpired { time, not_after: bound }
            | webpki::Error::CertNotValidYet { time, not_before: bound } => FileError::Validity {
                path,
                bound_unix_seconds: bound.as_secs(),
                now_unix_seconds: time.as_secs(),
            },
            cause => FileError::Certificate { path, ordinal, cause: cause.to_string() },
        }
    };
    let parsed = webpki::EndEntityCert::try_from(certificate);
    if !end_entity {
        // An authority's certificate: that it can be read is all that matters here.
        return match parsed {
            Ok(_) | Err(webpki::Error::CaUsedAsEndEntity) => Ok(()),
            Err(error) => Err(unusable(error)),
        };
    }
    // Nobody is trusted, so this never succeeds: but what is wrong with the certificate itself is said first.
    let parsed = parsed.map_err(unusable)?;
    let verified = parsed.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        &[],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    match verified {
        Err(
            error @ (webpki::Error::CertExpired { .. }
            | webpki::Error::CertNotValidYet { .. }
            | webpki::Error::InvalidCertValidity),
        ) => Err(unusable(error)),
        _ => Ok(()),
    }
}

/// A day, as in `2026-11-22`, from seconds since 1970 (the civil-from-days computation of the proleptic Gregorian
/// calendar).
fn date(unix_seconds: u64) -> String {
    let days = (unix_seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), day);
        }
    }

    #[test]
    fn ordinals_are_those_of_english() {
        let said: Vec<_> = [1, 2, 3, 4, 11, 12, 21, 112].map(|n| Ordinal(n).to_string()).into();
        assert_eq!(said, ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th"]);
    }
}
