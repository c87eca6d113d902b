//! A command on every repository instead of one.

use futures::StreamExt as _;

use super::{records, unseen};
use crate::cli::Failure;
use crate::cli::output::warn;
use crate::cli::session::Session;
use crate::model::{Guid, Layout, Name};

/// How many at once, where it is not said.
const AT_ONCE: usize = 3;

/// Which repositories: one by name, or all.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Its name or guid
    #[arg(value_name = "NAME", required_unless_present_any = ["name", "all"])]
    plain: Option<String>,
    /// Its name or guid
    #[arg(long, value_name = "NAME", conflicts_with = "plain")]
    name: Option<String>,
    /// Every repository that is no fork
    #[arg(long, conflicts_with_all = ["plain", "name", "network_id"])]
    all: bool,
    /// Forks too
    #[arg(long, requires = "all")]
    include_forks: bool,
    /// Only say which they are
    #[arg(long, requires = "all")]
    dry_run: bool,
    /// Several at once
    #[arg(long, requires = "all")]
    parallel: bool,
    /// How many at once; 3 where only `--parallel` is said
    #[arg(long, value_name = "NUMBER", requires = "all", value_parser = clap::value_parser!(u8).range(1..))]
    concurrency: Option<u8>,
}

impl Which {
    /// Whether it is every repository.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Runs it on each; the code of one decides where it is one, else the gravest.
    /// `verb` is for what is only said.
    pub async fn each(
        &self,
        layout: &Layout,
        verb: &str,
        run: impl AsyncFn(String) -> anyhow::Result<u8>,
    ) -> anyhow::Result<u8> {
        if !self.all {
            let said = self.name.as_ref().or(self.plain.as_ref());
            return run(said.cloned().unwrap_or_default()).await;
        }
        let found = self.find(layout).await?;
        if found.is_empty() {
            anstream::println!("there is no repository: nothing to do");
        }
        if self.dry_run {
            for (name, _) in &found {
                anstream::println!("would {verb} {name}");
            }
            return Ok(0);
        }
        let at_once = match (self.concurrency, self.parallel) {
            (Some(number), _) => usize::from(number),
            (None, true) => AT_ONCE,
            (None, false) => 1,
        };
        let each = found.iter().map(|(name, guid)| {
            let done = run(guid.to_string());
            async move { (name, done.await) }
        });
        let mut each = futures::stream::iter(each).buffer_unordered(at_once);
        let mut codes = Vec::new();
        while let Some((name, done)) = each.next().await {
            codes.push(done.unwrap_or_else(|error| {
                warn(&format!("error: {name}: {error:#}\n"));
                let failure = error.downcast_ref::<Failure>();
                failure.map_or(3, |failure| failure.code)
            }));
        }
        Ok(gravest(&codes))
    }

    /// The live ones, parents before their forks.
    async fn find(&self, layout: &Layout) -> anyhow::Result<Vec<(Name, Guid)>> {
        let session = Session::command(layout.clone())?;
        let actual = records(&session).await;
        let all = actual.repositories.get().map_err(|_| unseen(&actual))?;
        let records = all.into_iter().flatten().filter_map(|(guid, repo)| {
            let record = repo.record.known().filter(|record| record.is_live());
            record.map(|record| (*guid, record))
        });
        let mut found: Vec<_> = records
            .filter(|(_, record)| self.include_forks || record.lineage.is_none())
            .map(|(guid, record)| (record.lineage.is_some(), record.name.clone(), guid))
            .collect();
        found.sort();
        Ok(found
            .into_iter()
            .map(|(_, name, guid)| (name, guid))
            .collect())
    }
}

/// Where several apply: interrupted, locked out, wrong usage, failed, too late, differs.
fn gravest(codes: &[u8]) -> u8 {
    const ORDER: [u8; 7] = [130, 143, 5, 2, 3, 4, 1];
    let gravest = ORDER.into_iter().find(|code| codes.contains(code));
    gravest.unwrap_or_else(|| codes.iter().copied().max().unwrap_or(0))
}
