//! The image that the proxy's container is made from: Traefik's own, or where that
//! cannot be had one around the installed program.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use futures::StreamExt as _;
use serde_json::json;

use super::super::files::write_atomic;
use super::super::program::Program;
use super::super::tools;
use super::container::{NAME, SERVICE, literal};
use super::docker::{Engine, said, there};
use crate::host::{Done, StepError};
use crate::model::Layout;

const REPOSITORY: &str = "traefik";
const TAG: &str = "v3.7";
/// What is built here.
const OURS: &str = "rediacc/traefik";
const PULL: Duration = Duration::from_secs(120);
/// 185 MB go to Docker.
const BUILD: Duration = Duration::from_secs(300);

/// Whether it was built here.
pub(super) fn is_built(image: &str) -> bool {
    image.starts_with(OURS)
}

/// The folder that it is built from.
pub(super) fn folder(layout: &Layout) -> PathBuf {
    layout.proxy().join("image")
}

/// The image to use. The one `before` stays while it is there and not out of date, so
/// that no start needs a registry.
pub(super) async fn choose(
    layout: &Layout,
    engine: &Engine,
    before: Option<&str>,
) -> Result<String, StepError> {
    let usual = format!("{REPOSITORY}:{TAG}");
    let traefik = tools::traefik();
    let built = match &traefik {
        Ok(traefik) => Some(name(traefik).await?),
        Err(_) => None,
    };
    let kept = before.filter(|image| match is_built(image) {
        true => built.as_ref().is_none_or(|built| built == image),
        false => *image == usual,
    });
    for image in kept.into_iter().chain([usual.as_str()]) {
        if is_there(engine, image).await? {
            return Ok(image.to_owned());
        }
    }
    let Err(why) = pull(engine).await else {
        return Ok(usual);
    };
    match (traefik, built, before) {
        (Ok(traefik), Some(image), _) => {
            if !is_there(engine, &image).await? {
                build(layout, engine, &traefik, &image).await?;
            }
            Ok(image)
        }
        // Out of date, and better than none.
        (_, _, Some(image)) if is_there(engine, image).await? => Ok(image.to_owned()),
        (Err(error), ..) => Err(StepError::machine(format!(
            "the image {usual} cannot be pulled ({why}), nor built: {error}"
        ))),
        (Ok(_), None, _) => Err(StepError::machine(why)),
    }
}

async fn is_there(engine: &Engine, image: &str) -> Result<bool, StepError> {
    Ok(there(engine.client.inspect_image(image).await)?.is_some())
}

async fn pull(engine: &Engine) -> Result<(), String> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(REPOSITORY)
        .tag(TAG)
        .build();
    let all = async {
        let mut pulled = engine.client.create_image(Some(options), None, None);
        while let Some(line) = pulled.next().await {
            line.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    match tokio::time::timeout(PULL, all).await {
        Ok(end) => end,
        Err(_) => Err(format!("it takes longer than {} s", PULL.as_secs())),
    }
}

/// By the version of the program in it.
async fn name(traefik: &Path) -> Result<String, StepError> {
    let output = Program::new(traefik).arg("version").run().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "Version:");
    let version = words.nth(1).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    match version.starts_with(|c: char| c.is_ascii_alphanumeric()) && version.chars().all(plain) {
        true => Ok(format!("{OURS}:{version}")),
        false => Err(StepError::machine(format!(
            "{} does not say its version; deploy/tools.sh installs another",
            traefik.display()
        ))),
    }
}

async fn build(
    layout: &Layout,
    engine: &Engine,
    traefik: &Path,
    image: &str,
) -> Result<(), StepError> {
    const DOCKERFILE: &str = "FROM scratch\nCOPY traefik /traefik\nENTRYPOINT [\"/traefik\"]\n";
    let folder = folder(layout);
    write_atomic(&folder.join("Dockerfile"), DOCKERFILE.as_bytes(), 0o644)
        .and_then(|()| put(traefik, &folder.join("traefik")))
        .map_err(|error| StepError::machine(format!("{}: {error}", folder.display())))?;
    let context = json!({"context": literal(&folder)});
    let project = json!({
        "name": NAME,
        "services": {SERVICE: {"image": image, "build": context}},
    });
    let run = engine.compose(layout)?.limit(BUILD);
    run.args(["-f", "-", "-p", NAME, "build"])
        .stdin(project.to_string().into_bytes())
        .run()
        .await?;
    remove_but(engine, Some(image)).await?;
    Ok(())
}

/// The same file where it can be: it is large.
fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    super::super::files::remove(to)?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(from, to).map(drop),
    }
}

/// Removes what was built here, but for one.
pub(super) async fn remove_but(engine: &Engine, kept: Option<&str>) -> Result<Done, StepError> {
    let filters = HashMap::from([("reference", vec![OURS])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let all = engine.client.list_images(Some(options)).await;
    let all = all.map_err(|error| said(&error))?;
    let mut done = Done::Already;
    for image in all.into_iter().flat_map(|image| image.repo_tags) {
        // One that a container still has goes when there is a newer one again.
        if Some(image.as_str()) != kept && is_built(&image) {
            let options = None::<RemoveImageOptions>;
            let removed = engine.client.remove_image(&image, options, None).await;
            match (removed, kept) {
                (Ok(_), _) => done = Done::Changed,
                (Err(_), Some(_)) => {}
                (Err(error), None) => return Err(said(&error)),
            }
        }
    }
    Ok(done)
}
