//! TLS for the agent's clients: the system's roots or a private CA, and client certificates.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::section::Section;

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
    /// Reads `ca_file`, `client_certificate_file` and `client_key_file`.
    pub fn read(section: &mut Section<'_>) -> Self {
        let files = Self {
            ca_file: section.path("ca_file"),
            client_certificate_file: section.path("client_certificate_file"),
            client_key_file: section.path("client_key_file"),
        };
        if files.client_certificate_file.is_some() && files.client_key_file.is_none() {
            section.missing("client_key_file", "the key of client_certificate_file");
        }
        if files.client_key_file.is_some() && files.client_certificate_file.is_none() {
            section.missing("client_certificate_file", "the certificate of client_key_file");
        }
        files
    }
}

/// Why no TLS configuration can be made. Retried: the files may be put right while the agent runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no usable PEM {what}: {detail}", path = path.display())]
    Pem { path: PathBuf, what: &'static str, detail: String },
    #[error("the system has no root certificates; install ca-certificates or set ca_file")]
    NoRoots,
    #[error("client_certificate_file and client_key_file do not fit: {0}")]
    ClientCertificate(rustls::Error),
}

/// Reads the files and builds a configuration for clients: TLS 1.2 and 1.3.
///
/// # Errors
///
/// A file cannot be read or used.
pub fn client_config(files: &Files) -> Result<Arc<ClientConfig>, Error> {
    let roots = match &files.ca_file {
        Some(path) => private_roots(path)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let config = match (&files.client_certificate_file, &files.client_key_file) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(Error::ClientCertificate)?,
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // Roots that cannot be used are left out: one odd certificate must not take the agent offline.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(Error::NoRoots) } else { Ok(roots) }
}

fn private_roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::Pem {
            path: path.to_owned(),
            what: "certificate",
            detail: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path)?;
    let unusable = |detail: String| Error::Pem { path: path.to_owned(), what: "certificate", detail };
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("none found".to_owned())) } else { Ok(certificates) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| Error::Pem {
        path: path.to_owned(),
        what: "private key",
        detail: error.to_string(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    /// A chain or a bundle of roots is far smaller, in bytes.
    const FILE_BYTES_MAX: u64 = 1024 * 1024;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}
