//! The documentation page and the routes that it describes.

use serde_json::Value;

use crate::support::{Script, Server, options, refusal};

#[tokio::test]
async fn the_page_is_in_the_program_and_takes_nothing_from_elsewhere() {
    let server = Server::start(options(), Script::default()).await;
    let page = server.get("/docs").await.text().await.unwrap();
    let mut bytes = 0;
    for (path, kind) in [("/docs", "text/html"), ("/docs/docs.css", "text/css"), ("/docs/docs.js", "text/javascript")] {
        let response = server.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), format!("{kind}; charset=utf-8"));
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "no-referrer".into())
        );
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|found| found == part), "{part} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let text = response.text().await.unwrap();
        bytes += text.len();
        for foreign in [
            "http:",
            "https:",
            "src=\"/",
            "href=\"/",
            "//cdn",
            "@import",
            "url(",
            "innerHTML",
            "eval(",
            " style=",
            "onclick=\"",
        ] {
            assert!(!text.contains(foreign), "{path} has {foreign}");
        }
    }
    assert!(!page.contains("<style") && page.matches("<script").count() == 1, "no inline style or script");
    assert!(page.contains("src=\"docs/docs.js\"") && page.contains("href=\"docs/docs.css\""));
    assert!(bytes < 40_000, "{bytes} bytes");
    let (status, error) = refusal(server.get("/docs/secret.txt").await).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn every_described_operation_is_served_and_no_other_method_of_its_path() {
    let server = Server::start(options(), Script::default()).await;
    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let file = if path.starts_with("/docs") { "docs.css" } else { "style.css" };
        let known = path.replace("{id}", "0").replace("{model}", "steerling").replace("{file}", file);
        let url = format!("{}{known}", server.url);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let request = server.client.request(method.parse().unwrap(), &url);
            let response = request.header("content-type", "application/json").body("{}").send().await.unwrap();
            let described = item.get(method.to_lowercase()).is_some();
            assert_eq!(response.status() != 405, described, "{method} {path}");
            assert_ne!(response.status(), 404, "{method} {path}");
            if !described {
                let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
                let here = item.as_object().unwrap().keys().map(|key| key.to_uppercase());
                assert!(here.clone().all(|method| allowed.contains(&method)), "{path}: {allowed}");
            }
        }
    }
}
