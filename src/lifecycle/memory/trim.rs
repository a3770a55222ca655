//! Gives back to the kernel what the allocator keeps.

#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "malloc_trim is the C library's, and nobody wraps it")
)]

/// Waits some milliseconds at worst. Nothing to do with musl, which gives back what it can by itself.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and touches no memory that is in use (malloc_trim(3)).
    unsafe {
        // Whether anything was given back shows in the next look.
        libc::malloc_trim(KEPT_BYTES);
    }
}

/// At the top of the heap: what the next commit takes again.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: usize = 256 * 1024;
