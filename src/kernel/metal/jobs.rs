//! What each kernel is told, and over how many threads it runs.
//!
//! Nothing here needs Metal: the tests run these launches on the CPU.

use candle_core::{DType, Error, Layout, Result};

use crate::kernel::core::row_sums::PART;
use crate::kernel::ids::{GroupTable, RowGroups};

/// Threads of a threadgroup, along a row and along the rows.
pub(super) const THREADS: [usize; 2] = [32, 8];
/// Pieces of a row that one thread takes if there are so many.
const PIECES: usize = 4;
/// Most threadgroups along either dimension. If there is more to do, each thread takes several pieces or rows.
const MAX_GROUPS: usize = 1 << 12;

/// The text of the kernels, in the order in which they are compiled.
pub(super) const NUMBER: &str = include_str!("number.metal");
pub(super) const GATHER_ADD: &str = include_str!("gather_add.metal");
pub(super) const SCATTER_ADD: &str = include_str!("scatter_add.metal");

/// One launch of a kernel. Its buffers are the outputs, the inputs, and the job.
pub(super) struct Launch<J> {
    pub(super) kernel: String,
    pub(super) job: J,
    /// Threadgroups.
    pub(super) groups: [usize; 2],
}

impl<J> Launch<J> {
    fn new(kernel: &str, dtype: DType, job: J, n_rows: usize, n_pieces: usize) -> Result<Self> {
        if !has_kernels(dtype) {
            return Err(Error::UnsupportedDTypeForOp(dtype, "kernel of Metal").bt());
        }
        let [x, y] = THREADS;
        let groups = [n_pieces.div_ceil(x * PIECES), n_rows.div_ceil(y)].map(|n| n.clamp(1, MAX_GROUPS));
        Ok(Self { kernel: format!("{kernel}_{}", dtype.as_str()), job, groups })
    }
}

/// Returns whether there are kernels for tables of this dtype.
pub(super) fn has_kernels(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Returns whether rows of `width` elements that begin so many elements into their buffers can be moved by fours.
fn in_fours(width: usize, offsets: &[usize]) -> bool {
    offsets.iter().all(|offset| offset.is_multiple_of(4)) && width.is_multiple_of(4)
}

/// `Gather` of gather_add.metal, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Gather {
    id_bytes: u64,
    place_bytes: u64,
    n_places: u64,
    n_ids: u64,
    start: u64,
    t: u64,
    wte_rows: u64,
    wpe_rows: u64,
    width: u64,
    adds: u64,
    in_fours: u64,
}

/// The positions of ids.
#[derive(Clone, Copy)]
pub(super) enum PlacesAt<'a> {
    Start(usize),
    Ids(DType, &'a Layout),
}

/// Returns the launch of `table[ids]`, or `table[ids] + wpe[places]`, into contiguous rows from element `out` on.
///
/// Output: the rows. Inputs: ids, position ids, `table`, `wpe`; without positions any buffer for what is missing.
pub(super) fn gather(
    dtype: DType,
    out: usize,
    table: &Layout,
    (id_dtype, ids): (DType, &Layout),
    positions: Option<(&Layout, PlacesAt)>,
) -> Result<Launch<Gather>> {
    let (wte_rows, width) = table.shape().dims2()?;
    let n_ids = ids.shape().elem_count();
    let mut job = Gather {
        id_bytes: id_bytes(id_dtype)?,
        place_bytes: 0,
        n_places: 0,
        n_ids: n_ids as u64,
        start: 0,
        t: ids.dims().last().copied().unwrap_or(1) as u64,
        wte_rows: wte_rows as u64,
        wpe_rows: 0,
        width: width as u64,
        adds: positions.is_some().into(),
        in_fours: in_fours(width, &[out, table.start_offset()]).into(),
    };
    if let Some((wpe, places)) = positions {
        let (wpe_rows, wpe_width) = wpe.shape().dims2()?;
        if wpe_width != width {
            candle_core::bail!("rows of {width} and of {wpe_width} cannot be added");
        }
        job.wpe_rows = wpe_rows as u64;
        job.in_fours &= u64::from(in_fours(width, &[wpe.start_offset()]));
        match places {
            PlacesAt::Start(start) => job.start = start as u64,
            PlacesAt::Ids(dtype, places) => {
                let n_places = places.shape().elem_count();
                if !n_ids.is_multiple_of(n_places.max(1)) {
                    candle_core::bail!("{n_places} position ids do not repeat over {n_ids} ids");
                }
                (job.place_bytes, job.n_places) = (id_bytes(dtype)?, n_places as u64);
            }
        }
    }
    Launch::new("gather_add", dtype, job, n_ids, n_pieces(width, job.in_fours))
}

fn id_bytes(dtype: DType) -> Result<u64> {
    match dtype {
        DType::U8 | DType::U32 | DType::I64 => Ok(dtype.size_in_bytes() as u64),
        dtype => Err(Error::UnsupportedDTypeForOp(dtype, "ids").bt()),
    }
}

fn n_pieces(width: usize, in_fours: u64) -> usize {
    if in_fours == 1 { width / 4 } else { width }
}

/// `Scatter` of scatter_add.metal, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Scatter {
    rows: u64,
    starts: u64,
    places: u64,
    parts: u64,
    long_groups: u64,
    first_parts: u64,
    factors: u64,
    n_groups: u64,
    n_parts: u64,
    n_long: u64,
    part: u64,
    width: u64,
    is_table: u64,
    in_fours: u64,
}

/// The sums of the rows of a batch, by the row of a table that they belong to.
pub(super) struct Sums {
    table: GroupTable,
    dtype: DType,
    job: Scatter,
}

impl Sums {
    /// Prepares sums of the rows of `grad` `[n_ids, C]`, times `scale`: a whole table of `n_rows` rows if `is_table`,
    /// else one row for each group.
    pub(super) fn new(
        (dtype, grad): (DType, &Layout),
        groups: &RowGroups,
        scale: f64,
        (n_rows, is_table): (usize, bool),
    ) -> Result<Self> {
        let (n_ids, width) = grad.shape().dims2()?;
        let mut table = GroupTable::new(groups, n_ids, n_rows)?;
        let [rows, starts, places, parts, long_groups, first_parts] = table.offsets().map(|offset| offset as u64);
        let factors = table.words.len() as u64;
        table.words.extend((0..groups.len()).map(|group| ((scale * groups.factor(group)) as f32).to_bits()));
        let job = Scatter {
            rows,
            starts,
            places,
            parts,
            long_groups,
            first_parts,
            factors,
            n_groups: table.n_groups as u64,
            n_parts: table.n_parts as u64,
            n_long: table.n_long as u64,
            part: PART as u64,
            width: width as u64,
            is_table: is_table.into(),
            in_fours: in_fours(width, &[grad.start_offset()]).into(),
        };
        Ok(Self { table, dtype, job })
    }

    /// Returns the words of the table of groups.
    pub(super) fn words(&self) -> &[u32] {
        &self.table.words
    }

    /// Returns how many sums of parts there are, in f32.
    pub(super) fn n_part_sums(&self) -> usize {
        self.table.n_parts * self.job.width as usize
    }

    /// Returns the number of groups and the width of their sums.
    pub(super) fn dims(&self) -> (usize, usize) {
        (self.table.n_groups, self.job.width as usize)
    }

    /// Returns the launch that sums places, if there are any. Outputs: the sums, the sums of parts. Inputs: the gradient,
    /// the table.
    pub(super) fn of_places(&self) -> Result<Option<Launch<Scatter>>> {
        self.launch("scatter_add", self.table.n_groups, self.table.n_parts + self.table.n_groups)
    }

    /// Returns the launch that adds the sums of parts afterwards, if there are any. Output: the sums. Inputs: the sums of
    /// parts, the table.
    pub(super) fn of_parts(&self) -> Result<Option<Launch<Scatter>>> {
        self.launch("add_parts", self.table.n_long, self.table.n_long)
    }

    fn launch(&self, kernel: &str, n: usize, n_rows: usize) -> Result<Option<Launch<Scatter>>> {
        let width = self.job.width as usize;
        if n == 0 || width == 0 {
            return Ok(None);
        }
        let n_pieces = n_pieces(width, self.job.in_fours);
        Launch::new(kernel, self.dtype, self.job, n_rows, n_pieces).map(Some)
    }
}
