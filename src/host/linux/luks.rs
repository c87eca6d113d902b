//! What encrypts an image: LUKS2 and its decrypted mapping.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::ext4;
use super::passphrase::{InMemory, Passphrase};
use super::program::Program;
use crate::host::{Done, StepError};
use crate::model::{Guid, Header, Part, Pbkdf, Size};

/// A key derivation that costs memory takes seconds on a small machine.
const LONG: Duration = Duration::from_secs(300);
const SECTOR: u64 = 512;
const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
const BINARY_HEADER: usize = 4096;
/// Where the second header may begin (the format's own list).
const SECOND_AT: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];

/// What an image begins with. One whose header is damaged, or whose data a key
/// would not protect, is unknown: no key is ever given to it.
pub(super) fn header(file: &Path) -> Part<Header> {
    let why = |why: String| Part::Unknown(format!("{}: {why}", file.display()));
    let image = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Part::Absent,
        Err(error) => return why(error.to_string()),
        Ok(image) => image,
    };
    match read(&image) {
        Ok(Some(json)) => match judge(&json) {
            Ok(header) => Part::Known(header),
            Err(reason) => why(reason),
        },
        Ok(None) if ext4::is_in(&image) => Part::Known(Header::Plain),
        Ok(None) => why("neither LUKS2 nor ext4 is in it; its header may be damaged".to_owned()),
        Err(error) => why(error.to_string()),
    }
}

/// The metadata of the first header that can be read; none where there is no LUKS2.
fn read(image: &File) -> io::Result<Option<Value>> {
    let mut found = false;
    let places = [(0, MAGIC)].into_iter();
    for (at, magic) in places.chain(SECOND_AT.map(|at| (at, SECOND_MAGIC))) {
        let mut binary = [0_u8; BINARY_HEADER];
        match image.read_exact_at(&mut binary, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        if binary[..6] != *magic {
            continue;
        }
        found = true;
        if u16::from_be_bytes([binary[6], binary[7]]) != 2 {
            return Err(io::Error::other(
                "it is LUKS1, which renet does not open: see `cryptsetup convert`",
            ));
        }
        let size = u64::from_be_bytes(binary[8..16].try_into().unwrap_or_default());
        // The format allows up to 4 MiB.
        let json = usize::try_from(size).ok().filter(|size| *size <= 4 << 20);
        let Some(length) = json.and_then(|size| size.checked_sub(BINARY_HEADER)) else {
            continue;
        };
        let mut text = vec![0; length];
        if image
            .read_exact_at(&mut text, at + BINARY_HEADER as u64)
            .is_err()
        {
            continue;
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(length);
        if let Ok(json) = serde_json::from_slice(&text[..end]) {
            return Ok(Some(json));
        }
    }
    match found {
        true => Err(io::Error::other("its LUKS2 header is damaged")),
        false => Ok(None),
    }
}

/// Refuses what a passphrase would not protect, or what is in the middle of being
/// encrypted anew.
fn judge(json: &Value) -> Result<Header, String> {
    let requirements = json["config"]["requirements"]["mandatory"].as_array();
    if let Some(first) = requirements.and_then(|all| all.first()) {
        return Err(format!(
            "its LUKS2 header asks for {first}; finish that with cryptsetup"
        ));
    }
    let segments = json["segments"].as_object();
    let mut segments = segments.into_iter().flatten().map(|(_, segment)| segment);
    let (Some(segment), None) = (segments.next(), segments.next()) else {
        return Err("its LUKS2 header has not exactly one segment".to_owned());
    };
    let cipher = segment["encryption"].as_str().unwrap_or_default();
    if segment["type"] != "crypt" || cipher.is_empty() || cipher.contains("null") {
        return Err("its LUKS2 header names no cipher: it would not be encrypted".to_owned());
    }
    let keyslots = json["keyslots"].as_object();
    let mut slots = BTreeSet::new();
    for (slot, keyslot) in keyslots.into_iter().flatten() {
        if keyslot["type"] != "luks2" {
            return Err("it is being encrypted anew; finish that with cryptsetup".to_owned());
        }
        slots.extend(slot.parse::<u8>());
    }
    let offset = segment["offset"]
        .as_str()
        .and_then(|text| text.parse().ok());
    match offset {
        Some(offset) if segment["size"] == "dynamic" => Ok(Header::Luks {
            offset: Size::bytes(offset),
            slots,
        }),
        _ => Err("its LUKS2 header does not say where the data is".to_owned()),
    }
}

/// The mapping of a repository's image.
pub(super) fn name(guid: Guid) -> String {
    format!("renet-{guid}")
}

/// The mapping of an image that is being made.
pub(super) fn new_name(guid: Guid) -> String {
    format!("renet-{guid}.new")
}

/// The mapping of an image that is being checked.
pub(super) fn check_name(guid: Guid) -> String {
    format!("renet-{guid}.check")
}

/// Where a mapping shows its data.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// The kernel's folder of the mapping of that name.
fn find(name: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/block")? {
        let folder = entry?.path();
        match fs::read_to_string(folder.join("dm/name")) {
            Ok(is) if is.trim_end() == name => return Ok(Some(folder)),
            _ => {}
        }
    }
    Ok(None)
}

/// The size that a mapping shows, which must be over that device.
pub(super) fn observe(name: &str, device: Option<&Path>) -> Part<Size> {
    let look = || -> Result<Option<Size>, String> {
        let Some(folder) = find(name).map_err(|error| format!("/sys/block: {error}"))? else {
            return Ok(None);
        };
        let below = device.and_then(Path::file_name);
        if !below.is_some_and(|below| folder.join("slaves").join(below).exists()) {
            return Err(format!("the mapping {name} is over another device"));
        }
        let size = folder.join("size");
        let text = fs::read_to_string(&size);
        let sectors = text.ok().and_then(|text| text.trim().parse::<u64>().ok());
        let sectors = sectors.ok_or_else(|| format!("{}: not a size", size.display()))?;
        Ok(Some(Size::bytes(sectors * SECTOR)))
    };
    look().map_or_else(Part::Unknown, Part::from)
}

/// Makes a LUKS2 header.
pub(super) async fn format(
    device: &Path,
    uuid: Uuid,
    pbkdf: Pbkdf,
    passphrase: &Passphrase,
) -> Result<(), StepError> {
    let offset = (Header::OFFSET.as_bytes() / SECTOR).to_string();
    let format = Program::new("cryptsetup")
        .args(["luksFormat", "--batch-mode", "--type", "luks2"])
        .args(["--pbkdf", &pbkdf.to_string(), "--offset", &offset])
        .args(["--uuid", &uuid.to_string(), "--key-file", "-", "--"]);
    format
        .arg(device)
        .secret(passphrase)
        .limit(LONG)
        .run()
        .await?;
    Ok(())
}

/// Opens the mapping with a passphrase, or with a key in its own slot.
pub(super) async fn open(
    device: &Path,
    name: &str,
    with: &Passphrase,
    slot: Option<u8>,
) -> Result<(), StepError> {
    // Without the keyring it grows online without a passphrase.
    let mut open = Program::new("cryptsetup")
        .args(["open", "--type", "luks2", "--disable-keyring"])
        .args(["--allow-discards", "--key-file", "-"]);
    if let Some(slot) = slot {
        open = open.args(["--key-slot", &slot.to_string()]);
    }
    let open = open.arg("--").arg(device).arg(name);
    open.secret(with).limit(LONG).run().await?;
    Ok(())
}

/// Whether a failure says that the passphrase does not fit.
pub(super) fn is_wrong_passphrase(error: &StepError) -> bool {
    let program = error.program.as_deref();
    program.is_some_and(|program| program.ends_with("(exit 2)"))
}

/// Closes the mapping; none is fine.
pub(super) async fn close(name: &str) -> Result<Done, StepError> {
    let found = find(name).map_err(|error| StepError::machine(format!("/sys/block: {error}")))?;
    if found.is_none() {
        return Ok(Done::Already);
    }
    let close = Program::new("cryptsetup").args(["close", "--"]).arg(name);
    close.run().await?;
    Ok(Done::Changed)
}

/// Lets the mapping fill its device.
pub(super) async fn grow(name: &str) -> Result<(), StepError> {
    let grow = Program::new("cryptsetup").args(["resize", "--"]).arg(name);
    grow.run().await?;
    Ok(())
}

/// Adds a key to its slot, by leave of a passphrase.
pub(super) async fn add_key(
    device: &Path,
    slot: u8,
    key: &Passphrase,
    by: &Passphrase,
) -> Result<(), StepError> {
    let key = InMemory::of(key).map_err(|error| StepError::machine(format!("memfd: {error}")))?;
    // The key is random: stretching it would only cost time at boot.
    let add = Program::new("cryptsetup")
        .args([
            "luksAddKey",
            "--batch-mode",
            "--key-slot",
            &slot.to_string(),
        ])
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args(["--key-file", "-", "--"])
        .arg(device)
        .arg(key.path());
    add.secret(by).limit(LONG).run().await?;
    Ok(())
}

/// Destroys what a slot holds.
pub(super) async fn kill_slot(device: &Path, slot: u8) -> Result<(), StepError> {
    let kill = Program::new("cryptsetup").args(["luksKillSlot", "--batch-mode", "--"]);
    kill.arg(device).arg(slot.to_string()).run().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encrypted image; none where nothing can make one.
    async fn image(pbkdf_args: &[&str]) -> Option<tempfile::NamedTempFile> {
        if !super::super::program::is_installed("cryptsetup") {
            println!("SKIP(cryptsetup): not installed; no LUKS2 header was read");
            return None;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let format = Program::new("cryptsetup")
            .args(["luksFormat", "--batch-mode", "--key-file", "-"])
            .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
            .args(pbkdf_args)
            .arg(file.path());
        let format = format.stdin(b"right".to_vec()).run().await;
        format.unwrap();
        Some(file)
    }

    #[tokio::test]
    async fn a_header_says_where_the_data_is_and_which_slots_are_used() {
        let Some(file) = image(&["--offset", "32768"]).await else {
            return;
        };
        let slots = BTreeSet::from([0]);
        let offset = Header::OFFSET;
        assert_eq!(
            header(file.path()),
            Part::Known(Header::Luks { offset, slots })
        );
        let key = Passphrase::random(vec![7; 256].into());
        let right = Passphrase::new(b"right".to_vec()).unwrap();
        let slot = Header::KEY_SLOT;
        add_key(file.path(), slot, &key, &right).await.unwrap();
        assert!(header(file.path()).known().unwrap().has_key());
        kill_slot(file.path(), slot).await.unwrap();
        assert!(!header(file.path()).known().unwrap().has_key());
    }

    #[tokio::test]
    async fn l35_a_header_that_protects_nothing_gets_no_key() {
        let Some(file) = image(&[]).await else { return };
        let mut bytes = vec![0; 64 * 1024];
        file.as_file().read_exact_at(&mut bytes, 0).unwrap();
        let (cipher, none) = (b"aes-xts-plain64", b"cipher_null-ecb");
        let at = |bytes: &[u8]| bytes.windows(cipher.len()).position(|seen| seen == cipher);
        while let Some(at) = at(&bytes) {
            bytes[at..at + none.len()].copy_from_slice(none);
        }
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let Part::Unknown(why) = header(file.path()) else {
            panic!("{:?}", header(file.path()));
        };
        assert!(why.contains("names no cipher"), "{why}");
        let other =
            serde_json::json!({"config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}});
        assert!(judge(&other).unwrap_err().contains("online-reencrypt"));
    }

    #[tokio::test]
    async fn an_overwritten_header_is_known_by_its_second_or_not_at_all() {
        let Some(file) = image(&[]).await else { return };
        file.as_file().write_all_at(&[0; 8192], 0).unwrap();
        assert!(matches!(
            header(file.path()),
            Part::Known(Header::Luks { .. })
        ));
        file.as_file().write_all_at(&[0; 1 << 20], 0).unwrap();
        assert!(
            header(file.path()).is_unknown(),
            "{:?}",
            header(file.path())
        );
    }

    #[tokio::test]
    async fn a_plain_image_is_plain() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        ext4::format(file.path(), Uuid::from_u128(7)).await.unwrap();
        assert_eq!(header(file.path()), Part::Known(Header::Plain));
    }
}
