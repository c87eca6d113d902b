//! Route manifests as last applied, and the table that the proxy reads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files::{read_json, write_atomic, write_json};
use super::records;
use crate::host::{Done, StepError};
use crate::model::{Format, Layout, Name, Part, Published, RouteRecord, RouteTable, Suspension};

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
    records::keep_previous(&layout.routes(), MODE)?;
    let kept = Kept {
        format: Format,
        routes: Cow::Borrowed(records),
    };
    write_json(&layout.routes(), &kept, MODE)
        .map_err(|error| StepError::machine(format!("{}: {error}", layout.routes().display())))?;
    Ok(Done::Changed)
}

/// The table as Traefik's file provider reads it; JSON is YAML.
fn render(table: &RouteTable) -> String {
    if table.is_empty() {
        return "{}\n".to_owned();
    }
    let mut routers = serde_json::Map::new();
    let mut services = serde_json::Map::new();
    for (name, route) in table {
        let router = json!({
            "entryPoints": ["web"],
            "rule": format!("Host(`{}`)", route.host),
            "service": name,
        });
        let url = format!("http://{}", route.backend);
        routers.insert(name.to_string(), router);
        services.insert(
            name.to_string(),
            json!({"loadBalancer": {"servers": [{"url": url}]}}),
        );
    }
    let root = json!({"http": {"routers": routers, "services": services}});
    format!("{root:#}\n")
}

fn parse(text: &str) -> Option<RouteTable> {
    let root: Value = serde_json::from_str(text).ok()?;
    let mut table = RouteTable::new();
    let Some(routers) = root.pointer("/http/routers") else {
        return Some(table);
    };
    for (name, router) in routers.as_object()? {
        let rule = router.get("rule")?.as_str()?;
        let host = rule.strip_prefix("Host(`")?.strip_suffix("`)")?;
        let url = root.pointer(&format!("/http/services/{name}/loadBalancer/servers/0/url"))?;
        let route = Published {
            host: host.parse().ok()?,
            backend: url.as_str()?.strip_prefix("http://")?.parse().ok()?,
        };
        table.insert(name.parse().ok()?, route);
    }
    Some(table)
}

/// What the proxy reads now. A file that was edited or torn counts as absent:
/// it is ours to write again.
pub(super) fn observe_published(layout: &Layout) -> Part<RouteTable> {
    let path = layout.published_routes();
    match std::fs::read(&path) {
        Ok(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| parse(text).filter(|table| render(table) == text))
            .into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
    }
}

/// Publishes the table in one move. The file is made beside the folder that
/// Traefik watches: it would read a temporary one inside.
pub(super) fn publish(layout: &Layout, table: &RouteTable) -> Result<Done, StepError> {
    let text = render(table);
    if parse(&text).as_ref() != Some(table) {
        return Err(StepError::machine(
            "the route table does not read back as it was written",
        ));
    }
    let folder = layout.proxy_dynamic();
    let target = layout.published_routes();
    let beside = layout.proxy().join("traefik/renet.yml.new");
    let published = std::fs::create_dir_all(&folder)
        .and_then(|()| write_atomic(&beside, text.as_bytes(), 0o644))
        .and_then(|()| std::fs::rename(&beside, &target));
    published.map_err(|error| StepError::machine(format!("{}: {error}", target.display())))?;
    Ok(Done::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable {
        let route = Published {
            host: "shop.example.com".parse().unwrap(),
            backend: "127.0.11.2:8080".parse().unwrap(),
        };
        RouteTable::from([("shop-web".parse().unwrap(), route)])
    }

    #[test]
    fn what_is_published_reads_back_and_an_edit_does_not() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        assert_eq!(observe_published(&layout), Part::Absent);
        for table in [table(), RouteTable::new()] {
            publish(&layout, &table).unwrap();
            assert_eq!(observe_published(&layout), Part::Known(table));
        }
        std::fs::write(layout.published_routes(), "{\"http\": 1}").unwrap();
        assert_eq!(observe_published(&layout), Part::Absent);
        // Nothing else lies in the folder that Traefik reads.
        assert_eq!(
            std::fs::read_dir(layout.proxy_dynamic()).unwrap().count(),
            1
        );
    }
}
