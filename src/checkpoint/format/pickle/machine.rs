//! Interprets the opcodes of pickle, as far as [`pickle`](super) says.

use std::collections::HashMap;

use super::value::{Id, Value, is_allowed};
use crate::checkpoint::bytes::{Header, Parse, ParseError, invalid};

const MAX_LINE: usize = 1 << 10;

#[derive(Default)]
pub(super) struct Machine {
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine {
    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    pub(super) fn pop(&mut self) -> Parse<Id> {
        // Values below a mark belong to an enclosing container.
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| ParseError::Invalid(EMPTY.to_string())),
            false => invalid(EMPTY),
        }
    }

    fn top(&self) -> Parse<Id> {
        self.stack.last().copied().ok_or_else(|| ParseError::Invalid(EMPTY.to_string()))
    }

    fn pop_to_mark(&mut self) -> Parse<Vec<Id>> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => invalid("its pickle has no mark where one is used"),
        }
    }

    /// Replaces the last `n` values by a tuple of them.
    fn tuple(&mut self, n: usize) -> Parse<()> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items.into()));
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Parse<()> {
        let global = format!("{module}.{name}");
        if !is_allowed(&global) {
            let global: String = global.chars().take(100).collect();
            return Err(ParseError::Forbidden(format!("`{global}`")));
        }
        self.push(Value::Global(global.into()));
        Ok(())
    }

    /// Replaces a function and its arguments by a call, which is not made; an empty dict becomes a value.
    fn call(&mut self) -> Parse<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let value = match &self.values[function] {
            Value::Global(name) if matches!(&**name, "collections.OrderedDict" | "collections.defaultdict") => {
                Value::Dict(Vec::new())
            }
            Value::Global(_) => Value::Call { function, args },
            _ => return Err(ParseError::Forbidden("a call of something that is not a function".to_string())),
        };
        self.push(value);
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Parse<()> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            Value::Opaque | Value::Call { .. } => {}
            _ => return invalid("its pickle appends to something that is not a list"),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Parse<()> {
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Value::Opaque | Value::Call { .. } => {}
            _ => return invalid("its pickle sets an item of something that is not a dict"),
        }
        Ok(())
    }

    fn text(&mut self, bytes: Vec<u8>) -> Parse<()> {
        match String::from_utf8(bytes) {
            Ok(text) => self.push(Value::Str(text.into())),
            Err(_) => self.push(Value::Opaque), // a string of Python 2, or lone surrogates
        }
        Ok(())
    }

    fn opaque(&mut self, header: &mut Header, n_bytes: u64) -> Parse<()> {
        header.skip(n_bytes)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Parse<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Parse<()> {
        match self.memo.get(&key) {
            Some(&id) => self.stack.push(id),
            None => return invalid(format!("its pickle asks for memo {key}, which was never set")),
        }
        Ok(())
    }

    /// Executes one opcode; returns `true` at the end.
    pub(super) fn step(&mut self, header: &mut Header) -> Parse<bool> {
        match header.u8()? {
            b'.' => return Ok(true),
            0x80 => header.skip(1)?,                   // PROTO
            0x95 => header.skip(8)?,                   // FRAME
            b'(' => self.marks.push(self.stack.len()), // MARK
            b'0' => self.pop().map(drop)?,             // POP
            b'1' => self.pop_to_mark().map(drop)?,     // POP_MARK
            b'2' => self.stack.push(self.top()?),      // DUP
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let number = i32::from_le_bytes(header.array()?);
                self.push(Value::Int(number.into()));
            }
            b'K' => {
                let number = header.u8()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = header.u16()?;
                self.push(Value::Int(number.into()));
            }
            0x8a => self.long(header)?,
            0x8b => {
                let n_bytes = header.u32()?;
                self.opaque(header, n_bytes.into())?; // LONG4: more than 255 bytes of number
            }
            b'G' => self.opaque(header, 8)?,
            b'X' => {
                let n_bytes = header.u32()?;
                let bytes = header.bytes(n_bytes.into())?;
                self.text(bytes)?;
            }
            0x8c | b'U' => {
                let n_bytes = header.u8()?;
                let bytes = header.bytes(n_bytes.into())?;
                self.text(bytes)?;
            }
            0x8d => {
                let n_bytes = header.u64()?;
                let bytes = header.bytes(n_bytes)?;
                self.text(bytes)?;
            }
            b'T' => {
                let n_bytes = header.u32()?;
                let bytes = header.bytes(n_bytes.into())?;
                self.text(bytes)?;
            }
            b'B' => {
                let n_bytes = header.u32()?;
                self.opaque(header, n_bytes.into())?;
            }
            b'C' => {
                let n_bytes = header.u8()?;
                self.opaque(header, n_bytes.into())?;
            }
            0x8e | 0x96 => {
                let n_bytes = header.u64()?;
                self.opaque(header, n_bytes)?;
            }
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b')' => self.push(Value::Tuple(Box::default())),
            0x8f => self.push(Value::Opaque), // EMPTY_SET
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items.into()));
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()));
                self.extend_dict(&items)?;
            }
            0x91 => {
                self.pop_to_mark()?; // FROZENSET
                self.push(Value::Opaque);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            0x90 => self.pop_to_mark().map(drop)?, // ADDITEMS, to a set
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'c' => {
                let (module, name) = (header.line(MAX_LINE)?, header.line(MAX_LINE)?);
                self.global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (&self.values[module], &self.values[name]) else {
                    return invalid("its pickle names a class by something that is not text");
                };
                let (module, name) = (module.clone(), name.clone());
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => self.call()?, // REDUCE, NEWOBJ
            0x92 => {
                self.pop()?; // NEWOBJ_EX: the arguments by name
                self.call()?;
            }
            b'b' => self.pop().map(drop)?, // BUILD: attributes beside a value
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'q' => {
                let key = header.u8()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = header.u32()?;
                self.remember(key)?;
            }
            0x94 => match u32::try_from(self.memo.len()) {
                Ok(key) => self.remember(key)?,
                Err(_) => return invalid("its pickle has too many memo entries"),
            },
            b'h' => {
                let key = header.u8()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = header.u32()?;
                self.recall(key)?;
            }
            opcode => return Err(ParseError::Forbidden(format!("opcode {opcode:#04x} at {}", header.position() - 1))),
        }
        Ok(false)
    }

    /// Reads LONG1, an integer of up to 255 bytes. Drops the value of one over 64 bits, which cannot be a dimension.
    fn long(&mut self, header: &mut Header) -> Parse<()> {
        let n_bytes = header.u8()?;
        let bytes = header.bytes(n_bytes.into())?;
        if bytes.len() > 8 {
            self.push(Value::Opaque);
            return Ok(());
        }
        let sign = if bytes.last().is_some_and(|high| high & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }
}

const EMPTY: &str = "its pickle takes a value from an empty stack";
