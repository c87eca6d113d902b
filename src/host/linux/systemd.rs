//! systemd, asked over D-Bus: where it runs the machine, its units do what renet's
//! own supervisor does elsewhere.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use zbus::OwnedObjectPath;

use super::files::write_atomic;
use crate::host::StepError;
use crate::model::Layout;

/// Longer than any unit may take to start or to stop: systemd ends it earlier, and
/// says so.
const LONGEST_JOB: Duration = Duration::from_secs(600);
const CALL: Duration = Duration::from_secs(30);

/// Whether systemd keeps what is under this root: it does on a machine of its own.
pub(crate) fn rules(layout: &Layout) -> bool {
    layout.is_machine() && Path::new("/run/systemd/system").is_dir()
}

/// A file that systemd reads, by its name in a folder of units.
pub(super) struct UnitFile {
    pub(super) name: String,
    pub(super) text: String,
}

/// How a unit fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It runs.
    Running,
    /// It starts, stops, or waits to be started again.
    Changing,
    /// It does not run.
    Stopped,
}

/// What `ListUnitsByNames` tells of a unit: name, description, load state, active
/// state, sub state, followed unit, path, and its job's id, type and path.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);
/// What was done to a link: kind, path, what it leads to.
type Changes = Vec<(String, String, String)>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, zbus::Variant<'_>)],
    ) -> zbus::Result<()>;
    fn revert_unit_files(&self, files: &[&str]) -> zbus::Result<Changes>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Changes)>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Changes>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// A connection to systemd.
pub(super) struct Systemd(ManagerProxy<'static>);

impl Systemd {
    /// Connects over the system's bus.
    pub(super) async fn connect() -> Result<Self, StepError> {
        let connect = async {
            let bus = zbus::connection::Builder::system()
                .method_timeout(CALL)
                .build()
                .await?;
            let manager = ManagerProxy::new(&bus).await?;
            // Otherwise it tells of no job's end.
            manager.subscribe().await?;
            Ok(manager)
        };
        connect.await.map(Self).map_err(|error: zbus::Error| {
            let cure = "is dbus installed and running?";
            wrong(format!("cannot be reached over D-Bus: {error}; {cure}"))
        })
    }

    /// Writes what differs, and has systemd read it.
    pub(super) async fn write(&self, folder: &Path, files: &[UnitFile]) -> Result<(), StepError> {
        let mut differs = false;
        for file in files {
            let path = folder.join(&file.name);
            if fs::read(&path).is_ok_and(|is| is == file.text.as_bytes()) {
                continue;
            }
            write_atomic(&path, file.text.as_bytes(), 0o644)
                .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
            differs = true;
        }
        match differs {
            true => self.reload().await,
            false => Ok(()),
        }
    }

    /// Removes files, with a folder of them that is left empty.
    pub(super) async fn remove<'a>(
        &self,
        folder: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), StepError> {
        let mut differs = false;
        for name in names {
            let path = folder.join(name);
            match fs::remove_file(&path) {
                Ok(()) => differs = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(wrong(format!("{}: {error}", path.display()))),
            }
            if let Some(within) = path.parent().filter(|within| *within != folder) {
                let _ = fs::remove_dir(within);
            }
            let _ = self.0.reset_failed_unit(name).await;
        }
        match differs {
            true => self.reload().await,
            false => Ok(()),
        }
    }

    async fn reload(&self) -> Result<(), StepError> {
        let reloaded = self.0.reload().await;
        reloaded.map_err(|error| wrong(format!("reading units again: {error}")))
    }

    /// How the unit fares; one that is not there does not run.
    pub(super) async fn state(&self, unit: &str) -> Result<State, StepError> {
        let listed = self.0.list_units_by_names(&[unit]).await;
        let listed = listed.map_err(|error| of(unit, "looking", &error))?;
        let active = listed.first().map(|listed| listed.3.as_str());
        Ok(match active {
            Some("active" | "reloading" | "refreshing") => State::Running,
            Some("activating" | "deactivating" | "maintenance") => State::Changing,
            _ => State::Stopped,
        })
    }

    /// Starts the unit, and waits until it has.
    pub(super) async fn start(&self, unit: &str) -> Result<(), StepError> {
        // One that failed too often would not be tried again.
        let _ = self.0.reset_failed_unit(unit).await;
        let ask = async { self.0.start_unit(unit, "replace").await.map(Some) };
        self.job(unit, "start", ask).await
    }

    /// Starts the unit anew, and waits for nothing.
    pub(super) async fn begin(&self, unit: &str) -> Result<(), StepError> {
        let begun = self.0.restart_unit(unit, "replace").await;
        begun.map(drop).map_err(|error| of(unit, "start", &error))
    }

    /// Stops the unit, and waits until it has; one that is not there has.
    pub(super) async fn stop(&self, unit: &str) -> Result<(), StepError> {
        let ask = async {
            match self.0.stop_unit(unit, "replace").await {
                Err(error) if is_no_such_unit(&error) => Ok(None),
                other => other.map(Some),
            }
        };
        self.job(unit, "stop", ask).await
    }

    /// Tells the unit, running or not, what it is to be like until the next boot.
    pub(super) async fn set(
        &self,
        unit: &str,
        properties: &[(&str, u64)],
    ) -> Result<(), StepError> {
        let properties = properties.iter();
        let properties: Vec<_> = properties
            .map(|(name, value)| (*name, zbus::Variant::from(*value)))
            .collect();
        let set = self.0.set_unit_properties(unit, true, &properties).await;
        set.map_err(|error| of(unit, "set", &error))
    }

    /// Has the unit be again as its file says.
    pub(super) async fn forget(&self, unit: &str) -> Result<(), StepError> {
        match self.0.revert_unit_files(&[unit]).await {
            Err(error) if !is_no_such_unit(&error) => Err(of(unit, "revert", &error)),
            _ => Ok(()),
        }
    }

    /// Has the unit start at boot.
    pub(super) async fn enable(&self, unit: &str) -> Result<(), StepError> {
        let enabled = self.0.enable_unit_files(&[unit], false, true).await;
        enabled.map_err(|error| of(unit, "enable", &error))?;
        self.reload().await
    }

    /// Has the unit no longer start at boot.
    pub(super) async fn disable(&self, unit: &str) -> Result<(), StepError> {
        match self.0.disable_unit_files(&[unit], false).await {
            Err(error) if !is_no_such_unit(&error) => Err(of(unit, "disable", &error)),
            _ => Ok(()),
        }
    }

    /// Asks for a job and waits for its end, which no answer to a call tells.
    async fn job(
        &self,
        unit: &str,
        verb: &str,
        ask: impl Future<Output = zbus::Result<Option<OwnedObjectPath>>>,
    ) -> Result<(), StepError> {
        let run = async {
            let mut removed = self.0.receive_job_removed().await?;
            let Some(job) = ask.await? else {
                return Ok(None);
            };
            while let Some(signal) = removed.next().await {
                let ended = signal.args()?;
                if ended.job == job {
                    return Ok(Some(ended.result));
                }
            }
            Err(zbus::Error::Failure("the bus went away".to_owned()))
        };
        let result = match tokio::time::timeout(LONGEST_JOB, run).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => return Err(of(unit, verb, &error)),
            Err(_) => Some("no end".to_owned()),
        };
        match result.as_deref() {
            None | Some("done") => Ok(()),
            Some(result) => Err(wrong(format!("{unit}: {verb}: {result}"))),
        }
    }
}

fn wrong(message: String) -> StepError {
    StepError {
        program: Some("systemd".to_owned()),
        ..StepError::machine(message)
    }
}

fn of(unit: &str, verb: &str, error: &zbus::Error) -> StepError {
    wrong(format!("{unit}: {verb}: {error}"))
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    const NONE: [&str; 2] = [
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.DBus.Error.FileNotFound",
    ];
    matches!(error, zbus::Error::MethodError(name, ..) if NONE.contains(&name.as_str()))
}
