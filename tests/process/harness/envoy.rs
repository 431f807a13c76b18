//! A real Envoy on the configuration that is shipped, with other values on the lines that are made to be adapted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Process, Upstream, client, until};

/// A running Envoy.
pub(crate) struct Envoy {
    pub(crate) process: Process,
    /// Where clients reach it.
    pub(crate) url: String,
    /// Its own pages, statistics among them.
    admin: String,
}

impl Envoy {
    /// Starts it and waits until it serves. `lines` are values for more of the named lines; `additions` are lines to put behind
    /// the one line that is this.
    pub(crate) async fn start(
        directory: &Path,
        upstream: &Upstream,
        socket: &Path,
        lines: &[(&str, &str)],
        additions: &[(&str, &str)],
    ) -> Self {
        let mut config = shipped();
        let (port, socket) = (upstream.address.port().to_string(), socket.display().to_string());
        let ours = [
            ("LISTEN_PORT", "0"),
            ("ADMIN_PORT", "0"),
            ("UPSTREAM_PORT", port.as_str()),
            ("BURSAR_SOCKET", socket.as_str()),
            // A machine that is busy must not look like a Bursar that is away.
            ("DECISION_TIMEOUT", "10s"),
            ("ASKING_TIMEOUT", "10s"),
        ];
        for (name, value) in ours.iter().chain(lines) {
            config = adapted(&config, name, value);
        }
        for (line, more) in additions {
            assert_eq!(config.lines().filter(|other| other == line).count(), 1, "lines: {line}");
            config = config.replace(&format!("\n{line}\n"), &format!("\n{line}\n{more}\n"));
        }
        fs::write(directory.join("envoy.yaml"), config).expect("a writable directory");
        let mut command = Command::new(tool("envoy"));
        // Without --disable-hot-restart two Envoys of one user take each other for the same.
        command.args(["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]);
        command.args(["--log-level", "warning", "--admin-address-path", "envoy.admin"]);
        // Its access log is for tests to read, which wait for it.
        command.args(["--file-flush-interval-msec", "50"]);
        let mut process = Process::start("envoy", directory, &mut command);

        let file = directory.join("envoy.admin");
        let admin = until("Envoy's admin address", async || {
            process.assert_running();
            fs::read_to_string(&file).ok().filter(|address| !address.is_empty())
        })
        .await;
        let admin = format!("http://{}", admin.trim());
        until("Envoy to be ready", async || {
            process.assert_running();
            client::get(&format!("{admin}/ready")).await
        })
        .await;
        let url = format!("http://127.0.0.1:{}", listener_port(&admin).await);
        Self { process, url, admin }
    }

    /// A statistic whose whole name this is.
    pub(crate) async fn statistic(&self, name: &str) -> Option<u64> {
        let page = client::get(&format!("{}/stats?filter=^{name}$", self.admin)).await?;
        page.text.trim().rsplit_once(": ")?.1.parse().ok()
    }

    /// Its access log, and what it complained about.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// The line behind which filters stand that come after Bursar was asked.
pub(crate) const FILTERS: &str = "                          - exact: x-request-id";
/// The line behind which settings of the route stand.
pub(crate) const ROUTE: &str = "                            timeout: 0s";

/// A filter that keeps what a JSON reply says of its usage as dynamic metadata, under these names of a namespace.
pub(crate) fn usage_to_metadata(namespace: &str, input: &str, output: &str) -> String {
    let rule = |field: &str, key: &str| {
        format!(
            "
                            - selectors: [{{ key: usage }}, {{ key: {field} }}]
                              on_present: {{ metadata_namespace: {namespace}, key: {key}, type: NUMBER }}"
        )
    };
    let (input, output) = (rule("prompt_tokens", input), rule("completion_tokens", output));
    format!(
        "                  - name: envoy.filters.http.json_to_metadata
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata
                      response_rules:
                        rules:{input}{output}"
    )
}

/// A program that `scripts/tools` installs.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/tools (make test does)", path.display());
    path
}

/// The configuration that is shipped.
fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy/envoy.yaml");
    fs::read_to_string(path).expect("the shipped configuration")
}

/// Puts a value on the one line that ends in a name.
fn adapted(config: &str, name: &str, value: &str) -> String {
    let end = format!(" # {name}");
    let mut found = 0;
    let lines = config.lines().map(|line| {
        let Some(setting) = line.strip_suffix(&end) else { return line.to_owned() };
        found += 1;
        let (key, _) = setting.rsplit_once(": ").expect("a setting on a named line");
        format!("{key}: {value}{end}")
    });
    let adapted: Vec<String> = lines.collect();
    assert_eq!(found, 1, "lines of deploy/envoy/envoy.yaml that end in `# {name}`");
    adapted.join("\n") + "\n"
}

/// The port that was chosen for port 0.
async fn listener_port(admin: &str) -> u64 {
    let page = client::get(&format!("{admin}/listeners?format=json")).await.expect("a list");
    let port = &page.json["listener_statuses"][0]["local_address"]["socket_address"]["port_value"];
    port.as_u64().unwrap_or_else(|| panic!("no port in {}", page.text))
}
