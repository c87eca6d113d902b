//! What `renet docker` and `renet compose` have in common: which daemon is meant, and
//! the options that stand before a program's own command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::Failure;
use super::repository::unseen;
use super::session::Session;
use crate::host::linux::dockerd;
use crate::host::{Host as _, Scope};
use crate::model::{Guid, Layout, NetworkId, Record, Repository, Shared};

/// Which network is meant.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The network's id; where it is not said, that of the repository in whose folder
    /// it is called
    #[arg(long, value_name = "ID", env = "REDIACC_NETWORK_ID", hide_env = true)]
    network_id: Option<u32>,
}

/// A repository, and where in it the caller stands.
pub struct Here {
    pub session: Session,
    pub guid: Guid,
    pub record: Record,
    /// The caller's folder, where that lies in the repository.
    pub folder: Option<PathBuf>,
}

impl Target {
    /// What was said.
    pub fn said(&self) -> Option<u32> {
        self.network_id
    }

    /// Finds the repository that has the network, or in which the caller stands.
    pub async fn find(&self, layout: Layout) -> anyhow::Result<Here> {
        Ok(self.seek(layout).await??)
    }

    /// The same, where it may be that none has it.
    pub async fn seek(&self, layout: Layout) -> anyhow::Result<Result<Here, Failure>> {
        let said = self.network_id.map(NetworkId::try_from).transpose();
        let said = said.map_err(|error| Failure::usage(error.to_string()))?;
        let session = Session::command(layout)?;
        let standing = standing(&session.layout);
        let seen = session.host.observe(Scope::Records).await;
        let all = match seen.repositories.get() {
            Ok(all) => all.into_iter().flatten(),
            Err(_) => return Err(unseen(&seen).into()),
        };
        let records = all.filter_map(|(guid, repo)| Some((*guid, repo.record.known()?.clone())));
        let live: BTreeMap<Guid, Record> = records.filter(|(_, record)| record.is_live()).collect();
        let found = match (said, &standing) {
            (Some(said), _) => live.into_iter().find(|(_, record)| record.network == said),
            (None, Some((guid, _))) => live.into_iter().find(|(of, _)| of == guid),
            (None, None) => {
                let message = "which network? Say `--network-id ID`, or call it in a folder of \
                               the repository; `renet repository list` shows all";
                return Err(Failure::usage(message).into());
            }
        };
        let Some((guid, record)) = found else {
            let what = match (said, standing) {
                (Some(said), _) => format!("has the network {said}"),
                (None, standing) => {
                    let guid = standing.map_or(String::new(), |(guid, _)| guid.to_string());
                    format!("that renet knows is mounted here ({guid})")
                }
            };
            let message = format!("no repository {what}; `renet repository list` shows all");
            return Ok(Err(Failure { code: 3, message }));
        };
        Ok(Ok(Here {
            session,
            guid,
            record,
            folder: standing.and_then(|(of, folder)| (of == guid).then_some(folder)),
        }))
    }
}

/// The repository in which the caller stands, and his folder as renet names it.
fn standing(layout: &Layout) -> Option<(Guid, PathBuf)> {
    let mounts = std::fs::canonicalize(layout.mounts()).ok()?;
    let folder = std::env::current_dir().ok()?;
    let below = folder.strip_prefix(mounts).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    Some((first.parse().ok()?, layout.mounts().join(below)))
}

impl Here {
    /// What is seen of the repository now.
    pub async fn look(&self) -> Shared<Repository> {
        let scope = Scope::Repository(self.guid);
        let seen = self.session.host.observe(scope).await;
        seen.repository(self.guid).unwrap_or_default()
    }

    /// Refuses a daemon that would not answer, with the cure.
    pub async fn must_answer(&self) -> Result<(), Failure> {
        let network = self.record.network;
        if dockerd::answers(&self.session.layout, network).await {
            return Ok(());
        }
        Err(Failure {
            code: 3,
            message: format!(
                "the Docker daemon of {} (network {network}) does not run: \
                 `renet daemon start --network-id {network}` starts it",
                self.record.name
            ),
        })
    }
}

/// The options before a program's own command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// In their order, each with its value where it takes one.
    pub given: Vec<(&'static str, Option<OsString>)>,
    /// The command and what follows.
    pub rest: Vec<OsString>,
}

/// An option that a program knows: its long and short name, and whether it takes a
/// value.
pub type Known = (&'static str, Option<char>, bool);

impl Options {
    /// Reads them; one that is not known is refused, because nobody can judge what it
    /// does.
    pub fn parse(args: &[OsString], known: &[Known]) -> Result<Self, Failure> {
        let mut out = Self::default();
        let mut args = args.iter();
        // `-itx` is `-i -t -x`.
        let mut letters_left: Option<OsString> = None;
        loop {
            let left = letters_left.take();
            let Some(arg) = left.as_ref().or_else(|| args.next()) else {
                break;
            };
            let text = arg.to_str().unwrap_or_default();
            if !text.starts_with('-') || text == "-" {
                out.rest.push(arg.clone());
                out.rest.extend(args.cloned());
                break;
            }
            let (name, joined) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let long = name.strip_prefix("--");
            let mut letters = name.trim_start_matches('-').chars();
            let short = letters.next().filter(|_| long.is_none());
            let found = known.iter().find(|(of, letter, _)| match long {
                Some(long) => long == *of,
                None => short.is_some() && short == *letter,
            });
            // `-fx` is `-f x`.
            let after = letters.as_str();
            let joined = match (long, after.is_empty(), joined) {
                (None, false, None) => Some(after.to_owned()),
                (None, false, Some(value)) => Some(format!("{after}={value}")),
                (_, _, joined) => joined.map(str::to_owned),
            };
            if let (None, Some((name, _, false))) = (long, found)
                && !after.is_empty()
            {
                // Behind the dash and a letter that is known, so ASCII.
                letters_left = Some(OsString::from(format!("-{}", &text[2..])));
                out.given.push((*name, None));
                continue;
            }
            let unknown = || {
                let known = known.iter().map(|(name, ..)| format!("--{name}"));
                let known = known.collect::<Vec<_>>().join(", ");
                Failure::usage(format!("renet passes on no `{text}` there, but: {known}"))
            };
            let value = match (found, joined) {
                (Some((_, _, true)), Some(value)) => Some(value.into()),
                (Some((name, _, true)), None) => match args.next() {
                    Some(value) => Some(value.clone()),
                    None => return Err(Failure::usage(format!("`--{name}` needs a value"))),
                },
                (Some((_, _, false)), None) => None,
                _ => return Err(unknown()),
            };
            out.given.extend(found.map(|(name, ..)| (*name, value)));
        }
        Ok(out)
    }

    /// The command.
    pub fn command(&self) -> &str {
        let command = self.rest.first().and_then(|command| command.to_str());
        command.unwrap_or_default()
    }

    /// The values of an option.
    pub fn values(&self, of: &str) -> impl Iterator<Item = &OsString> {
        let given = self.given.iter();
        given.filter_map(move |(name, value)| value.as_ref().filter(|_| *name == of))
    }

    /// Whether an option was given.
    pub fn has(&self, of: &str) -> bool {
        self.given.iter().any(|(name, _)| *name == of)
    }

    /// The options that are kept, as arguments.
    pub fn arguments(&self, keep: impl Fn(&str) -> bool) -> Vec<OsString> {
        let given = self.given.iter().filter(|(name, _)| keep(name));
        let argument = |(name, value): &(&str, Option<OsString>)| {
            let mut argument = OsString::from(format!("--{name}"));
            if let Some(value) = value {
                argument.push("=");
                argument.push(value);
            }
            argument
        };
        given.map(argument).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Known; 3] = [
        ("file", Some('f'), true),
        ("profile", None, true),
        ("dry-run", None, false),
    ];

    fn parse(line: &str) -> Result<Options, Failure> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Options::parse(&args, &KNOWN)
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let options = parse("-f a --file=b -fc -f=d --dry-run --profile x logs -f api").unwrap();
        let files: Vec<&OsString> = options.values("file").collect();
        assert_eq!(files, ["a", "b", "c", "d"]);
        assert_eq!(options.command(), "logs");
        assert_eq!(options.rest, ["logs", "-f", "api"]);
        let kept = options.arguments(|name| name != "file");
        assert_eq!(kept, ["--dry-run", "--profile=x"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "-H tcp://x ps",
            "--host=tcp://x ps",
            "-Hunix:///x ps",
            "--dry-run=x up",
            "--fil x up",
            "-- up",
            "--file",
        ] {
            assert_eq!(parse(line).unwrap_err().code, 2, "{line}");
        }
    }
}
