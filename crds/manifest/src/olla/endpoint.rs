//! One endpoint of an Olla file. In: its map and what the file says for all. Out: an
//! LlmEndpoint, and a Secret if it has a credential.

use std::collections::BTreeSet;

use crds::{
    Duration, LlmEndpoint, LlmEndpointSpec,
    endpoint::{DiscoverySpec, HealthSpec, ModelsSpec},
};

use super::{
    super::{Object, note::Notes},
    auth,
    section::Section,
};
use compile::{Url, cost_of_probe};

/// What holds for every endpoint that does not say otherwise.
pub(super) struct Defaults {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) discovery: DiscoverySpec,
}

pub(super) struct Imported {
    pub(super) endpoint: LlmEndpoint,
    pub(super) secret: Option<Object>,
}

/// Priority of an endpoint that names none, in Olla and here.
const DEFAULT_PRIORITY: u32 = 100;

/// `None` when something in it is wrong. `names` are those already taken.
pub(super) fn read(
    section: &Section<'_>,
    defaults: &Defaults,
    names: &mut BTreeSet<String>,
    env: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes<'_>,
) -> Option<Imported> {
    let errors_before = notes.errors();
    section.report_rest(
        &[
            "auth",
            "check_interval",
            "check_timeout",
            "headers",
            "health_check_url",
            "model_filter",
            "model_url",
            "name",
            "preserve_path",
            "priority",
            "type",
            "url",
        ],
        &[],
        &[],
        notes,
    );
    let (text, url) = base_url(section, notes)?;
    let name = name(section, &url, names, notes);
    let secret = format!("olla-{name}");
    let credential = auth::read(section, &secret, env, notes);
    let spec = LlmEndpointSpec {
        type_: section
            .text("type", notes)
            .unwrap_or_else(|| "auto".to_owned()),
        url: Some(text),
        service: None,
        pod_selector: None,
        priority: section
            .number("priority", 0, 1_000_000, notes)
            .unwrap_or(DEFAULT_PRIORITY),
        weight: 100,
        health: HealthSpec {
            path: path(section, "health_check_url", &url, notes),
            interval: section
                .duration("check_interval", notes)
                .unwrap_or_else(|| defaults.interval.clone()),
            timeout: section
                .duration("check_timeout", notes)
                .unwrap_or_else(|| defaults.timeout.clone()),
            ..HealthSpec::default()
        },
        models: models(section, defaults, &url, notes),
        auth: credential.as_ref().map(|auth| auth.spec.clone()),
    };
    let probe = spec.health.path.as_deref();
    if let Some(cost) = probe.and_then(|path| cost_of_probe(&spec.type_, path)) {
        let field = section.field("health_check_url");
        notes.warn(section.line_of("health_check_url"), &field, cost);
    }
    let secret = credential.map(|auth| Object::Secret {
        name: secret,
        values: auth.values,
    });
    (notes.errors() == errors_before).then(|| Imported {
        endpoint: LlmEndpoint::new(&name, spec),
        secret,
    })
}

/// Olla drops a path unless it is told to keep it; here it is kept, since it is there for a
/// reason.
fn base_url(section: &Section<'_>, notes: &mut Notes<'_>) -> Option<(String, Url)> {
    let line = section.line_of("url");
    let Some(text) = section.text("url", notes) else {
        notes.error(line, &section.field("url"), "must be set");
        return None;
    };
    let url = match Url::parse(&text) {
        Ok(url) => url,
        Err(error) => {
            notes.error(line, &section.field("url"), error.to_string());
            return None;
        }
    };
    if !url.base_path.is_empty() && section.flag("preserve_path", notes) != Some(true) {
        let message = format!(
            "its path {} is put before each request's own; Olla does so only with preserve_path: \
             true",
            url.base_path
        );
        notes.warn(line, &section.field("url"), message);
    }
    Some((text, url))
}

fn models(
    section: &Section<'_>,
    defaults: &Defaults,
    url: &Url,
    notes: &mut Notes<'_>,
) -> ModelsSpec {
    let filter = section.section("model_filter", notes);
    filter.report_rest(&["include", "exclude"], &[], &[], notes);
    ModelsSpec {
        discovery: DiscoverySpec {
            path: path(section, "model_url", url, notes),
            ..defaults.discovery.clone()
        },
        fixed: Vec::new(),
        include: filter.texts("include", notes),
        exclude: filter.texts("exclude", notes),
    }
}

/// A path below the endpoint's own, given as such or as a URL of the same server.
fn path(section: &Section<'_>, key: &str, base: &Url, notes: &mut Notes<'_>) -> Option<String> {
    let text = section.text(key, notes)?;
    let line = section.line_of(key);
    if !text.contains("://") {
        return Some(format!("/{}", text.trim_start_matches('/')));
    }
    let below = Url::parse(&text)
        .ok()
        .filter(|url| (url.scheme, &url.host, url.port) == (base.scheme, &base.host, base.port));
    let path = below.and_then(|url| {
        let rest = url.base_path.strip_prefix(&base.base_path)?;
        match rest {
            "" => Some("/".to_owned()),
            _ => rest.starts_with('/').then(|| rest.to_owned()),
        }
    });
    if path.is_none() {
        let message = "does not lie below the endpoint's url, so it is not used; the path of the \
                       type is";
        notes.warn(line, &section.field(key), message);
    }
    path
}

/// A name as Kubernetes takes it, not yet among `names`: the file's, or one made of host and
/// port.
fn name(
    section: &Section<'_>,
    url: &Url,
    names: &mut BTreeSet<String>,
    notes: &mut Notes<'_>,
) -> String {
    let given = section.text("name", notes);
    let wanted = given
        .clone()
        .unwrap_or_else(|| format!("{}-{}", url.host, url.port));
    let valid = valid_name(&wanted);
    let mut name = valid.clone();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        name = format!("{valid}-{number}");
    }
    if given.is_some_and(|given| given != name) {
        let message = format!("`{wanted}` becomes `{name}`, a name that Kubernetes takes too");
        notes.warn(section.line_of("name"), &section.field("name"), message);
    }
    name
}

/// Letters and digits in lower case, `-` and `.`; room for a number and for `olla-` before it.
fn valid_name(text: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let letters = text.chars().map(|c| c.to_ascii_lowercase());
    let name: String = letters
        .map(|c| if fits(c) { c } else { '-' })
        .take(240)
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() {
        "endpoint".to_owned()
    } else {
        name.to_owned()
    }
}
