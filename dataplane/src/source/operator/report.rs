//! What is said of the instances on one stream. In: how they are now. Out: reports of those of
//! which there is news, in lines of bounded length. Pure.

use std::collections::HashMap;

use dataplane_protocol::{
    EndpointId, InstanceId,
    sync::{InstanceReport, MAX_REASON, REPORTED_AT_ONCE, Report},
};

#[derive(Debug, Default)]
pub(super) struct Reports {
    said: HashMap<(EndpointId, InstanceId), InstanceReport>,
}

impl Reports {
    /// The first time all of them. Of one that has left there is nothing to say, and it is news
    /// again when it is back.
    pub(super) fn next(&mut self, now: impl Iterator<Item = InstanceReport>) -> Vec<Report> {
        let mut said = std::mem::take(&mut self.said);
        let mut news = Vec::new();
        for mut instance in now {
            shorten(&mut instance.reason);
            let key = (instance.endpoint.clone(), instance.instance.clone());
            if said.remove(&key).is_none_or(|before| before != instance) {
                news.push(instance.clone());
            }
            self.said.insert(key, instance);
        }
        let lines = news.chunks(REPORTED_AT_ONCE);
        lines
            .map(|instances| Report {
                instances: instances.to_vec(),
            })
            .collect()
    }
}

fn shorten(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_REASON));
}

#[cfg(test)]
mod tests {
    use dataplane_protocol::{
        frame::encode,
        sync::{Breaker, Health, MAX_REPORT_LINE, ToOperator},
    };

    use super::*;

    fn instance(name: &str, health: Health) -> InstanceReport {
        InstanceReport {
            endpoint: "e".into(),
            instance: name.into(),
            health,
            breaker: Breaker::Closed,
            reason: String::new(),
        }
    }

    fn names(reports: &[Report]) -> Vec<&str> {
        let instances = reports.iter().flat_map(|report| &report.instances);
        instances.map(|it| it.instance.as_str()).collect()
    }

    #[test]
    fn only_what_changed_is_said_again() {
        let mut reports = Reports::default();
        let (a, b) = (
            instance("a", Health::Healthy),
            instance("b", Health::Unknown),
        );
        let first = reports.next([a.clone(), b].into_iter());
        assert_eq!(names(&first), ["a", "b"]);
        let b = instance("b", Health::Unhealthy);
        let second = reports.next([a.clone(), b.clone()].into_iter());
        assert_eq!(names(&second), ["b"]);
        assert_eq!(reports.next([a.clone(), b.clone()].into_iter()), []);
        assert_eq!(reports.next([a.clone()].into_iter()), []);
        assert_eq!(
            names(&reports.next([a, b].into_iter())),
            ["b"],
            "it is back"
        );
    }

    #[test]
    fn the_longest_report_fits_into_a_line() {
        let longest = |n: usize| InstanceReport {
            endpoint: "e".repeat(253).into(),
            instance: format!("{}/{}{n:04}", "e".repeat(253), "p".repeat(249)).into(),
            reason: "\u{1}".repeat(4 * MAX_REASON),
            ..instance("", Health::Unhealthy)
        };
        let all = (0..2 * REPORTED_AT_ONCE).map(longest);
        let reports = Reports::default().next(all);
        assert_eq!(reports.len(), 2);
        for report in reports {
            // Six bytes a control character: nothing is longer in JSON.
            assert!(encode(&ToOperator::Report(report), MAX_REPORT_LINE).is_ok());
        }
    }
}
