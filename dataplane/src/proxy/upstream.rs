//! The instances as one worker sees them: connections, and what is made ready once per instance.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc, sync::Arc, time::Instant};

use dataplane_core::{InstanceInfo, InstanceKey};
use dataplane_protocol::RouteId;
use http::HeaderValue;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use super::{template::Templates, upload::Outgoing};
use crate::{
    backend::{
        address::Address,
        connect,
        pool::{self, Pool},
    },
    metrics::{AttemptLabels, EndpointLabels, RequestLabels},
    state::{Shared, outage::OutageSignal},
};

/// All instances one worker has talked to.
pub(super) struct Upstreams {
    shared: Arc<Shared>,
    map: RefCell<BTreeMap<InstanceKey, Rc<Upstream>>>,
}

/// An instance as one worker sees it.
pub(super) struct Upstream {
    pub info: Arc<InstanceInfo>,
    pub pool: Pool<Outgoing>,
    pub address: Address,
    pub endpoint: HeaderValue,
    pub backend_type: HeaderValue,
    /// Fires when it fails its health check.
    pub outage: Arc<OutageSignal>,
    pub first_token: Histogram,
    pub duration: Histogram,
    /// Headers of its answers that are ours.
    pub templates: RefCell<Templates>,
    requests: RefCell<Vec<(RouteId, u16, Counter)>>,
    attempts: RefCell<Vec<(&'static str, Counter)>>,
}

/// A connection to an instance.
pub(super) type Connection = pool::Connection<Outgoing>;

impl Upstreams {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            map: RefCell::default(),
        }
    }

    pub(super) fn of(&self, info: &Arc<InstanceInfo>) -> Rc<Upstream> {
        let mut map = self.map.borrow_mut();
        let known = map.get(&info.key);
        if let Some(upstream) = known
            && Arc::ptr_eq(&upstream.info, info)
        {
            return upstream.clone();
        }
        let pool = known.map(|known| known.pool.renewed(info.clone()));
        let pool = pool.unwrap_or_else(|| Pool::new(info.clone()));
        let upstream = Rc::new(Upstream::new(&self.shared, info.clone(), pool));
        map.insert(info.key, upstream.clone());
        upstream
    }

    /// Closes connections that are dead or idle for long, and forgets instances that are gone.
    /// Called every few seconds.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        self.map.borrow_mut().retain(|key, upstream| {
            upstream.pool.tidy(now);
            self.shared.is_live(*key)
        });
    }
}

impl Upstream {
    fn new(shared: &Arc<Shared>, info: Arc<InstanceInfo>, pool: Pool<Outgoing>) -> Self {
        // Values come from the table, where `compile` has checked them.
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let labels = EndpointLabels {
            llm_endpoint: info.endpoint.id.to_string(),
        };
        Self {
            address: Address::new(
                value(&connect::authority(&info.instance)),
                connect::credential(&info.endpoint.credential),
            ),
            endpoint: value(info.endpoint.id.as_str()),
            backend_type: value(&info.profile.name),
            outage: shared.outage_signal(info.key),
            first_token: shared.metrics.first_token.get_or_create_owned(&labels),
            duration: shared.metrics.request_duration.get_or_create_owned(&labels),
            templates: RefCell::default(),
            requests: RefCell::default(),
            attempts: RefCell::default(),
            pool,
            info,
        }
    }

    /// The counter of requests that `route` sent here and that ended with `code`. Looked up once
    /// per worker: the family's own look-up costs two strings and a lock.
    pub(super) fn count_request(&self, shared: &Shared, route: &RouteId, code: u16) {
        let mut known = self.requests.borrow_mut();
        if let Some((_, _, counter)) = known.iter().find(|(r, c, _)| *c == code && r == route) {
            counter.inc();
            return;
        }
        let labels = RequestLabels {
            route: route.to_string(),
            llm_endpoint: self.info.endpoint.id.to_string(),
            code,
        };
        let counter = shared.metrics.requests.get_or_create_owned(&labels);
        counter.inc();
        known.push((route.clone(), code, counter));
    }

    /// The same for attempts here, by result.
    pub(super) fn count_attempt(&self, shared: &Shared, result: &'static str) {
        let mut known = self.attempts.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(r, _)| *r == result) {
            counter.inc();
            return;
        }
        let labels = AttemptLabels {
            llm_endpoint: self.info.endpoint.id.to_string(),
            result,
        };
        let counter = shared.metrics.attempts.get_or_create_owned(&labels);
        counter.inc();
        known.push((result, counter));
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("instance", &self.info.instance.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}
