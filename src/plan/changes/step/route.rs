use std::collections::BTreeSet;

use super::super::{Action, Explained, Field};
use super::View;
use crate::model::{Name, Part, RouteRecord, RouteTable, Step};

impl View<'_> {
    pub(super) fn route(&self, name: &Name, route: &RouteRecord) -> Explained {
        let was = self
            .before
            .routes
            .known()
            .and_then(|routes| routes.get(name));
        let leads = |route: &RouteRecord| {
            let repository = self.desired.name(route.repository);
            format!("{repository}/{}", route.service)
        };
        let Some(was) = was else {
            let to = format!("{} → {}:{}", route.host, leads(route), route.port);
            return Explained {
                fields: vec![Field::new("host", None, Some(to))],
                action: Some(Action::Create),
                ..Explained::default()
            };
        };
        let all = [
            ("host", was.host.to_string(), route.host.to_string()),
            ("service", leads(was), leads(route)),
            ("port", was.port.to_string(), route.port.to_string()),
            (
                "address",
                was.address.to_string(),
                route.address.to_string(),
            ),
            (
                "owner",
                was.owner.source.clone(),
                route.owner.source.clone(),
            ),
        ];
        let differ = all.into_iter().filter(|(_, from, to)| from != to);
        let fields: Vec<Field> = differ
            .map(|(field, from, to)| {
                let note = (field == "host").then(|| format!("{from} answers no longer"));
                let field = Field::new(field, Some(from), Some(to));
                Field { note, ..field }
            })
            .collect();
        let because: Vec<String> = fields.iter().map(Field::because).collect();
        Explained {
            because: Some(because.join(", ")),
            fields,
            ..Explained::default()
        }
    }

    /// What the proxy reads and should not, or should and does not. What this
    /// plan notes or forgets is told of with its route.
    pub(super) fn publish(&self, table: &RouteTable) -> Explained {
        let none = RouteTable::new();
        let was = match &self.before.published {
            Part::Known(was) => was,
            _ => &none,
        };
        let names: BTreeSet<&Name> = was.keys().chain(table.keys()).collect();
        let told = |name: &Name| {
            self.plans(&|step| match step {
                Step::RecordRoute { name: of, .. } | Step::ForgetRoute(of) => of == name,
                _ => false,
            })
        };
        let shown = |table: &RouteTable, name: &Name| {
            let route = table.get(name)?;
            Some(format!("{} → {}", route.host, route.backend))
        };
        let differ = names
            .into_iter()
            .filter(|name| was.get(*name) != table.get(*name) && !told(name));
        let fields: Vec<Field> = differ
            .map(|name| {
                let field = Field::new(
                    format!("route {name}"),
                    shown(was, name),
                    shown(table, name),
                );
                match (was.contains_key(name), table.contains_key(name)) {
                    (false, true) => field.note("its service runs"),
                    (true, false) => field.note("its service does not run"),
                    _ => field,
                }
                .drifted()
            })
            .collect();
        Explained {
            because: Some("what is published is what was seen to run".to_owned()),
            fields,
            ..Explained::default()
        }
    }
}
