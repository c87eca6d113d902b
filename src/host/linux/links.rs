//! Where the paths of a compose file really lead: what is judged by its text alone
//! could lead out of the repository through a link that a container made.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Refuses a file whose paths leave the repository at `mount` through a link.
///
/// # Errors
///
/// Every such path, one a line, and what to do about it.
pub fn check(config: &Value, mount: &Path) -> Result<(), String> {
    let root = std::fs::canonicalize(mount).unwrap_or_else(|_| mount.to_owned());
    let leaves = |path: &&str| {
        let path = Path::new(path);
        path.starts_with(mount) && !real(path).starts_with(&root)
    };
    let files = dockerfiles(config);
    let named = paths(config).into_iter();
    let out: Vec<String> = named
        .chain(files.iter().map(String::as_str))
        .filter(leaves)
        .map(|path| format!("`{path}` leaves the repository through a link: remove the link"))
        .collect();
    match out.is_empty() {
        true => Ok(()),
        false => Err(out.join("\n")),
    }
}

/// Every path of the machine that the file names.
fn paths(config: &Value) -> Vec<&str> {
    let all = |of: &'static str| config[of].as_object().into_iter().flatten();
    let mut paths = Vec::new();
    for (_, service) in all("services") {
        let volumes = service["volumes"].as_array().into_iter().flatten();
        let binds = volumes.filter(|volume| volume["type"] == "bind");
        paths.extend(binds.filter_map(|volume| volume["source"].as_str()));
        paths.extend(service["build"]["context"].as_str());
    }
    for group in ["configs", "secrets"] {
        paths.extend(all(group).filter_map(|(_, entry)| entry["file"].as_str()));
    }
    paths
}

/// The files that images are built from: compose reads them itself.
fn dockerfiles(config: &Value) -> Vec<String> {
    let services = config["services"].as_object().into_iter().flatten();
    let builds = services.map(|(_, service)| &service["build"]);
    let files = builds.filter_map(|build| {
        let context = Path::new(build["context"].as_str()?);
        let file = build["dockerfile"].as_str().unwrap_or("Dockerfile");
        Some(context.join(file).display().to_string())
    });
    files.collect()
}

/// Where a path leads; what is not there yet lies where its folder does.
fn real(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let Ok(real) = std::fs::canonicalize(above) {
            return real;
        }
        // A link to what is not there: nobody knows what will be.
        if std::fs::symlink_metadata(above).is_ok() {
            return PathBuf::new();
        }
    }
    PathBuf::new()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_link_out_of_the_repository_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        let at = |name: &str| mount.join(name).display().to_string();
        std::fs::create_dir_all(mount.join("web/data")).unwrap();
        symlink("/etc", mount.join("web/out")).unwrap();
        symlink("/nowhere/yet", mount.join("web/dangling")).unwrap();
        symlink("data", mount.join("web/within")).unwrap();
        symlink("/etc/shadow", mount.join("web/Dockerfile")).unwrap();
        std::fs::create_dir(mount.join("api")).unwrap();
        let bind = |source: String| {
            let volume = json!({"type": "bind", "source": source});
            json!({"services": {"api": {"volumes": [volume]}}})
        };
        for good in ["web/data", "web/within", "web/not/there/yet"] {
            assert_eq!(check(&bind(at(good)), &mount), Ok(()), "{good}");
        }
        for bad in [
            "web/out",
            "web/out/ssh",
            "web/dangling",
            "web/out/not/there",
        ] {
            let why = check(&bind(at(bad)), &mount).unwrap_err();
            assert!(why.contains(bad), "{why}");
        }
        let build = |context: &str, file: Value| {
            let build = json!({"context": at(context), "dockerfile": file});
            json!({"services": {"api": {"build": build}}})
        };
        assert_eq!(check(&build("api", json!("Dockerfile")), &mount), Ok(()));
        for other in [
            build("web", json!("Dockerfile")),
            build("api", json!("../web/out/shadow")),
            json!({"services": {"api": {"build": {"context": at("web/out")}}}}),
            json!({"secrets": {"key": {"file": at("web/out/shadow")}}}),
            json!({"configs": {"key": {"file": at("web/out/shadow")}}}),
        ] {
            assert!(check(&other, &mount).is_err(), "{other}");
        }
    }
}
