//! Numbers at their extremes, and names of hosts: an error that names the flag, or a server that works.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::steerling;

/// Far more than a start takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test, also with one that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A server under way, or what it ended with.
enum Start {
    /// The process and the addresses that it listens on, operators' last.
    Listening(Running, Vec<String>),
    /// Its exit code and log.
    Ended(Option<i32>, String),
}

/// Starts `serve` on the demo model and waits until it is ready or has ended.
fn start(flags: &[&str]) -> Start {
    let mut command = steerling(&[&["serve", "--device", "cpu"], flags].concat());
    let mut process = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let (tell, told) = mpsc::channel();
    let log = BufReader::new(process.0.stderr.take().unwrap());
    std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| _ = tell.send(line)));
    let (mut log, mut addresses) = (String::new(), Vec::new());
    let started = Instant::now();
    loop {
        while let Ok(line) = told.recv_timeout(Duration::from_millis(20)) {
            if let Some((_, address)) = line.split_once("address=") {
                addresses.push(address.trim().to_owned());
            }
            log += &format!("{line}\n");
        }
        if let Some(status) = process.0.try_wait().unwrap() {
            told.iter().for_each(|line| log += &format!("{line}\n"));
            return Start::Ended(status.code(), log);
        }
        let is_ready = |address: &String| curl(address, "/health/ready", &[]) == "200";
        if log.contains("loading the model") && addresses.iter().all(is_ready) {
            return Start::Listening(process, addresses);
        }
        if started.elapsed() > PATIENCE {
            panic!("{flags:?}: neither ready nor ended\n{log}");
        }
    }
}

/// The status of an answer.
fn curl(address: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://{address}{path}");
    let flags = ["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"];
    String::from_utf8(Command::new("curl").args(flags).args(more).arg(url).output().unwrap().stdout).unwrap()
}

/// Whether one of a few generations is answered: a busy machine may take longer than a second for one.
fn generates(address: &str) -> bool {
    let body = r#"{"prompt":"The","max_new_tokens":1}"#;
    (0..20).any(|_| curl(address, "/generate", &["-H", "content-type: application/json", "-d", body]) == "200")
}

/// The keys of the configuration whose values are numbers.
fn numeric_keys() -> Vec<String> {
    let shown = String::from_utf8(steerling(&["config"]).output().unwrap().stdout).unwrap();
    let number = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        value.split("  #").next()?.parse::<f64>().ok().map(|_| key.to_owned())
    };
    // Numbers without a default that is one.
    shown.lines().filter_map(number).chain(["max_active".to_owned(), "admin_port".to_owned()]).collect()
}

#[test]
fn the_extremes_of_every_number_are_refused_by_name_or_give_a_server_that_works() {
    let keys = numeric_keys();
    assert!(keys.len() > 12, "{keys:?}");
    let values = [
        "0",
        "1",
        "-1",
        "65536",
        "1000000",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "0.0000001",
        "nan",
    ];
    for key in keys {
        let flag = format!("--{}", key.replace('_', "-"));
        for value in values {
            let given = format!("{flag}={value}");
            let port: &[&str] = if key == "port" { &[] } else { &["--port", "0"] };
            match start(&[port, &[&given]].concat()) {
                Start::Listening(process, addresses) => {
                    let works = generates(&addresses[0]);
                    drop(process);
                    assert!(works, "{given}: it listens and answers nothing");
                }
                Start::Ended(code, log) => {
                    assert!([Some(1), Some(2)].contains(&code) && !log.contains("panicked"), "{given}: {code:?} {log}");
                    let error = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
                    assert!(error.contains(&flag) && error.contains(value), "{given}: {log}");
                }
            }
        }
    }
}

#[test]
fn what_would_make_a_server_that_answers_nothing_is_refused_with_the_limit() {
    for (flag, value, limit) in [
        ("--timeout-seconds", "0", "the minimum of 0.001"),
        ("--stall-seconds", "0", "the minimum of 0.001"),
        ("--header-timeout-seconds", "0", "the minimum of 0.001"),
        ("--max-batch", "0", "the minimum of 1"),
        ("--max-active", "0", "the minimum of 1"),
        ("--max-body-bytes", "0", "the minimum of 1024"),
        ("--max-header-bytes", "8191", "the minimum of 8192"),
        ("--max-rows", "0", "the minimum of 1"),
        ("--max-rows", "15", "for this model"),
        ("--kv-cache-mib", "0", "one sequence of the whole context needs"),
        ("--timeout-seconds", "-5", "the minimum of 0.001"),
        ("--timeout-seconds", "18446744073709551615", "the maximum of 3200000000"),
        ("--max-queue", "18446744073709551615", "the maximum of 1000000"),
        ("--kv-cache-mib", "18446744073709551615", "the maximum of 1073741824"),
        ("--kv-cache-mib", "1000000000", "all memory of this machine"),
        ("--port", "65536", "0..=65535"),
    ] {
        let Start::Ended(_, log) = start(&["--port=0", flag, value][usize::from(flag == "--port")..]) else {
            panic!("{flag} {value} is served")
        };
        let error = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!([flag, value, limit].iter().all(|part| error.contains(part)), "{flag} {value}: {log}");
    }
    // Nothing waits, nothing is given time at the end: a server for all that.
    let Start::Listening(process, addresses) =
        start(&["--port", "0", "--drain-seconds", "0", "--max-queue", "0", "--max-faults", "0"])
    else {
        panic!("refused")
    };
    let works = generates(&addresses[0]);
    drop(process);
    assert!(works);
}

#[test]
fn hosts_are_addresses_and_names() {
    let with_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for (host, expected) in
        [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")]
    {
        if host.contains(':') && !with_ipv6 {
            continue;
        }
        let flags = ["--host", host, "--port", "0", "--admin-host", host, "--admin-port", "0"];
        let Start::Listening(process, addresses) = start(&flags) else { panic!("{host} is refused") };
        let port = |address: &String| address.rsplit(':').next().unwrap().to_owned();
        let (main, admin) = (port(&addresses[0]), port(addresses.last().unwrap()));
        let reached = [&main, &admin].map(|port| curl(&format!("{expected}:{port}"), "/metrics", &[]));
        let probe = steerling(&["health", "--host", host, "--port", &main]).output().unwrap();
        drop(process);
        assert_eq!((main != admin, reached), (true, ["200".to_owned(), "200".to_owned()]), "{host}: {addresses:?}");
        assert!(probe.status.success(), "{host}: {probe:?}");
    }
    for (flags, named) in [
        (["--host", "http://localhost"], "--host"),
        (["--host", "localhost:80"], "--host"),
        (["--admin-host", "300.0.0.1"], "--admin-host"),
    ] {
        let Start::Ended(_, log) = start(&flags) else { panic!("{flags:?} is served") };
        assert!(log.contains(named) && log.contains("neither an IP address nor a host name"), "{log}");
    }
    // 192.0.2.0/24 is reserved for documentation.
    let Start::Ended(code, log) = start(&["--host", "192.0.2.1", "--port", "0"]) else { panic!("it is served") };
    assert!(code == Some(1) && log.contains("listening on 192.0.2.1, port 0 (--host, --port)"), "{log}");
}

/// Commands other than `serve`: whatever a number is, they end, without a panic and within memory.
#[test]
fn the_extremes_of_other_commands_end_in_an_answer_or_an_error() {
    let generate = "generate --device cpu --seed 1 --max-new-tokens 2 The";
    let bench = "bench --device cpu --preset tiny --max-new-tokens 2 --max-forwards 1 --batch 1";
    let of = |base: &'static str, flags: &'static str| flags.split(' ').map(move |flag| (base, flag));
    let table = of(generate, "--max-new-tokens --steps --temperature --top-p --repetition-penalty --cfg-scale --seed --stop-token --kv-cache-mib")
        .chain(of("attribute --device cpu --seed 1 --max-new-tokens 2 The", "--top-known --top-unknown --kv-cache-mib"))
        .chain(of("embed --device cpu --type concepts The", "--top-k --kv-cache-mib"))
        .chain(of("concepts search", "--limit --offset"))
        .chain(of("concepts tokens --device cpu 0", "-k --kv-cache-mib"))
        .chain(of(bench, "--batch --prompt-tokens --max-new-tokens --steps --max-forwards --kv-cache-mib --rounds"))
        .chain(of("bench --device cpu --preset tiny --batch 1 --max-forwards 1", "--context"))
        .chain(of("bench --url http://127.0.0.1:9 --seconds 1", "--concurrency --rate --seconds --requests"))
        .chain(of("synthesize --preset tiny", "--seed --shard-gb"))
        .chain(of("health", "--port"));
    for (base, flag) in table {
        for value in ["-1", "18446744073709551615", "18446744073709551616", "nan", "1e308"] {
            // The last of two values counts, where a flag may be there twice at all.
            let words: Vec<&str> = base.split(' ').collect();
            let at = words.iter().position(|word| *word == flag);
            let mut args: Vec<&str> = match at {
                Some(at) => [&words[..at], &words[at + 2..]].concat(),
                None => words,
            };
            args.extend([flag, value]);
            let output = ends(&args);
            let told = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            assert!(
                [Some(0), Some(1), Some(2)].contains(&code) && !told.contains("panicked"),
                "{args:?}: {code:?} {told}"
            );
        }
    }
}

/// The output of a command that has to end.
fn ends(args: &[&str]) -> Output {
    let mut process = steerling(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            _ = process.kill();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    process.wait_with_output().unwrap()
}
