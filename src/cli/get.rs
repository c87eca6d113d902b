use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::listing::{AgentState, HealthState, Listing, Row, SyncState, agent_status, listing};
use super::output::{self, Format, age, count, readable, revision};
use super::proxy::routed;
use super::render::style::{CHANGED, DIM, REMOVED, paint};
use super::session::{Meant, Session};
use crate::model::{Layout, suggest};

/// Show every object, whether it is in sync, and whether it is well
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only one kind (machine, datastore, repository, service, route, proxy), or
    /// one object of it, like `service/shop/web`
    #[arg(value_name = "KIND[/NAME]")]
    what: Option<String>,
    /// The name, where it is not said with the kind
    #[arg(value_name = "NAME", hide = true)]
    name: Option<String>,
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Print rows again as they change, until interrupted
    #[arg(short, long)]
    watch: bool,
}

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);

/// Exit code 0; 2 for a kind that there is not, 3 where nothing has that name.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let what = match (&args.what, &args.name) {
        (Some(kind), Some(name)) => Some(format!("{kind}/{name}")),
        (what, _) => what.clone().filter(|what| what != "all"),
    };
    let asked = what.as_deref().map(Asked::parse).transpose()?;
    let meant = Meant {
        file: args.file.clone(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    session.check_whole()?;
    let (listing, now) = look(&session, asked.as_ref()).await?;
    if !args.watch {
        output::print(args.output, &listing, || {
            text(&listing, now, output::width())
        })?;
        return Ok(0);
    }
    watch(session, &meant, asked.as_ref(), args.output, listing, now).await
}

/// Every object that was asked for, as it is now.
async fn look(session: &Session, asked: Option<&Asked>) -> anyhow::Result<(Listing, Timestamp)> {
    let wave = session.look().await;
    let (status, running) = agent_status(&session.layout).await;
    let mut listing = listing(&wave, status.as_ref(), running);
    listing.routed(&wave, &routed(&session.layout).await);
    if let Some(asked) = asked {
        listing.objects = asked.select(listing.objects)?;
    }
    Ok((listing, wave.actual.now))
}

/// Prints every row, and those that change as they do.
async fn watch(
    mut session: Session,
    meant: &Meant,
    asked: Option<&Asked>,
    format: Format,
    first: Listing,
    now: Timestamp,
) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let rows: Vec<_> = first.objects.iter().map(|row| row.cells(now)).collect();
    let widths = output::widths(HEADER, &rows);
    let width = output::width();
    let print = |row: &Row, now| {
        match format {
            Format::Text => {
                let line = output::line(&row.cells(now), &widths, width);
                anstream::print!("{}", readable(&line));
            }
            Format::Json => anstream::println!("{}", serde_json::to_string(row)?),
            Format::Yaml => anstream::print!("---\n{}", serde_yaml::to_string(row)?),
        }
        anyhow::Ok(())
    };
    if format == Format::Text {
        let header = output::line(&HEADER.map(str::to_owned), &widths, width);
        anstream::print!("{header}");
    }
    for row in &first.objects {
        print(row, now)?;
    }
    let mut before = first.objects;
    let mut failure = None;
    loop {
        let next = async {
            tokio::time::sleep(LOOK).await;
            session.renew(meant)?;
            look(&session, asked).await
        };
        let next = tokio::select! {
            _ = interrupt.recv() => return Ok(130),
            next = next => next,
        };
        let (listing, now) = match next {
            Ok(next) => next,
            // It is gone, and may come back.
            Err(error) => {
                let said = format!("{error:#}\n");
                if failure.as_ref() != Some(&said) {
                    output::warn(&said);
                }
                failure = Some(said);
                continue;
            }
        };
        failure = None;
        let news = listing.objects.iter();
        for row in news.filter(|row| !before.iter().any(|was| was.tells_the_same(row))) {
            print(row, now)?;
        }
        before = listing.objects;
    }
}

/// The kinds, as they are asked for, with their plurals.
const KINDS: [(&str, &str); 6] = [
    ("machine", "machines"),
    ("datastore", "datastores"),
    ("repository", "repositories"),
    ("service", "services"),
    ("route", "routes"),
    ("proxy", "proxies"),
];

/// What was asked for: a kind, and perhaps a name of it.
#[derive(Debug)]
struct Asked {
    kind: &'static str,
    name: Option<String>,
}

impl Asked {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let lower = kind.to_lowercase();
        let found = KINDS.iter();
        let mut found = found.filter(|(one, many)| [*one, *many].contains(&lower.as_str()));
        let Some((kind, _)) = found.next() else {
            let all = KINDS.iter().map(|(one, _)| *one);
            let cure = match suggest(&lower, KINDS.iter().flat_map(|(one, many)| [*one, *many])) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("kinds: {}", all.collect::<Vec<_>>().join(", ")),
            };
            let kind = kind.escape_debug();
            return Err(Failure::usage(format!("there is no kind `{kind}`; {cure}")));
        };
        let name = name.filter(|name| !name.is_empty());
        Ok(Self {
            kind,
            name: name.map(str::to_owned),
        })
    }

    fn select(&self, rows: Vec<Row>) -> Result<Vec<Row>, Failure> {
        let rows = rows.into_iter().filter(|row| row.kind == self.kind);
        let rows: Vec<Row> = rows.collect();
        let Some(name) = &self.name else {
            return Ok(rows);
        };
        let (mut found, others): (Vec<Row>, Vec<Row>) = rows
            .into_iter()
            .partition(|row| row.name.as_ref() == Some(name));
        if !found.is_empty() {
            found.truncate(1);
            return Ok(found);
        }
        let (kind, name) = (self.kind, name.escape_debug().to_string());
        let names = others.iter().filter_map(|row| row.name.as_deref());
        // A service is easily asked for without its repository.
        let end = format!("/{name}");
        let mut within = names.clone().filter(|one| one.ends_with(&end));
        let near = within.next().filter(|_| within.next().is_none());
        let cure = match near.or_else(|| suggest(&name, names.clone())) {
            Some(near) => format!("did you mean `{kind}/{near}`?"),
            None => match names.collect::<Vec<_>>() {
                names if names.is_empty() => format!("there is no {kind} at all"),
                names => format!("there are: {}", names.join(", ")),
            },
        };
        Err(Failure {
            code: 3,
            message: format!("there is no {kind} `{name}`; {cure}"),
        })
    }
}

const HEADER: [&str; 6] = ["KIND/NAME", "SYNC", "HEALTH", "REVISION", "AGE", "MESSAGE"];

impl Row {
    /// Whether nobody who watches needs to hear of it again: how much of a datastore
    /// is used changes all the time.
    fn tells_the_same(&self, other: &Self) -> bool {
        let mut was = self.clone();
        if was.kind == "datastore" && was.reason.is_none() {
            was.message.clone_from(&other.message);
        }
        was == *other
    }

    fn cells(&self, now: Timestamp) -> [String; 6] {
        let none = || "-".to_owned();
        let sync = match self.sync {
            SyncState::Synced => "Synced".to_owned(),
            SyncState::OutOfSync => paint(CHANGED, "OutOfSync"),
            SyncState::Progressing => paint(CHANGED, "Progressing"),
            SyncState::Blocked => paint(REMOVED, "Blocked"),
            SyncState::Failed => paint(REMOVED, "Failed"),
            SyncState::Suspended => paint(DIM, "Suspended"),
            SyncState::Expired => paint(DIM, "Expired"),
        };
        let health = self.health.map_or_else(none, |health| match health {
            HealthState::Healthy => "Healthy".to_owned(),
            HealthState::Progressing => paint(CHANGED, "Progressing"),
            HealthState::Unknown => paint(DIM, "Unknown"),
            HealthState::Degraded => paint(REMOVED, "Degraded"),
            HealthState::Missing => paint(CHANGED, "Missing"),
        });
        // What was tried matters where it is not what is there.
        let revisions = match (&self.applied, &self.attempted) {
            (Some(applied), Some(tried)) if applied != tried => {
                format!("{}, not {}", revision(applied), revision(tried))
            }
            (None, Some(tried)) => format!("not {}", revision(tried)),
            (applied, _) => applied
                .as_deref()
                .map_or_else(none, |id| revision(id).into()),
        };
        let message = match (&self.reason, self.sync) {
            (Some(reason), SyncState::Blocked | SyncState::Failed) => {
                format!("{reason}: {}", self.message)
            }
            _ => self.message.clone(),
        };
        let message = match self.refused.as_slice() {
            [] => message,
            [first, more @ ..] => {
                let more = match more.len() {
                    0 => String::new(),
                    many => format!(", and {many} more: `renet proxy routes` says all"),
                };
                let between = if message.is_empty() { "" } else { "; " };
                format!("{message}{between}refused: {first}{more}")
            }
        };
        let message = match self.warnings.len() {
            0 => message,
            many => format!("{message}; {}, see `renet diff`", count(many, "warning")),
        };
        [
            self.label(),
            sync,
            health,
            revisions,
            self.since.map_or_else(none, |since| age(now, since)),
            message,
        ]
    }
}

/// What people read.
fn text(listing: &Listing, now: Timestamp, width: usize) -> String {
    let rows: Vec<_> = listing.objects.iter().map(|row| row.cells(now)).collect();
    let mut out = match rows.is_empty() {
        true => "nothing of that kind\n".to_owned(),
        false => output::table(HEADER, &rows, width),
    };
    if let Some(agent) = &listing.agent {
        out.push_str(&agent.text(now));
    }
    out
}

impl AgentState {
    fn text(&self, now: Timestamp) -> String {
        let state = match (self.running, self.pid) {
            (true, Some(pid)) => format!("agent runs (pid {pid})"),
            (true, None) => "an agent starts".to_owned(),
            (false, Some(_)) => "no agent runs; this is what the last one left".to_owned(),
            (false, None) => "no agent runs".to_owned(),
        };
        let id = match &self.revision {
            Some(id) => format!("revision {}", revision(id)),
            None => "no revision".to_owned(),
        };
        let mut out = format!("{state}; {id} of {}", self.source);
        if let Some(at) = self.last_pass {
            out.push_str(&format!("; looked {} ago", age(now, at)));
        }
        out.push('\n');
        for problem in &self.problems {
            out.push_str(&format!("  {problem}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::Trial;
    use super::*;
    use crate::execute::Wave;
    use crate::model::Part;

    /// Revisions are digests of what is declared, whose form may change.
    fn fixed(text: &str, trial: &Trial) -> String {
        text.replace(revision(&trial.revision()), "4f2c1ab")
    }

    #[tokio::test]
    async fn objects_are_shown_as_they_were_seen_and_as_the_agent_remembers_them() {
        let trial = Trial::new().await;
        let mut wave = trial.look().await;
        wave.actual.now = Timestamp::from_second(1_000_000).unwrap();
        let status = trial.told(&wave).status();
        let show = |wave: &Wave, width| {
            let listing = listing(wave, Some(&status), true);
            let text = text(&listing, wave.actual.now, width);
            fixed(&anstream::adapter::strip_str(&text).to_string(), &trial)
        };
        insta::assert_snapshot!("get_120", show(&wave, 120));
        insta::assert_snapshot!("get_80", show(&wave, 80));
        let locale = |name: &str| (name == "LC_ALL").then(|| "C".to_owned());
        for width in [80, 120] {
            let text = output::readable_in(&show(&wave, width), locale).into_owned();
            assert!(text.is_ascii() && !text.contains('?'), "{text}");
            assert!(text.lines().all(|line| line.len() <= width), "{text}");
            insta::assert_snapshot!(format!("get_{width}_in_c"), text);
        }

        // What died is out of sync, and what is behind it is not well.
        for repo in trial.host.world().repositories() {
            if let Part::Known(all) = &mut repo.containers {
                all.clear();
            }
        }
        let now = wave.actual.now;
        let mut drifted = trial.look().await;
        drifted.actual.now = now;
        insta::assert_snapshot!("get_drifted_120", show(&drifted, 120));
        let listed = listing(&drifted, None, false);
        assert_eq!(listed.agent, None);
        let web = listed.objects.iter().find(|row| row.kind == "service");
        let web = web.unwrap();
        assert_eq!(web.sync, SyncState::OutOfSync);
        assert_eq!(web.health, Some(HealthState::Degraded));
        assert_eq!((&web.applied, web.since), (&None, None));
    }

    #[tokio::test]
    async fn what_is_not_there_is_answered_with_what_was_meant() {
        let trial = Trial::new().await;
        let rows = listing(&trial.look().await, None, false).objects;
        let select = |text: &str| Asked::parse(text).and_then(|asked| asked.select(rows.clone()));
        let names = |text: &str| {
            let rows = select(text).unwrap();
            rows.iter().map(Row::label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("repositories"), "repository/archive repository/shop");
        assert_eq!(names("Service/shop/web"), "service/shop/web");
        assert_eq!(names("datastore"), "datastore");
        let said = [
            "repo",
            "repositry",
            "secret",
            "repository/shpo",
            "service/web",
            "route/zzz",
            "machine/x",
        ];
        let said = said.map(|text| {
            let failure = select(text).unwrap_err();
            format!("{}: {failure}\n", failure.code)
        });
        insta::assert_snapshot!("get_wrong", said.concat());
    }

    #[tokio::test]
    async fn what_is_not_there_yet_has_neither_network_nor_address() {
        let show = async |trial: Trial| {
            let wave = trial.look().await;
            let text = text(&listing(&wave, None, false), wave.actual.now, 120);
            anstream::adapter::strip_str(&text).to_string()
        };
        let there = show(Trial::new().await).await;
        assert!(there.contains("network 28"), "{there}");
        assert!(there.contains("web 127.0.11."), "{there}");
        insta::assert_snapshot!("get_new", show(Trial::empty()).await);
    }

    #[tokio::test]
    async fn who_watches_is_told_of_changes_and_not_of_every_byte_that_is_written() {
        let trial = Trial::new().await;
        let rows = listing(&trial.look().await, None, false).objects;
        let is = |kind: &str| rows.iter().find(|row| row.kind == kind).unwrap().clone();
        for (kind, same) in [("datastore", true), ("repository", false)] {
            let mut later = is(kind);
            later.message = "2GiB of 4GiB used".to_owned();
            assert_eq!(is(kind).tells_the_same(&later), same, "{kind}");
            later.sync = SyncState::OutOfSync;
            assert!(!is(kind).tells_the_same(&later), "{kind}");
        }
    }

    #[test]
    fn what_was_tried_in_vain_is_shown_beside_what_is_there() {
        let mut row = Row {
            kind: "service",
            name: Some("shop/web".to_owned()),
            sync: SyncState::Blocked,
            health: Some(HealthState::Degraded),
            reason: Some("RevisionFailed".to_owned()),
            message: "this revision failed before".to_owned(),
            applied: Some("aaaaaaaaaaaa".to_owned()),
            attempted: Some("bbbbbbbbbbbb".to_owned()),
            since: None,
            warnings: Vec::new(),
            refused: Vec::new(),
        };
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(row.cells(now)[3], "aaaaaaa, not bbbbbbb");
        assert_eq!(
            row.cells(now)[5],
            "RevisionFailed: this revision failed before"
        );
        row.applied = None;
        assert_eq!(row.cells(now)[3], "not bbbbbbb");
    }
}
