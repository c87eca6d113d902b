//! Kind `Route`.

use super::fields::Fields;
use super::found::Found;
use super::values::{port, text, yes_or_no};
use super::{Route, compose};
use crate::model::{HostName, Name};

/// Reads the spec of a Route.
pub(super) fn route(spec: &Fields, found: &mut Found) -> Option<Route> {
    let service = spec.required("service", "`service:`, like `service: shop/web`", |node| {
        let text: String = text(node)?;
        let cure = "write `repository/service`, like `shop/web`";
        match text.split_once('/') {
            Some((repository, service)) if compose::is_service_name(service) => {
                let repository = repository
                    .parse::<Name>()
                    .map_err(|error| error.to_string())?;
                Ok((repository, service.to_owned()))
            }
            _ => Err(cure.into()),
        }
    });
    let port = spec.required("port", "`port:`, that the service listens on", port);
    let host = spec.required(
        "host",
        "`host:`, like `host: shop.example.com`",
        text::<HostName>,
    );
    let tls = spec.optional("tls", yes_or_no);
    for field in ["service", "host", "tls"] {
        found.places.insert(field, spec.place(field));
    }
    let (repository, service) = service?;
    Some(Route {
        name: found.name.clone()?,
        repository,
        service,
        port: port?,
        host: host?,
        tls,
    })
}
