//! The memory of sums of gradients over ranks.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::Result;
use candle_gpt_input::optim::{GradSum, RowGrad};
use candle_gpt_input::ranks::{Parts, Ranks};

/// Rank 0 of two, of which the other sends the same.
#[derive(Debug)]
struct Mirror;

impl Ranks for Mirror {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        received.resize([sent.get(0).len(); 2]);
        received.bytes_mut().chunks_mut(sent.get(0).len().max(1)).for_each(|part| part.copy_from_slice(sent.get(0)));
        Ok(())
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        received.resize([sent.len(); 2]);
        received.bytes_mut().chunks_mut(sent.len().max(1)).for_each(|part| part.copy_from_slice(sent));
        Ok(())
    }
}

#[test]
fn memory_holds_the_sums_and_two_buckets() {
    // A table of 32 MB, which is two buckets, with rows if it is tied, and one of 8 MB.
    const MB: usize = 1 << 20;
    let (large, small, buckets) = (32 * MB, 8 * MB, 32 * MB);
    let gradients = large + small;
    let of = |n_bytes: usize| Var::zeros((n_bytes / 32, 8), DType::F32, &Device::Cpu).unwrap();
    let vars = [of(large), of(small)];
    // Micro-batches, whether the large table has rows too, the most bytes: of gradients added and of what is summed.
    for (n_micro, is_tied, most) in [
        // The only gradient is the caller's, so its sum is apart. Rows make a table of their own, before the buckets.
        (1, false, gradients + large + buckets),
        (1, true, gradients + large + small),
        // Two of the caller's are added in new memory, four and more over sums.
        (2, false, 2 * gradients + large),
        (4, false, 3 * gradients + large),
        (8, false, 4 * gradients + large),
    ] {
        let (step, peak) = crate::peak(|| -> Result<_> {
            let mut sum = GradSum::new(vars.to_vec())?;
            for _ in 0..n_micro {
                let mut grads = GradStore::default();
                for var in &vars {
                    grads.insert(var, Tensor::ones(var.shape(), DType::F32, &Device::Cpu)?);
                }
                let ids = Tensor::new(&[0u32], &Device::Cpu)?;
                let rows = RowGrad::new(&vars[0], &ids, &Tensor::ones((1, 8), DType::F32, &Device::Cpu)?)?;
                sum.add(grads, if is_tied { vec![rows] } else { vec![] }, 0.0, 1)?;
            }
            sum.finish(&Mirror)
        });
        let step = step.unwrap();
        for var in &vars {
            let grad = step.grads.get(var).unwrap().narrow(0, 1, 1).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(grad, [[1.0; 8]]);
        }
        assert!(peak < most + MB, "{n_micro} micro-batches, tied: {is_tied}: {} of {} MB", peak / MB, most / MB);
    }
}
