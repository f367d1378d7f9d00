//! Compares each kernel with its twin on the CPU, bit for bit. They run on a GPU, or on the stand-in of
//! `tests/cuda_host`, so they use only kernels of this crate and copies, none of Candle's own kernels.

// Long because every kernel is compared here.

use candle_core::{CustomOp2, CustomOp3, DType, Device, Tensor, Var};
use candle_nn::VarMap;

use super::counts::Counts;
use super::*;
use crate::GptInputLayer;
use crate::error::{Error, Result};
use crate::kernel::core::samples::{bits, shifted, table};
use crate::kernel::gather::{Gather, GatherAdd, gather as gather_rows, gather_add, gather_add_into};
use crate::kernel::ids::{CheckedIds, IdCheck, IdChecks, Places, Table};

pub(super) const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const ID_TYPES: [DType; 3] = [DType::U8, DType::U32, DType::I64];

/// Returns ids below `n_rows` of shape `[b, t]`, many of them equal, the last row among them.
fn draw(n_rows: usize, (b, t): (usize, usize), dtype: DType, seed: usize) -> Result<Tensor> {
    let id = |i: usize| match (i + seed) % 5 {
        0 => n_rows - 1,
        1 => 0,
        _ => (i.wrapping_mul(2_654_435_761) + seed) % n_rows,
    };
    let ids: Vec<u32> = (0..b * t).map(|i| id(i) as u32).collect();
    Ok(Tensor::from_vec(ids, (b, t), &Device::Cpu)?.to_dtype(dtype)?)
}

pub(super) fn on(device: &Device, tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_device(device)?)
}

pub(super) fn same(found: &Tensor, expected: &Tensor, what: &str) -> Result<()> {
    assert!(found.device().is_cuda(), "{what}");
    assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{what}");
    assert_eq!(bits(&on(&Device::Cpu, found)?)?, bits(expected)?, "{what}");
    Ok(())
}

/// Everything that a forward and a backward pass do, for one choice of types, shapes and alignments.
struct Case {
    dtype: DType,
    id_dtype: DType,
    rows: (usize, usize),
    width: usize,
    ids: (usize, usize),
    /// Elements before the first of `wte`, `wpe`, the buffer.
    leads: (usize, usize, usize),
    given: bool,
}

impl Case {
    fn check(&self, cuda: &Device) -> Result<()> {
        let &Case { dtype, id_dtype, rows: (v, p), width, ids: (b, t), leads, given } = self;
        let what =
            format!("{dtype:?} {id_dtype:?} {v}+{p} rows of {width}, ids {b} x {t}, leads {leads:?}, given {given}");
        let wte = shifted(v, width, leads.0, dtype, 11)?;
        let wpe = shifted(p, width, leads.1, dtype, 12)?;
        let ids = draw(v, (b, t), id_dtype, 1)?;
        let checked = |device: &Device| CheckedIds::new(&ids, Table::Tokens, v, device);
        let places = |device: &Device| -> Result<Places> {
            if !given {
                return Ok(Places::Counted { start: p - t, t });
            }
            let position_ids = draw(p, (1, t), DType::I64, 3)?;
            Ok(Places::Given(CheckedIds::new(&position_ids, Table::Positions, p, device)?))
        };
        let (ids, places) = ([checked(&Device::Cpu)?, checked(cuda)?], [places(&Device::Cpu)?, places(cuda)?]);
        let (wte_there, wpe_there) = (on(cuda, &wte)?, on(cuda, &wpe)?);

        same(&gather_rows(&wte_there, &ids[1])?, &gather_rows(&wte, &ids[0])?, &what)?;
        let expected = gather_add(&wte, &ids[0], &wpe, &places[0])?;
        same(&gather_add(&wte_there, &ids[1], &wpe_there, &places[1])?, &expected, &what)?;

        let after = 3;
        let memory = Tensor::full(7f32, leads.2 + expected.elem_count() + after, &Device::Cpu)?.to_dtype(dtype)?;
        let there = on(cuda, &memory)?;
        let buffer = |memory: &Tensor| memory.narrow(0, leads.2, expected.elem_count())?.reshape(expected.dims());
        gather_add_into(&buffer(&memory)?, &wte, &ids[0], &wpe, &places[0])?;
        gather_add_into(&buffer(&there)?, &wte_there, &ids[1], &wpe_there, &places[1])?;
        same(&there, &memory, &what)?;

        // The backward pass by hand: Candle's own operations lead up to it otherwise.
        let grad = shifted(b * t, width, leads.2, dtype, 13)?.reshape((b, t, width))?;
        let grad_there = on(cuda, &grad)?;
        let op = |i: usize| -> Result<GatherAdd> {
            Ok(GatherAdd { places: places[i].for_ids(&ids[i])?, ids: ids[i].clone() })
        };
        let [here, there] = [(&wte, &wpe, &grad, 0), (&wte_there, &wpe_there, &grad_there, 1)].map(
            |(wte, wpe, grad, i)| -> Result<_> {
                let (wte, wpe) = (Var::from_tensor(wte)?, Var::from_tensor(wpe)?);
                let (wte_grad, wpe_grad, none) = op(i)?.bwd(&wte, &wpe, ids[i].tensor(), grad, grad)?;
                assert!(none.is_none());
                let gather = Gather { ids: ids[i].clone() };
                let (table_grad, _) = gather.bwd(&wte, ids[i].tensor(), grad, grad)?;
                Ok([wte_grad, wpe_grad, table_grad])
            },
        );
        for (here, there) in here?.into_iter().zip(there?) {
            match (here, there) {
                (Some(here), Some(there)) => same(&there, &here, &what)?,
                (here, there) => panic!("{what}: {here:?} {there:?}"),
            }
        }
        Ok(())
    }
}

#[test]
fn every_alignment_of_every_operand() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        let per_chunk = CHUNK_BYTES / dtype.size_in_bytes();
        for width in [3 * per_chunk, 3 * per_chunk + 1, 3 * per_chunk - 1, per_chunk, 1] {
            for lead in 0..=per_chunk {
                for leads in [(lead, 0, 0), (0, lead, 0), (0, 0, lead), (lead, lead, lead), (lead, lead + 1, 1)] {
                    let (id_dtype, given) = (ID_TYPES[lead % 3], (lead + width) % 2 == 0);
                    Case { dtype, id_dtype, rows: (13, 9), width, ids: (3, 5), leads, given }.check(&cuda)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_type_of_id_and_many_shapes() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        for id_dtype in ID_TYPES {
            for given in [false, true] {
                // Around one block's share of a row, which is 2 KiB for a gather and 512 bytes for a sum.
                for width in [2, 64, 511, 512, 513, 768, 1027, 1600] {
                    let ids = if width % 2 == 0 { (2, 17) } else { (1, 1) };
                    Case { dtype, id_dtype, rows: (200, 31), width, ids, leads: (0, 0, 0), given }.check(&cuda)?;
                }
            }
        }
    }
    Ok(())
}

/// More rows than a grid has blocks: each block takes several.
#[test]
fn more_rows_than_blocks() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let t = MAX_BLOCKS_X * THREADS_Y as usize + 77;
    Case {
        dtype: DType::BF16,
        id_dtype: DType::U32,
        rows: (50, t),
        width: 1,
        ids: (1, t),
        leads: (0, 0, 0),
        given: false,
    }
    .check(&cuda)
}

/// A sum begins with zero, so that a gradient of -0.0 is 0.0, as on the CPU.
#[test]
fn sums_of_negative_zeros() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        for width in [16, 3] {
            let grad = Tensor::full(-0f32, (4, width), &Device::Cpu)?.to_dtype(dtype)?;
            let ids = Tensor::new(&[2u32, 0, 2, 5], &Device::Cpu)?;
            let of_table = |device: &Device| -> Result<Option<Tensor>> {
                let ids = CheckedIds::new(&ids, Table::Tokens, 6, device)?;
                let (table, grad) = (Tensor::zeros((6, width), dtype, device)?, on(device, &grad)?);
                Ok(Gather { ids: ids.clone() }.bwd(&table, ids.tensor(), &grad, &grad)?.0)
            };
            let (Some(here), Some(there)) = (of_table(&Device::Cpu)?, of_table(&cuda)?) else { panic!("no gradient") };
            let zeros = Tensor::zeros((6, width), dtype, &Device::Cpu)?;
            assert_eq!(bits(&here)?, bits(&zeros)?);
            same(&there, &here, &format!("{dtype:?} {width}"))?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_launched_for_nothing() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        for ids in [(0, 5), (3, 0), (0, 0)] {
            for given in [false, true] {
                let leads = (0, 0, 0);
                Counts::take();
                Case { dtype, id_dtype: DType::U32, rows: (7, 6), width: 5, ids, leads, given }.check(&cuda)?;
                if let Some(counts) = Counts::take() {
                    assert_eq!(counts.launches, 0, "{ids:?} {given}");
                }
            }
        }
    }
    Ok(())
}

/// Returns a layer of V = 6 and P = 5 on the host, and one on the device that checks ids later.
fn deferred(width: usize, dtype: DType, cuda: &Device) -> Result<[GptInputLayer; 2]> {
    let (wte, wpe) = (shifted(6, width, 0, dtype, 1)?, shifted(5, width, 0, dtype, 2)?);
    let there = GptInputLayer::new(on(cuda, &wte)?, on(cuda, &wpe)?)?.with_id_check(IdCheck::Deferred)?;
    Ok([GptInputLayer::new(wte, wpe)?, there])
}

/// Asserts that rows `bad` are NaN and all others those of `expected`.
fn bad_rows(found: &Tensor, expected: &Tensor, bad: &[usize], what: &str) -> Result<()> {
    let (found, width) = (on(&Device::Cpu, found)?, expected.dims().last().copied().unwrap_or(1));
    let (numbers, found, expected) =
        (found.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?, bits(&found)?, bits(expected)?);
    for (i, number) in numbers.iter().enumerate() {
        match bad.contains(&(i / width)) {
            true => assert!(number.is_nan(), "{what}: {i}"),
            false => assert_eq!(found[i], expected[i], "{what}: {i}"),
        }
    }
    Ok(())
}

fn text<T>(result: Result<T>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "no error".to_string())
}

/// Unchecked ids on the device: bad ids give rows of NaN, leave all other rows alone, and later give the error that the
/// host gives.
#[test]
fn ids_that_are_checked_later() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let good = Tensor::new(&[[5i64, 0, 2], [1, 1, 4]], &Device::Cpu)?;
    for dtype in TYPES {
        for width in [8, 7, 100, 3000] {
            let [here, there] = deferred(width, dtype, &cuda)?;
            let expected = here.forward_at(&good, 1)?;
            same(&there.forward_at(&on(&cuda, &good)?, 1)?, &expected, "good ids")?;
            there.check_ids()?;
            let check = |ids: Tensor, bad: &[usize]| -> Result<()> {
                let what = format!("{dtype:?} {width} {bad:?} {ids:?}");
                let on_device = on(&cuda, &ids)?;
                bad_rows(&there.forward_at(&on_device, 1)?, &expected, bad, &what)?;
                let buffer = Tensor::zeros((2, 3, width), dtype, &cuda)?;
                there.forward_into(&on_device, 1, &buffer)?;
                bad_rows(&buffer, &expected, bad, &what)?;
                assert_eq!(text(there.check_ids()), text(here.forward_at(&ids, 1)), "{what}");
                assert!(there.check_ids().is_ok(), "{what}: reported twice");
                bad_rows(&there.embed_tokens(&on_device)?, &here.embed_tokens(&good)?, bad, &what)?;
                assert_eq!(text(there.check_ids()), text(here.embed_tokens(&ids)), "{what}");
                // On the host they are checked at once.
                assert_eq!(text(there.forward_at(&ids, 1)), text(here.forward_at(&ids, 1)), "{what}");
                there.check_ids()
            };
            for bad in [6i64, 7, -1, i64::MIN, i64::MAX, 1 << 32, (1 << 32) + 5, 0x0123_4567_89ab_cdef] {
                check(Tensor::new(&[[5, 0, bad], [1, 1, 4]], &Device::Cpu)?, &[2])?;
                check(Tensor::new(&[[5, 0, 2], [1, bad, i64::MIN]], &Device::Cpu)?, &[4, 5])?;
            }
            check(Tensor::new(&[[5u32, u32::MAX, 6], [1, 1, 4]], &Device::Cpu)?, &[1, 2])?;
            check(Tensor::new(&[[255u8, 0, 6], [1, 1, 4]], &Device::Cpu)?, &[0, 2])?;
        }
    }
    Ok(())
}

/// The same for position ids in each of the shapes that they come in, alone and beside bad tokens.
#[test]
fn positions_that_are_checked_later() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let ids = Tensor::new(&[[5u32, 0, 2], [1, 1, 4]], &Device::Cpu)?;
    let bad_ids = Tensor::new(&[[5u32, 0, 2], [1, 9, 4]], &Device::Cpu)?;
    for dtype in TYPES {
        let [here, there] = deferred(24, dtype, &cuda)?;
        let full = |values: [i64; 6]| Tensor::from_vec(values.to_vec(), (2, 3), &Device::Cpu);
        let row = |values: [u32; 3]| Tensor::new(&values, &Device::Cpu);
        for (good, bad, at) in [
            (full([4, 0, 1, 2, 3, 1])?, full([4, 0, 1, 2, 5, -1])?, vec![4, 5]),
            (full([4, 0, 1, 2, 3, 1])?, full([4, 1 << 32, 1, 2, (1 << 32) + 3, i64::MIN])?, vec![1, 4, 5]),
            (row([4, 1, 0])?, row([4, 1, u32::MAX])?, vec![2, 5]),
            (row([4, 1, 0])?.reshape((1, 3))?, row([4, 5, 0])?.reshape((1, 3))?, vec![1, 4]),
            (Tensor::new(&[3u8], &Device::Cpu)?, Tensor::new(&[255u8], &Device::Cpu)?, vec![0, 1, 2, 3, 4, 5]),
        ] {
            let what = format!("{dtype:?} {bad:?}");
            let expected = here.forward_at(&ids, &good)?;
            for ids in [ids.clone(), on(&cuda, &ids)?] {
                same(&there.forward_at(&ids, &on(&cuda, &good)?)?, &expected, &what)?;
                there.check_ids()?;
                bad_rows(&there.forward_at(&ids, &on(&cuda, &bad)?)?, &expected, &at, &what)?;
                assert_eq!(text(there.check_ids()), text(here.forward_at(&ids, &bad)), "{what}");
            }
            // The position is reported, as on the host; without it the token.
            there.forward_at(&on(&cuda, &bad_ids)?, &on(&cuda, &bad)?)?;
            assert_eq!(text(there.check_ids()), text(here.forward_at(&bad_ids, &bad)), "{what}");
            there.forward_at(&on(&cuda, &bad_ids)?, &on(&cuda, &good)?)?;
            assert_eq!(text(there.check_ids()), text(here.forward_at(&bad_ids, &good)), "{what}");
        }
        // A shape that does not simply repeat is checked at once.
        let bad = Tensor::new(&[[4u32], [5]], &Device::Cpu)?;
        assert_eq!(text(there.forward_at(&on(&cuda, &ids)?, &on(&cuda, &bad)?)), text(here.forward_at(&ids, &bad)));
        let embeds = here.embed_tokens(&ids)?;
        let bad = row([4, 7, 0])?;
        let _ = there.add_positions(&on(&cuda, &embeds)?, &on(&cuda, &bad)?); // the sum is an operation of Candle's
        assert_eq!(text(there.check_ids()), text(here.add_positions(&embeds, &bad)));
    }
    Ok(())
}

/// Of many calls the first that had a bad id is reported. Clones of a layer report for one another, a layer on other
/// tables for itself.
#[test]
fn the_first_bad_id_of_the_first_bad_call() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let [_, there] = deferred(16, DType::F32, &cuda)?;
    let trained = there.trainable(&VarMap::new(), "")?;
    trained.forward(&Tensor::new(&[6u32], &cuda)?)?;
    assert!(there.check_ids().is_ok());
    assert_eq!(text(trained.check_ids()), "token id 6 at [0] is outside the vocabulary of 6 (valid ids: 0 to 5)");
    assert!(
        text(there.with_id_check(IdCheck::EveryCall)?.forward(&Tensor::new(&[6u32], &cuda)?)).contains("token id 6")
    );
    // The call decides, whichever the table.
    let [_, there] = deferred(16, DType::F32, &cuda)?;
    let (good, bad) = (Tensor::new(&[1u32, 2], &cuda)?, Tensor::new(&[1u32, 9], &cuda)?);
    there.forward_at(&good, &bad)?;
    there.forward_at(&bad, &good)?;
    assert!(text(there.check_ids()).starts_with("position 9 at [1]"));
    there.forward_at(&bad, &good)?;
    there.forward_at(&good, &bad)?;
    assert!(text(there.check_ids()).starts_with("token id 9 at [1]"));
    let [_, there] = deferred(16, DType::F32, &cuda)?;
    let clone = there.clone();
    let call = |dims: (usize, usize), bad: &[(usize, u32)]| -> Result<()> {
        let mut ids = vec![1u32; dims.0 * dims.1];
        bad.iter().for_each(|&(at, id)| ids[at] = id);
        let ids = Tensor::from_vec(ids, dims, &cuda)?;
        clone.forward(&ids).map(drop)
    };
    call((4, 5), &[])?;
    call((3, 5), &[(14, 7), (11, 8), (12, 9)])?;
    call((200, 4), &[(0, 10), (1, 11)])?;
    assert_eq!(text(there.check_ids()), "token id 8 at [2, 1] is outside the vocabulary of 6 (valid ids: 0 to 5)");
    assert!(clone.check_ids().is_ok());
    call((200, 4), &[(799, 11)])?;
    assert_eq!(text(clone.check_ids()), "token id 11 at [199, 3] is outside the vocabulary of 6 (valid ids: 0 to 5)");
    // Every id of a batch that fills many blocks is bad.
    call((3000, 5), &[&[(0, 6)], &(1..15_000).map(|at| (at, 77)).collect::<Vec<_>>()[..]].concat())?;
    assert_eq!(text(there.check_ids()), "token id 6 at [0, 0] is outside the vocabulary of 6 (valid ids: 0 to 5)");
    Ok(())
}

/// The backward pass of unchecked ids drops the gradients of bad ones.
#[test]
fn gradients_of_bad_ids_go_nowhere() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let checks = IdChecks::new(IdCheck::Deferred, &cuda)?;
    let (good, bad) = (Tensor::new(&[[5i64, 0, 2]], &Device::Cpu)?, Tensor::new(&[[5i64, -1, 6]], &Device::Cpu)?);
    for dtype in TYPES {
        let (wte, wpe) = (shifted(6, 24, 0, dtype, 1)?, shifted(5, 24, 0, dtype, 2)?);
        let grad = shifted(3, 24, 0, dtype, 3)?.reshape((1, 3, 24))?;
        let zeros = grad.zeros_like()?;
        let masked = Tensor::cat(&[&grad.narrow(1, 0, 1)?, &zeros.narrow(1, 0, 2)?], 1)?;
        let expected = |table: &Tensor| {
            let ids = CheckedIds::new(&good, Table::Tokens, 6, &Device::Cpu)?;
            Ok::<_, Error>(Gather { ids }.bwd(table, table, table, &masked)?.0)
        };
        let (wte_there, wpe_there) = (Var::from_tensor(&on(&cuda, &wte)?)?, Var::from_tensor(&on(&cuda, &wpe)?)?);
        let noted = |table, n_rows| CheckedIds::noted(&on(&cuda, &bad)?, table, (n_rows, &cuda), &checks);
        let ids = noted(Table::Tokens, 6)?;
        let places = Places::Given(noted(Table::Positions, 5)?).for_ids(&ids)?;
        let op = GatherAdd { places, ids: ids.clone() };
        let grad = on(&cuda, &grad)?;
        let (of_wte, of_wpe, _) = op.bwd(&wte_there, &wpe_there, ids.tensor(), &grad, &grad)?;
        match (of_wte, expected(&wte)?, of_wpe) {
            (Some(found), Some(expected), Some(of_wpe)) => {
                same(&found, &expected, "wte")?;
                // All three are outside a table of five rows.
                same(&of_wpe, &Tensor::zeros((5, 24), dtype, &Device::Cpu)?, "wpe")?;
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

/// From the outside: ids on the host and on the device, positions in each form, into a buffer, and the errors.
#[test]
fn the_layer_stands_on_them() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        let (wte, wpe) = (shifted(11, 24, 0, dtype, 1)?, shifted(7, 24, 0, dtype, 2)?);
        let here = GptInputLayer::new(wte.clone(), wpe.clone())?;
        let there = GptInputLayer::new(on(&cuda, &wte)?, on(&cuda, &wpe)?)?;
        let ids = Tensor::new(&[[0u32, 10, 5, 5], [1, 1, 9, 2]], &Device::Cpu)?;
        let position_ids = Tensor::new(&[[6u32, 0, 1, 1], [3, 2, 2, 5]], &Device::Cpu)?;
        for ids_there in [ids.clone(), on(&cuda, &ids)?] {
            same(&there.forward(&ids_there)?, &here.forward(&ids)?, "forward")?;
            same(&there.forward_at(&ids_there, 3)?, &here.forward_at(&ids, 3)?, "from a start")?;
            let given = there.forward_at(&ids_there, &position_ids)?;
            same(&given, &here.forward_at(&ids, &position_ids)?, "position ids")?;
            let buffer = Tensor::zeros((2, 4, 24), dtype, &cuda)?;
            there.forward_into(&ids_there, 1, &buffer)?;
            same(&buffer, &here.forward_at(&ids, 1)?, "into a buffer")?;
        }
        let bad = Tensor::new(&[[0u32, 3], [11, 1]], &Device::Cpu)?;
        for bad in [bad.clone(), on(&cuda, &bad)?] {
            let error = there.forward(&bad).err();
            assert!(matches!(error, Some(Error::TokenOutOfRange { id: 11, vocab_size: 11, .. })), "{error:?}");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let (wte, wpe) = (shifted(6, 8, 0, DType::F32, 1)?, shifted(4, 7, 0, DType::F32, 2)?);
    let ids = CheckedIds::new(&Tensor::new(&[1u32, 2], &Device::Cpu)?, Table::Tokens, 6, &cuda)?;
    let places = Places::Counted { start: 0, t: 2 };
    let (wte, wpe) = (on(&cuda, &wte)?, on(&cuda, &wpe)?);
    let error = gather_add(&wte, &ids, &wpe, &places).err().map(|error| error.to_string());
    assert!(error.is_some_and(|text| text.contains("rows of 8 and of 7 cannot be added")));
    Ok(())
}
