//! Whether a table can be used. Asked wherever one comes from: the wire, the disk, files. What
//! does not fit together, or could not be put into a request as it is, refuses the whole table,
//! and the one before serves on: it must never turn into no credential or an empty host.

use std::net::IpAddr;

use crate::{
    EndpointId, Resource, ResourceKey, RoutingTable,
    change::Change,
    resource::ResourceSet,
    table::{Credential, Endpoint, Instance, Profile, Route},
};

impl RoutingTable {
    /// Says what keeps it from being used. No message holds a part of a credential.
    pub fn check(&self) -> Result<(), String> {
        for profile in self.profiles.values() {
            check_profile(profile)?;
        }
        for endpoint in self.endpoints.values() {
            let name = &endpoint.id;
            let has_type = self.profiles.contains_key(&endpoint.profile);
            check_endpoint(endpoint, has_type)
                .map_err(|what| format!("endpoint {name}: {what}"))?;
        }
        for (endpoint, instances) in &self.instances {
            for instance in instances.iter() {
                check_instance(endpoint, instance)?;
            }
        }
        self.routes.iter().try_for_each(|route| check_route(route))
    }
}

impl ResourceSet {
    /// The same for the table that `change` made, when the one before could be used: looks at what
    /// changed and at what refers to it.
    pub(crate) fn check(&self, change: &Change) -> Result<(), String> {
        let type_key = |name: &String| ResourceKey::Profile(name.clone());
        for resource in &change.upserts {
            match resource {
                Resource::Profile(profile) => check_profile(profile)?,
                Resource::Endpoint(endpoint) => {
                    let name = &endpoint.id;
                    let has_type = self.get(&type_key(&endpoint.profile)).is_some();
                    check_endpoint(endpoint, has_type)
                        .map_err(|what| format!("endpoint {name}: {what}"))?;
                }
                Resource::Instance { endpoint, instance } => check_instance(endpoint, instance)?,
                Resource::Route(route) => check_route(route)?,
                Resource::Set(_) => {}
            }
        }
        let is_type = |key: &ResourceKey| matches!(key, ResourceKey::Profile(_));
        // Types go once in a while, with the last endpoint that has them.
        if change.removes.iter().any(is_type) {
            let mut all = self.endpoints();
            let without = all.find(|endpoint| self.get(&type_key(&endpoint.profile)).is_none());
            if let Some(endpoint) = without {
                return Err(format!("endpoint {}: {}", endpoint.id, no_type(endpoint)));
            }
        }
        Ok(())
    }
}

fn no_type(endpoint: &Endpoint) -> String {
    format!("its type {} is not there", endpoint.profile)
}

fn check_profile(profile: &Profile) -> Result<(), String> {
    let name = &profile.name;
    if !is_header_value(name) {
        return Err(format!("type {name:?} is no header value"));
    }
    let listings = profile.listings.iter().map(|listing| &listing.path);
    let mut paths = profile.health_paths.iter().chain(listings);
    match paths.find(|path| !is_path(path)) {
        Some(path) => Err(format!("type {name}: {path:?} is no path")),
        None => Ok(()),
    }
}

fn check_endpoint(endpoint: &Endpoint, has_type: bool) -> Result<(), String> {
    if !has_type {
        return Err(no_type(endpoint));
    }
    if !is_header_value(endpoint.id.as_str()) {
        return Err("its name is no header value".to_owned());
    }
    if let Credential::Header { name, value } = &endpoint.credential {
        if !is_header_name(name) {
            return Err(format!(
                "the credential's header {name:?} is no header name"
            ));
        }
        if !is_header_value(value.expose()) {
            return Err("its credential is no header value".to_owned());
        }
    }
    if !(endpoint.base_path.is_empty() || is_path(&endpoint.base_path)) {
        return Err(format!("base path {:?} is no path", endpoint.base_path));
    }
    let discovery = endpoint.models.discovery.iter();
    let listings = discovery.flat_map(|discovery| &discovery.listings);
    let listings = listings.map(|listing| &listing.path);
    let mut paths = endpoint.health.paths.iter().chain(listings);
    match paths.find(|path| !is_path(path)) {
        Some(path) => Err(format!("{path:?} is no path")),
        None => Ok(()),
    }
}

fn check_instance(endpoint: &EndpointId, instance: &Instance) -> Result<(), String> {
    if is_host(&instance.host) && instance.port != 0 {
        return Ok(());
    }
    let (host, port) = (&instance.host, instance.port);
    Err(format!(
        "endpoint {endpoint}: {host:?} with port {port} is no address"
    ))
}

fn check_route(route: &Route) -> Result<(), String> {
    if route.matches.is_empty() {
        return Err(format!("route {} matches nothing", route.id));
    }
    let mut headers = route.matches.iter().flat_map(|one| &one.headers);
    match headers.find(|header| !is_header_name(&header.name)) {
        Some(header) => Err(format!(
            "route {}: {:?} is no header name",
            route.id, header.name
        )),
        None => Ok(()),
    }
}

fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

fn is_header_value(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

/// What breaks no line of a request.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains(char::is_control)
}

/// An IP address without brackets, or a name.
fn is_host(host: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.bytes().all(is_part))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Secret, table::Scheme, testing};

    fn endpoint() -> Endpoint {
        Endpoint {
            base_path: "/v1".into(),
            credential: Credential::Header {
                name: "authorization".into(),
                value: Secret::new("Bearer sk-1"),
            },
            ..testing::endpoint("cloud")
        }
    }

    fn table(endpoint: Endpoint, host: &str) -> RoutingTable {
        let profile = Profile {
            name: "openai".into(),
            prefixes: vec![],
            dialects: vec![],
            health_paths: vec!["/v1/models".into()],
            listings: vec![],
        };
        let instance = Instance {
            id: "cloud".into(),
            scheme: Scheme::Https,
            host: host.into(),
            port: 443,
        };
        RoutingTable {
            profiles: [("openai".to_owned(), Arc::new(profile))].into(),
            instances: [(endpoint.id.clone(), Arc::new(vec![instance]))].into(),
            endpoints: [(endpoint.id.clone(), Arc::new(endpoint))].into(),
            ..RoutingTable::default()
        }
    }

    #[test]
    fn a_table_that_fits_together_passes() {
        for host in ["api.example.com", "10.0.0.1", "fd00::1", "my_host"] {
            assert_eq!(table(endpoint(), host).check(), Ok(()), "{host}");
        }
        assert_eq!(RoutingTable::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_put_into_a_request_refuses_the_table_and_shows_no_secret() {
        let changed = |change: fn(&mut Endpoint)| {
            let mut endpoint = endpoint();
            change(&mut endpoint);
            table(endpoint, "a.example")
        };
        let secret = |name: &str, value: &str| Credential::Header {
            name: name.into(),
            value: Secret::new(value),
        };
        let mut odd_value = endpoint();
        odd_value.credential = secret("authorization", "sk-1\r\nx: y");
        let mut odd_name = endpoint();
        odd_name.credential = secret("api key", "sk-1");
        for (table, said) in [
            (changed(|it| it.profile = "vlm".into()), "type vlm"),
            (changed(|it| it.base_path = "v1".into()), "base path"),
            (
                changed(|it| it.health.paths = vec!["/a\r\nb".into()]),
                "no path",
            ),
            (table(odd_value, "a.example"), "no header value"),
            (table(odd_name, "a.example"), "no header name"),
            (table(endpoint(), ""), "no address"),
            (table(endpoint(), "a b"), "no address"),
            (table(endpoint(), "bücher.example"), "no address"),
            (table(endpoint(), "user@host"), "no address"),
        ] {
            let reason = table.check().unwrap_err();
            assert!(reason.contains(said), "{reason}");
            assert!(reason.contains("cloud"), "{reason}");
            assert!(!reason.contains("sk-1"), "{reason}");
        }
    }
}
