//! The records of a log and their payloads: one kind byte and version each, postcard inside.
//!
//! A kind's payload never changes under the same version; fields are added by a new version of the kind.

use crate::store::Retention;
use everworld_engine::{StateHash, Tick};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One thing that the log remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The world begins: all that it was created from, by value.
    Create {
        /// The encoded world record.
        world_record: Vec<u8>,
    },
    /// A request from outside.
    Input(InputRecord),
    /// The inputs up to that one, and not yet sealed, belong to that tick.
    Seal {
        /// The tick that applies them.
        tick: Tick,
        /// The last of them.
        up_to_seq: u64,
    },
    /// Ticks up to that one may have been shown (D2).
    Horizon {
        /// The last such tick.
        tick: Tick,
    },
    /// A request to the host, consumed before the tick that it concerns.
    Control {
        /// Its number among the control records, from 1.
        seq: u64,
        /// The tick before which it is consumed.
        tick: Tick,
        /// Who asked.
        principal: String,
        /// For what.
        control: Control,
    },
    /// The state at a tick had that hash.
    Checkpoint {
        /// The tick.
        tick: Tick,
        /// The hash of the state after it.
        hash: StateHash,
    },
    /// From here on that build writes the log.
    Build {
        /// The build.
        build_id: [u8; 16],
    },
    /// A system did not come back within the hard limit, and the process ended itself for it.
    Hung {
        /// The tick that was being run.
        tick: Tick,
        /// The system.
        system: String,
    },
    /// Something that belongs to no world, in the log of a server.
    Server {
        /// What happened, encoded by whoever writes that log.
        event: Vec<u8>,
    },
}

/// A durable request from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Its number, from 1.
    pub seq: u64,
    /// The name of its kind.
    pub kind: String,
    /// The tick that it asks for, or the next possible one.
    pub at_tick: Option<Tick>,
    /// Who asked.
    pub principal: String,
    /// The request that it came with, or empty.
    pub request_id: String,
    /// Its encoded body.
    pub payload: Vec<u8>,
    /// By what the sender knows it again. Records of version 1 have none.
    pub idempotency: Option<IdempotencyKey>,
}

/// The key under which a sender may send the same request again without its being done twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The sender's word.
    pub key: String,
    /// Tells another request under the same key.
    pub body_hash: u64,
}

/// Version 1 of [`InputRecord`].
#[derive(Deserialize)]
struct InputRecordV1 {
    seq: u64,
    kind: String,
    at_tick: Option<Tick>,
    principal: String,
    request_id: String,
    payload: Vec<u8>,
}

/// What can be asked of the host of a world. New ones are appended under a new version of the kind: the position
/// is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Stop ticking.
    Pause,
    /// Go on ticking.
    Resume,
    /// Tick up to that tick, then pause.
    Step {
        /// The last tick to run.
        until: Tick,
    },
    /// Tick at that rate.
    Rate {
        /// Ticks in a thousand seconds; 0 is as fast as possible.
        millihertz: u64,
    },
    /// Leave that system out from the tick on.
    Quarantine {
        /// The system's name.
        system: String,
    },
    /// Leave that input out: it makes the tick fail.
    Skip {
        /// The input.
        seq: u64,
    },
    /// Another line of history begins behind a tick of an older one.
    Branch {
        /// The new line, counted from 0.
        branch: u32,
        /// The line that it leaves.
        parent: u32,
        /// The last tick that both share.
        tick: Tick,
        /// The last input of the older line; those above go to the new one.
        floor_seq: u64,
        /// The last input that the shared state has taken: those above, up to the floor, are left behind.
        taken_seq: u64,
    },
    /// Keep old snapshots for other times than the configuration says.
    Retention(Retention),
}

/// The controls of versions 1 and 2.
#[derive(Deserialize)]
enum ControlV2 {
    Pause,
    Resume,
    Step { until: Tick },
    Rate { millihertz: u64 },
    Quarantine { system: String },
    Skip { seq: u64 },
    Branch { branch: u32, parent: u32, tick: Tick, floor_seq: u64 },
}

impl From<ControlV2> for Control {
    fn from(control: ControlV2) -> Self {
        match control {
            ControlV2::Pause => Self::Pause,
            ControlV2::Resume => Self::Resume,
            ControlV2::Step { until } => Self::Step { until },
            ControlV2::Rate { millihertz } => Self::Rate { millihertz },
            ControlV2::Quarantine { system } => Self::Quarantine { system },
            ControlV2::Skip { seq } => Self::Skip { seq },
            // What was left behind is not known: nothing is said of it.
            ControlV2::Branch { branch, parent, tick, floor_seq } => {
                Self::Branch { branch, parent, tick, floor_seq, taken_seq: floor_seq }
            }
        }
    }
}

/// Why a payload is not a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// The kind or its version is unknown: a later build wrote it.
    Newer { what: String, found: u8, known: u8 },
    /// The bytes do not decode.
    Malformed(String),
}

/// The highest kind in use.
const KIND_MAX: u8 = 9;
const KIND_INPUT: u8 = 2;
const KIND_CONTROL: u8 = 5;
/// The kind of [`Record::Build`], which recovery looks into.
pub(super) const KIND_BUILD: u8 = 7;

impl Record {
    /// Kind, version and payload.
    pub(super) fn encode(&self) -> (u8, u8, Vec<u8>) {
        let (kind, payload) = match self {
            Self::Create { world_record } => (1, bytes(world_record)),
            Self::Input(input) => (KIND_INPUT, bytes(input)),
            Self::Seal { tick, up_to_seq } => (3, bytes(&(tick, up_to_seq))),
            Self::Horizon { tick } => (4, bytes(tick)),
            Self::Control { seq, tick, principal, control } => {
                (KIND_CONTROL, bytes(&(seq, tick, principal, control)))
            }
            Self::Checkpoint { tick, hash } => (6, bytes(&(tick, hash))),
            Self::Build { build_id } => (KIND_BUILD, bytes(build_id)),
            Self::Hung { tick, system } => (8, bytes(&(tick, system))),
            Self::Server { event } => (9, bytes(event)),
        };
        (kind, version_of(kind), payload)
    }

    /// The record of a payload whose checksum was verified.
    pub(super) fn decode(kind: u8, version: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        check_known(kind, version)?;
        Ok(match kind {
            1 => Self::Create { world_record: value(payload)? },
            KIND_INPUT if version == 1 => Self::Input(value::<InputRecordV1>(payload)?.into()),
            KIND_INPUT => Self::Input(value(payload)?),
            3 => {
                let (tick, up_to_seq) = value(payload)?;
                Self::Seal { tick, up_to_seq }
            }
            4 => Self::Horizon { tick: value(payload)? },
            // Version 2 has more controls behind those of version 1.
            KIND_CONTROL if version < 3 => {
                let (seq, tick, principal, control) = value::<(_, _, _, ControlV2)>(payload)?;
                Self::Control { seq, tick, principal, control: control.into() }
            }
            KIND_CONTROL => {
                let (seq, tick, principal, control) = value(payload)?;
                Self::Control { seq, tick, principal, control }
            }
            6 => {
                let (tick, hash) = value(payload)?;
                Self::Checkpoint { tick, hash }
            }
            KIND_BUILD => Self::Build { build_id: value(payload)? },
            8 => {
                let (tick, system) = value(payload)?;
                Self::Hung { tick, system }
            }
            9 => Self::Server { event: value(payload)? },
            other => return Err(DecodeError::Malformed(format!("there is no record kind {other}"))),
        })
    }
}

impl From<InputRecordV1> for InputRecord {
    fn from(input: InputRecordV1) -> Self {
        let InputRecordV1 { seq, kind, at_tick, principal, request_id, payload } = input;
        Self { seq, kind, at_tick, principal, request_id, payload, idempotency: None }
    }
}

/// The version of a kind that this build writes.
fn version_of(kind: u8) -> u8 {
    match kind {
        KIND_CONTROL => 3,
        KIND_INPUT => 2,
        _ => 1,
    }
}

/// Refuses kinds and versions of later builds by name.
pub(super) fn check_known(kind: u8, version: u8) -> Result<(), DecodeError> {
    if kind > KIND_MAX {
        return Err(DecodeError::Newer { what: "record kind, as a".into(), found: kind, known: KIND_MAX });
    }
    let known = version_of(kind);
    if version > known {
        return Err(DecodeError::Newer { what: format!("record kind {kind},"), found: version, known });
    }
    Ok(())
}

fn bytes(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    postcard::to_allocvec(value).expect("records hold only sized sequences, which postcard always encodes")
}

fn value<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::Malformed(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(DecodeError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The payloads as docs/FORMAT.md has them. Whoever changes one here raises the kind's version.
    #[test]
    fn payloads_are_as_documented() {
        let check = |record: Record, kind: u8, expected: &[u8]| {
            let version = version_of(kind);
            assert_eq!(record.encode(), (kind, version, expected.to_vec()), "{record:?}");
            assert_eq!(Record::decode(kind, version, expected), Ok(record));
        };
        check(Record::Create { world_record: vec![9, 8] }, 1, &[2, 9, 8]);
        let input = InputRecord {
            seq: 300,
            kind: "ab".into(),
            at_tick: Some(Tick(5)),
            principal: "p".into(),
            request_id: String::new(),
            payload: vec![7],
            idempotency: None,
        };
        let version_1 = [0xAC, 2, 2, b'a', b'b', 1, 5, 1, b'p', 0, 1, 7];
        assert_eq!(Record::decode(2, 1, &version_1), Ok(Record::Input(input.clone())));
        check(Record::Input(input.clone()), 2, &[0xAC, 2, 2, b'a', b'b', 1, 5, 1, b'p', 0, 1, 7, 0]);
        let idempotency = Some(IdempotencyKey { key: "k".into(), body_hash: 3 });
        let input = InputRecord { at_tick: None, idempotency, ..input };
        check(Record::Input(input), 2, &[0xAC, 2, 2, b'a', b'b', 0, 1, b'p', 0, 1, 7, 1, 1, b'k', 3]);
        check(Record::Seal { tick: Tick(1), up_to_seq: 2 }, 3, &[1, 2]);
        check(Record::Horizon { tick: Tick(128) }, 4, &[0x80, 1]);
        let control = |control| Record::Control { seq: 1, tick: Tick(2), principal: "q".into(), control };
        check(control(Control::Pause), 5, &[1, 2, 1, b'q', 0]);
        check(control(Control::Resume), 5, &[1, 2, 1, b'q', 1]);
        check(control(Control::Step { until: Tick(9) }), 5, &[1, 2, 1, b'q', 2, 9]);
        check(control(Control::Rate { millihertz: 0 }), 5, &[1, 2, 1, b'q', 3, 0]);
        check(control(Control::Quarantine { system: "s".into() }), 5, &[1, 2, 1, b'q', 4, 1, b's']);
        check(control(Control::Skip { seq: 200 }), 5, &[1, 2, 1, b'q', 5, 0xC8, 1]);
        let branch =
            |taken_seq| Control::Branch { branch: 3, parent: 1, tick: Tick(7), floor_seq: 4, taken_seq };
        check(control(branch(2)), 5, &[1, 2, 1, b'q', 6, 3, 1, 7, 4, 2]);
        assert_eq!(Record::decode(5, 2, &[1, 2, 1, b'q', 6, 3, 1, 7, 4]), Ok(control(branch(4))));
        let retention = Retention { dense_secs: 200, sparse_every_secs: 3, keep_secs: 4 };
        check(control(Control::Retention(retention)), 5, &[1, 2, 1, b'q', 7, 0xC8, 1, 3, 4]);
        let pause = Record::Control { seq: 1, tick: Tick(2), principal: "q".into(), control: Control::Pause };
        assert_eq!(Record::decode(5, 1, &[1, 2, 1, b'q', 0]), Ok(pause));
        check(Record::Hung { tick: Tick(6), system: "t".into() }, 8, &[6, 1, b't']);
        check(Record::Server { event: vec![1, 2] }, 9, &[2, 1, 2]);
        check(Record::Checkpoint { tick: Tick(3), hash: StateHash(4) }, 6, &[3, 4]);
        check(Record::Build { build_id: [5; 16] }, 7, &[5; 16]);
    }

    #[test]
    fn later_kinds_and_versions_are_refused_by_name() {
        assert!(matches!(Record::decode(10, 1, &[]), Err(DecodeError::Newer { found: 10, known: 9, .. })));
        assert!(matches!(Record::decode(4, 2, &[0]), Err(DecodeError::Newer { found: 2, known: 1, .. })));
        assert!(matches!(Record::decode(2, 3, &[0]), Err(DecodeError::Newer { found: 3, known: 2, .. })));
        assert!(matches!(Record::decode(4, 1, &[0, 0]), Err(DecodeError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(
            kind in 0u8..11,
            version in 1u8..4,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(record) = Record::decode(kind, version, &payload) {
                let (kind, version, payload) = record.encode();
                prop_assert_eq!(Record::decode(kind, version, &payload), Ok(record));
            }
        }
    }
}
