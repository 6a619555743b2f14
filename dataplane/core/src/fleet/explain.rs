//! The decision for a request that is not sent: by the same function as `pick`, on copies of
//! what it would change.

use dataplane_protocol::status::{CandidateView, Explanation};

use super::{
    Fleet,
    decide::{self, Choice, Match, Scene, Scratch},
    view::why,
};
use crate::{
    pick::Refusal,
    plan::{Member, Plan},
    route::{self, Query},
    time::Mono,
};

impl Fleet {
    /// Who would get this request now, who would not, and why. Changes nothing.
    pub fn explain(&self, query: &Query<'_>, now: Mono) -> Explanation {
        let found = self.rules.find(query).and_then(|found| {
            let state = self.plans.get(found.route)?;
            Some((state, found.matched))
        });
        let Some((state, matched)) = found else {
            return explanation(None, Vec::new(), Err(Refusal::NoRoute));
        };
        let plan = &state.plan;
        let scene = Scene {
            plan,
            slots: &self.slots,
            catalogue: &self.catalogue,
            now,
        };
        let (mut turns, mut rng) = (state.turns.clone(), self.rng.clone());
        let mut scratch = Scratch::default();
        let result = decide::decide(&scene, query, &[], &mut turns, &mut rng, &mut scratch);
        let members = plan.members.iter().enumerate();
        let candidates = members
            .filter_map(|(place, member)| {
                candidate_view(&scene, query, place, *member, &scratch, &result)
            })
            .collect();
        Explanation {
            matched: Some(matched).filter(|_| plan.route.matches.len() > 1),
            ..explanation(Some(plan), candidates, result)
        }
    }
}

fn explanation(
    plan: Option<&Plan>,
    candidates: Vec<CandidateView>,
    result: Result<Choice, Refusal>,
) -> Explanation {
    let refusal = result.err();
    let wait = refusal.and_then(|refusal| refusal.retry_after());
    let empty = plan
        .iter()
        .flat_map(|plan| &plan.targets)
        .filter(|target| target.absent.is_some());
    Explanation {
        route: plan.map(|plan| plan.route.id.clone()),
        matched: None,
        candidates,
        decision: result.ok().map(|choice| choice.decision),
        refusal: refusal.map(|refusal| refusal.reason().into()),
        retry_after_ms: wait.and_then(|wait| u64::try_from(wait.as_millis()).ok()),
        notes: empty
            .map(|target| format!("endpoint {} has no ready instance", target.endpoint.id))
            .collect(),
    }
}

fn candidate_view(
    scene: &Scene<'_>,
    query: &Query<'_>,
    place: usize,
    member: Member,
    scratch: &Scratch,
    result: &Result<Choice, Refusal>,
) -> Option<CandidateView> {
    let slot = scene.slots.get(member.slot)?;
    let candidate = scratch.candidates.iter().find(|c| c.member == place);
    let (selectable, why) = match candidate {
        Some(candidate) => (
            candidate.standing.is_selectable(),
            why(candidate.standing, slot, scene.now),
        ),
        None => (false, why_no_candidate(scene, query, member)),
    };
    Some(CandidateView {
        endpoint: slot.info.endpoint.id.clone(),
        instance: slot.info.instance.id.clone(),
        tier: member.tier,
        weight: member.weight,
        selectable,
        why,
        chosen: result.is_ok_and(|choice| choice.slot == member.slot),
    })
}

fn why_no_candidate(scene: &Scene<'_>, query: &Query<'_>, member: Member) -> String {
    let Some(slot) = scene.slots.get(member.slot) else {
        return String::new();
    };
    let profile = &slot.info.profile;
    if let Some(prefix) = query.prefix
        && !route::reaches(profile, Some(prefix), None)
    {
        return format!("type {} is not reached by /olla/{prefix}", profile.name);
    }
    if let Some(dialect) = query.dialect
        && !route::reaches(profile, None, Some(dialect))
    {
        return format!("type {} does not speak {dialect}", profile.name);
    }
    if !query.is_permitted_at(&slot.info.endpoint) {
        return "does not take this operation: its credential is for inference and lists of \
                models, and no pool changes one server's store"
            .to_owned();
    }
    let Some(model) = query.model else {
        return String::new();
    };
    let found = scene.catalogue.find(model);
    match decide::match_model(member.slot, slot, model, &found) {
        Match::Lists | Match::ListsButForCase => {
            format!("lists {model} in other upper and lower case than asked for")
        }
        Match::Anything => format!("may serve {model}, but others list it"),
        Match::NotKnown => format!("models not known yet, others may serve {model}"),
        Match::Not => format!("does not serve {model}"),
    }
}
