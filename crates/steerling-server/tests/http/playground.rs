//! The playground's page and files: what a browser is told about them.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::header::{ACCEPT_ENCODING, IF_NONE_MATCH};
use reqwest::{Response, StatusCode};

use crate::support::{Script, Server, options, refusal};

/// What the first paint may take over the network.
const BUDGET: usize = 100_000;

async fn start() -> Server {
    Server::start(options(), Script::default()).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// The addresses that the page names, as they stand in it.
async fn assets(server: &Server) -> Vec<String> {
    let page = server.get("/").await.text().await.unwrap();
    let named = page.split(['"', '\'']).filter(|part| part.starts_with("assets/"));
    let mut named: Vec<String> = named.map(|part| format!("/{part}")).collect();
    named.sort();
    named.dedup();
    assert!(named.len() > 5, "{named:?}");
    named
}

#[tokio::test]
async fn the_page_and_all_that_it_names_are_served_with_their_types() {
    let server = start().await;
    let page = server.get("/").await;
    assert_eq!(page.status(), 200);
    assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
    for path in assets(&server).await {
        let answer = server.get(&path).await;
        assert_eq!(answer.status(), 200, "{path}");
        let expected = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("a type that the test does not know: {other}"),
        };
        assert_eq!(header(&answer, "content-type"), expected, "{path}");
    }
}

#[tokio::test]
async fn modules_import_only_each_other_and_the_page_names_all_of_them() {
    let server = start().await;
    let named = assets(&server).await;
    for path in named.iter().filter(|path| path.ends_with(".js")) {
        let code = server.get(path).await.text().await.unwrap();
        let imports = code.lines().filter_map(|line| line.strip_prefix("import ")?.split_once(" from "));
        for (_, from) in imports {
            let module = from.trim_matches(['"', ';']).strip_prefix("./").unwrap_or_else(|| panic!("{path}: {from}"));
            // Preloaded, so that the modules do not arrive one after the other.
            assert!(named.contains(&format!("/assets/{module}")), "{path} imports {module}");
        }
    }
}

#[tokio::test]
async fn nothing_in_the_page_asks_another_address() {
    let server = start().await;
    for path in [vec!["/".to_owned()], assets(&server).await].concat() {
        let text = server.get(&path).await.text().await.unwrap().replace("http://www.w3.org/2000/svg", "");
        for scheme in ["http://", "https://", "ws://", "//cdn", "data:image"] {
            assert!(!text.contains(scheme), "{path} has {scheme}");
        }
    }
}

#[tokio::test]
async fn every_answer_says_what_the_browser_may_do_with_it() {
    let server = start().await;
    for path in [vec!["/".to_owned()], assets(&server).await].concat() {
        let answer = server.get(&path).await;
        let policy: Vec<&str> = header(&answer, "content-security-policy").split(';').map(str::trim).collect();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(&part), "{path}: {part} is not in {policy:?}");
        }
        assert!(!policy.iter().any(|part| part.contains("unsafe") || part.contains('*')), "{policy:?}");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
        assert_eq!(header(&answer, "cache-control"), "no-cache");
    }
    let page = server.get("/").await.text().await.unwrap();
    for forbidden in ["<style", "style=", "onclick", "onload", "javascript:"] {
        assert!(!page.contains(forbidden), "the policy forbids {forbidden}");
    }
    assert!(page.split("<script").skip(1).all(|script| script.contains(" src=")), "the policy forbids inline scripts");
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let server = start().await;
    let ask = async |path: &str, tag: &str, encoding: &str| {
        let request = server.client.get(format!("{}{path}", server.url)).header(IF_NONE_MATCH, tag);
        request.header(ACCEPT_ENCODING, encoding).send().await.unwrap()
    };
    for path in ["/", "/assets/main.js"] {
        let tag = header(&server.get(path).await, "etag").to_owned();
        let strong = tag.trim_start_matches("W/").to_owned();
        for known in [tag.clone(), strong, format!("\"other\", {tag}"), "*".to_owned()] {
            for encoding in ["gzip", "identity"] {
                let answer = ask(path, &known, encoding).await;
                assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{path} {known} {encoding}");
                assert_eq!(header(&answer, "etag"), tag);
                assert_eq!(header(&answer, "cache-control"), "no-cache");
                assert!(answer.bytes().await.unwrap().is_empty());
            }
        }
        assert_eq!(ask(path, "\"other\"", "gzip").await.status(), 200);
    }
    let tags = [
        header(&server.get("/").await, "etag").to_owned(),
        header(&server.get("/assets/main.js").await, "etag").to_owned(),
    ];
    assert_ne!(tags[0], tags[1]);
}

#[tokio::test]
async fn the_first_paint_is_small_and_compressed_for_whoever_takes_that() {
    let server = start().await;
    let mut total = 0;
    for path in [vec!["/".to_owned()], assets(&server).await].concat() {
        let plain = server.get(&path).await;
        assert!(plain.headers().get("content-encoding").is_none());
        assert_eq!(plain.headers().get_all("vary").iter().count(), 1);
        assert_eq!(header(&plain, "vary"), "accept-encoding");
        let plain = plain.bytes().await.unwrap();
        let request = server.client.get(format!("{}{path}", server.url)).header(ACCEPT_ENCODING, "gzip");
        let answer = request.send().await.unwrap();
        assert_eq!(header(&answer, "content-encoding"), "gzip", "{path}");
        assert_eq!(header(&answer, "vary"), "accept-encoding");
        let compressed = answer.bytes().await.unwrap();
        let mut unpacked = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain, "{path}");
        total += compressed.len();
    }
    assert!(total < BUDGET, "{total} bytes");
    println!("the first paint takes {total} bytes");
}

#[tokio::test]
async fn a_file_that_the_page_does_not_have_is_refused_like_any_other_path() {
    let server = start().await;
    for path in ["/assets/nothing.js", "/assets/..%2f..%2fCargo.toml", "/assets/", "/assets/%ff"] {
        let (status, error) = refusal(server.get(path).await).await;
        assert_eq!((status, error["code"].as_str()), (404, Some("not_found")), "{path}");
    }
    let request = server.client.get(format!("{}/nothing", server.url)).header(ACCEPT_ENCODING, "gzip");
    assert_eq!(refusal(request.send().await.unwrap()).await.0, 404);
}
