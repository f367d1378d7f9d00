//! Each kernel against its twin on the CPU, bit for bit. They run on a GPU, or on the stand-in of `tests/cuda_host`; so only
//! kernels of ours and copies are used here, none of Candle's own.

use candle_core::{CustomOp2, CustomOp3, DType, Device, Storage, Tensor, Var};

use super::super::ops::{Gather, GatherAdd};
use super::super::tests::{bits, table};
use super::*;
use crate::GptInputLayer;
use crate::error::{Error, Result};
use crate::kernel::{CheckedIds, Places, Table, gather as gather_rows, gather_add, gather_add_into};

const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const ID_TYPES: [DType; 3] = [DType::U8, DType::U32, DType::I64];

/// A table `[n_rows, width]` that begins `lead` numbers into its memory.
fn shifted(n_rows: usize, width: usize, lead: usize, dtype: DType, seed: u32) -> Result<Tensor> {
    let flat = table(lead + n_rows * width, 1, dtype, seed)?.contiguous()?.flatten_all()?;
    // `narrow` after a copy, so that `lead` is all that decides the alignment.
    let flat = flat.force_contiguous()?;
    Ok(flat.narrow(0, lead, n_rows * width)?.reshape((n_rows, width))?)
}

/// Ids below `n_rows` of shape `[b, t]`, many of them equal, the last row among them.
fn draw(n_rows: usize, (b, t): (usize, usize), dtype: DType, seed: usize) -> Result<Tensor> {
    let id = |i: usize| match (i + seed) % 5 {
        0 => n_rows - 1,
        1 => 0,
        _ => (i.wrapping_mul(2_654_435_761) + seed) % n_rows,
    };
    let ids: Vec<u32> = (0..b * t).map(|i| id(i) as u32).collect();
    Ok(Tensor::from_vec(ids, (b, t), &Device::Cpu)?.to_dtype(dtype)?)
}

fn on(device: &Device, tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_device(device)?)
}

fn same(found: &Tensor, expected: &Tensor, what: &str) -> Result<()> {
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
    /// Numbers before the first of `wte`, `wpe`, the buffer.
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

        // The backward pass by hand: what leads up to it are Candle's own operations.
        let grad = shifted(b * t, width, leads.2, dtype, 13)?.reshape((b, t, width))?;
        let grad_there = on(cuda, &grad)?;
        let op = |i: usize| -> Result<GatherAdd> {
            Ok(GatherAdd { places: places[i].for_ids(&ids[i])?, on_host: ids[i].on_host().clone() })
        };
        let [here, there] = [(&wte, &wpe, &grad, 0), (&wte_there, &wpe_there, &grad_there, 1)].map(
            |(wte, wpe, grad, i)| -> Result<_> {
                let (wte, wpe) = (Var::from_tensor(wte)?, Var::from_tensor(wpe)?);
                let (wte_grad, wpe_grad, none) = op(i)?.bwd(&wte, &wpe, ids[i].tensor(), grad, grad)?;
                assert!(none.is_none());
                let gather = Gather { on_host: ids[i].on_host().clone() };
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
    let cuda = Device::new_cuda(0)?;
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
    let cuda = Device::new_cuda(0)?;
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

/// More rows than a grid has blocks for: each block takes several.
#[test]
fn more_rows_than_blocks() -> Result<()> {
    let cuda = Device::new_cuda(0)?;
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

#[test]
fn nothing_is_launched_for_nothing() -> Result<()> {
    let cuda = Device::new_cuda(0)?;
    for dtype in TYPES {
        for ids in [(0, 5), (3, 0), (0, 0)] {
            for given in [false, true] {
                let leads = (0, 0, 0);
                Case { dtype, id_dtype: DType::U32, rows: (7, 6), width: 5, ids, leads, given }.check(&cuda)?;
            }
        }
    }
    Ok(())
}

/// Ids that were not checked: rows of NaN, a flag each, and all other rows as ever.
#[test]
fn ids_outside_their_table_give_nan_and_a_flag() -> Result<()> {
    let cuda = Device::new_cuda(0)?;
    let Device::Cuda(device) = &cuda else { panic!("not a CUDA device") };
    let (v, p, t) = (6, 4, 3);
    let good = [5i64, 0, 2];
    for dtype in TYPES {
        for width in [8, 7, 100] {
            let (wte, wpe) = (shifted(v, width, 0, dtype, 1)?, shifted(p, width, 0, dtype, 2)?);
            let ids = Tensor::new(&good, &Device::Cpu)?;
            let ids = CheckedIds::new(&ids, Table::Tokens, v, &Device::Cpu)?;
            let expected = bits(&gather_add(&wte, &ids, &wpe, &Places::Counted { start: 0, t })?)?;
            let (wte, wpe) = (on(&cuda, &wte)?, on(&cuda, &wpe)?);
            let run = |ids: Tensor, places: PlacesOf| -> Result<(Vec<u64>, Vec<f64>, Vec<u32>)> {
                let mut flags = device.alloc_zeros::<u32>(2)?;
                let (wte, l1) = wte.storage_and_layout();
                let (wpe, l2) = wpe.storage_and_layout();
                let (ids, l3) = ids.storage_and_layout();
                let (Storage::Cuda(wte), Storage::Cuda(wpe), Storage::Cuda(ids)) = (&*wte, &*wpe, &*ids) else {
                    panic!("not on the device")
                };
                let positions = Some(((wpe, l2), &places));
                let out = by_dtype!(wte, E => {
                    let mut out = device.alloc_zeros::<E>(t * width)?;
                    let mut flags = flags.as_view_mut();
                    launch_gather::<E>(&mut out.as_view_mut(), (wte, l1), (ids, l3), positions, Some(&mut flags))?;
                    Tensor::from_vec(device.clone_dtoh(&out)?, (t, width), &Device::Cpu)
                })?;
                let numbers = out.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
                Ok((bits(&out)?, numbers, device.clone_dtoh(&flags)?))
            };
            let check = |ids: Tensor, places: PlacesOf, bad: &[usize], flags: [u32; 2]| -> Result<()> {
                let what = format!("{dtype:?} {width} {bad:?} {ids:?}");
                let (found, numbers, raised) = run(on(&cuda, &ids)?, places)?;
                assert_eq!(raised, flags, "{what}");
                for (i, &number) in numbers.iter().enumerate() {
                    match bad.contains(&(i / width)) {
                        true => assert!(number.is_nan(), "{what}: {i}"),
                        false => assert_eq!(found[i], expected[i], "{what}: {i}"),
                    }
                }
                Ok(())
            };
            let counted = || PlacesOf::Start(0);
            check(Tensor::new(&good, &Device::Cpu)?, counted(), &[], [0, 0])?;
            for bad in [6i64, 7, -1, i64::MIN, i64::MAX, 1 << 32, (1 << 32) + 5] {
                check(Tensor::new(&[5, bad, 2], &Device::Cpu)?, counted(), &[1], [1, 0])?;
            }
            check(Tensor::new(&[5u32, u32::MAX, 6], &Device::Cpu)?, counted(), &[1, 2], [1, 0])?;
            check(Tensor::new(&[255u8, 0, 6], &Device::Cpu)?, counted(), &[0, 2], [1, 0])?;
            // The last row is beyond the position table: nothing before it is.
            for (places, bad) in [(vec![0u32, 1, 4], 2), (vec![u32::MAX, 1, 2], 0)] {
                let on_host = Tensor::new(places, &Device::Cpu)?;
                let places = PlacesOf::Ids { on_device: on(&cuda, &on_host)?, on_host };
                check(Tensor::new(&good, &Device::Cpu)?, places, &[bad], [0, 1])?;
            }
            let (_, numbers, raised) = run(on(&cuda, &Tensor::new(&good, &Device::Cpu)?)?, PlacesOf::Start(2))?;
            assert_eq!(raised, [0, 1]);
            assert!(numbers[2 * width..].iter().all(|number| number.is_nan()));
            assert!(numbers[..2 * width].iter().all(|number| !number.is_nan()));
        }
    }
    Ok(())
}

/// From the outside: ids on the host and on the device, positions in each form, into a buffer, and the errors.
#[test]
fn the_layer_stands_on_them() -> Result<()> {
    let cuda = Device::new_cuda(0)?;
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
    let cuda = Device::new_cuda(0)?;
    let (wte, wpe) = (shifted(6, 8, 0, DType::F32, 1)?, shifted(4, 7, 0, DType::F32, 2)?);
    let ids = CheckedIds::new(&Tensor::new(&[1u32, 2], &Device::Cpu)?, Table::Tokens, 6, &cuda)?;
    let places = Places::Counted { start: 0, t: 2 };
    let (wte, wpe) = (on(&cuda, &wte)?, on(&cuda, &wpe)?);
    let error = gather_add(&wte, &ids, &wpe, &places).err().map(|error| error.to_string());
    assert!(error.is_some_and(|text| text.contains("rows of 8 and of 7 cannot be added")));
    Ok(())
}
