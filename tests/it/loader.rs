//! A loader that remembers gives what a fresh look gives.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use renet::manifest::{Folder, Loader, load};

use crate::dice::Dice;

/// Everything that a folder says.
fn all(folder: &Folder) -> String {
    let mut out = format!(
        "{:?} {} {} {}\n",
        folder.manifests, folder.files, folder.empty, folder.unlisted
    );
    for service in folder.manifests.services.values() {
        let _ = writeln!(out, "{:?}", service.files.digest());
    }
    out + &folder.render(false, 80)
}

fn same(loader: &mut Loader, dir: &Path) {
    assert_eq!(all(&loader.load()), all(&load(dir)));
}

/// Writes one of a few files with one of a few contents, or does something else to it.
fn edit(dir: &Path, dice: &mut Dice) {
    let id = dice.below(4);
    let machine = |more: &str| {
        format!(
            "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: m }}\nspec: {{ {more} }}\n"
        )
    };
    let repository = |size: &str| {
        format!(
            "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: r{id} }}\n\
             spec: {{ size: {size}, encryption: none }}\n"
        )
    };
    let service = |name: &str| {
        format!(
            "apiVersion: renet/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
             spec: {{ repository: r{id}, compose: {{ file: p{id}/compose.yml }} }}\n"
        )
    };
    let compose = |service: &str| {
        format!(
            "services: {{ {service}: {{ build: ./src, env_file: [{{ path: e.env, required: false }}] }} }}\n"
        )
    };
    let (path, text) = match dice.below(14) {
        0 => (
            "machine.yaml".to_owned(),
            machine("variables: { stage: web }"),
        ),
        1 => (
            "machine.yaml".to_owned(),
            machine("variables: { stage: api }"),
        ),
        2 => ("machine.yaml".to_owned(), machine("variabels: {}")),
        3 => (format!("r{id}.yaml"), repository("1G")),
        4 => (format!("r{id}.yaml"), repository("2X")),
        5 => (format!("s{id}.yaml"), service("\"${stage}\"")),
        6 => (format!("s{id}.yaml"), service("db")),
        7 => (format!("p{id}/compose.yml"), compose("web")),
        8 => (format!("p{id}/compose.yml"), compose("api")),
        9 => (
            format!("p{id}/src/Dockerfile"),
            format!("FROM {}\n", dice.below(9)),
        ),
        10 => (format!("p{id}/src/f{}", dice.below(3)), String::new()),
        11 => (format!("p{id}/e.env"), format!("A={}\n", dice.below(9))),
        12 => (format!("x{id}.yaml"), "broken: [\n".to_owned()),
        _ => (format!("x{id}.yaml"), "a: stranger\n".to_owned()),
    };
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match dice.below(8) {
        0 => {
            let _ = fs::remove_file(&path);
        }
        1 if path.is_file() => {
            let mode = if dice.below(2) == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        2 => {
            let _ = fs::remove_file(&path);
            symlink("/etc/passwd", &path).unwrap();
        }
        3 => {
            // As editors and git do it.
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, path).unwrap();
        }
        _ => {
            if path.is_symlink() {
                fs::remove_file(&path).unwrap();
            }
            fs::write(path, text).unwrap();
        }
    }
}

#[test]
fn after_any_edits_it_gives_what_a_fresh_look_gives() {
    const FOLDERS: usize = 60;
    let mut dice = Dice::new();
    let mut folders: Vec<_> = (0..FOLDERS)
        .map(|_| {
            let dir = tempfile::tempdir().unwrap();
            for _ in 0..60 {
                edit(dir.path(), &mut dice);
            }
            let mut loader = Loader::new(dir.path());
            // What was just written is read again for a while.
            same(&mut loader, dir.path());
            edit(dir.path(), &mut dice);
            same(&mut loader, dir.path());
            (dir, loader)
        })
        .collect();
    for _ in 0..2 {
        // From here on nothing is racy but what is edited.
        std::thread::sleep(Duration::from_millis(3_100));
        for (dir, loader) in &mut folders {
            same(loader, dir.path());
            for _ in 0..4 {
                for _ in 0..dice.below(3) {
                    edit(dir.path(), &mut dice);
                }
                same(loader, dir.path());
            }
        }
    }
}

#[test]
fn what_was_replaced_by_another_folder_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let machine = |name: &str| {
        format!("apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: {name} }}\nspec: {{}}\n")
    };
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("m.yaml"), machine(name)).unwrap();
    }
    let link = dir.path().join("current");
    symlink("a", &link).unwrap();
    let mut loader = Loader::new(&link);
    let mut name = || loader.load().manifests.machine.unwrap().name.to_string();
    assert_eq!(name(), "a");
    fs::remove_file(&link).unwrap();
    symlink("b", &link).unwrap();
    assert_eq!(name(), "b");
}
