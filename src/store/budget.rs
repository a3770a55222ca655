//! How much of the disk the store may use, and what gives way when that is short: pure decisions over what
//! there is, what is free and what is configured.

use super::Lane;

/// `[store]`, as far as it is about room.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Of delivered items that are kept, in bytes; `None` for a quarter of the whole.
    pub history_bytes_max: Option<u64>,
    /// Kept free for others on the file system, in bytes.
    pub free_bytes_min: u64,
    /// Files that others can still make on the file system.
    pub free_inodes_min: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { history_bytes_max: None, free_bytes_min: 64 << 20, free_inodes_min: 1000 }
    }
}

/// What the file system has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    /// 0 total inodes means that the file system does not count them.
    pub inodes: u64,
    pub free_inodes: u64,
}

/// What may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes that pages in use may take by configuration: the rest of the cap is the WAL's.
    pub bytes: u64,
    /// The same, less what others need. Below it history goes and telemetry is thinned, but nothing that was
    /// not delivered is dropped on behalf of others.
    pub bytes_with_others: u64,
    pub is_short_of_inodes: bool,
}

/// The share of the cap that is the WAL's, in bytes: what one checkpoint leaves, and one large commit.
pub fn wal_bytes(size_bytes_max: u64) -> u64 {
    (size_bytes_max / 8).clamp(WAL_BYTES_MIN, WAL_BYTES_MAX)
}

/// How much may be used when the database and its WAL take `taken_bytes` on a disk with `room`.
pub fn allowance(size_bytes_max: u64, budget: &Budget, taken_bytes: u64, room: Option<Room>) -> Allowance {
    let bytes = size_bytes_max.saturating_sub(wal_bytes(size_bytes_max));
    let mut allowance = Allowance { bytes, bytes_with_others: bytes, is_short_of_inodes: false };
    let Some(room) = room else { return allowance };
    // What is ours stays ours as long as the others have their share; what they lack is given back.
    let possible = (taken_bytes + room.free_bytes).saturating_sub(budget.free_bytes_min);
    let least = size_bytes_max / LEAST_SHARE;
    allowance.bytes_with_others = bytes.min(possible.max(least));
    allowance.is_short_of_inodes = room.inodes > 0 && room.free_inodes < budget.free_inodes_min;
    allowance
}

/// Which lane is thinned next, of those that can be: the one that takes more, so that raw readings of the
/// last hours, minutes of the last days and quarter hours of all before share the room. `bytes` and
/// `can_be_thinned` are those of raw telemetry and of minutes.
pub fn to_thin(bytes: [u64; 2], can_be_thinned: [bool; 2]) -> Option<Lane> {
    match can_be_thinned {
        [true, true] if bytes[1] > bytes[0] => Some(Lane::Minute),
        [true, _] => Some(Lane::Telemetry),
        [false, true] => Some(Lane::Minute),
        [false, false] => None,
    }
}

/// Time to live of the undelivered items of each lane, by running time of the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// In the order of [`crate::reading::Priority::ALL`]; `None` for ever.
    pub by_priority: [Option<std::time::Duration>; 4],
}

const WAL_BYTES_MAX: u64 = 8 << 20;
const WAL_BYTES_MIN: u64 = 256 << 10;
/// However full others make the disk, this part of the cap is the store's.
const LEAST_SHARE: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 64 * MIB;

    fn with(taken: u64, free: u64) -> Allowance {
        let room = Room { free_bytes: free, inodes: 1000, free_inodes: 500 };
        let budget = Budget { free_bytes_min: 100 * MIB, free_inodes_min: 100, ..Budget::default() };
        allowance(SIZE, &budget, taken, Some(room))
    }

    #[test]
    fn a_disk_with_room_leaves_the_whole_cap_less_the_wal() {
        assert_eq!(with(10 * MIB, 1000 * MIB).bytes_with_others, SIZE - 8 * MIB);
        assert_eq!(allowance(SIZE, &Budget::default(), 0, None).bytes, SIZE - 8 * MIB);
    }

    #[test]
    fn what_others_lack_is_given_back_down_to_a_least_share() {
        assert_eq!(with(40 * MIB, 100 * MIB).bytes_with_others, 40 * MIB);
        assert_eq!(with(40 * MIB, 90 * MIB).bytes_with_others, 30 * MIB);
        assert_eq!(with(40 * MIB, 0).bytes_with_others, SIZE / 16);
        assert_eq!(with(40 * MIB, 0).bytes, SIZE - 8 * MIB, "nothing undelivered goes for others");
    }

    #[test]
    fn inodes_count_where_the_file_system_counts_them() {
        let budget = Budget { free_inodes_min: 100, ..Budget::default() };
        for (inodes, free_inodes, short) in [(1000, 99, true), (1000, 100, false), (0, 0, false)] {
            let room = Room { free_bytes: u64::MAX / 2, inodes, free_inodes };
            assert_eq!(allowance(SIZE, &budget, 0, Some(room)).is_short_of_inodes, short);
        }
    }

    #[test]
    fn the_larger_tier_is_thinned() {
        assert_eq!(to_thin([5, 4], [true, true]), Some(Lane::Telemetry));
        assert_eq!(to_thin([4, 5], [true, true]), Some(Lane::Minute));
        assert_eq!(to_thin([0, 5], [true, false]), Some(Lane::Telemetry));
        assert_eq!(to_thin([5, 0], [false, true]), Some(Lane::Minute));
        assert_eq!(to_thin([5, 5], [false, false]), None);
    }
}
