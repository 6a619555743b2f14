//! Sends a data plane the newest table, again and again: what was published while it read is one
//! transaction.
//!
//! A slow reader keeps no table in memory, and its share of rendered lines only for as long as they
//! take at [`LEAST_RATE`] and the namespace has room for them; see [feed](crate::routing::feed).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_protocol::Revision;
use http_body_util::channel::Sender;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    EndReason,
    sent_tables::{SentTable, SentTables},
};
use crate::routing::{
    feed::{Base, Transaction},
    hub::Receiver,
    snapshot::Snapshot,
};

/// Bytes handed to the connection at a time.
const CHUNK: usize = 64 << 10;
/// A reader that takes no chunk for this long is given up; it comes back for the newest table.
const STALL: Duration = Duration::from_secs(30);
/// Bytes a second over a whole transaction, beside [`STALL`]: a table of 4 MiB may take a minute.
const LEAST_RATE: usize = 128 << 10;

pub(super) struct TableSender<'a> {
    pub(super) tables: Receiver,
    /// What the data plane held when it came.
    pub(super) resumed: Option<Revision>,
    pub(super) sent_tables: &'a Mutex<SentTables>,
    /// It comes between two transactions.
    pub(super) expiry: Instant,
}

impl TableSender<'_> {
    pub(super) async fn run(mut self, tx: &mut Sender<Bytes>) -> EndReason {
        let mut written: Option<u64> = None;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.expiry) => return EndReason::Expired,
                newer = self.tables.newer(written) => if newer.is_none() {
                    return EndReason::Stopped;
                },
            }
            let transaction = match self.next(&mut written).await {
                Ok(transaction) => transaction,
                Err(end) => return end,
            };
            let sent = tokio::select! {
                sent = send(tx, &transaction.lines) => sent,
                () = transaction.cancelled.cancelled() => Err(EndReason::Behind),
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }
    /// What is to be sent now.
    async fn next(&self, written: &mut Option<u64>) -> Result<Arc<Transaction>, EndReason> {
        let (newest, transaction) = loop {
            let turn = self.tables.feed.turn().await;
            let newest = self.tables.newest().ok_or(EndReason::Stopped)?;
            let base = self.base(&newest, *written);
            let rendered = self.tables.feed.render(turn, newest.clone(), base).await;
            let rendered = rendered.map_err(|_| EndReason::Stopped)?;
            let transaction = rendered.map_err(|error| {
                tracing::error!(namespace = newest.namespace, %error, "table cannot be sent");
                EndReason::Refused(format!("the table cannot be sent: {error}"))
            })?;
            // It may have refused the table meanwhile that this one is a step from.
            if self.base(&newest, *written) == base {
                break (newest, transaction);
            }
        };
        *written = Some(newest.number);
        self.sent_tables.lock().sent(SentTable {
            number: newest.number,
            revision: newest.revision,
            at: Instant::now(),
        });
        Ok(transaction)
    }

    fn base(&self, newest: &Snapshot, written: Option<u64>) -> Base {
        match self.sent_tables.lock().newest() {
            Some(number) => Base::Number(number),
            None if written.is_none() && self.resumed == Some(newest.revision) => Base::Same,
            None => Base::Nothing,
        }
    }
}

/// In pieces of their own, so that what lies in a connection's queue does not keep all of the lines.
pub(super) async fn send(tx: &mut Sender<Bytes>, lines: &[u8]) -> Result<(), EndReason> {
    let end = Instant::now() + STALL + Duration::from_secs((lines.len() / LEAST_RATE) as u64);
    for chunk in lines.chunks(CHUNK) {
        let chunk = tx.send_data(Bytes::copy_from_slice(chunk));
        match timeout_at(end, timeout(STALL, chunk)).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(_))) => return Err(EndReason::Closed),
            Ok(Err(_)) => return Err(EndReason::Stalled),
            Err(_) => return Err(EndReason::TooSlow),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Channel};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_chunk_now_and_then_does_not_keep_a_table_for_long() {
        let (mut tx, mut body) = Channel::<Bytes>::new(2);
        let reader = tokio::spawn(async move {
            while body.frame().await.is_some() {
                tokio::time::sleep(STALL / 2).await;
            }
        });
        let (table, begun) = (vec![b'x'; 4 << 20], Instant::now());
        let sent = send(&mut tx, &table).await;
        assert!(matches!(sent, Err(EndReason::TooSlow)), "{sent:?}");
        assert!(begun.elapsed() <= Duration::from_secs(62));
        reader.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_behind_a_slow_line_gets_its_table() {
        let (mut tx, mut body) = Channel::<Bytes>::new(2);
        let reader = tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                // A megabit a second.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            bytes
        });
        let table = vec![b'x'; 4 << 20];
        assert!(send(&mut tx, &table).await.is_ok());
        drop(tx);
        assert_eq!(reader.await.unwrap(), table.len());
    }
}
