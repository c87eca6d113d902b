use super::network::{self, Network};
use super::{Which, carry_out, find, records};
use crate::cli::session::Session;
use crate::cli::{Failure, passphrase};
use crate::host::linux::secrets::Secrets;
use crate::model::{Act, Guid, Layout, Name, Pbkdf, Seal, SecretRef, Size};

/// Make a repository and mount it; encrypted unless told otherwise
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: Network,
    /// How large: `512M`, `2G`, `1.5T`, at least 64M
    #[arg(long)]
    size: Size,
    /// Encrypt it, which is what happens anyway
    #[arg(long, conflicts_with = "unencrypted")]
    encrypted: bool,
    /// Do not encrypt it
    #[arg(long)]
    unencrypted: bool,
    /// How its passphrase is stretched
    #[arg(long, value_parser = pbkdf, default_value = "argon2id")]
    pbkdf: Pbkdf,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

fn pbkdf(text: &str) -> Result<Pbkdf, String> {
    let found = Pbkdf::NAMES.into_iter().find(|(name, _)| *name == text);
    let (_, pbkdf) = found.ok_or("write argon2id or pbkdf2")?;
    Ok(pbkdf)
}

/// Exit code 3 where there is one of that name.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let mut session = Session::command(layout)?;
    let said = args.which.said();
    let size = args.size.round_up_mib();
    if size < Size::SMALLEST_IMAGE {
        let least = Size::SMALLEST_IMAGE;
        return Err(Failure::usage(format!("{size} is too small; at least {least}")).into());
    }
    let actual = records(&session).await;
    let refuse = |message: String| Failure { code: 3, message };
    if let Some(found) = find(&actual, said, false)? {
        // One that was not finished is made now.
        if found.record.created || found.record.owner.is_some() {
            let message = format!(
                "{} is there already; nothing was changed",
                found.record.name
            );
            return Err(refuse(message).into());
        }
    }
    let (guid, name) = identity(&session, &actual, said)?;
    let repo = actual.repository(guid).unwrap_or_default();
    let made = repo.record.known().is_some_and(|record| record.created);
    if made || repo.record.is_absent() && !repo.storage.file.is_absent() {
        let message = format!("there is an image {guid} already; nothing was changed");
        return Err(refuse(message).into());
    }
    let network = network::settle(&session, &actual, guid, args.network.said()?)?;
    let seal = match args.unencrypted {
        true => None,
        false => {
            let secret = args.passphrase.read(name.as_str(), true)?;
            session.host = session.host.with_secrets(Secrets::typed(secret));
            Some(Seal {
                passphrase: SecretRef::Typed,
                pbkdf: args.pbkdf,
            })
        }
    };
    let act = Act::Create {
        name: name.clone(),
        network,
        size,
        seal,
    };
    let point = session.layout.mount(guid);
    let done = format!(
        "{name} is made and mounted at {} (guid {guid}, network {network})",
        point.display()
    );
    carry_out(session, guid, act, &done, &done).await
}

/// The guid and the name of a new repository: what is said is one of them.
pub fn identity(
    session: &Session,
    actual: &crate::model::Actual,
    said: &str,
) -> Result<(Guid, Name), Failure> {
    if let Ok(guid) = said.parse::<Guid>() {
        let record = actual.repository(guid).ok();
        let record = record.and_then(|repo| repo.record.known().cloned());
        let name = match record {
            Some(record) => record.name,
            // A name of its own, which no guid can be.
            None => format!("r-{}", &guid.to_string()[..13])
                .parse()
                .map_err(|_| Failure::usage(format!("{guid} makes no name")))?,
        };
        return Ok((guid, name));
    }
    let name: Name = said
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    let unfinished = find(actual, said, false)?;
    let guid = unfinished.map_or_else(|| session.ids.guid(&name), |found| found.guid);
    Ok((guid, name))
}
