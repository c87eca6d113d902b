//! The user's own certificates: each is checked before it is served, and served from a
//! copy, so that a file which is being replaced disturbs nobody.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::super::files::write_atomic;
use super::super::passphrase::Passphrase;
use super::super::program::{Program, is_installed};
use super::super::secrets;
use crate::model::{CertificateFiles, Digest, Layout, Name, ProxySpec};
use crate::router::Certificate;

/// Longer than any chain of certificates, in bytes.
const LONGEST: u64 = 256 * 1024;
const LIMIT: Duration = Duration::from_secs(10);
/// For root alone.
const MODE: u32 = 0o600;

/// A certificate as it was found, and what is to be copied before it can serve.
#[derive(Clone, PartialEq)]
pub(super) struct Found {
    pub(super) certificate: Certificate,
    copy: Option<Pair>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificate.fmt(f)
    }
}

#[derive(Clone)]
struct Pair {
    certificate: Vec<u8>,
    key: Passphrase,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.key.is(&other.key)
    }
}

/// What openssl says of a certificate.
struct Shown {
    /// Its public key, in PEM.
    key: String,
    hosts: BTreeSet<String>,
    from: Timestamp,
    until: Timestamp,
}

/// Looks at all of them.
pub(super) async fn look(layout: &Layout, spec: &ProxySpec) -> Vec<Found> {
    let now = Timestamp::now();
    let mut all = Vec::new();
    for (name, files) in &spec.certificates {
        all.push(one(layout, name, files, now).await);
    }
    all
}

async fn one(layout: &Layout, name: &Name, files: &CertificateFiles, now: Timestamp) -> Found {
    let mut certificate = Certificate {
        name: name.clone(),
        hosts: BTreeSet::new(),
        files: None,
        refused: None,
    };
    let refused = match read(files).await {
        Ok((shown, pair)) => match in_time(&shown, files, now) {
            Ok(()) => {
                certificate.hosts = shown.hosts;
                certificate.files = Some(copies(layout, name, &pair));
                let copy = Some(pair);
                return Found { certificate, copy };
            }
            Err(why) => {
                certificate.hosts = shown.hosts;
                why
            }
        },
        Err(why) => why,
    };
    certificate.refused = Some(refused);
    // The last one that could serve goes on.
    if let Some((files, shown)) = kept(layout, name).await {
        certificate.hosts = shown.hosts;
        certificate.files = (now < shown.until).then_some(files);
    }
    Found {
        certificate,
        copy: None,
    }
}

fn in_time(shown: &Shown, files: &CertificateFiles, now: Timestamp) -> Result<(), String> {
    let path = files.certificate.display();
    if now >= shown.until {
        let until = shown.until;
        return Err(format!("{path} expired at {until}: put a newer one there"));
    }
    match now < shown.from {
        true => Err(format!(
            "{path} is not valid before {}: put an older one there, or set the clock",
            shown.from
        )),
        false => Ok(()),
    }
}

/// Reads a pair, and checks that it is one.
async fn read(files: &CertificateFiles) -> Result<(Shown, Pair), String> {
    let (path, key_path) = (files.certificate.display(), files.key.display());
    let certificate = bytes(&files.certificate).map_err(|error| format!("{path}: {error}"))?;
    let key = secrets::file(&files.key).map_err(|error| format!("{key_path}: {error}"))?;
    if !is_installed("openssl") {
        return Err("`openssl` is not installed, which certificates are checked with".to_owned());
    }
    let shown = show(certificate.clone())
        .await
        .ok_or_else(|| format!("{path} begins with no certificate in PEM"))?;
    if shown.hosts.is_empty() {
        return Err(format!(
            "{path} names no host: it needs them as `subjectAltName`"
        ));
    }
    let no_key = || format!("{key_path} holds no private key in PEM, or has a passphrase");
    if !String::from_utf8_lossy(key.bytes()).contains("PRIVATE KEY-----") {
        return Err(no_key());
    }
    // An empty passphrase: it would ask for one.
    let public = Program::new("openssl")
        .args(["pkey", "-pubout", "-passin", "pass:"])
        .secret(&key)
        .limit(LIMIT)
        .run();
    let public = public.await.map_err(|_| no_key())?;
    if String::from_utf8_lossy(&public.stdout).trim() != shown.key.trim() {
        return Err(format!(
            "{key_path} is not the key of the first certificate in {path}"
        ));
    }
    Ok((shown, Pair { certificate, key }))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(io::Error::other("it is longer than any certificate")),
        false => Ok(bytes),
    }
}

/// The first certificate; nothing where there is none.
async fn show(certificate: Vec<u8>) -> Option<Shown> {
    const WORDS: [&str; 9] = [
        "x509",
        "-noout",
        "-pubkey",
        "-startdate",
        "-enddate",
        "-dateopt",
        "iso_8601",
        "-ext",
        "subjectAltName",
    ];
    // It would read other forms as well, and the proxy would not.
    if !String::from_utf8_lossy(&certificate).contains("-----BEGIN CERTIFICATE-----") {
        return None;
    }
    let program = Program::new("openssl").args(WORDS);
    let shown = program.stdin(certificate).limit(LIMIT).run().await.ok()?;
    let text = String::from_utf8_lossy(&shown.stdout);
    let time = |word: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(word));
        found?.trim().parse::<Timestamp>().ok()
    };
    const LAST: &str = "-----END PUBLIC KEY-----";
    let key = &text[text.find("-----BEGIN PUBLIC KEY-----")?..];
    let key = &key[..key.find(LAST)? + LAST.len()];
    let (_, names) = text
        .split_once("X509v3 Subject Alternative Name:")
        .unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
    let hosts = names
        .lines()
        .skip(1)
        .take(1)
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().strip_prefix("DNS:"))
        .filter(|name| !name.is_empty() && name.chars().all(plain))
        .map(str::to_ascii_lowercase);
    Some(Shown {
        key: key.to_owned(),
        hosts: hosts.collect(),
        from: time("notBefore=")?,
        until: time("notAfter=")?,
    })
}

/// Where a pair is copied to: its own name, for nothing that serves is ever overwritten.
fn copies(layout: &Layout, name: &Name, pair: &Pair) -> (PathBuf, PathBuf) {
    let digest = Digest::of_fields([pair.certificate.as_slice(), pair.key.bytes()]);
    let file = |ending: &str| {
        layout
            .proxy_certificates()
            .join(format!("{name}-{}.{ending}", digest.short()))
    };
    (file("crt"), file("key"))
}

/// The last copy of this name.
async fn kept(layout: &Layout, name: &Name) -> Option<((PathBuf, PathBuf), Shown)> {
    let is_of = |path: &PathBuf| {
        let word = path.file_stem().and_then(|stem| stem.to_str());
        let word = word.and_then(|stem| stem.strip_prefix(name.as_str())?.strip_prefix('-'));
        word.is_some_and(Digest::is_short)
    };
    let entries = fs::read_dir(layout.proxy_certificates()).ok()?.flatten();
    let mut all: Vec<(i64, i64, PathBuf)> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "crt") && is_of(path))
        .filter_map(|path| {
            let meta = fs::metadata(&path).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), path))
        })
        .collect();
    all.sort();
    let (.., path) = all.pop()?;
    let key = path.with_extension("key");
    let shown = show(bytes(&path).ok()?).await?;
    key.exists().then_some(((path, key), shown))
}

/// Copies what is to serve.
pub(super) fn copy(layout: &Layout, all: &[Found]) -> io::Result<()> {
    for found in all {
        let (Some(pair), Some((certificate, key))) = (&found.copy, &found.certificate.files) else {
            continue;
        };
        if certificate.exists() && key.exists() {
            continue;
        }
        let folder = layout.proxy_certificates();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        write_atomic(key, pair.key.bytes(), MODE)?;
        write_atomic(certificate, &pair.certificate, MODE)?;
    }
    Ok(())
}

/// Removes the copies that neither of these tables names.
pub(super) fn sweep(layout: &Layout, tables: [&str; 2]) {
    for entry in fs::read_dir(layout.proxy_certificates())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !tables.iter().any(|table| table.contains(&*name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
