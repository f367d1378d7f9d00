//! Runs the launches of jobs.rs on the CPU, by a program that g++ makes of the kernels' text, and compares their bits
//! with those of the kernels of the CPU. See `tests/metal_host`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::jobs::{self, GATHER_ADD, Launch, NUMBER, PlacesAt, SCATTER_ADD, Sums, THREADS};
use crate::error::Result;
use crate::kernel::core::element::{Element, by_dtype, bytes_of};
use crate::kernel::core::kept::Kept;
use crate::kernel::core::row_sums::PART;
use crate::kernel::core::samples::shifted;
use crate::kernel::core::storage::{on_host, slice};
use crate::kernel::gather::{DenseTable, gather_add};
use crate::kernel::ids::{CheckedIds, Places, PlacesOf, RowGroups, Table};
use crate::kernel::step::{BatchRows, dense_gradient};
use crate::tests::skipped;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const ID_TYPES: [DType; 3] = [DType::U8, DType::U32, DType::I64];

/// A program that runs launches of some kernels.
struct Host {
    folder: tempfile::TempDir,
}

/// A buffer: its bytes, and how far it begins behind a multiple of 16.
#[derive(Clone)]
struct Memory {
    bytes: Vec<u8>,
    lead: usize,
}

impl Host {
    /// Compiles a file of kernels. Reports that the test is skipped where there is no g++, or, in the package, no driver.
    fn new(text: &str, kernels: &[&str]) -> Option<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metal_host");
        let has_compiler = Command::new("g++").arg("--version").output().is_ok_and(|output| output.status.success());
        if !has_compiler || !sources.exists() {
            let missing = if has_compiler { "tests/metal_host" } else { "g++" };
            skipped(&format!("on the CPU, as there is no {missing}"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let text = [NUMBER, text, "#include \"driver.cpp\"\n"].concat();
        std::fs::write(folder.path().join("kernels.cpp"), text).unwrap();
        let entry = |(kernel, dtype): (&&str, DType)| format!("ENTRY({kernel}_{})", dtype.as_str());
        let entries: String = kernels.iter().flat_map(|kernel| TYPES.map(|dtype| entry((kernel, dtype)))).collect();
        // Each load and store calls the driver. Products and sums may be fused, as a GPU's compiler may do it.
        let words = "-std=c++17 -O2 -Wall -Wextra -Werror -Wno-attributes -ffp-contract=fast -march=native \
                     -fsanitize=kernel-address --param asan-instrumentation-with-call-threshold=0 \
                     --param asan-stack=0 --param asan-globals=0 kernels.cpp -o driver";
        let mut compile = Command::new("g++");
        compile.current_dir(&folder).args(words.split_whitespace()).arg(format!("-DENTRIES={entries}"));
        let output = compile.arg("-I").arg(sources).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Self { folder })
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("driver")
    }

    /// Returns the outputs of a launch, or what the driver found wrong with it.
    fn run<J: Copy>(
        &self,
        launch: &Launch<J>,
        outputs: &[Memory],
        inputs: &[Memory],
    ) -> std::result::Result<Vec<Vec<u8>>, String> {
        // SAFETY: jobs are made of u64 alone, so that all their bytes are initialized.
        let job = unsafe { std::slice::from_raw_parts((&raw const launch.job).cast::<u8>(), size_of::<J>()) };
        let job = Memory { bytes: job.to_vec(), lead: 0 };
        let mut message = Vec::new();
        for memory in outputs.iter().chain(inputs).chain([&job]) {
            message.extend([memory.bytes.len(), memory.lead].map(|n| (n as u64).to_le_bytes()).concat());
            message.extend(&memory.bytes);
        }
        let sizes = [0, 1].map(|axis| launch.groups[axis] * THREADS[axis]);
        let mut command = Command::new(self.program());
        command.arg(&launch.kernel).args([sizes[0], sizes[1], outputs.len()].map(|n| n.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A driver that has failed reads no more.
        let _ = child.stdin.take().unwrap().write_all(&message);
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(format!("{}: {}", launch.kernel, String::from_utf8_lossy(&output.stderr)));
        }
        let mut rest = output.stdout.as_slice();
        Ok(outputs.iter().map(|memory| rest.split_off(..memory.bytes.len()).unwrap().to_vec()).collect())
    }
}

impl Memory {
    /// Returns memory that nobody has written yet.
    fn unwritten(n_bytes: usize, lead: usize) -> Self {
        Self { bytes: vec![0xcd; n_bytes], lead }
    }

    /// Returns the bytes of a contiguous table.
    fn of(table: &Tensor) -> Result<Self> {
        let (storage, layout) = table.storage_and_layout();
        let lead = layout.start_offset() * table.dtype().size_in_bytes() % 16;
        by_dtype!(table, E => Ok(Self { bytes: bytes_of(slice::<E>(on_host(&storage)?, layout)?).to_vec(), lead }))
    }

    /// Returns the bytes of contiguous ids.
    fn of_ids(ids: &Tensor) -> Result<Self> {
        let lead = ids.layout().start_offset() * ids.dtype().size_in_bytes() % 16;
        let flat = ids.flatten_all()?;
        let bytes = match ids.dtype() {
            DType::U8 => flat.to_vec1::<u8>()?,
            DType::U32 => flat.to_vec1::<u32>()?.into_iter().flat_map(u32::to_le_bytes).collect(),
            _ => flat.to_vec1::<i64>()?.into_iter().flat_map(i64::to_le_bytes).collect(),
        };
        Ok(Self { bytes, lead })
    }
}

/// Returns about as many ids of each row as text has of its words: row n as often as 1 / (n + 1).
fn zipf(n_rows: usize, n_ids: usize) -> Vec<i64> {
    let total: f64 = (1..=n_rows).map(|n| 1.0 / n as f64).sum();
    let draw = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) as f64 / 4_294_967_296.0 * total;
    let row = |mut left: f64| (1..n_rows).find(|&n| (left -= 1.0 / n as f64, left < 0.0).1).unwrap_or(n_rows) - 1;
    (0..n_ids).map(|i| row(draw(i)) as i64).collect()
}

/// Compares the sums of a batch with those of the CPU, as a whole table and as one row for each group.
fn check_sums(
    host: &Host,
    ids: &[i64],
    n_rows: usize,
    grad: &Tensor,
    (scale, by_frequency): (f64, bool),
) -> Result<()> {
    let (dtype, (_, width)) = (grad.dtype(), grad.dims2()?);
    let what = format!("{dtype:?}, {} ids of {n_rows} rows of {width}, {scale}, {by_frequency}", ids.len());
    let groups = RowGroups::from_ids(ids, Some(1)).by_frequency(by_frequency);
    let param = Tensor::zeros((n_rows, width), dtype, &Device::Cpu)?;
    let batch = BatchRows { groups: &groups, rows: grad, scale, kept: &Kept::default() };
    let expected = Memory::of(&dense_gradient(&param, batch)?)?.bytes;
    let n_bytes = width * dtype.size_in_bytes();
    let rows: Vec<u8> =
        (0..groups.len()).flat_map(|i| expected[groups.row(i) * n_bytes..][..n_bytes].to_vec()).collect();
    for (is_table, expected) in [(true, expected), (false, rows)] {
        let sums = Sums::new((dtype, grad.layout()), &groups, scale, (n_rows, is_table))?;
        assert_eq!(sums.dims(), (groups.len(), width));
        let zeros = Memory { bytes: vec![0; expected.len()], lead: 0 };
        let mut outputs = [zeros, Memory::unwritten(sums.n_part_sums() * 4, 0)];
        let table = Memory { bytes: sums.words().iter().flat_map(|word| word.to_le_bytes()).collect(), lead: 0 };
        if let Some(launch) = sums.of_places()? {
            let found = host.run(&launch, &outputs, &[Memory::of(grad)?, table.clone()]).unwrap();
            outputs.iter_mut().zip(found).for_each(|(memory, bytes)| memory.bytes = bytes);
        }
        let [mut out, part_sums] = outputs;
        if let Some(launch) = sums.of_parts()? {
            out.bytes = host.run(&launch, &[out.clone()], &[part_sums, table]).unwrap().remove(0);
        }
        assert!(out.bytes == expected, "{what}, table {is_table}");
    }
    Ok(())
}

#[test]
fn sums_have_the_bits_of_the_cpu() -> Result<()> {
    let Some(host) = Host::new(SCATTER_ADD, &["scatter_add", "add_parts"]) else { return Ok(()) };
    let frequent: Vec<i64> = (0..PART as i64 * 5 / 2).map(|i| if i % 7 == 3 { 2 } else { 4 }).collect();
    let batches =
        [zipf(300, 2500), vec![0; 2 * PART + 1], vec![6; PART], frequent, vec![], vec![1, 1], vec![5], zipf(4, 4000)];
    for (dtype, ids) in TYPES.into_iter().flat_map(|dtype| batches.iter().map(move |ids| (dtype, ids))) {
        // In fours, one by one because of the width, and because of where the gradient begins; more threads than pieces
        // and fewer.
        for (width, lead) in [(8, 4), (5, 0), (12, 1), (140, 0), (133, 3)] {
            let grad = shifted(ids.len(), width, lead, dtype, 7)?;
            check_sums(&host, ids, 300, &grad, (1.0, false))?;
        }
        check_sums(&host, ids, 300, &shifted(ids.len(), 4, 0, dtype, 8)?, (0.37, true))?;
    }
    // Sums begin with zero: one of -0 is 0.
    for dtype in TYPES {
        let zeros = Tensor::full(-0f32, (3, 4), &Device::Cpu)?.to_dtype(dtype)?;
        check_sums(&host, &[5, 0, 0], 6, &zeros, (1.0, false))?;
    }
    // A token in every place of a batch of 64 × 1024.
    check_sums(&host, &vec![3; 1 << 16], 5, &shifted(1 << 16, 4, 0, DType::BF16, 9)?, (0.5, false))?;
    // More groups than a grid has threads along the rows.
    let ids: Vec<i64> = (0..40_000).collect();
    check_sums(&host, &ids, ids.len(), &shifted(ids.len(), 1, 0, DType::F16, 9)?, (1.0, false))
}

/// One choice of types, shapes and alignments of a look-up.
struct Case {
    dtype: DType,
    id_dtype: DType,
    rows: (usize, usize),
    width: usize,
    ids: (usize, usize),
    /// Elements before the first of `wte`, `wpe` and the output.
    leads: [usize; 3],
}

/// Returns ids of any values, one element behind the start of their memory.
fn ids_of(values: &[i64], dims: (usize, usize), dtype: DType) -> Result<Tensor> {
    let all = Tensor::new([&[0], values].concat(), &Device::Cpu)?.to_dtype(dtype)?;
    Ok(all.narrow(0, 1, values.len())?.reshape(dims)?)
}

impl Case {
    fn check(&self, host: &Host) -> Result<()> {
        let &Case { dtype, id_dtype, rows: (v, p), width, ids: (b, t), leads } = self;
        let what = format!("{dtype:?} {id_dtype:?} {v}+{p} rows of {width}, ids {b} x {t}, leads {leads:?}");
        let (wte, wpe) = (shifted(v, width, leads[0], dtype, 1)?, shifted(p, width, leads[1], dtype, 2)?);
        let ids = ids_of(&zipf(v, b * t), (b, t), id_dtype)?;
        let checked = CheckedIds::new(&ids, Table::Tokens, v, &Device::Cpu)?;
        let run = |ids: &Tensor, positions: Option<(PlacesAt, Option<&Tensor>)>| -> Result<Vec<u8>> {
            let added = positions.map(|(places, _)| (wpe.layout(), places));
            let launch = jobs::gather(dtype, leads[2], wte.layout(), (id_dtype, ids.layout()), added)?;
            let out = Memory::unwritten(b * t * width * dtype.size_in_bytes(), leads[2] * dtype.size_in_bytes() % 16);
            let given = positions.and_then(|(_, given)| given).unwrap_or(ids);
            let last = if positions.is_some() { &wpe } else { &wte };
            let inputs = [Memory::of_ids(ids)?, Memory::of_ids(given)?, Memory::of(&wte)?, Memory::of(last)?];
            Ok(host.run(&launch, &[out], &inputs).unwrap().remove(0))
        };
        let table = DenseTable::from_tensor(wte.clone(), Table::Tokens)?;
        assert!(run(&ids, None)? == Memory::of(&table.gather(&checked)?)?.bytes, "{what}, without positions");

        let start = p - t;
        let expected = gather_add(&wte, &checked, &wpe, &Places::Counted { start, t })?;
        let counted = Some((PlacesAt::Start(start), None));
        assert!(run(&ids, counted)? == Memory::of(&expected)?.bytes, "{what}, counted");

        // Positions of their own for each id, as `PlacesOf` has them, and those of one row that repeat.
        let values: Vec<i64> = (0..t).map(|i| ((i * 5 + 3) % p) as i64).collect();
        let given = ids_of(&values, (1, t), ID_TYPES[(width + b) % 3])?;
        let places = Places::Given(CheckedIds::new(&given, Table::Positions, p, &Device::Cpu)?);
        let expected = Memory::of(&gather_add(&wte, &checked, &wpe, &places)?)?.bytes;
        let PlacesOf::Ids(all) = places.for_ids(&checked)? else { panic!("given positions are ids") };
        for places in [all.tensor(), &given] {
            let positions = Some((PlacesAt::Ids(places.dtype(), places.layout()), Some(places)));
            assert!(run(&ids, positions)? == expected, "{what}, given");
        }

        // Ids and positions that were changed after their check: rows of NaN, and nothing else.
        if t < 2 {
            return Ok(());
        }
        let outside = [if id_dtype == DType::I64 { -1 } else { 255 }, v as i64];
        let mut values = zipf(v, b * t);
        (values[0], values[b * t - 1]) = (outside[0], outside[1]);
        let nan = match dtype {
            DType::F32 => 0x7fc0_0000_u32.to_le_bytes().to_vec(),
            DType::F16 => 0x7e00_u16.to_le_bytes().to_vec(),
            _ => 0x7fc0_u16.to_le_bytes().to_vec(),
        };
        let mut expected = Memory::of(&gather_add(&wte, &checked, &wpe, &Places::Counted { start, t })?)?.bytes;
        let n_bytes = width * dtype.size_in_bytes();
        for n in [0, b * t - 1] {
            expected[n * n_bytes..][..n_bytes].copy_from_slice(&nan.repeat(width));
        }
        assert!(run(&ids_of(&values, (b, t), id_dtype)?, counted)? == expected, "{what}, bad ids");
        let beyond = run(&ids, Some((PlacesAt::Start(p), None)))?;
        assert!(beyond == nan.repeat(b * t * width), "{what}, bad positions");
        Ok(())
    }
}

#[test]
fn rows_have_the_bits_of_the_cpu() -> Result<()> {
    let Some(host) = Host::new(GATHER_ADD, &["gather_add"]) else { return Ok(()) };
    for (dtype, id_dtype) in TYPES.into_iter().flat_map(|dtype| ID_TYPES.map(|id_dtype| (dtype, id_dtype))) {
        let case = |width, ids, leads| Case { dtype, id_dtype, rows: (200, 23), width, ids, leads };
        for leads in [[0, 0, 0], [4, 8, 12], [1, 0, 0], [0, 2, 0], [0, 0, 3]] {
            case(12, (3, 7), leads).check(&host)?;
        }
        // One by one because of the width; more pieces than a group of threads takes at a time; one token, and many.
        for (width, ids) in [(1, (2, 23)), (7, (4, 5)), (520, (2, 3)), (133, (1, 1)), (4, (60, 20))] {
            case(width, ids, [0, 0, 0]).check(&host)?;
        }
    }
    // More rows than a grid has threads.
    let (dtype, id_dtype) = (DType::BF16, DType::U32);
    Case { dtype, id_dtype, rows: (9, 2), width: 1, ids: (20_000, 2), leads: [0, 0, 0] }.check(&host)
}

/// All half numbers, plus numbers of every kind: zeros, subnormal ones, the largest, infinities.
#[test]
fn every_half_is_widened_and_rounded_as_on_the_cpu() -> Result<()> {
    fn check<E: Element>(host: &Host, all: Vec<E>, others: Vec<E>) -> Result<()> {
        let wte = Tensor::from_vec(all, (256, 256), &Device::Cpu)?;
        let others: Vec<E> = others.into_iter().flat_map(|other| vec![other; 256]).collect();
        let wpe = Tensor::from_vec(others, (10, 256), &Device::Cpu)?;
        let (dtype, ids) = (wte.dtype(), Tensor::arange(0u32, 256, &Device::Cpu)?.unsqueeze(1)?);
        let checked = CheckedIds::new(&ids, Table::Tokens, 256, &Device::Cpu)?;
        for start in 0..10 {
            let added = Some((wpe.layout(), PlacesAt::Start(start)));
            let launch = jobs::gather(dtype, 0, wte.layout(), (DType::U32, ids.layout()), added)?;
            let inputs = [Memory::of_ids(&ids)?, Memory::of_ids(&ids)?, Memory::of(&wte)?, Memory::of(&wpe)?];
            let found = host.run(&launch, &[Memory::unwritten(1 << 17, 0)], &inputs).unwrap().remove(0);
            let expected = gather_add(&wte, &checked, &wpe, &Places::Counted { start, t: 1 })?;
            let is_nan = |bytes: &[u8]| {
                let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
                if dtype == DType::F16 { f16::from_bits(bits).is_nan() } else { bf16::from_bits(bits).is_nan() }
            };
            for (n, (found, expected)) in found.chunks(2).zip(Memory::of(&expected)?.bytes.chunks(2)).enumerate() {
                let same = found == expected || (is_nan(found) && is_nan(expected));
                assert!(same, "{dtype:?} {n:#x} plus number {start}: {found:x?} for {expected:x?}");
            }
        }
        Ok(())
    }
    let Some(host) = Host::new(GATHER_ADD, &["gather_add"]) else { return Ok(()) };
    let others = [0, 0x8000, 1, 0x83ff, 0x0401, 0x3c01, 0xbfff, 0x7bff, 0x7c00, 0xfc00];
    check(&host, (0..=u16::MAX).map(f16::from_bits).collect(), others.map(f16::from_bits).to_vec())?;
    let others = [0, 0x8000, 1, 0x807f, 0x0081, 0x3f81, 0xbfff, 0x7f7f, 0x7f80, 0xff80];
    check(&host, (0..=u16::MAX).map(bf16::from_bits).collect(), others.map(bf16::from_bits).to_vec())
}

/// What the driver must find: accesses outside of buffers, stores to inputs, vectors at other addresses.
#[test]
fn faults_are_found() -> Result<()> {
    let Some(host) = Host::new(GATHER_ADD, &["gather_add"]) else { return Ok(()) };
    let wte = shifted(9, 4, 0, DType::F16, 1)?;
    let ids = Tensor::new(&[[1u32, 8]], &Device::Cpu)?;
    let launch = jobs::gather(DType::F16, 0, wte.layout(), (DType::U32, ids.layout()), None)?;
    let inputs = [Memory::of_ids(&ids)?, Memory::of_ids(&ids)?, Memory::of(&wte)?, Memory::of(&wte)?];
    let out = Memory::unwritten(16, 0);
    let found = |outputs: &[Memory], inputs: &[Memory]| host.run(&launch, outputs, inputs).err().unwrap_or_default();
    assert_eq!(found(std::slice::from_ref(&out), &inputs), "");
    let short = |memory: &Memory| Memory { bytes: memory.bytes[1..].to_vec(), ..*memory };
    let mut with_short = inputs.clone();
    for i in [0, 2] {
        with_short[i] = short(&inputs[i]);
        assert!(found(std::slice::from_ref(&out), &with_short).contains("outside of all buffers"), "{i}");
        with_short[i] = inputs[i].clone();
    }
    assert!(found(&[short(&out)], &inputs).contains("outside of all buffers"));
    assert!(found(&[Memory { lead: 2, ..out.clone() }], &inputs).contains("no multiple"));
    assert!(found(&[], &[std::slice::from_ref(&out), &inputs[..]].concat()).contains("an output for an input"));
    assert!(found(&[out], &inputs[1..]).contains("another number of buffers"));
    Ok(())
}
