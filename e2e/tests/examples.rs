//! Are the examples what a user may apply as they stand? In: `deploy/examples`, `deploy/compose`. What they do is
//! exercised on a cluster: `tests/cluster/examples.rs`.

use std::path::{Path, PathBuf};

use compile::compile;
use dataplane_protocol::RoutingTable;
use manifest::{Loaded, Severity, Source, load};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

/// The folders, by name.
fn patterns() -> Vec<String> {
    let entries = std::fs::read_dir(examples()).expect("deploy/examples can be listed");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("a plain name"))
        .filter(|name| name != "olla-config")
        .collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    names
}

fn source(path: &Path) -> Source {
    Source {
        name: path.display().to_string(),
        text: std::fs::read_to_string(path).expect("an example can be read"),
    }
}

fn read(pattern: &str) -> Loaded {
    read_folder(&examples().join(pattern))
}

fn read_folder(folder: &Path) -> Loaded {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("an example can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    let sources: Vec<Source> = files.iter().map(|path| source(path)).collect();
    load(&sources, "default", &|_| None)
}

/// The tables of an example by namespace; all that was said about them must be good.
fn tables(pattern: &str, loaded: &Loaded) -> Vec<RoutingTable> {
    let mut tables = Vec::new();
    for (namespace, input) in &loaded.namespaces {
        let compiled = compile(namespace, &input.objects, &input.facts);
        for verdict in &compiled.verdicts {
            let of = format!("{pattern}: {} {}", verdict.kind, verdict.name);
            assert_eq!(verdict.accepted, Ok(()), "{of}");
            assert_eq!(verdict.resolved_refs, Ok(()), "{of}");
        }
        tables.push(compiled.table);
    }
    tables
}

#[test]
fn every_example_can_be_applied_without_a_word_of_complaint() {
    for pattern in patterns() {
        let loaded = read(&pattern);
        assert_eq!(loaded.notes, [], "{pattern}");
        for table in tables(&pattern, &loaded) {
            assert!(!table.routes.is_empty(), "{pattern} routes nothing");
            let routed = |id| {
                let mut targets = table.routes.iter().flat_map(|route| table.targets(route));
                targets.any(|target| target.endpoint == id)
            };
            for id in table.endpoints.keys() {
                assert!(routed(id.clone()), "{pattern}: no route reaches {id}");
            }
        }
    }
}

#[test]
fn every_example_has_a_readme_that_a_person_reads_to_its_end() {
    for pattern in patterns().into_iter().chain(["olla-config".to_owned()]) {
        let text = source(&examples().join(&pattern).join("README.md")).text;
        let lines = text.lines().count();
        assert!(
            (10..=20).contains(&lines),
            "{pattern}/README.md has {lines} lines"
        );
        assert!(
            text.contains("dies"),
            "{pattern}/README.md does not say what happens when the preferred one dies"
        );
        let overview = source(&examples().join("README.md")).text;
        assert!(overview.contains(&format!("`{pattern}`")), "{pattern}");
    }
}

#[test]
fn hosts_in_examples_are_placeholders_that_resolve_nowhere() {
    for pattern in patterns() {
        for table in tables(&pattern, &read(&pattern)) {
            for instance in table.instances.values().flat_map(|list| list.iter()) {
                let host = &instance.host;
                assert!(host.ends_with(".example.internal"), "{pattern}: {host}");
            }
        }
    }
}

#[test]
fn both_olla_layouts_load_with_one_warning_about_the_direction_of_priority() {
    for (file, best) in [
        ("config.yaml", "local-models"),
        ("short.yaml", "existing-setup"),
    ] {
        let path = examples().join("olla-config").join(file);
        let loaded = load(&[source(&path)], "default", &|_| None);
        let [note] = loaded.notes.as_slice() else {
            panic!("{file}: {:?}", loaded.notes);
        };
        assert_eq!(note.severity, Severity::Warning, "{note}");
        assert_eq!(note.field, "proxy.priority_order", "{note}");
        let tables = tables(file, &loaded);
        let first = tables[0]
            .targets(&tables[0].routes[0])
            .into_iter()
            .find(|target| target.tier == 0)
            .expect("a best endpoint");
        assert_eq!(first.endpoint.as_str(), best, "{file}");
    }
}

/// In Compose the hosts of endpoints are services, and a container is healthy if our own program says so.
#[test]
fn compose_setups_route_to_their_own_services_and_ask_our_program_for_health() {
    for name in ["development", "production"] {
        let folder = examples().join("../compose").join(name);
        let text = source(&folder.join("compose.yaml")).text;
        let compose: serde_json::Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let olla = &compose["services"]["olla"];
        let health: Vec<&str> = olla["healthcheck"]["test"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_str)
            .collect();
        let listen = "--listen=[::]:40114";
        assert_eq!(
            health,
            ["CMD", "olla-dataplane", "health", listen],
            "{name}"
        );
        let command = olla["command"].as_array().expect("a command");
        for argument in ["run", "--file=/etc/olla", listen] {
            assert!(
                command.iter().any(|it| it == argument),
                "{name}: {command:?}"
            );
        }

        let loaded = read_folder(&folder.join("config"));
        assert_eq!(loaded.notes, [], "{name}");
        let tables = tables(name, &loaded);
        let instances = tables.iter().flat_map(|table| table.instances.values());
        let hosts: Vec<&str> = instances
            .flat_map(|list| list.iter().map(|instance| &*instance.host))
            .collect();
        assert!(hosts.len() >= 2, "{name}: {hosts:?}");
        for host in hosts {
            assert!(
                !compose["services"][host].is_null(),
                "{name}: no service {host}"
            );
        }
    }
}
