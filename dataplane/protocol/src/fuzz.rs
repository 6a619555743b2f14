//! Bytes of a peer that nobody vouches for: whatever they are and however they are cut, the decoder
//! ends in the same documents and the same error, and holds no more than its bound. Seeded: a
//! failure prints its seed, and a seed gives the same case again.

use crate::{
    ResourceKey, Revision,
    frame::{Decoder, Error, encode},
    sync::ToDataPlane,
    testing::Random,
};

const CASES: u64 = 3_000;
const LIMIT: usize = 200;

fn line(random: &mut Random) -> Vec<u8> {
    let message = match random.below(4) {
        0 => ToDataPlane::Welcome { format: 1 },
        1 => ToDataPlane::Begin {
            namespace: "n".repeat(random.below(90)),
            full: random.below(2) == 0,
        },
        2 => ToDataPlane::Remove(ResourceKey::Route("r\n\u{1f980}".into())),
        _ => ToDataPlane::Commit {
            revision: Revision(random.below(1 << 20) as u128),
        },
    };
    let mut line = match random.below(12) {
        0 => b" \t\r\n".to_vec(),
        1 => vec![b'x'; random.below(2 * LIMIT)],
        2 => b"{\"welcome\":{\"format\":\"one\"}}\n".to_vec(),
        _ => encode(&message, 1 << 10).unwrap().to_vec(),
    };
    if random.below(20) == 0 && !line.is_empty() {
        let at = random.below(line.len());
        line[at] = random.below(256) as u8;
    }
    line
}

/// What comes out, and how it ends.
fn decode(parts: &[&[u8]], seed: u64) -> (Vec<ToDataPlane>, Option<String>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut seen = Vec::new();
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next::<ToDataPlane>() {
                Ok(Some(message)) => seen.push(message),
                Ok(None) => break,
                Err(error) => {
                    let kind = match error {
                        Error::TooLong { .. } => "too long".to_owned(),
                        Error::Malformed { source } => source.to_string(),
                    };
                    return (seen, Some(kind));
                }
            }
        }
        assert!(decoder.unfinished() <= LIMIT, "seed {seed}");
    }
    (seen, None)
}

#[test]
fn whatever_a_peer_sends_and_however_it_is_cut_means_the_same() {
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(8))
            .flat_map(|_| line(&mut random))
            .collect();
        let whole = decode(&[&bytes], seed);
        for _ in 0..4 {
            let (mut parts, mut rest) = (Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                let most = [1, 7, 300][random.below(3)];
                let (part, after) = rest.split_at(rest.len().min(1 + random.below(most)));
                parts.push(part);
                rest = after;
            }
            assert_eq!(decode(&parts, seed), whole, "seed {seed}");
        }
    }
}
