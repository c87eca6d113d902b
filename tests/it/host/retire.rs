//! What goes, and only that: by prune, by command, and never because a folder
//! was lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::lab::{Lab, answer, page, processes_with};

#[test]
fn pruning_a_service_and_its_route_removes_just_these_and_keeps_its_data() {
    let Some(lab) = Lab::shop("prune") else {
        return;
    };
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/orders", 1);
    let before = lab.running();
    assert_eq!(page("web"), "web");
    for file in ["web-service.yaml", "web-route.yaml"] {
        lab.remove(file);
    }
    let said = lab.expect(0, &["apply"]);
    assert!(said.contains("`renet apply --prune` retires it"), "{said}");
    assert_eq!(lab.running(), before);

    lab.expect(1, &["diff", "--prune"]);
    lab.expect(0, &["apply", "--prune"]);
    let mut expected = before;
    expected.remove("web-web-1").unwrap();
    assert_eq!(lab.running(), expected);
    answer("web.localhost", "404");
    assert_eq!((page("api"), page("page")), ("api".into(), "page".into()));
    let kept = fs::read(lab.inside(&shop, "web/data/orders")).unwrap();
    assert_eq!(kept, data);
    assert!(!lab.inside(&shop, "web/docker-compose.yml").exists());
    // L23
    lab.says(0, &["apply", "--prune"], "In sync");
    lab.expect(0, &["diff", "--prune"]);

    repositories_come_and_go(&lab);
    lab.uninstall();
}

/// On a machine that is there: Retain, Delete, restore, and back.
fn repositories_come_and_go(lab: &Lab) {
    let wiki = lab.guid("wiki");
    let data = lab.put(&wiki, "page/data/notes", 2);
    let read = |lab: &Lab| fs::read(lab.inside(&wiki, "page/data/notes")).unwrap();
    let hide = |lab: &Lab| {
        for file in ["wiki.yaml", "page-service.yaml", "page-route.yaml"] {
            lab.remove(file);
        }
    };
    let show = |lab: &Lab, more: &str| {
        lab.repository("wiki", more);
        lab.service("wiki", "page");
        lab.route("wiki", "page");
    };

    // Retain, the default: closed, and left where it is.
    hide(lab);
    lab.expect(0, &["apply", "--prune"]);
    let row = lab.listed("wiki");
    assert_eq!(
        (&row["state"], &row["owner"]),
        (&"offline".into(), &serde_json::Value::Null)
    );
    assert!(lab.image(&wiki).exists());
    answer("page.localhost", "404");
    lab.nothing_leaked(1);
    show(lab, "");
    lab.expect(0, &["apply"]);
    assert_eq!((lab.guid("wiki"), read(lab)), (wiki.clone(), data.clone()));
    assert_eq!(page("page"), "page");

    // L14: Delete asks for the name, and is a trash first.
    show(lab, "  deletionPolicy: Delete\n");
    lab.expect(0, &["apply"]);
    hide(lab);
    let before = lab.fingerprint();
    let said = lab.expect(3, &["apply", "--prune"]);
    assert!(said.contains("--confirm wiki"), "{said}");
    lab.expect(3, &["apply", "--prune", "--yes"]);
    lab.expect(3, &["apply", "--prune", "--confirm", "shop"]);
    assert_eq!(lab.fingerprint(), before);
    lab.expect(0, &["apply", "--prune", "--confirm", "wiki"]);
    assert_eq!(lab.state("wiki"), "deleted");
    assert!(!lab.image(&wiki).exists());
    lab.says(0, &["apply", "--prune"], "In sync");
    lab.nothing_leaked(1);
    lab.expect(0, &["repository", "restore", "wiki"]);
    assert_eq!(lab.state("wiki"), "offline");
    show(lab, "");
    lab.expect(0, &["apply"]);
    assert_eq!((lab.guid("wiki"), read(lab)), (wiki, data));
    assert_eq!(page("page"), "page");
}

#[test]
fn what_a_command_deletes_stays_deleted_until_it_is_asked_for_again() {
    let Some(lab) = Lab::shop("gone") else { return };
    lab.expect(0, &["apply"]);
    let wiki = lab.guid("wiki");
    lab.put(&wiki, "page/data/notes", 3);
    let network = lab.network_of("wiki");
    lab.expect(0, &["repository", "delete", "wiki"]);
    lab.expect(0, &["repository", "delete", "wiki"]);
    let said = lab.expect(3, &["apply"]);
    assert!(said.contains("Deleted"), "{said}");
    assert_eq!(lab.state("wiki"), "deleted");
    assert_eq!(page("api"), "api");
    lab.expect(1, &["diff"]);
    lab.expect(0, &["resume", "repository/wiki"]);
    lab.expect(0, &["apply"]);
    let new = lab.guid("wiki");
    assert_ne!(new, wiki);
    assert_ne!(lab.network_of("wiki"), network);
    assert_eq!(page("page"), "page");
    assert!(!lab.inside(&new, "page/data/notes").exists());
    // The old one is still there: not under a name that another has now.
    lab.says(3, &["repository", "restore", &wiki], "name of another");

    // Destroyed at once: nothing is left of it anywhere.
    let network = lab.network_of("wiki");
    for file in ["wiki.yaml", "page-service.yaml", "page-route.yaml"] {
        lab.remove(file);
    }
    lab.expect(0, &["repository", "delete", "wiki", "--now"]);
    lab.expect(0, &["apply", "--prune"]);
    nothing_of(&lab, &new, &network);
    lab.nothing_leaked(1);
    lab.uninstall();
}

#[track_caller]
fn nothing_of(lab: &Lab, guid: &str, network: &str) {
    let mut left = Vec::new();
    for path in [
        format!("mnt/rediacc/repositories/{guid}"),
        format!("mnt/rediacc/repositories/.new-{guid}"),
        format!("mnt/rediacc/repositories/.trash/{guid}"),
        format!("mnt/rediacc/mounts/{guid}"),
        format!("mnt/rediacc/interim/{guid}"),
        format!("mnt/rediacc/.interim/state/{guid}"),
        format!("var/lib/rediacc/docker-{network}"),
        format!("run/rediacc/docker-{network}"),
        format!("run/rediacc/docker-{network}.sock"),
    ] {
        left.extend(lab.root.join(&path).symlink_metadata().map(|_| path));
    }
    left.extend(lab.loops().into_iter().filter(|file| file.contains(guid)));
    left.extend(lab.mounts().into_iter().filter(|at| at.contains(guid)));
    left.extend(processes_with(&format!("docker-{network}")));
    let resolved = fs::read_dir(lab.root.join("run/rediacc/resolve")).unwrap();
    let names = resolved
        .flatten()
        .map(|entry| entry.path().display().to_string());
    left.extend(names.filter(|name| name.contains(guid)));
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn l1_l2_l15_a_folder_that_was_lost_stops_and_removes_nothing() {
    let Some(lab) = Lab::shop("folder") else {
        return;
    };
    // Two more that only the manifests' number needs.
    lab.expect(0, &["apply"]);
    let before = lab.fingerprint();
    let desired = lab.desired();
    let aside = lab.root.join("aside");
    let keep = |what: &str, code: i32, word: &str| {
        for args in [&["apply", "--prune"][..], &["apply"]] {
            let said = match args.len() {
                2 => lab.expect(code, args),
                _ => super::lab::said(&lab.renet(args)),
            };
            assert!(args.len() == 1 || said.contains(word), "{what}: {said}");
            assert_eq!(lab.fingerprint(), before, "{what}");
        }
    };
    let back = || {
        fs::remove_dir_all(&desired).unwrap();
        fs::rename(&aside, &desired).unwrap();
        lab.expect(0, &["diff", "--prune"]);
    };

    // Emptied.
    fs::rename(&desired, &aside).unwrap();
    fs::create_dir(&desired).unwrap();
    keep("an empty folder", 3, "--confirm");
    fs::remove_dir(&desired).unwrap();
    // Gone.
    keep("no folder", 2, "");
    fs::create_dir(&desired).unwrap();
    back();

    // Hidden behind another mount.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&desired)
        .status();
    assert!(mounted.unwrap().success());
    keep("a mount over it", 3, "--confirm");
    assert!(
        Command::new("umount")
            .arg(&desired)
            .status()
            .unwrap()
            .success()
    );
    lab.expect(0, &["diff", "--prune"]);

    // All but one file gone.
    super::lab::copy(&desired, &aside);
    for entry in fs::read_dir(&desired).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".yaml") && name != "machine.yaml" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    keep("one file left", 3, "--confirm");
    back();

    // L2: other names, other folders, the same objects.
    super::lab::copy(&desired, &aside);
    for entry in fs::read_dir(&desired).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(".yaml") {
            fs::rename(entry.path(), desired.join(format!("x-{stem}.yml"))).unwrap();
        }
    }
    lab.says(0, &["apply", "--prune"], "In sync");
    let deeper = desired.join("all/of/it");
    let names: Vec<_> = fs::read_dir(&desired).unwrap().flatten().collect();
    fs::create_dir_all(&deeper).unwrap();
    for entry in names {
        fs::rename(entry.path(), deeper.join(entry.file_name())).unwrap();
    }
    lab.says(0, &["apply", "--prune"], "In sync");
    assert_eq!(lab.fingerprint(), before);
    back();

    // Really: by the plan's own digest, which the message names.
    for entry in fs::read_dir(&desired).unwrap().flatten() {
        if entry.path().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let said = lab.expect(3, &["apply", "--prune"]);
    let (_, rest) = said.split_once("--confirm ").unwrap();
    let digest: String = rest
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    lab.expect(3, &["apply", "--prune", "--confirm", "0123456789ab"]);
    assert_eq!(lab.fingerprint(), before);
    lab.expect(0, &["apply", "--prune", "--confirm", &digest]);
    assert_eq!(lab.running().len(), 0);
    for name in ["shop", "wiki"] {
        assert_eq!(lab.state(name), "offline");
        assert!(lab.image(&lab.guid(name)).exists());
    }
    lab.uninstall();
}

#[test]
fn l18_l13_what_was_told_to_stop_or_is_protected_stays_so() {
    let Some(lab) = Lab::shop("told") else { return };
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/orders", 4);
    let quiet = |lab: &Lab, state: &str| {
        let said = lab.expect(0, &["apply"]);
        assert!(said.contains("Suspended"), "{said}");
        lab.says(0, &["diff"], "Suspended");
        assert_eq!(lab.state("shop"), state);
        assert_eq!(page("page"), "page");
        answer("web.localhost", "404");
    };
    lab.expect(0, &["repository", "down", "shop"]);
    quiet(&lab, "stopped");
    lab.expect(0, &["repository", "up", "shop"]);
    assert_eq!((page("web"), page("api")), ("web".into(), "api".into()));
    lab.expect(0, &["diff"]);
    lab.expect(0, &["repository", "unmount", "shop"]);
    quiet(&lab, "offline");
    lab.nothing_leaked(1);
    lab.expect(0, &["repository", "up", "shop"]);
    assert_eq!(page("web"), "web");
    lab.expect(0, &["diff"]);

    // Suspended it runs on, and nothing of it changes.
    lab.expect(0, &["suspend", "repository/shop", "--reason", "audit"]);
    lab.serve("shop", "web", "changed");
    let before = lab.running();
    lab.says(0, &["apply"], "audit");
    assert_eq!(lab.running(), before);
    assert_eq!(page("web"), "web");
    lab.expect(0, &["resume", "repository/shop"]);
    lab.expect(0, &["apply"]);
    assert_eq!(page("web"), "changed");
    // One project alone.
    lab.expect(0, &["suspend", "service/shop/web"]);
    lab.serve("shop", "web", "again");
    lab.serve("shop", "api", "newer");
    lab.expect(0, &["apply"]);
    assert_eq!(
        (page("web"), page("api")),
        ("changed".into(), "newer".into())
    );
    lab.expect(0, &["resume", "service/shop/web"]);
    lab.expect(0, &["apply"]);
    assert_eq!(page("web"), "again");
    // A route alone: it leads on to where it led.
    lab.expect(0, &["suspend", "route/web", "--reason", "held"]);
    let manifest = lab.desired().join("web-route.yaml");
    let route = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, route.replace("web.localhost", "www.localhost")).unwrap();
    lab.says(0, &["apply"], "held");
    assert_eq!(page("web"), "again");
    fs::write(&manifest, route).unwrap();
    lab.expect(0, &["resume", "route/web"]);
    lab.says(3, &["suspend", "route/wbe"], "no route wbe");
    // All of it.
    lab.says(3, &["suspend", "machine/other"], "is called");
    lab.expect(0, &["suspend", "machine/demo", "--reason", "moving"]);
    lab.serve("shop", "web", "later");
    let before = lab.running();
    lab.says(0, &["apply"], "moving");
    lab.says(0, &["diff"], "moving");
    assert_eq!((lab.running(), page("web")), (before, "again".into()));
    lab.expect(0, &["resume", "machine/demo"]);
    lab.expect(0, &["apply"]);
    assert_eq!(page("web"), "later");

    // L13: protection lives with the object.
    lab.repository("shop", "  protected: true\n  deletionPolicy: Delete\n");
    lab.expect(0, &["apply"]);
    let before = lab.fingerprint();
    lab.says(3, &["repository", "delete", "shop"], "Protected");
    for file in [
        "shop.yaml",
        "web-service.yaml",
        "web-route.yaml",
        "api-service.yaml",
        "api-route.yaml",
    ] {
        let from = lab.desired().join(file);
        fs::rename(&from, lab.root.join(file)).unwrap();
    }
    let said = lab.expect(3, &["apply", "--prune"]);
    let confirm = said.split_once("--confirm ").map(|(_, rest)| rest);
    let digest: String = confirm
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    let said = lab.expect(
        3,
        &[
            "apply",
            "--prune",
            "--confirm",
            &digest,
            "--confirm",
            "shop",
        ],
    );
    assert!(said.contains("Protected"), "{said}");
    let routes_apart = |seen: Vec<String>| -> Vec<String> {
        let of_table = |line: &String| line.contains("routers") || line.starts_with("{}");
        seen.into_iter().filter(|line| !of_table(line)).collect()
    };
    assert_eq!(routes_apart(lab.fingerprint()), routes_apart(before));
    for file in [
        "shop.yaml",
        "web-service.yaml",
        "web-route.yaml",
        "api-service.yaml",
        "api-route.yaml",
    ] {
        fs::rename(lab.root.join(file), lab.desired().join(file)).unwrap();
    }
    lab.repository("shop", "");
    lab.expect(0, &["apply"]);

    renamed(&lab, &shop, &data);
    lab.uninstall();
}

/// On a machine that is there: a new name, said and unsaid.
fn renamed(lab: &Lab, shop: &str, data: &[u8]) {
    lab.remove("shop.yaml");
    for service in ["web", "api"] {
        lab.service("store", service);
        lab.route("store", service);
    }
    lab.repository("store", "");
    let before = lab.fingerprint();
    let said = lab.expect(3, &["apply", "--prune"]);
    assert!(
        said.contains("PossibleRename") && said.contains("moved-from"),
        "{said}"
    );
    assert_eq!(lab.fingerprint(), before);
    lab.renamed("store", "shop");
    lab.expect(0, &["apply", "--prune"]);
    assert_eq!(lab.guid("store"), shop);
    let kept = fs::read(lab.inside(shop, "web/data/orders")).unwrap();
    assert_eq!(kept, data);
    assert_eq!(page("web"), "web");
    lab.expect(0, &["diff", "--prune"]);
    // The annotation may stay, and go.
    lab.repository("store", "");
    lab.expect(0, &["diff", "--prune"]);
    assert!(Path::new(&lab.image(shop)).exists());
}
