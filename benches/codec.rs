//! The codec alone: `cargo bench --bench codec`, or `-- mask` for one group.
//!
//! Throughputs are of payload bytes. Masking changes its input, so each round undoes or redoes the one before; the
//! whole-frame rounds write the frame afresh, and `decode/…/copy` tells what that costs by itself.

#![allow(missing_docs)] // `criterion_group!` makes a public function

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use httparse::Header;
use std::hint::black_box;
use unsocket::ws::handshake::{check_request, write_accept};
use unsocket::ws::{Decoder, FrameHeader, Limits, Opcode, Role, append_frame, mask};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The payload sizes of the published comparisons, bytes.
const SIZES: [usize; 6] = [20, 125, 256, 1024, 16 * 1024, 64 * 1024];

fn masked_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(&mut frame, opcode, true, Some(KEY), payload);
    frame
}

fn header(c: &mut Criterion) {
    let mut group = c.benchmark_group("header");
    for payload_bytes in [20, 1024, 128 * 1024] {
        let frame = masked_frame(Opcode::Binary, &vec![0; payload_bytes]);
        group.bench_function(BenchmarkId::new("decode", payload_bytes), |b| {
            b.iter(|| FrameHeader::decode(black_box(&frame), Role::Server, false));
        });
        let header = FrameHeader {
            fin: true,
            rsv1: false,
            opcode: Opcode::Binary,
            mask: None,
            payload_bytes: payload_bytes as u64,
        };
        group.bench_function(BenchmarkId::new("encode", payload_bytes), |b| {
            let mut out = [0; 14];
            b.iter(|| black_box(&header).encode(black_box(&mut out)));
        });
    }
    group.finish();
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        // Six bytes into the buffer, as behind the header of a short frame.
        let mut buffer = vec![0x5a; size + 6];
        group.bench_function(BenchmarkId::new("apply", size), |b| {
            b.iter(|| mask::apply(black_box(&mut buffer[6..]), KEY, 0));
        });
        let source = buffer.clone();
        group.bench_function(BenchmarkId::new("memcpy", size), |b| {
            b.iter(|| black_box(&mut buffer[6..]).copy_from_slice(black_box(&source[6..])));
        });
    }
    group.finish();
}

fn utf8(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for (name, pattern) in
        [("ascii", "The quick brown fox jumps. "), ("mixed", "Příliš žluťoučký kůň 東京 😀 ")]
    {
        for size in [20, 125, 1024, 16 * 1024] {
            let mut text = pattern.repeat(size / pattern.len() + 1);
            text.truncate(text.floor_char_boundary(size));
            let frame = {
                let mut frame = Vec::new();
                append_frame(&mut frame, Opcode::Text, true, None, text.as_bytes());
                frame
            };
            group.throughput(Throughput::Bytes(text.len() as u64));
            let mut input = frame.clone();
            let mut decoder = Decoder::new(Role::Client, Limits::default());
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| decoder.decode(black_box(&mut input)).map(|decoded| decoded.consumed));
            });
        }
    }
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let fields = [
        ("Host", "server.example.com"),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
        ),
        ("Accept-Language", "en"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Origin", "http://server.example.com"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let headers = fields.map(|(name, value)| Header { name, value: value.as_bytes() });
    c.bench_function("handshake/check_and_accept", |b| {
        let mut out = Vec::with_capacity(512);
        b.iter(|| {
            out.clear();
            let upgrade = check_request("GET", 1, black_box(&headers)).map_err(|_| "request refused")?;
            write_accept(&mut out, upgrade.key, None, None, &[]).map_err(|_| "answer refused")?;
            Ok::<_, &str>(out.len())
        });
    });
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for size in [20, 125, 1024, 16 * 1024] {
        let frame = masked_frame(Opcode::Binary, &vec![0x5a; size]);
        let mut input = frame.clone();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("copy", size), |b| {
            b.iter(|| black_box(&mut input).copy_from_slice(black_box(&frame)));
        });
        // The masked payload turns into its unmasked self and back: header and decoder do the same work each time.
        let mut decoder = Decoder::new(Role::Server, Limits::default());
        group.bench_function(BenchmarkId::new("whole", size), |b| {
            b.iter(|| decoder.decode(black_box(&mut input)).map(|decoded| decoded.consumed));
        });
        // As it comes in segments of an Ethernet MTU: every frame is assembled.
        if size > 1448 {
            let mut decoder = Decoder::new(Role::Server, Limits::default());
            group.bench_function(BenchmarkId::new("segments_of_1448", size), |b| {
                b.iter(|| {
                    let mut events = 0;
                    for segment in black_box(&mut input).chunks_mut(1448) {
                        events +=
                            usize::from(decoder.decode(segment).is_ok_and(|decoded| decoded.event.is_some()));
                    }
                    assert_eq!(events, 1);
                });
            });
        }
    }
    // What a burst brings: 50 messages in one input.
    let burst = masked_frame(Opcode::Binary, &[0x5a; 20]).repeat(50);
    let mut input = burst.clone();
    let mut decoder = Decoder::new(Role::Server, Limits::default());
    group.throughput(Throughput::Elements(50));
    group.bench_function("burst_of_50x20", |b| {
        b.iter(|| {
            let mut at = 0;
            while let Ok(decoded) = decoder.decode(&mut input[at..])
                && let Some(event) = decoded.event
            {
                black_box(event);
                at += decoded.consumed;
            }
            assert_eq!(at, burst.len());
        });
    });
    group.finish();
}

criterion_group!(benches, header, masking, utf8, handshake, decode);
criterion_main!(benches);
