//! Reads the numbers of a pickle, which has nine opcodes for them.

use super::machine::Machine;
use super::value::{OPAQUE, Value};
use crate::checkpoint::bytes::{Header, Parse, ParseError};

/// The longest number in digits.
const MAX_DIGITS: u64 = 1 << 10;

impl Machine<'_> {
    /// Pushes the number after `opcode`, or an opaque value for one over 64 bits, which cannot be a dimension.
    pub(super) fn number(&mut self, opcode: u8, header: &mut Header) -> Parse<()> {
        match opcode {
            b'J' => {
                let number = i32::from_le_bytes(header.array()?);
                self.int(number.into())
            }
            b'K' => {
                let number = header.u8()?;
                self.int(number.into())
            }
            b'M' => {
                let number = header.u16()?;
                self.int(number.into())
            }
            b'G' => {
                let number = f64::from_be_bytes(header.array()?);
                self.push(Value::Float(number))
            }
            0x8a => {
                let n_bytes = header.u8()?;
                self.long(header, n_bytes.into())
            }
            0x8b => {
                let n_bytes = header.u32()?;
                self.long(header, n_bytes.into())
            }
            _ => {
                let line = header.line(MAX_DIGITS)?;
                let malformed = || ParseError::Invalid("its pickle has a malformed number".to_string());
                let digits = str::from_utf8(&line).map_err(|_| malformed())?;
                match (opcode, digits) {
                    // Protocols 0 and 1 write booleans so.
                    (b'I', "00" | "01") => self.bool(digits == "01"),
                    (b'F', digits) => self.push(Value::Float(digits.parse().map_err(|_| malformed())?)),
                    (_, digits) => match digits.trim_end_matches('L').parse() {
                        Ok(number) => self.int(number),
                        Err(_) => self.push_id(OPAQUE),
                    },
                }
            }
        }
    }

    /// Reads LONG1 and LONG4, an integer of `n_bytes`.
    fn long(&mut self, header: &mut Header, n_bytes: u64) -> Parse<()> {
        let mut wide = [0; 8];
        let Some(low) = usize::try_from(n_bytes).ok().and_then(|n| wide.get_mut(..n)) else {
            return self.opaque(header, n_bytes);
        };
        let n_low = low.len();
        for byte in low {
            *byte = header.u8()?;
        }
        if n_low > 0 && wide[n_low - 1] & 0x80 != 0 {
            wide[n_low..].fill(0xff);
        }
        self.int(i64::from_le_bytes(wide))
    }
}
