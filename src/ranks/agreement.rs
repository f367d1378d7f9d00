//! What ranks agree on before they go on: errors, wishes, equal things, shares.

use std::fmt::Display;

use super::{Parts, Ranks};
use crate::error::{Error, RanksError, Result};

/// Makes an error on one rank an error on every rank: returns `own` if no rank has an error, else the error of the
/// lowest rank that has one. A collective call.
///
/// Call it after work that may fail on some ranks only, before the next collective call. The rank whose error it is
/// gets it back as it was; the others get [`RanksError::Failed`], with its text.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::ranks::{self, Ranks, Threads};
///
/// let texts = Threads::run(2, |ranks| {
///     let own = match ranks.rank() {
///         0 => Ok(()),
///         _ => Err(Error::SequenceTooLong { end: 9, n_positions: 8 }),
///     };
///     ranks::agree(ranks, own).unwrap_err().to_string()
/// });
/// assert!(texts[1].starts_with("the sequence ends at position 9"));
/// assert_eq!(texts[0], format!("rank 1: {}", texts[1]));
/// ```
///
/// # Errors
/// The error of the lowest rank that has one, or of the call itself ([`Ranks::all_gather`]).
pub fn agree<T, E: Display + From<Error>>(ranks: &dyn Ranks, own: Result<T, E>) -> Result<T, E> {
    let message = match &own {
        Ok(_) => Vec::new(),
        Err(error) => format!("!{error:#}").into_bytes(), // of anyhow, with its causes
    };
    let mut all = Parts::default();
    if let Err(error) = ranks.all_gather(&message, &mut all) {
        return own.and_then(|_| Err(E::from(error)));
    }
    match (all.iter().position(|message| !message.is_empty()), own) {
        (Some(rank), own) if rank != ranks.rank() || own.is_ok() => {
            let reason = String::from_utf8_lossy(&all.get(rank)[1..]).into_owned();
            Err(E::from(RanksError::Failed { rank, reason }.into()))
        }
        (_, own) => own,
    }
}

/// Returns whether `own` is true on any rank: a wish of one, such as to stop, becomes everyone's. A collective call.
///
/// ```
/// use candle_gpt_input::ranks::{self, Ranks, Threads};
///
/// assert!(Threads::run(3, |ranks| ranks::any(ranks, ranks.rank() == 2)).into_iter().all(|stop| stop.unwrap()));
/// ```
///
/// # Errors
/// Those of [`Ranks::all_gather`].
pub fn any(ranks: &dyn Ranks, own: bool) -> Result<bool> {
    let mut all = Parts::default();
    ranks.all_gather(&[u8::from(own)], &mut all)?;
    Ok(all.bytes().contains(&1))
}

/// Checks that all ranks have the same bytes, such as a hash of their weights. A collective call.
///
/// ```
/// use candle_gpt_input::ranks::{self, Ranks, Threads};
///
/// let errors = Threads::run(2, |ranks| ranks::same(ranks, "the seed", &[ranks.rank() as u8]).unwrap_err().to_string());
/// assert!(errors.iter().all(|error| error.starts_with("the seed of rank 1 and of rank 0 differ")));
/// ```
///
/// # Errors
/// [`RanksError::Differ`] on every rank if they differ anywhere; those of [`Ranks::all_gather`].
pub fn same(ranks: &dyn Ranks, what: &'static str, bytes: &[u8]) -> Result<()> {
    let mut all = Parts::default();
    ranks.all_gather(bytes, &mut all)?;
    match all.iter().position(|other| other != all.get(0)) {
        Some(rank) => Err(RanksError::Differ { what, rank }.into()),
        None => Ok(()),
    }
}

/// Returns how many of the micro-batches of a step are one rank's: rank `r` has those from `r` times as many on.
///
/// Only numbers of ranks are allowed on which the step has the bits of a single process: one rank, or as many as leave
/// each a power of two.
///
/// ```
/// use candle_gpt_input::ranks::share;
///
/// assert_eq!((share(12, 1)?, share(12, 3)?, share(12, 6)?), (12, 4, 2));
/// let error = share(12, 2).unwrap_err(); // six each
/// assert_eq!(error.to_string(), "12 micro-batches a step on 2 ranks: take 1, 3, 6 or 12 ranks");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Errors
/// [`RanksError::Uneven`], which names the numbers of ranks that fit.
pub fn share(micro_batches: usize, size: usize) -> Result<usize> {
    match RanksError::sizes(micro_batches).contains(&size) {
        true => Ok(micro_batches / size),
        false => Err(RanksError::Uneven { micro_batches, size }.into()),
    }
}
