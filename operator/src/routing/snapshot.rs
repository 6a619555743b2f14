//! A namespace's table as it is offered to data planes.
//!
//! In: what compile made of a namespace, and where that changed. Out: a [`Snapshot`] under a new
//! number if its content changed, and the lines that turn an older one into it.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, io,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use compile::{Changes, Kind, Verdict, Verdicts};
use dataplane_protocol::{
    Resource, ResourceKey, Revision,
    frame::{self, encode},
    resource::{Difference, ResourceSet},
    sync::{MAX_TABLE_LINE, ToDataPlane},
};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

/// Steps back to which a snapshot remembers what changed. Whoever is further behind costs a look at
/// the whole table.
const REMEMBERED: usize = 64;

/// One namespace's table, and what became of each object. Snapshots that follow each other share
/// what has not changed.
pub struct Snapshot {
    pub namespace: String,
    /// 1 for the first that this process made; grows when the table's content changes. It means
    /// nothing to another process, nor on the wire.
    pub number: u64,
    /// Of the content: the same in every process.
    pub revision: Revision,
    pub set: ResourceSet,
    /// One per object, those included that could not be decoded.
    pub verdicts: Verdicts,
    /// By route: the first number that held its current generation.
    pub route_numbers: RedBlackTreeMapSync<String, u64>,
    /// The same routes by that number.
    by_number: RedBlackTreeSetSync<(u64, String)>,
    /// Keys that this number and those before it changed, the newest last.
    changes: VecDeque<(u64, Arc<[ResourceKey]>)>,
    /// What the table before held under the keys that changed, as JSON: what it costs to keep that
    /// one beside this.
    pub replaced_bytes: usize,
}

impl fmt::Debug for Snapshot {
    /// Without the resources: they carry credentials as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("namespace", &self.namespace)
            .field("revision", &self.revision)
            .field("number", &self.number)
            .field("verdicts", &self.verdicts)
            .finish_non_exhaustive()
    }
}

/// What a snapshot is made of.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub set: ResourceSet,
    pub verdicts: Verdicts,
    /// Where it may differ from the snapshot before.
    pub updated: Changes,
}

impl Content {
    /// For when nobody knows what has changed since `previous`: by a look at all of it.
    pub fn after(previous: Option<&Snapshot>, set: ResourceSet, verdicts: Verdicts) -> Self {
        let empty = Snapshot::empty("");
        let previous = previous.unwrap_or(&empty);
        let difference = previous.set.difference(&set);
        let upserts = difference.upserts.iter().map(Resource::key);
        let gone = difference.removes.into_iter().chain(difference.keeps);
        let names = previous.verdicts.keys().chain(verdicts.keys());
        let updated = Changes {
            resources: upserts.chain(gone).collect(),
            verdicts: names
                .filter(|name| previous.verdicts.get(*name) != verdicts.get(*name))
                .cloned()
                .collect(),
        };
        Self {
            set,
            verdicts,
            updated,
        }
    }
}

impl Snapshot {
    /// What a namespace without objects gets.
    pub fn empty(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            number: 1,
            revision: ResourceSet::default().revision(),
            set: ResourceSet::default(),
            verdicts: Verdicts::default(),
            route_numbers: RedBlackTreeMapSync::default(),
            by_number: RedBlackTreeSetSync::default(),
            changes: VecDeque::new(),
            replaced_bytes: 0,
        }
    }

    /// What follows `previous`, or nothing when neither the table nor a verdict changed.
    pub fn next(previous: Option<&Self>, namespace: &str, content: Content) -> Option<Self> {
        let Content {
            set,
            verdicts,
            updated,
        } = content;
        let Some(previous) = previous else {
            let mut first = Self {
                revision: set.revision(),
                set,
                verdicts,
                ..Self::empty(namespace)
            };
            let routes = first.verdicts.keys();
            let routes = routes.filter(|(kind, _)| *kind == Kind::OllaRoute);
            let names: Vec<String> = routes.map(|(_, name)| name.clone()).collect();
            for name in names {
                first.number_route(name);
            }
            return Some(first);
        };
        let revision = set.revision();
        let moved = revision != previous.revision;
        if !moved && updated.verdicts.is_empty() {
            return None;
        }
        let mut next = Self {
            namespace: namespace.to_owned(),
            number: previous.number + u64::from(moved),
            revision,
            set,
            verdicts,
            route_numbers: previous.route_numbers.clone(),
            by_number: previous.by_number.clone(),
            changes: previous.changes.clone(),
            replaced_bytes: previous.replaced_bytes,
        };
        next.number_routes(previous, &updated);
        if moved {
            let replaced = next.set.difference_at(&previous.set, &updated.resources);
            next.replaced_bytes = bytes_of(&replaced);
            next.remember(updated.resources);
        }
        Some(next)
    }

    /// Routes whose current generation came with a number above `after`, up to `to`.
    pub fn routes_numbered(&self, after: u64, to: u64) -> impl Iterator<Item = &str> {
        let first = (after.saturating_add(1), String::new());
        let numbered = self.by_number.range(first..);
        numbered
            .take_while(move |(number, _)| *number <= to)
            .map(|(_, name)| name.as_str())
    }

    /// What a data plane must have acknowledged to use all routes as they stand; 0 without routes.
    pub fn newest_route_number(&self) -> u64 {
        self.by_number.last().map_or(0, |(number, _)| *number)
    }

    fn number_routes(&mut self, previous: &Self, updated: &Changes) {
        // Another object of that name begins at generation 1 again.
        let of = |verdict: &Verdict| (verdict.uid.clone(), verdict.generation);
        let routes = updated.verdicts.iter();
        for key in routes.filter(|(kind, _)| *kind == Kind::OllaRoute) {
            let name = &key.1;
            let now = self.verdicts.get(key).map(of);
            if now.is_some() && now == previous.verdicts.get(key).map(of) {
                continue;
            }
            if let Some(number) = self.route_numbers.get(name).copied() {
                self.by_number.remove_mut(&(number, name.clone()));
                self.route_numbers.remove_mut(name);
            }
            if now.is_some() {
                self.number_route(name.clone());
            }
        }
    }

    /// Its current generation came with this number.
    fn number_route(&mut self, name: String) {
        self.by_number.insert_mut((self.number, name.clone()));
        self.route_numbers.insert_mut(name, self.number);
    }

    /// As long as looking at what changed is less than looking at all.
    fn remember(&mut self, changed: BTreeSet<ResourceKey>) {
        let changed = changed.into_iter().collect();
        self.changes.push_back((self.number, changed));
        let mut keys: usize = self.changes.iter().map(|(_, keys)| keys.len()).sum();
        while keys > self.set.len().max(REMEMBERED) || self.changes.len() > REMEMBERED {
            let Some((_, forgotten)) = self.changes.pop_front() else {
                return;
            };
            keys -= forgotten.len();
        }
    }

    /// Lines that turn `older` into this.
    pub fn step_from(&self, older: &Self) -> Result<Bytes, frame::Error> {
        let oldest = self.changes.front().map(|(number, _)| *number);
        let difference = match oldest {
            _ if older.number == self.number => Difference::default(),
            Some(oldest) if oldest <= older.number + 1 => {
                let since = (self.changes.iter()).filter(|(number, _)| *number > older.number);
                let keys: BTreeSet<_> = since.flat_map(|(_, keys)| keys.iter()).collect();
                older.set.difference_at(&self.set, keys)
            }
            _ => older.set.difference(&self.set),
        };
        self.transaction(false, difference)
    }

    /// Lines that make this table from nothing.
    pub fn full_lines(&self) -> Result<Bytes, frame::Error> {
        self.transaction(true, ResourceSet::default().difference(&self.set))
    }

    /// Lines for a reader that holds this content.
    pub fn same_lines(&self) -> Result<Bytes, frame::Error> {
        self.transaction(false, Difference::default())
    }

    fn transaction(&self, full: bool, difference: Difference) -> Result<Bytes, frame::Error> {
        let mut lines = BytesMut::new();
        let mut line = |message: &ToDataPlane| {
            encode(message, MAX_TABLE_LINE).map(|line| lines.extend_from_slice(&line))
        };
        line(&ToDataPlane::Begin {
            namespace: self.namespace.clone(),
            full,
        })?;
        for resource in difference.upserts {
            line(&ToDataPlane::Upsert(resource))?;
        }
        for key in difference.keeps {
            line(&ToDataPlane::Keep(key))?;
        }
        for key in difference.removes {
            line(&ToDataPlane::Remove(key))?;
        }
        line(&ToDataPlane::Commit {
            revision: self.revision,
        })?;
        Ok(lines.freeze())
    }
}

/// Of the resources in it, as JSON.
fn bytes_of(difference: &Difference) -> usize {
    let mut count = Count(0);
    for resource in &difference.upserts {
        // Writing to it does not fail, and what cannot be encoded is told where it is to be sent.
        let _ = serde_json::to_writer(&mut count, resource);
    }
    count.0
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::testing::{content, follow, route_verdict};

    #[test]
    fn the_same_content_is_published_once() {
        let first = Snapshot::next(None, "a", content(None, &[1], vec![])).unwrap();
        assert_eq!(first.number, 1);
        assert!(Snapshot::next(Some(&first), "a", content(Some(&first), &[1], vec![])).is_none());
        let second = follow(Some(&first), &[2], vec![]);
        assert_eq!(second.number, 2);
    }

    #[test]
    fn a_new_verdict_alone_keeps_the_revision() {
        let first = follow(None, &[1], vec![route_verdict("r", 1)]);
        let second = follow(Some(&first), &[1], vec![route_verdict("r", 2)]);
        assert_eq!(second.number, first.number);
    }

    #[test]
    fn a_pod_flip_does_not_move_the_revision_that_a_route_waits_for() {
        let verdicts = || vec![route_verdict("r", 1)];
        let first = follow(None, &[1], verdicts());
        let second = follow(Some(&first), &[2], verdicts());
        assert_eq!((second.number, second.route_numbers["r"]), (2, 1));
        let third = follow(Some(&second), &[3], vec![route_verdict("r", 2)]);
        assert_eq!(third.route_numbers["r"], 3);
        let numbered = |after, to| third.routes_numbered(after, to).count();
        assert_eq!((numbered(0, 2), numbered(2, 3), numbered(3, 9)), (0, 1, 0));
    }

    #[test]
    fn a_route_that_was_made_anew_waits_for_its_own_revision() {
        let of = |uid: &str| {
            let mut verdict = route_verdict("r", 1);
            verdict.uid = Some(uid.to_owned());
            vec![verdict]
        };
        let first = follow(None, &[1], of("old"));
        let second = follow(Some(&first), &[2], of("new"));
        assert_eq!(second.route_numbers["r"], 2);
        let third = follow(Some(&second), &[3], vec![]);
        assert_eq!(third.route_numbers.get("r"), None);
        assert_eq!(third.routes_numbered(0, 9).count(), 0);
    }

    #[test]
    fn whoever_is_behind_gets_what_is_other_now_and_nothing_that_came_and_went() {
        let mut all = vec![Arc::new(follow(None, &[1, 2], vec![]))];
        for ports in [&[1, 2, 3][..], &[1, 3], &[1, 3, 4], &[1, 4]] {
            let next = follow(all.last().map(|last| &**last), ports, vec![]);
            all.push(Arc::new(next));
        }
        let last = all.last().unwrap();
        let lines = last.step_from(&all[0]).unwrap();
        let text = std::str::from_utf8(&lines).unwrap();
        let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((of("upsert"), of("remove")), (1, 1), "{text}");
        // Too far behind for what is remembered: the same by a look at all.
        let mut behind = last.clone();
        for _ in 0..REMEMBERED {
            for ports in [&[1, 4, 5][..], &[1, 4]] {
                behind = Arc::new(follow(Some(&behind), ports, vec![]));
            }
        }
        let later = behind.step_from(&all[0]).unwrap();
        assert_eq!(later, lines);
    }
}
