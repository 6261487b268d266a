//! Whole configuration files: those of `tests/configs/broken` are refused for the reason that each names in its first lines, those of
//! `tests/configs/valid` and the example of `deploy` are accepted.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do, by panicking"
)]

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use xlb::{
    config::{self, ConfigError, Diagnostic, Loaded},
    model::{Echo, Forwarding, HealthCheck, Probe, Protocol, Scheduler, WhenAllDown, XdpMode},
};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Name and content of the files in a folder, in order.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(repository().join(folder))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn file(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

fn accept(name: &str, content: &str) -> Loaded {
    config::parse(name, content).unwrap_or_else(|error| panic!("{error}"))
}

fn refuse(content: impl AsRef<[u8]>) -> ConfigError {
    config::parse("x.yaml", content).expect_err("must be refused")
}

fn rendered(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render("x.yaml").to_string())
        .collect()
}

/// `# expect: LINE:COLUMN PATH: part of the message`; the path of the whole file is `-`.
fn expectations(content: &str) -> Vec<(String, String, &str)> {
    content
        .lines()
        .map_while(|line| line.strip_prefix("# expect: "))
        .map(|line| {
            let (place, rest) = line.split_once(' ').expect("a place");
            let (path, message) = rest.split_once(": ").expect("a path");
            (place.to_owned(), path.replace('-', ""), message)
        })
        .collect()
}

#[test]
fn broken_files_are_refused_with_place_path_and_remedy() {
    let files = files("tests/configs/broken");
    assert!(files.len() >= 30, "{} broken files", files.len());
    let mut failures = Vec::new();
    for (name, content) in files {
        let expected = expectations(&content);
        assert!(!expected.is_empty(), "{name} does not say what to expect");
        let errors = match config::parse(&name, &content) {
            Ok(_) => Vec::new(),
            Err(error) => error.errors,
        };
        let fits = |((place, path, message), error): (&(String, String, &str), &Diagnostic)| {
            format!("{}:{}", error.line, error.column) == *place
                && error.path == *path
                && error.message.contains(message)
                && !error.remedy.is_empty()
        };
        if errors.len() != expected.len() || !expected.iter().zip(&errors).all(fits) {
            failures.push(format!(
                "{name}\n  expected {expected:?}\n  got {:?}",
                rendered(&errors)
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn valid_files_are_accepted() {
    let files = files("tests/configs/valid");
    assert!(files.len() >= 3);
    for (name, content) in files {
        accept(&name, &content);
    }
}

#[test]
fn defaults_of_a_minimal_file() {
    let loaded = accept("minimal", &file("tests/configs/valid/minimal.yaml"));
    assert_eq!(loaded.warnings, []);
    let model = loaded.model;
    assert_eq!(model.interfaces.len(), 1);
    assert_eq!(model.interfaces[0].name, "eth0");
    assert_eq!(model.interfaces[0].mode, XdpMode::Auto);
    assert_eq!(model.socket, PathBuf::from("/run/xlb/xlb.sock"));
    assert_eq!(model.connections.max, 262_144);
    assert_eq!(model.connections.half_open_max, 65_536);
    let timeouts = model.connections.timeouts;
    assert_eq!(timeouts.tcp_half_open, Duration::from_secs(30));
    assert_eq!(timeouts.tcp_established, Duration::from_secs(7440));
    assert_eq!(timeouts.tcp_closing, Duration::from_secs(240));
    assert_eq!(timeouts.udp, Duration::from_secs(300));
    assert_eq!(model.snat.addresses, [] as [std::net::IpAddr; 0]);
    assert_eq!(model.snat.ports, 1024..=65_535);

    let [service] = model.services.as_slice() else {
        panic!("one service: {:?}", model.services)
    };
    assert_eq!(&*service.name, "web");
    assert_eq!(service.listeners.len(), 1);
    assert_eq!(service.listeners[0].to_string(), "tcp 203.0.113.10:80");
    assert_eq!(service.forwarding, Forwarding::Nat);
    assert_eq!(service.scheduler, Scheduler::Maglev);
    assert_eq!(service.when_all_down, WhenAllDown::ForwardToAll);
    let check = HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    assert_eq!(service.health_check, Some(check));
    let backends: Vec<_> = service.backends.iter().map(|b| (b.address, b.weight)).collect();
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    assert_eq!(
        backends,
        [(address("10.0.0.11:8080"), 1), (address("10.0.0.12:8080"), 1)]
    );
}

#[test]
fn every_supported_key_reaches_the_model() {
    let model = accept("everything", &file("tests/configs/valid/everything.yaml")).model;
    let interfaces: Vec<_> = model.interfaces.iter().map(|i| (i.name.as_str(), i.mode)).collect();
    let expected = [
        ("eth0", XdpMode::Generic),
        ("eth1", XdpMode::Native),
        ("eth2", XdpMode::Auto),
    ];
    assert_eq!(interfaces, expected);
    assert_eq!(model.socket, PathBuf::from("/run/other.sock"));
    assert_eq!(
        (model.connections.max, model.connections.half_open_max),
        (1_000_000, 4096)
    );
    let timeouts = model.connections.timeouts;
    assert_eq!(timeouts.tcp_half_open, Duration::from_secs(20));
    assert_eq!(timeouts.tcp_established, Duration::from_secs(3 * 3600));
    assert_eq!(timeouts.tcp_closing, Duration::from_secs(300));
    assert_eq!(timeouts.udp, Duration::from_secs(120));
    assert_eq!(model.snat.addresses.len(), 2);
    assert_eq!(model.snat.ports, 10_000..=20_000);

    let [inherits, overrides, unchecked] = model.services.as_slice() else {
        panic!("three services: {:?}", model.services)
    };
    let listeners: Vec<_> = inherits.listeners.iter().map(ToString::to_string).collect();
    let expected = [
        "tcp 203.0.113.10:80",
        "udp 203.0.113.10:80",
        "tcp 203.0.113.11:80",
        "udp 203.0.113.11:80",
    ];
    assert_eq!(listeners, expected);
    assert_eq!(inherits.forwarding, Forwarding::FullNat);
    assert_eq!(inherits.scheduler, Scheduler::RoundRobin);
    assert_eq!(inherits.when_all_down, WhenAllDown::Drop);
    assert_eq!(inherits.echo, Echo::Off);
    let check = HealthCheck {
        probe: Probe::Tcp,
        port: Some(8081),
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(250),
        rise: 1,
        fall: 5,
    };
    assert_eq!(inherits.health_check, Some(check));
    let weights: Vec<_> = inherits.backends.iter().map(|b| b.weight).collect();
    assert_eq!(weights, [1, 65_535, 0]);

    assert_eq!(overrides.forwarding, Forwarding::Nat);
    assert_eq!(overrides.scheduler, Scheduler::SourceHash);
    assert_eq!(overrides.when_all_down, WhenAllDown::ForwardToAll);
    assert_eq!(overrides.backends, inherits.backends);
    // The whole mapping replaces the default's: nothing of it is inherited.
    let check = HealthCheck {
        probe: Probe::Http {
            path: "/healthz?full=1".to_owned(),
            expect: 204..=204,
        },
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    assert_eq!(overrides.health_check, Some(check));

    assert_eq!(unchecked.health_check, None);
    assert_eq!(unchecked.scheduler, Scheduler::Random);
    assert_eq!(unchecked.listeners.len(), 1);
    assert_eq!(unchecked.listeners[0].protocol, Protocol::Udp);
}

/// A file whose only service has this line.
fn with_service_line(line: &str) -> String {
    file("tests/configs/valid/minimal.yaml") + "    " + line + "\n"
}

#[test]
fn malformed_value_of_an_unsupported_key_is_called_malformed() {
    for (line, message) in [
        ("drain_timeout: 60", "60 has no unit"),
        ("slow_start: soon", "is not a duration"),
        ("prefer_zone: a b", "cannot be a name"),
        ("persistence: 24", "24 has no unit"),
        ("persistence: {timeout: 5m, ipv4_prefix: 33}", "33 is out of range"),
        (
            "persistence: {ipv4_prefix: 32}",
            "the timeout of persistence is missing",
        ),
        ("panic_threshold: 101%", "is out of range"),
        ("on_down: close", "is not known here"),
        ("allow: [10.0.0.0/33]", "is not a prefix"),
        ("deny: [all]", "is not a prefix"),
        ("outlier_detection: {max_ejected: half}", "is not a percentage"),
        ("outlier_detection: {consecutive_failures: 0}", "is out of range"),
        ("limits: {new_connections_per_client: 100}", "is not a rate"),
        ("limits: {mode: watch}", "is not known here"),
    ] {
        let error = refuse(with_service_line(line));
        assert!(
            error.errors.iter().any(|e| e.message.contains(message)),
            "{line}: {error}"
        );
    }
}

#[test]
fn words_that_yaml_1_1_reads_as_truth_values_are_words() {
    for (word, echo) in [("on", Echo::On), ("off", Echo::Off), ("auto", Echo::Auto)] {
        let model = accept(word, &with_service_line(&format!("echo: {word}"))).model;
        assert_eq!(model.services[0].echo, echo);
    }
}

#[test]
fn every_form_of_an_address_reaches_the_model() {
    let loaded = accept("addresses", &file("tests/configs/valid/addresses.yaml"));
    assert_eq!(rendered(&loaded.warnings), [] as [&str; 0]);
    let model = loaded.model;
    let pool: Vec<_> = model.snat.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(pool, ["192.0.2.10", "2001:db8:2::10", "2001:db8:2::11"]);

    let joined = |values: Vec<String>| values.join(" ");
    let services: Vec<_> = (model.services.iter())
        .map(|service| {
            let listeners = joined(service.listeners.iter().map(ToString::to_string).collect());
            let backends = joined(service.backends.iter().map(|b| b.address.to_string()).collect());
            let (name, mode, echo) = (&service.name, service.forwarding, service.echo);
            format!("{name}: {listeners} -> {mode:?} {backends}, echo {echo}")
        })
        .collect();
    let expected = [
        "six: tcp [2001:db8::10]:80 tcp [2001:db8::11]:80 -> FullNat [2001:db8:1::11]:8080 [2001:db8:1::12]:8080, echo on",
        "range: tcp 203.0.113.10:8000-8099 udp 203.0.113.10:8000-8099 -> Nat 10.0.0.11:0 10.0.0.12:0, echo off",
        "any: tcp 203.0.113.11:* -> Nat 10.0.0.11:0 10.0.0.12:0, echo off",
        "any-six: tcp [2001:db8::12]:* -> Nat [2001:db8:1::11]:0 [2001:db8:1::12]:0 [2001:db8:1::13]:0, echo off",
        "range-and-port: tcp [2001:db8::13]:80 tcp [2001:db8::13]:443-444 \
         -> Nat [2001:db8:1::11]:0 [2001:db8:1::12]:0, echo off",
        "beside-ranges: tcp 203.0.113.10:7999 tcp 203.0.113.10:8100 -> Nat 10.0.0.11:8080 10.0.0.12:8080, echo off",
        "dsr: tcp 203.0.113.12:80 tcp 203.0.113.13:80 -> Dsr 10.0.0.11:80 10.0.0.12:80, echo auto",
        "dsr-several: tcp [2001:db8::14]:80 tcp [2001:db8::14]:443 \
         -> Dsr [2001:db8:1::11]:0 [2001:db8:1::12]:0, echo off",
        "dsr-any: udp 203.0.113.14:* -> Dsr 10.0.0.11:0 169.254.0.12:0, echo off",
    ];
    assert_eq!(services, expected);
}

/// The overlap is found among any number of listeners on the VIP, whatever their order, and reported where it is written last.
#[test]
fn long_range_overlaps_what_lies_in_it() {
    let content = |listen: &str| {
        format!(
            "interfaces: [eth0]\nservices:\n  - name: a\n    listen: {listen}\n    backends: []\n    health_check: {{port: 80}}\n"
        )
    };
    let overlaps = |ports: &[&str]| -> Vec<String> {
        let listen: Vec<_> = ports.iter().map(|ports| format!("\"203.0.113.10:{ports}\"")).collect();
        match config::parse("x.yaml", content(&format!("[{}]", listen.join(", ")))) {
            Ok(_) => Vec::new(),
            Err(error) => error.errors.into_iter().map(|error| error.path).collect(),
        }
    };
    let at = |indices: &[usize]| -> Vec<_> { indices.iter().map(|i| format!("services[0].listen[{i}]")).collect() };
    assert_eq!(overlaps(&["1-9", "10", "11-12", "13-65535"]), at(&[]));
    assert_eq!(overlaps(&["1-100", "10-20", "30", "100-200", "201"]), at(&[1, 2, 3]));
    assert_eq!(overlaps(&["30", "10-20", "1-100"]), at(&[2]));
    assert_eq!(overlaps(&["*", "65535", "1"]), at(&[1, 2]));
}

#[test]
fn timeout_follows_a_short_interval() {
    let content = file("tests/configs/valid/minimal.yaml") + "    health_check: {interval: 200ms}\n";
    let model = accept("short", &content).model;
    let check = model.services[0].health_check.as_ref().unwrap();
    assert_eq!(check.timeout, Duration::from_millis(200));
}

#[test]
fn doubtful_values_are_warned_of() {
    let loaded = accept("warnings", &file("tests/configs/valid/warnings.yaml"));
    let warnings: Vec<_> = loaded
        .warnings
        .iter()
        .map(|w| (w.line, w.column, w.path.as_str(), w.message.split(':').next().unwrap()))
        .collect();
    let timeouts = "connections.timeouts";
    let expected = [
        (
            5,
            22,
            &*format!("{timeouts}.tcp_established"),
            "1h is less than RFC 5382 asks for",
        ),
        (
            6,
            18,
            &*format!("{timeouts}.tcp_closing"),
            "10s is less than RFC 5382 asks for",
        ),
        (7, 10, &*format!("{timeouts}.udp"), "30s is less than RFC 4787 asks for"),
        (9, 11, &*format!("{timeouts}.icmp"), "has no effect"),
        (
            11,
            5,
            "services[0].health_check",
            "a service of udp alone has no check by default",
        ),
        (15, 7, "services[0].backends", "there is one backend only"),
        (19, 7, "services[1].backends", "all weights are 0"),
        (
            24,
            19,
            "services[2].health_check",
            "the tcp check asks the backend's port, which serves udp",
        ),
        (25, 15, "services[2].backends", "there are no backends"),
    ];
    assert_eq!(warnings, expected);
    assert!(loaded.warnings.iter().all(|warning| !warning.remedy.is_empty()));
}

#[test]
fn byte_order_mark_and_carriage_returns_mean_nothing() {
    let content = file("tests/configs/valid/minimal.yaml");
    let plain = accept("plain", &content);
    let foreign = accept("foreign", &format!("\u{feff}{}", content.replace('\n', "\r\n")));
    assert_eq!(plain, foreign);
}

#[test]
fn capacities_are_limits() {
    let service = |number: usize| {
        let (high, low) = (number / 250, number % 250);
        format!("  - {{name: s{number}, listen: 203.0.{high}.{low}:80, backends: []}}\n")
    };
    let with = |count: usize| {
        let services: String = (0..count).map(service).collect();
        format!("interfaces: [eth0]\nservices:\n{services}")
    };
    accept("full", &with(16_383));
    let error = refuse(with(16_384));
    assert_eq!(
        rendered(&error.errors),
        [
            "x.yaml:3:3: services: 16384 services are more than there is room for; expected at most 16383 services in all"
        ]
    );
}

#[test]
fn capacities_of_the_data_plane_count_each_family() {
    let refused = |content: &str| rendered(&config::parse("x.yaml", content).err().map_or(Vec::new(), |e| e.errors));
    let pool = |addresses: &[String]| {
        file("tests/configs/valid/minimal.yaml") + &format!("snat: {{addresses: [{}]}}\n", addresses.join(", "))
    };
    let four = |count: usize| (0..count).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>();
    let six = |count: usize| (0..count).map(|n| format!("\"2001:db8::1:{n}\"")).collect::<Vec<_>>();
    assert_eq!(refused(&pool(&[four(64), six(64)].concat())), [] as [&str; 0]);
    let error = "x.yaml:6:19: snat.addresses: 65 IPv6 source addresses are more than there is room for; \
                 expected at most 64 IPv6 source addresses in all";
    assert_eq!(refused(&pool(&[four(64), six(65)].concat())), [error]);

    // All ports but the first and the last are 30 prefixes, any port is one.
    let ranges = |count: usize, ports: &str| {
        let listen: Vec<_> = (0..count)
            .map(|n| format!("\"203.{}.{}.1:{ports}\"", n / 250, n % 250))
            .collect();
        let listen = listen.join(", ");
        format!(
            "interfaces: [eth0]\nservices:\n  - {{name: a, health_check: {{port: 1}}, backends: [], listen: [{listen}]}}\n"
        )
    };
    assert_eq!(refused(&ranges(2184, "1-65534")), [] as [&str; 0]);
    assert_eq!(refused(&ranges(5000, "*")), [] as [&str; 0]);
    let errors = refused(&ranges(2185, "1-65534"));
    assert!(
        errors[0].starts_with("x.yaml:3:3: services: 65550 port prefixes of IPv4 listeners"),
        "{errors:?}"
    );
}

#[test]
fn example_is_accepted_without_warnings() {
    let loaded = accept("example", &file("deploy/xlb.example.yaml"));
    assert_eq!(rendered(&loaded.warnings), [] as [&str; 0]);
}
