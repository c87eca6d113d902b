//! The two ways in which Traefik runs, and the one place that tells them apart.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::keeper::Keeper;
use super::super::{tools, units};
use super::docker::Engine;
use super::{acme, container, image, told};
use crate::host::{Done, StepError};
use crate::model::{Layout, ProxySpec, RunAs};

/// How Traefik runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// A program that renet or systemd keeps running. Settings that do not say it are of
    /// when there was no other.
    #[default]
    Binary,
    /// A container of the machine's own Docker.
    Container {
        /// What it is made from.
        image: String,
    },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Binary => f.write_str(self.name()),
            Way::Container { .. } => write!(f, "{} {}", self.name(), container::NAME),
        }
    }
}

impl Way {
    /// As a manifest and programs call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Way::Binary => "binary",
            Way::Container { .. } => "container",
        }
    }

    /// The way to start it: as is asked for, else as `before`, else as the machine has it.
    /// Everything that this way needs is there then.
    pub(super) async fn choose(
        layout: &Layout,
        spec: &ProxySpec,
        before: Option<&Way>,
    ) -> Result<Way, StepError> {
        let (run_as, runs) = (spec.run_as, acme::runs_a_program(spec));
        if runs && run_as == RunAs::Container {
            return Err(StepError::machine(
                "the DNS provider `exec` runs a program of this machine, which no container has; \
                 give the Machine `proxy.runAs: binary`",
            ));
        }
        let contained = match is_contained(run_as, runs, before) {
            Some(contained) => contained,
            None => tools::compose().is_ok() && Engine::find(layout).await?.is_some(),
        };
        if !contained {
            return tools::traefik().map(|_| Way::Binary);
        }
        tools::compose()?;
        let engine = Engine::need(layout).await?;
        let before = match before {
            Some(Way::Container { image }) => Some(image.as_str()),
            _ => None,
        };
        let image = image::choose(layout, &engine, before).await?;
        Ok(Way::Container { image })
    }

    /// Whether what this way alone needs is written as it would be now.
    pub(super) fn is_written(&self, layout: &Layout, spec: &ProxySpec) -> bool {
        match self {
            Way::Binary => true,
            Way::Container { image } => container::is_written(layout, spec, image),
        }
    }

    /// Whether something keeps it running, and whether it runs now.
    pub(super) async fn watch(&self, layout: &Layout) -> Result<(bool, bool), StepError> {
        match self {
            Way::Binary => Keeper::proxy(layout).watch().await,
            Way::Container { .. } => container::watch(layout).await,
        }
    }

    /// Starts it, after what it is told was written.
    pub(super) async fn start(
        &self,
        layout: &Layout,
        binary: &Path,
        spec: &ProxySpec,
    ) -> Result<(), StepError> {
        match self {
            Way::Binary => {
                let (traefik, file) = (tools::traefik()?, told::file(layout));
                let argv = vec![
                    traefik.display().to_string(),
                    format!("--configFile={}", file.display()),
                ];
                let unit = units::proxy(&traefik, &file, &acme::config(layout));
                let environment = acme::environment(spec);
                let keeper = Keeper::proxy(layout);
                keeper.start(binary, unit, argv, environment).await
            }
            Way::Container { image } => container::start(layout, spec, image).await,
        }
    }

    /// Its last words; none where it never spoke.
    pub(super) async fn words(
        &self,
        layout: &Layout,
        lines: usize,
    ) -> Result<Option<String>, StepError> {
        match self {
            Way::Binary => Keeper::proxy(layout).words(lines).await,
            Way::Container { .. } => container::words(layout, lines).await,
        }
    }

    /// Stops it whichever way it runs, also the one that nobody had time to note.
    pub(super) async fn stop_any(layout: &Layout) -> Result<Done, StepError> {
        let binary = Keeper::proxy(layout).stop().await?;
        let container = container::stop(layout).await?;
        Ok(match (binary, container) {
            (Done::Already, Done::Already) => Done::Already,
            _ => Done::Changed,
        })
    }
}

/// Whether it is to be a container; `None` where that is still to be decided.
fn is_contained(run_as: RunAs, runs_a_program: bool, before: Option<&Way>) -> Option<bool> {
    match run_as {
        RunAs::Container => Some(true),
        RunAs::Binary => Some(false),
        RunAs::Auto if runs_a_program => Some(false),
        RunAs::Auto => before.map(|way| *way != Way::Binary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_counts_then_what_was_decided_before() {
        let container = Way::Container {
            image: "traefik:v3.7".to_owned(),
        };
        for before in [None, Some(&Way::Binary), Some(&container)] {
            let is = |run_as, runs| is_contained(run_as, runs, before);
            assert_eq!(is(RunAs::Container, false), Some(true));
            assert_eq!(is(RunAs::Binary, false), Some(false));
            assert_eq!(is(RunAs::Auto, true), Some(false));
        }
        let auto = |before| is_contained(RunAs::Auto, false, before);
        assert_eq!(auto(Some(&container)), Some(true));
        assert_eq!(auto(Some(&Way::Binary)), Some(false));
        assert_eq!(auto(None), None);
        let text = serde_json::to_string(&container).unwrap();
        assert_eq!(serde_json::from_str::<Way>(&text).unwrap(), container);
    }
}
