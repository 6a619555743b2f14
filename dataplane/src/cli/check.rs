//! `check`: what files mean, and whether they can be used.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use dataplane_protocol::{
    RoutingTable,
    table::{Balancer, Endpoint, RouteMatch, Scheme},
};

use super::FileArgs;
use crate::source::file::{self, Understood};
use crate::terminal::{complain, say};

const UNUSABLE: &str = "these files cannot be used as they stand";

pub(super) fn check(args: &FileArgs) -> Result<ExitCode> {
    let sources = file::read(&args.files)?;
    let understood = match file::understand(&sources, args.namespace.as_deref()) {
        Err(file::Error::Invalid(errors)) => {
            for error in errors.lines() {
                complain(&format!("error: {error}"));
            }
            complain(UNUSABLE);
            return Ok(ExitCode::FAILURE);
        }
        understood => understood?,
    };
    for note in &understood.loaded.notes {
        complain(&format!("{}: {note}", note.severity));
    }
    for refusal in understood.refusals() {
        complain(&format!("error: {refusal}"));
    }
    say(&describe(&understood));
    if understood.problems().is_some() {
        complain(UNUSABLE);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Empty for a match that fits every request.
fn in_words(matches: &RouteMatch) -> String {
    let mut words = Vec::new();
    if let Some(prefix) = &matches.path_prefix {
        words.push(format!("path {prefix}"));
    }
    if !matches.models.is_empty() {
        words.push(format!("models {}", matches.models.join(" or ")));
    }
    let headers = matches.headers.iter();
    words.extend(headers.map(|header| format!("header {}: {}", header.name, header.value)));
    words.join(", ")
}

fn describe(understood: &Understood) -> String {
    let table = &understood.compiled.table;
    let mut text = format!("namespace {}\n", understood.namespace);
    // Writing to a String cannot fail.
    for route in &table.routes {
        let _ = write!(text, "\nroute {}", route.id);
        let matches: Vec<_> = route.matches.iter().map(in_words).collect();
        let one = matches.iter().all(String::is_empty);
        let mut joint = if one { "" } else { ", " };
        for words in matches.iter().filter(|_| !one) {
            let words = if words.is_empty() { "any" } else { words };
            let _ = write!(text, "{joint}{words}");
            joint = "; or ";
        }
        let how = match route.balancer {
            Balancer::Priority => "in this order, best first",
            Balancer::RoundRobin => "in turn, priorities unused",
            Balancer::LeastConnections => "fewest requests in flight first, priorities unused",
        };
        let breaker = if route.breaker.is_some() { "on" } else { "off" };
        let _ = writeln!(
            text,
            ": {how}; breaker {breaker}, {} attempts at most",
            route.failover.attempts
        );
        for target in table.targets(route) {
            let place = match route.balancer {
                Balancer::Priority => format!("{}.", target.tier + 1),
                _ => "-".to_owned(),
            };
            let _ = writeln!(
                text,
                "  {place} {}  {}  priority {}  weight {}",
                target.endpoint,
                table
                    .endpoints
                    .get(&target.endpoint)
                    .map_or_else(String::new, |endpoint| what(table, endpoint)),
                target.priority,
                target.weight,
            );
        }
    }
    if let Some(listen) = &understood.loaded.settings.listen {
        let _ = writeln!(text, "\nlisten on {listen}");
    }
    text
}

fn what(table: &RoutingTable, endpoint: &Endpoint) -> String {
    let instances = table.instances.get(&endpoint.id);
    let targets: Vec<String> = instances
        .iter()
        .flat_map(|list| list.iter())
        .map(|instance| {
            let scheme = match instance.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            format!(
                "{scheme}://{}:{}{}",
                instance.host, instance.port, endpoint.base_path
            )
        })
        .collect();
    let targets = if targets.is_empty() {
        "no address".to_owned()
    } else {
        targets.join(", ")
    };
    format!("type {}  {targets}", endpoint.profile)
}
