//! renet's own units on a machine that systemd rules: at boot, when it stops, and in
//! between.

use std::path::Path;

use super::systemd::{self, Systemd};
use super::units::{self, AGENT, AUTOSTART, MOUNTS, RECONCILE, TIMER};
use crate::host::StepError;
use crate::model::Layout;

/// What keeps the machine what the manifests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A process that hears of every change.
    Agent,
    /// A pass every few minutes.
    Timer,
}

const ETC: &str = units::ETC;

/// Writes, enables and starts the units; says what each is for.
pub async fn install(
    layout: &Layout,
    binary: &Path,
    keeper: Keeper,
) -> Result<Vec<String>, StepError> {
    if !systemd::rules(layout) {
        return Err(StepError::machine(
            "systemd does not rule this machine: have what does run `renet boot` at boot, \
             `renet agent` after it, and `renet boot --stop` at the end",
        ));
    }
    let systemd = Systemd::connect().await?;
    let folder = Path::new(ETC);
    systemd.write(folder, &units::boot(layout, binary)).await?;
    systemd.enable(AUTOSTART).await?;
    // Only one that runs closes anything when the machine stops.
    systemd.start(AUTOSTART).await?;
    let (unit, does) = match keeper {
        Keeper::Agent => {
            retire(&systemd, &[TIMER, RECONCILE]).await?;
            systemd.write(folder, &[units::agent(binary)]).await?;
            (AGENT, "keeps it what the manifests say")
        }
        Keeper::Timer => {
            retire(&systemd, &[AGENT]).await?;
            systemd.write(folder, &units::timer(binary)).await?;
            (TIMER, "makes it what the manifests say every 3 minutes")
        }
    };
    systemd.enable(unit).await?;
    systemd.begin(unit).await?;
    let opens = "opens repositories at boot, closes them when the machine stops";
    Ok(vec![
        format!("{AUTOSTART:<26} {opens}"),
        format!("{unit:<26} {does}"),
    ])
}

/// Stops and removes what keeps the machine so. Nothing that holds data is stopped.
pub async fn stop_keepers() -> Result<(), StepError> {
    let systemd = Systemd::connect().await?;
    retire(&systemd, &[AGENT, TIMER, RECONCILE]).await
}

/// Removes what opens repositories at boot and closes them at the end; with `stop` it
/// closes them now, else what runs goes on.
pub async fn remove_boot(stop: bool) -> Result<(), StepError> {
    let systemd = Systemd::connect().await?;
    if stop {
        systemd.stop(AUTOSTART).await?;
    }
    systemd.disable(AUTOSTART).await?;
    systemd.remove(Path::new(ETC), [AUTOSTART, MOUNTS]).await
}

async fn retire(systemd: &Systemd, all: &[&str]) -> Result<(), StepError> {
    for unit in all {
        systemd.stop(unit).await?;
        systemd.disable(unit).await?;
    }
    systemd.remove(Path::new(ETC), all.iter().copied()).await
}
