//! State that is lost or torn (L28): it stops what it is about with a clear
//! word, and never means that nothing is wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::lab::{Lab, page};

#[test]
fn l28_caches_may_go_at_any_time() {
    let Some(lab) = Lab::shop("cache") else {
        return;
    };
    lab.expect(0, &["apply"]);
    for folder in ["var/lib/rediacc/agent", "run/rediacc/resolve"] {
        let _ = fs::remove_dir_all(lab.root.join(folder));
    }
    lab.says(0, &["diff"], "In sync");
    torn_files(&lab);
    lab.uninstall();
}

/// On a machine that is there: one file after the other is torn and mended.
fn torn_files(lab: &Lab) {
    let shop = lab.guid("shop");
    let record = lab.record(&shop);
    let state = lab.datastore().join(".interim/state");
    let note = lab.root.join("var/lib/rediacc/datastore.json");
    let routes = lab.root.join("var/lib/rediacc/router/routes.json");

    for file in [&record, &state.join("machine.json"), &routes, &note] {
        let whole = fs::read_to_string(file).unwrap();
        assert!(whole.contains("\"format\": 1"), "{whole}");
        let newer = whole.replace("\"format\": 1", "\"format\": 2");
        for torn in ["", &whole[..whole.len() / 2], "{}", &newer] {
            let what = format!("{} = {torn:?}", file.display());
            fs::write(file, torn).unwrap();
            let shown = lab.expect(3, &["diff"]);
            let named = shown.contains(&file.display().to_string());
            assert!(named && shown.contains("Unknown"), "{what}:\n{shown}");
            let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(torn == newer, shown.contains("format 2"), "{what}");
            lab.expect(0, &["get"]);
            lab.expect(0, &["repository", "list"]);
        }
        // Others converge, unless everything stands on it; nothing stops.
        lab.serve("wiki", "page", "changed");
        lab.serve("shop", "web", "changed");
        let before = lab.running();
        lab.expect(3, &["apply", "--prune"]);
        let goes_on = if *file == note { "page" } else { "changed" };
        assert_eq!(page("page"), goes_on, "{}", file.display());
        let after = lab.running();
        assert_eq!(after.len(), before.len());
        if [&record, &note].contains(&file) {
            assert_eq!(after["web-web-1"], before["web-web-1"]);
        }
        assert_eq!(fs::read_to_string(file).unwrap(), newer);
        fs::write(file, &whole).unwrap();
        lab.service("wiki", "page");
        lab.service("shop", "web");
        lab.expect(0, &["apply"]);
        lab.expect(0, &["diff", "--prune"]);
    }
    // While one record cannot be read no new repository gets an id.
    let whole = fs::read_to_string(&record).unwrap();
    fs::write(&record, "{").unwrap();
    lab.repository("new", "");
    lab.says(3, &["apply"], "no new repository is made");
    lab.says(3, &["repository", "up", "shop"], "cannot be read");
    fs::write(&record, whole).unwrap();
    lab.remove("new.yaml");
    lab.expect(0, &["diff"]);
}

#[test]
fn a_lost_registry_makes_removes_and_stops_nothing_and_both_ways_lead_back() {
    let Some(lab) = Lab::shop("registry") else {
        return;
    };
    lab.expect(0, &["apply"]);
    let (shop, wiki) = (lab.guid("shop"), lab.guid("wiki"));
    let networks = (lab.network_of("shop"), lab.network_of("wiki"));
    let data = lab.put(&shop, "web/data/orders", 1);
    let running = lab.running();
    let images = names(&lab.datastore().join("repositories"));
    fs::remove_dir_all(lab.datastore().join(".interim/state")).unwrap();

    let unchanged = |lab: &Lab| {
        assert_eq!(lab.running(), running);
        assert_eq!(names(&lab.datastore().join("repositories")), images);
        assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
    };
    let shown = lab.expect(1, &["diff"]);
    for word in [
        "UnknownImage",
        &shop,
        &wiki,
        "guid:",
        "renet repository adopt --name GUID --as NAME",
    ] {
        assert!(shown.contains(word), "`{word}` is not in:\n{shown}");
    }
    for args in [&["apply"][..], &["apply", "--prune"]] {
        lab.expect(3, args);
        unchanged(&lab);
    }
    let listed = lab.expect(0, &["repository", "list"]);
    assert!(
        listed.contains("unknown") && listed.contains(&shop),
        "{listed}"
    );

    // By the manifest.
    lab.repository("shop", &format!("  guid: {shop}\n"));
    let said = super::lab::said(&lab.renet(&["apply"]));
    assert_eq!(lab.guid("shop"), shop, "{said}");
    unchanged(&lab);
    // By the command.
    lab.expect(0, &["repository", "adopt", "--name", &wiki, "--as", "wiki"]);
    lab.expect(0, &["apply"]);
    unchanged(&lab);
    lab.expect(0, &["diff", "--prune"]);
    assert_eq!((lab.network_of("shop"), lab.network_of("wiki")), networks);
    assert_eq!(
        fs::read(lab.inside(&shop, "web/data/orders")).unwrap(),
        data
    );
    lab.repository("shop", "");
    lab.expect(0, &["diff", "--prune"]);
    lab.nothing_leaked(2);

    image_missing(&lab, &shop);
    datastore_missing(&lab);
    lab.uninstall();
}

/// On a machine that is there: a record whose image is gone.
fn image_missing(lab: &Lab, shop: &str) {
    lab.expect(0, &["repository", "unmount", "shop"]);
    let aside = lab.datastore().join("repositories/aside");
    fs::rename(lab.image(shop), &aside).unwrap();
    lab.expect(0, &["resume", "repository/shop"]);
    for args in [
        &["diff"][..],
        &["apply"],
        &["apply", "--prune"],
        &["repository", "up", "shop"],
    ] {
        let code = if args == ["diff"] { 1 } else { 3 };
        lab.says(code, args, "ImageMissing");
        assert!(!lab.image(shop).exists());
    }
    assert_eq!(lab.state("shop"), "missing");
    lab.expect(0, &["get"]);
    assert_eq!(page("page"), "page");
    fs::rename(&aside, lab.image(shop)).unwrap();
    lab.expect(0, &["apply"]);
    assert_eq!(page("web"), "web");
}

/// On a machine that is there: another datastore in its place, and none.
fn datastore_missing(lab: &Lab) {
    for name in ["shop", "wiki"] {
        lab.expect(0, &["repository", "unmount", name]);
    }
    let point = lab.datastore();
    let file = lab.root.join("mnt/rediacc.img");
    let aside = lab.root.join("aside.img");
    run("umount", &[&point]);
    let device = Command::new("losetup")
        .arg("-j")
        .arg(&file)
        .output()
        .unwrap();
    let device = String::from_utf8(device.stdout).unwrap();
    let device = device.split(':').next().unwrap().to_owned();
    run("losetup", &[Path::new("-d"), Path::new(&device)]);
    fs::rename(&file, &aside).unwrap();

    let missing = || {
        for args in [&["diff"][..], &["apply"], &["apply", "--prune"]] {
            let code = if args == ["diff"] { 1 } else { 3 };
            lab.says(code, args, "DatastoreMissing");
        }
        lab.expect(0, &["get"]);
    };
    missing();
    assert!(!file.exists());
    // Another of the same kind.
    let other = fs::File::create(&file).unwrap();
    other.set_len(200 << 20).unwrap();
    run("mkfs.btrfs", &[Path::new("-q"), &file]);
    let before = fs::read(&file).unwrap();
    missing();
    assert!(
        before == fs::read(&file).unwrap(),
        "another datastore was written to"
    );
    assert_eq!(lab.loops(), Vec::<String>::new());
    fs::rename(&aside, &file).unwrap();
    for name in ["shop", "wiki"] {
        lab.expect(0, &["apply"]);
        lab.expect(0, &["repository", "up", name]);
    }
    lab.expect(0, &["diff", "--prune"]);
    assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names
}

fn run(program: &str, args: &[&Path]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}
