//! The router with real daemons and real Traefiks: how soon a route comes and goes, what
//! survives a kill, and that labels mean what Traefik's own Docker provider makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Lab, kill};
use crate::dice;
use crate::router::examples;

const HTTP: u16 = 18_088;
const ROUTER: u16 = 17_111;
const BASE: &str = "example.test";

fn machine(lab: &Lab, proxy: &str) {
    let text = format!(
        "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: demo }}\nspec:\n  datastore: {{ size: 1G }}\n  baseDomain: {BASE}\n  proxy: {{ http: {HTTP}, address: 127.0.0.1, {proxy} }}\n"
    );
    lab.write("machine.yaml", &text);
}

/// A lab with `shop/web`, whose labels ask for its routes, and `wiki/page` with a Route.
fn lab(name: &str) -> Option<Lab> {
    let lab = Lab::empty(name)?;
    machine(
        &lab,
        &format!("router: {ROUTER}, tcp: [15432], udp: [15353]"),
    );
    lab.repository("shop", "");
    lab.service("shop", "web");
    lab.repository("wiki", "");
    lab.service("wiki", "page");
    lab.route("wiki", "page");
    let path = "web/docker-compose.yml";
    let text = fs::read_to_string(lab.desired().join(path)).unwrap();
    let labels =
        "    labels:\n      rediacc.service_port: \"8080\"\n      rediacc.tcp_ports: \"8080\"\n";
    lab.write(path, &format!("{text}{labels}"));
    Some(lab)
}

/// The status and body of a request; `None` where nobody answers.
pub(super) fn get(port: u16, host: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn code(port: u16, host: &str) -> u16 {
    get(port, host, "/").map_or(0, |(code, _)| code)
}

/// How long until it is so.
#[track_caller]
pub(super) fn until(what: &str, is: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !is() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{what} does not come"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    began.elapsed()
}

fn web() -> String {
    format!("web.shop.demo.{BASE}")
}

/// Asks for a host again and again.
struct Load {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<BTreeMap<u16, usize>>,
}

impl Load {
    fn on(host: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let asking = std::thread::spawn(move || {
            let mut counts = BTreeMap::new();
            while !ends.load(Ordering::SeqCst) {
                *counts.entry(code(HTTP, &host)).or_default() += 1;
            }
            counts
        });
        Self { stop, asking }
    }

    /// How often each status was the answer; 0 where nobody answered.
    fn end(self) -> BTreeMap<u16, usize> {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.join().unwrap()
    }
}

fn router_pid(lab: &Lab) -> i32 {
    let path = lab.root.join("run/rediacc/router/child.pid");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn json_of(port: u16, path: &str) -> Value {
    let (_, body) = get(port, "localhost", path).unwrap_or_else(|| panic!("{path}: no answer"));
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

#[test]
fn labels_are_routes_and_the_proxy_s_commands_work_with_nothing_and_with_everything() {
    let Some(lab) = lab("router") else { return };
    // Nothing runs.
    lab.says(0, &["proxy", "status"], "stopped");
    lab.says(0, &["proxy", "routes"], "no routes");
    lab.says(0, &["proxy", "refresh"], "nothing to refresh");
    lab.says(0, &["proxy", "down"], "stopped already");
    lab.says(0, &["proxy", "logs"], "never ran");
    assert!(!lab.root.join("opt").exists());

    lab.expect(0, &["apply"]);
    until("the label's route", || code(HTTP, &web()) == 200);
    assert_eq!(get(HTTP, &web(), "/").unwrap().1.trim(), "web");
    assert_eq!(code(HTTP, "page.localhost"), 200);
    lab.expect(0, &["diff"]);

    // Everything runs.
    lab.says(0, &["proxy", "status"], "3 served, 0 refused");
    lab.says(0, &["proxy", "routes"], &format!("Host(`{}`)", web()));
    lab.says(0, &["proxy", "logs"], "traefik:");
    lab.says(0, &["proxy", "up"], "runs already");
    let health = json_of(ROUTER, "/health");
    assert_eq!(
        (&health["status"], &health["daemons"]),
        (&json!("ok"), &json!(2))
    );
    let routes = json_of(ROUTER, "/routes.json");
    assert_eq!(routes["http"].as_array().unwrap().len(), 2, "{routes}");
    let ports = json_of(ROUTER, "/ports");
    let (_, given) = ports["tcp"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(given, 10_000);
    assert_eq!(get(10_000, "any", "/").unwrap().1.trim(), "web");
    let metrics = get(ROUTER, "localhost", "/metrics").unwrap().1;
    assert!(
        metrics.contains("renet_router_routers{protocol=\"http\"} 2"),
        "{metrics}"
    );
    assert_eq!(get(ROUTER, "localhost", "/refresh").unwrap().0, 404);

    // What is there is not written again.
    let dynamic = lab.root.join("opt/rediacc/proxy/traefik/dynamic/renet.yml");
    let state = lab.root.join("var/lib/rediacc/router/state.json");
    let files = || (fs::read(&dynamic).unwrap(), fs::read(&state).unwrap());
    let stamp = || fs::metadata(&dynamic).unwrap().modified().unwrap();
    let (before, at) = (files(), stamp());
    for _ in 0..2 {
        lab.says(0, &["proxy", "refresh"], "3 routes as published");
    }
    assert_eq!((files(), stamp()), (before.clone(), at));
    let published = json_of(ROUTER, "/traefik");
    let text = String::from_utf8(before.0.clone()).unwrap();
    let body: Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    assert_eq!(published, body);

    // L52: an apply without a router writes the same bytes. Killed under load, the router
    // loses nobody's request, and comes back with what it had.
    let pid_of = |name: &str| lab.root.join(format!("run/rediacc/{name}/child.pid"));
    // Killed, it is back as another process.
    let killed = |name: &str| {
        let pid = || fs::read_to_string(pid_of(name)).unwrap_or_default();
        let before = pid();
        kill(before.trim().parse().unwrap());
        until(name, || !pid().trim().is_empty() && pid() != before);
    };
    let load = Load::on(web());
    killed("router");
    until("its answer", || {
        get(ROUTER, "localhost", "/health").is_some_and(|(code, _)| code == 200)
    });
    lab.says(0, &["proxy", "refresh"], "as published");
    assert_eq!(files(), before);
    let counts = load.end();
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&200], "{counts:?}");
    println!("requests while the router was killed: {counts:?}");

    // The same for the daemon of another repository.
    let load = Load::on(web());
    killed(&format!("docker-{}", lab.network_of("wiki")));
    until("its repository", || code(HTTP, "page.localhost") == 200);
    until("what was", || files() == before);
    lab.says(0, &["proxy", "refresh"], "as published");
    let counts = load.end();
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&200], "{counts:?}");
    println!("requests while another daemon was killed: {counts:?}");

    // Killed itself, the proxy loses what it was asked meanwhile, and nothing more; it
    // listens a moment before it has read its routes.
    let load = Load::on(web());
    killed("proxy");
    let back = until("the proxy", || code(HTTP, &web()) == 200);
    let counts = load.end();
    assert!(
        counts.keys().all(|code| [0, 200, 404].contains(code)),
        "{counts:?}"
    );
    println!("requests while the proxy was killed, back {back:?} after its start: {counts:?}");
    let load = Load::on(web());
    lab.says(0, &["proxy", "refresh"], "as published");
    assert_eq!(load.end().keys().collect::<Vec<_>>(), [&200]);
    assert_eq!(files(), before);
    assert_eq!(get(10_000, "any", "/").unwrap().1.trim(), "web");
    // What somebody removes is back.
    fs::remove_file(&dynamic).unwrap();
    until("the file", || dynamic.exists());
    assert_eq!(files(), before);

    // Another port for the router is settled by an apply, and no request is lost by it.
    let traefik = fs::read(lab.root.join("run/rediacc/proxy/child.pid")).unwrap();
    machine(&lab, "router: 17112, tcp: [15432], udp: [15353]");
    lab.expect(0, &["apply"]);
    assert_eq!(json_of(17_112, "/health")["status"], "ok");
    assert_eq!(get(ROUTER, "localhost", "/health"), None);
    let now = fs::read(lab.root.join("run/rediacc/proxy/child.pid")).unwrap();
    assert_eq!(traefik, now);

    // A foreign file that Traefik cannot read is named.
    let foreign = dynamic.with_file_name("mine.yml");
    fs::write(&foreign, "a: [").unwrap();
    until("the reason", || {
        json_of(17_112, "/health")["status"] == "degraded"
    });
    lab.says(0, &["proxy", "status"], "mine.yml");
    fs::remove_file(&foreign).unwrap();

    // Nothing that may be unmounted is held by the router.
    let held = fs::read_dir(format!("/proc/{}/fd", router_pid(&lab))).unwrap();
    let data = lab.datastore();
    for fd in held.flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        assert!(!target.starts_with(&data), "{}", target.display());
    }
    let cwd = fs::read_link(format!("/proc/{}/cwd", router_pid(&lab))).unwrap();
    assert_eq!(cwd, PathBuf::from("/"));

    lab.says(0, &["proxy", "down"], "no route is served");
    assert_eq!(code(HTTP, &web()), 0);
    lab.says(0, &["proxy", "status"], "stopped");
    lab.says(0, &["proxy", "up"], "runs: port");
    until("the route", || code(HTTP, &web()) == 200);
    lab.uninstall();
}

/// A Traefik of the test's own, with its API.
struct Traefik {
    child: Child,
    http: u16,
    api: u16,
    folder: tempfile::TempDir,
}

impl Traefik {
    fn start(http: u16, api: u16, providers: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut points = json!({
            "web": {"address": format!("127.0.0.1:{http}"), "asDefault": true},
            "traefik": {"address": format!("127.0.0.1:{api}")},
            "udp-15353": {"address": format!("127.0.0.1:{}/udp", api + 50)},
        });
        let tcp = [15_432].into_iter().chain(10_000..=10_010);
        for (at, port) in tcp.enumerate() {
            let at = api + 1 + u16::try_from(at).unwrap();
            points[format!("tcp-{port}")] = json!({"address": format!("127.0.0.1:{at}")});
        }
        let settings = json!({
            "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
            "log": {"level": "ERROR"},
            "entryPoints": points,
            "api": {"insecure": true},
            "providers": providers,
        });
        let file = folder.path().join("traefik.yml");
        fs::write(&file, settings.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        // For every container on the host's network the Docker provider asks for the
        // address of this name: that shall not be a question of the network's name server.
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost host.docker.internal\n").unwrap();
        let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" \"$3\"";
        let child = Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", script, "sh"])
            .arg(&hosts)
            .arg("/usr/local/libexec/renet/traefik")
            .arg(format!("--configFile={}", file.display()))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let traefik = Self {
            child,
            http,
            api,
            folder,
        };
        until("a Traefik", || {
            get(api, "localhost", "/api/version").is_some_and(|(code, _)| code == 200)
        });
        traefik
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Everything of one kind, by its plain name, as far as two providers can agree.
    fn all(&self, path: &str, network: &str) -> BTreeMap<String, Value> {
        let text = get(self.api, "localhost", &format!("/api/{path}?per_page=1000"))
            .unwrap()
            .1;
        let text = text
            .replace(&format!("{network}."), "")
            .replace("@docker", "")
            .replace("@file", "");
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        list.into_iter()
            .filter(|one| one["provider"] != "internal")
            .filter_map(|mut one| {
                let name = one["name"].as_str().unwrap().to_owned();
                let fields = one.as_object_mut().unwrap();
                fields.remove("provider");
                // Whether a server of none answers is a matter of the moment.
                fields.remove("serverStatus");
                (!name.contains(".auto")
                    && !name.starts_with("renet.")
                    && !name.contains(".tcp-")
                    && name != "page")
                    .then(|| (name, addressless(one)))
            })
            .collect()
    }
}

impl Drop for Traefik {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same without the address of a server.
fn addressless(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map = map.into_iter().map(|(key, value)| match (&*key, &value) {
                // By default made from the provider's name.
                ("name", Value::String(text)) if text.starts_with('_') => (key, json!("_")),
                ("url" | "address", Value::String(text)) if text.contains("127.") => {
                    let port = text.rsplit(':').next().unwrap();
                    let scheme = text.split("//").next().filter(|_| text.contains("//"));
                    (
                        key,
                        json!(format!("{}ADDRESS:{port}", scheme.unwrap_or_default())),
                    )
                }
                _ => (key, addressless(value)),
            });
            Value::Object(map.collect())
        }
        Value::Array(list) => list.into_iter().map(addressless).collect(),
        other => other,
    }
}

fn percentiles(mut all: Vec<Duration>) -> String {
    all.sort();
    let at = |part: usize| all[(all.len() - 1) * part / 100].as_millis();
    format!("p50 {} ms, p90 {} ms, max {} ms", at(50), at(90), at(100))
}

#[test]
fn labels_mean_what_traefik_s_docker_provider_makes_of_them_and_as_quickly() {
    let Some(lab) = lab("labels") else { return };
    // Alone: beside another repository, what may match any host comes after its hosts.
    for file in ["wiki.yaml", "page-service.yaml", "page-route.yaml"] {
        lab.remove(file);
    }
    lab.expect(0, &["apply"]);
    let network = lab.network_of("shop");
    let socket = lab.root.join(format!("run/rediacc/docker-{network}.sock"));
    let images = lab.docker_of(&network, &["images", "-q"]).unwrap();
    let image = images.lines().next().unwrap();
    let first: u32 = network.parse().unwrap();
    let run = |slot: u32, name: &str, labels: &BTreeMap<String, String>, command: &str| {
        let address = std::net::Ipv4Addr::from((127 << 24) + first + 2 + slot);
        let mut args = vec![
            "run".to_owned(),
            "-d".into(),
            "--network=host".into(),
            format!("--name={name}"),
        ];
        let own = [
            ("rediacc.service_name", name.to_owned()),
            ("rediacc.service_ip", address.to_string()),
            ("rediacc.repo_name", "shop".to_owned()),
            ("com.docker.compose.service", name.to_owned()),
            ("com.docker.compose.project", "app".to_owned()),
        ];
        let own = own.map(|(label, text)| format!("--label={label}={text}"));
        args.extend(own);
        args.extend(
            labels
                .iter()
                .map(|(label, text)| format!("--label={label}={text}")),
        );
        let command = command.replace("ADDRESS", &address.to_string());
        args.extend([image, "sh", "-c", &command].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        lab.docker_of(&network, &args)
            .unwrap_or_else(|| panic!("{name} does not run"));
    };
    let timed = BTreeMap::from(
        [
            ("traefik.enable", "true"),
            (
                "traefik.http.routers.timed.rule",
                "Host(`timed.example.test`)",
            ),
            (
                "traefik.http.services.timed.loadbalancer.server.port",
                "8080",
            ),
        ]
        .map(|(label, text)| (label.to_owned(), text.to_owned())),
    );
    let serve = "/bin/busybox mkdir -p /www; echo timed > /www/index.html; exec /bin/busybox httpd -f -p ADDRESS:8080 -h /www";
    run(20, "timed", &timed, serve);
    for (slot, (name, labels)) in examples().into_iter().enumerate() {
        run(
            21 + slot as u32,
            &name,
            &labels,
            "exec /bin/busybox sleep 1000",
        );
    }

    let rule =
        format!("Host(`{{{{ index .Labels \"com.docker.compose.service\" }}}}.shop.demo.{BASE}`)");
    let theirs = Traefik::start(
        18_188,
        18_200,
        &json!({
            "providersThrottleDuration": "100ms",
            "docker": {
                "endpoint": format!("unix://{}", socket.display()),
                "exposedByDefault": false,
                "defaultRule": rule,
            },
        }),
    );
    let ours = Traefik::start(
        18_288,
        18_300,
        &json!({
            "providersThrottleDuration": "10ms",
            "file": {"directory": lab.root.join("opt/rediacc/proxy/traefik/dynamic"), "watch": true},
        }),
    );
    let refused = lab.expect(0, &["proxy", "routes"]);
    assert!(!refused.contains("refused"), "{refused}");
    let kinds = [
        "http/routers",
        "http/services",
        "http/middlewares",
        "tcp/routers",
        "tcp/services",
        "tcp/middlewares",
        "udp/routers",
        "udp/services",
    ];
    let both = |kind: &str| (theirs.all(kind, &network), ours.all(kind, &network));
    // Both have just begun to look.
    let settled = || {
        let all: Vec<_> = kinds.iter().map(|kind| both(kind)).collect();
        let count: usize = all.iter().map(|(theirs, _)| theirs.len()).sum();
        count >= 100 && all.iter().all(|(theirs, ours)| theirs == ours)
    };
    let began = Instant::now();
    while !settled() && began.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut count = 0;
    let mut differ = Vec::new();
    for kind in kinds {
        let (theirs, ours) = both(kind);
        count += theirs.len();
        let names: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for name in names {
            let (one, other) = (theirs.get(name), ours.get(name));
            if one != other {
                differ.push(format!(
                    "{kind} {name}\n  docker: {one:?}\n  renet:  {other:?}"
                ));
            }
        }
    }
    assert!(differ.is_empty(), "{}\n{}", differ.join("\n"), theirs.log());
    assert!(count >= 100, "{count} were compared");
    println!("compared with Traefik's Docker provider: {count} routers, services and middlewares");

    // How soon a route goes and comes, by the same container's stop and start.
    let host = "timed.example.test";
    let cycles = if dice::long() { 50 } else { 8 };
    let (mut gone, mut there) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let docker = |verb: &str| lab.docker_of(&network, &[verb, "timed"]).unwrap();
    // Theirs leads to where nobody listens: any answer of its own is its route.
    let wait = |stopped: bool| {
        std::thread::scope(|scope| {
            let proxies = [(HTTP, 200), (theirs.http, 502)];
            let waits = proxies.map(|(port, live)| {
                let wanted = if stopped { 404 } else { live };
                scope.spawn(move || until("the route", || code(port, host) == wanted))
            });
            waits.map(|wait| wait.join().unwrap())
        })
    };
    wait(false);
    for _ in 0..cycles {
        docker("kill");
        for (all, took) in gone.iter_mut().zip(wait(true)) {
            all.push(took);
        }
        docker("start");
        for (all, took) in there.iter_mut().zip(wait(false)) {
            all.push(took);
        }
    }
    for (what, [ours, theirs]) in [("gone", gone), ("there", there)] {
        println!(
            "{what} after {cycles} cycles: renet {}",
            percentiles(ours.clone())
        );
        println!(
            "{what} after {cycles} cycles: Docker provider {}",
            percentiles(theirs)
        );
        let mut sorted = ours;
        sorted.sort();
        let median = sorted[sorted.len() / 2];
        assert!(median < Duration::from_millis(1500), "{what}: {median:?}");
    }
    // Their own view of the mounts would keep them.
    drop((theirs, ours));
    lab.uninstall();
}
