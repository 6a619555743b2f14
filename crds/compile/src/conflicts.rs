//! All `OllaRoute`s of a namespace, of which no two may take the same requests. In: the objects and
//! the endpoints that were accepted. Out: the routes of the table and a verdict each, as far as
//! they have changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crds::{LabelSelector, OllaRoute, Reason};
use dataplane_protocol::{SetId, table::Route};

use crate::{
    Form, Kind, Problem, Verdict,
    route::{Match, Parsed, created, parsed, resolved},
    sets::MOST_MEMBERS,
};

/// All routes of a namespace, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_age: BTreeMap<Age, Candidate>,
    ages: BTreeMap<String, Age>,
    /// Names of routes by the endpoints that they name in some form.
    naming: BTreeMap<String, BTreeSet<String>>,
    /// Generations by name, until these routes are set; see [`note_lost`](Self::note_lost).
    lost: BTreeMap<String, i64>,
}

/// Oldest first, then by name; an object that no cluster dated is younger than all that one did.
type Age = (bool, Option<i64>, String);

/// An object, and what became of it.
#[derive(Debug)]
struct Candidate {
    /// Before anything is known against it.
    verdict: Verdict,
    newest: Result<Arc<Parsed>, Problem>,
    /// The form that was accepted last, as far as one is known.
    accepted: Option<LastAccepted>,
    /// Whether data planes may hold a form of it that is not known here.
    may_be_in_use: bool,
    /// Its newest form had lost its requests before this process looked at it.
    lost: bool,
    /// Endpoints that these forms name.
    named: BTreeSet<String>,
    /// `None` until it is looked at.
    outcome: Option<Outcome>,
}

#[derive(Clone, Debug)]
struct LastAccepted {
    verdict: Verdict,
    parsed: Arc<Parsed>,
}

#[derive(Debug)]
struct Outcome {
    used: Option<Arc<Parsed>>,
    problem: Option<Problem>,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.used, &other.used) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same && self.problem == other.problem
    }
}

/// What has changed of a route.
pub(crate) struct RouteResult {
    pub(crate) verdict: Verdict,
    pub(crate) placed: Placement,
}

/// What the table has of a route.
pub(crate) enum Placement {
    Route(Arc<Route>),
    /// It is refused, and an older form that was accepted may be in use.
    Unknown,
    /// It is known, and has lost its requests to an older route.
    Nowhere,
}

impl Routes {
    /// The newest form of the object. The one that was accepted last is kept if it is of the same.
    /// `may_be_in_use`: whether data planes may hold a form of it that is not known here.
    pub(crate) fn set(&mut self, name: &str, newest: &Form<OllaRoute>, may_be_in_use: bool) {
        let before = self.remove(name);
        let noted = self.lost.remove(name);
        let lost = before.as_ref().filter(|before| before.lost);
        let lost = noted.or(lost.map(|before| before.verdict.generation));
        let before = before.and_then(|before| before.accepted);
        let accepted = before.filter(|accepted| accepted.verdict.uid.as_deref() == newest.uid());
        let (verdict, created, newest) = match newest {
            Form::Object(object) => (
                Verdict::good(Kind::OllaRoute, name, &object.metadata),
                created(&object.metadata),
                parsed(object).map(Arc::new),
            ),
            Form::Unreadable(object) => {
                let verdict = Verdict::unreadable(object);
                let created = accepted.as_ref().and_then(|it| it.parsed.route.created);
                let problem = Problem::new(Reason::Undecodable, "", object.message.clone());
                (verdict, created, Err(problem))
            }
        };
        let age = (created.is_none(), created, name.to_owned());
        self.ages.insert(name.to_owned(), age.clone());
        let forms = newest.iter().chain(accepted.iter().map(|it| &it.parsed));
        let named = forms.flat_map(|parsed| parsed.named()).map(str::to_owned);
        let named: BTreeSet<String> = named.collect();
        for endpoint in &named {
            let routes = self.naming.entry(endpoint.clone()).or_default();
            routes.insert(name.to_owned());
        }
        let candidate = Candidate {
            lost: lost == Some(verdict.generation),
            verdict,
            newest,
            accepted,
            may_be_in_use,
            named,
            outcome: None,
        };
        self.by_age.insert(age, candidate);
    }

    /// A route that is to be set for the first time: its status says that this generation has lost
    /// its requests to another route. As long as the form in use of an older one is not known, that
    /// may still be so.
    pub(crate) fn note_lost(&mut self, name: &str, generation: i64) {
        if !self.ages.contains_key(name) {
            self.lost.insert(name.to_owned(), generation);
        }
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.remove(name);
    }

    fn remove(&mut self, name: &str) -> Option<Candidate> {
        let age = self.ages.remove(name)?;
        let candidate = self.by_age.remove(&age)?;
        for endpoint in &candidate.named {
            if let Some(routes) = self.naming.get_mut(endpoint) {
                routes.remove(name);
                if routes.is_empty() {
                    self.naming.remove(endpoint);
                }
            }
        }
        Some(candidate)
    }

    /// Routes in use that name one of these endpoints or select one of these sets, some of them
    /// twice.
    pub(crate) fn concerned<'s>(
        &'s self,
        endpoints: &'s BTreeSet<String>,
        sets: &'s BTreeSet<SetId>,
    ) -> impl Iterator<Item = &'s Route> {
        let naming = endpoints.iter().filter_map(|name| self.naming.get(name));
        let ages = naming.flatten().filter_map(|route| self.ages.get(route));
        let naming = ages.filter_map(|age| self.by_age.get(age)?.used());
        let all = (!sets.is_empty()).then(|| self.by_age.values());
        let selecting = all.into_iter().flatten().filter_map(Candidate::used);
        let selecting = selecting.filter(|route| {
            let set = route.endpoints.set.as_ref();
            set.is_some_and(|set| sets.contains(set))
        });
        naming.chain(selecting)
    }

    /// Whoever is older takes its requests first, by its newest form or, where that is refused, by
    /// the one that was accepted last: so one pass over the objects is enough, and no edit of an
    /// older route frees requests for a younger one by mistake. Out: what has changed; all of them
    /// with `all`, which is for other reasons than these objects. `endpoints` tells which were
    /// accepted, `has_room` whether the set that a route selects may be in the table.
    pub(crate) fn resolve_conflicts(
        &mut self,
        all: bool,
        endpoints: impl Fn(&str) -> bool,
        mut has_room: impl FnMut(&SetId, Option<&LabelSelector>) -> bool,
    ) -> Vec<RouteResult> {
        let mut changed = Vec::new();
        let mut owners = Owners::new();
        let mut unknown = None;
        for ((_, created, name), candidate) in &mut self.by_age {
            let owner = Owner {
                created: *created,
                name,
            };
            let outcome = match unknown {
                Some(older) if candidate.lost && candidate.accepted.is_none() => Outcome {
                    used: None,
                    problem: Some(still_lost(older)),
                },
                _ => candidate.outcome(&mut owners, owner, &mut has_room),
            };
            if outcome.used.is_none() && candidate.is_unknown() {
                unknown = unknown.or(Some(name.as_str()));
            }
            if !all && candidate.outcome.as_ref() == Some(&outcome) {
                continue;
            }
            changed.push(candidate.result(&outcome, &endpoints));
            if let (Some(parsed), None) = (&outcome.used, &outcome.problem) {
                candidate.accepted = Some(LastAccepted {
                    verdict: candidate.verdict.clone(),
                    parsed: parsed.clone(),
                });
            }
            candidate.outcome = Some(outcome);
        }
        changed
    }

    /// The sets that the routes in use select, each with its selector.
    pub(crate) fn sets(&self) -> BTreeMap<&SetId, Option<&LabelSelector>> {
        let outcomes = self.by_age.values().filter_map(|it| it.outcome.as_ref());
        let used = outcomes.filter_map(|outcome| outcome.used.as_ref());
        used.filter_map(|parsed| {
            let set = parsed.route.endpoints.set.as_ref()?;
            Some((set, parsed.selector.as_ref()))
        })
        .collect()
    }
}

/// Which route takes the requests of a match.
type Owners<'a> = HashMap<Arc<Match>, Owner<'a>>;

#[derive(Clone, Copy)]
struct Owner<'a> {
    created: Option<i64>,
    name: &'a str,
}

impl Candidate {
    fn used(&self) -> Option<&Route> {
        let used = self.outcome.as_ref()?.used.as_ref()?;
        Some(&used.route)
    }

    fn outcome<'a>(
        &self,
        owners: &mut Owners<'a>,
        owner: Owner<'a>,
        has_room: &mut impl FnMut(&SetId, Option<&LabelSelector>) -> bool,
    ) -> Outcome {
        let mut take = |parsed: &Arc<Parsed>| {
            for (place, key) in parsed.keys.iter().enumerate() {
                if let Some(other) = owners.get(key) {
                    return Err(conflict(*other, owner, &parsed.field(place)));
                }
            }
            if let Some(set) = &parsed.route.endpoints.set
                && !has_room(set, parsed.selector.as_ref())
            {
                return Err(too_large());
            }
            owners.extend(parsed.keys.iter().map(|key| (key.clone(), owner)));
            Ok(parsed.clone())
        };
        let newest = self.newest.as_ref().map_err(Problem::clone);
        let problem = match newest.and_then(&mut take) {
            Ok(used) => {
                return Outcome {
                    used: Some(used),
                    problem: None,
                };
            }
            Err(problem) => Some(problem),
        };
        let older = self.accepted.as_ref();
        let older = older.filter(|older| older.verdict.generation != self.verdict.generation);
        let used = older.and_then(|older| take(&older.parsed).ok());
        Outcome { used, problem }
    }

    /// The newest form is the only one that there has been, and makes sense: if a data plane has
    /// this route, it has this form, also if the operator has seen no older one since it started.
    fn never_edited(&self) -> bool {
        self.newest.is_ok() && self.verdict.generation == 1
    }

    /// Where its newest form is refused: whether an older one may be in use.
    fn is_unknown(&self) -> bool {
        self.accepted.is_none() && self.may_be_in_use && !self.never_edited()
    }

    fn result(&self, outcome: &Outcome, endpoints: &impl Fn(&str) -> bool) -> RouteResult {
        let mut verdict = self.verdict.clone();
        let refs = |parsed: &Parsed| resolved(&parsed.route.endpoints, endpoints);
        let placed = match &outcome.used {
            Some(parsed) => Placement::Route(parsed.route.clone()),
            None if self.is_unknown() => Placement::Unknown,
            None => Placement::Nowhere,
        };
        match (&outcome.problem, &outcome.used, &self.accepted) {
            (None, Some(parsed), _) => verdict.resolved_refs = refs(parsed),
            (Some(problem), Some(parsed), Some(accepted)) => {
                let mut older = accepted.verdict.clone();
                older.resolved_refs = refs(parsed);
                verdict.accepted = Err(problem.clone());
                verdict = verdict.with_in_use(&older);
            }
            (Some(problem), ..) => verdict.accepted = Err(problem.clone()),
            (None, None, _) => {}
        }
        RouteResult { verdict, placed }
    }
}

fn still_lost(older: &str) -> Problem {
    let message = format!(
        "matched the same requests as an older OllaRoute before the operator restarted; the form of \
         OllaRoute `{older}` that is in use is not known until that route is accepted or deleted"
    );
    Problem::new(Reason::Conflicted, "spec.matches", message)
}

fn too_large() -> Problem {
    let message = format!(
        "the selectors of this namespace's OllaRoutes select more than {MOST_MEMBERS} LlmEndpoints \
         in total, counted once for each different selector, and older routes take precedence; \
         use fewer different selectors, or labels that fewer LlmEndpoints have"
    );
    Problem::new(Reason::TooLarge, "spec.endpoints", message)
}

/// A route that has lost one of its matches is not used for the others either: one that takes a
/// part of what it says it takes would be a riddle. `field` is the match that is lost.
fn conflict(owner: Owner<'_>, newcomer: Owner<'_>, field: &str) -> Problem {
    let why = if owner.created == newcomer.created {
        "comes first by name"
    } else {
        "is older"
    };
    let message = format!(
        "matches the same requests as OllaRoute `{}`, which takes precedence because it {why}; change one of the matches",
        owner.name
    );
    Problem::new(Reason::Conflicted, field, message)
}
