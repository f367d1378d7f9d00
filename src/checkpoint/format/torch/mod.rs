//! PyTorch's `.pth`, `.pt` and `.bin`: a pickle that describes tensors, and storages that hold their bytes.
//!
//! Since PyTorch 1.6 this is a zip file. Before, it was one file that begins with a pickle (openai-community/gpt2 has
//! such a `pytorch_model.bin`).
//!
//! `torch/serialization.py` and `torch/_utils.py` of PyTorch 2.15.

mod config;
mod in_place;
mod others;
mod state_dict;
mod tensor;
mod walk;

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::super::budget::Budget;
use super::super::bytes::{ByteFile, Header, Parse, ParseError, invalid};
use super::super::report::PickleReport;
use super::super::stored::Contents;
use super::pickle::{Id, Pickle, Value, is_known, short};
use super::zip::Member;
use in_place::{InPlace, forbidden};
use state_dict::Tree;
use tensor::{Refused, Stored, TensorCall, storage_of, stored_dtype};
use walk::Walk;

/// How many bytes tell an old file.
pub(super) const LEGACY_BYTES: usize = 32;
/// The integer 0x1950a86a20f9469cfc6c, which an old file begins with, as protocols 0 and 1 write it, and in bytes.
const MAGIC_LINE: &[u8] = b"L119547037146038801333356L\n.";
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
pub(super) const PICKLE: &str = "data.pkl";
const NO_DICT: &str = "it holds no dict of tensors: save `model.state_dict()`";

/// Returns whether a file that begins so is an old one: whether it begins with a pickle of the magic number.
pub(super) fn is_legacy(head: &[u8]) -> bool {
    // PROTO and the protocol, and from protocol 4 on FRAME and its length.
    let magic = match head {
        [0x80, 2 | 3, rest @ ..] => rest,
        [0x80, 4 | 5, 0x95, _, _, _, _, _, _, _, _, rest @ ..] => rest,
        _ => head,
    };
    [MAGIC, MAGIC_LINE].iter().any(|begins| magic.starts_with(begins))
}

/// Returns whether a zip file is PyTorch's: whether it has a member `NAME/data.pkl`.
pub(super) fn is_torch(members: &BTreeMap<String, Member>) -> bool {
    prefix_of(members).is_some()
}

/// Returns the folder inside the zip file that holds all its members.
fn prefix_of(members: &BTreeMap<String, Member>) -> Option<&str> {
    members
        .keys()
        .find_map(|name| name.strip_suffix(PICKLE).filter(|before| before.ends_with('/') || before.is_empty()))
}

/// Reads the pickle of a zip file.
pub(super) fn parse_zip(
    file: &ByteFile,
    members: &BTreeMap<String, Member>,
    state_dict: Option<&str>,
) -> Parse<Contents> {
    let prefix = prefix_of(members).unwrap_or_default();
    let member = |name: &str| match members.get(&format!("{prefix}{name}")) {
        Some(member) if member.method != 0 => invalid(format!("its `{name}` is compressed, which PyTorch never does")),
        member => Ok(member),
    };
    let Some(pickle) = member(PICKLE)? else { return invalid("it has no data.pkl") };
    let start = pickle.data_start(file)?;
    let pickle = Pickle::read(&mut Header::new(file, start, start + pickle.n_bytes))?;
    let big_endian = match member("byteorder")? {
        Some(order) => file.bytes_at(order.data_start(file)?, order.n_bytes.min(16))? == b"big",
        None => false,
    };
    // A short key, and any key that many tensors share, costs little; a long one is looked up once.
    let places = RefCell::new(BTreeMap::new());
    let place = |key: Id| -> Parse<(u64, u64)> {
        if let Some(&place) = places.borrow().get(&key) {
            return Ok(place);
        }
        let text = pickle.str(key).unwrap_or_default();
        let Some(member) = member(&format!("data/{text}"))? else { return Err(missing(text)) };
        let place = (member.data_start(file)?, member.n_bytes);
        file.budget().take_node::<(Id, (u64, u64))>()?;
        places.borrow_mut().insert(key, place);
        Ok(place)
    };
    Stored { file, pickle: &pickle, big_endian, place: &place }.contents(state_dict)
}

fn missing(key: &str) -> ParseError {
    ParseError::Invalid(format!("its storage `{}` is missing", short(key)))
}

/// Reads an old file: five pickles, the first of which is the magic number and the last of which lists the storages'
/// keys, then the storages.
pub(in super::super) fn parse_legacy(file: &ByteFile, state_dict: Option<&str>) -> Parse<Contents> {
    let mut header = Header::new(file, 0, file.n_bytes);
    let _magic = Pickle::read(&mut header)?;
    let _protocol = Pickle::read(&mut header)?;
    let system = Pickle::read(&mut header)?;
    let little = system.named(system.root()).find(|(key, _)| *key == "little_endian");
    let big_endian = little.is_some_and(|(_, id)| matches!(system.get(id), Value::Bool(false)));
    let pickle = Pickle::read(&mut header)?;
    let keys = Pickle::read(&mut header)?;
    let elements = element_bytes(file.budget(), &pickle)?;
    let mut storages = BTreeMap::new();
    for &key in keys.items(keys.root()).unwrap_or_default() {
        let Some((key, &element)) = keys.str(key).and_then(|key| Some((key, elements.get(key)?))) else {
            return invalid("its list of storages names one that no tensor has");
        };
        let n_elements = header.u64()?;
        let Some(n_bytes) = n_elements.checked_mul(element) else {
            return invalid(format!("its storage `{}` claims {n_elements} elements", short(key)));
        };
        file.budget().take_node::<(&str, (u64, u64))>()?;
        if storages.insert(key, (header.position(), n_bytes)).is_some() {
            return invalid(format!("it lists storage `{}` twice", short(key)));
        }
        header.skip(n_bytes)?;
    }
    // By index too: each key is looked up once.
    let mut places = BTreeMap::new();
    for value in pickle.values() {
        let Value::Persistent(id) = value else { continue };
        let (key, _) = storage_of(&pickle, *id)?;
        if let Entry::Vacant(place) = places.entry(key) {
            file.budget().take_node::<(Id, Option<(u64, u64)>)>()?;
            place.insert(storages.get(pickle.str(key).unwrap_or_default()).copied());
        }
    }
    let place = |key: Id| match places.get(&key) {
        Some(&Some(place)) => Ok(place),
        _ => Err(missing(pickle.str(key).unwrap_or_default())),
    };
    Stored { file, pickle: &pickle, big_endian, place: &place }.contents(state_dict)
}

/// Returns the bytes of an element of each storage, by key.
fn element_bytes<'a>(budget: &Budget, pickle: &'a Pickle) -> Parse<BTreeMap<&'a str, u64>> {
    let mut by_index = BTreeMap::new();
    for value in pickle.values() {
        let Value::Persistent(id) = value else { continue };
        let (key, dtype) = storage_of(pickle, *id)?;
        let dtype = match stored_dtype(dtype) {
            Ok(dtype) => dtype,
            Err(Refused::File(error)) => return Err(error),
            Err(Refused::Alone(reason)) => return invalid(format!("it has a storage {reason}")),
        };
        budget.take_node::<(Id, u64)>()?;
        by_index.insert(key, dtype.block_bytes as u64);
    }
    let mut elements = BTreeMap::new();
    for (key, n_bytes) in by_index {
        budget.take_node::<(&str, u64)>()?;
        elements.insert(pickle.str(key).unwrap_or_default(), n_bytes);
    }
    Ok(elements)
}

impl Stored<'_> {
    /// Collects the tensors of a state dict, and the configuration that the pickle holds.
    fn contents(&self, state_dict: Option<&str>) -> Parse<Contents> {
        let Self { file, pickle, .. } = *self;
        let mut contents = Contents::default();
        let root = pickle.root();
        if pickle.pairs(root).is_none() && pickle.items(root).is_none() {
            return match pickle.called(root).filter(|name| !is_known(name)) {
                Some(name) => Err(forbidden(name)),
                None => invalid(NO_DICT),
            };
        }
        let tree = Tree::of(file.budget(), pickle)?;
        let in_place = InPlace::of(file.budget(), pickle)?;
        let chosen = tree.choose(state_dict)?;
        let mut read = BTreeSet::new();
        match &chosen {
            None => match tree.class_in_place_of_tensor(&in_place) {
                Some(class) => return Err(forbidden(class)),
                None if pickle.pairs(root).is_none() => return invalid(NO_DICT),
                None => {}
            },
            Some(chosen) => {
                let mut walk = Walk::new(self, chosen, &in_place, &mut contents);
                walk.mapping(chosen.id, "")?;
                read = walk.read;
            }
        }
        config::read(file.budget(), pickle, &mut contents)?;
        let (n_objects, classes) = pickle.unknown(file.budget())?;
        let (state_dict, other_state_dicts) = chosen.map(|chosen| (chosen.path, chosen.others)).unwrap_or_default();
        let ids = (0..).take(pickle.values().len());
        let is_other = |id: &Id| {
            let call = TensorCall::of(pickle, *id).filter(|call| call.id == *id);
            call.is_some_and(|call| !read.contains(&call.id))
        };
        let n_other_tensors = ids.filter(is_other).count();
        let other_tensors = if n_other_tensors > 0 { others::names(file.budget(), pickle, &read)? } else { Vec::new() };
        contents.pickle =
            Some(PickleReport { state_dict, other_state_dicts, n_other_tensors, other_tensors, n_objects, classes });
        file.budget().give_back(pickle.n_taken());
        Ok(contents)
    }
}
