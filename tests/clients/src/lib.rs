//! Named cases, each reported as one line of JSON on stdout; the same lines as `tests/e2e/inside/cases.py`.

use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Why a case failed: what was expected and what came.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What a case returns.
pub type Outcome = Result<(), Failure>;
/// A client's connection.
pub type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

type Run = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Outcome>>>>;

/// The cases of one program, in the order in which they were declared.
#[derive(Default)]
pub struct Plan {
    cases: Vec<(String, Run)>,
}

impl Plan {
    /// Adds a case, which passes by returning `Ok`.
    pub fn add<F: Future<Output = Outcome> + 'static>(
        &mut self,
        name: impl Into<String>,
        run: impl FnOnce() -> F + 'static,
    ) {
        self.cases.push((name.into(), Box::new(move || Box::pin(run()))));
    }

    /// Runs every case and reports it; one that fails does not keep the others from running.
    pub async fn main(self, case_limit: Duration) {
        let names: Vec<_> = self.cases.iter().map(|(name, _)| name).collect();
        println!("{}", serde_json::json!({ "plan": names }));
        for (name, run) in self.cases {
            let started = Instant::now();
            let outcome = match tokio::time::timeout(case_limit, run()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("not done after {} s", case_limit.as_secs()).into()),
            };
            let note = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{}",
                serde_json::json!({ "case": name, "ok": outcome.is_ok(), "seconds": seconds, "note": note })
            );
        }
    }
}

/// Opens a connection with `read_buffer_bytes` of client-side buffer and no limit on what it receives.
///
/// # Errors
/// Whatever TCP or the handshake says, or that it took over 20 s.
pub async fn open(url: &str, read_buffer_bytes: usize) -> Result<Ws, Failure> {
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None)
        .read_buffer_size(read_buffer_bytes)
        .write_buffer_size(0);
    let connecting = connect_async_with_config(url, Some(config), true);
    let (ws, _) = tokio::time::timeout(Duration::from_secs(20), connecting)
        .await
        .map_err(|_| "the connection was not open after 20 s")??;
    Ok(ws)
}

/// Fails the case unless both are equal, and says both.
///
/// # Errors
/// When they differ.
pub fn expect_equal<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T, what: &str) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: expected {}, got {}", shorten(wanted), shorten(got)).into())
}

fn shorten(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.len()),
        None => text,
    }
}
