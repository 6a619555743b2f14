//! Whether a table can be used. Asked wherever one comes from: the wire, the disk, files. What
//! does not fit together, or could not be put into a request as it is, refuses the whole table,
//! and the one before serves on: it must never turn into no credential or an empty host. Whoever
//! makes a table asks of each part before, so that one odd object does not refuse all others.

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
            profile.check()?;
        }
        for endpoint in self.endpoints.values() {
            check_endpoint(endpoint, self.profiles.contains_key(&endpoint.profile))?;
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
                Resource::Profile(profile) => profile.check()?,
                Resource::Endpoint(endpoint) => {
                    let has_type = self.get(&type_key(&endpoint.profile)).is_some();
                    check_endpoint(endpoint, has_type)?;
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
                return check_endpoint(endpoint, false);
            }
        }
        Ok(())
    }
}

fn check_endpoint(endpoint: &Endpoint, has_type: bool) -> Result<(), String> {
    let name = &endpoint.id;
    if !has_type {
        let profile = &endpoint.profile;
        return Err(format!("endpoint {name}: its type {profile} is not there"));
    }
    let checked = endpoint.check();
    checked.map_err(|what| format!("endpoint {name}: {what}"))
}

fn check_instance(endpoint: &EndpointId, instance: &Instance) -> Result<(), String> {
    let checked = instance.check();
    checked.map_err(|what| format!("endpoint {endpoint}: {what}"))
}

fn check_route(route: &Route) -> Result<(), String> {
    let checked = route.check();
    checked.map_err(|what| format!("route {}: {what}", route.id))
}

impl Profile {
    /// As [`RoutingTable::check`].
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if !is_header_value(name) {
            return Err(format!("type {name:?} is no header value"));
        }
        let listings = self.listings.iter().map(|listing| &listing.path);
        let mut paths = self.health_paths.iter().chain(listings);
        match paths.find(|path| !is_path(path)) {
            Some(path) => Err(format!("type {name}: {path:?} is no path")),
            None => Ok(()),
        }
    }
}

impl Endpoint {
    /// As [`RoutingTable::check`], which also looks whether its profile is there.
    pub fn check(&self) -> Result<(), String> {
        if !is_header_value(self.id.as_str()) {
            return Err("its name is no header value".to_owned());
        }
        if let Credential::Header { name, value } = &self.credential {
            if !is_header_name(name) {
                return Err(format!(
                    "the credential's header {name:?} is no header name"
                ));
            }
            if !is_header_value(value.expose()) {
                return Err("its credential is no header value".to_owned());
            }
        }
        if !(self.base_path.is_empty() || is_path(&self.base_path)) {
            return Err(format!("base path {:?} is no path", self.base_path));
        }
        let discovery = self.models.discovery.iter();
        let listings = discovery.flat_map(|discovery| &discovery.listings);
        let listings = listings.map(|listing| &listing.path);
        let mut paths = self.health.paths.iter().chain(listings);
        match paths.find(|path| !is_path(path)) {
            Some(path) => Err(format!("{path:?} is no path")),
            None => Ok(()),
        }
    }
}

impl Instance {
    /// As [`RoutingTable::check`].
    pub fn check(&self) -> Result<(), String> {
        if is_host(&self.host) && self.port != 0 {
            return Ok(());
        }
        let (host, port) = (&self.host, self.port);
        Err(format!("{host:?} with port {port} is no address"))
    }
}

impl Route {
    /// As [`RoutingTable::check`].
    pub fn check(&self) -> Result<(), String> {
        if self.matches.is_empty() {
            return Err("it matches nothing".to_owned());
        }
        let mut headers = self.matches.iter().flat_map(|one| &one.headers);
        match headers.find(|header| !is_header_name(&header.name)) {
            Some(header) => Err(format!("{:?} is no header name", header.name)),
            None => Ok(()),
        }
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
pub fn is_path(path: &str) -> bool {
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
