//! Proofs of what the CPU has.

/// Proof that the CPU has AVX2, F16C and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct HasFma(());

impl HasFma {
    pub(in super::super) fn seen() -> Option<Self> {
        let has_both = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
        (has_both && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Proof that the CPU has AVX-512F and AVX-512VL, and all of [`HasFma`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct HasAvx512(());

impl HasAvx512 {
    pub(in super::super) fn seen() -> Option<Self> {
        // Without AVX-512VL half of the registers could not be added up.
        let has_both = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        HasFma::seen().filter(|_| has_both).map(|_| Self(()))
    }
}
