//! How much of the process's memory the request bodies take that are kept for a retry.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes.
#[derive(Debug, Default)]
pub(crate) struct KeptBytes(AtomicUsize);

impl KeptBytes {
    /// False, and nothing taken, where that would be more than `limit` in all.
    pub(crate) fn take(&self, bytes: usize, limit: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= limit {
            return true;
        }
        self.release(bytes);
        false
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
