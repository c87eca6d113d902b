//! What single values look like: names, paths, sizes.

use schemars::JsonSchema;
use serde::Serialize;

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": UUID }),
    example = &"shop"
)]
pub struct Name(#[schemars(regex(pattern = NAME))] pub String);

pub(super) const NAME: &str = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

const UUID: &str = "^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$";

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID, and
/// not `root`, which is the project in the repository's own folder.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": format!("{UUID}|^root$") }),
    example = &"web"
)]
pub struct ServiceName(#[schemars(regex(pattern = NAME))] pub String);

/// Labels of a-z, 0-9 and `-` joined by dots.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop.example.com")]
pub struct HostName(
    #[schemars(
        regex(
            pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"
        ),
        length(max = 253)
    )]
    pub String,
);

/// An IPv4 address.
#[derive(JsonSchema)]
#[schemars(inline, example = &"203.0.113.5")]
pub struct Ipv4(
    #[schemars(regex(pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.|$)){4}$"))]
    pub  String,
);

/// A repository and a service of it.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop/web")]
pub struct Target(
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[^/]+$"))] pub String,
);

/// A UUID.
#[derive(JsonSchema)]
#[schemars(inline, example = &"5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e")]
pub struct Guid(
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"))] pub String,
);

/// A relative path without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web/docker-compose.yml")]
pub struct RelativePath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

pub(super) const PATH: &str = r"^(?:\./)?(?!(?:.*/)?\.{0,2}(?:/|$))[^\x00-\x1f\x7f-\x9f]+$";

/// A relative path of a folder, without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web")]
pub struct FolderPath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

/// The name of a variable that a manifest may set.
pub(super) const VARIABLE: &str =
    "^(?!(REDIACC_|COMPOSE_|DOCKER_|LD_)|(PATH|HOME|.*_IP)$)[A-Za-z_][A-Za-z0-9_]*$";

/// Hours, minutes and seconds.
#[derive(JsonSchema)]
#[schemars(inline, example = &"60s")]
pub struct Limit(
    #[schemars(regex(pattern = r"^(?=.)([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"))] pub String,
);

/// An absolute path without `..`.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"/mnt/rediacc.img")]
pub struct AbsolutePath(
    #[schemars(regex(pattern = r"^/(?=.*[^/.])(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f-\x9f]+$"))]
    pub String,
);

/// An absolute path without `..` that does not lead below `/dev`.
#[derive(JsonSchema, Serialize)]
#[schemars(
    inline,
    extend("not" = { "pattern": "^/[/.]*dev(/|$)" }),
    example = &"/mnt/rediacc.img"
)]
pub struct BackingFile(
    #[schemars(regex(pattern = r"^/(?=.*[^/.])(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f-\x9f]+$"))]
    pub String,
);

/// The path of a block device, below `/dev`.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"/dev/disk/by-id/scsi-0DO_Volume_data", example = &"/dev/sdb")]
pub struct DevicePath(
    #[schemars(regex(
        pattern = r"^/dev/(?=.*[^/.])(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f-\x9f]+$"
    ))]
    pub String,
);

/// A multiple of 64.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("multipleOf" = 64),
    example = 2816
)]
pub struct NetworkId(#[schemars(range(min = 2816, max = 16_711_680))] pub u32);

/// A port.
#[derive(JsonSchema)]
#[schemars(inline, example = 8080)]
pub struct Port(#[schemars(range(min = 1))] pub u16);

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"2G")]
pub enum ImageSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 67_108_864))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"20G")]
pub enum DatastoreSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 268_435_456))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"512M")]
pub enum MemorySize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 6_291_456))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"2G")]
pub enum RepositoryMemory {
    Text(SizeText),
    Bytes(#[schemars(range(min = 268_435_456))] u64),
}

/// A number and K, M, G or T: powers of 1024.
#[derive(JsonSchema)]
#[schemars(inline, example = &"2G")]
pub struct SizeText(
    #[schemars(regex(
        pattern = r"^ *[0-9]+(\.[0-9]{1,9})? *([KMGTPkmgtp]([Bb]|i[Bb])?|[Bb])? *$"
    ))]
    pub String,
);
