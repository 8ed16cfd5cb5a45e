//! Which hosts a server answers to.

use crate::support::{Raw, Script, Server, configured, options};
use steerling_server::auth::new_key;
use steerling_server::config::{GuardOptions, ServiceOptions};

/// The status and the message for a request with these lines behind `GET /path HTTP/1.1`.
async fn ask(server: &Server, path: &str, lines: &str) -> (u16, String) {
    let mut raw = Raw::connect(server).await;
    raw.send(&format!("GET {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n")).await.unwrap();
    let (status, body) = raw.answer().await;
    (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn without_keys_a_server_answers_to_loopback_and_configured_hosts_only() {
    let allowed_hosts = ["steer.example.org", "192.0.2.7"].map(|host| host.parse().unwrap()).to_vec();
    let guard = GuardOptions { allowed_hosts, ..Default::default() };
    let server = Server::start(ServiceOptions { guard, ..options() }, Script::default()).await;
    for host in ["localhost:8080", "127.0.0.1", "[::1]:1", "steer.example.org", "STEER.example.org.:80", "192.0.2.7:9"]
    {
        assert_eq!(ask(&server, "/info", &format!("host: {host}\r\n")).await.0, 200, "{host}");
    }
    for (path, host) in
        [("/info", "evil.example:8080"), ("/", "evil.example"), ("/metrics", "10.0.0.7"), ("/nothing", "")]
    {
        let (status, message) = ask(&server, path, &format!("host: {host}\r\n")).await;
        assert_eq!(status, 403, "{path} {host}");
        let name = host.split(':').next().unwrap();
        assert!(message.contains("allowed_hosts") && message.contains(&format!("`{name}`")), "{message}");
    }
    for probe in ["/health/live", "/health/ready"] {
        assert_eq!(ask(&server, probe, "host: 10.0.0.7:8080\r\n").await.0, 200, "{probe}");
    }
    assert_eq!(ask(&server, "http://evil.example/info", "host: localhost\r\n").await.0, 403, "the target comes first");
    for lines in ["", "host: localhost\r\nhost: localhost\r\n", "host: a b\r\n", "host: user@localhost\r\n"] {
        let (status, message) = ask(&server, "/health/live", lines).await;
        assert!(status == 400 && message.contains("host"), "{lines:?}: {status} {message}");
    }
    let mut raw = Raw::connect(&server).await;
    raw.send("GET /health/live HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(raw.rest().await.contains(" 200 OK"), "the first version of the protocol has no host");
}

#[tokio::test]
async fn where_keys_decide_or_any_host_is_allowed_the_host_does_not_matter() {
    let (_, hash) = new_key();
    let keyed = configured(&format!("[api_keys.a]\nsha256 = '{hash}'"), GuardOptions::default());
    let keyed = Server::start(keyed, Script::default()).await;
    assert_eq!(ask(&keyed, "/info", "host: evil.example\r\n").await.0, 401);
    assert_eq!(ask(&keyed, "/docs", "host: evil.example\r\n").await.0, 200);
    assert_eq!(ask(&keyed, "/docs", "").await.0, 400, "but there is one");
    let guard = GuardOptions { allowed_hosts: vec!["*".parse().unwrap()], ..Default::default() };
    let open = Server::start(ServiceOptions { guard, ..options() }, Script::default()).await;
    assert_eq!(ask(&open, "/info", "host: evil.example\r\n").await.0, 200);
}
