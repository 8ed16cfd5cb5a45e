//! Which key opens which path.

use serde::{Deserialize, Serialize};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Text is written.
    Generate,
    /// Text that is there is explained, embedded or scored; concepts are looked up.
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

/// Whether a path is for probes, which ask by whatever address they know. It holds no secret.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/health/live" | "/health/ready")
}

/// What the route `path` wants. A path that is not named here wants the most, so that a new one is never open by
/// mistake.
pub(crate) fn access(path: &str) -> Access {
    match path {
        path if is_probe(path) => Access::Open,
        // The pages themselves hold nothing: that at `/` asks for a key and sends it along.
        "/" | "/assets/{file}" | "/openapi.json" | "/docs" | "/docs/{file}" => Access::Open,
        // No route: 404, but not for those who have no key.
        "" => Access::AnyKey,
        "/info" | "/tokenize" | "/detokenize" | "/v1/models" | "/v1/models/{*model}" => Access::AnyKey,
        "/generate" | "/steer" | "/v1/completions" | "/v1/chat/completions" => Access::Needs(Scope::Generate),
        "/attribute" | "/embed" | "/score" | "/v1/embeddings" => Access::Needs(Scope::Explain),
        path if path == "/concepts" || path.starts_with("/concepts/") => Access::Needs(Scope::Explain),
        _ => Access::Needs(Scope::Admin),
    }
}

/// The scope that a request to `path` needs as well if it generates; its handler asks for it with [`super::require`].
pub(crate) fn to_generate(path: &str) -> Option<Scope> {
    (path == "/attribute").then_some(Scope::Generate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_named_and_only_health_and_the_pages_are_open() {
        let paths = crate::api::paths();
        let with = |wanted: Access| -> Vec<&str> {
            let mut found: Vec<&str> = paths.iter().map(String::as_str).filter(|path| access(path) == wanted).collect();
            found.sort_unstable();
            found
        };
        // What is not named wants `admin`.
        assert_eq!(with(Access::Needs(Scope::Admin)), ["/metrics"]);
        let pages = ["/", "/assets/{file}", "/docs", "/docs/{file}", "/openapi.json"];
        let open: Vec<&str> = with(Access::Open).into_iter().filter(|path| !pages.contains(path)).collect();
        assert_eq!(open, ["/health/live", "/health/ready"]);
    }
}
