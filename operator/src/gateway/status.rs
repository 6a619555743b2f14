//! Status of an `OllaGateway`. In: what became of it. Out: the status it should have. Pure.

use compile::{Kind, Verdicts};
use crds::{
    OllaGatewayStatus, Reason, condition,
    gateway::{DataPlaneCounts, GatewayAddress},
};
use k8s_openapi::jiff::Timestamp;

use super::render::{ChildKind, PORT, SERVICE};
use crate::condition::{ConditionState, states_of};

/// What decides a gateway's status.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    pub generation: i64,
    /// Another OllaGateway of the namespace counts, being older.
    pub older: Option<&'a str>,
    /// Why it cannot be followed.
    pub refusal: Option<String>,
    /// Why there is no gateway though the object is good.
    pub off: Option<&'static str>,
    pub in_the_way: &'a [ChildKind],
    /// Why the last write failed.
    pub problem: Option<String>,
    /// Nothing is left to be written.
    pub is_written: bool,
    pub pods: PodCounts,
    pub scheme: &'a str,
    pub load_balancers: &'a [String],
    /// There is a Deployment of ours.
    pub is_there: bool,
    /// Clients outside of the cluster are not let in, though the Service leads them here.
    pub closed_outside: bool,
    pub data_planes: Option<DataPlaneCounts>,
}

/// As the Deployment has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodCounts {
    pub desired: i64,
    pub updated: i64,
    pub ready: i64,
}

/// Whether `status` has all that `desired` says; conditions of others are not looked at.
pub fn says(status: &OllaGatewayStatus, desired: &OllaGatewayStatus) -> bool {
    let has = |condition| status.conditions.contains(condition);
    status.observed_generation == desired.observed_generation
        && status.addresses == desired.addresses
        && status.data_planes == desired.data_planes
        && desired.conditions.iter().all(has)
}

/// Whether one route or more may be in use, and so a gateway is wanted.
pub fn has_route(verdicts: &Verdicts) -> bool {
    verdicts.iter().any(|((kind, _), verdict)| {
        *kind == Kind::OllaRoute && (verdict.accepted.is_ok() || verdict.in_use.is_some())
    })
}

/// `previous`: for the times at which conditions changed.
pub fn desired(
    namespace: &str,
    facts: &Facts<'_>,
    previous: &OllaGatewayStatus,
    now: Timestamp,
) -> OllaGatewayStatus {
    let accepted = accepted(facts);
    let states = if accepted.status == "True" {
        let programmed = programmed(facts);
        let ready = ready(facts, &programmed);
        vec![accepted, programmed, ready]
    } else {
        let not = |type_| ConditionState {
            type_,
            status: "False",
            reason: accepted.reason,
            message: accepted.message.clone(),
        };
        let (programmed, ready) = (not(condition::PROGRAMMED), not(condition::READY));
        vec![accepted, programmed, ready]
    };
    let counts = facts.older.is_none();
    let reachable = counts && facts.is_there && facts.off.is_none() && facts.in_the_way.is_empty();
    let addresses = if reachable {
        addresses(namespace, facts)
    } else {
        Vec::new()
    };
    OllaGatewayStatus {
        observed_generation: Some(facts.generation),
        conditions: states
            .into_iter()
            .map(|state| {
                let mut before = previous.conditions.iter();
                let before = before.find(|before| before.type_ == state.type_);
                state.condition(facts.generation, before, now)
            })
            .collect(),
        addresses,
        data_planes: facts.data_planes.clone().filter(|_| counts),
    }
}

fn accepted(facts: &Facts<'_>) -> ConditionState {
    let state = states_of(condition::ACCEPTED);
    if let Some(older) = facts.older {
        let message = format!(
            "OllaGateway `{older}` is older, and a namespace has one gateway; delete one of the two"
        );
        state("False", Reason::Conflicted, message)
    } else if let Some(refusal) = &facts.refusal {
        state("False", Reason::Invalid, refusal.clone())
    } else {
        state("True", Reason::Accepted, "accepted".to_owned())
    }
}

fn programmed(facts: &Facts<'_>) -> ConditionState {
    let state = states_of(condition::PROGRAMMED);
    if let Some(off) = facts.off {
        state("False", Reason::Disabled, off.to_owned())
    } else if !facts.in_the_way.is_empty() {
        let objects: Vec<String> = facts
            .in_the_way
            .iter()
            .map(|kind| format!("{} `{}`", kind.as_str(), kind.object_name()))
            .collect();
        let message = format!(
            "{} was not made by the operator and is left as it is; delete or rename it",
            objects.join(", ")
        );
        state("False", Reason::Conflicted, message)
    } else if let Some(problem) = &facts.problem {
        state("False", Reason::Invalid, problem.clone())
    } else if facts.is_written {
        let message = "all objects of the gateway are written".to_owned();
        state("True", Reason::Programmed, message)
    } else {
        state("Unknown", Reason::Pending, "being written".to_owned())
    }
}

fn ready(facts: &Facts<'_>, programmed: &ConditionState) -> ConditionState {
    let state = states_of(condition::READY);
    let PodCounts {
        desired,
        updated,
        ready,
    } = facts.pods;
    if programmed.status == "False" {
        return state("False", programmed.reason, programmed.message.clone());
    }
    let mut message = format!("{ready} of {desired} gateway pods are ready");
    if facts.closed_outside {
        message +=
            "; clients outside of the cluster are refused: set access.from to All to let them in";
    }
    if ready > 0 && updated >= desired {
        state("True", Reason::Ready, message)
    } else if ready > 0 {
        state(
            "True",
            Reason::Ready,
            format!("{message}; {updated} are up to date"),
        )
    } else {
        state("False", Reason::Pending, message)
    }
}

fn addresses(namespace: &str, facts: &Facts<'_>) -> Vec<GatewayAddress> {
    let scheme = facts.scheme;
    let balancers = facts.load_balancers.iter().map(|host| {
        if host.contains(':') {
            format!("{scheme}://[{host}]:{PORT}")
        } else {
            format!("{scheme}://{host}:{PORT}")
        }
    });
    let inside = format!("{scheme}://{SERVICE}.{namespace}:{PORT}");
    let all = std::iter::once(inside).chain(balancers).take(16);
    all.map(|value| GatewayAddress { value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts<'static> {
        Facts {
            generation: 3,
            is_written: true,
            pods: PodCounts {
                desired: 2,
                updated: 2,
                ready: 2,
            },
            scheme: "http",
            is_there: true,
            ..Facts::default()
        }
    }

    /// `Accepted`, `Programmed`, `Ready` in short, and the message of the last.
    fn read(facts: &Facts<'_>) -> (String, String) {
        let status = desired(
            "team-a",
            facts,
            &OllaGatewayStatus::default(),
            Timestamp::UNIX_EPOCH,
        );
        let short = status
            .conditions
            .iter()
            .map(|it| format!("{}/{}", it.status, it.reason));
        let short: Vec<_> = short.collect();
        let last = status.conditions.last().map(|it| it.message.clone());
        (short.join(" "), last.unwrap_or_default())
    }

    #[test]
    fn a_status_says_what_became_of_the_gateway_and_what_to_do() {
        let (conditions, message) = read(&good());
        assert_eq!(conditions, "True/Accepted True/Programmed True/Ready");
        assert_eq!(message, "2 of 2 gateway pods are ready");
        let cases: [(Facts<'_>, &str, &str); 6] = [
            (
                Facts {
                    older: Some("first"),
                    ..good()
                },
                "False/Conflicted False/Conflicted False/Conflicted",
                "`first` is older",
            ),
            (
                Facts {
                    refusal: Some("spec.image: no".into()),
                    ..good()
                },
                "False/Invalid False/Invalid False/Invalid",
                "spec.image: no",
            ),
            (
                Facts {
                    off: Some("the namespace is labelled"),
                    ..good()
                },
                "True/Accepted False/Disabled False/Disabled",
                "labelled",
            ),
            (
                Facts {
                    in_the_way: &[ChildKind::Service],
                    ..good()
                },
                "True/Accepted False/Conflicted False/Conflicted",
                "Service `olla` was not made by the operator",
            ),
            (
                Facts {
                    problem: Some("forbidden: quota".into()),
                    ..good()
                },
                "True/Accepted False/Invalid False/Invalid",
                "quota",
            ),
            (
                Facts {
                    is_written: false,
                    pods: PodCounts::default(),
                    ..good()
                },
                "True/Accepted Unknown/Pending False/Pending",
                "0 of 0 gateway pods",
            ),
        ];
        for (facts, expected, part) in cases {
            let (conditions, message) = read(&facts);
            assert_eq!(conditions, expected);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_address_is_told_only_where_there_is_a_gateway() {
        let of = |facts: &Facts<'_>| {
            let before = OllaGatewayStatus::default();
            desired("team-a", facts, &before, Timestamp::UNIX_EPOCH).addresses
        };
        let hosts = ["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
        let balanced = Facts {
            load_balancers: &hosts,
            ..good()
        };
        let values: Vec<_> = of(&balanced).into_iter().map(|it| it.value).collect();
        let expected = [
            "http://olla.team-a:40114",
            "http://192.0.2.1:40114",
            "http://[2001:db8::1]:40114",
        ];
        assert_eq!(values, expected);
        assert!(
            of(&Facts {
                off: Some("off"),
                ..good()
            })
            .is_empty()
        );
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = desired("a", &good(), &OllaGatewayStatus::default(), at(1));
        let second = desired("a", &good(), &first, at(2));
        assert_eq!(first, second);
        let off = Facts {
            off: Some("off"),
            ..good()
        };
        let third = desired("a", &off, &second, at(3));
        let times: Vec<_> = third
            .conditions
            .iter()
            .map(|it| it.last_transition_time.0)
            .collect();
        assert_eq!(times, [at(1), at(3), at(3)]);
    }
}
