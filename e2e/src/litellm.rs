//! A real LiteLLM proxy that answers from its configuration, without any model behind it.
//! In: a name that it answers with. Out: its URL and key; dropping it kills it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::names::HOST;
use crate::process::Process;
use crate::python::python;
use crate::wait;

/// About 12 s on an idle machine, most of it imports.
const START: Duration = Duration::from_mins(3);

/// The only model.
pub const MODEL: &str = "tiny";

/// Its master key. LiteLLM wants it to begin so, and long.
pub const KEY: &str = "sk-e2e-litellm-9f27c1d04b8e4a3c";

#[derive(Debug)]
pub struct LiteLlm {
    process: Process,
    address: SocketAddr,
}

impl LiteLlm {
    /// Starts it; call `wait_ready` before use, and do other things in between.
    pub fn start(cluster: &Cluster, name: &str, port: u16) -> Result<Self> {
        let config = json!({"model_list": [{"model_name": MODEL, "litellm_params": {
            "model": "openai/tiny", "api_key": "none", "mock_response": format!("Hello from {name} ."),
        }}]});
        // It looks for modules in its folder and two above: none of those lies there.
        let folder = cluster.scratch.join("litellm").join(name);
        std::fs::create_dir_all(&folder).context("create LiteLLM's folder")?;
        let path = folder.join("config.yaml");
        std::fs::write(&path, config.to_string())
            .with_context(|| format!("write {}", path.display()))?;
        let program = python()?.with_file_name("litellm");
        let mut command = Command::new(program);
        command
            .current_dir(&folder)
            .arg("--config")
            .arg(&path)
            .args(["--host", &HOST.to_string(), "--port", &port.to_string()])
            .args(["--telemetry", "False"])
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("DISABLE_ADMIN_UI", "True")
            .env("NO_DOCS", "True")
            .env("LITELLM_MASTER_KEY", KEY);
        Ok(Self {
            process: Process::start(name, &mut command)?,
            address: SocketAddr::from((HOST, port)),
        })
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        let client = Client::new(self.address);
        wait(&format!("{} is ready", self.process.name()), START, || {
            self.process.ensure_running()?;
            let reply = client.get("/health/liveliness")?;
            ensure!(reply.status == 200, "{reply:?}");
            Ok(Some(()))
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }
}
