//! The page that `serve` answers at `/`.

use crate::http::Answer;

/// The page, as it is with the WebSocket at `/ws`.
const PAGE: &str = include_str!("page.html");

/// What the page may do: its own style and script and nothing else, and connect to WebSockets anywhere, because the
/// address on it can be edited.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-VlmbNvb/iSBtDF6bxoSZxSGl7KDtBttL91m0ME3s96w='; \
    style-src 'sha256-AriHmB0CSJ/X6utuTIxuRhCSyohqNmDI9hHotWPsb/o='; \
    img-src data:; connect-src ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The answer with the page. `path` is where it connects to at first, on the host that it came from.
pub fn page(path: &str) -> Answer {
    let attribute = path.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    Answer::html(PAGE.replacen(r#"content="/ws""#, &format!(r#"content="{attribute}""#), 1), POLICY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use sha2::{Digest, Sha256};

    fn between<'t>(start: &str, text: &'t str, end: &str) -> &'t str {
        let (_, rest) = text.split_once(start).unwrap();
        rest.split_once(end).unwrap().0
    }

    #[test]
    fn the_policy_allows_exactly_this_style_and_script() {
        for (source, tag) in [("script-src", "script"), ("style-src", "style")] {
            let content = between(&format!("<{tag}>"), PAGE, &format!("</{tag}>"));
            let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(content));
            let wanted = format!("{source} 'sha256-{digest}';");
            assert!(POLICY.contains(&wanted), "the {tag} of page.html has changed: POLICY needs {wanted}");
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1);
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for word in ["src=", "@import", "url(", "http://", "https://", "onclick=", "style="] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn the_ids_that_scripts_rely_on_are_there() {
        let ids = "url connect disconnect state message kind send log burst inflight rate rtt plot";
        for id in ids.split(' ') {
            assert_eq!(PAGE.matches(&format!(r#" id="{id}""#)).count(), 1, "#{id}");
            assert!(PAGE.split_once("-->").unwrap().0.contains(&format!("#{id}")), "#{id} is not described");
        }
    }

    #[test]
    fn the_path_cannot_leave_its_attribute() {
        let answer = page(r#"/a"><script>&"#);
        let body = String::from_utf8(answer.body.into_owned()).unwrap();
        assert!(body.contains(r#"<meta name="ws-path" content="/a&quot;>&lt;script>&amp;">"#));
    }
}
