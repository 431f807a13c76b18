//! Tables of files and variables, with the settings they give or the faults they have.

use std::ffi::OsString;
use std::time::Duration;

use super::*;
use crate::domain::estimate::Unpriced;
use crate::domain::subject::ScopeKind;

const EXAMPLE: &str = include_str!("../../deploy/bursar.yaml");

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

struct Read {
    settings: Settings,
    warnings: Vec<Fault>,
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Read {
    let read = super::settings(text, &environment(variables));
    let (settings, warnings) = read.unwrap_or_else(|faults| {
        panic!(
            "{text}
{faults}"
        )
    });
    Read { settings, warnings }
}

fn settings(text: &str) -> Settings {
    loaded(text, &[]).settings
}

/// The faults of a file, one a line.
fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match super::settings(text, &environment(variables)) {
        Ok(_) => Vec::new(),
        Err(Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn without_file_and_variables_there_are_defaults() {
    let Loaded { settings, warnings, .. } = load(None, &Environment::default()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.workspace.as_str(), "default");
    assert_eq!(settings.listen.grpc.unwrap().to_string(), "127.0.0.1:9191");
    assert_eq!(settings.listen.unix, None);
    assert_eq!(settings.listen.http.to_string(), "127.0.0.1:9192");
    assert_eq!(settings.store.to_string(), "sqlite:bursar.db");
    assert_eq!(settings.journal, Path::new("bursar.journal"));
    assert_eq!(settings.drain_timeout, Duration::from_secs(20));
    assert_eq!(settings.keys, []);
    let trusted = &settings.mapping.trusted_headers;
    assert_eq!(
        *trusted,
        ["x-orq-project-id", "x-orq-identity-id", "x-bursar-provider", "x-bursar-model"]
    );
    assert!(
        settings
            .mapping
            .sources(ScopeKind::Workspace)
            .contains(&Source::Header("x-bursar-workspace".to_owned()))
    );
}

#[test]
fn the_example_says_the_defaults() {
    let example = loaded(EXAMPLE, &[]);
    assert_eq!(example.settings, loaded("", &[]).settings);
    let about = example.warnings.iter().map(|warning| warning.place.as_str());
    assert_eq!(
        about.collect::<Vec<_>>(),
        ["mapping.workspace[1]"],
        "only the header that is not trusted is remarked"
    );
}

#[test]
fn what_the_example_comments_out_can_be_commented_in() {
    let uncommented = EXAMPLE
        .replace("# default_price: {", "default_price: {")
        .replace("unpriced: deny", "unpriced: default_price")
        .replace("# file: ", "file: ")
        .replace("# - metadata: [", "- metadata: [")
        .replace("# - {role", "- {role");
    let settings = loaded(&uncommented, &[("BURSAR_OPERATOR_KEY", "s3cret")]).settings;
    assert_eq!(settings.keys.len(), 2);
    assert_eq!(settings.prices.as_deref(), Some(Path::new("prices.json")));
    assert_eq!(settings.mapping.sources(ScopeKind::Identity).len(), 2);
    assert!(matches!(settings.estimate.unpriced, Unpriced::DefaultPrice(_)));
}

#[test]
fn every_setting_can_be_written() {
    let defaults = settings("");
    for (text, shown) in [
        ("workspace: acme", "workspace: acme"),
        ("workspace: no", "workspace: no"),
        ("listen: {grpc: '[::1]:0'}", "listen.grpc: [::1]:0"),
        ("listen: {grpc: off, unix: /run/b.sock}", "listen.grpc: off"),
        ("listen: {unix: /run/b.sock}", "listen.unix: /run/b.sock"),
        ("listen: {http: 127.0.0.1:80}", "listen.http: 127.0.0.1:80"),
        ("store: {url: sqlite:/var/lib/b.db}", "journal.path: /var/lib/b.journal"),
        ("store: {url: 'postgres://u:hunter2@h/d'}", "store.url: postgres://…"),
        ("store: {pool: 20}", "store.pool: 20"),
        ("store: {listen: false}", "store.listen: false"),
        ("store: {prepared_statements: false}", "store.prepared_statements: false"),
        ("store: {migration_url: 'postgres://u:hunter2@h/d'}", "store.migration_url: postgres://…"),
        ("journal: {path: j}", "journal.path: j"),
        ("lease: {ttl: 30s}", "lease.ttl: 30s"),
        ("patience: 0ms", "patience: 0ms"),
        ("drain_timeout: 1m", "drain_timeout: 1m"),
        ("reservation: {timeout: 1h}", "reservation.timeout: 1h"),
        ("reservation: {on_timeout: release}", "reservation.on_timeout: release"),
        ("estimate: {mode: strict}", "estimate.mode: strict"),
        ("estimate: {learn: off}", "estimate.learn: off"),
        ("estimate: {unknown_model: {cost: 0.1}}", "estimate.unknown_model.cost: 0.1"),
        ("estimate: {unknown_model: {tokens: 7}}", "estimate.unknown_model.tokens: 7"),
        ("estimate: {unpriced: count_tokens_only}", "estimate.unpriced: count_tokens_only"),
        (
            "estimate: {unpriced: default_price, default_price: {input: 0.5, output: 15}}",
            "estimate.unpriced: default_price, 0.5 in and 15 out per million tokens",
        ),
        ("prices: {file: p.json}", "prices.file: p.json"),
        (
            "mapping: {trusted_headers: [X-Team], project: [header: X-Team]}",
            "mapping.project: [header: x-team]",
        ),
        (
            "mapping: {trusted_headers: [], workspace: [principal, principal: ns, constant: a b]}",
            "mapping.workspace: [principal, principal: ns, constant: a b]",
        ),
        (
            "mapping: {trusted_headers: [], identity: [metadata: [jwt, a.b, c]]}",
            "mapping.identity: [metadata: [jwt, a.b, c]]",
        ),
        (
            "mapping: {trusted_headers: [], model: [body: /model, context: m]}",
            "mapping.model: [body: /model, context: m]",
        ),
        ("mapping: {trusted_headers: [], identity: []}", "mapping.identity: []"),
        ("mapping: {trusted_headers: [], no_workspace: refuse}", "mapping.no_workspace: refuse"),
        ("mapping: {trusted_headers: [], unknown_keys: refuse}", "mapping.unknown_keys: refuse"),
        ("reply: {credits_status: 402}", "reply.credits_status: 402"),
        ("reply: {openai_headers: true}", "reply.openai_headers: true"),
        ("reply: {ietf_headers: true}", "reply.ietf_headers: true"),
        ("rate_limit_service: on", "rate_limit_service: on"),
        ("log: {format: json}", "log.format: json"),
        ("log: {filter: 'warn,bursar::engine=debug'}", "log.filter: warn,bursar::engine=debug"),
    ] {
        let settings = settings(text);
        assert_ne!(settings, defaults, "{text}");
        let lines: Vec<String> = settings.to_string().lines().map(single_spaced).collect();
        assert!(
            lines.iter().any(|line| line == shown),
            "{text} is not shown as {shown} in {lines:#?}"
        );
    }
}

fn single_spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_fault_is_told_at_once_with_its_line_and_path() {
    let text = "\
listen:
  grcp: 127.0.0.1:1
  http: foo
lease: {ttl: 1h}
estimate:
  mode: careful
  unknown_model: {cost: -1, tokens: 1.5}
mapping:
  identity: [claims, {header: x, body: /y}, header: a b]
keys: [{role: admin}]
databse: x
";
    assert_eq!(
        faults(
            text,
            &[("BURSAR_STORE_URL", "mysql://root:hunter2@h/d"), ("BURSAR_WORKSPACE", "a\nb")]
        ),
        [
            "line 2: listen.grcp: is no setting; did you mean grpc?",
            "line 3: listen.http: \"foo\" is not an address such as 127.0.0.1:9191",
            "line 4: lease.ttl: 1h is not between 1s and 10m",
            "line 6: estimate.mode: \"careful\" is not one of strict, estimate, postpaid",
            "line 7: estimate.unknown_model.cost: -1 is negative",
            "line 7: estimate.unknown_model.tokens: \"1.5\" is not a whole number of tokens such as 4096",
            "line 8: mapping: has no trusted_headers; list the headers that clients cannot set by themselves, [] for none, \
             [x-orq-project-id, x-orq-identity-id, x-bursar-provider, x-bursar-model] as without a mapping",
            "line 9: mapping.identity[0]: \"claims\" is no source; a source is api_key, principal, principal: SEGMENT, header: NAME, \
             metadata: [NAMESPACE, KEY, …], context: KEY, body: /POINTER or constant: ID",
            "line 9: mapping.identity[1]: is several sources; write each as an element of its own",
            "line 9: mapping.identity[2].header: \"a b\" is not a header name such as x-bursar-workspace",
            "line 10: keys[0].role: \"admin\" is not one of operator, manage, check",
            "line 10: keys[0]: has no secret; name a variable with env, or write the secret's SHA-256 with sha256",
            "line 11: databse: is no setting; the settings are workspace, store, keys, listen, journal, lease, reservation, patience, \
             drain_timeout, estimate, prices, mapping, reply, rate_limit_service, log",
            "BURSAR_WORKSPACE: contains a control character at byte 1",
            "BURSAR_STORE_URL: is not a store such as sqlite:bursar.db or postgres://user@host/database",
        ]
    );
}

/// Files with one fault each.
const SLIPS: &[(&str, &str)] = &[
    (
        "listen: 127.0.0.1:1",
        "line 1: listen: is not a section; settings are written as name: value",
    ),
    ("- a", "line 1: the file: is not a section; settings are written as name: value"),
    ("workspace: [a]", "line 1: workspace: is a list or a section; a single value is expected"),
    ("keys: x", "line 1: keys: is not a list; write it as [a, b] or one \"- a\" a line"),
    ("[a, b]: c", "line 1: the file: has a name that is not a text"),
    ("patience: 1s\n---\na: b", "line 3: ---: starts a second document; a configuration is one"),
    ("lease: {}\nlease: {}", "line 2: the file: is not YAML: duplicated key in mapping"),
    ("a: b: c", "line 1: the file: is not YAML: mapping values are not allowed in this context"),
    (
        "listen: {grpc: off}",
        "listen: has neither grpc nor unix, so that Envoy cannot ask; set one of them",
    ),
    (
        "listen: {grpc: '127.0.0.1:9192'}",
        "listen: has 127.0.0.1:9192 for both grpc and http; give each a port of its own",
    ),
    (
        "listen: {grpc: 'localhost:1'}",
        "line 1: listen.grpc: \"localhost:1\" is not an address such as 127.0.0.1:9191",
    ),
    (
        "journal: {path: bursar.db}",
        "line 1: journal.path: is the store's own file; the journal needs one of its own",
    ),
    ("store: {pool: 0}", "line 1: store.pool: \"0\" is not a number of connections from 1 to 1000"),
    (
        "store: {migration_url: 'mysql://u:hunter2@h'}",
        "line 1: store.migration_url: is neither \"same\" nor a URL such as postgres://user@host/database",
    ),
    ("patience: 50", "line 1: patience: \"50\" is not a duration such as 50ms, 10s, 10m or 24h"),
    (
        "estimate: {unknown_model: {cost: .nan}}",
        "line 1: estimate.unknown_model.cost: \".nan\" is not a decimal number; dollars such as 0.05 are expected",
    ),
    (
        "estimate: {unknown_model: {cost: 1e-10}}",
        "line 1: estimate.unknown_model.cost: \"1e-10\" has more than 9 decimals; dollars such as 0.05 are expected",
    ),
    (
        "estimate: {unpriced: default_price}",
        "line 1: estimate.unpriced: needs estimate.default_price: {input: 5, output: 15}, in dollars per million tokens",
    ),
    (
        "estimate: {default_price: {input: 1, output: 1000001}}",
        "line 1: estimate.default_price.output: 1000001 is above 1000000 dollars per million tokens",
    ),
    ("estimate: {default_price: {input: 1}}", "line 1: estimate.default_price: has no output"),
    (
        "reply: {credits_status: 500}",
        "line 1: reply.credits_status: \"500\" is not one of 429, 402",
    ),
    ("reply: {ietf_headers: yes}", "line 1: reply.ietf_headers: \"yes\" is neither true nor false"),
    (
        "log: {filter: 'a=b=c'}",
        "line 1: log.filter: \"a=b=c\" is not a filter such as info or info,bursar::engine=debug: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
    ),
];

/// The same about who is asking and who may.
const SLIPS_OF_TRUST: &[(&str, &str)] = &[
    (
        "mapping: {trusted_headers: [], identity: [api_key]}",
        "line 1: mapping.identity[0]: is no source of this scope: a key is on record with its workspace and project",
    ),
    (
        "mapping: {trusted_headers: [], identity: [header: ]}",
        "line 1: mapping.identity[0]: is no source; a source is api_key, principal, principal: SEGMENT, header: NAME, metadata: [NAMESPACE, KEY, …], context: KEY, body: /POINTER or constant: ID",
    ),
    (
        "mapping: {trusted_headers: [], identity: [metadata: [jwt]]}",
        "line 1: mapping.identity[0].metadata: needs a namespace and at least one key, such as [envoy.filters.http.jwt_authn, claims, sub]",
    ),
    (
        "keys: [{role: manage, env: NOT_SET}]",
        "line 1: keys[0].env: names NOT_SET, which the environment does not set",
    ),
    (
        "keys: [{role: manage, env: 'hunter 2'}]",
        "line 1: keys[0].env: is not the name of an environment variable, such as BURSAR_OPERATOR_KEY",
    ),
    (
        "keys: [{role: manage, sha256: hunter2}]",
        "line 1: keys[0].sha256: is not a SHA-256 of 64 hexadecimal digits",
    ),
    (
        "keys: [{role: manage, env: A, sha256: b}]",
        "line 1: keys[0]: has two secrets; write either env or sha256",
    ),
    ("keys: [{env: SECRET}]", "line 1: keys[0]: has no role; it is operator, manage or check"),
    (
        "keys: [{role: operator, workspace: a, env: SECRET}]",
        "line 1: keys[0].workspace: does not belong here: an operator's key opens every workspace",
    ),
];

#[test]
fn what_is_written_wrongly_is_answered() {
    for (text, fault) in [SLIPS, SLIPS_OF_TRUST].concat() {
        assert_eq!(faults(text, &[("SECRET", "s3cret")]), [fault], "{text}");
    }
}

#[test]
fn variables_override_the_file() {
    let text = "workspace: a\nlisten: {grpc: off, unix: /a, http: '127.0.0.1:1'}\nstore: {url: sqlite:a.db}\n";
    let over = [
        ("BURSAR_WORKSPACE", "b"),
        ("BURSAR_LISTEN_GRPC", "127.0.0.1:0"),
        ("BURSAR_LISTEN_UNIX", "/b"),
        ("BURSAR_LISTEN_HTTP", "127.0.0.1:2"),
        ("BURSAR_STORE_URL", "sqlite:b.db"),
        ("BURSAR_STORE_MIGRATION_URL", "postgres://me@direct/db"),
        ("BURSAR_MANAGEMENT_KEY", "s3cret"),
    ];
    let settings = loaded(text, &over).settings;
    assert_eq!(settings.workspace.as_str(), "b");
    assert_eq!(settings.listen.grpc.unwrap().port(), 0);
    assert_eq!(settings.listen.unix.as_deref(), Some(Path::new("/b")));
    assert_eq!(settings.listen.http.port(), 2);
    assert_eq!(settings.journal, Path::new("b.journal"));
    assert_eq!(settings.link.migration_url.as_deref(), Some("postgres://me@direct/db"));
    let [key] = settings.keys.as_slice() else { panic!("{:?}", settings.keys) };
    assert_eq!(key.role, Role::Manage(settings.workspace));
    assert_eq!(
        loaded(text, &[("BURSAR_WORKSPACE", "")]).settings.workspace.as_str(),
        "a",
        "nothing is not an id"
    );
    assert_eq!(
        loaded(text, &[("BURSAR_LISTEN_GRPC", "127.0.0.1:0"), ("BURSAR_LISTEN_UNIX", "off")])
            .settings
            .listen
            .unix,
        None
    );
}

#[test]
fn a_fault_in_the_file_stands_even_where_a_variable_overrides_it() {
    assert_eq!(faults("listen: {http: foo}", &[("BURSAR_LISTEN_HTTP", "127.0.0.1:2")]).len(), 1);
}

#[test]
fn unknown_variables_of_ours_only_warn() {
    let variables = [
        ("BURSAR_SERVICE_HOST", "10.0.0.1"),
        ("BURSAR_LISTEN_GRCP", "x"),
        ("BURSAR_OPERATOR_KEY", "s3cret"),
        ("PATH", "/bin"),
    ];
    let warnings =
        loaded("keys: [{role: operator, env: BURSAR_OPERATOR_KEY}]", &variables).warnings;
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let [typo, service] = shown.as_slice() else { panic!("{shown:#?}") };
    assert!(typo.ends_with("BURSAR_LISTEN_GRCP: is not a variable that Bursar knows, and is passed over; did you mean BURSAR_LISTEN_GRPC?"), "{typo}");
    assert!(service.starts_with("BURSAR_SERVICE_HOST: "), "{service}");
}

#[test]
fn a_secret_is_kept_as_its_hash_and_told_to_nobody() {
    let secret = [("BURSAR_MANAGEMENT_KEY", "hunter2")];
    let settings = loaded("", &secret).settings;
    assert!(!format!("{settings:?} {settings}").contains("hunter2"));
    assert_eq!(settings.keys[0].hash[..4], [0xf5, 0x2f, 0xbd, 0x32]);
    let told = faults("", &[("BURSAR_MANAGEMENT_KEY", "hunter 2\n")]);
    assert_eq!(
        told,
        [
            "BURSAR_MANAGEMENT_KEY: holds a space, a line break or a character that a header cannot carry"
        ]
    );
}

#[test]
fn a_listener_that_others_can_reach_is_remarked() {
    let remarked =
        |grpc: &str| !loaded(&format!("listen: {{grpc: '{grpc}'}}"), &[]).warnings.is_empty();
    assert!(remarked("0.0.0.0:9191"));
    assert!(remarked("[::]:9191"));
    assert!(!remarked("127.0.0.2:9191"));
    assert!(!remarked("[::1]:9191"));
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let told = |path: &Path| load(Some(path), &Environment::default()).unwrap_err().to_string();
    let missing = folder.path().join("missing.yaml");
    assert!(
        told(&missing).contains("missing.yaml cannot be read: No such file"),
        "{}",
        told(&missing)
    );
    let huge = folder.path().join("huge.yaml");
    std::fs::write(&huge, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(told(&huge).contains("larger than 1048576 bytes"), "{}", told(&huge));
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(told(&binary).contains("valid UTF-8"), "{}", told(&binary));
}

#[test]
fn faults_of_the_prices_are_told_with_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let (prices, file) = (folder.path().join("prices.json"), folder.path().join("bursar.yaml"));
    std::fs::write(&prices, "{\"m\": {\"input_cost_per_token\": -1}}").unwrap();
    std::fs::write(&file, format!("patience: x\nprices: {{file: '{}'}}", prices.display()))
        .unwrap();
    let told = load(Some(&file), &Environment::default()).unwrap_err();
    let places: Vec<&str> = told.0.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(places[..2], ["patience", "prices.file"]);
    assert!(told.to_string().contains("prices.json: m"), "{told}");
    std::fs::remove_file(&prices).unwrap();
    let told = load(Some(&file), &Environment::default()).unwrap_err().to_string();
    assert!(told.contains("prices.json cannot be read: No such file"), "{told}");
}
