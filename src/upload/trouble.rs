//! What went wrong on the way to the endpoint, for a person to read: never a URL or a secret.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::Settings;

/// What went wrong, on one line, with what to do about it.
pub fn explain(error: &(dyn Error + 'static), settings: &Settings) -> String {
    let cause = chain(error);
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            // An authority that was made anew under its old name shows as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "{cause}: the server's certificate is signed by no authority that is trusted here; check {}",
                if settings.tls.ca_file.is_some() {
                    "cloud.ca_file"
                } else {
                    "the system's authorities or set cloud.ca_file"
                }
            ),
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                format!("{cause}; check the server's certificate and the clock of this device")
            }
            _ => cause,
        },
        Some(rustls::Error::AlertReceived(_)) if settings.tls.client_certificate_file.is_none() => {
            format!("{cause}; it may want a client certificate: see cloud.client_certificate_file")
        }
        _ => cause,
    }
}

/// The error and its causes, each once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let next = error.to_string();
        // Some repeat their cause in their own text.
        if !text.contains(&next) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Whether the server's certificate is what is wrong.
pub fn is_certificate_error(error: &(dyn Error + 'static)) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether the server's certificate begins to be valid after what this device takes for now.
pub fn is_not_yet_valid(error: &(dyn Error + 'static)) -> bool {
    matches!(
        tls_error(error),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
        ))
    )
}

/// The error of TLS among the causes.
pub fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // `source` of an io::Error skips the error that it wraps, and here they are wrapped twice.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
