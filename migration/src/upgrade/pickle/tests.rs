use seabed_core::Json;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{PickleError, decode_actions};

/// Actions pickled by some version of google-adk, and what google-adk 2.13.0's migration turns them into.
#[derive(Deserialize)]
struct Sample<'a> {
    version: &'a str,
    name: &'a str,
    /// In hexadecimal.
    pickle: &'a str,
    /// `None` if the pickle is rejected. In those cases the migration either fails too, or stores defaults or a text
    /// from which the original can no longer be recovered.
    #[serde(borrow)]
    expected: Option<&'a RawValue>,
}

impl Sample<'_> {
    fn bytes(&self) -> Vec<u8> {
        let digits: Vec<u8> =
            self.pickle.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
        digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
    }
}

fn samples() -> impl Iterator<Item = Sample<'static>> {
    include_str!("../../../testdata/pickle_samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap())
}

/// `state_delta` with `value`, given as opcodes, under the key `k`.
fn state_of(value: &[u8]) -> Vec<u8> {
    let start = b"\x80\x04\x8c\x1fgoogle.adk.events.event_actions\x8c\x0cEventActions\x93)\x81}\x8c\x08__dict__}\
        \x8c\x0bstate_delta}\x8c\x01k";
    [start, value, b"sssb."].concat()
}

#[test]
fn yields_what_the_migration_yields() {
    for sample in samples() {
        let Sample { version, name, expected, .. } = sample;
        match (decode_actions(&sample.bytes()), expected) {
            (Ok(decoded), Some(expected)) => {
                assert_eq!(Json::parse(decoded).unwrap(), Json::parse(expected.get()).unwrap(), "{name} of {version}");
            }
            (Err(_), None) => {}
            (decoded, _) => panic!("{name} of {version}: {decoded:?}"),
        }
    }
}

#[test]
fn rounds_no_integer() {
    let json = decode_actions(&state_of(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00")).unwrap();
    assert!(json.contains(r#"{"k":18446744073709551615}"#), "{json}");
    let json = decode_actions(&state_of(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xff")).unwrap();
    assert!(json.contains(r#"{"k":-18446744073709551616}"#), "{json}");
}

/// Sets have no order that a sample could pin down, unless they are built by hand.
#[test]
fn writes_sets_as_lists() {
    for set in [&b"\x8f(K\x01K\x02\x90"[..], b"(K\x01K\x02\x91", b"cbuiltins\nset\n](K\x01K\x02e\x85R"] {
        let json = decode_actions(&state_of(set)).unwrap();
        assert!(json.contains(r#"{"k":[1,2]}"#), "{json}");
    }
}

/// More than 256 memo entries; no sample is large enough for that.
#[test]
fn recalls_by_long_indexes() {
    for put in [&b"r\x00\x01\x00\x00"[..], &b"\x94".repeat(257)] {
        let json = decode_actions(&state_of(&[b"]K\x07", put, b"aj\x00\x01\x00\x00\x86"].concat())).unwrap();
        assert!(json.contains(r#"{"k":[[7],7]}"#), "{json}");
    }
}

#[test]
fn names_what_it_refuses() {
    let refused = |value: &[u8]| decode_actions(&state_of(value)).unwrap_err();
    assert_eq!(refused(b"\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R"), PickleError::Type("os.system".into()));
    assert_eq!(refused(b"cbuiltins\neval\n"), PickleError::Type("builtins.eval".into()));
    assert_eq!(refused(b"\x8c\x04uuid\x8c\x0fUUID.__module__\x93"), PickleError::Type("uuid.UUID.__module__".into()));
    let ever = b"cdatetime\ntimedelta\n\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80K\x00K\x00\x87R";
    assert_eq!(refused(ever), PickleError::Type("timedelta with these arguments".into()));
    assert!(matches!(refused(b"(ios\nsystem\n"), PickleError::Opcode { opcode: b'i', .. }));
    assert!(matches!(refused(b"\x8c\x01\xed"), PickleError::Value(_)));
}

#[test]
fn bounds_what_it_reads_and_writes() {
    for huge in [&b"\x96\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"B\xff\xff\xff\xff", b"\x8b\xff\xff\xff\xff"] {
        assert!(matches!(decode_actions(&state_of(huge)), Err(PickleError::Truncated(_))));
    }
    let nested = |depth: usize| decode_actions(&state_of(&[b"]".repeat(depth), b"a".repeat(depth - 1)].concat()));
    assert!(nested(100).is_ok());
    assert_eq!(nested(100_000), Err(PickleError::Limit("nesting")));
    assert_eq!(decode_actions(&state_of(b"]\x94h\x00a")), Err(PickleError::Limit("nesting")));
    // A hundred lists, each containing the previous one four times.
    let lists: Vec<u8> = (0..100)
        .flat_map(|list| [b']', b'q', list + 1, b'(', b'h', list, b'h', list, b'h', list, b'h', list, b'e'])
        .collect();
    assert_eq!(decode_actions(&state_of(&[b"(]q\0", &lists[..], b"t"].concat())), Err(PickleError::Limit("size")));
}

/// A text of 4 KB, and references to it.
#[test]
fn a_small_pickle_stands_for_no_large_document() {
    let repeated = |count: usize| {
        let value = [&b"](X\x00\x10\x00\x00"[..], &b"x".repeat(4096), b"q\xc8", &b"h\xc8".repeat(count), b"e"].concat();
        decode_actions(&state_of(&value))
    };
    assert!(repeated(500).is_ok_and(|json| json.len() > 500 * 4096));
    assert_eq!(repeated(1500), Err(PickleError::Limit("size")));
}

#[test]
fn refuses_what_is_cut_short() {
    for sample in samples() {
        let pickle = sample.bytes();
        for end in 0..pickle.len() {
            assert!(decode_actions(&pickle[..end]).is_err(), "{} of {} up to {end}", sample.name, sample.version);
        }
    }
}

/// Changes, removes, adds and copies bytes of the samples, always the same ones: nothing panics, and the only output is
/// JSON. The fuzz target `decode_actions` continues from here.
#[test]
fn survives_mutations() {
    const OPCODES: &[u8] =
        b".NKMJGCBX}])(tucRbaesqrhj\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8f\x90\x91\x93\x94\x95\x96";
    let samples: Vec<Vec<u8>> = samples().map(|sample| sample.bytes()).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // Xorshift, by George Marsaglia.
    let mut below = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(bound).unwrap()).unwrap()
    };
    let mut decoded = 0;
    for _ in 0..20_000 {
        let mut pickle = samples[below(samples.len())].clone();
        for _ in 0..=below(4) {
            let at = below(pickle.len());
            match below(5) {
                0 => pickle[at] = below(256).to_le_bytes()[0],
                1 => pickle[at] = OPCODES[below(OPCODES.len())],
                2 => pickle.insert(at, OPCODES[below(OPCODES.len())]),
                3 if pickle.len() > 1 => drop(pickle.remove(at)),
                _ => {
                    let piece = pickle[at..pickle.len().min(at + below(40))].to_vec();
                    let to = below(pickle.len());
                    pickle.splice(to..to, piece);
                }
            }
        }
        if let Ok(json) = decode_actions(&pickle) {
            serde_json::from_str::<serde::de::IgnoredAny>(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
            decoded += 1;
        }
    }
    assert!(decoded > 100, "only {decoded} mutants are read to their end");
}
