//! The signature that a request presents, in its header or, for platforms that hide headers, in
//! its query string (Chatwork API documentation, "Webhook").

use actix_web::http::header::HeaderMap;
use actix_web::web::Query;

const HEADER: &str = "x-chatworkwebhooksignature";
const QUERY_PARAMETER: &str = "chatwork_webhook_signature";

/// The one signature that the request presents. `None` if it presents none, or several that
/// differ: then somebody has tampered with one of them, and we do not pick.
pub(crate) fn signature(headers: &HeaderMap, query: &str) -> Option<String> {
    let in_headers = headers
        .get_all(HEADER)
        .map(|value| value.to_str().map(str::to_owned));
    let in_query = Query::<Vec<(String, String)>>::from_query(query)
        .map(Query::into_inner)
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, _)| name == QUERY_PARAMETER)
        // A `+` that was not percent-encoded has been decoded into a space; Base64 has no spaces.
        .map(|(_, value)| Ok(value.replace(' ', "+")));
    let mut presented = in_headers.chain(in_query);
    let signature = presented.next()?.ok()?;
    presented
        .all(|other| other.is_ok_and(|other| other == signature))
        .then_some(signature)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    /// Header values, query string, the signature that is found.
    type Case = (&'static [&'static [u8]], &'static str, Option<&'static str>);

    fn presented(headers: &[&[u8]], query: &str) -> Option<String> {
        let mut map = HeaderMap::new();
        for value in headers {
            let value = HeaderValue::from_bytes(value).expect("a header value");
            map.append(HeaderName::from_static(HEADER), value);
        }
        signature(&map, query)
    }

    #[test]
    fn a_signature_is_found_wherever_it_is_and_refused_where_it_contradicts_itself() {
        let cases: &[Case] = &[
            (&[], "", None),
            (&[b"a+/="], "", Some("a+/=")),
            (&[], "chatwork_webhook_signature=a%2b%2f%3d", Some("a+/=")),
            (&[], "chatwork_webhook_signature=a%2B%2F%3D", Some("a+/=")),
            (&[], "chatwork_webhook_signature=a+/=", Some("a+/=")),
            (&[], "x=1&chatwork_webhook_signature=a%20b&y", Some("a+b")),
            (
                &[b"a+/="],
                "chatwork_webhook_signature=a%2b%2f%3d",
                Some("a+/="),
            ),
            (&[b"a+/="], "chatwork_webhook_signature=b%3d", None),
            (&[b"a+/="], "chatwork_webhook_signature=", None),
            (&[b""], "chatwork_webhook_signature=a%2b%2f%3d", None),
            (&[b"a", b"a"], "", Some("a")),
            (&[b"a", b"b"], "", None),
            (&[b"\xc3\xa4"], "", None),
            (
                &[b"a"],
                "chatwork_webhook_signature=a&chatwork_webhook_signature=b",
                None,
            ),
            (&[], "Chatwork_Webhook_Signature=a", None),
            (&[b"a"], "%ff%%%&&&===", Some("a")),
        ];
        for (headers, query, expected) in cases {
            assert_eq!(
                presented(headers, query).as_deref(),
                *expected,
                "{headers:?} {query}"
            );
        }
    }
}
