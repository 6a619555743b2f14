//! The signals of the process's life, for tasks and threads that wait for them.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
pub struct Life {
    /// Cancelled once, before `drain`: not ready any more, but still serving.
    pub leaving: CancellationToken,
    /// Cancelled once: no new connections, streams may end.
    pub drain: CancellationToken,
    /// Somebody asks for a look at the files now.
    pub(crate) look_at_files: Notify,
    /// The same for the listener's certificate.
    pub(crate) look_at_certificate: Arc<Notify>,
}

impl Life {
    /// What files hold is wanted now, and not at the next look at them.
    pub fn reload(&self) {
        self.look_at_files.notify_one();
        self.look_at_certificate.notify_one();
    }
}
