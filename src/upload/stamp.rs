//! The files that a request depends on: when one is replaced, it is read again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Proxy, Settings};
use crate::tls;

/// Device, inode, size and time of the last change of a file; `None` when there is none.
pub type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Of every file that a request depends on.
pub fn stamps(settings: &Settings) -> Vec<Stamp> {
    let mut stamps = certificate_stamps(settings);
    let proxy = match &settings.proxy {
        Proxy::Url(url) => Some(url),
        _ => None,
    };
    let secrets = settings.api_key.iter().chain(proxy);
    stamps.extend(secrets.flat_map(|secret| secret.files().map(stamp)));
    stamps
}

pub fn certificate_stamps(settings: &Settings) -> Vec<Stamp> {
    file_stamps(&settings.tls)
}

/// Of certificates and keys.
pub fn file_stamps(files: &tls::Files) -> Vec<Stamp> {
    [&files.ca_file, &files.client_certificate_file, &files.client_key_file]
        .map(|path| path.as_deref().and_then(stamp))
        .into()
}

fn stamp(path: &Path) -> Stamp {
    let file = path.metadata().ok()?;
    Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}
