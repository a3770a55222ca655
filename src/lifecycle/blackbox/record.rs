//! What stands in the black box: records of one fixed size, each whole or not there at all.

use std::fmt;

use serde::Serialize;

use crate::reading::clip;

/// One record, padding included. Smaller than any page, so that a write to it dirties one.
pub const RECORD_BYTES: usize = 512;
/// The file: 64 KiB.
pub const RECORDS: usize = 128;
/// Signs of life overwrite each other here, at the start of the file: they would push everything else
/// out of the ring. Two, so that a torn one leaves the one before.
pub const ALIVE_SLOTS: usize = 2;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum What {
    /// Version and configuration file.
    Start = 1,
    Ready = 2,
    Reloaded = 3,
    ReloadRefused = 4,
    /// A lasting condition: delivery in trouble, the disk full.
    Begins = 5,
    Ends = 6,
    ClockSynchronised = 7,
    /// A stage does not move; the service manager is no longer pinged.
    Stuck = 8,
    Moves = 9,
    /// A sign of life: what each stage was doing.
    Alive = 10,
    /// Told to stop; the drain begins.
    Stopping = 11,
    /// Ended as asked.
    Stopped = 12,
    /// Ended by itself, with the reason.
    Failed = 13,
    /// Some thread panicked. That may be a source, which starts again alone.
    Panicked = 14,
    /// The store was put right at its start.
    Salvaged = 15,
    /// What the service manager knows of an end that came without a word.
    Killed = 16,
}

impl What {
    const ALL: [Self; 16] = [
        Self::Start,
        Self::Ready,
        Self::Reloaded,
        Self::ReloadRefused,
        Self::Begins,
        Self::Ends,
        Self::ClockSynchronised,
        Self::Stuck,
        Self::Moves,
        Self::Alive,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Panicked,
        Self::Salvaged,
        Self::Killed,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|what| *what as u8 == number)
    }

    /// Whether a run says by it how it ended.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Killed)
    }

    /// Whether it has to survive a power cut that comes right behind it.
    pub fn is_synced(self) -> bool {
        matches!(
            self,
            Self::Start
                | Self::Stuck
                | Self::Stopped
                | Self::Failed
                | Self::Panicked
                | Self::Salvaged
                | Self::Killed
        )
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Reloaded => "reloaded",
            Self::ReloadRefused => "reload refused",
            Self::Begins => "begins",
            Self::Ends => "ends",
            Self::ClockSynchronised => "clock synchronised",
            Self::Stuck => "stuck",
            Self::Moves => "moves again",
            Self::Alive => "alive",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Salvaged => "store salvaged",
            Self::Killed => "killed",
        })
    }
}

/// The kernel's name of a boot; all zero where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// From its usual form, hexadecimal with dashes.
    pub fn parse(text: &str) -> Self {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let bytes = u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes();
        Self(if digits.len() == 32 { bytes } else { [0; 16] })
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// How often the OOM killer struck, as far as the kernel tells; 0 where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomKills {
    /// Anywhere on the board since boot.
    pub board: u32,
    /// In this process's control group, which a service manager makes anew at each start.
    pub cgroup: u32,
    /// In the group above it and everything below that, also what is gone; `None` where it is not counted.
    pub above: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Grows by one with each record of this file.
    pub sequence: u64,
    pub what: What,
    pub boot_id: BootId,
    /// Boot clock.
    pub since_boot_ms: u64,
    /// Wall clock, Unix UTC; provisional while it is not synchronised.
    pub unix_ms: i64,
    pub synchronised: bool,
    pub oom_kills: OomKills,
    pub detail: String,
}

impl Record {
    /// Its place in the file. A detail that is too long is cut, control characters become spaces.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let detail: String = self.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let detail = clip(&detail, RECORD_BYTES - HEAD_BYTES).as_bytes();
        let mut bytes = [0; RECORD_BYTES];
        bytes[4] = FORMAT;
        bytes[5] = self.what as u8;
        bytes[6..8].copy_from_slice(&(detail.len() as u16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.unix_ms.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.since_boot_ms.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.boot_id.0);
        bytes[48..52].copy_from_slice(&self.oom_kills.board.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.oom_kills.cgroup.to_le_bytes());
        bytes[56] = u8::from(self.synchronised);
        if let Some(above) = self.oom_kills.above {
            bytes[57] = 1;
            bytes[58..62].copy_from_slice(&above.to_le_bytes());
        }
        bytes[HEAD_BYTES..HEAD_BYTES + detail.len()].copy_from_slice(detail);
        let checksum = checksum(&bytes[4..]).to_le_bytes();
        bytes[..4].copy_from_slice(&checksum);
        bytes
    }

    /// `None` for what is empty, torn or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RECORD_BYTES || number(&bytes[..4]) != u64::from(checksum(&bytes[4..])) {
            return None;
        }
        let detail_bytes = usize::try_from(number(&bytes[6..8])).ok()?;
        let detail = bytes.get(HEAD_BYTES..HEAD_BYTES + detail_bytes)?;
        Some(Self {
            what: What::from_number(bytes[5]).filter(|_| bytes[4] == FORMAT)?,
            sequence: number(&bytes[8..16]),
            unix_ms: number(&bytes[16..24]).cast_signed(),
            since_boot_ms: number(&bytes[24..32]),
            boot_id: BootId(bytes[32..48].try_into().ok()?),
            oom_kills: OomKills {
                board: u32::try_from(number(&bytes[48..52])).ok()?,
                cgroup: u32::try_from(number(&bytes[52..56])).ok()?,
                // Not in the records of an older agent.
                above: if bytes[57] == 1 { u32::try_from(number(&bytes[58..62])).ok() } else { None },
            },
            synchronised: bytes[56] != 0,
            detail: String::from_utf8(detail.to_vec()).ok()?,
        })
    }
}

/// Every whole record of a file's bytes, the oldest first, each with its place.
pub fn read_all(file: &[u8]) -> Vec<(usize, Record)> {
    let slots = file.chunks_exact(RECORD_BYTES).take(RECORDS).enumerate();
    let mut records: Vec<_> =
        slots.filter_map(|(slot, bytes)| Some((slot, Record::decode(bytes)?))).collect();
    records.sort_by_key(|(_, record)| record.sequence);
    records
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 64;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn record(sequence: u64, what: What, detail: &str) -> Record {
        Record {
            sequence,
            what,
            boot_id: BootId::parse("0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001"),
            since_boot_ms: 61_500,
            unix_ms: 1_717_156_800_123,
            synchronised: true,
            oom_kills: OomKills { board: 3, cgroup: 1, above: Some(2) },
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn a_record_comes_back_and_is_cut_between_characters() {
        for what in What::ALL {
            let record = record(u64::MAX, what, "reason: \u{e9}");
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        let long = Record::decode(&record(1, What::Failed, &"é\n".repeat(500)).encode()).unwrap();
        assert!(long.detail.len() >= RECORD_BYTES - HEAD_BYTES - 2 && long.detail.starts_with("é é"));
    }

    #[test]
    fn a_record_with_any_bit_changed_is_none() {
        let whole = record(7, What::Begins, "delivery").encode();
        for at in 0..RECORD_BYTES {
            for bit in 0..8 {
                let mut damaged = whole;
                damaged[at] ^= 1 << bit;
                assert_eq!(Record::decode(&damaged), None, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
    }

    #[test]
    fn a_boot_id_reads_as_the_kernel_writes_it() {
        let text = "0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001";
        assert_eq!(BootId::parse(text).to_string(), text);
        assert_eq!((BootId::parse(""), BootId::parse("zz")), (BootId::default(), BootId::default()));
    }
}
