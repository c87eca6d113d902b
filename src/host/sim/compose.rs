//! Compose without compose: files are taken as they are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::SimHost;
use crate::host::{ComposeDoor, ComposeInput, ComposeOutput};
use crate::model::Digest;

/// What was resolved from which inputs is the same on every simulated machine.
fn resolved() -> MutexGuard<'static, BTreeMap<Digest, ComposeOutput>> {
    static RESOLVED: Mutex<BTreeMap<Digest, ComposeOutput>> = Mutex::new(BTreeMap::new());
    RESOLVED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ComposeDoor for SimHost {
    async fn config(&self, input: &ComposeInput) -> Result<Value, String> {
        let file = input
            .files
            .files()
            .get(&input.compose_file)
            .ok_or_else(|| format!("{}: no such file", input.compose_file))?;
        // Most simulated projects are written as JSON, which is read faster.
        let mut config: Value = serde_json::from_slice(file.bytes())
            .or_else(|_| serde_yaml::from_slice(file.bytes()))
            .map_err(|error| error.to_string())?;
        let place = format!("/mnt/rediacc/mounts/{}/{}", input.guid, input.project);
        let services = config["services"].as_object_mut().into_iter().flatten();
        for build in services.filter_map(|(_, service)| service.get_mut("build")) {
            if build["context"] == "." {
                build["context"] = Value::String(place.clone());
            }
        }
        for kind in ["configs", "secrets"] {
            let all = config[kind].as_object_mut().into_iter().flatten();
            for file in all.filter_map(|(_, one)| one.get_mut("file")) {
                if let Some(beside) = file.as_str().and_then(|file| file.strip_prefix("./")) {
                    *file = Value::String(format!("{place}/{beside}"));
                }
            }
        }
        Ok(config)
    }

    async fn hashes(
        &self,
        _input: &ComposeInput,
        text: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let text: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let services = text["services"].as_object().ok_or("no services")?;
        let hash = |service: &Value| Digest::of(service.to_string().as_bytes()).to_string();
        Ok(services
            .iter()
            .map(|(name, service)| (name.clone(), hash(service)))
            .collect())
    }

    fn recall(&self, key: &Digest) -> Option<ComposeOutput> {
        resolved().get(key).cloned()
    }

    fn remember(&self, key: &Digest, output: &ComposeOutput) {
        resolved().insert(key.clone(), output.clone());
    }
}
