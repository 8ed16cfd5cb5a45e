//! What a hub answers when it does not give the file.

use std::time::{Duration, Instant, SystemTime};

use crate::hub::{Hub, WEIGHTS, answer};
use crate::stderr;

/// An answer of a hub that has too much to do.
fn busy(status: &str, retry_after: Option<&str>) -> String {
    let wait = retry_after.map(|wait| format!("retry-after: {wait}\r\n")).unwrap_or_default();
    answer(status, &wait, "<html><head><title>Too much\n traffic</title></head></html>")
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says_and_what_it_says_is_told() {
    let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    for (status, wait) in [
        ("429 Too Many Requests", Some("1")),
        ("503 Service Unavailable", Some(soon.as_str())),
        ("503 Service Unavailable", Some("0")),
        ("502 Bad Gateway", None),
    ] {
        let hub = Hub::start();
        let dir = tempfile::tempdir().unwrap();
        hub.next([busy(status, wait)]);
        let started = Instant::now();
        let output = hub.download(dir.path());
        let told = stderr(&output);
        assert!(output.status.success(), "{told}");
        assert!(told.contains(&format!("127.0.0.1 answered {status} (Too much traffic); trying again in")), "{told}");
        if wait == Some("1") {
            assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        }
    }
}

/// In the middle of a download, too: the list and the small files come, then the hub has had enough.
#[test]
fn a_hub_that_becomes_busy_is_asked_again_for_the_rest() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    assert!(hub.download(&out).status.success());
    std::fs::remove_file(out.join(WEIGHTS)).unwrap();
    hub.asked();
    // The second request after that for the list is one for a file.
    let listing =
        serde_json::json!({"sha": crate::COMMIT, "siblings": [{"rfilename": "config.json"}, {"rfilename": WEIGHTS}]});
    hub.next([answer("200 OK", "", &listing.to_string()), busy("503 Service Unavailable", Some("1"))]);
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);
}

#[test]
fn a_hub_that_stays_busy_or_asks_for_too_much_patience_is_given_up() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    hub.next(vec![busy("503 Service Unavailable", Some("0")); 100]);
    let output = hub.download(dir.path());
    let told = stderr(&output);
    assert_eq!((output.status.code(), hub.asked().len()), (Some(1), 6), "{told}");
    assert!(told.contains("503 Service Unavailable (Too much traffic) (attempt 6 of 6)"), "{told}");
    assert!(!told.contains("online"), "{told}");

    for wait in ["3600", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        hub.next(vec![busy("429 Too Many Requests", Some(wait)); 100]);
        let started = Instant::now();
        let output = hub.download(dir.path());
        let told = stderr(&output);
        assert_eq!((output.status.code(), hub.asked().len()), (Some(1), 1), "{told}");
        assert!(told.contains("429 Too Many Requests") && told.contains("asking to wait for"), "{told}");
        assert!(started.elapsed() < Duration::from_secs(60), "it did not wait for {wait}");
    }
}

#[test]
fn weak_and_bare_tags_are_checksums_all_the_same() {
    for (before, behind) in [("W/\"", "\""), ("", ""), ("\"", "\"")] {
        let hub = Hub::start();
        let dir = tempfile::tempdir().unwrap();
        hub.tag(before, behind);
        let output = hub.download(dir.path());
        assert!(output.status.success(), "{}", stderr(&output));
        let again = hub.download(dir.path());
        assert!(stderr(&again).contains("model.safetensors: already there, verified"), "{}", stderr(&again));
    }
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    hub.tag("\"of its own ", "\"");
    let told = stderr(&hub.download(dir.path()));
    assert!(told.contains("config.json: the hub gives neither a SHA-256 nor a git object id"), "{told}");
}

#[test]
fn a_refusal_says_what_the_hub_answered_and_what_to_do() {
    let gated = r#"{"error": "Access to model owner/nano is restricted."}"#;
    let own_words = "x-error-message: Sorry, we cannot find it\r\n";
    for (status, headers, body, token, told, advice) in [
        ("401 Unauthorized", "", "", None, "401 Unauthorized: ", "set HF_TOKEN"),
        ("401 Unauthorized", "", "", Some("hf_x"), "401 Unauthorized: ", "the token in HF_TOKEN is not valid"),
        (
            "403 Forbidden",
            "",
            gated,
            None,
            "403 Forbidden (Access to model owner/nano is restricted.)",
            "accept its conditions at",
        ),
        (
            "403 Forbidden",
            "",
            gated,
            Some("hf_x"),
            "403 Forbidden (Access",
            "the account of HF_TOKEN has no access to owner/nano",
        ),
        (
            "404 Not Found",
            own_words,
            "",
            None,
            "404 Not Found (Sorry, we cannot find it)",
            "no owner/nano at revision main",
        ),
        ("410 Gone", "", "", None, "410 Gone", ""),
    ] {
        let hub = Hub::start();
        let dir = tempfile::tempdir().unwrap();
        hub.next([answer(status, headers, body)]);
        let output = match token {
            Some(token) => hub.download_with_token(token, dir.path()),
            None => hub.download(dir.path()),
        };
        let text = stderr(&output);
        assert_eq!((output.status.code(), hub.asked().len()), (Some(1), 1), "asked once: {text}");
        assert!(text.contains(told) && text.contains(advice) && text.lines().count() == 1, "{text}");
        assert!(!text.contains("online") && !text.contains("hf_x"), "{text}");
    }
}

#[test]
fn a_web_page_or_another_answer_instead_of_a_file_is_told_as_such() {
    let page = "<!doctype html><title>Log in &amp; pay</title>";
    for (content_type, body, reason) in [
        ("text/html; charset=utf-8", page, "answered with a web page (Log in &amp; pay)"),
        ("TEXT/HTML", "", "answered with a web page instead"),
        ("application/json", "[]", "is no list of files"),
        ("application/json", "{\"sha\": ", "is no list of files"),
    ] {
        let hub = Hub::start();
        let dir = tempfile::tempdir().unwrap();
        hub.next([answer("200 OK", &format!("content-type: {content_type}\r\n"), body)]);
        let output = hub.download(dir.path());
        let told = stderr(&output);
        assert_eq!((output.status.code(), hub.asked().len()), (Some(1), 1), "{told}");
        assert!(told.contains(reason), "{told}");
    }
    // In the place of a file, it is not taken for one either.
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let listing = serde_json::json!({"sha": crate::COMMIT, "siblings": [{"rfilename": "config.json"}]}).to_string();
    hub.next([answer("200 OK", "", &listing), answer("200 OK", "content-type: text/html\r\n", page)]);
    let told = stderr(&hub.download(dir.path()));
    assert!(told.contains("config.json: 127.0.0.1 answered with a web page"), "{told}");
    assert!(!dir.path().join("config.json").exists());
}

#[test]
fn a_list_that_breaks_off_is_asked_for_again() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n{\"sha\"";
    hub.next([broken.to_owned(), String::new()]);
    let output = hub.download(dir.path());
    assert!(output.status.success(), "{}", stderr(&output));
}
