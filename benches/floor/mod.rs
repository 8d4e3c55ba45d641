//! The floor: the least that a WebSocket server over smoltcp can cost. One socket set per connection behind a
//! plain hash map, bytes echoed as they are; no WebSocket, no timers, no congestion control, no checksums.

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address};
use std::collections::{HashMap, VecDeque};
use unsocket::port::wire::{WireFrame, WirePort};
use unsocket::port::{Frame, Port};

const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const PORT: u16 = 80;
const FIRST_CLIENT_PORT: u16 = 10_000;
const TX_FRAMES: usize = 256;
const BUFFER_BYTES: usize = 65_535;

/// What an end does with the bytes of a connection.
pub(crate) trait Role {
    /// `connection` has received bytes.
    fn on_bytes(&mut self, connection: usize, socket: &mut Socket<'static>);
}

/// Sends every byte back.
pub(crate) struct Echo {
    scratch: Vec<u8>,
}

impl Echo {
    pub(crate) fn new() -> Self {
        Echo { scratch: vec![0; BUFFER_BYTES] }
    }
}

impl Role for Echo {
    fn on_bytes(&mut self, _connection: usize, socket: &mut Socket<'static>) {
        while socket.can_recv() {
            let length = socket.recv_slice(&mut self.scratch).unwrap();
            assert_eq!(socket.send_slice(&self.scratch[..length]), Ok(length), "the echo has room");
        }
    }
}

/// Keeps messages of `size` bytes on their way: a whole reply is followed by the next message at once.
pub(crate) struct Loop {
    message: Vec<u8>,
    got: Vec<usize>,
    pub replies: u64,
}

impl Loop {
    pub(crate) fn new(connections: usize, size: usize) -> Self {
        Loop { message: vec![0x55; size], got: vec![0; connections], replies: 0 }
    }
}

impl Role for Loop {
    fn on_bytes(&mut self, connection: usize, socket: &mut Socket<'static>) {
        while let Ok(length @ 1..) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
            self.got[connection] += length;
        }
        while self.got[connection] >= self.message.len() {
            self.got[connection] -= self.message.len();
            self.replies += 1;
            assert_eq!(socket.send_slice(&self.message), Ok(self.message.len()), "the message has room");
        }
    }
}

/// One end of the wire.
pub(crate) struct End<R> {
    iface: Interface,
    device: OneFrame,
    port: WirePort,
    received: VecDeque<WireFrame>,
    flows: HashMap<u32, usize, foldhash::fast::FixedState>,
    connections: Vec<Connection>,
    dirty: Vec<usize>,
    no_sockets: SocketSet<'static>,
    listens: bool,
    pub role: R,
}

struct Connection {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    dirty: bool,
}

impl Connection {
    fn new() -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Connection { sockets, handle, dirty: false }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

impl<R: Role> End<R> {
    pub(crate) fn server(port: WirePort, role: R) -> Self {
        End::new(port, role, SERVER, true)
    }

    pub(crate) fn client(port: WirePort, role: R) -> Self {
        End::new(port, role, CLIENT, false)
    }

    fn new(port: WirePort, role: R, addr: Ipv4Address, listens: bool) -> Self {
        let mut device = OneFrame { mtu: port.info().mtu, rx: None, spare: Vec::new(), out: VecDeque::new() };
        let config = Config::new(EthernetAddress(port.info().mac).into());
        let mut iface = Interface::new(config, &mut device, Instant::ZERO);
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(addr.into(), 24)).unwrap());
        End {
            iface,
            device,
            port,
            received: VecDeque::new(),
            flows: HashMap::default(),
            connections: Vec::new(),
            dirty: Vec::new(),
            no_sockets: SocketSet::new(Vec::new()),
            listens,
            role,
        }
    }

    /// Begins to open `count` connections.
    pub(crate) fn connect(&mut self, count: usize) {
        for index in 0..count {
            let mut connection = Connection::new();
            let local = FIRST_CLIENT_PORT + index as u16;
            let remote = IpEndpoint::new(IpAddress::Ipv4(SERVER), PORT);
            let handle = connection.handle;
            let context = self.iface.context();
            connection.sockets.get_mut::<Socket<'_>>(handle).connect(context, remote, local).unwrap();
            self.flows.insert(key(PORT, local), index);
            self.connections.push(connection);
            self.mark(index);
        }
    }

    /// Marks every connection dirty, so that what was lost for want of a neighbour is sent.
    pub(crate) fn mark_all(&mut self) {
        (0..self.connections.len()).for_each(|index| self.mark(index));
    }

    /// Connections that are open.
    pub(crate) fn open(&mut self) -> usize {
        self.connections
            .iter_mut()
            .filter_map(|c| (c.socket().state() == State::Established).then_some(()))
            .count()
    }

    /// Sends `bytes` on a connection with the next poll.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) {
        assert_eq!(
            self.connections[index].socket().send_slice(bytes),
            Ok(bytes.len()),
            "the message has room"
        );
        self.mark(index);
    }

    fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.connections[index].dirty, true) {
            self.dirty.push(index);
        }
    }

    /// One burst of at most `frames_max` frames; returns how many were received.
    pub(crate) fn poll(&mut self, now: Instant, frames_max: usize) -> usize {
        while self.device.spare.len() < TX_FRAMES {
            self.device.spare.push(self.port.alloc().expect("the wire has frames to spare"));
        }
        let count = self.port.rx_burst(&mut self.received, frames_max);
        for _ in 0..count {
            let Some(frame) = self.received.pop_front() else { break };
            self.ingress(now, frame);
        }
        for index in std::mem::take(&mut self.dirty) {
            let connection = &mut self.connections[index];
            connection.dirty = false;
            while self.device.spare.len() > 1
                && self.iface.poll_egress(now, &mut self.device, &mut connection.sockets) != PollResult::None
            {
            }
        }
        self.port.tx_burst(&mut self.device.out);
        count
    }

    fn ingress(&mut self, now: Instant, frame: WireFrame) {
        let index = tcp_ports(frame.bytes()).map(|(source, destination)| self.find(source, destination));
        self.device.rx = Some(frame);
        let sockets = match index {
            Some(index) => &mut self.connections[index].sockets,
            None => &mut self.no_sockets,
        };
        self.iface.poll_ingress_single(now, &mut self.device, sockets);
        if let Some(frame) = self.device.rx.take() {
            self.port.release(frame);
        }
        if let Some(index) = index {
            let socket = self.connections[index].socket();
            if socket.can_recv() {
                self.role.on_bytes(index, socket);
            }
            self.mark(index);
        }
    }

    fn find(&mut self, source: u16, destination: u16) -> usize {
        let key = key(source, destination);
        if let Some(index) = self.flows.get(&key) {
            return *index;
        }
        assert!(self.listens, "a segment of no flow");
        let mut connection = Connection::new();
        connection.socket().listen(PORT).unwrap();
        self.connections.push(connection);
        self.flows.insert(key, self.connections.len() - 1);
        self.connections.len() - 1
    }
}

fn key(source: u16, destination: u16) -> u32 {
    u32::from(source) << 16 | u32::from(destination)
}

/// Source and destination port of a TCP segment over IPv4 without options, which is all that comes here.
fn tcp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    let is_tcp = frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6;
    is_tcp.then(|| (u16::from_be_bytes([frame[34], frame[35]]), u16::from_be_bytes([frame[36], frame[37]])))
}

/// One received frame, and frames to fill.
struct OneFrame {
    mtu: usize,
    rx: Option<WireFrame>,
    spare: Vec<WireFrame>,
    out: VecDeque<WireFrame>,
}

impl Device for OneFrame {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let OneFrame { rx, spare, out, .. } = self;
        Some((Rx(rx.as_ref()?), Tx { spare, out }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        let OneFrame { spare, out, .. } = self;
        (!spare.is_empty()).then_some(Tx { spare, out })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        let mut checksum = ChecksumCapabilities::ignored();
        (checksum.icmpv4, checksum.icmpv6) = (Checksum::None, Checksum::None);
        caps.checksum = checksum;
        caps
    }
}

struct Rx<'a>(&'a WireFrame);

impl RxToken for Rx<'_> {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, f: F) -> T {
        f(self.0.bytes())
    }
}

struct Tx<'a> {
    spare: &'a mut Vec<WireFrame>,
    out: &'a mut VecDeque<WireFrame>,
}

impl TxToken for Tx<'_> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, len: usize, f: F) -> T {
        let mut frame = self.spare.pop().expect("a token is given out only for a spare frame");
        frame.set_len(len);
        let result = f(frame.bytes_mut());
        self.out.push_back(frame);
        result
    }
}
