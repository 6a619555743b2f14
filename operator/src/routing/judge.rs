//! A namespace's objects → its table and verdicts, where an object that is refused changes nothing
//! but its own status. Pure.
//!
//! In: each object's newest form, and the last one that was accepted. Out: the table with, for each
//! object, the newest of the two that is accepted, and a verdict on the newest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use compile::{Compiled, Facts, Kind, Objects, Problem, Verdict, compile};
use crds::{LlmEndpoint, OllaRoute, Reason};
use kube::Resource;

use super::item::Decoded;

/// One kind's objects by name.
#[derive(Debug)]
pub(super) struct Forms<K> {
    pub(super) newest: BTreeMap<String, Decoded<K>>,
    /// Of objects that are in `newest` and of the same uid.
    pub(super) accepted: BTreeMap<String, Arc<K>>,
}

impl<K> Default for Forms<K> {
    fn default() -> Self {
        Self {
            newest: BTreeMap::new(),
            accepted: BTreeMap::new(),
        }
    }
}

impl<K: Resource> Forms<K> {
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.accepted.remove(name);
        self.newest.remove(name).is_some()
    }

    /// Whether it is another object of that name than the one whose form was accepted.
    pub(super) fn forget_if_replaced(&mut self, name: &str) {
        let uid = self.newest.get(name).and_then(Decoded::uid);
        let known = self.accepted.get(name);
        if known.is_some_and(|known| known.meta().uid.as_deref() != uid) {
            self.accepted.remove(name);
        }
    }

    /// All forms of which one may be in the table.
    pub(super) fn each(&self) -> impl Iterator<Item = &K> {
        let newest = self.newest.values().filter_map(|form| match form {
            Decoded::Object(object) => Some(&**object),
            Decoded::Undecodable { .. } => None,
        });
        newest.chain(self.accepted.values().map(|object| &**object))
    }

    /// An older form than the newest one, to be used in its place.
    fn older(&self, name: &str) -> Option<&Arc<K>> {
        let older = self.accepted.get(name)?;
        let newest = self.newest.get(name)?;
        (older.meta().generation != Some(newest.generation())).then_some(older)
    }

    fn chosen(&self, refused: &Refused, kind: Kind) -> Vec<Arc<K>> {
        let chosen = self.newest.iter().filter_map(|(name, newest)| {
            if refused.contains_key(&(kind, name.clone())) {
                return self.older(name).cloned();
            }
            match newest {
                Decoded::Object(object) => Some(object.clone()),
                Decoded::Undecodable { .. } => None,
            }
        });
        chosen.collect()
    }

    fn undecodable(&self, kind: Kind, refused: &mut Refused) {
        for (name, form) in &self.newest {
            if let Decoded::Undecodable { message, .. } = form {
                let problem = Problem {
                    reason: Reason::Undecodable,
                    field: String::new(),
                    message: message.clone(),
                };
                refused.insert((kind, name.clone()), problem);
            }
        }
    }

    fn keep(&mut self, accepted: &BTreeSet<&str>) {
        for (name, newest) in &self.newest {
            if let Decoded::Object(object) = newest
                && accepted.contains(name.as_str())
            {
                self.accepted.insert(name.clone(), object.clone());
            }
        }
    }
}

/// Newest forms that are not used, and why.
type Refused = BTreeMap<(Kind, String), Problem>;

/// One verdict for each object. What is accepted is remembered in the forms.
pub(super) fn judge(
    namespace: &str,
    endpoints: &mut Forms<LlmEndpoint>,
    routes: &mut Forms<OllaRoute>,
    facts: &Facts,
) -> Compiled {
    let mut refused = Refused::new();
    endpoints.undecodable(Kind::LlmEndpoint, &mut refused);
    routes.undecodable(Kind::OllaRoute, &mut refused);
    // Each turn puts at least one older form in place, so there are no more turns than objects.
    let mut compiled = loop {
        let objects = Objects {
            endpoints: endpoints.chosen(&refused, Kind::LlmEndpoint),
            routes: routes.chosen(&refused, Kind::OllaRoute),
        };
        let compiled = compile(namespace, &objects, facts);
        let news = newly_refused(&compiled.verdicts, &refused, |kind, name| match kind {
            Kind::LlmEndpoint => endpoints.older(name).is_some(),
            Kind::OllaRoute => routes.older(name).is_some(),
        });
        if news.is_empty() {
            break compiled;
        }
        refused.extend(news);
    };
    let mut used: BTreeMap<(Kind, String), Verdict> = compiled
        .verdicts
        .drain(..)
        .map(|verdict| ((verdict.kind, verdict.name.clone()), verdict))
        .collect();
    for ((kind, name), problem) in refused {
        let of = match kind {
            Kind::LlmEndpoint => endpoints.newest.get(&name).map(of),
            Kind::OllaRoute => routes.newest.get(&name).map(of),
        };
        let older = used.remove(&(kind, name.clone()));
        let verdict = refusal(kind, &name, of.unwrap_or_default(), problem, older);
        used.insert((kind, name), verdict);
    }
    compiled.verdicts = used.into_values().collect();
    let accepted = |kind: Kind| -> BTreeSet<&str> {
        let all = compiled.verdicts.iter();
        all.filter(|verdict| verdict.kind == kind && verdict.accepted.is_ok())
            .map(|verdict| verdict.name.as_str())
            .collect()
    };
    endpoints.keep(&accepted(Kind::LlmEndpoint));
    routes.keep(&accepted(Kind::OllaRoute));
    compiled
}

fn newly_refused(
    verdicts: &[Verdict],
    refused: &Refused,
    has_older: impl Fn(Kind, &str) -> bool,
) -> Refused {
    let mut news = Refused::new();
    for verdict in verdicts {
        let key = (verdict.kind, verdict.name.clone());
        if let Err(problem) = &verdict.accepted
            && !refused.contains_key(&key)
            && has_older(verdict.kind, &verdict.name)
        {
            news.insert(key, problem.clone());
        }
    }
    news
}

/// Which object a form is of, and which of its generations.
fn of<K: Resource>(form: &Decoded<K>) -> (Option<String>, i64) {
    (form.uid().map(str::to_owned), form.generation())
}

/// On a newest form that is not used; `older` says what became of the one before it.
fn refusal(
    kind: Kind,
    name: &str,
    (uid, generation): (Option<String>, i64),
    mut problem: Problem,
    older: Option<Verdict>,
) -> Verdict {
    let mut verdict = Verdict {
        kind,
        name: name.to_owned(),
        uid,
        generation,
        accepted: Err(problem.clone()),
        resolved_refs: Err(problem.clone()),
        instances: 0,
        in_use: None,
    };
    if let Some(older) = older.filter(|older| older.accepted.is_ok()) {
        let in_use = older.generation;
        problem.message = format!("{}; generation {in_use} is still in use", problem.message);
        verdict.accepted = Err(problem);
        verdict.resolved_refs = older.resolved_refs;
        verdict.instances = older.instances;
        verdict.in_use = Some(in_use);
    }
    verdict
}
