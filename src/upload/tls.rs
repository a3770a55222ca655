//! The TLS side of the connection: whom to trust, and the client certificate. Files are read with a
//! limit, because a path in a configuration may lead anywhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Settings;

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
    #[error("the system has no certificate authorities; install ca-certificates or set cloud.ca_file{cause}")]
    NoRoots { cause: String },
    #[error("cloud.client_key_file: is not set; it belongs to cloud.client_certificate_file")]
    NoKey,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A configuration for `settings`, with the roots and files as they are now. Reads the disk.
///
/// # Errors
///
/// A file or the system's roots cannot be used.
pub fn client_config(settings: &Settings) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Setup)?;
    let builder = builder.with_root_certificates(roots(settings)?);
    let mut config = match &settings.client_certificate_file {
        None => builder.with_no_client_auth(),
        Some(certificate_file) => {
            let chain = certificates(CERTIFICATE_KEY, certificate_file)?;
            let key = private_key(settings.client_key_file.as_deref().ok_or(Error::NoKey)?)?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| Error::Unusable {
                key: CERTIFICATE_KEY,
                path: certificate_file.clone(),
                cause,
            })?
        }
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(settings: &Settings) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca_file {
        for certificate in certificates(CA_KEY, path)? {
            roots.add(certificate).map_err(|cause| Error::Unusable {
                key: CA_KEY,
                path: path.clone(),
                cause,
            })?;
        }
    } else if settings.endpoint.starts_with("https:") {
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
    let bytes = read(PRIVATE_KEY_KEY, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|cause| Error::Pem {
        key: PRIVATE_KEY_KEY,
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

const CA_KEY: &str = "cloud.ca_file";
const CERTIFICATE_KEY: &str = "cloud.client_certificate_file";
const PRIVATE_KEY_KEY: &str = "cloud.client_key_file";
/// A bundle of all public authorities is about 220 KiB.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// There is one endpoint; rustls keeps 256 sessions by default.
const SESSIONS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_leads_anywhere_is_read_with_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.pem");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let problem = certificates(CA_KEY, &path).unwrap_err().to_string();
        assert!(problem.starts_with("cloud.ca_file: cannot read"), "{problem}");
        assert!(problem.ends_with("it is larger than 2097152 bytes"), "{problem}");
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.key");
        File::create(&path).unwrap();
        let problem = private_key(&path).unwrap_err().to_string();
        assert!(problem.starts_with("cloud.client_key_file:") && problem.contains("broken.key"), "{problem}");
    }
}
