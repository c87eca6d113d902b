//! Opens encrypted images, and keeps the key that does so at boot.

use std::path::{Path, PathBuf};

use super::storage::{Place, wrong};
use super::{LinuxHost, key, loop_device, luks};
use crate::host::{Done, StepError};
use crate::model::{Guid, Header, Layout, SecretRef};

/// Attaches an encrypted image and opens it with the first that fits. Where none
/// does, it is as closed as before.
pub(super) async fn open(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    with: &[SecretRef],
) -> Result<Done, StepError> {
    let device = loop_device::attach(&place.file).await?;
    let opened = unlock(host, &device, guid, with).await;
    if opened.is_err() {
        // Whoever attached it: nobody uses a device that was not open.
        let _ = loop_device::detach(&device).await;
    }
    opened.map(|()| Done::Changed)
}

async fn unlock(
    host: &LinuxHost,
    device: &Path,
    guid: Guid,
    with: &[SecretRef],
) -> Result<(), StepError> {
    let name = luks::name(guid);
    let mut last = StepError::machine("nothing that opens it is at hand");
    let mut stale = false;
    for secret in with {
        let is_key = matches!(secret, SecretRef::Key(_));
        let slot = is_key.then_some(Header::KEY_SLOT);
        let opened = match host.secrets.read(secret, &host.layout).await {
            Ok(passphrase) => luks::open(device, &name, &passphrase, slot).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(()) => {
                if stale {
                    // A key that no longer fits is made anew, in its own slot.
                    let killed = luks::kill_slot(device, Header::KEY_SLOT).await;
                    if killed.is_ok() {
                        let _ = key::discard(&host.layout.key(guid));
                    }
                }
                return Ok(());
            }
            Err(error) => {
                stale |= is_key && luks::is_wrong_passphrase(&error);
                last = error;
            }
        }
    }
    Err(last)
}

/// Makes the key for boot. The file comes first: a slot without a file is not ours.
pub(super) async fn enrol_key(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    with: &[SecretRef],
) -> Result<Done, StepError> {
    let path = host.layout.key(guid);
    let slot = Header::KEY_SLOT;
    let taken = luks::header(&place.file)
        .known()
        .is_some_and(Header::has_key);
    if taken && !path.exists() {
        return Err(wrong(
            &place.file,
            format!("its key slot {slot} holds a key that renet does not know"),
        ));
    }
    let mut last = StepError::machine("nothing that opens it is at hand");
    for secret in with {
        let passphrase = match host.secrets.read(secret, &host.layout).await {
            Ok(passphrase) => passphrase,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let key = key::make(&path).await?;
        let device = carrier(place)?;
        match luks::add_key(&device, slot, &key, &passphrase).await {
            Ok(()) => return Ok(Done::Changed),
            Err(error) => last = error,
        }
        let _ = key::discard(&path);
    }
    Err(last)
}

/// Takes over the key of another image.
pub(super) fn copy_key(layout: &Layout, guid: Guid, from: Guid) -> Result<Done, StepError> {
    key::copy(&layout.key(from), &layout.key(guid))?;
    Ok(Done::Changed)
}

/// Destroys the key for boot; the slot first.
pub(super) async fn drop_key(
    layout: &Layout,
    place: &Place,
    guid: Guid,
) -> Result<Done, StepError> {
    if luks::header(&place.file)
        .known()
        .is_some_and(Header::has_key)
    {
        luks::kill_slot(&carrier(place)?, Header::KEY_SLOT).await?;
    }
    key::discard(&layout.key(guid))?;
    Ok(Done::Changed)
}

/// What carries the header: the loop device while it is attached, so that both
/// show the same.
fn carrier(place: &Place) -> Result<PathBuf, StepError> {
    let found = loop_device::find(&place.file).map_err(StepError::machine)?;
    Ok(found.unwrap_or_else(|| place.file.clone()))
}

/// Closes the mapping.
pub(super) async fn close_mapping(guid: Guid) -> Result<Done, StepError> {
    luks::close(&luks::name(guid)).await
}

/// Lets the mapping fill its device.
pub(super) async fn grow_mapping(guid: Guid) -> Result<Done, StepError> {
    luks::grow(&luks::name(guid)).await?;
    Ok(Done::Changed)
}
