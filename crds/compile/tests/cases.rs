//! Golden cases: each folder of `cases/` holds objects as a user writes them and, beside them,
//! the table and the verdicts that they make. Review a change of the latter with `cargo insta`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{fmt::Write as _, path::Path};

use compile::{Verdict, compile};
use dataplane_protocol::{RoutingTable, table::Credential};
use serde_json::Value;

#[test]
fn each_case_makes_its_table_and_its_verdicts() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<_> = std::fs::read_dir(cases)
        .unwrap()
        .map(|case| case.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 14, "cases are missing: {folders:?}");
    for folder in folders {
        let yaml = std::fs::read_to_string(folder.join("in.yaml")).unwrap();
        let (objects, facts) = support::read(&yaml);
        let compiled = compile("team-a", &objects, &facts);
        let text = format!(
            "{}\n{}\n--- table\n{}",
            verdicts(&compiled.verdicts),
            tiers(&compiled.table),
            serde_saphyr::to_string(&printable(&compiled.table)).unwrap()
        );
        insta::with_settings!({
            snapshot_path => folder,
            prepend_module_to_snapshot => false,
            omit_expression => true,
            description => intent(&yaml),
        }, {
            insta::assert_snapshot!("out", text);
        });
    }
}

/// The comment at the head of a case.
fn intent(yaml: &str) -> String {
    let head = yaml.lines().map_while(|line| line.strip_prefix("# "));
    head.collect::<Vec<_>>().join(" ")
}

fn verdicts(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        writeln!(text, "{} {}", verdict.kind, verdict.name).unwrap();
        for (condition, result) in [
            ("Accepted", &verdict.accepted),
            ("ResolvedRefs", &verdict.resolved_refs),
        ] {
            match result {
                Ok(()) => writeln!(text, "  {condition}").unwrap(),
                Err(problem) => {
                    let reason = problem.reason.as_str();
                    writeln!(text, "  not {condition} ({reason}): {problem}").unwrap();
                }
            }
        }
        if let Err(problem) = &verdict.reachable {
            let reason = problem.reason.as_str();
            writeln!(text, "  reaches nothing ({reason}): {problem}").unwrap();
        }
        if verdict.instances > 0 {
            writeln!(text, "  instances: {}", verdict.instances).unwrap();
        }
    }
    text
}

/// What data planes will make of each route's selection.
fn tiers(table: &RoutingTable) -> String {
    let mut text = String::new();
    for route in &table.routes {
        writeln!(text, "route {}", route.id).unwrap();
        for target in table.targets(route) {
            let (tier, weight) = (target.tier, target.weight);
            writeln!(text, "  tier {tier}: {} weight {weight}", target.endpoint).unwrap();
        }
    }
    text
}

/// Profiles by name only: their files are looked at elsewhere. Credentials as their header's
/// name and the first word of its value (the scheme), so that no snapshot holds one.
fn printable(table: &RoutingTable) -> Value {
    let mut value = serde_json::to_value(table).unwrap();
    value["profiles"] = table.profiles.keys().cloned().collect();
    for (id, endpoint) in &table.endpoints {
        if let Credential::Header {
            name,
            value: secret,
        } = &endpoint.credential
        {
            let scheme = secret
                .expose()
                .split_once(' ')
                .map_or("", |(scheme, _)| scheme);
            value["endpoints"][id.as_str()]["credential"] =
                format!("{name}: {scheme} [redacted]").into();
        }
    }
    value
}
