//! The demo's picture: what the fleet sees, as a table.

use std::{collections::HashMap, fmt::Write as _};

use dataplane_core::{FleetView, InstanceView};
use dataplane_protocol::InstanceId;

use super::toy::MODEL;
use crate::terminal::say;

pub(super) fn greeting(base: &str) -> String {
    format!(
        "The data plane listens on {base}. Ask it, in another terminal:

  curl {base}/v1/chat/completions -d '{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}'
  curl -N {base}/v1/chat/completions -d '{{\"model\":\"{MODEL}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}'
  curl {base}/olla/models
  curl '{base}/internal/explain?model={MODEL}'

Keys: k kills the best backend alive, r revives the last killed, t starts and stops traffic, q quits.
"
    )
}

/// Draws over its last picture on a terminal; prints changes elsewhere.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    last: String,
    requests: HashMap<InstanceId, u64>,
}

impl Screen {
    pub(super) fn new(terminal: bool) -> Self {
        Self {
            terminal,
            last: String::new(),
            requests: HashMap::new(),
        }
    }

    pub(super) fn draw(&mut self, view: &FleetView) {
        let picture = self.picture(view);
        if picture == self.last {
            return;
        }
        if self.terminal {
            // Up over the last picture and clear from there. Long lines are cut, not wrapped:
            // otherwise they would not be as many as were counted.
            let up = match self.last.lines().count() {
                0 => String::new(),
                lines => format!("\x1b[{}A\x1b[J", lines + 1),
            };
            say(&format!("{up}\x1b[?7l{picture}\x1b[?7h"));
        } else {
            say(&picture);
        }
        self.last = picture;
    }

    fn picture(&mut self, view: &FleetView) -> String {
        let mut text = format!(
            "{:<13} {:>4}  {:<10} {:<9} {:>9} {:>9}  \n",
            "ENDPOINT", "TIER", "HEALTH", "BREAKER", "REQUESTS", "FAILURES"
        );
        let tier = |instance: &InstanceView| instance.places.first().map_or(0, |place| place.tier);
        let mut instances: Vec<&InstanceView> = view.instances.iter().collect();
        instances.sort_by_key(|instance| tier(instance));
        for instance in instances {
            let before = self
                .requests
                .insert(instance.instance.clone(), instance.requests);
            let busy = before.is_some_and(|before| before < instance.requests);
            let tier = tier(instance) + 1;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<13} {tier:>4}  {:<10} {:<9} {:>9} {:>9}  {}{}",
                instance.endpoint.as_str(),
                format!("{:?}", instance.health),
                format!("{:?}", instance.breaker),
                instance.requests,
                instance.failures,
                if busy { "◀── " } else { "" },
                instance.why_not,
            );
        }
        text
    }
}
