//! The proxy with a real Traefik: which requests it passes on, and both ways to run it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command};

use nix::sys::signal::Signal;

use super::lab::{Lab, said, signal};
use super::router::{get, until};

const HTTP: u16 = 18_088;
const HOST: &str = "split.example.test";

/// A lab whose one service stands behind two routers: `/admin` asks for a password.
fn split(name: &str) -> Option<Lab> {
    let lab = Lab::empty(name)?;
    lab.machine("1G");
    lab.repository("shop", "");
    lab.service("shop", "web");
    let path = "web/docker-compose.yml";
    let text = fs::read_to_string(lab.desired().join(path)).unwrap();
    let text = text.replace(
        "exec busybox",
        "busybox mkdir -p /www/admin; echo inside > /www/admin/index.html; exec busybox",
    );
    let rule = format!("Host(`{HOST}`)");
    let labels = [
        ("enable", "true".to_owned()),
        ("http.services.web.loadbalancer.server.port", "8080".into()),
        ("http.routers.open.rule", rule.clone()),
        (
            "http.routers.admin.rule",
            format!("{rule} && PathPrefix(`/admin`)"),
        ),
        ("http.routers.admin.middlewares", "login".into()),
        ("http.routers.open.middlewares", "braces".into()),
        (
            "http.middlewares.braces.headers.customresponseheaders.X-Braces",
            "{{ env `BASE_DOMAIN` }} {{{ {{ nothing".into(),
        ),
        (
            "http.middlewares.login.basicauth.users",
            "u:{SHA}GpHWL3ymc5liWkNopqtdSjuqYHM=".into(),
        ),
    ];
    let labels: String = labels
        .iter()
        .map(|(label, text)| format!("      traefik.{label}: '{text}'\n"))
        .collect();
    lab.write(path, &format!("{text}    labels:\n{labels}"));
    Some(lab)
}

/// L53. Each probe is answered by the router that asks, or refused: never by the other.
#[test]
fn l53_no_spelling_of_a_path_passes_by_the_router_that_asks_for_a_password() {
    let Some(lab) = split("split") else { return };
    lab.expect(0, &["apply"]);
    let status = |path: &str| get(HTTP, HOST, path).map_or(0, |(code, _)| code);
    until("the route", || status("/") == 200);
    until("the other", || status("/admin/") == 401);
    let header = "Authorization: Basic dTpwdw==";
    let inside = format!("{HOST}\r\n{header}");
    let (code, body) = get(HTTP, &inside, "/admin/").unwrap();
    assert_eq!((code, body.trim()), (200, "inside"));
    // `/x` would be a folder that need not be there.
    let asks = [
        "//admin/",
        "/./admin/",
        "/x/../admin/",
        "/x/%2e%2e/admin/",
        "/x/.%2e/admin/",
        "/%2e/admin/",
        "/%61dmin/",
        "/admin/;x",
        "/admin;x/",
        "http://split.example.test/x/%2e%2e/admin/",
    ];
    let refused = [
        "/x/..%2fadmin/",
        "/x/..%2Fadmin/",
        "/x/%2e%2e%2fadmin/",
        "/..%2f/admin/",
        "/%5cadmin/",
        "/x/..%5cadmin/",
        "/x\\..\\admin/",
        "/x/..\\admin/",
        "/x/..%3b/admin/",
        "/x/..;/admin/",
        "/..;a=b/admin/",
        "/.;/admin/",
        "/x/..%252fadmin/",
        "/%2561dmin/",
        "/%00/admin/",
        "/x%3f/../..%2fadmin/",
        "/x%23/..%2fadmin/",
    ];
    for (paths, wanted) in [(&asks[..], 401), (&refused[..], 400)] {
        for path in paths {
            let (code, body) = get(HTTP, HOST, path).unwrap_or_default();
            assert_eq!(code, wanted, "{path}: {body}");
            let (code, body) = get(HTTP, &inside, path).unwrap_or_default();
            assert!(code != 200 || body.trim() == "inside", "{path}: {body}");
        }
    }
    // A label is no template: it would see the proxy's environment, and a broken one would
    // freeze every route.
    let output = Command::new("curl")
        .args([
            "--silent",
            "--include",
            "--header",
            &format!("Host: {HOST}"),
        ])
        .arg(format!("http://127.0.0.1:{HTTP}/"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("X-Braces: {{ env `BASE_DOMAIN` }} {{{ {{ nothing"),
        "{text}"
    );
    // What is plain goes on working.
    assert_eq!(status("/index.html"), 200);
    assert_eq!(status("/index.html?a=..%2fb;c"), 200);
    lab.uninstall();
}

/// The machine's own Docker of a lab, which ends with it. Its data lies elsewhere: what is
/// mounted beneath the root goes with `renet uninstall`.
pub struct Engine<'a> {
    lab: &'a Lab,
    data: tempfile::TempDir,
    child: Child,
}

impl<'a> Engine<'a> {
    pub fn start(lab: &'a Lab) -> Self {
        let run = lab.root.join("run");
        let socket = run.join("docker.sock").display().to_string();
        let data = tempfile::tempdir().unwrap();
        let path = |below: &str| data.path().join(below).display().to_string();
        fs::create_dir_all(&run).unwrap();
        let words = fs::File::create(data.path().join("log")).unwrap();
        let child = Command::new("/usr/sbin/dockerd")
            .args(["--host", &format!("unix://{socket}")])
            .args(["--data-root", &path("data"), "--pidfile", &path("pid")])
            .args(["--exec-root", &path("x")])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .stdout(words.try_clone().unwrap())
            .stderr(words)
            .spawn()
            .unwrap();
        let engine = Self { lab, data, child };
        until("the machine's own Docker", || {
            engine.docker(&["version"]).is_some()
        });
        engine
    }

    fn docker(&self, args: &[&str]) -> Option<String> {
        let socket = self.lab.root.join("run/docker.sock");
        let output = Command::new("/usr/bin/docker")
            .args(["-H", &format!("unix://{}", socket.display())])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    /// The id of the proxy's container, while it runs.
    pub fn id(&self) -> Option<String> {
        let only = ["--filter", "name=^rediacc-proxy$"];
        let id = self.docker(&[&["ps", "-q", "--no-trunc"], &only[..]].concat());
        id.filter(|id| !id.is_empty())
    }

    fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = i32::try_from(self.child.id()).unwrap();
            let _ = signal(pid, Signal::SIGTERM);
            let _ = self.child.wait();
        }
        let _ = nix::mount::umount(&self.data.path().join("x/netns/default"));
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        if self.docker(&["version"]).is_some() {
            self.docker(&["rm", "-f", "rediacc-proxy"]);
        }
        self.stop();
    }
}

fn machine(lab: &Lab, http: u16, run_as: &str) {
    let text = format!(
        "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: demo }}\nspec:\n  datastore: {{ size: 1G }}\n  proxy: {{ http: {http}, runAs: {run_as} }}\n"
    );
    lab.write("machine.yaml", &text);
}

fn status(lab: &Lab) -> serde_json::Value {
    let output = lab.renet(&["proxy", "status", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn runs_as(lab: &Lab) -> (String, String) {
    let status = status(lab);
    let word = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    (word("proxy"), word("runsAs"))
}

/// Everything that the program does holds for the container: kept, mended, made anew where
/// something changed and only there, and gone afterwards.
#[test]
fn the_proxy_runs_as_a_container_of_the_machines_own_docker() {
    const OTHER: u16 = 18_089;
    let Some(lab) = Lab::empty("contain") else {
        return;
    };
    machine(&lab, HTTP, "auto");
    lab.repository("shop", "");
    lab.service("shop", "web");
    lab.route("shop", "web");
    let mut engine = Engine::start(&lab);
    let pair = |proxy: &str, way: &str| (proxy.to_owned(), way.to_owned());
    let serves = |port: u16| {
        until("the route", || {
            get(port, "web.localhost", "/")
                .is_some_and(|(code, body)| (code, body.trim()) == (200, "web"))
        });
    };

    lab.says(0, &["proxy", "up"], "as container rediacc-proxy");
    lab.expect(0, &["apply"]);
    serves(HTTP);
    assert_eq!(runs_as(&lab), pair("running", "container"));
    lab.says(
        0,
        &["proxy", "status"],
        "runs as     container rediacc-proxy",
    );
    lab.expect(0, &["diff"]);

    // What it may do, and what lies open of it.
    let id = engine.id().unwrap();
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", &id])
        .unwrap();
    let kernel = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["CapBnd:\t0000000000000400", "NoNewPrivs:\t1"] {
        assert!(kernel.contains(line), "{kernel}");
    }
    let folder = lab.root.join("opt/rediacc/proxy");
    let compose = folder.join("docker-compose.yml");
    assert_eq!(fs::metadata(&compose).unwrap().mode() & 0o777, 0o644);
    assert_eq!(
        fs::metadata(folder.join("config.env")).unwrap().mode() & 0o777,
        0o600
    );
    let written = fs::read(&compose).unwrap();

    // Again changes nothing.
    lab.says(0, &["proxy", "up"], "runs already");
    lab.expect(0, &["apply"]);
    assert_eq!(engine.id().as_ref(), Some(&id));
    assert_eq!(fs::read(&compose).unwrap(), written);

    // Docker brings back one that dies; one that somebody ends is drift.
    signal(pid.parse().unwrap(), Signal::SIGKILL).unwrap();
    serves(HTTP);
    assert_eq!(engine.id().as_ref(), Some(&id));
    engine.docker(&["kill", "rediacc-proxy"]).unwrap();
    lab.says(1, &["diff"], "not running → running");
    lab.expect(0, &["apply"]);
    serves(HTTP);
    engine.docker(&["rm", "-f", "rediacc-proxy"]).unwrap();
    assert_eq!(runs_as(&lab), pair("stopped", "container"));
    lab.expect(0, &["apply"]);
    serves(HTTP);
    let id = engine.id().unwrap();
    lab.says(0, &["proxy", "logs"], "traefik: ");

    // What Traefik reads is edited: it is made anew.
    fs::write(folder.join("config.env"), "X=y\n").unwrap();
    lab.expect(0, &["proxy", "up"]);
    assert_ne!(engine.id().unwrap(), id);
    machine(&lab, OTHER, "auto");
    lab.expect(0, &["apply"]);
    serves(OTHER);
    assert!(get(HTTP, "web.localhost", "/").is_none());

    // Somebody else has the port: what ran goes, and is said.
    let taken = std::net::TcpListener::bind(("127.0.0.1", HTTP)).unwrap();
    machine(&lab, HTTP, "auto");
    lab.says(
        3,
        &["proxy", "up"],
        "port 18088 is taken by another program",
    );
    drop(taken);
    lab.expect(0, &["proxy", "up"]);
    serves(HTTP);

    // The decision outlives a stop, which leaves no container.
    lab.expect(0, &["proxy", "down"]);
    assert_eq!(engine.docker(&["ps", "-aq"]).unwrap(), "");
    lab.says(0, &["proxy", "down"], "stopped already");
    lab.expect(0, &["proxy", "up"]);
    assert_eq!(runs_as(&lab), pair("running", "container"));
    serves(HTTP);

    // The other way and back, as the manifest says; without it, it stays so.
    machine(&lab, HTTP, "binary");
    lab.says(1, &["diff"], "runAs");
    lab.expect(0, &["apply"]);
    serves(HTTP);
    assert_eq!(runs_as(&lab), pair("running", "binary"));
    assert_eq!(engine.docker(&["ps", "-aq"]).unwrap(), "");
    machine(&lab, HTTP, "auto");
    lab.expect(0, &["apply"]);
    assert_eq!(runs_as(&lab), pair("running", "binary"));
    machine(&lab, HTTP, "container");
    lab.expect(0, &["apply"]);
    serves(HTTP);
    assert_eq!(runs_as(&lab), pair("running", "container"));
    assert!(!lab.root.join("run/rediacc/proxy").exists());

    lab.expect(0, &["uninstall"]);
    assert_eq!(engine.docker(&["ps", "-aq"]).unwrap(), "");
    assert_eq!(
        engine.docker(&["images", "-q", "rediacc/traefik"]).unwrap(),
        ""
    );
    engine.stop();
    lab.uninstall();
}

/// Nothing outside of the root is asked, whatever the environment says.
#[test]
fn without_a_docker_of_its_own_the_proxy_is_a_program_and_a_container_is_refused() {
    let Some(lab) = Lab::empty("alone") else {
        return;
    };
    machine(&lab, HTTP, "container");
    let refused = lab.expect(3, &["proxy", "up"]);
    for word in [
        "run/docker.sock",
        "systemctl start docker",
        "`proxy.runAs: binary`",
    ] {
        assert!(refused.contains(word), "{refused}");
    }
    machine(&lab, HTTP, "auto");
    let output = lab
        .command(&["proxy", "up"])
        .env("DOCKER_HOST", "unix:///run/docker.sock")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(runs_as(&lab), ("running".to_owned(), "binary".to_owned()));
    lab.uninstall();
}
