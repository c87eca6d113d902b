//! The texts of renet's units for systemd.
//!
//! Those of daemons are written beneath `/run` and last as long as the daemon is to
//! run; those that a boot needs are written beneath `/etc`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use super::limits;
use super::systemd::UnitFile;
use crate::model::{Guid, Layout, NetworkId};

/// Where units lie that a boot forgets.
pub(super) const RUN: &str = "/run/systemd/system";
/// Where units lie that stay.
pub(super) const ETC: &str = "/etc/systemd/system";

pub(super) const AUTOSTART: &str = "rediacc-autostart.service";
pub(super) const AGENT: &str = "renet-agent.service";
pub(super) const RECONCILE: &str = "renet-reconcile.service";
pub(super) const TIMER: &str = "renet-reconcile.timer";
pub(super) const PROXY: &str = "rediacc-proxy.service";
pub(super) const ROUTER: &str = "rediacc-router.service";
/// For every mount in the datastore: systemd makes their units by itself.
pub(super) const MOUNTS: &str = "mnt-rediacc-.mount.d/50-renet.conf";

pub(super) fn docker_service(network: NetworkId) -> String {
    format!("rediacc-docker-{network}.service")
}

pub(super) fn docker_socket(network: NetworkId) -> String {
    format!("rediacc-docker-{network}.socket")
}

pub(super) fn loopback(network: NetworkId) -> String {
    format!("rediacc-loopback-{network}.service")
}

/// The units of one network's daemon. `group` may use its socket besides root.
///
/// They have no default dependencies: a shutdown leaves them to
/// `rediacc-autostart.service`, which stops containers before daemons, and both
/// before anything is unmounted.
pub(super) fn daemon(
    layout: &Layout,
    binary: &Path,
    guid: Guid,
    network: NetworkId,
    group: Option<&str>,
) -> [UnitFile; 4] {
    let binary = word(binary);
    let listen = plain(&layout.docker_socket(network));
    // An empty folder may never become a daemon's.
    let mounted = [layout.mount(guid), layout.docker_data(guid)].iter().fold(
        String::new(),
        |mut text, point| {
            let _ = writeln!(text, "AssertPathIsMountPoint={}", plain(point));
            text
        },
    );
    let mode = match group {
        Some(group) => format!("SocketMode=0660\nSocketGroup={group}"),
        None => "SocketMode=0600".to_owned(),
    };
    let socket = format!(
        "[Unit]
Description=Docker API of network {network}
DefaultDependencies=no
{mounted}
[Socket]
ListenStream={listen}
{mode}
RemoveOnStop=yes
"
    );
    let slice = limits::slice(network);
    let loopback_unit = loopback(network);
    let socket_unit = docker_socket(network);
    // As Debian's docker.service has it, but for what it is started by.
    let service = format!(
        "[Unit]
Description=Docker daemon of network {network}, for repository {guid}
DefaultDependencies=no
Wants={socket_unit} {loopback_unit}
After={socket_unit} {loopback_unit}
StartLimitIntervalSec=0
{mounted}
[Service]
Type=notify
Slice={slice}
ExecStart={binary} daemon run --network-id {network}
ExecReload=kill -s HUP $MAINPID
Restart=on-failure
RestartSec=500ms
# So renet ends where no daemon may run.
RestartPreventExitStatus=3
# Containers outlive their daemon.
KillMode=process
Delegate=yes
OOMScoreAdjust=-500
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
"
    );
    // Below those of the services.
    let address = Ipv4Addr::from((127 << 24) + network.get() + 1);
    // All of 127.0.0.0/8 answers by itself; this shows whose the addresses are.
    let loopback_text = format!(
        "[Unit]
Description=Addresses of network {network}
DefaultDependencies=no

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address replace {address}/26 dev lo
ExecStop=ip address delete {address}/26 dev lo
"
    );
    [
        limits::unit(network),
        UnitFile {
            name: loopback_unit,
            text: loopback_text,
        },
        UnitFile {
            name: socket_unit,
            text: socket,
        },
        UnitFile {
            name: docker_service(network),
            text: service,
        },
    ]
}

/// The reverse proxy's unit: what is published is served from the boot on.
pub(super) fn proxy(traefik: &Path, settings: &Path, environment: &Path) -> UnitFile {
    let (traefik, settings) = (word(traefik), plain(settings));
    let environment = plain(environment);
    let text = format!(
        "[Unit]
Description=Reverse proxy of renet's routes
After=network.target
StartLimitIntervalSec=0

[Service]
Type=exec
EnvironmentFile=-{environment}
ExecStart={traefik} \"--configFile={settings}\"
Restart=always
RestartSec=500ms
LimitNOFILE=524288

[Install]
WantedBy=multi-user.target
"
    );
    UnitFile {
        name: PROXY.to_owned(),
        text,
    }
}

/// What follows the daemons and writes what the proxy reads.
pub(super) fn router(binary: &Path) -> UnitFile {
    let binary = word(binary);
    let text = format!(
        "[Unit]
Description=Routes of renet's services
After=network.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={binary} router run
Restart=always
RestartSec=200ms
LimitNOFILE=524288

[Install]
WantedBy=multi-user.target
"
    );
    UnitFile {
        name: ROUTER.to_owned(),
        text,
    }
}

/// What opens repositories at boot, and closes all of them when the machine stops.
pub(super) fn boot(layout: &Layout, binary: &Path) -> [UnitFile; 2] {
    let (binary, datastore) = (word(binary), plain(&layout.datastore()));
    let file = plain(&layout.backing_file());
    let service = format!(
        "[Unit]
Description=Repositories that come back at boot
After=local-fs.target dbus.service
RequiresMountsFor={datastore} {file}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={binary} boot
# One repository that could not be opened leaves the others to be closed.
SuccessExitStatus=3 5
ExecStop={binary} boot --stop
KillMode=mixed

[Install]
WantedBy=multi-user.target
"
    );
    let mounts = format!(
        "# Stays mounted until everything in it was closed.
[Unit]
Before={AUTOSTART}
"
    );
    [
        UnitFile {
            name: AUTOSTART.to_owned(),
            text: service,
        },
        UnitFile {
            name: MOUNTS.to_owned(),
            text: mounts,
        },
    ]
}

/// The agent.
pub(super) fn agent(binary: &Path) -> UnitFile {
    let binary = word(binary);
    let text = format!(
        "[Unit]
Description=renet agent
After=network.target {AUTOSTART}
# What closes everything ends first what would open it again.
PartOf={AUTOSTART}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={binary} agent
ExecReload=kill -s HUP $MAINPID
# Ready after its first pass, which may fetch images.
TimeoutStartSec=infinity
WatchdogSec=60
Restart=on-failure
RestartSec=5
# The step that is under way ends first, with the programs that it runs.
KillMode=mixed

[Install]
WantedBy=multi-user.target
"
    );
    UnitFile {
        name: AGENT.to_owned(),
        text,
    }
}

/// A pass every 3 minutes, instead of an agent.
pub(super) fn timer(binary: &Path) -> [UnitFile; 2] {
    let binary = word(binary);
    let service = format!(
        "[Unit]
Description=One pass of renet over everything
After=network.target {AUTOSTART}
PartOf={AUTOSTART}

[Service]
Type=oneshot
ExecStart={binary} reconcile
KillMode=mixed
"
    );
    let timer = format!(
        "[Unit]
Description=A pass of renet every 3 minutes
PartOf={AUTOSTART}

[Timer]
OnActiveSec=1s
# From the end of the last: none is left out because one took long.
OnUnitInactiveSec=3min
AccuracySec=1s

[Install]
WantedBy=timers.target
"
    );
    [
        UnitFile {
            name: RECONCILE.to_owned(),
            text: service,
        },
        UnitFile {
            name: TIMER.to_owned(),
            text: timer,
        },
    ]
}

/// A path where systemd takes the line as it is, but for specifiers.
fn plain(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// A path as one word of a command line.
fn word(path: &Path) -> String {
    let mut out = String::from("\"");
    for c in plain(path).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '$' => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        assert_eq!(
            word(Path::new(r#"/opt/a "b" 100%/$x\y"#)),
            r#""/opt/a \"b\" 100%%/$$x\\y""#
        );
    }

    #[test]
    fn no_unit_that_mounts_has_a_mount_namespace_of_its_own() {
        // Each of these makes one.
        const PRIVATE: [&str; 6] = [
            "Protect",
            "Private",
            "ReadOnly",
            "ReadWrite",
            "Inaccessible",
            "DynamicUser",
        ];
        let layout = Layout::new("/").unwrap();
        let binary = Path::new("/usr/local/bin/renet");
        let guid = Guid::new(uuid::Uuid::nil());
        let mut all = Vec::from(daemon(&layout, binary, guid, NetworkId::FIRST, None));
        all.extend(boot(&layout, binary));
        all.extend(timer(binary));
        all.push(agent(binary));
        // One of its own would keep mounts that everybody else let go.
        all.push(router(binary));
        for unit in all {
            let mut lines = unit.text.lines();
            assert!(!lines.any(|line| PRIVATE.iter().any(|word| line.starts_with(word))));
        }
    }
}
