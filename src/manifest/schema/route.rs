//! Kind `Route`.

use schemars::JsonSchema;

use super::nothing;
use super::text::{HostName, Port, Target};

/// Where the route leads.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteSpec {
    /// The service that it leads to, as `repository/service`: one under
    /// `services:` of a compose file.
    #[schemars(with = "Target")]
    pub service: String,
    /// The port that the service listens on.
    #[schemars(with = "Port")]
    pub port: u16,
    /// The host name that it answers to, which no other route has.
    #[schemars(with = "HostName")]
    pub host: String,
    /// Whether it is served over HTTPS. Left out, it is where a certificate is to be had
    /// for its host.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "bool")]
    pub tls: Option<bool>,
}
