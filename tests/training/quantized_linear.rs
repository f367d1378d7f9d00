//! Linear layers on GGUF's blocks against layers on their elements.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_gpt_input::Result;
use candle_gpt_input::nn::{Linear, QuantizedLinear};

use crate::support::{assert_bits_eq, assert_close};

fn numbers(n_rows: usize, width: usize, step: f64) -> Result<Tensor> {
    let counted = Tensor::arange(0f32, (n_rows * width) as f32, &Device::Cpu)?;
    Ok(counted.affine(step, 0.0)?.sin()?.reshape((n_rows, width))?)
}

#[test]
fn a_layer_on_blocks_is_one_on_their_elements() -> Result<()> {
    for block_type in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q6K] {
        let weight = QTensor::quantize(&numbers(37, 512, 0.7)?, block_type)?;
        let (elements, bias) = (weight.dequantize(&Device::Cpu)?, numbers(1, 37, 0.3)?.squeeze(0)?);
        for bias in [None, Some(bias)] {
            let ours = QuantizedLinear::new(&weight, bias.clone(), DType::F32, &Device::Cpu)?;
            let theirs = Linear::new(elements.clone(), bias.clone())?;
            for n in [1, 2, 9, 16] {
                let x = numbers(n, 512, 0.11)?.reshape((n, 1, 512))?;
                let y = ours.forward(&x)?;
                assert_eq!(y.dims(), [n, 1, 37]);
                assert_bits_eq(&y, &theirs.forward(&x)?);
                assert_bits_eq(&ours.forward(&x.narrow(0, n - 1, 1)?)?, &y.narrow(0, n - 1, 1)?.contiguous()?);
            }
            let x = Var::from_tensor(&numbers(3, 512, 0.11)?)?;
            let gradient =
                |y: Tensor| -> Result<Tensor> { Ok(y.sqr()?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
            assert_bits_eq(&gradient(ours.forward(&x)?)?, &gradient(theirs.forward(&x)?)?);
            for dtype in [DType::F16, DType::BF16] {
                let bias = bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?;
                let x = numbers(3, 512, 0.11)?.to_dtype(dtype)?;
                let half = QuantizedLinear::new(&weight, bias.clone(), dtype, &Device::Cpu)?.forward(&x)?;
                let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
                let wide = Linear::new(elements.clone(), bias)?.forward(&x.to_dtype(DType::F32)?)?;
                // Rounded once.
                assert_bits_eq(&half, &wide.to_dtype(dtype)?);
            }
            let wide = |y: Tensor| y.to_dtype(DType::F64);
            let bias = bias.map(wide).transpose()?;
            let x = numbers(3, 512, 0.11)?.to_dtype(DType::F64)?;
            let y = QuantizedLinear::new(&weight, bias.clone(), DType::F64, &Device::Cpu)?.forward(&x)?;
            assert_close("f64", &y, &Linear::new(wide(elements.clone())?, bias)?.forward(&x)?, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let weight = QTensor::quantize(&numbers(3, 64, 0.7)?, GgmlDType::Q8_0)?;
    let new = |bias, dtype| QuantizedLinear::new(&weight, bias, dtype, &Device::Cpu);
    let text = |result: Result<QuantizedLinear>| result.unwrap_err().to_string();
    let bias = Tensor::zeros(3, DType::F16, &Device::Cpu)?;
    assert_eq!(text(new(Some(bias.clone()), DType::F32)), "bias has dtype F16, but weight has F32");
    assert_eq!(text(new(Some(bias.narrow(0, 0, 2)?), DType::F16)), "bias has shape [2], expected [3]");
    assert!(text(new(None, DType::U32)).starts_with("x must be f32, f64, f16 or bf16, not U32"));
    let x = Tensor::zeros((1, 63), DType::F16, &Device::Cpu)?;
    let error = new(Some(bias), DType::F16)?.forward(&x).unwrap_err().to_string();
    assert!(error.contains("x has shape [1, 63], expected [.., 64]"), "{error}");
    Ok(())
}
