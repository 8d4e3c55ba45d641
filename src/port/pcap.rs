//! A port with a recorder: every frame that passes goes into a capture file for Wireshark or tcpdump.
//!
//! The file is classic pcap with nanoseconds (draft-ietf-opsawg-pcap, magic number `0xa1b23c4d`). A frame is recorded as the
//! worker sees it: with checksum offload its checksums are not filled in, and a segment may be larger than the MTU.
//! A write error ends the recording, never the traffic: see [`PcapPort::error`].

use super::{Frame, Port, PortInfo, PortStats};
use crate::time::{Duration, Instant};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Nanosecond timestamps; the byte order of the file is told from it.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const LINKTYPE_ETHERNET: u32 = 1;
/// Most bytes of one frame that a reader must expect.
const SNAP_BYTES: u32 = 262_144;
const FILE_HEADER_BYTES: u64 = 24;
const BUFFER_BYTES: usize = 256 * 1024;
/// Recorded frames reach the file this soon, as long as the worker polls.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How a recording is made.
#[derive(Clone, Debug, Default)]
pub struct PcapConfig {
    /// The recording ends before the file would be larger than this, in bytes; `None` for no limit.
    pub bytes_max: Option<u64>,
    /// Time from the Unix epoch to [`Instant::ZERO`].
    pub epoch: Duration,
}

/// A capture file could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the capture file {}: {source}", path.display())]
pub struct PcapError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A port whose frames are recorded.
pub struct PcapPort<P: Port, W: Write = File> {
    inner: P,
    recorder: Recorder<W>,
}

impl<P: Port> PcapPort<P> {
    /// Records into a new file; one that exists is overwritten.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(inner: P, path: &Path, config: &PcapConfig) -> Result<Self, PcapError> {
        let file = File::create(path).map_err(|source| PcapError { path: path.into(), source })?;
        Ok(Self::new(inner, file, config))
    }
}

impl<P: Port, W: Write> PcapPort<P, W> {
    /// Records into anything that takes bytes.
    pub fn new(inner: P, output: W, config: &PcapConfig) -> Self {
        PcapPort { inner, recorder: Recorder::new(output, config) }
    }

    /// What ended the recording, if a write failed. Frames pass all the same.
    pub fn error(&self) -> Option<&io::Error> {
        self.recorder.error.as_ref()
    }

    /// Frames that were recorded.
    pub fn recorded_frames(&self) -> u64 {
        self.recorder.frames
    }

    /// Whether the byte limit has ended the recording.
    pub fn is_full(&self) -> bool {
        self.recorder.full
    }

    /// Writes out what is buffered, ends the recording, and gives the inner port back. An error means that a write failed,
    /// now or earlier: the file is incomplete.
    pub fn finish(mut self) -> (P, io::Result<()>) {
        self.recorder.flush();
        (self.inner, self.recorder.error.map_or(Ok(()), Err))
    }
}

impl<P: Port, W: Write> Port for PcapPort<P, W> {
    type Frame = P::Frame;

    fn info(&self) -> &PortInfo {
        self.inner.info()
    }

    fn begin(&mut self, now: Instant) {
        self.inner.begin(now);
        self.recorder.begin(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<P::Frame>, max: usize) -> usize {
        let before = burst.len();
        let count = self.inner.rx_burst(burst, max);
        burst.iter().skip(before).for_each(|frame| self.recorder.stage(frame.bytes()));
        self.recorder.record(count);
        count
    }

    fn alloc(&mut self) -> Option<P::Frame> {
        self.inner.alloc()
    }

    fn alloc_large(&mut self) -> Option<P::Frame> {
        self.inner.alloc_large()
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<P::Frame>) -> usize {
        // Sent frames are gone: they are written down first, and those that stay with the caller are crossed out.
        burst.iter().for_each(|frame| self.recorder.stage(frame.bytes()));
        let count = self.inner.tx_burst(burst);
        self.recorder.record(count);
        count
    }

    fn release(&mut self, frame: P::Frame) {
        self.inner.release(frame);
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.recorder.flush();
        self.inner.prepare_sleep()
    }

    fn poll_interval(&self) -> Duration {
        self.inner.poll_interval()
    }

    fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    fn stats(&self) -> PortStats {
        self.inner.stats()
    }
}

/// The capture file.
struct Recorder<W: Write> {
    output: BufWriter<W>,
    bytes_max: u64,
    bytes: u64,
    epoch: Duration,
    now: Instant,
    flushed: Instant,
    /// Records of one burst, and where each ends.
    staged: Vec<u8>,
    ends: Vec<usize>,
    frames: u64,
    full: bool,
    error: Option<io::Error>,
}

impl<W: Write> Recorder<W> {
    fn new(output: W, config: &PcapConfig) -> Self {
        let mut recorder = Recorder {
            output: BufWriter::with_capacity(BUFFER_BYTES, output),
            bytes_max: config.bytes_max.unwrap_or(u64::MAX),
            bytes: FILE_HEADER_BYTES,
            epoch: config.epoch,
            now: Instant::ZERO,
            flushed: Instant::ZERO,
            staged: Vec::new(),
            ends: Vec::new(),
            frames: 0,
            full: false,
            error: None,
        };
        let mut header = Vec::with_capacity(FILE_HEADER_BYTES as usize);
        header.extend(MAGIC.to_ne_bytes());
        header.extend(VERSION.map(u16::to_ne_bytes).concat());
        // Two reserved fields: the time zone and the accuracy of old.
        header.extend([0; 8]);
        header.extend([SNAP_BYTES, LINKTYPE_ETHERNET].map(u32::to_ne_bytes).concat());
        recorder.write(&header);
        recorder
    }

    fn begin(&mut self, now: Instant) {
        self.now = now;
        if now.saturating_since(self.flushed) >= FLUSH_INTERVAL {
            self.flush();
        }
    }

    fn is_over(&self) -> bool {
        self.full || self.error.is_some()
    }

    /// Prepares a frame's record.
    fn stage(&mut self, frame: &[u8]) {
        if self.is_over() {
            return;
        }
        let time = self.epoch.saturating_add(Duration::from_nanos(self.now.as_nanos()));
        let kept = &frame[..frame.len().min(SNAP_BYTES as usize)];
        // The format has 32 bits for seconds (until 2106) and lengths.
        let fields = [time.as_secs() as u32, time.subsec_nanos(), kept.len() as u32, frame.len() as u32];
        fields.map(u32::to_ne_bytes).iter().for_each(|field| self.staged.extend(field));
        self.staged.extend(kept);
        self.ends.push(self.staged.len());
    }

    /// Records the first `count` of the staged frames, and forgets the others.
    fn record(&mut self, count: usize) {
        let (mut end, mut frames) = (0, 0);
        for &next in self.ends.iter().take(count) {
            if self.bytes + next as u64 > self.bytes_max {
                self.full = true;
                break;
            }
            (end, frames) = (next, frames + 1);
        }
        let staged = std::mem::take(&mut self.staged);
        if end > 0 {
            self.write(&staged[..end]);
            self.bytes += end as u64;
            self.frames += frames;
        }
        self.staged = staged;
        self.staged.clear();
        self.ends.clear();
        if self.full {
            self.flush();
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.output.write_all(bytes).err();
        }
    }

    fn flush(&mut self) {
        self.flushed = self.now;
        if self.error.is_none() {
            self.error = self.output.flush().err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::wire::{WireConfig, WirePort, pair};

    /// One record of a capture: nanoseconds since the Unix epoch, and the bytes kept.
    type Record = (u128, Vec<u8>);

    /// Reads a capture as a reader that knows only the specification does.
    fn parse(capture: &[u8]) -> Vec<Record> {
        let word = |at: usize| u32::from_ne_bytes(capture[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 1), "nanosecond pcap of Ethernet frames");
        let version = [4, 6].map(|at| u16::from_ne_bytes([capture[at], capture[at + 1]]));
        assert_eq!((version, word(8), word(12)), ([2, 4], 0, 0));
        let (mut records, mut at) = (Vec::new(), 24);
        while at < capture.len() {
            let (seconds, nanos, kept, original) = (word(at), word(at + 4), word(at + 8), word(at + 12));
            assert!(nanos < 1_000_000_000 && kept == original && kept <= word(16));
            at += 16;
            let time = u128::from(seconds) * 1_000_000_000 + u128::from(nanos);
            records.push((time, capture[at..at + kept as usize].to_vec()));
            at += kept as usize;
        }
        records
    }

    fn frame<P: Port>(port: &mut P, bytes: &[u8]) -> P::Frame {
        let mut frame = port.alloc().expect("a free frame");
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame
    }

    fn wire(ring_frames: usize) -> (WirePort, WirePort) {
        pair(&WireConfig { ring_frames, ..WireConfig::default() }).unwrap()
    }

    #[test]
    fn both_directions_are_recorded_with_their_times() {
        let (a, mut b) = wire(8);
        let mut capture = Vec::new();
        let config = PcapConfig { epoch: Duration::from_secs(1_700_000_000), ..PcapConfig::default() };
        let mut port = PcapPort::new(a, &mut capture, &config);
        port.begin(Instant::from_nanos(1_000_000_007));
        let mut burst: VecDeque<_> = [frame(&mut port, &[1; 60]), frame(&mut port, &[2; 1514])].into();
        assert_eq!(port.tx_burst(&mut burst), 2);
        b.rx_burst(&mut burst, 64);
        b.tx_burst(&mut burst);
        port.begin(Instant::from_millis(2500));
        assert_eq!(port.rx_burst(&mut burst, 1), 1);
        assert_eq!(port.rx_burst(&mut burst, 64), 1, "frames already in the burst are not recorded again");
        assert_eq!(port.recorded_frames(), 4);
        port.finish().1.unwrap();
        let (sent, received) = (1_700_000_001_000_000_007, 1_700_000_002_500_000_000);
        let expected =
            [(sent, vec![1; 60]), (sent, vec![2; 1514]), (received, vec![1; 60]), (received, vec![2; 1514])];
        assert_eq!(parse(&capture), expected);
    }

    #[test]
    fn only_frames_that_were_sent_are_recorded() {
        let (a, mut b) = wire(2);
        let mut capture = Vec::new();
        let mut port = PcapPort::new(a, &mut capture, &PcapConfig::default());
        let mut burst: VecDeque<_> = (0..3).map(|i| frame(&mut port, &[i; 60])).collect();
        assert_eq!(port.tx_burst(&mut burst), 2);
        assert_eq!(port.tx_burst(&mut burst), 0);
        let mut received = VecDeque::new();
        b.rx_burst(&mut received, 64);
        assert_eq!(port.tx_burst(&mut burst), 1);
        port.finish().1.unwrap();
        let contents: Vec<_> = parse(&capture).into_iter().map(|(_, bytes)| bytes[0]).collect();
        assert_eq!(contents, [0, 1, 2]);
    }

    #[test]
    fn the_recording_ends_before_its_limit_and_traffic_goes_on() {
        let (a, mut b) = wire(64);
        let mut capture = Vec::new();
        let config = PcapConfig { bytes_max: Some(24 + 2 * (16 + 60) + 75), ..PcapConfig::default() };
        let mut port = PcapPort::new(a, &mut capture, &config);
        let mut burst: VecDeque<_> = (0..5).map(|_| frame(&mut port, &[3; 60])).collect();
        assert_eq!(port.tx_burst(&mut burst), 5);
        assert!(port.is_full());
        // A small one would fit, but a capture without holes is worth more.
        burst.push_back(frame(&mut port, &[3; 20]));
        assert_eq!(port.tx_burst(&mut burst), 1);
        port.finish().1.unwrap();
        assert_eq!(parse(&capture).len(), 2);
        assert_eq!(b.rx_burst(&mut burst, 64), 6);
    }

    /// A disk that is full after some bytes.
    struct FullDisk(usize);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_is_reported() {
        let (a, mut b) = wire(64);
        let mut port = PcapPort::new(a, FullDisk(100), &PcapConfig::default());
        for round in 0..4u64 {
            port.begin(Instant::from_millis(round * 1100));
            let mut burst = VecDeque::from([frame(&mut port, &[3; 60])]);
            assert_eq!(port.tx_burst(&mut burst), 1);
        }
        assert_eq!(port.error().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert!(port.finish().1.is_err());
        assert_eq!(b.rx_burst(&mut VecDeque::new(), 64), 4);
    }

    #[test]
    fn a_sleeping_worker_leaves_nothing_in_the_buffer() {
        let (a, _b) = wire(8);
        let path = std::env::temp_dir().join(format!("unsocket-pcap-test-{}", std::process::id()));
        let mut port = PcapPort::create(a, &path, &PcapConfig::default()).unwrap();
        let mut burst = VecDeque::from([frame(&mut port, &[4; 60])]);
        port.tx_burst(&mut burst);
        assert!(port.prepare_sleep());
        let capture = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(parse(&capture), [(0, vec![4; 60])]);
    }

    #[test]
    fn a_file_that_cannot_be_created_is_named() {
        let (a, _b) = wire(8);
        let error =
            PcapPort::create(a, Path::new("/no/such/folder/x.pcap"), &PcapConfig::default()).map(|_| ());
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("cannot create the capture file /no/such/folder/x.pcap: "), "{message}");
    }
}
