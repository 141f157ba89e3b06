//! Which proxy the clients use, for whoever has to tell a person. They themselves leave that to
//! reqwest; this asks the part of it that decides.

use hyper_util::client::proxy::matcher::Matcher;

use crate::http;

/// The proxy through which a service at this address is called, without credentials; `None`: it is called
/// directly. The environment is read through `variable`.
pub fn proxy(url: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if http::is_loopback(&http::base(url).ok()?) {
        return None;
    }
    let first = |names: [&str; 2]| names.into_iter().find_map(variable).unwrap_or_default();
    let matcher = Matcher::builder()
        .all(first(["ALL_PROXY", "all_proxy"]))
        .http(first(["HTTP_PROXY", "http_proxy"]))
        .https(first(["HTTPS_PROXY", "https_proxy"]))
        .no(first(["NO_PROXY", "no_proxy"]))
        .build();
    let proxy = matcher.intercept(&url.trim().parse().ok()?)?;
    proxy
        .uri()
        .authority()
        .map(|authority| authority.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_for_what_it_is_meant_for() {
        const CHATWORK: &str = "https://api.chatwork.com/v2";
        const PROXY: &str = "http://me:sesame@proxy:3128";
        type Row = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Option<&'static str>,
        );
        let table: &[Row] = &[
            (CHATWORK, &[], None),
            (CHATWORK, &[("HTTPS_PROXY", PROXY)], Some("proxy:3128")),
            (CHATWORK, &[("all_proxy", PROXY)], Some("proxy:3128")),
            (CHATWORK, &[("HTTP_PROXY", PROXY)], None),
            (CHATWORK, &[("https_proxy", PROXY), ("NO_PROXY", "*")], None),
            (
                CHATWORK,
                &[("https_proxy", PROXY), ("no_proxy", "a.b, chatwork.com")],
                None,
            ),
            (
                CHATWORK,
                &[("https_proxy", PROXY), ("NO_PROXY", "work.com")],
                Some("proxy:3128"),
            ),
            (
                "https://10.1.2.3/v2",
                &[("https_proxy", PROXY), ("NO_PROXY", "10.0.0.0/8")],
                None,
            ),
            (
                "http://sandbox:8081/v2",
                &[("http_proxy", PROXY)],
                Some("proxy:3128"),
            ),
            ("https://127.0.0.1/v2", &[("https_proxy", PROXY)], None),
            ("https://localhost:8081", &[("all_proxy", PROXY)], None),
        ];
        for (url, variables, expected) in table {
            let variable = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let proxy = proxy(url, &variable);
            assert_eq!(proxy.as_deref(), *expected, "{url} {variables:?}");
        }
    }
}
