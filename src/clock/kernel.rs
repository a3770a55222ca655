//! What the kernel says of its wall clock. One of the files with `unsafe`: no safe
//! wrapper of adjtimex(2) exists.
#![allow(unsafe_code, reason = "adjtimex is a system call without a safe wrapper")]

/// Whether something (NTP, PTP, GPS) keeps the wall clock right, by the kernel's own word; `None` where
/// asking is not allowed (systemd's `ProtectClock=`). Asks only, changes nothing.
pub fn is_synchronised() -> Option<bool> {
    let mut answer = Answer([0; ANSWER_WORDS]);
    // SAFETY: all zero is a valid `timex` that asks for nothing to be changed (`modes` is 0). The kernel
    // writes at most `size_of::<timex>()` bytes, of either time_t, and the buffer is larger and aligned
    // as u64, which no field of it exceeds.
    let state = unsafe { libc::adjtimex((&raw mut answer).cast()) };
    match state {
        libc::TIME_ERROR => Some(false),
        0.. => Some(true),
        _ => None,
    }
}

/// Room for `struct timex` of any libc: its layout differs with the width of `time_t`, and only the
/// return value is read.
#[repr(C)]
struct Answer([u64; ANSWER_WORDS]);

/// 512 bytes; the largest `timex` known has 208.
const ANSWER_WORDS: usize = 64;

const _: () = assert!(size_of::<libc::timex>() <= size_of::<Answer>());
const _: () = assert!(align_of::<libc::timex>() <= align_of::<Answer>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(is_synchronised().is_some());
    }
}
