//! What a server does on each connection: it echoes, unless it is told otherwise.

use crate::{Failure, In, Out, Socket};

pub const PARTS: [&str; 5] = ["one ", "", "é漢", "😀", " five"];
pub const PING: [u8; 125] = [b'p'; 125];

pub async fn serve(mut socket: impl Socket) -> Result<(), Failure> {
    loop {
        match socket.next().await? {
            In::Text(text) => match text.split(' ').collect::<Vec<_>>()[..] {
                ["fragments"] => socket.send(parts()).await?,
                ["ping"] => socket.send(Out::Ping(PING.to_vec())).await?,
                ["close", code, ref reason @ ..] => {
                    socket.send(Out::Close(code.parse()?, reason.join(" "))).await?;
                }
                _ => socket.send(Out::Text(text)).await?,
            },
            In::Binary(bytes) => socket.send(Out::Binary(bytes)).await?,
            In::Pong(payload) if payload == PING => socket.send(Out::Text("ponged".into())).await?,
            In::Pong(_) => socket.send(Out::Text("another pong".into())).await?,
            // Its answer is the library's; then the client ends TCP, or sees ours end.
            In::Close(..) => {}
            In::End => return Ok(()),
        }
    }
}

pub fn parts() -> Out {
    Out::Parts { text: true, parts: PARTS.map(|part| part.as_bytes().to_vec()).into() }
}
