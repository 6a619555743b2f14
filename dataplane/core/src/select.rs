//! Who of several candidates gets a request. In: candidates in order of tier, each with its
//! standing. Out: one of them, and whether it was selectable or only the last resort.

use dataplane_protocol::table::{Balancer, WhenAllOpen};

use crate::{plan::Turns, ramp::FULL_PERMILLE, rng::Rng, time::Mono};

/// An instance that serves what is asked for, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    pub(crate) member: usize,
    pub(crate) target: usize,
    pub(crate) tier: u32,
    /// Of its endpoint.
    pub(crate) weight: u32,
    pub(crate) standing: Standing,
    /// Known to be healthy; else not probed yet.
    pub(crate) healthy: bool,
    /// Share of full traffic while it comes back.
    pub(crate) ramp_permille: u32,
    pub(crate) in_flight: u32,
    /// Requests in proportion to its share; filled in where connections are compared.
    pub(crate) score: f64,
    /// This request was here before.
    pub(crate) tried: bool,
    /// This request was at this endpoint before.
    pub(crate) endpoint_tried: bool,
}

/// Whether an instance may be sent a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Selectable,
    /// Its breaker is open, but too many of the route's are.
    LetThrough,
    Saturated {
        until: Mono,
    },
    /// Or half-open with all permits out.
    Open {
        since: Mono,
        until: Mono,
    },
    Unhealthy,
    /// This copy of the table does not hold its credential.
    Withheld,
    /// Weight 0.
    NoShare,
}

impl Standing {
    pub(crate) fn is_selectable(self) -> bool {
        matches!(self, Self::Selectable | Self::LetThrough)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) balancer: Balancer,
    /// Absent: the route has no breaker.
    pub(crate) when_all_open: Option<WhenAllOpen>,
}

/// The candidate that gets the request; true when only as a last resort. `group` is working
/// space. None when even that is not allowed.
pub(crate) fn choose(
    policy: Policy,
    candidates: &[Candidate],
    group: &mut Vec<Candidate>,
    turns: &mut Turns,
    rng: &mut Rng,
) -> Option<(Candidate, bool)> {
    group.clear();
    if policy.balancer == Balancer::Priority {
        fill_by_tier(candidates, group, rng);
    } else {
        group.extend(candidates.iter().filter(|c| is_open_to(c)));
    }
    if group.is_empty() {
        return last_resort(policy, candidates).map(|candidate| (candidate, true));
    }
    prefer(group, |candidate| candidate.healthy);
    prefer(group, |candidate| !candidate.endpoint_tried);
    if policy.balancer == Balancer::LeastConnections {
        keep_least_loaded(group);
    }
    take_turn(group, turns).map(|candidate| (candidate, false))
}

fn is_open_to(candidate: &Candidate) -> bool {
    candidate.standing.is_selectable() && !candidate.tried
}

/// The lowest tier with somebody selectable. One that is only coming back takes its growing
/// share of requests; the others go to the next tier, if there is one.
fn fill_by_tier(candidates: &[Candidate], group: &mut Vec<Candidate>, rng: &mut Rng) {
    let mut tiers = candidates
        .chunk_by(|a, b| a.tier == b.tier)
        .filter(|tier| tier.iter().any(is_open_to))
        .peekable();
    while let Some(tier) = tiers.next() {
        let open = || tier.iter().filter(|c| is_open_to(c));
        let share = open().map(|c| c.ramp_permille).max().unwrap_or(0);
        if share >= FULL_PERMILLE || tiers.peek().is_none() || rng.chance(share) {
            group.extend(open());
            return;
        }
    }
}

/// Leaves those that `wanted` holds for, if there are any.
fn prefer(group: &mut Vec<Candidate>, wanted: impl Fn(&Candidate) -> bool) {
    if group.iter().any(&wanted) {
        group.retain(wanted);
    }
}

/// Leaves those with the fewest requests in proportion to their share.
fn keep_least_loaded(group: &mut Vec<Candidate>) {
    let mut least = f64::INFINITY;
    for target in group.chunk_by_mut(|a, b| a.target == b.target) {
        let siblings = target.len() as f64;
        for candidate in target {
            let share = f64::from(candidate.weight) * f64::from(candidate.ramp_permille);
            candidate.score = (f64::from(candidate.in_flight) + 1.0) * siblings / share;
            least = least.min(candidate.score);
        }
    }
    group.retain(|candidate| candidate.score <= least);
}

/// Smooth weighted round robin, first among endpoints, then among the instances of the one
/// whose turn it is: three pods do not triple an endpoint's share.
fn take_turn(group: &[Candidate], turns: &mut Turns) -> Option<Candidate> {
    let targets = group.chunk_by(|a, b| a.target == b.target);
    let chosen = next_turn(&mut turns.targets, targets, |target| {
        let first = target.first()?;
        let ramp = target.iter().map(|c| c.ramp_permille).max()?;
        let share = i64::from(first.weight) * i64::from(ramp);
        Some((first.target, share))
    })?;
    next_turn(&mut turns.members, chosen.iter(), |candidate| {
        Some((candidate.member, i64::from(candidate.ramp_permille)))
    })
    .copied()
}

/// One step: each item's sum grows by its share, the largest is taken and pays for all.
fn next_turn<T>(
    sums: &mut [i64],
    items: impl Iterator<Item = T>,
    place_and_share: impl Fn(&T) -> Option<(usize, i64)>,
) -> Option<T> {
    let mut total = 0;
    let mut best: Option<(T, usize, i64)> = None;
    for item in items {
        let (place, share) = place_and_share(&item)?;
        let sum = sums.get_mut(place)?;
        *sum = sum.saturating_add(share);
        total += share;
        if best.as_ref().is_none_or(|(_, _, most)| *sum > *most) {
            best = Some((item, place, *sum));
        }
    }
    let (item, place, _) = best?;
    let sum = sums.get_mut(place)?;
    *sum = sum.saturating_sub(total);
    Some(item)
}

/// Saturated ones live and may have room again: the one that asked for the shortest wait. Then,
/// where the policy wants it, the open breaker that may close first.
fn last_resort(policy: Policy, candidates: &[Candidate]) -> Option<Candidate> {
    let untried = || candidates.iter().filter(|candidate| !candidate.tried);
    let saturated = untried().filter_map(|candidate| match candidate.standing {
        Standing::Saturated { until } => Some((until, candidate)),
        _ => None,
    });
    let open = untried().filter_map(|candidate| match candidate.standing {
        Standing::Open { until, .. } => Some((until, candidate)),
        _ => None,
    });
    let soonest = saturated.min_by_key(|(until, _)| *until).or_else(|| {
        (policy.when_all_open == Some(WhenAllOpen::TryBest))
            .then(|| open.min_by_key(|(until, _)| *until))
            .flatten()
    });
    soonest.map(|(_, candidate)| *candidate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn candidate(place: usize, tier: u32, weight: u32) -> Candidate {
        Candidate {
            slot: place,
            member: place,
            target: place,
            tier,
            weight,
            standing: Standing::Selectable,
            healthy: true,
            ramp_permille: FULL_PERMILLE,
            in_flight: 0,
            score: 0.0,
            tried: false,
            endpoint_tried: false,
        }
    }

    fn turns(count: usize) -> Turns {
        Turns {
            targets: vec![0; count],
            members: vec![0; count],
        }
    }

    fn policy(balancer: Balancer) -> Policy {
        Policy {
            balancer,
            when_all_open: Some(WhenAllOpen::TryBest),
        }
    }

    /// Places that `count` choices fall on.
    fn choices(candidates: &[Candidate], balancer: Balancer, count: usize) -> Vec<usize> {
        let (mut turns, mut rng) = (turns(candidates.len()), Rng::new(3));
        let mut group = Vec::new();
        let mut choose_one = || {
            choose(
                policy(balancer),
                candidates,
                &mut group,
                &mut turns,
                &mut rng,
            )
        };
        (0..count).map(|_| choose_one().unwrap().0.slot).collect()
    }

    #[test]
    fn larger_weights_are_spread_out_not_bunched() {
        let all = [candidate(0, 0, 5), candidate(1, 0, 1), candidate(2, 0, 1)];
        assert_eq!(
            choices(&all, Balancer::RoundRobin, 7),
            [0, 0, 1, 0, 2, 0, 0]
        );
    }

    #[test]
    fn a_tier_that_is_coming_back_takes_its_share_and_the_next_the_rest() {
        let mut back = candidate(0, 0, 100);
        back.ramp_permille = 300;
        let all = [back, candidate(1, 1, 100)];
        let chosen = choices(&all, Balancer::Priority, 10_000);
        let on_first = chosen.iter().filter(|place| **place == 0).count();
        assert!((2_800..3_200).contains(&on_first), "{on_first}");
        assert!(
            choices(&all[..1], Balancer::Priority, 9)
                .iter()
                .all(|place| *place == 0)
        );
    }

    #[test]
    fn one_that_is_coming_back_takes_less_of_its_tier() {
        let mut back = candidate(0, 0, 100);
        back.ramp_permille = 100;
        let chosen = choices(&[back, candidate(1, 0, 100)], Balancer::Priority, 110);
        assert_eq!(chosen.iter().filter(|place| **place == 0).count(), 10);
    }

    fn standings() -> impl Strategy<Value = Standing> {
        let time = (1..100_u64).prop_map(Mono::from_millis);
        prop_oneof![
            Just(Standing::Selectable),
            time.clone().prop_map(|until| Standing::Saturated { until }),
            (time.clone(), time).prop_map(|(since, until)| Standing::Open { since, until }),
            Just(Standing::Unhealthy),
            Just(Standing::Withheld),
            Just(Standing::NoShare),
        ]
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (
            0..3_u32,
            1..50_u32,
            standings(),
            any::<bool>(),
            any::<bool>(),
            0..4_u32,
        );
        prop::collection::vec(one, 0..8).prop_map(|mut list| {
            list.sort_by_key(|(tier, ..)| *tier);
            let all = list.into_iter().enumerate();
            all.map(
                |(place, (tier, weight, standing, healthy, tried, in_flight))| Candidate {
                    standing,
                    healthy,
                    tried,
                    endpoint_tried: tried,
                    in_flight,
                    ..candidate(place, tier, weight)
                },
            )
            .collect()
        })
    }

    proptest! {
        #[test]
        fn a_choice_is_never_worse_than_another_it_could_have_made(all in candidates()) {
            for balancer in [Balancer::Priority, Balancer::RoundRobin, Balancer::LeastConnections] {
                let (mut turns, mut rng) = (turns(all.len()), Rng::new(1));
                let choice =
                    choose(policy(balancer), &all, &mut Vec::new(), &mut turns, &mut rng);
                let open: Vec<_> = all.iter().filter(|c| is_open_to(c)).collect();
                match choice {
                    None => {
                        prop_assert!(open.is_empty());
                        let any = all.iter().any(|c| {
                            let may = matches!(
                                c.standing,
                                Standing::Saturated { .. } | Standing::Open { .. }
                            );
                            may && !c.tried
                        });
                        prop_assert!(!any, "a last resort was left");
                    }
                    Some((chosen, last_resort)) => {
                        prop_assert!(!chosen.tried);
                        prop_assert_eq!(last_resort, open.is_empty());
                        if !last_resort {
                            let lowest = open.iter().map(|c| c.tier).min();
                            let in_reach = |c: &&&Candidate| {
                                balancer != Balancer::Priority || c.tier == chosen.tier
                            };
                            prop_assert!(
                                balancer != Balancer::Priority || Some(chosen.tier) == lowest
                            );
                            let healthy = open.iter().filter(in_reach).any(|c| c.healthy);
                            prop_assert_eq!(chosen.healthy, healthy);
                        }
                    }
                }
            }
        }

        #[test]
        fn whoever_comes_and_goes_nobody_runs_up_a_debt(
            weights in prop::collection::vec(1..100_u32, 6),
            groups in prop::collection::vec(1..64_u8, 1..300),
        ) {
            let mut turns = turns(6);
            let total: u32 = weights.iter().sum();
            for present in groups {
                let group: Vec<_> = (0..6)
                    .filter(|place| present & (1 << place) != 0)
                    .map(|place| candidate(place, 0, weights[place]))
                    .collect();
                take_turn(&group, &mut turns).unwrap();
                // A few rounds at most: so much may be caught up when somebody returns.
                let bound = i64::from(total) * i64::from(FULL_PERMILLE) * 6;
                prop_assert!(turns.targets.iter().all(|sum| sum.abs() <= bound), "{turns:?}");
            }
        }
    }
}
