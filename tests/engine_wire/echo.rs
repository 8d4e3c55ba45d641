//! Messages there and back.

use crate::app::{App, Happened};
use crate::world::World;
use unsocket::time::Duration;
use unsocket::ws::Message;

#[test]
fn a_message_comes_back() {
    let client = App::new().on_open(|conn| {
        conn.send_text("hello");
    });
    let mut world = World::new(App::echo(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.client.handler().messages == 1);
    assert_eq!(world.client.handler().texts(), ["hello"]);
    assert_eq!(world.server.handler().texts(), ["hello"]);
}
