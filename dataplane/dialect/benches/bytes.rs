//! What is done to every body and every chunk: model scan, stream framing.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dialect::{
    scan::Scanner,
    stream::{Framer, Framing},
};

/// A chat request of about `bytes`, the model last: where Python's client puts it.
fn request(bytes: usize) -> Vec<u8> {
    let word = "lorem ipsum \\\"dolor\\\" sit amet ";
    let content = word.repeat(bytes / word.len());
    format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}],"stream":true,"model":"m"}}"#)
        .into_bytes()
}

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    for size in [1 << 10, 64 << 10, 1 << 20] {
        let body = request(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{size}"), |b| {
            b.iter(|| {
                let mut scanner = Scanner::new();
                let _ = scanner.push(black_box(&body));
                scanner.finish()
            });
        });
    }
}

fn frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let event = Bytes::from(format!("data: {}\n\n", "x".repeat(200)));
    group.bench_function("whole event", |b| {
        let mut framer = Framer::new(Framing::Sse);
        b.iter(|| framer.push(black_box(event.clone())));
    });
    group.bench_function("event in two", |b| {
        let mut framer = Framer::new(Framing::Sse);
        let (first, second) = (event.slice(..100), event.slice(100..));
        b.iter(|| {
            let held = framer.push(black_box(first.clone()));
            (held, framer.push(black_box(second.clone())))
        });
    });
}

criterion_group!(benches, scan, frame);
criterion_main!(benches);
