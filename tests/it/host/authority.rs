//! An authority that issues certificates for tests, by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Authority {
    folder: tempfile::TempDir,
}

const SETTINGS: &str = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\nrand_serial = yes\nunique_subject = no\ndefault_md = sha256\npolicy = any\ncopy_extensions = copy\nemail_in_dn = no\n[any]\ncommonName = optional\n";

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.cnf"), SETTINGS).unwrap();
        fs::write(folder.path().join("index.txt"), "").unwrap();
        let authority = Self { folder };
        let args = ["-x509", "-days", "30", "-subj", "/CN=renet tests"];
        authority.request("ca.key", "ca.crt", &args);
        authority
    }

    /// Its own certificate.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Makes a key and what asks for its certificate.
    fn request(&self, key: &str, out: &str, more: &[&str]) {
        let kind = ["req", "-nodes", "-newkey", "ec", "-pkeyopt"];
        let files = ["ec_paramgen_curve:P-256", "-keyout", key, "-out", out];
        self.openssl(&[&kind[..], &files, more].concat());
    }

    fn openssl(&self, args: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.args(args).current_dir(self.folder.path()).output();
        let output = output.unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args:?}: {words}");
    }

    /// A certificate and its key in PEM, for a year.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_until(names, "20990101000000Z")
    }

    /// One that ends at a time like `20200101000000Z`.
    pub fn issue_until(&self, names: &[&str], until: &str) -> (String, String) {
        let named = !names.is_empty();
        let subject = format!("/CN={}", names.first().unwrap_or(&"nobody"));
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let names = format!("subjectAltName={}", names.join(","));
        let mut more = vec!["-subj", &subject];
        if named {
            more.extend(["-addext", &names]);
        }
        self.request("one.key", "one.csr", &more);
        self.openssl(&[
            "ca",
            "-batch",
            "-config",
            "ca.cnf",
            "-cert",
            "ca.crt",
            "-keyfile",
            "ca.key",
            "-in",
            "one.csr",
            "-notext",
            "-out",
            "one.crt",
            "-startdate",
            "20190101000000Z",
            "-enddate",
            until,
        ]);
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap();
        (read("one.crt"), read("one.key"))
    }
}

/// What a server shows for a host: its certificate's serial number and names.
pub fn shown(port: u16, host: &str) -> Option<String> {
    let script = "timeout 5 openssl s_client -connect 127.0.0.1:$1 -servername $2 </dev/null 2>/dev/null | openssl x509 -noout -serial -ext subjectAltName";
    let port = port.to_string();
    let output = Command::new("sh")
        .args(["-c", script, "sh", &port, host])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Whether a server talks at all under these conditions.
pub fn talks(port: u16, args: &[&str]) -> bool {
    let output = Command::new("timeout")
        .args(["5", "openssl", "s_client", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE")
}

/// The status, the body, and where a request is sent on to. Certificates count.
pub fn ask(scheme: &str, host: &str, port: u16, root: &Path, path: &str) -> (u16, String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "5", "--write-out"])
        .arg("\n%{http_code} %{redirect_url}")
        .arg("--cacert")
        .arg(root)
        .arg("--resolve")
        .arg(format!("{host}:{port}:127.0.0.1"))
        .arg(format!("{scheme}://{host}:{port}{path}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').unwrap_or_default();
    let (code, to) = last.split_once(' ').unwrap_or_default();
    (
        code.parse().unwrap_or_default(),
        body.trim().to_owned(),
        to.to_owned(),
    )
}
