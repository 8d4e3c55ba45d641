//! Who may do what: the server's choice, the client's offer and its check of the answer (RFC 7692 sections 5 and 7.1).

use super::parameters::{self, Malformed, Parameters, Unacceptable};
use super::{DeflateConfig, History, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use httparse::Header;

/// What both ends agreed on, as we see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What we send.
    pub send: Direction,
    /// What we receive.
    pub receive: Direction,
}

/// What was agreed on for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Messages may refer to earlier ones.
    pub takeover: bool,
    /// How far back: 2^8..=2^15 bytes. With 8 we can receive but not send: zlib has no such window.
    pub window_bits: u8,
}

impl Direction {
    /// What a connection has to remember of this direction, if anything.
    pub fn history(self) -> Option<History> {
        self.takeover.then(|| History::new(self.window_bits))
    }
}

/// Why a server's answer fails the connection (RFC 7692 sections 5.1 and 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The header is no list of extensions.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It chose what was not offered, or chose twice.
    #[error("the server chose an extension that was not offered")]
    NotOffered,
    /// A parameter that is unknown, repeated or has no right value.
    #[error("the server's parameters of permessage-deflate are not those of RFC 7692 section 7.1")]
    Parameters,
    /// The answer allows the server what every offer ruled out.
    #[error("the server did not agree to the limits that permessage-deflate was offered with")]
    LimitsIgnored,
}

/// The server's choice: the first offer in the client's order that we can accept, and the header that says so. `None`
/// declines them all (RFC 7692 section 5.1): messages then go as they are.
///
/// # Errors
/// A header that does not conform to the grammar of RFC 6455 section 9.1: the connection fails.
pub fn choose(
    headers: &[Header<'_>],
    config: &DeflateConfig,
) -> Result<Option<(Agreement, String)>, Malformed> {
    let mut chosen = None;
    parameters::read(headers, |extension| {
        if chosen.is_none()
            && extension.is_deflate
            && let Ok(offer) = extension.parameters
        {
            chosen = accept(offer, config);
        }
    })?;
    Ok(chosen)
}

/// What the client offers, as the header's value. Where it limits the server's window it offers no takeover as the
/// alternative, as there are servers that know no other window than the largest.
pub fn offers(config: &DeflateConfig) -> String {
    let mut common = "; client_max_window_bits".to_owned();
    if !config.send_takeover {
        common.push_str("; client_no_context_takeover");
    }
    let without = format!("permessage-deflate; server_no_context_takeover{common}");
    if !config.receive_takeover {
        without
    } else if config.receive_window_bits >= WINDOW_BITS_MAX {
        format!("permessage-deflate{common}")
    } else {
        let bits = config.receive_window_bits;
        format!("permessage-deflate; server_max_window_bits={bits}{common}, {without}")
    }
}

/// The client's check of the answer; `config` is what was offered with, `None` when nothing was. `Ok(None)` when the
/// server declined.
///
/// # Errors
/// Anything that does not correspond to an offer: the connection fails.
pub fn read_answer(
    headers: &[Header<'_>],
    config: Option<&DeflateConfig>,
) -> Result<Option<Agreement>, AnswerError> {
    let mut answers = 0;
    let mut answer = None;
    parameters::read(headers, |extension| {
        answers += 1;
        answer = Some(extension);
    })?;
    let Some(answer) = answer else { return Ok(None) };
    let config = config.filter(|_| answers == 1 && answer.is_deflate).ok_or(AnswerError::NotOffered)?;
    let agreed = answer.parameters.map_err(|Unacceptable| AnswerError::Parameters)?;
    let send_bits = match agreed.client_max_window_bits {
        Some(bits) => bits.ok_or(AnswerError::Parameters)?,
        None => WINDOW_BITS_MAX,
    };
    let receive_bits = agreed.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX);
    let takeover = !agreed.server_no_context_takeover;
    if takeover && !(config.receive_takeover && receive_bits <= config.receive_window_bits) {
        return Err(AnswerError::LimitsIgnored);
    }
    Ok(Some(Agreement {
        send: Direction {
            takeover: config.send_takeover && !agreed.client_no_context_takeover,
            window_bits: config.send_window_bits.min(send_bits),
        },
        receive: Direction { takeover, window_bits: receive_bits },
    }))
}

/// The answer to one offer; `None` when we cannot do what it asks.
fn accept(offer: Parameters, config: &DeflateConfig) -> Option<(Agreement, String)> {
    let mut answer = "permessage-deflate".to_owned();

    // What we send. A window of 8 bits is none that zlib compresses with.
    let bits_max = offer.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX);
    if bits_max < WINDOW_BITS_MIN {
        return None;
    }
    let send = Direction {
        takeover: config.send_takeover && !offer.server_no_context_takeover,
        window_bits: config.send_window_bits.min(bits_max),
    };
    if !send.takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if offer.server_max_window_bits.is_some() {
        answer.push_str(&format!("; server_max_window_bits={}", send.window_bits));
    }

    // What we receive: whoever does not offer a smaller window may use the largest one, so that remembering costs more
    // than we want. Without takeover the window costs nothing.
    let window_bits = match offer.client_max_window_bits {
        Some(bits) => config.receive_window_bits.min(bits.unwrap_or(WINDOW_BITS_MAX)),
        None => WINDOW_BITS_MAX,
    };
    let takeover = config.receive_takeover
        && !offer.client_no_context_takeover
        && window_bits <= config.receive_window_bits;
    let receive = Direction { takeover, window_bits: if takeover { window_bits } else { WINDOW_BITS_MAX } };
    if !takeover {
        answer.push_str("; client_no_context_takeover");
    } else if window_bits < WINDOW_BITS_MAX {
        answer.push_str(&format!("; client_max_window_bits={window_bits}"));
    }
    Some((Agreement { send, receive }, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: DeflateConfig = DeflateConfig {
        level: 1,
        threshold_bytes: 1,
        send_takeover: true,
        receive_takeover: true,
        send_window_bits: 12,
        receive_window_bits: 11,
    };
    const NEITHER: DeflateConfig = DeflateConfig { send_takeover: false, receive_takeover: false, ..BOTH };
    const WIDE: DeflateConfig = DeflateConfig { send_window_bits: 15, receive_window_bits: 15, ..BOTH };

    fn header(value: &str) -> [Header<'_>; 1] {
        [Header { name: "Sec-WebSocket-Extensions", value: value.as_bytes() }]
    }

    fn with(takeover: bool, window_bits: u8) -> Direction {
        Direction { takeover, window_bits }
    }

    /// The answer to `offer`, or `""`, and what is then agreed.
    fn answer(offer: &str, config: &DeflateConfig) -> (String, Option<Agreement>) {
        match choose(&header(offer), config).unwrap() {
            Some((agreement, answer)) => (answer, Some(agreement)),
            None => (String::new(), None),
        }
    }

    #[test]
    fn what_a_server_answers() {
        let no_client = "client_no_context_takeover";
        for (offer, config, expected, send, receive) in [
            // RFC 7692 section 7.1.3's own offers.
            ("permessage-deflate", BOTH, format!("; {no_client}"), with(true, 12), with(false, 15)),
            ("permessage-deflate", WIDE, String::new(), with(true, 15), with(true, 15)),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
                BOTH,
                "; server_max_window_bits=10; client_max_window_bits=11".to_owned(),
                with(true, 10),
                with(true, 11),
            ),
            // A window in the offer bounds ours, and is answered with ours.
            (
                "permessage-deflate; server_max_window_bits=15; client_max_window_bits=9",
                BOTH,
                "; server_max_window_bits=12; client_max_window_bits=9".to_owned(),
                with(true, 12),
                with(true, 9),
            ),
            (
                "permessage-deflate; client_max_window_bits=8",
                BOTH,
                "; client_max_window_bits=8".to_owned(),
                with(true, 12),
                with(true, 8),
            ),
            // Takeover that the client rules out for us, or says it will not use.
            (
                "permessage-deflate; server_no_context_takeover; client_max_window_bits",
                BOTH,
                "; server_no_context_takeover; client_max_window_bits=11".to_owned(),
                with(false, 12),
                with(true, 11),
            ),
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits",
                BOTH,
                format!("; {no_client}"),
                with(true, 12),
                with(false, 15),
            ),
            // Takeover that we do not want.
            (
                "permessage-deflate; client_max_window_bits",
                NEITHER,
                format!("; server_no_context_takeover; {no_client}"),
                with(false, 12),
                with(false, 15),
            ),
        ] {
            let agreed = Agreement { send, receive };
            let expected = (format!("permessage-deflate{expected}"), Some(agreed));
            assert_eq!(answer(offer, &config), expected, "{offer}");
        }
    }

    #[test]
    fn the_first_offer_that_works_is_chosen() {
        let declined = [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ];
        for offer in declined {
            assert_eq!(answer(offer, &BOTH), (String::new(), None), "{offer}");
            let (second, _) = answer(
                &format!("{offer}, permessage-deflate, permessage-deflate; server_max_window_bits=9"),
                &WIDE,
            );
            assert_eq!(second, "permessage-deflate", "{offer}");
        }
        assert_eq!(choose(&header("permessage-deflate; =9"), &BOTH), Err(Malformed));
    }

    #[test]
    fn what_a_client_offers() {
        let bits = "client_max_window_bits";
        let hint = "client_no_context_takeover";
        let first = format!("permessage-deflate; server_max_window_bits=11; {bits}");
        let second = format!("permessage-deflate; server_no_context_takeover; {bits}");
        assert_eq!(offers(&BOTH), format!("{first}, {second}"));
        assert_eq!(offers(&NEITHER), format!("{second}; {hint}"));
        assert_eq!(offers(&WIDE), format!("permessage-deflate; {bits}"));
    }

    #[test]
    fn what_a_client_accepts() {
        for (answer, config, send, receive) in [
            ("", WIDE, with(true, 15), with(true, 15)),
            ("; server_max_window_bits=11", BOTH, with(true, 12), with(true, 11)),
            ("; server_max_window_bits=8", BOTH, with(true, 12), with(true, 8)),
            ("; server_no_context_takeover", BOTH, with(true, 12), with(false, 15)),
            (
                "; server_no_context_takeover; client_max_window_bits=9",
                NEITHER,
                with(false, 9),
                with(false, 15),
            ),
            ("; client_no_context_takeover; client_max_window_bits=8", WIDE, with(false, 8), with(true, 15)),
        ] {
            let answer = format!("permessage-deflate{answer}");
            let agreed = Ok(Some(Agreement { send, receive }));
            assert_eq!(read_answer(&header(&answer), Some(&config)), agreed, "{answer}");
        }
        assert_eq!(read_answer(&header(" "), Some(&BOTH)), Ok(None));
        assert_eq!(read_answer(&[], None), Ok(None));
    }

    #[test]
    fn what_a_client_refuses() {
        use AnswerError::{LimitsIgnored, NotOffered, Parameters};
        for (answer, config, error) in [
            ("permessage-deflate", None, NotOffered),
            ("permessage-bzip2", Some(&WIDE), NotOffered),
            ("permessage-deflate, permessage-deflate", Some(&WIDE), NotOffered),
            ("permessage-deflate, x", Some(&WIDE), NotOffered),
            ("permessage-deflate; unknown", Some(&WIDE), Parameters),
            ("permessage-deflate; client_max_window_bits", Some(&WIDE), Parameters),
            ("permessage-deflate; client_max_window_bits=16", Some(&WIDE), Parameters),
            ("permessage-deflate; server_max_window_bits=07", Some(&WIDE), Parameters),
            ("permessage-deflate; server_no_context_takeover=x", Some(&WIDE), Parameters),
            ("permessage-deflate", Some(&BOTH), LimitsIgnored),
            ("permessage-deflate; server_max_window_bits=12", Some(&BOTH), LimitsIgnored),
            ("permessage-deflate; server_max_window_bits=9", Some(&NEITHER), LimitsIgnored),
            ("permessage-deflate;", Some(&WIDE), AnswerError::Malformed(Malformed)),
        ] {
            assert_eq!(read_answer(&header(answer), config), Err(error), "{answer}");
        }
    }

    #[test]
    fn both_ends_agree_whatever_they_want() {
        let configs = [(9, 15), (12, 11), (15, 9), (15, 15)].into_iter().flat_map(|(send, receive)| {
            [(true, true), (true, false), (false, true), (false, false)].map(
                |(send_takeover, receive_takeover)| DeflateConfig {
                    send_takeover,
                    receive_takeover,
                    send_window_bits: send,
                    receive_window_bits: receive,
                    ..BOTH
                },
            )
        });
        for client in configs.clone() {
            for server in configs.clone() {
                let offered = offers(&client);
                let (ours, answer) = choose(&header(&offered), &server).unwrap().unwrap();
                let theirs = read_answer(&header(&answer), Some(&client)).unwrap().unwrap();
                for (sender, receiver) in [(ours.send, theirs.receive), (theirs.send, ours.receive)] {
                    assert!(receiver.takeover || !sender.takeover, "{offered} {answer}");
                    assert!(
                        !sender.takeover || sender.window_bits <= receiver.window_bits,
                        "{offered} {answer}"
                    );
                }
            }
        }
    }
}
