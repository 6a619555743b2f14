//! `/internal/explain`: why a request would go where it goes, for people.

use std::{borrow::Cow, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::{EndpointId, InstanceId, RouteId};

/// [Refusal](Explanation::refusal) of a request that no route takes.
pub const NO_ROUTE: &str = "no_route";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Absent when no route takes the request.
    pub route: Option<RouteId>,
    /// Which of the route's matches fits, from 0, where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// All instances of the route, in order of tier.
    pub candidates: Vec<CandidateView>,
    /// Absent when nobody would be picked.
    pub decision: Option<Decision>,
    /// In one word, when nobody would be picked, or when no backend is asked at all.
    pub refusal: Option<Cow<'static, str>>,
    /// Beside a refusal that may pass; at least 1000.
    pub retry_after_ms: Option<u64>,
    /// What else a reader should know: endpoints without instances, paths that no backend gets.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateView {
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub tier: u32,
    pub weight: u32,
    /// It may be sent this request; the balancer decides among these.
    pub selectable: bool,
    /// Why it may or may not.
    pub why: String,
    /// It would get the request now.
    pub chosen: bool,
}

impl Explanation {
    /// For a request that no backend is asked about: answered without one, or, where a reason is
    /// given, refused.
    pub fn without_backend(refusal: Option<&'static str>, note: String) -> Self {
        Self {
            route: None,
            matched: None,
            candidates: Vec::new(),
            decision: None,
            refusal: refusal.map(Cow::Borrowed),
            retry_after_ms: None,
            notes: vec![note],
        }
    }

    /// As text, a line each, for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(route) = &self.route {
            let matched = self.matched.map(|at| format!(", by matches[{at}]"));
            lines.push(format!("route {route}{}", matched.unwrap_or_default()));
        } else if self.refusal.as_deref() == Some(NO_ROUTE) {
            lines.push("no route matches this request".to_owned());
        }
        lines.extend(self.candidates.iter().map(CandidateView::line));
        let margin = if self.route.is_some() { "  " } else { "" };
        lines.extend(self.notes.iter().map(|note| format!("{margin}{note}")));
        if let Some(decision) = self.decision {
            lines.push(format!("picked: {}", decision.as_str()));
        }
        if let Some(reason) = &self.refusal {
            let mut line = format!("refused: {reason}");
            if let Some(wait) = self.retry_after_ms {
                // Writing to a string cannot fail.
                let _ = write!(line, ", try again in {} s", wait.div_ceil(1_000));
            }
            lines.push(line);
        }
        lines
    }
}

impl CandidateView {
    fn line(&self) -> String {
        let mark = match (self.chosen, self.selectable) {
            (true, _) => "→",
            (false, true) => "·",
            (false, false) => "✗",
        };
        format!(
            "{mark} tier {} weight {} {}: {}",
            self.tier, self.weight, self.instance, self.why
        )
    }
}

/// By which right an instance was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It lists the model.
    ModelFound,
    /// The request names no model.
    NoModel,
    /// Nobody lists the model, and nobody knows what this one serves: tried anyway.
    ModelUnknownEndpoint,
    /// Nobody was selectable; a chance beats a sure error.
    LastResort,
}

impl Decision {
    /// For headers, metrics and logs; from a closed set.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModelFound => "model_found",
            Self::NoModel => "no_model",
            Self::ModelUnknownEndpoint => "model_unknown_endpoint",
            Self::LastResort => "last_resort",
        }
    }
}
