//! Which messages are taken in already, should the broker send them again.
//!
//! A broker sends again, marked as a duplicate and under its old packet identifier, what it has seen no
//! acknowledgement of (MQTT 5, 4.4). A connection or a process that ends between the commit and the PUBACK makes
//! that happen, and the same readings would be stored twice. So every commit keeps which messages it holds.
//!
//! To take a new message for an old one would lose it; what is not sure counts as new.

use std::collections::HashMap;

use rumqttc::mqttbytes::v5::Publish;

/// Messages of one [`Known::newer`]: what a table of 80 KiB holds. Two of them stay far below the 65,535 after
/// which the identifiers of a broker that counts them up come round.
const GENERATION_MAX: usize = 14_336;
/// Of one [`encode`]d list, in bytes; nobody wrote a longer one.
const LIST_BYTES_MAX: usize = 5 + 2 * GENERATION_MAX * 6;

/// One message, as far as it has to be told from others that had its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Packet identifier.
    id: u16,
    /// Of topic and payload. Short, as it is written to flash with every message, and enough: it is asked only
    /// whether a message that is marked as sent before, under this identifier, is the one that had it last.
    digest: u16,
}

impl Key {
    pub fn of(publish: &Publish) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&publish.topic);
        crc.update(&publish.payload);
        let crc = crc.finalize();
        Self { id: publish.pkid, digest: (crc ^ crc >> 16) as u16 }
    }
}

/// The messages of one session with a broker that were taken in last: between one generation and two.
///
/// More than our receive maximum, as brokers do not keep to it: mosquitto 2.0.11 has another such number under way
/// after every connection that ended, and sends all of them again.
#[derive(Debug)]
pub struct Known {
    /// Which session: of another one nothing is known.
    session: u32,
    /// The digests by packet identifier. Once this is full it takes the place of `older`.
    newer: HashMap<u16, u16>,
    older: HashMap<u16, u16>,
    /// The broker gave an identifier to another message as soon as it was free. Then one that is sent again may be
    /// another one that got lost on the way, and with the same content it could not be told apart.
    reuses_soon: bool,
}

impl Known {
    /// Of the session of `client_id` with the broker at `host` and `port`; as far as `lists` says, which is what
    /// [`Self::list`] and [`Self::save`] wrote.
    pub fn new((client_id, host, port): (&str, &str, u16), lists: &[u8]) -> Self {
        let session = crc32fast::hash(format!("{client_id}\n{host}\n{port}").as_bytes());
        let mut known = Self { session, newer: HashMap::new(), older: HashMap::new(), reuses_soon: false };
        for (_, reuses_soon, keys) in Lists(lists).filter(|(of, ..)| *of == session) {
            known.reuses_soon |= reuses_soon;
            keys.into_iter().for_each(|key| known.learn(key));
        }
        known
    }

    /// Whether `publish` is known as taken in. To be asked once for each message, as it comes.
    pub fn holds(&mut self, publish: &Publish, key: Key, is_exactly_once: bool) -> bool {
        if !publish.dup {
            // Sent for the first time: the one that had the identifier before is acknowledged.
            self.reuses_soon |= self.remove(key.id) && !is_exactly_once;
            return false;
        }
        // With QoS 2 the identifier is not free before both sides have completed the handshake.
        let is_certain = is_exactly_once || !self.reuses_soon;
        let digest = self.newer.get(&key.id).or_else(|| self.older.get(&key.id));
        is_certain && digest == Some(&key.digest)
    }

    /// Notes a message whose readings are committed.
    pub fn learn(&mut self, key: Key) {
        if self.newer.len() == GENERATION_MAX {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.newer.insert(key.id, key.digest);
    }

    /// The handshake of a QoS 2 message is complete.
    pub fn released(&mut self, id: u16) {
        self.remove(id);
    }

    /// The broker began a new session.
    pub fn forget(&mut self) {
        self.newer.clear();
        self.older.clear();
        self.reuses_soon = false;
    }

    /// The list to be committed with the messages `keys`.
    pub fn list(&self, keys: &[Key]) -> Vec<u8> {
        if keys.is_empty() { Vec::new() } else { encode(self.session, self.reuses_soon, keys) }
    }

    /// All of it as a list, for a source that starts anew.
    pub fn save(&self) -> Vec<u8> {
        let of = |generation: &HashMap<u16, u16>| {
            let mut keys: Vec<Key> = generation.iter().map(|(&id, &digest)| Key { id, digest }).collect();
            keys.sort_by_key(|key| key.id);
            self.list(&keys)
        };
        [of(&self.older), of(&self.newer)].concat()
    }

    /// Whether it was there.
    fn remove(&mut self, id: u16) -> bool {
        let (newer, older) = (self.newer.remove(&id), self.older.remove(&id));
        newer.or(older).is_some()
    }
}

/// Length of the rest, session, flags; then runs of consecutive identifiers: the first, their number, the digest
/// of each. All in little-endian order.
fn encode(session: u32, reuses_soon: bool, keys: &[Key]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(9 + 2 * keys.len());
    rest.extend(session.to_le_bytes());
    rest.push(u8::from(reuses_soon));
    let follows = |a: &Key, b: &Key| a.id.checked_add(1) == Some(b.id);
    for run in keys.chunk_by(follows) {
        rest.extend(run[0].id.to_le_bytes());
        rest.extend(u16::try_from(run.len()).expect("identifiers end at 65,535").to_le_bytes());
        rest.extend(run.iter().flat_map(|key| key.digest.to_le_bytes()));
    }
    let length = u32::try_from(rest.len()).expect("a batch is far below 4 GiB");
    [&length.to_le_bytes()[..], &rest].concat()
}

/// Reads lists one after the other, up to one that makes no sense: they come from a file.
struct Lists<'l>(&'l [u8]);

impl Iterator for Lists<'_> {
    type Item = (u32, bool, Vec<Key>);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= LIST_BYTES_MAX)?;
        let (list, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        let (session, list) = list.split_first_chunk()?;
        let (flags, mut list) = list.split_first()?;
        let mut keys = Vec::new();
        while let Some((id, rest)) = list.split_first_chunk() {
            let (count, rest) = rest.split_first_chunk()?;
            let count = u16::from_le_bytes(*count);
            let (digests, rest) = rest.split_at_checked(2 * usize::from(count))?;
            list = rest;
            let ids = (0..count).map(|at| u16::from_le_bytes(*id).wrapping_add(at));
            let digests = digests.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            keys.extend(ids.zip(digests).map(|(id, digest)| Key { id, digest }));
        }
        Some((u32::from_le_bytes(*session), *flags & 1 != 0, keys))
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;

    use super::*;

    const SESSION: (&str, &str, u16) = ("agent", "broker", 1883);

    fn message(id: u16, payload: &str, dup: bool) -> (Publish, Key) {
        let mut publish = Publish::new("t", QoS::AtLeastOnce, payload.to_owned(), None);
        (publish.pkid, publish.dup) = (id, dup);
        let key = Key::of(&publish);
        (publish, key)
    }

    fn key(id: u16, payload: &str) -> Key {
        message(id, payload, false).1
    }

    fn known(keys: &[Key]) -> Known {
        let mut known = Known::new(SESSION, &[]);
        keys.iter().for_each(|key| known.learn(*key));
        known
    }

    fn holds(known: &mut Known, (publish, key): (Publish, Key)) -> bool {
        known.holds(&publish, key, false)
    }

    #[test]
    fn only_what_is_sent_again_under_its_identifier_with_its_content_is_known() {
        let mut known = known(&[key(5, "a")]);
        assert!(!holds(&mut known, message(5, "b", true)));
        assert!(!holds(&mut known, message(6, "a", true)));
        assert!(holds(&mut known, message(5, "a", true)));
        assert!(holds(&mut known, message(5, "a", true)), "and for as long as it is sent again");
        assert!(!holds(&mut known, message(5, "a", false)), "what is sent for the first time is new");
        assert!(!holds(&mut known, message(5, "a", true)), "and perhaps not committed yet");
    }

    #[test]
    fn a_broker_that_reuses_identifiers_at_once_is_not_trusted_to_send_the_same_again() {
        let mut known = known(&[key(1, "on"), key(2, "on")]);
        assert!(holds(&mut known, message(2, "on", true)));
        assert!(!holds(&mut known, message(1, "on", false)));
        assert!(!holds(&mut known, message(2, "on", true)));
        let (publish, exact) = message(2, "on", true);
        assert!(known.holds(&publish, exact, true), "of QoS 2 the identifier is not free before");
        let mut again = Known::new(SESSION, &known.save());
        assert!(!holds(&mut again, message(2, "on", true)), "and that outlives a restart");
        known.forget();
        known.learn(key(3, "on"));
        assert!(holds(&mut known, message(3, "on", true)), "a new session, a new broker");
    }

    #[test]
    fn as_much_is_known_as_brokers_have_under_way() {
        let mut known = Known::new(SESSION, &[]);
        let ids = 1..=65_535;
        ids.clone().for_each(|id| known.learn(key(id, "x")));
        let count = |known: &mut Known| ids.clone().filter(|id| holds(known, message(*id, "x", true))).count();
        let newest = |known: &mut Known| (65_535 - 14_336..=65_535).all(|id| holds(known, message(id, "x", true)));
        assert!(count(&mut known) <= 2 * GENERATION_MAX && newest(&mut known));
        let saved = known.save();
        assert!(saved.len() < 2 * (4 + LIST_BYTES_MAX) && newest(&mut Known::new(SESSION, &saved)));
        known.released(65_535);
        assert!(!holds(&mut known, message(65_535, "x", true)));
    }

    #[test]
    fn lists_of_commits_are_read_back_for_their_session_alone() {
        let known = known(&[]);
        let keys: Vec<Key> = [7, 8, 9, 20, 65_535].into_iter().map(|id| key(id, &id.to_string())).collect();
        let first = known.list(&keys[..3]);
        assert_eq!(first.len(), 4 + 5 + 4 + 3 * 2, "two bytes a message where identifiers follow each other");
        let other = Known::new(("other", "broker", 1883), &[]).list(&[key(30, "30")]);
        let lists = [first, other, known.list(&keys[3..]), known.list(&[])].concat();
        let mut again = Known::new(SESSION, &lists);
        for id in [7, 8, 9, 20, 65_535] {
            assert!(holds(&mut again, message(id, &id.to_string(), true)), "{id}");
        }
        assert!(!holds(&mut again, message(30, "30", true)));
    }

    #[test]
    fn whatever_stands_in_the_file_is_read_without_harm() {
        let lists = known(&[]).list(&[key(1, "a"), key(2, "b"), key(9, "c")]);
        for end in 0..lists.len() {
            Known::new(SESSION, &lists[..end]);
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut lists = [&lists[..], &lists[..]].concat();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..lists.len());
                lists[at] = random.u8(..);
            }
            let known = Known::new(SESSION, &lists);
            assert!(known.newer.len() <= GENERATION_MAX && known.older.len() <= GENERATION_MAX);
        }
    }
}
