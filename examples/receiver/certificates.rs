//! Certificates to try TLS with: an authority, and what it signs for a server and a client.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// An authority of one's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
    /// A server certificate whose time is over.
    ExpiredServer,
    /// A server certificate whose time has not come.
    FutureServer,
}

impl Authority {
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Signs a certificate: for a server of `localhost`, `receiver.test`, 127.0.0.1 and ::1, or for a client.
    pub fn sign(&self, usage: Usage) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "receiver.test", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = match usage {
            Usage::Server | Usage::ExpiredServer | Usage::FutureServer => CertificateParams::new(names)?,
            Usage::Client => CertificateParams::default(),
        };
        let (name, extended) = match usage {
            Usage::Server | Usage::ExpiredServer | Usage::FutureServer => {
                ("receiver", ExtendedKeyUsagePurpose::ServerAuth)
            }
            Usage::Client => ("device", ExtendedKeyUsagePurpose::ClientAuth),
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![extended];
        if usage == Usage::ExpiredServer {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        if usage == Usage::FutureServer {
            params.not_before = date_time_ymd(2090, 1, 1);
            params.not_after = date_time_ymd(2100, 1, 1);
        }
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate_pem, key_pem: key.serialize_pem() })
    }
}

/// What a server needs; with `client_ca_pem` only clients with a certificate of it may speak.
pub fn server_config(
    certificate_pem: &str,
    key_pem: &str,
    client_ca_pem: Option<&str>,
) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

/// Makes an authority, a server and a client certificate in `folder`, unless they are there.
pub fn provide(folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if folder.join("ca.pem").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let authority = Authority::new("receiver test authority")?;
    for (usage, name) in [(Usage::Server, "server"), (Usage::Client, "client")] {
        let identity = authority.sign(usage)?;
        write(&folder.join(format!("{name}.pem")), &identity.certificate_pem, 0o644)?;
        write(&folder.join(format!("{name}.key")), &identity.key_pem, 0o600)?;
    }
    // Last, because it says that all are there.
    write(&folder.join("ca.pem"), &authority.pem, 0o644)?;
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?
        .write_all(text.as_bytes())
}
