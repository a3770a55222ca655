//! Lets a fresh client take over the session that the broker kept.
//!
//! The client library refuses a kept session unless it finds its own half of it in a session store.
//! For a client that only receives, that half is empty: what the broker sends again is told apart by
//! the caller.

use rumqttc::{PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey};

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// `PersistedSession::format_version` as written by rumqttc-next 0.34.
const FORMAT_VERSION: u16 = 1;

/// Messages that we publish: none, and 0 is not allowed. With the default the library keeps, and scans at
/// every flush, 16 MB of slots for 65535 messages under way. The kept session must name the same limit.
pub const OUTGOING_MAX: u16 = 1;

/// A session store that always holds a session in which nothing is under way.
#[derive(Debug)]
pub struct EmptySession {
    pub session_expiry_seconds: u32,
}

impl SessionStore for EmptySession {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: FORMAT_VERSION,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(self.session_expiry_seconds),
            // What the options say, or the client refuses the session.
            outgoing_inflight_upper_limit: Some(OUTGOING_MAX),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(&'a self, _key: &'a SessionStoreKey, _session: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _key: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
