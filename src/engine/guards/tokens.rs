//! A list of tokens, one of which a client has to bear.

use super::{Claims, Guard, token_of, unauthorized};
use crate::engine::handler::{Refusal, Request};
use crate::time::Duration;
use std::fmt;
use subtle::ConstantTimeEq;

/// Lets in whoever bears one of the tokens.
#[derive(Clone)]
pub struct Tokens {
    tokens: Vec<Box<[u8]>>,
    query_key: Option<String>,
}

/// Why a token cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// No token at all: nobody could get in.
    #[error("there is no token in the list")]
    Empty,
    /// One that is easily guessed.
    #[error(
        "token {number} has {bytes} bytes, {TOKEN_BYTES_MIN} or more are needed: `openssl rand -hex 16` makes one"
    )]
    TooShort {
        /// Its place in the list, from 1.
        number: usize,
        /// Its length, bytes.
        bytes: usize,
    },
    /// One that no header can carry.
    #[error("token {number} has a character that cannot stand in a header: letters, digits and -._~+/= can")]
    Character {
        /// Its place in the list, from 1.
        number: usize,
    },
}

/// Fewest bytes of a token.
const TOKEN_BYTES_MIN: usize = 16;

impl Tokens {
    /// A guard that accepts these tokens in the `Authorization` header and, with `query_key`, in the query: browsers
    /// cannot set the header of a WebSocket.
    ///
    /// # Errors
    /// The first token that cannot work.
    pub fn new(tokens: &[String], query_key: Option<String>) -> Result<Self, TokensError> {
        if tokens.is_empty() {
            return Err(TokensError::Empty);
        }
        for (number, token) in (1..).zip(tokens) {
            if token.len() < TOKEN_BYTES_MIN {
                return Err(TokensError::TooShort { number, bytes: token.len() });
            }
            // RFC 6750 section 2.1.
            if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
                return Err(TokensError::Character { number });
            }
        }
        let tokens = tokens.iter().map(|token| token.as_bytes().into()).collect();
        Ok(Tokens { tokens, query_key })
    }

    /// Compares with every token, each to its end: how long it takes says nothing about how near a guess was.
    fn has(&self, token: &str) -> bool {
        let same = |known: &[u8]| known.ct_eq(token.as_bytes());
        self.tokens.iter().fold(subtle::Choice::from(0), |found, known| found | same(known)).into()
    }
}

impl Guard for Tokens {
    fn check(&self, request: &Request<'_>, _: Option<Duration>) -> Result<Option<Claims>, Refusal> {
        let token = token_of(request, self.query_key.as_deref())?;
        if self.has(&token) {
            return Ok(None);
        }
        Err(unauthorized("this token is not known here", "Bearer error=\"invalid_token\""))
    }
}

impl fmt::Debug for Tokens {
    /// Tokens are secrets: not in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.tokens.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_token_counts() {
        let tokens = Tokens::new(&["0123456789abcdef".into(), "another-token-16".into()], None).unwrap();
        assert!(tokens.has("0123456789abcdef") && tokens.has("another-token-16"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "another-token-17"] {
            assert!(!tokens.has(wrong), "{wrong}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
    }

    #[test]
    fn tokens_that_cannot_work_are_refused() {
        let refused = |tokens: &[&str]| {
            let tokens: Vec<String> = tokens.iter().map(|&token| token.to_owned()).collect();
            Tokens::new(&tokens, None).unwrap_err()
        };
        assert_eq!(refused(&[]), TokensError::Empty);
        assert_eq!(refused(&["0123456789abcdef", "short"]), TokensError::TooShort { number: 2, bytes: 5 });
        assert_eq!(refused(&["with a space in it!"]), TokensError::Character { number: 1 });
    }
}
