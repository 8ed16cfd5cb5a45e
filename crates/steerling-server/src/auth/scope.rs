//! Which key opens which path.

use serde::{Deserialize, Serialize};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Text is written.
    Generate,
    /// Text is explained, embedded or scored; concepts are looked up.
    Explain,
    /// The service itself is looked at.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Generate, Self::Explain, Self::Admin];

    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Explain => "explain",
            Self::Admin => "admin",
        }
    }
}

/// What a path wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: there is nothing to be learned or done.
    Open,
    /// Any key.
    AnyKey,
    /// A key with this scope.
    Needs(Scope),
}

/// What the route `path` wants. A path that is not named here wants the most, so that a new one is never open by
/// mistake.
pub(crate) fn access(path: &str) -> Access {
    match path {
        "/health/live" | "/health/ready" => Access::Open,
        // The page itself holds nothing: it asks for a key and sends it along.
        "/" | "/assets/{file}" => Access::Open,
        // No route: 404, but not for those who have no key.
        "" => Access::AnyKey,
        "/info"
        | "/openapi.json"
        | "/docs"
        | "/docs/{file}"
        | "/tokenize"
        | "/detokenize"
        | "/v1/models"
        | "/v1/models/{*model}" => Access::AnyKey,
        "/generate" | "/steer" | "/v1/completions" | "/v1/chat/completions" => Access::Needs(Scope::Generate),
        "/attribute" | "/embed" | "/score" | "/v1/embeddings" => Access::Needs(Scope::Explain),
        path if path == "/concepts" || path.starts_with("/concepts/") => Access::Needs(Scope::Explain),
        _ => Access::Needs(Scope::Admin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_named_and_only_health_and_the_page_are_open() {
        let paths = crate::api::paths();
        let with = |wanted: Access| -> Vec<&str> {
            let mut found: Vec<&str> = paths.iter().map(String::as_str).filter(|path| access(path) == wanted).collect();
            found.sort_unstable();
            found
        };
        // What is not named wants `admin`.
        assert_eq!(with(Access::Needs(Scope::Admin)), ["/metrics"]);
        let page = ["/", "/assets/{file}"];
        let open: Vec<&str> = with(Access::Open).into_iter().filter(|path| !page.contains(path)).collect();
        assert_eq!(open, ["/health/live", "/health/ready"]);
    }
}
