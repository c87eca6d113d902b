//! HTTPS with a real Traefik: certificates of one's own, and ordered ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::authority::{Authority, ask, shown, talks};
use super::lab::Lab;
use super::proxy::Engine;
use super::router::until;

const HTTP: u16 = 18_088;
const HTTPS: u16 = 18_443;

fn machine(lab: &Lab, more: &str) {
    let text = format!(
        "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: demo }}\nspec:\n  datastore: {{ size: 1G }}\n  baseDomain: example.test\n  proxy:\n    http: {HTTP}\n    https: {HTTPS}\n    address: 127.0.0.1\n    tcp: []\n    udp: []\n{more}"
    );
    lab.write("machine.yaml", &text);
}

/// `shop` with two services whose labels ask for routes.
fn shop(lab: &Lab, services: &[&str]) {
    lab.repository("shop", "");
    for service in services {
        lab.service("shop", service);
        let path = format!("{service}/docker-compose.yml");
        let text = fs::read_to_string(lab.desired().join(&path)).unwrap();
        let labels = "    labels:\n      rediacc.service_port: \"8080\"\n";
        lab.write(&path, &format!("{text}{labels}"));
    }
}

fn route(lab: &Lab, name: &str, service: &str, host: &str, more: &str) {
    let text = format!(
        "apiVersion: renet/v1\nkind: Route\nmetadata: {{ name: {name} }}\nspec: {{ service: shop/{service}, port: 8080, host: {host}{more} }}\n"
    );
    lab.write(&format!("{name}-route.yaml"), &text);
}

/// Puts a certificate and its key beside the manifests.
fn put(lab: &Lab, name: &str, (certificate, key): &(String, String)) {
    for (ending, text, mode) in [("crt", certificate, 0o644), ("key", key, 0o600)] {
        let path = lab.desired().join(format!("tls/{name}.{ending}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&new, &path).unwrap();
    }
}

/// Every file beneath a folder that others can read and that holds the text.
fn readable_with(folder: &Path, text: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() && !path.ends_with("mnt") {
            readable_with(&path, text, found);
        } else if meta.is_file()
            && meta.mode() & 0o077 != 0
            && let Ok(bytes) = fs::read(&path)
            && String::from_utf8_lossy(&bytes).contains(text)
        {
            found.push(path.display().to_string());
        }
    }
}

/// The child of the supervisor, to see that it is the same.
fn traefik(lab: &Lab) -> String {
    fs::read_to_string(lab.root.join("run/rediacc/proxy/child.pid")).unwrap()
}

/// A row of `renet get`.
fn got(lab: &Lab, what: &str) -> serde_json::Value {
    let output = lab.renet(&["get", what, "-o", "json"]);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    all["objects"][0].clone()
}

#[test]
fn l50_own_certificates_serve_are_renewed_without_a_restart_and_fail_one_by_one() {
    let Some(lab) = Lab::empty("https") else {
        return;
    };
    let authority = Authority::new();
    let root = authority.root();
    shop(&lab, &["web"]);
    route(&lab, "page", "web", "page.example.test", "");
    route(&lab, "plain", "web", "plain.example.test", ", tls: false");
    route(&lab, "other", "web", "other.test", "");
    route(&lab, "none", "web", "none.test", ", tls: true");
    let path = "web/docker-compose.yml";
    let text = fs::read_to_string(lab.desired().join(path)).unwrap();
    lab.write(path, &format!("{text}      rediacc.udp_ports: \"99\"\n"));
    let names = ["*.example.test", "*.shop.demo.example.test"];
    put(&lab, "own", &authority.issue(&names));
    put(&lab, "other", &authority.issue(&["other.test"]));
    let certificate = |name: &str| {
        format!("      {name}: {{ certificate: tls/{name}.crt, key: tls/{name}.key }}\n")
    };
    let both = format!(
        "    certificates:\n{}{}",
        certificate("own"),
        certificate("other")
    );
    machine(&lab, &both);
    lab.expect(0, &["apply"]);
    let https = |host: &str| ask("https", host, HTTPS, &root, "/").0;
    let http = |host: &str| ask("http", host, HTTP, &root, "/");
    let web = "web.shop.demo.example.test";
    for host in ["page.example.test", web, "other.test"] {
        until(host, || https(host) == 200);
        let (code, _, to) = http(host);
        assert_eq!((code, to), (301, format!("https://{host}:{HTTPS}/")));
    }
    assert_eq!(ask("https", web, HTTPS, &root, "/").1, "web");
    // One that is told to stay on HTTP does.
    assert_eq!(http("plain.example.test").0, 200);
    assert_eq!(https("plain.example.test"), 404);
    lab.says(0, &["proxy", "status"], &HTTPS.to_string());
    lab.says(
        0,
        &["get", "route/page"],
        &format!("https://page.example.test:{HTTPS}"),
    );
    lab.says(
        0,
        &["get", "route/plain"],
        &format!("http://plain.example.test:{HTTP}"),
    );
    lab.expect(0, &["diff"]);

    // What is refused stands at the object that asks.
    for (what, why) in [
        ("route/none", "no certificate for `none.test`"),
        ("service/shop/web", "no free entry point udp-99"),
    ] {
        let row = got(&lab, what);
        let said = row["refused"][0].as_str().unwrap_or_default();
        assert!(said.contains(why), "{what}: {row}");
        assert_eq!(
            (&row["sync"], &row["health"]),
            (&"Synced".into(), &"Degraded".into())
        );
        lab.says(0, &["get", what], &format!("refused: {said}"));
        lab.says(0, &["status"], said);
    }
    assert_eq!(got(&lab, "route/page")["refused"], serde_json::Value::Null);

    // What a scanner looks for.
    let page = ["-servername", "page.example.test"];
    let with = |more: &[&str]| talks(HTTPS, &[&page[..], more].concat());
    assert!(with(&["-tls1_2"]) && with(&["-tls1_3"]));
    for weak in [
        &["-tls1"][..],
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE-ECDSA-AES128-SHA:AES128-SHA:AES128-GCM-SHA256",
        ],
    ] {
        assert!(!with(weak), "{weak:?}");
    }
    assert!(!talks(HTTPS, &["-noservername"]));
    assert!(!talks(HTTPS, &["-servername", "stranger.test"]));
    // L53 holds there as well.
    assert_eq!(ask("https", web, HTTPS, &root, "/x/..%2f").0, 400);
    assert_eq!(ask("https", web, HTTPS, &root, "/x/..;/").0, 400);

    // Renewed under load, by the very same process.
    let (pid, before) = (traefik(&lab), shown(HTTPS, web).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (ends, trusted) = (stop.clone(), root.clone());
    let load = std::thread::spawn(move || {
        let mut counts = BTreeMap::<u16, usize>::new();
        while !ends.load(Ordering::SeqCst) {
            let code = ask("https", "page.example.test", HTTPS, &trusted, "/").0;
            *counts.entry(code).or_default() += 1;
        }
        counts
    });
    let second = authority.issue(&names);
    put(&lab, "own", &second);
    let took = until("the new one", || shown(HTTPS, web).unwrap() != before);
    println!(
        "a renewed certificate is served after {} ms",
        took.as_millis()
    );

    // Broken ones: the one before goes on, and each is named by itself.
    let good = shown(HTTPS, web).unwrap();
    let third = authority.issue(&names);
    let expired = authority.issue_until(&names, "20200101000000Z");
    let strange = (third.0.clone(), authority.issue(&names).1);
    for (pair, word) in [
        (
            &(third.0.clone(), "no key".to_owned()),
            "holds no private key in PEM",
        ),
        (
            &("no certificate".to_owned(), third.1.clone()),
            "no certificate in PEM",
        ),
        (&(third.1.clone(), third.1.clone()), "no certificate in PEM"),
        (&strange, "is not the key of the first certificate"),
        (&expired, "expired at 2020-01-01"),
        (&authority.issue(&[]), "names no host"),
    ] {
        put(&lab, "own", pair);
        until(word, || {
            let text = lab.expect(0, &["proxy", "routes", "-o", "json"]);
            text.contains(word) && text.contains("the one before goes on")
        });
        assert_eq!(shown(HTTPS, web).unwrap(), good, "{word}");
        assert_eq!(https("other.test"), 200, "{word}");
    }
    assert_eq!(got(&lab, "machine")["health"], "Degraded");
    lab.says(0, &["get", "machine"], "refused: certificate own:");
    put(&lab, "own", &third);
    let key = lab.desired().join("tls/own.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    until("the reason", || {
        lab.expect(0, &["proxy", "routes", "-o", "json"])
            .contains("others can read it")
    });
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    until("the third", || shown(HTTPS, web).unwrap() != good);
    assert_eq!(got(&lab, "machine")["refused"], serde_json::Value::Null);
    stop.store(true, Ordering::SeqCst);
    let counts = load.join().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&200], "{counts:?}");
    assert_eq!(traefik(&lab), pid);
    println!("requests while certificates came and went: {counts:?}");

    // One that never could serve takes nothing along, and its host is answered by HTTP.
    fs::write(lab.desired().join("tls/other.crt"), "broken").unwrap();
    let copies = lab.root.join("opt/rediacc/proxy/certificates");
    lab.expect(0, &["proxy", "down"]);
    for entry in fs::read_dir(&copies).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("other-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    lab.expect(0, &["proxy", "up"]);
    until("the others", || https(web) == 200);
    until("its host", || http("other.test").0 == 200);
    assert_eq!(https("other.test"), 0);

    // The key is root's alone, wherever it is.
    let line = third.1.lines().nth(1).unwrap();
    let mut found = Vec::new();
    readable_with(&lab.root, line, &mut found);
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(fs::metadata(&copies).unwrap().mode() & 0o777, 0o700);
    let kept = fs::read_dir(&copies).unwrap().count();
    assert!(kept <= 4, "{kept} copies");

    // Without the redirect both answer; without certificates HTTP alone.
    machine(&lab, &format!("{both}    redirect: false\n"));
    lab.expect(0, &["apply"]);
    until("HTTP", || http(web).0 == 200);
    assert_eq!(https(web), 200);
    lab.uninstall();
}

/// An ACME server, and the name server that it asks.
struct Pebble {
    children: Vec<std::process::Child>,
    folder: tempfile::TempDir,
}

const DIRECTORY: u16 = 18_500;
const MANAGEMENT: u16 = 18_501;
const NAMES: u16 = 18_502;
const RECORDS: u16 = 18_503;

impl Pebble {
    fn start(authority: &Authority) -> Option<Self> {
        if !Path::new("/usr/bin/pebble").exists() {
            super::lab::skip("pebble", "l51");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.issue(&["localhost"]);
        fs::write(at("own.crt"), certificate).unwrap();
        fs::write(at("own.key"), key).unwrap();
        let settings = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{DIRECTORY}"),
            "managementListenAddress": format!("127.0.0.1:{MANAGEMENT}"),
            "certificate": at("own.crt"),
            "privateKey": at("own.key"),
            "httpPort": HTTP,
            "tlsPort": HTTPS,
        }});
        fs::write(at("pebble.json"), settings.to_string()).unwrap();
        let spawn = |program: &str, args: &[&str], log: &str| {
            let log = fs::File::create(at(log)).unwrap();
            Command::new(program)
                .args(args)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "0")
                .stdin(std::process::Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let names = format!("127.0.0.1:{NAMES}");
        let settings = at("pebble.json").display().to_string();
        let records = format!("127.0.0.1:{RECORDS}");
        let server = [
            "-defaultIPv6",
            "",
            "-dns01",
            &names,
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-management",
            &records,
        ];
        let children = vec![
            spawn("/usr/bin/pebble-challtestsrv", &server, "names.log"),
            spawn(
                "/usr/bin/pebble",
                &["-config", &settings, "-dnsserver", &names, "-strict"],
                "pebble.log",
            ),
        ];
        let pebble = Self { children, folder };
        until("pebble", || {
            std::net::TcpStream::connect(("127.0.0.1", MANAGEMENT)).is_ok()
        });
        Some(pebble)
    }

    /// The root of what it issues.
    fn root(&self, authority: &Authority) -> std::path::PathBuf {
        let path = self.folder.path().join("root.pem");
        let url = format!("https://localhost:{MANAGEMENT}/roots/0");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--cacert"]).arg(authority.root());
        fs::write(&path, curl.arg(url).output().unwrap().stdout).unwrap();
        path
    }

    /// How many certificates were ordered so far.
    fn orders(&self) -> usize {
        let log = fs::read_to_string(self.folder.path().join("pebble.log")).unwrap();
        log.matches("POST /order-plz").count()
    }

    /// A provider of names that Traefik drives: a program that sets the record.
    fn provider(&self) -> std::path::PathBuf {
        let program = self.folder.path().join("record");
        let script = format!(
            "#!/bin/sh\ncase $1 in present) verb=set-txt;; *) verb=clear-txt;; esac\nexec curl --silent --fail --data \"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\" http://127.0.0.1:{RECORDS}/$verb\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let token = self.folder.path().join("token");
        fs::write(&token, program.display().to_string()).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        token
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn l51_certificates_are_ordered_once_and_renewed_and_no_restart_orders_any() {
    let Some(lab) = Lab::empty("acme") else {
        return;
    };
    let authority = Authority::new();
    let Some(pebble) = Pebble::start(&authority) else {
        return;
    };
    let token = pebble.provider();
    shop(&lab, &["web", "api"]);
    route(&lab, "page", "web", "page.demo.example.test", "");
    route(&lab, "other", "web", "www.other.test", ", tls: true");
    let acme = format!(
        "    acme:\n      email: ops@example.test\n      caServer: https://localhost:{DIRECTORY}/dir\n      caCertificate: {}\n      dnsProvider:\n        name: exec\n        tokenFiles: {{ EXEC_PATH: {} }}\n        resolvers: [\"127.0.0.1:{NAMES}\"]\n",
        authority.root().display(),
        token.display(),
    );
    machine(&lab, &acme);
    let root = pebble.root(&authority);
    // Without its token there is no HTTPS, and HTTP goes on.
    let away = token.with_extension("away");
    fs::rename(&token, &away).unwrap();
    lab.expect(0, &["apply"]);
    let web = "web.shop.demo.example.test";
    until("HTTP", || ask("http", web, HTTP, &root, "/").0 == 200);
    lab.says(
        0,
        &["get", "machine"],
        "no certificate can be ordered: EXEC_PATH",
    );
    fs::rename(&away, &token).unwrap();
    lab.expect(0, &["proxy", "down"]);
    lab.expect(0, &["proxy", "up"]);
    let https = |host: &str| ask("https", host, HTTPS, &root, "/").0;
    let all = [
        ("web.shop.demo.example.test", "DNS:*.shop.demo.example.test"),
        ("api.shop.demo.example.test", "DNS:*.shop.demo.example.test"),
        ("page.demo.example.test", "DNS:*.demo.example.test"),
        // Not beneath the base domain: proved by a request.
        ("www.other.test", "DNS:www.other.test"),
    ];
    let long = std::time::Instant::now();
    for (host, names) in all {
        while https(host) != 200 {
            assert!(
                long.elapsed().as_secs() < 90,
                "{host}:\n{}",
                lab.expect(0, &["proxy", "logs"])
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let shown = shown(HTTPS, host).unwrap();
        assert!(shown.contains(names), "{host}: {shown}");
        let (code, _, to) = ask("http", host, HTTP, &root, "/");
        assert_eq!((code, to), (301, format!("https://{host}:{HTTPS}/")));
    }
    println!(
        "three certificates for four hosts after {} ms",
        long.elapsed().as_millis()
    );
    assert_eq!(pebble.orders(), 3);
    let store = lab.root.join("opt/rediacc/proxy/letsencrypt/acme.json");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let config = lab.root.join("opt/rediacc/proxy/config.env");
    assert_eq!((mode(&store), mode(&config)), (0o600, 0o600));
    let text = fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("CERTBOT_EMAIL=\"ops@example.test\""),
        "{text}"
    );
    assert!(
        text.contains(&format!("EXEC_PATH_FILE=\"{}\"", token.display())),
        "{text}"
    );

    // Others can read it: the proxy would take it for lost, and order everything anew.
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..20 {
        lab.expect(0, &["proxy", "down"]);
        lab.expect(0, &["proxy", "up"]);
    }
    for (host, _) in all {
        until(host, || https(host) == 200);
    }
    // Killed as well.
    let pid: i32 = traefik(&lab).trim().parse().unwrap();
    super::lab::kill(pid);
    until("another", || https("www.other.test") == 200);
    assert_eq!(pebble.orders(), 3);
    assert_eq!(mode(&store), 0o600);

    // One that ends soon is renewed; the others are not.
    lab.expect(0, &["proxy", "down"]);
    let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&store).unwrap()).unwrap();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48);
    let until_then = soon.strftime("%Y%m%d%H%M%SZ").to_string();
    let (certificate, key) = authority.issue_until(&["*.shop.demo.example.test"], &until_then);
    let list = kept["letsencrypt"]["Certificates"].as_array_mut().unwrap();
    let one = list
        .iter_mut()
        .find(|one| one["domain"]["main"] == "*.shop.demo.example.test")
        .unwrap();
    use base64::Engine as _;
    let encode = |text: &String| base64::engine::general_purpose::STANDARD.encode(text);
    one["certificate"] = encode(&certificate).into();
    one["key"] = encode(&key).into();
    fs::write(&store, kept.to_string()).unwrap();
    lab.expect(0, &["proxy", "up"]);
    let began = std::time::Instant::now();
    while https("web.shop.demo.example.test") != 200 {
        assert!(
            began.elapsed().as_secs() < 60,
            "it is not renewed:\n{}",
            lab.expect(0, &["proxy", "logs"])
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(pebble.orders(), 4);
    println!(
        "one that ends within 30 days is renewed {} ms after a start",
        began.elapsed().as_millis()
    );
    lab.uninstall();
}

/// The same where Traefik is a container: it reads what is mounted, asks the authority by
/// the machine's network, and keeps what it ordered.
#[test]
fn l51_a_container_orders_once_and_serves_certificates_of_ones_own() {
    let Some(lab) = Lab::empty("acmebox") else {
        return;
    };
    let authority = Authority::new();
    let Some(pebble) = Pebble::start(&authority) else {
        return;
    };
    let engine = Engine::start(&lab);
    shop(&lab, &["web"]);
    const OWN: &str = "own.other.test";
    const ORDERED: &str = "www.other.test";
    route(&lab, "own", "web", OWN, "");
    route(&lab, "ordered", "web", ORDERED, ", tls: true");
    let first = authority.issue(&[OWN]);
    put(&lab, "own", &first);
    let more = format!(
        "    runAs: container\n    certificates:\n      own: {{ certificate: tls/own.crt, key: tls/own.key }}\n    acme:\n      email: ops@example.test\n      caServer: https://localhost:{DIRECTORY}/dir\n      caCertificate: {}\n",
        authority.root().display(),
    );
    machine(&lab, &more);
    lab.expect(0, &["apply"]);
    let root = pebble.root(&authority);
    let ordered = || ask("https", ORDERED, HTTPS, &root, "/").0 == 200;
    let began = std::time::Instant::now();
    while !ordered() {
        assert!(
            began.elapsed().as_secs() < 60,
            "{}",
            lab.expect(0, &["proxy", "logs"])
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let own = || ask("https", OWN, HTTPS, &authority.root(), "/").0 == 200;
    until("one's own", own);
    until("the service's", || {
        ask("https", "web.shop.demo.example.test", HTTPS, &root, "/").0 == 200
    });
    assert_eq!(pebble.orders(), 2);
    // A new one is served by the same container.
    let (id, before) = (engine.id(), shown(HTTPS, OWN).unwrap());
    put(&lab, "own", &authority.issue(&[OWN]));
    until("the new one", || shown(HTTPS, OWN).unwrap() != before);
    assert!(id.is_some());
    assert_eq!(engine.id(), id);
    for _ in 0..2 {
        lab.expect(0, &["proxy", "down"]);
        lab.expect(0, &["proxy", "up"]);
    }
    until("what was ordered", ordered);
    until("one's own", own);
    assert_eq!(pebble.orders(), 2);
    let store = lab.root.join("opt/rediacc/proxy/letsencrypt/acme.json");
    assert_eq!(fs::metadata(store).unwrap().mode() & 0o777, 0o600);
    // Its DNS provider would be a program that it has not.
    let token = pebble.provider();
    let exec = format!(
        "{more}      dnsProvider: {{ name: exec, tokenFiles: {{ EXEC_PATH: {} }} }}\n",
        token.display()
    );
    machine(&lab, &exec);
    lab.says(3, &["apply"], "runs a program of this machine");
    machine(&lab, &exec.replace("runAs: container", "runAs: auto"));
    lab.expect(0, &["apply"]);
    assert_eq!(engine.id(), None);
    until("one's own", own);
    drop(engine);
    lab.uninstall();
}
