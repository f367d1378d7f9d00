//! Turns eight or sixteen pairs at a time, with AVX2 or AVX-512, by the same loops.

mod converting;
mod eight;
pub(super) mod features;
mod loops;
mod sixteen;

use std::any::TypeId;

use half::{bf16, f16};

use super::turn::{Block, Turn, Vectors};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::Outside;

/// Returns whether vectors hold elements of type `E`.
pub(super) fn knows<E: Element>() -> bool {
    [TypeId::of::<f32>(), TypeId::of::<bf16>(), TypeId::of::<f16>()].contains(&TypeId::of::<E>())
}

/// Turns a block of f32, bf16 or f16.
pub(super) fn turn<E: Element>(turn: &Turn, block: &Block<E>) -> Result<(), Outside> {
    let is_bf16 = TypeId::of::<E>() == TypeId::of::<bf16>();
    match turn.vectors {
        // SAFETY: the CPU has the features, as the proofs show.
        Vectors::Converting(_) if is_bf16 && turn.n_pairs.is_multiple_of(16) => unsafe {
            converting::turn(turn, block)
        },
        // SAFETY: as above.
        Vectors::Converting(_) | Vectors::Sixteen(_) if turn.n_pairs.is_multiple_of(16) => unsafe {
            sixteen::turn(turn, block)
        },
        // SAFETY: as above.
        Vectors::Converting(_) | Vectors::Sixteen(_) | Vectors::Eight(_) => unsafe { eight::turn(turn, block) },
        Vectors::One => Err(Outside),
    }
}
