//! Manifests for the tests of every tier.

/// A file of the folder of manifests: its path there and its text. Beside a
/// `Dockerfile` belongs a static busybox.
pub type File = (String, String);

fn document(kind: &str, name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: renet/v1\nkind: {kind}\nmetadata: {{ name: {name}{annotations} }}\nspec:\n{spec}"
    )
}

/// A machine whose proxy listens on `port`.
pub fn machine(datastore: &str, port: u16) -> File {
    let spec = format!("  datastore: {datastore}\n  proxy: {{ http: {port} }}\n");
    (
        "machine.yaml".to_owned(),
        document("Machine", "demo", "", &spec),
    )
}

/// A repository, with `, annotations: …` of its metadata and more lines of its spec.
pub fn repository(name: &str, size: &str, annotations: &str, more: &str) -> File {
    let spec = format!("  size: {size}\n  encryption: none\n{more}");
    let text = document("Repository", name, annotations, &spec);
    (format!("{name}.yaml"), text)
}

/// A service that says `answer` on port 8080.
pub fn service(repository: &str, name: &str, answer: &str) -> [File; 3] {
    let spec =
        format!("  repository: {repository}\n  compose: {{ file: {name}/docker-compose.yml }}\n");
    let address = format!("${{{}_IP}}", name.to_uppercase());
    let script = format!(
        "busybox mkdir -p /www; echo {answer} > /www/index.html; exec busybox httpd -f -p {address}:8080 -h /www"
    );
    let compose = format!(
        "services:\n  {name}:\n    build: .\n    environment: {{ PATH: /bin }}\n    command: [sh, -c, \"{script}\"]\n    stop_grace_period: 0s\n"
    );
    [
        (
            format!("{name}-service.yaml"),
            document("Service", name, "", &spec),
        ),
        (
            format!("{name}/Dockerfile"),
            "FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]\n".to_owned(),
        ),
        (format!("{name}/docker-compose.yml"), compose),
    ]
}

/// A route `{service}.localhost` to a service.
pub fn route(repository: &str, service: &str) -> File {
    let spec =
        format!("  service: {repository}/{service}\n  port: 8080\n  host: {service}.localhost\n");
    let text = document("Route", service, "", &spec);
    (format!("{service}-route.yaml"), text)
}
