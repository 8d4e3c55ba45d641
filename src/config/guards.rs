//! `[guards]`: who may open a WebSocket, from keys and tokens in files to what the engine asks.

use super::{App, Config, ConfigError};
use crate::engine::guards::{Guard, Jwt, JwtAlgorithm, JwtOptions, Origins, Tokens};
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `[guards]`: who may open a WebSocket.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardsConfig {
    /// File of tokens, one a line, one of which a client has to bear.
    pub tokens_file: Option<PathBuf>,
    /// How the JWTs are signed that clients have to bear.
    pub jwt_algorithm: Option<JwtSignature>,
    /// File of the secret or the public key.
    pub jwt_key_file: Option<PathBuf>,
    /// `aud` has to name one of these.
    pub jwt_audience: Vec<String>,
    /// `iss` has to be one of these.
    pub jwt_issuer: Vec<String>,
    /// How far the issuer's clock and ours may differ.
    pub jwt_leeway_ms: u64,
    /// Name under which a token may stand in the query; none: only in the header.
    pub token_query: Option<String>,
}

/// How JWTs are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
pub enum JwtSignature {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Default for GuardsConfig {
    fn default() -> Self {
        GuardsConfig {
            tokens_file: None,
            jwt_algorithm: None,
            jwt_key_file: None,
            jwt_audience: Vec::new(),
            jwt_issuer: Vec::new(),
            jwt_leeway_ms: 30_000,
            token_query: None,
        }
    }
}

impl Config {
    /// Which web pages may open a WebSocket: those listed beside the server's own; when none is, any may talk to an echo,
    /// and the server's own alone to the applications where users meet.
    pub(super) fn origins(&self) -> Origins {
        let also = self.server.allowed_origins.clone();
        let any = also.iter().any(|origin| origin == "*") || also.is_empty() && self.server.app == App::Echo;
        if any { Origins::Any } else { Origins::Own { also } }
    }

    /// The guards, with their keys and tokens read.
    ///
    /// # Errors
    /// A file that cannot be read or holds nothing that works.
    pub fn guards(&self) -> Result<Vec<Arc<dyn Guard>>, ConfigError> {
        let guards = &self.guards;
        let mut list: Vec<Arc<dyn Guard>> = Vec::new();
        if let Some(path) = &guards.tokens_file {
            let key = "guards.tokens_file";
            let text = String::from_utf8(read(key, path)?)
                .map_err(|_| invalid(key, path, "it is no text".into()))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let tokens: Vec<String> = lines.map(str::to_owned).collect();
            let tokens = Tokens::new(&tokens, guards.token_query.clone())
                .map_err(|error| invalid(key, path, error.to_string()))?;
            list.push(Arc::new(tokens));
        }
        if let (Some(algorithm), Some(path)) = (guards.jwt_algorithm, &guards.jwt_key_file) {
            let key = "guards.jwt_key_file";
            let options = JwtOptions {
                algorithm: match algorithm {
                    JwtSignature::Hs256 => JwtAlgorithm::Hs256,
                    JwtSignature::Rs256 => JwtAlgorithm::Rs256,
                    JwtSignature::EdDsa => JwtAlgorithm::EdDsa,
                },
                key: read(key, path)?,
                audience: guards.jwt_audience.clone(),
                issuer: guards.jwt_issuer.clone(),
                leeway: Duration::from_millis(guards.jwt_leeway_ms),
                query_key: guards.token_query.clone(),
            };
            let jwt = Jwt::new(&options).map_err(|error| invalid(key, path, error.to_string()))?;
            list.push(Arc::new(jwt));
        }
        Ok(list)
    }

    pub(super) fn validate_guards(&self) -> Result<(), ConfigError> {
        let GuardsConfig { tokens_file, jwt_algorithm, jwt_key_file, token_query, .. } = &self.guards;
        if let (Some(path), Some(_)) = (tokens_file, jwt_algorithm) {
            let reason = "`guards.jwt_algorithm` is set, too, and a client can bear one token only";
            return Err(invalid("guards.tokens_file", path, reason.into()));
        }
        match (jwt_algorithm, jwt_key_file) {
            (Some(_), None) => {
                let hint = "name the file of the secret (HS256) or of the public key in PEM (RS256, EdDSA)";
                return Err(ConfigError::Missing { key: "guards.jwt_key_file", hint });
            }
            (None, Some(_)) => {
                let hint = "say how the tokens are signed: HS256, RS256 or EdDSA";
                return Err(ConfigError::Missing { key: "guards.jwt_algorithm", hint });
            }
            _ => {}
        }
        let nobody_asks = tokens_file.is_none() && jwt_algorithm.is_none();
        let claims = &self.guards;
        let unused = [
            ("guards.token_query", token_query.is_some()),
            ("guards.jwt_audience", !claims.jwt_audience.is_empty() && jwt_algorithm.is_none()),
            ("guards.jwt_issuer", !claims.jwt_issuer.is_empty() && jwt_algorithm.is_none()),
        ];
        if let Some((key, _)) =
            unused.into_iter().find(|&(key, set)| set && (nobody_asks || key != "guards.token_query"))
        {
            let reason =
                "nobody asks for a token: set `guards.tokens_file`, or `guards.jwt_algorithm` with its key";
            return Err(ConfigError::Invalid { key, value: "set".into(), reason: reason.into() });
        }
        if let Some(name) =
            token_query.as_ref().filter(|name| name.is_empty() || name.contains(['&', '=', '#', ' ']))
        {
            let reason = "a query parameter's name, e.g. access_token";
            return Err(ConfigError::Invalid {
                key: "guards.token_query",
                value: name.clone(),
                reason: reason.into(),
            });
        }
        Ok(())
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| invalid(key, path, format!("it cannot be read: {error}")))
}

fn invalid(key: &'static str, path: &Path, reason: String) -> ConfigError {
    ConfigError::Invalid { key, value: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text, "test").unwrap()
    }

    #[test]
    fn where_users_meet_only_the_servers_own_pages_may_open() {
        let own = Origins::Own { also: Vec::new() };
        assert_eq!(config("server.app = 'echo'").origins(), Origins::Any);
        assert_eq!(config("server.app = 'chat'").origins(), own);
        assert_eq!(config("server = { app = 'chat', allowed_origins = ['*'] }").origins(), Origins::Any);
        let listed = config("server.allowed_origins = ['https://a.example']").origins();
        assert_eq!(listed, Origins::Own { also: vec!["https://a.example".into()] });
    }

    #[test]
    fn files_become_guards() {
        let folder = std::env::temp_dir().join(format!("unsocket-guards-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let tokens = file("tokens", "# for the dashboards\n0123456789abcdef\n\n  fedcba9876543210\n");
        let secret = file("secret", &"x".repeat(32));
        let guards = |text: String| config(&text).guards().map(|guards| format!("{guards:?}"));
        assert_eq!(guards(format!("guards.tokens_file = '{tokens}'")).unwrap(), "[Tokens(2)]");
        let jwt = |key: &str, algorithm: &str| {
            guards(format!("guards = {{ jwt_algorithm = '{algorithm}', jwt_key_file = '{key}' }}"))
        };
        assert!(jwt(&secret, "HS256").unwrap().contains("HS256"));
        let refused = |guards: Result<String, ConfigError>| guards.unwrap_err().to_string();
        assert!(refused(jwt(&secret, "RS256")).contains("PEM"));
        assert!(refused(jwt(&tokens[..3], "HS256")).contains("cannot be read"));
        assert!(refused(jwt(&file("short", "abc"), "HS256")).contains("32 or more"));
        assert!(
            refused(guards(format!("guards.tokens_file = '{}'", file("none", "# nobody\n"))))
                .contains("no token")
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn keys_that_do_nothing_are_refused() {
        for (text, key) in [
            ("guards.token_query = 't'", "guards.token_query"),
            ("guards.jwt_audience = ['a']", "guards.jwt_audience"),
            ("guards = { tokens_file = 'f', jwt_issuer = ['a'] }", "guards.jwt_issuer"),
            ("guards = { tokens_file = 'f', token_query = 'a=b' }", "guards.token_query"),
            (
                "guards = { tokens_file = 'f', jwt_algorithm = 'HS256', jwt_key_file = 'k' }",
                "guards.tokens_file",
            ),
            ("guards.jwt_algorithm = 'HS256'", "guards.jwt_key_file"),
            ("guards.jwt_key_file = 'k'", "guards.jwt_algorithm"),
        ] {
            let message = config(text).validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{key}` is ")), "{text}: {message}");
        }
        config("guards = { tokens_file = 'f', token_query = 'access_token' }").validate().unwrap();
    }
}
