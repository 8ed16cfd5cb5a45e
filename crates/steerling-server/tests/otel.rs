//! Spans reach a collector, as part of the caller's trace.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_request_becomes_a_span_of_the_callers_trace() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in collector.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_until(b'\n', &mut head).unwrap();
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            _ = tell.send((head, body));
        }
    });
    let mut server = Command::new(env!("CARGO_BIN_EXE_steerling"))
        .args(["serve", "--port", "0", "--log-format", "json", "--device", "cpu"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| line.find("127.0.0.1:").map(|at| line[at..].split('"').next().unwrap().to_owned()))
        .expect("the log tells the address");
    std::thread::spawn(move || lines.for_each(drop));
    let url = format!("http://{address}/health/live");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
    assert!(Command::new("curl").args(["-sf", "-o", "/dev/null", "-H", &header, &url]).status().unwrap().success());
    Command::new("kill").args(["-s", "TERM", &server.id().to_string()]).status().unwrap();
    assert!(server.wait().unwrap().success());
    let bytes: Vec<u8> = (0..32).step_by(2).map(|i| u8::from_str_radix(&trace[i..i + 2], 16).unwrap()).collect();
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "the collector waits in vain");
        let (head, body) = told.recv_timeout(Duration::from_secs(20)).expect("the collector hears something");
        assert!(head.starts_with("post /v1/traces "), "{head}");
        if body.windows(16).any(|window| window == bytes) {
            assert!(body.windows(7).any(|window| window == b"request"));
            return;
        }
    }
}
