//! What ships in the binary.

pub mod chat;
pub mod echo;

pub use chat::Chat;
pub use echo::Echo;
