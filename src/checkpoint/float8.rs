//! 8-bit floating-point dtypes of PyTorch and safetensors.

/// An 8-bit floating-point dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float8 {
    E4M3,
    E5M2,
    E4M3Fnuz,
    E5M2Fnuz,
    E8M0,
}

impl Float8 {
    const ALL: [(Self, &str, &str); 5] = [
        (Self::E4M3, "F8_E4M3", "torch.float8_e4m3fn"),
        (Self::E5M2, "F8_E5M2", "torch.float8_e5m2"),
        (Self::E4M3Fnuz, "F8_E4M3FNUZ", "torch.float8_e4m3fnuz"),
        (Self::E5M2Fnuz, "F8_E5M2FNUZ", "torch.float8_e5m2fnuz"),
        (Self::E8M0, "F8_E8M0", "torch.float8_e8m0fnu"),
    ];

    /// Returns the dtype that safetensors or PyTorch calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, ours, torch)| name == *ours || name == *torch).map(|&(kind, ..)| kind)
    }

    /// Returns its name in safetensors.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("F8", |&(_, name, _)| name)
    }

    /// Converts `byte`, exactly.
    pub(super) fn to_f32(self, byte: u8) -> f32 {
        match (self, byte) {
            (Self::E8M0, 255) | (Self::E4M3, 0x7f | 0xff) | (Self::E4M3Fnuz | Self::E5M2Fnuz, 0x80) => f32::NAN,
            (Self::E8M0, 0) => f32::from_bits(1 << 22), // 2^-127, a subnormal
            (Self::E8M0, exponent) => f32::from_bits(u32::from(exponent) << 23),
            // The upper byte of an f16.
            (Self::E5M2, byte) => half::f16::from_bits(u16::from(byte) << 8).to_f32(),
            (Self::E4M3, byte) => number(byte, 3, 7),
            (Self::E4M3Fnuz, byte) => number(byte, 3, 8),
            (Self::E5M2Fnuz, byte) => number(byte, 2, 16),
        }
    }
}

/// Converts a sign, an exponent and `n_mantissa` bits; no bit pattern means infinity.
fn number(byte: u8, n_mantissa: u32, bias: i32) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let (exponent, mantissa) = (magnitude >> n_mantissa, magnitude & ((1 << n_mantissa) - 1));
    // Without an exponent there is no hidden bit.
    let (significand, exponent) = match exponent {
        0 => (mantissa, 1),
        exponent => (mantissa | 1 << n_mantissa, exponent.cast_signed()),
    };
    let scale = exponent - bias - n_mantissa.cast_signed();
    let power_of_two = f32::from_bits((scale + 127).cast_unsigned() << 23);
    let number = significand as f32 * power_of_two;
    if byte & 0x80 == 0 { number } else { -number }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `torch.tensor([byte], dtype=torch.uint8).view(dtype).float()` in PyTorch 2.15.
    #[test]
    fn numbers_are_those_of_pytorch() {
        for (kind, byte, expected) in [
            (Float8::E4M3, 0x01, 0.001_953_125),
            (Float8::E4M3, 0x07, 0.013_671_875),
            (Float8::E4M3, 0x38, 1.0),
            (Float8::E4M3, 0x7e, 448.0),
            (Float8::E4M3, 0xc4, -3.0),
            (Float8::E5M2, 0x01, 1.525_878_9e-5),
            (Float8::E5M2, 0x3c, 1.0),
            (Float8::E5M2, 0x7b, 57344.0),
            (Float8::E5M2, 0xfc, f32::NEG_INFINITY),
            (Float8::E4M3Fnuz, 0x01, 0.000_976_562_5),
            (Float8::E4M3Fnuz, 0x7f, 240.0),
            (Float8::E5M2Fnuz, 0x01, 7.629_394_5e-6),
            (Float8::E5M2Fnuz, 0xff, -57344.0),
            (Float8::E8M0, 0, f32::MIN_POSITIVE / 2.0),
            (Float8::E8M0, 127, 1.0),
            (Float8::E8M0, 254, 1.701_411_8e38),
        ] {
            assert_eq!(kind.to_f32(byte), expected, "{kind:?} {byte:#x}");
        }
        for (kind, byte) in [(Float8::E4M3, 0xff), (Float8::E5M2, 0x7d), (Float8::E4M3Fnuz, 0x80), (Float8::E8M0, 255)]
        {
            assert!(kind.to_f32(byte).is_nan(), "{kind:?} {byte:#x}");
        }
        assert!(Float8::E4M3.to_f32(0x80).is_sign_negative());
    }
}
