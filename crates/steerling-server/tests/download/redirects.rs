//! Who gets to see the token.

use crate::hub::{COMMIT, Hub, STORE, WEIGHTS, answer};
use crate::stderr;

const TOKEN: &str = "hf_not_for_everybody";

/// What the `Authorization` headers of the requests for paths with this beginning were.
fn seen(hub: &Hub, path: &str) -> Vec<Option<String>> {
    let asked = hub.asked().into_iter().filter(|asked| asked.path.starts_with(path));
    asked.map(|asked| asked.authorization).collect()
}

#[test]
fn the_token_stays_with_the_hub_when_it_redirects_to_another_origin() {
    let (hub, other) = (Hub::start(), Hub::start());
    // Another port is another origin, as is another name of the same machine.
    let port = hub.url.rsplit(':').next().unwrap();
    let renamed = format!("http://localhost:{port}{STORE}");
    for base in [format!("{}{STORE}", other.url), renamed] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model");
        hub.store_at(&base);
        let output = hub.download_with_token(TOKEN, &out);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);
        assert!(!stderr(&output).contains(TOKEN));
        let bearer = Some(format!("Bearer {TOKEN}"));
        let at_store: Vec<_> = [seen(&other, STORE), Vec::new()].concat();
        let asked = hub.asked();
        let of_hub = asked.iter().filter(|asked| !asked.path.starts_with(STORE)).map(|asked| &asked.authorization);
        let renamed = asked.iter().filter(|asked| asked.path.starts_with(STORE)).map(|asked| &asked.authorization);
        let of_store: Vec<_> = at_store.iter().chain(renamed).collect();
        assert!(of_store.len() >= 3 && of_store.iter().all(|authorization| authorization.is_none()), "{of_store:?}");
        let of_hub: Vec<_> = of_hub.collect();
        assert!(of_hub.len() >= 4 && of_hub.iter().all(|authorization| **authorization == bearer), "{of_hub:?}");
    }
}

#[test]
fn the_token_goes_along_within_the_origin_of_the_hub() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    for base in [STORE.to_owned(), format!("{}{STORE}", hub.url)] {
        hub.store_at(&base);
        let output = hub.download_with_token(TOKEN, &dir.path().join(base.len().to_string()));
        assert!(output.status.success(), "{}", stderr(&output));
        let at_store = seen(&hub, STORE);
        assert!(at_store.len() >= 3, "{at_store:?}");
        assert!(at_store.iter().all(|authorization| *authorization == Some(format!("Bearer {TOKEN}"))), "{at_store:?}");
    }
}

/// Once out of the house, a chain of redirects gets it no more, even if it leads back.
#[test]
fn a_redirect_that_leads_back_does_not_bring_the_token_out_again() {
    let (hub, other) = (Hub::start(), Hub::start());
    let dir = tempfile::tempdir().unwrap();
    let listing = serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).to_string();
    let to = |url: &str| answer("307 Temporary Redirect", &format!("location: {url}\r\n"), "");
    hub.next([to(&format!("{}/away", other.url)), answer("200 OK", "", &listing)]);
    other.next([to(&format!("{}/back", hub.url))]);
    let output = hub.download_with_token(TOKEN, dir.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(seen(&other, "/"), [None]);
    let asked = hub.asked();
    let back = asked.iter().find(|asked| asked.path == "/back").unwrap();
    assert_eq!(back.authorization, None);
}

#[test]
fn redirects_without_an_end_or_to_nowhere_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    for (location, reason) in [("/again", "redirects"), ("file:///etc/passwd", "no address"), ("http://", "no address")]
    {
        let hub = Hub::start();
        hub.next(vec![answer("302 Found", &format!("location: {location}\r\n"), ""); 100]);
        let output = hub.download_with_token(TOKEN, dir.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert!(hub.asked().len() <= 11);
    }
}
