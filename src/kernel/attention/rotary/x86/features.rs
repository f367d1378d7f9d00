//! Proofs of what the CPU has.

/// Proof that the CPU has AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct HasAvx2(());

impl HasAvx2 {
    pub(in super::super) fn seen() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }
}

/// Proof that the CPU has AVX-512F and AVX-512BW, and AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct HasAvx512(());

impl HasAvx512 {
    pub(in super::super) fn seen() -> Option<Self> {
        let has_both = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        HasAvx2::seen().filter(|_| has_both).map(|_| Self(()))
    }
}

/// Proof that the CPU has AVX-512BF16 and AVX-512DQ, and all of [`HasAvx512`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct HasBf16(());

impl HasBf16 {
    pub(in super::super) fn seen() -> Option<Self> {
        let has_both = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512dq");
        HasAvx512::seen().filter(|_| has_both).map(|_| Self(()))
    }
}
