//! JSON Web Tokens (RFC 7519): signed claims that a client bears.
//!
//! The signature, audience and issuer are checked by `jsonwebtoken`; the times here, as no layer below the launcher
//! reads a clock. The algorithm is configured, never the token's choice.

use super::{Claims, Guard, token_of, unauthorized};
use crate::engine::handler::{Refusal, Request};
use crate::time::Duration;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use std::fmt;

/// How the tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: the key is a secret that the issuer has, too.
    Hs256,
    /// RSA PKCS #1 with SHA-256: the key is the issuer's public one.
    Rs256,
    /// Ed25519: the key is the issuer's public one.
    EdDsa,
}

/// What tokens are accepted.
#[derive(Clone)]
pub struct JwtOptions {
    /// How they are signed.
    pub algorithm: JwtAlgorithm,
    /// The secret (32 bytes or more) for HS256, a public key in PEM for the others.
    pub key: Vec<u8>,
    /// `aud` has to name one of these; none listed: it is not looked at.
    pub audience: Vec<String>,
    /// `iss` has to be one of these; none listed: it is not looked at.
    pub issuer: Vec<String>,
    /// How far the issuer's clock and ours may differ.
    pub leeway: Duration,
    /// Name under which the token may stand in the query, as browsers cannot set headers.
    pub query_key: Option<String>,
}

/// Why no guard can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// A secret that can be guessed (RFC 7518 section 3.2 wants as many bits as the hash has).
    #[error("the secret has {bytes} bytes, HS256 needs 32 or more: `openssl rand 32 >FILE` makes one")]
    SecretTooShort {
        /// Its length, bytes.
        bytes: usize,
    },
    /// A text with a line end, which would silently be part of the secret.
    #[error(
        "the secret ends with a line end, which its issuer's hardly does: `printf %s SECRET >FILE` writes none"
    )]
    SecretEndsLine,
    /// A key that cannot be read.
    #[error("no public key in PEM for this algorithm: {0}")]
    Key(String),
}

/// Lets in whoever bears a token that is signed, in force, and meant for us. `exp` is required.
#[derive(Clone)]
pub struct Jwt {
    key: DecodingKey,
    validation: Validation,
    leeway: Duration,
    query_key: Option<String>,
}

/// Fewest bytes of a secret.
const SECRET_BYTES_MIN: usize = 32;

impl Jwt {
    /// A guard.
    ///
    /// # Errors
    /// When the key does not fit the algorithm.
    pub fn new(options: &JwtOptions) -> Result<Self, JwtError> {
        let bad_key = |error: jsonwebtoken::errors::Error| JwtError::Key(error.to_string());
        let (algorithm, key) = match options.algorithm {
            JwtAlgorithm::Hs256 if options.key.len() < SECRET_BYTES_MIN => {
                return Err(JwtError::SecretTooShort { bytes: options.key.len() });
            }
            JwtAlgorithm::Hs256 if options.key.is_ascii() && options.key.ends_with(b"\n") => {
                return Err(JwtError::SecretEndsLine);
            }
            JwtAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(&options.key)),
            JwtAlgorithm::Rs256 => {
                (Algorithm::RS256, DecodingKey::from_rsa_pem(&options.key).map_err(bad_key)?)
            }
            JwtAlgorithm::EdDsa => {
                (Algorithm::EdDSA, DecodingKey::from_ed_pem(&options.key).map_err(bad_key)?)
            }
        };
        let mut validation = Validation::new(algorithm);
        // Its own checks of time read a clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = !options.audience.is_empty();
        if validation.validate_aud {
            validation.set_audience(&options.audience);
            validation.required_spec_claims.insert("aud".into());
        }
        if !options.issuer.is_empty() {
            validation.set_issuer(&options.issuer);
            validation.required_spec_claims.insert("iss".into());
        }
        Ok(Jwt { key, validation, leeway: options.leeway, query_key: options.query_key.clone() })
    }

    /// The claims of a token that is good at `unix`, or what is wrong with it.
    fn claims(&self, token: &str, unix: Duration) -> Result<Claims, String> {
        let token =
            decode::<Claims>(token, &self.key, &self.validation).map_err(|error| error.to_string())?;
        // RFC 7515 section 4.1.11: what its issuer calls critical has to be understood, and no extension is here.
        if token.header.crit.is_some() {
            return Err("it has extensions (`crit`) that are not known here".into());
        }
        let claims = token.claims;
        let seconds = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                // RFC 7519 section 2: a number of seconds, perhaps with a fraction.
                Some(seconds) => Ok(Some(seconds)),
                None => Err(format!("`{name}` is no number")),
            },
        };
        let (now, leeway) = (unix.as_secs_f64(), self.leeway.as_secs_f64());
        let expires = seconds("exp")?.ok_or("`exp` is missing")?;
        // JSON has no number that compares with nothing.
        if now >= expires + leeway {
            return Err("it has expired".into());
        }
        if let Some(begins) = seconds("nbf")?
            && begins > now + leeway
        {
            return Err("it is not in force yet".into());
        }
        Ok(claims)
    }
}

impl Guard for Jwt {
    fn check(&self, request: &Request<'_>, unix: Option<Duration>) -> Result<Option<Claims>, Refusal> {
        let token = token_of(request, self.query_key.as_deref())?;
        // Without a clock no token can be told from one that has expired.
        let unix = unix.ok_or_else(|| Refusal::new(503, "this server does not know the time"))?;
        self.claims(&token, unix).map(Some).map_err(|why| {
            let what = format!("the token is not accepted: {why}");
            unauthorized(&what, "Bearer error=\"invalid_token\"")
        })
    }
}

impl fmt::Debug for Jwt {
    /// The key may be a secret: not in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

impl fmt::Debug for JwtOptions {
    /// The key may be a secret: not in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtOptions").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"unsocket test secret, 32 bytes..";
    /// The tokens below are in force from here to an hour later; they name the audiences `feed` and `other`.
    const NOT_BEFORE: u64 = 1_000_000_000;
    const HS256: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.4jmT\
         G0oA8hFyReshEmcQk_HknhDbhOKwLHX7fam3hXQ";
    const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.VZgv\
         AeD5TikX29ZyEU8PldwN81dWYcgBJRTtF-zMMTsCIMdfTo6CDiSPhH7P-L5fhLl6k1LaqkxHB0XbELfFlN0ZxyMSk8\
         0uelLV-HuqZ8HagjKkDv3VunFVlorZ_ObO5tlwFVRaD3_cY09GTw7JD2GiaT9k8tgHYq4ao81WbNt5TJLb_4rHbtPS\
         w5Ag20eDRMDqvbRvWPLpjK0dxQirTFKU9S4vFxZ67_KH3ME3N9GY7eL4HW6NDCekIUM9YRUkP73nImVgDinDwMWwq1\
         8bZmYcZlpMKNxYZ-W4-LusllwI_ZtGGfn4DPG5Qr31reNpVDiPiPYQeTTSyES0f0ROcQ";
    const EDDSA: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.x6Tp\
         A6E6UGnux58cP8mt0LKv6kI5tbiF1lAyG85FTQsgBq2NIaPc-cbJvzyf3ZfQUVmN7scvwB6efhKNatrMDQ";
    const UNSIGNED: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwiaX\
         NzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.";
    const WITHOUT_EXP: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMH0.KPD3I7qjbbkUZg9x7SSazhFp--Q\
         3OvUkemzGVc-xQPk";
    const CRITICAL: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImNyaXQiOlsidGllciJdLCJ0aWVyIjoxfQ.eyJzdWIiOiJhbGljZSI\
         sImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwiaXNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwM\
         DAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.gfUY65R3zHBOyoaMYKg8Vcdgk0Ij9oAhDQTI8Sx9PFE";
    const EXP_IS_TEXT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoic29vbiJ9.3ulkn3M6JE\
         VJE8YPYKyVY6q_Jxggz7amqWe7yTwqR9I";
    const CONFUSED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
         XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.AJ3c\
         QyhIYYJffGkW_oWl7YP__CkcIPoQ_C68pzIaYI8";
    const RSA_PUBLIC: &str = concat!(
        "-----BEGIN PUBLIC KEY-----\n",
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAoZ784Z37Ev48bxzu5N2C\n",
        "9FLba1FToUBXPUO23+JZj8bRVKplT2lB724dDnMqzJvVBtMnEk2RCnHSZiIvPpHf\n",
        "tINiRykORYtwCNJwmFXnWJn1qXVfWLm11VDA5EViRPxhR+zO/Pzw1s20auNAXPdt\n",
        "jjBJjM+xG08y+iwCYtqDnKVVU5uTiKoZQwefQkjt2horw5NSHJwsnnvwOe8KecDY\n",
        "GNbfFJQOMtfmVtHAkZg+sb16wNHv2vbsZv+uqmINLiWiATEN+t2KWZBYvWTUyc/2\n",
        "3+ZiECKDfloLOwCfU/59jzTSDfs33a/2ao4AwXWq7voaiYdjKjjS/ANobva8AeXb\n",
        "swIDAQAB\n",
        "-----END PUBLIC KEY-----\n",
    );
    const ED_PUBLIC: &str = concat!(
        "-----BEGIN PUBLIC KEY-----\n",
        "MCowBQYDK2VwAyEAsWRK3HVD3xBswN+n5nx+BSW6bwb0SIZoLzZKT3lN2kc=\n",
        "-----END PUBLIC KEY-----\n",
    );

    fn options(algorithm: JwtAlgorithm, key: &[u8]) -> JwtOptions {
        JwtOptions {
            algorithm,
            key: key.to_vec(),
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::from_secs(30),
            query_key: None,
        }
    }

    fn hs256() -> Jwt {
        Jwt::new(&options(JwtAlgorithm::Hs256, SECRET)).unwrap()
    }

    fn at(seconds: i64) -> Duration {
        Duration::from_secs(NOT_BEFORE.checked_add_signed(seconds).unwrap())
    }

    #[test]
    fn tokens_of_each_algorithm_are_accepted_with_their_claims() {
        for (algorithm, key, token) in [
            (JwtAlgorithm::Hs256, SECRET, HS256),
            (JwtAlgorithm::Rs256, RSA_PUBLIC.as_bytes(), RS256),
            (JwtAlgorithm::EdDsa, ED_PUBLIC.as_bytes(), EDDSA),
        ] {
            let jwt = Jwt::new(&options(algorithm, key)).unwrap();
            let claims = jwt.claims(token, at(10)).unwrap();
            assert_eq!(claims["sub"], "alice", "{algorithm:?}");
            let mut forged = token.to_owned();
            let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
            forged.insert(forged.len() - 10, last);
            assert!(jwt.claims(&forged, at(10)).is_err(), "{algorithm:?}");
        }
    }

    #[test]
    fn the_algorithm_is_ours_to_choose() {
        // RFC 8725 section 2.1: `none`, and an RSA key taken for the secret of an HMAC.
        let rs256 = Jwt::new(&options(JwtAlgorithm::Rs256, RSA_PUBLIC.as_bytes())).unwrap();
        for token in [UNSIGNED, CONFUSED, HS256, EDDSA] {
            assert!(rs256.claims(token, at(10)).is_err(), "{token}");
        }
        assert!(hs256().claims(UNSIGNED, at(10)).is_err());
        assert!(hs256().claims(RS256, at(10)).is_err());
    }

    #[test]
    fn times_are_those_we_are_told() {
        let jwt = hs256();
        for (seconds, good) in [
            (-31, false),
            (-30, true),
            (0, true),
            (3_600, true),
            (3_629, true),
            (3_630, false),
            (100_000, false),
        ] {
            assert_eq!(jwt.claims(HS256, at(seconds)).is_ok(), good, "{seconds}");
        }
        assert_eq!(jwt.claims(WITHOUT_EXP, at(10)).unwrap_err(), "`exp` is missing");
        assert!(jwt.claims(CRITICAL, at(10)).unwrap_err().contains("`crit`"));
        assert_eq!(jwt.claims(EXP_IS_TEXT, at(10)).unwrap_err(), "`exp` is no number");
    }

    #[test]
    fn audience_and_issuer_have_to_fit() {
        let with = |audience: &[&str], issuer: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let options = options(JwtAlgorithm::Hs256, SECRET);
            Jwt::new(&JwtOptions { audience: list(audience), issuer: list(issuer), ..options }).unwrap()
        };
        assert!(with(&["feed"], &[]).claims(HS256, at(1)).is_ok());
        assert!(with(&["x", "other"], &["https://issuer.example"]).claims(HS256, at(1)).is_ok());
        assert!(with(&["chat"], &[]).claims(HS256, at(1)).is_err());
        assert!(with(&[], &["https://evil.example"]).claims(HS256, at(1)).is_err());
    }

    #[test]
    fn garbage_is_refused() {
        for token in ["", ".", "..", "a.b.c", &HS256[..40], &"x".repeat(10_000)] {
            assert!(hs256().claims(token, at(1)).is_err(), "{token}");
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused() {
        let refused = |algorithm, key: &[u8]| Jwt::new(&options(algorithm, key)).unwrap_err();
        assert_eq!(refused(JwtAlgorithm::Hs256, b"short"), JwtError::SecretTooShort { bytes: 5 });
        assert_eq!(refused(JwtAlgorithm::Hs256, &[SECRET, b"\n"].concat()), JwtError::SecretEndsLine);
        assert!(matches!(refused(JwtAlgorithm::Rs256, ED_PUBLIC.as_bytes()), JwtError::Key(_)));
        assert!(matches!(refused(JwtAlgorithm::EdDsa, RSA_PUBLIC.as_bytes()), JwtError::Key(_)));
        assert!(matches!(refused(JwtAlgorithm::EdDsa, b"no key"), JwtError::Key(_)));
    }
}
