//! ServiceAccount token → the namespace it proves.
//!
//! In: the token of an `Authorization` header. Out: [`Identity`], by a TokenReview with our
//! audience, kept for a minute under the token's SHA-256. The token itself is never kept, and
//! never logged.

mod claims;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use dataplane_protocol::sync::AUDIENCE;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use serving::slots::network;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::metrics::{Metrics, ResultLabel};

/// How long a verdict holds: a revoked token works for at most this long.
const KEPT: Duration = Duration::from_mins(1);
/// A refused one may become good, for instance when the clocks agree again.
const REFUSAL_KEPT: Duration = Duration::from_secs(5);
/// Verdicts kept of either kind; above, those that are out of date go, then all.
const MAX_KEPT: usize = 20_000;
/// Longer ones are no ServiceAccount's.
const MAX_TOKEN: usize = 16 << 10;
/// Reviews under way at a time, for one IPv6 /64, and for one address; further ones wait.
const MAX_REVIEWS: usize = 32;
const MAX_REVIEWS_PER_NETWORK: usize = 16;
const MAX_REVIEWS_PER_PEER: usize = 4;
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub namespace: String,
    pub service_account: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// 401
    #[error("the token is not valid for audience {AUDIENCE}: {0}")]
    Invalid(String),
    /// 403
    #[error("{0:?} is not a ServiceAccount and belongs to no namespace")]
    NotServiceAccount(String),
    /// 503
    #[error("the token cannot be verified at the moment: {0}")]
    Unavailable(String),
}

/// Asks the API server.
pub type Review =
    Arc<dyn Fn(String) -> BoxFuture<'static, Result<Identity, AuthError>> + Send + Sync>;

pub struct Tokens {
    review: Review,
    good: Mutex<VerdictCache<Identity>>,
    /// In a place of their own: strangers with made-up tokens must not push out good ones.
    refused: Mutex<VerdictCache<AuthError>>,
    /// Nor become a flood at the API server.
    places: Semaphore,
    /// Nor keep others waiting.
    by_peer: Mutex<Shares>,
    /// A client may have more addresses than anybody counts.
    by_network: Mutex<Shares>,
    metrics: Arc<Metrics>,
}

type Shares = HashMap<IpAddr, Weak<Semaphore>>;
type Key = [u8; 32];
type Verdict = Result<Identity, AuthError>;
/// Each with until when it holds.
type VerdictCache<T> = HashMap<Key, (Instant, T)>;

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("good", &self.good.lock().len())
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub fn new(review: Review, metrics: Arc<Metrics>) -> Self {
        Self {
            review,
            good: Mutex::default(),
            refused: Mutex::default(),
            by_peer: Mutex::default(),
            by_network: Mutex::default(),
            places: Semaphore::new(MAX_REVIEWS),
            metrics,
        }
    }

    /// `peer`: who brings it.
    pub async fn identify(&self, token: &str, peer: IpAddr) -> Result<Identity, AuthError> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(AuthError::Invalid("not a ServiceAccount token".into()));
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since_1970.map_or(0, |since| since.as_secs() as i64);
        if let Err(why) = claims::check(token, now) {
            self.count("rejected");
            return Err(AuthError::Invalid(why));
        }
        let key = hash(token);
        if let Some(verdict) = self.known(&key) {
            self.count("cached");
            return verdict;
        }
        let own = share(&self.by_peer, peer, MAX_REVIEWS_PER_PEER);
        let network = network(peer.to_canonical());
        let network = share(&self.by_network, network, MAX_REVIEWS_PER_NETWORK);
        let stops = |_| AuthError::Unavailable("the operator is shutting down".into());
        let _own = own.acquire().await.map_err(stops)?;
        let _network = network.acquire().await.map_err(stops)?;
        let _place = self.places.acquire().await.map_err(stops)?;
        // Another stream may have brought the same one meanwhile.
        if let Some(verdict) = self.known(&key) {
            self.count("cached");
            return verdict;
        }
        let verdict = (self.review)(token.to_owned()).await;
        self.count(match &verdict {
            Ok(_) => "accepted",
            Err(AuthError::Unavailable(_)) => "unavailable",
            Err(_) => "rejected",
        });
        self.keep(key, &verdict);
        verdict
    }

    fn known(&self, key: &Key) -> Option<Verdict> {
        let now = Instant::now();
        if let Some((until, identity)) = self.good.lock().get(key)
            && now < *until
        {
            return Some(Ok(identity.clone()));
        }
        let refused = self.refused.lock();
        let (until, refusal) = refused.get(key)?;
        (now < *until).then(|| Err(refusal.clone()))
    }

    fn keep(&self, key: Key, verdict: &Verdict) {
        let now = Instant::now();
        match verdict {
            Ok(identity) => keep(&self.good, key, identity, now, KEPT),
            Err(AuthError::Unavailable(_)) => {}
            Err(refusal) => keep(&self.refused, key, refusal, now, REFUSAL_KEPT),
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics
            .token_reviews
            .get_or_create(&ResultLabel { result })
            .inc();
    }
}

/// Its share of the places for reviews.
fn share(shares: &Mutex<Shares>, of: IpAddr, places: usize) -> Arc<Semaphore> {
    let mut shares = shares.lock();
    if let Some(places) = shares.get(&of).and_then(Weak::upgrade) {
        return places;
    }
    shares.retain(|_, places| places.strong_count() > 0);
    let places = Arc::new(Semaphore::new(places));
    shares.insert(of, Arc::downgrade(&places));
    places
}

fn keep<T: Clone>(
    kept: &Mutex<VerdictCache<T>>,
    key: Key,
    verdict: &T,
    now: Instant,
    holds: Duration,
) {
    let mut kept = kept.lock();
    if kept.len() >= MAX_KEPT {
        kept.retain(|_, (until, _)| now < *until);
    }
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(key, (now + holds, verdict.clone()));
}

/// Reviews by the API server.
pub fn by_client(client: Client) -> Review {
    Arc::new(move |token| {
        let api: Api<TokenReview> = Api::all(client.clone());
        Box::pin(async move {
            let review = TokenReview {
                spec: TokenReviewSpec {
                    token: Some(token),
                    audiences: Some(vec![AUDIENCE.to_owned()]),
                },
                ..TokenReview::default()
            };
            let parameters = PostParams::default();
            let answer = timeout(API_TIMEOUT, api.create(&parameters, &review)).await;
            match answer {
                Ok(Ok(review)) => identity_of(review.status.unwrap_or_default()),
                Ok(Err(error)) => Err(AuthError::Unavailable(without_body(&error))),
                Err(_) => Err(AuthError::Unavailable("no answer within 10s".into())),
            }
        })
    })
}

fn identity_of(status: TokenReviewStatus) -> Result<Identity, AuthError> {
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_else(|| "not authenticated".into());
        return Err(AuthError::Invalid(why));
    }
    // An API server without audience support leaves this empty and has checked nothing.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(AuthError::Invalid(format!(
            "it is for {audiences:?} (a projected token with audience {AUDIENCE} is needed)"
        )));
    }
    let user = status
        .user
        .and_then(|user| user.username)
        .unwrap_or_default();
    let identity = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .map(|(namespace, name)| Identity {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
        });
    identity.ok_or(AuthError::NotServiceAccount(user))
}

/// Without what was sent: a TokenReview that comes back in an error holds the token.
fn without_body(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {}", status.code),
        _ => "the API server is not reachable".into(),
    }
}

fn hash(token: &str) -> Key {
    let mut key = Key::default();
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    for (to, from) in key.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    key
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, audience: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.into()]),
            user: Some(UserInfo {
                username: Some(user.into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn the_namespace_comes_from_a_service_account_with_our_audience() {
        let good = identity_of(status("system:serviceaccount:a:gw", AUDIENCE)).unwrap();
        assert_eq!((&*good.namespace, &*good.service_account), ("a", "gw"));
        let other = identity_of(status("system:serviceaccount:a:gw", "https://kubernetes"));
        assert!(matches!(other, Err(AuthError::Invalid(_))));
        let person = identity_of(status("alice", AUDIENCE));
        assert_eq!(person, Err(AuthError::NotServiceAccount("alice".into())));
        let unknown = identity_of(TokenReviewStatus::default());
        assert!(matches!(unknown, Err(AuthError::Invalid(_))));
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// One that looks good.
    fn token(signature: &str) -> String {
        format!("e30.eyJhdWQiOiJvbGxhLW9wZXJhdG9yIn0.{signature}")
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_with_made_up_tokens_keeps_no_other_waiting() {
        let review: Review = Arc::new(|_| Box::pin(std::future::pending()));
        let tokens = Arc::new(Tokens::new(review, Arc::default()));
        for n in 0..100 {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.identify(&token(&n.to_string()), PEER).await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let free = tokens.places.available_permits();
        assert_eq!(free, MAX_REVIEWS - MAX_REVIEWS_PER_PEER);
    }

    #[tokio::test(start_paused = true)]
    async fn nor_does_one_client_with_many_addresses() {
        let review: Review = Arc::new(|_| Box::pin(std::future::pending()));
        let tokens = Arc::new(Tokens::new(review, Arc::default()));
        for n in 0..100 {
            let tokens = tokens.clone();
            let peer = std::net::Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, n).into();
            tokio::spawn(async move { tokens.identify(&token(&n.to_string()), peer).await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let free = tokens.places.available_permits();
        assert_eq!(free, MAX_REVIEWS - MAX_REVIEWS_PER_NETWORK);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_tokens_push_out_no_good_one() {
        let review: Review = Arc::new(|token: String| {
            Box::pin(async move {
                if token.ends_with("good") {
                    identity_of(status("system:serviceaccount:a:gw", AUDIENCE))
                } else {
                    Err(AuthError::Invalid("made up".into()))
                }
            })
        });
        let tokens = Tokens::new(review, Arc::default());
        tokens.identify(&token("good"), PEER).await.unwrap();
        for n in 0..=MAX_KEPT {
            let made_up = token(&n.to_string());
            assert!(tokens.identify(&made_up, PEER).await.is_err());
        }
        assert!(tokens.known(&hash(&token("good"))).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_is_asked_for_once_a_minute() {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = asked.clone();
        let review: Review = Arc::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { identity_of(status("system:serviceaccount:a:gw", AUDIENCE)) })
        });
        let tokens = Tokens::new(review, Arc::default());
        for _ in 0..3 {
            tokens.identify(&token("t"), PEER).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokens.identify(&token("other"), PEER).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        tokio::time::advance(KEPT).await;
        tokens.identify(&token("t"), PEER).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_asked_again() {
        let review: Review =
            Arc::new(|_| Box::pin(async { Err(AuthError::Unavailable("away".into())) }));
        let tokens = Tokens::new(review, Arc::default());
        assert!(tokens.identify(&token("t"), PEER).await.is_err());
        assert!(tokens.known(&hash(&token("t"))).is_none());
    }
}
