//! Where tests let a stage stand still, to see that the watchdog ends it. Built only with the feature `hang`, which
//! no release has; without it nothing of this is in the binary.
//!
//! The file that `PYVORIN_HANG` names holds the name of the stage. It is deleted as the stage begins to hang, so
//! that the next start runs.

/// Never returns when `stage` is to hang: its task stands still, and the runtime runs on.
#[cfg(feature = "hang")]
pub async fn point(stage: &str) {
    if is_wanted(stage) {
        std::future::pending::<()>().await;
    }
}

/// Never returns when `stage` is to hang: its thread stands still.
#[cfg(feature = "hang")]
pub fn block(stage: &str) {
    if is_wanted(stage) {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(feature = "hang")]
fn is_wanted(stage: &str) -> bool {
    let Some(file) = std::env::var_os("PYVORIN_HANG") else { return false };
    let is_wanted = std::fs::read_to_string(&file).is_ok_and(|wanted| wanted.trim() == stage);
    // One that stays hangs the next start as well, which the test then says.
    is_wanted && std::fs::remove_file(&file).is_ok()
}

#[cfg(not(feature = "hang"))]
#[inline]
pub async fn point(_stage: &str) {}

#[cfg(not(feature = "hang"))]
#[inline]
pub fn block(_stage: &str) {}
