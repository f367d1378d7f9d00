//! Finds what may be wrong with a table.

use std::io::Write;

use anyhow::Result;
use indicatif::ProgressBar;

use crate::rows::{Rows, dot};
use crate::words::Words;

/// Rows with a larger cosine count as equal.
const DUPLICATE: f32 = 0.99;
/// A row shorter than this share of the median length carries next to no information.
const TINY: f32 = 0.1;
/// How many standard deviations of chance the mean of [`N_PAIRS`] neighbours' cosines must exceed for them to count as
/// alike.
const ALIKE: f32 = 4.0;
const N_PAIRS: usize = 8;
/// How many examples each line shows.
const N_EXAMPLES: usize = 4;

/// Writes a line for each finding.
pub fn report(out: &mut impl Write, wte: &Rows, wpe: &Rows, seen: &[u32], words: &Words) -> Result<()> {
    let (vocab_size, n_positions) = (wte.len(), wpe.len());
    writeln!(out, "health of wte [{vocab_size}, {}] and wpe [{n_positions}, {}]", wte.width, wpe.width)?;
    let mut line = |what: &str, ids: &[usize]| {
        let examples: Vec<String> = ids.iter().take(N_EXAMPLES).map(|&id| words.show(id)).collect();
        let share = 100.0 * ids.len() as f64 / vocab_size as f64;
        let examples = if ids.is_empty() { String::new() } else { format!(": {} ..", examples.join(" ")) };
        writeln!(out, "  {:>6} tokens ({share:.1} %) {what}{examples}", ids.len())
    };
    line("with a NaN or an infinity", &not_finite(wte))?;
    let mut is_seen = vec![false; vocab_size];
    for &id in seen {
        if let Some(seen) = is_seen.get_mut(id as usize) {
            *seen = true;
        }
    }
    line("not in the text", &(0..vocab_size).filter(|&id| !is_seen[id]).collect::<Vec<_>>())?;
    line(&format!("shorter than {TINY} of the median"), &tiny(wte))?;
    let duplicates = duplicates(wte)?;
    // Every step pushes tokens that a model never sees in one direction. Those rows grow alike, which says little of
    // training.
    let (known, unknown): (Vec<_>, Vec<_>) =
        duplicates.into_iter().partition(|&(_, left, right)| is_seen[left] && is_seen[right]);
    let first = |pairs: &[(f32, usize, usize)]| pairs.iter().map(|&(_, left, _)| left).collect::<Vec<_>>();
    line(&format!("of the text with another nearly the same (cosine above {DUPLICATE})"), &first(&known))?;
    line("not in the text, or beside one that is not, of which the same holds", &first(&unknown))?;
    for (cosine, left, right) in known.into_iter().take(N_EXAMPLES) {
        writeln!(out, "         {} and {} {cosine:.4}", words.show(left), words.show(right))?;
    }
    writeln!(out, "  {:>6} positions with a NaN or an infinity", not_finite(wpe).len())?;
    let n_trained = trained_positions(wpe)?;
    writeln!(
        out,
        "  {n_trained:>6} positions from the first on are like their neighbours; {} beyond them are not, as if \
         never trained",
        n_positions - n_trained
    )?;
    Ok(())
}

fn not_finite(rows: &Rows) -> Vec<usize> {
    (0..rows.len()).filter(|&id| !rows.norms[id].is_finite()).collect()
}

fn tiny(rows: &Rows) -> Vec<usize> {
    let mut norms: Vec<f32> = rows.norms.iter().copied().filter(|norm| norm.is_finite()).collect();
    norms.sort_by(f32::total_cmp);
    let median = norms.get(norms.len() / 2).copied().unwrap_or(0.0);
    (0..rows.len()).filter(|&id| rows.norms[id] < TINY * median).collect()
}

/// Returns (cosine, row, later row) for each row that a later one nearly equals, the nearest pairs first.
///
/// Compares all pairs, a block of rows at a time.
fn duplicates(rows: &Rows) -> Result<Vec<(f32, usize, usize)>> {
    const BLOCK: usize = 64;
    let all = rows.tensor()?;
    let bar = ProgressBar::new(rows.len() as u64);
    let mut found = Vec::new();
    for start in (0..rows.len()).step_by(BLOCK) {
        let n = BLOCK.min(rows.len() - start);
        let later = all.narrow(0, start, rows.len() - start)?;
        let cosines: Vec<f32> = all.narrow(0, start, n)?.matmul(&later.t()?)?.flatten_all()?.to_vec1()?;
        for (row, cosines) in cosines.chunks(rows.len() - start).enumerate() {
            let nearest = cosines[row + 1..].iter().copied().fold(f32::MIN, f32::max);
            if nearest > DUPLICATE {
                let at = cosines[row + 1..].iter().position(|&cosine| cosine == nearest).unwrap_or(0);
                found.push((nearest, start + row, start + row + 1 + at));
            }
        }
        bar.inc(n as u64);
    }
    bar.finish_and_clear();
    found.sort_by(|left, right| right.0.total_cmp(&left.0));
    Ok(found)
}

/// Returns the position up to which neighbours are alike. Training makes them so; chance does not.
fn trained_positions(wpe: &Rows) -> Result<usize> {
    let pairs = (1..wpe.len()).map(|position| Ok(dot(&wpe.unit(position - 1)?, &wpe.unit(position)?)));
    let cosines = pairs.collect::<Result<Vec<f32>>>()?;
    let chance = ALIKE / ((wpe.width * N_PAIRS) as f32).sqrt();
    let mean = |pairs: &[f32]| pairs.iter().sum::<f32>() / N_PAIRS as f32;
    let Some(first) = cosines.windows(N_PAIRS).rposition(|pairs| mean(pairs) > chance) else { return Ok(0) };
    // The last pairs of that window may lie beyond the end.
    let last = &cosines[first..first + N_PAIRS];
    let end = last.iter().rposition(|&cosine| cosine > mean(last) / 2.0).unwrap_or(0);
    Ok(first + end + 2) // a pair is two positions
}
