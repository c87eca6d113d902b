//! Kind `Repository`.

use std::path::PathBuf;

use jiff::SignedDuration;

use super::fields::Fields;
use super::found::{Context, Found};
use super::limits::{self, Least};
use super::tree::Kind;
use super::values::{absolute, is_plain, listed, number, size, text, time, word, yes_or_no};
use super::{ForkOf, Origin, Repository};
use crate::model::{
    DeletionPolicy, Name, NetworkId, Pbkdf, RelPath, ResourceLimits, RunState, Schedule, Seal,
    SecretRef, Size,
};

/// Reads the spec of a Repository.
pub(super) fn repository(
    spec: &Fields,
    found: &mut Found,
    context: &Context,
) -> Option<Repository> {
    let image_size = spec.optional("size", |node| {
        size(node, Size::SMALLEST_IMAGE, "a repository")
    });
    let seal = encryption(spec, context);
    let fork = spec.map("forkOf").map(|fields| fork_of(fields));
    let origin = match (spec.has("forkOf"), spec.has("encryption")) {
        (true, true) => {
            context.report.at(
                &spec.place("encryption"),
                "a copy is encrypted as its parent is",
                "remove `encryption:`, or `forkOf:`",
            );
            None
        }
        (true, false) => fork.flatten().map(Origin::Fork),
        (false, true) => seal.map(Origin::Blank),
        (false, false) => {
            spec.lacks(
                "encryption",
                "`encryption: none`, or `encryption: { passphraseFrom: { file: … } }`",
            );
            None
        }
    };
    if !spec.has("size") && !spec.has("forkOf") {
        spec.lacks("size", "`size:`, like `size: 2G`");
    }
    let state = spec.optional("state", |node| {
        let states = [
            ("Running", RunState::Running),
            ("Stopped", RunState::Stopped),
            ("Offline", RunState::Offline),
        ];
        word(node, states, "write Running, Stopped or Offline")
    });
    let network_id = spec.optional("networkId", |node| {
        let cure = "write a multiple of 64 from 2816 to 16711680";
        let id: u32 = number(node, cure)?;
        NetworkId::try_from(id).map_err(|error| error.to_string())
    });
    let guid = spec.optional("guid", text);
    let deletion_policy = spec.optional("deletionPolicy", |node| {
        let policies = [
            ("Retain", DeletionPolicy::Retain),
            ("Delete", DeletionPolicy::Delete),
        ];
        word(node, policies, "write Retain or Delete")
    });
    let protected = spec.optional("protected", yes_or_no);
    let autostart = spec.optional("autostart", yes_or_no);
    let snapshots = spec.map("snapshots").and_then(schedule);
    let limits = spec.map("limits").map(|fields| {
        let limits = limits::limits(fields, &LEAST);
        // The kernel keeps whole pages: what it says is to be what was wanted.
        ResourceLimits {
            memory: limits.memory.map(Size::round_up_mib),
            ..limits
        }
    });
    for field in ["networkId", "guid", "forkOf"] {
        found.places.insert(field, spec.place(field));
    }
    let origin = origin?;
    // What is made for a time goes when its manifest does.
    let passing = matches!(&origin, Origin::Fork(fork) if fork.ttl.is_some());
    let usual = match passing {
        true => DeletionPolicy::Delete,
        false => DeletionPolicy::Retain,
    };
    Some(Repository {
        name: found.name.clone()?,
        size: image_size,
        origin,
        autostart,
        snapshots,
        state: state.unwrap_or_default(),
        guid,
        network_id,
        deletion_policy: deletion_policy.unwrap_or(usual),
        protected: protected.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        moved_from: None,
    })
}

/// A daemon and a few containers want that much.
const LEAST: Least = Least {
    memory: Size::mib(256),
    pids: 256,
    of: "a repository",
};

fn schedule(fields: Fields) -> Option<Schedule> {
    const LEAST: SignedDuration = SignedDuration::from_mins(1);
    const MOST: SignedDuration = SignedDuration::from_hours(24 * 365);
    const KEEP: std::ops::RangeInclusive<usize> = 1..=1000;
    let every = fields.required("every", "`every:`, like `every: 1h`", |node| {
        time(
            node,
            LEAST..=MOST,
            "write a time from `1m` to `8760h`, like `1h`",
        )
    });
    let keep = fields.required("keep", "`keep:`, like `keep: 24`", |node| {
        let cure = "write how many are kept, from 1 to 1000";
        let keep = number(node, cure)?;
        KEEP.contains(&keep).then_some(keep).ok_or(cure.to_owned())
    });
    fields.finish();
    Some(Schedule {
        every: every?,
        keep: keep?,
    })
}

fn fork_of(fields: Fields) -> Option<ForkOf> {
    const LEAST: SignedDuration = SignedDuration::from_mins(1);
    const MOST: SignedDuration = SignedDuration::from_hours(24 * 365);
    let cure = "`repository:`, the name of the one that is copied";
    let repository = fields.required("repository", cure, text::<Name>);
    let tag = fields.optional("tag", text::<Name>);
    let ttl = fields.optional("ttl", |node| {
        time(
            node,
            LEAST..=MOST,
            "write a time from `1m` to `8760h`, like `8h`",
        )
    });
    fields.finish();
    Some(ForkOf {
        repository: repository?,
        tag,
        ttl,
    })
}

/// `none`, or where the passphrase is.
fn encryption(spec: &Fields, context: &Context) -> Option<Option<Seal>> {
    let (_, value) = spec.entry("encryption")?;
    if !matches!(value.kind, Kind::Map(_)) {
        let cure = "write `none`, or `passphraseFrom: { file: … }` below it";
        return spec.optional("encryption", |node| match node.text() {
            Some("none") => Ok(None),
            _ => Err(cure.into()),
        });
    }
    let fields = spec.map("encryption")?;
    let cure = "`passphraseFrom: { file: … }`";
    let from = fields.required_map("passphraseFrom", cure);
    let passphrase = from.and_then(|from| secret(from, context));
    let pbkdf = fields.optional("pbkdf", |node| {
        word(node, Pbkdf::NAMES, "write argon2id or pbkdf2")
    });
    fields.finish();
    Some(Some(Seal {
        passphrase: passphrase?,
        pbkdf: pbkdf.unwrap_or_default(),
    }))
}

/// Where a secret is to be had: one of the four.
fn secret(from: Fields, context: &Context) -> Option<SecretRef> {
    const SOURCES: [&str; 4] = ["file", "credential", "age", "command"];
    let file = from.optional("file", |node| {
        absolute(&text::<PathBuf>(node)?, "/etc/rediacc/keys/shop")
    });
    let credential = from.optional("credential", |node| {
        let name: String = text(node)?;
        match is_plain(&name) && !name.contains('/') && !name.starts_with('.') {
            true => Ok(name),
            false => Err("write the name of a systemd credential, like `shop`".into()),
        }
    });
    let age = from.optional("age", text::<RelPath>);
    let command = from.list(
        "command",
        "`command: [/usr/local/bin/secret, shop]`",
        |node| {
            let word: String = text(node)?;
            match word.is_empty() {
                true => Err("write a word of the command".to_owned()),
                false => Ok(word),
            }
        },
    );
    let given: Vec<&str> = SOURCES.into_iter().filter(|name| from.has(name)).collect();
    let at = from.start();
    let report = context.report;
    let secret = match (given.as_slice(), file, credential, age) {
        (["file"], file, ..) => file.map(SecretRef::File),
        (["credential"], _, credential, _) => credential.map(SecretRef::Credential),
        (["age"], .., age) => age.map(|path| {
            let path = match context.dir {
                Some(dir) => path.beneath(dir),
                None => path,
            };
            SecretRef::Age(context.root.shown(&path))
        }),
        (["command"], ..) if command.is_empty() => {
            let cure =
                "write a program and its arguments, like `command: [/usr/local/bin/secret, shop]`";
            report.at(&from.place("command"), "`command` is empty", cure);
            None
        }
        (["command"], ..) => {
            let words = command.into_iter().map(|(word, _)| word);
            Some(SecretRef::Command(words.collect()))
        }
        ([], ..) => {
            from.lacks("file", "`file:`, `credential:`, `age:` or `command:`");
            None
        }
        (several, ..) => {
            let message = format!("the secret has more than one of {}", listed(several.iter()));
            report.at(&at, message, "keep one of them");
            None
        }
    };
    from.finish();
    secret
}
