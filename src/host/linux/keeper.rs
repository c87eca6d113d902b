//! A program of the proxy's that is kept running: by systemd, or where that does not rule
//! by renet's own supervisor.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::program::Program;
use super::supervisor::{self, Unit};
use super::systemd::{self, State, Systemd, UnitFile};
use super::units;
use crate::host::{Done, StepError};
use crate::model::Layout;

/// The supervisor's own time, and a moment.
const STOP: Duration = Duration::from_secs(100);
const POLL: Duration = Duration::from_millis(20);

/// What is kept running.
pub(super) struct Keeper<'a> {
    layout: &'a Layout,
    unit: &'static str,
    run: PathBuf,
    log: PathBuf,
    /// The hidden command that supervises it.
    supervise: [&'static str; 2],
}

impl<'a> Keeper<'a> {
    /// Traefik.
    pub(super) fn proxy(layout: &'a Layout) -> Self {
        Self {
            layout,
            unit: units::PROXY,
            run: layout.proxy_run(),
            log: layout.proxy().join("traefik.log"),
            supervise: ["proxy", "supervise"],
        }
    }

    /// The router.
    pub(super) fn router(layout: &'a Layout) -> Self {
        Self {
            layout,
            unit: units::ROUTER,
            run: layout.router_run(),
            log: layout.proxy().join("router.log"),
            supervise: ["router", "supervise"],
        }
    }

    /// Whether something keeps it running, and whether it runs now.
    pub(super) async fn watch(&self) -> Result<(bool, bool), StepError> {
        if systemd::rules(self.layout) {
            let state = Systemd::connect().await?.state(self.unit).await?;
            return Ok((state != State::Stopped, state == State::Running));
        }
        let lives = supervisor::child(&self.run).is_some();
        Ok((supervisor::is_supervised(&self.run), lives))
    }

    /// Starts it, with nothing secret in its environment.
    pub(super) async fn start(
        &self,
        binary: &Path,
        unit: UnitFile,
        argv: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Result<(), StepError> {
        if systemd::rules(self.layout) {
            let systemd = Systemd::connect().await?;
            systemd.write(Path::new(units::ETC), &[unit]).await?;
            systemd.enable(self.unit).await?;
            return systemd.start(self.unit).await;
        }
        let unit = Unit {
            argv,
            environment,
            log: self.log.clone(),
            run: self.run.clone(),
        };
        supervisor::spawn(binary, self.layout.root(), &self.supervise, &unit).await
    }

    /// Stops it, and what keeps it running.
    pub(super) async fn stop(&self) -> Result<Done, StepError> {
        match systemd::rules(self.layout) {
            true => self.stop_unit().await,
            false => self.stop_supervised().await,
        }
    }

    async fn stop_unit(&self) -> Result<Done, StepError> {
        let folder = Path::new(units::ETC);
        if !folder.join(self.unit).exists() {
            return Ok(Done::Already);
        }
        let systemd = Systemd::connect().await?;
        systemd.stop(self.unit).await?;
        systemd.disable(self.unit).await?;
        systemd.remove(folder, [self.unit]).await?;
        Ok(Done::Changed)
    }

    async fn stop_supervised(&self) -> Result<Done, StepError> {
        if !self.run.exists() {
            return Ok(Done::Already);
        }
        supervisor::stop(&self.run, STOP).await?;
        let began = Instant::now();
        while let Some(pid) = supervisor::child(&self.run) {
            let signal = match began.elapsed() > STOP {
                true => Signal::SIGKILL,
                false => Signal::SIGTERM,
            };
            let _ = kill(pid, signal);
            tokio::time::sleep(POLL).await;
        }
        std::fs::remove_dir_all(&self.run)
            .map_err(|error| StepError::machine(format!("{}: {error}", self.run.display())))?;
        Ok(Done::Changed)
    }

    /// The hidden process over it.
    pub(super) fn supervise(&self) -> std::io::Result<()> {
        supervisor::supervise(&self.run, || ())
    }

    /// Its last words; none where it never ran.
    pub(super) async fn words(&self, lines: usize) -> Result<Option<String>, StepError> {
        if systemd::rules(self.layout) {
            let journal = Program::new("journalctl")
                .args(["--no-pager", "-o", "cat", "-n", &lines.to_string(), "-u"])
                .arg(self.unit);
            let said = journal.run().await?.stdout;
            return Ok(Some(String::from_utf8_lossy(&said).into_owned()));
        }
        let bytes = match std::fs::read(&self.log) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let path = self.log.display();
                return Err(StepError::machine(format!("{path}: {error}")));
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        Ok(Some(all[all.len().saturating_sub(lines)..].join("\n")))
    }
}
