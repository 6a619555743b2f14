//! What to do about one namespace's gateway. In: the objects it is to be made of, and what the API
//! server has. Out: writes in their order, and whose objects are in the way. Pure.

use std::collections::BTreeMap;

use super::render::{Child, ChildKind};

/// An object as the watch shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub uid: String,
    /// The operator made it.
    pub ours: bool,
    /// What it was made of: [`Child::hash`].
    pub hash: Option<String>,
    /// Changes when somebody changes what we set.
    pub version: String,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Only if there is none of that name.
    Create(Child),
    /// The object of this uid, and no other of its name.
    Apply {
        child: Child,
        uid: String,
    },
    Delete {
        kind: ChildKind,
        uid: String,
    },
}

impl Order {
    pub fn kind(&self) -> ChildKind {
        match self {
            Self::Create(child) | Self::Apply { child, .. } => child.kind,
            Self::Delete { kind, .. } => *kind,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub orders: Vec<Order>,
    /// Objects of these kinds were made by others and are left as they are.
    pub in_the_way: Vec<ChildKind>,
}

/// `desired`: none for a namespace without a gateway. `checked`: versions of objects that are known to
/// be as they were applied last.
pub fn plan(
    desired: &[Child],
    seen: &BTreeMap<ChildKind, Seen>,
    checked: &BTreeMap<ChildKind, String>,
) -> Plan {
    let mut plan = Plan::default();
    // Neither half of a gateway is of use beside somebody else's other half.
    for child in desired {
        if seen.get(&child.kind).is_some_and(|seen| !seen.ours) {
            plan.in_the_way.push(child.kind);
        }
    }
    if !plan.in_the_way.is_empty() {
        return plan;
    }
    for child in desired {
        match seen.get(&child.kind) {
            None => plan.orders.push(Order::Create(child.clone())),
            Some(seen) => {
                let is_checked = checked.get(&child.kind) == Some(&seen.version);
                if seen.hash.as_ref() != Some(&child.hash) || !is_checked {
                    plan.orders.push(Order::Apply {
                        child: child.clone(),
                        uid: seen.uid.clone(),
                    });
                }
            }
        }
    }
    // What clients use goes last.
    for (kind, seen) in seen.iter().rev() {
        let stays = desired.iter().any(|child| child.kind == *kind);
        if seen.ours && !stays {
            plan.orders.push(Order::Delete {
                kind: *kind,
                uid: seen.uid.clone(),
            });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn child(kind: ChildKind, hash: &str) -> Child {
        Child {
            kind,
            hash: hash.into(),
            body: json!({}),
        }
    }

    fn seen(hash: &str, ours: bool) -> Seen {
        Seen {
            uid: "u".into(),
            ours,
            hash: ours.then(|| hash.to_owned()),
            version: "7".into(),
        }
    }

    const DEPLOYMENT: ChildKind = ChildKind::Deployment;
    const SERVICE: ChildKind = ChildKind::Service;

    #[test]
    fn what_is_missing_is_created_and_what_differs_is_applied_to_that_very_object() {
        let desired = [child(DEPLOYMENT, "new"), child(SERVICE, "same")];
        let seen = [(DEPLOYMENT, seen("old", true))].into();
        let plan = plan(&desired, &seen, &[(DEPLOYMENT, "7".to_owned())].into());
        let [deployment, service] = desired;
        let uid = "u".to_owned();
        let apply = Order::Apply {
            child: deployment,
            uid,
        };
        assert_eq!(plan.orders, [apply, Order::Create(service)]);
    }

    #[test]
    fn what_is_as_it_was_applied_costs_nothing_until_somebody_changes_it() {
        let desired = [child(SERVICE, "same")];
        let seen: BTreeMap<_, _> = [(SERVICE, seen("same", true))].into();
        let checked = |version: &str| [(SERVICE, version.to_owned())].into();
        assert_eq!(plan(&desired, &seen, &checked("7")), Plan::default());
        assert_eq!(plan(&desired, &seen, &checked("6")).orders.len(), 1);
    }

    #[test]
    fn an_object_that_others_made_is_left_alone_and_so_is_all_else() {
        let desired = [child(DEPLOYMENT, "a"), child(SERVICE, "b")];
        let foreign = [(SERVICE, seen("", false))].into();
        let plan_of = |desired: &[Child]| plan(desired, &foreign, &BTreeMap::new());
        assert_eq!(plan_of(&desired).in_the_way, [SERVICE]);
        assert!(plan_of(&desired).orders.is_empty());
        assert_eq!(plan_of(&[]), Plan::default());
    }

    #[test]
    fn what_is_not_wanted_any_more_is_deleted() {
        let autoscaler = ChildKind::HorizontalPodAutoscaler;
        let all = [(SERVICE, seen("s", true)), (autoscaler, seen("h", true))].into();
        let checked = [(SERVICE, "7".to_owned())].into();
        let plan = plan(&[child(SERVICE, "s")], &all, &checked);
        let uid = "u".to_owned();
        assert_eq!(
            plan.orders,
            [Order::Delete {
                kind: autoscaler,
                uid
            }]
        );
    }
}
