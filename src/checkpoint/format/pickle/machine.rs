//! Interprets the opcodes of pickle, as far as [`pickle`](super) says.

use std::collections::BTreeMap;

use super::value::{FALSE, Id, NONE, OPAQUE, TRUE, Value, ZERO, constants, get};
use crate::checkpoint::budget::Budget;
use crate::checkpoint::bytes::{Header, Parse, ParseError, invalid};

/// The longest name of a module, a class or a function.
const MAX_NAME: u64 = 1 << 10;

pub(super) struct Machine<'a> {
    pub(super) budget: &'a Budget,
    pub(super) values: Vec<Value>,
    pub(super) stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(budget: &'a Budget) -> Parse<Self> {
        let (stack, marks, memo) = Default::default();
        let mut values = Vec::new();
        constants().try_for_each(|value| budget.push(&mut values, value))?;
        Ok(Self { budget, values, stack, marks, memo })
    }

    pub(super) fn push(&mut self, value: Value) -> Parse<()> {
        let Ok(id) = Id::try_from(self.values.len()) else { return invalid("its pickle has too many values") };
        self.budget.push(&mut self.values, value)?;
        self.push_id(id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Parse<()> {
        self.budget.push(&mut self.stack, id)
    }

    /// Returns the height of the stack below which values belong to an enclosing container.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Parse<Id> {
        let is_there = self.stack.len() > self.floor();
        self.stack.pop().filter(|_| is_there).ok_or_else(|| ParseError::Invalid(EMPTY.to_string()))
    }

    pub(super) fn top(&self) -> Parse<Id> {
        self.stack.last().copied().ok_or_else(|| ParseError::Invalid(EMPTY.to_string()))
    }

    /// Removes the last mark, and returns the height of the stack there.
    fn mark(&mut self) -> Parse<usize> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(height),
            _ => invalid("its pickle has no mark where one is used"),
        }
    }

    /// Returns the height of the stack below the last `n` values.
    pub(super) fn below(&self, n: usize) -> Parse<usize> {
        let height = self.stack.len().checked_sub(n).filter(|&height| height >= self.floor());
        height.ok_or_else(|| ParseError::Invalid(EMPTY.to_string()))
    }

    pub(super) fn int(&mut self, number: i64) -> Parse<()> {
        match Id::try_from(number) {
            Ok(small @ 0..=255) => self.push_id(ZERO + small),
            _ => self.push(Value::Int(number)),
        }
    }

    pub(super) fn bool(&mut self, is_true: bool) -> Parse<()> {
        self.push_id(if is_true { TRUE } else { FALSE })
    }

    pub(super) fn opaque(&mut self, header: &mut Header, n_bytes: u64) -> Parse<()> {
        header.skip(n_bytes)?;
        self.push_id(OPAQUE)
    }

    fn remember(&mut self, key: u32) -> Parse<()> {
        let top = self.top()?;
        self.budget.take_node::<(u32, Id)>()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Parse<()> {
        match self.memo.get(&key) {
            Some(&id) => self.push_id(id),
            None => invalid(format!("its pickle asks for memo {key}, which was never set")),
        }
    }

    /// Executes one opcode; returns `true` at the end.
    pub(super) fn step(&mut self, header: &mut Header) -> Parse<bool> {
        match header.u8()? {
            b'.' => return Ok(true),
            0x80 => header.skip(1)?,                                               // PROTO
            0x95 => header.skip(8)?,                                               // FRAME
            b'(' => self.budget.push(&mut self.marks, self.stack.len())?,          // MARK
            b'0' => self.pop().map(drop)?,                                         // POP
            b'1' | 0x90 => self.mark().map(|height| self.stack.truncate(height))?, // POP_MARK; ADDITEMS, to a set
            b'2' => self.top().and_then(|id| self.push_id(id))?,                   // DUP
            b'N' => self.push_id(NONE)?,
            0x88 => self.bool(true)?,
            0x89 => self.bool(false)?,
            opcode @ (b'J' | b'K' | b'M' | b'G' | b'I' | b'L' | b'F' | 0x8a | 0x8b) => self.number(opcode, header)?,
            b'X' | b'T' => {
                let n_bytes = header.u32()?;
                self.text_of(header, n_bytes.into())?;
            }
            0x8c | b'U' => {
                let n_bytes = header.u8()?;
                self.text_of(header, n_bytes.into())?;
            }
            0x8d => {
                let n_bytes = header.u64()?;
                self.text_of(header, n_bytes)?;
            }
            opcode @ (b'V' | b'S') => self.text_line(opcode, header)?,
            b'B' => {
                let n_bytes = header.u32()?;
                self.bytes_of(header, n_bytes.into())?;
            }
            b'C' => {
                let n_bytes = header.u8()?;
                self.bytes_of(header, n_bytes.into())?;
            }
            0x8e => {
                let n_bytes = header.u64()?;
                self.bytes_of(header, n_bytes)?;
            }
            0x96 => {
                let n_bytes = header.u64()?; // BYTEARRAY8
                self.opaque(header, n_bytes)?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b')' => self.push(Value::Tuple(Box::default()))?,
            0x8f => self.push_id(OPAQUE)?, // EMPTY_SET
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => self.mark().and_then(|height| self.tuple_above(height))?,
            b'l' => {
                let height = self.mark()?;
                self.insert(height, Value::List(Vec::new()))?;
                self.extend_list(height + 1)?;
            }
            b'd' => {
                let height = self.mark()?;
                self.insert(height, Value::Dict(Vec::new()))?;
                self.extend_dict(height + 1)?;
            }
            0x91 => {
                let height = self.mark()?; // FROZENSET
                self.stack.truncate(height);
                self.push_id(OPAQUE)?;
            }
            b'a' => self.below(1).and_then(|height| self.extend_list(height))?,
            b'e' => self.mark().and_then(|height| self.extend_list(height))?,
            b's' => self.below(2).and_then(|height| self.extend_dict(height))?,
            b'u' => self.mark().and_then(|height| self.extend_dict(height))?,
            b'c' => self.global_line(header)?,
            0x93 => self.named_global()?,
            b'R' | 0x81 => self.call()?,  // REDUCE, NEWOBJ
            0x92 => self.call_by_name()?, // NEWOBJ_EX
            b'i' => {
                // INST: the class is named here, its arguments lie above the mark.
                let height = self.mark()?;
                self.global_line(header)?;
                self.stack[height..].rotate_right(1);
                self.object_above(height + 1)?;
            }
            b'o' => {
                let height = self.mark()?; // OBJ: a class and its arguments
                if self.stack.len() == height {
                    return invalid(EMPTY);
                }
                self.object_above(height + 1)?;
            }
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            b'P' => self.persistent_line(header)?,
            b'p' => {
                let key = header.decimal()?;
                self.remember(key)?;
            }
            b'g' => {
                let key = header.decimal()?;
                self.recall(key)?;
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

    /// Pushes a value below those above the stack's `height`.
    fn insert(&mut self, height: usize, value: Value) -> Parse<()> {
        self.push(value)?;
        self.stack[height..].rotate_right(1);
        Ok(())
    }

    /// Replaces a tuple by what it stands for outside the pickle.
    pub(super) fn persistent(&mut self) -> Parse<()> {
        let id = self.pop()?;
        self.push(Value::Persistent(id))
    }

    /// Pushes the class or function that two lines name.
    fn global_line(&mut self, header: &mut Header) -> Parse<()> {
        let (module, name) = (header.line(MAX_NAME)?, header.line(MAX_NAME)?);
        self.global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))
    }

    /// Executes STACK_GLOBAL.
    fn named_global(&mut self) -> Parse<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let text = |id: Id| match get(&self.values, id) {
            Value::Str(text) if text.len() as u64 <= MAX_NAME => Some(text.to_string()),
            _ => None,
        };
        match (text(module), text(name)) {
            (Some(module), Some(name)) => self.global(&module, &name),
            _ => {
                invalid(format!("its pickle names a class by something that is not a text of at most {MAX_NAME} bytes"))
            }
        }
    }
}

pub(super) const EMPTY: &str = "its pickle takes a value from an empty stack";
