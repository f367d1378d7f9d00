//! PyTorch's `.pth`, `.pt` and `.bin`: a pickle that describes tensors, and storages that hold their bytes.
//!
//! Since PyTorch 1.6 this is a zip file. Before, it was one file that begins with a pickle (openai-community/gpt2 has
//! such a `pytorch_model.bin`).
//!
//! `torch/serialization.py` and `torch/_utils.py` of PyTorch 2.15.

mod config;
mod state_dict;
mod tensor;

use std::collections::BTreeMap;

use super::super::budget::Budget;
use super::super::bytes::{ByteFile, Header, Parse, ParseError, invalid};
use super::super::report::PickleReport;
use super::super::stored::{Contents, StoredTensor};
use super::pickle::{Id, Pickle, Value, is_known, short};
use super::zip::Member;
use state_dict::{Chosen, Tree};
use tensor::{PlaceOf, Storage, TensorCall, storage_of};

/// The beginning of an old file: a pickle of the integer 0x1950a86a20f9469cfc6c.
pub(in super::super) const LEGACY_MAGIC: &[u8; 15] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";
pub(super) const PICKLE: &str = "data.pkl";
const NO_DICT: &str = "it holds no dict of tensors: save `model.state_dict()`";

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
    let storage = |key: &str| match member(&format!("data/{key}"))? {
        Some(member) => Ok((member.data_start(file)?, member.n_bytes)),
        None => invalid(format!("its storage `{key}` is missing")),
    };
    let stored = Stored { file, pickle: &pickle, big_endian, place: &storage };
    stored.contents(state_dict)
}

/// Reads an old file: four pickles after the magic number, the last of which lists the storages' keys, then the
/// storages.
pub(in super::super) fn parse_legacy(file: &ByteFile, state_dict: Option<&str>) -> Parse<Contents> {
    let mut header = Header::new(file, LEGACY_MAGIC.len() as u64, file.n_bytes);
    let _protocol = Pickle::read(&mut header)?;
    let system = Pickle::read(&mut header)?;
    let little = system.named(system.root()).find(|(key, _)| *key == "little_endian");
    let big_endian = little.is_some_and(|(_, id)| matches!(system.get(id), Value::Bool(false)));
    let pickle = Pickle::read(&mut header)?;
    let keys = Pickle::read(&mut header)?;
    let sizes = storage_sizes(file.budget(), &pickle)?;
    let mut storages = BTreeMap::new();
    for &key in keys.items(keys.root()).unwrap_or_default() {
        let Some((key, &element)) = keys.str(key).and_then(|key| Some((key, sizes.get(key)?))) else {
            return invalid("its list of storages names one that no tensor has");
        };
        let n_elements = header.u64()?;
        let Some(n_bytes) = n_elements.checked_mul(element) else {
            return invalid(format!("its storage `{key}` claims {n_elements} elements"));
        };
        file.budget().take_node::<(&str, (u64, u64))>()?;
        storages.insert(key, (header.position(), n_bytes));
        header.skip(n_bytes)?;
    }
    let place = |key: &str| match storages.get(key) {
        Some(&place) => Ok(place),
        None => invalid(format!("its storage `{key}` is missing")),
    };
    Stored { file, pickle: &pickle, big_endian, place: &place }.contents(state_dict)
}

/// Returns the bytes of an element of each storage, by key.
fn storage_sizes<'a>(budget: &Budget, pickle: &'a Pickle) -> Parse<BTreeMap<&'a str, u64>> {
    let mut sizes = BTreeMap::new();
    for value in pickle.values() {
        if let Value::Persistent(id) = value {
            let Storage { key, dtype, .. } = storage_of(pickle, *id)?;
            budget.take_node::<(&str, u64)>()?;
            sizes.insert(key, dtype.block_bytes as u64);
        }
    }
    Ok(sizes)
}

/// A pickle and its storages.
struct Stored<'a> {
    file: &'a ByteFile,
    pickle: &'a Pickle,
    big_endian: bool,
    place: &'a PlaceOf<'a>,
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
        let chosen = tree.choose(state_dict)?;
        let mut n_read = 0;
        match &chosen {
            None => match tree.class_in_place_of_tensor() {
                Some(class) => return Err(forbidden(class)),
                None if pickle.pairs(root).is_none() => return invalid(NO_DICT),
                None => {}
            },
            Some(chosen) => {
                let mut walk =
                    Walk { stored: self, chosen, contents: &mut contents, made: BTreeMap::new(), above: Vec::new() };
                walk.mapping(chosen.id, "")?;
                n_read = walk.made.len();
            }
        }
        config::read(file.budget(), pickle, &mut contents)?;
        let (n_objects, classes) = pickle.unknown(file.budget())?;
        let (state_dict, other_state_dicts) = chosen.map(|chosen| (chosen.path, chosen.others)).unwrap_or_default();
        let ids = (0..).take(pickle.values().len());
        let is_tensor = |id: &Id| TensorCall::of(pickle, *id).is_some_and(|call| call.id == *id);
        let n_other_tensors = ids.filter(is_tensor).count().saturating_sub(n_read);
        contents.pickle = Some(PickleReport { state_dict, other_state_dicts, n_other_tensors, n_objects, classes });
        file.budget().give_back(pickle.n_taken());
        Ok(contents)
    }
}

/// A walk through a state dict, whose dicts may be nested.
struct Walk<'a> {
    stored: &'a Stored<'a>,
    chosen: &'a Chosen,
    contents: &'a mut Contents,
    /// The tensors by call: one with many names is stored once.
    made: BTreeMap<Id, StoredTensor>,
    /// The enclosing dicts: a dict inside itself is not entered.
    above: Vec<Id>,
}

impl Walk<'_> {
    /// Adds the tensors of a dict, and those of the dicts inside it, under `prefix` and their keys.
    fn mapping(&mut self, id: Id, prefix: &str) -> Parse<()> {
        let Stored { file, pickle, big_endian, place } = *self.stored;
        let budget = file.budget();
        self.above.push(id);
        for &(key, value) in pickle.pairs(id).unwrap_or_default() {
            let call = TensorCall::of(pickle, value);
            let name = match pickle.get(key) {
                Value::Str(key) => format!("{prefix}{key}"),
                // An optimizer's state has such keys, a model has not.
                Value::Int(_) => continue,
                _ if call.is_some() => {
                    return invalid("it holds a tensor whose name is not a text of at most 65535 bytes in UTF-8");
                }
                _ => continue,
            };
            if let Some(call) = call {
                let tensor = match self.made.get(&call.id) {
                    Some(tensor) => tensor.clone(),
                    None => {
                        let tensor = call.tensor(pickle, big_endian, place)?;
                        budget.take_node::<(Id, StoredTensor)>()?;
                        self.made.insert(call.id, tensor.clone());
                        tensor
                    }
                };
                self.contents.add(budget, name, tensor)?;
            } else if self.chosen.is_inside(value) {
                if !self.above.contains(&value) {
                    budget.take_text(name.len())?;
                    self.mapping(value, &format!("{name}."))?;
                }
            } else if let Some(class) = state_dict::in_place_of_tensor(pickle, &name, value) {
                return Err(forbidden(class));
            }
        }
        self.above.pop();
        Ok(())
    }
}

/// Returns the error of an object of an unknown class in the place of a tensor or a state dict.
fn forbidden(class: &str) -> ParseError {
    let kind = if class.starts_with("__torch__") { ", a module of TorchScript" } else { "" };
    ParseError::Forbidden(format!("`{}`{kind}", short(class)))
}
