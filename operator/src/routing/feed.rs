//! What the streams of one namespace send.
//!
//! In: the tables as they are published, and what a reader holds. Out: the transaction that brings
//! the reader to the newest table, rendered once for all that need the same. However slowly they
//! read, and however often the table changes, the namespace's streams together keep no more in
//! memory than its [`Bounds`] beside the newest two tables with their lines.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use dataplane_protocol::frame;
use parking_lot::Mutex;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;

/// What a namespace may keep for its readers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Older tables that a step may start from. A reader of an older one gets the whole table.
    pub tables: usize,
    /// Of what older tables hold beside the newest one, as JSON. A pod's address takes some hundred.
    pub table_bytes: usize,
    /// Of lines that are being sent. Above it, streams that still send the oldest ones are ended;
    /// they come back for the newest table.
    pub line_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            tables: 256,
            table_bytes: 4 << 20,
            line_bytes: 32 << 20,
        }
    }
}

/// The tables of one namespace.
#[derive(Debug, Default)]
pub struct Feed {
    bounds: Bounds,
    state: Mutex<State>,
    /// Held while rendering, by streams only: a thousand that come together render a table once,
    /// and however many steps they need, their namespace keeps one thread busy.
    rendering: Arc<tokio::sync::Mutex<()>>,
}

/// Whose turn it is to render.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

#[derive(Debug, Default)]
struct State {
    /// The newest last.
    tables: VecDeque<Arc<Snapshot>>,
    /// All that somebody holds, the oldest first.
    rendered: Vec<Entry>,
    /// Those to the newest table that most readers need: the whole, and the step from the one
    /// before.
    cached: Vec<Arc<Transaction>>,
}

/// Which transaction it is: from which number, or from nothing, to which.
type Step = (Option<u64>, u64);

#[derive(Debug)]
struct Entry {
    step: Step,
    transaction: Weak<Transaction>,
}

/// Lines from `begin` to `commit`.
pub struct Transaction {
    pub lines: Bytes,
    /// Whoever still sends it is to stop.
    pub cancelled: CancellationToken,
}

impl fmt::Debug for Transaction {
    /// Without the lines: they carry credentials as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("bytes", &self.lines.len())
            .finish_non_exhaustive()
    }
}

/// What a reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Nothing,
    /// The content of the table that is to be sent.
    Same,
    /// The table of this number.
    Number(u64),
}

impl Feed {
    /// A newer table, or the newest with other verdicts. Older ones are kept for readers only.
    pub fn publish(&self, newest: Arc<Snapshot>, has_readers: bool) {
        let mut state = self.state.lock();
        let tables = &mut state.tables;
        let replaced = tables.pop_back_if(|last| last.number == newest.number);
        tables.push_back(newest);
        if !has_readers {
            tables.drain(..tables.len() - 1);
        }
        if replaced.is_none() {
            state.forget_oldest(self.bounds);
            state.cached.clear();
        }
    }

    pub async fn turn(&self) -> Turn {
        self.rendering.clone().lock_owned().await
    }

    /// Brings a reader that holds `base` to `table`. What is rendered is so beside the runtime's
    /// threads: a large table would hold up other namespaces' streams. An error of the outer kind:
    /// the process ends.
    pub async fn render(
        self: &Arc<Self>,
        turn: Turn,
        table: Arc<Snapshot>,
        base: Base,
    ) -> Result<Result<Arc<Transaction>, frame::Error>, JoinError> {
        let older = match self.look_up(&table, base) {
            // Mostly another stream needed the same, and had it rendered while this one waited.
            Lookup::Rendered(transaction) => return Ok(Ok(transaction)),
            Lookup::From(older) => older,
        };
        let feed = self.clone();
        // The turn ends with the work, also if the stream that wanted it has ended.
        spawn_blocking(move || {
            let _turn = turn;
            feed.make(&table, base, older.as_deref())
        })
        .await
    }

    fn look_up(&self, table: &Snapshot, base: Base) -> Lookup {
        let state = self.state.lock();
        let older = match base {
            // Few have what they need already, and it is short.
            Base::Same => return Lookup::From(None),
            Base::Nothing => None,
            // One that is forgotten is no ground for a step.
            Base::Number(number) => state.table(number),
        };
        match state.rendered(step(older.as_deref(), table)) {
            Some(transaction) => Lookup::Rendered(transaction),
            None => Lookup::From(older),
        }
    }

    fn make(
        &self,
        table: &Snapshot,
        base: Base,
        older: Option<&Snapshot>,
    ) -> Result<Arc<Transaction>, frame::Error> {
        let lines = match (base, older) {
            (Base::Same, _) => return Ok(Transaction::new(table.same_lines()?)),
            (_, Some(older)) => table.step_from(older)?,
            (_, None) => table.full_lines()?,
        };
        let transaction = Transaction::new(lines);
        let step = step(older, table);
        self.state.lock().add(step, &transaction, self.bounds);
        Ok(transaction)
    }
}

/// What a reader needs: there already, or to be made from this.
enum Lookup {
    Rendered(Arc<Transaction>),
    From(Option<Arc<Snapshot>>),
}

fn step(older: Option<&Snapshot>, table: &Snapshot) -> Step {
    (older.map(|older| older.number), table.number)
}

impl Transaction {
    fn new(lines: Bytes) -> Arc<Self> {
        Arc::new(Self {
            lines,
            cancelled: CancellationToken::new(),
        })
    }
}

impl State {
    fn table(&self, number: u64) -> Option<Arc<Snapshot>> {
        let at = self.tables.binary_search_by_key(&number, |it| it.number);
        self.tables.get(at.ok()?).cloned()
    }

    fn rendered(&self, step: Step) -> Option<Arc<Transaction>> {
        let same = self.rendered.iter().filter(|it| it.step == step);
        same.filter_map(|it| it.transaction.upgrade())
            .find(|transaction| !transaction.cancelled.is_cancelled())
    }

    fn add(&mut self, step: Step, transaction: &Arc<Transaction>, bounds: Bounds) {
        self.rendered.retain(|it| it.transaction.strong_count() > 0);
        let room = bounds.line_bytes.saturating_sub(transaction.lines.len());
        self.end_oldest(room);
        self.rendered.push(Entry {
            step,
            transaction: Arc::downgrade(transaction),
        });
        let (newest, before) = {
            let mut numbers = self.tables.iter().rev().map(|table| table.number);
            (numbers.next(), numbers.next())
        };
        let (from, to) = step;
        if newest == Some(to) && (from.is_none() || from == before) {
            self.cached.push(transaction.clone());
        }
    }

    /// Ends the streams with the oldest lines until there are no more than so many bytes of them.
    fn end_oldest(&self, most: usize) {
        let alive = self
            .rendered
            .iter()
            .filter_map(|it| it.transaction.upgrade());
        let is_cached = |it: &Arc<Transaction>| self.cached.iter().any(|of| Arc::ptr_eq(of, it));
        let alive: Vec<_> = alive
            .filter(|it| !it.cancelled.is_cancelled() && !is_cached(it))
            .collect();
        let mut bytes: usize = alive.iter().map(|it| it.lines.len()).sum();
        for oldest in alive {
            if bytes <= most {
                return;
            }
            bytes -= oldest.lines.len();
            oldest.cancelled.cancel();
        }
    }

    /// The newest and the one before stay in any case.
    fn forget_oldest(&mut self, bounds: Bounds) {
        let (mut bytes, mut kept) = (0, 1);
        for newer in self.tables.iter().rev().take(bounds.tables) {
            bytes += newer.replaced_bytes;
            if kept > 1 && bytes > bounds.table_bytes {
                break;
            }
            kept += 1;
        }
        let forgotten = self.tables.len().saturating_sub(kept);
        self.tables.drain(..forgotten);
    }
}

#[cfg(test)]
mod tests {
    use compile::Verdicts;
    use dataplane_protocol::resource::ResourceSet;

    use super::*;
    use crate::routing::{
        snapshot::Content,
        testing::{follow, instance},
    };

    const BOUNDS: Bounds = Bounds {
        tables: 9,
        table_bytes: 45_000,
        line_bytes: 80_000,
    };

    fn feed() -> Feed {
        let bounds = BOUNDS;
        Feed {
            bounds,
            ..Feed::default()
        }
    }

    fn transaction(
        feed: &Feed,
        table: &Snapshot,
        base: Base,
    ) -> Result<Arc<Transaction>, frame::Error> {
        match feed.look_up(table, base) {
            Lookup::Rendered(transaction) => Ok(transaction),
            Lookup::From(older) => feed.make(table, base, older.as_deref()),
        }
    }

    /// A table of about ten kilobytes that says something else each turn.
    fn large(previous: Option<&Snapshot>, turn: u32) -> Arc<Snapshot> {
        let mut set = ResourceSet::default();
        for port in 0..10 {
            let host = format!("{turn}-{}", "x".repeat(1000));
            set.upsert(instance(port, &host));
        }
        let content = Content::after(previous, set, Verdicts::default());
        Arc::new(Snapshot::next(previous, "a", content).unwrap())
    }

    fn text(transaction: &Transaction) -> &str {
        std::str::from_utf8(&transaction.lines).unwrap()
    }

    #[test]
    fn readers_that_hold_the_same_share_what_they_are_sent() {
        let feed = feed();
        let first = Arc::new(follow(None, &[1], vec![]));
        feed.publish(first.clone(), true);
        let second = Arc::new(follow(Some(&first), &[2], vec![]));
        feed.publish(second.clone(), true);
        for base in [Base::Nothing, Base::Number(1)] {
            let one = transaction(&feed, &second, base).unwrap();
            let other = transaction(&feed, &second, base).unwrap();
            assert!(Arc::ptr_eq(&one, &other), "{base:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_another_s_rendering_holds_up_no_thread() {
        let feed = Arc::new(feed());
        let table = Arc::new(follow(None, &[1], vec![]));
        feed.publish(table.clone(), true);
        let first = feed.turn().await;
        let mut second = std::pin::pin!(feed.turn());
        let wait = std::time::Duration::from_secs(1);
        let waited = tokio::time::timeout(wait, second.as_mut()).await;
        assert!(waited.is_err(), "its turn has not come");
        let one = feed.render(first, table.clone(), Base::Nothing).await;
        let one = one.unwrap().unwrap();
        let other = feed.render(second.await, table, Base::Nothing).await;
        assert!(Arc::ptr_eq(&one, &other.unwrap().unwrap()));
    }

    #[test]
    fn whoever_holds_a_forgotten_table_gets_the_whole() {
        let feed = feed();
        let mut newest = Arc::new(follow(None, &[1], vec![]));
        feed.publish(newest.clone(), true);
        for turn in 0..20 {
            let ports: &[u16] = if turn % 2 == 0 { &[1, 2] } else { &[1] };
            newest = Arc::new(follow(Some(&newest), ports, vec![]));
            feed.publish(newest.clone(), true);
        }
        let oldest = newest.number - BOUNDS.tables as u64;
        let step = transaction(&feed, &newest, Base::Number(oldest)).unwrap();
        assert!(text(&step).contains(r#""full":false"#), "{}", text(&step));
        let whole = transaction(&feed, &newest, Base::Number(oldest - 1)).unwrap();
        assert!(text(&whole).contains(r#""full":true"#), "{whole:?}");
    }

    #[test]
    fn tables_that_change_as_a_whole_are_not_piled_up() {
        let feed = feed();
        let mut tables: Vec<Weak<Snapshot>> = Vec::new();
        let mut newest = large(None, 0);
        for turn in 1..40 {
            feed.publish(newest.clone(), true);
            tables.push(Arc::downgrade(&newest));
            newest = large(Some(&newest), turn);
        }
        let alive = tables.iter().filter(|it| it.strong_count() > 0).count();
        assert!((2..=6).contains(&alive), "{alive}");
    }

    #[test]
    fn without_readers_only_the_newest_table_is_kept() {
        let feed = feed();
        let first = Arc::new(follow(None, &[1], vec![]));
        feed.publish(first.clone(), false);
        feed.publish(Arc::new(follow(Some(&first), &[2], vec![])), false);
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn slow_readers_of_many_tables_keep_a_bounded_number_of_bytes() {
        let feed = feed();
        let (mut newest, mut sending) = (large(None, 0), Vec::new());
        for turn in 1..80 {
            feed.publish(newest.clone(), true);
            sending.push(transaction(&feed, &newest, Base::Nothing).unwrap());
            newest = large(Some(&newest), turn);
        }
        let alive = sending.iter().filter(|it| !it.cancelled.is_cancelled());
        let bytes: usize = alive.map(|it| it.lines.len()).sum();
        let one = sending[0].lines.len();
        assert!(
            bytes <= BOUNDS.line_bytes + 2 * one,
            "{bytes} bytes, {one} each"
        );
        assert!(
            bytes > BOUNDS.line_bytes / 2,
            "{bytes}: no more than needed"
        );
        let newest = sending.last().unwrap();
        assert!(!newest.cancelled.is_cancelled(), "the oldest go first");
    }

    #[test]
    fn lines_that_carry_credentials_are_in_no_debug_text() {
        let feed = feed();
        let table = Arc::new(follow(None, &[1], vec![]));
        feed.publish(table.clone(), true);
        let transaction = transaction(&feed, &table, Base::Nothing).unwrap();
        assert!(text(&transaction).contains("10.0.0.1"));
        assert!(!format!("{transaction:?} {feed:?}").contains("10.0.0.1"));
    }
}
