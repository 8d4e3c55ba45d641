//! How the engine's workers are set up for a load, on either end.

use super::BenchError;
use super::plan::{Plan, Scenario};
use crate::engine::{Deadlines, EngineConfig, Limits, NoWake, Seat, Wake, seats as crew_seats};
use crate::stack::{CongestionControl, StackConfig};
use crate::ws::{self, deflate::DeflateConfig};
use std::sync::Arc;

/// A configuration with room for `plan`: nothing but the load's own time limit ends a connection.
pub fn config(plan: &Plan, stack: StackConfig) -> EngineConfig {
    let message = ws::Limits::default();
    EngineConfig {
        stack,
        limits: Limits {
            // Where connections come and go, the old ones take a while to go.
            connections_max: match plan.scenario {
                Scenario::Connect { .. } => 2 * plan.connections as usize + 64,
                _ => plan.connections as usize + 1,
            },
            message: ws::Limits {
                message_bytes_max: message.message_bytes_max.max(plan.size.most()),
                frame_bytes_max: message.frame_bytes_max.max(plan.size.most()),
                ..message
            },
            memory_bytes_max: usize::MAX,
            ..Limits::default()
        },
        deadlines: Deadlines {
            handshake: plan.timeout,
            idle: None,
            ping: None,
            tick: None,
            ..Deadlines::default()
        },
        deflate: plan.deflate.then(DeflateConfig::default),
        ..EngineConfig::default()
    }
}

/// The seats of `count` workers that send each other nothing.
///
/// # Errors
/// When the configuration cannot work.
pub fn seats(config: &EngineConfig, mtu: usize, count: usize) -> Result<Vec<Seat>, BenchError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| BenchError::Kernel { what: "no random bytes", source: error.into() })?;
    let wakers = (0..count).map(|_| Arc::new(NoWake) as Arc<dyn Wake>).collect();
    let (_, seats) = crew_seats(config, mtu, secret, wakers)?;
    Ok(seats)
}

/// The name of a congestion control in options and reports.
pub fn congestion_name(congestion: CongestionControl) -> &'static str {
    match congestion {
        CongestionControl::Cubic => "cubic",
        CongestionControl::None => "none",
    }
}
