//! The live page: one document that holds all it needs, and the policy under which a browser may
//! run it.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const UPLOT_SCRIPT: &str = include_str!("../../assets/uplot/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("../../assets/uplot/uPlot.min.css");
const BODY: &str = include_str!("../../assets/live/page.html");
const STYLE: &str = include_str!("../../assets/live/style.css");
/// Scripts, in the order in which they need each other.
const SCRIPTS: [&str; 3] = [
    include_str!("../../assets/live/data.js"),
    include_str!("../../assets/live/charts.js"),
    include_str!("../../assets/live/page.js"),
];

/// The page that a browser gets.
struct Page {
    html: String,
    /// For `Content-Security-Policy`: runs only what the page was built with, and asks nobody but
    /// this port.
    policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(Page::build);

/// Answers with the page. It holds no data, so anybody may have it; the data it asks for may be
/// guarded.
pub(super) async fn live_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE.html.as_str()).into_response()
}

// === impl Page ===

impl Page {
    fn build() -> Self {
        let own_script = format!("\"use strict\";\n{}", SCRIPTS.concat());
        let (styles, scripts) = ([UPLOT_STYLE, STYLE], [UPLOT_SCRIPT, own_script.as_str()]);
        let mut html = String::from(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Skipstone</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n",
        );
        styles.iter().for_each(|style| html.push_str(&format!("<style>{style}</style>\n")));
        html.push_str("<body>\n");
        html.push_str(BODY);
        scripts.iter().for_each(|script| html.push_str(&format!("<script>{script}</script>\n")));
        html.push_str("</html>\n");
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            sources(&styles),
            sources(&scripts)
        );
        Self { html, policy }
    }
}

/// The hashes by which a policy admits elements with these contents.
fn sources(contents: &[&str]) -> String {
    let hashes =
        contents.iter().map(|text| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))));
    hashes.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_the_one_that_its_readme_names() {
        for (name, text, checksum) in [
            (
                "uPlot.iife.min.js",
                UPLOT_SCRIPT,
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            (
                "uPlot.min.css",
                UPLOT_STYLE,
                "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            ),
        ] {
            let found: String =
                Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, checksum, "{name} was changed; see assets/uplot/README.md");
        }
    }

    #[test]
    fn the_page_holds_all_it_needs_and_admits_nothing_else() {
        let page = Page::build();
        for asset in ["src=", "@import", "url(", "integrity="] {
            assert!(!page.html.contains(asset), "{asset} asks for another file");
        }
        assert_eq!(page.html.matches("<script").count(), 2, "a script contains the word");
        assert_eq!(page.policy.matches("'sha256-").count(), 4);
        assert!(!page.policy.contains("unsafe") && page.policy.starts_with("default-src 'none'"));
        assert!(!BODY.contains("style=") && !BODY.contains("onclick="), "the policy refuses them");
    }
}
