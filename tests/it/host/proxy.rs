//! The proxy with a real Traefik: which requests it passes on.

use std::fs;

use super::lab::Lab;
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
    let output = std::process::Command::new("curl")
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
