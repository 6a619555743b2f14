//! What our objects' statuses say, as last seen in the watch or last written; and which
//! statuses should be looked at again. Shared by watch, streams and the writer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::atomic::{AtomicBool, Ordering},
};

use compile::Kind;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::status::ObjectStatus;

/// What is known of one object beside its spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedStatus {
    pub uid: String,
    pub status: ObjectStatus,
}

#[derive(Debug, Default)]
pub struct StatusCache {
    entries: Mutex<HashMap<String, Statuses>>,
    due: Mutex<BTreeMap<String, DirtyStatuses>>,
    notify: Notify,
    /// This replica does not lead.
    idle: AtomicBool,
}

type Statuses = HashMap<ObjectKey, CachedStatus>;

/// An object of a namespace.
pub type ObjectKey = (Kind, String);

/// Whose statuses may be out of date in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyStatuses {
    pub all: bool,
    pub objects: BTreeSet<ObjectKey>,
}

impl DirtyStatuses {
    pub fn all() -> Self {
        Self {
            all: true,
            objects: BTreeSet::new(),
        }
    }

    pub fn of(objects: impl IntoIterator<Item = ObjectKey>) -> Self {
        Self {
            all: false,
            objects: objects.into_iter().collect(),
        }
    }
}

impl StatusCache {
    /// An object as the watch shows it. A status that changed is looked at again: somebody else
    /// may have written it.
    pub fn observe(&self, namespace: &str, kind: Kind, name: &str, entry: CachedStatus) {
        let key = (kind, name.to_owned());
        let mut entries = self.entries.lock();
        let known = entries.entry(namespace.to_owned()).or_default();
        let changed = known.get(&key) != Some(&entry);
        known.insert(key.clone(), entry);
        drop(entries);
        if changed {
            self.mark_dirty(namespace, [key]);
        }
    }

    pub fn remove(&self, namespace: &str, kind: Kind, name: &str) {
        let mut entries = self.entries.lock();
        if let Some(known) = entries.get_mut(namespace) {
            known.remove(&(kind, name.to_owned()));
            if known.is_empty() {
                entries.remove(namespace);
            }
        }
    }

    /// After a list: only these are there.
    pub fn retain(&self, kind: Kind, present: &BTreeSet<(String, String)>) {
        let mut entries = self.entries.lock();
        for (namespace, known) in entries.iter_mut() {
            known.retain(|(of, name), _| {
                *of != kind || present.contains(&(namespace.clone(), name.clone()))
            });
        }
        entries.retain(|_, known| !known.is_empty());
    }

    /// A status as it was just written to the object of this uid; another one of that name may have
    /// taken its place meanwhile.
    pub fn set_written(
        &self,
        namespace: &str,
        kind: Kind,
        name: &str,
        uid: &str,
        status: ObjectStatus,
    ) {
        let mut entries = self.entries.lock();
        let entry = entries
            .get_mut(namespace)
            .and_then(|known| known.get_mut(&(kind, name.to_owned())));
        if let Some(entry) = entry
            && entry.uid == uid
        {
            entry.status = status;
        }
    }

    pub fn get(&self, namespace: &str, kind: Kind, name: &str) -> Option<CachedStatus> {
        self.entries
            .lock()
            .get(namespace)?
            .get(&(kind, name.to_owned()))
            .cloned()
    }

    /// Of the object that has this name now.
    pub fn uid(&self, namespace: &str, kind: Kind, name: &str) -> Option<String> {
        let entries = self.entries.lock();
        let known = entries.get(namespace)?.get(&(kind, name.to_owned()))?;
        Some(known.uid.clone())
    }

    /// These objects' statuses may be out of date. Without any, it is only to be found out when
    /// the namespace should be looked at next.
    pub fn mark_dirty(&self, namespace: &str, objects: impl IntoIterator<Item = ObjectKey>) {
        if self.is_idle() {
            return;
        }
        let mut due = self.due.lock();
        let marks = due.entry(namespace.to_owned()).or_default();
        marks.objects.extend(objects);
        drop(due);
        self.notify.notify_one();
    }

    /// Nobody takes marks, and none are kept, until [`start`](Self::start).
    pub fn stop(&self) {
        self.idle.store(true, Ordering::Release);
        self.due.lock().clear();
    }

    /// Whoever takes marks from now on looks at everything first.
    pub fn start(&self) {
        self.idle.store(false, Ordering::Release);
    }

    fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    pub fn mark_all_dirty(&self, namespace: &str) {
        if self.is_idle() {
            return;
        }
        let mut due = self.due.lock();
        due.entry(namespace.to_owned()).or_default().all = true;
        drop(due);
        self.notify.notify_one();
    }

    /// Waits for marks and takes them.
    pub async fn next_dirty(&self) -> BTreeMap<String, DirtyStatuses> {
        loop {
            let due = mem::take(&mut *self.due.lock());
            if !due.is_empty() {
                return due;
            }
            self.notify.notified().await;
        }
    }
}
