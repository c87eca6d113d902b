//! Kind `Machine`.

use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::found::Context;
use super::proxy::proxy;
use super::tree::Node;
use super::values::{absolute, number, size, text};
use super::{Machine, MachineDatastore, variables};
use crate::model::{HostName, Name, Size};

/// Reads the spec of a Machine.
pub(super) fn machine(spec: &Fields, name: Option<&Name>, context: &Context) -> Option<Machine> {
    let datastore = spec.map("datastore").map(|fields| {
        let datastore = datastore(&fields, context);
        fields.finish();
        datastore
    });
    let proxy = spec.map("proxy").map(|fields| {
        let proxy = proxy(&fields, context);
        fields.finish();
        proxy
    });
    let overcommit = spec.optional("overcommit", overcommit);
    let base_domain = spec.optional("baseDomain", text::<HostName>);
    spec.checked("variables", variables::check_name, variables::check_value);
    Some(Machine {
        name: name?.clone(),
        variables: spec.values("variables"),
        datastore: match datastore {
            Some(datastore) => Some(datastore?),
            None => None,
        },
        overcommit,
        base_domain,
        proxy: proxy.unwrap_or_default(),
    })
}

fn datastore(fields: &Fields, context: &Context) -> Option<MachineDatastore> {
    let size = fields.optional("size", |node| {
        size(node, Size::SMALLEST_DATASTORE, "a datastore")
    });
    let path = fields.optional("backingFile", |node| {
        match absolute(&text::<PathBuf>(node)?, "/mnt/rediacc.img")? {
            path if path.starts_with("/dev") => {
                Err("this is no file; a device is named by `device:` alone".into())
            }
            path => Ok(path),
        }
    });
    let device = fields.optional("device", |node| device(&text::<PathBuf>(node)?));
    if !fields.has("device") {
        if !fields.has("size") {
            fields.lacks("size", "`size:`, like `size: 20G`, or `device: /dev/…`");
        }
        return size.map(|size| MachineDatastore::File { size, path });
    }
    let said = match (fields.has("size"), fields.has("backingFile")) {
        (false, false) => return device.map(MachineDatastore::Device),
        (true, false) => "`size:`",
        (false, true) => "`backingFile:`",
        (true, true) => "`size:` and `backingFile:`",
    };
    context.report.at(
        &fields.place("device"),
        "a datastore on a device is all of that device, and in no file",
        format!("remove `device:`, or {said}"),
    );
    None
}

/// The path of a block device.
pub(crate) fn device(path: &Path) -> Result<PathBuf, String> {
    const EXAMPLE: &str = "/dev/disk/by-id/…";
    match absolute(path, EXAMPLE) {
        Ok(path) if path.starts_with("/dev") && path != Path::new("/dev") => Ok(path),
        _ => Err(format!(
            "write the path of a device below /dev, like `{EXAMPLE}`"
        )),
    }
}

/// How much more than there is may be promised, in hundredths.
fn overcommit(node: &Node) -> Result<u32, String> {
    let cure = "write how many times the room may be promised, from 1 to 100, like `2.0`";
    let times: f64 = number(node, cure)?;
    match (1.0..=100.0).contains(&times) {
        true => Ok((times * 100.0).round() as u32),
        false => Err(cure.to_owned()),
    }
}
