// A one-thread echo server on npm `ws`. usage: node echo.cjs PORT; prints "ready" when it listens.
//
// What it answers to one read leaves with one write: the socket is corked until the events of the read are over.
"use strict";
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ port: Number(process.argv[2]), perMessageDeflate: false, maxPayload: 64 << 20 });
server.on("listening", () => console.log("ready"));
server.on("connection", (socket, request) => {
  const tcp = request.socket;
  tcp.setNoDelay(true);
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => {
    if (!tcp.writableCorked) {
      tcp.cork();
      setImmediate(() => tcp.uncork());
    }
    socket.send(data, { binary: isBinary });
  });
});
