//! A number of bytes that several share: who needs some waits until there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The whole; clones share it.
#[derive(Clone, Debug)]
pub struct Allotment(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    /// In KiB.
    free: Arc<Semaphore>,
    kib: u32,
    is_narrow: AtomicBool,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
    /// It is all there is, and stays that until it is given back.
    is_whole: bool,
}

impl Allotment {
    pub fn new(bytes: usize) -> Self {
        let kib = kib(bytes).max(1);
        let free = Arc::new(Semaphore::new(kib as usize));
        Self(Arc::new(Whole { free, kib, is_narrow: AtomicBool::new(false) }))
    }

    pub fn bytes_max(&self) -> usize {
        self.0.kib as usize * 1024
    }

    /// Waits for `bytes`, or for the whole where that is less, in the order of the calls. Cancel-safe, but a cancelled
    /// call loses its place.
    pub async fn take(&self, bytes: usize) -> Share {
        let is_whole = self.0.is_narrow.load(Relaxed);
        let kib = if is_whole { self.0.kib } else { kib(bytes).min(self.0.kib) };
        let permit = self.0.free.clone().acquire_many_owned(kib).await.expect("it is never closed");
        Share { permit, is_whole }
    }

    /// While narrow, everyone who takes gets the whole: one after the other, each once nothing is in use.
    pub fn set_narrow(&self, is_narrow: bool) {
        self.0.is_narrow.store(is_narrow, Relaxed);
    }

    pub fn used_bytes(&self) -> usize {
        self.bytes_max() - self.0.free.available_permits() * 1024
    }
}

/// Without a bound, for who has no plan.
impl Default for Allotment {
    fn default() -> Self {
        Self::new(1 << 30)
    }
}

impl Share {
    /// Gives back what is above `bytes`.
    pub fn fit(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(kib(bytes) as usize);
        if !self.is_whole {
            // Dropped, and so given back.
            drop(self.permit.split(surplus));
        }
    }

    /// Adds one of the same whole.
    pub fn join(&mut self, other: Self) {
        self.permit.merge(other.permit);
        self.is_whole |= other.is_whole;
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// The share, when it can be had now.
    async fn now(take: &mut (impl Future<Output = Share> + Unpin)) -> Option<Share> {
        std::future::poll_fn(|context| {
            Poll::Ready(match std::pin::Pin::new(&mut *take).poll(context) {
                Poll::Ready(share) => Some(share),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn who_wants_more_than_is_free_waits_until_it_is_given_back() {
        let whole = Allotment::new(10 * 1024);
        let first = whole.take(6 * 1024).await;
        let mut second = pin!(whole.take(5 * 1024));
        assert!(now(&mut second).await.is_none());
        assert_eq!(whole.used_bytes(), 6 * 1024 + 4 * 1024, "what is free is set aside for it");
        drop(first);
        let second = now(&mut second).await.unwrap();
        assert_eq!(whole.used_bytes(), 5 * 1024);
        drop(second);
        assert_eq!(whole.used_bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_not_needed_is_given_back_and_shares_can_be_joined() {
        let whole = Allotment::new(10 * 1024);
        let mut share = whole.take(8 * 1024).await;
        share.fit(1500);
        assert_eq!(whole.used_bytes(), 2 * 1024);
        share.fit(4000);
        assert_eq!(whole.used_bytes(), 2 * 1024, "never more than it was");
        share.join(whole.take(1).await);
        assert_eq!(whole.used_bytes(), 3 * 1024);
        share.fit(0);
        assert_eq!(whole.used_bytes(), 0);
    }

    #[tokio::test]
    async fn one_that_wants_more_than_there_is_gets_all_of_it() {
        let whole = Allotment::new(4096);
        let share = whole.take(1 << 30).await;
        assert_eq!(whole.used_bytes(), 4096);
        drop(share);
    }

    #[tokio::test]
    async fn while_narrow_one_at_a_time_gets_through_and_keeps_the_whole() {
        let whole = Allotment::new(10 * 1024);
        whole.set_narrow(true);
        let mut first = whole.take(1024).await;
        first.fit(1024);
        let mut second = pin!(whole.take(1024));
        assert!(now(&mut second).await.is_none());
        drop(first);
        assert!(now(&mut second).await.is_some());
        whole.set_narrow(false);
        let (first, second) = (whole.take(1024).await, whole.take(1024).await);
        drop((first, second));
    }
}
