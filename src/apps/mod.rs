//! What ships in the binary.

pub mod chat;
pub mod echo;
pub mod page;
pub mod pubsub;

pub use chat::Chat;
pub use echo::Echo;
pub use pubsub::PubSub;
