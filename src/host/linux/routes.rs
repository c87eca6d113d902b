//! Route manifests as last applied.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::files::{read_json, write_json};
use super::records;
use crate::host::{Done, StepError};
use crate::model::{Format, Layout, Name, Part, RouteRecord, Suspension};

const MODE: u32 = 0o600;

type Records = BTreeMap<Name, RouteRecord>;

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    format: Format,
    routes: Cow<'a, Records>,
}

/// The Route manifests as last applied.
pub(super) fn observe_records(layout: &Layout) -> Part<Records> {
    match read_json::<Kept>(&layout.routes()) {
        Part::Known(kept) => Part::Known(kept.routes.into_owned()),
        Part::Absent => Part::Absent,
        Part::Hidden => Part::Hidden,
        Part::Unknown(why) => Part::Unknown(why),
    }
}

/// Notes one Route manifest.
pub(super) fn record(layout: &Layout, name: &Name, route: &RouteRecord) -> Result<Done, StepError> {
    let mut records = match observe_records(layout) {
        Part::Known(records) => records,
        Part::Unknown(why) => return Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => Records::new(),
    };
    records.insert(name.clone(), route.clone());
    write_records(layout, &records)
}

/// Notes who said that a route is to be left alone, or that nobody does.
pub(super) fn suspend(
    layout: &Layout,
    name: &Name,
    suspension: Option<&Suspension>,
) -> Result<Done, StepError> {
    match observe_records(layout) {
        Part::Known(mut records) => {
            let route = records.get_mut(name);
            let route = route.ok_or_else(|| StepError::race("it was forgotten"))?;
            route.suspended = suspension.cloned();
            write_records(layout, &records)
        }
        Part::Unknown(why) => Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => Err(StepError::race("it was forgotten")),
    }
}

/// Forgets one Route manifest.
pub(super) fn forget(layout: &Layout, name: &Name) -> Result<Done, StepError> {
    let mut records = match observe_records(layout) {
        Part::Known(records) => records,
        Part::Unknown(why) => return Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => return Ok(Done::Already),
    };
    records.remove(name);
    write_records(layout, &records)
}

fn write_records(layout: &Layout, records: &Records) -> Result<Done, StepError> {
    records::keep_previous(&layout.routes())?;
    let kept = Kept {
        format: Format,
        routes: Cow::Borrowed(records),
    };
    write_json(&layout.routes(), &kept, MODE)
        .map_err(|error| StepError::machine(format!("{}: {error}", layout.routes().display())))?;
    Ok(Done::Changed)
}
