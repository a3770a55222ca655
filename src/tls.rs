//! TLS for the agent's clients: whom to trust, and the client certificate. Files are read with a limit,
//! because a path in a configuration may lead anywhere.

mod validity;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::section::Section;

pub use validity::expires_at;

/// Where certificates and keys are; all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Trusted instead of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// The client's chain and key; both or neither.
    pub client_certificate_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
}

impl Files {
    /// Reads [`CA`], [`CERTIFICATE`] and [`KEY`]. An empty path counts as not given.
    pub fn read(section: &mut Section<'_>) -> Self {
        let mut path = |key| section.path(key).filter(|path| !path.as_os_str().is_empty());
        let files = Self {
            ca_file: path(CA),
            client_certificate_file: path(CERTIFICATE),
            client_key_file: path(KEY),
        };
        match (&files.client_certificate_file, &files.client_key_file) {
            (Some(_), None) => {
                section.refuse(CERTIFICATE, format_args!("is given without {KEY}; give both or neither"))
            }
            (None, Some(_)) => {
                section.refuse(KEY, format_args!("is given without {CERTIFICATE}; give both or neither"))
            }
            _ => {}
        }
        files
    }
}

/// When the certificates of [`Files`] expire, in Unix seconds; of several the first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expiry {
    pub client: Option<f64>,
    pub authority: Option<f64>,
}

impl Files {
    /// Looks at the files as they are now. What cannot be read has no time.
    pub fn expiry(&self) -> Expiry {
        let first = |key, path: &Option<PathBuf>| {
            let found = certificates(key, path.as_ref()?).ok()?;
            found.iter().filter_map(|certificate| expires_at(certificate)).min_by(f64::total_cmp)
        };
        Expiry {
            client: first(CERTIFICATE, &self.client_certificate_file),
            authority: first(CA, &self.ca_file),
        }
    }
}

/// Why no connection can be set up. All are tried again later: files get replaced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{key}: cannot read {}: {cause}", path.display())]
    Read { key: &'static str, path: PathBuf, cause: io::Error },
    #[error("{key}: {} is not usable: {cause}; give a PEM file", path.display())]
    Pem { key: &'static str, path: PathBuf, cause: pem::Error },
    #[error("{key}: {} holds no certificate; give a PEM file", path.display())]
    Empty { key: &'static str, path: PathBuf },
    #[error("{key}: {} holds a certificate that cannot be used: {cause}", path.display())]
    Unusable { key: &'static str, path: PathBuf, cause: rustls::Error },
    #[error("the system has no certificate authorities; install ca-certificates or set ca_file{cause}")]
    NoRoots { cause: String },
    #[error("{KEY}: is not set; it belongs to {CERTIFICATE}")]
    NoKey,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl Error {
    /// The message, with the section of the configuration before a key.
    pub fn in_section(&self, section: &str) -> String {
        match self {
            Self::Read { .. }
            | Self::Pem { .. }
            | Self::Empty { .. }
            | Self::Unusable { .. }
            | Self::NoKey => {
                format!("{section}.{self}")
            }
            Self::NoRoots { .. } | Self::Setup(_) => self.to_string(),
        }
    }
}

/// A configuration for TLS 1.2 and 1.3, with the roots and files as they are now. Reads the disk.
/// Without `needs_roots` the system's are not loaded: nothing is going to be encrypted.
///
/// # Errors
///
/// A file or the system's roots cannot be used.
pub fn client_config(files: &Files, needs_roots: bool) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Setup)?;
    let builder = builder.with_root_certificates(roots(files, needs_roots)?);
    let mut config = match &files.client_certificate_file {
        None => builder.with_no_client_auth(),
        Some(certificate_file) => {
            let chain = certificates(CERTIFICATE, certificate_file)?;
            let key = private_key(files.client_key_file.as_deref().ok_or(Error::NoKey)?)?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| Error::Unusable {
                key: CERTIFICATE,
                path: certificate_file.clone(),
                cause,
            })?
        }
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}

fn roots(files: &Files, needs_roots: bool) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &files.ca_file {
        for certificate in certificates(CA, path)? {
            let unusable = |cause| Error::Unusable { key: CA, path: path.clone(), cause };
            roots.add(certificate).map_err(unusable)?;
        }
    } else if needs_roots {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let cause = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
            return Err(Error::NoRoots { cause });
        }
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|cause| Error::Pem { key, path: path.to_owned(), cause })?;
    if found.is_empty() { Err(Error::Empty { key, path: path.to_owned() }) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|cause| Error::Pem {
        key: KEY,
        path: path.to_owned(),
        cause,
    })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let bounded = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    };
    bounded().map_err(|cause| Error::Read { key, path: path.to_owned(), cause })
}

const CA: &str = "ca_file";
const CERTIFICATE: &str = "client_certificate_file";
const KEY: &str = "client_key_file";
/// A bundle of all public authorities is about 220 KiB.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Each client has one peer; rustls keeps 256 sessions by default.
const SESSIONS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_leads_anywhere_is_read_with_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.pem");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let problem = certificates(CA, &path).unwrap_err().to_string();
        assert!(problem.starts_with("ca_file: cannot read"), "{problem}");
        assert!(problem.ends_with("it is larger than 2097152 bytes"), "{problem}");
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.key");
        File::create(&path).unwrap();
        let problem = private_key(&path).unwrap_err().to_string();
        assert!(problem.starts_with("client_key_file:") && problem.contains("broken.key"), "{problem}");
    }
}
