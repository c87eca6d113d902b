//! What a Service manifest says about its project, on a real machine: managed
//! files, environment, dependencies, and how long it may take to get well.

use std::fs;

use super::lab::{Lab, Running, body, page};

fn ids(running: &Running) -> Vec<String> {
    let ids = running.iter();
    ids.map(|(name, what)| format!("{name} {}", what.split(' ').next().unwrap_or_default()))
        .collect()
}

#[test]
fn the_shop_serves_two_routes_and_a_changed_file_recreates_just_its_service() {
    let Some(lab) = Lab::example("shop-ex", "shop", "image") else {
        return;
    };
    let applied = lab.expect(0, &["apply"]);
    assert_eq!(page("shop"), "Corner shop has 12 apples.", "{applied}");
    assert_eq!(page("blog"), "Apples are in.");
    lab.says(0, &["apply"], "In sync: 2 repositories");

    let edit = |path: &str, from: &str, to: &str| {
        let path = lab.desired().join(path);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let recreates = |only: &str| {
        let before = lab.running();
        lab.expect(1, &["diff"]);
        lab.expect(0, &["apply"]);
        lab.expect(0, &["diff"]);
        let (before, after) = (ids(&before), ids(&lab.running()));
        assert_eq!(before.len(), after.len(), "{before:?} {after:?}");
        let kept = |id: &&String| !after.contains(id);
        let changed: Vec<&String> = before.iter().filter(kept).collect();
        let named = |id: &&String| id.starts_with(only);
        assert!(changed.iter().all(named), "{changed:?}");
        changed.len()
    };
    edit("web/httpd.conf", "index.html", "closed.html");
    assert_eq!(recreates("web-front-1"), 1);
    assert_eq!(page("shop"), "Corner shop is closed.");
    edit("blog.yaml", "Apples are in.", "Pears are in.");
    assert_eq!(recreates("blog-posts-1"), 1);
    assert_eq!(page("blog"), "Pears are in.");
    // A limit is no part of what runs; what waits for what is only noted.
    edit("shop.yaml", "healthy: 30s", "healthy: 1m30s");
    lab.says(0, &["apply"], "In sync");
    edit("shop.yaml", "dependsOn: [store]", "dependsOn: []");
    assert_eq!(recreates("nothing"), 0);
    // A variable is in every container of its project, `$` and all.
    edit("shop.yaml", "Corner shop", "\"$9 $shop 'x'\"");
    assert_eq!(recreates("web-"), 2);
    assert_eq!(page("shop"), "$9 $shop 'x' is closed.");
    lab.uninstall();
}

#[test]
fn l25_a_timeout_names_what_was_waited_for_and_the_last_words() {
    let Some(lab) = Lab::new("slow") else { return };
    let compose = lab.desired().join("web/docker-compose.yml");
    let text = fs::read_to_string(&compose).unwrap();
    let never = "    healthcheck:\n      test: [CMD, /bin/busybox, sh, -c, \"echo not yet; exit 4\"]\n      interval: 200ms\n      retries: 1000\n";
    let serves = r#"["httpd", "-f", "-v", "-p", "${WEB_IP}:8080", "-h", "/www"]"#;
    let says = r#"[sh, -c, "echo up and listening; exec /bin/busybox httpd -f -p ${WEB_IP}:8080 -h /www"]"#;
    assert!(text.contains(serves), "{text}");
    fs::write(&compose, format!("{text}{never}").replace(serves, says)).unwrap();
    let manifest = lab.desired().join("hello.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    let file = "    file: web/docker-compose.yml\n";
    let with = |more: &str| fs::write(&manifest, text.replace(file, &format!("{file}{more}")));
    with("  wait: { healthy: 2s }\n").unwrap();
    let said = lab.expect(3, &["apply"]);
    for word in [
        "hello/web",
        "service web: waited 2.",
        "of at most 2s for it to be healthy",
        "running, starting",
        "exit 4: not yet",
        "its last lines:\n             up and listening",
    ] {
        assert!(said.contains(word), "`{word}` is not in:\n{said}");
    }
    // A dependent is not started, and says for whom it waits.
    let manifest_of = "apiVersion: renet/v1\nkind: Service\nmetadata: { name: after }\nspec:\n  repository: hello\n  dependsOn: [web]\n  compose: { file: after/docker-compose.yml }\n";
    lab.write("after.yaml", manifest_of);
    lab.write(
        "after/docker-compose.yml",
        "services:\n  after: { image: none }\n",
    );
    lab.says(3, &["apply"], "waits for service hello/web");
    lab.remove("after.yaml");
    // Without a check it is well.
    let ended = fs::read_to_string(&compose).unwrap().replace(never, "");
    fs::write(&compose, ended).unwrap();
    lab.expect(0, &["apply"]);
    assert_eq!(body(), "Hello from renet.\n");
}
