//! Which host a request may be for.
//!
//! A page of another site can let its own name resolve to this machine (DNS rebinding): the browser then takes this server
//! for that site, and lets the page read everything. The name still stands in the request, so a server that no key protects
//! answers only to names that are its own.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use super::is_probe;
use crate::config::GuardOptions;
use crate::error::{ApiError, Code};

/// A name or address of this server; ports do not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHost {
    /// `*`
    Any,
    /// In lower case, without the final dot.
    Name(String),
    /// An address; IPv6 in brackets or not.
    Address(IpAddr),
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let sane = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        match !text.is_empty() && text.chars().all(sane) {
            true => Ok(Self::Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())),
            false => Err(format!("`{text}` is neither `*` nor a host such as example.org, without scheme and port")),
        }
    }
}

impl From<IpAddr> for AllowedHost {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl AllowedHost {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Name(name) => name == "localhost",
            Self::Address(address) => address.is_loopback(),
        }
    }

    /// Whether this is an address of all interfaces, which no client asks for.
    fn is_unspecified(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_unspecified())
    }
}

/// The hosts that a port answers to.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Arc<[AllowedHost]>);

impl Hosts {
    /// All hosts where keys protect the port, else loopback and the configured ones.
    pub(crate) fn of(guard: &GuardOptions, has_keys: bool) -> Self {
        let listening = guard.listening_hosts.iter().filter(|host| !host.is_unspecified());
        match has_keys {
            true => Self(Arc::new([AllowedHost::Any])),
            false => Self(guard.allowed_hosts.iter().chain(listening).cloned().collect()),
        }
    }

    fn allow(&self, host: &str) -> bool {
        let is_own = |host: AllowedHost| host != AllowedHost::Any && (host.is_loopback() || self.0.contains(&host));
        self.0.contains(&AllowedHost::Any) || host.parse().is_ok_and(is_own)
    }
}

/// Lets a request through if it is for a host of this server.
pub(crate) async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Result<Response, ApiError> {
    let wanted = requested(request.uri(), request.version(), request.headers())
        .map_err(|message| ApiError::new(Code::InvalidRequest, message).with_status(StatusCode::BAD_REQUEST))?;
    let wanted = wanted.as_ref().map_or("", Authority::host);
    match hosts.allow(wanted) || is_probe(request.uri().path()) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::foreign_host(wanted)),
    }
}

/// The host that a request is for; none where it names none.
///
/// # Errors
/// As HTTP demands (RFC 9110, 7.2; RFC 9112, 3.2; RFC 9113, 8.3.1): without the field, with more than one, with one that is
/// no host, or over HTTP/2 with one that is not the authority of the request.
fn requested(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next().map(authority).transpose()?;
    if fields.next().is_some() {
        return Err("the request has more than one header `host`");
    }
    match (uri.authority(), field) {
        (Some(target), Some(field)) if version == Version::HTTP_2 && field.as_ref() != Some(target) => {
            Err("the header `host` is not the authority of the request")
        }
        (target, None) if version == Version::HTTP_11 || version == Version::HTTP_2 && target.is_none() => {
            Err("the request has no header `host`")
        }
        // The target of a request comes first, whatever the header says.
        (Some(target), _) => Ok(Some(target.clone())),
        (None, field) => Ok(field.flatten()),
    }
}

/// The value of the header: a host with an optional port, or nothing.
fn authority(value: &HeaderValue) -> Result<Option<Authority>, &'static str> {
    let text = value.to_str().unwrap_or("@");
    if text.is_empty() {
        return Ok(None);
    }
    let authority: Option<Authority> = text.parse().ok();
    let is_host = |authority: &Authority| {
        let port = &authority.as_str()[authority.host().len()..];
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|digit| digit.is_ascii_digit()))
    };
    match authority {
        Some(authority) if !text.contains('@') && is_host(&authority) => Ok(Some(authority)),
        _ => Err("the header `host` is not a host with an optional port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(allowed: &[&str], listening: &[&str]) -> Hosts {
        let parse = |hosts: &[&str]| hosts.iter().map(|host| host.parse().unwrap()).collect();
        let guard =
            GuardOptions { allowed_hosts: parse(allowed), listening_hosts: parse(listening), ..Default::default() };
        Hosts::of(&guard, false)
    }

    #[test]
    fn loopback_and_configured_hosts_are_allowed_and_no_others() {
        let own = hosts(&["Steer.Example.ORG", "::ffff:192.0.2.1", "2001:db8::1"], &["0.0.0.0", "198.51.100.7"]);
        for host in [
            "localhost",
            "LocalHost",
            "localhost.",
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "steer.example.org",
            "steer.example.org.",
            "192.0.2.1",
            "[2001:db8::1]",
            "198.51.100.7",
        ] {
            assert!(own.allow(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "0.0.0.0",
            "[::]",
            "128.0.0.1",
            "example.org",
            "a.steer.example.org",
            "*",
            "[::2]",
        ] {
            assert!(!own.allow(host), "{host}");
        }
        let any = hosts(&["*"], &[]);
        assert!(any.allow("evil.example") && any.allow(""));
        assert!(Hosts::of(&GuardOptions::default(), true).allow("evil.example"), "keys protect it");
    }

    #[test]
    fn an_allowed_host_is_a_name_or_an_address_alone() {
        for wrong in ["", "http://example.org", "example.org:8080", "example.org/", "*.example.org", "a b"] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
        for (text, shown) in [("*", "*"), ("Example.org.", "example.org"), ("[::1]", "::1"), ("10.0.0.1", "10.0.0.1")] {
            assert_eq!(text.parse::<AllowedHost>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn the_header_is_read_as_the_protocols_say() {
        let host = |uri: &str, version, fields: &[&'static str]| {
            let headers = fields.iter().map(|field| (header::HOST, HeaderValue::from_static(field))).collect();
            let found = requested(&uri.parse().unwrap(), version, &headers);
            found.map(|found| found.map_or_else(String::new, |authority| authority.host().to_owned())).ok()
        };
        let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let some = |host: &str| Some(host.to_owned());
        assert_eq!(host("/info", one, &["a.example:8080"]), some("a.example"));
        assert_eq!(host("/info", one, &["[::1]:8080"]), some("[::1]"));
        assert_eq!(host("/info", one, &[""]), some(""));
        assert_eq!(host("http://b.example/info", one, &["a.example"]), some("b.example"), "the target comes first");
        assert_eq!(host("/info", old, &[]), some(""));
        assert_eq!(host("https://b.example/info", two, &[]), some("b.example"));
        assert_eq!(host("https://b.example/info", two, &["B.example"]), some("b.example"));
        assert_eq!(host("/info", two, &["a.example"]), some("a.example"));
        for (uri, version, fields) in [
            ("/info", one, &[][..]),
            ("http://b.example/info", one, &[]),
            ("/info", two, &[]),
            ("/info", one, &["a.example", "a.example"]),
            ("/info", old, &["a.example", "b.example"]),
            ("/info", one, &["a.example, b.example"]),
            ("/info", one, &["user@localhost"]),
            ("/info", one, &["localhost:x"]),
            ("/info", one, &["http://localhost"]),
            ("https://b.example/info", two, &["a.example"]),
        ] {
            assert_eq!(host(uri, version, fields), None, "{uri} {version:?} {fields:?}");
        }
    }
}
