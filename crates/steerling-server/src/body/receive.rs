//! The bytes of a request's body: within the limit of the server, decoded, and in time.

use std::error::Error;
use std::io::Read;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderValue, header};
use flate2::bufread::MultiGzDecoder;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::error::{ApiError, Code};
use crate::transport::BodyTimeout;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
}

/// Reads a body with at most `limit` bytes, before decoding and after it.
///
/// # Errors
/// 415 for an encoding that is not supported, 413 for a body that is too large: by its announced length before anything
/// is read, and so before `100 Continue`. 408 if it does not arrive in time, 400 if it ends early or is not gzip.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let encoding = encoding(headers)?;
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(ApiError::payload_too_large(&format!("the body has {announced} bytes"), limit));
    }
    let bytes = Limited::new(body, limit).collect().await.map_err(|error| failed(&*error, limit))?.to_bytes();
    match encoding {
        Encoding::Identity => Ok(bytes),
        Encoding::Gzip => gunzip(bytes, limit).await,
    }
}

/// The encoding of a body, as its headers say.
fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let found = lines.map(String::from_utf8_lossy).collect::<Vec<_>>().join(", ");
    let names = found.split(',').map(|name| name.trim().to_ascii_lowercase());
    let mut names = names.filter(|name| !name.is_empty() && name != "identity");
    match (names.next().as_deref(), names.next()) {
        (None, _) => Ok(Encoding::Identity),
        (Some("gzip" | "x-gzip"), None) => Ok(Encoding::Gzip),
        _ => Err(ApiError::unsupported_encoding(&found)),
    }
}

/// Why a body could not be read.
fn failed(error: &(dyn Error + 'static), limit: usize) -> ApiError {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    if let Some(BodyTimeout(time)) = causes.clone().find_map(|error| error.downcast_ref()) {
        let message = format!(
            "the body did not arrive within {} s (`body_timeout_seconds`, --body-timeout-seconds)",
            time.as_secs_f64()
        );
        return ApiError::new(Code::RequestTimeout, message);
    }
    match causes.any(<dyn Error>::is::<LengthLimitError>) {
        true => ApiError::payload_too_large(&format!("the body has more than {limit} bytes"), limit),
        false => ApiError::new(Code::InvalidJson, "the body ended early"),
    }
}

/// Decodes a body, all members of it. What would exceed the limit is not decoded.
async fn gunzip(bytes: Bytes, limit: usize) -> Result<Bytes, ApiError> {
    let decode = move || {
        let mut decoded = Vec::new();
        // One byte more tells a body that is too large.
        MultiGzDecoder::new(&*bytes).take(limit as u64 + 1).read_to_end(&mut decoded).map(|_| decoded)
    };
    let decoded = tokio::task::spawn_blocking(decode).await.map_err(|_| ApiError::internal())?;
    match decoded {
        Ok(decoded) if decoded.len() > limit => {
            Err(ApiError::payload_too_large(&format!("the decoded body has more than {limit} bytes"), limit))
        }
        Ok(decoded) => Ok(decoded.into()),
        Err(error) => Err(ApiError::new(Code::InvalidJson, format!("the body is not gzip: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_named_in_any_case_and_on_any_line() {
        let of = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (header::CONTENT_ENCODING, HeaderValue::from_static(line)));
            encoding(&lines.collect())
        };
        for lines in [&[][..], &["identity"], &["Identity, identity"], &[""]] {
            assert_eq!(of(lines).unwrap(), Encoding::Identity, "{lines:?}");
        }
        for lines in [&["gzip"][..], &["GZip"], &["x-gzip"], &["identity, gzip"], &["identity", "gzip"]] {
            assert_eq!(of(lines).unwrap(), Encoding::Gzip, "{lines:?}");
        }
        for lines in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &["gzip,br"]] {
            let error = of(lines).unwrap_err();
            assert!(error.message.contains(lines[0]) && error.message.contains("gzip"), "{}", error.message);
        }
    }
}
